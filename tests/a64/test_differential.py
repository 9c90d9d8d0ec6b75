"""Our table against GNU objdump, llvm-mc and GNU as (Debian packages): every difference is explained below."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy
import pytest

from a64patch.a64 import predicates
from a64patch.a64.assembler import assemble_one
from a64patch.a64.disassembler import disassemble
from a64patch.a64.encodings import TABLE, Encoding
from a64patch.a64.predicates import InsnClass, Predicate, decode, get_insn_class
from tests.a64 import simd_texts
from tests.a64.references import gnu_as, llvm_mc, objdump
from tests.a64.test_system_registers import register_explained

START = 0x10000000
MNEMONICS = {re.split(r"[ {<]", text)[0].rstrip(".") for row in TABLE for text in row.texts}

# Features newer than Debian 12's GNU binutils 2.40 and LLVM 14: there the word has a more general name or none.
NEWER_THAN = {
    "objdump": {
        "FEAT_CMH", "FEAT_OCCMO", "FEAT_PoPS", "FEAT_TLBIW", "FEAT_RME_GPC3", "FEAT_D128", "FEAT_SYSREG128",
        "FEAT_SYSINSTR128", "FEAT_MTETC",
        "FEAT_CMPBR", "FEAT_PAuth_LR", "FEAT_ITE", "FEAT_ATS1A", "FEAT_MEC", "FEAT_SPECRES2", "FEAT_GCS", "FEAT_CHK",
        "FEAT_LRCPC3", "FEAT_LSE128", "FEAT_THE", "FEAT_RPRFM", "FEAT_CPA", "FEAT_PCDPHINT", "FEAT_XS", "FEAT_DGH",
        "FEAT_BRBE", "FEAT_EBEP", "FEAT_NMI",
    },
    "llvm-mc": {
        "FEAT_CMH", "FEAT_OCCMO", "FEAT_PoPS", "FEAT_TLBIW", "FEAT_RME_GPC3", "FEAT_D128", "FEAT_SYSREG128",
        "FEAT_SYSINSTR128", "FEAT_MTETC",
        "FEAT_CMPBR", "FEAT_PAuth_LR", "FEAT_ITE", "FEAT_ATS1A", "FEAT_MEC", "FEAT_SPECRES2", "FEAT_GCS", "FEAT_CHK",
        "FEAT_LRCPC3", "FEAT_LSE128", "FEAT_THE", "FEAT_RPRFM", "FEAT_CPA", "FEAT_CSSC", "FEAT_PCDPHINT",
        "FEAT_CLRBHB", "FEAT_RME", "FEAT_EBEP", "FEAT_NMI",
    },
}  # fmt: skip
GENERAL = ("", ".inst", "sys", "sysl", "hint", "msr", "udf", "dsb", "prfm")
"""What a reference says of a word whose own name it does not know."""


def looser(reference: str, word: int, text: str) -> str:
    """Why the reference has a name for a word that no row of ours claims; "" when there is no reason."""
    mnemonic = text.split()[0]
    if mnemonic in ("msr", "mrs") and word >> 19 & 3 < 2:
        return "op0 of 0 or 1 is no register (C5.1.2); both references print s0_… for want of anything better"
    if reference == "llvm-mc" and mnemonic in ("xaflag", "axflag", "sb", "cfinv"):
        return "LLVM ignores CRm, which the manual fixes to 0 (C6.2)"
    if mnemonic in ("stxr", "stlxr", "ldxr", "ldaxr", "ldxp", "ldaxp") or re.fullmatch(r"(st|ld)[la]?xr[bh]", mnemonic):
        return "bits that the manual prints as (1) are not 1: CONSTRAINED UNPREDICTABLE (C6.2, LDXR)"
    if re.fullmatch(r"(ld|st)ll?a?r[bh]?|[su]mulh|casp?a?l?[bh]?|(ld|st)[la]+r[bh]?", mnemonic):
        return "bits that the manual prints as (1) are not 1: CONSTRAINED UNPREDICTABLE (C6.2, STLR, SMULH)"
    if mnemonic in ("addg", "subg"):
        return "LLVM ignores op3, which the manual fixes to 0 (C6.2, ADDG)"
    if mnemonic in ("ld64b", "st64b", "st64bv", "st64bv0"):
        return "eight registers from Xt on do not exist: UNDEFINED (C6.2, LD64B)"
    if reference == "llvm-mc" and re.match(r"msr (spsel|dit|tco), ", text.lower()):
        return "LLVM 14 takes four bits for a flag of one; objdump and our table take one"
    return ""


def plain(text: str, reference: str, row: Encoding, address: int) -> str:
    """The text in one form whoever printed it: numbers in decimal, labels as addresses, aliases as we spell them."""
    text = text.lower().replace("#", "").replace(" csync", "_csync")
    text = re.split(r"\s*//", text)[0].strip()
    relative = row.literal or "branch_imm" in row.families or row.name in ("adr", "adrp")
    if relative and reference == "objdump":
        text = re.sub(r"([0-9a-f]+)$", r"0x\1", re.sub(r"0x([0-9a-f]+)$", r"\1", text))
    elif relative and reference == "llvm-mc":
        base = address & ~4095 if row.name == "adrp" else address
        text = re.sub(r"(-?(?:0x)?[0-9a-f]+)$", lambda m: f"{(base + int(m[1], 0)) % (1 << 64):#x}", text)
    text = simd_texts.expanded(text)
    text = re.sub(r"(?<![\w.])-?0x[0-9a-f]+|(?<![\w.])-?\d+(?![\w])", lambda m: str(int(m[0], 0) % (1 << 64)), text)
    if row.name.startswith(("movz.w", "movn.w")):
        text = re.sub(r"\b(\d+)$", lambda m: str(int(m[1]) % (1 << 32)), text)
    return re.sub(r"\s*,\s*", ",", re.sub(r"\s+", " ", text))


def respelled(text: str) -> str:
    """The text as we spell it, where a reference prints another name for the same."""
    text = re.sub(r"^clearbhb$", "clrbhb", text)
    text = re.sub(r"^subps xzr,", "cmpp ", text)
    text = re.sub(r"\bhs\b", "cs", text)
    text = re.sub(r"^(ldra[ab] .*),0\]!$", r"\1]!", text)
    return re.sub(r"\blo\b", "cc", text)


def explained(reference: str, word: int, row: Encoding, text: str) -> str:
    """Why the reference's text for a word of our table is another one; "" when there is no reason."""
    mnemonic = text.split()[0] if text else ""
    if row.feature in NEWER_THAN[reference] and mnemonic in GENERAL:
        return f"{row.feature} is newer than this {reference}"
    if simd_texts.otherwise(reference, row, text):
        return simd_texts.otherwise(reference, row, text)
    if row.name in ("mrs", "msr_reg"):
        return register_explained(reference, word, text)
    if row.name.startswith(("and_imm", "orr_imm", "eor_imm", "ands_imm")):
        return "immr is not the one that an assembler makes for this constant, so the text would be another word"
    if "mops" in row.families:
        return "registers that must differ are the same, or SP: UNDEFINED (C6.2, CPYP)"
    if row.name.startswith("ldpsw") and len({word & 31, word >> 10 & 31, word >> 5 & 31}) < 3:
        return "one register is loaded twice or written back to: CONSTRAINED UNPREDICTABLE (C6.2, LDPSW)"
    if row.name in ("prfm_lit", "prfm_imm", "prfm_reg", "prfum") and word >> 1 & 3 == 3:
        return "the system level cache (FEAT_PRFMSLC) is newer"
    if row.name == "sys" and mnemonic in ("tlbi", "ic") and "," not in text:
        return "an operation without register whose Rt is not 31: the references drop Rt, so their text is another word"
    if row.name.startswith("bfm.") and mnemonic == "bfc":
        return "LLVM writes BFXIL from the zero register as BFC; the manual keeps BFC for imms < immr (C6.2, BFC)"
    if row.name == "udf" and mnemonic in ("udf", ".inst", ""):
        return "UDF has a name since binutils 2.36 and LLVM 9"
    return ""


def _is_vector(word: int) -> bool:
    """SVE, SME, and SIMD and FP, whose rows have tests of their own."""
    kind = get_insn_class(word)
    vector = (InsnClass.SVE, InsnClass.SME, InsnClass.DP_FPSIMD)
    return kind in vector or (kind == InsnClass.LDST and bool(word >> 26 & 1))


def differences(words: list[int], reference: str) -> Counter[str]:
    """The differences that nothing explains, counted, each with an example."""
    texts = objdump(words, START) if reference == "objdump" else llvm_mc(words)
    found: Counter[str] = Counter()
    for number, (word, text) in enumerate(zip(words, texts, strict=True)):
        row, address = decode(word), START + 4 * number
        if text.startswith((".inst", "undefined")):
            text = ""
        if row is None:
            mnemonic = text.split()[0].partition(".")[0].lower() if text else ""
            ours = mnemonic in MNEMONICS and not _is_vector(word)
            if ours and not looser(reference, word, text):
                found[f"{word:#010x}: no row, {reference} says {text}"] += 1
            continue
        mine = plain(disassemble(word, address), "", row, address)
        theirs = respelled(plain(text, reference, row, address))
        if mine != theirs and not explained(reference, word, row, text):
            found[f"{word:#010x}: {row.name} is {mine!r}, {reference} says {theirs!r}"] += 1
    return found


def samples(row: Encoding, count: int) -> list[int]:
    """Words of a row: fields at their borders, then random."""
    source = random.Random(row.name)
    free = ~row.mask & 0xFFFFFFFF
    return [row.value, row.value | free] + [row.value | source.getrandbits(32) & free for _ in range(count - 2)]


@pytest.mark.parametrize("reference", ["objdump", "llvm-mc"])
def test_every_row_against_reference(reference: str) -> None:
    words = [word for row in TABLE for word in samples(row, 40)]
    assert list(differences(words, reference)) == []


@pytest.mark.parametrize("reference", ["objdump", "llvm-mc"])
def test_every_system_word_against_reference(reference: str) -> None:
    words = [0xD5000000 | number << 5 | rt for number in range(1 << 18) for rt in (0, 31)]
    assert list(differences(words, reference)) == []


@pytest.mark.parametrize("reference", ["objdump", "llvm-mc"])
def test_million_random_words_against_reference(reference: str) -> None:
    words = numpy.random.default_rng(20261122).integers(0, 1 << 32, 1_000_000, dtype=numpy.uint32)
    assert list(differences(words.tolist(), reference)) == []


def near_misses(words: list[int]) -> list[int]:
    """Each word with each one of its bits flipped."""
    return [word ^ 1 << bit for word in words for bit in range(32)]


PREDICATES: dict[str, str] = {
    "is_b": r"b [0-9a-f]",
    "is_bl": r"bl [0-9a-f]",
    "is_bcond": r"b\.",
    "is_bccond": r"bc\.",
    "is_cbz": r"cbz ",
    "is_cbnz": r"cbnz ",
    "is_tbz": r"tbz ",
    "is_tbnz": r"tbnz ",
    "is_br": r"br ",
    "is_blr": r"blr ",
    "is_ret": r"ret\b",
    "is_br_auth": r"bra[ab]z? ",
    "is_blr_auth": r"blra[ab]z? ",
    "is_eret": r"eret$",
    "is_eret_auth": r"ereta[ab]$",
    "is_drps": r"drps$",
    "is_branch_imm": r"(b|bl|bc?\.\w\w|cbn?z|tbn?z) ",
    "is_svc": r"svc ",
    "is_hvc": r"hvc ",
    "is_smc": r"smc ",
    "is_brk": r"brk ",
    "is_hlt": r"hlt ",
    "is_udf": r"udf ",
    "is_dcps1": r"dcps1",
    "is_dcps2": r"dcps2",
    "is_dcps3": r"dcps3",
    "is_dcps": r"dcps",
    "is_exception": r"(svc|hvc|smc|brk|hlt|udf|dcps\d|tcancel)\b",
    "is_nop": r"nop$",
    "is_yield": r"yield$",
    "is_wfe": r"wfe$",
    "is_wfi": r"wfi$",
    "is_sev": r"sev$",
    "is_sevl": r"sevl$",
    "is_xpaclri": r"xpaclri$",
    "is_pacia1716": r"pacia1716$",
    "is_pacib1716": r"pacib1716$",
    "is_autia1716": r"autia1716$",
    "is_autib1716": r"autib1716$",
    "is_esb": r"esb$",
    "is_psb_csync": r"psb csync$",
    "is_tsb_csync": r"tsb csync$",
    "is_csdb": r"csdb$",
    "is_clrbhb": r"clearbhb$",
    "is_paciaz": r"paciaz$",
    "is_paciasp": r"paciasp$",
    "is_pacibz": r"pacibz$",
    "is_pacibsp": r"pacibsp$",
    "is_autiaz": r"autiaz$",
    "is_autiasp": r"autiasp$",
    "is_autibz": r"autibz$",
    "is_autibsp": r"autibsp$",
    "is_bti": r"bti\b",
    "is_hint": r"(hint|nop|yield|wfe|wfi|sevl?|xpaclri|(pac|aut)i[ab](1716|z|sp)|esb|psb|tsb|csdb|clearbhb|bti)( |$)",
    "is_steppable_hint": r"(nop|xpaclri|paci[ab](1716|z|sp)|bti)( |$)",
    "is_isb": r"isb\b",
    "is_dmb": r"dmb ",
    "is_sb": r"sb$",
    "is_ssbb": r"ssbb$",
    "is_pssbb": r"pssbb$",
    "is_clrex": r"clrex\b",
    "is_sysl": r"sysl ",
    "is_ic": r"ic (ialluis|iallu|ivau, \w+)$",
    "is_mrs": r"mrs x\d+|mrs xzr",
    "is_adr": r"adr x",
    "is_adrp": r"adrp ",
    "is_adr_adrp": r"(adr x|adrp )",
    "is_ldr_lit": r"ldr [wx]\w+, (0x)?[0-9a-f]+$",
    "is_ldrsw_lit": r"ldrsw \w+, (0x)?[0-9a-f]+$",
    "is_prfm_lit": r"prfm [^,]+, (0x)?[0-9a-f]+$",
    "is_ldr_fp_lit": r"ldr [sdq]\w+, (0x)?[0-9a-f]+$",
    "is_load_ex": r"ld(x|ax)(r[bh]?|p) ",
    "is_store_ex": r"st(x|lx)(r[bh]?|p) ",
    "is_exclusive": r"(st(x|lx)|ld(x|ax))(r[bh]?|p) ",
}
"""Predicates of ours and what objdump's text of their words begins with."""


@pytest.fixture(scope="module")
def seen_by_objdump() -> tuple[list[int], list[str]]:
    """Samples of every row, all their near misses, and random words, with objdump's texts."""
    sampled = [word for row in TABLE for word in samples(row, 6)]
    random_words = numpy.random.default_rng(7).integers(0, 1 << 32, 200_000, dtype=numpy.uint32).tolist()
    words = sorted({*sampled, *near_misses(sampled), *random_words})
    return words, objdump(words)


@pytest.mark.parametrize("name", PREDICATES)
def test_predicate_is_true_for_what_objdump_calls_so(name: str, seen_by_objdump: tuple[list[int], list[str]]) -> None:
    words, texts = seen_by_objdump
    predicate: Predicate = getattr(predicates, name)
    known = predicate(numpy.array(words, numpy.uint32))
    assert known.any(), "the words must try this predicate"
    wrong = []
    for word, text, answer in zip(words, texts, known.tolist(), strict=True):
        if bool(re.match(PREDICATES[name], text)) != answer and not _predicate_explained(word, text, answer):
            wrong.append(f"{word:#010x} {text}: {name} says {answer}")
    assert wrong == []


def _predicate_explained(word: int, text: str, answer: bool) -> bool:
    row = decode(word)
    if row is not None:
        return bool(explained("objdump", word, row, text))
    return not answer and bool(looser("objdump", word, text))


def test_assembler_gives_the_word_of_gnu_as() -> None:
    sampled = [(word, decode(word)) for row in TABLE if not _relative(row) for word in samples(row, 20)]
    known = [word for word, row in sampled if row is not None and row.feature not in NEWER_THAN["objdump"]]
    words = [word for word in known if "slc" not in disassemble(word)]
    texts = [disassemble(word) for word in words]
    assert gnu_as([text.replace("clrbhb", "clearbhb") for text in texts]) == words
    assert [assemble_one(text) for text in texts] == words


def _relative(row: Encoding) -> bool:
    """GNU as makes a relocation of a bare address, so labels are compared in test_generate.py, by distance."""
    return row.literal or bool({"branch_imm", "adr", "adrp"} & set(row.families))

"""Our table against GNU objdump, llvm-mc and GNU as (Debian packages): judges.py explains every difference."""

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
from a64patch.a64.predicates import InsnClass, Predicate, classify, decode, get_insn_class
from tests.a64.judges import explained, gnu_as_reads
from tests.a64.references import gnu_as, llvm_mc, objdump
from tests.a64.spelling import plain, respelled
from tests.support import rounds

START = 0x10000000
MNEMONICS = {re.split(r"[ {<]", text)[0].rstrip(".") for row in TABLE for text in row.texts}


def _is_vector(word: int) -> bool:
    """SVE, SME, and SIMD and FP, whose rows have tests of their own."""
    kind = get_insn_class(word)
    vector = (InsnClass.SVE, InsnClass.SME, InsnClass.DP_FPSIMD)
    return kind in vector or (kind == InsnClass.LDST and bool(word >> 26 & 1))


def differences(words: list[int], reference: str) -> Counter[str]:
    """The differences that nothing explains, counted, each with an example."""
    texts = objdump(words, START) if reference == "objdump" else llvm_mc(words)
    found: Counter[str] = Counter()
    indices = classify(numpy.array(words, numpy.uint32)).tolist()
    for number, (word, text, index) in enumerate(zip(words, texts, indices, strict=True)):
        row, address = TABLE[index] if index >= 0 else None, START + 4 * number
        if row is None:
            mnemonic = plain(text, reference, None, 0).partition(" ")[0].partition(".")[0]
            ours = mnemonic in MNEMONICS and not _is_vector(word)
            if ours and not explained(reference, word, row, text):
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
    # Rt is 31 in all words without a register. Of those with one, the others are a share.
    words = [0xD500001F | number << 5 for number in range(1 << 18)]
    words += [0xD5000000 | number << 5 for number in range(0, 1 << 18, rounds(1, 5))]
    assert list(differences(words, reference)) == []


@pytest.mark.parametrize("reference", ["objdump", "llvm-mc"])
def test_random_words_against_reference(reference: str) -> None:
    count = rounds(1_000_000, 200_000)
    words = numpy.random.default_rng(20261122).integers(0, 1 << 32, count, dtype=numpy.uint32)
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
    "is_clrbhb": r"cl(ea)?rbhb$",
    "is_paciaz": r"paciaz$",
    "is_paciasp": r"paciasp$",
    "is_pacibz": r"pacibz$",
    "is_pacibsp": r"pacibsp$",
    "is_autiaz": r"autiaz$",
    "is_autiasp": r"autiasp$",
    "is_autibz": r"autibz$",
    "is_autibsp": r"autibsp$",
    "is_bti": r"bti\b",
    "is_hint": r"(hint|nop|yield|wfe|wfi|sevl?|xpaclri|(pac|aut)i[ab](1716|z|sp)|esb|psb|tsb|gcsb|csdb|cl(ea)?rbhb|bti"
    r"|chkfeat)( |$)",
    "is_steppable_hint": r"(nop|xpaclri|paci[ab](1716|z|sp)|bti)( |$)",
    "is_isb": r"isb\b",
    "is_dmb": r"dmb ",
    "is_sb": r"sb$",
    "is_ssbb": r"ssbb$",
    "is_pssbb": r"pssbb$",
    "is_clrex": r"clrex\b",
    "is_sysl": r"(sysl|gcspopm|gcsss2)\b",
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
    return bool(explained("objdump", word, row, text)) and (row is not None or not answer)


def test_assembler_gives_the_word_of_gnu_as() -> None:
    sampled = [(word, decode(word)) for row in TABLE if not relative(row) for word in samples(row, 20)]
    words = [word for word, row in sampled if row is not None and gnu_as_reads(word, row)]
    texts = [disassemble(word) for word in words]
    assert gnu_as([text.replace("clrbhb", "clearbhb") for text in texts]) == words
    assert [assemble_one(text) for text in texts] == words


def relative(row: Encoding) -> bool:
    """GNU as makes a relocation of a bare address, so labels are compared in test_generate.py, by distance."""
    return row.literal or bool({"branch_imm", "adr", "adrp"} & set(row.families))

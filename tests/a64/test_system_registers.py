"""System registers: the table's own rules, and its names against GNU objdump, llvm-mc and GNU as (Debian packages)."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from a64patch.a64.assembler import assemble_one
from a64patch.a64.disassembler import disassemble
from a64patch.a64.system_registers import (
    Code,
    codes,
    readable_names,
    system_registers,
    wide_names,
    writable_names,
)
from a64patch.errors import AssemblyError
from tests.a64.references import gnu_as, llvm_mc, objdump

NEWER_REGISTERS = {
    "FEAT_AIE": r"a?mair2_el\d+",
    "FEAT_Debugv8p9": r"mdselr_el1",
    "FEAT_E3DSE": r"v(disr|sesr)_el3",
    "FEAT_EBEP, FEAT_SEBEP": r"pm|pm(ecr|iar)_el1",
    "FEAT_FGT2": r"hd?fg[rwi]tr2_el2",
    "FEAT_FGWTE3": r"fgwte3_el3",
    "FEAT_FPMR": r"fpmr|id_aa64fpfr0_el1",
    "FEAT_GCS": r"gcs(cr|pr|cre0)_el\d+",
    "FEAT_HACDBS": r"hacdbs(br|cons)_el2",
    "FEAT_HDBSS": r"hdbss(br|prod)_el2",
    "FEAT_ITE": r"trcit(ecr_el\d+|eedcr)",
    "FEAT_MEC": r"mecidr_el2|v?mecid_(p|a|p0|a0|p1|a1|rl_a)_el[23]",
    "FEAT_MPAM_PE_BW_CTRL": r"mpambw(\d|cap|idr|sm)_el\d+",
    "FEAT_PFAR": r"pfar_el\d+",
    "FEAT_PMUv3_ICNTR": r"pmic(ntr|filtr)_el0",
    "FEAT_PMUv3_SS": r"pm(ccnt|icnt|evcnt)svr\d*_el1|pmsscr_el1",
    "FEAT_PMUv3p9": r"pmuacr_el1|pmzr_el0",
    "FEAT_RASv2": r"erxgsr_el1",
    "FEAT_RME_GPC3": r"gpcbw_el3",
    "FEAT_S1PIE, FEAT_S2PIE": r"(s2)?pir(e0)?_el\d+",
    "FEAT_S1POE, FEAT_S2POE": r"(s2)?por_el\d+",
    "FEAT_SCTLR2": r"sctlr2_el\d+",
    "FEAT_SPE_EXC": r"pmbmar_el1|pmbsr_el(12|2|3)",
    "FEAT_SPE_FDS": r"pmsdsfr_el1",
    "FEAT_SPMU": r"spm[a-z]\w+",
    "FEAT_SRMASK": r"(sctlr2?|actlr|cpacr|cptr|tcr2?)(mask|alias)_el\d+|actlr_el12",
    "FEAT_STEP2": r"mdstepop_el1",
    "FEAT_TCR2": r"tcr2_el\d+",
    "FEAT_THE": r"rcws?mask_el1",
    "FEAT_TRBE_EXC": r"trbsr_el(12|2|3)",
    "FEAT_TRBE_MPAM": r"trbmpam_el1",
    "ID registers of 2022": r"id_aa64(dfr2|isar3|mmfr[34]|pfr2)_el1",
}
"""Registers newer than binutils 2.40 and LLVM 14, by the feature that brought them."""

UNKNOWN_TO_LLVM = {
    "Armv8-R": r"mpuir_el[12]|pr[bl]ar\d*_el[12]|prenr_el[12]|prselr_el[12]",
    "FEAT_AMUv1p1": r"amcg1idr_el0",
    "FEAT_FGT for FEAT_AMUv1": r"hafgrtr_el2",
    "FEAT_NMI": r"allint|icc_nmiar1_el1",
    "ID register of FEAT_MTPMU": r"id_dfr1_el1",
}
"""Registers that binutils 2.40 knows and LLVM 14, with the features that the tests ask for, does not."""

WITHDRAWN = {
    "objdump": (r"csr(cr|ptr|ptridx|idr)_el\d+", "FEAT_CSRE was withdrawn before it was published"),
    "llvm-mc": (r"cnt(scale|iscale|vfrq)_el2", "FEAT_ECV was published without these"),
}
WRITABLE_TO_LLVM = {"pmmir_el1", "cntpctss_el0", "cntvctss_el0"}
"""Read-only registers (D23.3) that LLVM 14 lets MSR write."""


def code_of(word: int) -> Code:
    """The register that an MRS or MSR reaches."""
    return 2 + (word >> 19 & 1), word >> 16 & 7, word >> 12 & 15, word >> 8 & 15, word >> 5 & 7


def name_in(text: str) -> str:
    """The register's name in a text of MRS or MSR; "" for a generic one or none."""
    match = re.fullmatch(r"mrs\s+\w+,\s*(\w+)|msr\s+(\w+),\s*\w+", text.lower())
    name = (match[1] or match[2]) if match else ""
    return "" if re.fullmatch(r"s\d_\d_c\d+_c\d+_\d", name) else name


def register_explained(reference: str, word: int, text: str) -> str:
    """Why a reference calls the register of an MRS or MSR otherwise than we do; "" when there is no reason."""
    theirs, code, reads = name_in(text), code_of(word), bool(word >> 21 & 1)
    mine = (readable_names() if reads else writable_names()).get(code, "")
    if not theirs:
        unknown = NEWER_REGISTERS | (UNKNOWN_TO_LLVM if reference == "llvm-mc" else {})
        features = [feature for feature, names in unknown.items() if re.fullmatch(names, mine)]
        return f"{reference} does not know {features[0]}" if features else ""
    if mine:
        if reference == "llvm-mc" and theirs == "trcextinselr":
            return "the name that it had when there was only one"
        return ""
    pattern, why = WITHDRAWN[reference]
    if re.fullmatch(pattern, theirs):
        return why
    if (writable_names() if reads else readable_names()).get(code) == theirs:
        if reference == "objdump":
            return "objdump names a register whatever the access, and says so in a note"
        if theirs in WRITABLE_TO_LLVM and not reads:
            return "LLVM 14 takes it for writable"
    return ""


@cache
def moves() -> tuple[list[int], list[str], list[str]]:
    """Every MSR and MRS of X1, with objdump's and llvm-mc's text."""
    words = [0xD5100001 | reads << 21 | number << 5 for reads in (0, 1) for number in range(1 << 15)]
    return words, objdump(words), llvm_mc(words)


@pytest.mark.parametrize("reference", ["objdump", "llvm-mc"])
def test_every_register_has_the_name_of_the_reference(reference: str) -> None:
    words, *texts = moves()
    same, reasons, wrong = 0, Counter[str](), []
    for word, text in zip(words, texts[reference == "llvm-mc"], strict=True):
        mine = name_in(disassemble(word))
        if mine == name_in(text):
            same += bool(mine)
            continue
        why = register_explained(reference, word, text)
        reasons[why] += 1
        if not why:
            wrong.append(f"{word:#010x} {text}: {mine or 'no name'} here")
    assert wrong == []
    assert same > (1700 if reference == "objdump" else 1500), reasons


def test_references_disagree_with_each_other_only_here() -> None:
    words, gnu, llvm = moves()
    found = Counter[str]()
    for word, one, other in zip(words, gnu, llvm, strict=True):
        left, right = name_in(one), name_in(other)
        if left == right:
            continue
        if left and right:
            found[f"{left} is {right}"] += 1
        elif left:
            unknown = (*UNKNOWN_TO_LLVM.values(), WITHDRAWN["objdump"][0])
            access = codes()[left].readable if word >> 21 & 1 else codes()[left].writable
            known = any(re.fullmatch(names, left) for names in unknown)
            found["only objdump knows it" if known else left if access else "objdump ignores the access"] += 1
        else:
            found["only llvm-mc knows it" if re.fullmatch(WITHDRAWN["llvm-mc"][0], right) else right] += 1
    assert found == {
        "trcextinselr0 is trcextinselr": 2,
        "objdump ignores the access": 227,
        "only objdump knows it": 174,
        "only llvm-mc knows it": 6,
    }


@pytest.mark.parametrize("names", [*NEWER_REGISTERS.values(), *UNKNOWN_TO_LLVM.values()])
def test_every_explanation_explains_something_and_no_other_does(names: str) -> None:
    explained = [register.name for register in system_registers() if re.fullmatch(names, register.name)]
    assert explained
    others = [*NEWER_REGISTERS.values(), *UNKNOWN_TO_LLVM.values()]
    assert [name for name in explained if sum(bool(re.fullmatch(other, name)) for other in others) > 1] == []


def test_gnu_as_reads_the_names_of_its_time() -> None:
    newer = re.compile("|".join([*NEWER_REGISTERS.values(), UNKNOWN_TO_LLVM["Armv8-R"]]))
    known = [register for register in system_registers() if not newer.fullmatch(register.name)]
    texts = [f"mrs x1, {r.name}" if r.readable else f"msr {r.name}, x1" for r in known]
    assert len(texts) > 900
    assert [assemble_one(text) for text in texts] == gnu_as(texts)


def test_every_direction_of_every_code_has_one_name() -> None:
    registers = system_registers()
    assert len(registers) >= 1200
    assert len({register.name for register in registers}) == len(registers)
    assert len(readable_names()) == sum(register.readable for register in registers)
    assert len(writable_names()) == sum(register.writable for register in registers)
    for name, (op0, op1, crn, crm, op2), access in codes().values():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert 2 <= op0 <= 3
        assert (op1 | op2) < 8
        assert (crn | crm) < 16
        assert access in ("rw", "ro", "wo", "128")


def test_every_name_is_read_in_any_case_and_printed_where_it_is_accessible() -> None:
    for register in codes().values():
        op0, op1, crn, crm, op2 = register.code
        generic = f"S{op0}_{op1}_C{crn}_C{crm}_{op2}"
        for pattern, names in (("mrs x1, {}", readable_names()), ("msr {}, x1", writable_names())):
            word = assemble_one(pattern.format(generic))
            assert assemble_one(pattern.format(register.name)) == word
            assert assemble_one(pattern.format(register.name.upper())) == word
            assert disassemble(word) == pattern.format(names.get(register.code, generic.lower()))


def test_debug_data_registers_share_a_code_by_direction() -> None:
    assert disassemble(0xD5330500) == "mrs x0, dbgdtrrx_el0"
    assert disassemble(0xD5130500) == "msr dbgdtrtx_el0, x0"


def test_wide_registers_are_those_of_128_bits() -> None:
    assert sorted(wide_names().values()) == [
        "par_el1", "rcwmask_el1", "rcwsmask_el1", "ttbr0_el1", "ttbr0_el12", "ttbr0_el2", "ttbr1_el1", "ttbr1_el12",
        "ttbr1_el2", "vttbr_el2",
    ]  # fmt: skip


# Words that the tests of newer LLVM give.
FROM_LLVM_TESTS = {
    "mrrs x0, x1, ttbr0_el1": 0xD5782000,
    "mrrs x26, x27, vttbr_el2": 0xD57C211A,
    "msrr par_el1, x0, x1": 0xD5587400,
    "mrrs x0, x1, s2_0_c0_c15_0": 0xD5700F00,
    "sysp #0, c2, c0, #0, x30, xzr": 0xD548201E,
    "sysp #0, c2, c0, #0": 0xD548201F,
    "sysp #7, c2, c0, #0, x0, x1": 0xD54F2000,
    "gcspushx": 0xD508779F,
    "gcspopcx": 0xD50877BF,
    "gcspopx": 0xD50877DF,
    "gcsb dsync": 0xD503227F,
    "apas x0": 0xD50E7000,
    "shuh": 0xD503265F,
    "shuh ph": 0xD503267F,
    "stcph": 0xD503269F,
}


@pytest.mark.parametrize(("text", "word"), FROM_LLVM_TESTS.items())
def test_words_of_llvm_tests(text: str, word: int) -> None:
    assert assemble_one(text) == word
    assert disassemble(word) == text


@pytest.mark.parametrize(
    ("alias", "text"),
    [
        ("sysp #0, c2, c0, #0, xzr, xzr", "sysp #0, c2, c0, #0"),
        ("gcspopm", "sysl xzr, #3, c7, c7, #1"),
        ("dfb", "dsb #12"),
        ("mrs x0, spsr_svc", "mrs x0, spsr_el1"),
        ("cble w3, w5, .+8", "cbge w5, w3, .+8"),
        ("cblt x3, x5, .+8", "cbgt x5, x3, .+8"),
        ("cblo w3, w5, .+8", "cbhi w5, w3, .+8"),
        ("cbls w3, w5, .+8", "cbhs w5, w3, .+8"),
        ("cbble w3, w5, .+8", "cbbge w5, w3, .+8"),
        ("cbhls w3, w5, .+8", "cbhhs w5, w3, .+8"),
        ("cbge x5, #64, .+8", "cbgt x5, #63, .+8"),
        ("cbhs w5, #1, .+8", "cbhi w5, #0, .+8"),
        ("cble w5, #-1, .+8", "cblt w5, #0, .+8"),
        ("cbls x5, #62, .+8", "cblo x5, #63, .+8"),
    ],
)
def test_aliases_are_the_same_word(alias: str, text: str) -> None:
    assert assemble_one(alias) == assemble_one(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mrs x0, tpidr_el9", "there is no system register 'tpidr_el9'"),
        ("mrs x0, s1_0_c0_c0_0", "op0 2 or 3"),
        ("mrs x0, s3_8_c0_c0_0", "there is no system register"),
        ("mrs x0, s3_0_c16_c0_0", "there is no system register"),
        ("msrr ttbr0_el1, x1, x2", "must be an even one and the next"),
        ("tlbip vae1, x2, x4", "must be an even one and the next"),
        ("cbge x5, #65, .+8", "immediate is 65, must be from 1 to 64"),
        ("cble x5, #63, .+8", "immediate is 63, must be from -1 to 62"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    with pytest.raises(AssemblyError, match=re.escape(reason)):
        assemble_one(text)


def test_names_cost_nothing_until_one_is_asked_for() -> None:
    code = (
        "from a64patch.a64 import assemble_one, disassemble; import a64patch.a64.system_registers as s\n"
        "assert assemble_one('nop') == 0xD503201F and disassemble(0x91000421)\n"
        "print(s.system_registers.cache_info().currsize, s.codes.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]

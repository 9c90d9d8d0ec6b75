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
    codes,
    readable_names,
    system_registers,
    wide_names,
    writable_names,
)
from a64patch.errors import AssemblyError
from tests.a64.judges import TRIED
from tests.a64.references import Version, gnu_as, llvm_mc, objdump, version
from tests.a64.register_names import KNOWN, OTHERWISE, code_of, name_in, newer, otherwise, register_explained


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


def disagreement(word: int, gnu: str, llvm: str) -> str:
    """How the two names that the references have for a register differ; for what is not explained, the names."""
    if gnu and llvm:
        return f"{gnu} is {llvm}"
    judge, name, other_judge = ("objdump", gnu, "llvm-mc") if gnu else ("llvm-mc", llvm, "objdump")
    here, there = (readable_names(), writable_names()) if word >> 21 & 1 else (writable_names(), readable_names())
    mine, other = here.get(code_of(word), ""), there.get(code_of(word), "")
    if mine == name and newer(other_judge, name):
        return f"only {judge} knows it"
    if other == name and otherwise(judge, name, mine, other):
        return f"{judge} ignores the access"
    return f"only {judge} has it" if otherwise(judge, name, mine, other) else name


DISAGREEMENTS: dict[tuple[Version, Version], dict[str, int]] = {
    ((2, 40), (14, 0)): {
        "objdump ignores the access": 232,
        "only objdump has it": 24,
        "only objdump knows it": 145,
        "only llvm-mc has it": 6,
        "trcextinselr0 is trcextinselr": 2,
    },
    ((2, 44), (19, 1)): {
        "objdump ignores the access": 280,
        "only objdump has it": 24,
        "only llvm-mc has it": 8,
        "only llvm-mc knows it": 18,
        "trcextinselr0 is trcextinselr": 2,
    },
}
"""By the releases of binutils and LLVM."""


def test_references_disagree_with_each_other_only_here() -> None:
    words, gnu, llvm = moves()
    found = Counter[str]()
    for word, one, other in zip(words, gnu, llvm, strict=True):
        left, right = name_in(one), name_in(other)
        if left != right:
            found[disagreement(word, left, right)] += 1
    releases = version("objdump"), version("llvm-mc")
    if releases in DISAGREEMENTS:
        assert found == DISAGREEMENTS[releases]
    assert [how for how in found if " " not in how] == []


@pytest.mark.parametrize("feature", KNOWN)
def test_every_register_that_is_newer_is_one_and_in_one_group(feature: str) -> None:
    """All registers of a group are known to a release or none is: the group says of each what the judge says."""
    names = [register.name for register in system_registers() if re.fullmatch(KNOWN[feature].names, register.name)]
    assert names
    assert [name for name in names if sum(bool(re.fullmatch(known.names, name)) for known in KNOWN.values()) > 1] == []
    words, *texts = moves()
    for judge, said in zip(("objdump", "llvm-mc"), texts, strict=True):
        shown = {name_in(text) for text in said} & set(names)
        if version(judge) in TRIED[judge]:
            assert shown == (set() if newer(judge, names[0]) else set(names)), judge
    assert words


@pytest.mark.parametrize("number", range(len(OTHERWISE)))
def test_every_other_name_is_said(number: int) -> None:
    entry = OTHERWISE[number]
    words, *texts = moves()
    said = [name_in(text) for text in texts[entry.judge == "llvm-mc"]]
    reasons = {
        register_explained(entry.judge, word, text)
        for word, text, name in zip(words, texts[entry.judge == "llvm-mc"], said, strict=True)
        if re.fullmatch(entry.names, name) and name_in(disassemble(word)) != name
    }
    if version(entry.judge) in TRIED[entry.judge]:
        assert (entry.why in reasons) == entry.active(entry.judge)


def test_gnu_as_reads_the_names_of_its_time() -> None:
    armv8r = re.compile(KNOWN["Armv8-R"].names)
    known = [r for r in system_registers() if not newer("objdump", r.name) and not armv8r.fullmatch(r.name)]
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

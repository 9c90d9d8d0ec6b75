"""Words that are CONSTRAINED UNPREDICTABLE: by example, and against GNU as and llvm-mc for every row with memory."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from a64patch import a64
from a64patch.a64.assembler import assemble_one
from a64patch.a64.collisions import unpredictable
from a64patch.a64.disassembler import disassemble
from a64patch.a64.effects import register_operands
from a64patch.a64.encodings import TABLE, Encoding
from a64patch.errors import EncodingError
from tests.a64.references import assembled


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ldr x0, [x0], #8", "x0 is loaded and is also the base that is written back"),
        ("ldr w0, [x0, #8]!", "x0 is loaded and is also the base that is written back"),
        ("str x0, [x0, #8]!", "x0 is stored and is also the base that is written back"),
        ("ldp x0, x1, [x0], #16", "x0 is loaded and is also the base that is written back"),
        ("stp x1, x30, [x30, #16]!", "x30 is stored and is also the base that is written back"),
        ("ldraa x0, [x0]!", "x0 is loaded and is also the base that is written back"),
        ("ldapr x0, [x0], #8", "x0 is loaded and is also the base that is written back"),
        ("stilp x0, x1, [x1, #-16]!", "x1 is stored and is also the base that is written back"),
        ("ldp x1, x1, [x2]", "x1 is loaded twice"),
        ("ldp xzr, xzr, [x2]", "the zero register is loaded twice"),
        ("ldnp q3, q3, [x2]", "v3 is loaded twice"),
        ("ldxp w1, w1, [x2]", "x1 is loaded twice"),
        ("swpp x1, x1, [x2]", "x1 is loaded twice"),
        ("rcwsetp x1, x1, [x2]", "x1 is loaded twice"),
        ("stxr w0, w0, [x1]", "x0 gets the status and is also stored"),
        ("stlxr wzr, xzr, [x1]", "the zero register gets the status and is also stored"),
        ("stxp w0, x1, x0, [x2]", "x0 gets the status and is also stored"),
        ("stxr w0, w1, [x0]", "x0 gets the status and is also the base"),
        (".inst 0x19010441", "x1 has two roles in one copy or set"),
        (".inst 0x1901045f", "register 31 is written back"),
        (".inst 0x19df0441", None),
        ("ldr xzr, [sp], #8", None),
        ("stp x1, x1, [x2], #16", None),
        ("ldr d0, [x0], #8", None),
        ("stxr w0, xzr, [sp]", None),
        ("stxr wzr, w0, [sp]", None),
        ("stgp x0, x1, [x0], #16", None),
        ("stg x0, [x0], #16", None),
        ("ld1 {v0.8b}, [x0], x0", None),
        ("cas x0, x0, [x0]", None),
        ("ldadd x0, x0, [x0]", None),
        ("sete [x0]!, x1!, xzr", None),
        ("add x0, x0, x0", None),
        ("nop", None),
        (".inst 0xffffffff", None),
    ],
)
def test_sentence(text: str, sentence: str | None) -> None:
    found = unpredictable(assemble_one(text))
    assert found == (sentence and f"{sentence}: CONSTRAINED UNPREDICTABLE (Arm ARM K1, A64 instructions)")


def test_other_callers() -> None:
    assert a64.unpredictable(assemble_one("ldp x1, x1, [x2]"))
    with pytest.raises(EncodingError):
        unpredictable(1 << 32 | 0x08000000)


def words(row: Encoding) -> Iterator[int]:
    """Words of the row with one of two registers, or with number 31, in each register field. Other fields are 0."""
    for numbers in itertools.product((2, 4, 31), repeat=len(register_operands(row))):
        word = row.value
        for field, number in zip(register_operands(row), numbers, strict=True):
            place = row.fields[field]
            word |= (number & (1 << place.width) - 1) << place.lsb
        yield word


class Difference(NamedTuple):
    """Words about which a judge says otherwise. The manual's pages in C6.2 and C7.2 are on our side."""

    judge: str
    why: str
    fits: Callable[[Encoding, str | None], bool]
    """The row, and our sentence."""


DIFFERENCES = (
    Difference(
        "gnu-as", "warns of status WZR and base SP, which are not one register: `n != 31` (STXR)",
        lambda row, ours: ours is None and "store_ex" in row.families,
    ),
    Difference(
        "gnu-as", "warns of a pair that loads one register twice, but STILP stores it (STILP)",
        lambda row, ours: ours is None and row.name.startswith("stilp"),
    ),
    Difference(
        "gnu-as", "does not look at the pairs of 128-bit atomics (LDCLRP, RCWCLRP)",
        lambda row, ours: ours is not None and row.table == "128-bit atomic memory operations",
    ),
    Difference(
        "llvm-mc", "does not look at the pairs of 128-bit atomics (LDCLRP, RCWCLRP)",
        lambda row, ours: ours is not None and row.table == "128-bit atomic memory operations",
    ),
    Difference(
        "llvm-mc", "does not look at LDNP, LDXP and LDAXP (LDNP, LDXP)",
        lambda row, ours: "twice" in (ours or "") and row.name.startswith(("ldnp", "ldxp", "ldaxp")),
    ),
    Difference(
        "llvm-mc", "looks at the base of an LDP with writeback, but not whether one register is loaded twice (LDP)",
        lambda row, ours: "twice" in (ours or "") and row.name.startswith(("ldp_p", "ldpsw_pre")),
    ),
    Difference(
        "llvm-mc", "the other way round for LDPSW with post-index (LDPSW)",
        lambda row, ours: "base" in (ours or "") and row.name.startswith("ldpsw_post"),
    ),
    Difference(
        "llvm-mc", "does not look at the instructions of FEAT_LRCPC3 (LDIAPP, STILP, LDAPR, STLR)",
        lambda row, ours: ours is not None and row.feature == "FEAT_LRCPC3",
    ),
)  # fmt: skip


@pytest.mark.parametrize("judge", ["gnu-as", "llvm-mc"])
def test_every_row_with_memory_against_the_warnings_of(judge: str) -> None:
    """Without copies and sets, whose colliding registers no text has."""
    rows = [row for row in TABLE if row.memory and not row.is_hole and "mops" not in row.families]
    asked = [(row, word) for row in rows for word in words(row) if not disassemble(word).startswith(".inst")]
    said = assembled(judge, [disassemble(word) for _, word in asked])
    known = {row for (row, word), answer in zip(asked, said, strict=True) if answer == word}
    unknown = {row.feature for row in rows if row not in known}
    assert unknown <= {"FEAT_THE", "FEAT_LRCPC3", "FEAT_LSE128", "FEAT_GCS", "FEAT_MTETC"}, "newer than the judge"
    agreed, differs = Counter[str](), set[str]()
    for (row, word), answer in zip(asked, said, strict=True):
        ours = unpredictable(word)
        if row not in known or (ours is None) == (answer is not None):
            agreed["warned" if ours else "silent"] += row in known
            continue
        whys = [each.why for each in DIFFERENCES if each.judge == judge and each.fits(row, ours)]
        assert whys, f"{disassemble(word)}: we say {ours}, {judge} {'refuses or warns' if answer is None else 'not'}"
        differs.update(whys)
    assert agreed["warned"] > 300
    assert agreed["silent"] > 8000
    features = {row.feature for row in known}
    for each in DIFFERENCES:
        newer = "128-bit" in each.why or "STILP" in each.why
        if each.judge == judge and (not newer or "FEAT_LSE128" in features):
            assert each.why in differs, f"explains nothing: {each.why}"


def test_only_loads_and_stores_have_such_words() -> None:
    """The cheap check by encoding class hides none: every row with memory has its class, or no register to collide."""
    outside = [row for row in TABLE if row.memory and row.value & 0x0A000000 != 0x08000000]
    assert {row.table for row in outside} == {"System instructions"}
    assert all(len(register_operands(row)) <= 1 for row in outside)

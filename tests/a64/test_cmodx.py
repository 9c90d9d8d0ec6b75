"""hotpatch_safe, row by row of the manual's list, and what no list covers."""

from __future__ import annotations

import itertools

import pytest

from a64patch.a64.assembler import assemble_one
from a64patch.a64.cmodx import PROFILES, hotpatch_safe
from a64patch.a64.generate import gen_hint
from a64patch.a64.tables.system import HINTS
from a64patch.errors import EncodingError, RequestError

ALWAYS = ["b .+8", "bl .-8", "nop", "svc #0", "hvc #1", "smc #2", "brk #0x800"]
SINCE = {
    "2018": ["isb"],
    "2023": ["b.eq .+8", "cbz x1, .+8", "cbnz w1, .+8", "tbz x1, #40, .+8", "tbnz w1, #4, .+8"],
    "2026": ["cbgt x1, x2, .+8", "cbbeq w1, w2, .+8", "cbhne w1, w2, .+8", "cblo x1, #4, .+8", "trcit x3", "udf #0"],
}
NEVER = [
    "hlt #0", "dcps1", "bc.eq .+8", "br x0", "blr x0", "ret", "eret", "mov x0, #0", "adr x0, .", "dsb sy",
    "dmb ish", "sb", "ldr x0, .+8", "mrs x0, s3_3_c0_c0_1", ".inst 0x8b020020", "yield", "bti c", "paciasp",
]  # fmt: skip


def listed(profile: str) -> list[str]:
    return ALWAYS + [text for since, texts in SINCE.items() if profile >= since for text in texts]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_list_of_each_profile(profile: str) -> None:
    inside = listed(profile)
    for old, new in itertools.product(listed("2026") + NEVER, repeat=2):
        verdict = hotpatch_safe(assemble_one(old, 4096), assemble_one(new, 4096), profile)
        expected = old == new or (old in inside and new in inside)
        assert bool(verdict) == expected, f"{old} -> {new}: {verdict.reason}"
        assert "B2." in verdict.reason or "D25021" in verdict.reason


def test_2018_is_the_default() -> None:
    nop, isb, cbz = assemble_one("nop"), assemble_one("isb"), assemble_one("cbz x0, .+8")
    assert hotpatch_safe(nop, isb)
    assert not hotpatch_safe(nop, isb, "2013")
    assert not hotpatch_safe(nop, cbz)
    assert hotpatch_safe(nop, cbz, "2023")


def test_only_the_exact_nop_is_a_nop() -> None:
    """c71052cc9e14: Linux 3.14 took PACIASP, BTI, ESB and others for NOPs."""
    branch = assemble_one("b .+8")
    for number, profile in itertools.product(range(128), PROFILES):
        assert bool(hotpatch_safe(gen_hint(number), branch, profile)) == (number == 0)
    assert len(HINTS) > 30


@pytest.mark.parametrize(
    ("old", "new", "safe"),
    [
        ("b.eq .+8", "b.ne .+8", True),
        ("b.eq .+8", "b.eq .+12", True),
        ("b.eq .+8", "b.ne .+12", False),
        ("cbz x1, .+8", "cbz x2, .+8", True),
        ("cbz x1, .+8", "cbz x1, .+12", True),
        ("cbz x1, .+8", "cbz x2, .+12", False),
        ("cbz x1, .+8", "cbz w1, .+12", False),
        ("cbz x1, .+8", "cbnz x1, .+12", False),
        ("cbz x1, .+8", "tbz x1, #3, .+12", False),
        ("cbz x1, .+8", "tbz x1, #3, .+8", True),
        ("tbz x1, #3, .+8", "tbz x1, #4, .+8", True),
        ("tbz x1, #3, .+8", "tbz x1, #4, .+12", False),
        ("tbz x1, #3, .+8", "tbz x1, #35, .+12", False),
        ("tbz x1, #3, .+8", "tbz x2, #3, .+12", False),
        ("cbgt x1, #3, .+8", "cbgt x1, #4, .+12", False),
        ("cbgt x1, #3, .+8", "cbgt x1, #3, .+12", True),
        ("cbgt x1, x3, .+8", "cbgt x1, x4, .+12", False),
        ("cbgt x1, x3, .+8", "cbge x1, x3, .+12", False),
        ("b.eq .+8", "b .+12", True),
    ],
)
def test_condition_and_target_do_not_change_at_once(old: str, new: str, safe: bool) -> None:
    for profile in PROFILES:
        verdict = hotpatch_safe(assemble_one(old), assemble_one(new), profile)
        assert bool(verdict) == (safe and profile in ("2023", "2026") and (profile == "2026" or "cbg" not in old))
    assert safe or "mix the two" in hotpatch_safe(assemble_one(old), assemble_one(new), "2026").reason


def test_sequences() -> None:
    nop, branch = assemble_one("nop"), assemble_one("b .+8")
    assert hotpatch_safe([nop], [branch])
    assert not hotpatch_safe([nop, nop], [branch, branch], "2026")
    assert not hotpatch_safe([nop, nop], [nop, branch], "2026")
    assert hotpatch_safe([7, 8], [7, 8]), "equal words are no change, whatever they are"


@pytest.mark.parametrize(("old", "new"), [([], []), ([1], [1, 2]), ([1, 2], [1])])
def test_nothing_and_unequal_numbers_are_no_question(old: list[int], new: list[int]) -> None:
    with pytest.raises(RequestError):
        hotpatch_safe(old, new)


def test_unknown_profile_and_no_words_are_errors() -> None:
    with pytest.raises(RequestError, match="2013, 2018, 2023, 2026"):
        hotpatch_safe(0, 0, "2024")
    with pytest.raises(EncodingError):
        hotpatch_safe(1 << 32, 1 << 32)

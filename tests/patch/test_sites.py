"""Where nobody may be while a site changes: each way into its middle, on code that is laid out for it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from a64patch import patch_text_sync
from a64patch.a64.assembler import assemble
from a64patch.errors import BusyError, PlanError
from a64patch.patch import text
from a64patch.patch.sites import Site, reasons_to_keep_out, sites_of, spans_of, unchanged_words
from a64patch.ranges import Ranges
from a64patch.targets.base import CpuState
from a64patch.targets.section import Change
from a64patch.targets.symbols import Symbol
from tests.patch.fake import BASE, FakeTarget

MOV, ADD = 0xD2800041, 0x8B010042
"""What the first and the last word of the site become."""


def at(number: int) -> int:
    return BASE + 4 * number


def span(first: int, end: int) -> tuple[int, int]:
    """The range of the words from `first` to before `end`."""
    return at(first), at(end)


def target_of(code: str, functions: dict[str, tuple[int, int]], *, cpus: int = 2) -> FakeTarget:
    """Words from BASE on, and functions by the numbers of their first word and of the one behind them."""
    target = FakeTarget(assemble(code, BASE), cpus=cpus)
    target.name(*(Symbol(name, at(first), 4 * (end - first)) for name, (first, end) in functions.items()))
    return target


def site_of(target: FakeTarget, first: int, last: int, new: Sequence[int] = (MOV, ADD)) -> Site:
    """The site whose first and last word change."""
    places = dict(zip((first, last), new, strict=True))
    changes = [Change(at(number), target.words[number], word) for number, word in places.items()]
    [site] = sites_of(target, changes, spans_of(changes))
    return site


F, G, H = {"f": (0, 8)}, {"f": (0, 8), "g": (8, 12)}, {"f": (0, 8), "g": (8, 12), "h": (12, 16)}
INSIDE, ALL_OF_F = span(2, 5), span(1, 8)
NOPS = "; ".join(["nop"] * 4)
PLAIN = "; ".join(["nop"] * 7) + "; ret"


@pytest.mark.parametrize(
    ("code", "functions", "keep_out", "kept_out"),
    [
        # Nobody gets into the middle: strictly inside, context included.
        (PLAIN, F, [INSIDE], ()),
        # To its first word, and behind it.
        (f"{PLAIN}; b {at(1):#x}; b {at(5):#x}; nop; ret", G, [INSIDE], ()),
        # A loop whose head is inside and whose end is behind the site.
        (f"nop; nop; nop; nop; nop; nop; cbnz x0, {at(3):#x}; ret", F, [ALL_OF_F], ("f",)),
        # A loop that is all inside: who is in it is inside.
        (f"nop; nop; nop; cbnz x0, {at(2):#x}; nop; nop; nop; ret", F, [INSIDE], ()),
        # A call in the context returns there.
        (f"nop; nop; bl {at(8):#x}; nop; nop; nop; nop; ret; {NOPS}", G, [ALL_OF_F], ("f",)),
        ("nop; nop; blr x1; nop; nop; nop; nop; ret", F, [ALL_OF_F], ("f",)),
        # An indirect jump may go anywhere in its function; a return and an indirect call do not.
        ("nop; nop; nop; nop; nop; nop; br x1; ret", F, [ALL_OF_F], ("f",)),
        ("nop; nop; nop; nop; nop; nop; blr x1; ret", F, [INSIDE], ()),
        # A part that was laid elsewhere comes back, its first word included; and one that leads there.
        (f"{PLAIN}; nop; nop; nop; b {at(3):#x}", G, [span(1, 12)], ("f", "g")),
        (f"{PLAIN}; nop; nop; nop; b {at(3):#x}; nop; nop; nop; b {at(9):#x}", H, [span(1, 16)], ("f", "g", "h")),
        # Whoever calls such a part has his return address in himself, and is not in it.
        (f"{PLAIN}; nop; nop; nop; b {at(3):#x}; nop; nop; nop; bl {at(8):#x}", H, [span(1, 12)], ("f", "g")),
        # The address is taken.
        (f"{PLAIN}; adr x0, {at(2):#x}; br x0; nop; nop", G, [span(1, 12)], ("f", "g")),
        # That of a byte within a word, which nobody executes.
        (f"{PLAIN}; adr x0, {at(2) + 1:#x}; nop; nop; nop", G, [INSIDE], ()),
    ],
)
def test_ways_in(
    code: str, functions: dict[str, tuple[int, int]], keep_out: list[tuple[int, int]], kept_out: tuple[str, ...]
) -> None:
    site = site_of(target_of(code, functions), 1, 4)
    assert (site.start, site.end) == span(1, 5)
    assert site.keep_out == Ranges.of(keep_out)
    assert (site.kept_out, bool(site.entered)) == (kept_out, bool(kept_out))
    assert site.unknown == ()


def test_a_way_in_that_the_new_code_makes() -> None:
    """It is another site that branches there."""
    target = target_of(f"{PLAIN}; {NOPS}; {NOPS}; {NOPS}", {"f": (0, 8), "g": (8, 20)})
    branch = assemble(f"b {at(3):#x}", at(19))[0]
    changes = [Change(at(1), 0, MOV), Change(at(4), 0, ADD), Change(at(19), 0, branch)]
    inside, alone = sites_of(target, changes, spans_of(changes))
    assert inside.keep_out == Ranges((span(1, 20),))
    assert not alone.keep_out


@pytest.mark.parametrize(
    ("code", "functions", "name"),
    [
        (f"nop; nop; nop; nop; nop; nop; cbnz x0, {at(3):#x}; ret", {}, "branch-into-site"),
        (f"{PLAIN}; nop; nop; nop; b {at(3):#x}", F, "branch-into-site"),
        ("nop; nop; blr x1; nop; nop; nop; nop; ret", {}, "return-into-site"),
        ("nop; nop; nop; nop; nop; nop; br x1; ret", {}, "branch-into-site"),
    ],
)
def test_what_cannot_be_kept_out_of_is_said_and_refused(
    code: str, functions: dict[str, tuple[int, int]], name: str
) -> None:
    target = target_of(code, functions)
    [unknown, *_] = site_of(target, 1, 4).unknown
    assert unknown.name == name
    assert "not known" in unknown.sentence
    with pytest.raises(PlanError, match="give keep_out=; nothing was changed"):
        patch_text_sync(target, [at(1), at(4)], [MOV, ADD])
    patch_text_sync(target, [at(1), at(4)], [MOV, ADD], keep_out=Ranges((span(1, 8),)))
    assert (target.words[1], target.words[4]) == (MOV, ADD)


def test_nothing_executes_a_file() -> None:
    """There the new code may not expect the branch, which nobody could keep out; a call that returns is no matter."""
    target = target_of(f"nop; nop; blr x1; nop; nop; nop; cbnz x0, {at(3):#x}; ret", F, cpus=0)
    [unknown] = site_of(target, 1, 4).unknown
    assert unknown.sentence == "f+0x18 branches to f+0xc, in the middle of the new code"


@pytest.mark.parametrize("gap", [1, 8, 9])
def test_words_that_are_near_are_one_site(gap: int) -> None:
    changes = [Change(at(0), 0, 1), Change(at(gap), 0, 1)]
    assert len(spans_of(changes)) == (1 if gap < 9 else 2)
    assert len(spans_of(changes, join=0)) == (1 if gap == 1 else 2)


def test_the_words_between_must_stay_as_they_were() -> None:
    target = target_of(PLAIN, F)
    site = site_of(target, 1, 4)
    changes = [Change(at(1), target.words[1], MOV), Change(at(4), target.words[4], ADD)]
    assert unchanged_words(target, changes, [site]) == tuple((at(n), target.words[n]) for n in (2, 3))


def test_who_was_found_where_how_often_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_FIRST_PAUSE", 0)
    target = target_of(f"nop; nop; nop; nop; nop; nop; cbnz x0, {at(3):#x}; ret", F)
    before = list(target.words)
    target.states = [[CpuState(0, at(90)), CpuState(1, at(7))]]
    with pytest.raises(BusyError) as caught:
        patch_text_sync(target, [at(1), at(4)], [MOV, ADD])
    assert str(caught.value) == (
        "CPU 1 stands at f+0x1c, 11 times in 11 attempts; no CPU may be in f at all: f+0x18 branches to f+0xc,"
        " in the middle of the new code; nothing was changed: try for longer (retry, --retry SECONDS), or change one"
        " word that may race, or another place"
    )
    assert target.words == before
    # At the function's first word it has executed nothing.
    target.states = [[CpuState(0, at(0)), CpuState(1, at(90), (at(8),))]]
    patch_text_sync(target, [at(1), at(4)], [MOV, ADD])


def test_it_goes_on_trying_for_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_FIRST_PAUSE", 0)
    monkeypatch.setattr(text, "_LONGEST_PAUSE", 0)
    target = target_of(PLAIN, F)
    target.states = [[CpuState(0, at(2))]] * 40 + [[CpuState(0, at(90))]]
    assert patch_text_sync(target, [at(1), at(4)], [MOV, ADD], retry=3600).retries == 40


def test_reasons_are_sentences_for_people() -> None:
    code = f"nop; nop; nop; nop; nop; nop; cbnz x0, {at(3):#x}; ret"
    assert reasons_to_keep_out([site_of(target_of(code, F), 1, 4), site_of(target_of(PLAIN, F), 1, 4)]) == [
        "no CPU may be in f at all: f+0x18 branches to f+0xc, in the middle of the new code"
    ]

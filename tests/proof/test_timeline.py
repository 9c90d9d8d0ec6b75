"""What a timeline says is what the execution has: its lines are checked against the relations."""

from __future__ import annotations

import re
from functools import cache

import pytest

from a64patch.a64.assembler import assemble
from a64patch.proof.cases import Site
from a64patch.proof.prove import Counterexample, Question, prove
from a64patch.proof.timeline import dot, tell

RACE = Site(tuple(assemble("nop")), tuple(assemble("b .+4")))
ADD = Site(tuple(assemble("add x0, x0, #1")), tuple(assemble("sub x0, x0, #1")))
TWO = Site(tuple(assemble("nop; nop")), tuple(assemble("b .+4; b .+4")))
QUESTIONS = {
    "torn": ("kick", TWO, "", "P1"),
    "stale": ("kick", RACE, "dsb-ic", "P2"),
    "guarded": ("brk", RACE, "head.ic", "P2"),
    "unpredictable": ("kick", ADD, "", "P3"),
}

TOLD_BY_INTERRUPT = ("stale", "guarded")
"""A CPU is wrong here only after its interrupt. The others are told without one: the shortest path is shown."""


@cache
def counterexample(name: str) -> Counterexample:
    protocol, site, omitted, broken = QUESTIONS[name]
    found = prove(
        Question(protocol, (site,), omit=frozenset(filter(None, [omitted]))), properties=[broken]
    ).counterexample
    assert found is not None
    return found


def sentences(name: str) -> list[str]:
    """The lines of the events; line n is at index n - 1."""
    lines = tell(counterexample(name))
    return lines[: lines.index("")]


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_line_refers_to_earlier_lines_that_did_what_it_says(name: str) -> None:
    lines = sentences(name)
    for number, line in enumerate(lines, 1):
        for pattern, did in (
            (r"which line (\d+) wrote", " writes "), (r"although line (\d+) wrote another", " writes "),
            (r"takes the interrupt of line (\d+)", " sends an interrupt"),
        ):  # fmt: skip
            for found in re.findall(pattern, line):
                assert int(found) < number
                assert did in lines[int(found) - 1]
    assert any("takes the interrupt of line" in line for line in lines) == (name in TOLD_BY_INTERRUPT)


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_patchers_steps_are_told_in_their_order(name: str) -> None:
    patcher = [line.split("patcher  ")[1].strip() for line in sentences(name) if " patcher " in line]
    steps = [found[1] for line in patcher if (found := re.search(r"\[([\w.-]+)\]$", line))]
    # The patcher's own steps are told in its program order.
    wanted = [step for step in ("dc", "dsb-dc", "ic", "dsb-ic", "isb", "dsb-sgi", "sgi") if step in steps]
    assert [step for step in dict.fromkeys(steps) if step in wanted] == wanted


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_fetch_missed_the_last_store_before_it(name: str) -> None:
    lines = sentences(name)
    for number, line in enumerate(lines):
        if found := re.search(r"fetches the .* word of (site\S*), .* although line (\d+) wrote", line):
            stores = [each for each, other in enumerate(lines[:number], 1) if f" to {found[1]}  " in other]
            assert int(found[2]) == stores[-1]


def test_a_cpu_meets_the_guard_and_not_an_interrupt() -> None:
    lines = sentences("guarded")
    assert any(line.endswith("meets the BRK at site") for line in lines)
    assert "executed the guarding d4200080 `brk #4`" in " ".join(tell(counterexample("guarded"))).replace("#0x4", "#4")


def test_an_ic_without_a_dsb_only_begins() -> None:
    assert any("begins to invalidate" in line and "[ic]" in line for line in sentences("stale"))
    assert not any("begins to invalidate" in line for line in sentences("torn"))


def test_the_end_names_the_words_that_are_wrong() -> None:
    torn, stale, _, unpredictable = (" ".join(tell(counterexample(name))).split("   ")[-1] for name in QUESTIONS)
    assert "the old d503201f `nop`" in torn
    assert "the new 14000001 `b .+4`" in torn
    assert "before it executed the old d503201f `nop` at site" in stale
    assert "the new" not in stale.split("before it executed")[1]
    assert "could get 91000400 `add x0, x0, #1` or d1000400 `sub x0, x0, #1`" in unpredictable


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_arrow_goes_from_the_writer_to_the_reader_and_from_the_sgi_to_the_interrupt(name: str) -> None:
    x = counterexample(name).execution
    kinds = {"rf": ({"W"}, {"F", "R"}), "misses": ({"F", "R"}, {"W"}), "interrupt": ({"SGI"}, {"TE"})}
    seen = set()
    for one, other, label in re.findall(r'e(\d+) -> e(\d+) \[color=\w+, label="(\w+)"', dot(counterexample(name))):
        first, second = kinds[label]
        assert x.events[int(one)].kind in first
        assert x.events[int(other)].kind in second
        seen.add(label)
    assert "misses" in seen
    assert ("interrupt" in seen) == (name in TOLD_BY_INTERRUPT)

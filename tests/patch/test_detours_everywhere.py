"""A detour at every instruction of functions of every shape: the program computes the same, or the detour is refused.

The simulator's Unicorn executes the program before and after. The words are GNU's compiler's.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from a64patch.a64.words import from_bytes
from a64patch.applying import apply
from a64patch.errors import A64PatchError
from a64patch.patch.asmdiff import AsmDiff, Hunk, Line, reverse
from a64patch.patch.plan import State, make_plan
from a64patch.targets.simulator import Simulator
from tests.support import need, rounds, run

FUNCTIONS = ("loops", "chooses", "literals", "addresses", "exclusives", "recursive", "tail", "bits", "indirect")
NOP = Line("+", 0xD503201F, "nop")
OPTIONS = {
    "O2": ("-O2",),
    "Os with BTI and PAC": ("-Os", "-mbranch-protection=standard"),
    "O1": ("-O1",),
    "O0": ("-O0",),
}


@pytest.fixture(scope="module", params=list(OPTIONS)[: rounds(len(OPTIONS), 2)])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("everywhere") / "program"
    compiler = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    run(
        compiler, *OPTIONS[request.param], "-static", "-nostdlib", "-ffreestanding", "-mno-outline-atomics", "-no-pie",
        "-Wl,-z,max-page-size=4096", "-o", path, Path(__file__).with_name("everywhere.c"),
    )  # fmt: skip
    return path


def started(program: Path) -> Simulator:
    return Simulator.from_elf(program, cpus=1, quantum=4000, interleave=0)


def printed(machine: Simulator) -> list[int]:
    machine.run(1000)
    assert not machine.is_running(0)
    assert machine.exit_code(0) == 0
    output = bytes(machine.output)
    return [int.from_bytes(output[at : at + 8], "little") for at in range(0, len(output), 8)]


def detour_at(address: int, words: list[int]) -> AsmDiff:
    """A NOP before each of these words."""
    lines = [line for word in words for line in (NOP, Line(" ", word))]
    return AsmDiff((Hunk(f"{address:#x}", tuple(lines), kind="detour"),))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_detour_changes_nothing_wherever_it_is(program: Path, count: int) -> None:
    with started(program) as machine:
        expected = printed(machine)
        assert len(expected) == len(FUNCTIONS)
        places = [
            (name, address)
            for name in FUNCTIONS
            for symbol in [machine.symbols.find(name)]
            for address in range(symbol.address, symbol.address + symbol.size - 4 * count + 4, 4)
        ][:: rounds(1, 5)]
    refused: Counter[str] = Counter()
    executed = 0
    for name, address in places:
        with started(program) as machine:
            before = machine.read(address, 4 * count)
            patch = detour_at(address, from_bytes(before))
            try:
                apply(patch, machine)
            except A64PatchError as error:
                refused[why(str(error), name)] += 1
                continue
            plan = make_plan(patch, machine)
            assert plan.state is State.APPLIED
            assert plan.annex is not None
            machine.watch(plan.annex.room.address, plan.annex.room.end)
            assert printed(machine) == expected, f"{count} words at {name}, {address:#x}"
            executed += bool(machine.executed)
            assert apply(reverse(patch), machine).stays == ""
            assert (machine.read(address, 4 * count), machine.rooms()) == (before, [])
    assert executed > len(places) // (2 if count < 5 else 5)
    assert refused.keys() <= REASONS.keys(), refused
    if count == 1:
        assert sum(refused.values()) < len(places) // 3, refused


REASONS = {
    "would begin at a landing pad": {*FUNCTIONS},
    "is in the sequence from the load-exclusive": {"exclusives"},
    "which stays as it was: whoever gets in there": {*FUNCTIONS},
    "gets into new code without its partner": {"exclusives"},
    "is data between the code": {"literals", "addresses"},
    "is an unknown instruction that may use the PC": {"literals", "addresses"},
    "as a literal": {"literals"},
    "more needs a scratch register": {"literals"},
}
"""Why a detour may be refused, and in which functions."""


@cache
def why(sentence: str, name: str) -> str:
    found = [reason for reason, where in REASONS.items() if reason in sentence and name in where]
    assert found, f"{name}: {sentence}"
    return found[0]

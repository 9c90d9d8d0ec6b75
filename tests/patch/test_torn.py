"""Sites that are entered in the middle, or have context inside, under hostile caches: no pass is ever torn.

A pass begins at the first word of the function and ends where the function is entered again. It is torn when it
executes an old and a new word of what is to change as one. With the check of who stands where left out, each case is.
A64PATCH_RUNS says how many runs each case has.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import pytest

from a64patch import patch_text_sync
from a64patch.a64.assembler import assemble
from a64patch.a64.words import to_bytes
from a64patch.errors import BusyError
from a64patch.ranges import Ranges
from a64patch.targets.simulator import Simulator
from a64patch.targets.symbols import Symbol, SymbolTable

RUNS = int(os.environ.get("A64PATCH_RUNS", "200"))
RUNS_OF_A_MACHINE = 50
"""Making a machine costs as much as some runs; so the old words are put back, and the next run goes on from there."""
BASE = 0x10000


@dataclass(frozen=True)
class Case:
    """`main` is what every CPU executes. Lines that begin with `!` are replaced by those in `new`, in order."""

    main: str
    new: tuple[str, ...]
    together: bool = False
    functions: tuple[str, ...] = ("f",)
    """Labels at which functions begin; the first one holds the changed words."""
    old: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "old", tuple(line.strip()[1:].strip() for line in self.main.splitlines() if line.strip()[:1] == "!")
        )


CASES = {
    "context inside": Case(
        """
        caller: mov x9, #6
        wait: sub x9, x9, #1
        cbnz x9, wait
        bl f
        b caller
        f: nop
        ! mov x1, #1
        nop
        ! add x3, x3, x1
        ret
        end: nop
        """,
        ("mov x1, #2", "sub x3, x3, x1"),
    ),
    "loop head in the middle": Case(
        """
        caller: mov x9, #12
        wait: sub x9, x9, #1
        cbnz x9, wait
        mov x2, #3
        bl f
        b caller
        f: nop
        ! mov x1, #1
        again: nop
        ! add x3, x3, x1
        nop
        nop
        sub x2, x2, #1
        cbnz x2, again
        ret
        end: nop
        """,
        ("mov x1, #2", "sub x3, x3, x1"),
    ),
    "call inside": Case(
        """
        caller: mov x9, #6
        wait: sub x9, x9, #1
        cbnz x9, wait
        bl f
        b caller
        f: mov x20, x30
        ! mov x1, #1
        bl g
        ! add x3, x3, x1
        mov x30, x20
        ret
        g: nop
        nop
        ret
        end: nop
        """,
        ("mov x1, #2", "sub x3, x3, x1"),
        functions=("f", "g"),
    ),
    "branch in from another function": Case(
        """
        caller: mov x9, #6
        wait: sub x9, x9, #1
        cbnz x9, wait
        bl f
        b caller
        f: nop
        ! mov x1, #1
        b cold
        back: nop
        ! add x3, x3, x1
        ret
        cold: nop
        nop
        nop
        b back
        end: nop
        """,
        ("mov x1, #2", "sub x3, x3, x1"),
        functions=("f", "cold"),
    ),
    "two distant sites together": Case(
        "caller: mov x9, #12\nwait: sub x9, x9, #1\ncbnz x9, wait\nbl f\nb caller\n"
        "f: nop\n! mov x1, #1\n" + "nop\n" * 20 + "! add x3, x3, x1\nret\nend: nop\n",
        ("mov x1, #2", "sub x3, x3, x1"),
        together=True,
    ),
}


class Program:
    """A case assembled, with the addresses of what changes."""

    def __init__(self, case: Case) -> None:
        lines = [line.strip() for line in case.main.splitlines() if line.strip()]
        source = "\n".join(line.removeprefix("! ") for line in lines)
        self.words = assemble(source, BASE)
        labels = {line.split(":")[0]: BASE + 4 * at for at, line in enumerate(lines) if ":" in line.split()[0]}
        self.places = [BASE + 4 * at for at, line in enumerate(lines) if line.startswith("!")]
        self.old = [self.words[(place - BASE) // 4] for place in self.places]
        self.new = [assemble(line, place)[0] for line, place in zip(case.new, self.places, strict=True)]
        starts = [labels[name] for name in case.functions]
        self.function = starts[0]
        self.extents = dict(zip(case.functions, zip(starts, [*starts[1:], labels["end"]], strict=True), strict=True))

    def simulator(self, seed: int) -> Simulator:
        made = Simulator.from_words(
            self.words, base=BASE, cpus=4, seed=seed, quantum=1 + seed % 4, idc=bool(seed & 1), dic=bool(seed & 2)
        )
        symbols = [Symbol(name, start, end - start) for name, (start, end) in self.extents.items()]
        made.knowing(replace(made.modules.main, symbols=SymbolTable(lambda: symbols)))
        return made


def is_torn(program: Program, executed: list[tuple[int, int, int, int]]) -> bool:
    """Whether any pass of any CPU executed an old and a new word."""
    was = dict(zip(program.places, zip(program.old, program.new, strict=True), strict=True))
    passes: dict[int, set[bool]] = {}
    for _, cpu, address, word in executed:
        if address == program.function:
            passes[cpu] = set()
        elif address in was:
            assert word in was[address]
            ages = passes.setdefault(cpu, set())
            ages.add(word == was[address][1])
            if len(ages) > 1:
                return True
    return False


def runs(case: Case, *, checked: bool, count: int) -> tuple[int, int]:
    """Of so many runs: how many were patched, and how many were torn."""
    program = Program(case)
    patched = torn = 0
    for first in range(0, count, RUNS_OF_A_MACHINE):
        with program.simulator(first // RUNS_OF_A_MACHINE) as simulator:
            simulator.watch(program.function, max(program.places) + 4)
            for number in range(first, min(first + RUNS_OF_A_MACHINE, count)):
                simulator.executed.clear()
                simulator.run(20 + number % 211)
                try:
                    patch_text_sync(
                        simulator, program.places, program.new, expected=program.old, together=case.together,
                        keep_out=None if checked else Ranges(),
                    )  # fmt: skip
                except BusyError:
                    continue
                patched += 1
                simulator.run(160)
                torn += is_torn(program, list(simulator.executed))
                put_back(program, simulator)
    return patched, torn


def put_back(program: Program, simulator: Simulator) -> None:
    """Every CPU executes the old words again, wherever it is; what tears by that, nobody counts."""
    with simulator.stop():
        simulator.write_many(list(zip(program.places, map(to_bytes, program.old), strict=True)))
        simulator.publish_many([(place, place + 4) for place in program.places])
    for cpu in range(simulator.cpus):
        assert [simulator.fetched(cpu, place) for place in program.places] == program.old


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.mark.parametrize("name", CASES)
def test_no_pass_is_torn(name: str) -> None:
    patched, torn = runs(CASES[name], checked=True, count=RUNS)
    assert torn == 0
    assert patched > RUNS // 20, "otherwise nothing was tested"
    print(f"{name}: {RUNS} runs, {patched} patched, {torn} torn")


@pytest.mark.parametrize("name", CASES)
def test_without_keeping_out_it_is(name: str) -> None:
    _, torn = runs(CASES[name], checked=False, count=RUNS)
    assert torn > 0
    print(f"{name}: without keep_out {torn} of {RUNS} runs are torn")

"""patch_text on four simulated CPUs with hostile caches: all old or all new, and nothing old after it has returned.

Every cache model, hundreds of seeds, every scheduling step of a short window; and the same with each single step of
the method left out, where it must fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from a64patch import patch_text
from a64patch.a64.assembler import assemble
from a64patch.a64.predicates import is_b
from a64patch.errors import BusyError
from a64patch.patch import text
from a64patch.protocols import Act, Step
from a64patch.targets.base import CpuState, Rendezvous
from a64patch.targets.simulator import Simulator
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.support import rounds

BASE = 0x10000
SITE = BASE + 0x10
WINDOW = 32
"""Every one of the first so many scheduling steps is a moment at which patching begins."""
SEEDS = rounds(200, 20)

MODELS: dict[str, dict[str, Any]] = {
    f"idc{idc:d}-dic{dic:d}-{'broadcast' if broadcast else 'local'}": {"idc": idc, "dic": dic, "broadcast": broadcast}
    for idc in (False, True)
    for dic in (False, True)
    for broadcast in (True, False)
}
MODELS["kind"] = {"cache": "kind"}


@dataclass(frozen=True)
class Case:
    """A function that all CPUs call: its first words are the site."""

    old: str
    new: str
    rest: str
    size: int
    """Words of the site."""


CASES = {
    "one word": Case("nop", f"b {SITE + 8:#x}", "mov x1, #1; ret", 1),
    "two words": Case("mov x1, #1; mov x2, #1", "mov x1, #2; mov x2, #2", "ret", 2),
    # The callee returns into the middle of the site.
    "a call inside": Case(
        f"bl {SITE + 0x14:#x}; mov x2, #1", "mov x1, #2; mov x2, #2", "mov x30, x20; ret; nop; mov x1, #1; ret", 2
    ),
}


def program(case: Case) -> list[int]:
    # mov x20, x30 is orr x20, xzr, x30: the second case's function needs its return address again.
    caller = assemble(f"bl {SITE - 4:#x}; b {BASE:#x}; nop; .inst 0xaa1e03f4", BASE)
    rest = case.rest.replace("mov x30, x20", ".inst 0xaa1403fe")
    return caller + assemble(f"{case.old}; {rest}", SITE)


def violations(case: Case, simulator: Simulator, step: int) -> list[str]:
    """Patch at that scheduling step; what the CPUs executed that is neither all old nor all new, or old afterwards."""
    old, new = assemble(case.old, SITE), assemble(case.new, SITE)
    places = [SITE + 4 * number for number in range(case.size)]
    with simulator:
        simulator.watch(SITE, SITE + 4 * case.size)
        simulator.run(20 + step)
        try:
            patch_text(simulator, places, new, expected=old)
        except BusyError:
            return []
        done = len(simulator.executed)
        simulator.run(120)
        executed = list(simulator.executed)
    found = []
    was = dict(zip(places, zip(old, new, strict=True), strict=True))
    for number, (_, cpu, address, word) in enumerate(executed):
        if word not in was[address]:
            found.append(f"CPU {cpu} executed {word:#x}")
        if number >= done and word == was[address][0] != was[address][1]:
            found.append(f"CPU {cpu} executed the old word at {address:#x} after patch_text had returned")
    for cpu in range(4):
        age = None
        for _, who, address, word in executed:
            if who != cpu:
                continue
            now = "old" if word == was[address][0] else "new"
            if address != SITE and age != now:
                found.append(f"CPU {cpu} executed half of each")
            age = now
    return found


def moments() -> Iterator[tuple[int, int]]:
    """Pairs of seed and scheduling step."""
    for seed in range(SEEDS):
        yield seed, seed % WINDOW
    for seed in (1000, 1001):
        for step in range(WINDOW):
            yield seed, step


def goes_wrong(case: Case, kind: type[Simulator], model: dict[str, Any]) -> bool:
    """Whether something is violated at some moment."""
    words = program(case)

    def simulator(seed: int) -> Simulator:
        made = kind.from_words(words, base=BASE, cpus=4, seed=seed, quantum=3, **model)
        # From the word that saves the return address to the last one before what is called.
        made.knowing(replace(made.modules.main, symbols=SymbolTable(lambda: [Symbol("function", SITE - 4, 0x14)])))
        return made

    return any(violations(case, simulator(seed), step) for seed, step in moments())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_FIRST_PAUSE", 0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", CASES)
def test_all_old_or_all_new(case: str, model: str) -> None:
    assert not goes_wrong(CASES[case], Simulator, MODELS[model])


class NoPublish(Simulator):
    def publish_many(self, ranges: Any) -> None:
        pass


class NoKick(Simulator):
    def kick(self) -> None:
        pass


class NoArrival(Simulator):
    def _await_arrivals(self, rendezvous: Rendezvous) -> None:
        for cpu in range(self.cpus):
            rendezvous.arrive(cpu)


class NoDataCacheClean(Simulator):
    def _do(self, cpu: int, step: Step, lines: Any) -> None:
        if step.act is not Act.CLEAN:
            super()._do(cpu, step, lines)


class NoInstructionCacheInvalidate(Simulator):
    def _do(self, cpu: int, step: Step, lines: Any) -> None:
        if step.act is not Act.INVALIDATE:
            super()._do(cpu, step, lines)


class NoPcCheck(Simulator):
    def state(self, cpu: int) -> Any:
        return CpuState(cpu, 0)


OMISSIONS: list[tuple[type[Simulator], str, set[str]]] = [
    # what is left out, on which case, the cache models on which it must be seen
    (NoPublish, "one word", {"idc0-dic0-broadcast", "idc1-dic0-broadcast", "idc0-dic1-broadcast"}),
    (NoPublish, "two words", {"idc0-dic0-broadcast", "idc1-dic0-broadcast", "idc0-dic1-broadcast", "idc0-dic1-local"}),
    (NoKick, "one word", {"idc0-dic0-broadcast", "idc1-dic1-broadcast"}),
    (NoArrival, "two words", {"idc0-dic0-broadcast", "idc1-dic1-broadcast", "idc0-dic0-local", "kind"}),
    (NoDataCacheClean, "one word", {"idc0-dic0-broadcast", "idc0-dic1-broadcast"}),
    (NoDataCacheClean, "two words", {"idc0-dic0-broadcast", "idc0-dic0-local"}),
    (NoInstructionCacheInvalidate, "one word", {"idc0-dic0-broadcast", "idc1-dic0-broadcast"}),
    (NoInstructionCacheInvalidate, "two words", {"idc0-dic0-broadcast", "idc1-dic0-broadcast"}),
    (NoPcCheck, "two words", {"idc0-dic0-broadcast", "idc1-dic1-broadcast", "kind"}),
    (NoPcCheck, "a call inside", {"idc0-dic0-broadcast", "idc1-dic1-broadcast", "kind"}),
]


@pytest.mark.parametrize(
    ("omission", "case", "model"),
    [(omission, case, model) for omission, case, models in OMISSIONS for model in sorted(models)],
)
def test_each_step_that_is_left_out_is_seen(omission: type[Simulator], case: str, model: str) -> None:
    assert goes_wrong(CASES[case], omission, MODELS[model])


def test_only_the_word_itself_is_a_branch() -> None:
    assert is_b(assemble(CASES["one word"].new, SITE)[0]), "the kick case must change NOP to B"

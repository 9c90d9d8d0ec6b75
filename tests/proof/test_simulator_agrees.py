"""Whatever the simulator executes, the memory models allow: random small programs that patch and run each other.

One-sided: the simulator is stronger than the models and does not do all that they allow.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from random import Random

import pytest

from a64patch.a64.assembler import assemble
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.model import Model
from a64patch.proof.program import Program, Thread
from a64patch.proof.search import Query, search
from a64patch.proof.traces import Trace, behaviours
from a64patch.targets.simulator import Simulator

BASE, THREADS, SITES, DATA = 0x10000, 0x10100, 0x10800, 0x20000
THREAD_STEP = 0x200
OLD, NEW = assemble("nop; b .+4")
CTR = {"0/0": (False, False), "IDC": (True, False), "IDC, DIC": (True, True)}
MODELS: list[Model] = [ArmNow(), Esop2020()]

Outcome = tuple[tuple[tuple[tuple[int, int], ...], tuple[int, ...]], ...]
"""Of each thread: site and word of what it executed there, and what it loaded."""


@dataclass(frozen=True)
class Sample:
    """A random program: instructions of each thread, and where its sites are."""

    threads: tuple[tuple[str, ...], ...]
    sites: tuple[int, ...]
    idc: bool
    dic: bool

    @property
    def code(self) -> dict[int, int]:
        """Every word by address; the first ones send each CPU to its thread."""
        texts = {BASE: "; ".join(f"cbz x0, {THREADS + THREAD_STEP * number:#x}; sub x0, x0, #1"
                                 for number in range(len(self.threads)))}  # fmt: skip
        for number, parts in enumerate(self.threads):
            texts[THREADS + THREAD_STEP * number] = "; ".join([*self._start(), *parts, "mov x8, #93; svc #0"])
        texts |= dict.fromkeys(self.sites, "nop; ret")
        return {at + 4 * n: word for at, text in texts.items() for n, word in enumerate(assemble(text, at))}

    def _start(self) -> list[str]:
        constants = {10: NEW, 11: OLD, 14: 1, 15: DATA, 16: DATA + 8} | dict(enumerate(self.sites, 12))
        return [
            f"movz x{n}, #{value & 0xFFFF:#x}; movk x{n}, #{value >> 16:#x}, lsl #16" for n, value in constants.items()
        ]

    @property
    def program(self) -> Program:
        """What the models are asked about."""
        threads = tuple(Thread(THREADS + THREAD_STEP * number) for number in range(len(self.threads)))
        return Program(threads, self.code, {DATA: 0, DATA + 8: 0}, self.idc, self.dic, line=64, visits=30)

    @property
    def loads(self) -> list[int]:
        """How many loads each thread has; they go to X20 and up."""
        return [sum("ldr" in part for part in parts) for parts in self.threads]


def sample(random: Random, idc: bool, dic: bool) -> Sample:
    """A program whose threads store to code, maintain caches, signal each other, and pass the sites."""
    sites = (SITES, SITES + random.choice((8, 64)))
    threads = []
    for number in range(random.choice((2, 2, 2, 3))):
        # The patching thread is done with its preparations when the others come to the sites.
        parts = ["nop"] * (random.choice((0, 10, 20)) if number else 0)
        loads = 0
        for _ in range(random.randint(2, 4) + (number > 0)):
            site = random.randrange(2)
            register = f"x{12 + site}"
            kind = random.random()
            if number == 0 and kind < 0.45:
                store = f"str w{random.choice((10, 10, 11))}, [{register}]"
                sync = [f"dc cvau, {register}", "dsb ish", f"ic ivau, {register}", "dsb ish", "isb"]
                parts += [store, *(step for step in sync if random.random() < 0.8)]
            elif kind < 0.6:
                parts.append(f"str w14, [x{random.choice((15, 16))}]")
            elif kind < 0.8 and loads < 2:
                parts.append(f"ldr x{20 + loads}, [x{random.choice((15, 16))}]")
                if random.random() < 0.7:
                    parts.append(f"cbz x{20 + loads}, .+4")
                if random.random() < 0.7:
                    parts.append("isb")
                loads += 1
            else:
                parts.append(f"bl {sites[site]:#x}")
        threads.append((*parts, f"bl {random.choice(sites):#x}") if number else tuple(parts))
    return Sample(tuple(threads), sites, idc, dic)


def executed(one: Sample, seed: int) -> Outcome:
    """What the simulator's CPUs did."""
    code = one.code
    words = [code.get(at, OLD) for at in range(BASE, max(code) + 4, 4)]
    simulator = Simulator.from_words(
        words, base=BASE, data={DATA: bytes(16)}, writable=True, cpus=len(one.threads), seed=seed,
        quantum=1 + seed % 5, early=(0.0, 0.1, 0.5)[seed % 3], idc=one.idc, dic=one.dic, line_size=64,
    )  # fmt: skip
    with simulator:
        for site in one.sites:
            simulator.watch(site, site + 4)
        cpus = range(len(one.threads))
        assert simulator.run_until(lambda machine: not any(map(machine.is_running, cpus)), 100_000)
        passes = [tuple((e.address, e.word) for e in simulator.executed if e.cpu == cpu) for cpu in cpus]
        loaded = [tuple(simulator.register(cpu, 20 + n) for n in range(one.loads[cpu])) for cpu in cpus]
    return tuple(zip(passes, loaded, strict=True))


def forbidden_by(one: Sample, program: Program, outcomes: set[Outcome], model: Model) -> list[Outcome]:
    """Those outcomes that the model forbids."""
    known = behaviours(program)

    def is_forbidden(outcome: Outcome) -> bool:
        def same(number: int, trace: Trace) -> bool:
            passes, loaded = outcome[number]
            met = tuple((address, word) for address, word in trace.path if address in one.sites)
            return met == passes and all(trace.register(20 + n) == value for n, value in enumerate(loaded))

        return not search(program, model, Query(trace=same), known)

    return [outcome for outcome in sorted(outcomes) if is_forbidden(outcome)]


def outcomes_of(one: Sample, runs: int) -> set[Outcome]:
    return {executed(one, seed) for seed in range(runs)}


@pytest.mark.parametrize("ctr", CTR)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_simulator_executes_the_models_allow(ctr: str, seed: int) -> None:
    random = Random(f"{ctr} {seed}")
    seen: Counter[int] = Counter()
    for _ in range(20):
        one = sample(random, *CTR[ctr])
        outcomes = outcomes_of(one, 8)
        for model in MODELS:
            assert forbidden_by(one, one.program, outcomes, model) == [], (model.name, one)
        seen.update(word for outcome in outcomes for passes, _ in outcome for _, word in passes)
    # The programs do patch what others execute.
    assert seen[OLD] > 40
    assert seen[NEW] > 5


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_model_that_promises_too_much_is_found_out(model: Model) -> None:
    patcher = ("str w10, [x12]", "dsb ish", "str w14, [x15]")
    reader = (*["nop"] * 20, "ldr x20, [x15]", "cbz x20, .+4", "isb", f"bl {SITES:#x}")
    one = Sample((patcher, reader), (SITES, SITES + 64), False, False)
    outcomes = outcomes_of(one, 10)
    # It has seen the flag, synchronised itself, and executes the old word: nobody has invalidated it.
    stale = (((), ()), (((SITES, OLD),), (1,)))
    assert stale in outcomes
    assert forbidden_by(one, one.program, outcomes, model) == []
    assert stale in forbidden_by(one, replace(one.program, idc=True, dic=True), outcomes, model)

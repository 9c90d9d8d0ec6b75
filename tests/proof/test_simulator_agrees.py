"""Whatever the simulator executes, the memory models allow: random small programs that patch and run each other.

One-sided: the simulator is stronger than the models and does not do all that they allow.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from random import Random

import pytest

from a64patch.a64.assembler import assemble
from a64patch.errors import ScopeError
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.model import Model
from a64patch.proof.program import Program, Thread
from a64patch.proof.search import Query, search
from a64patch.proof.traces import Trace, behaviours
from a64patch.targets.simulator import Simulator
from tests.support import rounds

BASE, THREADS, SITES, DATA, COUNTER = 0x10000, 0x10100, 0x10E00, 0x20000, 0x20008
THREAD_STEP = 0x400
OLD, NEW = assemble("nop; b .+4")
WORDS = 3
"""The words of a site."""
RESULTS = 20
"""The first register of what a thread loads."""
CTR = {"0/0": (False, False), "IDC": (True, False), "IDC, DIC": (True, True)}
MODELS: list[Model] = [ArmNow(), Esop2020()]

Outcome = tuple[tuple[tuple[tuple[tuple[int, int], ...], tuple[int, ...]], ...], tuple[int, ...]]
"""Of each thread: address and word of what it executed in the sites, and what it loaded. Then the data at the end."""


@dataclass(frozen=True)
class Sample:
    """A random program: instructions of each thread, and where its sites are.

    Each thread has the addresses of the sites in X12 and up, of two data in X15 and X16, the new word in X10, the old
    word in X11, and the numbers 1 and 2 in X17 and X18.
    """

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
        texts |= dict.fromkeys(self.sites, "nop; " * WORDS + "ret")
        return {at + 4 * n: word for at, text in texts.items() for n, word in enumerate(assemble(text, at))}

    def _start(self) -> list[str]:
        constants = {10: NEW, 11: OLD, 15: DATA, 16: COUNTER, 17: 1, 18: 2} | dict(enumerate(self.sites, 12))
        return [
            f"movz x{n}, #{value & 0xFFFF:#x}; movk x{n}, #{value >> 16:#x}, lsl #16" for n, value in constants.items()
        ]

    @property
    def program(self) -> Program:
        """What the models are asked about."""
        threads = tuple(Thread(THREADS + THREAD_STEP * number) for number in range(len(self.threads)))
        return Program(threads, self.code, {DATA: 0, COUNTER: 0}, self.idc, self.dic, line=64, visits=30)

    @property
    def results(self) -> list[range]:
        """The registers in which each thread keeps what it loads."""
        return [
            range(
                RESULTS, 1 + max((int(name) for part in parts for name in re.findall(r"[xw](2\d)", part)), default=19)
            )
            for parts in self.threads
        ]


class _Writer:
    """Writes one thread. What it loads goes to X20 and up, and may be depended on later."""

    def __init__(self, random: Random, sites: tuple[int, ...], guesses: int) -> None:
        self.random = random
        self.sites = sites
        self.left = guesses
        """How many loads and calls it may still have: the paths of a thread grow with each of them."""
        self.results = 0
        self.parts: list[str] = []

    def patch(self) -> None:
        """A store to code and its maintenance, each step with some probability."""
        random, site = self.random, self._site()
        offset = 4 * random.randrange(WORDS)
        self._add(random.choice((f"str w{self._word()}, [{site}, #{offset}]",) * 3
                                + (f"add x9, {site}, #{offset}; stlr w{self._word()}, [x9]",)))  # fmt: skip
        for step in (f"dc cvau, {site}", "dsb ish", f"ic ivau, {site}", "dsb ish", "isb"):
            if random.random() < 0.8:
                self._add(step)

    def maintain(self) -> None:
        self._add(f"{self.random.choice(('dc cvau', 'ic ivau'))}, {self._site()}")

    def barrier(self) -> None:
        kinds = [f"{name} {domain}{order}" for name in ("dmb", "dsb") for domain in ("ish", "osh")
                 for order in ("", "ld", "st")]  # fmt: skip
        self._add(self.random.choice([*kinds, "dmb sy", "dsb sy", "dmb ld", "dsb st", "isb", "isb"]))

    def store(self) -> None:
        self._add(f"{self.random.choice(('str', 'str', 'stlr'))} x{self.random.choice((17, 18))}, [x15]")

    def load(self) -> None:
        name = self.random.choice(("ldr", "ldr", "ldar", "ldapr"))
        kind = self.random.random()
        if kind < 0.2:
            self._add(f"{name} w{self._result()}, [{self._site()}]")
        else:
            self._add(f"{name} x{self._result()}, [x{self.random.choice((15, 16))}]")

    def atomic(self) -> None:
        order = self.random.choice(("", "a", "l", "al"))
        kind = self.random.random()
        if kind < 0.15:
            self._add(f"swp{order} w{self._word()}, w{self._result()}, [{self._site()}]")
            return
        target = "xzr" if kind < 0.5 else f"x{self._result()}"
        if kind < 0.3 or kind > 0.85:
            self._add(f"ldadd{order} x17, {target}, [x16]")
        else:
            name = self.random.choice(("ldset", "ldclr", "ldeor", "swp"))
            self._add(f"{name}{order} x{self.random.choice((17, 18))}, {target}, [x15]")

    def exclusives(self) -> None:
        """An attempt to count. The counter only grows: QEMU compares values where an exclusive monitor watches."""
        result = self._result()
        between = self.random.choice(("", "", "dmb ish; ", "isb; "))
        self._add(f"{self.random.choice(('ldxr', 'ldaxr'))} x{result}, [x16]; {between}add x9, x{result}, #1")
        self._add(f"{self.random.choice(('stxr', 'stlxr'))} w{self._result()}, x9, [x16]")

    def depend(self) -> None:
        """Something that depends on an earlier result: by address, data, control, or through a select."""
        random = self.random
        on = RESULTS + random.randrange(self.results)
        zero = f"eor x9, x{on}, x{on}"
        site = self._site()
        pick = f"cmp x{on}, #0; csel x9, "
        whole = [
            f"cbz x{on}, .+4", f"cbnz x{on}, .+4", f"tbz x{on}, #0, .+4", f"cmp x{on}, #1; b.eq .+4",
            f"{zero}; str w{self._word()}, [{site}, x9]", f"{zero}; add w9, w9, w{self._word()}; str w9, [{site}]",
            f"{zero}; str x17, [x15, x9]", f"{zero}; add x9, x9, #2; str x9, [x15]",
            f"{zero}; add x9, {site}, x9; dc cvau, x9", f"{zero}; add x9, {site}, x9; ic ivau, x9",
            f"{pick}x15, x15, eq; str x17, [x9]", f"{pick}x17, x17, ne; str x9, [x15]",
            f"{pick}{site}, {site}, eq; dc cvau, x9", f"str x{on}, [x15]",
        ]  # fmt: skip
        if self.left > 0:
            self.left -= 1
            whole = [f"{zero}; ldr x{self._result()}, [x15, x9]", f"{zero}; add x9, {site}, x9; blr x9", whole[0]]
        self._add(random.choice(whole))

    def call(self) -> None:
        """Pass a site."""
        self.left -= 2
        site = self.random.randrange(len(self.sites))
        self._add(self.random.choice((f"bl {self.sites[site]:#x}", f"blr x{12 + site}")))

    def _add(self, text: str) -> None:
        self.parts.append(text)

    def _site(self) -> str:
        return f"x{12 + self.random.randrange(len(self.sites))}"

    def _word(self) -> int:
        return self.random.choice((10, 10, 11))

    def _result(self) -> int:
        self.left -= 1
        self.results += 1
        return RESULTS + self.results - 1


def sample(random: Random, idc: bool, dic: bool) -> Sample:
    """A program whose threads store to code, maintain caches, signal each other, and pass the sites."""
    count = random.randint(1, 3)
    # Neighbours on one cache line, or each on a line of its own.
    step = random.choice((16, 64))
    sites = tuple(SITES + step * number for number in range(count))
    threads = []
    for number in range(random.choice((2, 2, 2, 3))):
        writer = _Writer(random, sites, 3)
        # The patching thread is done with its preparations when the others come to the sites.
        writer.parts += ["nop"] * (random.choice((0, 10, 20)) if number else 0)
        for _ in range(random.randint(2, 5)):
            free = [writer.barrier, writer.store, writer.maintain]
            guessing = [writer.load, writer.load, writer.atomic, writer.exclusives, writer.call]
            if number == 0 and random.random() < 0.5:
                writer.patch()
            elif writer.results and random.random() < 0.5:
                writer.depend()
            else:
                random.choice([*free, *(guessing if writer.left > 0 else [])])()
        if number or random.random() < 0.3:
            writer.call()
        threads.append(tuple(writer.parts))
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
            simulator.watch(site, site + 4 * WORDS)
        cpus = range(len(one.threads))
        assert simulator.run_until(lambda machine: not any(map(machine.is_running, cpus)), 100_000)
        passes = [tuple((e.address, e.word) for e in simulator.executed if e.cpu == cpu) for cpu in cpus]
        loaded = [tuple(simulator.register(cpu, n) for n in one.results[cpu]) for cpu in cpus]
        data = tuple(int.from_bytes(simulator.read(address, 8), "little") for address in (DATA, COUNTER))
    return tuple(zip(passes, loaded, strict=True)), data


def forbidden_by(one: Sample, program: Program, outcomes: set[Outcome], model: Model) -> list[Outcome]:
    """Those outcomes that the model forbids."""
    known = behaviours(program)
    patched = {site + 4 * place for site in one.sites for place in range(WORDS)}

    def is_forbidden(outcome: Outcome) -> bool:
        threads, data = outcome

        def same(number: int, trace: Trace) -> bool:
            passes, loaded = threads[number]
            met = tuple((address, word) for address, word in trace.path if address in patched)
            return met == passes and tuple(map(trace.register, one.results[number])) == loaded

        memory = dict(zip((DATA, COUNTER), data, strict=True))
        return not search(program, model, Query(trace=same, memory=memory), known)

    return [outcome for outcome in sorted(outcomes) if is_forbidden(outcome)]


def outcomes_of(one: Sample, runs: int) -> set[Outcome]:
    return {executed(one, seed) for seed in range(runs)}


@pytest.mark.parametrize("ctr", CTR)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_simulator_executes_the_models_allow(ctr: str, seed: int) -> None:
    random = Random(f"{ctr} {seed}")
    seen: Counter[int] = Counter()
    for _ in range(rounds(60, 8)):
        one = sample(random, *CTR[ctr])
        outcomes = outcomes_of(one, 8)
        try:
            for model in MODELS:
                assert forbidden_by(one, one.program, outcomes, model) == [], (model.name, one)
        except ScopeError:
            continue  # about one in a thousand has too many paths
        seen.update(word for threads, _ in outcomes for passes, _ in threads for _, word in passes)
    # The programs do patch what others execute.
    assert seen[OLD] > 40
    assert seen[NEW] > 2


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_model_that_promises_too_much_is_found_out(model: Model) -> None:
    patcher = ("str w10, [x12]", "dsb ish", "str x17, [x15]")
    reader = (*["nop"] * 20, "ldr x20, [x15]", "cbz x20, .+4", "isb", f"bl {SITES:#x}")
    one = Sample((patcher, reader), (SITES, SITES + 64), False, False)
    outcomes = outcomes_of(one, 10)
    # It has seen the flag, synchronised itself, and executes the old word: nobody has invalidated it.
    passed = tuple((SITES + 4 * place, OLD) for place in range(WORDS))
    stale = (((), ()), (passed, (1,))), (1, 0)
    assert stale in outcomes
    assert forbidden_by(one, one.program, outcomes, model) == []
    assert stale in forbidden_by(one, replace(one.program, idc=True, dic=True), outcomes, model)

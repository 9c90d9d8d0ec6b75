"""The ways to change code that CPUs may be executing, as data: steps in their order, and the CPU that does each.

This file only describes. targets/section.py carries the steps out, ../proof/cases.py makes programs for proofs of them,
and the command line prints their names. Read on: docs/architecture.md says how to add a protocol.

Sources: Linux v6.12 arch/arm64/kernel/patching.c, arch/arm64/mm/cache.S (caches_clean_inval_pou),
drivers/irqchip/irq-gic-v3.c (gic_ipi_send_mask), arch/x86/kernel/alternative.c (text_poke_bp_batch).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Literal, NamedTuple

Method = Literal["nosync", "kick", "stop"]
"""The protocols that can carry out a patch."""

PATCHER, OTHER = "patcher", "executor"
"""The CPU that does a step: the one that patches, or each other one."""

IDC, DIC, BROADCAST = "idc", "dic", "broadcast"
"""Properties of a machine. CTR_EL0.IDC and .DIC: no DC, or no IC, is needed (Arm ARM, D24.2.34). BROADCAST: an IC
reaches all CPUs."""
Machine = frozenset[str]
"""The properties that a machine has."""
USUAL: Machine = frozenset({BROADCAST})
"""Linux's longest sequence is for this machine, and is right on each machine that broadcasts."""


class Act(Enum):
    """What a CPU does in a step."""

    STORE = "store the words of the phase"
    CLEAN = "DC CVAU of each line"
    INVALIDATE = "IC IVAU of each line"
    INVALIDATE_OWN = "IC IALLU: all lines, in this CPU's cache only"
    FINISH = "DSB ISH: wait until its stores and its maintenance are done"
    FINISH_STORES = "DSB ISHST: wait until its stores are done"
    ORDER = "DMB, or a DSB of another kind"
    SYNCHRONISE = "ISB"
    INTERRUPT = "SGI to every other CPU"
    ENTER = "take the interrupt: exception entry is a context synchronisation event"
    ANSWER = "say that it was interrupted, or has come"
    GATHER = "wait for the answers of all"
    LOOK = "look where each CPU stands and will return to"
    SIGNAL = "say that the patch is done"
    READ_SIGNAL = "read whether it is done"
    DEPEND = "branch on that, so that what follows is not done before"
    AWAIT_SIGNAL = "wait until it is done"


class Operation(Enum):
    """An operation of a target: one step, or several in their order."""

    STOP = "stop"
    LOOK = "states"
    WRITE = "write"
    PUBLISH = "publish"
    KICK = "kick"
    LET_GO = "let go"
    CALLER = "caller"
    """No operation of a target: the caller's own code must do the step."""


class Doer(Enum):
    """Who does a step on a target, and so answers for it."""

    US = "done by us"
    TARGET = "done by the target"
    NOBODY = "not done"
    UNKNOWN = "nobody answers for it"


class Step(NamedTuple):
    """One step of a protocol."""

    name: str
    cpu: str
    """PATCHER or OTHER."""
    act: Act
    operation: Operation
    what: str
    """For people: the verb and object of a sentence whose subject is the step."""
    essential: bool = False
    """The protocol has no meaning without the step: a store, the interrupt."""
    interrupted: bool = False
    """An OTHER does the step in its interrupt handler, not in its program."""
    only: str = ""
    """Only a machine with this property needs the step; empty for all machines."""
    unless: str = ""
    """A machine with this property does not need the step."""
    phase: str = ""
    """GUARD, TAIL or HEAD where words are written in turn; empty where all are written at once."""
    text: str = ""
    """The instruction, in place of the usual one for `act`. A step of Act.ORDER has one."""

    def needed_on(self, machine: Machine) -> bool:
        """Whether a machine with these properties needs the step."""
        return (not self.only or self.only in machine) and self.unless not in machine


GUARD, TAIL, HEAD = "guard", "tail", "head"
"""The phases of BREAKPOINT: BRK over the first word of each site; the other words; the first word."""


class Protocol(NamedTuple):
    """Steps in their order: those of the patching CPU, then those of each other CPU."""

    name: str
    summary: str
    steps: tuple[Step, ...]

    def on(self, machine: Machine) -> tuple[Step, ...]:
        """The steps that a machine needs."""
        return tuple(step for step in self.steps if step.needed_on(machine))

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operations that the patching CPU uses, in their order."""
        found: list[Operation] = []
        for step in self.steps:
            if step.cpu == PATCHER and step.operation is not Operation.CALLER and [step.operation] != found[-1:]:
                found.append(step.operation)
        return tuple(found)

    def part(self, operation: Operation, cpu: str, machine: Machine) -> tuple[Step, ...]:
        """The steps of one operation that one kind of CPU does on a machine."""
        return tuple(step for step in self.on(machine) if step.operation is operation and step.cpu == cpu)

    def without(self, *names: str) -> Protocol:
        """The protocol without these steps."""
        return self._replace(steps=tuple(step for step in self.steps if step.name not in names))


def _mine(name: str, act: Act, operation: Operation, what: str, *, essential: bool = False) -> Step:
    return Step(name, PATCHER, act, operation, what, essential)


def _theirs(
    name: str, act: Act, operation: Operation, what: str, *, essential: bool = False, interrupted: bool = True,
    unless: str = "",
) -> Step:  # fmt: skip
    return Step(name, OTHER, act, operation, what, essential, interrupted, unless=unless)


_STORE = _mine("store", Act.STORE, Operation.WRITE, "stores the new word", essential=True)
_PUBLISH = (
    Step("dc", PATCHER, Act.CLEAN, Operation.PUBLISH, "cleans the line to the point of unification", unless=IDC),
    Step("dsb-dc", PATCHER, Act.FINISH, Operation.PUBLISH, "waits until the line is clean", unless=IDC),
    Step("dsb-dc", PATCHER, Act.FINISH_STORES, Operation.PUBLISH, "waits until the store is done", only=IDC),
    Step(
        "ic", PATCHER, Act.INVALIDATE, Operation.PUBLISH, "invalidates the line in every instruction cache", unless=DIC
    ),
    Step("dsb-ic", PATCHER, Act.FINISH, Operation.PUBLISH, "waits until the invalidation is done everywhere",
         unless=DIC),
    _mine("isb", Act.SYNCHRONISE, Operation.PUBLISH, "discards what the patching CPU itself has fetched"),
)  # fmt: skip
"""caches_clean_inval_pou() and the ISB that Linux does behind it."""
_KICK = (
    _mine("dsb-sgi", Act.FINISH_STORES, Operation.KICK, "waits for all stores before the interrupt is sent"),
    _mine("sgi", Act.INTERRUPT, Operation.KICK, "interrupts every other CPU", essential=True),
)
_ENTER = _theirs("enter", Act.ENTER, Operation.KICK, "discards what this CPU has fetched", essential=True)

NOSYNC = Protocol(
    "nosync",
    "one CPU writes and publishes; each other CPU synchronises itself after it has seen a flag",
    (
        _STORE,
        *_PUBLISH,
        _mine("flag", Act.SIGNAL, Operation.CALLER, "tells the others that the patch is done", essential=True),
        _theirs("read-flag", Act.READ_SIGNAL, Operation.CALLER, "looks whether the patch is done", essential=True,
                interrupted=False),
        _theirs("test-flag", Act.DEPEND, Operation.CALLER, "makes the ISB wait for the flag", interrupted=False),
        _theirs("isb-executor", Act.SYNCHRONISE, Operation.CALLER, "discards what this CPU has fetched",
                interrupted=False),
    ),
)  # fmt: skip

KICK = Protocol(
    "kick",
    "one CPU writes, publishes and interrupts all others (Linux: kick_all_cpus_sync)",
    (_STORE, *_PUBLISH, *_KICK, _ENTER),
)

STOP = Protocol(
    "stop",
    "all CPUs wait while one writes, then each synchronises itself (Linux: stop_machine)",
    (
        _mine("sgi", Act.INTERRUPT, Operation.STOP, "calls every other CPU", essential=True),
        _mine("wait", Act.GATHER, Operation.STOP, "waits until every CPU has come"),
        _mine("pc-check", Act.LOOK, Operation.LOOK, "lets all CPUs go again when one is in the way"),
        _STORE,
        *_PUBLISH,
        _mine("go", Act.SIGNAL, Operation.LET_GO, "lets the others go", essential=True),
        _theirs("arrive", Act.ANSWER, Operation.STOP, "says that it has come", essential=True),
        _theirs("read-go", Act.READ_SIGNAL, Operation.LET_GO, "looks whether the patch is done", essential=True),
        _theirs("wait-executor", Act.AWAIT_SIGNAL, Operation.LET_GO, "waits until the patch is done"),
        _theirs("dsb-go", Act.FINISH, Operation.LET_GO, "keeps its IC behind the look whether the patch is done",
                unless=BROADCAST),
        _theirs("ic-executor", Act.INVALIDATE_OWN, Operation.LET_GO, "invalidates this CPU's instruction cache",
                unless=BROADCAST),
        _theirs("dsb-executor", Act.FINISH, Operation.LET_GO, "waits until that is done", unless=BROADCAST),
        _theirs("isb-executor", Act.SYNCHRONISE, Operation.LET_GO, "discards what this CPU has fetched"),
    ),
)  # fmt: skip


def _phase(name: str) -> Iterable[Step]:
    wait = _mine("wait", Act.GATHER, Operation.KICK, "waits until every CPU was interrupted")
    for step in (_STORE, *_PUBLISH, *(each for each in _KICK if each.essential), wait):
        yield step._replace(name=f"{name}.{step.name}", phase=name)


BREAKPOINT = Protocol(
    "brk",
    "BRK over the first word, the rest, the first word, after each a kick that is waited for (Linux on x86:"
    " text_poke_bp)",
    (
        *_phase(GUARD),
        *_phase(TAIL),
        *_phase(HEAD),
        _ENTER,
        _theirs("answer", Act.ANSWER, Operation.KICK, "says that it was interrupted", essential=True),
    ),
)

PROTOCOLS: dict[str, Protocol] = {each.name: each for each in (NOSYNC, KICK, STOP, BREAKPOINT)}
"""By name, as Python, `--sync`, `--protocol`, JSON and the journal write it."""


def publication(machine: Machine) -> tuple[Step, ...]:
    """The steps that make a store visible to instruction fetch: the same in each protocol."""
    return PROTOCOLS["nosync"].part(Operation.PUBLISH, PATCHER, machine)

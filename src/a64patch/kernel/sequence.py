"""How a Linux kernel patches its own text, read from the instructions of its Image, as protocols for a proof.

It may know the rooms below kernel/, not proof/. Read on: walk.py reads the instructions; ../cli/kernel_proof.py asks.

Sources: Linux arch/arm64/kernel/patching.c (insn.c before 5.14), arch/arm64/mm/cache.S, kernel/smp.c; commit
31a099dbd91e for the CPU that writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from a64patch.kernel.walk import Event, Function, Kernel, Reader, UnreadError, Value
from a64patch.protocols import (
    HEAD,
    KICK,
    NOSYNC,
    OTHER,
    PATCHER,
    STOP,
    TAIL,
    Act,
    Operation,
    Protocol,
    Step,
)

NOSYNC_FUNCTION = "aarch64_insn_patch_text_nosync"
STOP_FUNCTION = "aarch64_insn_patch_text"
CALLBACK = "aarch64_insn_patch_text_cb"
KICK_FUNCTION = "kick_all_cpus_sync"

MACHINES = ((False, False), (True, False), (True, True), (False, True))
"""(IDC, DIC) of each machine. The models do not cover the last one."""


def read(kernel: Kernel) -> Found:
    """The kernel's nosync, kick and stop for each of MACHINES, and what was read.

    A function that cannot be read gives a sentence in place of its protocols. Never raises for what a kernel holds.
    """
    found = Found(assumed=list(_ASSUMED), left_out=list(_LEFT_OUT))
    reader = Reader(kernel)
    for idc, dic in MACHINES:
        protocols: dict[str, Protocol | str] = {}
        for name, make in (("nosync", _nosync), ("kick", _kick), ("stop", _stop)):
            try:
                protocols[name] = make(reader, idc, dic)
            except UnreadError as error:
                protocols[name] = str(error)
        found.protocols[idc, dic] = protocols
    found.functions = reader.functions()
    found.left_out += reader.notes_left_out()
    found.assumed += reader.notes_assumed()
    return found


_ASSUMED = (
    "the fixmap's alias and the word's own address are the same memory, and the copy stores an aligned word at once",
    "each write succeeds, and each address is a multiple of 4",
    "the word that a mask of CTR_EL0 leaves is the line's start, and the stride is the shortest line of all CPUs",
    "nobody else patches meanwhile (the kernel takes text_mutex), and interrupts are off between a stop's steps",
    "no task was preempted inside the words of a stop: the kernel does not look (`--omit pc-check` shows it)",
    "whoever waits for nosync reads a flag, branches on it and executes an ISB; taking the interrupt of a kick is a"
    " context synchronisation event",
)
_LEFT_OUT = (
    "stop_machine's own rendezvous: the CPUs that it gathered may still execute what lies between it and the callback",
    "the steps of mapping and of the copy, locks, and the order of the atomic increments: they only order more",
    "the GIC driver's DSB in front of the interrupt, and the kick's wait for its end",
    "ways without a write (an address that is no multiple of 4, or a copy that fails), and failed exclusive stores",
)


@dataclass
class Found:
    """What was read from a kernel."""

    functions: list[Function] = field(default_factory=list)
    protocols: dict[tuple[bool, bool], dict[str, Protocol | str]] = field(default_factory=dict)
    """By (IDC, DIC) and the protocol's name: the steps, or the sentence that says why they are not known."""
    assumed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


# From ways to protocols

_WHO = ("first", "number", "last", "other")
_STOP_STEPS = {step.name: step for step in STOP.steps}


def _nosync(reader: Reader, idc: bool, dic: bool) -> Protocol:
    ways = [way for way in reader.published(NOSYNC_FUNCTION, idc, dic) if _count(way, "write")]
    [steps] = _all_alike([_written(way) for way in ways], NOSYNC_FUNCTION)
    caller = (step for step in NOSYNC.steps if step.operation is Operation.CALLER)
    return Protocol("nosync", NOSYNC.summary, (*_steps(steps), *caller))


def _kick(reader: Reader, idc: bool, dic: bool) -> Protocol:
    published = [step for step in _nosync(reader, idc, dic).steps if step.operation is not Operation.CALLER]
    ways = [way for way in reader.ways(KICK_FUNCTION, idc, dic) if _count(way, "interrupt")]
    [way] = _all_alike(ways, KICK_FUNCTION)
    if [event.kind for event in way if event.kind != "barrier"] != ["interrupt"]:
        raise UnreadError(f"{KICK_FUNCTION} does more than to interrupt the other CPUs once")
    before = way[: [event.kind for event in way].index("interrupt")]
    barriers = [_barrier(event, "sgi", PATCHER, Operation.KICK) for event in before]
    sent = [step for step in KICK.steps if step.act in (Act.INTERRUPT, Act.ENTER)]
    return Protocol("kick", KICK.summary, (*published, *barriers, *sent))


def _stop(reader: Reader, idc: bool, dic: bool) -> Protocol:
    callback = reader.kernel.function(CALLBACK)
    handed = {event.about for way in reader.ways(STOP_FUNCTION, idc, dic) for event in way if event.kind == "stop"}
    if handed != {Value("", callback.address)}:
        raise UnreadError(f"{STOP_FUNCTION} does not hand {CALLBACK} to stop_machine")
    masters: list[tuple[str, Sequence[Event]]] = []
    others: list[tuple[str, Sequence[Event]]] = []
    for way in reader.published(CALLBACK, idc, dic):
        at = next((number for number, event in enumerate(way) if event.kind in _WHO), None)
        if at is None or [event.kind for event in way[:at] if event.kind != "barrier"] != ["add"]:
            raise UnreadError(f"{CALLBACK} does not count the CPUs that have come before it asks which one this is")
        (others if way[at].kind == "other" else masters).append((way[at].kind, way[at + 1 :]))
    writing = {kind for kind, way in masters if _count(way, "write")}
    if len(writing) != 1 or any(_count(way, "write") for _, way in others):
        raise UnreadError(f"{CALLBACK} does not let exactly one CPU write")
    [one] = _all_alike([way for _, way in masters if _count(way, "write") == 1], CALLBACK)
    [two] = _all_alike([way for _, way in masters if _count(way, "write") == 2], CALLBACK)
    split = [number for number, event in enumerate(two) if event.kind == "write"][1]
    end = next((number for number, event in enumerate(two) if event.kind == "add"), None)
    if end is None or _forms(two[:split]) != _forms(two[split:end]) or _forms(two[split:]) != _forms(one):
        raise UnreadError(f"{CALLBACK} does not do the same for each word, and then let the others go")
    [waits] = _all_alike([way for _, way in others], CALLBACK)
    if [event.kind for event in waits if event.kind != "barrier"] != ["await"] or waits[0].kind != "await":
        raise UnreadError(f"{CALLBACK} does not let the other CPUs wait once")
    names = ("sgi", "wait", "pc-check") if writing == {"last"} else ("sgi", "pc-check")
    return Protocol("stop", STOP.summary, (
        *(_STOP_STEPS[name] for name in names),
        *_steps(two[:split], HEAD),
        *_steps(two[split:end], TAIL),
        _STOP_STEPS["go"],
        *(_barrier(event, "go", PATCHER, Operation.LET_GO) for event in two[end + 1 :]),
        *(_STOP_STEPS[name] for name in ("arrive", "read-go", "wait-executor")),
        *(_barrier(event, "executor", OTHER, Operation.LET_GO) for event in waits[1:]),
    ))  # fmt: skip


def _count(way: Sequence[Event], kind: str) -> int:
    return sum(event.kind == kind for event in way)


def _forms(way: Sequence[Event]) -> list[tuple[str, str]]:
    """The events without the word that they are about."""
    return [event.key[:2] for event in way]


def _all_alike(ways: Sequence[Sequence[Event]], name: str) -> list[Sequence[Event]]:
    """The one form of these ways, in a list. UnreadError when there is none, or more than one."""
    forms = {tuple(_forms(way)): way for way in ways}
    if len(forms) != 1:
        raise UnreadError(f"{name} has {len(forms) or 'no'} ways to do this, not one")
    return list(forms.values())


def _written(way: Sequence[Event]) -> Sequence[Event]:
    return way[next(number for number, event in enumerate(way) if event.kind == "write") :]


def _steps(events: Sequence[Event], phase: str = "") -> list[Step]:
    """The steps that write one word and publish it. UnreadError for other events, or maintenance of another word."""
    steps = []
    behind = "dc"
    for number, event in enumerate(events):
        if (event.kind == "write") != (number == 0) or event.kind not in ("write", "dc", "ic", "barrier"):
            raise UnreadError(f"`{event.text}` at {event.address:#x} is not expected where a word is written")
        if event.kind in ("dc", "ic"):
            if event.about != events[0].about:
                raise UnreadError(f"`{event.text}` at {event.address:#x} is not about the word that was written")
            behind = event.kind
        if event.kind == "barrier":
            step = _barrier(event, behind, PATCHER, Operation.PUBLISH)
        else:
            act, operation = {"write": (Act.STORE, Operation.WRITE), "dc": (Act.CLEAN, Operation.PUBLISH),
                              "ic": (Act.INVALIDATE, Operation.PUBLISH)}[event.kind]  # fmt: skip
            known = next(step for step in NOSYNC.steps if step.act is act)
            step = Step(known.name, PATCHER, act, operation, known.what, known.essential)
        steps.append(step._replace(phase=phase))
    return steps


def _barrier(event: Event, behind: str, cpu: str, operation: Operation) -> Step:
    """The step of a barrier that was found, with the very instruction."""
    if event.kind != "barrier" or event.text.split()[0] not in ("dsb", "dmb", "isb"):
        raise UnreadError(f"`{event.text}` at {event.address:#x} is no barrier that is known here")
    name = event.text.split()[0]
    known = {"isb": Act.SYNCHRONISE, "dsb ish": Act.FINISH, "dsb ishst": Act.FINISH_STORES}
    act = known.get(event.text, Act.ORDER)
    what = "discards what this CPU has fetched" if act is Act.SYNCHRONISE else "orders what comes before it"
    label = name if name == "isb" and cpu == PATCHER else f"{name}-{behind}"
    return Step(
        label, cpu, act, operation, what, interrupted=cpu == OTHER, text="" if act in known.values() else event.text
    )

"""A protocol over some sites as a program: the instructions that each CPU really executes, step by step.

Read on: ../protocols.py has the steps; prove.py searches these programs for executions that break a property.

A CPU may take an interrupt at any instruction boundary, inside the patched words too, or never. With the protocol brk,
a CPU that meets the BRK executes a copy of the old words elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from a64patch.a64.assembler import assemble, assemble_one
from a64patch.errors import RequestError, ScopeError
from a64patch.oneline import shown, words
from a64patch.proof.program import Program, Thread
from a64patch.proof.traces import Trace
from a64patch.protocols import (
    BREAKPOINT,
    BROADCAST,
    DIC,
    GUARD,
    HEAD,
    IDC,
    OTHER,
    PATCHER,
    PROTOCOLS,
    TAIL,
    USUAL,
    Act,
    Machine,
    Protocol,
    Step,
)

MOST_EXECUTORS = 16
MOST_SITES = 16
MOST_WORDS = 32
"""The most words of one site."""

_PATCHER, _EXECUTOR, _INTERRUPT, _BREAKPOINT, _SITES, _END = 0x1000, 0x2000, 0x3000, 0x3800, 0x4000, 0xF000
_SITE_STEP = 0x100
_FLAG, _ACKNOWLEDGED = 0x8000, 0x8100
BRK = assemble("brk #0x4")[0]
"""The word that guards the head of a site meanwhile: the BRK of Linux's kprobes."""

_AT = "at "
APART, TOGETHER = 4, 64
"""Sizes of a cache line in bytes: each word on a line of its own, or the first 16 words of a site on one line."""


@dataclass(frozen=True)
class Site:
    """Neighbouring words that are replaced together. The word at index `head` is written first, and guarded by BRK."""

    old: tuple[int, ...]
    new: tuple[int, ...]
    head: int = 0
    comes_back: bool = True
    """Whoever has left the site may come back into its middle. False only where this is known to be impossible."""
    kept_out: bool = True
    """A protocol that looks where CPUs stand lets none stand in the code from which they would come back either."""

    def __repr__(self) -> str:
        return shown(self, f"{words(self.old)} -> {words(self.new)}")

    def __post_init__(self) -> None:
        if not self.old or len(self.old) != len(self.new):
            raise RequestError(f"{len(self.old)} old and {len(self.new)} new words: as many of both, at least one")
        if len(self.old) > MOST_WORDS:
            raise RequestError(f"{len(self.old)} words in one site; a proof takes at most {MOST_WORDS}")
        if self.old == self.new:
            raise RequestError("old and new words are the same: there is nothing to prove")


@dataclass(frozen=True)
class Case:
    """A program, the CPU that is watched, and the facts for judging its trace."""

    protocol: str
    title: str
    program: Program
    subject: int
    """Number of the thread that is watched."""
    words: Mapping[int, tuple[int, int]]
    """(old word, new word) by address, for each word that changes. Addresses are bytes."""
    steps: Mapping[int, Step]
    """The protocol step of each instruction, by the instruction's address."""
    told: tuple[str, int]
    """When the watched CPU knows that patching is done: it reads the value n from the flag (`read`, n), takes its n-th
    interrupt (`irq`, n), knows from the beginning (`start`, 0), or executes an address (`done_at`)."""
    keep_out: frozenset[int]
    """The addresses where the protocol lets no CPU stop."""
    spans: tuple[range, ...] = ()
    """The addresses of each site; empty where the sites are the program's windows."""
    mixtures: tuple[Mapping[int, str], ...] = ()
    """Old and new words that one pass may execute together: `old`, `new` or `any` by address."""

    def possible(self, trace: Trace) -> bool:
        """Whether the protocol allows this trace: no interrupt is taken at an address of `keep_out`."""
        return not any(
            event.kind == "TE" and event.order == "irq" and event.pc in self.keep_out for event in trace.events
        )

    def done(self, trace: Trace) -> int | None:
        """The number of instructions after which the watched CPU had been told; None when it never was."""
        kind, number = self.told
        if kind == "start":
            return 0
        if kind.startswith(_AT):
            places = [index for index, (address, _) in enumerate(trace.path) if address == int(kind[len(_AT) :])]
            return places[number - 1] if len(places) >= number else None
        if kind == "read":
            found = (event.step for event in trace.events if event.kind == "R" and event.address == _FLAG
                     and event.value == number)  # fmt: skip
            return next(found, None)
        entries = [event.step for event in trace.events if event.kind == "TE" and event.order == "irq"]
        return entries[number - 1] if 0 < number <= len(entries) else None


def done_at(address: int, times: int = 1) -> tuple[str, int]:
    """`Case.told` for a CPU that knows that patching is done when it executes the address (bytes) so many times."""
    return f"{_AT}{address}", times


@dataclass(frozen=True)
class _Shape:
    """Everything that the instructions of a step depend on."""

    protocol: Protocol
    sites: Sequence[tuple[int, Site]]
    executors: int
    machine: Machine
    line: int

    def words(self, step: Step) -> list[tuple[int, int]]:
        """(address in bytes, word) of each word that the step's phase stores, the head of each site first."""
        heads = {address + 4 * site.head: site.new[site.head] for address, site in self.sites}
        if step.phase == GUARD:
            return [(address, BRK) for address in heads]
        if step.phase == HEAD:
            return list(heads.items())
        found = []
        for address, site in self.sites:
            order = sorted(range(len(site.new)), key=lambda index, head=site.head: (index != head, index))  # type: ignore[misc]
            found += [(address + 4 * n, site.new[n]) for n in order if site.old[n] != site.new[n]]
        return [pair for pair in found if step.phase != TAIL or pair[0] not in heads]

    def steps(self) -> list[Step]:
        """The protocol's steps on this machine, without the phases that store nothing."""
        steps = [step for step in self.protocol.on(self.machine) if not step.phase or self.words(step)]
        if BROADCAST not in self.machine and self.executors:
            # The patcher's IC reaches only its own cache, and the watched CPU is the program's only executor.
            steps = [step for step in steps if step.cpu != PATCHER or step.name not in ("ic", "dsb-ic")]
        return steps


def _answer(executor: int) -> int:
    """The address where an executor stores its answer: it has come, or was interrupted."""
    return _ACKNOWLEDGED + 8 * executor


def _texts(shape: _Shape, steps: Sequence[Step]) -> Iterator[tuple[Step, str]]:
    """Each step with its instructions, separated by `;`."""
    interrupts = 0
    for step in steps:
        interrupts += step.act is Act.INTERRUPT
        yield step, _text(shape, step, interrupts)


def _text(shape: _Shape, step: Step, interrupts: int) -> str:
    """The instructions of a step. `interrupts` is how many interrupts were sent before its end."""
    act = step.act
    if step.text:
        return step.text
    if act is Act.STORE:
        return "; ".join(
            f"movz x1, #{address:#x}; movz w0, #{word & 0xFFFF:#x}; movk w0, #{word >> 16:#x}, lsl #16; str w0, [x1]"
            for address, word in shape.words(step)
        )
    if act in (Act.CLEAN, Act.INVALIDATE, Act.INVALIDATE_OWN):
        # The models do not cover IC IALLU: IC IVAU of each changed line takes its place.
        operation = "dc cvau" if act is Act.CLEAN else "ic ivau"
        lines = sorted({address // shape.line * shape.line for address, _ in shape.words(step)})
        return "; ".join(f"movz x1, #{line:#x}; {operation}, x1" for line in lines)
    if act is Act.GATHER:
        waits = (
            f"movz x7, #{_answer(number):#x}; ldr w5, [x7]; cmp w5, #{interrupts}; b.ne {_END:#x}"
            for number in range(shape.executors)
        )
        return "; ".join(waits) or "nop"
    return {
        Act.FINISH: "dsb ish",
        Act.FINISH_STORES: "dsb ishst",
        Act.SYNCHRONISE: "isb",
        Act.INTERRUPT: "msr icc_sgi1r_el1, x2",
        Act.ENTER: "",  # Program.eis
        Act.LOOK: "",  # Case.keep_out
        Act.ANSWER: "add x8, x8, #1; str w8, [x6]",
        Act.SIGNAL: f"movz x3, #{_FLAG:#x}; movz w2, #1; str w2, [x3]",
        Act.READ_SIGNAL: f"movz x3, #{_FLAG:#x}; ldr w4, [x3]",
        Act.DEPEND: "cbz w4, .+4",
        Act.AWAIT_SIGNAL: f"cbz w4, {_END:#x}",
    }[act]


def machine_of(idc: bool, dic: bool, broadcast: bool = True) -> Machine:
    """The properties of a machine, as a set for `Protocol.on`."""
    return frozenset(name for name, has in ((IDC, idc), (DIC, dic), (BROADCAST, broadcast)) if has)


def steps(protocol: str | Protocol, sites: Sequence[Site], machine: Machine = USUAL) -> list[Step]:
    """The steps of a protocol over these sites; RequestError for an unknown protocol."""
    return _Shape(_protocol(protocol), _placed(sites), 0, machine, TOGETHER).steps()


def instructions(step: Step, sites: Sequence[Site], machine: Machine) -> str:
    """The instructions of the step, separated by `;`; empty for a step without instructions."""
    return _text(_Shape(PROTOCOLS["stop"], _placed(sites), 1, machine, TOGETHER), step, 1)


def omittable(protocol: str, sites: Sequence[Site], machine: Machine = USUAL) -> list[str]:
    """The names of the steps that `build(omit=…)` can leave out of the protocol."""
    return [step.name for step in steps(protocol, sites, machine) if not step.essential]


def build(
    protocol: str | Protocol,
    sites: Sequence[Site],
    *,
    executors: int = 1,
    idc: bool = False,
    dic: bool = False,
    broadcast: bool = True,
    written_for: tuple[bool, bool] | None = None,
    line: int = TOGETHER,
    omit: frozenset[str] = frozenset(),
    falls_through: bool = False,
    free: int = MOST_WORDS,
    enter: int = 0,
    returns: int = 0,
    simple: bool = False,
) -> Case:
    """The protocol over these sites. Each executor passes all sites in order, once, and may come back into any site.

    - `protocol`: a key of PROTOCOLS, or steps of another origin.
    - `executors`: the number of other CPUs. With 0, the patching CPU itself passes the sites afterwards.
    - `idc`, `dic`: the machine's CTR_EL0 bits.
    - `written_for`: the (idc, dic) for which the steps of cache maintenance were chosen; None for the machine's own.
    - `broadcast`: an IC reaches all CPUs. Without it each CPU invalidates its own instruction cache.
    - `line`: the size of a cache line in bytes: APART, TOGETHER, or larger for all sites on one line.
    - `omit`: names of steps to leave out, from `omittable`.
    - `falls_through`: as in Program.
    - `free`: in each site, only the first `free` changed words may be fetched as new. The others are in Program.pinned.
    - `enter`: the index of the word at which a CPU enters the first site.
    - `simple`: as in Program.
    - `returns`: how often a CPU comes back, where a site's `comes_back` allows it.

    RequestError for an unknown protocol or step, for no site, and for too many sites or executors. ScopeError for DIC
    without IDC, for several executors without broadcast, and for a site whose first word is the guarding BRK.
    """
    if dic and not idc:
        raise ScopeError("DIC=1 with IDC=0 is not covered by the current axioms: they know 0/0, IDC=1, and both")
    if not 0 <= executors <= MOST_EXECUTORS:
        raise RequestError(f"{executors} executors; a proof takes at most {MOST_EXECUTORS}")
    if not broadcast and executors > 1:
        raise ScopeError("without broadcast one CPU is watched at a time: the models let every IC reach all CPUs")
    chosen = machine_of(*((idc, dic) if written_for is None else written_for), broadcast)
    placed = _placed(sites)
    shape = _Shape(_protocol(protocol), placed, executors, chosen, line)
    protocol = shape.protocol.name
    known = [step.name for step in shape.protocol.on(chosen) if not step.essential]
    unknown = sorted(omit - set(known))
    if unknown:
        raise RequestError(f"{unknown[0]!r} cannot be left out of {protocol}; there are {', '.join(known)}")
    present = shape.steps()
    left = [step for step in present if step.name not in omit]
    interrupts = sum(step.act is Act.INTERRUPT for step in left)
    by_flag = any(step.act in (Act.SIGNAL, Act.READ_SIGNAL, Act.AWAIT_SIGNAL) for step in left)
    told = ("read", 1) if by_flag else ("irq", interrupts)
    # In a protocol with interrupts but no ENTER step, the interrupt only brings a CPU to the rendezvous. Its exception
    # entry and return then count as no context synchronisation.
    synchronises = any(step.act is Act.ENTER for step in left) or not interrupts

    code: dict[int, int] = {}
    owners: dict[int, Step] = {}

    def put(start: int, parts: Sequence[Step], last: str) -> None:
        place = start
        texts = [(step, text) for step, text in _texts(shape, parts) if step.name not in omit]
        for step, text in [*texts, (None, last)]:
            for line in text.split("; ") if text else ():
                # Only the words of branches depend on their place.
                code[place] = _word(line, place if line.startswith(("b", "cb")) else 0)
                if step is not None:
                    owners[place] = step
                place += 4

    entry = _SITES + 4 * enter
    put(_PATCHER, [step for step in present if step.cpu == PATCHER], f"b {_END if executors else entry:#x}")
    if executors:
        others = [step for step in present if step.cpu == OTHER]
        put(_EXECUTOR, [step for step in others if not step.interrupted], f"b {entry:#x}")
        put(_INTERRUPT, [step for step in others if step.interrupted], "eret")
    ends = "; ".join(
        f"movz x10, #{address + 4 * site.head:#x}; movz x11, #{address + 4 * len(site.old):#x}; cmp x9, x10;"
        " csel x9, x11, x9, eq"
        for address, site in placed
    )
    put(_BREAKPOINT, [], f"mrs x9, elr_el1; {ends}; msr elr_el1, x9; eret")
    words: dict[int, tuple[int, int]] = {}
    names = {_FLAG: "flag"}
    names |= {_answer(number): f"answer{number + 1}" for number in range(executors)}
    names |= dict.fromkeys(
        (address for address in code if _EXECUTOR <= address < _INTERRUPT), "the code in front of the site"
    )
    names[_END] = "the code behind the site"
    windows = []
    comes_back = returns > 0 and any(site.comes_back for _, site in placed)
    pinned: list[int] = []
    entries: list[int] = []
    keep_out: set[int] = set()
    if protocol == BREAKPOINT.name and any(BRK in (site.old[site.head], site.new[site.head]) for _, site in placed):
        raise ScopeError(f"the word {BRK:08x} is in the site already, and the protocol puts it there as a guard")
    for number, (address, site) in enumerate(placed):
        end = address + 4 * len(site.old)
        windows.append(range(address, end))
        onwards = placed[number + 1][0] if number + 1 < len(placed) else _END
        code |= {address + 4 * index: word for index, word in enumerate(site.old)}
        put(end, [], f"b {onwards:#x}")
        names[end] = "the code behind the site"
        changed = [address + 4 * index for index, word in enumerate(site.old) if word != site.new[index]]
        pinned += changed[free:]
        keep_out |= set(range(address + 4, end, 4))
        entries += changed[:free]
        if site.comes_back and site.kept_out:
            keep_out.add(end)
        elif site.comes_back and falls_through:
            # Between two words of the small program lies all that is between them on the machine.
            keep_out.clear()
        for index, pair in enumerate(zip(site.old, site.new, strict=True)):
            if pair[0] != pair[1]:
                words[address + 4 * index] = pair
            label = "site" if len(placed) == 1 else f"site{number + 1}"
            names[address + 4 * index] = f"{label}+{4 * index}" if index else label
    patcher = Thread(_PATCHER, {}, "patcher", sync_vector=_BREAKPOINT)
    vector = _INTERRUPT if interrupts else None
    threads = [
        Thread(_EXECUTOR, {6: _answer(number)}, f"CPU {number + 1}", _BREAKPOINT, vector) for number in range(executors)
    ]
    memory = {_FLAG: 0} | {_answer(number): 0 for number in range(executors)}
    program = Program(
        (patcher, *threads), code, memory, idc, dic, synchronises, synchronises, line,
        names=names, windows=tuple(windows), falls_through=falls_through, pinned=frozenset(pinned),
        entries=tuple(entries), outside=end if comes_back else -1, returns=returns, simple=simple,
        guards={address + 4 * site.head: BRK for address, site in placed} if protocol == BREAKPOINT.name else {},
    )  # fmt: skip
    title = "another CPU" if executors else "the patching CPU itself"
    looks = any(step.act is Act.LOOK for step in left)
    return Case(
        protocol, title, program, int(bool(executors)), words, owners, told if executors else ("start", 0),
        frozenset(keep_out if looks else ()),
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _word(text: str, place: int) -> int:
    return assemble_one(text, place)


def _placed(sites: Sequence[Site]) -> list[tuple[int, Site]]:
    if not sites or len(sites) > MOST_SITES:
        raise RequestError(f"{len(sites)} sites; a proof takes from 1 to {MOST_SITES}")
    return [(_SITES + _SITE_STEP * number, site) for number, site in enumerate(sites)]


def _protocol(name: str | Protocol) -> Protocol:
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise RequestError(f"there is no protocol {name!r}: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]

"""The ways to change code under executing CPUs, as small programs of the instructions that are really executed.

Read on: prove.py asks of these programs what a CPU could execute; ../patch/text.py carries the same protocols out.

    nosync  store, clean, invalidate, ISB; then a flag is set, and who has seen the flag synchronises itself (ISB).
    kick    nosync without a flag: an interrupt (SGI) goes to every other CPU. Linux: kick_all_cpus_sync().
    stop    every CPU is called by an interrupt, says so and waits; when all have come, one patches and lets the others
            go, each after an ISB. Linux: aarch64_insn_patch_text(), whose counter orders more than the flags here.
    brk     BRK over the first word, the rest, the first word; after each of the three a kick that is waited for. A CPU
            that meets the BRK executes a copy of the old words elsewhere. Linux on x86: text_poke_bp().

An interrupt is taken at any instruction boundary, inside the patched words too, or not at all.
Sources: Linux v6.12 arch/arm64/kernel/patching.c, arch/arm64/mm/cache.S (caches_clean_inval_pou),
drivers/irqchip/irq-gic-v3.c (gic_ipi_send_mask), arch/x86/kernel/alternative.c (text_poke_bp_batch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from a64patch.a64.assembler import assemble
from a64patch.errors import RequestError, ScopeError
from a64patch.proof.program import Program, Thread
from a64patch.proof.traces import Trace

MOST_EXECUTORS = 16
MOST_SITES = 16
MOST_WORDS = 32
"""Of one site."""

_PATCHER, _EXECUTOR, _INTERRUPT, _BREAKPOINT, _SITES, _END = 0x1000, 0x2000, 0x3000, 0x3800, 0x4000, 0xF000
_SITE_STEP = 0x100
_FLAG, _ACKNOWLEDGED = 0x8000, 0x8100
BRK = assemble("brk #0x4")[0]
"""What guards the first word meanwhile: the one of Linux's kprobes."""

APART, TOGETHER = 4, 64
"""Sizes of a cache line: every word on a line of its own, or the words of a site on one."""


@dataclass(frozen=True)
class Site:
    """Neighbouring words that are replaced as one. `head` is the one that is written first, and guarded by BRK."""

    old: tuple[int, ...]
    new: tuple[int, ...]
    head: int = 0

    def __post_init__(self) -> None:
        if not self.old or len(self.old) != len(self.new):
            raise RequestError(f"{len(self.old)} old and {len(self.new)} new words: as many of both, at least one")
        if len(self.old) > MOST_WORDS:
            raise RequestError(f"{len(self.old)} words in one site; a proof takes at most {MOST_WORDS}")
        if self.old == self.new:
            raise RequestError("old and new words are the same: there is nothing to prove")


@dataclass(frozen=True)
class Step:
    """A part of a protocol that can be left out to see what it is for."""

    name: str
    cpu: str
    """patcher or executor."""
    text: str
    """Instructions, separated by `;`."""
    what: str
    """What they are for, for people."""
    essential: bool = False
    """Without it the protocol says nothing at all: a store, the flag, the interrupt."""


@dataclass(frozen=True)
class Case:
    """A program, the CPU that is watched, and how to tell from its trace what it was promised."""

    protocol: str
    title: str
    program: Program
    subject: int
    """Number of the thread that is watched."""
    words: Mapping[int, tuple[int, int]]
    """Old and new word of each address that changes (bytes)."""
    steps: Mapping[int, Step]
    """The step that an instruction belongs to, by its address."""
    told: tuple[str, int]
    """When the watched CPU knows that patching is done: `read` of that value, `irq` number so many, `start`."""
    checks_pcs: bool
    """No CPU stops inside a site."""

    def possible(self, trace: Trace) -> bool:
        """Whether the protocol lets a CPU run like this: with PCs checked, none was interrupted inside a site."""
        return not self.checks_pcs or not any(
            event.kind == "TE" and event.order == "irq" and event.pc in window and event.pc != window.start
            for event in trace.events
            for window in self.program.windows
        )

    def done(self, trace: Trace) -> int | None:
        """The number of instructions after which the watched CPU had been told, None when it never was."""
        kind, number = self.told
        if kind == "start":
            return 0
        if kind == "read":
            found = (event.step for event in trace.events if event.kind == "R" and event.address == _FLAG
                     and event.value == number)  # fmt: skip
            return next(found, None)
        entries = [event.step for event in trace.events if event.kind == "TE" and event.order == "irq"]
        return entries[number - 1] if len(entries) >= number else None


@dataclass(frozen=True)
class _Shape:
    """What the text of a protocol depends on."""

    sites: Sequence[tuple[int, Site]]
    executors: int
    idc: bool
    dic: bool
    line: int


@dataclass(frozen=True)
class _Text:
    patcher: list[Step]
    executor: list[Step]
    """Before the sites."""
    interrupt: list[Step]
    told: tuple[str, int]
    synchronises: bool = True
    """The interrupt itself synchronises the context of the CPU."""


def _answer(executor: int) -> int:
    """Where an executor says that it has come, or was interrupted."""
    return _ACKNOWLEDGED + 8 * executor


def _patcher(name: str, text: str, what: str, essential: bool = False) -> Step:
    return Step(name, "patcher", text, what, essential)


def _executor(name: str, text: str, what: str, essential: bool = False) -> Step:
    return Step(name, "executor", text, what, essential)


def _stores(words: Sequence[tuple[int, int]], prefix: str = "") -> Step:
    text = [
        f"movz x1, #{address:#x}; movz w0, #{word & 0xFFFF:#x}; movk w0, #{word >> 16:#x}, lsl #16; str w0, [x1]"
        for address, word in words
    ]
    return _patcher(f"{prefix}store", "; ".join(text), "stores the new word", essential=True)


def _publish(shape: _Shape, addresses: Sequence[int], prefix: str = "") -> list[Step]:
    """Linux's caches_clean_inval_pou() for CTR_EL0.IDC and .DIC as given."""
    lines = [f"movz x1, #{line * shape.line:#x}; " for line in sorted({address // shape.line for address in addresses})]
    steps = []
    if shape.idc:
        steps.append(_patcher(f"{prefix}dsb-dc", "dsb ishst", "waits until the store is done"))
    else:
        clean = "; ".join(f"{line}dc cvau, x1" for line in lines)
        steps.append(_patcher(f"{prefix}dc", clean, "cleans the line to the point of unification"))
        steps.append(_patcher(f"{prefix}dsb-dc", "dsb ish", "waits until the line is clean"))
    if not shape.dic:
        invalidate = "; ".join(f"{line}ic ivau, x1" for line in lines)
        steps.append(_patcher(f"{prefix}ic", invalidate, "invalidates the line in every instruction cache"))
        steps.append(_patcher(f"{prefix}dsb-ic", "dsb ish", "waits until the invalidation is done everywhere"))
    steps.append(_patcher(f"{prefix}isb", "isb", "discards what the patching CPU itself has fetched"))
    return steps


def _words(shape: _Shape, which: Callable[[Site, int], bool] = lambda site, index: True) -> list[tuple[int, int]]:
    """Address and new word of all that changes, the head of each site first."""
    found = []
    for address, site in shape.sites:
        indexes = sorted(range(len(site.new)), key=lambda index, head=site.head: (index != head, index))  # type: ignore[misc]
        found += [(address + 4 * n, site.new[n]) for n in indexes if site.old[n] != site.new[n] and which(site, n)]
    return found


def _nosync(shape: _Shape) -> _Text:
    words = _words(shape)
    flag, look = f"movz x3, #{_FLAG:#x}; movz w2, #1; str w2, [x3]", f"movz x3, #{_FLAG:#x}; ldr w4, [x3]"
    return _Text(
        [_stores(words), *_publish(shape, [address for address, _ in words]),
         _patcher("flag", flag, "tells the others that the patch is done", essential=True)],
        [_executor("read-flag", look, "looks whether the patch is done", essential=True),
         _executor("test-flag", "cbz w4, .+4", "makes the ISB wait for the flag"),
         _executor("isb-executor", "isb", "discards what this CPU has fetched")],
        [], ("read", 1),
    )  # fmt: skip


def _kick(shape: _Shape) -> _Text:
    words = _words(shape)
    return _Text(
        [_stores(words), *_publish(shape, [address for address, _ in words]),
         _patcher("dsb-sgi", "dsb ishst", "waits for all stores before the interrupt is sent"),
         _patcher("sgi", "msr icc_sgi1r_el1, x2", "interrupts every other CPU", essential=True)],
        [], [], ("irq", 1),
    )  # fmt: skip


def _stop(shape: _Shape) -> _Text:
    words = _words(shape)
    waits = [f"movz x7, #{_answer(number):#x}; ldr w5, [x7]; cbz w5, {_END:#x}" for number in range(shape.executors)]
    go = f"movz x3, #{_FLAG:#x}; movz w2, #1; str w2, [x3]"
    return _Text(
        [_patcher("sgi", "msr icc_sgi1r_el1, x2", "calls every other CPU", essential=True),
         _patcher("wait", "; ".join(waits) or "nop", "waits until every CPU has come"),
         _stores(words), *_publish(shape, [address for address, _ in words]),
         _patcher("go", go, "lets the others go", essential=True)],
        [],
        [_executor("arrive", "movz w2, #1; str w2, [x6]", "says that it has come", essential=True),
         _executor("read-go", f"movz x3, #{_FLAG:#x}; ldr w4, [x3]", "looks whether the patch is done", essential=True),
         _executor("wait-executor", f"cbz w4, {_END:#x}", "waits until the patch is done"),
         _executor("isb-executor", "isb", "discards what this CPU has fetched")],
        ("read", 1), synchronises=False,
    )  # fmt: skip


def _breakpoint(shape: _Shape) -> _Text:
    heads = {address + 4 * site.head: site.new[site.head] for address, site in shape.sites}
    steps: list[Step] = []
    phases = (
        ("guard", [(address, BRK) for address in heads]),
        ("tail", [(address, word) for address, word in _words(shape) if address not in heads]),
        ("head", list(heads.items())),
    )
    number = 0
    for name, words in phases:
        if not words:
            continue
        number += 1
        waits = [f"movz x7, #{_answer(other):#x}; ldr w5, [x7]; cmp w5, #{number}; b.ne {_END:#x}"
                 for other in range(shape.executors)]  # fmt: skip
        steps += [
            _stores(words, f"{name}."),
            *_publish(shape, [address for address, _ in words], f"{name}."),
            _patcher(f"{name}.sgi", "msr icc_sgi1r_el1, x2", "interrupts every other CPU", essential=True),
            _patcher(f"{name}.wait", "; ".join(waits) or "nop", "waits until every CPU was interrupted"),
        ]
    answer = _executor("answer", "add x8, x8, #1; str w8, [x6]", "says that it was interrupted", essential=True)
    return _Text(steps, [], [answer], ("irq", number))


PROTOCOLS: dict[str, Callable[[_Shape], _Text]] = {
    "nosync": _nosync,
    "kick": _kick,
    "stop": _stop,
    "brk": _breakpoint,
}
PC_CHECK = "pc-check"
"""What `stop` does besides: no CPU may stop inside a site of several words, see patch_text_sync."""


def steps(protocol: str, sites: Sequence[Site], *, idc: bool = False, dic: bool = False) -> list[Step]:
    """The steps of a protocol, those of the patching CPU first; RequestError for an unknown one."""
    text = _text(protocol, _Shape(_placed(sites), 1, idc, dic, TOGETHER))
    return [*text.patcher, *text.executor, *text.interrupt]


def omittable(protocol: str, sites: Sequence[Site], *, idc: bool = False, dic: bool = False) -> list[str]:
    """The names of what can be left out of it, one by one."""
    names = [step.name for step in steps(protocol, sites, idc=idc, dic=dic) if not step.essential]
    return [*names, PC_CHECK] if protocol == "stop" else names


def build(
    protocol: str,
    sites: Sequence[Site],
    *,
    executors: int = 1,
    idc: bool = False,
    dic: bool = False,
    written_for: tuple[bool, bool] | None = None,
    line: int = TOGETHER,
    omit: frozenset[str] = frozenset(),
    falls_through: bool = False,
    free: int = MOST_WORDS,
    enter: int = 0,
) -> Case:
    """The protocol over these sites, which every executor passes once, one after the other.

    With no executor the patching CPU itself passes them afterwards. `idc` and `dic` are the machine's; `written_for`
    is for which of them the maintenance was chosen, the machine's own when it is None. `line` is the size of a cache
    line in bytes (APART, TOGETHER, or larger: all sites on one). `falls_through` as in Program. Of the words that
    change in a site only the first `free` are fetched in all their forms, the others in the old one: Program.pinned.
    `enter` is the number of the word at which the first site is entered.

    RequestError for an unknown protocol or step, or too many of anything; ScopeError for DIC without IDC.
    """
    if dic and not idc:
        raise ScopeError("DIC=1 with IDC=0 is not covered by the current axioms: they know 0/0, IDC=1, and both")
    if not 0 <= executors <= MOST_EXECUTORS:
        raise RequestError(f"{executors} executors; a proof takes at most {MOST_EXECUTORS}")
    chosen = (idc, dic) if written_for is None else written_for
    placed = _placed(sites)
    text = _text(protocol, _Shape(placed, executors, *chosen, line))
    known = omittable(protocol, sites, idc=chosen[0], dic=chosen[1])
    unknown = sorted(omit - set(known))
    if unknown:
        raise RequestError(f"{unknown[0]!r} cannot be left out of {protocol}; there are {', '.join(known)}")

    code: dict[int, int] = {}
    owners: dict[int, Step] = {}

    def put(start: int, parts: Sequence[Step], last: str) -> None:
        place = start
        for step in [*parts, Step("", "", last, "")]:
            if step.name in omit:
                continue
            for word in assemble(step.text, place):
                code[place] = word
                owners[place] = step
                place += 4

    entry = _SITES + 4 * enter
    put(_PATCHER, text.patcher, f"b {_END if executors else entry:#x}")
    if executors:
        put(_EXECUTOR, text.executor, f"b {entry:#x}")
        put(_INTERRUPT, text.interrupt, "eret")
    first = placed[0][1]
    skip = 4 * (len(first.old) - first.head)
    put(_BREAKPOINT, [], f"mrs x9, elr_el1; add x9, x9, #{skip}; msr elr_el1, x9; eret")
    words: dict[int, tuple[int, int]] = {}
    names = {_FLAG: "flag"}
    names |= {_answer(number): f"answer{number + 1}" for number in range(executors)}
    names |= dict.fromkeys((address for address in code if _EXECUTOR <= address < _INTERRUPT), "what precedes the site")
    names[_END] = "what follows the site"
    windows = []
    pinned: list[int] = []
    for number, (address, site) in enumerate(placed):
        end = address + 4 * len(site.old)
        windows.append(range(address, end))
        onwards = placed[number + 1][0] if number + 1 < len(placed) else _END
        code |= {address + 4 * index: word for index, word in enumerate(site.old)}
        put(end, [], f"b {onwards:#x}")
        names[end] = "what follows the site"
        pinned += [address + 4 * index for index, word in enumerate(site.old) if word != site.new[index]][free:]
        for index, pair in enumerate(zip(site.old, site.new, strict=True)):
            if pair[0] != pair[1]:
                words[address + 4 * index] = pair
            label = "site" if len(placed) == 1 else f"site{number + 1}"
            names[address + 4 * index] = f"{label}+{4 * index}" if index else label
    patcher = Thread(_PATCHER, {}, "patcher", sync_vector=_BREAKPOINT)
    vector = _INTERRUPT if text.told[0] == "irq" or protocol == "stop" else None
    others = [
        Thread(_EXECUTOR, {6: _answer(number)}, f"CPU {number + 1}", _BREAKPOINT, vector) for number in range(executors)
    ]
    memory = {_FLAG: 0} | {_answer(number): 0 for number in range(executors)}
    program = Program(
        (patcher, *others), code, memory, idc, dic, text.synchronises, text.synchronises, line,
        names=names, windows=tuple(windows), falls_through=falls_through, pinned=frozenset(pinned),
    )  # fmt: skip
    title = "another CPU" if executors else "the patching CPU itself"
    told = text.told if executors else ("start", 0)
    checks = protocol == "stop" and PC_CHECK not in omit
    return Case(protocol, title, program, int(bool(executors)), words, owners, told, checks)


def _placed(sites: Sequence[Site]) -> list[tuple[int, Site]]:
    if not sites or len(sites) > MOST_SITES:
        raise RequestError(f"{len(sites)} sites; a proof takes from 1 to {MOST_SITES}")
    return [(_SITES + _SITE_STEP * number, site) for number, site in enumerate(sites)]


def _text(protocol: str, shape: _Shape) -> _Text:
    if protocol not in PROTOCOLS:
        raise RequestError(f"there is no protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol](shape)

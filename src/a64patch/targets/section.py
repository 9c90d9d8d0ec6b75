"""A section: one change to a target, as one value. It is made before any CPU stops, then carried out by a protocol.

Read on: ../protocols.py has the steps; ../patch/sites.py finds the addresses where no CPU may be; ../patch/text.py
makes sections, and tries again when a CPU is at such an address.

`carry_out` asks the target for the operations of the protocol, in their order:
- Before it writes, it compares every word with the expected word.
- After it publishes, it reads every word back.
- When an operation fails after the first write and before the CPUs are let go, it puts the old words back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from a64patch.a64.words import INSN_SIZE, from_bytes, to_bytes
from a64patch.errors import BusyError, MismatchError, PartialPatchError
from a64patch.oneline import counted, shown, some
from a64patch.protocols import PROTOCOLS, Method, Operation
from a64patch.ranges import Ranges

if TYPE_CHECKING:
    from a64patch.targets.base import CpuState, Target


class Change(NamedTuple):
    """One word: at `address` (bytes), `old` becomes `new`."""

    address: int
    old: int
    new: int

    def __repr__(self) -> str:
        return shown(self, f"{self.address:#x}: {self.old:08x} -> {self.new:08x}")


@dataclass(frozen=True)
class Section:
    """Words that are written together, the protocol for it, and where no CPU may be. Computed before any CPU waits."""

    changes: tuple[Change, ...]
    """Every word that is written, with its expected old word."""
    unchanged: tuple[tuple[int, int], ...] = ()
    """(address, word) of the words between changed words. They are compared like old words, and stay as they are."""
    publish: tuple[tuple[int, int], ...] = ()
    """The ranges [start, end) that become visible to instruction fetch."""
    keep_out: Ranges = field(default_factory=Ranges)
    """The addresses where no CPU may stand and to which no CPU may return."""
    protocol: Method = "stop"
    """The name of the protocol, a key of protocols.PROTOCOLS."""
    addresses: tuple[int, ...] = field(init=False)
    """The addresses of all words that are read: first from `changes`, then from `unchanged`."""
    olds: tuple[int, ...] = field(init=False)
    """The expected word at each of `addresses` before the change."""
    news: tuple[int, ...] = field(init=False)
    """The expected word at each of `addresses` after the change."""
    reads: tuple[tuple[int, int], ...] = field(init=False)
    """(address, bytes) of each word that is read."""
    writes: tuple[tuple[int, bytes], ...] = field(init=False)
    """(address, bytes) of each word that is written."""

    def __repr__(self) -> str:
        places = some((f"{change.address:#x}" for change in self.changes), len(self.changes))
        return shown(
            self, f"{self.protocol}: {counted(len(self.changes), 'word')} at {places}; keep_out", str(self.keep_out)
        )

    def __post_init__(self) -> None:
        kept = [word for _, word in self.unchanged]
        put = object.__setattr__
        put(self, "addresses", (*(change.address for change in self.changes), *(at for at, _ in self.unchanged)))
        put(self, "olds", (*(change.old for change in self.changes), *kept))
        put(self, "news", (*(change.new for change in self.changes), *kept))
        put(self, "reads", tuple((address, INSN_SIZE) for address in self.addresses))
        data = to_bytes([change.new for change in self.changes])
        put(
            self,
            "writes",
            tuple(
                (change.address, data[at : at + INSN_SIZE])
                for change, at in zip(self.changes, range(0, len(data), INSN_SIZE), strict=True)
            ),
        )


class Found(NamedTuple):
    """A CPU that stands at an address in `Section.keep_out`, or will return to that address."""

    cpu: int
    address: int
    stands: bool
    """The CPU's PC is this address; when false, the CPU will return to it."""

    def __repr__(self) -> str:
        return shown(self, f"CPU {self.cpu}", "stands at" if self.stands else "will return to", f"{self.address:#x}")


class Outcome(NamedTuple):
    """The result of carrying out a section."""

    cpus: tuple[int, ...] = ()
    """The CPUs that were stopped."""
    window_ns: int | None = None
    """Nanoseconds from the last CPU's arrival until all CPUs were let go; None when no CPU was stopped."""
    found: tuple[Found, ...] = ()
    """The CPUs in `Section.keep_out`. When there are any, nothing was read or written."""

    def __repr__(self) -> str:
        window = "" if self.window_ns is None else f" for {self.window_ns} ns"
        found = some(map(repr, self.found), len(self.found))
        return shown(
            self, f"not done: {found};" if found else "done;", f"{counted(len(self.cpus), 'CPU')} stopped{window}"
        )

    @property
    def done(self) -> bool:
        """Every word was written, published and read back."""
        return not self.found


def carry_out(
    target: Target,
    section: Section,
    *,
    read: Callable[[], Sequence[bytes]] | None = None,
    write: Callable[[], None] | None = None,
) -> Outcome:
    """Ask the target for each operation of the section's protocol. A target may give a quicker `read` and `write`.

    BusyError when not every CPU comes. MismatchError when a word differs from the expected word, or from the new word
    after it was written. PartialPatchError when old words could not be put back. The target's own errors also pass
    through. When letting go fails, its error passes through and the new words stay.
    """

    def words() -> list[int]:
        return from_bytes(b"".join(read() if read else target.read_many(section.reads)))

    cpus: tuple[int, ...] = ()
    start, window, written = 0, None, False
    operation: Operation | None = None
    with ExitStack() as stop:
        try:
            for operation in PROTOCOLS[section.protocol].operations:
                if operation is Operation.STOP:
                    parked = stop.enter_context(target.stop())
                    start = time.perf_counter_ns()
                    if not parked.rendezvous.everyone_arrived:
                        raise BusyError("not every CPU came to the rendezvous; nothing was changed")
                    cpus = parked.rendezvous.arrived
                elif operation is Operation.LOOK:
                    if section.keep_out and (found := tuple(_found(parked.states(), section.keep_out))):
                        stop.close()
                        return Outcome(cpus, time.perf_counter_ns() - start, found)
                elif operation is Operation.WRITE:
                    require(target, section.addresses, words(), section.olds)
                    written = True
                    if write:
                        write()
                    else:
                        target.write_many(section.writes)
                elif operation is Operation.PUBLISH:
                    target.publish_many(section.publish)
                    _require_written(target, section, words())
                elif operation is Operation.KICK:
                    target.kick()
                elif operation is Operation.LET_GO:
                    stop.close()
                    window = time.perf_counter_ns() - start
        except BaseException as error:
            if operation is Operation.KICK:
                error.add_note("Until it next synchronises its context, a CPU may still execute the new word.")
            if written and operation is not Operation.LET_GO:
                put_back(target, section, error)
            raise
    return Outcome(cpus, window)


def _require_written(target: Target, section: Section, words: Sequence[int]) -> None:
    """MismatchError for the first word that differs from the new word."""
    if tuple(words) == section.news:
        return
    address, word, new = next(
        each for each in zip(section.addresses, words, section.news, strict=True) if each[1] != each[2]
    )
    raise MismatchError(
        f"{target.symbols.describe(address)} holds {word:#010x} after {new:#010x} was written there without an error"
    )


def put_back(target: Target, section: Section, cause: BaseException) -> None:
    """Restore every old word. PartialPatchError when one of them cannot be written, published or read back."""
    for change in section.changes:
        try:
            if not _holds_old(target, change):
                target.write(change.address, to_bytes(change.old))
        except Exception:
            continue  # The check below reports this word if it is not the old word.
    try:
        target.publish_many(section.publish)
        published = True
    except Exception:
        published = False
    lost = [change.address for change in section.changes if not published or not _surely_old(target, change)]
    if lost:
        places = ", ".join(target.symbols.describe(address) for address in lost[:8])
        raise PartialPatchError(
            f"the patch failed ({cause}), and {len(lost)} of {len(section.changes)} words could not be put back:"
            f" {places}",
            lost,
        ) from cause


def require(target: Target, addresses: Sequence[int], found: Sequence[int], wanted: Sequence[int]) -> None:
    """MismatchError for the first address whose word differs from the wanted word."""
    if tuple(found) == tuple(wanted):
        return
    for address, word, want in zip(addresses, found, wanted, strict=True):
        if word != want:
            where = target.symbols.describe(address)
            raise MismatchError(f"{where} holds {word:#010x}, not {want:#010x} as expected; nothing was changed")


def _holds_old(target: Target, change: Change) -> bool:
    return from_bytes(target.read_many([(change.address, INSN_SIZE)])[0])[0] == change.old


def _surely_old(target: Target, change: Change) -> bool:
    try:
        return _holds_old(target, change)
    except Exception:
        return False


def _found(states: Iterable[CpuState], keep_out: Ranges) -> Iterable[Found]:
    """For each CPU in `keep_out`, the first of its addresses there."""
    for state in states:
        for address in (state.pc, *state.return_addresses):
            if address in keep_out:
                yield Found(state.cpu, address, address == state.pc)
                break

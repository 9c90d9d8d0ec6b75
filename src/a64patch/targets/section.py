"""What is done while every CPU waits, as one value: made before anybody stops, carried out by the target.

Read on: ../patch/sites.py says who must keep out, ../patch/text.py makes sections and tries again when somebody is in.

The steps of a stop, in this order, each once: all CPUs have come; nobody is found in `keep_out`; every expected word
is there; the words are written; the ranges are published; the words are read back; all are let go. When anything
fails after the first write, the old words are put back inside the same stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from a64patch.a64.words import INSN_SIZE, from_bytes, to_bytes
from a64patch.errors import BusyError, MismatchError, PartialPatchError
from a64patch.ranges import Ranges

if TYPE_CHECKING:
    from a64patch.targets.base import CpuState, Target


@dataclass(frozen=True, slots=True)
class Change:
    """One word: at `address` (bytes), `old` becomes `new`."""

    address: int
    old: int
    new: int


@dataclass(frozen=True)
class Section:
    """The words of one stop, and who must not be there. Nothing of it is computed while the CPUs wait."""

    changes: tuple[Change, ...]
    """Every word that is written, with the word that must be there before."""
    unchanged: tuple[tuple[int, int], ...] = ()
    """(address, word): context between changed words, which must be there too and stays."""
    publish: tuple[tuple[int, int], ...] = ()
    """The ranges [start, end) that become visible to instruction fetch."""
    keep_out: Ranges = field(default_factory=Ranges)
    """Where no CPU may stand, and where none may return to."""
    addresses: tuple[int, ...] = field(init=False)
    """Of all words that are read: those of `changes`, then those of `unchanged`."""
    olds: tuple[int, ...] = field(init=False)
    """What must be at `addresses` before."""
    news: tuple[int, ...] = field(init=False)
    """What must be at `addresses` afterwards."""
    reads: tuple[tuple[int, int], ...] = field(init=False)
    """(address, bytes) of each word that is read."""
    writes: tuple[tuple[int, bytes], ...] = field(init=False)
    """(address, bytes) of each word that is written."""

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


@dataclass(frozen=True)
class Found:
    """A CPU that was found where nobody may be."""

    cpu: int
    address: int
    stands: bool
    """It stands there; otherwise it will return there."""


@dataclass(frozen=True)
class Outcome:
    """What one stop did."""

    cpus: tuple[int, ...]
    """The CPUs that were stopped."""
    window_ns: int
    """From the moment that the last CPU had arrived until all were let go."""
    found: tuple[Found, ...] = ()
    """Who was in `keep_out`. Nothing was read or written then."""

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
    """One stop, made of the target's single operations. A target may give a quicker `read` and `write` of the section.

    BusyError when not every CPU comes; MismatchError when a word is not the expected one, or is not the new one after
    it was written; PartialPatchError when old words could not be put back; what the target raises.
    """
    with target.stop() as stopped:
        start = time.perf_counter_ns()
        if not stopped.rendezvous.everyone_arrived:
            raise BusyError("not every CPU came to the rendezvous; nothing was changed")
        found = tuple(_found(stopped.states(), section.keep_out)) if section.keep_out else ()
        if not found:
            words = from_bytes(b"".join(read() if read else target.read_many(section.reads)))
            require(target, section.addresses, words, section.olds)
            write_section(target, section, read=read, write=write)
        cpus = stopped.rendezvous.arrived
    return Outcome(cpus, time.perf_counter_ns() - start, found)


def write_section(
    target: Target,
    section: Section,
    *,
    read: Callable[[], Sequence[bytes]] | None = None,
    write: Callable[[], None] | None = None,
) -> None:
    """Write, publish, read back, stopping nobody; when anything of it fails, put the old words back.

    MismatchError, PartialPatchError and what the target raises, as `carry_out`.
    """
    try:
        if write:
            write()
        else:
            target.write_many(section.writes)
        target.publish_many(section.publish)
        words = from_bytes(b"".join(read() if read else target.read_many(section.reads)))
        if tuple(words) != section.news:
            address, word, new = next(
                each for each in zip(section.addresses, words, section.news, strict=True) if each[1] != each[2]
            )
            raise MismatchError(
                f"{target.symbols.describe(address)} holds {word:#010x} after {new:#010x} was written there without an"
                " error"
            )
    except BaseException as error:
        put_back(target, section, error)
        raise


def put_back(target: Target, section: Section, cause: BaseException) -> None:
    """Restore the old word wherever another one is; PartialPatchError when that cannot be done or seen."""
    for change in section.changes:
        try:
            if not _holds_old(target, change):
                target.write(change.address, to_bytes(change.old))
        except Exception:
            continue  # seen below, where it counts
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
    """MismatchError names the first address whose word is not the wanted one."""
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
    """The first address of each CPU at which it may not be."""
    for state in states:
        for address in (state.pc, *state.return_addresses):
            if address in keep_out:
                yield Found(state.cpu, address, address == state.pc)
                break

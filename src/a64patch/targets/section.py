"""A section: one change to a target, as one value. It is made before any CPU stops, then carried out by a protocol.

Read on: ../protocols.py has the steps; ../patch/sites.py finds the addresses where no CPU may be; ../patch/text.py
makes sections, and tries again when a CPU is at such an address.

`carry_out` asks the target for the operations of the protocol, in their order:
- Before the CPUs stop, it prepares the look at the target's `others`.
- Before it writes, it compares every word with the expected word.
- After it publishes, it reads every word back.
- When an operation fails after the first write and before the CPUs are let go, it puts the old words back.

Words of data may change with the code, such as the counter of a static key with its branches. All CPUs wait meanwhile,
so no CPU sees in which order the words are written. The code is written first: when the target refuses it, the data was
never touched. A crash between two writes leaves some words old and some new, in the code, in the data or in both.
So the journal and `recover` treat code and data as one set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from a64patch.a64.words import INSN_SIZE, from_bytes, to_bytes
from a64patch.errors import BusyError, MismatchError, PartialPatchError, RequestError
from a64patch.oneline import counted, shown, some
from a64patch.protocols import PROTOCOLS, Method, Operation
from a64patch.ranges import Ranges

if TYPE_CHECKING:
    from a64patch.targets.base import CpuState, Others, Target


class Change(NamedTuple):
    """One word: at `address` (bytes), `old` becomes `new`."""

    address: int
    old: int
    new: int

    def __repr__(self) -> str:
        return shown(self, f"{self.address:#x}: {self.old:08x} -> {self.new:08x}")


Guard = tuple[int, int]
"""(address, word): a word of data that is not written, and must hold this word inside the stop. Example: the owner of a
mutex must be 0."""


@dataclass(frozen=True)
class Section:
    """Words that are written together, the protocol for it, and where no CPU may be. Computed before any CPU waits.

    RequestError for `data` or `guards` with another protocol than `stop`: a CPU could see the new data with the old
    code. RequestError also as `require_one_set`.
    """

    changes: tuple[Change, ...]
    """Every word of code that is written, with its expected old word."""
    unchanged: tuple[tuple[int, int], ...] = ()
    """(address, word) of the words between changed words. They are compared like old words, and stay as they are."""
    publish: tuple[tuple[int, int], ...] = ()
    """The ranges [start, end) that become visible to instruction fetch."""
    keep_out: Ranges = field(default_factory=Ranges)
    """The addresses where nobody may stand and to which nobody may return."""
    protocol: Method = "stop"
    """The name of the protocol, a key of protocols.PROTOCOLS."""
    data: tuple[Change, ...] = ()
    """Every word of data that is written, with its expected old word. Little-endian, as code is."""
    guards: tuple[Guard, ...] = ()
    """The words of data that are compared, and are not written."""
    addresses: tuple[int, ...] = field(init=False)
    """The addresses of all words that are read: from `changes`, `unchanged`, `data` and `guards`, in this order."""
    olds: tuple[int, ...] = field(init=False)
    """The expected word at each of `addresses` before the change."""
    news: tuple[int, ...] = field(init=False)
    """The expected word at each of `addresses` after the change."""
    reads: tuple[tuple[int, int], ...] = field(init=False)
    """(address, bytes) of each word that is read."""
    writes: tuple[tuple[int, bytes], ...] = field(init=False)
    """(address, bytes) of each word of code that is written."""
    data_writes: tuple[tuple[int, bytes], ...] = field(init=False)
    """(address, bytes) of each word of data that is written."""

    def __repr__(self) -> str:
        places = some((f"{change.address:#x}" for change in self.changes), len(self.changes))
        beside = f" and {counted(len(self.data), 'word')} of data" if self.data else ""
        return shown(
            self,
            f"{self.protocol}: {counted(len(self.changes), 'word')} at {places}{beside}; keep_out",
            str(self.keep_out),
        )

    def __post_init__(self) -> None:
        rows = [
            *self.changes, *((address, word, word) for address, word in self.unchanged),
            *self.data, *((address, word, word) for address, word in self.guards),
        ]  # fmt: skip
        put = object.__setattr__
        put(self, "addresses", tuple(row[0] for row in rows))
        put(self, "olds", tuple(row[1] for row in rows))
        put(self, "news", tuple(row[2] for row in rows))
        if self.data or self.guards:
            if self.protocol != "stop":
                raise RequestError(f"words of data change while all CPUs wait: by stop, not by {self.protocol}")
            require_one_set(self.addresses[: self._code], self.data, self.guards)
        put(self, "reads", tuple((address, INSN_SIZE) for address in self.addresses))
        put(self, "writes", _writes(self.changes))
        put(self, "data_writes", _writes(self.data))

    @property
    def _code(self) -> int:
        """How many of `addresses` are code: the first ones."""
        return len(self.changes) + len(self.unchanged)

    def written(self) -> Iterator[tuple[int, Change]]:
        """Each word that is written, with its index in `addresses`."""
        yield from enumerate(self.changes)
        yield from enumerate(self.data, self._code)

    def is_data(self, index: int) -> bool:
        """Whether the word at this index of `addresses` is data."""
        return index >= self._code

    def describe(self, target: Target, index: int) -> str:
        """The place of the word at this index of `addresses`, by the target's names; `data at` stands before data."""
        where = target.symbols.describe(self.addresses[index])
        return f"data at {where}" if self.is_data(index) else where


def require_one_set(code: Iterable[int], data: Sequence[Change], guards: Sequence[Guard]) -> None:
    """RequestError unless words of code, words of data and guards can be one transaction.

    - No address is that of two words. `code` are the addresses of the words of code.
    - The addresses of data and guards are multiples of 4: such a word is loaded and stored as one (Arm ARM, B2.2.1).
    - Their words are unsigned 32-bit numbers.
    """
    seen = set(code)
    for address, *words in (*data, *guards):
        if address % INSN_SIZE:
            raise RequestError(f"data at {address:#x} is not at a multiple of 4 bytes")
        if address in seen:
            raise RequestError(f"address {address:#x} is given twice among words of code, words of data and guards")
        if not all(0 <= word < 1 << 32 for word in words):
            raise RequestError(f"data at {address:#x}: a word must be a number from 0 to 0xffffffff")
        seen.add(address)


def counted_words(changes: Sequence[Change], data: Sequence[Change]) -> str:
    """How many words are written, for people: `3 words, 1 of them data`."""
    return counted(len(changes) + len(data), "word") + (f", {len(data)} of them data" if data else "")


def _writes(changes: Sequence[Change]) -> tuple[tuple[int, bytes], ...]:
    """(address, bytes) of each new word."""
    data = to_bytes([change.new for change in changes])
    return tuple(
        (change.address, data[at : at + INSN_SIZE])
        for change, at in zip(changes, range(0, len(data), INSN_SIZE), strict=True)
    )


class Found(NamedTuple):
    """A CPU, or one of the target's `others`, at an address in `Section.keep_out`."""

    cpu: int
    """-1 for one of the others."""
    address: int
    stands: bool
    """Its PC is this address; when false, it will return to this address."""
    who: str = ""
    """Which one of the others, for people: `task 42 (sleep)`; empty for a CPU."""
    doubt: str = ""
    """Why it only may return there, for people: the second half of a sentence; empty when it will."""

    def __repr__(self) -> str:
        return shown(self, self.name, self.does, f"{self.address:#x}")

    @property
    def name(self) -> str:
        """For people."""
        return self.who or f"CPU {self.cpu}"

    @property
    def does(self) -> str:
        """For people: the verb before the address."""
        return "stands at" if self.stands else "may return to" if self.doubt else "will return to"


class Outcome(NamedTuple):
    """The result of carrying out a section."""

    cpus: tuple[int, ...] = ()
    """The CPUs that were stopped."""
    window_ns: int | None = None
    """Nanoseconds from the last CPU's arrival until all CPUs were let go; None when no CPU was stopped."""
    found: tuple[Found, ...] = ()
    """All who were in `Section.keep_out`. When there are any, no word was read or written."""

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
    look: Callable[[], Iterable[Found]] | None = None,
) -> Outcome:
    """Ask the target for each operation of the section's protocol. A target may give a quicker `read` and `write`.

    `write` writes the code, then the data. `look` finds all who are in `Section.keep_out`, for a target that knows more
    of them than `StoppedCpus.states` tells. When letting go fails, its error passes through and the new words stay.

    - BusyError when not every CPU comes.
    - MismatchError when a word differs from the expected word, or from the new word after it was written.
    - PartialPatchError when old words could not be put back.
    - The target's own errors also pass through.
    """

    def words() -> list[int]:
        return from_bytes(b"".join(read() if read else target.read_many(section.reads)))

    cpus: tuple[int, ...] = ()
    others = _prepared(target, section)
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
                    if found := tuple(look()) if look else _found(parked.states, section.keep_out, others):
                        stop.close()
                        return Outcome(cpus, time.perf_counter_ns() - start, found)
                elif operation is Operation.WRITE:
                    _require_old(target, section, words())
                    written = True
                    if write:
                        write()
                    else:
                        target.write_many(section.writes)
                        if section.data:
                            target.write_data_many(section.data_writes)
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


def _require_old(target: Target, section: Section, words: Sequence[int]) -> None:
    """MismatchError for the first word that differs from the old word."""
    index = _difference(words, section.olds)
    if index is not None:
        raise MismatchError(_not_expected(section.describe(target, index), words[index], section.olds[index]))


def _prepared(target: Target, section: Section) -> Others | None:
    """The target's others, ready for the look; None when nobody looks, or when the target cannot show them."""
    looks = section.keep_out and Operation.LOOK in PROTOCOLS[section.protocol].operations
    others = target.others if looks else None
    if others is None or others.unseen():
        return None
    others.prepare(section.keep_out)
    return others


def _require_written(target: Target, section: Section, words: Sequence[int]) -> None:
    """MismatchError for the first word that differs from the new word."""
    index = _difference(words, section.news)
    if index is not None:
        where, word, new = section.describe(target, index), words[index], section.news[index]
        if section.olds[index] == new:
            raise MismatchError(f"{where} changed from {new:#010x} to {word:#010x} while other words were written")
        raise MismatchError(f"{where} holds {word:#010x} after {new:#010x} was written there without an error")


def put_back(target: Target, section: Section, cause: BaseException) -> None:
    """Restore every old word, the last written first: the data, then the code.

    PartialPatchError when one of them cannot be written, published or read back.
    """
    for write, changes in ((target.write_data, section.data), (target.write, section.changes)):
        for change in changes:
            try:
                if not _holds_old(target, change):
                    write(change.address, to_bytes(change.old))
            except Exception:
                continue  # The check below reports this word if it is not the old word.
    try:
        target.publish_many(section.publish)
        published = True
    except Exception:
        published = False
    lost = [
        index
        for index, change in section.written()
        if not (published or section.is_data(index)) or not _surely_old(target, change)
    ]
    if lost:
        places = ", ".join(section.describe(target, index) for index in lost[:8])
        raise PartialPatchError(
            f"the patch failed ({cause}), and {len(lost)} of {len(section.changes) + len(section.data)} words could not"
            f" be put back: {places}",
            [section.addresses[index] for index in lost],
        ) from cause


def require(target: Target, addresses: Sequence[int], found: Sequence[int], wanted: Sequence[int]) -> None:
    """MismatchError for the first address whose word differs from the wanted word."""
    index = _difference(found, wanted)
    if index is not None:
        raise MismatchError(_not_expected(target.symbols.describe(addresses[index]), found[index], wanted[index]))


def _difference(found: Sequence[int], wanted: Sequence[int]) -> int | None:
    """The index of the first word that differs; None when all are equal."""
    if tuple(found) == tuple(wanted):
        return None
    return next(index for index, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])


def _not_expected(where: str, word: int, wanted: int) -> str:
    return f"{where} holds {word:#010x}, not {wanted:#010x} as expected; nothing was changed"


def _holds_old(target: Target, change: Change) -> bool:
    return from_bytes(target.read_many([(change.address, INSN_SIZE)])[0])[0] == change.old


def _surely_old(target: Target, change: Change) -> bool:
    try:
        return _holds_old(target, change)
    except Exception:
        return False


def _found(states: Callable[[], Sequence[CpuState]], keep_out: Ranges, others: Others | None) -> tuple[Found, ...]:
    """All who are in `keep_out`."""
    if not keep_out:
        return ()
    cpus = states()
    return (*_found_cpus(cpus, keep_out), *(others.look(keep_out, cpus) if others is not None else ()))


def _found_cpus(states: Iterable[CpuState], keep_out: Ranges) -> Iterable[Found]:
    """For each CPU in `keep_out`, the first of its addresses there."""
    for state in states:
        for address in (state.pc, *state.return_addresses):
            if address in keep_out:
                yield Found(state.cpu, address, address == state.pc)
                break

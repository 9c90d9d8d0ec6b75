"""A target behind a GDB stub: QEMU, kgdb, gdbserver, a JTAG probe. Words are read and written while its CPUs stand.

Read on: base.py for the Target protocol; lifeline.py halts the machine and lets it go; packets.py makes the packets;
stub.py describes each kind of stub; rsp.py speaks the GDB protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from a64patch.a64.words import INSN_SIZE
from a64patch.errors import (
    CapabilityError,
    MappingError,
    ReadError,
    RequestError,
    TargetError,
    WriteError,
)
from a64patch.protocols import Doer, Operation, Step
from a64patch.ranges import Ranges
from a64patch.targets.base import Capabilities, CpuState, Identity, Rendezvous, Room, Target
from a64patch.targets.caves import Caves
from a64patch.targets.frames import follow_frames, without_signatures
from a64patch.targets.lifeline import Lifeline
from a64patch.targets.modules import Module, Modules
from a64patch.targets.packets import PhysicalReading, Reading, Writing, read_stacks
from a64patch.targets.section import Outcome, Section, carry_out
from a64patch.targets.stub import (
    EXCEPTION_LINK,
    GDBSERVER,
    KERNEL_HALF,
    QEMU,
    QEMU_KVM,
    QEMU_USER,
    describe_all,
    read_registers,
)
from a64patch.targets.wire import Location, parse_location

TIMEOUT = 5.0
"""Seconds that a stub may be silent, by default."""

_FRAME_TRIPS = 8
"""Round trips spent on the frame records of all CPUs."""
_ASSUMPTIONS = ("stops", "caches")


class _Halted:
    """The StoppedCpus of a GDB target."""

    def __init__(self, cpus: int, states: Callable[[], Sequence[CpuState]]) -> None:
        self.rendezvous = Rendezvous(range(cpus))
        for cpu in range(cpus):
            self.rendezvous.arrive(cpu)
        self._states = states

    def states(self) -> Sequence[CpuState]:
        """PC and link register of each CPU, and the return addresses in the frame records at the top of its stack.

        When the stub describes ELR_EL1 (QEMU), also the exception return address of each CPU in the kernel.
        """
        return self._states()


class GdbTarget(Target):
    """A machine with all its CPUs, or one process, behind a GDB stub.

    **Halting.** Each operation halts a running machine and lets it go afterwards; inside `stop()` the machine stays
    halted. A machine that is known to have been halted before we connected is never let go. Some stubs do not tell: a
    paused QEMU from 8.1 on, OpenOCD, a stub of unknown kind. Their machine is taken for running. `leave` ("running" or
    "halted") overrules the found state. Closing leaves the machine as it was found, also after a failure, if the stub
    can still be reached.

    **Reading and writing.** The stub reads and writes in its own way. Neighbouring words share packets, and packets
    travel together. A gap of up to 64 bytes within a page of 4 KiB is read with its neighbours, never written. Some
    stubs may refuse to write to text (stub.Kind.writes_read_only): before the first write to such a stub, the first
    word is written over itself as a test.

    CapabilityError, before anything is touched, for:
    - a write, unless the stub is known to make written words visible to instruction fetch, or the user says so
      (`assume`: "caches");
    - a stop or a kick, unless the stub is known to stop all CPUs, or the user says so (`assume`: "stops").

    **A lost connection** makes the operation fail with ReadError or WriteError. The next operation connects again,
    and tries for `timeout` seconds. So the caller can read the words and put them back. A target connects again at most
    16 times, and accepts only a stub of the same kind with the same CPUs. At every address written here, memory must
    still hold the word that was read before, or a word that was written.

    A stub does not know which addresses are code or which builds there are: `modules`, or `knowing` later, tell the
    target. They do not limit writes of code, since there may be more code: every address that the stub accepts may be
    written, unless `knowing` was given a limit. That limit is not for data: `write_data` refuses known code only.

    **New code** goes to the `caves` that the user names, each SITE:SIZE: see caves.py.
    """

    def __init__(
        self,
        location: str | Location,
        *,
        remote: bool = False,
        timeout: float = TIMEOUT,
        baud: int = 115200,
        leave: str = "",
        assume: Sequence[str] = (),
        caves: Sequence[str] = (),
        modules: Iterable[Module] = (),
    ) -> None:
        """Connect, find out the kind of stub, and let its machine run on if it ran.

        CapabilityError for a stub on another machine unless `remote`, since the protocol has no authentication.
        TargetError when the stub cannot be reached or makes no sense. RequestError for an argument out of its range.
        """
        if not 0.01 <= timeout <= 3600:
            raise RequestError(f"timeout={timeout} is out of range; give 0.01 to 3600 seconds")
        if leave not in ("", "running", "halted"):
            raise RequestError(f"leave={leave!r} is neither 'running' nor 'halted'")
        if unknown := [each for each in assume if each not in _ASSUMPTIONS]:
            raise RequestError(f"assume={unknown[0]!r} is none of {', '.join(_ASSUMPTIONS)}")
        if isinstance(location, str):
            location = parse_location(location)
            if location.options:
                raise RequestError(
                    f"{location.text} has settings behind `?`: open_target reads them, GdbTarget does not"
                )
        self._modules = Modules(modules)
        self._location = location
        self._caves = Caves(self, caves)
        self._assume = frozenset(assume)
        self._takes_text: bool | None = None
        """Whether the stub writes to text; None until this has been tried."""
        self._line = Lifeline(
            location,
            lambda address: self.symbols.describe(address),
            remote=remote,
            timeout=timeout,
            baud=baud,
            leave=leave,
        )
        try:
            self._sees_pcs = self._can_see_pcs()
            self.capabilities = self._capabilities()
            self._line.let_go()
        except BaseException:
            with suppress(TargetError):
                self.close()
            raise

    # The Target protocol

    @property
    def location(self) -> str:
        """The stub's address, as `open_target` takes it."""
        return self._location.text

    def identity(self) -> Identity:
        """The identity of the first module. The stub may add which run of a process this is."""
        found = super().identity()
        return found if found.incarnation else replace(found, incarnation=self._line.stub.incarnation)

    def writable(self) -> Ranges | None:
        """The limit given to `knowing`, and no other: there may be code that `modules` does not know."""
        return self._may_write

    def doer(self, step: Step) -> Doer:
        """Who does this step, by the kind of stub and the user's `assume`."""
        kind = self._line.stub.kind
        if step.operation is Operation.LOOK:
            return Doer.US if self._sees_pcs else Doer.NOBODY
        if step.operation is Operation.PUBLISH:
            sure = "caches" in self._assume or (kind.maintains_caches and step.act not in kind.unverified)
            return Doer.TARGET if sure else Doer.UNKNOWN
        if step.operation in (Operation.STOP, Operation.KICK, Operation.LET_GO):
            return Doer.TARGET if self._stops() else Doer.UNKNOWN
        return Doer.US

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes; MappingError when the stub refuses, ReadError when the connection is lost meanwhile."""
        return self.read_many([(address, size)])[0]

    def write(self, address: int, data: bytes) -> None:
        """Put bytes at `address`; WriteError when the stub refuses or the connection is lost. See also the class."""
        self.write_many([(address, data)])

    def write_data(self, address: int, data: bytes) -> None:
        """Put bytes at `address`, outside of known code. Errors as `write`, and MappingError for known code."""
        self.write_data_many([(address, data)])

    def read_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes]:
        """As `read` of each, in one halt. Neighbours share packets, and all packets travel together."""
        return self._read_packets(self._reading(requests))

    def reader(self, requests: Sequence[tuple[int, int]], expected: Sequence[bytes] = ()) -> Callable[[], list[bytes]]:
        """As `read_many` each time, with packets that are built here. Those of `expected` bytes are only compared."""
        reading = self._reading(requests, expected)
        return lambda: self._read_packets(reading)

    def _read_packets(self, reading: Reading) -> list[bytes]:
        requests = reading.requests
        if requests:
            self._line.want(requests[0][0])
        with self._line.hold("read", ReadError):
            seen = self._line.see()
            try:
                result = reading.results(self._line.connection)
            except MappingError:
                if seen:
                    raise
                raise MappingError(
                    f"no CPU at {self._location.text} sees {requests[0][0]:#x} now: it is not mapped, or all of them"
                    " execute users' programs; name a mapped address, or try again"
                ) from None
        self._line.witnesses.note_reads([(address, data) for (address, _), data in zip(requests, result, strict=True)])
        return result

    def system_registers(self, names: Sequence[str]) -> list[dict[str, int]]:
        """As far as the stub describes them. The first call reads the whole description, a few packets more."""
        with self._line.hold("stop", TargetError):
            stub = self._line.stub
            describe_all(self._line.connection, stub)
            self._line.list_threads_anew()
            known = ["pc", *(name for name in dict.fromkeys(names) if name in stub.registers.by_name and name != "pc")]
            values = self._registers(known)
            self._line.see_again()
        return [dict(zip(known, each, strict=True)) for each in values]

    def read_physical_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes]:
        """In one halt, and in one burst of packets. Only QEMU's stub can do it; where no memory is, it reads zeros."""
        if self._line.stub.kind not in (QEMU, QEMU_KVM):
            raise CapabilityError(f"the stub ({self._line.stub.kind.name}) does not read physical addresses")
        reading = PhysicalReading(requests, self._line.connection.packet_size)
        with self._line.hold("read", ReadError):
            return reading.results(self._line.connection)

    def write_many(self, requests: Sequence[tuple[int, bytes]]) -> None:
        """As `write` of each, in one halt. Sends all packets, also after a refused one, and raises the first error.

        After an error any of the words may have been written: read them.
        """
        self._write_packets(self._writing(requests))

    def write_data_many(self, requests: Sequence[tuple[int, bytes]]) -> None:
        """As `write_data` of each, in one halt, as `write_many` does it."""
        self._write_packets(self._writing_data(requests), text=False)

    def _write_packets(self, writing: Writing, *, text: bool = True) -> None:
        if not writing.pieces:
            return
        self._line.want(writing.pieces[0][0])
        with self._line.hold("write", WriteError):
            self._line.see()
            if text:
                self._require_text_taken(writing.pieces[0][0])
            if refused := writing.refusals(self._line.connection):
                address, size, reason = refused[0]
                raise WriteError(
                    f"the stub ({self._line.stub.kind.name}) refuses to write {size} bytes at"
                    f" {self.symbols.describe(address)}: {reason}"
                )

    def carry_out(self, section: Section) -> Outcome:
        """Carry out the section with packets that are built before the machine is halted."""
        read, writing = self.reader(section.reads), self._writing(section.writes)
        writing_data = self._writing_data(section.data_writes)
        if section.addresses:
            self._line.want(section.addresses[0])

        def write() -> None:
            self._write_packets(writing)
            self._write_packets(writing_data, text=False)

        return carry_out(self, section, read=read, write=write)

    def publish(self, start: int, end: int) -> None:
        """Nothing to do: `write` refuses a stub that does not itself publish each write."""

    def publish_many(self, ranges: Sequence[tuple[int, int]]) -> None:
        """As `publish`."""

    def find_room(self, size: int, near: tuple[int, int], alignment: int = 16) -> Room:
        """The first place in the caves, in their order: `Caves.find_room` says what is refused."""
        if not self._caves:
            raise CapabilityError(
                f"it is not known where the machine at {self._location.text} has room for new code: name padding in its"
                " code, --cave SITE:SIZE"
            )
        return self._caves.find_room(size, near, alignment)

    def allocate(self, room: Room) -> None:
        """Write a word behind the room that says so; errors as `Caves.allocate`."""
        self._caves.allocate(room)

    def rooms(self) -> Sequence[Room]:
        """The rooms in the caves, whoever made them. Rooms elsewhere are not known."""
        return self._caves.rooms()

    def release(self, room: Room) -> str:
        """Make the word behind the room padding again, as the room is already; errors as `Caves.release`."""
        self._caves.release(room)
        return ""

    def unseen(self) -> str:
        """As `Target.unseen`. Of a machine that is no process somebody must have told of the tasks of its kernel."""
        if self.others is None and self._line.stub.kind not in (GDBSERVER, QEMU_USER):
            return "nothing tells which tasks its kernel has (--symbols kallsyms)"
        return super().unseen()

    def kick(self) -> None:
        """Halt the machine and let it go: an exception return on every CPU. A halted machine gets it when let go."""
        self._require_stops()
        with self._line.hold("kick", TargetError):
            self._line.connection.ask(b"vMustReplyEmpty")

    @contextmanager
    def stop(self) -> Iterator[_Halted]:
        """Halt the machine. When the block ends, also by an error, let the machine go if it ran when we connected.

        TargetError when the machine does not halt in time, or cannot be reached to let it go. The second error becomes
        a note when the block ends with an error of its own.
        """
        self._require_stops()
        with self._line.hold("stop", TargetError):
            self._line.see()
            self._line.list_threads_anew()
            halted = _Halted(len(self._line.stub.threads), self._states)
            yield halted
            halted.rendezvous.finish()

    def close(self) -> None:
        """Leave the machine as it was found, detach, and close the connection; any number of times.

        When the connection is lost and the machine ran, this connects once more to let the machine go; TargetError
        when that fails.
        """
        self._line.close()

    # For people

    def facts(self) -> dict[str, str]:
        """The known facts about the stub, for people. A write to text is tried with the word at a CPU's PC."""
        kind = self._line.stub.kind
        if self._takes_text is None and kind.writes_read_only is None and self._sees_pcs:
            with suppress(TargetError, CapabilityError), self._line.hold("stop", TargetError):
                place = self._states()[0].pc
                self._line.want(place)
                self._line.see()
                self._require_text_taken(place)
        takes = kind.writes_read_only if self._takes_text is None else self._takes_text
        return {
            "stub": kind.name,
            "architecture": self._line.stub.registers.architecture or "not told, taken for aarch64",
            "a stop halts": kind.stop + (" (assumed: all CPUs)" if "stops" in self._assume else ""),
            "caches are maintained by": kind.caches + (" (assumed: by the stub)" if "caches" in self._assume else ""),
            "writes read-only text": {True: "yes", False: "no", None: "not known"}[takes],
            "the machine was found": self._line.found.value,
            "it will be left": "running" if self._line.runs or kind is QEMU_USER else "halted",
            **super().facts(),
        }

    # What the stub can do

    def _capabilities(self) -> Capabilities:
        stops = self._stops()
        return Capabilities(
            f"GDB stub ({self._line.stub.kind.name})",
            len(self._line.stub.threads),
            stops,
            stops,
            self._sees_pcs,
            broadcast=True,
            writes_data=True,
        )

    def _stops(self) -> bool:
        # A single thread has no other thread that could run on.
        alone = self._line.stub.kind is QEMU_USER and len(self._line.stub.threads) == 1
        return bool(self._line.stub.kind.stops_all) or alone or "stops" in self._assume

    def _require_stops(self) -> None:
        if not self._stops():
            raise CapabilityError(
                f"it is not known whether the stub at {self._location.text} ({self._line.stub.kind.name}) stops all"
                " CPUs; add ?assume=stops if it does"
            )

    def _require_visible(self) -> None:
        """CapabilityError unless each CPU is known to see what the stub writes. A fetch sees no more than a load."""
        if not self._line.stub.kind.maintains_caches and "caches" not in self._assume:
            raise CapabilityError(
                f"it is not known whether the stub at {self._location.text} ({self._line.stub.kind.name}) makes the"
                " words that it writes visible to instruction fetch; add ?assume=caches if it does"
            )

    def _require_writable(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        self._require_visible()
        limit = self.writable()
        for address, data in pieces:
            if limit is not None and not limit.covers(address, address + len(data)):
                raise MappingError(f"{self.symbols.describe(address)} is not code, so it may not be written")

    def _require_text_taken(self, address: int) -> None:
        """CapabilityError unless the stub writes to text. Tried once, with the word at this address over itself."""
        kind, connection = self._line.stub.kind, self._line.connection
        if self._takes_text is not None or kind.writes_read_only is not None:
            return
        [word] = Reading([(address, INSN_SIZE)], connection.packet_size).results(connection)
        same = Writing([(address, word)], connection.packet_size, binary=self._line.stub.writes_binary)
        if refused := same.refusals(connection):
            # Another address may be writable, so nothing is known yet.
            raise CapabilityError(
                f"the stub ({kind.name}) refuses to write to {self.symbols.describe(address)} even the word that it"
                f" holds ({refused[0].reason}): it does not write to read-only text, so nothing was changed"
            )
        self._takes_text = True

    # Packets

    def _reading(self, requests: Sequence[tuple[int, int]], expected: Sequence[bytes] = ()) -> Reading:
        binary = self._line.stub.features.get("binary-upload") == "+"
        return Reading(requests, self._line.connection.packet_size, binary=binary, expected=expected)

    def _writing(self, requests: Sequence[tuple[int, bytes]]) -> Writing:
        """Packets for these writes, once they are known to be allowed.

        The witnesses note the words already here: after a lost connection, any of them may be in memory.
        """
        writing = Writing(requests, self._line.connection.packet_size, binary=self._line.stub.writes_binary)
        self._require_writable(writing.pieces)
        self._line.witnesses.note_writes(writing.pieces)
        return writing

    def _writing_data(self, requests: Sequence[tuple[int, bytes]]) -> Writing:
        """Packets for these writes of data. They are no witnesses: the machine itself may change its data later."""
        writing = Writing(requests, self._line.connection.packet_size, binary=self._line.stub.writes_binary)
        if writing.pieces:
            self._require_visible()
        for address, data in writing.pieces:
            if self.modules.code & Ranges(((address, address + len(data)),)):
                raise MappingError(f"{self.symbols.describe(address)} is code, so it may not be written as data")
        return writing

    # PCs and return addresses

    def _can_see_pcs(self) -> bool:
        try:
            return all(pc % INSN_SIZE == 0 for pc, *_ in self._registers(("pc",)))
        except CapabilityError:
            return False

    def _registers(self, names: Sequence[str]) -> list[list[int]]:
        stub = self._line.stub
        return read_registers(self._line.connection, stub, stub.threads, names)

    def _states(self) -> list[CpuState]:
        if not self._sees_pcs:
            return []
        with self._line.hold("stop", TargetError):
            stub, connection = self._line.stub, self._line.connection
            describes = stub.reads_registers and EXCEPTION_LINK in stub.registers.by_name
            values = self._registers(("pc", "x30", "x29", *([EXCEPTION_LINK] if describes else [])))
            if any(pc % INSN_SIZE for pc, *_ in values):
                raise connection.break_off("a PC is not a multiple of 4")
            frames = follow_frames(
                [head for _, _, head, *_ in values],
                lambda pieces: read_stacks(connection, stub.threads, pieces),
                trips=_FRAME_TRIPS,
            )
            self._line.see_again()
        states = []
        for cpu, ((pc, link, _, *elr), saved) in enumerate(zip(values, frames, strict=True)):
            # After an exception a CPU's return address is at first in ELR_EL1 only.
            returns = [link, *saved, *(elr if pc >= KERNEL_HALF else [])]
            states.append(CpuState(cpu, pc, tuple(dict.fromkeys(without_signatures(returns)))))
        return states


def open_gdb(text: str, **options: Any) -> GdbTarget:
    """The target at `gdb://HOST:PORT`, `gdb+unix:PATH` or `gdb+serial:DEVICE`.

    Settings behind `?`: timeout=SECONDS, baud=NUMBER, leave=running or halted, assume=stops,caches. `options` are the
    constructor's and overrule the settings. RequestError for an unknown key or a senseless value; other errors as
    `GdbTarget`.
    """
    location = parse_location(text)
    for key, value in location.options.items():
        if key not in _SETTINGS:
            raise RequestError(f"a GDB target has no setting {key[:40]!r}; it knows {', '.join(_SETTINGS)}")
        try:
            options.setdefault(key, _SETTINGS[key](value))
        except ValueError:
            raise RequestError(f"{key}={value[:40]!r} makes no sense to a GDB target; give a number") from None
    return GdbTarget(location, **options)


_SETTINGS: dict[str, Callable[[str], Any]] = {
    "timeout": float,
    "baud": int,
    "leave": str,
    "assume": lambda text: text.split(","),
}

"""A target behind a GDB stub: QEMU, kgdb, gdbserver, a JTAG probe. Words are read and written while its CPUs stand.

Read on: base.py for what a target is asked; lifeline.py for when the machine stands; packets.py for what is sent;
stub.py for what each kind of stub does; rsp.py for the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import TracebackType
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
from a64patch.targets.base import Capabilities, CpuState, Identity, Rendezvous, Target
from a64patch.targets.frames import follow_frames, without_signatures
from a64patch.targets.lifeline import Lifeline
from a64patch.targets.modules import Module, Modules
from a64patch.targets.packets import Reading, Writing, read_stacks
from a64patch.targets.section import Outcome, Section, carry_out
from a64patch.targets.stub import EXCEPTION_LINK, KERNEL_HALF, QEMU_USER, read_registers
from a64patch.targets.wire import Location, parse_location

TIMEOUT = 5.0
"""Seconds that a stub may be silent, when nobody says otherwise."""

_FRAME_TRIPS = 8
"""Round trips for the frames of all CPUs."""
_ASSUMPTIONS = ("stops", "caches")


class _Halted:
    """The StoppedCpus of a GDB target."""

    def __init__(self, cpus: int, states: Callable[[], Sequence[CpuState]]) -> None:
        self.rendezvous = Rendezvous(range(cpus))
        for cpu in range(cpus):
            self.rendezvous.arrive(cpu)
        self._states = states

    def states(self) -> Sequence[CpuState]:
        """PC and link register of each CPU, and the return addresses in the frame records on its stack's top.

        Where the stub describes ELR_EL1 (QEMU), the address to which a CPU in the kernel returns from its exception.
        """
        return self._states()


class GdbTarget(Target):
    """What a GDB stub serves: a machine with all its CPUs, or one process.

    **When it is halted.** A machine that runs is halted for each single operation and let go after it; inside `stop()`
    it stays halted. One that is known to have been halted when we came is never let go. One whose stub does not tell
    is taken for running: a QEMU from 8.1 on that somebody paused, OpenOCD, a stub of unknown kind. `leave` ("running"
    or "halted") overrules what was found. Closing leaves it as it was found, also after a failure, as far as the stub
    can still be reached.

    **Reading and writing.** As the stub does it. Neighbouring words share packets, and packets travel together; a gap
    of up to 64 bytes within a page of 4 KiB is read with its neighbours, never written. Before the first write, a stub
    that may refuse text (stub.Kind.writes_read_only) is tried: the first word is written over itself. Who makes the
    words visible to instruction fetch depends on the stub; where that is not known, or not known to stop all CPUs,
    CapabilityError before anything is touched, unless the user says that it does (`assume`: "caches", "stops").

    **A connection that is lost** makes the operation fail with ReadError or WriteError. The next operation connects
    again, tries that for `timeout` seconds, at most 16 times in the target's life, and only to the same kind of stub
    with the same CPUs, in whose memory each word that was written here is the one that was read before or the one
    that was written. So the caller can look, and put back.

    A stub knows neither what is code nor which builds there are: `modules`, or `knowing` later, say what others know.
    They do not limit what may be written, since there may be other code: all that the stub takes may be, unless
    `knowing` was told a limit.
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
        modules: Iterable[Module] = (),
    ) -> None:
        """Connect, ask the stub who it is, and let its machine run on if it ran.

        CapabilityError for a stub on another machine unless `remote`, since the protocol has no authentication;
        TargetError when it cannot be reached or makes no sense; RequestError for an argument out of its range.
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
        self._assume = frozenset(assume)
        self._takes_text: bool | None = None
        """The stub writes to text; None until that has been tried."""
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

    # What a target is asked

    @property
    def location(self) -> str:
        """Where the stub listens."""
        return self._location.text

    def identity(self) -> Identity:
        """By its first module; which run of a process it is, the stub may tell as well."""
        found = super().identity()
        return found if found.incarnation else replace(found, incarnation=self._line.stub.incarnation)

    def writable(self) -> Ranges | None:
        """What `knowing` was told, and no other limit: there may be code that nobody has told of."""
        return self._may_write

    def doer(self, step: Step) -> Doer:
        """By the kind of stub, and by what the user says that it does (`assume`)."""
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
        """Put bytes there; WriteError when the stub refuses or the connection is lost. See the class for the rest."""
        self.write_many([(address, data)])

    def read_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes]:
        """As `read` of each, in one halt; neighbours share packets, and all packets travel together."""
        return self._read_packets(self._reading(requests))

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

    def write_many(self, requests: Sequence[tuple[int, bytes]]) -> None:
        """As `write` of each, in one halt. All are sent, whatever becomes of those before; the first error is raised.

        After an error any of them may have been written: look.
        """
        self._write_packets(self._writing(requests))

    def _write_packets(self, writing: Writing) -> None:
        if not writing.pieces:
            return
        self._line.want(writing.pieces[0][0])
        with self._line.hold("write", WriteError):
            self._line.see()
            self._require_text_taken(writing.pieces[0][0])
            if refused := writing.refusals(self._line.connection):
                address, size, reason = refused[0]
                raise WriteError(
                    f"the stub ({self._line.stub.kind.name}) refuses to write {size} bytes at"
                    f" {self.symbols.describe(address)}: {reason}"
                )

    def carry_out(self, section: Section) -> Outcome:
        """One stop, whole, with packets that are built before the machine is halted."""
        reading, writing = self._reading(section.reads), self._writing(section.writes)
        if section.addresses:
            self._line.want(section.addresses[0])
        return carry_out(
            self, section, read=lambda: self._read_packets(reading), write=lambda: self._write_packets(writing)
        )

    def publish(self, start: int, end: int) -> None:
        """Nothing to do: a stub that does not do it with each write is not written to."""

    def publish_many(self, ranges: Sequence[tuple[int, int]]) -> None:
        """As `publish`."""

    def kick(self) -> None:
        """Halt the machine and let it go: an exception return on every CPU. One that is halted gets it when let go."""
        self._require_stops()
        with self._line.hold("kick", TargetError):
            self._line.connection.ask(b"vMustReplyEmpty")

    @contextmanager
    def stop(self) -> Iterator[_Halted]:
        """Halt the machine, and let it go when the block ends if it ran when we came, whatever happens in the block.

        TargetError when it does not halt in time, or cannot be reached to let it go; the latter is a note when the
        block ends with an error of its own.
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

        When the connection is lost, one more is tried to let a machine go that ran; TargetError when that fails.
        """
        self._line.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except TargetError as second:
            if error is None:
                raise
            # What went wrong first says more, and decides what the caller does.
            error.add_note(f"{str(second)[:1].upper()}{str(second)[1:]}")

    # For people

    def facts(self) -> dict[str, str]:
        """What is known about the stub, for people. Whether it writes text is tried, with the word at a CPU's PC."""
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
        }

    # What may be done

    def _capabilities(self) -> Capabilities:
        stops = self._stops()
        return Capabilities(
            f"GDB stub ({self._line.stub.kind.name})",
            len(self._line.stub.threads),
            stops,
            stops,
            self._sees_pcs,
            broadcast=True,
        )

    def _stops(self) -> bool:
        # With a single thread nobody else could run on.
        alone = self._line.stub.kind is QEMU_USER and len(self._line.stub.threads) == 1
        return bool(self._line.stub.kind.stops_all) or alone or "stops" in self._assume

    def _require_stops(self) -> None:
        if not self._stops():
            raise CapabilityError(
                f"it is not known whether the stub at {self._location.text} ({self._line.stub.kind.name}) stops all"
                " CPUs; add ?assume=stops if it does"
            )

    def _require_writable(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        if not self._line.stub.kind.maintains_caches and "caches" not in self._assume:
            raise CapabilityError(
                f"it is not known whether the stub at {self._location.text} ({self._line.stub.kind.name}) makes what it"
                " writes visible to instruction fetch; add ?assume=caches if it does"
            )
        limit = self.writable()
        for address, data in pieces:
            if limit is not None and not limit.covers(address, address + len(data)):
                raise MappingError(f"{self.symbols.describe(address)} is not code, so it may not be written")

    def _require_text_taken(self, address: int) -> None:
        """The stub writes to text; tried once, by writing the word at this address over itself."""
        kind, connection = self._line.stub.kind, self._line.connection
        if self._takes_text is not None or kind.writes_read_only is not None:
            return
        [word] = Reading([(address, INSN_SIZE)], connection.packet_size).results(connection)
        same = Writing([(address, word)], connection.packet_size, binary=self._line.stub.writes_binary)
        if refused := same.refusals(connection):
            # Another place may do, so nothing is known yet.
            raise CapabilityError(
                f"the stub ({kind.name}) refuses to write to {self.symbols.describe(address)} even the word that it"
                f" holds ({refused[0].reason}): it does not write to read-only text, so nothing was changed"
            )
        self._takes_text = True

    # Packets

    def _reading(self, requests: Sequence[tuple[int, int]]) -> Reading:
        binary = self._line.stub.features.get("binary-upload") == "+"
        return Reading(requests, self._line.connection.packet_size, binary=binary)

    def _writing(self, requests: Sequence[tuple[int, bytes]]) -> Writing:
        """Packets that may be sent, and will be: a lost connection counts them among the words that may be there."""
        writing = Writing(requests, self._line.connection.packet_size, binary=self._line.stub.writes_binary)
        self._require_writable(writing.pieces)
        self._line.witnesses.note_writes(writing.pieces)
        return writing

    # Where CPUs stand

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
            # A CPU that has just taken an exception has its address in ELR_EL1 and nowhere else yet.
            returns = [link, *saved, *(elr if pc >= KERNEL_HALF else [])]
            states.append(CpuState(cpu, pc, tuple(dict.fromkeys(without_signatures(returns)))))
        return states


def open_gdb(text: str, **options: Any) -> GdbTarget:
    """The target that `gdb://HOST:PORT`, `gdb+unix:PATH` or `gdb+serial:DEVICE` means.

    Behind `?` may stand timeout=SECONDS, baud=NUMBER, leave=running or halted, assume=stops,caches. `options` as the
    constructor's. RequestError for an unknown key or a value that is none; else as `GdbTarget`.
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

"""A target behind a GDB stub: QEMU, kgdb, gdbserver, a JTAG probe. Words are read and written while its CPUs stand.

Read on: stub.py for what each kind of stub does; rsp.py for the protocol; base.py for what a target is asked.
"""

from __future__ import annotations

import binascii
import itertools
import os
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, NoReturn

from a64patch.a64.words import INSN_SIZE
from a64patch.errors import (
    CapabilityError,
    MappingError,
    MismatchError,
    ReadError,
    RequestError,
    TargetError,
    WriteError,
)
from a64patch.protocols import Doer, Operation, Step
from a64patch.targets.base import Capabilities, CpuState, Identity, Rendezvous, Target
from a64patch.targets.frames import Piece, follow_frames, without_signatures
from a64patch.targets.rsp import Connection, ConnectionLostError, Found, frame
from a64patch.targets.section import Outcome, Section, carry_out
from a64patch.targets.stub import EXCEPTION_LINK, QEMU_USER, Stub, list_threads, meet, read_registers
from a64patch.targets.symbols import SymbolTable
from a64patch.targets.wire import Location, open_wire, parse_location

TIMEOUT = 5.0
"""Seconds that a stub may be silent, when nobody says otherwise."""

MAX_RECONNECTS = 16
"""How often a target may lose its connection before it is given up."""

_PAGE = 4096
_GAP = 64
_PAUSES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
_PATIENCE = 1.0
_ADDRESSES = 1 << 64
_WITNESSES = 1 << 16
_KERNEL_HALF = 1 << 63
_VANTAGE_PAUSES = (0.001,) * 50
_FRAME_TRIPS = 8
_FIRST_TRIES = 3
_BRIEFLY = 0.5
_SAMPLES = 16
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
    that may refuse text (stub.Kind.writes_read_only) is tried with the word that stands there. Who makes the words
    visible to instruction fetch depends on the stub; where that is not known, or not known to stop all CPUs,
    CapabilityError before anything is touched, unless the user says that it does (`assume`: "caches", "stops").

    **A connection that is lost** makes the operation fail with ReadError or WriteError. The next operation connects
    again, tries that for `timeout` seconds, at most 16 times in the target's life, and only to the same kind of stub
    with the same CPUs, in whose memory each word that was written here is the one that was read before or the one
    that was written. So the caller can look, and put back.

    What is code is not known to a stub. `code` may be set by who knows, and then limits what may be written; while it
    is empty, all that the stub takes may be. `kernel_text` is the code of the kernel alone, where modules are unknown.
    `symbols`, `build_id`, `release` and `base` are for who knows, too.
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
        symbols: SymbolTable | None = None,
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
        self.symbols = symbols or SymbolTable()
        self.code: list[tuple[int, int]] = []
        self.kernel_text: tuple[int, int] | None = None
        self.build_id = ""
        self.release = ""
        self.base = 0
        self._location = location
        self._remote, self._timeout, self._baud = remote, timeout, baud
        self._assume = frozenset(assume)
        self._closed = False
        self._reconnects = 0
        self._reconnect_seconds = 2 * timeout
        self._takes_text: bool | None = None
        self._binary: bool | None = None
        self._read_before: dict[int, bytes] = {}
        self._witness: dict[int, set[bytes]] = {}
        self._interest: int | None = None
        """An address that was read last."""
        self._vantage = False
        """A CPU is selected that can see it; until the machine runs again."""
        self._holders = 0
        """How many blocks now want the machine halted."""
        self._halted = True
        self._connection, self._stub, self._found = self._first_connection()
        self._runs = {"": not self._found.stands, "running": True, "halted": False}[leave]
        """The machine runs whenever nobody wants it halted, and when we have left."""
        try:
            self._sees_pcs = self._can_see_pcs()
            self.capabilities = self._capabilities()
            self._let_go()
        except BaseException:
            with suppress(TargetError):
                self.close()
            raise

    # What a target is asked

    def identity(self) -> Identity:
        """Where the stub listens, and what was set by who knows."""
        return Identity(self._location.text, self.build_id, self.release, self.base)

    def code_ranges(self) -> Sequence[tuple[int, int]]:
        """`code`, ascending: empty while nobody has said what is code, which no stub knows."""
        return sorted(self.code)

    def code_with(self, address: int) -> Sequence[tuple[int, int]]:
        """`code`, or else `kernel_text` for an address in it."""
        text = self.kernel_text
        return self.code_ranges() or ([text] if text and text[0] <= address < text[1] else [])

    def doer(self, step: Step) -> Doer:
        """By the kind of stub, and by what the user says that it does (`assume`)."""
        kind = self._stub.kind
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

    def _read_packets(self, reading: _Reading) -> list[bytes]:
        requests = reading.requests
        if requests:
            self._interest = requests[0][0]
        with self._hold("read", ReadError), _failing("read", ReadError):
            self._find_vantage()
            try:
                result = reading.results(self._connection)
            except MappingError:
                if self._vantage or len(self._stub.threads) == 1:
                    raise
                raise MappingError(
                    f"no CPU at {self._location.text} sees {requests[0][0]:#x} now: it is not mapped, or all of them"
                    " execute users' programs; name a mapped address, or try again"
                ) from None
        if len(self._read_before) + len(requests) > _WITNESSES:
            self._read_before.clear()
        self._read_before.update(
            (address, data) for (address, size), data in zip(requests, result, strict=True) if size == INSN_SIZE
        )
        return result

    def write_many(self, requests: Sequence[tuple[int, bytes]]) -> None:
        """As `write` of each, in one halt. All are sent, whatever becomes of those before; the first error is raised.

        After an error any of them may have been written: look.
        """
        writing = self._writing(requests)
        self._note_witnesses(writing.pieces)
        self._write_packets(writing)

    def _write_packets(self, writing: _Writing) -> None:
        if not writing.pieces:
            return
        self._interest = writing.pieces[0][0]
        with self._hold("write", WriteError), _failing("write", WriteError):
            self._find_vantage()
            self._require_text_taken(writing.pieces[0])
            for (address, data), reply in zip(writing.pieces, writing.replies(self._connection), strict=True):
                if reply != b"OK":
                    self._refused(address, len(data), reply)

    def carry_out(self, section: Section) -> Outcome:
        """One stop, whole, with packets that are built before the machine is halted."""
        reading, writing = self._reading(section.reads), self._writing(section.writes)
        self._note_witnesses(writing.pieces)
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
        with self._hold("kick", TargetError), _failing("kick", TargetError):
            self._connection.ask(b"vMustReplyEmpty")

    @contextmanager
    def stop(self) -> Iterator[_Halted]:
        """Halt the machine, and let it go when the block ends if it ran when we came, whatever happens in the block.

        TargetError when it does not halt in time, or cannot be reached to let it go; the latter is a note when the
        block ends with an error of its own.
        """
        self._require_stops()
        with self._hold("stop", TargetError):
            with _failing("stop", TargetError):
                self._find_vantage()
                if not self._stub.kind.fixed_cpus:
                    self._stub.threads = list_threads(self._connection, len(self._stub.threads))
            halted = _Halted(len(self._stub.threads), self._states)
            yield halted
            halted.rendezvous.finish()

    def close(self) -> None:
        """Leave the machine as it was found, detach, and close the connection; any number of times.

        A machine that was halted as we came is left so by saying nothing: all stubs that can leave it halted do.
        When the connection is lost, one more is tried to let a machine go that ran; TargetError when that fails.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._runs:
                self._leave_running()
        except TargetError as error:
            raise TargetError(f"the machine at {self._location.text} may have been left halted: {error}") from error
        finally:
            self._connection.close()

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

    def _leave_running(self) -> None:
        with suppress(ConnectionLostError):
            if not self._halted:
                self._halted = True  # even if nobody hears that the interrupt has worked
                self._connection.interrupt()
            self._say_goodbye()
            return
        if self._halted or self._connection.unheard:
            self._reconnect(self._timeout)
            self._say_goodbye()
            return
        # It was seen to take our last word, so it most likely runs; if the stub is gone, nothing can be left halted.
        with suppress(TargetError):
            self._reconnect(min(self._timeout, _BRIEFLY))
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        if self._connection.ask(self._stub.detach) != b"OK":
            self._resume()

    # For people

    def facts(self) -> dict[str, str]:
        """What is known about the stub, for people. Whether it writes text is tried, with the word at a CPU's PC."""
        kind = self._stub.kind
        if self._takes_text is None and kind.writes_read_only is None and self._sees_pcs:
            with suppress(TargetError, CapabilityError), self._hold("stop", TargetError):
                place = self._states()[0].pc
                self._require_text_taken((place, self.read(place, INSN_SIZE)))
        takes = kind.writes_read_only if self._takes_text is None else self._takes_text
        return {
            "stub": kind.name,
            "architecture": self._stub.registers.architecture or "not told, taken for aarch64",
            "a stop halts": kind.stop + (" (assumed: all CPUs)" if "stops" in self._assume else ""),
            "caches are maintained by": kind.caches + (" (assumed: by the stub)" if "caches" in self._assume else ""),
            "writes read-only text": {True: "yes", False: "no", None: "not known"}[takes],
            "the machine was found": self._found.value,
            "it will be left": "running" if self._runs or self._stub.kind is QEMU_USER else "halted",
        }

    # Halting and letting go

    @contextmanager
    def _hold(self, what: str, failure: Callable[[str], Exception]) -> Iterator[None]:
        """The machine halted, connected again if need be; let go when nobody holds it any more and it shall run."""
        if self._closed:
            raise TargetError(f"{self._location.text} was closed: open it again")
        self._holders += 1
        try:
            try:
                self._halt()
            except TargetError as error:
                raise failure(f"{what} failed: {error}") from error
            yield
        except BaseException as error:
            self._holders -= 1
            try:
                self._let_go()
            except Exception as second:
                error.add_note(f"The machine may still be halted: {second}")
            raise
        self._holders -= 1
        self._let_go()

    def _halt(self) -> None:
        if self._connection.usable and not self._halted:
            with suppress(ConnectionLostError):  # nothing was at stake yet
                self._connection.look()
                if self._connection.stops:
                    # Somebody else halted it, and will let it go.
                    self._runs = False
                reply = self._connection.interrupt()
                if reply[:1] in b"WXN":
                    raise TargetError(f"what {self._location.text} served has ended ({reply[:20]!r})")
                self._halted = True
        if not self._connection.usable:
            self._reconnect(self._timeout)

    def _let_go(self) -> None:
        if self._holders or not self._runs:
            return
        if self._connection.usable:
            if not self._halted:
                return
            with suppress(ConnectionLostError):
                self._resume()
                return
        self._reconnect(self._timeout)
        self._resume()

    def _resume(self) -> None:
        self._connection.resume(self._stub.resume)
        self._halted = self._vantage = False

    def _find_vantage(self) -> None:
        """Select a CPU that sees the address of interest.

        A stub reads as the selected CPU would, and one that executes a user's program may not see the kernel. Where
        none sees it, the machine runs on for some milliseconds and is looked at again, if it may run now.
        """
        address = self._interest
        threads = self._stub.threads
        if address is None or self._vantage or len(threads) == 1:
            return
        for pause in (*_VANTAGE_PAUSES, None):
            requests = [request for thread in threads for request in (b"Hg" + thread, b"m%x,4" % address)]
            seen = [
                thread
                for thread, reply in zip(threads, self._connection.ask_all(requests)[1::2], strict=True)
                if len(reply) == 2 * INSN_SIZE
            ]
            if seen:
                self._connection.ask(b"Hg" + seen[0])
                self._vantage = True
                return
            if pause is None or self._holders > 1 or not self._runs or address < _KERNEL_HALF:
                return
            self._resume()
            time.sleep(pause)
            self._halt()

    # Connecting

    def _first_connection(self) -> tuple[Connection, Stub, Found]:
        """As `_connect`, with what the machine did before; tried again when it is lost.

        What stands at a later try may have been halted by an earlier one: then only NEVER_RAN is known.
        """
        deadline = time.monotonic() + self._timeout
        met: set[Found] = set()
        for attempt in range(_FIRST_TRIES):
            try:
                connection, stub = self._connect(deadline, met)
            except TargetError as error:
                lost = isinstance(error, ConnectionLostError) or attempt
                if not lost or attempt == _FIRST_TRIES - 1 or time.monotonic() >= deadline:
                    if Found.RUNNING in met:
                        error.add_note("The machine was running, and may have been left halted.")
                    elif Found.NOT_TOLD in met:
                        error.add_note("If the machine was running, it may have been left halted.")
                    raise
            else:
                found = connection.found or Found.NOT_TOLD
                if Found.RUNNING in met:
                    found = Found.RUNNING
                elif found is Found.HALTED and attempt:
                    found = Found.NOT_TOLD
                return connection, stub, found
        raise AssertionError

    def _connect(self, deadline: float, met: set[Found]) -> tuple[Connection, Stub]:
        """A new connection to a machine that is halted; when it fails, `met` gets what that machine did before."""
        wire = open_wire(self._location, deadline, remote=self._remote, baud=self._baud)
        left = max(0.01, deadline - time.monotonic())
        connection = Connection(wire, self._location.text, min(self._timeout, left))
        try:
            stub = meet(connection, min(_PATIENCE, left / 3))
        except BaseException:
            let_go = _abandon(connection)
            if connection.was_running:
                met.add(Found.RUNNING)
            elif connection.found is not None and not let_go:
                met.add(connection.found)
            raise
        return connection, stub

    def _reconnect(self, seconds: float) -> None:
        """Another connection to the same machine, which is halted then; TargetError when that is not to be had."""
        begun = time.monotonic()
        deadline = begun + min(seconds, self._reconnect_seconds)
        if self._reconnects >= MAX_RECONNECTS or deadline <= begun:
            raise TargetError(f"the connection to {self._location.text} is lost, and it was tried often enough")
        for attempt in itertools.count():
            try:
                connection, stub = self._connect(deadline, set())
                break
            except TargetError as error:
                pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
                if time.monotonic() + pause >= deadline:
                    self._reconnect_seconds -= max(time.monotonic() - begun, 0.1)
                    raise TargetError(f"the connection to {self._location.text} is lost: {error}") from error
                time.sleep(pause)
        self._reconnects += 1
        try:
            if stub.fingerprint() != self._stub.fingerprint():
                raise TargetError(f"another machine answers at {self._location.text} now; nothing is written to it")
            self._require_witnesses(connection)
        except BaseException:
            _abandon(connection)
            self._reconnect_seconds -= max(time.monotonic() - begun, 0.1)
            raise
        connection.timeout = self._timeout
        self._connection, self._stub.threads, self._halted, self._vantage = connection, stub.threads, True, False
        self._reconnect_seconds = 2 * self._timeout

    def _note_witnesses(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        for address, data in pieces:
            for offset in range(0, len(data), INSN_SIZE):
                before, after = self._read_before.get(address + offset), data[offset : offset + INSN_SIZE]
                if address + offset in self._witness:
                    self._witness[address + offset].add(after)
                elif before is not None and len(self._witness) < _WITNESSES:
                    self._witness[address + offset] = {before, after}

    def _require_witnesses(self, connection: Connection) -> None:
        """What was read and written here before the connection was lost stands there now, the one or the other."""
        places = sorted(self._witness)
        found = _Reading([(place, INSN_SIZE) for place in places], connection.packet_size).results(connection)
        for place, word in zip(places, found, strict=True):
            if word not in self._witness[place]:
                raise TargetError(
                    f"after the connection to {self._location.text} was lost, {self.symbols.describe(place)} holds"
                    f" what nobody here wrote or saw there ({word[::-1].hex()}): it may be another machine; nothing"
                    " is written to it"
                )

    # What may be done

    def _capabilities(self) -> Capabilities:
        stops = self._stops()
        return Capabilities(
            f"GDB stub ({self._stub.kind.name})", len(self._stub.threads), stops, stops, self._sees_pcs, broadcast=True
        )

    def _stops(self) -> bool:
        # With a single thread nobody else could run on.
        alone = self._stub.kind is QEMU_USER and len(self._stub.threads) == 1
        return bool(self._stub.kind.stops_all) or alone or "stops" in self._assume

    def _require_stops(self) -> None:
        if not self._stops():
            raise CapabilityError(
                f"it is not known whether the stub at {self._location.text} ({self._stub.kind.name}) stops all CPUs;"
                " add ?assume=stops if it does"
            )

    def _require_writable(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        if not self._stub.kind.maintains_caches and "caches" not in self._assume:
            raise CapabilityError(
                f"it is not known whether the stub at {self._location.text} ({self._stub.kind.name}) makes what it"
                " writes visible to instruction fetch; add ?assume=caches if it does"
            )
        if self.code:
            for address, data in pieces:
                if not any(start <= address and address + len(data) <= end for start, end in self.code):
                    raise MappingError(f"{self.symbols.describe(address)} is not code, so it may not be written")

    def _require_text_taken(self, piece: tuple[int, bytes]) -> None:
        """The stub writes to text; tried once, with the word that stands there."""
        if self._takes_text is not None or self._stub.kind.writes_read_only is not None:
            return
        address = piece[0]
        there = _Reading([(address, INSN_SIZE)], self._connection.packet_size).results(self._connection)
        reply = _Writing([(address, there[0])], self._connection, binary=self._stub.writes_binary).replies(
            self._connection
        )[0]
        self._takes_text = reply == b"OK"
        if not self._takes_text:
            self._takes_text = None  # another place may do
            raise CapabilityError(
                f"the stub ({self._stub.kind.name}) refuses to write to {self.symbols.describe(address)} even what"
                f" stands there ({_reason(reply)}): it does not write to read-only text, so nothing was changed"
            )

    def _refused(self, address: int, size: int, reply: bytes) -> NoReturn:
        if reply and not re.fullmatch(rb"E.*", reply, re.DOTALL):
            raise self._connection.break_off(f"it answered {reply[:40]!r} to a write")
        raise WriteError(
            f"the stub ({self._stub.kind.name}) refuses to write {size} bytes at {self.symbols.describe(address)}:"
            f" {_reason(reply)}"
        )

    # Packets

    def _reading(self, requests: Sequence[tuple[int, int]]) -> _Reading:
        binary = self._stub.features.get("binary-upload") == "+"
        return _Reading(requests, self._connection.packet_size, binary=binary)

    def _writing(self, requests: Sequence[tuple[int, bytes]]) -> _Writing:
        writing = _Writing(requests, self._connection, binary=self._stub.writes_binary)
        self._require_writable(writing.pieces)
        return writing

    # Where CPUs stand

    def _can_see_pcs(self) -> bool:
        try:
            return all(pc % INSN_SIZE == 0 for pc, *_ in self._registers(("pc",)))
        except CapabilityError:
            return False

    def _registers(self, names: Sequence[str]) -> list[list[int]]:
        return read_registers(self._connection, self._stub, self._stub.threads, names)

    def _states(self) -> list[CpuState]:
        if not self._sees_pcs:
            return []
        with self._hold("stop", TargetError), _failing("stop", TargetError):
            describes = self._stub.reads_registers and EXCEPTION_LINK in self._stub.registers.by_name
            values = self._registers(("pc", "x30", "x29", *([EXCEPTION_LINK] if describes else [])))
            if any(pc % INSN_SIZE for pc, *_ in values):
                raise self._connection.break_off("a PC is not a multiple of 4")
            frames = follow_frames(
                [head for _, _, head, *_ in values],
                lambda pieces: _read_stacks(self._connection, self._stub.threads, pieces),
                trips=_FRAME_TRIPS,
            )
            self._vantage = False
            self._find_vantage()
        return [
            # One that has just taken an exception has its address in ELR_EL1 and nowhere else yet.
            CpuState(
                cpu, pc, tuple(dict.fromkeys(without_signatures([link, *saved, *(elr if pc >= _KERNEL_HALF else [])])))
            )
            for cpu, ((pc, link, _, *elr), saved) in enumerate(zip(values, frames, strict=True))
        ]


def open_gdb(text: str, **options: Any) -> GdbTarget:
    """The target that `gdb://HOST:PORT`, `gdb+unix:PATH` or `gdb+serial:DEVICE` means.

    Behind `?` may stand timeout=SECONDS, baud=NUMBER, leave=running or halted, assume=stops,caches. `options` as the
    constructor's, but `symbols` may be the path of an ELF file, too, whose names are taken if its code stands in the
    target: MismatchError if it does not. RequestError for an unknown key or a value that is none; else as `GdbTarget`.
    """
    location = parse_location(text)
    if unknown := options.keys() - _OPTIONS:
        raise RequestError(f"a GDB target has no option {', '.join(sorted(unknown))}")
    symbols = options.pop("symbols", None)
    for key, value in location.options.items():
        if key not in _SETTINGS:
            raise RequestError(f"a GDB target has no setting {key[:40]!r}; it knows {', '.join(_SETTINGS)}")
        try:
            options.setdefault(key, _SETTINGS[key](value))
        except ValueError:
            raise RequestError(f"{key}={value[:40]!r} makes no sense to a GDB target; give a number") from None
    target = GdbTarget(location, **options)
    if isinstance(symbols, SymbolTable):
        target.symbols = symbols
    elif symbols is not None:
        try:
            _use_elf(target, os.fspath(symbols))
        except BaseException:
            target.close()
            raise
    return target


_SETTINGS: dict[str, Callable[[str], Any]] = {
    "timeout": float,
    "baud": int,
    "leave": str,
    "assume": lambda text: text.split(","),
}
_OPTIONS = frozenset({*_SETTINGS, "remote", "symbols"})


def _use_elf(target: GdbTarget, path: str) -> None:
    """Take the names of an ELF file at its own addresses, if most of 16 samples of its code stand in the target."""
    from a64patch.targets.elf import ElfFile

    with ElfFile(path) as file:
        if file.is_relocatable:
            raise MismatchError(
                f"{path} is not linked, so its addresses mean nothing in the target: give the linked file"
            )
        code = [(start, end) for start, end in file.code_ranges() if end - start >= INSN_SIZE]
        places = [
            start + (end - start) // _SAMPLES * number & -INSN_SIZE
            for start, end in code[:_SAMPLES]
            for number in range(_SAMPLES // min(len(code), _SAMPLES))
        ]
        same = 0
        for place in places:
            with suppress(MappingError):
                same += target.read(place, INSN_SIZE) == file.read(place, INSN_SIZE)
        if not places or same * 2 <= len(places):
            raise MismatchError(
                f"{path} is not what runs at {target.identity().location}: {same} of {len(places)} samples of its code"
                " stand there; give the file of this very build"
            )
        names = tuple(file.symbols.load())
        target.symbols = SymbolTable(lambda: names)
        target.build_id = file.build_id


class _Reading:
    """Requests for memory as packets, made before they are needed."""

    def __init__(self, requests: Sequence[tuple[int, int]], packet_size: int, *, binary: bool = False) -> None:
        for address, size in requests:
            _require_addresses(address, size)
        self.requests = list(requests)
        self._most = max(16, (packet_size - 16) // 2 & -16)
        self._binary = binary
        self._pieces = self._merge(requests)
        self._frames = self._build(self._pieces)
        self._places = self._find(requests)

    def _find(self, requests: Sequence[tuple[int, int]]) -> list[list[tuple[int, int, int]]]:
        """For each request the pieces that hold it: which, from where, to where."""
        starts = [start for start, _ in self._pieces]
        found = []
        for address, size in requests:
            parts: list[tuple[int, int, int]] = []
            at, index = address, bisect_right(starts, address) - 1
            while at < address + size:
                start, end = self._pieces[index]
                stop = min(end, address + size)
                parts.append((index, at - start, stop - start))
                at, index = stop, index + 1
            found.append(parts)
        return found

    def _merge(self, requests: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Pieces [start, end) that hold all requests, none longer than a packet takes."""
        spans: list[tuple[int, int]] = []
        for address, size in sorted(requests):
            end = address + size
            if not size:
                continue
            if spans:
                start, last = spans[-1]
                near = address - last <= _GAP and address // _PAGE == (last - 1) // _PAGE
                if address <= last or near:
                    spans[-1] = (start, max(last, end))
                    continue
            spans.append((address, end))
        return [(at, min(at + self._most, end)) for start, end in spans for at in range(start, end, self._most)]

    def _build(self, pieces: Sequence[tuple[int, int]]) -> list[bytes]:
        form = b"x%x,%x" if self._binary else b"m%x,%x"
        return [frame(form % (start, end - start)) for start, end in pieces]

    def results(self, connection: Connection) -> list[bytes]:
        """What stands at each request; MappingError where the stub does not tell."""
        got = self._ask(connection, self._pieces, self._frames)
        if any(data is None for data in got):
            # What was read along with it may be what cannot be read.
            pieces = [
                (at, min(at + self._most, address + size))
                for address, size in self.requests
                for at in range(address, address + size, self._most)
            ]
            alone = dict(zip(pieces, self._ask(connection, pieces, self._build(pieces)), strict=True))
            result = []
            for address, size in self.requests:
                parts = [
                    alone[at, min(at + self._most, address + size)] for at in range(address, address + size, self._most)
                ]
                if any(part is None for part in parts):
                    raise MappingError(f"the stub reads no {size} bytes at {address:#x}: name a mapped address")
                result.append(b"".join(part for part in parts if part))
            return result
        return [
            b"".join((got[index] or b"")[low:high] for index, low, high in self._places[number])
            for number in range(len(self.requests))
        ]

    def _ask(
        self, connection: Connection, pieces: Sequence[tuple[int, int]], frames: Sequence[bytes]
    ) -> list[bytes | None]:
        found: list[bytes | None] = []
        for (start, end), reply in zip(pieces, connection.ask_built(frames), strict=True):
            if not reply or (reply[:1] == b"E" and len(reply) % 2):
                found.append(None)
                continue
            data = self._decode(reply)
            if data is None or len(data) > end - start:
                raise connection.break_off(f"it answered {reply[:40]!r} to a read of {end - start} bytes")
            # The protocol allows less than was asked for.
            found.append(data if len(data) == end - start else None)
        return found

    def _decode(self, reply: bytes) -> bytes | None:
        if self._binary:
            return reply[1:] if reply[:1] == b"b" else None
        try:
            return binascii.unhexlify(reply)
        except binascii.Error:
            return None


class _Writing:
    """Bytes for memory as packets, made before they are needed."""

    def __init__(self, requests: Sequence[tuple[int, bytes]], connection: Connection, *, binary: bool = False) -> None:
        most = max(16, (connection.packet_size - 40) // 2 & -16)
        self.pieces: list[tuple[int, bytes]] = []
        for address, data in requests:
            _require_addresses(address, len(data))
            if self.pieces and data:
                start, before = self.pieces[-1]
                if start + len(before) == address and len(before) + len(data) <= most:
                    self.pieces[-1] = (start, before + data)
                    continue
            self.pieces += [(address + at, data[at : at + most]) for at in range(0, len(data), most)]
        form, encode = (b"X%x,%x:%b", bytes) if binary else (b"M%x,%x:%b", binascii.hexlify)
        self._frames = [frame(form % (at, len(data), encode(data))) for at, data in self.pieces]

    def replies(self, connection: Connection) -> list[bytes]:
        """What the stub says to each piece."""
        return connection.ask_built(self._frames)


def _read_stacks(connection: Connection, threads: Sequence[bytes], pieces: Sequence[Piece]) -> list[bytes]:
    """As each CPU sees its own stack, in one round trip; nothing where the stub does not tell."""
    requests: list[bytes] = []
    for cpu, address, size in pieces:
        requests += [b"Hg" + threads[cpu] if threads[cpu] else b"vMustReplyEmpty", b"m%x,%x" % (address, size)]
    found = []
    for reply in connection.ask_all(requests)[1::2]:
        try:
            found.append(binascii.unhexlify(reply))
        except binascii.Error:
            found.append(b"")
    return found


@contextmanager
def _failing(what: str, failure: Callable[[str], Exception]) -> Iterator[None]:
    """A lost connection as the error that this operation fails with."""
    try:
        yield
    except ConnectionLostError as error:
        raise failure(f"{what} failed: {error}") from error


def _abandon(connection: Connection) -> bool:
    """Let go a machine that our coming may have halted, and close. False when it could not be told to go."""
    let_go = connection.found is None or connection.found.stands
    if connection.usable and not let_go:
        with suppress(TargetError):
            if connection.ask(b"D") != b"OK":
                connection.resume(b"c")
            let_go = True
    connection.close()
    return let_go


def _reason(reply: bytes) -> str:
    if not reply:
        return "it does not know how"
    code = reply.decode("ascii", "replace")[:40]
    return f"{code} ({_ERRNO[code]})" if code in _ERRNO else code


_ERRNO = {"E01": "not permitted, or any reason", "E0d": "permission denied", "E0e": "bad address", "E14": "bad address"}
"""What stubs mean; the numbers are hexadecimal in kgdb and gdbserver, decimal in QEMU."""


def _require_addresses(address: int, size: int) -> None:
    if address < 0 or size < 0 or address + size > _ADDRESSES:
        raise MappingError(f"{size} bytes at {address:#x} do not lie in an address space of 64 bits")

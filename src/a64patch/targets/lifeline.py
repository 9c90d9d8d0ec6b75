"""A machine behind a stub: connect, halt it while a block holds it, let it go, connect again, leave it as found.

Read on: gdb.py reads and writes while a machine is held; stub.py meets a stub; witnesses.py remembers words that show
whether it is still the same machine.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from a64patch.a64.words import INSN_SIZE
from a64patch.errors import TargetError
from a64patch.targets.packets import Reading
from a64patch.targets.rsp import Connection, ConnectionLostError, Found, frame
from a64patch.targets.stub import KERNEL_HALF, Stub, list_threads, meet
from a64patch.targets.wire import Location, open_wire
from a64patch.targets.witnesses import Witnesses

MAX_RECONNECTS = 16
"""How often a machine's connection may be lost before the machine is given up."""

_PAUSES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds between tries to connect again; the last value repeats."""
_IF_LATER = frame(b"qRcmd," + b"cont".hex().encode())
"""QEMU serves one client at a time. It takes the next when the first has gone, even one that has left since, and then
halts the machine for it. Its monitor's command `cont` lets the machine go again; other stubs do not know that command.
"""
_PATIENCE = 1.0
"""Seconds that a stub may be silent at first, before it is interrupted."""
_FIRST_TRIES = 3
_BRIEFLY = 0.5
"""Seconds to spend on reaching a machine again that most likely runs already."""
_VANTAGE_PAUSES = (0.001,) * 50
"""Seconds that the machine runs on between two searches for a CPU that sees the kernel."""


class Lifeline:
    """One machine behind a stub, over all connections to it. A new Lifeline has the machine halted; see `let_go`.

    Errors are TargetError unless another is named. `GdbTarget` describes when a machine is halted, let go, and
    connected to again.
    """

    def __init__(
        self,
        location: Location,
        describe: Callable[[int], str],
        *,
        remote: bool,
        timeout: float,
        baud: int,
        leave: str,
    ) -> None:
        """Connect for the first time. `describe` names an address for people; the rest as `GdbTarget`."""
        self.witnesses = Witnesses()
        self._location, self._describe = location, describe
        self._remote, self._timeout, self._baud, self._leave = remote, timeout, baud, leave
        self._closed = False
        self._reconnects = 0
        self._reconnect_seconds = 2 * timeout
        self._interest: int | None = None
        """The last wanted address."""
        self._vantage = False
        """A CPU that can see the last wanted address is selected. False again when the machine runs."""
        self._holders = 0
        """The number of `hold` blocks that now keep the machine halted."""
        self._halted = True
        self._connection, self._stub, self._found = self._first_connection()
        self._runs = {"": not self._found.stands, "running": True, "halted": False}[leave]

    @property
    def connection(self) -> Connection:
        """The present connection. A reconnect makes another one."""
        return self._connection

    @property
    def stub(self) -> Stub:
        """The stub's answers at the first connection, and its present threads."""
        return self._stub

    @property
    def found(self) -> Found:
        """The state of the machine before we connected."""
        return self._found

    @property
    def runs(self) -> bool:
        """The machine is to run whenever no block holds it, and after we leave."""
        return self._runs

    # Halting and letting go

    @contextmanager
    def hold(self, what: str, failure: Callable[[str], Exception]) -> Iterator[None]:
        """Keep the machine halted in the block, connecting again if need be. Afterwards `let_go`.

        When the connection is lost at the beginning or in the block, raises `failure` with the text that `what` failed.
        """
        if self._closed:
            raise TargetError(f"{self._location.text} was closed: open it again")
        self._holders += 1
        try:
            with _failing(what, failure, TargetError):
                self._halt()
            with _failing(what, failure, ConnectionLostError):
                yield
        except BaseException as error:
            self._holders -= 1
            try:
                self.let_go()
            except Exception as second:
                error.add_note(f"The machine may still be halted: {second}")
            raise
        self._holders -= 1
        self.let_go()

    def let_go(self) -> None:
        """Let the machine run on, connecting again if need be, unless a block holds it or it is to stay halted.

        Connects again also to a machine that stays halted when its stub may still read physical addresses.
        """
        if self._holders or not (self._runs or self._connection.physical):
            return
        if self._connection.usable:
            if not self._halted:
                return
            with suppress(ConnectionLostError):
                self._resume()
                return
        self._reconnect(self._timeout)
        if self._runs:
            self._resume()

    def _halt(self) -> None:
        if self._connection.usable and not self._halted:
            with suppress(ConnectionLostError):  # No operation has begun: connecting again is enough.
                self._connection.look()
                if self._connection.stops:
                    # Another debugger or user halted the machine, and will let it go.
                    self._runs = False
                reply = self._connection.interrupt()
                if reply[:1] in b"WXN":
                    raise TargetError(f"the program behind {self._location.text} has ended ({reply[:20]!r})")
                self._halted = True
        if not self._connection.usable:
            self._reconnect(self._timeout)

    def _resume(self) -> None:
        self._connection.resume(self._stub.resume)
        self._halted = self._vantage = False

    # Selecting the CPU through which the stub reads; the machine is held

    def want(self, address: int) -> None:
        """Name the address for the next `see`."""
        self._interest = address

    def see(self) -> bool:
        """Select a CPU that sees the last wanted address. False when no CPU sees it, or no address was wanted.

        A stub reads as the selected CPU would, and a CPU that executes a user's program may not see the kernel. When no
        CPU sees the address and the machine may run, it runs on for 1 ms and all CPUs are tried again, up to 50 times.
        """
        address = self._interest
        threads = self._stub.threads
        if len(threads) == 1:
            return True
        if self._vantage or address is None:
            return self._vantage
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
                return True
            if pause is None or self._holders > 1 or not self._runs or address < KERNEL_HALF:
                return False
            self._resume()
            time.sleep(pause)
            self._halt()
        raise AssertionError

    def see_again(self) -> bool:
        """As `see`, after other CPUs were selected."""
        self._vantage = False
        return self.see()

    def list_threads_anew(self) -> None:
        """Ask for the present threads again, if the kind of stub has threads that come and go."""
        if not self._stub.kind.fixed_cpus:
            self._stub.threads = list_threads(self._connection, len(self._stub.threads))

    # Connecting

    def _first_connection(self) -> tuple[Connection, Stub, Found]:
        """As `_connect`, with the machine's state before it. Tries again when the connection is lost.

        An earlier try may have halted a machine that a later try finds halted. So a later HALTED becomes NOT_TOLD;
        NEVER_RAN stays.
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
        """A new connection, with the machine halted. When it fails, `met` gets the machine's state before it."""
        wire = open_wire(self._location, deadline, remote=self._remote, baud=self._baud)
        left = max(0.01, deadline - time.monotonic())
        connection = Connection(wire, self._location.text, min(self._timeout, left))
        if self._leave != "halted":
            connection.last_words = _IF_LATER
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
        """Make another connection to the same machine, and halt it; TargetError when that fails."""
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

    def _require_witnesses(self, connection: Connection) -> None:
        """TargetError when a witness has a word that was neither read nor written here: it may be another machine."""
        found = Reading(self.witnesses.requests, connection.packet_size).results(connection)
        if foreign := self.witnesses.foreign(found):
            address, word = foreign
            raise TargetError(
                f"after the connection to {self._location.text} was lost, {self._describe(address)} holds"
                f" {word[::-1].hex()}, which was neither read nor written here: it may be another machine; nothing"
                " is written to it"
            )

    # Leaving

    def close(self) -> None:
        """Leave the machine as it was found, detach, and close the connection; any number of times.

        A machine that was halted when we connected needs no request: each stub that can leave it halted does so.
        When the connection is lost and the machine ran, this connects once more to let the machine go; TargetError
        when that fails.
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

    def _leave_running(self) -> None:
        with suppress(ConnectionLostError):
            if not self._halted:
                self._halted = True  # even if the reply to the interrupt is lost
                self._connection.interrupt()
            self._say_goodbye()
            return
        if self._halted or self._connection.unheard:
            self._reconnect(self._timeout)
            self._say_goodbye()
            return
        # The stub has acknowledged the resume, so the machine most likely runs. A stub that is gone leaves none halted.
        with suppress(TargetError):
            self._reconnect(min(self._timeout, _BRIEFLY))
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        if self._connection.ask(self._stub.detach) != b"OK":
            self._resume()


@contextmanager
def _failing(what: str, failure: Callable[[str], Exception], error: type[TargetError]) -> Iterator[None]:
    """Turn an error of this kind into the operation's own error."""
    try:
        yield
    except error as caught:
        raise failure(f"{what} failed: {caught}") from caught


def _abandon(connection: Connection) -> bool:
    """Let go a machine that connecting may have halted, and close. False when the machine could not be let go."""
    let_go = connection.found is None or connection.found.stands
    if connection.usable and not let_go:
        with suppress(TargetError):
            if connection.ask(b"D") != b"OK":
                connection.resume(b"c")
            let_go = True
    connection.close()
    return let_go

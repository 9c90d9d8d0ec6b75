"""Stop every thread that executes in the memory of a process, and let all of them go as they were.

Nothing is executed in the process for it, and no memory of it changes. Read on: ptrace.py has the requests, procfs.py
reads the threads, process.py uses both.

**All threads.** Seized are the threads of the process and those of every other process with the same memory (CLONE_VM
without CLONE_THREAD, vfork). All are seized before the first is interrupted: so the first waits for the others only
while they come. Once all known ones stand, the lists are read again, until nobody is new: only a thread that runs can
make another. Threads that a seized thread makes are seized with it (PTRACE_O_TRACECLONE).

**System calls.** An interrupted thread leaves the system call in which it sleeps.

- Most calls: the kernel makes the thread enter the call again, with the rest of its time-out (ERESTARTSYS and its
  relatives; Linux arch/arm64/kernel/signal.c, do_signal()).
- The calls in `ENDED_BY_A_STOP` end with EINTR after any stop (signal(7)). Here we make the thread enter the call
  again, as the kernel would do it: PC back to the SVC, x0 as it was. The time-out begins anew. It is done only for a
  thread that slept in this very call right before the interrupt, and that has not left it since by its count of
  context switches. A thread that comes into the call in between, some microseconds, sees EINTR. It is not done when a
  signal with a handler waits: the program would have seen EINTR without us.
- A read or write that has moved some bytes returns their number, as after a signal.

**Signals.** A thread that is about to take a signal takes it when it is let go. A process that was stopped by a signal
stays stopped.

**A thread that does not come.** A thread in uninterruptible sleep (state D: disk, vfork, a frozen control group) cannot
stop now. It was interrupted, so it stops before it executes anything of its program: in the kernel, at its way out. It
counts as stopped, in Held.RUNNING. `let_go` waits for it for a while; it is let go at the latest when the calling
thread of Python ends.

**When we are killed**, the kernel lets all threads go (exit_ptrace()), with their signals.
"""

from __future__ import annotations

import errno
import struct
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

from a64patch.errors import BusyError, TargetError
from a64patch.oneline import printable
from a64patch.targets import ptrace
from a64patch.targets.procfs import Process, processes, state_of, status_of, system_call, tasks_of
from a64patch.targets.ptrace import NT_PRSTATUS, Held, State

ENDED_BY_A_STOP = {
    4: "io_getevents", 22: "epoll_pwait", 63: "read", 64: "write", 65: "readv", 66: "writev", 137: "rt_sigtimedwait",
    192: "semtimedop", 193: "semop", 202: "accept", 203: "connect", 206: "sendto", 207: "recvfrom", 211: "sendmsg",
    212: "recvmsg", 242: "accept4", 243: "recvmmsg", 269: "sendmmsg", 292: "io_pgetevents", 441: "epoll_pwait2",
}  # fmt: skip
"""The system calls that end with EINTR when their thread was stopped, by number (asm-generic/unistd.h).

These are the calls that signal(7) lists, and those on sockets with a time-out (SO_RCVTIMEO, SO_SNDTIMEO)."""

_PATIENCE = 5.0
"""Seconds until every thread must stand, and for which `let_go` waits for a thread in uninterruptible sleep."""
_MOST_PASSES = 64
_SHORTEST, _LONGEST = 50e-6, 2e-3
"""Seconds between two looks whether a thread has come."""
_ASLEEP = 0.02
"""Seconds after which a thread that has not come is looked at: it may be in uninterruptible sleep."""
REGISTERS = struct.Struct("<34Q")
"""x0 to x30, SP, PC and PSTATE, as NT_PRSTATUS has them."""
_X0, _X8, _SP, _PC = 0, 8, 31, 32
_EINTR = (1 << 64) - errno.EINTR


class _Call(NamedTuple):
    """A system call in which a thread sleeps."""

    number: int
    arguments: tuple[int, ...]
    sp: int
    pc: int
    switches: int
    """How often the thread has given up its CPU of its own will (voluntary_ctxt_switches)."""


class Threads:
    """The threads of a process while they stand. One is made for each stop, and used by one thread of Python."""

    def __init__(
        self, process: Process, *, patience: float = _PATIENCE, ended: Collection[int] = frozenset(ENDED_BY_A_STOP)
    ) -> None:
        self._process = process
        self._patience = patience
        self._ended = ended
        self._states: dict[int, State] = {}
        """Each seized thread."""
        self._pids: dict[int, int] = {}
        """The process of each seized thread."""
        self._calls: dict[int, _Call] = {}
        self._strangers: set[int] = set()
        """The processes that do not share the memory of the process: memory is shared from birth or never."""

    @property
    def standing(self) -> list[int]:
        """The numbers of all threads that stand, or that stop before they execute anything of their program."""
        return list(self._states)

    def held(self, tid: int) -> Held:
        """Why a thread stands; RUNNING for one in uninterruptible sleep, whose registers cannot be read."""
        return self._states[tid].held

    def note(self, tid: int, state: State, switches: int = 0) -> None:
        """A thread stands in another way now. It has given up its CPU `switches` times more, for us."""
        self._states[tid] = state
        if tid in self._calls:
            call = self._calls[tid]
            self._calls[tid] = call._replace(switches=call.switches + switches)

    def slept_in_a_call(self, tid: int) -> bool:
        """Whether `let_go` may make the thread enter its system call again."""
        return tid in self._calls

    def process_of(self, tid: int) -> int:
        """The number of the process to which a thread belongs."""
        return self._pids[tid]

    def stop(self) -> None:
        """Stop all. When this raises, all are let go.

        - BusyError when threads are made faster than they can be stopped, or one does not come in time.
        - TargetError when the kernel does not let us stop one, or the process ends or executes another program.
        """
        try:
            self._stop()
        except BaseException:
            self.let_go()
            raise

    def _stop(self) -> None:
        deadline = time.monotonic() + self._patience
        self._seize_new()
        for _ in range(_MOST_PASSES):
            fresh = [tid for tid, state in self._states.items() if state.held is Held.RUNNING]
            for tid in fresh:
                if tid in self._calls:
                    self._note_call(tid)  # Anew: the time between this look and the interrupt is what counts.
                _interrupt(tid)
            self._await(deadline)
            self._require_same_program()
            if not self._seize_new():
                break
        else:
            raise BusyError(f"process {self._process.pid} makes threads faster than they can be stopped; try again")
        if self._process.pid not in self._pids.values():
            raise self._process.gone()

    def _require_same_program(self) -> None:
        """TargetError when the process executes another program. A vfork child that does so is let go."""
        for tid, state in list(self._states.items()):
            if state.held is Held.EXEC:
                if self._pids[tid] == self._process.pid:
                    raise self._process.gone()
                self._strangers.add(self._pids[tid])
                self._release(tid)

    def let_go(self) -> list[int]:
        """Let all go on as they were. Returns the threads that still sleep in the kernel, and so are still ours.

        Each stop of ours has an end, whatever happens: a thread that is gone meanwhile is forgotten.
        """
        deadline = time.monotonic() + self._patience
        for tid, state in list(self._states.items()):
            if state.held is Held.RUNNING:
                _interrupt(tid)  # Only a thread that stands can be let go.
        while True:
            for tid, state in list(self._states.items()):
                if state.held is Held.RUNNING:
                    self._look(tid)
                if tid in self._states:
                    self._release(tid)
            if not self._states or time.monotonic() > deadline:
                break
            time.sleep(_SHORTEST)
        return list(self._states)

    def registers(self, tid: int) -> tuple[int, ...] | None:
        """x0 to x30, SP, PC and PSTATE of a thread that stands; None for one in Held.RUNNING."""
        if self._states[tid].held is Held.RUNNING:
            return None
        data = ptrace.registers(tid, NT_PRSTATUS, REGISTERS.size)
        return REGISTERS.unpack(data)

    # Coming

    def _seize_new(self) -> bool:
        """Seize every thread that is not seized yet; whether there was one."""
        fresh = False
        for pid in self._sharing():
            for tid in tasks_of(pid):
                if tid not in self._states:
                    fresh |= self._seize(pid, tid)
        return fresh

    def _seize(self, pid: int, tid: int) -> bool:
        try:
            ptrace.seize(tid)
        except ProcessLookupError:
            return False
        except PermissionError as error:
            if state_of(pid, tid) in ("", "Z", "X"):
                return False
            # One that a seized thread made is ours already.
            if not self._is_ours(tid):
                raise self._process.refused(error, tid) from error
        self._states[tid], self._pids[tid] = State(Held.RUNNING), pid
        self._note_call(tid)
        return True

    def _note_call(self, tid: int) -> None:
        pid = self._pids[tid]
        call = system_call(pid, tid)
        if call and call[0] in self._ended:
            self._calls[tid] = _Call(call[0], call[1:7], call[7], call[8], switches_of(status_of(pid, tid)))

    def _is_ours(self, tid: int) -> bool:
        """Whether the calling thread of Python traces this thread. A child of a64patch may be traced by another."""
        return status_of(tid, tid).get("TracerPid") == str(threading.get_native_id())

    def _sharing(self) -> list[int]:
        """The process, and all others with the same memory."""
        own = {self._process.pid, *self._pids.values()}
        for pid in set(processes()) - own - self._strangers:
            if self._shares(pid):
                own.add(pid)
            else:
                self._strangers.add(pid)
        return list(own)

    def _shares(self, pid: int) -> bool:
        try:
            return ptrace.shares_memory(self._process.pid, pid)
        except OSError as error:
            if error.errno == errno.ESRCH:
                return False
            # Where it cannot be asked: processes that share memory have the same list of mappings.
            try:
                with open(f"/proc/{pid}/maps", "rb") as file:
                    same = file.read() == self._process.maps_text() != b""
            except OSError:
                # It is another user's: one that shares this memory would be as open to us as the process itself,
                # unless it changed its user.
                return False
            if same:
                raise TargetError(
                    f"this kernel does not tell ({error.strerror}) whether process {pid} shares the memory of process"
                    f" {self._process.pid}, and it may: run a64patch as root, on a kernel with CONFIG_KCMP"
                ) from error
            return False

    def _await(self, deadline: float) -> None:
        """Wait until all seized threads stand, or sleep in the kernel and stop at their way out."""
        pause, begun = _SHORTEST, time.monotonic()
        missing = [tid for tid, state in self._states.items() if state.held is Held.RUNNING]
        while True:
            missing = [tid for tid in missing if not self._look(tid)]
            if not missing:
                return
            now = time.monotonic()
            if now > begun + _ASLEEP and all(self._asleep(tid) for tid in missing):
                return
            if now > deadline:
                pid = self._process.pid
                raise BusyError(
                    f"{named(self._process, missing[0])} of process {pid} did not stop within"
                    f" {self._patience:g} seconds; nothing was changed: try again"
                )
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST)

    def _asleep(self, tid: int) -> bool:
        """Whether a thread is in uninterruptible sleep, or waits for its vfork child, which is one of the threads."""
        return state_of(self._pids[tid], tid) == "D"

    def _look(self, tid: int) -> bool:
        """Note the state of a thread; whether it stands now, or has ended."""
        try:
            state = ptrace.state(tid)
        except ProcessLookupError:
            self._forget(tid)
            return True
        if state.held is Held.RUNNING:
            return False
        if state.held is Held.ENDED:
            ptrace.bury(tid)
            self._forget(tid)
            return True
        self._states[tid] = state
        return True

    def _forget(self, tid: int) -> None:
        self._states.pop(tid, None)
        self._pids.pop(tid, None)

    # Going

    def _release(self, tid: int) -> None:
        state = self._states[tid]
        if state.held is Held.RUNNING:
            return
        if state.held is Held.BIRTH:
            self._adopt(tid)
        try:
            if tid in self._calls and state.held in (Held.INTERRUPTED, Held.SIGNAL, Held.SYSTEM_CALL):
                self._enter_again(tid, self._calls[tid])
            ptrace.detach(tid, state.signal)
        except OSError:
            # It was killed meanwhile: its death is reported to its tracer first.
            if not self._look(tid):
                return
        self._forget(tid)

    def _adopt(self, tid: int) -> None:
        """Know the thread that this one has made, so that it is let go, too."""
        try:
            child = ptrace.born(tid)
        except OSError:
            return
        if child not in self._states and self._is_ours(child):
            self._states[child], self._pids[child] = State(Held.RUNNING), self._pids[tid]

    def _enter_again(self, tid: int, call: _Call) -> None:
        """Make a thread enter its system call again, if our stop has ended it."""
        values = self.registers(tid)
        assert values is not None
        same = (values[_X8], *values[1:6], values[_SP], values[_PC]) == (
            call.number, *call.arguments[1:], call.sp, call.pc,
        )  # fmt: skip
        if not same or values[_X0] != _EINTR:
            return
        status = status_of(self._pids[tid], tid)
        # Since then it has given up its CPU once: when it came to stand.
        if switches_of(status) == call.switches + 1 and not _caught(status, self._states[tid].signal):
            again = [call.arguments[0], *values[1:_PC], values[_PC] - 4, *values[_PC + 1 :]]
            ptrace.set_registers(tid, NT_PRSTATUS, REGISTERS.pack(*again))


def _interrupt(tid: int) -> None:
    with suppress(ProcessLookupError):  # The next look sees that it has ended.
        ptrace.interrupt(tid)


def _caught(status: dict[str, str], signal: int) -> bool:
    """Whether a handler of the program will run: for `signal`, or else for one that is pending and not blocked."""
    masks = {name: int(status.get(name, "0"), 16) for name in ("SigCgt", "SigPnd", "ShdPnd", "SigBlk")}
    taken = 1 << signal - 1 if signal else (masks["SigPnd"] | masks["ShdPnd"]) & ~masks["SigBlk"]
    return bool(taken & masks["SigCgt"])


def switches_of(status: dict[str, str]) -> int:
    """How often a thread has given up its CPU of its own will, by its status."""
    return int(status.get("voluntary_ctxt_switches", "-1"))


def named(process: Process, tid: int) -> str:
    """A thread for people: `thread 812 (worker)`."""
    return f"thread {tid} ({printable(process.name(tid))})"

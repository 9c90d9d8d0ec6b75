"""Have a stopped thread of a process make one system call, and then stand as it stood before.

Only a thread of the process itself can map its memory. Read on: room.py says which calls, threads.py stops the threads.

The thread executes one SVC that the process has already; nothing is written to its memory. Linux v6.12 on arm64
(entry.S, syscall.c, signal.c, ptrace.c) gives two ways:

- **A thread in user space, or one that has just ended a system call**, gets PC, x0 to x5 and x8 for the call: PC is at
  an SVC of the vDSO. PSTATE.BTYPE is cleared there, since an SVC is no landing pad. After the call it gets all back.
- **A thread that will enter its system call again**, since our stop has interrupted it, stands at its SVC. It goes
  there, and stops on its way in. Now x8 shows how it is to go on: with the rest of its time-out (restart_syscall) or
  from its beginning. Our call takes the place of this one. Afterwards PC is at the SVC again, with the arguments and
  x8 of before.

Then the number of the system call becomes -1, so that the kernel takes nothing in x0 for a wish to enter a call again.

The first way is taken where some thread allows it. Left out are threads that

- are about to take a signal, or make a thread: what they do next is half done in the kernel;
- are in a restartable sequence (rseq): the kernel would forget to restart it;
- are in streaming mode (SME), in user space: a system call ends it.

Values of SVE registers, which a system call does not keep either, are put back after it.

**Signals.** A signal that comes before the call is noted, and the thread gets it when it is let go, as if it had come
before the stop; another thread makes the call. A signal that comes during the call waits. In the second way a signal
with a handler then interrupts no call, since the thread stands before it: the call begins behind the handler. From the
entry to the end of the stop that is less than a millisecond.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from a64patch.a64.words import INSN_SIZE
from a64patch.errors import CapabilityError
from a64patch.targets import ptrace
from a64patch.targets.procfs import status_of
from a64patch.targets.ptrace import NT_ARM_SSVE, NT_ARM_SVE, NT_ARM_SYSTEM_CALL, NT_PRSTATUS, Held, State
from a64patch.targets.threads import REGISTERS, Threads, switches_of

SVC = (0xD4000001).to_bytes(4, "little")
"""SVC #0 (Arm ARM, C6.2)."""
_X8, _PC, _PSTATE = 8, 32, 33
_BTYPE = 3 << 10
_NO_CALL = (-1).to_bytes(4, "little", signed=True)
_PATIENCE = 5.0
"""Seconds until a thread must have come to its SVC."""
_PAUSE = 50e-6
"""Seconds between two looks whether a thread stands."""
_RSEQ_CS = 8
"""Where the address of the sequence is in `struct rseq`."""

_FREE, _SLEPT, _AT_CALL = range(3)
_SVE_HEADER = 16
"""Bytes of `struct user_sve_header`, which begins with the size of the set; where its flags are; the flag for registers
in use."""
_SVE_FLAGS, _SVE_IN_USE = 12, 1

Registers = tuple[int, ...]


class _Candidate(NamedTuple):
    """A thread that may make the call. The least is the best one."""

    is_filtered: bool
    is_stopped_by_signal: bool
    is_of_another_process: bool
    way: int
    """0 in user space, or when its system call is over; 1 when `let_go` makes it enter that again; 2 at its SVC."""
    tid: int
    registers: Registers
    sve: bytes = b""
    """The register set NT_ARM_SVE, if a system call would lose something of it."""

    @property
    def is_at_call(self) -> bool:
        """It will enter its system call again."""
        return self.way == _AT_CALL


def make_call(
    threads: Threads, pid: int, read: Callable[[int, int], bytes], gate: int, number: int, *arguments: int
) -> int | None:
    """The result of a system call that one of the stopped threads makes: negative for an error of the kernel.

    None, and nothing was done, when no thread can make it in this stop: try again in another one. `gate` is the address
    of an SVC #0 in executable memory of the process, `read` reads some of its memory. There are six arguments at most.

    CapabilityError when each thread is under a system call filter that we may not suspend. OSError when a thread is
    killed meanwhile.
    """
    if any(threads.held(tid) is Held.RUNNING for tid in threads.standing):
        return None  # It may hold the lock of the mappings, and the call would wait for that.
    candidates = _candidates(threads, pid, read)
    refused = None
    for each in sorted(candidates):
        if each.is_filtered:
            try:
                ptrace.suspend_seccomp(each.tid)
            except OSError as error:
                refused = error
                continue
        before = _switches(threads, each.tid)
        state, result = _try(each, gate, number, arguments)
        threads.note(each.tid, state, _switches(threads, each.tid) - before)
        if result is not None:
            return result
    if refused is not None and all(each.is_filtered for each in candidates):
        raise CapabilityError(
            f"process {pid} runs under a system call filter (seccomp), which may end a thread that maps memory, and the"
            f" kernel does not suspend it for us ({refused.strerror}): run a64patch as root"
        )
    return None


def _switches(threads: Threads, tid: int) -> int:
    return switches_of(status_of(threads.process_of(tid), tid))


def _candidates(threads: Threads, pid: int, read: Callable[[int, int], bytes]) -> list[_Candidate]:
    found = []
    for tid in threads.standing:
        held = threads.held(tid)
        if held not in (Held.INTERRUPTED, Held.GROUP_STOP):
            continue
        values = threads.registers(tid)
        around = read(values[_PC] - INSN_SIZE, 2 * INSN_SIZE) if values is not None and values[_PC] else b""
        if values is None or len(around) < 2 * INSN_SIZE:
            continue  # One of the kernel's own threads has no PC.
        way = _AT_CALL if around[INSN_SIZE:] == SVC else _SLEPT if threads.slept_in_a_call(tid) else _FREE
        in_user_space = way != _AT_CALL and around[:INSN_SIZE] != SVC
        if in_user_space and (_is_in_sequence(tid, read) or _in_use(tid, NT_ARM_SSVE)):
            continue
        process = threads.process_of(tid)
        is_filtered = status_of(process, tid).get("Seccomp", "0") != "0"
        found.append(
            _Candidate(is_filtered, held is Held.GROUP_STOP, process != pid, way, tid, values, _in_use(tid, NT_ARM_SVE))
        )
    return found


def _is_in_sequence(tid: int, read: Callable[[int, int], bytes]) -> bool:
    """Whether a thread may be in a restartable sequence."""
    try:
        area = ptrace.rseq_area(tid)
    except OSError:
        return False  # A kernel that does not tell.
    return bool(area) and any(read(area + _RSEQ_CS, 8))


def _in_use(tid: int, kind: int) -> bytes:
    """A register set of SVE, if a thread has values in it that a system call does not keep."""
    try:
        header = ptrace.registers(tid, kind, _SVE_HEADER)
        if not header[_SVE_FLAGS] & _SVE_IN_USE:
            return b""
        return ptrace.registers(tid, kind, int.from_bytes(header[:4], "little"))
    except OSError:
        return b""  # These CPUs have none.


def _try(each: _Candidate, gate: int, number: int, arguments: Sequence[int]) -> tuple[State, int | None]:
    """How the thread stands now, and the result if it made the call. It has its own registers again."""
    tid, home = each.tid, each.registers
    ours = (*arguments, *home[len(arguments) : _X8], number)
    if not each.is_at_call:
        _set(tid, (*ours, *home[len(ours) : _PC], gate, home[_PSTATE] & ~_BTYPE))
    state = _resume(tid, on_the_way=True)
    if state.held is Held.GROUP_STOP:
        # The kernel had stopped it for its signal before the interrupt came, for which it has stopped now.
        state = _resume(tid, on_the_way=True)
    if state.held is not Held.SYSTEM_CALL:
        if not each.is_at_call and state.held is not Held.ENDED:
            _set(tid, home)
        return state, None
    if each.is_at_call:
        entered = _registers(tid)
        home = (*home[:_X8], entered[_X8], *home[_X8 + 1 :])
        _set(tid, (*arguments, *entered[len(arguments) :]))
        ptrace.set_registers(tid, NT_ARM_SYSTEM_CALL, number.to_bytes(4, "little"))
    state = _resume(tid)
    result = _registers(tid)[0]
    _set(tid, home)
    if each.sve:
        ptrace.set_registers(tid, NT_ARM_SVE, each.sve)
    ptrace.set_registers(tid, NT_ARM_SYSTEM_CALL, _NO_CALL)
    return state, result - (1 << 64) if result >> 63 else result


def _resume(tid: int, *, on_the_way: bool = False) -> State:
    """Let the thread go on until it stands again.

    `on_the_way` to a system call it may be frozen (a control group), and is stopped then. Inside of the call it is
    awaited, however long that takes: it may not be let go there.
    """
    ptrace.resume_to_system_call(tid)
    deadline = time.monotonic() + _PATIENCE
    while (state := ptrace.state(tid)).held is Held.RUNNING:
        time.sleep(_PAUSE)
        if on_the_way and time.monotonic() > deadline:
            ptrace.interrupt(tid)
            deadline += _PATIENCE
    return state


def _registers(tid: int) -> Registers:
    return REGISTERS.unpack(ptrace.registers(tid, NT_PRSTATUS, REGISTERS.size))


def _set(tid: int, values: Registers) -> None:
    ptrace.set_registers(tid, NT_PRSTATUS, REGISTERS.pack(*values))

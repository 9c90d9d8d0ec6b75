"""ptrace(2) of Linux: the requests that stopping threads needs, and the states in which a stopped thread can be.

This file knows the kernel's interface and no policy. Read on: threads.py stops all threads of a process with it.

Sources: ptrace(2); Linux v6.12 include/uapi/linux/ptrace.h, kernel/ptrace.c, kernel/signal.c.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from a64patch.oneline import shown
from a64patch.targets.procfs import status_of

_POKEDATA, _DETACH, _SYSCALL, _SETOPTIONS, _GETEVENTMSG, _GETREGSET, _SETREGSET, _SEIZE, _INTERRUPT = (
    5, 17, 24, 0x4200, 0x4201, 0x4204, 0x4205, 0x4206, 0x4207,
)  # fmt: skip
_GET_RSEQ_CONFIGURATION = 0x420F
_TRACESYSGOOD, _TRACEVFORK, _TRACECLONE, _TRACEEXEC, _SUSPEND_SECCOMP = 1 << 0, 1 << 2, 1 << 3, 1 << 4, 1 << 21
_OPTIONS = _TRACESYSGOOD | _TRACECLONE | _TRACEVFORK | _TRACEEXEC
_EVENT_VFORK, _EVENT_CLONE, _EVENT_EXEC, _EVENT_STOP = 2, 3, 4, 128
_WALL = 0x40000000
_SIGTRAP = 5
_KCMP = {"aarch64": 272, "x86_64": 312}
"""The number of the system call, for which the C library has no function. x86-64 for the tests only."""
_KCMP_VM = 1

NT_PRSTATUS, NT_ARM_TLS, NT_ARM_SYSTEM_CALL, NT_ARM_SVE, NT_ARM_PAC_MASK, NT_ARM_SSVE = (
    1, 0x401, 0x404, 0x405, 0x406, 0x40B,
)  # fmt: skip
"""Register sets: x0 to x30, SP, PC and PSTATE; TPIDR_EL0; the number of the system call; SVE; the bits of a signature
in an address; streaming SVE."""


class Held(Enum):
    """Why a thread stands, or that it does not."""

    RUNNING = "runs"
    INTERRUPTED = "was interrupted"
    GROUP_STOP = "was stopped by a signal before, with its whole process"
    SIGNAL = "is about to take a signal"
    BIRTH = "has just made a thread"
    EXEC = "executes another program now"
    SYSTEM_CALL = "goes into a system call or comes out of it"
    """Only after `resume_to_system_call`."""
    ENDED = "has ended"


class State(NamedTuple):
    """A traced thread."""

    held: Held
    signal: int = 0
    """The signal that the thread takes when it is let go, with all that came with it."""

    def __repr__(self) -> str:
        return shown(self, self.held.value, f"with signal {self.signal}" if self.signal else "")


@functools.cache
def _function(name: str, *arguments: Any) -> Callable[..., int]:
    """A function of the C library. Its result and errno are its own thread's."""
    call = getattr(ctypes.CDLL(None, use_errno=True), name)
    call.argtypes, call.restype = arguments, ctypes.c_long
    return call  # type: ignore[no-any-return]


def _request(request: int, tid: int, address: Any = None, data: Any = None) -> None:
    """OSError with the kernel's errno; ProcessLookupError when the thread is gone, or is not stopped."""
    call = _function("ptrace", ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if call(request, tid, address, data) == -1:
        raise _failure()


def _failure() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


def seize(tid: int) -> None:
    """Become the tracer of a thread, which runs on. Threads that it makes from now on are seized with it.

    Only the calling thread of Python may use the other functions on `tid` then, and when the calling thread ends, the
    kernel lets `tid` go. PermissionError when the kernel forbids it, ProcessLookupError when there is no such thread.
    """
    _request(_SEIZE, tid, None, _OPTIONS)


def interrupt(tid: int) -> None:
    """Ask a seized thread to stop. It executes nothing of its program any more after it has come into the kernel."""
    _request(_INTERRUPT, tid)


def state(tid: int) -> State:
    """The state of a seized thread, without waiting. ProcessLookupError when this thread does not trace it.

    The kernel keeps the reported state (WNOWAIT). So a signal that the thread is about to take reaches it also when the
    tracer is killed: the kernel forgets the signal in wait_task_stopped() otherwise.
    """
    try:
        found = os.waitid(os.P_PID, tid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
    if found is None:
        return State(Held.RUNNING)
    if found.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
        return State(Held.ENDED)
    signal, event = found.si_status & 0xFF, found.si_status >> 8
    if signal == _SIGTRAP | 0x80:
        return State(Held.SYSTEM_CALL)
    if event == _EVENT_STOP:
        return State(Held.INTERRUPTED if signal == _SIGTRAP else Held.GROUP_STOP)
    if event in (_EVENT_CLONE, _EVENT_VFORK):
        return State(Held.BIRTH)
    if event == _EVENT_EXEC:
        return State(Held.EXEC)
    return State(Held.SIGNAL, signal)


def born(tid: int) -> int:
    """The thread, or vfork child, that a thread in Held.BIRTH has made."""
    message = ctypes.c_ulong()
    _request(_GETEVENTMSG, tid, None, ctypes.byref(message))
    return message.value


def bury(tid: int) -> None:
    """Take note of a thread in Held.ENDED: until then an exec or exit of its process waits for its tracer."""
    os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | _WALL)


def resume_to_system_call(tid: int) -> None:
    """Let a stopped thread go on until it goes into a system call; inside of one, until it comes out of it.

    x7 reads as 0 or 1 at such a stop, and is not written there (Linux arch/arm64/kernel/ptrace.c, report_syscall()).
    """
    _request(_SYSCALL, tid)


def suspend_seccomp(tid: int) -> None:
    """Let no system call filter judge a stopped thread until it is let go.

    OSError: EPERM without the capability SYS_ADMIN, EINVAL on a kernel without CONFIG_CHECKPOINT_RESTORE.
    """
    _request(_SETOPTIONS, tid, None, _OPTIONS | _SUSPEND_SECCOMP)


def rseq_area(tid: int) -> int:
    """The address of a thread's `struct rseq` (rseq(2)); 0 without one. OSError before Linux 5.13."""
    buffer = (ctypes.c_uint64 * 3)()
    _request(_GET_RSEQ_CONFIGURATION, tid, ctypes.sizeof(buffer), ctypes.byref(buffer))
    return buffer[0]


def detach(tid: int, signal: int = 0) -> None:
    """Let a stopped thread go, with the signal that it was about to take. Its process stays stopped if it was.

    ProcessLookupError when the thread is gone or not stopped.
    """
    _request(_DETACH, tid, None, signal)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def registers(tid: int, kind: int, size: int) -> bytes:
    """Up to `size` bytes of one register set of a stopped thread. OSError with EINVAL when there is no such set."""
    buffer = (ctypes.c_char * size)()
    vector = _Vector(ctypes.addressof(buffer), size)
    _request(_GETREGSET, tid, kind, ctypes.byref(vector))
    return buffer.raw[: vector.length]


def set_registers(tid: int, kind: int, data: bytes) -> None:
    """Write one register set of a stopped thread."""
    buffer = ctypes.create_string_buffer(data, len(data))
    vector = _Vector(ctypes.addressof(buffer), len(data))
    _request(_SETREGSET, tid, kind, ctypes.byref(vector))


def poke(tid: int, address: int, data: bytes) -> None:
    """Write 8 bytes to the memory of a stopped thread, whatever its page permits. Both are multiples of 8 bytes."""
    _request(_POKEDATA, tid, address, int.from_bytes(data, "little"))


def shares_memory(first: int, second: int) -> bool:
    """Whether two processes have the same memory: kcmp(2) with KCMP_VM. Processes without memory share none.

    OSError: ENOSYS when the kernel was built without it, EPERM when it may not be asked, ESRCH when one is gone.
    """
    number = _KCMP.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    result = _function("syscall", *[ctypes.c_long] * 4)(number, first, second, _KCMP_VM)
    if result < 0:
        raise _failure()
    # Without memory are threads of the kernel, and processes that are about to end. To kcmp() these are alike.
    return result == 0 and "VmSize" in status_of(second, second)

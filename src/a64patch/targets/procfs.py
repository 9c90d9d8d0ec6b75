"""One process as Linux shows it under /proc: its threads, mappings, memory and identity; and why it does not show them.

Read on: threads.py stops its threads, process.py makes a target of it.

Source: proc(5); Linux v6.12 fs/proc/base.c.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import suppress

from a64patch.errors import (
    CapabilityError,
    GoneError,
    MappingError,
    ReadError,
    TargetError,
    WriteError,
)
from a64patch.targets.maps import Mapping, Maps, parse_maps

MOST_BYTES = 256 << 20
"""The most bytes of a mapped file, or of a list of mappings, that are read."""
_TOP = 1 << 63
_FLAGS, _START_BRK = 6, 44
"""The fields of /proc/N/stat behind the name, from 0: the flags of the task; where the heap begins."""
_AT_PAGESZ = 6
_WORKER = 0x4000 | 0x10


class Process:
    """The process with one number, as it was when this was made: its memory is that of the program it ran then.

    - GoneError when there is no such process, or it has ended.
    - CapabilityError for the number of a kernel thread, or of one thread of a process.
    - TargetError when its memory may not be seen.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        status = self.status()
        if status.get("Tgid", str(pid)) != str(pid):
            raise CapabilityError(f"{pid} is one thread of a process: give pid:{status['Tgid']}, the whole process")
        if status.get("State", "").startswith(("Z", "X")):
            raise self.gone()
        if "VmSize" not in status and not self._auxv():
            raise CapabilityError(f"{pid} ({self.name()}) is a thread of the kernel, not a process")
        try:
            # This descriptor stands for one memory. After an exec it reads nothing, so no other program is written to.
            self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise self.refused(error) from error
        self.incarnation = self._incarnation()

    def close(self) -> None:
        """Give the process' memory back; any number of times."""
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    # Identity

    def _incarnation(self) -> str:
        """Which run of which program this is, as `base.Identity.incarnation`.

        - `boot`: the kernel's own number of this boot.
        - `start`: when the process began, in clock ticks after the boot. With the pid it names the process.
        - `exec`: from the addresses that the kernel gave the program when it began (the auxiliary vector). The
          program itself cannot change the kernel's copy, and address space randomisation makes it differ after an exec.
        """
        auxv = hashlib.sha256(self._auxv()).hexdigest()[:16]
        return f"{_boot()} start={self._stat()[19]} exec={auxv}"

    def same_program(self) -> bool:
        """Whether the process still runs, with the program that it ran when this was made."""
        try:
            return (
                not self.status().get("State", "Z").startswith(("Z", "X")) and self._incarnation() == self.incarnation
            )
        except TargetError:
            return False

    def executable(self) -> tuple[str, int] | None:
        """Device and inode of the program's file, as `Mapping.file`; None when they cannot be seen."""
        try:
            return file_at(f"/proc/{self.pid}/exe")
        except OSError:
            return None

    def name(self, tid: int | None = None) -> str:
        """The name that a thread gave itself, for people; of the process without `tid`."""
        return name_of(self.pid if tid is None else f"{self.pid}/task/{tid}")

    # Threads

    def threads(self) -> list[int]:
        """The numbers of all its threads. Empty for a process that has ended."""
        return tasks_of(self.pid)

    def status(self) -> dict[str, str]:
        """The fields of the status of the process. GoneError when there is no such process."""
        return _fields(self._text(f"/proc/{self.pid}/status"))

    # Memory

    def page_size(self) -> int:
        """Bytes, by its auxiliary vector (AT_PAGESZ)."""
        words = _words(self._auxv())
        return next((value for key, value in zip(words[::2], words[1::2], strict=False) if key == _AT_PAGESZ), 1 << 16)

    def heap_start(self) -> int:
        """Where its heap begins, or will begin; 0 when the kernel does not tell."""
        return int(self._stat()[_START_BRK])

    def maps_text(self) -> bytes:
        """The content of its list of mappings."""
        try:
            with open(f"/proc/{self.pid}/maps", "rb") as file:
                return file.read(MOST_BYTES)
        except OSError as error:
            raise self.refused(error) from error

    def maps(self) -> Maps:
        """Its mappings now. FormatError when their list makes no sense."""
        return parse_maps(self.maps_text())

    def read_some(self, address: int, size: int) -> bytes:
        """The first of `size` bytes of its memory that can be read; none when it has ended. ReadError otherwise."""
        try:
            return os.pread(self._memory, size, address) if 0 <= address < _TOP else b""
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EFAULT):
                raise ReadError(f"cannot read {address:#x} of process {self.pid}: {error.strerror}") from error
            return b""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of its memory. MappingError where the process could not read, GoneError when it has ended."""
        data = self.read_some(address, size)
        if len(data) == size:
            return data
        if not self.same_program():
            raise self.gone()
        raise MappingError(f"process {self.pid} does not map {address + len(data):#x}")

    def write(self, address: int, data: bytes) -> None:
        """Write to its memory, whatever its page permits (FOLL_FORCE). The kernel publishes what is executable.

        WriteError when the kernel refuses, with its OSError as the cause; GoneError when the process has ended.
        """
        try:
            written = os.pwrite(self._memory, data, address) if 0 <= address < _TOP else 0
        except OSError as error:
            written, cause = 0, error
        else:
            cause = OSError(errno.EIO, os.strerror(errno.EIO))
        if written != len(data):
            if not self.same_program():
                raise self.gone() from cause
            raise WriteError(
                f"the kernel refuses to write {len(data)} bytes at {address:#x} of process {self.pid}"
                f" ({cause.strerror})"
            ) from cause

    def mapped_file(self, mapping: Mapping) -> bytes | None:
        """The content of the file behind a mapping; None when it cannot be reached any more.

        The link in map_files leads to the file itself, whatever its name is now, but only for root. Otherwise its path
        counts, in the root directory of the process, if the file there is the mapped one.
        """
        for place in (
            f"/proc/{self.pid}/map_files/{mapping.start:x}-{mapping.end:x}",
            f"/proc/{self.pid}/root{mapping.path}",
        ):
            with suppress(OSError), open(place, "rb") as file:
                found = os.fstat(file.fileno())
                # Some file systems give another device number in the list of mappings than stat does.
                if found.st_ino == mapping.inode and found.st_size <= MOST_BYTES:
                    return file.read(MOST_BYTES)
        return None

    # Errors

    def gone(self) -> GoneError:
        """The error for a process that is not what it was."""
        if state_of(self.pid, self.pid) in ("", "Z", "X"):
            return _gone(f"process {self.pid} has ended, and its memory with it")
        return _gone(f"process {self.pid} executes another program than before, and the words of the first are gone")

    def refused(self, error: OSError, tid: int | None = None) -> TargetError:
        """The error when the kernel does not let us look at the process, or stop one of its threads: why, and a way."""
        if error.errno in (errno.ENOENT, errno.ESRCH):
            return self.gone()
        who = f"process {self.pid} ({self.name()})"
        status = status_of(self.pid, tid or self.pid) or self.status()
        tracer = status.get("TracerPid", "0")
        if tracer not in ("0", str(threading.get_native_id())):
            its_name = name_of(tracer, "of another container")
            return TargetError(
                f"{who} is being traced by process {tracer} ({its_name}), and a process has one tracer at most:"
                " end that one's work first"
            )
        try:
            reason = _why_refused(self.pid, status)
        except OSError:
            reason = "its owner or its kernel does not permit it; run a64patch as root"
        return TargetError(f"{who} may not be traced ({error.strerror}): {reason}")

    def _text(self, place: str) -> str:
        try:
            with open(place, encoding="utf-8", errors="backslashreplace") as file:
                return file.read(1 << 20)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise _gone(f"there is no process {self.pid}: it has ended, or never was") from error
        except OSError as error:
            raise TargetError(f"cannot read {place}: {error.strerror}") from error

    def _stat(self) -> list[str]:
        """The fields of stat behind the name, which may hold spaces and brackets: the first is the state."""
        return self._text(f"/proc/{self.pid}/stat").rpartition(")")[2].split()

    def _auxv(self) -> bytes:
        try:
            with open(f"/proc/{self.pid}/auxv", "rb") as file:
                return file.read(4096)
        except OSError:
            return b""


def lowest_mappable() -> int:
    """The first address that a process may map (vm.mmap_min_addr)."""
    try:
        with open("/proc/sys/vm/mmap_min_addr", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1 << 16


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data) - 7, 8)]


def _boot() -> str:
    """Which boot of which machine this is, as the first part of an incarnation; empty where Linux does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"boot={file.read(64).strip()}"
    except OSError:
        return ""


def _gone(sentence: str) -> GoneError:
    """No process of this number, or of this program, is there: `start` and `exec` of none are empty."""
    error = GoneError(sentence)
    error.incarnation = f"{_boot()} start= exec="
    return error


def file_at(path: str) -> tuple[str, int]:
    """Device and inode of the file at a path, as `Mapping.file`. OSError when there is none."""
    found = os.stat(path)
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}", found.st_ino


def mapping_of(maps: Maps, path: str) -> Mapping | None:
    """The first executable mapping of the file at an absolute path; None without one.

    It is the file at this path here, or has this path in the root directory of its process. A file that still has this
    path there goes before a deleted one.
    """
    try:
        same = file_at(path)
    except (OSError, ValueError):
        same = None
    found = [each for each in maps if each.executable and each.file and (each.file == same or each.path == path)]
    return min(found, key=lambda each: (each.file != same, each.deleted), default=None)


def name_of(pid: int | str, otherwise: str = "?") -> str:
    """The name that a process, or the thread at `PID/task/TID`, gave itself, for people."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read(64).rstrip(b"\n").decode("utf-8", "backslashreplace")
    except OSError:
        return otherwise


def tasks_of(pid: int) -> list[int]:
    """The numbers of all threads of a process, also of one that has ended and still has a number. Empty without any."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def processes() -> Iterator[int]:
    """The numbers of all processes that can be seen."""
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def state_of(pid: int, tid: int) -> str:
    """One letter: R runs, S sleeps, D sleeps and takes no signal, t is traced; empty for a thread that has ended."""
    try:
        with open(f"/proc/{pid}/task/{tid}/stat", "rb") as file:
            return file.read(4096).rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return ""


def is_kernels_own(pid: int, tid: int) -> bool:
    """Whether a thread of a process never executes its program, such as one that io_uring has made.

    Its flags are PF_IO_WORKER or PF_USER_WORKER (Linux include/linux/sched.h). False for a thread that has ended.
    """
    try:
        with open(f"/proc/{pid}/task/{tid}/stat", "rb") as file:
            flags = int(file.read(4096).rpartition(b")")[2].split()[_FLAGS])
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _WORKER)


def status_of(pid: int, tid: int) -> dict[str, str]:
    """The fields of a thread's status; empty for one that has ended."""
    try:
        with open(f"/proc/{pid}/task/{tid}/status", encoding="utf-8", errors="backslashreplace") as file:
            return _fields(file.read(1 << 16))
    except OSError:
        return {}


def system_call(pid: int, tid: int) -> tuple[int, ...]:
    """The number, six arguments, SP and PC of the system call in which a thread sleeps. Empty when it does not.

    Also empty where the kernel does not tell.
    """
    try:
        with open(f"/proc/{pid}/task/{tid}/syscall", "rb") as file:
            fields = file.read(512).split()
        values = tuple(int(field, 0) for field in fields)
    except (OSError, ValueError):
        return ()
    return values if len(values) == 9 and values[0] >= 0 else ()


def _fields(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _user_namespace(pid: int) -> int:
    """The number of the user namespace of a process; 0 when it cannot be seen."""
    try:
        return os.stat(f"/proc/{pid}/ns/user").st_ino
    except OSError:
        return 0


def ptrace_scope() -> str:
    """Who may trace whom, as Linux's Yama has it (0 to 3); empty on a kernel without Yama."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _why_refused(pid: int, status: dict[str, str]) -> str:
    """The most likely reason why this process may not be traced, and what to do. OSError when nothing can be read."""
    ids = {word for name in ("Uid", "Gid") for word in status.get(name, "").split()}
    if os.geteuid() and ids - {str(os.geteuid()), str(os.getegid())}:
        return "it belongs to another user, or has changed its user; run a64patch as root"
    if os.geteuid() and _user_namespace(pid) not in (0, _user_namespace(os.getpid())):
        return "it runs in another user namespace (a container); run a64patch as root of the host"
    scope = ptrace_scope()
    if scope == "3":
        return "kernel.yama.ptrace_scope is 3, which forbids tracing until the next boot"
    if scope == "2" or (scope == "1" and os.geteuid()):
        return f"kernel.yama.ptrace_scope is {scope}; run a64patch as root, or set it to 0 (`sysctl`, as root)"
    if os.geteuid():
        return "it does not let itself be dumped (prctl PR_SET_DUMPABLE, or more capabilities); run a64patch as root"
    with open("/proc/self/status", encoding="ascii") as file:
        own = _fields(file.read())
    if own.get("Seccomp", "0") != "0":
        return "a64patch itself runs under a system call filter (a container without SYS_PTRACE): add that capability"
    if not int(own.get("CapEff", "0"), 16) >> 19 & 1:
        return "a64patch has not the capability SYS_PTRACE here: run it as root, or give its container that capability"
    return "a security module of this kernel forbids it (SELinux, AppArmor, lockdown): its log says which rule"

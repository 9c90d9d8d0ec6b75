"""A running process on this machine: its threads are stopped by ptrace, its memory is written through /proc.

Nothing is executed in the process, but for one system call that maps or unmaps a room for new code.

Read on: threads.py stops the threads, procfs.py reads and writes the process, stacks.py finds where a thread will
return, mapped.py finds the builds in its memory, process_room.py the rooms; calling.py has the system call made.

Who does what (Linux v6.12):

- **The store** is ours: write(2) on /proc/N/mem, with FOLL_FORCE for read-only text (fs/proc/base.c, mem_rw()). A page
  of a private mapping is copied first, so that only this process changes. Four bytes are one store
  (arch/arm64/lib/memcpy.S).
- **The cache maintenance** is the kernel's, within that write: copy_to_user_page() cleans the line to the point of
  unification and invalidates the instruction caches of all CPUs, for an executable mapping (arch/arm64/mm/flush.c).
- **The context synchronisation event** of a thread is the exception return with which it goes on (Arm ARM, D1.6.5).
"""

from __future__ import annotations

import errno
import gc
import os
import re
import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from a64patch.a64.words import INSN_SIZE, to_bytes
from a64patch.errors import BusyError, CapabilityError, MappingError, RequestError, TargetError, WriteError
from a64patch.oneline import some
from a64patch.protocols import Doer, Operation, Step
from a64patch.ranges import Ranges
from a64patch.targets import ptrace
from a64patch.targets.base import Capabilities, CpuState, Identity, Rendezvous, Room, Target
from a64patch.targets.calling import SVC, make_call
from a64patch.targets.executing import escaped
from a64patch.targets.keeper import outliving
from a64patch.targets.mapped import JIT, MappedModule, modules_of
from a64patch.targets.maps import Mapping, Maps, parse_maps
from a64patch.targets.modules import Module, Modules
from a64patch.targets.process_room import HOW, free_place, mark_of, pages_of, rooms_in
from a64patch.targets.procfs import (
    Process,
    is_kernels_own,
    lowest_mappable,
    mapping_of,
    name_of,
    processes,
    ptrace_scope,
)
from a64patch.targets.ptrace import NT_ARM_PAC_MASK, NT_ARM_TLS, Held
from a64patch.targets.section import Found, Outcome, Section, carry_out
from a64patch.targets.stacks import NOT_SEEN, KeepOut, ThreadRegisters, found_in
from a64patch.targets.threads import Threads, named
from a64patch.targets.unwinding import UnwindTables

SCHEME = "pid:"
_SVC_BITS, _SVC = 0xFFE0001F, 0xD4000001
"""SVC #imm16 (Arm ARM, C6.2)."""
_WORD = 8
"""Bytes that PTRACE_POKEDATA writes."""
_FORBIDDEN = (errno.EIO, errno.EFAULT, errno.EACCES, errno.EPERM)
_NEAR = 4096
"""Words with fewer bytes between them are read at once: no page is as small, so each page of the read has a word."""
_MOST_AT_ONCE = 1 << 20
_MMAP, _MUNMAP = 222, 215
"""Numbers of system calls (asm-generic/unistd.h)."""
_READ_EXECUTE, _PRIVATE_ANONYMOUS_HERE = 1 | 4, 0x02 | 0x20 | 0x100000
"""PROT_READ and PROT_EXEC; MAP_PRIVATE, MAP_ANONYMOUS and MAP_FIXED_NOREPLACE (mmap(2))."""
_NO_FILE = (1 << 64) - 1
_PATIENCE, _BETWEEN = 10.0, 0.01
"""Seconds for which stops are tried until a thread can make a system call, and between two of them."""
_SP, _PC = 31, 32
"""Where they are in a thread's registers."""


class _Unseen:
    """Who may go on in the code of a process without being one of its threads: said, since nobody can look there."""

    note = NOT_SEEN

    def unseen(self) -> str:
        """Nothing is known to be unseen."""
        return ""

    def prepare(self, keep_out: Ranges) -> None:
        """Nothing to do."""

    def look(self, keep_out: Ranges, cpus: Sequence[CpuState]) -> Iterable[Found]:
        """Nobody."""
        return ()


class _Stopped:
    """The StoppedCpus of a process: each thread is a CPU, with the thread's number."""

    def __init__(self, tids: Sequence[int], states: Callable[[], Sequence[CpuState]]) -> None:
        self.rendezvous = Rendezvous(tids)
        for tid in tids:
            self.rendezvous.arrive(tid)
        self._states = states

    def states(self) -> Sequence[CpuState]:
        """PC and link register of each thread that stands. `carry_out` looks at the stacks as well."""
        return self._states()


class ProcessTarget(Target):
    """A process of this machine, with all its threads. Only arm64 Linux has such targets.

    **Reading** disturbs nobody. **Writing** outside of a stop changes words while the threads run, as `nosync` does.

    **A stop** stops every thread that executes in the memory of the process, in whichever process it is: threads.py
    says how, and what a stopped thread notices. `carry_out` refuses a patch while a thread stands in `keep_out` or may
    return there: registers, stack, signal frames. Not seen are coroutines and setjmp buffers.

    **Memory** is written only where it is mapped executable and private. A shared mapping is refused, since the write
    would change the file, or other processes. `carry_out` refuses when the words of the section are not mapped from the
    same file as when the target was opened: dlclose, dlopen, mmap.

    **A room** for new code is pages of its own (process_room.py). One thread of the process maps and unmaps them, while
    all stand (calling.py). A child of this process sees to that, so that it is done whole also when this one is killed.
    The pages permit no branch target identification: new code is reached by B, which needs no landing pad.

    Processes that begin later execute the file, which is not changed.

    The first module, which names the target, is the program. `main` makes it another one: the library at this path.

    - The path is that of the mapping, in the process' own root directory; or any path of the same file from here.
    - A file that was replaced since it was mapped counts too, if the new one is not mapped.

    Errors:

    - CapabilityError for a process that a64patch cannot patch: on another machine than arm64 Linux, of 32-bit code, a
      kernel thread, a64patch itself;
    - TargetError when the process executes no code of `main`;
    - others as `Process`.
    """

    def __init__(self, pid: int, *, main: str | os.PathLike[str] = "") -> None:
        system = os.uname()
        if (system.sysname, system.machine) != ("Linux", "aarch64"):
            raise CapabilityError(
                f"{SCHEME}{pid} names a process, and a64patch patches processes on arm64 Linux only; this is"
                f" {system.sysname} on {system.machine}: run a64patch on the machine of the process"
            )
        if pid == os.getpid():
            raise CapabilityError(f"{SCHEME}{pid} is a64patch itself, which cannot stop itself")
        self._process = Process(pid)
        self._threads: Threads | None = None
        self._late: list[int] = []
        """The threads that are still ours after a stop: see `Threads.let_go`."""
        self._signature: int | None = None
        try:
            self._maps_text = self._process.maps_text()
            self._maps = self._maps_seen = self._maps_opened = parse_maps(self._maps_text)
            self._is_fresh = False
            """`_maps_text` was read while all threads stand."""
            self._require_64_bit()
            self._main = self._mapping_of(os.path.abspath(main)) if main else None
            self._others = _Unseen()
            self.capabilities = Capabilities(
                "process", len(self._process.threads()), can_stop=True, can_kick=True, sees_pcs=True, broadcast=True,
                writes_data=True, noun="thread",
            )  # fmt: skip
        except BaseException:
            self._process.close()
            raise

    def _require_64_bit(self) -> None:
        try:
            with open(f"/proc/{self._process.pid}/exe", "rb") as file:
                head = file.read(5)
        except OSError:
            return  # Seen by its mappings, then.
        if head[:4] == b"\x7fELF" and head[4] == 1:
            raise CapabilityError(f"process {self._process.pid} executes 32-bit code (AArch32), not A64")

    def _mapping_of(self, path: str) -> Mapping:
        """The first executable mapping of the file at an absolute path."""
        found = mapping_of(self._maps, path)
        if found is None:
            code = (mapping.path for mapping in self._maps if mapping.executable and mapping.file)
            names = list(dict.fromkeys(name.rpartition("/")[2] for name in code))
            raise TargetError(
                f"process {self._process.pid} ({self._process.name()}) executes no code of {path}; it does of"
                f" {some(names, len(names)) or 'no file'}"
            )
        return found

    # The Target protocol

    def own_modules(self) -> Iterable[Module]:
        """The executable, each library, the vDSO, and other executable memory. Names are read when they are needed.

        The file given as `main` comes first.
        """
        process = self._process
        main = self._main.file if self._main else process.executable()
        return modules_of(self._maps, process.read, process.mapped_file, main=main, incarnation=process.incarnation)

    @property
    def location(self) -> str:
        """`pid:N`, or `pid:N?main=PATH` with the path of the mapping."""
        place = f"{SCHEME}{self._process.pid}"
        return f"{place}?main={escaped(self._main.path)}" if self._main else place

    def identity(self) -> Identity:
        """That of the first module. Its incarnation tells the boot, the process and the program that it runs."""
        return replace(super().identity(), incarnation=self._process.incarnation)

    def facts(self) -> dict[str, str]:
        """The facts about a process for people. Reads the file of each module, since the names come from there."""
        process = self._process
        doubts = {f"file of {module.name}": self._doubt(module) for module in self.modules}
        sharing = ", ".join(f"{pid} ({name_of(pid)})" for pid in processes() if self._shares(pid))
        return {
            "process": f"{process.pid} ({process.name()})",
            "a stop stops": "all its threads, and every process with the same memory",
            "caches are maintained by": "the kernel, within each write to executable memory (flush_ptrace_access)",
            **({"processes with the same memory": sharing} if sharing else {}),
            **({"kernel.yama.ptrace_scope": scope} if (scope := ptrace_scope()) else {}),
            **{name: doubt for name, doubt in doubts.items() if doubt},
            **super().facts(),
        }

    def _doubt(self, module: Module) -> str:
        """Why the file of a module may not be what is in memory, for people; empty without a doubt."""
        doubt = module.origin().doubt if isinstance(module, MappedModule) else ""
        if doubt or module.shares_code or not module.code:
            return doubt
        mapping = self._maps.at(next(iter(module.code))[0])
        return "it was removed or replaced since it was mapped" if mapping and mapping.deleted else ""

    def _shares(self, pid: int) -> bool:
        """Whether another process is known to have the same memory."""
        try:
            return pid != self._process.pid and ptrace.shares_memory(self._process.pid, pid)
        except OSError:
            return False

    def doer(self, step: Step) -> Doer:
        """Stores and the look are ours; the kernel maintains the caches, and synchronises each thread."""
        if step.operation in (Operation.WRITE, Operation.LOOK):
            return Doer.US
        return Doer.TARGET if step.operation is not Operation.CALLER else Doer.UNKNOWN

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes; errors as `Process.read`."""
        return self._process.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Put bytes in executable memory of a private mapping.

        MappingError elsewhere. WriteError when the kernel refuses, or the process is gone.
        """
        self._require_code(address, len(data))
        self._put(address, data)

    def write_data(self, address: int, data: bytes) -> None:
        """Put bytes in memory of a private mapping that is not executable; errors as `write`."""
        self._require_private(address, len(data), executable=False)
        self._put(address, data)

    def read_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes]:
        """As `Target.read_many`, by one read for all words that are near each other."""
        return self.reader(requests)()

    def reader(self, requests: Sequence[tuple[int, int]], expected: Sequence[bytes] = ()) -> Callable[[], list[bytes]]:
        """As `Target.reader`; `expected` has no use here."""
        groups = [(start, size, members, _shape(start, members)) for start, size, members in _near(requests)]

        def read() -> list[bytes]:
            found: list[bytes] = []
            for start, size, members, shape in groups:
                data = self._process.read_some(start, size)
                if len(data) == size:
                    found += shape.unpack(data)
                else:  # The first word that cannot be read has the error.
                    found += [self.read(address, length) for address, length in members]
            return found

        return read

    def write_many(self, requests: Sequence[tuple[int, bytes]]) -> None:
        """As `write` of each. While the threads stand, words behind each other are one write to their memory.

        Threads that run must see each word change by a store of its own.
        """
        if not requests:
            return
        low = min(address for address, _ in requests)
        try:
            self._require_code(low, max(address + len(data) for address, data in requests) - low)
        except MappingError:
            for address, data in requests:
                self._require_code(address, len(data))
        for address, data in requests if self._threads is None else _joined(requests):
            self._put(address, data)

    # Rooms

    def find_room(self, size: int, near: tuple[int, int], alignment: int = 16) -> Room:
        """Free pages between the mappings: `process_room.free_place` says which. CapabilityError without any."""
        page = self._process.page_size()
        pages = pages_of(Room(0, size), page)
        place = free_place(
            self._maps_now(), pages, near,
            alignment=alignment, page=page, lowest=max(lowest_mappable(), page), heap=self._process.heap_start(),
        )  # fmt: skip
        if place is None:
            raise CapabilityError(
                f"process {self._process.pid} has no {pages} bytes free within reach of"
                f" {self.symbols.describe(near[0])}, so there is no room for new code"
            )
        return Room(place, size, HOW)

    def allocate(self, room: Room) -> None:
        """Map the pages of a room, by a system call that a thread of the process makes.

        - MappingError when something is mapped there by now.
        - CapabilityError when the kernel does not permit it: a limit of the process, a security module, a system call
          filter.
        - BusyError when no thread can make the call. Other errors as `stop`.
        """
        outliving(lambda: self._map(room))
        self._rooms_changed()

    def rooms(self) -> Sequence[Room]:
        """The rooms in this process, whoever mapped them: `process_room.rooms_in` says how they are known."""
        return [room for room, _ in rooms_in(self._maps_now(), self._process.read_some)]

    def release(self, room: Room) -> str:
        """Unmap the pages of a room; errors as `allocate`."""
        pages = next(
            (pages for each, pages in rooms_in(self._maps_now(), self._process.read_some) if each == room), None
        )
        if pages is None:
            raise MappingError(f"there is no room for new code at {room.address:#x}; nothing was changed")
        outliving(lambda: self._unmap(pages))
        self._rooms_changed()
        return ""

    def _map(self, room: Room) -> None:
        pages = pages_of(room, self._process.page_size())

        def map_and_mark(gate: int) -> int | None:
            result = self._call(
                gate, _MMAP, room.address, pages, _READ_EXECUTE, _PRIVATE_ANONYMOUS_HERE, _NO_FILE, 0
            )  # fmt: skip
            if result == room.address:
                mark = mark_of(room)
                self._put(room.address + pages - len(mark), mark)
            elif result is not None and result >= 0:  # Linux before 4.17 takes the address for a hint.
                self._call(gate, _MUNMAP, result, pages)
                return -errno.EEXIST
            return result

        self._make(map_and_mark, f"map {pages} bytes of code at {room.address:#x}")

    def _unmap(self, pages: Mapping) -> None:
        size = pages.end - pages.start
        self._make(lambda gate: self._call(gate, _MUNMAP, pages.start, size), f"unmap {size} bytes at {pages.start:#x}")

    def _make(self, call: Callable[[int], int | None], what: str) -> None:
        """Stop all threads, and have one of them make a system call."""
        gate, deadline = self._gate(), time.monotonic() + _PATIENCE
        while True:
            with self.stop():
                result = call(gate)
            if result is not None:
                break
            if time.monotonic() > deadline:
                raise BusyError(
                    f"no thread of process {self._process.pid} can {what}: one sleeps in the kernel (state D), or each"
                    " takes a signal or is in code that may not be interrupted; try again"
                )
            time.sleep(_BETWEEN)
        if result == -errno.EEXIST:
            raise MappingError(f"process {self._process.pid} cannot {what}: something is mapped there by now")
        if result < 0:
            raise CapabilityError(
                f"process {self._process.pid} may not {what} ({os.strerror(-result)}): a limit of the process, a system"
                " call filter (seccomp) or a security module (SELinux: execmem) forbids it"
            )

    def _call(self, gate: int, number: int, *arguments: int) -> int | None:
        assert self._threads is not None
        try:
            return make_call(self._threads, self._process.pid, self._process.read_some, gate, number, *arguments)
        except OSError:
            return None  # A thread was killed: the next stop sees what is left of the process.

    def _gate(self) -> int:
        """An SVC #0 in code of the process: the vDSO has one to leave a signal handler."""
        code = [
            mapping for mapping in self._maps_now() if mapping.executable and (mapping.path == "[vdso]" or mapping.file)
        ]
        for mapping in sorted(code, key=lambda mapping: mapping.path != "[vdso]"):
            data = self._process.read_some(mapping.start, min(mapping.end - mapping.start, _MOST_AT_ONCE))
            at = data.find(SVC)
            while at >= 0:
                if at % INSN_SIZE == 0:
                    return mapping.start + at
                at = data.find(SVC, at + 1)
        raise CapabilityError(f"process {self._process.pid} has no SVC instruction by which it could map memory")

    def _is_in_a_room(self, address: int) -> bool:
        return any(room.address <= address < room.end for room in self.rooms())

    def _rooms_changed(self) -> None:
        """Know the mappings and the code anew."""
        self._maps = self._maps_now()
        named = [module for module in self.modules if module.name != JIT]
        jit = next((module for module in self.modules if module.name == JIT), MappedModule(JIT, shares_code=True))
        code = self._maps.code - Ranges.of(span for module in named for span in module.code or ())
        self._modules = Modules([*named, replace(jit, code=code)] if code else named)

    def code_with(self, address: int) -> Sequence[tuple[int, int]]:
        """As `Target.code_with`, with all rooms: new code branches back into the code of any build."""
        code = Ranges.of(super().code_with(address))
        return list(code | Ranges.of((room.address, room.end) for room in self.rooms())) if code else []

    def _require_code(self, address: int, size: int) -> None:
        limit = self._may_write
        if limit is not None and not limit.covers(address, address + size):
            raise MappingError(f"{self.symbols.describe(address)} is not code, so it may not be written")
        self._require_private(address, size, executable=True)

    def _require_private(self, address: int, size: int, *, executable: bool) -> None:
        at, end = address, address + size
        for mapping in self._maps.holding(address, end):
            if mapping.start > at:
                break
            if mapping.shared:
                raise MappingError(
                    f"{self.symbols.describe(at)} is in a shared mapping of {mapping.path or 'memory'}: a write would"
                    " change it for all who map it, so it is refused"
                )
            if mapping.executable != executable:
                what = "not mapped executable, so it is not code" if executable else "executable, so it is no data"
                raise MappingError(f"{self.symbols.describe(at)} is {what}, and may not be written as such")
            at = mapping.end
        if at < end:
            raise MappingError(f"process {self._process.pid} does not map {at:#x}")

    def _put(self, address: int, data: bytes) -> None:
        try:
            self._process.write(address, data)
        except WriteError as error:
            # Linux from 6.12 on may forbid to force a write in this way (proc_mem.force_override=): ptrace still may.
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in _FORBIDDEN:
                raise
            if self._threads is None and self._is_in_a_room(address):
                with self.stop():
                    self._poke(address, data)
                return
            if self._threads is None:
                raise WriteError(
                    f"{error}: this kernel lets nobody write to read-only memory of a process whose threads run; use"
                    " --sync stop"
                ) from error
            self._poke(address, data)

    def _poke(self, address: int, data: bytes) -> None:
        assert self._threads is not None
        tid = next((tid for tid in self._threads.standing if self._threads.held(tid) is not Held.RUNNING), None)
        if tid is None:
            raise WriteError(f"no thread of process {self._process.pid} stands, so nothing can be written")
        start, end = address & -_WORD, -(-(address + len(data)) // _WORD) * _WORD
        whole = bytearray(self.read(start, end - start))
        whole[address - start : address - start + len(data)] = data
        try:
            for at in range(start, end, _WORD):
                ptrace.poke(tid, at, bytes(whole[at - start : at - start + _WORD]))
        except OSError as error:
            raise WriteError(
                f"the kernel refuses to write at {self.symbols.describe(address)} also by PTRACE_POKEDATA"
                f" ({error.strerror}): it protects this memory, so it cannot be patched from here"
            ) from error

    def publish(self, start: int, end: int) -> None:
        """Nothing to do: the kernel has published each write."""

    def publish_many(self, ranges: Sequence[tuple[int, int]]) -> None:
        """As `publish`."""

    def kick(self) -> None:
        """Stop every thread and let it go: its exception return is a context synchronisation event."""
        with self.stop():
            pass

    @contextmanager
    def stop(self) -> Iterator[_Stopped]:
        """Stop all threads; when the block ends, let them go as they were.

        BusyError when one does not come in time. TargetError when the kernel does not let us, or the process has ended
        or executes another program.
        """
        if self._threads is not None:
            raise RequestError("this process is being stopped already")
        threads = Threads(self._process)
        with _no_collection():
            threads.stop()
            self._threads, self._is_fresh = threads, False
            try:
                stopped = _Stopped(threads.standing, self._states)
                yield stopped
                stopped.rendezvous.finish()
            finally:
                self._threads, self._is_fresh = None, False
                self._late = threads.let_go()

    def carry_out(self, section: Section) -> Outcome:
        """As `section.carry_out`. A thread that sleeps in the system call of a changed SVC counts as in the way.

        CapabilityError for a changed SVC without a stop. The architecture lets that word race, but the kernel makes an
        interrupted thread execute it again, in the middle of the call.
        """
        calls = [
            (change.address, change.address + INSN_SIZE) for change in section.changes if change.old & _SVC_BITS == _SVC
        ]
        if calls and section.protocol != "stop":
            raise CapabilityError(
                f"a thread may be sleeping in the system call at {self.symbols.describe(calls[0][0])}, and would"
                " execute the new word in the middle of it: use --sync stop"
            )
        if calls:
            section = replace(section, keep_out=section.keep_out | Ranges.of(calls))
        keep_out = KeepOut(section.keep_out)
        if section.keep_out:
            keep_out.bounds  # noqa: B018 # Its first import of numpy takes long: not while the threads stand.
        writes = section.writes
        if section.protocol == "stop":
            # Each write costs much more than its bytes. The words between were compared in this stop, and stay equal.
            kept = ((address, to_bytes(word)) for address, word in section.unchanged)
            writes = tuple(_joined(sorted((*writes, *kept))))
        opened = self._opened(section.addresses)

        def write() -> None:
            self._require_same_mappings(opened)
            self.write_many(writes)
            if section.data:
                self.write_data_many(section.data_writes)

        read = self.reader(section.reads)
        return carry_out(self, section, read=read, write=write, look=lambda: self._look(keep_out))

    def _opened(self, addresses: Iterable[int]) -> list[tuple[Mapping, list[int]]]:
        """The mappings that held these addresses when this was opened, with the addresses in each, ascending."""
        found: dict[Mapping, list[int]] = {}
        for address in sorted(addresses):
            mapping = self._maps_opened.at(address)
            if mapping is not None:
                found.setdefault(mapping, []).append(address)
        return list(found.items())

    def _require_same_mappings(self, opened: Iterable[tuple[Mapping, Sequence[int]]]) -> None:
        """MappingError when one of these addresses is no longer mapped from the same place of the same file."""
        self._maps = self._maps_now()
        if self._maps is self._maps_opened:
            return
        for before, addresses in opened:
            place = 0
            while place < len(addresses):
                address = addresses[place]
                now = self._maps.at(address)
                if now is None or _place(before, address) != _place(now, address):
                    raise MappingError(
                        f"{self.symbols.describe(address)} is no longer {before.path or 'the same memory'}: the process"
                        " has unmapped it since the plan was made (dlclose); nothing was changed: plan again"
                    )
                place = bisect_left(addresses, now.end, place)

    def _maps_now(self) -> Maps:
        """The mappings now. While the threads stand they are read once: only the program's own threads change them.

        A thread in uninterruptible sleep may be in a system call that changes mappings: then they are read each time.
        """
        threads = self._threads
        if not self._is_fresh:
            text = self._process.maps_text()
            if text != self._maps_text:
                self._maps_text, self._maps_seen = text, parse_maps(text)
            self._is_fresh = threads is not None and all(
                threads.held(tid) is not Held.RUNNING for tid in threads.standing
            )
        return self._maps_seen

    def close(self) -> None:
        """Give the process back. Any number of times. TargetError when a thread still sleeps in the kernel as ours."""
        self._process.close()
        if self._late:
            late, self._late = self._late, []
            raise TargetError(
                f"thread {late[0]} of process {self._process.pid} sleeps in the kernel (state D) and could not be let"
                " go yet; it goes on when this program ends"
            )

    # Where threads are

    def _states(self) -> list[CpuState]:
        return [CpuState(thread.tid, thread.pc, (thread.x[30],)) for thread in self._standing()]

    def _standing(self) -> Iterator[ThreadRegisters]:
        """The registers of each thread that executes the program.

        Left out are threads that sleep in the kernel, whose registers nobody tells, and the kernel's own threads.
        """
        assert self._threads is not None
        for tid in self._threads.standing:
            values = self._registers(tid)
            if values is None:
                continue
            if values[_SP] == 0 == values[_PC] and is_kernels_own(self._threads.process_of(tid), tid):
                continue
            yield ThreadRegisters(tid, "", values[:_SP], values[_SP], values[_PC])

    def _registers(self, tid: int) -> tuple[int, ...] | None:
        assert self._threads is not None
        try:
            return self._threads.registers(tid)
        except ProcessLookupError:
            return None  # It was killed, and executes nothing any more.

    def _look(self, keep_out: KeepOut) -> Iterator[Found]:
        """All threads in `keep_out`."""
        threads = self._threads
        if not keep_out.ranges or threads is None:
            return
        maps = self._maps_now()
        read = self._process.read_some
        tables = UnwindTables(maps, read)
        for thread in self._standing():
            found = found_in(
                thread, keep_out, maps, read, signature_bits=self._signature_bits(thread.tid), cfi=tables,
                thread_pointer=partial(self._thread_pointer, thread.tid),
            )  # fmt: skip
            if found is not None:
                yield found._replace(who=self._called(thread.tid))
        for tid in threads.standing:
            if threads.held(tid) is Held.RUNNING:
                yield Found(
                    -1,
                    keep_out.low,
                    False,
                    self._called(tid),
                    "it sleeps in the kernel, which does not tell its registers",
                )

    def _called(self, tid: int) -> str:
        """A thread for people."""
        return named(self._process, tid)

    def _thread_pointer(self, tid: int) -> int:
        """TPIDR_EL0; 0 when the thread was killed meanwhile."""
        try:
            return int.from_bytes(ptrace.registers(tid, NT_ARM_TLS, 8), "little")
        except OSError:
            return 0

    def _signature_bits(self, tid: int) -> int:
        """The bits of an address in which a pointer authentication code may be: alike in all threads."""
        if self._signature is None:
            try:
                masks = ptrace.registers(tid, NT_ARM_PAC_MASK, 16)
                self._signature = int.from_bytes(masks[8:16], "little")
            except OSError:
                self._signature = 0  # No set of this kind: these CPUs authenticate no pointers.
        return self._signature


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python looks for garbage later: it would look at all objects of this program while the threads stand."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _near(requests: Sequence[tuple[int, int]]) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Requests (address, size) in groups that one read serves: start, size and members, all in the given order."""
    groups: list[tuple[int, int, list[tuple[int, int]]]] = []
    for address, size in requests:
        if groups:
            start, length, members = groups[-1]
            if start + length <= address < min(start + length + _NEAR, start + _MOST_AT_ONCE):
                members.append((address, size))
                groups[-1] = start, address + size - start, members
                continue
        groups.append((address, size, [(address, size)]))
    return groups


def _shape(start: int, members: Sequence[tuple[int, int]]) -> struct.Struct:
    """Takes the bytes from `start` on apart: those of each member (address, size), without what is between."""
    parts = []
    for address, size in members:
        parts.append(f"{address - start}x{size}s")
        start = address + size
    return struct.Struct("".join(parts))


def _joined(requests: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The same bytes, in the same order, with those joined that are behind each other."""
    joined: list[tuple[int, bytearray]] = []
    for address, data in requests:
        if joined and joined[-1][0] + len(joined[-1][1]) == address:
            joined[-1][1].extend(data)
        else:
            joined.append((address, bytearray(data)))
    return [(address, bytes(data)) for address, data in joined]


def _place(mapping: Mapping, address: int) -> tuple[object, ...]:
    """What an address of a mapping stands for: the byte of a file, or memory without one."""
    if mapping.file is None:
        return mapping.path, mapping.executable
    return mapping.file, address - mapping.start + mapping.offset, mapping.executable


def open_process(text: str, **options: Any) -> ProcessTarget:
    """The target at `pid:N`, with settings behind `?`: main=PATH, in which `%` and `&` are `%25` and `%26`.

    `options` are the constructor's and overrule the settings. RequestError for another text, an unknown key and a
    setting without a value; other errors as `ProcessTarget`.
    """
    number, mark, query = text.removeprefix(SCHEME).partition("?")
    if not re.fullmatch(r"[1-9][0-9]{0,9}", number):
        raise RequestError(f"{text[:80]!r} does not name a process: write {SCHEME} and the process's number")
    try:
        # A plus is no space here: libstdc++.so.6.
        plus = query.replace("+", "%2B")
        pairs = parse_qsl(plus, keep_blank_values=True, strict_parsing=True, errors="surrogateescape") if mark else []
    except ValueError:
        raise RequestError(f"{query[:200]!r} is not a list of KEY=VALUE with & between") from None
    for key, value in pairs:
        if key != "main":
            raise RequestError(f"a process has no setting {key[:40]!r}; it knows main")
        if not value:
            raise RequestError(f"{text[:200]!r} names no file: write main=PATH")
        options.setdefault(key, value)
    if len(pairs) > 1:
        raise RequestError(f"a setting of {text[:200]!r} is given twice; give each once")
    return ProcessTarget(int(number), **options)

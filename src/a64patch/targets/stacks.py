"""Where a stopped thread of a process will return: its stacks are searched first, and followed only after a hit.

This file knows no target: the caller gives registers, mappings and a function that reads memory.
Read on: unwinding.py has the tables by which a stack is followed; section.py has what is found.

Sources: Linux arch/arm64/kernel/signal.c (struct rt_sigframe, setup_sigframe_layout), arch/arm64/include/uapi/asm/
sigcontext.h and ucontext.h; Procedure Call Standard for the Arm 64-bit Architecture, 6.4.5 (the stack).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from a64patch.errors import FormatError
from a64patch.oneline import printable, shown
from a64patch.ranges import Ranges
from a64patch.targets.frames import Piece, follow_frames
from a64patch.targets.maps import Mapping, Maps
from a64patch.targets.section import Found
from a64patch.targets.unwinding import SP, Read, Row, Rule, UnwindTable, read_some

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

NOT_SEEN = (
    "not seen: return addresses in jump buffers, and on the stacks of coroutines that wait or that a thread has left"
    " for another stack"
)
"""What `found_in` never sees, for people."""
MOST_STACKS = 16
"""Stacks of one thread: its own, and those that its signal handlers interrupted."""
MOST_BYTES = 1 << 26
"""Bytes of all stacks of one thread. A thread of glibc has 8 MiB by default."""
MOST_FRAMES = 4096
"""Frames of one thread that are followed."""
_PIECE = 1 << 22
_LARGE = 1 << 16
"""Bytes of a stack that are read without asking for the thread pointer."""
_MOST_BLOCKS = 64
"""Blocks of 64 KiB for which stacks are searched quickly."""
_TAG = 0x1FF << 55
"""User code runs with the top byte ignored, and bit 55 is 0 in a user address (Arm ARM, D8.8, and Linux TCR_TBI0)."""
_SCRATCH = 19
"""x0 to x18: a call may change them."""
_FRAME_POINTER, _LINK = 29, 30

# struct rt_sigframe: 128 bytes of siginfo, then ucontext, whose mcontext has regs[31], sp, pc and pstate.
_SIGNAL_REGISTERS = 128 + 176 + 8
_SIGNAL_RECORDS = 592
_SIGNAL_FIELDS = struct.Struct("<33Q")
_FPSIMD = 0x210 << 32 | 0x46508001
"""The size and the magic of the first record behind it: Linux has put it first since 3.7."""
_FPSIMD_BYTES = struct.pack("<Q", _FPSIMD)
_WORDS_BACK_TO_SP = (_SIGNAL_RECORDS - _SIGNAL_REGISTERS) // 8 - 31
_TRAMPOLINE = struct.pack("<II", 0xD2801168, 0xD4000001)
"""mov x8, #139 (rt_sigreturn); svc #0: __kernel_rt_sigreturn in the vDSO, and all that stand in for it."""


class ThreadRegisters(NamedTuple):
    """A stopped thread."""

    tid: int
    name: str
    """Its name, which the program chose: any text."""
    x: tuple[int, ...]
    """x0 to x30."""
    sp: int
    pc: int

    def __repr__(self) -> str:
        return shown(self, self.who, f"at {self.pc:#x}")

    @property
    def who(self) -> str:
        """For people."""
        return f"thread {self.tid} ({printable(self.name)})"


class KeepOut:
    """The addresses where nobody may be, prepared for the search of many stacks before anybody stops."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        spans = ranges.spans
        self.low, self.high = (spans[0][0], spans[-1][1]) if spans else (0, 0)
        blocks = {
            block for low, high in spans for block in range(low >> 16, min((high - 1 >> 16) + 1, (low >> 16) + 64))
        }
        self.blocks = [(block << 16).to_bytes(8, "little") for block in blocks] if len(blocks) < _MOST_BLOCKS else None
        """The addresses of the blocks of 64 KiB that have a part of the ranges; None when they are many."""

    def __contains__(self, address: int) -> bool:
        return self.low <= address < self.high and address in self.ranges

    @cached_property
    def bounds(self) -> tuple[NDArray[numpy.uint64], NDArray[numpy.uint64]]:
        """The starts and the ends of the ranges."""
        import numpy

        lows = numpy.array([low for low, _ in self.ranges], numpy.uint64)
        return lows, numpy.array([min(high, (1 << 64) - 1) for _, high in self.ranges], numpy.uint64)


def found_in(
    thread: ThreadRegisters, keep_out: KeepOut, maps: Maps, read: Read, *, signature_bits: int,
    cfi: Callable[[int], UnwindTable | None], thread_pointer: Callable[[], int] = lambda: 0,
) -> Found | None:  # fmt: skip
    """Whether a stopped thread is in `keep_out` or will return there; None when it is not and will not.

    - `read` reads the memory of the process; where that cannot be read: fewer bytes, or a TargetError.
    - `signature_bits` are the bits of an address in which a pointer authentication code may be.
    - `cfi` gives the unwind table of the code at an address: unwinding.UnwindTables.
    - `thread_pointer` gives the thread's TPIDR_EL0; 0 when that is not known. It is asked for large stacks only.

    None is certain, within these limits:

    - Return addresses are on the thread's stack, in its registers, or on a stack that a signal handler interrupted.
    - No stack lies around the block of the thread pointer. C libraries put this block at the end of a stack.
    - Unwind tables are right behind each call. Where a thread was interrupted, they are right at each instruction, or
      `UnwindTable.suits_each_instruction` tells.
    - A return address elsewhere is never seen: NOT_SEEN says it to people.

    A Found with a doubt is not certain. It comes when the stack cannot be followed to its end, and

    - a word there or in a register is an address in `keep_out`, which may be an old one; or
    - a part of the stack cannot be read, or is not looked at.

    Raises no error for what the process has in its memory.
    """
    if thread.pc in keep_out:
        return Found(-1, thread.pc, True, thread.who)
    if not keep_out.ranges:
        return None
    user = ~(signature_bits | _TAG)
    stacks = _Stacks(thread.sp, maps, read, user, thread_pointer)
    in_register = any(each & user in keep_out for each in thread.x)
    if not stacks.gap and not in_register and not stacks.may_hold(keep_out):
        return None
    hits = stacks.holding(keep_out)
    if not stacks.gap and not in_register and not len(hits):
        return None
    walk = _Walk(thread, stacks.read, cfi, user)
    walk.follow()
    for address in walk.addresses:
        if address in keep_out:
            return Found(-1, address, False, thread.who)
    if not walk.why:
        return None
    for address in walk.frame_records():
        if address in keep_out:
            return Found(-1, address, False, thread.who)
    beyond = f"its stack cannot be followed beyond {walk.pc:#x}: {walk.why}"
    for value in walk.registers():
        if value & user in keep_out:
            return Found(-1, value & user, False, thread.who, f"a register holds this address, and {beyond}")
    for value in stacks.outside(hits, walk.passed):
        return Found(-1, value & user, False, thread.who, f"a word of its stack is this address, and {beyond}")
    if stacks.gap:
        return Found(-1, keep_out.low, False, thread.who, f"{stacks.gap}, and {beyond}")
    return None


class _Stacks:
    """The bytes of a thread's stacks, from the stack pointers up. One read for each, as a rule."""

    def __init__(
        self, sp: int, maps: Maps, read: Read, user: int, thread_pointer: Callable[[], int] = lambda: 0
    ) -> None:
        self._maps, self._read, self._user = maps, read, user
        self._thread_pointer = thread_pointer
        self._pieces: list[tuple[int, bytes]] = []
        self.gap = ""
        """Why a part is missing, for people; empty when all is there."""
        self._left = MOST_BYTES
        pending = [sp]
        seen = Ranges()
        while pending:
            at = pending.pop() & -8
            if at in seen:
                continue
            if len(self._pieces) >= MOST_STACKS:
                self.gap = f"it has more than {MOST_STACKS} stacks"
                return
            start, end = self._span(at)
            end = next((known for known, _ in seen if start < known < end), end)
            data = self._bytes(start, end)
            self._pieces.append((start, data))
            if _FPSIMD_BYTES in data:
                pending += self._interrupted(data)
            if pending:
                seen |= Ranges(((start, end),))

    def _span(self, sp: int) -> tuple[int, int]:
        """The addresses of a stack: up to the thread pointer, or the end of neighbouring mappings one may write."""
        maps = self._maps
        index = bisect_right(maps, sp, key=lambda mapping: mapping.end)
        above = maps[index] if index < len(maps) else None
        if above is None or sp < above.start:
            if index and maps[index - 1].end == sp and _can_be_stack(maps[index - 1]):
                return sp, sp
            if above is None or above.path != "[stack]":
                self.gap = f"its stack pointer {sp:#x} is in no mapping"
                return sp, sp
            # It grows when it is touched: nothing was written below yet.
            sp = above.start
        end = sp
        is_stack = False
        for number in range(index, len(maps)):
            mapping = maps[number]
            if mapping.start > end or (is_stack and not _can_be_stack(mapping)):
                break
            is_stack = is_stack or _can_be_stack(mapping)
            end = mapping.end
        if end - sp > _LARGE and sp < (block := self._thread_pointer() & -8) < end:
            # What is behind it belongs to others, such as gigabytes of heap.
            end = block
        return sp, end

    def _bytes(self, start: int, end: int) -> bytes:
        """[start, end), or as much of it as can be read and may be."""
        pieces: list[bytes] = []
        while start < end:
            size = min(end - start, _PIECE, self._left)
            if not size:
                self.gap = f"it has more than {MOST_BYTES >> 20} MiB of stack"
                break
            piece = read_some(self._read, start, size)
            pieces.append(piece)
            start += len(piece)
            self._left -= len(piece)
            if len(piece) < size:
                self.gap = f"its stack cannot be read at {start:#x}"
                break
        return b"".join(pieces)

    def _interrupted(self, data: bytes) -> list[int]:
        """The stack pointers in all signal frames here, old ones included."""
        import numpy

        words = numpy.frombuffer(data, "<u8", len(data) // 8)
        places = numpy.flatnonzero(words[_WORDS_BACK_TO_SP:] == _FPSIMD)
        return [int(each) for each in numpy.unique(words[places])[: MOST_STACKS + 1]]

    def may_hold(self, wanted: KeepOut) -> bool:
        """Whether the middle bytes of some address in `wanted` are anywhere here. False says that `holding` is empty.

        The middle bytes are those above bit 15 and below the first bit of a signature or tag. To search for bytes takes
        far less time than to look at each word, and nearly no stack has them.
        """
        end = (~self._user & -~self._user).bit_length() - 1 >> 3
        if wanted.blocks is None or end <= 2:
            return True
        return any(block[2:end] in data for _, data in self._pieces for block in wanted.blocks)

    def holding(self, wanted: KeepOut) -> NDArray[numpy.uint64]:
        """(address, word) of each aligned word that is in `wanted` without a signature, as rows."""
        import numpy

        lows, highs = wanted.bounds
        user = numpy.uint64(self._user % (1 << 64))
        found = []
        for start, data in self._pieces:
            words = numpy.frombuffer(data, "<u8", len(data) // 8)
            # One pass over all words, however many ranges there are: few words are between the first and the last.
            places = numpy.flatnonzero((words & user) - lows[0] < highs[-1] - lows[0])
            plain = words[places] & user
            places = places[plain < highs[numpy.searchsorted(lows, plain, "right") - 1]]
            found.append(numpy.stack((places.astype(numpy.uint64) * 8 + numpy.uint64(start), words[places]), axis=1))
        return numpy.concatenate(found)

    @staticmethod
    def outside(hits: NDArray[numpy.uint64], passed: Ranges) -> Iterator[int]:
        """The words of `holding` whose address is not in `passed`."""
        import numpy

        for low, high in passed:
            hits = hits[(hits[:, 0] < numpy.uint64(low)) | (hits[:, 0] >= numpy.uint64(high))]
        for _, word in hits:
            yield int(word)

    def read(self, address: int, size: int) -> bytes:
        """Memory of the process: of the stacks as it was read before."""
        for start, data in self._pieces:
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        return read_some(self._read, address, size)


def _can_be_stack(mapping: Mapping) -> bool:
    return mapping.permissions[:2] == "rw"


class _Walk:
    """Follows a thread's stack from frame to frame, as the unwind tables say."""

    def __init__(
        self, thread: ThreadRegisters, read: Read, cfi: Callable[[int], UnwindTable | None], user: int
    ) -> None:
        self._read, self._cfi, self._user = read, cfi, user
        self._x: list[int | None] = list(thread.x)
        self._sp = thread.sp
        self.pc = thread.pc
        """The frame that was reached last."""
        self._was_interrupted = True
        """The frame can be at any instruction; otherwise it has just called another function."""
        self._scratch: list[int] = list(thread.x[:_SCRATCH])
        self._passed: list[tuple[int, int]] = []
        self.addresses: list[int] = []
        """Where the thread goes on later, innermost first. None of them is a guess."""
        self.why = ""
        """Why the last frame could not be left, for people; empty when the end was reached."""

    @property
    def passed(self) -> Ranges:
        """The parts of the stacks that belong to frames that were left: what is there is known, or old."""
        return Ranges.of(self._passed)

    def registers(self) -> Iterator[int]:
        """The registers that may hold a return address of the last frame, or of a frame behind it."""
        yield from self._scratch
        yield from (each for each in self._x if each is not None)

    def frame_records(self) -> Iterator[int]:
        """The return addresses in the chain of frame records from the last frame on."""
        head = self._x[_FRAME_POINTER] or 0

        def read(pieces: Sequence[Piece]) -> list[bytes]:
            return [self._read(piece.address, piece.size) for piece in pieces]

        return (each & self._user for each in follow_frames([head], read)[0])

    def follow(self) -> None:
        """Leave frame after frame."""
        try:
            for _ in range(MOST_FRAMES):
                if not self._leave():
                    return
            self.why = f"it has more than {MOST_FRAMES} frames"
        except FormatError as error:
            self.why = str(error)

    def _leave(self) -> bool:
        """Go to the frame behind this one; false when there is none. FormatError when that is not known."""
        if self._is_in_trampoline():
            self._leave_signal()
            return True
        row = self._row()
        rule = row.rules.get(row.link)
        if row.link != _LINK:
            raise FormatError("its return address is in no usual register")
        if rule is not None and rule.kind == "undefined":
            return False
        if not self._was_interrupted and (rule is None or rule.kind == "same"):
            raise FormatError("its unwind entry takes the return address from x30, which a call has changed since")
        if row.cfa is None:
            raise FormatError("its frame address is an expression")
        register, offset = row.cfa
        cfa = (self._register(register) + offset) % (1 << 64)
        if cfa < self._sp:
            raise FormatError("its unwind entry contradicts its stack pointer")
        x = [self._by(row.rules.get(number), number, cfa) for number in range(31)]
        sp = self._by(row.rules.get(SP, Rule("is")), SP, cfa)
        link = x[_LINK]
        if sp is None or link is None:
            raise FormatError("its return address is not known")
        for number in range(_SCRATCH):
            if number not in row.rules:
                x[number] = None
        self._passed.append((self._sp, cfa))
        self._x, self._sp, self.pc, self._was_interrupted = x, sp, link & self._user, False
        if not self.pc:
            raise FormatError("its outermost return address is 0")
        self.addresses.append(self.pc)
        return True

    def _row(self) -> Row:
        # A call may be the last instruction of its function. Then the return address is in another function.
        at = self.pc if self._was_interrupted else self.pc - 1
        table = self._cfi(at)
        row = table.row(at) if table is not None else None
        if row is None:
            raise FormatError("no unwind entry is for this code")
        if self._was_interrupted and table is not None and not table.suits_each_instruction(row):
            raise FormatError("its unwind entry is right behind calls only, and it is elsewhere")
        return row

    def _register(self, number: int) -> int:
        value = self._sp if number == SP else self._x[number] if number < SP else None
        if value is None:
            raise FormatError(f"its unwind entry needs a register that is not known ({number})")
        return value

    def _by(self, rule: Rule | None, number: int, cfa: int) -> int | None:
        """The caller's value of a register; None when it is not known."""
        kind, argument = rule or ("same", 0)
        if kind == "same":
            return self._sp if number == SP else self._x[number]
        if kind == "is":
            return (cfa + argument) % (1 << 64)
        if kind == "register":
            return self._register(argument)
        if kind != "at":
            return None
        place = (cfa + argument) % (1 << 64)
        data = self._read(place, 8)
        if len(data) < 8:
            raise FormatError(f"its stack cannot be read at {place:#x}")
        return int.from_bytes(data, "little")

    def _is_in_trampoline(self) -> bool:
        """Whether the next thing is to return from a signal handler: here, or behind one or both instructions."""
        if not self._was_interrupted:
            return self._read(self.pc, 8) == _TRAMPOLINE
        return _TRAMPOLINE in (self._read(self.pc - back, 8) for back in (0, 4, 8))

    def _leave_signal(self) -> None:
        """Go to what a signal interrupted: all registers are in the signal frame at the stack pointer."""
        frame = self._read(self._sp, _SIGNAL_RECORDS + 8)
        if len(frame) < _SIGNAL_RECORDS + 8 or frame[_SIGNAL_RECORDS:] != _FPSIMD.to_bytes(8, "little"):
            raise FormatError(f"no signal frame is at {self._sp:#x}")
        *x, sp, pc = _SIGNAL_FIELDS.unpack_from(frame, _SIGNAL_REGISTERS)
        self._passed.append((self._sp, self._sp + _SIGNAL_RECORDS))
        self._scratch += x[:_SCRATCH]
        self._x, self._sp, self.pc, self._was_interrupted = x, sp, pc & self._user, True
        self.addresses.append(self.pc)

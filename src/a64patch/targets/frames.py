"""The return addresses of CPUs and tasks, from the frame records on their stacks.

This file knows no target: the caller gives a function that reads memory, or a stack. Read on: gdb.py and simulator.py
follow CPUs, ../kernel/tasks.py follows tasks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

MAX_FRAMES = 64
"""The most return addresses of one CPU; after these no further frame record is read."""

_RECORD = 16
_RECORD_AND_TYPE = 24
_SAVED_REGISTERS = 80
"""Bytes below a frame record that may hold Linux' saved registers."""
_STACK_PIECE = 192
"""Bytes read from a frame record upwards: the records of several functions."""
_PAGE = 4096
_PT_REGS = 2
"""FRAME_META_TYPE_PT_REGS of Linux since 6.13 (arch/arm64/include/asm/stacktrace/frame.h; c2c6b27b5aa1)."""
_ADDRESS_BITS = 48
_ADDRESSES = 1 << 64


class Piece(NamedTuple):
    """A part of one CPU's stack to read."""

    cpu: int
    """The index of the CPU in `heads`, since a CPU may not see the stack of another CPU."""
    address: int
    size: int
    """Bytes."""


Reader = Callable[[Sequence[Piece]], Sequence[bytes]]
"""Gives the bytes of each piece, in order. For a piece that is only partly readable, its first bytes or none."""


def follow_frames(
    heads: Sequence[int], read: Reader, *, trips: int = 2 * MAX_FRAMES, big_endian: bool = False
) -> list[list[int]]:
    """The return addresses in the chain of frame records (AAPCS64, 6.4.6) from each head. A head is x29 of one CPU.

    A chain ends at the first record that cannot be read, after MAX_FRAMES addresses, or after `trips` calls of `read`.
    Each call serves all CPUs. At an exception in Linux, the addresses include the PC and the link register of that
    moment. A function without a frame record does not appear. An address may be signed: see `without_signatures`.
    """
    returns: list[list[int]] = [[] for _ in heads]
    walks = [_walk(head, found, ">" if big_endian else "<") for head, found in zip(heads, returns, strict=True)]
    wanted = {cpu: piece for cpu, walk in enumerate(walks) if (piece := next(walk, None))}
    for _ in range(trips):
        if not wanted:
            break
        stacks = read([Piece(cpu, *piece) for cpu, piece in wanted.items()])
        for cpu, stack in zip(list(wanted), stacks, strict=True):
            try:
                wanted[cpu] = walks[cpu].send(stack)
            except StopIteration:
                del wanted[cpu]
    return returns


def frames_in(stack: bytes, start: int, head: int) -> tuple[list[int], bool]:
    """The return addresses in a chain of frame records that lies in one stack, and whether its end was reached.

    `stack` are the bytes from the address `start` up to the top of the stack, `head` is the saved x29. Each record lies
    above the record before. The chain ends where the next record would be at 0: Linux ends the chain of each task so.
    Little-endian.
    """
    returns: list[int] = []
    at, least = head, start
    while at:
        if at % 8 or not least <= at <= start + len(stack) - _RECORD:
            return returns, False
        least = at + _RECORD
        found, at = _frame(stack, at - start, "<")
        returns += filter(None, found)
    return returns, True


def without_signatures(addresses: Iterable[int]) -> Iterator[int]:
    """Each address twice: as it is, and without a pointer authentication code above 48 bits of address.

    Bit 55 says in which half of the address space a signed address lies. When top bytes are not ignored, the code
    covers all bits above bit 55 (Arm ARM, J1.1: AddPAC() and Strip()).
    """
    high = _ADDRESSES - (1 << _ADDRESS_BITS)
    for address in addresses:
        yield address
        yield address | high if address >> 55 & 1 else address & ~high


def _walk(head: int, returns: list[int], order: str) -> Generator[tuple[int, int], bytes]:
    """Follow the chain of one CPU: yield the next (address, size) to read, add return addresses to `returns`."""
    while head and head % 8 == 0 and len(returns) < MAX_FRAMES:
        start = max(head - _SAVED_REGISTERS, 0)
        above = max(_RECORD_AND_TYPE, min(_STACK_PIECE, _PAGE - head % _PAGE))
        stack = yield start, head - start + above
        if len(stack) < head - start + _RECORD:
            # The stack may begin or end with the record.
            start = head
            stack = yield head, _RECORD
        at = head
        while start <= at <= start + len(stack) - _RECORD and len(returns) < MAX_FRAMES:
            found, at = _frame(stack, at - start, order)
            returns += found
        if at == head:
            return
        head = at


def _frame(stack: bytes, at: int, order: str) -> tuple[list[int], int]:
    """The return addresses of the frame record at this offset, and the address of the next record.

    At an exception, Linux' entry code makes a record inside struct pt_regs (arch/arm64/include/asm/ptrace.h):
    - Up to 6.12 the record holds the interrupted x29 and PC, and the saved PC is 48 bytes below the record.
    - Since 6.13 the record is empty, FRAME_META_TYPE_PT_REGS follows it, and the saved PC is 40 bytes below.

    In both, the saved x29 and x30 are 24 and 16 bytes below the saved PC. x30 counts as a return address, since the
    interrupted function may not have saved it.
    """
    head, link = struct.unpack_from(f"{order}QQ", stack, at)
    for distance in (48, 40):
        if at < distance + 24:
            continue
        saved, saved_link, _, pc = struct.unpack_from(f"{order}QQQQ", stack, at - distance - 24)
        if link and (pc, saved) == (link, head):
            return [link, saved_link], head
        if distance == 40 and not link and not head and stack[at + 16 : at + 24] == struct.pack(f"{order}Q", _PT_REGS):
            return [pc, saved_link], saved
    return [link], head

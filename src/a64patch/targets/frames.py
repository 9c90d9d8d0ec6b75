"""Where CPUs will return to: the frame records on their stacks, followed through whatever reads a target's memory.

Knows no target: the caller brings the reader. Read on: gdb.py and simulator.py bring theirs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

MAX_FRAMES = 64
"""Return addresses of one CPU after which no further frame record is read."""

_RECORD = 16
_RECORD_AND_TYPE = 24
_SAVED_REGISTERS = 80
"""Bytes below a frame record in which Linux' saved registers are looked for."""
_STACK_PIECE = 192
"""Bytes from a frame record on that are read with it: the records of several functions."""
_PAGE = 4096
_PT_REGS = 2
"""FRAME_META_TYPE_PT_REGS of Linux since 6.13 (arch/arm64/include/asm/stacktrace/frame.h; c2c6b27b5aa1)."""
_ADDRESS_BITS = 48
_ADDRESSES = 1 << 64


class Piece(NamedTuple):
    """A part of one CPU's stack that is to be read."""

    cpu: int
    """The index of its head. One CPU may not see the stack of another."""
    address: int
    size: int
    """Bytes."""


Reader = Callable[[Sequence[Piece]], Sequence[bytes]]
"""Gives the bytes of each piece, in order. Where not all can be read: those of its beginning, or none."""


def follow_frames(
    heads: Sequence[int], read: Reader, *, trips: int = 2 * MAX_FRAMES, big_endian: bool = False
) -> list[list[int]]:
    """The return addresses in the frame records (AAPCS64, 6.4.6) that begin at each head, which is x29 of one CPU.

    A chain is followed as far as it can be read, until it has given MAX_FRAMES addresses, and through `trips` calls of
    `read` at most; each call is for all CPUs. Where Linux was interrupted, the link register of that moment is among
    the addresses. So is the PC from 6.13 on, where the chain of records ends there. Nothing is said about a function
    that keeps no frame record. An address may be signed: see `without_signatures`.
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


def without_signatures(addresses: Iterable[int]) -> Iterator[int]:
    """Each address as it is, and as it is without a pointer authentication code above 48 bits of address.

    Bit 55 says which half of the address space a signed address lies in, since the code covers all bits above it where
    top bytes are not ignored (Arm ARM, J1.1: AddPAC() and Strip()).
    """
    high = _ADDRESSES - (1 << _ADDRESS_BITS)
    for address in addresses:
        yield address
        yield address | high if address >> 55 & 1 else address & ~high


def _walk(head: int, returns: list[int], order: str) -> Generator[tuple[int, int], bytes]:
    """Yield the (address, bytes) of one stack that are needed next; add what their records return to."""
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
    """What the frame record at this offset returns to, and the address of the next one.

    At an exception, Linux' entry code makes a record inside struct pt_regs (arch/arm64/include/asm/ptrace.h). Up to
    6.12 it holds x29 and the PC of before, 48 bytes above the places that hold both once more. Since 6.13 it is empty,
    FRAME_META_TYPE_PT_REGS follows it, and the PC is 40 bytes below. In both, x29 and x30 are 24 and 16 bytes below
    the PC: the function may not have saved x30 yet, or may never do.
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

"""Android's packed relocations: the tables SHT_ANDROID_REL and SHT_ANDROID_RELA, which begin with "APS2".

lld writes them with --pack-dyn-relocs=android. Reads untrusted bytes.
Read on: elf_image.py has all other relocations; bionic, linker/linker_reloc_iterators.h, is the format.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

MOST_RELOCATIONS = 1 << 21
"""A table of a few bytes may claim any number: a relocation that equals its group needs no byte of its own."""

_MAGIC = b"APS2"
_BY_INFO, _BY_OFFSET_DELTA, _BY_ADDEND, _HAS_ADDEND = 1, 2, 4, 8
_MASK = (1 << 64) - 1
_MOST_DIGITS = 10
"""Bytes of the longest number: 7 bits each, and 64 bits in all."""


class PackedError(ValueError):
    """The table is not sound; the message says why."""


class Unpacked(NamedTuple):
    """The relocations of one table, in its order: r_offset, r_info and r_addend of each, as unsigned 64-bit numbers."""

    places: array[int]
    infos: array[int]
    addends: array[int]


class _Numbers:
    """The SLEB128 numbers of a table (DWARF, "Variable length data")."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, len(_MAGIC)

    def next(self) -> int:
        value = 0
        for digit in range(_MOST_DIGITS):
            if self._at >= len(self._data):
                raise PackedError("it ends within a number")
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << 7 * digit
            if byte < 0x80:
                return value - (1 << 7 * (digit + 1)) if byte & 0x40 else value
        raise PackedError(f"a number has more than {_MOST_DIGITS} bytes")


def claimed(data: bytes) -> int:
    """The number of relocations that a table claims to hold. PackedError when its beginning is not sound."""
    if not data.startswith(_MAGIC):
        raise PackedError("it does not begin with APS2")
    count = _Numbers(data).next()
    if not 0 <= count <= MOST_RELOCATIONS:
        raise PackedError(f"it claims {count} relocations; no more than {MOST_RELOCATIONS} can be read")
    return count


def unpack(data: bytes, *, with_addends: bool) -> Unpacked:
    """All relocations of a table. Without `with_addends` (SHT_ANDROID_REL) each addend is 0.

    A loader counts in 64 bits, and so do we: sums wrap. PackedError is for a table

    - with another beginning than APS2;
    - that ends too early, or has a number of more than 10 bytes;
    - that claims more than MOST_RELOCATIONS;
    - with a group that is empty, or has more relocations than are left;
    - with addends, but not `with_addends`.
    """
    left = claimed(data)
    found = Unpacked(array("Q"), array("Q"), array("Q"))
    numbers = _Numbers(data)
    numbers.next()
    place, addend, info = numbers.next(), 0, 0
    while left:
        size, flags = numbers.next(), numbers.next()
        if not 1 <= size <= left:
            raise PackedError(f"a group of {size} relocations is not possible where {left} are left")
        if flags & _HAS_ADDEND and not with_addends:
            raise PackedError("a group has addends, and the table may have none")
        left -= size
        delta = numbers.next() if flags & _BY_OFFSET_DELTA else None
        if flags & _BY_INFO:
            info = numbers.next()
        each_addend = flags & (_HAS_ADDEND | _BY_ADDEND) == _HAS_ADDEND
        if not flags & _HAS_ADDEND:
            addend = 0
        elif not each_addend:
            addend += numbers.next()
        for _ in range(size):
            place += numbers.next() if delta is None else delta
            if not flags & _BY_INFO:
                info = numbers.next()
            if each_addend:
                addend += numbers.next()
            found.places.append(place & _MASK)
            found.infos.append(info & _MASK)
            found.addends.append(addend & _MASK)
    return found

"""Which addresses an arm64 kernel may execute: the answer of its own translation tables, read by physical address.

Knows no target. The rules are in the Arm ARM, D8.2 (translation process), D8.3 (descriptor formats), D8.4 (memory
access control) and D8.5 (hardware updates), and in the descriptions of the registers.
Read on: executable.py, which reads the tables of a live kernel.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from a64patch.errors import CapabilityError, FormatError
from a64patch.oneline import shown

Reader = Callable[[Sequence[tuple[int, int]]], Sequence[bytes]]
"""The bytes of each (physical address, size), in order."""

MOST_BYTES = 1 << 25
"""Bytes of tables that one walk reads at most: 8192 tables of 4 KiB."""
MOST_PIECES = 1 << 19
"""Pages, blocks and parts of tables with code that one walk puts together at most: 1 GiB of code has 262,144 pages."""

_ADDRESS_SPACE = 1 << 64
_LAST_LEVEL = 3
_GRANULES = {1: 14, 2: 12, 3: 16}
"""By TCR_EL1.TG1: the bits of an address inside a page."""
_FIRST_BLOCKS = {12: 1, 14: 2, 16: 2}
"""By granule: the first level with blocks; one level earlier with 52-bit physical addresses (D8.3)."""
_MOST_SIZE = {12: 48, 14: 48, 16: 47}
"""By granule: the largest T1SZ, which FEAT_TTST allows (D8.2)."""
_IPS_52_BITS = 6

_VALID, _TABLE = 1 << 0, 1 << 1
_USER, _READ_ONLY = 1 << 6, 1 << 7
"""AP[1] and AP[2] (D8.4)."""
_ACCESSED, _DIRTY_MANAGED, _PXN = 1 << 10, 1 << 51, 1 << 53
"""AF, DBM and PXN (D8.3)."""
_TABLE_PXN, _TABLE_NO_USER, _TABLE_READ_ONLY = 1 << 59, 1 << 61, 1 << 62
"""PXNTable and APTable[1:0] (D8.3)."""

_PIE, _POE, _D128 = 1 << 1, 1 << 3, 1 << 5
"""TCR2_EL1: indirect permissions, a second set of them (overlay) for the kernel, 128-bit descriptors."""
_EXECUTES, _WRITES = (0x2, 0x3, 0x7, 0xA, 0xE), (0x5, 0x6, 0x7, 0xC, 0xE)
"""Values of four bits in PIR_EL1 and PIRE0_EL1; 6 is write and execute, of which WXN takes the second."""
_STACK = 0x9
"""The same, for a guarded control stack."""
_WXN, _BIG_ENDIAN = 1 << 19, 1 << 25
"""SCTLR_EL1: what is writable cannot be executed; EE, which is also the byte order of descriptors."""


class Mapping(NamedTuple):
    """Addresses [start, end) from which the kernel may fetch instructions, in bytes."""

    start: int
    end: int
    physical: int
    """The physical address of the first byte. The pages behind it may lie anywhere."""
    writable: bool
    """The kernel may write there by this mapping."""

    def __repr__(self) -> str:
        return shown(self, f"{self.start:#x}-{self.end:#x} at {self.physical:#x}", "writable" if self.writable else "")


class _Piece(NamedTuple):
    """As Mapping, with `start` and `end` counted from the first address of a table."""

    start: int
    end: int
    physical: int
    writable: bool
    user_writable: bool
    """EL0 may write there."""


class Registers(NamedTuple):
    """The registers of one CPU that say where the kernel's tables are and how to read them. 0 for one that it lacks."""

    ttbr1: int
    tcr: int
    sctlr: int = 0
    tcr2: int = 0
    pir: int = 0
    pire0: int = 0


class Regime(NamedTuple):
    """The form of the tables of the upper half of the address space, and of the rights in them."""

    granule: int
    """Bits of an address inside a page: 12, 14 or 16."""
    bits: int
    """Bits of an address that the tables translate."""
    wide: bool
    """Physical addresses have 52 bits (FEAT_LPA, FEAT_LPA2)."""
    ds: bool
    """Descriptors have the form of FEAT_LPA2."""
    hierarchical: bool
    """Permissions of a table limit those below it (TCR_EL1.HPD1 is 0, and they are not indirect)."""
    sets_access_flag: bool
    """The CPU sets AF by itself (TCR_EL1.HA)."""
    sets_dirty: bool
    """A write to a read-only page with DBM makes it writable (TCR_EL1.HD)."""
    wxn: bool
    """What is writable cannot be executed (SCTLR_EL1.WXN)."""
    rights: tuple[tuple[bool, bool, bool], ...]
    """By the index in a descriptor: the kernel may execute, the kernel may write, EL0 may write or has a stack there.
    Empty when descriptors hold the rights themselves."""

    @classmethod
    def of(cls, registers: Registers) -> Regime:
        """FormatError when TCR_EL1 has no sound TG1 or T1SZ, or turns walks by TTBR1_EL1 off (EPD1).

        CapabilityError for 128-bit descriptors and for overlays of the kernel's rights, which are not understood here.
        """
        tcr, tcr2 = registers.tcr, registers.tcr2
        if tcr2 & (_D128 | _POE):
            raise CapabilityError(f"TCR2_EL1 {tcr2:#x} gives the translation tables a form that a64patch does not read")
        indirect = bool(tcr2 & _PIE)
        granule = _GRANULES.get(_field(tcr, 30, 2), 0)
        size, ds = _field(tcr, 16, 6), bool(_field(tcr, 59, 1)) and granule != 16
        least = 12 if ds or granule == 16 else 16
        if not granule or not least <= size <= _MOST_SIZE[granule]:
            raise FormatError(
                f"TCR_EL1 {tcr:#x} describes no translation tables for the kernel's half of the addresses"
            )
        if _field(tcr, 23, 1):
            raise FormatError(
                f"TCR_EL1 {tcr:#x} turns off the translation tables of the kernel's half of the addresses"
            )
        return cls(
            granule=granule,
            bits=64 - size,
            wide=_field(tcr, 32, 3) == _IPS_52_BITS and (ds or granule == 16),
            ds=ds,
            hierarchical=not _field(tcr, 42, 1) and not indirect,
            sets_access_flag=bool(_field(tcr, 39, 1)),
            sets_dirty=bool(_field(tcr, 40, 1)),
            wxn=bool(registers.sctlr & _WXN) and not indirect,
            rights=_rights(registers) if indirect else (),
        )

    @property
    def start(self) -> int:
        """The first address that the tables translate."""
        return _ADDRESS_SPACE - (1 << self.bits)

    @property
    def first_level(self) -> int:
        """The level of the first table: -1 to 3 (D8.2)."""
        return _LAST_LEVEL - (self.bits - self.granule - 1) // (self.granule - 3)

    def shift(self, level: int) -> int:
        """Bits of an address inside what one descriptor of this level translates."""
        return self.granule + (_LAST_LEVEL - level) * (self.granule - 3)

    def table_bytes(self, level: int) -> int:
        """The size of a table. Only the first one may be smaller than a page."""
        return 8 << min(self.granule - 3, self.bits - self.shift(level))

    def root(self, ttbr: int) -> int:
        """The physical address of the first table, without ASID and CnP."""
        size = self.table_bytes(self.first_level)
        high = _field(ttbr, 2, 4) << 48 if self.wide else 0
        return high | _field(ttbr, 0, 48) & -max(size, 64 if self.wide else 0)

    def is_table(self, level: int, descriptor: int) -> bool:
        """Whether a valid descriptor refers to a table (D8.3)."""
        return level < _LAST_LEVEL and bool(descriptor & _TABLE)

    def is_leaf(self, level: int, descriptor: int) -> bool:
        """Whether a valid descriptor is a page, or a block at a level that has blocks (D8.3)."""
        if level == _LAST_LEVEL:
            return bool(descriptor & _TABLE)
        return not descriptor & _TABLE and level >= _FIRST_BLOCKS[self.granule] - (self.ds or self.wide)

    def address(self, descriptor: int, shift: int) -> int:
        """The physical address in a descriptor, a multiple of 1 << shift (D8.3)."""
        if not self.wide:
            return _field(descriptor, 0, 48) & -(1 << shift)
        if self.ds:
            return (_field(descriptor, 0, 50) & -(1 << shift)) | _field(descriptor, 8, 2) << 50
        return (_field(descriptor, 0, 48) & -(1 << shift)) | _field(descriptor, 12, 4) << 48

    def may_execute(self, level: int, descriptor: int) -> bool:
        """Whether the kernel may execute something by this descriptor, or by a table to which it refers."""
        if not descriptor & _VALID:
            return False
        if self.is_table(level, descriptor):
            return not (self.hierarchical and descriptor & _TABLE_PXN)
        usable = self.sets_access_flag or descriptor & _ACCESSED
        never = not self.rights[_index(descriptor)][0] if self.rights else descriptor & _PXN
        return bool(usable and not never and self.is_leaf(level, descriptor))

    def leaf(self, level: int, descriptor: int, start: int) -> _Piece:
        """What a block or page maps, at `start` of its table."""
        shift = self.shift(level)
        if self.rights:
            _, writable, user = self.rights[_index(descriptor)]
            writable = writable and (not descriptor & _READ_ONLY or self.sets_dirty)  # bit 7 is nDirty here
        else:
            writable = not descriptor & _READ_ONLY or (self.sets_dirty and bool(descriptor & _DIRTY_MANAGED))
            user = writable and bool(descriptor & _USER)
        return _Piece(start, start + (1 << shift), self.address(descriptor, shift), writable, user)


def _index(descriptor: int) -> int:
    """PIIndex: bits 54, 53, 51 and 6 (D8.4)."""
    return _field(descriptor, 53, 2) << 2 | _field(descriptor, 51, 1) << 1 | _field(descriptor, 6, 1)


def _rights(registers: Registers) -> tuple[tuple[bool, bool, bool], ...]:
    """As `Regime.rights`, for each of the 16 indexes."""
    kernel, user = ([_field(each, 4 * i, 4) for i in range(16)] for each in (registers.pir, registers.pire0))
    return tuple((p in _EXECUTES, p in _WRITES, u in (*_WRITES, _STACK)) for p, u in zip(kernel, user, strict=True))


def executable_mappings(registers: Registers, read: Reader, *, above: int = 0) -> tuple[Mapping, ...]:
    """All addresses from which the kernel may fetch instructions, ascending; neighbours with equal rights are one.

    Of the first table only the descriptors that reach beyond the address `above` are followed.

    Reads all tables of a level in one call, the first level first, and each table once a level. Tables under a
    PXNTable are not read: so Linux keeps its linear map out since 5.13 (87143f404f33).

    Not guaranteed: that there is memory, and that a hypervisor's second stage lets the kernel execute it. The
    contiguous bit is ignored: each descriptor says the same without it.

    FormatError for tables beyond MOST_BYTES or MOST_PIECES, as garbage and loops make them. Else as `Regime.of`.
    """
    regime = Regime.of(registers)
    first = regime.first_level
    root = regime.root(registers.ttbr1)
    levels: list[dict[int, list[tuple[int, int]]]] = []
    """For each level the tables: the physical address, and the (index, descriptor) that matter."""
    wanted, left = {root}, MOST_BYTES
    for level in range(first, _LAST_LEVEL + 1):
        size = regime.table_bytes(level)
        left -= size * len(wanted)
        if left < 0:
            raise FormatError(f"the translation tables at {root:#x} have more than {MOST_BYTES} bytes")
        places = sorted(wanted)
        tables = {
            place: [
                (i, each)
                for i, each in enumerate(_descriptors(data, size, registers.sctlr))
                if regime.may_execute(level, each)
            ]
            for place, data in zip(places, read([(place, size) for place in places]), strict=True)
        }
        if level == first:
            lowest = max(0, above - regime.start) >> regime.shift(first)
            tables[root] = [(i, each) for i, each in tables[root] if i >= lowest]
        levels.append(tables)
        wanted = {
            regime.address(each, regime.granule)
            for table in tables.values()
            for _, each in table
            if regime.is_table(level, each)
        }
        if not wanted:
            break
    mappings = _put_together(regime, root, levels)
    return tuple(each for each in mappings if not (regime.wxn and each.writable))


def _put_together(regime: Regime, root: int, levels: Sequence[dict[int, list[tuple[int, int]]]]) -> tuple[Mapping, ...]:
    """The mappings of all tables, from the last level up: a table with many users is put together once."""
    left = MOST_PIECES
    below: dict[int, list[_Piece]] = {}
    for number in reversed(range(len(levels))):
        level = regime.first_level + number
        here: dict[int, list[_Piece]] = {}
        for place, table in levels[number].items():
            found = here[place] = []
            for piece in _pieces(regime, level, table, below):
                left -= 1
                if left < 0:
                    raise FormatError(
                        f"the translation tables at {root:#x} have more than {MOST_PIECES} pieces of code"
                    )
                last = found[-1] if found else None
                if last and last.end == piece.start and last[3:] == piece[3:]:
                    found[-1] = last._replace(end=piece.end)
                else:
                    found.append(piece)
        below = here
    # What EL0 may write, EL1 may not execute (D8.4).
    return tuple(
        Mapping(regime.start + start, regime.start + end, physical, writable)
        for start, end, physical, writable, user_writable in below[root]
        if not user_writable
    )


def _pieces(
    regime: Regime, level: int, table: Iterable[tuple[int, int]], below: dict[int, list[_Piece]]
) -> Iterable[_Piece]:
    """What the descriptors of one table map, ascending."""
    for index, descriptor in table:
        start = index << regime.shift(level)
        if not regime.is_table(level, descriptor):
            yield regime.leaf(level, descriptor, start)
            continue
        for piece in below[regime.address(descriptor, regime.granule)]:
            writable, user = piece.writable, piece.user_writable
            if regime.hierarchical:
                writable = writable and not descriptor & _TABLE_READ_ONLY
                user = user and writable and not descriptor & _TABLE_NO_USER
            yield _Piece(start + piece.start, start + piece.end, piece.physical, writable, user)


def _descriptors(data: bytes, size: int, sctlr: int) -> Sequence[int]:
    """A table's descriptors, 64 bits each."""
    if len(data) != size:
        raise FormatError(f"a translation table has {size} bytes, and {len(data)} were read")
    found = array("Q", data)
    if sys.byteorder != ("big" if sctlr & _BIG_ENDIAN else "little"):
        found.byteswap()
    return found


def _field(value: int, low: int, count: int) -> int:
    """`count` bits of a value, from bit `low` on."""
    return value >> low & ((1 << count) - 1)

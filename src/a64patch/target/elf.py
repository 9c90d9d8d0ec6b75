"""ELF files as targets: what a file maps, its names, what its relocations own, and its replacement on disk.

May know: a64/, the errors, base.py and symbols.py. Reads headers and tables with `struct` from untrusted bytes.
Read on: base.py for the protocol; the ELF gABI and AAELF64 (ELF for the Arm 64-bit Architecture) for the format.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, NamedTuple

from a64patch.a64.words import INSN_SIZE
from a64patch.errors import A64PatchError, FormatError, MappingError, RelocationError, TargetError, WriteError
from a64patch.target.base import Capabilities, CpuState, Rendezvous, Target
from a64patch.target.symbols import Space, Symbol, SymbolTable

ET_REL, ET_EXEC, ET_DYN = 1, 2, 3
EM_AARCH64 = 183
PT_LOAD, PT_DYNAMIC, PT_NOTE = 1, 2, 4
PF_X = 1
PN_XNUM = 0xFFFF
SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOTE, SHT_NOBITS, SHT_REL, SHT_DYNSYM = 2, 3, 4, 7, 8, 9, 11
SHT_SYMTAB_SHNDX, SHT_RELR = 18, 19
SHT_CREL, SHT_ANDROID_REL, SHT_ANDROID_RELA, SHT_ANDROID_RELR = 0x40000014, 0x60000001, 0x60000002, 0x6FFFFF00
SHF_ALLOC, SHF_EXECINSTR = 2, 4
SHN_UNDEF, SHN_LORESERVE, SHN_COMMON, SHN_XINDEX = 0, 0xFF00, 0xFFF2, 0xFFFF
STT_NOTYPE, STT_SECTION, STT_FILE, STT_TLS = 0, 3, 4, 6
STB_LOCAL = 0
NT_GNU_BUILD_ID = 3
DT_NULL, DT_PLTRELSZ, DT_RELA, DT_RELASZ, DT_REL, DT_RELSZ, DT_PLTREL, DT_JMPREL = 0, 2, 7, 8, 17, 18, 20, 23
DT_RELRSZ, DT_RELR, DT_RELACOUNT, DT_RELCOUNT = 35, 36, 0x6FFFFFF9, 0x6FFFFFFA

R_AARCH64_JUMP_SLOT, R_AARCH64_RELATIVE, R_AARCH64_TLSDESC, R_AARCH64_IRELATIVE = 1026, 1027, 1031, 1032
R_AARCH64_NONE = (0, 256)
"""AAELF64 5.7.1: 0 is the type, 256 what it was in early drafts; loaders take both."""

_HEADER, _SEGMENT, _SECTION = "16sHHIQQQIHHHHHH", "IIQQQQQQ", "IIQQQQIIQQ"
_SYMBOL, _RELA, _REL, _RELR, _DYNAMIC = "IBBHQQ", "QQq", "QQ", "Q", "QQ"

_MOST_BYTES = 1 << 31
_MOST_SECTIONS = 1 << 20
_MOST_SEGMENTS = 1 << 10
_MOST_TABLES = 1 << 10
_MOST_ENTRIES = 1 << 23
_MOST_NOTE_BYTES = 1 << 24
_ADDRESSES = 1 << 64

# AAELF64 5.7, as runs of consecutive numbers. pyelftools 0.33 lacks many and misnames the dynamic ones.
_RELOCATION_NAMES = {
    257: "ABS64 ABS32 ABS16 PREL64 PREL32 PREL16 MOVW_UABS_G0 MOVW_UABS_G0_NC MOVW_UABS_G1 MOVW_UABS_G1_NC "
    "MOVW_UABS_G2 MOVW_UABS_G2_NC MOVW_UABS_G3 MOVW_SABS_G0 MOVW_SABS_G1 MOVW_SABS_G2 LD_PREL_LO19 ADR_PREL_LO21 "
    "ADR_PREL_PG_HI21 ADR_PREL_PG_HI21_NC ADD_ABS_LO12_NC LDST8_ABS_LO12_NC TSTBR14 CONDBR19",
    282: "JUMP26 CALL26 LDST16_ABS_LO12_NC LDST32_ABS_LO12_NC LDST64_ABS_LO12_NC MOVW_PREL_G0 MOVW_PREL_G0_NC "
    "MOVW_PREL_G1 MOVW_PREL_G1_NC MOVW_PREL_G2 MOVW_PREL_G2_NC MOVW_PREL_G3",
    299: "LDST128_ABS_LO12_NC MOVW_GOTOFF_G0 MOVW_GOTOFF_G0_NC MOVW_GOTOFF_G1 MOVW_GOTOFF_G1_NC MOVW_GOTOFF_G2 "
    "MOVW_GOTOFF_G2_NC MOVW_GOTOFF_G3 GOTREL64 GOTREL32 GOT_LD_PREL19 LD64_GOTOFF_LO15 ADR_GOT_PAGE "
    "LD64_GOT_LO12_NC LD64_GOTPAGE_LO15 PLT32 GOTPCREL32",
    512: "TLSGD_ADR_PREL21 TLSGD_ADR_PAGE21 TLSGD_ADD_LO12_NC TLSGD_MOVW_G1 TLSGD_MOVW_G0_NC TLSLD_ADR_PREL21 "
    "TLSLD_ADR_PAGE21 TLSLD_ADD_LO12_NC TLSLD_MOVW_G1 TLSLD_MOVW_G0_NC TLSLD_LD_PREL19 TLSLD_MOVW_DTPREL_G2 "
    "TLSLD_MOVW_DTPREL_G1 TLSLD_MOVW_DTPREL_G1_NC TLSLD_MOVW_DTPREL_G0 TLSLD_MOVW_DTPREL_G0_NC "
    "TLSLD_ADD_DTPREL_HI12 TLSLD_ADD_DTPREL_LO12 TLSLD_ADD_DTPREL_LO12_NC TLSLD_LDST8_DTPREL_LO12 "
    "TLSLD_LDST8_DTPREL_LO12_NC TLSLD_LDST16_DTPREL_LO12 TLSLD_LDST16_DTPREL_LO12_NC TLSLD_LDST32_DTPREL_LO12 "
    "TLSLD_LDST32_DTPREL_LO12_NC TLSLD_LDST64_DTPREL_LO12 TLSLD_LDST64_DTPREL_LO12_NC TLSIE_MOVW_GOTTPREL_G1 "
    "TLSIE_MOVW_GOTTPREL_G0_NC TLSIE_ADR_GOTTPREL_PAGE21 TLSIE_LD64_GOTTPREL_LO12_NC TLSIE_LD_GOTTPREL_PREL19 "
    "TLSLE_MOVW_TPREL_G2 TLSLE_MOVW_TPREL_G1 TLSLE_MOVW_TPREL_G1_NC TLSLE_MOVW_TPREL_G0 TLSLE_MOVW_TPREL_G0_NC "
    "TLSLE_ADD_TPREL_HI12 TLSLE_ADD_TPREL_LO12 TLSLE_ADD_TPREL_LO12_NC TLSLE_LDST8_TPREL_LO12 "
    "TLSLE_LDST8_TPREL_LO12_NC TLSLE_LDST16_TPREL_LO12 TLSLE_LDST16_TPREL_LO12_NC TLSLE_LDST32_TPREL_LO12 "
    "TLSLE_LDST32_TPREL_LO12_NC TLSLE_LDST64_TPREL_LO12 TLSLE_LDST64_TPREL_LO12_NC TLSDESC_LD_PREL19 "
    "TLSDESC_ADR_PREL21 TLSDESC_ADR_PAGE21 TLSDESC_LD64_LO12 TLSDESC_ADD_LO12 TLSDESC_OFF_G1 TLSDESC_OFF_G0_NC "
    "TLSDESC_LDR TLSDESC_ADD TLSDESC_CALL TLSLE_LDST128_TPREL_LO12 TLSLE_LDST128_TPREL_LO12_NC "
    "TLSLD_LDST128_DTPREL_LO12 TLSLD_LDST128_DTPREL_LO12_NC",
    1024: "COPY GLOB_DAT JUMP_SLOT RELATIVE TLS_DTPMOD64 TLS_DTPREL64 TLS_TPREL64 TLSDESC IRELATIVE",
}


def relocation_name(number: int) -> str:
    """The name that AAELF64 5.7 gives a relocation type: `R_AARCH64_CALL26` for 283."""
    for first, names in _RELOCATION_NAMES.items():
        run = names.split()
        if first <= number < first + len(run):
            return f"R_AARCH64_{run[number - first]}"
    return "R_AARCH64_NONE" if number in R_AARCH64_NONE else f"relocation type {number}"


def relocation_size(number: int) -> int:
    """How many bytes a relocation of this type overwrites (AAELF64 5.7): 2, 4, 8 or 16; 0 for R_AARCH64_NONE."""
    if number in R_AARCH64_NONE:
        return 0
    if number in (259, 262):  # ABS16, PREL16
        return 2
    if number == R_AARCH64_TLSDESC:
        return 16
    if number in (257, 260, 307, 580) or number >= 1024:  # ABS64, PREL64, GOTREL64, AUTH_ABS64, dynamic ones
        return 8
    return INSN_SIZE


class _Segment(NamedTuple):
    type: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    memory_size: int
    alignment: int


class _Section(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int

    @property
    def mapped(self) -> bool:
        return bool(self.flags & SHF_ALLOC) and self.type != SHT_NOBITS

    @property
    def code(self) -> bool:
        return self.mapped and bool(self.flags & SHF_EXECINSTR)


class _Piece(NamedTuple):
    """Addresses [start, end) stand in the file from `offset` on."""

    start: int
    end: int
    offset: int


class _Table(NamedTuple):
    """A relocation table of the file; `base` and `limit` are the address and size of what its offsets count in."""

    type: int
    offset: int
    size: int
    base: int
    limit: int
    symbols: int


def _merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return merged


def _subtract(ranges: Iterable[tuple[int, int]], holes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """`ranges` without `holes`; both ascending and disjoint."""
    left = []
    for start, end in ranges:
        index = bisect_right(holes, start, key=lambda hole: hole[1])
        while index < len(holes) and holes[index][0] < end:
            if start < holes[index][0]:
                left.append((start, holes[index][0]))
            start = holes[index][1]
            index += 1
        if start < end:
            left.append((start, end))
    return left


class _Strings:
    """A string table. Counts what it gives out, so that overlapping names cannot fill the memory."""

    def __init__(self, image: _Image, start: int, end: int) -> None:
        self._image, self._start, self._end = image, start, end
        self._known: dict[int, str] = {}
        self._budget = 8 * (end - start) + 65536

    def at(self, offset: int) -> str:
        known = self._known.get(offset)
        if known is not None:
            return known
        start = self._start + offset
        end = self._image.data.find(b"\0", start, self._end) if start < self._end else -1
        if end < 0:
            raise self._image.bad(f"a name at {offset:#x} lies outside its string table")
        self._budget -= end - start
        if self._budget < 0:
            raise self._image.bad("its names overlap so much that they cannot be meant")
        name = self._image.data[start:end].decode("utf-8", "backslashreplace")
        if not name.isprintable():  # a file must not send control characters to a terminal
            name = name.encode("unicode_escape").decode("ascii")
        self._known[offset] = name
        return name


class _Image:
    """What the bytes of an ELF file say. What contradicts itself is a FormatError that names the file."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name
        _require_aarch64(data[:64], name)
        self.order = "<" if data[5] == 1 else ">"
        header = struct.unpack_from(self.order + _HEADER, data)
        self.relocatable: bool = header[1] == ET_REL
        self._segments_at, self._sections_at = header[5], header[6]
        segment_size, segment_count, section_size, section_count, names = header[9:14]
        self._strings: dict[int, _Strings] = {}
        self._names = 0
        self.sections: list[_Section] = []
        if self._sections_at:
            if section_size != struct.calcsize("<" + _SECTION):
                raise self.bad(f"its section headers have {section_size} bytes, not 64")
            first = self._section(0)
            # gABI, "ELF header": numbers that do not fit stand in section header 0.
            section_count = section_count or first.size
            names = first.link if names == SHN_XINDEX else names
            segment_count = first.info if segment_count == PN_XNUM else segment_count
            if section_count > _MOST_SECTIONS:
                raise self.bad(f"it claims {section_count} sections; no more than {_MOST_SECTIONS} can be read")
            self.require(self._sections_at, section_count * section_size, "its section headers")
            self.sections = [self._section(index) for index in range(section_count)]
            self._names = names
        elif segment_count == PN_XNUM:
            raise self.bad("the number of its program headers stands in a section header that it does not have")
        for index, section in enumerate(self.sections):
            if index and section.type not in (0, SHT_NOBITS):
                self.require(section.offset, section.size, f"section {index}")
        if segment_count > _MOST_SEGMENTS:
            raise self.bad(f"it claims {segment_count} program headers; no more than {_MOST_SEGMENTS} can be read")
        if segment_count and segment_size != struct.calcsize("<" + _SEGMENT):
            raise self.bad(f"its program headers have {segment_size} bytes, not 56")
        self.segments = [
            _Segment(*self.unpack(_SEGMENT, self._segments_at + index * segment_size, f"program header {index}"))
            for index in range(segment_count)
        ]
        self.pieces = self._map()

    def bad(self, problem: str) -> FormatError:
        return FormatError(f"{self.name} is not a sound ELF file: {problem}")

    def require(self, offset: int, size: int, what: str) -> None:
        if offset + size > len(self.data):
            raise self.bad(f"{what} at {offset:#x}, {size:#x} bytes, reaches beyond its end")

    def unpack(self, layout: str, offset: int, what: str) -> tuple[Any, ...]:
        layout = self.order + layout
        self.require(offset, struct.calcsize(layout), what)
        return struct.unpack_from(layout, self.data, offset)

    def entries(self, layout: str, offset: int, size: int) -> Iterator[tuple[Any, ...]]:
        layout = self.order + layout
        if size % struct.calcsize(layout):
            raise self.bad(f"the table at {offset:#x}, {size:#x} bytes, is not a whole number of entries")
        return struct.iter_unpack(layout, memoryview(self.data)[offset : offset + size])

    def _section(self, index: int) -> _Section:
        size = struct.calcsize("<" + _SECTION)
        return _Section(*self.unpack(_SECTION, self._sections_at + index * size, f"section header {index}"))

    def section(self, index: int, what: str) -> _Section:
        if index >= len(self.sections):
            raise self.bad(f"{what} refers to section {index}, which does not exist")
        return self.sections[index]

    def strings(self, index: int) -> _Strings:
        if index not in self._strings:
            section = self.section(index, "a name")
            if section.type != SHT_STRTAB:
                raise self.bad(f"section {index} is used as a string table but is none")
            self._strings[index] = _Strings(self, section.offset, section.offset + section.size)
        return self._strings[index]

    def section_name(self, section: _Section) -> str:
        return self.strings(self._names).at(section.name) if self._names else ""

    def _map(self) -> list[_Piece]:
        if self.relocatable:
            ranges = [(s.offset, s.offset + s.size) for s in self.sections if s.mapped]
            return [_Piece(start, end, start) for start, end in _merge(ranges)]
        loads = [segment for segment in self.segments if segment.type == PT_LOAD]
        pieces: list[_Piece] = []
        for load in sorted(loads, key=lambda load: load.address):
            end = load.address + load.file_size
            if load.file_size > load.memory_size or load.address + load.memory_size > _ADDRESSES:
                raise self.bad(f"the segment at address {load.address:#x} has impossible sizes")
            self.require(load.offset, load.file_size, f"the segment at address {load.address:#x}")
            last = pieces[-1] if pieces else None
            if not load.file_size:
                continue
            if last is not None and load.address < last.end:
                if load.address - load.offset != last.start - last.offset:
                    raise self.bad(f"two segments map address {load.address:#x} to different places of the file")
                pieces[-1] = last._replace(end=max(end, last.end))
            else:
                pieces.append(_Piece(load.address, end, load.offset))
        return pieces

    def chunks(self, address: int, size: int) -> list[tuple[int, int]] | None:
        """The (file offset, size) that these addresses stand at, in order; None where one is not in the file."""
        chunks = []
        while size > 0:
            index = bisect_right(self.pieces, address, key=lambda piece: piece.start) - 1
            if index < 0 or address >= self.pieces[index].end:
                return None
            piece = self.pieces[index]
            length = min(size, piece.end - address)
            chunks.append((piece.offset + address - piece.start, length))
            address, size = address + length, size - length
        return chunks

    @cached_property
    def code(self) -> list[tuple[int, int]]:
        """Ascending ranges of addresses that may be written. Never headers or relocation tables."""
        sections = [section for section in self.sections if section.code]
        if self.relocatable:
            ranges = _merge((section.offset, section.offset + section.size) for section in sections)
        else:
            loads = [segment for segment in self.segments if segment.type == PT_LOAD and segment.flags & PF_X]
            ranges = _merge((load.address, load.address + load.file_size) for load in loads)
            if sections:  # one executable segment often holds headers and constants too
                inside = _merge((section.address, section.address + section.size) for section in sections)
                ranges = _subtract(ranges, _subtract([(0, _ADDRESSES)], inside))
        structure = _merge(
            [
                (0, 64),
                (self._segments_at, self._segments_at + 56 * len(self.segments)),
                (self._sections_at, self._sections_at + 64 * len(self.sections)),
                *((table.offset, table.offset + table.size) for table in self.tables),
            ]
        )
        code = []
        for start, end in ranges:
            for offset, length in self.chunks(start, end - start) or ():
                distance = start - offset
                left = _subtract([(offset, offset + length)], structure)
                code += [(first + distance, last + distance) for first, last in left]
                start += length
        return _merge(code)

    def is_code(self, start: int, end: int) -> bool:
        index = bisect_right(self.code, start, key=lambda span: span[0]) - 1
        return index >= 0 and end <= self.code[index][1]

    @cached_property
    def dynamic(self) -> dict[int, tuple[int, int]]:
        """PT_DYNAMIC: tag -> (value, file offset of the value)."""
        found: dict[int, tuple[int, int]] = {}
        for segment in self.segments:
            if segment.type != PT_DYNAMIC:
                continue
            self.require(segment.offset, segment.file_size, "its dynamic segment")
            if found or segment.file_size > 1 << 20:
                raise self.bad("it has a second dynamic segment or one of more than 1 MiB")
            for index, (tag, value) in enumerate(self.entries(_DYNAMIC, segment.offset, segment.file_size)):
                if tag == DT_NULL:
                    break
                found[tag] = value, segment.offset + 16 * index + 8
        return found

    @cached_property
    def tables(self) -> list[_Table]:
        """The relocation tables that a loader (executables) or linker (relocatable files) applies to code."""
        tables = []
        units = {SHT_RELA: 24, SHT_REL: 16, SHT_RELR: 8, SHT_ANDROID_RELR: 8}
        for index, section in enumerate(self.sections):
            if section.type in (SHT_CREL, SHT_ANDROID_REL, SHT_ANDROID_RELA):
                raise FormatError(
                    f"{self.name} has compressed relocations (section {index}), which cannot be read: "
                    f"build it without them"
                )
            if section.type not in units or not (self.relocatable or section.flags & SHF_ALLOC):
                continue
            if section.entry_size != units[section.type]:
                raise self.bad(f"the entries of relocation section {index} have {section.entry_size} bytes")
            kind = SHT_RELR if section.type == SHT_ANDROID_RELR else section.type
            base, limit = 0, _ADDRESSES
            if self.relocatable:
                target = self.section(section.info, f"relocation section {index}")
                if not target.code or kind == SHT_RELR:
                    continue
                base, limit = target.offset, target.size
            symbols = 0 if kind == SHT_RELR else section.link
            tables.append(_Table(kind, section.offset, section.size, base, limit, symbols))
        if not self.relocatable:
            tables = list(dict.fromkeys([*tables, *self._dynamic_tables()]))
            if len(tables) > _MOST_TABLES:
                raise self.bad(f"it has {len(tables)} relocation tables, more than the {_MOST_TABLES} that can be read")
        return tables

    def _dynamic_tables(self) -> Iterator[_Table]:
        plt = self.dynamic.get(DT_PLTREL, (DT_RELA, 0))[0]
        for kind, start, length in (
            (SHT_RELA, DT_RELA, DT_RELASZ),
            (SHT_REL, DT_REL, DT_RELSZ),
            (SHT_REL if plt == DT_REL else SHT_RELA, DT_JMPREL, DT_PLTRELSZ),
            (SHT_RELR, DT_RELR, DT_RELRSZ),
        ):
            if start in self.dynamic:
                address, size = self.dynamic[start][0], self.dynamic.get(length, (0, 0))[0]
                chunks = self.chunks(address, size)
                if chunks is None or len(chunks) > 1:
                    raise self.bad(f"its relocation table at address {address:#x}, {size:#x} bytes, is not mapped")
                for offset, _ in chunks:
                    yield _Table(kind, offset, size, 0, _ADDRESSES, 0)

    @cached_property
    def owners(self) -> dict[int, list[int]]:
        """Which relocations own a word of code: address of the word -> keys, each table number << 32 | entry offset."""
        owners: dict[int, list[int]] = {}
        if not self.code:
            return owners
        for unpacked, most in ((False, _MOST_ENTRIES * 24), (True, _MOST_ENTRIES)):
            if sum(table.size for table in self.tables if (table.type == SHT_RELR) == unpacked) > most:
                raise self.bad("its relocation tables are larger than can be read")
        low, high = self.code[0][0] - 16, self.code[-1][1]
        seen: set[int] = set()
        count = 0
        for number, table in enumerate(self.tables):
            for offset, place, size in self._places(table, low, high):
                if not low < place < high or size == 0:
                    continue
                if not self.relocatable and table.type != SHT_RELR:
                    if offset in seen:  # DT_RELA and DT_JMPREL name what the sections name
                        continue
                    seen.add(offset)
                count += 1
                if count > _MOST_ENTRIES // 2:
                    raise self.bad("it has more relocations of code than can be read")
                for word in range(place & -INSN_SIZE, place + size, INSN_SIZE):
                    owners.setdefault(word, []).append(number << 32 | offset)
        return owners

    def _places(self, table: _Table, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        """(file offset of the entry, address, bytes) of what a table overwrites; RELR only inside (low, high)."""
        if table.type == SHT_RELR:
            yield from self._packed_places(table, low, high)
            return
        sizes: dict[int, int] = {}
        layout, unit = (_RELA, 24) if table.type == SHT_RELA else (_REL, 16)
        offset = table.offset
        for entry in self.entries(layout, table.offset, table.size):
            number = entry[1] & 0xFFFFFFFF
            size = sizes.get(number)
            if size is None:
                size = sizes[number] = relocation_size(number)
            if entry[0] + size > table.limit and size:
                raise self.bad(f"the relocation at {offset:#x} lies outside its section")
            yield offset, table.base + entry[0], size
            offset += unit

    def _packed_places(self, table: _Table, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        # gABI, "Relative relocation table": an even entry is an address, an odd one a bitmap of the 63 words after.
        where = 0
        for index, (entry,) in enumerate(self.entries(_RELR, table.offset, table.size)):
            offset = table.offset + 8 * index
            if entry & 1 == 0:
                yield offset, entry, 8
                where = entry + 8
                continue
            if where < high and where + 63 * 8 > low:
                for bit in range(1, 64):
                    if entry >> bit & 1:
                        yield offset, where + 8 * (bit - 1), 8
            where += 63 * 8

    def relocation(self, key: int) -> tuple[_Table, int, int, int, int]:
        """(table, entry offset, type, symbol number, addend) of a key of `owners`."""
        table, offset = self.tables[key >> 32], key & 0xFFFFFFFF
        if table.type == SHT_RELR:
            return table, offset, R_AARCH64_RELATIVE, 0, 0
        entry = self.unpack(_RELA if table.type == SHT_RELA else _REL, offset, "a relocation")
        return table, offset, entry[1] & 0xFFFFFFFF, entry[1] >> 32, entry[2] if len(entry) > 2 else 0

    def describe_relocation(self, key: int) -> str:
        table, _, number, symbol, addend = self.relocation(key)
        text = relocation_name(number)
        if symbol:
            text += f" against {self._symbol_name(table.symbols, symbol)}" + (f"{addend:+#x}" if addend else "")
        elif addend:
            text += f" to {addend:#x}"
        return text + (" (in a RELR table)" if table.type == SHT_RELR else "")

    def can_drop(self, key: int) -> bool:
        table, _, number, _, _ = self.relocation(key)
        if self.relocatable:
            return True
        # What stands in a PLT table may not become R_AARCH64_NONE: glibc's elf_machine_lazy_rel() and apply_irel()
        # stop the program at a type that they do not expect.
        return table.type != SHT_RELR and number not in (R_AARCH64_JUMP_SLOT, R_AARCH64_TLSDESC, R_AARCH64_IRELATIVE)

    def _symbol_name(self, table: int, number: int) -> str:
        section = self.section(table, "a relocation table")
        if section.type in (SHT_SYMTAB, SHT_DYNSYM) and 24 * (number + 1) <= section.size:
            name, info, _, index, _, _ = self.unpack(_SYMBOL, section.offset + 24 * number, "a symbol")
            if info & 15 == STT_SECTION and index < len(self.sections):
                return self.section_name(self.sections[index]) or f"section {index}"
            text = self.strings(section.link).at(name)
            if text:
                return text
        return f"symbol number {number}"

    def symbols(self) -> list[Symbol]:
        """What .symtab and .dynsym name: no section, file or mapping symbol, and nothing without an address."""
        found: list[Symbol] = []
        tables = [(i, s) for i, s in enumerate(self.sections) if s.type in (SHT_SYMTAB, SHT_DYNSYM)]
        if len({section.type for _, section in tables}) < len(tables):
            raise self.bad("it has two symbol tables of one kind")  # gABI, "Sections": one of each
        if sum(section.size for _, section in tables) > _MOST_ENTRIES * 24:
            raise self.bad(f"it has more than {_MOST_ENTRIES} symbols, which cannot be read")
        homes = self._homes() if self.relocatable and tables else []
        for index, section in tables:
            if section.entry_size != 24:
                raise self.bad(f"the entries of symbol table {index} have {section.entry_size} bytes, not 24")
            names = self.strings(section.link)
            for number, entry in enumerate(self.entries(_SYMBOL, section.offset, section.size)):
                offset, info, _, home, value, size = entry
                kind = info & 15
                if home in (SHN_UNDEF, SHN_COMMON) or kind in (STT_SECTION, STT_FILE, STT_TLS) or not offset:
                    continue
                name = names.at(offset)
                # AAELF64 5.5.5: local symbols $x and $d, with or without a suffix, say where code and data begin.
                if name[:2] in ("$x", "$d") and name[2:3] in ("", ".") and info == STB_LOCAL << 4 | STT_NOTYPE:
                    continue
                if not self.relocatable:
                    found.append(Symbol(name, value, size))
                    continue
                if home == SHN_XINDEX:
                    home = self._extended_index(index, number)
                elif home >= SHN_LORESERVE:
                    continue
                if home >= len(homes):
                    raise self.bad(f"symbol {number} lies in section {home}, which does not exist")
                place = homes[home]
                if place is not None and value <= place.end - place.start:
                    found.append(Symbol(name, place.start + value, size, place.name))
        return list(dict.fromkeys(found)) if len(tables) > 1 else found

    def _homes(self) -> list[Space | None]:
        return [
            Space(self.section_name(section), section.offset, section.offset + section.size) if section.mapped else None
            for section in self.sections
        ]

    def _extended_index(self, table: int, number: int) -> int:
        """The section of a symbol where 16 bits could not hold it."""
        section = self._extensions.get(table)
        if section is None or 4 * (number + 1) > section.size:
            raise self.bad(f"symbol {number} has its section in a table that does not exist")
        [home] = self.unpack("I", section.offset + 4 * number, "a section number")
        return int(home)

    @cached_property
    def _extensions(self) -> dict[int, _Section]:
        return {section.link: section for section in self.sections if section.type == SHT_SYMTAB_SHNDX}

    def spaces(self) -> list[Space]:
        """The mapped sections of a relocatable file by name; a linked file has addresses and needs none."""
        return [space for space in self._homes() if space is not None and space.name] if self.relocatable else []

    def build_id(self) -> str:
        if self.relocatable:
            notes = [(s.offset, s.size, s.alignment) for s in self.sections if s.type == SHT_NOTE]
        else:
            notes = [(s.offset, s.file_size, s.alignment) for s in self.segments if s.type == PT_NOTE]
        if sum(size for _, size, _ in notes) > _MOST_NOTE_BYTES:
            raise self.bad("its notes are larger than can be read")
        for offset, size, alignment in notes:
            self.require(offset, size, "a note")
            alignment = 8 if alignment == 8 else 4
            end = offset + size
            while offset + 12 <= end:
                name_size, size, kind = self.unpack("III", offset, "a note")
                start = offset + -(-(12 + name_size) // alignment) * alignment
                if start + size > end:
                    break
                owner = self.data[offset + 12 : offset + 12 + min(name_size, 5)]
                if kind == NT_GNU_BUILD_ID and owner == b"GNU\0" and size <= 256:
                    return self.data[start : start + size].hex()
                offset = start + -(-size // alignment) * alignment
        return ""


def _require_aarch64(head: bytes, name: str) -> None:
    if not head:
        raise FormatError(f"{name} is empty, not an ELF file")
    if head[:4] != b"\x7fELF":
        raise FormatError(f"{name} is not an ELF file: it does not begin with 7f 45 4c 46")
    if len(head) < 64:
        raise FormatError(f"{name} is not a sound ELF file: it ends within its header")
    if head[4] != 2:
        raise FormatError(f"{name} is not a 64-bit ELF file, and AArch64 code is in no other")
    if head[5] not in (1, 2) or head[6] != 1:
        raise FormatError(f"{name} is not a sound ELF file: its data encoding or version is unknown")
    kind, machine = struct.unpack_from("<HH" if head[5] == 1 else ">HH", head, 16)
    if machine != EM_AARCH64:
        raise FormatError(f"{name} is for machine number {machine}, not for AArch64 ({EM_AARCH64})")
    if kind not in (ET_REL, ET_EXEC, ET_DYN):
        raise FormatError(f"{name} is of ELF type {kind}, neither relocatable, executable nor shared object")


class _Identity(NamedTuple):
    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class _NoCpus:
    """Nobody executes a file."""

    def __init__(self) -> None:
        self.rendezvous = Rendezvous(())

    def states(self) -> Sequence[CpuState]:
        return []


class ElfFile(Target):
    """The code in an ELF file: ELFCLASS64, EM_AARCH64, either data endianness; ET_EXEC, ET_DYN or ET_REL.

    Addresses are the file's own virtual addresses, those of PT_LOAD segments (gABI, "Program header"). A relocatable
    file has none yet: there an address is an offset in the file (bytes), and people write `.text:0x10`, for which
    `symbols.spaces` holds the sections that have bytes in the file.

    `write` changes a copy in memory; `publish` replaces the file. A process that executes the file keeps the old one.
    Words that a relocation overwrites when the file is loaded (ET_EXEC, ET_DYN) or linked (ET_REL) are refused, unless
    `drop_relocations`: then publishing makes those relocations R_AARCH64_NONE, and makes them what they were when their
    words are what they were as the file was opened. One that was dropped by an earlier ElfFile does not come back.

    Raises TargetError when the path cannot be opened or is not a regular file, FormatError when it is not such an ELF
    file, is not sound or has more than 2 GiB. Symbols and relocations are read when first asked for, so what is
    unsound in them is a FormatError then. Works on files that may not be written, until `write`.
    """

    capabilities = Capabilities(kind="ELF file", cpus=0, can_stop=True, can_kick=True, sees_pcs=True, broadcast=True)

    def __init__(self, path: str | os.PathLike[str], *, drop_relocations: bool = False) -> None:
        self.path = os.fspath(path)
        self._drop_relocations = drop_relocations
        original, self._identity, self._real_path = _read_file(self.path)
        self._image = _Image(original, self.path)
        self._data: bytes | bytearray = original  # a copy from the first write on
        self._on_disk: bytes | bytearray = original
        self._touched: set[int] = set()
        self._replaceable = False
        self._closed = False
        self.symbols = SymbolTable(self._image.symbols, self._image.spaces())

    @property
    def is_relocatable(self) -> bool:
        """ET_REL (.o, .ko): addresses are offsets in the file."""
        return self._image.relocatable

    @cached_property
    def build_id(self) -> str:
        """The descriptor of the NT_GNU_BUILD_ID note in hex; empty when there is none."""
        return self._image.build_id()

    def code_ranges(self) -> Sequence[tuple[int, int]]:
        """The ranges [start, end) that may be written, ascending.

        Executable PT_LOAD segments, narrowed to SHF_EXECINSTR sections where the file has section headers; in a
        relocatable file the SHF_EXECINSTR sections. Without headers and relocation tables. FormatError when the
        relocation tables are not sound.
        """
        return list(self._image.code)

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes as last written, published or not; MappingError when one of them is not in the file (.bss)."""
        self._require_open()
        chunks = self._chunks(address, size)
        return b"".join(self._data[offset : offset + length] for offset, length in chunks)

    def write(self, address: int, data: bytes) -> None:
        """Put bytes into the copy in memory; nothing on disk changes before `publish`.

        MappingError when they are not all code, RelocationError when a relocation owns a word that would become
        another than it was as the file was opened, WriteError when the file on disk could not be replaced: no
        permission, several hard links, changed since; FormatError when its relocations are not sound. Then nothing
        was written.
        """
        self._require_open()
        chunks = self._chunks(address, len(data))
        end = address + len(data)
        if not data:
            return
        if not self._image.is_code(address, end):
            raise MappingError(
                f"{self._where(address)} is not code, so it may not be written: patch executable sections only"
            )
        if not self._replaceable:
            self._require_replaceable()
            self._replaceable = True
        owned = [word for word in range(address & -INSN_SIZE, end, INSN_SIZE) if word in self._image.owners]
        if owned:
            before = b"".join(self._image.data[offset : offset + length] for offset, length in chunks)
            for word in owned:
                part = slice(max(word - address, 0), word + INSN_SIZE - address)
                if data[part] != before[part]:
                    self._require_droppable(word)
            self._touched.update(owned)
        if not isinstance(self._data, bytearray):
            self._data = bytearray(self._data)
        done = 0
        for offset, length in chunks:
            self._data[offset : offset + length] = data[done : done + length]
            done += length

    def relocation_at(self, address: int) -> str | None:
        """The relocations that own the word of code at this address, by type and symbol; None when there is none.

        `R_AARCH64_CALL26 against printk`. None too for what is not code. Says what the file said as it was opened.
        """
        keys = self._image.owners.get(address & -INSN_SIZE)
        return ", ".join(map(self._image.describe_relocation, keys)) if keys else None

    def publish(self, start: int, end: int) -> None:
        """Replace the file on disk by the copy in memory: all that was written, whatever the range.

        Atomic: whoever opens the path gets the old file or the new one, also after a crash or a loss of power. Mode,
        owner, group and extended attributes are kept; inode number and times are new. A symbolic link stays and what
        it points to is replaced. When the copy equals the file, nothing is replaced.

        WriteError when the file cannot be replaced: changed on disk since it was opened, several hard links, no
        permission, no space. It is then whole and unchanged and no temporary file is left; the error says so if only
        synchronising the directory failed, after the replacement. A killed process may leave a temporary file
        `.a64patch-…` beside it. Two processes that replace one file at the same moment are not kept apart.
        """
        self._publish()

    def publish_many(self, ranges: Sequence[tuple[int, int]]) -> None:
        """As `publish`, once for all."""
        self._publish()

    def kick(self) -> None:
        """Nothing to do: nobody executes a file."""

    @contextmanager
    def stop(self) -> Iterator[_NoCpus]:
        """A stop of no CPUs: everyone has arrived. Leaving it, by an exception or not, publishes nothing."""
        nobody = _NoCpus()
        try:
            yield nobody
        finally:
            nobody.rendezvous.finish()

    def close(self) -> None:
        """Forget the copy in memory; what was not published is lost. Reading and writing are TargetErrors after it."""
        self._closed = True
        self._data = b""

    def _where(self, address: int) -> str:
        with suppress(A64PatchError):
            name = self.symbols.describe(address)
            return f"{name} in {self.path}" if name == f"{address:#x}" else f"{name} ({address:#x}) in {self.path}"
        return f"{address:#x} in {self.path}"

    def _require_open(self) -> None:
        if self._closed:
            raise TargetError(f"{self.path} was closed: open it again")

    def _chunks(self, address: int, size: int) -> list[tuple[int, int]]:
        chunks = None if size < 0 else self._image.chunks(address, size)
        if chunks is None:
            raise MappingError(f"{size} bytes at {address:#x} do not all stand in {self.path}: name a mapped address")
        return chunks

    def _require_droppable(self, word: int) -> None:
        owner = self.relocation_at(word)
        if not self._drop_relocations:
            raise RelocationError(
                f"the word at {self._where(word)} belongs to {owner}, which would overwrite it: "
                f"patch another word, or drop the relocation (drop_relocations, --drop-relocations)"
            )
        if not all(map(self._image.can_drop, self._image.owners[word])):
            raise RelocationError(
                f"the word at {self._where(word)} belongs to {owner}, which cannot be dropped: patch another word"
            )

    def _result(self) -> bytes | bytearray:
        """The copy in memory, without the relocations whose words are no longer what they were."""
        image, data = self._image, self._data
        keys: set[int] = set()
        for word in self._touched:
            chunks = [chunk for byte in range(word, word + INSN_SIZE) for chunk in image.chunks(byte, 1) or ()]
            if any(data[offset] != image.data[offset] for offset, _ in chunks):
                keys.update(image.owners[word])
        if not keys:
            return data
        result = bytearray(data)
        counts: dict[int, int] = {}
        for key in keys:
            table, entry, _, symbol, _ = image.relocation(key)
            struct.pack_into(image.order + "Q", result, entry + 8, symbol << 32)
            start, tag, unit = (DT_RELA, DT_RELACOUNT, 24) if table.type == SHT_RELA else (DT_REL, DT_RELCOUNT, 16)
            if not image.relocatable and start in image.dynamic and tag in image.dynamic:
                # glibc applies the first DT_RELACOUNT entries as R_AARCH64_RELATIVE without looking at their type.
                count, place = image.dynamic[tag]
                [(first, _)] = image.chunks(image.dynamic[start][0], 1) or [(entry + 1, 0)]
                if first <= entry < first + unit * count:
                    counts[place] = min(counts.get(place, count), (entry - first) // unit)
        for place, count in counts.items():
            struct.pack_into(image.order + "Q", result, place, count)
        return result

    def _publish(self) -> None:
        self._require_open()
        result = self._result()
        if result == self._on_disk:
            return
        self._require_replaceable()
        self._replace(bytes(result))

    def _require_replaceable(self) -> None:
        """WriteError with what to do when the file on disk is not ours to replace."""
        folder = os.path.dirname(self._real_path)
        try:
            status = os.stat(self._real_path, follow_symlinks=False)
        except OSError as error:
            raise self._failed(error) from error
        self._require_unchanged(status)
        if status.st_nlink > 1:
            raise WriteError(
                f"{self.path} has {status.st_nlink} hard links, and replacing it would part them: "
                f"patch a copy of it, then put that in the place of each"
            )
        effective = os.access in os.supports_effective_ids
        if not status.st_mode & 0o222 or not os.access(self._real_path, os.W_OK, effective_ids=effective):
            raise WriteError(f"{self.path} is read-only: give yourself permission to write it (chmod u+w)")
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
            raise WriteError(f"{self.path} cannot be replaced: its directory {folder} may not be written by you")

    def _require_unchanged(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode) or _Identity.of(status) != self._identity:
            raise WriteError(f"{self.path} was changed on disk since it was opened: open it again")

    def _failed(self, error: OSError) -> WriteError:
        return WriteError(f"cannot replace {self.path}, which is unchanged: {error.strerror or error}")

    def _replace(self, data: bytes) -> None:
        folder_path, name = os.path.split(self._real_path)
        temporary = f".a64patch-{os.getpid()}-{os.urandom(8).hex()}"
        try:
            folder = os.open(folder_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._failed(error) from error
        try:
            try:
                status = self._write_beside(folder, name, temporary, data)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            self._identity = _Identity.of(status)
            self._on_disk = data
            try:
                os.fsync(folder)
            except OSError as error:
                raise WriteError(
                    f"{self.path} was replaced, but its directory was not synchronised, so a loss of power may bring "
                    f"the old file back: {error.strerror or error}"
                ) from error
        finally:
            os.close(folder)

    def _write_beside(self, folder: int, name: str, temporary: str, data: bytes) -> os.stat_result:
        """Make `temporary` the file `name`, with new contents. Returns the status of what then stands there."""
        old = new = -1
        try:
            old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            self._require_unchanged(os.fstat(old))
            new = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(new, rest) :]
            _copy_attributes(old, new)
            os.fsync(new)
            self._require_unchanged(os.stat(name, dir_fd=folder, follow_symlinks=False))
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            return os.fstat(new)
        except A64PatchError:
            raise
        except OSError as error:
            raise self._failed(error) from error
        finally:
            for descriptor in (old, new):
                if descriptor >= 0:
                    os.close(descriptor)


def _copy_attributes(old: int, new: int) -> None:
    """Owner, group, extended attributes (access control lists among them) and mode; in this order.

    A change of owner takes set-user-ID and file capabilities away, so they come after it.
    """
    status, made = os.fstat(old), os.fstat(new)
    if (status.st_uid, status.st_gid) != (made.st_uid, made.st_gid):
        os.fchown(new, status.st_uid, status.st_gid)
    wanted, present = _attributes(old), _attributes(new)
    for name in present.keys() - wanted.keys():
        os.removexattr(new, name)
    for name, value in wanted.items():
        if present.get(name) != value:
            os.setxattr(new, name, value)
    os.fchmod(new, stat.S_IMODE(status.st_mode))


def _attributes(descriptor: int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor)}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return {}
        raise


def _read_file(path: str) -> tuple[bytes, _Identity, str]:
    """The bytes of a regular file of at most 2 GiB, what it is on disk, and its path without symbolic links."""
    try:
        real = os.path.realpath(path)
        # Asked first: opening a FIFO would wait for a writer, opening a device may do anything.
        _require_regular(os.stat(path), path)
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            _require_regular(status, path)
            if status.st_size > _MOST_BYTES:
                raise FormatError(f"{path} has {status.st_size} bytes, more than the 2 GiB that can be patched")
            _require_aarch64(os.pread(descriptor, 64, 0), path)
            data = _read_whole(descriptor, status.st_size)
            if len(data) != status.st_size or _Identity.of(os.fstat(descriptor)) != _Identity.of(status):
                raise TargetError(f"{path} changed while it was read: try again")
            return data, _Identity.of(status), real
        finally:
            os.close(descriptor)
    except A64PatchError:
        raise
    except (OSError, ValueError) as error:
        raise TargetError(f"cannot open {path!s}: {getattr(error, 'strerror', None) or error}") from error


def _require_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise TargetError(f"{path} is a directory, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise TargetError(f"{path} is not a regular file")


def _read_whole(descriptor: int, size: int) -> bytes:
    blocks = []
    offset = 0
    while block := os.pread(descriptor, size + 1 - offset, offset):
        blocks.append(block)
        offset += len(block)
    return b"".join(blocks)

"""The contents of an ELF file: its segments, code, names and relocations. Reads, never changes.

Reads headers and tables with `struct` from untrusted bytes.
Read on: elf.py and program.py use it; the ELF gABI and AAELF64 (ELF for the Arm 64-bit Architecture) are the format.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

from a64patch.a64.names import quoted, site_text
from a64patch.a64.words import INSN_SIZE
from a64patch.errors import FormatError
from a64patch.ranges import Ranges
from a64patch.targets.elf_packed import MOST_RELOCATIONS, PackedError, Unpacked, claimed, unpack
from a64patch.targets.symbols import ADDRESS_SPACE, Space, Symbol

ET_REL, ET_EXEC, ET_DYN = 1, 2, 3
EM_AARCH64 = 183
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_PHDR = 1, 2, 3, 4, 6
PF_X, PF_W = 1, 2
PN_XNUM = 0xFFFF
SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOTE, SHT_NOBITS, SHT_REL, SHT_DYNSYM = 2, 3, 4, 7, 8, 9, 11
SHT_SYMTAB_SHNDX, SHT_RELR = 18, 19
SHT_CREL, SHT_ANDROID_REL, SHT_ANDROID_RELA, SHT_ANDROID_RELR = 0x40000014, 0x60000001, 0x60000002, 0x6FFFFF00
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_MERGE, SHF_STRINGS, SHF_TLS = 1, 2, 4, 0x10, 0x20, 0x400
SHN_UNDEF, SHN_LORESERVE, SHN_ABS, SHN_COMMON, SHN_XINDEX = 0, 0xFF00, 0xFFF1, 0xFFF2, 0xFFFF
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE, STT_TLS, STT_GNU_IFUNC = 0, 1, 2, 3, 4, 6, 10
STB_LOCAL = 0
NT_GNU_BUILD_ID = 3
DT_NULL, DT_PLTRELSZ, DT_RELA, DT_RELASZ, DT_REL, DT_RELSZ, DT_PLTREL, DT_JMPREL = 0, 2, 7, 8, 17, 18, 20, 23
DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_GNU_HASH = 4, 5, 6, 10, 11, 0x6FFFFEF5
DT_VERSYM, DT_VERDEF, DT_VERDEFNUM = 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD
DT_RELRSZ, DT_RELR, DT_RELACOUNT, DT_RELCOUNT = 35, 36, 0x6FFFFFF9, 0x6FFFFFFA
DT_ANDROID_REL, DT_ANDROID_RELSZ, DT_ANDROID_RELA, DT_ANDROID_RELASZ = 0x6000000F, 0x60000010, 0x60000011, 0x60000012
DT_ANDROID_RELR, DT_ANDROID_RELRSZ = 0x6FFFE000, 0x6FFFE001
ANDROID_PACKED = (SHT_ANDROID_REL, SHT_ANDROID_RELA)
"""The tables that `elf_packed.unpack` reads."""

R_AARCH64_GLOB_DAT, R_AARCH64_JUMP_SLOT, R_AARCH64_RELATIVE = 1025, 1026, 1027
R_AARCH64_TLSDESC, R_AARCH64_IRELATIVE = 1031, 1032
R_AARCH64_NONE = (0, 256)
"""AAELF64 5.7.1: the type is 0, and was 256 in early drafts; loaders take both."""

_HEADER, SEGMENT, _SECTION = "16sHHIQQQIHHHHHH", "IIQQQQQQ", "IIQQQQIIQQ"
_SYMBOL, _RELA, _REL, _RELR, DYNAMIC = "IBBHQQ", "QQq", "QQ", "Q", "QQ"
HEADER_SIZE, SEGMENT_SIZE, _SECTION_SIZE, SYMBOL_SIZE, _RELA_SIZE, _REL_SIZE = 64, 56, 64, 24, 24, 16

_MOST_SECTIONS = 1 << 20
_MOST_SEGMENTS = 1 << 10
_MOST_TABLES = 1 << 10
_MOST_ENTRIES = 1 << 23
_MOST_ALIASES = 16
"""Names of one indirect function that its stubs get. A file may not make names times stubs of them."""
_MOST_PADDING = 1 << 16
"""The largest page, and so the largest room that a linker leaves before a section."""
_MOST_NOTE_BYTES = 1 << 24
_HIDDEN = 1 << 15
"""The bit of a version that is not the default: the number of a version has 15 bits (LSB, "Symbol Version Table")."""
_MOST_POINTER_BYTES = 1 << 24

# AAELF64 5.7, as runs of consecutive numbers.
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

# The types whose size differs from their neighbours': ABS16, PREL16; ABS64, PREL64, GOTREL64, AUTH_ABS64; TLSDESC.
_RELOCATION_SIZES = {0: 0, 256: 0, 259: 2, 262: 2, 257: 8, 260: 8, 307: 8, 580: 8, R_AARCH64_TLSDESC: 16}


LOW12_UNITS = {277: 1, 278: 1, 284: 2, 285: 4, 286: 8, 299: 16}
"""The bytes in one unit of the immediate for each type of R_AARCH64_ADD_ABS_LO12_NC and R_AARCH64_LDST_ABS_LO12_NC."""
R_AARCH64_ADD_ABS_LO12_NC = 277
"""For ADD, all others of `LOW12_UNITS` for loads and stores (AAELF64 5.7.6)."""

_PACKED_IN = {SHT_RELR: " (in a RELR table)"} | dict.fromkeys(ANDROID_PACKED, " (in a packed table)")
_LOCAL_WITHOUT_TYPE = STB_LOCAL << 4 | STT_NOTYPE


def _is_mapping_symbol(name: str, info: int) -> bool:
    # AAELF64 5.5.5: local symbols $x and $d, with or without a suffix, mark the start of code and data.
    return name[:2] in ("$x", "$d") and name[2:3] in ("", ".") and info == _LOCAL_WITHOUT_TYPE


def relocation_name(number: int) -> str:
    """The name that AAELF64 5.7 gives a relocation type: `R_AARCH64_CALL26` for 283."""
    for first, names in _RELOCATION_NAMES.items():
        run = names.split()
        if first <= number < first + len(run):
            return f"R_AARCH64_{run[number - first]}"
    return "R_AARCH64_NONE" if number in R_AARCH64_NONE else f"relocation type {number}"


def relocation_size(number: int) -> int:
    """The number of bytes that a relocation of this type overwrites (AAELF64 5.7): 2, 4, 8 or 16; 0 for none."""
    # All other types below 1024 are for instructions or 32-bit data. The dynamic types from 1024 on fill 64 bits.
    return _RELOCATION_SIZES.get(number, INSN_SIZE if number < 1024 else 8)


class Segment(NamedTuple):
    """A program header (gABI, "Program header"): offset in the file, addresses and sizes in bytes."""

    type: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    memory_size: int
    alignment: int


class Section(NamedTuple):
    """A section header (gABI, "Sections"). `name` is an offset in the table of names; sizes are in bytes."""

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
        """The section is part of the program and has bytes in the file."""
        return bool(self.flags & SHF_ALLOC) and self.type != SHT_NOBITS

    @property
    def executable(self) -> bool:
        """The section is part of the program and holds instructions."""
        return self.flags & (SHF_ALLOC | SHF_EXECINSTR) == SHF_ALLOC | SHF_EXECINSTR


class Table(NamedTuple):
    """A relocation table. Its relocations count from the address `base`, up to `limit` bytes."""

    type: int
    """SHT_RELA, SHT_REL, SHT_RELR, SHT_ANDROID_REL or SHT_ANDROID_RELA."""
    offset: int
    size: int
    base: int
    limit: int
    symbols: int
    """The number of the section with the table's symbols; 0 for none."""


class Relocation(NamedTuple):
    """One relocation. One entry of a RELR table may stand for many relocations."""

    table: Table
    entry: int
    """The entry's offset in the file; in a table of ANDROID_PACKED the number of the relocation, from 0."""
    type: int
    symbol: int
    """The number of the relocation's symbol; 0 for none."""
    addend: int | None
    """None when the addend is in the bytes that the relocation overwrites."""


class Referred(NamedTuple):
    """The place to which a field of a relocatable file refers."""

    address: int | None
    """None for a place that has no bytes in the file: in another file, or in a section like .bss."""
    home: int
    """The number of its section; SHN_UNDEF for a symbol of another file."""
    offset: int
    """Bytes from the start of the section, or from the symbol of another file."""
    strings: int = 0
    """The number of the section with the symbol's name, and the offset of the name there."""
    name_at: int = 0


class RelativeRun(NamedTuple):
    """The first `length` entries of a table. glibc applies them as R_AARCH64_RELATIVE, whatever their type."""

    offset: int
    entry_size: int
    length: int
    length_at: int
    """The offset of `length` in the file, a number of 8 bytes."""


class _Piece(NamedTuple):
    """The bytes of the addresses [start, end) are in the file from `offset` on."""

    start: int
    end: int
    offset: int


class _Strings:
    """A string table. It counts the bytes of all names it returns, so that overlapping names cannot fill the memory."""

    def __init__(self, image: ElfImage, start: int, end: int) -> None:
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
            raise self._image.bad("its names overlap too much to be real")
        name = self._image.data[start:end].decode("utf-8", "backslashreplace")
        if not name.isprintable():  # a file must not send control characters to a terminal
            name = name.encode("unicode_escape").decode("ascii")
        self._known[offset] = name
        return name


class _SymbolTable(NamedTuple):
    """A symbol table: `size` bytes at the file's `offset`."""

    section: int
    """The number of its section; 0 for the table that only PT_DYNAMIC names."""
    offset: int
    size: int
    room: int
    """The bytes from `offset` on in which a relocation's symbol may be. PT_DYNAMIC does not tell the size."""
    names: _Strings


class ElfImage:
    """The contents of an ELF file: ELFCLASS64, EM_AARCH64, either data endianness; ET_EXEC, ET_DYN or ET_REL.

    Addresses are the file's own virtual addresses, those of PT_LOAD segments. A relocatable file has no virtual
    addresses yet: there an address is an offset in the file (bytes). Ranges are [start, end).

    The constructor reads the headers; all other parts are read at their first use. When a part cannot be read or
    contradicts itself, FormatError names the file; every method may raise it.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name
        require_aarch64(data[:HEADER_SIZE], name)
        self.order = "<" if data[5] == 1 else ">"
        """The byte order of numbers in the file, as a `struct` prefix. Instructions are always little-endian."""
        _, self.type, _, _, self.entry, *header = struct.unpack_from(self.order + _HEADER, data)
        self._segments_at, self._sections_at, _, _, segment_size, segment_count, section_size, count, names = header
        self.relocatable: bool = self.type == ET_REL
        self._strings: dict[int, _Strings] = {}
        self._claimed: dict[Table, int] = {}
        self._unpacked_tables: dict[tuple[int, int, int], Unpacked] = {}
        self.sections: list[Section] = []
        if self._sections_at:
            if section_size != _SECTION_SIZE:
                raise self.bad(f"its section headers have {section_size} bytes, not {_SECTION_SIZE}")
            first = self._section(0)
            # gABI, "ELF header": section header 0 holds the numbers that do not fit.
            count = count or first.size
            names = first.link if names == SHN_XINDEX else names
            segment_count = first.info if segment_count == PN_XNUM else segment_count
            if count > _MOST_SECTIONS:
                raise self.bad(f"it claims {count} sections; no more than {_MOST_SECTIONS} can be read")
            self._require(self._sections_at, count * _SECTION_SIZE, "its section headers")
            self.sections = [self._section(index) for index in range(count)]
        elif segment_count == PN_XNUM:
            raise self.bad("the number of its program headers belongs in a section header, and it has none")
        self._names: int = names
        for index, section in enumerate(self.sections):
            if index and section.type not in (0, SHT_NOBITS):
                self._require(section.offset, section.size, f"section {index}")
        if segment_count > _MOST_SEGMENTS:
            raise self.bad(f"it claims {segment_count} program headers; no more than {_MOST_SEGMENTS} can be read")
        if segment_count and segment_size != SEGMENT_SIZE:
            raise self.bad(f"its program headers have {segment_size} bytes, not {SEGMENT_SIZE}")
        self.segments = [
            Segment(*self._unpack(SEGMENT, self._segments_at + index * SEGMENT_SIZE, f"program header {index}"))
            for index in range(segment_count)
        ]
        self._pieces = self._map()
        self._piece_starts = [piece.start for piece in self._pieces]

    def bad(self, problem: str) -> FormatError:
        """A FormatError with the file's name and this problem."""
        return FormatError(f"{self.name} is not a sound ELF file: {problem}")

    def _require(self, offset: int, size: int, what: str) -> None:
        if offset + size > len(self.data):
            raise self.bad(f"{what} at {offset:#x}, {size:#x} bytes, reaches beyond its end")

    def _unpack(self, layout: str, offset: int, what: str) -> tuple[Any, ...]:
        layout = self.order + layout
        self._require(offset, struct.calcsize(layout), what)
        return struct.unpack_from(layout, self.data, offset)

    def _entries(self, layout: str, offset: int, size: int) -> Iterator[tuple[Any, ...]]:
        layout = self.order + layout
        if size % struct.calcsize(layout):
            raise self.bad(f"the table at {offset:#x}, {size:#x} bytes, is not a whole number of entries")
        return struct.iter_unpack(layout, memoryview(self.data)[offset : offset + size])

    def _section(self, index: int) -> Section:
        offset = self._sections_at + index * _SECTION_SIZE
        return Section(*self._unpack(_SECTION, offset, f"section header {index}"))

    def _section_for(self, index: int, what: str) -> Section:
        if index >= len(self.sections):
            raise self.bad(f"{what} refers to section {index}, which does not exist")
        return self.sections[index]

    def _strings_of(self, index: int) -> _Strings:
        if index not in self._strings:
            section = self._section_for(index, "a name")
            if section.type != SHT_STRTAB:
                raise self.bad(f"section {index} is used as a string table but is none")
            self._strings[index] = _Strings(self, section.offset, section.offset + section.size)
        return self._strings[index]

    @cached_property
    def is_debug_file(self) -> bool:
        """Whether the file has the section headers of code, but the code of none: the bytes are in another file.

        `strip --only-keep-debug` and `eu-strip -f` make such files. They make SHT_NOBITS of each section of the program
        but notes. Offsets in their section headers and program headers may be those of the other file.
        """
        code = [section for section in self.sections if section.executable and section.size]
        return bool(code) and not any(section.mapped for section in code)

    def require_code(self) -> None:
        """FormatError for a debug file."""
        if self.is_debug_file:
            raise FormatError(
                f"{self.name} is a debug file, which holds names but no code: open the program itself (--symbols takes"
                " names from a debug file)"
            )

    def section_name(self, section: Section) -> str:
        """The name of a section; empty in a file without section names."""
        return self._strings_of(self._names).at(section.name) if self._names else ""

    def _map(self) -> list[_Piece]:
        if self.relocatable:
            mapped = Ranges.of((s.offset, s.offset + s.size) for s in self.sections if s.mapped)
            return [_Piece(start, end, start) for start, end in mapped]
        pieces: list[_Piece] = []
        if self.is_debug_file:
            return pieces
        for load in sorted(self.loads, key=lambda load: load.address):
            end = load.address + load.file_size
            if load.file_size > load.memory_size or load.address + load.memory_size > ADDRESS_SPACE:
                raise self.bad(f"the segment at address {load.address:#x} has impossible sizes")
            if not load.file_size:  # GNU ld may give such a segment an offset beyond the end of the file
                continue
            self._require(load.offset, load.file_size, f"the segment at address {load.address:#x}")
            last = pieces[-1] if pieces else None
            if last is not None and load.address < last.end:
                if load.address - load.offset != last.start - last.offset:
                    raise self.bad(f"two segments map address {load.address:#x} to different places of the file")
                pieces[-1] = last._replace(end=max(end, last.end))
            else:
                pieces.append(_Piece(load.address, end, load.offset))
        return pieces

    @property
    def loads(self) -> list[Segment]:
        """The PT_LOAD segments, as the file has them."""
        return [segment for segment in self.segments if segment.type == PT_LOAD]

    def piece_at(self, address: int) -> tuple[int, int, int] | None:
        """The longest range [start, end) with the address whose bytes are contiguous in the file, and its offset."""
        index = bisect_right(self._piece_starts, address) - 1
        return self._pieces[index] if index >= 0 and address < self._pieces[index].end else None

    def chunks(self, address: int, size: int) -> list[tuple[int, int]] | None:
        """The (file offset, size) of these addresses' bytes, in order; None when a byte is not in the file."""
        chunks = []
        while size > 0:
            piece = self.piece_at(address)
            if piece is None:
                return None
            start, end, offset = piece
            length = min(size, end - address)
            chunks.append((offset + address - start, length))
            address, size = address + length, size - length
        return chunks

    @cached_property
    def executable(self) -> Ranges:
        """The executable addresses. In a linked file, those in executable segments that are

        - in a section with SHF_EXECINSTR; or
        - in no section, and no header or relocation table: tools that patch files add code without a section header.
          Room before a section is padding, and does not count, when it is smaller than the section's alignment or
          holds zeros only. GNU ld leaves up to a page of zeros behind the headers.

        In a file without executable sections, all of the executable segments. In a file without segments (ET_REL), the
        sections.
        """
        sections = [section for section in self.sections if section.executable]
        if self.relocatable:
            return Ranges.of((section.offset, section.offset + section.size) for section in sections if section.mapped)
        segments = Ranges.of(
            (load.address, load.address + load.memory_size) for load in self.loads if load.flags & PF_X
        )
        if not sections:
            return segments
        # One executable segment often holds headers and constants too.
        found = segments & Ranges.of((section.address, section.address + section.size) for section in sections)
        if self.is_debug_file:  # its headers may be those of the other file
            return found
        # .tbss has a size, but no place of its own in memory (gABI, SHF_TLS).
        covered = Ranges.of(
            (section.address, section.address + section.size)
            for section in self.sections
            if section.flags & SHF_ALLOC and not (section.flags & SHF_TLS and section.type == SHT_NOBITS)
        )
        aligned: dict[int, int] = {}
        for section in self.sections:
            aligned[section.address] = max(aligned.get(section.address, 0), min(section.alignment, _MOST_PADDING))
        added = self._without_structure(segments - covered)
        return found | Ranges.of(
            (start, end)
            for start, end in added
            if end not in aligned or (end - start >= aligned[end] and self._bytes(start, end).strip(b"\0"))
        )

    def _bytes(self, start: int, end: int) -> bytes:
        chunks = self.chunks(start, end - start) or ()
        return b"".join(self.data[offset : offset + size] for offset, size in chunks)

    @cached_property
    def code(self) -> Ranges:
        """The part of `executable` with bytes in the file, without headers and relocation tables."""
        ranges = self.executable
        if not self.relocatable:
            empty = [section for section in self.sections if section.executable and not section.mapped]
            ranges -= Ranges.of((section.address, section.address + section.size) for section in empty)
            loads = [load for load in self.loads if load.flags & PF_X]
            ranges &= Ranges.of((load.address, load.address + load.file_size) for load in loads)
        return self._without_structure(ranges)

    def _without_structure(self, ranges: Ranges) -> Ranges:
        """The part of the ranges that holds neither headers nor relocation tables; without what is not in the file."""
        structure = Ranges.of(
            [
                (0, HEADER_SIZE),
                (self._segments_at, self._segments_at + SEGMENT_SIZE * len(self.segments)),
                (self._sections_at, self._sections_at + _SECTION_SIZE * len(self.sections)),
                *self._left_tables(),
                *((table.offset, table.offset + table.size) for table in self.tables),
            ]
        )
        found = []
        for start, end in ranges:
            for offset, length in self.chunks(start, end - start) or ():
                distance = start - offset
                left = Ranges(((offset, offset + length),)) - structure
                found += [(first + distance, last + distance) for first, last in left]
                start += length
        return Ranges.of(found)

    def _left_tables(self) -> Iterator[tuple[int, int]]:
        """The tables of program headers that a tool left when it made a longer one elsewhere.

        They are behind the ELF header, where linkers put them, or as in `table_in`, and begin with the types and flags
        of the table.
        """
        places = {HEADER_SIZE: HEADER_SIZE} | {table_in(load): load.offset for load in self.loads if load.flags & PF_X}
        for end, start in places.items():
            table = end
            for segment in self.segments:
                if self.data[end : end + 8] != struct.pack(self.order + "II", segment.type, segment.flags):
                    break
                end += SEGMENT_SIZE
            if end > table:
                yield start, end

    # Relocations

    @cached_property
    def _dynamic(self) -> dict[int, tuple[int, int]]:
        """PT_DYNAMIC: tag -> (value, file offset of the value). Empty for a relocatable file, which is not loaded."""
        found: dict[int, tuple[int, int]] = {}
        for segment in self.segments:
            if segment.type != PT_DYNAMIC or self.relocatable or self.is_debug_file:
                continue
            self._require(segment.offset, segment.file_size, "its dynamic segment")
            if found or segment.file_size > 1 << 20:
                raise self.bad("it has a second dynamic segment or one of more than 1 MiB")
            for index, (tag, value) in enumerate(self._entries(DYNAMIC, segment.offset, segment.file_size)):
                if tag == DT_NULL:
                    break
                found[tag] = value, segment.offset + 16 * index + 8
        return found

    @cached_property
    def tables(self) -> list[Table]:
        """The relocation tables that will be applied: in ET_REL by a linker, only those of code; else by a loader."""
        tables = []
        units = {SHT_RELA: _RELA_SIZE, SHT_REL: _REL_SIZE, SHT_RELR: 8, SHT_ANDROID_RELR: 8}
        units |= dict.fromkeys(ANDROID_PACKED, 1)
        for index, section in enumerate(self.sections):
            if section.type == SHT_CREL:
                raise FormatError(
                    f"{self.name} has compressed relocations (section {index}), which cannot be read: "
                    f"build it without them"
                )
            if section.type not in units or not (self.relocatable or section.flags & SHF_ALLOC):
                continue
            if section.entry_size != units[section.type]:
                raise self.bad(f"the entries of relocation section {index} have {section.entry_size} bytes")
            kind = SHT_RELR if section.type == SHT_ANDROID_RELR else section.type
            base, limit = 0, ADDRESS_SPACE
            if self.relocatable:
                target = self._section_for(section.info, f"relocation section {index}")
                if not (target.executable and target.mapped) or kind == SHT_RELR or kind in ANDROID_PACKED:
                    continue
                base, limit = target.offset, target.size
            symbols = 0 if kind == SHT_RELR else section.link
            tables.append(Table(kind, section.offset, section.size, base, limit, symbols))
        if not self.relocatable:
            packed = {table[:3] for table in tables if table.type in ANDROID_PACKED}
            tables = list(dict.fromkeys([*tables, *(each for each in self.dynamic_tables if each[:3] not in packed)]))
            if len(tables) > _MOST_TABLES:
                raise self.bad(f"it has {len(tables)} relocation tables, more than the {_MOST_TABLES} that can be read")
        return self._bounded(tables)

    @cached_property
    def dynamic_tables(self) -> list[Table]:
        """The relocation tables that PT_DYNAMIC names (gABI, "Dynamic section"). A loader uses these."""
        tables = []
        plt = self._dynamic.get(DT_PLTREL, (DT_RELA, 0))[0]
        for kind, start, length in (
            (SHT_RELA, DT_RELA, DT_RELASZ),
            (SHT_REL, DT_REL, DT_RELSZ),
            (SHT_REL if plt == DT_REL else SHT_RELA, DT_JMPREL, DT_PLTRELSZ),
            (SHT_RELR, DT_RELR, DT_RELRSZ),
            (SHT_ANDROID_REL, DT_ANDROID_REL, DT_ANDROID_RELSZ),
            (SHT_ANDROID_RELA, DT_ANDROID_RELA, DT_ANDROID_RELASZ),
            (SHT_RELR, DT_ANDROID_RELR, DT_ANDROID_RELRSZ),
        ):
            if start in self._dynamic:
                address, size = self._dynamic[start][0], self._dynamic.get(length, (0, 0))[0]
                chunks = self.chunks(address, size)
                if chunks is None or len(chunks) > 1:
                    raise self.bad(f"its relocation table at address {address:#x}, {size:#x} bytes, is not mapped")
                tables += [Table(kind, offset, size, 0, ADDRESS_SPACE, 0) for offset, _ in chunks]
        return self._bounded(tables)

    def _bounded(self, tables: list[Table]) -> list[Table]:
        # 8 bytes of a RELR table may hold 63 relocations.
        for packed, most in ((False, _MOST_ENTRIES * _RELA_SIZE), (True, _MOST_ENTRIES)):
            if sum(table.size for table in tables if (table.type == SHT_RELR) == packed) > most:
                raise self.bad("its relocation tables are larger than can be read")
        for table in tables:
            if table.type in ANDROID_PACKED and table not in self._claimed:
                try:
                    self._claimed[table] = claimed(self.data[table.offset : table.offset + min(table.size, 16)])
                except PackedError as error:
                    raise self._bad_packed(table, error) from error
        if sum(self._claimed.get(table, 0) for table in tables) > MOST_RELOCATIONS:
            raise self.bad(f"it claims more packed relocations than the {MOST_RELOCATIONS} that can be read")
        return tables

    def _bad_packed(self, table: Table, error: PackedError) -> FormatError:
        return self.bad(f"in the packed relocation table at {table.offset:#x}, {table.size:#x} bytes: {error}")

    def _unpacked(self, table: Table) -> Unpacked:
        """The relocations of a table of ANDROID_PACKED."""
        found = self._unpacked_tables.get(table[:3])
        if found is None:
            data = self.data[table.offset : table.offset + table.size]
            try:
                found = unpack(data, with_addends=table.type == SHT_ANDROID_RELA)
            except PackedError as error:
                raise self._bad_packed(table, error) from error
            self._unpacked_tables[table[:3]] = found
        return found

    def relative_runs(self) -> list[RelativeRun]:
        """The runs of DT_RELACOUNT and DT_RELCOUNT (glibc, elf/do-rel.h)."""
        runs = []
        for start, tag, unit in ((DT_RELA, DT_RELACOUNT, _RELA_SIZE), (DT_REL, DT_RELCOUNT, _REL_SIZE)):
            if start in self._dynamic and tag in self._dynamic:
                chunks = self.chunks(self._dynamic[start][0], 1) or ()
                runs += [RelativeRun(offset, unit, *self._dynamic[tag]) for offset, _ in chunks]
        return runs

    def relocations(self, table: Table) -> Iterator[tuple[int, Relocation]]:
        """All relocations of a table, in its order, each with the address of the first byte that it overwrites."""
        for entry, place, _ in self._places(table):
            yield place, self._relocation(table, entry)

    def pointers_in(self, name: str) -> Iterator[tuple[bytes, dict[int, int]]]:
        """For each section of this name in a relocatable file: its bytes, and the addresses to which its fields refer.

        The addresses are by the offset of the field in the section. A symbol in no section of the file gives none.
        """
        for data, referred in self.referred_in(name):
            yield data, {at: each.address for at, each in referred.items() if each.address is not None}

    def referred_in(self, name: str) -> Iterator[tuple[bytes, dict[int, Referred]]]:
        """For each section of this name in a relocatable file: its bytes, and the places to which its fields refer.

        The places are by the offset of the field in the section. An absolute symbol gives none.
        """
        homes = self._homes() if self.relocatable else []
        found = {number: home for number, home in enumerate(homes) if home is not None and home.name == name}
        tables = [section for section in self.sections if section.type == SHT_RELA and section.info in found]
        size = sum(home.end - home.start for home in found.values()) + sum(table.size for table in tables)
        if size > _MOST_POINTER_BYTES:
            raise self.bad(f"{name} and its relocations have {size} bytes, more than can be read")
        referred: dict[int, dict[int, Referred]] = {number: {} for number in found}
        for table in tables:
            referred[table.info].update(self._referred(table, found[table.info], homes))
        for number, home in found.items():
            yield self.data[home.start : home.end], referred[number]

    def _referred(self, section: Section, of: Space, homes: list[Space | None]) -> Iterator[tuple[int, Referred]]:
        table = self._section_for(section.link, "a relocation section")
        for place, info, addend in self._entries(_RELA, section.offset, section.size):
            at = SYMBOL_SIZE * (info >> 32)
            if table.type != SHT_SYMTAB or at + SYMBOL_SIZE > table.size or place >= of.end - of.start:
                raise self.bad(f"a relocation of {of.name} lies outside it, or has a symbol that does not exist")
            name_at, _, _, home, value, _ = self._unpack(_SYMBOL, table.offset + at, "a symbol")
            if home == SHN_XINDEX:
                home = self._extended_index(section.link, info >> 32)
            elif home >= SHN_LORESERVE:
                continue
            space = homes[home] if home < len(homes) else None
            offset = value + addend
            address = None if space is None else space.start + offset
            yield place, Referred(address, home, offset, table.link, name_at)

    def name_of(self, place: Referred) -> str:
        """A place without an address, as a SITE: `symbol+0x8`, or `.bss:0x10` where no symbol of the section holds it.

        FormatError when the file's symbols are not sound.
        """
        if place.home == SHN_UNDEF:
            return site_text(self._strings_of(place.strings).at(place.name_at), offset=max(0, place.offset))
        for start, size, name in self._unmapped_symbols.get(place.home, ()):
            if start <= place.offset < start + max(size, 1):
                return site_text(name, offset=place.offset - start)
        section = self._section_for(place.home, "a relocation's symbol")
        return f"{quoted(self.section_name(section))}:{place.offset:#x}"

    @cached_property
    def _unmapped_symbols(self) -> dict[int, list[tuple[int, int, str]]]:
        """(offset, bytes, name) of the variables in each section that has no bytes in the file, by its number."""
        found: dict[int, list[tuple[int, int, str]]] = {}
        for index, start, length, _, names in self._symbol_tables():
            for number, (name_at, info, _, home, value, size) in enumerate(self._entries(_SYMBOL, start, length)):
                home = self._extended_index(index, number) if home == SHN_XINDEX else home
                is_variable = name_at and info & 15 in (STT_NOTYPE, STT_OBJECT)
                if not (is_variable and 0 < home < len(self.sections)) or self.sections[home].mapped:
                    continue
                name = names.at(name_at)
                if not _is_mapping_symbol(name, info):
                    found.setdefault(home, []).append((value, size, name))
        return found

    def _relocation(self, table: Table, entry: int) -> Relocation:
        if table.type == SHT_RELR:
            return Relocation(table, entry, R_AARCH64_RELATIVE, 0, None)
        if table.type in ANDROID_PACKED:
            _, infos, addends = self._unpacked(table)
            number = addends[entry] - (addends[entry] >> 63 << 64) if table.type == SHT_ANDROID_RELA else None
            return Relocation(table, entry, infos[entry] & 0xFFFFFFFF, infos[entry] >> 32, number)
        _, info, *addend = self._unpack(_RELA if table.type == SHT_RELA else _REL, entry, "a relocation")
        return Relocation(table, entry, info & 0xFFFFFFFF, info >> 32, addend[0] if addend else None)

    def _places(self, table: Table) -> Iterator[tuple[int, int, int]]:
        """(`Relocation.entry`, address, number of bytes overwritten) of each relocation; maybe millions."""
        if table.type == SHT_RELR:
            yield from self._packed_places(table)
            return
        if table.type in ANDROID_PACKED:
            places, infos, _ = self._unpacked(table)
            for number, (place, info) in enumerate(zip(places, infos, strict=True)):
                yield number, place, relocation_size(info & 0xFFFFFFFF)
            return
        layout, unit = (_RELA, _RELA_SIZE) if table.type == SHT_RELA else (_REL, _REL_SIZE)
        offset, base, limit = table.offset, table.base, table.limit
        for entry in self._entries(layout, table.offset, table.size):
            size = relocation_size(entry[1] & 0xFFFFFFFF)
            if entry[0] + size > limit and size:
                raise self.bad(f"the relocation at {offset:#x} lies outside its section")
            yield offset, base + entry[0], size
            offset += unit

    def _packed_places(self, table: Table) -> Iterator[tuple[int, int, int]]:
        # gABI, "Relative relocation table": an even entry is an address, an odd entry a bitmap of the next 63 words.
        place = 0
        for index, (entry,) in enumerate(self._entries(_RELR, table.offset, table.size)):
            offset = table.offset + 8 * index
            if entry & 1 == 0:
                yield offset, entry, 8
                place = entry + 8
                continue
            if not place:
                raise self.bad(f"the RELR table at {table.offset:#x} begins with a bitmap")
            for bit in range(63):
                if entry >> bit & 2:
                    yield offset, place + 8 * bit, 8
            place += 63 * 8

    @cached_property
    def _owners(self) -> dict[int, list[int]]:
        """Address of a word of code -> the relocations that own it, each table number << 32 | `Relocation.entry`."""
        owners: dict[int, list[int]] = {}
        if not self.code:
            return owners
        low, high = self.code.spans[0][0] - 16, self.code.spans[-1][1]
        seen: set[int] = set()
        count = 0
        for number, table in enumerate(self.tables):
            for entry, place, size in self._places(table):
                if not low < place < high or size == 0:
                    continue
                if not self.relocatable and table.type in (SHT_RELA, SHT_REL):
                    if entry in seen:  # PT_DYNAMIC names the tables of sections again
                        continue
                    seen.add(entry)
                count += 1
                if count > _MOST_ENTRIES // 2:
                    raise self.bad("it has more relocations of code than can be read")
                for word in range(place & -INSN_SIZE, place + size, INSN_SIZE):
                    owners.setdefault(word, []).append(number << 32 | entry)
        return owners

    def owners(self, word: int) -> list[Relocation]:
        """The relocations that overwrite some of the 4 bytes at `word`, a multiple of 4; none outside of code."""
        keys = self._owners.get(word, ())
        return [self._relocation(self.tables[key >> 32], key & 0xFFFFFFFF) for key in keys]

    def describe(self, relocation: Relocation) -> str:
        """A relocation for people, by type and symbol: `R_AARCH64_CALL26 against printk`."""
        text = relocation_name(relocation.type)
        if relocation.symbol:
            text += f" against {self._symbol_name(relocation)}"
            if relocation.addend:
                text += f"{relocation.addend:+#x}"
        elif relocation.addend:
            text += f" to {relocation.addend:#x}"
        return text + _PACKED_IN.get(relocation.table.type, "")

    def _symbol_name(self, relocation: Relocation) -> str:
        return self._name_of_symbol(relocation) or f"symbol number {relocation.symbol}"

    def _name_of_symbol(self, relocation: Relocation) -> str:
        """The name of a relocation's symbol; empty when it has none, or when the file does not say."""
        number = relocation.symbol
        index = relocation.table.symbols
        if index:
            section = self._section_for(index, "a relocation table")
            table = self._symbol_table(index, section) if section.type in (SHT_SYMTAB, SHT_DYNSYM) else None
        else:
            table = self._dynamic_symbols
        if table is None or not number or SYMBOL_SIZE * (number + 1) > table.room:
            return ""
        name, info, _, home, _, _ = self._unpack(_SYMBOL, table.offset + SYMBOL_SIZE * number, "a symbol")
        if info & 15 == STT_SECTION and home < len(self.sections):
            return self.section_name(self.sections[home]) or f"section {home}"
        return table.names.at(name)

    # Names

    def names(self, *, absolute: bool = True) -> list[Symbol]:
        """`symbols`, and a name for each stub that jumps to a function by way of a relocated slot (PLT entry).

        - `abort@plt`: the loader puts the address of `abort` into the slot (R_AARCH64_JUMP_SLOT, R_AARCH64_GLOB_DAT).
        - `memcpy@plt`: the loader calls the function at the address of `memcpy`, and puts its result into the slot
          (R_AARCH64_IRELATIVE). The name is that of each indirect function (STT_GNU_IFUNC) at this address, else of
          each function. A stub has no name when the address has none.

        objdump gives the first kind the same names. A stub is known by its code and its slot (`find_stubs`), not by its
        place: linkers lay a PLT out in different ways. A section that holds a function with a size is not searched.
        """
        listed = list(self._listed(absolute))
        found = [symbol for symbol, _ in listed]
        return list(dict.fromkeys([*found, *self._stubs(listed)]))

    def symbols(self, *, absolute: bool = True) -> list[Symbol]:
        """The symbols of .symtab and .dynsym, without section, file and mapping symbols and symbols without an address.

        With `absolute`, also symbols that are numbers and not addresses (gABI, "Symbol table", SHN_ABS). A relocatable
        file gives no absolute symbols; in it `Symbol.module` is the symbol's section.

        `Symbol.file` of a local symbol is the name of the last STT_FILE symbol before it (gABI, "Symbol Table",
        STT_FILE). Global symbols come after all local ones, and so say nothing about their file. GNU ld puts an
        STT_FILE without a name before local symbols of its own (bfd/elflink.c): these have no file.

        A library may have one name in several versions. The name alone stands for the default version. Another version
        is `name@VERSION`, if the library has this name at several addresses. GNU ld writes .symtab in the same way.
        """
        return list(dict.fromkeys(symbol for symbol, _ in self._listed(absolute)))

    def _symbol_tables(self) -> list[_SymbolTable]:
        """.symtab and .dynsym. A file without a section for .dynsym has the table that PT_DYNAMIC names."""
        found = [(index, s) for index, s in enumerate(self.sections) if s.type in (SHT_SYMTAB, SHT_DYNSYM)]
        kinds = {section.type for _, section in found}
        if len(kinds) < len(found):
            raise self.bad("it has two symbol tables of one kind")  # gABI, "Sections": one of each
        tables = [self._symbol_table(index, section) for index, section in found]
        if SHT_DYNSYM not in kinds and self._dynamic_symbols is not None:
            tables.append(self._dynamic_symbols)
        if sum(table.size for table in tables) > _MOST_ENTRIES * SYMBOL_SIZE:
            raise self.bad(f"it has more than {_MOST_ENTRIES} symbols, which cannot be read")
        return tables

    def _symbol_table(self, index: int, section: Section) -> _SymbolTable:
        if section.entry_size != SYMBOL_SIZE:
            raise self.bad(f"the entries of symbol table {index} have {section.entry_size} bytes, not 24")
        return _SymbolTable(index, section.offset, section.size, section.size, self._strings_of(section.link))

    @cached_property
    def _dynamic_symbols(self) -> _SymbolTable | None:
        """The symbol table that PT_DYNAMIC names; None without one.

        No entry of PT_DYNAMIC tells its length, but a hash table does (gABI, "Hash Table"). Without a hash table the
        length is 0: a loader finds none of the symbols by name.
        """
        values = {tag: value for tag, (value, _) in self._dynamic.items()}
        if not {DT_SYMTAB, DT_STRTAB} <= values.keys():
            return None
        if values.get(DT_SYMENT, SYMBOL_SIZE) != SYMBOL_SIZE:
            raise self.bad(f"the entries of its dynamic symbol table have {values[DT_SYMENT]} bytes, not 24")
        count = 0
        if DT_HASH in values:
            # The number of buckets, the number of symbols.
            _, count = self._unpack("II", self._offset_of(values[DT_HASH], 8, "its hash table"), "its hash table")
        elif DT_GNU_HASH in values:
            count = self._count_by_gnu_hash(values[DT_GNU_HASH])
        start, size = values[DT_SYMTAB], count * SYMBOL_SIZE
        offset = self._offset_of(start, size, "its dynamic symbol table")
        size_of_names = values.get(DT_STRSZ, 0)
        names = self._offset_of(values[DT_STRTAB], size_of_names, "its dynamic string table")
        piece = self.piece_at(start)
        room = piece[1] - start if piece else 0
        return _SymbolTable(0, offset, size, room, _Strings(self, names, names + size_of_names))

    def _offset_of(self, address: int, size: int, what: str) -> int:
        """Where the file has `size` bytes of memory, in one piece."""
        piece = self.piece_at(address)
        if piece is None or address + size > piece[1]:
            raise self.bad(f"{what} at address {address:#x}, {size:#x} bytes, is not mapped")
        return piece[2] + address - piece[0]

    def _count_by_gnu_hash(self, address: int) -> int:
        """The number of symbols in a table that DT_GNU_HASH sorts.

        The symbols of a bucket follow each other, and the table ends with those of the last bucket. A bit of the last
        symbol's hash tells the end (binutils, elflink.c, elf_gnu_hash_process_symidx()).
        """
        what = "its GNU hash table"
        buckets, first, bloom, _ = self._unpack("4I", self._offset_of(address, 16, what), what)
        chains = address + 16 + 8 * bloom + 4 * buckets
        offset = self._offset_of(chains - 4 * buckets, 4 * buckets, what)
        last = max((bucket for (bucket,) in self._entries("I", offset, 4 * buckets)), default=0)
        if last < first:
            return int(first)
        place = self._offset_of(chains + 4 * (last - first), 4, what)
        for number, (value,) in enumerate(self._entries("I", place, (len(self.data) - place) & -4), int(last) + 1):
            if value & 1:
                return number
        raise self.bad("a chain of its GNU hash table does not end")

    def _limits(self) -> Callable[[int, int], int]:
        """A function of the number of a symbol's section and of its address: the end of what it may name.

        A file without section headers has segments only.
        """
        ends = [section.address + section.size for section in self.sections]
        loads = [] if ends else sorted((load.address, load.address + load.memory_size) for load in self.loads)
        starts = [start for start, _ in loads]

        def limit(home: int, address: int) -> int:
            if home < len(ends):
                return ends[home]
            place = bisect_right(starts, address) - 1
            return loads[place][1] if place >= 0 and address < loads[place][1] else ADDRESS_SPACE

        return limit

    def _listed(self, absolute: bool) -> Iterator[tuple[Symbol, int]]:
        """`symbols` with their types, in the order of the tables: a symbol of both tables twice."""
        tables = self._symbol_tables()
        homes = self._homes() if self.relocatable and tables else []
        limit_of = self._limits()
        for table in tables:
            index, start, length, _, names = table
            versioned = self._versioned(table)
            source = ""
            for number, entry in enumerate(self._entries(_SYMBOL, start, length)):
                offset, info, _, home, value, size = entry
                kind = info & 15
                if kind == STT_FILE:
                    source = names.at(offset) if offset else ""
                if home in (SHN_UNDEF, SHN_COMMON) or kind in (STT_SECTION, STT_FILE, STT_TLS) or not offset:
                    continue
                name = versioned.get(number) or names.at(offset)
                if _is_mapping_symbol(name, info):
                    continue
                is_function = kind in (STT_FUNC, STT_GNU_IFUNC)
                file = source if info >> 4 == STB_LOCAL else ""
                if home == SHN_XINDEX:
                    home = self._extended_index(index, number)
                elif home >= SHN_LORESERVE:
                    if absolute and not self.relocatable:
                        # A number belongs to no section, so it names no address but its own.
                        yield Symbol(name, value, size, "", is_function, value + size, file), kind
                    continue
                if not self.relocatable:
                    yield Symbol(name, value, size, "", is_function, limit_of(home, value), file), kind
                    continue
                if home >= len(homes):
                    raise self.bad(f"symbol {number} lies in section {home}, which does not exist")
                place = homes[home]
                if place is not None and value <= place.end - place.start:
                    yield Symbol(name, place.start + value, size, place.name, is_function, place.end, file), kind

    def _versioned(self, table: _SymbolTable) -> dict[int, str]:
        """The names with a version that `symbols` gives, by the number of the symbol. Only .dynsym has versions.

        Versions that cannot be read are none.
        """
        count = table.size // SYMBOL_SIZE
        start, symbols = (self._dynamic.get(tag, (ADDRESS_SPACE, 0))[0] for tag in (DT_VERSYM, DT_SYMTAB))
        if self.chunks(symbols, table.size) != [(table.offset, table.size)]:
            return {}
        found = self.chunks(start, 2 * count) or []
        versions = [version for offset, size in found[:1] for (version,) in self._entries("H", offset, size & -2)]
        if len(versions) < count:
            return {}
        places: dict[str, set[int]] = {}
        hidden: dict[int, tuple[str, int]] = {}
        for number, entry in enumerate(self._entries(_SYMBOL, table.offset, table.size)):
            offset, _, _, home, value, _ = entry
            if home != SHN_UNDEF and offset and versions[number] > 1:
                name = table.names.at(offset)
                places.setdefault(name, set()).add(value)
                if versions[number] & _HIDDEN:
                    hidden[number] = name, versions[number] & ~_HIDDEN
        ambiguous = {number: (name, version) for number, (name, version) in hidden.items() if len(places[name]) > 1}
        defined = self._versions(table.names) if ambiguous else {}
        return {
            number: f"{name}@{defined[version]}" for number, (name, version) in ambiguous.items() if version in defined
        }

    def _versions(self, names: _Strings) -> dict[int, str]:
        """The names of the versions that the file defines, by number (LSB, "Version Definition Section")."""
        address = self._dynamic.get(DT_VERDEF, (ADDRESS_SPACE, 0))[0]
        found: dict[int, str] = {}
        for _ in range(min(self._dynamic.get(DT_VERDEFNUM, (0, 0))[0], _HIDDEN)):
            piece = self.piece_at(address)
            if piece is None or address + 20 > piece[1]:
                break
            _, _, version, parts, _, name_at, following = self._unpack("HHHHIII", piece[2] + address - piece[0], "")
            chunks = self.chunks(address + name_at, 4)
            if parts and chunks and len(chunks) == 1:
                [name_at] = self._unpack("I", chunks[0][0], "")
                with suppress(FormatError):
                    found[version] = names.at(name_at)
            if not following:
                break
            address += following
        return found

    def _stubs(self, listed: Iterable[tuple[Symbol, int]]) -> Iterator[Symbol]:
        """The names of stubs. `listed` are the file's symbols and their types."""
        slots = {} if self.relocatable else self._slots(listed)
        if not slots:
            return
        from a64patch.a64.stubs import find_stubs  # loaded only for a file that has slots

        full = {symbol.limit for symbol, _ in listed if symbol.is_function and symbol.size}
        passed = Ranges.of(
            (section.address, section.address + section.size)
            for section in self.sections
            if section.executable and section.mapped and section.address + section.size in full
        )
        for start, end in (self.code - passed).whole(INSN_SIZE):
            for stub in find_stubs(self._bytes(start, end), start):
                for name in slots.get(stub.slot, ()):
                    yield Symbol(f"{name}@plt", stub.start, stub.end - stub.start, limit=end)

    def _slots(self, listed: Iterable[tuple[Symbol, int]]) -> dict[int, list[str]]:
        """The slots that the loader fills with the address of a function: address -> names of the function."""
        relative = {run.offset: run.entry_size * run.length for run in self.relative_runs()}
        slots: dict[int, list[str]] = {}
        indirect: dict[int, list[int]] = {}
        """Address of an indirect function -> its slots."""
        done = Ranges()
        for table in self.tables:
            whole = Ranges(((table.offset, table.offset + table.size),))
            if table.type == SHT_RELR or done.covers(*whole.spans[0]):  # PT_DYNAMIC names the tables of sections again
                continue
            done |= whole
            # There may be millions of relative relocations, and they fill no slot.
            skipped = min(relative.get(table.offset, 0), table.size)
            rest = table._replace(offset=table.offset + skipped, size=table.size - skipped)
            for place, relocation in self.relocations(rest):
                if relocation.type in (R_AARCH64_JUMP_SLOT, R_AARCH64_GLOB_DAT):
                    if name := self._name_of_symbol(relocation):
                        slots[place] = [name]  # of several relocations, the loader's last one wins
                elif relocation.type == R_AARCH64_IRELATIVE and relocation.addend is not None:
                    indirect.setdefault(relocation.addend % ADDRESS_SPACE, []).append(place)
        if indirect:
            functions: dict[int, list[tuple[bool, str]]] = {}
            for symbol, kind in listed:
                if symbol.is_function and symbol.address in indirect:
                    functions.setdefault(symbol.address, []).append((kind == STT_GNU_IFUNC, symbol.name))
            for address, names in functions.items():
                best = max(names)[0]
                aliases = sorted({name for is_indirect, name in names if is_indirect == best})[:_MOST_ALIASES]
                slots |= dict.fromkeys(indirect[address], aliases)
        return slots

    def imported_slots(self) -> dict[str, int]:
        """The slots that the loader fills with the address of a symbol of another file, by the symbol's name.

        Only R_AARCH64_GLOB_DAT: a slot of R_AARCH64_JUMP_SLOT may hold another address until the first call.
        """
        return {} if self.relocatable else {
            name: place
            for table in self.tables
            if table.type in (SHT_RELA, SHT_REL)
            for place, relocation in self.relocations(table)
            if relocation.type == R_AARCH64_GLOB_DAT and (name := self._name_of_symbol(relocation))
        }  # fmt: skip

    def section_at(self, address: int) -> int | None:
        """The number of the section with the byte at this address of a relocatable file; None in no loaded section.

        Where sections of a damaged file overlap, it is the one that starts last.
        """
        place = bisect_right(self.section_starts, address) - 1
        if place < 0:
            return None
        number = self._mapped_numbers[place]
        section = self.sections[number]
        return number if section.offset <= address < section.offset + section.size else None

    @cached_property
    def section_starts(self) -> list[int]:
        """The offsets of the sections that are loaded, ascending."""
        return [self.sections[number].offset for number in self._mapped_numbers]

    @cached_property
    def _mapped_numbers(self) -> list[int]:
        mapped = (number for number, section in enumerate(self.sections) if section.mapped and section.size)
        return sorted(mapped, key=lambda number: self.sections[number].offset)

    def unplaced_names(self) -> frozenset[str]:
        """The names of a relocatable file that have no address in it: of another file, or in a section like .bss."""
        found: set[str] = set()
        for index, start, length, _, names in self._symbol_tables() if self.relocatable else ():
            for number, (name_at, info, _, home, _, _) in enumerate(self._entries(_SYMBOL, start, length)):
                home = self._extended_index(index, number) if home == SHN_XINDEX else home
                if not name_at or home == SHN_ABS or info & 15 in (STT_SECTION, STT_FILE, STT_TLS):
                    continue
                if home >= len(self.sections) or not self.sections[home].mapped:
                    found.add(names.at(name_at))
        return frozenset(found)

    @cached_property
    def resolvers(self) -> Ranges:
        """The functions that return the address of another one to the loader (STT_GNU_IFUNC). Not in ET_REL."""
        spans = []
        for table in () if self.relocatable else self._symbol_tables():
            for _, info, _, home, value, size in self._entries(_SYMBOL, table.offset, table.size):
                if info & 15 == STT_GNU_IFUNC and home != SHN_UNDEF:
                    spans.append((value, value + size))
        return Ranges.of(spans)

    @cached_property
    def data_in_code(self) -> Ranges:
        """The part of `code` that holds data, as `marked_data` says."""
        return self.marked_data & self.code

    @cached_property
    def marked_data(self) -> Ranges:
        """The addresses from a mapping symbol $d to the next one of its section, or to its end. A debug file has them.

        A file whose mapping symbols were stripped, and code that came without them, tell nothing.
        """
        marks: dict[int, list[tuple[int, bool]]] = {}
        for index, table in enumerate(self.sections):
            if table.type != SHT_SYMTAB or table.entry_size != SYMBOL_SIZE:
                continue
            names = self._strings_of(table.link)
            for number, (offset, info, _, home, value, _) in enumerate(
                self._entries(_SYMBOL, table.offset, table.size)
            ):
                if info != _LOCAL_WITHOUT_TYPE or not _is_mapping_symbol(name := names.at(offset), info):
                    continue
                home = self._extended_index(index, number) if home == SHN_XINDEX else home
                section = self._section_for(home, "a mapping symbol")
                start = section.offset if self.relocatable else 0
                marks.setdefault(home, []).append((start + value, name[1] == "d"))
        spans = []
        for home, places in marks.items():
            section = self.sections[home]
            end = (section.offset if self.relocatable else section.address) + section.size
            places.sort(key=lambda place: place[0])  # of several at one address, the last one says it
            ends = [min(start, end) for start, _ in places[1:]] + [end]
            spans += [
                (start, up_to) for (start, data), up_to in zip(places, ends, strict=True) if data and start < up_to
            ]
        return Ranges.of(spans)

    def _homes(self) -> list[Space | None]:
        return [
            Space(self.section_name(section), section.offset, section.offset + section.size) if section.mapped else None
            for section in self.sections
        ]

    def _extended_index(self, table: int, number: int) -> int:
        """The number of a symbol's section when it does not fit into 16 bits."""
        section = self._extensions.get(table)
        if section is None or 4 * (number + 1) > section.size:
            raise self.bad(f"symbol {number} has its section in a table that does not exist")
        [home] = self._unpack("I", section.offset + 4 * number, "a section number")
        return int(home)

    @cached_property
    def _extensions(self) -> dict[int, Section]:
        return {section.link: section for section in self.sections if section.type == SHT_SYMTAB_SHNDX}

    def spaces(self) -> list[Space]:
        """The mapped, named sections of a relocatable file; empty for a linked file, whose sites are addresses."""
        return [space for space in self._homes() if space is not None and space.name] if self.relocatable else []

    @cached_property
    def build_id(self) -> str:
        """The descriptor of the NT_GNU_BUILD_ID note in hex; empty when there is none."""
        return self.build_id_note[1].hex()

    @cached_property
    def build_id_note(self) -> tuple[int, bytes]:
        """The address of the descriptor of the NT_GNU_BUILD_ID note, and the descriptor; empty when there is none."""
        if self.relocatable or self.is_debug_file:
            notes = [(s.offset, s.size, s.alignment, s.address) for s in self.sections if s.type == SHT_NOTE]
        else:
            notes = [(s.offset, s.file_size, s.alignment, s.address) for s in self.segments if s.type == PT_NOTE]
        if sum(size for _, size, _, _ in notes) > _MOST_NOTE_BYTES:
            raise self.bad("its notes are larger than can be read")
        for offset, size, alignment, address in notes:
            self._require(offset, size, "a note")
            place, found = build_id_in(self.data[offset : offset + size], self.order, alignment)
            if found:
                return address + place, found
        return 0, b""


def build_id_in(notes: bytes, order: str, alignment: int) -> tuple[int, bytes]:
    """The offset of the descriptor of the NT_GNU_BUILD_ID note in a segment or section of notes, and the descriptor.

    (0, b"") when there is none. `order` is that of `ElfImage`, `alignment` that of the segment or section.
    """
    alignment = 8 if alignment == 8 else 4
    offset, end = 0, len(notes)
    while offset + 12 <= end:
        name_size, size, kind = struct.unpack_from(f"{order}III", notes, offset)
        start = offset + -(-(12 + name_size) // alignment) * alignment
        if start + size > end:
            break
        owner = notes[offset + 12 : offset + 12 + min(name_size, 5)]
        if kind == NT_GNU_BUILD_ID and owner == b"GNU\0" and 0 < size <= 256:
            return start, notes[start : start + size]
        offset = start + -(-size // alignment) * alignment
    return 0, b""


def table_in(segment: Segment) -> int:
    """The offset of the program headers in a segment that elf_room.py adds for them."""
    return -(-segment.offset // 8) * 8


def require_aarch64(head: bytes, name: str) -> None:
    """FormatError unless `head`, the first 64 bytes of a file, is the header of a supported ELF file."""
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

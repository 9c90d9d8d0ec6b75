"""A linked ELF file as a loader left it in memory: its headers, its build id, and a file made of its segments again.

Reads untrusted bytes of a process. Knows elf_image.py, whose ElfImage reads the file that is made here.
Read on: mapped.py finds these files in the mappings of a process.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import FormatError, MappingError, ReadError
from a64patch.oneline import shown
from a64patch.ranges import Ranges
from a64patch.targets.elf_image import (
    DT_ANDROID_REL,
    DT_ANDROID_RELA,
    DT_ANDROID_RELR,
    DT_GNU_HASH,
    DT_HASH,
    DT_JMPREL,
    DT_NULL,
    DT_REL,
    DT_RELA,
    DT_RELR,
    DT_STRTAB,
    DT_SYMTAB,
    DT_VERDEF,
    DT_VERSYM,
    DYNAMIC,
    ET_REL,
    HEADER_SIZE,
    PF_W,
    PF_X,
    PT_DYNAMIC,
    PT_LOAD,
    PT_NOTE,
    SEGMENT,
    SEGMENT_SIZE,
    SYMBOL_SIZE,
    ElfImage,
    Segment,
    build_id_in,
    require_aarch64,
)
from a64patch.targets.symbols import ADDRESS_SPACE

Read = Callable[[int, int], bytes]
"""`read(address, size)` as `Target.read`."""

_FIRST = 4096
"""Bytes. One read of them gets the headers and nearly always the build id."""
_MOST_SEGMENTS = 128
_MOST_NOTES = 16
_MOST_NOTE_BYTES = 1 << 16
_MOST_BYTES = 1 << 28
"""A file is made of segments up to this many bytes."""
_PIECE, _PAGE, _LARGEST_PAGE = 1 << 18, 1 << 12, 1 << 16
_CHANGED = 16
"""One of so many words of code may differ between a file and memory: patches change few words."""
_ADDRESSES = (
    DT_HASH, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_REL, DT_JMPREL, DT_GNU_HASH, DT_RELR,
    DT_ANDROID_REL, DT_ANDROID_RELA, DT_ANDROID_RELR, DT_VERSYM, DT_VERDEF,
)  # fmt: skip
"""Entries of PT_DYNAMIC that are addresses, of those that ElfImage reads."""


@dataclass(frozen=True)
class Loaded:
    """The headers of a linked ELF file in memory. Addresses in `segments` are the file's own; `base` moves them."""

    name: str
    """For messages."""
    head: bytes
    """The ELF header."""
    segments: tuple[Segment, ...]
    base: int
    build_id: str
    """The descriptor of the NT_GNU_BUILD_ID note in hex; empty without one."""

    def __repr__(self) -> str:
        return shown(self, repr(self.name), f"base {self.base:#x}", f"build {self.build_id}" if self.build_id else "")

    @property
    def order(self) -> str:
        """As `ElfImage.order`."""
        return "<" if self.head[5] == 1 else ">"

    @property
    def loads(self) -> list[Segment]:
        """The PT_LOAD segments with a size."""
        return [segment for segment in self.segments if segment.type == PT_LOAD and segment.memory_size]

    @property
    def extent(self) -> tuple[int, int]:
        """The first address of all segments in memory, and the first one behind them."""
        loads = self.loads
        ends = (load.address + load.memory_size for load in loads)
        return self.base + min(load.address for load in loads), self.base + max(ends)


def read_loaded(read: Read, start: int, mapped: Ranges, name: str) -> Loaded:
    """The file whose first byte is at `start`; in `mapped` each byte is as far behind `start` as in the file.

    The program headers may be far behind: a tool that made them more put them at the file's end.

    The base is the distance from the addresses of the PT_LOAD segment with the file's first byte to `start`. No size of
    pages has a part in it.

    FormatError when the headers in memory are not sound. Errors of `read` for the headers; a note that cannot be read
    counts as none.
    """
    _, end = mapped.around(start) or (start, start)
    first = read(start, min(end - start, _FIRST))
    require_aarch64(first[:HEADER_SIZE], name)
    order = "<" if first[5] == 1 else ">"
    kind, _, _, _, at, _, _, _, unit, count = struct.unpack_from(order + "HHIQQQIHHH", first, 16)
    if kind == ET_REL or unit != SEGMENT_SIZE or not 0 < count <= _MOST_SEGMENTS:
        raise FormatError(f"{name} at {start:#x} has no program headers that can be read")
    if not mapped.covers(start + at, start + at + unit * count):
        raise FormatError(f"{name} at {start:#x} has no program headers that can be read")
    table = first[at:] if at + unit * count <= len(first) else read(start + at, unit * count)
    segments = tuple(Segment(*struct.unpack_from(order + SEGMENT, table, unit * number)) for number in range(count))
    loads = [segment for segment in segments if segment.type == PT_LOAD and segment.memory_size]
    if not loads:
        raise FormatError(f"{name} at {start:#x} has nothing to load")
    lowest = min(loads, key=lambda load: load.offset)
    base = start - (lowest.address - lowest.offset)
    for load in loads:
        end = base + load.address + load.memory_size
        if load.file_size > load.memory_size or base + load.address < 0 or end > ADDRESS_SPACE:
            raise FormatError(f"{name} at {start:#x} has a segment of impossible size or place")
    if lowest.offset >= _LARGEST_PAGE:
        raise FormatError(f"{name} at {start:#x} has no segment with its headers")
    return Loaded(name, first[:HEADER_SIZE], segments, base, _build_id(read, start, first, base, segments))


def _build_id(read: Read, start: int, first: bytes, base: int, segments: tuple[Segment, ...]) -> str:
    order = "<" if first[5] == 1 else ">"
    for note in [segment for segment in segments if segment.type == PT_NOTE][:_MOST_NOTES]:
        at, size = base + note.address, min(note.file_size, _MOST_NOTE_BYTES)
        if start <= at and at + size <= start + len(first):
            data = first[at - start : at - start + size]
        elif at < 0 or at + size > ADDRESS_SPACE:
            continue
        else:
            try:
                data = read(at, size)
            except (MappingError, ReadError):
                continue
        found = build_id_in(data, order, note.alignment)[1]
        if found:
            return found.hex()
    return ""


def same_build(loaded: Loaded, image: ElfImage, read: Read) -> bool:
    """Whether a file is the one that was loaded. Its PT_LOAD segments must be the same, and so must its build id.

    Without a build id, which neither may have then, the bytes decide, of all segments that the program cannot write to:

    - outside of the file's code no byte may differ: constants, names, and the table for unwinding (.eh_frame);
    - of the words of its code, not more than one in 16 may differ: the process may have been patched.

    A relocation of such a segment (DT_TEXTREL) makes a difference: then the file does not count.
    """
    if [load for load in image.loads if load.memory_size] != loaded.loads or image.build_id != loaded.build_id:
        return False
    if loaded.build_id:
        return True
    constant = [load for load in loaded.loads if not load.flags & PF_W]
    whole = Ranges.of((load.address, load.address + load.file_size) for load in constant)
    words = (whole & image.executable).size // INSN_SIZE
    changed = 0
    for load in constant:
        for start, size in _pieces(load.address, load.address + load.file_size, _PIECE):
            offset = load.offset + start - load.address
            there = image.data[offset : offset + size]
            try:
                here = read(loaded.base + start, size)
            except (MappingError, ReadError):
                return False
            code = (Ranges(((start, start + size),)) & image.executable).whole(INSN_SIZE)
            if here == there:
                continue
            for low, high in Ranges(((start, start + size),)) - code:
                if here[low - start : high - start] != there[low - start : high - start]:
                    return False
            for low, high in code:
                pair = (from_bytes(data[low - start : high - start]) for data in (here, there))
                changed += sum(one != other for one, other in zip(*pair, strict=True))
            if changed * _CHANGED > words:
                return False
    return True


def _pieces(start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, size) of pieces, each within one multiple of `size`."""
    while start < end:
        following = min(end, (start // size + 1) * size)
        yield start, following - start
        start = following


def file_of(loaded: Loaded, read: Read, mapped: Ranges) -> bytes:
    """An ELF file with the bytes that the PT_LOAD segments have in memory now, without section headers.

    `ElfImage` reads it with the addresses of the loaded file. Bytes that are not in `mapped`, or that cannot be read,
    are zero. glibc makes addresses in PT_DYNAMIC absolute (elf/get-dynamic-info.h); here they are the file's again.

    FormatError when the segments have more than 256 MiB.
    """
    loads = [load for load in loaded.loads if load.file_size]
    if sum(load.file_size for load in loads) > _MOST_BYTES:
        raise FormatError(f"{loaded.name} has more than {_MOST_BYTES >> 20} MiB in memory; no more is read")
    kept = [segment for segment in loaded.segments if segment.type in (PT_DYNAMIC, PT_NOTE) and segment.file_size]
    data = bytearray(HEADER_SIZE + SEGMENT_SIZE * (len(loads) + len(kept)))
    placed: list[Segment] = []
    for load in loads:
        placed.append(load._replace(offset=len(data)))
        start = loaded.base + load.address
        data += bytes(load.file_size)
        for low, high in Ranges(((start, start + load.file_size),)) & mapped:
            _fill(data, placed[-1].offset - start, read, low, high)
    for segment in kept:
        offset = _offset_in(placed, segment.address, segment.file_size)
        if offset is not None:
            placed.append(segment._replace(offset=offset))
            if segment.type == PT_DYNAMIC:
                _make_relative(data, placed[-1], placed, loaded)
    data[:HEADER_SIZE] = loaded.head
    struct.pack_into(loaded.order + "QQ", data, 32, HEADER_SIZE, 0)  # e_phoff, e_shoff
    struct.pack_into(loaded.order + "HHHHH", data, 54, SEGMENT_SIZE, len(placed), 0, 0, 0)  # e_phentsize to e_shstrndx
    for number, segment in enumerate(placed):
        struct.pack_into(loaded.order + SEGMENT, data, HEADER_SIZE + SEGMENT_SIZE * number, *segment)
    return bytes(data)


def _fill(data: bytearray, distance: int, read: Read, low: int, high: int) -> None:
    """Put the bytes of [low, high) into `data`, `distance` bytes from their addresses. Unreadable pages stay zero."""
    for start, size in _pieces(low, high, _PIECE):
        try:
            data[start + distance : start + distance + size] = read(start, size)
        except (MappingError, ReadError):
            for page, length in _pieces(start, start + size, _PAGE) if size > _PAGE else ():
                _fill(data, distance, read, page, page + length)


def _offset_in(placed: list[Segment], address: int, size: int) -> int | None:
    for load in placed:
        if load.type == PT_LOAD and load.address <= address and address + size <= load.address + load.file_size:
            return load.offset + address - load.address
    return None


def _make_relative(data: bytearray, dynamic: Segment, placed: list[Segment], loaded: Loaded) -> None:
    """Make the addresses in PT_DYNAMIC those of the file, if the loader has made them absolute.

    It has, when the symbol table is at the place that the entry means as an absolute address: the first symbol of a
    table is all zeros (gABI, "Symbol Table"). An entry that does not fit to this stays as it is: musl leaves all of
    them relative, and glibc leaves them when the program cannot write to PT_DYNAMIC.
    """
    entries: dict[int, tuple[int, int]] = {}
    layout = struct.Struct(loaded.order + DYNAMIC)
    for at in range(dynamic.offset, dynamic.offset + dynamic.file_size // layout.size * layout.size, layout.size):
        tag, value = layout.unpack_from(data, at)
        if tag == DT_NULL:
            break
        entries[tag] = at, value

    def is_table(address: int) -> bool:
        offset = _offset_in(placed, address, SYMBOL_SIZE)
        return offset is not None and not any(data[offset : offset + SYMBOL_SIZE])

    _, table = entries.get(DT_SYMTAB, (0, 0))
    if is_table(table) or not is_table(table - loaded.base):
        return
    for tag in _ADDRESSES:
        if tag in entries:
            at, value = entries[tag]
            if _offset_in(placed, value - loaded.base, 1) is not None:
                layout.pack_into(data, at, tag, value - loaded.base)


def executable_spans(loaded: Loaded) -> list[tuple[int, int, int]]:
    """(start, end, start of the file) of each executable PT_LOAD segment in memory.

    The start of the file is the address that the file's first byte would have in this segment. A mapping of the segment
    has it too: its address less its offset.
    """
    base = loaded.base
    return [
        (base + load.address, base + load.address + load.memory_size, base + load.address - load.offset)
        for load in loaded.loads
        if load.flags & PF_X
    ]

"""Room for new code in a linked ELF file: where it is, the bytes that change for it, and how they change back.

Computes edits of bytes, and writes nothing. Knows elf_image.py only.
Read on: elf.py applies the edits; the ELF gABI describes the headers.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from a64patch.a64.words import INSN_SIZE, to_bytes
from a64patch.errors import CapabilityError, FormatError, MappingError, RequestError
from a64patch.ranges import Ranges
from a64patch.targets.base import Room
from a64patch.targets.elf_image import (
    HEADER_SIZE,
    PF_X,
    PT_LOAD,
    PT_PHDR,
    SEGMENT,
    SEGMENT_SIZE,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHN_LORESERVE,
    SHT_NOBITS,
    ElfImage,
    Section,
    Segment,
    table_in,
)
from a64patch.targets.symbols import ADDRESS_SPACE

PAGES = (0x10000, 0x4000, 0x1000)
"""The page sizes of AArch64 in bytes, the largest first (Arm ARM, D8.2)."""
UNWRITTEN = 0x00000A64
"""UDF #0xa64, the words of a room from `allocation` until code is written. A released room holds zeros, UDF #0."""

_LARGEST, _, _SMALLEST = PAGES
_REACH = 1 << 27
_MOST_ZEROS = 1 << 26
"""The longest hole that a file gets between its old end and a new segment."""
_MOST_ALIGNMENT = 1 << 22
"""A program that is loaded at a multiple of more has too few places where it can be (maximum_alignment() in Linux)."""
_MOST_HEADERS = _SMALLEST // SEGMENT_SIZE
"""Linux loads no program whose program headers do not fit in a page (load_elf_phdrs() in fs/binfmt_elf.c)."""
_MOST_PADDING = 1 << 20
_MOST_ROOMS = 4096
_MOST_BYTES = 1 << 30
"""Far enough below the largest file that can be opened."""
_PF_R = 4
SHT_PROGBITS = 1
_SECTION, _SECTION_SIZE = "IIQQQQIIQQ", 64
_NAME = re.compile(r"(\.text)?\.a64patch\.\d{1,9}")
_FIELDS = ((32, "Q"), (40, "Q"), (56, "H"), (60, "H"), (62, "H"))
"""The offset in the ELF header, and the layout, of each field of `Header`."""

_RECORD = "8sIIQQQQQQHHHHIIQ"
_RECORD_SIZE = struct.calcsize("<" + _RECORD)
_MAGIC, _VERSION = b"a64patch", 1
_NONE = 0xFFFFFFFF


class Edit(NamedTuple):
    """A change of a file: its new size in bytes, then bytes to put at offsets. A longer file gets zeros first."""

    size: int
    writes: tuple[tuple[int, bytes], ...]

    def carry_out(self, data: bytearray) -> None:
        """Change these bytes."""
        del data[self.size :]
        data.extend(bytes(self.size - len(data)))
        for offset, piece in self.writes:
            data[offset : offset + len(piece)] = piece


class Header(NamedTuple):
    """The fields of the ELF header that a room changes: e_phoff, e_shoff, e_phnum, e_shnum, e_shstrndx."""

    segments_at: int
    sections_at: int
    segment_count: int
    section_count: int
    names: int

    @classmethod
    def of(cls, data: bytes | bytearray, order: str) -> Header:
        """The fields in a file whose numbers have this byte order, a `struct` prefix."""
        return cls(*(struct.unpack_from(order + layout, data, offset)[0] for offset, layout in _FIELDS))

    def writes(self, order: str) -> Iterator[tuple[int, bytes]]:
        """The (offset, bytes) of all fields."""
        for (offset, layout), value in zip(_FIELDS, self, strict=True):
            yield offset, struct.pack(order + layout, value)


class _Record(NamedTuple):
    """What undoes a room. It is in the file, directly before the section headers; without these, at the file's end.

    It has no part of the program that it could change: only the header fields, the size of one segment, and the room.
    """

    magic: bytes
    version: int
    checksum: int
    """CRC-32, see `_checksum`."""
    address: int
    size: int
    offset: int
    """The room: its address, its bytes, its offset in the file."""
    old_size: int
    segments_at: int
    sections_at: int
    segment_count: int
    section_count: int
    names: int
    reserved: int
    grown: int
    """The number of the program header that became longer; _NONE for a new segment."""
    reserved_too: int
    old_file_size: int
    """The p_filesz and p_memsz that this program header had."""

    @property
    def header(self) -> Header:
        return Header(self.segments_at, self.sections_at, self.segment_count, self.section_count, self.names)


def find_room(image: ElfImage, size: int, near: tuple[int, int], alignment: int) -> Room:
    """See `Target.find_room`: the padding behind a segment of code, else a new segment behind all others.

    A room in the padding needs no page that another segment has, with any page size with which the file can be loaded.
    CapabilityError for each kind of file that cannot get one. RequestError for a size below 1, and for an alignment
    that is no power of 2.
    """
    size, alignment = requested(size, alignment)
    if alignment > _SMALLEST:
        raise CapabilityError(
            f"{image.name} is loaded at a multiple of {_SMALLEST} bytes, so code in it cannot be at a multiple of "
            f"{alignment}: ask for {_SMALLEST} or less"
        )
    _require_possible(image)
    for _, start, end in _paddings(image):
        room = Room(_up(start, alignment), size, "the padding behind the code")
        if room.end <= end and _in_reach(room, near):
            return room
    room = Room(_new_segment(image).address, size, "a new segment")
    if not _in_reach(room, near):
        raise CapabilityError(
            f"{image.name} has no room for {size} bytes of code within 128 MiB of {near[0]:#x} to {near[1]:#x}: "
            f"put them in the place of other code"
        )
    return room


def requested(size: int, alignment: int) -> tuple[int, int]:
    """The size and alignment of a room for this many bytes; RequestError as `find_room`."""
    if size < 1 or alignment < 1 or alignment & (alignment - 1):
        raise RequestError(f"no room has {size} bytes at a multiple of {alignment}: ask for a power of 2")
    return _up(size, INSN_SIZE), max(alignment, INSN_SIZE)


def allocation(image: ElfImage, room: Room) -> Edit:
    """The edit that makes a room of `find_room` part of the program. MappingError when it is not free (any more)."""
    _require_possible(image)
    if room.address % INSN_SIZE or room.size % INSN_SIZE or room.size < INSN_SIZE:
        raise MappingError(f"{room.size} bytes at {room.address:#x} are no room for instructions: ask for one")
    for number, start, end in _paddings(image):
        if start <= room.address and room.end <= end:
            return _with_room(image, room, number)
    if room.address != _new_segment(image).address or room.size > _REACH:
        raise MappingError(
            f"the {room.size} bytes at {room.address:#x} in {image.name} are not free: ask for a room again"
        )
    return _with_room(image, room, None)


def rooms(image: ElfImage, data: bytes | bytearray) -> list[Room]:
    """The rooms in a file, by their sections and by their records: all but those that hold zeros only."""
    found: dict[tuple[int, int], str] = {}
    for section in image.sections:
        if section.executable and section.mapped and _NAME.fullmatch(name := image.section_name(section)):
            found[section.address, section.size] = f"section {name}"
            if len(found) == _MOST_ROOMS:
                break
    for _, record in zip(range(_MOST_ROOMS), _records(data, image.order), strict=False):
        found.setdefault((record.address, record.size), "without a section")
    rooms = []
    done = 0
    for (address, size), how in sorted(found.items()):
        if address < done or not size or (address | size) % INSN_SIZE or not image.code.covers(address, address + size):
            continue
        done = address + size
        if any(data[offset : offset + length].strip(b"\0") for offset, length in image.chunks(address, size) or ()):
            rooms.append(Room(address, size, how))
    return rooms


def without_newest(image: ElfImage, data: bytes | bytearray) -> tuple[Room, Edit] | None:
    """The newest room, and the edit that restores the file as it was before; None without a sound record."""
    newest = next(_records(data, image.order), None)
    if newest is None or not _is_sound(newest, data, image.order):
        return None
    return Room(newest.address, newest.size), _undo(newest, data, image.order)


def release(image: ElfImage, data: bytes | bytearray, room: Room) -> tuple[list[Edit], str]:
    """The edits that give a room back, and the sentence of `Target.release`. MappingError when it is no room.

    Not guaranteed: that the file is as before, unless the room is the newest one and all bytes that were made for it
    are unchanged. Older rooms that were released before go with the newest one.
    """
    known = [(each.address, each.size) for each in rooms(image, data)]
    if (room.address, room.size) not in known:
        raise MappingError(f"{room.size} bytes at {room.address:#x} in {image.name} are no room for new code")
    edits: list[Edit] = []
    left, budget = bytearray(data), len(data)
    newest = next(_records(left, image.order), None)
    if newest is not None and (newest.address, newest.size) == (room.address, room.size):
        while newest is not None and _is_sound(newest, left, image.order) and budget >= newest.size:
            used = left[newest.offset : newest.offset + newest.size].strip(b"\0")
            if edits and (used or len(edits) == _MOST_ROOMS):
                break
            edits.append(_undo(newest, left, image.order))
            edits[-1].carry_out(left)
            budget -= newest.size
            newest = next(_records(left, image.order), None)
        if edits and _can_be_read(left, image.name):
            return edits, ""
        why = "its record of what was there before does not fit the file any more"
    elif newest is None:
        why = "the record of what was there before is gone, as after strip"
    else:
        why = f"the room at {newest.address:#x} is newer"
    places = image.chunks(room.address, room.size) or []
    zeros = Edit(len(data), tuple((offset, bytes(size)) for offset, size in places))
    return [zeros], f"{room.size} bytes at {room.address:#x} stay in {image.name} as unused space: {why}"


def _require_possible(image: ElfImage) -> None:
    """CapabilityError, in one sentence, for each kind of linked file that gets no room."""
    if image.is_debug_file or not image.loads:
        raise CapabilityError(f"{image.name} has no code to load, so it gets no room for new code: open the program")
    require_tables(image)


def require_tables(image: ElfImage) -> None:
    """CapabilityError unless the tables at the end of the file can become longer."""
    header = Header.of(image.data, image.order)
    if image.sections and (
        not 0 < header.names < len(image.sections) == header.section_count < SHN_LORESERVE - 2
        or image.sections[header.names].flags & SHF_ALLOC
    ):
        raise CapabilityError(
            f"{image.name} has no names of sections that could become more: patch it without new code"
        )
    end = _known_end(image)
    if image.data[end:].strip(b"\0"):
        raise CapabilityError(
            f"{image.name} has {len(image.data) - end} bytes at {end:#x}, behind all that its headers tell, and a room "
            f"would come between: patch it without new code"
        )


def _known_end(image: ElfImage) -> int:
    """The end of what the headers tell, and of the last record."""
    if not image.sections and any(_records(image.data, image.order)):
        return len(image.data)
    return _occupied(image).spans[-1][1]


def _occupied(image: ElfImage) -> Ranges:
    """The bytes of the file that its headers tell, as offsets."""
    header = Header.of(image.data, image.order)
    return Ranges.of(
        [
            (0, HEADER_SIZE),
            (header.segments_at, header.segments_at + SEGMENT_SIZE * len(image.segments)),
            (header.sections_at, header.sections_at + _SECTION_SIZE * len(image.sections)),
            *((s.offset, s.offset + s.size) for s in image.sections if s.type not in (0, SHT_NOBITS)),
            *((s.offset, s.offset + s.file_size) for s in image.segments),
        ]
    )


def _paddings(image: ElfImage) -> Iterator[tuple[int, int, int]]:
    """(number of the program header, first address, end) of the zeros behind each segment of code, ascending."""
    occupied = _occupied(image)
    loads = [(segment, number) for number, segment in enumerate(image.segments) if segment.type == PT_LOAD]
    for segment, number in sorted(loads, key=lambda load: load[0].address):
        if not segment.flags & PF_X or segment.file_size != segment.memory_size or not segment.file_size:
            continue
        start, at = segment.address + segment.file_size, segment.offset + segment.file_size
        others = [other for other, index in loads if index != number]
        if any(other.address <= segment.address < other.address + other.memory_size for other in others):
            continue
        most = min(len(image.data) - at, _MOST_PADDING)
        following = min((other.address for other in others if other.address >= segment.address), default=None)
        if following is not None:
            # With a page size with which two segments share no page, they must not do so afterwards.
            ends = [following & -page for page in PAGES if _up(start, page) <= following & -page]
            most = min(most, min(ends, default=start) - start)
        for first, _ in occupied & Ranges(((at, at + most),)):
            most = min(most, first - at)
        zeros = image.data[at : at + most]
        most -= len(zeros.lstrip(b"\0"))
        if most >= INSN_SIZE:
            yield number, start, start + most


def _new_segment(image: ElfImage) -> Segment:
    """The program header, without sizes, of a segment behind all others in memory and in the file.

    The distance from offset to address is that of the first segment: Linux before 5.18 gives a program the address
    of its program headers as if all segments had this distance (0da1d5002745, fs/binfmt_elf.c), and so does glibc in a
    static program (csu/libc-start.c). Tools that write a file anew keep a hole in the file only for an alignment, so
    the alignment is greater than the hole, unless that is too large.
    """
    first = image.loads[0]
    distance = first.address - first.offset
    size = len(image.data)
    if distance % _SMALLEST:
        raise CapabilityError(f"{image.name} is not laid out in pages, so it gets no new segment for code")
    if len(image.segments) + 2 > _MOST_HEADERS:
        raise CapabilityError(
            f"{image.name} has {len(image.segments)} program headers, and Linux loads no program with more than "
            f"{_MOST_HEADERS}: patch it without new code"
        )
    if size > _MOST_BYTES:
        raise CapabilityError(f"{image.name} has more than {_MOST_BYTES >> 20} MiB, so it gets no new segment for code")
    address = _up(max(size + distance, *(load.address + load.memory_size for load in image.loads)), _LARGEST)
    if address > ADDRESS_SPACE - 2 * _REACH:
        raise CapabilityError(f"{image.name} has no addresses behind its last segment: patch it without new code")
    offset = address - distance
    if offset - size > _MOST_ZEROS:
        raise CapabilityError(
            f"{image.name} has {(offset - size) >> 20} MiB of memory without bytes in the file, which a new segment "
            f"would put there: patch it without new code"
        )
    last = max((load.offset for load in image.loads if load.file_size), default=0)
    alignment = 1 << max(offset - last, _LARGEST - 1).bit_length()
    if alignment > _MOST_ALIGNMENT or distance % alignment:
        alignment = next(page for page in PAGES if distance % page == 0)
    physical = address + first.physical - first.address
    return Segment(PT_LOAD, _PF_R | PF_X, offset, address, physical, 0, 0, alignment)


class Draft(NamedTuple):
    """All bytes of a room but the tables at the file's end."""

    header: Header
    writes: list[tuple[int, bytes]]
    end: int
    """The offset from which on the tables may be."""
    sections: list[tuple[str, Section, bytes | None]]
    """The sections that are added, the room's first: name, header without name, contents if these are a table too."""
    contents: dict[int, bytes]
    """The new contents of older sections by number. They move to the file's end."""
    grown: int = _NONE
    """The number of the program header that becomes longer; _NONE for none."""


def _with_room(image: ElfImage, room: Room, grown: int | None) -> Edit:
    """The edit for a room: in the padding behind the segment of program header `grown`, or in a new segment."""
    header = Header.of(image.data, image.order)
    if grown is not None:
        segment = image.segments[grown]
        offset = segment.offset + room.address - segment.address
        writes = [_size_of(header, grown, room.end - segment.address, image.order)]
        end = len(image.data)
    else:
        added = _added_segments(image, room.size)
        offset = added[0].offset
        table_at = table_in(added[1])
        writes = [(table_at, _program_headers(image, added))]
        header = header._replace(segments_at=table_at, segment_count=header.segment_count + 2)
        end = _up(added[1].offset + added[1].file_size, _SMALLEST)
    section = f".a64patch.{next_number(image)}", code_section(room, offset), None
    return completed(image, room, Draft(header, writes, end, [section], {}, _NONE if grown is None else grown))


def code_section(room: Room, offset: int) -> Section:
    """The section header of a room, without its name."""
    alignment = min(room.address & -room.address, _SMALLEST)
    return Section(0, SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, room.address, offset, room.size, 0, 0, alignment, 0)


def next_number(image: ElfImage) -> int:
    """The number of the next room, by the names of sections."""
    names = [name for name in map(image.section_name, image.sections) if _NAME.fullmatch(name)]
    return max((int(name.rpartition(".")[2]) for name in names), default=0) + 1


def completed(image: ElfImage, room: Room, draft: Draft) -> Edit:
    """The edit for a room, with the tables and the record at the file's end.

    Neither a number nor a name of an older section changes.
    """
    data, order = image.data, image.order
    old, header = Header.of(data, order), draft.header
    _, code, _ = draft.sections[0]
    writes = [*draft.writes, (code.offset, to_bytes([UNWRITTEN]) * (room.size // INSN_SIZE))]
    sections = list(image.sections)
    place = _up(draft.end, 8)
    if sections:
        name = draft.sections[0][0].replace(".a64patch", ".a64patch.undo")
        added = [*draft.sections, (name, Section(0, SHT_PROGBITS, 0, 0, 0, 0, 0, 0, 8, 0), None)]
        contents = dict(draft.contents)
        names = contents.get(old.names) or contents_of(image, old.names)
        names += b"" if names.endswith(b"\0") else b"\0"
        for name, section, content in added:
            if content is not None:
                contents[len(sections)] = content
            sections.append(section._replace(name=len(names)))
            names += name.encode("ascii") + b"\0"
        contents[old.names] = names
        for number, content in contents.items():
            sections[number] = sections[number]._replace(offset=place, size=len(content))
            writes.append((place, content))
            place = _up(place + len(content), 8)
        sections[-1] = sections[-1]._replace(offset=place, size=_RECORD_SIZE)
        header = header._replace(sections_at=place + _RECORD_SIZE, section_count=len(sections))
        table = b"".join(struct.pack(order + _SECTION, *section) for section in sections)
        writes.append((header.sections_at, table))
    edit = Edit(place + _RECORD_SIZE + _SECTION_SIZE * len(sections), (*writes, *header.writes(order)))
    record = _Record(
        _MAGIC, _VERSION, 0, room.address, room.size, code.offset, len(data), *old, 0,
        draft.grown, 0, 0 if draft.grown == _NONE else image.segments[draft.grown].file_size,
    )  # fmt: skip
    copy = bytearray(data)
    edit.carry_out(copy)
    record = record._replace(checksum=_checksum(record, copy, place, order))
    return Edit(edit.size, (*edit.writes, (place, struct.pack(order + _RECORD, *record))))


def contents_of(image: ElfImage, number: int) -> bytes:
    """The bytes of a section."""
    section = image.sections[number]
    return image.data[section.offset : section.offset + section.size]


def _size_of(header: Header, number: int, size: int, order: str) -> tuple[int, bytes]:
    """p_filesz and p_memsz of a program header."""
    return header.segments_at + SEGMENT_SIZE * number + 32, struct.pack(order + "QQ", size, size)


def _added_segments(image: ElfImage, size: int) -> tuple[Segment, Segment]:
    """A new segment for a room of `size` bytes, and one directly behind it for the program headers.

    GNU strip and objcopy put the program headers at the start of their segment, and this directly behind the bytes of
    the segment before (assign_file_positions_for_load_sections() in bfd/elf.c). So the two are one in memory, and yet
    two. The second one grows for rooms to come.

    Not guaranteed: that eu-strip keeps them. It overwrites program headers behind other bytes with zeros.
    """
    room = _new_segment(image)._replace(file_size=size, memory_size=size)
    headers = room._replace(
        offset=room.offset + size,
        address=room.address + size,
        physical=room.physical + size,
        alignment=min(room.alignment, _LARGEST),
    )
    length = table_in(headers) + SEGMENT_SIZE * (len(image.segments) + 2) - headers.offset
    return room, headers._replace(file_size=length, memory_size=length)


def _program_headers(image: ElfImage, added: tuple[Segment, Segment]) -> bytes:
    """The program headers and the added ones, in the last segment."""
    size = SEGMENT_SIZE * (len(image.segments) + 2)
    _, home = added
    before = table_in(home) - home.offset
    place = (home.offset + before, home.address + before, home.physical + before, size, size)
    headers = [
        Segment(each.type, each.flags, *place, each.alignment) if each.type == PT_PHDR else each
        for each in image.segments
    ]
    packed = [tuple(field % ADDRESS_SPACE for field in each) for each in (*headers, *added)]
    return b"".join(struct.pack(image.order + SEGMENT, *each) for each in packed)


def _records(data: bytes | bytearray, order: str) -> Iterator[_Record]:
    """The records in a file, the newest first. Only the newest one is compared with the file, by `_is_sound`."""
    end, sections_at = len(data), Header.of(data, order).sections_at
    while True:
        at = (sections_at or end) - _RECORD_SIZE
        if at < HEADER_SIZE or at + _RECORD_SIZE > end:
            return
        record = _Record(*struct.unpack_from(order + _RECORD, data, at))
        if (record.magic, record.version) != (_MAGIC, _VERSION) or not HEADER_SIZE <= record.old_size <= at:
            return
        yield record
        end, sections_at = record.old_size, record.sections_at


def _is_sound(record: _Record, data: bytes | bytearray, order: str) -> bool:
    """Whether the newest record fits the file: all that was written for the room, but its code, is as it was."""
    header = Header.of(data, order)
    at = (header.sections_at or len(data)) - _RECORD_SIZE
    end = record.offset + record.size
    inside = record.address + record.size <= ADDRESS_SPACE and HEADER_SIZE <= record.offset < end <= at
    if record.grown == _NONE:
        inside &= record.old_size <= record.offset
    else:
        entry = header.segments_at + SEGMENT_SIZE * record.grown
        if record.grown >= header.segment_count or entry + SEGMENT_SIZE > len(data):
            return False
        segment = Segment(*struct.unpack_from(order + SEGMENT, data, entry))
        start = segment.offset + record.old_file_size
        inside &= start <= record.offset and end <= min(segment.offset + segment.file_size, record.old_size)
        inside &= segment.type == PT_LOAD and segment.file_size == segment.memory_size
    return inside and record.checksum == _checksum(record, data, at, order)


def _checksum(record: _Record, data: bytes | bytearray, record_at: int, order: str) -> int:
    """CRC-32 of the ELF header, the grown program header and all bytes behind the old end but room and record."""
    view = memoryview(data)
    checksum = zlib.crc32(view[:HEADER_SIZE])
    if record.grown != _NONE:
        entry = Header.of(data, order).segments_at + SEGMENT_SIZE * record.grown
        checksum = zlib.crc32(view[entry : entry + SEGMENT_SIZE], checksum)
    done = record.old_size
    for start, end in ((record.offset, record.offset + record.size), (record_at, record_at + _RECORD_SIZE)):
        checksum = zlib.crc32(view[done : max(start, done)], checksum)
        done = max(end, done)
    return zlib.crc32(view[done:], checksum)


def _undo(record: _Record, data: bytes | bytearray, order: str) -> Edit:
    """The edit that restores the file as it was before a room with a sound record."""
    writes = list(record.header.writes(order))
    if record.grown != _NONE:
        writes.append(_size_of(Header.of(data, order), record.grown, record.old_file_size, order))
        writes.append((record.offset, bytes(record.size)))
    return Edit(record.old_size, tuple(writes))


def _can_be_read(data: bytes | bytearray, name: str) -> bool:
    try:
        ElfImage(bytes(data), name)
    except FormatError:
        return False
    return True


def _in_reach(room: Room, near: tuple[int, int]) -> bool:
    return room.end - INSN_SIZE - near[0] < _REACH and near[1] - room.address < _REACH


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit

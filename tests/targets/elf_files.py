"""ELF files of every kind that the tests of this folder need, built with GNU binutils.

Read on: test_elf.py, test_elf_image.py and test_elf_fuzz.py.
"""

from __future__ import annotations

import struct
from pathlib import Path

from a64patch.targets.elf_image import ElfImage
from tests.support import assemble, link

SOURCE = """
        .text
        .globl _start, helper
        .hidden _start, helper
        .type _start, %function
_start: mov x0, #1
        nop
        bl helper
        ret
        .size _start, . - _start
        .type helper, %function
helper: ret
        .word 0
        .size helper, . - helper
        .section .text.second, "ax"
        .type second, %function
second: nop
        ret
        .size second, . - second
        .section .rodata, "a"
constant:
        .xword 0x1122334455667788
        .data
pointer:
        .xword _start
        .section .tbss, "awT", %nobits
        .type per_thread, %object
per_thread:
        .skip 8
        .bss
room:   .skip 64
        .globl common_room
        .comm common_room, 16, 8
        .set constant_number, 0x1234
"""

TEXT_RELOCATIONS = """
        .text
        .globl _start
_start: nop
        .balign 8
slot:   .xword _start
after:  .xword _start
        ret
        .data
        .xword _start
"""
"""Linked with `-pie -z notext` the loader changes its code."""

MOV, NOP, RET = (bytes.fromhex(text) for text in ("200080d2", "1f2003d5", "c0035fd6"))
"""mov x0, #1; nop; ret, as they stand in memory."""

LINKED = {
    "exec": (),
    "pie": ("-pie", "--no-dynamic-linker"),
    "shared": ("-shared", "-z", "separate-code"),
}
KINDS = ("object", *LINKED)


def build(folder: Path, kind: str, big: bool = False, source: str = SOURCE, options: tuple[str, ...] = ()) -> Path:
    """A file of one of KINDS; `big` is the endianness of its data."""
    endian = "-EB" if big else "-EL"
    made = assemble(source, folder / f"{kind}{endian}.o", endian)
    if kind == "object":
        return made
    identity = "--build-id=0x00112233445566778899aabbccddeeff"
    return link(made, folder / f"{kind}{endian}", endian, *LINKED[kind], identity, *options)


def header(data: bytes) -> tuple[int, ...]:
    """The fields of the ELF header after e_ident."""
    return struct.unpack_from(("<" if data[5] == 1 else ">") + "HHIQQQIHHHHHH", data, 16)


def set_bytes(data: bytes, offset: int, layout: str, value: int) -> bytes:
    """The bytes with one number in them changed, in their own endianness."""
    changed = bytearray(data)
    struct.pack_into(("<" if data[5] == 1 else ">") + layout, changed, offset, value)
    return bytes(changed)


def section_headers(data: bytes) -> list[tuple[int, tuple[int, ...]]]:
    """(offset of the section header, its fields)."""
    order, at, count = "<" if data[5] == 1 else ">", header(data)[5], header(data)[11]
    return [(at + 64 * i, struct.unpack_from(order + "IIQQQQIIQQ", data, at + 64 * i)) for i in range(count)]


def program_headers(data: bytes) -> list[tuple[int, tuple[int, ...]]]:
    """(offset of the program header, its fields)."""
    order, at, count = "<" if data[5] == 1 else ">", header(data)[4], header(data)[9]
    return [(at + 56 * i, struct.unpack_from(order + "IIQQQQQQ", data, at + 56 * i)) for i in range(count)]


def with_packed_relocations(path: Path, dynamic: bool) -> int:
    """Make the .rela.dyn of a file a RELR table (GNU ld 2.40 makes none for AArch64). Returns the address of `slot`.

    It relocates 8 bytes at slot, slot + 8 and, by a second bitmap, slot + 512.
    """
    data = path.read_bytes()
    [slot] = [symbol.address for symbol in ElfImage(data, str(path)).symbols() if symbol.name == "slot"]
    for at, fields in section_headers(data):
        if fields[1] == 4:
            table, address = fields[4], fields[3]
            data = set_bytes(set_bytes(set_bytes(data, at + 4, "I", 19), at + 32, "Q", 24), at + 56, "Q", 8)
            data = set_bytes(set_bytes(data, table, "Q", slot), table + 8, "Q", 0b11)
            data = set_bytes(data, table + 16, "Q", 0b11)
    [(_, segment)] = [entry for entry in program_headers(data) if entry[1][0] == 2]
    for entry in range(segment[2], segment[2] + segment[5], 16):
        [tag] = struct.unpack_from("<Q" if data[5] == 1 else ">Q", data, entry)
        new = {7: (36, address), 8: (35, 24), 9: (37, 8), 0x6FFFFFF9: (21, 0)}.get(tag)
        if new is not None:
            data = set_bytes(set_bytes(data, entry, "Q", new[0]), entry + 8, "Q", new[1])
    if dynamic:
        data = set_bytes(set_bytes(data, 40, "Q", 0), 60, "H", 0)
    path.write_bytes(data)
    return slot


def sleb128(value: int) -> bytes:
    """A number as DWARF and APS2 write it."""
    digits = bytearray()
    while True:
        digit, value = value & 0x7F, value >> 7
        if value == -(digit >> 6):
            return bytes(digits + bytes([digit]))
        digits.append(digit | 0x80)


Packable = tuple[int, int, int]
"""r_offset, r_info, r_addend."""


def android_packed(groups: list[tuple[int, list[Packable]]]) -> bytes:
    """An APS2 table of groups of relocations, each with its flags. Members must share what the flags say they share."""
    numbers = [sum(len(group) for _, group in groups), 0]
    place = addend = 0
    for flags, group in groups:
        numbers += [len(group), flags]
        if flags & 2:
            numbers.append(group[0][0] - place)
        if flags & 1:
            numbers.append(group[0][1])
        if flags & 12 == 12:
            numbers.append(group[0][2] - addend)
        for at, info, added in group:
            numbers += [] if flags & 2 else [at - place]
            numbers += [] if flags & 1 else [info]
            numbers += [added - addend] if flags & 12 == 8 else []
            place, addend = at, added if flags & 8 else 0
    return b"APS2" + b"".join(map(sleb128, numbers))


def with_android_relocations(path: Path, table: bytes) -> None:
    """Make the .rela.dyn of a file SHT_ANDROID_RELA with these bytes, also for the loader."""
    data = path.read_bytes()
    for at, fields in section_headers(data):
        if fields[1] == 4:
            assert len(table) <= fields[5]
            data = set_bytes(set_bytes(data, at + 4, "I", 0x60000002), at + 32, "Q", len(table))
            data = set_bytes(data, at + 56, "Q", 1)
            data = data[: fields[4]] + table + data[fields[4] + len(table) :]
    [segment] = [fields for _, fields in program_headers(data) if fields[0] == 2]
    for entry in range(segment[2], segment[2] + segment[5], 16):
        [tag] = struct.unpack_from("<Q" if data[5] == 1 else ">Q", data, entry)
        if tag in (7, 8, 0x6FFFFFF9):
            data = set_bytes(data, entry, "Q", {7: 0x60000011, 8: 0x60000012}.get(tag, 21))
        if tag == 8:
            data = set_bytes(data, entry + 8, "Q", len(table))
    path.write_bytes(data)


def without_section_headers(data: bytes) -> bytes:
    """As sstrip and packers leave a file: a loader does not miss them."""
    return set_bytes(set_bytes(set_bytes(data, 40, "Q", 0), 60, "H", 0), 62, "H", 0)


def with_added_segment(path: Path, words: bytes, address: int, flags: int = 5) -> None:
    """Add a segment with these bytes and no section, as tools do that patch files: it takes the place of GNU_STACK."""
    data = path.read_bytes()
    [at] = [at for at, fields in program_headers(data) if fields[0] == 0x6474E551]
    offset = -(-len(data) // 4096) * 4096 + address % 4096
    fields = (1, flags, offset, address, address, len(words), len(words), 4096)
    data = data.ljust(offset, b"\0") + words
    entry = struct.pack(("<" if data[5] == 1 else ">") + "IIQQQQQQ", *fields)
    path.write_bytes(data[:at] + entry + data[at + len(entry) :])

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

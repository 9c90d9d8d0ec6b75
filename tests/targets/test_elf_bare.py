"""ELF files without section headers, as packers, sstrip and vendors leave them: what PT_DYNAMIC tells of them.

GNU as, ld and gcc make the files, and GNU readelf is the judge.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from a64patch.errors import FormatError
from a64patch.openers import open_target
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import ElfImage
from tests.support import assemble, link, need, run
from tests.targets.elf_files import program_headers, set_bytes, without_section_headers
from tests.targets.test_elf_stubs import FORMS, compiled, stubs

LIBRARY = """
    .macro function name
    .globl \\name
    .type \\name, %function
\\name: mov w0, #1
    ret
    .size \\name, . - \\name
    .endm
    .text
    function one
    function two
    function three
    function four
    .globl plain
plain:
    bl outside
    bl outside
    .data
    .globl number
    .type number, %object
number: .xword 1
    .size number, 8
    .bss
    .globl room
room:   .skip 8
"""
HASHES = ("sysv", "gnu", "both")
SYMTAB, STRTAB, STRSZ, SYMENT, HASH, GNU_HASH = 6, 5, 10, 11, 4, 0x6FFFFEF5


def library(folder: Path, style: str, source: str = LIBRARY) -> Path:
    made = assemble(source, folder / "library.o")
    return link(made, folder / "library.so", "-shared", "-z", "notext", f"--hash-style={style}")


def bare(path: Path) -> Path:
    made = path.with_name(f"{path.name}.bare")
    made.write_bytes(without_section_headers(path.read_bytes()))
    return made


def listed(path: Path, *options: str) -> dict[str, int]:
    """The defined dynamic symbols that GNU readelf lists."""
    listing = run(need("aarch64-linux-gnu-readelf", "binutils-aarch64-linux-gnu"), "-W", *options, path)
    rows = re.findall(r"^ *[0-9]+: ([0-9a-f]{16}) +\S+ \S+ +\S+ +\S+ +([0-9A]\S*) (\S+)", listing, re.M)
    return {name: int(address, 16) for address, _, name in rows}


@pytest.mark.parametrize("style", HASHES)
def test_names_without_section_headers_are_those_of_readelf(tmp_path: Path, style: str) -> None:
    path = library(tmp_path, style)
    names = {symbol.name: symbol.address for symbol in ElfImage(bare(path).read_bytes(), "").symbols()}
    assert names == listed(path, "--dyn-syms") == listed(bare(path), "-D", "-s")
    assert {"one", "two", "three", "four", "plain", "number", "room"} <= names.keys()


@pytest.mark.parametrize("style", HASHES)
def test_code_without_section_headers_is_found_by_name(tmp_path: Path, style: str) -> None:
    path = bare(library(tmp_path, style))
    with open_target(path) as target:
        three = target.symbols.find("three")
        assert (three.size, three.is_function) == (8, True)
        assert target.symbols.describe(three.address + 4) == "three+0x4"
        assert target.read(three.address, 8).hex() == "20008052c0035fd6"
        plain = target.symbols["plain"]
        assert target.symbols.describe(plain + 4) == "plain+0x4"
        # A symbol without a size ends with its segment at the latest.
        [(_, end)] = [span for span in target.code_ranges() if span[0] <= plain < span[1]]
        assert target.symbols.lookup(end + 0x1000) is None


@pytest.mark.parametrize("form", FORMS)
def test_stubs_have_their_names_without_section_headers(tmp_path: Path, form: str) -> None:
    path = compiled(tmp_path / "program", *FORMS[form])
    assert stubs(bare(path)) == stubs(path) != {}


def test_a_table_without_exported_symbols_still_names_stubs(tmp_path: Path) -> None:
    """GNU ld counts undefined symbols in no GNU hash table."""
    path = bare(compiled(tmp_path / "program", "-Wl,--hash-style=gnu"))
    assert "puts@plt" in stubs(path)


def entries(data: bytes) -> dict[int, int]:
    """The place of the value of each tag in PT_DYNAMIC."""
    [segment] = [fields for _, fields in program_headers(data) if fields[0] == 2]
    return {struct.unpack_from("<Q", data, at)[0]: at + 8 for at in range(segment[2], segment[2] + segment[5], 16)}


def value(data: bytes, tag: int) -> int:
    [found] = struct.unpack_from("<Q", data, entries(data)[tag])
    return int(found)


def test_without_a_hash_table_there_are_no_names_and_no_error(tmp_path: Path) -> None:
    data = bare(library(tmp_path, "gnu")).read_bytes()
    data = set_bytes(data, entries(data)[GNU_HASH] - 8, "Q", 21)
    assert ElfImage(data, "").symbols() == []


@pytest.mark.parametrize(
    ("tag", "new", "problem"),
    [
        (SYMTAB, 1 << 40, "its dynamic symbol table at address 0x10000000000, .* is not mapped"),
        (STRTAB, 1 << 40, "its dynamic string table at address 0x10000000000, .* is not mapped"),
        (STRSZ, 1 << 63, "its dynamic string table at address .* is not mapped"),
        (STRSZ, 0, "lies outside its string table"),
        (SYMENT, 16, "the entries of its dynamic symbol table have 16 bytes"),
        (HASH, 1 << 63, "its hash table at address 0x8000000000000000, .* is not mapped"),
        (GNU_HASH, (1 << 64) - 4, "its GNU hash table at address 0xfffffffffffffffc, .* is not mapped"),
    ],
)
def test_a_table_that_is_not_there_is_refused(tmp_path: Path, tag: int, new: int, problem: str) -> None:
    data = bare(library(tmp_path, "sysv" if tag == HASH else "gnu")).read_bytes()
    data = set_bytes(data, entries(data)[tag], "Q", new)
    with pytest.raises(FormatError, match=problem):
        ElfImage(data, "damaged").symbols()


def test_hostile_hash_tables_are_refused(tmp_path: Path) -> None:
    data = bare(library(tmp_path, "sysv")).read_bytes()
    with pytest.raises(FormatError, match=r"its dynamic symbol table at address .* is not mapped"):
        ElfImage(set_bytes(data, value(data, HASH) + 4, "I", 0xFFFFFFFF), "").symbols()
    data = bare(library(tmp_path, "gnu")).read_bytes()
    table = value(data, GNU_HASH)
    for place in (0, 8):  # the number of buckets; the size of the filter
        with pytest.raises(FormatError, match=r"its GNU hash table at address .* is not mapped"):
            ElfImage(set_bytes(data, table + place, "I", 0xFFFFFFFF), "").symbols()
    buckets, first, bloom, _ = struct.unpack_from("<4I", data, table)
    chains = table + 16 + 8 * bloom + 4 * buckets
    with pytest.raises(FormatError, match=r"its GNU hash table at address .* is not mapped"):
        ElfImage(set_bytes(data, chains - 4, "I", 0xFFFFFFFF), "").symbols()
    place = next(symbol.address for symbol in ElfImage(data, "").symbols() if symbol.name == "number")
    start, _, offset = ElfImage(data, "").piece_at(place) or (0, 0, 0)
    offset += place - start
    endless = set_bytes(data, chains - 4, "I", first + (place - chains) // 4)
    endless = endless[:offset] + bytes(len(data) - offset)
    with pytest.raises(FormatError, match="a chain of its GNU hash table does not end"):
        ElfImage(endless, "").symbols()


def test_a_symbol_of_both_tables_is_read_from_sections_where_there_are_some(tmp_path: Path) -> None:
    """PT_DYNAMIC names the same table again, and its hash tables may be gone."""
    path = library(tmp_path, "gnu")
    data = path.read_bytes()
    before = ElfImage(data, "").symbols()
    assert ElfImage(set_bytes(data, entries(data)[GNU_HASH], "Q", 1 << 60), "").symbols() == before
    with ElfFile(path) as file:
        assert file.symbols["one"]

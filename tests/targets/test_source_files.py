"""The source files of local symbols, by the STT_FILE symbols that GNU as and GNU ld write.

Read on: the gABI, "Symbol Table", STT_FILE: it precedes the other STB_LOCAL symbols of its file.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from a64patch.errors import SymbolError
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import SHT_SYMTAB, STT_FILE, ElfImage
from tests.support import assemble, link


def source(file: str, name: str) -> str:
    """A source file with a static function `dup`, a global function, and a variable that is in no other file."""
    return f"""
        .file "{file}"
        .type dup, %function
        dup: nop
        ret
        .size dup, 8
        .globl {name}
        .type {name}, %function
        {name}: bl dup
        ret
        .size {name}, 8
        .data
        only_{name}: .word 1
        """


@pytest.fixture
def objects(tmp_path: Path) -> list[Path]:
    return [assemble(source(f"{name}.c", name), tmp_path / f"{name}.o") for name in ("one", "two")]


def files_of(path: Path) -> dict[str, set[str]]:
    """The source files of the symbols of each name."""
    found: dict[str, set[str]] = {}
    for symbol in ElfImage(path.read_bytes(), path.name).symbols():
        found.setdefault(symbol.name, set()).add(symbol.file)
    return found


OPTIONS = {"static": ("-e", "one"), "pie": ("-pie", "-e", "one"), "shared": ("-shared",), "object": ("-r",)}


@pytest.mark.parametrize("kind", OPTIONS)
def test_local_symbols_have_the_file_before_them(objects: list[Path], tmp_path: Path, kind: str) -> None:
    path = link(objects, tmp_path / "program", *OPTIONS[kind])
    files = files_of(path)
    assert files["dup"] == {"one.c", "two.c"}
    assert (files["only_one"], files["only_two"]) == ({"one.c"}, {"two.c"})
    assert files["one"] == files["two"] == {""}  # global
    with ElfFile(path) as target:
        assert target.symbols.resolve("two.c:dup+8") == target.symbols["two"]
        assert target.symbols.describe(target.symbols["two"] - 4) == "two.c:dup+0x4"
        with pytest.raises(SymbolError, match=r"'dup' stands for 2 addresses \(0x[0-9a-f]+ is one.c:dup, .*name one"):
            target.symbols.resolve("dup")


def test_names_that_gnu_ld_makes_have_no_file(objects: list[Path], tmp_path: Path) -> None:
    """It puts an STT_FILE without a name before its own local symbols, such as _DYNAMIC."""
    path = link(objects, tmp_path / "shared", "-shared")
    assert files_of(path)["_DYNAMIC"] == {""}
    assert [name for _, name in _file_symbols(path)] == ["one.c", "two.c", ""]


def test_a_stripped_program_knows_no_files(objects: list[Path], tmp_path: Path) -> None:
    path = link(objects, tmp_path / "shared", "-shared", "-s")
    assert set().union(*files_of(path).values()) == {""}


def test_symbols_before_the_first_file_have_none(objects: list[Path], tmp_path: Path) -> None:
    path = link(objects, tmp_path / "program", "-e", "one")
    data = bytearray(path.read_bytes())
    for at, _ in _file_symbols(path)[:1]:
        data[at + 4] &= 0xF0  # no STT_FILE any more
    path.write_bytes(data)
    assert files_of(path)["dup"] == {"", "two.c"}


def _file_symbols(path: Path) -> list[tuple[int, str]]:
    """The STT_FILE symbols of .symtab: their offsets in the file, and their names."""
    data = path.read_bytes()
    image = ElfImage(data, path.name)
    [table] = [section for section in image.sections if section.type == SHT_SYMTAB]
    strings = image.sections[table.link].offset
    found = []
    for at in range(table.offset, table.offset + table.size, 24):
        name, info = struct.unpack_from("<IB", data, at)
        if info & 15 == STT_FILE:
            found.append((at, data[strings + name : data.index(b"\0", strings + name)].decode() if name else ""))
    return found

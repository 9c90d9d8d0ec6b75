"""Debug files: a file with the names of a program and none of its code is no target, but a source of names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch.errors import FormatError, MappingError, MismatchError
from a64patch.kernel.symbols import read_source
from a64patch.openers import open_target
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.naming import name_program
from tests.support import assemble, link, need, run
from tests.targets.elf_files import LINKED, MOV, NOP, build, section_headers, set_bytes

NOTE, NOBITS = 7, 8


def by_binutils(path: Path) -> Path:
    """What GNU objcopy makes of a program."""
    made = path.with_suffix(".debug")
    run(need("aarch64-linux-gnu-objcopy", "binutils-aarch64-linux-gnu"), "--only-keep-debug", path, made)
    return made


def by_elfutils(path: Path) -> Path:
    """As `eu-strip -f` makes it: headers keep their offsets, which now lead to other bytes."""
    data = path.read_bytes()
    for at, fields in section_headers(data):
        if fields[2] & 2 and fields[1] not in (NOTE, NOBITS):
            words = fields[5] // 4
            data = data[: fields[4]] + NOP * words + data[fields[4] + 4 * words :]
            data = set_bytes(data, at + 4, "I", NOBITS)
    made = path.with_suffix(".debug")
    made.write_bytes(data)
    return made


Maker = Callable[[Path], Path]
MAKERS = pytest.mark.parametrize("make", [by_binutils, by_elfutils])


@MAKERS
@pytest.mark.parametrize("kind", ["object", *LINKED])
def test_a_debug_file_is_no_target(tmp_path: Path, kind: str, make: Maker) -> None:
    path = make(build(tmp_path, kind))
    for open_it in (ElfFile, open_target):
        with pytest.raises(FormatError, match=r"\.debug is a debug file, .* no code: open the program itself"):
            open_it(path)


@MAKERS
def test_a_debug_file_is_no_program_for_the_simulator(tmp_path: Path, make: Maker) -> None:
    path = make(build(tmp_path, "exec"))
    with pytest.raises(FormatError, match="is a debug file"):
        open_target(f"sim:{path}")


@MAKERS
@pytest.mark.parametrize("kind", LINKED)
def test_what_a_debug_file_says_of_its_program(tmp_path: Path, kind: str, make: Maker) -> None:
    path = build(tmp_path, kind)
    with ElfFile(path) as program, ElfFile(make(path), names_only=True) as names:
        assert program.build_id == names.build_id != ""
        assert program.build_id_note == names.build_id_note
        assert program.read(names.build_id_note[0], 16) == names.build_id_note[1]
        assert names.code_ranges() == program.code_ranges()
        for name in ("_start", "helper", "second"):
            assert names.symbols.find(name) == program.symbols.find(name)
        start = names.symbols["_start"]
        with pytest.raises(MappingError):
            names.read(start, 4)
        with pytest.raises(MappingError):
            names.write(start, NOP)


@MAKERS
def test_a_debug_file_names_a_program_of_its_build(tmp_path: Path, make: Maker) -> None:
    path = build(tmp_path, "exec")
    stripped = tmp_path / "stripped"
    run("aarch64-linux-gnu-strip", "-o", stripped, path)
    with ElfFile(path) as program:
        start = program.symbols["_start"]
    with open_target(f"sim:{stripped}") as target:
        assert target.symbols.describe(start) == f"{start:#x}"
        name_program(target, make(path))
        assert target.symbols["_start"] == start
        assert target.read(start, 4) == MOV


@MAKERS
def test_a_debug_file_names_no_program_of_another_build(tmp_path: Path, make: Maker) -> None:
    path = build(tmp_path, "exec")
    other = link(assemble("_start: nop", tmp_path / "o.o"), tmp_path / "other", "--build-id=0x0011")
    with open_target(f"sim:{path}") as target, pytest.raises(MismatchError, match="its build id is not in its memory"):
        name_program(target, make(other))
    none = link(assemble("_start: nop", tmp_path / "n.o"), tmp_path / "none", "--build-id=none")
    with open_target(f"sim:{none}") as target, pytest.raises(MismatchError, match="its build id is not in its memory"):
        name_program(target, make(none))


@MAKERS
def test_a_debug_file_of_a_kernel_knows_its_functions(tmp_path: Path, make: Maker) -> None:
    source = ".globl _stext, _etext\n_start: _stext: nop\nwork: nop\n_etext:\n.data\nnumber: .word 1"
    path = make(link(assemble(source, tmp_path / "k.o"), tmp_path / "vmlinux"))
    found = {symbol.name: symbol.is_text for symbol in read_source(path).symbols}
    assert (found["work"], found["number"]) == (True, False)


def test_a_section_of_code_without_bytes_is_no_code(tmp_path: Path) -> None:
    """A program may reserve room for code that comes later."""
    source = '_start: ret\n.section .later, "ax", %nobits\nlater: .skip 64'
    path = link(assemble(source, tmp_path / "l.o"), tmp_path / "program")
    image = ElfImage(path.read_bytes(), "program")
    assert not image.is_debug_file
    later = {symbol.name: symbol.address for symbol in image.symbols()}["later"]
    assert later in image.executable
    assert later not in image.code
    with ElfFile(path) as target, pytest.raises(MappingError):
        target.write(later, NOP)

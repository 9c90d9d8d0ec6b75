"""A stripped program takes names from its debug file, which GNU objcopy and strip make, and from no other file."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch.cli.main import main
from a64patch.openers import open_target
from a64patch.targets import debug_link
from a64patch.targets.elf import ElfFile
from a64patch.targets.replace import FileOnDisk
from tests.support import need, run
from tests.targets.elf_files import LINKED, MOV, NOP, build, set_bytes
from tests.targets.test_naming import SOURCE

NAME = "program.debug"
BUILD_ID = "00112233445566778899aabbccddeeff"


@pytest.fixture(autouse=True)
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of /usr/lib/debug."""
    folder = tmp_path / "system"
    monkeypatch.setattr(debug_link, "DEBUG_FOLDER", str(folder))
    return folder


def objcopy(*arguments: str | Path) -> None:
    run(need("aarch64-linux-gnu-objcopy", "binutils-aarch64-linux-gnu"), *arguments)


def parted(folder: Path, kind: str = "exec", *, big: bool = False, build_id: bool = True) -> tuple[Path, Path]:
    """A stripped program that names its debug file, and the debug file, in a folder where nobody looks for it."""
    options = () if build_id else ("--build-id=none",)
    whole = build(folder, kind, big, SOURCE, options)
    apart = folder / "apart"
    apart.mkdir(exist_ok=True)
    debug, program = apart / NAME, folder / "program"
    objcopy("--only-keep-debug", whole, debug)
    objcopy("--strip-all", f"--add-gnu-debuglink={debug}", whole, program)
    whole.unlink()
    return program, debug


def has_names(program: Path) -> bool:
    with ElfFile(program) as file:
        names = {symbol.name for symbol in file.symbols.ascending()}
        return "helper" in names and file.read(file.symbols["_start"], 4).hex() == "20008052"


PLACES: dict[str, Callable[[Path, Path], Path]] = {
    "beside the program": lambda program, _: program.with_name(NAME),
    "in .debug": lambda program, _: program.parent / ".debug" / NAME,
    "in the system's folder": lambda program, system: Path(f"{system}{program.parent}") / NAME,
    "by build id": lambda _, system: system / ".build-id" / BUILD_ID[:2] / f"{BUILD_ID[2:]}.debug",
}


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("build_id", [False, True], ids=["no build id", "build id"])
@pytest.mark.parametrize("place", PLACES)
def test_a_stripped_program_finds_its_debug_file(
    tmp_path: Path, system: Path, place: str, build_id: bool, big: bool
) -> None:
    program, debug = parted(tmp_path, big=big, build_id=build_id)
    assert not has_names(program)
    wanted = PLACES[place](program, system)
    wanted.parent.mkdir(parents=True, exist_ok=True)
    debug.rename(wanted)
    assert has_names(program) == (build_id or place != "by build id")
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(program)
    assert has_names(link) == has_names(program)


@pytest.mark.parametrize("kind", LINKED)
def test_names_are_those_of_the_whole_program(tmp_path: Path, kind: str) -> None:
    whole = build(tmp_path, kind)
    with ElfFile(whole) as file:
        expected = set(file.symbols.ascending())
    debug, program = tmp_path / NAME, tmp_path / "program"
    objcopy("--only-keep-debug", whole, debug)
    objcopy("--strip-all", f"--add-gnu-debuglink={debug}", whole, program)
    with ElfFile(program) as file:
        assert set(file.symbols.ascending()) == expected
        assert file.read(file.symbols["_start"], 4) == MOV


def test_a_changed_debug_file_is_not_used(tmp_path: Path) -> None:
    program, debug = parted(tmp_path, build_id=False)
    data = debug.read_bytes()
    place = program.with_name(NAME)
    place.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not has_names(program)
    place.write_bytes(data)
    assert has_names(program)


def test_a_debug_file_of_another_build_is_not_used(tmp_path: Path, system: Path) -> None:
    """Not even when the CRC-32 fits, or when it is where only the build id leads."""
    program, debug = parted(tmp_path)
    theirs = debug.read_bytes().replace(bytes.fromhex(BUILD_ID), bytes(16))
    data = program.read_bytes()
    at = data.index(NAME.encode() + b"\0") + len(NAME) + 1
    at += -len(NAME) - 1 & 3
    assert data[at : at + 4] == zlib.crc32(debug.read_bytes()).to_bytes(4, "little")
    program.write_bytes(set_bytes(data, at, "I", zlib.crc32(theirs)))
    for place in PLACES.values():
        wanted = place(program, system)
        wanted.parent.mkdir(parents=True, exist_ok=True)
        wanted.write_bytes(theirs)
    assert not has_names(program)


def test_a_debug_file_of_another_layout_is_not_used(tmp_path: Path) -> None:
    """A CRC-32 is no proof: anybody can make a file that has it."""
    program, debug = parted(tmp_path, build_id=False)
    with ElfFile(debug, names_only=True) as names:
        [section] = [one for one in names._image.sections if one.executable]
        at = names._image._sections_at + 64 * names._image.sections.index(section)
    theirs = set_bytes(debug.read_bytes(), at + 32, "Q", section.size + 4)
    data = program.read_bytes()
    fits, forged = zlib.crc32(debug.read_bytes()).to_bytes(4, "little"), zlib.crc32(theirs).to_bytes(4, "little")
    assert data.count(fits) == 1
    program.write_bytes(data.replace(fits, forged))
    program.with_name(NAME).write_bytes(theirs)
    assert not has_names(program)


@pytest.mark.parametrize("name", ["../x/y.debug", "/etc/y.debug", "..", ""])
def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = parted(tmp_path, build_id=False)
    data = program.read_bytes()
    program.write_bytes(data.replace(NAME.encode() + b"\0", name.encode().ljust(len(NAME) + 1, b"\0")))
    opened: list[str] = []

    def opens(path: str) -> FileOnDisk:
        opened.append(path)
        return FileOnDisk(path)

    monkeypatch.setattr(debug_link, "FileOnDisk", opens)
    assert not has_names(program)
    assert opened == []


@pytest.mark.parametrize("kind", ["pipe", "folder", "empty", "text", "cut"])
def test_anything_else_in_the_place_is_passed_over(tmp_path: Path, kind: str) -> None:
    program, debug = parted(tmp_path)
    place = program.with_name(NAME)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.write_bytes({"empty": b"", "text": b"text\n", "cut": debug.read_bytes()[:-200]}[kind])
    assert not has_names(program)


def test_a_program_with_names_looks_for_no_debug_file(tmp_path: Path) -> None:
    whole = build(tmp_path, "exec", source=SOURCE)
    debug = tmp_path / NAME
    objcopy("--only-keep-debug", "--redefine-sym", "helper=other", whole, debug)
    objcopy(f"--add-gnu-debuglink={debug}", whole)
    with ElfFile(whole) as file:
        assert {"helper"} == {symbol.name for symbol in file.symbols.ascending()} & {"helper", "other"}
        assert file.facts() == {}


def test_a_debug_file_with_the_name_of_its_program(tmp_path: Path) -> None:
    whole = build(tmp_path, "shared", source=SOURCE)
    folder = tmp_path / ".debug"
    folder.mkdir()
    program, debug = tmp_path / "program.so", folder / "program.so"
    objcopy("--only-keep-debug", whole, debug)
    objcopy("--strip-all", f"--add-gnu-debuglink={debug}", whole, program)
    assert has_names(program)
    with ElfFile(program) as file:
        assert file.facts() == {"names from": str(debug)}


def test_a_patched_program_keeps_its_debug_file(tmp_path: Path) -> None:
    program, debug = parted(tmp_path, build_id=False)
    debug.rename(program.with_name(NAME))
    with ElfFile(program) as file:
        place = file.symbols["helper"]
        file.write(place + 4, NOP)
        file.publish(place, place + 8)
    assert has_names(program)


def test_data_in_code_is_known_from_the_debug_file(tmp_path: Path) -> None:
    source = SOURCE.replace("    .size helper", "literal: .word 0xd503201f\n    .size helper")
    whole = build(tmp_path, "exec", source=source)
    debug, program = tmp_path / NAME, tmp_path / "program"
    objcopy("--only-keep-debug", whole, debug)
    objcopy("--strip-all", f"--add-gnu-debuglink={debug}", whole, program)
    with ElfFile(whole) as file, ElfFile(program) as stripped:
        [expected] = file.modules.claims
        [claim] = stripped.modules.claims
        assert (claim.hazard, claim.words) == ("data", expected.words)
        assert stripped.symbols["literal"] in claim.words
    debug.unlink()
    with ElfFile(program) as stripped:
        assert list(stripped.modules.claims) == []


def test_show_says_where_the_names_are_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, debug = parted(tmp_path)
    place = debug.rename(program.with_name(NAME))
    assert main(["show", str(program), "--target-info"]) == 0
    assert f"names from                          {place}" in capsys.readouterr().out
    assert main(["show", str(program), "helper"]) == 0
    assert "helper+0x4" in capsys.readouterr().out


def test_the_simulator_and_a_named_file_use_it_too(tmp_path: Path) -> None:
    program, debug = parted(tmp_path)
    with open_target(f"sim:{program}") as target:
        assert target.symbols.ascending() == []
    debug.rename(program.with_name(NAME))
    with open_target(f"sim:{program}") as target:
        assert target.read(target.symbols["helper"], 4) == NOP
    copy = tmp_path / "elsewhere" / "copy"
    copy.parent.mkdir()
    copy.write_bytes(program.read_bytes())
    with open_target(copy, symbols=program) as target:
        assert target.symbols.describe(target.symbols["helper"]) == "helper"

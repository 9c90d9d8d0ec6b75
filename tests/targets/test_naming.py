"""Names for an ELF file from another file of the same build: the program before strip, or its debug file.

Real strip and objcopy make the files.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from a64patch.errors import FormatError, MismatchError, WriteError
from a64patch.openers import open_target
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import ElfImage
from tests.support import assemble, link

SOURCE = """
    .globl _start
    .type _start, %function
_start: mov w0, #1
    bl helper
    ret
    .size _start, . - _start
    .type helper, %function
helper: nop
    ret
    .size helper, . - helper
"""
OTHER = SOURCE.replace("#1", "#2")


def built(folder: Path, source: str = SOURCE, *options: str) -> Path:
    return link(assemble(source, folder / "program.o"), folder / "program", *options)


def objcopy(*arguments: str | Path) -> None:
    subprocess.run(["aarch64-linux-gnu-objcopy", *arguments], check=True)


def stripped(program: Path) -> Path:
    made = program.with_name("stripped")
    objcopy("--strip-all", program, made)
    return made


def debug_file(program: Path, *, keep_offsets: bool) -> Path:
    """As `objcopy --only-keep-debug` makes it, or as `eu-strip -f`: with the segments of the program."""
    made = program.with_name("debug")
    objcopy("--only-keep-debug", program, made)
    if keep_offsets:
        data, whole = bytearray(made.read_bytes()), program.read_bytes()
        image = ElfImage(whole, "")
        start, size = image._segments_at, 56 * len(image.segments)
        data[start : start + size] = whole[start : start + size]
        data += bytes(max(0, len(whole) - len(data)))
        made.write_bytes(data)
    return made


@pytest.mark.parametrize("build_id", ["--build-id=0xaabb", "--build-id=none"])
def test_a_stripped_program_gets_the_names_of_its_twin(tmp_path: Path, build_id: str) -> None:
    program = built(tmp_path, SOURCE, build_id)
    with open_target(stripped(program), symbols=program) as target:
        assert target.symbols.describe(target.symbols["helper"]) == "helper"
        assert target.read(target.symbols["helper"], 4).hex() == "1f2003d5"


@pytest.mark.parametrize("keep_offsets", [False, True])
def test_a_debug_file_has_names_and_no_code(tmp_path: Path, keep_offsets: bool) -> None:
    program = built(tmp_path, SOURCE, "--build-id=0xaabb")
    debug = debug_file(program, keep_offsets=keep_offsets)
    before = debug.read_bytes()
    with pytest.raises(FormatError, match="is a debug file, which holds names but no code: open the program itself"):
        open_target(debug)
    assert debug.read_bytes() == before
    with open_target(stripped(program), symbols=debug) as target:
        assert target.read(target.symbols["helper"], 4).hex() == "1f2003d5"


def test_a_file_of_another_build_names_nothing(tmp_path: Path) -> None:
    other = built(tmp_path, OTHER, "--build-id=0xccdd").rename(tmp_path / "other")
    without = built(tmp_path, OTHER, "--build-id=none").rename(tmp_path / "without")
    target = stripped(built(tmp_path, SOURCE, "--build-id=0xaabb"))
    for source in (other, without):
        with pytest.raises(MismatchError, match=r"is not of the same build as .* and has other code"):
            open_target(target, symbols=source)
    with pytest.raises(MismatchError, match="is not linked in the way"):
        open_target(target, symbols=tmp_path / "program.o")
    debug = debug_file(without, keep_offsets=False)
    with pytest.raises(MismatchError, match="without build id"):
        open_target(target, symbols=debug)


@pytest.mark.parametrize("how", ["times put back", "mapping"])
def test_a_change_of_somebody_else_is_not_lost(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = built(tmp_path)
    status = program.stat()
    with ElfFile(program) as file:
        start = file.symbols["_start"]
        file.write(start, bytes.fromhex("1f2003d5"))
        with program.open("r+b") as other:
            other.seek(-1, os.SEEK_END)
            last = other.read(1)
            other.seek(-1, os.SEEK_END)
            other.write(bytes([last[0] ^ 1]))
        os.utime(program, ns=(status.st_atime_ns, status.st_mtime_ns))
        if how == "mapping":
            # A write through a shared mapping changes the times later, so none of them tells.
            identity = file._file._identity
            monkeypatch.setattr(type(identity), "of", lambda _: identity)
        theirs = program.read_bytes()
        with pytest.raises(WriteError, match="was changed on disk since it was opened"):
            file.publish(start, start + 4)
    assert program.read_bytes() == theirs
    assert [name for name in os.listdir(tmp_path) if "a64patch" in name] == []

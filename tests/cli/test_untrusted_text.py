"""Names, paths and messages that somebody else chose: no control character of theirs reaches a terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from a64patch.cli.output import Output, one_line, say, visible
from a64patch.targets.elf import ElfFile
from tests.cli.running import Run
from tests.cli.test_tables import at_terminal
from tests.support import assemble, link
from tests.targets.elf_files import NOP

EVIL = "x\x1b[31m\u202e\x9b2Jy"
CONTROLS = [chr(number) for number in (*range(32), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F),
                                       *range(0x2066, 0x206A))]  # fmt: skip
SOURCE = """
    .globl _start
    .type _start, %function
_start: nop
    bl other_name
    ret
    .size _start, . - _start
    .type other_name, %function
other_name: mov w0, #1
    ret
    .size other_name, . - other_name
"""


def clean(text: str) -> bool:
    return not any(letter in CONTROLS for letter in text.replace("\n", ""))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program with control characters in its path and in the name of a function."""
    folder = tmp_path / f"folder\n{EVIL}"
    folder.mkdir()
    path = link(assemble(SOURCE, tmp_path / "p.o"), folder / "program", "--build-id=0xaabb")
    path.write_bytes(path.read_bytes().replace(b"other_name\0", b"o\x1b[31m\nr\x07e\0"))
    return path


def test_control_characters_are_spelled_out() -> None:
    assert all(clean(visible(letter)) or letter == "\t" for letter in CONTROLS)
    assert visible("a\tb\nc\x1b[0m\u202e") == "a\tb\nc\\x1b[0m\\u202e"
    assert one_line("a\tb\nc\x1b") == "a\\tb\\nc\\x1b"
    plain = "größer «日本» — \u00a0 \u200d ✓"
    assert visible(plain) == one_line(plain) == plain


def commands(program: Path, folder: Path) -> list[tuple[str | Path, ...]]:
    with ElfFile(program) as file:
        start = file.symbols["_start"]
    fits, foreign = folder / "fits", folder / f"foreign{EVIL}"
    fits.write_text(f"@@ {start:#x} @@\n-d503201f\n+d503203f\n")
    foreign.write_text(f"@@ {start + 4:#x} @@\n-d503201f\n+d503203f\n@@ {start + 12:#x} @@\n-d503201f\n+d503203f\n")
    other = folder / "other"
    other.write_bytes(program.read_bytes())
    with ElfFile(other) as file:
        file.write(start + 12, NOP)
        file.publish(start + 12, start + 16)
    journal = ("--journal", folder / "journal")
    return [
        ("show", program, "_start", "-n", "5"),
        ("show", program, "--target-info"),
        ("show", program, f"no{EVIL}"),
        ("show", folder / EVIL, "main"),
        ("status", foreign, program),
        ("apply", foreign, program, "--dry-run", *journal),
        ("apply", foreign, program, *journal),
        ("apply", fits, program, "--dry-run", *journal),
        ("apply", fits, program, *journal),
        ("log", *journal),
        ("log", "1", *journal),
        ("diff", other, program),
        ("diff", program, other),
        ("fmt", foreign, program),
        ("poke", program, f"{start + 4:#x}", "nop", "--expect", "yield", *journal),
        ("revert", "1", *journal),
        ("recover", *journal),
        ("litmus", folder / EVIL),
        ("asm", f"b no{EVIL}\nat all"),
    ]


def test_no_command_prints_control_characters(run: Run, program: Path, tmp_path: Path) -> None:
    seen = ""
    for command in commands(program, tmp_path):
        done = run(*command)
        assert clean(done.out + done.err), (command, done.out, done.err)
        if command[0] in ("show", "log") and done.status == 0:
            assert not [line for line in done.out.splitlines() if line.startswith(("r\\x07e", "x\\x1b"))]
        seen += done.out + done.err
    assert seen.count("\\x1b[31m") > 12
    assert seen.count("\\u202e") > 4


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("a name\na64patch: everything was done")
    assert capsys.readouterr().err == "a64patch: a name\\na64patch: everything was done\n"


def test_colours_still_reach_a_terminal(program: Path, tmp_path: Path) -> None:
    """rich writes the plan. Its own colours are control characters, and those of names are spelled out."""
    (tmp_path / "fits").write_text("@@ _start+4 @@\n-94000002\n+d503201f\n")
    written = at_terminal(tmp_path, "apply", "fits", str(program), "--dry-run")
    assert "\x1b[33mnot applied" in written
    # The name is spelled out when it is read, and has backslashes of its own from then on.
    assert r'bl "o\\x1b[31m\\nr\\x07e"' in re.sub("\x1b\\[[0-9;]*m", "", written)


def test_print_counts_the_letters_that_it_was_given() -> None:
    bytes_of = io.BytesIO()
    output = Output(io.TextIOWrapper(bytes_of, "utf-8"))
    assert output.write("a\x1b") == 2
    output.flush()
    assert bytes_of.getvalue() == b"a\\x1b"

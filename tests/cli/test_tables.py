"""Tables with long names and paths: a record is one line, whole, in a pipe and at a terminal of 80 columns."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from a64patch.cli.table import print_table
from tests.support import ROOT, assemble, link

LONG = "_ZN" + "".join(f"{len(part)}{part}" for part in ("vendor", "scheduler", "policy") * 8) + "EvRKSsPKc"
assert len(LONG) >= 200
SOURCE = f"""
    .globl _start, {LONG}
    .type _start, %function
    .type {LONG}, %function
_start: bl {LONG}
    cbz w0, {LONG} + 4
    ret
    .size _start, . - _start
{LONG}: mov w0, #1
    b {LONG}
    ret
    .size {LONG}, . - {LONG}
"""
PATCH = f"""Answer 2, and call nobody.

Build-Id: aabbccdd
Hunks: 2

@@ {LONG} -1 +1 @@
-52800020
+52800040

@@ _start -1 +1 @@
-94000003
+d503201f
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "long-path-" / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    link(assemble(SOURCE, tmp_path / "program.o"), folder / "program", "--build-id=0xaabbccdd")
    (folder / "fix.patch").write_text(PATCH)
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "a64patch", *arguments]


def environment(folder: Path) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "LINES")}
    state = {"XDG_STATE_HOME": str(folder.parent.parent / "state"), "PYTHONPATH": str(ROOT / "src")}
    return {**known, **state, "COLUMNS": "80", "TERM": "xterm"}


def in_pipe(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        command(*arguments), cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, check=False,
    )  # fmt: skip
    return done.stdout


def at_terminal(folder: Path, *arguments: str) -> str:
    """The output at a terminal of 80 columns, as it was written."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    written = bytearray()
    with subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(folder), stdin=slave, stdout=slave, stderr=subprocess.DEVNULL
    ):
        os.close(slave)
        try:
            while piece := os.read(master, 1 << 16):
                written += piece
        except OSError:
            # Linux ends the reading of a terminal that nobody writes to any more with EIO.
            pass
    os.close(master)
    return written.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


COMMANDS: dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]] = {
    "show": (("show", "program", LONG), [(LONG, "52800020", "mov w0, #1"), (f"{LONG}+0x4", f"b {LONG}")]),
    "show --target-info": (("show", "PROGRAM", "--target-info"), [("location", "PROGRAM"), ("build id", "aabbccdd")]),
    "status": (("status", "fix.patch", "program"), [(LONG, "not applied"), ("_start", "not applied")]),
    "status of a foreign word": (
        ("status", "-R", "foreign.patch", "program"),
        [(LONG, "foreign", f"{LONG} holds 52800020 (mov w0, #1), not 52800060 (mov w0, #3)")],
    ),
    "apply --dry-run": (
        ("apply", "fix.patch", "program", "--dry-run"),
        [(LONG, "not applied", "mov w0, #1", "mov w0, #2", "no"), ("_start", f"bl {LONG}", "nop", "yes")],
    ),
    "apply --dry-run of a foreign word": (
        ("apply", "-R", "foreign.patch", "program", "--dry-run"),
        [(LONG, "foreign", f"{LONG} holds 52800020 (mov w0, #1), not 52800060 (mov w0, #3)")],
    ),
    "apply --dry-run with a hazard": (
        ("apply", "two.patch", "program", "--dry-run"),
        [("hazard branch-into-site: ", f"_start+0x4 branches to {LONG}+0x4, in the middle of the new code")],
    ),
    "poke --dry-run": (
        ("poke", "program", LONG, "mov w0, #2", "--expect", "mov w0, #1", "--dry-run"),
        [(LONG, "not applied", "mov w0, #1", "mov w0, #2", "no")],
    ),
    "log": (("log",), [("1 ", "applied", "2 words", "PROGRAM", "Answer 2, and call nobody.")]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_record_is_a_line_in_a_pipe_and_at_a_terminal(folder: Path, name: str) -> None:
    program = str(folder / "program")
    arguments, records = COMMANDS[name]
    (folder / "foreign.patch").write_text(f"@@ {LONG} -1 +1 @@\n-52800080\n+52800060  mov w0, #3\n")
    (folder / "two.patch").write_text(f"@@ {LONG} -2 +2 @@\n-52800020\n-17ffffff\n+52800040\n+d503201f\n")
    if name == "log":
        assert "applied: 2 hunks" in in_pipe(folder, "apply", "fix.patch", "program", "--accept", "all")
    arguments = tuple(program if argument == "PROGRAM" else argument for argument in arguments)
    piped, shown = in_pipe(folder, *arguments), at_terminal(folder, *arguments)
    assert plain(shown) == piped
    assert "…" not in piped
    for record in records:
        texts = [program if text == "PROGRAM" else text for text in record]
        assert [line for line in piped.splitlines() if all(text in line for text in texts)], (record, piped)


def test_only_a_terminal_gets_colours(folder: Path) -> None:
    arguments = ("apply", "fix.patch", "program", "--dry-run")
    assert "\x1b[33mnot applied" in at_terminal(folder, *arguments)
    assert "\x1b" not in in_pipe(folder, *arguments)


def test_a_pipe_gets_every_change_and_a_terminal_200(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(201)]
    source = "".join(f".globl {name}\n{name}: mov w0, #1\n" for name in names)
    link(assemble(source, tmp_path / "program.o"), tmp_path / "program", "-e", "f0")
    (tmp_path / "all.patch").write_text("".join(f"@@ {name} -1 +0 @@\n-52800020\n" for name in names))
    arguments = ("apply", "all.patch", "program", "--dry-run")
    for output, most in ((in_pipe(tmp_path, *arguments), 201), (plain(at_terminal(tmp_path, *arguments)), 200)):
        assert len(re.findall(r"^f\d+ +not applied", output, re.MULTILINE)) == most
        assert len(re.findall(r"^hunk f\d+: NOP at", output, re.MULTILINE)) == most
        assert ("201 words in all; --json shows every one" in output) == (most == 200)


def test_columns_are_as_wide_as_their_cells_within_reason(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([("a", "b", "c"), ("a" * 30, "b"), ("a" * 90, "b", "c\n\x1b")], ("one", "two"))
    assert capsys.readouterr().out.splitlines() == [
        f"{'one':41}  two",
        f"{'a':41}  b    c",
        f"{'a' * 30:41}  b",
        f"{'a' * 90}  b    c\\n\\x1b",
    ]
    print_table([])
    assert capsys.readouterr().out == ""

"""What becomes of the exit status when the output cannot be printed; and printed commands work as they stand.

Read on: test_patch_files.py for Ctrl-C.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import Run, one_sentence
from tests.support import assemble, link

SOURCE = """
    .globl _start, größer
    .type größer, %function
_start: nop
    ret
größer: nop
    b größer
    ret
    .size größer, . - größer
"""
A64PATCH = shlex.join([sys.executable, "-c", "from a64patch.cli.main import main; raise SystemExit(main())"])
POKE = "poke program größer yield --expect nop --journal journal"
NOT_YET = "status fix.patch program"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "fix.patch").write_text("@@ _start @@\n-d503201f\n+d503203f\n", "utf-8")
    return link(assemble(SOURCE, tmp_path / "program.o"), tmp_path / "program", "--build-id=0xaabbccdd")


def shell(program: Path, command: str, **variables: str) -> tuple[int, str]:
    """The exit status of the first command of a pipe, and what it printed on stderr."""
    done = subprocess.run(
        f"{A64PATCH} {command}; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=program.parent, env={**os.environ, **variables}, capture_output=True,
        text=True, errors="replace", check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("where", ["> /dev/full", ">&-", "--json > /dev/full"])
def test_a_change_that_was_done_is_done_even_if_nothing_can_be_printed(program: Path, where: str) -> None:
    before = program.read_bytes()
    status, said = shell(program, f"{POKE} {where}")
    assert (status, program.read_bytes() != before) == (0, True)
    assert one_sentence(said)
    assert re.search("cannot print: .*; everything was done before: `a64patch log 1 --journal journal`", said)


@pytest.mark.parametrize("where", ["> /dev/full", ">&-"])
def test_output_that_is_the_whole_work_has_failed(program: Path, where: str) -> None:
    for command in ("show program _start", "disasm d503201f", "fmt fix.patch"):
        status, said = shell(program, f"{command} {where}")
        assert (status, one_sentence(said)) == (2, True)
        assert "cannot print: " in said
        assert said.endswith("; nothing was changed\n")


@pytest.mark.parametrize("where", ["| head -0", "| true", "> /dev/full", ">&-"])
def test_no_stays_no(program: Path, where: str) -> None:
    for command in (NOT_YET, "check nop 'mov x0, x0'", f"{NOT_YET} --json"):
        assert shell(program, f"{command} {where}")[0] == 1, command


def test_a_change_whose_reader_is_gone_is_done_in_silence(program: Path) -> None:
    before = program.read_bytes()
    assert shell(program, f"{POKE} | true") == (0, "")
    assert program.read_bytes() != before


def test_endless_work_ends_when_nobody_reads(program: Path) -> None:
    done = subprocess.run(
        f"yes d503201f | {A64PATCH} disasm - | head -n 1; exit ${{PIPESTATUS[1]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "nop\n", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "utf-8"])
def test_a_name_that_the_terminal_lacks(program: Path, encoding: str) -> None:
    before = program.read_bytes()
    assert shell(program, POKE, PYTHONIOENCODING=encoding) == (0, "")
    assert program.read_bytes() != before
    done = subprocess.run(
        f"{A64PATCH} show program größer -n 1", shell=True, cwd=program.parent, capture_output=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.returncode == 0
    assert (rb"gr\xf6\xdfer" if encoding == "ascii" else "größer".encode(encoding.partition(":")[0])) in done.stdout


def test_a_patch_is_utf_8_whatever_the_terminal_has(program: Path) -> None:
    patch = program.with_name("name.patch")
    patch.write_text("@@ größer @@\n-???????? nop\n+???????? yield\n", "utf-8")
    shell(program, "fmt name.patch program > made.patch", PYTHONIOENCODING="ascii")
    assert "@@ größer" in program.with_name("made.patch").read_text("utf-8")


def test_printed_commands_work_as_they_stand(
    run: Run, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = program.read_bytes()
    # An entry of the same number in the default journal is another patch.
    other = link(assemble(SOURCE, tmp_path / "other.o"), tmp_path / "other")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert run("poke", "other", "_start", "yield", "--expect", "nop").status == 0
    poked = other.read_bytes()
    done = run("apply", "fix.patch", "program", "--journal", "my journal's")
    assert program.read_bytes() != before
    printed = re.search("`(.*)` undoes it", done.out)
    assert printed is not None
    command = shlex.split(printed[1])
    assert command[0] == "a64patch"
    assert run(*command[1:]).status == 0
    assert (program.read_bytes(), other.read_bytes()) == (before, poked)


def test_hints_name_the_journal(run: Run, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "`a64patch log --journal j`" in run("revert", "7", "--journal", "j").err

    def killed(*_: object, **__: object) -> None:
        raise SystemExit(9)

    monkeypatch.setattr("a64patch.patch.journal.Journal.finish", killed)
    assert run("apply", "fix.patch", "program", "--journal", "j").status == 9
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    said = run("apply", "-R", "fix.patch", "program", "--journal", "j").err
    assert "run `a64patch recover --journal j` first" in said


def test_recover_that_cannot_print_does_not_say_that_nothing_was_changed(
    run: Run, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise SystemExit(9)

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as crash:
        crash.setattr("a64patch.patch.journal.Journal.finish", killed)
        assert run("apply", "fix.patch", "program", "--journal", "j").status == 9
    status, said = shell(program, "recover --journal j > /dev/full")
    assert (status, one_sentence(said)) == (0, True)
    assert "`a64patch log --journal j` shows what was done" in said

"""`prove FILE.protocol`: what it prints, and what it refuses."""

from __future__ import annotations

from pathlib import Path

from a64patch.cli.asking import SHIPPED
from tests.cli.running import Run


def test_from_the_command_line(run: Run, tmp_path: Path) -> None:
    ran = run("prove", "openjdk-entry-barrier.protocol")
    assert ran.status == 1
    assert "UNSAFE (arm, esop): P2 body of before after enter_before" in ran.out
    assert "before had been told that the patch is done before it executed the old" in ran.out
    mine = tmp_path / "mine.protocol"
    mine.write_text((SHIPPED / "static-keys.protocol").read_text(encoding="utf-8"), encoding="utf-8")
    ran = run("prove", str(mine), "--model", "arm", "--dot", str(tmp_path / "x.dot"))
    assert ran.status == 0
    assert ran.out.count("SAFE: ") == 4
    assert "SAFE if the file has all that CPUs do" in ran.out
    assert (tmp_path / "x.dot").read_text(encoding="utf-8") == "digraph execution {}\n"
    mine.write_text(mine.read_text(encoding="utf-8").replace("ask P3 -> SAFE", "ask P3 -> UNSAFE"), encoding="utf-8")
    assert "THE FILE EXPECTS UNSAFE" in run("prove", str(mine)).out
    for words in (["--idc"], ["--old", "nop"], ["program"], ["--litmus", str(tmp_path)], ["--kernel", "Image"]):
        assert run("prove", str(mine), *words).status == 2
    assert "shipped are brk-first.protocol" in run("prove", "missing.protocol").err


def test_an_error_in_the_file_is_said_with_its_line(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.protocol"
    wrong.write_text("thread cpu\n site a: nop -> isb\nthread p\n write b\nask P3\n", encoding="utf-8")
    ran = run("prove", str(wrong))
    assert ran.status == 2
    assert f"{wrong}:4: there is no site 'b' above" in ran.err
    wrong.write_bytes(b"thread \xff")
    assert "byte 7 is not UTF-8" in run("prove", str(wrong)).err

"""`exe:PATH`: one patch for every process that executes a file. Here the processes are simulators.

Read on: ../real/test_live_exe.py has real ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from a64patch import applying
from a64patch.errors import GoneError, TargetError
from a64patch.openers import open_target
from a64patch.patch.journal import Journal
from a64patch.targets import executing
from a64patch.targets.base import Identity, Target
from a64patch.targets.elf import ElfFile
from a64patch.targets.executing import Executor, Executors
from tests.cli.running import Run, document
from tests.support import assemble, link

SOURCE = """
    .globl _start, pair
    .type pair, %function
_start: b _start
pair: add w0, w0, #1
    add w0, w0, #2
    ret
    .size pair, 12
"""
PATCH = "Build-Id: aabb\n\n@@ pair -2 +2 @@\n-11000400\n+11000c00\n 11000800\n"
BROKEN = "process 3 (three) may not be traced"
NEW_PROCESSES = "New processes execute the file, which is not changed: `a64patch apply"


class Processes:
    """Files that stand for processes, by their number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.builds: dict[int, str] = {}
        self.errors: dict[int, Exception] = {}
        self.hidden = 0
        self.after: Callable[[int], None] = lambda pid: None
        """Called when a process was opened."""

    def add(self, *pids: int, build: str = "aabb") -> None:
        for pid in pids:
            link(assemble(SOURCE, self._folder / "o"), self._folder / str(pid), f"--build-id=0x{build}")
            self.builds[pid] = build

    def executors(self, path: str) -> Executors:
        assert path.endswith("program")
        return Executors(tuple(Executor(pid, "it", f"pid:{pid}") for pid in sorted(self.builds)), self.hidden)

    def open(self, place: str | os.PathLike[str], **options: Any) -> Target:
        text = os.fspath(place)
        if not text.startswith("pid:"):
            return open_target(text, **options)
        pid = int(text.removeprefix("pid:"))
        if pid in self.errors:
            raise self.errors[pid]
        target = _Process(self._folder / str(pid))
        target.place = text
        self.after(pid)
        return target

    def new(self) -> list[int]:
        """The processes that have the new words."""
        files = {pid: self._folder / str(pid) for pid in self.builds}
        return [pid for pid, file in files.items() if file.exists() and b"\0\x0c\0\x11" in file.read_bytes()]


class _Process(ElfFile):
    place = ""

    def identity(self) -> Identity:
        return replace(super().identity(), location=self.place)


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    link(assemble(SOURCE, tmp_path / "o"), tmp_path / "program", "--build-id=0xaabb")
    (tmp_path / "fix.patch").write_text(PATCH)
    (tmp_path / "processes").mkdir()
    found = Processes(tmp_path / "processes")
    monkeypatch.setattr(applying, "open_target", found.open)
    monkeypatch.setattr(applying, "executors_of", found.executors)
    monkeypatch.setattr(executing, "executors_of", found.executors)
    return found


def results(ran: Any) -> dict[int, str]:
    return {one["pid"]: one["result"] for one in document("apply", ran)["processes"]}


def test_each_process_is_patched_and_gets_an_entry(processes: Processes, run: Run) -> None:
    processes.add(1, 22, 3)
    ran = run("apply", "fix.patch", "exe:program")
    assert (ran.status, ran.err) == (0, "")
    assert [line.split()[:4] for line in ran.out.splitlines()[:4]] == [
        ["pid", "name", "result", "entry"],
        ["1", "it", "applied", "1"],
        ["3", "it", "applied", "2"],
        ["22", "it", "applied", "3"],
    ]
    assert ran.out.endswith(f"{NEW_PROCESSES} fix.patch program` patches it.\n")
    assert processes.new() == [1, 22, 3]
    with Journal() as journal:
        assert {entry.identity.location for entry in journal.entries()} == {"pid:1", "pid:3", "pid:22"}
    again = run("apply", "fix.patch", "exe:program", "--json")
    assert (again.status, set(results(again).values())) == (0, {"already applied"})
    back = run("apply", "-R", "fix.patch", "exe:program", "--json")
    assert (back.status, set(results(back).values())) == (0, {"applied"})
    assert document("apply", back)["notes"] == [f"{NEW_PROCESSES} --reverse fix.patch program` patches it."]
    assert processes.new() == []


def test_who_is_not_patched_and_why(processes: Processes, run: Run) -> None:
    processes.add(1, 4, os.getpid())
    Path("foreign.patch").write_text(PATCH.replace("11000400", "11000401"))
    ran = run("apply", "foreign.patch", "exe:program")
    assert ran.status == 1
    assert "a64patch: process 1 (it): hunk pair: pair holds 11000400" in ran.err
    processes.add(2, build="ccdd")
    processes.errors = {3: TargetError(BROKEN), 5: GoneError("process 5 has ended")}
    processes.builds |= {3: "", 5: ""}
    processes.hidden = 2
    ran = run("apply", "fix.patch", "exe:program")
    assert ran.status == 2, "that of the worst"
    assert ran.err == f"a64patch: {BROKEN}\n"
    assert "maps another build (ccdd), from before the file was replaced: start it again\n" in ran.out
    assert "is a64patch itself, which cannot stop itself\n" in ran.out
    assert "2 processes do not let us see what they execute: as root a64patch sees all.\n" in ran.out
    del processes.builds[5]  # the next call finds it no more
    ran = run("apply", "-R", "fix.patch", "exe:program", "--json")
    assert results(ran) == {1: "applied", 2: "skipped", 3: "failed", 4: "applied", os.getpid(): "skipped"}
    [failed] = [one for one in document("apply", ran)["processes"] if one["pid"] == 3]
    assert (failed["error"]["sentence"], failed["error"]["exit_status"]) == (BROKEN, 2)


def test_a_process_that_ends_is_no_failure(processes: Processes, run: Run) -> None:
    processes.add(1)
    processes.builds[2] = ""
    processes.errors = {2: GoneError("process 2 has ended, and its memory with it")}
    ran = run("apply", "fix.patch", "exe:program", "--all-or-nothing", "--json")
    assert (ran.status, results(ran)) == (0, {1: "applied", 2: "ended"})


def test_all_or_nothing(processes: Processes, run: Run) -> None:
    processes.add(1, 2, 4)
    processes.builds[3] = ""
    processes.errors = {3: TargetError(BROKEN)}
    ran = run("apply", "fix.patch", "exe:program", "--all-or-nothing", "--json")
    assert (ran.status, results(ran)) == (2, {1: "reverted", 2: "reverted", 3: "failed"})
    assert processes.new() == []
    with Journal() as journal:
        assert [(entry.reverts, entry.state.value) for entry in journal.entries()] == [
            (0, "reverted"), (0, "reverted"), (2, "applied"), (1, "applied"),
        ]  # fmt: skip


def test_what_could_not_be_reverted_is_told(processes: Processes, run: Run) -> None:
    processes.add(1, 2)
    processes.builds[3] = ""
    processes.errors = {3: TargetError(BROKEN)}

    def forbid(pid: int) -> None:
        if pid == 2:
            processes.errors[1] = TargetError("process 1 may not be traced any more")

    processes.after = forbid
    ran = run("apply", "fix.patch", "exe:program", "--all-or-nothing")
    assert ran.status == 3
    assert [line.split()[2] for line in ran.out.splitlines()[1:4]] == ["not", "reverted", "failed"]
    assert "a64patch: process 1 may not be traced any more\n" in ran.err
    assert processes.new() == [1]


@pytest.mark.parametrize(("options", "status", "left"), [((), 3, [1]), (("--all-or-nothing",), 130, [])])
def test_an_interrupt(processes: Processes, run: Run, options: tuple[str, ...], status: int, left: list[int]) -> None:
    processes.add(1, 2, 3)

    def interrupt(pid: int) -> None:
        if pid == 2:
            raise KeyboardInterrupt

    processes.after = interrupt
    ran = run("apply", "fix.patch", "exe:program", *options)
    assert (ran.status, processes.new()) == (status, left)
    said = "1 of 1 processes are patched" if left else "nothing was changed"
    assert ran.err == f"a64patch: interrupted; {said}\n"
    assert ran.out.splitlines()[1].split()[:3] == ["1", "it", "applied" if left else "reverted"]


def test_a_process_that_another_one_made_meanwhile(processes: Processes, run: Run) -> None:
    processes.add(1)

    def fork(pid: int) -> None:
        if len(processes.builds) < 2:
            processes.add(9)

    processes.after = fork
    ran = run("apply", "fix.patch", "exe:program", "--json")
    assert results(ran) == {1: "applied", 9: "applied"}


def test_a_dry_run_shows_the_processes_and_the_first_plan(processes: Processes, run: Run) -> None:
    processes.add(1, 2)
    processes.add(3, build="ccdd")
    ran = run("apply", "fix.patch", "exe:program", "--dry-run")
    assert ran.status == 0, ran.err
    assert ran.out.count("Dry run: nothing was changed.") == 1
    assert ran.out.index("Dry run") < ran.out.index("pid  name  result")
    ran = run("apply", "fix.patch", "exe:program", "--dry-run", "--json")
    found = document("apply", ran)
    assert results(ran) == {1: "not applied", 2: "not applied", 3: "skipped"}
    assert (found["plan"]["location"], found["plan"]["state"]) == ("pid:1", "not applied")
    assert processes.new() == []


def test_status_of_each_process(processes: Processes, run: Run) -> None:
    processes.add(1, 2)
    ran = run("status", "fix.patch", "exe:program")
    assert (ran.status, [line.split()[:4] for line in ran.out.splitlines()[1:]]) == (
        1, [["1", "it", "not", "applied"], ["2", "it", "not", "applied"]],
    )  # fmt: skip
    assert run("apply", "fix.patch", "exe:program").status == 0
    ran = run("status", "fix.patch", "exe:program", "--json")
    assert ran.status == 0
    assert [one["hunks"][0]["state"] for one in document("status", ran)["processes"]] == ["applied"] * 2
    Path("other.patch").write_text(PATCH.replace("11000800", "11000801"))
    ran = run("status", "other.patch", "exe:program")
    assert ran.status == 1
    assert "foreign  pair holds 11000c00 (add w0, w0, #3), not 11000400 (add w0, w0, #1)\n" in ran.out


@pytest.mark.parametrize(
    ("command", "status", "sentence"),
    [
        ("apply fix.patch exe:program", 1, "no process executes program; nothing was changed"),
        ("status fix.patch exe:program", 1, "no process executes program"),
        ("apply fix.patch exe:", 2, "names no file: write exe:PATH"),
        ("apply fix.patch exe:./missing", 2, "cannot open"),
        ("apply fix.patch exe:program --symbols program", 2, "--symbols is not for processes"),
        ("apply fix.patch program --all-or-nothing", 2, "--all-or-nothing is for exe:PATH"),
        ("apply fix.patch exe:program --accept nothing", 2, "there is no hazard 'nothing'"),
        ("show exe:program pair", 1, "exe:program stands for every process that executes a file"),
        ("diff program exe:program", 1, "exe:program stands for every process"),
        ("poke exe:program pair nop", 1, "exe:program stands for every process"),
    ],
)
@pytest.mark.usefixtures("processes")
def test_what_is_refused(run: Run, command: str, status: int, sentence: str) -> None:
    ran = run(*command.split())
    assert (ran.status, ran.out) == (status, ""), ran.err
    assert sentence in ran.err


def test_a_file_without_build_id(processes: Processes, run: Run) -> None:
    processes.add(1)
    link(assemble(SOURCE, Path("o")), Path("program"), "--build-id=none")
    ran = run("apply", "fix.patch", "exe:program")
    assert ran.status == 1
    assert "program has no build id, so nothing tells which processes execute it" in ran.err

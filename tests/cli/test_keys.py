"""`a64patch keys`: the list, one key, a switch; on files, and on a running kernel that is made of bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from a64patch.cli import keys
from tests.cli.running import Run, document, one_sentence
from tests.kernel import test_static_keys as tables
from tests.kernel.running import RunningKernel
from tests.kernel.test_switching import running, types


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the journal is, with a kernel and a module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    tables.kernel(tmp_path)
    tables.module(tmp_path)
    return tmp_path


@pytest.fixture
def live(place: Path, monkeypatch: pytest.MonkeyPatch) -> RunningKernel:
    """The target gdb://localhost:1 is a running kernel, whose modules are in `modules`."""
    target = running(place)
    monkeypatch.setattr(keys, "open_named_target", lambda arguments: target)
    monkeypatch.setattr(keys, "_loaded", lambda target: ([], types()))
    monkeypatch.setattr(keys, "_PAUSE", 0)
    return target


LIST = """\
key   state  at first  sites  as predicted  first site
off   off    off       2      all           f
on    on     on        2      all           f+0x8
zero  off    off       1      all           f+0x10
3 keys, 5 sites: 5 as predicted, 0 not
"""


@pytest.mark.parametrize("file", ["vmlinux", "module.ko"])
def test_the_list_of_a_file(place: Path, run: Run, file: str) -> None:
    ran = run("keys", file)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == LIST
    found = document("keys", run("keys", file, "--json"))
    assert [key["name"] for key in found["keys"]] == ["off", "on", "zero"]
    assert found["differing"] == 0


def test_one_key_with_its_sites(place: Path, run: Run) -> None:
    ran = run("keys", "vmlinux", "off")
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert lines[0] == "off: off, at first off"
    assert [line.split(maxsplit=1)[1] for line in lines[1:3]] == [
        "f      d503201f  nop  as predicted",
        "f+0x4  14000005  b g  as predicted",
    ]
    assert lines[3] == "2 sites: 2 as predicted, 0 not"
    [key] = document("keys", run("keys", "vmlinux", "off", "--json"))["keys"]
    assert [site["text"] for site in key["key_sites"]] == ["nop", "b g"]
    assert [site["predicted"] for site in key["key_sites"]] == [True, True]


def test_a_word_that_is_not_as_predicted_is_told_and_decides_the_status(tmp_path: Path, run: Run) -> None:
    path = tables.kernel(tmp_path, text=tables.TEXT.replace("f:  nop", "f:  yield"))
    for arguments in (("keys", path), ("keys", path, "off"), ("keys", path, "--json")):
        ran = run(*arguments)
        assert ran.status == 1
        assert ran.err == ("a64patch: f is not as static key off asks for: it holds d503203f, not d503201f\n")
    assert document("keys", ran)["differing"] == 1
    ran = run("keys", path, "off")
    assert "not as predicted" in ran.out
    assert run("keys", path, "on").status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ("vmlinux nothing", 2, "there is no static key 'nothing'"),
        ("vmlinux holder", 2, "no static key is at 'holder'"),
        ("vmlinux on --off", 2, "for a running kernel"),
        ("vmlinux --off", 2, "need a KEY"),
        ("vmlinux on --dry-run", 2, "--dry-run goes with --on or --off"),
        ("missing", 2, "missing"),
    ],
)
def test_what_is_refused(place: Path, run: Run, arguments: str, status: int, text: str) -> None:
    ran = run("keys", *arguments.split())
    assert ran.status == status
    assert one_sentence(ran.err)
    assert text in ran.err


def test_a_switch_and_its_undoing(live: RunningKernel, run: Run) -> None:
    memory = bytes(live.memory)
    ran = run("keys", "gdb://localhost:1", "off", "--on", "--dry-run")
    assert ran.status == 0
    assert "Dry run: nothing was changed." in ran.out
    assert bytes(live.memory) == memory
    ran = run("keys", "gdb://localhost:1", "off", "--on")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("off is on: 2 hunks: 3 words written, 1 of them data; stop: ")
    assert "`a64patch revert 1` undoes it" in ran.out
    assert "off   on     off       2      all" in run("keys", "gdb://localhost:1").out
    ran = run("keys", "gdb://localhost:1", "off", "--on")
    assert (ran.status, ran.err) == (1, "a64patch: static key off is already on; nothing was changed\n")
    assert "Switch static key off on." in run("log").out
    ran = run("keys", "gdb://localhost:1", "off", "--off", "--json")
    assert document("keys", ran)["state"] == "applied"
    assert bytes(live.memory) == memory


def test_a_mutex_that_stays_held_is_busy(live: RunningKernel, run: Run) -> None:
    live.put_numbers("jump_label_mutex", "Q", 1, offset=8)
    memory = bytes(live.memory)
    ran = run("keys", "gdb://localhost:1", "off", "--on")
    assert ran.status == 1
    assert ran.err == (
        "a64patch: static key off was not switched in 5 tries: the kernel is switching a static key at this moment;"
        " nothing was changed\n"
    )
    assert bytes(live.memory) == memory
    assert run("log").out == "the journal has no entries\n"

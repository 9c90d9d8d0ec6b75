"""New code in running processes of a real arm64 Linux: rooms that a thread maps, detours under load, crashes.

Read on: room_trials.py is what happens in the guest; ../targets/test_process_room.py has what any machine can say.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.real import victims
from tests.real.userland import Userland
from tests.support import ROOT, rounds

FOLDER = ROOT / "tests/real"
SOURCES = {
    "/opt/victim": ("musl-static", ROOT / "tests/targets/threads_victim.c"),
    "/opt/waiting": ("static", FOLDER / "room_victim.c"),
}

Trial = Callable[..., Any]


@pytest.fixture
def trial(userland: Userland, tmp_path: Path) -> Trial:
    """Runs a function of room_trials.py in the guest."""
    userland.run("mkdir -p /opt/trials/tests/real")
    userland.put("/opt/trials/tests/real/process_trials.py", (FOLDER / "process_trials.py").read_bytes())
    for path, (kind, source) in SOURCES.items():
        if userland.run(f"test -e {path}").status:
            userland.put(path, victims.build(kind, source.read_text("utf-8"), tmp_path / source.stem).read_bytes())
    return lambda *arguments: userland.python(FOLDER / "room_trials.py", *arguments, seconds=3000)


@pytest.mark.parametrize(
    ("letter", "said", "calls"),
    [("s", "-1 EINTR", [115, 128]), ("e", "1 well", [22]), ("r", "1 well", [63]), ("p", "-1 EINTR", [133]),
     ("u", "0 well", [])],
)  # fmt: skip
def test_only_thread_maps_a_room_and_its_own_call_or_registers_stay_as_they_were(
    trial: Trial, letter: str, said: str, calls: list[int]
) -> None:
    """clock_nanosleep (115) goes on as restart_syscall (128): else it would begin anew with its whole time."""
    told = trial("waits", letter, rounds(100, 1))
    assert (told["said"], told["status"]) == (f"{said} 101\n", 0)
    assert told["found"] == [[True, True, True]]
    assert told["calls"] == calls


@pytest.mark.parametrize(("letter", "said"), [("u", "0 well"), ("s", "-1 EINTR")])
def test_stopped_process_stays_stopped(trial: Trial, letter: str, said: str) -> None:
    told = trial("stopped", letter)
    assert told == {"states": ["T", "T"], "said": f"{said} 101\n"}


def test_process_that_dies_when_it_maps_memory(trial: Trial) -> None:
    told = trial("filtered")
    assert "runs under a system call filter (seccomp), which may end a thread that maps memory" in told["user"]
    assert told["root"] == "done"
    assert told["said"] == "1 well 101\n"


def unharmed(told: dict[str, Any]) -> None:
    assert told["status"] == 0
    assert told["wrong"] == 0
    assert told["taken"] == told["sent"]
    assert told["sent"][0] > 10
    assert told["ended_sleeps"] == 0


def test_detour_comes_and_goes_under_load(trial: Trial) -> None:
    number = rounds(1000, 2)
    told = trial("rounds", number, "scbvf" if number > 2 else "sbv")
    unharmed(told)
    assert told["same"]
    assert told["stays"] == [""] * number
    assert told["found"] == ["5 d2800021 True", "applied"], "a B in place of the first word only"
    assert 0 < told["old"] < told["turns"]


def test_thread_that_sleeps_inside_of_new_code_keeps_it_until_recover(trial: Trial) -> None:
    told = trial("inside")
    assert told["sums"] == ["101", "202", "101"], "it was in the old code, then in the new code, then in the old code"
    assert "is not given back: thread " in told["stays"]
    assert "(waiting) will return to " in told["stays"]
    [[first, kept], [last, left]] = told["notes"]
    assert "(waiting) will return to " in first
    assert (kept, last, left, told["again"]) == (1, "the room of its new code is given back", 0, 0)


def test_killed_a64patch_leaves_at_worst_a_room_that_recover_frees(trial: Trial) -> None:
    number = rounds(300, 2)
    told = trial("killed", number)
    assert told["said"] == "1 well 101\n", "its system call was not cut off"
    assert sum(told["states"].values()) == number
    assert told["states"].keys() <= {"old, rooms: 0", "new, rooms: 1"}


def test_detour_in_every_process_of_a_program(trial: Trial, userland: Userland) -> None:
    started = [userland.start("/opt/waiting p") for _ in range(2)]
    text = "@@ detour pair @@\n-d2800020\n-d2800021\n+d2800040\n+d2800041\n+d503201f\n"
    userland.put("/tmp/detour.patch", text.encode())
    userland.run("rm -f /tmp/rooms.journal")
    journal = ("--journal", "/tmp/rooms.journal")
    applied = userland.a64patch("apply", "/tmp/detour.patch", "exe:/opt/waiting", *journal)
    assert applied.status == 0, applied.output
    status = userland.a64patch("status", "/tmp/detour.patch", "exe:/opt/waiting")
    assert status.output.count("waiting  applied\n") == 2, status.output
    assert userland.a64patch("revert", "1", *journal).status == 0
    for one in started:
        userland.output_of(f"kill -USR1 {one.pid}; while test -e /proc/{one.pid}; do :; done")
    assert [userland.run(f"cat {one.log}").output for one in started] == [
        "ready\n-1 EINTR 101\n", "ready\n-1 EINTR 202\n",
    ]  # fmt: skip

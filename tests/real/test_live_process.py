"""Running processes of a real arm64 Linux, patched by a64patch beside them.

Read on: process_trials.py is what happens in the guest, ../targets/test_threads.py tries the stop on any machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.real import victims
from tests.real.userland import Userland
from tests.support import ROOT, rounds

SOURCE = ROOT / "tests/targets/threads_victim.c"
TRIALS = ROOT / "tests/real/process_trials.py"
VICTIM = "/opt/victim"

Trial = Callable[..., Any]


@pytest.fixture
def trial(userland: Userland, tmp_path: Path) -> Trial:
    """Runs a function of process_trials.py in the guest."""
    if userland.run(f"test -e {VICTIM}").status:
        userland.put(VICTIM, victims.build("musl-static", SOURCE.read_text("utf-8"), tmp_path / "victim").read_bytes())
    return lambda *arguments: userland.python(TRIALS, *arguments, seconds=3000)


def unharmed(told: dict[str, Any]) -> None:
    """The process has noticed nothing."""
    assert told["status"] == 0
    assert told["wrong"] == 0
    assert told["taken"] == told["sent"]
    assert told["sent"][0] > 10
    assert told["ended_sleeps"] == 0


@pytest.mark.parametrize("letters", ["sci", "bvf"])
def test_words_change_under_load_and_nobody_sees_half_of_each(trial: Trial, letters: str) -> None:
    number = rounds(1000, 4)
    told = trial("rounds", number, letters)
    unharmed(told)
    assert told["found"]
    assert 0 < told["old"] < told["turns"]
    # A thread that is on its way into the call, such as right after the stop before: see targets/threads.py.
    assert told["ended_polls"] <= told["retries"]
    assert min(told["births"], told["vforks"], told["forks"]) > 0 or letters == "sci"


def test_thread_that_sleeps_inside_of_the_words_is_named(trial: Trial) -> None:
    told = trial("in_the_way", "n")
    assert told["first"].startswith("BusyError: thread ")
    assert "(napper) will return to held+0x14, inside the words to be changed" in told["first"]
    assert told["one word"] == "kick", "BL and NOP may race: nobody needs to be out of the way"
    assert told["second"] == "done"
    unharmed(told)


def test_thread_in_a_signal_handler_on_another_stack_is_seen_where_it_was_interrupted(trial: Trial) -> None:
    told = trial("in_the_way", "w")
    assert "(handler) will return to held+0x14, inside the words" in told["first"]
    assert told["second"] == "done", "with the look left out, the patch goes through under the thread"


def test_killed_a64patch_leaves_what_recover_makes_whole(trial: Trial) -> None:
    number = rounds(300, 6)
    told = trial("killed", number, "s")
    unharmed(told)
    assert sum(told["states"].values()) == number
    assert told["states"].keys() <= {"old", "new"}
    assert told["recovered"].keys() <= {"undone", "applied"}
    assert sum(told["recovered"].values()) > 0


def test_process_that_goes_away_under_a_patch_is_said_and_leaves_nothing_open(trial: Trial) -> None:
    for said, *recovered in trial("dying", rounds(60, 3))["told"]:
        assert re.search(
            "process PID has ended|there is no process PID|process PID executes another program|PartialPatchError", said
        ), said
        for entry in recovered:
            assert re.fullmatch(
                r"undone: .*(has ended, and its memory with it|that one is over.*|it has ended.*)", entry
            )


def test_what_is_no_target_is_refused_by_name(trial: Trial) -> None:
    told = trial("refused")
    assert "it belongs to another user, or has changed its user; run a64patch as root" in told["another user"]
    assert "is a thread of the kernel, not a process" in told["kernel thread"]
    assert "there is no process 4000000" in told["no process"]
    assert "is a64patch itself, which cannot stop itself" in told["a64patch"]
    assert "not mapped executable, so it is not code" in told["data"]
    assert "executable, so it is no data" in told["code as data"]
    assert "does not map 0x10" in told["not mapped"]

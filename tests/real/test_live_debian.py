"""Debian's own redis-server and python3, patched while they work: they still pass tests of themselves.

Read on: debian_trials.py is what happens in the guest.
"""

from __future__ import annotations

from typing import Any

from tests.real.userland import Userland
from tests.support import ROOT, rounds

TRIALS = ROOT / "tests/real/debian_trials.py"
ROUNDS = rounds(40, 1)
SITES = rounds(200, 20)
"""Beside the functions that are executed all the time: pairs from everywhere in the program."""


def trial(userland: Userland, name: str) -> dict[str, Any]:
    told: dict[str, Any] = userland.python(TRIALS, name, ROUNDS, SITES, seconds=3000)
    assert told["not found"] == []
    assert told["sites"] > SITES
    assert told["status"] == 0
    return told


def test_python_passes_its_tests_while_it_is_patched(userland: Userland) -> None:
    told = trial(userland, "python")
    [found] = told["load"]
    assert found["failed"] == found["wrong"] == found["swapped"] == 0
    assert found["digests"] > 10
    # Was it executed? The operands of an addition change places, and come back.
    assert told["looks"] == [[True, False], [False, True], [True, False]]


def test_redis_answers_as_it_should_while_it_is_patched(userland: Userland) -> None:
    told = trial(userland, "redis")
    clients, answers, wrong = told["load"]
    assert (clients, wrong) == (3, 0)
    assert answers > 1000
    assert told["threads"] > 5
    # Its own saving and loading changes no value: a digest of 40 digits says so.
    assert (told["reload"], told["digests"]) == ("OK", [40, True, True])
    # Was it executed? INCR takes each value for missing, and then no longer.
    assert told["looks"] == [[1, 2], [1, 1], [1, 2]]

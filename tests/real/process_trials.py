"""What test_live_process.py does inside of the guest: a64patch patches processes there. Functions answer with JSON.

Read on: ../targets/threads_victim.c is the usual process, test_live_process.py says what must come out.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import a64patch
from a64patch.errors import A64PatchError
from a64patch.patch.journal import EntryState
from a64patch.patch.plan import Plan
from a64patch.targets.base import Target

VICTIM = "/opt/victim"
PAIR = """\
@@ pair @@
-d2800020  mov x0, #1
-d2800021  mov x1, #1
+d2800040  mov x0, #2
+d2800041  mov x1, #2
"""
"""The two words change together, or the sum is half of each."""
HELD = """\\
@@ held+0xc @@
-d2800033  mov x19, #1
+d2800053  mov x19, #2
 {call:08x}  bl nap
-d2800021  mov x1, #1
+d2800041  mov x1, #2
"""
"""A call between them: a thread that sleeps in it comes back to the second word."""
NOP = 0xD503201F
OLD, NEW = (0xD2800020, 0xD2800021), (0xD2800040, 0xD2800041)


class Victim:
    """A running process that counts."""

    def __init__(self, *words: str, program: str = VICTIM) -> None:
        self.child = subprocess.Popen([program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()
        self.pid = self.child.pid
        self.place = f"pid:{self.pid}"

    def _line(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline()

    def say(self, word: str) -> None:
        """A line for its stdin."""
        assert self.child.stdin is not None
        self.child.stdin.write(f"{word}\n")
        self.child.stdin.flush()

    def counts(self, word: str = "?") -> dict[str, Any]:
        """The counts after a line for its stdin."""
        self.say(word)
        found: dict[str, Any] = json.loads(self._line())
        return found

    def end(self) -> dict[str, Any]:
        """The last counts."""
        said, _ = self.child.communicate("x\n", timeout=120)
        found: dict[str, Any] = json.loads(said.strip().rpartition("\n")[2])
        return found | {"status": self.child.returncode}


@contextmanager
def victim(*words: str, program: str = VICTIM) -> Iterator[Victim]:
    found = Victim(*words, program=program)
    try:
        yield found
    finally:
        if found.child.poll() is None:
            found.child.kill()
            found.child.wait()


def new_journal(name: str = "journal") -> a64patch.Journal:
    """An empty journal."""
    folder = Path(f"/dev/shm/{os.getpid()}-{time.monotonic_ns()}")
    folder.mkdir()
    return a64patch.Journal(folder / name)


def outcome_of(action: Callable[[], object]) -> str:
    """`done`, or the name and the sentence of the error."""
    try:
        action()
    except A64PatchError as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def words_at(target: Target, address: int, count: int) -> tuple[int, ...]:
    data = target.read(address, 4 * count)
    return tuple(int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))


# What must come out is in test_live_process.py.


def rounds(number: str, letters: str, program: str = VICTIM) -> dict[str, Any]:
    """Apply and revert two words `number` times while the victim executes them."""
    with victim(letters, program=program) as running, new_journal() as journal:
        before = _rate(running)
        target = a64patch.open_target(running.place)
        plan = a64patch.plan(a64patch.parse(PAIR), target)
        windows, threads, found, retries = [], [], set(), 0
        for _ in range(int(number)):
            applied = a64patch.apply(plan, target, journal, retry=60)
            found.add(words_at(target, plan.changes[0].address, 2))
            undone = a64patch.revert(applied.entry, target, journal)
            found.add(words_at(target, plan.changes[0].address, 2))
            windows += [applied.result.stop_window_ns or 0, undone.result.stop_window_ns or 0]
            threads.append(len(applied.result.cpus))
            retries += applied.result.retries + undone.result.retries
        target.close()
        after = _rate(running)
        return running.end() | {
            "rates": [before, after],
            "window_ms": sorted(windows)[len(windows) // 2] / 1e6,
            "threads": [min(threads), max(threads)],
            "retries": retries,
            "found": sorted(found) == sorted([OLD, NEW]),
        }


def _rate(running: Victim, seconds: float = 1.0) -> float:
    """Calls a second."""
    first, begun = running.counts()["turns"], time.monotonic()
    time.sleep(seconds)
    return float((running.counts()["turns"] - first) / (time.monotonic() - begun))


def in_the_way(letters: str) -> dict[str, Any]:
    """A thread sleeps inside of the words: until it is told to go on (`n`), or for good (`w`)."""
    with victim(letters) as running, new_journal() as journal:
        target = a64patch.open_target(running.place)
        [call] = words_at(target, target.symbols["held"] + 0x10, 1)
        plan = a64patch.plan(a64patch.parse(HELD.format(call=call)), target)
        time.sleep(0.5)
        first = outcome_of(lambda: a64patch.apply(plan, target, journal))
        branch = a64patch.plan(a64patch.parse(f"@@ held+0x10 @@\n-{call:08x}\n+{NOP:08x}\n"), target)
        kicked = a64patch.apply(branch, target, journal)
        a64patch.revert(kicked.entry, target, journal)
        if "n" in letters:
            running.counts("g")
            second = outcome_of(lambda: a64patch.apply(plan, target, journal, retry=60))
        else:
            # With the look left out, the patch goes through under the thread.
            target._look = lambda keep_out: ()  # type: ignore[attr-defined]
            second = outcome_of(lambda: a64patch.apply(plan, target, journal))
        keep_out = [list(span) for site in plan.sites for span in site.keep_out]
        target.close()
        return running.end() | {
            "first": first,
            "second": second,
            "keep_out": keep_out,
            "one word": kicked.result.method,
        }


def killed(number: str, letters: str) -> dict[str, Any]:
    """a64patch is killed at random moments of applying and reverting; then `recover` makes all whole."""
    chance = random.Random(int(number))
    states: Counter[str] = Counter()
    recovered: Counter[str] = Counter()
    with victim(letters) as running, new_journal() as journal:
        target = a64patch.open_target(running.place)
        plan = a64patch.plan(a64patch.parse(PAIR), target)
        place = plan.changes[0].address
        begun = time.monotonic()
        a64patch.revert(a64patch.apply(plan, target, journal, retry=60).entry, target, journal)
        length = time.monotonic() - begun
        for _ in range(int(number)):
            ready, going = os.pipe()
            child = os.fork()
            if child == 0:
                _apply_and_revert(running.place, str(journal.path), going)
            os.close(going)
            select.select([ready], [], [], 60)
            os.close(ready)
            time.sleep(chance.random() * length)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            for entry in a64patch.recover(journal):
                recovered[entry.state.value] += 1
            words = words_at(target, place, 2)
            states["old" if words == OLD else "new" if words == NEW else "half of each"] += 1
            if words == NEW:
                last = max(entry.id for entry in journal.entries(EntryState.APPLIED) if not entry.reverts)
                a64patch.revert(last, target, journal)
        target.close()
        return running.end() | {"states": states, "recovered": recovered}


def _apply_and_revert(place: str, journal_path: str, ready: int) -> None:
    try:
        with a64patch.open_target(place) as target, a64patch.Journal(journal_path) as journal:
            plan = a64patch.plan(a64patch.parse(PAIR), target)
            os.write(ready, b"r")
            while True:
                entry = a64patch.apply(plan, target, journal, retry=60).entry
                a64patch.revert(entry, target, journal)
    finally:
        os._exit(1)


def dying(number: str) -> dict[str, Any]:
    """The victim is killed, executes another program or ends, at random moments of a patch."""
    chance = random.Random(7)
    told: list[list[str]] = []
    for turn in range(int(number)):
        with victim("b") as running, new_journal() as journal:
            target = a64patch.open_target(running.place)
            plan = a64patch.plan(a64patch.parse(PAIR), target)
            child = os.fork()
            if child == 0:
                time.sleep(chance.random() * 0.2)
                if turn % 3 == 0:
                    os.kill(running.pid, signal.SIGKILL)
                else:
                    running.say("e" if turn % 3 == 1 else "x")
                os._exit(0)
            said = "done"
            while said == "done":
                said = outcome_of(partial(_there_and_back, plan, target, journal))
            os.waitpid(child, 0)
            target.close()
            if turn % 3 != 1:
                running.child.wait()
            recovered = [f"{entry.state.value}: {entry.note}" for entry in a64patch.recover(journal)]
            left = [entry.state.value for entry in journal.entries(EntryState.OPEN, EntryState.PARTIAL)]
            told.append([text.replace(str(running.pid), "PID") for text in (said, *recovered, *left)])
    return {"told": told}


def _there_and_back(plan: Plan, target: Target, journal: a64patch.Journal) -> None:
    a64patch.revert(a64patch.apply(plan, target, journal, retry=60).entry, target, journal)


def refused() -> dict[str, str]:
    """Who may not be traced, and what is no process of A64 code."""
    found = {}
    with victim("") as running:
        found["another user"] = _as_user(lambda: a64patch.open_target(running.place))
        found["kernel thread"] = outcome_of(lambda: a64patch.open_target("pid:2"))
        found["no process"] = outcome_of(lambda: a64patch.open_target("pid:4000000"))
        found["a64patch"] = outcome_of(lambda: a64patch.open_target(f"pid:{os.getpid()}"))
        with a64patch.open_target(running.place) as target:
            data = target.symbols["turns"]
            found["data"] = outcome_of(lambda: target.write(data & ~3, b"\0\0\0\0"))
            found["code as data"] = outcome_of(lambda: target.write_data(target.symbols["pair"], b"\0\0\0\0"))
            found["not mapped"] = outcome_of(lambda: target.read(0x10, 4))
    return found


def _as_user(action: Callable[[], object]) -> str:
    """The outcome of an action as a user who is not root."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writing, outcome_of(action).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def main() -> None:
    function, *arguments = sys.argv[1:]
    print(json.dumps(globals()[function](*arguments)))


if __name__ == "__main__":
    main()

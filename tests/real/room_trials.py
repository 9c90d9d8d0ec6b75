"""What test_live_rooms.py does in the guest: new code goes into processes there. Functions answer with JSON.

Read on: process_trials.py has the victim with many threads, room_victim.c is the one with a single thread.
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
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import a64patch
from a64patch.patch.journal import EntryState
from a64patch.targets.procfs import state_of

sys.path.insert(0, "/opt/trials")
from tests.real.process_trials import NEW, NOP, OLD, _as_user, new_journal, outcome_of, victim, words_at

WAITING = "/opt/waiting"
DETOUR = """\
@@ detour pair @@
-d2800020  mov x0, #1
-d2800021  mov x1, #1
+d2800040  mov x0, #2
+d2800041  mov x1, #2
+d503201f  nop
"""
INSIDE = """\
@@ detour held+0xc @@
-d2800033  mov x19, #1
-{call:08x}  bl line
-d2800021  mov x1, #1
+d2800053  mov x19, #2
+????????  bl line
+d2800041  mov x1, #2
+d503201f  nop
"""
"""A thread that sleeps in the call comes back to the new code."""
SIZE = 64


@contextmanager
def _waiting(letter: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    command = [WAITING, letter]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


def waits(letter: str, number: str) -> dict[str, Any]:
    """Rooms come and go in a process with one thread, which waits in some way, in these system calls."""
    with _waiting(letter) as child:
        calls, found = set(), set()
        if letter != "u":
            calls.add(_call_of(child.pid))
        with a64patch.open_target(f"pid:{child.pid}") as target:
            site = target.symbols["pair"]
            for _ in range(int(number)):
                room = target.find_room(SIZE, (site, site))
                target.allocate(room)
                if letter != "u":
                    calls.add(_call_of(child.pid))
                target.write(room.address, NOP.to_bytes(4, "little") * (SIZE // 4))
                again = list(a64patch.open_target(f"pid:{child.pid}").rooms())
                target.release(target.rooms()[0])
                if letter != "u":
                    calls.add(_call_of(child.pid))
                found.add((target.rooms() == [], again == [room], site - room.address < 1 << 20))
        if letter in "sup":
            child.send_signal(signal.SIGUSR1)
        said, _ = child.communicate("x\n", timeout=60)
        return {"said": said, "calls": sorted(calls), "found": list(found), "status": child.returncode}


def stopped(letter: str) -> dict[str, Any]:
    """A room comes and goes in a process that a signal has stopped: its state before and after."""
    with _waiting(letter) as child:
        if letter != "u":
            _call_of(child.pid)
        child.send_signal(signal.SIGSTOP)
        before = _stopped(child.pid)
        _use_a_room(child.pid)
        after = _stopped(child.pid)
        child.send_signal(signal.SIGUSR1)
        child.send_signal(signal.SIGCONT)
        said, _ = child.communicate(timeout=60)
        return {"states": [before, after], "said": said}


def _stopped(pid: int) -> str:
    """The state of a process that stops in a moment."""
    for _ in range(10000):
        if state_of(pid, pid) == "T":
            break
        time.sleep(0.001)
    return state_of(pid, pid)


def _call_of(pid: int) -> int:
    """The number of the system call in which a process sleeps at last."""
    for _ in range(60000):
        words = Path(f"/proc/{pid}/syscall").read_text("ascii").split()
        if len(words) == 9:
            return int(words[0])
        time.sleep(0.001)
    raise TimeoutError(f"process {pid} does not sleep: {words}")


def filtered() -> dict[str, str]:
    """A process of another user that dies when it maps memory: the outcome as this user, then as root."""
    with _waiting("f", user=65534, group=65534, extra_groups=[]) as child:
        told = {"user": _as_user(partial(_use_a_room, child.pid))}
        told["root"] = outcome_of(partial(_use_a_room, child.pid))
        return told | {"said": child.communicate("x\n", timeout=60)[0]}


def _use_a_room(pid: int) -> None:
    with a64patch.open_target(f"pid:{pid}") as target:
        site = target.symbols["pair"]
        room = target.find_room(SIZE, (site, site))
        target.allocate(room)
        target.release(room)


def rounds(number: str, letters: str) -> dict[str, Any]:
    """Apply and revert a detour `number` times while many threads execute it."""
    with victim(letters) as running, new_journal() as journal:
        target = a64patch.open_target(running.place)
        patch = a64patch.parse(DETOUR)
        site = target.symbols["pair"]
        before, stays = words_at(target, site, 2), []
        found: set[str] = set()
        plan = a64patch.plan(patch, target)
        for turn in range(int(number)):
            outcome = a64patch.apply(plan, target, journal)
            if not turn:
                with a64patch.open_target(running.place) as fresh:
                    found.add(a64patch.plan(patch, fresh).state.value)
            first, second = words_at(target, site, 2)
            [room] = target.rooms()
            found.add(f"{first >> 26} {second:x} {words_at(target, room.address, 2) == NEW}")
            stays.append(a64patch.revert(outcome.entry, target, journal).stays)
            while target.rooms():
                list(a64patch.recover(journal))
        after = words_at(target, site, 2)
        target.close()
        told = running.end()
        return told | {"stays": stays, "found": sorted(found), "same": before == after == OLD}


def inside() -> dict[str, Any]:
    """A thread sleeps in a call of the new code, and comes back to it after the patch is reverted."""
    with _waiting("h") as child, new_journal() as journal, a64patch.open_target(f"pid:{child.pid}") as target:
        [call] = words_at(target, target.symbols["held"] + 0x10, 1)
        patch = a64patch.parse(INSIDE.format(call=call))
        entry = a64patch.apply(patch, target, journal).entry
        sums = [_line(child)]
        _call_of(child.pid)
        stays = a64patch.revert(entry, target, journal).stays
        notes = [(recovery.note, len(target.rooms())) for recovery in a64patch.recover(journal)]
        sums.append(_line(child))
        notes += [(recovery.note, len(target.rooms())) for recovery in a64patch.recover(journal)]
        sums.append(_line(child))
        return {"sums": sums, "stays": stays, "notes": notes, "again": len(a64patch.recover(journal))}


def _line(child: subprocess.Popen[str]) -> str:
    """What it says after a line."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    return child.stdout.readline().strip()


def killed(number: str) -> dict[str, Any]:
    """a64patch is killed at random moments; then `recover` leaves the old words and no room, or all of the new code."""
    chance = random.Random(int(number))
    states: Counter[str] = Counter()
    with _waiting("r") as child, new_journal() as journal:
        place = f"pid:{child.pid}"
        target = a64patch.open_target(place)
        plan, site = a64patch.plan(a64patch.parse(DETOUR), target), target.symbols["pair"]
        begun = time.monotonic()
        a64patch.revert(a64patch.apply(plan, target, journal).entry, target, journal)
        length = time.monotonic() - begun
        for _ in range(int(number)):
            ready, going = os.pipe()
            a64 = os.fork()
            if not a64:
                _apply_and_revert(place, str(journal.path), going)
            os.close(going)
            select.select([ready], [], [], 60)
            os.close(ready)
            time.sleep(chance.random() * length)
            os.kill(a64, signal.SIGKILL)
            os.waitpid(a64, 0)
            while journal.entries(EntryState.OPEN, EntryState.PARTIAL) or journal.with_left_code():
                list(a64patch.recover(journal))  # Its child may still be at work in the process.
            is_old = words_at(target, site, 2) == OLD
            with a64patch.open_target(place) as fresh:
                states[f"{'old' if is_old else 'new'}, rooms: {len(fresh.rooms())}"] += 1
                if not is_old:
                    last = max(entry.id for entry in journal.entries(EntryState.APPLIED) if not entry.reverts)
                    a64patch.revert(last, fresh, journal)
                    while journal.with_left_code():
                        list(a64patch.recover(journal))
        target.close()
        return {"states": states, "said": child.communicate("x\n", timeout=60)[0]}


def _apply_and_revert(place: str, journal_path: str, ready: int) -> None:
    try:
        with a64patch.open_target(place) as target, a64patch.Journal(journal_path) as journal:
            plan = a64patch.plan(a64patch.parse(DETOUR), target)
            os.write(ready, b"r")
            while True:
                entry = a64patch.apply(plan, target, journal).entry
                a64patch.revert(entry, target, journal)
    finally:
        os._exit(1)


def main() -> None:
    function, *arguments = sys.argv[1:]
    print(json.dumps(globals()[function](*arguments)))


if __name__ == "__main__":
    main()

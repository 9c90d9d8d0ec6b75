"""What test_live_process.py does inside of the guest: a64patch patches processes there. Functions answer with JSON.

Read on: ../targets/threads_victim.c is the usual process, test_live_process.py says what must come out.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import re
import select
import shutil
import signal
import struct
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
from a64patch.targets import procfs, ptrace, threads
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
NOBODY = 65534
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
CLONE_NEWNS, CLONE_NEWPID, MS_MOVE, MS_REC, MS_PRIVATE = 0x20000, 0x20000000, 0x2000, 0x4000, 0x40000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
CAP_SYS_PTRACE, SYS_PTRACE = 19, 117
NOP = 0xD503201F
OLD, NEW = (0xD2800020, 0xD2800021), (0xD2800040, 0xD2800041)


class Victim:
    """A running process that counts."""

    def __init__(self, *words: str, program: str = VICTIM, **options: Any) -> None:
        self.child: subprocess.Popen[str] = subprocess.Popen(
            [program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
        )
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
def victim(*words: str, **options: Any) -> Iterator[Victim]:
    found = Victim(*words, **options)
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


def rounds(number: str, letters: str, program: str = VICTIM, site: str = "pair", **options: Any) -> dict[str, Any]:
    """Apply and revert two words `number` times while the victim executes them. A site `+0x10` is behind its start."""
    with victim(letters, program=program, **options) as running, new_journal() as journal:
        before = _rate(running)
        target = a64patch.open_target(running.place)
        place = f"{target.modules.main.base + int(site, 16):#x}" if site.startswith("+") else site
        plan = a64patch.plan(a64patch.parse(PAIR.replace("pair", place)), target)
        windows, counts, found, retries = [], [], set(), 0
        # Code without names has functions without a known end, which indirect jumps elsewhere may go to.
        accept = () if place == site else ("branch-into-site",)
        for _ in range(int(number)):
            applied = a64patch.apply(plan, target, journal, retry=60, accept=accept)
            found.add(words_at(target, plan.changes[0].address, 2))
            undone = a64patch.revert(applied.entry, target, journal)
            found.add(words_at(target, plan.changes[0].address, 2))
            windows += [applied.result.stop_window_ns or 0, undone.result.stop_window_ns or 0]
            counts.append(len(applied.result.cpus))
            retries += applied.result.retries + undone.result.retries
        target.close()
        after = _rate(running)
        seccomp = re.findall(r"Seccomp:\t(\d)", Path(f"/proc/{running.pid}/status").read_text())
        return running.end() | {
            "rates": [before, after],
            "window_ms": sorted(windows)[len(windows) // 2] / 1e6,
            "threads": [min(counts), max(counts)],
            "retries": retries,
            "found": sorted(found) == sorted([OLD, NEW]),
            "seccomp": seccomp,
        }


def _rate(running: Victim, seconds: float = 0.3) -> float:
    """Calls a second."""
    first, begun = running.counts()["turns"], time.monotonic()
    time.sleep(seconds)
    return float((running.counts()["turns"] - first) / (time.monotonic() - begun))


def builds(number: str, letters: str, *programs: str) -> dict[str, Any]:
    """`rounds` of each program: a path, with a site behind it."""
    return {
        path: rounds(number, letters, path, site or "pair") for path, _, site in (p.partition(" ") for p in programs)
    }


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
                _apply_and_revert(running.place, plan, str(journal.path), going)
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


def _apply_and_revert(place: str, plan: Plan, journal_path: str, ready: int) -> None:
    try:
        with a64patch.open_target(place) as target, a64patch.Journal(journal_path) as journal:
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


STEPS = [
    (ptrace, "seize"), (ptrace, "interrupt"), (ptrace, "state"), (ptrace, "registers"), (ptrace, "detach"),
    (procfs.Process, "read_some"), (procfs.Process, "write"), (procfs.Process, "maps_text"),
    (threads, "tasks_of"), (threads, "system_call"), (threads, "processes"),
]  # fmt: skip
"""What a stop calls, of which the process can notice or miss something."""


def dying_at_each_step(number: str) -> list[list[str]]:
    """The victim is killed right before one of the steps of a patch: `number` of them, from the first to the last."""
    calls, fuse = 0, -1

    def hooked(owner: Any, name: str) -> Any:
        real = getattr(owner, name)

        def call(*arguments: Any) -> Any:
            nonlocal calls
            if calls == fuse:
                os.kill(running.pid, signal.SIGKILL)  # Popen.kill() would ask for its state, as the tracer does.
            calls += 1
            return real(*arguments)

        return call

    told: list[list[str]] = []
    known = {(owner, name): getattr(owner, name) for owner, name in STEPS}
    every = 0
    for turn in range(int(number) + 1):
        with victim("s") as running, new_journal() as journal, a64patch.open_target(running.place) as target:
            plan = a64patch.plan(a64patch.parse(PAIR), target)
            calls, fuse = 0, every * (turn - 1) // int(number) if turn else -1
            for owner, name in STEPS:
                setattr(owner, name, hooked(owner, name))
            try:
                said = outcome_of(partial(a64patch.apply, plan, target, journal, retry=60))
            finally:
                for (owner, name), real in known.items():
                    setattr(owner, name, real)
            if not turn:
                every = calls
            running.child.kill()
            running.child.wait()
            recovered = [f"{entry.state.value}: {entry.note}" for entry in a64patch.recover(journal)]
            left = [entry.state.value for entry in journal.entries(EntryState.OPEN, EntryState.PARTIAL)]
            texts = (said, *recovered, *left, *map(str, target._late))  # type: ignore[attr-defined]
            told.append([text.replace(str(running.pid), "PID") for text in texts])
    return told


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


def rights() -> dict[str, str]:
    """Who may trace whom, by the rules of Yama and by capabilities."""
    found = {}
    nobodys: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    with victim("d", **nobodys) as running:
        found["not dumpable"] = _as_user(partial(a64patch.open_target, running.place))
        found["not dumpable, by root"] = outcome_of(partial(a64patch.open_target, running.place))
    with victim("") as running:
        found["without the capability"] = _apart(partial(a64patch.open_target, running.place), _without_ptrace)
        found["under a filter"] = _apart(lambda: a64patch.open_target(running.place).kick(), _under_a_filter)
    # A program that does not let others trace it, as the victim does.
    with subprocess.Popen(["sleep", "600"], **nobodys) as sleeper:
        try:
            for scope in "12":
                YAMA.write_text(scope)
                place = f"pid:{sleeper.pid}"
                found[f"scope {scope}"] = _as_user(partial(a64patch.open_target, place))
                found[f"scope {scope}, by root"] = outcome_of(partial(a64patch.open_target, place))
        finally:
            YAMA.write_text("0")
            sleeper.kill()
    return found


def scope_3() -> str:
    """The rule of Yama that holds until the next boot."""
    YAMA.write_text("3")
    with victim("") as running:
        return outcome_of(partial(a64patch.open_target, running.place))


def unforced(number: str) -> dict[str, Any]:
    """`rounds`, and the outcome of a patch while the threads run."""
    with victim("") as running, new_journal() as journal, a64patch.open_target(running.place) as target:
        [call] = words_at(target, target.symbols["held"] + 0x10, 1)
        branch = a64patch.plan(a64patch.parse(f"@@ held+0x10 @@\n-{call:08x}\n+{NOP:08x}\n"), target)
        said = outcome_of(lambda: a64patch.apply(branch, target, journal))
    return rounds(number, "s") | {"while they run": said}


def contained() -> dict[str, Any]:
    """A process in a container, patched from outside. Its process numbers, mounts and root directory are its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    root = Path(f"/dev/shm/root-{os.getpid()}")
    root.mkdir()

    def call(name: str, *arguments: Any) -> None:
        if getattr(libc, name)(*arguments):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), name)

    def enter() -> None:
        call("unshare", CLONE_NEWNS)
        call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
        call("mount", b"root", bytes(root), b"tmpfs", 0, None)
        shutil.copy(VICTIM, root / "program")
        os.chdir(root)
        call("mount", b".", b"/", None, MS_MOVE, None)
        os.chroot(".")
        _become_nobody()

    with open("/proc/self/ns/pid") as outside:
        call("unshare", CLONE_NEWPID)
        with victim("s", program="/program", preexec_fn=enter) as running:
            call("setns", outside.fileno(), CLONE_NEWPID)
            place = f"pid:{running.pid}?main=/program"
            status = Path(f"/proc/{running.pid}/status").read_text()
            numbers = re.findall(r"NSpid:\t(\d+)\t(\d+)", status)
            said = [outcome_of(partial(_patch_and_revert, place)), _as_user(partial(_patch_and_revert, place))]
            return running.end() | {"numbers": numbers == [(str(running.pid), "1")], "said": said}


def _patch_and_revert(place: str) -> None:
    # Without the program's file there is no name `pair`.
    with a64patch.open_target(place) as target, new_journal() as journal:
        _there_and_back(a64patch.plan(a64patch.parse(PAIR), target), target, journal)


def _become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _without_ptrace() -> None:
    """Give up the capability SYS_PTRACE."""
    head = struct.pack("<Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    libc = ctypes.CDLL(None)
    assert not libc.capget(head, data)
    effective, permitted, *rest = struct.unpack("<6I", data)
    lost = ~(1 << CAP_SYS_PTRACE)
    assert not libc.capset(head, struct.pack("<6I", effective & lost, permitted & lost, *rest))


def _under_a_filter() -> None:
    """Install a filter of system calls, as containers do, that answers ptrace(2) with EPERM."""
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, SYS_PTRACE), (6, 0, 0, 0x50000 | errno.EPERM), (6, 0, 0, 0x7FFF0000)]
    data = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in steps))
    libc = ctypes.CDLL(None)
    assert not libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(steps), ctypes.addressof(data)))
    assert not libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)


def _as_user(action: Callable[[], object]) -> str:
    """The outcome of an action as a user who is not root."""
    return _apart(action, _become_nobody)


def _apart(action: Callable[[], object], before: Callable[[], object]) -> str:
    """The outcome of an action in a process that does something else before."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before()
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

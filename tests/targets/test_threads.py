"""Every thread of a real process stops and goes on, and the process notices nothing. On this machine, whatever it is.

Read on: ../real/test_live_process.py for the rest, which only arm64 can do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from a64patch.errors import CapabilityError, GoneError, TargetError
from a64patch.targets import ptrace
from a64patch.targets.procfs import Process, processes, state_of
from a64patch.targets.ptrace import Held
from a64patch.targets.threads import Threads
from tests.support import ROOT, eventually, need


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("threads") / "victim"
    source = ROOT / "tests/targets/threads_victim.c"
    subprocess.run([need("gcc", "gcc"), "-O1", "-pthread", "-o", path, source], check=True)
    return path


class Running:
    """A running victim, and what it says when it ends."""

    def __init__(self, program: Path, letters: str = "") -> None:
        self.child = subprocess.Popen([program, letters], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.child.stdout is not None
        assert self.child.stdout.readline() == "ready\n"
        self.process = Process(self.child.pid)

    def stop(self) -> Threads:
        # No system call has these numbers here: to enter one again is a matter of arm64's registers.
        threads = Threads(self.process, ended=())
        threads.stop()
        return threads

    def end(self) -> dict[str, Any]:
        said, _ = self.child.communicate("x\n", timeout=60)
        assert self.child.returncode == 0
        found: dict[str, Any] = json.loads(said)
        return found


@contextmanager
def running(program: Path, letters: str = "") -> Iterator[Running]:
    victim = Running(program, letters)
    try:
        yield victim
    finally:
        victim.process.close()
        if victim.child.poll() is None:
            victim.child.kill()
            victim.child.wait()


@pytest.mark.parametrize("letters", ["", "b", "v", "bv"])
def test_a_process_that_is_stopped_often_notices_nothing(program: Path, letters: str) -> None:
    with running(program, letters) as victim:
        seen: Counter[Held] = Counter()
        for _ in range(60):
            threads = victim.stop()
            seen.update(threads.held(tid) for tid in threads.standing)
            assert threads.let_go() == []
        told = victim.end()
    assert seen[Held.INTERRUPTED] > 60
    assert told["taken"] == told["sent"]
    assert told["ended_sleeps"] == 0
    assert told["sent"][0] > 10
    assert ("b" not in letters) == (told["births"] == 0)
    assert ("v" not in letters) == (told["vforks"] == 0)


def test_nobody_executes_while_all_stand(program: Path) -> None:
    with running(program, "b") as victim:
        for _ in range(20):
            threads = victim.stop()
            listed = sorted(victim.process.threads())
            assert sorted(threads.standing) == listed
            time.sleep(0.01)  # A thread reports that it stands, and gives up its CPU a moment later.
            before = [_switches(tid) for tid in listed]
            time.sleep(0.01)
            assert sorted(victim.process.threads()) == listed
            assert [_switches(tid) for tid in listed] == before
            threads.let_go()
        victim.end()


def _switches(tid: int) -> list[str]:
    text = Path(f"/proc/{tid}/status").read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if "ctxt_switches" in line]


def test_another_process_with_the_same_memory_stops_too(program: Path) -> None:
    with running(program, "c") as victim:
        [child] = [pid for pid in processes() if _parent(pid) == victim.child.pid]
        threads = victim.stop()
        assert child in threads.standing
        assert threads.process_of(child) == child
        time.sleep(0.01)
        before = _switches(child)
        time.sleep(0.01)
        assert (state_of(child, child), _switches(child)) == ("t", before)
        threads.let_go()
        victim.end()


def _parent(pid: int) -> int:
    try:
        return int(
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
        )
    except OSError:
        return 0


def test_a_stopped_process_stays_stopped(program: Path) -> None:
    with running(program) as victim:
        os.kill(victim.child.pid, signal.SIGSTOP)
        assert eventually(lambda: state_of(victim.child.pid, victim.child.pid) == "T")
        threads = victim.stop()
        assert {threads.held(tid) for tid in threads.standing} == {Held.GROUP_STOP}
        threads.let_go()
        assert eventually(lambda: all(state_of(victim.child.pid, tid) == "T" for tid in victim.process.threads()))
        os.kill(victim.child.pid, signal.SIGCONT)
        told = victim.end()
    assert told["taken"] == told["sent"]


_TRACER = """
import sys, time
from a64patch.targets import ptrace
from a64patch.targets.procfs import Process
from a64patch.targets.threads import Threads
process = Process(int(sys.argv[1]))
print("begins", flush=True)
while True:
    threads = Threads(process, ended=())
    threads.stop()
    print("stands", flush=True)
    time.sleep(float(sys.argv[2]))
    threads.let_go()
"""


def _tracer(victim: Running, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _TRACER, str(victim.child.pid), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_tracer_lets_everyone_go_and_loses_no_signal(program: Path) -> None:
    with running(program, "bv") as victim:
        for turn in range(12):
            tracer = _tracer(victim, 0.01)
            assert tracer.stdout is not None
            for _ in range(turn % 3 + 1):
                assert tracer.stdout.readline()
            time.sleep(turn * 0.003)
            tracer.send_signal(signal.SIGKILL)
            tracer.communicate()
        told = victim.end()
    assert told["taken"] == told["sent"]
    assert told["sent"][0] > 10


def test_a_process_has_one_tracer(program: Path) -> None:
    with running(program) as victim:
        tracer = _tracer(victim, 60)
        assert tracer.stdout is not None
        assert [tracer.stdout.readline() for _ in range(2)] == ["begins\n", "stands\n"]
        with pytest.raises(TargetError, match=rf"is being traced by process {tracer.pid} \(python.*one tracer at most"):
            victim.stop()
        tracer.kill()
        tracer.communicate()
        victim.stop().let_go()
        victim.end()


def test_a_process_that_ends_or_executes_another_program_is_said(program: Path) -> None:
    with running(program) as victim:
        assert victim.process.same_program()
        victim.child.kill()
        victim.child.wait()
        assert not victim.process.same_program()
        with pytest.raises(TargetError, match="has ended"):
            victim.stop()
        with pytest.raises(TargetError, match="has ended, and its memory with it"):
            victim.process.read(0x10000, 4)
    child = subprocess.Popen(["/bin/sh", "-c", "read line; exec cat"], stdin=subprocess.PIPE, text=True)
    process = Process(child.pid)
    place = process.maps()[0].start
    process.read(place, 4)
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    assert eventually(lambda: process.name() == "cat")
    assert not process.same_program()
    with pytest.raises(TargetError, match="executes another program than before"):
        process.read(place, 4)
    child.communicate()
    process.close()


def test_other_users_need_a_reason_why_not(program: Path) -> None:
    with running(program) as victim:
        # Only root can become another user; everybody else meets a process of root's.
        said = _refusal(1) if os.geteuid() else _as_nobody(lambda: Process(victim.child.pid))
    assert "may not be traced (Permission denied): it belongs to another user" in said


def _refusal(pid: int) -> str:
    with pytest.raises(TargetError) as error:
        Process(pid)
    return str(error.value)


def _as_nobody(action: Callable[[], object]) -> str:
    """The message of the TargetError that the action raises as another user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            action()
        except TargetError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def test_a_thread_is_no_process(program: Path) -> None:
    with running(program) as victim:
        tid = max(victim.process.threads())
        with pytest.raises(CapabilityError, match=f"give pid:{victim.child.pid}, the whole process"):
            Process(tid)
    with pytest.raises(TargetError, match="there is no process 4194999"):
        Process(4194999)


def test_a_process_without_memory_shares_none(program: Path) -> None:
    """A process that ends gives its memory away first. The kernel's threads have none either."""
    with running(program) as victim, running(program) as other:
        for one in (victim, other):
            os.kill(one.child.pid, signal.SIGKILL)
            assert eventually(lambda one=one: state_of(one.child.pid, one.child.pid) == "Z")  # type: ignore[misc]
        assert not ptrace.shares_memory(victim.child.pid, other.child.pid)
        with pytest.raises(GoneError, match="has ended, and its memory with it"):
            victim.stop()

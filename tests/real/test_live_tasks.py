"""The tasks of a running Linux, compared with what the guest itself says of them, and patches of code they sleep in."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from a64patch import open_target, patch_text_sync
from a64patch.a64.assembler import assemble
from a64patch.a64.generate import gen_nop
from a64patch.a64.words import from_bytes
from a64patch.errors import BusyError, SymbolError
from a64patch.kernel.structures import Structures, load_btf
from a64patch.kernel.tasks import Tasks
from a64patch.targets.gdb import GdbTarget
from tests.real.guest import CPUS
from tests.real.live import LiveGuest
from tests.real.places import code_of, offset_of
from tests.support import eventually, rounds

STATES = {"S": 1, "I": 0x402}
"""The states in which tasks sleep for long: TASK_INTERRUPTIBLE, and TASK_UNINTERRUPTIBLE with TASK_NOLOAD."""


@pytest.fixture
def target(live: LiveGuest) -> Iterator[GdbTarget]:
    """Without others."""
    with open_target(live.gdb, symbols="kallsyms") as opened:
        assert isinstance(opened, GdbTarget)
        opened._others = None
        yield opened


def tasks_in(target: GdbTarget) -> Tasks:
    names = target.symbols

    def place(name: str) -> int:
        try:
            return names[name]
        except SymbolError:
            return 0

    at = place("__start_BTF"), place("__stop_BTF")
    start, end = names["_etext"], names["__init_begin"]
    structures = Structures(lambda: load_btf(target, start, end, at), target.identity().build_id)
    return Tasks(target, structures, names)


def test_the_tasks_are_those_of_proc(live: LiveGuest, target: GdbTarget) -> None:
    """PID, name and state of each, threads too; those that come or go meanwhile are in one of two looks at /proc."""
    with live.working("pid"):
        before = listed(live)
        found = {task.pid: task for task in tasks_in(target).tasks() if task.pid}
        after = listed(live)
    assert len(found) > 50
    assert len([pid for pid, (name, _) in before.items() if name == "live_load"]) >= CPUS, "threads"
    assert found.keys() <= before.keys() | after.keys()
    assert found.keys() >= before.keys() & after.keys()
    compared = 0
    for pid, task in found.items():
        if pid in before and before[pid] == after.get(pid):
            name, state = before[pid]
            # /proc adds what a kernel worker works at, and the end of a kernel thread's long name.
            assert name.startswith(task.comm), (task, name)
            assert len(task.comm) == 15 or name[len(task.comm) :][:1] in ("", "-", "+"), (task, name)
            if state in STATES and not task.on_cpu:
                assert task.state & 0x403 == STATES[state], (task, state)
                compared += 1
    assert compared > 40


def listed(live: LiveGuest) -> dict[int, tuple[str, str]]:
    """Name and state of each task in /proc, by PID."""
    text = live.run("cat /proc/[0-9]*/task/[0-9]*/stat 2>/dev/null; true")
    return {int(pid): (name, state) for pid, name, state in re.findall(r"^(\d+) \((.*)\) (\w) ", text, re.MULTILINE)}


def test_stacks_are_those_of_proc(live: LiveGuest, target: GdbTarget) -> None:
    """Each return address of each task that sleeps throughout, and every chain of frame records ends as it must."""
    before = stacks(live)
    found = {task.pid: task for task in tasks_in(target).tasks() if task.pid}
    after = stacks(live)
    scheduler = range(live.names["__sched_text_start"], live.names["__sched_text_end"])
    compared = 0
    for pid, (lines, switches) in before.items():
        task = found.get(pid)
        if task is None or task.on_cpu or after.get(pid) != (lines, switches):
            continue
        assert not task.doubt, task
        # /proc leaves out the scheduler's own functions, with which each stack of a sleeping task begins.
        addresses = task.addresses[len(task.addresses) - len(lines) :]
        assert all(address in scheduler for address in task.addresses[: -len(lines)]), task
        for address, (name, offset) in zip(addresses, lines, strict=True):
            assert address in [symbol.address + offset for symbol in live.names.named(name)], (task, name)
        compared += 1
    assert compared > 40


def stacks(live: LiveGuest) -> dict[int, tuple[list[tuple[str, int]], str]]:
    """/proc/PID/stack of each task: (name, offset) of each line. And how often the task has run: not in between."""
    command = "for task in /proc/[0-9]*; do echo = ${task#/proc/}; cat $task/stack; grep ctxt $task/status; done; true"
    return {
        int(pid): ([(name, int(offset, 16)) for name, offset in re.findall(r"\] (\S+)\+(0x\w+)/", lines)], switches)
        for pid, lines, switches in re.findall(
            r"^= (\d+)\n((?:\[.*\n)*)((?:\w*ctxt.*\n)*)", live.run(command), re.MULTILINE
        )
    }


def nap(target: GdbTarget) -> tuple[list[int], list[int], list[int]]:
    """The call of do_nanosleep in which a task sleeps, with the word behind: addresses, old words, new words."""
    code = code_of(target, "do_nanosleep")
    match = re.search(r"^bl schedule\nmov (x\d+), (x\d+)\n", code, re.MULTILINE)
    assert match is not None, code
    start = target.symbols["do_nanosleep"] + offset_of(code, match.start())
    places = [start, start + 4]
    old = from_bytes(target.read(start, 8))
    return places, old, [old[0], *assemble(f"add {match[1]}, {match[2]}, #0")]


@pytest.mark.other_kernel
def test_a_task_that_sleeps_inside_a_site_keeps_the_patch_away(live: LiveGuest, target: GdbTarget) -> None:
    """With a sleeping process it is busy, by name; once the process has ended it is not. CPUs alone show nothing."""
    places, old, new = nap(target)
    tasks = tasks_in(target)
    pid = live.run("sleep 1000 </dev/null >/dev/null 2>&1 & echo $!").strip()
    try:
        assert eventually(lambda: "hrtimer_nanosleep" in live.run(f"cat /proc/{pid}/stack"))
        behind = re.escape(target.symbols.describe(places[1]))
        target.knowing(others=tasks)
        with pytest.raises(
            BusyError, match=rf"task {pid} \(sleep\) will return to {behind}, inside the words"
        ) as caught:
            patch_text_sync(target, places, new, expected=old)
        assert "11 times in 11 attempts" in str(caught.value)
        assert from_bytes(target.read(places[0], 8)) == old
        # What the look is for: without it, the process will go on in the middle of the new words.
        target._others = None
        patch_text_sync(target, places, new, expected=old)
        assert places[1] in next(task.addresses for task in tasks.tasks() if task.pid == int(pid))
        patch_text_sync(target, places, old, expected=new)
        target.knowing(others=tasks)
        with pytest.raises(BusyError, match=rf"task {pid} "):
            patch_text_sync(target, places, new, expected=old)
    finally:
        live.run(f"kill {pid}")
    assert patch_text_sync(target, places, new, expected=old, retry=10).method == "stop"
    live.run("sleep 0.01")
    assert patch_text_sync(target, places, old, expected=new, retry=10).method == "stop"
    live.require_healthy()


def test_stops_while_tasks_come_and_go(live: LiveGuest, target: GdbTarget) -> None:
    """Every stop finds its tasks, whatever the tree of PIDs has gone through since it was prepared."""
    target.knowing(others=tasks_in(target))
    start = target.symbols["uptime_proc_show"] + 4
    old = from_bytes(target.read(start, 8))
    assert old[0] == gen_nop(), "what ftrace keeps for itself"
    new = [*assemble("b .+4"), old[1]]
    with live.load("while :; do /bin/busybox true; sleep 0; done"):
        for _ in range(rounds(100, 5)):
            patch_text_sync(target, [start, start + 4], new, expected=old, retry=20)
            patch_text_sync(target, [start, start + 4], old, expected=new, retry=20)
    live.require_healthy()

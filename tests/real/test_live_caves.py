"""A detour of a function of a running Linux, into padding of its text: it is executed there, and then it is gone.

Read on: ../targets/test_caves.py for what is refused.
"""

from __future__ import annotations

from pathlib import Path

import a64patch
from a64patch.a64.generate import gen_nop
from a64patch.a64.words import from_bytes
from a64patch.patch.asmdiff import to_text
from a64patch.patch.plan import fill
from tests.real.live import UPTIME, LiveGuest
from tests.real.places import draft

SIZE = 128


def test_kernel_function_is_led_into_padding_and_back(live: LiveGuest, tmp_path: Path) -> None:
    """The vectors are at a multiple of 2 KiB, and before them is padding."""
    start = live.names["vectors"] - SIZE
    with (
        a64patch.open_target(live.gdb, symbols="kallsyms", caves=[f"{start:#x}:{SIZE}"]) as target,
        a64patch.Journal(tmp_path / "journal") as journal,
    ):
        before = target.read(start, SIZE)
        text = draft(target, "", UPTIME).replace("@@ uptime", "@@ detour uptime").rstrip()
        patch = a64patch.parse(to_text(fill(a64patch.parse(f"{text}\n+{gen_nop():08x}\n"), target)))
        plan = a64patch.plan(patch, target)
        assert (plan.hazards, len(plan.changes)) == ((), 1)
        applied = a64patch.apply(plan, target, journal)
        [room] = target.rooms()
        assert start <= room.address < room.end < start + SIZE
        assert live.run("cat /proc/uptime").split()[0].endswith(".1234")
        assert a64patch.plan(patch, target).state.value == "applied"
        left = a64patch.revert(applied.entry, target, journal).stays
        while left:  # a CPU or a task was inside
            left = next(recovery.note for recovery in a64patch.recover(journal) if target.rooms())
        assert not live.run("cat /proc/uptime").split()[0].endswith(".1234")
        assert (target.read(start, SIZE), target.rooms()) == (before, [])
        assert set(from_bytes(before)) <= {gen_nop(), 0}

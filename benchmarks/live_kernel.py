"""live-kernel: what a running kernel tells about itself costs: names, a plan, and a stop that looks at every task.

Read on: src/a64patch/kernel/running.py and tasks.py; live.py for the words themselves, beside peers. No peer names a
kernel from its memory alone or looks at its tasks.
"""

from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

from a64patch import open_target
from a64patch.kernel.symbols import attach
from a64patch.patch.asmdiff import AsmDiff, parse
from a64patch.patch.journal import Journal
from a64patch.patch.plan import fill, make_plan
from a64patch.patch.transaction import apply_plan, revert
from a64patch.targets.base import Target
from benchmarks import inputs
from benchmarks.measure import MILLISECONDS, Report, Row, Table, Verdict
from tests.real import packages
from tests.real.guest import Guest
from tests.real.live import UPTIME
from tests.real.places import draft

AIM = "names of a running kernel first in 3 s, then in 0.3 s; plan in 1 s; 2 words in a stop of 5 ms with 500 tasks"
ROUNDS = 7
_TASKS = 500


def run(rounds: int | None) -> Report:
    """Debian's arm64 kernel with 500 tasks, four CPUs, idle."""
    if not inputs.tool("qemu-system-aarch64"):
        raise inputs.MissingError("qemu-system-aarch64 is missing: install the Debian package qemu-system-arm")
    for package, pattern in ((packages.KERNEL, "boot/vmlinuz-*"), ("busybox-static", "bin/busybox")):
        inputs.file_of(package, pattern)
    report = Report("live-kernel")
    times: dict[str, list[float]] = {"first": [], "again": [], "plan": [], "apply": [], "window": []}
    with Guest() as guest, tempfile.TemporaryDirectory() as folder:
        here = int(guest.run("ls -d /proc/[0-9]* | wc -l"))
        guest.run(f"for i in $(seq {_TASKS - here}); do sleep 100000 </dev/null >/dev/null 2>&1 & done")
        diff = _patch(guest)
        for number in range(rounds or ROUNDS):
            with patch.dict(os.environ, {"XDG_CACHE_HOME": f"{folder}/{number}"}):
                for name in ("first", "again"):
                    begun = perf_counter()
                    with open_target(guest.gdb) as target:
                        attach(target, "kallsyms")
                        times[name].append((perf_counter() - begun) * 1e3)
                        if name == "again":
                            _once(target, diff, Path(folder) / "journal", times)
        guest.require_healthy()
    rows = {
        "names from memory, nothing saved": ("first", 3000.0), "names from memory, saved": ("again", 300.0),
        "plan of two words": ("plan", 1000.0), f"stop of two words, {_TASKS} tasks": ("window", 5.0),
        "apply, with the look before the stop": ("apply", 0.0),
    }  # fmt: skip
    table = Table(
        "a running kernel", MILLISECONDS, [Row(row, True, tuple(times[key])) for row, (key, _) in rows.items()]
    )
    report.tables.append(table)
    for row, (_, aim) in rows.items():
        if aim:
            median = table.row(row).median
            report.verdicts.append(Verdict(f"{row}: under {aim:g} ms", median < aim, f"{median:.1f} ms"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report.verdicts.append(Verdict("memory under 400 MiB, this process", peak < 400, f"{peak:.0f} MiB"))
    return report


def _patch(guest: Guest) -> AsmDiff:
    with open_target(guest.gdb, symbols="kallsyms") as target:
        return fill(parse(draft(target, "Another uptime", UPTIME)), target)


def _once(target: Target, diff: AsmDiff, path: Path, times: dict[str, list[float]]) -> None:
    begun = perf_counter()
    plan = make_plan(diff, target)
    times["plan"].append((perf_counter() - begun) * 1e3)
    with Journal(path) as journal:
        begun = perf_counter()
        done = apply_plan(plan, target, journal)
        times["apply"].append((perf_counter() - begun) * 1e3)
        times["window"].append((done.result.stop_window_ns or 0) / 1e6)
        revert(done.entry, target, journal)

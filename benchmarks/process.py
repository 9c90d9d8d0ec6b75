"""process: words of a running process changed beside gdb and frida, and for how long its threads could not run.

All tools run in one guest, one after the other, each on a fresh process. The process itself measures the stop: so the
clock is the same for all tools, and sees what a tool does before and after its own idea of a stop.
Read on: process_in_guest.py, process_victim.c; src/a64patch/targets/process.py and threads.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import inputs
from benchmarks.measure import MILLISECONDS, BenchmarkError, Report, Row, Table, Verdict
from benchmarks.process_in_guest import FRIDA, NOBODY, OURS, VICTIM
from tests.real import packages
from tests.real.userland import Userland
from tests.real.userland_image import python_version
from tests.support import run as run_tool

AIM = "threads stand for at most a tenth of the time that gdb needs, for 1 and 1,000 words, 4 and 100 threads"
ROUNDS = 5
_COUNTS, _THREADS = (1, 1000), (4, 100)
_FACTOR = 10
_HERE = Path(__file__).parent
_FRIDA = "frida==17.*"


def run(rounds: int | None) -> Report:
    """1 and 1,000 words, 4 and 100 threads, in a guest with four CPUs."""
    for tool, package in (
        ("qemu-system-aarch64", "qemu-system-arm"), ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    ):  # fmt: skip
        if not inputs.tool(tool):
            raise inputs.MissingError(f"{tool} is missing: install the Debian package {package}")
    report = Report("process")
    files = {f"/opt/{name}": _HERE / "peers" / name for name in ("process_gdb.py", "process_frida.py")}
    frida = _frida(report)
    with TemporaryDirectory() as folder:
        victim = Path(folder) / "victim"
        # Without code in one mapping with the ELF header, no constant there looks like a branch into field().
        run_tool(
            *("aarch64-linux-gnu-gcc", "-O1", "-no-pie", "-pthread", "-Wl,-z,separate-code"),
            *("-o", victim, _HERE / "process_victim.c"),
        )  # fmt: skip
        with Userland(files={VICTIM: victim, **files, **frida}, addons=["gdb"]) as userland:
            for threads in _THREADS:
                for count in _COUNTS:
                    is_first = not report.tables  # All tools come from the guest's memory after that.
                    words = threads, count, rounds or ROUNDS, int(is_first), int(bool(frida))
                    told = userland.python(_HERE / "process_in_guest.py", *words, seconds=20_000)
                    _add(report, threads, count, told)
            userland.guest.require_healthy()
    report.notes += [
        "Each tool compares each word with the old one, writes it and reads it back. a64patch also looks where each"
        " thread is and will return, and keeps a journal.",
        "The delay is the longest of all threads, by the process' own clock: from the moment in which a thread wanted"
        " to run until it ran. It holds what the emulator and other programs cost: see `nobody stops it`.",
    ]
    return report


def _add(report: Report, threads: int, count: int, told: dict[str, Any]) -> None:
    for name, why in told["failed"].items():
        if name == OURS:
            raise BenchmarkError(f"{name}: {why}")
        report.notes.append(f"{threads} threads, {count:,} words: {name} failed: {why}")
    rows = {name: found for name, found in told["told"].items() if found["delay"] and name not in told["failed"]}
    title = f"{count:,} word{'s' if count > 1 else ''}, {threads} threads"
    delays = [Row(name, name == OURS, tuple(found["delay"])) for name, found in rows.items()]
    delays.append(Row("a64patch, by its own clock", False, tuple(rows[OURS]["window"])))
    delay = Table(f"{title}: longest delay of a thread", MILLISECONDS, delays)
    whole = [Row(name, name == OURS, tuple(found["elapsed"])) for name, found in rows.items() if name != NOBODY]
    report.tables += [delay, Table(f"{title}: whole process", MILLISECONDS, whole)]
    others = [row.median for row in delays if row.name.startswith("gdb")]
    if others:
        factor = min(others) / delay.row(OURS).median
        aim = f"{title}: a tenth of gdb's delay"
        report.verdicts.append(Verdict(aim, factor >= _FACTOR, f"gdb's is {factor:.1f} times ours"))


def _frida(report: Report) -> dict[str, Path]:
    """The files of frida for the guest, from PyPI; none when it cannot be had, and then the report says why."""
    try:
        root = _fetch_frida()
    except packages.MissingPackageError as error:
        report.notes.append(f"frida is not measured: {error}")
        return {}
    return {f"{FRIDA}/{path.relative_to(root)}": path for path in root.rglob("*") if path.is_file()}


def _fetch_frida() -> Path:
    version = python_version()
    with packages.building(f"frida-{version}") as (root, place):
        if place:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
                    *("--no-deps", "--target", str(place), "--only-binary=:all:", "--implementation=cp", "--abi=abi3"),
                    *("--platform=manylinux2014_aarch64", f"--python-version={version}", _FRIDA),
                ],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise packages.MissingPackageError(f"pip got no {_FRIDA} for arm64: {done.stderr.strip()[-200:]}")
    return root

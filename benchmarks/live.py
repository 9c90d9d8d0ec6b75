"""live: words of a running kernel changed through QEMU's GDB stub, from connecting to verified, and how long it stood.

Read on: src/a64patch/targets/gdb.py, tests/real/guest.py; peers/ for what it is compared with.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy

from a64patch import open_target, patch_text_sync
from a64patch.a64.generate import gen_nop
from benchmarks import inputs
from benchmarks.measure import MILLISECONDS, BenchmarkError, Report, Row, Table, Verdict, process_environment
from tests.real import packages
from tests.real.guest import Guest

AIM = "stop window under 2 ms for 1 word; for 1,000 scattered words within 1.15 of a bare client's"
ROUNDS = 7
_COUNTS = (1, 100, 1000, 10_000)
_SLOW_ROUNDS = 3
"""Rounds for the largest count, in which peers take seconds."""

_NOP, _YIELD = gen_nop(), 0xD503203F
"""A kernel whose NOPs are YIELDs does what it did."""
_OURS, _PYTHON = "a64patch", "gdb-multiarch, Python in gdb"
_BARE = "bare client, all packets at once"
_PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class _Work:
    """Change these words through this stub."""

    stub: str
    """The path of its Unix socket."""
    addresses: list[int]
    places: Path
    """The addresses as a file."""
    script: Path
    """The same as commands of gdb."""


@dataclass(frozen=True)
class _Way:
    """A whole process that does the work; `window`: it says how long the machine stood for it."""

    name: str
    command: Callable[[_Work], list[object]]
    window: bool
    most: int = max(_COUNTS)
    """More words take minutes."""


def run(rounds: int | None) -> Report:
    """1, 100, 1,000 and 10,000 words of Debian's arm64 kernel, four CPUs."""
    for tool, package in (("qemu-system-aarch64", "qemu-system-arm"), ("gdb-multiarch", "gdb-multiarch")):
        if not inputs.tool(tool):
            raise inputs.MissingError(f"{tool} is missing: install the Debian package {package}")
    report = Report("live")
    ways = _ways(report)
    for package, pattern in ((packages.KERNEL, "boot/vmlinuz-*"), ("busybox-static", "bin/busybox")):
        inputs.file_of(package, pattern)
    with Guest() as guest, tempfile.TemporaryDirectory() as directory:
        places = _nops(guest)
        for count in _COUNTS:
            chosen = places[:: len(places) // count][:count]
            work = _work(guest.gdb.removeprefix("gdb+unix:"), chosen, Path(directory))
            able = [way for way in ways if count <= way.most]
            _measure(work, able, rounds or (ROUNDS if count <= 1000 else _SLOW_ROUNDS), report)
        guest.require_healthy()
    report.notes += [
        "Each word is compared with the old one, written, and read back, while all CPUs of an idle guest stand.",
        "gdb's commands do not say how long they take; from connecting to detaching the machine stands.",
    ]
    return report


def _ways(report: Report) -> list[_Way]:
    arguments = (f"{_NOP:08x}", f"{_YIELD:08x}")
    ours = [sys.executable, "-m", "benchmarks.live_patch"]
    gdb = ["gdb-multiarch", "-nx", "-batch", "-x"]
    ways = [
        _Way(_OURS, lambda work: [*ours, work.stub, work.places, *arguments], True),
        _Way("gdb-multiarch, commands", lambda work: [*gdb, work.script], False),
        _Way(_PYTHON, lambda _: [*gdb, _PEERS / "live_gdb.py"], True),
        _Way(_BARE, lambda work: [sys.executable, _PEERS / "live_bare.py", work.stub, work.places, *arguments], True),
    ]
    if inputs.has_module("pygdbmi"):
        script = _PEERS / "live_pygdbmi.py"
        slow = _Way("pygdbmi", lambda work: [sys.executable, script, work.stub, work.places, *arguments], True, most=1)
        ways.append(slow)
        report.notes.append("pygdbmi waits 0.2 s for each command: 100 words would take it a minute, 10,000 two hours.")
    else:
        report.notes.append("pygdbmi is not installed: run scripts/bench.")
    return ways


def _nops(guest: Guest) -> list[int]:
    """The addresses of all NOPs of the kernel proper."""
    symbols = {name: int(address, 16) for address, _, name, *_ in map(str.split, guest.symbols().splitlines())}
    start, end = symbols["_stext"], symbols["_etext"]
    with open_target(guest.gdb) as target:
        words = numpy.frombuffer(target.read(start, end - start), "<u4")
    return [start + 4 * int(index) for index in numpy.flatnonzero(words == _NOP)]


def _work(stub: str, addresses: list[int], directory: Path) -> _Work:
    work = _Work(stub, addresses, directory / "places", directory / "script")
    work.places.write_text("".join(f"{address:x}\n" for address in addresses))
    lines = ["set confirm off", "set architecture aarch64", f"target remote {stub}"]
    for word, stands in ((_NOP, True), (_YIELD, False), (_YIELD, True)):
        for address in addresses:
            place = f"{{unsigned int}}{address:#x}"
            lines += [f"if {place} != {word:#x}", "quit 1", "end"] if stands else [f"set var {place} = {word:#x}"]
    work.script.write_text("\n".join([*lines, "detach", "quit 0", ""]))
    return work


def _measure(work: _Work, ways: list[_Way], rounds: int, report: Report) -> None:
    elapsed: dict[str, list[float]] = {way.name: [] for way in ways}
    windows: dict[str, list[float]] = {way.name: [] for way in ways if way.window}
    for number in range(rounds + 1):
        for way in ways:
            seconds, window = _once(way, work)
            _undo(way, work)
            if number:  # the first one warms up
                elapsed[way.name].append(seconds * 1e3)
                if way.window:
                    windows[way.name].append(window * 1e3)
    count = len(work.addresses)
    words = f"{count:,} scattered word{'s' if count > 1 else ''}"
    for title, values in (("connect to patched and verified, whole process", elapsed), ("stop window", windows)):
        rows = [Row(name, name == _OURS, tuple(found)) for name, found in values.items()]
        report.tables.append(Table(f"{words}: {title}", MILLISECONDS, rows))
    ours = report.tables[-1].row(_OURS).median
    if count == 1:
        report.verdicts.append(Verdict("stop window of 1 word under 2 ms", ours < 2, f"{ours:.2f} ms"))
    if count >= 1000:
        bare, python = (report.tables[-1].row(name).median for name in (_BARE, _PYTHON))
        report.verdicts.append(
            Verdict(
                f"stop window of {count:,} words within 1.15 of a bare client's",
                ours <= 1.15 * bare,
                f"{ours / bare:.2f}, {ours:.1f} ms; gdb's Python {python / ours:.1f} times ours",
            )
        )


def _once(way: _Way, work: _Work) -> tuple[float, float]:
    """Seconds of the whole process, and those that the machine stood, if it tells."""
    environment = {
        **process_environment(),
        "LIVE": f"{work.stub} {work.places} {_NOP:08x} {_YIELD:08x}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [str(part) for part in way.command(work)]
    begun = perf_counter()
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    seconds = perf_counter() - begun
    said = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("window ")]
    if done.returncode or (way.window and not said):
        raise BenchmarkError(f"{way.name} failed with status {done.returncode}: {done.stderr[-500:]}")
    return seconds, float(said[0]) if way.window else 0.0


def _undo(way: _Way, work: _Work) -> None:
    """Put the old words back; BenchmarkError when not all of them had been changed."""
    with open_target(f"gdb+unix:{work.stub}") as target:
        found = target.read_many([(address, 4) for address in work.addresses])
        if set(found) != {_YIELD.to_bytes(4, "little")}:
            raise BenchmarkError(f"{way.name} did not change all words")
        patch_text_sync(target, work.addresses, [_NOP] * len(work.addresses))

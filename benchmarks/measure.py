"""How it is measured: contenders take turns, A B A B …, in one process run, after a warm-up; medians with their range.

Read on: report.py for how results are shown.
"""

from __future__ import annotations

import atexit
import functools
import math
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

_TURN_SECONDS = 0.03
"""A turn that is shorter is made of several runs: one run of microseconds cannot be timed."""


class BenchmarkError(Exception):
    """A benchmark cannot go on; one sentence why."""


@dataclass(frozen=True)
class Contender:
    """One way to do the work."""

    name: str
    run: Callable[[], int]
    """Does the work once; returns how many units of it (words, instructions, processes) it did."""
    prepare: Callable[[], object] | None = None
    """Called before each run and not timed. A turn is one run then."""
    ours: bool = False


Clock = Callable[[], float]
"""Seconds, of which the difference counts."""


def cpu_of_processes() -> float:
    """The CPU time, user and system, of the processes that have ended: other work on the machine disturbs it less."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass(frozen=True)
class Unit:
    """How a table shows seconds for one unit of work."""

    name: str
    convert: Callable[[float], float]
    more_is_better: bool = False


NS_PER_WORD = Unit("ns a word", lambda seconds: seconds * 1e9)
US_PER_INSN = Unit("us an instruction", lambda seconds: seconds * 1e6)
MILLISECONDS = Unit("ms", lambda seconds: seconds * 1e3)
MILLIONS_A_SECOND = Unit("million insn/s", lambda seconds: 1e-6 / seconds, more_is_better=True)


@dataclass(frozen=True)
class Row:
    """What one contender needed: one value a round, in the unit of its table."""

    name: str
    ours: bool
    values: tuple[float, ...]
    remark: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass
class Table:
    """Contenders that did the same work in turns."""

    title: str
    unit: Unit
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    @property
    def our_row(self) -> Row | None:
        """What the others are compared with: the first row of ours."""
        return next((row for row in self.rows if row.ours), None)


@dataclass(frozen=True)
class Verdict:
    """Whether this run met an aim; None where it could not be told."""

    aim: str
    met: bool | None
    measured: str


@dataclass
class Report:
    """All that one benchmark found."""

    name: str
    tables: list[Table] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(
    title: str,
    unit: Unit,
    contenders: Iterable[Contender],
    rounds: int,
    notes: Sequence[str] = (),
    clock: Clock = perf_counter,
) -> Table:
    """Let each do a turn to warm up, then `rounds` rounds of one turn each."""
    contenders = list(contenders)
    runs = [_runs_in_a_turn(contender) for contender in contenders]
    values: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for contender, count, found in zip(contenders, runs, values, strict=True):
            seconds, units = _turn(contender, count, clock)
            found.append(unit.convert(seconds / units))
    rows = [
        Row(contender.name, contender.ours, tuple(found)) for contender, found in zip(contenders, values, strict=True)
    ]
    return Table(title, unit, rows, list(notes))


def _runs_in_a_turn(contender: Contender) -> int:
    _turn(contender, 1)
    seconds, _ = _turn(contender, 1)
    return 1 if contender.prepare else max(1, math.ceil(_TURN_SECONDS / max(seconds, 1e-9)))


def _turn(contender: Contender, runs: int, clock: Clock = perf_counter) -> tuple[float, int]:
    if contender.prepare:
        contender.prepare()
    units = 0
    begun = clock()
    for _ in range(runs):
        units += contender.run()
    return clock() - begun, units


def process(*command: object) -> Callable[[], int]:
    """A run of a whole process: its start, its work and its end. BenchmarkError with what it said when it fails."""
    words = [str(word) for word in command]
    environment = process_environment()

    def run() -> int:
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise BenchmarkError(
                f"{' '.join(words)} exited with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}"
            )
        return 1

    return run


@functools.cache
def process_environment() -> dict[str, str]:
    """The environment of every whole process, ours and peers alike.

    Python caches byte code, as it does where a64patch is installed: not every checkout may be written to, and some
    environments switch the cache off. It is in a directory of this run, filled by the warm-up. pwntools finds a fresh
    cache directory there too, so that it does not look for updates of itself. a64patch keeps its journal there.
    """
    directory = tempfile.mkdtemp(prefix="a64patch-bench-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    environment = {
        **os.environ,
        "PYTHONPYCACHEPREFIX": directory,
        "XDG_CACHE_HOME": directory,
        "XDG_STATE_HOME": directory,
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment

"""start-up: what it costs to start a64patch when it has nothing to do.

Read on: src/a64patch/cli/main.py.
"""

from __future__ import annotations

import sys

from benchmarks import inputs
from benchmarks.measure import MILLISECONDS, Contender, Report, Verdict, compare, process

AIM = "a64patch --version in under 60 ms, whole process"
ROUNDS = 25
_OURS = "a64patch --version"


def run(rounds: int | None) -> Report:
    """Whole processes that do next to nothing."""
    table = compare(
        "start-up, whole process",
        MILLISECONDS,
        [
            Contender(_OURS, process(inputs.a64patch_command(), "--version"), ours=True),
            Contender("python -c pass", process(sys.executable, "-c", "pass")),
            Contender("python -c 'import argparse'", process(sys.executable, "-c", "import argparse")),
            Contender("a64patch --help", process(inputs.a64patch_command(), "--help")),
        ],
        rounds or ROUNDS,
    )
    median = table.row(_OURS).median
    return Report("start-up", [table], [Verdict(AIM, median < 60, f"{median:.0f} ms")])

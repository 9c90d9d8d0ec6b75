"""How results are shown: tables for people, JSON for programs, and the facts about the machine that both need.

Read on: measure.py for what the numbers are.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.inputs import tool
from benchmarks.measure import Report, Row, Table

_PACKAGES = (
    "a64patch",
    "numpy",
    "unicorn",
    "capstone",
    "keystone-engine",
    "lief",
    "pwntools",
    "pyelftools",
    "pygdbmi",
    "rich",
)
_ROOT = Path(__file__).resolve().parent.parent


def machine_facts() -> dict[str, str]:
    """What the numbers depend on."""
    facts = {
        "CPU": f"{_cpu_name()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} CPUs, {platform.machine()}",
        "system": f"{platform.system()} {platform.release()}",
        "load at the beginning": load(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    facts["a64patch"] += f", {_commit()}"
    for name in (
        "aarch64-linux-gnu-objdump",
        "aarch64-linux-gnu-as",
        "llvm-mc",
        "qemu-aarch64",
        "qemu-system-aarch64",
        "gdb-multiarch",
    ):
        path = tool(name)
        facts[name] = _first_line(path, "--version") if path else "not installed"
    return facts


def load() -> str:
    """How many processes wanted a CPU during the last minute: more than there are CPUs spoil the numbers."""
    return f"{os.getloadavg()[0]:.2f}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def _commit() -> str:
    git = tool("git")
    if not git:
        return "commit unknown"
    command = (git, "-c", "safe.directory=*", "-C", str(_ROOT))
    commit = _first_line(*command, "rev-parse", "--short", "HEAD")
    changed = _first_line(*command, "status", "--porcelain", "--", "src")
    return f"commit {commit or 'unknown'}{' with changes in src' if changed else ''}"


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def as_json(facts: dict[str, str], reports: Sequence[Report]) -> dict[str, Any]:
    """All that was found, every value of every round."""
    return {
        "machine": facts,
        "benchmarks": [
            {
                "name": report.name,
                "tables": [
                    {
                        "title": table.title,
                        "unit": table.unit.name,
                        "more_is_better": table.unit.more_is_better,
                        "rows": [_row_facts(row, table) for row in table.rows],
                        "notes": table.notes,
                    }
                    for table in report.tables
                ],
                "aims": [
                    {"aim": verdict.aim, "met": verdict.met, "measured": verdict.measured}
                    for verdict in report.verdicts
                ],
                "notes": report.notes,
            }
            for report in reports
        ],
    }


def _row_facts(row: Row, table: Table) -> dict[str, Any]:
    ours = table.our_row
    return {
        "name": row.name,
        "ours": row.ours,
        "median": row.median,
        "min": min(row.values),
        "max": max(row.values),
        "ratio_to_ours": row.median / ours.median if ours else None,
        "values": row.values,
        "remark": row.remark,
    }


def print_facts(console: Console, facts: dict[str, str]) -> None:
    """A line each."""
    for name, value in facts.items():
        console.print(f"  {name}: {value}")


def print_report(console: Console, report: Report) -> None:
    """Its tables, its notes, and whether it met its aims."""
    for table in report.tables:
        console.print()
        console.print(_rich(table, report.name))
        for note in table.notes:
            console.print(f"  {note}")
    for note in report.notes:
        console.print(f"  {note}")
    for verdict in report.verdicts:
        word, style = {True: ("met", "green"), False: ("MISSED", "red"), None: ("not known", "yellow")}[verdict.met]
        console.print(f"  aim {word}: {verdict.aim}: {verdict.measured}", style=style)


def _rich(table: Table, name: str) -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, title=f"{name}: {table.title}", title_justify="left", title_style="bold")
    better = "more" if table.unit.more_is_better else "less"
    shown.add_column(f"{table.unit.name} ({better} is better)")
    for heading in ("median", "min - max", "x ours"):
        shown.add_column(heading, justify="right", no_wrap=True)
    remarks = any(row.remark for row in table.rows)
    if remarks:
        shown.add_column("result")
    ours = table.our_row
    for row in table.rows:
        ratio = f"{row.median / ours.median:.2f}" if ours else ""
        cells = [row.name, _number(row.median), f"{_number(min(row.values))} - {_number(max(row.values))}", ratio]
        shown.add_row(*cells, *([row.remark] if remarks else []), style="bold" if row.ours else "")
    return shown


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"

"""`python -m benchmarks [NAME…]`: runs benchmarks one after the other and shows what they found.

Nothing here fails because something is slow: a missed aim is reported, the exit status stays 0.
Read on: measure.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from rich.console import Console

from benchmarks import report
from benchmarks.measure import BenchmarkError

_MODULES = {
    "start-up": "startup",
    "elf-patch": "elf_patch",
    "patch-file": "patch_file",
    "functions": "functions",
    "classify": "classify",
    "disassembly": "disassembly",
    "assembly": "assembly",
    "simulator": "simulator",
    "litmus": "litmus",
    "live": "live",
    "live-kernel": "live_kernel",
    "process": "process",
    "proof": "proof",
}


def main() -> int:
    """Exit status 0: all ran; 1: one could not; 2: wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="What a64patch costs, beside its peers, measured in one run."
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="which benchmarks (default: all)")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and their aims, and run none")
    parser.add_argument("--json", action="store_true", help="print every value as JSON instead of tables")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each (default: its own choice)")
    arguments = parser.parse_args()
    names = arguments.names or list(_MODULES)
    unknown = [name for name in names if name not in _MODULES]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(_MODULES)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.list:
        for name in names:
            module = importlib.import_module(f"benchmarks.{_MODULES[name]}")
            print(f"{name:11}  {module.AIM}")
        return 0
    return _run(names, arguments.rounds, as_json=arguments.json)


def _run(names: list[str], rounds: int | None, *, as_json: bool) -> int:
    console = Console(highlight=False)
    facts = report.machine_facts()
    if not as_json:
        report.print_facts(console, facts)
    reports, failed = [], False
    for name in names:
        print(f"benchmarks: running {name}", file=sys.stderr)
        try:
            found = importlib.import_module(f"benchmarks.{_MODULES[name]}").run(rounds)
        except BenchmarkError as error:
            print(f"benchmarks: {name}: {error}", file=sys.stderr)
            failed = True
            continue
        reports.append(found)
        if not as_json:
            report.print_report(console, found)
    facts["load at the end"] = report.load()
    if not as_json:
        console.print(f"load at the end: {facts['load at the end']}")
    if as_json:
        print(json.dumps(report.as_json(facts, reports), indent=2))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

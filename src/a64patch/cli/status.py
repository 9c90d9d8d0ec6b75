"""Say of each hunk of a patch whether it is applied, not applied, or neither; exit status 0 when all are applied.

Read on: patching.py, ../patch/plan.py.
"""

from __future__ import annotations

import argparse

from a64patch.cli import many, patching
from a64patch.cli.table import print_table
from a64patch.cli.text import print_json

EPILOG = """\
A hunk is foreign when the target has neither its old nor its new words.
examples:
  a64patch status fix.patch ./program
  a64patch status fix.patch ./other-build --fuzz --json
  a64patch status fix.patch exe:/usr/bin/program     every process that executes this program or library"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATCH TARGET."""
    patching.add_patch(parser)
    patching.add_matching(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each hunk."""
    from a64patch.patch.plan import State

    diff = patching.read_patch(arguments.patch, reverse=arguments.reverse)
    if many.named(arguments):
        return many.status(arguments, diff)
    with patching.opened(arguments) as target:
        plan = patching.planned(arguments, target, diff)
        if arguments.json:
            print_json({"state": plan.state.value, "hunks": [patching.hunk_facts(hunk) for hunk in plan.hunks]})
        else:
            rows = []
            for hunk in plan.hunks:
                where = f"  offset {hunk.offset:+d}" if hunk.offset else ""
                why = f"  {hunk.difference}" if hunk.difference else ""
                rows.append((hunk.hunk.place, f"{hunk.state.value}{where}{why}"))
            print_table(rows)
    return 0 if plan.state is State.APPLIED else 1

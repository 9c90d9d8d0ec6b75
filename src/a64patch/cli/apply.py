"""Apply an assembly diff to a target: all of its hunks, or nothing.

Read on: patching.py, ../patch/transaction.py.
"""

from __future__ import annotations

import argparse

from a64patch.cli import many, patching
from a64patch.errors import MismatchError, RequestError

EPILOG = """\
The target must have every old word; otherwise nothing is changed, and hunks that do not fit are written to PATCH.rej.
The journal has every patch before it is applied: see `a64patch log`, `revert` and `recover`.
examples:
  a64patch apply fix.patch ./program --dry-run
  a64patch apply fix.patch ./program
  a64patch apply -R fix.patch ./program
  a64patch apply fix.patch ./other-build --fuzz
  a64patch apply fix.patch exe:/usr/bin/program      every process that executes this program or library"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATCH TARGET [--dry-run] [-R] [--sync …] [--fuzz] [--accept HAZARD]."""
    patching.add_patch(parser)
    patching.add_matching(parser)
    patching.add_carrying_out(parser)
    parser.add_argument(
        "--all-or-nothing", action="store_true", help="for exe:PATH: when one process fails, revert the others"
    )


def run(arguments: argparse.Namespace) -> int:
    """Plan, then carry it out."""
    from a64patch.patch.plan import State

    diff = patching.read_patch(arguments.patch, reverse=arguments.reverse)
    if many.named(arguments):
        return many.apply(arguments, diff)
    if arguments.all_or_nothing:
        raise RequestError(f"--all-or-nothing is for {many.SCHEME}PATH: one target is always all or nothing")
    with patching.opened(arguments) as target:
        plan = patching.planned(arguments, target, diff)
        try:
            return patching.carry_out(plan, target, arguments, done="reversed" if arguments.reverse else "applied")
        except MismatchError as error:
            foreign = [hunk for hunk in plan.hunks if hunk.state is State.FOREIGN]
            rejects = None if arguments.dry_run else patching.write_rejects(arguments.patch, diff, foreign)
            if rejects:
                error.add_note(rejects)
            raise

"""Apply an assembly diff to a target: all of its hunks, or nothing.

May know: a64/, target/, patch/. Read on: patching.py, ../patch/transaction.py.
"""

from __future__ import annotations

import argparse
import sys

from a64patch.cli import patching
from a64patch.cli.text import print_json
from a64patch.errors import A64PatchError

EPILOG = """\
Every old word must stand in the target, or nothing is changed; hunks that do not fit are written to PATCH.rej.
What was done is in the journal before it is done: see `a64patch log`, `revert` and `recover`.
examples:
  a64patch apply fix.patch ./program --dry-run
  a64patch apply fix.patch ./program
  a64patch apply -R fix.patch ./program
  a64patch apply fix.patch ./other-build --fuzz"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATCH TARGET [--dry-run] [-R] [--sync …] [--fuzz] [--accept HAZARD]."""
    patching.add_patch(parser)
    patching.add_matching(parser)
    parser.add_argument(
        "--sync", choices=("auto", "nosync", "kick", "stop"), default="auto",
        help="auto: the lightest safe method (default); nosync: tell no CPU; kick: each synchronises; stop: all wait",
    )  # fmt: skip
    parser.add_argument(
        "--accept", metavar="HAZARD", action="append", default=[],
        help="go on in spite of a hazard of this name (or all); --dry-run shows which there are",
    )  # fmt: skip
    parser.add_argument(
        "--drop-relocations", action="store_true",
        help="where a relocation owns the word, turn it into R_AARCH64_NONE (ELF files)",
    )  # fmt: skip
    parser.add_argument("-n", "--dry-run", action="store_true", help="show the plan, and change nothing")
    patching.add_journal(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan, then carry it out."""
    from a64patch.patch.hazards import NAMES
    from a64patch.patch.journal import Journal
    from a64patch.patch.plan import State
    from a64patch.patch.transaction import apply_plan, require_acceptable
    from a64patch.target import open_target

    accept = set(arguments.accept)
    unknown = sorted(accept - {*NAMES, "all"})
    if unknown:
        print(f"a64patch: there is no hazard {unknown[0]!r}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    if arguments.drop_relocations:
        accept.add("relocation")
    options = {"drop_relocations": True} if arguments.drop_relocations else {}
    diff = patching.read_patch(arguments.patch, reverse=arguments.reverse)
    with open_target(arguments.target, **options) as target:
        plan = patching.planned(arguments, target, diff)
        if arguments.dry_run:
            if arguments.json:
                print_json(patching.plan_facts(plan, target))
            else:
                patching.print_plan(plan, target)
                print("Dry run: nothing was changed.")
            sys.stdout.flush()
            require_acceptable(plan, accept, arguments.sync)
            return 0
        try:
            require_acceptable(plan, accept, arguments.sync)
        except A64PatchError as error:
            rejects = patching.write_rejects(
                arguments.patch, diff, [hunk for hunk in plan.hunks if hunk.state is State.FOREIGN]
            )
            if rejects:
                error.add_note(f"The hunks that do not fit are in {rejects}.")
            raise
        with Journal(arguments.journal) as journal:
            outcome = apply_plan(plan, target, journal, sync=arguments.sync, accept=accept)
        if arguments.json:
            print_json(patching.plan_facts(plan, target) | patching.result_facts(outcome.entry, outcome.result))
            return 0
        for line in patching.offset_lines(plan.hunks):
            print(line)
        hunks = f"{len(plan.hunks)} hunk{'s' if len(plan.hunks) > 1 else ''}"
        patching.print_result(
            f"{'reversed' if arguments.reverse else 'applied'}: {hunks}", outcome.entry, outcome.result
        )
    return 0

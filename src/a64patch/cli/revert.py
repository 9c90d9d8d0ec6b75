"""Undo an `apply` or `poke`, by its number in the journal: put back the old word at every address.

Read on: ../patch/transaction.py.
"""

from __future__ import annotations

import argparse

from a64patch.cli import patching
from a64patch.cli.targets import add_target_options, open_location
from a64patch.cli.text import print_json

EPILOG = """\
If the target has another word than the written one anywhere, nothing is changed. `a64patch log` lists the numbers.
examples:
  a64patch revert 3"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """ID."""
    parser.add_argument("id", metavar="ID", type=int, help="the entry's number")
    add_target_options(parser)
    patching.add_journal(parser)


def run(arguments: argparse.Namespace) -> int:
    """Put the old words back."""
    from a64patch.patch.journal import EntryState
    from a64patch.patch.transaction import revert

    with patching.open_journal(arguments) as journal:
        location = journal.entry(arguments.id).identity.location
        with open_location(location, arguments) as target:
            outcome = arguments.outcome = revert(arguments.id, target, journal)
    if arguments.json:
        facts = {"location": location, "reverts": arguments.id, "state": EntryState.REVERTED.value}
        print_json(facts | patching.result_facts(outcome.entry, outcome.result) | {"stays": outcome.stays})
    else:
        undo = patching.undo_command(journal, outcome.entry)
        patching.print_result(f"reverted entry {arguments.id}", outcome.result, undo, target.capabilities.noun)
        patching.print_stays(outcome, journal)
    return 0

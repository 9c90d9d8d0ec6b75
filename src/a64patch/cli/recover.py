"""Look at each patch that a crash cut off, and make its target all old or all new.

Read on: ../patch/transaction.py.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from a64patch.cli import patching
from a64patch.cli.output import one_line
from a64patch.cli.targets import add_target_options, open_location
from a64patch.cli.text import print_json

if TYPE_CHECKING:
    from a64patch.patch.journal import Entry
    from a64patch.patch.transaction import Recovery
    from a64patch.targets.base import Target

EPILOG = """\
If the target has all new words, the patch is complete. If it has old and new ones, the old words are put back.
Words that are neither are left alone.
Exit status 3: an entry is still cut off. --forget closes an entry whose target is gone for good.
examples:
  a64patch recover
  a64patch recover --forget 3"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """[--forget ID]."""
    parser.add_argument(
        "--forget", metavar="ID", type=int, help="close this entry unseen: its target does not exist any more"
    )
    add_target_options(parser)
    patching.add_journal(parser)


def run(arguments: argparse.Namespace) -> int:
    """Recover, and print the result for each entry."""
    from a64patch.patch.journal import EntryState
    from a64patch.patch.transaction import forget, recover

    def opened(entry: Entry) -> Target:
        return open_location(entry.identity.location, arguments)

    with patching.open_journal(arguments) as journal:
        forgotten = arguments.forget
        found = list(recover(journal, opened)) if forgotten is None else [forget(forgotten, journal)]
    facts = [_facts(recovery) for recovery in found]
    if arguments.json:
        print_json(facts)
    elif not facts:
        print("nothing was cut off")
    else:
        for fact in facts:
            print(f"entry {fact['id']} ({one_line(fact['location'])}): {fact['state']}: {fact['note']}")
    return 3 if any(recovery.state in (EntryState.OPEN, EntryState.PARTIAL) for recovery in found) else 0


def _facts(recovery: Recovery) -> dict[str, Any]:
    entry = recovery.entry
    return {
        "id": entry.id,
        "location": entry.identity.location,
        "was": entry.state.value,
        "state": recovery.state.value,
        "note": recovery.note,
    }

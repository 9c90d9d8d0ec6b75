"""List the patches in the journal, newest last; with an ID, every field of this entry.

Read on: ../patch/journal.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from a64patch.cli import patching
from a64patch.cli.table import print_table
from a64patch.cli.text import print_json
from a64patch.errors import JournalError

if TYPE_CHECKING:
    from a64patch.patch.journal import Entry

EPILOG = """\
Times are those of this machine's time zone.
open: begun, with no result yet; `a64patch recover` looks at it. undone: it failed, and the target has the old words.
examples:
  a64patch log
  a64patch log -n 5
  a64patch log 3"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """[ID]."""
    parser.add_argument("id", metavar="ID", nargs="?", type=int, help="the entry to show in full")
    parser.add_argument("-n", type=_count, metavar="N", help="only the last N entries")
    patching.add_journal(parser)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Print the entries."""
    from a64patch.patch.journal import EntryState

    with patching.open_journal(arguments, read_only=True) as journal:
        entries = journal.entries() if arguments.id is None else [journal.entry(arguments.id)]
        every = list(entries)
        if arguments.id is not None:
            # Another entry may be damaged.
            with suppress(JournalError):
                every = journal.entries()
        undone = {entry.reverts: entry.id for entry in every if entry.reverts and entry.state is EntryState.APPLIED}
        entries = entries[-(arguments.n or 0) :]
        patch = "" if arguments.id is None else journal.patch_of(entries[0])
    if arguments.json:
        more = {} if arguments.id is None else {"patch": patch}
        print_json([_facts(entry, undone, whole=arguments.id is not None) | more for entry in entries])
    elif arguments.id is not None:
        _print_whole(entries[0], undone, patch)
    else:
        _print(entries, undone)
    return 0


def _facts(entry: Entry, undone: Mapping[int, int], *, whole: bool) -> dict[str, Any]:
    from a64patch.patch.asmdiff import subject

    facts: dict[str, Any] = {
        "id": entry.id,
        "began": entry.began,
        "ended": entry.ended or None,
        "state": entry.state.value,
        "reverts": entry.reverts or None,
        "reverted_by": undone.get(entry.id),
        "subject": subject(entry.patch),
        "location": entry.identity.location,
        "build_id": entry.identity.build_id,
        "release": entry.identity.release,
        "base": f"{entry.identity.base:#x}",
        "incarnation": entry.identity.incarnation,
        "method": entry.method,
        "reason": entry.reason,
        "words": len(entry.written),
        "note": entry.note,
    }
    if whole:
        facts["changes"] = [patching.change_facts(change) for change in entry.changes]
        facts["data_changes"] = [patching.change_facts(change) for change in entry.data]
        facts["guards"] = [patching.guard_facts(guard) for guard in entry.guards]
        facts["sites"] = [patching.range_facts(site) for site in entry.sites]
        built = entry.built
        facts["annexes"] = [] if built is None else [patching.room_facts(built.room, built.ends)]
    return facts


def _print(entries: list[Entry], undone: Mapping[int, int]) -> None:
    """A line for each entry. `undone`: the id of the entry that reverted an entry, by the id of that."""
    from datetime import datetime

    from a64patch.patch.asmdiff import subject

    if not entries:
        print("the journal has no entries")
        return
    rows = []
    for entry in entries:
        undoes = f" (reverts {entry.reverts})" if entry.reverts else ""
        undoes += f" (reverted by {undone[entry.id]})" if entry.id in undone else ""
        title = f"  {about}" if (about := subject(entry.patch)) else ""
        words = f"{len(entry.written)} word{'' if len(entry.written) == 1 else 's'}"
        when = datetime.fromisoformat(entry.began).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
        rows.append(
            (f"{entry.id:>4}", when, f"{entry.state.value:<8}", f"{words:<11}",
             f"{entry.identity.location}{undoes}{title}")
        )  # fmt: skip
    print_table(rows)


def _print_whole(entry: Entry, undone: Mapping[int, int], patch: str) -> None:
    _print([entry], undone)
    if entry.identity.build_id:
        print(f"      build {entry.identity.build_id}")
    for line in entry.note.splitlines():
        print(f"      {line}")
    for change in entry.data:
        print(f"      data at {change.address:#x}: {change.old:08x} becomes {change.new:08x}")
    for address, word in entry.guards:
        print(f"      data at {address:#x} must be {word:08x} meanwhile")
    print()
    print(patch, end="")

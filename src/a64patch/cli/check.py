"""May this word change race with execution? and why.

Read on: ../a64/cmodx.py.
"""

from __future__ import annotations

import argparse

from a64patch.cli.text import print_json

EPILOG = """\
examples:
  a64patch check nop 'b .+8'                     yes: both are in the manual's list
  a64patch check 'add x0, x0, #1' nop            no: add is not in the list
  a64patch check 91000400 d503201f               the same, as words
  a64patch check 'b.eq .+8' 'b.ne .+16' --profile 2023
Exit status 0: it may; 1: it may not."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """OLD and NEW: 'ASM; ASM', or eight hex digits for a word."""
    parser.add_argument("old", metavar="OLD", help="the old instructions: 'ASM; ASM' or words of 8 hex digits")
    parser.add_argument("new", metavar="NEW", help="the new instructions, in the same form")
    parser.add_argument(
        "--profile", default="2018", help="issue of the manual's list: 2013, 2018, 2023 or 2026 (default: 2018)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the verdict; exit status 0 for yes, 1 for no."""
    from a64patch.a64.cmodx import hotpatch_safe
    from a64patch.patch.typed import words_of

    old, new = words_of(arguments.old), words_of(arguments.new)
    verdict = hotpatch_safe(old, new, arguments.profile)
    if arguments.json:
        print_json(
            {
                "old_words": [f"{word:08x}" for word in old],
                "new_words": [f"{word:08x}" for word in new],
                "profile": arguments.profile,
                "safe": verdict.safe,
                "reason": verdict.reason,
            }
        )
    else:
        print(f"{'safe' if verdict else 'not safe'}: {verdict.reason}")
    return 0 if verdict else 1

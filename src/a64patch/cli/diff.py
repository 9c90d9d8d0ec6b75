"""An assembly diff between two builds. It makes OLD's functions do the same as NEW's.

Read on: ../patch/compare.py.
"""

from __future__ import annotations

import argparse
import sys

from a64patch.cli.output import say
from a64patch.cli.text import print_json
from a64patch.openers import open_target, target_forms

EPILOG = """\
The patch goes to stdout. A difference that a patch cannot express goes to stderr, a line each, and the exit status
is 1. Functions are matched by name, and so are the addresses that they refer to. Code outside of functions is not in
the patch; where it differs, it is such a line. Data and padding are not compared.
examples:
  a64patch diff program.old program.new > program.patch
  a64patch diff ext4.ko.old ext4.ko --json
  a64patch diff /usr/bin/program pid:1234      what was changed in memory?"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """OLD NEW."""
    parser.add_argument("old", metavar="OLD", help=f"the patch is for this one: {target_forms()}")
    parser.add_argument("new", metavar="NEW", help="another build of the same program, written in the same way")


def run(arguments: argparse.Namespace) -> int:
    """Print the patch."""
    from a64patch.patch.asmdiff import to_text
    from a64patch.patch.compare import compare

    with open_target(arguments.old) as old, open_target(arguments.new) as new:
        comparison = compare(old, new)
    text = to_text(comparison.diff) if comparison.diff.hunks else ""
    if arguments.json:
        print_json({
            "patch": text,
            "hunk_sites": [hunk.site for hunk in comparison.diff.hunks],
            "not_expressed": comparison.not_expressed,
        })  # fmt: skip
    else:
        sys.stdout.write(text)
        for sentence in comparison.not_expressed:
            say(f"not in the patch: {sentence}")
    return 1 if comparison.not_expressed else 0

"""A patch that replaces functions of a target by functions of an object file. The target is not changed.

Read on: ../linking/link.py; apply.py carries the patch out.
"""

from __future__ import annotations

import argparse
import sys

from a64patch.cli.output import say
from a64patch.cli.targets import add_target_arguments, open_named_target
from a64patch.cli.text import print_json

EPILOG = """\
The patch goes to stdout. A sentence about each function that it replaces goes to stderr.
Without --replace, each global function of OBJECT is replaced that the target has under the same name.
examples:
  a64patch link fix.o program --replace parse_header > fix.patch
  a64patch link fix.o program --replace old.c:check=check_length > fix.patch
  a64patch link fix.o pid:1234 | a64patch apply - pid:1234"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """OBJECT TARGET [--replace OLD=NEW]."""
    parser.add_argument("object", metavar="OBJECT", help="an object file of a compiler: cc -c -O2 -fPIC fix.c")
    add_target_arguments(parser)
    parser.add_argument(
        "--replace", metavar="OLD=NEW", action="append", default=[],
        help="replace the function OLD of the target by NEW of the object; NAME alone for both; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--accept", metavar="NAME", action="append", default=[], choices=["caller-registers"],
        help="caller-registers: a caller reads a register that the old function leaves alone, and it is a result",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Print the patch."""
    from a64patch.linking.link import link
    from a64patch.patch.asmdiff import to_text

    with open_named_target(arguments) as target:
        linked = link(arguments.object, target, arguments.replace, accept=arguments.accept)
    text = to_text(linked.diff)
    if arguments.json:
        print_json({
            "patch": text,
            "hunk_sites": [hunk.site for hunk in linked.diff.hunks],
            "replaced": linked.replaced,
            "annex_names": list(linked.annexes),
            "notes": list(linked.notes),
        })  # fmt: skip
    else:
        sys.stdout.write(text)
        for sentence in linked.notes:
            say(sentence)
    return 0

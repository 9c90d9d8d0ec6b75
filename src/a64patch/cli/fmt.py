"""Print a patch in its canonical form: words, texts and counts filled in, operands aligned.

Read on: patching.py, ../patch/asmdiff.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from a64patch.cli import patching
from a64patch.cli.output import say
from a64patch.cli.text import print_json
from a64patch.errors import PatchFormatError

if TYPE_CHECKING:
    from a64patch.patch.asmdiff import Hunk

EPILOG = """\
While you write a patch, you can put ???????? for a word. Here it becomes the word of its text, or the word in TARGET.
You need not count instructions (-OLD +NEW behind a site) or hunks (the header Hunks): missing counts are added here.
Counts that are wrong are refused, since the patch may have been cut off. After an edit, delete them.
A hunk that gets counts and has fewer new instructions than old ones is named on stderr: NOPs will replace the others.
examples:
  a64patch fmt draft.patch ./program > fix.patch
  a64patch fmt fix.patch"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATCH [TARGET]."""
    patching.add_patch(parser, optional_target=True)


def run(arguments: argparse.Namespace) -> int:
    """Print the patch, and on stderr each hunk whose new counts say that NOPs are meant."""
    from a64patch.patch.asmdiff import to_text
    from a64patch.patch.plan import fill

    diff = patching.read_patch(arguments.patch)
    try:
        if arguments.target is None:
            filled = fill(diff)
        else:
            with patching.opened(arguments) as target:
                filled = fill(diff, target)
    except PatchFormatError as error:
        raise PatchFormatError(f"{arguments.patch}: {error}") from None
    implied = [sentence for hunk in diff.hunks for sentence in _implied_nops(hunk)]
    if arguments.json:
        print_json({"patch": to_text(filled), "warnings": implied})
    else:
        print(to_text(filled), end="")
        for sentence in implied:
            say(sentence)
    return 0


def _implied_nops(hunk: Hunk) -> Iterator[str]:
    """A sentence about the NOPs that a hunk without counts implies."""
    signs = [line.sign for line in hunk.lines]
    count = signs.count("-") - signs.count("+")
    if count > 0 and not hunk.counted:
        nops = "a NOP is" if count == 1 else f"{count} NOPs are"
        yield f"the hunk at {hunk.site} had no counts; now they say that {nops} meant: see that the hunk is whole"

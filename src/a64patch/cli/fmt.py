"""Print a patch in its canonical form: words, texts and counts filled in, operands aligned.

Read on: patching.py, ../patch/asmdiff.py.
"""

from __future__ import annotations

import argparse

from a64patch.cli import patching
from a64patch.cli.text import print_json
from a64patch.errors import PatchFormatError

EPILOG = """\
While you write a patch, you can put ???????? for a word. Here it becomes the word of its text, or the word in TARGET.
You need not count instructions (-OLD +NEW behind a site) or hunks (the header Hunks): missing counts are added here.
Counts that are wrong are refused, since the patch may have been cut off. After an edit, delete them.
examples:
  a64patch fmt draft.patch ./program > fix.patch
  a64patch fmt fix.patch"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATCH [TARGET]."""
    patching.add_patch(parser, optional_target=True)


def run(arguments: argparse.Namespace) -> int:
    """Print the patch."""
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
    if arguments.json:
        print_json({"patch": to_text(filled)})
    else:
        print(to_text(filled), end="")
    return 0

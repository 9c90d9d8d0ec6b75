"""Change a few instructions of a target, typed by hand: a patch of one hunk.

Read on: apply.py, which does the same with a patch from a file; ../patch/typed.py makes the patch.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from a64patch.cli import patching
from a64patch.cli.targets import add_target_arguments
from a64patch.errors import RequestError

if TYPE_CHECKING:
    from a64patch.patch.asmdiff import AsmDiff
    from a64patch.targets.base import Target

EPILOG = """\
--expect names the instructions at SITE before the change; if the target has others, nothing is changed.
An instruction is text, or its word as eight hex digits.
examples:
  a64patch poke ./program main+0x8 'mov w0, #1' --expect 'mov w0, #0'
  a64patch poke ./program check 'mov w0, #0; ret' --expect 'a9bf7bfd; 910003fd'
  a64patch poke module.ko init_module+0x10 nop --expect 94000000 --drop-relocations"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """TARGET SITE ASM --expect ASM."""
    add_target_arguments(parser)
    parser.add_argument("site", metavar="SITE", help="symbol, symbol+0x18, section:0x10 or an address")
    parser.add_argument("new", metavar="ASM", help="the new instructions: 'ASM; ASM'")
    parser.add_argument("--expect", metavar="ASM", help="the old instructions, as many as new ones")
    patching.add_carrying_out(parser)


def run(arguments: argparse.Namespace) -> int:
    """Make a patch of one hunk, plan it, and carry it out."""
    from a64patch.patch.plan import make_plan

    with patching.opened(arguments) as target:
        plan = make_plan(
            _diff(target, arguments), target, profile=arguments.profile, together=arguments.together, same_build=True
        )
        return patching.carry_out(plan, target, arguments, show=True)


def _diff(target: Target, arguments: argparse.Namespace) -> AsmDiff:
    from a64patch.a64.words import INSN_SIZE, from_bytes, require_aligned
    from a64patch.patch.typed import one_hunk, texts_of, words_of

    if arguments.expect is None:
        address = require_aligned(target.symbols.resolve(arguments.site))
        count = len(words_of(arguments.new, address, target.symbols))
        found = from_bytes(target.read(address, INSN_SIZE * count))
        raise RequestError(
            f"poke needs the old instructions at {arguments.site}; if you mean to replace"
            f" {'; '.join(texts_of(target, address, found))!r}, add --expect"
            f" {'; '.join(f'{word:08x}' for word in found)!r}"
        )
    return one_hunk(target, arguments.site, arguments.new, arguments.expect)

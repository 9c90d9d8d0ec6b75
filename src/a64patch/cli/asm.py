"""Instructions to words.

Read on: ../a64/assembler.py.
"""

from __future__ import annotations

import argparse
import sys

from a64patch.cli.text import parse_address, print_json
from a64patch.errors import A64PatchError

EPILOG = """\
With `-` each line of standard input is an instruction, or ADDRESS<tab>TEXT. Each gives one line of output, in order:
its word, or `error: …`. The exit status is 1 if there was an error.
examples:
  a64patch asm 'mov x0, #1; ret'
  a64patch asm --address 0x1000 'b 0x2000'
  printf '0x1000\\tb 0x2000\\n' | a64patch asm -"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """TEXT or -, and an address."""
    parser.add_argument("text", metavar="TEXT", help="'ASM; ASM', or - for lines on standard input")
    parser.add_argument("--address", default="0", help="address of the first instruction (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Print the words."""
    from a64patch.a64.assembler import assemble, assemble_one

    address = parse_address(arguments.address)
    if arguments.text != "-":
        words = assemble(arguments.text, address)
        if arguments.json:
            print_json([f"{word:08x}" for word in words])
        else:
            for word in words:
                print(f"{word:08x}")
        return 0
    status = 0
    for line in sys.stdin:
        place, tab, text = line.rstrip("\n").partition("\t")
        try:
            answer = f"{assemble_one(text if tab else place, parse_address(place) if tab else address):08x}"
        except A64PatchError as error:
            answer, status = f"error: {error}", 1
        print(answer)
    return status

"""Instruction words to text.

Read on: ../a64/disassembler.py.
"""

from __future__ import annotations

import argparse
import sys

from a64patch.cli.text import parse_address, parse_word, print_json
from a64patch.errors import A64PatchError

EPILOG = """\
With `-` each line of standard input is a word, or ADDRESS<tab>WORD. Each gives one line of output, in order: its
text, or `error: …`. The exit status is 1 if there was an error.
examples:
  a64patch disasm d503201f 14000002
  printf '0x1000\\t14000002\\n' | a64patch disasm -"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Words or -, and an address."""
    parser.add_argument("words", metavar="WORD", nargs="+", help="up to eight hex digits, or - for lines on stdin")
    parser.add_argument("--address", default="0", help="address of the first word (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Print the texts."""
    from a64patch.a64.disassembler import disassemble

    address = parse_address(arguments.address)
    if arguments.words != ["-"]:
        words = [parse_word(text) for text in arguments.words]
        parse_address(arguments.address, len(words))
        texts = [disassemble(word, address + 4 * number) for number, word in enumerate(words)]
        if arguments.json:
            print_json(texts)
        else:
            print("\n".join(texts))
        return 0
    status = 0
    for line in sys.stdin:
        place, tab, text = line.rstrip("\n").partition("\t")
        try:
            answer = disassemble(parse_word(text if tab else place), parse_address(place) if tab else address)
        except A64PatchError as error:
            answer, status = f"error: {error}", 1
        print(answer)
    return status

"""Instructions to words.

Read on: ../a64/assembler.py.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from a64patch.cli.output import one_line, say
from a64patch.cli.text import failure_of, parse_address, print_json
from a64patch.errors import A64PatchError

EPILOG = """\
With `-` each line of standard input is an instruction, or ADDRESS<tab>TEXT. Each gives one line of output, in order:
its word, or `error: …`. The exit status is 1 if there was an error.
A word whose registers make it CONSTRAINED UNPREDICTABLE is printed, and a warning goes to standard error.
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
        parse_address(arguments.address, len(words))
        if arguments.json:
            print_json([_facts(word, address + 4 * index) for index, word in enumerate(words)])
        else:
            for number, word in enumerate(words, start=1):
                print(f"{word:08x}")
                _warn(f"instruction {number}", word)
        return 0
    status = 0
    facts: list[dict[str, Any]] = []
    for number, line in enumerate(sys.stdin, start=1):
        place, tab, text = line.rstrip("\n").partition("\t")
        try:
            at = parse_address(place) if tab else address
            word = assemble_one(text if tab else place, at)
        except A64PatchError as error:
            status = 1
            if arguments.json:
                facts.append({"error": failure_of(error, status)})
            else:
                print(f"error: {one_line(str(error))}")
        else:
            if arguments.json:
                facts.append(_facts(word, at))
            else:
                print(f"{word:08x}")
                _warn(f"line {number}", word)
    if arguments.json:
        print_json(facts)
    return status


def _facts(word: int, address: int) -> dict[str, Any]:
    from a64patch.a64.collisions import unpredictable

    return {"address": f"{address:#x}", "word": f"{word:08x}", "unpredictable": unpredictable(word) or ""}


def _warn(place: str, word: int) -> None:
    from a64patch.a64.collisions import unpredictable

    why = unpredictable(word)
    if why is not None:
        say(f"warning: {place}: {why}")

"""Instruction words to text.

Read on: ../a64/disassembler.py.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from a64patch.cli.text import failure_of, parse_address, parse_word, print_json
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
        places = [address + 4 * number for number in range(len(words))]
        texts = list(map(disassemble, words, places))
        if arguments.json:
            print_json(list(map(_facts, places, words, texts)))
        else:
            print("\n".join(texts))
        return 0
    status = 0
    facts: list[dict[str, Any]] = []
    for line in sys.stdin:
        place, tab, text = line.rstrip("\n").partition("\t")
        try:
            word, at = parse_word(text if tab else place), parse_address(place) if tab else address
            answer = disassemble(word, at)
            fact = _facts(at, word, answer)
        except A64PatchError as error:
            answer, status = f"error: {error}", 1
            fact = {"error": failure_of(error, status)}
        if arguments.json:
            facts.append(fact)
        else:
            print(answer)
    if arguments.json:
        print_json(facts)
    return status


def _facts(address: int, word: int, text: str) -> dict[str, Any]:
    return {"address": f"{address:#x}", "word": f"{word:08x}", "text": text}

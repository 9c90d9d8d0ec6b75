"""Disassemble code of a target, with symbols, marking what may be hot-patched.

May know: a64/, target/. Read on: ../a64/disassembler.py.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from a64patch.cli.text import print_json

if TYPE_CHECKING:
    from a64patch.target.base import Target

EPILOG = """\
A word marked * is in the manual's list: another word of the list may replace it while CPUs execute it.
A word marked r belongs to a relocation: the loader overwrites it.
examples:
  a64patch show ./program main -n 4
  a64patch show ext4.ko ext4_sync_fs+0x10
  a64patch show module.ko .text:0x40 --json"""

LONGEST = 64
"""Instructions of a function that are shown when nobody says how many."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """TARGET SITE [-n N]."""
    parser.add_argument("target", metavar="TARGET", help="path of an ELF file, or sim:PATH?cpus=4&seed=1")
    parser.add_argument("site", metavar="SITE", help="symbol, symbol+0x18, section:0x10 or an address")
    parser.add_argument("-n", type=_count, metavar="N", help="how many (default: the function, at most 64)")
    parser.add_argument("--profile", default="2018", help="issue of the manual's list (default: 2018)")


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError("must be from 1 to 1000000")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Print the instructions."""
    from a64patch.a64.words import INSN_SIZE, require_aligned
    from a64patch.target import open_target

    with open_target(arguments.target) as target:
        address = require_aligned(target.symbols.resolve(arguments.site))
        count = arguments.n or _size(target, address) // INSN_SIZE
        lines = [_line(target, address + INSN_SIZE * number, arguments.profile) for number in range(count)]
    if arguments.json:
        print_json(lines)
        return 0
    width = max(len(line["site"]) for line in lines)
    digits = max(len(line["address"]) for line in lines)
    for line in lines:
        marks = ("*" if line["hotpatchable"] else " ") + ("r" if line["relocation"] else " ")
        owner = f"  ; {line['relocation']}" if line["relocation"] else ""
        print(f"{line['address']:>{digits}}  {line['site']:<{width}}  {line['word']} {marks} {line['text']}{owner}")
    return 0


def _size(target: Target, address: int) -> int:
    """Bytes from the address to the end of its function, of the code around it, or of what is shown at most."""
    found = target.symbols.lookup(address)
    ends = [end for start, end in target.code_ranges() if start <= address < end]
    if found is not None and found[0].size:
        ends.append(found[0].address + found[0].size)
    size = min([*ends, address + LONGEST * 4]) - address
    return max(4, size - size % 4)


def _line(target: Target, address: int, profile: str) -> dict[str, Any]:
    from a64patch.a64.cmodx import is_hotpatchable
    from a64patch.a64.disassembler import disassemble
    from a64patch.a64.words import INSN_SIZE, from_bytes

    word = from_bytes(target.read(address, INSN_SIZE))[0]
    relocation_at = getattr(target, "relocation_at", None)
    return {
        "address": f"{address:#x}",
        "site": target.symbols.describe(address),
        "word": f"{word:08x}",
        "text": disassemble(word, address, target.symbols),
        "hotpatchable": is_hotpatchable(word, profile),
        "relocation": relocation_at(address) if relocation_at else None,
    }

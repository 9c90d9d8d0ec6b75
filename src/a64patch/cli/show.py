"""Disassemble code of a target, with symbols, marking what may be hot-patched.

Read on: ../a64/disassembler.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from a64patch.cli.table import print_table
from a64patch.cli.targets import add_target_arguments, open_named_target
from a64patch.cli.text import print_json
from a64patch.errors import RequestError

if TYPE_CHECKING:
    from a64patch.targets.base import Target

EPILOG = """\
A word marked * is in the manual's list: another word of the list may replace it while CPUs execute it.
A word marked r belongs to a relocation: the loader overwrites it.
A word marked k is one that Linux itself rewrites, finds in a table, or lets nobody probe.
Data between the code (mapping symbol $d) is shown as .word.
A stripped program takes names from its debug file (build id, .gnu_debuglink); --target-info says from which.
examples:
  a64patch show ./program main -n 4
  a64patch show ext4.ko ext4_sync_fs+0x10
  a64patch show module.ko .text:0x40 --json
  a64patch show gdb://localhost:1234 0xffff800008010000 -n 8
  a64patch show gdb://localhost:1234 --target-info"""

_OF_LINUX = {"kernel-rewrites", "kprobe-blacklist"}
"""The hazards of words about which Linux itself has something to say."""
LONGEST = 64
"""Without -n, at most this many instructions of a function are shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """TARGET SITE [-n N], or TARGET --target-info."""
    add_target_arguments(parser)
    parser.add_argument("site", metavar="SITE", nargs="?", help="symbol, symbol+0x18, section:0x10 or an address")
    parser.add_argument("-n", type=_count, metavar="N", help="how many (default: the function, at most 64)")
    parser.add_argument(
        "--target-info", action="store_true", help="print the target's identity and capabilities instead"
    )
    parser.add_argument("--profile", default="2018", help="issue of the manual's list (default: 2018)")


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError("must be from 1 to 1000000")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Print the instructions, or the facts about the target."""
    from a64patch.a64.words import INSN_SIZE, from_bytes, require_aligned

    if (arguments.site is None) != arguments.target_info:
        raise RequestError("show needs either a SITE or --target-info")
    with open_named_target(arguments) as target:
        if arguments.target_info:
            return _show_target(target, as_json=arguments.json)
        address = require_aligned(target.symbols.resolve(arguments.site))
        count = arguments.n or _size(target, address) // INSN_SIZE
        words = from_bytes(target.read(address, INSN_SIZE * count))
        places = [address + INSN_SIZE * number for number in range(len(words))]
        claims = [(claim.hazard, claim.on(places)) for claim in target.modules.claims if not claim.of_build]
        lines = [
            _line(target, place, word, arguments.profile, claims) for place, word in zip(places, words, strict=True)
        ]
    if arguments.json:
        print_json(lines)
        return 0
    digits = max(len(line["address"]) for line in lines)
    rows = []
    for line in lines:
        owner = "r" if line["relocation"] else "k" if line["kernel"] else " "
        marks = ("*" if line["hotpatchable"] else " ") + owner
        said = "; ".join(filter(None, (line["relocation"], line["kernel"])))
        owner = f"  ; {said}" if said else ""
        rows.append((f"{line['address']:>{digits}}", line["site"], f"{line['word']} {marks} {line['text']}{owner}"))
    print_table(rows)
    return 0


def _size(target: Target, address: int) -> int:
    """Bytes from the address to the end of its symbol or of the code around it, LONGEST instructions at most."""
    found = target.symbols.lookup(address)
    ends = [end for start, end in target.code_ranges() if start <= address < end]
    if found is not None:
        ends.append(target.symbols.end_of(found[0]))
    size = min([*ends, address + LONGEST * 4]) - address
    return max(4, size - size % 4)


def _show_target(target: Target, *, as_json: bool) -> int:
    """Print the identity and the capabilities of a target."""
    from dataclasses import asdict

    identity = target.identity()
    if as_json:
        facts = {**asdict(identity), **target.capabilities._asdict(), "details": target.facts()}
        del facts["noun"]
        for build in (facts, *facts["modules"]):
            build["base"] = f"{build['base']:#x}"
        print_json(facts)
        return 0
    yes_no = {True: "yes", False: "no"}
    capabilities = target.capabilities
    they = f"{capabilities.noun}s"
    shown = {
        "target": capabilities.kind,
        "location": identity.location,
        "build id": identity.build_id,
        "release": identity.release,
        "base": f"{identity.base:#x}" if identity.base else "",
        they: str(capabilities.cpus),
        f"can stop all {they}": yes_no[capabilities.can_stop],
        f"can make {they} synchronise": yes_no[capabilities.can_kick],
        f"sees where {they} stand": yes_no[capabilities.sees_pcs],
        "cache maintenance reaches all CPUs": yes_no[capabilities.broadcast],
        "can write data with code": yes_no[capabilities.writes_data],
        **target.facts(),
    }
    print_table((name, value) for name, value in shown.items() if value)
    return 0


def _line(
    target: Target, address: int, word: int, profile: str, claims: Sequence[tuple[str, Mapping[int, str]]]
) -> dict[str, Any]:
    """One line. `claims` are the hazards, each with its sentences by address."""
    from a64patch.a64.cmodx import is_hotpatchable
    from a64patch.a64.disassembler import disassemble

    relocation_at = getattr(target, "relocation_at", None)
    said = [(hazard, of[address]) for hazard, of in claims if address in of]
    is_data = any(hazard == "data" for hazard, _ in said)
    return {
        "address": f"{address:#x}",
        "site": target.symbols.describe(address),
        "word": f"{word:08x}",
        "text": f".word {word:#010x}" if is_data else disassemble(word, address, target.symbols),
        "hotpatchable": not is_data and is_hotpatchable(word, profile),
        "data": is_data,
        "relocation": (relocation_at(address) if relocation_at else None) or "",
        "kernel": "; ".join(sentence for hazard, sentence in said if hazard in _OF_LINUX),
    }

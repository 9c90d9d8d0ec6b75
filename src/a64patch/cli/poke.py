"""Change a few instructions of a target, typed by hand: a patch of one hunk.

May know: a64/, target/, patch/. Read on: ../patch/text.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from a64patch.cli.text import print_json, words_of
from a64patch.errors import MismatchError, RequestError

EPILOG = """\
What stands there must be said with --expect, and must be true: nothing is changed otherwise.
An instruction is text, or its word as eight hex digits.
examples:
  a64patch poke ./program main+0x8 'mov w0, #1' --expect 'mov w0, #0'
  a64patch poke ./program check 'mov w0, #0; ret' --expect 'a9bf7bfd; 910003fd'
  a64patch poke module.ko init_module+0x10 nop --expect 94000000 --drop-relocations"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """TARGET SITE ASM --expect ASM."""
    parser.add_argument("target", metavar="TARGET", help="path of an ELF file, or sim:PATH?cpus=4&seed=1")
    parser.add_argument("site", metavar="SITE", help="symbol, symbol+0x18, section:0x10 or an address")
    parser.add_argument("new", metavar="ASM", help="the instructions that shall stand there: 'ASM; ASM'")
    parser.add_argument("--expect", metavar="ASM", help="the instructions that stand there now, as many")
    parser.add_argument(
        "--sync", choices=("auto", "nosync", "stop"), default="auto",
        help="auto: the lightest safe method (default); nosync: tell no CPU; stop: all CPUs wait",
    )  # fmt: skip
    parser.add_argument(
        "--profile", default="2018", help="issue of the manual's list that auto goes by (default: 2018)"
    )
    parser.add_argument(
        "--drop-relocations", action="store_true",
        help="where a relocation owns the word, turn it into R_AARCH64_NONE (ELF files)",
    )  # fmt: skip
    parser.add_argument("-n", "--dry-run", action="store_true", help="say what would be done, and change nothing")


def run(arguments: argparse.Namespace) -> int:
    """Check, change, and say what was done."""
    from a64patch.a64.words import INSN_SIZE, from_bytes, require_aligned
    from a64patch.target import open_target

    options = {"drop_relocations": True} if arguments.drop_relocations else {}
    with open_target(arguments.target, **options) as target:
        address = require_aligned(target.symbols.resolve(arguments.site))
        new = words_of(arguments.new, address, target.symbols)
        addresses = [address + INSN_SIZE * number for number in range(len(new))]
        found = from_bytes(b"".join(target.read(place, INSN_SIZE) for place in addresses))
        if arguments.expect is None:
            raise RequestError(
                f"poke must be told what stands at {arguments.site} now; if you mean to replace"
                f" {_texts(target, addresses, found)!r}, add --expect {_words(found)!r}"
            )
        expected = words_of(arguments.expect, address, target.symbols)
        if len(expected) != len(new):
            raise RequestError(f"{len(new)} new and {len(expected)} expected instructions: as many of both are needed")
        if found == new:
            facts = _facts(target, addresses, found, new, "already applied", None)
        else:
            if found != expected:
                raise MismatchError(
                    f"{target.symbols.describe(address)} holds {_texts(target, addresses, found)!r} ({_words(found)}),"
                    f" not {_texts(target, addresses, expected)!r} ({_words(expected)}); nothing was changed"
                )
            result = None if arguments.dry_run else _patch(target, addresses, new, expected, arguments)
            facts = _facts(target, addresses, expected, new, "not applied" if arguments.dry_run else "applied", result)
    if arguments.json:
        print_json(facts)
    else:
        _print(facts)
    return 0


def _patch(
    target: Any, addresses: list[int], new: list[int], expected: list[int], arguments: argparse.Namespace
) -> Any:
    from a64patch.patch import text

    if arguments.sync == "nosync":
        if len(new) != 1:
            raise RequestError(f"{len(new)} words without synchronisation are always racy: use --sync auto or stop")
        return text.patch_text_nosync(target, addresses[0], new[0], expected=expected[0])
    if arguments.sync == "stop":
        return text.patch_text_sync(target, addresses, new, expected=expected)
    return text.patch_text(target, addresses, new, expected=expected, profile=arguments.profile)


def _texts(target: Any, addresses: Sequence[int], words: Sequence[int]) -> str:
    from a64patch.a64.disassembler import disassemble

    pairs = zip(addresses, words, strict=True)
    return "; ".join(disassemble(word, place, target.symbols) for place, word in pairs)


def _words(words: Sequence[int]) -> str:
    return "; ".join(f"{word:08x}" for word in words)


def _facts(
    target: Any, addresses: Sequence[int], old: Sequence[int], new: Sequence[int], state: str, result: Any
) -> dict[str, Any]:
    changes = [
        {
            "address": f"{place:#x}",
            "site": target.symbols.describe(place),
            "old": f"{before:08x}",
            "old_text": _texts(target, [place], [before]),
            "new": f"{after:08x}",
            "new_text": _texts(target, [place], [after]),
        }
        for place, before, after in zip(addresses, old, new, strict=True)
    ]
    facts = {"target": target.capabilities.kind, "state": state, "changes": changes}
    if result is not None:
        facts |= {
            "method": result.method,
            "reason": result.reason,
            "cpus": list(result.cpus),
            "stop_window_ns": result.stop_window_ns,
            "retries": result.retries,
        }
    return facts


def _print(facts: dict[str, Any]) -> None:
    if facts["state"] == "already applied":
        print("already applied: these instructions stand there; nothing was changed")
        return
    print(f"@@ {facts['changes'][0]['site']} @@")
    for change in facts["changes"]:
        print(f"-{change['old']}  {change['old_text']}")
    for change in facts["changes"]:
        print(f"+{change['new']}  {change['new_text']}")
    if facts["state"] == "not applied":
        print("dry run: nothing was changed")
        return
    count = len(facts["changes"])
    words = f"{count} word{'s' if count > 1 else ''} written"
    stopped = (
        f", {len(facts['cpus'])} CPUs stopped for {facts['stop_window_ns'] / 1000:.0f} us" if facts["cpus"] else ""
    )
    print(f"{words}; {facts['method']}: {facts['reason']}{stopped}")

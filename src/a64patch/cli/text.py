"""Shared by the commands: addresses and words that a user types, and facts printed as JSON.

Read on: asm.py; schema.py for the form of the JSON.
"""

from __future__ import annotations

import re
from typing import Any

from a64patch.a64.words import INSN_SIZE, require_aligned
from a64patch.errors import AssemblyError, PartialPatchError


def parse_address(text: str, count: int = 1) -> int:
    """The address of the first of `count` instructions, hexadecimal with 0x or decimal.

    AssemblyError when the text is no address, or when the instructions do not end by 2**64. AlignmentError when the
    address is no multiple of 4.
    """
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}", text.strip(), re.ASCII):
        raise AssemblyError(f"{text[:40]!r} is not an address: write 0x1000 or a decimal number")
    address = require_aligned(int(text, 16 if "x" in text.lower() else 10))
    if address + INSN_SIZE * count > 1 << 64:
        raise AssemblyError(f"address {text.strip()}: the last of {count} words would lie beyond the last address")
    return address


def parse_word(text: str) -> int:
    """An instruction word of up to eight hex digits. AssemblyError when the text is no word."""
    if not re.fullmatch(r"\s*(0[xX])?[0-9a-fA-F]{1,8}\s*", text, re.ASCII):
        raise AssemblyError(f"{text[:40]!r} is not a word: write up to eight hex digits")
    return int(text, 16)


def failure_of(error: BaseException, status: int) -> dict[str, Any]:
    """An error for JSON. `status` is the exit status that it means."""
    facts = {
        "name": next(kind.__name__ for kind in type(error).__mro__ if not kind.__name__.startswith("_")),
        "sentence": str(error),
        "notes": list(getattr(error, "__notes__", ())),
        "exit_status": status,
    }
    if isinstance(error, PartialPatchError):
        facts["unrestored"] = [f"{address:#x}" for address in error.unrestored]
    return facts


def print_json(facts: Any) -> None:
    """Print the facts as indented JSON: one document, in a form of schema.py."""
    import json

    print(json.dumps(facts, indent=2))

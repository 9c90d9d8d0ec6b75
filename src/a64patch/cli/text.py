"""Shared by the commands: instructions that a user types, and facts printed as JSON.

Read on: show.py, poke.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from a64patch.a64.words import INSN_SIZE, require_aligned
from a64patch.errors import AssemblyError, PartialPatchError

if TYPE_CHECKING:
    from a64patch.a64.operands import Names

_WORD = re.compile(r"\s*([0-9a-fA-F]{8})\s*", re.ASCII)


def words_of(text: str, address: int = 0, names: Names | None = None) -> list[int]:
    """The words of `ASM; ASM`, the first at `address` (bytes). Eight hex digits are a word as it is.

    AssemblyError when there is no instruction.
    """
    return [word for word, _ in instructions_of(text, address, names)]


def instructions_of(text: str, address: int = 0, names: Names | None = None) -> list[tuple[int, str]]:
    """As `words_of`, with the text of each instruction as it was typed; empty for a word of eight hex digits."""
    from a64patch.a64.assembler import assemble_one
    from a64patch.a64.source import statements

    found: list[tuple[int, str]] = []
    for part in map(str.strip, statements(text)):
        if part:
            word = _WORD.fullmatch(part)
            place = address + INSN_SIZE * len(found)
            found.append((int(word[1], 16), "") if word else (assemble_one(part, place, names), part))
    if not found:
        raise AssemblyError("there is no instruction in an empty text")
    return found


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
        "name": type(error).__name__,
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

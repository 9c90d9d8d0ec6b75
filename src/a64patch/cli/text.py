"""What commands share: instructions typed by a user, words printed for one.

May know: a64/, target/.
Read on: show.py, poke.py.
"""

from __future__ import annotations

import json
import re
from typing import Any

from a64patch.a64.assembler import assemble_one
from a64patch.a64.operands import Names
from a64patch.a64.words import INSN_SIZE
from a64patch.errors import AssemblyError

_WORD = re.compile(r"\s*([0-9a-fA-F]{8})\s*", re.ASCII)


def words_of(text: str, address: int = 0, names: Names | None = None) -> list[int]:
    """The words of `ASM; ASM`, the first at `address` (bytes); eight hex digits alone stand for the word itself."""
    words: list[int] = []
    for part in re.split(r"[;\n]", text):
        if not part.strip():
            continue
        word = _WORD.fullmatch(part)
        place = address + INSN_SIZE * len(words)
        words.append(int(word[1], 16) if word else assemble_one(part, place, names))
    if not words:
        raise AssemblyError("there is no instruction in an empty text")
    return words


def print_json(facts: Any) -> None:
    """The facts as indented JSON."""
    print(json.dumps(facts, indent=2))

"""Instructions typed by hand: `ASM; ASM` as words, and as a patch of one hunk.

Read on: asmdiff.py for patches that are a file; ../a64/assembler.py for one instruction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from a64patch.a64.words import INSN_SIZE, require_aligned
from a64patch.errors import AssemblyError, RequestError

if TYPE_CHECKING:
    from a64patch.a64.operands import Names
    from a64patch.patch.asmdiff import AsmDiff
    from a64patch.targets.base import Target

_WORD = re.compile(r"\s*([0-9a-fA-F]{8})\s*", re.ASCII)


def words_of(text: str, address: int = 0, names: Names | None = None) -> list[int]:
    """The words of `ASM; ASM`, the first at `address` (bytes). Eight hex digits are a word as it is.

    AssemblyError when there is no instruction.
    """
    return [word for word, _ in _instructions_of(text, address, names)]


def one_hunk(target: Target, site: str, new: str, expect: str) -> AsmDiff:
    """The patch that replaces the instructions `expect` at a site by as many `new` ones, for this very target.

    Both are `ASM; ASM`, where eight hex digits are a word as it is. The target gives names only: `make_plan`, with
    `same_build`, compares its words.

    Errors: SymbolError and AlignmentError for the site; AssemblyError for a text; RequestError for different numbers.
    """
    from a64patch.patch.asmdiff import BUILD_ID, AsmDiff, Hunk, Line

    address = require_aligned(target.symbols.resolve(site))
    added = _instructions_of(new, address, target.symbols)
    removed = _instructions_of(expect, address, target.symbols)
    if len(removed) != len(added):
        raise RequestError(f"{len(added)} new and {len(removed)} expected instructions: as many of both are needed")
    lines = [Line("-", *line) for line in _lines(target, address, removed)]
    lines += [Line("+", *line) for line in _lines(target, address, added)]
    build_id = target.identity().build_id
    headers = ((BUILD_ID, build_id),) if build_id else ()
    return AsmDiff((Hunk(target.symbols.describe(address), tuple(lines)),), headers=headers)


def texts_of(target: Target, address: int, words: Sequence[int]) -> list[str]:
    """The texts of words at an address, with the target's names."""
    from a64patch.a64.disassembler import disassemble

    return [disassemble(word, address + INSN_SIZE * index, target.symbols) for index, word in enumerate(words)]


def _instructions_of(text: str, address: int, names: Names | None) -> list[tuple[int, str]]:
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


def _lines(target: Target, address: int, instructions: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Words with their usual texts. A text that names a page or its low bits stays as typed: there is no other."""
    from a64patch.patch.meaning import needs_pages

    texts = texts_of(target, address, [word for word, _ in instructions])
    return [
        (word, typed if needs_pages(typed) else text) for (word, typed), text in zip(instructions, texts, strict=True)
    ]

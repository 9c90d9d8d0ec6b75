"""Text to words, by the table: `assemble`.

Read on: disassembler.py for the other direction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from a64patch.a64.encodings import GENERAL, VECTOR, rows_of
from a64patch.a64.operands import CONDITIONS, Names, Place
from a64patch.a64.row import Encoding
from a64patch.a64.source import LocalNames, plain, read_source
from a64patch.a64.templates import Template, templates
from a64patch.errors import AssemblyError

_INST = re.compile(r"\.inst\s+(0x[0-9a-f]{1,8}|[0-9]{1,10})", re.ASCII | re.IGNORECASE)
_SCALABLE = re.compile(r"\b(?:[zp][0-9]{1,2}|pn[0-9]{1,2}|za[0-9]*[hv]?|zt0|ffr)\b", re.ASCII | re.IGNORECASE)
_LONGEST = 200
"""Characters of one instruction; no spelling comes near it."""


@cache
def _rows_by_mnemonic(file: str) -> dict[str, list[tuple[Encoding, int]]]:
    """The first word of each spelling in this file of the table, with the rows and the number of the spelling."""
    index: dict[str, list[tuple[Encoding, int]]] = {}
    for row in rows_of(file):
        for number, text in enumerate(row.texts):
            mnemonic = text.partition(" ")[0].partition("{")[0]
            names = [mnemonic]
            if "<cond:cond>" in mnemonic:
                names = [mnemonic.replace("<cond:cond>", condition) for condition in CONDITIONS]
            for name in names:
                index.setdefault(name, []).append((row, number))
    return index


def _spellings(mnemonic: str) -> Iterator[Template]:
    """Every spelling that begins so, file by file; those on SIMD registers, which are most rows, come last.

    A file loads when no spelling of the files before it was taken.
    """
    for file in (*GENERAL, *VECTOR):
        for row, number in _rows_by_mnemonic(file).get(mnemonic, []):
            yield templates(row)[number]


def assemble_one(text: str, address: int = 0, symbols: Names | None = None) -> int:
    """The word of one instruction that stands at `address` (bytes); AssemblyError says which operand is wrong and why.

    `.inst 0xd503201f` gives the word itself. Upper and lower case, `#` or not, hex and decimal; labels are addresses,
    `.+8`, or names that `symbols` resolves.
    """
    return _assemble_at(text, Place(address, symbols))


class _Nowhere:
    """Takes every name for address 0."""

    def resolve(self, site: str) -> int:
        return 0

    def describe(self, address: int) -> str:
        return hex(address)


def assemble_anywhere(text: str) -> int:
    """The word of one instruction without what depends on its place: labels and the low bits of names are 0.

    Errors as `assemble_one`, except that every label reaches and every name is known.
    """
    return _assemble_at(text, Place(0, _Nowhere(), anywhere=True))


def _assemble_at(text: str, place: Place) -> int:
    text = text.strip()
    if len(text) > _LONGEST:
        raise AssemblyError(f"an instruction of {len(text)} characters: {text[:40]!r}…")
    literal = _INST.fullmatch(text)
    if literal:
        word = int(literal[1], 16 if literal[1][:2].lower() == "0x" else 10)
        if word > 0xFFFFFFFF:
            raise AssemblyError(f"{text!r} is more than 32 bits")
        return word
    mnemonic = text.split()[0].lower() if text else ""
    tried = list[Template]()
    wrong: AssemblyError | None = None
    for template in _spellings(mnemonic):
        tried.append(template)
        try:
            word_or_none = template.parse(text, place)
        except AssemblyError as error:
            # The spelling that went furthest is the one that was meant.
            if wrong is None or error.position > wrong.position:
                wrong = error
        else:
            if word_or_none is not None:
                return word_or_none
    if _SCALABLE.search(text):
        raise AssemblyError(f"{text!r}: SVE and SME are not in this table; write the word itself as .inst 0x…")
    if wrong is not None:
        raise AssemblyError(f"{text!r}: {wrong}")
    if not tried:
        raise AssemblyError(f"{text!r}: this assembler does not know {mnemonic!r}; write the word itself as .inst 0x…")
    shapes = " or ".join(sorted({re.sub(r"<(\w+!?)[^>]*>", r"<\1>", template.text) for template in tried})[:4])
    raise AssemblyError(f"{text!r}: the operands do not fit, expected {shapes}")


def assemble(text: str, address: int = 0, symbols: Names | None = None) -> list[int]:
    """The words of several instructions, separated by `;` or new lines, the first standing at `address` (bytes).

    The text may have labels (`loop:`, `1:` with `1b` and `1f`), comments (`//`, `/* */`) and constant expressions
    (`#(1 << 4) - 1`); names that are no labels of the text are asked of `symbols`. AssemblyError when something is
    wrong or there is no instruction. What cannot be encoded raises; never a wrong word.
    """
    source = read_source(text, address)
    if not source.instructions:
        raise AssemblyError("there is no instruction in an empty text")
    return [assemble_one(plain(line), place, LocalNames(source, place, symbols)) for place, line in source.instructions]

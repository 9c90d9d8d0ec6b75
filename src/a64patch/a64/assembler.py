"""Text to words, by the table: `assemble`.

Read on: disassembler.py for the other direction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from a64patch.a64.encodings import GENERAL, VECTOR, rows_of
from a64patch.a64.missing import missing_feature
from a64patch.a64.names import LONGEST_NAME, outside_quotes
from a64patch.a64.operands import CONDITIONS, NUMBER, Names, Place, check_range, number_of
from a64patch.a64.row import Encoding
from a64patch.a64.source import LocalNames, read_source
from a64patch.a64.templates import Template, templates
from a64patch.errors import AssemblyError

_INST = re.compile(rf"\.(?:inst|word)\s+(?!#)({NUMBER})", re.ASCII | re.IGNORECASE)
_SCALABLE = re.compile(r"\b(?:[zp][0-9]{1,2}|pn[0-9]{1,2}|za[0-9]*[hv]?|zt0|ffr)\b", re.ASCII | re.IGNORECASE)
_POOL = re.compile(r"ldr\w*\s+\w+\s*,\s*=", re.ASCII | re.IGNORECASE)
"""A load from a literal pool, which an assembler puts behind the code."""
_LONGEST = 200
"""The most characters of one instruction without its name. Every spelling is much shorter."""
_NAME = re.compile(r"[\w.$@:-]{32,}")
"""A long name without quotes."""


@cache
def _rows_by_mnemonic(file: str) -> dict[str, list[tuple[Encoding, int]]]:
    """For each mnemonic in this file of the table: its rows, each with the number of the spelling in the row."""
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
    """Every spelling with this mnemonic, file by file. The file of SIMD registers, with most of the rows, comes last.

    A file loads only when no spelling of the files before it fits.
    """
    for file in (*GENERAL, *VECTOR):
        for row, number in _rows_by_mnemonic(file).get(mnemonic, []):
            yield templates(row)[number]


def assemble_one(text: str, address: int = 0, symbols: Names | None = None) -> int:
    """The word of one instruction at `address` (bytes). AssemblyError names the wrong operand and the reason.

    Upper or lower case. Numbers are constant expressions (expressions.py), with or without `#`. Labels are addresses,
    `.+8`, names that `symbols` resolves, or `name+4*2`. `.inst 0xd503201f` gives the word itself, and so does `.word`
    for data between the code.
    """
    return _assemble_at(text, Place(address, symbols))


def assemble_anywhere(text: str) -> int:
    """The word of one instruction, whatever its address: distances to labels and the low bits of names are 0.

    Errors as `assemble_one`, but every label reaches and every name is known.
    """
    return _assemble_at(text, Place(anywhere=True))


def _assemble_at(text: str, place: Place) -> int:
    text = text.strip()
    if len(text) > _LONGEST and not _LONGEST >= len(_NAME.sub("", outside_quotes(text))) >= len(text) - LONGEST_NAME:
        raise AssemblyError(f"an instruction of {len(text)} characters: {text[:40]!r}…")
    literal = _INST.fullmatch(text)
    if literal:
        return check_range(number_of(literal[1]), 0, 0xFFFFFFFF, "word")
    if _POOL.match(text):
        raise AssemblyError(
            f"{text!r}: a patch has no place for a literal pool; make a constant with movz and movk, an address with"
            " adrp and add"
        )
    mnemonic = text.split()[0].lower() if text else ""
    tried = list[Template]()
    wrong: AssemblyError | None = None
    for template in _spellings(mnemonic):
        tried.append(template)
        try:
            word_or_none = template.parse(text, place)
        except AssemblyError as error:
            # Most likely the user meant the spelling that fits furthest.
            if wrong is None or error.position > wrong.position:
                wrong = error
        else:
            if word_or_none is not None:
                return word_or_none
    if _SCALABLE.search(outside_quotes(text)):
        raise AssemblyError(f"{text!r}: SVE and SME are not in this table; write the word itself as .inst 0x…")
    if wrong is not None:
        raise AssemblyError(f"{text!r}: {wrong}")
    if not tried:
        feature = missing_feature(mnemonic)
        why = f"{mnemonic!r} came with {feature}, which is not in this table" if feature else ""
        why = why or f"this assembler does not know {mnemonic!r}"
        raise AssemblyError(f"{text!r}: {why}; write the word itself as .inst 0x…")
    shapes = " or ".join(sorted({re.sub(r"<(\w+!?)[^>]*>", r"<\1>", template.text) for template in tried})[:4])
    raise AssemblyError(f"{text!r}: the operands do not fit, expected {shapes}")


def assemble(text: str, address: int = 0, symbols: Names | None = None) -> list[int]:
    """The words of several instructions, separated by `;` or new lines. The first is at `address` (bytes).

    The text may have labels (`loop:`, `1:` with `1b` and `1f`), comments (`//`, `/* */`) and constant expressions
    (`#(1 << 4) - 1`). `symbols` resolves all other names. AssemblyError for an error in the text, for an instruction
    that cannot be encoded, and for a text without instructions. Never a wrong word.
    """
    source = read_source(text, address)
    if not source.instructions:
        raise AssemblyError("there is no instruction in an empty text")
    return [assemble_one(line, place, LocalNames(source, place, symbols)) for place, line in source.instructions]

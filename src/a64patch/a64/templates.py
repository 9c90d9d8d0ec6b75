"""Assembly templates of the table, ready to read and print text: `cbz <R:sf:rt>, <label:imm19>`.

Read on: assembler.py and disassembler.py.

A template has literal text, operands as <kind:field:field>, and optional parts in braces. operands.py and the other
files of operands hold the kinds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cache
from typing import NamedTuple

from a64patch.a64.integer_operands import KINDS as INTEGER_KINDS
from a64patch.a64.integer_operands import Distinct, Fixed, LowBits
from a64patch.a64.operands import KINDS as GENERAL_KINDS
from a64patch.a64.operands import Label, Operand, Place
from a64patch.a64.row import Encoding, Field
from a64patch.a64.system_operands import KINDS as SYSTEM_KINDS
from a64patch.a64.vector_operands import KINDS as VECTOR_KINDS
from a64patch.errors import AssemblyError

_TOKEN = re.compile(r"<([^>]+)>|([{}])|([^<{}]+)")


_KINDS = GENERAL_KINDS | INTEGER_KINDS | SYSTEM_KINDS | VECTOR_KINDS
_NARROW = 12
"""The most bits of an operand whose texts are kept."""


class _Texts(dict[int, str | None]):
    """The texts of an operand, by the operand's own bits of a word. Each is made at its first use."""

    def __init__(self, operand: Operand, fields: Sequence[Field]) -> None:
        self._operand = operand
        self._parts = [(field.lsb, (1 << field.width) - 1) for field in fields]
        self._kept = sum(field.width for field in fields) <= _NARROW
        self.mask = sum(bits << lsb for lsb, bits in self._parts)

    def __missing__(self, word: int) -> str | None:
        text = self.at(word, Place())
        if self._kept:
            self[word] = text
        return text

    def at(self, word: int, place: Place) -> str | None:
        """The text at a place, for operands that depend on their place."""
        return self._operand.format([word >> lsb & bits for lsb, bits in self._parts], place)


@cache
def _operand(kind: str, fields: tuple[Field, ...]) -> tuple[Operand, _Texts]:
    operand = Fixed(int(kind[1:])) if kind[0] == "=" else _KINDS[kind](fields)
    return operand, _Texts(operand, fields)


class Piece(NamedTuple):
    """Literal text, or an operand with the names of its fields. `optional` is the number of its braces, or 0."""

    literal: str
    operand: Operand | None = None
    fields: tuple[str, ...] = ()
    optional: int = 0
    texts: _Texts | None = None
    placed: bool = False


class Template:
    """One spelling of one row."""

    def __init__(self, row: Encoding, text: str) -> None:
        self.row, self.text = row, text
        self.pieces = self._split(row, text)
        fixed = [piece for piece in self.pieces if isinstance(piece.operand, Fixed) and not piece.optional]
        self._fixed_mask, self._fixed_value = self._fixed_bits(fixed)
        self._printed = [piece for piece in self.pieces if piece not in fixed]
        self._steps = [
            (piece.literal, piece.texts, 0 if piece.texts is None else piece.texts.mask, piece.placed, piece.optional)
            for piece in self._printed
        ]
        self._operands = [piece for piece in self.pieces if piece.operand]
        self._regex: re.Pattern[str] | None = None

    @staticmethod
    def _split(row: Encoding, text: str) -> list[Piece]:
        pieces, optional, braces = list[Piece](), 0, 0
        for inner, brace, literal in _TOKEN.findall(text):
            if brace == "{":
                braces += 1
                optional = braces
            elif brace:
                optional = 0
            elif literal:
                pieces.append(Piece(literal, optional=optional))
            else:
                kind, *fields = inner.split(":")
                made, texts = _operand(kind, tuple(row.fields[name] for name in fields))
                pieces.append(Piece("", made, tuple(fields), optional, texts, isinstance(made, Label)))
        return pieces

    def _fixed_bits(self, pieces: Sequence[Piece]) -> tuple[int, int]:
        """(mask, value) of the common bits of this spelling's words, beside the fixed bits of the row."""
        mask = value = 0
        for piece in pieces:
            assert piece.operand is not None
            for name, number in zip(piece.fields, piece.operand.default, strict=True):
                field = self.row.fields[name]
                mask |= (1 << field.width) - 1 << field.lsb
                value |= (number or 0) << field.lsb
        return mask, value

    def _pattern(self) -> re.Pattern[str]:
        if self._regex is None:
            parts, optional = list[str](), 0
            for piece in self.pieces:
                if piece.optional != optional:
                    parts.append((")?" if optional else "") + ("(?:" if piece.optional else ""))
                    optional = piece.optional
                parts.append(f"({piece.operand.regex})" if piece.operand else _literal_regex(piece.literal))
            self._regex = re.compile("".join(parts) + (")?" if optional else ""), re.ASCII | re.IGNORECASE)
        return self._regex

    def parse(self, text: str, place: Place) -> int | None:
        """The word; None when the text does not have this shape. AssemblyError when an operand is wrong."""
        match = self._pattern().fullmatch(text)
        if match is None:
            return None
        values: dict[str, int] = {}
        for position, (piece, group) in enumerate(zip(self._operands, match.groups(), strict=True), start=1):
            assert piece.operand is not None
            try:
                numbers = piece.operand.default if group is None else piece.operand.parse(group.strip(), place)
                for name, number in zip(piece.fields, numbers, strict=True):
                    if number is not None and values.setdefault(name, number) != number:
                        raise AssemblyError(f"operand {group!r} does not go with the operands before it")
            except AssemblyError as error:
                error.position = match.start(position)
                raise
        for piece in self._operands:
            if isinstance(piece.operand, Distinct):
                piece.operand.verify([values[name] for name in piece.fields])
        word = self.row.value
        for name, number in values.items():
            word |= number << self.row.fields[name].lsb
        return word

    def format(self, values: Mapping[str, int], place: Place) -> str | None:
        """The text for these field values; None when this spelling does not fit them."""
        return self.format_word(sum(number << self.row.fields[name].lsb for name, number in values.items()), place)

    def with_low_bits_of(self, name: str) -> Template | None:
        """This spelling with `:lo12:name` in place of its number, never left out; None when it has no such number."""
        low = next((piece for piece in self._printed if isinstance(piece.operand, LowBits)), None)
        if low is None:
            return None
        named = copy(self)
        named._steps = [
            (f":lo12:{name}", None, 0, False, 0)
            if piece is low
            else (*step[:4], 0 if piece.optional == low.optional else piece.optional)
            for piece, step in zip(self._printed, self._steps, strict=True)
        ]
        return named

    def format_word(self, word: int, place: Place) -> str | None:
        """The text for a word of the row; None when this spelling does not fit the word."""
        if word & self._fixed_mask != self._fixed_value:
            return None
        parts, pending, left_out = list[str](), "", 0
        for literal, texts, mask, placed, optional in self._steps:
            if optional and optional == left_out:
                continue
            if texts is None:
                if optional:
                    pending = literal
                else:
                    parts.append(literal)
                continue
            text = texts.at(word, place) if placed else texts[word & mask]
            if text is None:
                if not optional:
                    return None
                left_out = optional
            else:
                parts += (pending, text)
            pending = ""
        return "".join(parts).rstrip()


def _literal_regex(literal: str) -> str:
    """A pattern for literal text: any spaces before and after punctuation, at least one space between words."""
    tokens = re.findall(r"\s+|[\[\],]|[^\s\[\],]+", literal)
    parts = list[str]()
    for token in tokens:
        if token.isspace():
            parts.append("" if parts and parts[-1].endswith(r"\s*") else r"\s+")
        elif token in "[],":
            parts.append(rf"\s*{re.escape(token)}\s*")
        else:
            parts.append(re.escape(token))
    return "".join(parts)


@cache
def templates(row: Encoding) -> tuple[Template, ...]:
    """The spellings of a row, the preferred first."""
    return tuple(Template(row, text) for text in row.texts)

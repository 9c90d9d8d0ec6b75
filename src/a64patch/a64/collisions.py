"""Words whose registers collide, so that the architecture leaves their effect open: CONSTRAINED UNPREDICTABLE.

Read on: effects.py for the registers that an instruction reads and writes.

Source: Arm ARM (DDI 0487), appendix K1, "CONSTRAINED UNPREDICTABLE behaviors for A64 instructions", and the
instructions' own pages in C6.2 and C7.2. One CPU may take such a word as UNDEFINED, another one as a NOP, a third one
may load or store an UNKNOWN value.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import combinations
from typing import NamedTuple

from a64patch.a64.effects import register_operands, written_back
from a64patch.a64.operands import GENERAL
from a64patch.a64.predicates import decode
from a64patch.a64.row import Encoding

_REMEMBERED = 1 << 12
_SOURCE = "CONSTRAINED UNPREDICTABLE (Arm ARM K1, A64 instructions)"
_LOADS_AND_STORES = 0x0A000000, 0x08000000
"""Mask and value of the words of this encoding class (Arm ARM C4.1). No other class has such a word."""
_DATA = ("rt", "rt2")
_ZERO = 31


class _Collision(NamedTuple):
    """Two fields that must not hold the same register."""

    one: str
    other: str
    sentence: str
    """With the register's name in place of {}."""
    zero: bool
    """Also when the register is number 31."""


@lru_cache(maxsize=_REMEMBERED)
def unpredictable(word: int) -> str | None:
    """One sentence when the word's registers make it CONSTRAINED UNPREDICTABLE, else None.

    The sentence names the register, the collision, and the manual's section. EncodingError for a number that is no
    word. Not looked at:

    - what depends on more than the word: memory types, alignment, system registers
    - words that no row of the table has, such as those with another value in bits that the manual prints as (0) or (1)
    """
    if word & _LOADS_AND_STORES[0] != _LOADS_AND_STORES[1]:
        return None
    row = decode(word)
    if row is None:
        return None
    for collision in _collisions(row):
        number = row.fields[collision.one].get(word)
        if number == row.fields[collision.other].get(word) and (number != _ZERO or collision.zero):
            return f"{collision.sentence.format(_name(row, collision.one, number))}: {_SOURCE}"
    if "mops" in row.families and any(row.fields[field].get(word) == _ZERO for field in written_back(row)):
        return f"register 31 is written back: {_SOURCE}"
    return None


@cache
def _collisions(row: Encoding) -> tuple[_Collision, ...]:
    return tuple(_each_collision(row)) if row.memory else ()


def _each_collision(row: Encoding) -> Iterator[_Collision]:
    operands, based = register_operands(row), written_back(row)
    if "mops" in row.families:
        for one, other in combinations(("rd", "rs", "rn"), 2):
            yield _Collision(one, other, "{} has two roles in one copy or set", zero=True)
        return
    if "store_ex" in row.families:
        for data in operands.keys() & _DATA:
            yield _Collision("rs", data, "{} gets the status and is also stored", zero=True)
        yield _Collision("rs", "rn", "{} gets the status and is also the base", zero=False)
    if operands.keys() >= {*_DATA} and (row.memory == "load" or {*_DATA} <= {*row.writes.split()}):
        yield _Collision("rt", "rt2", "{} is loaded twice", zero=True)
    if row.feature == "FEAT_MTE":
        return  # STG, STGP and the like read their registers before they write the base (C6.2, STG).
    for base in based:
        for data in operands.keys() & _DATA:
            if operands[data][0].registers[: len(GENERAL)] == GENERAL:
                verb = "loaded" if row.memory == "load" else "stored"
                yield _Collision(base, data, f"{{}} is {verb} and is also the base that is written back", zero=False)


def _name(row: Encoding, field: str, number: int) -> str:
    registers = register_operands(row)[field][0].registers
    return registers[number][0] if number < len(registers) else "the zero register"

"""THE table: one row an encoding, and everything that this package knows about instructions is derived from it.

Read on: predicates.py asks which row a word belongs to; assembler.py and disassembler.py read the templates.

Source of every row: Arm Architecture Reference Manual (DDI 0487), the encoding tables of C4.1 under the heading that
`Encoding.table` names, and the instruction's own page in C6.2 or C7.2. Bits that the manual prints as (0) or (1) are
fixed here: a word that breaks them is CONSTRAINED UNPREDICTABLE, so no row claims it.

There are thousands of rows, so a file of tables/ loads when one of its rows may be meant.
"""

from __future__ import annotations

import importlib
from functools import cache

from a64patch.a64.row import Encoding, Field, Flow

__all__ = ["BY_NAME", "TABLE", "Encoding", "Field", "Flow"]

GENERAL = ("branches", "system", "integer", "memory")
"""The files of the rows on general registers."""
VECTOR = ("simd",)
"""The file of the rows on SIMD and FP registers."""

TABLE: tuple[Encoding, ...]
"""All rows. Two rows are disjoint, or one is nested in the other; the inner one is the more exact name."""
BY_NAME: dict[str, Encoding]
"""The rows by their names."""


@cache
def rows_of(file: str) -> tuple[Encoding, ...]:
    """The rows of one file of tables/."""
    rows: tuple[Encoding, ...] = tuple(importlib.import_module(f"a64patch.a64.tables.{file}").table())
    return rows


@cache
def _names_of(file: str) -> dict[str, Encoding]:
    return {row.name: row for row in rows_of(file)}


def row_named(name: str) -> Encoding:
    """The row of that name; KeyError when there is none."""
    for file in (*GENERAL, *VECTOR):
        if name in _names_of(file):
            return _names_of(file)[name]
    raise KeyError(name)


_FILES: dict[int, tuple[str, ...]] = {
    0b0000: ("branches",),
    0b0100: ("memory",),
    0b0101: ("integer",),
    0b0110: VECTOR,
    0b0111: VECTOR,
    0b1000: ("integer",),
    0b1001: ("integer",),
    0b1010: ("branches", "system"),
    0b1011: ("branches",),
    0b1100: ("memory",),
    0b1101: ("integer",),
    0b1110: ("memory", *VECTOR),
    0b1111: VECTOR,
}


def files_for(word: int) -> tuple[str, ...]:
    """The files that may hold the row of a word, by its encoding class: bits 28:25 (Arm ARM C4.1)."""
    return _FILES.get(word >> 25 & 0xF, ())


_GROUP = 7
"""Top bits of a word that hold its encoding class."""


@cache
def rows_for(top: int, count: int) -> tuple[Encoding, ...]:
    """The rows that a word with these top bits, `count` of them and no fewer than 7, can fit, in the table's order."""
    if count > _GROUP:
        rows = rows_for(top >> count - _GROUP, _GROUP)
    else:
        rows = tuple(row for file in files_for(top << 32 - count) for row in rows_of(file))
    word, known = top << 32 - count, (1 << 32) - (1 << 32 - count)
    return tuple(row for row in rows if (word ^ row.value) & row.mask & known == 0)


def __getattr__(name: str) -> object:
    if name == "TABLE":
        globals()["TABLE"] = tuple(row for file in (*GENERAL, *VECTOR) for row in rows_of(file))
    elif name == "BY_NAME":
        globals()["BY_NAME"] = {row.name: row for file in (*GENERAL, *VECTOR) for row in rows_of(file)}
    else:
        raise AttributeError(f"module 'a64patch.a64.encodings' has no attribute {name!r}")
    return globals()[name]

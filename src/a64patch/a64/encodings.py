"""THE table: one row for each encoding. All facts about instructions in this package are derived from the rows.

Read on: predicates.py finds the row of a word; assembler.py and disassembler.py read the templates.

Source of every row: Arm Architecture Reference Manual (DDI 0487), the encoding tables of C4.1 under the heading that
`Encoding.table` names, and the instruction's own page in C6.2 or C7.2. Bits that the manual prints as (0) or (1) are
fixed here: a word that breaks them is CONSTRAINED UNPREDICTABLE, so no row claims it.

There are thousands of rows, so a file of tables/ loads only when one of its rows may be needed.
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
"""All rows. Any two rows are disjoint, or one is nested in the other; the inner row has the more exact name."""
BY_NAME: dict[str, Encoding]
"""The rows by name."""


@cache
def rows_of(file: str) -> tuple[Encoding, ...]:
    """The rows of one file of tables/."""
    rows: tuple[Encoding, ...] = tuple(importlib.import_module(f"a64patch.a64.tables.{file}").table())
    return rows


@cache
def _names_of(file: str) -> dict[str, Encoding]:
    return {row.name: row for row in rows_of(file)}


def row_named(name: str) -> Encoding:
    """The row with this name; KeyError when there is none."""
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
"""The number of top bits that hold a word's encoding class."""


@cache
def rows_for(top: int, count: int) -> tuple[Encoding, ...]:
    """The rows that a word can fit whose top `count` bits are `top`, in the table's order. `count` is at least 7."""
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

"""Words to text, by the table: `disassemble`.

May know: classify.py, templates.py.
Read on: assembler.py for the other direction.
"""

from __future__ import annotations

from functools import cache, lru_cache

from a64patch.a64.classify import decode
from a64patch.a64.encodings import files_for, rows_of
from a64patch.a64.operands import Names, Place
from a64patch.a64.row import Encoding
from a64patch.a64.templates import Reference, reference_of, templates

_REMEMBERED = 1 << 16
"""Texts kept: code repeats itself, so most words of a text are not formatted twice. Some 10 MB when it is full."""
_TOP = 24


def disassemble(word: int, address: int = 0, symbols: Names | None = None) -> str:
    """The instruction's text, in the architecture's preferred spelling.

    `address` (bytes) is where the word stands; labels are printed as `symbols` calls them, else as numbers. A word
    that the table has no row for is `.inst 0x…`, whether it is unallocated or merely unknown here: never a guess.
    EncodingError for a number that is no word. The text assembles to the same word at the same address.
    """
    if _may_refer(word >> _TOP):
        row = decode(word)
        reference = reference_of(row) if row else None
        if row and reference:
            before, after = _around(row, word & ~reference.mask)
            return before + reference.format(word, Place(address, symbols)) + after
    return _text(word)


@lru_cache(maxsize=1 << 32 - _TOP)
def _may_refer(top: int) -> bool:
    """Whether a word with these top bits may name an address: its text then depends on where it stands."""
    word, known = top << _TOP, 0xFFFFFFFF << _TOP & 0xFFFFFFFF
    return 0 <= word <= 0xFFFFFFFF and any(
        (word ^ row.value) & row.mask & known == 0 and reference_of(row) for group in _groups(word)
        for row in rows_of(group)
    )

"""Words to text, by the table: `disassemble`.

May know: classify.py, templates.py.
Read on: assembler.py for the other direction.
"""

from __future__ import annotations

from a64patch.a64.classify import decode
from a64patch.a64.operands import Names, Place
from a64patch.a64.templates import templates


def disassemble(word: int, address: int = 0, symbols: Names | None = None) -> str:
    """The instruction's text, in the architecture's preferred spelling.

    `address` (bytes) is where the word stands; labels are printed as `symbols` calls them, else as numbers. A word
    that the table has no row for is `.inst 0x…`, whether it is unallocated or merely unknown here: never a guess.
    EncodingError for a number that is no word. The text assembles to the same word at the same address.
    """
    row = decode(word)
    if row is not None:
        values = {name: field.get(word) for name, field in row.fields.items()}
        for template in templates(row):
            text = template.format(values, Place(address, symbols))
            if text is not None:
                return text
    return f".inst {word:#010x}"

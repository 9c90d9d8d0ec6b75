"""Words to text, by the table: `disassemble`.

Read on: assembler.py for the other direction.
"""

from __future__ import annotations

from functools import lru_cache

from a64patch.a64.encodings import rows_for
from a64patch.a64.operands import Names, Place
from a64patch.a64.predicates import decode
from a64patch.a64.references import Reference, reference
from a64patch.a64.row import PAGE_SIZE, Encoding
from a64patch.a64.templates import templates

_REMEMBERED = 1 << 16
"""The number of kept texts, a few MB. Code repeats itself, so equal words are formatted only once."""
_TOP = 8
"""The number of top bits that tell whether a word has a label."""


def disassemble(word: int, address: int = 0, symbols: Names | None = None) -> str:
    """The instruction's text, in the architecture's preferred spelling.

    `address` is the word's address in bytes. Labels are printed by `symbols`, without it as numbers. A word without a
    row in the table, unallocated or merely unknown here, becomes `.inst 0x…`: never a guess. The text assembles to
    the same word at the same address. EncodingError for a number that is no word.
    """
    label = _label_of_group(word >> 32 - _TOP)
    if label is not None:
        around = _around_label(word & ~label.mask)
        if around is not None:
            target = label.target(word, address)
            return f"{around[0]}{symbols.describe(target) if symbols else hex(target)}{around[1]}"
    return _text(word)


def disassemble_naming(word: int, address: int, name: str) -> str | None:
    """The text with `name` in place of a page (ADRP) or of low 12 bits: `ldr x0, [x1, :lo12:name]`.

    None for a word that gives neither. The name is not resolved, so nothing checks that the text means the word.
    """
    row = decode(word)
    if row is None:
        return None
    refers = reference(row)
    if refers is not None:
        place = Place(address, _Named(name))
        return _format(row, word, place) if refers.unit == PAGE_SIZE else None
    named = (template.with_low_bits_of(name) for template in templates(row))
    texts = (template.format_word(word, Place()) for template in named if template is not None)
    return next((text for text in texts if text is not None), None)


@lru_cache(maxsize=1 << _TOP)
def _label_of_group(top: int) -> Reference | None:
    """The label of all words with these top bits; None when they have no label, or no rows.

    All rows with these top bits share one label and fix no bit of it (tests/a64/test_disassembler.py).
    """
    if not 0 <= top < 1 << _TOP:
        return None
    return next(filter(None, map(reference, rows_for(top, _TOP))), None)


@lru_cache(maxsize=_REMEMBERED)
def _text(word: int) -> str:
    """The text of a word without a label."""
    row = decode(word)
    text = _format(row, word, Place()) if row is not None else None
    return f".inst {word:#010x}" if text is None else text


class _Named:
    """Calls every address by one name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def resolve(self, site: str) -> int:
        raise LookupError(site)

    def describe(self, address: int) -> str:
        return self._name


_MARKED = Place(names=_Named("\0"))
"""A place that prints every label as a character that no text has."""


@lru_cache(maxsize=_REMEMBERED)
def _around_label(word: int) -> tuple[str, str] | None:
    """The text before and after the label of a word, whatever the label's address; None when the word has no row."""
    row = decode(word)
    text = _format(row, word, _MARKED) if row is not None else None
    if text is None:
        return None
    before, _, after = text.partition("\0")
    return before, after


def _format(row: Encoding, word: int, place: Place) -> str | None:
    for template in templates(row):
        text = template.format_word(word, place)
        if text is not None:
            return text
    return None

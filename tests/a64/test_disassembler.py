"""What the disassembler remembers changes no text: neither where a word stands nor what its label is called is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from a64patch.a64.disassembler import disassemble
from a64patch.a64.encodings import TABLE, Encoding
from a64patch.a64.operands import Place
from a64patch.a64.predicates import decode
from a64patch.a64.references import reference
from a64patch.a64.templates import templates
from a64patch.errors import EncodingError
from tests.a64.test_differential import samples

LABELLED = [row for row in TABLE if reference(row)]


class Named:
    def resolve(self, site: str) -> int:
        raise LookupError(site)

    def describe(self, address: int) -> str:
        return f"<{address:#x}>"


def formatted(word: int, place: Place) -> str:
    """The text without anything remembered."""
    row = decode(word)
    if row is None:
        return f".inst {word:#010x}"
    values = {name: field.get(word) for name, field in row.fields.items()}
    texts = (template.format(values, place) for template in templates(row))
    return next((text for text in texts if text is not None), f".inst {word:#010x}")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_text_is_the_same_as_formatted_anew(row: Encoding) -> None:
    for place in (Place(), Place(0x10000FFC), Place(0xFFFFFFFFFFFFFFF8, Named()), Place(0x4000, Named())):
        for word in samples(row, 12):
            assert disassemble(word, place.address, place.names) == formatted(word, place)


def test_rows_that_share_their_top_bits_share_their_label() -> None:
    # Else disassemble could take the bits of the one's label for those of another's.
    assert len(LABELLED) > 20
    for row in LABELLED:
        label = reference(row)
        assert label is not None
        top = 0xFF000000 & ~label.mask
        for other in TABLE:
            if (row.value ^ other.value) & row.mask & other.mask & top == 0:
                assert other.mask & label.mask == 0, f"{other.name} fixes bits of the label of {row.name}"
                other_label = reference(other)
                assert other.is_hole or other_label is None or other_label == label, other.name


def test_the_labels_of_all_spellings_of_a_row_are_the_same() -> None:
    for row in LABELLED:
        label = reference(row)
        for text in row.texts:
            assert reference(replace(row, texts=(text,))) == label, text


@pytest.mark.parametrize("word", [-1, -(1 << 40), 1 << 32, 1 << 60])
def test_what_is_no_word_is_refused(word: int) -> None:
    with pytest.raises(EncodingError):
        disassemble(word)

"""The checker of the table: what must be true of every row, and of every two."""

from __future__ import annotations

import itertools
import random
import re

import numpy
import pytest

from a64patch.a64 import predicates
from a64patch.a64.assembler import assemble_one
from a64patch.a64.disassembler import disassemble
from a64patch.a64.encodings import BY_NAME, GENERAL, TABLE, VECTOR, Encoding, Flow, files_for, rows_for, rows_of
from a64patch.a64.operands import Place
from a64patch.a64.predicates import classify, decode
from a64patch.a64.tables.system import HINTS
from a64patch.a64.templates import templates
from tests.a64.test_differential import samples

PLACE = Place(0x10000000)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_row_is_whole(row: Encoding) -> None:
    covered = row.mask
    for field in row.fields.values():
        bits = (1 << field.width) - 1 << field.lsb
        assert covered & bits == 0, "a bit belongs to one field or is fixed"
        covered |= bits
    assert covered == 0xFFFFFFFF
    assert row.value & ~row.mask == 0
    named = {
        name for text in row.texts for operand in re.findall(r"<([^>]+)>", text) for name in operand.split(":")[1:]
    }
    assert named == set(row.fields) or row.is_hole, "every field is written in the text, and nothing else"
    assert BY_NAME[row.name] is row


def test_any_two_rows_are_disjoint_or_nested() -> None:
    for one, other in itertools.combinations(TABLE, 2):
        if one.overlaps(other):
            assert one.contains(other) != other.contains(one), f"{one.name} and {other.name}"


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_row_is_reachable_and_round_trips(row: Encoding) -> None:
    words = samples(row, 60)
    assert row.is_hole or any(decode(word) is row for word in words), "a row that no word reaches is dead"
    for word in words:
        found = decode(word)
        if found is None:
            assert disassemble(word) == f".inst {word:#010x}"
            continue
        assert row.contains(found)
        text = disassemble(word, 0x10000000)
        assert assemble_one(text, 0x10000000) == word, text
        assert assemble_one(text.upper().replace(", ", " ,  "), 0x10000000) == word, text
        values = {name: field.get(word) for name, field in row.fields.items()}
        assert all(t.format(values, PLACE) is None or t.parse(t.format(values, PLACE) or "", PLACE) == word
                   for t in templates(row))  # fmt: skip


def test_every_field_of_every_row_round_trips() -> None:
    """Each field exhaustively up to seven bits, a wider one at its borders, the others as in two samples of the row."""
    for row in TABLE:
        for base in samples(row, 4)[2:]:
            for field in row.fields.values():
                last = (1 << field.width) - 1
                values = range(last + 1) if field.width <= 7 else (0, 1, last // 2, last // 2 + 1, last - 1, last)
                for value in values:
                    word = base & ~(last << field.lsb) | value << field.lsb
                    assert assemble_one(disassemble(word, 0x10000000), 0x10000000) == word, row.name


def test_every_hint_has_its_number() -> None:
    for name, (number, _) in HINTS.items():
        assert BY_NAME[name.replace(" ", "_")].value == 0xD503201F | number << 5


def test_every_row_is_in_a_file_that_its_words_are_looked_for_in() -> None:
    for file in (*GENERAL, *VECTOR):
        for row in rows_of(file):
            for group in range(16):
                if (row.value ^ group << 25) & row.mask & 0xF << 25 == 0:
                    assert file in files_for(group << 25), row.name


def test_a_word_is_compared_with_few_rows() -> None:
    candidates = [rows_for(top, 11) for top in range(1 << 11)]
    assert set().union(*candidates) == set(TABLE)
    assert sum(map(len, candidates)) < 4 << 11
    for row in TABLE:
        assert row in rows_for(row.value >> 24, 8)
        assert row in rows_for((row.value | ~row.mask & 0xFFFFFFFF) >> 21, 11)


def test_the_bits_by_which_a_predicate_rejects_a_word_are_those_of_all_its_rows() -> None:
    found = {name: value for name, value in vars(predicates).items() if isinstance(value, predicates.Predicate)}
    quick = {name: predicate for name, predicate in found.items() if predicate.fixed[0]}
    assert {"is_adrp", "is_load_ex", "is_store_ex"} <= quick.keys()
    for name, predicate in quick.items():
        mask, value = predicate.fixed
        assert predicate.rows, name
        for row in predicate.rows:
            assert (row.mask & mask, row.value & mask) == (mask, value), (name, row.name)


def test_flow_of_branches() -> None:
    flows = {name: BY_NAME[name].flow for name in ("b", "bl", "blr", "ret", "br", "svc", "nop", "eret", "cbz")}
    assert flows == {
        "b": Flow.BRANCH, "bl": Flow.CALL, "blr": Flow.CALL, "ret": Flow.RETURN, "br": Flow.BRANCH,
        "svc": Flow.EXCEPTION, "nop": Flow.NEXT, "eret": Flow.EXCEPTION, "cbz": Flow.BRANCH,
    }  # fmt: skip
    assert all(row.conditional == ("imm26" not in row.fields) for row in TABLE if "branch_imm" in row.families)


def test_classify_is_decode_of_arrays() -> None:
    source = random.Random(3)
    words = [word for row in TABLE for word in samples(row, 30)] + [source.getrandbits(32) for _ in range(20000)]
    rows = classify(numpy.array(words, numpy.uint32).reshape(2, -1) if len(words) % 2 == 0 else numpy.array(words))
    for word, index in zip(words, rows.ravel().tolist(), strict=True):
        assert decode(word) is (TABLE[index] if index >= 0 else None)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("rcwscasa x0, x1, [x4]", 0x59A00881),
        ("rcwscasl x3, x5, [sp]", 0x59630BE5),
        ("rcwcasp x0, x1, x6, x7, [x4]", 0x19200C86),
        ("rcwclr x0, x0, [x0]", 0x38209000),
        ("rcwsswppa x1, x0, [x4]", 0x59A0A081),
        ("rcwsswppal x1, x0, [x4]", 0x59E0A081),
        ("cbbge w5, w3, .-1024", 0x7423A005),
        ("rprfm pldkeep, x0, [x0]", 0xF8A04818),
        ("rprfm pststrm, x2, [x1]", 0xF8A2483D),
        ("rprfm #10, x2, [sp]", 0xF8A25BFA),
        ("rprfm #34, x2, [x1]", 0xF8A2C83A),
        ("rprfm #23, x3, [x4]", 0xF8A3689F),
        ("retaasppc .", 0x5500001F),
        ("cbgt w0, #0, .", 0x75000000),
    ],
)
def test_words_that_llvm_publishes_and_debian_12_does_not_know(text: str, word: int) -> None:
    assert assemble_one(text) == word
    assert assemble_one(disassemble(word)) == word

"""Where words refer to, one at a time and in whole arrays, against GNU objdump."""

from __future__ import annotations

import re
from random import Random

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.a64.encodings import BY_NAME, TABLE
from a64patch.a64.generate import gen_branch_imm, gen_comp_branch_imm, gen_nop
from a64patch.a64.predicates import decode, is_bl
from a64patch.a64.references import (
    ReferenceKind,
    adr_targets,
    branch_targets,
    branches_into,
    call_targets,
    calls_to,
    literal_addresses,
    reference,
)
from tests.a64.references import objdump

KERNEL = 0xFFFF_8000_8123_4000
REFERRING = [row for row in TABLE if reference(row)]
OBJDUMP_KNOWS = [row for row in REFERRING if row.feature not in ("FEAT_CMPBR", "FEAT_PAuth_LR")]
ARRAYS = {
    ReferenceKind.BRANCH: branch_targets,
    ReferenceKind.LITERAL: literal_addresses,
    ReferenceKind.ADDRESS: adr_targets,
}


def random_words(names: list[str], count: int, seed: int) -> list[int]:
    random = Random(seed)
    rows = [BY_NAME[name] for name in names]
    words = [row.value | random.getrandbits(32) & ~row.mask for row in rows for _ in range(count)]
    return [word for word in words if (row := decode(word)) and row.name in names]


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_targets_seen_by_objdump(kind: ReferenceKind) -> None:
    names = [row.name for row in OBJDUMP_KNOWS if (found := reference(row)) and found.kind is kind]
    assert names
    words = random_words(names, 200, seed=5)
    targets, valid = ARRAYS[kind](numpy.array(words, numpy.uint32), KERNEL)
    assert valid.all()
    for text, target in zip(objdump(words, KERNEL), targets.tolist(), strict=True):
        shown = re.search(r"(0x)?([0-9a-f]+)$", text)
        assert shown is not None
        assert int(shown[2], 16) == target, text


def test_every_label_of_the_table_is_a_reference() -> None:
    """A row that names an address in a way that references.py does not read would be moved as if it named none."""
    for row in TABLE:
        has_label = any("label" in text or "<adr" in text for text in row.texts)
        assert (reference(row) is not None) == has_label, row.name
        assert (row.literal or "branch_imm" in row.families) <= has_label, row.name
    assert {row.name for row in REFERRING} >= {"b", "tbz", "adr", "adrp", "ldr_lit.x", "prfm_lit", "retaasppc"}


def test_signatures_lie_behind() -> None:
    found = reference(BY_NAME["retaasppc"])
    assert found is not None
    assert found.kind is ReferenceKind.SIGNATURE
    assert found.reach == (-4 * 0xFFFF, 0)
    assert found.target(BY_NAME["retaasppc"].value | 3 << 5, 0x1000) == 0xFF4
    assert not branch_targets(numpy.array([BY_NAME["retaasppc"].value | 3 << 5], numpy.uint32), 0x1000)[1].any()


@given(
    st.lists(st.one_of(st.integers(0, 0xFFFFFFFF), st.sampled_from(REFERRING).map(lambda row: row.value)), max_size=40),
    st.integers(0, (1 << 62) - 1).map(lambda n: 4 * n),
)
def test_arrays_agree_with_single_words(words: list[int], address: int) -> None:
    array = numpy.array(words, numpy.uint32)
    for kind, function in ARRAYS.items():
        targets, valid = function(array, address)
        assert targets.dtype == numpy.uint64
        for index, word in enumerate(words):
            row = decode(word)
            found = reference(row) if row else None
            at = (address + 4 * index) % (1 << 64)
            expected = found.target(word, at) if found and found.kind is kind else None
            assert bool(valid[index]) == (expected is not None)
            assert int(targets[index]) == (expected or 0)


def test_pieces_are_joined() -> None:
    count = 200_000
    words = numpy.full(count, gen_nop(), numpy.uint32)
    for index in (0, 65_535, 65_536, 131_072, count - 1):
        at = KERNEL + 4 * index
        words[index] = gen_branch_imm(at, KERNEL + 0x100, link=index % 2 == 1)
    targets, valid = branch_targets(words, KERNEL)
    assert call_targets(words, KERNEL).tolist() == targets[is_bl(words)].tolist() == [KERNEL + 0x100] * 2
    assert numpy.flatnonzero(valid).tolist() == [0, 65_535, 65_536, 131_072, count - 1]
    assert set(targets[valid].tolist()) == {KERNEL + 0x100}
    found = branches_into(words, KERNEL, KERNEL + 0x100, KERNEL + 0x104)
    assert found.tolist() == [KERNEL + 4 * index for index in (0, 65_535, 65_536, 131_072, count - 1)]


def test_who_branches_into_a_range() -> None:
    at = KERNEL
    words = [
        gen_branch_imm(at, at + 0x40),
        gen_comp_branch_imm(at + 4, at + 0x44, 3),
        gen_branch_imm(at + 8, at + 0x48, link=True),
        gen_branch_imm(at + 12, at + 0x3C),
        gen_nop(),
    ]
    array = numpy.array(words, numpy.uint32)
    assert branches_into(array, at, at + 0x40, at + 0x48).tolist() == [at, at + 4]
    assert branches_into(array, at, at + 0x48, at + 0x4C).tolist() == [at + 8]
    assert branches_into(array, at, at + 0x40, at + 0x40).tolist() == []
    assert branches_into(array, at, at + 0x44, at + 0x40).tolist() == []
    assert branches_into(array[:0], at, at, at + 4).tolist() == []
    assert calls_to(array, at, at + 0x48).tolist() == [at + 8]
    assert calls_to(array, at, at + 0x44).tolist() == calls_to(array, at, at + 0x40).tolist() == []


def test_addresses_wrap_around() -> None:
    array = numpy.array([gen_branch_imm(8, 0), gen_branch_imm(0, 8)], numpy.uint32)
    assert branch_targets(array, 0)[0].tolist() == [(1 << 64) - 8, 12]
    assert branch_targets(array, (1 << 64) - 4)[0].tolist() == [(1 << 64) - 12, 8]
    assert branches_into(array, 0, (1 << 64) - 8, (1 << 64) - 4).tolist() == [0]

"""The walk of translation tables: every granule, 52-bit addresses, rights, loops, garbage."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.errors import CapabilityError, FormatError
from a64patch.kernel import page_tables
from a64patch.kernel.page_tables import Mapping, Regime, Registers, executable_mappings
from tests.kernel.page_tables import (
    ACCESSED,
    CODE,
    CONTIGUOUS,
    DIRTY_MANAGED,
    FORMS,
    PXN,
    READ_ONLY,
    TABLE,
    TABLE_NO_USER,
    TABLE_PXN,
    TABLE_READ_ONLY,
    TABLE_UXN,
    TCR_EPD1,
    TCR_HA,
    TCR_HD,
    TCR_HPD1,
    USER,
    UXN,
    VALID,
    Form,
    Tables,
)

USUAL = next(form for form in FORMS if form.name == "4K, 48 bits")
FAR = 0x4_0000_0000_0000
"""A physical address that needs more than 48 bits. A multiple of every block."""


def walked(tables: Tables, tcr: int = 0, above: int = 0, **others: int) -> list[Mapping]:
    registers = Registers(tables.ttbr, tables.form.tcr | tcr, **others)
    return list(executable_mappings(registers, tables.read, above=above))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_pages_and_blocks_of_every_form(form: Form) -> None:
    tables = Tables(form)
    away = 0 if form.physical == "48" else FAR
    places = []
    for above in range(form.blocks + 1):
        size = form.bytes_at(above)
        # At the very end of the address space, and so far before that nothing adjoins.
        place = (1 << 64) - size if not above else form.start + above * form.bytes_at(min(above + 1, form.blocks)) * 2
        place = min(place, (1 << 64) - size) // size * size
        tables.map(place, away + size, above=above)
        places.append(Mapping(place, place + size, away + size, writable=False))
    assert walked(tables) == sorted(places)
    assert len(tables.reads) == len(form.levels), "one call a level"
    assert len({place for call in tables.reads for place, _ in call}) == len(tables.memory)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_block_where_there_is_none_is_not_mapped(form: Form) -> None:
    for above in range(form.blocks + 1, len(form.levels)):
        tables = Tables(form)
        tables.map(form.start, 0, above=above)
        assert walked(tables) == []
    tables = Tables(form)
    table, index = tables.slot(form.start)
    table[index] = CODE  # bit 1 is clear: reserved in the last level
    assert walked(tables) == []


@st.composite
def some_pages(draw: st.DrawFn) -> tuple[Form, dict[int, tuple[int, bool]]]:
    """A form, and for some numbers of pages the physical page and whether it is writable."""
    form = draw(st.sampled_from(FORMS))
    last = (1 << 64 - form.size - form.page) - 1
    near = draw(st.integers(0, max(0, last - 64)))
    numbers = st.one_of(st.integers(0, last), st.integers(near, near + 32))
    most = (1 << (48 if form.physical == "48" else 52) - form.page) - 1
    return form, draw(st.dictionaries(numbers, st.tuples(st.integers(0, most), st.booleans()), max_size=40))


@given(some_pages())
def test_what_was_mapped_is_found(made: tuple[Form, dict[int, tuple[int, bool]]]) -> None:
    form, pages = made
    tables = Tables(form)
    expected: list[list[int]] = []
    for number, (physical, writable) in sorted(pages.items()):
        start = form.start + (number << form.page)
        tables.map(start, physical << form.page, CODE & ~READ_ONLY if writable else CODE)
        if expected and expected[-1][1] == start and expected[-1][3] == writable:
            expected[-1][1] += 1 << form.page
        else:
            expected.append([start, start + (1 << form.page), physical << form.page, writable])
    assert [list(each) for each in walked(tables)] == expected


@pytest.mark.parametrize(
    ("bits", "tcr", "writable"),
    [
        (CODE, 0, False),
        (CODE | CONTIGUOUS, 0, False),
        (CODE & ~UXN, 0, False),
        (CODE & ~READ_ONLY, 0, True),
        (CODE | DIRTY_MANAGED, 0, False),
        (CODE | DIRTY_MANAGED, TCR_HD, True),
        (CODE | USER, 0, False),
        ((CODE | USER) & ~READ_ONLY, 0, None),
        (CODE | USER | DIRTY_MANAGED, TCR_HD, None),
        (CODE | PXN, 0, None),
        (CODE & ~VALID, 0, None),
        (CODE & ~ACCESSED, 0, None),
        (CODE & ~ACCESSED, TCR_HA, False),
    ],
)
@pytest.mark.parametrize("above", [0, 1])
def test_the_rights_of_a_page_and_a_block(bits: int, tcr: int, writable: bool | None, above: int) -> None:
    tables = Tables(USUAL)
    tables.map(USUAL.start, 0x200000, bits, above)
    assert [each.writable for each in walked(tables, tcr)] == ([] if writable is None else [writable])


@pytest.mark.parametrize(
    ("table_bits", "bits", "tcr", "writable"),
    [
        (TABLE_PXN, CODE, 0, None),
        (TABLE_PXN, CODE, TCR_HPD1, False),
        (TABLE_UXN, CODE, 0, False),
        (TABLE_READ_ONLY, CODE & ~READ_ONLY, 0, False),
        (TABLE_READ_ONLY, CODE & ~READ_ONLY, TCR_HPD1, True),
        (TABLE_READ_ONLY, CODE & ~READ_ONLY | USER, 0, False),
        (TABLE_NO_USER, CODE & ~READ_ONLY | USER, 0, True),
        (TABLE_NO_USER, CODE & ~READ_ONLY | USER, TCR_HPD1, None),
    ],
)
def test_a_table_limits_the_rights_below_it(table_bits: int, bits: int, tcr: int, writable: bool | None) -> None:
    for above in (0, 1, 2):
        tables = Tables(USUAL)
        tables.map(USUAL.start, 0, bits, above=above, table_bits=table_bits)
        assert [each.writable for each in walked(tables, tcr)] == ([] if writable is None else [writable])


def test_what_cannot_be_executed_is_not_read() -> None:
    """A linear map of 128 GiB in pages of 4 KiB, with PXNTable, costs nothing."""
    tables = Tables(USUAL)
    for gigabyte in range(128):
        tables.map(USUAL.start + (gigabyte << 30), 0, CODE | PXN, above=1, table_bits=TABLE_PXN)
    tables.map(USUAL.start + (1 << 47), 0x1000)
    assert len(walked(tables)) == 1
    assert [len(call) for call in tables.reads] == [1, 1, 1, 1]


def test_nothing_below_the_given_address_is_followed() -> None:
    tables = Tables(USUAL)
    middle = USUAL.start + (1 << 47)
    for place in (USUAL.start, middle - 0x1000, middle, (1 << 64) - 0x1000):
        tables.map(place, 0x1000)
    assert [each.start for each in walked(tables, above=middle)] == [middle, (1 << 64) - 0x1000]
    assert [len(call) for call in tables.reads] == [1, 2, 2, 2]
    assert next(each.start for each in walked(tables, above=middle - 1)) == middle - 0x1000
    assert len(walked(tables)) == 3


def test_pages_that_adjoin_are_one_range_over_the_borders_of_tables() -> None:
    tables = Tables(USUAL)
    border = USUAL.start + (1 << 39)
    for number in range(-3, 3):
        tables.map(border + 0x1000 * number, 0x70000 + 0x3000 * number)
    assert walked(tables) == [Mapping(border - 0x3000, border + 0x3000, 0x67000, writable=False)]


def test_neither_asid_nor_cnp_belongs_to_the_address() -> None:
    for form in FORMS:
        tables = Tables(form)
        tables.map(form.start, 0)
        found = executable_mappings(Registers(tables.ttbr | 0xABCD << 48 | 1, form.tcr), tables.read)
        assert [each.start for each in found] == [form.start]


def test_a_page_that_users_may_write_takes_none_of_its_neighbours_with_it() -> None:
    tables = Tables(USUAL)
    for number, user in enumerate((0, USER, 0)):
        tables.map(USUAL.start + 0x1000 * number, 0, CODE & ~READ_ONLY | user)
    assert [each.start for each in walked(tables)] == [USUAL.start, USUAL.start + 0x2000]


def test_lpa2_has_no_bit_for_pages_of_64_kib() -> None:
    form = next(form for form in FORMS if form.name == "64K, 52 bits, LPA")
    tables = Tables(form)
    tables.map(form.start, FAR | 0x1_0000_0000_0000)
    assert walked(tables, 1 << 59) == walked(tables) != []


@pytest.mark.parametrize(("sctlr", "code"), [(0, 2), (1 << 19, 1)])
def test_what_is_writable_is_not_executed_with_wxn(sctlr: int, code: int) -> None:
    tables = Tables(USUAL)
    tables.map(USUAL.start, 0)
    tables.map(USUAL.start + 0x1000, 0, CODE & ~READ_ONLY)
    assert len(walked(tables, sctlr=sctlr)) == code


def test_the_tables_of_a_big_endian_kernel() -> None:
    tables = Tables(USUAL, big_endian=True)
    tables.map(USUAL.start, 0)
    assert len(walked(tables, sctlr=1 << 25)) == 1


PIE = 1 << 1
LINUX_PIR = 0xE << 4 * 0b1010 | 0xA << 4 * 0b1000 | 0xC << 4 * 0b1110 | 0x8 << 4 * 0b1100
"""What Linux makes of UXN, PXN, DBM and AP[1] for itself (PIE_E1 in pgtable-prot.h): RWX, RX, RW, R."""


@pytest.mark.parametrize(
    ("bits", "tcr", "pir", "pire0", "writable"),
    [
        (CODE, 0, LINUX_PIR, 0, False),
        ((CODE | DIRTY_MANAGED) & ~READ_ONLY, 0, LINUX_PIR, 0, True),
        (CODE | DIRTY_MANAGED, 0, LINUX_PIR, 0, False),  # nDirty
        (CODE | DIRTY_MANAGED, TCR_HD, LINUX_PIR, 0, True),
        (CODE | PXN, 0, LINUX_PIR, 0, None),
        (CODE | PXN | DIRTY_MANAGED, 0, LINUX_PIR, 0, None),
        (CODE | PXN, 0, 0xA << 4 * 0b1100, 0, False),
        (CODE, 0, 0, 0, None),
        (CODE, 0, LINUX_PIR, 0xC << 4 * 0b1000, None),  # EL0 may write
        (CODE, 0, LINUX_PIR, 0x9 << 4 * 0b1000, None),  # EL0 has a stack there
        (CODE, 0, LINUX_PIR, 0x8 << 4 * 0b1000, False),
        *((CODE & ~READ_ONLY, 0, value << 32, 0, None) for value in (0x1, 0x4, 0x5, 0x6, 0x8, 0x9, 0xB, 0xC, 0xD, 0xF)),
        *((CODE & ~READ_ONLY, 0, value << 32, 0, value in (0x7, 0xE)) for value in (0x2, 0x3, 0x7, 0xA, 0xE)),
    ],
)
def test_indirect_rights(bits: int, tcr: int, pir: int, pire0: int, writable: bool | None) -> None:
    """A table has none of its own then, and WXN is a matter of PIR_EL1."""
    tables = Tables(USUAL)
    tables.map(USUAL.start, 0x200000, bits, table_bits=TABLE_PXN | TABLE_READ_ONLY)
    found = walked(tables, tcr, sctlr=1 << 19, tcr2=PIE, pir=pir, pire0=pire0)
    assert [each.writable for each in found] == ([] if writable is None else [writable])


@pytest.mark.parametrize("tcr2", [1 << 3, 1 << 5])
def test_tables_of_a_form_that_is_not_understood_are_refused(tcr2: int) -> None:
    with pytest.raises(CapabilityError, match="TCR2_EL1"):
        walked(Tables(USUAL), tcr2=tcr2)


@pytest.mark.parametrize(
    "tcr",
    [
        0,
        0 << 30 | 16 << 16,  # no granule
        2 << 30 | 15 << 16,  # 49 bits without LPA2
        1 << 30 | 15 << 16,
        3 << 30 | 11 << 16,
        2 << 30 | 11 << 16 | 1 << 59,
        2 << 30 | 49 << 16,
        3 << 30 | 48 << 16,
        2 << 30 | 16 << 16 | TCR_EPD1,
    ],
)
def test_senseless_values_of_tcr_are_refused(tcr: int) -> None:
    with pytest.raises(FormatError, match=r"TCR_EL1 0x[0-9a-f]+ (describes no|turns off)"):
        executable_mappings(Registers(0, tcr), lambda _: pytest.fail("there is nothing to read"))


@pytest.mark.parametrize("granule", [1, 2, 3])
def test_every_size_of_the_address_space_has_a_first_level(granule: int) -> None:
    for size in range(65):
        try:
            regime = Regime.of(Registers(0, granule << 30 | size << 16 | 6 << 32 | 1 << 59))
        except FormatError:
            continue
        assert -1 <= regime.first_level <= 3
        assert 16 <= regime.table_bytes(regime.first_level) <= 1 << regime.granule
        for level in range(regime.first_level + 1, 4):
            assert regime.table_bytes(level) == 1 << regime.granule


# Loops and garbage: time and memory are bounded, which is counted, not measured.


def read_bytes(tables: Tables) -> int:
    return sum(size for call in tables.reads for _, size in call)


def test_a_table_with_many_users_is_read_once() -> None:
    """As KASAN's early shadow: one table a level, referred to by all descriptors of the level before."""
    tables = Tables(USUAL)
    tables.map(USUAL.start, 0x5000)
    for table in list(tables.memory.values())[:-1]:
        table[:] = table[:1] * 512
    with pytest.raises(FormatError, match="more than"):
        walked(tables)  # 2**27 separate pages
    assert [len(call) for call in tables.reads] == [1, 1, 1, 1]
    last = list(tables.memory.values())[-1]
    last[:] = [CODE | TABLE | PXN] * 512
    assert walked(tables) == []
    last[:] = [CODE | TABLE] * 512
    assert walked(tables) == [Mapping(USUAL.start, 1 << 64, 0, writable=False)]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_table_that_refers_to_itself_is_read_once_a_level(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_tables, "MOST_PIECES", 1 << 14)
    tables = Tables(form)
    place = tables.new(1 << form.page - 3)
    itself = VALID | TABLE | ACCESSED | form.written(place)
    tables.memory[tables.root][0] = itself
    tables.memory[place][-1] = itself
    end = form.start + form.bytes_at(len(form.levels) - 1)
    assert [(each.start, each.end) for each in walked(tables)] == [(end - (1 << form.page), end)]
    assert [len(call) for call in tables.reads] == [1] * len(form.levels)
    tables.memory[place][::2] = [itself] * (1 << form.page - 4)
    if len(form.levels) > 2:
        with pytest.raises(FormatError, match="more than 16384 pieces"):
            walked(tables)
    assert {len(call) for call in tables.reads} == {1}


def test_more_tables_than_a_walk_reads_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = Tables(USUAL)
    for number in range(20):
        tables.map(USUAL.start + (number << 21), 0)
    monkeypatch.setattr(page_tables, "MOST_BYTES", 23 * 4096)
    assert len(walked(tables)) == 20
    before = len(tables.reads)
    monkeypatch.setattr(page_tables, "MOST_BYTES", 23 * 4096 - 1)
    with pytest.raises(FormatError, match=f"more than {23 * 4096 - 1} bytes"):
        walked(tables)
    assert [len(call) for call in tables.reads[before:]] == [1, 1, 1]


def test_the_pieces_of_a_walk_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = Tables(USUAL)
    for number in range(20):
        tables.map(USUAL.start + 0x2000 * number, 0)
    monkeypatch.setattr(page_tables, "MOST_PIECES", 80)
    assert len(walked(tables)) == 20
    monkeypatch.setattr(page_tables, "MOST_PIECES", 79)
    with pytest.raises(FormatError, match="more than 79 pieces"):
        walked(tables)


@given(
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 1 << 32),
    density=st.sampled_from((2, 16, 256)),
    ttbr=st.integers(0, (1 << 64) - 1),
)
def test_garbage_is_read_within_bounds(form: Form, seed: int, density: int, ttbr: int) -> None:
    numbers = random.Random(seed)
    calls: list[int] = []

    def read(requests: Sequence[tuple[int, int]]) -> list[bytes]:
        calls.append(sum(size for _, size in requests))
        return [
            b"".join(numbers.randbytes(8) if not numbers.randrange(density) else bytes(8) for _ in range(0, size, 8))
            for _, size in requests
        ]

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(page_tables, "MOST_BYTES", 1 << 19)
        patches.setattr(page_tables, "MOST_PIECES", 1 << 12)
        try:
            found = executable_mappings(Registers(ttbr, form.tcr), read)
        except FormatError:
            found = ()
    assert sum(calls) <= 1 << 19
    assert len(calls) <= len(form.levels)
    assert all(form.start <= each.start < each.end <= 1 << 64 for each in found)
    assert all(one.end <= other.start for one, other in itertools.pairwise(found))


def test_a_short_answer_is_refused() -> None:
    with pytest.raises(FormatError, match="a translation table has 4096 bytes, and 8 were read"):
        executable_mappings(Registers(0, USUAL.tcr), lambda _: [bytes(8)])


def test_a_mapping_is_shown_for_people() -> None:
    assert repr(Mapping(0x1000, 0x2000, 0x40000000, writable=True)) == "<Mapping 0x1000-0x2000 at 0x40000000 writable>"

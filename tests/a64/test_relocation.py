"""Moved instructions: against the same source linked elsewhere by GNU ld, executed at both places, and refused.

Read on: test_references.py for what a word refers to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from a64patch import a64
from a64patch.a64 import generate
from a64patch.a64.encodings import BY_NAME, TABLE
from a64patch.a64.predicates import decode
from a64patch.a64.references import ReferenceKind, reference
from a64patch.a64.relocation import relocate, relocate_block
from a64patch.a64.row import Encoding
from a64patch.a64.words import from_bytes, to_bytes
from a64patch.errors import A64PatchError, AlignmentError, EncodingError, UnmovableError
from tests.a64.references import gnu_as, objdump
from tests.support import assemble, link, need, run

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
FROM = 0x40_0001_0000
NOP = generate.gen_nop()
B, BL = generate.gen_branch_imm(0, 0), generate.gen_branch_imm(0, 0, link=True)

REFERRING = [row for row in TABLE if reference(row)]


def refer(row: Encoding, address: int, target: int) -> int:
    found = reference(row)
    assert found is not None
    return found.encode(row.value, address, target)


# Against the linker

CONDITIONS = ("eq", "ne", "hs", "lo", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le", "al")
SOURCE = "\n".join(
    [
        *(f"{text}" for symbol in ("low", "near", "high") for text in (
            f"b {symbol}", f"bl {symbol}", *(f"b.{condition} {symbol}" for condition in CONDITIONS),
            f"cbz x3, {symbol}", f"cbnz w30, {symbol}", f"tbz x5, 63, {symbol}", f"tbnz w6, 3, {symbol}",
            f"adr x9, {symbol}", f"adr xzr, {symbol} + 1", f"adrp x10, {symbol}", f"ldr w1, {symbol}",
            f"ldr x2, {symbol}", f"ldrsw x3, {symbol}", f"ldr s4, {symbol}", f"ldr d5, {symbol}", f"ldr q6, {symbol}",
            f"prfm pldl1keep, {symbol}",
        )),
        "nop", "ret", "br x16", "blr x17", "svc 0", "add x0, x1, #2", "ldr x0, [x1, #8]", "mrs x0, tpidr_el0",
        "fadd d0, d1, d2", "mov x0, #0x1234", "dmb ish", "ldxr x0, [x1]", "sub x1, x2, x3, lsl #3",
    ]
)  # fmt: skip
INNER = """
        cbz x0, 2f
1:      b.ne 1b
        tbz x1, 5, 3f
        bl 2f
        ldr x3, 4f
        adr x4, 5f
        b near
2:      adrp x2, near
        bl near
        b 1b
4:      .quad 0x1400000114000001
5:      ldr q0, 6f
        b end
6:      .quad 0x1000000010000000, 0x1400000090000000
3:      tbnz w1, 2, end
end:
"""


def linked(source: str, address: int, folder: Path) -> list[int]:
    """The words of `source`, linked by GNU ld to stand at `address`."""
    unit = assemble(f".arch armv8.5-a\n.globl _start\n_start:\n{source}\n", folder / "unit.o")
    symbols = {"low": 0x40_4000, "near": 0x40_8ABC, "high": 0x40_D000}
    options = [f"--defsym={name}={value:#x}" for name, value in symbols.items()]
    program = link(unit, folder / f"at_{address:x}", f"-Ttext={address:#x}", *options)
    binary = folder / "text.bin"
    run(need("aarch64-linux-gnu-objcopy", "binutils-aarch64-linux-gnu"), "-O", "binary", "-j", ".text", program, binary)
    return from_bytes(binary.read_bytes())


PLACES = (0x40_8000, 0x40_9004, 0x40_7FFC, 0x40_A000, 0x40_BAC0)


@pytest.mark.parametrize("to", PLACES)
def test_words_are_those_that_gnu_ld_makes_there(to: int, tmp_path: Path) -> None:
    start = PLACES[0]
    before, after = linked(SOURCE, start, tmp_path), linked(SOURCE, to, tmp_path)
    assert len(before) == len(after) == len(SOURCE.splitlines())
    for offset, (word, expected) in enumerate(zip(before, after, strict=True)):
        moved = relocate(word, start + 4 * offset, to + 4 * offset, allow_erratum_843419=True)
        assert moved == expected, SOURCE.splitlines()[offset]


@pytest.mark.parametrize("to", PLACES)
def test_blocks_are_those_that_gnu_ld_makes_there(to: int, tmp_path: Path) -> None:
    before, after = linked(INNER, PLACES[0], tmp_path), linked(INNER, to, tmp_path)
    assert relocate_block(before, PLACES[0], to) == after


# Reach


@pytest.mark.parametrize("row", REFERRING, ids=lambda row: row.name)
def test_reach_is_used_to_its_ends_and_not_beyond(row: Encoding) -> None:
    found = reference(row)
    assert found is not None
    (low, high), unit = found.reach, max(abs(found.unit), 4)
    to = 0x7F_0000_0000
    for end, outwards in ((low, -1), (high, 1)):
        target = to + end
        # From somewhere near, where it is certainly in reach.
        here = to + end // 2 // unit * unit
        word = refer(row, here, target)
        assert relocate(word, here, to) == refer(row, to, target)
        assert relocate(relocate(word, here, to), to, here) == word
        for units in (1, 2, 1000):
            if end == 0:
                continue
            with pytest.raises(UnmovableError) as refusal:
                relocate(word, here, to - outwards * units * unit)
            distance, beyond = end + outwards * units * unit, units * unit
            assert f"{row.name} at {to - outwards * beyond:#x} cannot reach {target:#x}: {distance:+d}" in str(
                refusal.value
            )
            assert f" is {beyond} bytes beyond {end:+d}" in str(refusal.value)


def test_a_return_cannot_come_before_what_signed() -> None:
    word = refer(BY_NAME["retaasppc"], 0x2000, 0x1FF0)
    assert relocate(word, 0x2000, 0x1FF0) == refer(BY_NAME["retaasppc"], 0x1FF0, 0x1FF0)
    with pytest.raises(UnmovableError, match=r"retaasppc at 0x1fec cannot reach 0x1ff0: \+4 is 4 bytes beyond \+0"):
        relocate(word, 0x2000, 0x1FEC)


def test_adrp_counts_pages() -> None:
    word = generate.gen_adr(FROM + 0xFF0, FROM + 0x5123, 3, page=True)
    assert relocate(word, FROM + 0xFF0, FROM) == word
    assert relocate(word, FROM + 0xFF0, FROM + 0x1000) == generate.gen_adr(FROM + 0x1000, FROM + 0x5000, 3, page=True)


def test_addresses_wrap_around_as_the_pc_does() -> None:
    word = generate.gen_branch_imm(4, 0)
    assert relocate(word, 0, 8) == generate.gen_branch_imm(12, 0), "to the last word of the address space"
    assert relocate(B, (1 << 64) - 8, 8) == generate.gen_branch_imm(16, 0)
    assert relocate_block([NOP, word], (1 << 64) - 4, 16) == [NOP, generate.gen_branch_imm(20, 16)]


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_moving_back_restores_every_word(word: int, start: int, to: int) -> None:
    here, there = FROM + 4 * start, FROM + 4 * to
    try:
        moved = relocate(word, here, there, allow_erratum_843419=True)
    except UnmovableError:
        return
    assert relocate(moved, there, here, allow_erratum_843419=True) == word
    row, after = decode(word), decode(moved)
    assert row is after, "the kind of instruction never changes"
    if row is None or reference(row) is None:
        assert moved == word


# Refusals


@pytest.mark.parametrize("name", ["paciasppc", "pacibsppc", "pacnbiasppc", "pacnbibsppc", "pacm"])
def test_what_signs_with_its_own_address_stays(name: str) -> None:
    with pytest.raises(UnmovableError, match=f"{name} at 0x1000 signs with its own address"):
        relocate(BY_NAME[name].value, 0x1000, 0x2000)


def test_instructions_that_use_the_pc_have_a_reference_or_are_refused() -> None:
    """The names of the manual (C6.2) whose operation reads PC or PC64; the table may not know them all yet."""
    users = {"adr", "adrp", "autiasppc", "autibsppc", "retaasppc", "retabsppc", "prfm_lit", "ldrsw_lit", "ldr_lit.x"}
    assert not {name for name in users & BY_NAME.keys() if reference(BY_NAME[name]) is None}


@pytest.mark.parametrize(
    ("word", "group"),
    [
        (0xDC000000, r"Load register \(literal\)"),
        (0x56000000, "Branches, Exception Generating and System instructions"),
        (0xD4FFFFFF, "Branches, Exception Generating and System instructions"),
        (0x55FFFFFF, "Branches, Exception Generating and System instructions"),
        (0x5AC1FFFF, r"Data-processing \(1 source\)"),
        (0xF3FFFFFF, r"Data-processing \(1 source immediate\)"),
        (0x02000000, "Reserved or unallocated"),
        (0x00FFFFFF, "Reserved or unallocated"),
        (0x67FFFFFF, "Reserved or unallocated"),
    ],
)
def test_an_unknown_word_that_may_use_the_pc_is_refused(word: int, group: str) -> None:
    assert decode(word) is None
    with pytest.raises(UnmovableError, match=f"{word:#010x} at 0x1000 is an unknown instruction .*{group}.*C4.1"):
        relocate(word, 0x1000, 0x2000)
    with pytest.raises(UnmovableError, match=group):
        relocate_block([NOP, word], 0xFFC, 0x2000)


@pytest.mark.parametrize("word", [0x04000000, 0x80800000, 0xC0000000, 0x9BFFFFFF, 0x0E000000, 0xF87FFFFF, 0x1E60FFFF])
def test_a_word_of_any_other_group_stays_as_it_is(word: int) -> None:
    assert relocate(word, 0x1000, 0x2000) == word
    assert relocate_block([word], 0x1000, 0x2000) == [word]


@pytest.mark.parametrize("offset", [0xFF8, 0xFFC])
def test_adrp_is_kept_from_where_the_erratum_strikes(offset: int) -> None:
    word = generate.gen_adr(FROM, FROM, 3, page=True)
    with pytest.raises(UnmovableError, match=f"page offset {offset:#x}, is subject to Cortex-A53 erratum 843419"):
        relocate(word, FROM, FROM + offset)
    with pytest.raises(UnmovableError, match="erratum 843419"):
        relocate_block([word], FROM, FROM + offset)
    with pytest.raises(UnmovableError, match="erratum 843419"):
        relocate_block([generate.gen_adr(FROM, FROM + 0x800, 3)], FROM, FROM + 2 * MIB + offset)
    far = FROM + 2 * MIB + offset
    code = relocate_block([generate.gen_adr(FROM, FROM + 0x800, 3)], FROM, far, allow_erratum_843419=True)
    assert relocate(word, FROM, FROM + offset, allow_erratum_843419=True) == word
    assert code == [generate.gen_adr(far, FROM, 3, page=True), generate.gen_add_sub_imm(3, 3, 0x800)]
    assert relocate(generate.gen_adr(FROM, FROM, 3), FROM, FROM + offset), "ADR is not subject to it"


@pytest.mark.parametrize("move", [relocate, lambda word, *rest: relocate_block([word], *rest)])
def test_addresses_and_words_must_be_such(move: Callable[..., Any]) -> None:
    for start, to in ((1, 0), (0, 2), (4, 7)):
        with pytest.raises(AlignmentError):
            move(NOP, start, to)
    for start, to in ((-4, 0), (0, 1 << 64)):
        with pytest.raises(EncodingError, match="64 bits"):
            move(NOP, start, to)
    for word in (-1, 1 << 32):
        with pytest.raises(EncodingError):
            move(word, 0, 4)


def test_the_error_is_a_value_error() -> None:
    assert issubclass(UnmovableError, A64PatchError)
    assert issubclass(UnmovableError, ValueError)
    assert a64.relocate is relocate
    assert a64.relocate(NOP, 0, 4) == a64.relocate(NOP, 0, 4) == NOP
    assert a64.relocate_block is relocate_block


@pytest.mark.parametrize("scratch", [0, 15, 18, 30, 31, -1])
def test_scratch_is_a_register_that_calls_may_corrupt(scratch: int) -> None:
    with pytest.raises(EncodingError, match="must be 16 or 17"):
        relocate_block([NOP], 0, 4, scratch=scratch)


# Blocks: what is inside


def test_branches_in_and_to_the_end_of_the_block_move_along() -> None:
    """A kernel before 5679b2814219 moved the targets of inner branches away from the block."""
    before = [
        generate.gen_branch_imm(FROM, FROM + 12),
        generate.gen_cond_branch_imm(FROM + 4, FROM, "ne"),
        generate.gen_branch_imm(FROM + 8, FROM + 16),
        generate.gen_branch_imm(FROM + 12, FROM + 8),
    ]
    assert relocate_block(before, FROM, FROM + 64 * GIB) == before
    outside = [generate.gen_branch_imm(FROM, FROM + 8), generate.gen_branch_imm(FROM + 4, FROM - 4)]
    to = FROM + MIB
    assert relocate_block(outside, FROM, to) == [outside[0], generate.gen_branch_imm(to + 4, FROM - 4)]
    assert relocate_block(outside[:1], FROM, to) == [generate.gen_branch_imm(to, FROM + 8)], "beyond the end"
    assert relocate_block([], FROM, to) == []


def test_adr_of_the_end_keeps_its_address() -> None:
    block = [generate.gen_adr(FROM, FROM + 6, 1), generate.gen_adr(FROM + 4, FROM + 8, 2)]
    to = FROM + 0x1000
    assert relocate_block(block, FROM, to) == [block[0], generate.gen_adr(to + 4, FROM + 8, 2)]


def test_offsets_inside_follow_expansions() -> None:
    target, to = FROM + 0x1000, FROM + 8 * GIB
    block = [
        generate.gen_comp_branch_imm(FROM, FROM + 12, 1),
        generate.gen_branch_imm(FROM + 4, target),
        generate.gen_branch_imm(FROM + 8, FROM),
        generate.gen_load_literal(FROM + 12, FROM + 16, 3, "w"),
        0x12345678,
    ]
    jump = [*movewide(16, target), generate.gen_branch_reg(16)]
    assert relocate_block(block, FROM, to, scratch=16) == [
        generate.gen_comp_branch_imm(0, 4 * (2 + len(jump)), 1),
        *jump,
        generate.gen_branch_imm(4 * (1 + len(jump)), 0),
        block[3],
        block[4],
    ]


def movewide(register: int, value: int) -> list[int]:
    shifts = [shift for shift in (0, 16, 32, 48) if value >> shift & 0xFFFF]
    return [
        generate.gen_movewide(register, value >> shift & 0xFFFF, shift, "movk" if index else "movz")
        for index, shift in enumerate(shifts)
    ]


def test_an_expansion_may_push_an_inner_branch_out_of_reach() -> None:
    """TBZ over 32 KiB less one word just reaches; the ADR in between grows by a word."""
    count = 8191
    block = [
        generate.gen_test_branch_imm(FROM, FROM + 4 * count, 1, 3),
        generate.gen_adr(FROM + 4, FROM - 4, 2),
        *[NOP] * (count - 2),
    ]
    assert relocate_block(block, FROM, FROM + 0x10000) == [
        block[0], generate.gen_adr(FROM + 0x10004, FROM - 4, 2), *block[2:],
    ]  # fmt: skip
    to = FROM + 2 * MIB
    moved = relocate_block(block, FROM, to)
    assert moved[:4] == [
        generate.gen_test_branch_imm(0, 8, 1, 3, nonzero=True),
        generate.gen_branch_imm(4, 4 * (count + 2)),
        generate.gen_adr(to + 8, FROM - 4, 2, page=True),
        generate.gen_add_sub_imm(2, 2, 0xFFC),
    ]
    assert moved[4:] == [NOP] * (count - 2)


def test_an_expansion_may_push_what_follows_back_into_reach() -> None:
    target = FROM + 0x100
    to = target - MIB - 4
    far = generate.gen_adr(FROM, target + 0x1000, 2)
    expanded = [generate.gen_adr(to, target + 0x1000, 2, page=True), generate.gen_add_sub_imm(2, 2, 0x100)]
    loads = [far, generate.gen_load_literal(FROM + 4, target, 3, "q")]
    # Refused in the first try, which does not count.
    assert relocate_block(loads, FROM, to) == [*expanded, generate.gen_load_literal(to + 8, target, 3, "q")]
    # Room that is not needed in the end holds NOPs.
    branches = [far, generate.gen_comp_branch_imm(FROM + 4, target, 3)]
    assert relocate_block(branches, FROM, to) == [*expanded, generate.gen_comp_branch_imm(to + 8, target, 3), NOP]


def test_a_literal_is_copied_whatever_instruction_it_looks_like() -> None:
    words = [generate.gen_load_literal(0, 8, 3, "x"), generate.gen_branch_imm(4, 16), 0x02000000, 0x90000000]
    assert relocate_block(words, FROM, FROM + 0x2000) == words
    assert relocate_block(words, FROM, FROM + 0x2FF0 - 4) == words, "data is no ADRP where the erratum strikes"


def test_what_is_prefetched_need_not_be_data() -> None:
    block = [refer(BY_NAME["prfm_lit"], 0, 4), generate.gen_branch_imm(FROM + 4, FROM + 64)]
    to = FROM + 0x1000
    assert relocate_block(block, FROM, to) == [block[0], generate.gen_branch_imm(to + 4, FROM + 64)]


@pytest.mark.parametrize("offset", [-4, 4, -8, 12])
def test_a_literal_partly_in_the_block_is_refused(offset: int) -> None:
    block = [NOP, NOP, NOP, generate.gen_load_literal(FROM + 12, FROM + offset, 1, "q")]
    with pytest.raises(UnmovableError, match=r"the 16 bytes at 0x\w+, which the ldr_fp_lit.q at 0x\w+ reads, lie only"):
        relocate_block(block, FROM, FROM + 0x1000)


def test_a_word_both_read_and_executed_must_not_depend_on_its_address() -> None:
    reads_next = generate.gen_load_literal(0, 4, 1, "w")
    assert relocate_block([reads_next, NOP], FROM, FROM + 64) == [reads_next, NOP]
    for word in (BL, generate.gen_load_literal(0, 64, 1), 0x02000000, BY_NAME["paciasppc"].value):
        with pytest.raises(UnmovableError, match="reads it as a literal: it cannot be both"):
            relocate_block([reads_next, word], FROM, FROM + 64)
        over = [generate.gen_load_literal(0, 8, 1, "w"), generate.gen_branch_imm(0, 8), word]
        if word >> 24 != 0x58:
            assert relocate_block(over, FROM, FROM + 64) == over, "skipped, so it is data alone"
        entered = [*over, generate.gen_branch_imm(12, 8)]
        with pytest.raises(UnmovableError, match="it cannot be both"):
            relocate_block(entered, FROM, FROM + 64)


# Blocks: expansions


def texts(words: Sequence[int], address: int) -> list[str]:
    return objdump(words, address)


FAR = FROM + 256 * MIB
PAGES = [f"adrp x16, {FROM + 0x1000:#x}", "add x16, x16, #0x124"]


@pytest.mark.parametrize(
    ("word", "scratch", "expected"),
    [
        (refer(BY_NAME["b"], FROM, FROM + 0x1124), 16, [*PAGES, "br x16"]),
        (refer(BY_NAME["bl"], FROM, FROM + 0x1124), 16, [*PAGES, "blr x16"]),
        (refer(BY_NAME["bl"], FROM, FROM + 0x1124), None,
         [f"adrp x30, {FROM + 0x1000:#x}", "add x30, x30, #0x124", "blr x30"]),
        (generate.gen_cond_branch_imm(FROM, FROM + 0x1124, "hi"), 16, [f"b.ls {FAR + 16:#x}", *PAGES, "br x16"]),
        (generate.gen_comp_branch_imm(FROM, FROM + 0x1124, 7, is_64bit=False), 16,
         [f"cbnz w7, {FAR + 16:#x}", *PAGES, "br x16"]),
        (generate.gen_test_branch_imm(FROM, FROM + 0x1124, 7, 40, nonzero=True), 16,
         [f"tbz x7, #40, {FAR + 16:#x}", *PAGES, "br x16"]),
        (refer(BY_NAME["bccond"], FROM, FROM + 0x1124), 16, [f"bc.ne {FAR + 16:#x}", *PAGES, "br x16"]),
        (generate.gen_cond_branch_imm(FROM, FROM + 0x1124, "al"), 16,
         [f"b.al {FAR + 8:#x}", f"b {FAR + 20:#x}", *PAGES, "br x16"]),
        (generate.gen_adr(FROM, FROM + 0x1124, 5), None, [f"adrp x5, {FROM + 0x1000:#x}", "add x5, x5, #0x124"]),
        (generate.gen_adr(FROM, FROM + 0x1124, 31), None, ["nop"]),
        (generate.gen_load_literal(FROM, FROM + 0x1124, 5, "w"), None,
         [f"adrp x5, {FROM + 0x1000:#x}", "ldr w5, [x5, #292]"]),
        (generate.gen_load_literal(FROM, FROM + 0x1124, 5, "sw"), None,
         [f"adrp x5, {FROM + 0x1000:#x}", "ldrsw x5, [x5, #292]"]),
        (generate.gen_load_literal(FROM, FROM + 0x1128, 5, "x"), None,
         [f"adrp x5, {FROM + 0x1000:#x}", "ldr x5, [x5, #296]"]),
        (generate.gen_load_literal(FROM, FROM + 0x1124, 5, "x"), None,
         [f"adrp x5, {FROM + 0x1000:#x}", "add x5, x5, #0x124", "ldr x5, [x5]"]),
        (generate.gen_load_literal(FROM, FROM + 0x1124, 31, "x"), 16, [*PAGES, "ldr xzr, [x16]"]),
        (generate.gen_load_literal(FROM, FROM + 0x1124, 5, "s"), 16, [PAGES[0], "ldr s5, [x16, #292]"]),
        (generate.gen_load_literal(FROM, FROM + 0x1128, 5, "d"), 16, [PAGES[0], "ldr d5, [x16, #296]"]),
        (generate.gen_load_literal(FROM, FROM + 0x1120, 5, "q"), 16, [PAGES[0], "ldr q5, [x16, #288]"]),
        (generate.gen_load_literal(FROM, FROM + 0x1124, 5, "q"), 16, [*PAGES, "ldr q5, [x16]"]),
        (refer(BY_NAME["prfm_lit"], FROM, FROM + 0x1128), 16, [PAGES[0], "prfm pldl1keep, [x16, #296]"]),
        (refer(BY_NAME["prfm_lit"], FROM, FROM + 0x1124), 16, [*PAGES, "prfm pldl1keep, [x16]"]),
    ],
)  # fmt: skip
def test_what_no_longer_reaches_is_expanded_as_objdump_sees_it(
    word: int, scratch: int | None, expected: list[str]
) -> None:
    assert texts(relocate_block([word], FROM, FAR, scratch=scratch), FAR) == expected


@pytest.mark.parametrize("row", [row for row in REFERRING if row.conditional], ids=lambda row: row.name)
def test_a_conditional_branch_beyond_its_reach_needs_no_scratch_while_b_reaches(row: Encoding) -> None:
    word, to = refer(row, FROM, FROM + 0x10), FROM + 64 * MIB
    moved = relocate_block([word], FROM, to)
    last = to + 4 * (len(moved) - 1)
    assert moved[-1] == generate.gen_branch_imm(last, FROM + 0x10)
    if "cbcc" in row.families:
        assert moved[:2] == [refer(row, 0, 8), generate.gen_branch_imm(0, 8)]
    else:
        assert len(moved) == 2
        assert generate.gen_nop() not in moved
    with pytest.raises(UnmovableError, match=f"the {row.name} cannot reach .*: a b at .* needs a scratch register"):
        relocate_block([word], FROM, FAR)
    assert relocate_block([word], FROM, FAR, scratch=17)[-1] == generate.gen_branch_reg(17)


@pytest.mark.parametrize(
    "word",
    [
        B,
        generate.gen_load_literal(0, 64, 31),
        generate.gen_load_literal(0, 64, 3, "s"),
        generate.gen_load_literal(0, 64, 3, "d"),
        generate.gen_load_literal(0, 64, 3, "q"),
        refer(BY_NAME["prfm_lit"], 0, 64),
        generate.gen_cond_branch_imm(0, 64, "al"),
    ],
)
def test_expansions_without_a_register_of_their_own_need_scratch(word: int) -> None:
    with pytest.raises(UnmovableError, match="more needs a scratch register"):
        relocate_block([NOP, word, NOP] if word != B else [refer(BY_NAME["b"], 0, 64)], FROM, FAR)


def test_a_return_that_authenticates_is_not_expanded() -> None:
    word = refer(BY_NAME["retaasppc"], FROM, FROM - 16)
    assert relocate_block([word], FROM, FROM + 64) == [refer(BY_NAME["retaasppc"], FROM + 64, FROM - 16)]
    with pytest.raises(UnmovableError, match=r"retaasppc at .* cannot reach"):
        relocate_block([word], FROM, FAR, scratch=16)


@pytest.mark.parametrize(("distance", "size"), [(4 * GIB - 4096, 1), (4 * GIB, 3), (-4 * GIB, 1), (-4 * GIB - 4096, 3)])
def test_adrp_beyond_four_gib_becomes_a_constant(distance: int, size: int) -> None:
    page = 0x12_3456_7000
    word = generate.gen_adr(page, page, 3, page=True)
    moved = relocate_block([word], page, page - distance)
    assert len(moved) == size
    assert moved == ([generate.gen_adr(page - distance, page, 3, page=True)] if size == 1 else movewide(3, page))
    assert relocate_block([generate.gen_adr(page, page, 31, page=True)], page, 0) in ([NOP], [word | 31])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0xFFFF_8000_8123_4000,
         ["mov x3, #0xffffffffffff4000", "movk x3, #0x8123, lsl #16", "movk x3, #0x8000, lsl #32"]),
        (0xFFFF_FFFF_FFFF_F000, ["mov x3, #0xfffffffffffff000"]),
        (0x0000_0040_0000_0000, ["mov x3, #0x4000000000"]),
        (0, ["mov x3, #0x0"]),
        (0x1111_2222_3333_4000,
         ["mov x3, #0x4000", "movk x3, #0x3333, lsl #16", "movk x3, #0x2222, lsl #32", "movk x3, #0x1111, lsl #48"]),
    ],
)  # fmt: skip
def test_constants_take_as_few_words_as_they_can(value: int, expected: list[str]) -> None:
    to = (value + (1 << 62)) % (1 << 64) & ~0xFFF
    moved = relocate_block([generate.gen_adr(value, value, 3, page=True)], value, to)
    assert moved == gnu_as(expected)


@pytest.mark.parametrize("immediate", [0, 1, 4095, 4096, 8192, 4095 * 4096])
def test_add_and_sub_as_gnu_as_makes_them(immediate: int) -> None:
    names = ("add", "sub", "adds", "subs")
    made = [generate.gen_add_sub_imm(3, 7, immediate, name) for name in names]  # type: ignore[arg-type]
    assert made == gnu_as([f"{name} x3, x7, #{immediate}" for name in names])
    made = [generate.gen_add_sub_imm(3, 31, immediate, name, is_64bit=False) for name in names]  # type: ignore[arg-type]
    assert made == gnu_as([f"{name} w3, wsp, #{immediate}" for name in names])


@pytest.mark.parametrize("immediate", [-1, 4097, 4096 * 4096, -4096, 4095 * 4096 + 1])
def test_add_refuses_what_it_cannot_hold(immediate: int) -> None:
    with pytest.raises(EncodingError, match="immediate is"):
        generate.gen_add_sub_imm(0, 0, immediate)
    with pytest.raises(EncodingError, match="register"):
        generate.gen_add_sub_imm(32, 0, 0)
    with pytest.raises(EncodingError, match="variant"):
        generate.gen_add_sub_imm(0, 0, 0, "and")  # type: ignore[arg-type]


# Execution of both

CALLEES = [FROM + 0x4000, FROM + 0x4100, FROM - 0x3000]
EXITS = [FROM - 0x4000, FROM + 0x5000, FROM + 0x5004]
DATA = FROM + 0x2000
"""256 bytes."""


@dataclass
class Source:
    """A block under construction: each item makes words when the labels, one before each item, have addresses."""

    items: list[tuple[int, Callable[[int, Callable[[int], int]], list[int]]]] = field(default_factory=list)

    def add(self, size: int, make: Callable[[int, Callable[[int], int]], list[int]]) -> None:
        self.items.append((size, make))

    def words(self) -> list[int]:
        starts = [FROM]
        for size, _ in self.items:
            starts.append(starts[-1] + 4 * size)
        result: list[int] = []
        for index, (size, make) in enumerate(self.items):
            made = make(starts[index], lambda away, index=index: starts[min(index + 1 + away, len(self.items))])  # type: ignore[misc]
            assert len(made) == size
            result += made
        return result


KINDS = ("mov", "b", "bcond", "cbz", "tbz", "adr", "adrp", "ldr", "prfm", "adr br", "literal", "bl", "bl in", "loop")


@st.composite
def sources(draw: st.DrawFn) -> list[int]:
    source = Source()
    registers, values = st.integers(0, 8), st.integers(0, 0xFFFF)

    def target(label: Callable[[int], int], choice: int) -> int:
        return label(choice) if choice < 4 else EXITS[choice - 4]

    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(KINDS))
        register, value, choice = draw(registers), draw(values), draw(st.integers(0, 6))
        flag, wide, bit, condition = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 63)), value % 15
        at_data, callee = DATA + value % 240, CALLEES[value % 3]
        if draw(st.integers(0, 9)) == 0 and kind in ("adr", "adrp", "ldr"):
            register = 31

        def make(
            pc: int,
            label: Callable[[int], int],
            kind: str = kind,
            register: int = register,
            value: int = value,
            choice: int = choice,
            flag: bool = flag,
            wide: bool = wide,
            bit: int = bit,
            condition: int = condition,
            at_data: int = at_data,
            callee: int = callee,
        ) -> list[int]:
            loads = ("w", "x", "sw", "s", "d", "q")
            match kind:
                case "mov":
                    return [generate.gen_movewide(register, value, 16, "movk" if flag else "movz")]
                case "b":
                    return [generate.gen_branch_imm(pc, target(label, choice))]
                case "bcond":
                    return [generate.gen_cond_branch_imm(pc, target(label, choice), condition)]
                case "cbz":
                    return [generate.gen_comp_branch_imm(pc, target(label, choice), register, flag, wide)]
                case "tbz":
                    return [generate.gen_test_branch_imm(pc, target(label, choice), register, bit, flag)]
                case "adr" | "adrp":
                    return [generate.gen_adr(pc, at_data, register, kind == "adrp")]
                case "ldr":
                    return [generate.gen_load_literal(pc, at_data & ~3, register, loads[choice % 6])]  # type: ignore[arg-type]
                case "prfm":
                    return [refer(BY_NAME["prfm_lit"], pc, at_data & ~3)]
                case "adr br":
                    return [generate.gen_adr(pc, label(choice), 11), generate.gen_branch_reg(11)]
                case "literal":
                    load = generate.gen_load_literal(pc, pc + 8, register, loads[choice % 6])  # type: ignore[arg-type]
                    read = {"x": 2, "d": 2, "q": 4}.get(loads[choice % 6], 1)
                    data = [B, 0x90000000 | value, BL | value, value][:read]
                    return [load, generate.gen_branch_imm(pc + 4, pc + 24), *data, *[NOP] * (4 - read)]
                case "bl":
                    return [generate.gen_branch_imm(pc, callee, link=True)]
                case "bl in":
                    return [generate.gen_branch_imm(pc, label(choice), link=True)]
            return [
                generate.gen_movewide(12, value % 5 + 1),
                generate.gen_add_sub_imm(12, 12, 1, "sub"),
                generate.gen_add_sub_imm(register, register, value & 0xFFF),
                generate.gen_comp_branch_imm(pc + 12, pc + 4, 12, nonzero=True),
            ]

        source.add({"adr br": 2, "literal": 6, "loop": 4}.get(kind, 1), make)
    return source.words()


def executed(
    words: Sequence[int], address: int, flags: int, hidden: Sequence[int], original_end: int = 0
) -> tuple[int, Mapping[str, int]]:
    """Where execution leaves a block, its end being -1, and the registers then but for those hidden.

    ADR keeps the original end, a branch moves it; who goes to either has left at the end.
    """
    import unicorn
    from unicorn import arm64_const as registers

    machine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    pages: dict[int, bytearray] = {}

    def put(at: int, data: bytes) -> None:
        for position, byte in enumerate(data, at):
            pages.setdefault(position & ~0xFFF, bytearray(0x1000))[position & 0xFFF] = byte

    end = address + 4 * len(words)
    put(original_end, to_bytes(NOP))
    put(address, to_bytes([*words, NOP]))
    put(DATA, bytes(7 * n % 256 for n in range(256)))
    for number, callee in enumerate(CALLEES, 1):
        put(callee, to_bytes([generate.gen_add_sub_imm(9, 9, number), generate.gen_branch_reg(30, "ret")]))
    for leave in EXITS:
        put(leave, to_bytes([NOP]))
    for at, page in pages.items():
        machine.mem_map(at, 0x1000)
        machine.mem_write(at, bytes(page))
    for number in range(31):
        value = 0x0123456789ABCDEF * (number + 1) % (1 << 64) if number % 3 else 0
        machine.reg_write(getattr(registers, f"UC_ARM64_REG_X{number}"), value)
    machine.reg_write(registers.UC_ARM64_REG_NZCV, flags << 28)
    machine.reg_write(registers.UC_ARM64_REG_CPACR_EL1, 3 << 20)
    left: list[int] = []

    def look(uc: Any, at: int, size: int, data: Any) -> None:
        if at in (end, original_end, *EXITS):
            left.append(at if at in EXITS else -1)
            uc.emu_stop()

    machine.hook_add(unicorn.UC_HOOK_CODE, look)
    machine.emu_start(address, end + 64, count=2000)
    assert len(left) == 1
    names = [f"X{number}" for number in range(31) if number not in hidden] + [f"Q{number}" for number in range(9)]
    return left[0], {name: machine.reg_read(getattr(registers, f"UC_ARM64_REG_{name}")) for name in names}


DISTANCES = [
    sign * distance + 4 * shift
    for distance in (0x10000, 0x40000, MIB, 128 * MIB, 4 * GIB, 100 * GIB)
    for sign in (-1, 1)
    for shift in (-0x1003, -0x20, -1, 0, 1, 0x1F)
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sources(), st.sampled_from(DISTANCES), st.integers(0, 15), st.sampled_from([None, 16, 17]))
def test_a_moved_block_computes_the_same(words: list[int], distance: int, flags: int, scratch: int | None) -> None:
    to = FROM + distance
    try:
        moved = relocate_block(words, FROM, to, scratch=scratch, allow_erratum_843419=True)
    except UnmovableError as error:
        if scratch is not None or "needs a scratch register" not in str(error):
            raise
        assume(False)
    # X11 holds an address in the block, X30 one after a call in it.
    hidden = [11, 30] if scratch is None else [11, 30, scratch]
    end = FROM + 4 * len(words)
    assert executed(moved, to, flags, hidden, end) == executed(words, FROM, flags, hidden)


def test_the_comparison_of_executions_notices_a_wrong_move() -> None:
    words = [generate.gen_load_literal(FROM, DATA, 1), generate.gen_branch_imm(FROM + 4, EXITS[1])]
    to = FROM + 0x8000
    assert executed(words, FROM, 0, [])[0] == EXITS[1]
    assert executed(relocate_block(words, FROM, to), to, 0, []) == executed(words, FROM, 0, [])
    shifted = generate.gen_load_literal(to, DATA + 4, 1)
    assert executed([shifted, relocate(words[1], FROM + 4, to + 4)], to, 0, []) != executed(words, FROM, 0, [])


def test_signs_of_literals_survive_expansion() -> None:
    """The kernel's simulation of LDRSW (literal) once lost the sign (50f813e57601, acc450aa0709)."""
    block = [generate.gen_load_literal(FROM, DATA + 0x20, 1, "sw"), generate.gen_load_literal(FROM + 4, DATA + 0x20, 2)]
    for to in (FAR, FROM + 100 * GIB):
        registers = executed(relocate_block(block, FROM, to), to, 0, [])[1]
        assert registers["X2"] == int.from_bytes(bytes(7 * n % 256 for n in range(0x20, 0x28)), "little")
        assert registers["X1"] == executed(block, FROM, 0, [])[1]["X1"]
        assert registers["X1"] >> 32 == (0xFFFFFFFF if registers["X2"] >> 31 & 1 else 0)


def test_kinds_are_all_that_relocation_handles() -> None:
    assert {kind.name for kind in ReferenceKind} == {"BRANCH", "LITERAL", "ADDRESS", "SIGNATURE"}

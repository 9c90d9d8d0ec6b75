"""Generators against GNU as: every reach at its limits, on both sides; and never a word for what cannot be said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.a64 import fields, generate
from a64patch.a64.disassembler import disassemble
from a64patch.a64.fields import ImmediateKind, decode_immediate, encode_immediate
from a64patch.a64.operands import BARRIER_OPTIONS, CONDITIONS
from a64patch.a64.predicates import decode, is_nop
from a64patch.errors import A64PatchError, AlignmentError, EncodingError
from tests.a64.references import gnu_as, llvm_mc, objdump

PC = 0x7F_0000_0000
MIB, KIB = 1 << 20, 1 << 10

Reach = tuple[Callable[[int], int], str, int, int, int]
REACHES: dict[str, Reach] = {
    # generator of the target, text of GNU as with a distance, lowest, highest, step
    "b": (lambda to: generate.gen_branch_imm(PC, to), "b .{0:+d}", -128 * MIB, 128 * MIB - 4, 4),
    "bl": (lambda to: generate.gen_branch_imm(PC, to, link=True), "bl .{0:+d}", -128 * MIB, 128 * MIB - 4, 4),
    "b.hs": (lambda to: generate.gen_cond_branch_imm(PC, to, "hs"), "b.hs .{0:+d}", -MIB, MIB - 4, 4),
    "cbz": (lambda to: generate.gen_comp_branch_imm(PC, to, 7), "cbz x7, .{0:+d}", -MIB, MIB - 4, 4),
    "cbnz": (lambda to: generate.gen_comp_branch_imm(PC, to, 31, nonzero=True, is_64bit=False),
             "cbnz wzr, .{0:+d}", -MIB, MIB - 4, 4),
    "tbz": (lambda to: generate.gen_test_branch_imm(PC, to, 5, 63), "tbz x5, 63, .{0:+d}", -32 * KIB, 32 * KIB - 4, 4),
    "tbnz": (lambda to: generate.gen_test_branch_imm(PC, to, 5, 31, nonzero=True),
             "tbnz x5, 31, .{0:+d}", -32 * KIB, 32 * KIB - 4, 4),
    "adr": (lambda to: generate.gen_adr(PC, to, 9), "adr x9, .{0:+d}", -MIB, MIB - 1, 1),
    "ldr x": (lambda to: generate.gen_load_literal(PC, to, 3), "ldr x3, .{0:+d}", -MIB, MIB - 4, 4),
    "ldr w": (lambda to: generate.gen_load_literal(PC, to, 3, "w"), "ldr w3, .{0:+d}", -MIB, MIB - 4, 4),
    "ldrsw": (lambda to: generate.gen_load_literal(PC, to, 3, "sw"), "ldrsw x3, .{0:+d}", -MIB, MIB - 4, 4),
    "ldr s": (lambda to: generate.gen_load_literal(PC, to, 3, "s"), "ldr s3, .{0:+d}", -MIB, MIB - 4, 4),
    "ldr d": (lambda to: generate.gen_load_literal(PC, to, 3, "d"), "ldr d3, .{0:+d}", -MIB, MIB - 4, 4),
    "ldr q": (lambda to: generate.gen_load_literal(PC, to, 3, "q"), "ldr q3, .{0:+d}", -MIB, MIB - 4, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", REACHES)
def test_reach_ends_where_gnu_as_ends(name: str) -> None:
    make, text, low, high, step = REACHES[name]
    inside = [low, low + step, -step, 0, step, high - step, high]
    assert [make(PC + distance) for distance in inside] == gnu_as([text.format(distance) for distance in inside])
    for distance in (low - step, high + step, low - 4, high + 4, 2 * low, 2 * high, 1 << 40, -(1 << 38)):
        with pytest.raises(EncodingError, match="cannot reach"):
            make(PC + distance)
    if step == 4:
        for distance in (1, 2, 3, -1, high - 1, low + 2):
            with pytest.raises(EncodingError, match="multiple of 4"):
                make(PC + distance)


@pytest.mark.fresh("llvm", "binutils-aarch64-linux-gnu")
@pytest.mark.parametrize("name", [name for name in REACHES if name != "adr"])
def test_reach_seen_by_llvm_and_objdump(name: str) -> None:
    make, _, low, high, _ = REACHES[name]
    words = [make(PC + low), make(PC + high)]
    for word, distance, text in zip(words, (low, high), llvm_mc(words), strict=True):
        assert text.endswith(f"#{distance}")
        assert int(objdump([word], PC)[0].split()[-1], 16) == PC + distance


def test_adrp_reaches_four_gib_of_pages() -> None:
    for pc in (PC, PC + 0xFFC):
        for pages in (-(1 << 20), -1, 0, 1, (1 << 20) - 1):
            word = generate.gen_adr(pc, PC + pages * 4096 + 0x123, 4, page=True)
            mnemonic, register, page = objdump([word], pc)[0].split()
            assert (mnemonic, register, int(page, 16)) == ("adrp", "x4,", PC + pages * 4096)
            assert fields.adrp_get_offset(word) == pages * 4096
        for pages in (-(1 << 20) - 1, 1 << 20, 1 << 30):
            with pytest.raises(EncodingError, match="4 GiB"):
                generate.gen_adr(pc, PC + pages * 4096, 4, page=True)


def test_a_plain_adr_of_four_gib_raises() -> None:
    """The kernel computes this distance in 32 bits, so 4 GiB wraps to 0 there."""
    for distance in (1 << 32, -(1 << 32), (1 << 32) + 4):
        with pytest.raises(EncodingError):
            generate.gen_adr(PC, PC + distance, 0)


def test_conditional_branch_past_a_mebibyte_is_not_a_backward_one() -> None:
    """48d83d94930e: +1 MiB was masked to the field 0x40000, which is -1 MiB."""
    with pytest.raises(EncodingError):
        generate.gen_cond_branch_imm(PC, PC + MIB, "eq")


def test_branch_range_is_asymmetric() -> None:
    """3eefdf9d1e40: [-2^27, 2^27)."""
    assert fields.get_branch_offset(generate.gen_branch_imm(PC, PC - 128 * MIB)) == -128 * MIB
    with pytest.raises(EncodingError):
        generate.gen_branch_imm(PC, PC + 128 * MIB)


@pytest.mark.parametrize("pc", [PC + 1, PC + 2, PC + 3, -4, 1 << 64])
def test_no_instruction_stands_there(pc: int) -> None:
    with pytest.raises(EncodingError):
        generate.gen_branch_imm(pc, PC)


def test_unaligned_addresses_are_alignment_errors_too() -> None:
    with pytest.raises(AlignmentError):
        generate.gen_branch_imm(PC + 2, PC)


def test_words_that_need_no_address() -> None:
    made = [
        (generate.gen_nop(), "nop"),
        (generate.gen_branch_reg(3), "br x3"),
        (generate.gen_branch_reg(30, "blr"), "blr x30"),
        (generate.gen_branch_reg(30, "ret"), "ret"),
        (generate.gen_branch_reg(31, "ret"), "ret xzr"),
        (generate.gen_barrier("dmb", "ishst"), "dmb ishst"),
        (generate.gen_barrier("isb"), "isb"),
        (generate.gen_barrier("sb"), "sb"),
        (generate.gen_barrier("clrex"), "clrex"),
    ]
    made += [(generate.gen_hint(number), f"hint #{number}") for number in range(128)]
    made += [(generate.gen_barrier("dsb", name), f"dsb {name}") for name in BARRIER_OPTIONS]
    made += [(generate.gen_exception(kind, value), f"{kind} #{value}")
             for kind in ("svc", "hvc", "smc", "brk", "hlt", "udf") for value in (0, 1, 0x100, 0xFFFF)]  # fmt: skip
    for variant in ("movz", "movn", "movk"):
        made += [(generate.gen_movewide(5, 0xABCD, shift, variant), f"{variant} x5, 0xabcd, lsl {shift}")
                 for shift in (0, 16, 32, 48)]  # fmt: skip
        made += [(generate.gen_movewide(31, 0xFFFF, shift, variant, is_64bit=False),
                  f"{variant} wzr, 0xffff, lsl {shift}") for shift in (0, 16)]  # fmt: skip
    for name, number in CONDITIONS.items():
        if number < 15:
            assert generate.gen_cond_branch_imm(PC, PC, name) == 0x54000000 | number
            assert generate.gen_cond_branch_imm(PC, PC, number) == 0x54000000 | number
    assert [word for word, _ in made] == gnu_as([text for _, text in made])


@pytest.mark.parametrize(
    "call",
    [
        lambda: generate.gen_cond_branch_imm(PC, PC, "nv"),
        lambda: generate.gen_cond_branch_imm(PC, PC, 15),
        lambda: generate.gen_cond_branch_imm(PC, PC, "xx"),
        lambda: generate.gen_comp_branch_imm(PC, PC, 32),
        lambda: generate.gen_comp_branch_imm(PC, PC, -1),
        lambda: generate.gen_test_branch_imm(PC, PC, 0, 64),
        lambda: generate.gen_test_branch_imm(PC, PC, 0, -1),
        lambda: generate.gen_branch_reg(32),
        lambda: generate.gen_branch_reg(0, "eret"),  # type: ignore[arg-type]
        lambda: generate.gen_hint(128),
        lambda: generate.gen_hint(-1),
        lambda: generate.gen_exception("brk", 0x10000),
        lambda: generate.gen_exception("brk", -1),
        lambda: generate.gen_exception("dcps1"),  # type: ignore[arg-type]
        lambda: generate.gen_movewide(0, 0x10000),
        lambda: generate.gen_movewide(0, -1),
        lambda: generate.gen_movewide(0, 1, 8),
        lambda: generate.gen_movewide(0, 1, 64),
        lambda: generate.gen_movewide(0, 1, 32, is_64bit=False),
        lambda: generate.gen_movewide(0, 1, 0, "mov"),  # type: ignore[arg-type]
        lambda: generate.gen_barrier("dsb", "ssbb"),
        lambda: generate.gen_barrier("isb", "ish"),
        lambda: generate.gen_barrier("wfi"),  # type: ignore[arg-type]
        lambda: generate.gen_load_literal(PC, PC, 0, "b"),  # type: ignore[arg-type]
        lambda: encode_immediate("26", 0, 0),  # type: ignore[arg-type]
        lambda: decode_immediate(None, 0),  # type: ignore[call-overload]
        lambda: fields.set_branch_offset(0xD503201F, 4),
        lambda: fields.get_branch_offset(0xD65F03C0),
        lambda: fields.adrp_set_offset(0x10000000, 4096),
        lambda: fields.adrp_get_offset(0x10000000),
        lambda: fields.adrp_set_offset(0x90000000, 4095),
    ],
)
def test_what_cannot_be_said_raises_and_is_no_word(call: Callable[[], int]) -> None:
    with pytest.raises(EncodingError):
        call()


@pytest.mark.parametrize("kind", ImmediateKind, ids=lambda kind: kind.name)
def test_immediates_hold_exactly_their_range(kind: ImmediateKind) -> None:
    immediate = kind.value
    for value in (immediate.minimum, immediate.minimum + 1, -1, 0, 1, immediate.maximum - 1, immediate.maximum):
        if immediate.minimum <= value <= immediate.maximum:
            for word in (0, 0xFFFFFFFF):
                encoded = encode_immediate(kind, word, value)
                assert decode_immediate(kind, encoded) == value
                assert encode_immediate(kind, encoded, decode_immediate(kind, word)) == word, "only its own bits"
    for value in (immediate.minimum - 1, immediate.maximum + 1):
        with pytest.raises(EncodingError):
            encode_immediate(kind, 0, value)


@given(st.sampled_from(list(ImmediateKind)), st.lists(st.integers(0, 0xFFFFFFFF), min_size=1))
def test_decode_immediate_of_arrays_is_that_of_ints(kind: ImmediateKind, words: list[int]) -> None:
    import numpy

    array = decode_immediate(kind, numpy.array(words, numpy.uint32))
    assert array.tolist() == [decode_immediate(kind, word) for word in words]


@given(st.integers(0, 0xFFFFFFFF), st.integers(-(1 << 30), 1 << 30))
def test_a_branch_is_moved_exactly_or_not_at_all(word: int, offset: int) -> None:
    try:
        moved = fields.set_branch_offset(word, offset)
    except A64PatchError:
        return
    assert fields.get_branch_offset(moved) == offset
    assert decode(moved) is decode(word)
    assert fields.set_branch_offset(moved, fields.get_branch_offset(word)) == word


def test_moving_a_test_branch_out_of_reach_raises() -> None:
    """The kernel's aarch64_set_branch_offset cuts the offset instead."""
    word = generate.gen_test_branch_imm(PC, PC + 8, 0, 0)
    with pytest.raises(EncodingError, match="cannot reach"):
        fields.set_branch_offset(word, 32 * KIB)


def test_only_one_word_is_nop() -> None:
    assert is_nop(generate.gen_nop())
    assert not any(is_nop(generate.gen_hint(number)) for number in range(1, 128))
    assert disassemble(generate.gen_nop()) == "nop"

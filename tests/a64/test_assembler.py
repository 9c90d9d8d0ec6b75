"""Texts that must be refused, and how: one type of error, the operand and the reason."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.a64.assembler import assemble, assemble_one
from a64patch.a64.disassembler import disassemble
from a64patch.a64.encodings import TABLE
from a64patch.a64.integer_operands import decode_bitmask, encode_bitmask
from a64patch.a64.missing import missing_feature
from a64patch.a64.operands import CONDITIONS
from a64patch.errors import AssemblyError
from tests.a64.references import assembled, gnu_as, gnu_as_program


class Names:
    """One name for one address."""

    def resolve(self, site: str) -> int:
        if site != "target":
            raise LookupError(f"there is no {site}")
        return 0x2000

    def describe(self, address: int) -> str:
        return "target" if address == 0x2000 else f"{address:#x}"


def test_names_both_ways() -> None:
    assert assemble("bl target; nop\nb .-8", 0x1000, Names()) == [0x94000400, 0xD503201F, 0x17FFFFFE]
    assert disassemble(0x94000400, 0x1000, Names()) == "bl target"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" ; ", "empty"),
        ("frobnicate x0", "does not know 'frobnicate'"),
        ("ldfaddal s0, s1, [x2]", "'ldfaddal' came with FEAT_LSFE, which is not in this table; write the word itself"),
        ("stbfmaxnm h0, [x2]", "FEAT_LSFE"),
        ("cast x0, x1, [x2]", "FEAT_LSUI"),
        ("ldtadd x0, x1, [x2]", "FEAT_LSUI"),
        ("ldatxr x0, [x2]", "FEAT_LSUI"),
        ("setgop [x0]!, x1!", "FEAT_MOPS_GO"),
        ("ldapp x0, x1, [x2]", "FEAT_LSCP"),
        ("tchangef x0, x1", "FEAT_S1POE2"),
        ("tenter #1", "FEAT_TEV"),
        ("fmmla v0.4s, v1.8h, v2.8h", "FEAT_F16MM, FEAT_F16F32MM"),
        ("gsb sys", "FEAT_GCIE"),
        ("rdvl x0, #1", "'rdvl' came with SVE or SME"),
        ("sqincb x0", "SVE or SME"),
        ("mov x0, #0x12345", "immediate 0x12345 is not 16 bits"),
        ("mov w0, #0x100000000", "must be from"),
        ("movz x0, #65536", "immediate is 65536, must be from 0 to 65535"),
        ("movz x0, #1, lsl #8", "shift is 8, must be one of 0, 16, 32, 48"),
        ("movz w0, #1, lsl #32", "shift is 32, must be one of 0, 16"),
        ("tbz w0, #32, 0", "does not go with"),
        ("tbz x0, #64, 0", "must be from 0 to 63"),
        ("b 0x8000000", "must be within -134217728 to"),
        ("b 2", "multiple of 4"),
        ("b elsewhere", "there is no elsewhere"),
        ("cbz x31, 0", "register 'x31' must be one of"),
        ("ldxr w0, [w1]", "register 'w1'"),
        ("dsb everything", "must be one of oshld"),
        ("dsb #16", "must be from 0 to 15"),
        ("cbz x0", "do not fit"),
        ("ret x0, x1", "do not fit"),
        (".inst 0x100000000", "word is 4294967296, must be from 0 to 4294967295"),
        (".inst 9999999999", "word is 9999999999, must be"),
        (".word 0x100000000", "word is 4294967296, must be from 0 to 4294967295"),
        (".word target-.", "does not know '.word'"),
        ("mrs x0, S4_0_C0_C0_0", "system register"),
        ("add z0.b, z1.b, z2.b", "SVE and SME are not in this table"),
        ("smopa za0.s, p0/m, p1/m, z0.b, z1.b", "SVE and SME"),
        ("add x0, x1, #5000", r"imm12 is 5000, must be 0..4095 or a multiple of 4096 up to"),
        ("nop " * 100, "399 characters"),
        ("ldr x0, =target", "no place for a literal pool; make a constant with movz and movk"),
        ("ldrsw x0, = 5", "no place for a literal pool"),
        ("tlbi rpaosnxs, x0", "do not fit"),
    ],
)
def test_refusals_say_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(AssemblyError, match=reason):
        assemble(text, 0, Names())


@pytest.mark.parametrize("judge", ["gnu-as", "llvm-mc"])
def test_conditional_branches_without_the_dot(judge: str) -> None:
    texts = [f"b{condition} .+8" for condition in CONDITIONS if condition not in ("al", "nv")]
    words = [assemble_one(text) for text in texts]
    assert words == assembled(judge, texts)
    assert disassemble(words[0], 0, None) == "b.eq 0x8"


def test_no_mnemonic_of_the_table_is_said_to_be_missing() -> None:
    mnemonics = {re.split(r"[ {<]", text)[0] for row in TABLE for text in row.texts}
    mnemonics |= {f"b{dot}{condition}" for dot in ("", ".") for condition in CONDITIONS}
    assert len(mnemonics) > 1000
    assert [mnemonic for mnemonic in sorted(mnemonics) if missing_feature(mnemonic)] == []


def test_names_that_are_read_but_not_printed() -> None:
    assert [disassemble(assemble_one(text)) for text in ("bti r", "prfm ir, [x1]")] == ["bti", "prfm #24, [x1]"]


def test_every_logical_immediate_both_ways() -> None:
    """5334 constants of 64 bits and 1302 of 32; 579d1b3faa37 had some wrong on both sides."""
    for bits, count in ((64, 5334), (32, 1302)):
        values = set()
        for size in (2, 4, 8, 16, 32, 64):
            if size <= bits:
                for ones in range(1, size):
                    run = (1 << ones) - 1
                    for turn in range(size):
                        element = (run >> turn | run << size - turn) & (1 << size) - 1
                        values.add(element * (((1 << bits) - 1) // ((1 << size) - 1)))
        assert len(values) == count
        for value in values:
            n, immr, imms = encode_bitmask(value, bits) or (-1, -1, -1)
            assert decode_bitmask(n, immr, imms, bits) == value
        register = "x" if bits == 64 else "w"
        texts = [f"and {register}1, {register}2, #{value:#x}" for value in sorted(values)]
        words = [assemble_one(text) for text in texts]
        assert words == gnu_as(texts)
        assert [disassemble(word) for word in words] == texts
        for value in (0, (1 << bits) - 1, 5, 0xB, 1 << bits):
            with pytest.raises(AssemblyError):
                assemble(f"and {register}1, {register}2, #{value:#x}")


@given(st.text(max_size=60) | st.text("bcdnopretmovxw0123456789#,[]. .+-", max_size=40))
def test_garbage_raises_one_type_of_error(text: str) -> None:
    try:
        words = assemble(text, 0x1000, Names())
    except AssemblyError:
        return
    assert all(0 <= word <= 0xFFFFFFFF for word in words)


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, (1 << 62) - 1))
def test_every_word_round_trips_at_every_address(word: int, place: int) -> None:
    assert assemble(disassemble(word, 4 * place), 4 * place) == [word]


def test_labels_comments_and_expressions_as_gnu_as() -> None:
    text = """
    // a loop
    start: mov x0, #(1 << 4) - 1     // fifteen
    1:  subs x0, x0, #4/2
        b.ne 1b
        cbz x0, 1f
        ldr x1, [sp, #8*3]
        add x2, x2, #~0xfff + 0x1fff, lsl#0 ; b start+4*(1+1) - 4
    1:  lsl x3, x3, #64-1; b start /* back */; cbz x1, 1b+4|8; b 1f-8
    1:  mov x5, #';'; mov x6, #':' + '/' // two more
        movz x4, #(2+3)*4, lsl #8*2
        add x1, x2, #-5; sub sp, sp, #-16; cmp w3, #-1; cmn x3, #-4096; adds x1, x2, #-7, lsl #12
    """
    assert assemble(text, 0x4000) == gnu_as_program(text)


def test_data_is_a_word_as_gnu_as_has_it() -> None:
    source = "nop\n.word 0x6c6c6548\n.word 1 << 4"
    assert assemble(source) == gnu_as_program(source) == [0xD503201F, 0x6C6C6548, 16]


def test_the_name_in_an_adrp_stands_for_its_page() -> None:
    class Far:
        def resolve(self, site: str) -> int:
            return 0x7FFC

        def describe(self, address: int) -> str:
            return hex(address)

    assert assemble("adrp x1, far", 0x1010, Far()) == assemble("adrp x1, 0x7000", 0x1010)
    with pytest.raises(AssemblyError, match="multiple of 4096"):
        assemble("adrp x1, 0x7ffc", 0x1010, Far())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: nop; a: nop", "label 'a' occurs twice"),
        ("b 1f", "there is no label '1f'"),
        ("1: nop; b 1f", "no label 1 behind"),
        ("b 1b; 1: nop", "no label 1 before"),
        ("label:", "empty"),
    ],
)
def test_labels_that_are_wrong(text: str, reason: str) -> None:
    with pytest.raises(AssemblyError, match=reason):
        assemble(text)

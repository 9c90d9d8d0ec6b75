"""The rows of SIMD and floating point against GNU objdump, llvm-mc and GNU as (Debian packages).

Beside test_differential.py: here a word of these groups that a reference names must have a row, or a reason below.
"""

from __future__ import annotations

from collections import Counter

import numpy
import pytest

from a64patch.a64.assembler import assemble_one
from a64patch.a64.disassembler import disassemble
from a64patch.a64.encodings import TABLE
from a64patch.a64.predicates import classify, decode
from a64patch.a64.tables import simd
from a64patch.errors import AssemblyError
from tests.a64.judges import explained
from tests.a64.references import llvm_mc, objdump
from tests.a64.spelling import plain, respelled
from tests.a64.test_differential import near_misses, samples
from tests.support import rounds

NAMES = {row.name for row in simd.table()}
ROWS = [row for row in TABLE if row.name in NAMES]


def simd_differences(words: list[int], reference: str) -> Counter[str]:
    """The differences that nothing explains."""
    texts = objdump(words) if reference == "objdump" else llvm_mc(words)
    indices = classify(numpy.array(words, numpy.uint32)).tolist()
    found: Counter[str] = Counter()
    for word, text, index in zip(words, texts, indices, strict=True):
        if index < 0:
            if plain(text, reference, None, 0) and in_group(word) and not explained(reference, word, None, text):
                found[f"{word:#010x}: no row, {reference} says {text}"] += 1
            continue
        row = TABLE[index]
        mine, theirs = plain(disassemble(word), "", row, 0), respelled(plain(text, reference, row, 0))
        if mine != theirs and row.name in NAMES and not explained(reference, word, row, text):
            found[f"{word:#010x}: {row.name} is {mine!r}, {reference} says {theirs!r}"] += 1
    return found


def in_group(word: int) -> bool:
    """Whether a word is one of these: data processing with op0 x111, or loads and stores of SIMD and FP registers."""
    copies = word & 0x3F000000 == 0x1D000000  # Memory copy and set (FEAT_MOPS) has bit 26 too.
    return word >> 25 & 7 == 7 or (word >> 25 & 7 == 6 and not copies)


@pytest.mark.parametrize("reference", ["objdump", "llvm-mc"])
def test_rows_and_their_near_misses_against_reference(reference: str) -> None:
    sampled = [word for row in ROWS for word in samples(row, 40)]
    close = near_misses([word for row in ROWS for word in samples(row, 4)])
    assert list(simd_differences(sorted({*sampled, *filter(in_group, close)}), reference)) == []


def whole_group() -> list[int]:
    """Every word of the group but for Rn and Rd, which are random: a million; and for FP comparisons every Rd too."""
    source = numpy.random.default_rng(7)
    upper = numpy.arange(1 << 19, dtype=numpy.uint32)
    words = [
        (upper >> 15) << 28 | numpy.uint32(group << 25) | (upper & 0x7FFF) << 10
        | source.integers(0, 1 << 10, 1 << 19, dtype=numpy.uint32)
        for group in (6, 7)
    ]  # fmt: skip
    comparisons = [0x1E200000 | ftype << 22 | rm << 16 | 1 << 13 | low
                   for ftype in range(4) for rm in (0, 1, 31) for low in range(1 << 10)]  # fmt: skip
    return [*words[0].tolist(), *words[1].tolist(), *comparisons]


@pytest.mark.parametrize("reference", ["objdump", "llvm-mc"])
def test_whole_group_against_reference(reference: str) -> None:
    # The step is odd, so that each field has each of its values among the words.
    assert list(simd_differences(whole_group()[:: rounds(1, 3)], reference)) == []


def test_text_of_objdump_assembles_to_the_word() -> None:
    sampled = [word for row in ROWS for word in samples(row, 20)]
    rows = {id(row) for row in ROWS}
    words = [word for word in (*sampled, *whole_group()[::7]) if id(decode(word)) in rows]
    wrong = []
    for word, text in zip(words, objdump(words), strict=True):
        row = decode(word)
        assert row is not None
        if not plain(text, "objdump", row, 0) and (
            explained("objdump", word, row, "") or not plain(disassemble(word), "", row, 0)
        ):
            continue
        try:
            mine = assemble_one(text)
        except AssemblyError as error:
            wrong.append(f"{word:#010x} {text}: {error}")
        else:
            if mine != word:
                wrong.append(f"{word:#010x} {text}: {mine:#010x}")
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("bf1cvtl v25.8h, v12.8b", 0x2EA17999),
        ("bf2cvtl2 v31.8h, v31.16b", 0x6EE17BFF),
        ("f1cvtl v31.8h, v31.8b", 0x2E217BFF),
        ("f2cvtl2 v31.8h, v31.16b", 0x6E617BFF),
        ("famax v31.2d, v31.2d, v0.2d", 0x4EE0DFFF),
        ("famax v31.4h, v31.4h, v31.4h", 0x0EDF1FFF),
        ("famin v3.2s, v30.2s, v12.2s", 0x2EACDFC3),
        ("famin v31.8h, v31.8h, v31.8h", 0x6EDF1FFF),
        ("fcvtn v28.8b, v31.4s, v27.4s", 0x0E1BF7FC),
        ("fcvtn2 v31.16b, v31.4s, v7.4s", 0x4E07F7FF),
        ("fcvtn v31.16b, v31.8h, v31.8h", 0x4E5FF7FF),
        ("fdot v24.2s, v31.8b, v11.8b", 0x0E0BFFF8),
        ("fdot v31.8h, v31.16b, v31.16b", 0x4E5FFFFF),
        ("fdot v0.4s, v3.16b, v0.4b[3]", 0x4F200860),
        ("fdot v3.4h, v24.8b, v15.2b[6]", 0x0F6F0B03),
        ("fmlalb v31.8h, v31.16b, v2.16b", 0x0EC2FFFF),
        ("fmlalb v25.8h, v30.16b, v0.b[11]", 0x0FD80BD9),
        ("fmlalt v31.8h, v4.16b, v0.b[15]", 0x4FF8089F),
        ("fmlallbb v13.4s, v12.16b, v0.b[13]", 0x2F28898D),
        ("fmlallbt v31.4s, v31.16b, v31.16b", 0x0E5FC7FF),
        ("fmlalltb v22.4s, v31.16b, v0.16b", 0x4E00C7F6),
        ("fmlalltt v8.4s, v28.16b, v0.b[7]", 0x6F788388),
        ("fscale v31.4s, v31.4s, v16.4s", 0x6EB0FFFF),
        ("fscale v31.8h, v31.8h, v31.8h", 0x6EDF3FFF),
        ("luti2 v8.16b, {v4.16b}, v1[2]", 0x4E815088),
        ("luti2 v2.8h, {v23.8h}, v18[5]", 0x4ED252E2),
        ("luti4 v0.16b, {v0.16b}, v0[1]", 0x4E406000),
        ("luti4 v14.8h, {v4.8h, v5.8h}, v0[2]", 0x4E40508E),
    ],
)
def test_words_that_binutils_and_llvm_agree_on_since_debian_13(text: str, word: int) -> None:
    assert assemble_one(text) == word
    assert disassemble(word) == text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("ld1 {v0.16b-v3.16b}, [x0], 64", 0x4CDF2000),
        ("ld1 { v31.2d , v0.2d }, [sp]", 0x4C40AFFF),
        ("ldr q0, [x0, 0]", 0x3DC00000),
        ("ldr q0, [x1, #8]", 0x3CC08020),
        ("STR Q1, [X2, W3, UXTW #4]", 0x3CA35841),
        ("fmov d0, 1.0", 0x1E6E1000),
        ("fmov d0, #-0.5", 0x1E7C1000),
        ("fmov s0, #0.0", 0x1E2703E0),
        ("mov v0.2d, v1.2d", 0x4EA11C20),
        ("cmls v0.4s, v1.4s, v2.4s", 0x6EA13C40),
        ("ins v0.s[1], v2.s[3]", 0x6E0C6440),
        ("umov w0, v1.s[2]", 0x0E143C20),
        ("not v0.8b, v1.8b", 0x2E205820),
    ],
)
def test_other_spellings(text: str, word: int) -> None:
    assert assemble_one(text) == word


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ld1 {v0.16b, v2.16b}, [x0]", "consecutive"),
        ("ld2 {v0.16b, v1.16b}, [x0], #16", "must be 32"),
        ("ldr q0, [x1, #-8]!, x2", "operands do not fit"),
        ("ldp q0, q1, [x0, #8]", "multiple of 16"),
        ("fmov s0, #0.1", "n/16"),
        ("fadd s0, s1, d2", "does not go with"),
        ("fadd s0, s1, s32", "from 0 to 31"),
        ("fadd s0, s1, s02", "must be written as"),
        ("ldr q0, [x1, w2]", "must be W with uxtw"),
        ("ldr q0, [x1, x2, lsl #3]", "must be 0 or 4"),
        ("mul v0.8h, v1.8h, v16.h[7]", "from 0 to 15"),
        ("movi v0.2d, #1", "only bytes"),
        ("sshr v0.4s, v1.4s, #0", "from 1 to 32"),
    ],
)
def test_errors_say_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(AssemblyError, match=reason):
        assemble_one(text)

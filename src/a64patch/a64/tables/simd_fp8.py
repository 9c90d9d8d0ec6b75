"""FP8, lookup tables, absolute maximum and minimum: Arm ARM C4.1, Data Processing -- Scalar FP and Advanced SIMD.

Read on: simd.py puts the rows together.

A lane of 8 bits of these has an index of four bits, H:L:M and the highest of Rm, so its register is from 0 to 7.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding, holes
from a64patch.a64.tables.simd_vector import simd_row

_EXTENSION = "Advanced SIMD three-register extension"
_ELEMENT = "Advanced SIMD vector x indexed element"


def _three_same() -> Iterator[Encoding]:
    table = "Advanced SIMD three same"
    for name, u, opcode, feature in (
        ("famax", 0, "011", "FEAT_FAMINMAX"), ("famin", 1, "011", "FEAT_FAMINMAX"), ("fscale", 1, "111", "FEAT_FP8"),
    ):  # fmt: skip
        pattern = f"0 q:1 {u} 01110 1 sz:1 1 rm:5 11{opcode} 1 rn:5 rd:5"
        yield from simd_row(
            table, f"{name}_simd", pattern, f"{name} <Vsd:sz:q:rd>, <Vsd:sz:q:rn>, <Vsd:sz:q:rm>", feature
        )
        yield from holes(table, pattern.replace("q:1", "0").replace("sz:1", "1"))
        yield from simd_row(
            "Advanced SIMD three same (FP16)", f"{name}_simd.h", f"0 q:1 {u} 01110 1 10 rm:5 00 {opcode} 1 rn:5 rd:5",
            f"{name} <Vh:q:rd>, <Vh:q:rn>, <Vh:q:rm>", feature,
        )  # fmt: skip


def _conversions() -> Iterator[Encoding]:
    for size, name in (("00", "f1cvtl"), ("01", "f2cvtl"), ("10", "bf1cvtl"), ("11", "bf2cvtl")):
        for suffix, q, source in (("", "0", "V8b"), ("2", "1", "V16b")):
            yield from simd_row(
                "Advanced SIMD two-register miscellaneous", f"{name}{suffix}",
                f"0 {q} 1 01110 {size} 10000 10111 10 rn:5 rd:5", f"{name}{suffix} <V8h:rd>, <{source}:rn>",
                "FEAT_FP8",
            )  # fmt: skip
    for name, letter, q, size, result, source in (
        ("fcvtn", "s", "0", "00", "V8b", "V4s"),
        ("fcvtn2", "s", "1", "00", "V16b", "V4s"),
        ("fcvtn", "h", "q:1", "01", "Vb:q", "Vh:q"),
    ):
        yield from simd_row(
            _EXTENSION, f"{name}_fp8.{letter}", f"0 {q} 0 01110 {size} 0 rm:5 1 1110 1 rn:5 rd:5",
            f"{name} <{result}:rd>, <{source}:rn>, <{source}:rm>", "FEAT_FP8",
        )  # fmt: skip


def _products() -> Iterator[Encoding]:
    for size, letter, bits, lane, feature in (
        ("00", "s", "l:1 rm:5", "<E4b:rm>[<lane:h:l>]", "FEAT_FP8DOT4"),
        ("01", "h", "l:1 m:1 rm:4", "<E2b:rm>[<lane:h:l:m>]", "FEAT_FP8DOT2"),
    ):
        text = f"fdot <V{letter}:q:rd>, <Vb:q:rn>"
        yield from simd_row(
            _EXTENSION, f"fdot_simd.{letter}", f"0 q:1 0 01110 {size} 0 rm:5 1 1111 1 rn:5 rd:5",
            f"{text}, <Vb:q:rm>", feature,
        )  # fmt: skip
        yield from simd_row(
            _ELEMENT, f"fdot_simd_lane.{letter}", f"0 q:1 0 01111 {size} {bits} 0000 h:1 0 rn:5 rd:5",
            f"{text}, {lane}", feature,
        )  # fmt: skip
    for name, q, size, opcode, u, lane_opcode, result in (
        ("fmlalb", 0, "11", "1111", 0, "0000", "V8h"),
        ("fmlalt", 1, "11", "1111", 0, "0000", "V8h"),
        ("fmlallbb", 0, "00", "1000", 1, "1000", "V4s"),
        ("fmlallbt", 0, "01", "1000", 1, "1000", "V4s"),
        ("fmlalltb", 1, "00", "1000", 1, "1000", "V4s"),
        ("fmlalltt", 1, "01", "1000", 1, "1000", "V4s"),
    ):
        yield from simd_row(
            _EXTENSION, f"{name}_simd", f"0 {q} 0 01110 {size} 0 rm:5 1 {opcode} 1 rn:5 rd:5",
            f"{name} <{result}:rd>, <V16b:rn>, <V16b:rm>", "FEAT_FP8FMA",
        )  # fmt: skip
        yield from simd_row(
            _ELEMENT, f"{name}_simd_lane", f"0 {q} {u} 01111 {size} l:1 m:1 i:1 rm:3 {lane_opcode} h:1 0 rn:5 rd:5",
            f"{name} <{result}:rd>, <V16b:rn>, <Eb:rm>[<lane:h:l:m:i>]", "FEAT_FP8FMA",
        )  # fmt: skip


def _lookup() -> Iterator[Encoding]:
    for name, size, index, kind, length in (
        ("luti2", "10", "i:2 1", "V16b", 1),
        ("luti2", "11", "i:3", "V8h", 1),
        ("luti4", "01", "i:1 10", "V16b", 1),
        ("luti4", "01", "i:2 1", "V8h", 2),
    ):
        yield from simd_row(
            "Advanced SIMD table lookup", f"{name}.{kind[1:]}", f"01001110 {size} 0 rm:5 0 {index} 00 rn:5 rd:5",
            f"{name} <{kind}:rd>, <{kind}*{length}:rn>, <Vlanes:rm>[<lane:i>]", "FEAT_LUT",
        )  # fmt: skip


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    yield from _three_same()
    yield from _conversions()
    yield from _products()
    yield from _lookup()

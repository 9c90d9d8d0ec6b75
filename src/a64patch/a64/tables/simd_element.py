"""Vectors and single lanes by one lane of another vector: Arm ARM C4.1, Advanced SIMD (scalar) x indexed element.

Read on: simd_crypto.py for dot products and the like.

A lane of 16 bits has the index H:L:M and a register from 0 to 15; one of 32 bits H:L, one of 64 bits H.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding
from a64patch.a64.tables.simd_vector import simd_row

_VECTOR, _SCALAR = "Advanced SIMD vector x indexed element", "Advanced SIMD scalar x indexed element"
_H = ("l:1 m:1 rm:4", "<Eh:rm>[<lane:h:l:m>]")
_S = ("l:1 rm:5", "<Es:rm>[<lane:h:l>]")
_D = ("0 rm:5", "<Ed:rm>[<lane:h>]")

_INTEGER = (
    # U, opcode, name, whether it has a scalar form, feature
    (0, "1000", "mul", False, ""),
    (1, "0000", "mla", False, ""),
    (1, "0100", "mls", False, ""),
    (0, "1100", "sqdmulh", True, ""),
    (0, "1101", "sqrdmulh", True, ""),
    (1, "1101", "sqrdmlah", True, "FEAT_RDM"),
    (1, "1111", "sqrdmlsh", True, "FEAT_RDM"),
)
_LONG = (
    (0, "0010", "smlal", False), (1, "0010", "umlal", False), (0, "0110", "smlsl", False), (1, "0110", "umlsl", False),
    (0, "1010", "smull", False), (1, "1010", "umull", False),
    (0, "0011", "sqdmlal", True), (0, "0111", "sqdmlsl", True), (0, "1011", "sqdmull", True),
)  # fmt: skip
_FP = ((0, "0001", "fmla"), (0, "0101", "fmls"), (0, "1001", "fmul"), (1, "1001", "fmulx"))


def _integer() -> Iterator[Encoding]:
    for size, (bits, lane), letter, wide in (("01", _H, "h", "S"), ("10", _S, "s", "D")):
        kind, kinds = letter.upper(), f"V{letter}:q"
        for u, opcode, name, scalar, feature in _INTEGER:
            end = f"{size} {bits} {opcode} h:1 0 rn:5 rd:5"
            text = f"{name} <{kinds}:rd>, <{kinds}:rn>, {lane}"
            yield from simd_row(_VECTOR, f"{name}_simd_lane.{letter}", f"0 q:1 {u} 01111 {end}", text, feature)
            if scalar:
                text = f"{name} <{kind}:rd>, <{kind}:rn>, {lane}"
                yield from simd_row(_SCALAR, f"{name}_simd_lane.scalar_{letter}", f"01 {u} 11111 {end}", text, feature)
        result = "V4s" if letter == "h" else "V2d"
        for u, opcode, name, scalar in _LONG:
            end = f"{size} {bits} {opcode} h:1 0 rn:5 rd:5"
            for suffix, q, half in (("", "0", {"h": "V4h", "s": "V2s"}), ("2", "1", {"h": "V8h", "s": "V4s"})):
                text = f"{name}{suffix} <{result}:rd>, <{half[letter]}:rn>, {lane}"
                yield from simd_row(_VECTOR, f"{name}{suffix}_simd_lane.{letter}", f"0 {q} {u} 01111 {end}", text)
            if scalar:
                text = f"{name} <{wide}:rd>, <{kind}:rn>, {lane}"
                yield from simd_row(_SCALAR, f"{name}_simd_lane.scalar_{letter}", f"01 {u} 11111 {end}", text)


def _floating() -> Iterator[Encoding]:
    for size, (bits, lane), letter, q, kind, feature in (
        ("00", _H, "h", "q:1", "Vh:q", "FEAT_FP16"), ("10", _S, "s", "q:1", "Vs:q", ""),
        ("11", _D, "d", "1", "V2d", ""),
    ):  # fmt: skip
        for u, opcode, name in _FP:
            end, scalar = f"{size} {bits} {opcode} h:1 0 rn:5 rd:5", letter.upper()
            text = f"{name} <{kind}:rd>, <{kind}:rn>, {lane}"
            yield from simd_row(_VECTOR, f"{name}_simd_lane.{letter}", f"0 {q} {u} 01111 {end}", text, feature)
            text = f"{name} <{scalar}:rd>, <{scalar}:rn>, {lane}"
            yield from simd_row(_SCALAR, f"{name}_simd_lane.scalar_{letter}", f"01 {u} 11111 {end}", text, feature)
    for u, opcode, name in ((0, "0000", "fmlal"), (0, "0100", "fmlsl"), (1, "1000", "fmlal2"), (1, "1100", "fmlsl2")):
        yield from simd_row(
            _VECTOR, f"{name}_simd_lane", f"0 q:1 {u} 01111 10 {_H[0]} {opcode} h:1 0 rn:5 rd:5",
            f"{name} <Vs:q:rd>, <Vh2:q:rn>, {_H[1]}", "FEAT_FHM",
        )  # fmt: skip
    for name, q in (("bfmlalb", "0"), ("bfmlalt", "1")):
        yield from simd_row(
            _VECTOR, f"{name}_simd_lane", f"0 {q} 0 01111 11 {_H[0]} 1111 h:1 0 rn:5 rd:5",
            f"{name} <V4s:rd>, <V8h:rn>, {_H[1]}", "FEAT_BF16",
        )  # fmt: skip
    for suffix, q, size, kind, index, high in (
        ("4h", "0", "01 l:1", "V4h", "<Eh:rm>[<lane:l>]", "0"),
        ("8h", "1", "01 l:1", "V8h", "<Eh:rm>[<lane:h:l>]", "h:1"),
        ("4s", "1", "10 0", "V4s", "<Es:rm>[<lane:h>]", "h:1"),
    ):
        yield from simd_row(
            _VECTOR, f"fcmla_simd_lane.{suffix}", f"0 {q} 1 01111 {size} rm:5 0 rot:2 1 {high} 0 rn:5 rd:5",
            f"fcmla <{kind}:rd>, <{kind}:rn>, {index}, <rotate:rot>", "FEAT_FCMA",
        )  # fmt: skip


def _dots() -> Iterator[Encoding]:
    for name, u, size, opcode, source, lane, feature in (
        ("sdot", 0, "10", "1110", "Vb:q", "E4b", "FEAT_DotProd"),
        ("udot", 1, "10", "1110", "Vb:q", "E4b", "FEAT_DotProd"),
        ("sudot", 0, "00", "1111", "Vb:q", "E4b", "FEAT_I8MM"),
        ("usdot", 0, "10", "1111", "Vb:q", "E4b", "FEAT_I8MM"),
        ("bfdot", 0, "01", "1111", "Vh:q", "E2h", "FEAT_BF16"),
    ):
        yield from simd_row(
            _VECTOR, f"{name}_simd_lane", f"0 q:1 {u} 01111 {size} l:1 rm:5 {opcode} h:1 0 rn:5 rd:5",
            f"{name} <Vs:q:rd>, <{source}:rn>, <{lane}:rm>[<lane:h:l>]", feature,
        )  # fmt: skip


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    yield from _integer()
    yield from _floating()
    yield from _dots()

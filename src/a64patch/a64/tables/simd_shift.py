"""Vectors and single lanes shifted by constants: Arm ARM C4.1, Data Processing -- Scalar FP and Advanced SIMD.

Read on: simd_element.py for lanes as operands.

The highest 1 of immh tells the size of the elements, the bits after it the amount; so each size has its row.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from a64patch.a64.row import Encoding
from a64patch.a64.tables.simd_vector import simd_row

_SIZES = (("b", "0001 shift:3", 8), ("h", "001 shift:4", 16), ("s", "01 shift:5", 32), ("d", "1 shift:6", 64))

_SAME_SIZE = (
    # U, opcode, name, sizes of the vector and the scalar form, direction
    (0, "00000", "sshr", "bhsd", "d", "right"),
    (0, "00010", "ssra", "bhsd", "d", "right"),
    (0, "00100", "srshr", "bhsd", "d", "right"),
    (0, "00110", "srsra", "bhsd", "d", "right"),
    (0, "01010", "shl", "bhsd", "d", "left"),
    (0, "01110", "sqshl", "bhsd", "bhsd", "left"),
    (1, "00000", "ushr", "bhsd", "d", "right"),
    (1, "00010", "usra", "bhsd", "d", "right"),
    (1, "00100", "urshr", "bhsd", "d", "right"),
    (1, "00110", "ursra", "bhsd", "d", "right"),
    (1, "01000", "sri", "bhsd", "d", "right"),
    (1, "01010", "sli", "bhsd", "d", "left"),
    (1, "01100", "sqshlu", "bhsd", "bhsd", "left"),
    (1, "01110", "uqshl", "bhsd", "bhsd", "left"),
    (0, "11100", "scvtf", "hsd", "hsd", "right"),
    (0, "11111", "fcvtzs", "hsd", "hsd", "right"),
    (1, "11100", "ucvtf", "hsd", "hsd", "right"),
    (1, "11111", "fcvtzu", "hsd", "hsd", "right"),
)
_NARROW = (
    # U, opcode, name, whether it has a scalar form
    (0, "10000", "shrn", False),
    (0, "10001", "rshrn", False),
    (0, "10010", "sqshrn", True),
    (0, "10011", "sqrshrn", True),
    (1, "10000", "sqshrun", True),
    (1, "10001", "sqrshrun", True),
    (1, "10010", "uqshrn", True),
    (1, "10011", "uqrshrn", True),
)
_VECTOR, _SCALAR = "Advanced SIMD shift by immediate", "Advanced SIMD scalar shift by immediate"
_WHOLE = {"b": "V16b", "h": "V8h", "s": "V4s", "d": "V2d"}
_LOWER = {"b": "V8b", "h": "V4h", "s": "V2s"}


def _same_size() -> Iterator[Encoding]:
    for u, opcode, name, vector, scalar, direction in _SAME_SIZE:
        fixed_point = "cvt" in name
        own = f"{name}_simd_fixed" if fixed_point else f"{name}_simd_imm"
        for size, shift, bits in _SIZES:
            amount = f"<right{bits}:shift>" if direction == "right" else "<imm:shift>"
            end = f"{shift} {opcode} 1 rn:5 rd:5"
            feature = "FEAT_FP16" if fixed_point and size == "h" else ""
            if size in vector:
                q, kind = ("1", "V2d") if size == "d" else ("q:1", f"V{size}:q")
                text = f"{name} <{kind}:rd>, <{kind}:rn>, {amount}"
                yield from simd_row(_VECTOR, f"{own}.{size}", f"0 {q} {u} 011110 {end}", text, feature)
            if size in scalar:
                kind = size.upper()
                text = f"{name} <{kind}:rd>, <{kind}:rn>, {amount}"
                yield from simd_row(_SCALAR, f"{own}.scalar_{size}", f"01 {u} 111110 {end}", text, feature)


def _narrowing() -> Iterator[Encoding]:
    for u, opcode, name, scalar in _NARROW:
        for (size, shift, bits), (wide, _, _) in pairwise(_SIZES):
            end, amount = f"{shift} {opcode} 1 rn:5 rd:5", f"<right{bits}:shift>"
            for suffix, q, half in (("", "0", _LOWER[size]), ("2", "1", _WHOLE[size])):
                text = f"{name}{suffix} <{half}:rd>, <{_WHOLE[wide]}:rn>, {amount}"
                yield from simd_row(_VECTOR, f"{name}{suffix}_simd.{size}", f"0 {q} {u} 011110 {end}", text)
            if scalar:
                text = f"{name} <{size.upper()}:rd>, <{wide.upper()}:rn>, {amount}"
                yield from simd_row(_SCALAR, f"{name}_simd.scalar_{size}", f"01 {u} 111110 {end}", text)


def _widening() -> Iterator[Encoding]:
    for u, name, alias in ((0, "sshll", "sxtl"), (1, "ushll", "uxtl")):
        for (size, shift, bits), (wide, _, _) in pairwise(_SIZES):
            for suffix, q, half in (("", "0", _LOWER[size]), ("2", "1", _WHOLE[size])):
                operands = f"{suffix} <{_WHOLE[wide]}:rd>, <{half}:rn>"
                pattern = f"0 {q} {u} 011110 {{}} 10100 1 rn:5 rd:5"
                text = f"{name}{operands}, <imm:shift>"
                yield from simd_row(_VECTOR, f"{name}{suffix}_simd.{size}", pattern.format(shift), text)
                zero = f"{bits // 8:04b}000"
                yield from simd_row(_VECTOR, f"{alias}{suffix}_simd.{size}", pattern.format(zero), f"{alias}{operands}")


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    yield from _same_size()
    yield from _narrowing()
    yield from _widening()

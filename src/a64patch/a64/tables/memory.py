"""Loads and stores of general registers, and of SIMD and FP registers one at a time: Arm ARM C4.1, Loads and Stores.

May know: ../row.py. Read on: integer.py for arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding, rows


def _literals() -> Iterator[Encoding]:
    table = "Load register (literal)"
    yield from rows(
        table,
        ("ldr_lit.w", "00 011 0 00 imm19:19 rt:5", "ldr <W:rt>, <label:imm19>"),
        ("ldr_lit.x", "01 011 0 00 imm19:19 rt:5", "ldr <X:rt>, <label:imm19>"),
        ("ldrsw_lit", "10 011 0 00 imm19:19 rt:5", "ldrsw <X:rt>, <label:imm19>"),
        ("prfm_lit", "11 011 0 00 imm19:19 rt:5", "prfm <prfop:rt>, <label:imm19>"),
        ("ldr_fp_lit.s", "00 011 1 00 imm19:19 rt:5", "ldr <S:rt>, <label:imm19>"),
        ("ldr_fp_lit.d", "01 011 1 00 imm19:19 rt:5", "ldr <D:rt>, <label:imm19>"),
        ("ldr_fp_lit.q", "10 011 1 00 imm19:19 rt:5", "ldr <Q:rt>, <label:imm19>"),
        families="literal_load", literal=True,
    )  # fmt: skip


def _exclusives() -> Iterator[Encoding]:
    table = "Load/store exclusive register"
    for suffix, size, register in (("b", "00", "W"), ("h", "01", "W"), (".w", "10", "W"), (".x", "11", "X")):
        mnemonic = suffix if not suffix.startswith(".") else ""
        for order, o0 in (("", "0"), ("l", "1")):
            yield from rows(
                table,
                (f"st{order}xr{suffix}", f"{size} 001000 000 rs:5 {o0} 11111 rn:5 rt:5",
                 f"st{order}xr{mnemonic} <W:rs>, <{register}:rt>, [<XSP:rn>{{, <zero>}}]"),
                families="exclusive store_ex",
            )  # fmt: skip
        for order, o0 in (("", "0"), ("a", "1")):
            yield from rows(
                table,
                (f"ld{order}xr{suffix}", f"{size} 001000 010 11111 {o0} 11111 rn:5 rt:5",
                 f"ld{order}xr{mnemonic} <{register}:rt>, [<XSP:rn>{{, <zero>}}]"),
                families="exclusive load_ex",
            )  # fmt: skip
    table = "Load/store exclusive pair"
    for size, register in (("10", "W"), ("11", "X")):
        suffix = register.lower()
        for order, o0 in (("", "0"), ("l", "1")):
            yield from rows(
                table,
                (f"st{order}xp.{suffix}", f"{size} 001000 001 rs:5 {o0} rt2:5 rn:5 rt:5",
                 f"st{order}xp <W:rs>, <{register}:rt>, <{register}:rt2>, [<XSP:rn>{{, <zero>}}]"),
                families="exclusive store_ex",
            )  # fmt: skip
        for order, o0 in (("", "0"), ("a", "1")):
            yield from rows(
                table,
                (f"ld{order}xp.{suffix}", f"{size} 001000 011 11111 {o0} rt2:5 rn:5 rt:5",
                 f"ld{order}xp <{register}:rt>, <{register}:rt2>, [<XSP:rn>{{, <zero>}}]"),
                families="exclusive load_ex",
            )  # fmt: skip


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    yield from _literals()
    yield from _exclusives()

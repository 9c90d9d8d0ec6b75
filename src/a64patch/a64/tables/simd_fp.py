"""Scalar floating point: Arm ARM C4.1, Data Processing -- Scalar Floating-Point and Advanced SIMD.

Read on: simd_move.py for moving vectors, simd_vector.py for computing with them.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding, rows

_SIZES = (("", "0 sz:1", "SD:sz", ""), (".h", "11", "H", "FEAT_FP16"))
"""The field ftype: single or double in one row, half, which came later, in another."""


def _by_size(
    table: str, name: str, pattern: str, text: str, families: str = "", reads: str = "", writes: str = ""
) -> Iterator[Encoding]:
    """One row for S and D, one for H; `pattern` has ftype as `{}`, `text` has the kind of FP registers as `{}`."""
    for suffix, ftype, kind, feature in _SIZES:
        yield from rows(
            table,
            (f"{name}_fp{suffix}", pattern.format(ftype), text.replace("{}", kind)),
            families=f"fp {families}", feature=feature, reads=reads, writes=writes,
        )  # fmt: skip


def _one_source() -> Iterator[Encoding]:
    table = "Floating-point data-processing (1 source)"
    names = {0: "fmov", 1: "fabs", 2: "fneg", 3: "fsqrt", 8: "frintn", 9: "frintp", 10: "frintm", 11: "frintz",
             12: "frinta", 14: "frintx", 15: "frinti"}  # fmt: skip
    for opcode, name in names.items():
        yield from _by_size(
            table, name, f"00011110 {{}} 1 {opcode:06b} 10000 rn:5 rd:5", f"{name} <{{}}:rd>, <{{}}:rn>"
        )
    for opcode, name in ((16, "frint32z"), (17, "frint32x"), (18, "frint64z"), (19, "frint64x")):
        yield from rows(
            table,
            (f"{name}_fp", f"00011110 0 sz:1 1 {opcode:06b} 10000 rn:5 rd:5", f"{name} <SD:sz:rd>, <SD:sz:rn>"),
            families="fp", feature="FEAT_FRINTTS",
        )  # fmt: skip
    sizes = {"S": "00", "D": "01", "H": "11"}
    for source, ftype in sizes.items():
        for result, opc in sizes.items():
            if result != source:
                yield from rows(
                    table,
                    (f"fcvt.{source.lower()}{result.lower()}", f"00011110 {ftype} 1 0001 {opc} 10000 rn:5 rd:5",
                     f"fcvt <{result}:rd>, <{source}:rn>"),
                    families="fp",
                )  # fmt: skip
    yield from rows(
        table,
        ("bfcvt", "00011110 01 1 000110 10000 rn:5 rd:5", "bfcvt <H:rd>, <S:rn>"),
        families="fp", feature="FEAT_BF16",
    )  # fmt: skip


def _arithmetic() -> Iterator[Encoding]:
    names = ("fmul", "fdiv", "fadd", "fsub", "fmax", "fmin", "fmaxnm", "fminnm", "fnmul")
    for opcode, name in enumerate(names):
        yield from _by_size(
            "Floating-point data-processing (2 source)", name,
            f"00011110 {{}} 1 rm:5 {opcode:04b} 10 rn:5 rd:5", f"{name} <{{}}:rd>, <{{}}:rn>, <{{}}:rm>",
        )  # fmt: skip
    for opcode, name in enumerate(("fmadd", "fmsub", "fnmadd", "fnmsub")):
        yield from _by_size(
            "Floating-point data-processing (3 source)", name,
            f"00011111 {{}} {opcode >> 1} rm:5 {opcode & 1} ra:5 rn:5 rd:5",
            f"{name} <{{}}:rd>, <{{}}:rn>, <{{}}:rm>, <{{}}:ra>",
        )  # fmt: skip


def _comparisons() -> Iterator[Encoding]:
    table = "Floating-point compare"
    for name, signals in (("fcmp", "0"), ("fcmpe", "1")):
        yield from _by_size(
            table, name, f"00011110 {{}} 1 rm:5 001000 rn:5 {signals}0000", f"{name} <{{}}:rn>, <{{}}:rm>",
            writes="nzcv",
        )  # fmt: skip
        yield from _by_size(
            table, f"{name}_zero", f"00011110 {{}} 1 00000 001000 rn:5 {signals}1000", f"{name} <{{}}:rn>, <#0.0>",
            writes="nzcv",
        )  # fmt: skip
        name = name.replace("cmp", "ccmp")
        yield from _by_size(
            "Floating-point conditional compare", name,
            f"00011110 {{}} 1 rm:5 cond:4 01 rn:5 {signals} nzcv:4",
            f"{name} <{{}}:rn>, <{{}}:rm>, <hex:nzcv>, <cond:cond>", reads="nzcv", writes="nzcv",
        )  # fmt: skip
    yield from _by_size(
        "Floating-point conditional select", "fcsel",
        "00011110 {} 1 rm:5 cond:4 11 rn:5 rd:5", "fcsel <{}:rd>, <{}:rn>, <{}:rm>, <cond:cond>", reads="nzcv",
    )  # fmt: skip
    yield from _by_size(
        "Floating-point immediate", "fmov_imm", "00011110 {} 1 imm8:8 100 00000 rd:5", "fmov <{}:rd>, <float:imm8>"
    )


_TO_INTEGER = (
    ("fcvtns", "00000"), ("fcvtnu", "00001"), ("fcvtas", "00100"), ("fcvtau", "00101"), ("fcvtps", "01000"),
    ("fcvtpu", "01001"), ("fcvtms", "10000"), ("fcvtmu", "10001"), ("fcvtzs", "11000"), ("fcvtzu", "11001"),
)  # fmt: skip
_FROM_INTEGER = (("scvtf", "00010"), ("ucvtf", "00011"))


def _conversions() -> Iterator[Encoding]:
    table = "Conversion between floating-point and integer"
    pattern = "sf:1 0011110 {} 1 %s 000000 rn:5 rd:5"
    for name, opcode in _TO_INTEGER:
        yield from _by_size(table, name, pattern % opcode, f"{name} <R:sf:rd>, <{{}}:rn>")
    for name, opcode in _FROM_INTEGER:
        yield from _by_size(table, name, pattern % opcode, f"{name} <{{}}:rd>, <R:sf:rn>")
    for fp, general, sf, ftype in (
        ("S", "W", "0", "00"), ("D", "X", "1", "01"), ("H", "W", "0", "11"), ("H", "X", "1", "11"),
    ):  # fmt: skip
        names = fp.lower() + general.lower()
        yield from rows(
            table,
            (f"fmov_fp.{names}", f"{sf} 0011110 {ftype} 1 00111 000000 rn:5 rd:5",
             (f"fmov <{fp}:rd>, <{general}:rn>", f"fmov <{fp}:rd>, <#0.0><=31:rn>")),
            (f"fmov_fp.{names[::-1]}", f"{sf} 0011110 {ftype} 1 00110 000000 rn:5 rd:5",
             f"fmov <{general}:rd>, <{fp}:rn>"),
            families="fp", feature="FEAT_FP16" if fp == "H" else "",
        )  # fmt: skip
    yield from rows(
        table,
        ("fmov_fp.vx", "1 0011110 10 1 01111 000000 rn:5 rd:5", "fmov <Ed:rd>[1], <X:rn>"),
        families="fp", reads="rd",
    )  # fmt: skip
    yield from rows(
        table,
        ("fmov_fp.xv", "1 0011110 10 1 01110 000000 rn:5 rd:5", "fmov <X:rd>, <Ed:rn>[1]"),
        families="fp",
    )
    yield from rows(
        table,
        ("fjcvtzs", "0 0011110 01 1 11110 000000 rn:5 rd:5", "fjcvtzs <W:rd>, <D:rn>"),
        families="fp", feature="FEAT_JSCVT", writes="nzcv",
    )  # fmt: skip
    table = "Conversion between floating-point and fixed-point"
    for general, sf, scale, fraction in (("W", "0", "1 scale:5", "right32"), ("X", "1", "scale:6", "right64")):
        for name, opcode in _TO_INTEGER[-2:]:
            yield from _by_size(
                table, f"{name}_fixed.{general.lower()}", f"{sf} 0011110 {{}} 0 {opcode} {scale} rn:5 rd:5",
                f"{name} <{general}:rd>, <{{}}:rn>, <{fraction}:scale>", f"{name}_fp",
            )  # fmt: skip
        for name, opcode in _FROM_INTEGER:
            yield from _by_size(
                table, f"{name}_fixed.{general.lower()}", f"{sf} 0011110 {{}} 0 {opcode} {scale} rn:5 rd:5",
                f"{name} <{{}}:rd>, <{general}:rn>, <{fraction}:scale>", f"{name}_fp",
            )  # fmt: skip


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    yield from _one_source()
    yield from _arithmetic()
    yield from _comparisons()
    yield from _conversions()

"""Cryptography, dot products, matrices, complex numbers: Arm ARM C4.1, Data Processing -- Scalar FP and Advanced SIMD.

Read on: simd_fp8.py for the newest.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding
from a64patch.a64.tables.simd_vector import simd_row, sized


def _aes_and_sha() -> Iterator[Encoding]:
    end = "10 rn:5 rd:5"
    for name, opcode in (("aese", "00100"), ("aesd", "00101"), ("aesmc", "00110"), ("aesimc", "00111")):
        yield from simd_row(
            "Cryptographic AES", name, f"01001110 00 10100 {opcode} {end}", f"{name} <V16b:rd>, <V16b:rn>", "FEAT_AES"
        )
    for name, opcode, first, second in (
        ("sha1c", "000", "Q", "S"), ("sha1p", "001", "Q", "S"), ("sha1m", "010", "Q", "S"),
        ("sha1su0", "011", "V4s", "V4s"),
        ("sha256h", "100", "Q", "Q"), ("sha256h2", "101", "Q", "Q"), ("sha256su1", "110", "V4s", "V4s"),
    ):  # fmt: skip
        yield from simd_row(
            "Cryptographic three-register SHA", name, f"01011110 000 rm:5 0 {opcode} 00 rn:5 rd:5",
            f"{name} <{first}:rd>, <{second}:rn>, <V4s:rm>", "FEAT_SHA1" if name < "sha2" else "FEAT_SHA256",
        )  # fmt: skip
    for name, opcode, kind, feature in (
        ("sha1h", "00000", "S", "FEAT_SHA1"), ("sha1su1", "00001", "V4s", "FEAT_SHA1"),
        ("sha256su0", "00010", "V4s", "FEAT_SHA256"),
    ):  # fmt: skip
        pattern = f"01011110 00 10100 {opcode} {end}"
        yield from simd_row(
            "Cryptographic two-register SHA", name, pattern, f"{name} <{kind}:rd>, <{kind}:rn>", feature
        )


def _later_hashes() -> Iterator[Encoding]:
    table = "Cryptographic three-register SHA 512"
    for name, o, opcode, operands, feature in (
        ("sha512h", "0", "00", "<Q:rd>, <Q:rn>, <V2d:rm>", "FEAT_SHA512"),
        ("sha512h2", "0", "01", "<Q:rd>, <Q:rn>, <V2d:rm>", "FEAT_SHA512"),
        ("sha512su1", "0", "10", "<V2d:rd>, <V2d:rn>, <V2d:rm>", "FEAT_SHA512"),
        ("rax1", "0", "11", "<V2d:rd>, <V2d:rn>, <V2d:rm>", "FEAT_SHA3"),
        ("sm3partw1", "1", "00", "<V4s:rd>, <V4s:rn>, <V4s:rm>", "FEAT_SM3"),
        ("sm3partw2", "1", "01", "<V4s:rd>, <V4s:rn>, <V4s:rm>", "FEAT_SM3"),
        ("sm4ekey", "1", "10", "<V4s:rd>, <V4s:rn>, <V4s:rm>", "FEAT_SM4"),
    ):
        pattern = f"11001110011 rm:5 1 {o} 00 {opcode} rn:5 rd:5"
        yield from simd_row(table, name, pattern, f"{name} {operands}", feature)
    table = "Cryptographic two-register SHA 512"
    yield from simd_row(
        table, "sha512su0", "1100111011000000100000 rn:5 rd:5", "sha512su0 <V2d:rd>, <V2d:rn>", "FEAT_SHA512"
    )
    yield from simd_row(table, "sm4e", "1100111011000000100001 rn:5 rd:5", "sm4e <V4s:rd>, <V4s:rn>", "FEAT_SM4")
    for name, opcode, kind, feature in (
        ("eor3", "00", "V16b", "FEAT_SHA3"), ("bcax", "01", "V16b", "FEAT_SHA3"), ("sm3ss1", "10", "V4s", "FEAT_SM3"),
    ):  # fmt: skip
        yield from simd_row(
            "Cryptographic four-register", name, f"110011100 {opcode} rm:5 0 ra:5 rn:5 rd:5",
            f"{name} <{kind}:rd>, <{kind}:rn>, <{kind}:rm>, <{kind}:ra>", feature,
        )  # fmt: skip
    yield from simd_row(
        "Cryptographic three-register, imm6", "xar", "11001110100 rm:5 imm6:6 rn:5 rd:5",
        "xar <V2d:rd>, <V2d:rn>, <V2d:rm>, <imm:imm6>", "FEAT_SHA3",
    )  # fmt: skip
    for number, name in enumerate(("sm3tt1a", "sm3tt1b", "sm3tt2a", "sm3tt2b")):
        yield from simd_row(
            "Cryptographic three-register, imm2", name, f"11001110010 rm:5 10 i:2 {number:02b} rn:5 rd:5",
            f"{name} <V4s:rd>, <V4s:rn>, <Es:rm>[<lane:i>]", "FEAT_SM3",
        )  # fmt: skip


def _three_same_extra() -> Iterator[Encoding]:
    table = "Advanced SIMD three-register extension"
    for name, opcode in (("sqrdmlah", "0000"), ("sqrdmlsh", "0001")):
        for form, bits, kind in (("", "0 q:1 1 01110", "V:size:q"), (".scalar", "01 1 11110", "BHSD:size")):
            yield from sized(
                table if not form else "Advanced SIMD scalar three same extra",
                f"{name}_simd{form}", f"{bits} size:2 0 rm:5 1 {opcode} 1 rn:5 rd:5",
                f"{name} <{kind}:rd>, <{kind}:rn>, <{kind}:rm>", "hs", "FEAT_RDM",
            )  # fmt: skip
    for name, q, u, size, opcode, result, source, feature in (
        ("sdot", "q:1", 0, "10", "0010", "Vs:q", "Vb:q", "FEAT_DotProd"),
        ("udot", "q:1", 1, "10", "0010", "Vs:q", "Vb:q", "FEAT_DotProd"),
        ("usdot", "q:1", 0, "10", "0011", "Vs:q", "Vb:q", "FEAT_I8MM"),
        ("smmla", "1", 0, "10", "0100", "V4s", "V16b", "FEAT_I8MM"),
        ("ummla", "1", 1, "10", "0100", "V4s", "V16b", "FEAT_I8MM"),
        ("usmmla", "1", 0, "10", "0101", "V4s", "V16b", "FEAT_I8MM"),
        ("bfdot", "q:1", 1, "01", "1111", "Vs:q", "Vh:q", "FEAT_BF16"),
        ("bfmmla", "1", 1, "01", "1101", "V4s", "V8h", "FEAT_BF16"),
        ("bfmlalb", "0", 1, "11", "1111", "V4s", "V8h", "FEAT_BF16"),
        ("bfmlalt", "1", 1, "11", "1111", "V4s", "V8h", "FEAT_BF16"),
    ):
        yield from simd_row(
            table, f"{name}_simd", f"0 {q} {u} 01110 {size} 0 rm:5 1 {opcode} 1 rn:5 rd:5",
            f"{name} <{result}:rd>, <{source}:rn>, <{source}:rm>", feature,
        )  # fmt: skip
    for name, opcode, rotation in (("fcmla", "10 rot:2", "<rotate:rot>"), ("fcadd", "11 rot:1 0", "<rotate90:rot>")):
        operands = f"{name} <V:size:q:rd>, <V:size:q:rn>, <V:size:q:rm>, {rotation}"
        pattern = f"0 q:1 1 01110 size:2 0 rm:5 1 {opcode} 1 rn:5 rd:5"
        yield from sized(table, f"{name}_simd", pattern, operands, "hsd", "FEAT_FCMA")


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    yield from _aes_and_sha()
    yield from _later_hashes()
    yield from _three_same_extra()

"""Moving vectors and lanes, constants, permutations: Arm ARM C4.1, Data Processing -- Scalar FP and Advanced SIMD.

Read on: simd_vector.py for computing with vectors.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding, holes, rows

# Bits of imm4 and imm5 that the manual ignores are 0 here, as an assembler sets them: other words have no text.
_LANES = (
    # element, imm5 with the index, imm5 without, imm4 of INS (element)
    ("b", "i:4 1", "00001", "j:4"),
    ("h", "i:3 10", "00010", "j:3 0"),
    ("s", "i:2 100", "00100", "j:2 00"),
    ("d", "i:1 1000", "01000", "j:1 000"),
)


def _lanes() -> Iterator[Encoding]:
    table = "Advanced SIMD copy"
    for element, imm5, only, imm4 in _LANES:
        lane, letter = f"<E{element}:rn>[<lane:i>]", element.upper()
        general = "X" if element == "d" else "W"
        q, vector = ("1", "<V2d:rd>") if element == "d" else ("q:1", f"<V{element}:q:rd>")
        yield from rows(
            "Advanced SIMD scalar copy",
            (f"dup_simd.scalar_{element}", f"01 0 11110000 {imm5} 000001 rn:5 rd:5",
             (f"mov <{letter}:rd>, {lane}", f"dup <{letter}:rd>, {lane}")),
            families="simd",
        )  # fmt: skip
        texts = [f"{name} <E{element}:rd>[<lane:i>], " for name in ("mov", "ins")]
        yield from rows(
            table,
            (f"dup_simd.{element}", f"0 {q} 0 01110000 {imm5} 000001 rn:5 rd:5", f"dup {vector}, {lane}"),
            (f"dup_simd.general_{element}", f"0 {q} 0 01110000 {only} 000011 rn:5 rd:5",
             f"dup {vector}, <{general}:rn>"),
            families="simd",
        )  # fmt: skip
        yield from rows(
            table,
            (f"ins_simd.general_{element}", f"0 1 0 01110000 {imm5} 000111 rn:5 rd:5",
             tuple(f"{text}<{general}:rn>" for text in texts)),
            (f"ins_simd.{element}", f"0 1 1 01110000 {imm5} 0 {imm4} 1 rn:5 rd:5",
             tuple(f"{text}<E{element}:rn>[<lane:j>]" for text in texts)),
            families="simd", reads="rd",
        )  # fmt: skip
        wide = "1" if element == "d" else "0"
        preferred = ("mov", "umov") if element in "sd" else ("umov",)
        yield from rows(
            table,
            (f"umov_simd.{element}", f"0 {wide} 0 01110000 {imm5} 001111 rn:5 rd:5",
             tuple(f"{name} <{general}:rd>, {lane}" for name in preferred)),
            families="simd",
        )  # fmt: skip
        for general, q in (("W", "0"), ("X", "1")):
            if element in ("bh" if general == "W" else "bhs"):
                yield from rows(
                    table,
                    (f"smov_simd.{general.lower()}{element}", f"0 {q} 0 01110000 {imm5} 001011 rn:5 rd:5",
                     f"smov <{general}:rd>, {lane}"),
                    families="simd",
                )  # fmt: skip


def _permutations() -> Iterator[Encoding]:
    yield from rows(
        "Advanced SIMD extract",
        ("ext_simd.8b", "0 0 101110 000 rm:5 0 0 i:3 0 rn:5 rd:5", "ext <V8b:rd>, <V8b:rn>, <V8b:rm>, <imm:i>"),
        ("ext_simd.16b", "0 1 101110 000 rm:5 0 i:4 0 rn:5 rd:5", "ext <V16b:rd>, <V16b:rn>, <V16b:rm>, <imm:i>"),
        families="simd",
    )
    for length in range(1, 5):
        for name, op in (("tbl", "0"), ("tbx", "1")):
            yield from rows(
                "Advanced SIMD table lookup",
                (f"{name}_simd.{length}", f"0 q:1 001110 000 rm:5 0 {length - 1:02b} {op} 00 rn:5 rd:5",
                 f"{name} <Vb:q:rd>, <V16b*{length}:rn>, <Vb:q:rm>"),
                families="simd", reads="rd" if name == "tbx" else "",
            )  # fmt: skip
    for name, opcode in (
        ("uzp1", "001"), ("trn1", "010"), ("zip1", "011"), ("uzp2", "101"), ("trn2", "110"), ("zip2", "111"),
    ):  # fmt: skip
        table, bits = "Advanced SIMD permute", f"0 rm:5 0 {opcode} 10 rn:5 rd:5"
        yield from rows(
            table,
            (f"{name}_simd", f"0 q:1 001110 size:2 {bits}", f"{name} <V:size:q:rd>, <V:size:q:rn>, <V:size:q:rm>"),
            families="simd",
        )
        yield from holes(table, f"0 0 001110 11 {bits}")


def _constants() -> Iterator[Encoding]:
    table = "Advanced SIMD modified immediate"

    def row(name: str, text: str, op: str, cmode: str, q: str = "q:1", o2: str = "0", feature: str = "") -> Encoding:
        pattern = f"0 {q} {op} 0111100000 abc:3 {cmode} {o2} 1 defgh:5 rd:5"
        reads = "rd" if text.startswith(("orr", "bic")) else ""
        return next(rows(table, (name, pattern, text), families="simd", feature=feature, reads=reads))

    for op, move, logic in (("0", "movi", "orr"), ("1", "mvni", "bic")):
        for suffix, kind, cmode in (("s", "Vs", "0 shift:2"), ("h", "Vh", "10 shift:1")):
            operands = f"<{kind}:q:rd>, <hex:abc:defgh>{{, <lsl8:shift>}}"
            yield row(f"{move}_simd.{suffix}", f"{move} {operands}", op, f"{cmode} 0")
            yield row(f"{logic}_simd_imm.{suffix}", f"{logic} {operands}", op, f"{cmode} 1")
        yield row(f"{move}_simd.msl", f"{move} <Vs:q:rd>, <hex:abc:defgh>, <msl8:shift>", op, "110 shift:1")
    yield row("movi_simd.b", "movi <Vb:q:rd>, <hex:abc:defgh>", "0", "1110")
    yield row("movi_simd.scalar", "movi <D:rd>, <bytemask:abc:defgh>", "1", "1110", q="0")
    yield row("movi_simd.2d", "movi <V2d:rd>, <bytemask:abc:defgh>", "1", "1110", q="1")
    yield row("fmov_simd.s", "fmov <Vs:q:rd>, <float:abc:defgh>", "0", "1111")
    yield row("fmov_simd.2d", "fmov <V2d:rd>, <float:abc:defgh>", "1", "1111", q="1")
    yield row("fmov_simd.h", "fmov <Vh:q:rd>, <float:abc:defgh>", "0", "1111", o2="1", feature="FEAT_FP16")


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    yield from _lanes()
    yield from _permutations()
    yield from _constants()

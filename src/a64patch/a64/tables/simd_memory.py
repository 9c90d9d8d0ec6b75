"""Loads and stores of SIMD and FP registers: Arm ARM C4.1, Loads and Stores.

Read on: simd_fp.py for scalar arithmetic; memory.py has the literal loads.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding, rows

_ACCESSES = {"st": "store", "ld": "load"}
"""What the first two letters of a name say."""


def _registers() -> Iterator[Encoding]:
    for shift, letter in enumerate("BHSDQ"):
        size, scale = f"{shift % 4:02b}", 1 << shift
        for verb, load in (("str", "0"), ("ldr", "1")):
            opc, suffix, families = f"{shift // 4}{load}", letter.lower(), f"ldst_simd {verb}_simd"
            memory = _ACCESSES[verb[:2]]
            unscaled = verb.replace("r", "ur")
            if verb == "str":
                unscaled = "stur"
            base, step = f"{verb} <{letter}:rt>, [<XSP:rn>", "<signed_1:imm9>"
            far = f"{unscaled} <{letter}:rt>, [<XSP:rn>{{, <signed_offset_1:imm9>}}]"
            yield from rows(
                "Load/store register (unsigned immediate)",
                (f"{verb}_simd_imm.{suffix}", f"{size} 111101 {opc} imm12:12 rn:5 rt:5",
                 f"{base}{{, <offset_{scale}:imm12>}}]"),
                families=families, memory=memory,
            )  # fmt: skip
            yield from rows(
                "Load/store register (unscaled immediate)",
                (f"{unscaled}_simd.{suffix}", f"{size} 111100 {opc} 0 imm9:9 00 rn:5 rt:5",
                 (far, far.replace(unscaled, verb))),
                families=families, memory=memory,
            )  # fmt: skip
            yield from rows(
                "Load/store register (immediate post-indexed)",
                (f"{verb}_simd_post.{suffix}", f"{size} 111100 {opc} 0 imm9:9 01 rn:5 rt:5", f"{base}], {step}"),
                families=families, memory=memory,
            )  # fmt: skip
            yield from rows(
                "Load/store register (immediate pre-indexed)",
                (f"{verb}_simd_pre.{suffix}", f"{size} 111100 {opc} 0 imm9:9 11 rn:5 rt:5", f"{base}, {step}]!"),
                families=families, memory=memory,
            )  # fmt: skip
            yield from rows(
                "Load/store register (register offset)",
                (f"{verb}_simd_reg.{suffix}", f"{size} 111100 {opc} 1 rm:5 sign:1 1 wide:1 s:1 10 rn:5 rt:5",
                 f"{base}, <index_{scale}:rm:sign:wide:s>]"),
                families=families, memory=memory,
            )  # fmt: skip


def _ordered() -> Iterator[Encoding]:
    for shift, letter in enumerate("BHSDQ"):
        for name, load in (("stlur", "0"), ("ldapur", "1")):
            yield from rows(
                "LDAPR/STLR (SIMD&FP)",
                (f"{name}_simd.{letter.lower()}", f"{shift % 4:02b} 011101 {shift // 4}{load} 0 imm9:9 10 rn:5 rt:5",
                 f"{name} <{letter}:rt>, [<XSP:rn>{{, <signed_offset_1:imm9>}}]"),
                families="ldst_simd", feature="FEAT_LRCPC3", memory=_ACCESSES[name[:2]],
            )  # fmt: skip
    for name, load in (("stl1", "0"), ("ldap1", "1")):
        yield from rows(
            "Advanced SIMD load/store single structure",
            (name, f"0 q:1 001101 0 {load} 0 00001 100001 rn:5 rt:5", f"{name} <Ed*1:rt>[<lane:q>], [<XSP:rn>]"),
            families="ldst_simd structure", feature="FEAT_LRCPC3", reads="rt", memory=_ACCESSES[name[:2]],
        )  # fmt: skip


def _pairs() -> Iterator[Encoding]:
    for opc, letter, scale in (("00", "S", 4), ("01", "D", 8), ("10", "Q", 16)):
        for verb, load in (("stp", "0"), ("ldp", "1")):
            suffix, families, memory = letter.lower(), f"ldst_simd {verb}_simd", _ACCESSES[verb[:2]]
            base = f" <{letter}:rt>, <{letter}:rt2>, [<XSP:rn>"
            fields = f"{load} imm7:7 rt2:5 rn:5 rt:5"
            offset = f"{{, <signed_offset_{scale}:imm7>}}]"
            yield from rows(
                "Load/store no-allocate pair (offset)",
                (f"{verb[:2]}np_simd.{suffix}", f"{opc} 101100 0 {fields}", f"{verb[:2]}np{base}{offset}"),
                families=families, memory=memory,
            )  # fmt: skip
            yield from rows(
                "Load/store register pair",
                (f"{verb}_simd_post.{suffix}", f"{opc} 101100 1 {fields}", f"{verb}{base}], <signed_{scale}:imm7>"),
                (f"{verb}_simd_imm.{suffix}", f"{opc} 101101 0 {fields}", f"{verb}{base}{offset}"),
                (f"{verb}_simd_pre.{suffix}", f"{opc} 101101 1 {fields}", f"{verb}{base}, <signed_{scale}:imm7>]!"),
                families=families, memory=memory,
            )  # fmt: skip


def _indexed(table: str, name: str, pattern: str, text: str, step: str) -> Iterator[Encoding]:
    """The three rows of a load or store of structures; `pattern` has the bit of post-indexing and Rm as `{}`."""
    address, memory = "[<XSP:rn>{, <zero>}]", _ACCESSES[name[:2]]
    reads = "rt" if "_single" in name else ""  # the other lanes stay
    yield from rows(
        table, (f"{name}", pattern.format("0", "00000"), f"{text}, {address}"),
        families="ldst_simd structure", memory=memory, reads=reads,
    )  # fmt: skip
    yield from rows(
        f"{table} (post-indexed)",
        (f"{name}_post", pattern.format("1", "rm:5"), f"{text}, [<XSP:rn>], <X!:rm>"),
        (f"{name}_post_imm", pattern.format("1", "11111"), f"{text}, [<XSP:rn>], <{step}>"),
        families="ldst_simd structure", memory=memory, reads=reads,
    )  # fmt: skip


_ARRANGEMENTS = (
    # suffix, Q, size, kind, bytes of a register: all but 1D, which only LD1 and ST1 have
    ("", "1", "size:2", "Vwhole", 16),
    (".8b_4h", "0", "0 size:1", "Vlower", 8),
    (".2s", "0", "10", "V2s", 8),
)


def _structures() -> Iterator[Encoding]:
    table = "Advanced SIMD load/store multiple structures"
    for verb, load in (("st", "0"), ("ld", "1")):
        for registers, opcode in ((1, "0111"), (2, "1010"), (3, "0110"), (4, "0010")):
            yield from _indexed(
                table, f"{verb}1_multiple.{registers}",
                f"0 q:1 001100 {{}} {load} 0 {{}} {opcode} size:2 rn:5 rt:5",
                f"{verb}1 <V1*{registers}:size:q:rt>", f"bytes{registers}:q",
            )  # fmt: skip
        for elements, opcode in ((2, "1000"), (3, "0100"), (4, "0000")):
            for suffix, q, size, kind, width in _ARRANGEMENTS:
                fields = "size:rt" if ":" in size else "rt"
                yield from _indexed(
                    table, f"{verb}{elements}_multiple{suffix}",
                    f"0 {q} 001100 {{}} {load} 0 {{}} {opcode} {size} rn:5 rt:5",
                    f"{verb}{elements} <{kind}*{elements}:{fields}>", f"#{elements * width}",
                )  # fmt: skip


_LANES = (
    # element, opcode<2:1>, S and size, index
    ("b", "00", "s:1 size:2", "q:s:size"),
    ("h", "01", "s:1 size:1 0", "q:s:size"),
    ("s", "10", "s:1 00", "q:s"),
    ("d", "10", "001", "q"),
)


def _single_structures() -> Iterator[Encoding]:
    table = "Advanced SIMD load/store single structure"
    for elements in range(1, 5):
        r, low = "01"[elements in (2, 4)], "01"[elements > 2]
        for verb, load in (("st", "0"), ("ld", "1")):
            for position, (element, opcode, bits, index) in enumerate(_LANES):
                yield from _indexed(
                    table, f"{verb}{elements}_single.{element}",
                    f"0 q:1 001101 {{}} {load} {r} {{}} {opcode}{low} {bits} rn:5 rt:5",
                    f"{verb}{elements} <E{element}*{elements}:rt>[<lane:{index}>]", f"#{elements << position}",
                )  # fmt: skip
        yield from _indexed(
            table, f"ld{elements}r", f"0 q:1 001101 {{}} 1 {r} {{}} 11{low} 0 size:2 rn:5 rt:5",
            f"ld{elements}r <copies*{elements}:size:q:rt>", f"lanes{elements}:size",
        )  # fmt: skip


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    yield from _registers()
    yield from _ordered()
    yield from _pairs()
    yield from _structures()
    yield from _single_structures()

"""Computing with vectors and with single lanes: Arm ARM C4.1, Data Processing -- Scalar FP and Advanced SIMD.

Read on: simd_lanes.py for shifts and lanes as operands, simd_crypto.py for the rest.

The scalar form of an instruction has bits 31:28 = 01x1 where the vector form has 0Qx0; names end in `.scalar`.
Sizes are letters: `bhsd` are the sizes 0 to 3 that a row has; 64 bits need Q.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding, holes

_ACCUMULATE_OR_SELECT = (
    "saba uaba mla mls sqrdmlah sqrdmlsh fmla fmls fmlal fmlsl fmlal2 fmlsl2 fcmla bsl bit bif suqadd usqadd"
    " sadalp uadalp ssra usra srsra ursra sri sli sabal uabal smlal umlal smlsl umlsl sqdmlal sqdmlsl"
    " sabal2 uabal2 smlal2 umlal2 smlsl2 umlsl2 sqdmlal2 sqdmlsl2"
    " sdot udot usdot sudot smmla ummla usmmla bfdot bfmmla bfmlalb bfmlalt"
)
_LEAVE_THE_LOWER_HALF = (
    "addhn2 raddhn2 subhn2 rsubhn2 xtn2 sqxtn2 sqxtun2 uqxtn2 fcvtn2 fcvtxn2 bfcvtn2"
    " shrn2 rshrn2 sqshrn2 sqrshrn2 sqshrun2 sqrshrun2 uqshrn2 uqrshrn2"
)
_ROUNDS = (
    "aese aesd sha1c sha1p sha1m sha1su0 sha1su1 sha256h sha256h2 sha256su0 sha256su1 sha512h sha512h2 sha512su0"
    " sha512su1 sm3partw1 sm3partw2 sm3tt1a sm3tt1b sm3tt2a sm3tt2b sm4e"
)
_READ_RD = frozenset(f"{_ACCUMULATE_OR_SELECT} {_LEAVE_THE_LOWER_HALF} {_ROUNDS}".split())
"""The instructions that read Rd too: V[d] is an operand of their pseudocode (C7.2)."""


def simd_row(table: str, name: str, pattern: str, text: str | tuple[str, ...], feature: str = "") -> Iterator[Encoding]:
    """One row of the family `simd`."""
    texts = (text,) if isinstance(text, str) else text
    own = name.partition(".")[0]
    reads = "rd" if own.partition("_")[0] in _READ_RD else ""
    yield Encoding(name, pattern, texts, (own, "simd"), table, feature=feature, reads=reads)


def sized(
    table: str, name: str, pattern: str, text: str | tuple[str, ...], sizes: str, feature: str = ""
) -> Iterator[Encoding]:
    """A row whose size is a field `size:2`, without the sizes that the instruction has not."""
    if len(sizes) == 1:
        # Then Q alone tells the arrangement.
        fixed = pattern.replace("size:2", f"{'bhsd'.index(sizes):02b}")
        texts = (text,) if isinstance(text, str) else text
        text = tuple(each.replace("<V:size:q:", f"<V{sizes}:q:").replace("<BHSD:size:", f"<{sizes.upper()}:")
                     for each in texts)  # fmt: skip
        yield from simd_row(table, name, fixed, text, feature)
        return
    yield from simd_row(table, name, pattern, text, feature)
    for number, letter in enumerate("bhsd"):
        if letter not in sizes:
            yield from holes(table, pattern.replace("size:2", f"{number:02b}"))
    if "d" in sizes and "q:1" in pattern:
        yield from holes(table, pattern.replace("size:2", "11").replace("q:1", "0"))


def _three(kind: str) -> str:
    return f"<{kind}:rd>, <{kind}:rn>, <{kind}:rm>"


def _swapped(kind: str) -> str:
    return f"<{kind}:rd>, <{kind}:rm>, <{kind}:rn>"


_SWAPPED = {
    "cmgt": "cmlt", "cmge": "cmle", "cmhi": "cmlo", "cmhs": "cmls",
    "fcmge": "fcmle", "fcmgt": "fcmlt", "facge": "facle", "facgt": "faclt",
}  # fmt: skip
"""Comparisons that assemblers spell with the operands the other way round."""

_THREE_SAME = (
    # opcode, name for U=0, sizes of its vector and scalar form, and the same for U=1
    ("00000", "shadd", "bhs", "", "uhadd", "bhs", ""),
    ("00001", "sqadd", "bhsd", "bhsd", "uqadd", "bhsd", "bhsd"),
    ("00010", "srhadd", "bhs", "", "urhadd", "bhs", ""),
    ("00100", "shsub", "bhs", "", "uhsub", "bhs", ""),
    ("00101", "sqsub", "bhsd", "bhsd", "uqsub", "bhsd", "bhsd"),
    ("00110", "cmgt", "bhsd", "d", "cmhi", "bhsd", "d"),
    ("00111", "cmge", "bhsd", "d", "cmhs", "bhsd", "d"),
    ("01000", "sshl", "bhsd", "d", "ushl", "bhsd", "d"),
    ("01001", "sqshl", "bhsd", "bhsd", "uqshl", "bhsd", "bhsd"),
    ("01010", "srshl", "bhsd", "d", "urshl", "bhsd", "d"),
    ("01011", "sqrshl", "bhsd", "bhsd", "uqrshl", "bhsd", "bhsd"),
    ("01100", "smax", "bhs", "", "umax", "bhs", ""),
    ("01101", "smin", "bhs", "", "umin", "bhs", ""),
    ("01110", "sabd", "bhs", "", "uabd", "bhs", ""),
    ("01111", "saba", "bhs", "", "uaba", "bhs", ""),
    ("10000", "add", "bhsd", "d", "sub", "bhsd", "d"),
    ("10001", "cmtst", "bhsd", "d", "cmeq", "bhsd", "d"),
    ("10010", "mla", "bhs", "", "mls", "bhs", ""),
    ("10011", "mul", "bhs", "", "pmul", "b", ""),
    ("10100", "smaxp", "bhs", "", "umaxp", "bhs", ""),
    ("10101", "sminp", "bhs", "", "uminp", "bhs", ""),
    ("10110", "sqdmulh", "hs", "hs", "sqrdmulh", "hs", "hs"),
    ("10111", "addp", "bhsd", "", "", "", ""),
)


def _three_same() -> Iterator[Encoding]:
    for opcode, *names in _THREE_SAME:
        for u, (name, vector, scalar) in enumerate((names[:3], names[3:])):
            other = _SWAPPED.get(name)
            for sizes, form, bits, table, kind in (
                (vector, "", f"0 q:1 {u} 01110", "Advanced SIMD three same", "V:size:q"),
                (scalar, ".scalar", f"01 {u} 11110", "Advanced SIMD scalar three same", "BHSD:size"),
            ):
                texts = [f"{name} {_three(kind)}"] + ([f"{other} {_swapped(kind)}"] if other else [])
                if sizes:
                    yield from sized(
                        table, f"{name}_simd{form}", f"{bits} size:2 1 rm:5 {opcode} 1 rn:5 rd:5", tuple(texts), sizes
                    )
    table = "Advanced SIMD three same"
    for u, logical in enumerate((("and", "bic", "orr", "orn"), ("eor", "bsl", "bit", "bif"))):
        for size, name in enumerate(logical):
            text: tuple[str, ...] = (f"{name} {_three('Vb:q')}",)
            if name == "orr":
                # Assemblers take MOV with any arrangement.
                moves = (f"mov <{kind}:q:rd>, <{kind}=:q:rn:rm>" for kind in ("Vb", "Vh", "Vs", "Vd"))
                text = (*moves, *text)
            pattern = f"0 q:1 {u} 01110 {size:02b} 1 rm:5 00011 1 rn:5 rd:5"
            yield from simd_row(table, f"{name}_simd", pattern, text)


_THREE_SAME_FP = (
    # opcode's last three bits, size<1>, name for U=0, whether it has a scalar form, and the same for U=1
    ("000", 0, "fmaxnm", False, "fmaxnmp", False),
    ("000", 1, "fminnm", False, "fminnmp", False),
    ("001", 0, "fmla", False, "", False),
    ("001", 1, "fmls", False, "", False),
    ("010", 0, "fadd", False, "faddp", False),
    ("010", 1, "fsub", False, "fabd", True),
    ("011", 0, "fmulx", True, "fmul", False),
    ("100", 0, "fcmeq", True, "fcmge", True),
    ("100", 1, "", False, "fcmgt", True),
    ("101", 0, "", False, "facge", True),
    ("101", 1, "", False, "facgt", True),
    ("110", 0, "fmax", False, "fmaxp", False),
    ("110", 1, "fmin", False, "fminp", False),
    ("111", 0, "frecps", True, "fdiv", False),
    ("111", 1, "frsqrts", True, "", False),
)


def _three_same_fp() -> Iterator[Encoding]:
    for opcode, a, *names in _THREE_SAME_FP:
        for u, (name, scalar) in enumerate((names[:2], names[2:])):
            if not isinstance(name, str) or not name:
                continue
            other = _SWAPPED.get(name)
            for form, table, bits, kinds in (
                ("", "Advanced SIMD three same", f"0 q:1 {u} 01110", ("Vsd:sz:q", "Vh:q")),
                (".scalar", "Advanced SIMD scalar three same", f"01 {u} 11110", ("SD:sz", "H")),
            )[: 2 if scalar else 1]:
                texts = [
                    (f"{name} {_three(kind)}", *((f"{other} {_swapped(kind)}",) if other else ())) for kind in kinds
                ]
                pattern = f"{bits} {a} sz:1 1 rm:5 11{opcode} 1 rn:5 rd:5"
                yield from simd_row(table, f"{name}_simd{form}", pattern, texts[0])
                if not form:
                    yield from holes(table, pattern.replace("q:1", "0").replace("sz:1", "1"))
                yield from simd_row(
                    table.replace(" same", " same (FP16)"), f"{name}_simd.h{form}",
                    f"{bits} {a} 10 rm:5 00 {opcode} 1 rn:5 rd:5", texts[1], "FEAT_FP16",
                )  # fmt: skip
    for name, u, a, opcode in (
        ("fmlal", 0, 0, "11101"), ("fmlsl", 0, 1, "11101"), ("fmlal2", 1, 0, "11001"), ("fmlsl2", 1, 1, "11001"),
    ):  # fmt: skip
        yield from simd_row(
            "Advanced SIMD three same", f"{name}_simd", f"0 q:1 {u} 01110 {a} 01 rm:5 {opcode} 1 rn:5 rd:5",
            f"{name} <Vs:q:rd>, <Vh2:q:rn>, <Vh2:q:rm>", "FEAT_FHM",
        )  # fmt: skip


_THREE_DIFFERENT = (
    # opcode, shape (wide or narrow: result, first, second operand), name for U=0, its sizes, and the same for U=1
    ("0000", "wnn", "saddl", "bhs", "uaddl", "bhs"),
    ("0001", "wwn", "saddw", "bhs", "uaddw", "bhs"),
    ("0010", "wnn", "ssubl", "bhs", "usubl", "bhs"),
    ("0011", "wwn", "ssubw", "bhs", "usubw", "bhs"),
    ("0100", "nww", "addhn", "bhs", "raddhn", "bhs"),
    ("0101", "wnn", "sabal", "bhs", "uabal", "bhs"),
    ("0110", "nww", "subhn", "bhs", "rsubhn", "bhs"),
    ("0111", "wnn", "sabdl", "bhs", "uabdl", "bhs"),
    ("1000", "wnn", "smlal", "bhs", "umlal", "bhs"),
    ("1001", "wnn", "sqdmlal", "hs", "", ""),
    ("1010", "wnn", "smlsl", "bhs", "umlsl", "bhs"),
    ("1011", "wnn", "sqdmlsl", "hs", "", ""),
    ("1100", "wnn", "smull", "bhs", "umull", "bhs"),
    ("1101", "wnn", "sqdmull", "hs", "", ""),
)
HALVES = (("", "0", "Vlower"), ("2", "1", "Vwhole"))
"""What reads or writes half a register: the lower half, or with 2 at the end of the name, the upper one."""


def _three_different() -> Iterator[Encoding]:
    table = "Advanced SIMD three different"
    for opcode, shape, *names in _THREE_DIFFERENT:
        for u, (name, sizes) in enumerate((names[:2], names[2:])):
            for suffix, q, narrow in HALVES if name else ():
                kinds = [f"{narrow if letter == 'n' else 'Vwide'}:size" for letter in shape]
                text = f"{name}{suffix} <{kinds[0]}:rd>, <{kinds[1]}:rn>, <{kinds[2]}:rm>"
                pattern = f"0 {q} {u} 01110 size:2 1 rm:5 {opcode} 00 rn:5 rd:5"
                yield from sized(table, f"{name}{suffix}_simd", pattern, text, sizes)
        if opcode in ("1001", "1011", "1101"):
            yield from sized(
                "Advanced SIMD scalar three different", f"{names[0]}_simd.scalar",
                f"01 0 11110 size:2 1 rm:5 {opcode} 00 rn:5 rd:5",
                f"{names[0]} <SDwide:size:rd>, <BHSD:size:rn>, <BHSD:size:rm>", "hs",
            )  # fmt: skip
    for suffix, q, octets, doubles in (("", "0", "V8b", "V1d"), ("2", "1", "V16b", "V2d")):
        for size, wide, narrow, feature in (("00", "V8h", octets, ""), ("11", "V1q", doubles, "FEAT_PMULL")):
            yield from simd_row(
                table, f"pmull{suffix}_simd.{wide[2]}", f"0 {q} 0 01110 {size} 1 rm:5 1110 00 rn:5 rd:5",
                f"pmull{suffix} <{wide}:rd>, <{narrow}:rn>, <{narrow}:rm>", feature,
            )  # fmt: skip


_TWO_MISC = (
    # U, opcode, name, sizes of the vector and the scalar form, comparison with zero
    (0, "00000", "rev64", "bhs", "", ""),
    (0, "00001", "rev16", "b", "", ""),
    (0, "00011", "suqadd", "bhsd", "bhsd", ""),
    (0, "00100", "cls", "bhs", "", ""),
    (0, "00101", "cnt", "b", "", ""),
    (0, "00111", "sqabs", "bhsd", "bhsd", ""),
    (0, "01000", "cmgt", "bhsd", "d", ", <#0>"),
    (0, "01001", "cmeq", "bhsd", "d", ", <#0>"),
    (0, "01010", "cmlt", "bhsd", "d", ", <#0>"),
    (0, "01011", "abs", "bhsd", "d", ""),
    (1, "00011", "usqadd", "bhsd", "bhsd", ""),
    (1, "00100", "clz", "bhs", "", ""),
    (1, "00111", "sqneg", "bhsd", "bhsd", ""),
    (1, "01000", "cmge", "bhsd", "d", ", <#0>"),
    (1, "01001", "cmle", "bhsd", "d", ", <#0>"),
    (1, "01011", "neg", "bhsd", "d", ""),
)


def _two_misc() -> Iterator[Encoding]:
    table, end = "Advanced SIMD two-register miscellaneous", "10 rn:5 rd:5"
    scalar_table = "Advanced SIMD scalar two-register miscellaneous"
    for u, opcode, name, vector, scalar, zero in _TWO_MISC:
        own = f"{name}_simd_zero" if zero else f"{name}_simd"
        yield from sized(
            table, own, f"0 q:1 {u} 01110 size:2 10000 {opcode} {end}",
            f"{name} <V:size:q:rd>, <V:size:q:rn>{zero}", vector,
        )  # fmt: skip
        if scalar:
            yield from sized(
                scalar_table, f"{own}.scalar", f"01 {u} 11110 size:2 10000 {opcode} {end}",
                f"{name} <BHSD:size:rd>, <BHSD:size:rn>{zero}", scalar,
            )  # fmt: skip
    # Size 1 bit: only B and H.
    text = "rev32 <V:size:q:rd>, <V:size:q:rn>"
    yield from simd_row(table, "rev32_simd", f"0 q:1 1 01110 0 size:1 10000 00000 {end}", text)
    octets = "<Vb:q:rd>, <Vb:q:rn>"
    yield from simd_row(table, "not_simd", f"0 q:1 1 01110 00 10000 00101 {end}", (f"mvn {octets}", f"not {octets}"))
    yield from simd_row(table, "rbit_simd", f"0 q:1 1 01110 01 10000 00101 {end}", f"rbit {octets}")
    for u, letter in enumerate("su"):
        for name, opcode in (("addlp", "00010"), ("adalp", "00110")):
            text = f"{letter}{name} <Vpair:size:q:rd>, <V:size:q:rn>"
            pattern = f"0 q:1 {u} 01110 size:2 10000 {opcode} {end}"
            yield from sized(table, f"{letter}{name}_simd", pattern, text, "bhs")
    narrow = (("xtn", 0, "10010"), ("sqxtn", 0, "10100"), ("sqxtun", 1, "10010"), ("uqxtn", 1, "10100"))
    for name, u, opcode in narrow:
        for suffix, q, half in HALVES:
            yield from sized(
                table, f"{name}{suffix}_simd", f"0 {q} {u} 01110 size:2 10000 {opcode} {end}",
                f"{name}{suffix} <{half}:size:rd>, <Vwide:size:rn>", "bhs",
            )  # fmt: skip
        if name != "xtn":
            yield from sized(
                scalar_table, f"{name}_simd.scalar", f"01 {u} 11110 size:2 10000 {opcode} {end}",
                f"{name} <BHSD:size:rd>, <SDwide:size:rn>", "bhs",
            )  # fmt: skip
    for suffix, q, half in HALVES:
        yield from sized(
            table, f"shll{suffix}_simd", f"0 {q} 1 01110 size:2 10000 10011 {end}",
            f"shll{suffix} <Vwide:size:rd>, <{half}:size:rn>, <bits:size>", "bhs",
        )  # fmt: skip


_TWO_MISC_FP = (
    # U, size<1>, opcode, name, what follows the operands; forms: v vector, x scalar, h also with FP16
    (0, 0, "11000", "frintn", "", "vh"),
    (0, 1, "11000", "frintp", "", "vh"),
    (0, 0, "11001", "frintm", "", "vh"),
    (0, 1, "11001", "frintz", "", "vh"),
    (1, 0, "11000", "frinta", "", "vh"),
    (1, 0, "11001", "frintx", "", "vh"),
    (1, 1, "11001", "frinti", "", "vh"),
    (0, 0, "11110", "frint32z", "", "v"),
    (1, 0, "11110", "frint32x", "", "v"),
    (0, 0, "11111", "frint64z", "", "v"),
    (1, 0, "11111", "frint64x", "", "v"),
    (0, 0, "11010", "fcvtns", "", "vxh"),
    (0, 1, "11010", "fcvtps", "", "vxh"),
    (0, 0, "11011", "fcvtms", "", "vxh"),
    (0, 1, "11011", "fcvtzs", "", "vxh"),
    (0, 0, "11100", "fcvtas", "", "vxh"),
    (1, 0, "11010", "fcvtnu", "", "vxh"),
    (1, 1, "11010", "fcvtpu", "", "vxh"),
    (1, 0, "11011", "fcvtmu", "", "vxh"),
    (1, 1, "11011", "fcvtzu", "", "vxh"),
    (1, 0, "11100", "fcvtau", "", "vxh"),
    (0, 0, "11101", "scvtf", "", "vxh"),
    (1, 0, "11101", "ucvtf", "", "vxh"),
    (0, 1, "01100", "fcmgt", ", <#0.0>", "vxh"),
    (0, 1, "01101", "fcmeq", ", <#0.0>", "vxh"),
    (0, 1, "01110", "fcmlt", ", <#0.0>", "vxh"),
    (1, 1, "01100", "fcmge", ", <#0.0>", "vxh"),
    (1, 1, "01101", "fcmle", ", <#0.0>", "vxh"),
    (0, 1, "01111", "fabs", "", "vh"),
    (1, 1, "01111", "fneg", "", "vh"),
    (1, 1, "11111", "fsqrt", "", "vh"),
    (0, 1, "11101", "frecpe", "", "vxh"),
    (1, 1, "11101", "frsqrte", "", "vxh"),
    (0, 1, "11111", "frecpx", "", "xh"),
)


def _two_misc_fp() -> Iterator[Encoding]:
    end = "10 rn:5 rd:5"
    for u, a, opcode, name, zero, forms in _TWO_MISC_FP:
        own = f"{name}_simd_zero" if zero else f"{name}_simd"
        for form, table, bits, kinds in (
            ("v", "Advanced SIMD two-register miscellaneous", f"0 q:1 {u} 01110", ("Vsd:sz:q", "Vh:q")),
            ("x", "Advanced SIMD scalar two-register miscellaneous", f"01 {u} 11110", ("SD:sz", "H")),
        ):
            if form not in forms:
                continue
            suffix = ".scalar" if form == "x" else ""
            texts = [f"{name} <{kind}:rd>, <{kind}:rn>{zero}" for kind in kinds]
            pattern = f"{bits} {a} sz:1 10000 {opcode} {end}"
            feature = "FEAT_FRINTTS" if name[-2] in "24" else ""
            yield from simd_row(table, f"{own}{suffix}", pattern, texts[0], feature)
            if form == "v":
                yield from holes(table, pattern.replace("q:1", "0").replace("sz:1", "1"))
            if "h" in forms:
                half = f"{bits} {a} 111100 {opcode} {end}"
                yield from simd_row(f"{table} (FP16)", f"{own}.h{suffix}", half, texts[1], "FEAT_FP16")
    table = "Advanced SIMD two-register miscellaneous"
    for name, u in (("urecpe", 0), ("ursqrte", 1)):
        pattern = f"0 q:1 {u} 01110 10 10000 11100 {end}"
        yield from simd_row(table, f"{name}_simd", pattern, f"{name} <Vs:q:rd>, <Vs:q:rn>")
    for suffix, q, h, s in (("", "0", "V4h", "V2s"), ("2", "1", "V8h", "V4s")):
        for sz, wide, narrow in (("0", "V4s", h), ("1", "V2d", s)):
            for name, bit, kinds in (("fcvtn", "0", (narrow, wide)), ("fcvtl", "1", (wide, narrow))):
                yield from simd_row(
                    table, f"{name}{suffix}_simd.{narrow[-1]}", f"0 {q} 0 01110 0 {sz} 10000 1011{bit} {end}",
                    f"{name}{suffix} <{kinds[0]}:rd>, <{kinds[1]}:rn>",
                )  # fmt: skip
        pattern = f"0 {q} 1 01110 01 10000 10110 {end}"
        yield from simd_row(table, f"fcvtxn{suffix}_simd", pattern, f"fcvtxn{suffix} <{s}:rd>, <V2d:rn>")
        pattern = f"0 {q} 0 01110 10 10000 10110 {end}"
        yield from simd_row(table, f"bfcvtn{suffix}_simd", pattern, f"bfcvtn{suffix} <{h}:rd>, <V4s:rn>", "FEAT_BF16")
    yield from simd_row(
        "Advanced SIMD scalar two-register miscellaneous", "fcvtxn_simd.scalar",
        f"01 1 11110 01 10000 10110 {end}", "fcvtxn <S:rd>, <D:rn>",
    )  # fmt: skip


def _across() -> Iterator[Encoding]:
    table, end = "Advanced SIMD across lanes", "10 rn:5 rd:5"
    for u, name, opcode, wide in (
        (0, "saddlv", "00011", True), (0, "smaxv", "01010", False), (0, "sminv", "11010", False),
        (0, "addv", "11011", False),
        (1, "uaddlv", "00011", True), (1, "umaxv", "01010", False), (1, "uminv", "11010", False),
    ):  # fmt: skip
        result = "SDwide" if wide else "BHSD"
        pattern = f"0 q:1 {u} 01110 0 size:1 11000 {opcode} {end}"
        yield from simd_row(table, f"{name}_simd", pattern, f"{name} <{result}:size:rd>, <V:size:q:rn>")
        pattern = f"0 1 {u} 01110 10 11000 {opcode} {end}"
        yield from simd_row(table, f"{name}_simd.s", pattern, f"{name} <{'D' if wide else 'S'}:rd>, <V4s:rn>")
    for name, a, opcode in (
        ("fmaxnm", 0, "01100"), ("fmax", 0, "01111"), ("fminnm", 1, "01100"), ("fmin", 1, "01111"),
        ("fadd", 0, "01101"),
    ):  # fmt: skip
        if name != "fadd":
            yield from simd_row(
                table, f"{name}v_simd", f"0 1 1 01110 {a} 0 11000 {opcode} {end}", f"{name}v <S:rd>, <V4s:rn>"
            )
            yield from simd_row(
                table, f"{name}v_simd.h", f"0 q:1 0 01110 {a} 0 11000 {opcode} {end}", f"{name}v <H:rd>, <Vh:q:rn>",
                "FEAT_FP16",
            )  # fmt: skip
        pairwise = "Advanced SIMD scalar pairwise"
        yield from simd_row(
            pairwise, f"{name}p_simd.scalar", f"01 1 11110 {a} sz:1 11000 {opcode} {end}",
            f"{name}p <SD:sz:rd>, <Vhalves:sz:rn>",
        )  # fmt: skip
        yield from simd_row(
            pairwise, f"{name}p_simd.h.scalar", f"01 0 11110 {a} 0 11000 {opcode} {end}", f"{name}p <H:rd>, <V2h:rn>",
            "FEAT_FP16",
        )  # fmt: skip
    yield from simd_row(
        "Advanced SIMD scalar pairwise", "addp_simd.scalar", f"01 0 11110 11 11000 11011 {end}", "addp <D:rd>, <V2d:rn>"
    )


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    yield from _three_same()
    yield from _three_same_fp()
    yield from _three_different()
    yield from _two_misc()
    yield from _two_misc_fp()
    yield from _across()

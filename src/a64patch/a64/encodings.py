"""THE table: one row an encoding, and everything that this package knows about instructions is derived from it.

May know: nobody.
Read on: classify.py asks which row a word belongs to; assembler.py and disassembler.py read the templates.

Source of every row: Arm Architecture Reference Manual (DDI 0487), the encoding tables of C4.1 under the heading that
`Encoding.table` names, and the instruction's own page in C6.2. Bits that the manual prints as (0) or (1) are fixed
here: a word that breaks them is CONSTRAINED UNPREDICTABLE, so no row claims it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property


class Flow(Enum):
    """What an instruction does to the PC."""

    NEXT = "next"
    BRANCH = "branch"
    CALL = "call"
    RETURN = "return"
    EXCEPTION = "exception"


@dataclass(frozen=True)
class Field:
    """`width` bits of a word, the lowest one at bit number `lsb`."""

    lsb: int
    width: int

    def get(self, word: int) -> int:
        """The bits, unsigned."""
        return (word >> self.lsb) & ((1 << self.width) - 1)


@dataclass(frozen=True, eq=False)
class Encoding:
    """One row. Rows are compared by identity; `name` is unique."""

    name: str
    pattern: str
    """Bits 31 to 0: runs of 0 and 1, and fields as `name:width`, separated by spaces."""
    texts: tuple[str, ...]
    """Assembly templates (assembler.py), preferred first; all are accepted, the first that fits is printed."""
    families: tuple[str, ...]
    """What the predicates call it: family `bcond` is what `is_bcond` is true for."""
    table: str
    """Heading of its encoding table in Arm ARM C4.1."""
    flow: Flow = Flow.NEXT
    conditional: bool = False
    """The flow may also be to the next instruction."""
    literal: bool = False
    """Reads data at a PC-relative address."""
    feature: str = ""
    """The FEAT_ name that it came with; empty for Armv8.0."""

    @cached_property
    def _bits(self) -> tuple[int, int, dict[str, Field]]:
        mask = value = 0
        fields: dict[str, Field] = {}
        position = 32
        for token in self.pattern.split():
            name, _, width = token.partition(":")
            if width:
                position -= int(width)
                fields[name] = Field(position, int(width))
            else:
                position -= len(token)
                mask |= ((1 << len(token)) - 1) << position
                value |= int(token, 2) << position
        if position:
            raise ValueError(f"row {self.name}: the pattern leaves {position} of 32 bits")
        return mask, value, fields

    @property
    def mask(self) -> int:
        """The bits that the pattern fixes."""
        return self._bits[0]

    @property
    def value(self) -> int:
        """Their values; the other bits are 0."""
        return self._bits[1]

    @property
    def fields(self) -> dict[str, Field]:
        """The named fields; together with `mask` they cover all 32 bits once."""
        return self._bits[2]

    def matches(self, word: int) -> bool:
        """Whether the word fits the pattern. A row nested in this one may fit it more exactly: see `decode`."""
        return word & self.mask == self.value

    def contains(self, other: Encoding) -> bool:
        """Whether every word of the other row fits this one too."""
        return self.mask & other.mask == self.mask and other.value & self.mask == self.value

    def overlaps(self, other: Encoding) -> bool:
        """Whether some word fits both."""
        common = self.mask & other.mask
        return self.value & common == other.value & common


def _rows(
    table: str,
    *rows: tuple[str, str, str | tuple[str, ...]],
    families: str = "",
    flow: Flow = Flow.NEXT,
    conditional: bool = False,
    literal: bool = False,
    feature: str = "",
) -> Iterator[Encoding]:
    """Rows of one encoding table that share what the keywords say; a row's first family is its name up to a dot."""
    for name, pattern, texts in rows:
        own = name.partition(".")[0]
        yield Encoding(
            name=name,
            pattern=pattern,
            texts=(texts,) if isinstance(texts, str) else texts,
            families=(own, *families.split()),
            table=table,
            flow=flow,
            conditional=conditional,
            literal=literal,
            feature=feature,
        )


def _branches() -> Iterator[Encoding]:
    table = "Conditional branch (immediate)"
    yield from _rows(
        table,
        ("bcond", "01010100 imm19:19 0 cond:4", "b.<cond:cond> <label:imm19>"),
        families="branch branch_imm", flow=Flow.BRANCH, conditional=True,
    )  # fmt: skip
    yield from _rows(
        table,
        ("bccond", "01010100 imm19:19 1 cond:4", "bc.<cond:cond> <label:imm19>"),
        families="branch branch_imm", flow=Flow.BRANCH, conditional=True, feature="FEAT_HBC",
    )  # fmt: skip
    yield from _rows(
        "Unconditional branch (immediate)",
        ("b", "000101 imm26:26", "b <label:imm26>"),
        families="branch branch_imm", flow=Flow.BRANCH,
    )  # fmt: skip
    yield from _rows(
        "Unconditional branch (immediate)",
        ("bl", "100101 imm26:26", "bl <label:imm26>"),
        families="branch branch_imm", flow=Flow.CALL,
    )  # fmt: skip
    yield from _rows(
        "Compare and branch (immediate)",
        ("cbz", "sf:1 0110100 imm19:19 rt:5", "cbz <R:sf:rt>, <label:imm19>"),
        ("cbnz", "sf:1 0110101 imm19:19 rt:5", "cbnz <R:sf:rt>, <label:imm19>"),
        families="branch branch_imm", flow=Flow.BRANCH, conditional=True,
    )  # fmt: skip
    yield from _rows(
        "Test and branch (immediate)",
        ("tbz", "b5:1 0110110 b40:5 imm14:14 rt:5", "tbz <Rbit:b5:rt>, <imm:b5:b40>, <label:imm14>"),
        ("tbnz", "b5:1 0110111 b40:5 imm14:14 rt:5", "tbnz <Rbit:b5:rt>, <imm:b5:b40>, <label:imm14>"),
        families="branch branch_imm", flow=Flow.BRANCH, conditional=True,
    )  # fmt: skip
    registers = {"gt": "000", "ge": "001", "hi": "010", "hs": "011", "eq": "110", "ne": "111"}
    for cc, bits in registers.items():
        yield from _rows(
            "Compare registers and branch",
            (f"cb.{cc}.register", f"sf:1 1110100 {bits} rm:5 00 imm9:9 rt:5",
             f"cb{cc} <R:sf:rt>, <R:sf:rm>, <label:imm9>"),
            (f"cbb.{cc}", f"01110100 {bits} rm:5 10 imm9:9 rt:5", f"cbb{cc} <W:rt>, <W:rm>, <label:imm9>"),
            (f"cbh.{cc}", f"01110100 {bits} rm:5 11 imm9:9 rt:5", f"cbh{cc} <W:rt>, <W:rm>, <label:imm9>"),
            families="branch branch_imm cbcc", flow=Flow.BRANCH, conditional=True, feature="FEAT_CMPBR",
        )  # fmt: skip
    immediates = {"gt": "000", "lt": "001", "hi": "010", "lo": "011", "eq": "110", "ne": "111"}
    for cc, bits in immediates.items():
        yield from _rows(
            "Compare register with immediate and branch",
            (f"cb.{cc}.immediate", f"sf:1 1110101 {bits} imm6:6 0 imm9:9 rt:5",
             f"cb{cc} <R:sf:rt>, <imm:imm6>, <label:imm9>"),
            families="branch branch_imm cbcc", flow=Flow.BRANCH, conditional=True, feature="FEAT_CMPBR",
        )  # fmt: skip


def _register_branches() -> Iterator[Encoding]:
    table = "Unconditional branch (register)"
    for name, opc, flow in (("br", "00", Flow.BRANCH), ("blr", "01", Flow.CALL)):
        family = f"branch {name}_auth"
        yield from _rows(
            table,
            (name, f"110101100 {opc} 11111 000000 rn:5 00000", f"{name} <X:rn>"),
            families="branch", flow=flow,
        )  # fmt: skip
        for key, bit in (("a", "0"), ("b", "1")):
            yield from _rows(
                table,
                (f"{name}a{key}z", f"110101100 {opc} 11111 00001{bit} rn:5 11111", f"{name}a{key}z <X:rn>"),
                (f"{name}a{key}", f"110101110 {opc} 11111 00001{bit} rn:5 rm:5", f"{name}a{key} <X:rn>, <XSP:rm>"),
                families=family, flow=flow, feature="FEAT_PAuth",
            )  # fmt: skip
    yield from _rows(
        table,
        ("ret", "1101011001011111000000 rn:5 00000", "ret{ <X30:rn>}"),
        families="branch", flow=Flow.RETURN,
    )  # fmt: skip
    yield from _rows(
        table,
        ("retaa", "11010110010111110000101111111111", "retaa"),
        ("retab", "11010110010111110000111111111111", "retab"),
        families="branch ret_auth", flow=Flow.RETURN, feature="FEAT_PAuth",
    )  # fmt: skip
    yield from _rows(
        table,
        ("retaasppcr", "1101011001011111000010 11111 rm:5", "retaasppcr <X!:rm>"),
        ("retabsppcr", "1101011001011111000011 11111 rm:5", "retabsppcr <X!:rm>"),
        families="branch ret_auth", flow=Flow.RETURN, feature="FEAT_PAuth_LR",
    )  # fmt: skip
    yield from _rows(
        "Miscellaneous branch (immediate)",
        ("retaasppc", "01010101000 imm16:16 11111", "retaasppc <backlabel:imm16>"),
        ("retabsppc", "01010101001 imm16:16 11111", "retabsppc <backlabel:imm16>"),
        families="branch ret_auth", flow=Flow.RETURN, feature="FEAT_PAuth_LR",
    )  # fmt: skip
    yield from _rows(
        table,
        ("eret", "11010110100111110000001111100000", "eret"),
        ("drps", "11010110101111110000001111100000", "drps"),
        families="branch", flow=Flow.EXCEPTION,
    )  # fmt: skip
    yield from _rows(
        table,
        ("eretaa", "11010110100111110000101111111111", "eretaa"),
        ("eretab", "11010110100111110000111111111111", "eretab"),
        families="branch eret_auth", flow=Flow.EXCEPTION, feature="FEAT_PAuth",
    )  # fmt: skip


def _exceptions() -> Iterator[Encoding]:
    table = "Exception generation"
    for name, opc, ll in (
        ("svc", "000", "01"), ("hvc", "000", "10"), ("smc", "000", "11"), ("brk", "001", "00"), ("hlt", "010", "00"),
    ):  # fmt: skip
        yield from _rows(
            table,
            (name, f"11010100 {opc} imm16:16 000 {ll}", f"{name} <hex:imm16>"),
            families="exception", flow=Flow.EXCEPTION,
        )  # fmt: skip
    yield from _rows(
        table,
        ("tcancel", "11010100 011 imm16:16 00000", "tcancel <hex:imm16>"),
        families="exception", flow=Flow.EXCEPTION, feature="FEAT_TME",
    )  # fmt: skip
    for level, ll in ((1, "01"), (2, "10"), (3, "11")):
        yield from _rows(
            table,
            (f"dcps{level}", f"11010100 101 imm16:16 000 {ll}", f"dcps{level}{{ <hexopt:imm16>}}"),
            families="exception dcps", flow=Flow.EXCEPTION,
        )  # fmt: skip
    yield from _rows(
        "Reserved", ("udf", "0000000000000000 imm16:16", "udf <imm:imm16>"), families="exception", flow=Flow.EXCEPTION
    )


HINTS: dict[str, tuple[int, str]] = {
    "nop": (0x00, ""),
    "yield": (0x01, ""),
    "wfe": (0x02, ""),
    "wfi": (0x03, ""),
    "sev": (0x04, ""),
    "sevl": (0x05, ""),
    "dgh": (0x06, "FEAT_DGH"),
    "xpaclri": (0x07, "FEAT_PAuth"),
    "pacia1716": (0x08, "FEAT_PAuth"),
    "pacib1716": (0x0A, "FEAT_PAuth"),
    "autia1716": (0x0C, "FEAT_PAuth"),
    "autib1716": (0x0E, "FEAT_PAuth"),
    "esb": (0x10, "FEAT_RAS"),
    "psb csync": (0x11, "FEAT_SPE"),
    "tsb csync": (0x12, "FEAT_TRF"),
    "gcsb dsync": (0x13, "FEAT_GCS"),
    "csdb": (0x14, ""),
    "clrbhb": (0x16, "FEAT_CLRBHB"),
    "paciaz": (0x18, "FEAT_PAuth"),
    "paciasp": (0x19, "FEAT_PAuth"),
    "pacibz": (0x1A, "FEAT_PAuth"),
    "pacibsp": (0x1B, "FEAT_PAuth"),
    "autiaz": (0x1C, "FEAT_PAuth"),
    "autiasp": (0x1D, "FEAT_PAuth"),
    "autibz": (0x1E, "FEAT_PAuth"),
    "autibsp": (0x1F, "FEAT_PAuth"),
    "bti": (0x20, "FEAT_BTI"),
    "bti c": (0x22, "FEAT_BTI"),
    "bti j": (0x24, "FEAT_BTI"),
    "bti jc": (0x26, "FEAT_BTI"),
    "pacm": (0x27, "FEAT_PAuth_LR"),
    "chkfeat x16": (0x28, "FEAT_CHK"),
    "stshh keep": (0x30, "FEAT_PCDPHINT"),
    "stshh strm": (0x31, "FEAT_PCDPHINT"),
}
"""Every hint that has a name: its number CRm:op2 and its feature. All others execute as NOP today (C6.2, HINT)."""

_HINT_SPELLINGS = {"clrbhb": ("clrbhb", "clearbhb")}


def _hints() -> Iterator[Encoding]:
    table = "Hints"
    yield from _rows(table, ("hint", "11010101000000110010 crm:4 op2:3 11111", "hint <hex:crm:op2>"))
    for text, (number, feature) in HINTS.items():
        families = "hint bti" if text.startswith("bti ") else "hint"
        yield from _rows(
            table,
            (text.replace(" ", "_"), f"11010101000000110010 {number:07b} 11111", _HINT_SPELLINGS.get(text, text)),
            families=families, feature=feature,
        )  # fmt: skip


def _barriers() -> Iterator[Encoding]:
    table = "Barriers"
    barrier = "11010101000000110011"
    yield from _rows(
        table,
        ("clrex", f"{barrier} crm:4 010 11111", "clrex{ <imm15:crm>}"),
    )
    yield from _rows(
        table,
        ("dsb", f"{barrier} crm:4 100 11111", "dsb <barrier:crm>"),
        ("dmb", f"{barrier} crm:4 101 11111", "dmb <barrier:crm>"),
        ("isb", f"{barrier} crm:4 110 11111", "isb{ <isb:crm>}"),
        ("ssbb", f"{barrier} 0000 100 11111", "ssbb"),
        ("pssbb", f"{barrier} 0100 100 11111", "pssbb"),
        families="barrier",
    )
    yield from _rows(
        table, ("dsb.nxs", f"{barrier} imm2:2 10 001 11111", "dsb <nxs:imm2>"), families="barrier", feature="FEAT_XS"
    )
    yield from _rows(table, ("sb", f"{barrier} 0000 111 11111", "sb"), families="barrier", feature="FEAT_SB")
    yield from _rows(table, ("tcommit", f"{barrier} 0000 011 11111", "tcommit"), feature="FEAT_TME")
    timed = "System instructions with register argument"
    yield from _rows(
        timed,
        ("wfet", "11010101000000110001 0000 000 rd:5", "wfet <X:rd>"),
        ("wfit", "11010101000000110001 0000 001 rd:5", "wfit <X:rd>"),
        feature="FEAT_WFxT",
    )
    yield from _rows(
        "System with result",
        ("tstart", "11010101001000110011 0000 011 rt:5", "tstart <X:rt>"),
        ("ttest", "11010101001000110011 0001 011 rt:5", "ttest <X:rt>"),
        feature="FEAT_TME",
    )


_PSTATE = (
    # name, op1, CRm, op2, feature
    ("spsel", "000", "000 crm:1", "101", ""),
    ("daifset", "011", "crm:4", "110", ""),
    ("daifclr", "011", "crm:4", "111", ""),
    ("uao", "000", "000 crm:1", "011", "FEAT_UAO"),
    ("pan", "000", "000 crm:1", "100", "FEAT_PAN"),
    ("ssbs", "011", "000 crm:1", "001", "FEAT_SSBS"),
    ("dit", "011", "000 crm:1", "010", "FEAT_DIT"),
    ("tco", "011", "000 crm:1", "100", "FEAT_MTE"),
    ("allint", "001", "000 crm:1", "000", "FEAT_NMI"),
    ("pm", "001", "001 crm:1", "000", "FEAT_EBEP"),
)


def _pstate() -> Iterator[Encoding]:
    table = "PSTATE"
    for name, op1, crm, op2, feature in _PSTATE:
        yield from _rows(
            table,
            (f"msr_imm.{name}", f"1101010100000 {op1} 0100 {crm} {op2} 11111", f"msr {name}, <imm:crm>"),
            feature=feature,
        )
    for name, mask in (("svcrsm", "001"), ("svcrza", "010"), ("svcrsmza", "011")):
        mode = {"svcrsm": "sm", "svcrza": "za", "svcrsmza": ""}[name]
        for bit, verb in (("1", "smstart"), ("0", "smstop")):
            yield from _rows(
                table,
                (f"{verb}.{mode or 'both'}", f"1101010100000 011 0100 {mask}{bit} 011 11111",
                 (f"{verb} {mode}".strip(), f"msr {name}, #{bit}")),
                families="msr_imm", feature="FEAT_SME",
            )  # fmt: skip
    yield from _rows(table, ("cfinv", "1101010100000 000 0100 0000 000 11111", "cfinv"), feature="FEAT_FlagM")
    yield from _rows(
        table,
        ("xaflag", "1101010100000 000 0100 0000 001 11111", "xaflag"),
        ("axflag", "1101010100000 000 0100 0000 010 11111", "axflag"),
        feature="FEAT_FlagM2",
    )


_TLBI_OPERATIONS = (
    # op1, CRm of the plain, Inner Shareable and Outer Shareable form ("" where there is none), op2, names, register
    (0, 7, 3, 1, 0, "vmalle1", False),
    (0, 7, 3, 1, 1, "vae1", True),
    (0, 7, 3, 1, 2, "aside1", True),
    (0, 7, 3, 1, 3, "vaae1", True),
    (0, 7, 3, 1, 5, "vale1", True),
    (0, 7, 3, 1, 7, "vaale1", True),
    (0, 6, 2, 5, 1, "rvae1", True),
    (0, 6, 2, 5, 3, "rvaae1", True),
    (0, 6, 2, 5, 5, "rvale1", True),
    (0, 6, 2, 5, 7, "rvaale1", True),
    (4, 7, 3, 1, 0, "alle2", False),
    (4, 7, 3, 1, 1, "vae2", True),
    (4, 7, 3, 1, 4, "alle1", False),
    (4, 7, 3, 1, 5, "vale2", True),
    (4, 7, 3, 1, 6, "vmalls12e1", False),
    (4, 6, 2, 5, 1, "rvae2", True),
    (4, 6, 2, 5, 5, "rvale2", True),
    (6, 7, 3, 1, 0, "alle3", False),
    (6, 7, 3, 1, 1, "vae3", True),
    (6, 7, 3, 1, 5, "vale3", True),
    (6, 6, 2, 5, 1, "rvae3", True),
    (6, 6, 2, 5, 5, "rvale3", True),
)


def _tlbi() -> Iterator[tuple[str, int, int, int, bool, str]]:
    """Name, op1, CRm, op2, whether it takes a register, feature. Arm ARM C5.5."""
    for op1, plain, inner, outer, op2, name, register in _TLBI_OPERATIONS:
        ranged = "FEAT_TLBIRANGE" if name.startswith("rv") else ""
        yield name, op1, plain, op2, register, ranged
        yield f"{name}is", op1, inner, op2, register, ranged
        yield f"{name}os", op1, outer, op2, register, ranged or "FEAT_TLBIOS"
    for crm, suffix, feature in ((4, "", ""), (0, "is", "")):
        yield f"ipas2e1{suffix}", 4, crm, 1, True, feature
        yield f"ipas2le1{suffix}", 4, crm, 5, True, feature
        yield f"ripas2e1{suffix}", 4, crm, 2, True, "FEAT_TLBIRANGE"
        yield f"ripas2le1{suffix}", 4, crm, 6, True, "FEAT_TLBIRANGE"
    yield "ipas2e1os", 4, 4, 0, True, "FEAT_TLBIOS"
    yield "ipas2le1os", 4, 4, 4, True, "FEAT_TLBIOS"
    yield "ripas2e1os", 4, 4, 3, True, "FEAT_TLBIRANGE"
    yield "ripas2le1os", 4, 4, 7, True, "FEAT_TLBIRANGE"
    yield "rpaos", 6, 4, 3, True, "FEAT_RME"
    yield "rpalos", 6, 4, 7, True, "FEAT_RME"
    yield "paallos", 6, 1, 4, False, "FEAT_RME"
    yield "paall", 6, 7, 4, False, "FEAT_RME"


_CACHE_OPERATIONS = (
    # instruction, operation, op1, CRm, op2, whether it takes a register, feature. Arm ARM C5.3
    ("ic", "ialluis", 0, 1, 0, False, ""),
    ("ic", "iallu", 0, 5, 0, False, ""),
    ("ic", "ivau", 3, 5, 1, True, ""),
    ("dc", "ivac", 0, 6, 1, True, ""),
    ("dc", "isw", 0, 6, 2, True, ""),
    ("dc", "igvac", 0, 6, 3, True, "FEAT_MTE2"),
    ("dc", "igsw", 0, 6, 4, True, "FEAT_MTE2"),
    ("dc", "igdvac", 0, 6, 5, True, "FEAT_MTE2"),
    ("dc", "igdsw", 0, 6, 6, True, "FEAT_MTE2"),
    ("dc", "csw", 0, 10, 2, True, ""),
    ("dc", "cgsw", 0, 10, 4, True, "FEAT_MTE2"),
    ("dc", "cgdsw", 0, 10, 6, True, "FEAT_MTE2"),
    ("dc", "cisw", 0, 14, 2, True, ""),
    ("dc", "cigsw", 0, 14, 4, True, "FEAT_MTE2"),
    ("dc", "cigdsw", 0, 14, 6, True, "FEAT_MTE2"),
    ("dc", "zva", 3, 4, 1, True, ""),
    ("dc", "gva", 3, 4, 3, True, "FEAT_MTE"),
    ("dc", "gzva", 3, 4, 4, True, "FEAT_MTE"),
    ("dc", "cvac", 3, 10, 1, True, ""),
    ("dc", "cgvac", 3, 10, 3, True, "FEAT_MTE"),
    ("dc", "cgdvac", 3, 10, 5, True, "FEAT_MTE"),
    ("dc", "cvau", 3, 11, 1, True, ""),
    ("dc", "cvap", 3, 12, 1, True, "FEAT_DPB"),
    ("dc", "cgvap", 3, 12, 3, True, "FEAT_MTE"),
    ("dc", "cgdvap", 3, 12, 5, True, "FEAT_MTE"),
    ("dc", "cvadp", 3, 13, 1, True, "FEAT_DPB2"),
    ("dc", "cgvadp", 3, 13, 3, True, "FEAT_MTE"),
    ("dc", "cgdvadp", 3, 13, 5, True, "FEAT_MTE"),
    ("dc", "civac", 3, 14, 1, True, ""),
    ("dc", "cigvac", 3, 14, 3, True, "FEAT_MTE"),
    ("dc", "cigdvac", 3, 14, 5, True, "FEAT_MTE"),
    ("dc", "cipae", 4, 14, 0, True, "FEAT_MEC"),
    ("dc", "cigdpae", 4, 14, 7, True, "FEAT_MEC"),
    ("dc", "cipapa", 6, 14, 1, True, "FEAT_RME"),
    ("dc", "cigdpapa", 6, 14, 5, True, "FEAT_RME"),
    ("at", "s1e1r", 0, 8, 0, True, ""),
    ("at", "s1e1w", 0, 8, 1, True, ""),
    ("at", "s1e0r", 0, 8, 2, True, ""),
    ("at", "s1e0w", 0, 8, 3, True, ""),
    ("at", "s1e1rp", 0, 9, 0, True, "FEAT_PAN2"),
    ("at", "s1e1wp", 0, 9, 1, True, "FEAT_PAN2"),
    ("at", "s1e1a", 0, 9, 2, True, "FEAT_ATS1A"),
    ("at", "s1e2r", 4, 8, 0, True, ""),
    ("at", "s1e2w", 4, 8, 1, True, ""),
    ("at", "s12e1r", 4, 8, 4, True, ""),
    ("at", "s12e1w", 4, 8, 5, True, ""),
    ("at", "s12e0r", 4, 8, 6, True, ""),
    ("at", "s12e0w", 4, 8, 7, True, ""),
    ("at", "s1e2a", 4, 9, 2, True, "FEAT_ATS1A"),
    ("at", "s1e3r", 6, 8, 0, True, ""),
    ("at", "s1e3w", 6, 8, 1, True, ""),
    ("at", "s1e3a", 6, 9, 2, True, "FEAT_ATS1A"),
    # Prediction restriction, CRm 3 (C5.6), and the trace and branch-record operations that are SYS aliases (C6.2)
    ("cfp", "rctx", 3, 3, 4, True, "FEAT_SPECRES"),
    ("dvp", "rctx", 3, 3, 5, True, "FEAT_SPECRES"),
    ("cosp", "rctx", 3, 3, 6, True, "FEAT_SPECRES2"),
    ("cpp", "rctx", 3, 3, 7, True, "FEAT_SPECRES"),
    ("brb", "iall", 1, 2, 4, False, "FEAT_BRBE"),
    ("brb", "inj", 1, 2, 5, False, "FEAT_BRBE"),
    ("trcit", "", 3, 2, 7, True, "FEAT_ITE"),
)


def _system() -> Iterator[Encoding]:
    table = "System instructions"
    yield from _rows(
        table,
        ("sys", "1101010100001 op1:3 crn:4 crm:4 op2:3 rt:5",
         "sys <imm:op1>, <C:crn>, <C:crm>, <imm:op2>{, <Xopt:rt>}"),
        ("sysl", "1101010100101 op1:3 crn:4 crm:4 op2:3 rt:5",
         "sysl <X:rt>, <imm:op1>, <C:crn>, <C:crm>, <imm:op2>"),
    )  # fmt: skip
    operations = [(name, operation, op1, 7, crm, op2, register, feature)
                  for name, operation, op1, crm, op2, register, feature in _CACHE_OPERATIONS]  # fmt: skip
    operations += [("tlbi", name, op1, 8, crm, op2, register, feature)
                   for name, op1, crm, op2, register, feature in _tlbi()]  # fmt: skip
    operations += [("tlbi", f"{name}nxs", op1, 9, crm, op2, register, "FEAT_XS")
                   for name, op1, crm, op2, register, feature in _tlbi() if not name.startswith("paall")]  # fmt: skip
    for name, operation, op1, crn, crm, op2, register, feature in operations:
        bits = f"1101010100001 {op1:03b} {crn:04b} {crm:04b} {op2:03b}"
        text = " ".join(filter(None, (name, operation)))
        comma = ", " if operation else " "
        row = (f"{bits} rt:5", f"{text}{comma}<X:rt>") if register else (f"{bits} 11111", text)
        yield from _rows(table, (f"{name}.{operation}".rstrip("."), *row), families="sys", feature=feature)
    table = "System register move"
    yield from _rows(
        table,
        ("msr_reg", "11010101000 1 o0:1 op1:3 crn:4 crm:4 op2:3 rt:5", "msr <sysreg:o0:op1:crn:crm:op2>, <X:rt>"),
        ("mrs", "11010101001 1 o0:1 op1:3 crn:4 crm:4 op2:3 rt:5", "mrs <X:rt>, <sysreg:o0:op1:crn:crm:op2>"),
    )


def _addresses() -> Iterator[Encoding]:
    yield from _rows(
        "PC-rel. addressing",
        ("adr", "0 immlo:2 10000 immhi:19 rd:5", "adr <X:rd>, <adr:immhi:immlo>"),
        ("adrp", "1 immlo:2 10000 immhi:19 rd:5", "adrp <X:rd>, <adrp:immhi:immlo>"),
    )
    table = "Load register (literal)"
    yield from _rows(
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


def _movewide() -> Iterator[Encoding]:
    table = "Move wide (immediate)"
    for name, opc, constant in (
        ("movz", "10", "wide"),
        ("movn", "00", "wide_not"),
        ("movk", "11", ""),
    ):
        for size, sf, hw, register in (("w", "0", "0 hw:1", "W"), ("x", "1", "hw:2", "X")):
            alias = f"mov <{register}:rd>, <{constant}_{size}:hw:imm16>" if constant else ""
            yield from _rows(
                table,
                (f"{name}.{size}", f"{sf}{opc}100101 {hw} imm16:16 rd:5",
                 tuple(filter(None, (alias, f"{name} <{register}:rd>, <hex:imm16>{{, <lsl16:hw>}}")))),
                families="movewide",
            )  # fmt: skip


def _exclusives() -> Iterator[Encoding]:
    table = "Load/store exclusive register"
    for suffix, size, register in (("b", "00", "W"), ("h", "01", "W"), (".w", "10", "W"), (".x", "11", "X")):
        mnemonic = suffix if not suffix.startswith(".") else ""
        for order, o0 in (("", "0"), ("l", "1")):
            yield from _rows(
                table,
                (f"st{order}xr{suffix}", f"{size} 001000 000 rs:5 {o0} 11111 rn:5 rt:5",
                 f"st{order}xr{mnemonic} <W:rs>, <{register}:rt>, [<XSP:rn>{{, <zero>}}]"),
                families="exclusive store_ex",
            )  # fmt: skip
        for order, o0 in (("", "0"), ("a", "1")):
            yield from _rows(
                table,
                (f"ld{order}xr{suffix}", f"{size} 001000 010 11111 {o0} 11111 rn:5 rt:5",
                 f"ld{order}xr{mnemonic} <{register}:rt>, [<XSP:rn>{{, <zero>}}]"),
                families="exclusive load_ex",
            )  # fmt: skip
    table = "Load/store exclusive pair"
    for size, register in (("10", "W"), ("11", "X")):
        suffix = register.lower()
        for order, o0 in (("", "0"), ("l", "1")):
            yield from _rows(
                table,
                (f"st{order}xp.{suffix}", f"{size} 001000 001 rs:5 {o0} rt2:5 rn:5 rt:5",
                 f"st{order}xp <W:rs>, <{register}:rt>, <{register}:rt2>, [<XSP:rn>{{, <zero>}}]"),
                families="exclusive store_ex",
            )  # fmt: skip
        for order, o0 in (("", "0"), ("a", "1")):
            yield from _rows(
                table,
                (f"ld{order}xp.{suffix}", f"{size} 001000 011 11111 {o0} rt2:5 rn:5 rt:5",
                 f"ld{order}xp <{register}:rt>, <{register}:rt2>, [<XSP:rn>{{, <zero>}}]"),
                families="exclusive load_ex",
            )  # fmt: skip


def _table() -> tuple[Encoding, ...]:
    rooms = (_branches, _register_branches, _exceptions, _hints, _barriers, _pstate, _system,
             _addresses, _movewide, _exclusives)  # fmt: skip
    return tuple(row for room in rooms for row in room())


TABLE: tuple[Encoding, ...] = _table()
"""All rows. Two rows are disjoint, or one is nested in the other; the inner one is the more exact name."""

BY_NAME: dict[str, Encoding] = {row.name: row for row in TABLE}
"""The rows by their names."""

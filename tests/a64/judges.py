"""What each release of a judge knows of A64, and where it says otherwise than the Arm ARM: data, and who asks it.

A judge is one of references.TOOLS. The manual decides who is right; `why` names its section. An entry says from which
of the releases that we tried it holds, and up to which. It is as narrow as it can be: where a judge ignores bits, its
text must be ours for the word with those bits put right. test_judges.py fails where an entry explains nothing.
Read on: register_names.py does the same for system registers, spelling.py for mere spellings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from a64patch.a64.assembler import assemble_one
from a64patch.a64.disassembler import disassemble
from a64patch.a64.encodings import BY_NAME, Encoding
from a64patch.a64.predicates import decode
from a64patch.errors import AssemblyError
from tests.a64 import register_names
from tests.a64.references import Version, version
from tests.a64.register_names import ALWAYS, NEVER, name_in, pair_explained, register_explained
from tests.a64.spelling import plain, respelled

TRIED: dict[str, tuple[Version, ...]] = {"objdump": ((2, 40), (2, 44)), "llvm-mc": ((14, 0), (19, 1))}
"""The releases that the tables are true of: those of Debian 12 and Debian 13."""

KNOWN_SINCE: dict[str, tuple[Version, Version]] = {
    # Feature, or name of a row: the first release of binutils and of LLVM that we tried and that knows it
    "FEAT_ATS1A": ((2, 44), (19, 0)),
    "FEAT_BRBE": ((2, 44), ALWAYS),
    "FEAT_CHK": ((2, 44), (19, 0)),
    "FEAT_CLRBHB": (ALWAYS, (19, 0)),
    "FEAT_CMH": (NEVER, NEVER),
    "FEAT_CMPBR": (NEVER, NEVER),
    "FEAT_CPA": ((2, 44), (19, 0)),
    "FEAT_CSSC": (ALWAYS, (19, 0)),
    "FEAT_D128": ((2, 44), (19, 0)),
    "FEAT_DGH": (NEVER, ALWAYS),
    "FEAT_EBEP": (NEVER, (19, 0)),
    "FEAT_FAMINMAX": ((2, 44), (19, 0)),
    "FEAT_FP8": ((2, 44), (19, 0)),
    "FEAT_FP8DOT2": ((2, 44), (19, 0)),
    "FEAT_FP8DOT4": ((2, 44), (19, 0)),
    "FEAT_FP8FMA": ((2, 44), (19, 0)),
    "FEAT_GCS": ((2, 44), (19, 0)),
    "FEAT_ITE": ((2, 44), (19, 0)),
    "FEAT_LRCPC3": ((2, 44), (19, 0)),
    "FEAT_LSE128": ((2, 44), (19, 0)),
    "FEAT_LUT": ((2, 44), (19, 0)),
    "FEAT_MEC": (NEVER, (19, 0)),
    "FEAT_MTETC": (NEVER, NEVER),
    "FEAT_NMI": (ALWAYS, (19, 0)),
    "FEAT_OCCMO": (NEVER, NEVER),
    "FEAT_PAuth_LR": (NEVER, (19, 0)),
    "FEAT_PCDPHINT": (NEVER, NEVER),
    "FEAT_PRFMSLC": ((2, 44), (19, 0)),
    "FEAT_PoPS": (NEVER, NEVER),
    "FEAT_RME_GPC3": (NEVER, NEVER),
    "FEAT_RPRFM": ((2, 44), (19, 0)),
    "FEAT_SPECRES2": ((2, 44), (19, 0)),
    "FEAT_SYSINSTR128": ((2, 44), (19, 0)),
    "FEAT_SYSREG128": ((2, 44), (19, 0)),
    "FEAT_THE": ((2, 44), (19, 0)),
    "FEAT_TLBIW": (NEVER, (19, 0)),
    "FEAT_XS": ((2, 44), ALWAYS),
    "dc.cigdpapa": (ALWAYS, NEVER),
    "dc.cipapa": (ALWAYS, NEVER),
    "dsb.nxs": (ALWAYS, ALWAYS),
}
GENERAL = ("", "hint", "msr", "prfm", "prfum", "sys", "sysl")
"""What a judge says of a word whose own name it does not know."""


def key_of(word: int, row: Encoding) -> str:
    """What KNOWN_SINCE may have an entry for: the row, else the feature that this word of it came with."""
    prefetch = row.name in ("prfm_lit", "prfm_imm", "prfm_reg", "prfum")
    if prefetch and word >> 1 & 3 == 3 and word >> 3 & 3 != 3:
        return "FEAT_PRFMSLC"
    return row.name if row.name in KNOWN_SINCE else row.feature


def newer(judge: str, word: int, row: Encoding) -> str:
    """The entry of KNOWN_SINCE that the judge at hand is too old for; "" when it should know the word."""
    key = key_of(word, row)
    return key if version(judge) < KNOWN_SINCE.get(key, (ALWAYS, ALWAYS))[judge == "llvm-mc"] else ""


def gnu_as_reads(word: int, row: Encoding) -> bool:
    """Whether the GNU as at hand reads our text of a word, which it must then take for this word.

    Its SYSP goes no further than the operations that there are: CRn 8 and 9, CRm 0 to 7 (C6.2, SYSP). llvm-mc's does.
    It knows the registers of Armv8-R for that architecture only.
    """
    if row.name in ("sysp", "sysp.none") and (word >> 12 & 15 not in (8, 9) or word >> 8 & 15 > 7):
        return False
    name = name_in(disassemble(word)) if row.name in ("mrs", "msr_reg") else ""
    other = register_names.newer("objdump", name) or re.fullmatch(register_names.KNOWN["Armv8-R"].names, name)
    return not newer("objdump", word, row) and not other


@dataclass(frozen=True)
class Case:
    """A word for which a judge has another text than we have."""

    judge: str
    word: int
    row: Encoding | None
    text: str
    """The judge's."""

    @cached_property
    def mnemonic(self) -> str:
        """The first word of the judge's text, "" where it has none."""
        return self.theirs.partition(" ")[0]

    @cached_property
    def theirs(self) -> str:
        """The judge's text in the form of spelling.py."""
        return respelled(plain(self.text, self.judge, self.row, 0))

    @cached_property
    def mine(self) -> str:
        """Ours."""
        return plain(disassemble(self.word), "", self.row, 0)

    @property
    def same(self) -> bool:
        """Whether both say the same."""
        return self.mine == self.theirs

    def is_text_of(self, word: int) -> bool:
        """Whether the judge's text is the one that we have for another word."""
        row = decode(word)
        return row is not None and plain(disassemble(word), "", row, 0) == respelled(
            plain(self.text, self.judge, row, 0)
        )

    def puts_right(self, *fixes: tuple[int, int]) -> bool:
        """Whether the judge's text is ours for the word in which the bits of one of the masks have the given values."""
        return any(self.is_text_of(self.word & ~mask | value) for mask, value in fixes)


@dataclass(frozen=True)
class Difference:
    """Words for which some releases of judges have another text, and the manual is on our side."""

    why: str
    fits: Callable[[Case], bool]
    objdump: tuple[Version, Version] | None = None
    """The first and the last release of binutils that differs."""
    llvm: tuple[Version, Version] | None = None

    def active(self, judge: str) -> bool:
        """Whether the judge at hand differs."""
        range_ = self.objdump if judge == "objdump" else self.llvm
        return range_ is not None and range_[0] <= version(judge) <= range_[1]


def _named(case: Case, *names: str) -> bool:
    return case.row is not None and case.row.name in names


def _same_constant(case: Case) -> bool:
    """The judge's text is a logical operation with a constant: it means this word, or one that we have a text for."""
    if case.row is None or case.row.name.partition("_")[0] not in ("and", "orr", "eor", "ands"):
        return False
    match = re.fullmatch(r"(\w+) (.*,)(\d+)", case.theirs)
    if match is None or "_imm" not in case.row.name:
        return False
    size = case.row.name[-1]
    mnemonic = "orr" if match[1] == "mov" else match[1]
    zero = f"{size}zr," if match[1] == "mov" else ""
    constant = int(match[3]) % (1 << (32 if size == "w" else 64))
    try:
        made = assemble_one(f"{mnemonic} {match[2]}{zero}{constant}")
    except AssemblyError:
        return False
    return decode(made) is case.row and (made == case.word) == bool(case.mine)


def _copies_clash(case: Case) -> bool:
    registers = {case.word & 31, case.word >> 5 & 31, case.word >> 16 & 31}
    return not case.mine and (len(registers) < 3 or 31 in registers)


def _without_register(case: Case) -> bool:
    """The judge's text has no register, and is ours for the word whose Rt is 31."""
    return _named(case, "sys") and case.word & 31 != 31 and case.is_text_of(case.word | 31)


def _half_a_pair(case: Case) -> bool:
    return (
        case.row is not None
        and case.mine == f"{case.theirs},xzr"
        and bool({"sysp", "mrrs", "msrr"} & {*case.row.families})
    )


def _pair_of_no_operation(case: Case) -> bool:
    """TLBIP with an operation not by address, which TLBI alone has, and with registers of the pair alone."""
    match = re.fullmatch(r"tlbip ((?:alle|aside|paall|rpa|vmall)\w*?)(nxs)?(,.*)?", case.theirs)
    single = BY_NAME.get(f"tlbi.{match[1]}") if match else None
    if match is None or single is None or not _named(case, "sysp", "sysp.none"):
        return False
    operation = single.value | (1 << 12 if match[2] else 0)  # CRn is 8, or 9 with nXS.
    registers = case.mine.split(",")[4:] or ["xzr", "xzr"]
    return (operation ^ case.word) & 0x7FFE0 == 0 and (match[3] or "") in _parts_of(registers)


def _parts_of(pair: list[str]) -> set[str]:
    """Both registers of a pair, the first, the second, none, as texts that follow an operation."""
    first, second = pair
    return {f",{first},{second}", f",{first}", f",{second}", ""}


def _register_is_narrow(case: Case) -> bool:
    """MRRS or MSRR of a register that they do not reach, by its name."""
    match = re.fullmatch(r"(mrrs) \w+,\w+,(\w+)|(msrr) (\w+),\w+,\w+", case.theirs)
    if match is None or not _named(case, "mrrs", "msrr"):
        return False
    name = match[2] or match[4]
    o0, op1, crn, crm, op2 = (
        case.word >> shift & mask for shift, mask in ((19, 1), (16, 7), (12, 15), (8, 15), (5, 7))
    )
    generic = f"s{2 + o0}_{op1}_c{crn}_c{crm}_{op2}"
    return case.theirs.replace(name, generic) == case.mine and bool(pair_explained(case.judge, case.word, name))


def _zero_pair(case: Case) -> bool:
    """Rt or Rt2 is 31, and the judge's text is ours for the word with 0 there, but for the name of that register."""
    fields = [shift for shift in (0, 16) if case.word >> shift & 31 == 31]
    written = plain(disassemble(case.word & ~sum(31 << shift for shift in fields)), "", case.row, 0)
    operands = written.replace(" ", ",", 1).split(",")
    for shift in fields:
        operands[1 + shift // 16] = "xzr"
    return bool(fields) and not case.mine and case.theirs.replace(" ", ",", 1).split(",") == operands


def _no_register(case: Case) -> bool:
    generic = r"s[01]_\d_c\d+_c\d+_\d"
    shown = re.fullmatch(rf"mrr?s .*{generic}|msrr? {generic},.*", case.theirs)
    return case.word >> 19 & 3 < 2 and shown is not None


_EVERY = (ALWAYS, NEVER)
_RT2, _RS = (0x1F << 10, 0x1F << 10), (0x1F << 16, 0x1F << 16)
_BOTH = (0x1F << 16 | 0x1F << 10, 0x1F << 16 | 0x1F << 10)

WITH_A_ROW: tuple[Difference, ...] = (
    Difference(
        "the registers of MRS and MSR have a table of their own",
        lambda case: _named(case, "mrs", "msr_reg") and bool(register_explained(case.judge, case.word, case.text)),
        _EVERY, _EVERY,
    ),
    Difference(
        "immr is not the one that an assembler makes for this constant, so the text would be another word; or the text "
        "means the word, and is MOV where the manual prefers ORR, or has a negative constant (C6.2, MOV (bitmask))",
        _same_constant,
        _EVERY, _EVERY,
    ),
    Difference(
        "registers that must differ are the same, or SP: UNDEFINED (C6.2, CPYP)",
        lambda case: case.row is not None and "mops" in case.row.families and _copies_clash(case),
        None, _EVERY,
    ),
    Difference(
        "one register is loaded twice or written back to: CONSTRAINED UNPREDICTABLE (C6.2, LDPSW)",
        lambda case: case.row is not None and case.row.name.startswith("ldpsw") and not case.theirs
        and len({case.word & 31, case.word >> 10 & 31, case.word >> 5 & 31}) < 3,
        _EVERY,
    ),
    Difference(
        "an operation without register whose Rt is not 31: the judge drops Rt, so its text is another word (C5.5)",
        lambda case: case.mnemonic in ("ic", "tlbi") and _without_register(case),
        _EVERY, _EVERY,
    ),
    Difference(
        "the manual has no nXS form of what invalidates granule protection tables; binutils agrees with us (C5.5)",
        lambda case: _named(case, "sys") and case.word >> 12 == 0xD50E9
        and re.fullmatch(r"tlbi (?:paall|paallos|rpaos|rpalos)nxs(?:,\w+)?", case.theirs) is not None,
        None, _EVERY,
    ),
    Difference(
        "the same for BRB; llvm-mc agrees with us (C6.2, BRB)",
        lambda case: case.mnemonic == "brb" and _without_register(case),
        ((2, 44), NEVER),
    ),
    Difference(
        "LLVM writes BFXIL from the zero register as BFC; the manual keeps BFC for imms < immr (C6.2, BFC)",
        lambda case: _named(case, "bfm.w", "bfm.x") and case.mnemonic == "bfc"
        and assemble_one(case.theirs) == case.word,
        None, _EVERY,
    ),
    Difference(
        "LLVM does not print SXTL and UXTL, the preferred form of a shift by 0 (C7.2, SXTL)",
        lambda case: case.row is not None and case.row.name[1:4] == "xtl"
        and re.fullmatch(r"[su]shll2? .*,0", case.theirs) is not None,
        None, _EVERY,
    ),
    Difference(
        "DSB #12 is DFB in Armv8-R only, which `all` takes in (C6.2, DSB)",
        lambda case: _named(case, "dfb") and case.theirs == "dfb",
        None, ((19, 0), NEVER),
    ),
    Difference(
        "binutils leaves out the second register of a pair where it is XZR; the manual does so only where both are, "
        "and in SYSP alone; llvm-mc agrees with us (C6.2, SYSP and TLBIP)",
        _half_a_pair,
        ((2, 44), NEVER),
    ),
    Difference(
        "TLBIP has the operations by address only; the judge takes all that TLBI has, LLVM 22 no more (C5.5, TLBIP)",
        _pair_of_no_operation,
        ((2, 44), NEVER), ((19, 0), NEVER),
    ),
    Difference(
        "the judge names every register; MRRS and MSRR reach those of 128 bits only (D23.2)",
        _register_is_narrow,
        ((2, 44), NEVER), ((19, 0), NEVER),
    ),
    Difference(
        "Rt or Rt2 is 31: UNDEFINED; llvm-mc agrees with us (C6.2, LDCLRP, RCWCLRP)",
        lambda case: case.row is not None and case.row.feature in ("FEAT_LSE128", "FEAT_THE") and _zero_pair(case),
        ((2, 44), NEVER),
    ),
)  # fmt: skip
"""Of words that a row of ours claims."""

WITHOUT_ROW: tuple[Difference, ...] = (
    Difference(
        "op0 of 0 or 1 is no register (C5.1.2); the judges print s0_… for want of anything better",
        lambda case: case.mnemonic in ("mrs", "msr") and _no_register(case),
        _EVERY, _EVERY,
    ),
    Difference(
        "the same for MRRS and MSRR; binutils agrees with us",
        lambda case: case.mnemonic in ("mrrs", "msrr") and _no_register(case),
        None, ((19, 0), NEVER),
    ),
    Difference(
        "LLVM ignores CRm, which the manual fixes to 0 (C6.2)",
        lambda case: case.mnemonic in ("xaflag", "axflag", "sb", "cfinv") and case.puts_right((0xF00, 0)),
        None, _EVERY,
    ),
    Difference(
        "LLVM ignores op3, which the manual fixes to 0 (C6.2, ADDG)",
        lambda case: case.mnemonic in ("addg", "subg") and case.puts_right((0xC000, 0)),
        None, _EVERY,
    ),
    Difference(
        "eight registers from Xt on do not exist: UNDEFINED (C6.2, LD64B)",
        lambda case: case.mnemonic in ("ld64b", "st64b", "st64bv", "st64bv0"),
        _EVERY,
    ),
    Difference(
        "LLVM takes four bits for a flag of one (C6.2, MSR (immediate))",
        lambda case: re.fullmatch(r"msr (uao|pan|spsel|ssbs|dit|tco),\d+", case.theirs) is not None
        and re.sub(r"\d+", "1", case.theirs) == plain(disassemble(case.word & ~0xF00 | 0x100), "", None, 0),
        None, _EVERY,
    ),
    Difference(
        "binutils ignores bit 31, which the manual fixes to 1; llvm-mc agrees with us (C6.2, LDIAPP, LDAPR, STLR)",
        lambda case: case.mnemonic in ("ldiapp", "stilp", "ldapr", "stlr") and case.puts_right((1 << 31, 1 << 31)),
        ((2, 44), NEVER),
    ),
    Difference(
        "Rm is not 0, as the manual's (0) says it should be (C7.2, FCMP)",
        lambda case: case.mnemonic in ("fcmp", "fcmpe") and case.puts_right((0x1F << 16, 0)),
        _EVERY, _EVERY,
    ),
    Difference(
        "bits of imm5 or imm4 that the manual ignores are not 0: no text gives this word (C7.2, DUP and INS)",
        lambda case: (case.mnemonic == "dup" and case.word & 0xBFE0FC00 == 0x0E000C00)
        or case.word & 0xFFE08400 == 0x6E000400,
        _EVERY, _EVERY,
    ),
    Difference(
        "binutils ignores sz, which the manual fixes to 0 (C7.2, FMLAL)",
        lambda case: case.mnemonic in ("fmlal", "fmlal2", "fmlsl", "fmlsl2") and case.puts_right((1 << 22, 0)),
        _EVERY,
    ),
    Difference(
        "bits that the manual prints as (1) are not 1: CONSTRAINED UNPREDICTABLE (C6.2, LDXR, STLR, SMULH, CAS)",
        lambda case: case.puts_right(_RT2, _RS, _BOTH),
        _EVERY, _EVERY,
    ),
)  # fmt: skip
"""Of words that no row of ours claims."""


def difference(judge: str, word: int, row: Encoding | None, text: str) -> Difference | None:
    """The first entry that explains the judge's text for a word of this row."""
    case = Case(judge, word, row, text)
    return next((one for one in (WITH_A_ROW if row else WITHOUT_ROW) if one.active(judge) and one.fits(case)), None)


def explained(judge: str, word: int, row: Encoding | None, text: str) -> str:
    """Why a judge's text for a word of this row is another than ours; without row, why it has one; "" for no reason."""
    if row is not None and newer(judge, word, row) and Case(judge, word, row, text).mnemonic in GENERAL:
        return f"{newer(judge, word, row)} is newer than this {judge}"
    found = difference(judge, word, row, text)
    return found.why if found else ""

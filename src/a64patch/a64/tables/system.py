"""Hints, barriers, PSTATE, system instructions and registers: Arm ARM C4.1 and C5.

Read on: branches.py for the rest of that group.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding, rows

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
    "shuh": (0x32, "FEAT_CMH"),
    "shuh ph": (0x33, "FEAT_CMH"),
    "stcph": (0x34, "FEAT_CMH"),
}
"""Every hint that has a name: its number CRm:op2 and its feature. All others execute as NOP today (C6.2, HINT)."""

_KEYS = ("ia", "ib")
_HINT_REGISTERS: dict[str, tuple[str, str]] = {
    "xpaclri": ("x30", "x30"),
    "chkfeat x16": ("x16", "x16"),
    **{f"{verb}{key}1716": ("x16 x17", "x17") for verb in ("pac", "aut") for key in _KEYS},
    **{f"{verb}{key}z": ("x30", "x30") for verb in ("pac", "aut") for key in _KEYS},
    **{f"{verb}{key}sp": ("x30 sp", "x30") for verb in ("pac", "aut") for key in _KEYS},
}
"""The hints that read and write registers, and which (C6.2, the page of each)."""
_HINT_PADS = {"paciasp": "c", "pacibsp": "c", "bti c": "c", "bti j": "j", "bti jc": "cj"}
"""The hints that indirect branches may land on. PACIASP and PACIBSP count as BTI c, as SCTLR_ELx.BT = 1 has it."""

_HINT_SPELLINGS = {"clrbhb": ("clrbhb", "clearbhb"), "bti": ("bti", "bti r")}
"""The hints with several spellings. BTI R is the newest issues' name for BTI: a landing pad for returns (FEAT_BTIE)."""


def _hints() -> Iterator[Encoding]:
    table = "Hints"
    yield from rows(table, ("hint", "11010101000000110010 crm:4 op2:3 11111", "hint <hex:crm:op2>"))
    for text, (number, feature) in HINTS.items():
        families = "hint bti" if text.startswith("bti ") else "hint"
        reads, writes = _HINT_REGISTERS.get(text, ("", ""))
        yield from rows(
            table,
            (text.replace(" ", "_"), f"11010101000000110010 {number:07b} 11111", _HINT_SPELLINGS.get(text, text)),
            families=families, feature=feature, reads=reads, writes=writes, lands=_HINT_PADS.get(text, ""),
        )  # fmt: skip


def _barriers() -> Iterator[Encoding]:
    table = "Barriers"
    barrier = "11010101000000110011"
    yield from rows(
        table,
        ("clrex", f"{barrier} crm:4 010 11111", "clrex{ <imm15:crm>}"),
    )
    yield from rows(
        table,
        ("dsb", f"{barrier} crm:4 100 11111", "dsb <barrier:crm>"),
        ("dmb", f"{barrier} crm:4 101 11111", "dmb <barrier:crm>"),
        ("isb", f"{barrier} crm:4 110 11111", "isb{ <isb:crm>}"),
        ("ssbb", f"{barrier} 0000 100 11111", "ssbb"),
        ("pssbb", f"{barrier} 0100 100 11111", "pssbb"),
        # Armv8-R calls it DFB; elsewhere it has no name of its own.
        ("dfb", f"{barrier} 1100 100 11111", ("dsb #12", "dfb")),
        families="barrier",
    )
    yield from rows(
        table, ("dsb.nxs", f"{barrier} imm2:2 10 001 11111", "dsb <nxs:imm2>"), families="barrier", feature="FEAT_XS"
    )
    yield from rows(table, ("sb", f"{barrier} 0000 111 11111", "sb"), families="barrier", feature="FEAT_SB")
    yield from rows(table, ("tcommit", f"{barrier} 0000 011 11111", "tcommit"), feature="FEAT_TME")
    timed = "System instructions with register argument"
    # The manual's diagram calls the field Rd, but it is only read.
    yield from rows(
        timed,
        ("wfet", "11010101000000110001 0000 000 rt:5", "wfet <X:rt>"),
        ("wfit", "11010101000000110001 0000 001 rt:5", "wfit <X:rt>"),
        feature="FEAT_WFxT",
    )
    yield from rows(
        "System with result",
        ("tstart", "11010101001000110011 0000 011 rt:5", "tstart <X:rt>"),
        ("ttest", "11010101001000110011 0001 011 rt:5", "ttest <X:rt>"),
        feature="FEAT_TME",
        writes="rt",
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
        yield from rows(
            table,
            (f"msr_imm.{name}", f"1101010100000 {op1} 0100 {crm} {op2} 11111", f"msr {name}, <imm:crm>"),
            feature=feature, writes="sp" if name == "spsel" else "",  # SP is another register afterwards
        )  # fmt: skip
    for name, mask in (("svcrsm", "001"), ("svcrza", "010"), ("svcrsmza", "011")):
        mode = {"svcrsm": "sm", "svcrza": "za", "svcrsmza": ""}[name]
        for bit, verb in (("1", "smstart"), ("0", "smstop")):
            yield from rows(
                table,
                (f"{verb}.{mode or 'both'}", f"1101010100000 011 0100 {mask}{bit} 011 11111",
                 (f"{verb} {mode}".strip(), f"msr {name}, #{bit}")),
                families="msr_imm", feature="FEAT_SME",
            )  # fmt: skip
    yield from rows(
        table, ("cfinv", "1101010100000 000 0100 0000 000 11111", "cfinv"),
        feature="FEAT_FlagM", reads="nzcv", writes="nzcv",
    )  # fmt: skip
    yield from rows(
        table,
        ("xaflag", "1101010100000 000 0100 0000 001 11111", "xaflag"),
        ("axflag", "1101010100000 000 0100 0000 010 11111", "axflag"),
        feature="FEAT_FlagM2",
        reads="nzcv",
        writes="nzcv",
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
    yield "vmallws2e1", 4, 6, 2, False, "FEAT_TLBIW"
    yield "vmallws2e1is", 4, 2, 2, False, "FEAT_TLBIW"
    yield "vmallws2e1os", 4, 5, 2, False, "FEAT_TLBIW"


_GRANULES = ("paall", "rpa")
"""How the operations on granule protection tables begin. They have no nXS form (Arm ARM C5.5, TLBI RPAOS)."""


def _has_pair_form(name: str) -> bool:
    """Whether TLBIP has the operation too: those by address, but the granule protection tables' have no such form."""
    return name.startswith(("va", "rva", "ipas", "ripas"))


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
    ("dc", "zgbva", 3, 4, 5, True, "FEAT_MTETC"),
    ("dc", "gbva", 3, 4, 7, True, "FEAT_MTETC"),
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
    ("dc", "cvaoc", 3, 11, 0, True, "FEAT_OCCMO"),
    ("dc", "cgdvaoc", 3, 11, 7, True, "FEAT_OCCMO"),
    ("dc", "civaoc", 3, 15, 0, True, "FEAT_OCCMO"),
    ("dc", "cigdvaoc", 3, 15, 7, True, "FEAT_OCCMO"),
    ("dc", "civaps", 0, 15, 1, True, "FEAT_PoPS"),
    ("dc", "cigdvaps", 0, 15, 5, True, "FEAT_PoPS"),
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
    ("apas", "", 6, 0, 0, True, "FEAT_RME_GPC3"),
    # Guarded control stack (C5.9)
    ("gcspushx", "", 0, 7, 4, False, "FEAT_GCS"),
    ("gcspopcx", "", 0, 7, 5, False, "FEAT_GCS"),
    ("gcspopx", "", 0, 7, 6, False, "FEAT_GCS"),
    ("gcspushm", "", 3, 7, 0, True, "FEAT_GCS"),
    ("gcsss1", "", 3, 7, 2, True, "FEAT_GCS"),
)
_STORES = {("dc", name) for name in ("zva", "gva", "gzva", "zgbva", "gbva")}
"""The operations that write data or tags: as much as DCZID_EL0 says."""


def _system() -> Iterator[Encoding]:
    table = "System instructions"
    yield from rows(
        table,
        ("sys", "1101010100001 op1:3 crn:4 crm:4 op2:3 rt:5",
         "sys <imm:op1>, <C:crn>, <C:crm>, <imm:op2>{, <Xopt:rt>}"),
    )  # fmt: skip
    yield from rows(
        table,
        ("sysl", "1101010100101 op1:3 crn:4 crm:4 op2:3 rt:5",
         "sysl <X:rt>, <imm:op1>, <C:crn>, <C:crm>, <imm:op2>"),
        writes="rt",
    )  # fmt: skip
    operations = [(name, operation, op1, 7, crm, op2, register, feature)
                  for name, operation, op1, crm, op2, register, feature in _CACHE_OPERATIONS]  # fmt: skip
    operations += [("tlbi", name, op1, 8, crm, op2, register, feature)
                   for name, op1, crm, op2, register, feature in _tlbi()]  # fmt: skip
    operations += [("tlbi", f"{name}nxs", op1, 9, crm, op2, register, feature if feature == "FEAT_TLBIW" else "FEAT_XS")
                   for name, op1, crm, op2, register, feature in _tlbi() if not name.startswith(_GRANULES)]  # fmt: skip
    for name, operation, op1, crn, crm, op2, register, feature in operations:
        bits = f"1101010100001 {op1:03b} {crn:04b} {crm:04b} {op2:03b}"
        text = " ".join(filter(None, (name, operation)))
        comma = ", " if operation else " "
        row = (f"{bits} rt:5", f"{text}{comma}<X:rt>") if register else (f"{bits} 11111", text)
        memory = "store" if (name, operation) in _STORES else ""
        yield from rows(
            table, (f"{name}.{operation}".rstrip("."), *row),
            families="sys", feature=feature, memory=memory, size=None if memory else 0,
        )  # fmt: skip
    yield from rows(
        table,
        ("gcspopm", "1101010100101 011 0111 0111 001 rt:5", "gcspopm{ <Xopt:rt>}"),
        ("gcsss2", "1101010100101 011 0111 0111 011 rt:5", "gcsss2 <X:rt>"),
        families="sysl", feature="FEAT_GCS", writes="rt",
    )  # fmt: skip
    yield from _pairs()
    table = "System register move"
    yield from rows(
        table,
        ("msr_reg", "11010101000 1 o0:1 op1:3 crn:4 crm:4 op2:3 rt:5", "msr <writable:o0:op1:crn:crm:op2>, <X:rt>"),
    )
    yield from rows(
        table,
        ("mrs", "11010101001 1 o0:1 op1:3 crn:4 crm:4 op2:3 rt:5", "mrs <X:rt>, <readable:o0:op1:crn:crm:op2>"),
        writes="rt",
    )
    table = "System pair register move"
    yield from rows(
        table,
        ("msrr", "11010101010 1 o0:1 op1:3 crn:4 crm:4 op2:3 rt:4 0",
         "msrr <sysreg128:o0:op1:crn:crm:op2>, <Xpair:rt>"),
        feature="FEAT_SYSREG128",
    )  # fmt: skip
    yield from rows(
        table,
        ("mrrs", "11010101011 1 o0:1 op1:3 crn:4 crm:4 op2:3 rt:4 0",
         "mrrs <Xpair:rt>, <sysreg128:o0:op1:crn:crm:op2>"),
        feature="FEAT_SYSREG128", writes="rt",
    )  # fmt: skip


def _pairs() -> Iterator[Encoding]:
    table = "System pair instructions"
    head = "1101010101001"
    general = "sysp <imm:op1>, <C:crn>, <C:crm>, <imm:op2>"
    yield from rows(
        table,
        ("sysp", f"{head} op1:3 crn:4 crm:4 op2:3 rt:4 0", f"{general}, <Xpair:rt>"),
        ("sysp.none", f"{head} op1:3 crn:4 crm:4 op2:3 11111", (general, f"{general}, xzr, xzr")),
        feature="FEAT_SYSINSTR128",
    )
    for name, op1, crm, op2, _, _ in _tlbi():
        for suffix, crn in (("", 8), ("nxs", 9)) if _has_pair_form(name) else ():
            bits, text = f"{head} {op1:03b} {crn:04b} {crm:04b} {op2:03b}", f"tlbip {name}{suffix}"
            yield from rows(
                table,
                (f"tlbip.{name}{suffix}", f"{bits} rt:4 0", f"{text}, <Xpair:rt>"),
                (f"tlbip.{name}{suffix}.none", f"{bits} 11111", f"{text}, xzr, xzr"),
                families="sysp", feature="FEAT_D128",
            )  # fmt: skip


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    yield from _hints()
    yield from _barriers()
    yield from _pstate()
    yield from _system()

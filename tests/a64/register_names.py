"""System registers: which release of a judge knows which, and where a judge names one otherwise than the Arm ARM.

Read on: test_system_registers.py asks every judge for every register; judges.py does the same for instructions.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from a64patch.a64.system_registers import Code, codes, readable_names, writable_names
from tests.a64.references import Version, version

NEVER: Version = (999, 0)
"""No release that we tried."""
ALWAYS: Version = (0, 0)
"""All releases that we tried."""


class Known(NamedTuple):
    """Registers that a judge knows from a release on: the first of those we tried, and all of the registers or none."""

    names: str
    """A regular expression."""
    objdump: Version
    llvm: Version

    def since(self, judge: str) -> Version:
        """The first release."""
        return self.objdump if judge == "objdump" else self.llvm


_NEW = ((2, 44), (19, 0))
_NOT_IN_BINUTILS = (NEVER, (19, 0))
_IN_NEITHER = (NEVER, NEVER)
_OLD_IN_BINUTILS = (ALWAYS, (19, 0))

KNOWN: dict[str, Known] = {
    "FEAT_AIE": Known(r"a?mair2_el\d+", *_NEW),
    "FEAT_AMUv1p1": Known(r"amcg1idr_el0", *_OLD_IN_BINUTILS),
    "FEAT_Debugv8p9": Known(r"mdselr_el1", *_NEW),
    "FEAT_E3DSE": Known(r"v(disr|sesr)_el3", *_NEW),
    "FEAT_EBEP": Known(r"pm", *_NOT_IN_BINUTILS),
    "FEAT_FGT for FEAT_AMUv1": Known(r"hafgrtr_el2", *_OLD_IN_BINUTILS),
    "FEAT_FGT2": Known(r"hd?fg[rw]tr2_el2", *_NEW),
    "FEAT_FGT2 for instructions": Known(r"hfgitr2_el2", *_NOT_IN_BINUTILS),
    "FEAT_FGWTE3": Known(r"fgwte3_el3", *_NOT_IN_BINUTILS),
    "FEAT_FPMR": Known(r"fpmr", *_NEW),
    "FEAT_GCS": Known(r"gcs(cr|pr|cre0)_el\d+", *_NEW),
    "FEAT_HACDBS": Known(r"hacdbs(br|cons)_el2", *_NOT_IN_BINUTILS),
    "FEAT_HDBSS": Known(r"hdbss(br|prod)_el2", *_NOT_IN_BINUTILS),
    "FEAT_ITE": Known(r"trcit(ecr_el\d+|eedcr)", *_NEW),
    "FEAT_MEC": Known(r"mecidr_el2|v?mecid_(p|a|p0|a0|p1|a1|rl_a)_el[23]", *_NEW),
    "FEAT_MPAM_PE_BW_CTRL": Known(r"mpambw(\d|cap|idr|sm)_el\d+", *_IN_NEITHER),
    "FEAT_NMI": Known(r"allint|icc_nmiar1_el1", *_OLD_IN_BINUTILS),
    "FEAT_PFAR": Known(r"pfar_el\d+", *_NEW),
    "FEAT_PMUv3_ICNTR": Known(r"pmic(ntr|filtr)_el0", *_NEW),
    "FEAT_PMUv3_SS": Known(r"pm(ccnt|icnt|evcnt)svr\d*_el1|pmsscr_el1", *_NEW),
    "FEAT_PMUv3p9": Known(r"pmuacr_el1|pmzr_el0", *_NEW),
    "FEAT_RASv2": Known(r"erxgsr_el1", *_NEW),
    "FEAT_RME_GPC3": Known(r"gpcbw_el3", *_IN_NEITHER),
    "FEAT_S1PIE, FEAT_S2PIE": Known(r"(s2)?pir(e0)?_el\d+", *_NEW),
    "FEAT_S1POE, FEAT_S2POE": Known(r"(s2)?por_el\d+", *_NEW),
    "FEAT_SCTLR2": Known(r"sctlr2_el\d+", *_NEW),
    "FEAT_SEBEP": Known(r"pm(ecr|iar)_el1", *_NEW),
    "FEAT_SPE_EXC": Known(r"pmbmar_el1|pmbsr_el(12|2|3)", *_IN_NEITHER),
    "FEAT_SPE_FDS": Known(r"pmsdsfr_el1", *_NEW),
    "FEAT_SPMU": Known(r"spm(?!accessr_el12)[a-z]\w+", *_NEW),
    "FEAT_SPMU for FEAT_VHE": Known(r"spmaccessr_el12", *_NOT_IN_BINUTILS),
    "FEAT_SRMASK": Known(r"(sctlr2?|actlr|cpacr|cptr|tcr2?)(mask|alias)_el\d+|actlr_el12", *_IN_NEITHER),
    "FEAT_STEP2": Known(r"mdstepop_el1", *_NEW),
    "FEAT_TCR2": Known(r"tcr2_el\d+", *_NEW),
    "FEAT_THE": Known(r"rcws?mask_el1", *_NEW),
    "FEAT_TRBE_EXC": Known(r"trbsr_el(12|2|3)", *_IN_NEITHER),
    "FEAT_TRBE_MPAM": Known(r"trbmpam_el1", *_IN_NEITHER),
    "ID register of FEAT_MTPMU": Known(r"id_dfr1_el1", *_OLD_IN_BINUTILS),
    "ID registers of 2022": Known(r"id_aa64(dfr2|isar3|mmfr[34])_el1", *_NEW),
    "ID registers of 2023": Known(r"id_aa64(pfr2|fpfr0)_el1", *_NOT_IN_BINUTILS),
    "Armv8-R": Known(r"mpuir_el[12]|pr[bl]ar\d*_el[12]|prenr_el[12]|prselr_el[12]", *_OLD_IN_BINUTILS),
}
"""Registers that not all releases know, by the feature that brought them (Arm ARM D23.2)."""


class Otherwise(NamedTuple):
    """Registers for which a judge has a name that the manual does not give, or an access (`wider`)."""

    judge: str
    first: Version
    last: Version
    names: str
    """A regular expression for the judge's names."""
    why: str
    ours: str = ""
    """Our name of the same register."""
    wider: bool = False
    """The name is the manual's, but for the other direction only."""

    def active(self, judge: str) -> bool:
        """Whether it is said of the release at hand."""
        return self.judge == judge and self.first <= version(judge) <= self.last


OTHERWISE = (
    Otherwise("objdump", ALWAYS, NEVER, r"csr(cr|ptr|ptridx|idr)_el\d+", "FEAT_CSRE was withdrawn unpublished"),
    Otherwise("llvm-mc", ALWAYS, NEVER, r"cnt(scale|iscale|vfrq)_el2", "FEAT_ECV was published without these"),
    Otherwise(
        "llvm-mc", (19, 0), NEVER, r"cpm_ioacc_ctl_el3",
        "a register of Apple's CPUs, IMPLEMENTATION DEFINED (D23.3): `all` takes in the features of every CPU",
    ),
    Otherwise(
        "llvm-mc", ALWAYS, NEVER, r"trcextinselr", "the name that it had when there was only one (D23.3)",
        ours="trcextinselr0",
    ),
    Otherwise(
        "objdump", ALWAYS, NEVER, r"\w+", "it names a register whatever the access, and says so in a note", wider=True
    ),
    Otherwise(
        "llvm-mc", ALWAYS, (14, 0), r"pmmir_el1|cnt[pv]ctss_el0", "LLVM let MSR write what is read-only (D23.3)",
        wider=True,
    ),
    Otherwise(
        "llvm-mc", (19, 0), NEVER, r"mpuir_el[12]", "LLVM lets MSR write what is read-only (Arm ARM for Armv8-R)",
        wider=True,
    ),
)  # fmt: skip
"""What decides is the manual; the other judge agrees with it in each case but the first, which it does not know."""


def code_of(word: int) -> Code:
    """The register that an MRS, MSR, MRRS or MSRR reaches."""
    return 2 + (word >> 19 & 1), word >> 16 & 7, word >> 12 & 15, word >> 8 & 15, word >> 5 & 7


def name_in(text: str) -> str:
    """The register's name in a text of MRS or MSR; "" for a generic one or none."""
    match = re.fullmatch(r"mrs\s+\w+,\s*(\w+)|msr\s+(\w+),\s*\w+", text.lower())
    name = (match[1] or match[2]) if match else ""
    return "" if re.fullmatch(r"s\d_\d_c\d+_c\d+_\d", name) else name


def newer(judge: str, name: str) -> str:
    """The entry of KNOWN for a register that the judge at hand is too old for; "" when it should know it."""
    for feature, known in KNOWN.items():
        if re.fullmatch(known.names, name):
            return feature if version(judge) < known.since(judge) else ""
    return ""


def otherwise(judge: str, theirs: str, mine: str, other: str) -> str:
    """Why the judge has the name `theirs` for what we call `mine`, and `other` in the other direction; "" for none."""
    for entry in OTHERWISE:
        same = theirs == other and not mine if entry.wider else mine == entry.ours
        if entry.active(judge) and same and re.fullmatch(entry.names, theirs):
            return entry.why
    return ""


def register_explained(judge: str, word: int, text: str) -> str:
    """Why a judge calls the register of an MRS or MSR otherwise than we do; "" when there is no reason."""
    theirs, code, reads = name_in(text), code_of(word), bool(word >> 21 & 1)
    here, there = (readable_names(), writable_names()) if reads else (writable_names(), readable_names())
    mine = here.get(code, "")
    if not theirs:
        feature = newer(judge, mine)
        return f"{judge} does not know {feature}" if feature else ""
    return otherwise(judge, theirs, mine, there.get(code, ""))


def pair_explained(judge: str, word: int, name: str) -> str:
    """Why a judge has a name for a register that MRRS and MSRR do not reach; "" when there is no reason."""
    register = codes().get(name)
    if register is not None and register.code == code_of(word):
        return "it names a register whatever its width; only those of 128 bits exist for MRRS and MSRR (D23.2)"
    return otherwise(judge, name, readable_names().get(code_of(word), ""), "")

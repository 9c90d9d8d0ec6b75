"""The project's own litmus tests: the phenomena of the ESOP 2020 paper, and what a code patcher depends on.

A case is written as one line a thread, instructions separated by `;`. `X0` of a writer holds the new word `B .+8`,
which skips the `MOV W9,#1` behind the patched NOP: W9 is 1 after the old word and 2 after the new one.
"""

from __future__ import annotations

from dataclasses import dataclass

ALLOWED, FORBIDDEN = True, False


@dataclass(frozen=True)
class Case:
    """A test with its verdicts under Arm's current model and under the paper's."""

    name: str
    arm: bool
    esop: bool
    registers: str
    threads: tuple[str, ...]
    condition: str
    cache: str = ""

    @property
    def text(self) -> str:
        """The case in herd's format."""
        columns = [[cell.strip() for cell in thread.split(";")] for thread in self.threads]
        height = max(map(len, columns))
        rows = [[column[row] if row < len(column) else "" for column in columns] for row in range(height)]
        lines = [[f"P{number}" for number in range(len(columns))], *rows]
        body = "\n".join(" | ".join(line) + " ;" for line in lines)
        cache = f"CacheType={self.cache}\n" if self.cache else ""
        return f"AArch64 {self.name}\n{cache}{{ {self.registers} }}\n{body}\nexists ({self.condition})\n"


def sync(register: str) -> str:
    """The whole maintenance that makes a store fetchable, without the ISB."""
    return f"DC CVAU,{register}; DSB ISH; IC IVAU,{register}; DSB ISH"


FETCH = "MOV W9,#2; f: NOP; MOV W9,#1"
"""The patched place, once."""
CALLED = "B end; f0: MOV W9,#2; f: NOP; MOV W9,#1; RET; end:"
"""The patched place as a function, for those who fetch it twice: BL f0."""
SECOND = "MOV W10,#2; g: NOP; MOV W10,#1"
"""Another patched place."""
WRITER = '0:X0=instr:"B .+8"; 0:X1=P{0}:f; 0:X2=1; 0:X3=x;'
TO_1 = WRITER.format(1)
TO_SELF = WRITER.format(0)
MP = TO_1 + " 1:X3=x;"
"""P0 patches and raises the flag x, P1 looks at the flag."""
SAW_CTRL = "LDR W4,[X3]; CBZ W4,seen; seen:"
PUBLISHED = f"STR W0,[X1]; {sync('X1')}; STR W2,[X3]"
STALE = "1:X4=1 /\\ 1:X9=1"
CHAIN = '0:X0=instr:"B .+8"; 0:X1=P2:f; 0:X2=1; 0:X3=x; 1:X1=P2:f; 1:X2=1; 1:X3=x; 1:X5=y; 2:X5=y;'
CHAIN_STALE = "1:X4=1 /\\ 2:X4=1 /\\ 2:X9=1"
CHAIN_END = f"LDR W4,[X5]; CBZ W4,seen; seen: ISB; {FETCH}"
TWO = '0:X0=instr:"B .+8"; 0:X1=P1:g; 0:X4=P1:f;'
"""P0 patches g, then f, both of P1."""


def both(name: str, verdict: bool, registers: str, *threads: str, condition: str, cache: str = "") -> Case:
    """A case on which the models agree."""
    return Case(name, verdict, verdict, registers, threads, condition, cache)


PAPER = (
    both("CoFF", ALLOWED, TO_1, "STR W0,[X1]", f"BL f0; MOV W8,W9; BL f0; {CALLED}", condition="1:X8=2 /\\ 1:X9=1"),
    both("CoFR", FORBIDDEN, TO_1 + " 1:X1=P1:f;", "STR W0,[X1]", f"{FETCH}; LDR W5,[X1]",
         condition='1:X9=2 /\\ 1:X5=instr:"NOP"'),
    both("CoRF+ctrl-isb", ALLOWED, TO_1 + " 1:X1=P1:f;", "STR W0,[X1]",
         f"LDR W5,[X1]; CBZ W5,seen; seen: ISB; {FETCH}", condition='1:X5=instr:"B .+8" /\\ 1:X9=1'),
    both("SM", ALLOWED, TO_SELF, f"STR W0,[X1]; {FETCH}", condition="0:X9=1"),
    both("SM+cachesync-isb", FORBIDDEN, TO_SELF, f"STR W0,[X1]; {sync('X1')}; ISB; {FETCH}", condition="0:X9=1"),
    both("MP.RF+dmb+ctrl-isb", ALLOWED, MP, "STR W0,[X1]; DMB ISH; STR W2,[X3]", f"{SAW_CTRL} ISB; {FETCH}",
         condition=STALE),
    both("MP.RF+cachesync+ctrl-isb", FORBIDDEN, MP, PUBLISHED, f"{SAW_CTRL} ISB; {FETCH}", condition=STALE),
    both("MP.FR+dmb+fpo-fe", FORBIDDEN, MP, "STR W2,[X3]; DMB ISH; STR W0,[X1]", f"{FETCH}; LDR W4,[X3]",
         condition="1:X9=2 /\\ 1:X4=0"),
    both("MP.FF+dmb+fpo", ALLOWED, TWO, "STR W0,[X1]; DMB ISH; STR W0,[X4]", f"{FETCH}; {SECOND}",
         condition="1:X9=2 /\\ 1:X10=1"),
    both("MP.FF+cachesync+fpo", FORBIDDEN, TWO, f"STR W0,[X1]; {sync('X1')}; STR W0,[X4]", f"{FETCH}; {SECOND}",
         condition="1:X9=2 /\\ 1:X10=1"),
    both("ISA2.F+dc+ic+ctrl-isb", FORBIDDEN, CHAIN, "STR W0,[X1]; DC CVAU,X1; DSB ISH; STR W2,[X3]",
         "LDR W4,[X3]; DSB ISH; IC IVAU,X1; DSB ISH; STR W2,[X5]", CHAIN_END, condition=CHAIN_STALE),
    both("SM.F+ic", ALLOWED, '0:X0=instr:"B .+8"; 0:X1=P0:f; 0:X3=x; 1:X1=P0:f; 1:X2=1; 1:X3=x; 1:X7=P0:f0;',
         f"STR W0,[X1]; LDR W4,[X3]; CBZ W4,seen; seen: ISB; BL f0; {CALLED}",
         "BLR X7; IC IVAU,X1; DSB ISH; STR W2,[X3]", condition="1:X9=2 /\\ 0:X4=1 /\\ 0:X9=1"),
    both("FOW", ALLOWED,
         '0:X0=instr:"B .+8"; 0:X5=instr:"B .+12"; 0:X1=P0:f; 0:X2=1; 0:X3=x; '
         "1:X3=x; 1:X7=P0:f0; 2:X3=x; 2:X7=P0:f0;",
         "STR W0,[X1]; STR W5,[X1]; DSB ISH; IC IVAU,X1; DSB ISH; STR W2,[X3]; B end; f0: MOV W9,#3; f: NOP; "
         "B old; MOV W9,#2; RET; old: MOV W9,#1; RET; end:",
         f"{SAW_CTRL} ISB; BLR X7", f"{SAW_CTRL} ISB; BLR X7",
         condition="1:X4=1 /\\ 2:X4=1 /\\ 1:X9=2 /\\ 2:X9=1"),
    both("MP.RF+dc+ctrl-isb-isb", ALLOWED,
         '0:X0=instr:"B .+8"; 0:X5=instr:"B .+12"; 0:X1=P1:f; 0:X2=1; 0:X3=x; 1:X3=x;',
         "STR W0,[X1]; STR W5,[X1]; DC CVAU,X1; DSB ISH; STR W2,[X3]",
         f"{SAW_CTRL} ISB; BL f0; MOV W11,W9; ISB; BL f0; MOV W12,W9; ISB; BL f0; B end; f0: MOV W9,#3; f: NOP; "
         "MOV W9,#1; B out; MOV W9,#2; out: RET; end:",
         condition="1:X4=1 /\\ 1:X11=2 /\\ 1:X12=3 /\\ 1:X9=1"),
    both("MP.R.RF+addr-cachesync+dmb+ctrl-isb", FORBIDDEN,
         '0:X0=instr:"B .+12"; 0:X1=P2:f; 0:X2=1; 0:X3=z; 0:X5=y; '
         '1:X0=instr:"B .+8"; 1:X1=P2:f; 1:X2=1; 1:X3=z; 2:X3=y;',
         "LDR W4,[X3]; STR W0,[X1]; EOR X6,X4,X4; ADD X6,X6,X1; DC CVAU,X6; DSB ISH; IC IVAU,X1; DSB ISH; "
         "STR W2,[X5]",
         "LDR W4,[X1]; STR W0,[X1]; DMB ISH; STR W2,[X3]",
         f"{SAW_CTRL} ISB; MOV W9,#3; f: NOP; MOV W9,#1; B out; MOV W9,#2; out:",
         condition='0:X4=1 /\\ 1:X4=instr:"B .+12" /\\ 2:X4=1 /\\ 2:X9=2'),
    both("MP.RF+dmb+addr-cachesync", ALLOWED, TO_1 + " 1:X3=x; 1:X5=z; 1:X1=P1:f;",
         "STR W0,[X1]; DMB ISH; STR W2,[X3]",
         f"LDR W4,[X3]; EOR W6,W4,W4; LDR W7,[X5,W6,UXTW]; {sync('X1')}; ISB; {FETCH}", condition=STALE),
)  # fmt: skip
"""The sixteen tests of the paper's table, said anew."""

SAW_DSB = "LDR W4,[X3]; DSB ISH; ISB"
SAW_PLAIN = "LDR W4,[X3]; ISB"
SAW_ACQUIRE = "LDAR W4,[X3]; ISB"


def published(maintenance: str) -> str:
    """P0 patches, does that, and raises the flag."""
    return f"STR W0,[X1]; {maintenance}; STR W2,[X3]"


def stale_after(name: str, verdict: bool, maintenance: str, reader: str, cache: str = "") -> Case:
    """May P1, having seen the flag, still execute the old word?"""
    return both(name, verdict, MP, published(maintenance), f"{reader}; {FETCH}", condition=STALE, cache=cache)


def own(name: str, verdict: bool, maintenance: str, cache: str = "") -> Case:
    """May a CPU execute the old word itself, after it patched?"""
    return both(name, verdict, TO_SELF, f"STR W0,[X1]; {maintenance}; {FETCH}", condition="0:X9=1", cache=cache)


FULL = sync("X1")
CTRL_ISB = f"{SAW_CTRL} ISB"
CROSS = '0:X0=instr:"B .+8"; 0:X1=P1:f; 0:X4=P0:g; 1:X0=instr:"B .+8"; 1:X1=P0:g; 1:X4=P1:f;'
"""Each patches the other: P0 fetches g, P1 fetches f."""

PATCHING = (
    own("SM+isb", ALLOWED, "ISB"),
    own("SM+dc-dsb-isb", ALLOWED, "DC CVAU,X1; DSB ISH; ISB"),
    own("SM+dsb-ic-dsb-isb", ALLOWED, "DSB ISH; IC IVAU,X1; DSB ISH; ISB"),
    own("SM+cachesync", ALLOWED, FULL),
    own("SM+dc-dmb-ic-dmb-isb", ALLOWED, "DC CVAU,X1; DMB ISH; IC IVAU,X1; DMB ISH; ISB"),
    own("IDC1.SM+dsb-ic-dsb-isb", FORBIDDEN, "DSB ISH; IC IVAU,X1; DSB ISH; ISB", "IDC"),
    own("IDC1.SM+dsbst-ic-dsb-isb", FORBIDDEN, "DSB ISHST; IC IVAU,X1; DSB ISH; ISB", "IDC"),
    own("IDC1.SM+dmbst-ic-dsb-isb", ALLOWED, "DMB ISHST; IC IVAU,X1; DSB ISH; ISB", "IDC"),
    own("IDC1.SM+dsb-isb", ALLOWED, "DSB ISH; ISB", "IDC"),
    own("DIC1.SM+dsb-isb", FORBIDDEN, "DSB ISH; ISB", "IDC DIC"),
    own("DIC1.SM+dsbst-isb", FORBIDDEN, "DSB ISHST; ISB", "IDC DIC"),
    own("DIC1.SM+isb", ALLOWED, "ISB", "IDC DIC"),
    stale_after("MP.RF+cachesync+ctrl", ALLOWED, FULL, SAW_CTRL.removesuffix("seen:") + "seen: NOP"),
    stale_after("MP.RF+cachesync+dsb-isb", FORBIDDEN, FULL, SAW_DSB),
    stale_after("MP.RF+cachesync+isb", ALLOWED, FULL, SAW_PLAIN),
    stale_after("MP.RF+cachesync+acq-isb", ALLOWED, FULL, SAW_ACQUIRE),
    stale_after("DIC1.MP.RF+dsbst+acq-isb", ALLOWED, "DSB ISHST", SAW_ACQUIRE, "IDC DIC"),
    stale_after("MP.RF+dc-dsb-ic+ctrl-isb", ALLOWED, "DC CVAU,X1; DSB ISH; IC IVAU,X1", CTRL_ISB),
    stale_after("MP.RF+dc-dsb-ic-dsbst+ctrl-isb", ALLOWED, "DC CVAU,X1; DSB ISH; IC IVAU,X1; DSB ISHST", CTRL_ISB),
    stale_after("MP.RF+dc-dsb-ic-dsbnsh+ctrl-isb", ALLOWED, "DC CVAU,X1; DSB ISH; IC IVAU,X1; DSB NSH", CTRL_ISB),
    stale_after("DIC1.MP.RF+dmbst+ctrl-isb", FORBIDDEN, "DMB ISHST", CTRL_ISB, "IDC DIC"),
    stale_after("IDC1.MP.RF+dmbst+ctrl-isb", ALLOWED, "DMB ISHST", CTRL_ISB, "IDC"),
    both("CoFF-isb", ALLOWED, TO_1, "STR W0,[X1]", f"BL f0; MOV W8,W9; ISB; BL f0; {CALLED}",
         condition="1:X8=2 /\\ 1:X9=1"),
    both("CoFF+cachesync-isb", FORBIDDEN, TO_1 + " 1:X1=P1:f;", "STR W0,[X1]",
         f"BL f0; MOV W8,W9; {sync('X1')}; ISB; BL f0; {CALLED}", condition="1:X8=2 /\\ 1:X9=1"),
    both("DIC1.CoFF", FORBIDDEN, TO_1, "STR W0,[X1]", f"BL f0; MOV W8,W9; BL f0; {CALLED}",
         condition="1:X8=2 /\\ 1:X9=1", cache="IDC DIC"),
    both("DIC1.MP.FF+dmbst+fpo", FORBIDDEN, TWO, "STR W0,[X1]; DMB ST; STR W0,[X4]", f"{FETCH}; {SECOND}",
         condition="1:X9=2 /\\ 1:X10=1", cache="IDC DIC"),
    both("MP.FF+dmbst+cachesync", ALLOWED, TWO + " 1:X1=P1:g;", "STR W0,[X1]; DMB ST; STR W0,[X4]",
         f"{FETCH}; {sync('X1')}; {SECOND}", condition="1:X9=2 /\\ 1:X10=1"),
    both("MP.FF+dmbst+cachesync-isb", FORBIDDEN, TWO + " 1:X1=P1:g;", "STR W0,[X1]; DMB ST; STR W0,[X4]",
         f"{FETCH}; {sync('X1')}; ISB; {SECOND}", condition="1:X9=2 /\\ 1:X10=1"),
    both("MP.FF+dc-dsb+ic-dsb-isb", FORBIDDEN, TWO + " 1:X1=P1:g;", "STR W0,[X1]; DC CVAU,X1; DSB ISH; STR W0,[X4]",
         f"{FETCH}; IC IVAU,X1; DSB ISH; ISB; {SECOND}", condition="1:X9=2 /\\ 1:X10=1"),
    both("ISA2+dmb+cachesync+ctrl-isb", ALLOWED, CHAIN, "STR W0,[X1]; DMB ISH; STR W2,[X3]",
         f"LDR W4,[X3]; {sync('X1')}; STR W2,[X5]", CHAIN_END, condition=CHAIN_STALE),
    both("ISA2+dmb+dsb-cachesync+ctrl-isb", FORBIDDEN, CHAIN, "STR W0,[X1]; DMB ISH; STR W2,[X3]",
         f"LDR W4,[X3]; DSB ISH; {sync('X1')}; STR W2,[X5]", CHAIN_END, condition=CHAIN_STALE),
    Case("ISA2.F+dc-dmb+dsb-ic-dsb+ctrl-isb", FORBIDDEN, ALLOWED, CHAIN,
         ("STR W0,[X1]; DC CVAU,X1; DMB ISH; STR W2,[X3]", "LDR W4,[X3]; DSB ISH; IC IVAU,X1; DSB ISH; STR W2,[X5]",
          CHAIN_END), CHAIN_STALE),
    both("SB+cachesync-isbs", FORBIDDEN, CROSS, f"STR W0,[X1]; {FULL}; ISB; {SECOND}",
         f"STR W0,[X1]; {FULL}; ISB; {FETCH}",
         condition="0:X10=1 /\\ 1:X9=1"),
    both("SB+dsb-cachesync-isbs of the other", FORBIDDEN, CROSS, f"STR W0,[X1]; DSB ISH; {sync('X4')}; ISB; {SECOND}",
         f"STR W0,[X1]; DSB ISH; {sync('X4')}; ISB; {FETCH}", condition="0:X10=1 /\\ 1:X9=1"),
)  # fmt: skip
"""What a patcher depends on, and what is not enough."""

XY = "0:X1=x; 0:X3=y; 0:X2=1; 1:X1=x; 1:X3=y; 1:X2=1;"
"""Two threads on two data."""
PICK = "LDR W4,[X3]; CMP W4,#0; CSEL X6,X1,X1,EQ"

DATA = (
    both("MP", ALLOWED, XY, "STR W2,[X1]; STR W2,[X3]", "LDR W4,[X3]; LDR W5,[X1]", condition="1:X4=1 /\\ 1:X5=0"),
    both("MP+dmbs", FORBIDDEN, XY, "STR W2,[X1]; DMB ISH; STR W2,[X3]", "LDR W4,[X3]; DMB ISH; LDR W5,[X1]",
         condition="1:X4=1 /\\ 1:X5=0"),
    both("MP+dmbst+dmbld", FORBIDDEN, XY, "STR W2,[X1]; DMB ST; STR W2,[X3]", "LDR W4,[X3]; DMB LD; LDR W5,[X1]",
         condition="1:X4=1 /\\ 1:X5=0"),
    both("MP+rel+acq", FORBIDDEN, XY, "STR W2,[X1]; STLR W2,[X3]", "LDAR W4,[X3]; LDR W5,[X1]",
         condition="1:X4=1 /\\ 1:X5=0"),
    both("MP+rel+addr", FORBIDDEN, XY, "STR W2,[X1]; STLR W2,[X3]",
         "LDR W4,[X3]; EOR W6,W4,W4; LDR W5,[X1,W6,UXTW]", condition="1:X4=1 /\\ 1:X5=0"),
    both("MP+rel+ctrl", ALLOWED, XY, "STR W2,[X1]; STLR W2,[X3]", f"{SAW_CTRL} LDR W5,[X1]",
         condition="1:X4=1 /\\ 1:X5=0"),
    both("MP+rel+ctrl-isb", FORBIDDEN, XY, "STR W2,[X1]; STLR W2,[X3]", f"{SAW_CTRL} ISB; LDR W5,[X1]",
         condition="1:X4=1 /\\ 1:X5=0"),
    both("SB", ALLOWED, XY, "STR W2,[X1]; LDR W4,[X3]", "STR W2,[X3]; LDR W4,[X1]", condition="0:X4=0 /\\ 1:X4=0"),
    both("SB+rel-acq", FORBIDDEN, XY, "STLR W2,[X1]; LDAR W4,[X3]", "STLR W2,[X3]; LDAR W4,[X1]",
         condition="0:X4=0 /\\ 1:X4=0"),
    both("SB+dmb+dsb", FORBIDDEN, XY, "STR W2,[X1]; DMB ISH; LDR W4,[X3]",
         "STR W2,[X3]; DSB ISH; LDR W4,[X1]", condition="0:X4=0 /\\ 1:X4=0"),
    both("LB+datas", FORBIDDEN, XY, "LDR W4,[X1]; EOR W6,W4,W4; ADD W6,W6,#1; STR W6,[X3]",
         "LDR W4,[X3]; EOR W6,W4,W4; ADD W6,W6,#1; STR W6,[X1]", condition="0:X4=1 /\\ 1:X4=1"),
    both("LB+ctrls", FORBIDDEN, XY, "LDR W4,[X1]; CBZ W4,l; l: STR W2,[X3]", "LDR W4,[X3]; CBZ W4,l; l: STR W2,[X1]",
         condition="0:X4=1 /\\ 1:X4=1"),
    both("LB+po", ALLOWED, XY, "LDR W4,[X1]; STR W2,[X3]", "LDR W4,[X3]; STR W2,[X1]", condition="0:X4=1 /\\ 1:X4=1"),
    both("2+2W+dmbs", FORBIDDEN, XY + " 0:X5=2; 1:X5=2;", "STR W5,[X1]; DMB ISH; STR W2,[X3]",
         "STR W5,[X3]; DMB ISH; STR W2,[X1]", condition="x=2 /\\ y=2"),
    both("CoRR", FORBIDDEN, XY, "STR W2,[X1]", "LDR W4,[X1]; LDR W5,[X1]", condition="1:X4=1 /\\ 1:X5=0"),
    both("CoWR", FORBIDDEN, XY, "STR W2,[X1]; LDR W4,[X1]", "NOP", condition="0:X4=0"),
    both("CoRW1", FORBIDDEN, XY, "LDR W4,[X1]; STR W2,[X1]", "NOP", condition="0:X4=1"),
    both("CoWW", FORBIDDEN, XY + " 0:X5=2;", "STR W2,[X1]; STR W5,[X1]", "NOP", condition="x=1"),
    both("CoRW2", FORBIDDEN, XY + " 0:X5=2;", "LDR W4,[X1]; STR W5,[X1]", "STR W2,[X1]",
         condition="0:X4=1 /\\ x=1"),
    both("two increments", FORBIDDEN, XY, "L: LDXR W4,[X1]; ADD W4,W4,#1; STXR W5,W4,[X1]",
         "L: LDXR W4,[X1]; ADD W4,W4,#1; STXR W5,W4,[X1]", condition="0:X5=0 /\\ 1:X5=0 /\\ x=1"),
    both("two atomic increments", FORBIDDEN, XY, "LDADD W2,W4,[X1]", "LDADD W2,W4,[X1]", condition="x=1"),
    both("MP+dmb+rmw-acq", FORBIDDEN, XY + " 1:X7=z; 1:X8=5;", "STR W2,[X1]; DMB ISH; STR W2,[X3]",
         "LDXR W4,[X3]; STXR W6,W8,[X3]; LDAR W7,[X3]; LDR W5,[X1]",
         condition="1:X4=1 /\\ 1:X6=0 /\\ 1:X7=5 /\\ 1:X5=0"),
    both("MP+dmb+addr-rfi-addr", FORBIDDEN, XY + " 1:X7=z;", "STR W2,[X1]; DMB ISH; STR W2,[X3]",
         "LDR W4,[X3]; STR W4,[X7]; LDR W6,[X7]; EOR W6,W6,W6; LDR W5,[X1,W6,UXTW]",
         condition="1:X4=1 /\\ 1:X5=0"),
    both("MP+dmb+data-rfi-acq", FORBIDDEN, XY + " 1:X7=z;", "STR W2,[X1]; DMB ISH; STR W2,[X3]",
         "LDR W4,[X3]; STR W4,[X7]; LDAR W6,[X7]; LDR W5,[X1]", condition="1:X4=1 /\\ 1:X6=1 /\\ 1:X5=0"),
    both("LB+swp+datas", FORBIDDEN, "0:X1=x; 0:X2=5; 1:X1=x; 1:X3=y; 2:X1=y; 2:X3=x;", "SWP W2,W4,[X1]",
         "LDR W4,[X1]; EOR W6,W4,W4; ADD W6,W6,#1; STR W6,[X3]",
         "LDR W4,[X1]; EOR W6,W4,W4; ADD W6,W6,#1; STR W6,[X3]",
         condition="0:X4=1 /\\ 1:X4=5 /\\ 2:X4=1"),
    Case("MP+dmb+pickaddr-isb", FORBIDDEN, ALLOWED, XY,
         ("STR W2,[X1]; DMB ISH; STR W2,[X3]", f"{PICK}; LDR W7,[X6]; ISB; LDR W5,[X1]"), "1:X4=1 /\\ 1:X5=0"),
    Case("LB+dmb+pickdata", FORBIDDEN, ALLOWED, XY,
         ("LDR W4,[X1]; DMB ISH; STR W2,[X3]", "LDR W4,[X3]; CMP W4,#0; CSEL W6,W2,W2,EQ; STR W6,[X1]"),
         "0:X4=1 /\\ 1:X4=1"),
    Case("LB+dmb+pick-addr-data", FORBIDDEN, ALLOWED, XY + " 1:X7=z;",
         ("LDR W4,[X1]; DMB ISH; STR W2,[X3]",
          "LDR W4,[X3]; CMP W4,#0; CSEL X6,X7,X7,EQ; LDR W5,[X6]; EOR W5,W5,W5; ADD W5,W5,#1; STR W5,[X1]"),
         "0:X4=1 /\\ 1:X4=1"),
    # aarch64hwreqs.cat, pick-lob: pick-basic-dep goes through z by lrs, and bob orders the LDAR before the last store.
    Case("LB+dmb+pickdata-lrs-acq", FORBIDDEN, ALLOWED, XY + " 1:X7=z;",
         ("LDR W4,[X1]; DMB ISH; STR W2,[X3]", "LDR W4,[X3]; CMP W4,#0; CSEL W6,W2,W2,EQ; STR W6,[X7]; LDAR W5,[X7]; "
          "STR W2,[X1]"),
         "0:X4=1 /\\ 1:X4=1"),
    both("LB+dmb+pickdata-lrs", ALLOWED, XY + " 1:X7=z;",
         "LDR W4,[X1]; DMB ISH; STR W2,[X3]",
         "LDR W4,[X3]; CMP W4,#0; CSEL W6,W2,W2,EQ; STR W6,[X7]; LDR W5,[X7]; STR W2,[X1]",
         condition="0:X4=1 /\\ 1:X4=1"),
)  # fmt: skip
"""Data alone: what the models share with every other Arm model."""

RAISED = "STR W2,[X1]; DMB ISH; STR W2,[X3]"
"""P0 of MP: x, then y."""
ANSWERED = "LDR W4,[X1]; DMB ISH; STR W2,[X3]"
"""P0 of LB: x, then y."""
MP_SEEN = "1:X4=1 /\\ 1:X5=0"
LB_SEEN = "0:X4=1 /\\ 1:X4=1"
AND_Z = XY + " 1:X7=z; 1:X8=2;"
LOAD_AFTER = "EOR W6,W4,W4; LDR W5,[X1,W6,UXTW]"
STORE_AFTER = "EOR W6,W4,W4; STR W2,[X1,W6,UXTW]"
PAIR = "uint32_t p[2]; 0:X1=p; 0:X3=p[1]; 0:X2=1; 1:X1=p; 1:X3=p[1];"
"""Two neighbouring data; X3 points to the second one."""

ATOMICS = (
    both("two CAS that succeed", FORBIDDEN, XY, "CAS W4,W2,[X1]", "CAS W4,W2,[X1]", condition="0:X4=0 /\\ 1:X4=0"),
    both("two CASP that succeed", FORBIDDEN, "uint64_t x; " + XY, "CASP W4,W5,W2,W3,[X1]", "CASP W4,W5,W2,W3,[X1]",
         condition="0:X4=0 /\\ 0:X5=0 /\\ 1:X4=0 /\\ 1:X5=0"),
    both("CAS that fails stores nothing", FORBIDDEN, XY + " y=7;", "CAS W4,W2,[X3]", "NOP", condition="y=1"),
    both("CAS that fails loads", ALLOWED, XY + " y=7;", "CAS W4,W2,[X3]", "NOP", condition="y=7 /\\ 0:X4=7"),
    # The comparison fails: the loaded value goes to the register, as data.
    both("MP+dmb+cas-no-addr", FORBIDDEN, XY, RAISED, f"MOV W4,#2; CAS W4,WZR,[X3]; {LOAD_AFTER}", condition=MP_SEEN),
    # It succeeds: the register may stay as it was. Arm's model keeps a pick dependency, which orders later stores.
    both("MP+dmb+cas-ok-addr", ALLOWED, XY, RAISED, f"MOV W4,#1; CAS W4,W2,[X3]; {LOAD_AFTER}", condition=MP_SEEN),
    Case("LB+dmb+cas-ok-addr", FORBIDDEN, ALLOWED, XY, (ANSWERED, f"MOV W4,#1; CAS W4,W2,[X3]; {STORE_AFTER}"),
         LB_SEEN),
    # Or the register gets the loaded value, and does not depend on what it was.
    both("LB+dmb+cas-ok-compared", ALLOWED, AND_Z, ANSWERED,
         "LDR W4,[X3]; EOR W9,W4,W4; CAS W9,W8,[X7]; EOR W6,W9,W9; STR W2,[X1,W6,UXTW]", condition=LB_SEEN),
    # What the register was depends on another load: each of the two cases has a dependency, on one load only.
    both("MP+dmb+cas-ok-other-addr", ALLOWED, XY + " 1:X7=z;", RAISED,
         f"LDR W9,[X7]; ADD W4,W9,#1; CAS W4,W2,[X3]; {LOAD_AFTER}", condition=MP_SEEN),
    both("MP+dmb+cas-ok-both-addr", FORBIDDEN, XY + " 0:X7=z; 1:X7=z;", f"{RAISED}; STR W2,[X7]",
         f"LDR W9,[X3]; EOR W4,W9,W9; ADD W4,W4,#1; CAS W4,W2,[X7]; {LOAD_AFTER}", condition=f"1:X9=1 /\\ {MP_SEEN}"),
    # The comparison picks the store.
    Case("LB+dmb+cas-compared-store", FORBIDDEN, ALLOWED, XY,
         (ANSWERED, "LDR W4,[X3]; EOR W9,W4,W4; CAS W9,W2,[X1]"), LB_SEEN),
    both("LB+dmb+cas-data", FORBIDDEN, XY, ANSWERED, "LDR W4,[X3]; EOR W9,W4,W4; ADD W9,W9,#1; CAS WZR,W9,[X1]",
         condition=LB_SEEN),
    both("MP+dmb+casa", FORBIDDEN, XY, RAISED, "MOV W4,#1; CASA W4,W2,[X3]; LDR W5,[X1]", condition=MP_SEEN),
    both("MP+dmb+caspa", FORBIDDEN, "uint64_t y; uint64_t 1:X5; " + XY, "STR W2,[X1]; DMB ISH; STR X2,[X3]",
         "CASPA W4,W5,W2,W3,[X3]; LDR W5,[X1]", condition=MP_SEEN),
    both("MP+dmb+casa-noret", ALLOWED, XY + " y=1;", "MOV W5,#0; STR W2,[X1]; DMB ISH; STR W5,[X3]",
         "MOV W4,#3; CASA WZR,W4,[X3]; LDR W5,[X1]", condition="y=3 /\\ 1:X5=0"),
    both("MP+dmb+cas-dmbld", FORBIDDEN, XY, RAISED, "MOV W4,#1; CAS W4,W2,[X3]; DMB LD; LDR W5,[X1]",
         condition=MP_SEEN),
    both("MP+casl+dmb", FORBIDDEN, XY, "STR W2,[X1]; CASL WZR,W2,[X3]", "LDR W4,[X3]; DMB ISH; LDR W5,[X1]",
         condition=MP_SEEN),
    both("MP+cas+dmb", ALLOWED, XY, "STR W2,[X1]; CAS WZR,W2,[X3]", "LDR W4,[X3]; DMB ISH; LDR W5,[X1]",
         condition=MP_SEEN),
    both("MP+ldumaxl+ldsminab", FORBIDDEN, "uint8_t y; " + XY, "STR W2,[X1]; LDUMAXLB W2,W4,[X3]",
         "LDSMINAB W2,W4,[X3]; LDR W5,[X1]", condition=MP_SEEN),
    both("MP+stlurh+ldapurh", FORBIDDEN, "uint16_t y; " + XY, "STR W2,[X1]; STLURH W2,[X3]",
         "LDAPURH W4,[X3]; LDR W5,[X1]", condition=MP_SEEN),
    both("MP+strh+ldrh", ALLOWED, "uint16_t y; " + XY, "STR W2,[X1]; STRH W2,[X3]", "LDRH W4,[X3]; LDR W5,[X1]",
         condition=MP_SEEN),
    both("STP+dmb", ALLOWED, PAIR, "STP W2,W2,[X1]", "LDR W4,[X3]; DMB ISH; LDR W5,[X1]", condition=MP_SEEN),
    both("STILP+dmb", FORBIDDEN, PAIR, "STILP W2,W2,[X1]", "LDR W4,[X3]; DMB ISH; LDR W5,[X1]", condition=MP_SEEN),
    both("dmb+LDP", ALLOWED, PAIR, "STR W2,[X3]; DMB ISH; STR W2,[X1]", "LDP W4,W5,[X1]", condition=MP_SEEN),
    both("dmb+LDIAPP", FORBIDDEN, PAIR, "STR W2,[X3]; DMB ISH; STR W2,[X1]", "LDIAPP W4,W5,[X1]", condition=MP_SEEN),
)  # fmt: skip
"""Compare and swap, pairs of registers and narrow accesses; for CAS by herd's catalogue of its dependencies."""

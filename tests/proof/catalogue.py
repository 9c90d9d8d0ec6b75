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

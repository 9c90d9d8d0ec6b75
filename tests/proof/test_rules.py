"""Rules that one small program each shows, in both models unless it says otherwise. Each test names its rule."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from a64patch.a64.assembler import assemble
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.litmus import parse
from a64patch.proof.model import Model
from a64patch.proof.program import Program, Thread
from a64patch.proof.search import Query, search
from a64patch.proof.semantics import MASK64, holds, operation, signed
from tests.proof.catalogue import ALLOWED, FETCH, FORBIDDEN, PICK, SAW_CTRL, SECOND, STALE, TO_1, XY, Case, both, sync

MP = "1:X4=1 /\\ 1:X5=0"
FLAG = "STR W2,[X1]; DMB ISH; STR W2,[X3]"
"""P0 stores x, then y."""
MAINTAINER = TO_1 + " 1:X1=P1:f; 1:X3=x; 1:X2=1;"
FLAG_CODE = "STR W0,[X1]; DMB ISH; STR W2,[X3]"
"""P0 patches, then raises the flag; P1 maintains the caches."""
CLEANED = "STR W0,[X1]; DC CVAU,X1; DMB ISH; STR W2,[X3]"

RULES = (
    # No store of another thread comes between the two; a store of the same thread may (Arm ARM B2.3, atomicity;
    # aarch64.cat: empty rmw & (fre; coe)).
    both("own store between exclusives", ALLOWED, XY + " 0:X7=3;", "LDXR W4,[X1]; STR W2,[X1]; STXR W5,W7,[X1]", "NOP",
         condition="0:X4=0 /\\ 0:X5=0 /\\ x=3"),
    # A Store-Exclusive may fail for any reason, and then stores nothing (Arm ARM, Synchronization and semaphores).
    both("an exclusive store fails", ALLOWED, XY, "LDXR W4,[X1]; STXR W5,W2,[X1]", "NOP", condition="0:X5=1 /\\ x=0"),
    both("a failed exclusive store stores", FORBIDDEN, XY, "LDXR W4,[X1]; STXR W5,W2,[X1]", "NOP",
         condition="0:X5=1 /\\ x=1"),
    # A Control dependency goes through any branch, indirect ones too (Arm ARM B2.3, Branching effects).
    both("MP+dmb+br-isb", FORBIDDEN, XY + " 1:X7=P1:l;", FLAG,
         "LDR W4,[X3]; EOR W6,W4,W4; ADD X6,X7,X6; BR X6; l: ISB; LDR W5,[X1]", condition=MP),
    both("MP+dmb+blr-isb", FORBIDDEN, XY + " 1:X7=P1:l;", FLAG,
         "LDR W4,[X3]; EOR W6,W4,W4; ADD X6,X7,X6; BLR X6; l: ISB; LDR W5,[X1]", condition=MP),
    both("MP+dmb+br", ALLOWED, XY + " 1:X7=P1:l;", FLAG,
         "LDR W4,[X3]; EOR W6,W4,W4; ADD X6,X7,X6; BR X6; l: LDR W5,[X1]", condition=MP),
    # SWP stores its operand, so that its store may be forwarded before its load is done. LDADD stores what it loaded.
    both("MP+dmb+swp-rfi-addr", ALLOWED, XY + " 1:X7=5;", FLAG,
         "SWP W7,W4,[X3]; LDR W6,[X3]; EOR W6,W6,W6; LDR W5,[X1,W6,UXTW]", condition=MP),
    both("MP+dmb+ldadd-rfi-addr", FORBIDDEN, XY + " 1:X7=5;", FLAG,
         "LDADD W7,W4,[X3]; LDR W6,[X3]; EOR W6,W6,W6; LDR W5,[X1,W6,UXTW]", condition=MP),
    # A Pick dependency goes through memory, as other dependencies do; the older model has none.
    Case("LB+dmb+pick-rfi-data", FORBIDDEN, ALLOWED, XY + " 1:X7=z; 1:X2=1;",
         ("LDR W4,[X1]; DMB ISH; STR W2,[X3]",
          f"{PICK.replace('X1,X1', 'X2,X2')}; STR W6,[X7]; LDR W8,[X7]; STR W8,[X1]"), "0:X4=1 /\\ 1:X4=1"),
    # A value goes from thread to thread, however many: here against the order in which the threads are run.
    both("a chain of stores", ALLOWED, "0:X1=y; 0:X3=z; 1:X1=x; 1:X3=y; 2:X1=x; 2:X2=1;",
         *["LDR W4,[X1]; ADD W4,W4,#1; STR W4,[X3]"] * 2, "STR W2,[X1]", condition="x=1 /\\ y=2 /\\ z=3"),
    both("a value from nowhere", FORBIDDEN, "0:X1=y; 0:X3=z; 1:X1=x; 1:X3=y; 2:X1=x; 2:X2=1;",
         *["LDR W4,[X1]; ADD W4,W4,#1; STR W4,[X3]"] * 2, "STR W2,[X1]", condition="z=4"),
    # An atomic of one instruction with acquire and release is a full barrier in today's model; two exclusives are not
    # (aarch64hwreqs.cat: [range([A]; amo; [L])]; po).
    *(Case(f"SB+{atomic}", arm, ALLOWED, XY + " 0:X7=z; 1:X7=w;",
           (f"STR W2,[X1]; {text}; LDR W4,[X3]", f"STR W2,[X3]; {text}; LDR W4,[X1]"),
           "0:X4=0 /\\ 1:X4=0 /\\ 0:X6=0 /\\ 1:X6=0")
      for atomic, arm, text in (
          ("swpal", FORBIDDEN, "SWPAL W2,W6,[X7]"), ("swpl", ALLOWED, "SWPL W2,W6,[X7]"),
          ("swpa", ALLOWED, "SWPA W2,W6,[X7]"), ("ldaxr-stlxr", ALLOWED, "LDAXR W5,[X7]; STLXR W6,W2,[X7]"))),
)  # fmt: skip

ZERO = "EOR W6,W4,W4"
"""A zero that depends on W4."""
PICKED = "LDR W4,[X3]; CMP W4,#0; CSEL {0},{1},{1},EQ"
"""A register that is picked by what was loaded."""
LB = "0:X4=1 /\\ 1:X4=1"
LB_0 = "LDR W4,[X1]; DMB ISH; STR W2,[X3]"
"""P0 loads x, then stores y."""
LEFT = "DSB ISH; IC IVAU,X1; DSB ISH; ISB"
"""The maintenance that is left after a DC."""

EACH_TERM = (
    # Order by loads, stores, acquires and releases. Beside a test is its name in herd's catalogue where it is there.
    both("MP+dmb+addr-isb", FORBIDDEN, XY + " 1:X7=z;", FLAG,
         f"LDR W4,[X3]; {ZERO}; LDR W8,[X7,W6,UXTW]; ISB; LDR W5,[X1]", condition=MP),
    both("LB+dmb+addr-po", FORBIDDEN, XY + " 1:X7=z;", LB_0, f"LDR W4,[X3]; {ZERO}; LDR W8,[X7,W6,UXTW]; STR W2,[X1]",
         condition=LB),
    both("MP+dmb+addr-po", ALLOWED, XY + " 1:X7=z;", FLAG, f"LDR W4,[X3]; {ZERO}; LDR W8,[X7,W6,UXTW]; LDR W5,[X1]",
         condition=MP),
    both("MP+dmb+addr-lrs-addr", FORBIDDEN, XY + " 1:X7=z;", FLAG,
         f"LDR W4,[X3]; {ZERO}; STR W2,[X7,W6,UXTW]; LDR W8,[X7]; EOR W8,W8,W8; LDR W5,[X1,W8,UXTW]", condition=MP),
    both("LB+dmb+dmbld", FORBIDDEN, XY, LB_0, "LDR W4,[X3]; DMB ISHLD; STR W2,[X1]", condition=LB),
    both("SB+dmbsts", ALLOWED, XY, "STR W2,[X1]; DMB ISHST; LDR W4,[X3]", "STR W2,[X3]; DMB ISHST; LDR W4,[X1]",
         condition="0:X4=0 /\\ 1:X4=0"),
    both("SB+dmb+rel-acqpc", ALLOWED, XY, "STR W2,[X1]; DMB ISH; LDR W4,[X3]", "STLR W2,[X3]; LDAPR W4,[X1]",
         condition="0:X4=0 /\\ 1:X4=0"),
    both("MP+rel+acqpc", FORBIDDEN, XY, "STR W2,[X1]; STLR W2,[X3]", "LDAPR W4,[X3]; LDR W5,[X1]", condition=MP),
    both("MP+rel+swp-acqpc", FORBIDDEN, XY + " 1:X7=5;", "STR W2,[X1]; STLR W2,[X3]",
         "SWP W7,W4,[X3]; LDAPR W6,[X3]; LDR W5,[X1]", condition=MP + " /\\ 1:X6=5"),
    # Picks: the older model has none (T9B, T8+BIS, T10B).
    Case("MP+dmb+pickctrl-isb", FORBIDDEN, ALLOWED, XY,
         (FLAG, f"{PICKED.format('W6', 'W2')}; CBZ W6,l; l: ISB; LDR W5,[X1]"), MP),
    Case("LB+dmb+pickaddr", FORBIDDEN, ALLOWED, XY, (LB_0, f"{PICKED.format('X6', 'X1')}; STR W2,[X6]"), LB),
    Case("LB+dmb+pickctrl", FORBIDDEN, ALLOWED, XY,
         (LB_0, f"{PICKED.format('W6', 'W2')}; CBZ W6,l; l: STR W2,[X1]"), LB),
    Case("LB+dmb+pickaddr-po", FORBIDDEN, ALLOWED, XY + " 1:X7=z;",
         (LB_0, f"{PICKED.format('X6', 'X7')}; LDR W8,[X6]; STR W2,[X1]"), LB),
    # What comes before a DC (MP.RF+dmb+dmb-dc-dsb-ic-dsb-isb) and, in today's model, also by control or pick
    # (MP.RF+dmb.st+pickaddr-cachesyncisb).
    both("MP.RF+dmb+dmb-dc", FORBIDDEN, MAINTAINER, FLAG_CODE, f"LDR W4,[X3]; DMB ISH; DC CVAU,X1; {LEFT}; {FETCH}",
         condition=STALE),
    both("MP.RF+dmb+dc", ALLOWED, MAINTAINER, FLAG_CODE, f"LDR W4,[X3]; DC CVAU,X1; {LEFT}; {FETCH}", condition=STALE),
    both("MP.RF+dmb+addr-dc", FORBIDDEN, MAINTAINER, FLAG_CODE,
         f"LDR W4,[X3]; EOR X6,X4,X4; ADD X6,X6,X1; DC CVAU,X6; {LEFT}; {FETCH}", condition=STALE),
    Case("MP.RF+dmb+ctrl-dc", FORBIDDEN, ALLOWED, MAINTAINER,
         (FLAG_CODE, f"{SAW_CTRL} DC CVAU,X1; {LEFT}; {FETCH}"), STALE),
    Case("MP.RF+dmb+pickaddr-dc", FORBIDDEN, ALLOWED, MAINTAINER,
         (FLAG_CODE, f"{PICKED.format('X6', 'X1')}; DC CVAU,X6; {LEFT}; {FETCH}"), STALE),
    Case("MP.RF+dmb+pickctrl-dc", FORBIDDEN, ALLOWED, MAINTAINER,
         (FLAG_CODE, f"{PICKED.format('W6', 'W2')}; CBZ W6,l; l: DC CVAU,X1; {LEFT}; {FETCH}"), STALE),
    # What comes before an IC (MP.RF+dc.cvau-dmb.ish+ctrl-ic.ivau-dsb.ish-isb, …+pickctrl-ic.ivau-isb).
    Case("MP.RF+dc-dmb+ctrl-ic", FORBIDDEN, ALLOWED, MAINTAINER,
         (CLEANED, f"{SAW_CTRL} IC IVAU,X1; DSB ISH; ISB; {FETCH}"), STALE),
    Case("MP.RF+dc-dmb+pickctrl-ic", FORBIDDEN, ALLOWED, MAINTAINER,
         (CLEANED, f"{PICKED.format('W6', 'W2')}; CBZ W6,l; l: IC IVAU,X1; DSB ISH; ISB; {FETCH}"), STALE),
    both("MP.RF+dc-dmb+dmb-ic", ALLOWED, MAINTAINER, CLEANED,
         f"LDR W4,[X3]; DMB ISH; IC IVAU,X1; DSB ISH; ISB; {FETCH}", condition=STALE),
    both("MP.RF+dc-dsb-ic-dsb+dsbld-isb", FORBIDDEN, MAINTAINER, f"STR W0,[X1]; {sync('X1')}; STR W2,[X3]",
         f"LDR W4,[X3]; DSB ISHLD; ISB; {FETCH}", condition=STALE),
    # A later store to the line comes after a DC (aarch64.cat, po-scl-ob).
    Case("CoRF+dc+dsb-ic-dsb-isb", FORBIDDEN, ALLOWED, MAINTAINER + ' 0:X5=instr:"B .+12";',
         ("STR W0,[X1]; DC CVAU,X1; STR W5,[X1]", f"LDR W4,[X1]; {LEFT}; {FETCH}; NOP"),
         '1:X4=instr:"B .+12" /\\ 1:X9=1'),
    # A completed IC comes before what is fetched after an ISB (W+RWC.F.FF+cachesyncisb+ctrlisb+cachesyncisb).
    both("W+RWC.F.FF+cachesync-isb+cachesync", FORBIDDEN,
         '0:X0=instr:"B .+8"; 0:X1=P1:f; 2:X0=instr:"B .+8"; 2:X1=P0:v; 2:X3=P1:g;',
         f"STR W0,[X1]; {sync('X1')}; ISB; MOV W8,#2; v: NOP; MOV W8,#1", f"{SECOND}; {FETCH}",
         f"STR W0,[X1]; {sync('X1')}; STR W0,[X3]", condition="0:X8=1 /\\ 1:X10=2 /\\ 1:X9=1"),
)  # fmt: skip
"""A test for each term of a relation that no other test asks about."""


@pytest.mark.parametrize("case", [*RULES, *EACH_TERM], ids=lambda case: case.name)
def test_a_rule(case: Case) -> None:
    test = parse(case.text, case.name)
    assert [test.verdict(model).allowed for model in (ArmNow(), Esop2020())] == [case.arm, case.esop]


CONDITIONS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "hs": lambda a, b: a >= b, "lo": lambda a, b: a < b,
    "mi": lambda a, b: signed(a - b, 64) < 0, "pl": lambda a, b: signed(a - b, 64) >= 0,
    "vs": lambda a, b: signed(a, 64) - signed(b, 64) != signed(a - b, 64),
    "vc": lambda a, b: signed(a, 64) - signed(b, 64) == signed(a - b, 64),
    "hi": lambda a, b: a > b, "ls": lambda a, b: a <= b, "ge": lambda a, b: signed(a, 64) >= signed(b, 64),
    "lt": lambda a, b: signed(a, 64) < signed(b, 64), "gt": lambda a, b: signed(a, 64) > signed(b, 64),
    "le": lambda a, b: signed(a, 64) <= signed(b, 64), "al": lambda a, b: True,
}  # fmt: skip
"""After CMP of two registers: how the numbers compare (Arm ARM C1.2.4)."""


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_holds_for_the_numbers_that_it_is_named_for(condition: str) -> None:
    compare, branch = map(operation, assemble(f"cmp x1, x2; b.{condition} .+4"))
    assert compare.flags
    edge = (0, 1, 2, MASK64, MASK64 - 1, 1 << 63, (1 << 63) - 1, (1 << 63) + 1)
    for one, other in product(edge, edge):
        _, nzcv = compare.flags(one, other)
        assert holds(branch.condition, nzcv) is CONDITIONS[condition](one, other), (hex(one), hex(other))


@pytest.mark.parametrize("model", [ArmNow(), Esop2020()], ids=lambda model: model.name)
@pytest.mark.parametrize("first", ["nop", "msr icc_sgi1r_el1, x2"])
def test_a_fetch_comes_before_a_later_sgi(model: Model, first: str) -> None:
    """[F]; po; [SGI]: a word that the interrupt handler stores is not executed before the interrupt is sent."""
    new = assemble("b .+4")[0]
    second = "nop" if first != "nop" else "msr icc_sgi1r_el1, x2"
    texts = {0x1000: f"{first}; nop; {second}", 0x2000: "nop", 0x3000: "str w0, [x1]; eret"}
    code = {start + 4 * n: word for start, text in texts.items() for n, word in enumerate(assemble(text, start))}
    program = Program((Thread(0x1000), Thread(0x2000, {0: new, 1: 0x1004}, irq_vector=0x3000)), code)
    found = search(program, model, Query(trace=lambda number, trace: number == 1 or (0x1004, new) in trace.path))
    assert found.allowed is (first != "nop")

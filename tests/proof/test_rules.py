"""Rules that one small program each shows, in both models unless it says otherwise. Each test names its rule."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from a64patch.a64.assembler import assemble
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.litmus import parse
from a64patch.proof.semantics import MASK64, holds, operation, signed
from tests.proof.catalogue import ALLOWED, FORBIDDEN, PICK, XY, Case, both

MP = "1:X4=1 /\\ 1:X5=0"
FLAG = "STR W2,[X1]; DMB ISH; STR W2,[X3]"
"""P0 stores x, then y."""

RULES = (
    # No store of another thread comes between the two; a store of the same thread may (Arm ARM B2.3, atomicity;
    # aarch64.cat: empty rmw & (fre; coe)).
    both("own store between exclusives", ALLOWED, XY + " 0:X7=3;", "LDXR W4,[X1]; STR W2,[X1]; STXR W5,W7,[X1]", "NOP",
         condition="0:X4=0 /\\ 0:X5=0 /\\ x=3"),
    # A Store-Exclusive may fail for any reason, and then stores nothing (Arm ARM B2.17, exclusive access instructions).
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


@pytest.mark.parametrize("case", RULES, ids=lambda case: case.name)
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

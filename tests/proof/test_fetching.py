"""Words that may not change under execution: found by what a fetch could get, which herd's flag does not always see."""

from __future__ import annotations

import pytest

from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.fetching import herd_flags, is_unpredictable
from a64patch.proof.litmus import parse
from a64patch.proof.model import Model
from a64patch.proof.search import Query, search
from tests.proof.catalogue import CTRL_ISB, FULL, both, published

ADD, SUB = "ADD W9,W9,#1", "SUB W9,W9,#1"


def answers(model: Model, old: str, new: str, writer: str, reader: str) -> tuple[bool, bool]:
    """Can a fetch be unpredictable, and can herd flag it, where the reader has seen the flag?"""
    registers = f'0:X0=instr:"{new}"; 0:X1=P1:f; 0:X2=1; 0:X3=x; 1:X3=x; 1:X4=1;'
    test = parse(both("test", True, registers, writer, f"{reader}; f: {old}; NOP; NOP", condition="1:X4=1").text)
    [clause] = test.queries()
    wrong = Query(
        clause.trace, execution=lambda x: any(is_unpredictable(model, x, one) for one in x.fetches), orders=True
    )
    flag = Query(clause.trace, execution=lambda x: any(herd_flags(x, one) for one in x.fetches), orders=True)
    return search(test.program, model, wrong).allowed, search(test.program, model, flag).allowed


@pytest.mark.parametrize("model", [ArmNow(), Esop2020()], ids=lambda model: model.name)
@pytest.mark.parametrize(
    ("old", "new", "writer", "reader", "unpredictable", "flagged"),
    [
        (ADD, SUB, "STR W0,[X1]", "NOP", True, True),
        ("NOP", "B .+8", "STR W0,[X1]", "NOP", False, False),
        (ADD, "NOP", "STR W0,[X1]", "NOP", True, True),
        ("NOP", SUB, "STR W0,[X1]", "NOP", True, True),
        (ADD, SUB, "STR W0,[X1]; DMB ISH; STR W2,[X3]", CTRL_ISB, True, False),
        (ADD, SUB, published(FULL), CTRL_ISB.replace("ISB", "NOP"), True, True),
        (ADD, SUB, published(FULL), CTRL_ISB, False, False),
        (ADD, ADD, "STR W0,[X1]", "NOP", False, False),
    ],
)
def test_what_may_not_change_under_execution(
    model: Model, old: str, new: str, writer: str, reader: str, unpredictable: bool, flagged: bool
) -> None:
    assert answers(model, old, new, writer, reader) == (unpredictable, flagged)

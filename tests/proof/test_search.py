"""The search: its short cut changes no answer, it finds all executions, and it gives the same one every time."""

from __future__ import annotations

import pytest

from a64patch.a64.assembler import assemble
from a64patch.proof import search as room
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.litmus import parse
from a64patch.proof.model import Model
from a64patch.proof.program import Program, Thread
from a64patch.proof.search import Query, executions, search
from a64patch.proof.traces import Trace
from tests.proof.catalogue import ALLOWED, XY, both

PATCHER, EXECUTOR, HANDLER, SITE = 0x1000, 0x2000, 0x3000, 0x2004
NEW = assemble("b .+4")[0]


def kicked(executors: int, last_barrier: str) -> Program:
    text = f"str w0, [x1]; dc cvau, x1; dsb ish; ic ivau, x1; {last_barrier}; msr icc_sgi1r_el1, x2; ldr w5, [x3]"
    parts = ((PATCHER, text), (EXECUTOR, "nop; nop"), (HANDLER, "str w4, [x3]; eret"))
    code = {start + 4 * place: word for start, part in parts for place, word in enumerate(assemble(part, start))}
    patcher = Thread(PATCHER, {0: NEW, 1: SITE, 3: 0x8000})
    executor = Thread(EXECUTOR, {3: 0x8000, 4: 1}, irq_vector=HANDLER)
    return Program((patcher, *[executor] * executors), code, {0x8000: 0})


def stale(number: int, trace: Trace) -> bool:
    if number != 1:
        return True
    entered = [place for place, (address, _) in enumerate(trace.path) if address == HANDLER]
    return bool(entered) and any(address == SITE and word != NEW for address, word in trace.path[entered[0] :])


@pytest.mark.parametrize("model", [ArmNow(), Esop2020()], ids=lambda model: model.name)
@pytest.mark.parametrize("barrier", ["dsb ish", "dmb ish"])
def test_looking_at_a_few_threads_first_changes_no_answer(
    model: Model, barrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = kicked(3, barrier)
    quick = search(program, model, Query(trace=stale))
    monkeypatch.setattr(room, "_WORTH_A_LOOK", 1 << 60)
    full = search(program, model, Query(trace=stale))
    assert quick.allowed is full.allowed is (barrier == "dmb ish")
    assert quick.statistics.combinations <= full.statistics.combinations


def test_all_executions_are_found() -> None:
    program = parse(both("SB", ALLOWED, XY, "STR W2,[X1]; LDR W4,[X3]", "STR W2,[X3]; LDR W4,[X1]",
                         condition="0:X4=0").text).program  # fmt: skip
    outcomes = [tuple(x.events[read].value for read in x.reads) for x in executions(program, ArmNow(), Query())]
    assert sorted(outcomes) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_the_same_question_has_the_same_witness() -> None:
    def names() -> list[str]:
        x = search(kicked(2, "dmb ish"), ArmNow(), Query(trace=stale)).witness
        assert x is not None
        return [x.name(index) for index in x.order()]

    assert names() == names()


def test_a_witness_is_in_an_order_that_its_relations_allow() -> None:
    x = search(kicked(2, "dmb ish"), ArmNow(), Query(trace=stale)).witness
    assert x is not None
    place = {index: number for number, index in enumerate(x.order())}
    for first in place:
        for second in place:
            if x.before(first, second):
                assert place[first] < place[second]

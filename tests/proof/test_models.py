"""Both models give the published verdicts on the project's own tests, and need each of their relations."""

from __future__ import annotations

import re
from functools import cache

import pytest

from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.litmus import Litmus, parse
from a64patch.proof.model import Model
from a64patch.proof.traces import Behaviours, behaviours
from tests.proof.catalogue import ATOMICS as COMPARED
from tests.proof.catalogue import DATA, FETCH, PAPER, PATCHING, TO_SELF, Case

ARM, ESOP = ArmNow(), Esop2020()
ALL = (*PAPER, *PATCHING, *DATA)


@cache
def prepared(case: Case) -> tuple[Litmus, Behaviours]:
    test = parse(case.text, case.name)
    return test, behaviours(test.program)


def allowed(case: Case, model: Model) -> bool:
    test, known = prepared(case)
    return test.verdict(model, known).allowed


@pytest.mark.parametrize("case", PAPER, ids=lambda case: case.name)
def test_the_sixteen_tests_of_the_paper(case: Case) -> None:
    assert (allowed(case, ARM), allowed(case, ESOP)) == (case.arm, case.esop)


@pytest.mark.parametrize("case", [*PATCHING, *DATA, *COMPARED], ids=lambda case: case.name)
def test_what_a_patcher_depends_on(case: Case) -> None:
    assert (allowed(case, ARM), allowed(case, ESOP)) == (case.arm, case.esop)


@pytest.mark.parametrize(
    "case", [case for case in (*PAPER, *PATCHING) if "IC IVAU" in case.text], ids=lambda case: case.name
)
def test_an_ic_on_every_line_does_what_an_ic_of_the_line_does(case: Case) -> None:
    test = parse(re.sub(r"IC IVAU,X\d", "IC IALLUIS", case.text), case.name)
    assert (test.verdict(ARM).allowed, test.verdict(ESOP).allowed) == (case.arm, case.esop)


@pytest.mark.parametrize("operation", ["CVAC", "CIVAC"])
def test_a_dc_to_the_point_of_coherency_orders_nothing(operation: str) -> None:
    """Arm's axioms have DC CVAU only: herd7 allows MP.FF+cachesyncstrong+fpo, which has DC CIVAC in its place."""
    forbidden = [case for case in (*PAPER, *PATCHING) if "DC CVAU" in case.text and not case.arm]
    assert forbidden
    for case in forbidden:
        if "IDC" in case.cache:
            continue
        test = parse(case.text.replace("DC CVAU", f"DC {operation}"), case.name)
        assert test.verdict(ARM).allowed
        assert test.verdict(ESOP).allowed


@pytest.mark.parametrize("ctr", ["", "IDC"])
@pytest.mark.parametrize(("maintenance", "expected"), [("IC IVAU,X3", True), ("IC IALLUIS", False)])
def test_only_an_ic_on_every_line_reaches_another_line(maintenance: str, expected: bool, ctr: str) -> None:
    text = f"STR W0,[X1]; DC CVAU,X1; DSB ISH; {maintenance}; DSB ISH; ISB; {FETCH}"
    case = Case("SM+ic", expected, expected, TO_SELF + " 0:X3=x;", (text,), "0:X9=1", ctr)
    assert (allowed(case, ARM), allowed(case, ESOP)) == (expected, expected)


RELEASED = """AArch64 {name}
{{ 0:X1=x; 0:X3=y; 1:X1=x; 1:X3=y; }}
 P0           | P1 ;
 MOV W0,#1    | MOV W4,#2 ;
 STR W0,[X1]  | {atomic},[X3] ;
 MOV W2,#1    | {barrier} ;
 STLR W2,[X3] | LDR W0,[X1] ;
exists (y={last} /\\ 1:X0=0)
"""
ATOMICS = {"LDADD": 3, "LDSET": 3, "LDEOR": 3, "SWP": 2, "LDADDL": 3, "SWPL": 2}
"""What `y` becomes from 1 with the operand 2."""


@pytest.mark.parametrize("barrier", ["DMB LD", "DMB ISHLD", "DSB LD", "DSB ISHLD", "DMB SY", "DSB ISH"])
@pytest.mark.parametrize("atomic", ATOMICS)
@pytest.mark.parametrize("target", ["WZR", "W5"])
def test_an_atomic_without_a_result_is_no_read_for_a_load_barrier(atomic: str, barrier: str, target: str) -> None:
    """Verdicts of herd's catalogue (MP+rel+LDADDnoret-dmb.ld and others): Forbidden before, and Arm allows it."""
    text = RELEASED.format(name="MP", atomic=f"{atomic} W4,{target}", barrier=barrier, last=ATOMICS[atomic])
    test = parse(text)
    expected = target == "WZR" and barrier.endswith("LD")
    assert [test.verdict(model).allowed for model in (ARM, ESOP)] == [expected, expected]


def notices(model: type[Model], name: str) -> bool:
    """Whether some test here changes its verdict when the model loses that relation."""
    broken = model(without=frozenset({name}))
    return any(allowed(case, broken) != (case.arm if model is ArmNow else case.esop) for case in ALL)


SURVIVORS = {
    # What comes before the load of an atomic comes before its store too, by the order of stores or by the same rule.
    (Esop2020, "aob"),
    # test_interrupts.py is about these.
    *((model, name) for model in (ArmNow, Esop2020) for name in ("irq-ob", "sgi")),
}


@pytest.mark.parametrize(
    ("model", "name"), [(model, name) for model in (ArmNow, Esop2020) for name in sorted(model.relations())]
)
def test_every_relation_is_needed(model: type[Model], name: str) -> None:
    assert notices(model, name) is ((model, name) not in SURVIVORS)

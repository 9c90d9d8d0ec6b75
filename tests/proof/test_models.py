"""Both models give the published verdicts on the project's own tests, and need each of their relations."""

from __future__ import annotations

from functools import cache

import pytest

from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.litmus import Litmus, parse
from a64patch.proof.model import Model
from a64patch.proof.traces import Behaviours, behaviours
from tests.proof.catalogue import DATA, PAPER, PATCHING, Case

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


@pytest.mark.parametrize("case", [*PATCHING, *DATA], ids=lambda case: case.name)
def test_what_a_patcher_depends_on(case: Case) -> None:
    assert (allowed(case, ARM), allowed(case, ESOP)) == (case.arm, case.esop)


def notices(model: type[Model], name: str) -> bool:
    """Whether some test here changes its verdict when the model loses that relation."""
    broken = model(without=frozenset({name}))
    return any(allowed(case, broken) != (case.arm if model is ArmNow else case.esop) for case in ALL)


SURVIVORS = {
    # All that it orders here is ordered by pob, since every dependency on a load ends in a load or a store.
    (ArmNow, "pick-lob"),
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

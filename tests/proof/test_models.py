"""Both models give the verdicts of the paper and of Arm on the project's own tests."""

from __future__ import annotations

import pytest

from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.litmus import parse
from tests.proof.catalogue import PAPER, Case

ARM, ESOP = ArmNow(), Esop2020()


@pytest.mark.parametrize("case", PAPER, ids=lambda case: case.name)
def test_the_sixteen_tests_of_the_paper(case: Case) -> None:
    test = parse(case.text, case.name)
    assert (test.verdict(ARM).allowed, test.verdict(ESOP).allowed) == (case.arm, case.esop)

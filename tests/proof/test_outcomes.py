"""Every final state that herd7 allows, and no other: random programs, when somebody has them (test_litmus_folder.py).

`outcomes.csv` has the columns file and states. States are separated by ` | `, and the values of one state by `;`.
herd7 made it with `-variant ifetch`, which is Arm's current model.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable

from a64patch.a64.assembler import assemble_one
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.litmus import Litmus, parse
from a64patch.proof.model import Model
from a64patch.proof.search import Query, executions
from a64patch.proof.traces import Behaviours, behaviours
from tests.proof.test_litmus_folder import FOLDER
from tests.support import rounds

State = tuple[tuple[str, int], ...]
"""Each register (`1:X6`) and location (`[x]`) of a final state with its value."""


def states(text: str) -> set[State]:
    """The states of a line of `outcomes.csv`."""
    return {
        tuple((name, _value(value)) for name, value in re.findall(r"([\w:\[\]]+)=([^;]+);", state))
        for state in text.split(" | ")
    }


def _value(text: str) -> int:
    """A number, or the word of an instruction: `instr:"B .+12"` or `NOP`."""
    return int(text) if text.isdigit() else assemble_one(text.removeprefix("instr:").strip('"'))


def reached(test: Litmus, model: Model, names: list[str], known: Behaviours) -> set[State]:
    """The states that the model allows, of these registers and locations."""
    found: set[State] = set()
    for x in executions(test.program, model, Query(), known):
        values = []
        for name in names:
            thread, is_register, register = name.partition(":X")
            if is_register:
                values.append(x.traces[int(thread)].register(int(register)))
            else:
                values.append(x.value_at_end(test.labels[name.strip("[]")]))
        found.add(tuple(zip(names, values, strict=True)))
    return found


def differences(model: Model, differ: Callable[[set[State], set[State]], bool], step: int = 1) -> tuple[int, list[str]]:
    """Of each `step`-th program: their number, and those whose states of herd7 and of the model `differ`."""
    with open(FOLDER / "outcomes.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))[1::step]
    wrong = []
    for file, text in rows:
        test = parse((FOLDER / file).read_text(encoding="utf-8"), file)
        expected = states(text)
        names = [name for name, _ in min(expected)]
        if differ(expected, reached(test, model, names, behaviours(test.program))):
            wrong.append(file)
    return len(rows), wrong


if (FOLDER / "outcomes.csv").is_file():

    def test_every_final_state_is_one_of_herd7_and_the_other_way_round() -> None:
        count, wrong = differences(ArmNow(), lambda herd, ours: herd != ours)
        assert wrong == []
        assert count > 900

    def test_the_older_model_allows_every_final_state_of_herd7() -> None:
        _, wrong = differences(Esop2020(), lambda herd, ours: not herd <= ours, rounds(1, 3))
        assert wrong == []

    def test_a_model_without_a_relation_has_other_final_states() -> None:
        _, wrong = differences(ArmNow(frozenset({"CSE-ob"})), lambda herd, ours: not ours <= herd, 3)
        assert wrong

"""Does Arm's memory model allow what these litmus tests ask? NAME, a tab, Allowed or Forbidden for each file, CMODX.

Read on: ../proof/litmus.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a64patch.cli.output import say
from a64patch.cli.text import failure_of, print_json
from a64patch.errors import FormatError, RequestError, ScopeError, TargetError

if TYPE_CHECKING:
    from a64patch.proof.litmus import Litmus
    from a64patch.proof.model import Model
    from a64patch.proof.search import Result

EPILOG = """\
examples:
  a64patch litmus MP.litmus                      under Arm's current model
  a64patch litmus --model both tests/*.litmus    under that of ESOP 2020 too; says so where they differ
  a64patch litmus --json MP.litmus               with the execution that shows it, or a cycle that forbids it
The third column is `CMODX: possible` where some execution, whatever its final state, has a fetch that is CONSTRAINED
UNPREDICTABLE: it could get two words that may not replace each other by the list of 2023 (Arm ARM B2.2.5). Models that
differ are named. It is stricter than herd's flag of that name, which asks less.
For forall, Allowed means that an execution breaks it. An instruction or feature that is not modelled is named:
page tables, tags and their faults, accesses of mixed size, IC IALLU, DC by set and way, DC CVAP, LDNP, LDXP and STXP,
FP and SIMD. DC CVAC and CIVAC order nothing. Shareability domains are not told apart: NSH barriers order nothing.
Unknown: nothing was found, but a loop was left too early (--visits N follows it further), or a thread left the memory.
Exit status 0: all answered; 1: a test is Unknown or not covered by the model; 2: a file is unreadable or no test."""

_ANSWERED, _REFUSED, _WRONG = 0, 1, 2
_UNKNOWN = "Unknown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE… and which model."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="litmus tests for AArch64 in herd's format")
    parser.add_argument(
        "--model", choices=("arm", "esop", "both"), default="arm", help="whose axioms (default: arm, the current ones)"
    )
    parser.add_argument("--visits", type=int, metavar="N", default=3, help="follow each loop N times (default: 3)")


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each file, even if others fail. Returns the worst exit status."""
    from a64patch.proof.arm_now import ArmNow
    from a64patch.proof.esop2020 import Esop2020
    from a64patch.proof.fetching import find_unpredictable
    from a64patch.proof.litmus import LARGEST, MOST_VISITS, parse
    from a64patch.proof.traces import behaviours

    models: list[Model] = []
    if arguments.model != "esop":
        models.append(ArmNow())
    if arguments.model != "arm":
        models.append(Esop2020())
    if not 1 <= arguments.visits <= MOST_VISITS:
        raise RequestError(f"--visits {arguments.visits} is out of range: give 1 to {MOST_VISITS}")
    status = _ANSWERED
    facts: list[dict[str, Any]] = []
    for file in arguments.files:
        name = Path(file).name.removesuffix(".litmus")
        try:
            test = parse(_read(file, LARGEST), file, arguments.visits)
            known = behaviours(test.program)
            results = [(model, test.verdict(model, known)) for model in models]
            fetches = [(model, find_unpredictable(test.program, model, known)) for model in models]
        except ScopeError as error:
            status = max(status, _REFUSED)
            facts.append({"file": file, "name": name, "error": failure_of(error, _REFUSED)})
            line = f"{name}\tout of scope: {error}"
        except TargetError as error:
            status = _WRONG
            facts.append({"file": file, "name": name, "error": failure_of(error, _WRONG)})
            say(str(error))
            continue
        else:
            facts.append({"file": file, "name": test.name, **_facts(test, results, fetches)})
            line = f"{test.name}\t{_verdict(results)}\tCMODX: {_cmodx(fetches)}"
            if any(_word(result) == _UNKNOWN for _, result in results):
                status = max(status, _REFUSED)
        if not arguments.json:
            print(line)
    if arguments.json:
        print_json(facts)
    return status


def _read(file: str, largest: int) -> str:
    try:
        with open(file, "rb") as stream:
            content = stream.read(largest + 1)
        return content.decode()
    except OSError as error:
        raise TargetError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is no litmus test: byte {error.start} is not UTF-8") from error


def _word(result: Result) -> str:
    if result.allowed:
        return "Allowed"
    return _UNKNOWN if result.left_out else "Forbidden"


def _verdict(results: list[tuple[Model, Result]]) -> str:
    words = {_word(result) for _, result in results}
    reason = next((f": {result.left_out}" for _, result in results if result.left_out), "")
    if len(words) == 1:
        return words.pop() + reason
    return ", ".join(f"{_word(result)} ({model.name})" for model, result in results) + reason


def _cmodx_word(result: Result) -> str:
    if result.allowed:
        return "possible"
    return "unknown" if result.left_out else "none"


def _cmodx(fetches: list[tuple[Model, Result]]) -> str:
    words = {_cmodx_word(result) for _, result in fetches}
    if len(words) == 1:
        return words.pop()
    return ", ".join(f"{_cmodx_word(result)} ({model.name})" for model, result in fetches)


def _facts(test: Litmus, results: list[tuple[Model, Result]], fetches: list[tuple[Model, Result]]) -> dict[str, Any]:
    found = {}
    for (model, result), (_, fetch) in zip(results, fetches, strict=True):
        x = result.witness
        found[model.name] = {
            "verdict": _word(result),
            "reason": result.left_out,
            "cmodx": _cmodx_word(fetch),
            "executions": result.statistics.complete,
            "choices": result.statistics.choices,
            "cut": result.statistics.cut,
            "witness": [x.name(index) for index in x.order()] if x else [],
            "cycle": [list(step) for step in result.cycle],
        }
    return {"quantifier": test.quantifier, "models": found}

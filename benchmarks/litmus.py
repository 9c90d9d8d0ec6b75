"""litmus: a catalogue of litmus tests in one process, and a patched kernel-like program with up to six other CPUs.

Read on: src/a64patch/proof/search.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from a64patch.a64.assembler import assemble
from a64patch.errors import FormatError, ScopeError
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.litmus import parse
from a64patch.proof.model import Model
from a64patch.proof.program import Program, Thread
from a64patch.proof.search import Query, search
from a64patch.proof.traces import Trace
from benchmarks.measure import MILLISECONDS, BenchmarkError, Contender, Report, Verdict, compare
from tests.proof.catalogue import DATA, PAPER, PATCHING

AIM = "0.5 ms a test of a catalogue, its text read and answered; 6 CPUs kicked for one patched word in under 1 s"
ROUNDS = 9

_ROOT = Path(__file__).resolve().parent.parent
_PATCHER, _SITES, _HANDLER = 0x1000, 0x2000, 0x8000
_NEW = assemble("b .+4")[0]


def run(rounds: int | None) -> Report:
    """The catalogue under each model, then the kicks."""
    rounds = rounds or ROUNDS
    report = Report("litmus")
    texts, name = _catalogue()
    models: list[Model] = [ArmNow(), Esop2020()]
    catalogue = compare(
        f"{name}, {len(texts)} tests",
        MILLISECONDS,
        [Contender(f"a64patch: {model.name}, a test", _asker(texts, model), ours=True) for model in models],
        rounds,
        ["One process; reading a test's text is part of it. herd7 needed 6.7 ms a test on another machine."],
    )
    kicks = compare(
        "one word patched, every other CPU kicked: stale after the interrupt?",
        MILLISECONDS,
        [
            Contender(f"a64patch: {executors} CPUs, {sites} sites", _kicker(executors, sites), ours=True)
            for executors, sites in ((1, 1), (2, 1), (6, 1), (6, 2), (1, 4))
        ],
        max(3, rounds // 3),
        ["No cutoff: all CPUs are in the program."],
    )
    report.tables += [catalogue, kicks]
    ours = catalogue.rows[0].median
    report.verdicts.append(Verdict("at most 0.5 ms a test", ours <= 0.5, f"{ours:.2f} ms"))
    six = kicks.row("a64patch: 6 CPUs, 1 sites").median
    report.verdicts.append(Verdict("6 CPUs, 1 site in under 1 s", six < 1000, f"{six:.1f} ms"))
    return report


def _catalogue() -> tuple[list[str], str]:
    """The real tests where they are (see tests/proof/test_litmus_folder.py), else the project's own."""
    folder = Path(os.environ.get("A64PATCH_LITMUS") or _ROOT.parent / "shared" / "litmus")
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.litmus"))]
    if texts:
        return [text for text in texts if _in_scope(text)], "Arm's and the paper's tests"
    return [case.text for case in (*PAPER, *PATCHING, *DATA)], "the project's own tests"


def _in_scope(text: str) -> bool:
    try:
        parse(text).verdict(ArmNow())
    except (FormatError, ScopeError):
        return False
    return True


def _asker(texts: list[str], model: Model) -> Callable[[], int]:
    def ask() -> int:
        for text in texts:
            parse(text).verdict(model)
        return len(texts)

    return ask


def _kicker(executors: int, sites: int) -> Callable[[], int]:
    places = [_SITES + 64 * site for site in range(sites)]
    patch = [f"str w0, [x{n}]; dc cvau, x{n}; dsb ish; ic ivau, x{n}; dsb ish" for n in range(1, sites + 1)]
    parts = {_PATCHER: "; ".join([*patch, "msr icc_sgi1r_el1, x0"]), _HANDLER: "eret"}
    parts |= dict.fromkeys(places, "nop; b .+60")
    code = {start + 4 * n: word for start, text in parts.items() for n, word in enumerate(assemble(text, start))}
    patcher = Thread(_PATCHER, {0: _NEW, **dict(enumerate(places, 1))})
    program = Program((patcher, *[Thread(_SITES, irq_vector=_HANDLER)] * executors), code)

    def stale(number: int, trace: Trace) -> bool:
        if number != 1:
            return True
        entered = [n for n, (address, _) in enumerate(trace.path) if address == _HANDLER]
        return bool(entered) and any(place in places and word != _NEW for place, word in trace.path[entered[0] :])

    def ask() -> int:
        if search(program, ArmNow(), Query(trace=stale)):
            raise BenchmarkError("a kicked CPU executed an old word: the search or the program is wrong")
        return 1

    return ask

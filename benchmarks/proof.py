"""proof: what a verdict on a patch costs, with the cutoff for any number of CPUs and with all CPUs searched.

Read on: src/a64patch/proof/prove.py.
"""

from __future__ import annotations

from collections.abc import Callable

from a64patch.a64.assembler import assemble
from a64patch.proof.cases import Site
from a64patch.proof.prove import Question, Verdict, models, prove
from benchmarks.measure import MILLISECONDS, BenchmarkError, Contender, Report, compare
from benchmarks.measure import Verdict as Aim

AIM = (
    "a verdict on any number of CPUs in under 0.2 s, UNSAFE of many words in under 1 s; 3 CPUs searched without cutoff:"
    " kick 36 s, stop 8.2 s at most"
)
ROUNDS = 5

_ARM = models("arm")
_NOP = Site((assemble("nop")[0],), (assemble("b .+4")[0],))
_ADDS = Site(tuple(assemble("add x9, x9, #1; add x9, x9, #1")), tuple(assemble("sub x9, x9, #1; sub x9, x9, #1")))


def _each(count: int, name: str) -> tuple[int, ...]:
    return tuple(assemble("; ".join(f"{name} x{n}, x{n}, #1" for n in range(count))))


_MANY = {protocol: Site(_each(count, "add"), _each(count, "sub")) for protocol, count in (("kick", 16), ("brk", 4))}

PROTOTYPE = {
    ("nosync", 1): 1, ("nosync", 2): 2, ("nosync", 3): 11,
    ("kick", 1): 9, ("kick", 2): 600, ("kick", 3): 36000,
    ("stop", 1): 10, ("stop", 2): 250, ("stop", 3): 8200,
}  # fmt: skip
"""Milliseconds that an earlier experiment needed on another machine."""


def run(rounds: int | None) -> Report:
    """The cutoff, all CPUs, many sites."""
    rounds = rounds or ROUNDS
    report = Report("proof")
    both = [
        Contender(f"a64patch prove: {protocol}", _prover(protocol, site, None, of=None), ours=True)
        for protocol, site in (("nosync", _NOP), ("kick", _NOP), ("stop", _ADDS))
    ]
    cutoff = compare(
        "any number of CPUs, both models, P1 P2 P3", MILLISECONDS, both, rounds,
        ["nosync and kick: one NOP to B. stop: two ADD to SUB. What `a64patch prove` searches."],
    )  # fmt: skip
    unsafe = compare(
        "UNSAFE: so many ADD to SUB, both models, P1 P2 P3", MILLISECONDS,
        [
            Contender(f"a64patch prove: {protocol}, {len(site.old)} words",
                      _prover(protocol, site, None, of=None, expected=Verdict.UNSAFE), ours=True)
            for protocol, site in _MANY.items()
        ],
        rounds,
        ["Without the remedies that the command adds: for them it asks about the other protocols."],
    )  # fmt: skip
    asked = {"nosync": ("P2", "P3"), "kick": ("P2",), "stop": ("P1", "P2", "P3")}
    everything = compare(
        "no cutoff: so many other CPUs in the program, Arm's model",
        MILLISECONDS,
        [
            Contender(
                f"a64patch: {protocol}, {executors} CPUs",
                _prover(protocol, _ADDS if protocol == "stop" else _NOP, executors, asked[protocol]),
                ours=True,
            )
            for protocol, executors in PROTOTYPE
        ],
        min(rounds, 3),
        [
            "Each in two layouts of cache lines, for another CPU and for the patching one. An experiment needed (ms):",
            ", ".join(f"{protocol} {executors}: {cost}" for (protocol, executors), cost in PROTOTYPE.items()),
        ],
    )
    shapes = [(1, 6), (2, 6), (8, 1), (8, 2), (8, 6)]
    many = compare(
        "no cutoff, many sites and CPUs: nosync and kick, stale?", MILLISECONDS,
        [
            Contender(f"a64patch: {protocol}, {sites} sites, {executors} CPUs",
                      _prover(protocol, _NOP, executors, ("P2",), sites), ours=True)
            for protocol in ("nosync", "kick")
            for sites, executors in shapes
        ]
        + [Contender("a64patch: kick, 8 sites, any number", _prover("kick", _NOP, None, ("P2",), 8), ours=True)],
        min(rounds, 3),
        ["The experiment needed 1.0 s for 1 site and 6 CPUs, herd7 119 s. The last row is what `prove` does."],
    )  # fmt: skip
    report.tables += [cutoff, unsafe, everything, many]
    slowest = max(row.median for row in cutoff.rows)
    report.verdicts.append(Aim("any number of CPUs in under 0.2 s", slowest < 200, f"{slowest:.0f} ms at most"))
    slowest = max(row.median for row in unsafe.rows)
    report.verdicts.append(Aim("UNSAFE of many words in under 1 s", slowest < 1000, f"{slowest:.0f} ms at most"))
    for protocol in ("kick", "stop"):
        for executors in (2, 3):
            took = everything.row(f"a64patch: {protocol}, {executors} CPUs").median
            limit = PROTOTYPE[protocol, executors]
            said = f"{protocol}, {executors} CPUs without cutoff in at most {limit} ms"
            report.verdicts.append(Aim(said, took <= limit, f"{took:.0f} ms"))
    six = many.row("a64patch: kick, 1 sites, 6 CPUs").median
    report.verdicts.append(Aim("6 CPUs, 1 site, no cutoff in under 1 s", six < 1000, f"{six:.0f} ms"))
    return report


def _prover(
    protocol: str,
    site: Site,
    executors: int | None,
    properties: tuple[str, ...] = ("P1", "P2", "P3"),
    sites: int = 1,
    of: object = _ARM,
    expected: Verdict = Verdict.SAFE,
) -> Callable[[], int]:
    question = Question(protocol, (site,) * sites, executors=executors)

    def ask() -> int:
        if prove(question, _ARM if of is _ARM else None, properties).verdict is not expected:
            raise BenchmarkError(f"{protocol} is not {expected.value}: the search or the program is wrong")
        return 1

    return ask

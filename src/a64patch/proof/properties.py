"""The three properties that a proof checks: each names something that must never happen while code is patched.

Read on: prove.py asks the models.

    P1  torn: one pass through a site executes some of its old and some of its new words.
    P2  stale: a CPU was told that patching is done, and then executes an old word (or the BRK that guarded it).
    P3  unpredictable: a fetch could get two words that may not replace each other under execution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from a64patch.a64.cmodx import hotpatch_safe
from a64patch.a64.predicates import decode
from a64patch.a64.row import Flow
from a64patch.proof.cases import Case
from a64patch.proof.execution import Execution
from a64patch.proof.fetching import is_unpredictable
from a64patch.proof.model import Model
from a64patch.proof.search import Query
from a64patch.proof.traces import Trace

TORN, STALE, UNPREDICTABLE, TOLD = "P1", "P2", "P3", "told"
PROPERTIES = {
    TORN: "no CPU executes some of the old and some of the new words of a site",
    STALE: "no CPU that was told executes an old word",
    UNPREDICTABLE: "no fetch is CONSTRAINED UNPREDICTABLE",
}
BROKEN = {
    TORN: "a CPU executes some of the old and some of the new words of a site",
    STALE: "a CPU that was told executes an old word",
    UNPREDICTABLE: "a fetch is CONSTRAINED UNPREDICTABLE",
}


def torn(case: Case, trace: Trace) -> bool:
    """Whether one pass through a site executes old and new words at different addresses. `Case.mixtures` are allowed.

    - The first word of a site begins a new pass.
    - A call or an interrupt inside a site may execute the site anew. The pass that it left goes on when it comes back.
    """
    spans = case.spans or case.program.windows
    starts = {span.start for span in spans}
    interrupted = {event.step: event.pc for event in trace.events if event.kind == "TE" and event.order == "irq"}
    ages: dict[int, set[str]] = {}
    left: list[tuple[int, dict[int, set[str]]]] = []
    """The passes that were left: where each goes on, and what it has executed."""
    before, last = -1, 0
    for index, (address, word) in enumerate(trace.path):
        sequential = address == before + 4
        if not sequential and _inside(before, spans) and _inside(before + 4, spans) and _flow(last) is Flow.CALL:
            left.append((before + 4, ages))
        if index in interrupted and _inside(interrupted[index], spans) and interrupted[index] not in starts:
            left.append((interrupted[index], ages))
        if address in starts:
            ages = {}
        elif not sequential and (not _inside(before, spans) or _flow(last) is Flow.RETURN):
            places = [place for place, _ in left]
            while address in places:
                places.pop()
                back, ages = left.pop()
                if back == address:
                    break
        before, last = address, word
        if address in case.words and word in case.words[address]:
            ages.setdefault(address, set()).add("old" if word == case.words[address][0] else "new")
            if len(ages) > 1 and len(set().union(*ages.values())) > 1 and not any(
                all(seen <= {mixture[place]} or mixture[place] == "any" for place, seen in ages.items())
                for mixture in case.mixtures
            ):  # fmt: skip
                return True
    return False


def _inside(address: int, spans: Sequence[range]) -> bool:
    return any(address in span for span in spans)


def _flow(word: int) -> Flow | None:
    row = decode(word)
    return row.flow if row else None


def stale(case: Case, trace: Trace) -> bool:
    """Whether the CPU executes another word than the new one after it was told that patching is done."""
    done = case.done(trace)
    if done is None:
        return False
    return any(address in case.words and word != case.words[address][1] for address, word in trace.path[done:])


def may_race(case: Case, profile: str) -> bool:
    """Whether both words at each address may replace each other under execution: then the manual's list implies P3.

    A guarding BRK changes no answer, since BRK is in every issue of the list (a64/cmodx.py).
    """
    return all(bool(hotpatch_safe(old, new, profile)) for old, new in case.words.values())


def query(case: Case, name: str, model: Model, profile: str) -> Query:
    """The query for executions that break the property; for TOLD, in which the CPU learns that patching is done."""
    wanted: dict[str, Callable[[Trace], bool]] = {
        TORN: lambda trace: torn(case, trace),
        STALE: lambda trace: stale(case, trace),
        UNPREDICTABLE: lambda trace: any(event.kind == "F" for event in trace.events),
        TOLD: lambda trace: case.done(trace) is not None,
    }
    ask = wanted[name]

    def accept(number: int, trace: Trace) -> bool:
        return case.possible(trace) and (number != case.subject or ask(trace))

    if name != UNPREDICTABLE:
        return Query(trace=accept)

    def unpredictable(x: Execution) -> bool:
        return any(
            x.thread[fetch] == case.subject and is_unpredictable(model, x, fetch, profile) for fetch in x.fetches
        )

    return Query(trace=accept, execution=unpredictable, orders=True)

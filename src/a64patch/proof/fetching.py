"""The words that a fetch could have read, and whether the architecture defines the result (CMODX).

Read on: ../a64/cmodx.py has the list of instructions that may change under execution.

The functions need a complete execution with every order of cache maintenance chosen: Query(orders=True).
"""

from __future__ import annotations

from a64patch.a64.cmodx import hotpatch_safe
from a64patch.proof.execution import Execution
from a64patch.proof.model import Model
from a64patch.proof.program import Program
from a64patch.proof.search import Query, Result, search
from a64patch.proof.traces import Behaviours


def could_fetch(model: Model, x: Execution, fetch: int) -> list[int]:
    """The stores that a fetch could have read in this execution, with -1 for the initial word (ESOP 2020, cff).

    A fetch cannot read a store that is ordered after the fetch, nor a store older than one published before the fetch.
    """
    stores = x.co.get(x.events[fetch].address, [])
    past = [model.fetch_is_past(x, fetch, write) for write in stores]
    return [
        write
        for place, write in enumerate([-1, *stores])
        if not any(past[place:]) and not (write >= 0 and x.before(fetch, write))
    ]


def word_of(x: Execution, fetch: int, write: int) -> int:
    """The word of a store from `could_fetch`."""
    return x.events[write].value if write >= 0 else x.program.initial(x.events[fetch].address)


def is_unpredictable(model: Model, x: Execution, fetch: int, profile: str = "2023") -> bool:
    """Whether the fetch is CONSTRAINED UNPREDICTABLE: it could get two words that may not replace each other.

    `profile` names the issue of the manual's list (a64patch.a64.cmodx.PROFILES). Trust this rule rather than
    `herd_flags`: this rule asks which words the fetch could get, herd's flag whether fetch and store are ordered.
    """
    words = sorted({word_of(x, fetch, write) for write in could_fetch(model, x, fetch)})
    return any(not hotpatch_safe(one, other, profile) for one in words for other in words if one < other)


def herd_flags(x: Execution, fetch: int, profile: str = "2023") -> bool:
    """Whether herd would flag the fetch (CMODX): an unordered store has a word that may not replace the fetched word.

    Weaker than `is_unpredictable`: it does not notice an unpublished store that is ordered before the fetch.
    """
    fetched = x.events[fetch]
    return any(
        not x.before(write, fetch)
        and not x.before(fetch, write)
        and not hotpatch_safe(fetched.value, x.events[write].value, profile)
        for write in x.co.get(fetched.address, [])
    )


def racy_words(program: Program, known: Behaviours, profile: str) -> set[int]:
    """The addresses of the words that may have two values which may not replace each other under execution."""
    words: dict[int, set[int]] = {}
    for traces in known.traces:
        for trace in traces:
            for event in trace.events:
                if event.kind == "W" and event.address in program.code:
                    words.setdefault(event.address, {program.code[event.address]}).add(event.value)
    return {
        address
        for address, found in words.items()
        if any(not hotpatch_safe(one, other, profile) for one in found for other in found if one < other)
    }


def find_unpredictable(program: Program, model: Model, known: Behaviours, profile: str = "2023") -> Result:
    """An execution of the program with a fetch that is CONSTRAINED UNPREDICTABLE, if there is one.

    `known` is `behaviours(program)`. The search is left out where all words that an address may have may replace each
    other, so a program that modifies no code costs nothing.
    """
    racy = racy_words(program, known, profile)
    fetching = {
        number
        for number, traces in enumerate(known.traces)
        if any(event.kind == "F" and event.address in racy for trace in traces for event in trace.events)
    }
    # Without such a fetch this finds nothing, and says only whether an execution may have been missed.
    found = search(program, model, Query(trace=lambda number, trace: False), known)
    for thread in sorted(fetching):
        query = Query(
            trace=lambda number, trace, thread=thread: (  # type: ignore[misc]
                number != thread or any(event.kind == "F" and event.address in racy for event in trace.events)
            ),
            execution=lambda x: any(
                x.events[fetch].address in racy and is_unpredictable(model, x, fetch, profile) for fetch in x.fetches
            ),
            orders=True,
        )
        found = search(program, model, query, known)
        if found:
            break
    return found

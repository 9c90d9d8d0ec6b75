"""The words that a fetch could have read, and whether the architecture defines the result (CMODX).

Read on: ../a64/cmodx.py has the list of instructions that may change under execution.

The functions need a complete execution with every order of cache maintenance chosen: Query(orders=True).
"""

from __future__ import annotations

from a64patch.a64.cmodx import hotpatch_safe
from a64patch.proof.execution import Execution
from a64patch.proof.model import Model


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

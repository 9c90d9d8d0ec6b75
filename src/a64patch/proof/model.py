"""What a memory model is to the search: named relations of one thread, and named edges that a choice brings.

Read on: arm_now.py, esop2020.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from a64patch.errors import RequestError
from a64patch.proof.relations import Edges, ThreadOrder

if TYPE_CHECKING:
    from a64patch.proof.execution import Execution

Named = tuple[str, int, int]
"""Relation, event, set of the events that it is before."""


class Model:
    """A memory model. The relations of `LOCAL` hold in a thread as such; the methods give those between threads.

    `without` leaves relations out, to see what they are for. A model object may be used for any number of searches.
    RequestError for a name that it does not have.
    """

    name = ""
    LOCAL: Mapping[str, Callable[[ThreadOrder], Edges]] = {}
    GLOBAL: frozenset[str] = frozenset()
    COHERENCE: frozenset[str] = frozenset({"coWW", "coRW1", "coWR", "atomic"})
    """What the search itself checks: coherence of explicit accesses in one thread, and atomicity."""

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        unknown = without - self.relations()
        if unknown:
            raise RequestError(f"the model {self.name} has no relation {', '.join(sorted(unknown))}")
        self.without = without
        self.coherence = self.COHERENCE - without

    @classmethod
    def relations(cls) -> frozenset[str]:
        """The names of all its relations."""
        return frozenset(cls.LOCAL) | cls.GLOBAL | cls.COHERENCE

    def local(self, order: ThreadOrder) -> Iterator[Named]:
        """All that is ordered in one thread, whatever the others do."""
        for name, relation in self.LOCAL.items():
            if name not in self.without:
                for index, targets in relation(order):
                    yield name, index, targets

    def interrupts(self, x: Execution) -> Iterator[Named]:
        """An interrupt is taken after it was sent: SGI to exception entry."""
        for entry, sent in x.sent_by.items():
            yield "sgi", sent, 1 << entry

    def coherence_edges(self, x: Execution, address: int) -> Iterator[Named]:
        """What follows once the order of the stores to `address` is chosen."""
        raise NotImplementedError

    def reads_edges(self, x: Execution, read: int) -> Iterator[Named]:
        """What follows once it is chosen which store a load or fetch reads."""
        raise NotImplementedError

    def questions(self, x: Execution, complete: bool) -> list[tuple[int, int]]:
        """The pairs of events whose order must still be chosen once all reads are.

        Unless `complete`, pairs are left out from whose order nothing follows; any order of theirs will do.
        """
        raise NotImplementedError

    def order_edges(self, x: Execution, first: int, second: int) -> Iterator[Named]:
        """What follows when such a question is answered with: the first before the second."""
        raise NotImplementedError

    def fetch_is_past(self, x: Execution, fetch: int, write: int) -> bool:
        """Whether cache maintenance keeps the fetch from a store older than `write`: co;iseq;ob, given its orders."""
        raise NotImplementedError

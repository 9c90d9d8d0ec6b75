"""The interface of a memory model: named relations within one thread, and named edges that a choice adds.

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
"""(relation, event, set of the events that this event is before)."""


class Model:
    """A memory model. The relations of `LOCAL` depend on one trace only; the methods give the others.

    `without` leaves relations out, to see what depends on them. A model object may be used for any number of searches.
    RequestError for an unknown relation in `without`.
    """

    name = ""
    LOCAL: Mapping[str, Callable[[ThreadOrder], Edges]] = {}
    GLOBAL: frozenset[str] = frozenset()
    COHERENCE: frozenset[str] = frozenset({"coWW", "coRW1", "coWR", "atomic"})
    """The rules that the search itself checks: coherence of explicit accesses in one thread, and atomicity."""

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        unknown = without - self.relations()
        if unknown:
            raise RequestError(f"the model {self.name} has no relation {', '.join(sorted(unknown))}")
        self.without = without
        self.coherence = self.COHERENCE - without

    @classmethod
    def relations(cls) -> frozenset[str]:
        """The names of all relations of the model."""
        return frozenset(cls.LOCAL) | cls.GLOBAL | cls.COHERENCE

    def local(self, order: ThreadOrder) -> Iterator[Named]:
        """The edges within one thread, whatever the other threads do."""
        for name, relation in self.LOCAL.items():
            if name not in self.without:
                for index, targets in relation(order):
                    yield name, index, targets

    def interrupts(self, x: Execution) -> Iterator[Named]:
        """An interrupt is taken after it was sent: SGI to exception entry."""
        for entry, sent in x.sent_by.items():
            yield "sgi", sent, 1 << entry

    def coherence_edges(self, x: Execution, address: int) -> Iterator[Named]:
        """The edges that follow when the order of the stores to `address` is chosen."""
        raise NotImplementedError

    def reads_edges(self, x: Execution, read: int) -> Iterator[Named]:
        """The edges that follow when the store that a load or fetch reads is chosen."""
        raise NotImplementedError

    def questions(self, x: Execution, complete: bool) -> list[tuple[int, int]]:
        """The pairs of events whose order must still be chosen after the reads.

        Unless `complete`, this leaves out the pairs whose order adds no edges. Either order of such a pair will do.
        """
        raise NotImplementedError

    def order_edges(self, x: Execution, first: int, second: int) -> Iterator[Named]:
        """The edges that follow when a pair of `questions` is ordered as `first` before `second`."""
        raise NotImplementedError

    def fetch_is_past(self, x: Execution, fetch: int, write: int) -> bool:
        """Whether the chosen cache maintenance publishes `write` before the fetch (co;iseq;ob).

        Then the fetch cannot read a store older than `write`.
        """
        raise NotImplementedError

"""Relations as integers used as bit sets, and the program order of one thread.

Read on: arm_now.py and esop2020.py build the named relations of the models from these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from a64patch.proof.program import Program
from a64patch.proof.traces import Event, Trace

Edges = Iterable[tuple[int, int]]
"""Pairs of an event's index and the set of the events that this event is before, a bit for each index."""


def bits(mask: int) -> Iterator[int]:
    """The numbers whose bits are set, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class ThreadOrder:
    """The events of one trace as sets by kind, and relations along program order (po)."""

    def __init__(self, trace: Trace, program: Program) -> None:
        self.events = trace.events
        self.program = program
        self.size = len(trace.events)
        self.all = (1 << self.size) - 1
        self.R = self.W = self.F = self.DC = self.IC = self.SGI = self.irq = self.cse = 0
        self.A = self.Q = self.L = 0
        self.loads = 0
        """R without the loads of atomics whose result is thrown away: what DMB LD and DSB LD order. Such an atomic is a
        ST<OP>, "not regarded as doing a read" there (Arm ARM, C3.2, atomic instructions)."""
        self.barriers: dict[tuple[str, str], int] = {}
        for index, event in enumerate(trace.events):
            bit = 1 << index
            kind = event.kind
            if kind == "R":
                self.R |= bit
                self.loads |= event.returns * bit
                if event.order == "A":
                    self.A |= bit
                elif event.order == "Q":
                    self.Q |= bit
            elif kind == "W":
                self.W |= bit
                if event.order == "L":
                    self.L |= bit
            elif kind == "F":
                self.F |= bit
            elif kind in ("DMB", "DSB"):
                self.barriers[kind, event.order] = self.barriers.get((kind, event.order), 0) | bit
            elif kind == "DC":
                self.DC |= bit
            elif kind == "IC":
                self.IC |= bit
            elif kind == "SGI":
                self.SGI |= bit
            elif kind == "ISB" or (kind == "TE" and program.eis) or (kind == "ERET" and program.eos):
                self.cse |= bit
            if kind == "TE" and event.order == "irq":
                self.irq |= bit
        self.M = self.R | self.W

    def after(self, index: int) -> int:
        """The events that follow the event `index` in program order."""
        return self.all >> (index + 1) << (index + 1)

    def barrier(self, kind: str, order: str) -> int:
        """The barriers of this kind (DMB, DSB) and order (sy, ld, st)."""
        return self.barriers.get((kind, order), 0)

    def ordered(self, before: int, after: int) -> Iterator[tuple[int, int]]:
        """[before];po;[after]"""
        for index in bits(before):
            targets = self.after(index) & after
            if targets:
                yield index, targets

    def through(self, before: int, middle: int, after: int) -> Iterator[tuple[int, int]]:
        """[before];po;[middle];po;[after]"""
        if not middle:
            return
        for index in bits(before):
            between = self.after(index) & middle
            if between:
                targets = self.after((between & -between).bit_length() - 1) & after
                if targets:
                    yield index, targets

    def same_line(self, before: int, after: int) -> Iterator[tuple[int, int]]:
        """[before];(po & same cache line);[after]"""
        for index, later in self.ordered(before, after):
            line = self.program.line_of(self.events[index].address)
            targets = sum(1 << other for other in bits(later) if self.line(other) == line)
            if targets:
                yield index, targets

    def line(self, index: int) -> int:
        """The cache line of the event's address."""
        return self.program.line_of(self.events[index].address)

    def same_location(self, before: int, after: int) -> Iterator[tuple[int, int]]:
        """[before];(po & same location);[after]"""
        for index, later in self.ordered(before, after):
            address = self.events[index].address
            targets = sum(1 << other for other in bits(later) if self.events[other].address == address)
            if targets:
                yield index, targets

    def depends(self, kind: str, targets: int) -> Iterator[tuple[int, int]]:
        """From each load to the events of `targets` that depend on it. `kind` names a mask of Event, such as `addr`."""
        for index in bits(targets):
            for source in bits(getattr(self.events[index], kind)):
                yield source, 1 << index

    def after_dependent(self, kind: str, dependents: int, after: int) -> Iterator[tuple[int, int]]:
        """kind;[dependents];po;[after]"""
        for source, target in self.depends(kind, dependents):
            targets = self.after(target.bit_length() - 1) & after
            if targets:
                yield source, targets

    def local_reads(self, writes: int) -> Iterator[tuple[int, int]]:
        """lmrs: from a store to later loads from its location, up to the next store there."""
        for index in bits(writes):
            address = self.events[index].address
            targets = 0
            for other in range(index + 1, self.size):
                event = self.events[other]
                if event.address == address and event.kind == "R":
                    targets |= 1 << other
                elif event.address == address and event.kind == "W":
                    break
            if targets:
                yield index, targets

    def rmw(self) -> Iterator[tuple[int, int]]:
        """From the load to the store, of each atomic and of each pair of exclusives."""
        for index in bits(self.W):
            if self.events[index].rmw >= 0:
                yield self.events[index].rmw, 1 << index


def compose(first: Edges, second: Edges) -> Iterator[tuple[int, int]]:
    """first;second"""
    rows: dict[int, int] = {}
    for index, targets in second:
        rows[index] = rows.get(index, 0) | targets
    for index, targets in first:
        reached = 0
        for middle in bits(targets):
            reached |= rows.get(middle, 0)
        if reached:
            yield index, reached


def closed(size: int, edges: Edges) -> list[int]:
    """The transitive closure of edges that all go forward: one row of successors for each index."""
    rows = [0] * size
    for index, targets in edges:
        rows[index] |= targets
    for index in range(size - 1, -1, -1):
        for target in bits(rows[index]):
            rows[index] |= rows[target]
    return rows


def is_explicit(event: Event) -> bool:
    """Whether the event is a load or store of an instruction, not a fetch."""
    return event.kind in ("R", "W")

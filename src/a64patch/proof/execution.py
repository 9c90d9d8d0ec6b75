"""One candidate execution: a trace for each thread, and the choices that join the traces.

Read on: search.py makes the choices; a witness is a complete execution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from a64patch.proof.program import Program
from a64patch.proof.relations import bits
from a64patch.proof.traces import EVERYWHERE, Event, Trace


class Execution:
    """Events of all threads under one numbering, thread after thread, each in program order.

    An event is named by its number, and a set of events is a bit mask of numbers.

    - `rf[read]`: the store that a load or fetch reads, -1 for the initial value.
    - `co[address]`: the stores to an address, oldest first.
    - `succ[event]`: all events that are ordered after the event (ob), and the event itself.
    - `missed[read]`: the stores that are newer than the store that a load or fetch reads.
    - `sent_by[entry]`: the SGI that causes an exception entry by interrupt.
    - `chosen[event]`: in the chosen order of cache maintenance, the events put directly after this event.
    - `chosen_before[event]`: likewise, the events put directly before this event.
    """

    def __init__(self, program: Program, traces: Sequence[Trace], numbers: Sequence[int] | None = None) -> None:
        """`traces` has one trace for each thread, in order. With fewer traces, `numbers` names their threads."""
        self.program = program
        self.numbers = tuple(range(len(traces)) if numbers is None else numbers)
        self.traces = tuple(traces)
        self.events: list[Event] = []
        self.thread: list[int] = []
        self.first: list[int] = []
        self.members: list[int] = []
        self.reads: list[int] = []
        self.fetches: list[int] = []
        self.writes: dict[int, list[int]] = {}
        self.dcs: list[int] = []
        self.ics: list[int] = []
        self.entries: list[int] = []
        self.sgis: list[int] = []
        for number, trace in enumerate(traces):
            base = len(self.events)
            self.first.append(base)
            self.members.append(((1 << len(trace.events)) - 1) << base)
            for index, event in enumerate(trace.events, base):
                kind = event.kind
                if kind == "R":
                    self.reads.append(index)
                elif kind == "W":
                    self.writes.setdefault(event.address, []).append(index)
                elif kind == "F":
                    self.fetches.append(index)
                elif kind == "DC":
                    self.dcs.append(index)
                elif kind == "IC":
                    self.ics.append(index)
                elif kind == "TE" and event.order == "irq":
                    self.entries.append(index)
                elif kind == "SGI":
                    self.sgis.append(index)
            self.events += trace.events
            self.thread += [number] * len(trace.events)
        self.ic_set = sum(1 << ic for ic in self.ics)
        self.succ: list[int] = []
        self.rf: dict[int, int] = {}
        self.co: dict[int, list[int]] = {}
        self.missed: dict[int, int] = {}
        self.sent_by: dict[int, int] = {}
        self.chosen: dict[int, int] = {}
        self.chosen_before: dict[int, int] = {}

    def local(self, index: int) -> int:
        """The event's number in its own trace."""
        return index - self.first[self.thread[index]]

    def external(self, index: int, mask: int) -> int:
        """The events of `mask` that belong to other threads than the event `index`."""
        return mask & ~self.members[self.thread[index]]

    def earlier(self, index: int, kind: str, same_location: bool = False) -> list[int]:
        """The events of this kind that precede the event `index` in its thread, in program order."""
        event = self.events[index]
        return [
            other
            for other in range(self.first[self.thread[index]], index)
            if self.events[other].kind == kind and (not same_location or self.events[other].address == event.address)
        ]

    def same_line(self, one: int, other: int) -> bool:
        """Whether the addresses of two events are in one cache line. An IC on every line is in each."""
        first, second = self.events[one].address, self.events[other].address
        return EVERYWHERE in (first, second) or self.program.line_of(first) == self.program.line_of(second)

    def value_at_end(self, address: int) -> int:
        """The final value of the location."""
        stores = self.co.get(address)
        return self.events[stores[-1]].value if stores else self.program.initial(address)

    def order(self, events: Iterable[int] | None = None) -> list[int]:
        """The events (all, or these) in one order that agrees with ob, for a timeline."""
        chosen = list(range(len(self.events)) if events is None else events)
        return sorted(chosen, key=lambda index: (-self.succ[index].bit_count(), self.thread[index], index))

    def name(self, index: int) -> str:
        """An event for people: `P0: W code=d503201f`."""
        event = self.events[index]
        number = self.numbers[self.thread[index]]
        thread = self.program.threads[number].name or f"P{number}"
        place = f" {self.program.name_of(event.address)}" if event.address >= 0 else ""
        value = f"={event.value:#x}" if event.kind in ("R", "W", "F") else ""
        order = f".{event.order}" if event.order else ""
        return f"{thread}: {event.kind}{order}{place}{value}"

    def before(self, first: int, second: int) -> bool:
        """Whether the first event is ordered before the second (ob)."""
        return first != second and bool(self.succ[first] >> second & 1)

    def members_of(self, mask: int) -> list[Event]:
        """The events of a bit set."""
        return [self.events[index] for index in bits(mask)]

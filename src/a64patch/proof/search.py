"""Is there an execution that does this? A backtracking search; every answer is definite.

Read on: litmus.py asks for a final condition; other callers ask through `Query`.

The search chooses, in this order:
1. a trace for each thread;
2. the SGI that causes each interrupt;
3. the order of the stores to each location;
4. the store that each load and fetch reads;
5. the order of cache maintenance.

Each choice adds edges to the order of events. When the order gets a cycle, the search takes back the choice. There is
no randomness: the same question gives the same answer and the same witness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from a64patch.errors import ScopeError
from a64patch.proof.execution import Execution
from a64patch.proof.model import Model, Named
from a64patch.proof.program import Program
from a64patch.proof.relations import ThreadOrder, bits, closed
from a64patch.proof.traces import ACCESS, BRANCH, Behaviours, Event, Trace, behaviours

Rows = list[int]
"""For each event, the set of the events ordered after it, and itself."""


@dataclass(frozen=True)
class Query:
    """The conditions on an execution. The search finds only executions that satisfy all of them.

    - `trace(number, trace)` judges one thread alone. It makes a search fast.
    - `memory` demands final values by address.
    - `execution` judges the complete execution.

    Set `orders` when `execution` uses `could_fetch`: then the search also chooses orders of cache maintenance that have
    no consequences in the model.
    """

    trace: Callable[[int, Trace], bool] | None = None
    memory: dict[int, int] = field(default_factory=dict)
    execution: Callable[[Execution], bool] | None = None
    orders: bool = False


_ANYTHING = Query()
_WORTH_A_LOOK = 8
"""With so many ways to choose the later threads, the search first checks the earlier threads alone."""


@dataclass
class Statistics:
    """How much the search looked at."""

    traces: tuple[int, ...] = ()
    """The number of traces of each thread."""
    combinations: int = 0
    """Choices of one trace for each thread in which all satisfy the query and some trace stores each value read."""
    steps: int = 0
    """How often the search looked at a trace or added edges to the order. Its time grows with this number."""
    choices: int = 0
    cycles: int = 0
    """Choices that were given up because the order had a cycle."""
    complete: int = 0
    """Consistent executions."""
    cut: int = 0
    """Paths that were given up because they visited an address too often (Program.visits)."""


@dataclass
class Result:
    """The answer: whether the model allows it, the execution that shows it, or a cycle that forbids it."""

    allowed: bool
    witness: Execution | None
    statistics: Statistics
    cycle: list[tuple[str, str, str]] = field(default_factory=list)
    """When forbidden, the cycle of the most complete attempt: event, relation, next event. The last leads to the first.
    """
    left_out: str = ""
    """Why an execution may have been missed; empty when all were looked at, or one was found."""

    def __bool__(self) -> bool:
        return self.allowed


def search(
    program: Program, model: Model, query: Query, known: Behaviours | None = None, most: int | None = None
) -> Result:
    """The first consistent execution that satisfies the query, if there is one.

    `known` is `behaviours(program)`, for callers that ask several questions. ScopeError when the model does not cover
    the program, and after `most` steps (Statistics.steps; about 100000 take a second).
    """
    known = known or behaviours(program)
    run = _Search(program, model, query, most)
    run.statistics.traces = tuple(len(traces) for traces in known.traces)
    run.statistics.cut = known.cut
    witness = next(run.executions(known), None)
    if witness is not None:
        return Result(True, witness, run.statistics)
    return Result(False, None, run.statistics, run.explain(), known.left_out or _escape(run, known))


def _escape(run: _Search, known: Behaviours) -> str:
    """A clause about a thread that leaves the memory or the code in some execution; empty when none does."""
    program = run.program
    for number, traces in enumerate(known.traces):
        ends = sorted({trace.end for trace in traces if trace.end.startswith((ACCESS, BRANCH))})
        name = program.threads[number].name or f"thread {number}"
        for end in ends:
            query = Query(trace=lambda which, trace, number=number, end=end: which != number or trace.end == end)  # type: ignore[misc]
            other = _Search(program, run.model, query, run.most)
            if next(other.executions(known), None) is not None:
                article = "an" if end.startswith(ACCESS) else "a"
                return f"{name} may end by {article} {end}, which is not modelled"
    return ""


def executions(program: Program, model: Model, query: Query, known: Behaviours | None = None) -> Iterator[Execution]:
    """All consistent executions that satisfy the query. Each is valid until the caller asks for the next."""
    yield from _Search(program, model, query).executions(known or behaviours(program))


class _Search:
    def __init__(self, program: Program, model: Model, query: Query, most: int | None = None) -> None:
        self.most = most
        self.program = program
        self.model = model
        self.query = query
        self.statistics = Statistics()
        self.depth = -1
        self.failure: tuple[Execution, list[Named], Named] | None = None
        self.journal: list[Named] = []
        self.free: frozenset[int] = frozenset()
        """Addresses that threads without a chosen trace may store to; loads from them have no chosen store yet."""
        self.free_interrupts = False

    def executions(self, known: Behaviours) -> Iterator[Execution]:
        accept = self.query.trace
        candidates = [
            [trace for trace in traces if accept is None or accept(number, trace)]
            for number, traces in enumerate(known.traces)
        ]
        # First the threads that the query restricts, then those with the fewest traces. When a few threads exclude each
        # other, the search then finds out before the traces of the other threads multiply the work.
        count = len(candidates)
        order = sorted(
            range(count), key=lambda one: (len(candidates[one]) == len(known.traces[one]), len(candidates[one]), one)
        )
        places = sorted(range(count), key=order.__getitem__)
        tree = _Tree(self.program, [candidates[number] for number in order], self._count)
        for chosen in tree.combinations(lambda part, later: self._possible(part, order, later)):
            self.statistics.combinations += 1
            self.free = frozenset()
            self.free_interrupts = False
            yield from self._combination(Execution(self.program, [chosen[place] for place in places]))

    def _possible(self, part: list[Trace], order: list[int], later: _Later) -> bool:
        """Whether the traces in `part` can be consistent with some choice of the later threads' traces.

        This searches for an execution of `part` alone. It leaves open the loads and fetches from `later.stored`, and
        the senders of all interrupts if `later.sends`. Adding events only adds pairs to the models' relations. So a
        cycle found here also exists in every execution of all threads that contains `part`, and False is definite.
        """
        # The depths of failures can be compared only among executions of all threads.
        depth, failure, complete = self.depth, self.failure, self.statistics.complete
        self.free, self.free_interrupts = later.stored, later.sends
        query, self.query = self.query, _ANYTHING
        found = next(self._combination(Execution(self.program, part, order[: len(part)])), None)
        self.query = query
        self.statistics.complete = complete
        if found is not None:
            self.depth, self.failure = depth, failure
        return found is not None

    def _combination(self, x: Execution) -> Iterator[Execution]:
        for address, value in self.query.memory.items():
            if address not in x.writes and self.program.initial(address) != value:
                return
        rows: Rows = []
        for trace, first in zip(x.traces, x.first, strict=True):
            rows += [row << first for row in _local_rows(self.model, trace, self.program)]
        self.journal.clear()
        ordered = self._stores_of_one_thread(x, rows)
        if ordered is None:
            return
        left = sorted(x.writes.keys() - x.co.keys())
        mark = len(self.journal)
        for entries in [{}] if self.free_interrupts else _senders(x):
            x.sent_by = entries
            del self.journal[mark:]
            start = self._add(x, ordered, self.model.interrupts(x), 0)
            if start is not None:
                yield from self._stores(x, start, left, 0)

    def _stores_of_one_thread(self, x: Execution, rows: Rows) -> Rows | None:
        """The order with the stores to each location that only one thread stores to, where coherence leaves no choice.

        None when it has a cycle, or when a final value is not the one that the query demands.
        """
        if "coWW" not in self.model.coherence:
            return rows
        for address in sorted(x.writes):
            writes = x.writes[address]
            if x.thread[writes[0]] != x.thread[writes[-1]]:
                continue
            if x.events[writes[-1]].value != self.query.memory.get(address, x.events[writes[-1]].value):
                return None
            x.co[address] = writes
            self.statistics.choices += 1
            more = self._add(x, rows, self.model.coherence_edges(x, address), 0)
            if more is None:
                return None
            rows = more
        return rows

    def _count(self) -> None:
        """Count a step; ScopeError when there were too many."""
        self.statistics.steps += 1
        if self.most is not None and self.statistics.steps > self.most:
            raise ScopeError(
                "the search was given up, since it takes too long: give it fewer loads, CPUs or interrupts"
            )

    def _add(self, x: Execution, rows: Rows, edges: Iterable[Named], depth: int) -> Rows | None:
        """The order with these edges added; None when it has a cycle."""
        self._count()
        without = self.model.without
        for edge in edges:
            if edge[0] in without:
                continue
            index, targets = edge[1], edge[2]
            row = rows[index]
            missing = targets & ~row
            if missing:
                reached = 0
                for target in bits(missing):
                    reached |= rows[target]
                bit = 1 << index
                if reached & bit:
                    self.statistics.cycles += 1
                    if depth > self.depth:
                        self.depth = depth
                        self.failure = (x, [*self.journal, edge], edge)
                    return None
                rows = [other | reached if other & bit else other for other in rows]
            elif targets >> index & 1:
                self.statistics.cycles += 1
                return None
            self.journal.append(edge)
        return rows

    def _stores(self, x: Execution, rows: Rows, addresses: Sequence[int], depth: int) -> Iterator[Execution]:
        """Choose the order of the stores to each location."""
        if not addresses:
            readers = sorted((*x.fetches, *x.reads))
            if self.free:
                readers = [read for read in readers if x.events[read].address not in self.free]
                x.missed = dict.fromkeys((*x.fetches, *x.reads), 0)
            yield from self._reads(x, rows, readers, 0, depth)
            return
        address = addresses[0]
        mark = len(self.journal)
        for order in self._orders(x, rows, x.writes[address]):
            if address in self.query.memory and x.events[order[-1]].value != self.query.memory[address]:
                continue
            x.co[address] = order
            self.statistics.choices += 1
            more = self._add(x, rows, self.model.coherence_edges(x, address), depth + 1)
            if more is not None:
                yield from self._stores(x, more, addresses[1:], depth + 1)
            del self.journal[mark:]
        x.co.pop(address, None)

    def _orders(self, x: Execution, rows: Rows, writes: list[int]) -> Iterator[list[int]]:
        if len(writes) == 1:
            yield list(writes)
            return
        coherent = "coWW" in self.model.coherence

        def extend(done: list[int], left: list[int]) -> Iterator[list[int]]:
            if not left:
                yield list(done)
            for write in left:
                others = [other for other in left if other != write]
                mine = x.thread[write]
                if coherent and any(other < write and x.thread[other] == mine for other in others):
                    continue
                if any(rows[other] >> write & 1 for other in others if x.thread[other] != mine):
                    continue
                yield from extend([*done, write], others)

        yield from extend([], writes)

    def _reads(self, x: Execution, rows: Rows, readers: list[int], number: int, depth: int) -> Iterator[Execution]:
        """Choose the store that each load and fetch reads."""
        if number == len(readers):
            x.chosen.clear()
            x.chosen_before.clear()
            yield from self._questions(x, rows, self.model.questions(x, self.query.orders), 0, depth)
            return
        read = readers[number]
        event = x.events[read]
        stores = x.co.get(event.address, [])
        mark = len(self.journal)
        initial = self.program.initial(event.address)
        newer = 0
        for place in range(len(stores) - 1, -2, -1):
            source = stores[place] if place >= 0 else -1
            value = x.events[source].value if source >= 0 else initial
            if value == event.value and (event.kind == "F" or self._coherent(x, read, place)):
                x.rf[read] = source
                x.missed[read] = newer
                self.statistics.choices += 1
                more = self._add(x, rows, self.model.reads_edges(x, read), depth + 1)
                if more is not None:
                    yield from self._reads(x, more, readers, number + 1, depth + 1)
                del self.journal[mark:]
            if source >= 0:
                newer |= 1 << source

    def _coherent(self, x: Execution, read: int, place: int) -> bool:
        """Whether a load may read the store at index `place` of the location's order (-1: the initial value)."""
        rules = self.model.coherence
        thread = x.thread[read]
        address = x.events[read].address
        stores = x.co.get(address, [])
        for other, write in enumerate(stores):
            if x.thread[write] != thread:
                continue
            if write < read and other > place and "coWR" in rules:
                return False
            if write > read and other == place and "coRW1" in rules:
                return False
            if write > read and other < place and "coRW2" in rules:
                return False
            if x.events[write].rmw >= 0 and x.first[thread] + x.events[write].rmw == read and "atomic" in rules:
                between = stores[place + 1 : other]
                if any(x.thread[one] != thread for one in between):
                    return False
        if "coRR" in rules:
            for earlier in x.earlier(read, "R", same_location=True):
                source = x.rf[earlier]
                if source >= 0 and stores.index(source) > place:
                    return False
        return True

    def _questions(
        self, x: Execution, rows: Rows, pairs: list[tuple[int, int]], number: int, depth: int
    ) -> Iterator[Execution]:
        """Choose the order of cache maintenance."""
        if number == len(pairs):
            x.succ = rows
            self.statistics.complete += 1
            if self.query.execution is None or self.query.execution(x):
                yield x
            return
        one, other = pairs[number]
        mark = len(self.journal)
        for first, second in ((one, other), (other, one)):
            if rows[second] >> first & 1:
                continue
            self.statistics.choices += 1
            before, after = x.chosen.get(first, 0), x.chosen_before.get(second, 0)
            x.chosen[first] = before | 1 << second
            x.chosen_before[second] = after | 1 << first
            more = self._add(x, rows, self.model.order_edges(x, first, second), depth + 1)
            if more is not None:
                yield from self._questions(x, more, pairs, number + 1, depth + 1)
            x.chosen[first], x.chosen_before[second] = before, after
            del self.journal[mark:]

    def explain(self) -> list[tuple[str, str, str]]:
        """The shortest cycle of the most complete attempt, by named relations."""
        if self.failure is None:
            return []
        x, journal, closing = self.failure
        edges = list(journal)
        for trace, first in zip(x.traces, x.first, strict=True):
            order = ThreadOrder(trace, self.program)
            edges += [(name, u + first, targets << first) for name, u, targets in self.model.local(order)]
        start = closing[1]
        came: dict[int, tuple[int, str]] = {}
        frontier = [start]
        while frontier and start not in came:
            reached = []
            for index in frontier:
                for name, source, targets in edges:
                    if source == index:
                        for target in bits(targets):
                            if target not in came:
                                came[target] = (index, name)
                                reached.append(target)
            frontier = reached
        path: list[tuple[str, str, str]] = []
        end = start
        while end in came and (end != start or not path):
            source, name = came[end]
            path.insert(0, (x.name(source), name, x.name(end)))
            end = source
        return path


def _local_rows(model: Model, trace: Trace, program: Program) -> Rows:
    """The transitively closed order of one thread, each event with itself; kept in `Trace.by_model`."""
    rows = trace.by_model.get(model)
    if rows is None:
        order = ThreadOrder(trace, program)
        closure = closed(order.size, ((index, targets) for _, index, targets in model.local(order)))
        rows = [row | 1 << index for index, row in enumerate(closure)]
        trace.by_model[model] = rows
    return rows


def _values(program: Program, events: Iterable[Event]) -> tuple[frozenset[tuple[int, int]], frozenset[tuple[int, int]]]:
    """The (address, value) pairs that a trace reads beside initial values, and those that it stores."""
    needs = frozenset(
        (event.address, event.value)
        for event in events
        if event.kind in ("R", "F") and event.value != program.initial(event.address)
    )
    gives = frozenset((event.address, event.value) for event in events if event.kind == "W")
    return needs, gives


@dataclass(frozen=True)
class _Later:
    """What the threads without a chosen trace could do: values and addresses stored, SGIs, ways to choose."""

    values: frozenset[tuple[int, int]]
    stored: frozenset[int]
    sends: bool
    choices: int


class _Tree:
    """The ways to choose one trace for each thread in which some trace stores each value that is read."""

    def __init__(self, program: Program, candidates: list[list[Trace]], count: Callable[[], None]) -> None:
        """`count` is called for each trace that is looked at."""
        self.count = count
        self.options = [[(trace, *_values(program, trace.events)) for trace in traces] for traces in candidates]
        later = [_Later(frozenset(), frozenset(), False, 1)]
        for options in reversed(self.options):
            last = later[-1]
            values = last.values.union(*(gives for _, _, gives in options))
            sends = last.sends or any(event.kind == "SGI" for trace, _, _ in options for event in trace.events)
            later.append(
                _Later(values, frozenset(address for address, _ in values), sends, last.choices * len(options))
            )
        self.later = later[::-1]

    def combinations(self, possible: Callable[[list[Trace], _Later], bool]) -> Iterator[list[Trace]]:
        """All combinations, without those whose first threads are not `possible` together.

        `possible` is asked when at least two threads are chosen and many choices are left.
        """

        def extend(
            chosen: list[Trace], needed: frozenset[tuple[int, int]], given: frozenset[tuple[int, int]]
        ) -> Iterator[list[Trace]]:
            number = len(chosen)
            if number == len(self.options):
                yield chosen
                return
            later = self.later[number]
            if number > 1 and later.choices >= _WORTH_A_LOOK and not possible(chosen, later):
                return
            later = self.later[number + 1]
            for trace, needs, gives in self.options[number]:
                self.count()
                all_given = given | gives
                missing = (needed | needs) - all_given
                if missing <= later.values:
                    yield from extend([*chosen, trace], missing, all_given)

        yield from extend([], frozenset(), frozenset())


def _senders(x: Execution) -> Iterator[dict[int, int]]:
    """For each interrupt taken, an SGI of another thread. A thread takes each SGI at most once."""

    def extend(number: int, chosen: dict[int, int]) -> Iterator[dict[int, int]]:
        if number == len(x.entries):
            yield dict(chosen)
            return
        entry = x.entries[number]
        thread = x.thread[entry]
        taken = {sent for other, sent in chosen.items() if x.thread[other] == thread}
        for sent in x.sgis:
            if x.thread[sent] != thread and sent not in taken:
                yield from extend(number + 1, {**chosen, entry: sent})

    yield from extend(0, {})

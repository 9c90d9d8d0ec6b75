"""The answers to the questions of a protocol file: SAFE, UNSAFE with an execution, or UNKNOWN with the reason.

Read on: protocol_file.py reads the file; properties.py has P1, P2 and P3; docs/proof.md has the argument for any number
of CPUs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from a64patch.errors import ScopeError
from a64patch.proof.cases import APART, TOGETHER, Case, done_at
from a64patch.proof.execution import Execution
from a64patch.proof.fetching import racy_words
from a64patch.proof.model import Model
from a64patch.proof.properties import STALE, TOLD, UNPREDICTABLE, query
from a64patch.proof.protocol_file import Ask, Equation, ProtocolFile, Site, parse
from a64patch.proof.prove import Counterexample, Verdict, models
from a64patch.proof.search import Query, search
from a64patch.proof.traces import Behaviours, Trace, behaviours

NEVER, POSSIBLE = "never", "possible"
MOST_STEPS = 2_000_000
"""The most steps of the searches for one question (search.Statistics): less than a minute."""
ASSUMPTIONS = (
    "the file has all that CPUs do with these words and cells, and the threads are interrupted where it says;",
    "caches and CPUs keep to the model and to issue {profile} of the manual's list;",
    "a CPU that waits does nothing meanwhile.",
)
"""What SAFE rests on, a clause each."""


@dataclass
class Answer:
    """The answer to one question. `reason` says why it is UNKNOWN; `broken` names the models that allow the harm.

    For `possible`, SAFE means that both models allow what is asked, and UNSAFE that one forbids it.
    """

    ask: Ask
    verdict: Verdict = Verdict.SAFE
    broken: list[str] = field(default_factory=list)
    reason: str = ""
    counterexample: Counterexample | None = None
    searches: int = 0
    seconds: float = 0.0


def read(text: str, name: str) -> list[ProtocolFile]:
    """The file, on a machine whose cache lines hold the first 16 words of a site, and on one with a line a word.

    FormatError for a text that is no protocol.
    """
    return [parse(text, name, line) for line in (TOGETHER, APART)]


def answers(
    files: Sequence[ProtocolFile], of: Sequence[Model] | None = None, profile: str = "2018"
) -> Iterator[Answer]:
    """The answer to each question, in the file's order. `files` is from `read`.

    SAFE needs each model (both when `of` is None), each size of a line, and each watched thread.
    """
    known: dict[int, Behaviours] = {}
    unreached: dict[tuple[int, str], set[int]] = {}
    for number, ask in enumerate(files[0].asks):
        started = time.perf_counter()
        answer = Answer(ask)
        asker = _Asker(answer, of or models(), profile, known, unreached)
        for file in files:
            try:
                asker.ask(file, file.asks[number])
            except ScopeError as error:
                asker.unknown(str(error))
        if answer.broken:
            answer.verdict = Verdict.UNSAFE
        elif answer.reason:
            answer.verdict = Verdict.UNKNOWN
        answer.seconds = time.perf_counter() - started
        yield answer


def assumptions(file: ProtocolFile, found: Sequence[Answer], profile: str) -> list[str]:
    """What the answers SAFE rest on; empty without one."""
    if all(answer.verdict is not Verdict.SAFE for answer in found):
        return []
    kept = [f"no CPU is interrupted inside {name};" for name, site in file.sites.items()
            if site.address + 4 in file.keep_out]  # fmt: skip
    return [*kept, *(clause.format(profile=profile) for clause in ASSUMPTIONS)]


class _Asker:
    def __init__(
        self, answer: Answer, of: Sequence[Model], profile: str, known: dict[int, Behaviours],
        unreached: dict[tuple[int, str], set[int]],
    ) -> None:  # fmt: skip
        self.answer = answer
        self.of = of
        self.profile = profile
        self.known = known
        self.unreached = unreached
        self.left = MOST_STEPS

    def unknown(self, why: str) -> None:
        """Note the first reason why there is no complete answer."""
        self.answer.reason = self.answer.reason or why

    def ask(self, file: ProtocolFile, ask: Ask) -> None:
        if id(file.program) not in self.known:
            self.known[id(file.program)] = behaviours(file.program)
        known = self.known[id(file.program)]
        if why := _not_general(file, known):
            self.unknown(why)
        if ask.kind in (NEVER, POSSIBLE):
            watched = []
            self._condition(file, ask, known)
        else:
            watched = self._properties(file, ask, known)
        if ask.kind != POSSIBLE and not self.answer.broken:
            self._patched(file, ask, known)
            if watched and ask.kind != STALE:
                self._executed(file, ask, watched, known)

    def _properties(self, file: ProtocolFile, ask: Ask, known: Behaviours) -> list[int]:
        """Ask about each watched thread. Returns the threads that the question is about."""
        watched = [thread for thread in ask.threads if self._meets(file, ask, known.traces[thread])]
        if not watched:
            where = f" the site {ask.site}" if ask.site else " code that is patched"
            self.unknown(f"no thread that is watched executes{where}, so nothing was asked")
        for thread in watched:
            self._property(file, ask, thread, known)
        return watched

    def _executed(self, file: ProtocolFile, ask: Ask, watched: Sequence[int], known: Behaviours) -> None:
        """Note when no watched thread ever executes a word that was patched: then nothing was asked."""
        for model in self.of:
            for thread in watched:
                case = _case(file, ask, thread)
                if self._search(case, model, _does(case, thread, _executes_new), known) is not None:
                    break
            else:
                names = " or ".join(file.program.threads[thread].name for thread in watched)
                place = ask.site or "any site"
                self.unknown(f"{names} never executes a new word of {place}, under {model.name}, so nothing was asked")

    def _patched(self, file: ProtocolFile, ask: Ask, known: Behaviours) -> None:
        """Note when no execution reaches a store to the site, or without a site to any: what follows was not asked."""
        stores = {address: site for address, site in file.writes.items() if ask.site in ("", site)}
        for site in file.sites.values():
            inside = range(site.address, site.address + 4 * len(site.old))
            stores |= {event.pc: site.name for traces in known.traces for trace in traces for event in trace.events
                       if event.kind == "W" and event.address in inside and ask.site in ("", site.name)}  # fmt: skip
        for model in self.of:
            left = self._unreached(file, model, known)
            for address in sorted(left & stores.keys()):
                self.unknown(
                    f"no execution reaches the store to {stores[address]} in line {file.lines[address]}, under"
                    f" {model.name}: a CPU waits for ever, or the line is never executed"
                )

    def _unreached(self, file: ProtocolFile, model: Model, known: Behaviours) -> set[int]:
        """The addresses of the stores to code that no execution reaches."""
        key = (id(file.program), model.name)
        if key in self.unreached:
            return self.unreached[key]
        left = set(file.writes) | {event.pc for traces in known.traces for trace in traces for event in trace.events
                                   if event.kind == "W" and event.address in file.program.code}  # fmt: skip
        case = _case(file, file.asks[0], 0)
        for number, traces in enumerate(known.traces):
            # First all stores of a thread at once: few protocols have stores that exclude each other.
            mine = left.intersection(address for trace in traces for address, _ in trace.path)
            for group in [mine, *({address} for address in sorted(mine))]:
                if group & left:
                    found = self._search(case, model, _does(case, number, _executes(group)), known)
                    if found:
                        left.difference_update(address for trace in found.traces for address, _ in trace.path)
        self.unreached[key] = left
        return left

    def _meets(self, file: ProtocolFile, ask: Ask, traces: Sequence[Trace]) -> bool:
        """Whether the question is about this thread: it executes words of the site, or for P3 any patched word."""
        if not ask.site:
            return any(event.kind == "F" for trace in traces for event in trace.events)
        site = file.sites[ask.site]
        inside = range(site.address, site.address + 4 * len(site.old), 4)
        return any(address in inside for trace in traces for address, _ in trace.path)

    def _property(self, file: ProtocolFile, ask: Ask, thread: int, known: Behaviours) -> None:
        case = _case(file, ask, thread)
        name = file.program.threads[thread].name
        for model in self.of:
            if ask.kind == STALE and self._search(case, model, query(case, TOLD, model, self.profile), known) is None:
                self.unknown(f"{name} never reaches {file.program.name_of(ask.label)}, under {model.name}")
            elif ask.kind == STALE and self._search(case, model, _does(case, thread, _comes_after), known) is None:
                self.unknown(
                    f"{name} never executes {ask.site} after {file.program.name_of(ask.label)}, under {model.name}"
                )
            if ask.kind == UNPREDICTABLE and not racy_words(file.program, known, self.profile):
                # The search finds nothing. It says whether an execution may have been missed.
                self._search(case, model, Query(trace=lambda number, trace: False), known)
                continue
            found = self._search(case, model, query(case, ask.kind, model, self.profile), known)
            if found is not None:
                self._broken(ask.kind, model, case, found)

    def _condition(self, file: ProtocolFile, ask: Ask, known: Behaviours) -> None:
        case = _case(file, ask, 0)
        for model in self.of:
            found = self._search(case, model, condition(case, ask.equations), known)
            if ask.kind == NEVER and found is not None:
                self._broken(NEVER, model, case, found)
            elif ask.kind == POSSIBLE and found is None and not self.answer.reason:
                self.answer.broken = sorted({*self.answer.broken, model.name})
        if ask.kind == NEVER and not self.answer.broken and (why := _never_written(file, ask.equations, known)):
            self.unknown(why)

    def _search(self, case: Case, model: Model, what: Query, known: Behaviours) -> Execution | None:
        self.answer.searches += 1
        try:
            result = search(case.program, model, what, known, self.left)
        except ScopeError:
            self.left = 0
            raise
        self.left -= result.statistics.steps
        if result.left_out:
            self.unknown(result.left_out)
        return result.witness

    def _broken(self, kind: str, model: Model, case: Case, found: Execution) -> None:
        self.answer.broken = sorted({*self.answer.broken, model.name})
        if self.answer.counterexample is None:
            self.answer.counterexample = Counterexample(kind, model, case, found)


def condition(case: Case, equations: Sequence[Equation]) -> Query:
    """The query for executions that end so, and that the protocol allows."""
    memory = {one.place: one.value for one in equations if one.thread < 0 and one.equal}
    others = [one for one in equations if one.thread < 0 and (not one.equal or memory[one.place] != one.value)]

    def accept(number: int, trace: Trace) -> bool:
        return case.possible(trace) and all(_holds(one, trace) for one in equations if one.thread == number)

    def ends(x: Execution) -> bool:
        return all((x.value_at_end(one.place) == one.value) == one.equal for one in others)

    return Query(trace=accept, memory=memory, execution=ends if others else None)


def _does(case: Case, thread: int, what: Callable[[Case, Trace], bool]) -> Query:
    """The query for executions that the protocol allows, and in which the thread's trace has this property."""
    return Query(trace=lambda number, trace: case.possible(trace) and (number != thread or what(case, trace)))


def _executes_new(case: Case, trace: Trace) -> bool:
    return any(address in case.words and word != case.words[address][0] for address, word in trace.path)


def _comes_after(case: Case, trace: Trace) -> bool:
    """Whether the CPU executes a word of the site after it was told."""
    done = case.done(trace)
    return done is not None and any(address in case.words for address, _ in trace.path[done:])


def _executes(places: set[int]) -> Callable[[Case, Trace], bool]:
    return lambda case, trace: places <= {address for address, _ in trace.path}


def _holds(one: Equation, trace: Trace) -> bool:
    if one.reached:
        return any(address == one.place for address, _ in trace.path)
    return (trace.register(one.place) == one.value) == one.equal


def _case(file: ProtocolFile, ask: Ask, thread: int) -> Case:
    sites: Sequence[Site] = [file.sites[ask.site]] if ask.site else list(file.sites.values())
    words = {
        site.address + 4 * index: pair
        for site in sites
        for index, pair in enumerate(zip(site.old, site.new, strict=True))
        if pair[0] != pair[1] or ask.kind == STALE  # Another word than both may be stored to a word that stays.
    }
    spans = tuple(range(site.address, site.address + 4 * len(site.old)) for site in sites)
    mixtures = tuple(
        {sites[0].address + 4 * index: age for index, age in enumerate(mixture)} for mixture in ask.mixtures
    )
    told = done_at(ask.label, ask.times) if ask.kind == STALE else ("start", 0)
    return Case(
        file.title or file.name, file.program.threads[thread].name, file.program, thread, words, {}, told,
        file.keep_out, spans, mixtures,
    )  # fmt: skip


def _not_general(file: ProtocolFile, known: Behaviours) -> str:
    """Why the searched CPUs do not stand for all CPUs with their programs; empty when they do.

    - The first copy of a thread is watched for all copies. So no CPU may tell copies apart by their own memory.
    - A CPU stands for any number where it changes nothing for other CPUs but its own answer: then all but one can be
      deleted from an execution (docs/proof.md).
    """
    for number, traces in enumerate(known.traces):
        name = file.program.threads[number].name
        mine = file.own_of(number)
        others = file.own - mine
        for event in (event for trace in traces for event in trace.events):
            place = file.program.name_of(event.address)
            if event.kind in ("R", "W") and event.address in others and event.pc not in file.gathers:
                return (
                    f"{name} {'reads' if event.kind == 'R' else 'writes'} {place} without `gather`: use a `data` cell"
                )
            if number in file.many and event.kind == "W" and event.address not in mine:
                return f"{name} writes to {place}, so one does not stand for any number: write `thread {name}, 2`"
            if number in file.many and event.kind == "SGI":
                return f"{name} interrupts others, so one does not stand for any number: write `thread {name}, 2`"
    return ""


def _never_written(file: ProtocolFile, equations: Sequence[Equation], known: Behaviours) -> str:
    """A clause about a register or cell of the condition that no thread ever writes; empty without one."""
    for one in equations:
        if one.thread < 0:
            stored = any(event.kind == "W" and event.address == one.place
                         for traces in known.traces for trace in traces for event in trace.events)  # fmt: skip
            if not stored:
                return f"no thread stores to {file.program.name_of(one.place)}, so nothing was asked"
        elif not one.reached and not any(one.place in trace.registers for trace in known.traces[one.thread]):
            name = file.program.threads[one.thread].name
            return f"{name} never writes x{one.place}, so nothing was asked"
    return ""

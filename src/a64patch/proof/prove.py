"""Is this patch, carried out by this protocol, safe on any number of CPUs? SAFE, UNSAFE with an execution, or UNKNOWN.

Read on: timeline.py tells a counterexample; docs/proof.md argues why one executor and two words are enough.

The answer is SAFE only when every chosen model forbids every way to break every property.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from itertools import permutations, product

from a64patch.a64.cmodx import hotpatch_safe
from a64patch.errors import ScopeError
from a64patch.oneline import shown, some, words
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.cases import APART, BRK, MOST_WORDS, TOGETHER, Case, Site, build
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.execution import Execution
from a64patch.proof.model import Model
from a64patch.proof.properties import PROPERTIES, TOLD, TORN, UNPREDICTABLE, may_race, query
from a64patch.proof.search import Result, search
from a64patch.proof.semantics import flow
from a64patch.proof.traces import Behaviours, behaviours
from a64patch.protocols import PROTOCOLS, Protocol

ASSUMPTIONS = (
    "no sleeping or preempted task, NMI or SDEI handler is inside a site of several words: a stop looks at CPUs only;",
    "caches and CPUs keep to the model and to issue {profile} of the manual's list, and maintenance covers each line of"
    " every CPU;",
    "whoever waits for the patch by a flag reads it, branches on it and executes an ISB before the new code.",
)
"""What SAFE rests on, a clause each, with the profile of the question."""


Note = Callable[[str], None]
_FEW = 2
"""So many changed words may be new in the program that is searched before the complete one: P1 is about two words."""
_RECENT = 4
"""So many programs are kept."""


class Verdict(Enum):
    """The answer. UNKNOWN is never a yes."""

    SAFE = "SAFE"
    UNSAFE = "UNSAFE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class Question:
    """Sites and how they are patched. The fields are those of `cases.build`; `profile` is one of a64/cmodx.py."""

    protocol: str
    sites: tuple[Site, ...]
    idc: bool = False
    dic: bool = False
    broadcast: bool = True
    written_for: tuple[bool, bool] | None = None
    profile: str = "2018"
    omit: frozenset[str] = frozenset()
    executors: int | None = None
    """The number of other CPUs, asked about without reduction; None asks about any number of other CPUs."""
    unanswered: tuple[str, ...] = ()
    """Steps that the target may do or not: nobody answers for them."""
    custom: Protocol | None = None
    """Steps in place of those of PROTOCOLS[protocol]. `protocol` is the kind of protocol that they are."""
    unread: str = ""
    """Why the steps are not known, in a sentence: then the answer is UNKNOWN."""

    @property
    def followed(self) -> str | Protocol:
        """The protocol as `cases.build` takes it."""
        return self.custom or self.protocol

    def __repr__(self) -> str:
        return shown(self, str(self))

    def __str__(self) -> str:
        """The sites and the protocol for people."""
        sites = some((f"{words(site.old)} -> {words(site.new)}" for site in self.sites), len(self.sites))
        without = f" without {', '.join(sorted(self.omit))}" if self.omit else ""
        cpus = "any number of CPUs" if self.executors is None else f"{self.executors} other CPUs"
        return f"{sites} by {self.protocol}{without}, {cpus}"


Observer = Callable[[Question, Case, str, Model, bool], None]
"""Question, case, property, model, and whether a counterexample was found."""


@dataclass(frozen=True)
class Counterexample:
    """An execution that a model allows and that breaks a property."""

    property: str
    model: Model
    case: Case
    execution: Execution

    def __repr__(self) -> str:
        return shown(self, f"to {self.property} under {self.model.name}: {len(self.execution.order())} events")


@dataclass
class Proof:
    """The result for a question."""

    question: Question
    verdict: Verdict = Verdict.SAFE
    reason: str = ""
    """Why there is no complete answer: then the verdict is UNKNOWN, or UNSAFE if a counterexample was found."""
    broken: dict[str, set[str]] = field(default_factory=dict)
    """For each broken property, the names of the models that allow it to be broken."""
    counterexample: Counterexample | None = None
    programs: int = 0
    searches: int = 0
    seconds: float = 0.0

    @property
    def assumptions(self) -> list[str]:
        """What the verdict rests on where it is SAFE; else empty."""
        if self.verdict is not Verdict.SAFE:
            return []
        return [clause.format(profile=self.question.profile) for clause in ASSUMPTIONS]

    def __repr__(self) -> str:
        broken = f"({', '.join(sorted(self.broken))} broken)" if self.broken else ""
        reason = f"({self.reason})" if self.reason else ""
        return shown(self, f"{self.verdict.value}: {self.question}", broken, reason)


def models(which: str = "both") -> tuple[Model, ...]:
    """The models by name: `arm`, `esop` or `both`."""
    return {"arm": (ArmNow(),), "esop": (Esop2020(),), "both": (ArmNow(), Esop2020())}[which]


def prove(
    question: Question, of: Sequence[Model] | None = None, properties: Sequence[str] = tuple(PROPERTIES),
    *, hasty: bool = False, observe: Observer | None = None,
) -> Proof:  # fmt: skip
    """The answer under these models (both when None). Deterministic.

    With `hasty`, a search of one site ends at its first counterexample: the verdict is the same, but `Proof.broken` has
    one property only. `observe` is called after each search for a counterexample: question, case, property, model, and
    whether one was found.

    For any number of CPUs, each site is asked about alone, since P1 is about the words of one site. RequestError for a
    senseless question. When the models do not cover the question, or it is too large, the answer is UNKNOWN, unless a
    counterexample is found.
    """
    started = time.perf_counter()
    proof = Proof(question)
    if question.unread:
        proof.verdict, proof.reason = Verdict.UNKNOWN, question.unread
        return proof
    prover = _Prover(proof, models() if of is None else of, hasty, observe)
    if question.unanswered:
        prover.unknown(f"nobody answers for {', '.join(question.unanswered)} on this target")
    try:
        if question.executors is None:
            for site in dict.fromkeys(question.sites):
                prover.site(site, properties)
        else:
            prover.unreduced(question.sites, question.executors, properties)
    except ScopeError as error:
        prover.unknown(str(error))
    if proof.broken:
        proof.verdict = Verdict.UNSAFE
    elif proof.reason:
        proof.verdict = Verdict.UNKNOWN
    proof.seconds = time.perf_counter() - started
    return proof


def remedies(proof: Proof, of: Sequence[Model] | None = None) -> list[str]:
    """The remedies for a counterexample: left-out steps to put back, or else other protocols. Each alone is enough.

    Each remedy is tried: with it, the question whether the same property can be broken must be SAFE.
    """
    found = proof.counterexample
    if found is None:
        return []
    question, wanted = proof.question, [found.property]
    steps = sorted(question.omit)
    helpful = [name for name in steps if _holds(replace(question, omit=question.omit - {name}), of, wanted)]
    if helpful:
        return helpful
    if steps and _holds(replace(question, omit=frozenset()), of, wanted):
        return [" and ".join(steps)]
    others = [
        replace(question, protocol=name, custom=None, omit=frozenset())
        for name in PROTOCOLS
        if name != question.protocol or question.custom
    ]
    return [f"protocol {other.protocol}" for other in others if _holds(other, of, wanted)]


def _holds(question: Question, of: Sequence[Model] | None, properties: Sequence[str]) -> bool:
    return prove(question, of, properties, hasty=True).verdict is Verdict.SAFE


@dataclass(frozen=True)
class _Form:
    """The arguments of `cases.build` that differ between the programs of one question."""

    sites: tuple[Site, ...]
    executors: int
    line: int
    falls_through: bool = False
    free: int = MOST_WORDS
    enter: int = 0
    returns: int = 0
    simple: bool = False


@dataclass(eq=False)
class _Asked:
    """A case, and its behaviours, which are found only when they are needed."""

    case: Case

    @cached_property
    def behaviours(self) -> Behaviours:
        """The shortest traces of each thread first: they make the shortest counterexample, and often the first one.

        ScopeError when the program is too large or not covered.
        """
        found = behaviours(self.case.program)
        for traces in found.traces:
            traces.sort(key=lambda trace: len(trace.events))
        return found


class _Prover:
    """Builds and searches the programs of one question, and keeps the results in `proof`."""

    def __init__(self, proof: Proof, of: Sequence[Model], hasty: bool = False, observe: Observer | None = None) -> None:
        self.proof = proof
        self.observe = observe
        self.hasty = hasty
        """Stop at the first counterexample, and look for it before all else."""
        self.of = of
        self.question = proof.question
        self.recent: dict[_Form, _Asked] = {}
        self.told = set[_Form]()

    def unknown(self, why: str) -> None:
        """Note the first reason why there is no complete answer."""
        self.proof.reason = self.proof.reason or why

    def site(self, site: Site, properties: Sequence[str]) -> None:
        """For any number of CPUs: search the reduced programs. When one breaks a property, search the complete site.

        Reduced programs of the same shape have the same answer. The complete site is asked once about each property.
        """
        site = _headed(site)
        # BRK in front stands for the words behind it only where no word goes back.
        guarded = self.question.protocol == "brk" and (site.comes_back or _loops(site))
        asked = set[tuple[object, ...]]()
        completed = set[tuple[str, int, int, str]]()
        for name, reduced, line in _reduced(site, self.question.protocol, properties):
            for executors in (1, 0):
                left = [
                    model
                    for model in self.of
                    if model.name not in self.proof.broken.get(name, ())
                    and (name, line, executors, model.name) not in completed
                ]
                key = (name, self._shape(reduced, name), line, executors)
                if key in asked or not left:
                    continue
                asked.add(key)
                form = _Form((reduced,), executors, line, falls_through=True)
                if not self.hasty:
                    self._require_told(form)
                broken = left if guarded and name == TORN else [model for model in left if self._may(form, name, model)]
                completed |= {(name, line, executors, model.name) for model in broken}
                self._complete(site, name, line, executors, broken)
                if self.hasty:
                    if self.proof.broken:
                        return
                    self._require_told(form)

    def _shape(self, site: Site, name: str) -> tuple[object, ...]:
        """All that the answer for a reduced program depends on, apart from the values of its words.

        Each word of a reduced program falls through, so only P3 looks at values: at which words may race.
        """
        pairs = list(zip(site.old, site.new, strict=True))
        races: list[bool] = []
        if name == UNPREDICTABLE:
            guard = (BRK,) if self.question.protocol == "brk" else ()
            for pair in pairs:
                races += (
                    bool(hotpatch_safe(one, other, self.question.profile))
                    for one, other in permutations((*pair, *guard), 2)
                )
        changed = tuple(old != new for old, new in pairs)
        return changed, site.head, site.comes_back, site.kept_out, tuple(races)

    def _complete(self, site: Site, name: str, line: int, executors: int, left: list[Model]) -> None:
        """Ask about all words of the site, under the models in `left`.

        If the program is too large, only the first two changed words may be new. A property is about one or two
        fetches. A CPU may enter at the first. The shortest way to the second, or out of the site and back to the
        second, has each word once: without longer ways nothing is missed.
        """
        narrowed = False
        # First without coming back, which is much less to search.
        for returns, enter in product(range(1 + site.comes_back), range(len(site.old))):
            if not left:
                return
            form = _Form((site,), executors, line, enter=enter, returns=returns, simple=True)
            narrow = self._asked(replace(form, free=_FEW))
            whys: list[str] = []
            left = self._holding(narrow, name, left, whys.append)
            if narrow.case.program.pinned and left:
                whole = self._asked(form)
                try:
                    _ = whole.behaviours
                except ScopeError:
                    narrowed = True
                else:
                    whys = []
                    left = self._holding(whole, name, left, whys.append)
            for why in whys:
                self.unknown(why)
        if left and narrowed:
            self.unknown(f"{name} may be broken, but the site has too many words to ask about all of them")

    def unreduced(self, sites: Sequence[Site], executors: int, properties: Sequence[str]) -> None:
        """For this number of other CPUs, and for the patching CPU itself: search all sites together."""
        sites = [_headed(site) for site in sites]
        for count in dict.fromkeys((executors, 0)):
            for line in (TOGETHER, APART):
                form = _Form(tuple(sites), count, line)
                self._require_told(form)
                for name in properties:
                    for model in self.of:
                        self._ask(self._asked(form), name, model, self.unknown)
        # Nobody came back into a site there: that is asked with one other CPU.
        for site in dict.fromkeys(sites):
            if site.comes_back and TORN in properties:
                self.site(site, [TORN])

    def _asked(self, form: _Form) -> _Asked:
        """The case of this form. The most recent ones are kept with their behaviours."""
        found = self.recent.pop(form, None)
        if found is None:
            question = self.question
            found = _Asked(
                build(
                    question.followed, form.sites, executors=form.executors, idc=question.idc, dic=question.dic,
                    broadcast=question.broadcast, written_for=question.written_for, line=form.line, omit=question.omit,
                    falls_through=form.falls_through, free=form.free, enter=form.enter, returns=form.returns,
                    simple=form.simple,
                )
            )  # fmt: skip
            self.proof.programs += 1
            if len(self.recent) >= _RECENT:
                del self.recent[next(iter(self.recent))]
        self.recent[form] = found
        return found

    def _result(self, asked: _Asked, name: str, model: Model, note: Note) -> Result | None:
        """The search result with a counterexample; None when the model forbids every counterexample.

        `note` gets the reason why an execution may have been missed.
        """
        case = asked.case
        if name == UNPREDICTABLE and may_race(case, self.question.profile):
            return None
        self.proof.searches += 1
        result = search(case.program, model, query(case, name, model, self.question.profile), asked.behaviours)
        if result.left_out:
            note(f"the site has a loop: {result.left_out}")
        if self.observe and name != TOLD:
            self.observe(self.question, case, name, model, result.allowed)
        return result if result.allowed else None

    def _may(self, form: _Form, name: str, model: Model) -> bool:
        """Whether an execution of this form breaks the property, or in TOLD is told.

        It first looks where only few words may be new: pinning the others only leaves out executions.
        """
        narrow = self._asked(replace(form, free=_FEW))
        whys: list[str] = []
        found = self._result(narrow, name, model, whys.append)
        if found is None and narrow.case.program.pinned:
            found = self._result(self._asked(form), name, model, self.unknown)
        else:
            for why in whys:
                self.unknown(why)
        return found is not None

    def _require_told(self, form: _Form) -> None:
        """UNKNOWN when the watched CPU can never be told that patching is done: nothing is proved then."""
        if form in self.told:
            return
        self.told.add(form)
        for model in self.of:
            if not self._may(form, TOLD, model):
                title = self._asked(form).case.title
                self.unknown(f"{title} can never be told that patching is done, under {model.name}")

    def _holding(self, asked: _Asked, name: str, of: Sequence[Model], note: Note) -> list[Model]:
        """The models under which the case keeps the property; none after a counterexample when `hasty`."""
        holding = []
        for model in of:
            if not self._ask(asked, name, model, note):
                holding.append(model)
            elif self.hasty:
                return []
        return holding

    def _ask(self, asked: _Asked, name: str, model: Model, note: Note) -> bool:
        """Whether the case breaks the property under the model; a broken property is noted. `note` as in `_result`."""
        result = self._result(asked, name, model, note)
        if result is None:
            return False
        assert result.witness is not None
        self.proof.broken.setdefault(name, set()).add(model.name)
        if self.proof.counterexample is None:
            self.proof.counterexample = Counterexample(name, model, asked.case, result.witness)
        return True


def _headed(site: Site) -> Site:
    """The same site with its first changed word as the head."""
    return replace(site, head=next(n for n, word in enumerate(site.old) if word != site.new[n]))


def _reduced(site: Site, protocol: str, properties: Sequence[str]) -> Iterator[tuple[str, Site, int]]:
    """The smaller questions that together answer for the complete site: property, reduced site, size of a line.

    - P2 and P3 are about one fetch, so one word is enough. With the protocol brk, the first changed word comes too,
      since it guards the others.
    - P1 is about two words in the order of execution. A site that can loop may also execute them in the other order.
      With the protocol brk, P1 takes all words, since the guard matters to every pair.
    """
    changed = [index for index in range(len(site.old)) if site.old[index] != site.new[index]]
    head = changed[0]
    for name in properties:
        if name == TORN and protocol == "brk":
            yield from ((TORN, site, line) for line in (TOGETHER, APART) if len(changed) > 1)
        elif name == TORN:
            yield from ((TORN, reduced, line) for reduced in _pairs(site, changed) for line in (TOGETHER, APART))
        elif protocol == "brk" and len(changed) > 1:
            for index in changed[1:]:
                yield from ((name, _part(site, head, index), line) for line in (TOGETHER, APART))
        else:
            yield from ((name, _part(site, index), TOGETHER) for index in changed)


def _pairs(site: Site, changed: Sequence[int]) -> Iterator[Site]:
    """The pairs of changed words for P1. Each word falls through, so one pair stands for all pairs."""
    if len(changed) > 1:
        pair = _part(site, *changed[:2])
        yield pair
        if site.comes_back or _loops(site):
            yield replace(pair, old=pair.old[::-1], new=pair.new[::-1], head=1)


def _part(site: Site, *indexes: int) -> Site:
    """A site of these words. Nobody can come back into the middle of one word."""
    return replace(
        site, old=tuple(site.old[index] for index in indexes), new=tuple(site.new[index] for index in indexes), head=0,
        comes_back=site.comes_back and len(indexes) > 1,
    )  # fmt: skip


def _loops(site: Site) -> bool:
    """Whether some word of the site, old or new, may jump back inside the site."""
    return any(
        op.kind == "anywhere" or (op.kind in ("jump", "either") and -4 * index <= op.offset <= 0)
        for words in (site.old, site.new)
        for index, op in enumerate(map(flow, words))
    )

"""The questions that a patch raises about its sites, and their proofs. It joins patch/, which plans, and proof/.

It may know both rooms; neither of them knows the other.
Read on: proof/prove.py answers a question; `prove` is what users import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from a64patch.errors import RequestError
from a64patch.oneline import shown, some

if TYPE_CHECKING:
    from a64patch.patch.asmdiff import AsmDiff, Hunk, Line
    from a64patch.patch.plan import Plan
    from a64patch.proof.cases import Site
    from a64patch.proof.model import Model
    from a64patch.proof.prove import Observer, Proof, Question, Verdict
    from a64patch.protocols import Doer, Machine, Method, Step
    from a64patch.targets.base import Target
    from a64patch.targets.section import Change

    Maker = Callable[[tuple[Site, ...]], Question]

_FAR = 1 << 66
"""Bytes between made-up addresses: more than between any two real ones."""
_UNKNOWN = 0
"""UDF #0, which a proof takes for everything that a word may be."""
MOST_QUESTIONS = 500
"""Distinct sites of one patch that are proved; about 20 ms each."""


@dataclass(frozen=True)
class Asked:
    """A question, and the places that raise it."""

    question: Question
    places: tuple[str, ...]
    """Sites for people; empty for words that belong to no patch."""
    proof: Proof | None
    """None when there were MOST_QUESTIONS before it."""

    def __repr__(self) -> str:
        places = some(self.places, len(self.places))
        return shown(self, f"{self.verdict.value}: {self.question}", f"at {places}" if places else "")

    @property
    def verdict(self) -> Verdict:
        """The verdict of the proof; UNKNOWN without a proof."""
        from a64patch.proof.prove import Verdict

        return Verdict.UNKNOWN if self.proof is None else self.proof.verdict


@dataclass(frozen=True)
class Setting:
    """How a patch is asked about, apart from its words."""

    protocol: str | None = None
    """A key of protocols.PROTOCOLS; None takes the plan's method, or the choice of `patch_text` without a plan."""
    profile: str = "2018"
    """The issue of the manual's list for property P3."""
    idc: bool = False
    dic: bool = False
    """CTR_EL0.IDC and DIC of the machine. A target's own properties are added."""
    omit: frozenset[str] = frozenset()
    """Names of steps that are left out."""
    executors: int | None = None
    """The number of other CPUs, asked about without cutoff; None asks about any number."""

    def __post_init__(self) -> None:
        from a64patch.a64.cmodx import PROFILES

        if self.profile not in PROFILES:
            raise RequestError(f"there is no profile {self.profile!r}: choose one of {', '.join(PROFILES)}")
        if self.executors is not None and self.executors < 1:
            raise RequestError(f"{self.executors} executors: give at least one, or leave it out for any number")

    def by_words(
        self, changes: Sequence[Change], spans: Sequence[tuple[int, int]], method: Method | None = None
    ) -> str:
        """The chosen protocol, else `method`, else that of `patch_text` on a machine that can do everything."""
        from a64patch.patch.text import method_for
        from a64patch.targets.base import Capabilities

        if self.protocol is not None:
            return self.protocol
        if method is not None:
            return method
        able = Capabilities("machine", 2, True, True, True, True)
        return method_for(able, changes, spans, self.profile)[0]

    def anywhere(self, protocol: str) -> Maker:
        """Questions about a protocol on any machine of this kind."""
        from a64patch.proof.prove import Question

        def make(sites: tuple[Site, ...]) -> Question:
            return Question(
                protocol, sites, self.idc, self.dic, profile=self.profile, omit=self.omit, executors=self.executors
            )

        return make

    def on(self, target: Target, protocol: str) -> Maker:
        """Questions about a protocol on this target, without the steps that the target does not do."""
        from a64patch.proof.cases import machine_of
        from a64patch.proof.prove import Question
        from a64patch.protocols import BROADCAST, DIC, IDC, PROTOCOLS, Doer

        machine: Machine = machine_of(self.idc, self.dic, False) | target.machine()
        steps = [(step.name, doer_of(target, step)) for step in PROTOCOLS[protocol].on(machine)]
        left_out = self.omit | {name for name, doer in steps if doer is Doer.NOBODY}
        unanswered = tuple(dict.fromkeys(name for name, doer in steps if doer is Doer.UNKNOWN))

        def make(sites: tuple[Site, ...]) -> Question:
            return Question(
                protocol, sites, IDC in machine, DIC in machine, BROADCAST in machine, None, self.profile, left_out,
                self.executors, unanswered,
            )  # fmt: skip

        return make


def prove(
    patch: AsmDiff | Plan,
    target: Target | None = None,
    *,
    protocol: str | None = None,
    profile: str | None = None,
    idc: bool = False,
    dic: bool = False,
    omit: Iterable[str] = (),
    executors: int | None = None,
    fuzz: bool = False,
    model: str = "both",
) -> list[Asked]:
    """The proof of each distinct site of a patch, as `a64patch prove PATCH [TARGET]`; empty when no word changes.

    - A plan needs the target that it was made for. A patch may have a target: then it is planned first.
    - Without a target the words of the patch decide, for a machine that can kick and stop its CPUs.
    - `profile` is by default that of the plan, or 2018.
    - `model` is `arm`, `esop` or `both`. The other options are the fields of Setting; `fuzz` is for `make_plan`.

    A patch is safe when every `Asked.verdict` is SAFE. UNKNOWN is never a yes.

    Errors: RequestError for a plan without its target, and for options that do not exist; those of `make_plan`; without
    a target, PatchFormatError for a line that has no word.
    """
    from a64patch.patch.plan import Plan, make_plan
    from a64patch.proof.prove import models

    if model not in ("arm", "esop", "both"):
        raise RequestError(f"there is no model {model!r}: choose arm, esop or both")
    profile = profile or (patch.profile if isinstance(patch, Plan) else "2018")
    setting = Setting(protocol, profile, idc, dic, frozenset(omit), executors)
    if isinstance(patch, Plan):
        if target is None:
            raise RequestError("the proof of a plan needs its target: prove(plan, target)")
        questions = of_plan(patch, target, setting)
    elif target is not None:
        questions = of_plan(make_plan(patch, target, fuzz=fuzz, profile=profile), target, setting)
    else:
        questions = of_patch(patch, setting)
    return ask(questions, models(model))


def ask(
    questions: dict[Question, list[str]],
    of: Sequence[Model],
    advance: Callable[[], object] = lambda: None,
    observe: Observer | None = None,
) -> list[Asked]:
    """Prove each question, MOST_QUESTIONS at most, and call `advance` after each. `observe` is for `proof.prove`."""
    from a64patch.proof.prove import prove

    found = []
    for number, (question, places) in enumerate(questions.items()):
        proof = prove(question, of, observe=observe) if number < MOST_QUESTIONS else None
        found.append(Asked(question, tuple(places), proof))
        advance()
    return found


def of_plan(plan: Plan, target: Target, setting: Setting) -> dict[Question, list[str]]:
    """The distinct questions about the sites of a plan, each with its places; none when no word changes.

    If no CPU executes the target, they are about a machine where CPUs will.
    """
    from a64patch.a64.words import from_bytes
    from a64patch.protocols import STOP

    if not plan.changes:
        return {}
    spans = [(site.start, site.end) for site in plan.sites]
    protocol = setting.by_words(plan.changes, spans, plan.method if plan.cpus else None)
    make = setting.on(target, protocol) if plan.cpus else setting.anywhere(protocol)
    # A plan looks for ways into the middle as a stop needs them, and only where CPUs execute the target.
    looked = plan.sites if plan.cpus and protocol == STOP.name else ()
    ways = {site.start: (bool(site.entered or site.unknown), not site.unknown) for site in looked}
    return _of_changes(
        plan.changes, spans, lambda address: from_bytes(target.read(address, 4))[0], target.symbols.describe, make,
        lambda start: ways.get(start, (True, True)),
    )  # fmt: skip


def of_patch(diff: AsmDiff, setting: Setting) -> dict[Question, list[str]]:
    """The questions by the words of the patch, or by their texts.

    Each symbol gets a made-up address far from all others. So hunks near each other in one function are one site, as in
    a plan. The words between them are not known. RequestError for hunks that overlap.
    """
    from a64patch.a64.names import number_of, parse_site
    from a64patch.patch.plan import fill, spans_of_hunks
    from a64patch.targets.section import Change

    hunks: list[list[Change]] = []
    words: dict[int, int] = {}
    places: dict[int, str] = {}
    bases: dict[tuple[str, str], int] = {}
    for hunk in fill(diff).hunks:
        if hunk.kind.endswith("annex"):
            continue
        site = parse_site(hunk.site)
        assert site is not None
        symbol, offset = (site.owner, site.name), site.offset
        if site.is_number:
            symbol, offset = (site.owner, ""), number_of(site.name) + offset
        start = bases.setdefault(symbol, _FAR * len(bases)) + offset
        changes: list[Change] = []
        for index, (old, new) in enumerate(_in_place(hunk)):
            address = start + 4 * index
            if address in words:
                raise RequestError(f"two hunks of the patch have the word at {places[address]}: join them to one hunk")
            words[address] = old
            places[address] = f"{hunk.site}{f'+{4 * index:#x}' if index else ''}"
            if old != new:
                changes.append(Change(address, old, new))
        hunks.append(changes)
    if not any(hunks):
        return {}
    spans = spans_of_hunks(hunks, setting.profile)
    every = [change for changes in hunks for change in changes]
    make = setting.anywhere(setting.by_words(every, spans))
    return _of_changes(every, spans, lambda address: words.get(address, _UNKNOWN), places.__getitem__, make)


def _in_place(hunk: Hunk) -> Iterator[tuple[int, int]]:
    """The old and the new word at each place of a filled hunk. Of a branch to new code, the distance means nothing."""
    from a64patch.a64.generate import gen_branch_imm
    from a64patch.a64.predicates import decode
    from a64patch.a64.references import reference
    from a64patch.patch.annex import parts_of
    from a64patch.patch.meaning import word_anywhere

    def word_of(line: Line) -> int:
        if line.word is not None:
            return line.word
        word = word_anywhere(line)
        row = decode(word)
        refers = reference(row) if row is not None else None
        return refers.encode(word, 0, _FAR_AWAY) if refers is not None else word

    if not hunk.kind:
        yield from ((word_of(old), word_of(new)) for old, new in zip(hunk.old, hunk.new, strict=True))
        return
    parts = parts_of(hunk)
    for number, line in enumerate(parts.steady):
        word, branch = word_of(line), gen_branch_imm(0, _FAR_AWAY)
        pair = (word, branch if number == parts.first else word)
        yield pair[::-1] if hunk.kind.startswith("end-") else pair


_FAR_AWAY = 1 << 14
"""Bytes to new code, while nothing is known about its place: every branch reaches so far, and no site does."""


def of_words(old: Sequence[int], new: Sequence[int], setting: Setting) -> dict[Question, list[str]]:
    """The one question about words that replace others at no particular place. RequestError for different lengths."""
    from a64patch.proof.cases import Site
    from a64patch.targets.section import Change

    site = Site(tuple(old), tuple(new))
    changes = [Change(4 * index, *pair) for index, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]]
    spans = [(changes[0].address, changes[-1].address + 4)] if changes else []
    return {setting.anywhere(setting.by_words(changes, spans))((site,)): []}


def _of_changes(
    changes: Sequence[Change],
    spans: Sequence[tuple[int, int]],
    word_at: Callable[[int], int],
    describe: Callable[[int], str],
    make: Maker,
    ways_into: Callable[[int], tuple[bool, bool]] = lambda start: (True, True),
) -> dict[Question, list[str]]:
    """The distinct questions of the sites in these spans, each with its places. `word_at` gives unchanged words.

    `ways_into` gives `Site.comes_back` and `Site.kept_out` of the site at an address.
    """
    from a64patch.proof.cases import Site

    words = {change.address: (change.old, change.new) for change in changes}
    questions: dict[Question, list[str]] = {}
    for start, end in spans:
        pairs = [words.get(address) or (word_at(address),) * 2 for address in range(start, end, 4)]
        comes_back, kept_out = ways_into(start)
        site = Site(
            tuple(old for old, _ in pairs), tuple(new for _, new in pairs), comes_back=comes_back, kept_out=kept_out
        )
        questions.setdefault(make((site,)), []).append(describe(start))
    return questions


def doer_of(target: Target, step: Step) -> Doer:
    """Who does the step on the target; no target answers for the caller's own code."""
    from a64patch.protocols import Doer, Operation

    return Doer.UNKNOWN if step.operation is Operation.CALLER else target.doer(step)


def steps_on(target: Target, protocol: str) -> list[tuple[Step, Doer]]:
    """Each step of a protocol, and who does it on the target."""
    from a64patch.protocols import PROTOCOLS

    return [(step, doer_of(target, step)) for step in PROTOCOLS[protocol].on(target.machine())]

"""What `prove` and `apply --prove` share: the questions that a patch raises, the answers in words and for programs.

Read on: prove.py; ../proof/prove.py answers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a64patch.patch.plan import Plan
    from a64patch.patch.text import Method
    from a64patch.proof.model import Model
    from a64patch.proof.protocols import Site
    from a64patch.proof.prove import Proof, Question
    from a64patch.targets.base import Target
    from a64patch.targets.section import Change

    Maker = Callable[[tuple[Site, ...]], Question]

PROTOCOL_OF: dict[Method, str] = {"nosync": "nosync", "nosync+kick": "kick", "sync": "stop"}
"""The protocol that a method of patch_text is."""
MOST_QUESTIONS = 500
"""Distinct sites of one patch that are proved; about 20 ms each."""
PC_CHECK = "stop is proved as patch_text_sync does it: no CPU may stand inside a site of several words."


@dataclass(frozen=True)
class Asked:
    """A question, and the places that raise it."""

    question: Question
    places: tuple[str, ...]
    proof: Proof | None
    """None when there were more than MOST_QUESTIONS before it."""


def of_changes(
    changes: Sequence[Change],
    spans: Sequence[tuple[int, int]],
    word_at: Callable[[int], int],
    describe: Callable[[int], str],
    make: Maker,
) -> dict[Question, list[str]]:
    """The distinct questions of the sites in these spans, each with its places; `word_at` tells the words that stay."""
    from a64patch.proof.protocols import Site

    words = {change.address: (change.old, change.new) for change in changes}
    questions: dict[Question, list[str]] = {}
    for start, end in spans:
        pairs = [words.get(address) or (word_at(address),) * 2 for address in range(start, end, 4)]
        site = Site(tuple(old for old, _ in pairs), tuple(new for _, new in pairs))
        questions.setdefault(make((site,)), []).append(describe(start))
    return questions


def ask(questions: dict[Question, list[str]], of: Sequence[Model]) -> list[Asked]:
    """Prove each, MOST_QUESTIONS at most, with progress on a terminal."""
    from a64patch.proof.prove import prove

    found = []
    with _progress(min(len(questions), MOST_QUESTIONS)) as advance:
        for number, (question, places) in enumerate(questions.items()):
            found.append(Asked(question, tuple(places), prove(question, of) if number < MOST_QUESTIONS else None))
            advance()
    return found


def of_plan(plan: Plan, target: Target, *, idc: bool = False, dic: bool = False) -> list[Asked]:
    """The proofs of what a plan would do, by the method that it chose; none when it would do nothing."""
    from a64patch.proof.prove import Question, models

    if plan.method is None or not plan.cpus:
        return []
    protocol = PROTOCOL_OF[plan.method]
    questions = of_planned_sites(plan, target, lambda sites: Question(protocol, sites, idc, dic, profile=plan.profile))
    return ask(questions, models())


def of_planned_sites(plan: Plan, target: Target, make: Maker) -> dict[Question, list[str]]:
    """The distinct questions of a plan: about the very sites that would be carried out."""
    from a64patch.a64.words import from_bytes

    spans = [(site.start, site.end) for site in plan.sites]
    return of_changes(
        plan.changes, spans, lambda address: from_bytes(target.read(address, 4))[0], target.symbols.describe, make
    )


@contextmanager
def _progress(count: int) -> Iterator[Callable[[], object]]:
    if count < 20 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("proving", total=count)
        yield lambda: progress.advance(task)


def print_proofs(proofs: Sequence[Asked] | None) -> None:
    """What a plan says of its proofs: nothing when None, a line when there was nothing to ask."""
    if proofs is None:
        return
    if not proofs:
        print("No CPU executes this target, or nothing is to be done: there is nothing to prove.")
    for asked in proofs:
        for line in lines(asked):
            print(line)
    if any(asked.question.protocol == "stop" for asked in proofs):
        print(PC_CHECK)


def all_facts(proofs: Sequence[Asked]) -> list[dict[str, Any]]:
    """The proofs of a plan for programs."""
    return [facts(asked) for asked in proofs]


def lines(asked: Asked) -> Iterator[str]:
    """The verdict in one line or a few, without the counterexample."""
    from a64patch.proof.properties import BROKEN, PROPERTIES

    words, where = _words(asked.question), _where(asked.places)
    proof = asked.proof
    if proof is None:
        yield f"UNKNOWN: {words}{where}: not asked, this patch has more than {MOST_QUESTIONS} distinct sites"
        return
    question = asked.question
    cpus = "any number of CPUs" if question.executors is None else f"{question.executors} CPUs besides the patching one"
    cache = f"IDC={int(question.idc)} DIC={int(question.dic)}"
    omitted = f" without {', '.join(sorted(question.omit))}" if question.omit else ""
    cost = f"{proof.searches} searches, {proof.seconds * 1000:.0f} ms"
    yield f"{proof.verdict.value}: {words} by {question.protocol}{omitted}{where}, {cpus}, {cache} ({cost})"
    for name, sentence in PROPERTIES.items():
        broken = proof.broken.get(name)
        if broken:
            yield f"  {name} BROKEN ({', '.join(sorted(broken))}): {BROKEN[name]}"
        elif not proof.reason:
            yield f"  {name} holds: {sentence}"
    if proof.reason:
        yield f"  not answered completely: {proof.reason}"


def counterexample(proof: Proof, of: Sequence[Model]) -> Iterator[str]:
    """How it can go wrong, and what would forbid it."""
    from a64patch.proof.protocols import PC_CHECK as CHECK
    from a64patch.proof.protocols import steps
    from a64patch.proof.prove import remedies
    from a64patch.proof.timeline import tell

    found = proof.counterexample
    if found is None:
        return
    yield f"Counterexample to {found.property} under {found.model.name}; a CPU may fetch long before it executes:"
    yield from (f"  {line}".rstrip() for line in tell(found))
    question = proof.question
    known = {step.name: step for step in steps(question.protocol, question.sites, idc=question.idc, dic=question.dic)}
    helpful = remedies(proof, of)
    for name in helpful:
        step = known.get(name)
        if step:
            yield f"  [{name}] on the {step.cpu} would forbid it: `{step.text.split('; ')[-1]}` {step.what}."
        elif name == CHECK:
            yield f"  [{name}] would forbid it: no CPU stops inside the site."
        else:
            yield f"  {name} would forbid it."
    if not helpful:
        yield "  No single step, and no other protocol here, would forbid it."


def facts(asked: Asked, of: Sequence[Model] | None = None) -> dict[str, Any]:
    """A proof for programs; with the models, the counterexample and what would forbid it too."""
    from a64patch.proof.prove import remedies
    from a64patch.proof.timeline import tell

    question, proof = asked.question, asked.proof
    found: dict[str, Any] = {
        "places": list(asked.places),
        "sites": [
            {"old": [f"{word:08x}" for word in site.old], "new": [f"{word:08x}" for word in site.new]}
            for site in question.sites
        ],
        "protocol": question.protocol,
        "omitted": sorted(question.omit),
        "executors": question.executors,
        "idc": question.idc,
        "dic": question.dic,
        "profile": question.profile,
        "verdict": proof.verdict.value if proof else "UNKNOWN",
    }
    if proof is not None:
        example = proof.counterexample
        found |= {
            "broken": {name: sorted(models) for name, models in sorted(proof.broken.items())},
            "reason": proof.reason,
            "searches": proof.searches,
            "seconds": round(proof.seconds, 4),
        }
        if example is not None:
            found["counterexample"] = {
                "property": example.property, "model": example.model.name, "timeline": tell(example)
            }  # fmt: skip
            if of is not None:
                found["would_forbid"] = remedies(proof, of)
    return found


def _words(question: Question) -> str:
    from a64patch.proof.timeline import instruction

    site = question.sites[0]
    pairs = [(old, new) for old, new in zip(site.old, site.new, strict=True) if old != new]
    said = f"{instruction(pairs[0][0])} becomes {instruction(pairs[0][1])}"
    more = len(pairs) - 1 + sum(len(other.old) for other in question.sites[1:])
    return said + (f" and {more} more word{'s' * (more > 1)}" if more else "")


def _where(places: Sequence[str]) -> str:
    if not places:
        return ""
    return f" at {', '.join(places[:3])}" + (f" and {len(places) - 3} more places" if len(places) > 3 else "")

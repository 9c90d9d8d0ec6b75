"""Shared by `prove` and `apply --prove`: proofs of a patch as text or as JSON, and progress on a terminal.

Read on: prove.py; ../questions.py asks, ../proof/prove.py answers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from a64patch.errors import TargetError

if TYPE_CHECKING:
    from a64patch.patch.plan import Plan
    from a64patch.proof.model import Model
    from a64patch.proof.prove import Counterexample, Observer, Proof, Question
    from a64patch.questions import Asked
    from a64patch.targets.base import Target


def ask(questions: dict[Question, list[str]], of: Sequence[Model], observe: Observer | None = None) -> list[Asked]:
    """The proofs of the questions, with progress on a terminal. `observe` is for `proof.prove`."""
    from a64patch import questions as asking

    with _progress(min(len(questions), asking.MOST_QUESTIONS)) as advance:
        return asking.ask(questions, of, advance, observe)


def of_plan(plan: Plan, target: Target) -> list[Asked]:
    """The proofs of a plan, by its method and the target's steps.

    Empty if no CPU executes the target, or no word changes.
    """
    from a64patch import questions as asking
    from a64patch.proof.prove import models

    if not plan.cpus:
        return []
    return ask(asking.of_plan(plan, target, asking.Setting(profile=plan.profile)), models())


def steps_on(target: Target, protocol: str) -> list[dict[str, str]]:
    """Each step of a protocol, and who does it on the target, for JSON."""
    from a64patch import questions as asking

    return [
        {"step": step.name, "cpu": step.cpu, "act": step.act.value, "by": doer.value}
        for step, doer in asking.steps_on(target, protocol)
    ]


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


def doers(steps: Sequence[dict[str, str]]) -> str:
    """A line that says who does which step on a target; `steps` is from `steps_on`."""
    by: dict[str, list[str]] = {}
    for step in steps:
        by.setdefault(step["by"], []).append(step["step"])
    return "Steps " + "; ".join(f"{doer}: {', '.join(dict.fromkeys(names))}" for doer, names in by.items()) + "."


def print_proofs(proofs: Sequence[Asked] | None, target: Target, method: str | None) -> None:
    """Print the proofs of a plan. Nothing for None; a line if there was nothing to prove."""
    if proofs is None:
        return
    if proofs and method:
        print(doers(steps_on(target, method)))
    if not proofs:
        print("No CPU executes this target, or nothing is to be done: there is nothing to prove.")
    for asked in proofs:
        for line in lines(asked):
            print(line)
    for line in assumptions(proofs):
        print(line)


def plan_facts(proofs: Sequence[Asked], target: Target, method: str | None) -> dict[str, Any]:
    """The proofs of a plan for JSON, and who does which step."""
    return {"proofs": [facts(asked) for asked in proofs], "steps": steps_on(target, method) if method else []}


def lines(asked: Asked) -> Iterator[str]:
    """The verdict in one line or a few, without the counterexample."""
    from a64patch.proof.properties import BROKEN, PROPERTIES
    from a64patch.questions import MOST_QUESTIONS

    words, where = _words(asked.question), _where(asked.places)
    proof = asked.proof
    if proof is None:
        yield f"UNKNOWN: {words}{where}: not asked, this patch has more than {MOST_QUESTIONS} distinct sites"
        return
    question = asked.question
    cpus = "any number of CPUs" if question.executors is None else f"{question.executors} CPUs besides the patching one"
    cache = f"IDC={int(question.idc)} DIC={int(question.dic)}" + (", no broadcast" if not question.broadcast else "")
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


def assumptions(proofs: Sequence[Asked]) -> Iterator[str]:
    """What the answers SAFE rest on, in three lines; nothing without one."""
    found = next((asked.proof.assumptions for asked in proofs if asked.proof and asked.proof.assumptions), [])
    for number, clause in enumerate(found):
        yield f"{'        ' if number else 'SAFE if '}{clause}"


NEW_CODE = (
    "New code is written and published before a branch leads there: no CPU executes what was there before"
    " (`a64patch prove detour.protocol`)."
)


def counterexample(proof: Proof, of: Sequence[Model]) -> Iterator[str]:
    """The lines of a counterexample, and the steps or protocols that would forbid it."""
    from a64patch.proof.cases import instructions, machine_of, steps
    from a64patch.proof.prove import remedies
    from a64patch.proof.timeline import tell

    found = proof.counterexample
    if found is None:
        return
    yield f"Counterexample to {found.property} under {found.model.name}; a CPU may fetch long before it executes:"
    yield from (f"  {line}".rstrip() for line in tell(found))
    question = proof.question
    machine = machine_of(question.idc, question.dic, question.broadcast)
    known = {step.name: step for step in steps(question.followed, question.sites, machine)}
    helpful = remedies(proof, of)
    for name in helpful:
        step = known.get(name)
        if step is None:
            yield f"  {name} would forbid it."
            continue
        text = instructions(step, question.sites, machine).split("; ")[-1]
        yield f"  [{name}] on the {step.cpu} would forbid it: {f'`{text}` ' if text else 'it '}{step.what}."
    if not helpful:
        yield "  No single step, and no other protocol here, would forbid it."


def write_dot(path: str, examples: Iterable[Counterexample | None]) -> None:
    """Write the first counterexample as a graph; without one, an empty graph. TargetError when this fails."""
    from a64patch.proof.timeline import dot

    found = next(filter(None, examples), None)
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(dot(found) if found else "digraph execution {}\n")
    except OSError as error:
        raise TargetError(f"cannot write {path}: {error.strerror}") from error


def facts(asked: Asked, of: Sequence[Model] | None = None) -> dict[str, Any]:
    """A proof for JSON. With the models, also the steps or protocols that would forbid the counterexample."""
    from a64patch.proof.prove import remedies
    from a64patch.proof.timeline import tell
    from a64patch.questions import MOST_QUESTIONS

    question, proof = asked.question, asked.proof
    found: dict[str, Any] = {
        "places": list(asked.places),
        "replacements": [
            {"old_words": [f"{word:08x}" for word in site.old], "new_words": [f"{word:08x}" for word in site.new]}
            for site in question.sites
        ],
        "protocol": question.protocol,
        "omitted": sorted(question.omit),
        "executors": question.executors,
        "idc": question.idc,
        "dic": question.dic,
        "broadcast": question.broadcast,
        "unanswered": list(question.unanswered),
        "profile": question.profile,
        "verdict": asked.verdict.value,
        "assumptions": proof.assumptions if proof else [],
        "broken": {},
        "reason": f"not asked: this patch has more than {MOST_QUESTIONS} distinct sites",
        "searches": 0,
        "seconds": 0.0,
        "counterexample": None,
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

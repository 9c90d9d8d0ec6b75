"""What may a CPU execute while we patch? SAFE on any number of CPUs, or the execution that goes wrong.

Read on: proving.py, ../proof/prove.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from a64patch.cli import patching, proving
from a64patch.cli.targets import add_target_arguments
from a64patch.cli.text import print_json, words_of
from a64patch.errors import RequestError, TargetError

if TYPE_CHECKING:
    from a64patch.patch.asmdiff import AsmDiff
    from a64patch.proof.cases import Site
    from a64patch.proof.prove import Question
    from a64patch.protocols import Method
    from a64patch.targets.section import Change

EPILOG = """\
Asked under Arm's memory model of instruction fetch, as it is now and as of ESOP 2020; SAFE when both forbid
  P1 that one pass through a site executes some of its old and some of its new words,
  P2 that a CPU which was told that the patch is done executes an old word,
  P3 that a fetch is CONSTRAINED UNPREDICTABLE (words that may not replace each other under execution).
Protocols: nosync (a CPU that sees a flag synchronises itself), kick (interrupt all), stop (all wait; none stands inside
a site of several words), brk (BRK first, as on x86). --omit NAME leaves a step out; a wrong name lists all steps.
examples:
  a64patch prove --old nop --new 'b .+8' --protocol kick
  a64patch prove --old nop --new 'b .+8' --protocol kick --omit dsb-ic --dot race.dot
  a64patch prove --old 'nop; nop' --new 'adr x0, .; b .+8' --protocol nosync
  a64patch prove fix.patch ./program
Without TARGET the words alone decide the method, for a machine that can kick and stop. Distinct sites are asked once.
Not covered: shareability (NSH), set/way and IC IALLU, other memory than Normal, 8-byte stores to code, effects of the
patched words on the protocol's own data, errata, chips that break the model, and the time until the new code is seen.
Exit status 0: all SAFE; 1: UNSAFE, or UNKNOWN; 2: wrong usage or unreadable input."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATCH [TARGET], or words and a protocol; the machine; steps to leave out."""
    parser.add_argument("patch", metavar="PATCH", nargs="?", help="an assembly diff, or - for standard input")
    add_target_arguments(parser, optional=True)
    parser.add_argument("--old", metavar="ASM", help="instead of PATCH: 'ASM; ASM' or words of 8 hex digits")
    parser.add_argument("--new", metavar="ASM", help="as many instructions")
    parser.add_argument(
        "--protocol", choices=("nosync", "kick", "stop", "brk"), help="default: the choice of patch_text"
    )
    parser.add_argument(
        "--executors", type=int, metavar="N", help="search N other CPUs without cutoff (default: any number)"
    )
    parser.add_argument("--idc", action="store_true", help="CTR_EL0.IDC=1: no DC is needed; Linux' sequence for it")
    parser.add_argument("--dic", action="store_true", help="CTR_EL0.DIC=1 likewise: no IC (with --idc)")
    parser.add_argument("--profile", default="2018", help="issue of the manual's list for P3 (default: 2018)")
    parser.add_argument("--omit", metavar="NAME", action="append", default=[], help="leave a step of the protocol out")
    parser.add_argument(
        "--model", choices=("arm", "esop", "both"), default="both", help="whose axioms (default: both must agree)"
    )
    parser.add_argument("--dot", metavar="FILE", help="write the first counterexample as a graph for Graphviz")
    parser.add_argument("-R", "--reverse", action="store_true", help="swap old and new of PATCH")
    parser.add_argument("--fuzz", action="store_true", help="on another build, as in apply")


def run(arguments: argparse.Namespace) -> int:
    """Print a verdict for each distinct site. Returns exit status 0 only if all are SAFE."""
    from a64patch.a64.cmodx import PROFILES
    from a64patch.proof.prove import Verdict, models
    from a64patch.proof.timeline import dot

    if arguments.profile not in PROFILES:
        raise RequestError(f"there is no profile {arguments.profile!r}: choose one of {', '.join(PROFILES)}")
    if arguments.executors is not None and arguments.executors < 1:
        raise RequestError(f"{arguments.executors} executors: give at least one, or leave it out for any number")
    of = models(arguments.model)
    steps: list[dict[str, str]] = []
    asked = proving.ask(_questions(arguments, steps), of)
    proofs = [each.proof for each in asked]
    if arguments.json:
        print_json([proving.facts(each, of) for each in asked])
    else:
        if steps:
            print(proving.doers(steps))
        for each in asked:
            for line in proving.lines(each):
                print(line)
        example = next((proof for proof in proofs if proof and proof.counterexample), None)
        if example:
            for line in proving.counterexample(example, of):
                print(line)
        if not asked:
            print("nothing is to be done, so there is nothing to prove")
    if arguments.dot:
        found = next((proof.counterexample for proof in proofs if proof and proof.counterexample), None)
        _write(arguments.dot, dot(found) if found else "digraph execution {}\n")
    return int(any(proof is None or proof.verdict is not Verdict.SAFE for proof in proofs))


def _questions(arguments: argparse.Namespace, steps: list[dict[str, str]]) -> dict[Question, list[str]]:
    """The distinct questions, each with its places. Puts the target's steps into `steps`."""
    from a64patch.proof.cases import Site, machine_of

    if arguments.old is not None or arguments.new is not None:
        if arguments.patch is not None or arguments.old is None or arguments.new is None:
            raise RequestError("give PATCH, or both --old and --new")
        old, new = words_of(arguments.old), words_of(arguments.new)
        site = Site(tuple(old), tuple(new))
        changes = _changes(old, new)
        spans = [(changes[0].address, changes[-1].address + 4)] if changes else []
        return {_make(arguments, _protocol(arguments, changes, spans))((site,)): []}
    if arguments.patch is None:
        raise RequestError("give PATCH, or --old and --new")
    diff = patching.read_patch(arguments.patch, reverse=arguments.reverse)
    if arguments.target is None:
        return _without_target(arguments, diff)
    with patching.opened(arguments) as target:
        plan = patching.planned(arguments, target, diff)
        if not plan.changes:
            return {}
        spans = [(planned.start, planned.end) for planned in plan.sites]
        if not plan.cpus:
            # No CPU executes this target: ask for a machine where CPUs will.
            return proving.of_planned_sites(plan, target, _make(arguments, _protocol(arguments, plan.changes, spans)))
        protocol = _protocol(arguments, plan.changes, spans, plan.method)
        steps += proving.steps_on(target, protocol)
        make = proving.on_target(
            target, protocol, arguments.profile, machine=machine_of(arguments.idc, arguments.dic, False),
            omit=arguments.omit, executors=arguments.executors,
        )  # fmt: skip
        return proving.of_planned_sites(plan, target, make)


def _without_target(arguments: argparse.Namespace, diff: AsmDiff) -> dict[Question, list[str]]:
    """The questions by the words of the patch, or by their texts. Hunks get made-up addresses far from each other."""
    from a64patch.patch.plan import fill
    from a64patch.targets.section import Change

    changes: list[Change] = []
    spans: list[tuple[int, int]] = []
    words: dict[int, int] = {}
    places: dict[int, str] = {}
    for number, hunk in enumerate(fill(diff).hunks):
        for index, (old, new) in enumerate(zip(hunk.old, hunk.new, strict=True)):
            assert old.word is not None
            assert new.word is not None
            address = (number << 24) + 4 * index
            words[address] = old.word
            places[address] = f"{hunk.site}{f'+{4 * index:#x}' if index else ''}"
            if old.word != new.word:
                changes.append(Change(address, old.word, new.word))
        own = [change.address for change in changes if change.address >> 24 == number]
        spans += [(own[0], own[-1] + 4)] if own else []
    if not changes:
        return {}
    make = _make(arguments, _protocol(arguments, changes, spans))
    return proving.of_changes(changes, spans, words.__getitem__, places.__getitem__, make)


def _changes(old: list[int], new: list[int]) -> list[Change]:
    from a64patch.targets.section import Change

    return [Change(4 * index, *pair) for index, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]]


def _protocol(
    arguments: argparse.Namespace,
    changes: Sequence[Change],
    spans: Sequence[tuple[int, int]],
    method: Method | None = None,
) -> str:
    """The user's protocol, else `method`, else the choice of patch_text on a machine that can do everything."""
    from a64patch.patch.text import method_for
    from a64patch.targets.base import Capabilities

    if arguments.protocol is not None:
        return str(arguments.protocol)
    if method is not None:
        return method
    able = Capabilities("machine", 2, True, True, True, True)
    return method_for(able, changes, spans, arguments.profile)[0]


def _make(arguments: argparse.Namespace, protocol: str) -> proving.Maker:
    from a64patch.proof.prove import Question

    def make(sites: tuple[Site, ...]) -> Question:
        return Question(
            protocol, sites, arguments.idc, arguments.dic, profile=arguments.profile, omit=frozenset(arguments.omit),
            executors=arguments.executors,
        )  # fmt: skip

    return make


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise TargetError(f"cannot write {path}: {error.strerror}") from error

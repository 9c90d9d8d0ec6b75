"""What may a CPU execute while we patch? SAFE on any number of CPUs, or the execution that goes wrong.

Read on: proving.py, ../proof/prove.py.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from a64patch.cli import patching, proving
from a64patch.cli.output import say
from a64patch.cli.targets import add_target_arguments
from a64patch.cli.text import print_json
from a64patch.errors import RequestError, ScopeError, TargetError

if TYPE_CHECKING:
    from a64patch.proof.herd import Recorder
    from a64patch.proof.prove import Question
    from a64patch.questions import Asked, Setting

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
  a64patch prove --kernel ./Image
  a64patch prove static-keys.protocol
  a64patch prove --old nop --new 'b .+8' --protocol nosync --litmus tests && herd7 -variant ifetch tests/*.litmus
A FILE.protocol has threads, sites and questions of your own; docs/proof.md shows the form and lists the shipped ones.
Without TARGET the words alone decide the method, for a machine that can kick and stop. Distinct sites are asked once.
--kernel reads the functions of a raw arm64 Image that patch its text, and proves nosync and kick for nop -> b .+8, stop
for nop; nop -> adr x0, .; b .+8, or all for --old and --new; for each IDC and DIC, or those given. Instructions that
are not recognised are UNKNOWN. DIC=1 with IDC=0 is always UNKNOWN, and counts for the exit status only if asked for.
Not covered: shareability (NSH), set/way and IC IALLU, other memory than Normal, stores to code of other sizes than 4
bytes, effects of the patched words on the protocol's own data, errata, chips that break the model, and the time until
the new code is seen.
Exit status 0: all SAFE; 1: UNSAFE, or UNKNOWN; 2: wrong usage or unreadable input."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATCH [TARGET], or words and a protocol; the machine; steps to leave out."""
    parser.add_argument(
        "patch", metavar="PATCH", nargs="?", help="an assembly diff, or - for standard input; or FILE.protocol"
    )
    add_target_arguments(parser, optional=True)
    parser.add_argument("--kernel", metavar="IMAGE", help="prove the protocols that a Linux Image itself executes")
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
    parser.add_argument(
        "--litmus", metavar="DIR", help="write the searched programs as tests for `herd7 -variant ifetch`"
    )
    parser.add_argument("-R", "--reverse", action="store_true", help="swap old and new of PATCH")
    parser.add_argument("--fuzz", action="store_true", help="on another build, as in apply")


def run(arguments: argparse.Namespace) -> int:
    """Print a verdict for each distinct site. Returns exit status 0 only if all are SAFE."""
    from a64patch.cli import asking
    from a64patch.proof.herd import Recorder
    from a64patch.proof.prove import Verdict, models
    from a64patch.questions import Setting

    if arguments.patch is not None and arguments.patch.endswith(asking.SUFFIX):
        return asking.run(arguments)
    setting = Setting(
        arguments.protocol, arguments.profile, arguments.idc, arguments.dic, frozenset(arguments.omit),
        arguments.executors,
    )  # fmt: skip
    of = models(arguments.model)
    if arguments.kernel is not None:
        from a64patch.cli import kernel_proof

        return kernel_proof.run(arguments, setting, of)
    questions, steps, new_code = _questions(arguments, setting)
    recorder = Recorder() if arguments.litmus else None
    asked = proving.ask(questions, of, recorder)
    exported = _export(arguments.litmus, recorder) if recorder else {}
    proofs = [each.proof for each in asked]
    if arguments.json:
        print_json([proving.facts(each, of) | _exports(exported, each) for each in asked])
    else:
        if steps:
            print(proving.doers(steps))
        for each in asked:
            for line in proving.lines(each):
                print(line)
        for line in proving.assumptions(asked):
            print(line)
        if new_code:
            print(proving.NEW_CODE)
        example = next((proof for proof in proofs if proof and proof.counterexample), None)
        if example:
            for line in proving.counterexample(example, of):
                print(line)
        if not asked:
            print("nothing is to be done, so there is nothing to prove")
        _say_exports(arguments.litmus, exported)
    if arguments.dot:
        proving.write_dot(arguments.dot, (each.proof.counterexample for each in asked if each.proof))
    return int(any(each.verdict is not Verdict.SAFE for each in asked))


def _questions(
    arguments: argparse.Namespace, setting: Setting
) -> tuple[dict[Question, list[str]], list[dict[str, str]], bool]:
    """The distinct questions, each with its places; the target's steps, if CPUs execute it; whether code is new."""
    from a64patch.patch.typed import words_of
    from a64patch.questions import of_patch, of_plan, of_words

    if arguments.old is not None or arguments.new is not None:
        if arguments.patch is not None or arguments.old is None or arguments.new is None:
            raise RequestError("give PATCH, or both --old and --new")
        return of_words(words_of(arguments.old), words_of(arguments.new), setting), [], False
    if arguments.patch is None:
        raise RequestError("give PATCH, or --old and --new")
    diff = patching.read_patch(arguments.patch, reverse=arguments.reverse)
    if arguments.target is None:
        return of_patch(diff, setting), [], diff.needs_room
    with patching.opened(arguments) as target:
        plan = patching.planned(arguments, target, diff)
        questions = of_plan(plan, target, setting)
        steps = proving.steps_on(target, next(iter(questions)).protocol) if questions and plan.cpus else []
        return questions, steps, diff.needs_room


def _export(folder: str, recorder: Recorder) -> dict[Question, list[dict[str, str]]]:
    """Write a file for each searched program that herd has a form for; for all, the facts of the JSON object `export`.

    A file with another content is never overwritten: then no file is written, and TargetError names it.
    """
    facts: dict[Question, list[dict[str, str]]] = {}
    texts: dict[Path, str] = {}
    for question, tests in recorder.tests.items():
        for test in tests:
            file = Path(folder, f"{test.name}.litmus")
            fact = {"name": test.name, "property": test.property, "file": "", "reason": ""}
            try:
                texts[file] = test.text()
                fact["file"] = str(file)
            except ScopeError as error:
                fact["reason"] = str(error)
            facts.setdefault(question, []).append(fact)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        present = {file for file in texts if os.path.lexists(file)}
        foreign = [file for file in sorted(present) if not file.is_file() or file.read_bytes() != texts[file].encode()]
        for file in texts.keys() - present if not foreign else ():
            with file.open("x", encoding="utf-8", newline="\n") as stream:
                stream.write(texts[file])
    except OSError as error:
        raise TargetError(f"cannot write the litmus tests to {folder}: {error.strerror}") from error
    if foreign:
        raise TargetError(f"{foreign[0]} is there already, with another content: name another folder")
    return facts


def _exports(exported: dict[Question, list[dict[str, str]]], asked: Asked) -> dict[str, object]:
    return {"litmus": exported[asked.question]} if asked.question in exported else {}


def _say_exports(folder: str, exported: dict[Question, list[dict[str, str]]]) -> None:
    """On stderr: how many tests were written, and each program that was not, with the reason."""
    facts = [fact for each in exported.values() for fact in each]
    written = sum(bool(fact["file"]) for fact in facts)
    if facts:
        say(f"{written} of {len(facts)} searched programs are litmus tests in {folder}")
    for fact in facts:
        if fact["reason"]:
            say(f"{fact['name']} is not written: {fact['reason']}")

"""`prove --kernel IMAGE`: proofs of the protocols that a Linux kernel itself executes, as text or as JSON.

Read on: ../kernel/sequence.py reads the instructions, proving.py prints proofs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from a64patch.cli import proving
from a64patch.cli.text import print_json
from a64patch.errors import FormatError, RequestError

if TYPE_CHECKING:
    from a64patch.kernel.sequence import Found
    from a64patch.proof.model import Model
    from a64patch.proof.prove import Question
    from a64patch.protocols import Protocol
    from a64patch.questions import Asked, Setting

ONE_WORD = ("nop", "b .+8")
"""Old and new words for nosync and kick: they may replace each other under execution."""
TWO_WORDS = ("nop; nop", "adr x0, .; b .+8")
"""Old and new words for stop."""
_UNCOVERED = (False, True)
"""(IDC, DIC) of the machine that the models do not cover."""


def run(arguments: argparse.Namespace, setting: Setting, of: Sequence[Model]) -> int:
    """Print what was read and a verdict for each protocol and machine. Returns 0 only if all that counts are SAFE."""
    from a64patch.kernel.image import KernelImage
    from a64patch.kernel.sequence import read
    from a64patch.kernel.walk import Kernel
    from a64patch.openers import open_target
    from a64patch.proof.prove import Verdict

    if arguments.patch is not None or (arguments.old is None) != (arguments.new is None):
        raise RequestError("give --kernel without PATCH; with it --old and --new, or neither of both")
    if arguments.litmus is not None:
        raise RequestError("--litmus is for words and patches, not for --kernel")
    if setting.protocol == "brk":
        raise RequestError("a kernel has nosync, kick and stop; prove brk without --kernel")
    with open_target(arguments.kernel) as target:
        if not isinstance(target, KernelImage):
            raise FormatError(f"{arguments.kernel} is not a raw arm64 Image: give the Image of a Linux kernel")
        module = target.modules.main
        start, data = target.whole()
        found = read(Kernel(start, data, target.symbols))
        location, release, build_id = target.location, module.release, module.build_id
    questions = _questions(found, arguments, setting)
    asked = proving.ask({question: [] for question in questions}, of)
    if arguments.json:
        print_json(
            {
                "location": location,
                "release": release,
                "build_id": build_id,
                "functions": [
                    {"name": each.name, "address": f"{each.address:#x}", "instructions": list(each.lines)}
                    for each in found.functions
                ],
                "protocols": [_protocol_facts(each.question) for each in asked],
                "assumed": found.assumed,
                "left_out": found.left_out,
                "proofs": [proving.facts(each, of) for each in asked],
            }
        )
    else:
        print(f"{location}: {release}" if release else location)
        for line in _lines(found, asked, of):
            print(line)
    if arguments.dot:
        proving.write_dot(arguments.dot, (each.proof.counterexample for each in asked if each.proof))
    alone = setting.dic and not setting.idc
    counted = [each for each in asked if alone or (each.question.idc, each.question.dic) != _UNCOVERED]
    return int(any(each.verdict is not Verdict.SAFE for each in counted))


def _questions(found: Found, arguments: argparse.Namespace, setting: Setting) -> list[Question]:
    from a64patch.patch.typed import words_of
    from a64patch.proof.cases import Site
    from a64patch.proof.prove import Question

    questions = []
    for (idc, dic), protocols in found.protocols.items():
        if (setting.idc or setting.dic) and (idc, dic) != (setting.idc, setting.dic):
            continue
        for name, protocol in protocols.items():
            if setting.protocol not in (None, name):
                continue
            old, new = TWO_WORDS if name == "stop" else ONE_WORD
            if arguments.old is not None:
                old, new = arguments.old, arguments.new
            site = Site(tuple(words_of(old)), tuple(words_of(new)))
            known = None if isinstance(protocol, str) else protocol
            present = {step.name for step in known.steps if not step.essential} if known else set()
            questions.append(
                Question(
                    name, (site,), idc, dic, profile=setting.profile, omit=setting.omit & present,
                    executors=setting.executors, custom=known, unread=protocol if isinstance(protocol, str) else "",
                )
            )  # fmt: skip
    used = {name for question in questions for name in question.omit}
    steps = {step.name for each in questions if each.custom for step in each.custom.steps if not step.essential}
    if wrong := sorted(setting.omit - used):
        raise RequestError(
            f"{wrong[0]!r} cannot be left out of this kernel's protocols; there are {', '.join(sorted(steps))}"
        )
    return questions


def _lines(found: Found, asked: Sequence[Asked], of: Sequence[Model]) -> Iterator[str]:
    for function in found.functions:
        yield f"{function.name} at {function.address:#x}"
        yield from (f"    {line}" for line in function.lines)
    for each in asked:
        question = each.question
        if question.custom:
            yield f"{question.protocol}, IDC={int(question.idc)} DIC={int(question.dic)}"
            for cpu, steps in groupby(sequence(question.custom), lambda text: text.partition(": ")[0]):
                yield f"    {cpu}: {'; '.join(text.partition(': ')[2] for text in steps)}"
    yield "assumed:"
    yield from (f"  - {clause}" for clause in found.assumed)
    yield "left out:"
    yield from (f"  - {clause}" for clause in found.left_out)
    for each in asked:
        yield from (line for line in proving.lines(each) if " holds: " not in line)
    yield from proving.assumptions(asked)
    example = next((each.proof for each in asked if each.proof and each.proof.counterexample), None)
    if example:
        yield from proving.counterexample(example, of)


def sequence(protocol: Protocol) -> list[str]:
    """`CPU: INSTRUCTION` of each step in order, or the step's name where it is no single instruction.

    The look where CPUs stand is assumed: no kernel does it.
    """
    from a64patch.protocols import Act

    acts = {
        Act.CLEAN: "dc cvau", Act.INVALIDATE: "ic ivau", Act.FINISH: "dsb ish", Act.FINISH_STORES: "dsb ishst",
        Act.SYNCHRONISE: "isb",
    }  # fmt: skip
    return [
        f"{step.cpu}: {step.text or acts.get(step.act, step.name)}{' (assumed)' if step.act is Act.LOOK else ''}"
        for step in protocol.steps
    ]


def _protocol_facts(question: Question) -> dict[str, Any]:
    return {
        "protocol": question.protocol,
        "idc": question.idc,
        "dic": question.dic,
        "sequence": sequence(question.custom) if question.custom else [],
        "reason": question.unread,
    }

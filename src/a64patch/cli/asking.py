"""`prove FILE.protocol`: the answers to the questions of a protocol file, as text or as JSON.

Read on: prove.py; ../proof/protocol_file.py has the form, ../proof/asking.py answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a64patch.cli import proving
from a64patch.cli.text import print_json
from a64patch.errors import FormatError, RequestError, TargetError

if TYPE_CHECKING:
    from a64patch.proof.asking import Answer
    from a64patch.proof.protocol_file import ProtocolFile

SUFFIX = ".protocol"
SHIPPED = Path(__file__).parent.parent / "proof" / "protocols"
_OTHERS = (
    "target",
    "old",
    "new",
    "protocol",
    "executors",
    "idc",
    "dic",
    "omit",
    "reverse",
    "fuzz",
    "symbols",
    "kernel",
)


def shipped() -> list[str]:
    """The names of the protocols that come with a64patch."""
    return sorted(path.name for path in SHIPPED.glob(f"*{SUFFIX}"))


def run(arguments: argparse.Namespace) -> int:
    """Answer the questions of the file `arguments.patch`. Returns exit status 0 only if all are SAFE."""
    from a64patch.proof.asking import answers
    from a64patch.proof.prove import Verdict, models

    for name in _OTHERS:
        if getattr(arguments, name, None):
            option = "TARGET" if name == "target" else f"--{name}"
            raise RequestError(f"{option} says nothing about a protocol file: the file has all that is asked")
    if arguments.litmus:
        raise RequestError("the programs of a protocol file are not written as litmus tests: leave --litmus out")
    files = _read(arguments.patch)
    found = list(answers(files, models(arguments.model), arguments.profile))
    if arguments.json:
        print_json([_facts(files[0], answer, arguments.profile) for answer in found])
    else:
        for line in _lines(files[0], found, arguments.profile):
            print(line)
    if arguments.dot:
        proving.write_dot(arguments.dot, [answer.counterexample for answer in found])
    return int(any(answer.verdict is not Verdict.SAFE for answer in found))


def _read(name: str) -> Sequence[ProtocolFile]:
    """The file of this name; without one, the shipped protocol."""
    from a64patch.proof.asking import read
    from a64patch.proof.protocol_file import LARGEST

    path = Path(name)
    if not path.exists() and name in shipped():
        path = SHIPPED / name
    try:
        with path.open("rb") as stream:
            text = stream.read(LARGEST + 1).decode()
    except OSError as error:
        hint = f"; shipped are {', '.join(shipped())}" if isinstance(error, FileNotFoundError) else ""
        raise TargetError(f"cannot read {name}: {error.strerror}{hint}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{name} is no protocol: byte {error.start} is not UTF-8") from error
    return read(text, name)


def _lines(file: ProtocolFile, found: Sequence[Answer], profile: str) -> Iterator[str]:
    from a64patch.proof.asking import assumptions
    from a64patch.proof.timeline import tell

    yield f"{file.name}: {file.title or 'without a title'}"
    if file.source:
        yield f"source: {file.source}"
    for answer in found:
        by = f" ({', '.join(answer.broken)})" if answer.broken else ""
        expected = answer.ask.expected
        differs = f"; THE FILE EXPECTS {expected}" if expected not in ("", answer.verdict.value) else ""
        cost = f"{answer.searches} searches, {answer.seconds * 1000:.0f} ms"
        yield f"{answer.verdict.value}{by}: {answer.ask.text} ({cost}){differs}"
        if answer.reason:
            yield f"  not answered completely: {answer.reason}"
    for number, clause in enumerate(assumptions(file, found, profile)):
        yield f"{'        ' if number else 'SAFE if '}{clause}"
    for answer in found:
        example = answer.counterexample
        if example:
            yield f"Counterexample to `{answer.ask.text}` under {example.model.name}:"
            yield from (f"  {line}".rstrip() for line in tell(example))
            break


def _facts(file: ProtocolFile, answer: Answer, profile: str) -> dict[str, Any]:
    from a64patch.proof.asking import assumptions
    from a64patch.proof.timeline import tell

    example = answer.counterexample
    return {
        "file": file.name,
        "subject": file.title,
        "source": file.source,
        "question": answer.ask.text,
        "profile": profile,
        "verdict": answer.verdict.value,
        "expected": answer.ask.expected,
        "assumptions": assumptions(file, [answer], profile),
        "broken": {answer.ask.kind: answer.broken} if answer.broken else {},
        "reason": answer.reason,
        "searches": answer.searches,
        "seconds": round(answer.seconds, 4),
        "counterexample": {"property": example.property, "model": example.model.name, "timeline": tell(example)}
        if example
        else None,
    }

"""`python -m docs.protocols`: the table of docs/proof.md, each shipped protocol with its questions, verdicts and time.

Read on: src/a64patch/proof/protocols/ has the files, asking.py answers.
"""

from __future__ import annotations

import sys

from a64patch.cli.asking import SHIPPED, shipped
from a64patch.proof.asking import answers, read
from a64patch.proof.protocol_file import ProtocolFile

HEAD = "| protocol | source | question | verdict | ms |\n|-|-|-|-|-|\n"


def files() -> dict[str, ProtocolFile]:
    """The shipped protocols by name."""
    return {name: read((SHIPPED / name).read_text(encoding="utf-8"), name)[0] for name in shipped()}


def row(name: str, milliseconds: str) -> str:
    """The row of a protocol, with the verdicts that its file expects."""
    file = files()[name]
    questions = "<br>".join(f"`{ask.text}`" for ask in file.asks)
    verdicts = "<br>".join(ask.expected for ask in file.asks)
    title = f"{name.removesuffix('.protocol')}: {file.title}"
    return f"| {title} | {file.source} | {questions} | {verdicts} | {milliseconds} |"


def main() -> int:
    """Print the table. Each file's questions are asked, and the verdicts must be those that it expects."""
    sys.stdout.write(HEAD)
    for name in shipped():
        found = list(answers(read((SHIPPED / name).read_text(encoding="utf-8"), name)))
        assert all(answer.verdict.value == answer.ask.expected for answer in found), name
        print(row(name, f"{1000 * sum(answer.seconds for answer in found):.0f}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

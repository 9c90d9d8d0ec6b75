"""`python -m docs.omissions`: the table of docs/proof.md, each protocol without each of its steps.

Read on: src/a64patch/protocols.py for the steps, prove.py for the verdicts.
"""

from __future__ import annotations

import sys

from a64patch.a64.assembler import assemble
from a64patch.proof.cases import Site, omittable
from a64patch.proof.prove import Question, prove
from a64patch.protocols import PROTOCOLS

NOTHING = "-"
SAMPLES = {
    "`nop` → `b`": Site((assemble("nop")[0],), (assemble("b .+4")[0],)),
    "`add` → `sub`": Site((assemble("add x0, x0, #1")[0],), (assemble("sub x0, x0, #1")[0],)),
    "two `nop` → two `b`": Site(tuple(assemble("nop; nop")), tuple(assemble("b .+4; b .+4"))),
}
"""Words that may race with execution, words that may not, and two of the former."""


def verdict(protocol: str, sample: str, omitted: str) -> str:
    """`SAFE`, or the properties that are broken."""
    omit = frozenset() if omitted == NOTHING else frozenset({omitted})
    proof = prove(Question(protocol, (SAMPLES[sample],), omit=omit))
    return " ".join(sorted(proof.broken)) or proof.verdict.value


def rows(protocol: str) -> dict[str, dict[str, str]]:
    """By what is left out, then by sample; a step that a sample does not have is no row of that sample."""
    steps = {sample: [NOTHING, *omittable(protocol, [site])] for sample, site in SAMPLES.items()}
    names = max(steps.values(), key=len)
    return {
        name: {sample: verdict(protocol, sample, name) for sample in SAMPLES if name in steps[sample]}
        for name in names
    }  # fmt: skip


def table(protocol: str, verdicts: dict[str, dict[str, str]]) -> str:
    """In Markdown."""
    lines = [f"| {protocol} without | {' | '.join(SAMPLES)} |", f"|-|{'-|' * len(SAMPLES)}"]
    for name, row in verdicts.items():
        lines.append(f"| {name} | {' | '.join(row.get(sample, '') for sample in SAMPLES)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print all four tables."""
    for protocol in PROTOCOLS:
        sys.stdout.write(table(protocol, rows(protocol)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

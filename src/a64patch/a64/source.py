"""Splits a text into instructions without comments and labels, and resolves the labels.

Read on: assembler.py turns each instruction into a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from a64patch.a64.expressions import CHARACTER
from a64patch.a64.names import QUOTED, parse_site
from a64patch.a64.operands import Names
from a64patch.a64.words import INSN_SIZE
from a64patch.errors import AssemblyError

_COMMENT = re.compile(rf"(?P<kept>{QUOTED}|{CHARACTER})|//[^\n]*|/\*.*?\*/", re.DOTALL)
_STATEMENT = re.compile(rf"(?:{QUOTED}|{CHARACTER}|[^;\n])+")
_LABEL = re.compile(rf"\s*([A-Za-z_.$][\w.$]*|[0-9]{{1,4}}|{QUOTED})\s*:(?!:)", re.ASCII)
_NUMBERED = re.compile(r"([0-9]{1,4})([bf])", re.ASCII)


@dataclass
class Source:
    """The instructions of a text in order, and the addresses of its labels (bytes)."""

    instructions: list[tuple[int, str]] = field(default_factory=list)
    """Address (bytes) and text, without labels and comments."""
    labels: dict[str, int] = field(default_factory=dict)
    numbered: dict[str, list[int]] = field(default_factory=dict)
    """Labels like `1:`, which may occur several times: `1b` is the last before the instruction, `1f` the next."""


def without_comments(text: str) -> str:
    """The text with a blank for each comment. Quoted names and characters like `'/'` have none in them."""
    return _COMMENT.sub(lambda match: match["kept"] or " ", text) if "/" in text else text


def statements(text: str) -> list[str]:
    """The parts of a text between `;` and new lines, without comments. `';'` is a character, and `'/'` is one."""
    return _STATEMENT.findall(without_comments(text))


def read_source(text: str, address: int) -> Source:
    """Split a text at `;` and new lines. The first instruction is at `address` (bytes).

    AssemblyError when a label occurs twice.
    """
    source, place = Source(), address
    for line in statements(text):
        while match := _LABEL.match(line):
            site, line = parse_site(match[1]), line[match.end() :]
            if site is None:
                raise AssemblyError(f"{match[1][:80]} is no name for a label")
            name = site.name
            if site.is_number:
                source.numbered.setdefault(name, []).append(place)
            elif source.labels.setdefault(name, place) != place:
                raise AssemblyError(f"label {name!r} occurs twice")
        if line.strip():
            source.instructions.append((place, line.strip()))
            place += INSN_SIZE
    return source


class LocalNames:
    """The names for the instruction at `place`: the labels of its text, then the names of `outer`."""

    def __init__(self, source: Source, place: int, outer: Names | None) -> None:
        self._source, self._place, self._outer = source, place, outer

    def resolve(self, site: str) -> int:
        """The address of a label, `label+8`, `1b`, `1f`, or an outer name; LookupError for an unknown name."""
        parts = parse_site(site)
        name, offset = (parts.name, parts.offset) if parts is not None and not parts.owner else ("", 0)
        numbered = _NUMBERED.fullmatch(site.partition("+")[0])
        if numbered and numbered[1] in self._source.numbered:
            places = self._source.numbered[numbered[1]]
            found = (
                [place for place in places if place <= self._place][-1:]
                if numbered[2] == "b"
                else [place for place in places if place > self._place][:1]
            )
            if not found:
                raise LookupError(f"there is no label {numbered[1]} {'before' if numbered[2] == 'b' else 'behind'}")
            return found[0] + offset
        if name in self._source.labels:
            return self._source.labels[name] + offset
        if self._outer is None:
            raise LookupError(f"there is no label {site!r}, and no symbols are known: write an address")
        return self._outer.resolve(site)

    def describe(self, address: int) -> str:
        """The outer name of the address; without outer names, the number."""
        return self._outer.describe(address) if self._outer else f"{address:#x}"

"""Splits a text into instructions, and replaces comments, labels and constant expressions for the assembler.

Read on: assembler.py turns each plain instruction into a word.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from a64patch.a64.operands import Names
from a64patch.a64.words import INSN_SIZE
from a64patch.errors import AssemblyError

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_LABEL = re.compile(r"\s*([A-Za-z_.$][\w.$]*|[0-9]{1,4})\s*:(?!:)", re.ASCII)
_NUMBERED = re.compile(r"([0-9]{1,4})([bf])", re.ASCII)
_WITH_OFFSET = re.compile(r"([A-Za-z_.$][\w.$]*)\s*([+-])\s*(0[xX][0-9a-fA-F]+|[0-9]+)", re.ASCII)
_EXPRESSION = re.compile(
    r"""(?P<before> [,\[]\s* (?:[a-z]{3,4}\s+)? | \s )    # an operand begins, or the amount of a shift
        \#? (?P<expression> [-~+(]* [0-9(] [0-9a-fA-FxX()+\-*/%<>&|^~\ \t]* [)0-9a-fA-F] )
        (?= \s* (?: [,\]!] | $ ) )""",
    re.ASCII | re.VERBOSE,
)
_LONGEST = 1 << 16
"""The most bits of an intermediate value. Every constant of an instruction has far fewer."""

_OPERATORS: dict[type[ast.AST], Callable[..., int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor,
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip


@dataclass
class Source:
    """The instructions of a text in order, and the addresses of its labels (bytes)."""

    instructions: list[tuple[int, str]] = field(default_factory=list)
    """Address (bytes) and text, without labels and comments."""
    labels: dict[str, int] = field(default_factory=dict)
    numbered: dict[str, list[int]] = field(default_factory=dict)
    """Labels like `1:`, which may occur several times: `1b` is the last before the instruction, `1f` the next."""


def read_source(text: str, address: int) -> Source:
    """Split a text at `;` and new lines. The first instruction is at `address` (bytes).

    AssemblyError when a label occurs twice.
    """
    source, place = Source(), address
    for line in re.split(r"[;\n]", _COMMENT.sub(" ", text)):
        while match := _LABEL.match(line):
            name, line = match[1], line[match.end() :]
            if name.isdigit():
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
        numbered = _NUMBERED.fullmatch(site)
        if numbered and numbered[1] in self._source.numbered:
            places = self._source.numbered[numbered[1]]
            found = (
                [place for place in places if place <= self._place][-1:]
                if numbered[2] == "b"
                else [place for place in places if place > self._place][:1]
            )
            if not found:
                raise LookupError(f"there is no label {numbered[1]} {'before' if numbered[2] == 'b' else 'behind'}")
            return found[0]
        if site in self._source.labels:
            return self._source.labels[site]
        offset = _WITH_OFFSET.fullmatch(site)
        if offset and offset[1] in self._source.labels:
            distance = int(offset[3], 0 if offset[3][:2].lower() == "0x" else 10)
            return self._source.labels[offset[1]] + (distance if offset[2] == "+" else -distance)
        if self._outer is None:
            raise LookupError(f"there is no label {site!r}, and no symbols are known: write an address")
        return self._outer.resolve(site)

    def describe(self, address: int) -> str:
        """The outer name of the address; without outer names, the number."""
        return self._outer.describe(address) if self._outer else f"{address:#x}"


def plain(instruction: str) -> str:
    """The instruction with each constant expression replaced by its number: `#(1 << 4) - 1` becomes `#15`."""

    def number(match: re.Match[str]) -> str:
        text = match["expression"]
        if re.fullmatch(r"[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+)", text.strip()) or (
            "0x" not in text and re.search(r"[a-fA-F]", text)
        ):
            return match[0]
        return f"{match['before']}#{evaluate(text)}"

    return _EXPRESSION.sub(number, instruction)


def evaluate(text: str) -> int:
    """The value of a constant expression of integers: + - * / % << >> & | ^ ~ and parentheses.

    Division drops the remainder. AssemblyError for any other expression, and for values that grow too large.
    """
    try:
        tree = ast.parse(re.sub(r"(?<!/)/(?!/)", "//", text.strip()), mode="eval")
        return _value(tree.body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError, OverflowError):
        raise AssemblyError(f"expression {text.strip()[:60]!r} cannot be computed") from None


def _value(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if left.bit_length() + right.bit_length() > _LONGEST:
            raise ValueError
        if isinstance(node.op, ast.LShift | ast.RShift):
            if not 0 <= right <= 128:
                raise ValueError
            return left << right if isinstance(node.op, ast.LShift) else left >> right
        if type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](left, right)
    raise ValueError

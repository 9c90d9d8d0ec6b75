"""Constant expressions in assembly text: `(1 << 4) - 1`.

Read on: operands.py for the operands that hold them.

The rules are those that GNU as and llvm-mc share; GNU's manual, "Using as", has them under "Expressions". In three
points they differ from C: `<<` and `>>` bind like `*`; `|`, `&` and `^` bind tighter than `+`; `>>` shifts in zeros.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from a64patch.errors import AssemblyError

CHARACTER = r"'[^'\\]'"
"""A character between quotes: the number of its code. Not the quote and the backslash themselves."""

_TOKEN = re.compile(
    rf"\s*(?:(?P<number>0[xX][0-9a-fA-F]+(?![\w.])|0[bB][01]+(?![\w.])|[0-9]+(?![\w.])|{CHARACTER})"
    r"|(?P<operator><<|>>|<=|>=|<>|==|!=|&&|\|\||[-+*/%&|^~!<>()])|(?P<other>\S[\w.]*))",
    re.ASCII,
)
_PLAIN = re.compile(r"0[xX][0-9a-fA-F]{1,15}|0|[1-9][0-9]{0,17}", re.ASCII)
"""A number that is no expression, and fits."""
_BITS = 64
_SMALLEST = -1 << _BITS - 1


def _signed(value: int) -> int:
    """The value modulo 2**64, as a signed number."""
    return (value - _SMALLEST) % (1 << _BITS) + _SMALLEST


def _divided(one: int, other: int) -> tuple[int, int]:
    """Quotient, towards zero, and remainder, which has the sign of `one`."""
    if other == 0:
        raise AssemblyError("division by zero")
    if (one, other) == (_SMALLEST, -1):
        raise AssemblyError("the quotient is more than 64 bits")
    quotient = abs(one) // abs(other)
    if (one < 0) != (other < 0):
        quotient = -quotient
    return quotient, one - quotient * other


def _amount(value: int) -> int:
    if not 0 <= value < _BITS:
        raise AssemblyError(f"a shift by {value}, must be from 0 to {_BITS - 1}")
    return value


_OPENING = 0
_PREFIX: dict[str, tuple[int, Callable[..., int]]] = {
    "-": (7, lambda value: -value),
    "+": (7, lambda value: value),
    "~": (7, lambda value: ~value),
    "!": (7, lambda value: int(value == 0)),
}
"""Each operator before a value: how tightly it binds, and its result. `(` binds least: _OPENING."""
_INFIX: dict[str, tuple[int, Callable[..., int]]] = {
    "*": (6, lambda one, other: one * other),
    "/": (6, lambda one, other: _divided(one, other)[0]),
    "%": (6, lambda one, other: _divided(one, other)[1]),
    "<<": (6, lambda one, other: one << _amount(other)),
    ">>": (6, lambda one, other: one % (1 << _BITS) >> _amount(other)),
    "|": (5, lambda one, other: one | other),
    "&": (5, lambda one, other: one & other),
    "^": (5, lambda one, other: one ^ other),
    "!": (5, lambda one, other: one | ~other),
    "+": (4, lambda one, other: one + other),
    "-": (4, lambda one, other: one - other),
    "==": (3, lambda one, other: -(one == other)),
    "!=": (3, lambda one, other: -(one != other)),
    "<>": (3, lambda one, other: -(one != other)),
    "<": (3, lambda one, other: -(one < other)),
    ">": (3, lambda one, other: -(one > other)),
    "<=": (3, lambda one, other: -(one <= other)),
    ">=": (3, lambda one, other: -(one >= other)),
    "&&": (2, lambda one, other: int(one != 0 and other != 0)),
    "||": (1, lambda one, other: int(one != 0 or other != 0)),
}
"""Each operator between two values: how tightly it binds, and its result. A comparison that is true gives -1."""
_SUM, _LOOSEST = _INFIX["+"][0], _INFIX["||"][0]


def evaluate(text: str) -> int:
    """The value of a constant expression, modulo 2**64, as a signed number.

    Numbers: decimal, `0x1f`, `0b11`, octal with a leading 0 (`010` is 8), and characters (`'a'`). Operators, from the
    tightest to the loosest; those of one line bind equally, from left to right:

    - before a value: `-`, `+`, `~`, `!` (1 for 0, else 0)
    - `*`, `/` and `%` (towards zero), `<<`, `>>` (shifts in zeros)
    - `|`, `&`, `^`, `!` (`a | ~b`)
    - `+`, `-`
    - `==`, `!=`, `<>`, `<`, `>`, `<=`, `>=` of signed numbers: -1 when true, else 0
    - `&&`: 1 when true, else 0
    - `||`: 1 when true, else 0

    AssemblyError for:

    - any other text
    - a number of more than 64 bits
    - a division by zero, and the quotient of -2**63 and -1
    - a shift by less than 0, or by more than 63 bits
    - `!` between two values before another `!`: GNU as reads both as `^`, and llvm-mc does not
    """
    if _PLAIN.fullmatch(text):
        return int(text, 0)
    return _evaluate(text, [], _LOOSEST)


def distance(text: str) -> int:
    """The value of `+4*2`, as it follows the name of an address. The rules and errors are those of `evaluate`.

    AssemblyError also for an operator that would compare the address.
    """
    return _evaluate(text, [0], _SUM)


def _evaluate(text: str, values: list[int], loosest: int) -> int:
    try:
        return _value(text, values, loosest)
    except AssemblyError as error:
        raise AssemblyError(f"expression {text.strip()[:60]!r}: {error}") from None


def _value(text: str, values: list[int], loosest: int) -> int:
    """The value of a text that follows `values`: none, or one.

    AssemblyError when an operator outside of parentheses binds looser than `loosest`. Parentheses may be nested without
    limit, since operators wait in a list, not in calls.
    """
    waiting = list[tuple[int, Callable[..., int]]]()
    wants_value = not values
    for kind, token in _tokens(text):
        if wants_value and kind == "number":
            values.append(_number(token))
            wants_value = False
        elif wants_value and token == "(":
            waiting.append((_OPENING, int))
        elif wants_value and token in _PREFIX:
            if token == "!" and waiting and waiting[-1] is _INFIX["!"]:
                raise AssemblyError("GNU as and llvm-mc differ about `!` before `!`: write parentheses, 1 ! (!2)")
            waiting.append(_PREFIX[token])
        elif not wants_value and token in _INFIX:
            rank, _ = _INFIX[token]
            _apply(values, waiting, rank)
            if rank < loosest and all(each != _OPENING for each, _ in waiting):
                raise AssemblyError(f"{token!r} cannot follow an address")
            waiting.append(_INFIX[token])
            wants_value = True
        elif not wants_value and token == ")":
            _apply(values, waiting, _LOOSEST)
            if not waiting:
                raise AssemblyError("')' has no '('")
            waiting.pop()
        else:
            raise AssemblyError(f"{token!r} is no {'number' if wants_value else 'operator'}")
    if wants_value:
        raise AssemblyError("a number is missing at the end")
    _apply(values, waiting, _LOOSEST)
    if waiting:
        raise AssemblyError("'(' has no ')'")
    return values[0]


def _apply(values: list[int], waiting: list[tuple[int, Callable[..., int]]], rank: int) -> None:
    """Replace the last values by the results of the last operators, as far as these bind as tightly as `rank`."""
    while waiting and waiting[-1][0] >= rank:
        own, operation = waiting.pop()
        count = 1 if own == _PREFIX["-"][0] else 2
        values[-count:] = [_signed(operation(*values[-count:]))]


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Kind (a group of _TOKEN) and text of each part."""
    for match in _TOKEN.finditer(text.rstrip()):
        kind = match.lastgroup or ""
        yield kind, match[kind]


def _number(text: str) -> int:
    if text[0] == "'":
        return ord(text[1])
    base = {"0x": 16, "0b": 2}.get(text[:2].lower(), 8 if text[0] == "0" else 10)
    try:
        value = int(text, base)
    except ValueError:
        raise AssemblyError(f"{text} has the 0 in front of an octal number, and digits that are not octal") from None
    if value >> _BITS:
        raise AssemblyError(f"{text} is more than {_BITS} bits")
    return _signed(value)

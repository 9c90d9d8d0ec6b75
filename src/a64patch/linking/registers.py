"""Registers that callers of a function rely on, although any call may change them: GCC's -fipa-ra.

GCC lets a caller keep a value in a register that AAPCS64 gives to called functions (6.1.1), where it sees that the
called function of the same file leaves this register alone. A new function may change it. So the code behind each call
is searched for an instruction that reads such a register before any other one writes it.

Knows the target only. Read on: link.py asks; ../a64/effects.py for the registers of an instruction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from a64patch.a64.effects import effects_of
from a64patch.a64.predicates import decode
from a64patch.a64.references import ReferenceKind, calls_to, reference
from a64patch.a64.row import Encoding, Flow
from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import A64PatchError
from a64patch.targets.base import Target

CHANGED_BY_CALLS = frozenset(
    [*(f"x{number}" for number in range(16)), *(f"v{number}" for number in (*range(8), *range(16, 32)))]
)
"""Registers that a call may change (AAPCS64, 6.1), without those that a linker's stub may use."""
_RESULTS = frozenset({"x0", "x1", "v0", "v1", "v2", "v3"})
"""Registers in which a function may return something."""
_ARGUMENTS = frozenset(f"{kind}{number}" for kind in "xv" for number in range(8)) | {"x8"}
_MOST_CALLED = 32
_LONGEST = 1 << 16
_MOST_CALLS = 256
_MOST_STEPS = 256


class Reliance(NamedTuple):
    """A call, and a register that is read behind it although a call may change it."""

    call: int
    register: str
    reader: int
    """The address of the instruction that reads it."""


def changed_by(words: Iterable[int]) -> frozenset[str]:
    """The registers of CHANGED_BY_CALLS that instructions change by themselves, calls not included."""
    found: set[str] = set()
    for word in words:
        effects = effects_of(word)
        found |= effects.writes if effects is not None else CHANGED_BY_CALLS
    return CHANGED_BY_CALLS & found


def leaves(word: int) -> bool:
    """Whether the instruction calls or jumps by a register: to code that may change all that a call may."""
    row = decode(word)
    if row is None:
        return False
    return row.flow in (Flow.CALL, Flow.BRANCH) and "branch_imm" not in row.families


def reliances(
    target: Target, start: int, end: int, changed: frozenset[str], except_in: Iterable[tuple[int, int]] = ()
) -> Iterator[Reliance]:
    """The calls of the function [start, end) whose callers rely on a register of `changed`: one for each call.

    Calls by BL in the target's known code count, without those in the ranges `except_in`. Each function that the old
    one calls is read too. Not seen: calls by a register and by way of a stub, and callers of a caller that ends with a
    branch to the function. Raises the errors of reading the target.
    """
    left = changed - _kept_by(target, start, end)
    if not left:
        return
    import numpy

    apart = list(except_in)
    found = 0
    for low, high in target.code_with(start):
        words = numpy.frombuffer(target.read(low, (high - low) & -INSN_SIZE), numpy.dtype("<u4"))
        for call in map(int, calls_to(words, low, start)):
            if any(first <= call < last for first, last in apart):
                continue
            found += 1
            if found > _MOST_CALLS:
                return
            reader = _first_reader(target, call + INSN_SIZE, left)
            if reader is not None:
                yield Reliance(call, *reader)


def _kept_by(target: Target, start: int, end: int) -> frozenset[str]:
    """The registers that no caller can rely on: the function, or one that it calls, may change them."""
    found: set[str] = set()
    waiting, seen = [(start, end)], {start}
    while waiting:
        first, last = waiting.pop()
        if last - first > _LONGEST or len(seen) > _MOST_CALLED:
            return CHANGED_BY_CALLS
        words = from_bytes(target.read(first, (last - first) & -INSN_SIZE))
        found |= changed_by(words)
        for number, word in enumerate(words):
            row = decode(word)
            goal = _goal(row, word, first + INSN_SIZE * number)
            if leaves(word):
                return CHANGED_BY_CALLS
            if goal is None or first <= goal < last:
                continue
            extent = target.symbols.extent(goal)
            if extent is None:
                return CHANGED_BY_CALLS
            if extent[0] not in seen:
                seen.add(extent[0])
                waiting.append(extent)
    return frozenset(found)


def _goal(row: Encoding | None, word: int, address: int) -> int | None:
    refers = reference(row) if row is not None else None
    return refers.target(word, address) if refers is not None and refers.kind is ReferenceKind.BRANCH else None


def _first_reader(target: Target, address: int, registers: frozenset[str]) -> tuple[str, int] | None:
    """The first instruction that reads one of these registers before another one writes it, and the register.

    A register that may hold a result comes last: of another one it is sure that a caller relies on it.
    """
    waiting = [(address, registers)]
    seen: dict[int, frozenset[str]] = {}
    maybe: tuple[str, int] | None = None
    for _ in range(_MOST_STEPS):
        if not waiting:
            break
        address, left = waiting.pop()
        left -= seen.get(address, frozenset())
        seen[address] = seen.get(address, frozenset()) | left
        try:
            [word] = from_bytes(target.read(address, INSN_SIZE))
        except A64PatchError:
            continue
        row, effects = decode(word), effects_of(word)
        if row is None or effects is None:
            continue
        read = left & effects.reads
        if read - _RESULTS:
            return min(read - _RESULTS), address
        if read and maybe is None:
            maybe = min(read), address
        left = left - read - effects.writes
        if not left:
            continue
        goal = _goal(row, word, address)
        if row.flow is Flow.CALL:
            left &= _ARGUMENTS
        if goal is not None and left:
            waiting.append((goal, left))
        if row.flow is Flow.NEXT or row.conditional:
            waiting.append((address + INSN_SIZE, left))
    return maybe

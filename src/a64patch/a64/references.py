"""References relative to the PC: targets of branches, addresses of literals, addresses that ADR forms.

Read on: relocation.py moves a reference; its word then holds another distance to the same address.

The label in a row's assembly template tells the field of the distance and its unit. Addresses are bytes, from 0 to
2**64 - 1, and wrap around there, as in the architecture (Arm ARM, C6.2: ADR, ADRP, B, …).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from typing import TYPE_CHECKING

from a64patch.a64.operands import LABEL_UNITS
from a64patch.a64.predicates import classify, decode
from a64patch.a64.row import PAGE_SIZE, Encoding, Immediate
from a64patch.a64.words import INSN_SIZE

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

ADDRESS_SPACE = 1 << 64


class ReferenceKind(Enum):
    """The purpose of a reference to an address."""

    BRANCH = "branch"
    """Goes to the address."""
    LITERAL = "literal"
    """Reads or prefetches data at the address."""
    ADDRESS = "address"
    """Writes the address (ADR), or the address of its page (ADRP), to a register."""
    SIGNATURE = "signature"
    """Authenticates a return address that the instruction at this address has signed (AUTIASPPC, RETAASPPC)."""


@dataclass(frozen=True)
class Reference:
    """How the words of a row refer to an address."""

    kind: ReferenceKind
    immediate: Immediate
    """The field that holds the distance."""
    unit: int
    """Bytes in one unit of the field; negative when it counts backwards. PAGE_SIZE: the field counts whole pages."""

    @property
    def reach(self) -> tuple[int, int]:
        """The lowest and the highest distance in bytes."""
        ends = (self.unit * self.immediate.minimum, self.unit * self.immediate.maximum)
        return min(ends), max(ends)

    def origin(self, address: int) -> int:
        """The address from which distances count: the address of the instruction, or for ADRP its page."""
        return address - address % PAGE_SIZE if self.unit == PAGE_SIZE else address

    @cached_property
    def mask(self) -> int:
        """The bits of a word that hold the distance."""
        return sum((1 << part.width) - 1 << part.lsb for part in self.immediate.parts)

    @cached_property
    def _to_target(self) -> tuple[list[tuple[int, int, int]], int, int]:
        """For `target`: lowest bit, mask and shift of each part; the sign bit; the mask of the origin."""
        parts, width = list[tuple[int, int, int]](), 0
        for part in self.immediate.parts:
            parts.append((part.lsb, (1 << part.width) - 1, width))
            width += part.width
        return parts, 1 << width - 1 if self.immediate.signed else 0, self.origin(-1)

    def target(self, word: int, address: int) -> int:
        """The address that the word at `address` refers to."""
        parts, sign, origin = self._to_target
        value = 0
        for lsb, bits, shift in parts:
            value |= (word >> lsb & bits) << shift
        return ((address & origin) + ((value ^ sign) - sign) * self.unit) % ADDRESS_SPACE

    def distance(self, address: int, target: int) -> int:
        """Bytes from the origin to the target (for ADRP: to its page), the shorter way around the address space."""
        away = self.origin(target) - self.origin(address)
        return (away + ADDRESS_SPACE // 2) % ADDRESS_SPACE - ADDRESS_SPACE // 2

    def reaches(self, address: int, target: int) -> bool:
        """Whether a word at `address` can refer to the target. False when the distance is no multiple of the unit."""
        distance, (low, high) = self.distance(address, target), self.reach
        return low <= distance <= high and distance % self.unit == 0

    def encode(self, word: int, address: int, target: int) -> int:
        """The word that refers to the target from `address`; EncodingError when it does not reach the target."""
        return self.immediate.encode(word, self.distance(address, target) // self.unit)


_LABEL = re.compile(rf"<({'|'.join(LABEL_UNITS)}):([\w:]+)>")


@cache
def reference(row: Encoding) -> Reference | None:
    """How the words of this row refer to an address; None when they do not."""
    match = _LABEL.search(" ".join(row.texts))
    if match is None:
        return None
    label = match[1]
    if row.literal:
        kind = ReferenceKind.LITERAL
    elif "branch_imm" in row.families:
        kind = ReferenceKind.BRANCH
    else:
        kind = ReferenceKind.SIGNATURE if label == "backlabel" else ReferenceKind.ADDRESS
    parts = tuple(row.fields[name] for name in reversed(match[2].split(":")))
    return Reference(kind, Immediate(parts, signed=label != "backlabel"), LABEL_UNITS[label])


@cache
def _numbered(kind: ReferenceKind) -> tuple[tuple[Reference, ...], NDArray[numpy.uint8]]:
    """The different references of a kind; and for each row of TABLE, 1 + the index of its reference, or 0 for none.

    The last number, 0, is for words without a row.
    """
    import numpy

    from a64patch.a64.encodings import TABLE

    of_rows = [reference(row) for row in TABLE]
    different = tuple(dict.fromkeys(each for each in of_rows if each is not None and each.kind is kind))
    numbers = {each: number for number, each in enumerate(different, 1)}
    return different, numpy.array([numbers.get(each, 0) if each else 0 for each in of_rows] + [0], numpy.uint8)


def _references(
    words: NDArray[numpy.uint32], address: int, kind: ReferenceKind
) -> Iterator[tuple[NDArray[numpy.intp], NDArray[numpy.uint64]]]:
    """Positions of the words with a reference of this kind, and the addresses referred to, piece by piece."""
    import numpy

    different, of_rows = _numbered(kind)
    first = numpy.uint64(address % ADDRESS_SPACE)
    for start in range(0, len(words), _PIECE):
        piece = words[start : start + _PIECE]
        # A word without a row has index -1, which takes the last number.
        numbers = of_rows.take(classify(piece), mode="wrap")
        # Few words have a reference, so only these are looked at below.
        candidates = numpy.flatnonzero(numbers)
        numbers = numbers[candidates]
        for number, one in enumerate(different, 1):
            positions = candidates[numbers == number]
            distances = one.unit * one.immediate.decode(piece[positions])
            positions += start
            origins = first + positions.astype(numpy.uint64) * 4
            if one.unit == PAGE_SIZE:
                origins -= origins % PAGE_SIZE
            yield positions, origins + distances.view(numpy.uint64)


# Words in one piece: its temporary arrays stay in the cache.
_PIECE = 1 << 16


def _all(
    words: NDArray[numpy.uint32], address: int, kind: ReferenceKind
) -> tuple[NDArray[numpy.uint64], NDArray[numpy.bool_]]:
    import numpy

    found, valid = numpy.zeros(len(words), numpy.uint64), numpy.zeros(len(words), numpy.bool_)
    for positions, targets in _references(words, address, kind):
        found[positions] = targets
        valid[positions] = True
    return found, valid


def branch_targets(words: NDArray[numpy.uint32], address: int) -> tuple[NDArray[numpy.uint64], NDArray[numpy.bool_]]:
    """The branch target of each word, and which words are branches to a label. The first word is at `address`.

    Conditional branches and calls count too. Where the second array is False, the first is 0. Addresses are uint64, so
    that kernel addresses fit. Data words that look like instructions are not recognised as data.
    """
    return _all(words, address, ReferenceKind.BRANCH)


def call_targets(words: NDArray[numpy.uint32], address: int) -> NDArray[numpy.uint64]:
    """The target of each BL, in the order of the words. The first word is at `address`.

    These are `branch_targets` of the words for which `is_bl` holds, without the tables that classify all words.
    """
    return _calls(words, address)[1]


def calls_to(words: NDArray[numpy.uint32], address: int, goal: int) -> NDArray[numpy.uint64]:
    """Addresses of the BLs that call `goal`, in ascending order; found as by `call_targets`."""
    import numpy

    addresses, targets = _calls(words, address)
    found: NDArray[numpy.uint64] = addresses[targets == numpy.uint64(goal % ADDRESS_SPACE)]
    return found


def _calls(words: NDArray[numpy.uint32], address: int) -> tuple[NDArray[numpy.uint64], NDArray[numpy.uint64]]:
    """The address of each BL, and its target."""
    import numpy

    from a64patch.a64.encodings import BY_NAME

    row = BY_NAME["bl"]
    call = reference(row)
    assert call is not None
    positions = numpy.flatnonzero(words & numpy.uint32(row.mask) == row.value)
    distances = call.unit * call.immediate.decode(words[positions])
    addresses = numpy.uint64(address % ADDRESS_SPACE) + positions.astype(numpy.uint64) * numpy.uint64(INSN_SIZE)
    return addresses, addresses + distances.view(numpy.uint64)


def literal_addresses(words: NDArray[numpy.uint32], address: int) -> tuple[NDArray[numpy.uint64], NDArray[numpy.bool_]]:
    """The address of the literal that each word loads or prefetches, and which words do. As `branch_targets`."""
    return _all(words, address, ReferenceKind.LITERAL)


def adr_targets(words: NDArray[numpy.uint32], address: int) -> tuple[NDArray[numpy.uint64], NDArray[numpy.bool_]]:
    """The address that each ADR forms, the page that each ADRP forms, and which words do. As `branch_targets`."""
    return _all(words, address, ReferenceKind.ADDRESS)


def branches_into(words: NDArray[numpy.uint32], address: int, start: int, end: int) -> NDArray[numpy.uint64]:
    """Addresses of the words that branch into [start, end), in ascending order. The first word is at `address`.

    Only branches to a label are seen: not a branch by a register, a return, or falling through.
    """
    import numpy

    size = numpy.uint64(max(0, end - start))
    found = [
        positions[targets - numpy.uint64(start % ADDRESS_SPACE) < size]
        for positions, targets in _references(words, address, ReferenceKind.BRANCH)
    ]
    positions = numpy.sort(numpy.concatenate(found)) if found else numpy.zeros(0, numpy.intp)
    return numpy.uint64(address % ADDRESS_SPACE) + positions.astype(numpy.uint64) * 4


def goal_of(word: int, address: int) -> int | None:
    """The address that the word at `address` refers to; None when it refers to none."""
    row = decode(word)
    refers_to = reference(row) if row is not None else None
    return refers_to.target(word, address) if refers_to is not None else None

"""Sets of addresses: sorted, disjoint, half-open ranges.

Read on: targets/base.py for their uses: code, ranges to publish, addresses where no CPU may be.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from a64patch.oneline import shown, some


@dataclass(frozen=True)
class Ranges:
    """A set of integers as ascending ranges [start, end). Ranges that touch become one; equal sets compare equal.

    The given ranges may be in any order, overlap or be empty. ValueError when a range ends before it starts.
    """

    spans: tuple[tuple[int, int], ...] = ()
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        joined: list[tuple[int, int]] = []
        last = 0
        for span in sorted(self.spans):
            start, end = span
            if start < end:
                if not joined or start > last:
                    joined.append(span)
                    last = end
                elif end > last:
                    joined[-1] = (joined[-1][0], end)
                    last = end
            elif end < start:
                raise ValueError(f"the range {start:#x} to {end:#x} ends before it starts")
        object.__setattr__(self, "spans", tuple(joined))
        object.__setattr__(self, "_starts", tuple(start for start, _ in joined))

    @classmethod
    def of(cls, spans: Iterable[tuple[int, int]]) -> Ranges:
        """The set of all integers in these ranges."""
        return cls(tuple(spans))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges, ascending."""
        return iter(self.spans)

    def __repr__(self) -> str:
        return shown(self, str(self))

    def __str__(self) -> str:
        """The first few ranges for people: `0x1000-0x1010`."""
        return some((f"{start:#x}-{end:#x}" for start, end in self.spans), len(self.spans)) or "empty"

    def __bool__(self) -> bool:
        """Whether the set is not empty."""
        return bool(self.spans)

    def __len__(self) -> int:
        """How many ranges."""
        return len(self.spans)

    @property
    def size(self) -> int:
        """How many integers."""
        return sum(end - start for start, end in self.spans)

    def __contains__(self, address: int) -> bool:
        """Whether the set holds this integer."""
        return self.around(address) is not None

    def around(self, address: int) -> tuple[int, int] | None:
        """The range that holds this integer; None when there is none."""
        index = bisect_right(self._starts, address) - 1
        return self.spans[index] if index >= 0 and address < self.spans[index][1] else None

    def covers(self, start: int, end: int) -> bool:
        """Whether the set holds all of [start, end). True for an empty range."""
        if start >= end:
            return True
        found = self.around(start)
        return found is not None and end <= found[1]

    def _nearest(self, other: Ranges) -> int:
        """The number of the first range that can meet one of `other`. So a small set is quick with a large one."""
        return max(0, bisect_right(self._starts, other._starts[0]) - 1) if other else 0

    def __or__(self, other: Ranges) -> Ranges:
        """The integers that are in either set."""
        return Ranges(self.spans + other.spans)

    def __and__(self, other: Ranges) -> Ranges:
        """The integers that are in both sets."""
        both: list[tuple[int, int]] = []
        mine, theirs = self._nearest(other), other._nearest(self)
        while mine < len(self.spans) and theirs < len(other.spans):
            (start, end), (low, high) = self.spans[mine], other.spans[theirs]
            if max(start, low) < min(end, high):
                both.append((max(start, low), min(end, high)))
            if end < high:
                mine += 1
            else:
                theirs += 1
        return Ranges(tuple(both))

    def __sub__(self, other: Ranges) -> Ranges:
        """The integers that are in this set, but not in the other."""
        left: list[tuple[int, int]] = []
        theirs = other._nearest(self)
        for start, end in self.spans:
            while theirs < len(other.spans) and other.spans[theirs][1] <= start:
                theirs += 1
            index = theirs
            while index < len(other.spans) and other.spans[index][0] < end:
                low, high = other.spans[index]
                left.append((start, max(start, low)))
                start = min(end, max(start, high))
                index += 1
            left.append((start, end))
        return Ranges(tuple(left))

    def pieces(self, size: int) -> Iterator[tuple[int, int]]:
        """The ranges, cut into pieces of at most `size` integers; each range is cut from its start on."""
        for start, end in self.spans:
            for at in range(start, end, size):
                yield at, min(at + size, end)

    def whole(self, size: int) -> Ranges:
        """The set with the ends of each range moved inwards to multiples of `size`."""
        rounded = ((-(-start // size) * size, end // size * size) for start, end in self.spans)
        return Ranges.of((start, end) for start, end in rounded if start < end)

    def joined(self, gap: int) -> Ranges:
        """The set, with each gap of at most `gap` integers between two ranges filled."""
        if not gap:
            return self
        filled: list[tuple[int, int]] = []
        for span in self.spans:
            if filled and span[0] - filled[-1][1] <= gap:
                filled[-1] = (filled[-1][0], span[1])
            else:
                filled.append(span)
        return Ranges(tuple(filled))

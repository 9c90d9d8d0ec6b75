"""Ranges against sets of integers, which cannot be wrong."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.ranges import Ranges

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))), max_size=8)


def members(ranges: Ranges) -> set[int]:
    return {each for start, end in ranges for each in range(start, end)}


@given(SPANS)
def test_spans_are_sorted_and_apart(spans: list[tuple[int, int]]) -> None:
    ranges = Ranges.of(spans)
    assert members(ranges) == {each for start, end in spans for each in range(start, end)}
    flat = [edge for span in ranges for edge in span]
    assert flat == sorted(set(flat)), "ranges that touch are one"
    assert ranges.size == len(members(ranges))
    assert bool(ranges) == bool(members(ranges)) == (len(ranges) > 0)


@given(SPANS, SPANS)
def test_two_sets(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    mine, theirs = Ranges.of(one), Ranges.of(other)
    assert members(mine | theirs) == members(mine) | members(theirs)
    assert members(mine & theirs) == members(mine) & members(theirs)
    assert members(mine - theirs) == members(mine) - members(theirs)
    assert (mine == theirs) == (members(mine) == members(theirs))


@given(SPANS, st.integers(0, 60), st.integers(0, 12))
def test_what_it_holds(spans: list[tuple[int, int]], start: int, size: int) -> None:
    ranges = Ranges.of(spans)
    assert (start in ranges) == (start in members(ranges))
    assert ranges.covers(start, start + size) == (set(range(start, start + size)) <= members(ranges))
    found = ranges.around(start)
    assert found is None or (found in ranges.spans and found[0] <= start < found[1])


@given(SPANS, st.integers(1, 9))
def test_pieces(spans: list[tuple[int, int]], size: int) -> None:
    pieces = list(Ranges.of(spans).pieces(size))
    assert Ranges.of(pieces) == Ranges.of(spans)
    assert all(0 < end - start <= size for start, end in pieces)
    assert sum(end - start for start, end in pieces) == Ranges.of(spans).size


@given(SPANS, st.integers(1, 9))
def test_whole(spans: list[tuple[int, int]], size: int) -> None:
    ranges = Ranges.of(spans)
    units = [range(at, at + size) for at in range(0, 60, size)]
    assert members(ranges.whole(size)) == {each for unit in units if members(ranges).issuperset(unit) for each in unit}


@given(SPANS, st.integers(0, 9))
def test_joined(spans: list[tuple[int, int]], gap: int) -> None:
    ranges = Ranges.of(spans)
    held = members(ranges)
    between = [range(end, start) for (_, end), (start, _) in pairwise(ranges)]
    filled = {each for empty in between if len(empty) <= gap for each in empty}
    assert members(ranges.joined(gap)) == held | filled


def test_a_range_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        Ranges(((5, 3),))

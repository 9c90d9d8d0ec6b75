"""What is remembered of a machine, and what is not."""

from __future__ import annotations

import pytest

from a64patch.targets import witnesses
from a64patch.targets.witnesses import Witnesses

A, B, C, D = b"aaaa", b"bbbb", b"cccc", b"dddd"


def test_a_word_that_was_read_and_written_is_a_witness() -> None:
    seen = Witnesses()
    seen.note_reads([(8, A), (4, B)])
    assert seen.requests == []
    seen.note_writes([(8, C)])
    assert seen.requests == [(8, 4)]
    assert seen.foreign([A]) is None
    assert seen.foreign([C]) is None
    assert seen.foreign([B]) == (8, B)


def test_every_word_that_was_written_counts_and_the_one_before_the_first() -> None:
    seen = Witnesses()
    seen.note_reads([(8, A)])
    for word in (B, C):
        seen.note_writes([(8, word)])
        seen.note_reads([(8, word)])
    assert [seen.foreign([word]) for word in (A, B, C, D)] == [None, None, None, (8, D)]


def test_a_packet_of_several_words_is_several_witnesses() -> None:
    seen = Witnesses()
    seen.note_reads([(4, A), (8, B), (12, A + B)])
    seen.note_writes([(0, D + C + D + C)])
    assert seen.requests == [(4, 4), (8, 4)]
    assert seen.foreign([C, D]) is None
    assert seen.foreign([C, C]) == (8, C)


def test_a_word_that_was_read_only_after_the_first_write_is_no_witness() -> None:
    """The write may have been lost."""
    seen = Witnesses()
    seen.note_writes([(8, A)])
    seen.note_reads([(8, A)])
    assert seen.requests == []


def test_so_many_words_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witnesses, "MAX_WITNESSES", 3)
    seen = Witnesses()
    seen.note_reads([(0, A)])
    seen.note_reads([(4, A), (8, A)])
    seen.note_writes([(0, B), (4, B)])
    seen.note_reads([(12, A)])
    seen.note_writes([(8, B)])
    assert seen.requests == [(0, 4), (4, 4)], "what was read at 8 is forgotten: a fourth word would not fit"
    seen.note_reads([(16, A)])
    seen.note_writes([(12, B), (16, B)])
    assert seen.requests == [(0, 4), (4, 4), (12, 4)]
    seen.note_writes([(12, C)])
    assert seen.foreign([B, B, C]) is None, "one that is remembered goes on to be"


def test_reads_of_other_sizes_displace_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witnesses, "MAX_WITNESSES", 4)
    seen = Witnesses()
    seen.note_reads([(8, A)])
    seen.note_reads([(16 * number, A + B) for number in range(1, 9)])
    seen.note_writes([(8, C)])
    assert seen.requests == [(8, 4)]

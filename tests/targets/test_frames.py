"""Where CPUs will return to, read from stacks as Linux makes them: across an exception, too."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from a64patch.targets.frames import MAX_FRAMES, Piece, follow_frames, without_signatures

STACK = 0xFFFF800008003000
SITE = 0xFFFF800008100000


class Memory:
    """A stack that begins at STACK, in whole pages or not. A piece of it is read as a whole, or not at all."""

    def __init__(self, size: int = 1024, *, big_endian: bool = False) -> None:
        self.stack = bytearray(size)
        self.big_endian = big_endian
        self.trips: list[list[Piece]] = []

    def put(self, at: int, *values: int) -> None:
        struct.pack_into(f"{'>' if self.big_endian else '<'}{len(values)}Q", self.stack, at, *values)

    def read(self, pieces: Sequence[Piece]) -> list[bytes]:
        self.trips.append(list(pieces))
        return [self._piece(address - STACK, size) for _, address, size in pieces]

    def _piece(self, at: int, size: int) -> bytes:
        return bytes(self.stack[at : at + size]) if at >= 0 and at + size <= len(self.stack) else b""


def returns(memory: Memory, head: int) -> list[int]:
    return follow_frames([STACK + head], memory.read, big_endian=memory.big_endian)[0]


def test_records_are_followed_from_the_first_byte_of_a_stack() -> None:
    memory = Memory()
    memory.put(0, STACK + 64, SITE)
    memory.put(64, 0, SITE + 8)
    assert returns(memory, 0) == [SITE, SITE + 8]


@pytest.mark.parametrize("big_endian", [False, True])
def test_the_link_register_of_an_interrupted_function_counts(big_endian: bool) -> None:
    """It had no frame record yet, or never has one: only the saved registers know where it returns to."""
    memory = Memory(big_endian=big_endian)
    memory.put(0, STACK + 16 + 304, SITE)
    before, pc, link = STACK + 512, SITE + 0x100, SITE + 0x204
    memory.put(16 + 29 * 8, before, link, 0, pc)
    memory.put(16 + 304, before, pc)
    memory.put(512, 0, SITE + 0x300)
    assert returns(memory, 0) == [SITE, pc, link, SITE + 0x300]


@pytest.mark.parametrize("big_endian", [False, True])
def test_linux_since_6_13_ends_the_chain_at_an_exception(big_endian: bool) -> None:
    memory = Memory(big_endian=big_endian)
    memory.put(0, STACK + 16 + 296, SITE)
    before, pc, link = STACK + 512, SITE + 0x100, SITE + 0x204
    memory.put(16 + 29 * 8, before, link, 0, pc)
    memory.put(16 + 296, 0, 0, 2)
    memory.put(512, 0, SITE + 0x300)
    assert returns(memory, 0) == [SITE, pc, link, SITE + 0x300]


def test_what_lies_below_an_ordinary_record_does_not_count() -> None:
    memory = Memory()
    memory.put(0, *[SITE + 0x100] * 16)
    memory.put(128, 0, SITE)
    assert returns(memory, 128) == [SITE]


def test_what_kind_a_record_is_of_may_be_told_on_the_next_page() -> None:
    memory = Memory(8192)
    memory.put(4080 - 64, STACK + 6000, SITE + 0x204, 0, SITE + 0x100)
    memory.put(4080, 0, 0, 2)
    memory.put(6000, 0, SITE + 0x300)
    assert returns(memory, 4080) == [SITE + 0x100, SITE + 0x204, SITE + 0x300]


def test_only_a_record_of_saved_registers_stands_for_an_exception() -> None:
    """Where a user's program entered the kernel the record is empty too, and the chain ends."""
    memory = Memory()
    memory.put(0, STACK + 16 + 296, SITE)
    memory.put(16 + 29 * 8, STACK + 512, SITE + 0x204, 0, SITE + 0x100)
    memory.put(16 + 296, 0, 0, 1)
    memory.put(512, 0, SITE + 0x300)
    assert returns(memory, 0) == [SITE, 0]


@pytest.mark.parametrize("size", [4096, 4096 - 8, 1000])
def test_a_record_at_the_very_end_of_a_stack_counts(size: int) -> None:
    memory = Memory(size)
    memory.put(0, STACK + size - 16, SITE)
    memory.put(size - 16, 0, SITE + 8)
    assert returns(memory, 0) == [SITE, SITE + 8]


@pytest.mark.parametrize(
    "head", [0, 8, STACK + 4, STACK - 8, STACK + 1024, (1 << 64) - 8, 1 << 63], ids=lambda head: f"{head:#x}"
)
def test_a_chain_that_begins_nowhere_has_no_addresses(head: int) -> None:
    memory = Memory()
    memory.put(0, *[SITE] * 128)
    assert follow_frames([head], memory.read) == [[]]
    assert len(memory.trips) <= 2
    assert all(address >= 0 for trip in memory.trips for _, address, _ in trip)


def test_a_reader_may_give_less_than_it_was_asked_for() -> None:
    memory = Memory()
    memory.put(128, STACK + 512, SITE)
    memory.put(512, 0, SITE + 8)

    def half(pieces: Sequence[Piece]) -> list[bytes]:
        return [stack[: max(16, len(stack) // 4)] for stack in memory.read(pieces)]

    assert follow_frames([STACK + 128], half) == [[SITE, SITE + 8]]


def chain(memory: Memory, distance: int) -> int:
    """Fill a stack with records, so many bytes apart, each with an address of its own; how many there are."""
    places = range(0, len(memory.stack) - distance, distance)
    for number, at in enumerate(places):
        memory.put(at, STACK + at + distance, SITE + 4 * number)
    return len(places)


@pytest.mark.parametrize("distance", [16, 512])
def test_so_many_records_are_followed_and_no_more(distance: int) -> None:
    memory = Memory((MAX_FRAMES + 8) * distance)
    assert chain(memory, distance) > MAX_FRAMES
    assert returns(memory, 0) == [SITE + 4 * number for number in range(MAX_FRAMES)]
    assert len(memory.trips) <= MAX_FRAMES + 1, "the first record is asked for twice, since the stack begins there"


def test_a_circle_ends() -> None:
    memory = Memory()
    memory.put(256, STACK + 256, SITE)
    assert set(returns(memory, 256)) == {SITE}
    memory.put(256, STACK + 768, SITE)
    memory.put(768, STACK + 256, SITE + 4)
    assert len(returns(memory, 256)) == MAX_FRAMES


def test_neighbouring_records_of_all_cpus_come_in_one_trip() -> None:
    """A trip over a wire costs more than the bytes that it brings."""
    memory = Memory()
    chain(memory, 32)
    found = follow_frames([STACK + 96, STACK + 800, 0, STACK + 512], memory.read, trips=1)
    assert [len(each) for each in found] == [6, 6, 0, 6]
    assert [[piece.cpu for piece in trip] for trip in memory.trips] == [[0, 1, 3]]


@pytest.mark.parametrize("trips", [1, 2, 8])
def test_trips_are_bounded(trips: int) -> None:
    memory = Memory(16384)
    chain(memory, 512)
    assert len(follow_frames([STACK + 512], memory.read, trips=trips)[0]) == len(memory.trips) == trips


def test_a_cpu_whose_chain_has_ended_is_asked_no_more() -> None:
    memory = Memory(4096)
    memory.put(1024, 0, SITE)
    memory.put(2048, STACK + 3072, SITE + 4)
    memory.put(3072, 0, SITE + 8)
    assert follow_frames([STACK + 1024, STACK + 2048], memory.read) == [[SITE], [SITE + 4, SITE + 8]]
    assert [[piece.cpu for piece in trip] for trip in memory.trips] == [[0, 1], [1]]


KERNEL, USER = 0xFFFF800008100040, 0x0000AAAA00100040


@pytest.mark.parametrize(
    ("signed", "plain"),
    [
        (KERNEL, KERNEL),
        (USER, USER),
        (KERNEL & ~(1 << 63), KERNEL),
        (KERNEL & ~(0xFF7F << 48) | 0x122A << 48, KERNEL),
        (USER | 1 << 63, USER),
        (USER | 0xFF2A << 48, USER),
        (USER | 0x007F << 48, USER),
    ],
    ids=hex,
)
def test_bit_55_says_in_which_half_a_signed_address_lies(signed: int, plain: int) -> None:
    """The code may have any value in the bits around it, bit 63 included."""
    assert list(without_signatures([signed])) == [signed, plain]

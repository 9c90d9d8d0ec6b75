"""Where a stopped thread will return, on stacks that the tests make: what counts, what is old, what nobody knows.

Read on: ../real/test_stacks.py has stacks that real programs make.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.errors import FormatError, ReadError
from a64patch.ranges import Ranges
from a64patch.targets import maps as mappings
from a64patch.targets.maps import Maps
from a64patch.targets.section import Found
from a64patch.targets.stacks import MOST_BYTES, MOST_FRAMES, MOST_STACKS, KeepOut, ThreadRegisters, _Stacks, found_in
from a64patch.targets.unwinding import SP, Row, Rule, UnwindTable

CODE = 0xAAAAD2C80000
STACK, TOP = 0xFFFFC0000000, 0xFFFFC0010000
ALTERNATE = 0xFFFF90000000
SITE = CODE + 0x8000
KEEP_OUT = Ranges(((SITE, SITE + 16),))
SIGNED = 0x2A << 48 | 0xB4 << 56
TRAMPOLINE = CODE + 0xF000

LEAF = CODE + 0x1000
"""A function that has changed nothing."""
SAVED = CODE + 0x2000
"""A function with 32 bytes of stack, the frame record lowest."""
OUTERMOST = CODE + 0x3000
BARE = CODE + 0x4000
"""Code without an entry."""
IN_X19 = CODE + 0x5000
"""A function that keeps its return address in x19."""
ROWS: Mapping[int, Row] = {
    LEAF: Row(LEAF, LEAF + 0x1000, (SP, 0), {}, 30),
    SAVED: Row(SAVED, SAVED + 0x1000, (SP, 32), {29: Rule("at", -32), 30: Rule("at", -24)}, 30),
    OUTERMOST: Row(OUTERMOST, OUTERMOST + 0x1000, (SP, 0), {30: Rule("undefined")}, 30),
    IN_X19: Row(IN_X19, IN_X19 + 0x1000, (SP, 0), {30: Rule("register", 19)}, 30),
    SITE: Row(SITE, SITE + 0x1000, (SP, 32), {29: Rule("at", -32), 30: Rule("at", -24)}, 30),
}


class Table(NamedTuple):
    """Stands for an UnwindTable."""

    rows: Mapping[int, Row]
    only_behind_calls: set[int]

    def suits_each_instruction(self, row: Row) -> bool:
        return row.start not in self.only_behind_calls

    def row(self, pc: int) -> Row | None:
        return next((row for row in self.rows.values() if row.start <= pc < row.end), None)


class Process:
    """A process with code and a stack."""

    def __init__(self, *more: mappings.Mapping, rows: Mapping[int, Row] = ROWS) -> None:
        self.memory: dict[int, bytearray] = {}
        self.rows = rows
        self.maps = Maps(
            sorted(
                [
                    mappings.Mapping(CODE, CODE + 0x10000, "r-xp", 0, "fe:01", 1, "/bin/program"),
                    mappings.Mapping(STACK, TOP, "rw-p", path="[stack]"),
                    *more,
                ]
            )
        )
        for mapping in self.maps:
            self.memory[mapping.start] = bytearray(min(mapping.end - mapping.start, 1 << 20))
        self.put(TRAMPOLINE, 0xD4000001D2801168)
        self.x = [0] * 31
        self.sp, self.pc = TOP - 0x1000, LEAF
        self.reads: list[tuple[int, int]] = []
        self.only_behind_calls: set[int] = set()
        self.thread_pointer = 0

    def put(self, address: int, *words: int) -> None:
        [(start, data)] = [each for each in self.memory.items() if each[0] <= address < each[0] + len(each[1])]
        struct.pack_into(f"<{len(words)}Q", data, address - start, *words)

    def read(self, address: int, size: int) -> bytes:
        self.reads.append((address, size))
        found = b""
        for start, data in sorted(self.memory.items()):
            at = address + len(found)
            if start <= at < start + len(data):
                found += data[at - start :][: size - len(found)]
        if not found:
            raise ReadError(f"{address:#x} is not mapped")
        return found

    def interrupted(self, frame: int, x: list[int], sp: int, pc: int) -> None:
        """A signal frame, as Linux writes it."""
        self.put(frame + 312, *x, sp, pc, 0)
        self.put(frame + 592, 0x0000021046508001)

    def found(self, keep_out: Ranges = KEEP_OUT) -> Found | None:
        thread = ThreadRegisters(7, "worker\n", tuple(self.x), self.sp, self.pc)
        table = cast("UnwindTable", Table(self.rows, self.only_behind_calls))
        return found_in(
            thread, KeepOut(keep_out), self.maps, self.read, signature_bits=0x7F << 48,
            cfi=lambda pc: table if CODE <= pc < CODE + 0x10000 else None, thread_pointer=lambda: self.thread_pointer,
        )  # fmt: skip


WHO = "thread 7 (worker?)"
WILL = Found(-1, SITE + 4, False, WHO)


def test_who_stands_there_is_found() -> None:
    process = Process()
    process.pc = SITE + 12
    assert process.found() == Found(-1, SITE + 12, True, WHO)
    process.pc = SITE + 16
    assert process.found() is None


def test_without_a_word_that_leads_there_one_read_is_enough() -> None:
    process = Process()
    process.put(process.sp, SITE - 4, SITE + 16, SITE + 1 << 8)
    assert process.found() is None
    assert process.reads == [(process.sp, 0x1000)]


def test_an_empty_keep_out_needs_no_read() -> None:
    process = Process()
    assert process.found(Ranges()) is None
    assert process.reads == []


@pytest.mark.parametrize("signature", [0, SIGNED])
def test_the_link_register_of_a_leaf_counts(signature: int) -> None:
    process = Process()
    process.x[30] = SITE + 4 | signature
    assert process.found() == WILL


@pytest.mark.parametrize("signature", [0, SIGNED])
def test_a_saved_link_register_counts_and_the_one_before_does_not(signature: int) -> None:
    process = Process()
    process.pc = SAVED + 8
    process.x[30] = SITE + 8
    process.put(process.sp, 0, SITE + 4 | signature, 0, 0, 0, OUTERMOST + 4)
    assert process.found() == WILL
    process.put(process.sp, 0, OUTERMOST + 4)
    assert process.found() is None


def test_an_old_word_on_the_stack_does_not_count() -> None:
    """As after longjmp, or in a buffer that was never filled."""
    process = Process()
    process.pc = SAVED + 8
    process.put(process.sp, 0, SAVED + 4, SITE + 4, SITE + 8, 0, OUTERMOST + 4, SITE + 4)
    assert process.found() is None


def test_a_return_address_in_another_register_counts() -> None:
    process = Process()
    process.x[30] = IN_X19 + 12
    process.x[19] = SITE + 4
    process.put(process.sp, 0, OUTERMOST + 4)
    assert process.found() == WILL
    process.x[30] = OUTERMOST + 4
    assert process.found() is None


def test_a_call_may_be_the_last_instruction_of_its_function() -> None:
    """As of a function that does not return: the address behind the call belongs to the next function."""
    process = Process()
    process.x[30] = SAVED + 0x1000
    process.put(process.sp, 0, SITE + 4, 0, 0, 0, OUTERMOST + 4)
    assert process.found() == WILL


def test_the_interrupted_instruction_may_be_the_first_of_its_function() -> None:
    process = Process()
    process.pc, process.x[30] = SAVED, SITE + 4
    process.rows = {**ROWS, SAVED: ROWS[LEAF]._replace(start=SAVED, end=SAVED + 4)}
    process.put(process.sp, 0, OUTERMOST + 4)
    assert process.found() == WILL


def test_a_return_address_of_zero_may_be_the_end_or_a_wrong_table() -> None:
    process = Process()
    process.pc = SAVED + 8
    process.put(process.sp, 0, 0, SITE + 4)
    assert process.found() is None
    process.put(process.sp + 32, SITE + 4)
    assert "its outermost return address is 0" in doubt_of(process)


def test_an_entry_that_is_right_behind_calls_only_leaves_a_doubt_elsewhere() -> None:
    process = Process()
    process.only_behind_calls.add(SAVED)
    process.put(process.sp, 0, OUTERMOST + 4, SITE + 4)
    process.x[30] = SAVED + 8
    assert process.found() is None
    process.pc = SAVED + 8
    assert doubt_of(process).endswith("its unwind entry is right behind calls only, and it is elsewhere")


def doubt_of(process: Process) -> str:
    found = process.found()
    assert found is not None
    assert found[:4] == (-1, SITE + 4, False, WHO)
    return found.doubt


def test_a_stack_that_cannot_be_followed_leaves_a_doubt() -> None:
    process = Process()
    process.pc = SAVED + 8
    process.put(process.sp, 0, BARE + 4, 0, 0, SITE + 4)
    doubt = doubt_of(process)
    assert doubt == (
        f"a word of its stack is this address, and its stack cannot be followed beyond {BARE + 4:#x}: no unwind entry"
        " is for this code"
    )
    process.put(process.sp, 0, BARE + 4, SITE + 4, 0, 0)
    assert process.found() is None, "the word belongs to a frame that was left"


@pytest.mark.parametrize("register", [0, 9, 18, 19, 28, 30])
def test_any_register_may_hold_the_return_address_of_code_without_an_entry(register: int) -> None:
    process = Process()
    process.pc, process.x[register] = BARE, SITE + 4 | SIGNED
    assert doubt_of(process).startswith("a register holds this address")


def test_a_register_that_a_followed_frame_has_saved_counts_as_saved() -> None:
    process = Process(rows={**ROWS, SAVED: ROWS[SAVED]._replace(rules={30: Rule("at", -24), 19: Rule("at", -16)})})
    process.pc = SAVED + 8
    process.x[19] = SITE + 4
    process.put(process.sp, 0, BARE + 4, 1)
    assert process.found() is None
    process.put(process.sp, 0, BARE + 4, SITE + 4)
    assert doubt_of(process).startswith("a register holds this address")


def test_frame_records_are_a_second_opinion() -> None:
    process = Process()
    process.pc, process.x[29] = BARE, process.sp + 64
    process.put(process.sp + 64, process.sp + 128, BARE + 8)
    process.put(process.sp + 128, 0, SITE + 4 | SIGNED)
    assert process.found() == WILL


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (Row(SAVED, SAVED + 64, None, {30: Rule("at", -24)}, 30), "its frame address is an expression"),
        (Row(SAVED, SAVED + 64, (9, 0), {30: Rule("at", -24)}, 30), "its unwind entry contradicts its stack pointer"),
        (Row(SAVED, SAVED + 64, (72, 0), {30: Rule("at", -24)}, 30),
         "its unwind entry needs a register that is not known (72)"),
        (Row(SAVED, SAVED + 64, (SP, 32), {30: Rule("unknown")}, 30), "its return address is not known"),
        (Row(SAVED, SAVED + 64, (SP, 32), {30: Rule("at", 1 << 40)}, 30),
         f"its stack cannot be read at {TOP - 0x1000 + 32 + (1 << 40):#x}"),
        (Row(SAVED, SAVED + 64, (SP, 32), {30: Rule("at", -24)}, 15), "its return address is in no usual register"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_tell_leaves_a_doubt(row: Row, why: str) -> None:
    process = Process(rows={SAVED: row})
    process.pc = SAVED + 8
    process.put(process.sp + 64, SITE + 4)
    assert doubt_of(process).endswith(f"cannot be followed beyond {SAVED + 8:#x}: {why}")


def test_a_caller_cannot_have_its_return_address_in_the_link_register() -> None:
    """Its call has changed x30. Linkers' outlined functions have such callers, without a word in the tables."""
    process = Process()
    process.x[30], process.x[9] = LEAF + 0x20, SITE + 4
    assert "takes the return address from x30" in doubt_of(process)


def test_a_table_of_garbage_leaves_a_doubt() -> None:
    process = Process()
    process.put(process.sp, SITE + 4)

    def broken(pc: int) -> UnwindTable | None:
        raise FormatError("the unwind table is garbage")

    thread = ThreadRegisters(7, "", tuple(process.x), process.sp, process.pc)
    found = found_in(thread, KeepOut(KEEP_OUT), process.maps, process.read, signature_bits=0, cfi=broken)
    assert found is not None
    assert found.doubt.endswith("the unwind table is garbage")


def test_frames_without_end_leave_a_doubt() -> None:
    process = Process(rows={IN_X19: ROWS[IN_X19]})
    process.pc = IN_X19
    process.x[19] = IN_X19 + 8
    process.put(process.sp, SITE + 4)
    assert doubt_of(process).endswith(f"it has more than {MOST_FRAMES} frames")


def test_old_registers_do_not_tell_where_a_callers_frame_is() -> None:
    process = Process(rows={**ROWS, SAVED: ROWS[SAVED]._replace(cfa=(9, 32))})
    process.x[30], process.x[9] = SAVED + 8, process.sp
    process.put(process.sp + 64, SITE + 4)
    assert doubt_of(process).endswith("a register that is not known (9)")


# Signals


def handled(process: Process, frame: int) -> None:
    """The process is in a signal handler whose frame is here; it has saved its own frame record."""
    process.sp, process.pc = frame - 32, SAVED + 8
    process.put(frame - 32, 0, TRAMPOLINE)


def test_what_a_signal_interrupted_counts_with_its_registers() -> None:
    process = Process()
    frame = TOP - 0x3000
    handled(process, frame)
    x = [0] * 31
    x[30] = SITE + 4 | SIGNED
    process.interrupted(frame, x, TOP - 0x1000, LEAF)
    process.put(TOP - 0x1000, 0, OUTERMOST + 4)
    assert process.found() == WILL
    x[30] = OUTERMOST + 4
    process.interrupted(frame, x, TOP - 0x1000, SITE + 4)
    process.put(TOP - 0x1000, 0, OUTERMOST + 4)
    assert process.found() == WILL, "the handler returns to it"


@pytest.mark.parametrize("distance", [0, 4, 8])
def test_a_thread_on_its_way_out_of_a_handler_is_followed(distance: int) -> None:
    process = Process()
    process.sp, process.pc = TOP - 0x3000, TRAMPOLINE + distance
    x = [0] * 31
    x[30] = SITE + 4
    process.interrupted(process.sp, x, TOP - 0x1000, LEAF)
    assert process.found() == WILL


def alternate() -> Process:
    """A handler on a stack of its own, in memory below the stack that it interrupted."""
    process = Process(mappings.Mapping(ALTERNATE, ALTERNATE + 0x4000, "rw-p"))
    frame = ALTERNATE + 0x2000
    handled(process, frame)
    process.interrupted(frame, [0] * 31, TOP - 0x800, SAVED + 8)
    process.put(TOP - 0x800, 0, SITE + 4, 0, 0, 0, OUTERMOST + 4)
    process.reads.clear()
    return process


def test_the_stack_that_a_handler_on_another_stack_interrupted_counts() -> None:
    process = alternate()
    assert process.found() == WILL
    process.put(TOP - 0x800, 0, OUTERMOST + 4)
    process.put(TOP - 0x400, SITE + 4)
    assert process.found() is None, "an old word"
    process.put(TOP - 0x400, 0)
    process.reads.clear()
    assert process.found() is None
    assert process.reads == [(ALTERNATE + 0x1FE0, 0x2020), (TOP - 0x800, 0x800)]


def test_a_stack_below_the_handlers_in_the_same_mapping_counts() -> None:
    process = Process()
    frame = TOP - 0x1000
    handled(process, frame)
    process.interrupted(frame, [0] * 31, TOP - 0x3000, BARE)
    process.put(TOP - 0x2800, SITE + 4)
    assert doubt_of(process).startswith("a word of its stack")
    assert process.reads[:2] == [(frame - 32, 0x1020), (TOP - 0x3000, 0x1FE0)], "no byte is read twice"


def test_a_signal_frame_that_is_none_leaves_a_doubt() -> None:
    process = alternate()
    process.put(ALTERNATE + 0x2000 + 592, 0)
    process.put(ALTERNATE + 0x3000, SITE + 4)
    assert doubt_of(process).endswith(f"no signal frame is at {ALTERNATE + 0x2000:#x}")


def test_a_stack_that_two_others_lead_to_is_read_once() -> None:
    above = ALTERNATE + 0x20000
    process = Process(*(mappings.Mapping(start, start + 0x10000, "rw-p") for start in (ALTERNATE, above)))
    process.pc = OUTERMOST
    process.interrupted(process.sp, [0] * 31, above, BARE)
    process.interrupted(process.sp + 0x300, [0] * 31, ALTERNATE, BARE)
    process.interrupted(above, [0] * 31, ALTERNATE, BARE)
    assert process.found() is None
    assert process.reads == [(process.sp, 0x1000), (above, 0x10000), (ALTERNATE, 0x10000)]


def test_stacks_without_end_leave_a_doubt() -> None:
    """A program can write any number of signal frames."""
    process = Process(mappings.Mapping(ALTERNATE, ALTERNATE + (1 << 20), "rw-p"))
    process.pc = BARE
    for number in range(MOST_STACKS + 2):
        process.interrupted(process.sp, [0] * 31, ALTERNATE + 0x100000 - 0x800 * (number + 1), BARE)
        process.sp -= 0x300
    process.sp += 0x300
    found = process.found()
    assert found is not None
    assert found.address == SITE, "an address of keep_out stands for what is not known"
    assert found.doubt.startswith(f"it has more than {MOST_STACKS} stacks, and its stack cannot be followed beyond")


# Stacks that cannot be read


def gap_of(process: Process) -> str:
    """The doubt when the stack cannot be followed; it can be, so nothing is missing."""
    assert process.found() is None
    process.pc = BARE
    found = process.found()
    assert found is not None
    assert found.address == SITE
    assert found.does == "may return to"
    return found.doubt.partition(", and its stack cannot be followed")[0]


def test_a_stack_pointer_outside_all_mappings_leaves_a_doubt() -> None:
    process = Process()
    process.sp, process.x[30] = TOP + 0x100000, OUTERMOST + 4
    assert gap_of(process) == f"its stack pointer {TOP + 0x100000:#x} is in no mapping"


def test_a_part_of_a_stack_that_cannot_be_read_leaves_a_doubt() -> None:
    process = Process()
    process.x[30] = OUTERMOST + 4
    process.memory[STACK] = process.memory[STACK][: TOP - STACK - 0x400]
    assert gap_of(process) == f"its stack cannot be read at {TOP - 0x400:#x}"


def test_too_large_a_stack_leaves_a_doubt() -> None:
    process = Process(mappings.Mapping(ALTERNATE, ALTERNATE + MOST_BYTES + 0x1000, "rw-p"))
    process.memory[ALTERNATE] = bytearray(MOST_BYTES + 0x1000)
    process.sp, process.x[30] = ALTERNATE, OUTERMOST + 4
    assert gap_of(process) == "it has more than 64 MiB of stack"
    assert sum(size for _, size in process.reads[: len(process.reads) // 2]) <= MOST_BYTES + 64


def test_the_end_of_a_stack_is_an_empty_stack() -> None:
    process = Process()
    process.sp, process.pc = TOP, BARE
    assert process.found() is None


def test_a_stack_that_has_yet_to_grow_is_read_from_its_lowest_page() -> None:
    """A function has made room, and has not touched it: Linux maps it then."""
    process = Process()
    process.sp, process.pc = STACK - 0x2000, BARE
    process.put(STACK + 0x100, SITE + 4)
    assert doubt_of(process).startswith("a word of its stack")


def test_a_stack_ends_before_the_block_of_its_thread() -> None:
    """Behind it is a heap, of more bytes than would be read."""
    process = Process(mappings.Mapping(TOP, TOP + 2 * MOST_BYTES, "rw-p"))
    process.pc, process.thread_pointer = BARE, TOP + 0x100
    process.put(TOP - 8, SITE + 12)
    process.put(TOP + 0x100, SITE + 8)
    found = process.found()
    assert found is not None
    assert found.doubt.startswith("a word of its stack is this address")
    assert found.address == SITE + 12
    process.put(TOP - 8, 0)
    process.reads.clear()
    assert process.found() is None
    assert process.reads == [(process.sp, 0x1100)]


@pytest.mark.parametrize("thread_pointer", [0, TOP - 0x1000, STACK + 8, TOP + (1 << 20), TOP + (2 << 20), CODE])
def test_a_thread_pointer_elsewhere_ends_no_stack(thread_pointer: int) -> None:
    process = Process(mappings.Mapping(TOP, TOP + (1 << 20), "rw-p"))
    process.pc, process.thread_pointer = BARE, thread_pointer
    process.put(TOP + 0xFFFF8, SITE + 12)
    found = process.found()
    assert found is not None
    assert found.address == SITE + 12
    process.put(TOP + 0xFFFF8, 0)
    assert process.found() is None, "all of it was read"


def test_a_stack_goes_on_in_the_next_mapping() -> None:
    """Pages with other flags, such as locked ones, are a mapping of their own; a guard page may be below."""
    process = Process(
        mappings.Mapping(ALTERNATE, ALTERNATE + 0x1000, "---p"),
        mappings.Mapping(ALTERNATE + 0x1000, ALTERNATE + 0x2000, "rw-p"),
        mappings.Mapping(ALTERNATE + 0x2000, ALTERNATE + 0x3000, "rwxp"),
        mappings.Mapping(ALTERNATE + 0x3000, ALTERNATE + 0x4000, "r--p"),
    )
    process.pc = BARE
    for sp in (ALTERNATE + 0xF00, ALTERNATE + 0x1800):
        process.sp = sp
        process.put(ALTERNATE + 0x2800, 0)
        process.put(ALTERNATE + 0x3000, SITE + 4)
        assert process.found() is None, "behind the end"
        process.put(ALTERNATE + 0x2800, SITE + 4)
        assert doubt_of(process).startswith("a word of its stack")


# Garbage

WORDS = st.sampled_from(
    [0, SITE + 4, SITE + 4 | SIGNED, LEAF + 8, SAVED + 8, IN_X19 + 4, BARE, OUTERMOST, TRAMPOLINE, STACK, TOP - 0x1000,
     TOP - 0xF80, TOP - 8, ALTERNATE, 0x0000021046508001, (1 << 64) - 1, (1 << 64) - 8, 1 << 63]
) | st.integers(0, (1 << 64) - 1)  # fmt: skip


@given(st.lists(WORDS, min_size=33, max_size=33), st.lists(WORDS, max_size=150), st.booleans())
def test_any_registers_and_any_stack_have_an_answer(registers: list[int], stack: list[int], is_whole: bool) -> None:
    process = Process()
    *process.x, process.sp, process.pc = registers
    process.put(TOP - 0x1000, *stack)
    if not is_whole:
        process.memory[STACK] = process.memory[STACK][: TOP - STACK - 0x200]
    found = process.found()
    assert found is None or found.address in KEEP_OUT
    if found is None:
        assert process.pc not in KEEP_OUT


@given(
    st.lists(st.integers(0, (1 << 64) - 1), max_size=40),
    st.integers(0, (1 << 47) - 1),
    st.integers(1, 1 << 24),
    st.sampled_from([0, 0x7F << 48, 0x7FFF << 39]),
    st.booleans(),
)
def test_the_quick_search_overlooks_no_word(
    words: list[int], low: int, size: int, signature_bits: int, near: bool
) -> None:
    """The middle bytes of an address that is looked for are on each stack that holds one, whatever its signature."""
    wanted = Ranges(((low, low + size),))
    if near:
        words = [(low + word % size) & ~signature_bits | word & signature_bits for word in words]
    data = struct.pack(f"<{len(words)}Q", *words)
    stack = mappings.Mapping(0x10000, 0x10000 + max(len(data), 8), "rw-p")
    stacks = _Stacks(0x10000, Maps([stack]), lambda address, size: data, ~(signature_bits | 0x1FF << 55))
    if len(stacks.holding(KeepOut(wanted))):
        assert stacks.may_hold(KeepOut(wanted))


@given(
    st.lists(st.integers(0, 90), max_size=60),
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 9)), min_size=1, max_size=12),
    st.sampled_from([0, 0x7F << 48]),
)
def test_words_in_any_of_many_ranges_are_found(
    offsets: list[int], spans: list[tuple[int, int]], signature_bits: int
) -> None:
    words = [CODE + offset | (signature_bits & offset << 48) for offset in offsets]
    wanted = Ranges.of((CODE + start, CODE + start + size) for start, size in spans)
    data = struct.pack(f"<{len(words)}Q", *words)
    stack = mappings.Mapping(0x10000, 0x10000 + max(len(data), 8), "rw-p")
    stacks = _Stacks(0x10000, Maps([stack]), lambda address, size: data, ~(signature_bits | 0x1FF << 55))
    plain = [CODE + offset for offset in offsets]
    rows = [(0x10000 + 8 * index, words[index]) for index, each in enumerate(plain) if each in wanted]
    assert stacks.holding(KeepOut(wanted)).tolist() == [list(row) for row in rows]

"""What stands in for the words that Unicorn must not execute, and that the real words come back."""

from __future__ import annotations

import pytest

from a64patch.a64.assembler import assemble, assemble_one
from a64patch.a64.words import to_bytes
from a64patch.ranges import Ranges
from a64patch.targets.fetched import Fetched, Trap, trap_of
from a64patch.targets.program import Memory, load_words

BASE = 0x10FF8


@pytest.mark.parametrize(
    ("text", "trap"),
    [
        ("isb", Trap.SYNCHRONISE),
        ("isb #0", Trap.SYNCHRONISE),
        ("dsb sy", Trap.BARRIER),
        ("dsb nsh", Trap.BARRIER),
        (".inst 0xd503323f", Trap.BARRIER),  # dsb ishnxs belongs to a later version of the architecture
        ("dsb ishst", Trap.STORE_BARRIER),
        ("dsb st", Trap.STORE_BARRIER),
        ("dsb ld", Trap.NOTHING),
        ("ssbb", Trap.NOTHING),
        ("pssbb", Trap.NOTHING),
        ("dmb ish", None),
        ("mrs x3, ctr_el0", Trap.READ_CTR_EL0),
        ("mrs x3, dczid_el0", None),
        ("dc cvau, x3", Trap.CLEAN),
        ("dc cvac, x3", Trap.CLEAN),
        ("dc civac, x3", Trap.CLEAN),
        ("dc zva, x3", None),
        ("ic ivau, x3", Trap.INVALIDATE),
        ("ic ialluis", Trap.INVALIDATE_ALL),
        ("ic iallu", Trap.INVALIDATE_OWN),
        ("wfe", Trap.NOTHING),
        ("wfi", Trap.NOTHING),
        ("yield", Trap.NOTHING),
        ("sev", None),
        ("nop", None),
        ("svc #0", None),
    ],
)
def test_what_the_simulator_carries_out_itself(text: str, trap: Trap | None) -> None:
    word = assemble_one(text, BASE)
    assert trap_of(word) is trap
    memory = Memory()
    memory.add([(BASE, BASE + 4, False)])
    memory.write(BASE, to_bytes(word))
    fetched = Fetched(memory, Ranges(((BASE, BASE + 4),)))
    for _ in range(2):
        assert fetched.word(BASE) == word
        assert fetched.replaced(BASE) == (None if trap is None else word)
        assert (executed(fetched, BASE) != word) == (trap is not None)
        fetched.put(BASE, 0x12345678)
        assert fetched.word(BASE) == executed(fetched, BASE) == 0x12345678
        assert fetched.replaced(BASE) is None
        fetched.put(BASE, word)


def executed(fetched: Fetched, address: int) -> int:
    """The word that is in the buffer."""
    [piece] = [piece for start, piece in fetched.pieces if start <= address < start + len(piece)]
    return int.from_bytes(piece[address % 4096 : address % 4096 + 4], "little")


def test_each_range_of_code_is_where_it_was_and_nothing_else_is_code() -> None:
    program = load_words(assemble("isb; nop; mov x1, #1; isb", BASE), base=BASE, data={0x20000: b"data"})
    fetched = Fetched(program.memory, program.code | Ranges(((0x20000, 0x20004),)))
    assert [(start, len(piece)) for start, piece in fetched.pieces] == [(0x10000, 8192), (0x20000, 4096)]
    assert [fetched.word(BASE + 4 * n) for n in range(4)] == assemble("isb; nop; mov x1, #1; isb", BASE)
    assert fetched.word(0x20000) == int.from_bytes(b"data", "little")
    assert fetched.word(BASE - 4) == fetched.word(BASE + 16) == 0
    # Each has a copy of its own.
    fetched.put(BASE, 1)
    assert Fetched(program.memory, program.code).word(BASE) != 1
    with pytest.raises(LookupError):
        fetched.word(0x30000)


@pytest.mark.parametrize(
    ("address", "size", "inside"),
    [(BASE, 8, True), (BASE, 9, False), (BASE - 1, 2, False), (BASE + 7, 1, True), (BASE + 8, 0, True)],
)  # fmt: skip
def test_where_code_begins_and_ends(address: int, size: int, inside: bool) -> None:
    program = load_words([0, 0], base=BASE, data={0x20000: b"data"})
    assert program.is_code(address, size) is inside


def test_code_may_be_stored_to_where_its_page_is_writable() -> None:
    # Two pages, the second one shared with data.
    code = (BASE, BASE + 16)
    assert load_words([0] * 4, base=BASE).writable_code == []
    assert load_words([0] * 4, base=BASE, writable=True).writable_code == [code]
    assert load_words([0] * 4, base=BASE, data={0x11800: b"x"}).writable_code == [code]
    assert load_words([0] * 2, base=BASE, data={0x11000: b"x"}).writable_code == []
    assert load_words([0] * 2, base=0x10000, data={0xF000: b"x"}).writable_code == []

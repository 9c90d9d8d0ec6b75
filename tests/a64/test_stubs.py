"""Stubs that jump through a slot in memory, in the forms of every linker, and code that only looks alike."""

from __future__ import annotations

import pytest

from a64patch.a64.assembler import assemble
from a64patch.a64.stubs import Stub, find_stubs
from a64patch.a64.words import to_bytes
from a64patch.errors import AlignmentError

BASE = 0x10000
LOAD = "adrp x16, 0x30000; ldr x17, [x16, #0xc68]"
SLOT = 0x30C68


def stubs(text: str, address: int = BASE) -> list[Stub]:
    return list(find_stubs(to_bytes(assemble(text, address)), address))


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        # GNU ld and lld: bfd/elfnn-aarch64.c, elfNN_aarch64_small_plt_entry; lld/ELF/Arch/AArch64.cpp, writePlt.
        (f"{LOAD}; add x16, x16, #0xc68; br x17", 0, 16),
        (f"bti c; {LOAD}; add x16, x16, #0xc68; br x17; nop", 0, 20),
        (f"{LOAD}; add x16, x16, #0xc68; autia1716; br x17; nop", 0, 20),
        (f"bti c; {LOAD}; add x16, x16, #0xc68; autia1716; br x17", 0, 24),
        (f"{LOAD}; add x16, x16, #0xc68; braa x17, x16; nop", 0, 16),
        # mold's .plt.got has no ADD.
        (f"{LOAD}; br x17; nop", 0, 12),
        # The first entry calls the binder.
        (f"bti c; stp x16, x30, [sp, #-16]!; {LOAD}; add x16, x16, #0xc68; br x17; nop", 8, 24),
        (f"ret; {LOAD}; add x16, x16, #0xc68; br x17", 4, 20),
        (f"bti j; {LOAD}; add x16, x16, #0xc68; br x17", 4, 20),
    ],
)
def test_forms_of_linkers(text: str, start: int, end: int) -> None:
    assert stubs(text) == [Stub(BASE + start, BASE + end, SLOT)]


@pytest.mark.parametrize(
    "text",
    [
        "br x17",
        "ldr x17, [x16, #0xc68]; br x17",
        f"{LOAD}; br x16",
        f"{LOAD}; blr x17",
        f"{LOAD}; braa x17, x15",
        f"{LOAD}; mov x17, x1; br x17",
        f"{LOAD}; bl 0x20000; br x17",
        f"{LOAD}; nop; nop; nop; nop; br x17",
        f"{LOAD}; .inst 0; br x17",
        "adrp x16, 0x30000; mov x16, x1; ldr x17, [x16, #0xc68]; br x17",
        "adrp x16, 0x30000; ldr w17, [x16, #0xc68]; br x17",
        "adr x16, 0x30000; ldr x17, [x16, #0xc68]; br x17",
        # The thunk of a linker, and a module's PLT entry, hold the address itself.
        "adrp x16, 0x30000; add x16, x16, #0xc68; br x16",
        "adrp x17, 0x30000; add x17, x17, #0xc68; br x17",
    ],
)
def test_other_code(text: str) -> None:
    assert stubs(text) == []


def test_stubs_one_behind_the_other() -> None:
    one = f"{LOAD}; add x16, x16, #0xc68; br x17"
    two = "adrp x16, 0x31000; ldr x17, [x16]; add x16, x16, #0; br x17"
    assert stubs(f"{one}; {two}") == [Stub(BASE, BASE + 16, SLOT), Stub(BASE + 16, BASE + 32, 0x31000)]


def test_a_jump_across_two_words_is_none() -> None:
    code = to_bytes(assemble(f"{LOAD}; add x16, x16, #0xc68", BASE)) + b"\0\0" + bytes.fromhex("20021fd6") + b"\0\0"
    assert list(find_stubs(code, BASE)) == []


def test_an_address_that_no_instruction_has() -> None:
    with pytest.raises(AlignmentError):
        list(find_stubs(b"", 2))

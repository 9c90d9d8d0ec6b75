"""Stubs that jump to an address out of memory, as linkers make them for functions of other files (PLT entries).

Read on: effects.py and references.py decode the words; ../targets/elf_image.py names the stubs of a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from a64patch.a64.effects import effects_of
from a64patch.a64.encodings import row_named
from a64patch.a64.generate import gen_branch_reg
from a64patch.a64.predicates import decode
from a64patch.a64.references import reference
from a64patch.a64.row import PAGE_SIZE, Flow
from a64patch.a64.words import INSN_SIZE, from_bytes, require_aligned, to_bytes

LONGEST_STUB = 6
"""Words: BTI C, ADRP, LDR, ADD, AUTIA1716, BR."""
_SLOT, _GOAL = 16, 17
"""The registers of the slot's address and of the goal: IP0 and IP1, the only ones that a linker may change (AAPCS64,
6.1.1)."""
_SLOT_BYTES = 8


class Stub(NamedTuple):
    """The code [start, end) loads an address from memory and jumps to this address."""

    start: int
    end: int
    slot: int
    """The address of the 8 bytes of memory that hold the goal."""


def find_stubs(code: bytes, address: int) -> Iterator[Stub]:
    """The stubs in the code at `address`, ascending. AlignmentError when the address is not a multiple of 4.

    A stub is, in this order:

    - BTI C, or nothing;
    - ADRP of a page;
    - LDR of X17 from an offset in that page;
    - words that neither change the flow nor replace X17: ADD, AUTIA1716;
    - BR X17, or BRAA X17, X16.

    So GNU ld, lld, gold and mold write the entries of a PLT, with and without BTI and PAC. NOPs behind the jump are not
    a part of the stub. The first entry of a PLT, which calls the lazy binder, is a stub too: its slot is the binder's.
    Compiled code may have the same form.
    """
    require_aligned(address)
    for place in sorted(place for jump in _jumps() for place in _places(code, jump)):
        first = max(0, place - INSN_SIZE * (LONGEST_STUB - 1))
        found = _stub(from_bytes(code[first:place]), address + first)
        if found is not None:
            yield found


@cache
def _jumps() -> tuple[bytes, ...]:
    """The jumps that end a stub, as they are in memory."""
    signed = row_named("braa")
    braa = signed.value | _GOAL << signed.fields["rn"].lsb | _SLOT << signed.fields["rm"].lsb
    return to_bytes(gen_branch_reg(_GOAL)), to_bytes(braa)


def _places(code: bytes, jump: bytes) -> Iterator[int]:
    """The offsets of the whole words in the code that are this jump."""
    place = code.find(jump)
    while place >= 0:
        if place % INSN_SIZE == 0:
            yield place
        place = code.find(jump, place + 1)


def _stub(words: Sequence[int], address: int) -> Stub | None:
    """The stub that ends with a jump behind these words, the first of them at `address`; None when it is no stub."""
    wanted, offset = f"x{_GOAL}", 0
    is_loaded = False
    for index in range(len(words) - 1, -1, -1):
        row, does = decode(words[index]), effects_of(words[index])
        if row is None or does is None or row.flow is not Flow.NEXT:
            return None
        if wanted not in does.writes:
            continue
        if not is_loaded:
            if does.low_half is not None and does.memory is not None and does.memory.size == _SLOT_BYTES:
                wanted, offset, is_loaded = does.low_half.base, does.low_half.offset, True
            elif wanted not in does.reads:
                return None
            continue
        refers = reference(row)
        if refers is None or refers.unit != PAGE_SIZE:
            return None
        before = effects_of(words[index - 1]) if index else None
        first = index - (before is not None and "c" in before.lands)
        page = refers.target(words[index], address + INSN_SIZE * index)
        return Stub(address + INSN_SIZE * first, address + INSN_SIZE * (len(words) + 1), page + offset)
    return None

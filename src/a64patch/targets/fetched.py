"""The code as one CPU has fetched it, with stand-ins for the words that Unicorn must not execute itself.

numpy loads when the first `Fetched` is made.
Read on: caches.py decides which words a CPU has fetched; cpu.py executes them, and carries out the replaced words.
"""

from __future__ import annotations

import mmap
from enum import Enum, auto

from a64patch.a64.words import INSN_SIZE, as_array, to_bytes
from a64patch.ranges import Ranges
from a64patch.targets.program import PAGE, Memory

SVC = 0xD4000001
"""SVC #0."""
_NOP = 0xD503201F
# An SVC that no program is likely to have. Its address tells which word it replaces.
_STAND_IN = SVC | 0xA64 << 5


class Trap(Enum):
    """The effects that the simulator carries out itself."""

    SYNCHRONISE = auto()
    """ISB."""
    BARRIER = auto()
    """DSB that waits for loads and stores, nXS or not."""
    STORE_BARRIER = auto()
    """DSB that waits for stores."""
    READ_CTR_EL0 = auto()
    """MRS Xt, CTR_EL0."""
    CLEAN = auto()
    """DC CVAU and stronger, of the line at Xt."""
    INVALIDATE = auto()
    """IC IVAU, of the line at Xt."""
    INVALIDATE_ALL = auto()
    """IC IALLUIS."""
    INVALIDATE_OWN = auto()
    """IC IALLU."""
    NOTHING = auto()
    """WFE, WFI and YIELD, which would end a CPU's turn early; barriers that complete no cache maintenance."""


# Mask and value; the first that fits decides. Arm ARM, C6.2 (ISB, DSB, WFE, …) and C5.3 (DC, IC).
_TRAPPED = (
    (0xFFFFF0FF, 0xD50330DF, Trap.SYNCHRONISE),
    # CRm<1:0> is 0b11 for loads and stores, 0b10 for stores; SSBB and PSSBB are among the others (B2.3.12).
    (0xFFFFF3FF, 0xD503339F, Trap.BARRIER),
    (0xFFFFF3FF, 0xD503323F, Trap.BARRIER),
    (0xFFFFF3FF, 0xD503329F, Trap.STORE_BARRIER),
    (0xFFFFF0FF, 0xD503309F, Trap.NOTHING),
    (0xFFFFFFE0, 0xD53B0020, Trap.READ_CTR_EL0),
    (0xFFFFFFFF, 0xD508711F, Trap.INVALIDATE_ALL),
    (0xFFFFFFFF, 0xD508751F, Trap.INVALIDATE_OWN),
    (0xFFFFFFE0, 0xD50B7520, Trap.INVALIDATE),
    # A clean to the point of coherency or persistence also reaches the point of unification.
    *((0xFFFFFFE0, 0xD50B7020 | crm << 8, Trap.CLEAN) for crm in (10, 11, 12, 13, 14)),
    (0xFFFFFFDF, 0xD503205F, Trap.NOTHING),  # WFE, WFI
    (0xFFFFFFFF, 0xD503203F, Trap.NOTHING),  # YIELD
    (0xFFFFFFC0, 0xD5031000, Trap.NOTHING),  # WFET, WFIT
)


def trap_of(word: int) -> Trap | None:
    """The effect that the simulator carries out for this word; None for a word that Unicorn executes."""
    return next((trap for mask, value, trap in _TRAPPED if word & mask == value), None)


class Fetched:
    """A private copy of the code at its addresses (bytes): the words that one CPU would execute.

    `pieces` are the buffers that Unicorn executes, each with its first address: whole pages, 0 where there is no
    code, and a stand-in for each word that `trap_of` knows.
    """

    def __init__(self, memory: Memory, code: Ranges) -> None:
        """All code fetched from memory as it is now."""
        import numpy

        self.pieces: list[tuple[int, mmap.mmap]] = []
        self._replaced: dict[int, int] = {}
        for start, end in Ranges.of((start & -PAGE, -(-end // PAGE) * PAGE) for start, end in code):
            self.pieces.append((start, mmap.mmap(-1, end - start)))
        for start, end in code:
            words = as_array(memory.read(start, end - start))
            at, piece = self._piece(start)
            piece[start - at : end - at] = words.tobytes()
            hits = {
                int(place)
                for mask, value, _ in _TRAPPED
                for place in numpy.flatnonzero(words & numpy.uint32(mask) == numpy.uint32(value))
            }
            for place in hits:
                self.put(start + place * INSN_SIZE, int(words[place]))

    def add(self, start: int, end: int) -> mmap.mmap:
        """A piece for more pages of code, which hold zeros."""
        piece = mmap.mmap(-1, end - start)
        self.pieces.append((start, piece))
        return piece

    def remove(self, start: int) -> None:
        """Forget the piece that begins there."""
        self.pieces = [piece for piece in self.pieces if piece[0] != start]

    def word(self, address: int) -> int:
        """The word at a multiple of 4 in the code."""
        replaced = self._replaced.get(address)
        if replaced is not None:
            return replaced
        start, piece = self._piece(address)
        return int.from_bytes(piece[address - start : address - start + INSN_SIZE], "little")

    def replaced(self, address: int) -> int | None:
        """The word that a stand-in at this address replaces; None when the piece holds the word itself."""
        return self._replaced.get(address)

    def put(self, address: int, word: int) -> None:
        """Put the word that is fetched at this address from now on."""
        trap = trap_of(word)
        if trap is None:
            self._replaced.pop(address, None)
            shown = word
        else:
            self._replaced[address] = word
            shown = _NOP if trap is Trap.NOTHING else _STAND_IN
        start, piece = self._piece(address)
        piece[address - start : address - start + INSN_SIZE] = to_bytes(shown)

    def _piece(self, address: int) -> tuple[int, mmap.mmap]:
        for start, piece in self.pieces:
            if 0 <= address - start < len(piece):
                return start, piece
        raise LookupError(f"there is no code at {address:#x}")

"""What an instruction does besides going on: registers read and written, memory accessed, addresses completed.

Read on: references.py for what a word refers to relative to the PC; row.py for what a row of the table says itself.

Derived from the operands of the word's row. A field Rd is written. Rt and Rt2 are written by loads, any other register
is read. A base that is written back, and what stands before a `!`, is both. Where an instruction does otherwise, its
row says so (`reads`, `writes`), as it does for registers that its text does not show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from a64patch.a64.integer_operands import LowBits
from a64patch.a64.operands import Registers
from a64patch.a64.predicates import decode
from a64patch.a64.row import PAGE_SIZE, Encoding, Field, Immediate
from a64patch.a64.templates import Piece, templates
from a64patch.errors import EncodingError

_REMEMBERED = 1 << 16
_IMM12 = Immediate((Field(10, 12),), signed=False)
_DATA = {"rt", "rt2"}
"""The fields of the registers that loads write and stores read."""


@dataclass(frozen=True, slots=True)
class Memory:
    """An access to memory. Prefetches and cache maintenance are none; the guarded control stack is not counted."""

    loads: bool
    stores: bool
    size: int | None
    """Bytes, of all registers together; None when the word does not say it: tags, copies, DC ZVA."""


@dataclass(frozen=True, slots=True)
class LowHalf:
    """How a word gives the low 12 bits of an address to the page in a register: what `:lo12:` is written for."""

    base: str
    """The register that holds the page: `x0` to `x30`, or `sp`."""
    unit: int
    """Bytes that the word counts in: 1 for ADD, the size of the access for a load or a store."""
    offset: int
    """Bytes from the page on."""

    def encode(self, word: int, address: int) -> int:
        """The word with the low 12 bits of `address` (bytes); EncodingError when that is no multiple of the unit."""
        number, rest = divmod(address % PAGE_SIZE, self.unit)
        if rest:
            raise EncodingError(f"{address:#x} is not a multiple of {self.unit} bytes")
        return _IMM12.encode(word, number)


@dataclass(frozen=True, slots=True)
class Effects:
    """What one word does.

    Registers are called `x0` to `x30`, `sp`, `v0` to `v31` and `nzcv`, whatever part of them is used; XZR is none.
    """

    reads: frozenset[str]
    writes: frozenset[str]
    """What may change. A part of a register counts as the whole; it is then also among `reads`."""
    memory: Memory | None
    low_half: LowHalf | None
    """The address that it completes, if it does."""
    lands: frozenset[str]
    """Which indirect branches may land on it where landing pads are needed: calls `c`, jumps `j` (Arm ARM D8.4.5)."""


@lru_cache(maxsize=_REMEMBERED)
def effects_of(word: int) -> Effects | None:
    """What the instruction does by itself; None when the table has no row for the word. EncodingError: no word.

    Not counted: what a called function or an exception handler changes, FPCR and FPSR, and system registers other
    than NZCV. Whether a word of its row is UNDEFINED is not checked: such has the effects that its fields spell.
    """
    row = decode(word)
    return None if row is None else _of_row(row).of(word)


@cache
def completes_addresses(row: Encoding) -> bool:
    """Whether words of the row may give the low 12 bits of an address: `low_half` tells about one of them."""
    return "imm12" in row.fields and _of_row(row).low is not None


_SYSTEM = {
    0xD53B4200: ("nzcv", ""),
    0xD51B4200: ("", "nzcv"),
    0xD5184200: ("", "sp"),
    0xD53B2400: ("", "nzcv"),
    0xD53B2420: ("", "nzcv"),
}
"""What they read and write beside Rt (C5.2): MRS and MSR of NZCV; MSR of SPSel, after which SP is another register; MRS
of RNDR and RNDRRS, which say by NZCV whether there is a number."""


class _OfRow:
    """The effects of a row's words, as far as they are the same for all."""

    def __init__(self, row: Encoding) -> None:
        self._row = row
        self._operands: dict[str, tuple[Registers, tuple[str, ...]]] = {}
        """By the field that holds a register's number: the operand, and all its fields."""
        both = set[str]()
        for template in templates(row):
            for piece in template.pieces:
                if isinstance(piece.operand, Registers):
                    self._operands.setdefault(piece.fields[piece.operand.position], (piece.operand, piece.fields))
            both.update(_written_back(template.pieces))
        reads, writes = {*row.reads.split(), *both}, {*row.writes.split(), *both, "rd"}
        if row.memory == "load":
            writes |= _DATA
        self._registers: list[tuple[Field, tuple[tuple[str, ...], ...], bool, bool]] = []
        for name, (operand, _) in self._operands.items():
            read = name in reads or name not in writes
            self._registers.append((row.fields[name], operand.registers, read, name in writes))
        self._reads = frozenset(reads - set(self._operands))
        self._writes = frozenset(writes - set(self._operands) - _DATA - {"rd"})
        self._lands = frozenset(row.lands)
        self.low = _unit_of_low_half(row)

    def of(self, word: int) -> Effects:
        """The effects of one of the row's words."""
        reads, writes = set(self._reads), set(self._writes)
        for field, registers, read, written in self._registers:
            number = field.get(word)
            if number < len(registers):
                if read:
                    reads.update(registers[number])
                if written:
                    writes.update(registers[number])
        if self._row.table == "System register move":
            also_reads, also_writes = _SYSTEM.get(word & ~0x1F, ("", ""))
            reads.update(also_reads.split())
            writes.update(also_writes.split())
        memory = self._row.memory
        return Effects(
            frozenset(reads),
            frozenset(writes),
            Memory("load" in memory, "store" in memory, self._size(word)) if memory else None,
            self._low_half(word),
            self._lands,
        )

    def _size(self, word: int) -> int | None:
        if self._row.size != 0:
            return self._row.size
        return sum(
            operand.width([self._row.fields[name].get(word) for name in fields])
            for data, (operand, fields) in self._operands.items()
            if data in _DATA
        )

    def _low_half(self, word: int) -> LowHalf | None:
        fields = self._row.fields
        if self.low is None or ("sh" in fields and fields["sh"].get(word)):
            return None
        base = fields["rn"].get(word)
        return LowHalf(f"x{base}" if base < 31 else "sp", self.low, self.low * fields["imm12"].get(word))


def _written_back(pieces: Sequence[Piece]) -> Iterator[str]:
    """The fields of registers that a spelling shows to be written back: `[x1]!`, `[x1, #8]!`, `[x1], #8`, `x2!`."""
    base = last = ""
    opened = False
    for piece in pieces:
        if isinstance(piece.operand, Registers):
            last = piece.fields[piece.operand.position]
            if opened:
                base = last
            opened = False
        elif piece.literal:
            inside, bracket, behind = piece.literal.partition("]")
            if base and bracket:
                if behind.startswith(("!", ",")):
                    yield base
                base = ""
            elif inside.startswith("!"):
                yield last
            opened = piece.literal.endswith("[")


def _unit_of_low_half(row: Encoding) -> int | None:
    """The bytes that the row's imm12 counts in, where it completes an address: SUB and ADDS complete none."""
    if not {"sub_imm", "adds_imm", "subs_imm"}.isdisjoint(row.families):
        return None
    for template in templates(row):
        for piece in template.pieces:
            if isinstance(piece.operand, LowBits):
                return piece.operand.unit
    return None


@cache
def _of_row(row: Encoding) -> _OfRow:
    return _OfRow(row)

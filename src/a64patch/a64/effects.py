"""The effects of an instruction: registers read and written, memory accessed, addresses completed.

Read on: references.py for addresses relative to the PC; collisions.py for registers that must differ; row.py for the
effects that a row of the table names itself.

The effects follow from the operands of the word's row:
- Rd is written, and loads write Rt and Rt2.
- Every other register is read.
- A base with writeback, or a register before a `!`, is read and written.

`reads` and `writes` of a row name exceptions, and registers that the row's text does not show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

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


class Memory(NamedTuple):
    """An access to memory. Prefetches, cache maintenance and the guarded control stack do not count as accesses."""

    loads: bool
    stores: bool
    size: int | None
    """Bytes of all registers together; None when the word does not tell: tags, copies, DC ZVA."""


class LowHalf(NamedTuple):
    """How a word adds the low 12 bits of an address (`:lo12:`) to the address of a page in a register."""

    base: str
    """The register that holds the address of the page: `x0` to `x30`, or `sp`."""
    unit: int
    """Bytes in one unit of the word's immediate: 1 for ADD, the size of the access for a load or a store."""
    offset: int
    """Bytes from the beginning of the page."""

    def encode(self, word: int, address: int) -> int:
        """The word with the low 12 bits of `address` (bytes). EncodingError when they are no multiple of the unit."""
        number, rest = divmod(address % PAGE_SIZE, self.unit)
        if rest:
            raise EncodingError(f"{address:#x} is not a multiple of {self.unit} bytes")
        return _IMM12.encode(word, number)


class Effects(NamedTuple):
    """The effects of one word.

    Registers are named `x0` to `x30`, `sp`, `v0` to `v31` and `nzcv`, whatever part of them is used. XZR never appears.
    """

    reads: frozenset[str]
    writes: frozenset[str]
    """The registers that may change. When only a part of a register changes, the register is also in `reads`."""
    memory: Memory | None
    low_half: LowHalf | None
    """The low half of an address that the word completes; None for other words."""
    lands: frozenset[str]
    """The indirect branches for which the word is a landing pad: calls `c`, jumps `j` (Arm ARM D8.4.5)."""


@lru_cache(maxsize=_REMEMBERED)
def effects_of(word: int) -> Effects | None:
    """The instruction's own effects; None when the table has no row for it. EncodingError for a number that is no word.

    Not included: changes by a called function or an exception handler, FPCR and FPSR, system registers other than NZCV.
    Not checked: whether the word is UNDEFINED. An UNDEFINED word of a row has the effects of its fields.
    """
    row = decode(word)
    return None if row is None else _of_row(row).of(word)


@cache
def completes_addresses(row: Encoding) -> bool:
    """Whether words of the row may complete an address. For one word, `Effects.low_half` tells."""
    return "imm12" in row.fields and _of_row(row).low is not None


_SYSTEM = {
    0xD53B4200: ("nzcv", ""),
    0xD51B4200: ("", "nzcv"),
    0xD5184200: ("", "sp"),
    0xD53B2400: ("", "nzcv"),
    0xD53B2420: ("", "nzcv"),
}
"""(read, written) registers beside Rt of some MRS and MSR (C5.2): of NZCV; of SPSel, after which SP is another
register; of RNDR and RNDRRS, which set NZCV to tell whether there is a number."""


@cache
def register_operands(row: Encoding) -> dict[str, tuple[Registers, tuple[str, ...]]]:
    """For each field that holds a register's number: the operand, and all fields of the operand."""
    operands: dict[str, tuple[Registers, tuple[str, ...]]] = {}
    for template in templates(row):
        for piece in template.pieces:
            if isinstance(piece.operand, Registers):
                operands.setdefault(piece.fields[piece.operand.position], (piece.operand, piece.fields))
    return operands


@cache
def written_back(row: Encoding) -> frozenset[str]:
    """The fields of registers with writeback: `[x1]!`, `[x1, #8]!`, `[x1], #8`, `x2!`."""
    return frozenset(field for template in templates(row) for field in _written_back(template.pieces))


class _OfRow:
    """The common effects of all words of a row, and how the fields of a word complete them."""

    def __init__(self, row: Encoding) -> None:
        self._row = row
        self._operands = register_operands(row)
        both = written_back(row)
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
    """Bytes in one unit of the row's imm12, if it completes an address. SUB and ADDS complete none."""
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


def lands(word: int) -> frozenset[str]:
    """The indirect branches, calls `c` and jumps `j`, that may land on the word: see `Effects.lands`."""
    does = effects_of(word)
    return does.lands if does is not None else frozenset()

"""A row of the table: a name, a bit pattern with fields, spellings, and the instruction's effects.

Read on: tables/ holds the rows, encodings.py puts them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, overload

from a64patch.errors import EncodingError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


PAGE_SIZE = 4096
"""Bytes of a page for ADRP, whatever the translation granule (Arm ARM C6.2, ADRP)."""
ERRATUM_843419_OFFSETS = (0xFF8, 0xFFC)
"""The offsets in a page where an ADRP may compute a wrong address on Cortex-A53 (erratum 843419)."""


class Flow(Enum):
    """An instruction's effect on the PC."""

    NEXT = "next"
    BRANCH = "branch"
    CALL = "call"
    RETURN = "return"
    EXCEPTION = "exception"


class Field(NamedTuple):
    """`width` bits of a word, the lowest one at bit number `lsb`."""

    lsb: int
    width: int

    def get(self, word: int) -> int:
        """The bits, unsigned."""
        return (word >> self.lsb) & ((1 << self.width) - 1)


class Immediate(NamedTuple):
    """A number spread over `parts` of a word, the least significant part first."""

    parts: tuple[Field, ...]
    signed: bool

    @property
    def width(self) -> int:
        """The number of bits of all parts."""
        return sum(part.width for part in self.parts)

    @property
    def minimum(self) -> int:
        """The smallest number that fits."""
        return -(1 << self.width - 1) if self.signed else 0

    @property
    def maximum(self) -> int:
        """The largest number that fits."""
        return (1 << self.width - self.signed) - 1

    def encode(self, word: int, value: int) -> int:
        """The word with this number in its field; EncodingError when the number does not fit."""
        if not self.minimum <= value <= self.maximum:
            raise EncodingError(f"{value} does not fit: it must be from {self.minimum} to {self.maximum}")
        for part in self.parts:
            ones = (1 << part.width) - 1
            word = word & ~(ones << part.lsb) | (value & ones) << part.lsb
            value >>= part.width
        return word

    @overload
    def decode(self, word: int) -> int: ...
    @overload
    def decode(self, word: NDArray[numpy.uint32]) -> NDArray[numpy.int64]: ...
    def decode(self, word: int | NDArray[numpy.uint32]) -> int | NDArray[numpy.int64]:
        """The number in the word, with its sign; an array of uint32 gives an array of int64."""
        if isinstance(word, int):
            value, shift = 0, 0
            for part in self.parts:
                value |= part.get(word) << shift
                shift += part.width
            return value - (1 << shift) if self.signed and value >> shift - 1 else value
        import numpy

        words = word.astype(numpy.int64)
        values, shift = numpy.zeros(word.shape, numpy.int64), 0
        for part in self.parts:
            values |= (words >> part.lsb & (1 << part.width) - 1) << shift
            shift += part.width
        if self.signed:
            values -= (values >> shift - 1) << shift
        return values


_FIXED = str.maketrans("01x", "110")


@dataclass(frozen=True, eq=False)
class Encoding:
    """One row. Rows are compared by identity; `name` is unique."""

    name: str
    pattern: str
    """Bits 31 to 0: runs of 0 and 1, and fields as `name:width`, separated by spaces."""
    texts: tuple[str, ...]
    """Assembly templates (templates.py), the preferred first. All are accepted; the first that fits is printed."""
    families: tuple[str, ...]
    """The names for predicates: `is_bcond` is true for the rows of the family `bcond`."""
    table: str
    """The heading of the row's encoding table in Arm ARM C4.1."""
    flow: Flow = Flow.NEXT
    conditional: bool = False
    """The instruction may also go on with the next instruction."""
    literal: bool = False
    """The instruction reads or prefetches data at a PC-relative address."""
    feature: str = ""
    """The FEAT_ name that the instruction came with; empty for Armv8.0."""
    reads: str = ""
    """Reads that the operands do not show (effects.py): fields, and names of registers or `nzcv`."""
    writes: str = ""
    """Writes that the operands do not show, in the same form."""
    memory: str = ""
    """`load`, `store`, or `load store`, for an access to memory at an address from registers or a literal."""
    size: int | None = 0
    """Bytes of the access; 0 when the registers `rt` and `rt2` tell the size, None when the word does not tell it."""
    lands: str = ""
    """The indirect branches that may land on the instruction: `c` calls, `j` jumps (Arm ARM D8.4.5)."""

    @property
    def is_hole(self) -> bool:
        """Whether the row has no spelling: its words are unallocated, but would fit a wider row."""
        return not self.texts

    @cached_property
    def _bits(self) -> str:
        """Bits 31 to 0, an x for each bit of a field."""
        bits = ""
        for token in self.pattern.split():
            bits += "x" * int(token.partition(":")[2]) if ":" in token else token
        if len(bits) != 32:
            raise ValueError(f"row {self.name}: the pattern has {len(bits)} bits, not 32")
        return bits

    @cached_property
    def mask(self) -> int:
        """The bits that the pattern fixes."""
        return int(self._bits.translate(_FIXED), 2)

    @cached_property
    def value(self) -> int:
        """The values of the bits that the pattern fixes; all other bits are 0."""
        return int(self._bits.replace("x", "0"), 2)

    @cached_property
    def fields(self) -> dict[str, Field]:
        """The named fields; together with `mask` they cover all 32 bits once."""
        fields: dict[str, Field] = {}
        position = 32
        for token in self.pattern.split():
            name, _, width = token.partition(":")
            position -= int(width or len(token))
            if width:
                fields[name] = Field(position, int(width))
        return fields

    def matches(self, word: int) -> bool:
        """Whether the word fits the pattern. A row nested in this one may fit it more exactly: see `decode`."""
        return word & self.mask == self.value

    def contains(self, other: Encoding) -> bool:
        """Whether every word of the other row also fits this row."""
        return self.mask & other.mask == self.mask and other.value & self.mask == self.value

    def overlaps(self, other: Encoding) -> bool:
        """Whether some word fits both rows."""
        common = self.mask & other.mask
        return self.value & common == other.value & common


def rows(
    table: str,
    *entries: tuple[str, str, str | tuple[str, ...]],
    families: str = "",
    flow: Flow = Flow.NEXT,
    conditional: bool = False,
    literal: bool = False,
    feature: str = "",
    reads: str = "",
    writes: str = "",
    memory: str = "",
    size: int | None = 0,
    lands: str = "",
) -> Iterator[Encoding]:
    """Rows of one encoding table with common keyword arguments. A row's first family is its name up to a dot."""
    for name, pattern, texts in entries:
        own = name.partition(".")[0]
        yield Encoding(
            name=name,
            pattern=pattern,
            texts=(texts,) if isinstance(texts, str) else texts,
            families=(own, *families.split()),
            table=table,
            flow=flow,
            conditional=conditional,
            literal=literal,
            feature=feature,
            reads=reads,
            writes=writes,
            memory=memory,
            size=size,
            lands=lands,
        )


def holes(table: str, *patterns: str) -> Iterator[Encoding]:
    """Rows for words that fit a wider row of the same table, but are unallocated."""
    for pattern in patterns:
        yield Encoding(f"hole {pattern}", pattern, (), (), table)

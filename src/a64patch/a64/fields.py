"""Immediates inside a word: read them, set them, never silently truncate them.

Read on: generate.py makes whole words from these.

The kernel's counterparts (arch/arm64/lib/insn.c) truncate a value that does not fit, and return fields unsigned. Here a
value out of range is an EncodingError, and signed fields are read with their sign.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, overload

from a64patch.a64.predicates import decode
from a64patch.a64.row import PAGE_SIZE, Encoding, Field, Immediate
from a64patch.errors import EncodingError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


class ImmediateKind(Enum):
    """The immediates of the kernel's `enum aarch64_insn_imm_type`, with the sign that their instructions give them.

    Values are in units of the field: a branch offset of 8 bytes is 2 in IMM26, IMM19 and IMM14.
    """

    ADR = Immediate((Field(29, 2), Field(5, 19)), signed=True)
    """ADR: bytes; ADRP: pages of 4096 bytes."""
    IMM26 = Immediate((Field(0, 26),), signed=True)
    """B, BL: words."""
    IMM19 = Immediate((Field(5, 19),), signed=True)
    """B.cond, CBZ, CBNZ, loads of literals: words."""
    IMM16 = Immediate((Field(5, 16),), signed=False)
    """MOVZ, MOVN, MOVK, SVC, HVC, SMC, BRK, HLT."""
    IMM14 = Immediate((Field(5, 14),), signed=True)
    """TBZ, TBNZ: words."""
    IMM12 = Immediate((Field(10, 12),), signed=False)
    """ADD, SUB; loads and stores with an unsigned offset, in units of the access."""
    IMM9 = Immediate((Field(12, 9),), signed=True)
    """Loads and stores with pre-index, post-index and unscaled offset: bytes."""
    IMM7 = Immediate((Field(15, 7),), signed=True)
    """Pairs: in units of one register."""
    IMM6 = Immediate((Field(10, 6),), signed=False)
    """Shift amounts of shifted registers."""
    IMMS = IMM6
    """`imms` of bitfield moves and logical immediates, in the same bits as IMM6."""
    IMMR = Immediate((Field(16, 6),), signed=False)
    """`immr` of bitfield moves and logical immediates."""
    N = Immediate((Field(22, 1),), signed=False)
    """`N` of bitfield moves and logical immediates."""


def encode_immediate(kind: ImmediateKind, word: int, value: int) -> int:
    """`word` with `value` in its immediate of this kind. The value has the field's own units and sign.

    EncodingError when the value does not fit, and for a kind that is no ImmediateKind. This does not check whether the
    instruction has such an immediate.
    """
    return _immediate(kind).encode(word, value)


@overload
def decode_immediate(kind: ImmediateKind, word: int) -> int: ...
@overload
def decode_immediate(kind: ImmediateKind, word: NDArray[numpy.uint32]) -> NDArray[numpy.int64]: ...
def decode_immediate(kind: ImmediateKind, word: int | NDArray[numpy.uint32]) -> int | NDArray[numpy.int64]:
    """The immediate of this kind, in the field's own units and with its sign: the inverse of `encode_immediate`.

    The kernel's function with this name returns the bits unsigned. This does not check whether the instruction has
    such an immediate.
    """
    return _immediate(kind).decode(word)


def _immediate(kind: ImmediateKind) -> Immediate:
    if not isinstance(kind, ImmediateKind):
        raise EncodingError(f"{kind!r} is not an immediate kind: use one of ImmediateKind")
    return kind.value


OFFSET_FIELDS = ("imm26", "imm19", "imm14", "imm9")
"""The names of fields that hold the distance to a label, in words."""


def _offset_field(row: Encoding) -> Immediate:
    for name in OFFSET_FIELDS:
        if name in row.fields:
            return Immediate((row.fields[name],), signed=True)
    raise EncodingError(f"{row.name} has no branch offset")


def _branch_row(word: int) -> Encoding:
    row = decode(word)
    if row is None or "branch_imm" not in row.families:
        raise EncodingError(f"{word:#010x} is not a branch to a PC-relative label")
    return row


def get_branch_offset(word: int) -> int:
    """The distance in bytes from a branch to its target; EncodingError for any other word.

    For B, BL, B.cond, BC.cond, CBZ, CBNZ, TBZ, TBNZ, CB<cc>, CBB<cc> and CBH<cc>.
    """
    return 4 * _offset_field(_branch_row(word)).decode(word)


def set_branch_offset(word: int, offset: int) -> int:
    """The same branch with its target `offset` bytes away.

    EncodingError when the offset is no multiple of 4 or out of reach, and for a word that is no branch. The kernel's
    aarch64_set_branch_offset truncates an offset that does not fit.
    """
    row = _branch_row(word)
    return encode_offset(row, word, offset)


def encode_offset(row: Encoding, word: int, offset: int) -> int:
    """`word`, a word of `row`, with its target `offset` bytes away; EncodingError as `set_branch_offset`."""
    field = _offset_field(row)
    if offset % 4:
        raise EncodingError(f"a {row.name} cannot reach {offset:+d} bytes: branch offsets are multiples of 4")
    if not field.minimum <= offset // 4 <= field.maximum:
        raise EncodingError(
            f"a {row.name} cannot reach {offset:+d} bytes: it reaches {4 * field.minimum:+d} to {4 * field.maximum:+d}"
        )
    return field.encode(word, offset // 4)


def adrp_get_offset(word: int) -> int:
    """The distance in bytes from the page of an ADRP to its target page; EncodingError for another word."""
    _require_adrp(word)
    return PAGE_SIZE * ImmediateKind.ADR.value.decode(word)


def adrp_set_offset(word: int, offset: int) -> int:
    """The same ADRP with its target page `offset` bytes from its own page.

    EncodingError when the offset is no multiple of 4096 or out of reach (4 GiB), and for another word.
    """
    _require_adrp(word)
    if offset % PAGE_SIZE:
        raise EncodingError(f"an adrp cannot reach {offset:+d} bytes: page offsets are multiples of 4096")
    field = ImmediateKind.ADR.value
    if not field.minimum <= offset // PAGE_SIZE <= field.maximum:
        raise EncodingError(f"an adrp cannot reach {offset:+d} bytes: it reaches -4 GiB to +4 GiB less one page")
    return field.encode(word, offset // PAGE_SIZE)


def _require_adrp(word: int) -> None:
    row = decode(word)
    if row is None or row.name != "adrp":
        raise EncodingError(f"{word:#010x} is not an adrp")

"""Instruction words and their bytes. Only this file converts between them.

Read on: fields.py for the fields inside a word.
"""

from __future__ import annotations

import struct

from a64patch.errors import AlignmentError, EncodingError

TYPE_CHECKING = False  # typing's own, without loading typing
if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy
    from numpy.typing import NDArray

INSN_SIZE = 4
"""Bytes of an A64 instruction. Every one has this size (Arm ARM, C1.1)."""


def to_bytes(words: int | Iterable[int]) -> bytes:
    """The bytes of one word or several, as in memory.

    Instructions are always little-endian (Arm ARM, B2.6.2). SCTLR_EL1.EE and EI_DATA concern data only. EncodingError
    for a value that is not an unsigned 32-bit number.
    """
    values = [words] if isinstance(words, int) else list(words)
    try:
        return struct.pack(f"<{len(values)}I", *values)
    except struct.error:
        raise EncodingError("an instruction word must be a number from 0 to 0xffffffff") from None


def from_bytes(data: bytes) -> list[int]:
    """The words in these bytes: the inverse of `to_bytes`. AlignmentError when the size is no multiple of 4 bytes."""
    if len(data) % INSN_SIZE:
        raise AlignmentError(f"{len(data)} bytes are not a whole number of 4-byte instruction words")
    return list(struct.unpack(f"<{len(data) // INSN_SIZE}I", data))


def as_array(data: bytes | bytearray | memoryview) -> NDArray[numpy.uint32]:
    """The words in these bytes, as a numpy array of uint32 that shares their memory; AlignmentError as `from_bytes`."""
    import numpy

    if len(data) % INSN_SIZE:
        raise AlignmentError(f"{len(data)} bytes are not a whole number of 4-byte instruction words")
    return numpy.frombuffer(data, dtype="<u4")


def require_aligned(address: int) -> int:
    """The address itself when it is a multiple of 4 bytes; AlignmentError otherwise (Arm ARM, C1.1)."""
    if address % INSN_SIZE:
        raise AlignmentError(f"address {address:#x} is not a multiple of 4, so no instruction starts there")
    return address

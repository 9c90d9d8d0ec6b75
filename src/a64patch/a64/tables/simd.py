"""SIMD and floating point: the rows of the simd_*.py files, put together.

Read on: simd_memory.py, simd_fp.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding
from a64patch.a64.tables import (
    simd_crypto,
    simd_element,
    simd_fp,
    simd_fp8,
    simd_memory,
    simd_move,
    simd_shift,
    simd_vector,
)


def table() -> Iterator[Encoding]:
    """The rows of these files."""
    yield from simd_memory.table()
    yield from simd_fp.table()
    yield from simd_move.table()
    yield from simd_vector.table()
    yield from simd_shift.table()
    yield from simd_element.table()
    yield from simd_crypto.table()
    yield from simd_fp8.table()

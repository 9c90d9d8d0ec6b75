"""Kallsyms tables of every layout are decoded to the symbols that went in; nothing else is taken for such tables."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a64patch.errors import FormatError
from a64patch.kernel import kallsyms
from a64patch.kernel.kallsyms import KernelSymbol, decode
from tests.kernel.kernels import LAYOUTS, LINKED, Named, name_symbols, write_kallsyms

AT = LINKED + 0x800000
BEFORE = bytes(0x1000)


def symbols_of(layout: str, count: int = 700) -> list[Named]:
    symbols = name_symbols(count, LINKED + 0x10000)
    if layout in ("of each CPU", "absolute"):
        return [(0, "A", "percpu_first"), (0x40, "A", "percpu_second"), *symbols]
    return symbols


def expected(symbols: list[Named]) -> list[KernelSymbol]:
    return [KernelSymbol(*symbol) for symbol in symbols]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str) -> None:
    symbols = symbols_of(layout)
    tables = write_kallsyms(symbols, layout, AT + len(BEFORE))
    # What follows ascends nowhere; what stands before looks like data.
    data = BEFORE + bytes(tables.data) + random.Random(1).randbytes(0x4000)
    decoded = decode(data, AT)
    assert decoded.symbols == expected(symbols)
    based = layout not in ("absolute", "absolute last", "own place")
    assert decoded.base == (LINKED + 0x10000 if based else 0)
    if tables.base_at >= 0:
        assert decoded.base_at == len(BEFORE) + tables.base_at


@pytest.mark.parametrize("count", [300, 510, 511, 1000, 1021])
@pytest.mark.parametrize("layout", ["relative", "tables first", "packed", "own place"])
def test_numbers_of_symbols_around_a_block(layout: str, count: int) -> None:
    symbols = symbols_of(layout, count)
    tables = write_kallsyms(symbols, layout, AT)
    assert decode(bytes(tables.data), AT).symbols == expected(symbols)


def test_base_that_nothing_filled_in() -> None:
    symbols = symbols_of("relative")
    tables = write_kallsyms(symbols, "relative", AT, base=0)
    decoded = decode(BEFORE + bytes(tables.data))
    assert (decoded.base, decoded.base_at) == (0, len(BEFORE) + tables.base_at)
    assert [symbol.address for symbol in decoded.symbols] == [address - symbols[0][0] for address, _, _ in symbols]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.97])
def test_truncated_tables_are_refused(layout: str, share: float) -> None:
    data = bytes(write_kallsyms(symbols_of(layout), layout, AT).data)
    with pytest.raises(FormatError):
        decode(data[: int(len(data) * share)], AT)


def test_what_contradicts_itself_is_refused() -> None:
    symbols = symbols_of("relative")
    whole = bytes(write_kallsyms(symbols, "relative", AT).data)
    decoded = decode(whole, AT)
    index = whole.rfind(b"\0\0", 0, len(whole) - 510)
    for place in (index + 20, decoded.token_table - 10, decoded.base_at + 7, decoded.base_at - 41, decoded.base_at + 8):
        broken = bytearray(whole)
        broken[place] ^= 0x55
        with pytest.raises(FormatError):
            decode(bytes(broken), AT)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, bytes(1 << 16), kallsyms._DIGITS * 100, kallsyms._DIGITS])
def test_nothing_is_made_of_nothing(data: bytes) -> None:
    with pytest.raises(FormatError, match="no kallsyms tables were found"):
        decode(data)


@given(st.data())
@settings(max_examples=60)
def test_damaged_tables_are_refused_or_read(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(LAYOUTS))
    whole = _CACHE.setdefault(layout, bytes(write_kallsyms(symbols_of(layout, 400), layout, AT).data))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(damaged), AT).symbols
    except FormatError:
        return
    assert 256 < len(found) <= kallsyms.MOST_SYMBOLS
    assert all(symbol.name.isprintable() and symbol.name.isascii() for symbol in found)


_CACHE: dict[str, bytes] = {}


def test_search_is_bounded() -> None:
    """Everything is a number of names, and markers are everywhere: the search gives up, it does not try all."""
    tokens = write_kallsyms(symbols_of("tables first"), "tables first", AT)
    table = decode(bytes(tokens.data), AT).token_table
    counts = struct.pack("<I", 512) * (1 << 16)
    markers = struct.pack("<II", 0, 512) * 64
    spent: list[int] = []
    original = kallsyms._Steps.spend

    def spend(self: kallsyms._Steps, steps: int) -> None:
        spent.append(steps)
        original(self, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kallsyms._Steps, "spend", spend)
        with pytest.raises(FormatError, match="too many ways"):
            decode(counts + markers + bytes(tokens.data[table:]), AT)
    assert 0 < sum(spent) <= kallsyms._MOST_STEPS + 256


def test_budget_is_an_error() -> None:
    steps = kallsyms._Steps()
    steps.spend(kallsyms._MOST_STEPS)
    with pytest.raises(FormatError, match="too many ways"):
        steps.spend(1)

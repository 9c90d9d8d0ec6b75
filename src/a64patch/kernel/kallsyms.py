"""The names that a Linux kernel carries inside itself, found by content and decoded: every layout since 2.6.

Reads untrusted bytes: of an Image file, or of the memory of a machine.
Read on: Linux writes the format in scripts/kallsyms.c (write_src), and reads it in kernel/kallsyms.c; symbols.py uses
this file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

from a64patch.errors import FormatError

MOST_SYMBOLS = 1 << 20
REACH = 1 << 24
"""The other tables are at most this many bytes before or after the token table."""

CODE_TYPES = "tTwW"
"""nm's letters for code. `w` may also be weak data."""

_LONGEST_NAME = 512
"""KSYM_NAME_LEN (b8a94bfb3395, in 6.1; 128 before)."""
_MOST_NAME_BYTES = 1 << 26
_MOST_DIGITS = 64
_MOST_TOKEN_TABLES = 4
_MOST_MARKER_TABLES = 16
_MOST_STEPS = 1 << 23
_BLOCK = 256
"""Symbols between two markers."""
_LONGEST_BLOCK = _BLOCK * (_LONGEST_NAME + 2)
_SHORTEST_BLOCK = _BLOCK * 2
_SPAN = 1 << 32
_INDEX_BYTES = 512
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))


class KernelSymbol(NamedTuple):
    """One symbol: its address, nm's letter for its type, its name."""

    address: int
    type: str
    name: str
    module: str = ""
    """The module of the symbol; empty in kallsyms tables, which name no modules."""

    @property
    def is_text(self) -> bool:
        """Whether it names code, by CODE_TYPES."""
        return self.type in CODE_TYPES


class Kallsyms(NamedTuple):
    """The decoded tables."""

    symbols: list[KernelSymbol]
    """Ascending by address."""
    token_table: int
    """Offset of kallsyms_token_table in the given bytes."""
    base: int
    """kallsyms_relative_base, already added in `symbols`; 0 if the layout has none, or nothing has filled it in."""
    base_at: int
    """Offset of `base` in the given bytes; -1 if the layout has none."""
    fixed: tuple[tuple[int, int], ...]
    """[start, end) in the given bytes of the tables that are the same wherever the kernel lies.

    The first holds the names, the second the addresses as distances. Without the second the addresses are absolute.
    """


class _Steps:
    """A bound on the number of names looked at: a file made for it could keep the search busy without end."""

    def __init__(self) -> None:
        self._left = _MOST_STEPS

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise FormatError("bytes that look like kallsyms tables can be read in too many ways, so they are not used")


class _Names(NamedTuple):
    """The places of the names."""

    count_at: int
    """Offset of num_syms."""
    entries: list[tuple[int, int]]
    """(offset, length) of the token codes of each symbol."""


def find_token_tables(data: bytes | bytearray, start: int = 0) -> Iterator[tuple[int, int]]:
    """(offset of kallsyms_token_table, offset of kallsyms_token_index) of each pair of tables that agree.

    The ten digits occur in names of every kernel, so each digit has a token for itself, one after the other. The search
    is for these tokens, from `start` on: the table may begin before `start`.
    """
    found = data.find(_DIGITS, start)
    for _ in range(_MOST_DIGITS):
        if found < 0:
            return
        if (index := _index_of(data, found)) is not None:
            yield index
        found = data.find(_DIGITS, found + 1)


def _index_of(data: bytes | bytearray, digits: int) -> tuple[int, int] | None:
    end = digits
    for _ in range(256 - ord("0")):
        end = data.find(b"\0", end, end + _LONGEST_NAME) + 1
        if not end:
            return None
    for place in {-(-end // 4) * 4, -(-end // 8) * 8}:
        if place + _INDEX_BYTES > len(data):
            continue
        offsets = struct.unpack_from("<256H", data, place)
        table = digits - offsets[ord("0")]
        if offsets[0] or table < 0 or any(data[end:place]):
            continue
        # Each token ends where the next begins, the last one at the padding before the index.
        ends = [table + offset for offset in offsets[1:]] + [end]
        if all(a < b for a, b in pairwise(offsets)) and all(
            data.find(b"\0", table + offset, stop) == stop - 1 for offset, stop in zip(offsets, ends, strict=True)
        ):
            return table, place
    return None


def decode(data: bytes, address: int = 0) -> Kallsyms:
    """The symbols of a kernel whose read-only data is in `data`. `data` lies at `address`.

    All numbers are little-endian. In all layouts num_syms, names and markers are before the token table. The addresses
    are in one of these places (404bad70fcf7, in 6.4, moved them):

    - before num_syms, as u64, or since 4.6 (2213e9a66bb8) as s32 relative to a base behind them;
    - after the token index, in the same two forms;
    - after the token index, each relative to its own place.

    If the symbols of each CPU are absolute, negative offsets count down from the base.

    FormatError when there are no such tables, when they have fewer than 257 or more than 2**20 symbols, or when they
    contradict themselves. Not checked: that the symbols belong to the code. placement.py checks this.
    """
    problem = "no kallsyms tables were found: the kernel was built without them, or this is not all of it"
    steps = _Steps()
    for table, index in islice(find_token_tables(data), _MOST_TOKEN_TABLES):
        tokens = _tokens(data, table, index)
        names = _find_names(data, table, steps)
        if names is None:
            problem = f"there is a kallsyms token table at {address + table:#x}, but no names that belong to it"
            continue
        placed = _find_addresses(data, address, names, index + _INDEX_BYTES)
        if placed is None:
            problem = f"there are {len(names.entries)} kallsyms names, but no addresses that belong to them"
            continue
        addresses, base, base_at, place = placed
        fixed = ((names.count_at, index + _INDEX_BYTES), *([(place, place + 4 * len(addresses))] if place >= 0 else []))
        return Kallsyms(_expand(data, names, tokens, addresses), table, base, base_at, fixed)
    raise FormatError(problem)


def _tokens(data: bytes, table: int, index: int) -> list[bytes]:
    offsets = [*struct.unpack_from("<256H", data, index)]
    return [data[table + offset : data.find(b"\0", table + offset)] for offset in offsets]


def _find_names(data: bytes, table: int, steps: _Steps) -> _Names | None:
    for width in (4, 8):  # unsigned int since 4.20 (80ffbaa5b1bd), unsigned long before
        candidates = sorted(_marker_runs(data, table, width), key=lambda run: -run[1])
        for place, length in candidates[:_MOST_MARKER_TABLES]:
            markers = struct.unpack_from(f"<{length}{'I' if width == 4 else 'Q'}", data, place)
            if names := _names_before(data, place, markers, steps):
                return names
    return None


def _marker_runs(data: bytes, table: int, width: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of each run before the token table that looks like markers: 0, then ascending in small steps."""
    start = max(0, table - REACH) // width * width
    values = memoryview(data)[start : table // width * width].cast("I" if width == 4 else "Q")
    count = len(values)
    position = 0
    while position + 1 < count:
        if values[position] or not _SHORTEST_BLOCK <= values[position + 1] <= _LONGEST_BLOCK:
            position += 1
            continue
        last = position + 1
        while last + 1 < count and _SHORTEST_BLOCK <= values[last + 1] - values[last] <= _LONGEST_BLOCK:
            last += 1
        yield start + position * width, min(last - position + 1, MOST_SYMBOLS // _BLOCK)
        position = last


def _names_before(data: bytes, place: int, markers: Sequence[int], steps: _Steps) -> _Names | None:
    """The names that end at `place`, where the markers begin. Before the names is their number."""
    start = max(0, place - markers[-1] - _LONGEST_BLOCK - 8) // 4 * 4
    numbers = memoryview(data)[start : place // 4 * 4].cast("I")
    least, most = _BLOCK, _BLOCK * len(markers)
    for position, count in enumerate(numbers):
        if not least < count <= most:
            continue
        count_at = start + 4 * position
        for names in (count_at + 8, count_at + 4):
            entries = _walk(data, names, place, count, markers, steps)
            if entries is not None:
                return _Names(count_at, entries)
    return None


def _walk(
    data: bytes, start: int, end: int, count: int, markers: Sequence[int], steps: _Steps
) -> list[tuple[int, int]] | None:
    """(offset, length) of each of `count` names; None unless they agree with the markers and reach to `end`.

    Up to 7 zeros before `end` are padding.
    """
    entries = []
    place = start
    for number in range(count):
        if number % _BLOCK == 0:
            if place - start != markers[number // _BLOCK]:
                return None
            steps.spend(_BLOCK)
        if place + 2 > end:
            return None
        length = data[place]
        place += 1
        if length & 0x80:  # 73bbb94466fd, in 6.1: two bytes; no name was that long before
            length = length & 0x7F | data[place] << 7
            place += 1
        if not length or place + length > end:
            return None
        entries.append((place, length))
        place += length
    return entries if end - place < 8 and not any(data[place:end]) else None


def _find_addresses(data: bytes, address: int, names: _Names, after: int) -> tuple[list[int], int, int, int] | None:
    """(addresses, base, offset of the base, offset of the distances).

    The offsets are -1 where the layout has no base, or no distances. The first layout is taken in which the addresses
    ascend within 4 GiB.
    """
    count = len(names.entries)
    whole = -(-4 * count // 8) * 8
    # (offset of the numbers, offset of the base)
    relative = [(names.count_at - 8 - whole, names.count_at - 8), (after, after + whole), (after, after + 4 * count)]
    for place, base_at in relative:
        if place < 0 or max(place + 4 * count, base_at + 8) > len(data):
            continue
        offsets = struct.unpack_from(f"<{count}I", data, place)
        (base,) = struct.unpack_from("<Q", data, base_at)
        if base and base >> 48 != 0xFFFF:  # 0: Image files linked by GNU ld, where a relocation fills it in at boot
            continue
        counted_down = [_counted_down(offset, base) for offset in offsets]
        for addresses in ([base + offset for offset in offsets], counted_down):
            if _ascend(addresses):
                return addresses, base, base_at, place
    for place in (names.count_at - 8 * count, after):
        if 0 <= place <= len(data) - 8 * count:
            absolute = list(struct.unpack_from(f"<{count}Q", data, place))
            # In this layout symbols of each CPU are small numbers.
            if absolute[-1] >> 48 == 0xFFFF and _ascend(absolute[_small(absolute) :]):
                return absolute, 0, -1, -1
    if after + 4 * count <= len(data):
        places = range(address + after, address + after + 4 * count, 4)
        distances = struct.unpack_from(f"<{count}i", data, after)
        own = [place + distance for place, distance in zip(places, distances, strict=True)]
        if own[0] >= 0 and _ascend(own):
            return own, 0, -1, after
    return None


def _counted_down(offset: int, base: int) -> int:
    # CONFIG_KALLSYMS_ABSOLUTE_PERCPU, kallsyms_sym_address(): negative offsets are base - 1 - offset.
    return offset if offset < 1 << 31 else base - 1 + (1 << 32) - offset


def _small(addresses: Sequence[int]) -> int:
    return next((number for number, address in enumerate(addresses) if address >> 48), len(addresses))


def _ascend(addresses: Sequence[int]) -> bool:
    start = _small(addresses) if addresses[-1] >> 48 else 0  # symbols of each CPU are absolute, and come first
    kernel = addresses[start:]
    return (
        0 < kernel[-1] - kernel[0] < _SPAN
        and kernel[-1] < 1 << 64
        and all(a <= b for a, b in pairwise(kernel))
        and all(a <= b for a, b in pairwise(addresses[:start]))
    )


def _expand(data: bytes, names: _Names, tokens: Sequence[bytes], addresses: Sequence[int]) -> list[KernelSymbol]:
    symbols = []
    total = 0
    for (place, length), address in zip(names.entries, addresses, strict=True):
        name = b"".join([tokens[code] for code in data[place : place + length]])
        total += len(name)
        if not 2 <= len(name) <= _LONGEST_NAME or total > _MOST_NAME_BYTES:
            raise FormatError(f"the kallsyms name of {address:#x} has {len(name)} characters, which no name has")
        if not (name.isascii() and (text := name.decode()).isprintable()):
            raise FormatError(f"the kallsyms name of {address:#x} holds characters that no name holds")
        symbols.append(KernelSymbol(address, text[0], text[1:]))
    return symbols

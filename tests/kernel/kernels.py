"""Small kernels, written here: text whose functions call each other, and kallsyms tables of every layout there was."""

from __future__ import annotations

import random
import string
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from a64patch.a64.generate import gen_branch_imm, gen_nop
from a64patch.a64.words import to_bytes

LINKED = 0xFFFF800008000000
TEXT_AT = 0x10000
FUNCTION = 64
"""Bytes of each function."""

LAYOUTS = (
    "absolute",  # 2.6.10 to 4.5, and with CONFIG_KALLSYMS_BASE_RELATIVE=n
    "long markers",  # 4.6 to 4.19
    "relative",  # 4.20 to 6.1
    "sequences",  # 6.2 and 6.3: kallsyms_seqs_of_names, of 3 bytes each, before the tokens
    "long sequences",  # 6.2-rc1: of 4 bytes
    "tables first",  # since 6.4: the addresses last
    "packed",  # the same, aligned to 4 bytes
    "own place",  # 2026: each offset counts from itself, no base
    "absolute last",
    "of each CPU",  # CONFIG_KALLSYMS_ABSOLUTE_PERCPU
)

Named = tuple[int, str, str]
"""Address, type, name."""


def name_symbols(count: int, start: int, seed: int = 1) -> list[Named]:
    """`count` functions of FUNCTION bytes from `start` on, between _stext and _etext, with names of all lengths."""
    chosen = random.Random(seed)
    letters = string.ascii_lowercase + string.digits + "_"
    symbols: list[Named] = [(start, "T", "_stext")]
    for number in range(count):
        length = 200 if number == 7 else chosen.randint(3, 24)
        name = f"f{''.join(chosen.choices(letters, k=length))}_{number}"
        symbols.append((start + number * FUNCTION, chosen.choice("tT"), name))
    return [*symbols, (start + count * FUNCTION, "T", "_etext")]


def call_each_other(count: int, seed: int = 1, called: Sequence[int] = ()) -> bytes:
    """The text of `count` functions: four calls in each, of any of them or of those in `called`."""
    chosen = random.Random(seed)
    called = called or range(count)
    words = []
    for number in range(count):
        for place in range(FUNCTION // 4):
            here = number * FUNCTION + 4 * place
            call = place % 4 == 1
            words.append(gen_branch_imm(here, chosen.choice(called) * FUNCTION, link=True) if call else gen_nop())
    return to_bytes(words)


def call_in_neighbourhood(count: int) -> bytes:
    """As `call_each_other`, but nobody calls further than 63 functions away."""
    return b"".join(call_each_other(64, seed) for seed in range(count // 64)) + call_each_other(count % 64)


@dataclass
class Tables:
    """kallsyms tables as bytes, and where in them things are."""

    data: bytearray = field(default_factory=bytearray)
    base_at: int = -1

    def align(self, size: int = 8) -> int:
        self.data += bytes(-len(self.data) % size)
        return len(self.data)


def write_kallsyms(symbols: Sequence[Named], layout: str, at: int, *, base: int | None = None) -> Tables:
    """The tables of these symbols, to be put at address `at`; `base` other than the first address is for liars."""
    tables = Tables()
    alignment = 4 if layout == "packed" else 8
    tokens = [bytes([code]) if chr(code) in _LETTERS else b"" for code in range(256)]
    free = [code for code in range(256) if not tokens[code]]
    for code, token in zip(free, _common_pairs(symbols), strict=False):
        tokens[code] = token
    for code in free:
        tokens[code] = tokens[code] or b"%%%d" % code
    entries = [_compress(kind + name, tokens) for _, kind, name in symbols]
    if layout in ("tables first", "packed", "own place", "absolute last"):
        _names(tables, entries, layout, alignment)
        _tokens(tables, tokens, alignment)
        _addresses(tables, symbols, layout, alignment, at, base)
    else:
        _addresses(tables, symbols, layout, alignment, at, base)
        _names(tables, entries, layout, alignment)
        if "sequences" in layout:
            tables.align(alignment)
            for number in range(len(symbols)):
                tables.data += struct.pack(">I", number * 7 % len(symbols))[0 if "long" in layout else 1 :]
        _tokens(tables, tokens, alignment)
    return tables


_LETTERS = string.ascii_letters + string.digits + "_.$"


def _common_pairs(symbols: Sequence[Named]) -> list[bytes]:
    counts: dict[bytes, int] = {}
    for _, kind, name in symbols[:300]:
        text = (kind + name).encode()
        for start in range(len(text) - 1):
            counts[text[start : start + 2]] = counts.get(text[start : start + 2], 0) + 1
    return sorted(counts, key=lambda pair: (-counts[pair], pair))


def _compress(text: str, tokens: Sequence[bytes]) -> bytes:
    codes = {token: code for code, token in enumerate(tokens)}
    data, encoded = bytearray(), text.encode()
    while encoded:
        size = 2 if encoded[:2] in codes and len(encoded) > 1 else 1
        data.append(codes[encoded[:size]])
        encoded = encoded[size:]
    return bytes(data)


def _names(tables: Tables, entries: Sequence[bytes], layout: str, alignment: int) -> None:
    tables.align(alignment)
    tables.data += struct.pack("<I", len(entries))
    start = tables.align(alignment)
    markers = []
    for number, entry in enumerate(entries):
        if number % 256 == 0:
            markers.append(len(tables.data) - start)
        length = len(entry)
        tables.data += bytes([length]) if length < 0x80 else bytes([length & 0x7F | 0x80, length >> 7])
        tables.data += entry
    tables.align(alignment)
    wide = layout in ("absolute", "long markers")
    tables.data += struct.pack(f"<{len(markers)}{'Q' if wide else 'I'}", *markers)


def _tokens(tables: Tables, tokens: Sequence[bytes], alignment: int) -> None:
    start = tables.align(alignment)
    offsets = []
    for token in tokens:
        offsets.append(len(tables.data) - start)
        tables.data += token + b"\0"
    tables.align(alignment)
    tables.data += struct.pack("<256H", *offsets)


def _addresses(
    tables: Tables, symbols: Sequence[Named], layout: str, alignment: int, at: int, base: int | None
) -> None:
    start = tables.align(alignment)
    addresses = [address for address, _, _ in symbols]
    first = next(address for address in addresses if address >> 48 or layout != "of each CPU")
    if layout in ("absolute", "absolute last"):
        tables.data += struct.pack(f"<{len(addresses)}Q", *addresses)
        return
    if layout == "own place":
        for number, address in enumerate(addresses):
            tables.data += struct.pack("<i", address - (at + start + 4 * number))
        return
    for address in addresses:
        offset = address - first
        if layout == "of each CPU":
            offset = first - address - 1 if address >> 48 else address
        tables.data += struct.pack("<I", offset & 0xFFFFFFFF)
    tables.base_at = tables.align(alignment)
    tables.data += struct.pack("<Q", first if base is None else base)


@dataclass
class Kernel:
    """The bytes of a kernel from its first one on, as an Image file has them."""

    data: bytearray
    symbols: list[Named]
    tables_at: int
    linked: int = LINKED


BANNER = b"Linux version 6.6.6-test (somebody@somewhere) (gcc 12) #1 SMP\n\0"
BUILD_ID = bytes(range(20))


def build_kernel(
    layout: str = "relative",
    *,
    functions: int = 600,
    relocated: bool = True,
    seed: int = 1,
    text: bytes = b"",
    irregular: bool = False,
    also: tuple[bytes, Sequence[Named]] = (b"", ()),
) -> Kernel:
    """An Image of that many functions. Not `relocated`: as GNU ld leaves it, with a relocation for the base.

    `irregular`: half of the functions have no name and are never called, so that no move maps the others onto others.
    `also`: text behind the functions, and its symbols.
    """
    symbols = name_symbols(functions, LINKED + TEXT_AT, seed)
    if irregular:
        called = sorted(random.Random(seed).sample(range(functions), functions // 2))
        text = call_each_other(functions, seed, called)
        symbols = [symbols[0], *(symbols[1 + number] for number in called), symbols[-1]]
    more, named = also
    end = symbols[-1][0] + len(more)
    symbols = [*symbols[:-1], *named, (end, *symbols[-1][1:])]
    text = (text or call_each_other(functions, seed)) + more
    data = bytearray(TEXT_AT) + text
    data += bytes(-len(data) % 4096) + BANNER
    data += bytes(-len(data) % 64)
    tables_at = len(data)
    tables = write_kallsyms(symbols, layout, LINKED + tables_at, base=None if relocated else 0)
    data += tables.data
    data += bytes(-len(data) % 8)
    if not relocated:
        place = LINKED + tables_at + tables.base_at
        for where, value in ((LINKED + TEXT_AT, LINKED + 8), (place, symbols[0][0])):
            data += struct.pack("<QQQ", where, 1027, value)
    data += struct.pack("<III4s", 4, len(BUILD_ID), 3, b"GNU\0") + BUILD_ID
    data += bytes(-len(data) % 4096)
    struct.pack_into("<QQQ", data, 8, 0, len(data) + 0x1000, 0b1010)
    data[0x38:0x3C] = b"ARM\x64"
    return Kernel(data, symbols, tables_at)

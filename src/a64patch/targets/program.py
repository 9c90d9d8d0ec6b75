"""The start of a simulated machine: memory filled from words or an ELF file, and the addresses of its code.

Read on: simulator.py adds CPUs.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from a64patch.a64.words import INSN_SIZE, require_aligned, to_bytes
from a64patch.errors import FormatError, MappingError, RequestError, TargetError
from a64patch.ranges import Ranges
from a64patch.targets.debug_link import names_of
from a64patch.targets.elf_image import (
    ET_DYN,
    PF_W,
    PT_INTERP,
    R_AARCH64_NONE,
    R_AARCH64_RELATIVE,
    ElfImage,
)
from a64patch.targets.symbols import Symbol, SymbolTable

PAGE = 4096
MAX_BYTES = 256 << 20
_TOP = 1 << 64


@dataclass(frozen=True)
class Region:
    """Whole pages of memory from `start` on, in one host buffer; whether the program may store to them."""

    start: int
    buffer: mmap.mmap
    writable: bool

    @property
    def end(self) -> int:
        """The first address behind the region."""
        return self.start + len(self.buffer)


class Memory:
    """Pieces of memory at their addresses (bytes), the one copy that all CPUs share."""

    def __init__(self) -> None:
        self.regions: list[Region] = []

    def add(self, pages: Iterable[tuple[int, int, bool]]) -> None:
        """Map the pages that hold each range (start, end, writable); ranges on one page share its permission."""
        merged: list[tuple[int, int, bool]] = []
        for start, end, writable in sorted((s & -PAGE, -(-e // PAGE) * PAGE, w) for s, e, w in pages):
            if merged and start < merged[-1][1]:
                last = merged.pop()
                merged.append((last[0], max(last[1], end), last[2] or writable))
            else:
                merged.append((start, end, writable))
        if sum(end - start for start, end, _ in merged) > MAX_BYTES:
            raise FormatError(
                f"the program needs more than {MAX_BYTES >> 20} MiB of memory; the simulator gives no more"
            )
        for start, end, writable in merged:
            self.regions.append(Region(start, mmap.mmap(-1, end - start), writable))
        self.regions.sort(key=lambda region: region.start)

    def remove(self, region: Region) -> None:
        """Unmap a region."""
        self.regions.remove(region)

    def find(self, address: int) -> Region | None:
        """The region that holds the address."""
        index = bisect_right(self.regions, address, key=lambda region: region.start) - 1
        return self.regions[index] if index >= 0 and address < self.regions[index].end else None

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes; MappingError when one of them is not mapped."""
        parts = []
        end = address + size
        while address < end:
            region = self.find(address)
            if region is None:
                raise MappingError(f"address {address:#x} is not mapped in the simulated machine")
            length = min(end, region.end) - address
            offset = address - region.start
            parts.append(region.buffer[offset : offset + length])
            address += length
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Put the bytes at `address`; MappingError, and nothing is changed, unless all addresses are mapped."""
        self.read(address, len(data))
        while data:
            region = self.find(address)
            assert region is not None
            offset = address - region.start
            part = data[: len(region.buffer) - offset]
            region.buffer[offset : offset + len(part)] = part
            address, data = address + len(part), data[len(part) :]

    def word(self, address: int) -> int:
        """The instruction word at a mapped multiple of 4."""
        region = self.find(address)
        assert region is not None
        offset = address - region.start
        return int.from_bytes(region.buffer[offset : offset + 4], "little")


@dataclass
class Program:
    """A program in memory, ready to run."""

    memory: Memory
    code: Ranges
    """The addresses of instructions, in whole words."""
    entry: int
    symbols: SymbolTable
    big_endian: bool = False
    """Whether data is big-endian. Instructions are always little-endian."""
    build_id: str = ""
    """As `ElfImage.build_id`."""
    base: int = 0
    """The distance in bytes by which a position-independent program was moved."""
    data: Ranges = field(default_factory=Ranges)
    """The words of code that are data, as its mapping symbols say."""

    def is_code(self, address: int, size: int) -> bool:
        """Whether all these bytes lie in one range of code."""
        return any(start <= address and address + size <= end for start, end in self.code)

    @property
    def writable_code(self) -> list[tuple[int, int]]:
        """The ranges of code to which the program itself may store, at least in part."""
        writable = [(region.start, region.end) for region in self.memory.regions if region.writable]
        return [(low, high) for low, high in self.code if any(low < end and start < high for start, end in writable)]


def load_words(
    words: Sequence[int],
    *,
    base: int,
    entry: int | None = None,
    symbols: Mapping[str, int] | None = None,
    data: Mapping[int, bytes] | None = None,
    writable: bool = False,
    big_endian: bool = False,
) -> Program:
    """Bare instruction words at `base`, entered at `entry` (default `base`), and `data`: bytes by address.

    `writable` lets the program store to its own code. RequestError for an entry outside the code.
    """
    require_aligned(base)
    code = (base, base + len(words) * INSN_SIZE)
    start = base if entry is None else require_aligned(entry)
    if not code[0] <= start < code[1]:
        raise RequestError(f"the entry {start:#x} does not lie in the code at {code[0]:#x}-{code[1]:#x}")
    memory = Memory()
    pieces = dict(data or {})
    memory.add([(*code, writable), *((at, at + len(piece), True) for at, piece in pieces.items() if piece)])
    for at, piece in pieces.items():
        memory.write(at, piece)
    memory.write(base, to_bytes(words))
    table = [Symbol(name, address) for name, address in (symbols or {}).items()]
    return Program(memory, Ranges((code,)), start, SymbolTable(lambda: table), big_endian)


def load_elf(path: str | Path, base: int) -> Program:
    """A static ELF64 AArch64 executable; a position-independent one lies at `base`, with relative relocations applied.

    Code is the executable sections, or, without sections, the executable segments. FormatError for any other file, also
    for a program that needs an interpreter. TargetError when the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise FormatError(f"{path} has more than {MAX_BYTES >> 20} MiB; the simulator loads no more")
    image = ElfImage(data, str(path))
    image.require_code()
    if image.relocatable:
        raise FormatError(f"{path} is not an executable; link it, statically, before the simulator can run it")
    if any(segment.type == PT_INTERP for segment in image.segments):
        raise FormatError(f"{path} needs an interpreter to be loaded; link it with -static or -static-pie")

    moved = base if image.type == ET_DYN else 0
    memory = _map(image, moved)
    if image.type == ET_DYN:
        _relocate(image, memory, moved)
    code = Ranges.of((moved + start, moved + end) for start, end in image.executable).whole(INSN_SIZE)
    entry = moved + image.entry
    if entry % INSN_SIZE or entry not in code:
        raise FormatError(f"{path} starts at {entry:#x}, where it has no code")
    literals = Ranges.of((start + moved, end + moved) for start, end in image.data_in_code)
    symbols = SymbolTable(lambda: _symbols(image, moved))
    return Program(memory, code, entry, symbols, image.order == ">", image.build_id, moved, literals)


def _map(image: ElfImage, moved: int) -> Memory:
    loads = sorted((load for load in image.loads if load.memory_size), key=lambda load: load.address)
    if not loads:
        raise FormatError(f"{image.name} has nothing to load; give the simulator a static AArch64 executable")
    last = 0
    for load in loads:
        start = moved + load.address
        if start < last or start + load.memory_size > _TOP - PAGE:
            raise FormatError(f"{image.name} contradicts itself: the segment at {start:#x} overlaps another or the top")
        last = start + load.memory_size
    memory = Memory()
    memory.add((moved + s.address, moved + s.address + s.memory_size, bool(s.flags & PF_W)) for s in loads)
    for load in loads:
        memory.write(moved + load.address, image.data[load.offset : load.offset + load.file_size])
    return memory


def _relocate(image: ElfImage, memory: Memory, moved: int) -> None:
    order: Literal["little", "big"] = "little" if image.order == "<" else "big"
    for table in image.dynamic_tables:
        for place, relocation in image.relocations(table):
            if relocation.type in R_AARCH64_NONE:
                continue
            if relocation.type != R_AARCH64_RELATIVE:
                raise FormatError(
                    f"{image.name} has a relocation of type {relocation.type} at {moved + place:#x}; "
                    "the simulator does only R_AARCH64_RELATIVE; link it without undefined or indirect symbols"
                )
            try:
                value = relocation.addend
                if value is None:
                    value = int.from_bytes(memory.read(moved + place, 8), order)
                memory.write(moved + place, ((value + moved) % _TOP).to_bytes(8, order))
            except MappingError as error:
                raise image.bad(f"the relocation at {place:#x} lies outside its segments") from error


def _symbols(image: ElfImage, moved: int) -> list[Symbol]:
    return [symbol.moved(moved) for symbol in names_of(image, image.name, absolute=False).symbols]

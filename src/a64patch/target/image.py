"""What a simulated machine starts with: memory in pieces, which of it is code, and how an ELF file fills it.

May know: the words, the errors, symbols. pyelftools and numpy load when a file is opened.
Read on: simulator.py gives it CPUs.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from a64patch.errors import FormatError, MappingError, TargetError
from a64patch.target.symbols import Symbol, SymbolTable

PAGE = 4096
MAX_BYTES = 256 << 20
_TOP = 1 << 64

_R_AARCH64_NONE = 0
_R_AARCH64_RELATIVE = 1027


@dataclass(frozen=True)
class Region:
    """Whole pages of memory from `start` on, one host buffer, and what a program may do with them as data."""

    start: int
    buffer: mmap.mmap
    writable: bool

    @property
    def end(self) -> int:
        """The first address behind it."""
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

    def find(self, address: int) -> Region | None:
        """The region that holds the address."""
        index = bisect_right(self.regions, address, key=lambda region: region.start) - 1
        return self.regions[index] if index >= 0 and address < self.regions[index].end else None

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes; MappingError where nothing is mapped."""
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
        """Put the bytes there; MappingError, and nothing is changed, where not all of it is mapped."""
        self.read(address, len(data))
        while data:
            region = self.find(address)
            assert region is not None
            offset = address - region.start
            part = data[: len(region.buffer) - offset]
            region.buffer[offset : offset + len(part)] = part
            address, data = address + len(part), data[len(part) :]

    def word(self, address: int) -> int:
        """The instruction word at a multiple of 4 that is known to be mapped."""
        region = self.find(address)
        assert region is not None
        offset = address - region.start
        return int.from_bytes(region.buffer[offset : offset + 4], "little")


@dataclass
class Image:
    """A program in memory, ready to run."""

    memory: Memory
    code: list[tuple[int, int]]
    """Ranges [start, end) of instructions, ascending, apart, multiples of 4."""
    entry: int
    symbols: SymbolTable
    big_endian: bool = False
    """Of data; instructions are little-endian always."""


def join_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of whole words, ascending, those that touch made one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted((-(-start // 4) * 4, end & -4) for start, end in ranges):
        if start >= end:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def load_elf(path: str | Path, base: int) -> Image:
    """A static ELF64 AArch64 executable, or a position-independent one at `base`, with its relative relocations done.

    Code is what its sections call executable, or, without sections, its executable segments. FormatError for
    anything else, among it programs that need an interpreter; TargetError when the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise FormatError(f"{path} has more than {MAX_BYTES >> 20} MiB; the simulator loads no more")
    try:
        return _load(str(path), data, base)
    except (FormatError, MemoryError):
        raise
    except Exception as error:
        # pyelftools meets a damaged file with whatever exception its parser runs into.
        raise FormatError(f"{path} is not a sound ELF file: {error or type(error).__name__}") from error


def _load(path: str, data: bytes, base: int) -> Image:
    from elftools.elf.elffile import ELFFile

    if data[:4] != b"\x7fELF":
        raise FormatError(f"{path} is not an ELF file; give the simulator a static AArch64 executable")
    elf = ELFFile(BytesIO(data))
    if elf.elfclass != 64 or elf["e_machine"] != "EM_AARCH64":
        raise FormatError(f"{path} is not for 64-bit AArch64; give the simulator a static AArch64 executable")
    if elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
        raise FormatError(f"{path} is not an executable; link it, statically, before the simulator can run it")
    moved = base if elf["e_type"] == "ET_DYN" else 0
    segments = list(elf.iter_segments())
    if any(segment["p_type"] == "PT_INTERP" for segment in segments):
        raise FormatError(f"{path} needs an interpreter to be loaded; link it with -static or -static-pie")

    loads = sorted((s for s in segments if s["p_type"] == "PT_LOAD" and s["p_memsz"]), key=lambda s: int(s["p_vaddr"]))
    if not loads:
        raise FormatError(f"{path} has nothing to load; give the simulator a static AArch64 executable")
    last = 0
    for segment in loads:
        start, size = moved + segment["p_vaddr"], segment["p_memsz"]
        if segment["p_filesz"] > size or segment["p_offset"] + segment["p_filesz"] > len(data):
            raise FormatError(f"{path} is cut off: the segment at {start:#x} does not lie in the file")
        if start < last or start + size > _TOP - PAGE:
            raise FormatError(f"{path} contradicts itself: the segment at {start:#x} overlaps another or the top")
        last = start + size

    memory = Memory()
    memory.add((moved + s["p_vaddr"], moved + s["p_vaddr"] + s["p_memsz"], bool(s["p_flags"] & 2)) for s in loads)
    for segment in loads:
        memory.write(moved + segment["p_vaddr"], data[segment["p_offset"] : segment["p_offset"] + segment["p_filesz"]])
    if moved:
        _relocate(path, segments, memory, moved, "little" if elf.little_endian else "big")

    code = _code_ranges(elf, loads, moved)
    entry = moved + elf["e_entry"]
    if entry % 4 or not any(start <= entry < end for start, end in code):
        raise FormatError(f"{path} starts at {entry:#x}, where it has no code")
    return Image(memory, code, entry, _symbols(path, elf, moved), not elf.little_endian)


def _code_ranges(elf: Any, loads: Sequence[Any], moved: int) -> list[tuple[int, int]]:
    executable = [(moved + s["p_vaddr"], moved + s["p_vaddr"] + s["p_memsz"]) for s in loads if s["p_flags"] & 1]
    sections = [
        (moved + section["sh_addr"], moved + section["sh_addr"] + section["sh_size"])
        for section in elf.iter_sections()
        if section["sh_flags"] & 6 == 6
    ]
    if not sections:
        return join_ranges(executable)
    return join_ranges((max(a, c), min(b, d)) for a, b in sections for c, d in executable)


def _relocate(path: str, segments: Sequence[Any], memory: Memory, moved: int, order: Any) -> None:
    for segment in segments:
        if segment["p_type"] != "PT_DYNAMIC":
            continue
        for table in segment.get_relocation_tables().values():
            for relocation in table.iter_relocations():
                # DT_RELR entries have neither type nor addend: what stands in place is the addend.
                offset = moved + relocation["r_offset"]
                if not relocation.is_RELA():
                    value = int.from_bytes(memory.read(offset, 8), order)
                elif relocation["r_info_type"] == _R_AARCH64_RELATIVE:
                    value = relocation["r_addend"]
                elif relocation["r_info_type"] == _R_AARCH64_NONE:
                    continue
                else:
                    raise FormatError(
                        f"{path} has a relocation of type {relocation['r_info_type']} at {offset:#x}; "
                        "the simulator does only R_AARCH64_RELATIVE; link it without undefined or indirect symbols"
                    )
                memory.write(offset, ((value + moved) % _TOP).to_bytes(8, order))


def _symbols(path: str, elf: Any, moved: int) -> SymbolTable:
    def load() -> list[Symbol]:
        try:
            table = elf.get_section_by_name(".symtab") or elf.get_section_by_name(".dynsym")
            return [
                Symbol(symbol.name, moved + symbol["st_value"], symbol["st_size"])
                for symbol in (table.iter_symbols() if table is not None else ())
                if symbol.name
                and not symbol.name.startswith("$")
                and symbol["st_shndx"] not in ("SHN_UNDEF", "SHN_ABS")
                and symbol["st_info"]["type"] in ("STT_NOTYPE", "STT_OBJECT", "STT_FUNC")
            ]
        except Exception as error:
            raise FormatError(f"the symbol table of {path} is damaged: {error or type(error).__name__}") from error

    return SymbolTable(load)

"""The pieces of an object file that a linker takes or leaves: functions, data, and single strings and constants.

Knows the object alone.
Read on: link.py takes the pieces that are needed, and writes them.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from a64patch.a64.names import LONGEST_NAME
from a64patch.a64.words import INSN_SIZE
from a64patch.errors import LinkError
from a64patch.patch.asmdiff import MOST_ALIGNMENT
from a64patch.ranges import Ranges
from a64patch.targets.elf_image import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_MERGE,
    SHF_STRINGS,
    SHF_TLS,
    SHF_WRITE,
    SHT_NOBITS,
    STT_FUNC,
    STT_GNU_IFUNC,
    STT_TLS,
)
from a64patch.targets.elf_object import ElfObject, ObjectSymbol

_LONGEST_NAME = LONGEST_NAME // 4
"""Characters: quotes and escapes make a name longer."""
_RELRO = ".data.rel.ro"
"""The name of sections that a loader writes, and perhaps the program while it starts."""


@dataclass(eq=False)
class Piece:
    """Consecutive bytes of a section that move together: a function, a section of data, or parts of one."""

    name: str
    """The name of its annex."""
    section: int
    start: int
    end: int
    """The range [start, end) in the section (bytes)."""
    is_code: bool
    alignment: int
    """Bytes, from INSN_SIZE to MOST_ALIGNMENT."""
    needed: set[tuple[int, int]] | None = None
    """The ranges [start, end) of the section that are needed, if each string or constant of it moves by itself."""
    unit: int = 1
    """The alignment of each of these (bytes)."""

    @cached_property
    def parts(self) -> list[tuple[int, int, int]]:
        """The needed ranges [start, end) of the section, each with its offset in the annex. Final when asked for."""
        found: list[tuple[int, int, int]] = []
        place = 0
        for start, end in sorted(self.needed if self.needed is not None else {(self.start, self.end)}):
            place = -(-place // self.unit) * self.unit
            found.append((start, end, place))
            place += end - start
        return found

    def offset_of(self, start: int) -> int:
        """The offset in the annex of the part that starts here in the section."""
        return self.parts[bisect_right(self.parts, (start, 1 << 64)) - 1][2]

    @property
    def size(self) -> int:
        """Bytes of the annex, without padding."""
        start, end, place = self.parts[-1]
        return place + end - start


class Place(NamedTuple):
    """An address in a piece."""

    piece: Piece
    part: int
    """The start of the part that moves with the address, in the section."""
    distance: int
    """Bytes from there: a compiler may form the address of what lies before or behind an array."""

    @property
    def offset(self) -> int:
        """In the section."""
        return self.part + self.distance


@dataclass
class Pieces:
    """All pieces of an object, made when they are asked for."""

    object: ElfObject
    taken: set[str] = field(default_factory=set)
    """The names of annexes that exist."""

    def __post_init__(self) -> None:
        self._made: dict[tuple[int, int], Piece] = {}
        self._pools: dict[int, Ranges] = {}

    def name_of(self, number: int) -> str:
        """The name of a section."""
        return self.object.section_name(self.object.sections[number]) or f"section {number}"

    def of_symbol(self, symbol: ObjectSymbol, addend: int, *, is_section: bool) -> Place:
        """The place of a symbol of this object and an addend. LinkError for what cannot be linked."""
        home, name = symbol.home, symbol.name or self.name_of(symbol.home)
        if symbol.type == STT_GNU_IFUNC:
            raise LinkError(f"{name} chooses another function when a program is loaded (IFUNC): call that one itself")
        section = self.object.sections[home]
        if symbol.type == STT_TLS or section.flags & SHF_TLS:
            raise LinkError(f"{name} is thread-local data: a patch has no room for it in the threads that exist")
        anchor = addend if is_section else symbol.offset
        if not section.flags & SHF_ALLOC:
            raise LinkError(f"{name} is in {self.name_of(home)}, which is no part of a program")
        if section.flags & SHF_EXECINSTR:
            return self.of_offset(home, symbol.offset + addend)
        if self.name_of(home).startswith(_RELRO):
            raise LinkError(
                f"{name} is data for which a loader forms addresses ({self.name_of(home)}): a patch has no relocations"
                " for it; use a switch in place of a table of pointers"
            )
        if section.flags & SHF_WRITE or section.type == SHT_NOBITS:
            at = "" if symbol.name else f"+{anchor:#x}"
            raise LinkError(
                f"{name}{at} is data that is written ({self.name_of(home)}): a patch has no room for it; if the target"
                " has it already, declare it `extern` in the source"
            )
        if section.flags & SHF_MERGE and section.entry_size:
            piece = self._whole(home, merged=True)
            start, end = self._entry(home, anchor)
            if piece.needed is not None:
                piece.needed.add((start, end))
            return Place(piece, start, symbol.offset + addend - start)
        return self.of_offset(home, symbol.offset + addend)

    def of_offset(self, home: int, offset: int) -> Place:
        """The place at this offset of a section of code, or of data that moves as a whole."""
        if self.object.sections[home].flags & SHF_EXECINSTR:
            return self._in_code(home, offset)
        return Place(self._whole(home, merged=False), 0, offset)

    def function_at(self, home: int, offset: int) -> Piece | None:
        """The function with this place of a section; None when there is none."""
        functions = self._functions.get(home, [])
        index = bisect_right(functions, offset, key=lambda function: function[0]) - 1
        if index < 0 or offset >= functions[index][1]:
            return None
        start, end, name = functions[index]
        if (home, start) not in self._made:
            if start % INSN_SIZE or end % INSN_SIZE or end > self.object.sections[home].size:
                raise LinkError(f"{name} is no whole number of instructions inside its section")
            self._made[home, start] = self._piece(name, home, start, end, is_code=True)
        return self._made[home, start]

    def is_data(self, home: int, offset: int) -> bool:
        """Whether a word of a section of code is data: behind a mapping symbol $d (AAELF64, 5.5.5)."""
        return self.object.sections[home].offset + offset in self.object.marked_data

    def _in_code(self, home: int, offset: int) -> Place:
        piece = self.function_at(home, offset)
        if piece is None:
            piece = self._pool(home, offset)
        return Place(piece, piece.start, offset - piece.start)

    def _pool(self, home: int, offset: int) -> Piece:
        """Data between functions. With -mpc-relative-literal-loads, GCC puts the constants of a function before it."""
        if home not in self._pools:
            section = self.object.sections[home]
            code = Ranges.of([(section.offset, section.offset + section.size)])
            functions = Ranges.of(
                (section.offset + start, section.offset + end) for start, end, _ in self._functions.get(home, [])
            )
            self._pools[home] = (self.object.marked_data & code) - functions
        base = self.object.sections[home].offset
        pool = self._pools[home].around(base + offset)
        if pool is not None:
            start, end = pool[0] - base, pool[1] - base
            if (home, start) not in self._made:
                self._made[home, start] = self._piece(
                    f"{self.name_of(home)}.{start:#x}", home, start, end, is_code=False
                )
            return self._made[home, start]
        raise LinkError(
            f"{self.name_of(home)}+{offset:#x} is in no function with a size: give it a symbol with .type and .size"
        )

    def _whole(self, home: int, *, merged: bool) -> Piece:
        if (home, 0) not in self._made:
            section = self.object.sections[home]
            if not section.size:
                raise LinkError(f"{self.name_of(home)} is empty, and so has no address in a patch")
            piece = self._piece(self.name_of(home), home, 0, section.size, is_code=False)
            if merged:
                piece.needed, piece.unit = set(), max(1, section.alignment)
            self._made[home, 0] = piece
        return self._made[home, 0]

    def _entry(self, home: int, offset: int) -> tuple[int, int]:
        """The range of the string or constant with this place (gABI, "Sections", SHF_MERGE)."""
        section = self.object.sections[home]
        unit = section.entry_size
        if not 0 <= offset < section.size:
            raise LinkError(f"{self.name_of(home)}+{offset:#x} lies outside its section")
        if not section.flags & SHF_STRINGS:
            start = offset - offset % unit
            return start, min(start + unit, section.size)
        data = self.object.data[section.offset : section.offset + section.size]
        if unit > 1:  # wide characters: rare, and the end is no single byte
            return 0, section.size
        end = data.find(b"\0", offset)
        return data.rfind(b"\0", 0, offset) + 1, section.size if end < 0 else end + 1

    def _piece(self, name: str, home: int, start: int, end: int, *, is_code: bool) -> Piece:
        alignment = max(1, self.object.sections[home].alignment)
        if start:
            alignment = min(alignment, start & -start)
        if alignment > MOST_ALIGNMENT or alignment & (alignment - 1):
            raise LinkError(
                f"{name} is aligned to {alignment} bytes: an annex has a power of 2 up to {MOST_ALIGNMENT} bytes"
            )
        if len(name) > _LONGEST_NAME:
            raise LinkError(f"{name[:40]}… is a name of {len(name)} characters, which no patch can have")
        unique, number = name, 1
        while unique in self.taken:
            number += 1
            unique = f"{name}.{number}"
        self.taken.add(unique)
        return Piece(unique, home, start, end, is_code, max(INSN_SIZE, alignment))

    @cached_property
    def _functions(self) -> dict[int, list[tuple[int, int, str]]]:
        """(start, end, name) of the functions of each section, ascending; functions that overlap are one."""
        found: dict[int, list[tuple[int, int, bool, str]]] = {}
        for symbol in self.object.symbol_list:
            if symbol.type == STT_FUNC and symbol.home > 0 and symbol.size:
                entry = (symbol.offset, symbol.offset + symbol.size, symbol.is_local, symbol.name)
                found.setdefault(symbol.home, []).append(entry)
        functions: dict[int, list[tuple[int, int, str]]] = {}
        for home, entries in found.items():
            merged: list[tuple[int, int, str]] = []
            for start, end, _, name in sorted(entries, key=lambda entry: (entry[0], entry[2])):
                if merged and start < merged[-1][1]:
                    merged[-1] = (merged[-1][0], max(end, merged[-1][1]), merged[-1][2])
                else:
                    merged.append((start, end, name))
            functions[home] = merged
        return functions

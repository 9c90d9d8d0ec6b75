"""An object file of a compiler (ET_REL) as the input of a linker: its sections, symbols and relocations as values.

Reads untrusted bytes, and changes nothing.
Read on: elf_image.py for the format; ../linking/ uses it.
"""

from __future__ import annotations

import os
import re
from functools import cached_property
from typing import NamedTuple

from a64patch.errors import FormatError
from a64patch.targets.elf_image import (
    _RELA,
    _SYMBOL,
    HEADER_SIZE,
    SHN_ABS,
    SHN_COMMON,
    SHN_LORESERVE,
    SHN_UNDEF,
    SHN_XINDEX,
    SHT_CREL,
    SHT_REL,
    SHT_RELA,
    SHT_SYMTAB,
    STB_LOCAL,
    STT_FILE,
    ElfImage,
    Section,
    relocation_size,
    require_aarch64,
)
from a64patch.targets.replace import FileOnDisk

UNDEFINED, ABSOLUTE, COMMON = 0, -1, -2
"""In place of a section's number: a symbol of another file, a number that is no address, memory that is still to be
reserved (gABI, "Symbol Table")."""
STB_WEAK = 2

_MOST_BYTES = 1 << 26
_MOST_SYMBOLS = 1 << 20
_MOST_COMPILERS = 4
_LONGEST_COMPILER = 100
_SPECIAL = {SHN_UNDEF: UNDEFINED, SHN_ABS: ABSOLUTE, SHN_COMMON: COMMON}


class ObjectSymbol(NamedTuple):
    """One symbol of an object file."""

    name: str
    type: int
    """STT_FUNC, …"""
    binding: int
    """STB_LOCAL, …"""
    home: int
    """The number of its section; or UNDEFINED, ABSOLUTE, COMMON."""
    offset: int
    """Bytes from the start of its section."""
    size: int
    """Bytes; 0 for an unknown size."""
    file: str
    """The source file of a local symbol, as the last STT_FILE symbol before it says; empty for others."""

    @property
    def is_local(self) -> bool:
        """No other file may refer to it."""
        return self.binding == STB_LOCAL


class ObjectRelocation(NamedTuple):
    """One relocation of a section."""

    offset: int
    """Bytes from the start of the section to the first byte that is overwritten."""
    type: int
    symbol: int
    """The number of its symbol in `ElfObject.symbol_list`."""
    addend: int


class ElfObject(ElfImage):
    """The contents of an object file: ET_REL, ELFCLASS64, EM_AARCH64, little-endian data.

    FormatError when the file is another one, is not sound, has more than 64 MiB, or has relocations without addends:
    compilers write SHT_RELA (AAELF64, 5.7.2). Parts are read at their first use, and may raise it then.
    """

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data, name)
        if not self.relocatable:
            raise FormatError(f"{name} is linked already: take the object file of a compiler (cc -c)")
        if self.order == ">":
            raise FormatError(f"{name} has big-endian data, which cannot be linked: only little-endian objects can")

    @property
    def title(self) -> str:
        """The file's name without its folder."""
        return os.path.basename(self.name)

    @cached_property
    def symbol_list(self) -> list[ObjectSymbol]:
        """All symbols by number, with those of sections and files."""
        found: list[ObjectSymbol] = []
        for table in self._symbol_tables():
            if self.sections[table.section].type != SHT_SYMTAB:
                continue
            file = ""
            for number, entry in enumerate(self._entries(_SYMBOL, table.offset, table.size)):
                name_at, info, _, home, value, size = entry
                kind, binding = info & 15, info >> 4
                name = table.names.at(name_at) if name_at else ""
                if kind == STT_FILE:
                    file = name
                if home == SHN_XINDEX:
                    home = self._extended_index(table.section, number)
                elif home == SHN_UNDEF or home >= SHN_LORESERVE:
                    home = _SPECIAL.get(home, ABSOLUTE)
                if home >= len(self.sections):
                    raise self.bad(f"symbol {number} lies in section {home}, which does not exist")
                if len(found) == _MOST_SYMBOLS:
                    raise self.bad(f"it has more than {_MOST_SYMBOLS} symbols, which cannot be linked")
                found.append(ObjectSymbol(name, kind, binding, home, value, size, file if binding == STB_LOCAL else ""))
        return found

    def relocations_of(self, number: int) -> list[ObjectRelocation]:
        """The relocations of a section, ascending."""
        found: list[ObjectRelocation] = []
        size = self.sections[number].size
        for table in self._relocations_by_section.get(number, ()):
            if table.type != SHT_RELA:
                raise FormatError(
                    f"{self.name} has relocations of {self.section_name(self.sections[number])} that are not RELA,"
                    " which cannot be read: build it without them"
                )
            for offset, info, addend in self._entries(_RELA, table.offset, table.size):
                if offset + relocation_size(info & 0xFFFFFFFF) > size or info >> 32 >= len(self.symbol_list):
                    raise self.bad(
                        f"a relocation of {self.section_name(self.sections[number])} lies outside it, or has a symbol"
                        " that does not exist"
                    )
                found.append(ObjectRelocation(offset, info & 0xFFFFFFFF, info >> 32, addend))
        return sorted(found)

    @cached_property
    def _relocations_by_section(self) -> dict[int, list[Section]]:
        tables: dict[int, list[Section]] = {}
        for index, section in enumerate(self.sections):
            if section.type in (SHT_RELA, SHT_REL, SHT_CREL):
                self._section_for(section.info, f"relocation section {index}")
                tables.setdefault(section.info, []).append(section)
        if sum(table.size for group in tables.values() for table in group) > len(self.data):
            raise self.bad("its relocation tables overlap")
        return tables

    @cached_property
    def source_files(self) -> tuple[str, ...]:
        """The names of its source files (STT_FILE), in their order."""
        return tuple(dict.fromkeys(one.name for one in self.symbol_list if one.type == STT_FILE and one.name))

    @cached_property
    def compilers(self) -> tuple[str, ...]:
        """The compilers that made it, as they say themselves in `.comment`; the first few."""
        found: list[str] = []
        for section in self.sections[1:]:
            if section.mapped or section.size > 1 << 16 or self.section_name(section) != ".comment":
                continue
            for one in self.data[section.offset : section.offset + section.size].split(b"\0"):
                text = re.sub(r"[^ -~]+", "?", one[:_LONGEST_COMPILER].decode("utf-8", "replace")).strip()
                if text and text not in found:
                    found.append(text)
        return tuple(found[:_MOST_COMPILERS])


def open_object(path: str | os.PathLike[str]) -> ElfObject:
    """The object file at a path. TargetError when it cannot be read; FormatError as `ElfObject`."""
    name = os.fspath(path)
    file = FileOnDisk(name)
    if file.size > _MOST_BYTES:
        raise FormatError(f"{name} has {file.size} bytes, more than the {_MOST_BYTES >> 20} MiB that can be linked")
    require_aarch64(file.head(HEADER_SIZE), name)
    return ElfObject(file.content, name)

"""Room for new code in a relocatable ELF file (.o, .ko): a section of its own, and relocations for its words.

Computes edits of bytes, and writes nothing. Knows elf_image.py and elf_room.py only.
Read on: elf.py applies the edits; AAELF64 5.7 for relocations, the ELF gABI for symbols.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from a64patch.a64.effects import effects_of
from a64patch.a64.predicates import decode
from a64patch.a64.references import reference
from a64patch.a64.words import INSN_SIZE
from a64patch.errors import CapabilityError, MappingError, RelocationError, SymbolError
from a64patch.oneline import shown
from a64patch.ranges import Ranges
from a64patch.targets.base import NewReference, Room
from a64patch.targets.elf_image import (
    _RELA,
    _SYMBOL,
    LOW12_UNITS,
    R_AARCH64_ADD_ABS_LO12_NC,
    SHN_LORESERVE,
    SHN_UNDEF,
    SHT_REL,
    SHT_RELA,
    SHT_SYMTAB,
    SHT_SYMTAB_SHNDX,
    STT_FUNC,
    STT_SECTION,
    STT_TLS,
    SYMBOL_SIZE,
    ElfImage,
    Section,
    relocation_name,
    relocation_size,
)
from a64patch.targets.elf_room import (
    Draft,
    Edit,
    Header,
    code_section,
    completed,
    contents_of,
    next_number,
    requested,
    require_tables,
    without_newest,
)

MARK = "a64patch."
"""The begin of the name of each room's symbol."""

_REACH = 1 << 27
_FARTHEST = 1 << 32
"""Bytes that ADRP reaches (Arm ARM, C6.2: ADRP)."""
_MOST_BYTES = 1 << 30
_MOST_SYMBOLS = 1 << 20
_STB_GLOBAL, _STV_HIDDEN = 1, 2
_SHF_INFO_LINK = 0x40
_RELA_SIZE = 24
_RELOCATIONS = frozenset((*range(273, 281), *range(282, 287), 299))
"""The types for an instruction that branches, forms an address, or loads and stores at the low 12 bits of one."""

_TYPES = {"adr": 274, "adrp": 275, "tbz": 279, "tbnz": 279, "b": 282, "bl": 283}
_TYPES |= dict.fromkeys(("bcond", "bccond", "cbz", "cbnz"), 280)
"""The relocation for each instruction that is PC-relative and reads no literal."""
_LITERAL = 273


class NewRelocation(NamedTuple):
    """A relocation that a loader or linker is to apply to the word at an address."""

    address: int
    type: int
    """R_AARCH64_CALL26 and the like, by number (AAELF64 5.7)."""
    goal: int | str
    """An address in this file, or the name of a symbol that has none here: of another file, or in a section like .bss.
    """
    addend: int = 0
    """Bytes to add to the goal."""

    def __repr__(self) -> str:
        goal = self.goal if isinstance(self.goal, str) else f"{self.goal:#x}"
        return shown(self, f"{relocation_name(self.type)} at {self.address:#x} against {goal}{self.addend:+#x}")


def relocation_of(word: int, reference: NewReference) -> NewRelocation:
    """The relocation for a word that refers to a place. RelocationError when there is none for its instruction."""
    row, effects = decode(word), effects_of(word)
    kind = _TYPES.get(row.name) if row is not None else None
    if row is not None and effects is not None and effects.low_half is not None:
        is_add = row.name == "add_imm"
        units = [(kind, unit) for kind, unit in LOW12_UNITS.items() if is_add == (kind == R_AARCH64_ADD_ABS_LO12_NC)]
        kind = next((kind for kind, unit in units if unit == effects.low_half.unit), None)
    if kind is None:
        raise RelocationError(f"no relocation fills the word {word:08x} at {reference.address:#x}: name no place there")
    return NewRelocation(reference.address, kind, reference.goal, reference.addend)


def find_room(image: ElfImage, size: int, near: tuple[int, int], alignment: int) -> Room:
    """See `Target.find_room`: a new section at the end of the file.

    Not guaranteed: the distance at which a loader or linker puts this section from others. They put all code of a file
    together. CapabilityError for a file whose tables cannot become longer. RequestError as `elf_room.find_room`.
    """
    size, alignment = requested(size, alignment)
    _require_possible(image)
    room = Room(-(-len(image.data) // alignment) * alignment, size, "a new section")
    if room.end - near[0] >= _REACH or alignment > 1 << 12:
        raise CapabilityError(
            f"{image.name} has no room for {size} bytes of code at a multiple of {alignment} within 128 MiB of "
            f"{near[0]:#x}: put them in the place of other code"
        )
    return room


def allocation(image: ElfImage, room: Room, relocations: Sequence[NewRelocation] = ()) -> Edit:
    """The edit that adds a room of `find_room` and relocations. MappingError when it is not free (any more)."""
    _require_possible(image)
    size = len(image.data)
    if (room.address | room.size) % INSN_SIZE or not size <= room.address < size + (1 << 12) or room.size > _REACH:
        raise MappingError(
            f"the {room.size} bytes at {room.address:#x} in {image.name} are not free: ask for a room again"
        )
    return _Adding(image, room).edit(relocations)


def relocated(image: ElfImage, data: bytes | bytearray, relocations: Sequence[NewRelocation]) -> list[Edit]:
    """The edits that let a loader or linker fill words of the newest room, and words that lead there.

    Other relocations of these words are dropped. Those of an earlier call for other words stay. MappingError without a
    room. Errors as `ElfFile.relocate`.
    """
    found = without_newest(image, data)
    if found is None or not image.relocatable:
        raise MappingError(f"{image.name} has no new room whose words could be relocated: allocate one")
    room, undo = found
    before = bytearray(data)
    undo.carry_out(before)
    base = ElfImage(bytes(before), image.name)
    edit = _Adding(base, room, _known(image, room, relocations)).edit(relocations)
    words = [(each.address, bytes(data[each.address : each.address + INSN_SIZE])) for each in relocations]
    code = room.address, bytes(data[room.address : room.end])
    return [undo, edit, Edit(edit.size, (code, *words))]


def _known(image: ElfImage, room: Room, changed: Sequence[NewRelocation]) -> dict[int, list[bytes]]:
    """The entries for the newest room, and for words that lead there, by the offset of their section in the file.

    Without the entries of changed words.
    """
    words = {each.address for each in changed}
    [symbols] = [section for section in image.sections if section.type == SHT_SYMTAB]
    newest = symbols.size // SYMBOL_SIZE - 1
    found: dict[int, list[bytes]] = {}
    for table in image.tables:
        entries = image.data[table.offset : table.offset + table.size]
        for place, info, addend in struct.iter_unpack(image.order + _RELA, entries):
            of_room = table.base == room.address or info >> 32 == newest
            if of_room and info & 0xFFFFFFFF and table.base + place not in words:
                entry = struct.pack(image.order + _RELA, place, info, addend)
                found.setdefault(table.base, []).append(entry)
    return found


def references(
    image: ElfImage, rooms: Ranges, address: int, words: Sequence[int]
) -> Iterator[tuple[int, NewRelocation | None]]:
    """The words at an address that refer from a room to another section, or from elsewhere to a room: their addresses,
    and the relocations that they need. None for ADRP in a room, whose word does not tell the goal.
    """
    if not rooms:
        return

    def home(place: int) -> int:
        return bisect_right(image.section_starts, place)

    for place, word in zip(range(address, address + INSN_SIZE * len(words), INSN_SIZE), words, strict=True):
        row = decode(word)
        refers = reference(row) if row is not None else None
        if row is None or refers is None:
            continue
        goal = refers.target(word, place)
        kind = _LITERAL if row.literal else _TYPES.get(row.name)
        if row.name == "adrp":
            if place in rooms:
                yield place, None
        elif kind is not None and (place in rooms or goal in rooms) and home(place) != home(goal):
            yield place, NewRelocation(place, kind, goal)


def _require_possible(image: ElfImage) -> None:
    require_tables(image)
    symbols = [section for section in image.sections if section.type == SHT_SYMTAB]
    if len(symbols) != 1 or any(section.type in (SHT_SYMTAB_SHNDX, SHT_REL) for section in image.sections):
        raise CapabilityError(
            f"{image.name} has no symbol table, or one for more sections than usual, or relocations without addends: "
            f"link it first, and patch the linked file"
        )
    if symbols[0].entry_size != SYMBOL_SIZE or symbols[0].size % SYMBOL_SIZE:
        raise image.bad("the entries of its symbol table do not have 24 bytes")
    if len(image.data) > _MOST_BYTES or symbols[0].size > _MOST_SYMBOLS * SYMBOL_SIZE:
        raise CapabilityError(
            f"{image.name} has more than {_MOST_BYTES >> 20} MiB or {_MOST_SYMBOLS} symbols, so it gets no new section"
        )


class _Adding:
    """Adds a room to a file: a section, a symbol, relocations."""

    def __init__(self, image: ElfImage, room: Room, known: Mapping[int, list[bytes]] | None = None) -> None:
        self._image, self._room, self._known = image, room, known or {}
        self._table = next(number for number, section in enumerate(image.sections) if section.type == SHT_SYMTAB)
        self._names = image._strings_of(image.sections[self._table].link)
        self._symbols = list(struct.iter_unpack(image.order + _SYMBOL, contents_of(image, self._table)))
        self._by_name: dict[str, int] = {}
        self._by_section: dict[int, int] = {}
        for number, (_, info, _, home, _, _) in enumerate(self._symbols):
            if 0 < home < SHN_LORESERVE and info & 15 != STT_TLS:
                first = self._by_section.setdefault(home, number)
                if info & 15 == STT_SECTION != self._symbols[first][1] & 15:
                    self._by_section[home] = number

    def edit(self, relocations: Sequence[NewRelocation]) -> Edit:
        """The edit. Errors as `ElfFile.relocate`."""
        image, room, order = self._image, self._room, self._image.order
        number = next_number(image)
        link = image.sections[self._table].link
        strings = contents_of(image, link)
        strings += b"" if strings.endswith(b"\0") else b"\0"
        # No other file has a symbol of this name: two patched files may be linked together.
        name = f"{MARK}{number}.{zlib.crc32(image.data):08x}"
        symbol = (len(strings), _STB_GLOBAL << 4 | STT_FUNC, _STV_HIDDEN, len(image.sections), 0, room.size)
        contents = {
            link: strings + name.encode("ascii") + b"\0",
            self._table: contents_of(image, self._table) + struct.pack(order + _SYMBOL, *symbol),
        }
        sections: list[tuple[str, Section, bytes | None]] = [
            (f".text.a64patch.{number}", code_section(room, room.address), None)
        ]
        by_home: dict[int, list[NewRelocation]] = {}
        for each in relocations:
            by_home.setdefault(self._home(each.address), []).append(each)
        for home in sorted({*by_home, *map(self._home, self._known)}):
            start = room.address if home == len(image.sections) else image.sections[home].offset
            new, known = by_home.get(home, ()), self._known.get(start, ())
            entries = b"".join(self._entry(each, start) for each in new)
            entries += b"".join(known)
            layout = order + "Q"
            places = {each.address - start for each in new} | {struct.unpack_from(layout, each)[0] for each in known}
            tables = [index for index, s in enumerate(image.sections) if s.type == SHT_RELA and s.info == home]
            if len(tables) > 1:
                raise image.bad(f"section {home} has {len(tables)} relocation tables")
            if tables:
                contents[tables[0]] = self._without(tables[0], places) + entries
                continue
            of = ".text.a64patch." + str(number) if home == len(image.sections) else self._section_name(home)
            header = Section(0, SHT_RELA, _SHF_INFO_LINK, 0, 0, 0, self._table, home, 8, _RELA_SIZE)
            sections.append((f".rela{of}", header, entries))
        draft = Draft(Header.of(image.data, order), [], room.end, sections, contents)
        return completed(image, room, draft)

    def _section_name(self, number: int) -> str:
        return self._image.section_name(self._image.sections[number])

    def _home(self, address: int) -> int:
        """The number of the section with the word at an address."""
        if address % INSN_SIZE:
            raise MappingError(f"address {address:#x} is not a multiple of 4, so no instruction starts there")
        if self._room.address <= address < self._room.end:
            return len(self._image.sections)
        number = self._image.section_at(address)
        if number is not None and self._image.sections[number].executable:
            return number
        raise MappingError(f"{address:#x} in {self._image.name} is not code, so no new relocation may change it")

    def _without(self, table: int, places: set[int]) -> bytes:
        """A relocation table in which R_AARCH64_NONE takes the place of each relocation of these words."""
        changed = bytearray(contents_of(self._image, table))
        layout = self._image.order + _RELA
        if len(changed) % _RELA_SIZE:
            raise self._image.bad(f"relocation section {table} is not a whole number of entries")
        for index, (place, info, _) in enumerate(struct.iter_unpack(layout, bytes(changed))):
            size = relocation_size(info & 0xFFFFFFFF)
            if any(word in places for word in range(place & -INSN_SIZE, place + size, INSN_SIZE)):
                struct.pack_into(self._image.order + "Q", changed, _RELA_SIZE * index + 8, info >> 32 << 32)
        return bytes(changed)

    def _entry(self, relocation: NewRelocation, start: int) -> bytes:
        if relocation.type not in _RELOCATIONS:
            raise RelocationError(
                f"the word at {relocation.address:#x} in {self._image.name} cannot have "
                f"{relocation_name(relocation.type)}, which is for no instruction that refers to a place"
            )
        symbol, addend = self._symbol(relocation.goal)
        info, addend = symbol << 32 | relocation.type, addend + relocation.addend
        if not -_FARTHEST <= addend < _FARTHEST:
            raise RelocationError(f"{relocation!r} is {addend:+#x} bytes from a symbol, which is out of reach")
        return struct.pack(self._image.order + _RELA, relocation.address - start, info, addend)

    def _symbol(self, goal: int | str) -> tuple[int, int]:
        """The number of a symbol, and the distance in bytes from it to the goal."""
        image, room = self._image, self._room
        if isinstance(goal, str):
            return self._named(goal), 0
        if room.address <= goal <= room.end:
            return len(self._symbols), goal - room.address
        number = image.section_at(goal)
        if number is None:
            raise MappingError(f"{goal:#x} in {image.name} is in no section that is loaded: name a mapped address")
        symbol = self._by_section.get(number)
        if symbol is None:
            raise SymbolError(f"section {number} of {image.name} has no symbol that could be referred to")
        return symbol, goal - image.sections[number].offset - self._symbols[symbol][4]

    def _named(self, name: str) -> int:
        if not self._by_name:
            for number, (at, info, _, home, _, _) in enumerate(self._symbols):
                placed = home < len(self._image.sections) and self._image.sections[home].mapped
                if at and info & 15 not in (STT_SECTION, STT_TLS) and (home == SHN_UNDEF or not placed):
                    self._by_name.setdefault(self._names.at(at), number)
        if name not in self._by_name:
            raise SymbolError(
                f"{name} is no symbol without an address in {self._image.name}: a loader would not look for it"
            )
        return self._by_name[name]

"""ELF files as targets: words changed in memory, relocations dropped for them, the file replaced.

Read on: base.py for the protocol; elf_image.py reads the contents of a file; elf_room.py finds room for new code;
file.py replaces the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property

from a64patch.a64.words import INSN_SIZE, from_bytes, to_bytes
from a64patch.errors import A64PatchError, MappingError, MismatchError, RelocationError
from a64patch.ranges import Ranges
from a64patch.targets import elf_object_room, elf_room
from a64patch.targets.base import Aftermath, NewReference, Room
from a64patch.targets.debug_link import Names, names_of
from a64patch.targets.elf_image import (
    R_AARCH64_IRELATIVE,
    R_AARCH64_JUMP_SLOT,
    R_AARCH64_TLSDESC,
    SHT_REL,
    SHT_RELA,
    ElfImage,
    Relocation,
    require_aarch64,
)
from a64patch.targets.elf_object_room import NewRelocation
from a64patch.targets.file import FileTarget
from a64patch.targets.modules import Claim, Module, data_claims
from a64patch.targets.symbols import SymbolTable

_MOST_BYTES = 1 << 31
_NEVER_DROPPED = (R_AARCH64_JUMP_SLOT, R_AARCH64_TLSDESC, R_AARCH64_IRELATIVE)


class ElfFile(FileTarget):
    """The code in an ELF file: ELFCLASS64, EM_AARCH64, either data endianness; ET_EXEC, ET_DYN or ET_REL.

    Addresses are the file's own virtual addresses, those of PT_LOAD segments (gABI, "Program header"). A relocatable
    file has no virtual addresses yet: an address is an offset in the file (bytes). People write `.text:0x10`, and
    `symbols.spaces` holds the sections for it, those with bytes in the file.

    `write` changes a copy in memory; `publish` replaces the file. A process that executes the file keeps the old file.

    A relocation overwrites its words when the file is loaded (ET_EXEC, ET_DYN) or linked (ET_REL). So a change of such
    a word is refused, unless `drop_relocations`: then `publish` makes the relocations of changed words R_AARCH64_NONE.
    When the word is again as in the opened file, `publish` keeps its relocations. `undo_aftermath` restores relocations
    that an earlier ElfFile dropped.

    A stripped program has the names of its debug file too, see `debug_link.names_of`.

    A debug file holds names but no code, and is refused. `names_only` opens it too: its code can then be neither read
    nor written.

    TargetError when the path cannot be opened or is not a regular file. FormatError when it is not such an ELF file, is
    not sound, is a debug file, or has more than 2 GiB. Symbols and relocations are read at their first use, so an error
    in them is a FormatError then. A file without write permission works until `write`.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, drop_relocations: bool = False, names_only: bool = False
    ) -> None:
        super().__init__(path, "ELF file", _MOST_BYTES)
        self._drop_relocations = drop_relocations
        require_aarch64(self._file.head(64), self.path)  # before all of it is read
        self._image = ElfImage(self._file.content, self.path)
        if not names_only:
            self._image.require_code()
        self._data = self._image.data  # a copy from the first write on
        self._touched: set[int] = set()
        self._spans_of_rooms: Ranges | None = None
        self._referring: dict[int, NewRelocation | None] = {}
        self._references: dict[int, NewReference] = {}

    def own_modules(self) -> Iterable[Module]:
        """The file as one build. FormatError when its notes or relocation tables are not sound.

        Its code may be written: `ElfImage.code`. Of a debug file it is the code of the program.
        """
        image = self._image
        symbols = SymbolTable(lambda: self._names.symbols, image.spaces())
        name = os.path.basename(self.path)
        code = image.executable if image.is_debug_file else image.code
        return [Module(name, symbols, image.build_id, code=code, file=self.location, claims=self._claims)]

    @cached_property
    def _names(self) -> Names:
        return names_of(self._image, self.path)

    def facts(self) -> dict[str, str]:
        """The debug file from which the names of a stripped program are."""
        return {"names from": self._names.debug_file} if self._names.debug_file else {}

    def _claims(self) -> Iterable[Claim]:
        data = self._image.data_in_code | (self._names.data & self._image.code)
        return data_claims(data)

    @property
    def image(self) -> ElfImage:
        """The structure of the file as it was opened, with the rooms that were allocated since."""
        return self._image

    @property
    def is_relocatable(self) -> bool:
        """ET_REL (.o, .ko): addresses are offsets in the file."""
        return self._image.relocatable

    @property
    def is_debug_file(self) -> bool:
        """`ElfImage.is_debug_file`; only with `names_only`."""
        return self._image.is_debug_file

    @property
    def build_id_note(self) -> tuple[int, bytes]:
        """`ElfImage.build_id_note`."""
        return self._image.build_id_note

    @property
    def build_id(self) -> str:
        """The descriptor of the NT_GNU_BUILD_ID note in hex; empty when there is none."""
        return self._image.build_id

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes as last written, published or not; MappingError for a byte that is not in the file (.bss)."""
        self._require_open()
        chunks = self._chunks(address, size)
        if len(chunks) == 1:
            offset, length = chunks[0]
            return bytes(self._data[offset : offset + length])
        return b"".join(self._data[offset : offset + length] for offset, length in chunks)

    def read_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes]:
        """As `read` of each (address, size). Requests within one segment cost least."""
        self._require_open()
        data, found = self._data, list[bytes]()
        start = end = offset = 0
        for address, size in requests:
            if not (start <= address and size >= 0 and address + size <= end):
                start, end, offset = self._image.piece_at(address) or (0, 0, 0)
            if start <= address and size >= 0 and address + size <= end:
                place = offset + address - start
                found.append(bytes(data[place : place + size]))
            else:
                found.append(self.read(address, size))
        return found

    def write(self, address: int, data: bytes) -> None:
        """Put bytes into the copy in memory; nothing on disk changes before `publish`.

        On an error nothing was written:
        - MappingError when not all bytes are code.
        - RelocationError when a relocation owns a word that would differ from the opened file's word, and for a word
          that `refer` told of and no relocation is for.
        - WriteError when the file on disk could not be replaced: no permission, several hard links, changed since.
        - FormatError when the file's relocations are not sound.
        """
        self._require_open()
        chunks = self._chunks(address, len(data))
        end = address + len(data)
        if not data:
            return
        if not self._image.code.covers(address, end):
            raise MappingError(
                f"{self._where(address)} is not code, so it may not be written: patch executable sections only"
            )
        copy = self._writable()
        owned = [word for word in range(address & -INSN_SIZE, end, INSN_SIZE) if self._image.owners(word)]
        if owned:
            before = b"".join(self._image.data[offset : offset + length] for offset, length in chunks)
            for word in owned:
                part = slice(max(word - address, 0), word + INSN_SIZE - address)
                if data[part] != before[part]:
                    self._require_droppable(word)
            self._touched.update(owned)
        self._note_references(address, data)
        done = 0
        for offset, length in chunks:
            copy[offset : offset + length] = data[done : done + length]
            done += length

    def relocation_at(self, address: int) -> str | None:
        """The relocations of the code word at this address, such as `R_AARCH64_CALL26 against printk`.

        None for a word without relocations, and for an address that is not code. Always as in the opened file. Those
        that came with a room are not told: they give the word its meaning, and go with it.
        """
        if self._is_for_room(address & -INSN_SIZE):
            return None
        return ", ".join(map(self._image.describe, self._image.owners(address & -INSN_SIZE))) or None

    def find_room(self, size: int, near: tuple[int, int], alignment: int = 16) -> Room:
        """The padding behind the code of the program, else a new segment; in ET_REL a new section.

        As `elf_room.find_room` and `elf_object_room.find_room`.
        """
        self._require_open()
        if self.is_relocatable:
            return elf_object_room.find_room(self._image, size, near, alignment)
        return elf_room.find_room(self._image, size, near, alignment)

    def allocate(self, room: Room) -> None:
        """As `Target.allocate`, in the copy in memory. WriteError as `write`.

        No byte of the program moves: the tables that become longer move to the end of the file. The section
        `.a64patch.1` (2, 3, …; in ET_REL `.text.a64patch.1`) holds the room, and `.a64patch.undo.1` all that `release`
        needs.
        """
        self._require_open()
        allocation = elf_object_room.allocation if self.is_relocatable else elf_room.allocation
        self._edit([allocation(self._image, room)])

    def relocate(self, relocations: Sequence[NewRelocation]) -> None:
        """Let the loader or linker of an ET_REL file fill words of the newest room, and words that lead there.

        `publish` does this by itself for branches, ADR and literals, whose words tell their goals in the file. It is
        for words whose goals must be told: ADRP with its partner, and symbols without an address, such as `printk`.

        Write the words before: a word that changes afterwards loses its relocations at the next `publish`. `release`
        of the room undoes it. On an error nothing was changed:

        - MappingError without a room, for an address that is no code, and for a goal that is in no loaded section.
        - SymbolError for a name that no relocation of the file could have.
        - RelocationError for a type that is for no instruction; WriteError as `write`.
        """
        self._require_open()
        self._edit(elf_object_room.relocated(self._image, self._data, relocations))
        for each in relocations:
            self._referring.pop(each.address, None)

    @property
    def unplaced(self) -> Collection[str] | None:
        """In ET_REL the names of other files, and those in sections like .bss."""
        return self._unplaced if self.is_relocatable else None

    @cached_property
    def _unplaced(self) -> Collection[str]:
        return self._image.unplaced_names()

    def refer(self, references: Sequence[NewReference]) -> None:
        """As `Target.refer`: in ET_REL, `write` of such a word notes the relocation that it needs."""
        if self.is_relocatable:
            self._references.update({each.address: each for each in references})
        else:
            super().refer(references)

    def rooms(self) -> Sequence[Room]:
        """The rooms in the file, whoever allocated them, but those whose words are all zero."""
        self._require_open()
        return elf_room.rooms(self._image, self._data)

    def release(self, room: Room) -> str:
        """As `Target.release`, in the copy in memory. WriteError as `write`.

        When the newest room is released, the file is again as before `allocate`, byte for byte but for other writes.
        Another room is filled with zeros, and goes when it becomes the newest. So does a room whose record is gone or
        does not fit, as after strip: it stays for good.
        """
        self._require_open()
        edits, sentence = elf_room.release(self._image, self._data, room)
        # The relocations that such words had before come back with the tables.
        restored = set() if sentence else {word for word in self._touched if self._is_for_room(word)}
        self._edit(edits)
        self._touched -= restored
        self._referring = {word: each for word, each in self._referring.items() if not room.address <= word < room.end}
        self._references = {
            word: each for word, each in self._references.items() if not room.address <= word < room.end
        }
        return sentence

    def _edit(self, edits: Iterable[elf_room.Edit]) -> None:
        """Change the structure of the file, in the copy in memory and in what the copy is compared with."""
        self._writable()
        opened, copy = bytearray(self._image.data), bytearray(self._data)
        for edit in edits:
            edit.carry_out(opened)
            edit.carry_out(copy)
        image = ElfImage(bytes(opened), self.path)
        code, before = image.code, self._image.code
        if self._may_write is not None:
            self._may_write = (self._may_write - (before - code)) | (code - before)
        self._image, self._data, self._spans_of_rooms = image, copy, None
        if self._modules is not None:
            self._modules = self._modules.knowing([replace(self._modules.main, code=code)])

    def _where(self, address: int) -> str:
        with suppress(A64PatchError):
            name = self.symbols.describe(address)
            return f"{name} in {self.path}" if name == f"{address:#x}" else f"{name} ({address:#x}) in {self.path}"
        return f"{address:#x} in {self.path}"

    def _chunks(self, address: int, size: int) -> list[tuple[int, int]]:
        chunks = None if size < 0 else self._image.chunks(address, size)
        if chunks is None:
            raise MappingError(f"{size} bytes at {address:#x} do not all stand in {self.path}: name a mapped address")
        return chunks

    def _require_droppable(self, word: int) -> None:
        owner = self.relocation_at(word)
        if not self._drop_relocations and not self._is_for_room(word):
            raise RelocationError(
                f"the word at {self._where(word)} belongs to {owner}, which would overwrite it: "
                f"patch another word, or drop the relocation (drop_relocations, --drop-relocations)"
            )
        if not self._image.relocatable and not all(map(_can_drop, self._image.owners(word))):
            raise RelocationError(
                f"the word at {self._where(word)} belongs to {owner}, which cannot be dropped: patch another word"
            )

    def _note_references(self, address: int, data: bytes) -> None:
        """Remember the relocations that words in rooms of an ET_REL file need, and words that lead there."""
        if not self.is_relocatable or (address | len(data)) % INSN_SIZE:
            return
        words = from_bytes(data)
        places = range(address, address + len(data), INSN_SIZE)
        told = {
            place: elf_object_room.relocation_of(word, self._references[place])
            for place, word in zip(places, words, strict=True)
            if place in self._references
        }
        for place in places:
            self._referring.pop(place, None)
            self._references.pop(place, None)
        self._referring |= elf_object_room.references(self._image, self._room_spans, address, words)
        self._referring |= told

    def publish(self, start: int, end: int) -> None:
        """As `FileTarget.publish`. In ET_REL, words between a room and other sections get relocations first.

        RelocationError, and nothing is published, for an ADRP in a room whose goal nobody told to `relocate`.
        """
        self._require_open()
        relocations = []
        for address, relocation in sorted(self._referring.items()):
            if relocation is None:
                raise RelocationError(
                    f"the ADRP at {self._where(address)} does not tell what it refers to, and the loader moves it: "
                    f"load the address from a literal, or tell `relocate` the goal"
                )
            relocations.append(relocation)
        if relocations:
            self.relocate(relocations)
        super().publish(start, end)

    @property
    def _room_spans(self) -> Ranges:
        if self._spans_of_rooms is None:
            self._spans_of_rooms = Ranges.of((room.address, room.end) for room in self.rooms())
        return self._spans_of_rooms

    def _is_for_room(self, word: int) -> bool:
        """Whether a word is in a room, or leads there: its relocations came with the room."""
        owners = self._image.owners(word) if self.is_relocatable else []
        marked = f" against {elf_object_room.MARK}"
        return bool(owners) and (
            word in self._room_spans or all(marked in self._image.describe(owner) for owner in owners)
        )

    def aftermath(self, changes: Sequence[tuple[int, int]]) -> Sequence[Aftermath]:
        """The file's bytes that change when `drop_relocations` drops the relocations of these (address, word) pairs.

        Relocations that came with a room are none of them: they go with it.
        """
        owned = [each for each in changes if self._image.owners(each[0]) and not self._is_for_room(each[0])]
        changed = [address for address, word in owned if self.read(address, INSN_SIZE) != to_bytes(word)]
        return self._dropping({owner for address in changed for owner in self._image.owners(address)})

    def undo_aftermath(self, aftermath: Sequence[Aftermath]) -> None:
        """Put relocations back that an earlier ElfFile dropped. MismatchError when other bytes are in their place."""
        self._require_open()
        for each in aftermath:
            # The old bytes are right too: this ElfFile drops a relocation when it publishes, not in its copy.
            if bytes(self._data[each.offset : each.offset + len(each.new)]) not in (each.new, each.old):
                raise MismatchError(
                    f"the relocation at file offset {each.offset:#x} of {self.path} is not as it was left; nothing was"
                    " changed"
                )
        for each in aftermath:
            self._writable()[each.offset : each.offset + len(each.old)] = each.old

    def _result(self) -> bytes | bytearray:
        """The copy in memory, with the relocations of changed words dropped."""
        dropped = {owner for word in self._touched if self._changed(word) for owner in self._image.owners(word)}
        if not dropped:
            return self._data
        result = bytearray(self._data)
        for each in self._dropping(dropped):
            result[each.offset : each.offset + len(each.new)] = each.new
        return result

    def _dropping(self, dropped: Collection[Relocation]) -> list[Aftermath]:
        """The bytes of the file that make these relocations R_AARCH64_NONE."""
        number = struct.Struct(self._image.order + "Q")
        places = {relocation.entry + 8: relocation.symbol << 32 for relocation in dropped}
        for run in self._image.relative_runs():
            before = [(relocation.entry - run.offset) // run.entry_size for relocation in dropped]
            inside = [place for place in before if 0 <= place < run.length]
            if inside:
                places[run.length_at] = min(inside)
        return [
            Aftermath(place, bytes(self._image.data[place : place + number.size]), number.pack(value))
            for place, value in sorted(places.items())
        ]

    def _changed(self, word: int) -> bool:
        """Whether the word differs from the opened file. Only bytes that are in the file count."""
        places = [offset for byte in range(word, word + INSN_SIZE) for offset, _ in self._image.chunks(byte, 1) or ()]
        return any(self._data[offset] != self._image.data[offset] for offset in places)


def _can_drop(relocation: Relocation) -> bool:
    # A relocation in a PLT table may not become R_AARCH64_NONE: glibc's elf_machine_lazy_rel() and apply_irel() stop
    # the program at a type that they do not expect. The entries of packed tables have no type of their own.
    return relocation.table.type in (SHT_RELA, SHT_REL) and relocation.type not in _NEVER_DROPPED

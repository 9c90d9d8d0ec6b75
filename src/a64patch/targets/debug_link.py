"""The separate debug file of a stripped program. It is looked for where gdb looks, and verified before its use.

Read on: naming.py for a file of names that the user gives. The manual of gdb, "Separate Debug Files", is the rule.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from a64patch.errors import A64PatchError
from a64patch.ranges import Ranges
from a64patch.targets.elf_image import SHT_SYMTAB, ElfImage
from a64patch.targets.replace import FileOnDisk
from a64patch.targets.symbols import Symbol

DEBUG_FOLDER = "/usr/lib/debug"
_MOST_BYTES = 1 << 31
_SECTION = ".gnu_debuglink"


class Names(NamedTuple):
    """The names of a program, with those of its debug file."""

    symbols: list[Symbol]
    debug_file: str
    """The path of the debug file; empty when it has none, or needs none."""
    data: Ranges = Ranges()
    """The addresses of data between the code, as the debug file has them (`ElfImage.marked_data`)."""


def names_of(image: ElfImage, path: str, *, absolute: bool = True) -> Names:
    """The names of the ELF file at `path`: `ElfImage.names`, and for a stripped program those of its debug file.

    A program with .symtab needs no debug file. The places of a debug file are, in this order:

    - /usr/lib/debug/.build-id/ab/cdef.debug for the build id abcdef;
    - the name in .gnu_debuglink: in the program's folder, in its folder .debug, and in /usr/lib/debug/FOLDER.

    A debug file is used when it has the program's build id. If one of both has no build id, the debug file must have

    - the CRC-32 in .gnu_debuglink, and
    - sections of code at the addresses of the program's, as long as those.

    Any other file, and one that is not sound, is passed over in silence. FormatError is for the program only.
    """
    own = image.names(absolute=absolute)
    if not image.relocatable and not _has_symtab(image):
        for place, checksum in _places(image, path):
            found = _verified(image, place, checksum, absolute=absolute)
            if found is not None:
                symbols, data = found
                return Names(list(dict.fromkeys([*symbols, *own])), place, data)
    return Names(own, "")


def _places(image: ElfImage, path: str) -> Iterator[tuple[str, int | None]]:
    """The paths to try, each with the CRC-32 that the file must have; None when the build id decides alone."""
    if len(image.build_id) > 2:
        yield os.path.join(DEBUG_FOLDER, ".build-id", image.build_id[:2], f"{image.build_id[2:]}.debug"), None
    link = _link(image)
    if link is not None:
        name, checksum = link
        folder = os.path.dirname(os.path.realpath(path))
        for place in (folder, os.path.join(folder, ".debug"), DEBUG_FOLDER + folder):
            yield os.path.join(place, name), checksum


def _link(image: ElfImage) -> tuple[str, int] | None:
    """The name and the CRC-32 in .gnu_debuglink. The name of a file in another folder counts as none."""
    for section in image.sections:
        if image.section_name(section) == _SECTION and not section.mapped:
            data = image.data[section.offset : section.offset + section.size]
            name = data.partition(b"\0")[0]
            at = (len(name) + 4) & -4
            if name and b"/" not in name and name not in (b".", b"..") and at + 4 <= len(data):
                return os.fsdecode(name), int.from_bytes(data[at : at + 4], "little" if image.order == "<" else "big")
    return None


def _verified(
    image: ElfImage, place: str, checksum: int | None, *, absolute: bool
) -> tuple[list[Symbol], Ranges] | None:
    """The names and the marked data of a debug file of this very program; None for any other file."""
    try:
        file = FileOnDisk(place)
        if file.size > _MOST_BYTES or file.head(4) != b"\x7fELF":
            return None
        debug = ElfImage(file.content, place)
        if image.build_id and debug.build_id:
            right = image.build_id == debug.build_id
        else:
            right = checksum is not None and zlib.crc32(file.content) == checksum and _layout(image) == _layout(debug)
        # Without .symtab it may be the program itself: its debug file often has the same name, in .debug.
        if right and not debug.relocatable and _has_symtab(debug):
            return debug.symbols(absolute=absolute), debug.marked_data
    except A64PatchError:
        pass
    return None


def _has_symtab(image: ElfImage) -> bool:
    return any(section.type == SHT_SYMTAB for section in image.sections)


def _layout(image: ElfImage) -> list[tuple[int, int]]:
    return [(section.address, section.size) for section in image.sections if section.executable]

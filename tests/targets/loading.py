"""Puts ELF files into a memory as Linux and ld.so do, with the mappings that /proc/N/maps would list.

Read on: test_mapped.py. tests/real/test_mapped.py asks a real loader.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from a64patch.errors import MappingError
from a64patch.targets.elf_image import PF_W, PF_X, PT_DYNAMIC, R_AARCH64_RELATIVE, ElfImage
from a64patch.targets.maps import Mapping, Maps

RELOCATED = (4, 5, 6, 7, 17, 23, 0x6FFFFEF5, 0x6FFFFFF0)
"""Entries of PT_DYNAMIC that glibc makes absolute (elf/get-dynamic-info.h, ADJUST_DYN_INFO)."""


class Process:
    """Memory and its mappings; the files as they can be opened now, by path; what was read and opened."""

    def __init__(self) -> None:
        self.maps = Maps()
        self._memory: dict[int, bytearray] = {}
        self.files: dict[str, bytes] = {}
        self.reads: list[tuple[int, int]] = []
        self.opened: list[str] = []
        self.on_open: Callable[[], None] = lambda: None

    def map(
        self, start: int, data: bytes, permissions: str = "r-xp", path: str = "", inode: int = 0, offset: int = 0
    ) -> None:
        mapping = Mapping(start, start + len(data), permissions, offset, "fe:01", inode, path)
        self.maps = Maps(sorted((*self.maps, mapping)))
        self._memory[start] = bytearray(data)

    def unmap(self, start: int) -> None:
        self.maps = Maps(mapping for mapping in self.maps if mapping.start != start)
        del self._memory[start]

    def read(self, address: int, size: int) -> bytes:
        self.reads.append((address, size))
        found = b""
        while len(found) < size:
            mapping = self.maps.at(address + len(found))
            if mapping is None:
                raise MappingError(f"{address:#x} is not mapped")
            offset = address + len(found) - mapping.start
            found += self._memory[mapping.start][offset : offset + size - len(found)]
        return found

    def write(self, address: int, data: bytes) -> None:
        mapping = self.maps.at(address)
        assert mapping is not None
        assert address + len(data) <= mapping.end
        offset = address - mapping.start
        self._memory[mapping.start][offset : offset + len(data)] = data

    def open_file(self, mapping: Mapping) -> bytes | None:
        self.opened.append(mapping.path)
        self.on_open()
        return self.files.get(mapping.path)

    def load(
        self, data: bytes, path: str, base: int = 0, *, inode: int = 1, page: int = 4096, moves_dynamic: bool = False
    ) -> None:
        """Map the segments, relocate relative relocations, and with `moves_dynamic` do as glibc with PT_DYNAMIC."""
        image = ElfImage(data, path)
        self.files[path] = data
        for load in image.loads:
            low, offset = load.address & -page, load.offset & -page
            end, full = load.address + load.file_size, load.address + load.memory_size
            mapped = -(-end // page) * page
            content = data[offset : offset + mapped - low].ljust(mapped - low, b"\0")
            if load.flags & PF_W:
                content = content[: end - low].ljust(mapped - low, b"\0")
            permissions = f"r{'w' if load.flags & PF_W else '-'}{'x' if load.flags & PF_X else '-'}p"
            if content:
                self.map(base + low, content, permissions, path, inode, offset)
            if full > mapped:
                self.map(base + max(mapped, low), bytes(-(-full // page) * page - max(mapped, low)), permissions)
        for table in image.dynamic_tables if base else ():
            for place, relocation in image.relocations(table):
                if relocation.type == R_AARCH64_RELATIVE:
                    value = relocation.addend or 0
                    self.write(base + place, struct.pack(image.order + "Q", value + base))
        for dynamic in image.segments if moves_dynamic else ():
            for at in range(0, dynamic.file_size, 16) if dynamic.type == PT_DYNAMIC else ():
                place = base + dynamic.address + at
                tag, value = struct.unpack(image.order + "QQ", self.read(place, 16))
                if tag in RELOCATED:
                    self.write(place + 8, struct.pack(image.order + "Q", value + base))
        self.reads.clear()

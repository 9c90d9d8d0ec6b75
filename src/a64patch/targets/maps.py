"""The mappings of a process, as Linux lists them in /proc/N/maps.

Read on: mapped.py finds the builds in them, process.py reads them of a running process.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from a64patch.errors import FormatError
from a64patch.oneline import shown
from a64patch.ranges import Ranges

MOST_MAPPINGS = 1 << 20
"""A list with more mappings is refused. Linux allows 65,530 by default (vm.max_map_count)."""
_LINE = re.compile(
    rb"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-][w-][x-][ps]) ([0-9a-f]{1,16}) ([0-9a-f]+:[0-9a-f]+) ([0-9]{1,20}) *(.*)"
)
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_DELETED = b" (deleted)"


class Mapping(NamedTuple):
    """Addresses [start, end) with one backing and one set of permissions."""

    start: int
    end: int
    permissions: str
    """As Linux writes them: `r-xp`. `s` at the end is a shared mapping: a write would change the file itself."""
    offset: int = 0
    """Where `start` is in the file (bytes)."""
    device: str = "00:00"
    inode: int = 0
    """0 for memory without a file."""
    path: str = ""
    """The file's path in the process' own root, `[vdso]` and the like, or empty."""
    deleted: bool = False
    """The file has no name any more: it was removed or replaced. Not certain: a file's own name may end in this way."""

    def __repr__(self) -> str:
        return shown(self, f"{self.start:#x}-{self.end:#x} {self.permissions}", self.path or "without a file")

    @property
    def executable(self) -> bool:
        """The process may execute these addresses."""
        return self.permissions[2] == "x"

    @property
    def shared(self) -> bool:
        """A write goes to the file, or to the memory that other processes share."""
        return self.permissions[3] == "s"

    @property
    def file(self) -> tuple[str, int] | None:
        """Device and inode of the mapped file; None for memory without a file."""
        return (self.device, self.inode) if self.inode else None


class Maps(tuple[Mapping, ...]):
    """All mappings of a process, ascending."""

    def __repr__(self) -> str:
        return shown(self, f"{len(self)} mappings")

    def at(self, address: int) -> Mapping | None:
        """The mapping that holds an address."""
        index = bisect_right(self, address, key=lambda mapping: mapping.start) - 1
        return self[index] if index >= 0 and address < self[index].end else None

    def holding(self, start: int, end: int) -> Sequence[Mapping]:
        """The mappings that have an address in [start, end)."""
        first = max(bisect_right(self, start, key=lambda mapping: mapping.start) - 1, 0)
        found = []
        for index in range(first, len(self)):
            if self[index].start >= end:
                break
            if self[index].end > start:
                found.append(self[index])
        return found

    @property
    def code(self) -> Ranges:
        """The executable addresses."""
        return Ranges.of((mapping.start, mapping.end) for mapping in self if mapping.executable)


def parse_maps(text: bytes) -> Maps:
    """The mappings in the content of /proc/N/maps (Linux fs/proc/task_mmu.c, show_map_vma).

    FormatError for a line of another form, mappings that overlap or do not ascend, and more than MOST_MAPPINGS.
    """
    found: list[Mapping] = []
    last = 0
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if not match or len(found) >= MOST_MAPPINGS:
            raise FormatError(f"the list of mappings has a line that is none: {line[:80]!r}")
        start, end, offset = (int(match[group], 16) for group in (1, 2, 4))
        if not last <= start < end:
            raise FormatError(f"the list of mappings contradicts itself at {start:#x}")
        last = end
        path, inode = match[7], int(match[6])
        deleted = bool(inode) and path.endswith(_DELETED)
        path = _ESCAPED.sub(
            lambda code: bytes((int(code[1], 8) & 0xFF,)), path.removesuffix(_DELETED) if deleted else path
        )
        found.append(
            Mapping(
                start, end, match[3].decode(), offset, match[5].decode(), inode,
                path.decode("utf-8", "surrogateescape"), deleted,
            )
        )  # fmt: skip
    return Maps(found)

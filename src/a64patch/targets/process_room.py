"""Where a process has room for new code, and how a room in it is recognised.

It knows mappings, and no process. Read on: process.py maps and unmaps the rooms.

A room has pages of its own. Its last bytes are a mark with its address and its size, by which a later run finds it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

from a64patch.ranges import Ranges
from a64patch.targets.base import Room, within_reach
from a64patch.targets.maps import Mapping, Maps

_MARK = struct.Struct("<16sQQ")
_MAGIC = b"a64patch's room\0"
_PERMISSIONS = "r-xp"
HOW = "new pages"
_HEAP = 1 << 36
"""Bytes that the heap may have."""


def mark_of(room: Room) -> bytes:
    """The last bytes of a room's pages."""
    return _MARK.pack(_MAGIC, room.address, room.size)


def pages_of(room: Room, page: int) -> int:
    """How many bytes the pages of a room have, with its mark."""
    return -(-(room.size + _MARK.size) // page) * page


def rooms_in(maps: Maps, read: Callable[[int, int], bytes]) -> Iterator[tuple[Room, Mapping]]:
    """The rooms in a process, ascending, each with its pages; `read(address, size)` reads as much as it can.

    A room is a private mapping without a file, executable and not writable, that ends with a mark. Not found: a room
    that has become one mapping with other memory of this kind, right beside it; and whatever lost its mark.
    """
    for mapping in maps:
        if mapping.permissions == _PERMISSIONS and not mapping.inode and mapping.path == "":
            data = read(mapping.end - _MARK.size, _MARK.size)
            if len(data) == _MARK.size:
                magic, address, size = _MARK.unpack(data)
                most = mapping.end - mapping.start - _MARK.size
                if magic == _MAGIC and address == mapping.start and 0 < size <= most:
                    yield Room(address, size, HOW), mapping


def free_place(
    maps: Maps, size: int, near: tuple[int, int], *, alignment: int, page: int, lowest: int, heap: int
) -> int | None:
    """An address for `size` bytes in no mapping, all within reach of `near`; None when there is none.

    It is the one that is nearest to `near`, and the lower one of two. A free page stays on both sides. Not taken are

    - addresses below `lowest` (vm.mmap_min_addr), and above all mappings;
    - where the heap grows: 64 GiB from its beginning `heap` (0 when it is not known), or up to the next mapping;
    - where the stack grows: the free memory below it.
    """
    if not maps:
        return None
    whole = Ranges(((lowest, maps[-1].end),)) if lowest < maps[-1].end else Ranges()
    taken = [(max(mapping.start - page, 0), mapping.end + page) for mapping in maps]
    free = whole - Ranges.of([*taken, *_growing(maps, heap)])
    step = max(alignment, page)
    best: tuple[int, int] | None = None
    for start, end in free:
        for place in (-(-start // step) * step, (end - size) // step * step):
            if start <= place <= end - size and within_reach(place, place + size, near):
                distance = max(near[0] - (place + size), place - near[1], 0)
                best = min(best or (distance, place), (distance, place))
    return best[1] if best is not None else None


def _growing(maps: Sequence[Mapping], heap: int) -> Iterator[tuple[int, int]]:
    """The free memory into which heap and stack grow."""
    heaps = [mapping.start for mapping in maps if mapping.path == "[heap]"]
    start = min([*heaps, *([heap] if heap else [])], default=None)
    if start is not None:
        above = (each.start for each in maps if each.start > start and each.path != "[heap]")
        yield start, min([start + _HEAP, *above])
    below = 0
    for mapping in maps:
        if mapping.path == "[stack]" and below < mapping.start:
            yield below, mapping.start
        below = mapping.end

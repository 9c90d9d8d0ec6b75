"""Where a process has room, as far as any machine can say it. ../real/test_live_rooms.py has rooms that are used."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from a64patch.errors import BusyError, GoneError, TargetError
from a64patch.targets.base import Room
from a64patch.targets.keeper import outliving
from a64patch.targets.maps import Maps, parse_maps
from a64patch.targets.process_room import free_place, mark_of, pages_of, rooms_in
from a64patch.targets.procfs import Process
from tests.support import eventually

PAGE = 0x1000
PROGRAM = b"""\
00400000-0047e000 r-xp 00000000 00:02 1  /opt/program
00490000-00498000 rw-p 00090000 00:02 1  /opt/program
17a00000-17a22000 rw-p 00000000 00:00 0  [heap]
ffff80000000-ffff80100000 r-xp 00000000 00:02 2  /lib/libc.so.6
ffff80102000-ffff80110000 rw-p 00100000 00:02 2  /lib/libc.so.6
ffff8259f000-ffff825a1000 r-xp 00000000 00:00 0  [vdso]
ffffc3de1000-ffffc3e02000 rw-p 00000000 00:00 0  [stack]
"""
TEXT, LIBRARY = 0x400000, 0xFFFF80000000


def place(near: int | tuple[int, int], size: int = PAGE, maps: bytes = PROGRAM, **changed: int) -> int | None:
    settings = {"alignment": 16, "page": PAGE, "lowest": 0x10000, "heap": 0x17A00000} | changed
    return free_place(parse_maps(maps), size, (near, near) if isinstance(near, int) else near, **settings)


def test_a_room_is_as_near_as_can_be_with_a_free_page_beside_it() -> None:
    assert place(TEXT) == TEXT - 2 * PAGE
    assert place(0x47DFFC) == 0x47F000
    assert place(0x47DFFC, size=0x20000) == 0x499000, "the hole in between is too small"
    assert place(LIBRARY) == LIBRARY - 2 * PAGE
    assert place(LIBRARY + 0x100000) == 0xFFFF80111000, "two free pages leave none for a room"
    assert place((TEXT, 0x490000)) == 0x47F000, "between both"
    assert place(TEXT, alignment=1 << 16) == 0x3F0000
    assert place(TEXT, size=1 << 16, page=1 << 16) == 0x3E0000


def test_no_room_where_the_heap_or_the_stack_grows() -> None:
    assert place(0x17A00000) == 0x17A00000 - 2 * PAGE
    before = PROGRAM.replace(b"17a00000-17a22000 rw-p 00000000 00:00 0  [heap]\n", b"")
    assert place(0x17A00000, maps=before) == 0x17A00000 - PAGE, "there is no heap yet"
    assert place(0x498000, maps=before, heap=0x498000) == 0x48E000
    assert place(0x498000, maps=before, heap=0) == 0x499000, "its beginning is not known"
    stack = 0xFFFFC3DE1000
    assert place(stack) is None
    assert place(stack, maps=PROGRAM.replace(b"[stack]", b"")) == stack - 2 * PAGE


def test_no_room_below_the_lowest_address_above_all_and_out_of_reach() -> None:
    low = b"00012000-00013000 r-xp 00000000 00:02 1  /opt/program\n"
    assert place(0x12000, maps=low) == 0x10000
    assert place(0x12000, maps=low, lowest=0x11000) is None
    full = b"10000000-20000000 r-xp 00000000 00:02 1  /opt/program\n"
    assert place(0x17FFFFFC, maps=full) is None
    assert place(0x10000000, maps=full) == 0x10000000 - 2 * PAGE
    assert place(TEXT, maps=b"") is None


def test_a_room_is_known_by_its_mark() -> None:
    room = Room(0x5000, 0x20, "new pages")
    assert (pages_of(room, PAGE), pages_of(Room(0, PAGE), PAGE), pages_of(room, 1 << 16)) == (PAGE, 2 * PAGE, 1 << 16)

    def found(
        permissions: str = "r-xp", tail: bytes = mark_of(room), more: str = "0", start: int = 0x5000
    ) -> list[Room]:
        maps = parse_maps(f"{start:08x}-00006000 {permissions} 00000000 00:00 {more}\n".encode())
        data = bytes(0x6000 - start - len(tail)) + tail
        return [each for each, _ in rooms_in(maps, lambda at, size: data[at - start : at - start + size])]

    assert found() == [room]
    assert found("rwxp") == found("r--p") == found("r-xs") == []
    assert found(more="7 /a/file") == found(more="0 [anon:else]") == []
    assert found(tail=b"") == found(tail=mark_of(room)[:-1] + b"\x01") == found(start=0x4000) == []
    assert found(tail=mark_of(room._replace(size=PAGE))) == found(tail=mark_of(room._replace(size=0))) == []


def test_pages_and_heap_of_a_real_process() -> None:
    process = Process(os.getppid())
    assert process.page_size() == os.sysconf("SC_PAGE_SIZE")
    heap = [each.start for each in process.maps() if each.path == "[heap]"]
    assert process.heap_start() <= heap[0] if heap else process.heap_start() >= 0
    process.close()


def test_what_outlives_us_answers() -> None:
    assert outliving(lambda: Maps()) == ()

    def fails() -> None:
        error = GoneError("it has ended")
        error.incarnation = "boot=1"
        raise error

    with pytest.raises(GoneError, match="it has ended") as caught:
        outliving(fails)
    assert caught.value.incarnation == "boot=1"
    with pytest.raises(BusyError, match="later"):
        outliving(_busy)
    with pytest.raises(TargetError, match=r"part of a64patch .* was killed"):
        outliving(lambda: os.kill(os.getpid(), signal.SIGKILL))


def _busy() -> None:
    raise BusyError("later")


def test_it_is_done_also_when_we_are_killed(tmp_path: Path) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"

    def act() -> None:
        begun.touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.001)
        done.touch()

    us = os.fork()
    if not us:
        outliving(act)
        os._exit(0)
    assert eventually(begun.exists)
    os.kill(us, signal.SIGKILL)
    os.waitpid(us, 0)
    (tmp_path / "go").touch()
    assert eventually(done.exists)

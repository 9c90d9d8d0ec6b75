"""The mappings of a process, from text that Linux writes and from text that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.errors import FormatError
from a64patch.targets.maps import Mapping, Maps, parse_maps

TEXT = b"""\
aaaad2c80000-aaaad2c81000 r-xp 00000000 fe:01 131 /usr/bin/two words
aaaad2c90000-aaaad2c91000 r--p 00010000 fe:01 131 /usr/bin/two words
ffff8d000000-ffff8d021000 rw-p 00000000 00:00 0
ffff8d140000-ffff8d141000 r-xs 00001000 00:05 7 /dev/zero\\012 (deleted)
ffff8d150000-ffff8d151000 r-xp 00000000 00:00 0                          [vdso]
ffff8d151000-ffff8d152000 rwxp 00000000 00:00 0 """


def test_each_line_is_a_mapping() -> None:
    maps = parse_maps(TEXT)
    assert maps[0] == Mapping(0xAAAAD2C80000, 0xAAAAD2C81000, "r-xp", 0, "fe:01", 131, "/usr/bin/two words")
    assert maps[0].file == maps[1].file == ("fe:01", 131)
    assert maps[1].offset == 0x10000
    assert maps[3].path == "/dev/zero\n"
    assert maps[3].deleted
    assert maps[3].shared
    assert maps[4].path == "[vdso]"
    assert maps[4].file is None
    assert list(maps.code) == [
        (0xAAAAD2C80000, 0xAAAAD2C81000), (0xFFFF8D140000, 0xFFFF8D141000), (0xFFFF8D150000, 0xFFFF8D152000),
    ]  # fmt: skip


def test_a_mapping_is_found_by_address() -> None:
    maps = parse_maps(TEXT)
    assert maps.at(0xAAAAD2C80FFF) == maps[0]
    assert maps.at(0xAAAAD2C81000) is None
    assert maps.at(0) is None
    assert maps.holding(0xAAAAD2C80FFC, 0xAAAAD2C90004) == [maps[0], maps[1]]
    assert maps.holding(0xFFFF8D150FFC, 0xFFFF8D151004) == [maps[4], maps[5]]
    assert maps.holding(0, 4) == []
    assert Maps().at(0) is None
    assert Maps().holding(0, 4) == []


@pytest.mark.parametrize(
    "text",
    [
        b"aaaa-bbbb r-xp 0 0:0 1 /x\naaab-cccc r-xp 0 0:0 1 /x",
        b"bbbb-aaaa r-xp 0 0:0 1",
        b"aaaa-bbbb rwx 0 0:0 1",
        b"aaaa-bbbb r-xp 0 0:0",
        b"11112222333344445-11112222333344446 r-xp 0 0:0 1",
        b"\xff",
    ],
)
def test_a_list_that_contradicts_itself_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        parse_maps(text)


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_read(text: bytes) -> None:
    try:
        maps = parse_maps(text)
    except FormatError:
        return
    assert all(mapping.start < mapping.end for mapping in maps)


def test_the_real_list_of_this_process_is_read() -> None:
    maps = parse_maps(Path("/proc/self/maps").read_bytes())
    assert any(mapping.executable and mapping.inode for mapping in maps)

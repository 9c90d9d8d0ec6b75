"""Recognises a kernel and its build in bytes: by its header, its banner and its build id.

Reads untrusted bytes, of an Image file or of the memory of a machine.
Read on: image.py and symbols.py use it for a target's identity.
"""

from __future__ import annotations

import re
import struct

from a64patch.ranges import Ranges

_BANNER = re.compile(rb"Linux version ([0-9][!-~]{0,63}) \(")
"""linux_banner (init/version-timestamp.c). linux_proc_banner does not match: it has %s for the release."""

_BUILD_ID = re.compile(rb"\x04\0\0\0([\x08-\x40])\0\0\0\x03\0\0\0GNU\0")
"""An Elf64_Nhdr of type NT_GNU_BUILD_ID with its name."""

_MAGIC_AT, _MAGIC = 0x38, b"ARM\x64"
_MOST_PROGRAMS = 64
_PAGE = 4096


def is_image(head: bytes) -> bool:
    """Whether the first 64 bytes of a file are the header of a raw arm64 Image."""
    return head[_MAGIC_AT : _MAGIC_AT + 4] == _MAGIC and head[:4] != b"\x7fELF"


def release_of(data: bytes | bytearray) -> str:
    """The release in the first linux_banner, as `Linux 6.1.0-56-arm64`; empty when there is no banner."""
    match = _BANNER.search(data)
    return f"Linux {match[1].decode()}" if match else ""


def build_id_of(data: bytes | bytearray) -> str:
    """The kernel's build id in hex; empty when `data` holds none, or several candidates.

    The build ids of programs inside the kernel (its vDSOs) are no candidates. `data` must begin on a page.
    """
    programs = Ranges.of(_programs(data))
    found = {
        data[match.end() : match.end() + match[1][0]].hex()
        for match in _BUILD_ID.finditer(data)
        if match.start() % 4 == 0 and match.start() not in programs
    }
    return found.pop() if len(found) == 1 else ""


def _programs(data: bytes | bytearray) -> list[tuple[int, int]]:
    """The ranges of ELF files that begin on a page. Each ends with its section headers."""
    found: list[tuple[int, int]] = []
    for match in re.finditer(rb"\x7fELF[\x01\x02]\x01\x01", data):
        if match.start() % _PAGE or match.start() + 64 > len(data) or len(found) >= _MOST_PROGRAMS:
            continue
        wide = data[match.start() + 4] == 2
        (headers,) = struct.unpack_from("<Q" if wide else "<I", data, match.start() + (40 if wide else 32))
        size, count = struct.unpack_from("<HH", data, match.start() + (58 if wide else 46))
        found.append((match.start(), match.start() + headers + size * count))
    return found

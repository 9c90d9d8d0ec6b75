"""A kernel's build id is told from those of the programs that it carries."""

from __future__ import annotations

import struct

from a64patch.kernel.notes import build_id_of, release_of


def note(build_id: bytes) -> bytes:
    return struct.pack("<III4s", 4, len(build_id), 3, b"GNU\0") + build_id


def program(build_id: bytes) -> bytes:
    """A vDSO on a page of its own."""
    header = bytearray(64)
    header[:7] = b"\x7fELF\x02\x01\x01"
    struct.pack_into("<Q", header, 40, 0x800)
    struct.pack_into("<HH", header, 58, 64, 3)
    return (bytes(header) + note(build_id)).ljust(0x1000, b"\0")


def test_build_id() -> None:
    ours, other = b"\x12" * 20, b"\x34" * 20
    assert build_id_of(note(ours)) == "12" * 20
    assert build_id_of(program(other) + note(ours)) == "12" * 20
    assert build_id_of(note(ours) + note(ours)) == "12" * 20
    assert build_id_of(program(other)) == ""
    assert build_id_of(note(ours) + note(other)) == ""
    assert build_id_of(b"\0" + note(ours)) == ""
    assert build_id_of(b"") == ""


def test_release() -> None:
    text = b"%s version %s (x)\0Linux version %s (a)\0Linux version 6.1.0-56-arm64 (debian-kernel) #1\0"
    assert release_of(text) == "Linux 6.1.0-56-arm64"
    assert release_of(b"Linux version 6\x1b[31m (x)") == ""

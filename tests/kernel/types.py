"""Writes BTF: a few structures for tests, as Linux' Documentation/bpf/btf.rst has them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

INT, PTR, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, CONST, VAR, DATASEC = 1, 2, 3, 4, 5, 6, 8, 10, 14, 15


class Writer:
    """Adds types one by one; each method returns the number of the type. `bytes()` gives the BTF."""

    def __init__(self) -> None:
        self._types, self._strings, self._count = b"", bytearray(b"\0"), 0

    def name(self, text: str) -> int:
        if not text:
            return 0
        at = self._strings.find(b"\0" + text.encode() + b"\0")
        if at >= 0:
            return at + 1
        self._strings += text.encode() + b"\0"
        return len(self._strings) - len(text) - 1

    def add(self, name: str, kind: int, size: int, behind: bytes = b"", members: int = 0, flag: bool = False) -> int:
        self._types += struct.pack("<III", self.name(name), flag << 31 | kind << 24 | members, size) + behind
        self._count += 1
        return self._count

    def integer(self, name: str, size: int) -> int:
        return self.add(name, INT, size, struct.pack("<I", size * 8))

    def pointer(self, to: int = 0) -> int:
        return self.add("", PTR, to)

    def array(self, of: int, count: int) -> int:
        return self.add("", ARRAY, 0, struct.pack("<III", of, of, count))

    def structure(
        self, name: str, size: int, members: Sequence[tuple[str, int, int]], *, kind: int = STRUCT, flag: bool = False
    ) -> int:
        """`members` are (name, type, offset in bits); with `flag`, the upper 8 bits are a bit field's size."""
        behind = b"".join(struct.pack("<III", self.name(each), of, offset) for each, of, offset in members)
        return self.add(name, kind, size, behind, len(members), flag)

    def enumeration(self, name: str, values: Sequence[tuple[str, int]]) -> int:
        behind = b"".join(struct.pack("<Ii", self.name(each), value) for each, value in values)
        return self.add(name, ENUM, 4, behind, len(values), flag=True)

    def section(self, name: str, variables: Sequence[tuple[int, int, int]]) -> int:
        behind = b"".join(struct.pack("<III", *each) for each in variables)
        return self.add(name, DATASEC, 0, behind, len(variables))

    def bytes(self) -> bytes:
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self._types), len(self._types), len(self._strings))
        return header + self._types + bytes(self._strings)

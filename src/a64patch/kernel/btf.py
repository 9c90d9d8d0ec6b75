"""The types of a Linux kernel from its BTF: where a field of a structure is, by name; never by a guessed offset.

Reads untrusted bytes, of an Image file or of the memory of a machine. Only the wanted types are decoded.
Read on: structures.py keeps what was found; Documentation/bpf/btf.rst of Linux is the format.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from a64patch.errors import FormatError, SymbolError
from a64patch.oneline import shown

MOST_BYTES = 1 << 26
"""A kernel's BTF has about 5 MiB."""
MAGIC = b"\x9f\xeb\x01"
_HEADER = struct.Struct("<HBBIIIII")
HEADER_BYTES = _HEADER.size
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_MOST_DEPTH = 64
"""Types within types: typedefs of typedefs, structures in structures."""
_PART = re.compile(r"([A-Za-z_]\w*)((?:\[\d{1,9}\])*)")


class Kind(IntEnum):
    """The kinds of types (BTF_KIND_* in include/uapi/linux/btf.h)."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_BEHIND = {Kind.INT: 4, Kind.ARRAY: 12, Kind.VAR: 4, Kind.DECL_TAG: 4}
"""Bytes behind the three words of a type of this kind."""
_BEHIND_EACH = {
    Kind.STRUCT: 12, Kind.UNION: 12, Kind.ENUM: 8, Kind.FUNC_PROTO: 8, Kind.DATASEC: 12, Kind.ENUM64: 12,
}  # fmt: skip
"""Bytes behind them for each member."""
_SAME_AS = {Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG}
_NAMED = {Kind.STRUCT, Kind.UNION, Kind.TYPEDEF, Kind.ENUM, Kind.ENUM64, Kind.DATASEC, Kind.VAR, Kind.INT}
_POINTER_SIZE = 8


class Field(NamedTuple):
    """A part of a structure: `size` bytes, `offset` bytes behind its start."""

    offset: int
    size: int
    """0 for an array without a length."""
    bit: int = 0
    """For a bit field: its lowest bit, counted from the lowest bit of the bytes at `offset`."""
    bits: int = 0
    """For a bit field: its number of bits; 0 for all others."""

    def __repr__(self) -> str:
        bits = f", {self.bits} bits from bit {self.bit}" if self.bits else ""
        return shown(self, f"{self.size} bytes at {self.offset:#x}{bits}")


class _Type(NamedTuple):
    name: int
    kind: int
    members: int
    """The number of its members."""
    flag: bool
    size: int
    """Bytes, or the number of another type: it depends on `kind`."""
    behind: int
    """The offset of the bytes behind its three words."""


def find(data: bytes | bytearray, start: int = 0) -> Iterator[tuple[int, int]]:
    """The (offset, size in bytes) of each place that begins like BTF: its header is sound, and the bytes are there."""
    at = data.find(MAGIC, start)
    while at >= 0:
        if at % 4 == 0 and (size := size_of(data, at)) and at + size <= len(data):
            yield at, size
        at = data.find(MAGIC, at + 1)


def size_of(data: bytes | bytearray, at: int = 0) -> int:
    """The bytes of the BTF whose header is at this offset; 0 when there is no sound header."""
    if data[at : at + 3] != MAGIC or at + _HEADER.size > len(data):
        return 0
    _, _, _, header, types, length, strings, size = _HEADER.unpack_from(data, at)
    sound = (
        _HEADER.size <= header <= 4096 and types % 4 == 0 and length and size and strings >= types + length
        and header + strings + size <= MOST_BYTES
    )  # fmt: skip
    return header + strings + size if sound else 0


class Btf:
    """The types in one BTF, by name. FormatError for bytes that are no sound BTF, when they are met."""

    def __init__(self, data: bytes) -> None:
        """`data` begins with the header. Steps over all types once, about 0.2 s for a kernel's 130,000."""
        if not size_of(data) or size_of(data) > len(data):
            raise FormatError("the kernel's description of its types (BTF) has no sound header")
        _, _, _, header, types, length, strings, size = _HEADER.unpack_from(data)
        self._types = data[header + types : header + types + length]
        self._strings = data[header + strings : header + strings + size]
        self._at = array("I", [0])
        """The offset of each type by its number; type 0 is void."""
        self._by_name: dict[int, list[int]] = {}
        """The numbers of the types that have a name, by the offset of the name."""
        self._step_over()

    def __repr__(self) -> str:
        return shown(self, f"{len(self._at) - 1} types")

    def _step_over(self) -> None:
        at, end, places = 0, len(self._types), self._at
        known = max(Kind)
        extra = {int(kind): _BEHIND.get(kind, 0) for kind in Kind}
        each = {int(kind): _BEHIND_EACH.get(kind, 0) for kind in Kind}
        named = {int(kind) for kind in _NAMED}
        unpack = struct.Struct("<II").unpack_from
        types, by_name = self._types, self._by_name
        while at + _TYPE.size <= end:
            name, info = unpack(types, at)
            kind = info >> 24 & 31
            if not 0 < kind <= known:
                raise FormatError(f"type {len(places)} of the kernel's BTF is of kind {kind}, which is not known")
            if name and kind in named:
                by_name.setdefault(name, []).append(len(places))
            places.append(at)
            at += 12 + extra[kind] + each[kind] * (info & 0xFFFF)
        if at != end:
            raise FormatError("the types in the kernel's BTF do not end where its header says")

    # One type

    def _type(self, number: int) -> _Type:
        if not 0 < number < len(self._at):
            raise FormatError(f"the kernel's BTF refers to type {number}, which it does not have")
        at = self._at[number]
        name, info, size = _TYPE.unpack_from(self._types, at)
        return _Type(name, info >> 24 & 31, info & 0xFFFF, bool(info >> 31), size, at + _TYPE.size)

    def _bare(self, number: int) -> tuple[int, _Type]:
        """The type behind typedefs and qualifiers, and its number."""
        for _ in range(_MOST_DEPTH):
            found = self._type(number)
            if found.kind not in _SAME_AS:
                return number, found
            number = found.size
        raise FormatError(f"the kernel's BTF has a type {number} that leads to itself")

    def _size(self, number: int, depth: int = 0) -> int:
        """The bytes of a type. FormatError for a type without a size."""
        if depth > _MOST_DEPTH:
            raise FormatError(f"the kernel's BTF has a type {number} that leads to itself")
        _, found = self._bare(number)
        if found.kind == Kind.PTR:
            return _POINTER_SIZE
        if found.kind == Kind.ARRAY:
            element, _, count = struct.unpack_from("<III", self._types, found.behind)
            return int(count) * self._size(element, depth + 1) if count else 0
        if found.kind in (Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FLOAT):
            return found.size
        raise FormatError(f"the kernel's BTF has a field of type {number}, which has no size")

    def _name_at(self, offset: int) -> bytes:
        end = self._strings.find(b"\0", offset)
        return self._strings[offset:end] if 0 <= offset < len(self._strings) and end >= 0 else b""

    def _named(self, name: str, kinds: tuple[Kind, ...]) -> Iterator[int]:
        """The numbers of the types with this name and of these kinds."""
        wanted = name.encode()
        at = self._strings.find(b"\0" + wanted + b"\0")
        while at >= 0:
            for number in self._by_name.get(at + 1, ()):
                if self._type(number).kind in kinds:
                    yield number
            at = self._strings.find(b"\0" + wanted + b"\0", at + 1)

    # Questions

    def size(self, name: str) -> int:
        """The bytes of the structure, union or typedef with this name; SymbolError without one."""
        return self._size(self._structure(name))

    def field(self, path: str) -> Field:
        """The field at a path: `task_struct.thread.cpu_context.pc`, `module.mem[0].base`.

        Unnamed structures and unions in between are looked through, as C does. SymbolError when there is no such field.
        """
        first, *parts = path.split(".")
        number, at = self._structure(first), 0
        found = Field(0, self._size(number))
        for part in parts:
            match = _PART.fullmatch(part)
            if not match:
                raise SymbolError(f"{path!r} is no path to a field: write `structure.field[0].field`")
            member = self._member(number, match[1], set())
            if member is None:
                raise SymbolError(f"this kernel has no {path}: its {first} has no field {match[1]}")
            bit, number, bits = member
            for index in re.findall(r"\d+", match[2]):
                number, skipped = self._element(number, int(index), path)
                bit += 8 * skipped
            if bits:
                size = self._size(number)
                start = bit // 8 // size * size if size else bit // 8
                found = Field(at + start, size, bit - 8 * start, bits)
            else:
                found = Field(at + bit // 8, self._size(number))
            at += bit // 8
        return found

    def constant(self, name: str) -> int:
        """The value of an enumerator, such as MODULE_STATE_COMING; SymbolError without one.

        Searches all enumerations.
        """
        wanted = name.encode()
        place = self._strings.find(b"\0" + wanted + b"\0") + 1
        for number in range(1, len(self._at)) if place else ():
            found = self._type(number)
            if found.kind in (Kind.ENUM, Kind.ENUM64):
                step = _BEHIND_EACH[Kind(found.kind)]
                for at in range(found.behind, found.behind + step * found.members, step):
                    name_at, low = struct.unpack_from("<Ii" if found.flag else "<II", self._types, at)
                    if name_at == place:
                        return int(low)
        raise SymbolError(f"this kernel has no constant {name}")

    def variable_in(self, section: str, name: str) -> int:
        """The offset in bytes of a variable in a section, such as `.data..percpu`; SymbolError when it has none."""
        for number in self._named(section, (Kind.DATASEC,)):
            found = self._type(number)
            for at in range(found.behind, found.behind + 12 * found.members, 12):
                variable, offset, _ = struct.unpack_from("<III", self._types, at)
                if self._name_at(self._type(variable).name) == name.encode():
                    return int(offset)
        raise SymbolError(f"this kernel's BTF has no variable {name} in {section}")

    def _structure(self, name: str) -> int:
        kinds = (Kind.STRUCT, Kind.UNION, Kind.TYPEDEF)
        found = next(self._named(name, kinds), None)
        if found is None:
            raise SymbolError(f"this kernel has no structure {name}")
        return found

    def _element(self, number: int, index: int, path: str) -> tuple[int, int]:
        """The type of an array's elements, and the offset of one of them in bytes."""
        _, found = self._bare(number)
        if found.kind != Kind.ARRAY:
            raise SymbolError(f"this kernel has no {path}: it is no array")
        element, _, count = struct.unpack_from("<III", self._types, found.behind)
        if count and index >= count:
            raise SymbolError(f"this kernel has no {path}: the array has {count} elements")
        return int(element), index * self._size(element)

    def _member(self, number: int, name: str, seen: set[int]) -> tuple[int, int, int] | None:
        """The (offset in bits, type, bits of a bit field) of a member; None without one.

        A type in `seen` does not have it, and is not looked at twice: untrusted types may hold one another.
        """
        number, found = self._bare(number)
        if found.kind not in (Kind.STRUCT, Kind.UNION) or number in seen or len(seen) > _MOST_DEPTH:
            return None
        seen.add(number)
        unnamed = []
        for at in range(found.behind, found.behind + 12 * found.members, 12):
            name_at, of_type, offset = _MEMBER.unpack_from(self._types, at)
            bits = offset >> 24 if found.flag else 0
            offset = offset & 0xFFFFFF if found.flag else offset
            if not name_at:
                unnamed.append((offset, of_type))
            elif self._strings.startswith(name.encode() + b"\0", name_at):
                return offset, of_type, bits
        for offset, of_type in unnamed:
            member = self._member(of_type, name, seen)
            if member is not None:
                return offset + member[0], member[1], member[2]
        return None

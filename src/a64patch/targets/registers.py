"""The registers of a GDB stub, by number and by offset in the reply to `g`, from its target description.

Reads XML from an untrusted stub: its size is bounded, entities are refused, and all documents come from the stub.
Read on: gdb.py; "Target Descriptions" in the GDB manual is the format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.parsers import expat

from a64patch.errors import FormatError

_MOST_DOCUMENTS = 64
_MOST_REGISTERS = 4096
_MOST_BITS = 1 << 16
_ARM_NAMES = {"fp": "x29", "lr": "x30"}
"""AAPCS64, 6.1.1, has two names for these registers. lldb-server describes them by the first, GDB by the second."""


class Register(NamedTuple):
    """One register: its number, its size and its offset in the reply to `g` (bytes)."""

    name: str
    number: int
    size: int
    offset: int


@dataclass
class Registers:
    """The registers that a stub describes, by name."""

    architecture: str = ""
    """`aarch64`; empty when the stub does not tell."""
    by_name: dict[str, Register] = field(default_factory=dict)

    def _add(self, name: str, number: int, bits: int, offset: int) -> None:
        self.by_name.setdefault(name, Register(name, number, bits // 8, offset))


def default_registers() -> Registers:
    """The registers of a stub without a description: x0 to x30, sp and pc of 8 bytes, cpsr of 4 (aarch64-core.xml)."""
    registers = Registers()
    for number, name in enumerate([*(f"x{index}" for index in range(31)), "sp", "pc", "cpsr"]):
        registers._add(name, number, 32 if name == "cpsr" else 64, number * 8)
    return registers


def read_description(fetch: Callable[[str], bytes], wanted: Iterable[str] = ()) -> Registers:
    """The registers of `target.xml` and its included documents. `fetch(name)` gets each document.

    With `wanted` names, reading ends when all of them are known. `Register.offset` is right if the numbers ascend, as
    they do in every description of GDB and QEMU. FormatError when a document is not well-formed, declares entities, or
    is included twice, and for more than 64 documents in all.
    """
    reader = _Reader(fetch, set(wanted))
    reader.read("target.xml")
    return reader.registers


class _Reader:
    def __init__(self, fetch: Callable[[str], bytes], wanted: set[str]) -> None:
        self.registers = Registers()
        self._fetch = fetch
        self._wanted = wanted
        self._missing = set(wanted)
        self._seen: list[str] = []
        self._next = 0
        self._offset = 0
        self._count = 0

    def read(self, name: str) -> None:
        if name in self._seen or len(self._seen) >= _MOST_DOCUMENTS:
            raise FormatError(f"the stub's target description includes {name[:80]!r} twice, or too many documents")
        self._seen.append(name)
        for kind, text, number, bits in _elements(self._fetch(name), name):
            if self._wanted and not self._missing:
                return
            if kind == "include":
                self.read(text)
            elif kind == "architecture":
                self.registers.architecture = self.registers.architecture or text
            else:
                self._add(text, number, bits)

    def _add(self, name: str, number: int, bits: int) -> None:
        self._count += 1
        if self._count > _MOST_REGISTERS:
            raise FormatError(f"the stub's target description has more than {_MOST_REGISTERS} registers")
        name = _ARM_NAMES.get(name, name)
        number = self._next if number < 0 else number
        self._next = number + 1
        self.registers._add(name, number, bits, self._offset)
        self._offset += bits // 8
        self._missing.discard(name)


def _elements(document: bytes, name: str) -> list[tuple[str, str, int, int]]:
    """(`register`, name, number or -1, bits), (`include`, document, …) and (`architecture`, text, …), in order."""
    found: list[tuple[str, str, int, int]] = []
    inside: list[str] = []
    text: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        inside.append(tag)
        text.clear()
        if tag == "reg":
            bits, number = _number(attributes.get("bitsize", "")), _number(attributes.get("regnum", "-1"))
            if not 0 < bits <= _MOST_BITS or number >= 1 << 31:
                raise FormatError(f"a register in {name[:80]!r} of the stub's target description has no sound size")
            found.append(("register", attributes.get("name", ""), number, bits))
        elif tag.rpartition(":")[2] == "include":
            found.append(("include", attributes.get("href", ""), 0, 0))

    def end(tag: str) -> None:
        inside.pop()
        if tag == "architecture":
            found.append(("architecture", "".join(text).strip(), 0, 0))
        text.clear()

    def characters(data: str) -> None:
        if inside and inside[-1] == "architecture" and len(text) < 64:
            text.append(data)

    def refuse(*_: object) -> None:
        raise FormatError(f"{name[:80]!r} of the stub's target description declares entities, which none needs")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(document, True)
    except expat.ExpatError as error:
        raise FormatError(f"{name[:80]!r} of the stub's target description is not well-formed: {error}") from error
    return found


def _number(text: str) -> int:
    return int(text) if text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 10 else 0

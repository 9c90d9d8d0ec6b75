"""Where the fields of a running kernel's structures are, and reads of such fields, many at a time.

A field is named by a path, as `task_struct.thread.cpu_context.pc`; no offset is guessed.
Read on: btf.py finds the fields; loaded.py and tasks.py ask for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from a64patch.errors import FormatError, SymbolError, TargetError
from a64patch.kernel import btf
from a64patch.kernel.btf import Btf, Field
from a64patch.oneline import printable
from a64patch.targets.base import Target

_KIND = "structures"
_MOST_BYTES = 1 << 20
_PIECE = 1 << 20
_MOST_TEXT = 4096
_LEAST_ADDRESS = 1 << 63
"""Addresses from here on are the kernel's (TTBR1_EL1)."""


class Structures:
    """Fields, sizes and constants of one build, by name. The BTF is decoded at the first question with a new answer.

    Answers are kept in the user's cache folder for the next run, by the build id (table_cache.py). SymbolError when
    the kernel has no such field or constant; FormatError when it has no BTF, or none that is sound.
    """

    def __init__(self, load: Callable[[], bytes], build_id: str = "") -> None:
        """`load` gives the bytes of the BTF, FormatError when there is none. Without a build id nothing is kept."""
        self._load, self._build_id = load, build_id
        self._btf: Btf | None = None
        self._answers: dict[str, list[int] | None] = _kept_answers(build_id)
        self._unsaved = False

    def field(self, path: str) -> Field:
        """As `Btf.field`."""
        return Field(*self._ask("field", path, lambda types: [*types.field(path)]))

    def has(self, path: str) -> bool:
        """Whether the kernel has such a field."""
        with suppress(SymbolError):
            return bool(self.field(path))
        return False

    def first(self, *paths: str) -> str:
        """The first of these paths that the kernel has. SymbolError, about the first, when it has none."""
        return next((path for path in paths if self.has(path)), paths[0])

    def size(self, name: str) -> int:
        """As `Btf.size`."""
        return self._ask("size", name, lambda types: [types.size(name)])[0]

    def constant(self, name: str) -> int:
        """As `Btf.constant`."""
        return self._ask("constant", name, lambda types: [types.constant(name)])[0]

    def variable_in(self, section: str, name: str) -> int:
        """As `Btf.variable_in`."""
        return self._ask(section, name, lambda types: [types.variable_in(section, name)])[0]

    def save(self) -> None:
        """Keep the answers for the next run, if there are new ones."""
        if self._unsaved:
            import json

            from a64patch.kernel import table_cache

            table_cache.keep(self._build_id, _KIND, json.dumps(self._answers).encode())
            self._unsaved = False

    def _ask(self, kind: str, name: str, question: Callable[[Btf], list[int]]) -> list[int]:
        key = f"{kind} {name}"
        if key not in self._answers:
            if self._btf is None:
                self._btf = Btf(self._load())
            try:
                self._answers[key] = question(self._btf)
            except SymbolError:
                self._answers[key] = None
            self._unsaved = True
        answer = self._answers[key]
        if answer is None:
            raise SymbolError(f"this kernel's BTF has no {kind} {name}")
        return answer


def _kept_answers(build_id: str) -> dict[str, list[int] | None]:
    """The answers of earlier runs; none when the file has another form."""
    import json

    from a64patch.kernel import table_cache

    data = table_cache.kept(build_id, _KIND)
    with suppress(ValueError, RecursionError):
        found = json.loads(data) if 0 < len(data) <= _MOST_BYTES else {}
        if isinstance(found, dict) and all(_is_answer(key, value) for key, value in found.items()):
            return found
    return {}


def _is_answer(key: str, value: object) -> bool:
    if value is None:
        return True
    count = 4 if key.startswith("field ") else 1
    return isinstance(value, list) and len(value) == count and all(type(each) is int for each in value)


def load_btf(target: Target, start: int, end: int, at: tuple[int, int] | None = None) -> bytes:
    """The BTF in the memory of a kernel, between two addresses in its read-only data.

    `at` is where the kernel's symbols say that it is: [start, end). FormatError when there is none.
    """
    if at is not None and 0 < at[1] - at[0] <= btf.MOST_BYTES:
        return target.read(at[0], at[1] - at[0])
    tail = b""
    for address in range(start, end, _PIECE):
        try:
            data = tail + target.read(address, min(_PIECE, end - address))
        except TargetError:
            tail = b""
            continue
        base = address - len(tail)
        place = data.find(btf.MAGIC)
        while place >= 0:
            # A header has 24 bytes, and may begin at the end of a piece.
            with suppress(TargetError):
                if size := btf.size_of(target.read(base + place, btf.HEADER_BYTES)):
                    return target.read(base + place, size)
            place = data.find(btf.MAGIC, place + 1)
        tail = data[-len(btf.MAGIC) + 1 :]
    raise FormatError("the kernel has no description of its types (BTF): its build lacks CONFIG_DEBUG_INFO_BTF")


def read_each(target: Target, requests: Sequence[tuple[int, int]]) -> list[bytes | None]:
    """The bytes of each (address, size), in one go if all can be read; None where the target has none."""
    if not requests:
        return []
    try:
        return [*target.read_many(requests)]
    except (TargetError, OverflowError):
        if len(requests) == 1:
            return [None]
    middle = len(requests) // 2
    return [*read_each(target, requests[:middle]), *read_each(target, requests[middle:])]


class View:
    """Reads fields of structures in the memory of a target, many at a time: a round trip is what costs."""

    def __init__(self, target: Target, structures: Structures) -> None:
        self.target, self.structures = target, structures

    def read(self, requests: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """As `read_each`."""
        return read_each(self.target, requests)

    def fields(self, addresses: Iterable[int], *paths: str) -> list[tuple[int, ...] | None]:
        """The numbers in these fields of the structure at each address; None where not all can be read.

        Numbers are without sign. A field of more than eight bytes is not for this: use `read`.
        """
        parts = [self.structures.field(path) for path in paths]
        if any(part.size > 8 for part in parts):
            raise SymbolError(f"{paths[0]} and others are read as numbers, and one of them has more than 8 bytes")
        places = [*addresses]
        data = self.read([(at + part.offset, part.size) for at in places for part in parts])
        found: list[tuple[int, ...] | None] = []
        for number in range(len(places)):
            pieces = data[number * len(parts) : (number + 1) * len(parts)]
            known = [_number(piece, part) for piece, part in zip(pieces, parts, strict=True) if piece is not None]
            found.append(tuple(known) if len(known) == len(parts) else None)
        return found

    def numbers(self, addresses: Sequence[int], size: int = 8) -> list[int | None]:
        """The number of so many bytes at each address; None where there is none."""
        return [
            None if data is None else int.from_bytes(data, "little")
            for data in self.read([(address, size) for address in addresses])
        ]

    def texts(self, addresses: Sequence[int], size: int) -> list[str]:
        """The C strings at these addresses, of `size` bytes at most; other characters than ASCII become `?`."""
        return [text_of(data or b"") for data in self.read([(address, min(size, _MOST_TEXT)) for address in addresses])]


def _number(data: bytes, field: Field) -> int:
    number = int.from_bytes(data, "little")
    return number >> field.bit & (1 << field.bits) - 1 if field.bits else number


def text_of(data: bytes) -> str:
    """A C string of untrusted bytes, printable."""
    return printable(data.partition(b"\0")[0].decode("ascii", "replace").replace("\ufffd", "?"))


def is_kernel_address(address: Any) -> bool:
    """Whether a number may be the address of a structure in the kernel: in the upper half, a multiple of 8."""
    return isinstance(address, int) and _LEAST_ADDRESS <= address < 1 << 64 and address % 8 == 0

"""The kinds of operands, written between < and > in assembly templates. Each kind reads and prints its text.

Read on: templates.py puts operands together; assembler.py and disassembler.py use the templates.

An operand has one or more fields of a word. `parse` gives a number for each field (None: another operand gives it).
`format` gives the text, or None when this spelling does not fit the numbers; an optional operand is then left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol

from a64patch.a64.expressions import CHARACTER, distance, evaluate
from a64patch.a64.names import QUOTED
from a64patch.a64.row import PAGE_SIZE, Field
from a64patch.errors import AssemblyError

CONDITIONS: dict[str, int] = {
    "eq": 0, "ne": 1, "cs": 2, "hs": 2, "cc": 3, "lo": 3, "mi": 4, "pl": 5, "vs": 6, "vc": 7, "hi": 8, "ls": 9,
    "ge": 10, "lt": 11, "gt": 12, "le": 13, "al": 14, "nv": 15,
}  # fmt: skip
"""Condition codes (Arm ARM C1.2.4). Of two names for one number, the last is printed."""

BARRIER_OPTIONS: dict[str, int] = {
    "oshld": 1, "oshst": 2, "osh": 3, "nshld": 5, "nshst": 6, "nsh": 7, "ishld": 9, "ishst": 10, "ish": 11,
    "ld": 13, "st": 14, "sy": 15,
}  # fmt: skip
"""Options of DMB and DSB, with their CRm (Arm ARM C6.2, DMB)."""

_NXS_OPTIONS = {"oshnxs": 0, "nshnxs": 1, "ishnxs": 2, "synxs": 3}
CONDITION_NAMES = (
    {0: "eq", 2: "cs", 3: "cc"} | {number: name for name, number in CONDITIONS.items() if number > 3} | {1: "ne"}
)

NUMBER = rf"#?[-+~!(\s]*(?:[0-9]|{CHARACTER})(?:{CHARACTER}|[^,\[\]{{}}#'])*"
"""A number or a constant expression, with or without `#`. `number_of` refuses what is none."""
AMOUNT = rf"(?:\s+|(?=#)){NUMBER}"
"""The number of bits behind the name of a shift."""


class Names(Protocol):
    """Names of addresses, for reading and printing labels. a64patch's symbol tables have these methods."""

    def resolve(self, site: str) -> int:
        """The address of a text like `symbol+0x18`; LookupError for an unknown name."""

    def describe(self, address: int) -> str:
        """The address for people: its name, or the bare number."""


class Place(NamedTuple):
    """The address of an instruction (bytes), and the names of other addresses."""

    address: int = 0
    names: Names | None = None
    anywhere: bool = False
    """The address of the instruction is unknown: every label means the instruction itself, every name address 0."""


Numbers = tuple[int | None, ...]


class Operand(Protocol):
    """One kind of operand, for the fields that a template names."""

    regex: str
    default: Numbers
    """The numbers of an optional operand that is left out."""

    def parse(self, text: str, place: Place) -> Numbers:
        """The numbers of the fields, in the template's order; AssemblyError when the text is wrong."""

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        """The text for these numbers, or None."""


def number_of(text: str) -> int:
    """The value of a text of the form NUMBER, from -2**63 to 2**63 - 1. AssemblyError as `expressions.evaluate`."""
    return evaluate(text.removeprefix("#"))


def check_range(value: int, low: int, high: int, what: str) -> int:
    """The value itself; AssemblyError when it is not from `low` to `high`."""
    if not low <= value <= high:
        raise AssemblyError(f"{what} is {value}, must be from {low} to {high}")
    return value


class Packed:
    """Several fields as one unsigned number, the first the most significant."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._widths = [field.width for field in fields]
        self._bits = sum(self._widths)

    def _join(self, numbers: Sequence[int]) -> int:
        value = 0
        for width, number in zip(self._widths, numbers, strict=True):
            value = value << width | number
        return value

    def _split(self, value: int) -> Numbers:
        numbers: list[int] = []
        for width in reversed(self._widths):
            numbers.insert(0, value & (1 << width) - 1)
            value >>= width
        return tuple(numbers)


GENERAL = tuple((f"x{number}",) for number in range(31))


class Registers:
    """The base of operands for registers. effects.py derives an instruction's reads and writes from it."""

    registers: tuple[tuple[str, ...], ...] = GENERAL
    """The registers for each number in the field: `x0` to `x30`, `sp`, `v0` to `v31`. A larger number has none."""
    position: int = -1
    """The index of the operand's field that holds the number."""

    def width(self, numbers: Sequence[int]) -> int:
        """Bytes that a load or store moves to or from these registers, unless its mnemonic gives another size."""
        raise NotImplementedError


class Register(Registers):
    """A W or X register. Number 31 is `last` (zero register or stack pointer), or not allowed."""

    default: Numbers = (31,)

    def __init__(self, letter: str, last: str | None) -> None:
        if last in ("sp", "wsp"):
            self.registers = (*GENERAL, ("sp",))
        self._width = {"w": 4, "x": 8}[letter]
        self._names = [f"{letter}{number}" for number in range(31)] + ([last] if last else [])
        self._numbers = {name: number for number, name in enumerate(self._names)}
        if letter == "x":
            self._numbers |= {"lr": 30, "fp": 29}
        self._what = f"{self._names[0]} to {self._names[-1]}"
        self.regex = r"[a-z][a-z0-9]*"

    def parse(self, text: str, place: Place) -> Numbers:
        """The register's number; AssemblyError for another name."""
        number = self._numbers.get(text.lower())
        if number is None:
            raise AssemblyError(f"register {text!r} must be one of {self._what}")
        return (number,)

    def width(self, numbers: Sequence[int]) -> int:
        """Bytes of this register."""
        return self._width

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        """The register's name; None for number 31 when it is not allowed."""
        return self._names[numbers[0]] if numbers[0] < len(self._names) else None


class _OptionalRegister(Register):
    """A register that is left out when it is the default."""

    def __init__(self, usual: int) -> None:
        super().__init__("x", "xzr")
        self.default = (usual,)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return None if numbers[0] == self.default[0] else super().format(numbers, place)


W_REGISTER, X_REGISTER = Register("w", "wzr"), Register("x", "xzr")


class SizedRegister(Registers):
    """A W or X register, selected by a bit: fields size, number. With `size_follows`, X may be written for W."""

    regex = r"[a-z][a-z0-9]*"
    default: Numbers = (1, 31)

    def __init__(self, size_follows: bool, last: str = "zr") -> None:
        self._size_follows = size_follows
        self._w = W_REGISTER if last == "zr" else Register("w", f"w{last}")
        self._x = X_REGISTER if last == "zr" else Register("x", last)
        self.registers = self._x.registers

    def parse(self, text: str, place: Place) -> Numbers:
        """Size and number; AssemblyError for another name."""
        if text.lower().startswith("w"):
            return (0, *self._w.parse(text, place))
        return (None if self._size_follows else 1, *self._x.parse(text, place))

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        """The register's name."""
        return (self._x if numbers[0] else self._w).format(numbers[1:], place)


class Number(Packed):
    """An unsigned number, printed in hex or decimal."""

    regex = NUMBER

    def __init__(self, fields: Sequence[Field], hexadecimal: bool, usual: int = 0) -> None:
        super().__init__(fields)
        self._hexadecimal = hexadecimal
        self.default = self._split(usual)

    def parse(self, text: str, place: Place) -> Numbers:
        """The number, spread over the fields; AssemblyError when the number does not fit."""
        return self._split(check_range(number_of(text), 0, (1 << self._bits) - 1, "immediate"))

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        """The number."""
        value = self._join(numbers)
        return f"#{value:#x}" if self._hexadecimal else f"#{value}"


class _OptionalNumber(Number):
    """A number that is left out when it is the default."""

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return None if tuple(numbers) == self.default else super().format(numbers, place)


class _Zero:
    """The `#0` that may follow a base register and has no effect."""

    regex = r"#?0"
    default: Numbers = ()

    def parse(self, text: str, place: Place) -> Numbers:
        return ()

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return None


class _Shift:
    """`lsl #16` in steps of 16 bits."""

    regex = "lsl" + AMOUNT
    default: Numbers = (0,)

    def __init__(self, fields: Sequence[Field]) -> None:
        self._steps = 1 << fields[0].width

    def parse(self, text: str, place: Place) -> Numbers:
        shift = number_of(text[3:].strip())
        if shift % 16 or not 0 <= shift < 16 * self._steps:
            allowed = ", ".join(str(16 * step) for step in range(self._steps))
            raise AssemblyError(f"shift is {shift}, must be one of {allowed}")
        return (shift // 16,)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return f"lsl #{16 * numbers[0]}" if numbers[0] else None


class _Wide:
    """The constant of `mov` made by MOVZ or MOVN: fields hw, imm16 (Arm ARM C6.2, MOV (wide immediate))."""

    regex = NUMBER
    default: Numbers = (0, 0)

    def __init__(self, bits: int, inverted: bool) -> None:
        self._bits, self._inverted = bits, inverted

    def parse(self, text: str, place: Place) -> Numbers:
        value = check_range(number_of(text), -(1 << self._bits - 1), (1 << self._bits) - 1, "immediate")
        ones = (1 << self._bits) - 1
        bits = (value ^ ones if self._inverted else value) & ones
        for hw in range(self._bits // 16):
            if bits & ~(0xFFFF << 16 * hw) == 0 and not self._excluded(hw, bits >> 16 * hw):
                return (hw, bits >> 16 * hw)
        raise AssemblyError(
            f"immediate {value:#x} is not 16 bits shifted by a multiple of 16, nor the inverse of such a number"
        )

    def _excluded(self, hw: int, imm16: int) -> bool:
        return (imm16 == 0 and hw != 0) or (self._inverted and self._bits == 32 and imm16 == 0xFFFF)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        hw, imm16 = numbers
        if self._excluded(hw, imm16):
            return None
        value = imm16 << 16 * hw
        if self._inverted:
            value = ~value
        return f"#{value}" if -10 < value < 10 else f"#{value % (1 << self._bits):#x}"


class Label(Packed):
    """An address: a number, `.+8`, a name, `name+4*2`. The field holds the distance in units of `unit` bytes.

    A negative unit counts backwards. When the unit is a page, a name means the page of its address, as in GNU as.
    """

    regex = rf"(?:[^,\s\[\]#\"]|{QUOTED})(?:[^,\[\]\"]++|{QUOTED})*|#{NUMBER}"
    default: Numbers = (0,)

    def __init__(self, fields: Sequence[Field], unit: int) -> None:
        super().__init__(fields)
        self.unit = unit
        self._low = -1 << self._bits - 1 if unit > 0 else 0
        self._high = self._low + (1 << self._bits) - 1

    def _origin(self, place: Place) -> int:
        return place.address - place.address % (self.unit if self.unit > 4 else 1)

    def parse(self, text: str, place: Place) -> Numbers:
        """The distance in units; AssemblyError when the distance is no multiple of the unit or does not fit."""
        if place.anywhere:
            return self._split(0)
        target = target_of(text, place)
        if self.unit > 4 and _split(text)[0] not in ("", _HERE):
            target -= target % self.unit
        # Addresses are 64 bits and wrap around, as the CPU's PC does.
        distance = ((target - self._origin(place)) + (1 << 63)) % (1 << 64) - (1 << 63)
        if distance % self.unit:
            raise AssemblyError(f"label {text} is {distance:+d} bytes away, must be a multiple of {abs(self.unit)}")
        if not self._low <= distance // self.unit <= self._high:
            low, high = sorted((self._low * self.unit, self._high * self.unit))
            raise AssemblyError(f"label {text} is {distance:+d} bytes away, must be within {low:+d} to {high:+d}")
        return self._split(distance // self.unit)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        """The name of the address, or the number."""
        value = self._join(numbers)
        if value > self._high:
            value -= 1 << self._bits
        target = (self._origin(place) + value * self.unit) % (1 << 64)
        return place.names.describe(target) if place.names else f"{target:#x}"


_HERE = "."
_ABSOLUTE = re.compile(NUMBER, re.ASCII)
_NUMBERED = re.compile(r"[0-9]{1,4}[bf]\s*(?:[-+]|$)", re.ASCII)
_DISTANCE = rf"\s*(?P<distance>[-+][-+~!(\s]*(?:[0-9]|{CHARACTER}).*)?"
_ADDRESS = re.compile(rf"(?P<name>\S.*?){_DISTANCE}", re.ASCII)
_QUOTED_ADDRESS = re.compile(rf"(?P<name>(?:{QUOTED}|[^\s\"])(?:{QUOTED}|[^\"])*?){_DISTANCE}", re.ASCII)


def _split(text: str) -> tuple[str, int]:
    """A name and a distance from it (bytes). The name is empty for a number, and `.` for the instruction itself."""
    if _ABSOLUTE.fullmatch(text) and not _NUMBERED.match(text):
        return "", number_of(text)
    match = (_QUOTED_ADDRESS if '"' in text else _ADDRESS).fullmatch(text)
    if match is None or match["distance"] is None:
        return text, 0
    return match["name"], distance(match["distance"])


def target_of(text: str, place: Place) -> int:
    """The address of a label: a number, `.+8`, a name, or a name and a distance. AssemblyError for an unknown name."""
    name, offset = _split(text)
    if not name:
        return offset
    if name == _HERE:
        return place.address + offset
    if place.anywhere:
        return 0
    if place.names is None:
        raise AssemblyError(f"label {name!r} is a name, but there are no symbols here: write an address")
    try:
        if "-" in text and "+" not in text:
            with suppress(LookupError):  # a symbol whose name has a minus in it
                return place.names.resolve(text)
        if offset < 0:
            return place.names.resolve(name) + offset
        return place.names.resolve(f"{name}+{offset:#x}" if offset else name)
    except LookupError as error:
        raise AssemblyError(str(error)) from None


class _Word:
    """A name from a list in place of a number. With `bare`, other numbers are written as `#4`.

    The names of `also` are read, but not printed.
    """

    def __init__(
        self,
        names: dict[str, int],
        bare: int | None = None,
        usual: int | None = None,
        also: dict[str, int] | None = None,
    ) -> None:
        self._numbers, self._bare, self._usual = names | (also or {}), bare, usual
        self._names = {number: name for name, number in names.items()}
        self.regex = r"[a-z][a-z0-9]*|" + NUMBER
        self.default: Numbers = (usual,)

    def parse(self, text: str, place: Place) -> Numbers:
        number = self._numbers.get(text.lower())
        if number is None:
            if self._bare is None or not re.fullmatch(NUMBER, text, re.ASCII | re.IGNORECASE):
                raise AssemblyError(f"{text!r} must be one of {', '.join(self._numbers)}")
            number = check_range(number_of(text), 0, self._bare, "option")
        return (number,)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        if self._usual is not None and numbers[0] == self._usual:
            return None
        return self._names.get(numbers[0], f"#{numbers[0]}")


class _Condition(_Word):
    """A condition code."""

    def __init__(self) -> None:
        super().__init__(CONDITIONS)
        self._names = CONDITION_NAMES
        self.regex = r"[a-z]{2}"


_PREFETCH = {
    f"{kind}{level}{policy}": number << 3 | place << 1 | stream
    for number, kind in enumerate(("pld", "pli", "pst"))
    for place, level in enumerate(("l1", "l2", "l3", "slc"))
    for stream, policy in enumerate(("keep", "strm"))
}
_INTENT_TO_READ = {"ir": 24}
"""A prefetch of FEAT_PCDPHINT. GNU as and llvm-mc of 2025 print its number."""
_CONTROL = {f"c{number}": number for number in range(16)}

LABEL_UNITS = {"label": 4, "backlabel": -4, "adr": 1, "adrp": PAGE_SIZE}
"""The kinds of labels, with the bytes in one unit of their fields. `references.reference` uses them too."""

KINDS: dict[str, Callable[[Sequence[Field]], Operand]] = {
    "W": lambda fields: W_REGISTER,
    "X": lambda fields: X_REGISTER,
    "X!": lambda fields: Register("x", None),
    "XSP": lambda fields: Register("x", "sp"),
    "X30": lambda fields: _OptionalRegister(30),
    "Xopt": lambda fields: _OptionalRegister(31),
    "R": lambda fields: SizedRegister(size_follows=False),
    "Rbit": lambda fields: SizedRegister(size_follows=True),
    "cond": lambda fields: _Condition(),
    "zero": lambda fields: _Zero(),
    "barrier": lambda fields: _Word(BARRIER_OPTIONS, bare=15),
    "nxs": lambda fields: _Word(_NXS_OPTIONS),
    "isb": lambda fields: _Word({"sy": 15}, bare=15, usual=15),
    "prfop": lambda fields: _Word(_PREFETCH, bare=31, also=_INTENT_TO_READ),
    "C": lambda fields: _Word(_CONTROL),
    "wide_w": lambda fields: _Wide(32, inverted=False),
    "wide_x": lambda fields: _Wide(64, inverted=False),
    "wide_not_w": lambda fields: _Wide(32, inverted=True),
    "wide_not_x": lambda fields: _Wide(64, inverted=True),
    "imm": lambda fields: Number(fields, hexadecimal=False),
    "hex": lambda fields: Number(fields, hexadecimal=True),
    "hexopt": lambda fields: _OptionalNumber(fields, hexadecimal=True),
    "imm15": lambda fields: _OptionalNumber(fields, hexadecimal=False, usual=15),
    "lsl16": _Shift,
    **{kind: partial(Label, unit=unit) for kind, unit in LABEL_UNITS.items()},
}
"""The kinds of operands by name in templates. Each operand is made for the fields that its template names."""

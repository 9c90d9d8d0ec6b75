"""Operands of data processing and of loads and stores: shifted and extended registers, constants, offsets.

Read on: templates.py puts operands together; tables/integer.py and tables/memory.py name these kinds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Protocol

from a64patch.a64.names import QUOTED
from a64patch.a64.operands import (
    AMOUNT,
    CONDITION_NAMES,
    CONDITIONS,
    GENERAL,
    NUMBER,
    W_REGISTER,
    X_REGISTER,
    Number,
    Numbers,
    Operand,
    Place,
    Register,
    Registers,
    SizedRegister,
    check_range,
    number_of,
    target_of,
)
from a64patch.a64.row import Field
from a64patch.errors import AssemblyError


class Fixed:
    """An operand without text: the spelling fits only words whose field holds this number."""

    regex = ""

    def __init__(self, number: int) -> None:
        self.default: Numbers = (number,)

    def parse(self, text: str, place: Place) -> Numbers:
        """The number."""
        return self.default

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        """The empty text; None for another number."""
        return "" if tuple(numbers) == self.default else None


class Distinct:
    """An operand without text: its registers must all differ (Arm ARM C6.2, CPYP, SETP; collisions.py)."""

    regex = ""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.default: Numbers = (None,) * len(fields)

    def parse(self, text: str, place: Place) -> Numbers:
        """No numbers: the registers' own operands give them."""
        return self.default

    def verify(self, numbers: Sequence[int]) -> None:
        """AssemblyError when two registers are the same."""
        if len(set(numbers)) < len(numbers):
            raise AssemblyError("these registers must all be different")

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        """The empty text; None when two registers are the same."""
        return "" if len(set(numbers)) == len(numbers) else None


class _StackPointer(Registers):
    """SP or WSP and no other register, told apart by a bit: fields size, number."""

    regex = r"w?sp"
    default: Numbers = (1, 31)
    registers = (*GENERAL, ("sp",))

    def parse(self, text: str, place: Place) -> Numbers:
        return (0 if text.lower() == "wsp" else 1, 31)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return None if numbers[1] != 31 else "sp" if numbers[0] else "wsp"


class _AnyRegister(Operand, Protocol):
    """A kind of register."""

    registers: tuple[tuple[str, ...], ...]


class SameRegister(Registers):
    """One register, in each of the last two fields. Earlier fields, if any, select its form."""

    default: Numbers = (31, 31)

    def __init__(self, register: _AnyRegister) -> None:
        self._register, self.registers, self.regex = register, register.registers, register.regex

    def parse(self, text: str, place: Place) -> Numbers:
        """The number twice; AssemblyError for another name."""
        numbers = self._register.parse(text, place)
        return (*numbers, numbers[-1])

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        """The register's name; None when the two fields differ."""
        return self._register.format(numbers[:-1], place) if numbers[-1] == numbers[-2] else None


class _RegisterPair(Registers):
    """`x2, x3`, the first one even: the field holds half of its number."""

    regex = r"[a-z][a-z0-9]*\s*,\s*[a-z][a-z0-9]*"
    default: Numbers = (0,)

    registers = tuple(sum(GENERAL[first : first + 2], ()) for first in range(0, 32, 2))

    def __init__(self, register: Register) -> None:
        self._register = register

    def width(self, numbers: Sequence[int]) -> int:
        """Bytes of both registers."""
        return 2 * self._register.width(numbers)

    def parse(self, text: str, place: Place) -> Numbers:
        first, second = (self._register.parse(part.strip(), place)[0] or 0 for part in text.split(","))
        if first % 2 or second != first + 1:
            raise AssemblyError(f"registers {text!r} must be an even one and the next")
        return (first // 2,)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        first = 2 * numbers[0]
        return f"{self._register.format([first], place)}, {self._register.format([first + 1], place)}"


class _EightRegisters(Registers):
    """The first of eight registers, an even one: the field holds half of its number."""

    regex = r"x[0-9]+"
    default: Numbers = (0,)
    registers = tuple(sum(GENERAL[first : first + 8], ()) for first in range(0, 32, 2))

    def width(self, numbers: Sequence[int]) -> int:
        """Bytes of all eight registers."""
        return 64

    def parse(self, text: str, place: Place) -> Numbers:
        number = X_REGISTER.parse(text, place)[0] or 0
        if number % 2 or number > 22:
            raise AssemblyError(f"register {text!r} must be even and at most x22")
        return (number // 2,)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return f"x{2 * numbers[0]}"


def _low_bits(text: str, place: Place) -> int:
    return target_of(text.removeprefix("#")[len(":lo12:") :].strip(), place) & 0xFFF


class LowBits:
    """The base of operands that accept `:lo12:symbol`: the low 12 bits of an address."""

    unit: int = 1
    """Bytes in one unit of the field imm12."""


class _Immediate12(LowBits):
    """`#imm{, lsl #12}` of ADD and SUB, or `:lo12:symbol`: fields sh, imm12."""

    regex = rf"{NUMBER}(?:\s*,\s*lsl{AMOUNT})?|#?:lo12:(?:{QUOTED}|[^,\"])+"
    default: Numbers = (0, 0)

    def parse(self, text: str, place: Place) -> Numbers:
        if ":" in text:
            return (0, _low_bits(text, place))
        number, _, shift = text.partition(",")
        value = number_of(number.strip())
        if shift:
            amount = number_of(shift.strip()[3:].strip())
            if amount not in (0, 12):
                raise AssemblyError(f"shift is {amount}, must be 0 or 12")
            if self._fits(value):
                return (amount // 12, abs(value))
            raise AssemblyError(f"imm12 is {value}, must be from 0 to 4095")
        if self._fits(value):
            return (0, abs(value))
        if value % 4096 == 0 and self._fits(value // 4096):
            return (1, abs(value) // 4096)
        raise AssemblyError(f"imm12 is {value}, must be 0..4095 or a multiple of 4096 up to {4095 * 4096}")

    def _fits(self, value: int) -> bool:
        return 0 <= value <= 4095

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        number = f"#{numbers[1]}" if numbers[1] < 10 else f"#{numbers[1]:#x}"
        return number + (", lsl #12" if numbers[0] else "")


class _NegativeImmediate12(_Immediate12):
    """`#-imm`: ADD of it becomes SUB, and SUB becomes ADD, as in GNU as and LLVM. Never printed."""

    regex = rf"{NUMBER}(?:\s*,\s*lsl{AMOUNT})?"

    def _fits(self, value: int) -> bool:
        return -4095 <= value < 0

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return None


class Scaled(Number):
    """An immediate in units of `scale` bytes. When optional, 0 is left out."""

    def __init__(
        self,
        fields: Sequence[Field],
        scale: int,
        *,
        signed: bool = False,
        optional: bool = False,
        hexadecimal: bool = False,
    ) -> None:
        super().__init__(fields, hexadecimal)
        self.unit, self._optional = scale, optional
        self._low = -1 << self._bits - 1 if signed else 0
        self._high = self._low + (1 << self._bits) - 1

    def parse(self, text: str, place: Place) -> Numbers:
        """The number of units; AssemblyError when the value is no multiple of the scale or does not fit."""
        return self._in_units(number_of(text))

    def _in_units(self, value: int) -> Numbers:
        if value % self.unit:
            raise AssemblyError(f"immediate is {value}, must be a multiple of {self.unit}")
        check_range(value, self._low * self.unit, self._high * self.unit, "immediate")
        return self._split(value // self.unit)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        """The value in bytes; None for an optional 0."""
        if self._optional and not any(numbers):
            return None
        value = self._join(numbers)
        if value > self._high:
            value -= 1 << self._bits
        value *= self.unit
        return f"#{value:#x}" if self._hexadecimal else f"#{value}"


class _Offset12(Scaled, LowBits):
    """The unsigned offset of a load or store, or `:lo12:symbol`."""

    regex = rf"{NUMBER}|#?:lo12:(?:{QUOTED}|[^,\]\"])+"

    def __init__(self, fields: Sequence[Field], scale: int) -> None:
        super().__init__(fields, scale, optional=True)

    def parse(self, text: str, place: Place) -> Numbers:
        return self._in_units(_low_bits(text, place)) if ":" in text else super().parse(text, place)


_SHIFTS = {"lsl": 0, "lsr": 1, "asr": 2, "ror": 3}


class _ShiftedBy:
    """`lsl #3` after a register: fields shift, amount."""

    regex = rf"(?:lsl|lsr|asr|ror){AMOUNT}"
    default: Numbers = (0, 0)

    def __init__(self, fields: Sequence[Field]) -> None:
        self._bits = 1 << fields[1].width

    def parse(self, text: str, place: Place) -> Numbers:
        amount = check_range(number_of(text[3:].strip()), 0, self._bits - 1, "shift amount")
        return (_SHIFTS[text[:3].lower()], amount)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return None if tuple(numbers) == self.default else f"{list(_SHIFTS)[numbers[0]]} #{numbers[1]}"


class _OptionalLeftShift:
    """`lsl #3`, left out when 0."""

    regex = rf"lsl{AMOUNT}"
    default: Numbers = (0,)

    def __init__(self, fields: Sequence[Field]) -> None:
        self._last = (1 << fields[0].width) - 1

    def parse(self, text: str, place: Place) -> Numbers:
        return (check_range(number_of(text[3:].strip()), 0, self._last, "shift amount"),)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return f"lsl #{numbers[0]}" if numbers[0] else None


_EXTENDS = {"uxtb": 0, "uxth": 1, "uxtw": 2, "uxtx": 3, "sxtb": 4, "sxth": 5, "sxtw": 6, "sxtx": 7}
_WORD = re.compile("[a-z]*")


def _extension(text: str) -> tuple[str, str, str]:
    """Register, name of the extension, amount. The last two may be empty."""
    register, _, extension = (part.strip() for part in text.partition(","))
    match = _WORD.match(extension.lower())
    name = match[0] if match else ""
    return register, name, extension[len(name) :].strip()


class _Extended(Registers):
    """`w2, sxtw #2` of ADD and SUB: fields rm, option, imm3, and registers; if one of these is SP, `lsl` is printed."""

    regex = rf"[a-z][a-z0-9]*(?:\s*,\s*(?:[us]xt[bhwx]|lsl)(?:{AMOUNT})?)?"
    default: Numbers = ()
    position = 0

    def __init__(self, fields: Sequence[Field], bits: int) -> None:
        self._bits = bits
        self._plain = 3 if bits == 64 else 2
        self._looked_at = len(fields) - 3

    def _register(self, option: int) -> Register:
        return X_REGISTER if self._bits == 64 and option & 3 == 3 else W_REGISTER

    def parse(self, text: str, place: Place) -> Numbers:
        register, name, rest = _extension(text)
        option = _EXTENDS.get(name, self._plain)
        amount = check_range(number_of(rest), 0, 4, "shift amount") if rest else 0
        return (self._register(option).parse(register, place)[0], option, amount, *(None,) * self._looked_at)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        rm, option, amount, *others = numbers
        if amount > 4:
            return None
        register = self._register(option).format([rm], place)
        if option == self._plain and 31 in others:
            return f"{register}, lsl #{amount}" if amount else register
        return f"{register}, {list(_EXTENDS)[option]}" + (f" #{amount}" if amount else "")


class _RegisterOffset(Registers):
    """`x2, lsl #3` inside brackets: fields rm, the outer bits of the option, S. `scale` is the log2 of the access."""

    regex = rf"[wx][a-z0-9]+(?:\s*,\s*(?:uxtw|sxtw|sxtx|lsl)(?:{AMOUNT})?)?"
    default: Numbers = (0, 0, 1, 0)
    position = 0

    def __init__(self, scale: int) -> None:
        self._scale = scale

    def parse(self, text: str, place: Place) -> Numbers:
        register, name, rest = _extension(text)
        option = {"": 3, "lsl": 3, "uxtw": 2, "sxtw": 6, "sxtx": 7}[name]
        if (register[0].lower() == "x") != (option & 1):
            raise AssemblyError(f"index {text!r} must be W with uxtw or sxtw, or X with nothing, lsl #n or sxtx")
        amount = number_of(rest) if rest else None
        if name == "lsl" and amount is None:
            raise AssemblyError("lsl needs an amount")
        if amount not in (None, 0, self._scale):
            raise AssemblyError(f"shift amount is {amount}, must be 0 or {self._scale}")
        number = (X_REGISTER if option & 1 else W_REGISTER).parse(register, place)[0]
        return (number, option >> 2, option & 1, int(amount is not None and amount == self._scale))

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        rm, signed, wide, scaled = numbers
        register = (X_REGISTER if wide else W_REGISTER).format([rm], place)
        if wide and not signed:
            return f"{register}, lsl #{self._scale}" if scaled else register
        name = "sxtx" if wide else "sxtw" if signed else "uxtw"
        return f"{register}, {name}" + (f" #{self._scale}" if scaled else "")


class _InvertedCondition:
    """The condition of CSET and the like: the opposite of the word's condition. AL and NV have no opposite."""

    regex = r"[a-z]{2}"
    default: Numbers = (0,)

    def parse(self, text: str, place: Place) -> Numbers:
        number = CONDITIONS.get(text.lower(), 15)
        if number >= 14:
            raise AssemblyError(f"condition {text!r} must be one of {', '.join(list(CONDITIONS)[:-2])}")
        return (number ^ 1,)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return None if numbers[0] >= 14 else CONDITION_NAMES[numbers[0] ^ 1]


class _LeftShift:
    """The amount of LSL made by UBFM: fields immr, imms."""

    regex = NUMBER
    default: Numbers = (0, 0)

    def __init__(self, bits: int) -> None:
        self._bits = bits

    def parse(self, text: str, place: Place) -> Numbers:
        amount = check_range(number_of(text), 0, self._bits - 1, "shift amount")
        return (-amount % self._bits, self._bits - 1 - amount)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        immr, imms = numbers
        return f"#{self._bits - 1 - imms}" if imms + 1 == immr else None


class _Bits:
    """`#lsb, #width` of a bitfield move: fields immr, imms. An insertion has imms < immr, an extraction has not."""

    regex = rf"{NUMBER}\s*,\s*{NUMBER}"
    default: Numbers = (0, 0)

    def __init__(self, bits: int, insert: bool) -> None:
        self._bits, self._insert = bits, insert

    def parse(self, text: str, place: Place) -> Numbers:
        first, _, second = text.partition(",")
        lsb = check_range(number_of(first.strip()), 0, self._bits - 1, "lsb")
        width = check_range(number_of(second.strip()), 1, self._bits - lsb, "width")
        return (-lsb % self._bits, width - 1) if self._insert else (lsb, lsb + width - 1)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        immr, imms = numbers
        if self._insert != (imms < immr):
            return None
        return f"#{self._bits - immr}, #{imms + 1}" if self._insert else f"#{immr}, #{imms - immr + 1}"


def decode_bitmask(n: int, immr: int, imms: int, bits: int) -> int | None:
    """The value of a logical immediate (Arm ARM, DecodeBitMasks).

    None for a reserved encoding, and for an encoding with another immr than assemblers make.
    """
    size = 64 if n else 32
    if not n:
        while size > 1 and imms & size:
            size >>= 1
    ones = (imms & (size - 1)) + 1
    if size < 2 or ones == size or size > bits or immr >= size:
        return None
    run = (1 << ones) - 1
    element = (run >> immr | run << size - immr) & (1 << size) - 1
    return element * (((1 << bits) - 1) // ((1 << size) - 1))


def encode_bitmask(value: int, bits: int) -> tuple[int, int, int] | None:
    """N, immr and imms for a value of `bits` bits; None when the value is not a repeated, rotated run of ones."""
    if not 0 < value < (1 << bits) - 1:
        return None
    size = bits
    while size > 2 and value == (value & (1 << size // 2) - 1) * (((1 << bits) - 1) // ((1 << size // 2) - 1)):
        size //= 2
    element = value & (1 << size) - 1
    ones = element.bit_count()
    run = (1 << ones) - 1
    for immr in range(size):
        if (run >> immr | run << size - immr) & (1 << size) - 1 == element:
            return int(size == 64), immr, (ones - 1) | (~(2 * size - 1) & 0x3F)
    return None


class _Logical:
    """The constant of AND, ORR, EOR: fields immr, imms, preceded by N for 64 bits."""

    regex = NUMBER
    default: Numbers = (0, 0)

    def __init__(self, bits: int, move: bool = False) -> None:
        self._bits, self._move = bits, move

    def parse(self, text: str, place: Place) -> Numbers:
        value = check_range(number_of(text), -(1 << self._bits - 1), (1 << self._bits) - 1, "immediate")
        found = encode_bitmask(value % (1 << self._bits), self._bits)
        if found is None:
            raise AssemblyError(f"immediate {value:#x} is not a repeated, rotated run of ones of {self._bits} bits")
        return found if self._bits == 64 else found[1:]

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        n = numbers[0] if self._bits == 64 else 0
        value = decode_bitmask(n, numbers[-2], numbers[-1], self._bits)
        if value is None or (self._move and self._wide(value)):
            return None
        return f"#{value:#x}"

    def _wide(self, value: int) -> bool:
        """Whether MOVZ or MOVN can make the value (Arm ARM, MoveWidePreferred)."""
        ones = (1 << self._bits) - 1
        return any(v & ~(0xFFFF << shift) == 0 for v in (value, value ^ ones) for shift in range(0, self._bits, 16))


class _RangePrefetch(Number):
    """The operation of RPRFM: a name for four operations, a number for the others (Arm ARM C6.2, RPRFM)."""

    regex = rf"[a-z]+|{NUMBER}"
    _names: ClassVar[dict[str, int]] = {"pldkeep": 0, "pstkeep": 1, "pldstrm": 4, "pststrm": 5}

    def __init__(self, fields: Sequence[Field]) -> None:
        super().__init__(fields, hexadecimal=False)

    def parse(self, text: str, place: Place) -> Numbers:
        if text[0].isalpha():
            if text.lower() not in self._names:
                raise AssemblyError(f"{text!r} must be one of {', '.join(self._names)} or a number")
            return self._split(self._names[text.lower()])
        return super().parse(text, place)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        known = {self._split(number): name for name, number in self._names.items()}
        return known.get(tuple(numbers)) or super().format(numbers, place)


_Make = Callable[[Sequence[Field]], Operand]


def _offsets() -> dict[str, _Make]:
    """The kinds of offsets, for each size of the access in bytes, 1 to 16."""
    kinds: dict[str, _Make] = {}
    for log in range(5):
        size = 1 << log
        kinds[f"offset_{size}"] = partial(_Offset12, scale=size)
        kinds[f"signed_{size}"] = partial(Scaled, scale=size, signed=True)
        kinds[f"signed_offset_{size}"] = partial(Scaled, scale=size, signed=True, optional=True)
        kinds[f"index_{size}"] = lambda fields, log=log: _RegisterOffset(log)  # type: ignore[misc]
    return kinds


KINDS: dict[str, _Make] = {
    "WSP": lambda fields: Register("w", "wsp"),
    "SP": lambda fields: _StackPointer(),
    "RSP": lambda fields: SizedRegister(size_follows=False, last="sp"),
    "W=": lambda fields: SameRegister(W_REGISTER),
    "X=": lambda fields: SameRegister(X_REGISTER),
    "R=": lambda fields: SameRegister(SizedRegister(size_follows=False)),
    "distinct": Distinct,
    "X8": lambda fields: _EightRegisters(),
    "Wpair": lambda fields: _RegisterPair(W_REGISTER),
    "Xpair": lambda fields: _RegisterPair(X_REGISTER),
    "invcond": lambda fields: _InvertedCondition(),
    "imm12": lambda fields: _Immediate12(),
    "negative12": lambda fields: _NegativeImmediate12(),
    "imm_x16": lambda fields: Scaled(fields, 16, hexadecimal=True),
    "simm": lambda fields: Scaled(fields, 1, signed=True),
    "rprfop": _RangePrefetch,
    "shift": _ShiftedBy,
    "lslopt": _OptionalLeftShift,
    "extend_w": lambda fields: _Extended(fields, 32),
    "extend_x": lambda fields: _Extended(fields, 64),
    "left_w": lambda fields: _LeftShift(32),
    "left_x": lambda fields: _LeftShift(64),
    "insert_w": lambda fields: _Bits(32, insert=True),
    "insert_x": lambda fields: _Bits(64, insert=True),
    "extract_w": lambda fields: _Bits(32, insert=False),
    "extract_x": lambda fields: _Bits(64, insert=False),
    "logical_w": lambda fields: _Logical(32),
    "logical_x": lambda fields: _Logical(64),
    "bitmask_w": lambda fields: _Logical(32, move=True),
    "bitmask_x": lambda fields: _Logical(64, move=True),
    **_offsets(),
}
"""The kinds of operands by name in templates."""

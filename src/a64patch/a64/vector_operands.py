"""More kinds of operands: SIMD and FP registers, lists of them, lanes, and the constants beside them.

Read on: templates.py puts operands together; tables/simd*.py use these kinds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

from a64patch.a64.integer_operands import SameRegister
from a64patch.a64.operands import NUMBER, Numbers, Operand, Packed, Place, Registers, number_of
from a64patch.a64.row import Field
from a64patch.errors import AssemblyError

_FLOAT = r"#?[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
_REGISTER = re.compile(r"([a-z])(0|[1-9][0-9]?)((?:\.[0-9]*[a-z])?)")

_VECTORS = tuple((f"v{number}",) for number in range(32))
_WIDTHS = {"b": 1, "h": 2, "s": 4, "d": 8, "q": 16}
"""Bytes of a register or an element, by its letter."""


class _Registers(Packed, Registers):
    """A register. The first fields select its form (`s`, `v.16b`), and the last field holds its number."""

    regex = r"[a-z][0-9]+(?:\.[0-9]*[a-z])?"
    default: Numbers = ()
    registers: tuple[tuple[str, ...], ...] = _VECTORS

    def __init__(self, forms: Sequence[str], fields: Sequence[Field]) -> None:
        super().__init__(fields[:-1])
        self._last = (1 << fields[-1].width) - 1
        self._forms = [(form[0], form[1:]) if form != "-" else None for form in forms[: 1 << self._bits]]

    def width(self, numbers: Sequence[int]) -> int:
        """Bytes of the register, or of one element for an element's form; 0 for a form that does not exist."""
        form = self._forms[self._join(numbers[:-1])]
        if form is None:
            return 0
        letter, arrangement = form
        return int(arrangement[1:-1] or 1) * _WIDTHS[arrangement[-1]] if arrangement else _WIDTHS[letter]

    def parse(self, text: str, place: Place) -> Numbers:
        match = _REGISTER.fullmatch(text.lower())
        form = (match[1], match[3]) if match else None
        if match is None or form not in self._forms:
            raise AssemblyError(f"register {text!r} must be written as {self._shapes()}")
        if int(match[2]) > self._last:
            raise AssemblyError(f"register {text!r} must be from 0 to {self._last}")
        return (*self._split(self._forms.index(form)), int(match[2]))

    def _shapes(self) -> str:
        return " or ".join(f"{form[0]}0{form[1]}" for form in self._forms if form)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        form = self._forms[self._join(numbers[:-1])]
        return f"{form[0]}{numbers[-1]}{form[1]}" if form else None


class _List(_Registers):
    """`{v0.16b, v1.16b}` or `{v0.16b-v3.16b}`: consecutive registers, modulo 32. The field holds the first number."""

    regex = r"\{[^{}]*\}"

    def __init__(self, forms: Sequence[str], length: int, fields: Sequence[Field]) -> None:
        super().__init__(forms, fields)
        self._length = length
        self.registers = tuple(tuple(f"v{(first + step) % 32}" for step in range(length)) for first in range(32))

    def width(self, numbers: Sequence[int]) -> int:
        """Bytes of all registers together."""
        return self._length * super().width(numbers)

    def parse(self, text: str, place: Place) -> Numbers:
        parts = [part.strip() for part in text[1:-1].split(",")]
        ends = [part.strip() for part in parts[0].split("-")] if len(parts) == 1 else parts
        members = [super(_List, self).parse(part, place) for part in ends]
        steps = [((member[-1] or 0) - (members[0][-1] or 0)) % 32 for member in members]
        expected = range(self._length) if len(parts) > 1 or len(ends) == 1 else (0, self._length - 1)
        if steps != list(expected) or any(member[:-1] != members[0][:-1] for member in members):
            raise AssemblyError(f"list {text!r} must be {self._length} consecutive registers")
        return members[0]

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        *form, first = numbers
        names = [super(_List, self).format([*form, (first + step) % 32], place) for step in range(self._length)]
        if names[0] is None:
            return None
        dashed = self._length > 2 and first + self._length <= 32
        return f"{{{names[0]}-{names[-1]}}}" if dashed else f"{{{', '.join(map(str, names))}}}"


class _Replicated(_List):
    """A list of registers. A load fills each with copies of one element."""

    def width(self, numbers: Sequence[int]) -> int:
        """Bytes of one element for each register."""
        form = self._forms[self._join(numbers[:-1])]
        return self._length * _WIDTHS[form[1][-1]] if form else 0


class _Choice(Packed):
    """A number out of a list; the fields hold its index. `word` precedes the number. When `optional`, 0 is left out."""

    def __init__(self, values: Sequence[int], fields: Sequence[Field], word: str = "", optional: bool = False) -> None:
        super().__init__(fields)
        self._values, self._word, self._optional = values[: 1 << self._bits], word, optional
        self.regex = (rf"{word}\s*" if word else "") + NUMBER
        self.default: Numbers = self._split(0)

    def parse(self, text: str, place: Place) -> Numbers:
        value = number_of(text[len(self._word) :].strip())
        if value not in self._values:
            few = [str(value) for value in sorted(self._values)]
            allowed = ", ".join(few) if len(few) < 9 else f"from {few[0]} to {few[-1]}"
            raise AssemblyError(f"{self._word or 'immediate'} is {value}, must be {allowed}")
        return self._split(self._values.index(value))

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        value = self._values[self._join(numbers)]
        if self._optional and not value:
            return None
        return f"{self._word} #{value}" if self._word else f"#{value}"


class _Lane(_Choice):
    """The number of a lane, written between brackets and without `#`."""

    def __init__(self, fields: Sequence[Field]) -> None:
        super().__init__(range(1 << sum(field.width for field in fields)), fields)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return str(self._join(numbers))


class _Zero:
    """The `#0.0` of FP comparisons."""

    regex = r"#?0(?:\.0+)?(?:e\+0+)?"
    default: Numbers = ()

    def parse(self, text: str, place: Place) -> Numbers:
        return ()

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return "#0.0"


def _expand(imm8: int) -> float:
    """VFPExpandImm of the Arm ARM: sign, three bits of exponent, four of fraction."""
    exponent = (imm8 >> 4 & 3) + (-3 if imm8 & 0x40 else 1)
    value = (16 + (imm8 & 15)) / 16 * 2.0**exponent
    return -value if imm8 & 0x80 else value


_FLOATS = [_expand(imm8) for imm8 in range(256)]


class _Float(Packed):
    """The constant of FMOV: 8 bits in one field or two."""

    regex = _FLOAT
    default: Numbers = (0,)

    def parse(self, text: str, place: Place) -> Numbers:
        value = float(text.lstrip("#"))
        if value not in _FLOATS:
            raise AssemblyError(f"immediate {value!r} is not n/16 * 2^r with n from 16 to 31 and r from -3 to 4")
        return self._split(_FLOATS.index(value))

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return f"#{_FLOATS[self._join(numbers)]:.18e}"


class _ByteMask(Packed):
    """The 64-bit constant of MOVI: each of 8 bits gives a byte, 0x00 or 0xff."""

    regex = NUMBER
    default: Numbers = (0,)

    def parse(self, text: str, place: Place) -> Numbers:
        value = number_of(text)
        octets = (value % (1 << 64)).to_bytes(8, "big")
        if not -(1 << 63) <= value < 1 << 64 or not set(octets) <= {0, 255}:
            raise AssemblyError(f"immediate {value:#x} must have only bytes 0x00 and 0xff")
        return self._split(int("".join("01"[octet == 255] for octet in octets), 2))

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        bits = self._join(numbers)
        return f"#{int.from_bytes(bytes(255 * (bits >> 7 - octet & 1) for octet in range(8)), 'big'):#x}"


_FORMS = {
    "B": "b", "H": "h", "S": "s", "D": "d", "Q": "q", "SD": "s d", "BHSD": "b h s d", "SDwide": "h s d -",
    # Vectors by size and Q; "V1" with 1D; by sz and Q; by Q alone
    "V": "v.8b v.16b v.4h v.8h v.2s v.4s - v.2d", "V1": "v.8b v.16b v.4h v.8h v.2s v.4s v.1d v.2d",
    "Vsd": "v.2s v.4s - v.2d", "Vb": "v.8b v.16b", "Vh": "v.4h v.8h", "Vs": "v.2s v.4s", "Vd": "v.1d v.2d",
    "Vh2": "v.2h v.4h",
    # By size alone: the lower half of a register, a whole register, elements of double width; by size and Q: pairs
    "Vlower": "v.8b v.4h v.2s v.1d", "Vwhole": "v.16b v.8h v.4s v.2d", "Vwide": "v.8h v.4s v.2d v.1q",
    "Vpair": "v.4h v.8h v.2s v.4s v.1d v.2d - -",
    # Fixed ones
    "V8b": "v.8b", "V16b": "v.16b", "V4h": "v.4h", "V8h": "v.8h", "V2h": "v.2h", "V2s": "v.2s", "V4s": "v.4s",
    "V1d": "v.1d", "V2d": "v.2d", "V1q": "v.1q", "Vhalves": "v.2s v.2d",
    # One lane; a register for lanes of any size
    "Eb": "v.b", "Eh": "v.h", "Es": "v.s", "Ed": "v.d", "E2h": "v.2h", "E2b": "v.2b", "E4b": "v.4b", "Vlanes": "v",
}  # fmt: skip

Kind = Callable[[Sequence[Field]], Operand]


def _same(forms: Sequence[str], fields: Sequence[Field]) -> Operand:
    return SameRegister(_Registers(forms, fields[:-1]))


def _kinds() -> dict[str, Kind]:
    kinds: dict[str, Kind] = {name: partial(_Registers, forms.split()) for name, forms in _FORMS.items()}
    for name in ("Vb", "Vh", "Vs", "Vd"):
        kinds[f"{name}="] = partial(_same, _FORMS[name].split())
    for length in range(1, 5):
        for name in ("V1", "Vlower", "Vwhole", "V2s", "V16b", "V8h", "Eb", "Eh", "Es", "Ed"):
            kinds[f"{name}*{length}"] = partial(_List, _FORMS[name].split(), length)
        kinds[f"copies*{length}"] = partial(_Replicated, _FORMS["V1"].split(), length)
        kinds[f"bytes{length}"] = partial(_Choice, (8 * length, 16 * length))
        kinds[f"lanes{length}"] = partial(_Choice, [length << size for size in range(4)])
    for constant in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64):
        kinds[f"#{constant}"] = partial(_Choice, (constant,))
    kinds["bits"] = partial(_Choice, (8, 16, 32, 64))
    for bits in (8, 16, 32, 64):
        kinds[f"right{bits}"] = partial(_Choice, range(bits, 0, -1))
    kinds |= {
        "rotate": partial(_Choice, (0, 90, 180, 270)),
        "rotate90": partial(_Choice, (90, 270)),
        "lsl8": partial(_Choice, (0, 8, 16, 24), word="lsl", optional=True),
        "msl8": partial(_Choice, (8, 16), word="msl"),
        "#0.0": lambda fields: _Zero(),
        "float": _Float,
        "bytemask": _ByteMask,
        "lane": _Lane,
    }
    return kinds


KINDS: dict[str, Kind] = _kinds()
"""The kinds by name in templates, as operands.KINDS."""

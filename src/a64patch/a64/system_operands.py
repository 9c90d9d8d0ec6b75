"""Operands of the system instructions and of compare-and-branch: system registers, moved immediates.

Read on: templates.py puts operands together; tables/system.py and tables/branches.py name these kinds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from a64patch.a64.operands import NUMBER, Numbers, Operand, Place, check_range, number_of
from a64patch.a64.row import Field
from a64patch.a64.system_registers import Code, codes, readable_names, wide_names, writable_names
from a64patch.errors import AssemblyError

_GENERIC = re.compile(r"s([23])_([0-7])_c([0-9]|1[0-5])_c([0-9]|1[0-5])_([0-7])", re.ASCII | re.IGNORECASE)


class _SystemRegister:
    """A system register: its name, or S3_0_C1_C2_3 (fields o0, op1, CRn, CRm, op2; Arm ARM C5.1.2).

    Every name is read, since the instruction exists whatever the register's access. Only the `names` of this direction
    are printed.
    """

    regex = r"[a-z][a-z0-9_]*"
    default: Numbers = (0, 0, 0, 0, 0)

    def __init__(self, names: Callable[[], Mapping[Code, str]]) -> None:
        self._names = names

    def parse(self, text: str, place: Place) -> Numbers:
        match = _GENERIC.fullmatch(text)
        if match:
            op0, *others = map(int, match.groups())
            return (op0 - 2, *others)
        register = codes().get(text.lower())
        if register is None:
            raise AssemblyError(
                f"there is no system register {text!r}; one without a name is written as "
                "S<op0>_<op1>_C<n>_C<m>_<op2>, op0 2 or 3"
            )
        return (register.code[0] - 2, *register.code[1:])

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        o0, op1, crn, crm, op2 = numbers
        return self._names().get((o0 + 2, op1, crn, crm, op2), f"s{o0 + 2}_{op1}_c{crn}_c{crm}_{op2}")


class _MovedNumber:
    """An unsigned number that is larger than its field by `more`: `cbge x0, #1` is `cbgt x0, #0`."""

    regex = NUMBER
    default: Numbers = (0,)

    def __init__(self, field: Field, more: int) -> None:
        self._low, self._high = more, (1 << field.width) - 1 + more

    def parse(self, text: str, place: Place) -> Numbers:
        return (check_range(number_of(text), self._low, self._high, "immediate") - self._low,)

    def format(self, numbers: Sequence[int], place: Place) -> str | None:
        return f"#{numbers[0] + self._low}"


KINDS: dict[str, Callable[[Sequence[Field]], Operand]] = {
    "readable": lambda fields: _SystemRegister(readable_names),
    "writable": lambda fields: _SystemRegister(writable_names),
    "sysreg128": lambda fields: _SystemRegister(wide_names),
    "imm+1": lambda fields: _MovedNumber(fields[0], 1),
    "imm-1": lambda fields: _MovedNumber(fields[0], -1),
}
"""The kinds by name in templates, as operands.KINDS."""

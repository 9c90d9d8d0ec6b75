"""Unwind tables: for each instruction of a build, where the registers of its caller are (.eh_frame, .eh_frame_hdr).

This file knows no target: the caller gives a function that reads memory. Nothing is read from files on disk, since a
process executes its mapped code. Read on: stacks.py follows stacks by these rows.

Sources: DWARF 5, 6.4 (call frame information) and 7.24; Linux Standard Base Core 5.0, 10.6 (.eh_frame, .eh_frame_hdr);
DWARF for the Arm 64-bit Architecture, 4.1 (register numbers) and 4.4 (vendor operations).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from a64patch.a64.words import INSN_SIZE
from a64patch.errors import FormatError, TargetError
from a64patch.oneline import shown
from a64patch.targets.maps import Maps

SP = 31
"""The number of the stack pointer in a row. x0 to x30 have their own numbers."""
MOST_TABLE = 1 << 25
"""A larger .eh_frame_hdr is refused (bytes): four million functions."""
MOST_ENTRY = 1 << 16
"""A larger entry for one function is refused (bytes)."""
MOST_OF_ALL_ENTRIES = 1 << 24
"""When more bytes of entries were executed, the build's table is refused: hostile entries would hold up a stop."""
MOST_CODE = 1 << 20
"""A larger function is taken for one whose table does not suit each instruction (bytes)."""
_RETURNS = (0xD65F03C0, 0xD65F0BFF, 0xD65F0FFF)
"""RET, RETAA, RETAB."""
_USUAL_ENTRY = 256
_MOST_REMEMBERED = 64
_MOST_KEPT = 1 << 16
_MOST_MAPPINGS_OF_ONE_BUILD = 64
_ADDRESSES = 1 << 64
_PT_LOAD, _PT_GNU_EH_FRAME = 1, 0x6474E550
_EM_AARCH64 = 183
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SORTED_TABLE = 0x3B
"""DW_EH_PE_datarel | DW_EH_PE_sdata4: the one form of search table that linkers write."""

Read = Callable[[int, int], bytes]
"""Gives `size` bytes at an address. Fewer, none or a TargetError where memory cannot be read."""


class Rule(NamedTuple):
    """How a register of the caller is found."""

    kind: Literal["at", "is", "register", "same", "undefined", "unknown"]
    """
    - at: in memory at CFA + number; is: CFA + number;
    - register: in the register `number`; same: unchanged;
    - undefined: lost; for the return address, no caller exists;
    - unknown: by an expression, which is not followed.
    """
    number: int = 0


SAME, UNDEFINED, UNKNOWN = Rule("same"), Rule("undefined"), Rule("unknown")


class Row(NamedTuple):
    """The unwind rules at one instruction."""

    start: int
    """The function's first address."""
    end: int
    """The address behind the function's last one."""
    cfa: tuple[int, int] | None
    """The canonical frame address, which is the caller's SP: (register, bytes to add). None for an expression."""
    rules: Mapping[int, Rule]
    """By register, up to SP. A register without a rule is unchanged."""
    link: int
    """The register whose rule tells the return address: 30 in what compilers make."""

    def __repr__(self) -> str:
        return shown(self, f"{self.start:#x}-{self.end:#x}", f"CFA {self.cfa}", f"{len(self.rules)} rules")


def read_whole(read: Read, address: int, size: int) -> bytes:
    """As `read`; FormatError when not all bytes can be read, or when these are no addresses."""
    data = read_some(read, address, size)
    if len(data) < size:
        raise FormatError(f"{size} bytes at {address:#x} cannot be read")
    return data


def read_some(read: Read, address: int, size: int) -> bytes:
    """As `read`, at most `size` bytes; none for a TargetError, or when these are no addresses."""
    if not 0 <= address <= _ADDRESSES - size:
        return b""
    try:
        return read(address, size)[:size]
    except TargetError:
        return b""


class UnwindTable:
    """The unwind entries of one build in a process, found by its .eh_frame_hdr. All answers are kept.

    Reading is lazy: the search table at the first question, then the entry of each function that is asked for.
    FormatError for a table without the usual binary search, and for what contradicts itself.
    """

    def __init__(self, read: Read, header: int, size: int) -> None:
        """`header` and `size` are address and bytes of the mapped .eh_frame_hdr."""
        self._read, self._header, self._size = read, header, size
        self._table: tuple[bytes, int, int] | None = None
        self._common: dict[int, _Common] = {}
        self._rows: dict[int, Row | None] = {}
        self._suiting: dict[int, bool] = {}
        self._left = MOST_OF_ALL_ENTRIES

    def __repr__(self) -> str:
        return shown(self, f"at {self._header:#x}, {self._size} bytes")

    def row(self, pc: int) -> Row | None:
        """The rules at an instruction; None for code without an entry. The address may lie inside an instruction.

        Whoever wrote the table answers for its rules. FormatError when the entry is no sound one.
        """
        if pc not in self._rows:
            if len(self._rows) >= _MOST_KEPT:
                self._rows.clear()
            self._rows[pc] = self._find(pc)
        return self._rows[pc]

    def suits_each_instruction(self, row: Row) -> bool:
        """Whether a thread may be at any instruction of the row's function, and not only behind a call.

        Told by the function's own RET instructions: there the return address is in x30, and SP is as at entry. Tables
        that serve exceptions only say something else there, as clang's did before LLVM 15. Not guaranteed for a
        function without a RET.
        """
        if row.start not in self._suiting:
            if len(self._suiting) >= _MOST_KEPT:
                self._suiting.clear()
            self._suiting[row.start] = self._suits(row)
        return self._suiting[row.start]

    def _suits(self, row: Row) -> bool:
        import numpy

        size = row.end - row.start
        code = read_some(self._read, row.start, min(size, MOST_CODE))
        if len(code) < size or row.start % INSN_SIZE:
            return False
        words = numpy.frombuffer(code, "<u4", size // INSN_SIZE)
        for index in numpy.flatnonzero(numpy.isin(words, _RETURNS)):
            there = self.row(row.start + INSN_SIZE * int(index))
            if there is None or there.cfa != (SP, 0) or there.rules.get(there.link, SAME) != SAME:
                return False
        return True

    def _find(self, pc: int) -> Row | None:
        if self._table is None:
            self._table = self._search_table()
        data, first, count = self._table

        def start(index: int) -> int:
            return self._header + int(struct.unpack_from("<i", data, first + 8 * index)[0])

        index = bisect_right(range(count), pc, key=start) - 1
        if index < 0:
            return None
        (distance,) = struct.unpack_from("<i", data, first + 8 * index + 4)
        return self._row_of(self._header + distance, pc)

    def _search_table(self) -> tuple[bytes, int, int]:
        """The bytes of .eh_frame_hdr, the offset of its search table, and how many functions this has."""
        if not 4 <= self._size <= MOST_TABLE:
            raise FormatError(f"the unwind table at {self._header:#x} has an impossible size")
        data = read_whole(self._read, self._header, self._size)
        version, frame_form, count_form, table_form = data[:4]
        if version != 1 or table_form != _SORTED_TABLE:
            raise FormatError(f"the unwind table at {self._header:#x} has no usual binary search table")
        cursor = _Cursor(data, self._header, 4)
        cursor.pointer(frame_form, self._header)
        count = cursor.pointer(count_form, self._header)
        if not 0 <= count <= (len(data) - cursor.at) // 8:
            raise FormatError(f"the unwind table at {self._header:#x} is larger than its segment")
        return data, cursor.at, count

    def _row_of(self, address: int, pc: int) -> Row | None:
        cursor = self._entry(address)
        here = cursor.place
        distance = cursor.number("<I")
        if not distance:
            raise FormatError(f"the unwind entry at {address:#x} is for no function")
        common = self._common_at(here - distance)
        start = cursor.pointer(common.form)
        size = cursor.pointer(common.form & 0x0F) % _ADDRESSES
        if common.is_augmented:
            cursor.skip(cursor.unsigned())
        if not start <= pc < start + size:
            return None
        self._left -= cursor.size
        if self._left < 0:
            raise FormatError(f"the unwind table at {self._header:#x} takes too long")
        program = _Program(common)
        program.run(cursor, start, pc)
        return Row(start, start + size, program.cfa, program.rules, common.link)

    def _entry(self, address: int) -> _Cursor:
        """An entry behind its length. FormatError for one without end, too large or in the 64-bit form."""
        data = read_some(self._read, address, _USUAL_ENTRY)
        if len(data) < 4:
            raise FormatError(f"the unwind entry at {address:#x} cannot be read")
        size = 4 + int.from_bytes(data[:4], "little")
        if not 8 <= size <= MOST_ENTRY:
            raise FormatError(f"the unwind entry at {address:#x} has an impossible size")
        if len(data) < size:
            data = read_whole(self._read, address, size)
        return _Cursor(data[:size], address, 4)

    def _common_at(self, address: int) -> _Common:
        if address not in self._common:
            if len(self._common) >= _MOST_KEPT:
                self._common.clear()
            self._common[address] = _read_common(self._entry(address), address)
        return self._common[address]


class UnwindTables:
    """The unwind tables of all builds in a process, by the address of an instruction. Call it: `tables(pc)`.

    The ELF headers are read where the process has mapped them. Valid as long as the mappings are these.
    """

    def __init__(self, maps: Maps, read: Read) -> None:
        """`read` reads the memory of the process."""
        self._maps, self._read = maps, read
        self._tables: dict[int, UnwindTable | None] = {}

    def __repr__(self) -> str:
        return shown(self, f"{len(self._tables)} read")

    def __call__(self, pc: int) -> UnwindTable | None:
        """The table of the build that holds this instruction; None for code without a table. FormatError as theirs."""
        base = self._base(pc)
        if base is None:
            return None
        if base not in self._tables:
            self._tables[base] = self._of_build(base, pc)
        return self._tables[base]

    def _base(self, pc: int) -> int | None:
        """Where the ELF header of the build with this instruction is mapped."""
        index = bisect_right(self._maps, pc, key=lambda mapping: mapping.start) - 1
        if index < 0 or pc >= self._maps[index].end or not self._maps[index].executable:
            return None
        last = self._maps[index]
        if last.file is None:
            return last.start if last.path == "[vdso]" else None
        for mapping in reversed(self._maps[max(0, index - _MOST_MAPPINGS_OF_ONE_BUILD) : index + 1]):
            if mapping.file == last.file and not mapping.offset:
                return mapping.start
        return None

    def _of_build(self, base: int, pc: int) -> UnwindTable | None:
        header = read_whole(self._read, base, 64)
        machine, at, size, count = (
            *struct.unpack_from("<H", header, 18), *struct.unpack_from("<Q", header, 32),
            *struct.unpack_from("<HH", header, 54),
        )  # fmt: skip
        if header[:6] != b"\x7fELF\2\1" or machine != _EM_AARCH64 or size != _PROGRAM_HEADER.size:
            raise FormatError(f"no ELF header for the code at {pc:#x} is mapped at {base:#x}")
        headers = [*_PROGRAM_HEADER.iter_unpack(read_whole(self._read, base + at, size * count))]
        slide = next((base - address + offset for kind, _, offset, address, *_ in headers if kind == _PT_LOAD), None)
        if slide is None:
            return None
        for kind, _, _, address, _, _, memory, _ in headers:
            if kind == _PT_GNU_EH_FRAME:
                return UnwindTable(self._read, (slide + address) % _ADDRESSES, memory)
        return None


class _Cursor:
    """Reads values of an entry, one after another. FormatError behind its end."""

    def __init__(self, data: bytes, address: int, at: int) -> None:
        self._data, self._address, self.at = data, address, at

    @property
    def place(self) -> int:
        """The address of the next value."""
        return self._address + self.at

    @property
    def size(self) -> int:
        """All bytes, those that were read too."""
        return len(self._data)

    @property
    def left(self) -> bool:
        return self.at < len(self._data)

    def number(self, layout: str) -> int:
        size = struct.calcsize(layout)
        self.skip(size)
        return int(struct.unpack_from(layout, self._data, self.at - size)[0])

    def skip(self, size: int) -> None:
        if not 0 <= size <= len(self._data) - self.at:
            raise FormatError(f"the unwind entry at {self._address:#x} ends too early")
        self.at += size

    def text(self) -> bytes:
        end = self._data.find(b"\0", self.at)
        if end < 0:
            raise FormatError(f"the unwind entry at {self._address:#x} ends too early")
        text, self.at = self._data[self.at : end], end + 1
        return text

    def unsigned(self) -> int:
        return self._leb128()[0]

    def signed(self) -> int:
        value, bits = self._leb128()
        return value - (1 << bits) if value >> bits - 1 else value

    def _leb128(self) -> tuple[int, int]:
        """The value, and how many bits were given. More than 64 significant bits are cut off."""
        value = bits = 0
        while True:
            byte = self.number("B")
            if bits < 70:
                value |= (byte & 0x7F) << bits
                bits += 7
            if byte < 0x80:
                return value, bits

    def pointer(self, form: int, base: int | None = None) -> int:
        """A pointer in one of the DW_EH_PE forms; `base` is what data-relative pointers count from."""
        place = self.place
        kind, relative = form & 0x0F, form & 0xF0
        if kind in (1, 9):
            value = self.unsigned() if kind == 1 else self.signed()
        elif kind in _LAYOUTS:
            value = self.number(_LAYOUTS[kind])
        else:
            raise FormatError(f"the unwind entry at {self._address:#x} has a pointer of the unknown form {form:#x}")
        if relative == 0x10:
            value += place
        elif relative == 0x30 and base is not None:
            value += base
        elif relative:
            raise FormatError(f"the unwind entry at {self._address:#x} has a pointer of the unknown form {form:#x}")
        return value % _ADDRESSES


_LAYOUTS = {0: "<Q", 2: "<H", 3: "<I", 4: "<Q", 10: "<h", 11: "<i", 12: "<q"}
"""The fixed sizes of DW_EH_PE pointers, by the low half of the form."""


class _Common(NamedTuple):
    """What entries have in common: a CIE."""

    code_unit: int
    data_unit: int
    link: int
    form: int
    """The DW_EH_PE form of a function's address."""
    is_augmented: bool
    cfa: tuple[int, int] | None
    rules: dict[int, Rule]
    """The rules at a function's first instruction."""


def _read_common(cursor: _Cursor, address: int) -> _Common:
    if cursor.number("<I"):
        raise FormatError(f"the unwind entry at {address:#x} has no common part")
    version, augmentation = cursor.number("B"), cursor.text()
    if version not in (1, 3) or (augmentation and not augmentation.startswith(b"z")):
        raise FormatError(f"the unwind entry at {address:#x} is of an unknown version")
    code_unit, data_unit = cursor.unsigned(), cursor.signed()
    link = cursor.number("B") if version == 1 else cursor.unsigned()
    form = 0
    if augmentation:
        size = cursor.unsigned()
        end = cursor.at + size
        for letter in augmentation[1:].decode("latin-1"):
            if letter == "R":
                form = cursor.number("B")
            elif letter == "L":
                cursor.skip(1)
            elif letter == "P":
                personality = cursor.number("B")
                # Only its size matters: what it counts from does not.
                cursor.pointer(personality & 0x0F)
            elif letter not in "SBG":
                raise FormatError(f"the unwind entry at {address:#x} has the unknown augmentation {letter!r}")
        if cursor.at > end:
            raise FormatError(f"the unwind entry at {address:#x} contradicts itself")
        cursor.skip(end - cursor.at)
    common = _Common(code_unit, data_unit, link, form, bool(augmentation), None, {})
    program = _Program(common)
    program.run(cursor, 0, 0)
    return common._replace(cfa=program.cfa, rules=program.rules)


class _Program:
    """The instructions of an entry, executed up to one address."""

    def __init__(self, common: _Common) -> None:
        self._common = common
        self.cfa = common.cfa
        self.rules = dict(common.rules)
        self._remembered: list[tuple[tuple[int, int] | None, dict[int, Rule]]] = []

    def run(self, cursor: _Cursor, location: int, pc: int) -> None:
        """The rules at `pc`, when the first instruction is for `location`. FormatError for an unknown operation."""
        while cursor.left:
            operation = cursor.number("B")
            high, low = operation & 0xC0, operation & 0x3F
            if high == 0x40:
                location += low * self._common.code_unit
            elif high == 0x80:
                self._put(low, Rule("at", cursor.unsigned() * self._common.data_unit))
            elif high == 0xC0:
                self._restore(low)
            elif operation == 0x01:  # DW_CFA_set_loc
                location = cursor.pointer(self._common.form)
            elif operation in _ADVANCES:
                location += cursor.number(_ADVANCES[operation]) * self._common.code_unit
            else:
                self._do(operation, cursor)
            if location > pc:
                return

    def _do(self, operation: int, cursor: _Cursor) -> None:
        """An operation that is no advance, by its number in DWARF 5, table 7.29."""
        unit = self._common.data_unit
        match operation:
            case (
                0x00 | 0x2D | 0x2C
            ):  # nop, AARCH64_negate_ra_state(_with_pc): signatures are removed from all addresses
                pass
            case 0x2E:  # GNU_args_size
                cursor.unsigned()
            case 0x05:  # offset_extended
                self._put(cursor.unsigned(), Rule("at", cursor.unsigned() * unit))
            case 0x11:  # offset_extended_sf
                self._put(cursor.unsigned(), Rule("at", cursor.signed() * unit))
            case 0x14:  # val_offset
                self._put(cursor.unsigned(), Rule("is", cursor.unsigned() * unit))
            case 0x15:  # val_offset_sf
                self._put(cursor.unsigned(), Rule("is", cursor.signed() * unit))
            case 0x06:  # restore_extended
                self._restore(cursor.unsigned())
            case 0x07:  # undefined
                self._put(cursor.unsigned(), UNDEFINED)
            case 0x08:  # same_value
                self._put(cursor.unsigned(), SAME)
            case 0x09:  # register
                self._put(cursor.unsigned(), Rule("register", cursor.unsigned()))
            case 0x10 | 0x16:  # expression, val_expression
                self._put(cursor.unsigned(), UNKNOWN)
                cursor.skip(cursor.unsigned())
            case 0x0A:  # remember_state
                if len(self._remembered) >= _MOST_REMEMBERED:
                    raise FormatError("an unwind entry remembers too much")
                self._remembered.append((self.cfa, dict(self.rules)))
            case 0x0B:  # restore_state
                if not self._remembered:
                    raise FormatError("an unwind entry restores what it does not remember")
                self.cfa, self.rules = self._remembered.pop()
            case 0x0C:  # def_cfa
                self.cfa = cursor.unsigned(), cursor.unsigned()
            case 0x12:  # def_cfa_sf
                self.cfa = cursor.unsigned(), cursor.signed() * unit
            case 0x0D:  # def_cfa_register
                self.cfa = cursor.unsigned(), self._offset()
            case 0x0E:  # def_cfa_offset
                self.cfa = self._register(), cursor.unsigned()
            case 0x13:  # def_cfa_offset_sf
                self.cfa = self._register(), cursor.signed() * unit
            case 0x0F:  # def_cfa_expression
                cursor.skip(cursor.unsigned())
                self.cfa = None
            case _:
                raise FormatError(f"an unwind entry has the unknown operation {operation:#x}")

    def _register(self) -> int:
        if self.cfa is None:
            raise FormatError("an unwind entry changes a frame address that it has not defined")
        return self.cfa[0]

    def _offset(self) -> int:
        if self.cfa is None:
            raise FormatError("an unwind entry changes a frame address that it has not defined")
        return self.cfa[1]

    def _put(self, register: int, rule: Rule) -> None:
        if register <= SP:
            self.rules[register] = rule

    def _restore(self, register: int) -> None:
        self.rules.pop(register, None)
        if register in self._common.rules:
            self.rules[register] = self._common.rules[register]


_ADVANCES = {0x02: "B", 0x03: "<H", 0x04: "<I"}
"""DW_CFA_advance_loc1, advance_loc2 and advance_loc4."""

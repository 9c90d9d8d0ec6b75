"""What unwind tables say, compared with what pyelftools makes of the same entries; and tables of garbage.

The tables are those of programs that gcc compiled, and of Debian's libc, which gcc and hands wrote.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from elftools.dwarf.callframe import FDE, RegisterRule
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from a64patch.errors import FormatError, ReadError
from a64patch.targets import unwinding
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.maps import Mapping, Maps
from a64patch.targets.unwinding import MOST_ENTRY, SP, Row, Rule, UnwindTable, UnwindTables
from tests.support import assemble, link, unavailable

LIBC = Path("/usr/aarch64-linux-gnu/lib/libc.so.6")
SLIDE = 0xFFFF8D000000
PAGE = 4096


class Loaded:
    """A file as a loader maps it."""

    def __init__(self, path: Path, slide: int) -> None:
        data = path.read_bytes()
        self.maps = Maps()
        self._pieces: list[tuple[int, bytes]] = []
        for each in ElfImage(data, str(path)).loads:
            start, offset = slide + (each.address & -PAGE), each.offset & -PAGE
            end = slide + (each.address + each.memory_size + PAGE - 1 & -PAGE)
            permissions = "r-xp" if each.flags & 1 else "rw-p" if each.flags & 2 else "r--p"
            self.maps = Maps([*self.maps, Mapping(start, end, permissions, offset, "fe:01", 7, str(path))])
            content = data[offset : each.offset + each.file_size]
            self._pieces.append((start, content.ljust(end - start, b"\0")))
        self.requests = 0

    def read(self, address: int, size: int) -> bytes:
        self.requests += 1
        for start, data in self._pieces:
            if start <= address < start + len(data):
                return data[address - start : address - start + size]
        raise ReadError(f"{address:#x} is not mapped")


def rule_of(rule: Any) -> Rule:
    """A rule of pyelftools as ours."""
    kinds = {
        RegisterRule.UNDEFINED: "undefined", RegisterRule.SAME_VALUE: "same", RegisterRule.OFFSET: "at",
        RegisterRule.VAL_OFFSET: "is", RegisterRule.REGISTER: "register", RegisterRule.EXPRESSION: "unknown",
        RegisterRule.VAL_EXPRESSION: "unknown",
    }  # fmt: skip
    kind: Any = kinds[rule.type]
    return Rule(kind, rule.arg if kind in ("at", "is", "register") else 0)


def test_each_row_of_debians_libc_is_what_pyelftools_makes_of_it() -> None:
    if not LIBC.exists():
        unavailable(f"{LIBC} is missing: install the Debian package libc6-dev-arm64-cross")
    loaded = Loaded(LIBC, SLIDE)
    tables = UnwindTables(loaded.maps, loaded.read)
    rows = asked = 0
    kinds: set[str] = set()
    links: set[int] = set()
    with LIBC.open("rb") as file:
        for entry in ELFFile(file).get_dwarf_info().EH_CFI_entries():
            if not isinstance(entry, FDE):
                continue
            start, size = entry["initial_location"], entry["address_range"]
            decoded = [line for line in entry.get_decoded().table if start <= line["pc"] < start + size]
            table = tables(SLIDE + start)
            assert table is not None
            for line, following in zip(decoded, [*decoded[1:], {"pc": start + size}], strict=True):
                cfa = line["cfa"]
                expected = {number: rule_of(rule) for number, rule in line.items() if number not in ("pc", "cfa")}
                expected = {number: rule for number, rule in expected.items() if number <= SP}
                for pc in {SLIDE + line["pc"], SLIDE + following["pc"] - 1}:
                    row = table.row(pc)
                    assert row is not None, hex(pc)
                    assert row[:2] == (SLIDE + start, SLIDE + start + size)
                    assert row.cfa == (None if cfa.expr is not None else (cfa.reg, cfa.offset)), hex(pc)
                    assert row.rules == expected, hex(pc)
                    kinds |= {rule.kind for rule in row.rules.values()}
                    links.add(row.link)
                    asked += 1
                rows += 1
    assert rows > 10000
    assert {"at", "undefined"} <= kinds
    assert {30} <= links <= {30, 15}, "rawmemchr of glibc 2.36 returns by x15"
    assert loaded.requests < 1.1 * asked, "one for an entry, few longer ones: the rest is kept"


SOURCE = """
.text
.globl _start
_start:
.cfi_startproc
nop
{rules}
nop
.cfi_endproc
after: nop
"""


def row_with(rules: str, path: Path) -> Row | None:
    """The rules at the second instruction of a function with these directives of GNU as."""
    objects = assemble(SOURCE.format(rules=rules), path / "a.o")
    loaded = Loaded(link(objects, path / "a", "--eh-frame-hdr"), 0)
    symbols = ElfImage((path / "a").read_bytes(), "a").symbols()
    [start] = [each.address for each in symbols if each.name == "_start"]
    table = UnwindTables(loaded.maps, loaded.read)(start + 4)
    assert table is not None
    assert table.row(start - 1) is None
    assert table.row(start + 8) is None
    first = table.row(start + 3)
    assert first is not None
    assert first[2:] == ((SP, 0), {}, 30)
    return table.row(start + 4)


@pytest.mark.parametrize(
    ("rules", "cfa", "expected"),
    [
        (".cfi_def_cfa x29, 16", (29, 16), {}),
        (".cfi_def_cfa_offset 0x12340", (SP, 0x12340), {}),
        (".cfi_def_cfa_register x9", (9, 0), {}),
        (".cfi_def_cfa_offset 32; .cfi_offset x30, -24; .cfi_offset x19, -32", (SP, 32),
         {30: Rule("at", -24), 19: Rule("at", -32)}),
        (".cfi_offset x19, 8; .cfi_val_offset x20, -8", (SP, 0), {19: Rule("at", 8), 20: Rule("is", -8)}),
        (".cfi_undefined x30", (SP, 0), {30: Rule("undefined")}),
        (".cfi_register x30, x19; .cfi_same_value x20", (SP, 0), {30: Rule("register", 19), 20: Rule("same")}),
        (".cfi_offset x30, -8; .cfi_restore x30", (SP, 0), {}),
        (".cfi_remember_state; .cfi_def_cfa x29, 16; .cfi_offset x30, -8; .cfi_restore_state", (SP, 0), {}),
        (".cfi_negate_ra_state; .cfi_offset x30, -8", (SP, 0), {30: Rule("at", -8)}),
        (".cfi_offset 72, -8; .cfi_offset 46, -16", (SP, 0), {}),
        (".cfi_escape 0x0f, 2, 0x8f, 0", None, {}),  # DW_CFA_def_cfa_expression: DW_OP_breg31 0
        (".cfi_escape 0x10, 30, 2, 0x8f, 0; .cfi_escape 0x16, 29, 2, 0x8f, 0", (SP, 0),
         {30: Rule("unknown"), 29: Rule("unknown")}),
        (".cfi_escape 0x13, 0x7e; .cfi_escape 0x12, 29, 0x7e", (29, 16), {}),  # the forms with a signed factor
        (".cfi_escape 0x11, 30, 1; .cfi_escape 0x15, 29, 1", (SP, 0), {30: Rule("at", -8), 29: Rule("is", -8)}),
        (".cfi_escape 0x2e, 8", (SP, 0), {}),  # DW_CFA_GNU_args_size
    ],
)  # fmt: skip
def test_each_directive_of_gnu_as_is_understood(
    rules: str, cfa: tuple[int, int] | None, expected: dict[int, Rule], tmp_path: Path
) -> None:
    row = row_with(rules, tmp_path)
    assert row is not None
    assert (row.cfa, row.rules) == (cfa, expected)


@pytest.mark.parametrize(
    "rules",
    [
        ".cfi_escape 0x3f", ".cfi_escape 0x0b", ".cfi_escape 0x0f, 0x7f",
        ".cfi_escape 0x0f, 1, 0x30; .cfi_def_cfa_offset 16", ".cfi_escape 0x0f, 1, 0x30; .cfi_def_cfa_register x29",
        ".rept 65; .cfi_remember_state; .endr",
    ],
)  # fmt: skip
def test_an_entry_that_contradicts_itself_is_refused(rules: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        row_with(rules, tmp_path)


@pytest.mark.parametrize(
    ("rules", "suits"),
    [
        ("ret", True), ("ret x15; .cfi_def_cfa_offset 16", True),
        (".cfi_def_cfa_offset 16; sub sp, sp, #16; add sp, sp, #16; ret", False),
        (".cfi_offset x30, -8; retaa", False), (".cfi_def_cfa x29, 0; retab", False),
        (".cfi_def_cfa_offset 16; nop; .cfi_def_cfa_offset 0; ret", True),
        (".cfi_register x30, x9; ret", False),
    ],
)  # fmt: skip
def test_a_ret_tells_whether_a_table_suits_each_instruction(rules: str, suits: bool, tmp_path: Path) -> None:
    objects = assemble(SOURCE.format(rules=f".arch armv8.3-a; {rules}"), tmp_path / "a.o")
    loaded = Loaded(link(objects, tmp_path / "a", "--eh-frame-hdr"), 0)
    tables = UnwindTables(loaded.maps, loaded.read)
    symbols = ElfImage((tmp_path / "a").read_bytes(), "a").symbols()
    [start] = [each.address for each in symbols if each.name == "_start"]
    table = tables(start)
    assert table is not None
    row = table.row(start)
    assert row is not None
    assert table.suits_each_instruction(row) == suits


def test_code_without_a_table_has_none(tmp_path: Path) -> None:
    program = link(assemble(".globl _start; _start: nop", tmp_path / "a.o"), tmp_path / "a")
    loaded = Loaded(program, 0)
    tables = UnwindTables(loaded.maps, loaded.read)
    assert tables(loaded.maps[0].start) is None
    assert tables(0) is None
    jit = UnwindTables(Maps([Mapping(0x1000, 0x2000, "rwxp")]), loaded.read)
    assert jit(0x1000) is None
    other = UnwindTables(Maps([Mapping(0x1000, 0x2000, "r-xp", 0x1000, "fe:01", 1, "/a")]), loaded.read)
    assert other(0x1000) is None


def test_a_file_that_is_no_elf_is_refused() -> None:
    for content in (b"", b"#!", b"\x7fELF\1\1".ljust(64, b"\0"), bytes(64)):
        tables = UnwindTables(Maps([Mapping(0x1000, 0x2000, "r-xp", 0, "fe:01", 1, "/a")]), lambda *_, c=content: c)
        with pytest.raises(FormatError):
            tables(0x1000)


USUAL_RULES = bytes([0x2C, 0x41, 0x0E, 32, 0x9E, 3, 0x9D, 1, 0x42, 0xDE, 0xDD, 0x0E, 0])
"""0x2C is DW_CFA_AARCH64_negate_ra_state_with_pc, which older linkers do not know."""


@given(
    st.integers(0, 1 << 64),
    st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=12)), max_size=8),
)  # fmt: skip
def test_garbage_in_a_table_is_refused_or_read(pc: int, damage: list[tuple[int, bytes]]) -> None:
    """A sound table, damaged here and there."""
    data = bytearray(sound_table())
    for at, junk in damage:
        data[at : at + len(junk)] = junk

    def read(address: int, size: int) -> bytes:
        if not 0x1000 <= address < 0x1000 + len(data):
            raise ReadError(f"{address:#x} is not mapped")
        return bytes(data[address - 0x1000 :][:size])

    table = UnwindTable(read, 0x1000, 20)
    for place in (0x2000, 0x2004, pc):
        try:
            row = table.row(place)
        except FormatError:
            continue
        assert row is None or row.start <= place < row.end


def sound_table(rules: bytes = USUAL_RULES) -> bytes:
    """An .eh_frame_hdr at 0x1000 with one function of 64 bytes at 0x2000, and its entries."""
    common = struct.pack("<IB4sBBBBB", 0, 1, b"zR\0\4", 0x78, 30, 1, 0x1B, 0x0C) + bytes([SP, 0, 0x9D, 2, 0])
    common = struct.pack("<I", len(common)) + common
    at = 0x1014 + len(common)
    entry = struct.pack("<IiIB", len(common) + 4, 0x2000 - at - 8, 64, 0) + rules
    entry = struct.pack("<I", len(entry)) + entry
    header = struct.pack("<4BiIii", 1, 0x1B, 3, 0x3B, 0x10, 1, 0x1000, at - 0x1000)
    return header + common + entry


def damaged(data: bytes) -> UnwindTable:
    return UnwindTable(lambda address, size: data[address - 0x1000 : address - 0x1000 + size], 0x1000, 20)


def test_the_sound_table_is_sound() -> None:
    """A restored register has again the rule that it has at the first instruction of each function."""
    table = damaged(sound_table())
    rows = [table.row(0x2000 + at) for at in (-1, 0, 4, 11, 12, 63, 64)]
    cfas = [row and (row.cfa, row.rules) for row in rows]
    first = ((SP, 0), {29: Rule("at", -16)})
    saved = ((SP, 32), {29: Rule("at", -8), 30: Rule("at", -24)})
    assert cfas == [None, first, saved, saved, first, first, None]


def test_a_number_of_any_length_stays_small() -> None:
    row = damaged(sound_table(bytes([0x0E]) + b"\xff" * 60000 + b"\x7f")).row(0x2000)
    assert row is not None
    assert row.cfa is not None
    assert row.cfa[1] < 1 << 70


def test_entries_that_take_long_are_refused_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unwinding, "MOST_OF_ALL_ENTRIES", 8 * MOST_ENTRY)
    table = damaged(sound_table(bytes(MOST_ENTRY - 100)))
    for pc in range(0x2000, 0x2008):
        assert table.row(pc) is not None
    with pytest.raises(FormatError, match="takes too long"):
        table.row(0x2008)
    assert table.row(0x2000) is not None, "this answer is kept"


@pytest.mark.parametrize("rules", [bytes([0x0E]), bytes([0x0E, 0x80]), bytes([0x04, 0, 0]), bytes([0x0F, 2, 0])])
def test_an_operation_that_its_entry_cuts_off_is_refused(rules: bytes) -> None:
    with pytest.raises(FormatError, match="ends too early"):
        damaged(sound_table(rules)).row(0x2000)


def test_an_entry_without_end_is_not_read() -> None:
    data = bytearray(sound_table())
    at = struct.unpack_from("<i", data, 16)[0]
    sizes = []
    for size in (MOST_ENTRY, 0xFFFFFFF0, 0xFFFFFFFF):
        struct.pack_into("<I", data, at, size)

        def read(address: int, size: int) -> bytes:
            sizes.append(size)
            return bytes(data[address - 0x1000 : address - 0x1000 + size])

        with pytest.raises(FormatError, match="impossible size"):
            UnwindTable(read, 0x1000, 20).row(0x2000)
    assert max(sizes) < MOST_ENTRY


def test_the_header_of_a_build_is_its_own(tmp_path: Path) -> None:
    """Another file may be mapped between its header and its code. The vDSO has no file."""
    program = link(assemble(SOURCE.format(rules=""), tmp_path / "a.o"), tmp_path / "a", "--eh-frame-hdr")
    data = program.read_bytes()
    text = 0x400000

    def read(address: int, size: int) -> bytes:
        if not text <= address < text + PAGE:
            raise ReadError(f"{address:#x} is not mapped")
        return data[address - text : address - text + size]

    own = Mapping(text, text + PAGE, "r-xp", 0, "fe:01", 1, "/a")
    between = Mapping(text + PAGE, text + 2 * PAGE, "r-xp", 0, "fe:01", 2, "/b")
    again = Mapping(text + 2 * PAGE, text + 3 * PAGE, "r-xp", PAGE, "fe:01", 1, "/a")
    assert UnwindTables(Maps([own, between, again]), read)(text + 2 * PAGE) is not None
    assert UnwindTables(Maps([Mapping(text, text + PAGE, "r-xp", path="[vdso]")]), read)(text) is not None

"""The list of modules in a memory that the test writes: sound, broken, hostile."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.a64.assembler import assemble
from a64patch.a64.words import to_bytes
from a64patch.errors import A64PatchError, FormatError, MappingError, SymbolError
from a64patch.kernel import hooks, pointers
from a64patch.kernel.loaded import Loaded, State, modules_of, symbols_of, tainted_by
from a64patch.kernel.rewrites import claims_on_loaded
from a64patch.kernel.structures import Structures, View, load_btf
from a64patch.ranges import Ranges
from a64patch.targets.base import Capabilities, Target
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.kernel.types import Writer

HEAD = 0xFFFF800009000000
MODULES = 0xFFFF800001000000
TEXT = 0xFFFF800002000000
TABLES = 0xFFFF800003000000
SIZE = 0x200
LIST, NAME, LAYOUT, INIT, KALLSYMS, TAINTS = 8, 24, 0x80, 0xC0, 0x100, 0x110


def structures(*, newest: bool = False) -> Structures:
    """The types: with two layouts, or (since 6.4) with an array of memories."""
    types = Writer()
    u32, u64, char = types.integer("u32", 4), types.integer("u64", 8), types.integer("char", 1)
    heads = types.structure("list_head", 16, [("next", u64, 0), ("prev", u64, 64)])
    layout = types.structure("module_layout", 24, [("base", u64, 0), ("size", u32, 64), ("text_size", u32, 96)])
    memory = types.structure("module_memory", 0x40, [("base", u64, 0), ("size", u32, 64)])
    places = (
        [("mem", types.array(memory, 2), 8 * LAYOUT)]
        if newest
        else [("core_layout", layout, 8 * LAYOUT), ("init_layout", layout, 8 * INIT)]
    )
    types.structure(
        "module", SIZE,
        [("state", u32, 0), ("list", heads, 8 * LIST), ("name", types.array(char, 56), 8 * NAME),
         ("kallsyms", u64, 8 * KALLSYMS), ("taints", u64, 8 * TAINTS), *places],
    )  # fmt: skip
    types.structure("mod_kallsyms", 32, [("symtab", u64, 0), ("num_symtab", u32, 64), ("strtab", u64, 128)])
    types.enumeration(
        "module_state",
        [("MODULE_STATE_LIVE", 0), ("MODULE_STATE_COMING", 1), ("MODULE_STATE_GOING", 2), ("MODULE_STATE_UNFORMED", 3)],
    )
    types.enumeration("mod_mem_type", [("MOD_TEXT", 0), ("MOD_INIT_TEXT", 1)])
    return Structures(types.bytes)


class Kernel(Target):
    """Bytes at some addresses."""

    capabilities = Capabilities("memory", 1, can_stop=True, can_kick=True, sees_pcs=True, broadcast=True)

    def __init__(self) -> None:
        self.parts: dict[int, bytearray] = {}
        self.reads = 0

    def put(self, address: int, data: bytes) -> None:
        for start, part in self.parts.items():
            if start <= address < start + len(part):
                part[address - start : address - start + len(data)] = data
                return
        self.parts[address] = bytearray(data)

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        for start, part in self.parts.items():
            if start <= address and address + size <= start + len(part):
                return bytes(part[address - start : address - start + size])
        raise MappingError(f"{address:#x} is not mapped")

    def write(self, address: int, data: bytes) -> None:
        raise NotImplementedError

    def publish(self, start: int, end: int) -> None:
        raise NotImplementedError

    def kick(self) -> None:
        raise NotImplementedError

    def stop(self) -> NoReturn:
        raise NotImplementedError

    def close(self) -> None:
        pass


def kernel(names: Sequence[str], states: Sequence[int] = (), *, newest: bool = False) -> Kernel:
    """A list of modules, each with 4 KiB of code and two names."""
    made = Kernel()
    places = [MODULES + 0x1000 * number for number in range(len(names))]
    ring = [HEAD, *(place + LIST for place in places)]
    made.put(HEAD, struct.pack("<QQ", ring[1 % len(ring)], ring[-1]))
    for number, (name, place) in enumerate(zip(names, places, strict=True)):
        made.put(place, bytes(SIZE))
        made.put(place, struct.pack("<I", states[number] if states else 0))
        made.put(place + LIST, struct.pack("<QQ", ring[(number + 2) % len(ring)], ring[number]))
        made.put(place + NAME, name.encode())
        base = TEXT + 0x10000 * number
        if newest:
            made.put(place + LAYOUT, struct.pack("<QI", base, 0x1000))
        else:
            made.put(place + LAYOUT, struct.pack("<QII", base, 0x3000, 0x1000))
        table = TABLES + 0x1000 * number
        made.put(place + KALLSYMS, struct.pack("<Q", table))
        strings = b"\0run\0table\0$x\0"
        rows = [(0, 0, 0, 0), (1, 2, base + 8, 16), (5, 1, base + 0x2000, 0), (11, 0, base, 0)]
        data = b"".join(
            struct.pack("<IBBHQQ", at, kind, 0, int(bool(at)), value, size) for at, kind, value, size in rows
        )
        made.put(table, struct.pack("<QIIQQ", table + 0x40, len(rows), 0, table + 0x40 + len(data), 0) + bytes(0x20))
        made.parts[table] = made.parts[table][:0x40] + bytearray(data + strings + bytes(512))
    return made


NAMES = SymbolTable(lambda: [Symbol("modules", HEAD, 16)])


@pytest.mark.parametrize("newest", [False, True])
def test_modules_with_their_code_and_names(newest: bool) -> None:
    machine, types = kernel(["ext4", "brd"], newest=newest), structures(newest=newest)
    found = modules_of(machine, types, NAMES)
    assert found == [
        Loaded(name, MODULES + 0x1000 * number, State.LIVE, Ranges(((base, base + 0x1000),)), Ranges(), 0)
        for number, name in enumerate(["ext4", "brd"])
        for base in [TEXT + 0x10000 * number]
    ]
    names = symbols_of(machine, types, found)
    base = TEXT + 0x10000
    assert names["brd"] == [
        Symbol("run", base + 8, 16, "brd", is_function=True, limit=base + 0x1000),
        Symbol("table", base + 0x2000, 0, "brd", limit=base + 0x2001),
    ]


def test_the_last_name_may_end_where_the_memory_ends() -> None:
    """The strings of a module may lie at the end of its last page; the name with the highest offset was cut short."""
    machine, types = kernel(["brd"]), structures()
    rows = machine.parts[TABLES]
    strings = bytes(rows[0x40 + 4 * 24 :]).rstrip(b"\0") + b"\0"
    end = TABLES + 0x10000
    data = strings.replace(b"$x\0", b"zz\0")
    machine.put(end - len(data), data)
    machine.put(TABLES + 16, struct.pack("<Q", end - len(data)))
    found = symbols_of(machine, types, modules_of(machine, types, NAMES))["brd"]
    assert [each.name for each in found] == ["run", "table", "zz"]


def test_a_module_that_has_no_place_yet_is_left_out() -> None:
    machine = kernel(["a", "b", "c", "d"], [0, 1, 2, 3])
    found = modules_of(machine, structures(), NAMES)
    assert [(each.name, each.state) for each in found] == [("a", State.LIVE), ("b", State.COMING), ("c", State.GOING)]


def test_an_empty_list() -> None:
    assert modules_of(kernel([]), structures(), NAMES) == []


@pytest.mark.parametrize(
    ("address", "data", "says"),
    [
        (MODULES + LIST, struct.pack("<Q", MODULES + LIST), "leads to"),
        (MODULES + LIST, struct.pack("<Q", 0x1234), "leads to 0x1234"),
        (MODULES + LIST, struct.pack("<Q", 0xFFFF_F000_0000_0000), "cannot be read"),
        (MODULES + LIST + 8, struct.pack("<Q", HEAD + 64), "is broken"),
        (MODULES + NAME, b"no name\n", "is no module"),
        (MODULES + NAME, bytes(8), "is no module"),
        (MODULES + LAYOUT, struct.pack("<Q", 8), "impossible code"),
        (MODULES + LAYOUT + 12, struct.pack("<I", 0xFFFFFFFF), "impossible code"),
    ],
)
def test_a_list_that_does_not_check_out_is_not_believed(address: int, data: bytes, says: str) -> None:
    machine = kernel(["ext4", "brd"])
    machine.put(address, data)
    with pytest.raises(FormatError, match=says):
        modules_of(machine, structures(), NAMES)


def test_a_list_without_end_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("a64patch.kernel.loaded.MOST_MODULES", 40)
    machine = kernel([f"m{number}" for number in range(60)])
    with pytest.raises(FormatError, match="leads to"):
        modules_of(machine, structures(), NAMES)
    assert machine.reads < 50


@given(st.lists(st.tuples(st.integers(0, SIZE - 8), st.binary(min_size=8, max_size=8)), min_size=1, max_size=6))
def test_hostile_structures_end_in_a_sentence(damage: list[tuple[int, bytes]]) -> None:
    machine, types = kernel(["ext4", "brd"]), structures()
    for offset, data in damage:
        machine.put(MODULES + offset, data)
        machine.put(TABLES + offset % 0x100, data)
    with suppress(A64PatchError):
        symbols_of(machine, types, modules_of(machine, types, NAMES))
    assert machine.reads < 1000


def test_the_head_of_the_list_from_the_code_that_forms_it() -> None:
    machine, code = kernel(["ext4"]), 0xFFFF800008000000
    page = HEAD - 0x1000
    text = f"paciasp; adrp x20, {page:#x}; add x20, x20, #0xf80; ldr x19, [x20, #0x80]!; ret"
    data = to_bytes(assemble(text, code))
    machine.put(code, data)
    names = SymbolTable(lambda: [Symbol("print_modules", code, len(data), is_function=True)])
    assert HEAD in pointers.formed_by(machine, "print_modules", names)
    assert [each.name for each in modules_of(machine, structures(), names)] == ["ext4"]
    with pytest.raises(SymbolError, match="the list of modules of this kernel was not found"):
        modules_of(machine, structures(), SymbolTable())


def test_an_empty_list_is_the_one_that_two_functions_form() -> None:
    machine, code, other = kernel([]), 0xFFFF800008000000, HEAD + 0x1000
    machine.put(other, struct.pack("<QQ", other, other))
    both = f"adrp x0, {HEAD:#x}; ldr x1, [x0]; adrp x2, {other:#x}; ldr x3, [x2]; ret"
    one = f"adrp x0, {HEAD:#x}; ldr x1, [x0]; ret"
    machine.put(code, to_bytes([*assemble(both, code), *assemble(one, code + 20)]))
    first = Symbol("print_modules", code, 20, is_function=True)
    second = Symbol("find_module_all", code + 20, 12, is_function=True)
    assert modules_of(machine, structures(), SymbolTable(lambda: [first, second])) == []
    with pytest.raises(SymbolError, match="was not found"):
        modules_of(machine, structures(), SymbolTable(lambda: [first]))


@pytest.mark.parametrize(
    ("text", "formed"),
    [
        ("adrp x0, 0x5000; add x0, x0, #0x10", [0x5010]),
        ("adrp x0, 0x5000; add x1, x0, #0x10; sub x2, x1, #8", [0x5010, 0x5008]),
        ("adr x3, 0x1010", [0x1010]),
        ("adrp x0, 0x5000; ldr w1, [x0, #0x10]", [0x5010]),
        ("adrp x0, 0x5000; stp x1, x2, [x0, #-16]!; ldr x3, [x0]", [0x4FF0]),
        ("adrp x0, 0x5000; ldr x1, [x0], #8; ldr x3, [x0]", [0x5000, 0x5008]),
        ("adrp x0, 0x5000; mov x1, x0; add x1, x1, #4", [0x5004]),
        ("adrp x0, 0x5000; mov x0, #1; add x0, x0, #4", []),
        ("adrp x0, 0x5000; bl 0x2000; add x0, x0, #4", []),
        ("adrp x19, 0x5000; bl 0x2000; add x0, x19, #4", [0x5004]),
        ("adrp x0, 0x5000; ldr x0, [x0]; add x0, x0, #4", [0x5000]),
    ],
)
def test_formed_addresses(text: str, formed: list[int]) -> None:
    assert pointers.formed(assemble(text, 0x1000), 0x1000) == formed


def test_bounds_of_a_table_from_code() -> None:
    code, table = 0x1000, 0x8000
    machine = Kernel()
    words = assemble("adrp x0, 0x8000; add x0, x0, #8; adrp x1, 0x8000; add x1, x1, #0x28; adr x2, 0x1000", code)
    machine.put(code, to_bytes(words))
    machine.put(table, bytes(0x100))
    machine.put(table + 8, bytes([1]) * 0x20)
    names = SymbolTable(lambda: [Symbol("search", code, 20, is_function=True)])
    wanted = ("__start", "__stop")

    def fits(data: bytes, at: int) -> bool:
        return set(data) == {1}

    assert pointers.bounds(machine.read, names, wanted, "search", fits) == (0x8008, 0x8028)
    with pytest.raises(SymbolError, match="neither __start nor the code of search"):
        pointers.bounds(machine.read, names, wanted, "search", lambda data, at: False)


@pytest.mark.parametrize(
    ("text", "at", "called"),
    [
        ("nop; nop; mov x9, x30; nop; ret", 4, None),
        ("nop; nop; mov x9, x30; bl 0x2000; ret", 4, 0x2000),
        ("nop; nop; bti c; mov x9, x30; nop", 8, None),
        ("nop; nop; paciasp; mov x9, x30; nop", -1, None),
        ("nop; nop; brk #4; nop; ret", 4, None),
        ("nop; nop; brk #4; bl 0x2000; ret", 4, 0x2000),
        ("nop; nop; brk #4; mov x9, x30; bl 0x2000", 8, 0x2000),
        ("nop; nop; bti c; brk #4; nop", 8, None),
        ("nop; nop; brk #4; ret; nop", -1, None),
        ("nop; nop; brk #0x800; nop; ret", -1, None),
        ("nop; nop; mov x9, x30; ret; nop", -1, None),
        ("nop; nop; nop; nop; ret", -1, None),
    ],
)
def test_the_words_of_ftrace(text: str, at: int, called: int | None) -> None:
    words = assemble(text, 0x0FF8)
    hook = hooks.hook_in(0x1000, words)
    assert (hook.at - 0x1000 if hook else -1) == at
    if hook:
        assert hook.called == called
        assert hook.words == Ranges(((0x1000 + at - 4, 0x1000 + at + 4),))


def test_the_pointer_before_a_function_belongs_to_ftrace_too() -> None:
    words = [0x09001000, 0xFFFF8000, *assemble("mov x9, x30; nop")]
    hook = hooks.hook_in(0x1000, words)
    assert hook is not None
    assert hook.operations == 0xFFFF800009001000
    assert hook.words == Ranges(((0x0FF8, 0x1008),))


def test_a_function_at_the_start_of_the_memory_has_nothing_before_it() -> None:
    machine = Kernel()
    machine.put(TEXT, to_bytes(assemble("mov x9, x30; nop; ret")))
    [hook] = hooks.hooks_of(machine, [TEXT, TEXT + 4, 0x99, TEXT + 0x1000])
    assert (hook.at, hook.operations) == (TEXT + 4, 0)


def test_answers_are_kept_for_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build, loads = "ab" * 20, []

    def load() -> bytes:
        types = Writer()
        types.structure("module", 8, [("state", types.integer("u32", 4), 0)])
        loads.append(1)
        return types.bytes()

    for _ in range(2):
        known = Structures(load, build)
        assert known.field("module.state").size == 4
        assert not known.has("module.none")
        known.save()
    assert len(loads) == 1
    kept = tmp_path / "a64patch/kallsyms" / f"{build}.structures"
    assert kept.stat().st_mode & 0o777 == 0o600
    for damage in (b"", b"garbage", kept.read_bytes()[:-1]):
        kept.write_bytes(damage)
        assert Structures(load, build).field("module.state").size == 4
    assert len(loads) == 4


def test_types_across_two_pieces_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("a64patch.kernel.structures._PIECE", 0x1000)
    types = Writer()
    types.structure("module", 8, [("state", types.integer("u32", 4), 0)])
    machine, data = Kernel(), types.bytes()
    machine.put(0x1000, bytes(0xFFE) + b"\x9f\xeb\x01\0" + bytes(0x7FA) + b"\0\0\0\0" + data + bytes(0x1000))
    at = bytes(machine.parts[0x1000]).index(data)
    machine.parts[0x1000] = machine.parts[0x1000][at - 0xFFE :]  # its magic lies over the end of the first piece
    assert load_btf(machine, 0x1000, 0x4000) == data
    with pytest.raises(FormatError, match="CONFIG_DEBUG_INFO_BTF"):
        load_btf(Kernel(), 0x1000, 0x4000)


def test_one_address_that_cannot_be_read_does_not_hide_the_others() -> None:
    machine = Kernel()
    machine.put(TEXT, b"abcdefgh")
    view = View(machine, structures())
    assert view.read([(TEXT, 4), (0x10, 4), (TEXT + 4, 4)]) == [b"abcd", None, b"efgh"]


@pytest.mark.parametrize("size", [0, 2, 20])
def test_entries_of_an_impossible_size_claim_the_whole_module(size: int) -> None:
    types = Writer()
    u32, u64 = types.integer("u32", 4), types.integer("u64", 8)
    types.structure("module", SIZE, [("jump_entries", u64, 0), ("num_jump_entries", u32, 64)])
    types.structure("jump_entry", size, [])
    machine, code = Kernel(), Ranges(((TEXT, TEXT + 0x1000),))
    machine.put(MODULES, struct.pack("<QI", TABLES, 2) + bytes(SIZE))
    machine.put(TABLES, bytes(64))
    loaded = Loaded("ext4", MODULES, State.LIVE, code, Ranges(), 0)
    claims = claims_on_loaded(View(machine, Structures(types.bytes)), loaded, code)
    [claim] = [claim for claim in claims if claim.of_build]
    assert (claim.words, claim.of_build) == (code, True)


def test_why_a_module_taints_the_kernel() -> None:
    def reasons(taints: int) -> list[str]:
        return tainted_by(Loaded("m", MODULES, State.LIVE, Ranges(), Ranges(), taints))

    assert reasons(0) == []
    assert reasons(1 << 12 | 1 << 13) == ["out of tree", "unsigned"]
    assert reasons(1 << 0 | 1 << 40) == ["proprietary", "bits 0x10000000000"]

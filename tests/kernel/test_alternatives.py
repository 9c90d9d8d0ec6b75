"""What a running kernel made of its alternatives, in a kernel that is linked here and whose memory the test changes."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from a64patch.a64.assembler import assemble as words_of
from a64patch.a64.words import from_bytes, to_bytes
from a64patch.errors import MappingError, SymbolError
from a64patch.kernel.alternatives import (
    Alternative,
    Read,
    linked_alternatives,
    loaded_alternatives,
    replacement,
    teller,
)
from a64patch.kernel.elf import KernelElf
from a64patch.kernel.loaded import Loaded, State, sections_of
from a64patch.kernel.structures import Structures, View
from a64patch.ranges import Ranges
from tests.kernel.running import RunningKernel
from tests.kernel.test_loaded import MODULES, TABLES, TEXT, Kernel
from tests.kernel.types import Writer
from tests.support import assemble, link

SOURCE = """
    .text
    .globl _start, f, callback, replacement, inner, outer
    .type f, %function
    .type callback, %function
_start: ret
f:  nop                     // one word
    nop                     // three words, with a branch within and one out of them
    nop
    nop
    nop                     // a callback's
    nop
    nop
    ret
    .size f, . - f
outer: ret
callback: ret
    .size callback, . - callback
    .p2align 12
    .skip 0x80
replacement: yield
inner: cbz x0, 1f
    bl outer
    adrp x1, outer
1:
    .section .altinstructions, "a"
    .globl __alt_instructions, __alt_instructions_end
__alt_instructions:
    .long f - ., replacement - .
    .short 7
    .byte 4, 4
    .long f + 4 - ., inner - .
    .short 9
    .byte 12, 12
    .long f + 16 - ., callback - .
    .short 0x8003
    .byte 4, 0
    .long f + 20 - ., 0
    .short 0
    .byte 0, 0
__alt_instructions_end:
"""
HOW = "is listed in .altinstructions: the kernel overwrites it at boot or load, if the CPU has or lacks some feature; "
BY_CALLBACK = "is listed in .altinstructions: callback overwrites it at boot or load; "


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return link(assemble(SOURCE, tmp_path / "vmlinux.o"), tmp_path / "vmlinux")


@pytest.fixture
def file(path: Path) -> Iterator[KernelElf]:
    with KernelElf(path) as opened:
        yield opened


def told(kernel: RunningKernel, file: KernelElf, *offsets: int, known: bool = True) -> list[str]:
    """The sentences on words of f."""

    def original(requests: Sequence[tuple[int, int]]) -> list[bytes | None]:
        return [file.read(at, size) for at, size in requests]

    read: Read | None = original if known else None
    tell = teller(kernel, file.alternatives, read)
    start = kernel.symbols["f"]
    said = tell([start + offset for offset in offsets])
    return [said.get(start + offset, "") for offset in offsets]


def test_the_entries_are_those_of_the_table(file: KernelElf) -> None:
    at = file.symbols
    assert file.alternatives() == [
        Alternative(at["f"], 4, at["replacement"], 4, 7),
        Alternative(at["f"] + 4, 12, at["inner"], 12, 9),
        Alternative(at["f"] + 16, 4, at["callback"], 0, 3),
    ]


def test_nothing_was_overwritten(path: Path, file: KernelElf) -> None:
    kernel = RunningKernel(path)
    assert told(kernel, file, 0, 4, 16, 24) == [
        f"{HOW}now it is the original",
        f"{HOW}now its 3 words are the original",
        f"{BY_CALLBACK}now it is the original",
        "",
    ]
    assert told(kernel, file, 0, 8, 16, known=False) == [
        f"{HOW}now it is not the replacement, and the original is not known here",
        f"{HOW}now its 3 words are not the replacement, and the original is not known here",
        f"{BY_CALLBACK}the original is not known here",
    ]


def test_all_was_overwritten(path: Path, file: KernelElf) -> None:
    kernel = RunningKernel(path)
    start, outer = kernel.symbols["f"], kernel.symbols["outer"]
    kernel.put("f", to_bytes(words_of("yield")))
    moved = words_of(f"cbz x0, .+12\nbl {outer:#x}\nadrp x1, {outer & -4096:#x}", start + 4)
    kernel.put("f", to_bytes([*moved, *words_of("isb")]), 4)
    for known in (True, False):
        assert told(kernel, file, 0, 4, 8, 12, known=known) == [
            f"{HOW}now it is the replacement",
            *[f"{HOW}now its 3 words are the replacement"] * 3,
        ]
    assert told(kernel, file, 16) == [f"{BY_CALLBACK}now it is not the original"]


def test_a_word_of_somebody_else(path: Path, file: KernelElf) -> None:
    """Half of a replacement is neither; nor are the words of the replacement as they stand where they come from."""
    kernel = RunningKernel(path)
    kernel.put("f", to_bytes(words_of("isb")))
    kernel.put("f", kernel.read(kernel.symbols["inner"], 12), 4)
    assert told(kernel, file, 0, 12) == [
        f"{HOW}now it is neither the original nor the replacement",
        f"{HOW}now its 3 words are neither the original nor the replacement",
    ]


def test_the_replacement_says_where_it_goes(path: Path, file: KernelElf) -> None:
    kernel = RunningKernel(path)
    distance = kernel.symbols["inner"] - kernel.symbols["f"]
    [said] = told(kernel, file, distance)
    assert said.startswith("is listed in .altinstructions: the kernel copies it over other code")


def test_words_that_cannot_be_read(path: Path, file: KernelElf, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = RunningKernel(path)

    def unreadable(address: int, size: int) -> bytes:
        raise MappingError("not mapped")

    monkeypatch.setattr(kernel, "read", unreadable)
    assert told(kernel, file, 0) == [f"{HOW}what it is now cannot be read"]


def test_a_literal_is_not_copied() -> None:
    assert replacement(words_of("ldr x0, .+8"), 0x1000, 0x40001000) is None
    assert replacement(words_of("nop\nb .+4"), 0x1000, 0x40001000) == words_of("nop\nb .+4"), "to its end"
    assert replacement(words_of("b .-4"), 0x1000, 0x2000) == words_of("b .-4100")


def test_an_entry_that_is_cut_off_is_left_out() -> None:
    whole = bytes.fromhex("00100000 00200000 0780 04 00".replace(" ", ""))
    assert linked_alternatives(whole + whole[:11], 0x8000) == [Alternative(0x9000, 4, 0xA004, 0, 7)]
    assert from_bytes(whole[:4]) == [0x1000]


ATTRIBUTES, NAMES = TABLES + 0x1000, TABLES + 0x2000
ENTRY = struct.Struct("<iiHBB")


def module_with(sections: dict[str, int], *, newest: bool) -> tuple[View, Loaded]:
    """A loaded module whose read-only data is from TABLES on, 512 bytes; its sections as the kernel keeps them.

    Since 6.14 an attribute keeps the address itself. Before, it was a part of a structure with the address behind it.
    """
    types, machine = Writer(), Kernel()
    u32, u64 = types.integer("u32", 4), types.integer("u64", 8)
    attribute = types.structure("attribute", 16, [("name", u64, 0)])
    binary = types.structure("bin_attribute", 32, [("attr", attribute, 0), ("private", u64, 8 * 24)])
    group = types.structure("attribute_group", 16, [("bin_attrs", u64, 64)])
    types.structure("module_sect_attrs", 16, [("grp", group, 0)])
    layout = types.structure("module_layout", 16, [("base", u64, 0), ("ro_size", u32, 64)])
    memory = types.structure("module_memory", 16, [("base", u64, 0), ("size", u32, 64)])
    parts = [("mem", types.array(memory, 2), 8 * 16)] if newest else [("core_layout", layout, 8 * 32)]
    types.structure("module", 64, [("sect_attrs", u64, 0), *parts])
    types.enumeration("mod_mem_type", [("MOD_TEXT", 0), ("MOD_RODATA", 1)])
    if not newest:
        types.structure("module_sect_attr", 40, [("battr", binary, 0), ("address", u64, 8 * 32)])
    machine.put(MODULES, struct.pack("<QQQQQI", ATTRIBUTES, 0, 0, 0, TABLES, 512) + bytes(20))
    machine.put(ATTRIBUTES, bytes(0x1000))
    machine.put(NAMES, bytes(0x1000))
    machine.put(ATTRIBUTES + 8, struct.pack("<Q", ATTRIBUTES + 16))
    for number, (name, address) in enumerate(sections.items()):
        at, text = ATTRIBUTES + 0x800 + 64 * number, NAMES + 64 * number
        machine.put(ATTRIBUTES + 16 + 8 * number, struct.pack("<Q", at))
        machine.put(at, struct.pack("<QQQQQ", text, 0, 0, address if newest else 0, address))
        machine.put(text, name.encode())
    machine.put(TABLES, bytes(512))
    return View(machine, Structures(types.bytes)), Loaded("m", MODULES, State.LIVE, Ranges(), Ranges(), 0)


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_the_table_of_a_loaded_module(newest: bool, last: bool) -> None:
    """It ends at the next section, or where the read-only data does; zeros behind it are padding."""
    sections = {".text": TEXT, ".altinstructions": TABLES + 8, ".init.text": TABLES + 0x100000}
    sections |= {} if last else {".rodata": TABLES + 48}
    view, module = module_with(sections, newest=newest)
    assert sections_of(view, module) == sections
    at = TABLES + 8
    table = [ENTRY.pack(TEXT - at, TEXT + 64 - at - 4, 5, 4, 4), ENTRY.pack(TEXT - at, TEXT - at, 0x8006, 8, 0)]
    assert isinstance(view.target, Kernel)
    view.target.put(at, b"".join(table))
    if not last:
        view.target.put(TABLES + 48, b"data")
    assert loaded_alternatives(view, module) == [
        Alternative(TEXT, 4, TEXT + 64, 4, 5),
        Alternative(TEXT + 12, 8, TEXT + 16, 0, 6),
    ]
    view.target.put(at + 10, b"\x05")
    assert loaded_alternatives(view, module) == [], "no whole words"


def test_a_module_without_sections_or_without_the_table() -> None:
    view, module = module_with({".text": TEXT}, newest=False)
    assert loaded_alternatives(view, module) == []
    outside, module = module_with({".altinstructions": TEXT}, newest=False)
    assert loaded_alternatives(outside, module) == []
    types = Writer()
    types.structure("module", 8, [])
    assert sections_of(View(view.target, Structures(types.bytes)), module) == {}


def test_a_table_with_impossible_sizes_is_not_believed(tmp_path: Path) -> None:
    broken = assemble(SOURCE.replace(".byte 12, 12", ".byte 12, 11"), tmp_path / "vmlinux.o")
    with KernelElf(link(broken, tmp_path / "vmlinux")) as opened, pytest.raises(SymbolError, match="is not sound"):
        opened.alternatives()
    assert replacement(words_of("b .-4"), 4, 1 << 64) is None, "no address"

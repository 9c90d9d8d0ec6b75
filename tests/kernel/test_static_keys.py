"""Static keys in modules, kernels and running kernels that are assembled here with their jump tables."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from a64patch.a64.generate import gen_branch_imm, gen_nop
from a64patch.a64.words import to_bytes
from a64patch.errors import A64PatchError, FormatError, SymbolError
from a64patch.kernel import static_keys
from a64patch.kernel.elf import KernelElf
from a64patch.kernel.rewrites import claims_on_kernel
from a64patch.kernel.static_keys import Key, read_keys
from a64patch.kernel.structures import Structures
from a64patch.ranges import Ranges
from tests.kernel.running import RunningKernel
from tests.kernel.types import Writer
from tests.support import assemble, link

TEXT = """
    .text
    .globl _start
    .type f, %function
    .type g, %function
    .type jump_label_text_reserved, %function
_start: ret
f:  nop                     // off
    b g                     // off, laid out for on
    b g                     // on
    nop                     // on, laid out for on
    nop                     // zero
    ret
    .size f, . - f
g:  ret
    .size g, . - g
"""
BOUNDS = """
jump_label_text_reserved:
    adrp x2, decoy
    add x2, x2, :lo12:decoy
    adrp x0, __start___jump_table
    adrp x1, __stop___jump_table
    add x0, x0, :lo12:__start___jump_table
    add x1, x1, :lo12:__stop___jump_table
    ret
    .size jump_label_text_reserved, . - jump_label_text_reserved
"""
DATA = """
    .data
    .p2align 3
    .type off, %object
    .type on, %object
    .type zero, %object
decoy: .quad 0
off: .long 0, 0
    .quad 0
    .size off, 16
holder: .quad 0
on: .long 1, 0
    .quad 1
    .size on, 16
    .size holder, . - holder
    .bss
    .p2align 3
    .skip 16
zero: .skip 16
    .size zero, 16
"""


def entry(code: str, key: str, flags: int = 0, to: str = "g") -> str:
    return f".long {code} - ., {to} - .\n.quad {key} + {flags} - .\n"


ENTRIES = (
    entry("f + 8", "on")
    + entry("f", "off")
    + entry("f + 4", "off", 1)
    + entry("f + 12", "on", 1)
    + entry("f + 16", "zero")
)


def table(entries: str) -> str:
    return (
        '.section __jump_table, "aw"\n.p2align 3\n.globl __start___jump_table, __stop___jump_table\n'
        f"__start___jump_table:\n{entries}__stop___jump_table:\n"
    )


def module(folder: Path, entries: str = ENTRIES, text: str = TEXT) -> Path:
    return assemble(text + table(entries) + DATA, folder / "module.ko")


def kernel(folder: Path, entries: str = ENTRIES, text: str = TEXT) -> Path:
    source = assemble(text + BOUNDS + table(entries) + DATA, folder / "vmlinux.o")
    return link(source, folder / "vmlinux", "-Ttext-segment=0xffff800008000000")


def by_name(keys: list[Key]) -> dict[str, Key]:
    assert len({key.name for key in keys}) == len(keys)
    return {key.name: key for key in keys}


EXPECTED = {
    # name: (on at first, [(offset from f, laid out for on)])
    "off": (False, [(0, False), (4, True)]),
    "on": (True, [(8, False), (12, True)]),
    "zero": (False, [(16, False)]),
}


@pytest.mark.parametrize("build", [module, kernel])
def test_the_keys_of_a_file(build: Callable[[Path], Path], tmp_path: Path) -> None:
    with KernelElf(build(tmp_path)) as file:
        keys = by_name(read_keys(file))
        f, g = file.symbols["f"], file.symbols["g"]
    assert keys.keys() == EXPECTED.keys()
    for name, (on, sites) in EXPECTED.items():
        key = keys[name]
        assert (key.on, key.initially, key.state) == (on, on, "on" if on else "off")
        assert [(site.address - f, site.branch) for site in key.sites] == sites
        assert all(site.target == g and site.known and not site.differs and not site.init for site in key.sites)
    assert (keys["zero"].address is None) == (build is module)


@pytest.mark.parametrize("build", [module, kernel])
def test_a_word_of_a_file_that_its_key_does_not_make(build: Callable[..., Path], tmp_path: Path) -> None:
    for old, new in (("nop                     // zero", "b g"), ("b g                     // on", "b _start")):
        assert old in TEXT
        with KernelElf(build(tmp_path, text=TEXT.replace(old, new))) as file:
            [key] = [key for key in read_keys(file) if key.differing]
            [site] = key.differing
            at = file.symbols["f"] + (16 if "zero" in old else 8)
            assert site.address == at
            assert site.predicted == (gen_nop() if "zero" in old else gen_branch_imm(at, file.symbols["g"]))


def test_keys_of_other_files_have_a_name_and_no_state(tmp_path: Path) -> None:
    with KernelElf(module(tmp_path, entry("f", "elsewhere") + entry("f + 4", "elsewhere + 8", 1))) as file:
        keys = by_name(read_keys(file))
    assert keys.keys() == {"elsewhere", "elsewhere+0x8"}
    for key in keys.values():
        assert (key.address, key.on, key.initially, key.state) == (None, None, None, "unknown")
        assert not key.sites[0].known
        assert not key.differing
    assert [keys[name].sites[0].branch for name in sorted(keys)] == [False, True]


def test_a_key_in_unnamed_memory_of_a_module_counts_from_its_section(tmp_path: Path) -> None:
    with KernelElf(module(tmp_path, entry("f", "zero - 16"))) as file:
        [key] = read_keys(file)
    assert (key.name, key.state) == (".bss:0x0", "off")


def test_entries_of_a_module_before_4_20(tmp_path: Path) -> None:
    with KernelElf(module(tmp_path, ".quad f + 8, g, on, f + 4, g, off + 1\n")) as file:
        assert [(key.name, [site.branch for site in key.sites]) for key in read_keys(file)] == [
            ("off", [True]), ("on", [False]),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (f"{ENTRIES}.quad 0\n", "cannot be read|whole number"),
        (entry("on", "on"), "cannot be read|names no code"),
        (entry("f + 2", "on"), "not sound"),
        (entry("f", "on", to="f + 1"), "not sound"),
    ],
)
@pytest.mark.parametrize("build", [module, kernel])
def test_a_table_that_is_not_sound(build: Callable[..., Path], tmp_path: Path, entries: str, message: str) -> None:
    with KernelElf(build(tmp_path, entries)) as file, pytest.raises(FormatError, match=message):
        read_keys(file)


def test_a_kernel_without_names_of_variables_has_its_table_in_its_code(tmp_path: Path) -> None:
    variables = {"off", "on", "zero", "holder", "decoy", *static_keys.BOUNDS}
    path = kernel(tmp_path)
    target = RunningKernel(path, variables)
    with KernelElf(path) as file:
        named = {file.symbols[key.name]: key for key in read_keys(file)}
    keys = read_keys(target)
    assert {key.address for key in keys} == {*named}
    for key in keys:
        assert key.address is not None
        assert key.name == f"{key.address:#x}"
        assert key.sites == named[key.address].sites


def test_without_that_code_no_table_is_guessed(tmp_path: Path) -> None:
    target = RunningKernel(kernel(tmp_path), {*static_keys.BOUNDS, "jump_label_text_reserved"})
    with pytest.raises(SymbolError):
        read_keys(target)
    entries = entry("on", "on") + entry("f", "off")
    target = RunningKernel(kernel(tmp_path, entries), static_keys.BOUNDS)
    with pytest.raises(SymbolError, match="says where the table is"):
        read_keys(target)


def test_a_running_kernel_is_judged_by_the_counters(tmp_path: Path) -> None:
    target = RunningKernel(kernel(tmp_path))
    assert not any(key.differing for key in read_keys(target))
    target.put_numbers("off", "i", 3)
    keys = by_name(read_keys(target))
    assert (keys["off"].enabled, keys["off"].state, keys["off"].initially) == (3, "on", False)
    assert [site.address - target.symbols["f"] for site in keys["off"].differing] == [0, 4]
    target.put("f", to_bytes([gen_branch_imm(target.symbols["f"], target.symbols["g"]), gen_nop()]))
    assert not any(key.differing for key in read_keys(target))


def test_a_key_that_is_being_switched_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = RunningKernel(kernel(tmp_path))
    target.put_numbers("off", "i", -1)
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            target.put_numbers("off", "i", 0)

    monkeypatch.setattr(time, "sleep", wait)
    keys = by_name(read_keys(target))
    assert (keys["off"].state, len(waits)) == ("off", 3)
    target.put_numbers("off", "i", -1)
    keys = by_name(read_keys(target))
    assert (keys["off"].state, keys["off"].on) == ("changing", True)
    assert len(keys["off"].differing) == 2  # static_key_enabled() counts -1 as on


def test_sites_in_freed_code_are_not_read(tmp_path: Path) -> None:
    text = TEXT.replace("f:", "    .globl __init_begin, __init_end\n__init_begin: nop\n    nop\n__init_end:\nf:")
    entries = entry("__init_begin", "off") + entry("__init_begin + 4", "on", 2) + entry("f + 20", "off", 2) + ENTRIES
    path = kernel(tmp_path, entries, text)
    with KernelElf(path) as file:
        [site] = [site for key in read_keys(file) for site in key.sites if site.address == file.symbols["f"] - 4]
        assert site.known
        assert site.init
    freed = Ranges(((file.symbols["__init_begin"], file.symbols["__init_end"]),))
    assert file.modules.main.code is not None
    target = RunningKernel(path, code=file.modules.main.code - freed)
    target.unmapped = freed
    sites = [site for key in read_keys(target) for site in key.sites]
    start, f = target.symbols["__init_begin"], target.symbols["f"]
    assert [site.address for site in sites if site.init] == [start, f + 20, start + 4]
    assert not any(site.known for site in sites if site.init)
    assert sum(site.known for site in sites) == 5


MODULE = """
    .data
    .p2align 3
module: .quad 0
    .quad its_table
    .long 2
    .p2align 3
its_table:
"""


def types() -> Structures:
    writer = Writer()
    number, pointer = writer.integer("unsigned int", 4), writer.pointer()
    writer.structure("module", 24, [("jump_entries", pointer, 64), ("num_jump_entries", number, 128)])
    return Structures(writer.bytes)


def test_loaded_modules_add_sites(tmp_path: Path) -> None:
    text = TEXT.replace("g:  ret", "h: nop\n    b g\n.size h, . - h\ng:  ret") + MODULE
    text += entry("h", "off") + entry("h + 4", "on")
    target = RunningKernel(kernel(tmp_path, text=text))
    symbols = target.symbols
    keys = by_name(read_keys(target, [("loaded", symbols["module"])], types()))
    for name, place in (("off", "h"), ("on", "h")):
        [site] = [site for site in keys[name].sites if site.module == "loaded"]
        assert site.address == symbols[place] + (4 if name == "on" else 0)
        assert site.known
        assert not site.differs
    target.put_numbers("module", "I", 1 << 30, offset=16)
    with pytest.raises(FormatError, match="module loaded has an impossible jump table"):
        read_keys(target, [("loaded", symbols["module"])], types())


def test_a_key_that_the_kernel_has_sealed(tmp_path: Path) -> None:
    target = RunningKernel(kernel(tmp_path))
    target.put_numbers("on", "Q", 3, offset=8)
    target.put_numbers("off", "Q", target.symbols["on"] | 2, offset=8)
    keys = by_name(read_keys(target))
    assert (keys["on"].sealed, keys["on"].linked, keys["on"].initially) == (True, True, True)
    assert (keys["off"].sealed, keys["off"].linked, keys["off"].pointer) == (False, True, target.symbols["on"])


@pytest.mark.parametrize("build", [module, kernel])
def test_a_word_tells_its_key_and_its_state(build: Callable[[Path], Path], tmp_path: Path) -> None:
    with KernelElf(build(tmp_path)) as file:
        [claim] = [claim for claim in file.modules.claims if claim.tell]
        f = file.symbols["f"]
        assert {at - f: sentence for at, sentence in claim.on(range(f, f + 24, 4)).items()} == {
            0: "is listed in __jump_table: static key off, at first off; would be b +0x18",
            4: "is listed in __jump_table: static key off, at first off; would be nop",
            8: "is listed in __jump_table: static key on, at first on; would be nop",
            12: "is listed in __jump_table: static key on, at first on; would be b +0xc",
            16: "is listed in __jump_table: static key zero, at first off; would be b +0x8",
        }


def test_a_word_of_a_running_kernel_tells_the_state_now(tmp_path: Path) -> None:
    target = RunningKernel(kernel(tmp_path))
    assert target.modules.main.code is not None
    claims = claims_on_kernel(target.read, target.symbols, target.modules.main.code, running=True)
    [claim] = [claim for claim in claims if claim.tell]
    f = target.symbols["f"]
    assert claim.on([f]) == {f: "is listed in __jump_table: static key off, now off; would be b +0x18"}
    target.put_numbers("off", "i", 2)
    assert claim.on([f, f + 20]) == {f: "is listed in __jump_table: static key off, now on; would be nop"}


@pytest.mark.parametrize("build", [module, kernel])
def test_a_damaged_file_is_read_or_refused(build: Callable[[Path], Path], tmp_path: Path) -> None:
    sound = build(tmp_path).read_bytes()
    chosen = random.Random(1)
    path = tmp_path / "damaged"
    for _ in range(300):
        damaged = bytearray(sound)
        for _ in range(chosen.randint(1, 4)):
            damaged[chosen.randrange(64, len(damaged))] = chosen.choice((0, 1, 2, 8, 0x7F, 0x80, 0xFF))
        path.write_bytes(damaged)
        with suppress(A64PatchError), KernelElf(path) as file:
            assert all(key.name for key in read_keys(file))
            assert all(claim.on([low]) for claim in file.modules.claims for low, _ in claim.words)


def test_a_damaged_table_in_memory_is_read_or_refused(tmp_path: Path) -> None:
    path = kernel(tmp_path)
    chosen = random.Random(1)
    for _ in range(300):
        target = RunningKernel(path)
        start, end = (target.symbols[name] for name in static_keys.BOUNDS)
        target.write(chosen.randrange(start, end - 8), struct.pack("<q", chosen.getrandbits(64) - (1 << 63)))
        with suppress(A64PatchError):
            assert all(key.name for key in read_keys(target))


def test_a_key_is_found_by_name_by_site_and_by_address(tmp_path: Path) -> None:
    text = DATA.replace(".type on, %object\n", "").replace("    .size on, 16\n", "").replace("on: .long", ".long")
    path = link(
        assemble(TEXT + BOUNDS + table(ENTRIES.replace("quad on", "quad holder + 8")) + text, tmp_path / "vmlinux.o"),
        tmp_path / "vmlinux",
    )
    with KernelElf(path) as file:
        keys = read_keys(file)
        place = file.symbols["holder"] + 8
        for name in ("holder+0x8", f"{place:#x}", f"{place}", "holder+8"):
            assert static_keys.find_key(keys, name, file.symbols).address == place
        for name, hint in (
            ("holder", r"no static key is at 'holder'; the nearest is holder\+0x8"),
            ("zerro", "there is no static key 'zerro'; the nearest is zero"),
            ("f", "no static key is at 'f'"),
            ("nothing:at all", "there is no static key"),
        ):
            with pytest.raises(SymbolError, match=hint):
                static_keys.find_key(keys, name, file.symbols)

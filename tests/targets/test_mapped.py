"""The builds in the mappings of a process: real ELF files, in memory as loaders leave them, and files that changed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from a64patch.a64.names import parse_site
from a64patch.errors import ReadError, SymbolError, TargetError
from a64patch.patch.hazards import NAMES
from a64patch.ranges import Ranges
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.mapped import MappedModule, modules_of
from a64patch.targets.maps import Mapping, Maps
from a64patch.targets.modules import Modules
from tests.support import assemble, calls_made_by, link, need, rounds, run
from tests.targets.elf_files import NOP, RET, build, header, program_headers, set_bytes, without_section_headers
from tests.targets.loading import Process

BASE = 0xAAAA_0000_0000
LIBRARY = 0xFFFF_8000_0000
MAIN = ("fe:01", 1)

EXPORTING = """
        .text
        .globl _start, exported
        .type _start, %function
_start: bl imported
        ret
        .size _start, . - _start
        .type exported, %function
exported:
        mov x0, #1
        .rept 62
        nop
        .endr
        ret
        .size exported, . - exported
        .type hidden, %function
hidden: nop
        ret
        .size hidden, . - hidden
        .word 0xdead
        .section .rodata, "a"
        .globl constant
constant:
        .xword 0x1122334455667788
        .data
        .xword exported
"""
VDSO = """
PHDRS { text PT_LOAD FLAGS(5) FILEHDR PHDRS; dynamic PT_DYNAMIC FLAGS(4); note PT_NOTE FLAGS(4); }
SECTIONS {
        . = SIZEOF_HEADERS;
        .hash : { *(.hash) } :text
        .gnu.hash : { *(.gnu.hash) }
        .dynsym : { *(.dynsym) }
        .dynstr : { *(.dynstr) }
        .note : { *(.note.*) } :text :note
        .dynamic : { *(.dynamic) } :text :dynamic
        .rela.dyn : { *(.rela*) } :text
        .got : { *(.got*) }
        .text : { *(.text) *(.plt) *(.rodata) }
}
"""
"""A linker script as for Linux' vDSO (arch/arm64/kernel/vdso/vdso.lds.S): all in one segment for reading and execution.
"""
IMPORTING = EXPORTING.replace("exported", "imported").replace("bl imported", "bl exported")


def library(folder: Path, *options: str, source: str = EXPORTING, name: str = "lib.so", endian: str = "-EL") -> bytes:
    made = assemble(source, folder / f"{name}.o", endian)
    return link(made, folder / name, endian, "-shared", *options).read_bytes()


def without_build_id(data: bytes) -> bytes:
    """The same file with a note of another type."""
    at = data.index(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0")
    return set_bytes(data, at + 8, "I", 9)


def modules(process: Process, main: tuple[str, int] | None = MAIN) -> Modules:
    return Modules(modules_of(process.maps, process.read, process.open_file, main=main))


def only(process: Process) -> MappedModule:
    [found] = modules(process)
    assert isinstance(found, MappedModule)
    return found


def moved(image: ElfImage, distance: int) -> dict[str, int]:
    return {symbol.name: symbol.address + distance for symbol in image.names(absolute=False)}


def addresses(module: MappedModule) -> dict[str, int]:
    return {symbol.name: symbol.address for symbol in module.symbols.ascending()}


@pytest.mark.parametrize("page", [4096, 65536])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    "options", [(), ("-z", "separate-code"), ("-z", "noseparate-code", "-z", "max-page-size=65536")]
)
@pytest.mark.parametrize("kind", ["exec", "pie", "shared"])
def test_a_loaded_file_is_a_module(tmp_path: Path, kind: str, options: tuple[str, ...], big: bool, page: int) -> None:
    data = build(tmp_path, kind, big, options=options).read_bytes()
    base = 0 if kind == "exec" else BASE
    process = Process()
    process.load(data, "/usr/bin/hello", base, page=page)
    found = only(process)
    image = ElfImage(data, "hello")
    assert (found.name, found.base) == ("hello", base)
    assert found.build_id == "00112233445566778899aabbccddeeff" == image.build_id
    assert found.code == process.maps.code
    assert found.code is not None
    assert all(found.code.covers(start + base, end + base) for start, end in image.code)
    assert addresses(found) == moved(image, base)
    assert {symbol.module for symbol in found.symbols.ascending()} == {"hello"}
    assert found.symbols.resolve("hello:_start+4") == found.symbols["_start"] + 4
    assert found.origin() == ("/usr/bin/hello", "")


def test_a_segment_that_begins_behind_the_headers_is_loaded_with_their_page(tmp_path: Path) -> None:
    data = build(tmp_path, "exec", options=("-N",)).read_bytes()
    assert ElfImage(data, "").loads[0].offset
    process = Process()
    process.load(data, "/bin/hello")
    found = only(process)
    assert (found.base, found.origin().file) == (0, "/bin/hello")
    assert addresses(found) == moved(ElfImage(data, ""), 0)


def test_a_symbol_outside_of_its_module_is_no_name(tmp_path: Path) -> None:
    data = library(tmp_path)
    [table] = [section for section in ElfImage(data, "").sections if section.type == 11]
    for at in range(table.offset, table.offset + table.size, 24):
        if struct.unpack_from("<Q", data, at + 8)[0] == moved(ElfImage(data, ""), 0)["exported"]:
            data = set_bytes(data, at + 8, "Q", 1 << 40)
    process = Process()
    process.load(data, "/lib/lib.so", LIBRARY)
    process.files.clear()
    assert {"_start", "constant"} <= addresses(only(process)).keys()
    assert "exported" not in addresses(only(process))


def test_no_file_is_opened_and_little_is_read_before_the_first_name(tmp_path: Path) -> None:
    data = library(tmp_path, "--build-id=sha1")
    process = Process()
    for number in range(20):
        process.load(data, f"/lib/lib{number}.so", LIBRARY + number * 0x10_0000, inode=number + 1)
    found = modules(process)
    assert len(found) == 20
    assert found.code
    claims = found.claims
    assert claims
    assert process.opened == []
    assert len(process.reads) == 20
    assert all(size <= 4096 for _, size in process.reads)
    module = found[3]
    assert module.symbols["exported"]
    assert [claim.on([module.base]) for claim in claims[6:8]] == [{}, {}]
    assert process.opened == ["/lib/lib3.so"]


def test_the_program_is_the_first_module(tmp_path: Path) -> None:
    data = library(tmp_path)
    process = Process()
    process.load(data, "/lib/a.so", LIBRARY, inode=7)
    process.load(data, "/bin/program", LIBRARY + 0x10_0000, inode=8)
    process.load(data, "/lib/b.so", LIBRARY + 0x20_0000, inode=9)
    process.map(BASE, NOP * 1024)
    names = [module.name for module in modules_of(process.maps, process.read, process.open_file, main=("fe:01", 8))]
    assert names == ["program", "a.so", "b.so", "JIT"]
    first, second, *_ = modules_of(process.maps, process.read, process.open_file, main=None, incarnation="3 of boot 1")
    assert (first.name, first.incarnation, second.incarnation) == ("a.so", "3 of boot 1", "")


def test_a_program_with_damaged_headers_is_still_the_first_module(tmp_path: Path) -> None:
    process = Process()
    process.load(library(tmp_path, "--build-id=sha1"), "/lib/lib.so", LIBRARY, inode=2)
    process.load(build(tmp_path, "exec").read_bytes(), "/bin/hello")
    process.write(process.maps[0].start, bytes(64))
    hello, lib = modules(process)
    assert (hello.name, hello.build_id, lib.name) == ("hello", "", "lib.so")
    assert hello.code == Ranges(((process.maps[0].start, process.maps[0].end),))
    assert not hello.symbols.ascending()


@pytest.mark.parametrize("style", ["sysv", "gnu", "both"])
@pytest.mark.parametrize("moves_dynamic", [False, True])
@pytest.mark.parametrize("endian", ["-EL", "-EB"])
@pytest.mark.parametrize("base", [LIBRARY, 0x1000])
def test_without_its_file_a_module_has_the_names_in_memory(
    tmp_path: Path, style: str, moves_dynamic: bool, endian: str, base: int
) -> None:
    data = library(tmp_path, f"--hash-style={style}", "-z", "now", endian=endian)
    process = Process()
    process.load(data, "/lib/lib.so", base, moves_dynamic=moves_dynamic)
    process.files.clear()
    found = only(process)
    expected = moved(ElfImage(without_section_headers(data), "lib.so"), base)
    assert {"_start", "exported", "constant", "imported@plt"} <= expected.keys()
    assert addresses(found) == expected
    assert found.origin() == ("", "its file cannot be read: its names come from memory")
    assert found.code == process.maps.code


def test_a_stripped_static_program_has_no_names(tmp_path: Path) -> None:
    path = build(tmp_path, "exec")
    run(need("aarch64-linux-gnu-strip", "binutils-aarch64-linux-gnu"), path)
    process = Process()
    process.load(path.read_bytes(), "/bin/hello")
    assert not only(process).symbols.ascending()
    process.files.clear()
    assert not only(process).symbols.ascending()


def test_a_file_of_another_build_does_not_count(tmp_path: Path) -> None:
    old = library(tmp_path, "--build-id=0x1111")
    new = library(tmp_path, "--build-id=0x2222", source=EXPORTING.replace(".rept 62", ".rept 61"))
    process = Process()
    process.load(old, "/lib/lib.so", LIBRARY)
    process.files["/lib/lib.so"] = new
    found = only(process)
    assert found.build_id == "1111"
    assert "hidden" not in addresses(found)
    assert addresses(found)["exported"] == LIBRARY + moved(ElfImage(old, ""), 0)["exported"]
    assert found.origin() == (
        "", "its file was replaced, and the new one is of another build: its names come from memory"
    )  # fmt: skip


def test_a_file_with_the_build_id_and_other_segments_does_not_count(tmp_path: Path) -> None:
    data = library(tmp_path, "--build-id=0x1111")
    other = library(tmp_path, "--build-id=0x1111", source=EXPORTING + ".xword 1, 2, 3")
    process = Process()
    process.load(data, "/lib/lib.so", LIBRARY)
    process.files["/lib/lib.so"] = other
    assert not only(process).origin().file


@pytest.mark.parametrize("damage", [b"", b"\x7fELF", b"#!/bin/sh\n" * 20])
def test_a_file_that_is_no_elf_file_now_does_not_count(tmp_path: Path, damage: bytes) -> None:
    process = Process()
    process.load(library(tmp_path), "/lib/lib.so", LIBRARY)
    process.files["/lib/lib.so"] = damage
    found = only(process)
    assert "exported" in addresses(found)
    assert found.origin() == (
        "", "its file is not the one that was loaded, or is not sound: its names come from memory"
    )  # fmt: skip


def test_an_error_when_the_file_is_opened_is_no_error_of_a_name(tmp_path: Path) -> None:
    process = Process()
    process.load(library(tmp_path), "/lib/lib.so", LIBRARY)

    def fail() -> None:
        raise TargetError("no permission")

    process.on_open = fail
    found = only(process)
    assert "exported" in addresses(found)
    assert found.origin().doubt == "its file cannot be read: its names come from memory"


@pytest.mark.parametrize("options", [(), ("-z", "separate-code")])
def test_without_a_build_id_the_bytes_decide(tmp_path: Path, options: tuple[str, ...]) -> None:
    data = library(tmp_path, *options)
    image = ElfImage(data, "")
    places = moved(image, LIBRARY)

    def counts(address: int, written: bytes) -> bool:
        process = Process()
        process.load(data, "/lib/lib.so", LIBRARY)
        process.write(address, written)
        return only(process).origin().file == "/lib/lib.so"

    assert not image.build_id
    assert counts(places["exported"], RET)
    assert counts(places["exported"], RET * 4)
    assert not counts(places["exported"], RET * 40)
    assert not counts(places["constant"], b"\x87")
    pointer = next(load.address for load in image.loads if load.flags & 2)
    assert counts(LIBRARY + pointer + 8, b"\x87")


def test_a_build_id_on_one_side_only_is_another_build(tmp_path: Path) -> None:
    data = library(tmp_path, "--build-id=sha1")
    process = Process()
    process.load(data, "/lib/lib.so", LIBRARY)
    process.files["/lib/lib.so"] = without_build_id(data)
    assert not only(process).origin().file
    process = Process()
    process.load(without_build_id(data), "/lib/lib.so", LIBRARY)
    process.files["/lib/lib.so"] = data
    assert not only(process).origin().file


def test_modules_of_one_name_get_numbers(tmp_path: Path) -> None:
    data = library(tmp_path, "--build-id=sha1")
    paths = [
        "/a/lib.so", "/b/lib.so", "/c/lib.so@2", "/d/lib.so", "/e/vdso", "/f/JIT", "/g/libstdc++.so.6", "/memfd:a b",
        "/h/new\nline\udcff", "/",
    ]  # fmt: skip
    process = Process()
    for number, path in enumerate(paths):
        process.load(data, path, LIBRARY + number * 0x10_0000, inode=number + 1)
    found = modules(process)
    assert [module.name for module in found] == [
        "lib.so", "lib.so@2", "lib.so@2@2", "lib.so@3", "vdso@2", "JIT@2", "libstdc++.so.6", "memfd:a b",
        r"new\nline\udcff", "unnamed",
    ]  # fmt: skip
    for site in ("lib.so:exported", "lib.so@2:exported", '"libstdc++.so.6":exported', '"memfd:a b":exported'):
        owner = parse_site(site)
        assert owner is not None
        [module] = [module for module in found if module.name == owner.owner]
        assert found.symbols.resolve(site) == module.symbols["exported"]
    for module in found:
        assert found.symbols.resolve(found.symbols.describe(module.symbols["exported"])) == module.symbols["exported"]


def test_a_file_mapped_twice_is_two_modules(tmp_path: Path) -> None:
    data = library(tmp_path, "-z", "separate-code")
    process = Process()
    process.load(data, "/lib/lib.so", LIBRARY)
    process.load(data, "/lib/lib.so", LIBRARY + 0x10_0000)
    first, second = modules(process)
    assert (first.name, first.base, second.name, second.base) == ("lib.so", LIBRARY, "lib.so@2", LIBRARY + 0x10_0000)
    assert first.code is not None
    assert second.code == Ranges.of((start + 0x10_0000, end + 0x10_0000) for start, end in first.code)
    assert first.code | (second.code or Ranges()) == process.maps.code


def test_a_file_mapped_for_reading_is_no_module(tmp_path: Path) -> None:
    data = library(tmp_path, "-z", "separate-code")
    process = Process()
    process.load(data, "/lib/lib.so", LIBRARY)
    process.map(BASE, data.ljust(-(-len(data) // 4096) * 4096, b"\0"), "r--p", "/lib/lib.so", 1)
    assert only(process).base == LIBRARY


def test_a_name_of_several_modules_is_refused_with_the_sites_that_tell_them_apart(tmp_path: Path) -> None:
    process = Process()
    process.load(library(tmp_path, "-z", "now", source=IMPORTING), "/bin/hello", BASE, inode=1)
    process.load(library(tmp_path, "-z", "now"), "/lib/lib.so", LIBRARY, inode=2)
    symbols = modules(process).symbols
    assert symbols.named("exported@plt")
    assert symbols["exported"] == symbols.resolve("lib.so:exported")
    assert symbols["_start"] == symbols.resolve("hello:_start") != symbols.resolve("lib.so:_start"), "the first's own"
    process.load(library(tmp_path, "-z", "now"), "/lib/other.so", LIBRARY + 0x100000, inode=3)
    symbols = modules(process).symbols
    with pytest.raises(SymbolError) as error:
        symbols.resolve("exported")
    assert f"{symbols.resolve('lib.so:exported'):#x} is lib.so:exported" in str(error.value)
    assert f"{symbols.resolve('other.so:exported'):#x} is other.so:exported" in str(error.value)
    assert symbols.describe(symbols.resolve("hello:_start")) == "_start"
    assert symbols.describe(symbols["imported"]) == "imported"


def test_other_executable_memory_is_one_module(tmp_path: Path) -> None:
    process = Process()
    process.load(build(tmp_path, "exec").read_bytes(), "/bin/hello")
    process.map(BASE, NOP * 1024, "rwxp")
    process.map(BASE + 0x10000, NOP * 1024, "r-xs", "/memfd:jit", 5)
    process.map(BASE + 0x20000, b"\x7fELF".ljust(4096, b"\xff"), "r-xp", "/tmp/garbage", 6)
    process.map(BASE + 0x30000, NOP * 1024, "rw-p")
    hello, jit = modules(process)
    assert (jit.name, jit.shares_code, jit.build_id, jit.base) == ("JIT", True, "", 0)
    assert jit.code == Ranges.of((BASE + at, BASE + at + 4096) for at in (0, 0x10000, 0x20000))
    assert not jit.symbols.ascending()
    assert hello.code == process.maps.code - (jit.code or Ranges())


def test_code_that_was_copied_to_other_pages_stays_its_module(tmp_path: Path) -> None:
    data = build(tmp_path, "pie", options=("-z", "separate-code")).read_bytes()
    process = Process()
    process.load(data, "/bin/hello", BASE)
    [text] = [mapping for mapping in process.maps if mapping.executable]
    content = process.read(text.start, text.end - text.start)
    process.unmap(text.start)
    process.map(text.start, content + NOP * 1024)
    hello, jit = modules(process)
    assert hello.code == Ranges(((text.start, text.end),))
    assert jit.code == Ranges(((text.end, text.end + 4096),))
    assert hello.symbols["_start"] in hello.code


def test_the_vdso_is_a_module_without_a_file(tmp_path: Path) -> None:
    script = tmp_path / "vdso.ld"
    script.write_text(VDSO, "ascii")
    data = library(tmp_path, "--build-id=0x77", "-T", str(script), source=EXPORTING.partition(".data")[0])
    process = Process()
    process.load(build(tmp_path, "exec").read_bytes(), "/bin/hello")
    process.map(LIBRARY, data.ljust(-(-len(data) // 4096) * 4096 + 4096, b"\0"), path="[vdso]")
    vdso = modules(process)[1]
    assert vdso.code == Ranges(((LIBRARY, process.maps[-1].end),))
    assert isinstance(vdso, MappedModule)
    assert (vdso.name, vdso.build_id, vdso.base) == ("vdso", "77", LIBRARY)
    assert vdso.symbols["exported"] == LIBRARY + moved(ElfImage(data, ""), 0)["exported"]
    assert vdso.origin() == ("", "")
    assert process.opened == []


def test_constants_in_executable_memory_are_claimed_as_data(tmp_path: Path) -> None:
    source = EXPORTING.replace(".word 0xdead", "pool: .word 0xdead")
    data = library(tmp_path, source=source)
    process = Process()
    process.load(data, "/lib/lib.so", LIBRARY)
    found = only(process)
    claim = next(iter(found.claims()))
    places = addresses(found)
    assert claim.hazard == "data"
    assert found.code is not None
    assert places["constant"] in found.code
    wanted = [places[name] for name in ("exported", "pool", "hidden", "constant")]
    assert list(claim.on(wanted)) == [places["pool"], places["constant"]]
    assert list(claim.on([LIBRARY, found.code.spans[0][1] - 4])) == []


@pytest.mark.parametrize("with_file", [False, True])
def test_a_function_that_the_loader_called_to_choose_another_is_claimed(tmp_path: Path, with_file: bool) -> None:
    source = EXPORTING.replace(".type exported, %function", ".type exported, %gnu_indirect_function")
    process = Process()
    process.load(library(tmp_path, source=source), "/lib/lib.so", LIBRARY)
    if not with_file:
        process.files.clear()
    found = only(process)
    start, end = found.symbols.extent(found.symbols["exported"]) or (0, 0)
    told = [(claim.hazard, [*claim.on([start - 4, start, end - 4, end])]) for claim in found.claims()]
    assert told == [("data", []), ("resolver", [start, end - 4])]
    assert {claim.hazard for claim in found.claims()} <= NAMES.keys()


def test_code_in_the_room_behind_a_segment_is_code(tmp_path: Path) -> None:
    process = Process()
    process.load(library(tmp_path), "/lib/lib.so", LIBRARY)
    found = only(process)
    assert found.code is not None
    end = found.code.spans[0][1]
    assert end % 4096 == 0
    assert end - 4 in found.code


@pytest.mark.parametrize("hole", [0, 1, 2])
def test_memory_that_cannot_be_read_is_passed_over(tmp_path: Path, hole: int) -> None:
    data = library(tmp_path, "-z", "separate-code")
    process = Process()
    process.load(data, "/lib/lib.so", LIBRARY)
    process.files.clear()
    broken = process.maps[hole]

    def read(address: int, size: int) -> bytes:
        if address < broken.end and broken.start < address + size:
            raise ReadError(f"{address:#x} cannot be read")
        return process.read(address, size)

    found = Modules(modules_of(process.maps, read, process.open_file, main=MAIN))
    assert found.code == process.maps.code
    assert bool(found.symbols.ascending()) == (hole != 0)


def ask(process: Process) -> None:
    """Ask for all that modules tell. No error may come, and each executable address must be code of a module."""
    found = modules(process)
    assert found.code == process.maps.code
    assert len({module.name for module in found}) == len(found)
    for module in found:
        for symbol in module.symbols.ascending():
            assert 0 <= symbol.address < 1 << 64
        for claim in module.claims():
            claim.on([start for start, _ in module.code or ()])
        assert isinstance(module, MappedModule)
        module.origin()
    found.symbols.ascending()


NUMBERS = st.sampled_from(
    (0, 1, 2, 3, 4, 56, 64, 0xFFFF, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 1)
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("sound")
    files = [build(folder, kind, big).read_bytes() for kind in ("exec", "pie", "shared") for big in (False, True)]
    return files + [library(folder, f"--hash-style={style}", "-z", "now") for style in ("sysv", "gnu")]


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=rounds(4_000, 150), deadline=None)
def test_damaged_headers_in_memory_and_in_files_are_no_error(sound: list[bytes], data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(sound))
    base = 0 if header(content)[0] == 2 else BASE
    process = Process()
    process.load(content, "/bin/hello", base, moves_dynamic=data.draw(st.booleans()))
    process.load(sound[-1], "/lib/lib.so", LIBRARY, inode=2)
    places = [*range(0, 64 + 56 * header(content)[9], 4)]
    for _, fields in program_headers(content):
        places += range(fields[2], fields[2] + fields[5], 8) if fields[0] == 2 else ()
    first = min(fields[3] - fields[2] for _, fields in program_headers(content) if fields[0] == 1) + base
    in_file = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        place, size = data.draw(st.sampled_from(places)), data.draw(st.sampled_from((2, 4, 8)))
        new = (data.draw(NUMBERS) % (1 << 8 * size)).to_bytes(size, "little" if content[5] == 1 else "big")
        if data.draw(st.booleans()):
            in_file[place : place + size] = new
        elif process.maps.at(first + place) is not None:
            process.write(first + place, new)
    process.files["/bin/hello"] = bytes(in_file)
    if data.draw(st.booleans()):
        process.files.clear()
    ask(process)


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 3), st.sampled_from(("r-xp", "r--p", "rwxp")), st.integers(0, 2)),
        unique_by=lambda each: each[0],
        max_size=8,
    ),
    st.data(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=rounds(4_000, 60), deadline=None)
def test_any_mappings_of_pieces_of_a_file_are_no_error(
    sound: list[bytes], pieces: list[tuple[int, int, str, int]], data: st.DataObject
) -> None:
    process = Process()
    end = 0
    for at, pages, permissions, inode in sorted(pieces):
        content = data.draw(st.sampled_from(sound))
        offset = data.draw(st.integers(0, 3)) * 4096
        start = max(BASE + at * 4096, end)
        end = start + pages * 4096
        process.map(
            start, content[offset : offset + pages * 4096].ljust(pages * 4096, b"\0"), permissions, "/x", inode, offset
        )
    ask(process)


def test_garbage_that_claims_everything_is_bounded() -> None:
    """Thousands of mappings begin with headers. All claim code at one place, or all addresses for code."""
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 3, 183, 1, 0, 64, 0, 0, 64, 56, 6, 0, 0, 0)
    count, place = 1000, BASE << 1

    def everything(_: int) -> bytes:
        return head + struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 0, 1 << 46, 1) * 6

    def one_place(address: int) -> bytes:
        first = struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, 0, 1, 1)
        return head + first + struct.pack("<IIQQQQQQ", 1, 5, 0, place - address, 0, 0, 1, 1) * 5

    for content in everything, one_place:
        maps = Maps(
            Mapping(start, start + 4096, "r-xp", max(start - place, 0), "fe:01", 1, "/x")
            for base in (BASE, place + 4096)
            for start in range(base, base + count * 8192, 8192)
        )

        def read(address: int, size: int, content: Callable[[int], bytes] = content) -> bytes:
            return content(address)[:size].ljust(size, b"\0")

        made = partial(modules_of, maps, read, lambda _: None, main=None)
        assert calls_made_by(made) < 1000 * count

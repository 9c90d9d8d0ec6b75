"""The builds in real processes: qemu-aarch64 loads programs as Linux does, and glibc's ld.so loads their libraries.

The programs write their own mappings and memory to a file, and where dl_iterate_phdr and dlsym of glibc see things.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from a64patch.errors import MappingError
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.mapped import MappedModule, modules_of
from a64patch.targets.maps import Mapping, Maps, parse_maps
from a64patch.targets.modules import Modules
from tests.support import need, run

ROOT = Path("/usr/aarch64-linux-gnu")
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int tell(struct dl_phdr_info *info, size_t size, void *data) {
    const char *name = strrchr(info->dlpi_name, '/');
    printf("base %s %lx\n", name ? name + 1 : *info->dlpi_name ? info->dlpi_name : "program", (long)info->dlpi_addr);
    return 0;
}

int main(int argc, char **argv) {
    static char text[1 << 16];
    FILE *maps = fopen("/proc/self/maps", "r"), *out = fopen(argv[1], "w");
    size_t length = fread(text, 1, sizeof text - 1, maps);
    dl_iterate_phdr(tell, 0);
    printf("name main %lx\n", (long)main);
#ifndef STATIC
    for (int number = 2; number < argc; number++)
        printf("name %s %lx\n", argv[number], (long)dlsym(RTLD_DEFAULT, argv[number]));
#endif
    fwrite(text, 1, sizeof text, out);
    for (char *line = strtok(text, "\n"); line; line = strtok(0, "\n")) {
        unsigned long start, end;
        char rights[8] = "";
        if (sscanf(line, "%lx-%lx %4s", &start, &end, rights) == 3 && *rights == 'r' && !strstr(line, "[vvar]")) {
            fwrite(&start, sizeof start, 1, out);
            fwrite(&end, sizeof end, 1, out);
            fwrite((char *)start, 1, end - start, out);
        }
    }
    fclose(out);
    return 0;
}
"""
KINDS = {
    "pie": (),
    "no-pie": ("-no-pie", "-fno-pie"),
    "separate-code": ("-Wl,-z,separate-code",),
    "no-build-id": ("-Wl,--build-id=none",),
    "stripped": ("-s",),
    "static": ("-static", "-DSTATIC"),
    "static-pie": ("-static-pie", "-DSTATIC"),
}
IN_LIBC = ("malloc", "printf", "qsort", "getenv", "pthread_kill", "fmemopen")


class Told(NamedTuple):
    """What a process told about itself."""

    maps: Maps
    memory: dict[int, bytes]
    bases: dict[str, int]
    names: dict[str, int]

    def read(self, address: int, size: int) -> bytes:
        for start, data in self.memory.items():
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise MappingError(f"{address:#x} is not mapped")


def told_by(
    folder: Path, options: tuple[str, ...], *names: str, change: Callable[[Path], object] = lambda program: None
) -> Told:
    (folder / "program.c").write_text(SOURCE, "ascii")
    gcc = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    run(gcc, "-O1", *options, folder / "program.c", "-o", folder / "program", "-ldl")
    change(folder / "program")
    qemu = need("qemu-aarch64", "qemu-user")
    said = run(qemu, "-L", ROOT, folder / "program", folder / "out", *(names or IN_LIBC))
    lines = [line.split() for line in said.splitlines()]
    found = {kind: {name: int(number, 16) for each, name, number in lines if each == kind} for kind in ("base", "name")}
    data = (folder / "out").read_bytes()
    memory, place = {}, 1 << 16
    while place < len(data):
        start, end = struct.unpack_from("<QQ", data, place)
        memory[start] = data[place + 16 : place + 16 + end - start]
        place += 16 + end - start
    return Told(parse_maps(data[: 1 << 16].rstrip(b"\0")), memory, found["base"], found["name"])


def open_file(mapping: Mapping) -> bytes | None:
    return Path(mapping.path).read_bytes()


def modules(told: Told, folder: Path, *, with_files: bool = True) -> Modules:
    [main] = {mapping.file for mapping in told.maps if mapping.path == str(folder / "program")}
    return Modules(modules_of(told.maps, told.read, open_file if with_files else lambda _: None, main=main))


def with_a_new_segment(program: Path) -> None:
    with ElfFile(program) as file:
        main = file.symbols["main"]
        file.allocate(file.find_room(1 << 17, (main, main)))
        file.publish(0, 0)


@pytest.mark.parametrize(
    "options", [(), ("-no-pie", "-fno-pie"), ("-static", "-DSTATIC")], ids=["pie", "exec", "static"]
)
def test_a_program_whose_headers_are_in_a_new_segment(tmp_path: Path, options: tuple[str, ...]) -> None:
    told = told_by(tmp_path, options, change=with_a_new_segment)
    found = modules(told, tmp_path).main
    with ElfFile(tmp_path / "program") as file:
        [room] = file.rooms()
        assert found.build_id == file.build_id != ""
        assert found.symbols["main"] == file.symbols["main"] + found.base
    assert found.code is not None
    assert found.code.covers(room.address + found.base, room.end + found.base)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_bases_and_names_are_those_that_the_loader_tells(tmp_path: Path, options: tuple[str, ...]) -> None:
    told = told_by(tmp_path, options)
    found = modules(told, tmp_path)
    by_name = {module.name: module for module in found}
    assert found.main.name == "program"
    assert found.code == told.maps.code
    bases = {name: base for name, base in told.bases.items() if "vdso" not in name}
    assert {name: by_name[name].base for name in bases} == bases
    assert len(bases) == (1 if "-DSTATIC" in options else 3)
    for module in found:
        if module.name in bases:
            assert isinstance(module, MappedModule)
            assert Path(module.origin().file).name == module.name
            image = ElfImage(Path(module.origin().file).read_bytes(), module.name)
            assert module.build_id == image.build_id
    if any(mapping.path == "[vdso]" for mapping in told.maps):  # QEMU has one from 8.2 on
        assert by_name["vdso"].code is not None
        assert by_name["vdso"].symbols["__kernel_rt_sigreturn"] in by_name["vdso"].code
    if "-s" not in options:
        assert found.symbols.resolve("program:main") == found.symbols["main"] == told.names["main"]
    for name in IN_LIBC if "-DSTATIC" not in options else ():
        assert found.symbols.resolve(f"libc.so.6:{name}") == found.symbols[name] == told.names[name]


def test_memcpy_of_glibc_only_chooses_another_function(tmp_path: Path) -> None:
    told = told_by(tmp_path, (), "memcpy", "malloc")
    found = modules(told, tmp_path)
    memcpy, malloc = (found.symbols.resolve(f"libc.so.6:{name}") for name in ("memcpy", "malloc"))
    assert memcpy != told.names["memcpy"]
    assert malloc == told.names["malloc"]
    on_both = {claim.hazard: list(claim.on([memcpy, malloc])) for claim in found.claims if malloc in claim.words}
    assert on_both == {"data": [], "resolver": [memcpy]}


@pytest.mark.parametrize("kind", ["pie", "no-pie", "separate-code"])
def test_names_in_memory_are_those_that_the_loader_tells(tmp_path: Path, kind: str) -> None:
    told = told_by(tmp_path, KINDS[kind])
    found = modules(told, tmp_path, with_files=False)
    for name in IN_LIBC:
        assert found.symbols.resolve(f"libc.so.6:{name}") == told.names[name]
    [libc] = [module for module in found if module.name == "libc.so.6"]
    [path] = {mapping.path for mapping in told.maps if mapping.path.endswith("/libc.so.6")}
    image = ElfImage(Path(path).read_bytes(), path)
    expected = {(symbol.name, symbol.address + libc.base) for symbol in image.symbols(absolute=False)}
    in_memory = {(symbol.name, symbol.address) for symbol in libc.symbols.ascending()}
    assert len(expected) > 2000
    assert expected <= in_memory
    assert {name for name, _ in in_memory - expected} == {
        name for name, _ in {(each.name, 0) for each in image.names(absolute=False)} if name.endswith("@plt")
    }

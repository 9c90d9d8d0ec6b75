"""Names for the stubs of imported functions, in programs that gcc and GNU ld made; objdump is the judge.

Each judge errs somewhere:
- GNU objdump 2.44 takes the stubs of GNU ld 2.44 for 16 bytes long in a position-independent program with BTI; they
  have 24.
- llvm-objdump 14 looks for slots in .got.plt only; with `-z now` GNU ld has them in .got.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from a64patch.a64.assembler import assemble_one
from a64patch.a64.words import to_bytes
from a64patch.errors import SymbolError
from a64patch.targets.elf import ElfFile
from tests.support import assemble, link, need, run
from tests.targets.elf_files import header, program_headers, section_headers, set_bytes

PROGRAM = r"""
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
int main(int count, char **words) {
    if (count > 5) abort();
    puts("hello");
    return strcmp(words[0], "a") > 1000;
}
"""
FORMS = {
    "lazy": ("-Wl,-z,lazy",),
    "now": ("-Wl,-z,now",),
    "bti": ("-Wl,-z,force-bti",),
    "pac": ("-Wl,-z,pac-plt",),
    "both": ("-Wl,-z,force-bti,-z,pac-plt",),
    "at fixed addresses": ("-no-pie",),
    "at fixed addresses, with BTI and PAC": ("-no-pie", "-Wl,-z,force-bti,-z,pac-plt"),
    "library": ("-shared", "-fPIC"),
}


def compiled(path: Path, *options: str, source: str = PROGRAM) -> Path:
    """A program that gcc made of the source."""
    gcc = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    run(gcc, "-O1", "-w", *options, "-Wl,--no-warnings", "-x", "c", "-", "-o", path, stdin=source)
    return path


def stubs(path: Path) -> dict[str, int]:
    """The names of stubs, and their addresses."""
    with ElfFile(path) as target:
        return {each.name: each.address for each in target.symbols.ascending() if each.name.endswith("@plt")}


@pytest.mark.fresh("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "llvm")
@pytest.mark.parametrize("form", FORMS)
def test_names_of_stubs_are_those_of_objdump(tmp_path: Path, form: str) -> None:
    path = compiled(tmp_path / "program", *FORMS[form])
    judge = ("llvm-objdump", "llvm") if form == "bti" else ("aarch64-linux-gnu-objdump", "binutils-aarch64-linux-gnu")
    listing = run(need(*judge), "-d", path)
    theirs = {name: int(address, 16) for address, name in re.findall(r"^([0-9a-f]+) <(.*@plt)>:$", listing, re.M)}
    assert stubs(path) == theirs
    assert {"abort@plt", "puts@plt", "strcmp@plt"} <= theirs.keys()
    with ElfFile(path) as target:
        for name, address in theirs.items():
            assert target.symbols.describe(address) == name
            assert target.symbols.describe(address + 8) == f"{name}+0x8"
            assert assemble_one(f"bl {name}", address + 64, target.symbols) == 0x94000000 | -16 & 0x3FFFFFF
        # _init comes before the stubs and has no size; the first entry, which calls the binder, has no name.
        assert target.symbols["_init"] < min(theirs.values())
        for address in range(target.symbols["_init"], max(theirs.values()), 4):
            if target.symbols.describe(address).startswith("_init+"):
                assert address < target.symbols["_init"] + 0x40


INDIRECT = """
        .text
        .globl _start
        .type _start, %function
_start: bl chosen
        bl unnamed
        ret
        .size _start, . - _start
        .type chosen, %gnu_indirect_function
        .type resolver, %function
chosen:
resolver:
        adr x0, _start
        ret
        .size resolver, . - resolver
        .type unnamed, %gnu_indirect_function
unnamed:
        adr x0, _start
        ret
"""


@pytest.mark.parametrize("options", [(), ("-pie", "--no-dynamic-linker")])
def test_a_stub_of_an_indirect_function_has_the_name_of_the_function(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = link(assemble(INDIRECT, tmp_path / "a.o"), tmp_path / "program", *options)
    run("aarch64-linux-gnu-strip", "--strip-symbol=unnamed", path)
    with ElfFile(path) as target:
        start = target.symbols["_start"]
        first, second = target.read(start, 4), target.read(start + 4, 4)
        stub = target.symbols["chosen@plt"]
        assert first == to_bytes(assemble_one("bl chosen@plt", start, target.symbols))
        assert stub != target.symbols["chosen"]
        with pytest.raises(SymbolError):
            target.symbols.resolve("resolver@plt")
        assert stubs(path).keys() == {"chosen@plt"}
        goal = stub + 16 if second == to_bytes(assemble_one(f"bl {stub + 16:#x}", start + 4)) else stub - 16
        assert target.symbols.describe(goal) == f"{goal:#x}"


def test_many_names_of_one_indirect_function(tmp_path: Path) -> None:
    """Each stub gets 16 of them at most."""
    names = "".join(f".type n{number}, %gnu_indirect_function\nn{number}:\n" for number in range(1000))
    source = f"_start: bl n0\nbl n1\nret\n{names}adr x0, _start\nret"
    path = link(assemble(source, tmp_path / "a.o"), tmp_path / "program")
    assert len(stubs(path)) == 16


def test_a_stripped_program_keeps_the_names_of_its_stubs(tmp_path: Path) -> None:
    path = compiled(tmp_path / "program")
    before = stubs(path)
    run("aarch64-linux-gnu-strip", path)
    assert stubs(path) == before != {}


def test_big_endian_data(tmp_path: Path) -> None:
    library = link(assemble(".globl far\n.type far, %function\nfar: ret", tmp_path / "l.o", "-EB"), tmp_path / "l.so",
                   "-EB", "-shared")  # fmt: skip
    main = assemble(".globl _start\n_start: bl far\nret", tmp_path / "m.o", "-EB")
    path = link([main, library], tmp_path / "program", "-EB", "-pie")
    with ElfFile(path) as target:
        start = target.symbols["_start"]
        assert target.read(start, 4) == to_bytes(assemble_one("bl far@plt", start, target.symbols))


def test_a_function_that_looks_like_a_stub_keeps_its_own_name(tmp_path: Path) -> None:
    """`-fno-plt` makes such a tail call of its own."""
    source = """
        .globl _start
        .type _start, %function
_start: adrp x16, :got:far
        ldr x17, [x16, :got_lo12:far]
        br x17
        .size _start, . - _start
    """
    path = link(assemble(source, tmp_path / "m.o"), tmp_path / "program", "-shared")
    with ElfFile(path) as target:
        assert target.symbols.describe(target.symbols["_start"] + 4) == "_start+0x4"
    assert stubs(path) == {}


def test_relocations_of_no_section_have_the_symbols_of_the_loader(tmp_path: Path) -> None:
    path = compiled(tmp_path / "program")
    before, data = stubs(path), path.read_bytes()
    assert header(data)[11]
    for at, fields in section_headers(data):
        if fields[1] == 4:
            data = set_bytes(data, at + 40, "I", 0)
    path.write_bytes(data)
    assert stubs(path) == before != {}
    [segment] = [fields for _, fields in program_headers(data) if fields[0] == 2]
    for entry in range(segment[2], segment[2] + segment[5], 16):
        if data[entry] == 6:  # DT_SYMTAB
            data = set_bytes(data, entry, "Q", 21)
    path.write_bytes(data)
    assert stubs(path) == {}

"""What ElfImage says of ELF files, compared with what pyelftools and readelf say of them.

The files are built with GNU as and ld, or are those of the cross toolchain.
Read on: elf_files.py builds them; test_elf_fuzz.py damages them; test_elf.py patches them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from elftools.elf import enums
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationTable, RelrRelocationSection, RelrRelocationTable

from a64patch.errors import FormatError
from a64patch.targets.elf_image import ElfImage, Table, relocation_name, relocation_size
from a64patch.targets.symbols import Symbol
from tests.support import assemble, link, need, run, unavailable
from tests.targets.elf_files import (
    KINDS,
    TEXT_RELOCATIONS,
    build,
    program_headers,
    section_headers,
    set_bytes,
    with_packed_relocations,
    without_section_headers,
)

LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")
NAMES = ("libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6", "ld-linux-aarch64.so.1", "crt1.o", "rcrt1.o")
BUILT = [f"{kind}{endian}" for kind in (*KINDS, "packed") for endian in ("-EL", "-EB")]


@pytest.fixture(scope="module", params=[*BUILT, *NAMES])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ELF file: little- or big-endian data, relocatable, executable or shared, small or large."""
    if request.param in NAMES:
        if not (LIBRARIES / request.param).exists():
            unavailable(f"{LIBRARIES / request.param} is missing: install the Debian package g++-aarch64-linux-gnu")
        return LIBRARIES / str(request.param)
    kind, endian = request.param[:-3], request.param[-3:]
    folder = tmp_path_factory.mktemp("built")
    if kind != "packed":
        return build(folder, kind, endian == "-EB")
    made = build(folder, "pie", endian == "-EB", TEXT_RELOCATIONS.replace("ret", ".skip 600"), ("-z", "notext"))
    with_packed_relocations(made, dynamic=False)
    return made


@contextmanager
def both(path: Path) -> Iterator[tuple[ElfImage, Any]]:
    """What we make of a file, and what pyelftools makes of it."""
    with path.open("rb") as file:
        yield ElfImage(path.read_bytes(), str(path)), ELFFile(file)


def number(value: int | str, names: dict[str, int]) -> int:
    """pyelftools gives the numbers that it knows by name."""
    return names[value] if isinstance(value, str) else value


def test_headers_are_read_as_pyelftools_reads_them(path: Path) -> None:
    with both(path) as (ours, theirs):
        assert ours.order == ("<" if theirs.little_endian else ">")
        assert ours.entry == theirs["e_entry"]
        assert ours.type == enums.ENUM_E_TYPE[theirs["e_type"]]
        assert ours.relocatable == (theirs["e_type"] == "ET_REL")


def test_sections_are_read_as_pyelftools_reads_them(path: Path) -> None:
    fields = ("addr", "offset", "size", "link", "info", "addralign", "entsize")
    with both(path) as (ours, theirs):
        found = [(ours.section_name(section), *section[1:]) for section in ours.sections]
        assert len(found) > 5
        assert found == [
            (
                section.name,
                number(section["sh_type"], enums.ENUM_SH_TYPE_AARCH64),
                section["sh_flags"],
                *(section[f"sh_{field}"] for field in fields),
            )
            for section in theirs.iter_sections()
        ]


def test_segments_are_read_as_pyelftools_reads_them(path: Path) -> None:
    fields = ("flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align")
    with both(path) as (ours, theirs):
        assert bool(ours.segments) == (not ours.relocatable)
        assert ours.segments == [
            (number(segment["p_type"], enums.ENUM_P_TYPE_AARCH64), *(segment[f"p_{field}"] for field in fields))
            for segment in theirs.iter_segments()
        ]


@pytest.mark.parametrize("absolute", [False, True])
def test_symbols_are_read_as_pyelftools_reads_them(path: Path, absolute: bool) -> None:
    with both(path) as (ours, theirs):
        expected = [
            found._replace(
                name=versioned.get(number, found.name),
                file=file if symbol["st_info"]["bind"] == "STB_LOCAL" else "",
            )
            for table in theirs.iter_sections()
            if table["sh_type"] in ("SHT_SYMTAB", "SHT_DYNSYM")
            for versioned in [old_versions(theirs, table)]
            for number, (symbol, file) in enumerate(with_files(table))
            for found in named(theirs, symbol)
            if absolute or symbol["st_shndx"] != "SHN_ABS"
        ]
        # One table may say the same twice, two tables together do not.
        assert list(dict.fromkeys(ours.symbols(absolute=absolute))) == list(dict.fromkeys(expected))
        assert expected


def old_versions(theirs: Any, table: Any) -> dict[int, str]:
    """By number, the name and version of each symbol that is not the default one of several with its name."""
    versions, defined = (theirs.get_section_by_name(f".gnu.version{suffix}") for suffix in ("", "_d"))
    if table["sh_type"] != "SHT_DYNSYM" or versions is None or defined is None:
        return {}
    symbols = list(table.iter_symbols())
    names = {version["vd_ndx"]: next(parts).name for version, parts in defined.iter_versions()}
    numbers = [each["ndx"] if isinstance(each["ndx"], int) else 1 for each in versions.iter_symbols()]
    places: dict[str, set[int]] = {}
    for symbol, number in zip(symbols, numbers, strict=True):
        if symbol["st_shndx"] != "SHN_UNDEF" and number > 1:
            places.setdefault(symbol.name, set()).add(symbol["st_value"])
    return {
        index: f"{symbol.name}@{names[number & 0x7FFF]}"
        for index, (symbol, number) in enumerate(zip(symbols, numbers, strict=True))
        if number & 0x8000 and len(places.get(symbol.name, ())) > 1
    }


VERSIONS = """
        .text
        .globl old, new, only
        .type old, %function
old:    nop
        ret
        .size old, . - old
        .type new, %function
new:    nop
        ret
        .size new, . - new
        .type only, %function
only:   ret
        .size only, . - only
        .symver old, f@V1
        .symver new, f@@V2
        .symver only, alone@V1
"""
SCRIPT = "V1 { global: f; alone; local: *; }; V2 { global: f; } V1;"


@pytest.mark.parametrize("endian", ["-EL", "-EB"])
@pytest.mark.parametrize("bare", [False, True])
def test_a_name_without_version_is_the_default_version(tmp_path: Path, endian: str, bare: bool) -> None:
    script = tmp_path / "versions"
    script.write_text(SCRIPT, "ascii")
    made = assemble(VERSIONS, tmp_path / "made.o", endian)
    data = link(made, tmp_path / "made", endian, "-shared", "-s", f"--version-script={script}").read_bytes()
    image = ElfImage(without_section_headers(data) if bare else data, "made")
    places = {symbol.name: symbol.address for symbol in image.symbols(absolute=False)}
    assert places.keys() == {"f@V1", "f", "alone"}
    assert (places["f"] - places["f@V1"], places["alone"] - places["f"]) == (8, 8)


def test_versions_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    script = tmp_path / "versions"
    script.write_text(SCRIPT, "ascii")
    data = link(
        assemble(VERSIONS, tmp_path / "made.o"), tmp_path / "made", "-shared", f"--version-script={script}", "-s"
    )
    content = data.read_bytes()
    [(_, dynamic)] = [entry for entry in program_headers(content) if entry[1][0] == 2]
    for at in range(dynamic[2], dynamic[2] + dynamic[5], 16):
        if int.from_bytes(content[at : at + 8], "little") in (0x6FFFFFF0, 0x6FFFFFFC):
            for value in (0, 1 << 40, (1 << 64) - 1, ElfImage(content, "").loads[0].file_size - 2):
                names = {
                    each.name for each in ElfImage(set_bytes(content, at + 8, "Q", value), "").symbols(absolute=False)
                }
                assert {"f", "alone"} <= names


def with_files(table: Any) -> Iterator[tuple[Any, str]]:
    """The symbols of a table of pyelftools, each with the name of the last STT_FILE before it."""
    file = ""
    for symbol in table.iter_symbols():
        if symbol["st_info"]["type"] == "STT_FILE":
            file = symbol.name
        yield symbol, file


def named(theirs: Any, symbol: Any) -> Iterator[Symbol]:
    """The name of an address that a symbol of pyelftools is, if it is one."""
    home, kind = symbol["st_shndx"], symbol["st_info"]["type"]
    mapping = symbol.name.split(".")[0] in ("$x", "$d")
    if not symbol.name or home in ("SHN_UNDEF", "SHN_COMMON") or kind in ("STT_SECTION", "STT_FILE", "STT_TLS"):
        return
    if mapping and (symbol["st_info"]["bind"], kind) == ("STB_LOCAL", "STT_NOTYPE"):
        return
    is_function = kind in ("STT_FUNC", "STT_LOOS")  # pyelftools' name for STT_GNU_IFUNC
    if theirs["e_type"] != "ET_REL":
        address, size = symbol["st_value"], symbol["st_size"]
        section = theirs.get_section(home) if home != "SHN_ABS" else {"sh_addr": address, "sh_size": size}
        yield Symbol(symbol.name, address, size, "", is_function, section["sh_addr"] + section["sh_size"])
    elif home != "SHN_ABS":
        section = theirs.get_section(home)
        if section["sh_flags"] & 2 and section["sh_type"] != "SHT_NOBITS":
            place = section["sh_offset"] + symbol["st_value"]
            end = section["sh_offset"] + section["sh_size"]
            yield Symbol(symbol.name, place, symbol["st_size"], section.name, is_function, end)


def test_build_id_is_read_as_pyelftools_reads_it(path: Path) -> None:
    with both(path) as (ours, theirs):
        holders = theirs.iter_sections("SHT_NOTE") if ours.relocatable else theirs.iter_segments("PT_NOTE")
        notes = [note for holder in holders for note in holder.iter_notes()]
        found = [note["n_desc"] for note in notes if (note["n_name"], note["n_type"]) == ("GNU", "NT_GNU_BUILD_ID")]
        assert ours.build_id == (found[0] if found else "")
        assert bool(found) == (not ours.relocatable)


def test_relocations_of_sections_are_read_as_pyelftools_reads_them(path: Path) -> None:
    with both(path) as (ours, theirs):
        tables = {table.offset: table for table in ours.tables}
        sections = []
        for section in theirs.iter_sections():
            if not isinstance(section, RelocationTable | RelrRelocationSection):
                continue
            base = 0
            applied = bool(section["sh_flags"] & 2)
            if ours.relocatable:
                target = theirs.get_section(section["sh_info"])
                base, applied = target["sh_offset"], target["sh_flags"] & 6 == 6
            if applied:
                sections.append(section["sh_offset"])
                assert entries(ours, tables[section["sh_offset"]]) == their_entries(section, base)
        assert set(tables) == set(sections)
        assert bool(sections) == (theirs["e_type"] != "ET_EXEC")


def test_relocations_of_the_loader_are_read_as_pyelftools_reads_them(path: Path) -> None:
    with both(path) as (ours, theirs):
        tables = []
        for segment in theirs.iter_segments("PT_DYNAMIC"):
            # pyelftools calls them RELA, REL, JMPREL, RELR.
            known = segment.get_relocation_tables()
            tables += [known[name] for name in ("RELA", "REL", "JMPREL", "RELR") if name in known]
        assert [entries(ours, table) for table in ours.dynamic_tables] == [their_entries(table, 0) for table in tables]


def test_relative_runs_are_as_long_as_pyelftools_says(path: Path) -> None:
    with both(path) as (ours, theirs):
        said = [tag["d_val"] for part in theirs.iter_segments("PT_DYNAMIC") for tag in part.iter_tags("DT_RELACOUNT")]
        assert [run.length for run in ours.relative_runs()] == said
        for run in ours.relative_runs():
            table = ours.dynamic_tables[0]
            kinds = [kind for _, kind, _, _ in entries(ours, table)]
            assert (run.offset, run.entry_size) == (table.offset, 24)
            assert kinds.count(1027) == kinds[: run.length].count(1027) == run.length


Entry = tuple[int, int, int, int | None]


def entries(image: ElfImage, table: Table) -> list[Entry]:
    """(place, type, symbol, addend) of every relocation of a table."""
    return [(place, found.type, found.symbol, found.addend) for place, found in image.relocations(table)]


def their_entries(table: Any, base: int) -> list[Entry]:
    """The same of pyelftools; its RELR relocations have a place only."""
    found: list[Entry] = []
    for relocation in table.iter_relocations():
        place = base + relocation["r_offset"]
        if isinstance(table, RelrRelocationTable):
            found.append((place, 1027, 0, None))
        else:
            addend = relocation["r_addend"] if relocation.is_RELA() else None
            found.append((place, relocation["r_info_type"], relocation["r_info_sym"], addend))
    return found


def test_relocation_names_are_those_of_readelf(tmp_path: Path) -> None:
    path = assemble(".text\n" + ".word outside\n" * 1100, tmp_path / "names.o")
    data = path.read_bytes()
    [at] = [fields[4] for _, fields in section_headers(data) if fields[1] == 4]
    for number in range(1100):
        data = set_bytes(data, at + 24 * number + 8, "I", number)
    path.write_bytes(data)
    lines = run(need("aarch64-linux-gnu-readelf", "binutils-aarch64-linux-gnu"), "-rW", path).splitlines()
    named = {
        int(columns[1], 16) & 0xFFFFFFFF: columns[2]
        for line in lines
        if len(columns := line.split()) > 3 and len(columns[0]) == 16
    }
    known = {number: name for number, name in named.items() if name.startswith("R_AARCH64_") and number > 256}
    assert len(known) > 120
    assert {number: relocation_name(number) for number in known} == known
    assert relocation_name(99) == "relocation type 99"
    assert [relocation_size(n) for n in (0, 256, 257, 258, 259, 262, 283, 314, 1027, 1031)] == [
        *(0, 0, 8, 4, 2, 2, 4, 4, 8, 16)
    ]


def test_a_segment_without_bytes_may_point_beyond_the_end_of_the_file(tmp_path: Path) -> None:
    """GNU ld writes such a one for .bss."""
    path = build(tmp_path, "exec")
    data = path.read_bytes()
    at = max(at for at, fields in program_headers(data) if fields[0] == 1)
    empty = set_bytes(set_bytes(data, at + 8, "Q", len(data) + 4096), at + 32, "Q", 0)
    assert ElfImage(empty, "empty").code == ElfImage(data, "full").code
    with pytest.raises(FormatError, match="beyond its end"):
        ElfImage(set_bytes(data, at + 8, "Q", len(data) + 4096), "outside")


DATA_IN_CODE = """
    .text
    nop
    ldr x0, 1f
    ret
1:  .quad 0xd503201fd503201f
    nop
    .word 1, 2
    .section .text.more, "ax"
    .word 3
    nop
    .word 4
    .section .rodata
    .word 5
"""
MORE_DATA_IN_CODE = """
    .globl _start
_start: nop
    .section .text.more, "ax"
    ret
    .inst 0x00000000
    .word 6
"""


@pytest.mark.parametrize("linked", [False, True], ids=["object", "linked"])
@pytest.mark.parametrize("endian", ["-EL", "-EB"])
def test_data_in_code_is_where_objdump_prints_data(tmp_path: Path, linked: bool, endian: str) -> None:
    sources = {"one": DATA_IN_CODE, "two": MORE_DATA_IN_CODE}
    objects = [assemble(source, tmp_path / f"{name}.o", endian) for name, source in sources.items()]
    path = link(objects, tmp_path / "program", endian) if linked else objects[0]
    image = ElfImage(path.read_bytes(), str(path))
    starts = {} if linked else {space.name: space.start for space in image.spaces()}
    expected, start = set(), 0
    for line in run(need("aarch64-linux-gnu-objdump", "binutils-aarch64-linux-gnu"), "-dz", path).splitlines():
        if section := re.fullmatch(r"Disassembly of section (\S+):", line):
            start = starts.get(section[1], 0)
        elif data := re.match(r" *([0-9a-f]+):\t[0-9a-f]{8} \t\.word\t", line):
            expected.add(start + int(data[1], 16))
    assert len(expected) == 6 + linked
    assert {at for low, high in image.data_in_code for at in range(low, high, 4)} == expected


def test_a_file_without_mapping_symbols_tells_no_data(tmp_path: Path) -> None:
    path = link(assemble(MORE_DATA_IN_CODE, tmp_path / "two.o"), tmp_path / "program", "--strip-all")
    assert not ElfImage(path.read_bytes(), str(path)).data_in_code

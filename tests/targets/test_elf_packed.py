"""Android's packed relocations (APS2), which lld writes and bionic loads. llvm-readelf is the judge."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a64patch.errors import FormatError, RelocationError
from a64patch.openers import open_target
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.elf_packed import MOST_RELOCATIONS, PackedError, unpack
from tests.support import need, run
from tests.targets.elf_files import (
    NOP,
    TEXT_RELOCATIONS,
    Packable,
    android_packed,
    build,
    program_headers,
    set_bytes,
    sleb128,
    with_android_relocations,
    with_packed_relocations,
    without_section_headers,
)

RELATIVE = 1027


def shared(flags: int, group: list[Packable]) -> list[Packable]:
    """The group, with what the flags say that its members share."""
    (place, info, addend), delta = group[0], 16
    return [
        (
            place + delta * number if flags & 2 else at,
            info if flags & 1 else kind,
            (addend if flags & 4 else added) if flags & 8 else 0,
        )
        for number, (at, kind, added) in enumerate(group)
    ]


def some_groups(seed: int) -> list[tuple[int, list[Packable]]]:
    """Groups with every kind of flags, places that also go backwards, and addends of both signs."""
    of = random.Random(seed)
    place, groups = 0, []
    for flags in of.sample(range(16), 16):
        delta = 16 if flags & 2 else 0
        group = [
            (
                of.randrange(1 << 40),
                of.choice([RELATIVE, 0x1_0000_0101, 0x2_0000_0402]),
                of.randrange(-1 << 40, 1 << 40),
            )
            for _ in range(of.randrange(1, 5))
        ]
        if delta:
            group[0] = (place + delta, *group[0][1:])
        group = shared(flags, group)
        place = group[-1][0]
        groups.append((flags, group))
    return groups


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A program with a large relocation table."""
    source = TEXT_RELOCATIONS + "\n.xword _start" * 100
    return build(tmp_path_factory.mktemp("roomy"), "pie", source=source, options=("-z", "notext")).read_bytes()


@pytest.mark.parametrize("seed", range(6))
def test_packed_relocations_are_those_of_llvm_readelf(tmp_path: Path, roomy: bytes, seed: int) -> None:
    groups = some_groups(seed)
    path = tmp_path / "program"
    path.write_bytes(roomy)
    with_android_relocations(path, android_packed(groups))
    image = ElfImage(path.read_bytes(), "program")
    [table] = image.tables
    found = list(image.relocations(table))
    ours = [(place, one.symbol << 32 | one.type, one.addend) for place, one in found]
    assert ours == [each for _, group in groups for each in group]
    listing = run(need("llvm-readelf", "llvm"), "-rW", path)
    theirs = re.findall(
        r"^([0-9a-f]{16}) +([0-9a-f]{16}) \S+ +(?:[0-9a-f]{16} .* ([-+] ))?(-?[0-9a-f]+)$", listing, re.M
    )
    assert [(place, info, (addend or 0) % (1 << 64)) for place, info, addend in ours] == [
        (int(place, 16), int(info, 16), int(sign.strip() + addend, 16) % (1 << 64))
        for place, info, sign, addend in theirs
    ]
    bare = ElfImage(without_section_headers(path.read_bytes()), "bare")
    assert [entry for table in bare.tables for entry in bare.relocations(table)] == [
        (place, one._replace(table=one.table._replace(symbols=0))) for place, one in found
    ]


@pytest.mark.parametrize("bare", [False, True], ids=["sections", "no sections"])
def test_words_of_a_packed_relocation_are_refused_and_others_are_not(tmp_path: Path, bare: bool) -> None:
    path = build(tmp_path, "pie", source=TEXT_RELOCATIONS, options=("-z", "notext"))
    with ElfFile(path) as file:
        start, slot = file.symbols["_start"], file.symbols["slot"]
    relocations = [(slot, RELATIVE, start), (slot + 8, RELATIVE, start)]
    with_android_relocations(path, android_packed([(9, relocations)]))
    if bare:
        path.write_bytes(without_section_headers(path.read_bytes()))
    with ElfFile(path, drop_relocations=True) as file:
        assert file.relocation_at(start) is None
        assert file.relocation_at(slot + 12) == f"R_AARCH64_RELATIVE to {start:#x} (in a packed table)"
        for place in (slot, slot + 4, slot + 12):
            with pytest.raises(RelocationError, match="cannot be dropped"):
                file.write(place, NOP)
        file.write(slot + 16, NOP)
        file.publish(slot + 16, slot + 20)


def test_the_simulator_loads_packed_relocations(tmp_path: Path) -> None:
    path = build(tmp_path, "pie", source=TEXT_RELOCATIONS, options=("-z", "notext"))
    with ElfFile(path) as file:
        start, slot = file.symbols["_start"], file.symbols["slot"]
    with_android_relocations(path, android_packed([(9, [(slot, RELATIVE, start)])]))
    with open_target(f"sim:{path}") as target:
        place = target.symbols["slot"]
        assert int.from_bytes(target.read(place, 8), "little") == target.symbols["_start"]


DAMAGE = {
    "it does not begin with APS2": b"APS1\1\0",
    "it ends within a number": b"APS2\1\0\x81",
    "a number has more than 10 bytes": b"APS2\1\0" + b"\x80" * 11,
    "it claims -1 relocations": b"APS2" + sleb128(-1),
    f"no more than {MOST_RELOCATIONS} can be read": b"APS2" + sleb128(1 << 60),
    "a group of 0 relocations": b"APS2" + bytes([1, 0, 0, 0]),
    "a group of 3 relocations is not possible where 2 are left": b"APS2" + bytes([2, 0, 3, 3, 8, 8]),
}


@pytest.mark.parametrize("problem", DAMAGE)
def test_a_damaged_packed_table_is_refused(tmp_path: Path, roomy: bytes, problem: str) -> None:
    path = tmp_path / "program"
    path.write_bytes(roomy)
    with_android_relocations(path, DAMAGE[problem])
    with ElfFile(path) as file, pytest.raises(FormatError, match=f"packed relocation table at .*{re.escape(problem)}"):
        file.relocation_at(file.symbols["_start"])


def test_tables_that_claim_too_much_together_are_refused(tmp_path: Path, roomy: bytes) -> None:
    """Ten bytes may stand for two million relocations, and a file may have many sections."""
    path = tmp_path / "program"
    path.write_bytes(roomy)
    with_android_relocations(path, b"APS2" + sleb128(MOST_RELOCATIONS))
    data = path.read_bytes()
    image = ElfImage(data, "")
    other = next(number for number, section in enumerate(image.sections) if image.section_name(section) == ".gnu.hash")
    [table] = [section for section in image.sections if section.type == 0x60000002]
    at = image._sections_at + 64 * other
    data = set_bytes(set_bytes(data, at + 4, "I", 0x60000002), at + 56, "Q", 1)
    data = set_bytes(set_bytes(data, at + 24, "Q", table.offset), at + 32, "Q", table.size + 1)
    with pytest.raises(FormatError, match="claims more packed relocations than the"):
        assert ElfImage(data, "").tables


def test_addends_in_a_table_without_addends_are_refused() -> None:
    table = android_packed([(8, [(16, RELATIVE, 32)])])
    assert list(unpack(table, with_addends=True).addends) == [32]
    with pytest.raises(PackedError, match="has addends"):
        unpack(table, with_addends=False)


@settings(deadline=None, max_examples=int(os.environ.get("A64PATCH_FUZZ", "400")))
@given(
    st.integers(0, 99), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4), st.integers(0, 200)
)
def test_any_bytes_are_unpacked_or_refused(seed: int, changes: list[tuple[int, int]], cut: int) -> None:
    table = bytearray(android_packed(some_groups(seed)))
    for place, value in changes:
        table[4 + place % (len(table) - 4)] = value
    try:
        found = unpack(bytes(table[: len(table) - cut]), with_addends=True)
    except PackedError:
        return
    assert len(found.places) == len(found.infos) == len(found.addends) <= MOST_RELOCATIONS


def test_relr_under_androids_own_numbers(tmp_path: Path) -> None:
    """DT_ANDROID_RELR is older than DT_RELR and means the same."""
    path = build(tmp_path, "pie", source=TEXT_RELOCATIONS.replace("ret", ".skip 600"), options=("-z", "notext"))
    slot = with_packed_relocations(path, dynamic=True)
    data = path.read_bytes()
    [segment] = [fields for _, fields in program_headers(data) if fields[0] == 2]
    for entry in range(segment[2], segment[2] + segment[5], 16):
        new = {36: 0x6FFFE000, 35: 0x6FFFE001}.get(int.from_bytes(data[entry : entry + 8], "little"))
        data = data if new is None else set_bytes(data, entry, "Q", new)
    assert ElfImage(data, "").owners(slot) == ElfImage(path.read_bytes(), "").owners(slot) != []

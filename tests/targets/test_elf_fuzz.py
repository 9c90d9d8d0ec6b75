"""Damaged ELF files: whatever their bytes say, an operation works or is refused, and the file is safe.

Read on: elf_files.py builds the sound files that are damaged here; test_elf.py tests what they mean.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from a64patch.errors import A64PatchError
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import ElfImage
from tests.targets.elf_files import (
    KINDS,
    NOP,
    RET,
    android_packed,
    build,
    program_headers,
    section_headers,
    with_android_relocations,
    without_section_headers,
)

INTERESTING = (
    0,
    1,
    2,
    3,
    4,
    8,
    16,
    18,
    19,
    23,
    24,
    64,
    0xFF00,
    0xFFF1,
    0xFFF2,
    0xFFFF,
    1 << 31,
    (1 << 32) - 1,
    1 << 63,
)
TEXT_OWNED = """
        .text
        .globl _start, outside
_start: nop
        ret
        .balign 8
slot:   .xword _start
        bl outside
outside:
        ret
"""
EXPORTING = TEXT_OWNED.replace(".globl _start, outside", ".globl _start, outside, other") + "other: nop"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("sound")
    files = [build(folder, kind, big).read_bytes() for kind in KINDS for big in (False, True)]
    files += [build(folder, kind, source=TEXT_OWNED, options=("-z", "notext")).read_bytes() for kind in KINDS]
    packed = build(folder, "pie", source=TEXT_OWNED, options=("-z", "notext"))
    with_android_relocations(packed, android_packed([(9, [(ElfImage(files[-1], "").code.spans[0][0] + 8, 1027, 64)])]))
    bare = [
        without_section_headers(
            build(folder, "shared", source=TEXT_OWNED, options=(f"--hash-style={style}",)).read_bytes()
        )
        for style in ("sysv", "gnu")
    ]
    return [*files, packed.read_bytes(), *bare]


LAYOUTS = {
    "header": (16, 18, 20, 24, 32, 40, 48, 52, 54, 56, 58, 60, 62, 64),
    "segment": (0, 4, 8, 16, 24, 32, 40, 48, 56),
    "section": (0, 4, 8, 16, 24, 32, 40, 44, 48, 56, 64),
    "symbol": (0, 4, 5, 6, 8, 16, 24),
    "relocation": (0, 8, 12, 16, 24),
    "dynamic": (0, 8, 16),
    "note": (0, 4, 8, 12),
    "packed": (0, 1),
    "hash": (0, 4),
}
"""Where the fields of each structure begin, and where the structure ends."""


def fields_of(data: bytes) -> list[list[tuple[int, int]]]:
    """Every number in a file that means something, as (offset, size), grouped by the field that it is."""
    places = {"header": [0]}
    places["segment"] = [at for at, _ in program_headers(data)]
    places["section"] = [at for at, _ in section_headers(data)]
    tables = {2: "symbol", 11: "symbol", 4: "relocation", 6: "dynamic", 7: "note", 0x60000002: "packed"}
    for _, fields in section_headers(data):
        if fields[1] in tables:
            name = tables[fields[1]]
            places.setdefault(name, []).extend(range(fields[4], fields[4] + fields[5], LAYOUTS[name][-1]))
    if not places["section"]:
        places |= fields_of_the_loader(data)
    return [
        [(place + start, end - start) for place in found]
        for name, found in places.items()
        for start, end in pairwise(LAYOUTS[name])
        if found
    ]


def fields_of_the_loader(data: bytes) -> dict[str, list[int]]:
    """The fields that a loader finds in a file without section headers; in these files addresses are offsets."""
    places: dict[str, list[int]] = {}
    for _, fields in program_headers(data):
        if fields[0] == 2:
            places["dynamic"] = list(range(fields[2], fields[2] + fields[5], 16))
    for entry in places["dynamic"]:
        tag, value = struct.unpack_from("<QQ", data, entry)
        if tag == 6:
            places["symbol"] = list(range(value, value + 72, 24))
        elif tag in (4, 0x6FFFFEF5):
            places["hash"] = list(range(value, value + 40, 4))
    return places


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """A sound file with some numbers changed, perhaps a byte overwritten, perhaps its end cut off."""
    data = bytearray(draw(st.sampled_from(files)))
    groups = fields_of(bytes(data))
    big = data[5] == 2
    values = st.one_of(
        st.sampled_from(INTERESTING),
        st.integers(0, len(data) + 64),
        st.sampled_from(
            [
                *(number for _, fields in section_headers(bytes(data)) for number in fields[3:6]),
                *(number for _, fields in program_headers(bytes(data)) for number in fields[2:7]),
            ]
        ),
        st.integers(0, (1 << 64) - 1),
    )
    for _ in range(draw(st.integers(0, 3))):
        at, size = draw(st.sampled_from(draw(st.sampled_from(groups))))
        order: Literal["big", "little"] = "big" if big else "little"
        old = int.from_bytes(data[at : at + size], order)
        value = draw(st.one_of(values, st.sampled_from([old - 1, old + 1, old + 4, old + 8, old * 2, -old])))
        data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, order)
    if draw(st.integers(0, 7)) == 0:
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 15)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


def attempt(path: Path, drop: bool) -> None:
    """Everything that can be done to a file; A64PatchError is fine, and so is success."""
    before = path.read_bytes()
    try:
        file = ElfFile(path, drop_relocations=drop)
    except A64PatchError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert str(path) in refusal
        return
    assert isinstance(file.is_relocatable, bool)
    addresses = [0, 1, 0x40, 0x400000, (1 << 64) - 2]
    for look in (lambda: file.build_id, file.code_ranges, lambda: file.symbols.resolve("_start")):
        try:
            found = look()
        except A64PatchError:
            continue
        if isinstance(found, int):
            addresses.append(found)
        elif isinstance(found, list):
            addresses += [
                address for span in found[:4] for address in (span[0], span[1] - 4, span[0] + 8, span[0] + 16)
            ]
    for address in addresses:
        try:
            file.symbols.describe(address)
            file.relocation_at(address)
            assert len(file.read(address, 4)) == 4
        except A64PatchError:
            pass
    for address in addresses:
        try:
            old = file.read(address, 4)
            file.write(address, NOP if old == RET else RET)
        except A64PatchError:
            continue
        assert path.read_bytes() == before
        try:
            file.publish(address, address + 4)
        except A64PatchError:
            assert path.read_bytes() == before
            continue
        after = path.read_bytes()
        assert len(after) == len(before)
        changed = sum(one != other for one, other in zip(before, after, strict=True))
        assert 1 <= changed <= (4 if not drop else 4 + 64)
        file.write(address, old)
        file.publish(address, address + 4)
        assert path.read_bytes() == before


@settings(
    deadline=None, max_examples=int(os.environ.get("A64PATCH_FUZZ", "200")), suppress_health_check=list(HealthCheck)
)
@given(data=st.data(), drop=st.booleans())
def test_damaged_files_are_refused_or_safe(
    sound: list[bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, drop: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data.draw(damaged(sound)))
    attempt(path, drop)
    assert [name for name in os.listdir(path.parent) if name.startswith(".a64patch")] == []


@settings(deadline=None, max_examples=200)
@given(rest=st.binary(max_size=300), kind=st.integers(0, 4), endian=st.sampled_from([1, 2]))
def test_noise_behind_a_header_is_refused_or_safe(
    tmp_path_factory: pytest.TempPathFactory, rest: bytes, kind: int, endian: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    start = b"\x7fELF\2" + bytes([endian, 1]) + bytes(9)
    path.write_bytes(start + struct.pack("<HH" if endian == 1 else ">HH", kind, 183) + rest)
    attempt(path, drop=True)


def test_sound_files_can_be_patched(sound: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "sound"
    for data in sound:
        path.write_bytes(data)
        attempt(path, drop=True)
        with ElfFile(path) as file:
            start = file.symbols["_start"]
            file.write(start, RET)
            file.publish(start, start + 4)
        assert path.read_bytes() != data


@pytest.mark.parametrize("kind", ["sections", "strings"])
def test_huge_claims_cost_little_memory(sound: list[bytes], tmp_path: Path, kind: str) -> None:
    """A sparse file of 256 MiB, nearly all of it symbols or names; the process gets 1 GiB of address space."""
    data = bytearray(sound[2])
    size = 1 << 28
    for at, fields in section_headers(bytes(data)):
        if fields[1] == (2 if kind == "sections" else 3):
            struct.pack_into("<QQ", data, at + 24, 0, size // 24 * 24)
    path = tmp_path / "huge"
    path.write_bytes(data)
    os.truncate(path, size)
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); "
        "from a64patch.targets.elf import ElfFile; from a64patch.errors import A64PatchError\n"
        "try: print(ElfFile(sys.argv[1]).symbols.resolve('missing'))\n"
        "except A64PatchError as error: print('refused:', error)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.startswith("refused:"), done.stderr

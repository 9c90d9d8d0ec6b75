"""Room for new code in linked ELF files: it executes, other tools keep it, and release takes it back to the byte.

Programs are built with gcc, executed by qemu-aarch64, and written anew by the strip and objcopy of GNU and LLVM.
"""

from __future__ import annotations

import re
import struct
import subprocess
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a64patch.a64.assembler import assemble_one
from a64patch.a64.words import to_bytes
from a64patch.errors import A64PatchError, CapabilityError, MappingError, RequestError
from a64patch.ranges import Ranges
from a64patch.targets.base import Room
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.modules import Module
from tests.support import IN_MEMORY, need, run
from tests.targets.elf_files import RET, build, header, program_headers, section_headers, set_bytes

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int __attribute__((noinline)) answer(void) { __asm__ volatile("nop; nop"); return 1; }
static char many[100000];
int data = 5;
__thread int own = 3;
int main(int count, char **arguments)
{
    char *heap = malloc(1000000);
    memset(heap, count, 1000000);
    memset(many, heap[5], sizeof many);
    printf("%d %d %d %d\n", answer(), data, own, many[99999]);
    return 0;
}
"""
FORMS = {
    "static": ("-static",),
    "static PIE": ("-static-pie",),
    "PIE": ("-pie", "-Wl,-z,norelro"),
    "BTI": ("-pie", "-mbranch-protection=standard", "-Wl,-z,separate-code"),
    "4K": ("-no-pie", "-Wl,-z,max-page-size=4096"),
}
SMALL, LARGE = 8, 0x20000
"""Bytes of code: there is padding for few, and none for many."""
GNU, LLVM = "aarch64-linux-gnu-", "llvm-"
BINUTILS = "binutils-aarch64-linux-gnu"


def compiled(path: Path, *options: str, source: str = PROGRAM) -> Path:
    gcc = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    run(gcc, "-O1", "-w", *options, "-x", "c", "-", "-o", path, stdin=source)
    return path


def output(program: Path, *options: str) -> str:
    """What the program prints."""
    return run(need("qemu-aarch64", "qemu-user"), "-L", "/usr/aarch64-linux-gnu", *options, program).strip()


def detoured(path: Path, size: int = SMALL, at: int | None = None, value: int = 42) -> Room:
    """Let a function, `answer` if no other, return this value by code in a new room."""
    with ElfFile(path) as file:
        function = file.symbols["answer"] if at is None else at
        room = file.find_room(size, (function, function))
        assert file.find_room(size, (function, function)) == room
        file.allocate(room)
        code = (f"mov w0, #{value}", "ret")
        file.write(room.address, to_bytes([assemble_one(text, room.address + 4 * i) for i, text in enumerate(code)]))
        file.write(function, to_bytes(assemble_one(f"b {room.address:#x}", function)))
        file.publish(0, 0)
    return room


def released(path: Path, room: Room) -> str:
    with ElfFile(path) as file:
        said = file.release(room)
        file.publish(0, 0)
    return said


def rooms_in(path: Path) -> list[tuple[int, int]]:
    with ElfFile(path) as file:
        return [(room.address, room.size) for room in file.rooms()]


def rewritten(path: Path, *tool: str) -> Path:
    """The file as strip or objcopy leaves it, without a word of complaint."""
    made = path.with_suffix(".rewritten")
    name = need(tool[0], BINUTILS if tool[0].startswith(GNU) else "llvm")
    done = subprocess.run([name, *tool[1:], path, made] if "objcopy" in name else [name, *tool[1:], "-o", made, path],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return made


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["padding", "segment"])
@pytest.mark.parametrize("form", FORMS)
def test_code_in_a_room_executes_and_other_tools_keep_it(tmp_path: Path, form: str, size: int) -> None:
    path = compiled(tmp_path / "program", *FORMS[form])
    before = path.read_bytes()
    with ElfFile(path) as file:
        function = file.symbols["answer"]
    assert output(path) == "1 5 3 1"
    room = detoured(path, size)
    assert room.how == ("the padding behind the code" if size == SMALL else "a new segment")
    assert output(path) == "42 5 3 1"
    for reader in (f"{GNU}readelf", f"{LLVM}readelf"):
        name = need(reader, BINUTILS if reader.startswith(GNU) else "llvm")
        done = subprocess.run([name, "-lSW", "-n", "-s", path], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert ".a64patch.1" in done.stdout
    tools = [(f"{GNU}strip",), (f"{GNU}objcopy",), (f"{LLVM}objcopy", "--strip-debug")]
    for tool in tools[
        : 2 if form == "static" else 3
    ]:  # LLVM refuses static programs of GNU ld: .rela.plt has a sh_link
        made = rewritten(path, *tool)
        assert output(made) == "42 5 3 1"
        assert rooms_in(made) == [(room.address, room.size)]
    with ElfFile(path) as file:
        file.write(function, before[function - _distance(before, function) :][:4])
        assert file.release(room) == ""
        file.publish(0, 0)
    assert path.read_bytes() == before


def _distance(data: bytes, address: int) -> int:
    """From the file's offsets to its addresses."""
    return next(
        fields[3] - fields[2]
        for _, fields in program_headers(data)
        if fields[0] == 1 and fields[3] <= address < fields[3] + fields[5]
    )


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["padding", "segment"])
def test_a_shared_library(tmp_path: Path, size: int) -> None:
    library = compiled(tmp_path / "libanswer.so", "-shared", "-fPIC", source="int answer(void) { return 1; }")
    main = 'extern int answer(void); int main(void) { printf("%d\\n", answer()); return 0; }'
    program = compiled(tmp_path / "program", "-Wl,--no-as-needed", str(library), source=main)
    before = library.read_bytes()
    assert output(program, "-E", f"LD_LIBRARY_PATH={tmp_path}") == "1"
    detoured(library, size)
    assert output(program, "-E", f"LD_LIBRARY_PATH={tmp_path}") == "42"
    for tool in ((f"{GNU}strip",), (f"{LLVM}strip",)):
        made = rewritten(library, *tool)
        library.write_bytes(made.read_bytes())
        assert output(program, "-E", f"LD_LIBRARY_PATH={tmp_path}") == "42"
    assert before != library.read_bytes()


START = """
        .globl _start, answer
        .type answer, %function
_start: bl answer
        mov x8, #93
        svc #0
answer: mov x0, #1
        nop
        ret
        .size answer, . - answer
        .data
        .xword _start
        .bss
        .skip 100000
"""


def status(program: Path, big: bool, *options: str) -> int:
    """The exit status, which is the answer."""
    emulator = need("qemu-aarch64_be" if big else "qemu-aarch64", "qemu-user")
    return subprocess.run([emulator, *options, program], capture_output=True, check=False).returncode


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["padding", "segment"])
@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("with_sections", [True, False], ids=["sections", "no sections"])
def test_without_section_headers_and_with_either_order_of_bytes(
    tmp_path: Path, big: bool, with_sections: bool, size: int
) -> None:
    path = build(tmp_path, "exec", big, START, ("-z", "max-page-size=65536"))
    with ElfFile(path) as file:
        function = file.symbols["answer"]
    if not with_sections:
        run(need("llvm-strip", "llvm"), "--strip-sections", path)
    before = path.read_bytes()
    assert status(path, big) == 1
    room = detoured(path, size, at=function)
    assert status(path, big) == 42
    assert rooms_in(path) == [(room.address, room.size)]
    with ElfFile(path) as file:
        assert file.code_ranges() != []
        assert bool(file.image.sections) == with_sections
        file.write(function, to_bytes(assemble_one("mov x0, #1", 0)))
        assert file.release(room) == ""
        file.publish(0, 0)
    assert path.read_bytes() == before


def test_only_the_named_bytes_change(tmp_path: Path) -> None:
    path = build(tmp_path, "pie", source=START)
    before = path.read_bytes()
    for size in (SMALL, LARGE):
        path.write_bytes(before)
        room = detoured(path, size)
        after = path.read_bytes()
        with ElfFile(path) as file:
            function = file.symbols["answer"]
        named = {offset for start, end in ((32, 48), (56, 58), (60, 64)) for offset in range(start, end)}
        named |= set(range(function - _distance(before, function), function - _distance(before, function) + 4))
        if size == SMALL:
            place = room.address - _distance(after, room.address)
            [grown] = [at for at, fields in program_headers(before) if fields[0] == 1 and fields[1] & 1]
            named |= set(range(place, place + SMALL)) | set(range(grown + 32, grown + 48))
        changed = {offset for offset, byte in enumerate(before) if after[offset] != byte}
        assert changed <= named
        assert len(after) > len(before)


def test_old_headers_are_as_they_were(tmp_path: Path) -> None:
    """All but PT_PHDR, which is where the program headers are now, and the table of names."""
    path = compiled(tmp_path / "program", "-pie", "-Wl,--build-id")
    before = path.read_bytes()
    detoured(path, LARGE)
    after = path.read_bytes()
    old, new = ([fields for _, fields in program_headers(data)] for data in (before, after))
    phdr = next(index for index, fields in enumerate(old) if fields[0] == 6)
    assert [*old[:phdr], *old[phdr + 1 :]] == [*new[:phdr], *new[phdr + 1 : len(old)]]
    assert new[phdr][2] == header(after)[4]
    assert new[phdr][4:6] == (new[phdr][3], 56 * len(new))
    holder = next(fields for fields in new if fields[0] == 1 and fields[2] <= new[phdr][2] < fields[2] + fields[5])
    assert new[phdr][3] - new[phdr][2] == holder[3] - holder[2] == next(f[3] - f[2] for f in new if f[0] == 1)
    loads = [fields for fields in new if fields[0] == 1]
    assert loads == sorted(loads, key=lambda fields: fields[3])
    assert all(fields[7] % 0x10000 == 0 and (fields[3] - fields[2]) % fields[7] == 0 for fields in loads[-2:])
    names = header(before)[12]
    sections_before, sections = ([fields for _, fields in section_headers(data)] for data in (before, after))
    assert sections[:names] == sections_before[:names]
    assert [fields[1:3] for fields in sections[len(sections_before) :]] == [(1, 6), (1, 0)]
    with ElfFile(path) as file:
        assert file.build_id == ElfImage(before, "").build_id != ""


def test_a_room_behind_bss_is_not_in_it(tmp_path: Path) -> None:
    """The program writes all of its .bss, and then executes the room."""
    path = compiled(tmp_path / "program", "-no-pie", "-Wl,-z,max-page-size=4096")
    ends = [fields[3] + fields[6] for _, fields in program_headers(path.read_bytes()) if fields[0] == 1]
    room = detoured(path, LARGE)
    assert room.address >= -(-max(ends) // 0x10000) * 0x10000
    assert output(path) == "42 5 3 1"


def test_rooms_in_turn(tmp_path: Path) -> None:
    """A room in the padding, in a new segment, in the rest of this segment, and in another one: five patches."""
    path = compiled(tmp_path / "program", "-pie")
    states, rooms = [path.read_bytes()], []
    units = range(1, 1 << 12)
    nearly_all = 16 * bisect_left(units, True, key=lambda unit: find(path, 16 * unit).how == "a new segment") - 16
    code = ElfImage(states[0], "").code
    for value, size in enumerate((nearly_all, LARGE, 0x400, 0x400, LARGE), 50):
        rooms.append(detoured(path, size, value=value))
        states.append(path.read_bytes())
        assert output(path) == f"{value} 5 3 1"
        assert rooms_in(path) == sorted((room.address, room.size) for room in rooms)
        assert ElfImage(states[-1], "").code == code | Ranges.of((room.address, room.end) for room in rooms)
    assert [room.how == "a new segment" for room in rooms] == [False, True, False, False, True]
    assert sorted(rooms) == rooms
    for tool in ((f"{GNU}strip",), (f"{LLVM}strip",)):
        made = rewritten(path, *tool)
        assert output(made) == "54 5 3 1"
        assert len(rooms_in(made)) == len(rooms)
    with ElfFile(path) as file:
        answer = file.symbols["answer"]
    for room, state in zip(reversed(rooms), reversed(states[:-1]), strict=True):
        before = ElfImage(state, "")
        [(offset, _)] = before.chunks(answer, 4) or []
        with ElfFile(path) as file:
            file.write(answer, state[offset : offset + 4])
            assert file.release(room) == ""
            file.publish(0, 0)
        assert path.read_bytes() == state


def test_an_older_room_stays_until_the_newest_one_goes(tmp_path: Path) -> None:
    path = compiled(tmp_path / "program", "-pie")
    before = path.read_bytes()
    with ElfFile(path) as file:
        answer = file.symbols["answer"]
        rooms = []
        for size in (SMALL, LARGE, SMALL):
            rooms.append(file.find_room(size, (answer, answer)))
            file.allocate(rooms[-1])
        first, second, third = rooms
        assert "stay in" in file.release(second)
        assert f"{third.address:#x} is newer" in file.release(first)
        assert [room.address for room in file.rooms()] == [third.address]
        assert file.read(first.address, first.size) == bytes(first.size)
        with pytest.raises(MappingError, match="no room for new code"):
            file.release(first)
        file.publish(0, 0)
    assert released(path, third) == ""
    assert path.read_bytes() == before


def test_after_strip_a_room_stays_as_unused_space(tmp_path: Path) -> None:
    path = compiled(tmp_path / "program", "-pie")
    room = detoured(path)
    run(need(f"{GNU}strip", BINUTILS), path)
    assert "unused space: the record of what was there before is gone" in released(path, room)
    assert rooms_in(path) == []
    with ElfFile(path) as file:
        assert file.read(room.address, room.size) == bytes(room.size)
        again = file.find_room(SMALL, (room.address, room.address))
        assert again.address >= room.end


def test_a_changed_header_is_not_put_back(tmp_path: Path) -> None:
    """Somebody made the stack executable, which changes a flag in a program header that the room moved."""
    path = build(tmp_path, "pie", source=START, options=("-z", "noexecstack"))
    room = detoured(path, LARGE)
    data = path.read_bytes()
    [at] = [at for at, fields in program_headers(data) if fields[0] == 0x6474E551]
    path.write_bytes(set_bytes(data, at + 4, "I", 7))
    assert "does not fit the file any more" in released(path, room)
    assert len(path.read_bytes()) == len(data)


PROTECTED = (
    START.replace("mov x0, #1", "adrp x16, _start")
    + """
        .section .note.gnu.property, "a"
        .balign 8
        .word 4, 16, 5
        .asciz "GNU"
        .word 0xc0000000, 4, 1, 0
"""
)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["padding", "segment"])
@pytest.mark.parametrize(("landing", "expected"), [("bti c", 42), ("nop", -4)])
def test_code_in_a_room_is_guarded_as_the_rest(tmp_path: Path, landing: str, expected: int, size: int) -> None:
    """A BR reaches it, and the file's note demands landing pads: SIGILL without one."""
    path = build(tmp_path, "exec", source=PROTECTED, options=("-z", "max-page-size=65536"))
    with ElfFile(path) as file:
        answer = file.symbols["answer"]
        room = file.find_room(size + 4, (answer, answer))
        file.allocate(room)
        enter = (f"adrp x16, {room.address & -4096:#x}", f"add x16, x16, #{room.address & 4095}", "br x16")
        for place, texts in ((answer, enter), (room.address, (landing, "mov x0, #42", "ret"))):
            file.write(place, to_bytes([assemble_one(text, place + 4 * i) for i, text in enumerate(texts)]))
        file.publish(0, 0)
    assert status(path, False, "-cpu", "max") == expected


def test_what_a_target_knows_follows(tmp_path: Path) -> None:
    path = build(tmp_path, "pie", source=START)
    before = path.read_bytes()
    with ElfFile(path) as file:
        answer = file.symbols["answer"]
        known = file.code_ranges()
        file.knowing(Module("other", code=Ranges(((0x9000000, 0x9000010),))), may_write=Ranges(((answer, answer + 4),)))
        room = file.find_room(SMALL, (answer, answer))
        assert path.read_bytes() == before
        with pytest.raises(MappingError):
            file.write(room.address, RET)
        file.allocate(room)
        writable = file.writable()
        assert writable is not None
        assert writable.covers(room.address, room.end)
        assert any(start <= room.address < end for start, end in file.code_ranges())
        assert any(start <= room.address < end for start, end in file.code_with(answer))
        assert file.symbols["answer"] == answer
        assert file.read(room.address, 4) == bytes.fromhex("640a0000")
        assert path.read_bytes() == before
        with pytest.raises(MappingError, match="are not free"):
            file.allocate(room)
        file.write(room.address, RET)
        assert file.release(room) == ""
        assert file.writable() == Ranges(((answer, answer + 4),))
        assert file.code_ranges() == [*known, (0x9000000, 0x9000010)]
        file.publish(0, 0)
    assert path.read_bytes() == before


def test_a_relocated_word_that_was_changed_before_a_room_is_still_dropped(tmp_path: Path) -> None:
    source = ".globl _start\n_start: nop\n.balign 8\nslot: .xword _start\n.data\n.xword _start\n"
    path = build(tmp_path, "pie", source=source, options=("-z", "notext"))
    with ElfFile(path, drop_relocations=True) as file:
        slot = file.symbols["slot"]
        file.write(slot, RET)
        file.allocate(file.find_room(LARGE, (slot, slot)))
        file.publish(0, 0)
    with ElfFile(path) as file:
        assert file.relocation_at(slot) is None
        assert file.read(slot, 4) == RET


def find(path: Path, size: int = SMALL, near: tuple[int, int] = (0, 0), alignment: int = 16) -> Room:
    with ElfFile(path) as file:
        return file.find_room(size, near, alignment)


@pytest.mark.parametrize("alignment", [1, 4, 64, 4096])
def test_alignment(tmp_path: Path, alignment: int) -> None:
    path = compiled(tmp_path / "program", "-pie")
    for size in (6, LARGE):
        with ElfFile(path) as file:
            room = file.find_room(size, (0, 0), alignment)
            assert room.address % max(alignment, 4) == 0
            assert room.size == -(-size // 4) * 4
            file.allocate(room)
            assert [(each.address, each.size) for each in file.rooms()] == [(room.address, room.size)]


@pytest.mark.parametrize(("size", "alignment"), [(0, 16), (-4, 16), (8, 0), (8, 12), (8, -16)])
def test_requests_that_mean_nothing(tmp_path: Path, size: int, alignment: int) -> None:
    with pytest.raises(RequestError, match="power of 2"):
        find(build(tmp_path, "pie", source=START), size, alignment=alignment)


def _overlay(data: bytes) -> bytes:
    return data + b"PK\5\6" + bytes(18)


def _far_first(data: bytes) -> bytes:
    """The first segment's address is no page away from its offset."""
    at = next(at for at, fields in program_headers(data) if fields[0] == 1)
    return set_bytes(data, at + 16, "Q", 8)


def _large_bss(data: bytes) -> bytes:
    at = [at for at, fields in program_headers(data) if fields[0] == 1][-1]
    return set_bytes(data, at + 40, "Q", 1 << 27)


REFUSED: dict[str, tuple[Callable[[bytes], bytes], tuple[int, int], str]] = {
    "overlay": (_overlay, (SMALL, 16), r"has 22 bytes at 0x[0-9a-f]+, behind all that its headers tell"),
    "alignment": (bytes, (SMALL, 8192), "is loaded at a multiple of 4096 bytes"),
    "pages": (_far_first, (LARGE, 16), "not laid out in pages"),
    "bss": (_large_bss, (LARGE, 16), "MiB of memory without bytes in the file"),
    "names": (lambda data: set_bytes(data, 62, "H", 0), (SMALL, 16), "no names of sections"),
    "numbers": (lambda data: set_bytes(data, 62, "H", 0xFE00), (SMALL, 16), "no names of sections"),
    "reach": (bytes, (1 << 27, 16), "within 128 MiB of 0x0 to 0x0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    change, (size, alignment), message = REFUSED[case]
    path = build(tmp_path, "pie", source=START)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CapabilityError, match=message):
        find(path, size, alignment=alignment)


def test_reach_is_that_of_a_branch_in_both_directions(tmp_path: Path) -> None:
    path = build(tmp_path, "pie", source=START)
    room = find(path)
    for place in (room.address + (1 << 27) - 4, room.end - (1 << 27)):
        assert find(path, near=(place, place)).address == room.address
    ahead, behind = room.address + (1 << 27), room.end - 4 - (1 << 27)
    assert find(path, near=(ahead, ahead)).how == "a new segment"
    for near in ((behind, behind), (0, 1 << 28)):
        with pytest.raises(CapabilityError, match="within 128 MiB"):
            find(path, near=near)


def test_more_program_headers_than_linux_takes(tmp_path: Path) -> None:
    """The table is moved behind everything, so that it may be long."""
    path = build(tmp_path, "exec", source=START)
    run(need("llvm-strip", "llvm"), "--strip-sections", path)
    data = path.read_bytes()
    table = b"".join(data[at : at + 56] for at, _ in program_headers(data))
    for count, fits in ((71, True), (72, False)):
        made = data + table + bytes(56 * count - len(table))
        path.write_bytes(set_bytes(set_bytes(made, 32, "Q", len(data)), 56, "H", count))
        if fits:
            assert find(path, LARGE).how == "a new segment"
        else:
            with pytest.raises(CapabilityError, match="no program with more than 73"):
                find(path, LARGE)


def with_loads(path: Path, *loads: tuple[int, int, int, int, int], dirty: int = 0) -> Path:
    """An executable of segments (flags, offset, address, p_filesz, p_memsz) and nothing else; one byte is not zero."""
    size = max(offset + length for _, offset, _, length, _ in loads)
    data = bytearray(size)
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    struct.pack_into("<16sHHIQQQIHHHHHH", data, 0, ident, 2, 183, 1, 0, 64, 0, 0, 64, 56, len(loads), 64, 0, 0)
    for number, (flags, offset, address, length, memory) in enumerate(loads):
        fields = (1, flags, offset, address, address, length, memory, 0x1000)
        struct.pack_into("<IIQQQQQQ", data, 64 + 56 * number, *fields)
    if dirty:
        data[dirty] = 1
    path.write_bytes(data)
    return path


TEXT = (5, 0, 0x400000, 0xF00, 0xF00)


@pytest.mark.parametrize(
    ("text", "following", "padding"),
    [
        (TEXT, (6, 0xFF0, 0x410FF0, 16, 16), 0xF0),  # up to the data's bytes in the file
        (TEXT, (6, 0x3000, 0x403000, 16, 16), 0x2100),  # up to its page
        (TEXT, (6, 0x3800, 0x403800, 16, 16), 0x2100),  # this page begins before it
        (TEXT, (6, 0x9000, 0x409000, 16, 16), 0x7100),  # with pages of 16 KiB it begins earlier
        (TEXT, (6, 0x23000, 0x423000, 16, 16), 0x1F100),  # and with 64 KiB
        (TEXT, (6, 0xF80, 0x400F80, 16, 16), 0),  # both in one page
        (TEXT, (6, 0x3000, 0x3FF800, 16, 0x1000), 0),  # the other's memory reaches into it
        ((5, 0, 0x400000, 0xF00, 0xF08), (6, 0x3000, 0x403000, 16, 16), 0),  # the zeros are memory without bytes
        ((4, 0, 0x400000, 0xF00, 0xF00), (6, 0x3000, 0x403000, 16, 16), 0),  # no code
    ],
)
def test_padding_needs_no_page_of_another_segment(
    tmp_path: Path, text: tuple[int, ...], following: tuple[int, ...], padding: int
) -> None:
    path = tmp_path / "program"
    with_loads(path, text, following)  # type: ignore[arg-type]
    if padding:
        assert find(path, padding, (0x400000, 0x400000), 4) == (0x400F00, padding, "the padding behind the code")
    assert find(path, padding + 4, (0x400000, 0x400000), 4).how == "a new segment"
    with_loads(path, text, following, dirty=0xF10)  # type: ignore[arg-type]
    assert (find(path, 16, (0x400000, 0x400000), 4).how == "a new segment") == (padding == 0)
    assert find(path, 20, (0x400000, 0x400000), 4).how == "a new segment"


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A program with a room in the padding, one in a new segment, and one in the rest of that."""
    path = compiled(tmp_path_factory.mktemp("patched") / "program", "-no-pie", "-Wl,-z,max-page-size=4096")
    for size in (SMALL, LARGE, SMALL):
        detoured(path, size)
    return path.read_bytes()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_headers_and_records_give_one_of_our_errors(patched: bytes, data: st.DataObject) -> None:
    places = [
        *range(16, 64),
        *(at + i for at, _ in program_headers(patched) for i in range(56)),
        *(at + i for at, _ in section_headers(patched)[-8:] for i in range(64)),
        *(at.start() + i for at in re.finditer(b"a64patch\\x01", patched) for i in range(88)),
    ]
    damaged = bytearray(patched)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from(places))
        piece = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, bytes(8)])))
        damaged[place : place + len(piece)] = piece
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        tried = Path(folder) / "program"
        tried.write_bytes(damaged)
        _try_everything(tried)


def _try_everything(path: Path) -> None:
    try:
        with ElfFile(path) as file:
            for room in file.rooms():
                file.release(room)
            for size in (SMALL, LARGE):
                room = file.find_room(size, (0x400000, 0x400000))
                file.allocate(room)
                assert file.code_with(room.address)
                file.release(room)
    except A64PatchError:
        pass

"""Room for new code in relocatable ELF files: linkers put it into programs, which qemu-aarch64 executes.

Read on: test_elf_room.py for linked files. tests/real/test_module_room.py loads a kernel module with a room.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a64patch.a64.assembler import assemble_one
from a64patch.a64.words import to_bytes
from a64patch.cli.main import main
from a64patch.errors import A64PatchError, CapabilityError, MappingError, RelocationError, SymbolError
from a64patch.targets.base import Room
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_object_room import NewRelocation
from tests.support import IN_MEMORY, assemble, link, need, run
from tests.targets.elf_files import NOP, section_headers, set_bytes
from tests.targets.test_elf_room import status

SOURCE = """
        .globl _start, more
        .type _start, %function
        .type answer, %function
_start: bl answer
        mov x8, #93
        svc #0
answer: mov x0, #1
        bl outside
        mov x8, #93
        svc #0
        .size answer, . - answer
back:   nop
        mov x8, #93
        svc #0
        .section .text.other, "ax"
        .type other, %function
other:  add x0, x0, #1
        ret
        .data
        .skip 24
value:  .xword 30
        .bss
        .skip 8
        .globl counted
counted: .skip 8
"""
OUTSIDE = """
        .globl outside
outside: add x0, x0, #2
        ret
"""
JUMP26, CALL26, PAGE, LOAD, ADD = 282, 283, 275, 286, 277


def objects(folder: Path, big: bool = False) -> tuple[Path, Path]:
    order = "-EB" if big else "-EL"
    return assemble(SOURCE, folder / "object.o", order), assemble(OUTSIDE, folder / "outside.o", order)


def answer_of(folder: Path, patched: Path, other: Path, big: bool = False) -> int:
    program = link([patched, other], folder / "program", "-EB" if big else "-EL")
    return status(program, big)


def patched(path: Path) -> Room:
    """Let `answer` go to new code, which uses all kinds of places and then goes to `back`."""
    with ElfFile(path) as file:
        answer, back, value = (file.symbols[name] for name in ("answer", "back", "value"))
        room = file.find_room(64, (answer, answer))
        file.allocate(room)
        texts = (
            "adrp x1, 0", "ldr x0, [x1]", "bl 0", "bl 0", "adrp x2, 0", "add x2, x2, #0", "str x0, [x2]",
            "ldr x0, [x2]", "b 0",
        )  # fmt: skip
        words = [assemble_one(text, 0) for text in texts]
        file.write(room.address, to_bytes(words))
        file.write(answer, to_bytes(assemble_one("b 0", 0)))
        at = [room.address + 4 * number for number in range(len(texts))]
        file.relocate(
            [
                NewRelocation(answer, JUMP26, room.address),
                NewRelocation(at[0], PAGE, value),
                NewRelocation(at[1], LOAD, value - 8, 8),
                NewRelocation(at[2], CALL26, file.symbols["other"]),
                NewRelocation(at[3], CALL26, "outside"),
                NewRelocation(at[4], PAGE, "counted"),
                NewRelocation(at[5], ADD, "counted"),
                NewRelocation(at[8], JUMP26, back),
            ]
        )
        file.publish(0, 0)
    return room


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
def test_new_code_is_linked_and_executes(tmp_path: Path, big: bool) -> None:
    """30 from .data, 1 by `other` in another section, 2 by `outside` of another file; through .bss and back."""
    path, other = objects(tmp_path, big)
    before = path.read_bytes()
    assert answer_of(tmp_path, path, other, big) == 3
    room = patched(path)
    assert answer_of(tmp_path, path, other, big) == 33
    for reader in ("aarch64-linux-gnu-readelf", "llvm-readelf"):
        name = need(reader, "llvm" if reader.startswith("llvm") else "binutils-aarch64-linux-gnu")
        done = subprocess.run([name, "-SWrs", path], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert ".rela.text.a64patch.1" in done.stdout
    for tool in ("aarch64-linux-gnu-strip", "llvm-strip"):
        run(need(tool, "llvm"), "-g", "-o", tmp_path / "stripped.o", path)
        assert answer_of(tmp_path, tmp_path / "stripped.o", other, big) == 33
    joined = link(path, tmp_path / "joined.o", "-r", "-EB" if big else "-EL")
    assert answer_of(tmp_path, joined, other, big) == 33
    with ElfFile(path) as file:
        assert [(each.address, each.size) for each in file.rooms()] == [(room.address, room.size)]
        answer = file.symbols["answer"]
        file.write(answer, before[answer : answer + 4])
        assert file.release(file.rooms()[0]) == ""
        file.publish(0, 0)
    assert path.read_bytes() == before


def test_a_branch_that_goes_away_loses_its_relocation(tmp_path: Path) -> None:
    """The room stays: a newer one keeps it."""
    path, other = objects(tmp_path)
    before = path.read_bytes()
    room = patched(path)
    with ElfFile(path) as file:
        answer = file.symbols["answer"]
        assert file.relocation_at(answer) is None
        newer = file.find_room(8, (answer, answer))
        file.allocate(newer)
        file.write(answer, before[answer : answer + 4])
        assert "is newer" in file.release(room)
        file.publish(0, 0)
    assert answer_of(tmp_path, path, other) == 3


def test_an_old_relocation_of_a_word_that_leads_to_new_code_is_dropped(tmp_path: Path) -> None:
    path, other = objects(tmp_path)
    before = path.read_bytes()
    with ElfFile(path, drop_relocations=True) as file:
        call = file.symbols["answer"] + 4
        room = file.find_room(8, (call, call))
        file.allocate(room)
        file.write(room.address, to_bytes([assemble_one("mov x0, #9", 0), assemble_one("b 0", 0)]))
        file.write(call, to_bytes(assemble_one("b 0", 0)))
        file.relocate(
            [
                NewRelocation(call, JUMP26, room.address),
                NewRelocation(room.address + 4, JUMP26, file.symbols["back"]),
            ]
        )
        file.publish(0, 0)
    assert answer_of(tmp_path, path, other) == 9
    with ElfFile(path) as file:
        file.write(call, before[call : call + 4])
        assert file.release(room) == ""
        file.publish(0, 0)
    assert path.read_bytes() == before


DETOUR = """\
@@ annex more align 16 @@
+????????  cbz x0, other
+????????  add x0, x0, #4
+????????  b other

@@ detour answer @@
-d2800020  mov x0, #1
+????????  mov x0, #7
+????????  mov x9, #3
+????????  bl annex:more
"""


def test_a_patch_with_detour_and_annex(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its branches between sections get relocations by themselves. 7 + 4 + 1 by `other` + 2 by `outside`."""
    path, other = objects(tmp_path)
    before = path.read_bytes()
    patch = tmp_path / "patch"
    patch.write_text(DETOUR)
    journal = ["--journal", str(tmp_path / "journal")]
    assert main(["apply", str(patch), str(path), *journal]) == 0, capsys.readouterr()
    assert answer_of(tmp_path, path, other) == 14
    assert main(["status", str(patch), str(path)]) == 0, capsys.readouterr()
    assert main(["apply", "-R", str(patch), str(path), *journal]) == 0, capsys.readouterr()
    assert path.read_bytes() == before


PLACES = """\
@@ annex f @@
+????????  stp x29, x30, [sp, #-16]!
+????????  adrp x1, annex:.rodata+0x8
+????????  ldr x0, [x1, :lo12:annex:.rodata+0x8]
+????????  bl outside
+????????  adrp x1, .data:0x18
+????????  ldr x2, [x1, :lo12:.data:0x18]
+????????  add x0, x0, x2
+????????  adrp x1, counted
+????????  add x2, x1, :lo12:counted
+????????  str w0, [x2]
+????????  ldr w0, [x1, :lo12:counted]
+????????  ldp x29, x30, [sp], #16
+????????  b back

@@ annex .rodata align 8 @@
+????????  .word 1
+????????  .word 0
+????????  .word 5
+????????  .word 0

@@ answer -1 +1 @@
-d2800020  mov x0, #1
+????????  b annex:f
"""


def test_new_code_names_what_the_file_leaves_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """5 from an annex, 2 by `outside` of another file, 30 from .data, through .bss. `revert` undoes all, and itself."""
    path, other = objects(tmp_path)
    before = path.read_bytes()
    patch = tmp_path / "patch"
    patch.write_text(PLACES)
    journal = ["--journal", str(tmp_path / "journal")]
    assert main(["apply", str(patch), str(path), *journal]) == 0, capsys.readouterr()
    applied = path.read_bytes()
    assert answer_of(tmp_path, path, other) == 37
    assert main(["status", str(patch), str(path)]) == 0
    assert "not applied" not in capsys.readouterr().out
    for command, after in (
        (["apply", "-R", str(patch), str(path)], before),
        (["revert", "2"], applied),
        (["revert", "3"], before),
    ):
        assert main([*command, *journal]) == 0, capsys.readouterr()
        assert path.read_bytes() == after


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cbz x0, outside", "outside may be far away when the target is loaded; only b, bl, adrp"),
        ("ldr x0, counted", "counted may be far away"),
        ("adrp x0, 0x1000", "an address says nothing about another build; name a symbol"),
        ("add x0, x0, :lo12:0x40", "whoever loads the target moves this place"),
        ("adrp x0, counted-8", "name a symbol before it, and the distance from there"),
        ("adrp x0, counted+0x80000000", "name a symbol before it"),
        (".word other-annex:f", "other is no place of the new code: the distance is known only when"),
    ],
)
def test_new_code_that_cannot_be_relocated(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = objects(tmp_path)
    before = path.read_bytes()
    patch = tmp_path / "patch"
    patch.write_text(PLACES.replace("+????????  bl outside\n", f"+????????  {text}\n"))
    assert main(["apply", str(patch), str(path), "--journal", str(tmp_path / "journal")]) == 1
    assert why in capsys.readouterr().err
    assert path.read_bytes() == before


def test_no_room_is_lost_to_an_erratum_of_other_addresses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ADRP at all offsets in a page: where each lies is for the loader to say, and so is erratum 843419."""
    path, _ = objects(tmp_path)
    patch = tmp_path / "patch"
    patch.write_text(PLACES.replace("+????????  bl outside\n", "+????????  adrp x1, counted\n" * 1024))
    assert main(["apply", str(patch), str(path), "--journal", str(tmp_path / "journal")]) == 0
    assert f"{12 + 1024 + 4} words of new code" in capsys.readouterr().out


def test_a_page_of_new_code_is_not_formed_in_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = objects(tmp_path)
    patch = tmp_path / "patch"
    patch.write_text(PLACES.replace("+????????  b annex:f", "+????????  adrp x0, annex:f"))
    assert main(["apply", str(patch), str(path), "--journal", str(tmp_path / "journal")]) == 1
    assert "stays in place, and whoever loads the target moves the new code" in capsys.readouterr().err


def test_two_patches_in_turn_one_of_a_word_that_a_relocation_owns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = objects(tmp_path)
    states = [path.read_bytes()]
    detour = "@@ detour answer+0x4 @@\n-94000000  bl answer+0x4\n+????????  mov x0, #7\n+????????  bl other\n"
    journal = ["--journal", str(tmp_path / "journal")]
    for name, text, expected in (("first", detour, 8), ("second", DETOUR, 8)):
        (tmp_path / name).write_text(text)
        options = ["--drop-relocations", "--accept", "relocation"] if name == "first" else []
        if options:
            assert main(["apply", str(tmp_path / name), str(path), *journal]) == 1
            assert "belongs to R_AARCH64_CALL26 against outside" in capsys.readouterr().err
            assert path.read_bytes() == states[0]
        assert main(["apply", str(tmp_path / name), str(path), *options, *journal]) == 0, capsys.readouterr()
        assert answer_of(tmp_path, path, other) == expected
        states.append(path.read_bytes())
    for entry in (2, 1):
        assert main(["revert", str(entry), *journal]) == 0, capsys.readouterr()
        assert path.read_bytes() == states[entry - 1]


def test_a_goal_is_counted_from_a_symbol_of_its_section(tmp_path: Path) -> None:
    """There is no symbol at the start of .data, nor one for the section. The last goal of a word counts."""
    path, other = objects(tmp_path)
    data = path.read_bytes()
    headers = [fields for _, fields in section_headers(data)]
    [home] = [number for number, fields in enumerate(headers) if fields[1] == 1 and fields[2] == 3]
    [symbols] = [fields for fields in headers if fields[1] == 2]
    for at in range(symbols[4], symbols[4] + symbols[5], 24):
        if data[at + 6 : at + 16] == bytes((home, 0)) + bytes(8):
            data = set_bytes(data, at + 4, "B", 6)  # STT_TLS
    path.write_bytes(data)
    with ElfFile(path) as file:
        answer = file.symbols["answer"]
        room = file.find_room(16, (answer, answer))
        file.allocate(room)
        texts = ("adrp x1, 0", "ldr x0, [x1]", "b 0")
        file.write(room.address, to_bytes([assemble_one(text, 0) for text in texts]))
        file.write(answer, to_bytes(assemble_one(f"b {room.address:#x}", answer)))
        for goal in ("_start", "value"):
            places = enumerate((PAGE, LOAD))
            file.relocate([NewRelocation(room.address + 4 * i, kind, file.symbols[goal]) for i, kind in places])
        file.relocate([NewRelocation(room.address + 8, JUMP26, file.symbols["back"])])
        file.publish(0, 0)
    assert answer_of(tmp_path, path, other) == 30


def test_a_room_that_is_given_back_before_it_is_published_leaves_nothing(tmp_path: Path) -> None:
    path, _ = objects(tmp_path)
    before = path.read_bytes()
    with ElfFile(path) as file:
        answer, back = file.symbols["answer"], file.symbols["back"]
        room = file.find_room(4, (answer, answer))
        file.allocate(room)
        file.write(room.address, to_bytes(assemble_one(f"b {back:#x}", room.address)))
        file.write(answer, to_bytes(assemble_one(f"b {room.address:#x}", answer)))
        file.write(answer, before[answer : answer + 4])
        assert file.release(room) == ""
        file.publish(0, 0)
    assert path.read_bytes() == before


def test_an_address_of_a_page_must_be_told(tmp_path: Path) -> None:
    path, _ = objects(tmp_path)
    before = path.read_bytes()
    with ElfFile(path) as file:
        room = file.find_room(8, (64, 64))
        file.allocate(room)
        file.write(room.address, to_bytes(assemble_one("adrp x0, 0", 0)))
        with pytest.raises(RelocationError, match="does not tell what it refers to"):
            file.publish(0, 0)
        assert path.read_bytes() == before
        file.relocate([NewRelocation(room.address, PAGE, file.symbols["value"])])
        file.publish(0, 0)
    assert path.read_bytes() != before


def test_refused(tmp_path: Path) -> None:
    path, _ = objects(tmp_path)
    with ElfFile(path) as file:
        answer = file.symbols["answer"]
        with pytest.raises(MappingError, match="no new room"):
            file.relocate([])
        room = file.find_room(8, (answer, answer))
        file.allocate(room)
        for relocation, error, message in (
            (NewRelocation(answer, JUMP26, 1 << 40), MappingError, "in no section that is loaded"),
            (NewRelocation(answer, JUMP26, "printk"), SymbolError, "printk is no symbol without an address"),
            (NewRelocation(answer, 257, room.address), RelocationError, "cannot have R_AARCH64_ABS64"),
            (NewRelocation(answer + 2, JUMP26, room.address), MappingError, "not a multiple of 4"),
            (NewRelocation(file.symbols["value"], JUMP26, room.address), MappingError, "is not code"),
        ):
            with pytest.raises(error, match=message):
                file.relocate([relocation])
        assert [(each.address, each.size) for each in file.rooms()] == [(room.address, room.size)]
    run(need("aarch64-linux-gnu-objcopy", "binutils-aarch64-linux-gnu"), "--strip-all", path)
    with ElfFile(path) as file, pytest.raises(CapabilityError, match="has no symbol table"):
        file.find_room(8, (answer, answer))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path, _ = objects(tmp_path_factory.mktemp("sound"))
    patched(path)
    return path.read_bytes()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_objects_give_one_of_our_errors(sound: bytes, data: st.DataObject) -> None:
    content = sound
    places = [*range(16, 64), *(at + i for at, _ in section_headers(content) for i in range(64))]
    for _ in range(data.draw(st.integers(1, 4))):
        value = data.draw(st.sampled_from([0, 1, 2, 4, 8, 24, 0xFFFF, 1 << 31, 1 << 63]))
        content = set_bytes(content, data.draw(st.sampled_from(places[:-8])), "Q", value)
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        path = Path(folder) / "object.o"
        path.write_bytes(content)
        _try_everything(path)


def _try_everything(path: Path) -> None:
    try:
        with ElfFile(path) as file:
            for known in file.rooms():
                file.release(known)
            room = file.find_room(8, (64, 64))
            file.allocate(room)
            file.write(room.address, NOP)
            file.relocate([NewRelocation(room.address, JUMP26, "outside")])
            file.release(room)
    except A64PatchError:
        pass

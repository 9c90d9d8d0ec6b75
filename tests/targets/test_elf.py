"""ELF files as targets: what may be read and written, what is replaced on disk, what relocations own.

Files are built with GNU as, ld and gcc; readelf and qemu-aarch64 are asked what they make of the result.
"""

from __future__ import annotations

import mmap
import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.errors import (
    A64PatchError,
    CapabilityError,
    FormatError,
    MappingError,
    RelocationError,
    RequestError,
    SymbolError,
    TargetError,
    WriteError,
)
from a64patch.targets.base import Identity
from a64patch.targets.elf import ElfFile
from tests.support import assemble, calls_made_by, eventually, link, need, run, unavailable
from tests.targets.elf_files import (
    KINDS,
    MOV,
    NOP,
    RET,
    TEXT_RELOCATIONS,
    build,
    header,
    program_headers,
    section_headers,
    set_bytes,
    with_packed_relocations,
)

BINUTILS, GCC = "binutils-aarch64-linux-gnu", "gcc-aarch64-linux-gnu"


def different(before: bytes, after: bytes) -> list[int]:
    """The offsets at which two files of one size differ."""
    assert len(before) == len(after)
    return [offset for offset, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]


def relocations(path: Path) -> list[list[str]]:
    """readelf's lines on relocations, as columns: offset, info, type, …"""
    lines = run(need("aarch64-linux-gnu-readelf", BINUTILS), "-rW", path).splitlines()
    return [line.split() for line in lines if " R_AARCH64_" in line]


def patch(path: Path, site: str, data: bytes, **options: bool) -> None:
    with ElfFile(path, **options) as file:
        address = file.symbols.resolve(site)
        file.write(address, data)
        file.publish(address, address + len(data))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return build(tmp_path, "exec")


# Reading and writing


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_bytes_written_change(tmp_path: Path, kind: str, big: bool) -> None:
    path = build(tmp_path, kind, big)
    before = path.read_bytes()
    with open_target(path) as file:
        assert isinstance(file, ElfFile)
        assert file.is_relocatable == (kind == "object")
        assert file.path == str(path)
        assert file.build_id == ("" if kind == "object" else "00112233445566778899aabbccddeeff")
        start = file.symbols["_start"]
        assert file.read(start, 8) == MOV + NOP
        assert file.read(start, 0) == b""
        file.write(start + 4, RET)
        assert file.read(start, 8) == MOV + RET
        assert path.read_bytes() == before
        file.publish(start + 4, start + 8)
    after = path.read_bytes()
    offset = before.index(MOV + NOP) + 4
    assert after == before[:offset] + RET + before[offset + 4 :]
    listing = run(need("aarch64-linux-gnu-objdump", BINUTILS), "-d", "--disassemble=_start", path)
    assert listing.count("\tret") == 2


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_code_may_be_written(tmp_path: Path, kind: str, big: bool) -> None:
    path = build(tmp_path, kind, big)
    with ElfFile(path) as file:
        for site in ("constant", "pointer"):
            address = file.symbols[site]
            assert len(file.read(address, 8)) == 8
            with pytest.raises(MappingError, match=f"{site} .*is not code"):
                file.write(address, NOP)
        constant = struct.pack(">Q" if big else "<Q", 0x1122334455667788)
        assert file.read(file.symbols["constant"], 8) == constant
        first, last = file.code_ranges()[0][0], file.code_ranges()[-1][1]
        for address, data in ((first - 4, NOP + NOP), (last - 4, NOP + NOP), (last, NOP), (-4, NOP), (1 << 64, NOP)):
            with pytest.raises(MappingError):
                file.write(address, data)
        with pytest.raises(MappingError):
            file.read(first, -1)
        with pytest.raises(MappingError):
            file.read(first, 1 << 62)
        if kind != "object":
            with pytest.raises(MappingError, match="do not all stand in"):
                file.read(file.symbols["room"], 4)
        assert file.read(first, last - first) == ElfFile(path).read(first, last - first)


def test_headers_in_an_executable_segment_are_not_code(program: Path) -> None:
    with ElfFile(program) as file:
        base = program_headers(program.read_bytes())[0][1][3]
        assert file.read(base, 4) == b"\x7fELF"
        with pytest.raises(MappingError):
            file.write(base, NOP)
    bare = program.read_bytes()
    bare = set_bytes(set_bytes(bare, 40, "Q", 0), 60, "H", 0)  # no section headers
    program.write_bytes(bare)
    with ElfFile(program) as file:
        with pytest.raises(MappingError):
            file.write(base, NOP)
        file.write(base + bare.index(MOV + NOP), RET)


def test_nobody_executes_a_file(program: Path) -> None:
    before = program.read_bytes()
    with ElfFile(program) as file:
        has = file.capabilities
        assert (has.kind, has.cpus) == ("ELF file", 0)
        assert all((has.can_stop, has.can_kick, has.sees_pcs, has.broadcast))
        assert not has.writes_data
        with pytest.raises(CapabilityError, match="this ELF file writes code only, not data"):
            file.write_data(0, bytes(4))
        file.kick()
        with file.stop() as cpus:
            assert list(cpus.states()) == []
            assert cpus.rendezvous.everyone_arrived
            assert not cpus.rendezvous.done
        assert cpus.rendezvous.done

        def fail() -> None:
            with file.stop():
                file.write(file.symbols["_start"], RET)
                raise KeyError

        with pytest.raises(KeyError):
            fail()
    assert program.read_bytes() == before


def test_a_closed_file_is_no_target(program: Path) -> None:
    file = ElfFile(program)
    start = file.symbols["_start"]
    file.close()
    for use in (lambda: file.read(start, 4), lambda: file.write(start, RET), lambda: file.publish(start, start + 4)):
        with pytest.raises(TargetError, match="was closed"):
            use()


def test_a_simulator_takes_its_options_in_the_text() -> None:
    with pytest.raises(RequestError):
        open_target("sim:program", drop_relocations=True)


# Names


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("kind", ["exec", "pie", "shared"])
def test_symbols_are_those_of_readelf(tmp_path: Path, kind: str, big: bool) -> None:
    path = build(tmp_path, kind, big)
    listed = set()
    for line in run(need("aarch64-linux-gnu-readelf", BINUTILS), "-sW", path).splitlines():
        number, *fields = line.split() or [""]
        if number[:-1].isdigit() and len(fields) == 7 and fields[5] not in ("UND", "COM"):
            value, size, kind_of_symbol, _, _, _, name = fields
            if kind_of_symbol not in ("SECTION", "FILE", "TLS") and name not in ("$x", "$d"):
                listed.add((name, int(value, 16), int(size, 0)))
    with ElfFile(path) as file:
        found = {(symbol.name, symbol.address, symbol.size) for symbol in file.symbols.load()}
        assert found == listed
        assert file.symbols.describe(file.symbols["_start"] + 8) == "_start+0x8"
        assert file.symbols.resolve("constant_number") == 0x1234
    assert {"_start", "helper", "second", "constant", "pointer", "room"} <= {name for name, _, _ in found}


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
def test_relocatable_files_count_in_sections(tmp_path: Path, big: bool) -> None:
    path = build(tmp_path, "object", big)
    data = path.read_bytes()
    with ElfFile(path) as file:
        table = file.symbols
        start = data.index(MOV + NOP)
        assert table.resolve(".text:0x4") == table.resolve("_start+4") == table.resolve(".text:_start+4") == start + 4
        assert table.resolve(".text.second:4") == table["second"] + 4 == data.rindex(NOP + RET) + 4
        assert table.find("second").module == ".text.second"
        assert table.describe(start + 4) == "_start+0x4"
        assert table.describe(table["constant"] + 1) == "constant+0x1"
        with pytest.raises(SymbolError, match=r"outside \.text"):
            table.resolve(".text:0x1000")
        for name in ("per_thread", "room", "common_room", "constant_number", "$x", ".bss:0", ""):
            with pytest.raises(SymbolError):
                table.resolve(name)
        assert {space.name for space in table.spaces} == {".text", ".text.second", ".rodata", ".data"}
    nameless = assemble('.text\n nop\n .section .other, "ax"\n nop', tmp_path / "nameless.o")
    with ElfFile(nameless) as file:
        assert file.symbols.describe(file.symbols.resolve(".other:0")) == ".other:0x0"


def test_sections_of_one_name_are_never_guessed(tmp_path: Path) -> None:
    source = "".join(
        f'.section .text.same, "axG", %progbits, group{number}, comdat\n'
        f".type twin, %function\ntwin{number}: nop\n .globl group{number}\ngroup{number}: ret\n"
        for number in range(2)
    )
    path = assemble(source, tmp_path / "same.o")
    with ElfFile(path) as file:
        with pytest.raises(SymbolError, match="stands for 2 sections"):
            file.symbols.resolve(".text.same:0")
        second = file.symbols["twin1"]
        assert second != file.symbols["twin0"]
        assert file.symbols.resolve(".text.same:twin1") == second
        assert file.symbols.describe(second + 4) == "group1"
    local = "".join(f'.section .text.f{number}, "ax"\nstatic: nop\n' for number in range(1))
    assemble(local + '.section .text.g, "ax"\n nop\n', tmp_path / "a.o")
    assemble(local, tmp_path / "b.o")
    joined = link([tmp_path / "a.o", tmp_path / "b.o"], tmp_path / "joined.o", "-r", "--unique")
    with ElfFile(joined) as file:
        with pytest.raises(SymbolError, match="stands for 2 addresses"):
            file.symbols.resolve("static")
        with pytest.raises(SymbolError, match="stands for 2"):
            file.symbols.resolve(".text.f0:static")
        for start, _ in file.code_ranges():
            assert file.symbols.resolve(file.symbols.describe(start)) == start


def test_more_sections_than_16_bits_can_count(tmp_path: Path) -> None:
    count = 0x10010
    source = "".join(f'.section .t{number}, "ax"\nf{number}: .word {number}\n' for number in range(count))
    path = assemble(source, tmp_path / "many.o")
    assert header(path.read_bytes())[11] == 0

    def use() -> None:
        with ElfFile(path) as file:
            for number in (0, 0xFEF0, 0xFFFF, count - 1):
                assert file.symbols[f"f{number}"] == file.symbols.resolve(f".t{number}:0")
                assert file.read(file.symbols[f"f{number}"], 4) == struct.pack("<I", number)
            file.write(file.symbols["f65535"], NOP)
            file.publish(0, 0)

    assert calls_made_by(use) < 100 * count, "no section is compared with each other one"


def test_names_cannot_control_a_terminal(tmp_path: Path) -> None:
    path = assemble('.globl "a\x1b[31mb"\n"a\x1b[31mb": nop', tmp_path / "escape.o")
    with ElfFile(path) as file:
        assert [symbol.name for symbol in file.symbols.load()] == ["a\\x1b[31mb"]


def test_build_id_of_a_relocatable_file(tmp_path: Path) -> None:
    note = '.section .note.gnu.build-id, "a", %note\n.word 4, 3, 3\n.asciz "GNU"\n.byte 1, 2, 0xab\n'
    other = '.section .note.other, "a", %note\n.word 4, 5, 7\n.asciz "abc"\n.balign 4\n.skip 8\n'
    for endian in ("-EL", "-EB"):
        with ElfFile(assemble(other + note, tmp_path / "id.o", endian)) as file:
            assert file.build_id == "0102ab"
            assert file.identity() == Identity(str(tmp_path / "id.o"), "0102ab")


def test_a_file_is_found_again_from_any_directory(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(program.parent)
    with ElfFile(program.name) as file:
        location = file.identity().location
    monkeypatch.chdir("/")
    with open_target(location) as again:
        assert again.identity().location == str(program)


# Replacing the file


def test_the_file_is_replaced_once_and_only_when_it_differs(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = []
    replace = os.replace

    def counted(old: str, new: str, src_dir_fd: int, dst_dir_fd: int) -> None:
        replaced.append(1)
        replace(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "replace", counted)
    before = program.read_bytes()
    inode = program.stat().st_ino
    with ElfFile(program) as file:
        start = file.symbols["_start"]
        file.publish(start, start + 4)
        file.write(start, RET)
        file.write(start + 4, RET)
        file.write_many([(start, MOV), (start + 4, NOP)])
        file.publish_many([(start, start + 4), (start + 4, start + 8)])
        assert replaced == []
        file.write_many([(start, RET), (start + 4, RET)])
        file.publish_many([(start, start + 4), (start + 4, start + 8)])
        file.publish(start, start + 4)
        assert replaced == [1]
        assert program.stat().st_ino != inode
        assert different(before, program.read_bytes()) != []
        file.write_many([(start, MOV), (start + 4, NOP)])
        file.publish(start, start + 8)
        assert replaced == [1, 1]
    assert program.read_bytes() == before


def failing(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("function", ["write", "fsync", "replace", "fchmod", "setxattr", "open", "fstat"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    program: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    if function == "setxattr":
        set_attribute(program, "user.note", b"kept")
    before = program.read_bytes()
    names = sorted(os.listdir(program.parent))
    with ElfFile(program) as file:
        start = file.symbols["_start"]
        file.write(start, RET)
        with monkeypatch.context() as patched:
            patched.setattr(os, function, failing)
            with pytest.raises(WriteError, match=r"cannot replace .*unchanged: No space left on device"):
                file.publish(start, start + 4)
        assert program.read_bytes() == before
        assert sorted(os.listdir(program.parent)) == names
        file.publish(start, start + 4)
    assert program.read_bytes() == before.replace(MOV, RET)


def test_a_short_write_is_continued(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:1000]))
    expected = program.read_bytes().replace(MOV, RET)
    patch(program, "_start", RET)
    assert program.read_bytes() == expected


def test_an_interrupt_leaves_no_temporary_file(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = program.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    names = sorted(os.listdir(program.parent))
    with pytest.raises(KeyboardInterrupt):
        patch(program, "_start", RET)
    assert program.read_bytes() == before
    assert sorted(os.listdir(program.parent)) == names


def test_a_directory_that_does_not_synchronise_is_reported(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = program.read_bytes()
    fsync = os.fsync

    def refuse_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    with ElfFile(program) as file:
        start = file.symbols["_start"]
        file.write(start, RET)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", refuse_directories)
            with pytest.raises(WriteError, match="was replaced, but"):
                file.publish(start, start + 4)
        assert program.read_bytes() != before
        file.write(start, MOV)
        file.publish(start, start + 4)
    assert program.read_bytes() == before


@pytest.mark.parametrize("function", ["write", "fsync", "replace"])
def test_a_killed_process_leaves_the_old_file_whole(program: Path, function: str) -> None:
    before = program.read_bytes()
    script = (
        "import os, sys; from a64patch.targets.elf import ElfFile; file = ElfFile(sys.argv[1]); "
        "start = file.symbols['_start']; file.write(start, bytes(4)); "
        f"os.{function} = lambda *a, **k: os.kill(os.getpid(), 9); file.publish(start, start + 4)"
    )
    done = subprocess.run([sys.executable, "-c", script, program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert program.read_bytes() == before
    patch(program, "_start", RET)
    assert program.read_bytes() == before.replace(MOV, RET)


def set_attribute(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        unavailable(f"{path.parent} keeps no {name}: {error.strerror}; set TMPDIR to an ext4, xfs or btrfs file system")


@pytest.mark.parametrize("mode", [0o644, 0o4755, 0o2711, 0o200 | 0o400])
def test_mode_and_attributes_are_kept(program: Path, mode: int) -> None:
    set_attribute(program, "user.note", b"kept")
    program.chmod(mode)
    patch(program, "_start", RET)
    assert stat.S_IMODE(program.stat().st_mode) == mode
    assert os.listxattr(program) == ["user.note"]
    assert os.getxattr(program, "user.note") == b"kept"


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """Linux's struct posix_acl_xattr: entries of (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_access_control_lists_are_kept_and_not_inherited(program: Path) -> None:
    nobody = 0xFFFFFFFF
    granted = access_list((1, 6, nobody), (2, 4, 1234), (4, 4, nobody), (0x10, 4, nobody), (0x20, 0, nobody))
    default = access_list((1, 7, nobody), (2, 7, 4321), (4, 5, nobody), (0x10, 7, nobody), (0x20, 5, nobody))
    set_attribute(program.parent, "system.posix_acl_default", default)
    patch(program, "_start", RET)
    assert os.listxattr(program) == []
    set_attribute(program, "system.posix_acl_access", granted)
    mode = program.stat().st_mode
    patch(program, "_start", MOV)
    assert os.getxattr(program, "system.posix_acl_access") == granted
    assert program.stat().st_mode == mode


def test_owner_and_group_are_kept(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        unavailable("only root may give files away: run the tests as root")
    os.chown(program, 1234, 4321)
    program.chmod(0o6755)
    patch(program, "_start", RET)
    status = program.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 4321, 0o6755)
    monkeypatch.setattr(os, "fchown", failing)
    with pytest.raises(WriteError, match="unchanged: No space"):
        patch(program, "_start", MOV)
    assert program.stat().st_ino == status.st_ino


def test_a_symbolic_link_stays_one(program: Path) -> None:
    elsewhere = program.parent / "elsewhere"
    elsewhere.mkdir()
    link_to = elsewhere / "link"
    link_to.symlink_to(f"../{program.name}")
    patch(link_to, "_start", RET)
    assert link_to.is_symlink()
    assert RET + NOP in program.read_bytes()
    assert os.listdir(elsewhere) == ["link"]


def test_hard_links_are_refused(program: Path) -> None:
    other = program.parent / "other"
    other.hardlink_to(program)
    with ElfFile(program) as file:
        start = file.symbols["_start"]
        with pytest.raises(WriteError, match=r"has 2 hard links.*patch a copy"):
            file.write(start, RET)
        assert file.read(start, 4) == MOV
        other.unlink()
        file.write(start, RET)
        other.hardlink_to(program)
        with pytest.raises(WriteError, match="hard links"):
            file.publish(start, start + 4)


def test_read_only_files_can_be_read_only(program: Path) -> None:
    program.chmod(0o444)
    with ElfFile(program) as file:
        start = file.symbols["_start"]
        assert file.read(start, 4) == MOV
        with pytest.raises(WriteError, match=r"is read-only: .*chmod u\+w"):
            file.write(start, RET)
        assert file.read(start, 4) == MOV
        program.chmod(0o644)
        file.write(start, RET)
        program.chmod(0o444)
        with pytest.raises(WriteError, match="read-only"):
            file.publish(start, start + 4)


@pytest.mark.parametrize(("part", "says"), [("file", "is read-only"), ("directory", "its directory")])
def test_permissions_of_this_user(program: Path, monkeypatch: pytest.MonkeyPatch, part: str, says: str) -> None:
    refused = str(program if part == "file" else program.parent)
    monkeypatch.setattr(os, "access", lambda path, mode, **_: os.fspath(path) != refused)
    with ElfFile(program) as file, pytest.raises(WriteError, match=says):
        file.write(file.symbols["_start"], RET)


@pytest.mark.parametrize("change", ["append", "touch", "put back", "replace", "remove", "directory"])
def test_a_file_changed_on_disk_is_not_replaced(program: Path, change: str) -> None:
    with ElfFile(program) as file:
        start = file.symbols["_start"]
        file.write(start, RET)
        data = program.read_bytes()
        status = program.stat()
        if change == "append":
            program.write_bytes(data + b"\0")
        elif change == "touch":
            os.utime(program, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        elif change == "put back":
            with open(program, "r+b") as opened:
                opened.write(data[:-1] + b"~")
            os.utime(program, ns=(status.st_atime_ns, status.st_mtime_ns))
            assert program.stat().st_mtime_ns == status.st_mtime_ns
        elif change == "replace":
            copy = program.parent / "copy"
            copy.write_bytes(data)
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
            copy.replace(program)
        else:
            program.unlink()
            if change == "directory":
                program.mkdir()
        says = "unchanged: No such file" if change == "remove" else "changed on disk since it was opened"
        with pytest.raises(WriteError, match=says):
            file.publish(start, start + 4)
        assert [name for name in os.listdir(program.parent) if "a64patch" in name] == []


@pytest.mark.parametrize("change", ["write", "mapping"])
def test_a_change_that_no_time_tells_is_not_lost(program: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """All times have the same values again, as after a change between two ticks of the clock."""
    fstat, real_stat = os.fstat, os.stat
    with ElfFile(program) as file, open(program, "r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        before = real_stat(program)
        start = file.symbols["_start"]
        file.write(start, RET)
        if change == "write":
            opened.seek(-1, os.SEEK_END)
            opened.write(b"~")
            opened.flush()
        else:
            mapped[-1] = ord("~")

        def unmoved(status: os.stat_result) -> os.stat_result:
            return before if status.st_ino == before.st_ino else status

        monkeypatch.setattr(os, "fstat", lambda descriptor: unmoved(fstat(descriptor)))
        monkeypatch.setattr(os, "stat", lambda *place, **options: unmoved(real_stat(*place, **options)))
        with pytest.raises(WriteError, match="changed on disk since it was opened"):
            file.publish(start, start + 4)
        monkeypatch.undo()
    assert program.read_bytes()[-1:] == b"~"
    assert [name for name in os.listdir(program.parent) if "a64patch" in name] == []


def test_a_file_changed_at_the_last_moment_is_not_replaced(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: program.write_bytes(b"another"))
    with pytest.raises(WriteError, match="changed on disk"):
        patch(program, "_start", RET)
    assert program.read_bytes() == b"another"


def change_later(path: Path, change: Callable[[], None]) -> None:
    """Change a file when the clock of its file system has moved on."""
    before = path.stat().st_ctime_ns

    def changed() -> bool:
        change()
        return path.stat().st_ctime_ns > before

    assert eventually(changed)


def test_a_mode_that_changes_after_it_was_copied_is_not_lost(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: change_later(program, lambda: program.chmod(0o700)))
    with pytest.raises(WriteError, match="changed on disk"):
        patch(program, "_start", RET)
    assert program.stat().st_mode & 0o777 == 0o700


def test_a_file_that_changes_while_it_is_read_is_no_target(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time of modification is put back."""
    status, pread = program.stat(), os.pread

    def change(descriptor: int, size: int, offset: int) -> bytes:
        change_later(program, lambda: os.utime(program, ns=(0, status.st_mtime_ns)))
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", change)
    with pytest.raises(TargetError, match="changed while it was read"):
        ElfFile(program)


# Relocations


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
def test_a_word_of_the_linker_is_refused_or_the_relocation_dropped(tmp_path: Path, big: bool) -> None:
    path = build(tmp_path, "object", big)
    before = path.read_bytes()
    listed = relocations(path)
    assert [line[2] for line in listed] == ["R_AARCH64_CALL26", "R_AARCH64_ABS64"]
    with ElfFile(path) as file:
        call = file.symbols["_start"] + 8
        assert file.relocation_at(call) == file.relocation_at(call + 3) == "R_AARCH64_CALL26 against helper"
        assert file.relocation_at(call - 4) is file.relocation_at(call + 4) is None
        assert file.relocation_at(file.symbols["pointer"]) is None
        old = file.read(call, 4)
        for address, data in ((call, NOP), (call - 4, NOP + NOP), (call + 3, b"\1"), (call - 2, b"\1\1\1\1")):
            with pytest.raises(RelocationError, match=r"_start\+0x8 .*R_AARCH64_CALL26 against helper"):
                file.write(address, data)
        assert file.read(call - 4, 8) == NOP + old
        file.write(call, old)
        file.write(call - 4, RET + old)
        file.write(call - 4, NOP)
        file.publish(call, call + 4)
    assert path.read_bytes() == before
    with ElfFile(path, drop_relocations=True) as file:
        file.write(call, NOP)
        file.publish(call, call + 4)
        assert [line[2] for line in relocations(path)] == ["R_AARCH64_NONE", "R_AARCH64_ABS64"]
        assert relocations(path)[0][1][:-8] == listed[0][1][:-8]  # the symbol index stays
        assert path.read_bytes() != before
        file.write(call, old)
        file.publish(call, call + 4)
        assert path.read_bytes() == before
        file.write(call, NOP)
        file.publish(call, call + 4)
    offset = before.index(MOV + NOP) + 8
    entry = next(fields[4] for _, fields in section_headers(before) if fields[1] == 4)
    assert set(different(before, path.read_bytes())) <= {*range(offset, offset + 4), *range(entry + 8, entry + 16)}
    with ElfFile(path) as file:
        assert file.relocation_at(call) is None
        file.write(call, RET)


def test_each_relocation_owns_the_words_it_overwrites(tmp_path: Path) -> None:
    source = """
        .text
a:      .xword outside
b:      .word outside
        .hword outside, 0
c:      .hword 0, outside - .
        .xword outside - .
        .word 1
        adrp x0, outside + 0x10
        add x0, x0, :lo12:outside + 0x10
        .tlsdesccall outside_variable
        blr x1
        nop
"""
    path = assemble(source, tmp_path / "sizes.o")
    with ElfFile(path) as file:
        start, end = file.code_ranges()[0]
        owners = [file.relocation_at(address) for address in range(start, end, 4)]
    assert owners == [
        "R_AARCH64_ABS64 against outside",
        "R_AARCH64_ABS64 against outside",
        "R_AARCH64_ABS32 against outside",
        "R_AARCH64_ABS16 against outside",
        "R_AARCH64_PREL16 against outside",
        "R_AARCH64_PREL64 against outside",
        "R_AARCH64_PREL64 against outside",
        None,
        "R_AARCH64_ADR_PREL_PG_HI21 against outside+0x10",
        "R_AARCH64_ADD_ABS_LO12_NC against outside+0x10",
        "R_AARCH64_TLSDESC_CALL against outside_variable",
        None,
    ]


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("headers", [True, False], ids=["sections", "dynamic"])
def test_a_word_of_the_loader_is_refused_or_the_relocation_dropped(tmp_path: Path, big: bool, headers: bool) -> None:
    path = build(tmp_path, "pie", big, TEXT_RELOCATIONS, ("-z", "notext"))
    with ElfFile(path) as file:
        slot = file.symbols["slot"]
    before = path.read_bytes()
    if not headers:
        before = set_bytes(set_bytes(before, 40, "Q", 0), 60, "H", 0)
        path.write_bytes(before)
    with ElfFile(path) as file:
        owner = f"R_AARCH64_RELATIVE to {slot - 8:#x}"
        assert [file.relocation_at(slot + 4 * i) for i in range(-1, 5)] == [None, *[owner] * 4, None]
        with pytest.raises(RelocationError, match="R_AARCH64_RELATIVE"):
            file.write(slot + 12, NOP)
        file.write(slot - 8, RET)
    with ElfFile(path, drop_relocations=True) as file:
        old = file.read(slot + 12, 4)
        file.write(slot + 12, NOP)
        file.publish(slot, slot + 16)
        if headers:
            assert [line[2] for line in relocations(path)] == [
                *("R_AARCH64_RELATIVE", "R_AARCH64_NONE", "R_AARCH64_RELATIVE")
            ]
            dynamic = run(need("aarch64-linux-gnu-readelf", BINUTILS), "-dW", path)
            assert [line.split()[-1] for line in dynamic.splitlines() if "(RELACOUNT)" in line] == ["1"]
        file.write(slot + 12, old)
        file.publish(slot, slot + 16)
    assert path.read_bytes() == before


def test_the_real_loader_of_glibc_obeys_a_dropped_relocation(tmp_path: Path) -> None:
    source = tmp_path / "run.c"
    source.write_text(
        "extern const unsigned slot[];\n"
        "int main(void) { return slot[0] == 0x5a ? 42 : 7; }\n"
        '__asm__(".text\\n.balign 8\\n.globl slot\\n.hidden slot\\nslot: .xword main\\nnext: .xword main\\n");\n'
    )
    path = tmp_path / "run"
    run(need("aarch64-linux-gnu-gcc", GCC), "-O1", "-pie", "-fPIE", "-Wl,-z,notext", source, "-o", path)
    emulator = need("qemu-aarch64", "qemu-user")

    def status() -> int:
        return subprocess.run([emulator, "-L", "/usr/aarch64-linux-gnu", path], check=False).returncode

    assert status() == 7
    patch(path, "slot", struct.pack("<I", 0x5A), drop_relocations=True)
    assert status() == 42


def test_relocations_that_the_linker_only_left_behind_own_nothing(tmp_path: Path) -> None:
    path = build(tmp_path, "exec", options=("--emit-relocs",))
    assert "R_AARCH64_CALL26" in str(relocations(path))
    before = path.read_bytes()
    with ElfFile(path) as file:
        call = file.symbols["_start"] + 8
        assert file.relocation_at(call) is None
        file.write(call, NOP)
        file.publish(call, call + 4)
    assert different(before, path.read_bytes()) != []


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["sections", "dynamic"])
def test_packed_relative_relocations_cannot_be_dropped(tmp_path: Path, big: bool, dynamic: bool) -> None:
    source = TEXT_RELOCATIONS.replace("ret", ".skip 600")
    path = build(tmp_path, "pie", big, source, ("-z", "notext"))
    slot = with_packed_relocations(path, dynamic)
    packed = "R_AARCH64_RELATIVE (in a RELR table)"
    with ElfFile(path, drop_relocations=True) as file:
        assert [file.relocation_at(slot + 4 * i) for i in range(-1, 5)] == [None, *[packed] * 4, None]
        assert [file.relocation_at(slot + 512 + 4 * i) for i in range(-1, 3)] == [None, packed, packed, None]
        for word in (0, 1, 2, 3, 128, 129):
            with pytest.raises(RelocationError, match="cannot be dropped"):
                file.write(slot + 4 * word, NOP)
        file.write(slot - 8, RET)


def test_a_relocation_of_a_plt_cannot_be_dropped(tmp_path: Path) -> None:
    path = build(tmp_path, "pie", False, TEXT_RELOCATIONS, ("-z", "notext"))
    data = path.read_bytes()
    [at] = [fields[4] for _, fields in section_headers(data) if fields[1] == 4]
    path.write_bytes(set_bytes(data, at + 8, "I", 1032))
    with ElfFile(path, drop_relocations=True) as file, pytest.raises(RelocationError, match="cannot be dropped"):
        file.write(file.symbols["slot"], NOP)


def test_relocation_tables_in_an_executable_segment_are_not_code(tmp_path: Path) -> None:
    path = build(tmp_path, "pie", False, TEXT_RELOCATIONS, ("-z", "notext"))
    data = path.read_bytes()
    [address] = [fields[3] for _, fields in section_headers(data) if fields[1] == 4]
    path.write_bytes(set_bytes(set_bytes(data, 40, "Q", 0), 60, "H", 0))
    with ElfFile(path) as file:
        assert len(file.read(address, 72)) == 72
        for offset in (0, 8, 68):
            with pytest.raises(MappingError, match="is not code"):
                file.write(address + offset, NOP)


# Files that are none


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda path: None, TargetError, "cannot open .*: No such file or directory"),
        (lambda path: path.mkdir(), TargetError, "is a directory"),
        (os.mkfifo, TargetError, "is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), TargetError, "is not a regular file"),
        (lambda path: path.symlink_to(path), TargetError, "cannot open .*: Too many levels of symbolic links"),
        (lambda path: path.touch(), FormatError, "is empty"),
        (lambda path: path.write_bytes(b"#!/bin/sh\n"), FormatError, "is not an ELF file"),
        (lambda path: path.write_bytes(b"\x7fELF\2\1\1"), FormatError, "ends within its header"),
    ],
    ids=["missing", "directory", "fifo", "device", "loop", "empty", "text", "short"],
)
def test_what_is_no_elf_file(
    tmp_path: Path, make: Callable[[Path], None], error: type[A64PatchError], says: str
) -> None:
    path = tmp_path / "input"
    make(path)
    with pytest.raises(error, match=says) as caught:
        ElfFile(path)
    assert "input" in str(caught.value)


def test_what_is_no_regular_file_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    with pytest.raises(TargetError, match="is not a regular file"):
        ElfFile(fifo)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(TargetError, match="cannot open"):
        ElfFile(name)


def test_a_file_that_may_not_be_read(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(TargetError, match=r"cannot open .*: Permission denied"):
        ElfFile(program)


def test_a_file_of_more_than_2_gib(program: Path) -> None:
    os.truncate(program, (1 << 31) + 1)
    with pytest.raises(FormatError, match="2 GiB"):
        ElfFile(program)


@pytest.mark.parametrize(
    ("offset", "layout", "value", "says"),
    [
        (4, "B", 1, "64-bit"),
        (5, "B", 3, "encoding"),
        (6, "B", 0, "version"),
        (18, "H", 62, "machine number 62"),
        (16, "H", 4, "ELF type 4"),
        (32, "Q", 1 << 63, "program header 0"),
        (40, "Q", 1 << 63, "section header 0"),
        (54, "H", 32, "program headers have 32 bytes"),
        (58, "H", 40, "section headers have 40 bytes"),
        (56, "H", 0xFFFE, "65534 program headers"),
        (60, "H", 0xFEFF, "section headers"),
    ],
)
def test_headers_that_contradict_themselves(program: Path, offset: int, layout: str, value: int, says: str) -> None:
    program.write_bytes(set_bytes(program.read_bytes(), offset, layout, value))
    with pytest.raises(FormatError, match=says) as caught:
        ElfFile(program)
    assert str(program) in str(caught.value)


def test_huge_numbers_of_sections(program: Path) -> None:
    data = program.read_bytes()
    first = section_headers(data)[0][0]
    program.write_bytes(set_bytes(set_bytes(data, 60, "H", 0), first + 32, "Q", 1 << 40))
    with pytest.raises(FormatError, match=f"{1 << 40} sections"):
        ElfFile(program)


def change_section(path: Path, kind: int, field: int, layout: str, value: int) -> None:
    """Set a field, by its offset, in the headers of all sections of one type."""
    data = path.read_bytes()
    for at, fields in section_headers(data):
        if fields[1] == kind:
            data = set_bytes(data, at + field, layout, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("kind", "field", "layout", "value", "says"),
    [
        (2, 56, "Q", 0, "entries of symbol table"),
        (2, 32, "Q", 25, "whole number of entries"),
        (2, 40, "I", 0xFFFF, "does not exist"),
        (2, 40, "I", 1, "used as a string table"),
        (11, 4, "I", 2, "two symbol tables"),
        (4, 56, "Q", 0, "entries of relocation section"),
        (4, 32, "Q", 25, "whole number of entries"),
        (4, 4, "I", 0x40000014, "compressed relocations"),
        (3, 32, "Q", 1, "outside its string table"),
        (3, 24, "Q", 1 << 62, "reaches beyond its end"),
        (1, 32, "Q", 1 << 62, "reaches beyond its end"),
    ],
)
def test_sections_that_contradict_themselves(
    tmp_path: Path, kind: int, field: int, layout: str, value: int, says: str
) -> None:
    path = build(tmp_path, "pie", False, TEXT_RELOCATIONS, ("-z", "notext"))
    address = 0x1F0
    change_section(path, kind, field, layout, value)
    with pytest.raises(FormatError, match=says) as caught:
        use(path, address)
    assert str(path) in str(caught.value)


def use(path: Path, address: int) -> None:
    with ElfFile(path) as file:
        file.symbols.describe(address)
        file.relocation_at(address)
        file.write(address, NOP)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (44, 0x10000, "does not exist"),
        (44, 1, ""),
        (32, 24 * 3 + 8, "whole number of entries"),
        (56, 16, "have 16 bytes"),
    ],
)
def test_relocation_sections_of_relocatable_files(tmp_path: Path, field: int, value: int, says: str) -> None:
    path = build(tmp_path, "object")
    change_section(path, 4, field, "I" if field == 44 else "Q", value)
    with ElfFile(path) as file:
        if says:
            with pytest.raises(FormatError, match=says):
                file.relocation_at(file.symbols["_start"])
        else:
            assert file.relocation_at(file.symbols["_start"] + 8)


def test_a_relocation_outside_its_section(tmp_path: Path) -> None:
    path = build(tmp_path, "object")
    data = path.read_bytes()
    at = next(fields[4] for _, fields in section_headers(data) if fields[1] == 4)
    path.write_bytes(set_bytes(data, at, "Q", 0x18 - 2))
    with ElfFile(path) as file, pytest.raises(FormatError, match="lies outside its section"):
        file.relocation_at(0)


def test_segments_that_map_one_address_twice(program: Path) -> None:
    data = program.read_bytes()
    loads = [entry for entry in program_headers(data) if entry[1][0] == 1]
    assert len(loads) == 2
    (_, first), (at, second) = loads
    program.write_bytes(set_bytes(data, at + 16, "Q", first[3] + first[5] - 1))
    with pytest.raises(FormatError, match="different places"):
        ElfFile(program)
    program.write_bytes(set_bytes(data, at + 16, "Q", first[3] + first[5]))
    with ElfFile(program) as file:
        end = first[3] + first[5]
        assert file.read(end - 4, 8) == data[first[2] + first[5] - 4 :][:4] + data[second[2] :][:4]
    program.write_bytes(set_bytes(data, at + 40, "Q", 0))
    with pytest.raises(FormatError, match="impossible sizes"):
        ElfFile(program)
    bare = set_bytes(set_bytes(data, 40, "Q", 0), 60, "H", 0)
    bare = set_bytes(set_bytes(bare, at + 32, "Q", len(data)), at + 40, "Q", len(data))
    program.write_bytes(bare)
    with pytest.raises(FormatError, match="reaches beyond its end"):
        ElfFile(program)


def test_overlapping_names_cannot_fill_the_memory(tmp_path: Path) -> None:
    count = 20_000
    path = assemble("".join(f"f{number}: nop\n" for number in range(count)), tmp_path / "names.o")
    data = path.read_bytes()
    [symbols] = [fields for _, fields in section_headers(data) if fields[1] == 2]
    strings = b"\0" + b"a" * (count + 100) + b"\0"
    header_of_strings = section_headers(data)[symbols[6]][0]
    data = set_bytes(set_bytes(data, header_of_strings + 24, "Q", len(data)), header_of_strings + 32, "Q", len(strings))
    table = bytearray(data)
    for number in range(count):
        struct.pack_into("<I", table, symbols[4] + 24 * number, 1 + number)
    path.write_bytes(bytes(table) + strings)
    with ElfFile(path) as file, pytest.raises(FormatError, match="its names overlap"):
        file.symbols.resolve("f1")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = build(tmp_path, "shared").read_bytes()
    path = tmp_path / "truncated"
    for size in {*range(0, len(whole), 977), *range(64), len(whole) - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError):
            ElfFile(path)


def test_a_one_word_patch_loads_no_library_and_looks_at_each_name_once(tmp_path: Path) -> None:
    count = 5000
    source = "".join(
        f".globl f{number}\n.type f{number}, %function\nf{number}: .rept 30\nnop\n.endr\n" for number in range(count)
    )
    path = link(assemble(source, tmp_path / "large.o"), tmp_path / "large", "-e", "f0")
    assert path.stat().st_size > 700_000
    script = (
        "import sys; from a64patch import open_target; file = open_target(sys.argv[1]); "
        "a = file.symbols.resolve('f4000+8'); file.write(a, bytes(4)); file.publish(a, a + 4); "
        "assert {'numpy', 'elftools', 'unicorn'}.isdisjoint(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True)
    assert calls_made_by(lambda: patch(path, "f4000+8", bytes([1, 0, 0, 1]))) < 20 * count

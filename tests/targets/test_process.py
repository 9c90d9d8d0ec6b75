"""Which processes are targets, as far as any machine can say it. ../real/test_live_process.py has the rest."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import PAGESIZE
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.a64.generate import gen_nop
from a64patch.errors import CapabilityError, MappingError, RequestError, TargetError, WriteError
from a64patch.protocols import Method
from a64patch.targets.base import Room
from a64patch.targets.maps import Mapping, Maps
from a64patch.targets.process import ProcessTarget
from a64patch.targets.procfs import file_at, mapping_of
from a64patch.targets.section import Change, Section
from tests.support import eventually, need

OLD, NEW = (word.to_bytes(4, "little") for word in (gen_nop(), gen_nop() + 32))


@pytest.fixture
def arm64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine pass for one with arm64 Linux: its processes then have no names."""
    here = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", *here[1:4], "aarch64")))


@contextmanager
def sleeping(program: str | Path) -> Iterator[int]:
    """The number of a process that executes this copy of `sleep`."""
    with subprocess.Popen([program, "600"]) as child:
        try:
            # The loader needs a moment.
            assert eventually(lambda: b"libc.so" in Path(f"/proc/{child.pid}/maps").read_bytes())
            yield child.pid
        finally:
            child.kill()


@pytest.mark.parametrize("text", ["pid:", "pid:0", "pid:-1", "pid:one", "pid:1 2", "pid:99999999999", "pid:\u0661"])
def test_a_process_is_named_by_its_number(text: str) -> None:
    with pytest.raises(RequestError, match="does not name a process: write pid: and the process's number"):
        open_target(text)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("?main", "is not a list of KEY=VALUE"),
        ("?main=", "names no file: write main=PATH"),
        ("?library=/lib/libc.so.6", "a process has no setting 'library'; it knows main"),
        ("?main=/a&main=/b", "is given twice"),
    ],
)
def test_settings_of_a_process(settings: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=re.escape(sentence)):
        open_target(f"pid:1{settings}")


@pytest.mark.usefixtures("arm64")
def test_another_build_than_the_program_may_come_first(tmp_path: Path) -> None:
    program = shutil.copy(need("sleep", "coreutils"), tmp_path / "a+b & 50%41")
    (tmp_path / "link").symlink_to(program)
    with sleeping(program) as pid:
        with open_target(f"pid:{pid}") as target:
            names = [module.name for module in target.modules]
            assert (names[0], target.location) == ("a+b & 50%41", f"pid:{pid}")
            code = [mapping.path for mapping in target._maps if mapping.executable]  # type: ignore[attr-defined]
        [library] = {path for path in code if path.rpartition("/")[2].startswith("libc.so")}
        with open_target(f"pid:{pid}?main={library}") as target:
            assert target.modules.main.name == Path(library).name
            assert target.location == f"pid:{pid}?main={library}"
            assert target.identity().place == f"pid:{pid}"
            assert target.identity().incarnation.startswith("boot=")
        escaped = f"pid:{pid}?main={tmp_path}/a+b %26 50%2541"
        with open_target(f"pid:{pid}", main=tmp_path / "link") as target:
            assert target.location == escaped, "the path of the mapping"
        with open_target(escaped) as target:
            assert (target.modules.main.name, target.location) == ("a+b & 50%41", escaped)
        with open_target(f"pid:{pid}") as target:
            assert repr(target) == f"<ProcessTarget pid:{pid} (process, 1 thread)>"
            assert target.facts()["process"].startswith(f"{pid} (")
            assert "processes with the same memory" not in target.facts()
            assert f"file of {Path(program).name}" not in target.facts()
            Path(program).unlink()
        with open_target(f"pid:{pid}") as target:
            assert target.facts()[f"file of {Path(program).name}"] == "it was removed or replaced since it was mapped"
        with pytest.raises(TargetError, match=rf"process {pid} \(.*\) executes no code of /nowhere; it does of a\+b"):
            open_target(f"pid:{pid}?main=/nowhere")


def test_which_mapping_is_the_one_of_a_path(tmp_path: Path) -> None:
    path = tmp_path / "library"
    path.write_bytes(b"")
    device, inode = file_at(str(path))
    old = Mapping(0x1000, 0x2000, "r-xp", 0, device, inode + 1, str(path), deleted=True)
    data = Mapping(0x3000, 0x4000, "r--p", 0, device, inode, str(path))
    new = Mapping(0x5000, 0x6000, "r-xp", 0, device, inode, "/another/name")
    elsewhere = Mapping(0x7000, 0x8000, "r-xp", 0, "ff:ff", inode, str(path))
    assert mapping_of(Maps([old, data, new, elsewhere]), str(path)) is new, "the file itself, whatever its name there"
    assert mapping_of(Maps([old, data, elsewhere]), str(path)) is elsewhere, "in the root directory of the process"
    assert mapping_of(Maps([old, data]), str(path)) is old, "the file was replaced"
    assert mapping_of(Maps([data]), str(path)) is None, "its code is not mapped"
    assert mapping_of(Maps([Mapping(0, 1, "r-xp", path="[vdso]")]), "[vdso]") is None


@pytest.mark.parametrize(("system", "machine"), [("Linux", "x86_64"), ("Darwin", "arm64"), ("Linux", "armv8l")])
def test_only_arm64_linux_has_processes(system: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((system, *here[1:4], machine)))
    with pytest.raises(
        CapabilityError, match=f"on arm64 Linux only; this is {system} on {machine}: run a64patch on the"
    ):
        open_target("pid:1")


@pytest.mark.usefixtures("arm64")
def test_a64patch_does_not_stop_itself() -> None:
    with pytest.raises(CapabilityError, match="is a64patch itself"):
        open_target(f"pid:{os.getpid()}")


_MAPS_ANOTHER_FILE = """
import ctypes, os, signal, sys, time
from mmap import PAGESIZE
libc = ctypes.CDLL(None)
libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, *(ctypes.c_long,) * 5]
def place(path, pages, at, fixed):
    return libc.mmap(at, pages * PAGESIZE, 5, 2 | fixed, os.open(path, os.O_RDONLY), 0)
at = place(sys.argv[1], 3, None, 0)
signal.signal(signal.SIGUSR1, lambda *_: (place(sys.argv[2], 1, at + PAGESIZE, 16), print("again", flush=True)))
print(at, flush=True)
while True:
    time.sleep(100)
"""


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process with three pages of NOPs, and their address. At SIGUSR1 it maps another file over the second page."""
    here = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", *here[1:4], "aarch64")))
    files = [tmp_path / name for name in ("first", "second")]
    for file in files:
        file.write_bytes(OLD * (3 * PAGESIZE // 4))
    command = [sys.executable, "-c", _MAPS_ANOTHER_FILE, *map(str, files)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield child, int(child.stdout.readline())
        child.kill()


def test_words_that_are_no_longer_those_of_the_same_file_are_refused(mapped: tuple[subprocess.Popen[str], int]) -> None:
    """The program puts another library at this address before the stop: its words are the same by chance."""
    child, at = mapped
    old, new = (int.from_bytes(word, "little") for word in (OLD, NEW))
    middle, end = at + PAGESIZE, at + 2 * PAGESIZE
    with ProcessTarget(child.pid) as target:
        assert target.carry_out(Section((Change(middle, old, new),))).done
        child.send_signal(signal.SIGUSR1)
        assert child.stdout is not None
        assert child.stdout.readline() == "again\n"
        for places in ([middle + 4], [middle + 4], [at, middle], [middle, end], [at, middle + 8, end], [end - 4]):
            with pytest.raises(MappingError, match=r"is no longer .*first: the process has unmapped it"):
                target.carry_out(Section(tuple(Change(place, old, new) for place in places)))
        assert target.read(middle, 8) == target.read(at, 8) == target.read(end, 8) == OLD * 2
        assert target.carry_out(Section(tuple(Change(place, old, new) for place in (at, middle - 4, end)))).done


@pytest.mark.parametrize("protocol", ["kick", "nosync"])
def test_a_system_call_changes_in_a_stop_only(mapped: tuple[subprocess.Popen[str], int], protocol: Method) -> None:
    """SVC and NOP may race, but a thread that was interrupted in the call executes the new word in place of the SVC."""
    child, at = mapped
    call, nop = 0xD4000001, gen_nop()
    with ProcessTarget(child.pid) as target:
        target.write(at, call.to_bytes(4, "little"))
        with pytest.raises(CapabilityError, match=r"may be sleeping in the system call at .* use --sync stop"):
            target.carry_out(Section((Change(at, call, nop),), protocol=protocol))
        assert target.read(at, 4) == call.to_bytes(4, "little")


_MAPS_SHARED = """
import ctypes, mmap, sys, time
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
time.sleep(1000)
"""


def test_a_shared_mapping_is_refused_since_the_file_would_change(arm64: None, tmp_path: Path) -> None:
    file = tmp_path / "shared"
    file.write_bytes(OLD * 1024)
    with subprocess.Popen([sys.executable, "-c", _MAPS_SHARED, file], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        at = int(child.stdout.readline())
        with ProcessTarget(child.pid) as target:
            old, new = (int.from_bytes(word, "little") for word in (OLD, NEW))
            with pytest.raises(
                MappingError, match=r"is in a shared mapping of .*shared: a write would change it for all"
            ):
                target.carry_out(Section((Change(at, old, new),)))
            with pytest.raises(MappingError, match="shared mapping"):
                target.write_data(at, NEW)
        child.kill()
    assert file.read_bytes() == OLD * 1024


def test_words_behind_each_other_are_one_write_in_a_stop_only(mapped: tuple[subprocess.Popen[str], int]) -> None:
    child, at = mapped
    with ProcessTarget(child.pid) as target:
        written: list[tuple[int, bytes]] = []
        store = target._process.write

        def write(address: int, data: bytes) -> None:
            written.append((address, data))
            store(address, data)

        target._process.write = write  # type: ignore[method-assign]
        with target.stop():
            target.write_many([(at, NEW), (at + 4, NEW), (at + 16, NEW), (at + 12, NEW)])
        assert written == [(at, NEW * 2), (at + 16, NEW), (at + 12, NEW)]
        written.clear()
        target.write_many([(at, OLD), (at + 4, OLD)])
        assert written == [(at, OLD), (at + 4, OLD)], "threads run: a store for each word"
        assert target.read_many([(at, 4), (at + 12, 8), (at + 4, 4)]) == [OLD, NEW * 2, OLD]
        written.clear()
        old, new = (int.from_bytes(word, "little") for word in (OLD, NEW))
        there, back = (tuple(Change(at + offset, *words) for offset in (0, 8)) for words in ((old, new), (new, old)))
        target.carry_out(Section(there, unchanged=((at + 4, old),)))
        target.carry_out(Section(back, protocol="kick"))
        assert written == [(at, NEW + OLD + NEW), (at, OLD), (at + 8, OLD)]


def test_of_many_words_each_must_be_mapped_code(mapped: tuple[subprocess.Popen[str], int]) -> None:
    child, at = mapped
    with ProcessTarget(child.pid) as target:
        data = next(each for each in target._maps if each.permissions == "rw-p").start
        with pytest.raises(MappingError, match="does not map 0x1000"):
            target.read_many([(at, 4), (0x1000, 4)])
        for place in (data, 0x1000):
            with pytest.raises(MappingError):
                target.write_many([(at, NEW), (place, NEW)])
            assert target.read(at, 4) == OLD, "all are asked for before the first is written"


def test_a_room_is_written_in_a_stop_where_the_kernel_lets_nobody_write_else(
    mapped: tuple[subprocess.Popen[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with proc_mem.force_override=never. Nobody executes a room yet, so a stop for it changes nothing."""
    child, at = mapped
    with ProcessTarget(child.pid) as target:

        def refuses(*_: object) -> None:
            raise WriteError("the kernel refuses") from OSError(errno.EIO, "no")

        monkeypatch.setattr(target._process, "write", refuses)
        with pytest.raises(WriteError, match="lets nobody write to read-only memory of a process whose threads run"):
            target.write(at, NEW)
        monkeypatch.setattr(target, "rooms", lambda: [Room(at, 8)])
        target.write(at, NEW)
        assert target.read(at, 8) == NEW + OLD

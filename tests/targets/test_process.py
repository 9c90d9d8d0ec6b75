"""Which processes are targets, as far as any machine can say it. ../real/test_live_process.py has the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.a64.generate import gen_nop
from a64patch.errors import A64PatchError, CapabilityError, MappingError, RequestError
from a64patch.targets.process import ProcessTarget
from a64patch.targets.section import Change, Section

OLD, NEW = (word.to_bytes(4, "little") for word in (gen_nop(), gen_nop() + 32))


@pytest.mark.parametrize("text", ["pid:", "pid:0", "pid:-1", "pid:one", "pid:1 2", "pid:99999999999", "pid:\u0661"])
def test_a_process_is_named_by_its_number(text: str) -> None:
    with pytest.raises(RequestError, match="does not name a process: write pid: and the process's number"):
        open_target(text)


@pytest.mark.parametrize(("system", "machine"), [("Linux", "x86_64"), ("Darwin", "arm64"), ("Linux", "armv8l")])
def test_only_arm64_linux_has_processes(system: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((system, *here[1:4], machine)))
    with pytest.raises(
        CapabilityError, match=f"on arm64 Linux only; this is {system} on {machine}: run a64patch on the"
    ):
        open_target("pid:1")


def test_a64patch_does_not_stop_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", *here[1:4], "aarch64")))
    with pytest.raises(CapabilityError, match="is a64patch itself"):
        open_target(f"pid:{os.getpid()}")


def test_a_process_without_executable_code_of_arm64_is_refused_or_has_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulator runs on this machine: its own code is not A64."""
    here = os.uname()
    if here.machine == "aarch64":
        pytest.skip("every process here has A64 code")
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", *here[1:4], "aarch64")))
    parent = os.getppid()
    try:
        with open_target(f"pid:{parent}") as target:
            assert [module.name for module in target.modules if module.symbols.load()] == []
    except A64PatchError as error:
        assert str(parent) in str(error)  # noqa: PT017


_MAPS_ANOTHER_FILE = """
import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None)
libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, *(ctypes.c_long,) * 5]
def place(path, at, fixed):
    return libc.mmap(at, 4096, 5, 2 | fixed, os.open(path, os.O_RDONLY), 0)
at = place(sys.argv[1], None, 0)
signal.signal(signal.SIGUSR1, lambda *_: (place(sys.argv[2], at, 16), print("again", flush=True)))
print(at, flush=True)
while True:
    time.sleep(100)
"""


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process with a page of NOPs, and their address. At SIGUSR1 it maps another file there."""
    here = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", *here[1:4], "aarch64")))
    files = [tmp_path / name for name in ("first", "second")]
    for file in files:
        file.write_bytes(OLD * 1024)
    command = [sys.executable, "-c", _MAPS_ANOTHER_FILE, *map(str, files)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield child, int(child.stdout.readline())
        child.kill()


def test_words_that_are_no_longer_those_of_the_same_file_are_refused(mapped: tuple[subprocess.Popen[str], int]) -> None:
    """The program puts another library at this address before the stop: its words are the same by chance."""
    child, at = mapped
    old, new = (int.from_bytes(word, "little") for word in (OLD, NEW))
    with ProcessTarget(child.pid) as target:
        assert target.carry_out(Section((Change(at, old, new),))).done
        child.send_signal(signal.SIGUSR1)
        assert child.stdout is not None
        assert child.stdout.readline() == "again\n"
        with pytest.raises(MappingError, match=r"is no longer .*first: the process has unmapped it"):
            target.carry_out(Section((Change(at + 4, old, new),)))
        assert target.read(at, 8) == OLD * 2


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

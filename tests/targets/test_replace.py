"""What keeps even root from replacing a file: the message names the cause, and what helps.

Only root can bring such a file about, and not on every file system. So here the kernel's answers are made up.
Read on: test_elf.py replaces real files, and cuts that off at every step.
"""

from __future__ import annotations

import errno
import fcntl
import os
from array import array
from pathlib import Path

import pytest

from a64patch.errors import WriteError
from a64patch.targets.replace import FileOnDisk


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a program"
    path.write_bytes(b"old")
    return path


@pytest.mark.parametrize(("flag", "letter", "name"), [(0x10, "i", "immutable"), (0x20, "a", "append-only")])
@pytest.mark.parametrize("where", ["file", "folder"])
def test_attributes_of_chattr_are_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, flag: int, letter: str, name: str, where: str
) -> None:
    place = file if where == "file" else file.parent
    of = os.stat(place).st_ino

    def ioctl(descriptor: int, request: int, flags: array[int]) -> int:
        assert request == 0x80086601
        flags[0] = 0x80000 | (flag if os.fstat(descriptor).st_ino == of else 0)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with pytest.raises(WriteError, match=f"a program cannot be replaced: .* is {name}, .* `chattr -{letter} ") as told:
        FileOnDisk(str(file)).replace(b"new")
    assert (f"'{file}'" if where == "file" else f"{file.parent}`") in str(told.value)
    assert file.read_bytes() == b"old"
    assert os.listdir(file.parent) == ["a program"]


def test_other_attributes_are_no_obstacle(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(_: int, __: int, flags: array[int]) -> int:
        flags[0] = 0x80000  # FS_EXTENT_FL, which every file of ext4 has
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    FileOnDisk(str(file)).replace(b"new")
    assert file.read_bytes() == b"new"


def test_a_read_only_mount_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    def statvfs(path: str) -> os.statvfs_result:
        found = list(real(path))
        found[8] |= os.ST_RDONLY
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", statvfs)
    with pytest.raises(WriteError, match=r"is mounted read-only: .*remount,rw.*findmnt -T '.*a program'"):
        FileOnDisk(str(file)).replace(b"new")
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.EPERM, "lsattr"), (errno.EROFS, "mount"), (errno.EBUSY, "is a mount point")]
)
def test_an_error_of_the_kernel_comes_with_advice(
    file: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(WriteError, match=f"which is unchanged: {os.strerror(number)} .*{advice}"):
        FileOnDisk(str(file)).replace(b"new")
    assert os.listdir(file.parent) == ["a program"]

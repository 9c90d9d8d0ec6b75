"""A file on disk as it was when it was opened, and its atomic replacement with mode, owner and attributes kept.

This file does not interpret the bytes.
Read on: elf.py patches such a file; rename(2), xattr(7) and acl(5) describe the kept attributes.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from array import array
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

from a64patch.errors import TargetError, WriteError

_FS_IOC_GETFLAGS = 0x80086601
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
"""include/uapi/linux/fs.h"""

_ADVICE = {
    errno.EBUSY: " (it is a mount point: patch the file that is mounted there)",
    errno.EPERM: " (lsattr shows attributes that forbid it, and chattr removes them)",
    errno.EROFS: " (mount its file system for writing, or patch a copy)",
}

_BLOCK = 1 << 20
"""Bytes that are compared at a time."""


class _Identity(NamedTuple):
    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class FileOnDisk:
    """A regular file: read its bytes, and replace the file by one with other bytes.

    Reading and replacing fail when another process has changed or replaced the file since. Symbolic links are followed
    once, by the constructor. TargetError when there is no such file, or it is no regular file; such a file is not even
    opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._real_path = os.path.realpath(path)
            # This comes before opening the file: a FIFO would wait for a writer, a device may do anything.
            status = os.stat(path)
        except (OSError, ValueError) as error:
            raise self._cannot_open(error) from error
        if stat.S_ISDIR(status.st_mode):
            raise TargetError(f"{path} is a directory, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise TargetError(f"{path} is not a regular file")
        self._identity = _Identity.of(status)
        self._unsure = False

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self._identity.size

    def head(self, size: int) -> bytes:
        """The first `size` bytes, fewer in a shorter file; TargetError when they cannot be read."""
        return self._read(size)

    @cached_property
    def content(self) -> bytes:
        """All bytes; TargetError when they cannot be read."""
        data = self._read(self.size + 1)
        if len(data) != self.size:
            raise self._changed()
        return data

    def _read(self, size: int) -> bytes:
        blocks = []
        done = 0
        try:
            descriptor = os.open(self._real_path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                before = os.fstat(descriptor)
                while block := os.pread(descriptor, size - done, done):
                    blocks.append(block)
                    done += len(block)
                status = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._cannot_open(error) from error
        if _Identity.of(status) != self._identity or status.st_ctime_ns != before.st_ctime_ns:
            raise self._changed()
        return b"".join(blocks)

    def require_replaceable(self) -> None:
        """WriteError, with advice, when we may not replace the file.

        The causes: changed since, hard links, a read-only file system, attributes of chattr(1), permissions.
        """
        folder = os.path.dirname(self._real_path)
        try:
            status = os.stat(self._real_path, follow_symlinks=False)
        except OSError as error:
            raise self._cannot_replace(error) from error
        self._require_unchanged(status)
        if status.st_nlink > 1:
            raise WriteError(
                f"{self.path} has {status.st_nlink} hard links, and replacing it would part them: "
                f"patch a copy of it, then put that in the place of each"
            )
        for place in (self._real_path, folder):
            if obstacle := _obstacle(place):
                raise WriteError(f"{self.path} cannot be replaced: {obstacle}")
        effective = os.access in os.supports_effective_ids
        if not status.st_mode & 0o222 or not os.access(self._real_path, os.W_OK, effective_ids=effective):
            raise WriteError(f"{self.path} is read-only: give yourself permission to write it (chmod u+w)")
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
            raise WriteError(f"{self.path} cannot be replaced: its directory {folder} may not be written by you")

    def replace(self, data: bytes | bytearray) -> None:
        """Replace the file by a file with these bytes, unless it has them already. Afterwards this is the new file.

        Atomic: opening the path gives the old file or the new one, also after a crash or a loss of power. Mode, owner,
        group and extended attributes are kept; inode number and times are new.

        WriteError as `require_replaceable`, or when there is no space. The file is then whole and unchanged, and no
        temporary file is left. One WriteError is different, and says so: the file was replaced, but its directory was
        not synchronised. A killed process may leave a temporary file `.a64patch-…` beside the file.

        When the new file is complete, the old one is compared with the opened one: device, inode, size, time of
        modification and all bytes. Its mode, owner and attributes may have changed before they were copied, but not
        since (ctime). WriteError when something differs. Not guaranteed:

        - A change between this comparison and rename(2) is lost. So two processes that replace one file at the same
          moment are not kept apart.
        - A process that has opened or mapped the old file keeps the old file. Its later changes are lost.
        """
        if data == self.content and not self._unsure:
            return
        data = bytes(data)
        self.require_replaceable()
        folder_path, name = os.path.split(self._real_path)
        temporary = f".a64patch-{os.getpid()}-{os.urandom(8).hex()}"
        try:
            folder = os.open(folder_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._cannot_replace(error) from error
        try:
            # Ctrl-C may come between the replacement and our note of it. The next call then finds out which file it is.
            unsure, self._unsure = self._unsure, True
            try:
                status = self._write_beside(folder, name, temporary, data)
            except BaseException as error:
                self._unsure = unsure or not isinstance(error, WriteError)
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            self._identity, self.content = _Identity.of(status), data
            self._unsure = False
            try:
                os.fsync(folder)
            except OSError as error:
                raise WriteError(
                    f"{self.path} was replaced, but its directory was not synchronised, so a loss of power may bring "
                    f"the old file back: {error.strerror or error}"
                ) from error
        finally:
            os.close(folder)

    def _write_beside(self, folder: int, name: str, temporary: str, data: bytes) -> os.stat_result:
        """Write `data` to `temporary` and rename it to `name`. Returns the status of the new file."""
        old = new = -1
        try:
            old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            before = os.fstat(old)
            self._require_unchanged(before)
            new = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(new, rest) :]
            _copy_attributes(old, new)
            os.fsync(new)
            self._require_same_bytes(old)
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            self._require_unchanged(status)
            if status.st_ctime_ns != before.st_ctime_ns:
                raise self._not_as_opened()
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            return os.fstat(new)
        except WriteError:
            raise
        except OSError as error:
            raise self._cannot_replace(error) from error
        finally:
            for descriptor in (old, new):
                if descriptor >= 0:
                    os.close(descriptor)

    def _require_unchanged(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode) or _Identity.of(status) != self._identity:
            raise self._not_as_opened()

    def _require_same_bytes(self, descriptor: int) -> None:
        """WriteError unless the file has the bytes that were read. Its times do not tell all changes:

        - utime(2) sets the time of modification.
        - The clock of a file system may tick every 4 ms only, and a file may change twice between two ticks.
        - A store through a shared mapping may set the times later, when the page is written to disk (mmap(2)).
        """
        done = 0
        while block := os.pread(descriptor, _BLOCK, done):
            if block != self.content[done : done + len(block)]:
                raise self._not_as_opened()
            done += len(block)

    def _not_as_opened(self) -> WriteError:
        return WriteError(f"{self.path} was changed on disk since it was opened: open it again")

    def _changed(self) -> TargetError:
        return TargetError(f"{self.path} changed while it was read: try again")

    def _cannot_open(self, error: Exception) -> TargetError:
        return TargetError(f"cannot open {self.path}: {getattr(error, 'strerror', None) or error}")

    def _cannot_replace(self, error: OSError) -> WriteError:
        advice = _ADVICE.get(error.errno or 0, "")
        return WriteError(f"cannot replace {self.path}, which is unchanged: {error.strerror or error}{advice}")


def _obstacle(place: str) -> str:
    """What keeps even root from replacing a file, or a file in a folder, and what to do; empty for nothing known."""
    with suppress(OSError):
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            return (
                f"{place} is on a file system that is mounted read-only: mount it for writing (`mount -o remount,rw` on"
                f" the mount point that `findmnt -T {shlex.quote(place)}` names), or patch a copy"
            )
    flags = _flags(place)
    for flag, letter, name in ((_IMMUTABLE, "i", "immutable"), (_APPEND_ONLY, "a", "append-only")):
        if flags & flag:
            return (
                f"{place} is {name}, as `lsattr -d` shows: root removes that by `chattr -{letter} {shlex.quote(place)}`"
            )
    return ""


def _flags(place: str) -> int:
    """The attributes that chattr(1) sets (ioctl_iflags(2)); 0 when the file system has none."""
    import fcntl

    flags = array("i", [0])
    with suppress(OSError):
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, flags)
        finally:
            os.close(descriptor)
    return flags[0]


def _copy_attributes(old: int, new: int) -> None:
    """Copy owner, group, extended attributes (also access control lists) and mode, in this order.

    A change of owner removes set-user-ID and file capabilities, so these come after it.
    """
    status, made = os.fstat(old), os.fstat(new)
    if (status.st_uid, status.st_gid) != (made.st_uid, made.st_gid):
        os.fchown(new, status.st_uid, status.st_gid)
    wanted, present = _attributes(old), _attributes(new)
    for name in present.keys() - wanted.keys():
        os.removexattr(new, name)
    for name, value in wanted.items():
        if present.get(name) != value:
            os.setxattr(new, name, value)
    os.fchmod(new, stat.S_IMODE(status.st_mode))


def _attributes(descriptor: int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor)}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return {}
        raise

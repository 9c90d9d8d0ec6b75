"""The common part of all file targets: no CPU executes a file, and publishing replaces it.

Read on: elf.py, ../kernel/image.py; replace.py writes the file to disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from a64patch.errors import FormatError, TargetError
from a64patch.targets.base import Capabilities, CpuState, Rendezvous, Target
from a64patch.targets.replace import FileOnDisk


class _NoCpus:
    """The StoppedCpus of a file, which no CPU executes."""

    def __init__(self) -> None:
        self.rendezvous = Rendezvous(())

    def states(self) -> Sequence[CpuState]:
        return []


class FileTarget(Target):
    """A file on disk, and a copy of it in memory that takes the writes.

    TargetError when the path cannot be opened or is no regular file, FormatError when it has more than `most` bytes.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str, most: int) -> None:
        self.capabilities = Capabilities(kind=kind, cpus=0, can_stop=True, can_kick=True, sees_pcs=True, broadcast=True)
        self.path = os.fspath(path)
        self._file = FileOnDisk(self.path)
        if self._file.size > most:
            raise FormatError(
                f"{self.path} has {self._file.size} bytes, more than the {most >> 30} GiB that can be patched"
            )
        self._data: bytes | bytearray = b""
        self._replaceable = False
        self._closed = False

    @property
    def location(self) -> str:
        """The file's path, absolute and without symbolic links."""
        return os.path.realpath(self.path)

    def publish(self, start: int, end: int) -> None:
        """Replace the file on disk by the copy in memory. This publishes all writes, whatever the range.

        Atomic; mode, owner, group and extended attributes are kept. `replace.FileOnDisk.replace` has the details and
        the WriteErrors. A symbolic link stays, and its target is replaced. When the copy equals the file, nothing is
        replaced.
        """
        self._require_open()
        self._file.replace(self._result())

    def publish_many(self, ranges: Sequence[tuple[int, int]]) -> None:
        """As `publish`, once for all ranges."""
        self.publish(0, 0)

    def kick(self) -> None:
        """Nothing to do: no CPU executes a file."""

    @contextmanager
    def stop(self) -> Iterator[_NoCpus]:
        """A stop of no CPUs: all have arrived. Leaving the block, by an exception or not, publishes nothing."""
        nobody = _NoCpus()
        try:
            yield nobody
        finally:
            nobody.rendezvous.finish()

    def close(self) -> None:
        """Forget the copy in memory. Unpublished writes are lost; later reads and writes raise TargetError."""
        self._closed = True
        self._data = b""

    def _result(self) -> bytes | bytearray:
        """The new contents of the file."""
        return self._data

    def _writable(self) -> bytearray:
        """The copy in memory, for changing it. WriteError when the file on disk cannot be replaced by the copy."""
        if not self._replaceable:
            self._file.require_replaceable()
            self._replaceable = True
        if not isinstance(self._data, bytearray):
            self._data = bytearray(self._data)
        return self._data

    def _require_open(self) -> None:
        if self._closed:
            raise TargetError(f"{self.path} was closed: open it again")

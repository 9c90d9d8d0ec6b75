"""What was decoded of a kernel's own tables, on disk, one file for each build: decoding kallsyms takes seconds.

The files are untrusted input, in the byte order of this machine. This file checks their form; symbols.py compares an
entry with the machine before use.
Read on: symbols.py, `_remembered` and `_remember`; structures.py keeps the places of fields.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from a64patch.kernel.kallsyms import MOST_SYMBOLS

MOST_ENTRIES = 8
"""Files that are kept. One of a Debian kernel has 2 to 7 MB."""

_MOST_BYTES = 1 << 27
_MAGIC = b"a64patch kallsyms 1\n"
_KEPT = b"a64patch kept 1\n"
_DIGEST_BYTES = 32
_NUMBERS = struct.Struct("=QQIIHHH")
"""base, base_at, and how many: symbols, bytes of their names, samples, bytes of the build id, bytes of the release."""
_SAMPLE = struct.Struct("=QH")
_MOST_SAMPLES = 256
_BUILD_ID = re.compile("[0-9a-f]{16,128}")
_SUFFIX = ".kallsyms"
_ABANDONED_SECONDS = 3600


class Sample(NamedTuple):
    """Bytes of a kernel that are the same in each boot."""

    address: int
    data: bytes


class Entry(NamedTuple):
    """The names of one build and the bytes that identify it, at the addresses of one boot."""

    build_id: str
    """In lower-case hex."""
    release: str
    base: int
    """kallsyms_relative_base. KASLR moves it as it moves the kernel."""
    base_at: int
    """The address of `base`; 0 if the layout has none."""
    samples: Sequence[Sample]
    addresses: Sequence[int]
    """Of the symbols."""
    types: str
    """nm's letter for each symbol."""
    names: str
    """The name of each symbol; between two is a line feed."""


def folder() -> Path:
    """`$XDG_CACHE_HOME/a64patch/kallsyms`, by default below `~/.cache` (XDG Base Directory 0.8).

    RuntimeError when this user has no home directory.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The specification: a relative path is to be ignored.
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "a64patch/kallsyms"


def entries() -> Iterator[Entry]:
    """The sound entries, last used first. Other files are passed over without a word.

    An entry is sound if

    - it is a regular file of this user, of fewer than 128 MiB;
    - its digest is right, so that no part is lost or damaged;
    - its numbers agree with its size, and its names have no control characters.

    Whoever can write the file can make a digest, too: nothing here says that the symbols are right.
    """
    with suppress(OSError, RuntimeError):
        for path in _by_use(folder())[:MOST_ENTRIES]:
            if (entry := _load(path)) is not None:
                yield entry


def used(build_id: str) -> None:
    """Say that the entry of this build was of use, so that others are dropped before it."""
    with suppress(OSError, RuntimeError):
        os.utime(folder() / f"{build_id}{_SUFFIX}")


def save(entry: Entry) -> None:
    """Put an entry in the place of one of the same build, and drop the entries that were not used for longest.

    Atomic: a reader sees the old file or the new one. Mode 0600, in a folder that is made with mode 0700. Does nothing
    for a build id of less than 8 bytes, and where the folder cannot be written.
    """
    if len(entry.samples) <= _MOST_SAMPLES:
        _put(entry.build_id, _SUFFIX, _pack(entry))


def keep(build_id: str, kind: str, data: bytes) -> None:
    """Put other bytes about a build in a file of their own, as `save` puts an entry; `kind` is the file's ending."""
    _put(build_id, f".{kind}", _KEPT + hashlib.sha256(data).digest() + data)


def kept(build_id: str, kind: str) -> bytes:
    """The bytes that `keep` has put there for this build; empty when there are none, or the file is not sound."""
    if not _BUILD_ID.fullmatch(build_id):
        return b""
    try:
        return bytes(_content(folder() / f"{build_id}.{kind}", _KEPT))
    except (OSError, RuntimeError, ValueError):
        return b""


def _put(build_id: str, suffix: str, data: bytes) -> None:
    if not _BUILD_ID.fullmatch(build_id):
        return
    with suppress(OSError, RuntimeError):
        place = folder()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=place)  # mode 0600
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, place / f"{build_id}{suffix}")
        except BaseException:
            os.unlink(temporary)
            raise
        for old in _by_use(place, suffix)[MOST_ENTRIES:]:
            old.unlink()
        for left in place.glob(".new-*"):  # by a process that was killed
            if left.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                left.unlink()


def _by_use(place: Path, suffix: str = _SUFFIX) -> list[Path]:
    return sorted(place.glob(f"*{suffix}"), key=lambda path: path.lstat().st_mtime_ns, reverse=True)


def _pack(entry: Entry) -> bytes:
    names, build_id, release = entry.names.encode(), entry.build_id.encode(), entry.release.encode()
    count = len(entry.addresses)
    body = b"".join(
        [
            _NUMBERS.pack(
                entry.base, entry.base_at, count, len(names), len(entry.samples), len(build_id), len(release)
            ),
            build_id,
            release,
            *(_SAMPLE.pack(sample.address, len(sample.data)) + sample.data for sample in entry.samples),
            array("Q", entry.addresses).tobytes(),
            entry.types.encode(),
            names,
        ]
    )
    return _MAGIC + hashlib.sha256(body).digest() + body


def _load(path: Path) -> Entry | None:
    """The entry in a file; None unless it is sound."""
    try:
        entry = _unpack(_Cursor(_content(path, _MAGIC)))
    except (OSError, ValueError, struct.error):
        return None
    return entry if path.name == f"{entry.build_id}{_SUFFIX}" else None


def _content(path: Path, magic: bytes) -> memoryview:
    """The bytes behind the magic and the digest. ValueError or OSError for another file, and for one with damage."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_size >= _MOST_BYTES:
            raise ValueError("not a file of ours")
        data = file.read(_MOST_BYTES)
    start = len(magic) + _DIGEST_BYTES
    body = memoryview(data)[start:]
    if data[: len(magic)] != magic or data[len(magic) : start] != hashlib.sha256(body).digest():
        raise ValueError("another form, or damaged")
    return body


class _Cursor:
    """Takes parts from the front of some bytes."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> memoryview:
        """The next `size` bytes. ValueError when there are fewer."""
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise ValueError("too short")
        self._at += size
        return part

    def text(self, size: int) -> str:
        """The next `size` bytes as printable ASCII. ValueError when they are not."""
        text = bytes(self.take(size)).decode("ascii")
        if not text.replace("\n", "").isprintable():
            raise ValueError("not printable")
        return text

    def end(self) -> None:
        """ValueError unless all has been taken."""
        if self._at != len(self._data):
            raise ValueError("too long")


def _unpack(body: _Cursor) -> Entry:
    """The entry. ValueError or struct.error when the bytes contradict themselves."""
    base, base_at, count, of_names, samples, of_build_id, of_release = _NUMBERS.unpack(body.take(_NUMBERS.size))
    build_id, release = body.text(of_build_id), body.text(of_release)
    if count > MOST_SYMBOLS or samples > _MOST_SAMPLES or not _BUILD_ID.fullmatch(build_id):
        raise ValueError("impossible numbers")
    found = []
    for _ in range(samples):
        address, size = _SAMPLE.unpack(body.take(_SAMPLE.size))
        found.append(Sample(address, bytes(body.take(size))))
    addresses = body.take(8 * count).cast("Q")
    types, names = body.text(count), body.text(of_names)
    body.end()
    if "\n" in types + release or names.count("\n") + 1 != count:
        raise ValueError("not a name for each address")
    return Entry(build_id, release, base, base_at, found, addresses, types, names)

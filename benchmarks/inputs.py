"""What is measured on: real code from Debian's arm64 packages, and the programs that must be there.

Read on: tests/real/packages.py for where the packages come from.
"""

from __future__ import annotations

import gzip
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from a64patch.targets.elf import ElfFile
from benchmarks.measure import BenchmarkError
from tests.real import packages

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Words = NDArray[numpy.uint32]

_CROSS_LIBC = Path("/usr/aarch64-linux-gnu/lib/libc.so.6")


class MissingError(BenchmarkError):
    """Something that a benchmark cannot do without is not there; one sentence what to do."""


def a64patch_command() -> Path:
    """The `a64patch` that is installed beside the running Python."""
    path = Path(sys.executable).with_name("a64patch")
    if not path.exists():
        raise MissingError(f"there is no {path}: run scripts/bench, or install the checkout for this Python")
    return path


def has_module(name: str) -> bool:
    return find_spec(name) is not None


def tool(name: str) -> str | None:
    """The path of a program, if there is one."""
    return shutil.which(name)


def file_of(package: str, pattern: str) -> Path:
    """The one file of an arm64 package that the pattern means."""
    try:
        root = packages.fetch(package)
    except packages.MissingPackageError as error:
        raise MissingError(str(error)) from error
    found = [*root.glob(pattern), *root.glob(f"usr/{pattern}")]
    if len(found) != 1:
        raise MissingError(f"the package {package} holds {len(found)} files {pattern}, not one")
    return found[0]


def sysroot() -> Path | None:
    """A tree in which arm64 programs can run, if it can be had."""
    try:
        return packages.fetch_sysroot()
    except packages.MissingPackageError:
        return None


def words_of(path: Path) -> Words:
    """All words of an ELF file's code."""
    import numpy

    with ElfFile(path) as elf:
        pieces = [elf.read(start, (end - start) & -4) for start, end in elf.code_ranges()]
    return numpy.frombuffer(b"".join(pieces), dtype="<u4")


def libc_words() -> tuple[Words, str]:
    """The text of libc, and what it is of."""
    try:
        path, what = file_of("libc6", "lib/aarch64-linux-gnu/libc.so.6"), "libc.so.6 of Debian's libc6"
    except MissingError:
        if not _CROSS_LIBC.exists():
            raise
        path, what = _CROSS_LIBC, str(_CROSS_LIBC)
    return words_of(path), f"text of {what}"


KERNEL_WORDS = 3 << 20
"""So much of the kernel Image is text in any Debian kernel; where text ends its header does not say."""
_HEAD_BYTES = 64 << 10


def kernel_words() -> tuple[Words, str]:
    """The first 3 Mi words of the kernel Image behind its head, and what they are of."""
    import numpy

    try:
        root = packages.fetch(packages.KERNEL)
    except packages.MissingPackageError as error:
        raise MissingError(str(error)) from error
    image = next(root.glob("boot/vmlinuz-*"))
    data = image.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    if data[56:60] != b"ARMd":
        raise MissingError(f"{image.name} is not an arm64 Image")
    return numpy.frombuffer(data, "<u4", KERNEL_WORDS, _HEAD_BYTES), f"text of {image.name}"

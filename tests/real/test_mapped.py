"""The names of Debian's arm64 libraries and programs in memory are those of their files, even without the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from a64patch.targets.elf_image import ET_DYN, ElfImage
from a64patch.targets.mapped import MappedModule, modules_of
from tests.real import packages
from tests.targets.loading import Process

BASE = 0xFFFF_8000_0000
FILES = {
    "libc6": ("lib/aarch64-linux-gnu/libc.so.6", "lib/aarch64-linux-gnu/libm.so.6", "lib/*/ld-linux-aarch64.so.1"),
    "libssl3": ("lib/aarch64-linux-gnu/libcrypto.so.3", "lib/aarch64-linux-gnu/libssl.so.3"),
    "coreutils": ("bin/ls",),
    "hello": ("bin/hello",),
    "busybox-static": ("bin/busybox",),
}
EVERY = [(package, pattern) for package, patterns in FILES.items() for pattern in patterns]


def names(process: Process) -> tuple[MappedModule, set[tuple[str, int]]]:
    [found] = modules_of(process.maps, process.read, process.open_file, main=None)
    assert isinstance(found, MappedModule)
    return found, {(symbol.name, symbol.address) for symbol in found.symbols.ascending()}


@pytest.mark.parametrize("moves_dynamic", [False, True])
@pytest.mark.parametrize(("package", "pattern"), EVERY)
def test_names_in_memory_are_those_of_the_file(package: str, pattern: str, moves_dynamic: bool) -> None:
    path: Path = packages.file_of(package, pattern)
    data = path.read_bytes()
    image = ElfImage(data, path.name)
    base = BASE if image.type == ET_DYN else 0
    expected = {(symbol.name, symbol.address + base) for symbol in image.names(absolute=False)}
    process = Process()
    process.load(data, str(path), base, moves_dynamic=moves_dynamic)
    found, in_file = names(process)
    assert (found.base, found.build_id, found.origin().file) == (base, image.build_id, str(path))
    assert found.code is not None
    assert all(found.code.covers(start + base, end + base) for start, end in image.code)
    process.files.clear()
    found, in_memory = names(process)
    assert in_memory == in_file == expected
    assert not found.origin().file

"""Real arm64 files that others built. What a fixture copies a test may change; the cache stays as Debian made it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.real import packages


@pytest.fixture(scope="session")
def arm64_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A new copy of one file of a package, by its path there or a glob pattern: ("libc6", "lib/*/libc.so.6")."""

    def copy(package: str, pattern: str) -> Path:
        source = packages.file_of(package, pattern)
        return Path(shutil.copy(source, tmp_path_factory.mktemp(package) / source.name))

    return copy


@pytest.fixture(scope="session")
def kernel_module(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A new copy of a module of Debian's newest arm64 kernel, decompressed, by its name: "nfnetlink"."""

    def copy(name: str) -> Path:
        path = tmp_path_factory.mktemp(name) / f"{name}.ko"
        path.write_bytes(packages.read_kernel_module(name))
        return path

    return copy


@pytest.fixture(scope="session")
def arm64_root() -> Path:
    """A tree for `qemu-aarch64 -L`, with libc6 and coreutils. Not a copy: leave it as it is."""
    return packages.sysroot()

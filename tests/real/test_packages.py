"""The real arm64 packages are there, and are what the other tests here take them for."""

from __future__ import annotations

import multiprocessing
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.real import packages
from tests.support import need, run

ELF_AARCH64 = (b"\x7fELF\x02\x01\x01", b"\xb7\x00")


def _is_aarch64(path: Path) -> bool:
    data = path.read_bytes()
    return (data[:7], data[18:20]) == ELF_AARCH64


@pytest.mark.parametrize("package", packages.NEEDED)
def test_package_is_unpacked(package: str) -> None:
    assert any(packages.unpacked(package).iterdir())


def test_kernel_image(arm64_file: Callable[[str, str], Path]) -> None:
    assert arm64_file(packages.KERNEL, "boot/vmlinuz-*").read_bytes()[0x38:0x3C] == b"ARMd"


def test_kernel_module(kernel_module: Callable[[str], Path]) -> None:
    assert _is_aarch64(kernel_module("nfnetlink"))
    with pytest.raises(LookupError, match="no module"):
        kernel_module("no_such_module")


def test_library_and_program(arm64_file: Callable[[str, str], Path]) -> None:
    assert _is_aarch64(arm64_file("libc6", "lib/aarch64-linux-gnu/libc.so.6"))
    assert _is_aarch64(arm64_file("libssl3", "/usr/lib/aarch64-linux-gnu/libcrypto.so.3"))
    assert _is_aarch64(arm64_file("busybox-static", "bin/busybox"))


def test_sysroot_runs_programs(arm64_root: Path) -> None:
    qemu = need("qemu-aarch64", "qemu-user")
    assert run(qemu, "-L", arm64_root, arm64_root / "bin/echo", "hello") == "hello\n"
    assert "bin" in run(qemu, "-L", arm64_root, arm64_root / "bin/ls", arm64_root).split()


def _build(path: str) -> int:
    with packages.building("tree") as (root, building):
        if building:
            (building / "file").touch()
        assert (root / "file").exists() != bool(building), path
        return int(building is not None)


def test_tree_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("A64PATCH_CACHE", str(tmp_path))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert sum(pool.map(_build, ["racing"] * 8)) == 1


def test_half_built_tree_is_not_taken_for_a_whole_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("A64PATCH_CACHE", str(tmp_path))
    killed = tmp_path / "arm64/.unpacking-killed"
    killed.mkdir(parents=True)
    with suppress(RuntimeError), packages.building("tree") as (root, building):
        assert building
        (building / "file").touch()
        raise RuntimeError
    assert not root.exists()
    assert not killed.exists()
    assert _build("again")


def test_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nothing(*command: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 100, "", "E: Failed to fetch it\n")

    monkeypatch.setenv("A64PATCH_CACHE", str(tmp_path))
    monkeypatch.setattr(packages, "_run", nothing)
    packages._apt.cache_clear()
    try:
        for name in ("hello", packages.KERNEL):
            with pytest.raises(packages.MissingPackageError, match=r"no arm64 package .*: E: Failed to fetch it$"):
                packages.fetch(name)
        with pytest.raises(packages.MissingPackageError, match="libc6 and coreutils"):
            packages.fetch_sysroot()
    finally:
        packages._apt.cache_clear()

"""Real arm64 files that others built. What a fixture copies a test may change; the cache stays as Debian made it."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.real import packages
from tests.real.guest import Guest
from tests.real.live import LiveGuest
from tests.real.userland import Userland

_GUESTS = {"guest", "boot", "live", "userland", "boot_userland"}
_SHARED: list[Guest] = []
"""The guest of `guest`, while there is one."""
_LIVE: list[LiveGuest] = []
"""The guest of `live`, while there is one."""
_USERLAND: list[Userland] = []
"""The guest of `userland`, while there is one."""


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests with a virtual machine run in one process, one after the other: two machines at once at most."""
    for item in items:
        if _GUESTS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("guest"))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the shared guests before a test that needs none: each takes up to a core from all tests that follow."""
    if nextitem is None or not _GUESTS.intersection(getattr(nextitem, "fixturenames", ())):
        _end_guests()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the shared guests of a session that was cut off."""
    _end_guests()


def _end_guests() -> None:
    shared: Sequence[list[Any]] = (_SHARED, _LIVE, _USERLAND)
    for guests in shared:
        while guests:
            guests.pop().close()


@pytest.fixture
def guest() -> Iterator[Guest]:
    """A booted arm64 Linux, shared by all tests: leave it as it was, its kernel unpatched and its CPUs running.

    KASLR is on. A test that made it unusable costs the next one the time to boot another. A test whose guest's kernel
    complained fails.
    """
    if not _SHARED or not _SHARED[0].usable:
        for old in _SHARED:
            old.close()
        _SHARED[:] = [Guest()]
    yield _SHARED[0]
    _SHARED[0].require_healthy()


@pytest.fixture
def live() -> Iterator[LiveGuest]:
    """A booted arm64 Linux with what the tests of live patching need in it; else as `guest`.

    A test may kill it: the next one gets another.
    """
    if not _LIVE or not _LIVE[0].usable:
        for old in _LIVE:
            old.close()
        _LIVE[:] = [LiveGuest()]
    yield _LIVE[0]
    _LIVE[0].require_healthy()


@pytest.fixture
def boot() -> Iterator[Callable[..., Guest]]:
    """Boots a guest of the test's own, with the arguments of `Guest`; it ends with the test. One a test."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Guest:
            return stack.enter_context(Guest(**options))

        yield start


@pytest.fixture
def userland() -> Iterator[Userland]:
    """A booted arm64 Linux with Python, a64patch and redis in it; else as `guest`. End what a test starts there."""
    if not _USERLAND or not _USERLAND[0].guest.usable:
        for old in _USERLAND:
            old.close()
        _USERLAND[:] = [Userland()]
    yield _USERLAND[0]
    _USERLAND[0].guest.require_healthy()


@pytest.fixture
def boot_userland() -> Iterator[Callable[..., Userland]]:
    """Boots one of the test's own, with the arguments of `Userland`; it ends with the test. One a test."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Userland:
            return stack.enter_context(Userland(**options))

        yield start


class _ShortPauses:
    """The module `time`, but a pause is over after a millisecond, and counts as long as it was to be."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def sleep(self, seconds: float) -> None:
        shorter = min(seconds, 0.001)
        time.sleep(shorter)
        self._ahead += seconds - shorter


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GDB target whose stub is gone gives up soon, and yet waits as long as ever for one that is slow to answer."""
    monkeypatch.setattr("a64patch.targets.lifeline.time", _ShortPauses())

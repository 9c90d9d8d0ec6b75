"""Names that were decoded once are taken from the user's cache folder, after a comparison with the machine."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.kernel import table_cache
from a64patch.kernel.symbols import attach
from a64patch.kernel.table_cache import MOST_ENTRIES, Entry, Sample
from a64patch.targets.symbols import Symbol
from tests.kernel.kernels import BUILD_ID, FUNCTION, LINKED, TEXT_AT, Kernel, build_kernel, write_kallsyms
from tests.kernel.test_symbols import SLIDE, Machine, move

SAVED = f"{BUILD_ID.hex()}.kallsyms"
FUNCTIONS = 17000
"""A MiB of text."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/a64patch/kallsyms"


class Counting(Machine):
    """Counts the bytes that were read."""

    count = 0

    def read(self, address: int, size: int) -> bytes:
        data = super().read(address, size)
        self.count += len(data)
        return data


def names_of(machine: Machine) -> list[Symbol]:
    return list(attach(machine, "kallsyms").ascending())


def moved(layout: str, slide: int, functions: int = 600) -> Counting:
    kernel = build_kernel(layout, functions=functions, irregular=True)
    return Counting(kernel if layout == "own place" else move(kernel, layout, slide), slide)


@contextmanager
def no_decoding() -> Iterator[None]:
    """A block in which an attempt to decode tables fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("the tables were decoded")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("a64patch.kernel.symbols.decode", refuse)
        yield


@pytest.mark.parametrize("layout", ["relative", "sequences", "tables first", "packed", "own place", "of each CPU"])
def test_another_boot_takes_the_saved_names(folder: Path, layout: str) -> None:
    first = moved(layout, SLIDE, functions=FUNCTIONS)
    before = names_of(first)
    assert [path.name for path in folder.iterdir()] == [SAVED]
    second = moved(layout, 2 * SLIDE, functions=FUNCTIONS)
    with no_decoding():
        after = names_of(second)
    assert after == [symbol.moved(SLIDE) if symbol.address >> 48 else symbol for symbol in before]
    assert second.count < 1 << 18 < first.count / 2, "no more for a larger kernel"
    assert second.identity() == replace(first.identity(), incarnation=second.identity().incarnation)


def test_a_saved_file_does_not_tell_where_the_kernel_was(folder: Path) -> None:
    names_of(moved("relative", SLIDE))
    data = (folder / SAVED).read_bytes()
    attach(moved("relative", SLIDE // 0x10000 // 2 * 0x10000), "kallsyms")
    assert (folder / SAVED).read_bytes() == data
    assert stat.S_IMODE((folder / SAVED).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def renamed(kernel: Kernel) -> Kernel:
    """The same code and build id, with another name for each function."""
    symbols = [(place, kind, name.replace("f", "g", 1)) for place, kind, name in kernel.symbols]
    tables = write_kallsyms(symbols, "relative", LINKED + kernel.tables_at)
    data = bytearray(kernel.data)
    old = len(write_kallsyms(kernel.symbols, "relative", LINKED + kernel.tables_at).data)
    data[kernel.tables_at : kernel.tables_at + old] = tables.data.ljust(old, b"\0")
    return Kernel(data, symbols, kernel.tables_at)


def test_another_kernel_with_the_same_build_id(folder: Path) -> None:
    kernel = build_kernel(irregular=True)
    names_of(Machine(kernel))
    saved = (folder / SAVED).read_bytes()
    other = renamed(kernel)
    assert {symbol.name for symbol in names_of(Machine(other))} == {name for _, _, name in other.symbols}
    assert (folder / SAVED).read_bytes() != saved, "the last one is kept"


def test_tables_that_lie_about_their_place_are_refused(folder: Path) -> None:
    kernel = build_kernel(irregular=True)
    names_of(Machine(kernel))
    with pytest.raises(Exception, match="what looks like the kallsyms tables"):
        names_of(Machine(move(kernel, "relative", 8)))


@pytest.mark.parametrize("place", [0, 20, 52, 200, -1])
def test_a_damaged_file_is_ignored_and_replaced(folder: Path, place: int) -> None:
    before = names_of(moved("relative", SLIDE))
    whole = (folder / SAVED).read_bytes()
    for damaged in (b"", whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place:][1:], whole + b"x"):
        (folder / SAVED).write_bytes(damaged)
        assert list(table_cache.entries()) == []
        assert names_of(moved("relative", SLIDE)) == before
        assert (folder / SAVED).read_bytes() == whole


def test_a_file_that_lies_about_code_is_not_used(folder: Path) -> None:
    """It has the right digest, samples and base, but functions elsewhere."""
    before = names_of(moved("relative", SLIDE, functions=FUNCTIONS))
    [entry] = table_cache.entries()
    half = len(entry.addresses) // 2
    addresses = [place + 4 * (number > half) for number, place in enumerate(entry.addresses)]
    table_cache.save(entry._replace(addresses=addresses))
    assert names_of(moved("relative", SLIDE, functions=FUNCTIONS)) == before


@pytest.mark.parametrize("how", ["link", "folder", "fifo", "other name"])
def test_files_of_another_kind_are_passed_over(folder: Path, tmp_path: Path, how: str) -> None:
    names_of(moved("relative", SLIDE))
    saved = folder / SAVED
    saved.rename(tmp_path / "saved")
    if how == "link":
        saved.symlink_to(tmp_path / "saved")
    elif how == "folder":
        saved.mkdir()
    elif how == "fifo":
        os.mkfifo(saved)
    else:
        (tmp_path / "saved").rename(folder / f"{'ab' * 20}.kallsyms")
    assert list(table_cache.entries()) == []
    names_of(moved("relative", SLIDE))


def test_no_folder_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file/below", "/proc/1/none"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        assert names_of(moved("relative", SLIDE))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert table_cache.folder() == tmp_path / ".cache/a64patch/kallsyms"
    assert names_of(moved("relative", SLIDE))
    assert (table_cache.folder() / SAVED).exists()


def entry(number: int) -> Entry:
    return Entry(f"{number:016x}", "Linux 6.6.6", 1, 2, [Sample(3, b"four")], [5, 1 << 63], "tT", "a\nb_c")


def test_the_folder_stays_small(folder: Path) -> None:
    for number in range(MOST_ENTRIES + 3):
        table_cache.save(entry(number))
        os.utime(folder / f"{number:016x}.kallsyms", (number, number))
        if number == MOST_ENTRIES:
            table_cache.used(f"{2:016x}")
    (folder / ".new-left").touch()
    os.utime(folder / ".new-left", (1, 1))
    table_cache.save(entry(99))
    kept = {int(path.stem, 16) for path in folder.glob("*.kallsyms")}
    assert kept == {99, 2, *range(5, MOST_ENTRIES + 3)}
    assert not list(folder.glob(".new-*"))
    [newest, *_] = table_cache.entries()
    assert newest._replace(addresses=list(newest.addresses)) == entry(99)


def test_an_empty_build_id_is_no_name_of_a_file(folder: Path) -> None:
    for name in ("", "../../../../x", "12"):
        table_cache.save(entry(1)._replace(build_id=name))
    assert not folder.exists()


@given(data=st.data())
def test_no_content_with_a_right_digest_is_an_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = table_cache._pack(entry(1))
    body = bytearray(whole[52:])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + 1] = data.draw(st.binary(max_size=3))
        if not body:
            break
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp()))
        table_cache.folder().mkdir(parents=True, exist_ok=True)
        (table_cache.folder() / f"{1:016x}.kallsyms").write_bytes(whole[:20] + hashlib.sha256(body).digest() + body)
        for found in table_cache.entries():
            assert len(found.addresses) == len(found.types) == len(found.names.split("\n"))


def test_the_code_decides_where_the_kernel_is(folder: Path) -> None:
    """The address of the first function, after each of several moves."""
    for slide in (0, SLIDE, -0x20_0000, 1 << 30):
        machine = moved("relative", slide)
        attach(machine, "kallsyms")
        [module] = machine.modules
        assert module.code is not None
        assert next(iter(module.code))[0] == LINKED + TEXT_AT + slide
    assert FUNCTION == 64

"""The journal: who may have it, what it keeps, what it refuses; damage of any kind is told, never believed."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.errors import JournalError
from a64patch.patch import journal as module
from a64patch.patch.journal import Entry, EntryState, Journal, default_path
from a64patch.patch.sites import Site
from a64patch.ranges import Ranges
from a64patch.targets.base import Aftermath, Identity
from a64patch.targets.section import Change
from tests.support import IN_MEMORY, ROOT

HERE = Identity("/somewhere/program", "00ff", "Linux 6.1", 0xFFFF_8000_0000_0000)
CHANGES = (Change(0xFFFF_FFC0_0801_0000, 0xD503201F, 0x14000002), Change(4, 0, 0xFFFF_FFFF))
SITES = (
    Site(0xFFFF_FFC0_0801_0000, 0xFFFF_FFC0_0801_0010, Ranges(((0, 8), (0xFFFF_FFC0_0801_0004, 1 << 64)))),
    Site(4, 8),
)
DATA = (Change(0x40, 0, 1), Change(0xFFFF_FFC0_0A00_0000, 0xFFFF_FFFF, 2))
GUARDS = ((0x44, 0), (0xFFFF_FFFF_FFFF_FFFC, 0xFFFF_FFFF))
BESIDES = (Aftermath(0x40, b"old", b"new"), Aftermath(0x80, b"", b""))
PATCH = "Prose with more than ASCII: å.\n\n@@ site @@\n-d503201f\n+14000002\n"


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield Path(folder) / "journal.sqlite"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.05)


def fill(path: Path) -> list[Entry]:
    """Entries of several states."""
    with Journal(path) as journal:
        first = journal.begin(HERE, CHANGES, PATCH, method="stop", sites=SITES, aftermath=BESIDES,
                              data=DATA, guards=GUARDS)  # fmt: skip
        journal.finish(first, EntryState.APPLIED, "stop: as asked")
        second = journal.begin(HERE, CHANGES, PATCH * 300, method="stop", reverts=first)
        journal.finish(second, EntryState.APPLIED)
        third = journal.begin(Identity("/elsewhere"), CHANGES[:1], "", method="kick", reason="it may race")
        journal.finish(third, EntryState.PARTIAL, "what stands where")
        journal.begin(HERE, CHANGES, PATCH, method="stop")
        return journal.entries()


def refusal(path: Path | str, use: Callable[[Journal], object] = Journal.entries) -> str:
    """The one sentence with which it is refused."""
    with pytest.raises(JournalError) as caught, Journal(path) as journal:
        use(journal)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def test_what_is_kept(path: Path) -> None:
    fill(path)
    with Journal(path) as journal:
        first, second, third, fourth = journal.entries()
        assert journal.entry(3) == third
        assert journal.entries(EntryState.OPEN, EntryState.PARTIAL) == [third, fourth]
    assert (first.id, first.identity, first.changes, first.aftermath) == (1, HERE, CHANGES, BESIDES)
    assert (first.patch, first.method, first.note) == (PATCH, "stop", "stop: as asked")
    assert first.state is EntryState.REVERTED
    assert (second.state, second.reverts) == (EntryState.APPLIED, 1)
    assert (third.state, third.note, third.aftermath) == (EntryState.PARTIAL, "what stands where", ())
    assert (third.reason, first.sites, second.sites) == ("it may race", SITES, ())
    assert (first.data, first.guards, first.written) == (DATA, GUARDS, CHANGES + DATA)
    assert (second.data, second.guards, second.written) == ((), (), CHANGES)
    assert (fourth.state, fourth.ended) == (EntryState.OPEN, "")
    assert first.began <= first.ended <= second.began


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
WORD = st.integers(0, 2**32 - 1)
ADDRESS = st.integers(0, 2**62 - 1).map(lambda number: 4 * number)
CHANGE = st.builds(Change, ADDRESS, WORD, WORD)


@given(
    identity=st.builds(
        Identity, TEXT.filter(lambda text: "\0" not in text), TEXT, TEXT, st.integers(0, 2**64 - 1), TEXT
    ),
    changes=st.lists(CHANGE, max_size=20, unique_by=lambda change: change.address),
    aftermath=st.lists(
        st.integers(0, 8).flatmap(
            lambda size: st.builds(
                Aftermath, st.integers(0, 2**64 - 1), st.binary(min_size=size, max_size=size),
                st.binary(min_size=size, max_size=size),
            )
        ),
        max_size=4,
    ),
    patch=TEXT,
    note=TEXT,
    state=st.sampled_from(EntryState),
    parts=st.tuples(st.integers(0, 20), st.integers(0, 20)),
)  # fmt: skip
def test_anything_comes_back(
    identity: Identity, changes: list[Change], aftermath: list[Aftermath], patch: str, note: str, state: EntryState,
    parts: tuple[int, int],
) -> None:  # fmt: skip
    code, data = min(parts), max(parts)
    changes, beside = changes[:code], changes[code:]
    guards = [(each.address, each.new) for each in beside[data:]]
    beside = beside[:data]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder, Journal(Path(folder) / "journal") as journal:
        number = journal.begin(
            identity, changes, patch, method="stop", aftermath=aftermath, data=beside, guards=guards
        )  # fmt: skip
        journal.finish(number, state, note)
        [entry] = journal.entries()
    assert (entry.identity, entry.changes, entry.aftermath) == (identity, tuple(changes), tuple(aftermath))
    assert (entry.patch, entry.note, entry.state) == (patch, note, state)
    assert (entry.data, entry.guards) == (tuple(beside), tuple(guards))


def test_a_file_name_that_is_not_utf8(path: Path) -> None:
    name = os.fsdecode(b"/tmp/\xff\xfe")
    with Journal(path) as journal:
        number = journal.begin(Identity(name), CHANGES, PATCH, method="stop")
        journal.finish(number, EntryState.UNDONE, f"{name} cannot be opened")
        entry = journal.entry(number)
    assert entry.identity.location == name
    assert entry.note == r"/tmp/\udcff\udcfe cannot be opened"


def test_only_its_owner_can_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = os.umask(0)
    try:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "deep/state"))
        with Journal() as journal, journal.held():
            journal.begin(HERE, CHANGES, PATCH, method="stop")
    finally:
        os.umask(old)
    assert journal.path == tmp_path / "deep/state/a64patch/journal.sqlite"
    modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in tmp_path.rglob("*")}
    assert modes == {
        "deep": 0o700, "state": 0o700, "a64patch": 0o700, "journal.sqlite": 0o600, "journal.sqlite.lock": 0o600,
    }  # fmt: skip


def test_where_it_is_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for ignored in ("", "relative/state"):
        monkeypatch.setenv("XDG_STATE_HOME", ignored)
        assert default_path() == tmp_path / ".local/state/a64patch/journal.sqlite"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_path() == tmp_path / ".local/state/a64patch/journal.sqlite"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home directory")))
    with pytest.raises(JournalError, match="no home directory"):
        Journal()


def test_reading_what_is_not_there_makes_nothing(path: Path) -> None:
    with Journal(path, read_only=True) as journal:
        assert journal.entries() == []
        with pytest.raises(JournalError, match="no entry 1"):
            journal.entry(1)
        with pytest.raises(JournalError, match="closed"):
            journal.begin(HERE, CHANGES, PATCH, method="stop")
    assert list(path.parent.iterdir()) == []


def test_names_that_mean_something_to_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:x?mode=memory"):
        assert len(fill(Path(name))) == 4
        with Journal(name) as journal:
            assert len(journal.entries()) == 4


def _as_fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _as_symlink(path: Path) -> None:
    real = path.with_name("real")
    fill(real)
    path.symlink_to(real)


def _as_readable(path: Path) -> None:
    fill(path)
    path.chmod(0o640)


def _as_writable(path: Path) -> None:
    path.touch()
    path.chmod(0o602)


def _as_text(path: Path) -> None:
    path.write_text("a text, and no journal\n" * 1000)
    path.chmod(0o600)


def _as_database(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        for statement in ("CREATE TABLE another (x)", "INSERT INTO another VALUES (1)", *statements):
            other.execute(statement)
        other.commit()
    path.chmod(0o600)


def _as_wal_database(path: Path) -> None:
    _as_database(path, "PRAGMA application_id=77")
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode=WAL")


def _changed(*statements: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        fill(path)
        with closing(sqlite3.connect(path)) as other:
            for statement in statements:
                other.execute(statement)
            other.commit()

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "not a regular file"),
        (_as_fifo, "not a regular file"),
        (_as_symlink, "not a regular file"),
        (_as_readable, "others may read or write"),
        (_as_writable, "others may read or write"),
        (_as_text, "not a database"),
        (_as_database, "no journal of a64patch"),
        (_as_wal_database, "no journal of a64patch"),
        (_changed("PRAGMA user_version=6"), "version 6"),
        (_changed("PRAGMA user_version=4"), "tables are not its own"),
        (_changed("PRAGMA user_version=1"), "tables are not its own"),
        (_changed("PRAGMA user_version=2"), "tables are not its own"),
        (_changed("PRAGMA user_version=3"), "tables are not its own"),
        (_changed("PRAGMA application_id=1"), "no journal of a64patch"),
        (_changed("CREATE TABLE more (x)"), "tables are not its own"),
        (_changed("CREATE TRIGGER t AFTER UPDATE ON entry BEGIN DELETE FROM entry; END"), "tables are not its own"),
        (_changed("DROP TABLE entry", "CREATE TABLE entry (id INTEGER)"), "tables are not its own"),
        (_changed("DELETE FROM entry WHERE id=2"), "entries are missing"),
        (_changed("DELETE FROM entry WHERE id=4"), "entries are missing"),
        (_changed("DELETE FROM entry"), "entries are missing"),
        (_changed("UPDATE entry SET words=x'00' WHERE id=2"), "entry 2 .* damaged"),
        (_changed("UPDATE entry SET data=x'' WHERE id=1"), "entry 1 .* damaged"),
        (_changed("UPDATE entry SET guards=x'' WHERE id=1"), "entry 1 .* damaged"),
        (_changed("UPDATE entry SET state='applied' WHERE id=4"), "entry 4 .* damaged"),
    ],
)  # fmt: skip
def test_refused(make: Callable[[Path], None], message: str, path: Path) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(JournalError, match=message):
        raise JournalError(refusal(path))
    if path.is_file():
        assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "file/below", ""])
def test_impossible_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    refusal(name)


def test_of_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "others may" in refusal(path)


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_what_sqlite_would_believe_beside_it(suffix: str, path: Path) -> None:
    fill(path)
    path.with_name(path.name + suffix).symlink_to("/dev/null")
    assert "is not yours" in refusal(path)


def test_too_big(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path)
    monkeypatch.setattr(module, "_MOST_BYTES", 4096)
    assert "move it away" in refusal(path)
    monkeypatch.setattr(module, "_MOST_BYTES", path.stat().st_size)
    assert "is full" in refusal(path, lambda journal: journal.begin(HERE, CHANGES, PATCH, method="stop"))


def _damage(path: Path, content: bytes, entries: list[Entry]) -> bool:
    """Whether it is told; if not, everything must be as it was."""
    path.write_bytes(content)
    message = ""
    try:
        with Journal(path) as journal:
            found = journal.entries()
    except JournalError as error:
        message = str(error)
    if message:
        assert "\n" not in message
        return True
    assert found == entries
    return False


def test_every_flipped_byte_is_told_or_does_not_matter(path: Path) -> None:
    entries = fill(path)
    content = path.read_bytes()
    choose = random.Random(1)
    told = 0
    # Every byte that says something, and some of the empty room.
    places = [place for place, byte in enumerate(content) if byte or place % 64 == 0]
    for place in places if len(places) < 2500 else choose.sample(places, 2500) + places[:200]:
        damaged = bytearray(content)
        damaged[place] ^= choose.randrange(1, 256)
        told += _damage(path, bytes(damaged), entries)
    assert told > 1000


def test_truncated_anywhere(path: Path) -> None:
    entries = fill(path)
    content = path.read_bytes()
    sizes = {*range(1, len(content), 509), *range(4096, len(content), 4096)}
    unheard = [size for size in sizes if not _damage(path, content[:size], entries)]
    # Nothing is lost with the room at the end of the last page.
    assert all(size > len(content) - 4096 for size in unheard), unheard


def test_damaged_in_many_places(path: Path) -> None:
    entries = fill(path)
    content = path.read_bytes()
    choose = random.Random(2)
    for _ in range(300):
        damaged = bytearray(content)
        start = choose.randrange(len(content))
        length = choose.randrange(1, 600)
        damaged[start : start + length] = choose.randbytes(len(damaged[start : start + length]))
        _damage(path, bytes(damaged), entries)


COLUMNS = (
    "began", "ended", "state", "reverts", "location", "build_id", "release", "base", "method", "words", "data",
    "guards", "aftermath", "patch", "note",
)  # fmt: skip
ANYTHING = st.one_of(
    st.text(max_size=20), st.binary(max_size=40), st.integers(-(2**63), 2**63 - 1), st.floats(),
    st.sampled_from(["0x10", "-0x10", "open", "0x" + "f" * 400, b"\xff", "a\0b"]),
)  # fmt: skip


@given(column=st.sampled_from(COLUMNS), value=ANYTHING, honest=st.booleans())
def test_any_value_in_any_column(column: str, value: Any, honest: bool) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        path = Path(folder) / "journal"
        fill(path)
        with closing(sqlite3.connect(path)) as other:
            try:
                other.execute(f"UPDATE entry SET {column}=? WHERE id=1", (value,))
            except (sqlite3.IntegrityError, UnicodeEncodeError):
                return
            if honest:
                row = other.execute("SELECT * FROM entry WHERE id=1").fetchone()
                other.execute("UPDATE entry SET checksum=? WHERE id=1", (module._checksum(row[:-1]),))
            other.commit()
        _tolerable(path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("data", "x'40'", "a multiple of 16 bytes"),
        ("data", "x'42000000000000000000000001000000'", "0x42 is not at a multiple of 4"),
        ("data", "x'04000000000000000000000001000000'", "0x4 is given twice"),
        ("guards", "x'400000000000000000000000'", "0x40 is given twice"),
        ("method", "'kick'", "data that is not written by stop"),
    ],
)
def test_data_that_is_no_set_with_the_code(column: str, value: str, message: str, path: Path) -> None:
    """With an honest checksum."""
    _changed(f"UPDATE entry SET {column}={value} WHERE id=1")(path)
    with closing(sqlite3.connect(path)) as other:
        row = other.execute("SELECT * FROM entry WHERE id=1").fetchone()
        other.execute("UPDATE entry SET checksum=? WHERE id=1", (module._checksum(row[:-1]),))
        other.commit()
    found = refusal(path)
    assert "entry 1 " in found
    assert message in found


def _tolerable(path: Path) -> None:
    with Journal(path) as journal:
        try:
            entries = journal.entries()
        except JournalError as error:
            message = str(error)
        else:
            assert len(entries) == 4
            return
    assert "entry 1 " in message or "cannot be used" in message
    assert "\n" not in message


def test_what_is_damaged_gets_no_fresh_checksum(path: Path) -> None:
    _changed("UPDATE entry SET words=x'00' WHERE id=4")(path)
    assert "damaged" in refusal(path, lambda journal: journal.finish(4, EntryState.APPLIED))
    assert "damaged" in refusal(path, lambda journal: journal.entry(4))


def test_an_entry_that_is_not_there(path: Path) -> None:
    fill(path)
    for number in (0, -1, 5, 2**80):
        with Journal(path) as journal:
            with pytest.raises(JournalError):
                journal.entry(number)
            with pytest.raises(JournalError):
                journal.finish(number, EntryState.APPLIED)
    with Journal(path) as journal:
        assert journal.begin(HERE, CHANGES, PATCH, method="stop") == 5


HOLD = "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN EXCLUSIVE')"
LOCK = "import fcntl, sys, time; f = open(sys.argv[1] + '.lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX)"


@contextmanager
def other_process(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """One that has done this and waits."""
    command = [sys.executable, "-c", f"{code}; print('held', flush=True); time.sleep(600)", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_another_process_holds_the_file(path: Path, impatient: None) -> None:
    fill(path)
    before = path.read_bytes()
    with other_process(HOLD, path) as holder:
        assert "another process holds" in refusal(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with Journal(path) as journal:
            assert len(journal.entries()) == 4
    assert path.read_bytes() == before


def test_another_process_takes_the_file_while_it_is_open(path: Path, impatient: None) -> None:
    fill(path)
    with Journal(path) as journal:
        with other_process(HOLD, path):
            for use in (journal.entries, lambda: journal.begin(HERE, CHANGES, PATCH, method="stop")):
                with pytest.raises(JournalError, match="another process holds"):
                    use()
        assert journal.begin(HERE, CHANGES, PATCH, method="stop") == 5


def test_another_process_is_patching(path: Path, impatient: None) -> None:
    fill(path)
    with Journal(path) as journal:
        with other_process(LOCK, path) as holder:
            with pytest.raises(JournalError, match="another process is patching"), journal.held():
                pytest.fail("held all the same")
            assert len(journal.entries()) == 4, "reading needs no hold"
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            with journal.held():
                pass
        # It is let go of again.
        with open(f"{path}.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_lock_is_no_symlink(path: Path) -> None:
    fill(path)
    elsewhere = path.with_name("elsewhere")
    path.with_name(path.name + ".lock").symlink_to(elsewhere)
    with Journal(path) as journal, pytest.raises(JournalError, match="cannot open"), journal.held():
        pytest.fail("held all the same")
    assert not elsewhere.exists()


def test_looking_at_it_twice_drops_no_lock(path: Path, impatient: None) -> None:
    """POSIX locks belong to the process: a second Journal must not open and close the file itself."""
    fill(path)
    with Journal(path) as journal:
        journal._open.execute("BEGIN IMMEDIATE")
        refusal(path)
        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert "locked" in done.stderr


def in_child(code: str, *arguments: str | Path) -> str:
    """What this printed; everything that it needs is imported before."""
    head = (
        "import os, resource, sys\nfrom tests.patch.test_journal import *\n"
        "def told(use):\n    try: use()\n    except JournalError as error: print(error)\n"
    )
    command = [sys.executable, "-c", head + code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_full_disk(path: Path) -> None:
    entries = fill(path)
    size = str(path.stat().st_size)
    printed = in_child(
        "size = int(sys.argv[2])\n"
        "with Journal(sys.argv[1]) as journal:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "    told(lambda: journal.begin(HERE, CHANGES, PATCH * 1000, method='stop'))\n"
        "    print(len(journal.entries()))\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (100, size))\n"
        "    told(lambda: journal.finish(4, EntryState.APPLIED))\n"
        "    print(journal.entry(4).state)\n",
        path, size,
    )  # fmt: skip
    begun, count, finished, state = printed.splitlines()
    assert "cannot be used" in begun
    assert "cannot be used" in finished
    assert (count, state) == ("4", "EntryState.OPEN")
    with Journal(path) as journal:
        assert journal.entries() == entries


def test_no_room_for_a_new_one(path: Path) -> None:
    printed = in_child(
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\ntold(lambda: Journal(sys.argv[1]))", path
    )
    assert "cannot be used" in printed
    assert fill(path), "afterwards it can be made"


def test_read_only_directory() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = folder / "mine"
        made.mkdir()
        fill(made / "journal")
        if os.geteuid() == 0:
            for place in (made, made / "journal"):
                os.chown(place, 65534, 65534)
        made.chmod(0o500)
        printed = in_child(
            "if os.geteuid() == 0: os.setuid(65534)\n"
            "told(lambda: Journal(sys.argv[1] + '/journal').begin(HERE, CHANGES, PATCH, method='stop'))\n"
            "told(lambda: Journal(sys.argv[1] + '/new'))\n"
            "told(lambda: Journal(sys.argv[1] + '/deep/new'))\n",
            made,
        )
        made.chmod(0o700)
        lines = printed.splitlines()
        assert len(lines) == 3
        assert all("journal" in line for line in lines)
        with suppress(PermissionError):
            os.chown(made / "journal", os.geteuid(), os.getegid())
        with Journal(made / "journal") as journal:
            assert len(journal.entries()) == 4


def test_two_processes_write_into_one(path: Path) -> None:
    code = (
        "for _ in range(25):\n"
        "    with Journal(sys.argv[1]) as journal, journal.held():\n"
        "        number = journal.begin(Identity(sys.argv[2]), CHANGES, PATCH, method='stop')\n"
        "        journal.finish(number, EntryState.APPLIED, sys.argv[2])\n"
    )
    head = "import sys\nfrom tests.patch.test_journal import *\n"
    both = [
        subprocess.Popen([sys.executable, "-c", head + code, str(path), name], cwd=ROOT) for name in ("/one", "/two")
    ]
    assert [process.wait() for process in both] == [0, 0]
    with Journal(path) as journal:
        entries = journal.entries()
    assert [entry.id for entry in entries] == list(range(1, 51))
    assert {entry.state for entry in entries} == {EntryState.APPLIED}
    assert all(entry.note == entry.identity.location for entry in entries)
    assert sum(entry.note == "/one" for entry in entries) == 25

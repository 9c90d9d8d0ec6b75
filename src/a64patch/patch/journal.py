"""What was done to targets, on disk before it is done: so that a crash leaves nothing that cannot be told and undone.

May know: a64/, text.py, target/base.py, the errors.
Read on: transaction.py, which writes an entry before the first word and its result after the last.

One SQLite file, readable and writable by its owner only (mode 0600). Every commit is on disk before the call returns
(SQLite: synchronous=EXTRA, rollback journal), so an entry survives a power cut as soon as `begin` has returned.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from a64patch.a64.words import INSN_SIZE
from a64patch.errors import JournalError
from a64patch.patch.text import Change
from a64patch.target.base import Aftermath, Identity

_APPLICATION_ID = 0xA64BA7C4 - (1 << 32)  # signed, as SQLite keeps it
_VERSION = 1
_WORD = struct.Struct("<QII")
_AFTERMATH = struct.Struct("<QI")
_MOST_BYTES = 512 << 20
_WAIT_SECONDS = 10.0
_TABLE = """CREATE TABLE entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT, began TEXT NOT NULL, ended TEXT NOT NULL, state TEXT NOT NULL,
    reverts INTEGER NOT NULL, location TEXT NOT NULL, build_id TEXT NOT NULL, release TEXT NOT NULL, base TEXT NOT NULL,
    method TEXT NOT NULL, words BLOB NOT NULL, aftermath BLOB NOT NULL, patch TEXT NOT NULL, note TEXT NOT NULL
)"""


class EntryState(Enum):
    """How far an entry has come."""

    OPEN = "open"
    """Begun, and nobody has said how it ended: if no process works on it any more, `recover` has to look."""
    APPLIED = "applied"
    """Every new word stands there."""
    UNDONE = "undone"
    """It failed, and every old word stands there."""
    REVERTED = "reverted"
    """It was applied, and a later entry has put every old word back."""
    PARTIAL = "partial"
    """It failed, and some words are not known to be the old ones; the note says which."""


@dataclass(frozen=True)
class Entry:
    """One patch of one target."""

    id: int
    began: str
    """When, in UTC (ISO 8601)."""
    ended: str
    """Empty while open."""
    state: EntryState
    identity: Identity
    method: str
    changes: tuple[Change, ...]
    aftermath: tuple[Aftermath, ...]
    """What the target changes besides, once these words are published."""
    patch: str
    """The assembly diff."""
    note: str = ""
    """How it ended, for people."""
    reverts: int = 0
    """The id of the entry that this one undoes; 0 when it undoes none."""


def default_path() -> Path:
    """`$XDG_STATE_HOME/a64patch/journal.sqlite`, by default below `~/.local/state` (XDG Base Directory 0.8)."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The specification: a relative path is to be ignored.
    root = Path(state) if os.path.isabs(state) else Path.home() / ".local/state"
    return root / "a64patch/journal.sqlite"


class Journal:
    """The entries, newest last. A context manager; leaving the block closes it.

    JournalError when the file is none, belongs to somebody else or may be written by others, cannot be read or
    written (a full disk), or is held by another process for 10 s: never is a doubtful journal believed or replaced.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, read_only: bool = False) -> None:
        self.path = Path(path) if path is not None else default_path()
        self._connection: sqlite3.Connection | None = None
        if read_only and not self.path.exists():
            return
        self._prepare_file()
        try:
            self._connection = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
            self._set_up()
        except (sqlite3.Error, OverflowError) as error:
            self.close()
            raise self._failure(error) from error
        except BaseException:
            self.close()
            raise

    def _prepare_file(self) -> None:
        """Make the file with mode 0600, or see that the one that is there can be trusted."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise JournalError(
                f"cannot open the journal {self.path}: {error.strerror}; --journal names another"
            ) from error
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise JournalError(f"the journal {self.path} is not a regular file; --journal names another")
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise JournalError(
                f"others may read or write the journal {self.path}: make it yours alone (chmod 600), or name another"
            )
        if found.st_size > _MOST_BYTES:
            raise JournalError(f"the journal {self.path} has more than {_MOST_BYTES >> 20} MiB: move it away")

    def _set_up(self) -> None:
        connection = self._open
        for setting in ("trusted_schema=OFF", "cell_size_check=ON", "journal_mode=DELETE", "synchronous=EXTRA"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute("BEGIN IMMEDIATE")
        tables = connection.execute(
            "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
        ).fetchall()
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if not tables and not application and not version:
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={_VERSION}")
        elif application != _APPLICATION_ID or tables != [("table", "entry", _TABLE)]:
            raise JournalError(f"{self.path} is no journal of a64patch; --journal names another")
        elif version != _VERSION:
            raise JournalError(f"the journal {self.path} is of version {version}, which this a64patch does not know")
        connection.execute("COMMIT")

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise JournalError(f"the journal {self.path} is closed")
        return self._connection

    def close(self) -> None:
        """Let go of the file. Closing twice is allowed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from patching with this journal until the block ends, or this process does.

        JournalError when another process does not let go of it for 10 s. Reading entries needs no hold.
        """
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"cannot open {lock}: {error.strerror}") from error
        try:
            deadline = time.monotonic() + _WAIT_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise JournalError(
                            f"another process is patching with the journal {self.path}: wait for it, or name another"
                            " with --journal; nothing was changed"
                        ) from None
                    time.sleep(0.02)
                except OSError as error:
                    raise JournalError(f"cannot lock {lock}: {error.strerror}") from error
            yield
        finally:
            os.close(descriptor)

    def begin(
        self,
        identity: Identity,
        changes: Sequence[Change],
        patch: str,
        *,
        method: str,
        aftermath: Sequence[Aftermath] = (),
        reverts: int = 0,
    ) -> int:
        """Write down what is about to be done; the entry's id. When this returns it is on disk."""
        words = b"".join(_WORD.pack(change.address, change.old, change.new) for change in changes)
        besides = b"".join(_AFTERMATH.pack(each.offset, len(each.old)) + each.old + each.new for each in aftermath)
        with self._transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO entry (began, ended, state, reverts, location, build_id, release, base, method, words,"
                " aftermath, patch, note) VALUES (?, '', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '')",
                (
                    _now(), EntryState.OPEN.value, reverts, identity.location, identity.build_id, identity.release,
                    f"{identity.base:#x}", method, words, besides, patch,
                ),
            )  # fmt: skip
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def finish(self, entry: int, state: EntryState, note: str = "") -> None:
        """Write down how it ended. An entry that reverts another, and is applied, makes that one REVERTED."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE entry SET state=?, ended=?, note=? WHERE id=?", (state.value, _now(), note, entry)
            )
            if state is EntryState.APPLIED:
                connection.execute(
                    "UPDATE entry SET state=? WHERE id=(SELECT reverts FROM entry WHERE id=?)",
                    (EntryState.REVERTED.value, entry),
                )

    def entries(self, *states: EntryState) -> list[Entry]:
        """The entries, oldest first; those in these states only, if any are given."""
        marks = ", ".join("?" * len(states))
        return self._select(f"WHERE state IN ({marks})" if states else "", *(state.value for state in states))

    def entry(self, number: int) -> Entry:
        """The entry of that id; JournalError when there is none."""
        for entry in self._select("WHERE id = ?", number):
            return entry
        raise JournalError(f"the journal {self.path} has no entry {number}; `a64patch log` lists them")

    def _select(self, condition: str, *values: int | str) -> list[Entry]:
        if self._connection is None:
            return []
        try:
            rows = self._open.execute(f"SELECT * FROM entry {condition} ORDER BY id", values).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            raise self._failure(error) from error
        return [self._entry(row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._open
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> JournalError:
        if "locked" in str(error):
            return JournalError(f"another process holds the journal {self.path}: wait for it, or name another")
        return JournalError(f"the journal {self.path} cannot be used: {error}; --journal names another")

    def _entry(self, row: Sequence[Any]) -> Entry:
        try:
            (
                number, began, ended, state, reverts, location, build_id, release, base, method, words, aftermath,
                patch, note,
            ) = row  # fmt: skip
            texts = (began, ended, location, build_id, release, method, patch, note)
            if not all(isinstance(text, str) for text in texts) or not isinstance(reverts, int):
                raise ValueError("a field of another type")
            changes = tuple(Change(*word) for word in _WORD.iter_unpack(words))
            addresses = {change.address for change in changes}
            if len(addresses) != len(changes) or any(address % INSN_SIZE for address in addresses):
                raise ValueError("addresses that stand twice or are unaligned")
            identity = Identity(location, build_id, release, int(base, 16))
            return Entry(
                number, began, ended, EntryState(state), identity, method, changes, _aftermath(aftermath), patch, note,
                reverts,
            )  # fmt: skip
        except (ValueError, TypeError, struct.error) as error:
            raise JournalError(f"entry {row[0]} of the journal {self.path} is damaged: {error}") from None


def _aftermath(data: bytes) -> tuple[Aftermath, ...]:
    found, place = [], 0
    while place < len(data):
        offset, size = _AFTERMATH.unpack_from(data, place)
        place += _AFTERMATH.size
        if place + 2 * size > len(data):
            raise ValueError("bytes are missing")
        found.append(Aftermath(offset, data[place : place + size], data[place + size : place + 2 * size]))
        place += 2 * size
    return tuple(found)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

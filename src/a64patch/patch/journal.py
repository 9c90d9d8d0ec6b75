"""Every patch of every target, on disk before its first word is written, so that it can be undone after a crash.

Read on: transaction.py, which writes an entry before the first word and its result after the last.

The journal is one SQLite file. Only its owner may read and write it (mode 0600). Every commit is on disk before the
call returns (SQLite: synchronous=EXTRA, rollback journal), so an entry survives a power cut once `begin` has returned.
Every entry has a checksum, so a damaged entry is noticed. No entry is ever deleted, so a missing entry is noticed.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import sqlite3
import stat
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from a64patch.a64.words import INSN_SIZE
from a64patch.errors import JournalError
from a64patch.oneline import shown
from a64patch.patch.building import Built
from a64patch.patch.sites import Site
from a64patch.patch.surroundings import DIGEST_SIZE, Surrounding
from a64patch.ranges import Ranges
from a64patch.targets.base import Aftermath, Identity, NewReference, Room
from a64patch.targets.section import Change, Guard, counted_words, require_one_set

_APPLICATION_ID = 0xA64BA7C4 - (1 << 32)  # signed, as SQLite keeps it
_VERSION = 5
_WORD = struct.Struct("<QII")
_GUARD = struct.Struct("<QI")
_AFTERMATH = struct.Struct("<QI")
_SITE = struct.Struct("<QQI")
_SPAN = struct.Struct("<QQ")
"""A range as its start and its size: its end may be 2**64."""
_ANNEX = struct.Struct("<QQBB")
"""The address and the size of the room, _ENDS and _REFERS, and the length of its description."""
_ENDS, _REFERS = 1, 2
"""The entry takes the new code away; a list of what it refers to is behind the description, after its own length."""
_LENGTH = struct.Struct("<I")
_REFERENCE = struct.Struct("<QQqI")
"""Address, goal or 0, addend, and the length of a goal that is a name."""
_PAIR = struct.Struct("<II")
_SURROUNDING = struct.Struct(f"<QQ{DIGEST_SIZE}sI")
_MOST_BYTES = 512 << 20
_ROOM_TO_FINISH = 1 << 20
_WAIT_SECONDS = 10.0
_TABLE = """CREATE TABLE entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT, began TEXT NOT NULL, ended TEXT NOT NULL, state TEXT NOT NULL,
    reverts INTEGER NOT NULL, location BLOB NOT NULL, build_id TEXT NOT NULL, release TEXT NOT NULL, base TEXT NOT NULL,
    incarnation TEXT NOT NULL, method TEXT NOT NULL, reason TEXT NOT NULL, words BLOB NOT NULL, data BLOB NOT NULL,
    guards BLOB NOT NULL, sites BLOB NOT NULL, surroundings BLOB NOT NULL, aftermath BLOB NOT NULL, patch TEXT NOT NULL,
    annex BLOB NOT NULL, left_there INTEGER NOT NULL, note TEXT NOT NULL, checksum INTEGER NOT NULL
)"""
_COLUMNS = 23
_REVERTS = 4
"""The number of that column."""
_FIRST_TABLE = """CREATE TABLE entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT, began TEXT NOT NULL, ended TEXT NOT NULL, state TEXT NOT NULL,
    reverts INTEGER NOT NULL, location BLOB NOT NULL, build_id TEXT NOT NULL, release TEXT NOT NULL, base TEXT NOT NULL,
    method TEXT NOT NULL, words BLOB NOT NULL, aftermath BLOB NOT NULL, patch TEXT NOT NULL, note TEXT NOT NULL,
    checksum INTEGER NOT NULL
)"""
_SECOND_TABLE = """CREATE TABLE entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT, began TEXT NOT NULL, ended TEXT NOT NULL, state TEXT NOT NULL,
    reverts INTEGER NOT NULL, location BLOB NOT NULL, build_id TEXT NOT NULL, release TEXT NOT NULL, base TEXT NOT NULL,
    incarnation TEXT NOT NULL, method TEXT NOT NULL, reason TEXT NOT NULL, words BLOB NOT NULL, sites BLOB NOT NULL,
    aftermath BLOB NOT NULL, patch TEXT NOT NULL, note TEXT NOT NULL, checksum INTEGER NOT NULL
)"""
_THIRD_TABLE = """CREATE TABLE entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT, began TEXT NOT NULL, ended TEXT NOT NULL, state TEXT NOT NULL,
    reverts INTEGER NOT NULL, location BLOB NOT NULL, build_id TEXT NOT NULL, release TEXT NOT NULL, base TEXT NOT NULL,
    incarnation TEXT NOT NULL, method TEXT NOT NULL, reason TEXT NOT NULL, words BLOB NOT NULL, sites BLOB NOT NULL,
    surroundings BLOB NOT NULL, aftermath BLOB NOT NULL, patch TEXT NOT NULL, note TEXT NOT NULL,
    checksum INTEGER NOT NULL
)"""
_FOURTH_TABLE = """CREATE TABLE entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT, began TEXT NOT NULL, ended TEXT NOT NULL, state TEXT NOT NULL,
    reverts INTEGER NOT NULL, location BLOB NOT NULL, build_id TEXT NOT NULL, release TEXT NOT NULL, base TEXT NOT NULL,
    incarnation TEXT NOT NULL, method TEXT NOT NULL, reason TEXT NOT NULL, words BLOB NOT NULL, data BLOB NOT NULL,
    guards BLOB NOT NULL, sites BLOB NOT NULL, surroundings BLOB NOT NULL, aftermath BLOB NOT NULL, patch TEXT NOT NULL,
    note TEXT NOT NULL, checksum INTEGER NOT NULL
)"""
_TABLES = {1: _FIRST_TABLE, 2: _SECOND_TABLE, 3: _THIRD_TABLE, 4: _FOURTH_TABLE, _VERSION: _TABLE}
"""The table of each version that can be read. A journal becomes one of this version when it is opened."""
_ADDED = {
    "incarnation": "",
    "reason": "",
    "data": b"",
    "guards": b"",
    "sites": b"",
    "surroundings": b"",
    "annex": b"",
    "left_there": 0,
}
"""The columns that older versions do not have, as they are for an older entry."""
_FIRST_METHODS = {"sync": "stop", "nosync+kick": "kick"}
"""Version 1 had other names for two methods."""
_FAILURES = (sqlite3.Error, OverflowError, UnicodeError, MemoryError)
"""Errors of sqlite3. UnicodeError: its own message quotes damaged text. OverflowError: a number has over 64 bits."""


def _schema(table: str) -> list[tuple[str, str, str]]:
    return [("table", "entry", table), ("table", "sqlite_sequence", "CREATE TABLE sqlite_sequence(name,seq)")]


class EntryState(Enum):
    """How far an entry has come."""

    OPEN = "open"
    """Begun, with no result yet. If no process works on it any more, it was cut off: `recover` brings it to an end."""
    APPLIED = "applied"
    """The target has every new word."""
    UNDONE = "undone"
    """The patch failed, and the target has every old word."""
    REVERTED = "reverted"
    """The patch was applied, and a later entry has put every old word back."""
    PARTIAL = "partial"
    """The patch failed, and some words are not known to be the old ones; the note says which."""


class Entry(NamedTuple):
    """One patch of one target."""

    id: int
    began: str
    """Time in UTC (ISO 8601)."""
    ended: str
    """Time in UTC (ISO 8601); empty while the entry is open."""
    state: EntryState
    identity: Identity
    method: str
    """The protocol for writing its words."""
    changes: tuple[Change, ...]
    aftermath: tuple[Aftermath, ...]
    """The bytes that the target changes besides, when these words are published."""
    patch: str
    """The assembly diff, for people; empty where the entry reverts another."""
    note: str = ""
    """The result, for people."""
    reverts: int = 0
    """The id of the entry that this one undoes; 0 when it undoes none."""
    reason: str = ""
    """Why that method."""
    sites: tuple[Site, ...] = ()
    """The words that change as one, and the addresses where no CPU may be; empty in an entry of version 1."""
    surroundings: tuple[Surrounding, ...] = ()
    """The code around the words; empty where the identity tells the build, and in an entry of an older version.
    Of a word in a loaded module: the word alone."""
    data: tuple[Change, ...] = ()
    """The words of data that change with `changes`, as one."""
    guards: tuple[Guard, ...] = ()
    """The words of data that must hold while the others change."""
    built: Built | None = None
    """The new code that lies elsewhere, which the entry builds or takes away."""

    def __repr__(self) -> str:
        words = counted_words(self.changes, self.data)
        return shown(
            self, f"{self.id} {self.state.value}, {self.began}: {words} by {self.method} in", self.identity.location
        )

    @property
    def written(self) -> tuple[Change, ...]:
        """Every word that is written: code, then data."""
        return self.changes + self.data


def default_path() -> Path:
    """`$XDG_STATE_HOME/a64patch/journal.sqlite`, by default below `~/.local/state` (XDG Base Directory 0.8).

    JournalError when this user has no home directory.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    # The specification: a relative path is to be ignored.
    try:
        root = Path(state) if os.path.isabs(state) else Path.home() / ".local/state"
    except RuntimeError as error:
        raise JournalError(f"there is no place for a journal: {error}; --journal names one") from error
    return root / "a64patch/journal.sqlite"


class Journal:
    """The entries, newest last. A context manager; leaving the block closes the journal.

    A missing file is created, and so are missing directories, with mode 0700. With `read_only` a missing file is an
    empty journal, and nothing is created. A doubtful journal is never believed, and never replaced.

    JournalError when the file

    - is no journal, or is damaged;
    - belongs to another user, or has a mode that lets other users read or write it;
    - cannot be read or written, for example because the disk is full;
    - is held by another process for 10 s.

    Not guaranteed: in a directory where other users may put files, they can disturb the journal.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        read_only: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        """`options`: what a command needs besides, to open the targets of the entries: see `command`."""
        self._options = (*(("--journal", os.fspath(path)) if path is not None else ()), *options)
        self._begun: dict[int, str] = {}
        # Absolute: SQLite gives some names, such as ":memory:", a meaning of their own.
        self.path = Path(os.path.abspath(path)) if path is not None else default_path()
        self._connection: sqlite3.Connection | None = None
        if read_only and not self.path.exists():
            return
        self._prepare_file()
        try:
            self._connection = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
            self._set_up()
        except (OSError, *_FAILURES) as error:
            self.close()
            raise error if isinstance(error, JournalError) else self._failure(error) from error
        except BaseException:
            self.close()
            raise

    def _prepare_file(self) -> None:
        """Make the file with mode 0600. If it exists, require that it and SQLite's files beside it can be trusted.

        An existing file is not opened here. Closing it would drop the locks that SQLite holds on it if this process has
        it open already (POSIX locks belong to the process).
        """
        try:
            for folder in reversed(self.path.parents):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, exist_ok=True)
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            found = os.lstat(self.path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise JournalError(f"cannot open the journal {self.path}: {reason}; --journal names another") from error
        if not stat.S_ISREG(found.st_mode):
            raise JournalError(f"the journal {self.path} is not a regular file; --journal names another")
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise JournalError(
                f"others may read or write the journal {self.path}: make it yours alone (chmod 600), or name another"
            )
        if found.st_size > _MOST_BYTES:
            raise JournalError(f"the journal {self.path} has more than {_MOST_BYTES >> 20} MiB: move it away")
        for suffix in ("-journal", "-wal", "-shm"):
            try:
                beside = os.lstat(f"{self.path}{suffix}")
            except OSError:
                continue
            if not stat.S_ISREG(beside.st_mode) or beside.st_uid != os.geteuid():
                raise JournalError(f"{self.path}{suffix} is not yours, and would be believed: move it away")

    def _set_up(self) -> None:
        connection = self._open
        for setting in ("trusted_schema=OFF", "cell_size_check=ON", "synchronous=EXTRA"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute("BEGIN IMMEDIATE")
        schema = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        # Only an empty file is a new journal: SQLite takes the rest of a truncated file for an empty database.
        if not schema and not application and not version and not os.stat(self.path).st_size:
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={_VERSION}")
            self._keep_directories()
        elif application != _APPLICATION_ID:
            raise JournalError(f"{self.path} is no journal of a64patch; --journal names another")
        elif version not in _TABLES:
            raise JournalError(f"the journal {self.path} is of version {version}, which this a64patch does not know")
        elif schema != _schema(_TABLES[version]):
            raise JournalError(
                f"the journal {self.path} is damaged: its tables are not its own; --journal names another"
            )
        self._require_complete()
        if version in _TABLES and version != _VERSION:
            self._migrate()
            self._require_complete()
        connection.execute("COMMIT")
        if version in _TABLES and version != _VERSION:
            connection.execute("VACUUM")
        if connection.execute("PRAGMA journal_mode=DELETE").fetchone() != ("delete",):
            raise JournalError(f"the journal {self.path} cannot be used without a write-ahead log; name another")

    def _migrate(self) -> None:
        """Turn a journal of an older version into one of this version, inside the open transaction."""
        connection = self._open
        connection.execute("ALTER TABLE entry RENAME TO older")
        connection.execute(_TABLE)
        names = [column[1] for column in connection.execute("PRAGMA table_info(entry)")][:-1]
        marks = ", ".join("?" * _COLUMNS)
        older = connection.execute("SELECT * FROM older ORDER BY id")
        known = [column[0] for column in older.description]
        for row in older.fetchall():
            fields: dict[str, Any] = _ADDED | dict(zip(known, row, strict=True))
            fields["method"] = _FIRST_METHODS.get(fields["method"], fields["method"])
            values = [fields[name] for name in names]
            # A damaged entry stays damaged: its new checksum is wrong too.
            damaged = fields["checksum"] != _checksum(row[:-1])
            connection.execute(f"INSERT INTO entry VALUES ({marks})", (*values, _checksum(values) ^ damaged))
        connection.execute("DROP TABLE older")
        connection.execute(f"PRAGMA user_version={_VERSION}")

    def _keep_directories(self) -> None:
        """Put every directory that leads to the journal on disk: any of them may have just been made."""
        for folder in self.path.parents:
            with suppress(PermissionError):
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            if os.path.ismount(folder):
                break

    def _require_complete(self) -> None:
        """JournalError when an entry is missing. Entries are numbered from 1; SQLite stores the last number apart."""
        count, last = self._open.execute("SELECT count(*), coalesce(max(id), 0) FROM entry").fetchone()
        counted = self._open.execute("SELECT name, seq FROM sqlite_sequence").fetchall()
        if count != last or counted != ([("entry", count)] if count else []):
            raise JournalError(f"the journal {self.path} is damaged: entries are missing; --journal names another")

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
        """Keep other processes from patching with this journal until the block or this process ends.

        JournalError when another process holds the journal for 10 s. Entries can be read without this.
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

    def command(self, *words: str) -> str:
        """A command for this journal and its targets, as a user can give it to the shell: `a64patch revert 3`."""
        return shlex.join(["a64patch", *words, *self._options])

    def begun_by(self, other: Journal) -> list[Entry]:
        """The entries that `other`, the same file, has begun. Works after an interrupt at any point of its `begin`."""
        # Another process may have taken the number since, if the interrupt came before the entry was written.
        return [
            entry
            for number, began in other._begun.items()
            for entry in self._select("WHERE id = ? AND began = ?", number, began)
        ]

    def begin(
        self,
        identity: Identity,
        changes: Sequence[Change],
        patch: str,
        *,
        method: str,
        reason: str = "",
        sites: Sequence[Site] = (),
        surroundings: Sequence[Surrounding] = (),
        aftermath: Sequence[Aftermath] = (),
        reverts: int = 0,
        data: Sequence[Change] = (),
        guards: Sequence[Guard] = (),
        built: Built | None = None,
    ) -> int:
        """Write an entry for a patch that is about to begin, and return its id. The entry is on disk then.

        Of each site, only the range and `keep_out` are stored. JournalError when the journal cannot be written.
        """
        words, more = (b"".join(_WORD.pack(*change) for change in each) for each in (changes, data))
        guarded = b"".join(_GUARD.pack(*guard) for guard in guards)
        besides = b"".join(_AFTERMATH.pack(each.offset, len(each.old)) + each.old + each.new for each in aftermath)
        places = b"".join(
            _SITE.pack(site.start, site.end - site.start, len(site.keep_out.spans))
            + b"".join(_SPAN.pack(start, end - start) for start, end in site.keep_out)
            for site in sites
        )
        around = b"".join(map(_packed, surroundings))
        annex = _packed_annex(built) if built is not None else b""
        text = _storable(patch)
        texts = [identity.build_id, identity.release, f"{identity.base:#x}", identity.incarnation, method, reason]
        with self._transaction() as connection:
            number: int = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM entry").fetchone()[0]
            began = _now()
            row = [
                number, began, "", EntryState.OPEN.value, reverts, os.fsencode(identity.location),
                *map(_storable, texts), words, more, guarded, places, around, besides, text, annex,
                int(built is not None), "",
            ]  # fmt: skip
            size = connection.execute(
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
            ).fetchone()
            stored = (words, more, guarded, places, around, besides, annex, text.encode())
            if size[0] + sum(map(len, stored)) > _MOST_BYTES - _ROOM_TO_FINISH:
                raise JournalError(f"the journal {self.path} is full: move it away, or name another with --journal")
            marks = ", ".join("?" * _COLUMNS)
            connection.execute(f"INSERT INTO entry VALUES ({marks})", (*row, _checksum(row)))
            self._begun[number] = began
        return number

    def finish(self, entry: int, state: EntryState, note: str = "", *, left: bool = False) -> None:
        """Write the result of an entry. When an entry that reverts another is applied, the other becomes REVERTED.

        `left`: the room of its new code is still to be given back.

        JournalError when the journal cannot be written, has no such entry, or the entry is damaged.
        """
        with self._transaction():
            reverted = self._change(entry, state=state.value, ended=_now(), note=_storable(note), left_there=int(left))
            if state is EntryState.APPLIED and reverted:
                self._change(reverted, state=EntryState.REVERTED.value)

    def _change(self, number: int, **values: str | int) -> int:
        """Change fields of an entry; returns the id of the entry that it reverts. A damaged one is not changed."""
        connection = self._open
        row = None
        if abs(number) < 1 << 63:
            row = connection.execute("SELECT * FROM entry WHERE id=?", (number,)).fetchone()
        if row is None or row[-1] != _checksum(row[:-1]) or not isinstance(row[_REVERTS], int):
            self.entry(number)
            raise JournalError(f"entry {number} of the journal {self.path} is damaged")
        reverts: int = row[_REVERTS]
        settings = ", ".join(f"{name}=?" for name in values)
        connection.execute(f"UPDATE entry SET {settings} WHERE id=?", (*values.values(), number))
        row = connection.execute("SELECT * FROM entry WHERE id=?", (number,)).fetchone()
        connection.execute("UPDATE entry SET checksum=? WHERE id=?", (_checksum(row[:-1]), number))
        return reverts

    def entries(self, *states: EntryState) -> list[Entry]:
        """The entries in these states, or all if no state is given, oldest first. JournalError when one is damaged."""
        marks = ", ".join("?" * len(states))
        return self._select(f"WHERE state IN ({marks})" if states else "", *(state.value for state in states))

    def with_left_code(self) -> list[Entry]:
        """The entries whose new code is out of use, but whose room could not be given back; oldest first."""
        return self._select(
            "WHERE left_there = 1 AND state NOT IN (?, ?)", EntryState.OPEN.value, EntryState.PARTIAL.value
        )

    def entry(self, number: int) -> Entry:
        """The entry with this id; JournalError when there is none, or it is damaged."""
        for entry in self._select("WHERE id = ?", number) if abs(number) < 1 << 63 else ():
            return entry
        raise JournalError(f"the journal {self.path} has no entry {number}; `{self.command('log')}` lists them")

    def patch_of(self, entry: Entry) -> str:
        """The assembly diff of an entry. An entry that reverts another has the other's diff, reversed.

        JournalError when the other entry is damaged; PatchFormatError when its diff is.
        """
        from a64patch.patch.asmdiff import parse, reverse, to_text

        turned = False
        while entry.reverts and not entry.patch:
            entry, turned = self.entry(entry.reverts), not turned
        return to_text(reverse(parse(entry.patch))) if turned and entry.patch else entry.patch

    def _select(self, condition: str, *values: int | str) -> list[Entry]:
        if self._connection is None:
            return []
        try:
            rows = self._open.execute(f"SELECT * FROM entry {condition} ORDER BY id", values).fetchall()
        except _FAILURES as error:
            raise self._failure(error) from error
        return [self._entry(row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._open
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            if isinstance(error, _FAILURES):
                raise self._failure(error) from error
            raise

    def _failure(self, error: Exception) -> JournalError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return JournalError(f"another process holds the journal {self.path}: wait for it, or name another")
        # SQLite's message may quote bytes that it cannot decode.
        reason = "".join(letter if letter.isprintable() else " " for letter in str(error)[:100])
        return JournalError(f"the journal {self.path} cannot be used: {reason}; --journal names another")

    def _entry(self, row: Sequence[Any]) -> Entry:
        try:
            (
                number, began, ended, state, reverts, location, build_id, release, base, incarnation, method, reason,
                words, data, guards, sites, surroundings, aftermath, patch, annex, left, note, checksum,
            ) = row  # fmt: skip
            if checksum != _checksum(row[:-1]):
                raise ValueError("its checksum is wrong")
            texts = (began, ended, build_id, release, incarnation, method, reason, patch, note)
            if not all(isinstance(text, str) for text in texts) or not isinstance(reverts, int):
                raise ValueError("a field of another type")
            if left not in (0, 1):
                raise ValueError("a mark that is none")
            if not 0 <= reverts < number:
                raise ValueError("it reverts none that came before")
            changes = tuple(Change(*word) for word in _WORD.iter_unpack(words))
            addresses = {change.address for change in changes}
            if len(addresses) != len(changes) or any(address % INSN_SIZE for address in addresses):
                raise ValueError("addresses that stand twice or are unaligned")
            with_code = tuple(Change(*word) for word in _WORD.iter_unpack(data))
            guarded = tuple((address, word) for address, word in _GUARD.iter_unpack(guards))
            if with_code or guarded:
                require_one_set(addresses, with_code, guarded)
                if method != "stop":
                    raise ValueError("data that is not written by stop")
            identity = Identity(os.fsdecode(location), build_id, release, int(base, 16), incarnation)
            return Entry(
                number, began, ended, EntryState(state), identity, method, changes, _aftermath(aftermath), patch, note,
                reverts, reason, _sites(sites), _surroundings(surroundings), with_code, guarded,
                _built(annex, left) if annex else None,
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


def _sites(data: bytes) -> tuple[Site, ...]:
    found, place = [], 0
    while place < len(data):
        start, size, count = _SITE.unpack_from(data, place)
        place += _SITE.size
        if not size or start % INSN_SIZE or place + count * _SPAN.size > len(data):
            raise ValueError("a site that is none")
        spans = _SPAN.iter_unpack(data[place : place + count * _SPAN.size])
        place += count * _SPAN.size
        found.append(Site(start, start + size, Ranges(tuple((low, low + length) for low, length in spans))))
    return tuple(found)


def _packed_annex(built: Built) -> bytes:
    how = _storable(built.room.how).encode()[:255]
    words = b"".join(_PAIR.pack(*pair) for pair in built.words)
    references = b"".join(map(_packed_reference, built.references))
    flags = built.ends * _ENDS | bool(references) * _REFERS
    head = _ANNEX.pack(built.room.address, built.room.size, flags, len(how)) + how
    return head + (_LENGTH.pack(len(references)) + references if references else b"") + words


def _packed_reference(reference: NewReference) -> bytes:
    goal, name = (0, os.fsencode(reference.goal)) if isinstance(reference.goal, str) else (reference.goal, b"")
    return _REFERENCE.pack(reference.address, goal, reference.addend, len(name)) + name


def _references(data: bytes) -> Iterator[NewReference]:
    at = 0
    while at < len(data):
        address, goal, addend, length = _REFERENCE.unpack_from(data, at)
        at += _REFERENCE.size
        yield NewReference(address, os.fsdecode(data[at : at + length]) if length else goal, addend)
        at += length


def _built(data: bytes, left: int) -> Built:
    address, size, flags, length = _ANNEX.unpack_from(data)
    how, words, references = data[_ANNEX.size : _ANNEX.size + length], data[_ANNEX.size + length :], b""
    if flags & _REFERS:
        [length] = _LENGTH.unpack_from(words)
        references, words = words[_LENGTH.size : _LENGTH.size + length], words[_LENGTH.size + length :]
    if (
        address % INSN_SIZE
        or size % INSN_SIZE
        or flags & ~(_ENDS | _REFERS)
        or not len(words) // _PAIR.size * INSN_SIZE <= size
    ):
        raise ValueError("an annex that is none")
    pairs = tuple((old, new) for old, new in _PAIR.iter_unpack(words))
    room = Room(address, size, how.decode("utf-8", "replace"))
    return Built(room, pairs, bool(flags & _ENDS), bool(left), tuple(_references(references)))


def _packed(each: Surrounding) -> bytes:
    name = _storable(each.name).encode()
    return _SURROUNDING.pack(each.start, each.end - each.start, each.digest, len(name)) + name


def _surroundings(data: bytes) -> tuple[Surrounding, ...]:
    found, place = [], 0
    while place < len(data):
        start, size, digest, length = _SURROUNDING.unpack_from(data, place)
        place += _SURROUNDING.size
        if not size or start % INSN_SIZE or size % INSN_SIZE or place + length > len(data):
            raise ValueError("a surrounding that is none")
        found.append(Surrounding(start, start + size, data[place : place + length].decode(), digest))
        place += length
    return tuple(found)


def _checksum(row: Sequence[Any]) -> int:
    """CRC-32 of every field of an entry, in the order of the columns."""
    total = 0
    for field in row:
        data = field if isinstance(field, bytes) else str(field).encode()
        total = zlib.crc32(b"%d:" % len(data) + data, total)
    return total


def _storable(text: str) -> str:
    """The text as UTF-8, which SQLite needs: bytes of a file name that are not UTF-8 are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

"""A journal that an older a64patch wrote opens, its open entries recover, and it becomes one of today.

Read on: journal_1.sql to journal_4.sql are such journals; test_journal.py for the journal of today.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from a64patch.errors import JournalError
from a64patch.patch.journal import Entry, EntryState, Journal
from a64patch.patch.sites import Site
from a64patch.patch.surroundings import Surrounding
from a64patch.patch.transaction import recover
from a64patch.ranges import Ranges
from a64patch.targets.base import Aftermath, Identity
from a64patch.targets.section import Change
from tests.patch.fake import BASE, FakeTarget
from tests.support import IN_MEMORY

OLD = [0x11000000 + number for number in range(6)]
NEW = [0x22000000 + number for number in range(6)]
OPEN = 3


@pytest.fixture(params=[1, 2, 3, 4])
def path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A journal of each older version. Each but the first has one entry more than the one before."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        file = Path(folder) / "journal.sqlite"
        file.touch(mode=0o600)
        with closing(sqlite3.connect(file)) as journal:
            journal.executescript(Path(__file__).with_name(f"journal_{request.param}.sql").read_text("utf-8"))
        assert version(file) == request.param
        yield file


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as journal:
        return int(journal.execute("PRAGMA user_version").fetchone()[0])


def test_every_entry_is_what_it_was_with_the_names_of_today(path: Path) -> None:
    with Journal(path) as journal:
        first, second, third, fourth, *more = journal.entries()
    assert version(path) == 5
    program = Identity("/somewhere/program", "00ff", "Linux 6.1", 0xFFFF_8000_0000_0000)
    patch = "Prose: å.\n\n@@ site 1,1 @@\n-d503201f\n+14000002\n"
    assert first == Entry(
        1, "2026-11-26T21:11:18.137+00:00", "2026-11-26T21:11:18.157+00:00", EntryState.REVERTED, program, "kick",
        (Change(0xFFFF_FFC0_0801_0000, 0xD503201F, 0x14000002),), (Aftermath(0x40, b"old", b"new"),), patch,
        "nosync+kick: NOP may be replaced by B",
    )  # fmt: skip
    assert (second.reverts, second.state, second.patch[:20]) == (1, EntryState.APPLIED, "@@ site 1,1 @@\n-1400")
    assert (third.id, third.state, third.method, third.sites) == (OPEN, EntryState.OPEN, "stop", ())
    assert (fourth.state, fourth.note) == (EntryState.PARTIAL, "site+0xc: 99999999; old 11000003, new 22000003")

    sites = [(Site(0x40, 0x44, Ranges(((0x40, 0x80),))),), (Site(0x80, 0x84),), ()]
    assert [entry.sites for entry in more] == sites[: len(more)]
    around = [(), (Surrounding(0x40, 0xC0, "key", bytes(range(16))),), ()]
    assert [entry.surroundings for entry in more] == around[: len(more)]
    assert {(entry.data, entry.guards) for entry in (first, second, third, fourth, *more[:2])} == {((), ())}
    assert [(entry.data, entry.guards) for entry in more[2:]] in ([], [((Change(0x200, 3, 4),), ((0x204, 5),))])
    assert not any(entry.built for entry in (first, second, third, fourth, *more))


def test_it_is_migrated_once_and_goes_on(path: Path) -> None:
    with Journal(path) as journal:
        before = journal.entries()
    with Journal(path) as journal:
        assert journal.entries() == before
        assert journal.begin(Identity("/new"), before[0].changes, "", method="stop") == len(before) + 1


def test_an_open_entry_recovers(path: Path) -> None:
    target = FakeTarget([NEW[0], NEW[1], *OLD[2:]])
    with Journal(path) as journal:
        found = {done.entry.id: done for done in recover(journal, lambda entry: target)}
        assert journal.entry(OPEN).state is EntryState.UNDONE
    assert found[OPEN].note == "2 of 3 words were new: the old ones were put back"
    assert target.words == OLD


def test_a_damaged_entry_stays_damaged_and_the_others_are_kept(path: Path) -> None:
    with closing(sqlite3.connect(path)) as journal:
        journal.execute("UPDATE entry SET words=x'' WHERE id=1")
        journal.commit()
    with Journal(path) as journal:
        with pytest.raises(JournalError, match=r"entry 1 .* damaged"):
            journal.entry(1)
        assert journal.entry(OPEN).changes[0] == Change(BASE, OLD[0], NEW[0])


def test_a_migration_that_is_cut_off_leaves_the_old_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, old = path.read_bytes(), version(path)

    def cut_off(journal: Journal) -> None:
        migrate(journal)
        raise OSError("the power is gone")

    migrate = Journal._migrate
    monkeypatch.setattr(Journal, "_migrate", cut_off)
    with pytest.raises(JournalError, match="the power is gone"), Journal(path):
        pass
    assert (version(path), path.read_bytes()) == (old, before)
    monkeypatch.undo()
    with Journal(path) as journal:
        assert len(journal.entries()) >= 4

"""Transactions: all or none, and the journal knows; a failure at every position, and what may be undone by whom."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from a64patch import open_target
from a64patch.errors import (
    A64PatchError,
    BusyError,
    CapabilityError,
    GoneError,
    JournalError,
    MismatchError,
    PartialPatchError,
    PlanError,
    TargetError,
    WriteError,
)
from a64patch.patch import journal as journal_module
from a64patch.patch import text
from a64patch.patch.asmdiff import parse
from a64patch.patch.journal import Entry, EntryState, Journal
from a64patch.patch.plan import Plan, Sync, make_plan
from a64patch.patch.transaction import apply_plan, forget, recover, revert
from a64patch.targets.base import CpuState, Identity, Target
from a64patch.targets.elf import ElfFile
from a64patch.targets.section import Change
from tests.patch.fake import BASE, FakeTarget
from tests.patch.test_journal import LOCK, other_process
from tests.support import IN_MEMORY, assemble, link
from tests.targets.elf_files import TEXT_RELOCATIONS, build

OLD = [0xD2800001 | number << 5 for number in range(6)]
NEW = [0xD2800002 | number << 5 for number in range(6)]
NEWER = [0xD2800003 | number << 5 for number in range(6)]
UNFINISHED = (EntryState.OPEN, EntryState.PARTIAL)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_FIRST_PAUSE", 0)
    monkeypatch.setattr(journal_module, "_WAIT_SECONDS", 0.05)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        yield Path(name)


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    with Journal(folder / "state/journal") as opened:
        yield opened


def diff(olds: list[int], news: list[int], first: int = 0) -> str:
    """One hunk a word."""
    return "".join(
        f"@@ site+{4 * number:#x} @@\n-{old:08x}\n+{new:08x}\n"
        for number, (old, new) in enumerate(zip(olds, news, strict=True), first)
    )


def planned(target: Target, olds: list[int] = OLD, news: list[int] = NEW, first: int = 0) -> Plan:
    return make_plan(parse(diff(olds, news, first)), target)


def recovered(journal: Journal, target: Target) -> list[EntryState]:
    return [each.state for each in recover(journal, lambda entry: target)]


def test_applied_reverted_and_applied_again(journal: Journal) -> None:
    target = FakeTarget(OLD)
    outcome = apply_plan(planned(target), target, journal)
    assert target.words == NEW
    entry = journal.entry(outcome.entry)
    assert (entry.state, entry.identity, entry.method) == (EntryState.APPLIED, target.identity(), "stop")
    assert entry.changes == tuple(
        Change(BASE + 4 * number, old, new) for number, (old, new) in enumerate(zip(OLD, NEW, strict=True))
    )
    assert parse(entry.patch).hunks
    back = revert(1, target, journal)
    assert target.words == OLD
    assert journal.entry(1).state is EntryState.REVERTED
    assert (journal.entry(back.entry).state, journal.entry(back.entry).reverts) == (EntryState.APPLIED, 1)
    revert(back.entry, target, journal)
    assert target.words == NEW
    with pytest.raises(PlanError, match="entry 1 is reverted, so there is nothing to revert"):
        revert(1, target, journal)
    with pytest.raises(JournalError, match="no entry 9"):
        revert(9, target, journal)


def test_the_entry_is_there_before_the_first_word(journal: Journal) -> None:
    target = FakeTarget(OLD)
    plan = planned(target)
    seen: list[list[Entry]] = []
    write = target.write

    def watched(address: int, data: bytes) -> None:
        with Journal(journal.path) as other:
            seen.append(other.entries())
        write(address, data)

    target.write = watched  # type: ignore[method-assign]
    apply_plan(plan, target, journal)
    assert len(seen) == 6
    assert {(len(entries), entries[0].state, entries[0].changes == plan.changes) for entries in seen} == {
        (1, EntryState.OPEN, True)
    }


OPERATIONS = ("read", "write", "publish", "kick", "stop", "resume")
MODES: dict[str, dict[str, bool]] = {
    "once": {},
    "for good": {"fail_for_good": True},
    "torn": {"tear": True},
    "torn for good": {"tear": True, "fail_for_good": True},
    "silently": {"silent": True},
}


@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_failing_anywhere(operation: str, mode: str, size: int, folder: Path) -> None:
    """Apply, then revert: at each position of each operation."""
    for undo in (False, True):
        position = 0
        met = True
        while met:
            position += 1
            with Journal(folder / f"{undo}-{position}") as journal:
                target = FakeTarget(OLD[:size])
                plan = planned(target, OLD[:size], NEW[:size])
                if undo:
                    apply_plan(plan, target, journal)
                before, after = (NEW[:size], OLD[:size]) if undo else (OLD[:size], NEW[:size])
                target.calls.clear()
                target.fail = {operation: position}
                for name, value in MODES[mode].items():
                    setattr(target, name, value)
                error: BaseException | None = None
                try:
                    if undo:
                        revert(1, target, journal)
                    else:
                        apply_plan(plan, target, journal)
                except A64PatchError as failure:
                    error = failure
                met = target.calls.count(operation) >= position
                _check(journal, target, error, before, after)
    assert position > 1 or operation in ("kick", "stop", "resume")


def _check(journal: Journal, target: FakeTarget, error: BaseException | None, old: list[int], new: list[int]) -> None:
    entry = journal.entries()[-1]
    if error is None:
        assert target.words == new
        assert entry.state is EntryState.APPLIED
    elif target.words != old:
        assert isinstance(error, PartialPatchError), repr(error)
        assert entry.state is EntryState.PARTIAL
        for number, word in enumerate(target.words):
            if word != old[number]:
                assert BASE + 4 * number in error.unrestored
                where = target.symbols.describe(BASE + 4 * number)
                [line] = [line for line in entry.note.splitlines() if line.startswith(f"{where}: ")]
                assert f"{word:08x}; old" in line or "unknown" in line
                assert line.endswith(f"old {old[number]:08x}, new {new[number]:08x}")
    # The target works again.
    target.fail, target.broken, target.silent = {}, False, False
    states = recovered(journal, target)
    assert target.words in (old, new)
    assert set(states) <= {EntryState.UNDONE, EntryState.APPLIED}
    assert journal.entries(*UNFINISHED) == []
    last = journal.entries()[-1]
    if last.id == entry.id and last.state is not EntryState.APPLIED:
        assert target.words == old
    assert recovered(journal, target) == []


class Interrupted(FakeTarget):
    """Ctrl-C at these writes."""

    at: tuple[int, ...] = ()

    def write(self, address: int, data: bytes) -> None:
        super().write(address, data)
        if self.calls.count("write") in self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [(3,), (3, 4), (3, 5), (6, 7), (6, 12)])
def test_interrupted(at: tuple[int, ...], journal: Journal) -> None:
    target = Interrupted(OLD)
    target.at = at
    with pytest.raises(KeyboardInterrupt):
        apply_plan(planned(target), target, journal)
    [entry] = journal.entries()
    assert entry.state is (EntryState.UNDONE if target.words == OLD else EntryState.PARTIAL)
    assert (target.words == OLD) == (len(at) == 1 or at[1] == 12)
    recovered(journal, target)
    assert target.words == OLD


def test_a_journal_that_fails_first(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    target = FakeTarget(OLD)
    plan = planned(target)
    target.calls.clear()
    monkeypatch.setattr(journal_module, "_checksum", lambda row: (_ for _ in ()).throw(OverflowError("too much")))
    with pytest.raises(JournalError, match="too much") as caught:
        apply_plan(plan, target, journal)
    assert not caught.value.target_changed
    assert target.calls == []
    monkeypatch.undo()
    assert journal.entries() == []


@pytest.mark.parametrize("failing", [False, True])
def test_a_journal_that_fails_last(failing: bool, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    target = FakeTarget(OLD)
    plan = planned(target)
    target.fail = {"write": 2} if failing else {}
    full = JournalError("the disk is full")
    monkeypatch.setattr(Journal, "finish", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(WriteError if failing else JournalError) as caught:
        apply_plan(plan, target, journal)
    if isinstance(caught.value, JournalError):
        assert caught.value.target_changed
        assert "the patch is applied, but the journal does not say so" in str(caught.value)
    else:
        assert any("the disk is full" in note for note in caught.value.__notes__)
    monkeypatch.undo()
    assert journal.entry(1).state is EntryState.OPEN
    assert recovered(journal, target) == [EntryState.UNDONE if failing else EntryState.APPLIED]
    assert target.words == (OLD if failing else NEW)


def test_another_process_is_patching(journal: Journal) -> None:
    target = FakeTarget(OLD)
    plan = planned(target)
    target.calls.clear()
    with other_process(LOCK, journal.path):
        for use in (
            lambda: apply_plan(plan, target, journal),
            lambda: revert(1, target, journal),
            lambda: recovered(journal, target),
            lambda: forget(1, journal),
        ):
            with pytest.raises(JournalError, match="another process is patching"):
                use()
    assert (target.calls, journal.entries()) == ([], [])


def test_revert_only_what_stands_there(journal: Journal) -> None:
    target = FakeTarget(OLD)
    apply_plan(planned(target), target, journal)
    apply_plan(planned(target, NEW[2:3], NEWER[2:3], 2), target, journal)
    middle = target.words
    with pytest.raises(MismatchError, match=r"site\+0x8 holds .* as entry 1 wrote: entry 2 has changed it since"):
        revert(1, target, journal)
    assert target.words == middle
    revert(2, target, journal)
    revert(1, target, journal)
    assert target.words == OLD
    revert(4, target, journal)
    target.memory[4] ^= 1
    changed = target.words
    with pytest.raises(MismatchError, match=r"site\+0x4 holds .*; nothing was changed"):
        revert(5, target, journal)
    assert target.words == changed
    assert [entry.id for entry in journal.entries(*UNFINISHED)] == []


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (Identity("elsewhere", "aa", "Linux 1", 0x10), "patched fake, not elsewhere"),
        (Identity("fake", "bb", "Linux 1", 0x10), "it was Linux 1, build aa, and is Linux 1, build bb"),
        (Identity("fake", "", "", 0x10), "give --symbols as when that was done"),
        (Identity("fake", "aa", "Linux 2", 0x10), "and is Linux 2, build aa"),
        (Identity("fake", "aa", "Linux 1", 0x20), "lies at 0x20 now, not at 0x10"),
    ],
)
def test_another_target(now: Identity, message: str, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    target = FakeTarget(OLD)
    monkeypatch.setattr(target, "identity", lambda: Identity("fake", "aa", "Linux 1", 0x10))
    apply_plan(planned(target), target, journal)
    journal.begin(Identity("fake", "aa", "Linux 1", 0x10), [Change(BASE, NEW[0], OLD[0])], "", method="stop")
    monkeypatch.setattr(target, "identity", lambda: now)
    with pytest.raises(PlanError, match=message):
        revert(1, target, journal)
    [left] = recover(journal, lambda entry: target)
    assert (left.state, left.entry.id) == (EntryState.OPEN, 2)
    assert message in left.note
    assert target.words == NEW


@pytest.mark.parametrize(("now", "same"), [("boot=2 x=1", False), ("boot=1 x=2", True), ("x=1", True), ("", True)])
def test_another_run_of_the_target(now: str, same: bool, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of what tells runs apart counts where both tell it."""
    target = FakeTarget(OLD)
    apply_plan(planned(target), target, journal)
    entry = journal.entry(1)
    then = entry._replace(identity=replace(entry.identity, incarnation="boot=1 seed=7"))
    monkeypatch.setattr(journal, "entry", lambda number: then)
    monkeypatch.setattr(target, "identity", lambda: Identity("fake", incarnation=now))
    if same:
        revert(1, target, journal)
        assert target.words == OLD
    else:
        with pytest.raises(PlanError, match=r"fake was started again since entry 1 patched it.*--forget 1"):
            revert(1, target, journal)
        assert target.words == NEW


@pytest.mark.parametrize("exists", [True, False], ids=["another process", "no process"])
@pytest.mark.parametrize(
    ("now", "over"), [("boot=1 start=8", True), ("boot=2 start=8", False), ("start=8", False), ("boot=1", False)]
)
def test_a_run_that_is_surely_over_needs_no_recovery(
    now: str, over: bool, exists: bool, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only within one boot of one machine is it sure that the process with this number is another one."""
    target = FakeTarget(OLD)
    monkeypatch.setattr(target, "identity", lambda: Identity("pid:7", incarnation="boot=1 start=7"))
    plan = planned(target)
    with monkeypatch.context() as patch:
        patch.setattr(target, "carry_out", _interrupted)
        patch.setattr(journal, "finish", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            apply_plan(plan, target, journal)
    monkeypatch.setattr(target, "identity", lambda: Identity("pid:7", incarnation=now))

    def opened(entry: Entry) -> Target:
        if exists:
            return target
        gone = GoneError("process 7 has ended")
        gone.incarnation = now
        raise gone

    [found] = recover(journal, opened)
    runs_on = exists and now == "boot=1"
    assert found.state is journal.entry(1).state is (EntryState.UNDONE if over or runs_on else EntryState.OPEN)
    told = "nothing had been changed" if runs_on else "--forget 1" if not over else "is over" if exists else "has ended"
    assert told in found.note


def _interrupted(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


def test_the_same_target_opened_in_another_way(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    target = FakeTarget(OLD)
    monkeypatch.setattr(target, "identity", lambda: Identity("gdb+unix:/stub?timeout=1"))
    apply_plan(planned(target), target, journal)
    monkeypatch.setattr(target, "identity", lambda: Identity("gdb+unix:/stub?leave=running"))
    revert(1, target, journal)
    assert target.words == OLD
    journal.begin(Identity("gdb+unix:/stub"), [Change(BASE, OLD[0], NEW[0])], "", method="stop")
    with pytest.raises(PlanError, match="was cut off"):
        apply_plan(planned(target), target, journal)
    assert [Identity(path).place for path in ("/a?b", "sim:/a?cpus=4")] == ["/a?b", "sim:/a"]


def _open_entry(journal: Journal, words: list[int]) -> FakeTarget:
    """A target with these words, whose patch from OLD to NEW was cut off."""
    changes = [Change(BASE + 4 * number, old, new) for number, (old, new) in enumerate(zip(OLD, NEW, strict=True))]
    journal.begin(Identity("fake"), changes, diff(OLD, NEW), method="stop")
    return FakeTarget(words)


def test_nothing_goes_on_top_of_what_was_cut_off(journal: Journal) -> None:
    target = FakeTarget(OLD)
    apply_plan(planned(target, OLD[:1], NEW[:1]), target, journal)
    _open_entry(journal, OLD)
    plan = planned(target, OLD[1:], NEW[1:], 1)
    uses: list[Callable[[], object]] = [
        lambda: apply_plan(plan, target, journal),
        lambda: revert(1, target, journal),
    ]
    for use in uses:
        with pytest.raises(PlanError, match=r"entry 2 .* was cut off: run `a64patch recover --journal .*` first"):
            use()
    elsewhere = replace(plan, identity=Identity("elsewhere"))
    apply_plan(elsewhere, target, journal)


@pytest.mark.parametrize(
    ("words", "after", "state", "note"),
    [
        (OLD, OLD, EntryState.UNDONE, "all 6 words are the old ones"),
        (NEW, NEW, EntryState.APPLIED, "all 6 words are the new ones"),
        (OLD[:3] + NEW[3:], OLD, EntryState.UNDONE, "3 of 6 words were new"),
        (NEW[:1] + OLD[1:], OLD, EntryState.UNDONE, "1 of 6 words were new"),
        ([*NEW[:2], 7, *OLD[3:]], [*OLD[:2], 7, *OLD[3:]], EntryState.PARTIAL, r"neither old nor new .*: site+0x8"),
        ([7, *NEW[1:]], [7, *OLD[1:]], EntryState.PARTIAL, "1 of 6 words are neither"),
    ],
)
def test_recover(words: list[int], after: list[int], state: EntryState, note: str, journal: Journal) -> None:
    target = _open_entry(journal, words)
    [found] = recover(journal, lambda entry: target)
    assert target.words == after
    assert (found.state, journal.entry(1).state, journal.entry(1).note) == (state, state, found.note)
    assert note.split(" .*")[0] in found.note
    assert "publish" in target.calls, "what a CPU executes is not known"
    again = recovered(journal, target)
    assert again == ([state] if state is EntryState.PARTIAL else [])
    assert target.words == after


def test_recover_what_cannot_be_opened(journal: Journal) -> None:
    _open_entry(journal, OLD)

    def gone(entry: Entry) -> Target:
        raise TargetError("cannot open fake: it is gone")

    [found] = recover(journal, gone)
    assert (found.state, found.note) == (EntryState.OPEN, "cannot open fake: it is gone")
    assert journal.entry(1).state is EntryState.OPEN
    assert forget(1, journal).state is EntryState.UNDONE
    assert "was not looked at" in journal.entry(1).note
    assert list(recover(journal, gone)) == []
    with pytest.raises(PlanError, match="entry 1 is undone: only one that was cut off"):
        forget(1, journal)


@pytest.mark.parametrize("sync", ["nosync", "kick"])
def test_no_weaker_method_than_is_safe(sync: Sync, journal: Journal) -> None:
    target = FakeTarget(OLD)
    plan = planned(target)
    target.calls.clear()
    with pytest.raises(PlanError, match=f"--sync {sync} is not safe here"):
        apply_plan(plan, target, journal, sync=sync)
    assert (target.calls, journal.entries()) == ([], [])


@pytest.mark.parametrize(
    ("sync", "method", "calls"),
    [
        ("auto", "kick", ["read", "write", "publish", "read", "kick"]),
        ("kick", "kick", ["read", "write", "publish", "read", "kick"]),
        ("nosync", "nosync", ["read", "write", "publish", "read"]),
        ("stop", "stop", ["stop", "read", "write", "publish", "read", "resume"]),
    ],
)
def test_the_method_that_was_asked_for(sync: Sync, method: str, calls: list[str], journal: Journal) -> None:
    target = FakeTarget([0xD503201F])
    plan = planned(target, [0xD503201F], [0x14000000])
    target.calls.clear()
    outcome = apply_plan(plan, target, journal, sync=sync)
    assert (outcome.result.method, target.calls) == (method, calls)


def test_refused_by_state_and_hazard(journal: Journal) -> None:
    target = FakeTarget([0xD503233F, *OLD[1:]])
    with pytest.raises(MismatchError, match="holds"):
        apply_plan(planned(target), target, journal)
    target = FakeTarget(NEW)
    with pytest.raises(MismatchError, match="already applied"):
        apply_plan(planned(target), target, journal)
    target = FakeTarget(NEW[:2] + OLD[2:])
    with pytest.raises(MismatchError, match="2 of 6 hunks are applied already"):
        apply_plan(planned(target), target, journal)
    # PACIASP is a landing pad.
    target = FakeTarget([0xD503233F])
    plan = planned(target, [0xD503233F], [0xD503201F])
    with pytest.raises(PlanError, match="--accept") as caught:
        apply_plan(plan, target, journal)
    assert (target.words, journal.entries()) == ([0xD503233F], [])
    name = str(caught.value).partition("--accept ")[2].split(";")[0]
    apply_plan(plan, target, journal, accept={name})
    assert target.words == [0xD503201F]


CALLER = """
        .text
        .globl site
        .type site, %function
site:   nop
        bl elsewhere
        ret
        .size site, . - site
"""


def _relocated(kind: str, folder: Path) -> tuple[Path, str]:
    """A file in which a relocation owns a word, and where that is."""
    if kind == "object":
        return assemble(CALLER, folder / "caller.o"), "site+0x4"
    return build(folder, "pie", source=TEXT_RELOCATIONS, options=("-z", "notext")), "slot"


@pytest.mark.parametrize("kind", ["object", "pie"])
@pytest.mark.parametrize("where", ["same target", "new target", "new process"])
def test_dropped_relocations_come_back(kind: str, where: str, tmp_path: Path, journal: Journal) -> None:
    path, site = _relocated(kind, tmp_path)
    before = path.read_bytes()
    with ElfFile(path, drop_relocations=True) as target:
        old = int.from_bytes(target.read(target.symbols.resolve(site), 4), "little")
        plan = make_plan(parse(f"@@ {site} @@\n-{old:08x}\n+d503201f\n"), target)
        with pytest.raises(PlanError, match="relocation"):
            apply_plan(plan, target, journal, accept={"data"})
        apply_plan(plan, target, journal, accept={"all"})
        assert path.read_bytes() != before
        assert journal.entry(1).aftermath
        with ElfFile(path) as patched:
            assert patched.relocation_at(patched.symbols.resolve(site)) is None
        if where == "same target":
            revert(1, target, journal)
    if where == "new target":
        with ElfFile(path) as target:
            revert(1, target, journal)
    elif where == "new process":
        journal.close()
        code = "import sys; from a64patch.cli.main import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "revert", "1", "--journal", str(journal.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before


def test_a_relocation_that_somebody_changed(tmp_path: Path, journal: Journal) -> None:
    path, site = _relocated("object", tmp_path)
    with ElfFile(path, drop_relocations=True) as target:
        plan = make_plan(parse(f"@@ {site} @@\n-94000000\n+d503201f\n"), target)
        apply_plan(plan, target, journal, accept={"all"})
    [each] = journal.entry(1).aftermath
    content = bytearray(path.read_bytes())
    content[each.offset] ^= 0x55
    path.write_bytes(content)
    with ElfFile(path) as target, pytest.raises(MismatchError, match="is not as it was left"):
        revert(1, target, journal)
    assert path.read_bytes() == content
    assert journal.entries(*UNFINISHED) == []


def program(folder: Path) -> Path:
    words = ", ".join(f"{word:#x}" for word in OLD)
    # The long way round keeps a CPU of the simulator from always standing inside the words.
    source = f".text\n.globl site\n.type site, %function\nsite: .inst {words}\n.rept 500\nnop\n.endr\nb site\n"
    source += ".size site, . - site\n"
    return link(assemble(source, folder / "site.o"), folder / "site", "-e", "site", "--build-id=0x0011")


def test_elf_file_and_simulator_through_the_same_code(tmp_path: Path, journal: Journal) -> None:
    path = program(tmp_path)
    before = path.read_bytes()
    targets: list[Callable[[], Target]] = [
        lambda: open_target(path),
        lambda: open_target(f"sim:{path}?cpus=3&seed=7"),
    ]
    for number, make in enumerate(targets):
        with make() as target:
            place = target.symbols.resolve("site")
            outcome = apply_plan(planned(target), target, journal)
            assert target.read(place, 24) == b"".join(word.to_bytes(4, "little") for word in NEW)
            assert len(outcome.result.cpus) == 3 * number
            entry = journal.entry(outcome.entry)
            assert entry.state is EntryState.APPLIED
            assert entry.identity == target.identity()
            revert(outcome.entry, target, journal)
            assert target.read(place, 24) == b"".join(word.to_bytes(4, "little") for word in OLD)
    assert path.read_bytes() == before


def test_two_who_planned_at_the_same_time(tmp_path: Path, journal: Journal) -> None:
    path = program(tmp_path)
    with open_target(path) as one, open_target(path) as other:
        first, second = planned(one), planned(other, OLD, NEWER)
        apply_plan(first, one, journal)
        standing = path.read_bytes()
        with pytest.raises(WriteError, match="was changed on disk"):
            apply_plan(second, other, journal)
    assert path.read_bytes() == standing
    assert [entry.state for entry in journal.entries()] == [EntryState.APPLIED, EntryState.UNDONE]


def test_a_word_that_somebody_else_writes_before_the_stop_is_not_ours(journal: Journal) -> None:
    """The target is as it was, so that nothing is left to recover, and nothing keeps others from patching it."""
    target = FakeTarget(OLD)
    plan = planned(target)
    target.memory[8:12] = b"\xaa\xaa\xaa\xaa"
    with pytest.raises(MismatchError, match=r"site\+0x8 holds 0xaaaaaaaa, .*; nothing was changed"):
        apply_plan(plan, target, journal)
    assert target.words == [*OLD[:2], 0xAAAAAAAA, *OLD[3:]]
    assert [entry.state for entry in journal.entries()] == [EntryState.UNDONE]
    apply_plan(planned(target, OLD[:2], NEW[:2]), target, journal)


def test_one_file_by_two_names(tmp_path: Path, journal: Journal) -> None:
    path = program(tmp_path)
    (tmp_path / "link").symlink_to(path)
    with open_target(path) as target:
        journal.begin(target.identity(), planned(target).changes, "", method="stop")
    with (
        open_target(tmp_path / "link") as target,
        pytest.raises(PlanError, match=r"run `a64patch recover --journal .*` first"),
    ):
        apply_plan(planned(target), target, journal)
    assert recovered(journal, open_target(path)) == [EntryState.UNDONE]
    with open_target(tmp_path / "link") as target:
        apply_plan(planned(target), target, journal)
    with open_target(path) as target:
        revert(2, target, journal)


def test_interrupted_as_the_file_is_replaced(tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after the replacement, before anybody knows of it."""
    path = program(tmp_path)
    before = path.read_bytes()
    real: Callable[..., None] = os.replace

    def interrupted(*arguments: object, **options: object) -> None:
        real(*arguments, **options)
        raise KeyboardInterrupt

    with open_target(path) as target:
        plan = planned(target)
        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises((PartialPatchError, KeyboardInterrupt)):
            apply_plan(plan, target, journal)
    monkeypatch.undo()
    assert path.read_bytes() != before
    assert [entry.state for entry in journal.entries()] == [EntryState.PARTIAL]
    [found] = recover(journal, lambda entry: open_target(entry.identity.location))
    assert found.state is EntryState.APPLIED


def test_a_target_that_cannot_stop(journal: Journal) -> None:
    target = FakeTarget(OLD, can_stop=False)
    with pytest.raises(CapabilityError, match="cannot stop"):
        apply_plan(planned(target), target, journal)
    assert target.words == OLD
    assert [entry.state for entry in journal.entries()] == [EntryState.UNDONE]


def test_words_that_changed_together_are_put_back_together(journal: Journal) -> None:
    nop, branch = 0xD503201F, 0x14000002
    target = FakeTarget([nop] * 64)
    patch = "".join(f"@@ site+{place:#x} @@\n-{nop:08x}\n+{branch:08x}\n" for place in (4, 0x80))
    number = apply_plan(make_plan(parse(patch), target, together=True), target, journal).entry
    new = target.words
    # Between the two words: the CPU would execute the new first word and the old second one.
    target.states = [[CpuState(0, BASE + 0x40)]]
    with pytest.raises(BusyError, match="CPU 0 stands at site"):
        revert(number, target, journal)
    assert target.words == new
    target.states = [[CpuState(0, BASE)]]
    undone = revert(number, target, journal)
    assert (undone.result.method, undone.result.reason) == ("stop", f"entry {number} was written so")
    assert target.words == [nop] * 64
    assert [(site.start, site.end) for site in journal.entry(undone.entry).sites] == [
        (BASE + 4, BASE + 8), (BASE + 0x80, BASE + 0x84)
    ]  # fmt: skip


def test_another_incarnation_is_not_put_back(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    target = FakeTarget(OLD)
    monkeypatch.setattr(target, "identity", lambda: Identity("fake", incarnation="boot=1"))
    number = apply_plan(planned(target), target, journal).entry
    for now, refused in (("boot=2", True), ("", False)):
        monkeypatch.setattr(target, "identity", lambda now=now: Identity("fake", incarnation=now))
        if refused:
            with pytest.raises(PlanError, match="was started again since entry 1"):
                revert(number, target, journal)
            assert target.words[: len(NEW)] == NEW
        else:
            revert(number, target, journal)


@pytest.mark.parametrize(("told", "state"), [("boot=b start= exec=", "undone"), ("boot=c start= exec=", "partial")])
def test_a_target_that_ends_in_the_middle_takes_the_new_words_along(journal: Journal, told: str, state: str) -> None:
    class Ending(FakeTarget):
        def identity(self) -> Identity:
            return Identity("fake", incarnation="boot=b start=1 exec=x")

        def write(self, address: int, data: bytes) -> None:
            self.fail = {"read": self.calls.count("read") + 1}
            self.fail_for_good = True
            gone = GoneError("it has ended")
            gone.incarnation = told
            raise gone

    target = Ending(OLD)
    with pytest.raises(GoneError if state == "undone" else PartialPatchError, match="it has ended"):
        apply_plan(planned(target), target, journal)
    [entry] = journal.entries()
    assert entry.state.value == state

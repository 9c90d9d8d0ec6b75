"""Words of data that change with words of code: applied, undone and recovered as one set.

Read on: test_transaction.py for transactions of code alone; test_crash.py kills processes that do these.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from a64patch.a64.words import from_bytes, to_bytes
from a64patch.errors import A64PatchError, CapabilityError, MismatchError, PartialPatchError, PlanError, WriteError
from a64patch.patch.asmdiff import parse
from a64patch.patch.journal import EntryState, Journal
from a64patch.patch.plan import Plan, make_plan
from a64patch.patch.transaction import Recovery, apply_plan, recover, revert
from a64patch.targets.section import Change
from a64patch.targets.simulator import Simulator
from tests.patch.fake import DATA, FakeTarget
from tests.support import IN_MEMORY

NOP, BRANCH = 0xD503201F, 0x14000001  # b .+4
OLD, NEW = [NOP] * 4, [BRANCH, NOP, BRANCH, NOP]
SITES = "".join(f"@@ site+{at} @@\n-{NOP:08x}\n+{BRANCH:08x}\n" for at in (0, 8))
"""The two branch sites of a key."""
COUNTER, OWNER = DATA, DATA + 4
ENABLED = (Change(COUNTER, 0, 1),)
GUARDS = ((OWNER, 0),)
OFF, ON = [0, 0], [1, 0]
"""The counter of the key, and the owner of the mutex."""


@pytest.fixture
def journal() -> Iterator[Journal]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder, Journal(Path(folder) / "journal") as opened:
        yield opened


def key(kind: type[FakeTarget] = FakeTarget) -> FakeTarget:
    """A target with a key that is off."""
    target = kind(OLD)
    target.data_memory = bytearray(to_bytes(OFF))
    return target


def enabling(target: FakeTarget) -> Plan:
    return make_plan(parse(SITES), target, data=ENABLED, guards=GUARDS)


def standing(target: FakeTarget) -> str:
    """on or off, or mixed."""
    found = (target.words, target.data[:1])
    return "off" if found == (OLD, OFF[:1]) else "on" if found == (NEW, ON[:1]) else "mixed"


def recovered(journal: Journal, target: FakeTarget) -> list[Recovery]:
    return list(recover(journal, lambda entry: target))


def test_applied_reverted_and_reverted_again(journal: Journal) -> None:
    target = key()
    outcome = apply_plan(enabling(target), target, journal)
    assert (standing(target), outcome.result.method, outcome.result.data) == ("on", "stop", ENABLED)
    entry = journal.entry(1)
    assert (entry.method, entry.data, entry.guards) == ("stop", ENABLED, GUARDS)
    assert revert(1, target, journal).result.method == "stop"
    assert standing(target) == "off"
    assert (journal.entry(2).data, journal.entry(2).guards) == ((Change(COUNTER, 1, 0),), GUARDS)
    revert(2, target, journal)
    assert standing(target) == "on"


def test_the_data_of_a_running_simulator() -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder, Journal(Path(folder) / "journal") as journal:
        # Each CPU reads the counter between the two sites, for ever: adr x1, .+0x800; nop; ldr w2, [x1]; nop; b .-12
        words = [0x10004001, NOP, 0xB9400022, NOP, 0x17FFFFFD]
        simulator = Simulator.from_words(words, symbols={"site": 0x10004}, data={0x10800: bytes(8)}, cpus=4)
        data, guards = [Change(0x10800, 0, 1)], [(0x10804, 0)]
        apply_plan(make_plan(parse(SITES), simulator, same_build=True, data=data, guards=guards), simulator, journal)
        simulator.run(300)
        assert [simulator.register(cpu, 2) for cpu in range(4)] == [1] * 4
        revert(1, simulator, journal)
        simulator.run(300)
        assert [simulator.register(cpu, 2) for cpu in range(4)] == [0] * 4


@pytest.mark.parametrize("undo", [False, True])
def test_a_guard_that_does_not_hold_changes_nothing(undo: bool, journal: Journal) -> None:
    target = key()
    plan = enabling(target)
    if undo:
        apply_plan(plan, target, journal)
    before = standing(target)
    target.data_memory[4] = 9
    with pytest.raises(MismatchError, match="data at 0x8004 holds 0x00000009, not 0x00000000"):
        revert(1, target, journal) if undo else apply_plan(plan, target, journal)
    assert standing(target) == before == ("on" if undo else "off")
    assert [entry.state for entry in journal.entries()] == [EntryState.APPLIED] * undo + [EntryState.UNDONE]
    target.data_memory[4] = 0
    revert(1, target, journal) if undo else apply_plan(plan, target, journal)
    assert standing(target) != before


def test_data_that_differs_changes_nothing(journal: Journal) -> None:
    target = key()
    plan = enabling(target)
    target.data_memory[0] = 2
    with pytest.raises(MismatchError, match="data at 0x8000 holds 0x00000002, not 0x00000000"):
        apply_plan(plan, target, journal)
    assert (target.words, target.data) == (OLD, [2, 0])
    target.data_memory[0] = 0
    apply_plan(plan, target, journal)
    target.data_memory[0] = 2
    with pytest.raises(MismatchError, match="0x8000 holds 00000002, not 00000001 as entry 2 wrote"):
        revert(2, target, journal)
    assert (target.words, target.data) == (NEW, [2, 0])


def test_a_later_entry_that_changed_the_data_is_named(journal: Journal) -> None:
    target = key()
    apply_plan(enabling(target), target, journal)
    again = f"@@ site+4 @@\n-{NOP:08x}\n+{BRANCH:08x}\n"
    apply_plan(make_plan(parse(again), target, data=[Change(COUNTER, 1, 2)]), target, journal)
    with pytest.raises(MismatchError, match="entry 2 has changed it since, revert that first"):
        revert(1, target, journal)
    revert(2, target, journal)
    revert(1, target, journal)
    assert standing(target) == "off"


def test_a_target_that_writes_no_data(journal: Journal) -> None:
    target = key()
    plan = enabling(target)
    target.capabilities = target.capabilities._replace(writes_data=False)
    with pytest.raises(CapabilityError, match="does not write data"):
        apply_plan(plan, target, journal)
    assert (standing(target), journal.entry(1).state) == ("off", EntryState.UNDONE)


def test_data_that_cannot_be_put_back(journal: Journal) -> None:
    class Sticky(FakeTarget):
        def write_data(self, address: int, data: bytes) -> None:
            if self.data[0]:
                raise WriteError("this word cannot be written twice")
            super().write_data(address, data)

    target = key(Sticky)
    plan = enabling(target)
    target.fail = {"publish": 1}
    with pytest.raises(PartialPatchError, match="1 of 3 words could not be put back: data at 0x8000") as caught:
        apply_plan(plan, target, journal)
    assert caught.value.unrestored == (COUNTER,)
    entry = journal.entry(1)
    assert (entry.state, target.words) == (EntryState.PARTIAL, OLD)
    assert entry.note.splitlines()[-1] == "0x8000: 00000001; old 00000000, new 00000001"
    with pytest.raises(PlanError, match="was cut off"):
        apply_plan(plan, target, journal)
    [still] = recovered(journal, target)
    assert still.state is EntryState.PARTIAL
    mended = key()
    mended.data_memory[0] = 1
    [done] = recovered(journal, mended)
    assert (done.state, done.note) == (EntryState.UNDONE, "1 of 3 words were new: the old ones were put back")
    assert standing(mended) == "off"


@pytest.mark.parametrize("mode", ["once", "fail_for_good", "tear", "silent"])
@pytest.mark.parametrize("operation", ["read", "write", "write_data", "publish", "stop", "resume"])
@pytest.mark.parametrize("undo", [False, True])
def test_failing_anywhere(undo: bool, operation: str, mode: str) -> None:
    """Afterwards, and after `recover`: all of the key or nothing of it."""
    position, met = 0, True
    while met:
        position += 1
        with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder, Journal(Path(folder) / "journal") as journal:
            target = key()
            plan = enabling(target)
            if undo:
                apply_plan(plan, target, journal)
            before = standing(target)
            target.calls.clear()
            target.fail = {operation: position}
            setattr(target, mode, True)
            error: A64PatchError | None = None
            try:
                revert(1, target, journal) if undo else apply_plan(plan, target, journal)
            except A64PatchError as failure:
                error = failure
            met = target.calls.count(operation) >= position
            # The target works again.
            target.fail, target.broken, target.silent = {}, False, False
            if error is None:
                assert standing(target) != before
            elif standing(target) != before:
                assert isinstance(error, PartialPatchError)
                entry = journal.entries()[-1]
                assert entry.state is EntryState.PARTIAL
                now = {each.address: from_bytes(target.read(each.address, 4))[0] for each in entry.written}
                different = {each.address for each in entry.written if now[each.address] != each.old}
                assert different <= set(error.unrestored)
            recovered(journal, target)
            assert standing(target) != "mixed"
            assert journal.entries(EntryState.OPEN, EntryState.PARTIAL) == []
    assert position > 1


class Filmed(FakeTarget):
    """Keeps what a crash before each of its operations would leave: the words, the data and the journal."""

    journal: Path | None = None

    def _count(self, name: str) -> bool:
        if self.journal is not None:
            self.left.append((bytes(self.memory), bytes(self.data_memory), self.journal.read_bytes()))
        return super()._count(name)

    def film(self, journal: Path) -> None:
        self.left: list[tuple[bytes, bytes, bytes]] = []
        self.journal = journal


@pytest.mark.parametrize("undo", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_a_crash_before_each_operation(undo: bool, held: bool, journal: Journal) -> None:
    """With `held`, somebody has the mutex when `recover` comes; it comes again when nobody has."""
    target = key(Filmed)
    assert isinstance(target, Filmed)
    plan = enabling(target)
    if undo:
        apply_plan(plan, target, journal)
    before = standing(target)
    target.film(journal.path)
    revert(1, target, journal) if undo else apply_plan(plan, target, journal)
    seen, waited = set(), 0
    for number, (memory, data, entries) in enumerate(target.left):
        path = journal.path.with_name(f"journal-{number}")
        path.touch(mode=0o600)
        path.write_bytes(entries)
        after = key()
        after.memory, after.data_memory = bytearray(memory), bytearray(data)
        after.data_memory[4] = 9 * held
        seen.add(cut_off := standing(after))
        with Journal(path) as copy:
            found = recovered(copy, after)
            if held and cut_off == "mixed":
                [refused] = found
                assert (refused.state, standing(after)) == (EntryState.OPEN, "mixed")
                assert "data at 0x8004 holds 0x00000009, not 0x00000000" in refused.note
                after.data_memory[4], waited = 0, waited + 1
                found = recovered(copy, after)
            assert standing(after) == (cut_off if cut_off != "mixed" else before)
            state = EntryState.UNDONE if standing(after) == before else EntryState.APPLIED
            assert {each.state for each in found} <= {state}
            assert found or cut_off == before
            assert copy.entries(EntryState.OPEN, EntryState.PARTIAL) == []
    assert seen == {"on", "off", "mixed"}
    assert bool(waited) == held


@pytest.mark.parametrize(
    ("words", "data", "left", "state", "note"),
    [
        (OLD, OFF, OFF, EntryState.UNDONE, "all 3 words are the old ones: nothing had been changed"),
        (NEW, ON, ON, EntryState.APPLIED, "all 3 words are the new ones: the patch is complete"),
        (NEW, OFF, OFF, EntryState.UNDONE, "2 of 3 words were new: the old ones were put back"),
        (OLD, ON, OFF, EntryState.UNDONE, "1 of 3 words were new: the old ones were put back"),
        (NEW, [7, 0], [7, 0], EntryState.PARTIAL, "1 of 3 words are neither old nor new and were left alone: 0x8000"),
    ],
)
def test_all_words_decide_what_is_recovered(
    words: list[int], data: list[int], left: list[int], state: EntryState, note: str, journal: Journal
) -> None:
    target = key()
    plan = enabling(target)
    journal.begin(plan.identity, plan.changes, SITES, method="stop", sites=plan.sites, data=ENABLED, guards=GUARDS)
    target.memory, target.data_memory = bytearray(to_bytes(words)), bytearray(to_bytes(data))
    [done] = recovered(journal, target)
    assert (done.state, done.note) == (state, note)
    assert (target.words, target.data) == (NEW if state is EntryState.APPLIED else OLD, left)

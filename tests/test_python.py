"""What users import from the top of the package: a patch from its text to its proof, without the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import a64patch
from a64patch.errors import MismatchError, RequestError
from a64patch.patch.journal import EntryState, Journal
from a64patch.patch.plan import State
from a64patch.targets.simulator import Simulator
from tests.support import assemble, link

PATCH = """
Skip the addition.

Build-Id: aabbccdd

@@ pair -2 +2 @@
-d503201f  nop
+14000002  b     .+8
 11000800  add   w0, w0, #2
"""
TWO = "@@ pair -2 +2 @@\n-d503201f  nop\n-11000800  add   w0, w0, #2\n+11000c00  add   w0, w0, #3\n+d503201f  nop\n"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source = ".globl _start, pair\n_start: b _start\npair: nop\n add w0, w0, #2\n ret\n"
    return link(assemble(source, tmp_path / "program.o"), tmp_path / "program", "--build-id=0xaabbccdd")


def test_a_patch_from_its_text_to_the_old_bytes(program: Path) -> None:
    before = program.read_bytes()
    patch = a64patch.parse(PATCH)
    with a64patch.open_target(program) as target:
        plan = a64patch.plan(patch, target)
        assert plan.state is State.TO_DO
        outcome = a64patch.apply(plan, target)
    assert program.read_bytes() != before
    with a64patch.Journal() as journal:
        [entry] = journal.entries()
        assert (entry.id, entry.state, entry.identity.location) == (outcome.entry, EntryState.APPLIED, str(program))
    back = a64patch.revert(outcome.entry)
    assert back.entry == outcome.entry + 1
    assert program.read_bytes() == before


def test_a_patch_is_planned_by_apply(program: Path, tmp_path: Path) -> None:
    before = program.read_bytes()
    with Journal(tmp_path / "other") as journal, a64patch.open_target(program) as target:
        outcome = a64patch.apply(a64patch.parse(PATCH), target, journal)
        with pytest.raises(MismatchError, match="already applied"):
            a64patch.apply(a64patch.parse(PATCH), target, journal)
        assert [entry.id for entry in journal.entries()] == [outcome.entry]
        a64patch.revert(outcome.entry, target, journal)
        # The caller's journal and target stay open.
        assert [entry.state for entry in journal.entries()] == [EntryState.REVERTED, EntryState.APPLIED]
        assert a64patch.plan(a64patch.parse(PATCH), target).state is State.TO_DO
    assert program.read_bytes() == before
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("located", [True, False])
def test_a_target_that_ends_with_its_words_gets_no_entry(program: Path, tmp_path: Path, located: bool) -> None:
    opened = (
        a64patch.open_target(f"sim:{program}?cpus=2")
        if located
        else Simulator.from_words([0xD503201F, 0x11000800, 0x17FFFFFE], base=0x10000, cpus=2)
    )
    with opened as target:
        by_address = PATCH.replace("pair", "0x10000").replace("Build-Id: aabbccdd\n\n", "")
        outcome = a64patch.apply(a64patch.parse(PATCH if located else by_address), target)
        assert (outcome.entry, outcome.result.method) == (0, "kick")
    assert not (tmp_path / "state").exists()


def test_an_entry_that_was_cut_off_is_recovered(program: Path) -> None:
    patch = a64patch.parse(PATCH)
    with a64patch.open_target(program) as target, a64patch.Journal() as journal:
        plan = a64patch.plan(patch, target)
        assert plan.method is not None
        number = journal.begin(plan.identity, plan.changes, "", method=plan.method)
    [recovery] = a64patch.recover()
    assert (recovery.entry.id, recovery.state) == (number, EntryState.UNDONE)
    assert a64patch.recover() == []


def test_a_proof_with_and_without_a_target(program: Path) -> None:
    patch = a64patch.parse(TWO)
    [by_words] = a64patch.prove(patch)
    assert (by_words.verdict.value, by_words.question.protocol, by_words.places) == ("SAFE", "stop", ("pair",))
    [broken] = a64patch.prove(patch, protocol="nosync", model="arm")
    assert broken.verdict.value == "UNSAFE"
    with a64patch.open_target(f"sim:{program}?cpus=2") as target:
        plan = a64patch.plan(patch, target)
        [planned] = a64patch.prove(plan, target)
        assert planned.question == a64patch.prove(patch, target)[0].question
        assert (planned.verdict.value, planned.question.protocol) == ("SAFE", "stop")
        a64patch.apply(plan, target)
        assert a64patch.prove(patch, target) == []
    with a64patch.open_target(program) as target:
        # No CPU executes a file: the question is about a machine where CPUs will.
        [of_file] = a64patch.prove(patch, target)
        assert of_file.question == by_words.question
        with pytest.raises(RequestError, match="needs its target"):
            a64patch.prove(a64patch.plan(patch, target))


@pytest.mark.parametrize("option", [{"model": "intel"}, {"profile": "1066"}, {"executors": 0}, {"omit": ["nothing"]}])
def test_an_unknown_option_of_a_proof_is_refused(option: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        a64patch.prove(a64patch.parse(PATCH), **option)  # type: ignore[arg-type]


def test_a_patch_typed_by_hand(program: Path) -> None:
    with a64patch.open_target(program) as target:
        patch = a64patch.one_hunk(target, "pair", "b pair+8", "nop")
        assert a64patch.to_text(patch) == (
            "Build-Id: aabbccdd\n\n@@ pair -1 +1 @@\n-d503201f  nop\n+14000002  b     pair+0x8\n"
        )
        outcome = a64patch.apply(a64patch.plan(patch, target, same_build=True), target)
        with pytest.raises(RequestError, match="1 new and 2 expected"):
            a64patch.one_hunk(target, "pair", "nop", "nop; nop")
    a64patch.revert(outcome.entry)
    with a64patch.Journal() as journal:
        first, second = (journal.patch_of(entry) for entry in journal.entries())
    assert a64patch.parse(first) == patch
    assert a64patch.parse(second) == a64patch.reverse(patch)


def test_text_and_reverse() -> None:
    patch = a64patch.parse(PATCH)
    assert a64patch.to_text(patch) == PATCH[1:]
    assert a64patch.reverse(a64patch.reverse(patch)) == patch


def test_nothing_of_this_loads_the_command_line(program: Path) -> None:
    script = f"""
import sys, a64patch
patch = a64patch.parse({PATCH!r})
with a64patch.open_target({str(program)!r}) as target:
    plan = a64patch.plan(patch, target)
    a64patch.prove(plan, target)
    a64patch.revert(a64patch.apply(plan, target).entry, target)
print([name for name in sys.modules if name.startswith(("a64patch.cli", "rich"))])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

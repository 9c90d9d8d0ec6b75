"""Every command with --json, in success, refusal and wrong usage: one document, in the form of cli/schema.py."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from a64patch.cli import schema
from a64patch.cli.main import COMMANDS
from a64patch.errors import PartialPatchError, TargetError
from a64patch.openers import open_target
from a64patch.patch.journal import EntryState, Journal
from a64patch.patch.plan import State
from a64patch.proof.prove import Verdict
from a64patch.targets.file import FileTarget
from tests.cli.running import Run, document
from tests.proof.catalogue import PAPER
from tests.support import assemble, link

SOURCE = ".globl _start, pair, other\n_start: b _start\npair: add w0, w0, #1\n add w0, w0, #2\n ret\nother: nop\n ret\n"
KEYED = (
    'f: nop\n ret\n.section __jump_table, "a"\n.long f - ., f + 4 - .\n.quad key - .\n.bss\n.p2align 3\nkey: .skip 16\n'
)
"""A module with a static key."""
TRACED = """
    .text
    .type pair, %function
pair: nop
    nop
    ret
    .size pair, . - pair
    .type other, %function
other: ret
    .size other, . - other
    .section __patchable_function_entries, "awo", %progbits, .text
    .p2align 3
    .quad pair
"""
LINKED = ".globl pair\n.type pair, %function\npair: add w0, w0, #3\n b other\n.size pair, . - pair\n"
PATCH = (
    "Add three.\n\n@@ pair -2 +2 @@\n-11000400  add w0, w0, #1\n+11000c00  add w0, w0, #3\n 11000800  add w0, w0, #2\n"
)
"""The words of `program`."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a program, another build of it, a patch that fits, and patches that do not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name, source in (("program", SOURCE), ("longer", SOURCE.replace("other: nop", "other: nop\n nop"))):
        link(assemble(source, tmp_path / f"{name}.o"), tmp_path / name, "--build-id=0xaabb")
    assemble(KEYED, tmp_path / "keyed.ko")
    assemble(TRACED, tmp_path / "traced.o")
    assemble(LINKED, tmp_path / "fix.o")
    (tmp_path / "fix.patch").write_text(PATCH)
    (tmp_path / "foreign.patch").write_text(PATCH.replace("11000400  add w0, w0, #1", "91000400  add x0, x0, #1"))
    (tmp_path / "cut.patch").write_text("@@ pair @@\n-11000400\n-11000800\n")
    (tmp_path / "other.patch").write_text(PATCH.replace("Add three.", "Add three.\n\nBuild-Id: ccdd"))
    (tmp_path / "nop.patch").write_text("@@ other -1 +1 @@\n-d503201f\n+d503203f\n")
    [paper] = [case.text for case in PAPER if case.name == "SM"]
    (tmp_path / "SM.litmus").write_text(paper)
    (tmp_path / "wrong.litmus").write_text("AArch64 wrong\n")
    return tmp_path


APPLY = "apply fix.patch program"
DONE: list[tuple[str, int, list[str]]] = [
    # a command, its exit status, and the commands that run before
    ("show program pair", 0, []),
    ("show program --target-info", 0, []),
    ("show sim:program?cpus=2 --target-info", 0, []),
    ("poke program other yield --expect nop", 0, []),
    ("poke program other yield --expect nop --dry-run", 0, []),
    ("poke sim:program?cpus=2 other yield --expect nop --dry-run --prove", 0, []),
    ("diff program program", 0, []),
    ("diff program longer", 1, []),
    ("link fix.o program", 0, []),
    ("fmt fix.patch program", 0, []),
    ("fmt cut.patch program", 0, []),
    (APPLY, 0, []),
    (f"{APPLY} --dry-run", 0, []),
    (f"{APPLY} --dry-run --prove", 0, []),
    ("apply fix.patch sim:program?cpus=2 --dry-run --prove", 0, []),
    ("apply fix.patch sim:program?cpus=2", 0, []),
    ("apply cut.patch program --accept all", 0, []),
    ("apply -R fix.patch program", 0, [APPLY]),
    ("status fix.patch program", 1, []),
    ("status fix.patch program", 0, [APPLY]),
    ("status foreign.patch program", 1, []),
    ("log", 0, []),
    ("log", 0, [APPLY, "revert 1"]),
    ("log 1", 0, [APPLY]),
    ("log 2", 0, [APPLY, "revert 1"]),
    ("revert 1", 0, [APPLY]),
    ("recover", 0, []),
    ("asm nop", 0, []),
    ("disasm d503201f 14000002", 0, []),
    ("check nop yield", 1, []),
    ("check nop nop", 0, []),
    ("prove --old nop --new yield", 0, []),
    ("prove --old nop --new yield --protocol kick --omit isb", 1, []),
    ("prove --old nop --new yield --protocol nosync --litmus tests", 1, []),
    ("prove --old nop --new isb --protocol kick --litmus tests", 0, []),
    ("prove fix.patch", 0, []),
    ("prove static-keys.protocol", 0, []),
    ("prove xray-sled.protocol", 1, []),
    ("prove fix.patch program", 0, []),
    ("prove fix.patch program", 0, [APPLY]),
    ("prove nop.patch sim:program?cpus=2 --executors 1", 0, []),
    ("litmus SM.litmus --model both", 0, []),
    ("litmus SM.litmus wrong.litmus missing.litmus", 2, []),
    ("keys keyed.ko", 0, []),
    ("keys keyed.ko key", 0, []),
    ("ftrace traced.o", 0, []),
    ("ftrace traced.o pair", 0, []),
    ("ftrace traced.o --traced", 0, []),
    ("ftrace traced.o other", 1, []),
    ("demo", 0, []),
]  # fmt: skip

REFUSED: list[tuple[str, int, list[str], str]] = [
    # likewise, and the error
    ("show program nowhere", 2, [], "SymbolError"),
    ("show missing pair", 2, [], "TargetError"),
    ("poke program other yield", 2, [], "RequestError"),
    ("poke program other yield --expect isb", 1, [], "MismatchError"),
    ("diff program fix.patch", 2, [], "FormatError"),
    ("link fix.o program --replace other=pair --replace other=pair", 2, [], "RequestError"),
    ("link program program", 2, [], "FormatError"),
    ("link keyed.ko program", 1, [], "LinkError"),
    ("fmt missing.patch", 2, [], "PatchFormatError"),
    (APPLY, 1, [APPLY], "MismatchError"),
    (f"{APPLY} --dry-run", 1, [APPLY], "MismatchError"),
    ("apply foreign.patch program", 1, [], "MismatchError"),
    ("apply cut.patch program", 1, [], "PlanError"),
    ("apply cut.patch program --dry-run", 1, [], "PlanError"),
    ("apply other.patch program", 1, [], "PlanError"),
    ("apply fix.patch sim:program?cpus=2 --sync nosync --dry-run --prove", 1, [], "PlanError"),
    ("apply missing.patch program", 2, [], "PatchFormatError"),
    (f"{APPLY} --accept nothing", 2, [], "RequestError"),
    (f"{APPLY} --prove", 2, [], "RequestError"),
    ("status other.patch program", 1, [], "PlanError"),
    ("keys program", 2, [], "SymbolError"),
    ("keys keyed.ko nothing", 2, [], "SymbolError"),
    ("keys keyed.ko key --on", 2, [], "RequestError"),
    ("log 9", 1, [], "JournalError"),
    ("revert 1", 1, [], "JournalError"),
    ("revert 1", 1, [APPLY, "revert 1"], "PlanError"),
    ("recover --forget 1", 1, [], "JournalError"),
    ("asm frob", 2, [], "AssemblyError"),
    ("disasm zz", 2, [], "AssemblyError"),
    ("check nop nop --profile 1066", 2, [], "RequestError"),
    ("ftrace program nowhere", 2, [], "SymbolError"),
    ("prove --old nop", 2, [], "RequestError"),
    ("prove other.patch program", 1, [], "PlanError"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "status", "before"), DONE, ids=[f"{each[0]} {len(each[2])}" for each in DONE])
@pytest.mark.usefixtures("place")
def test_what_a_command_prints_is_in_the_schema(run: Run, command: str, status: int, before: list[str]) -> None:
    for earlier in before:
        assert run(*earlier.split()).status == 0
    ran = run(*command.split(), "--json")
    assert ran.status == status, ran.err
    document(command.split()[0], ran)


@pytest.mark.parametrize(
    ("command", "status", "before", "name"), REFUSED, ids=[f"{each[0]} {len(each[2])}" for each in REFUSED]
)
@pytest.mark.usefixtures("place")
def test_a_refusal_is_one_document_too(run: Run, command: str, status: int, before: list[str], name: str) -> None:
    for earlier in before:
        assert run(*earlier.split()).status == 0
    text = run(*command.split())
    ran = run(*command.split(), "--json")
    error = document(command.split()[0], ran)["error"]
    assert (ran.status, text.status) == (status, status)
    assert (error["name"], error["exit_status"]) == (name, status)
    # stderr says the same as without --json.
    said = [f"a64patch: {sentence}" for sentence in (error["sentence"], *error["notes"])]
    assert ran.err.splitlines() == text.err.splitlines() == said


@pytest.mark.parametrize("command", [*COMMANDS, "", "aply"])
def test_wrong_usage_is_one_document_too(run: Run, command: str) -> None:
    ran = run(*filter(None, [command]), "--json", "--frobnicate")
    assert run(*filter(None, [command]), "--js", "--frobnicate").out == ran.out
    error = document(command, ran)["error"]
    assert (ran.status, error["name"], error["exit_status"]) == (2, "UsageError", 2)
    assert ran.err.endswith(f"error: {error['sentence']}\n")


def test_every_command_is_tried() -> None:
    assert set(schema.DOCUMENTS) == set(COMMANDS)
    assert {each[0].split()[0] for each in DONE} == set(COMMANDS)
    # `demo` and `litmus` refuse nothing as a whole.
    assert {each[0].split()[0] for each in REFUSED} == set(COMMANDS) - {"demo", "litmus"}


@pytest.mark.usefixtures("place")
def test_the_state_is_that_after_the_command(run: Run) -> None:
    dry = document("apply", run(*APPLY.split(), "--dry-run", "--json"))
    assert (dry["state"], dry["hunks"][0]["state"], dry["cpus"]) == ("not applied", "not applied", 0)
    done = document("apply", run(*APPLY.split(), "--json"))
    assert (done["state"], done["hunks"][0]["state"], done["entry"]) == ("applied", "applied", 1)
    assert (done["words"], done["stopped"], done["cpus"]) == (1, [], 0)
    refused = document("apply", run(*APPLY.split(), "--json"))
    assert (refused["state"], refused["changes"]) == ("applied", [])
    back = document("revert", run("revert", "1", "--json"))
    assert (back["reverts"], back["entry"], back["state"]) == (1, 2, "reverted")
    assert document("status", run("status", "fix.patch", "program", "--json"))["state"] == "not applied"


@pytest.mark.usefixtures("place")
def test_a_refusal_has_the_plan_and_its_hazards(run: Run) -> None:
    refused = document("apply", run("apply", "cut.patch", "program", "--json"))
    [hazard] = refused["hazards"]
    assert hazard["name"] == "implied-nop"
    assert refused["error"]["sentence"].startswith(hazard["sentence"])
    assert refused["state"] == "not applied"
    foreign = document("apply", run("apply", "foreign.patch", "program", "--json"))
    assert foreign["hunks"][0]["difference"] in foreign["error"]["sentence"]
    assert foreign["error"]["notes"] == ["The hunks that do not fit are in foreign.patch.rej."]


@pytest.mark.usefixtures("place")
def test_a_patch_that_failed_half_way_names_the_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PartialPatchError("the patch failed, and 1 of 1 words could not be put back: pair", [0x1234])

    monkeypatch.setattr("a64patch.patch.transaction.write", fail)
    ran = run(*APPLY.split(), "--json")
    found = document("apply", ran)
    assert ran.status == found["error"]["exit_status"] == 3
    assert found["error"]["unrestored"] == ["0x1234"]
    assert found.keys() == {"error"}, "a plan is not the state of the target any more"


def test_an_entry_that_was_cut_off(run: Run, place: Path) -> None:
    with open_target(place / "program") as target, Journal() as journal:
        identity = target.identity()
        journal.begin(identity, [], "", method="stop")
        journal.finish(journal.begin(identity, [], "", method="stop"), EntryState.PARTIAL, "unknown")
    [first, second] = document("log", run("log", "--json"))
    assert (first["ended"], first["state"], second["state"]) == (None, "open", "partial")
    assert first["base"] == "0x0"
    assert [each["was"] for each in document("recover", run("recover", "--json"))] == ["open", "partial"]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("command", "status"), [("status fix.patch program", 2), (APPLY, 0)])
def test_an_error_behind_the_document_makes_no_second_one(
    run: Run, command: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: FileTarget) -> None:
        raise TargetError("the connection was lost")

    monkeypatch.setattr(FileTarget, "close", fail)
    ran = run(*command.split(), "--json")
    found = document(command.split()[0], ran)
    assert ran.status == status
    assert "the connection was lost" in ran.err
    if status:
        assert found["error"]["sentence"] == "the connection was lost"
    else:
        assert (found["state"], found["entry"]) == ("applied", 1)


@pytest.mark.usefixtures("place")
def test_an_interrupt_is_one_document_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("a64patch.patch.plan.make_plan", interrupt)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    ran = run(*APPLY.split(), "--json")
    error = document("apply", ran)["error"]
    assert (ran.status, error["exit_status"], error["name"]) == (130, 130, "KeyboardInterrupt")
    assert ran.err == f"a64patch: {error['sentence']}\n"


@pytest.mark.parametrize(("command", "lines"), [("asm", "nop\nfrob\n"), ("disasm", "0x10\td503201f\nzz\n")])
def test_lines_of_standard_input(run: Run, command: str, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    ran = run(command, "-", "--json")
    done, failed = document(command, ran)
    assert ran.status == 1
    assert done["word"] == "d503201f"
    assert failed["error"]["name"] == "AssemblyError"


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "damage",
    [
        lambda facts: facts.update(undocumented=1),
        lambda facts: facts["hunks"][0].update(undocumented=1),
        lambda facts: facts["changes"][0].update(address=4096),
        lambda facts: facts["changes"][0].update(old="0xd503201f"),
        lambda facts: facts.update(cpus=[0]),
        lambda facts: facts.pop("state"),
        lambda facts: facts.update(state="done"),
    ],
)
def test_another_form_is_seen(run: Run, damage: Callable[[Any], object]) -> None:
    found = document("apply", run(*APPLY.split(), "--dry-run", "--json"))
    damage(found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema.schema("apply")).validate(found)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    used = {name.rstrip("?") for names in schema.OBJECTS.values() for name in names.split()}
    assert used == set(schema.FIELDS)
    named = set(_references(schema.FIELDS)) | {name for kinds in schema.DOCUMENTS.values() for name in _kinds(kinds)}
    assert named | {"failure"} == set(schema.OBJECTS)
    printed = subprocess.run(
        [sys.executable, "-m", "a64patch.cli.schema", "apply"], capture_output=True, text=True, check=True
    )
    assert json.loads(printed.stdout) == schema.schema("apply")


def test_words_for_states_and_verdicts_are_those_of_the_code() -> None:
    states = {state.value for kind in (State, EntryState) for state in kind}
    assert set(schema.FIELDS["state"][0]["enum"]) == states
    assert set(schema.FIELDS["verdict"][0]["enum"]) == {verdict.value for verdict in Verdict} | {
        "Allowed",
        "Forbidden",
        "Unknown",
    }


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].removeprefix("#/$defs/")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _references(each)


def _kinds(kinds: tuple[str | tuple[str, ...], ...]) -> Iterator[str]:
    for kind in kinds:
        yield from [kind] if isinstance(kind, str) else kind

"""`a64patch prove` and `apply --dry-run --prove` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a64patch.protocols import Doer
from a64patch.targets.simulator import Simulator
from tests.cli.running import Run, one_sentence
from tests.support import assemble, link

SAFE = ("prove", "--old", "nop", "--new", "b .+8")
DRAFT = "@@ pair @@\n-???????? nop\n+???????? b .+8\n ????????\n\n@@ other @@\n-???????? nop\n+???????? b .+8\n"
TWO = "@@ pair @@\n-???????? nop\n-???????? add w0, w0, #2\n+???????? add w0, w0, #3\n+???????? nop\n"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    source = ".globl _start, pair, other\n_start: b _start\npair: nop\n add w0, w0, #2\n ret\nother: nop\n ret\n"
    return link(assemble(source, tmp_path / "program.o"), tmp_path / "program", "--build-id=0xaabbccdd")


def saved(run: Run, program: Path, text: str) -> Path:
    path = program.parent / "fix.patch"
    path.write_text(text)
    path.write_text(run("fmt", path, program).out)
    return path


def test_safe_is_said_with_every_property(run: Run) -> None:
    ran = run(*SAFE)
    assert ran.status == 0
    assert ran.out.startswith(
        "SAFE: d503201f `nop` becomes 14000002 `b .+8` by kick, any number of CPUs, IDC=0 DIC=0 ("
    )
    assert [line[:10] for line in ran.out.splitlines()[1:4]] == [f"  P{number} holds" for number in (1, 2, 3)]


def test_the_searched_programs_become_litmus_tests(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tests"
    ran = run(*SAFE, "--protocol", "nosync", "--litmus", folder)
    assert ran.status == 0
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["nosync-P2-other-1.litmus", "nosync-P2-self-2.litmus"]
    assert f"2 of 2 searched programs are litmus tests in {folder}" in ran.err
    assert [line.split("\t")[1] for line in run("litmus", *files).out.splitlines()] == ["Forbidden", "Forbidden"]
    # The same question again writes the same files.
    assert run(*SAFE, "--protocol", "nosync", "--litmus", folder).status == 0


def test_a_program_that_herd_cannot_express_is_named(run: Run, tmp_path: Path) -> None:
    arguments = (*SAFE, "--protocol", "kick", "--litmus", tmp_path)
    ran = run(*arguments)
    assert "kick-P2-other-1 is not written: it needs interrupts between CPUs" in ran.err
    first, second = json.loads(run(*arguments, "--json").out)[0]["litmus"]
    assert first == {
        "name": "kick-P2-other-1", "property": "P2", "file": "",
        "reason": "it needs interrupts between CPUs, which herd does not have",
    }  # fmt: skip
    assert (second["file"], second["reason"]) == (str(tmp_path / "kick-P2-self-2.litmus"), "")


def test_a_foreign_file_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    foreign = tmp_path / "nosync-P2-self-2.litmus"
    foreign.write_text("mine")
    ran = run(*SAFE, "--protocol", "nosync", "--litmus", tmp_path)
    assert ran.status == 2
    assert one_sentence(ran.err)
    assert f"{foreign} is there already, with another content" in ran.err
    assert foreign.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [foreign]
    assert "cannot write the litmus tests" in run(*SAFE, "--litmus", foreign).err


def test_safe_is_said_with_what_it_rests_on(run: Run) -> None:
    """Once, whatever the number of sites, and with no other answer."""
    out = run("prove", "--old", "nop", "--new", "b .+8", "--protocol", "kick", "--profile", "2023").out
    assert out.count("SAFE if no sleeping or preempted task") == out.count("to issue 2023 of the manual's list") == 1
    assert "branches on it and executes an ISB" in out
    ran = run("prove", "--old", "add x0, x0, #1", "--new", "nop", "--protocol", "kick")
    assert ran.status == 1
    assert "SAFE if" not in ran.out


def test_unsafe_comes_with_a_timeline_and_what_would_forbid_it(run: Run, tmp_path: Path) -> None:
    graph = tmp_path / "race.dot"
    ran = run(*SAFE, "--omit", "dsb-ic", "--dot", graph)
    assert ran.status == 1
    assert "  P2 BROKEN (arm, esop): a CPU that was told executes an old word" in ran.out
    assert "takes the interrupt of line 7" in ran.out
    assert "[dsb-ic] on the patcher would forbid it: `dsb ish` waits until the invalidation is done" in ran.out
    assert graph.read_text().startswith("digraph execution {")


@pytest.mark.parametrize(
    ("options", "status", "part"),
    [
        (["--protocol", "nosync", "--model", "arm"], 0, "SAFE"),
        (["--protocol", "brk"], 0, "SAFE"),
        (["--protocol", "stop"], 0, "by stop, any number of CPUs"),
        (["--idc"], 0, "IDC=1 DIC=0"),
        (["--idc", "--dic"], 0, "IDC=1 DIC=1"),
        (["--dic"], 1, "UNKNOWN"),
        (["--executors", "2"], 0, "2 CPUs besides the patching one"),
        (["--omit", "isb"], 1, "[isb] on the patcher would forbid it"),
        (["--profile", "2013"], 0, "SAFE"),
    ],
)
def test_the_options(run: Run, options: list[str], status: int, part: str) -> None:
    ran = run(*SAFE, *options)
    assert ran.status == status
    assert part in ran.out


def test_the_method_is_that_of_patch_text_unless_one_is_asked_for(run: Run) -> None:
    adds = ("prove", "--old", "add x0, x0, #1", "--new", "sub x0, x0, #1")
    assert " by stop, " in run(*adds).out
    ran = run(*adds, "--protocol", "kick")
    assert ran.status == 1
    assert "could get 91000400 `add x0, x0, #1` or d1000400 `sub x0, x0, #1`" in ran.out
    assert "protocol stop would forbid it" in ran.out


def test_json(run: Run) -> None:
    [fact] = json.loads(run(*SAFE, "--omit", "isb", "--json").out)
    assert (fact["verdict"], fact["broken"], fact["would_forbid"]) == ("UNSAFE", {"P2": ["arm", "esop"]}, ["isb"])
    assert any("fetches the old word" in line for line in fact["counterexample"]["timeline"])


def test_a_patch_is_asked_about_once_for_each_distinct_site(run: Run, program: Path) -> None:
    path = saved(run, program, DRAFT)
    ran = run("prove", path, program)
    assert ran.status == 0
    assert ran.out.count("SAFE: ") == 1
    # Each is one word that may race: one kick for both.
    assert " by kick at pair, other, any number of CPUs" in ran.out
    assert " by stop at pair, other, " in run("prove", path, program, "--protocol", "stop").out


def test_a_patch_without_target_is_asked_about_by_its_words(run: Run, program: Path) -> None:
    path = saved(run, program, TWO)
    ran = run("prove", path)
    assert ran.status == 0
    assert "SAFE: d503201f `nop` becomes 11000c00 `add w0, w0, #3` and 1 more word by stop at pair," in ran.out
    assert run("prove", path, "--protocol", "nosync").status == 1
    assert " by stop at pair," in run("prove", path, program).out


def test_a_plan_with_proofs(run: Run, tmp_path: Path, program: Path) -> None:
    path = saved(run, program, DRAFT)
    target = f"sim:{program}?cpus=2"
    journal = ("--journal", tmp_path / "journal")
    ran = run("apply", path, target, "--dry-run", "--prove", *journal)
    assert ran.status == 0, ran.err
    assert "SAFE: d503201f `nop` becomes 14000002 `b .+8` by kick at pair, other" in ran.out
    facts = json.loads(run("apply", path, target, "--dry-run", "--prove", "--json", *journal).out)
    assert [proof["verdict"] for proof in facts["proofs"]] == ["SAFE"]
    assert "nothing to prove" in run("apply", path, program, "--dry-run", "--prove", *journal).out
    refused = run("apply", path, target, "--prove", *journal)
    assert refused.status == 2
    assert one_sentence(refused.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["prove"],
        ["prove", "--old", "nop"],
        ["prove", "x.patch", "--old", "nop", "--new", "nop"],
        ["prove", "--old", "nop", "--new", "nop"],
        ["prove", "--old", "nop; nop", "--new", "nop"],
        [*SAFE, "--omit", "store"],
        [*SAFE, "--profile", "1984"],
        [*SAFE, "--executors", "99"],
        [*SAFE, "--executors", "0"],
        [*SAFE, "--omit", "isb", "--dot", "/nonexistent/x.dot"],
        ["prove", "/nonexistent.patch"],
    ],
)
def test_refusals(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert ran.status == 2
    assert one_sentence(ran.err)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("", "IDC=0 DIC=0 ("),
        ("&idc=1", "IDC=1 DIC=0 ("),
        ("&idc=1&dic=1", "IDC=1 DIC=1 ("),
        ("&broadcast=0", "by stop at pair, other, any number of CPUs, IDC=0 DIC=0, no broadcast ("),
    ],
)
def test_what_is_proved_is_what_that_target_does(run: Run, program: Path, settings: str, said: str) -> None:
    path = saved(run, program, DRAFT)
    ran = run("prove", path, f"sim:{program}?cpus=2{settings}")
    assert ran.status == 0, ran.out
    assert said in ran.out
    steps, *_ = ran.out.splitlines()
    assert steps.startswith("Steps done by us: ")
    assert ("ic-executor" in steps) == ("broadcast=0" in settings)
    assert (", dc," in steps) == ("idc=1" not in settings)
    assert (", ic," in steps) == ("dic=1" not in settings)
    facts = json.loads(run("apply", path, f"sim:{program}?cpus=2{settings}", "--dry-run", "--prove", "--json").out)[
        "steps"
    ]
    assert {step["by"] for step in facts} == {"done by us"}
    assert [step["step"] for step in facts] == steps.removeprefix("Steps done by us: ").rstrip(".").split(", ")


def test_a_step_that_nobody_answers_for_is_no_proof(run: Run, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(run, program, DRAFT)
    target = f"sim:{program}?cpus=2"
    for doer, status, verdict in (
        (Doer.UNKNOWN, 1, "UNKNOWN: "),
        (Doer.NOBODY, 1, "UNSAFE: "),
        (Doer.TARGET, 0, "SAFE: "),
    ):
        monkeypatch.setattr(Simulator, "doer", lambda self, step, doer=doer: doer if step.name == "ic" else Doer.US)
        ran = run("prove", path, target)
        assert ran.status == status
        assert verdict in ran.out
        assert f"{doer.value}: ic" in ran.out
        assert ("nobody answers for ic on this target" in ran.out) == (doer is Doer.UNKNOWN)
    # What is wrong with every step done is wrong all the same.
    monkeypatch.setattr(Simulator, "doer", lambda self, step: Doer.UNKNOWN if step.name == "ic" else Doer.US)
    ran = run("prove", saved(run, program, TWO), target, "--protocol", "kick")
    assert ran.status == 1
    assert "UNSAFE: " in ran.out


def test_a_target_that_answers_for_nothing_and_a_caller_that_nobody_knows_are_no_proof(
    run: Run, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(run, program, DRAFT)
    target = f"sim:{program}?cpus=2"
    # patch_text_nosync tells no CPU: what the others do then is the caller's code.
    ran = run("prove", path, target, "--protocol", "nosync")
    assert ran.status == 1
    assert "nobody answers for flag, read-flag, test-flag, isb-executor on this target" in ran.out
    monkeypatch.delattr(Simulator, "doer")
    ran = run("prove", path, target)
    assert ran.status == 1
    assert "UNKNOWN: " in ran.out

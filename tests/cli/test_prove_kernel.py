"""`a64patch prove --kernel` as a user meets it, on Images with the patching functions of Linux, whole and changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import Run, document, one_sentence
from tests.kernel.patching_code import FIRST, image
from tests.support import assemble, link

NO_DSB = ("    dsb ish                 // behind IC\n", "")


def test_a_sound_kernel_is_safe_and_told_in_full(run: Run, tmp_path: Path) -> None:
    ran = run("prove", "--kernel", image(tmp_path / "Image"))
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"{tmp_path / 'Image'}: Linux 6.6.6-test"
    assert any(line.startswith("caches_clean_inval_pou at 0xffff8000") for line in lines)
    assert "    patcher: store; dsb ishst; isb; dmb ish; sgi" in lines
    assert any("[IDC: dsb ishst; b 0x" in line for line in lines)
    verdicts = [line.partition(":")[0] for line in lines if " becomes " in line]
    assert verdicts == ["SAFE"] * 9 + ["UNKNOWN"] * 3
    assert lines.index("assumed:") < lines.index("left out:")
    assert any("no task was preempted inside the words of a stop" in line for line in lines)
    assert any("stop_machine's own rendezvous" in line for line in lines)


def test_a_first_cpu_that_writes_is_unsafe_with_its_execution(run: Run, tmp_path: Path) -> None:
    ran = run("prove", "--kernel", image(tmp_path / "Image", FIRST))
    assert ran.status == 1
    verdicts = [line for line in ran.out.splitlines() if " becomes " in line]
    assert [line.partition(":")[0] for line in verdicts[:9]] == ["SAFE", "SAFE", "UNSAFE"] * 3
    assert "equal if this CPU is number 1 to come" in ran.out
    assert "Counterexample to P1 under" in ran.out
    assert "protocol stop would forbid it." in ran.out


def test_a_missing_barrier_is_unsafe_and_a_graph_is_written(run: Run, tmp_path: Path) -> None:
    ran = run("prove", "--kernel", image(tmp_path / "Image", NO_DSB), "--protocol", "nosync", "--dot", tmp_path / "g")
    assert ran.status == 1
    assert "P2 BROKEN (arm, esop)" in ran.out
    assert (tmp_path / "g").read_text().startswith("digraph execution {")


def test_an_unknown_instruction_is_unknown_with_its_place(run: Run, tmp_path: Path) -> None:
    ran = run("prove", "--kernel", image(tmp_path / "Image", ("    bti c\n", "    br x3\n")))
    assert ran.status == 1
    assert "SAFE" not in ran.out
    assert "not answered completely: `br x3` at caches_clean_inval_pou is not known here" in ran.out


def test_json_has_all_of_it(run: Run, tmp_path: Path) -> None:
    path = image(tmp_path / "Image", FIRST)
    ran = run("prove", "--kernel", path, "--json")
    assert ran.status == 1
    found = document("prove", ran)
    assert (found["location"], found["release"]) == (str(path), "Linux 6.6.6-test")
    assert found["functions"][0]["name"] == "caches_clean_inval_pou"
    proofs = {(each["protocol"], each["idc"], each["dic"]): each for each in found["proofs"]}
    assert proofs["stop", False, False]["verdict"] == "UNSAFE"
    assert proofs["stop", False, False]["counterexample"]["timeline"]
    assert proofs["kick", True, True]["verdict"] == "SAFE"
    assert proofs["kick", False, True]["verdict"] == "UNKNOWN"
    sequences = {(each["protocol"], each["idc"], each["dic"]): each for each in found["protocols"]}
    assert sequences["kick", True, True]["sequence"] == [
        "patcher: store", "patcher: dsb ishst", "patcher: isb", "patcher: dmb ish", "patcher: sgi", "executor: enter",
    ]  # fmt: skip
    assert found["assumed"]
    assert found["left_out"]


@pytest.mark.parametrize(
    ("options", "status", "count", "part"),
    [
        (["--idc"], 0, 3, "IDC=1 DIC=0"),
        (["--idc", "--dic", "--protocol", "kick"], 0, 1, "by kick, any number of CPUs, IDC=1 DIC=1"),
        (["--dic"], 1, 3, "DIC=1 with IDC=0 is not covered"),
        (["--protocol", "stop", "--omit", "pc-check", "--idc"], 1, 1, "P1 BROKEN"),
        (["--omit", "dsb-ic", "--protocol", "nosync"], 1, 4, "[dsb-ic] on the patcher would forbid it"),
        (["--old", "nop", "--new", "b .+4", "--idc"], 0, 3, "`b .+4` by stop"),
        (["--old", "nop; nop", "--new", "b .+4; b .+4", "--idc"], 1, 3, "UNSAFE"),
        (["--executors", "2", "--protocol", "nosync", "--idc"], 0, 1, "2 CPUs besides the patching one"),
    ],
)
def test_the_options(run: Run, tmp_path: Path, options: list[str], status: int, count: int, part: str) -> None:
    ran = run("prove", "--kernel", image(tmp_path / "Image"), *options)
    assert ran.status == status
    assert ran.out.count(" becomes ") == count
    assert part in ran.out


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["fix.patch"], "give --kernel without PATCH"),
        (["--old", "nop"], "--old and --new, or neither"),
        (["--litmus", "tests"], "--litmus is for words and patches"),
        (["--protocol", "brk"], "prove brk without --kernel"),
        (["--omit", "nonsense"], "'nonsense' cannot be left out of this kernel's protocols; there are dc, "),
        (["--omit", "store"], "'store' cannot be left out"),
    ],
)
def test_wrong_usage_is_one_sentence(run: Run, tmp_path: Path, options: list[str], part: str) -> None:
    ran = run("prove", "--kernel", image(tmp_path / "Image"), *options)
    assert ran.status == 2
    assert one_sentence(ran.err)
    assert part in ran.err


def test_another_file_than_an_image_is_refused(run: Run, tmp_path: Path) -> None:
    program = link(assemble(".globl _start\n_start: ret\n", tmp_path / "a.o"), tmp_path / "program")
    ran = run("prove", "--kernel", program)
    assert (ran.status, ran.out) == (2, "")
    assert "is not a raw arm64 Image" in ran.err
    assert one_sentence(ran.err)

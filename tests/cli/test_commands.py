"""The commands as a user meets them: what they print, their exit status, and that refusals change nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from a64patch.cli.main import COMMANDS
from tests.cli.running import Run, one_sentence
from tests.support import assemble, link

SOURCE = """
    .globl _start, work
    .type work, %function
_start: mov w0, #5
    bl work
    mov x8, #93
    svc #0
work: nop
    add w0, w0, #1
    ret
    .size work, . - work
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return link(assemble(SOURCE, tmp_path / "program.o"), tmp_path / "program")


def test_show_marks_what_may_be_hot_patched(run: Run, program: Path) -> None:
    shown = run("show", program, "work")
    assert shown.status == 0
    lines = [line.split() for line in shown.out.splitlines()]
    assert [line[1:] for line in lines] == [
        ["work", "d503201f", "*", "nop"],
        ["work+0x4", "11000400", "add", "w0,", "w0,", "#1"],
        ["work+0x8", "d65f03c0", "ret"],
    ]
    assert "bl work" in run("show", program, "_start").out


LITERAL = """
    .globl f
    .type f, %function
f:  ldr w0, 1f
    nop
    ret
1:  .word 0xd503201f
    .size f, . - f
"""


@pytest.mark.parametrize("linked", [False, True], ids=["object", "linked"])
def test_data_between_code_is_shown_as_data_and_changed_when_accepted(run: Run, tmp_path: Path, linked: bool) -> None:
    path = assemble(LITERAL, tmp_path / "f.o")
    path = link(path, tmp_path / "f", "-e", "f") if linked else path
    lines = [line.split()[1:] for line in run("show", path, "f").out.splitlines()]
    assert lines[1:] == [
        ["f+0x4", "d503201f", "*", "nop"],
        ["f+0x8", "d65f03c0", "ret"],
        ["f+0xc", "d503201f", ".word", "0xd503201f"],
    ]
    facts = json.loads(run("show", path, "f", "--json").out)
    assert [each["data"] for each in facts] == [False, False, False, True]
    literal = ("poke", path, "f+0xc", "12345678", "--expect", "d503201f")
    refused = run(*literal)
    assert refused.status == 1
    assert "f+0xc is data between the code" in refused.err
    assert "--accept data" in refused.err
    assert run(*literal, "--accept", "data").status == 0
    assert ".word 0x12345678" in run("show", path, "f").out
    assert run("poke", path, "f+4", "yield", "--expect", "nop").status == 0


def test_show_as_json(run: Run, program: Path) -> None:
    facts = json.loads(run("show", program, "work", "-n", "1", "--json").out)
    assert facts[0]["word"] == "d503201f"
    assert facts[0]["hotpatchable"] is True


def test_poke_changes_exactly_the_named_bytes(run: Run, program: Path) -> None:
    before = program.read_bytes()
    done = run("poke", program, "work", "b .+8", "--expect", "nop")
    assert done.status == 0
    assert done.out.splitlines()[:3] == ["@@ work -1 +1 @@", "-d503201f  nop", "+14000002  b     work+0x8"]
    after = program.read_bytes()
    assert [old for old, new in zip(before, after, strict=True) if old != new] == [0x1F, 0x20, 0x03, 0xD5]
    again = run("poke", program, "work", "b .+8", "--expect", "nop")
    assert (again.status, again.out) == (1, "")
    assert again.err == "a64patch: already applied: the target has the new words; nothing was changed\n"
    back = run("poke", program, "work", "nop", "--expect", "b work+8", "--json")
    assert json.loads(back.out)["changes"][0]["old_text"] == "b work+0x8"
    assert program.read_bytes() == before


def test_poke_dry_run_changes_nothing(run: Run, program: Path) -> None:
    before = (program.read_bytes(), program.stat().st_ino)
    done = run("poke", program, "work", "ret", "--expect", "d503201f", "--dry-run")
    assert done.status == 0
    assert "Dry run: nothing was changed" in done.out
    assert (program.read_bytes(), program.stat().st_ino) == before


REFUSALS: dict[str, tuple[list[str], int, str]] = {
    "wrong old word": (["poke", "PROGRAM", "work", "ret", "--expect", "isb"], 1, "holds d503201f (nop), not d5033fdf"),
    "no old word": (["poke", "PROGRAM", "work", "ret"], 2, "add --expect 'd503201f'"),
    "fewer old words": (["poke", "PROGRAM", "work", "ret; ret", "--expect", "nop"], 2, "as many of both"),
    "unaligned": (["poke", "PROGRAM", "work+2", "ret", "--expect", "nop"], 2, "not a multiple of 4"),
    "unmapped": (["poke", "PROGRAM", "0x10", "ret", "--expect", "nop"], 2, "0x10"),
    "out of range": (["poke", "PROGRAM", "work", "b 0x20000000", "--expect", "nop"], 2, "must be within"),
    "no such symbol": (["poke", "PROGRAM", "wrok", "ret", "--expect", "nop"], 2, "no symbol 'wrok'"),
    "no such instruction": (["poke", "PROGRAM", "work", "retrun", "--expect", "nop"], 2, "does not know 'retrun'"),
    "no such file": (["poke", "PROGRAM.missing", "work", "ret", "--expect", "nop"], 2, "No such file"),
    "a directory": (["show", "FOLDER", "work"], 2, "FOLDER"),
    "two words nosync": (
        ["poke", "PROGRAM", "work", "ret; ret", "--expect", "nop; 11000400", "--sync", "nosync"], 1, "always racy",
    ),
    "beyond the end": (["show", "PROGRAM", "work", "-n", "1000"], 2, "PROGRAM"),
    "no process": (["show", "pid:one", "work"], 2, "does not name a process"),
    "unknown profile": (["check", "nop", "isb", "--profile", "2050"], 2, "no profile '2050'"),
    "unequal": (["check", "nop", "isb; isb"], 2, "as many"),
    "bad url": (["show", "sim:PROGRAM?cpu=4", "work"], 2, "cpu"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_one_sentence_and_change_nothing(run: Run, program: Path, name: str) -> None:
    arguments, status, words = REFUSALS[name]
    before = (program.read_bytes(), program.stat().st_ino, sorted(os.listdir(program.parent)))
    filled = [a.replace("PROGRAM", str(program)).replace("FOLDER", str(program.parent)) for a in arguments]
    done = run(*filled)
    assert done.status == status, done.err
    assert one_sentence(done.err), done.err
    assert words.replace("PROGRAM", str(program)).replace("FOLDER", str(program.parent)) in done.err
    assert done.out == ""
    assert (program.read_bytes(), program.stat().st_ino, sorted(os.listdir(program.parent))) == before


def test_a_read_only_file_is_refused(run: Run, program: Path) -> None:
    program.chmod(0o555)
    before = program.read_bytes()
    done = run("poke", program, "work", "ret", "--expect", "nop")
    assert done.status == 1
    assert one_sentence(done.err)
    assert program.read_bytes() == before
    assert run("show", program, "work").status == 0


def test_poke_runs_on_the_simulator(run: Run, program: Path) -> None:
    done = run("poke", f"sim:{program}?cpus=4&seed=3", "work", "b .+8", "--expect", "nop", "--json")
    assert json.loads(done.out)["method"] == "kick"
    stopped = run("poke", f"sim:{program}?cpus=4&seed=3", "work", "b .+8", "--expect", "nop", "--sync", "stop")
    assert "4 CPUs stopped for" in stopped.out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nop", "b .+8"], 0, "safe: nop and b are both in the list"),
        (["91000400", "nop"], 1, "not safe: the old instruction (add_imm) is not in the list"),
        (["nop; nop", "b .+8; nop"], 1, "2 words are not replaced at once"),
        (["b.eq .+8", "b.ne .+16", "--profile", "2023"], 1, "mix the two"),
    ],
)
def test_check(run: Run, arguments: list[str], status: int, words: str) -> None:
    done = run("check", *arguments)
    assert done.status == status
    assert words in done.out
    facts = json.loads(run("check", *arguments, "--json").out)
    assert facts["safe"] == (status == 0)


def test_demo_shows_stale_torn_and_right(run: Run) -> None:
    facts = json.loads(run("demo", "--json").out)
    after = {entry["scenario"][0]: entry["afterwards"] for entry in facts}
    meanwhile = {entry["scenario"][0]: entry["while_changing"] for entry in facts}
    assert after["a"]["old_calls"] > 100, "words that nobody published stay stale"
    assert after["a"]["torn_calls"] > 100, "and nobody published them together"
    assert after["b"]["torn_calls"] == meanwhile["b"]["torn_calls"] == 0
    assert after["b"]["old_calls"] > 0, "nosync tells no CPU"
    assert meanwhile["c"]["torn_calls"] > 0
    assert (after["d"]["old_calls"], after["d"]["torn_calls"], meanwhile["d"]["torn_calls"]) == (0, 0, 0)
    assert after["d"]["new_calls"] > 1000


@pytest.mark.parametrize("seed", range(20))
def test_demo_is_right_for_every_seed(run: Run, seed: int) -> None:
    facts = json.loads(run("demo", "--json", "--seed", str(seed)).out)
    for entry in facts:
        torn = entry["afterwards"]["torn_calls"] + entry["while_changing"]["torn_calls"]
        assert (torn > 0) == (entry["scenario"][0] in "ac"), entry
        if entry["scenario"][0] == "d":
            assert entry["afterwards"]["old_calls"] == 0


@pytest.mark.parametrize("columns", ["20", "80", "200"])
def test_demo_prints_the_same_in_terminals_of_every_width(
    run: Run, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown = run("demo")
    assert shown.status == 0
    assert max(map(len, shown.out.splitlines())) <= 80
    assert [line for line in shown.out.splitlines() if line.startswith(" d  two words, patch_text  ")]


def test_version_and_help(run: Run) -> None:
    assert run("--version").out.startswith("a64patch ")
    overview = run("--help")
    assert all(name in overview.out for name in COMMANDS)
    for name in COMMANDS:
        assert "example" in run(name, "--help").out or name == "demo"
    assert run().status == 2
    assert run("frobnicate").status == 2


def test_output_that_nobody_reads_is_no_error(program: Path) -> None:
    command = f"'{sys.executable}' -c 'from a64patch.cli.main import main; raise SystemExit(main())'"
    done = subprocess.run(
        f"{command} show {program} _start -n 7 | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""


def test_a_defect_shows_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: object) -> int:
        raise ZeroDivisionError("half")

    monkeypatch.setattr("a64patch.cli.check.run", broken)
    done = run("check", "nop", "nop")
    assert done.status == 2
    assert one_sentence(done.err)
    assert "defect" in done.err


def test_options_stand_anywhere(run: Run, program: Path) -> None:
    shown = run("show", program, "work", "-n", "1").out
    assert shown
    for arguments in (("-n", "1", program, "work"), (program, "-n", "1", "work"), ("-n", "1", "--", program, "work")):
        assert run("show", *arguments).out == shown
    assert run("poke", program, "-n", "work", "--expect", "nop", "yield").status == 0


@pytest.mark.parametrize(
    ("arguments", "says", "usage"),
    [
        (("shwo",), "did you mean show?", "usage: a64patch [-h]"),
        (("apply", "--dry-rnu", "a", "b"), "did you mean --dry-run?", "usage: a64patch apply"),
        (("show", "--frobnicate", "a", "b"), "unrecognized arguments: --frobnicate\n", "usage: a64patch show"),
    ],
)
def test_a_wrong_word_shows_the_usage_and_the_right_word(
    run: Run, arguments: tuple[str, ...], says: str, usage: str
) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert says in done.err
    assert done.err.startswith(usage)


def test_target_and_patch_in_the_other_order(run: Run, program: Path) -> None:
    done = run("apply", program, program.with_name("fix.patch"))
    assert (done.status, one_sentence(done.err)) == (2, True)
    assert "is an ELF file and no patch: name the patch first, then the target" in done.err


def test_asm_and_disasm(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("asm", "mov x0, #1; b 0x2000", "--address", "0x1ffc").out == "d2800020\n14000000\n"
    assert run("disasm", "d2800020", "14000000", "--address", "0x1ffc").out == "mov x0, #1\nb 0x2000\n"
    facts = json.loads(run("disasm", "d503201f", "--address", "0x10", "--json").out)
    assert facts == [{"address": "0x10", "word": "d503201f", "text": "nop"}]
    monkeypatch.setattr("sys.stdin", io.StringIO("0x1000\tb 0x2000\nnop\nfrob\n0x1001x\tnop\n"))
    lines = run("asm", "-")
    assert lines.status == 1
    assert lines.out.splitlines()[:2] == ["14000400", "d503201f"]
    assert [line[:7] for line in lines.out.splitlines()[2:]] == ["error: ", "error: "]
    monkeypatch.setattr("sys.stdin", io.StringIO("0x1000\t14000400\nzz\nffffffff\n"))
    lines = run("disasm", "-")
    assert lines.out.splitlines() == [
        "b 0x2000", "error: 'zz' is not a word: write up to eight hex digits", ".inst 0xffffffff",
    ]  # fmt: skip
    for address, reason in (
        ("2", "address 0x2 is not a multiple of 4"),
        ("0xfffffffffffffffc", "the last of 2 words would lie beyond the last address"),
        ("0x1ffffffffffffffff", "is not an address"),
        ("18446744073709551616", "beyond the last address"),
    ):
        for command in (["asm", "nop; nop"], ["disasm", "d503201f", "d503201f"]):
            done = run(*command, "--address", address)
            assert (done.status, done.out) == (2, "")
            assert reason in done.err
            assert one_sentence(done.err)
    assert run("asm", "nop; b .", "--address", "0xfffffffffffffff8").out == "d503201f\n14000000\n"
    assert run("asm", "frob").status == 2
    assert run("disasm", "123456789").status == 2


def test_asm_warns_of_an_unpredictable_word(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "x0 is loaded and is also the base that is written back"
    why += ": CONSTRAINED UNPREDICTABLE (Arm ARM K1, A64 instructions)"
    done = run("asm", "nop; ldr x0, [x0], #8")
    assert (done.status, done.out) == (0, "d503201f\nf8408400\n")
    assert done.err == f"a64patch: warning: instruction 2: {why}\n"
    done = run("asm", "nop; ldr x0, [x0], #8", "--json")
    assert json.loads(done.out) == [
        {"address": "0x0", "word": "d503201f", "unpredictable": ""},
        {"address": "0x4", "word": "f8408400", "unpredictable": why},
    ]  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO("nop\nfrob\nldr x0, [x0], #8\n"))
    done = run("asm", "-")
    assert (done.status, done.err) == (1, f"a64patch: warning: line 3: {why}\n")
    assert done.out.splitlines()[::2] == ["d503201f", "f8408400"]


def test_what_a_target_is(tmp_path: Path, run: Run) -> None:
    path = link(assemble(".globl _start\n_start: nop", tmp_path / "o"), tmp_path / "program", "--build-id=0x0102")
    facts = json.loads(run("show", str(path), "--target-info", "--json").out)
    assert facts["modules"] == [{"name": "program", "build_id": "0102", "base": "0x0"}]
    assert facts["incarnation"] == ""


NAMELESS = """
    .globl _start
    .type _start, %function
_start: adrp x0, v
    add x0, x0, :lo12:v
    ret
    .size _start, . - _start
    nop
    .data
v:  .word 1
w:  .word 2
"""


@pytest.mark.parametrize("new", ["b .+0x10; nop", "adrp x0, 0x800000; nop", "cbz x0, _start+12; nop"])
def test_poke_is_for_this_very_target(run: Run, tmp_path: Path, new: str) -> None:
    """No other build is meant, so an instruction may refer to an address without a name."""
    program = link(assemble(NAMELESS, tmp_path / "nameless.o"), tmp_path / "nameless")
    before = program.read_bytes()
    done = run("poke", program, "_start", new, "--expect", "adrp x0, v; add x0, x0, :lo12:v")
    assert (done.status, done.err) == (0, "")
    assert program.read_bytes() != before
    assert run("revert", done.out.split("`")[1].split()[2]).status == 0
    assert program.read_bytes() == before


def test_poke_keeps_a_name_that_no_text_of_the_word_has(run: Run, tmp_path: Path) -> None:
    program = link(assemble(NAMELESS, tmp_path / "nameless.o"), tmp_path / "nameless")
    new, old = "adrp x0, w; add x0, x0, :lo12:w", "adrp x0, v; add x0, x0, :lo12:v"
    done = run("poke", program, "_start", new, "--expect", old)
    assert done.status == 0
    assert ":lo12:v" in done.out
    assert "x0, x0, :lo12:w" in done.out
    # The patch in the journal names w, so it fits another build.
    patch = program.with_name("patch")
    patch.write_text("\n".join(run("log", done.out.split("`")[1].split()[2]).out.split("\n\n")[1:]))
    other = link(assemble("nop\n" * 4 + NAMELESS, tmp_path / "other.o"), tmp_path / "other")
    assert run("apply", patch, other).status == 0


def test_a_patch_of_addresses_on_a_target_without_build_id(run: Run, tmp_path: Path) -> None:
    program = link(assemble(NAMELESS, tmp_path / "nameless.o"), tmp_path / "nameless")
    address = json.loads(run("show", program, "_start", "-n", "1", "--json").out)[0]["address"]
    patch = tmp_path / "patch"
    patch.write_text(f"@@ {int(address, 16) + 12:#x} @@\n-d503201f  nop\n+14000100  b {int(address, 16) + 0x40C:#x}\n")
    assert run("apply", patch, program).status == 0
    assert run("status", patch, program).status == 0

"""The commands on patch files as a user meets them; every refusal with its sentence and nothing changed."""

from __future__ import annotations

import errno
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from a64patch.a64.generate import gen_nop
from a64patch.patch import plan
from a64patch.patch.asmdiff import AsmDiff
from a64patch.patch.journal import EntryState, Journal
from a64patch.targets.base import Identity, Target
from a64patch.targets.section import Change
from tests.cli.running import Run, document, one_sentence
from tests.support import ROOT, assemble, link

SOURCE = """
    .globl _start, other, pair
    .type _start, %function
    .type other, %function
    .type pair, %function
_start: mov w0, #5
    bl pair
    mov x8, #93
    svc #0
    .size _start, . - _start
pair: add w0, w0, #1
    add w0, w0, #2
    ret
    .size pair, . - pair
other: nop
    cbz w0, other
    b pair + 4
    ret
    .size other, . - other
"""
STATIC = "{name}: .globl {name}\n bl twice\n ret\n.type twice, %function\ntwice: nop\n ret\n.size twice, 8\n"

THREE_MORE = (0x11000C00).to_bytes(4, "little")
"""What DRAFT puts in: add w0, w0, #3."""

DRAFT = """Add three, not one.

@@ pair @@
-???????? add w0, w0, #1
+???????? add w0, w0, #3
 ????????
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return link(assemble(SOURCE, tmp_path / "program.o"), tmp_path / "program", "--build-id=0xaabbccdd")


@pytest.fixture
def patch(program: Path, run: Run) -> Path:
    path = program.parent / "fix.patch"
    path.write_text(DRAFT)
    path.write_text(run("fmt", path, program).out)
    return path


def test_fmt_fills_in_words_texts_and_the_build(run: Run, patch: Path, program: Path) -> None:
    assert patch.read_text() == (
        "Add three, not one.\n\nBuild-Id: aabbccdd\n\n@@ pair -2 +2 @@\n-11000400  add   w0, w0, #1\n"
        "+11000c00  add   w0, w0, #3\n 11000800  add   w0, w0, #2\n"
    )
    assert run("fmt", patch, program).out == run("fmt", patch).out == patch.read_text()


def test_a_patch_lives(run: Run, patch: Path, program: Path) -> None:
    before = program.read_bytes()
    assert run("status", patch, program).out == "pair  not applied\n"
    dry = run("apply", patch, program, "--dry-run")
    assert dry.status == 0
    assert "add w0, w0, #3" in dry.out
    assert "Dry run: nothing was changed." in dry.out
    assert program.read_bytes() == before
    done = run("apply", patch, program)
    assert done.status == 0
    assert done.out.startswith("applied: 1 hunk: 1 word written; stop: nothing executes this target")
    assert [
        index for index, (old, new) in enumerate(zip(before, program.read_bytes(), strict=True)) if old != new
    ] != []
    assert run("status", patch, program).status == 0
    assert run("status", "-R", patch, program).out == "pair  not applied\n"
    again = run("apply", patch, program)
    assert (again.status, again.out) == (1, "")
    assert again.err == "a64patch: already applied: the target has the new words; nothing was changed\n"
    assert run("apply", "-R", patch, program).out.startswith("reversed: 1 hunk")
    assert program.read_bytes() == before


def test_to_reverse_what_is_not_applied_is_refused_in_these_words(run: Run, patch: Path, program: Path) -> None:
    before = program.read_bytes()
    for options in ((), ("--dry-run",)):
        refused = run("apply", "-R", patch, program, *options)
        assert (refused.status, program.read_bytes()) == (1, before)
        assert refused.err == (
            "a64patch: not applied, so there is nothing to reverse: the target has the old words; nothing was changed\n"
        )


def test_a_patch_that_is_half_applied_says_which_half(run: Run, program: Path) -> None:
    path = program.with_name("three.patch")
    path.write_text(
        "@@ pair @@\n-11000400\n+11000c00\n@@ other @@\n-d503201f\n+d503203f\n@@ _start @@\n-528000a0\n+528000c0\n"
    )
    run("poke", program, "other", "yield", "--expect", "nop")
    before = program.read_bytes()
    for options, which in (
        ((), "are applied already (other), and 2 are not (pair, _start): take those that are applied out"),
        (
            ("-R",),
            "are applied (other), and 2 are not (pair, _start): take those that are not applied out",
        ),
    ):
        refused = run("apply", *options, path, program)
        assert (refused.status, program.read_bytes()) == (1, before)
        assert refused.err == f"a64patch: half applied: 1 of 3 hunks {which} of the patch; nothing was changed\n"


def test_revert_by_number(run: Run, patch: Path, program: Path) -> None:
    before = program.read_bytes()
    entry = json.loads(run("apply", patch, program, "--json").out)["entry"]
    [line] = run("log", "-n", "1").out.splitlines()
    assert line.split()[4:8] == ["applied", "1", "word", str(program)]
    assert line.endswith("  Add three, not one.")
    assert "@@ pair -2 +2 @@\n-11000400  add   w0, w0, #1\n+11000c00  add   w0, w0, #3" in run("log", str(entry)).out
    assert run("revert", str(entry)).out.startswith(f"reverted entry {entry}: 1 word written")
    assert program.read_bytes() == before
    refused = run("revert", str(entry))
    assert refused.status == 1
    assert "is reverted, so there is nothing to revert" in refused.err
    facts = json.loads(run("log", "--json", "-n", "2").out)
    assert [(line["id"], line["state"], line["reverts"], line["reverted_by"], line["subject"]) for line in facts] == [
        (entry, "reverted", None, entry + 1, "Add three, not one."), (entry + 1, "applied", entry, None, ""),
    ]  # fmt: skip
    assert f"(reverted by {entry + 1})  Add three, not one." in run("log").out


@pytest.mark.parametrize(("zone", "says"), [("UTC", "+0000"), ("UTC-5:30", "+0530")])
def test_times_are_those_of_the_user(
    run: Run, patch: Path, program: Path, zone: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        run("apply", patch, program)
        when = json.loads(run("log", "-n", "1", "--json").out)[0]["began"]
        shown = " ".join(run("log", "-n", "1").out.split()[1:4])
        assert shown.endswith(says)
        assert datetime.strptime(shown, "%Y-%m-%d %H:%M:%S %z") == datetime.fromisoformat(when).replace(microsecond=0)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert run("recover").out == "nothing was cut off\n"


def test_the_same_on_the_simulator(run: Run, patch: Path, program: Path) -> None:
    facts = json.loads(run("apply", patch, f"sim:{program}?cpus=4", "--json").out)
    assert (facts["method"], facts["cpus"], sorted(facts["stopped"])) == ("stop", 4, [0, 1, 2, 3])
    assert "not safe here" in run("apply", patch, f"sim:{program}?cpus=4", "--sync", "kick").err
    assert run("status", patch, f"sim:{program}").status == 1


def test_a_patch_of_a_machine_that_ends_with_the_command(run: Run, patch: Path, program: Path) -> None:
    journal = ("--journal", program.parent / "journal")
    done = run("apply", patch, f"sim:{program}?cpus=4", *journal)
    assert done.status == 0
    assert done.out.splitlines()[-1].startswith("the simulated machine ends with this command")
    assert json.loads(run("apply", patch, f"sim:{program}", *journal, "--json").out)["entry"] is None
    assert run("log", *journal).out == "the journal has no entries\n"


def test_hazards_are_refused_until_accepted(run: Run, program: Path) -> None:
    path = program.parent / "two.patch"
    path.write_text("@@ pair @@\n-11000400\n-11000800\n+52800000\n+52800000\n")
    before = program.read_bytes()
    refused = run("apply", path, program)
    assert refused.status == 1
    assert "other+0x8 branches to pair+0x4, in the middle of the new code" in refused.err
    assert "--accept branch-into-site" in refused.err
    assert program.read_bytes() == before
    dry = run("apply", path, program, "--dry-run")
    assert (dry.status, "hazard branch-into-site" in dry.out) == (1, True)
    assert "there is no hazard 'x'" in run("apply", path, program, "--accept", "x").err
    assert run("apply", path, program, "--accept", "branch-into-site").status == 0


def test_a_patch_that_lost_its_end_is_refused(run: Run, patch: Path, program: Path) -> None:
    before, lines = program.read_bytes(), patch.read_text().splitlines(keepends=True)
    assert lines[-2].startswith("+")
    patch.write_text("".join(lines[:-2]))
    refused = run("apply", patch, program)
    assert (refused.status, one_sentence(refused.err)) == (2, True)
    assert f"{patch}: line 5: the hunk at pair counts -2 +2, but has 1 old and 0 new instructions: the" in refused.err
    assert run("fmt", patch, program).status == 2, "fmt corrects no counts"
    assert program.read_bytes() == before


def test_without_counts_a_patch_that_lost_its_end_is_a_hazard(run: Run, program: Path) -> None:
    path = program.parent / "cut.patch"
    path.write_text("@@ pair @@\n-11000400\n")
    before = program.read_bytes()
    refused = run("apply", path, program)
    assert (refused.status, program.read_bytes()) == (1, before)
    assert refused.err == (
        "a64patch: the hunk at pair may have been cut off: it has no counts, and implies a NOP at pair;"
        " if that is right, --accept implied-nop; nothing was changed\n"
    )
    says = "hunk pair: NOP at pair: the patch has no new instruction there\n"
    dry = run("apply", path, program, "--dry-run")
    assert (dry.status, says in dry.out, "hazard implied-nop: the hunk at pair" in dry.out) == (1, True, True)
    done = run("apply", path, program, "--accept", "implied-nop")
    assert (done.status, done.out.startswith(f"{says}applied: 1 hunk: 1 word written")) == (0, True)
    entry = json.loads(run("apply", "-R", path, program, "--json").out)["entry"]
    assert "@@ pair -1 +1 @@\n-d503201f  nop\n+11000400" in run("log", str(entry)).out
    assert program.read_bytes() == before


def test_log_reads_what_was_stored_without_counts(run: Run, program: Path) -> None:
    """Journals have such texts from before there were counts."""
    stored, path = "@@ pair @@\n-11000400  add   w0, w0, #1\n", program.parent / "journal"
    changes = [Change(0x1000, 0x11000400, gen_nop())]
    with Journal(path) as journal:
        first = journal.begin(Identity(str(program)), changes, stored, method="stop")
        journal.finish(first, EntryState.APPLIED)
        second = journal.begin(Identity(str(program)), changes, "", method="stop", reverts=first)
        journal.finish(second, EntryState.APPLIED)
    assert run("log", str(first), "--journal", path).out.endswith(f"\n\n{stored}")
    shown = run("log", str(second), "--journal", path).out
    assert shown.endswith("\n\n@@ pair -1 +1 @@\n-d503201f  nop\n+11000400  add   w0, w0, #1\n")


def test_fmt_says_which_counts_it_adds_for_nops(run: Run, program: Path) -> None:
    path = program.parent / "cut.patch"
    path.write_text("@@ pair @@\n-11000400\n-11000800\n")
    says = "the hunk at pair had no counts; now they say that 2 NOPs are meant: see that the hunk is whole"
    ran = run("fmt", path, program)
    assert (ran.status, ran.err) == (0, f"a64patch: {says}\n")
    facts = json.loads(run("fmt", path, program, "--json").out)
    assert facts == {"patch": ran.out, "warnings": [says]}
    path.write_text(ran.out)
    again = run("fmt", path, program)
    assert (again.out, again.err) == (ran.out, "")
    start = int(json.loads(run("show", program, "pair", "-n", "1", "--json").out)[0]["address"], 16)
    dry = json.loads(run("apply", path, program, "--dry-run", "--json", "--accept", "all").out)
    assert dry["hunks"][0]["implied_nops"] == [f"{start:#x}", f"{start + 4:#x}"]
    assert "implied-nop" not in [hazard["name"] for hazard in dry["hazards"]]
    done = run("apply", path, program, "--accept", "branch-into-site")
    assert done.out.startswith("hunk pair: NOPs at pair, pair+0x4: the patch has no new instruction there\napplied")


def test_rejects_do_not_vouch_for_nops(run: Run, program: Path) -> None:
    path = program.parent / "cut.patch"
    path.write_text("@@ pair @@\n-d503201f\n\n@@ other @@\n-52800000\n+52800020\n")
    assert run("apply", path, program).status == 1
    text = path.with_name("cut.patch.rej").read_text()
    assert text.startswith("Hunks: 2\n\n# rejected: pair holds")
    assert "\n@@ pair @@\n" in text
    assert "\n@@ other -1 +1 @@\n" in text


def test_a_pipe_gets_a_line_for_each_hunk_that_implies_nops(run: Run, tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(201)]
    source = "".join(f".globl {name}\n{name}: mov w0, #1\n" for name in names) + "long: .fill 12, 4, 0x52800020\n ret\n"
    program = link(assemble(source, tmp_path / "program.o"), tmp_path / "program", "-e", "f0")
    path = tmp_path / "cut.patch"
    path.write_text("@@ long -12 +0 @@\n" + "-52800020\n" * 12)
    places = ", ".join(["long", *(f"long+{4 * index:#x}" for index in range(1, 8))])
    assert f"hunk long: NOPs at {places}, 4 more places: the patch" in run("apply", path, program, "--dry-run").out
    path.write_text("".join(f"@@ {name} -1 +0 @@\n-52800020\n" for name in names))
    lines = run("apply", path, program, "--dry-run").out.splitlines()
    assert sum(line.startswith("hunk f") for line in lines) == 201


REFUSALS: dict[str, tuple[str, int, str]] = {
    "wrong build": ("Build-Id: 00ff\n\n@@ pair @@\n-11000400\n+52800000\n", 1, "made for build 00ff"),
    "foreign word": ("@@ pair @@\n-d503201f\n+52800000\n", 1, "pair holds 11000400 (add w0, w0, #1), not d503201f"),
    "overlap": ("@@ pair @@\n-11000400\n+52800000\n 11000800\n@@ pair+4 @@\n-11000800\n+52800000\n", 2, "overlap"),
    "overlap by address": (
        "@@ pair @@\n-11000400\n+52800000\n 11000800\n@@ 0xPAIR4 @@\n-11000800\n+52800000\n", 1, "overlap",
    ),
    "already applied": ("@@ pair @@\n-52800000\n+11000400\n", 1, "already applied"),
    "half applied": ("@@ pair @@\n-52800000\n+11000400\n@@ other @@\n-d503201f\n+52800000\n", 1, "1 of 2"),
    "beyond the symbol": ("@@ pair+8 @@\n d65f03c0\n-d503201f\n+52800000\n", 1, "4 bytes beyond pair, which has 12"),
    "unaligned": ("@@ pair+2 @@\n-11000400\n+52800000\n", 2, "not a multiple of 4"),
    "word and text": ("@@ pair @@\n-11000400  add w0, w0, #2\n+52800000\n", 2, "line 2, column 2: the word"),
    "missing symbol": ("@@ pear @@\n-11000400\n+52800000\n", 2, "no symbol 'pear'"),
    "missing symbol in a text": ("@@ _start+4 @@\n-94000003  bl pear\n+d503201f\n", 2, "no symbol 'pear'"),
    "no code": ("@@ 0x10 @@\n-11000400\n+52800000\n", 2, "does not lie in code"),
    "no way back": ("@@ pair @@\n 11000400\n+52800000\n", 2, "line 3: the detour at pair ends with a new instruction"),
    "unknown word": ("@@ pair @@\n-????????  add w0, w0, #1\n+52800000\n", 2, "still ????????: `a64patch fmt"),
    "no instruction": ("@@ pair @@\n-11000400  ad w0, w0, #1\n+52800000\n", 2, "line 2, column 12"),
    "no hunk": ("Nothing.\n", 2, "there is no hunk"),
    "no change": ("@@ pair @@\n 11000400\n", 2, "changes nothing"),
    "empty": ("", 2, "there is no hunk"),
    "not text": ("@@ pair @@\n-11000400\x1b[2J\n+52800000\n", 2, "line 2, column 10"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("where", ["file", "simulator"])
def test_refusals(run: Run, program: Path, name: str, where: str) -> None:
    text, status, words = REFUSALS[name]
    shown = json.loads(run("show", program, "pair+4", "-n", "1", "--json").out)[0]
    path = program.parent / "bad.patch"
    path.write_text(text.replace("0xPAIR4", shown["address"]))
    before = (program.read_bytes(), program.stat().st_ino)
    target = str(program) if where == "file" else f"sim:{program}"
    done = run("apply", path, target)
    assert (done.status, done.out) == (status, ""), done.err
    assert words in done.err
    rejects = path.with_name("bad.patch.rej")
    assert rejects.exists() == (name == "foreign word")
    first = done.err.splitlines(keepends=True)[0]
    assert one_sentence(first)
    assert done.err == first or rejects.exists()
    assert (program.read_bytes(), program.stat().st_ino) == before
    assert run("apply", path, target, "--dry-run").status == status


def test_an_ambiguous_symbol_is_refused(run: Run, tmp_path: Path) -> None:
    objects = [assemble(STATIC.format(name=name), tmp_path / f"{name}.o") for name in ("_start", "second")]
    program = link(objects[0], tmp_path / "program", str(objects[1]))
    path = tmp_path / "fix.patch"
    path.write_text("@@ twice @@\n-d503201f\n+52800000\n")
    before = program.read_bytes()
    refused = run("apply", path, program)
    assert (refused.status, program.read_bytes()) == (2, before)
    assert "stands for 2 addresses" in refused.err


def test_rejects_can_be_applied_where_they_fit(run: Run, patch: Path, program: Path) -> None:
    good = program.read_bytes()
    run("poke", program, "pair", "nop", "--expect", "add w0, w0, #1")
    refused = run("apply", patch, program)
    assert refused.err.splitlines()[1] == f"a64patch: The hunks that do not fit are in {patch}.rej."
    text = Path(f"{patch}.rej").read_text()
    assert "# rejected: pair holds d503201f (nop), not 11000400 (add w0, w0, #1)" in text
    program.write_bytes(good)
    assert run("apply", f"{patch}.rej", program).status == 0


@pytest.mark.parametrize("kind", ["notes", "patch", "link", "folder"])
def test_rejects_replace_no_file_of_somebody_else(run: Run, patch: Path, program: Path, kind: str) -> None:
    run("poke", program, "pair", "nop", "--expect", "add w0, w0, #1")
    rejects = Path(f"{patch}.rej")
    theirs = patch.with_name("theirs")
    theirs.write_text("@@ pair @@\n-11000400\n+52800000\n" if kind == "patch" else "do not lose this\n")
    if kind == "folder":
        rejects.mkdir()
    elif kind == "link":
        rejects.symlink_to(theirs)
    else:
        rejects.write_text(theirs.read_text())
    before = theirs.read_text(), os.lstat(rejects).st_ino
    refused = run("apply", patch, program)
    said = f"a64patch: The hunks that do not fit were not written: {rejects} exists and holds no rejected hunks."
    assert refused.err.splitlines()[1:] == [said]
    assert (theirs.read_text(), os.lstat(rejects).st_ino) == before
    assert kind == "folder" or rejects.read_text() == before[0]
    assert not list(patch.parent.glob(".rej-*"))


@pytest.mark.parametrize("mode", [0o640, 0o444])
def test_rejects_replace_earlier_rejects_and_have_the_mode_of_the_patch(
    run: Run, patch: Path, program: Path, mode: int
) -> None:
    good = program.read_bytes()
    for word in ("nop", "yield"):
        program.write_bytes(good)
        run("poke", program, "pair", word, "--expect", "add w0, w0, #1")
        patch.chmod(mode)
        run("apply", patch, program)
        assert f"({word})" in Path(f"{patch}.rej").read_text()
        assert Path(f"{patch}.rej").stat().st_mode & 0o7777 == mode


def test_rejects_that_cannot_be_written_are_mentioned(
    run: Run, patch: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("poke", program, "pair", "nop", "--expect", "add w0, w0, #1")

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fchmod", fails)
    refused = run("apply", patch, program)
    assert refused.err.splitlines()[1:] == [
        f"a64patch: The hunks that do not fit cannot be written to {patch}.rej: No space left on device."
    ]
    assert not list(patch.parent.glob("*.rej*")) + list(patch.parent.glob(".rej-*"))


def test_ctrl_c_while_rejects_are_written_leaves_no_file(
    run: Run, patch: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("poke", program, "pair", "nop", "--expect", "add w0, w0, #1")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fchmod", interrupted)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert run("apply", patch, program).status == 130
    assert not list(patch.parent.glob("*.rej*")) + list(patch.parent.glob(".rej-*"))


def test_garbage_is_refused_within_bounds(tmp_path: Path, program: Path) -> None:
    """10 MB of garbage, and a file of 1 GB that is one hunk: in a process that may not have more than 1 GiB."""
    garbage, lines, huge = tmp_path / "garbage", tmp_path / "lines", tmp_path / "huge"
    garbage.write_bytes(os.urandom(10 << 20))
    lines.write_text("@@ pair @@\n" + "-11000400\n" * (1 << 19))
    huge.write_text("@@ pair @@\n-11000400\n+")
    os.truncate(huge, 1 << 30)
    for path, says in ((garbage, "UTF-8"), (lines, "does not lie in code"), (huge, "more than 64 MiB")):
        done = subprocess.run(
            [sys.executable, "-m", "a64patch", "apply", str(path), str(program)],
            capture_output=True, text=True, check=False, timeout=60,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode in (1, 2)
        assert one_sentence(done.stderr), done.stderr
        assert says in done.stderr


def test_a_patch_may_come_from_a_pipe(
    run: Run,
    patch: Path,
    program: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with patch.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert run("apply", "-", program).status == 0


MAIL = """From 0123abcd Mon Sep 17 00:00:00 2001
From: A U Thor <author@example.com>
Subject: [PATCH] Add three,
 not one.
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

{}--=20
2.39.5

"""


def test_a_patch_that_came_by_mail_is_applied_and_kept_as_it_was_sent(run: Run, patch: Path, program: Path) -> None:
    sent, old = patch.read_text(), program.read_bytes()
    body = sent.partition("\n\n")[2]
    quoted = "".join(f"> {line}\n" for line in sent.splitlines())
    for text in (MAIL.format(body.replace("=", "=3D")), quoted, f"{sent}-- \n2.39.5\n", sent.replace("\n", "\r\n")):
        arrived = patch.with_name("arrived")
        arrived.write_text(text, newline="")
        assert run("fmt", arrived).out == sent
        entry = json.loads(run("apply", arrived, program, "--json").out)["entry"]
        assert json.loads(run("log", str(entry), "--json").out)[0]["patch"] == sent
        assert run("apply", "-R", arrived, program).status == 0
        assert program.read_bytes() == old


def test_a_mailbox_of_several_patches_is_refused(run: Run, patch: Path, program: Path) -> None:
    old = program.read_bytes()
    patch.write_text(2 * MAIL.format(patch.read_text()))
    refused = run("apply", patch, program)
    assert (refused.status, one_sentence(refused.err), program.read_bytes()) == (2, True, old)
    assert f"{patch}: the file has 2 mails" in refused.err


def test_a_journal_that_is_none_stops_everything(run: Run, patch: Path, program: Path) -> None:
    before = program.read_bytes()
    journal = program.parent / "journal"
    journal.write_text("not a database, but long enough to be looked at by whoever opens it" * 20)
    journal.chmod(0o600)
    for path in (journal, program.parent, "/dev/null"):
        refused = run("apply", patch, program, "--journal", path)
        assert (refused.status, refused.out, program.read_bytes()) == (1, "", before)
        assert one_sentence(refused.err)


def test_finished_work_that_the_journal_does_not_know(
    run: Run,
    patch: Path,
    program: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from a64patch.errors import JournalError
    from a64patch.patch.journal import Journal

    def full(*_: object, **__: object) -> None:
        raise JournalError("the disk is full")

    finish: Callable[..., None] = Journal.finish
    monkeypatch.setattr(Journal, "finish", full)
    done = run("apply", patch, program)
    assert done.status == 3
    assert "the patch is applied, but the journal does not say so" in done.err
    monkeypatch.setattr(Journal, "finish", finish)
    assert "was cut off: run `a64patch recover` first" in run("apply", "-R", patch, program).err
    assert ": applied: all 1 words are the new ones" in run("recover").out
    assert run("apply", "-R", patch, program).status == 0


def test_recover_answers_3_until_every_entry_has_come_to_an_end(
    run: Run, patch: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = ("--journal", program.parent / "journal")
    with monkeypatch.context() as crash:
        interrupting("a64patch.patch.journal.Journal.finish", crash)
        assert run("apply", patch, program, *journal).status == 3
    new = program.read_bytes()
    assert new.count(THREE_MORE) == 1

    # Somebody else's word: neither old nor new, left alone.
    foreign = new.replace(THREE_MORE, b"\x1f\x20\x03\xd5")
    program.write_bytes(foreign)
    for was in ("open", "partial"):
        ran = run("recover", "--json", *journal)
        [fact] = json.loads(ran.out)
        assert (ran.status, fact["was"], fact["state"]) == (3, was, "partial")
        assert program.read_bytes() == foreign

    # The target is gone: the entry stays as it is.
    moved = program.rename(program.with_name("moved"))
    ran = run("recover", *journal)
    assert ran.status == 3
    assert ran.out.startswith(f"entry 1 ({program}): partial: ")
    moved.rename(program)

    program.write_bytes(new)
    ran = run("recover", *journal)
    assert (ran.status, ran.out) == (
        0,
        f"entry 1 ({program}): applied: all 1 words are the new ones: the patch is complete\n",
    )
    assert run("recover", *journal).out == "nothing was cut off\n"


def test_recover_answers_3_while_the_target_of_an_open_entry_is_gone(
    run: Run, patch: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = ("--journal", program.parent / "journal")
    with monkeypatch.context() as crash:
        interrupting("a64patch.patch.journal.Journal.finish", crash)
        assert run("apply", patch, program, *journal).status == 3
    program.unlink()
    ran = run("recover", "--json", *journal)
    assert (ran.status, json.loads(ran.out)[0]["state"]) == (3, "open")
    assert run("recover", "--forget", "1", *journal).status == 0
    assert run("recover", *journal).out == "nothing was cut off\n"


def interrupting(name: str, monkeypatch: pytest.MonkeyPatch, *, after: bool = False) -> None:
    """Have Ctrl-C pressed when this function of the project is called, or when it returns."""
    real = pkgutil.resolve_name(name)

    def interrupted(*arguments: object, **options: object) -> object:
        if after:
            real(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(name, interrupted)


@pytest.mark.parametrize(
    ("where", "after", "status", "says", "done"),
    [
        ("a64patch.patch.plan.make_plan", False, 130, "nothing was changed", False),
        ("a64patch.patch.journal.Journal.begin", False, 130, "nothing was changed", False),
        ("a64patch.patch.journal.Journal.begin", True, 3, "entry 1 is cut off: run `a64patch recover --jour", False),
        ("a64patch.patch.transaction._patch", False, 130, "nothing was changed", False),
        ("a64patch.patch.transaction._patch", True, 3, "entry 1 is cut off: run `a64patch recover --jour", True),
        ("a64patch.patch.journal.Journal.finish", False, 3, "entry 1 is cut off", True),
        ("a64patch.patch.journal.Journal.finish", True, 0, "everything was done", True),
        ("a64patch.patch.transaction.apply_plan", True, 0, "everything was done", True),
        ("a64patch.cli.patching.print_result", False, 0, "everything was done", True),
    ],
)
def test_ctrl_c_says_what_it_left(
    run: Run, patch: Path, program: Path, monkeypatch: pytest.MonkeyPatch, where: str, after: bool, status: int,
    says: str, done: bool,
) -> None:  # fmt: skip
    old = program.read_bytes()
    interrupting(where, monkeypatch, after=after)
    ran = run("apply", patch, program, "--journal", program.parent / "journal")
    assert (ran.status, one_sentence(ran.err)) == (status, True)
    assert says in ran.err
    assert (program.read_bytes() != old) == done


def test_ctrl_c_while_commands_are_loaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupting("a64patch.cli.main._command_parser", monkeypatch)
    ran = run("log")
    assert (ran.status, ran.err) == (130, "a64patch: interrupted\n")


def test_a_byte_order_mark_is_no_part_of_the_patch(run: Run, patch: Path, program: Path) -> None:
    canonical = run("fmt", patch).out
    patch.write_text("@@" + canonical.split("@@", 1)[1], "utf-8-sig")
    assert run("status", patch, program).out.split() == ["pair", "not", "applied"]


def test_rejects_are_not_written_beside_a_device(run: Run, patch: Path, program: Path) -> None:
    patch.write_text(patch.read_text().replace("-11000400  add   w0, w0, #1", "-d503201f  nop"))
    pipe = patch.with_name("pipe")
    os.mkfifo(pipe)
    with subprocess.Popen(["cp", patch, pipe]):
        assert run("apply", pipe, program).status == 1
    assert not pipe.with_name("pipe.rej").exists()
    assert run("apply", patch, program).status == 1
    assert patch.with_name("fix.patch.rej").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("apply", "PATCH", "PROGRAM", "--profile", "1999"), 2, "there is no profile '1999'"),
        (("revert", str(1 << 70)), 1, f"has no entry {1 << 70}"),
        (("show", "PROGRAM", "pair+0xfffffffffffffffc"), 2, "pair+0xfffffffffffffffc lies beyond the last address"),
        (("show", "PROGRAM", ".text:0x10"), 2, "no symbol '0x10' in .text; an address needs none"),
    ],
)
def test_values_out_of_range(
    run: Run, patch: Path, program: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    old = program.read_bytes()
    named = {"PATCH": patch, "PROGRAM": program}
    ran = run(*(named.get(argument, argument) for argument in arguments))
    assert (ran.status, one_sentence(ran.err)) == (status, True)
    assert says in ran.err
    assert program.read_bytes() == old


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A program with a key that is off, simulated. Until there is a command for keys, each plan has the key's data."""
    source = """
        .globl _start, counter, owner
        .type _start, %function
    _start: nop
        b _start
        .size _start, . - _start
        .data
    counter: .word 0
    owner: .word 0
    """
    path = link(assemble(source, tmp_path / "key.o"), tmp_path / "key")
    (tmp_path / "key.patch").write_text("Enable it.\n\n@@ _start -1 +1 @@\n-d503201f  nop\n+14000001  b _start+4\n")
    make = plan.make_plan

    def with_data(diff: AsmDiff, target: Target, **options: Any) -> plan.Plan:
        counter, owner = (target.symbols.resolve(name) for name in ("counter", "owner"))
        return make(diff, target, **options, data=[Change(counter, 0, 1)], guards=[(owner, 0)])

    monkeypatch.setattr(plan, "make_plan", with_data)
    return f"sim:{path}?cpus=2"


def test_data_that_changes_with_code_is_shown_as_data(run: Run, key: str, tmp_path: Path) -> None:
    dry = run("apply", tmp_path / "key.patch", key, "--dry-run")
    assert dry.status == 0
    assert "Method stop: data changes with the code, so all CPUs wait meanwhile.\n" in dry.out
    assert "Data at counter: 00000000 becomes 00000001, in the same stop.\n" in dry.out
    assert "Data at owner must be 00000000 in this stop, or nothing is changed.\n" in dry.out
    done = run("apply", tmp_path / "key.patch", key)
    assert done.status == 0
    assert done.out.startswith("applied: 1 hunk: 2 words written, 1 of them data; stop: data changes with the code, ")
    weaker = run("apply", tmp_path / "key.patch", key, "--sync", "kick")
    assert (weaker.status, one_sentence(weaker.err)) == (1, True)
    assert "--sync kick is not safe here: data changes with the code" in weaker.err


def test_data_that_changes_with_code_is_in_json(run: Run, key: str, tmp_path: Path) -> None:
    dry = document("apply", run("apply", tmp_path / "key.patch", key, "--dry-run", "--json"))
    [change], [guard] = dry["data_changes"], dry["guards"]
    assert (change["site"], change["old"], change["new"], guard["word"]) == (
        "counter",
        "00000000",
        "00000001",
        "00000000",
    )
    assert int(guard["address"], 16) == int(change["address"], 16) + 4
    assert [each["new"] for each in dry["changes"]] == ["14000001"]
    done = document("apply", run("apply", tmp_path / "key.patch", key, "--json"))
    assert (done["words"], done["method"], done["data_changes"]) == (2, "stop", [change])


def test_prove_answers_for_the_code_beside_data(run: Run, key: str, tmp_path: Path) -> None:
    """No verdict is about the data, which no CPU executes."""
    found = document("apply", run("apply", tmp_path / "key.patch", key, "--dry-run", "--prove", "--json"))
    [proof] = found["proofs"]
    assert (proof["protocol"], proof["places"]) == ("stop", ["_start"])
    assert proof["replacements"] == [{"old_words": ["d503201f"], "new_words": ["14000001"]}]


def test_log_shows_data_as_data(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    code, data = [Change(0x1000, gen_nop(), 0x14000001)], [Change(0x8000, 0, 1)]
    with Journal(path) as journal:
        journal.begin(Identity("/key"), code, "Enable it.\n", method="stop", data=data, guards=[(0x8004, 0)])
    listed, shown = (run("log", *number, "--journal", path).out for number in ((), ("1",)))
    assert " 2 words " in listed
    assert "data at" not in listed
    assert shown.endswith(
        "      data at 0x8000: 00000000 becomes 00000001\n"
        "      data at 0x8004 must be 00000000 meanwhile\n\nEnable it.\n"
    )
    [entry] = document("log", run("log", "1", "--journal", path, "--json"))
    assert (entry["words"], len(entry["changes"])) == (2, 1)
    assert entry["data_changes"] == [{"address": "0x8000", "old": "00000000", "new": "00000001"}]
    assert entry["guards"] == [{"address": "0x8004", "word": "00000000"}]
    [entry] = document("log", run("log", "--journal", path, "--json"))
    assert not {"changes", "data_changes", "guards"} & entry.keys()

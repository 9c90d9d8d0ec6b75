"""Callers that rely on registers which a function leaves alone. gcc's callers, and every way in assembly."""

from __future__ import annotations

from pathlib import Path

import pytest

from a64patch.errors import LinkError
from a64patch.linking.link import CALLER_REGISTERS, link
from a64patch.targets.elf import ElfFile
from tests.linking.test_link import function
from tests.support import assemble, need, run
from tests.support import link as gnu_ld

NEW = function("leaf", "mov w9, #1", "fmov d20, #1.0", "add w0, w0, w9", "ret")


def told(folder: Path, target: str, fix: str = NEW) -> tuple[str, ...]:
    """What is told of the callers in a target."""
    path = gnu_ld(assemble(function("_start", "ret") + target, folder / "target.o"), folder / "target")
    unit = assemble(fix, folder / "fix.o")
    with ElfFile(path) as opened:
        every = link(unit, opened, accept=[CALLER_REGISTERS]).notes
        notes = [note.removeprefix("behind its call of ") for note in every if note.startswith("behind")]
        if notes:
            with pytest.raises(
                LinkError, match=r"gcc -fipa-ra\): replace the caller too, .* --accept caller-registers"
            ):
                link(unit, opened)
        else:
            link(unit, opened)
    return tuple(notes)


OLD = function("leaf", "mov w0, #1", "ret")


@pytest.mark.parametrize(
    ("old", "behind", "reads"),
    [
        (OLD, "mov x1, x9", "x9 (caller+0x4)"),
        (OLD, "nop; str q20, [sp]", "v20 (caller+0x8)"),
        (OLD, "cbz x0, 1f; mov x9, #0; 1: mov x1, x9", "x9 (caller+0xc)"),
        (OLD, "b 1f; ret; 1: mov x1, x9", "x9 (caller+0xc)"),
        (OLD, "mov x9, #1; mov x1, x9", ""),
        (OLD, "mov x0, #1", ""),
        (OLD, "mov x1, x10", ""),
        (OLD, "bl other", ""),
        (OLD, "bl third", ""),
        (OLD, "bl other; mov x1, x9", ""),
        (OLD, "blr x9", "x9 (caller+0x4)"),
        (OLD, "ret; mov x1, x9", ""),
        (function("leaf", "mov w9, #1", "ret"), "mov x1, x9", ""),
        (function("leaf", "b other"), "mov x1, x9", "x9 (caller+0x4)"),
        (function("leaf", "b third"), "mov x1, x9", ""),
        (function("leaf", "bl other", "ret"), "mov x1, x9", "x9 (caller+0x4)"),
        (function("leaf", "blr x1", "ret"), "mov x1, x9", ""),
        (function("leaf", "ret"), "mov x1, x0", "x0 (caller+0x4)"),
        (function("leaf", "ret"), "bl takes", "x0 (takes)"),
        (function("leaf", "ret"), "mov x2, x0; mov x1, x9", "x9 (caller+0x8)"),
    ],
)  # fmt: skip
def test_what_is_read_behind_a_call(old: str, behind: str, reads: str, tmp_path: Path) -> None:
    others = (
        function("other", "mov w0, #2", "ret")
        + function("third", "mov x9, x9", "ret")
        + function("takes", "mov w5, w0", "ret")
    )
    found = told(tmp_path, old + others + function("caller", "bl leaf", *behind.split("; "), "ret"))
    assert found == ((f"leaf, caller reads {reads}, which leaf leaves alone and leaf changes",) if reads else ())


def test_a_branch_is_no_call(tmp_path: Path) -> None:
    assert told(tmp_path, OLD + function("caller", "b leaf", "mov x1, x9", "ret")) == ()


def test_what_the_new_function_calls_counts(tmp_path: Path) -> None:
    target = OLD + function("other", "ret") + function("caller", "bl leaf", "mov x1, x12", "ret")
    assert told(tmp_path, target) == ()
    for fix in (function("leaf", "b other"), function("leaf", "blr x3", "ret")):
        [note] = told(tmp_path, target, fix)
        assert "reads x12" in note
    own = function("leaf", "b own") + ".local own\n" + function("own", "ret").replace(".globl own\n", "")
    assert told(tmp_path, target, own) == ()


def test_a_caller_that_is_replaced_too_does_not_count(tmp_path: Path) -> None:
    target = OLD + function("caller", "bl leaf", "mov x1, x9", "ret")
    assert len(told(tmp_path, target)) == 1
    assert told(tmp_path, target, NEW + function("caller", "bl leaf", "ret")) == ()


def test_gcc_relies_on_registers_and_not_with_noipa(tmp_path: Path) -> None:
    source = """
        int state;
        __attribute__((ATTRIBUTE)) void leaf(void) { state = 1; }
        __attribute__((noipa)) int use(int a, int b) { return a - b; }
        __attribute__((noipa)) int caller(int a, int b) { leaf(); return use(b, a); }
        int main(void) { return caller(1, 2); }
    """
    fix = "extern int state; void leaf(void) { for (int i = 0; i < 9; i++) state += i * state; }"
    gcc = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    run(gcc, "-O2", "-xc", "-", "-c", "-o", tmp_path / "fix.o", stdin=fix)
    for attribute, relies in (("noinline", True), ("noipa", False)):
        path = tmp_path / attribute
        run(gcc, "-O2", "-xc", "-", "-o", path, stdin=source.replace("ATTRIBUTE", attribute))
        with ElfFile(path) as target:
            notes = link(tmp_path / "fix.o", target, accept=[CALLER_REGISTERS]).notes
        assert ("behind its call of leaf, caller" in "".join(notes)) == relies

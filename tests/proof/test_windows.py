"""Windows of a program: any word may stand there, and only what it does to the PC counts."""

from __future__ import annotations

import pytest

from a64patch.a64.assembler import assemble
from a64patch.proof.program import Program, Thread
from a64patch.proof.semantics import flow
from a64patch.proof.traces import behaviours

START = 0x4000
UNKNOWN = 0x00FF00FF
"""No instruction of the table."""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nop", "nop"), ("ldr x0, [x1]", "nop"), ("fmla v0.4s, v1.4s, v2.4s", "nop"), ("bl .+64", "nop"),
        ("blr x3", "nop"), ("svc #0", "nop"), ("hvc #0", "nop"), ("isb", "nop"), ("b .+8", "jump"),
        ("b.eq .+8", "either"), ("cbz x0, .+8", "either"), ("tbnz x0, #3, .-4", "either"), ("ret", "leave"),
        ("br x3", "leave"), ("eret", "leave"), ("udf #0", "leave"), ("brk #4", "exception"),
    ],
)  # fmt: skip
def test_the_flow_of_a_word(text: str, kind: str) -> None:
    assert flow(assemble(text)[0]).kind == kind


def test_no_word_is_refused() -> None:
    assert flow(UNKNOWN).kind == "leave"


def paths(text: str, *, falls_through: bool = False, visits: int = 3) -> set[tuple[str, str]]:
    """Of a thread that runs through the window: the words that it met, by number, and how it ended."""
    words = assemble(text, START)
    window = range(START, START + 4 * len(words))
    code = dict(zip(window[::4], words, strict=True)) | {window.stop: assemble("nop")[0]}
    program = Program((Thread(START),), code, windows=(window,), falls_through=falls_through, visits=visits)
    return {
        ("".join(str((address - START) // 4) for address, _ in trace.path), trace.end)
        for trace in behaviours(program).traces[0]
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ldr x0, [x1]; str x0, [x2]", {("012", "done")}),
        ("bl .+0x100; nop", {("012", "done")}),
        ("b .+8; nop; nop", {("023", "done")}),
        ("b .+0x100; nop", {("0", "left")}),
        ("cbz x0, .+8; nop; nop", {("0123", "done"), ("023", "done")}),
        ("cbz x0, .+0x100; nop", {("012", "done"), ("0", "left")}),
        ("b.eq .+8; nop", {("012", "done"), ("0", "left")}),
        ("ret; nop", {("0", "left")}),
        ("brk #4; nop", {("0", "brk")}),
    ],
)
def test_a_window_is_passed_in_every_way_that_its_words_allow(text: str, found: set[tuple[str, str]]) -> None:
    assert paths(text) == found


def test_a_loop_in_a_window_is_bounded() -> None:
    assert paths("nop; b.eq .-4", visits=2) == {("012", "done"), ("01012", "done")}


def test_falling_through_leaves_out_no_word_but_behind_a_brk() -> None:
    assert paths("ret; b .+0x100; b .-4", falls_through=True) == {("0123", "done")}
    assert paths("brk #4; nop", falls_through=True) == {("0", "brk")}

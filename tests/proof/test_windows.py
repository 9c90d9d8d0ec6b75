"""Windows of a program: any word may stand there, and only what it does to the PC counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        ("b.eq .+8", "either"), ("cbz x0, .+8", "either"), ("tbnz x0, #3, .-4", "either"), ("ret", "anywhere"),
        ("br x3", "anywhere"), ("eret", "anywhere"), ("udf #0", "anywhere"), ("brk #4", "anywhere"),
        ("hlt #1", "anywhere"), ("braaz x3", "anywhere"), ("retaa", "anywhere"),
    ],
)  # fmt: skip
def test_the_flow_of_a_word(text: str, kind: str) -> None:
    assert flow(assemble(text)[0]).kind == kind


def test_no_word_is_refused() -> None:
    assert flow(UNKNOWN).kind == "anywhere"


def paths(
    text: str,
    *,
    entries: Sequence[int] = (),
    outside: int = -1,
    guards: Mapping[int, int] | None = None,
    **options: int,
) -> set[tuple[str, str]]:
    """Of a thread that runs through the window: the words that it met, by number, and how it ended."""
    words = assemble(text, START)
    window = range(START, START + 4 * len(words))
    code = dict(zip(window[::4], words, strict=True)) | {window.stop: assemble("nop")[0]}
    program = Program(
        (Thread(START),), code, windows=(window,), entries=tuple(START + 4 * number for number in entries),
        outside=START + 4 * outside if outside >= 0 else -1,
        guards={START + 4 * number: word for number, word in (guards or {}).items()}, **options,  # type: ignore[arg-type]
    )  # fmt: skip
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
        # What is not known may do all three: fall through, leave, go to any word that is modified.
        ("ret; nop", {("0", "left"), ("012", "done")}),
        ("brk #4; nop", {("0", "left"), ("012", "done")}),
    ],
)
def test_a_window_is_passed_in_every_way_that_its_words_allow(text: str, found: set[tuple[str, str]]) -> None:
    assert paths(text) == found


def test_a_loop_in_a_window_is_bounded() -> None:
    assert paths("nop; b.eq .-4", visits=2) == {("012", "done"), ("01012", "done")}


@pytest.mark.parametrize("word", ["ret", "br x3", "hlt #1", "udf #0", "brk #1", "eret", "00ff00ff", "04a0e3e0"])
def test_a_word_that_is_not_known_goes_to_every_modified_word(word: str) -> None:
    text = f"nop; {word}; nop; nop" if not word.startswith("0") else f"nop; .inst 0x{word}; nop; nop"
    found = paths(text, entries=(0, 3), visits=2)
    assert {path for path, _ in found if len(path) < 4} == {"01", "013", "010"} & {path for path, _ in found} | {"01"}
    assert {("01", "left"), ("01234", "done"), ("0134", "done"), ("010134", "done")} <= found


def test_a_thread_comes_back_from_outside() -> None:
    assert paths("b .+0x100; nop", outside=2, returns=0, entries=(1,)) == {("0", "left")}
    assert paths("b .+0x100; nop", outside=2, returns=1, entries=(1,)) == {("0", "left"), ("021", "left")}
    assert paths("nop; nop", outside=2, returns=1, entries=(0, 1)) == {
        ("01", "left"),
        ("01201", "left"),
        ("0121", "left"),
    }


def test_a_simple_path_has_each_word_once() -> None:
    assert paths("nop; b.eq .-4; nop", simple=True) == {("0123", "done")}


def test_falling_through_leaves_out_no_word_but_behind_a_guard() -> None:
    assert paths("ret; b .+0x100; b .-4; brk #4", falls_through=True) == {("01234", "done")}
    assert paths("brk #4; nop", falls_through=True, guards={0: assemble("brk #4")[0]}) == {("0", "brk")}
    assert paths("brk #5; nop", falls_through=True, guards={0: assemble("brk #4")[0]}) == {("012", "done")}

"""The patch format: what is printed can be read again, what is wrong is refused with its place, garbage is cheap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from a64patch.a64.names import Site, parse_site, quoted
from a64patch.errors import PatchFormatError
from a64patch.patch.asmdiff import (
    MOST_BYTES,
    MOST_LINES,
    AsmDiff,
    Hunk,
    Line,
    Sign,
    decode,
    parse,
    reverse,
    to_text,
)

EXAMPLE = """\
Answer 0 for the idle time in /proc/uptime.

Target: Linux 6.1.0-56-arm64
# seen on two machines
Build-Id: 2f6a
Hunks: 2

# the only caller
@@ uptime_proc_show+0x74 -3 +3 @@
 2a1303e1  mov   w1, w19
-97ffffc3  bl    get_idle_time
# nobody reads it
+d2800000  mov   x0, #0
 11000662  add   w2, w19, #1

@@ other -3 +0 @@
-d503201f  nop
-????????  nop
-d503201f
"""
NOP = 0xD503201F


def hunk(*lines: str, site: str = "f") -> Hunk:
    return parse("\n".join([f"@@ {site} @@", *lines])).hunks[0]


def signs(lines: Sequence[Line]) -> str:
    return "".join(line.sign for line in lines)


def test_every_part_of_the_example() -> None:
    diff = parse(EXAMPLE)
    assert diff.description == ("Answer 0 for the idle time in /proc/uptime.",)
    assert diff.headers[1] == ("#", " seen on two machines")
    assert (diff.header("Target"), diff.build_id, diff.header("None")) == ("Linux 6.1.0-56-arm64", "2f6a", "")
    first, second = diff.hunks
    assert (first.site, first.comments, first.number) == ("uptime_proc_show+0x74", (" the only caller",), 9)
    assert first.lines[1] == Line("-", 0x97FFFFC3, "bl get_idle_time")
    assert first.lines[1].number == 11
    assert first.lines[2] == Line("#", None, " nobody reads it")
    assert (signs(first.old), signs(first.new), first.padding) == (" - ", " + ", [])
    assert second.lines[1:] == (Line("-", None, "nop"), Line("-", NOP))
    assert ([line.word for line in second.new], second.padding) == ([NOP] * 3, [0, 1, 2])
    assert to_text(diff) == EXAMPLE


def test_lines_are_tidied() -> None:
    untidy = "\n\nWhy\t not  \r\n\r\nbuild-id:   AB12\n@@\tf \t@@  \r\n-D503201F \t nop  \n+1F2003D5\tfmla  a,\tb\n\n\n"
    assert to_text(parse(untidy)) == (
        "Why  not\n\nBuild-Id: ab12\n\n@@ f -1 +1 @@\n-d503201f  nop\n+1f2003d5  fmla  a, b\n"
    )


def test_a_long_mnemonic_widens_its_hunk_alone() -> None:
    diff = parse("@@ a @@\n-d503201f  nop\n+38bf0000  ldaddab w31, [x0]\n@@ b @@\n+00000000  b x\n")
    text = to_text(diff)
    assert "\n+38bf0000  ldaddab w31, [x0]\n" in text
    assert "\n+00000000  b     x\n" in text
    assert to_text(parse(f"@@ a @@\n+00000000  {'m' * 90} a\n+00000000  b x\n")).endswith("+00000000  b     x\n")


@pytest.mark.parametrize(
    ("text", "comments"),
    [
        ("# a\n\n# b\n\n@@ f @@\n-00000000\n", [(" a", " b"), ()]),
        ("Prose\n# no comment of the hunk\n@@ f @@\n-00000000\n", [(), ()]),
        ("@@ f @@\n-00000000\n# inside\n\n# behind\n", [(), (" behind",)]),
    ],
)
def test_where_comments_belong(text: str, comments: list[tuple[str, ...]]) -> None:
    diff = parse(text)
    assert [diff.hunks[0].comments, diff.comments] == comments


def test_comments_between_instructions_stay_in_the_hunk() -> None:
    diff = parse("@@ f @@\n-00000000\n\n# inside\n\n 00000001\n\n# next\n@@ g @@\n-00000000\n")
    assert (signs(diff.hunks[0].lines), diff.hunks[1].comments) == ("-# ", (" next",))


def test_each_run_is_padded_at_its_end() -> None:
    padded = hunk("-00000001", "-00000002", "+00000003", " 00000004", "-00000005", "+00000006", "-00000007")
    assert [line.word for line in padded.new] == [3, NOP, 4, 6, NOP]
    assert padded.padding == [1, 4]


def test_counts_that_are_missing_are_added_except_where_they_would_vouch_for_nops() -> None:
    diff = parse("@@ f @@\n-00000001\n-00000002\n+00000003\n\n@@ g @@\n 00000001\n-00000002\n+00000003\n# end")
    assert [hunk.counted for hunk in diff.hunks] == [False, False]
    first, second = "@@ f @@\n-00000001\n-00000002\n+00000003\n", "@@ g -2 +2 @@\n 00000001\n-00000002\n+00000003\n"
    text = f"Hunks: 2\n\n{first}\n{second}# end\n"
    assert to_text(diff) == text
    assert [hunk.counted for hunk in parse(text).hunks] == [False, True]
    assert to_text(AsmDiff((replace(diff.hunks[0], counted=True),))).startswith("@@ f -2 +1 @@\n")


def test_reversing_writes_nops_out_and_counts_them() -> None:
    text = to_text(reverse(parse("@@ f @@\n-00000001\n-00000002\n+00000003\n")))
    assert text == "@@ f -2 +2 @@\n-00000003\n-d503201f  nop\n+00000001\n+00000002\n"


def test_the_number_of_hunks_is_no_part_of_the_headers() -> None:
    text = "# a\nhunks: 1\n\n@@ f -1 +1 @@\n-00000001\n+00000002\n"
    assert (parse(text).headers, parse(text).hunks[0].comments) == ((), (" a",))
    assert to_text(parse(text)) == text.replace("hunks: 1\n\n", "")


def test_more_new_than_old_is_refused_where_the_room_ends() -> None:
    made = Hunk("f", (Line("+", 0),))
    with pytest.raises(PatchFormatError, match="that is a detour, so write `@@ detour f @@`"):
        reverse(AsmDiff((made,)))


@pytest.mark.parametrize(
    "lines",
    [
        ["+00000000"],
        ["-00000000  nop", "-00000000", "+00000001", "+00000002", "+00000003"],
        ["-00000000", "-00000001", " 00000002", "-00000004", "+00000003", "+00000004"],
    ],
)
def test_more_new_than_old_in_one_run_makes_a_detour(lines: list[str]) -> None:
    made = hunk(*lines)
    assert made.kind == "detour"
    assert [line.word for line in made.new] == [int(line[1:9], 16) for line in lines if line[0] != "-"]


DETOUR = """\
@@ annex "a b" align 16 -0 +3 @@
+.Lstart:
+d2800020  mov   x0, #1
+????????  b     .Lstart
+00000000

@@ detour f+0x4 -2 +4 @@
 d503201f  nop
-00000001
# why
+.Lagain:
+00000003
+????????  bl    annex:"a b"
+????????  b     .Lagain
"""


def test_detours_and_annexes_are_printed_as_they_are_read() -> None:
    made = parse(DETOUR)
    assert to_text(made) == f"Hunks: 2\n\n{DETOUR}"
    assert [(each.kind, each.alignment) for each in made.hunks] == [("annex", 16), ("detour", 4)]
    assert made.needs_room
    backwards = to_text(reverse(made))
    assert '@@ end-annex "a b" align 16 -3 +0 @@\n-.Lstart:\n-d2800020  mov' in backwards
    assert "@@ end-detour f+0x4 -4 +2 @@" in backwards
    assert parse(backwards) == reverse(made)
    assert reverse(reverse(made)) == made


def test_keywords_are_names_too() -> None:
    for name in ("detour", "annex", "end-annex", "align"):
        for text in (f"@@ {name} @@", f"@@ {name} -1 +1 @@"):
            made = parse(f"{text}\n-00000000\n+00000001\n").hunks[0]
            assert (made.site, made.kind) == (name, "")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("@@ annex f+8 @@\n+00000000\n", "line 1: f\\+8 is no name for an annex"),
        ("@@ annex 0x10 @@\n+00000000\n", "no name for an annex"),
        ("@@ annex f @@\n-00000000\n", "begins with `\\+`"),
        ("@@ annex f @@\n+00000000\n@@ annex f @@\n+00000000\n", "line 3: two hunks are the annex f"),
        ("@@ annex f align 3 @@\n+00000000\n", "3 is no alignment"),
        ("@@ annex f align 8192 @@\n+00000000\n", "8192 is no alignment"),
        ("@@ f align 8 @@\n-00000000\n+00000001\n", "only an annex has an alignment"),
        ("@@ f @@\n-00000000\n+.Lx:\n+00000001\n", "line 3: the label .Lx names no new code"),
        ("@@ annex f @@\n+.Lx:\n+00000000\n+.Lx:\n+00000000\n", "line 4: the label .Lx occurs twice"),
        ("@@ annex f @@\n+00000000\n+.Lx:\n# why\n", "line 3: no instruction of the hunk follows the label .Lx"),
        ("@@ annex f @@\n+.Lx:\n", "changes nothing"),
        ("@@ annex f @@\n+00000000\n@@ end-annex g @@\n-00000000\n", "make two patches"),
    ],
)
def test_detours_and_annexes_that_are_refused(text: str, error: str) -> None:
    with pytest.raises(PatchFormatError, match=error):
        parse(text)


@pytest.mark.parametrize(
    ("lines", "reversed_lines"),
    [
        (["-1", "+2"], ["-2", "+1"]),
        (["-1", "-3", "+2"], ["-2", "-nop", "+1", "+3"]),
        ([" 9", "#a", "-1", "#b", "+2", "#c"], [" 9", "#b", "-2", "#a", "+1", "#c"]),
        (["-1", " 9", "-3", "+4"], ["-nop", "+1", " 9", "-4", "+3"]),
    ],
)
def test_reverse(lines: list[str], reversed_lines: list[str]) -> None:
    def made(texts: list[str]) -> tuple[Line, ...]:
        made = []
        for text in texts:
            sign: Sign = text[0]  # type: ignore[assignment]
            is_nop = text[1:] == "nop"
            word = None if sign == "#" else NOP if is_nop else int(text[1:])
            made.append(Line(sign, word, text[1:] if sign == "#" or is_nop else ""))
        return tuple(made)

    assert reverse(AsmDiff((Hunk("f", made(lines)),))).hunks[0].lines == made(reversed_lines)


@pytest.mark.parametrize(
    ("text", "line", "column", "why"),
    [
        ("", 0, 0, "no hunk"),
        ("Prose only\n", 0, 0, "no hunk"),
        ("@@ f\n", 1, 1, "begins with `@@ SITE @@`"),
        ("@@ a b @@\n-00000000\n", 1, 1, "a name with blanks is in quotes"),
        ("@@ f -1 @@\n-00000000\n", 1, 1, "begins with `@@ SITE @@` or `@@ SITE -1 .1 @@`"),
        ("@@ -1 +0 @@\n-00000000\n", 1, 1, "begins with"),
        ("@@ f -12345678 +1 @@\n-00000000\n", 1, 1, "begins with"),
        ("@@ f -2 +2 @@\n-00000000\n+00000000\n", 1, 0, "at f counts -2 .2, but has 1 old and 1 new instructions: the"),
        ("@@ f -1 +1 @@\n-00000000\n+00000000\n 00000000\n", 1, 0, "has 2 old and 2 new .* may have been cut off"),
        ("@@ f -1 +1 @@\n", 1, 0, "has 0 old and 0 new instructions"),
        ("@@ f -1 +1 @@\n-00000000\n@@ g\n", 1, 0, "the hunk at f counts -1 .1, but has 1 old and 0 new"),
        ("@@ f -1 +1 @@\n 00000000\n", 1, 0, "the hunk at f changes nothing"),
        ("@@ f -1 +0 @@\n-00000000", 2, 0, "the last line has no end: the patch may have been cut off"),
        ("Hunks: 1\n\n@@ f @@\n-00000000\n# b", 5, 0, "the last line has no end"),
        ("Hunks: 2\n\n@@ f @@\n-00000000\n", 1, 0, "number of hunks is 1, not 2: the patch may have been cut off"),
        ("Why\n\nA: b\nhunks: 1\n\n@@ f @@\n-00000000\n@@ g @@\n-00000000\n", 4, 0, "hunks is 2, not 1"),
        ("Hunks: two\n\n@@ f @@\n-00000000\n", 1, 0, "'two' is no number of hunks"),
        ("Hunks: 0\n\n@@ f @@\n-00000000\n", 1, 0, "'0' is no number of hunks"),
        ("Hunks: 1\nHunks: 1\n\n@@ f @@\n-00000000\n", 2, 0, "stands twice"),
        ("Hunks: 1\n\nProse\n\n@@ f @@\n-00000000\n", 1, 0, "stands in the prose"),
        ("@@ f @@\n", 1, 0, "changes nothing"),
        ("@@ f @@\n-00000000\n@@ g @@\n 00000000\n", 3, 0, "the hunk at g changes nothing"),
        ("@@ f @@\n-00000000\n*0000\n", 3, 1, "begins with a blank"),
        ("@@ f @@\n-0000000\n", 2, 2, "eight hex digits"),
        ("@@ f @@\n-0000000g  nop\n", 2, 2, "eight hex digits"),
        ("@@ f @@\n-000000000\n", 2, 2, "eight hex digits"),
        ("@@ f @@\n-???????\n", 2, 2, "eight hex digits"),
        ("@@ f @@\n+nop\n", 2, 2, "eight hex digits"),
        ("@@ f @@\n+00000000  " + "x" * 4397, 2, 12, "4397 characters"),
        ("@@ f @@\n+00000000  no\x1b[2J\n", 2, 14, "is not text"),
        ("@@ f @@\n+00000000  a\rb\n", 2, 13, "is not text"),
        ("Prose\n\x07\n@@ f @@\n-00000000\n", 2, 1, "is not text"),
        ("Why\n\nTarget: a\nTarget: b\n\n@@ f @@\n-00000000\n", 4, 0, "stands twice"),
        ("Build-Id: xyz\n@@ f @@\n-00000000\n", 1, 0, "no build id"),
        ("Build-Id: abc\n@@ f @@\n-00000000\n", 1, 0, "no build id"),
        ("Build-Id: ab\nand more\n\n@@ f @@\n-00000000\n", 1, 0, "stands in the prose"),
        ("Target: x\n\nProse\n\n@@ f @@\n-00000000\n", 1, 0, "stands in the prose"),
        (f"@@ {'f' * 5000} @@\n-00000000\n", 1, 4, "a site of 5000 characters"),
        ("@@ f @@\n-00000000\n-00000000\n\n@@ f+4 @@\n-00000000\n", 5, 0, "f and f.4 overlap"),
        ("@@ f+0x8 @@\n-00000000\n@@ f+4 @@\n-00000000\n 00000000\n", 3, 0, "overlap"),
        ("@@ 0x1000 @@\n-00000000\n@@ 4096 @@\n-00000000\n", 3, 0, "overlap"),
        ("@@ f @@\n-00000000\n@@ f @@\n-00000000\n", 3, 0, "overlap"),
    ],
)
def test_errors_say_where(text: str, line: int, column: int, why: str) -> None:
    with pytest.raises(PatchFormatError, match=why) as error:
        parse(text)
    assert (error.value.line, error.value.column) == (line, column)
    place = f"line {line}, column {column}: " if column else f"line {line}: " if line else ""
    assert str(error.value).startswith(place)
    assert len(str(error.value)) < 300


def test_neighbours_do_not_overlap() -> None:
    assert len(parse("@@ f @@\n-00000000\n@@ f+4 @@\n-00000000\n@@ g @@\n-00000000\n").hunks) == 3


@pytest.mark.parametrize(
    ("data", "line", "column"), [(b"\xff", 1, 1), (b"a\nb\xc3(\n", 2, 2), ("é\n\né".encode() + b"\x80", 3, 3)]
)
def test_bytes_that_are_no_text(data: bytes, line: int, column: int) -> None:
    with pytest.raises(PatchFormatError, match="is not UTF-8") as error:
        decode(data)
    assert (error.value.line, error.value.column) == (line, column)


# What hypothesis makes: everything that a patch can be, in the form that is printed.

PRINTABLE = st.characters(min_codepoint=32, exclude_categories=("C", "Z"))
WORDS = st.text(PRINTABLE, min_size=1, max_size=8)
PROSE = st.lists(WORDS, max_size=5).map(" ".join)
COMMENTS = PROSE.map(lambda text: f" {text}".rstrip())


def free_of_structure(line: str) -> bool:
    return not line.startswith(("@@", "#")) and ":" not in line


@st.composite
def hunks(draw: st.DrawFn) -> Hunk:
    word = st.none() | st.integers(0, 0xFFFFFFFF)
    kinds: list[Sign] = [" ", "-", "+"]
    lines = draw(
        st.lists(
            st.builds(Line, st.sampled_from(kinds), word, PROSE) | st.builds(Line, st.just("#"), st.none(), COMMENTS),
            max_size=8,
        )
    )
    lines.insert(draw(st.integers(0, len(lines))), Line(draw(st.sampled_from(kinds[1:])), draw(word), draw(PROSE)))
    name = quoted(draw(st.text(PRINTABLE | st.just(" "), min_size=1, max_size=6)))
    site = f"{name}{draw(st.sampled_from(['', '+0x18', '+64', ':0x4']))}"
    comments = tuple(draw(st.lists(COMMENTS, max_size=2)))
    runs = ([line.sign for line in run] for _, run in groupby(lines, key=lambda line: line.sign == " "))
    if draw(st.booleans()) and not name.isdigit():
        lines = [line if line.sign == "#" else replace(line, sign="+") for line in lines]
        lines.insert(0, Line("+", label=f".L{name.encode().hex()}"))
        return Hunk(name, tuple(lines), comments, kind="annex", alignment=draw(st.sampled_from([4, 8, 4096])))
    has_more = any(run.count("+") > run.count("-") for run in runs)
    return Hunk(site, tuple(lines), comments, kind="detour" if has_more else "")


HEADERS = st.tuples(st.sampled_from(["Author", "X-Note"]), PROSE.filter(bool)) | st.tuples(st.just("#"), COMMENTS)


@st.composite
def diffs(draw: st.DrawFn) -> AsmDiff:
    headers = draw(st.permutations([
        *draw(st.lists(HEADERS, max_size=2)),
        *draw(st.lists(st.tuples(st.just("Build-Id"), st.binary(min_size=1, max_size=20).map(bytes.hex)), max_size=1)),
        *draw(st.lists(st.tuples(st.just("Target"), PROSE.filter(bool)), max_size=1)),
    ]))  # fmt: skip
    if all(name == "#" for name, _ in headers):
        headers = []
    description = draw(st.lists(PROSE.filter(free_of_structure), max_size=4))
    while description and not description[0]:
        description.pop(0)
    while description and not description[-1]:
        description.pop()
    made = draw(
        st.lists(hunks(), min_size=1, max_size=3, unique_by=lambda hunk: (parse_site(hunk.site) or Site(""))[:2])
    )
    return AsmDiff(tuple(made), tuple(description), tuple(headers), tuple(draw(st.lists(COMMENTS, max_size=2))))


@given(diffs())
def test_what_is_printed_can_be_read_again(diff: AsmDiff) -> None:
    assert parse(to_text(diff)) == diff
    assert to_text(parse(to_text(diff))) == to_text(diff)


def reversible(diff: AsmDiff) -> AsmDiff:
    """The same with as many `+` as `-` in each run, the `-` first, and no comments behind their words."""

    def tidy(hunk: Hunk) -> tuple[Line, ...]:
        if hunk.kind == "annex":
            return hunk.lines
        tidied: list[Line] = []
        instructions = (line for line in hunk.lines if line.sign != "#")
        for is_context, run in groupby(instructions, key=lambda line: line.sign == " "):
            every = list(run)
            if not is_context:
                every = [replace(line, sign=sign) for sign in ("-", "+") for line in every]
            tidied += every
        return tuple(tidied)

    return diff._replace(hunks=tuple(replace(hunk, lines=tidy(hunk)) for hunk in diff.hunks))


@given(diffs().map(reversible))
def test_reversed_twice_is_itself(diff: AsmDiff) -> None:
    there = reverse(diff)
    assert reverse(there) == diff
    for hunk, back in zip(diff.hunks, there.hunks, strict=True):
        assert [(line.word, line.text) for line in hunk.old] == [(line.word, line.text) for line in back.new]
        assert [(line.word, line.text) for line in hunk.new] == [(line.word, line.text) for line in back.old]


# Texts that were cut off


def instructions(diff: AsmDiff) -> list[tuple[str, list[Line]]]:
    """The sites and all lines but comments."""
    return [(hunk.site, [line for line in hunk.lines if line.sign != "#"]) for hunk in diff.hunks]


def is_refused(cut: str, whole: AsmDiff) -> bool:
    """Whether a text that was cut off is refused; otherwise it must be the whole patch, comments aside."""
    try:
        diff = parse(cut)
    except PatchFormatError:
        return True
    assert instructions(diff) == instructions(whole)
    return False


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_with_counts_is_refused_wherever_it_is_cut(end: str) -> None:
    text = f"{EXAMPLE}# inside\n\n# behind\n".replace("\n", end)
    whole = parse(text)
    behind = text.index(f"-d503201f{end}#") + len(f"-d503201f{end}")
    taken = [cut for cut in range(len(text)) if not is_refused(text[:cut], whole)]
    assert taken[0] == behind
    assert text.index("# behind") in taken


@given(diffs(), st.sampled_from(["\n", "\r\n"]), st.data())
def test_no_cut_takes_an_instruction_away(diff: AsmDiff, end: str, data: st.DataObject) -> None:
    lines = to_text(diff).replace("\n", end).splitlines(keepends=True)
    text = "".join(lines)
    assert parse(text) == diff
    for count in range(len(lines)):
        is_refused("".join(lines[:count]), diff)
    is_refused(text[: data.draw(st.integers(0, len(text)))], diff)


def test_a_text_without_counts_is_read_as_it_is() -> None:
    diff = parse("@@ f @@\n-00000000\n+00000001\n\n@@ g @@\n-00000000\n+00000001")
    assert [(hunk.site, len(hunk.lines), hunk.counted) for hunk in diff.hunks] == [("f", 2, False), ("g", 2, False)]


# Garbage


@given(st.binary(max_size=200))
@example(b"@@ f @@\n-d503201f  nop\n")
def test_any_bytes_are_a_patch_or_a_format_error(data: bytes) -> None:
    try:
        diff = parse(decode(data))
    except PatchFormatError:
        return
    assert parse(to_text(diff)) == diff


PIECES = [
    "@@ f @@\n",
    "@@ g -1 +1 @@\n",
    "Hunks: 1\n",
    "@@",
    " @@\n",
    "-d503201f",
    "+????????",
    "  nop\n",
    "#",
    "\n",
    " ",
    "Target: x\n",
    "+",
    "\t",
    "é",
]


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_any_text_of_pieces_is_a_patch_or_a_format_error(text: str) -> None:
    try:
        diff = parse(text)
    except PatchFormatError:
        return
    assert parse(to_text(diff)) == diff


MIB = 1 << 20


@pytest.mark.parametrize(
    "garbage",
    [
        bytes(range(256)) * (40 << 10),
        b"\0" * (10 * MIB),
        b"x" * (10 * MIB),
        b"@" * (10 * MIB),
        b"@@ " + b"x" * (10 * MIB),
        b"@@ " * (3 * MIB),
        b"@@ f" + b" " * (5 * MIB) + b"-1" + b" " * (5 * MIB) + b"+1 @",
        b"@@ f" + b" -1 +1" * (2 * MIB),
        b"@@" + b" " * (10 * MIB),
        b"@@ f @@\n" * (MIB + MIB // 4),
        b"@@ f @@\n-00000000" + b" " * (10 * MIB) + b"\1",
        b"@@ f @@\n-00000000" + b" x" * (5 * MIB),
        b"@@ f @@\n-00000000 " + b"+0" * (5 * MIB),
        b"@@ " + b"+0" * (5 * MIB) + b" @@\n-00000000",
        b"\n" * (10 * MIB),
        b"#\n\n" * MIB + b"@@ f @@\nx",
        b"A: b\n" * MIB + b"@@ f @@\nx",
        b"@@ f @@\n" + b"#\n" * MIB + b"x",
    ],
    ids=lambda data: repr(data[:14]),
)
def test_ten_megabytes_of_garbage_are_refused(garbage: bytes) -> None:
    # A parser that is not linear would not come back from these.
    with pytest.raises(PatchFormatError) as error:
        parse(decode(garbage))
    assert len(str(error.value)) < 300


def test_a_gigabyte_of_one_hunk_is_refused_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "huge.patch"
    with path.open("wb") as file:
        file.write(b"@@ f @@\n-d503201f  nop\n")
        file.truncate(1 << 30)
    with path.open("rb") as file, pytest.raises(PatchFormatError, match="more than 64 MiB"):
        decode(file.read(MOST_BYTES + 1))


def test_limits() -> None:
    with pytest.raises(PatchFormatError, match="more than 64 MiB"):
        parse("x" * (MOST_BYTES + 1))
    with pytest.raises(PatchFormatError, match=f"{MOST_LINES} lines"):
        parse("\n" * (MOST_LINES + 1))


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        ("+.La:\n-91000421\n+91000821\n+d503201f\n", "-.La: -91000821 -d503201f +91000421 d503201f"),
        (
            "+91000821\n+.La:\n-91000421\n d503201f\n+91000821\n",
            "-91000821 +91000421 -.La: d503201f -91000821 d503201f",
        ),
    ],
)
def test_a_label_before_an_old_instruction_names_the_new_one_behind_it(lines: str, body: str) -> None:
    patch = parse(f"@@ detour f @@\n{lines} d503201f\n")
    ended = reverse(patch)
    assert [line.split("  ")[0].strip() for line in to_text(ended).splitlines()[1:]] == body.split()
    assert parse(to_text(ended)) == ended
    assert reverse(reverse(ended)) == ended

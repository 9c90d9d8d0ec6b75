"""The assembly diff: a patch as a text that people can read, mail, review, comment on, reverse and apply again.

Knows no target: plan.py finds out the addresses of sites and symbols.
Read on: docs/patch-format.md for the grammar, meaning.py for what a line means at a place, plan.py for a whole patch.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Literal, NamedTuple, cast

from a64patch.a64.generate import gen_nop
from a64patch.a64.words import INSN_SIZE
from a64patch.errors import PatchFormatError

MOST_BYTES = 64 << 20
"""The size of a patch."""
MOST_LINES = 1 << 20
"""Lines of a patch: enough for a quarter of a million hunks, which also fit in memory."""
UNKNOWN = "????????"
"""In place of a word that the writer of a patch does not know yet; `fill` of plan.py fills it in."""

TARGET, BUILD_ID = "Target", "Build-Id"
_KNOWN_HEADERS = {name.lower(): name for name in (TARGET, BUILD_ID)}
_LONGEST_TEXT = 300
_LONGEST_SITE = 4096
_MNEMONIC_WIDTHS = (5, 16)
"""The least and the greatest width of a hunk's column of mnemonics: one long mnemonic does not widen all lines."""

Sign = Literal[" ", "-", "+", "#"]

_HEADER = re.compile(r"([A-Z][A-Za-z0-9-]{0,40}|(?i:target|build-id)):[ \t]+(\S.*)", re.ASCII)
_HUNK = re.compile(r"@@[ \t]+(\S+)[ \t]+@@", re.ASCII)
_LINE = re.compile(r"([ +-])([0-9a-fA-F]{8}|\?{8})(?:[ \t]+(\S.*))?", re.ASCII)
_SITE = re.compile(r"(?:(.*?)\+)?(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a hunk: an instruction that stays (` `), is removed (`-`) or added (`+`), or a comment (`#`)."""

    sign: Sign
    word: int | None = None
    """The instruction; None while it is unknown, and in a comment."""
    text: str = ""
    """The instruction's text, with single blanks, or the comment behind `#`; empty when there is none."""
    number: int = field(default=0, compare=False)
    """Line number in the patch file, from 1; 0 for a line that was not read from a file."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """Consecutive words, of which some change. `site` is the first: symbol, symbol+0x18, section:0x10 or an address."""

    site: str
    lines: tuple[Line, ...]
    comments: tuple[str, ...] = ()
    """Comment lines before the hunk, without their `#`."""
    number: int = field(default=0, compare=False)

    @property
    def old(self) -> list[Line]:
        """The lines before the patch: context and `-`."""
        return [line for line in self.lines if line.sign in " -"]

    @property
    def new(self) -> list[Line]:
        """The lines after the patch: context, `+`, and a NOP for each `-` without a `+`.

        PatchFormatError where a run of changed lines has more `+` than `-`.
        """
        lines: list[Line] = []
        missing = 0
        last: Line | None = None
        for line in self.lines:
            if line.sign == "+":
                lines.append(line)
                missing -= 1
            elif line.sign == "-":
                missing += 1
            elif line.sign == " ":
                if missing:
                    lines += self._padding(missing, lines, last)
                    missing = 0
                lines.append(line)
            last = line
        if missing:
            lines += self._padding(missing, lines, last)
        return lines

    def _padding(self, missing: int, lines: Sequence[Line], last: Line | None) -> list[Line]:
        """`missing` NOPs, for `-` lines without a `+` line. PatchFormatError for a negative number: too many `+`."""
        if missing < 0:
            raise PatchFormatError(
                f"{-missing} new instructions more than there are old ones to replace at {self.site}, and detours are"
                " not built yet: take away as many with `-`",
                lines[missing].number,
            )
        return [Line("+", gen_nop(), "nop", last.number if last is not None else 0)] * missing

    @property
    def padding(self) -> int:
        """How many NOPs `new` adds; errors as `new`."""
        return len(self.new) - sum(line.sign in " +" for line in self.lines)


class AsmDiff(NamedTuple):
    """A whole patch. `description` and `comments` are lines without their ends."""

    hunks: tuple[Hunk, ...]
    description: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    """Names and values in their order. The name `#` means a comment between headers."""
    comments: tuple[str, ...] = ()
    """Comment lines behind the last hunk, without their `#`."""

    def header(self, name: str) -> str:
        """The value of a header; empty when there is no such header."""
        return next((value for found, value in self.headers if found == name), "")

    @property
    def build_id(self) -> str:
        """The build id of the words, in lower-case hex; empty when the patch has none."""
        return self.header(BUILD_ID)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Switch Python's cycle collector off: a patch has no cycles, and a large one would be searched again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@collector_paused()
def parse(text: str) -> AsmDiff:
    """Read a patch. Lines may end in LF or CRLF.

    PatchFormatError, with line and column, for a text that does not follow the grammar. Also for

    - a text without hunks, or with control characters;
    - a hunk that changes nothing;
    - two hunks whose sites alone show that they overlap;
    - a header that occurs twice, or a known header in the prose.
    """
    if len(text) > MOST_BYTES or text.count("\n") > MOST_LINES:
        raise PatchFormatError(f"the patch has more than {MOST_BYTES >> 20} MiB or {MOST_LINES} lines: split it")
    lines = text.split("\n")
    first = next((number for number, line in enumerate(lines) if line.startswith("@@")), None)
    if first is None:
        raise PatchFormatError("there is no hunk: a patch needs a line `@@ SITE @@` and instructions below it")
    description, headers, comments = _preamble([_clean(line, number) for number, line in enumerate(lines[:first], 1)])
    hunks, comments = _hunks(lines, first, comments)
    _require_apart(hunks)
    return AsmDiff(tuple(hunks), description, headers, tuple(comments))


def decode(data: bytes) -> str:
    """The text of a patch file, without a byte order mark; PatchFormatError when it is too long or not UTF-8."""
    if len(data) > MOST_BYTES:
        raise PatchFormatError(f"the patch has more than {MOST_BYTES >> 20} MiB: split it")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise PatchFormatError(f"byte {data[error.start]:#04x} is not UTF-8 text", line, column) from None


def to_text(diff: AsmDiff) -> str:
    """The canonical text of a patch, with the operands in a column. `parse` makes an equal patch of it."""
    paragraphs = []
    if diff.description:
        paragraphs.append("\n".join(diff.description))
    if diff.headers:
        paragraphs.append("\n".join(f"#{value}" if name == "#" else f"{name}: {value}" for name, value in diff.headers))
    paragraphs += ["\n".join(_hunk_lines(hunk)) for hunk in diff.hunks]
    if diff.comments:
        paragraphs.append("\n".join(f"#{comment}" for comment in diff.comments))
    return "\n\n".join(paragraphs) + "\n"


def reverse(diff: AsmDiff) -> AsmDiff:
    """The patch that undoes this one. It has `-` lines for the NOPs that `Hunk.new` adds.

    Reversing twice gives the same patch, if `Hunk.new` adds no NOPs and every run of changes has its `-` lines first.
    PatchFormatError as `Hunk.new`.
    """
    return diff._replace(hunks=tuple(_reversed(hunk) for hunk in diff.hunks))


def _clean(line: str, number: int) -> str:
    line = line.replace("\t", " ").rstrip("\r ")
    if not line.isprintable():
        column, character = next((place, one) for place, one in enumerate(line, 1) if not one.isprintable())
        raise PatchFormatError(f"character {character!r} is not text", number, column)
    return line


def _preamble(lines: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], list[str]]:
    """The description, the headers, and the comments of the first hunk."""
    start, end = _last_paragraph(lines, len(lines))
    comments: list[str] = []
    while start < end and all(line.startswith("#") for line in lines[start:end]):
        comments += [line[1:] for line in reversed(lines[start:end])]
        start, end = _last_paragraph(lines, start)
    comments.reverse()
    headers = _headers(lines[start:end], start)
    if not headers:
        start = end
    for number, line in enumerate(lines[:start], 1):
        name = line.partition(":")[0].lower()
        if name in _KNOWN_HEADERS and ":" in line:
            raise PatchFormatError(
                f"{_KNOWN_HEADERS[name]}: stands in the prose: give it a paragraph of its own before the first @@",
                number,
            )
    first = next((number for number, line in enumerate(lines) if line), start)
    last = _last_paragraph(lines, start)[1]
    return tuple(lines[first:last]), headers, comments


def _last_paragraph(lines: Sequence[str], end: int) -> tuple[int, int]:
    """The range [start, end) of the last paragraph before `end`."""
    while end and not lines[end - 1]:
        end -= 1
    start = end
    while start and lines[start - 1]:
        start -= 1
    return start, end


def _headers(paragraph: Sequence[str], before: int) -> tuple[tuple[str, str], ...]:
    """The headers that a paragraph holds; none when it is prose."""
    headers: list[tuple[str, str]] = []
    for number, line in enumerate(paragraph, before + 1):
        match = _HEADER.fullmatch(line)
        if line.startswith("#"):
            headers.append(("#", line[1:]))
        elif match is None:
            return ()
        else:
            name = _KNOWN_HEADERS.get(match[1].lower(), match[1])
            value = match[2]
            if name == BUILD_ID:
                value = value.lower()
                if not re.fullmatch(r"(?:[0-9a-f]{2}){1,64}", value):
                    raise PatchFormatError(f"{value[:40]!r} is no build id: an even number of hex digits", number)
            if name in _KNOWN_HEADERS.values() and any(name == found for found, _ in headers):
                raise PatchFormatError(f"{name}: stands twice", number)
            headers.append((name, value))
    return tuple(headers)


def _hunks(lines: Sequence[str], first: int, comments: list[str]) -> tuple[list[Hunk], list[str]]:
    """The hunks from line index `first` on, and the comments behind the last."""
    hunks: list[Hunk] = []
    site, begun, changes = "", 0, False
    body: list[Line] = []
    pending: list[Line] = []
    """Comments behind an empty line: they belong to this hunk if a line of it follows, else to the next hunk."""
    apart = False

    def close() -> None:
        if site:
            if not changes:
                raise PatchFormatError(f"the hunk at {site[:80]} changes nothing", begun)
            hunks.append(Hunk(site, tuple(body), tuple(comments), begun))

    for number, line in enumerate(lines[first:], first + 1):
        if not line.isprintable():
            line = _clean(line, number)
        match = _LINE.fullmatch(line)
        if match is not None:
            if apart:
                body += pending
                pending, apart = [], False
            body.append(_line(match, number))
            changes = changes or match[1] != " "
        elif not line.rstrip():
            apart = True
        elif line.startswith("@@"):
            header = _HUNK.fullmatch(line.rstrip())
            if header is None:
                raise PatchFormatError("a hunk begins with `@@ SITE @@`, and the site has no blanks", number, 1)
            close()
            if site:
                comments = [comment.text for comment in pending]
            site, begun, changes, body, pending, apart = header[1], number, False, [], [], False
            if len(site) > _LONGEST_SITE:
                raise PatchFormatError(f"a site of {len(site)} characters", number, header.start(1) + 1)
        elif line.startswith("#"):
            comment = Line("#", None, line[1:].rstrip(), number)
            (pending if apart else body).append(comment)
        else:
            raise _wrong_line(line, number)
    close()
    return hunks, [comment.text for comment in pending]


def _line(match: re.Match[str], number: int) -> Line:
    sign, word, text = match.groups("")
    if "  " in text or text.endswith(" "):
        text = " ".join(text.split())
    if len(text) > _LONGEST_TEXT:
        raise PatchFormatError(f"an instruction of {len(text)} characters", number, match.start(3) + 1)
    return Line(cast(Sign, sign), None if word == UNKNOWN else int(word, 16), text, number)


def _wrong_line(line: str, number: int) -> PatchFormatError:
    if line[0] not in " +-":
        return PatchFormatError(f"{line[:20]!r}: a line of a hunk begins with a blank, `-` or `+`", number, 1)
    return PatchFormatError(f"{line[1:11]!r}: eight hex digits, or {UNKNOWN}, stand behind the sign", number, 2)


def _hunk_lines(hunk: Hunk) -> list[str]:
    lines = [*(f"#{comment}" for comment in hunk.comments), f"@@ {hunk.site} @@"]
    width, most = _MNEMONIC_WIDTHS
    for line in hunk.lines:
        length = line.text.find(" ")
        if width < length <= most and line.sign != "#":
            width = length
    for line in hunk.lines:
        if line.sign == "#":
            lines.append(f"#{line.text}")
            continue
        word = UNKNOWN if line.word is None else f"{line.word:08x}"
        mnemonic, blank, operands = line.text.partition(" ")
        if blank:
            lines.append(f"{line.sign}{word}  {mnemonic:<{width}} {operands}")
        else:
            lines.append(f"{line.sign}{word}  {mnemonic}" if mnemonic else f"{line.sign}{word}")
    return lines


def _reversed(hunk: Hunk) -> Hunk:
    lines: list[Line] = []
    for is_context, run in groupby(_with_comments(hunk.lines), key=lambda unit: unit[-1].sign in " #"):
        units = list(run)
        if is_context:
            lines += [line for unit in units for line in unit]
            continue
        old = [unit for unit in units if unit[-1].sign == "-"]
        new = [unit for unit in units if unit[-1].sign == "+"]
        if len(new) > len(old):
            hunk.new  # noqa: B018  raises the error
        new += [(Line("+", gen_nop(), "nop"),)] * (len(old) - len(new))
        lines += [_turned(line, "-") for unit in new for line in unit]
        lines += [_turned(line, "+") for unit in old for line in unit]
    return replace(hunk, lines=tuple(lines))


def _with_comments(lines: Iterable[Line]) -> Iterator[tuple[Line, ...]]:
    """Each instruction with the comments before it; comments behind the last one are alone."""
    unit: list[Line] = []
    for line in lines:
        unit.append(line)
        if line.sign != "#":
            yield tuple(unit)
            unit = []
    if unit:
        yield tuple(unit)


def _turned(line: Line, sign: Sign) -> Line:
    return line if line.sign == "#" else replace(line, sign=sign)


def _require_apart(hunks: Iterable[Hunk]) -> None:
    """PatchFormatError for hunks that overlap by their sites alone. plan.py finds the other overlaps."""
    ranges: dict[str, list[tuple[int, int, int]]] = {}
    every = list(hunks)
    for index, hunk in enumerate(every):
        match = _SITE.fullmatch(hunk.site)
        name, text = (hunk.site, "0") if match is None else (match[1] or "", match[2])
        start = int(text, 16 if text[:2].lower() == "0x" else 10)
        ranges.setdefault(name, []).append((start, start + INSN_SIZE * len(hunk.old), index))
    for group in ranges.values():
        if len(group) > 1:
            group.sort()
            for (_, end, one), (start, _, other) in pairwise(group):
                if start < end:
                    one, other = sorted((one, other))
                    raise PatchFormatError(
                        f"the hunks at {every[one].site[:80]} and {every[other].site[:80]} overlap: make them one",
                        every[other].number,
                    )

"""The assembly diff: a patch as a text that people can read, mail, review, comment on, reverse and apply again.

May know: a64/, the errors. Knows no target: what a site or a symbol means is for plan.py to find out.
Read on: docs/patch-format.md for the grammar, meaning.py for what a line means at a place, plan.py for a whole patch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Literal

from a64patch.a64.generate import gen_nop
from a64patch.a64.words import INSN_SIZE
from a64patch.errors import PatchFormatError

MOST_BYTES = 64 << 20
"""Of a patch: room for half a million hunks."""
UNKNOWN = "????????"
"""Stands where a person does not know the word yet; `fill` of plan.py finds it."""

TARGET, BUILD_ID = "Target", "Build-Id"
_KNOWN_HEADERS = {name.lower(): name for name in (TARGET, BUILD_ID)}
_LONGEST_TEXT = 300
_MNEMONIC_WIDTH = 5

Sign = Literal[" ", "-", "+", "#"]

_HEADER = re.compile(r"([A-Z][A-Za-z0-9-]{0,40}):[ \t]+(\S.*)", re.ASCII)
_HUNK = re.compile(r"@@[ \t]+(\S+)[ \t]+@@", re.ASCII)
_LINE = re.compile(r"([ +-])([0-9a-fA-F]{8}|\?{8})(?:[ \t]+(\S.*))?", re.ASCII)
_SITE = re.compile(r"(?:(.*?)\+)?(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})", re.ASCII)


@dataclass(frozen=True)
class Line:
    """One line of a hunk: an instruction that stays (` `), goes (`-`) or comes (`+`), or a comment (`#`)."""

    sign: Sign
    word: int | None = None
    """The instruction; None while it is unknown, and in a comment."""
    text: str = ""
    """The instruction's text, blanks collapsed, or what follows the `#`; empty when it is missing."""
    number: int = field(default=0, compare=False)
    """Line number in the text it came from, from 1; 0 when it came from nowhere."""


@dataclass(frozen=True)
class Hunk:
    """Neighbouring words of which some change, from `site` on: symbol, symbol+0x18, section:0x10, address."""

    site: str
    lines: tuple[Line, ...]
    comments: tuple[str, ...] = ()
    """Comment lines before the hunk, without their `#`."""
    number: int = field(default=0, compare=False)

    @property
    def old(self) -> list[Line]:
        """The lines that stand there before: context and `-`."""
        return [line for line in self.lines if line.sign in " -"]

    @property
    def new(self) -> list[Line]:
        """The lines that stand there afterwards: context, `+`, and a NOP for each `-` without a `+`.

        PatchFormatError where a run of changed lines has more `+` than `-`.
        """
        lines: list[Line] = []
        for run in _runs(self.lines):
            plus = [line for line in run if line.sign in " +"]
            minus = [line for line in run if line.sign in " -"]
            if len(plus) > len(minus):
                more = len(plus) - len(minus)
                raise PatchFormatError(
                    f"{len(plus)} new instructions for {len(minus)} old ones at {self.site}: {more} more than"
                    " there is room for, and detours are not built yet",
                    plus[len(minus)].number,
                )
            padding = Line("+", gen_nop(), "nop", run[-1].number if run else 0)
            lines += plus + [padding] * (len(minus) - len(plus))
        return lines

    @property
    def padding(self) -> int:
        """How many NOPs `new` adds; errors as `new`."""
        return len(self.new) - sum(line.sign in " +" for line in self.lines)


@dataclass(frozen=True)
class AsmDiff:
    """A whole patch. `description` and `comments` are lines without their ends."""

    hunks: tuple[Hunk, ...]
    description: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    """Names and values in their order; the name `#` is a comment among them."""
    comments: tuple[str, ...] = ()
    """Comment lines behind the last hunk, without their `#`."""

    def header(self, name: str) -> str:
        """The value of a header; empty when it is not there."""
        return next((value for found, value in self.headers if found == name), "")

    @property
    def build_id(self) -> str:
        """The build that the words come from, in lower-case hex; empty when the patch does not say."""
        return self.header(BUILD_ID)


def parse(text: str) -> AsmDiff:
    """The patch that a text says. PatchFormatError with line and column where it is none.

    Line ends may be LF or CRLF. Refused: a text without hunks, two hunks that overlap as far as their sites tell, a
    hunk that changes nothing, control characters, one header twice, a known header in the prose.
    """
    if len(text) > MOST_BYTES:
        raise PatchFormatError(f"the patch has more than {MOST_BYTES >> 20} MiB")
    lines = text.split("\n")
    first = next((number for number, line in enumerate(lines) if line.startswith("@@")), None)
    if first is None:
        raise PatchFormatError("there is no hunk: a patch needs a line `@@ SITE @@` and instructions below it")
    description, headers, comments = _preamble([_clean(line, number) for number, line in enumerate(lines[:first], 1)])
    hunks, comments = _hunks(lines, first, comments)
    _require_apart(hunks)
    return AsmDiff(tuple(hunks), description, headers, tuple(comments))


def decode(data: bytes) -> str:
    """The text of a patch file; PatchFormatError when it is too long or not UTF-8."""
    if len(data) > MOST_BYTES:
        raise PatchFormatError(f"the patch has more than {MOST_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise PatchFormatError(f"byte {data[error.start]:#04x} is not UTF-8 text", line, column) from None


def to_text(diff: AsmDiff) -> str:
    """The canonical text: `parse` takes it back to an equal patch; operands stand in a column of their own."""
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
    """The patch that undoes this one. NOPs that only `new` adds are written out, or they could not be taken away.

    Reversed twice, a patch without such is itself, if in each run its `-` stand before its `+`, as they do in a diff.
    PatchFormatError as `Hunk.new`.
    """
    return replace(diff, hunks=tuple(_reversed(hunk) for hunk in diff.hunks))


def _clean(line: str, number: int) -> str:
    line = line.replace("\t", " ").rstrip("\r ")
    if not line.isprintable():
        column, character = next((place, one) for place, one in enumerate(line, 1) if not one.isprintable())
        raise PatchFormatError(f"character {character!r} is not text", number, column)
    return line


def _preamble(lines: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], list[str]]:
    """Description, headers and the comments that belong to the first hunk."""
    start, end = _last_paragraph(lines, len(lines))
    comments: list[str] = []
    while start < end and all(line.startswith("#") for line in lines[start:end]):
        comments[:0] = [line[1:] for line in lines[start:end]]
        start, end = _last_paragraph(lines, start)
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
    description = list(lines[:start])
    while description and not description[-1]:
        description.pop()
    while description and not description[0]:
        description.pop(0)
    return tuple(description), headers, comments


def _last_paragraph(lines: Sequence[str], end: int) -> tuple[int, int]:
    """The range of the last lines before `end` that are not empty."""
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
    site, begun = "", 0
    body: list[Line] = []
    pending: list[Line] = []
    """Comments that may belong to this hunk or, behind an empty line, to the next."""
    apart = False

    def close() -> None:
        if not site:
            return
        if not any(line.sign in "+-" for line in body):
            raise PatchFormatError(f"the hunk at {site} changes nothing", begun)
        hunks.append(Hunk(site, tuple(body), tuple(comments), begun))

    for index in range(first, len(lines)):
        number, line = index + 1, lines[index]
        match = _LINE.fullmatch(line)
        if match is None or not line.isprintable():
            line = _clean(line, number)
            match = _LINE.fullmatch(line)
        if match is not None:
            if apart:
                body += pending
                pending, apart = [], False
            sign, word, text = match.groups()
            text = " ".join(text.split()) if text else ""
            if len(text) > _LONGEST_TEXT:
                raise PatchFormatError(f"an instruction of {len(text)} characters", number, 12)
            body.append(Line(sign, None if word == UNKNOWN else int(word, 16), text, number))  # type: ignore[arg-type]
        elif line.startswith("#"):
            comment = Line("#", None, line[1:], number)
            (pending if apart else body).append(comment)
        elif not line:
            apart = True
        elif line.startswith("@@"):
            header = _HUNK.fullmatch(line)
            if header is None:
                raise PatchFormatError("a hunk begins with `@@ SITE @@`, and the site has no blanks", number, 1)
            close()
            if site:
                comments = [comment.text for comment in pending]
            site, begun, body, pending, apart = header[1], number, [], [], False
        else:
            raise _wrong_line(line, number)
    close()
    return hunks, [comment.text for comment in pending]


def _wrong_line(line: str, number: int) -> PatchFormatError:
    if line[0] not in " +-":
        return PatchFormatError(f"{line[:20]!r}: a line of a hunk begins with a blank, `-` or `+`", number, 1)
    return PatchFormatError(f"{line[1:11]!r}: eight hex digits, or {UNKNOWN}, stand behind the sign", number, 2)


def _hunk_lines(hunk: Hunk) -> Iterator[str]:
    yield from (f"#{comment}" for comment in hunk.comments)
    yield f"@@ {hunk.site} @@"
    mnemonics = (line.text.split(" ")[0] for line in hunk.lines if line.sign != "#" and " " in line.text)
    width = max([_MNEMONIC_WIDTH, *map(len, mnemonics)])
    for line in hunk.lines:
        if line.sign == "#":
            yield f"#{line.text}"
            continue
        mnemonic, _, operands = line.text.partition(" ")
        text = f"  {mnemonic:<{width}} {operands}" if operands else f"  {mnemonic}" if mnemonic else ""
        yield f"{line.sign}{UNKNOWN if line.word is None else f'{line.word:08x}'}{text}"


def _runs(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Context and changes, in turn; comments are left out."""
    instructions = (line for line in lines if line.sign != "#")
    for _, run in groupby(instructions, key=lambda line: line.sign == " "):
        yield list(run)


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
            hunk.new  # noqa: B018  says what is wrong
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
    """Refuse hunks that overlap by what their sites say; plan.py sees the rest."""
    last: dict[str, list[tuple[int, int, Hunk]]] = {}
    for hunk in hunks:
        match = _SITE.fullmatch(hunk.site)
        name, text = (hunk.site, "0") if match is None else (match[1] or "", match[2])
        start = int(text, 16 if text[:2].lower() == "0x" else 10)
        last.setdefault(name, []).append(
            (start, start + INSN_SIZE * sum(line.sign in " -" for line in hunk.lines), hunk)
        )
    for ranges in last.values():
        ranges.sort(key=lambda each: each[:2])
        for (_, end, one), (start, _, other) in pairwise(ranges):
            if start < end:
                raise PatchFormatError(f"the hunks at {one.site} and {other.site} overlap: make them one", other.number)

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
from typing import Literal, NamedTuple

from a64patch.a64.generate import gen_nop
from a64patch.a64.names import LONGEST_NAME, QUOTED, Site, number_of, parse_site, single_blanks
from a64patch.a64.words import INSN_SIZE
from a64patch.errors import PatchFormatError
from a64patch.oneline import counted, shown, some

MOST_BYTES = 64 << 20
"""The size of a patch."""
MOST_LINES = 1 << 20
"""Lines of a patch: enough for a quarter of a million hunks, which also fit in memory."""
UNKNOWN = "????????"
"""In place of a word that the writer of a patch does not know yet; `fill` of plan.py fills it in."""

TARGET, BUILD_ID, HUNKS = "Target", "Build-Id", "Hunks"
_KNOWN_HEADERS = {name.lower(): name for name in (TARGET, BUILD_ID, HUNKS)}
_LONGEST_TEXT = 300 + LONGEST_NAME
_MNEMONIC_WIDTHS = (5, 16)
"""The least and the greatest width of a hunk's column of mnemonics: one long mnemonic does not widen all lines."""

Sign = Literal[" ", "-", "+", "#"]
Kind = Literal["", "detour", "annex", "end-detour", "end-annex"]
"""What a hunk is, as its line says behind `@@`; empty for a hunk whose words are replaced in place."""
ANNEX = "annex"
"""The owner of an annex' name in a site: `annex:name`."""
MOST_ALIGNMENT = 4096
"""The alignment of an annex, in bytes, at most."""
_REVERSED: dict[Kind, Kind] = {
    "": "", "detour": "end-detour", "annex": "end-annex", "end-detour": "detour", "end-annex": "annex",
}  # fmt: skip

# `_clean` has made each tab a blank.
_HEADER = re.compile(r"([A-Z][A-Za-z0-9-]{0,40}|(?i:target|build-id|hunks)): +(\S.*)", re.ASCII)
_KINDS = "|".join(filter(None, _REVERSED))
_HUNK = re.compile(
    rf"@@ +(?:({_KINDS}) +(?!@@|-[0-9]|align ))?((?:{QUOTED}|[^\s\"])+) +(?:align +([0-9]{{1,5}}) +)?"
    r"(?:-([0-9]{1,7}) +\+([0-9]{1,7}) +)?@@",
    re.ASCII,
)
_LABEL = re.compile(r"([+-])(\.L[\w.$]{1,100}):", re.ASCII)
_LINE = re.compile(r"([ +-])([0-9a-fA-F]{8}|\?{8})(?: +(\S.*))?", re.ASCII)


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
    label: str = ""
    """The name of the next instruction in new code, which begins with `.L`. Such a line is no instruction itself."""

    def __repr__(self) -> str:
        return shown(self, repr(_text_of(self)))


@dataclass(frozen=True, slots=True)
class Hunk:
    """Consecutive words, of which some change. `site` is the first: symbol, symbol+0x18, section:0x10 or an address.

    - A `detour` has more new words than old ones. The new words lie elsewhere, and one branch leads there.
    - An `annex` is new code or data alone. `site` is its name then; sites call it `annex:NAME`.
    - `end-detour` and `end-annex` are the reversed ones.
    """

    site: str
    lines: tuple[Line, ...]
    comments: tuple[str, ...] = ()
    """Comment lines before the hunk, without their `#`."""
    number: int = field(default=0, compare=False)
    """Line number in the patch file, from 1; 0 for a hunk that was not read from a file."""
    counted: bool = field(default=True, compare=False)
    """False for a hunk that was read from a text without its counts: some of its lines may have been cut off."""
    kind: Kind = ""
    alignment: int = INSN_SIZE
    """Of an annex (bytes): a power of 2, from 4 to MOST_ALIGNMENT."""

    def __repr__(self) -> str:
        signs = "".join(line.sign for line in self.lines if not line.label)
        minus, plus = (counted(signs.count(sign), f"`{sign}` line") for sign in "-+")
        kind = f"{self.kind} " if self.kind else ""
        return shown(self, f"{kind}{self.site}: {minus}, {plus},", f"{signs.count(' ')} of context")

    @property
    def place(self) -> str:
        """The site as people name it anywhere: of an annex, `annex:NAME`."""
        return f"{ANNEX}:{self.site}" if self.kind.endswith(ANNEX) else self.site

    @property
    def old(self) -> list[Line]:
        """The instructions before the patch: context and `-`."""
        return [line for line in self.lines if line.sign in " -" and not line.label]

    @property
    def new(self) -> list[Line]:
        """The instructions after the patch: context, `+`, and in place a NOP for each `-` without a `+`.

        PatchFormatError where a run of changed lines of a hunk without a `kind` has more `+` than `-`.
        """
        if self.kind:
            return [line for line in self.lines if line.sign in " +" and not line.label]
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
                f"{-missing} new instructions more than there are old ones to replace at {self.site}: that is a"
                f" detour, so write `@@ detour {self.site} @@`",
                lines[missing].number,
            )
        return [Line("+", gen_nop(), "nop", last.number if last is not None else 0)] * missing

    @property
    def padding(self) -> list[int]:
        """The indexes in `new` of the NOPs that it adds; errors as `new`."""
        written = (line for line in self.lines if line.sign in " +")
        following = next(written, None)
        places: list[int] = []
        for place, line in enumerate(self.new):
            if line is following:
                following = next(written, None)
            else:
                places.append(place)
        return places


class AsmDiff(NamedTuple):
    """A whole patch. `description` and `comments` are lines without their ends."""

    hunks: tuple[Hunk, ...]
    description: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    """Names and values in their order, without `Hunks`. The name `#` means a comment between headers."""
    comments: tuple[str, ...] = ()
    """Comment lines behind the last hunk, without their `#`."""

    def __repr__(self) -> str:
        title = repr(self.description[0]) if self.description else ""
        hunks = counted(len(self.hunks), "hunk") + (" at" if self.hunks else "")
        return shown(self, title, hunks, some((hunk.site for hunk in self.hunks), len(self.hunks)))

    def header(self, name: str) -> str:
        """The value of a header; empty when there is no such header."""
        return next((value for found, value in self.headers if found == name), "")

    @property
    def needs_room(self) -> bool:
        """Whether the patch, or the patch that it reverses, has code that lies elsewhere."""
        return any(hunk.kind for hunk in self.hunks)

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
    - a detour, an annex or a label that the grammar does not allow;
    - two hunks whose sites alone show that they overlap;
    - a header that occurs twice, or a known header in the prose;
    - a text that was cut off, as far as its counts tell.

    The counts are the numbers of old and new instructions in the line of each hunk, and the header `Hunks`. Each of
    them may be missing. With any of them, the last line must have an end too. A text with all counts, as `to_text`
    writes it, is refused wherever it was cut off; only blanks and comments may be missing behind the last instruction.
    """
    require_small(len(text), text.count("\n"))
    lines = text.split("\n")
    first = next((number for number, line in enumerate(lines) if line.startswith("@@")), None)
    if first is None:
        raise PatchFormatError("there is no hunk: a patch needs a line `@@ SITE @@` and instructions below it")
    cleaned = [_clean(line, number) for number, line in enumerate(lines[:first], 1)]
    description, headers, comments, stated = _preamble(cleaned)
    hunks, sizes, comments = _hunks(lines, first, comments)
    _require_whole(lines, hunks, stated)
    _require_apart(hunks, sizes)
    _require_sound(hunks)
    return AsmDiff(tuple(hunks), description, headers, tuple(comments))


def require_small(size: int, lines: int = 0) -> None:
    """PatchFormatError for more than MOST_BYTES or MOST_LINES."""
    if size > MOST_BYTES or lines > MOST_LINES:
        raise PatchFormatError(f"the patch has more than {MOST_BYTES >> 20} MiB or {MOST_LINES} lines: split it")


def decode(data: bytes) -> str:
    """The text of a patch file, without a byte order mark; PatchFormatError when it is too long or not UTF-8."""
    require_small(len(data))
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise PatchFormatError(f"byte {data[error.start]:#04x} is not UTF-8 text", line, column) from None


def to_text(diff: AsmDiff) -> str:
    """The canonical text of a patch, with the operands in a column and with counts. `parse` makes an equal patch of it.

    A hunk stays without counts if it was read so and implies NOPs: counts would say that the NOPs are meant.
    """
    paragraphs = []
    if diff.description:
        paragraphs.append("\n".join(diff.description))
    headers = [f"#{value}" if name == "#" else f"{name}: {value}" for name, value in diff.headers]
    if len(diff.hunks) > 1:
        headers.append(f"{HUNKS}: {len(diff.hunks)}")
    if headers:
        paragraphs.append("\n".join(headers))
    paragraphs += ["\n".join(_hunk_lines(hunk)) for hunk in diff.hunks]
    if diff.comments:
        paragraphs.append("\n".join(f"#{comment}" for comment in diff.comments))
    return "\n\n".join(paragraphs) + "\n"


def subject(text: str) -> str:
    """The first line of the description in a patch's text; empty when it has none. The hunks are not looked at."""
    head = f"\n{text}".partition("\n@@")[0].splitlines()
    try:
        description = _preamble(head)[0]
    except PatchFormatError:
        return ""
    return description[0] if description else ""


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


def _preamble(lines: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], list[str], str]:
    """The description, the headers, the comments of the first hunk, and the stated number of hunks or ""."""
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
    stated = next((value for name, value in headers if name == HUNKS), "")
    headers = tuple(header for header in headers if header[0] != HUNKS)
    if all(name == "#" for name, _ in headers):
        # Comments alone are no headers.
        comments = [value for _, value in headers] + comments
        headers = ()
    return tuple(lines[first:last]), headers, comments, stated


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
            if name == HUNKS and not re.fullmatch("[1-9][0-9]{0,6}", value):
                raise PatchFormatError(f"{value[:40]!r} is no number of hunks", number)
            if name == BUILD_ID:
                value = value.lower()
                if not re.fullmatch(r"(?:[0-9a-f]{2}){1,64}", value):
                    raise PatchFormatError(f"{value[:40]!r} is no build id: an even number of hex digits", number)
            if name in _KNOWN_HEADERS.values() and any(name == found for found, _ in headers):
                raise PatchFormatError(f"{name}: stands twice", number)
            headers.append((name, value))
    return tuple(headers)


def _hunks(lines: Sequence[str], first: int, comments: list[str]) -> tuple[list[Hunk], list[int], list[str]]:
    """The hunks from line index `first` on, how many old instructions each has, and the comments behind the last."""
    hunks: list[Hunk] = []
    sizes: list[int] = []
    header: re.Match[str] | None = None
    begun = 0
    body: list[Line] = []
    counts: dict[Sign, int] = {" ": 0, "-": 0, "+": 0}
    pending: list[Line] = []
    """Comments behind an empty line: they belong to this hunk if a line of it follows, else to the next hunk."""
    apart = False

    def close(header: re.Match[str]) -> None:
        kind: Kind
        kind, site, alignment, stated_old, stated_new = header.groups()  # type: ignore[assignment]  # _HUNK says so
        old, new = counts[" "] + counts["-"], counts[" "] + counts["+"]
        if stated_old is not None and (int(stated_old) != old or int(stated_new) != new):
            raise PatchFormatError(
                f"the hunk at {site[:80]} counts -{stated_old} +{stated_new}, but has {old} old and {new} new"
                " instructions: the patch may have been cut off; after an edit, delete the counts, and `a64patch fmt`"
                " adds them",
                begun,
            )
        if not counts["-"] and not counts["+"]:
            raise PatchFormatError(f"the hunk at {site[:80]} changes nothing", begun)
        if not kind and _has_more(body):
            kind = "detour"
        hunks.append(
            Hunk(
                site, tuple(body), tuple(comments), begun, stated_old is not None, kind or "",
                int(alignment) if alignment else INSN_SIZE,
            )
        )  # fmt: skip
        sizes.append(0 if kind in ("annex", "end-annex") else old)

    for number, line in enumerate(lines[first:], first + 1):
        if not line.isprintable():
            line = _clean(line, number)
        match = _LINE.fullmatch(line)
        if match is not None:
            if apart:
                body += pending
                pending, apart = [], False
            instruction = _line(match, number)
            body.append(instruction)
            counts[instruction.sign] += 1
        elif line.startswith(("+.", "-.")) and (match := _LABEL.fullmatch(line.rstrip())):
            if apart:
                body += pending
                pending, apart = [], False
            body.append(Line("+" if match[1] == "+" else "-", None, "", number, match[2]))
        elif line.startswith("@@"):
            if header is not None:
                close(header)
                comments = [comment.text for comment in pending] if pending else []
            header = _HUNK.fullmatch(line.rstrip())
            if header is None:
                raise PatchFormatError(
                    "a hunk begins with `@@ SITE @@` or `@@ SITE -1 +1 @@`, with `detour` or `annex` before the site of"
                    " code that lies elsewhere, and a name with blanks is in quotes",
                    number,
                    1,
                )
            begun, body, pending, apart = number, [], [], False
            counts = {" ": 0, "-": 0, "+": 0}
            if len(header[2]) > LONGEST_NAME:
                raise PatchFormatError(f"a site of {len(header[2])} characters", number, header.start(2) + 1)
        elif not line.rstrip():
            apart = True
        elif line.startswith("#"):
            comment = Line("#", None, line[1:].rstrip(), number)
            (pending if apart else body).append(comment)
        else:
            raise _wrong_line(line, number)
    if header is not None:
        close(header)
    return hunks, sizes, [comment.text for comment in pending]


def _has_more(lines: Iterable[Line]) -> bool:
    """Whether a run of changed lines has more `+` than `-`."""
    more = 0
    for line in lines:
        if line.sign == " ":
            if more > 0:
                return True
            more = 0
        elif line.sign != "#" and not line.label:
            more += 1 if line.sign == "+" else -1
    return more > 0


def _require_sound(hunks: Sequence[Hunk]) -> None:
    """PatchFormatError for hunks and labels that no patch may have: see docs/patch-format.md."""
    names: set[str] = set()
    directions: set[bool] = set()
    for hunk in hunks:
        ends = hunk.kind.startswith("end-")
        if hunk.kind:
            directions.add(ends)
        sign: Sign = "-" if ends else "+"
        if hunk.kind.endswith("annex"):
            site = parse_site(hunk.site)
            if site is None or site.owner or site.offset or site.is_number:
                raise PatchFormatError(f"{hunk.site[:80]} is no name for an annex", hunk.number)
            if any(line.sign not in (sign, "#") for line in hunk.lines):
                raise PatchFormatError(f"each line of {hunk.kind} {hunk.site[:80]} begins with `{sign}`", hunk.number)
            if hunk.site in names:
                raise PatchFormatError(f"two hunks are the annex {hunk.site[:80]}", hunk.number)
            names.add(hunk.site)
        elif hunk.alignment != INSN_SIZE:
            raise PatchFormatError("only an annex has an alignment", hunk.number)
        if hunk.alignment & (hunk.alignment - 1) or not INSN_SIZE <= hunk.alignment <= MOST_ALIGNMENT:
            raise PatchFormatError(
                f"{hunk.alignment} is no alignment: a power of 2 from {INSN_SIZE} to {MOST_ALIGNMENT}", hunk.number
            )
        last = next((line for line in reversed(hunk.lines) if line.sign != "#"), None)
        if last is not None and last.label:
            raise PatchFormatError(f"no instruction of the hunk follows the label {last.label}", last.number)
        for line in hunk.lines:
            if not line.label:
                continue
            if not hunk.kind or line.sign != sign:
                raise PatchFormatError(
                    f"the label {line.label} names no new code: a detour or an annex has labels", line.number
                )
            if line.label in names:
                raise PatchFormatError(f"the label {line.label} occurs twice", line.number)
            names.add(line.label)
    if len(directions) > 1:
        raise PatchFormatError("some hunks make new code and others end it: make two patches")


def _line(match: re.Match[str], number: int) -> Line:
    sign: Sign
    sign, word, text = match.groups("")  # type: ignore[assignment]  # _LINE says so
    if "  " in text or text.endswith(" "):
        text = single_blanks(text)
    if len(text) > _LONGEST_TEXT:
        raise PatchFormatError(f"an instruction of {len(text)} characters", number, match.start(3) + 1)
    return Line(sign, None if word == UNKNOWN else int(word, 16), text, number)


def _wrong_line(line: str, number: int) -> PatchFormatError:
    if line[0] not in " +-":
        return PatchFormatError(f"{line[:20]!r}: a line of a hunk begins with a blank, `-` or `+`", number, 1)
    return PatchFormatError(f"{line[1:11]!r}: eight hex digits, or {UNKNOWN}, stand behind the sign", number, 2)


def _hunk_lines(hunk: Hunk) -> list[str]:
    width, most = _MNEMONIC_WIDTHS
    stays = goes = comes = 0
    for line in hunk.lines:
        sign = line.sign
        if line.label:
            continue
        if sign == " ":
            stays += 1
        elif sign == "-":
            goes += 1
        elif sign == "+":
            comes += 1
        else:
            continue
        length = line.text.find(" ")
        if width < length <= most:
            width = length
    counts = f" -{stays + goes} +{stays + comes}" if hunk.counted or hunk.kind or comes >= goes else ""
    lines = [f"#{comment}" for comment in hunk.comments]
    kind = f"{hunk.kind} " if hunk.kind else ""
    alignment = f" align {hunk.alignment}" if hunk.alignment != INSN_SIZE else ""
    lines.append(f"@@ {kind}{hunk.site}{alignment}{counts} @@")
    lines += [_text_of(line, width) for line in hunk.lines]
    return lines


def _text_of(line: Line, width: int = 0) -> str:
    """A line of a hunk as text, with this width for mnemonics."""
    if line.sign == "#":
        return f"#{line.text}"
    if line.label:
        return f"{line.sign}{line.label}:"
    word = UNKNOWN if line.word is None else f"{line.word:08x}"
    mnemonic, blank, operands = line.text.partition(" ")
    if blank and '"' not in mnemonic:
        return f"{line.sign}{word}  {mnemonic:<{width}} {operands}"
    return f"{line.sign}{word}  {line.text}" if line.text else f"{line.sign}{word}"


def _reversed(hunk: Hunk) -> Hunk:
    lines: list[Line] = []
    for is_context, run in groupby(_with_comments(hunk.lines), key=lambda unit: unit[-1].sign in " #"):
        units = list(run)
        if is_context:
            lines += [_turned(line, "-" if line.sign == "+" else "+") if line.label else line
                      for unit in units for line in unit]  # fmt: skip
            continue
        old = [unit for unit in units if unit[-1].sign == "-"]
        new = [unit for unit in units if unit[-1].sign == "+"]
        if len(new) > len(old):
            hunk.new  # noqa: B018  raises the error, unless the hunk has a kind
        if not hunk.kind:
            new += [(Line("+", gen_nop(), "nop"),)] * (len(old) - len(new))
        lines += [_turned(line, "-") for unit in new for line in unit]
        lines += [_turned(line, "+") for unit in old for line in unit]
    return replace(hunk, lines=tuple(lines), kind=_REVERSED[hunk.kind])


def _with_comments(lines: Iterable[Line]) -> Iterator[tuple[Line, ...]]:
    """Each instruction with the comments and labels before it; those behind the last one are alone.

    A label is not with an old instruction that is taken away: it names the new one, or the context, behind that.
    """
    unit: list[Line] = []
    for line in lines:
        unit.append(line)
        if line.sign != "#" and not line.label:
            others = [one for one in unit if one.label and line.sign not in (" ", one.sign)]
            yield tuple(one for one in unit if one not in others)
            unit = others
    if unit:
        yield tuple(unit)


def _turned(line: Line, sign: Sign) -> Line:
    return line if line.sign == "#" else replace(line, sign=sign)


def _require_whole(lines: Sequence[str], hunks: Sequence[Hunk], stated: str) -> None:
    """PatchFormatError for another number of hunks than the stated one, and for an end inside a line."""
    if stated and int(stated) != len(hunks):
        number = next(number for number, line in enumerate(lines, 1) if line.lower().startswith(f"{HUNKS.lower()}:"))
        raise PatchFormatError(
            f"the number of hunks is {len(hunks)}, not {stated}: the patch may have been cut off; after an edit,"
            " delete this line, and `a64patch fmt` adds it",
            number,
        )
    if lines[-1].strip() and (stated or any(hunk.counted for hunk in hunks)):
        raise PatchFormatError(
            "the last line has no end: the patch may have been cut off; if it is whole, add a line feed", len(lines)
        )


def _require_apart(hunks: Sequence[Hunk], sizes: Sequence[int]) -> None:
    """PatchFormatError for hunks of these numbers of words that overlap by their sites alone.

    plan.py finds the other overlaps.
    """
    ranges: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for index, (hunk, size) in enumerate(zip(hunks, sizes, strict=True)):
        name, owner, start, is_number = parse_site(hunk.site) or Site(hunk.site)
        if is_number:
            name, start = "", start + number_of(name)
        ranges.setdefault((name, owner), []).append((start, start + INSN_SIZE * size, index))
    for group in ranges.values():
        if len(group) > 1:
            group.sort()
            for (_, end, one), (start, _, other) in pairwise(group):
                if start < end:
                    one, other = sorted((one, other))
                    raise PatchFormatError(
                        f"the hunks at {hunks[one].site[:80]} and {hunks[other].site[:80]} overlap: make them one",
                        hunks[other].number,
                    )

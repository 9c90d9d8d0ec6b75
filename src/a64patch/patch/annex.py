"""New code of a patch that lies elsewhere: what its detours and annexes execute, as words at any address.

Knows no target but its names. Read on: asmdiff.py for the hunks, new_lines.py for one
line, detours.py for plans with them.

A detour is cut out of the old code from its first changed word to the word behind its last changed one, where execution
comes back. The first word becomes a branch, all others stay as they are. The new code has

- the new words, and the old ones between them, moved (see ../a64/relocation.py);
- a branch back, unless execution cannot come to its end.

A place decides the words, and sometimes their number: what a short branch no longer reaches, a long one does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from a64patch.a64.assembler import assemble_one
from a64patch.a64.generate import gen_nop
from a64patch.a64.names import parse_site, site_text
from a64patch.a64.predicates import decode, is_adrp
from a64patch.a64.references import ReferenceKind, reference
from a64patch.a64.row import ERRATUM_843419_OFFSETS, PAGE_SIZE, Flow
from a64patch.a64.source import without_comments
from a64patch.a64.words import INSN_SIZE
from a64patch.errors import AssemblyError, PatchFormatError, PlanError
from a64patch.oneline import counted, shown
from a64patch.patch.asmdiff import ANNEX, Hunk, Line, Sign
from a64patch.patch.meaning import needs_pages, word_anywhere
from a64patch.patch.new_lines import (
    Back,
    Fixed,
    Moved,
    NewNames,
    Piece,
    PlaceDependent,
    falls_through,
    piece_of,
    unknown_place,
    where,
)
from a64patch.targets.base import NewReference
from a64patch.targets.symbols import SymbolTable

MOST_BYTES = 1 << 18
"""The size of all new code of a patch."""
_ROUNDS = 16
"""More room for one word moves other words, which may then need more room too: bounded, since room never shrinks."""
_TRAP = 0x00000000
"""UDF #0 (Arm ARM, C6.2), behind an annex: nobody executes it."""


class Detour(NamedTuple):
    """The parts of a detour, by the numbers of the instructions that stand in place (`steady`)."""

    steady: tuple[Line, ...]
    """The instructions that stand in the target without the detour, context included."""
    first: int
    """The one that becomes a branch."""
    end: int
    """Where execution comes back: the number behind the last one that is not executed in place."""
    body: tuple[tuple[Line, int], ...]
    """The lines of the new code, labels too; with the number of the instruction that is moved there, else -1."""
    places: Mapping[int, int]
    """For each instruction from `first` to `end`: the number in `body` of the line that is executed in its place."""

    def __repr__(self) -> str:
        return shown(self, f"{counted(len(self.body), 'line')} in place of", f"{self.first} to {self.end}")


def parts_of(hunk: Hunk) -> Detour:
    """The parts of a detour, or of one that ends. PatchFormatError when the hunk does not show where it comes back."""
    new: Sign = "-" if hunk.kind.startswith("end-") else "+"
    lines = [line for line in hunk.lines if line.sign != "#"]
    changed = [number for number, line in enumerate(lines) if line.sign != " "]
    body: list[tuple[Line, int]] = []
    places: dict[int, int] = {}
    steady: list[Line] = []
    first = end = 0
    begins_run = True
    """Whether no changed line stands between the last line of context and this line."""
    for number, line in enumerate(lines):
        if number == changed[0]:
            first = len(steady)
        if line.sign == new:
            body.append((line, -1))
        elif number >= changed[0] and (number <= changed[-1] or len(steady) == first):
            if line.sign == " " or begins_run:
                places[len(steady)] = len(body)
            if line.sign == " ":
                body.append((line, len(steady)))
            end = len(steady) + 1
        if line.sign != new:
            steady.append(line)
        begins_run = line.sign == " "
    if end <= first:
        raise PatchFormatError(
            f"the detour at {hunk.site} ends with a new instruction: show the instruction that follows it",
            lines[-1].number,
        )
    # Its word in place leads to the beginning, for whoever comes there from elsewhere.
    places[first] = 0
    return Detour(tuple(steady), first, end, tuple(body), places)


class Cut(NamedTuple):
    """A detour at its place in a target."""

    hunk: Hunk
    address: int
    """Of the hunk's first instruction (bytes)."""
    words: tuple[int, ...]
    """The words that stand in place without the detour, from `address` on."""
    stale: str = ""
    """The symbol of its function, if the hunk was found elsewhere in it than its site says."""

    def __repr__(self) -> str:
        return shown(self, f"{self.hunk.site} at {self.address:#x}")


class PlacedCode(NamedTuple):
    """New code at an address."""

    base: int
    words: tuple[int, ...]
    names: Mapping[str, int]
    """The address of each annex by `annex:NAME`, and of each label."""
    entries: Mapping[int, int]
    """For each detour, by the address of its first instruction: the address of its new code."""

    is_code: tuple[bool, ...]
    """Of each word: false for data."""
    resolver: NewNames
    references: tuple[NewReference, ...] = ()
    """What the target has to be told about words of this code."""

    def __repr__(self) -> str:
        return shown(self, f"{counted(len(self.words), 'word')} at {self.base:#x}")

    def word_in_place(self, line: Line, at: int) -> int:
        """The word of a line that stays in place and names this code.

        PlanError when it does not reach from there, and for a page of a target whose addresses are not final.
        """
        if self.resolver.unplaced is not None and needs_pages(line.text):
            raise PlanError(
                f"{where(line)}{line.text!r} stays in place, and whoever loads the target moves the new code: form its"
                " address in new code"
            )
        words = PlaceDependent(line, 0, True, "").words(at, self.resolver)
        if len(words) > 1:
            raise PlanError(f"{where(line)}{line.text!r} at {at:#x} does not reach the new code at {self.base:#x}")
        return words[0]

    @property
    def size(self) -> int:
        """Bytes."""
        return INSN_SIZE * len(self.words)


class _Anything:
    """Takes every name for one address, and remembers the last."""

    def __init__(self, address: int) -> None:
        self._address = address
        self.site = ""

    def resolve(self, site: str) -> int:
        self.site = site
        return self._address

    def describe(self, address: int) -> str:
        return f"{address:#x}"


class Lead(NamedTuple):
    """A branch of the target that may lead to new code of a patch."""

    name: str
    """The annex or label that it would lead to; empty for a detour."""
    source: int
    """The address of the detour's hunk, and of any other branch itself."""
    goal: int
    """Where it leads."""

    def __repr__(self) -> str:
        return shown(self, f"{self.name or 'detour'} from {self.source:#x} to {self.goal:#x}")


class InPlace:
    """The lines of a patch that stay in place and name new code, such as `b annex:f`."""

    def __init__(self, hunks: Iterable[Hunk]) -> None:
        self._names = {line.label for hunk in hunks for line in hunk.lines if line.label}

    def names_new_code(self, line: Line) -> bool:
        """Whether the text of this changed line names an annex or a label of the patch.

        PatchFormatError when the line has a word all the same.
        """
        if line.sign not in "+-" or not (f"{ANNEX}:" in line.text or ".L" in line.text) or not self._site(line):
            return False
        if line.word is not None:
            raise unknown_place(line)
        return True

    def _site(self, line: Line) -> str:
        names = _Anything(0)
        with suppress(AssemblyError):
            assemble_one(without_comments(line.text), 0, names)
        parts = parse_site(names.site)
        if parts is None or not (parts.owner == ANNEX or (not parts.owner and parts.name in self._names)):
            return ""
        return site_text(parts.name, parts.owner)

    def lead(self, line: Line, found: int, at: int) -> Lead | None:
        """The lead of the word `found` at an address, if it may be this line; an unknown goal is -1."""
        word = word_anywhere(line)
        row = decode(word)
        refers_to = reference(row) if row is not None else None
        mask = refers_to.mask if refers_to is not None else _LOW_BITS if needs_pages(line.text) else 0
        if (word ^ found) & ~mask & 0xFFFFFFFF:
            return None
        is_branch = refers_to is not None and refers_to.kind is ReferenceKind.BRANCH
        return Lead(self._site(line), at, refers_to.target(found, at) if refers_to is not None and is_branch else -1)


_LOW_BITS = 0xFFF << 10
"""The field of ADD and of the loads for the value of `:lo12:` (Arm ARM, C6.2)."""


_ALIGNMENT = 16


class NewCode:
    """All new code of a patch. `hunks` are its detours and annexes in their order, `cuts` the detours at their places.

    PatchFormatError for a line that cannot be read, or whose word cannot be known before it has a place. PlanError for
    a label and an annex of one name. Other errors come with `at`. `unplaced` as `Target.unplaced`.
    """

    def __init__(
        self, hunks: Iterable[Hunk], cuts: Sequence[Cut], symbols: SymbolTable, *, exact: bool,
        unplaced: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        self._symbols, self._exact, self._unplaced = symbols, exact, unplaced
        self._pieces: list[Piece] = []
        self._marks: dict[str, int] = {}
        self._alignments = {0: _ALIGNMENT}
        self._entries: dict[int, int] = {}
        self._is_code: list[bool] = []
        self._data: set[str] = set()
        self._rigid: dict[int, tuple[int, str]] = {}
        """For each piece of an annex with an indirect jump: the number of the annex' first piece, and its name."""
        found = iter(cuts)
        for hunk in hunks:
            if hunk.kind.endswith("annex"):
                self._add_annex(hunk)
            elif hunk.kind.endswith("detour"):
                self._add_detour(next(found))
        if INSN_SIZE * len(self._pieces) > MOST_BYTES:
            raise PlanError(f"the new code has more than {MOST_BYTES >> 10} KiB: split the patch")

    @property
    def alignment(self) -> int:
        """Of all of it (bytes)."""
        return max(_ALIGNMENT, *self._alignments.values())

    @property
    def least(self) -> int:
        """The number of its words, at least."""
        return len(self._pieces)

    def _mark(self, name: str) -> None:
        self._marks[name] = len(self._pieces)

    def _add(self, piece: Piece, *, is_code: bool = True) -> None:
        self._pieces.append(piece)
        self._is_code.append(is_code)

    def _add_annex(self, hunk: Hunk) -> None:
        site = parse_site(hunk.site)
        assert site is not None
        name = site_text(site.name, ANNEX)
        place = len(self._pieces)
        self._alignments[place] = max(hunk.alignment, self._alignments.get(place, INSN_SIZE))
        self._mark(name)
        only_data, jumps = True, False
        last: Piece | None = None
        for line in hunk.lines:
            if line.sign == "#":
                continue
            if line.label:
                self._mark(line.label)
                continue
            is_data = line.text.lower().startswith(".word")
            only_data &= is_data
            last = piece_of(line, self._exact)
            self._add(last, is_code=not is_data)
            jumps |= not is_data and isinstance(last, Fixed) and _jumps_by_register(last.word)
        if jumps:
            self._rigid |= dict.fromkeys(range(place, len(self._pieces)), (place, name))
        if only_data:
            self._data.add(name)
        elif last is None or falls_through(last):
            self._add(Fixed(_TRAP))

    def _add_detour(self, cut: Cut) -> None:
        parts = parts_of(cut.hunk)
        start, end = (cut.address + INSN_SIZE * number for number in (parts.first, parts.end))
        marks = {number: f"{start:#x} {number}" for number in parts.places.values()}
        goals = {cut.address + INSN_SIZE * old: marks[number] for old, number in parts.places.items()}
        self._entries[cut.address] = begin = len(self._pieces)
        for number, (line, old) in enumerate(parts.body):
            if number in marks:
                self._mark(marks[number])
            if line.label:
                self._mark(line.label)
            elif old >= 0:
                self._add(Moved(cut.words[old], cut.address + INSN_SIZE * old, (start, end), goals))
            else:
                self._add(piece_of(line, self._exact, cut.stale))
        if len(parts.body) in marks:
            self._mark(marks[len(parts.body)])
        if len(self._pieces) == begin or len(self._pieces) in self._marks.values() or falls_through(self._pieces[-1]):
            self._add(Back(end))

    def at(self, base: int) -> PlacedCode:
        """The words at `base` (bytes), a multiple of `alignment`.

        No annex with an indirect jump grows: compilers have tables with distances inside such a function. It begins
        further on, if an ADRP would lie where erratum 843419 may strike.

        - SymbolError for a name that neither the patch nor the target has.
        - PlanError for a name that says nothing, and for an instruction that does not reach from there, in an annex
          with an indirect jump also if several instructions would.
        - UnmovableError for an old instruction that cannot be moved; PatchFormatError for a text that is none.
        """
        room = [1] * len(self._pieces)
        lead: dict[int, int] = {}
        for _ in range(_ROUNDS):
            places, end = self._places(base, room, lead)
            own = {name: places[number] if number < len(places) else end for name, number in self._marks.items()}
            names = NewNames(self._symbols, own, self._data, exact=self._exact, unplaced=self._unplaced)
            grown = False
            code: list[list[int]] = []
            for number, piece in enumerate(self._pieces):
                at = places[number]
                words = piece.words(at, names)
                first, name = self._rigid.get(number, (0, ""))
                watched = self._unplaced is None and self._is_code[number]
                is_risky = bool(name) and watched and _is_risky(words, at)
                if name and (len(words) > 1 or (is_risky and self._alignments[first] >= PAGE_SIZE)):
                    why = "is subject to Cortex-A53 erratum 843419" if is_risky else "does not reach"
                    raise PlanError(
                        f"an instruction of {name} at {at:#x} {why}, and nothing in {name} may grow, since it jumps by"
                        " a register, perhaps by a table of distances"
                    )
                if is_risky:
                    lead[first], grown = lead.get(first, 0) + self._alignments[first], True
                elif watched and _is_risky(words, at):
                    words = [gen_nop(), *piece.words(at + INSN_SIZE, names)]
                    if _is_risky(words, at):
                        words = [gen_nop(), gen_nop(), *piece.words(at + 2 * INSN_SIZE, names)]
                if len(words) > room[number]:
                    room[number], grown = len(words), True
                code.append(words)
            if not grown:
                return self._placed(base, places, end, code, room, names)
        raise PlanError(f"the new code at {base:#x} does not settle: split the patch")

    def _places(self, base: int, room: Sequence[int], lead: Mapping[int, int]) -> tuple[list[int], int]:
        """The address of each piece, and the address behind the last one. `lead` are bytes before a piece."""
        places, at = [], base
        for number, words in enumerate(room):
            at = -(-at // self._alignments.get(number, INSN_SIZE)) * self._alignments.get(number, INSN_SIZE)
            at += lead.get(number, 0)
            places.append(at)
            at += INSN_SIZE * words
        return places, at

    def _placed(
        self, base: int, places: Sequence[int], end: int, code: Sequence[Sequence[int]], room: Sequence[int],
        names: NewNames,
    ) -> PlacedCode:  # fmt: skip
        words: list[int] = []
        is_code: list[bool] = []
        for at, each, most, executed in zip(places, code, room, self._is_code, strict=True):
            words += [_TRAP] * ((at - base) // INSN_SIZE - len(words))
            words += [*each, *[gen_nop()] * (most - len(each))]
            is_code += [False] * (len(words) - len(is_code) - most) + [executed] * most
        assert base + INSN_SIZE * len(words) == end
        own = {name: address for name, address in names.own.items() if name.startswith((f"{ANNEX}:", "."))}
        entries = {site: places[number] for site, number in self._entries.items()}
        references = tuple(names.references.values())
        return PlacedCode(base, tuple(words), own, entries, tuple(is_code), names, references)


def _is_risky(words: Sequence[int], at: int) -> bool:
    """Whether one of these words is an ADRP where erratum 843419 may strike."""
    return any(
        is_adrp(word) and (at + INSN_SIZE * n) % PAGE_SIZE in ERRATUM_843419_OFFSETS for n, word in enumerate(words)
    )


def _jumps_by_register(word: int) -> bool:
    """Whether the word is an indirect jump: no call, and no return."""
    row = decode(word)
    return row is not None and row.flow is Flow.BRANCH and "branch_imm" not in row.families

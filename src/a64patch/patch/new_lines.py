"""One line of new code as words at an address, and the names that it may use.

Read on: annex.py puts all lines of a patch one behind the other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

from a64patch.a64.assembler import assemble_one
from a64patch.a64.disassembler import disassemble
from a64patch.a64.generate import gen_branch_imm
from a64patch.a64.names import QUOTED, outside_quotes, parse_site, site_text
from a64patch.a64.operands import NUMBER, check_range, number_of
from a64patch.a64.predicates import decode
from a64patch.a64.references import ADDRESS_SPACE, ReferenceKind, goal_of, reference
from a64patch.a64.relocation import relocate, relocate_block
from a64patch.a64.row import PAGE_SIZE, Flow
from a64patch.a64.source import without_comments
from a64patch.a64.words import INSN_SIZE
from a64patch.errors import AssemblyError, EncodingError, PatchFormatError, PlanError, SymbolError, UnmovableError
from a64patch.oneline import shown
from a64patch.patch.asmdiff import ANNEX, UNKNOWN, Line
from a64patch.patch.meaning import comparable_word, needs_pages, refers, word_anywhere
from a64patch.targets.base import NewReference
from a64patch.targets.symbols import SymbolTable

_PART = rf"(?:{QUOTED}|[^\s\"-])+"
_DIFFERENCE = re.compile(rf"\.word\s+(?P<goal>{_PART})\s*-\s*(?P<origin>{_PART})", re.ASCII | re.IGNORECASE)
"""A word of data: the distance from one site to another. A name with `-` is in quotes."""
_NUMBER = re.compile(rf"\.(?:word|inst)\s+(?!#)({NUMBER})", re.ASCII | re.IGNORECASE)
_BACKWARDS = re.compile(r"-\s*[\d(]", re.ASCII)
"""A distance with a minus: no bare name has one before a digit."""
_LONGEST_LITERAL = 16
"""Bytes (Arm ARM, C7.2: LDR (literal, SIMD&FP) of a Q register)."""


class Piece(Protocol):
    """One line of new code."""

    def words(self, at: int, names: NewNames) -> list[int]:
        """Its words at an address."""


class NewNames:
    """The names for a line of new code: labels, annexes, then those of the target."""

    def __init__(
        self, symbols: SymbolTable, own: Mapping[str, int], data: Collection[str], *, exact: bool,
        unplaced: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        """`own` are the addresses of labels and annexes; `data` are the annexes to which an offset may be added.

        Without `exact`, a name of the target must reach to the address that it stands for. `unplaced` as
        `Target.unplaced`.
        """
        self.own = own
        self.unplaced = unplaced
        self.references: dict[int, NewReference] = {}
        """By the address of the word: what the target has to be told (`Target.refer`)."""
        self.nowhere = 0
        """What a name without an address stands for."""
        self.goal: int | str = 0
        """The address of the last name without its offset; the name itself if it has no address."""
        self._symbols, self._data, self._exact = symbols, data, exact
        self.asked: int | None = None
        """The address of the last name that was asked for."""
        self.site = ""
        """This name."""
        self.error: SymbolError | PlanError | None = None
        """Why it has no address."""

    def resolve(self, site: str) -> int:
        """The address of a site. SymbolError for an unknown one, PlanError for one that says nothing on this build."""
        self.site = site
        try:
            self.asked = self._resolve(site)
        except (SymbolError, PlanError) as error:
            self.error = error
            raise SymbolError(str(error)) from None
        return self.asked

    def _resolve(self, site: str) -> int:
        parts = parse_site(site)
        if parts is not None and (parts.owner == ANNEX or (not parts.owner and parts.name in self.own)):
            name = site_text(parts.name, parts.owner)
            if name not in self.own:
                raise SymbolError(f"there is no annex {parts.name!r} in the patch")
            if parts.offset and name not in self._data:
                raise PlanError(f"{site}: the code of {name} may grow where it lies, so name a label in it")
            self.goal = self.own[name]
            return self.own[name] + parts.offset
        if parts is not None and not parts.owner and not parts.is_number and self._is_unplaced(parts.name):
            self.goal = parts.name
            return self.nowhere
        address = self._symbols.resolve(site)
        self.goal = address - (parts.offset if parts is not None else 0)
        if not self._exact and not self._symbols.holds(site):
            raise PlanError(f"{site} says nothing on another build, since its symbol ends before")
        return address

    def _is_unplaced(self, name: str) -> bool:
        return self.unplaced is not None and name in self.unplaced and not self._symbols.named(name)

    def describe(self, address: int) -> str:
        """The address for people."""
        return self._symbols.describe(address)


class Fixed(NamedTuple):
    """A word that is the same everywhere."""

    word: int

    def __repr__(self) -> str:
        return shown(self, f"{self.word:08x}")

    def words(self, at: int, names: NewNames) -> list[int]:
        """The word."""
        return [self.word]


class PlaceDependent(NamedTuple):
    """An instruction whose word depends on its address."""

    line: Line
    word: int
    """The word anywhere: without distances and low bits of names."""
    exact: bool
    stale: str
    """The function of a hunk that was found elsewhere in it: nothing says what an offset in the function means."""

    def __repr__(self) -> str:
        return shown(self, repr(self.line.text))

    def words(self, at: int, names: NewNames) -> list[int]:
        """As `Piece.words`.

        - SymbolError and PlanError for its name, PatchFormatError for a text that is no instruction.
        - PlanError when no words do the same from there.
        """
        text = without_comments(self.line.text).strip()
        names.asked, names.error, names.site = None, None, ""
        names.nowhere = at - at % PAGE_SIZE if needs_pages(text) else at
        try:
            words = [assemble_one(text, at, names)]
        except AssemblyError as error:
            if names.error is not None:
                raise names.error from None
            if names.asked is None:
                raise PatchFormatError(str(error), self.line.number, 12) from None
            words = self._far(text, at, names)
        if names.asked is None:
            self._require_absolute(text, words[0], at)
        parts = parse_site(names.site)
        if self.stale and parts is not None and parts.name == self.stale:
            raise PlanError(
                f"{where(self.line)}{text!r} refers to its own function, which has changed around it: make the patch"
                " again for this build"
            )
        if names.unplaced is not None:
            self._refer(text, words[0], at, names)
        return words

    def _refer(self, text: str, word: int, at: int, names: NewNames) -> None:
        """Note what the target has to be told about the word, if it does not tell that itself."""
        pages, parts = needs_pages(text), parse_site(names.site)
        if not pages and (names.asked is None or isinstance(names.goal, int)):
            return
        if parts is None or names.asked is None or parts.offset >> 31 or _BACKWARDS.search(outside_quotes(text)):
            raise PlanError(f"{where(self.line)}{text!r}: whoever loads the target moves this place; name a symbol"
                            " before it, and the distance from there")  # fmt: skip
        row = decode(word)
        if not pages and (row is None or row.name not in ("b", "bl")):
            raise PlanError(
                f"{where(self.line)}{text!r}: {names.goal} may be far away when the target is loaded; only b, bl, adrp"
                " and :lo12: reach it"
            )
        names.references[at] = NewReference(at, names.goal, parts.offset)

    def _far(self, text: str, at: int, names: NewNames) -> list[int]:
        """The words for an instruction that does not reach from `at`."""
        assert names.asked is not None
        near = _near(names.asked)
        try:
            return relocate_block([assemble_one(text, near, names)], near, at, allow_erratum_843419=True)
        except AssemblyError as error:
            raise PatchFormatError(str(error), self.line.number, 12) from None
        except UnmovableError as error:
            raise PlanError(f"{where(self.line)}{text!r} at {at:#x}: {error}") from None

    def _require_absolute(self, text: str, word: int, at: int) -> None:
        """Raise for a text without names, unless it refers to an address that says something."""
        goal = goal_of(word, at)
        if goal is None:
            return
        elsewhere = at + PAGE_SIZE
        try:
            is_relative = goal_of(assemble_one(text, elsewhere), elsewhere) != goal
        except AssemblyError:
            is_relative = False
        if is_relative:
            raise PatchFormatError(f"{text!r} counts from its own address: name the place by a label", self.line.number)
        if not self.exact:
            raise PlanError(f"{where(self.line)}{text!r}: an address says nothing about another build; name a symbol")


class _Distance(NamedTuple):
    """A word of data: the distance between two places."""

    line: Line
    goal: str
    origin: str

    def words(self, at: int, names: NewNames) -> list[int]:
        names.error = None
        try:
            goal, origin = (self._place(site, at, names) for site in (self.goal, self.origin))
        except SymbolError as error:
            raise names.error or error from None
        if not -(1 << 31) <= goal - origin < 1 << 32:
            raise PlanError(f"{where(self.line)}the distance {goal - origin} does not fit in 32 bits")
        return [(goal - origin) & 0xFFFFFFFF]

    def _place(self, site: str, at: int, names: NewNames) -> int:
        if site == ".":
            return at
        address = names.resolve(site)
        if names.unplaced is not None and names.goal not in names.own.values():
            raise PlanError(
                f"{where(self.line)}{site} is no place of the new code: the distance is known only when the target is"
                " loaded"
            )
        return address


class Moved(NamedTuple):
    """An instruction of the old code, for which the new code has a copy."""

    word: int
    address: int
    region: tuple[int, int]
    """The old code that is not executed in place any more."""
    goals: Mapping[int, str]
    """The names of places in the new code, by the old address that each replaces."""

    def __repr__(self) -> str:
        return shown(self, f"{self.word:08x} from {self.address:#x}")

    def words(self, at: int, names: NewNames) -> list[int]:
        """As `Piece.words`; UnmovableError when no words do the same from there."""
        row = decode(self.word)
        refers_to = reference(row) if row is not None else None
        start, end = self.region
        if refers_to is None:
            return [relocate(self.word, self.address, at)]  # refuses a word that may use its address in another way
        goal = refers_to.target(self.word, self.address)
        if refers_to.kind is ReferenceKind.SIGNATURE:
            raise UnmovableError(f"the instruction at {self.address:#x} depends on the address of another one")
        if row is not None and row.flow is Flow.CALL and start <= goal <= end:
            raise UnmovableError(f"the instruction at {self.address:#x} calls words close to it, to learn its address")
        if refers_to.kind is ReferenceKind.BRANCH and start <= goal < end:
            if goal not in self.goals:
                raise UnmovableError(
                    f"the instruction at {self.address:#x} branches to {goal:#x}, which the patch takes away, and"
                    " nothing shows what replaces it"
                )
            goal = names.own[self.goals[goal]]
        if refers_to.kind is ReferenceKind.LITERAL and start - _LONGEST_LITERAL < goal < start + INSN_SIZE:
            raise UnmovableError(
                f"the instruction at {self.address:#x} reads the word at {start:#x} as a literal, or words close to"
                " it, and that word becomes a branch"
            )
        near = _near(goal)
        return relocate_block([refers_to.encode(self.word, near, goal)], near, at, allow_erratum_843419=True)


def _near(goal: int) -> int:
    """An address from which every instruction reaches `goal`, and which no literal at `goal` overlaps."""
    return ((goal & -INSN_SIZE) + 2 * _LONGEST_LITERAL) % ADDRESS_SPACE


class Back(NamedTuple):
    """The branch back to the old code."""

    goal: int

    def __repr__(self) -> str:
        return shown(self, f"to {self.goal:#x}")

    def words(self, at: int, names: NewNames) -> list[int]:
        """As `Piece.words`; PlanError when it does not reach."""
        try:
            return [gen_branch_imm(at, self.goal)]
        except EncodingError:
            raise PlanError(
                f"the new code at {at:#x} is out of reach: no branch leads back to {self.goal:#x}"
            ) from None


def where(line: Line) -> str:
    """The beginning of a sentence about a line of a patch file; empty for a line that comes from none."""
    return f"line {line.number}: " if line.number else ""


def unknown_place(line: Line) -> PatchFormatError:
    """The error for a line that has a word, although its word depends on the place of new code."""
    return PatchFormatError(
        f"the word of {line.text or 'this instruction'!r} depends on where new code will lie: write {UNKNOWN}, and its"
        " text",
        line.number,
        2,
    )


def falls_through(piece: Piece) -> bool:
    """Whether execution may go on behind the piece."""
    row = decode(piece.word) if isinstance(piece, Fixed | Moved | PlaceDependent) else None
    return row is None or row.conditional or row.flow not in (Flow.BRANCH, Flow.RETURN)


def piece_of(line: Line, exact: bool, stale: str = "") -> Piece:
    """The piece of an instruction or a word of data."""
    text = without_comments(line.text).strip()
    number, distance = _NUMBER.fullmatch(text), _DIFFERENCE.fullmatch(text)
    if distance is not None:
        if line.word is not None:
            raise unknown_place(line)
        return _Distance(line, distance["goal"], distance["origin"])
    if number is not None:
        value = _value(line, number[1])
        if line.word is not None and line.word != value:
            raise PatchFormatError(f"the word {line.word:08x} is not that of {text!r}: correct one", line.number, 2)
        return Fixed(value)
    if line.word is not None:
        if refers(line.word) or needs_pages(text):
            raise unknown_place(line)
        return Fixed(comparable_word(line))
    if not text:
        raise PatchFormatError("neither word nor text: give one", line.number, 2)
    word = word_anywhere(line)
    return PlaceDependent(line, word, exact, stale) if refers(word) or needs_pages(text) else Fixed(word)


def filled(line: Line) -> Line:
    """A line of new code with its word and its text, as far as they do not depend on where it lies.

    PatchFormatError where word and text disagree, and for a line that no new code may have.
    """
    piece = piece_of(line, exact=True)
    if not isinstance(piece, Fixed):
        return line
    return replace(line, word=piece.word, text=line.text or disassemble(piece.word))


def _value(line: Line, text: str) -> int:
    try:
        return check_range(number_of(text), 0, 0xFFFFFFFF, "word")
    except AssemblyError as error:
        raise PatchFormatError(str(error), line.number, 12) from None

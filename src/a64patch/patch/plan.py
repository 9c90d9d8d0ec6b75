"""A patch and a target make a plan: every change, its state, its verdict, and the synchronisation that it needs.

May know: a64/, asmdiff.py, meaning.py, hazards.py, text.py, target/base.py, the errors.
Read on: hazards.py for what may go wrong all the same, transaction.py carries a plan out.

Planning reads the target and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise

from a64patch.a64.cmodx import Verdict, hotpatch_safe
from a64patch.a64.disassembler import disassemble
from a64patch.a64.words import INSN_SIZE, from_bytes, require_aligned
from a64patch.errors import MappingError, PatchFormatError, PlanError, SymbolError
from a64patch.patch.asmdiff import BUILD_ID, AsmDiff, Hunk, Line
from a64patch.patch.hazards import Hazard, hazards_of
from a64patch.patch.meaning import Place, assemble_line, exact_word, new_word, refers, words_by_meaning
from a64patch.patch.text import Change, Method, method_for
from a64patch.target.base import Identity, Target
from a64patch.target.symbols import Symbol, SymbolTable

NEARBY = 64 * INSN_SIZE
"""Bytes before and behind its symbol, or its address, that a hunk is searched in on another build."""
_LONGEST_SEARCH = 1 << 22


class State(Enum):
    """What stands at a hunk's place."""

    TO_DO = "not applied"
    """The old words."""
    APPLIED = "applied"
    """The new words."""
    FOREIGN = "foreign"
    """Neither."""


@dataclass(frozen=True)
class PlannedHunk:
    """A hunk, found at a place of the target."""

    hunk: Hunk
    address: int
    """Of its first line (bytes)."""
    state: State
    changes: tuple[Change, ...] = ()
    """What applying it writes: the words that differ. Old words are those that stand there when it is to be done."""
    offset: int = 0
    """Bytes from where its site says to where it was found."""
    padding: int = 0
    """NOPs that stand where there is no `+` line."""
    difference: str = ""
    """Where it is foreign: the first word that is neither old nor new, as a sentence."""
    found: tuple[int, ...] = ()
    """The words that stand there."""


@dataclass(frozen=True)
class Plan:
    """All that would be done to a target, known before any of it is."""

    diff: AsmDiff
    identity: Identity
    hunks: tuple[PlannedHunk, ...]
    method: Method | None
    """The lightest safe way; None when nothing is to be done."""
    reason: str
    """Why this method."""
    hazards: tuple[Hazard, ...]
    by_meaning: bool
    """The target is not known to be the build that the patch was made for: symbols decide, not distances."""
    profile: str = "2018"
    cpus: int = 0
    """How many CPUs may be executing the target."""

    @property
    def changes(self) -> tuple[Change, ...]:
        """Every word to be written, in the order of the hunks; empty unless every hunk is to be done."""
        return tuple(change for hunk in self.hunks for change in hunk.changes if hunk.state is State.TO_DO)

    @property
    def state(self) -> State:
        """To do or applied when every hunk is; else foreign."""
        states = {hunk.state for hunk in self.hunks}
        return states.pop() if len(states) == 1 else State.FOREIGN

    def verdict(self, change: Change) -> Verdict:
        """May this one word change while CPUs execute it? See `hotpatch_safe`."""
        return hotpatch_safe(change.old, change.new, self.profile)


def make_plan(diff: AsmDiff, target: Target, *, fuzz: bool = False, profile: str = "2018") -> Plan:
    """What applying `diff` to the target would do.

    The patch's Build-Id decides how lines are compared: when the target has the same, words are exact; when the patch
    has none, by meaning (see meaning.py) at the place that each site names; with `fuzz`, by meaning, and a hunk that
    does not stand at its place is searched in its symbol and NEARBY, and found if it fits once.

    PlanError: wrong build; a hunk that fits twice, overlaps another or reaches beyond its symbol; a new word whose
    meaning is not known there. SymbolError, AlignmentError, MappingError for sites; PatchFormatError where word and
    text disagree; what the target raises.
    """
    identity = target.identity()
    by_meaning = _compare_by_meaning(diff, identity, fuzz)
    finder = _Finder(target, by_meaning, fuzz)
    hunks = tuple(finder.plan(diff.hunks))
    _require_apart(hunks, target)
    plan = Plan(diff, identity, hunks, None, "nothing is to be done", (), by_meaning, profile, target.capabilities.cpus)
    if not plan.changes:
        return plan
    method, reason = method_for(target.capabilities, plan.changes, profile)
    return replace(plan, method=method, reason=reason, hazards=tuple(hazards_of(target, plan.changes)))


def fill(diff: AsmDiff, target: Target | None = None) -> AsmDiff:
    """The patch with every word and text that can be known: what `a64patch fmt` prints.

    An unknown word comes from its text, and without text, for a line that stands there now, from the target. A
    missing text comes from the word. Without a target a text with symbols cannot become a word: PatchFormatError.
    A word and its text that disagree: PatchFormatError, as far as that can be told. A patch that takes words from a
    target and names no build gets the target's Build-Id.
    """
    filled = replace(diff, hunks=tuple(_filled(hunk, target) for hunk in diff.hunks))
    if filled != diff and target is not None and not diff.build_id:
        build_id = target.identity().build_id
        return replace(filled, headers=(*filled.headers, (BUILD_ID, build_id))) if build_id else filled
    return filled


def _filled(hunk: Hunk, target: Target | None) -> Hunk:
    symbols = target.symbols if target is not None else _own_symbol(hunk)
    old = new = symbols.resolve(hunk.site)
    lines: list[Line] = []
    for line in hunk.lines:
        if line.sign == "#":
            lines.append(line)
            continue
        place = Place(symbols, new if line.sign == "+" else old)
        word = line.word
        if word is not None:
            exact_word(line, place)
        elif line.text:
            word = _assembled(line, place)
        elif line.sign != "+" and target is not None:
            word = from_bytes(target.read(old, INSN_SIZE))[0]
        else:
            raise PatchFormatError("neither word nor text: give one, or a target that holds it", line.number, 2)
        text = line.text
        if not text and (target is not None or not refers(word)):
            text = disassemble(word, place.address, symbols)
        lines.append(replace(line, word=word, text=text))
        old += INSN_SIZE * (line.sign in " -")
        new = old if line.sign == " " else new + INSN_SIZE * (line.sign == "+")
    return replace(hunk, lines=tuple(lines))


def _assembled(line: Line, place: Place) -> int:
    try:
        return assemble_line(line, place)
    except SymbolError as error:
        raise PatchFormatError(f"{line.text!r} cannot become a word: {error}", line.number, 12) from None


def _own_symbol(hunk: Hunk) -> SymbolTable:
    """All that is known without a target; where the hunk's symbol stands does not matter to branches within it."""
    name, plus, _ = hunk.site.rpartition("+")
    return SymbolTable(lambda: [Symbol((name if plus else hunk.site).rpartition(":")[2], 1 << 32, 1)])


def _compare_by_meaning(diff: AsmDiff, identity: Identity, fuzz: bool) -> bool:
    if not diff.build_id:
        return True
    if diff.build_id == identity.build_id:
        return False
    if not fuzz:
        has = f"is build {identity.build_id}" if identity.build_id else "does not tell its build id"
        raise PlanError(
            f"the patch was made for build {diff.build_id}, but {identity.location or 'the target'} {has};"
            " --fuzz applies it by meaning; nothing was changed"
        )
    return True


class _Finder:
    """Finds the place and the state of hunks."""

    def __init__(self, target: Target, by_meaning: bool, fuzz: bool) -> None:
        self._target, self._by_meaning, self._fuzz = target, by_meaning, fuzz
        self._code = list(target.code_ranges())

    def plan(self, hunks: Sequence[Hunk]) -> Iterator[PlannedHunk]:
        """Each hunk in its order. All words are read at once."""
        addresses = [require_aligned(self._target.symbols.resolve(hunk.site)) for hunk in hunks]
        sizes = [INSN_SIZE * len(hunk.old) for hunk in hunks]
        for hunk, address, size in zip(hunks, addresses, sizes, strict=True):
            self._require_code(hunk, address, size)
        data = self._target.read_many(list(zip(addresses, sizes, strict=True)))
        for hunk, address, raw in zip(hunks, addresses, data, strict=True):
            symbol = self._symbol_of(hunk, address, len(raw))
            planned = self._at(hunk, address, address, from_bytes(raw), symbol)
            if self._fuzz and self._by_meaning:
                planned = self._search(hunk, address, symbol, planned)
            yield planned

    def _symbol_of(self, hunk: Hunk, address: int, size: int) -> Symbol | None:
        found = self._target.symbols.lookup(address)
        if found is None:
            return None
        symbol, distance = found
        if symbol.size and distance + size > symbol.size and not self._fuzz:
            raise PlanError(
                f"the hunk at {hunk.site} reaches {distance + size - symbol.size} bytes beyond {symbol.name}, which has"
                f" {symbol.size}; nothing was changed"
            )
        return symbol

    def _require_code(self, hunk: Hunk, address: int, size: int) -> None:
        if self._code and not any(start <= address and address + size <= end for start, end in self._code):
            raise MappingError(f"the hunk at {hunk.site} ({address:#x}) does not lie in code; nothing was changed")

    def _at(self, hunk: Hunk, address: int, site: int, found: Sequence[int], symbol: Symbol | None) -> PlannedHunk:
        """The hunk at this place, whatever its state there."""
        target, offset = self._target, address - site
        end = address + INSN_SIZE * len(found)
        old_lines, new_lines = hunk.old, hunk.new
        places = [
            Place(target.symbols, address + INSN_SIZE * index, offset, symbol, address, end)
            for index in range(len(found))
        ]
        if self._by_meaning:
            olds = [words_by_meaning(line, place) for line, place in zip(old_lines, places, strict=True)]
            # A context line stays as it is, whichever of its words that is.
            news = [words_by_meaning(line, place) for line, place in zip(new_lines, places, strict=True)]
        else:
            olds = [(exact_word(line, place),) for line, place in zip(old_lines, places, strict=True)]
            news = [
                before if line.sign == " " else (exact_word(line, place),)
                for line, place, before in zip(new_lines, places, olds, strict=True)
            ]
        words = tuple(found)
        padding = len(new_lines) - sum(line.sign in " +" for line in hunk.lines)
        if all(word in after for word, after in zip(words, news, strict=True)):
            return PlannedHunk(hunk, address, State.APPLIED, (), offset, padding, "", words)
        for place, word, before, line in zip(places, words, olds, old_lines, strict=True):
            if word not in before:
                why = self._difference(place.address, word, before[0], line)
                return PlannedHunk(hunk, address, State.FOREIGN, (), offset, padding, why, words)
        changes = []
        for place, word, line, after in zip(places, words, new_lines, news, strict=True):
            if line.sign == "+":
                new = new_word(line, place) if self._by_meaning else after[0]
                if new != word:
                    changes.append(Change(place.address, word, new))
        return PlannedHunk(hunk, address, State.TO_DO, tuple(changes), offset, padding, "", words)

    def _difference(self, address: int, word: int, wanted: int, line: Line) -> str:
        symbols = self._target.symbols
        stands = disassemble(word, address, symbols)
        return (
            f"{symbols.describe(address)} holds {word:08x} ({stands}), not {wanted:08x}"
            f" ({line.text or disassemble(wanted, address, symbols)})"
        )

    def _search(self, hunk: Hunk, site: int, symbol: Symbol | None, here: PlannedHunk) -> PlannedHunk:
        """The one place in and around the symbol where the hunk stands, not applied or applied."""
        start, end = self._region(site, symbol)
        words = from_bytes(self._target.read(start, end - start))
        count = len(here.found)
        fits: list[PlannedHunk] = []
        for index in range(len(words) - count + 1):
            address = start + INSN_SIZE * index
            if address == site:
                planned = here
            else:
                try:
                    planned = self._at(hunk, address, site, words[index : index + count], symbol)
                except (SymbolError, PatchFormatError, PlanError):
                    # What it means there cannot be said, so it does not stand there.
                    continue
            if planned.state is not State.FOREIGN:
                fits.append(planned)
        if len(fits) > 1:
            places = ", ".join(self._target.symbols.describe(planned.address) for planned in fits[:4])
            raise PlanError(
                f"the hunk at {hunk.site} fits {len(fits)} times ({places}): give it more context; nothing was changed"
            )
        return fits[0] if fits else here

    def _region(self, site: int, symbol: Symbol | None) -> tuple[int, int]:
        start, end = (symbol.address, symbol.address + symbol.size) if symbol is not None else (site, site)
        if end - start > _LONGEST_SEARCH:
            start, end = site, site
        start, end = min(start, site) - NEARBY, max(end, site) + NEARBY
        inside = [(low, high) for low, high in self._code if low <= site < high]
        if inside:
            start, end = max(start, inside[0][0]), min(end, inside[0][1])
        return start & -INSN_SIZE, end & -INSN_SIZE


def _require_apart(hunks: Sequence[PlannedHunk], target: Target) -> None:
    ascending = sorted(hunks, key=lambda planned: planned.address)
    for one, other in pairwise(ascending):
        if other.address < one.address + INSN_SIZE * len(one.found):
            raise PlanError(
                f"the hunks at {one.hunk.site} and {other.hunk.site} overlap at"
                f" {target.symbols.describe(other.address)}: make them one; nothing was changed"
            )

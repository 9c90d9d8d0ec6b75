"""Finds the place of each hunk of a patch in a target, and tells which words the target holds there.

Read on: meaning.py says which words a line may stand for; plan.py decides what is done about them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from a64patch.a64.disassembler import disassemble
from a64patch.a64.effects import lands
from a64patch.a64.generate import gen_branch_imm
from a64patch.a64.predicates import is_b
from a64patch.a64.words import INSN_SIZE, from_bytes, require_aligned
from a64patch.errors import MappingError, PatchFormatError, PlanError, SymbolError
from a64patch.oneline import counted, shown
from a64patch.patch.asmdiff import Hunk, Line
from a64patch.patch.meaning import Place, exact_word, fixed_bits, new_word, words_by_meaning
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.section import Change
from a64patch.targets.symbols import Symbol

if TYPE_CHECKING:
    from a64patch.patch.annex import InPlace, Lead, PlacedCode

NEARBY = 64 * INSN_SIZE
"""A hunk is searched this many bytes before and behind its symbol, or before and behind its address without one."""
_LONGEST_SEARCH = 1 << 22


class State(Enum):
    """Which words the target holds at a hunk's place."""

    TO_DO = "not applied"
    """The old words."""
    APPLIED = "applied"
    """The new words."""
    FOREIGN = "foreign"
    """Other words."""


class PlannedHunk(NamedTuple):
    """A hunk, found at a place of the target."""

    hunk: Hunk
    address: int
    """Of its first line (bytes)."""
    state: State
    changes: tuple[Change, ...] = ()
    """The words to write, each with the target's word now; empty unless the state is TO_DO."""
    offset: int = 0
    """Bytes from the address that its site names to `address`."""
    padding: tuple[int, ...] = ()
    """The addresses of the NOPs that replace `-` lines without a `+` line."""
    difference: str = ""
    """A sentence about the first word that is neither old nor new; empty unless the state is FOREIGN."""
    found: tuple[int, ...] = ()
    """The target's words at this place."""
    leads: tuple[Lead, ...] = ()
    """Branches of the target that may lead to new code of the patch, while the place of that code is not known."""
    without: tuple[int, ...] = ()
    """Of a detour: the words that stand at this place without it."""
    symbol: str = ""
    """Of a detour: the symbol of its function; empty when none is known."""
    leads_away: bool = False
    """Its one new word in place is a branch to new code of the patch: the branch of a detour, or of a redirect."""

    def __repr__(self) -> str:
        more = self.difference or f"{counted(len(self.changes), 'word')} to write"
        return shown(self, f"{self.hunk.site} at {self.address:#x}: {self.state.value},", more)


class Finder:
    """Finds the place and the state of each hunk."""

    def __init__(self, target: Target, by_meaning: bool, fuzz: bool, *, addresses_exact: bool = False) -> None:
        self._target, self._by_meaning, self._fuzz = target, by_meaning, fuzz
        self._addresses_exact = addresses_exact
        self._writable = target.writable()
        self._in_place: InPlace | None = None
        """What lines in place may name; None for a patch without new code."""
        self.placed: PlacedCode | None = None
        """The new code of the patch; None while its place is not known. Then a word that may lead to it is taken so."""

    def _compares(self, hunk: Hunk) -> bool:
        """Whether the hunk is compared by meaning."""
        return self._by_meaning and not (self._addresses_exact and hunk.site[:1].isdigit())

    def plan(self, hunks: Sequence[Hunk]) -> Iterator[PlannedHunk]:
        """The planned hunks, in the order of the patch. Reads all their words at once. An annex is none of them."""
        if any(hunk.kind for hunk in hunks):
            from a64patch.patch.annex import InPlace

            self._in_place = InPlace(hunks)
        hunks = [hunk for hunk in hunks if not hunk.kind.endswith("annex")]
        resolve, searches = self._target.symbols.resolve, self._fuzz and self._by_meaning
        requests = [(require_aligned(resolve(hunk.site)), INSN_SIZE * len(_in_place(hunk)[1])) for hunk in hunks]
        for hunk, (address, size) in zip(hunks, requests, strict=True):
            self._require_code(hunk, address, size)
        data = self._target.read_many(requests)
        for hunk, (address, size), raw in zip(hunks, requests, data, strict=True):
            symbol = self._symbol_at(address)
            if not searches:
                self._require_inside(hunk, address, size, symbol)
            planned = self._at(hunk, address, address, from_bytes(raw), symbol)
            if searches:
                planned = self._search(hunk, address, symbol, planned)
                self._require_inside(hunk, planned.address, size, self._symbol_at(planned.address))
            yield planned

    def _symbol_at(self, address: int) -> Symbol | None:
        found = self._target.symbols.lookup(address)
        return found[0] if found is not None else None

    def _require_inside(self, hunk: Hunk, address: int, size: int, symbol: Symbol | None) -> None:
        if symbol is not None and symbol.size and address + size > symbol.address + symbol.size:
            raise PlanError(
                f"the hunk at {hunk.site} reaches {address + size - symbol.address - symbol.size} bytes beyond"
                f" {symbol.name}, which has {symbol.size}; nothing was changed"
            )

    def _require_code(self, hunk: Hunk, address: int, size: int) -> None:
        if self._writable is not None and not self._writable.covers(address, address + size):
            raise MappingError(f"the hunk at {hunk.site} ({address:#x}) does not lie in code; nothing was changed")

    def _at(self, hunk: Hunk, address: int, site: int, found: Sequence[int], symbol: Symbol | None) -> PlannedHunk:
        """The hunk as planned at this address, in whatever state."""
        symbols, offset, by_meaning = self._target.symbols, address - site, self._compares(hunk)
        words_of: Callable[[Line, Place, int | None], tuple[int, ...]] = words_by_meaning if by_meaning else _exactly
        end = address + INSN_SIZE * len(found)
        places = [Place(symbols, each, offset, symbol, address, end) for each in range(address, end, INSN_SIZE)]
        if hunk.kind:
            return self._detour_at(hunk, places, found, words_of)
        old_lines, new_lines = hunk.old, hunk.new
        leads: list[Lead] = []

        def words(line: Line, place: Place, word: int | None, there: int) -> tuple[int, ...]:
            if not self._names_new_code(line):
                return words_of(line, place, word)
            return self._words_in_place(line, place, there, leads)

        olds = [words(line, place, word, word) for line, place, word in zip(old_lines, places, found, strict=True)]
        # A context line does not change: each of its old words is also a new one.
        news = [
            olds[index] if line.sign == " " else words(line, places[index], None, found[index])
            for index, line in enumerate(new_lines)
        ]
        there = tuple(found)
        padding: tuple[int, ...] = ()
        if len(new_lines) > len([line for line in hunk.lines if line.sign in " +"]):
            padding = tuple(places[index].address for index in hunk.padding)
        for word, after in zip(there, news, strict=True):
            if word not in after:
                break
        else:
            return PlannedHunk(hunk, address, State.APPLIED, (), offset, padding, "", there, tuple(leads))
        for place, word, before, line in zip(places, there, olds, old_lines, strict=True):
            if word not in before:
                why = self._difference(place.address, word, before[0] if before else None, line)
                return PlannedHunk(hunk, address, State.FOREIGN, (), offset, padding, why, there)
        changes: list[Change] = []
        for place, word, line, after in zip(places, there, new_lines, news, strict=True):
            if line.sign == " " or not after:
                continue
            new = new_word(line, place) if by_meaning and not self._names_new_code(line) else after[0]
            if new != word:
                changes.append(Change(place.address, word, new))
        named = next(filter(self._names_new_code, hunk.lines), None)
        away = named is not None and len(changes) == 1 and bool(is_b(changes[0][1 if named.sign == "-" else 2]))
        return PlannedHunk(
            hunk, address, State.TO_DO, tuple(changes), offset, padding, "", there, tuple(leads), leads_away=away
        )

    def _names_new_code(self, line: Line) -> bool:
        """Whether the line stays in place, and names new code of the patch."""
        return self._in_place is not None and self._in_place.names_new_code(line)

    def _words_in_place(self, line: Line, place: Place, word: int, leads: list[Lead]) -> tuple[int, ...]:
        """The word of a line that names new code. While the place of that code is not known: `word` if it may be it."""
        assert self._in_place is not None
        if self.placed is not None:
            return (self.placed.word_in_place(line, place.address),)
        lead = self._in_place.lead(line, word, place.address)
        if lead is None:
            return ()
        leads.append(lead)
        return (word,)

    def _detour_at(
        self, hunk: Hunk, places: Sequence[Place], found: Sequence[int],
        words_of: Callable[[Line, Place, int | None], tuple[int, ...]],
    ) -> PlannedHunk:  # fmt: skip
        """A detour as planned at this place, or one that ends."""
        from a64patch.patch.annex import Lead, parts_of

        parts = parts_of(hunk)
        address, offset, words = places[0].address, places[0].offset, tuple(found)
        symbol = places[0].symbol.name if places[0].symbol is not None else ""
        ends = hunk.kind.startswith("end-")
        olds = [words_of(line, place, word) for line, place, word in zip(parts.steady, places, found, strict=True)]
        at, word = places[parts.first], words[parts.first]
        goal = self._goal(word, at.address)
        leads = goal is not None and (self.placed is None or goal == self.placed.entries.get(address))
        for number, (place, each, before, line) in enumerate(zip(places, words, olds, parts.steady, strict=True)):
            if each not in before and not (number == parts.first and leads):
                why = self._difference(place.address, each, before[0], line)
                return PlannedHunk(hunk, address, State.FOREIGN, (), offset, (), why, words)
        line = parts.steady[parts.first]
        old = olds[parts.first][0]
        if word not in olds[parts.first]:
            without = (*words[: parts.first], old, *words[parts.first + 1 :])
            lead = Lead("", address, goal or 0)
            changes: tuple[Change, ...] = ()
            if ends:
                if self._compares(hunk) and line.sign != " ":
                    old = new_word(line, at)
                changes = (Change(at.address, word, old),)
            state = State.TO_DO if ends else State.APPLIED
            return PlannedHunk(hunk, address, state, changes, offset, (), "", words, (lead,), without, symbol, True)
        if not ends and lands(word):
            raise PlanError(
                f"the detour at {hunk.site} would begin at a landing pad of indirect branches: put the new instructions"
                " behind it; nothing was changed"
            )
        changes = ()
        if not ends and self.placed is not None:
            changes = (Change(at.address, word, gen_branch_imm(at.address, self.placed.entries[address])),)
        state = State.APPLIED if ends else State.TO_DO
        return PlannedHunk(hunk, address, state, changes, offset, (), "", words, (), words, symbol, True)

    def _goal(self, word: int, at: int) -> int | None:
        """Where a B leads; None for another word."""
        from a64patch.a64.references import goal_of

        return goal_of(word, at) if is_b(word) else None

    def _difference(self, address: int, word: int, wanted: int | None, line: Line) -> str:
        """A sentence about a word that differs. `wanted` is None for a line whose word depends on new code."""
        symbols = self._target.symbols
        stands = disassemble(word, address, symbols)
        claims = [text for claim in self._target.modules.claims if not claim.of_build
                  for text in claim.on([address]).values()]  # fmt: skip
        why = f"; it {' and '.join(claims)}" if claims else ""
        text = line.text or disassemble(wanted or 0, address, symbols)
        expected = text if wanted is None else f"{wanted:08x} ({text})"
        return f"{symbols.describe(address)} holds {word:08x} ({stands}), not {expected}{why}"

    def _search(self, hunk: Hunk, site: int, symbol: Symbol | None, here: PlannedHunk) -> PlannedHunk:
        """The hunk at the one place in or around its symbol that has its old or new words; `here` if there is none."""
        start, end = self._region(site, symbol)
        words = from_bytes(self._target.read(start, end - start))
        count = len(here.found)
        fits: list[PlannedHunk] = []
        for index in _alike(hunk, words):
            address = start + INSN_SIZE * index
            if address == site:
                planned = here
            else:
                try:
                    planned = self._at(hunk, address, site, words[index : index + count], symbol)
                except (SymbolError, PatchFormatError):
                    # The hunk has no meaning at this address, so it does not fit.
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
        inside = Ranges.of(self._target.code_ranges()).around(site)
        if inside is not None:
            start, end = max(start, inside[0]), min(end, inside[1])
        return start & -INSN_SIZE, end & -INSN_SIZE


def _exactly(line: Line, place: Place, _: int | None) -> tuple[int, ...]:
    return (exact_word(line, place),)


def _alike(hunk: Hunk, words: Sequence[int]) -> Iterator[int]:
    """The indexes in `words` where the old or new words of the hunk match in all bits but distances."""
    wanted = []
    first, in_place = _in_place(hunk)
    count = len(in_place)
    for lines in (in_place,) if hunk.kind else (in_place, hunk.new):
        masks = [0 if number == first or line.word is None else fixed_bits(line) for number, line in enumerate(lines)]
        wanted.append([(mask, (line.word or 0) & mask) for line, mask in zip(lines, masks, strict=True)])
    for index in range(len(words) - count + 1):
        for pattern in wanted:
            if all(words[index + place] & mask == word for place, (mask, word) in enumerate(pattern)):
                yield index
                break


def _in_place(hunk: Hunk) -> tuple[int, Sequence[Line]]:
    """The number of the line that a detour makes a branch, or -1; and the lines of the words at the hunk's place."""
    if not hunk.kind:
        return -1, hunk.old
    from a64patch.patch.annex import parts_of

    parts = parts_of(hunk)
    return parts.first, parts.steady

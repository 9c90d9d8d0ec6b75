"""Plans with new code that lies elsewhere: whether the target has it already, where it goes, and what may go wrong.

Read on: annex.py makes the words; plan.py makes the whole plan; transaction.py carries it out.

The new code of a patch is one block, the annex. When the target has it, a branch of the patch leads there: so the place
of the annex is found by the words of the target alone, without a journal, and then compared word by word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from a64patch.a64.effects import lands
from a64patch.a64.predicates import decode, is_bti, is_load_ex, is_nop, is_store_ex
from a64patch.a64.references import ReferenceKind, reference
from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import A64PatchError, EncodingError, PatchFormatError, PlanError, UnmovableError
from a64patch.oneline import counted, shown
from a64patch.patch.annex import Cut, InPlace, NewCode, PlacedCode, parts_of
from a64patch.patch.asmdiff import AsmDiff, reverse
from a64patch.patch.finding import Finder, PlannedHunk, State
from a64patch.patch.hazards import Hazard, claims_on, hazards_of_new_code
from a64patch.patch.sites import ways_into
from a64patch.targets.base import BRANCH_REACH, NewReference, Room, Target
from a64patch.targets.section import Change

_MOST_WORK = 1 << 18
"""At most this many words of new code are compared with rooms, to find the place of the code in a target."""
_TRIES = 4
"""How often the words are placed anew because they needed more room than at the place before."""


class Annex(NamedTuple):
    """The new code of a patch at its place."""

    room: Room
    words: tuple[int, ...]
    """All of it, from `room.address` on."""
    entries: tuple[tuple[str, int], ...]
    """Names and addresses of its parts, for people."""
    is_code: tuple[bool, ...] = ()
    """Of each word: false for data."""
    references: tuple[NewReference, ...] = ()
    """What the target has to be told about the words before they are written."""
    ends: bool = False
    """The patch takes it away."""

    def __repr__(self) -> str:
        return shown(self, f"{counted(len(self.words), 'word')} at {self.room.address:#x}")


class WithNewCode(NamedTuple):
    """The hunks of a patch with new code, as planned."""

    hunks: tuple[PlannedHunk, ...]
    """In the order of the patch, annexes too."""
    annex: Annex | None
    """None when a hunk does not fit, or when the patch ends an annex that is not there."""
    hazards: tuple[Hazard, ...]

    def __repr__(self) -> str:
        return shown(self, f"{counted(len(self.hunks), 'hunk')}, {self.annex!r}")


def plan_new_code(diff: AsmDiff, finder: Finder, target: Target, *, exact: bool) -> WithNewCode:
    """Plan a patch with detours or annexes. `exact`: it was made for this very build.

    Reads the target, and changes nothing.

    - PlanError when a branch of the patch does not reach, and for an instruction that cannot be moved.
    - CapabilityError when the target has no room.
    - PlanError for a reversed patch that is a part of another one: the new code of both is one room.
    - PlanError for new code of zeros only: a target tells by zeros that a room is not used.
    - SymbolError and PatchFormatError for the lines of the new code; other errors as `Finder.plan`.
    - PatchFormatError for new code to which nothing in place leads: its place could not be told from an equal one.
    """
    in_place = InPlace(diff.hunks)
    if not any(
        hunk.kind.endswith("detour") or (not hunk.kind and any(map(in_place.names_new_code, hunk.lines)))
        for hunk in diff.hunks
    ):
        raise PatchFormatError("no line in place leads to the new code: take it out of the patch", diff.hunks[0].number)
    planned = tuple(finder.plan(diff.hunks))
    if any(hunk.state is State.FOREIGN for hunk in planned):
        return _in_order(diff, planned, State.FOREIGN, None)
    ends = any(hunk.kind.startswith("end-") for hunk in diff.hunks)
    forward = reverse(diff) if ends else diff
    cuts = [_cut(hunk) for hunk in planned if hunk.hunk.kind]
    code = NewCode(forward.hunks, cuts, target.symbols, exact=exact, unplaced=target.unplaced)
    there, missing = (State.TO_DO, State.APPLIED) if ends else (State.APPLIED, State.TO_DO)
    fits: list[tuple[PlacedCode, tuple[PlannedHunk, ...]]] = []
    if all(hunk.state is there for hunk in planned):
        for placed in _candidates(code, planned, target):
            finder.placed = placed
            again = tuple(finder.plan(diff.hunks))
            if all(hunk.state is there for hunk in again):
                fits.append((placed, again))
    if len(fits) > 1:
        places = " and at ".join(f"{placed.base:#x}" for placed, _ in fits[:2])
        raise PlanError(f"the new code of this patch is at {places}, and no branch tells which; nothing was changed")
    for placed, again in fits:
        room, parts = _room_of(target, placed), _entries(placed, cuts)
        if ends and (room.address, room.size) != (placed.base, placed.size):
            raise PlanError(
                f"the new code of this patch is a part of {room.size} bytes at {room.address:#x}, which a larger patch"
                " made: reverse that one as a whole; nothing was changed"
            )
        annex = Annex(room, placed.words, parts, placed.is_code, placed.references, ends)
        return _in_order(diff, again, there, annex)
    finder.placed = None
    if all(hunk.state is missing for hunk in planned):
        if ends:
            return _in_order(diff, planned, missing, None)
        return _to_do(diff, finder, target, planned, code, cuts)
    return _in_order(diff, [_not_the_patchs(hunk, target, there) for hunk in planned], State.FOREIGN, None)


def _to_do(
    diff: AsmDiff, finder: Finder, target: Target, planned: Sequence[PlannedHunk], code: NewCode, cuts: Sequence[Cut]
) -> WithNewCode:
    """The plan for a target that has none of the patch."""
    sites = [hunk.address for hunk in planned]
    try:
        room, placed = _placed(code, target, sites)
        finder.placed = placed
        again = tuple(finder.plan(diff.hunks))
    except (UnmovableError, EncodingError) as error:
        raise PlanError(f"{error}; nothing was changed") from None
    if not any(placed.words):
        raise PlanError("the new code is all zeros, as unused room is: give it another word; nothing was changed")
    hazards = ways_into(target, [_left_out(cut) for cut in cuts])
    hazards += [hazard for cut in cuts for hazard in _hazards_of(cut, target)]
    hazards += hazards_of_new_code(placed.base, placed.words, placed.is_code)
    annex = Annex(room, placed.words, _entries(placed, cuts), placed.is_code, placed.references)
    return _in_order(diff, again, State.TO_DO, annex, hazards)


def _placed(code: NewCode, target: Target, sites: Sequence[int]) -> tuple[Room, PlacedCode]:
    """The new code in a room of the target that is large enough for it."""
    placed = code.at(max(sites) & -code.alignment)
    size = placed.size
    for _ in range(_TRIES):
        room = target.find_room(size, _near(placed, sites), code.alignment)
        placed = code.at(room.address)
        if placed.size <= room.size:
            return room._replace(size=placed.size), placed
        size = placed.size
    raise PlanError("the new code needs more room at each place than at the one before; nothing was changed")


def _near(placed: PlacedCode, sites: Sequence[int]) -> tuple[int, int]:
    """The lowest and the highest address of the code that the new code must reach, or that must reach it."""
    low, high = min(sites), max(sites)
    goals = [goal for goal in _goals(placed) if high - BRANCH_REACH < goal < low + BRANCH_REACH]
    return min([low, *goals]), max([high, *goals])


def _goals(placed: PlacedCode) -> Iterator[int]:
    """Where the new code branches to elsewhere by B and BL."""
    end = placed.base + placed.size
    for number, word in enumerate(placed.words):
        row = decode(word)
        refers = reference(row) if row is not None else None
        if row is not None and refers is not None and refers.kind is ReferenceKind.BRANCH and not row.conditional:
            goal = refers.target(word, placed.base + INSN_SIZE * number)
            if not placed.base <= goal < end:
                yield goal


def _cut(hunk: PlannedHunk) -> Cut:
    stale = hunk.symbol if hunk.offset else ""
    return Cut(hunk.hunk, hunk.address, hunk.without, stale)


def _candidates(code: NewCode, planned: Sequence[PlannedHunk], target: Target) -> Iterator[PlacedCode]:
    """The new code at each place where the target may have it, and has these very words."""
    tried: set[int] = set()
    for base in _bases(code, planned, target):
        if base in tried or base < 0 or base % code.alignment:
            continue
        if len(tried) * code.least >= _MOST_WORK:
            raise PlanError(
                f"{target.identity().location} has too many rooms to find the new code of this patch in them"
            )
        tried.add(base)
        try:
            placed = code.at(base)
            found = from_bytes(target.read(base, placed.size))
        except (A64PatchError, OverflowError):
            continue  # no code of this patch can be there
        if tuple(found) == placed.words:
            yield placed


def _bases(code: NewCode, planned: Sequence[PlannedHunk], target: Target) -> Iterator[int]:
    """Where the new code would begin, by the first branch that leads to it, else by the rooms of the target."""
    lead = next((lead for hunk in planned for lead in hunk.leads if lead.goal >= 0), None)
    if lead is not None:
        base = lead.goal & -code.alignment
        for _ in range(_TRIES):
            try:
                placed = code.at(base)
            except A64PatchError:
                break
            entry = placed.names.get(lead.name) if lead.name else placed.entries.get(lead.source)
            if entry is None or entry == lead.goal:
                break
            base = lead.goal - (entry - base)
            if base < 0 or base % code.alignment:
                break
        yield base
    for room in target.rooms():
        if lead is None or room.address <= lead.goal < room.end:
            yield room.address


def _room_of(target: Target, placed: PlacedCode) -> Room:
    """The target's room that holds this code; one of the code's own size when the target does not tell."""
    for room in target.rooms():
        if room.address <= placed.base < room.end:
            return room
    return Room(placed.base, placed.size)


def _entries(placed: PlacedCode, cuts: Iterable[Cut]) -> tuple[tuple[str, int], ...]:
    named = [(name, address) for name, address in placed.names.items() if not name.startswith(".")]
    detours = [(f"detour of {cut.hunk.site}", placed.entries[cut.address]) for cut in cuts]
    return tuple(sorted([*named, *detours], key=lambda entry: entry[1]))


def _not_the_patchs(hunk: PlannedHunk, target: Target, there: State) -> PlannedHunk:
    """A hunk that leads to other code than the patch's; others as they are."""
    if hunk.state is not there or not hunk.leads:
        return hunk
    goal = hunk.leads[0].goal
    where = target.symbols.describe(goal) if goal >= 0 else "a place"
    return hunk._replace(
        state=State.FOREIGN, changes=(), difference=f"it leads to {where}, which is not the new code of this patch"
    )


def _in_order(
    diff: AsmDiff, planned: Sequence[PlannedHunk], state: State, annex: Annex | None, hazards: Sequence[Hazard] = ()
) -> WithNewCode:
    """All hunks of the patch, with its annexes in this state."""
    left = iter(planned)
    names = dict(annex.entries) if annex is not None else {}
    hunks = tuple(
        PlannedHunk(hunk, names.get(hunk.place, 0), state) if hunk.kind.endswith("annex") else next(left)
        for hunk in diff.hunks
    )
    return WithNewCode(hunks, annex, tuple(hazards))


# What may go wrong


def _left_out(cut: Cut) -> tuple[int, int]:
    """The old code [start, end) that a detour leaves out."""
    parts = parts_of(cut.hunk)
    return cut.address + INSN_SIZE * parts.first, cut.address + INSN_SIZE * parts.end


def _hazards_of(cut: Cut, target: Target) -> Iterator[Hazard]:
    """The hazards of a detour besides those of the word that becomes a branch."""
    parts = parts_of(cut.hunk)
    start, end = _left_out(cut)
    left_out = range(start, end, INSN_SIZE)
    where = target.symbols.describe
    for address in left_out:
        owner = target.relocation_at(address)
        if owner is not None and address != start:
            yield Hazard(
                "relocation", address, f"{where(address)} belongs to {owner}, but its copy in new code does not"
            )
    yield from claims_on(target, [address for address in left_out if address != start])
    words = cut.words[parts.first : parts.end]
    for predicate, others, what in (
        (is_load_ex, is_store_ex, "load-exclusive"),
        (is_store_ex, is_load_ex, "store-exclusive"),
    ):
        for address, word in zip(left_out, words, strict=True):
            if predicate(word) and not any(others(other) for other in words):
                yield Hazard(
                    "exclusive",
                    address,
                    f"the {what} at {where(address)} gets into new code without its partner",
                )


def hazards_in_place(target: Target, hunks: Sequence[PlannedHunk], hazards: Iterable[Hazard]) -> list[Hazard]:
    """The hazards of words in place, without those of a word that new code replaces as a whole.

    - A detour executes the words that it moves, all the same.
    - Behind a branch at the beginning of a function, nobody executes the partner of the word that was there: whoever
      is in the old code has executed both. An indirect call goes to the first word only.
    """
    no_danger: dict[int, frozenset[str]] = {}
    for hunk in hunks:
        if hunk.hunk.kind.endswith("detour"):
            parts = parts_of(hunk.hunk)
            if parts.steady[parts.first].sign == " ":
                no_danger[hunk.address + INSN_SIZE * parts.first] = _OF_ONE_HALF
        elif hunk.leads_away:
            no_danger[hunk.changes[0].address] = _no_danger_at(target, hunk.changes[0])
    return [hazard for hazard in hazards if hazard.name not in no_danger.get(hazard.address, ())]


_OF_ONE_HALF = frozenset({"pac-pair", "address-pair"})
"""Hazards of a word whose partner stays."""


def _no_danger_at(target: Target, change: Change) -> frozenset[str]:
    """The hazards that a branch to new code at this place does not have: none, unless its function begins there.

    Before it may be BTI and NOPs, such as those of ftrace. A PACIASP may be there too: then its partner matters.
    """
    extent = target.symbols.extent(change.address)
    if extent is None or change.address - extent[0] > _LONGEST_BEGINNING:
        return frozenset()
    before = from_bytes(target.read(extent[0], change.address - extent[0]))
    if not all(is_nop(word) or lands(word) for word in before):
        return frozenset()
    if not all(is_nop(word) or is_bti(word) for word in before):
        return frozenset({"address-pair"})
    for_calls = bool(before) and lands(change.old) | lands(change.new) == {"c"}
    return _OF_ONE_HALF | {"landing-pad"} if for_calls else _OF_ONE_HALF


_LONGEST_BEGINNING = 8 * INSN_SIZE

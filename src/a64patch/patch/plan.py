"""A patch and a target make a plan: every change, its state, its verdict, and the synchronisation that it needs.

Read on: hazards.py for the dangers that a plan may still have; transaction.py carries a plan out.

Planning reads the target and changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from a64patch.a64.cmodx import PROFILES, Verdict, hotpatch_safe
from a64patch.a64.disassembler import disassemble
from a64patch.a64.names import parse_site
from a64patch.a64.words import INSN_SIZE, from_bytes, require_aligned
from a64patch.errors import MismatchError, PatchFormatError, PlanError, RequestError, SymbolError
from a64patch.oneline import counted, shown, some
from a64patch.patch.asmdiff import BUILD_ID, AsmDiff, Hunk, Line, Sign, collector_paused
from a64patch.patch.finding import NEARBY as NEARBY
from a64patch.patch.finding import Finder
from a64patch.patch.finding import PlannedHunk as PlannedHunk
from a64patch.patch.finding import State as State
from a64patch.patch.hazards import Hazard, hazards_of
from a64patch.patch.meaning import (
    Place,
    assemble_line,
    comparable_word,
    exact_word,
    needs_pages,
    refers,
)
from a64patch.patch.sites import JOIN, Site, sites_of
from a64patch.patch.text import method_for
from a64patch.protocols import Method
from a64patch.targets.base import Identity, Target
from a64patch.targets.section import Change, Guard, counted_words, require_one_set
from a64patch.targets.symbols import GIVE_NAMES, Space, Symbol, SymbolTable

if TYPE_CHECKING:
    from a64patch.patch.annex import InPlace
    from a64patch.patch.detours import Annex

Sync = Literal["auto", "nosync", "kick", "stop"]
"""How a user wants a plan to be carried out; `auto` takes the plan's method."""

_MOST_NAMES = 4
"""At most this many hunks are named in a message."""
_WITH_DATA = "data changes with the code, so all CPUs wait meanwhile"
_GUARDED = "data must hold its words while the code changes, so all CPUs wait meanwhile"
_SOMEWHERE = 1 << 62
"""The address of a site while there is no target: out of reach of all addresses that people write."""


@dataclass(frozen=True)
class Plan:
    """Everything that a patch would do to a target."""

    diff: AsmDiff
    identity: Identity
    hunks: tuple[PlannedHunk, ...]
    method: Method | None
    """The lightest safe method; None when no word is to be written."""
    reason: str
    """Why this method."""
    sites: tuple[Site, ...]
    """The words that change as one, and the addresses where no CPU may be meanwhile."""
    hazards: tuple[Hazard, ...]
    by_meaning: bool
    """True when the target may be another build than the patch was made for: symbols decide then, not distances."""
    profile: str = "2018"
    cpus: int = 0
    """How many CPUs may be executing the target."""
    data: tuple[Change, ...] = ()
    """The words of data that are written with the code, in the same stop; empty when no word of code is to be written.
    They were not compared with the target yet."""
    guards: tuple[Guard, ...] = ()
    """The words of data that must hold inside this stop, and are not written."""
    annex: Annex | None = None
    """The new code that lies elsewhere; None without one, and when the patch does not fit."""

    def __repr__(self) -> str:
        counts = f"{counted(len(self.hunks), 'hunk')}, {counted_words(self.changes, self.data)} to write"
        hazards = dict.fromkeys(hazard.name for hazard in self.hazards)
        danger = f", hazards {some(hazards, len(hazards))}" if hazards else ""
        how = f"{self.method}: {self.reason}" if self.method else self.reason
        return shown(self, f"{self.identity.location}: {self.state.value}, {counts}{danger};", how)

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """Every word to be written, in the order of the hunks; empty unless every hunk is TO_DO."""
        if self.state is not State.TO_DO:
            return ()
        return tuple(change for hunk in self.hunks for change in hunk.changes)

    @cached_property
    def state(self) -> State:
        """The state of all hunks if it is the same; else FOREIGN."""
        states = {hunk.state for hunk in self.hunks}
        return states.pop() if len(states) == 1 else State.FOREIGN

    def verdict(self, change: Change) -> Verdict:
        """May this one word change while CPUs execute it? See `hotpatch_safe`."""
        return hotpatch_safe(change.old, change.new, self.profile)


@collector_paused()
def make_plan(
    diff: AsmDiff,
    target: Target,
    *,
    fuzz: bool = False,
    profile: str = "2018",
    together: bool = False,
    same_build: bool = False,
    data: Sequence[Change] = (),
    guards: Sequence[Guard] = (),
) -> Plan:
    """Plan what applying `diff` to the target would do.

    Sites (see sites.py):

    - The changed words of a hunk, and the words between them, are one site.
    - Hunks with less than JOIN bytes between them are one site too, unless each is a single word that may race, or one
      is a branch to new code: whoever is behind it finishes the old code.
    - `together` makes all hunks change as one.

    `data` are words outside the code that change with the hunks, as one. `guards` are words outside the code that must
    hold meanwhile. Either makes the method `stop`. Both are compared inside this stop, not here.

    The patch's Build-Id decides how lines are compared:

    - The target has the same Build-Id: the words must be equal.
    - The patch has no Build-Id: lines are compared by meaning (see meaning.py). `same_build` says that it was made
      for this very target: the words must be equal then.
    - Neither has one: the words of a hunk whose site is an address must be equal.
    - The target has another Build-Id, or none: by meaning with `fuzz`, otherwise PlanError.

    A hunk must fit at the place that its site names. With `fuzz`, a hunk that is compared by meaning is also searched
    in its symbol and NEARBY bytes around it. It may fit in one place only, whether applied or not.

    Errors:

    - PlanError for the wrong build, and for a new word whose meaning is not known on this build;
    - PlanError for a hunk that fits twice, overlaps another or reaches beyond its symbol;
    - SymbolError, AlignmentError and MappingError for a site;
    - PatchFormatError where word and text disagree, and for new code that cannot be read;
    - CapabilityError for new code on a target that has no room for it;
    - RequestError for an unknown profile, and for data and guards that cannot be one set with the code;
    - the target's own errors.
    """
    if profile not in PROFILES:
        raise RequestError(f"there is no profile {profile!r}: choose one of {', '.join(PROFILES)}")
    identity = target.identity()
    by_meaning = not same_build and _compare_by_meaning(diff, target, identity, fuzz)
    finder = Finder(target, by_meaning, fuzz, addresses_exact=not identity.build_id)
    new_code = None
    if diff.needs_room:
        from a64patch.patch.detours import hazards_in_place, plan_new_code

        new_code = plan_new_code(diff, finder, target, exact=not by_meaning)
    hunks = new_code.hunks if new_code is not None else tuple(finder.plan(diff.hunks))
    _require_apart(hunks, target)
    cpus = target.capabilities.cpus
    annex = new_code.annex if new_code is not None else None
    plan = Plan(diff, identity, hunks, None, "nothing is to be done", (), (), by_meaning, profile, cpus, annex=annex)
    if not plan.changes:
        return plan
    alone = {change.address for hunk in hunks if hunk.leads_away for change in hunk.changes}
    spans = spans_of_hunks([hunk.changes for hunk in hunks], profile, alone)
    method, reason = method_for(target.capabilities, plan.changes, spans, profile)
    if together and cpus and len(spans) > 1:
        method, reason = "stop", "all hunks change together"
    if data or guards:
        require_one_set((change.address for change in plan.changes), data, guards)
        method, reason = "stop", _WITH_DATA if data else _GUARDED
    sites = sites_of(target, plan.changes, spans, together=together)
    shown = ((planned.address, planned.address + INSN_SIZE * len(planned.found)) for planned in hunks)
    hazards = [*_implied_nops(hunks, target), *hazards_of(target, plan.changes, sites, shown)]
    if new_code is not None:
        hazards = [*hazards_in_place(target, hunks, hazards), *new_code.hazards]
    return replace(
        plan, method=method, reason=reason, sites=sites, hazards=tuple(hazards), data=tuple(data), guards=tuple(guards)
    )


def _implied_nops(hunks: Sequence[PlannedHunk], target: Target) -> Iterator[Hazard]:
    """A hazard for each hunk without counts that implies NOPs: a patch that was cut off looks the same."""
    for planned in hunks:
        if planned.padding and not planned.hunk.counted:
            first, more = planned.padding[0], len(planned.padding) - 1
            where = target.symbols.describe(first)
            nops = f"{more + 1} NOPs from {where} on" if more else f"a NOP at {where}"
            yield Hazard(
                "implied-nop",
                first,
                f"the hunk at {planned.hunk.site} may have been cut off: it has no counts, and implies {nops}",
            )


def spans_of_hunks(
    hunks: Iterable[Sequence[Change]], profile: str, alone: Collection[int] = ()
) -> list[tuple[int, int]]:
    """From the first to the last changed word of each hunk, ascending. A hunk is its changes, in ascending order.

    Hunks with less than JOIN bytes between them make one span, unless each is a single word that may race, or the
    first word of one is in `alone`: a branch to new code, behind which the old code stays whole.
    """

    def races(changes: Sequence[Change]) -> bool:
        return len(changes) == 1 and bool(hotpatch_safe(changes[0].old, changes[0].new, profile))

    spans: list[tuple[int, int]] = []
    before: Sequence[Change] = ()
    for changes in sorted(filter(None, hunks), key=lambda each: each[0].address):
        start, end = changes[0].address, changes[-1].address + INSN_SIZE
        apart = start in alone or (before and before[0].address in alone)
        if spans and start - spans[-1][1] < JOIN and not apart and not (races(before) and races(changes)):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
        before = changes
    return spans


def require_acceptable(plan: Plan, accept: Collection[str] = (), sync: Sync = "auto", *, reverse: bool = False) -> None:
    """Raise unless this plan may be carried out. `reverse` says that its patch was reversed; the messages then say so.

    MismatchError when a hunk is foreign, or when all or some hunks are applied already. PlanError for a hazard whose
    name is not in `accept`, and for a `sync` that is weaker than the plan's method.
    """
    foreign = [hunk for hunk in plan.hunks if hunk.state is State.FOREIGN and hunk.difference]
    if foreign:
        more = f" (and {len(foreign) - 1} more hunks do not fit)" if len(foreign) > 1 else ""
        raise MismatchError(f"hunk {foreign[0].hunk.site}: {foreign[0].difference}{more}; nothing was changed")
    if plan.state is State.APPLIED:
        raise MismatchError(
            "not applied, so there is nothing to reverse: the target has the old words; nothing was changed"
            if reverse
            else "already applied: the target has the new words; nothing was changed"
        )
    if plan.state is State.FOREIGN:
        raise MismatchError(_half_applied(plan.hunks, reverse))
    must = plan.cpus or plan.data or plan.guards
    if sync in ("nosync", "kick") and plan.method == "stop" and (must or len(plan.changes) > 1):
        why = plan.reason if must else f"{len(plan.changes)} words without synchronisation are always racy"
        raise PlanError(f"--sync {sync} is not safe here: {why}; nothing was changed")
    if sync == "nosync" and plan.cpus and len(plan.changes) > 1:
        raise PlanError(
            f"--sync nosync is for one word, and {len(plan.changes)} are to be written: --sync kick tells the CPUs once"
            " for all; nothing was changed"
        )
    refused = [hazard for hazard in plan.hazards if hazard.name not in accept and "all" not in accept]
    if refused:
        more = f" (and {len(refused) - 1} more hazards; --dry-run shows them)" if len(refused) > 1 else ""
        hazard = refused[0]
        way = "--drop-relocations" if hazard.name == "relocation" else f"--accept {hazard.name}"
        raise PlanError(f"{hazard.sentence}{more}; if that is right, {way}; nothing was changed")


def _half_applied(hunks: Sequence[PlannedHunk], reverse: bool) -> str:
    """The sentence about hunks of which only some are applied. `reverse` as in `require_acceptable`."""
    applied = State.TO_DO if reverse else State.APPLIED
    are = [hunk.hunk.site for hunk in hunks if hunk.state is applied]
    are_not = [hunk.hunk.site for hunk in hunks if hunk.state is not applied]
    already, out = ("", "not applied") if reverse else (" already", "applied")
    return (
        f"half applied: {len(are)} of {len(hunks)} hunks are applied{already} ({_some(are)}), and {len(are_not)} are"
        f" not ({_some(are_not)}): take those that are {out} out of the patch; nothing was changed"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def fill(diff: AsmDiff, target: Target | None = None) -> AsmDiff:
    """Fill in the missing words and texts of a patch, as `a64patch fmt` does.

    - An unknown word comes from its text. Without a text, the word of a context or `-` line comes from the target.
    - A missing text comes from the word.
    - A word that depends on where new code will lie stays unknown.
    - A patch without a Build-Id gets that of the target, if a word or text was filled in.
    - Missing counts come from the lines. Counts that are there are never corrected: `parse` has compared them.

    PatchFormatError for a word that cannot be filled in, and where word and text disagree. Without a target, a text
    that names a symbol cannot become a word; and distances and the low bits of names are not compared.
    """
    in_place = None
    if diff.needs_room:
        from a64patch.patch.annex import InPlace

        in_place = InPlace(diff.hunks)
    filled = diff._replace(hunks=tuple(_filled(hunk, target, in_place) for hunk in diff.hunks))
    if filled != diff and target is not None and not diff.build_id:
        build_id = target.identity().build_id
        return filled._replace(headers=(*filled.headers, (BUILD_ID, build_id))) if build_id else filled
    return filled


def _filled(hunk: Hunk, target: Target | None, in_place: InPlace | None) -> Hunk:
    if hunk.kind:
        return _filled_elsewhere(hunk, target)
    symbols = target.symbols if target is not None else _own_symbols(hunk.site)
    old = new = require_aligned(symbols.resolve(hunk.site))
    lines: list[Line] = []
    for line in hunk.lines:
        if line.sign == "#":
            lines.append(line)
            continue
        place = Place(symbols, new if line.sign == "+" else old)
        word, text = line.word, line.text
        if in_place is not None and in_place.names_new_code(line):
            pass
        elif word is not None:
            word = exact_word(line, place) if target is not None else comparable_word(line)
        elif line.text:
            word = _assembled(line, place, target is not None)
        elif line.sign != "+" and target is not None:
            word = from_bytes(target.read(old, INSN_SIZE))[0]
        else:
            raise PatchFormatError("neither word nor text: give one, or a target that holds it", line.number, 2)
        if word is not None and not text and (target is not None or not refers(word)):
            text = disassemble(word, place.address, symbols)
        lines.append(replace(line, word=word, text=text))
        old += INSN_SIZE * (line.sign in " -")
        new = old if line.sign == " " else new + INSN_SIZE * (line.sign == "+")
    return replace(hunk, lines=tuple(lines), counted=True)


def _filled_elsewhere(hunk: Hunk, target: Target | None) -> Hunk:
    """A detour or an annex. Words of new code that depend on their place stay unknown."""
    from a64patch.patch.new_lines import filled

    new: Sign = "-" if hunk.kind.startswith("end-") else "+"
    in_place = [line for line in hunk.lines if line.sign not in (new, "#") and not line.label]
    signs = [replace(line, sign=" ") for line in in_place]
    done = iter(_filled(replace(hunk, kind="", lines=tuple(signs)), target, None).lines if signs else ())
    lines = [
        replace(next(done), sign=line.sign) if any(line is one for one in in_place)
        else filled(line) if line.sign == new and not line.label
        else line
        for line in hunk.lines
    ]  # fmt: skip
    return replace(hunk, lines=tuple(lines), counted=True)


def _assembled(line: Line, place: Place, has_target: bool) -> int:
    if not has_target and needs_pages(line.text):
        raise PatchFormatError(f"{line.text!r} cannot become a word without a target: name it", line.number, 12)
    try:
        return assemble_line(line, place)
    except SymbolError as error:
        raise PatchFormatError(f"{line.text!r} cannot become a word: {error}", line.number, 12) from None


def _own_symbols(site: str) -> SymbolTable:
    """The hunk's own symbol, at a made-up address: branches inside the symbol do not depend on it."""
    parts = parse_site(site)
    if parts is None:
        return SymbolTable()
    symbol = Symbol(parts.name, _SOMEWHERE, 1, parts.owner)
    spaces = [Space(parts.owner, _SOMEWHERE, _SOMEWHERE << 1)] if parts.owner else ()
    return SymbolTable(lambda: [symbol], spaces)


def _compare_by_meaning(diff: AsmDiff, target: Target, identity: Identity, fuzz: bool) -> bool:
    if not diff.build_id:
        return True
    if diff.build_id == identity.build_id:
        return False
    if not fuzz:
        if target.capabilities.cpus and not identity.build_id:
            raise PlanError(
                f"the patch was made for build {diff.build_id}, and nothing tells the build of"
                f" {identity.location or 'the target'}: {GIVE_NAMES}; nothing was changed"
            )
        has = f"is build {identity.build_id}" if identity.build_id else "does not tell its build id"
        raise PlanError(
            f"the patch was made for build {diff.build_id}, but {identity.location or 'the target'} {has};"
            " --fuzz applies it by meaning; nothing was changed"
        )
    return True


def _require_apart(hunks: Sequence[PlannedHunk], target: Target) -> None:
    ascending = sorted(hunks, key=lambda planned: planned.address)
    for one, other in pairwise(ascending):
        if other.address < one.address + INSN_SIZE * len(one.found):
            raise PlanError(
                f"the hunks at {one.hunk.site} and {other.hunk.site} overlap at"
                f" {target.symbols.describe(other.address)}: make them one; nothing was changed"
            )

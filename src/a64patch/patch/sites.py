"""Which words are one site, and where nobody may be while it changes.

Read on: text.py and plan.py ask, targets/section.py says what a stop does with the answer.

A site is the range from its first to its last changed word, with the words between that stay. A CPU that goes on
strictly inside has executed an old word and would execute a new one: nobody may stand there, or return there.

That is not enough where the site is entered in the middle: a CPU that has left it may come back. The ways in:

- a branch outside the site, in the old or the new code, goes to a word inside it, or an ADR takes its address;
- the function that holds the site keeps or gets an indirect jump (BR), which may go to any word of it;
- a call in the site returns to the word behind it.

Then nobody may be in that function at all, nor in a function that branches in, nor in one that branches to such a
function without calling it: parts of the function that the compiler laid elsewhere (`.cold`) do that. A CPU at the
first word of the function that holds the site has executed nothing of it, and may stay there.

Not seen: who gets in by a table of exceptions, or by an address that is computed elsewhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from a64patch.a64.predicates import decode
from a64patch.a64.row import Flow
from a64patch.a64.words import INSN_SIZE, as_array, from_bytes
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.section import Change

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Words = NDArray[numpy.uint32]

JOIN = 8 * INSN_SIZE
"""Bytes between two changed words up to which they are one site, when nobody says which words belong together."""
_PIECE = 1 << 18
"""Bytes of code that are searched at a time: a live target stands while one is read."""
_LARGEST_FUNCTION = 1 << 20
"""Bytes of a function that is searched for indirect jumps; a larger one counts as having some."""
_MOST_NAMED = 4
_BRANCHES, _CALLS, _TAKES = "branches to", "calls", "takes the address of"
_CALL_MASK, _CALL = 0xFC000000, 0x94000000
"""BL (Arm ARM, C6.2)."""


@dataclass(frozen=True)
class Hazard:
    """One thing that may go wrong, at an address (bytes)."""

    name: str
    """One of hazards.NAMES."""
    address: int
    sentence: str


@dataclass(frozen=True)
class Site:
    """The range [start, end) from the first to the last changed word (bytes)."""

    start: int
    end: int
    keep_out: Ranges = field(default_factory=Ranges)
    """Where nobody may stand or return to while the site changes."""
    entered: tuple[str, ...] = ()
    """Why whole functions are kept out of, a sentence for each way in."""
    kept_out: tuple[str, ...] = ()
    """The names of those functions."""
    unknown: tuple[Hazard, ...] = ()
    """What would have to be known before the site can be called safe."""

    @property
    def inside(self) -> Ranges:
        """The addresses strictly inside."""
        return Ranges(((self.start + INSN_SIZE, self.end),))


def spans_of(changes: Iterable[Change], join: int = JOIN) -> list[tuple[int, int]]:
    """The ranges [start, end) of words with less than `join` bytes between them, ascending; 0 joins neighbours only."""
    words = Ranges.of((change.address, change.address + INSN_SIZE) for change in changes)
    return list(words.joined(max(0, join - INSN_SIZE)))


def sites_of(
    target: Target, changes: Sequence[Change], spans: Sequence[tuple[int, int]], *, together: bool = False
) -> tuple[Site, ...]:
    """The sites in these spans, with the addresses where nobody may be. Reads the target's code if one has a middle.

    `together`: all spans change as one, so nobody may be in any of the functions that hold them. Where nothing executes
    the target nobody is kept out; a branch into the middle is in `unknown` then, since the new code may not expect it.
    """
    sites = [Site(start, end, Ranges(((start + INSN_SIZE, end),))) for start, end in sorted(spans)]
    wide = [site for site in sites if site.inside]
    if wide:
        entries = _Entries(target, changes, wide)
        sites = [entries.of(site) if site.inside else site for site in sites]
    if together and len(sites) > 1 and target.capabilities.cpus:
        sites = [_whole(target, site) for site in sites]
    return tuple(sites)


def unchanged_words(target: Target, changes: Sequence[Change], sites: Iterable[Site]) -> tuple[tuple[int, int], ...]:
    """(address, word) of the words in the sites that stay."""
    changed = {change.address for change in changes}
    places = [at for site in sites for at in range(site.start, site.end, INSN_SIZE) if at not in changed]
    words = from_bytes(b"".join(target.read_many([(place, INSN_SIZE) for place in places])))
    return tuple(zip(places, words, strict=True))


def _function(target: Target, address: int) -> tuple[int, int] | None:
    return target.symbols.extent(address)


def _name(target: Target, extent: tuple[int, int]) -> str:
    return target.symbols.describe(extent[0])


def _whole(target: Target, site: Site) -> Site:
    """The site with its whole function kept out of."""
    extent = _function(target, site.start)
    if extent is None:
        where = target.symbols.describe(site.start)
        why = Hazard(
            "together",
            site.start,
            f"how far the function at {where} reaches is not known, so nobody can be kept out of it",
        )
        return replace(site, unknown=(*site.unknown, why))
    return replace(
        site,
        keep_out=site.keep_out | _behind_first_word(extent),
        kept_out=tuple(dict.fromkeys((*site.kept_out, _name(target, extent)))),
    )


def _behind_first_word(extent: tuple[int, int]) -> Ranges:
    return Ranges(((min(extent[0] + INSN_SIZE, extent[1]), extent[1]),))


class _Entries:
    """The ways into the middle of some sites."""

    def __init__(self, target: Target, changes: Sequence[Change], sites: Sequence[Site]) -> None:
        self._target = target
        self._code = Ranges.of(span for site in sites for span in target.code_with(site.start))
        self._old = {change.address: change.old for change in changes}
        self._new = {change.address: change.new for change in changes}
        self._sites = sorted(sites, key=lambda site: site.start)
        self._starts = [site.start for site in self._sites]
        self._ways: dict[int, list[tuple[str, int, int]]] = {site.start: [] for site in sites}
        """By site: verb, source and goal."""
        for verb, source, goal in self._references(Ranges.of(span for site in sites for span in site.inside)):
            site = self._site_of(goal)
            if site is not None and not site.start <= source < site.end:
                self._ways[site.start].append((verb, source, goal))

    def _site_of(self, address: int) -> Site | None:
        """The site that holds the address strictly inside."""
        index = bisect_right(self._starts, address) - 1
        site = self._sites[index] if index >= 0 else None
        return site if site is not None and site.start < address < site.end else None

    def _references(self, goals: Ranges) -> Iterator[tuple[str, int, int]]:
        """Branches, calls and ADRs of the old and of the new code that mean one of these addresses."""
        import numpy

        from a64patch.a64.references import adr_targets, branch_targets

        low = numpy.array([start for start, _ in goals], numpy.uint64)
        high = numpy.array([end for _, end in goals], numpy.uint64)

        def find(words: Words, start: int) -> Iterator[tuple[str, int, int]]:
            for verb, look in ((_BRANCHES, branch_targets), (_TAKES, adr_targets)):
                targets, valid = look(words, start)
                index = numpy.searchsorted(low, targets, side="right").astype(numpy.intp) - 1
                valid &= (index >= 0) & (targets < high[index])
                for place in numpy.flatnonzero(valid).tolist():
                    calls = verb == _BRANCHES and int(words[place]) & _CALL_MASK == _CALL
                    yield _CALLS if calls else verb, start + INSN_SIZE * place, int(targets[place])

        for start, end in self._code.whole(INSN_SIZE).pieces(_PIECE):
            words = as_array(self._target.read(start, end - start))
            yield from find(words, start)
            changed = [at for at in self._new if start <= at < end]
            if changed:
                words = words.copy()
                places = (numpy.array(changed, numpy.uint64) - numpy.uint64(start)) // numpy.uint64(INSN_SIZE)
                words[places.astype(numpy.intp)] = [self._new[at] for at in changed]
                yield from (way for way in find(words, start) if way[1] in self._new)

    def of(self, site: Site) -> Site:
        """The site with what follows from the ways in."""
        target = self._target
        where = target.symbols.describe
        extent = _function(target, site.start)
        unknown: list[Hazard] = []
        entered: list[str] = []
        functions: list[tuple[int, int]] = []
        others: list[tuple[int, int]] = []
        if site.start not in self._code:
            goal = site.start + INSN_SIZE
            unknown.append(
                Hazard(
                    "branch-into-site",
                    goal,
                    f"where this {target.capabilities.kind} has code is not known, so branches to {where(goal)} cannot"
                    " be ruled out",
                )
            )
        for verb, source, goal in self._ways[site.start]:
            sentence = f"{where(source)} {verb} {where(goal)}, in the middle of the new code"
            if not target.capabilities.cpus:
                unknown.append(Hazard("branch-into-site", goal, sentence))
                continue
            entered.append(sentence)
            from_where = _function(target, source)
            if extent is None or from_where is None:
                at = source if from_where is None else site.start
                unknown.append(self._no_extent("branch-into-site", goal, sentence, at))
            if extent is not None:
                functions.append(extent)
            if from_where is not None and from_where != extent:
                others.append(from_where)
        for at, goal in self._calls(site) if target.capabilities.cpus else ():
            sentence = f"the call at {where(at)} returns to {where(goal)}, in the middle of the new code"
            entered.append(sentence)
            if extent is None:
                unknown.append(self._no_extent("return-into-site", at, sentence, site.start))
            else:
                functions.append(extent)
        searched = extent or self._code.around(site.start)
        jump = self._indirect_jump(searched) if searched and target.capabilities.cpus else None
        if jump is not None:
            sentence = f"the indirect jump at {where(jump)} may go to the middle of the new code"
            entered.append(sentence)
            if extent is None:
                unknown.append(self._no_extent("branch-into-site", site.start + INSN_SIZE, sentence, site.start))
            else:
                functions.append(extent)
        if others and extent is not None:
            parts, lost = self._parts(others, extent)
            unknown += [self._no_extent("branch-into-site", at, f"{where(at)} leads there", at) for at in lost]
            others = parts
        keep_out = site.keep_out | Ranges.of(others)
        for each in functions:
            keep_out |= _behind_first_word(each)
        return replace(
            site,
            keep_out=keep_out,
            entered=tuple(dict.fromkeys(entered)),
            kept_out=tuple(dict.fromkeys(_name(target, each) for each in (*functions, *others))),
            unknown=tuple(dict.fromkeys(unknown)),
        )

    def _parts(
        self, entering: Sequence[tuple[int, int]], holder: tuple[int, int]
    ) -> tuple[list[tuple[int, int]], list[int]]:
        """The functions that enter the site, and those that branch to one of them without a call, and so on.

        Also the addresses of branches in code that no function of known extent holds.
        """
        parts = dict.fromkeys(entering)
        lost: list[int] = []
        new = list(parts)
        while new:
            found = Ranges.of(new)
            new = []
            for verb, source, _ in self._references(found):
                if verb != _BRANCHES or holder[0] <= source < holder[1]:
                    continue
                extent = _function(self._target, source)
                if extent is None:
                    lost.append(source)
                elif extent not in parts:
                    parts[extent] = None
                    new.append(extent)
        return list(parts), lost

    def _no_extent(self, name: str, address: int, sentence: str, at: int) -> Hazard:
        where = self._target.symbols.describe(at)
        return Hazard(
            name,
            address,
            f"{sentence}, and how far the function at {where} reaches is not known: nobody can be kept out",
        )

    def _calls(self, site: Site) -> Iterator[tuple[int, int]]:
        """Calls of the old code, and where they return to strictly inside the site."""
        data = self._target.read(site.start, site.end - site.start)
        for place, word in enumerate(from_bytes(data)[:-1]):
            at = site.start + INSN_SIZE * place
            row = decode(self._old.get(at, word))
            if row is not None and row.flow is Flow.CALL:
                yield at, at + INSN_SIZE

    def _indirect_jump(self, extent: tuple[int, int]) -> int | None:
        """The first indirect jump of a function's new code: where an old one has gone, its CPU is seen to be."""
        start, end = extent
        if end - start > _LARGEST_FUNCTION:
            return start
        words = from_bytes(self._target.read(start, (end - start) & -INSN_SIZE))
        for place, word in enumerate(words):
            at = start + INSN_SIZE * place
            if _jumps_anywhere(self._new.get(at, word)):
                return at
        return None


def _jumps_anywhere(word: int) -> bool:
    if word >> 25 != 0x6B:  # unconditional branch (register): Arm ARM, C4.1.93
        return False
    row = decode(word)
    return row is not None and row.flow is Flow.BRANCH


def reasons_to_keep_out(sites: Iterable[Site]) -> list[str]:
    """For each site that whole functions are kept out of, a sentence for people."""
    sentences = []
    for site in sites:
        if site.kept_out:
            ways = "; ".join(site.entered[:_MOST_NAMED]) or "all hunks change together"
            more = f" (and {len(site.entered) - _MOST_NAMED} more ways in)" if len(site.entered) > _MOST_NAMED else ""
            sentences.append(f"no CPU may be in {' or '.join(site.kept_out)} at all: {ways}{more}")
    return list(dict.fromkeys(sentences))

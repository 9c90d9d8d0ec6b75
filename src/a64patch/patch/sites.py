"""Which words are one site, and at which addresses no CPU may be while it changes.

Read on: text.py and plan.py ask for sites; targets/section.py says what a stop does with them.

A site is the range from its first to its last changed word. Unchanged words between them belong to it. A CPU strictly
inside the site may have executed an old word, and would go on to a new one. So no CPU may stand there or return there.

A site that is entered in the middle needs more, since a CPU that has left the site may come back. The ways in:

- A branch outside the site, in the old or the new code, goes to a word inside it.
- An ADR outside the site takes the address of a word inside it.
- The function of the site has an indirect jump (BR) in its new code. The jump may go to any word of the function.
- A call in the site returns to the next word, inside the site.

Then no CPU may be in any of these functions:

- the function that holds the site, but for its first word: a CPU there has executed nothing of the function yet;
- a function that branches into the site, or takes an address in it;
- a function that branches, without a call, to a function of the second kind or of this kind. Parts of a function that
  the compiler put elsewhere (`.cold`) do so.

Not seen: entries by a table of exceptions, and entries by an address that is computed elsewhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from a64patch.a64.predicates import decode
from a64patch.a64.row import Flow
from a64patch.a64.words import INSN_SIZE, as_array, from_bytes
from a64patch.oneline import shown
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.section import Change

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Words = NDArray[numpy.uint32]

JOIN = 8 * INSN_SIZE
"""Changed words with less than this many bytes between them are one site, unless the caller says otherwise."""
_PIECE = 1 << 18
"""Bytes of code that are searched at a time: a live target is stopped while it is read."""
_LARGEST_FUNCTION = 1 << 20
"""Bytes. A larger function is not searched for indirect jumps: it counts as having one."""
_MOST_NAMED = 4
_NOBODY = Ranges()
_BRANCHES, _CALLS, _TAKES = "branches to", "calls", "takes the address of"
_CALL_MASK, _CALL = 0xFC000000, 0x94000000
"""BL (Arm ARM, C6.2)."""


class Hazard(NamedTuple):
    """One thing that may go wrong, at an address (bytes)."""

    name: str
    """One of hazards.NAMES."""
    address: int
    sentence: str

    def __repr__(self) -> str:
        return shown(self, f"{self.name} at {self.address:#x}:", self.sentence)


class Site(NamedTuple):
    """The range [start, end) from the first to the last changed word (bytes)."""

    start: int
    end: int
    keep_out: Ranges = Ranges()
    """The addresses where no CPU may stand, and where none may return to, while the site changes."""
    entered: tuple[str, ...] = ()
    """The ways into the middle of the site, a sentence each."""
    kept_out: tuple[str, ...] = ()
    """The names of the functions in which no CPU may be because of `entered`, or because all hunks change together."""
    unknown: tuple[Hazard, ...] = ()
    """The hazards of the site that `keep_out` does not remove."""

    def __repr__(self) -> str:
        return shown(self, f"{self.start:#x}-{self.end:#x}; keep_out", str(self.keep_out))

    @property
    def inside(self) -> Ranges:
        """The addresses of the site behind its first word."""
        return Ranges(((self.start + INSN_SIZE, self.end),))


def spans_of(changes: Iterable[Change], join: int = JOIN) -> list[tuple[int, int]]:
    """The ranges [start, end) of words with less than `join` bytes between them, ascending; 0 joins neighbours only."""
    words = Ranges.of((change.address, change.address + INSN_SIZE) for change in changes)
    return list(words.joined(max(0, join - INSN_SIZE)))


def sites_of(
    target: Target, changes: Sequence[Change], spans: Sequence[tuple[int, int]], *, together: bool = False
) -> tuple[Site, ...]:
    """The sites in these spans, each with the addresses where no CPU may be.

    Reads the target's code if a site has more than one word. With `together` all spans change as one: then no CPU may
    be in any of the functions that hold them.

    A target that no CPU executes needs no functions kept out. A branch into the middle is in `unknown` then: the new
    code may not expect it.
    """
    sites = [
        Site(start, end, Ranges(((start + INSN_SIZE, end),))) if end - start > INSN_SIZE else Site(start, end, _NOBODY)
        for start, end in sorted(spans)
    ]
    wide = [site for site in sites if site.keep_out]
    if wide:
        entries = _Entries(target, changes, wide)
        sites = [entries.of(site) if site.keep_out else site for site in sites]
    if together and len(sites) > 1 and target.capabilities.cpus:
        sites = [_whole(target, site) for site in sites]
    return tuple(sites)


def ways_into(target: Target, spans: Iterable[tuple[int, int]]) -> list[Hazard]:
    """The ways from elsewhere to words strictly inside spans of old code that detours leave out.

    They are branches, calls and ADRs outside a span, and the first indirect jump of its function. Reads the code of
    the builds. Not seen: as for the entries of a site.
    """
    sites = [Site(start, end, Ranges(((start + INSN_SIZE, end),))) for start, end in spans if end - start > INSN_SIZE]
    if not sites:
        return []
    entries = _Entries(target, (), sites)
    return [hazard for site in sites for hazard in entries.into(site)]


def unchanged_words(target: Target, changes: Sequence[Change], sites: Iterable[Site]) -> tuple[tuple[int, int], ...]:
    """(address, word) of each word in the sites that does not change."""
    changed = {change.address for change in changes}
    places = [at for site in sites for at in range(site.start, site.end, INSN_SIZE) if at not in changed]
    words = from_bytes(b"".join(target.read_many([(place, INSN_SIZE) for place in places])))
    return tuple(zip(places, words, strict=True))


def _function(target: Target, address: int) -> tuple[int, int] | None:
    return target.symbols.extent(address)


def _name(target: Target, extent: tuple[int, int]) -> str:
    return target.symbols.describe(extent[0])


def _whole(target: Target, site: Site) -> Site:
    """The site with `keep_out` over its whole function."""
    extent = _function(target, site.start)
    if extent is None:
        where = target.symbols.describe(site.start)
        why = Hazard(
            "together",
            site.start,
            f"the end of the function at {where} is not known, so no CPU can be kept out of it",
        )
        return site._replace(unknown=(*site.unknown, why))
    return site._replace(
        keep_out=site.keep_out | _behind_first_word(extent),
        kept_out=tuple(dict.fromkeys((*site.kept_out, _name(target, extent)))),
    )


def _behind_first_word(extent: tuple[int, int]) -> Ranges:
    return Ranges(((min(extent[0] + INSN_SIZE, extent[1]), extent[1]),))


class _Entries:
    """Finds the ways into the middle of sites."""

    def __init__(self, target: Target, changes: Sequence[Change], sites: Sequence[Site]) -> None:
        self._target = target
        self._code = Ranges.of(span for site in sites for span in target.code_with(site.start))
        self._old = {change.address: change.old for change in changes}
        self._new = {change.address: change.new for change in changes}
        self._sites = sorted(sites, key=lambda site: site.start)
        self._starts = [site.start for site in self._sites]
        self._ways: dict[int, list[tuple[str, int, int]]] = {site.start: [] for site in sites}
        """By the site's start: a verb, the address of a branch, and the address that it goes to."""
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
        """Branches, calls and ADRs, in the old and in the new code, that refer to one of these addresses."""
        import numpy

        from a64patch.a64.references import adr_targets, branch_targets

        low = numpy.array([start for start, _ in goals], numpy.uint64)
        high = numpy.array([end for _, end in goals], numpy.uint64)

        def find(words: Words, start: int) -> Iterator[tuple[str, int, int]]:
            for verb, look in ((_BRANCHES, branch_targets), (_TAKES, adr_targets)):
                targets, valid = look(words, start)
                index = numpy.searchsorted(low, targets, side="right").astype(numpy.intp) - 1
                # No CPU goes to an address in the middle of a word. ADRs of bytes are in data that looks like code.
                valid &= (index >= 0) & (targets < high[index]) & (targets % numpy.uint64(INSN_SIZE) == 0)
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

    def into(self, site: Site) -> list[Hazard]:
        """A hazard for each way in, and one for an indirect jump of the function."""
        where = self._target.symbols.describe
        found = [
            Hazard(
                "branch-into-site",
                source,
                f"{where(source)} {verb} {where(goal)}, which stays as it was: whoever gets in there executes the old"
                " code",
            )
            for verb, source, goal in self._ways[site.start]
        ]
        searched = _function(self._target, site.start) or self._code.around(site.start)
        jump = self._indirect_jump(searched) if searched else None
        if jump is not None:
            found.append(
                Hazard(
                    "branch-into-site",
                    jump,
                    f"the indirect jump at {where(jump)} may go to a word behind {where(site.start)}, which stays as it"
                    " was: whoever gets in there executes the old code",
                )
            )
        return found

    def of(self, site: Site) -> Site:
        """The site with its ways in, and with the functions that must be kept out because of them."""
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
                    f"the code ranges of this {target.capabilities.kind} are not known, so a branch to {where(goal)}"
                    " cannot be ruled out",
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
            unknown += [
                self._no_extent(
                    "branch-into-site", at, f"{where(at)} branches to a function that enters the new code", at
                )
                for at in lost
            ]
            others = parts
        keep_out = site.keep_out | Ranges.of(others)
        for each in functions:
            keep_out |= _behind_first_word(each)
        return site._replace(
            keep_out=keep_out,
            entered=tuple(dict.fromkeys(entered)),
            kept_out=tuple(dict.fromkeys(_name(target, each) for each in (*functions, *others))),
            unknown=tuple(dict.fromkeys(unknown)),
        )

    def _parts(
        self, entering: Sequence[tuple[int, int]], holder: tuple[int, int]
    ) -> tuple[list[tuple[int, int]], list[int]]:
        """The functions that enter the site, and all functions that branch to one of these without a call.

        Also the addresses of such branches that lie in no function with a known end.
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
            f"{sentence}; the end of the function at {where} is not known, so no CPU can be kept out of it",
        )

    def _calls(self, site: Site) -> Iterator[tuple[int, int]]:
        """The calls of the old code that return to a word strictly inside the site: (call, return address)."""
        data = self._target.read(site.start, site.end - site.start)
        for place, word in enumerate(from_bytes(data)[:-1]):
            at = site.start + INSN_SIZE * place
            row = decode(self._old.get(at, word))
            if row is not None and row.flow is Flow.CALL:
                yield at, at + INSN_SIZE

    def _indirect_jump(self, extent: tuple[int, int]) -> int | None:
        """The address of the first indirect jump in a function's new code.

        A jump of the old code alone is no way in: a CPU that took it is already at its target, where a stop sees it.
        """
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
    """A sentence for each site with `kept_out`, for people."""
    sentences = []
    for site in sites:
        if site.kept_out:
            ways = "; ".join(site.entered[:_MOST_NAMED]) or "all hunks change together"
            more = f" (and {len(site.entered) - _MOST_NAMED} more ways in)" if len(site.entered) > _MOST_NAMED else ""
            sentences.append(f"no CPU may be in {' or '.join(site.kept_out)} at all: {ways}{more}")
    return list(dict.fromkeys(sentences))

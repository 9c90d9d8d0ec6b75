"""What may go wrong with a change although every word of it is right: seen in the code around it, before any write.

May know: a64/, text.py, target/base.py, the errors.
Read on: plan.py attaches hazards to a plan; whoever carries it out must have accepted them.

What is not seen: who gets into a site by a register, a table or an exception, and what is data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from a64patch.a64.encodings import TABLE
from a64patch.a64.predicates import classify, decode
from a64patch.a64.references import adr_targets, branch_targets
from a64patch.a64.row import Encoding, Flow
from a64patch.a64.words import INSN_SIZE, as_array
from a64patch.patch.text import Change, sites_of
from a64patch.target.base import Target

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Words = NDArray[numpy.uint32]
    Flags = NDArray[numpy.bool_]

NAMES = {
    "branch-into-site": "other code goes to a word strictly inside a site",
    "return-into-site": "a call in the old code returns to a word strictly inside a site",
    "landing-pad": "a BTI or PACIASP that indirect branches need is taken away",
    "address-pair": "one half of an ADRP and the instruction that completes its address changes, the other stays",
    "exclusive": "a word between a load-exclusive and its store-exclusive changes",
    "erratum-843419": "a new ADRP stands where Cortex-A53 may compute a wrong address",
    "relocation": "the loader or linker will overwrite the word",
}
"""Each hazard's name, by which a user accepts it."""

_AROUND = 40
"""Words before and behind a change that are looked at."""
_EXCLUSIVE_REACH = 32
"""Words from a load-exclusive to its store-exclusive, at most."""
_PAIR_REACH = 8
"""Words from an ADRP to what completes its address, at most."""
_PIECE = 1 << 18
"""Bytes of code that are searched at a time."""
_FEW = 500
"""Changes up to which their surroundings are read one by one."""
_DESTINATION = 0x1F
"""Rd of ADD (immediate), Rt of loads and stores: what completes an address keeps it there (Arm ARM, C4.1)."""
_ERRATUM_843419_OFFSETS = (0xFF8, 0xFFC)


@dataclass(frozen=True)
class Hazard:
    """One thing that may go wrong, at an address (bytes)."""

    name: str
    """One of NAMES."""
    address: int
    sentence: str


def hazards_of(target: Target, changes: Sequence[Change]) -> list[Hazard]:
    """The hazards of these changes, by address. Reads the target's code, all of it if a site has several words."""
    found = [
        *_relocations(target, changes),
        *_landing_pads(target, changes),
        *_erratum_843419(target, changes),
        *_returns(target, changes),
        *_branches(target, changes),
    ]
    overlay = _Changes(changes)
    news = {change.address: change.new for change in changes}
    for start, words in _surroundings(target, changes):
        changed = overlay.flags(start, len(words))
        rows = classify(words)
        found += _exclusives(target, start, rows, changed)
        found += _pairs(target, start, words, rows, changed, news)
    return sorted(set(found), key=lambda hazard: (hazard.address, hazard.name))


def _relocations(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    for change in changes:
        owner = target.relocation_at(change.address)
        if owner is not None:
            where = target.symbols.describe(change.address)
            yield Hazard("relocation", change.address, f"{where} belongs to {owner}, which will overwrite it")


def _accepts(row: Encoding | None) -> frozenset[str]:
    """The indirect branches, calls (c) and jumps (j), that may land on this instruction (Arm ARM, D8.4.5, C6.2 BTI)."""
    if row is None:
        return frozenset()
    text = row.texts[0]
    if not {"brk", "hlt"}.isdisjoint(row.families):
        return frozenset("cj")
    return frozenset({"paciasp": "c", "pacibsp": "c"}.get(text, text[4:] if text.startswith("bti ") else ""))


def _landing_pads(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    for change in changes:
        if change.old & 0xFFFFF01F == 0xD503201F:  # the hint space: a cheap way to see that most words are no such
            lost = _accepts(decode(change.old)) - _accepts(decode(change.new))
            if lost:
                kinds = " and ".join({"c": "calls", "j": "jumps"}[kind] for kind in sorted(lost))
                where = target.symbols.describe(change.address)
                yield Hazard(
                    "landing-pad", change.address, f"{where} is a landing pad for indirect {kinds}, and would be none"
                )


def _erratum_843419(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    for change in changes:
        if change.address % 4096 in _ERRATUM_843419_OFFSETS and change.new & 0x9F000000 == 0x90000000:
            where = target.symbols.describe(change.address)
            offset = change.address % 4096
            yield Hazard(
                "erratum-843419",
                change.address,
                f"{where} would be an ADRP at page offset {offset:#x}, which Cortex-A53 may compute wrongly"
                " (erratum 843419)",
            )


def _inside(changes: Sequence[Change]) -> set[int]:
    """The addresses strictly inside a site."""
    addresses = {change.address for change in changes}
    return {address for address in addresses if address - INSN_SIZE in addresses}


def _returns(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    inside = _inside(changes)
    for change in changes:
        behind = change.address + INSN_SIZE
        if behind not in inside:
            continue
        row = decode(change.old)
        if row is not None and row.flow is Flow.CALL:
            where = target.symbols.describe(change.address)
            yield Hazard(
                "return-into-site",
                change.address,
                f"the call at {where} returns to {target.symbols.describe(behind)}, in the middle of the new code",
            )


def _branches(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    import numpy

    inside = _inside(changes)
    if not inside:
        return
    ranges = _ranges(target)
    if not ranges:
        first = min(inside)
        yield Hazard(
            "branch-into-site",
            first,
            f"where this {target.capabilities.kind} has code is not known, so branches to"
            f" {target.symbols.describe(first)} cannot be ruled out",
        )
        return
    wanted = numpy.array(sorted(inside), numpy.uint64)
    sites = sites_of(changes)
    starts = numpy.array([start for start, _ in sites], numpy.uint64)
    ends = numpy.array([end for _, end in sites], numpy.uint64)
    overlay = _Changes(changes)
    for start, end in _pieces(ranges):
        words = overlay.applied(as_array(target.read(start, end - start)), start)
        for verb, find in (("branches to", branch_targets), ("takes the address of", adr_targets)):
            targets, valid = find(words, start)
            places = numpy.flatnonzero(valid & numpy.isin(targets, wanted))
            for place in places.tolist():
                source, goal = start + INSN_SIZE * place, int(targets[place])
                site = int(numpy.searchsorted(starts, numpy.uint64(goal), side="right")) - 1
                if int(starts[site]) <= source < int(ends[site]):
                    continue  # new code of the same site: it knows what it does
                yield Hazard(
                    "branch-into-site",
                    goal,
                    f"{target.symbols.describe(source)} {verb} {target.symbols.describe(goal)}, in the middle of the"
                    " new code",
                )


def _pieces(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The ranges in pieces that overlap by what makes up one address: a live target stands while one is read."""
    for start, end in ranges:
        for at in range(start, end, _PIECE):
            yield at, min(at + _PIECE + _PAIR_REACH * INSN_SIZE, end)


class _Changes:
    """Changes as arrays, in ascending order, to be laid over pieces of code."""

    def __init__(self, changes: Sequence[Change]) -> None:
        import numpy

        ascending = sorted(changes, key=lambda change: change.address)
        self._addresses = numpy.array([change.address for change in ascending], numpy.uint64)
        self._new = numpy.array([change.new for change in ascending], numpy.uint32)
        self._differ = numpy.array([change.new != change.old for change in ascending], numpy.bool_)

    def _within(self, start: int, count: int) -> tuple[slice, NDArray[numpy.intp]]:
        """Which changes lie in `count` words from `start` on, and where there."""
        import numpy

        low, high = numpy.searchsorted(
            self._addresses, numpy.array([start, start + INSN_SIZE * count], numpy.uint64)
        ).tolist()
        places = (self._addresses[low:high] - numpy.uint64(start)) // numpy.uint64(INSN_SIZE)
        return slice(low, high), places.astype(numpy.intp)

    def applied(self, words: Words, start: int) -> Words:
        """The words with the new ones among them."""
        which, places = self._within(start, len(words))
        words = words.copy()
        words[places] = self._new[which]
        return words

    def flags(self, start: int, count: int) -> Flags:
        """Which of these words become others."""
        import numpy

        which, places = self._within(start, count)
        flags = numpy.zeros(count, numpy.bool_)
        flags[places] = self._differ[which]
        return flags


def _ranges(target: Target) -> list[tuple[int, int]]:
    """The code, in whole words."""
    return [(-(-start & -INSN_SIZE), end & -INSN_SIZE) for start, end in target.code_ranges()]


def _surroundings(target: Target, changes: Sequence[Change]) -> Iterator[tuple[int, Words]]:
    """The old code around the changes: address and words of each piece."""
    ranges = _ranges(target)
    if len(changes) > _FEW and ranges:
        pieces = ranges
    else:
        pieces = []
        for start, end in sites_of(changes):
            low, high = next(((low, high) for low, high in ranges if low <= start < high), (start, end))
            start, end = max(low, start - _AROUND * INSN_SIZE), min(high, end + _AROUND * INSN_SIZE)
            if pieces and start <= pieces[-1][1]:
                pieces[-1] = (pieces[-1][0], end)
            else:
                pieces.append((start, end))
    data = target.read_many([(start, end - start) for start, end in pieces])
    for (start, _), raw in zip(pieces, data, strict=True):
        yield start, as_array(raw)


@cache
def _rows(kind: str) -> Flags:
    """For each row of TABLE, and at the end for no row: is it of this kind?"""
    import numpy

    tests = {
        "load-exclusive": lambda row: "load_ex" in row.families,
        "store-exclusive": lambda row: "store_ex" in row.families,
        "adrp": lambda row: "adrp" in row.families,
        "low": lambda row: {"rn", "imm12"} <= set(row.fields),
    }
    return numpy.array([bool(tests[kind](row)) for row in TABLE] + [False], numpy.bool_)


def _exclusives(target: Target, start: int, rows: NDArray[numpy.int16], changed: Flags) -> Iterator[Hazard]:
    import numpy

    loads = numpy.flatnonzero(_rows("load-exclusive").take(rows, mode="wrap"))
    stores = numpy.flatnonzero(_rows("store-exclusive").take(rows, mode="wrap"))
    if not len(loads) or not len(stores):
        return
    following = numpy.searchsorted(stores, loads, side="right")
    loads, following = loads[following < len(stores)], following[following < len(stores)]
    ends = stores[following]
    before = numpy.concatenate([[0], numpy.cumsum(changed)])
    touched = (before[ends + 1] - before[loads] > 0) & (ends - loads <= _EXCLUSIVE_REACH)
    touched &= ~(changed[loads] & changed[ends])
    for load, end in zip(loads[touched].tolist(), ends[touched].tolist(), strict=True):
        place = load + int(numpy.argmax(changed[load : end + 1]))
        names = [target.symbols.describe(start + INSN_SIZE * index) for index in (place, load, end)]
        yield Hazard(
            "exclusive",
            start + INSN_SIZE * place,
            f"{names[0]} belongs to the load-exclusive at {names[1]} and the store-exclusive at {names[2]}",
        )


def _pairs(
    target: Target, start: int, words: Words, rows: NDArray[numpy.int16], changed: Flags, news: Mapping[int, int]
) -> Iterator[Hazard]:
    import numpy

    firsts = numpy.flatnonzero(_rows("adrp").take(rows, mode="wrap"))
    low = _rows("low").take(rows, mode="wrap")
    before = numpy.concatenate([[0], numpy.cumsum(changed)])
    reach = numpy.minimum(firsts + _PAIR_REACH, len(words) - 1)
    firsts = firsts[before[reach + 1] - before[firsts] > 0]
    open_ = numpy.ones(len(firsts), numpy.bool_)
    for distance in range(1, _PAIR_REACH + 1):
        seconds = firsts + distance
        inside = seconds < len(words)
        seconds = numpy.minimum(seconds, len(words) - 1)
        pairs = open_ & inside & low[seconds] & ((words[seconds] >> 5 & 31) == (words[firsts] & 31))
        open_ &= ~pairs
        for first, second in zip(firsts[pairs].tolist(), seconds[pairs].tolist(), strict=True):
            if changed[first] == changed[second]:
                continue
            address = start + INSN_SIZE * second
            if changed[second] and (news[address] ^ int(words[second])) & ~_DESTINATION == 0:
                continue  # the same address, put to use in another register
            names = [target.symbols.describe(start + INSN_SIZE * index) for index in (first, second)]
            stays = names[1] if changed[first] else names[0]
            yield Hazard(
                "address-pair",
                start + INSN_SIZE * (first if changed[first] else second),
                f"the ADRP at {names[0]} and {names[1]} form one address; {stays} stays as it is",
            )

"""What may go wrong with a change although every word of it is right. It is found in the code around, before any write.

Read on: plan.py attaches hazards to a plan. A user must accept each of them before the plan is carried out.

Not seen: data words between the code, and the entries that sites.py lists as not seen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from a64patch.a64.effects import effects_of
from a64patch.a64.predicates import Predicate, is_adrp, is_load_ex, is_store_ex
from a64patch.a64.words import INSN_SIZE, as_array, from_bytes
from a64patch.patch.sites import Hazard as Hazard
from a64patch.patch.sites import Site, spans_of
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.section import Change

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Words = NDArray[numpy.uint32]

NAMES = {
    "branch-into-site": "code branches, or may branch, to a word strictly inside a site, and no CPU can be kept out",
    "return-into-site": "a call returns to a word strictly inside a site, and no CPU can be kept out",
    "together": "all hunks change together, but no CPU can be kept out of a function whose end is not known",
    "landing-pad": "a BTI or PACIASP that indirect branches need is removed",
    "address-pair": "an ADRP or the instruction that completes its address changes, but not both",
    "exclusive": "a word between a load-exclusive and its store-exclusive changes",
    "erratum-843419": "a new ADRP lies at an offset in its page where Cortex-A53 may compute a wrong address",
    "relocation": "the loader or linker will overwrite the word",
}
"""What each hazard means, by the name that a user gives to accept it."""

_EXCLUSIVE_REACH = 32
"""Words from a load-exclusive to its store-exclusive, at most."""
_PAIR_REACH = 8
"""Words from an ADRP to the instruction that completes its address, at most."""
_AROUND = max(_EXCLUSIVE_REACH, _PAIR_REACH)
"""Words before and behind a change that are looked at: the other half of a pair may be that far away."""
_PIECE = 1 << 18
"""Bytes of code that are searched at a time."""
_FEW = 500
"""Up to this many changes, their surroundings are read one by one and searched without arrays."""
_DESTINATION = 0x1F
"""Rd of ADD (immediate), Rt of loads and stores: another register there leaves the address as it is (Arm ARM, C4.1)."""
_ERRATUM_843419_OFFSETS = (0xFF8, 0xFFC)


def hazards_of(target: Target, changes: Sequence[Change], sites: Sequence[Site]) -> list[Hazard]:
    """The hazards of these changes, and those that sites.py found for their sites, by address.

    Reads the code around the changes.
    """
    found = [
        *_relocations(target, changes),
        *_landing_pads(target, changes),
        *_erratum_843419(target, changes),
        *(each for site in sites for each in site.unknown),
    ]
    changed = {change.address: change.new for change in changes if change.new != change.old}
    for code in _surroundings(target, changes, sorted(changed)):
        found += _exclusives(target, code, changed)
        found += _pairs(target, code, changed)
    return sorted(set(found), key=lambda hazard: (hazard.address, hazard.name))


def _relocations(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    for change in changes:
        owner = target.relocation_at(change.address)
        if owner is not None:
            where = target.symbols.describe(change.address)
            yield Hazard("relocation", change.address, f"{where} belongs to {owner}, which will overwrite it")


def _lands(word: int) -> frozenset[str]:
    """The indirect branches, calls `c` and jumps `j`, that may land on the word."""
    does = effects_of(word)
    return does.lands if does is not None else frozenset()


_TOPS_OF_LANDING_PADS = (0xD5, 0xDA)
"""The top bytes of the landing pads that execution goes on behind: hints, and PACIASPPC and PACIBSPPC."""


def _landing_pads(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    for change in changes:
        if change.old >> 24 not in _TOPS_OF_LANDING_PADS:
            continue
        lost = _lands(change.old) - _lands(change.new)
        if lost:
            kinds = " and ".join({"c": "calls", "j": "jumps"}[kind] for kind in sorted(lost))
            where = target.symbols.describe(change.address)
            yield Hazard(
                "landing-pad", change.address, f"{where} is a landing pad for indirect {kinds}, but its new word is not"
            )


def _erratum_843419(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    for change in changes:
        if change.address % 4096 in _ERRATUM_843419_OFFSETS and change.new & 0x9F000000 == 0x90000000:
            where = target.symbols.describe(change.address)
            offset = change.address % 4096
            yield Hazard(
                "erratum-843419",
                change.address,
                f"the new word at {where} is an ADRP at page offset {offset:#x}, where Cortex-A53 may compute a wrong"
                " address (erratum 843419)",
            )


class _Code(NamedTuple):
    """A range of old code, and the addresses of the words that change."""

    start: int
    words: list[int] | Words
    """An array where there are many words: predicates on arrays cost less for each word, and more at the start."""
    changed: Sequence[int]
    """The addresses of all words that change, ascending."""

    def address(self, place: int) -> int:
        """The address of the word with this number (bytes)."""
        return self.start + INSN_SIZE * place

    def first_change(self, low: int, high: int) -> int | None:
        """The number of the first word from `low` to `high` that changes; None when none does."""
        index = bisect_left(self.changed, self.address(low))
        if index == len(self.changed) or self.changed[index] > self.address(high):
            return None
        return (self.changed[index] - self.start) // INSN_SIZE

    def before_changes(self, predicate: Predicate, reach: int) -> Sequence[int]:
        """The numbers of the words that satisfy `predicate`, where the word or one of `reach` behind it changes."""
        if isinstance(self.words, list):
            words = self.words
            before = (place for place in range(len(words)) if self.first_change(place, place + reach) is not None)
            return [place for place in before if predicate(words[place])]
        import numpy

        places = numpy.flatnonzero(predicate(self.words))
        addresses = numpy.uint64(self.start) + places.astype(numpy.uint64) * numpy.uint64(INSN_SIZE)
        changed = numpy.array(self.changed, numpy.uint64)
        low = numpy.searchsorted(changed, addresses)
        high = numpy.searchsorted(changed, addresses + numpy.uint64(INSN_SIZE * reach), side="right")
        near: list[int] = places[low < high].tolist()
        return near


def _surroundings(target: Target, changes: Sequence[Change], changed: Sequence[int]) -> Iterator[_Code]:
    """The old code around the changes."""
    code = Ranges.of(target.code_ranges()).whole(INSN_SIZE)
    few = len(changes) <= _FEW
    pieces = code
    if few or not all(address in code for address in changed):
        spans, around = spans_of(changes, join=0), _AROUND * INSN_SIZE
        pieces = Ranges.of((start - around, end + around) for start, end in spans) & code
        pieces |= Ranges.of(spans)
    data = target.read_many([(start, end - start) for start, end in pieces])
    for (start, _), raw in zip(pieces, data, strict=True):
        yield _Code(start, from_bytes(raw) if few else as_array(raw), changed)


def _exclusives(target: Target, code: _Code, changed: Mapping[int, int]) -> Iterator[Hazard]:
    for load in code.before_changes(is_load_ex, _EXCLUSIVE_REACH):
        behind = range(load + 1, min(load + _EXCLUSIVE_REACH + 1, len(code.words)))
        end = next((place for place in behind if is_store_ex(int(code.words[place]))), None)
        place = code.first_change(load, end) if end is not None else None
        if end is None or place is None or {code.address(load), code.address(end)} <= changed.keys():
            continue
        names = [target.symbols.describe(code.address(each)) for each in (place, load, end)]
        yield Hazard(
            "exclusive",
            code.address(place),
            f"{names[0]} is in the sequence from the load-exclusive at {names[1]} to the store-exclusive at {names[2]}",
        )


def _pairs(target: Target, code: _Code, changed: Mapping[int, int]) -> Iterator[Hazard]:
    for first in code.before_changes(is_adrp, _PAIR_REACH):
        register = int(code.words[first]) & 31
        behind = range(first + 1, min(first + _PAIR_REACH + 1, len(code.words)))
        second = next((place for place in behind if _completes(int(code.words[place]), register)), None)
        if second is None:
            continue
        page, low = code.address(first), code.address(second)
        if (page in changed) == (low in changed):
            continue
        if low in changed and (changed[low] ^ int(code.words[second])) & ~_DESTINATION == 0:
            continue  # the address is the same: only the other register of the instruction changes
        names = [target.symbols.describe(address) for address in (page, low)]
        changes = names[0] if page in changed else names[1]
        yield Hazard(
            "address-pair",
            page if page in changed else low,
            f"the ADRP at {names[0]} and the instruction at {names[1]} form one address, and only {changes} changes",
        )


def _completes(word: int, register: int) -> bool:
    """Whether the word adds low bits to the page in this register."""
    if word >> 5 & 31 != register:
        return False
    does = effects_of(word)
    return does is not None and does.low_half is not None

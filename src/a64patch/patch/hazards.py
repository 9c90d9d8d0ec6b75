"""What may go wrong with a change although every word of it is right. It is found in the code around, before any write.

Read on: plan.py attaches hazards to a plan. A user must accept each of them before the plan is carried out.

Not seen: data that no symbol of the target marks, and the entries that sites.py lists as not seen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from a64patch.a64.collisions import unpredictable
from a64patch.a64.disassembler import disassemble
from a64patch.a64.effects import effects_of, lands
from a64patch.a64.predicates import Predicate, decode, is_adrp, is_load_ex, is_store_ex
from a64patch.a64.references import goal_of
from a64patch.a64.row import ERRATUM_843419_OFFSETS
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
    "pac-pair": "an instruction that signs or authenticates the return address changes, but not its partners",
    "address-pair": "an ADRP or the instruction that completes its address changes, and the patch does not show both",
    "exclusive": "a word between a load-exclusive and its store-exclusive changes",
    "erratum-843419": "a new ADRP lies at an offset in its page where Cortex-A53 may compute a wrong address",
    "erratum-835769": "a new sequence of memory access and 64-bit multiply-accumulate, where Cortex-A53 may compute a"
    " wrong result",
    "relocation": "the loader or linker will overwrite the word",
    "data": "the word is data between the code, such as a literal",
    "resolver": "the function chooses another one for its callers (IFUNC), and the loader has called it already",
    "kernel-rewrites": "Linux itself rewrites the word at boot, at load or later, or finds it in a table of exceptions",
    "kprobe-blacklist": "Linux lets nobody probe the word: it executes the word while it handles a breakpoint or an"
    " exception",
    "module-unsettled": "the kernel is loading or unloading the module: its code may go away at any moment",
    "second-address": "CPUs execute the word at a second address as well, where a stop does not look for them",
    "signature": "the module is signed, and the kernel refuses a signed module of which a byte has changed",
    "implied-nop": "a hunk without counts has fewer new instructions than old ones: it may have been cut off",
    "tasks-unseen": "no CPU executes a sleeping task, and the target cannot show where its tasks will go on",
    "unpredictable": "the registers of a new word make it CONSTRAINED UNPREDICTABLE",
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
_LARGEST_POOL = 1 << 16
"""Bytes around a word that belongs to no function, or to a larger one, where loads of literals are looked for."""
_FEW = 500
"""Up to this many changes, their surroundings are read one by one and searched without arrays."""
_DESTINATION = 0x1F
"""Rd of ADD (immediate), Rt of loads and stores: another register there leaves the address as it is (Arm ARM, C4.1)."""


def hazards_of(
    target: Target, changes: Sequence[Change], sites: Sequence[Site], shown: Iterable[tuple[int, int]] = ()
) -> list[Hazard]:
    """The hazards of these changes, and those that sites.py found for their sites, by address.

    `shown` are the ranges [start, end) of all words that the patch shows, context too: its author knew them. Reads the
    code around the changes.
    """
    found = [
        *_relocations(target, changes),
        *claims_on(target, [change.address for change in changes]),
        *_landing_pads(target, changes),
        *_pac_pairs(target, changes),
        *_erratum_843419(target, changes),
        *_unpredictable(target, changes),
        *_unseen(target, sites),
        *(each for site in sites for each in site.unknown),
    ]
    known = {hazard.address for hazard in found if hazard.name == "data"}
    found += _literals(target, [change for change in changes if change.address not in known])
    changed = {change.address: change.new for change in changes if change.new != change.old}
    pairs: list[tuple[Hazard, int]] = []
    for code in _surroundings(target, changes, sorted(changed)):
        found += _exclusives(target, code, changed)
        pairs += _pairs(target, code, changed)
        found += _erratum_835769(target, code, changed)
    if pairs:
        known_to_author = Ranges.of(shown)
        found += [hazard for hazard, other in pairs if other not in known_to_author]
    return sorted(set(found), key=lambda hazard: (hazard.address, hazard.name))


def _relocations(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    for change in changes:
        owner = target.relocation_at(change.address)
        if owner is not None:
            where = target.symbols.describe(change.address)
            yield Hazard("relocation", change.address, f"{where} belongs to {owner}, which will overwrite it")


def claims_on(target: Target, addresses: Sequence[int]) -> Iterator[Hazard]:
    """The hazards of what modules of the target say about the words at these addresses (bytes)."""
    for claim in target.modules.claims:
        for address, sentence in claim.on(addresses).items():
            yield Hazard(claim.hazard, address, f"{target.symbols.describe(address)} {sentence}")
            if claim.of_build:
                break


def _literals(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    """The changed words that the old code around reads as literals. Mapping symbols may be missing."""
    code = Ranges.of(target.code_ranges())
    extents: dict[tuple[int, int], list[int]] = {}
    for change in changes:
        extent = target.symbols.extent(change.address)
        if extent is None or extent[1] - extent[0] > _LARGEST_POOL:
            around = code.around(change.address) or (change.address, change.address + INSN_SIZE)
            far = _LARGEST_POOL // 2
            extent = max(around[0], change.address - far), min(around[1], change.address + far)
        extents.setdefault(extent, []).append(change.address)
    for (start, end), addresses in extents.items():
        read: dict[int, int] = {}
        """The address of a load, by the address of each word that it reads."""
        for place, word in _loads_of_literals(target.read(start, (end - start) & -INSN_SIZE), few=len(changes) <= _FEW):
            at = start + INSN_SIZE * place
            does, goal = effects_of(word), goal_of(word, at)
            if goal is not None and does is not None and does.memory is not None:
                read |= dict.fromkeys(range(goal & -INSN_SIZE, goal + (does.memory.size or 0), INSN_SIZE), at)
        for address in addresses:
            if address in read:
                where, reader = (target.symbols.describe(each) for each in (address, read[address]))
                yield Hazard("data", address, f"{where} is data: the load at {reader} reads it as a literal")


def _loads_of_literals(code: bytes, *, few: bool) -> Iterable[tuple[int, int]]:
    """The number and the word of each load (literal) in the code (Arm ARM, C4.1.94)."""
    mask, value = 0x3B000000, 0x18000000
    if few:
        return [(place, word) for place, word in enumerate(from_bytes(code)) if word & mask == value]
    import numpy

    words = as_array(code)
    return [(int(place), int(words[place])) for place in numpy.flatnonzero(words & numpy.uint32(mask) == value)]


def _unseen(target: Target, sites: Sequence[Site]) -> Iterator[Hazard]:
    """One hazard for all sites that nobody may be in, when the target has others but cannot show them."""
    first = next((site for site in sites if site.keep_out), None)
    why = target.others.unseen() if first is not None and target.others is not None else ""
    if first is not None and why:
        where = target.symbols.describe(first.start)
        yield Hazard("tasks-unseen", first.start, f"a task may sleep inside the words at {where}, unseen: {why}")


_TOPS_OF_LANDING_PADS = (0xD5, 0xDA)
"""The top bytes of the landing pads that execution goes on behind: hints, and PACIASPPC and PACIBSPPC."""


def _landing_pads(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    for change in changes:
        if change.old >> 24 not in _TOPS_OF_LANDING_PADS:
            continue
        lost = lands(change.old) - lands(change.new)
        if lost:
            kinds = " and ".join({"c": "calls", "j": "jumps"}[kind] for kind in sorted(lost))
            where = target.symbols.describe(change.address)
            yield Hazard(
                "landing-pad", change.address, f"{where} is a landing pad for indirect {kinds}, but its new word is not"
            )


class _Pac(NamedTuple):
    """What an instruction does with the pointer authentication code of the return address."""

    signs: bool
    """False when it authenticates."""
    key: str
    """The key and the modifier, for people: what one instruction signs with one, another must authenticate with it."""


def _pac_rows() -> Iterator[tuple[str, _Pac]]:
    """The rows that sign or authenticate x30 (Arm ARM C6.2 has a page for each)."""
    for key in "ab":
        for modifier, signing, authenticating in (
            ("SP", ("paci{}sp",), ("auti{}sp", "reta{}")),
            ("zero", ("paci{}z",), ("auti{}z",)),
            (
                "SP and PC",
                ("paci{}sppc", "pacnbi{}sppc"),
                ("auti{}sppc", "auti{}sppcr", "reta{}sppc", "reta{}sppcr"),
            ),
        ):
            for names in (signing, authenticating):
                for name in names:
                    yield name.format(key), _Pac(names is signing, f"key {key.upper()} and {modifier}")


_PAC_ROWS = dict(_pac_rows())
_UPPER_HALVES_OF_PAC = frozenset({0xD503, 0xD65F, 0xDAC1, *range(0x5500, 0x5540), *range(0xF380, 0xF3C0)})
"""The upper 16 bits of the words of these rows: hints, returns, one source, and what has an offset from the PC."""


@lru_cache(maxsize=1 << 12)
def _pac_of(word: int) -> _Pac | None:
    row = decode(word)
    return _PAC_ROWS.get(row.name) if row is not None else None


def _pac_pairs(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    of_function: dict[tuple[int, int] | None, list[Change]] = {}
    for change in changes:
        _, old, new = change
        was = _pac_of(old) if old >> 16 in _UPPER_HALVES_OF_PAC else None
        if was != (_pac_of(new) if new >> 16 in _UPPER_HALVES_OF_PAC else None):
            of_function.setdefault(target.symbols.extent(change.address), []).append(change)
    for extent, changed in of_function.items():
        where, words = "the changed words", [change.old for change in changed]
        if extent is not None:
            where, words = target.symbols.describe(extent[0]), _words_like_pacs(target, extent)
        before = Counter(map(_pac_of, words))
        after = before.copy()
        for change in changed:
            after[_pac_of(change.old)] -= 1
            after[_pac_of(change.new)] += 1
        for change, key in _keys_of(changed):
            sides = _Pac(True, key), _Pac(False, key)
            signed, authenticated = (before[side] for side in sides)
            signs, authenticates = (after[side] for side in sides)
            if _is_half((signed, authenticated), (signs, authenticates), whole=extent is not None):
                yield Hazard(
                    "pac-pair",
                    change.address,
                    f"{target.symbols.describe(change.address)} changes one side only: with {key}, the new code of"
                    f" {where} would sign the return address in {signs} and authenticate it in {authenticates}"
                    f" words, not in {signed} and {authenticated} as before",
                )
                break


def _keys_of(changes: Iterable[Change]) -> Iterator[tuple[Change, str]]:
    """Each change with the key of its old word, and with the key of its new word."""
    for change in changes:
        for word in (change.old, change.new):
            pac = _pac_of(word)
            if pac is not None:
                yield change, pac.key


def _is_half(before: tuple[int, int], after: tuple[int, int], *, whole: bool) -> bool:
    """Whether one side changes without the other, by how often code signs and authenticates with one key.

    The sides change together in the `whole` function when they all go away, or come where there was none. When only
    some words of the function are known, both must become more or both become fewer.
    """
    if before == after:
        return False
    if whole:
        return any(after) and (any(before) or not all(after))
    return (after[0] - before[0]) * (after[1] - before[1]) <= 0


def _words_like_pacs(target: Target, extent: tuple[int, int]) -> list[int]:
    """The words of a function that may be rows of _PAC_ROWS."""
    words = from_bytes(target.read(extent[0], (extent[1] - extent[0]) & -INSN_SIZE))
    return [word for word in words if word >> 16 in _UPPER_HALVES_OF_PAC]


def _erratum_843419(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    for change in changes:
        if change.address % 4096 in ERRATUM_843419_OFFSETS and change.new & 0x9F000000 == 0x90000000:
            where = target.symbols.describe(change.address)
            offset = change.address % 4096
            yield Hazard(
                "erratum-843419",
                change.address,
                f"the new word at {where} is an ADRP at page offset {offset:#x}, where Cortex-A53 may compute a wrong"
                " address (erratum 843419)",
            )


def _unpredictable(target: Target, changes: Sequence[Change]) -> Iterator[Hazard]:
    for change in changes:
        why = unpredictable(change.new) if change.new != change.old else None
        if why is not None:
            where, text = target.symbols.describe(change.address), disassemble(change.new, change.address)
            yield Hazard("unpredictable", change.address, f"the new word at {where}, `{text}`: {why}")


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

    def behind_changes(self, predicate: Predicate, new: Mapping[int, int]) -> list[int]:
        """The numbers of the words that satisfy `predicate`, old or `new`, where the word or the one before changes."""
        low, high = (bisect_left(self.changed, self.address(place)) for place in (0, len(self.words)))
        changed = self.changed[low:high]
        if isinstance(self.words, list):
            words = self.words
            near = {(at - self.start) // INSN_SIZE + step for at in changed for step in (0, 1)} - {len(words)}
            return sorted(each for each in near if predicate(words[each]) or predicate(new.get(self.address(each), 0)))
        import numpy

        first = (numpy.array(changed, numpy.uint64) - numpy.uint64(self.start)) // numpy.uint64(INSN_SIZE)
        places = numpy.union1d(first, first + numpy.uint64(1)).astype(numpy.intp)
        places = places[places < len(self.words)]
        news = numpy.array([new[at] for at in changed], numpy.uint32)
        found = [*places[_satisfies(predicate, self.words[places])], *first[_satisfies(predicate, news)]]
        return sorted({int(place) for place in found})

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


def _satisfies(predicate: Predicate, words: Words) -> NDArray[numpy.intp]:
    """The places of the words that satisfy a predicate. Most words are seen by their fixed bits not to."""
    import numpy

    mask, value = predicate.fixed
    places = numpy.flatnonzero(words & numpy.uint32(mask) == numpy.uint32(value))
    return places[predicate(words[places])]


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


def _pairs(target: Target, code: _Code, changed: Mapping[int, int]) -> Iterator[tuple[Hazard, int]]:
    """The halves that change without their other half, each with the address of the other half."""
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
        half, other, changes = (page, low, names[0]) if page in changed else (low, page, names[1])
        sentence = (
            f"the ADRP at {names[0]} and the instruction at {names[1]} form one address, and only {changes} changes"
        )
        yield Hazard("address-pair", half, sentence), other


def _completes(word: int, register: int) -> bool:
    """Whether the word adds low bits to the page in this register."""
    if word >> 5 & 31 != register:
        return False
    does = effects_of(word)
    return does is not None and does.low_half is not None


_accumulates = Predicate("madd", "msub", "smaddl", "smsubl", "umaddl", "umsubl", fixed=(0x1F000000, 0x1B000000))
_prefetches = Predicate("prfm_lit", "prfm_imm", "prfm_reg", "prfum")
_XZR = 31


def _erratum_835769(target: Target, code: _Code, changed: Mapping[int, int]) -> Iterator[Hazard]:
    for place in code.behind_changes(_accumulates, changed):
        if not place:
            continue
        addresses = code.address(place - 1), code.address(place)
        old = [int(word) for word in code.words[place - 1 : place + 1]]
        new = [changed.get(at, word) for at, word in zip(addresses, old, strict=True)]
        if _is_835769(*new) and not _is_835769(*old):
            access, accumulate = (target.symbols.describe(at) for at in addresses)
            yield Hazard(
                "erratum-835769",
                addresses[1],
                f"the multiply-accumulate at {accumulate} directly follows the memory access at {access}, and"
                " Cortex-A53 may compute a wrong result (erratum 835769)",
            )


def hazards_of_new_code(start: int, words: Sequence[int], is_code: Sequence[bool]) -> Iterator[Hazard]:
    """The hazards of code that replaces none, the first word at `start` (bytes). `is_code` is false for data."""
    for place, word in enumerate(words):
        at = start + INSN_SIZE * place
        why = unpredictable(word) if is_code[place] else None
        if why is not None:
            yield Hazard("unpredictable", at, f"the new word at {at:#x}, `{disassemble(word, at)}`: {why}")
        if place and is_code[place - 1] and is_code[place] and _is_835769(words[place - 1], word):
            yield Hazard(
                "erratum-835769",
                at,
                f"the multiply-accumulate at {at:#x} of the new code directly follows a memory access, and Cortex-A53"
                " may compute a wrong result (erratum 835769)",
            )


def _is_835769(first: int, second: int) -> bool:
    """Whether Cortex-A53 may compute a wrong result when it executes these two words in a row.

    - The first accesses memory, or prefetches (ARM-EPM-048406, Cortex-A53 MPCore Software Developers Errata Notice).
    - The second is a 64-bit multiply-accumulate whose Ra is not XZR.
    - The first is no load of a general register that the second reads. As GNU ld --fix-cortex-a53-835769 has it,
      the base of a load with writeback makes nothing safe.
    """
    row, does, then = decode(first), effects_of(first), effects_of(second)
    if row is None or does is None or then is None or not _accumulates_64_bits(second):
        return False
    if does.memory is None:
        return _prefetches(first)
    if not does.memory.loads or any(name.startswith("v") for name in does.reads | does.writes):
        return True
    return then.reads.isdisjoint(f"x{row.fields[name].get(first)}" for name in ("rt", "rt2") if name in row.fields)


def _accumulates_64_bits(word: int) -> bool:
    row = decode(word) if _accumulates(word) else None
    if row is None or row.fields["ra"].get(word) == _XZR:
        return False
    return "sf" not in row.fields or row.fields["sf"].get(word) == 1

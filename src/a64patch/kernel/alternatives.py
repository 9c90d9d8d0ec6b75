"""What Linux made of its alternatives: whether words are the original ones, their replacement, or neither.

An entry of the table names words, their replacement and a feature of CPUs. At boot, or when a module is loaded, the
kernel copies the replacement over the words if its CPUs have the feature. An entry may name a function instead, a
callback, which writes the words.
Read on: rewrites.py makes claims of the same table; loaded.py finds the tables of loaded modules.

Sources: Linux arch/arm64/include/asm/alternative.h; arch/arm64/kernel/alternative.c (__apply_alternatives).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import EncodingError, UnmovableError
from a64patch.kernel.loaded import Loaded, ending_of, sections_of
from a64patch.kernel.structures import View, read_each
from a64patch.oneline import counted, shown
from a64patch.targets.base import Target

SECTION = ".altinstructions"
"""The name of the table's section in a module."""
OVERWRITES = "the kernel overwrites it at boot or load, if the CPU has or lacks some feature"
COPIES = "the kernel copies it over other code at boot or load, if the CPU has or lacks some feature"
_ENTRY = struct.Struct("<iiHBB")
"""struct alt_instr: orig_offset, alt_offset, cpucap, orig_len, alt_len. An offset counts from its own place (bytes)."""
_CALLBACK = 1 << 15
"""ARM64_CB_BIT of the feature's number (since 5.18)."""
_MOST_BYTES = 1 << 20
"""Bytes of the table of one module: more than the kernel itself has."""

Read = Callable[[Sequence[tuple[int, int]]], Sequence[bytes | None]]
"""The bytes of each (address, size); None where there are none."""


class Alternative(NamedTuple):
    """One entry of the table. Addresses and sizes are bytes."""

    code: int
    size: int
    new: int
    """The address of the replacement, or of the callback."""
    new_size: int
    """0 for a callback."""
    feature: int
    """The number of the feature in this build (cpucap)."""

    @property
    def is_sound(self) -> bool:
        """Both sizes are possible: whole words, and as many new ones as old ones."""
        return self.size % INSN_SIZE == 0 and self.new_size in (0, self.size)

    def __repr__(self) -> str:
        return shown(self, f"{self.size} bytes at {self.code:#x} from {self.new:#x}")


def linked_alternatives(data: bytes, start: int) -> list[Alternative]:
    """The entries of a table at the address `start` of a linked kernel or loaded module, without those of no words.

    A part of an entry at the end is left out.
    """
    return [
        Alternative(at + code, size, at + 4 + new, new_size, feature & ~_CALLBACK)
        for at, (code, new, feature, size, new_size) in zip(
            range(start, start + len(data), _ENTRY.size),
            _ENTRY.iter_unpack(data[: len(data) - len(data) % _ENTRY.size]),
            strict=False,
        )
        if size
    ]


def loaded_alternatives(view: View, loaded: Loaded) -> list[Alternative]:
    """The entries of a loaded module's table; none when the kernel does not tell where the table is.

    The kernel keeps the table's address (struct module_sect_attrs), and not its size. The table ends at the next
    section, or at the end of the read-only data. Zeros there are padding.
    """
    places = sections_of(view, loaded)
    start = places.get(SECTION, 0)
    end = min([place for place in places.values() if place > start] + [ending_of(view, loaded, start)], default=0)
    if not start or not 0 < end - start <= _MOST_BYTES:
        return []
    [data] = view.read([(start, end - start)])
    data = (data or b"").rstrip(b"\0")
    data += bytes(-len(data) % _ENTRY.size)  # the last numbers of an entry may be zero
    found = linked_alternatives(data, start)
    return found if all(each.is_sound for each in found) else []


def replacement(words: Sequence[int], new: int, code: int) -> list[int] | None:
    """The words of a replacement at `new` as the kernel writes them at `code` (get_alt_insn).

    A branch within the replacement, or to its end, stays as it is (5679b2814219). All other references keep their
    address. None for a word that the kernel cannot copy.
    """
    from a64patch.a64.predicates import decode, is_branch_imm
    from a64patch.a64.references import reference
    from a64patch.a64.relocation import relocate

    found = []
    for number, word in enumerate(words):
        at = new + INSN_SIZE * number
        row = decode(word)
        refers = reference(row) if row is not None and is_branch_imm(word) else None
        if refers is not None and new <= refers.target(word, at) <= new + INSN_SIZE * len(words):
            found.append(word)
            continue
        try:
            found.append(relocate(word, at, code + INSN_SIZE * number, allow_erratum_843419=True))
        except (UnmovableError, EncodingError):  # the second for addresses beyond 64 bits
            return None
    return found


def teller(
    target: Target, entries: Callable[[], Sequence[Alternative]], original: Read | None = None, new: Read | None = None
) -> Callable[[Sequence[int]], Mapping[int, str]]:
    """As `Claim.tell`, for a running kernel. `entries` is asked at the first question.

    `original` gives the words from before the boot, None when nobody knows them. `new` gives the replacements, by
    default from the target's memory.
    """

    def now(requests: Sequence[tuple[int, int]]) -> Sequence[bytes | None]:
        return read_each(target, requests)

    @cache
    def by_word() -> dict[int, list[Alternative]]:
        """The entries by the address of each word that they overwrite, and of each that they copy."""
        found: dict[int, list[Alternative]] = {}
        for each in entries():
            for start, size in ((each.code, each.size), (each.new, each.new_size)):
                for at in range(start, start + size, INSN_SIZE):
                    found.setdefault(at, []).append(each)
        return found

    def tell(addresses: Sequence[int]) -> Mapping[int, str]:
        hit = {at: by_word()[at] for at in addresses if at in by_word()}
        wanted = [*dict.fromkeys(each for found in hit.values() for each in found)]
        places = [(each.code, each.size) for each in wanted]
        olds = original(places) if original is not None else [None] * len(wanted)
        news = (new or now)([(each.new, each.new_size) for each in wanted])
        said = {
            each: _state(each, now_there, old, new_there)
            for each, now_there, old, new_there in zip(wanted, now(places), olds, news, strict=True)
        }
        return {at: f"is listed in {SECTION}: {'; '.join(_sentences(target, at, found, said))}"
                for at, found in hit.items()}  # fmt: skip

    return tell


def _sentences(target: Target, at: int, found: Sequence[Alternative], said: Mapping[Alternative, str]) -> Iterator[str]:
    for each in found:
        if not each.code <= at < each.code + each.size:
            yield COPIES
            continue
        how = OVERWRITES
        if not each.new_size:
            how = f"{target.symbols.describe(each.new)} overwrites it at boot or load"
        yield f"{how}; {said[each]}"


def _state(entry: Alternative, now: bytes | None, old: bytes | None, new: bytes | None) -> str:
    """What the words are, for people."""
    count = entry.size // INSN_SIZE
    they_are = "now it is" if count == 1 else f"now its {counted(count, 'word')} are"
    if now is None:
        return "what it is now cannot be read"
    known = {}
    if old is not None:
        known["the original"] = old == now
    if entry.new_size:
        words = replacement(from_bytes(new), entry.new, entry.code) if new is not None else None
        known["the replacement"] = words == from_bytes(now)
    if equal := [name for name, is_equal in known.items() if is_equal]:
        return f"{they_are} {' and '.join(equal)}"
    if len(known) == 2:
        return f"{they_are} neither the original nor the replacement"
    unknown = [] if old is not None else ["the original is not known here"]
    return ", and ".join([*(f"{they_are} not {name}" for name in known), *unknown])

"""The code around the words of an entry: by it, another build at the same place is not taken for the patched one.

Read on: journal.py, which keeps the surroundings; transaction.py, which compares them before it undoes an entry.

A build id or the incarnation of a running target tells this better. Surroundings are for targets with neither, such as
an object file: after a new build, the same place of the same file may hold an equal word of another function.

They also serve for the modules of a running kernel: when one is unloaded, another may get its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from a64patch.a64.words import INSN_SIZE, from_bytes, to_bytes
from a64patch.errors import MappingError, SymbolError
from a64patch.oneline import shown
from a64patch.ranges import Ranges
from a64patch.targets.base import Identity, Target
from a64patch.targets.section import Change

DIGEST_SIZE = 16
"""Bytes of a BLAKE2b digest. It need not resist an attack: who can make the file can make any file."""
_LONGEST = 1 << 18
"""Bytes of a function that are read at most."""
_AROUND = 16 * INSN_SIZE
"""Bytes on both sides of a word that belongs to no function, or to a longer one."""


class Surrounding(NamedTuple):
    """The code [start, end) around changed words (bytes): the function, or a part of the code without a function."""

    start: int
    end: int
    name: str
    """The name of `start` for people, as SymbolTable.describe gives it."""
    digest: bytes
    """The digest of all its words, as they were before the entry, and of the build id of a loaded module."""

    def __repr__(self) -> str:
        return shown(self, f"{self.name} {self.start:#x}-{self.end:#x}")


def needed(identity: Identity) -> bool:
    """Whether nothing else tells which build the target holds."""
    return not (identity.build_id or identity.release or identity.incarnation)


def surroundings(target: Target, changes: Sequence[Change]) -> tuple[Surrounding, ...]:
    """The surroundings of these changes, in the order of their addresses. Reads the target, which holds the old words.

    Raises the target's errors of reading.
    """
    code = Ranges.of(target.code_ranges())
    ranges = dict.fromkeys(_around(target, code, change.address) for change in changes)
    olds = {change.address: change.old for change in changes}
    return tuple(
        Surrounding(start, end, target.symbols.describe(start), _digest(target, start, end, olds))
        for start, end in sorted(ranges)
    )


def in_modules(target: Target, changes: Sequence[Change]) -> tuple[Surrounding, ...]:
    """The changed words in all modules but the first, each for itself, in the order of the changes. Reads the target.

    Only the words: Linux itself rewrites others of the function. The names begin with the module where one is known.
    """
    found = []
    for change in changes:
        module = target.modules.beside_main(change.address)
        if module is not None:
            name = target.symbols.describe(change.address)
            full = f"{module.name}:{name}"
            span = change.address, change.address + INSN_SIZE
            digest = _digest(target, *span, {change.address: change.old})
            found.append(Surrounding(*span, full if _stands_for(target, full, change.address) else name, digest))
    return tuple(found)


def difference(target: Target, around: Iterable[Surrounding], olds: Mapping[int, int]) -> str | None:
    """The first difference to the target's code now, as a clause for people; None when there is none.

    `olds` has the word that each address had before the entry, where this or a later entry changed it.
    """
    for each in around:
        name = target.symbols.describe(each.start)
        if name != each.name and not _stands_for(target, each.name, each.start):
            return f"{name} is there now, and {each.name} was there then"
        try:
            digest = _digest(target, each.start, each.end, olds)
        except MappingError:
            return f"{each.name} is not there any more"
        if digest != each.digest:
            return f"other code is in {each.name} now"
    return None


def _stands_for(target: Target, site: str, address: int) -> bool:
    """Whether a recorded name still names the address: earlier versions wrote other names for some functions."""
    try:
        return target.symbols.resolve(site) == address
    except SymbolError:
        return False


def _around(target: Target, code: Ranges, address: int) -> tuple[int, int]:
    function = target.symbols.extent(address)
    if function is not None and function[1] - function[0] <= _LONGEST:
        start, end = function
    else:
        start, end = address - _AROUND, address + INSN_SIZE + _AROUND
    low, high = code.around(address) or (address, address + INSN_SIZE)
    start, end = max(start, low, 0) & -INSN_SIZE, min(end, high) & -INSN_SIZE
    return (start, end) if start <= address < end else (address, address + INSN_SIZE)


def _digest(target: Target, start: int, end: int, olds: Mapping[int, int]) -> bytes:
    """The digest of the words in [start, end), and of the build id if a module other than the first holds `start`."""
    from hashlib import blake2b

    words = from_bytes(target.read(start, end - start))
    for index, address in enumerate(range(start, end, INSN_SIZE)):
        words[index] = olds.get(address, words[index])
    module = target.modules.beside_main(start)
    build = bytes.fromhex(module.build_id) if module else b""
    return blake2b(to_bytes(words) + build, digest_size=DIGEST_SIZE).digest()

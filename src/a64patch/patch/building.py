"""Writes new code where nobody executes anything yet, and gives its room back when nobody executes it any more.

Read on: detours.py plans new code; transaction.py says when it is built and given back; journal.py keeps it.

New code comes before the branch that leads to it. It is published before the branch is written, so a CPU that fetches
the branch fetches the new code as well: no execution has the new branch and then older code behind it (Arm ARM, B2.2.5;
litmus test MP.FF+cachesync+fpo). When the branch goes away, CPUs may still be inside. So all CPUs are stopped, and the
room is given back only when none of them is there or returns there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import A64PatchError, CapabilityError, MappingError
from a64patch.oneline import counted, shown
from a64patch.patch.sites import Site
from a64patch.patch.text import write
from a64patch.protocols import Method
from a64patch.ranges import Ranges
from a64patch.targets.base import NewReference, Room, Target
from a64patch.targets.section import Change

_LAST_UDF = 0xFFFF
"""UDF #65535. Words up to here are permanently undefined (Arm ARM, C6.2: UDF): a new room may hold them, no code is."""


class Built(NamedTuple):
    """New code in a room, as a journal keeps it."""

    room: Room
    words: tuple[tuple[int, int], ...]
    """(word before, new word) of each address from `room.address` on."""
    ends: bool = False
    """The entry takes the new code away."""
    left: bool = False
    """The room may be taken although no branch leads there: it is still to be given back."""
    references: tuple[NewReference, ...] = ()
    """What the target is told before the words are written."""

    def __repr__(self) -> str:
        return shown(self, f"{counted(len(self.words), 'word')} at {self.room.address:#x}")

    @property
    def changes(self) -> tuple[Change, ...]:
        """Each word as a change."""
        start = self.room.address
        return tuple(Change(start + INSN_SIZE * number, *words) for number, words in enumerate(self.words))


def to_build(target: Target, room: Room, words: Sequence[int], references: Sequence[NewReference] = ()) -> Built:
    """New code that `build` may write. Reads what the room holds now: a room of no memory yet holds zeros."""
    try:
        before = from_bytes(target.read(room.address, INSN_SIZE * len(words)))
    except MappingError:
        before = [0] * len(words)
    return Built(room, tuple(zip(before, words, strict=True)), references=tuple(references))


def build(target: Target, built: Built) -> None:
    """Take the room, and write, publish and read back its words. Errors as `Target.allocate` and `text.write`."""
    target.allocate(built.room)
    target.refer(built.references)
    held = from_bytes(target.read(built.room.address, INSN_SIZE * len(built.words)))
    changes = [change._replace(old=word) for change, word in zip(built.changes, held, strict=True)]
    capabilities = target.capabilities
    writes_while_running = capabilities.cpus and capabilities.broadcast and capabilities.can_kick
    method: Method = "nosync" if writes_while_running else "stop"
    write(target, changes, (), method, "nobody executes new code before a branch leads there")


def give_back(target: Target, built: Built, retry: float = 0.0) -> str:
    """Give the room back, after the branches to it were taken away. Returns a sentence about what stays, or "".

    Nothing is given back, and the sentence says why, while somebody is in the new code or will return there, when it
    holds other words than it was given, or when the target cannot tell. `retry` as for `patch_text_sync`.
    """
    room = built.room
    where = f"the new code at {room.address:#x}"
    try:
        if not any(known.address <= room.address < known.end for known in target.rooms()):
            return _not_known(target, built)
        words = from_bytes(target.read(room.address, INSN_SIZE * len(built.words)))
        for change, word in zip(built.changes, words, strict=True):
            if word not in (change.old, change.new) and word > _LAST_UDF:
                found = f"{word:08x} at {change.address:#x}, not {change.new:08x}"
                return f"{where} was changed by somebody else ({found}), so it stays there unused"
        if target.capabilities.cpus:
            back = [Change(change.address, word, change.old) for change, word in zip(built.changes, words, strict=True)]
            _empty(target, room, back, retry)
        stays = target.release(room)
        if not target.capabilities.cpus:
            target.publish(room.address, room.address)
        return stays
    except A64PatchError as error:
        # The branches were changed already: that nothing was changed is true of the room alone.
        return f"{where} is not given back: {str(error).partition('; nothing was changed')[0]}"


def _not_known(target: Target, built: Built) -> str:
    """A sentence when the target does not tell the room and yet has the new code; else it was given back before."""
    room = built.room
    try:
        words = from_bytes(target.read(room.address, INSN_SIZE * len(built.words)))
    except MappingError:
        return ""
    if any(word != new for word, (_, new) in zip(words, built.words, strict=True)):
        return ""
    return (
        f"the new code at {room.address:#x} stays there unused, since nothing tells that it is a room: give the options"
        " with which it was built (--cave)"
    )


def _empty(target: Target, room: Room, changes: Sequence[Change], retry: float) -> None:
    """Make sure that nobody is in the room or returns there, and put the words back that it had before."""
    capabilities = target.capabilities
    if not (capabilities.can_stop and capabilities.sees_pcs):
        raise CapabilityError("the target does not tell who executes it")
    if why := target.unseen():
        raise CapabilityError(f"a task may return to it, unseen: {why}")
    span = (room.address, room.end)
    write(target, changes, [Site(*span, Ranges((span,)))], "stop", "nobody may be in code that goes away", retry)

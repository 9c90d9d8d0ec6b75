"""Caves: padding in the code of a machine, named by its user, where new code may lie.

It may know a target's memory, names and code. Read on: gdb.py is the target that has them.

The machine keeps no record of the new code, so the cave holds it: behind each room stands one word, UDF with the room's
length. So the rooms in a cave are known to everyone who reads it, and all other words of a cave are padding.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from a64patch.a64.names import number_of
from a64patch.a64.predicates import decode
from a64patch.a64.row import Flow
from a64patch.a64.words import INSN_SIZE, as_array, from_bytes, to_bytes
from a64patch.errors import CapabilityError, MappingError, RequestError, SymbolError
from a64patch.oneline import shown
from a64patch.ranges import Ranges
from a64patch.targets.base import Room, Target, within_reach

MOST_BYTES = 1 << 20
"""The largest cave."""
_FAR_BEFORE = 4096
"""Bytes before a cave in which the end of what stands there is looked for."""
_PIECE = 1 << 18
"""Bytes of code that are searched at a time."""
_NOP, _NOTHING, _ERASED, _BREAK, _BREAK_BITS = 0xD503201F, 0, 0xFFFFFFFF, 0xD4200000, 0xFFE0001F
"""NOP; UDF #0, which a linker leaves between sections; erased flash memory; BRK #imm16 (Arm ARM, C6.2)."""
_LENGTH = 0x8000
"""UDF #(0x8000 + n) stands behind a room of n words (Arm ARM, C6.2: UDF, the permanently undefined instruction)."""
_MOST_WORDS = _LENGTH - 1


class Cave(NamedTuple):
    """Padding at [start, end) (bytes), and the rooms that were made in it."""

    text: str
    """As the user gave it."""
    start: int
    end: int
    padding: int
    """The word that fills it; the one of a room when it is full."""
    rooms: tuple[Room, ...] = ()
    """Ascending."""

    def __repr__(self) -> str:
        return shown(self, f"{self.start:#x}-{self.end:#x} of {self.padding:08x}, {len(self.rooms)} rooms")

    @property
    def free(self) -> Ranges:
        """The padding."""
        return Ranges(((self.start, self.end),)) - Ranges.of(
            (room.address, room.end + INSN_SIZE) for room in self.rooms
        )


class Caves:
    """The caves that a user has named, each `SITE:SIZE` (bytes). They are looked at when they are needed.

    RequestError for a text of another form.
    """

    def __init__(self, target: Target, texts: Sequence[str]) -> None:
        self._target = target
        self._named = [_parts(text) for text in texts]
        self._sized: dict[str, bool] = {}
        self._sound: set[str] = set()
        """The texts of the caves that are surely not part of any known code."""

    def __bool__(self) -> bool:
        return bool(self._named)

    def find_room(self, size: int, near: tuple[int, int], alignment: int) -> Room:
        """The first place in the first cave. Errors as `Target.find_room`, and those of `found`.

        CapabilityError also when none is large enough within reach, and for a cave into which code comes:

        - an instruction of the same build branches there, calls it or takes its address;
        - what stands before padding of NOPs goes on to it. Words of other padding are executed by nobody.
        """
        size = max(size, INSN_SIZE)
        for cave in self.found():
            self._require_unused(cave)
            for start, end in cave.free if size <= INSN_SIZE * _MOST_WORDS else ():
                place = -(-start // alignment) * alignment
                if place + size + INSN_SIZE <= end and within_reach(place, place + size, near):
                    return Room(place, size, f"cave {cave.text}")
        where = self._target.symbols.describe(near[0])
        raise CapabilityError(
            f"no cave has {size + INSN_SIZE} bytes of padding left within reach of {where}: name another one, --cave"
            " SITE:SIZE"
        )

    def allocate(self, room: Room) -> None:
        """Write the word behind the room. MappingError when the room is not padding, or in no cave."""
        cave = self._of(room)
        if cave is None or not cave.free.covers(room.address, room.end + INSN_SIZE):
            raise MappingError(
                f"the {room.size} bytes at {room.address:#x} are not padding of a cave any more; nothing was changed"
            )
        self._write(room, _LENGTH | room.size // INSN_SIZE)

    def rooms(self) -> list[Room]:
        """All rooms in the caves, ascending."""
        return sorted(room for cave in self.found() for room in cave.rooms)

    def release(self, room: Room) -> None:
        """Make the word behind the room padding again. The room holds padding already, or MappingError."""
        cave = self._of(room)
        words = set(from_bytes(self._target.read(room.address, room.size)))
        if cave is None or room.address not in [each.address for each in cave.rooms]:
            raise MappingError(f"there is no room for new code at {room.address:#x}; nothing was changed")
        if len(words) != 1 or not _is_padding(word := words.pop()):
            raise MappingError(f"the room at {room.address:#x} still holds code, so it is not given back")
        self._write(room, word)

    def found(self) -> list[Cave]:
        """Each cave as it is now.

        - SymbolError for a site that is none.
        - CapabilityError for a cave that holds anything but padding and rooms, lies outside of the known code or where
          words may not be written, has a symbol inside, is part of a symbol with a size of its own, or overlaps another
          cave.
        - The target's own errors of reading.
        """
        found: list[Cave] = []
        for text, site, size in self._named:
            try:
                start = self._target.symbols.resolve(site)
            except SymbolError as error:
                raise SymbolError(f"cave {text}: {error}") from None
            end = start + size
            if start % INSN_SIZE:
                raise CapabilityError(f"cave {text} is at {start:#x}, which is not a multiple of 4")
            other = next((cave for cave in found if cave.start < end and start < cave.end), None)
            if other is not None:
                raise CapabilityError(f"the caves {other.text} and {text} overlap")
            self._require_outside_of_symbols(text, start, end)
            self._require_code(text, start, end)
            found.append(self._cave(text, start, end))
        return found

    def _of(self, room: Room) -> Cave | None:
        return next((cave for cave in self.found() if cave.start <= room.address < room.end < cave.end), None)

    def _write(self, room: Room, word: int) -> None:
        self._target.write(room.end, to_bytes(word))
        self._target.publish(room.end, room.end + INSN_SIZE)

    def _cave(self, text: str, start: int, end: int) -> Cave:
        words = from_bytes(self._target.read(start, end - start))
        rooms: list[Room] = []
        padding: int | None = None
        place = len(words)
        while place:
            place -= 1
            word = words[place]
            length = word - _LENGTH
            if 0 < length <= min(place, _MOST_WORDS):
                place -= length
                rooms.append(Room(start + INSN_SIZE * place, INSN_SIZE * length, f"cave {text}"))
            elif not _is_padding(word) or word != (word if padding is None else padding):
                where = self._target.symbols.describe(start + INSN_SIZE * place)
                raise CapabilityError(
                    f"cave {text} is no padding: {where} holds {word:08x}, and padding is the same word everywhere,"
                    " such as NOP or 00000000"
                )
            else:
                padding = word
        return Cave(text, start, end, _NOP if padding is None else padding, tuple(reversed(rooms)))

    def _require_outside_of_symbols(self, text: str, start: int, end: int) -> None:
        symbols = self._target.symbols
        held, every = symbols.lookup(start), symbols.ascending()
        if held is not None and start < held[0].end and self._tells_sizes(held[0].module):
            where = f"{held[0].name} at {held[0].address:#x}, which ends at {held[0].end:#x}"
            raise CapabilityError(f"cave {text} is no padding: it is part of {where}")
        place = bisect_right(every, start, key=lambda symbol: symbol.address)
        if place < len(every) and every[place].address < end:
            where = f"{every[place].name} is at {every[place].address:#x}"
            raise CapabilityError(f"cave {text} is no padding: {where}, inside of it")

    def _tells_sizes(self, module: str) -> bool:
        """Whether the names of a module have sizes of their own.

        Those of a kernel's kallsyms reach to the next name, so padding behind a function counts as part of it.
        """
        if module not in self._sized:
            own = [symbol for symbol in self._target.symbols.ascending() if symbol.module == module]
            self._sized[module] = any(one.size and one.end < after.address for one, after in pairwise(own))
        return self._sized[module]

    def _require_code(self, text: str, start: int, end: int) -> None:
        code = Ranges.of(self._target.code_ranges())
        writable = self._target.writable()
        if (code and not code.covers(start, end)) or (writable is not None and not writable.covers(start, end)):
            raise CapabilityError(f"cave {text} is not in code of the target that may be written")

    def _require_unused(self, cave: Cave) -> None:
        """CapabilityError when code of the same build comes into the cave: see `Caves.find_room`."""
        if cave.text in self._sound:
            return
        if cave.padding == _NOP:
            self._require_end_before(cave)
        from a64patch.a64.references import adr_targets, branch_targets

        free = cave.free
        for low, high in Ranges.of(self._target.code_with(cave.start)).whole(INSN_SIZE).pieces(_PIECE):
            words = as_array(self._target.read(low, high - low))
            for look in (branch_targets, adr_targets):
                goals, valid = look(words, low)
                places = (valid & (goals >= cave.start) & (goals < cave.end)).nonzero()[0].tolist()
                for place in places:
                    if int(goals[place]) in free:
                        where = self._target.symbols.describe(low + INSN_SIZE * place)
                        raise CapabilityError(
                            f"cave {cave.text} is no padding: the instruction at {where} refers to it"
                        )
        self._sound.add(cave.text)

    def _require_end_before(self, cave: Cave) -> None:
        start = cave.start
        while cave.start - start < _FAR_BEFORE:
            start -= INSN_SIZE
            try:
                [word] = from_bytes(self._target.read(start, INSN_SIZE))
            except MappingError:
                return
            row = decode(word)
            if row is not None and not row.conditional and row.flow in (Flow.BRANCH, Flow.RETURN):
                return
            if word != _NOP:
                break
        where = self._target.symbols.describe(start)
        raise CapabilityError(
            f"cave {cave.text} is no padding: nothing shows that the instruction at {where} does not go on to it"
        )


def _is_padding(word: int) -> bool:
    return word in (_NOP, _NOTHING, _ERASED) or word & _BREAK_BITS == _BREAK


def _parts(text: str) -> tuple[str, str, int]:
    """A cave as given, its site, and its size."""
    site, _, number = text.rpartition(":")
    try:
        size = number_of(number)
    except ValueError:
        size = 0
    if not site or not 0 < size <= MOST_BYTES or size % INSN_SIZE:
        raise RequestError(
            f"{text[:80]!r} is no cave: write SITE:SIZE, with a multiple of 4 bytes up to {MOST_BYTES >> 20} MiB"
        )
    return text, site, size

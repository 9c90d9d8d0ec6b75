"""Two builds of a program make a patch: the changes of their functions, as an assembly diff for the older build.

Read on: asmdiff.py for the patch, meaning.py for its use on yet another build.

Functions are matched by name. Words are compared by meaning: if a new word refers to an address, the name of that
address is looked up in the old build. The word in the patch refers to the address of the same name there. Data is not
compared.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from os.path import basename
from typing import NamedTuple

from a64patch.a64.assembler import assemble_one
from a64patch.a64.disassembler import disassemble, disassemble_naming
from a64patch.a64.effects import effects_of
from a64patch.a64.generate import gen_nop
from a64patch.a64.names import LONGEST_NAME, site_text
from a64patch.a64.predicates import decode
from a64patch.a64.references import reference
from a64patch.a64.row import PAGE_SIZE, Flow
from a64patch.a64.stubs import LONGEST_STUB, find_stubs
from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import A64PatchError, AssemblyError, EncodingError, SymbolError
from a64patch.oneline import counted, shown
from a64patch.patch.asmdiff import BUILD_ID, TARGET, AsmDiff, Hunk, Line
from a64patch.patch.in_memory import BuildInMemory
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.symbols import Symbol

CONTEXT = 3
"""Unchanged words shown before and behind a change."""
_LONGEST_TEXT = 200 + LONGEST_NAME
_COMPARED = 16
"""Two addresses without a name count as the same if this many bytes there are equal."""
_PADDING = (0, gen_nop())
"""Words between functions that nobody executes."""
_CLOBBERED_BY_CALLS = frozenset(f"x{number}" for number in (*range(19), 30))
"""Registers that a call may change (AAPCS64, 6.1.1)."""


_Key = tuple[str, str]
"""The module or source file of functions, and their name."""
_Functions = Mapping[_Key, Sequence[Symbol]]


class Comparison(NamedTuple):
    """The differences between two builds."""

    diff: AsmDiff
    """A patch for OLD. Each function that it changes then does the same as in NEW. It may have no hunks."""
    not_expressed: tuple[str, ...]
    """The differences that are not in the patch, a sentence each."""

    def __repr__(self) -> str:
        return shown(self, f"{counted(len(self.diff.hunks), 'hunk')}, {len(self.not_expressed)} not expressed")


class _NotExpressedError(Exception):
    """No word of OLD would do the same as a word of NEW; the message says why."""


def compare(old: Target, new: Target) -> Comparison:
    """The patch that makes OLD's functions do the same as NEW's, for functions of equal name and size.

    A function is left out as a whole, and listed in `not_expressed`, when

    - it is in one build only, or has another size in the other;
    - its name stands for several functions that cannot be paired;
    - it refers to an address that OLD has no name for;
    - its relocations differ;
    - it overlaps the function before it, and differs.

    Several functions of one name are paired by their source files. Those of one file, and those that are left, are
    paired by the order of their addresses, when both builds have equally many. Nothing else tells these apart: when a
    function has gone and another one of its name has come, both are taken for one.

    **Code outside of functions with a name and a size** is never in the patch. It is compared too, piece by piece, and
    what differs is listed in `not_expressed`. A piece begins at a symbol, behind a function or a symbol, and in a
    relocatable file at a section. Pieces are matched by the name of their symbol, or of the symbol before them. Of a
    piece without a counterpart, all of it is listed.

    **Not compared:**

    - data;
    - NOPs and words of zeros at the end of a piece, and at the beginning of one without a symbol: they are padding;
    - stubs of imported functions (`find_stubs`), which are matched by name wherever something calls them. If both
      builds have equal symbols, a stub without a name is matched by its address.

    **A process as NEW** is compared by one of its builds, the one with OLD's build id, or its first one. If it is of
    OLD's build, each word that differs is in the patch as it is in memory.

    Raises the errors of the two targets.
    """
    if new.capabilities.kind == "process":
        new = BuildInMemory(new, old)
    same_layout = old.symbols.ascending() == new.symbols.ascending()
    hunks: list[Hunk] = []
    missing: list[str] = []
    olds, news = _functions(old), _functions(new)
    done: dict[int, int] = {}
    """Address in OLD -> address in NEW. Several names may stand for one function."""
    pairs, left = _paired(olds, news)
    for key, (of_old, of_new) in left.items():
        name = _called(key)
        if of_old and of_new:
            missing.append(f"{name} stands for {len(olds[key])} functions in OLD and {len(news[key])} in NEW")
        else:
            several = len(olds.get(key, ())) > 1 or len(news.get(key, ())) > 1
            names = dict.fromkeys(_of_file(key, one) if several else name for one in of_old or of_new)
            missing += [f"{each} is in {'OLD' if of_old else 'NEW'} only" for each in names]
    counterparts = {there: here for _, here, there in pairs}
    end = 0
    for name, here, there in pairs:
        if here.size != there.size:
            missing.append(f"{name} has {here.size} bytes in OLD and {there.size} in NEW")
        elif done.setdefault(here.address, there.address) != there.address:
            missing.append(f"{name} is one with another function in OLD, and not in NEW")
        elif here.address + here.size > end:  # else it is compared as a part of the function around it
            overlaps = here.address < end
            end = here.address + here.size
            try:
                changes = list(_Function(old, here, new, there, counterparts).hunks(same_layout))
            except _NotExpressedError as reason:
                missing.append(f"{name}: {reason}")
            else:
                if changes and overlaps:
                    missing.append(f"{name} differs, and overlaps the function before it")
                else:
                    hunks += changes
    missing += _differences_outside(old, olds, new, news, same_layout, counterparts)
    return Comparison(AsmDiff(tuple(hunks), (), headers_of(old)), tuple(missing))


def headers_of(target: Target) -> tuple[tuple[str, str], ...]:
    """The headers of a patch that is made for this target: its name and its build id, as far as they are known."""
    identity = target.identity()
    named = ((TARGET, identity.release or basename(identity.location)), (BUILD_ID, identity.build_id))
    return tuple((name, value) for name, value in named if value)


def _functions(target: Target) -> dict[tuple[str, str], list[Symbol]]:
    """Lists of functions by module and name, each in ascending order: several functions may have one name."""
    code = Ranges.of(target.code_ranges())
    functions: dict[tuple[str, str], list[Symbol]] = {}
    for symbol in target.symbols.ascending():
        size = symbol.size
        if not symbol.is_function or not size or symbol.address % INSN_SIZE or size % INSN_SIZE:
            continue
        if code.covers(symbol.address, symbol.address + size):
            functions.setdefault((symbol.module, symbol.name), []).append(symbol)
    return functions


def _called(key: tuple[str, str]) -> str:
    module, name = key
    return site_text(name, module)


def _paired(
    olds: _Functions, news: _Functions
) -> tuple[list[tuple[str, Symbol, Symbol]], dict[_Key, tuple[list[Symbol], list[Symbol]]]]:
    """The functions of both builds in pairs, each with its name; and those that are left, of OLD and of NEW, by key.

    Functions of one module and name are paired by order

    - among those of one source file, when both builds have equally many;
    - among those that are left, when both builds have equally many.
    """
    pairs: list[tuple[str, Symbol, Symbol]] = []
    left: dict[_Key, tuple[list[Symbol], list[Symbol]]] = {}
    for key in dict.fromkeys((*olds, *news)):
        of_old, of_new = list(olds.get(key, ())), list(news.get(key, ()))
        several = len(of_old) > 1 or len(of_new) > 1
        for file in dict.fromkeys(symbol.file for symbol in of_old) if several else ():
            here = [symbol for symbol in of_old if symbol.file == file]
            there = [symbol for symbol in of_new if symbol.file == file]
            if len(here) == len(there):
                pairs += [(_of_file(key, one), one, other) for one, other in zip(here, there, strict=True)]
                of_old = [symbol for symbol in of_old if symbol.file != file]
                of_new = [symbol for symbol in of_new if symbol.file != file]
        if len(of_old) == len(of_new):
            names = [_of_file(key, one) if several else _called(key) for one in of_old]
            pairs += zip(names, of_old, of_new, strict=True)
        else:
            left[key] = of_old, of_new
    return sorted(pairs, key=lambda pair: pair[1][1:3]), left


def _of_file(key: _Key, symbol: Symbol) -> str:
    """The name of a function that has others of its name beside it."""
    return site_text(symbol.name, symbol.file) if symbol.file else _called(key)


def _differences_outside(
    old: Target,
    olds: _Functions,
    new: Target,
    news: _Functions,
    same_layout: bool,
    counterparts: Mapping[Symbol, Symbol],
) -> Iterator[str]:
    """A sentence for each piece of code that differs and is in no function of these."""
    there = _pieces_outside(new, news)
    for key, pieces in _pieces_outside(old, olds).items():
        others = there.pop(key, [])
        if [piece.size for piece in pieces] != [other.size for other in others]:
            yield from (f"{_place(old, piece)} has no counterpart in NEW" for piece in pieces)
            yield from (f"{_place(new, other)} of NEW has no counterpart in OLD" for other in others)
            continue
        for piece, other in zip(pieces, others, strict=True):
            pair = _Function(old, piece, new, other, counterparts)
            try:
                in_place = same_layout and piece.address == other.address
                changed = pair.different() if in_place else pair.changed(same_layout)
            except _NotExpressedError as reason:
                yield f"{_place(old, piece)} may differ in NEW: {reason}"
                continue
            if changed:
                start, end = piece.address + INSN_SIZE * changed[0], piece.address + INSN_SIZE * (changed[-1] + 1)
                yield f"{_place(old, Symbol('', start, end - start))} differs in NEW"
    yield from (
        f"{_place(new, other)} of NEW has no counterpart in OLD" for others in there.values() for other in others
    )


def _place(target: Target, piece: Symbol) -> str:
    where = target.symbols.describe(piece.address)
    number = f"{piece.address:#x}"
    where = number if where == number else f"{where} ({number})"
    return f"the code outside of functions at {where}, {piece.size} bytes,"


def _pieces_outside(target: Target, functions: _Functions) -> dict[tuple[str, str], list[Symbol]]:
    """The pieces of code in no function and no stub, without padding: by the name at their start or before it."""
    code = Ranges.of(target.code_ranges())
    left = code - Ranges.of((one.address, one.end) for group in functions.values() for one in group)
    left = left.whole(INSN_SIZE)
    left -= Ranges.of(
        (stub.start, stub.end) for start, end in left for stub in find_stubs(target.read(start, end - start), start)
    )
    names: dict[int, str] = {space.start: space.name for space in target.symbols.spaces}
    cuts = set(names)
    every = target.symbols.ascending() if left else ()
    for symbol in every:
        if symbol.address in left:
            names[symbol.address] = _called((symbol.module, symbol.name))
            cuts |= {symbol.address, target.symbols.end_of(symbol)}
    points = sorted(cut for cut in cuts if cut % INSN_SIZE == 0)
    found: dict[tuple[str, str], list[Symbol]] = {}
    for start, end in left:
        inside = points[bisect_right(points, start) : bisect_left(points, end)]
        for low, high in pairwise([start, *inside, end]):
            name = names.get(low, "")
            first, last = _without_padding(target, low, high, from_start=not name)
            if first < last:
                before = bisect_right(every, low, key=lambda symbol: symbol.address) - 1
                behind = every[before].name if not name and before >= 0 else ""
                found.setdefault((name, behind), []).append(Symbol(name, first, last - first))
    return found


def _without_padding(target: Target, start: int, end: int, *, from_start: bool) -> tuple[int, int]:
    words = from_bytes(target.read(start, end - start))
    code = [index for index, word in enumerate(words) if word not in _PADDING]
    if not code:
        return start, start
    return (start + INSN_SIZE * code[0] if from_start else start), start + INSN_SIZE * (code[-1] + 1)


class _Function:
    """One function in both builds."""

    def __init__(
        self,
        old: Target,
        of_old: Symbol,
        new: Target,
        of_new: Symbol,
        counterparts: Mapping[Symbol, Symbol],
    ) -> None:
        """`counterparts` has the function in OLD for each paired function in NEW."""
        self._old, self._new, self._counterparts = old, new, counterparts
        self._here, self._there, self._size = of_old.address, of_new.address, of_old.size
        self._words = from_bytes(old.read(self._here, self._size))
        self._new_words = from_bytes(new.read(self._there, self._size))
        self._words_for_old: list[int] = []
        self._goals: dict[int, int] = {}
        self._is_same_build = isinstance(new, BuildInMemory) and new.is_of_old

    def different(self) -> list[int]:
        """The numbers of the words with different bits."""
        pairs = enumerate(zip(self._words, self._new_words, strict=True))
        return [index for index, (one, other) in pairs if one != other]

    def changed(self, same_layout: bool) -> list[int]:
        """The numbers of the words that change. _NotExpressedError when a word cannot be expressed."""
        if same_layout and self._words == self._new_words and self._here == self._there:
            return []
        if self._is_same_build:
            references = _references(self._new_words, self._there, frozenset())
            self._words_for_old, self._goals = self._new_words, {index: goal for index, (goal, _) in references.items()}
            return self.different()
        self._words_for_old, self._goals = self._expressed(self._owned())
        pairs = enumerate(zip(self._words, self._words_for_old, strict=True))
        return [index for index, (one, other) in pairs if one != other]

    def _expressed(self, owned: frozenset[int]) -> tuple[list[int], dict[int, int]]:
        """The words for OLD, and the addresses in OLD that some of them refer to, by number."""
        references = _references(self._new_words, self._there, owned)
        goals = {index: self._goal(index, *refers) for index, refers in references.items()}
        for index, (_, adrp) in references.items():
            if adrp is not None and goals[index] // PAGE_SIZE != goals[adrp] // PAGE_SIZE:
                raise _NotExpressedError(f"{self._site(index)} and {self._site(adrp)} need different pages in OLD")
        words = [
            word if index in owned else self._word(index, goals.get(index))
            for index, word in enumerate(self._new_words)
        ]
        return words, goals

    def hunks(self, same_layout: bool) -> Iterator[Hunk]:
        """The changes for OLD. _NotExpressedError when a word cannot be expressed."""
        changed = self.changed(same_layout)
        if not changed:
            return
        words, goals = self._words_for_old, self._goals
        before = {index: goal for index, (goal, _) in _references(self._words, self._here, self._owned()).items()}
        for first, last in _pieces(changed, len(words)):
            yield Hunk(self._site(first), tuple(self._lines(first, last, words, before, goals, set(changed))))

    def _owned(self) -> frozenset[int]:
        """The numbers of the words that relocations will overwrite; these words refer to nothing yet.

        _NotExpressedError when the two builds have different relocations.
        """
        owned = set()
        for index in range(len(self._words)):
            one = self._old.relocation_at(self._here + INSN_SIZE * index)
            other = self._new.relocation_at(self._there + INSN_SIZE * index)
            if one != other:
                raise _NotExpressedError(
                    f"{self._site(index)} belongs to {one or 'no relocation'} in OLD and {other or 'none'} in NEW"
                )
            if one is not None:
                owned.add(index)
        return frozenset(owned)

    def _site(self, index: int) -> str:
        return self._old.symbols.describe(self._here + INSN_SIZE * index)

    def _lines(
        self,
        first: int,
        last: int,
        words: Sequence[int],
        before: dict[int, int],
        after: dict[int, int],
        changed: set[int],
    ) -> Iterator[Line]:
        index = first
        while index <= last:
            if index not in changed:
                yield Line(" ", self._words[index], self._text(index, self._words[index], before.get(index)))
                index += 1
                continue
            end = index
            while end in changed:
                end += 1
            for place in range(index, end):
                yield Line("-", self._words[place], self._text(place, self._words[place], before.get(place)))
            for place in range(index, end):
                yield Line("+", words[place], self._text(place, words[place], after.get(place)))
            index = end

    def _text(self, index: int, word: int, goal: int | None) -> str:
        """The text of a word of OLD. A word that gives a page, or the low bits of an address, has the name in it."""
        address = self._here + INSN_SIZE * index
        if goal is not None and _named(self._old, goal) is not None:
            text = disassemble(word, address, self._old.symbols)
            text = _with_name(word, address, self._old.symbols.describe(goal), self._old) or text
        else:
            # A name close by says nothing about the address, so the number is better.
            text = disassemble(word, address)
        return text if len(text) <= _LONGEST_TEXT else ""

    def _goal(self, index: int, goal: int, adrp: int | None) -> int:
        """The address in OLD with the same meaning as `goal` in NEW, which the word `index` refers to."""
        if adrp is None and self._there <= goal < self._there + self._size:
            return goal - self._there + self._here
        found = _named(self._new, goal)
        if found is None:
            content = _content(self._new, goal)
            if content and _named(self._old, goal) is None and content == _content(self._old, goal):
                if _is_stub(self._new, goal):  # its slot says which function it stands for, and that is data
                    raise _NotExpressedError(f"{self._site(index)} refers in NEW to a stub at {goal:#x} without a name")
                return goal
            raise _NotExpressedError(f"{self._site(index)} refers in NEW to {goal:#x}, which has no name")
        symbol, distance = found
        name = _called((symbol.module, symbol.name)) + (f"+{distance:#x}" if distance else "")
        counterpart = self._counterpart(symbol)
        if counterpart is None:
            if len({one.address for one in self._new.symbols.named(symbol.name, symbol.module)}) > 1:
                raise _NotExpressedError(f"{self._site(index)} refers in NEW to one of several {symbol.name}")
            raise _NotExpressedError(f"{self._site(index)} refers in NEW to {name}, which OLD has not once")
        if distance and symbol.size != counterpart.size:
            raise _NotExpressedError(
                f"{self._site(index)} refers in NEW to {name}, and in OLD {symbol.name} has another size"
            )
        return counterpart.address + distance

    def _counterpart(self, symbol: Symbol) -> Symbol | None:
        """The symbol in OLD that is paired with this one in NEW, or has the same name in the same module or file."""
        if symbol in self._counterparts:
            return self._counterparts[symbol]
        for owner in dict.fromkeys((symbol.module, symbol.file or symbol.module)):
            with suppress(SymbolError):
                if self._new.symbols.find(symbol.name, owner).address == symbol.address:
                    return self._old.symbols.find(symbol.name, owner)
        return None

    def _word(self, index: int, goal: int | None) -> int:
        """The word for OLD that does the same as the word `index` of NEW; it refers to `goal`, an address in OLD."""
        word, address = self._new_words[index], self._here + INSN_SIZE * index
        row, does = decode(word), effects_of(word)
        refers = reference(row) if row is not None else None
        if goal is None:
            if refers is not None and (word, address) != (self._words[index], self._there + INSN_SIZE * index):
                raise _NotExpressedError(
                    f"{self._site(index)} refers in NEW to a page, and its address in the page is not known"
                )
            return word
        try:
            if refers is not None:
                return refers.encode(word, address, goal)
            assert does is not None
            assert does.low_half is not None
            return does.low_half.encode(word, goal)
        except EncodingError:
            raise _NotExpressedError(f"{self._site(index)} cannot reach {goal:#x} in OLD") from None


def _named(target: Target, address: int) -> tuple[Symbol, int] | None:
    """The symbol that surely holds an address, and the offset in it; None when there is none."""
    found = target.symbols.lookup(address)
    if found is None or (found[1] and found[1] >= found[0].size):
        return None
    return found


def _content(target: Target, address: int) -> bytes:
    try:
        return target.read(address, _COMPARED)
    except A64PatchError:
        return b""


def _is_stub(target: Target, address: int) -> bool:
    code = Ranges.of(target.code_ranges()).around(address)
    if code is None or address % INSN_SIZE:
        return False
    words = target.read(address, min(INSN_SIZE * LONGEST_STUB, code[1] - address) & -INSN_SIZE)
    return any(stub.start == address for stub in find_stubs(words, address))


def _references(words: Sequence[int], start: int, owned: Container[int]) -> dict[int, tuple[int, int | None]]:
    """The address that each word refers to, and the number of the ADRP that gives its page, if there is one.

    An ADRP belongs to each later word that adds low bits to its register, unless a word between writes the register.
    The order is that of the words, not of execution. An ADRP without such a word is left out: its address is not known.
    """
    found: dict[int, tuple[int, int | None]] = {}
    pages: dict[str, tuple[int, int]] = {}
    """Register -> the ADRP that wrote it, and its page."""
    for index, word in enumerate(words):
        row, does = decode(word), effects_of(word)
        if row is None or does is None:
            pages.clear()
            continue
        refers = reference(row) if index not in owned else None
        if refers is not None:
            goal = refers.target(word, start + INSN_SIZE * index)
            if refers.unit == PAGE_SIZE:
                pages |= dict.fromkeys(does.writes, (index, goal))
                continue
            found[index] = goal, None
        low = does.low_half if index not in owned else None
        if low is not None and low.base in pages:
            adrp, page = pages[low.base]
            found[index] = page + low.offset, adrp
            found.setdefault(adrp, found[index])
        for register in _CLOBBERED_BY_CALLS if row.flow is Flow.CALL else does.writes:
            pages.pop(register, None)
    return found


def _with_name(word: int, address: int, name: str, target: Target) -> str | None:
    """The text with a name for the page, or for the low 12 bits. None when that text assembles to another word."""
    text = disassemble_naming(word, address, name)
    try:
        return text if text is not None and assemble_one(text, address, target.symbols) == word else None
    except AssemblyError:
        return None


def _pieces(changed: Sequence[int], count: int) -> Iterator[tuple[int, int]]:
    """First and last word of each hunk: changes with their context. Changes whose context meets are one hunk."""
    first = last = -1
    for index in changed:
        if first >= 0 and index - CONTEXT > last + 1:
            yield first, last
            first = -1
        if first < 0:
            first = max(0, index - CONTEXT)
        last = min(count - 1, index + CONTEXT)
    if first >= 0:
        yield first, last

"""`link`: functions of an object file, and all that they need of it, as a patch for a target that is linked already.

Knows object and target. It writes a patch, and changes nothing.
Read on: pieces.py for the object's side, names.py for the target's; patch/asmdiff.py for annexes; docs/functions.md.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from a64patch.a64.disassembler import disassemble, disassemble_naming
from a64patch.a64.effects import effects_of
from a64patch.a64.fields import ImmediateKind, encode_immediate
from a64patch.a64.names import outside_quotes, parse_site, quoted, site_text
from a64patch.a64.predicates import decode
from a64patch.a64.references import ReferenceKind, reference
from a64patch.a64.relocation import relocate
from a64patch.a64.row import PAGE_SIZE, Encoding, Flow
from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import LinkError, RequestError, UnmovableError
from a64patch.linking import registers
from a64patch.linking.names import Found, TargetNames
from a64patch.linking.pieces import Piece, Pieces, Place
from a64patch.oneline import shown, some
from a64patch.patch.asmdiff import ANNEX, AsmDiff, Hunk, Line
from a64patch.patch.compare import headers_of
from a64patch.targets.base import Target
from a64patch.targets.elf_image import (
    LOW12_UNITS,
    R_AARCH64_ADD_ABS_LO12_NC,
    R_AARCH64_NONE,
    SHF_EXECINSTR,
    SHF_STRINGS,
    STT_FUNC,
    STT_GNU_IFUNC,
    STT_SECTION,
    relocation_name,
    relocation_size,
)
from a64patch.targets.elf_object import (
    ABSOLUTE,
    COMMON,
    STB_WEAK,
    UNDEFINED,
    ElfObject,
    ObjectRelocation,
    ObjectSymbol,
    open_object,
)
from a64patch.targets.symbols import Symbol

CALLER_REGISTERS = "caller-registers"
"""The name of the one thing that a user may accept: see registers.py."""
_STB_GLOBAL = 1
_MOST_WORDS = 1 << 18
"""The words of all annexes together: 1 MiB."""
_MOST_PROBLEMS = 16
_COPIES = ("constprop.", "isra.", "part.", "clone.")
"""The names of copies that GCC makes of a function, or of a part of it, behind the function's name."""
_LONGEST_STRING = 60
"""Characters of a string that a comment shows."""

# AAELF64 5.7: the types that are linked, by number.
_ABS64, _ABS32, _PREL64, _PREL32, _PLT32 = 257, 258, 260, 261, 314
_MOVW_UABS = {263: 0, 264: 0, 265: 1, 266: 1, 267: 2, 268: 2, 269: 3}
"""The 16 bits of the address that each type of R_AARCH64_MOVW_UABS takes."""
_MOVW_CHECKED = (263, 265, 267)
_ADR, _ADRP = 274, (275, 276)
_GOT_PAGE, _GOT_LOW12, _GOT_PAGE_LOW15 = 311, 312, 313
_RELATIVE: dict[int, Callable[[Encoding], bool]] = {
    273: lambda row: row.literal,
    _ADR: lambda row: row.name == "adr",
    275: lambda row: row.name == "adrp",
    276: lambda row: row.name == "adrp",
    279: lambda row: row.name in ("tbz", "tbnz"),
    280: lambda row: row.name in ("bcond", "bccond", "cbz", "cbnz"),
    282: lambda row: row.name == "b",
    283: lambda row: row.name == "bl",
    _GOT_PAGE: lambda row: row.name == "adrp",
}
"""The instructions that each PC-relative type is for."""
_BRANCHES = (279, 280, 282, 283, _PLT32)

_KERNEL = "the kernel would look for it there: build it without"
_TABLES = {
    ".altinstructions": f"{_KERNEL} alternatives",
    "__jump_table": f"{_KERNEL} static keys",
    "__ex_table": f"{_KERNEL} accesses that may fault",
    "__bug_table": f"{_KERNEL} BUG and WARN",
    ".static_call_sites": f"{_KERNEL} static calls",
    ".init_array": "a loader calls it before the program begins: take the constructor out of the source",
    ".preinit_array": "a loader calls it before the program begins: take the constructor out of the source",
    ".fini_array": "a loader calls it when the program ends: take the destructor out of the source",
    ".ctors": "a loader calls it before the program begins: take the constructor out of the source",
    ".dtors": "a loader calls it when the program ends: take the destructor out of the source",
}  # fmt: skip
"""The sections whose entries do something for a function, and would be missing."""
_TRACED = ("__patchable_function_entries", "__mcount_loc")


class Linked(NamedTuple):
    """Functions of an object as a patch for a target."""

    diff: AsmDiff
    replaced: dict[str, str]
    """For each function of the target that is replaced, as a site: the function of the object."""
    annexes: tuple[str, ...]
    """The names of the annexes in their order."""
    notes: tuple[str, ...]
    """What a user should know, a sentence each."""

    def __repr__(self) -> str:
        functions = some(self.replaced, len(self.replaced))
        return shown(self, f"{functions} replaced, {len(self.annexes)} annexes")


class _Item(NamedTuple):
    """A line of an annex."""

    word: int | None
    """None for a word that depends on where it, or what it refers to, will lie."""
    text: str | Callable[[], str] = ""
    """A function where the text has names that are given at the end."""
    comment: str = ""
    """Of the line before it; empty without one."""
    offset: int = -1
    """In the section, for code."""
    code: int | None = None
    """The word in the object, for an instruction."""
    leaves: bool = False
    """It is a call of, or a branch to, code of the target."""


class _Operand(NamedTuple):
    """What a relocation refers to: a place of the object, or an address of the target and a distance from it."""

    place: Place | None
    found: Found | None = None
    distance: int = 0


class _Replacement(NamedTuple):
    """A function of the target, and the function of the object for it."""

    old: Symbol
    site: str
    new: ObjectSymbol


class _Names:
    """Gives every label one text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def resolve(self, site: str) -> int:
        raise LookupError(site)

    def describe(self, address: int) -> str:
        return self._text


def link(
    path: str | os.PathLike[str], target: Target, replace: Sequence[str] = (), *, accept: Collection[str] = ()
) -> Linked:
    """The patch that replaces functions of a target by functions of an object file.

    `replace` has an `OLD=NEW` for each: a site of the target, and the name of a function in the object; `NAME` stands
    for `NAME=NAME`. Without any, each global function is replaced that the target has under the same name.

    The patch has

    - for each replaced function one changed word, at its entry or behind its landing pad: a branch to the new one;
    - an annex for each function and each section of read-only data that the new functions need. Each string and
      constant that a linker may merge is taken by itself.

    `accept` may have CALLER_REGISTERS: callers that seem to rely on a register, which then are notes.

    LinkError when something cannot be linked; its notes name more such reasons. SymbolError for a function that the
    target does not have. RequestError for a function that the object does not have. FormatError for an object that is
    not sound, TargetError for one that cannot be read. Errors of reading the target.
    """
    return _Linker(open_object(path), target, accept).linked(replace)


class _Linker:
    def __init__(self, unit: ElfObject, target: Target, accept: Collection[str]) -> None:
        self._unit, self._target, self._accept = unit, target, accept
        self._names = TargetNames(target, unit.source_files)
        self._pieces = Pieces(unit)
        self._waiting_code: deque[Piece] = deque()
        self._waiting_data: deque[Piece] = deque()
        self._items: dict[Piece, list[_Item]] = {}
        """The lines of each piece that is needed."""
        self._labels: dict[tuple[Piece, int], str] = {}
        """The label of each place in code that needs one; the offset is that in the section."""
        self._taken_over: dict[tuple[int, int], str] = {}
        """(section, offset) of each function that replaces one -> the site of the old one."""
        self._addressed: dict[tuple[Piece, int], str] = {}
        """The places in code to which a register may point -> the function that forms the address."""
        self._relocations: dict[int, dict[int, list[ObjectRelocation]]] = {}
        self._problems: dict[str, None] = {}
        self._notes: dict[str, None] = {}
        self._words = 0

    def linked(self, replace: Sequence[str]) -> Linked:
        replacements = self._named(replace) if replace else self._common()
        for one in replacements:
            self._taken_over[one.new.home, one.new.offset] = one.site
        self._notes.update(dict.fromkeys(self._said_of(replacements)))
        entries = [self._need(self._pieces.of_symbol(one.new, 0, is_section=False)) for one in replacements]
        while self._waiting_code or self._waiting_data:
            piece = self._waiting_code.popleft() if self._waiting_code else self._waiting_data.popleft()
            if piece.needed is None:
                self._count(piece)
                self._items[piece] = list(self._scanned(piece))
        for piece in self._items:
            if piece.needed is not None:
                self._count(piece)
                self._items[piece] = list(self._merged(piece))
        self._require_no_tables()
        redirects = [self._redirect(one, entry) for one, entry in zip(replacements, entries, strict=True)]
        self._require_landing_pads(replacements, entries)
        self._require_same_registers(replacements)
        if self._problems:
            raise self._refusal()
        self._give_labels()
        pieces = sorted(self._items, key=lambda piece: not piece.is_code)
        hunks = [*(redirect() for redirect in redirects), *map(self._annex, pieces)]
        replaced = {one.site: one.new.name for one in replacements}
        diff = AsmDiff(tuple(hunks), self._description(replaced), headers_of(self._target))
        return Linked(diff, replaced, tuple(piece.name for piece in pieces), tuple(self._notes))

    def _said_of(self, replacements: Sequence[_Replacement]) -> Iterator[str]:
        """A sentence for each function that is replaced, with its other names and with the copies of it that stay."""
        aliases: dict[int, list[str]] = {one.old.address: [] for one in replacements}
        copies: dict[str, list[str]] = {one.old.name: [] for one in replacements}
        for symbol in self._target.symbols.ascending():
            if symbol.is_function:
                base, _, rest = symbol.name.partition(".")
                if symbol.address in aliases and symbol.name not in copies:
                    aliases[symbol.address].append(self._names.text(symbol))
                elif base in copies and rest.startswith(_COPIES):
                    copies[base].append(self._names.text(symbol))
        for old, site, new in replacements:
            also, left = sorted(set(aliases[old.address])), copies[old.name]
            yield f"{site} is replaced by {new.name} of {self._unit.title}" + (
                f"; it is also called {some(also, len(also))}" if also else ""
            )
            if left:
                yield f"{some(left, len(left))} of the target is another copy of {site}, and stays as it is"

    def _refusal(self) -> LinkError:
        first, *others = self._problems
        error = LinkError(first)
        for other in others[:_MOST_PROBLEMS]:
            error.add_note(other)
        return error

    # Which functions

    def _named(self, replace: Sequence[str]) -> list[_Replacement]:
        found: list[_Replacement] = []
        for each in replace:
            site, equals, name = each.rpartition("=")
            if not equals:
                parts = parse_site(each)
                site, name = each, parts.name if parts else each
            new = self._function(name)
            old = self._names.function(site)
            if any(old.address == one.old.address for one in found):
                raise RequestError(f"{site} is to be replaced twice: give one function for it")
            found.append(_Replacement(old, self._names.text(old), new))
        return found

    def _function(self, name: str) -> ObjectSymbol:
        parts = parse_site(name)
        named = [
            one
            for one in self._unit.symbol_list
            if one.home > 0
            and one.type in (STT_FUNC, STT_GNU_IFUNC)
            and (one.name == name or (parts is not None and one.file == parts.owner and one.name == parts.name))
        ]
        if not named:
            raise RequestError(f"{self._unit.title} has no function {name}: name one that it defines")
        if len({(one.home, one.offset) for one in named}) > 1:
            raise RequestError(f"{self._unit.title} has several functions {name}: write file.c:{name}")
        return named[0]

    def _common(self) -> list[_Replacement]:
        found: dict[int, _Replacement] = {}
        for new in self._unit.symbol_list:
            if new.type != STT_FUNC or new.binding != _STB_GLOBAL or new.home <= 0 or not self._names.has(new.name):
                continue
            old = self._names.function(quoted(new.name))
            found.setdefault(old.address, _Replacement(old, self._names.text(old), new))
        if not found:
            raise LinkError(
                f"no global function of {self._unit.title} has the name of one in the target: say which one is to"
                " be replaced (--replace OLD=NEW)"
            )
        return list(found.values())

    # The redirect at an old entry

    def _redirect(self, one: _Replacement, entry: Place) -> Callable[[], Hunk]:
        """What makes the hunk that makes one word of the old function a branch to the new one, once labels have names.

        A landing pad stays, and so do the words by which ftrace traces the old function. An instruction that signs the
        return address is a landing pad too, and signs for the new function: which then begins behind its own.
        """
        old, site, new = one
        symbols = self._target.symbols
        size = max(0, min(symbols.end_of(old) - old.address, 4 * INSN_SIZE)) & -INSN_SIZE
        words = from_bytes(self._target.read(old.address, size)) if size and not old.address % INSN_SIZE else []
        effects = effects_of(words[0]) if words else None
        pads = effects is not None and bool(effects.lands)
        behind = INSN_SIZE if pads else 0
        while behind < size and self._is_of_ftrace(old.address + behind):
            behind += INSN_SIZE
        address = old.address + behind
        if len(words) * INSN_SIZE <= behind:
            self._problems[f"{site} is too short for a branch: replace the functions that call it"] = None
            words = [0] * 5
        elif pads and not _is_bti(words[0]):
            pad = disassemble(words[0])
            entry = entry._replace(distance=entry.distance + INSN_SIZE)
            if pad not in _SIGNING or self._word_at(entry.piece, entry.offset - INSN_SIZE) != words[0]:
                self._problems[
                    f"{site} begins with {pad}, which stays, and {new.name} does not begin with it: compile it like the"
                    " target, -mbranch-protection=pac-ret or pac-ret+leaf"
                ] = None
            elif entry.offset >= entry.piece.end:
                self._problems[f"{new.name} ends behind its {pad}: it does nothing"] = None
            self._label(entry.piece, entry.offset, f".Lentry_{new.name}")
        elif entry.offset != entry.piece.start:
            self._label(entry.piece, entry.offset)
        parts = parse_site(site)
        where = f"{address:#x}" if parts is None or parts.is_number else site_text(parts.name, parts.owner, behind)
        word = words[behind // INSN_SIZE]
        was = Line("-", word, disassemble(word, address, symbols))
        return lambda: Hunk(where, (was, Line("+", None, f"b {self._text(entry)}")))

    def _is_of_ftrace(self, address: int) -> bool:
        claims = self._target.modules.claims
        return any(
            claim.table in _TRACED or "ftrace" in sentence
            for claim in claims
            if address in claim.words
            for sentence in claim.on([address]).values()
        )

    def _require_landing_pads(self, replacements: Sequence[_Replacement], entries: Sequence[Place]) -> None:
        """Where the target has landing pads, its pages may enforce them (Arm ARM, D8.4.5): then we need them too."""
        guarded = False
        for one, entry in zip(replacements, entries, strict=True):
            [word] = from_bytes(self._target.read(one.old.address, INSN_SIZE))
            if not _is_bti(word):
                continue
            guarded = True
            if not self._lands(entry.piece, entry.offset) and any(
                _is_indirect_jump(item.word) for item in self._items[entry.piece]
            ):
                self._problems[
                    f"{one.new.name} jumps by a register, and was compiled without the landing pads that the target"
                    " has: add -mbranch-protection=standard"
                ] = None
        for (piece, offset), user in self._addressed.items() if guarded else ():
            if not self._lands(piece, offset):
                self._problems[
                    f"{user} takes the address of {piece.name}{_plus(offset - piece.start)}, which has no landing pad"
                    " as the target's functions have: add -mbranch-protection=standard"
                ] = None

    def _require_same_registers(self, replacements: Sequence[_Replacement]) -> None:
        """Callers in the target may rely on registers that the old function leaves alone: see registers.py."""
        items = [item for piece in self._items if piece.is_code for item in self._items[piece]]
        codes = [item.code for item in items if item.code is not None]
        leaves = any(item.leaves for item in items) or any(map(registers.leaves, codes))
        changed = registers.CHANGED_BY_CALLS if leaves else registers.changed_by(codes)
        symbols = self._target.symbols
        gone = [(one.old.address, symbols.end_of(one.old)) for one in replacements]
        for (old, site, new), (start, end) in zip(replacements, gone, strict=True):
            for call, register, reader in registers.reliances(self._target, start, end, changed, gone):
                caller = symbols.describe(call)
                said = (
                    f"behind its call of {site}, {caller} reads {register} ({symbols.describe(reader)}), which"
                    f" {old.name} leaves alone and {new.name} changes"
                )
                if CALLER_REGISTERS in self._accept:
                    self._notes[said] = None
                else:
                    self._problems[
                        f"{said} (gcc -fipa-ra): replace the caller too, by one of the object; if {register} is a"
                        f" result, --accept {CALLER_REGISTERS}"
                    ] = None

    def _lands(self, piece: Piece, offset: int) -> bool:
        effects = effects_of(self._word_at(piece, offset))
        return effects is not None and bool(effects.lands)

    def _require_no_tables(self) -> None:
        for number, section in enumerate(self._unit.sections):
            if not number or not section.size:
                continue
            name = self._unit.section_name(section)
            base = name if name in _TABLES or name in _TRACED else name.rpartition(".")[0]
            if base not in _TABLES and base not in _TRACED:
                continue
            for relocation in self._unit.relocations_of(number):
                symbol = self._unit.symbol_list[relocation.symbol]
                if symbol.home <= 0 or not self._unit.sections[symbol.home].executable:
                    continue
                function = self._pieces.function_at(symbol.home, symbol.offset + relocation.addend)
                if function is None or function not in self._items:
                    continue
                if base in _TRACED:
                    self._notes[f"{function.name} cannot be traced by ftrace: it has no entry in {name}"] = None
                else:
                    self._problems[f"{function.name} has an entry in {name}, and {_TABLES[base]}"] = None

    # What is needed

    def _need(self, place: Place) -> Place:
        piece = place.piece
        if piece not in self._items:
            self._items[piece] = []
            (self._waiting_code if piece.is_code else self._waiting_data).append(piece)
        return place

    def _count(self, piece: Piece) -> None:
        self._words += -(-(piece.end - piece.start if piece.needed is None else piece.size) // INSN_SIZE)
        if self._words > _MOST_WORDS:
            raise LinkError(
                f"the functions need {piece.name}, and with it more than {_MOST_WORDS * INSN_SIZE >> 20} MiB: compile"
                " with -ffunction-sections -fdata-sections, so that less comes with them"
            )

    def _refer(self, operand: _Operand, piece: Piece, *, calls: bool) -> _Operand:
        """The operand, after it was made sure that what it names exists in the patch. LinkError when it cannot."""
        place = operand.place
        if place is None:
            return operand
        if not calls and (place.piece.section, place.offset) in self._taken_over:
            # One function has one address, and that is the old one.
            site = self._taken_over[place.piece.section, place.offset]
            return _Operand(None, Found(site, self._target.symbols.resolve(site)))
        self._need(place)
        if place.piece.is_code:
            if place.offset % INSN_SIZE or not place.piece.start <= place.offset < place.piece.end:
                raise LinkError(
                    f"{piece.name} refers to {place.piece.name}{_plus(place.offset - place.piece.start)}, which is no"
                    " instruction of it"
                )
            if place.offset != place.piece.start:
                self._label(place.piece, place.offset)
            if not calls:
                self._addressed.setdefault((place.piece, place.offset), piece.name)
        return operand

    def _operand(self, relocation: ObjectRelocation, *, calls: bool) -> _Operand:
        """What a relocation refers to. LinkError for what cannot be linked."""
        symbol = self._unit.symbol_list[relocation.symbol]
        kind = relocation_name(relocation.type)
        if not relocation.symbol:
            raise LinkError(f"{kind} without a symbol stands for a number, which no compiler writes")
        if symbol.home == ABSOLUTE:
            raise LinkError(f"{symbol.name} is a number, not an address: define it in the source")
        if symbol.home == COMMON:
            raise LinkError(
                f"{symbol.name} is data that is written (common): a patch has no room for it; if the target has it"
                " already, declare it `extern` in the source"
            )
        if symbol.home != UNDEFINED:
            is_section = symbol.type == STT_SECTION
            place = self._pieces.of_symbol(symbol, relocation.addend, is_section=is_section)
            is_shared = symbol.type == STT_FUNC and symbol.binding == _STB_GLOBAL and self._names.has(symbol.name)
            if is_shared and (symbol.home, symbol.offset) not in self._taken_over:
                self._notes[
                    f"{symbol.name} of {self._unit.title} is used, although the target has one too, which stays as it"
                    f" is (--replace {symbol.name})"
                ] = None
            return _Operand(place)
        found = self._names.find(symbol.name)
        if found is None:
            raise LinkError(f"{symbol.name} is neither in {self._unit.title} nor in the target{self._advice(symbol)}")
        return _Operand(None, found, relocation.addend)

    def _advice(self, symbol: ObjectSymbol) -> str:
        if self._names.slot(symbol.name) is not None:
            return ", which reaches it by way of its global offset table: compile with -fPIC"
        if symbol.binding == STB_WEAK:
            return ", and is weak: take the reference out of the source"
        return ": add a function of it to the object (ld -r), or do without"

    # The lines of a piece

    def _contents(self, number: int) -> bytes:
        section = self._unit.sections[number]
        return self._unit.data[section.offset : section.offset + section.size]

    def _relocations_at(self, number: int) -> dict[int, list[ObjectRelocation]]:
        if number not in self._relocations:
            found: dict[int, list[ObjectRelocation]] = {}
            for relocation in self._unit.relocations_of(number):
                if relocation.type not in R_AARCH64_NONE:
                    found.setdefault(relocation.offset, []).append(relocation)
            self._relocations[number] = found
        return self._relocations[number]

    def _scanned(self, piece: Piece) -> Iterator[_Item]:
        """The lines of a function, or of data that moves as a whole."""
        data = self._contents(piece.section)[piece.start : piece.end]
        data += bytes(-len(data) % INSN_SIZE)
        relocations = self._relocations_at(piece.section)
        last: _Item | None = None
        offset = piece.start
        for at in sorted(at for at in relocations if piece.start <= at < piece.end):
            if (at - piece.start) % INSN_SIZE:
                names = ", ".join(relocation_name(each.type) for each in relocations[at])
                self._problems[f"{piece.name}{_plus(at - piece.start)} has {names} at no whole word"] = None
        while offset < piece.end:
            word = int.from_bytes(data[offset - piece.start : offset - piece.start + INSN_SIZE], "little")
            here = relocations.get(offset, ())
            is_data = not piece.is_code or self._pieces.is_data(piece.section, offset)
            try:
                if len(here) > 1:
                    raise LinkError("has several relocations at one place, which no compiler writes")
                if here and is_data:
                    items = self._relocated_data(piece, here[0])
                elif here:
                    items = [self._relocated(piece, here[0], word)]
                else:
                    items = [_Item(word, f".word {word:#010x}") if is_data else self._plain(piece, offset, word)]
            except LinkError as error:
                self._problems[f"{piece.name}{_plus(offset - piece.start)}: {error}"] = None
                items = [_Item(word)]
            for item in items:
                item = item._replace(offset=offset, code=None if is_data else word)
                last = last if is_data else item
                yield item
                offset += INSN_SIZE
        if piece.is_code and (last is None or _falls_through(self._word_at(piece, last.offset))):
            self._problems[f"{piece.name} does not end with a branch: code behind it would be missing"] = None

    def _word_at(self, piece: Piece, offset: int) -> int:
        return int.from_bytes(self._contents(piece.section)[offset : offset + INSN_SIZE], "little")

    def _merged(self, piece: Piece) -> Iterator[_Item]:
        """The lines of the strings and constants that are needed of a section."""
        contents = self._contents(piece.section)
        data = bytearray(piece.size + -piece.size % INSN_SIZE)
        comments: dict[int, str] = {}
        relocations = self._relocations_at(piece.section)
        for start, end, place in piece.parts:
            data[place : place + end - start] = contents[start:end]
            is_text = contents[end - 1 : end] == b"\0" and contents[start : end - 1].isascii()
            if is_text and self._unit.sections[piece.section].flags & SHF_STRINGS:
                text = repr(contents[start : end - 1].decode())
                shortened = text if len(text) <= _LONGEST_STRING else f"{text[:_LONGEST_STRING]}…"
                comments[place // INSN_SIZE] = f" {place:#x}: {shortened}"
        if relocations:
            self._problems[f"{piece.name} has relocations, which strings and constants never have"] = None
        for number in range(len(data) // INSN_SIZE):
            word = int.from_bytes(data[INSN_SIZE * number : INSN_SIZE * (number + 1)], "little")
            yield _Item(word, f".word {word:#010x}", comments.get(number, ""))

    def _plain(self, piece: Piece, offset: int, word: int) -> _Item:
        """An instruction without a relocation."""
        row = decode(word)
        refers = reference(row) if row is not None else None
        if row is None or refers is None:
            try:
                relocate(word, 0, 0) if row is None else None
            except UnmovableError as error:
                raise LinkError(str(error)) from None
            return _Item(word, disassemble(word))
        if refers.unit == PAGE_SIZE:
            raise LinkError("adrp has no relocation, so nothing tells which page it means")
        place = self._pieces.of_offset(piece.section, refers.target(word, offset))
        calls = refers.kind is not ReferenceKind.ADDRESS
        return self._naming(word, self._refer(_Operand(place), piece, calls=calls))

    def _naming(self, word: int, operand: _Operand) -> _Item:
        """A PC-relative instruction, with the name of its label."""
        row = decode(word)
        refers = reference(row) if row is not None else None
        page = refers is not None and refers.unit == PAGE_SIZE
        leaves = refers is not None and refers.kind is ReferenceKind.BRANCH and operand.place is None
        return _Item(None, lambda: disassemble(word, 0, _Names(self._text_of(operand, page=page))), leaves=leaves)

    def _relocated(self, piece: Piece, relocation: ObjectRelocation, word: int) -> _Item:
        """An instruction with a relocation."""
        kind, row = relocation.type, decode(word)
        if kind in _RELATIVE or kind in LOW12_UNITS or kind == _GOT_LOW12 or kind in _MOVW_UABS:
            if row is None or not self._fits(kind, row, word):
                raise LinkError(f"{relocation_name(kind)} is not for {disassemble(word)}")
        else:
            raise self._cannot(relocation)
        calls = kind in _BRANCHES
        if kind in (_GOT_PAGE, _GOT_LOW12):
            return self._by_table(piece, relocation, word)
        operand = self._refer(self._operand(relocation, calls=calls), piece, calls=calls)
        if kind in _MOVW_UABS:
            value = self._constant(relocation, operand) >> 16 * _MOVW_UABS[kind]
            if kind in _MOVW_CHECKED and value > 0xFFFF:
                raise LinkError(f"{relocation_name(kind)} cannot hold the address {self._text_of(operand)}")
            word = encode_immediate(ImmediateKind.IMM16, word, value & 0xFFFF)
            return _Item(word, disassemble(word))
        return self._naming(word, operand) if kind in _RELATIVE else self._naming_low_bits(word, operand)

    def _by_table(self, piece: Piece, relocation: ObjectRelocation, word: int) -> _Item:
        """ADRP or LDR by way of the global offset table: the address itself, or the slot that the target has for it."""
        symbol = self._unit.symbol_list[relocation.symbol]
        slot = self._names.slot(symbol.name) if symbol.home == UNDEFINED else None
        if slot is not None and relocation.addend == 0:
            operand = _Operand(None, slot)
            return self._naming(word, operand) if relocation.type == _GOT_PAGE else self._naming_low_bits(word, operand)
        operand = self._refer(self._operand(relocation, calls=False), piece, calls=False)
        if relocation.type == _GOT_PAGE:
            return self._naming(word, operand)
        base, register = word >> 5 & 31, word & 31
        if base == 31 or register == 31:
            raise LinkError(f"{disassemble(word)} cannot become an add")
        return self._naming_low_bits(_ADD_X | base << 5 | register, operand)

    def _naming_low_bits(self, word: int, operand: _Operand) -> _Item:
        def text() -> str:
            return disassemble_naming(word, 0, self._text_of(operand)) or ""

        return _Item(None, text)

    def _fits(self, kind: int, row: Encoding, word: int) -> bool:
        """Whether a type of relocation is for this instruction (AAELF64, 5.7)."""
        if kind in _RELATIVE:
            return _RELATIVE[kind](row)
        if kind in _MOVW_UABS:
            return row.name in ("movz.x", "movk.x") and word >> 21 & 3 == _MOVW_UABS[kind]
        if kind == _GOT_LOW12:
            return row.name == "ldr_imm.x"
        effects = effects_of(word)
        low = effects.low_half if effects is not None else None
        return (
            low is not None
            and low.unit == LOW12_UNITS[kind]
            and (kind == R_AARCH64_ADD_ABS_LO12_NC) == (row.name == "add_imm")
        )

    def _cannot(self, relocation: ObjectRelocation) -> LinkError:
        symbol = self._unit.symbol_list[relocation.symbol]
        name = relocation_name(relocation.type)
        if "TLS" in name:
            return LinkError(f"{symbol.name} is thread-local data ({name}): a patch cannot reach it; do without")
        if "GOT" in name:
            how = "-fPIC instead of -fpic" if relocation.type == _GOT_PAGE_LOW15 else "-mcmodel=small"
            return LinkError(f"{name} against {symbol.name} needs a global offset table: compile with {how}")
        return LinkError(f"{name} against {symbol.name or 'a section'} cannot be linked: compile with -mcmodel=small")

    def _constant(self, relocation: ObjectRelocation, operand: _Operand) -> int:
        """The absolute address that a relocation stands for. LinkError where it is not known, or is no constant."""
        found = operand.found
        if found is None or found.address is None or not self._names.are_constants:
            where = "is known only when the annex has a place" if found is None else "is another in each process"
            raise LinkError(
                f"{relocation_name(relocation.type)} needs the address of"
                f" {self._unit.symbol_list[relocation.symbol].name or 'a place of the object'}, which {where}: use no"
                " table of pointers, and compile with -mcmodel=small"
            )
        return (found.address + operand.distance) % (1 << 64)

    def _relocated_data(self, piece: Piece, relocation: ObjectRelocation) -> list[_Item]:
        """The words of a relocated place in data."""
        kind, at = relocation.type, relocation.offset
        if kind in (_ABS64, _ABS32):
            operand = self._refer(self._operand(relocation, calls=False), piece, calls=False)
            value = self._constant(relocation, operand)
            if kind == _ABS32 and value >> 32:
                raise LinkError(f"{relocation_name(kind)} cannot hold {value:#x}")
            return _number(value, relocation_size(kind))
        if kind not in (_PREL64, _PREL32, _PLT32):
            raise self._cannot(relocation)
        symbol = self._unit.symbol_list[relocation.symbol]
        if symbol.home == piece.section and self._contains(piece, symbol.offset + relocation.addend):
            return _number(symbol.offset + relocation.addend - at, relocation_size(kind))
        if kind == _PREL64:
            raise LinkError(f"{relocation_name(kind)} against {symbol.name or 'a section'} has 64 bits: use 32 bits")
        calls = kind == _PLT32
        if symbol.home > 0 and self._unit.sections[symbol.home].executable:
            return [self._difference(piece, relocation, symbol, calls=calls)]
        operand = self._refer(self._operand(relocation, calls=calls), piece, calls=calls)
        return [_Item(None, lambda: f".word {self._term(operand)}-.")]

    def _contains(self, piece: Piece, offset: int) -> bool:
        return piece.start <= offset < piece.end

    def _difference(self, piece: Piece, relocation: ObjectRelocation, symbol: ObjectSymbol, *, calls: bool) -> _Item:
        """The distance of code from the word of a table, or from the beginning of the table.

        Compilers write the second as the first: `label + (word - table) - word`. A symbol with a name is the label, and
        its addend tells where the table begins. A place in a section is

        - the label plus the word's offset in the table, if the label then is a function, or is in a function that forms
          the address of the table: the last address before the word that any instruction forms;
        - the label, if it is a function.

        Inside one function both are the same, as long as nothing in it grows. LinkError for two functions, or none.
        """
        at, offset, addend = relocation.offset, symbol.offset + relocation.addend, relocation.addend
        if symbol.type != STT_SECTION:
            label, table = symbol.offset, at - addend
        else:
            table, users = self._table_before(piece.section, at)
            label = offset - (at - table)
            by_table, by_word = (self._pieces.function_at(symbol.home, each) for each in (label, offset))
            is_table = by_table is not None and (label == by_table.start or (by_table.section, by_table.start) in users)
            is_word = by_word is not None and offset == by_word.start
            if is_table and by_word is not None and by_table is not by_word:
                raise LinkError("the word may mean a place in one of two functions: compile with -ffunction-sections")
            if not is_table and not is_word:
                raise LinkError(f"{relocation_name(relocation.type)} refers into a function, by a table without a name")
            if not is_table:
                label, table = offset, at
        operand = self._refer(_Operand(self._pieces.of_offset(symbol.home, label)), piece, calls=calls)
        if table == at:
            return _Item(None, lambda: f".word {self._term(operand)}-.")
        start = self._refer(_Operand(self._pieces.of_offset(piece.section, table)), piece, calls=True)
        return _Item(None, lambda: f".word {self._term(operand)}-{self._term(start)}")

    def _table_before(self, home: int, at: int) -> tuple[int, set[tuple[int, int]]]:
        """The last offset up to `at` whose address an instruction forms, and the functions that do."""
        tables = self._tables.get(home, {})
        starts = self._table_starts.get(home, [])
        index = bisect_right(starts, at) - 1
        return (starts[index], tables[starts[index]]) if index >= 0 else (at, set())

    @cached_property
    def _table_starts(self) -> dict[int, list[int]]:
        return {home: sorted(tables) for home, tables in self._tables.items()}

    @cached_property
    def _tables(self) -> dict[int, dict[int, set[tuple[int, int]]]]:
        """For each section: the offsets whose addresses instructions form, and the functions with these."""
        found: dict[int, dict[int, set[tuple[int, int]]]] = {}
        for number, section in enumerate(self._unit.sections):
            if not number or not section.flags & SHF_EXECINSTR:
                continue
            for relocation in self._unit.relocations_of(number):
                symbol = self._unit.symbol_list[relocation.symbol]
                if relocation.type in (R_AARCH64_ADD_ABS_LO12_NC, _ADR) and symbol.home > 0:
                    function = self._pieces.function_at(number, relocation.offset)
                    if function is not None:
                        users = found.setdefault(symbol.home, {}).setdefault(symbol.offset + relocation.addend, set())
                        users.add((number, function.start))
        return found

    # Names, at the end

    def _label(self, piece: Piece, offset: int, name: str = "") -> str:
        """Ask for a label; the result is its name, if it has one already."""
        key = piece, offset
        if name:
            name = re.sub(r"[^\w.$]", "_", name[:80], flags=re.ASCII)
            taken = set(self._labels.values())
            while name in taken:
                name += "_"
            self._labels[key] = name
        return self._labels.setdefault(key, "")

    def _give_labels(self) -> None:
        order = {piece: number for number, piece in enumerate(self._items)}
        number = 0
        for key in sorted(self._labels, key=lambda key: (order[key[0]], key[1])):
            if not self._labels[key]:
                number += 1
                self._labels[key] = f".L{number}"

    def _text_of(self, operand: _Operand, *, page: bool = False) -> str:
        if operand.place is not None:
            return self._text(operand.place)
        return operand.found.at(operand.distance, page=page) if operand.found is not None else ""

    def _text(self, place: Place) -> str:
        piece = place.piece
        if piece.is_code and place.offset != piece.start:
            return self._label(piece, place.offset)
        offset = 0 if piece.is_code else piece.offset_of(place.part) + place.distance
        return f"{ANNEX}:{quoted(piece.name)}{_plus(offset)}"

    def _term(self, operand: _Operand) -> str:
        """The operand in a difference: a minus in a name is in quotes there."""
        text = self._text_of(operand)
        site = parse_site(text)
        if site is None:
            raise LinkError(f"the difference of {text} cannot be written: it lies before what it names")
        if "-" not in outside_quotes(text):
            return text
        owner = f"{_quotes(site.owner)}:" if site.owner else ""
        return f"{owner}{_quotes(site.name)}{_plus(site.offset)}"

    def _annex(self, piece: Piece) -> Hunk:
        lines: list[Line] = []
        for item in self._items[piece]:
            label = self._labels.get((piece, item.offset))
            if label:
                lines.append(Line("+", label=label))
            if item.comment:
                lines.append(Line("#", None, item.comment))
            lines.append(Line("+", item.word, item.text if isinstance(item.text, str) else item.text()))
        return Hunk(quoted(piece.name), tuple(lines), kind="annex", alignment=piece.alignment)

    def _description(self, replaced: dict[str, str]) -> tuple[str, ...]:
        made = f"The code is from {self._unit.title}"
        if self._unit.source_files:
            made += f", made of {some(self._unit.source_files, len(self._unit.source_files))}"
        if self._unit.compilers:
            made += f" by {', '.join(self._unit.compilers)}"
        return (f"Replace {some(replaced, len(replaced))} by code of {self._unit.title}", "", f"{made}.")


_ADD_X = 0x91000000
"""ADD of 64-bit registers with an immediate."""
_SIGNING = ("paciasp", "pacibsp")


def _plus(offset: int) -> str:
    return f"{offset:+#x}" if offset else ""


def _quotes(name: str) -> str:
    text = quoted(name)
    return text if text.startswith('"') else f'"{text}"'


def _number(value: int, size: int) -> list[_Item]:
    data = (value % (1 << 8 * size)).to_bytes(size, "little")
    words = [int.from_bytes(data[at : at + INSN_SIZE], "little") for at in range(0, size, INSN_SIZE)]
    return [_Item(word, f".word {word:#010x}") for word in words]


def _is_bti(word: int) -> bool:
    row = decode(word)
    effects = effects_of(word)
    return row is not None and "bti" in row.families and effects is not None and bool(effects.lands)


def _is_indirect_jump(word: int | None) -> bool:
    row = decode(word) if word is not None else None
    return row is not None and row.flow is Flow.BRANCH and "branch_imm" not in row.families


def _falls_through(word: int) -> bool:
    """Whether a CPU may go on behind this word. A compiler ends a function with a call that does not return, too."""
    row = decode(word)
    return row is None or row.flow is Flow.NEXT or row.conditional

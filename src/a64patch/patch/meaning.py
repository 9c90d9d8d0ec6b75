"""What a line of a patch means at a place of a target: whether word and text agree, and which words mean the same.

Read on: plan.py asks this for every line.

The rule:

- On the build that the patch was made for, the word is exact.
- On another build the distance inside a PC-relative word is stale. The text names the address that the word refers to:
  the word that the text assembles to on that build means the same.
- A name says nothing about an address that its symbol does not reach on that build (`SymbolTable.holds`). A text with
  such a name counts as a text without a name: `bl _init+0x68`, if `_init` ends before.
- Nothing says how far the parts of one function have moved. For a reference inside a function, the distance in the
  word may still hold, or the offset in the text. In a context line any distance inside the function will do.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from a64patch.a64.assembler import assemble_anywhere, assemble_one
from a64patch.a64.disassembler import disassemble
from a64patch.a64.names import outside_quotes, parse_site
from a64patch.a64.predicates import decode
from a64patch.a64.references import Reference, reference
from a64patch.a64.source import without_comments
from a64patch.errors import AssemblyError, PatchFormatError, PlanError, SymbolError
from a64patch.oneline import shown
from a64patch.patch.asmdiff import UNKNOWN, Line
from a64patch.targets.symbols import Symbol, SymbolTable

_ALL = 0xFFFFFFFF
_IMM12 = 0xFFF << 10
"""The field of ADD and of the loads for the value of `:lo12:` (Arm ARM, C6.2)."""


class Place(NamedTuple):
    """A place to look for a line."""

    symbols: SymbolTable
    address: int
    """Of the line (bytes)."""
    offset: int = 0
    """From the address that the hunk's site names to the hunk (bytes)."""
    symbol: Symbol | None = None
    """The function that the hunk lies in."""
    start: int = 0
    end: int = 0
    """The hunk's range [start, end) at this place."""

    def __repr__(self) -> str:
        return shown(self, f"{self.address:#x} in {self.start:#x}-{self.end:#x}")


class _Recorder:
    """The target's symbols. Remembers the last site that was asked for, and the error for a missing one."""

    def __init__(self, symbols: SymbolTable) -> None:
        self._symbols = symbols
        self.site = ""
        """The last site that was asked for, since an instruction has one label at most."""
        self.missing: SymbolError | None = None

    def resolve(self, site: str) -> int:
        self.site = site
        try:
            address = self._symbols.resolve(site)
        except SymbolError as error:
            self.missing = error
            raise
        self.missing = None
        return address

    def describe(self, address: int) -> str:
        return self._symbols.describe(address)


def exact_word(line: Line, place: Place) -> int:
    """The word of a line of a patch that was made for this very build.

    PatchFormatError when the word is unknown, when the text is no instruction, or when word and text disagree. If the
    text names a symbol that the target does not have, the distance in the word is not compared.
    """
    word = line.word if line.word is not None else _known(line)
    # The cheap check, which usually succeeds: the text is the disassembly of the word.
    if not line.text or line.text == disassemble(word, place.address, place.symbols):
        return word
    try:
        assembled = assemble_line(line, place)
    except SymbolError:
        return comparable_word(line)
    if assembled != word:
        raise _disagreement(line, word, assembled)
    return word


def comparable_word(line: Line) -> int:
    """The word of a line whose address is not known.

    Its text is compared too, but not its distances and the low bits of names. Errors as `exact_word`.
    """
    word = _known(line)
    mask = fixed_bits(line)
    if line.text and (word_anywhere(line) ^ word) & mask:
        raise _disagreement(line, word, word_anywhere(line))
    return word


def words_by_meaning(line: Line, place: Place, found: int | None = None) -> tuple[int, ...]:
    """The words that mean the same on this build as the line's word on the patch's build. Never empty.

    - The text names no symbol that reaches to the address, or is missing: the line's own word only.
    - The text names another symbol than the line's function: the word that the text assembles to here.
    - The text names the line's own function: the assembled word first, which is the likeliest, then the line's own.
      In a context line also `found`, the target's word at this place, if only its distance differs and it leads into
      the same function. Nothing is written for a context line.

    PatchFormatError as `exact_word`. SymbolError when the text names a symbol that the target does not have.
    """
    word = _known(line)
    if not line.text:
        return (word,)
    mask = fixed_bits(line)
    if mask == _ALL:
        if line.text != disassemble(word, place.address, place.symbols):
            comparable_word(line)
        return (word,)
    symbolic = _symbolic(line, place)
    if symbolic is None:
        return (comparable_word(line),)
    assembled = symbolic.word
    if (assembled ^ word) & mask:
        raise _disagreement(line, word, assembled)
    if _is_local(line, symbolic, place):
        there = _symbolic(line, place._replace(address=place.address - place.offset))
        if there is None or there.word != word:
            raise _disagreement(line, word, assembled if there is None else there.word)
        words = dict.fromkeys((assembled, word))
        if line.sign == " " and found is not None and (found ^ word) & mask == 0:
            target = _target(found, place.address)
            if target is not None and _lies_in(place.symbol, target):
                words[found] = None
        return tuple(words)
    return (assembled,)


def new_word(line: Line, place: Place) -> int:
    """The word to write for a `+` line on another build.

    Of a word that is not PC-relative and adds no low bits of an address, the meaning is known. Of another word it is
    known when:

    - its text names a page, or another symbol than the line's function;
    - or it refers to a word of its hunk;
    - or it refers to a word of its function, and the hunk lies exactly where its site says.

    Otherwise PlanError. Other errors as `words_by_meaning`.
    """
    words = words_by_meaning(line, place)
    word = _known(line)
    target = _target(word, place.address)
    if target is None and not needs_pages(line.text):
        return words[0]
    symbolic = _symbolic(line, place) if line.text else None
    if symbolic is not None and not _is_local(line, symbolic, place):
        return symbolic.word
    if target is not None and place.start <= target < place.end:
        return word
    if place.offset and symbolic is not None:
        raise PlanError(
            f"{_place(line)}{line.text!r} refers to its own function, which has changed around it: make the patch"
            " again for this build"
        )
    if symbolic is None and (target is None or place.offset or not _lies_in(place.symbol, target)):
        raise PlanError(
            f"{_place(line)}the meaning of {line.text or f'{word:08x}'!r} on another build is not known: give its"
            " text with a symbol that reaches to the address"
        )
    return word


def _place(line: Line) -> str:
    return f"line {line.number}: " if line.number else ""


def assemble_line(line: Line, place: Place) -> int:
    """The word that a line's text means at a place.

    PatchFormatError when the text is no instruction. SymbolError when the target does not have its symbol.
    """
    return _assemble(line, place, _Recorder(place.symbols))


def fixed_bits(line: Line) -> int:
    """The bits of the line's word that are the same on every build.

    All bits, unless the word depends on its address.
    """
    if not line.text:
        return _ALL
    refers_to = _reference(_known(line))
    if refers_to is not None:
        return _ALL & ~refers_to.mask
    return _ALL & ~_IMM12 if _has_low_bits(line.text) else _ALL


def refers(word: int) -> bool:
    """Whether the word refers to an address relative to its own."""
    return _reference(word) is not None


def needs_pages(text: str) -> bool:
    """Whether the word of this text depends on which page of memory a name lies in."""
    return text.lower().startswith("adrp") or _has_low_bits(text)


def _has_low_bits(text: str) -> bool:
    return ":lo12:" in outside_quotes(text).lower()


def _reference(word: int) -> Reference | None:
    row = decode(word)
    return reference(row) if row is not None else None


def _target(word: int, address: int) -> int | None:
    refers_to = _reference(word)
    return refers_to.target(word, address) if refers_to is not None else None


def _known(line: Line) -> int:
    if line.word is None:
        raise PatchFormatError(f"the word is still {UNKNOWN}: `a64patch fmt PATCH TARGET` fills it in", line.number, 2)
    return line.word


def _lies_in(symbol: Symbol | None, address: int) -> bool:
    return symbol is not None and symbol.address <= address < symbol.address + symbol.size


def _is_local(line: Line, symbolic: _Symbolic, place: Place) -> bool:
    """Whether a symbolic text names its own function: then the patch alone says which offset it refers to."""
    target = _target(symbolic.word, place.address)
    if place.symbol is None or needs_pages(line.text) or target is None or not _lies_in(place.symbol, target):
        return False
    site = parse_site(symbolic.site)
    return site is not None and site.name == place.symbol.name


def _assemble(line: Line, place: Place, names: _Recorder) -> int:
    """The word of the text at a place; `names` resolves the symbols."""
    try:
        return assemble_one(without_comments(line.text), place.address, names)
    except AssemblyError as error:
        if names.missing is not None:
            raise names.missing from None
        raise PatchFormatError(str(error), line.number, 12) from None


class _Symbolic(NamedTuple):
    """The word of a text with a name in it, and that name as a site. The symbol reaches to the site."""

    word: int
    site: str


def _symbolic(line: Line, place: Place) -> _Symbolic | None:
    """The word of a text at a place; None when no name in it says anything about another build."""
    names = _Recorder(place.symbols)
    try:
        word = _assemble(line, place, names)
    except PatchFormatError:
        word_anywhere(line)  # raises when it is no instruction; else it only cannot reach from here
        if names.site:
            raise
        return None
    return _Symbolic(word, names.site) if names.site and place.symbols.holds(names.site) else None


def word_anywhere(line: Line) -> int:
    """The word of a line's text if every label is its own place and every name is address 0.

    PatchFormatError when the text is no instruction.
    """
    try:
        return _word_anywhere(without_comments(line.text))
    except AssemblyError as error:
        raise PatchFormatError(str(error), line.number, 12) from None


_word_anywhere = lru_cache(maxsize=1 << 12)(assemble_anywhere)


def _disagreement(line: Line, word: int, assembled: int) -> PatchFormatError:
    return PatchFormatError(
        f"the word {word:08x} is {disassemble(word)!r}, but the text {line.text!r} is {assembled:08x}: correct one",
        line.number,
        2,
    )

"""What a line of a patch means at a place of a target: whether word and text agree, and which words mean the same.

May know: a64/, asmdiff.py, target/symbols.py, the errors.
Read on: plan.py asks this for every line.

The rule: a word of the build that the patch was made for is exact. On another build the distance inside a PC-relative
word is stale, and its text says what it refers to; what the text assembles to there is the same instruction by meaning.
"""

from __future__ import annotations

from dataclasses import dataclass

from a64patch.a64.assembler import assemble_one
from a64patch.a64.disassembler import disassemble
from a64patch.a64.predicates import decode
from a64patch.a64.references import reference
from a64patch.a64.templates import label_of
from a64patch.errors import AssemblyError, PatchFormatError, PlanError, SymbolError
from a64patch.patch.asmdiff import UNKNOWN, Line
from a64patch.target.symbols import Symbol, SymbolTable

_IMM12 = 0xFFF << 10
"""Where ADD and the loads keep what `:lo12:` gives (Arm ARM, C6.2)."""


@dataclass(frozen=True)
class Place:
    """Where a line is looked for: `address` (bytes), and how far its hunk lies from where its site says (bytes)."""

    symbols: SymbolTable
    address: int
    offset: int = 0
    symbol: Symbol | None = None
    """The function that the hunk lies in."""
    start: int = 0
    end: int = 0
    """The hunk's range [start, end) at this place."""


class _Recorder:
    """The target's symbols, remembering whether they were asked, and what they lack."""

    def __init__(self, place: Place) -> None:
        self._symbols = place.symbols
        self.used = False
        self.missing: SymbolError | None = None

    def resolve(self, site: str) -> int:
        self.used = True
        try:
            return self._symbols.resolve(site)
        except SymbolError as error:
            self.missing = error
            raise

    def describe(self, address: int) -> str:
        return self._symbols.describe(address)


def exact_word(line: Line, place: Place) -> int:
    """The word of a line of a patch that was made for this very build.

    PatchFormatError when the word is unknown, the text is no instruction, or the two say different things. Where the
    text names a symbol that the target does not know, all but the distance is compared.
    """
    word = _known(line)
    if not line.text or _same_text(line.text, word, place):
        return word
    try:
        assembled, _ = _assemble(line, place)
        mask = 0xFFFFFFFF
    except SymbolError:
        assembled, mask = _assemble_without_symbols(line, place)
    if (assembled ^ word) & mask:
        raise _disagreement(line, word, assembled)
    return word


def words_by_meaning(line: Line, place: Place) -> tuple[int, ...]:
    """The words that mean on this build what the line meant on its own, the likeliest first; never empty.

    PatchFormatError as `exact_word`. SymbolError when the text names what the target does not have. A word without a
    text, or without a symbol in it, means just itself.
    """
    word = _known(line)
    row = decode(word)
    label = label_of(row) if row is not None else None
    if not line.text:
        return (word,)
    text = _without_comment(line.text)
    if label is None and ":lo12:" not in text.lower():
        if not _same_text(line.text, word, place):
            assembled, _ = _assemble(line, place)
            if assembled != word:
                raise _disagreement(line, word, assembled)
        return (word,)
    assembled, used = _assemble(line, place)
    mask = ~(label.mask if label is not None else _IMM12)
    if (assembled ^ word) & mask:
        raise _disagreement(line, word, assembled)
    if not used:
        return (word,)
    if label is not None and _is_local(word, place):
        # Within its function the distance moves with the code around it; the offset in its text may not.
        return tuple(dict.fromkeys((assembled, word)))
    return (assembled,)


def new_word(line: Line, place: Place) -> int:
    """The word to be written for a `+` line on another build. PlanError when its meaning there is not known.

    Unknown is what a PC-relative word without a symbol in its text refers to, and, in a hunk that was found at an
    offset, how far a target in the same function but outside the hunk has moved. Else as `words_by_meaning`.
    """
    words = words_by_meaning(line, place)
    target = _target(_known(line), place.address)
    if target is None:
        return words[0]
    symbolic = bool(line.text) and _assemble(line, place)[1]
    if place.start <= target < place.end:
        return _known(line)
    if not symbolic:
        if place.offset or not _is_local(words[0], place):
            raise PlanError(
                f"line {line.number}: what {line.text or f'{line.word:08x}'!r} refers to on another build is not known:"
                " give its text with a symbol"
            )
    elif place.offset and _is_local(_known(line), place):
        raise PlanError(
            f"line {line.number}: {line.text!r} refers to its own function, which has changed around it: make the patch"
            " again for this build"
        )
    return words[0]


def refers(word: int) -> bool:
    """Whether the word refers to an address relative to its own."""
    return _target(word, 0) is not None


def _target(word: int, address: int) -> int | None:
    row = decode(word)
    refers_to = reference(row) if row is not None else None
    return refers_to.target(word, address) if refers_to is not None else None


def _known(line: Line) -> int:
    if line.word is None:
        raise PatchFormatError(f"the word is still {UNKNOWN}: `a64patch fmt PATCH TARGET` fills it in", line.number, 2)
    return line.word


def _is_local(word: int, place: Place) -> bool:
    target = _target(word, place.address)
    if target is None or place.symbol is None or not place.symbol.size:
        return False
    return place.symbol.address <= target < place.symbol.address + place.symbol.size


def _without_comment(text: str) -> str:
    return text.partition("//")[0].strip()


def _same_text(text: str, word: int, place: Place) -> bool:
    """The cheap way to see that word and text agree: it is what we would have printed."""
    return text == disassemble(word, place.address, place.symbols)


def assemble_line(line: Line, place: Place) -> int:
    """The word that a line's text means at a place; PatchFormatError when it is no instruction, SymbolError."""
    return _assemble(line, place)[0]


def _assemble(line: Line, place: Place) -> tuple[int, bool]:
    """The word of the text, and whether that needed names."""
    names = _Recorder(place)
    try:
        return assemble_one(_without_comment(line.text), place.address, names), names.used
    except AssemblyError as error:
        if names.missing is not None:
            raise names.missing from None
        raise PatchFormatError(str(error), line.number, 12) from None


class _Here:
    """Takes every name for the place itself."""

    def __init__(self, address: int) -> None:
        self._address = address

    def resolve(self, site: str) -> int:
        return self._address

    def describe(self, address: int) -> str:
        return hex(address)


def _assemble_without_symbols(line: Line, place: Place) -> tuple[int, int]:
    """The word of the text with every name standing for this place, and the bits of it that names do not decide."""
    text = _without_comment(line.text)
    try:
        word = assemble_one(text, place.address, _Here(place.address))
    except AssemblyError as error:
        raise PatchFormatError(str(error), line.number, 12) from None
    row = decode(word)
    label = label_of(row) if row is not None else None
    return word, 0xFFFFFFFF & ~(label.mask if label is not None else _IMM12 if ":lo12:" in text.lower() else 0)


def _disagreement(line: Line, word: int, assembled: int) -> PatchFormatError:
    return PatchFormatError(
        f"the word {word:08x} is {disassemble(word)!r}, but the text {line.text!r} is {assembled:08x}: correct one",
        line.number,
        2,
    )

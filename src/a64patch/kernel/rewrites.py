"""The words of Linux' text that the kernel itself rewrites, or looks up in a table: from a module, a vmlinux, an Image.

Read on: elf.py and image.py claim these words; symbols.py does so for a running kernel. static_keys.py reads the table
of static keys.

A table of a module is zero: relocations hold its addresses. In a linked kernel, each field holds the distance from
itself (since 4.20), and symbols say where the table begins and ends. arm64 has no table of static calls: their
trampolines read a literal outside the text. alternatives.py tells what a running kernel made of its alternatives.

Not seen: PACIASP and AUTIASP, which a kernel with dynamic shadow call stacks rewrites at boot (.init.eh_frame); probes
that somebody sets at run time; and in a running kernel the sites of ftrace, since the kernel frees their table.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from a64patch.a64.predicates import is_bl, is_bti
from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import SymbolError, TargetError
from a64patch.kernel import alternatives, blacklist, pointers, static_keys
from a64patch.kernel.alternatives import Alternative, linked_alternatives, loaded_alternatives
from a64patch.kernel.loaded import Loaded
from a64patch.kernel.structures import View
from a64patch.ranges import Ranges
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.modules import Claim
from a64patch.targets.symbols import SymbolTable

HAZARD = "kernel-rewrites"
OF_FTRACE = ("__patchable_function_entries", "__mcount_loc")
"""The tables of ftrace's words."""
Span = tuple[int, int]
Tell = Callable[[Sequence[int]], Mapping[int, str]]
"""As `Claim.tell`."""
_MOST_BYTES = 1 << 24


class _Data(NamedTuple):
    """The bytes of one table, and the addresses to which its fields refer."""

    data: bytes
    address_at: Callable[[int], int | None]
    """The address to which the field at this offset refers; None without one."""
    absolute_at: Callable[[int], int | None]
    """The same for a field of 8 bytes that holds an address."""
    word_at: Callable[[int], int]
    """The instruction at an address of the code."""
    starts: Callable[[], Collection[int]]
    """The addresses where functions start."""


class _Kind(NamedTuple):
    """One kind of table."""

    section: str
    """The name of the table's section in a module."""
    about: str
    """Its words, for people."""
    bounds: tuple[str, str]
    """The symbols at the table's start and end in a linked kernel; empty where only modules have the table."""
    in_init: bool
    """A kernel frees the table after boot."""
    strides: tuple[int, ...]
    """The bytes of an entry, in some release each."""
    pointers: tuple[int, ...]
    """The offsets in each entry of the fields that refer to code. An entry with another address has another size."""
    spans: Callable[[_Data, int], Iterable[tuple[Span, str]]]
    """The words that the entry at this offset is about, and what the kernel does with them."""
    formed_in: str = ""
    """A function that forms both addresses in `bounds`, or that of two pointers to them (the alternatives of 6.1): a
    kernel without CONFIG_KALLSYMS_ALL does not name them."""
    loaded: tuple[str, str, str] = ("", "", "")
    """Where a loaded module has it: the fields of struct module with its address and its number of entries, and the
    structure of an entry; empty where a running kernel has it no more."""
    sound: Callable[[_Data, int], bool] | None = None
    """Whether the entry at this offset has possible numbers. Its code may lie anywhere from the first to the last known
    code then: the trampoline of KPTI is in the read-only data (since 6.1 at the latest)."""


def _jump_label(data: _Data, at: int) -> Iterator[tuple[Span, str]]:
    yield (
        _word(data, at),
        "the kernel makes it a branch or a NOP when its static key changes",
    )


def _alternative(data: _Data, at: int) -> Iterator[tuple[Span, str]]:
    # struct alt_instr, as in alternatives.py; a callback has no length.
    old, new, (length, of_new) = data.address_at(at), data.address_at(at + 4), data.data[at + 10 : at + 12]
    assert old is not None
    yield (old, old + length), alternatives.OVERWRITES
    if new is not None and of_new:
        yield (new, new + of_new), alternatives.COPIES


def _is_alternative(data: _Data, at: int) -> bool:
    length, of_new = data.data[at + 10 : at + 12]
    return length % INSN_SIZE == 0 and of_new in (0, length)


def _ftrace_site(data: _Data, at: int) -> Iterator[tuple[Span, str]]:
    # ftrace_call_adjust(), arch/arm64/kernel/ftrace.c
    start = data.absolute_at(at)
    if start is None:
        return
    sentence = "the kernel rewrites it at boot or load, and when somebody traces the function"
    if is_bl(data.word_at(start)):
        yield (start, start + INSN_SIZE), sentence
        return
    if start + 8 in data.starts():  # CALL_OPS: two words before the function hold an address
        yield (start, start + 8), sentence
        start += 8
    if is_bti(data.word_at(start)):
        start += INSN_SIZE
    yield (start, start + 2 * INSN_SIZE), sentence


def _bug(data: _Data, at: int) -> Iterator[tuple[Span, str]]:
    yield _word(data, at), "the kernel takes a BRK here for a certain BUG or WARN"


def _fixup(data: _Data, at: int) -> Iterator[tuple[Span, str]]:
    yield (
        _word(data, at),
        "when it faults, the kernel goes on at a fixup made for this instruction",
    )


def _word(data: _Data, at: int) -> Span:
    address = data.address_at(at)
    assert address is not None
    return address, address + INSN_SIZE


_MCOUNT = ("__start_mcount_loc", "__stop_mcount_loc")
_KINDS = (
    # struct jump_entry: relative since 4.20, three addresses before
    _Kind(static_keys.SECTION, "static keys", static_keys.BOUNDS, False, (16, 24), (0,), _jump_label,
          loaded=("module.jump_entries", "module.num_jump_entries", "jump_entry")),
    _Kind(alternatives.SECTION, "alternatives", ("__alt_instructions", "__alt_instructions_end"), True, (12,), (0,),
          _alternative, "__apply_alternatives_multi_stop", sound=_is_alternative),
    _Kind(OF_FTRACE[0], "words of ftrace", ("", ""), True, (8,), (), _ftrace_site),
    _Kind(OF_FTRACE[1], "words of ftrace", _MCOUNT, True, (8,), (), _ftrace_site),
    # struct bug_entry: with file and line, without them, with a format too
    _Kind("__bug_table", "BUG and WARN", ("__start___bug_table", "__stop___bug_table"), False, (12, 8, 16), (0,), _bug,
          "generic_bug_clear_once",
          ("module.bug_table", "module.num_bugs", "bug_entry")),
    # struct exception_table_entry: with a type since 5.16
    _Kind("__ex_table", "exceptions", ("__start___ex_table", "__stop___ex_table"), False, (12, 8), (0, 4), _fixup,
          "search_kernel_exception_table",
          ("module.extable", "module.num_exentries", "exception_table_entry")),
)  # fmt: skip


def claims_on_module(
    image: ElfImage, starts: Callable[[], Collection[int]], tell_keys: Tell | None = None
) -> Iterator[Claim]:
    """The claims that the tables of a relocatable file make. FormatError when the file is not sound.

    `tell_keys` tells about words that a static key switches.
    """

    def word_at(address: int) -> int:
        chunks = image.chunks(address, INSN_SIZE) or ()
        return from_bytes(b"".join(image.data[at : at + size] for at, size in chunks).ljust(INSN_SIZE, b"\0"))[0]

    for kind in _KINDS:
        for data, refers in image.pointers_in(kind.section):
            tell = tell_keys if kind.section == static_keys.SECTION else None
            yield from _claims(kind, _Data(data, refers.get, refers.get, word_at, starts), image.code, tell=tell)


def claims_on_kernel(
    read: Callable[[int, int], bytes],
    symbols: SymbolTable,
    code: Ranges,
    *,
    running: bool = False,
    relocated: Callable[[int, int], Mapping[int, int]] | None = None,
) -> Iterator[Claim]:
    """The claims that the tables of a linked, little-endian kernel make, as far as `symbols` names the tables.

    The table of static keys needs no name (static_keys.bounds).

    A `running` kernel has freed some of them, and its init code; the tables that it keeps still refer to this code.
    `relocated` gives the addresses that the boot writes between two addresses, each by its place: the file holds zeros
    there (--no-apply-dynamic-relocs).
    """
    known = code | static_keys.init_code(symbols)

    def word_at(address: int) -> int:
        return from_bytes(read(address, INSN_SIZE))[0]

    @cache  # it is asked for each site of ftrace
    def starts() -> Collection[int]:
        return {symbol.address for symbol in symbols.ascending() if symbol.is_function}

    for kind in _KINDS:
        if running and kind.in_init:
            continue
        try:
            start, end = _bounds(kind, read, symbols, code, relocated)
        except (SymbolError, TargetError):
            continue
        if start >= end:
            continue
        try:
            if end - start > _MOST_BYTES:
                raise TargetError("the table is larger than can be read")
            data = read(start, end - start)
            places = relocated(start, end) if relocated and kind.strides == (8,) else {}
            tell = None
            if kind.section == static_keys.SECTION:
                tell = static_keys.teller(read, symbols, data, start, running=running)
            found = list(_claims(kind, _linked(data, start, places, word_at, starts), code, known, tell))
        except TargetError:
            found = [_unknown(kind, code)]
        yield from found


class Looked(NamedTuple):
    """What is known of the words in the tables of a kernel, for people."""

    found: list[str]
    missing: list[str]
    """Each with the reason."""

    def rows(self) -> dict[str, str]:
        """As `Target.facts` has them."""
        return {"tables found": ", ".join(self.found), "not looked at": "; ".join(self.missing)}


def looked_at(claims: Iterable[Claim], *, running: bool = False) -> Looked:
    """By the claims on a linked kernel: the words whose tables were found, and those whose tables were not.

    A table without entries counts as one that was not found.
    """
    unreadable = {claim.table: claim.of_build for claim in claims if claim.table}
    looked = Looked([], [])
    for kind in _KINDS:
        if not any(kind.bounds) or (running and kind.section in OF_FTRACE):
            continue
        if kind.section not in unreadable:
            why = ": their table was not found"
            if running and kind.in_init:
                why = " of the kernel itself: it has freed their table, and --symbols names no Image or vmlinux with it"
            looked.missing.append(f"{kind.about}{why}")
        elif unreadable[kind.section]:
            looked.missing.append(f"{kind.about}: their table cannot be read")
        else:
            looked.found.append(kind.about)
    if not running:
        if blacklist.SECTION in unreadable:
            looked.found.append(blacklist.ABOUT)
        else:
            looked.missing.append(blacklist.WITHOUT)
    return looked


def alternatives_in(
    read: Callable[[int, int], bytes],
    symbols: SymbolTable,
    code: Ranges,
    relocated: Callable[[int, int], Mapping[int, int]],
) -> list[Alternative]:
    """The alternatives of a kernel's file; arguments as `claims_on_kernel`. SymbolError when their table is not found,
    or is not sound.

    The errors of `read` pass.
    """
    kind = next(kind for kind in _KINDS if kind.section == alternatives.SECTION)
    start, end = _bounds(kind, read, symbols, code, relocated)
    if not 0 <= end - start <= _MOST_BYTES:
        raise SymbolError(f"the kernel's table {kind.section} has {end - start} bytes, which is impossible")
    found = linked_alternatives(read(start, end - start), start)
    if not all(each.is_sound for each in found):
        raise SymbolError(f"the kernel's table {kind.section} is not sound")
    return found


def claims_on_loaded(view: View, loaded: Loaded, code: Ranges) -> Iterator[Claim]:
    """The claims that the tables of a loaded module make; see hooks.py for ftrace.

    The entries for code that was freed stay in the tables, and claim nothing. A table that cannot be read, or whose
    entries have another size than in any known release, claims all code of the module.
    """
    for kind in _KINDS:
        pointer, count, entry = kind.loaded
        if not pointer or not (view.structures.has(pointer) and view.structures.has(count)):
            continue
        [found] = view.fields([loaded.at], pointer, count)
        size = view.structures.size(entry)
        if found is None or size not in kind.strides or found[1] * size > _MOST_BYTES:
            yield _unknown(kind, code)
            continue
        start, number = found
        [data] = view.read([(start, number * size)]) if number else [b""]
        if data is None:
            yield _unknown(kind, code)
            continue
        table = _linked(data, start, {}, lambda address: 0, tuple)
        spans: dict[str, list[Span]] = {}
        for at in range(0, len(data), size):
            for span, sentence in kind.spans(table, at):
                spans.setdefault(sentence, []).append(span)
        tell = None
        if kind.section == static_keys.SECTION:
            tell = static_keys.teller(view.target.read, view.target.symbols, data, start, running=True)
        for sentence, listed in spans.items():
            said = f"is listed in {kind.section}: {sentence}"
            yield Claim(HAZARD, Ranges.of(listed) & code, said, table=kind.section, tell=tell)

    def entries() -> list[Alternative]:
        """To find this table takes many reads: it is done when somebody asks about code of this module."""
        try:
            return loaded_alternatives(view, loaded)
        finally:
            view.structures.save()

    yield claim_on_alternatives(alternatives.teller(view.target, entries), code)


def claim_on_alternatives(tell: Tell, code: Ranges) -> Claim:
    """The claim of a running kernel's alternatives on words of this code."""
    return Claim(HAZARD, code, f"may be listed in {alternatives.SECTION}", table=alternatives.SECTION, tell=tell)


def _bounds(
    kind: _Kind,
    read: Callable[[int, int], bytes],
    symbols: SymbolTable,
    code: Ranges,
    relocated: Callable[[int, int], Mapping[int, int]] | None = None,
) -> tuple[int, int]:
    """Where the kernel has this table: see pointers.bounds. SymbolError when nothing says it."""
    if kind.bounds == static_keys.BOUNDS:
        return static_keys.bounds(read, symbols, code)

    def fits(data: bytes, start: int) -> bool:
        table = _linked(data, start, {}, lambda address: 0, tuple)
        return any(_fits(kind, table, stride, code | static_keys.init_code(symbols)) for stride in kind.strides)

    def pointer_at(place: int) -> int | None:
        return relocated(place, place + 8).get(place) if relocated is not None else None

    return pointers.bounds(read, symbols, kind.bounds, kind.formed_in or kind.bounds[0], fits, pointer_at)


def _linked(
    data: bytes,
    start: int,
    places: Mapping[int, int],
    word_at: Callable[[int], int],
    starts: Callable[[], Collection[int]],
) -> _Data:
    def address_at(at: int) -> int | None:
        return int(start + at + struct.unpack_from("<i", data, at)[0]) if at + 4 <= len(data) else None

    def absolute_at(at: int) -> int | None:
        # 0 stands for a weak function that another one replaced.
        return places.get(start + at) or int(struct.unpack_from("<Q", data, at)[0]) or None

    return _Data(data, address_at, absolute_at, word_at, starts)


def _claims(
    kind: _Kind, data: _Data, code: Ranges, known: Ranges | None = None, tell: Tell | None = None
) -> Iterator[Claim]:
    """The claims on words in `code`. Entries may refer to other code in `known`."""
    size = len(data.data)
    known = known or code

    stride = next((stride for stride in kind.strides if _fits(kind, data, stride, known)), 0)
    if not stride:
        yield _unknown(kind, code)
        return
    spans: dict[str, list[Span]] = {}
    for at in range(0, size, stride):
        if kind.pointers or (data.absolute_at(at) or 0) in code:
            for span, sentence in kind.spans(data, at):
                spans.setdefault(sentence, []).append(span)
    for sentence, listed in spans.items():
        said = f"is listed in {kind.section}: {sentence}"
        yield Claim(HAZARD, Ranges.of(listed) & code, said, table=kind.section, tell=tell)


def _fits(kind: _Kind, data: _Data, stride: int, known: Ranges) -> bool:
    """Whether each entry refers to known code, if an entry has so many bytes."""
    size = len(data.data)
    if size % stride:
        return False
    places = range(0, size, stride)
    if kind.sound is not None:
        if not all(kind.sound(data, at) for at in places):
            return False
        known = Ranges(((known.spans[0][0], known.spans[-1][1]),)) if known else known
    fields = (at + pointer for at in places for pointer in kind.pointers)
    return all((address := data.address_at(at)) is not None and address in known for at in fields)


def _unknown(kind: _Kind, code: Ranges) -> Claim:
    said = f"may be listed in {kind.section}, which cannot be read"
    return Claim(HAZARD, code, said, of_build=True, table=kind.section)

"""The code of Linux that nobody may probe: the kernel executes it while it handles a breakpoint or an exception.

A running kernel has a list of this code, its modules' code included. Files have symbols at the ends of some of it, and
a table of functions.
Read on: hooks.py for probes that are set; loaded.py for another list that is found and checked in the same way.

Sources: Linux kernel/kprobes.c (populate_kprobe_blacklist, add_module_kprobe_blacklist); arch/arm64/kernel/probes/
kprobes.c (arch_populate_kprobe_blacklist).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache

from a64patch.errors import FormatError, SymbolError, TargetError
from a64patch.kernel.pointers import formed_by
from a64patch.kernel.structures import Structures, View, is_kernel_address
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.modules import Claim
from a64patch.targets.symbols import SymbolTable

HAZARD = "kprobe-blacklist"
SECTION = "_kprobe_blacklist"
"""The table of functions in a module: an address of 8 bytes each."""
SAID = "is in code that nobody may probe: the kernel executes it while it handles a breakpoint or an exception"
ABOUT = "code that nobody may probe"
WITHOUT = f"{ABOUT}, where no symbols bound it: its list was not found"
"""What is looked at with the list, and what is not without it; for people."""
_BOUNDS = ("__start_kprobe_blacklist", "__stop_kprobe_blacklist")
"""The symbols at the ends of the table in a linked kernel, which frees it after boot."""
_AREAS = ("kprobes_text", "noinstr_text", "entry_text", "irqentry_text", "hyp_text", "hyp_idmap_text")
"""The code from __NAME_start to __NAME_end."""
_SECTIONS = (".kprobes.text", ".noinstr.text", ".entry.text")
"""The same in a module."""
HEAD = "kprobe_blacklist"
_FORMING = ("within_kprobe_blacklist", "kprobe_blacklist_seq_next", "kprobe_add_ksym_blacklist")
"""Functions that form the address of the head of the list."""
NAMES = frozenset((HEAD, *_FORMING))
"""The names of the kernel that find the list."""
_LINK, _FROM, _TO = (f"kprobe_blacklist_entry.{name}" for name in ("list", "start_addr", "end_addr"))
_MOST_ENTRIES = 1 << 16
_MOST_BYTES = 1 << 20
_MOST_CODE = 1 << 28
"""Bytes of one entry."""
_PAGE = 4096
_TRIES = 3


def areas(symbols: SymbolTable) -> Ranges:
    """The code between the symbols of a kernel; empty where it has none."""
    found = []
    for name in _AREAS:
        with suppress(SymbolError):
            start, end = (symbols.find(f"__{name}_{which}").address for which in ("start", "end"))
            if start < end:
                found.append((start, end))
    return Ranges.of(found)


def claims_on_file(
    read: Callable[[int, int], bytes],
    symbols: SymbolTable,
    code: Ranges,
    relocated: Callable[[int, int], Mapping[int, int]],
) -> Iterator[Claim]:
    """The claim on the code of a linked kernel's file, as far as symbols bound it. The arguments are as in rewrites.py.

    The table of functions is used if its symbols are there, and all of its addresses are functions.
    """
    found, table = areas(symbols), ""
    with suppress(SymbolError, TargetError):
        start, end = (symbols.find(name).address for name in _BOUNDS)
        if 0 < end - start <= _MOST_BYTES and (end - start) % 8 == 0:
            places = relocated(start, end)
            held = struct.unpack(f"<{(end - start) // 8}Q", read(start, end - start))
            extents = [symbols.extent(places.get(start + 8 * number) or at) for number, at in enumerate(held)]
            if all(extents):
                found |= Ranges.of(extent for extent in extents if extent is not None)
                table = SECTION
    if found & code:
        yield Claim(HAZARD, found & code, SAID, table=table)


def claims_on_module(image: ElfImage, symbols: SymbolTable, code: Ranges) -> Iterator[Claim]:
    """The claim on the code of a module's file. FormatError when the file is not sound."""
    spans = [(space.start, space.end) for space in symbols.spaces if space.name in _SECTIONS]
    for _, refers in image.pointers_in(SECTION):
        spans += [extent for address in refers.values() if (extent := symbols.extent(address)) is not None]
    if found := Ranges.of(spans) & code:
        yield Claim(HAZARD, found, SAID)


def claim_on_running(target: Target, structures: Structures, symbols: SymbolTable, code: Ranges) -> Claim:
    """The claim on the code of a running kernel and its modules. Its list is read when somebody asks.

    When the list is not found, the claim is on the code between symbols only. `symbols` are the kernel's.
    """

    @cache
    def found() -> Ranges:
        try:
            return listed(target, structures, symbols)
        except (SymbolError, TargetError):
            return areas(symbols)
        finally:
            structures.save()

    def tell(addresses: Sequence[int]) -> Mapping[int, str]:
        return {at: SAID for at in addresses if at in found()}

    return Claim(HAZARD, code, SAID, tell=tell)


def listed(target: Target, structures: Structures, symbols: SymbolTable) -> Ranges:
    """The code in the list of a running kernel. Only reads memory; `symbols` must have the NAMES that the kernel has.

    Errors:

    - SymbolError when the list is not found, or the kernel lacks a field;
    - FormatError when the list does not check out: a link back that is wrong, more than 65,536 entries;
    - the errors of reading.
    """
    view = View(target, structures)
    for attempt in range(_TRIES):
        try:
            return Ranges.of(_entries(view, _head(target, view, symbols)))
        except FormatError:  # A module with such code may have come or gone meanwhile.
            if attempt == _TRIES - 1:
                raise
    raise AssertionError


def _head(target: Target, view: View, symbols: SymbolTable) -> int:
    named = symbols.named(HEAD)
    if len(named) == 1:
        return named[0].address
    for function in _FORMING:
        with suppress(SymbolError, TargetError):
            for address in formed_by(target, function, symbols):
                with suppress(FormatError):
                    if is_kernel_address(address) and next(_entries(view, address), None):
                        return address
    raise SymbolError("the list of code that nobody may probe was not found")


def _entries(view: View, head: int) -> Iterator[tuple[int, int]]:
    """[start, end) of each entry. Entries lie close together, so whole pages are read."""
    link, start, end = (view.structures.field(path).offset for path in (_LINK, _FROM, _TO))
    pages: dict[int, bytes | None] = {}

    def number(address: int) -> int:
        page, offset = divmod(address, _PAGE)
        if page not in pages:
            [pages[page]] = view.read([(page * _PAGE, _PAGE)])
        data = pages[page]
        if data is None or not is_kernel_address(address):
            raise FormatError(f"the kernel's list of code that nobody may probe leads to {address:#x}")
        return int.from_bytes(data[offset : offset + 8], "little")

    before, at, count = head, number(head), 0
    while at != head:
        following, back = number(at), number(at + 8)
        span = number(at - link + start), number(at - link + end)
        count += 1
        is_code = is_kernel_address(span[0] & -8) and 0 < span[1] - span[0] <= _MOST_CODE
        if back != before or not is_code or count > _MOST_ENTRIES:
            raise FormatError(f"the kernel's list of code that nobody may probe is broken at {at:#x}: try again")
        yield span
        before, at = at, following

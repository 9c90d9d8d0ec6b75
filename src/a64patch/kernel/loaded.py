"""The loaded modules of a running kernel, from the kernel's own list: ranges, names, builds, states.

Every field is found by name (structures.py). The list is believed only when it checks out: links, states, names.
Sources: Linux include/linux/module.h; kernel/module/kallsyms.c for the names of a module.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from itertools import takewhile
from typing import NamedTuple

from a64patch.errors import FormatError, SymbolError, TargetError
from a64patch.kernel import notes
from a64patch.kernel.pointers import formed_by
from a64patch.kernel.structures import Structures, View, is_kernel_address, text_of
from a64patch.oneline import shown
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.symbols import Symbol, SymbolTable

MOST_MODULES = 4096
_MOST_SYMBOLS = 1 << 18
_MOST_STRINGS = 1 << 24
_MOST_CODE = 1 << 28
"""Bytes of one module."""
_LONGEST_NAME = 512
"""Bytes (KSYM_NAME_LEN)."""
_SMALLEST_PAGE = 4096
_TAINTS = {
    0: "proprietary", 1: "loaded by force", 10: "staging", 12: "out of tree", 13: "unsigned", 15: "live patch",
    18: "test",
}  # fmt: skip
"""The numbers of TAINT_* (include/linux/panic.h) that a module may bring, for people."""
_MOST_SECTIONS, _SECTIONS_AT_ONCE = 1024, 64
_LONGEST_SECTION = 64
"""Bytes of a section's name that are read."""
_MOST_NOTES = 16
_LONGEST_NOTE = 4096
_NAMING_THE_LIST = ("print_modules", "find_module_all", "module_get_kallsym", "module_kallsyms_on_each_symbol")
"""Functions that form the address of `modules`, the head of the list (kernel/module/main.c, kallsyms.c)."""
NEEDED = frozenset({"modules", *_NAMING_THE_LIST})
"""The names of the kernel that are of use here."""
_NAME = re.compile(r"[\w.+-]{1,63}")
_SYMBOL = struct.Struct("<IBBHQQ")
"""Elf64_Sym: name, info, other, section, value, size."""
_LIST_HEAD = struct.Struct("<QQ")
_NAMES_NOTHING = re.compile(r"\$[xd](\..*)?|\.L[0-9]{1,20}\?[0-9]{1,20}")
"""Mapping symbols (AAELF64 5.5.5), and numbered labels of GNU as, whose byte 1 or 2 is a `?` here."""
_STT_FUNC = 2


class State(Enum):
    """How far a module is (enum module_state)."""

    LIVE = "live"
    COMING = "being loaded"
    GOING = "being unloaded"


_STATES = {f"MODULE_STATE_{state.name}": state for state in State}


class Loaded(NamedTuple):
    """One module."""

    name: str
    at: int
    """The address of its struct module."""
    state: State
    text: Ranges
    """The code that stays."""
    init: Ranges
    """The code that the kernel frees after its init function has run; empty afterwards."""
    taints: int
    """The bits of TAINT_* (include/linux/panic.h) that the module brought."""
    build_id: str = ""
    """In lower-case hex; empty when the kernel does not keep the module's notes."""

    def __repr__(self) -> str:
        return shown(self, f"{self.name}, {self.state.value}, text {self.text}")


def modules_of(target: Target, structures: Structures, symbols: SymbolTable | None = None) -> list[Loaded]:
    """The modules in the list of a running kernel, last loaded first, without those that have no place yet.

    `symbols` are the target's own unless given; those in NEEDED are enough.

    The list is read from its head, one module at a time: most kernels have fewer than a hundred. FormatError when it
    does not check out: a link back that is wrong, an impossible name, more than 4,096 modules. SymbolError when its
    head is not found.
    """
    view = View(target, structures)
    head = _head(target, view, target.symbols if symbols is None else symbols)
    places = [at for at, _ in _links(view, head)]
    found = [each for each in _described(view, places) if each is not None]
    return [each._replace(build_id=build) for each, build in zip(found, _builds(view, found), strict=True)]


def symbols_of(target: Target, structures: Structures, modules: Sequence[Loaded]) -> dict[str, list[Symbol]]:
    """The names that the kernel keeps of each module (struct mod_kallsyms), by the name of the module.

    Left out are mapping symbols, local labels and symbols without a name or an address. A module whose names cannot be
    read has none.
    """
    view = View(target, structures)
    tables = _pointed(view, modules)
    found: dict[str, list[Symbol]] = {each.name: [] for each in modules}
    data = view.read([(symtab, count * _SYMBOL.size) for _, symtab, _, count in tables])
    known: list[tuple[Loaded, int, list[tuple[int, ...]], int]] = []
    for (module, _, strtab, _), raw in zip(tables, data, strict=True):
        rows = [*_SYMBOL.iter_unpack(raw)] if raw else []
        last = max((row[0] for row in rows), default=_MOST_STRINGS)
        if last < _MOST_STRINGS:
            known.append((module, strtab, rows, last))
    ends = _names_at(view, [strtab + last for _, strtab, _, last in known])
    sizes = [last + len(end) + 1 for (_, _, _, last), end in zip(known, ends, strict=True)]
    texts = view.read([(strtab, size) for (_, strtab, _, _), size in zip(known, sizes, strict=True)])
    for (module, _, rows, _), strings in zip(known, texts, strict=True):
        found[module.name] = list(_named(module, rows, strings or b""))
    return found


def _names_at(view: View, places: Sequence[int]) -> list[bytes]:
    """The C string at each place. What follows it may lie on a page that is not there."""
    cuts = [min(_LONGEST_NAME, _SMALLEST_PAGE - place % _SMALLEST_PAGE) for place in places]
    requests = [
        part
        for place, cut in zip(places, cuts, strict=True)
        for part in ((place, cut), (place + cut, _LONGEST_NAME - cut))
    ]
    pieces = view.read(requests)
    return [
        ((first or b"") + (second or b"" if first else b"")).partition(b"\0")[0]
        for first, second in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def _pointed(view: View, modules: Sequence[Loaded]) -> list[tuple[Loaded, int, int, int]]:
    """Each module with the addresses of its symbols and its strings, and the number of its symbols."""
    paths = ("mod_kallsyms.symtab", "mod_kallsyms.strtab", "mod_kallsyms.num_symtab")
    pointers = view.fields([each.at for each in modules], "module.kallsyms")
    named = [(each, at[0]) for each, at in zip(modules, pointers, strict=True) if at and is_kernel_address(at[0])]
    tables = view.fields([at for _, at in named], *paths)
    return [
        (each, table[0], table[1], table[2])
        for (each, _), table in zip(named, tables, strict=True)
        if table and is_kernel_address(table[0]) and 0 < table[2] <= _MOST_SYMBOLS
    ]


def _named(module: Loaded, rows: Iterable[tuple[int, ...]], strings: bytes) -> Iterator[Symbol]:
    code = module.text | module.init
    for name_at, info, _, section, value, size in rows:
        name = text_of(strings[name_at : name_at + _LONGEST_NAME])
        if not name or not value or not section or _NAMES_NOTHING.fullmatch(name):
            continue
        limit = code.around(value)
        is_function = limit is not None and info & 15 == _STT_FUNC
        size = min(size, _MOST_CODE)
        # Data of unknown size must not reach into the code behind it.
        yield Symbol(name, value, size, module.name, is_function, limit[1] if limit else value + max(size, 1))


def tainted_by(module: Loaded) -> list[str]:
    """The reasons why a module taints the kernel, for people."""
    known = [(bit, reason) for bit, reason in _TAINTS.items() if module.taints >> bit & 1]
    rest = module.taints & ~sum(1 << bit for bit, _ in known)
    return [reason for _, reason in known] + ([f"bits {rest:#x}"] if rest else [])


def sections_of(view: View, module: Loaded) -> dict[str, int]:
    """The address of each section of a loaded module, by its name (struct module_sect_attrs).

    Sections for initialisation were freed, and their addresses may be those of something else now. Empty for a kernel
    that does not keep the addresses (CONFIG_SYSFS, CONFIG_KALLSYMS).
    """
    structures, listed = view.structures, "module_sect_attrs.grp.bin_attrs"
    if not all(map(structures.has, ("module.sect_attrs", listed, "bin_attribute.attr.name"))):
        return {}
    kept = view.fields([module.at], "module.sect_attrs")[0]
    array = view.fields([kept[0]], listed)[0] if kept and is_kernel_address(kept[0]) else None
    attributes: list[int] = []
    while array and is_kernel_address(array[0]) and len(attributes) < _MOST_SECTIONS:
        pointers = view.numbers([array[0] + 8 * (len(attributes) + number) for number in range(_SECTIONS_AT_ONCE)])
        some = [*takewhile(is_kernel_address, pointers)]
        attributes += [at for at in some if at is not None]
        if len(some) < len(pointers):
            break
    names = view.fields(attributes, "bin_attribute.attr.name")
    if structures.has("module_sect_attr.address"):  # before 6.14
        distance = structures.field("module_sect_attr.battr").offset
        places = view.fields([at - distance for at in attributes], "module_sect_attr.address")
    else:
        places = view.fields(attributes, "bin_attribute.private")
    texts = view.texts([name[0] if name else 0 for name in names], _LONGEST_SECTION)
    return {text: place[0] for text, place in zip(texts, places, strict=True) if text and place}


def ending_of(view: View, module: Loaded, address: int) -> int:
    """The end of the read-only data of a loaded module that has this address; 0 when it has not."""
    structures = view.structures
    base, size = "module.core_layout.base", "module.core_layout.ro_size"
    if structures.has("module.mem"):  # since 6.4
        index = structures.constant("MOD_RODATA")
        base, size = f"module.mem[{index}].base", f"module.mem[{index}].size"
    if not (structures.has(base) and structures.has(size)):
        return 0
    [found] = view.fields([module.at], base, size)
    return sum(found) if found and found[0] <= address < sum(found) else 0


# The list


def _head(target: Target, view: View, symbols: SymbolTable) -> int:
    """The address of `modules`: by its symbol, else from the functions that form it."""
    named = symbols.named("modules")
    if len(named) == 1:
        return named[0].address
    empty: Counter[int] = Counter()
    for function in _NAMING_THE_LIST:
        try:
            candidates = [at for at in formed_by(target, function, symbols) if is_kernel_address(at)]
        except (SymbolError, TargetError):
            continue
        for address in candidates:
            if _is_head(view, address):
                return address
        links = view.read([(address, _LIST_HEAD.size) for address in candidates])
        empty.update(at for at, link in zip(candidates, links, strict=True) if link == _LIST_HEAD.pack(at, at))
    # Any empty list points to itself. That of modules is the one that several of these functions know.
    shared = [address for address, count in empty.items() if count > 1]
    if len(shared) == 1:
        return shared[0]
    raise SymbolError("the list of modules of this kernel was not found")


def _is_head(view: View, head: int) -> bool:
    """Whether the list at this address is one of modules: its first member is a module, and links back."""
    with suppress(FormatError):
        first = next(_links(view, head), None)
        return first is not None and _described(view, [first[0]])[0] is not None
    return False


def _links(view: View, head: int) -> Iterator[tuple[int, int]]:
    """Each struct module of the list, and the address of its link. FormatError when the list does not check out."""
    link = view.structures.field("module.list").offset
    before, seen = head, set[int]()
    at, _ = _list_head(view, head)
    while at != head:
        if not is_kernel_address(at) or at in seen or len(seen) >= MOST_MODULES:
            raise FormatError(f"the kernel's list of modules leads to {at:#x}, which is no module")
        seen.add(at)
        following, back = _list_head(view, at)
        if back != before:
            raise FormatError(f"the kernel's list of modules is broken at {at:#x}: try again")
        yield at - link, at
        before, at = at, following


def _list_head(view: View, address: int) -> tuple[int, int]:
    """The two pointers of a struct list_head: next and prev."""
    [data] = view.read([(address, _LIST_HEAD.size)])
    if data is None:
        raise FormatError(f"the kernel's list of modules leads to {address:#x}, which cannot be read")
    following, back = _LIST_HEAD.unpack(data)
    return following, back


def _described(view: View, places: Sequence[int]) -> list[Loaded | None]:
    """The module at each place; None for one that has no place in memory yet. FormatError for what is no module."""
    structures = view.structures
    states = {structures.constant(name): state for name, state in _STATES.items()}
    name = structures.field("module.name")
    names = view.texts([at + name.offset for at in places], name.size)
    parts = _parts(structures)
    paths = [path for _, base, size in parts for path in (base, size)]
    known = view.fields(places, "module.state", "module.taints", *paths)
    found: list[Loaded | None] = []
    for at, text, numbers in zip(places, names, known, strict=True):
        if numbers is None or not _NAME.fullmatch(text):
            raise FormatError(f"the kernel's list of modules leads to {at:#x}, which is no module")
        state, taints, *spans = numbers
        ranges: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for (is_init, _, _), base, size in zip(parts, spans[::2], spans[1::2], strict=True):
            if size and (not is_kernel_address(base) or size > _MOST_CODE):
                raise FormatError(f"module {text} of the kernel's list has impossible code")
            ranges[is_init].append((base, base + size))
        settled = states.get(state)
        found.append(
            None if settled is None
            else Loaded(text, at, settled, Ranges.of(ranges[False]), Ranges.of(ranges[True]), taints)
        )  # fmt: skip
    return found


def _parts(structures: Structures) -> list[tuple[bool, str, str]]:
    """(whether it is freed after init, path of the base, path of the size) of each range of code."""
    if structures.has("module.mem"):  # since 6.4
        return [
            (is_init, f"module.mem[{index}].base", f"module.mem[{index}].size")
            for is_init, index in (
                (False, structures.constant("MOD_TEXT")),
                (True, structures.constant("MOD_INIT_TEXT")),
            )
        ]
    return [
        (is_init, f"module.{layout}.base", f"module.{layout}.text_size")
        for is_init, layout in ((False, "core_layout"), (True, "init_layout"))
    ]


def _builds(view: View, modules: Sequence[Loaded]) -> list[str]:
    """The build id of each module, from its struct module or from the notes that sysfs shows; empty without one."""
    structures = view.structures
    if structures.has("module.build_id"):
        field = structures.field("module.build_id")
        data = view.read([(each.at + field.offset, field.size) for each in modules])
        return [(each or b"").hex().rstrip("0") and (each or b"").hex() for each in data]
    needed = ("module.notes_attrs", "module_notes_attrs.notes", "module_notes_attrs.attrs", "bin_attribute.private")
    if not all(map(structures.has, needed)):
        return [""] * len(modules)
    pointers = view.fields([each.at for each in modules], "module.notes_attrs")
    places = [at[0] if at and is_kernel_address(at[0]) else 0 for at in pointers]
    counts = iter(view.fields([at for at in places if at], "module_notes_attrs.notes"))
    first = structures.field("module_notes_attrs.attrs").offset
    step = structures.size("bin_attribute")
    attributes: list[tuple[int, int]] = []
    for number, at in enumerate(places):
        count = next(counts) if at else None
        attributes += [(number, at + first + step * each) for each in range(min(count[0], _MOST_NOTES) if count else 0)]
    found = [""] * len(modules)
    notes_at = view.fields([at for _, at in attributes], "bin_attribute.private", "bin_attribute.size")
    wanted = [
        (number, pair[0], pair[1])
        for (number, _), pair in zip(attributes, notes_at, strict=True)
        if pair and is_kernel_address(pair[0] & -8) and 0 < pair[1] <= _LONGEST_NOTE
    ]
    contents = view.read([(at, size) for _, at, size in wanted])
    for (number, _, _), content in zip(wanted, contents, strict=True):
        found[number] = found[number] or notes.build_id_of(content or b"")
    return found

"""The static keys of Linux: which words of code each key switches, to what, and whether the words are as the key says.

A static key makes each of its sites a NOP or a B. struct jump_entry names the site, the target of the B, and the key.
Read on: rewrites.py makes claims of the same table; ../cli/keys.py lists and switches keys.

Sources: Linux include/linux/jump_label.h and kernel/jump_label.c. The entries are relative since 4.20 (c296146c058c).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from a64patch.a64.generate import gen_branch_imm, gen_nop
from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import EncodingError, FormatError, MappingError, SymbolError, TargetError
from a64patch.kernel import pointers
from a64patch.kernel.structures import Structures, View, is_kernel_address, read_each
from a64patch.oneline import counted, shown
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import SHN_UNDEF, ElfImage, Referred
from a64patch.targets.file import FileTarget
from a64patch.targets.nearest import MOST, listed, nearest
from a64patch.targets.symbols import SymbolTable

SECTION = "__jump_table"
"""The name of the table's section in a module."""
BOUNDS = ("__start___jump_table", "__stop___jump_table")
"""The symbols at the table's start and end in a linked kernel."""
_NAMES_BOUNDS = "jump_label_text_reserved"
"""A function that forms the addresses of both bounds, and that no kernel frees."""
LOCKS = ("jump_label_lock", "jump_label_unlock")
"""Functions that form the address of `jump_label_mutex`."""
_ENTRY = struct.Struct("<iiq")
ENTRY_BYTES = _ENTRY.size
_OLD_ENTRY_BYTES = 24
"""Before 4.20: three addresses."""
KEY_BYTES = 16
_KEY = struct.Struct("<i4xQ")
"""struct static_key: `enabled`, and the union of `type`, `entries` and `next`."""
_MOD = struct.Struct("<QQQ")
"""struct static_key_mod: next, entries, mod."""
_TRUE, _LINKED = 1, 2
"""JUMP_TYPE_TRUE and JUMP_TYPE_LINKED, the low bits of that union."""
_BRANCH, _INIT = 1, 2
"""The low bits of a jump entry's key."""
_FLAGS = 3
_MOST_BYTES = 1 << 24
_MOST_INIT = 1 << 25
"""Bytes of init and exit code, where the kernel does not name their end."""
_MOST_MODULES = 4096
_SPAN = 512
"""Words that lie no further apart than this many bytes are read together."""
_TRIES = 20
_PAUSE = 0.02
"""Seconds between two looks at a key that does not fit its words: the kernel may be switching it."""


class JumpEntry(NamedTuple):
    """One struct jump_entry of a linked or loaded table. Addresses are those of the target."""

    at: int
    """Its own address."""
    code: int
    target: int
    key: int
    branch: bool
    """The compiler laid the code out for a key that is on: the word is a NOP then (jump_entry_is_branch)."""
    init: bool
    """The kernel frees the code after boot (jump_entry_is_init). The bit is set in memory, not in files."""

    def __repr__(self) -> str:
        return shown(self, f"{self.code:#x} to {self.target:#x}, key at {self.key:#x}")


def word_for(code: int, target: int, jumps: bool) -> int:
    """B from `code` to `target` if the site jumps, else NOP (arch_jump_label_transform).

    A site jumps when its key is enabled and the site is not `branch`, or the other way round (jump_label_type).
    EncodingError when B does not reach the target.
    """
    return gen_branch_imm(code, target) if jumps else gen_nop()


class Site(NamedTuple):
    """One place in the code that a key switches."""

    address: int
    target: int
    branch: bool
    """As `JumpEntry.branch`."""
    init: bool
    """In code that the kernel frees after boot. In a running kernel the word is not read: other data may be there."""
    module: str
    """The loaded module with this code; empty for the kernel, and in a file."""
    found: int | None
    """The word there; None when it cannot be read."""
    predicted: int | None
    """The word for the state of the key; None when the state is not known."""
    entry: int = 0
    """The address of its jump entry in a running kernel."""

    def __repr__(self) -> str:
        return shown(self, f"{self.address:#x} to {self.target:#x}{'' if self.differs else ', as predicted'}")

    @property
    def known(self) -> bool:
        """Whether the word and the state of the key are both known."""
        return self.found is not None and self.predicted is not None

    @property
    def differs(self) -> bool:
        """The word is known not to be the predicted one."""
        return self.known and self.found != self.predicted


class Key(NamedTuple):
    """One static key with all of its sites."""

    name: str
    """As a SITE, such as `__tracepoint_sched_switch+0x8`; an address when no variable's name holds it."""
    address: int | None
    """None in a module's file when the key is in another file, or in memory that the file does not hold (.bss)."""
    enabled: int | None
    """The counter: 0 off, more than 0 on, -1 while the kernel switches it on. None when it is not known."""
    initially: bool | None
    """Whether it was on at first (JUMP_TYPE_TRUE); None when it is not known."""
    pointer: int
    """The rest of that word: the address of its entries, of its list of modules, or 0."""
    linked: bool
    """It has sites in modules that the kernel links to it (JUMP_TYPE_LINKED)."""
    sites: tuple[Site, ...]

    def __repr__(self) -> str:
        return shown(self, f"{self.name}, {self.state}, {counted(len(self.sites), 'site')}")

    @property
    def on(self) -> bool | None:
        """static_key_enabled(): a key that is being switched on counts as on. None when it is not known."""
        return None if self.enabled is None else self.enabled != 0

    @property
    def state(self) -> str:
        """`on`, `off`, `changing` or `unknown`."""
        if self.enabled is None:
            return "unknown"
        return "changing" if self.enabled < 0 else "on" if self.enabled else "off"

    @property
    def sealed(self) -> bool:
        """The kernel has made the key read-only, and forgotten where its sites are (static_key_sealed(), 6.10)."""
        return self.linked and not self.pointer

    @property
    def differing(self) -> tuple[Site, ...]:
        """The sites that are not as predicted."""
        return tuple(site for site in self.sites if site.differs)


# Tables of linked kernels


def init_code(symbols: SymbolTable) -> Ranges:
    """Where the code is that a kernel frees after boot: init and exit code (arch/arm64/kernel/vmlinux.lds.S).

    A kernel without CONFIG_KALLSYMS_ALL does not name the end. It is taken to be 32 MiB behind the start then.
    """
    found = []
    for first, last, most in (("__init_begin", "__init_end", _MOST_INIT), ("_sinittext", "_einittext", 0)):
        with suppress(SymbolError):
            start = symbols.find(first).address
            end = symbols.find(last).address if symbols.named(last) else start + most
            if start < end:
                found.append((start, end))
    return Ranges.of(found)


def bounds(read: Callable[[int, int], bytes], symbols: SymbolTable, code: Ranges) -> tuple[int, int]:
    """Where a linked kernel has its jump table: [start, end); see pointers.bounds. Errors as there."""
    known = code | init_code(symbols)

    def fits(data: bytes, start: int) -> bool:
        return start % 8 == 0 and all(_sound(entry, known) for entry in linked_entries(data, start))

    return pointers.bounds(read, symbols, BOUNDS, _NAMES_BOUNDS, fits)


def linked_entries(data: bytes, start: int) -> list[JumpEntry]:
    """The entries of a table at the address `start` of a linked kernel. FormatError for a part of an entry."""
    if len(data) % ENTRY_BYTES:
        raise FormatError(f"the jump table at {start:#x} has {len(data)} bytes, which is no whole number of entries")
    return [
        JumpEntry(
            at, at + code, at + 4 + target, at + 8 + (key & ~_FLAGS), bool(key & _BRANCH), bool(key & _INIT)
        )
        for at, (code, target, key) in zip(
            range(start, start + len(data), ENTRY_BYTES), _ENTRY.iter_unpack(data), strict=True
        )
    ]  # fmt: skip


def _sound(entry: JumpEntry, code: Ranges) -> bool:
    aligned = entry.code % INSN_SIZE == 0 and entry.target % INSN_SIZE == 0 and entry.key % 8 == 0
    return aligned and entry.code in code and entry.target in code


def _require_sound(entries: Iterable[JumpEntry], code: Ranges, owner: str) -> None:
    for entry in entries:
        if not _sound(entry, code):
            raise FormatError(f"the jump table of {owner} is not sound: its entry at {entry.at:#x} names no code")


# Keys of any target


def read_keys(
    target: Target,
    modules: Iterable[tuple[str, int]] = (),
    structures: Structures | None = None,
    *,
    only: int | None = None,
) -> list[Key]:
    """All static keys of a target that is a Linux kernel or a module, by name; with `only`, the one at this address.

    - A file: each word is compared with the state that the key has at first.
    - A running kernel: with the state that the key has now. Sites of `modules` count too: (name, address of struct
      module) of each; `structures` tells where its fields are. A key that does not fit its words is looked at again for
      a while, since the kernel may be switching it. Sites in code that the kernel has freed are not read.

    Reads only. Errors:

    - SymbolError when the jump table is not found;
    - FormatError for a table that is not sound;
    - the errors of the target.
    """
    if isinstance(target, ElfFile) and target.is_relocatable:
        return _ordered(key for key in _keys_of_module(target) if only in (None, key.address))
    entries = [(entry, "") for entry in _kernel_entries(target)]
    if not isinstance(target, FileTarget):
        entries += _entries_of_modules(target, modules, structures)
    return _ordered(_Reader(target).keys(each for each in entries if only in (None, each[0].key)))


def _ordered(keys: Iterable[Key]) -> list[Key]:
    return sorted(keys, key=lambda key: (key.name.startswith("0x"), key.name))


def _kernel_entries(target: Target) -> list[JumpEntry]:
    main = target.modules.main
    code = main.code or Ranges()
    start, end = bounds(target.read, main.symbols, code)
    if not 0 <= end - start <= _MOST_BYTES:
        raise FormatError(f"the kernel's jump table has {end - start} bytes, which is impossible")
    entries = linked_entries(target.read(start, end - start), start)
    _require_sound(entries, code | init_code(main.symbols), "the kernel")
    return entries


def _entries_of_modules(
    target: Target, modules: Iterable[tuple[str, int]], structures: Structures | None
) -> Iterator[tuple[JumpEntry, str]]:
    """The entries of loaded modules: struct module has their address and their number."""
    loaded = list(modules)
    if not loaded:
        return
    if structures is None:
        raise FormatError("the jump tables of modules are read with the description of their structures (BTF)")
    view = View(target, structures)
    pointers = view.fields([at for _, at in loaded], "module.jump_entries", "module.num_jump_entries")
    tables = [
        (name, numbers[0], numbers[1] * ENTRY_BYTES)
        for (name, _), numbers in zip(loaded, pointers, strict=True)
        if numbers and numbers[1]
    ]
    for name, at, size in tables:
        if not is_kernel_address(at) or size > _MOST_BYTES:
            raise FormatError(f"module {name} has an impossible jump table: {size} bytes at {at:#x}")
    for (name, at, _), data in zip(tables, view.read([(at, size) for _, at, size in tables]), strict=True):
        if data is None:
            raise FormatError(f"the jump table of module {name} at {at:#x} cannot be read: it may be on its way out")
        for entry in linked_entries(data, at):
            if entry.code % INSN_SIZE or entry.target % INSN_SIZE or entry.key % 8:
                raise FormatError(f"the jump table of module {name} is not sound: see its entry at {entry.at:#x}")
            yield entry, name


class _State(NamedTuple):
    """One struct static_key."""

    enabled: int
    union: int

    @property
    def initially(self) -> bool:
        return bool(self.union & _TRUE)


class _Reader:
    """Makes keys of the entries of a linked kernel: a file, or a running one."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.on_disk = isinstance(target, FileTarget)
        names = target.modules.main.symbols
        self._freed = Ranges() if self.on_disk else init_code(names)
        self._names_variables = bool(names.named(BOUNDS[0]))

    def keys(self, entries: Iterable[tuple[JumpEntry, str]]) -> Iterator[Key]:
        """The keys of these entries."""
        of_keys: dict[int, list[tuple[JumpEntry, str]]] = {}
        for entry, module in entries:
            of_keys.setdefault(entry.key, []).append((entry, module))
        found = {key.address: key for key in self._look(of_keys)}
        if not self.on_disk:
            for _ in range(_TRIES):
                unsettled = [key.address for key in found.values() if key.differing or key.state == "changing"]
                if not unsettled:
                    break
                time.sleep(_PAUSE)
                again = {address: of_keys[address] for address in unsettled if address is not None}
                found |= {key.address: key for key in self._look(again)}
        return iter(found.values())

    def _look(self, of_keys: Mapping[int, Sequence[tuple[JumpEntry, str]]]) -> Iterator[Key]:
        states = self._states(list(of_keys))
        sites = [entry.code for entries in of_keys.values() for entry, _ in entries if not self._is_freed(entry)]
        words = self._words(sites)
        for address, entries in of_keys.items():
            state = states[address]
            enabled, union = state if state else (None, 0)
            if state and self.on_disk:
                enabled = int(state.initially)
            made = tuple(
                Site(
                    entry.code, entry.target, entry.branch, self._is_init(entry), module, words.get(entry.code),
                    None if enabled is None
                    else _word(module or "the kernel", entry.code, entry.target, (enabled != 0) != entry.branch),
                    entry.at,
                )
                for entry, module in entries
            )  # fmt: skip
            yield Key(
                name_of(self.target.symbols, address, names_variables=self._names_variables), address, enabled,
                state.initially if state else None, union & ~_FLAGS, bool(union & _LINKED), tuple(sorted(made)),
            )  # fmt: skip

    def _is_init(self, entry: JumpEntry) -> bool:
        return entry.init or entry.code in self._freed

    def _is_freed(self, entry: JumpEntry) -> bool:
        return not self.on_disk and self._is_init(entry)

    def _states(self, addresses: Sequence[int]) -> dict[int, _State | None]:
        data = _read_near(self.target, addresses, KEY_BYTES)
        if self.on_disk:
            # The file does not hold .bss, which is zero.
            return {at: _State(*_KEY.unpack(data.get(at) or bytes(KEY_BYTES))) for at in addresses}
        return {at: _State(*_KEY.unpack(raw)) if (raw := data.get(at)) else None for at in addresses}

    def _words(self, addresses: Iterable[int]) -> dict[int, int]:
        data = _read_near(self.target, addresses, INSN_SIZE)
        return {at: from_bytes(raw)[0] for at, raw in data.items()}


def _word(owner: str, code: int, target: int, jumps: bool) -> int:
    """As `word_for`; FormatError for an entry that no kernel has."""
    try:
        return word_for(code, target, jumps)
    except EncodingError as error:
        raise FormatError(f"the jump table of {owner} is not sound: at {code:#x} {error}") from error


def _read_near(target: Target, addresses: Iterable[int], size: int) -> dict[int, bytes]:
    """The `size` bytes at each address that can be read. Places near one another are read together."""
    groups: list[list[int]] = []
    for address in sorted(set(addresses)):
        if groups and address - groups[-1][0] <= _SPAN:
            groups[-1].append(address)
        else:
            groups.append([address])
    found: dict[int, bytes] = {}
    single: list[int] = []
    for group, data in zip(groups, read_each(target, [(g[0], g[-1] + size - g[0]) for g in groups]), strict=True):
        if data is None:
            single += group
        else:
            found |= {at: data[at - group[0] : at - group[0] + size] for at in group}
    for at, data in zip(single, read_each(target, [(at, size) for at in single]), strict=True):
        if data is not None:
            found[at] = data
    return found


def name_of(symbols: SymbolTable, address: int, *, names_variables: bool = True) -> str:
    """A key by the variable that holds it, as a SITE; its address when no name of a variable does.

    Without CONFIG_KALLSYMS_ALL a kernel does not name its variables: the last name before one is that of something
    else, and is not used.
    """
    found = symbols.lookup(address)
    known = found is not None and not found[0].is_function and (names_variables or bool(found[0].module))
    return symbols.describe(address) if known else f"{address:#x}"


def teller(
    read: Callable[[int, int], bytes], symbols: SymbolTable, data: bytes, start: int, *, running: bool
) -> Callable[[Sequence[int]], dict[int, str]]:
    """As `Claim.tell`, for the words of a linked table: the key of each, its state, and the word for the other state.

    `data` is the table at `start`. Each question reads the keys; in a file, the state is that at first.
    """

    @cache
    def entries() -> dict[int, JumpEntry]:
        return {entry.code: entry for entry in linked_entries(data, start)}

    def tell_one(entry: JumpEntry) -> str:
        names_variables = bool(symbols.named(BOUNDS[0]))
        name = name_of(symbols, entry.key, names_variables=names_variables)
        try:
            state = _State(*_KEY.unpack(read(entry.key, KEY_BYTES)))
        except TargetError:
            if running:
                return _said(name, "", None, entry.code, entry.target, entry.branch)
            state = _State(0, 0)  # in .bss
        on = bool(state.enabled) if running else state.initially
        return _said(name, "now" if running else "at first", on, entry.code, entry.target, entry.branch)

    return lambda addresses: {at: tell_one(entries()[at]) for at in addresses if at in entries()}


def teller_of_module(target: ElfFile) -> Callable[[Sequence[int]], dict[int, str]]:
    """As `teller`, of a module's file."""

    @cache
    def sentences() -> dict[int, str]:
        return {
            site.address: _said(key.name, "at first", key.on, site.address, site.target, site.branch)
            for key in _keys_of_module(target)
            for site in key.sites
        }

    def tell(addresses: Sequence[int]) -> dict[int, str]:
        try:
            known = sentences()
        except FormatError:  # the words are listed all the same
            known = {}
        return {at: known.get(at, f"is listed in {SECTION}: a static key switches it") for at in addresses}

    return tell


def _said(name: str, when: str, on: bool | None, address: int, target: int, branch: bool) -> str:
    """`… static key NAME, now off; would be b +0x40`: the word is the other one while the key is in the other state."""
    sentence = f"is listed in {SECTION}: static key {name}"
    if on is None:
        return f"{sentence}, whose state is not known here"
    other = "nop" if on != branch else f"b {target - address:+#x}"
    return f"{sentence}, {when} {'on' if on else 'off'}; would be {other}"


# Keys of a module's file


class _InFile(NamedTuple):
    """One jump entry of a module's file."""

    code: int
    target: int
    key: Referred
    branch: bool


def _keys_of_module(target: ElfFile) -> Iterator[Key]:
    image = target.image
    of_keys: dict[tuple[str, int | None], list[_InFile]] = {}
    for data, referred in image.referred_in(SECTION):
        for entry in _entries_in_file(image, data, referred):
            address = entry.key.address
            name = image.name_of(entry.key) if address is None else name_of(target.symbols, address)
            of_keys.setdefault((name, address), []).append(entry)
    for (name, address), entries in of_keys.items():
        state: _State | None = _State(0, 0)  # in .bss
        if address is not None:
            try:
                state = _State(*_KEY.unpack(target.read(address, KEY_BYTES)))
            except MappingError as error:
                raise image.bad(f"static key {name} does not lie in the file") from error
        elif entries[0].key.home == SHN_UNDEF:
            state = None
        on = None if state is None else state.initially
        sites = []
        for entry in entries:
            [found] = from_bytes(target.read(entry.code, INSN_SIZE))
            predicted = None if on is None else _word(image.name, entry.code, entry.target, on != entry.branch)
            sites.append(Site(entry.code, entry.target, entry.branch, False, "", found, predicted))
        yield Key(name, address, None if on is None else int(on), on, 0, False, tuple(sorted(sites)))


def _entries_in_file(image: ElfImage, data: bytes, referred: Mapping[int, Referred]) -> Iterator[_InFile]:
    """The jump entries of a module's file. FormatError when they are not sound."""
    for stride, fields in ((ENTRY_BYTES, (0, 4, 8)), (_OLD_ENTRY_BYTES, (0, 8, 16))):
        found = []
        for start in range(0, len(data), stride):
            places = [referred.get(start + field) for field in fields]
            if None in places or start + stride > len(data):
                break
            code, to, key = (place for place in places if place is not None)
            if code.address is None or to.address is None or code.address not in image.code:
                break
            flags = key.offset & _FLAGS
            moved = None if key.address is None else key.address - flags
            own = key._replace(address=moved, offset=key.offset - flags)
            found.append(_InFile(code.address, to.address, own, bool(flags & _BRANCH)))
        else:
            yield from found
            return
    raise image.bad(f"{SECTION} cannot be read: its relocations are not those of jump entries")


# One key of many


def find_key(keys: Sequence[Key], text: str, symbols: SymbolTable) -> Key:
    """The key that a user names: by its name as `read_keys` gives it, or by any SITE of its address.

    SymbolError for another one. It names the keys inside the same variable, or the nearest names.
    """
    named = [key for key in keys if key.name == text]
    if len(named) == 1:
        return named[0]
    address: int | None = None
    problem = f"there is no static key {text[:80]!r}"
    try:
        address = symbols.resolve(text)
    except SymbolError as error:
        if len(named) > 1:
            raise SymbolError(f"{len(named)} static keys are called {text[:80]!r}: name the address") from error
    else:
        for key in keys:
            if key.address == address:
                return key
        problem = f"no static key is at {text[:80]!r}"
    near = [key.name for key in keys if key.name.rpartition("+")[0] == text]
    near = near[:MOST] or nearest(text, [key.name for key in keys if not key.name.startswith("0x")])
    are = "is" if len(near) == 1 else "are"
    hint = f"; the nearest {are} {listed(near)}" if near else ""
    raise SymbolError(f"{problem}{hint}")


class Part(NamedTuple):
    """The sites of a key in one build, as the kernel has them."""

    module: int
    """The address of struct module; 0 for the kernel, and for a key without a list."""
    entries: int
    """The address of the first jump entry; 0 without any."""


class Chain(NamedTuple):
    """What a running kernel knows of the sites of a key, and the memory that says so."""

    parts: tuple[Part, ...]
    memory: tuple[tuple[int, bytes], ...]
    """(address, bytes) that change when a module with sites of the key comes or goes."""


def chain_of(target: Target, key: Key) -> Chain:
    """The sites that the kernel itself knows of a key: its entries, or for JUMP_TYPE_LINKED its list of modules.

    FormatError when the list does not check out.
    """
    assert key.address is not None
    at = key.address + KEY_BYTES // 2
    memory = [(at, target.read(at, 8))]
    [union] = struct.unpack("<Q", memory[0][1])
    if not union & _LINKED:
        return Chain((Part(0, union & ~_FLAGS),), tuple(memory))
    parts: list[Part] = []
    node = union & ~_FLAGS
    while node:
        if not is_kernel_address(node) or len(parts) >= _MOST_MODULES:
            raise FormatError(f"the list of the modules with sites of static key {key.name} leads to {node:#x}")
        memory.append((node, target.read(node, _MOD.size)))
        node, entries, module = _MOD.unpack(memory[-1][1])
        parts.append(Part(module, entries))
    return Chain(tuple(parts), tuple(memory))

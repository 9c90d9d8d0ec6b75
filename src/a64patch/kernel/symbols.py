"""Names for a kernel: from System.map, a saved /proc/kallsyms, a vmlinux, an Image, or its own memory.

Read on: placement.py, which checks each source against the code; kallsyms.py for the tables inside a kernel.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import NamedTuple

from a64patch.errors import FormatError, SymbolError, TargetError
from a64patch.kernel import alternatives, notes, placement, running, table_cache
from a64patch.kernel.alternatives import Alternative
from a64patch.kernel.elf import KernelElf
from a64patch.kernel.image import KERNEL, KernelImage, sized, sized_columns
from a64patch.kernel.kallsyms import CODE_TYPES, MOST_SYMBOLS, REACH, Kallsyms, KernelSymbol, decode, find_token_tables
from a64patch.kernel.rewrites import Tell, claim_on_alternatives, claims_on_kernel
from a64patch.kernel.structures import read_each
from a64patch.kernel.table_cache import Entry, Sample
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.file import FileTarget
from a64patch.targets.modules import Claim, Module
from a64patch.targets.replace import FileOnDisk
from a64patch.targets.symbols import Symbol, SymbolTable

LIVE = "kallsyms"
"""As a source, this word means the tables in the memory of the kernel itself."""

LINKED_TO = (0xFFFF800080000000, 0xFFFF800008000000, 0xFFFF800010000000, 0xFFFFFFC008000000, 0xFFFFFFC080000000)
"""Addresses of kernels without KASLR: 4 KiB pages, 48 or 39 bits, since 5.4 (KIMAGE_VADDR in asm/memory.h)."""

_MOST_LISTING_BYTES = 1 << 28
_MOST_LISTED = 4 * MOST_SYMBOLS
_LABEL = rb"\.L[0-9]{1,20}[\x01\x02][0-9]{1,20}"
"""A label `1:` or `1$:` of assembly code, as GNU as writes it down ("Symbol Names" in its manual)."""
_LINE = re.compile(rb"([0-9a-fA-F]{8,16}) ([!-~]) ([!-~]{1,1024}|" + _LABEL + rb")(?:[ \t]+\[([!-Z^-~]{1,64})\])?\s*")
_MADE_AT_RUN_TIME = re.compile(r"bpf|ftrace|kprobe|__builtin__\w+")
"""/proc/kallsyms lists these as modules, but they are none: they name code that is made at run time."""

_NAMES_NOTHING = re.compile(rb"\$[xd](?:\..*)?|" + _LABEL)

_RANDOM_BYTES = 16
_NAMES_OF_BUILD = ("__start_notes", "__stop_notes", "linux_banner", "__init_begin")
_PAGE = 4096
_PIECE = 1 << 20
_PROBE = 1 << 10
_LONGEST_TOKEN_TABLE = 1 << 14
_SMALLEST_PIECE = 1 << 16
_MOST_KERNEL = 1 << 27
_WIDEST_GAP = 1 << 22
_MOST_HINTS = 64
_MUCH_CODE = 1 << 22
"""Bytes of code: fewer than in Debian's kernels, more than in any module."""
_TRIES = 50
_MOST_COMPARISONS = 16
_SAMPLES = 32
_SAMPLE_BYTES = 64
_WINDOW = 1 << 15


class Source(NamedTuple):
    """The symbols of a file, at the addresses in the file."""

    name: str
    symbols: list[KernelSymbol]
    build_id: str = ""
    file: KernelImage | KernelElf | None = None
    """The kernel's code, if it is in the file too."""


def read_source(path: str | os.PathLike[str]) -> Source:
    """The symbols in a file: System.map, a saved /proc/kallsyms, a vmlinux with symbols, a raw Image.

    TargetError when the file cannot be read. FormatError when it is none of these, or when

    - all its addresses are zero;
    - it has no _stext or no _etext;
    - it is a list of more than 256 MiB.
    """
    file = FileOnDisk(os.fspath(path))
    head = file.head(64)
    build_id = ""
    holds: KernelImage | KernelElf | None = None
    if head[:4] == b"\x7fELF":
        named = KernelElf(path, names_only=True)
        elf = named.image
        holds = None if elf.is_debug_file or elf.relocatable else named
        # ELF symbols have no letter; those in executable ranges are text, also in a debug file, which has no code.
        symbols = [
            KernelSymbol(s.address, "t" if s.address in elf.executable else "d", s.name)
            for s in elf.symbols(absolute=False)
        ]
        build_id = elf.build_id
    elif notes.is_image(head):
        holds = KernelImage(path)
        symbols, build_id = holds.kernel_symbols(), holds.identity().build_id
    else:
        if file.size > _MOST_LISTING_BYTES:
            raise FormatError(f"{file.path} has {file.size} bytes, more than a list of symbols can have")
        symbols = parse_listing(file.content, file.path)
    _bounds(symbols, file.path)
    return Source(file.path, symbols, build_id, holds)


def names_a_kernel(source: str | os.PathLike[str]) -> bool:
    """Whether a source of symbols is for `attach`: all but ELF files without _stext and _etext, such as firmware."""
    if source == LIVE:
        return True
    file = FileOnDisk(os.fspath(source))
    return file.head(4) != b"\x7fELF" or (b"\0_stext\0" in file.content and b"\0_etext\0" in file.content)


def parse_listing(text: bytes, name: str) -> list[KernelSymbol]:
    """The lines `ADDRESS TYPE NAME [MODULE]` of System.map or /proc/kallsyms, ascending by address.

    Left out are

    - names of code made at run time (bpf, ftrace, kprobes);
    - the mapping symbols $x and $d of modules (AAELF64 5.5.5): they mark the start of code, and name no function;
    - the numbered labels of assembly code in modules.

    FormatError at the first line of another form, for more than 4 million lines, and when every address is zero.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None or number > _MOST_LISTED:
            raise FormatError(f"line {number} of {name} is not a symbol as System.map and /proc/kallsyms have them")
        address, kind, symbol, module = match.groups()
        owner = module.decode() if module else ""
        if not _MADE_AT_RUN_TIME.fullmatch(owner) and not _NAMES_NOTHING.fullmatch(symbol):
            found.append(KernelSymbol(int(address, 16), kind.decode(), symbol.decode(), owner))
    if found and not any(symbol.address for symbol in found):
        raise FormatError(
            f"every address in {name} is zero, since the kernel hides them: "
            f"set kernel.kptr_restrict to 0 and save /proc/kallsyms as root"
        )
    return sorted(found, key=lambda symbol: symbol.address)


def attach(target: Target, source: str | os.PathLike[str] | None = None) -> SymbolTable:
    """Give a target that holds a Linux kernel its names, checked against its code. Returns the table.

    `source` is

    - the path of a file for `read_source`;
    - "kallsyms", for the tables in the memory of the target;
    - None, to keep the names that the target has.

    KASLR may have moved the kernel: the distance is found from the code, and added to the addresses of the file.
    Modules do not move with the kernel, so a file that names modules must be from this boot.

    A file as target only gets the names. A live target gets a module for the kernel, with names, base (the slide in
    bytes), build id and release; its code lies from _stext to _etext.

    If only the source names loaded modules, as /proc/kallsyms does, the exact end of their code is not known: the pages
    from the first to the last text symbol of each are taken for it. Once the modules are known, only the code of the
    kernel and of these modules may be written.

    A running kernel tells its loaded modules itself (running.py): a live target gets a module for each, with the exact
    ranges of its code and the names that the kernel keeps. A kernel without BTF does not; `Target.facts` says so.
    Modules that only the source names are claimed whole: nobody knows their tables.

    The words that Linux rewrites in a running kernel are claimed as far as its tables are found (rewrites.py). Words of
    ftrace and kprobes are seen in the code (hooks.py). The kernel has freed the table of its own alternatives: they are
    seen if `source` is an Image or a vmlinux, which has the table too.

    Names from memory are decoded once for each build. Later calls take them from a file in the user's cache folder
    (table_cache.py), after a comparison with the kernel's code and with bytes of its tables, banner and build id.

    Only reads memory. FormatError for a source that does not belong to this kernel. SymbolError when no CPU was seen to
    execute the kernel, and it is not at an address of kernels without KASLR either. Else as `read_source`.
    """
    if source is None or (source == LIVE and isinstance(target, KernelImage)):
        return target.symbols
    shift, build_id, file = 0, "", ""
    holds: KernelImage | KernelElf | None = None
    build: _Build | None = None
    tables: _Tables | None = None
    symbols: Sequence[KernelSymbol] = ()
    if source == LIVE and (remembered := _remembered(target)):
        names, build = remembered
    elif source == LIVE:
        tables = _find_tables(target, ())
        symbols = tables.found.symbols
        names = sized(symbols)
    else:
        read = read_source(source)
        shift = _find_place(target, read)
        symbols = [s._replace(address=(s.address + shift) % placement.ADDRESSES) for s in read.symbols]
        build_id, file, holds = read.build_id, read.name, read.file
        names = sized(symbols)
    if isinstance(target, FileTarget):
        target.knowing(replace(target.modules.main, symbols=_table(names)))
        return target.symbols
    told, release, proof = build or _build(target, names)
    if build_id and told and build_id != told:
        raise _another_build(file, build_id, told)
    if tables:
        _remember(tables, _Build(told, release, proof))
    build_id = told or build_id
    text = Ranges((_bounds(names, ""),))
    run = _incarnation(target, names)
    named: dict[str, list[Symbol]] = {"": []}
    for name in names:
        named.setdefault(name.module, []).append(name)
    table = _table(named.pop(""))

    @cache
    def entries() -> list[Alternative]:
        return _alternatives_in(holds, shift) if holds is not None else []

    def claims() -> Iterator[Claim]:
        yield from claims_on_kernel(target.read, table, text, running=True)
        if holds is not None:
            yield claim_on_alternatives(_tell_alternatives(target, holds, shift, entries), text)

    kernel = Module(KERNEL, table, build_id, release, shift, text, file, run, claims=claims)
    loaded = [
        Module(module, _table(named[module]), code=Ranges((_module_text(symbols, module),)) or None, file=file)
        for module in sorted(named)
    ]
    target.knowing(kernel)
    more = running.tell(target, kernel, loaded, in_file=lambda: bool(entries()))
    target.knowing(*more.modules, may_write=more.may_write, others=more.tasks, facts=more.facts)
    return target.symbols


def _alternatives_in(file: KernelImage | KernelElf, shift: int) -> list[Alternative]:
    """Those of a file whose addresses are `shift` bytes lower than here; none when their table is not found."""
    with suppress(SymbolError, TargetError):
        return [
            each._replace(code=(each.code + shift) % placement.ADDRESSES, new=(each.new + shift) % placement.ADDRESSES)
            for each in file.alternatives()
        ]
    return []


def _tell_alternatives(
    target: Target, file: KernelImage | KernelElf, shift: int, entries: Callable[[], list[Alternative]]
) -> Tell:
    """What a running kernel made of these alternatives of its file, whose addresses are `shift` bytes lower."""

    def in_file(requests: Sequence[tuple[int, int]]) -> Sequence[bytes | None]:
        return read_each(file, [((at - shift) % placement.ADDRESSES, size) for at, size in requests])

    return alternatives.teller(target, entries, in_file, in_file)


def _incarnation(target: Target, symbols: Sequence[Symbol]) -> str:
    """Facts that differ from boot to boot: the address of the kernel, and variables with random bytes.

    The kernel fills each variable once in a boot; it is left out while it is zero. sysctl_bootid
    (drivers/char/random.c) is filled by the first read of /proc/sys/kernel/random/boot_id, ptr_key (lib/vsprintf.c) as
    soon as there are random numbers.
    """
    found = [f"_stext={_bounds(symbols, '')[0]:#x}"]
    for name in ("sysctl_bootid", "ptr_key"):
        places = {symbol.address for symbol in symbols if symbol.name == name and not symbol.module}
        data = _readable(target, places.pop(), _RANDOM_BYTES) if len(places) == 1 else b""
        if any(data):
            found.append(f"{name}={data.hex()}")
    return " ".join(found)


def _table(symbols: Sequence[Symbol]) -> SymbolTable:
    return SymbolTable(lambda: symbols)


def live_symbols(target: Target, hints: Iterable[int] = ()) -> list[KernelSymbol]:
    """The kallsyms tables in the memory of a kernel, decoded and checked against its text. They name no modules.

    The search goes upwards from addresses where CPUs execute the kernel, since read-only data follows the text. It
    reads up to 128 MiB for each address. `hints` are tried first. Errors as `attach`.
    """
    return _find_tables(target, hints).found.symbols


class _Tables(NamedTuple):
    """The tables in memory, and the bytes in which they were found."""

    start: int
    """The address of the first byte."""
    data: bytes
    found: Kallsyms


def _find_tables(target: Target, hints: Iterable[int]) -> _Tables:
    """As `live_symbols`."""
    problem: Exception = _no_kernel()
    seen = Ranges()
    for below, start in _likeliest_first(target, islice(_kernel_addresses(target, hints), _MOST_HINTS)):
        if below in seen:
            continue
        data, found, error = _read_tables(target, start)
        seen |= Ranges(((below, start + len(data)),))
        if not found:
            if data:
                problem = FormatError(
                    f"{error}; save /proc/kallsyms on that machine and give it as the source of symbols"
                )
            continue
        what = "what looks like the kallsyms tables in memory"
        first, last = _bounds(found.symbols, what)
        placement.require_fit(target.read, _text_starts(found.symbols), first, last, what)
        return _Tables(start, data, found)
    raise problem


def _remember(tables: _Tables, build: _Build) -> None:
    """Save the names of a kernel for `_remembered`, at addresses that do not tell where KASLR put it.

    Not of kernels before 4.6, whose tables hold addresses: KASLR changes the bytes of these tables.
    """
    if len(tables.found.fixed) < 2 or len(build.proof) < 2:
        return
    symbols = tables.found.symbols
    away = LINKED_TO[0] - _bounds(symbols, "")[0] // placement.GRANULE * placement.GRANULE
    spots = [
        at
        for start, end in tables.found.fixed
        for at in range(start, end - _SAMPLE_BYTES, max(1, (end - start) // _SAMPLES))
    ]
    sampled = [Sample(tables.start + at, tables.data[at : at + _SAMPLE_BYTES]) for at in spots]
    base_at = tables.found.base_at
    table_cache.save(
        Entry(
            build.build_id,
            build.release,
            _moved(tables.found.base, away),
            _moved(tables.start + base_at, away) if base_at >= 0 else 0,
            [Sample(_moved(sample.address, away), sample.data) for sample in (*build.proof, *sampled)],
            [_moved(symbol.address, away) for symbol in symbols],
            "".join(symbol.type for symbol in symbols),
            "\n".join(symbol.name for symbol in symbols),
        )
    )


def _remembered(target: Target) -> tuple[list[Symbol], _Build] | None:
    """The saved names of the kernel in the memory of a target, at its addresses; None when no saved names fit it."""
    for called, entry in islice(_comparisons(target), _MOST_COMPARISONS):
        if symbols := _fitting(target, entry, called):
            table_cache.used(entry.build_id)
            return symbols, _Build(entry.build_id, entry.release)
    return None


def _comparisons(target: Target) -> Iterator[tuple[placement.Calls, Entry]]:
    """Each saved entry with the calls around each address where a CPU executes. Without entries nothing is read."""
    waiting = table_cache.entries()
    loaded = list(islice(waiting, 1))
    if loaded and not isinstance(target, FileTarget):
        for called in _called(target):
            for entry in loaded:
                yield called, entry
            for entry in waiting:
                loaded.append(entry)
                yield called, entry


def _fitting(target: Target, entry: Entry, called: placement.Calls) -> list[Symbol]:
    """The symbols of an entry, moved to the place where its samples and its base are; empty when there is none."""
    import numpy

    names = entry.names.split("\n")
    places = numpy.array(entry.addresses, numpy.uint64)
    of_code = numpy.isin(numpy.frombuffer(entry.types.encode(), numpy.uint8), [*CODE_TYPES.encode()])
    try:
        first, last = (entry.addresses[names.index(name)] for name in ("_stext", "_etext"))
        own = places[of_code & (places >= numpy.uint64(first)) & (places < numpy.uint64(last))]
        shift = placement.find_shift(own.tolist(), called, entry.build_id)
        base = [Sample(entry.base_at, _moved(entry.base, shift).to_bytes(8, "little"))] if entry.base_at else []
        samples = [*entry.samples, *base]
        found = target.read_many([(_moved(sample.address, shift), len(sample.data)) for sample in samples])
        if found != [sample.data for sample in samples]:
            return []
        places = numpy.where(places >> numpy.uint64(48), places + numpy.uint64(shift % placement.ADDRESSES), places)
        # The file says what its samples are. The code in memory has the last word, as for any other file.
        starts = places[of_code].tolist()
        placement.require_fit(target.read, starts, _moved(first, shift), _moved(last, shift), entry.build_id)
    except (ValueError, TargetError):
        return []
    return sized_columns(places.tolist(), entry.types, names)


def _moved(address: int, distance: int) -> int:
    """An address after a move of the kernel. Those of variables of each CPU are small numbers, and do not move."""
    return (address + distance) % placement.ADDRESSES if address >> 48 else address


def _another_build(source: str, build_id: str, kernel: str) -> FormatError:
    return FormatError(f"{source} does not belong to this kernel: its build id is {build_id}, the kernel's {kernel}")


class _Build(NamedTuple):
    """Which build a kernel is; empty as far as it was not found."""

    build_id: str = ""
    release: str = ""
    proof: tuple[Sample, ...] = ()
    """The bytes that tell both."""

    @property
    def is_known(self) -> bool:
        return bool(self.build_id and self.release)

    def seen_in(self, data: bytes | bytearray, address: int) -> _Build:
        """With the facts in `data`, which lies at `address`, if they were unknown."""
        found = self
        if not found.build_id and (build_id := notes.build_id_of(data)):
            found = found._replace(build_id=build_id)._proven(data, address, b"GNU\0" + bytes.fromhex(build_id))
        if not found.release and (release := notes.release_of(data)):
            found = found._replace(release=release)._proven(data, address, f"Linux version {release[6:]} (".encode())
        return found

    def _proven(self, data: bytes | bytearray, address: int, part: bytes) -> _Build:
        return self._replace(proof=(*self.proof, Sample(address + data.index(part), part)))


def _build(target: Target, symbols: Sequence[Symbol]) -> _Build:
    """The build id and the release in the memory of a kernel with these symbols.

    Both lie in the read-only data, which ends where `__init_begin` is. Kernels with CONFIG_KALLSYMS_ALL name their
    places: the notes from `__start_notes` to `__stop_notes` (include/asm-generic/vmlinux.lds.h), and `linux_banner`.
    """
    places = {symbol.name: symbol.address for symbol in reversed(symbols) if symbol.name in _NAMES_OF_BUILD}
    build = _Build()
    start, end = places.get("__start_notes", 0), places.get("__stop_notes", 0)
    if 0 < end - start <= _PIECE:
        build = build.seen_in(_readable(target, start, end - start), start)
    if "linux_banner" in places:
        build = build.seen_in(_readable(target, places["linux_banner"], _PROBE), places["linux_banner"])
    start = _bounds(symbols, "")[1] // _SMALLEST_PIECE * _SMALLEST_PIECE
    end = min(places.get("__init_begin", start + _MOST_KERNEL), start + _MOST_KERNEL)
    data = bytearray()
    for piece in () if build.is_known else _mapped(target, start, end):
        data += piece
        build = build.seen_in(data, start)
        if build.is_known:
            break
    return build


def _likeliest_first(target: Target, hints: Iterable[int]) -> Iterator[tuple[int, int]]:
    """For each hint a place at or below it, and the end of the code around that place, within 128 MiB.

    A CPU may also stand in a module or in the exception vectors: then a search finds nothing, and takes half a minute.
    So hints with much code around come first, as they are found. Only if all fail, the others follow.
    """
    others: list[tuple[int, int]] = []
    probed: dict[int, int] = {}
    for hint in hints:
        below = hint // _SMALLEST_PIECE * _SMALLEST_PIECE
        if below in probed:
            continue
        probed[below] = end = _after_text(target, below)
        if end - _before_text(target, below, end - _MUCH_CODE) >= _MUCH_CODE:
            yield below, end
        else:
            others.append((below, end))
    yield from others


def _before_text(target: Target, end: int, least: int) -> int:
    """The lowest address from which on all is code up to `end`; the search goes down to `least`."""
    address = end
    while address > max(least, 0):
        try:
            if not placement.looks_like_code(target.read(address - _SMALLEST_PIECE, _PROBE)):
                break
        except TargetError:
            break
        address -= _SMALLEST_PIECE
    return address


def _after_text(target: Target, start: int) -> int:
    """An address near the end of the text around `start`. Read-only data does not begin before it."""
    for address in range(start, min(start + _MOST_KERNEL, 1 << 64), _PIECE):
        probes = [(place, _PROBE) for place in range(address, address + _PIECE, _SMALLEST_PIECE)]
        try:
            if not all(map(placement.looks_like_code, target.read_many(probes))):
                return address
        except TargetError:
            return address
    return start


def _read_tables(target: Target, start: int) -> tuple[bytes, Kallsyms | None, str]:
    """The bytes that were read from `start` on, the tables in them, and the reason if there are none."""
    data = bytearray()
    found: Kallsyms | None = None
    tables = -1
    why = ""
    for piece in _mapped(target, start):
        data += piece
        if tables < 0:
            overlap = max(0, len(data) - len(piece) - _LONGEST_TOKEN_TABLE)
            tables = next((table for table, _ in find_token_tables(data, overlap)), -1)
        if tables >= 0 and not found:
            try:
                found = decode(bytes(data), start)
            except FormatError as error:  # some tables may come later
                why = str(error)
        if found or (tables >= 0 and len(data) - tables > REACH):
            break
    return bytes(data), found, why or "no kallsyms tables were found in the memory of this kernel"


def _no_kernel() -> SymbolError:
    return SymbolError(
        "no CPU was seen to execute a Linux kernel, and there is none at the addresses of kernels without KASLR: "
        "try again while the machine does something"
    )


def _mapped(target: Target, start: int, end: int = 1 << 64) -> Iterator[bytes]:
    """The readable bytes from `start` on. Gaps of up to 4 MiB are filled with zeros; a larger gap is the end."""
    address, gap = start, 0
    while address < min(start + _MOST_KERNEL, end) and gap <= _WIDEST_GAP:
        piece = _readable(target, address, _PIECE)
        if not piece:
            gap += _SMALLEST_PIECE
            address += _SMALLEST_PIECE
            continue
        if address > start:
            yield bytes(gap)
        gap = 0
        yield piece
        address += len(piece)


def _readable(target: Target, address: int, size: int) -> bytes:
    """The readable bytes from `address` on, `size` at most. The end is found by halving."""
    try:
        return target.read(address, size)
    except TargetError:
        if size <= _SMALLEST_PIECE:
            return b""
    first = _readable(target, address, size // 2)
    return first + _readable(target, address + size // 2, size // 2) if len(first) == size // 2 else first


def _kernel_addresses(target: Target, hints: Iterable[int] = ()) -> Iterator[int]:
    """Addresses that may lie in the kernel's text: hints, PCs and return addresses of CPUs, and LINKED_TO."""
    yield from hints
    if target.capabilities.can_stop and target.capabilities.sees_pcs:
        for _ in range(_TRIES):
            with target.stop() as cpus:
                states = cpus.states()
            if not states:
                break
            addresses = [address for state in states for address in (state.pc, *state.return_addresses)]
            # The upper half of the address space is the kernel's (TTBR1_EL1), whatever its size. Such an address may
            # also lie in a module or in the exception vectors: the caller goes on until it finds the kernel.
            yield from dict.fromkeys(address for address in addresses if address >> 52 == 0xFFF)
            time.sleep(0.01)
    for address in LINKED_TO:
        yield address + (1 << 20)


def _find_place(target: Target, source: Source) -> int:
    """The number of bytes to add to the addresses of a source. FormatError when no number fits."""
    identity = target.identity()
    if source.build_id and identity.build_id and source.build_id != identity.build_id:
        raise _another_build(source.name, source.build_id, identity.build_id)
    first, last = _bounds(source.symbols, source.name)
    own = [symbol.address for symbol in source.symbols if symbol.is_text and first <= symbol.address < last]
    problem: Exception = _no_kernel()
    for called in _called(target):
        try:
            shift = placement.find_shift(own, called, source.name)
            *moved, start, end = [(address + shift) % placement.ADDRESSES for address in (*own, first, last)]
            placement.require_fit(target.read, moved, start, end, source.name)
        except FormatError as error:
            problem = error
            continue
        _require_modules(target, source, shift)
        return shift
    raise problem


def _called(target: Target) -> Iterator[placement.Calls]:
    """Addresses that code calls: code all over a file, or around each address where a CPU executes the kernel."""
    import numpy

    ranges = target.code_ranges()
    if ranges:
        start, end = max(ranges, key=lambda each: each[1] - each[0])
        read = [(at, target.read(at, min(placement.SPOT, end - at))) for at in placement.spots(start, end)]
        yield numpy.concatenate([placement.calls(data, at) for at, data in read])
        return
    starts = (address // _WINDOW * _WINDOW for address in _kernel_addresses(target))
    seen: set[int] = set()
    for start in islice(starts, _MOST_HINTS):
        if start not in seen and (data := _readable(target, start, 2 * _WINDOW)):
            yield placement.calls(data, start)
        seen.add(start)


def _require_modules(target: Target, source: Source, shift: int) -> None:
    """FormatError unless the modules of a source are at its addresses."""
    modules = sorted({symbol.module for symbol in source.symbols if symbol.module})
    if modules and shift:
        raise FormatError(
            f"{source.name} was saved in another boot, since when KASLR moved modules elsewhere: save it again"
        )
    for module in modules:
        start, end = _module_text(source.symbols, module)
        starts = [symbol.address for symbol in source.symbols if symbol.module == module and symbol.is_text]
        if starts and not placement.fits_somewhat(target.read, starts, start, end):
            raise FormatError(f"{source.name} does not say where module {module} is now: save /proc/kallsyms again")


def _module_text(symbols: Sequence[KernelSymbol], module: str) -> tuple[int, int]:
    """[start, end) of a module's text, in whole pages: its exact end is not known."""
    texts = [symbol.address for symbol in symbols if symbol.module == module and symbol.is_text]
    if not texts:
        return 0, 0
    return min(texts) // _PAGE * _PAGE, (max(texts) // _PAGE + 1) * _PAGE


def _bounds(symbols: Iterable[KernelSymbol] | Iterable[Symbol], name: str) -> tuple[int, int]:
    """The addresses of _stext and _etext. FormatError without them: it is no kernel then."""
    ends = {symbol.name: symbol.address for symbol in symbols if symbol.name in ("_stext", "_etext")}
    if len(ends) < 2 or not ends["_stext"] < ends["_etext"] <= ends["_stext"] + _MOST_KERNEL:
        raise FormatError(f"{name} does not say where a kernel's text begins and ends (_stext, _etext)")
    return ends["_stext"], ends["_etext"]


def _text_starts(symbols: Iterable[KernelSymbol]) -> list[int]:
    return [symbol.address for symbol in symbols if symbol.is_text]

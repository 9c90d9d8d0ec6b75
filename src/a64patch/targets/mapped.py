"""The builds in a process, from its mappings and its memory. A file on disk counts only if it is seen to be the same.

Everything here is untrusted: memory may hold garbage, and files may have been replaced.
Read on: maps.py has the mappings, elf_loaded.py reads what a loader left in memory; process.py opens the files.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from a64patch.errors import FormatError, MappingError, ReadError, TargetError
from a64patch.ranges import Ranges
from a64patch.targets.debug_link import Names, names_of
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.elf_loaded import Loaded, Read, executable_spans, file_of, read_loaded, same_build
from a64patch.targets.maps import Mapping, Maps
from a64patch.targets.modules import Claim, Module
from a64patch.targets.symbols import ADDRESS_SPACE, Symbol, SymbolTable

VDSO, JIT = "vdso", "JIT"
"""The names of the kernel's own code in each process, and of executable memory that is of no ELF file."""
_MAPPED_VDSO = "[vdso]"
_MOST_MODULES = 1 << 12
"""Code of more ELF files than this counts as code of none."""
_MOST_SPANS = 16
"""Executable segments of one file that begin at one place. Linkers make one; garbage may claim any number."""
_PAGE = 1 << 12
_DATA = "is no code: the file has constants or tables here, which other code reads"
_RESOLVER = "is in a function that only chooses another one (IFUNC): the loader has called it, and the choice stays"

OpenFile = Callable[[Mapping], bytes | None]
"""The content of a mapped file as it can be reached now; None when it cannot."""


class Origin(NamedTuple):
    """Where a module's names come from."""

    file: str = ""
    """The path of the mapped file; empty when the names come from memory."""
    doubt: str = ""
    """Why the file did not count, as a sentence for people; empty when it did, or when there is no file."""


@dataclass(frozen=True, eq=False)
class MappedModule(Module):
    """One build in a process. `Module.file` is empty: build id, base and code come from memory."""

    owns_names: bool = True
    origin: Callable[[], Origin] = Origin
    """Where the names come from. The first call opens and reads the file, as the first use of a name does."""


def modules_of(
    maps: Maps, read: Read, open_file: OpenFile, *, main: tuple[str, int] | None, incarnation: str = ""
) -> list[Module]:
    """The builds in a process, in this order:

    - the ELF file `main` (device and inode); without names if its headers in memory make no sense;
    - each other ELF file of which code is mapped, by address: a file that is mapped twice is two modules;
    - the vDSO, which Linux maps into each process (`vdso`);
    - all other executable memory as one module without names (`JIT`): memory without a file, files that are no ELF
      file, and files whose headers in memory make no sense.

    `read(address, size)` is as `Target.read`, and raises MappingError or ReadError. `incarnation` is for the first.

    A module's name is the last part of its file's path. When several modules have one name, the second is `name@2`, the
    third `name@3`; `vdso` and `JIT` are taken from the start. So each name is an owner in a SITE (`libc.so.6:malloc`),
    in double quotes where it needs them (`"libstdc++.so.6":name`). All symbols have their module's name as owner, those
    of the first module too.

    This reads some 4 KiB of memory for each module, and no file. Names and claims are read at their first use:

    - from the file, if `open_file` gives one that `elf_loaded.same_build` takes for the one in memory;
    - else from memory, where only names for the loader are (`elf_loaded.file_of`).

    Names that cannot be read are none: `MappedModule.origin` tells it, and neither a name nor a claim raises an error.

    `code` is all executable memory of the module. Linkers often put constants and tables into executable memory. Those
    that the file tells are claimed as `data`, and are still part of `code`: they may look like branches. The functions
    that the loader calls to choose others are claimed as `resolver`: `memcpy` of glibc is one, and is not what runs.

    Not found: a library whose first page is not mapped. Its code belongs to `JIT`.
    """
    found = _find(maps, read, main)
    names = _Unique((VDSO, JIT))
    modules: list[Module] = []
    left = maps.code - Ranges.of(span for each in found for span in each.code)
    mapped = Ranges.of((mapping.start, mapping.end) for mapping in maps)
    own = [mapping for mapping in maps if main is not None and mapping.file == main]
    if own and not any(each.mapping.file == main for each in found):
        # The first module names the target: it may not be a library.
        code = left & Ranges.of((mapping.start, mapping.end) for mapping in own)
        modules.append(MappedModule(names.of(_name_of(own[0])), code=code))
        left -= code
    for each in sorted(found, key=lambda each: (each.mapping.file != main, each.is_vdso, each.mapping.start)):
        name = VDSO if each.is_vdso else names.of(each.loaded.name)
        modules.append(_Build(name, each, mapped, read, open_file).module())
    if left:
        modules.append(MappedModule(JIT, code=left, shares_code=True))
    if modules and incarnation:
        modules[0] = replace(modules[0], incarnation=incarnation)
    return modules


class _Unique:
    """Makes names that differ from all earlier ones."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._numbers: dict[str, int] = {}

    def of(self, name: str) -> str:
        unique, number = name, self._numbers.get(name, 1)
        while unique in self._taken:
            number += 1
            unique = f"{name}@{number}"
        self._numbers[name] = number
        self._taken.add(unique)
        return unique


@dataclass
class _Found:
    """One ELF file in memory."""

    mapping: Mapping
    """The mapping with the file's header."""
    loaded: Loaded
    code: list[tuple[int, int]]

    @property
    def is_vdso(self) -> bool:
        return self.mapping.file is None


def _find(maps: Maps, read: Read, main: tuple[str, int] | None) -> list[_Found]:
    """All ELF files with executable memory."""
    files = {mapping.file for mapping in maps if mapping.executable} | {main}
    heads = [_Found(mapping, loaded, []) for mapping, loaded in _heads(maps, read, files)]
    by_start: dict[tuple[tuple[str, int] | None, int], list[tuple[int, int, _Found]]] = {}
    every: list[tuple[int, int, _Found]] = []
    for head in heads:
        for start, end, first in executable_spans(head.loaded):
            same = by_start.setdefault((head.mapping.file, first), [])
            if len(same) < _MOST_SPANS:
                same.append((start, end, head))
            every.append((start, end, head))
    every.sort(key=lambda span: span[:2])
    for mapping in maps:
        if not mapping.executable:
            continue
        may_be_elf = mapping.file is not None or mapping.path == _MAPPED_VDSO
        own = by_start.get((mapping.file, mapping.start - mapping.offset), ()) if may_be_elf else ()
        whole = next((head for start, end, head in own if _overlaps(mapping, start, end)), None)
        if whole is not None:
            whole.code.append((mapping.start, mapping.end))
            continue
        # Some programs copy their code to larger pages, which are no mapping of the file.
        for start, end, head in _meeting(every, mapping):
            low, high = max(start & -_PAGE, mapping.start), min(-(-end // _PAGE) * _PAGE, mapping.end)
            if low < high:
                head.code.append((low, high))
    return [head for head in heads if head.code]


def _overlaps(mapping: Mapping, start: int, end: int) -> bool:
    return start < mapping.end and mapping.start < end


def _meeting(spans: Sequence[tuple[int, int, _Found]], mapping: Mapping) -> Iterator[tuple[int, int, _Found]]:
    """The spans that begin in a mapping, and the last one that begins before it."""
    place = max(bisect_right(spans, mapping.start, key=lambda span: span[0]) - 1, 0)
    while place < len(spans) and spans[place][0] < mapping.end:
        yield spans[place]
        place += 1


def _heads(maps: Maps, read: Read, files: set[tuple[str, int] | None]) -> Iterator[tuple[Mapping, Loaded]]:
    """The mappings that begin with an ELF header. Only `files` are looked at: reading memory of devices may do harm."""
    count = 0
    pieces: dict[tuple[tuple[str, int] | None, int], list[tuple[int, int]]] = {}
    for mapping in maps:
        if mapping.file in files:
            place = mapping.file, mapping.start - mapping.offset
            pieces.setdefault(place, []).append((mapping.start, mapping.end))
    for mapping in maps:
        is_vdso = mapping.file is None and mapping.path == _MAPPED_VDSO
        if not is_vdso and (mapping.offset or mapping.file is None or mapping.file not in files):
            continue
        try:
            whole = Ranges.of([(mapping.start, mapping.end), *pieces.get((mapping.file, mapping.start), ())])
            loaded = read_loaded(read, mapping.start, whole, _name_of(mapping))
        except (FormatError, MappingError, ReadError):
            continue
        count += 1
        if count > _MOST_MODULES:
            return
        yield mapping, loaded


def _name_of(mapping: Mapping) -> str:
    name = mapping.path.rpartition("/")[2] or "unnamed"
    return name if name.isprintable() else name.encode("unicode_escape").decode("ascii")


class _Facts(NamedTuple):
    """What a file, or the memory of one, tells about a module. Addresses are those in memory."""

    symbols: list[Symbol]
    data: Ranges
    resolvers: Ranges
    origin: Origin


class _Build:
    """Reads the names of one module when somebody needs them, from its file or from memory."""

    def __init__(self, name: str, found: _Found, mapped: Ranges, read: Read, open_file: OpenFile) -> None:
        self._name, self._found, self._mapped, self._read, self._open = name, found, mapped, read, open_file
        self._code = Ranges.of(found.code)

    def module(self) -> MappedModule:
        """The module. Reads nothing."""
        loaded = self._found.loaded
        return MappedModule(
            self._name, SymbolTable(lambda: self._facts.symbols), loaded.build_id, base=loaded.base, code=self._code,
            claims=self._claims, origin=lambda: self._facts.origin,
        )  # fmt: skip

    def _claims(self) -> Iterable[Claim]:
        return [
            Claim("data", self._code, _DATA, tell=lambda asked: _inside(self._facts.data, asked, _DATA)),
            Claim(
                "resolver", self._code, _RESOLVER, tell=lambda asked: _inside(self._facts.resolvers, asked, _RESOLVER)
            ),
        ]

    @cached_property
    def _facts(self) -> _Facts:
        path, doubt = self._found.mapping.path, ""
        if not self._found.is_vdso:
            doubt = "its file cannot be read"
            try:
                content = self._open(self._found.mapping)
                if content is not None:
                    image = ElfImage(content, path)
                    doubt = "its file was replaced, and the new one is of another build"
                    if same_build(self._found.loaded, image, self._read):
                        return self._told(image, path, Origin(path))
            except FormatError:
                doubt = "its file is not the one that was loaded, or is not sound"
            except TargetError:
                doubt = "its file cannot be read"
        try:
            image = ElfImage(file_of(self._found.loaded, self._read, self._mapped), self._name)
            return self._told(image, path, Origin("", doubt and f"{doubt}: its names come from memory"))
        except FormatError:
            origin = Origin("", f"{doubt or 'its memory is not sound'}: it has no names")
            return _Facts([], Ranges(), Ranges(), origin)

    def _told(self, image: ElfImage, path: str, origin: Origin) -> _Facts:
        base = self._found.loaded.base
        names: Names = names_of(image, path, absolute=False)
        low, high = self._found.loaded.extent
        symbols = [
            symbol.moved(base)._replace(module=self._name)
            for symbol in names.symbols
            if low <= symbol.address + base <= high < ADDRESS_SPACE
        ]
        constants = [section for section in image.sections if section.mapped and not section.executable]
        data = Ranges.of((section.address, section.address + section.size) for section in constants) - image.executable
        data |= image.data_in_code | names.data & image.executable
        return _Facts(symbols, _moved(data, base), _moved(image.resolvers, base), origin)


def _moved(ranges: Ranges, distance: int) -> Ranges:
    return Ranges.of((start + distance, end + distance) for start, end in ranges)


def _inside(ranges: Ranges, addresses: Sequence[int], sentence: str) -> dict[int, str]:
    return {address: sentence for address in addresses if address in ranges}

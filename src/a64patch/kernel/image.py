"""A raw arm64 Image as a target: the file that boot loaders load. Its names and addresses are found inside it.

Read on: Documentation/arch/arm64/booting.rst of Linux for the header; ../targets/file.py replaces the file.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from a64patch.errors import FormatError, MappingError
from a64patch.kernel import blacklist, notes, placement
from a64patch.kernel.alternatives import Alternative
from a64patch.kernel.kallsyms import CODE_TYPES, Kallsyms, KernelSymbol, decode
from a64patch.kernel.rewrites import alternatives_in, claims_on_kernel, looked_at
from a64patch.ranges import Ranges
from a64patch.targets.file import FileTarget
from a64patch.targets.modules import Claim, Module
from a64patch.targets.symbols import ADDRESS_SPACE, Symbol, SymbolTable

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Numbers = NDArray[numpy.uint64]

KERNEL = "kernel"
"""The name of the module that is the kernel itself."""

_MOST_BYTES = 1 << 30
_BIG_ENDIAN = 1
_R_AARCH64_RELATIVE = 1027
"""The r_info of such a relocation (AAELF64 5.7.15)."""
_RELATIVE = struct.pack("<Q", _R_AARCH64_RELATIVE)
_HEAD = 0x1000
"""Bytes at the beginning of the file that hold headers: symbols cannot be checked there."""


class _Layout(NamedTuple):
    """The facts in the kernel's own tables: the link address of the file's first byte, its symbols, its code."""

    start: int
    symbols: list[KernelSymbol]
    code: Ranges


class KernelImage(FileTarget):
    """The code in an uncompressed arm64 Linux Image; little-endian kernels only.

    Addresses are the link addresses, as in System.map, if the Image has them: in the base of its kallsyms tables, or in
    the relocation that fills in this base at boot. Otherwise an address is an offset in the file (bytes). That is so
    without kallsyms tables, and with the newest layout, which holds no absolute address.

    Names come from the kallsyms tables in the file, after a check against the code. A kernel without the tables has no
    names. Its code lies from _stext to _etext and from _sinittext to _einittext; without names, it is the whole file.

    `write` changes a copy in memory; `publish` replaces the file.

    Not guaranteed: the booting kernel changes its own text (alternatives, jump labels, ftrace sites), and may overwrite
    a patch. `modules` claims these words only if the names of the kernel's tables are known; the names in the file are
    enough with CONFIG_KALLSYMS_ALL. The table of static keys is found in any case. A signature for Secure Boot is not
    valid for the patched file.

    TargetError when the file cannot be opened. FormatError when it is not such an Image, is truncated, or has more than
    1 GiB.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, "Image file", _MOST_BYTES)
        require_image(self._file.head(0x1000), self._file.size, self.path)
        self._original = self._file.content
        self._data = self._original

    def own_modules(self) -> Iterable[Module]:
        """One module: the kernel. It has no slide, since KASLR does not move a file."""
        layout, release = self._layout, notes.release_of(self._original)
        table, build_id = SymbolTable(lambda: sized(layout.symbols)), notes.build_id_of(self._original)
        code = Ranges.of(layout.code)
        return [Module(KERNEL, table, build_id, release, code=code, file=self.location, claims=self._claims)]

    def _claims(self) -> Iterator[Claim]:
        code = self._layout.code
        yield from claims_on_kernel(self.read, self.symbols, code, relocated=self._relocated)
        yield from blacklist.claims_on_file(self.read, self.symbols, code, self._relocated)

    def facts(self) -> dict[str, str]:
        """The tables of the kernel that were found, and the words that are not looked at since theirs was not."""
        return {**super().facts(), **looked_at(self.modules.claims).rows()}

    def alternatives(self) -> list[Alternative]:
        """As `rewrites.alternatives_in`."""
        return alternatives_in(self.read, self.symbols, self._layout.code, self._relocated)

    def _relocated(self, start: int, end: int) -> dict[int, int]:
        """The addresses that the boot writes between two addresses, by place, if .rela.dyn has them (not .relr.dyn)."""
        import numpy

        places, values = self._relative
        first, last = numpy.searchsorted(places, numpy.array((start, end), numpy.uint64))
        return dict(zip(places[first:last].tolist(), values[first:last].tolist(), strict=True))

    @cached_property
    def _relative(self) -> tuple[Numbers, Numbers]:
        """The place and the addend of each R_AARCH64_RELATIVE in the file, ascending by place.

        Found by the number of their type, at places in the file: other data with this form would be taken for one too.
        """
        import numpy

        start, size = self._layout.start, len(self._original)
        numbers = numpy.frombuffer(self._original, "<u8", size // 8)
        middle = 1 + numpy.flatnonzero(numbers[1:-1] == _R_AARCH64_RELATIVE)
        places = numbers[middle - 1]
        middle = middle[places - numpy.uint64(start) < numpy.uint64(size)]
        middle = middle[numpy.argsort(numbers[middle - 1], kind="stable")]
        return numbers[middle - 1], numbers[middle + 1]

    def kernel_symbols(self) -> list[KernelSymbol]:
        """All names in the file with nm's letter for each, ascending by address; empty when there are none."""
        return list(self._layout.symbols)

    def whole(self) -> tuple[int, bytes]:
        """The address of the file's first byte, and the bytes of the file as it was opened."""
        self._require_open()
        return self._layout.start, bytes(self._original)

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes as last written, even if not published. MappingError when one of them is not in the file."""
        self._require_open()
        offset = self._offset(address, size)
        return bytes(self._data[offset : offset + size])

    def write(self, address: int, data: bytes) -> None:
        """Change bytes of the copy in memory; the file on disk does not change before `publish`.

        MappingError when not all of these addresses are code. WriteError when the file could not be replaced later.
        """
        self._require_open()
        offset = self._offset(address, len(data))
        if not data:
            return
        if not self._layout.code.covers(address, address + len(data)):
            raise MappingError(f"{address:#x} in {self.path} is not code, so it may not be written")
        self._writable()[offset : offset + len(data)] = data

    def _offset(self, address: int, size: int) -> int:
        offset = address - self._layout.start
        if size < 0 or offset < 0 or offset + size > len(self._data):
            raise MappingError(f"{size} bytes at {address:#x} do not all stand in {self.path}: name a mapped address")
        return offset

    @cached_property
    def _layout(self) -> _Layout:
        try:
            return _place(self._original, decode(self._original), f"the kallsyms tables in {self.path}")
        except FormatError:
            return _Layout(0, [], Ranges(((0, len(self._original) // 4 * 4),)))


def open_image(path: str, *, drop_relocations: bool = False) -> KernelImage:
    """As `KernelImage`. `drop_relocations` does nothing: an Image has no relocations to drop."""
    return KernelImage(path)


def require_image(head: bytes, size: int, name: str) -> None:
    """FormatError unless a file of `size` bytes with this head is a raw arm64 Image, and not truncated."""
    if len(head) < 64 or not notes.is_image(head):
        raise FormatError(f"{name} is not a raw arm64 Image: there is no ARM\\x64 at 0x38")
    _, _, _, image_size, flags = struct.unpack_from("<IIQQQ", head)
    if flags & _BIG_ENDIAN:
        raise FormatError(f"{name} is a big-endian kernel, whose tables cannot be read")
    # image_size is 0 before 3.17. It counts the memory that the kernel clears at its end: the file is shorter.
    if image_size > _MOST_BYTES or (image_size and image_size < size // 2):
        raise FormatError(f"{name} is not a sound Image: its header speaks of {image_size} bytes, the file has {size}")
    end = max((at + length for at, length in _sections(head)), default=0)
    if end > size:
        raise FormatError(f"{name} is truncated: its sections end at {end:#x}, the file at {size:#x}")


def _sections(head: bytes) -> Iterator[tuple[int, int]]:
    """(offset, bytes) in the file of each section in the PE header; only an Image with an EFI stub has the header."""
    (pe,) = struct.unpack_from("<I", head, 60)
    if head[:2] != b"MZ" or head[pe : pe + 4] != b"PE\0\0" or pe + 24 > len(head):
        return
    count, optional = struct.unpack_from("<H", head, pe + 6)[0], struct.unpack_from("<H", head, pe + 20)[0]
    first = pe + 24 + optional
    for place in range(first, first + 40 * min(count, 16), 40):
        if place + 40 <= len(head):
            length, offset = struct.unpack_from("<II", head, place + 16)
            yield offset, length


def _place(data: bytes, tables: Kallsyms, what: str) -> _Layout:
    """The symbols at their link addresses. FormatError when they do not fit the code of the file."""
    import numpy

    starts = [symbol.address for symbol in tables.symbols if symbol.is_text and symbol.address >= tables.base]
    # The text comes before the read-only data, which holds the tables.
    windows = placement.spots(_HEAD, tables.token_table * 3 // 4)
    called = [placement.calls(data[at : at + placement.SPOT], at) for at in windows]
    shift = placement.find_shift(starts, numpy.concatenate(called), what)
    start = -shift % placement.ADDRESSES
    if tables.base_at >= 0 and not tables.base:
        start = _linked_to(data, tables.base_at, shift)
    elif not tables.base and starts[0] >> 48 == 0:
        start = 0
    move = start + shift
    symbols = [symbol._replace(address=(symbol.address + move) % placement.ADDRESSES) for symbol in tables.symbols]
    bounds = {symbol.name: symbol.address for symbol in symbols}
    code = [
        (bounds[first], bounds[last] // 4 * 4)
        for first, last in (("_stext", "_etext"), ("_sinittext", "_einittext"))
        if start <= bounds.get(first, -1) < bounds.get(last, -1) <= start + len(data)
    ]
    if not code:
        raise FormatError(f"{what} do not say where the text is")
    texts = [symbol.address for symbol in symbols if symbol.is_text and symbol.address >= start]
    placement.require_fit(lambda at, size: data[at - start : at - start + size], texts, *code[0], what)
    return _Layout(start, symbols, Ranges.of(code))


def _linked_to(data: bytes, base_at: int, first: int) -> int:
    """The address of the file's first byte, by the relocation of kallsyms_relative_base; 0 when there is none.

    The value of this relocation is the address of the first symbol, which lies at the offset `first`. Its place is the
    address of `base_at`. So both give the same start of the file, unlike those of another relocation.
    """
    found = data.find(_RELATIVE)
    while found >= 0:
        if found >= 8 and found + 16 <= len(data):
            (place,), (value,) = struct.unpack_from("<Q", data, found - 8), struct.unpack_from("<Q", data, found + 8)
            start = int(place) - base_at
            if (
                (value - first) % placement.ADDRESSES == start
                and start % placement.GRANULE == 0
                and start >> 48 == 0xFFFF
            ):
                return start
        found = data.find(_RELATIVE, found + 1)
    return 0


def sized(symbols: Sequence[KernelSymbol]) -> list[Symbol]:
    """Symbols with sizes, as `sized_columns`, ascending by address. Needs numpy.

    Size 0 replaces the size of a module's symbol that would reach over a symbol of somebody else. Code and variables of
    a module lie apart. /proc/kallsyms lists its variables for each CPU even behind the kernel.
    """
    modules: dict[str, list[KernelSymbol]] = {}
    for symbol in symbols:
        modules.setdefault(symbol.module, []).append(symbol)
    found = []
    for module, own in modules.items():
        addresses, types, names, _ = zip(*own, strict=True)
        found += sized_columns(addresses, types, names, module)
    if len(modules) < 2:
        return found
    found.sort(key=itemgetter(1))
    places = [each.address for each in found]
    for number, each in enumerate(found):
        if each.module and each.size and places[bisect_right(places, each.address, number)] < each.end:
            found[number] = each._replace(size=0)
    return found


def sized_columns(
    addresses: Sequence[int], types: Iterable[str], names: Iterable[str], module: str = ""
) -> list[Symbol]:
    """The symbols of one module with sizes: each reaches to the next address that has a symbol. Needs numpy.

    kallsyms_lookup_size_offset() does the same: padding behind a function is part of it. The last symbol has size 0.
    """
    import numpy

    starts, places = numpy.unique(numpy.array(addresses, numpy.uint64), return_inverse=True)
    sizes = (numpy.append(starts[1:], starts[-1:]) - starts)[places].tolist()
    of_code = [kind in CODE_TYPES for kind in types]
    rows = zip(names, addresses, sizes, repeat(module), of_code, repeat(ADDRESS_SPACE), repeat(""), strict=False)
    return list(map(partial(tuple.__new__, Symbol), rows))  # far faster than Symbol(...) for each of 200,000

"""Names to addresses and back, whoever read them; and the SITE that a user types.

May know: the errors.
Read on: elf.py fills a table from .symtab and .dynsym.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from a64patch.errors import SymbolError

_SITE = re.compile(
    r"(?:(?P<module>[^:+\s]+):)?(?P<name>[^:+\s]+)(?:\+(?P<offset>0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}))?", re.ASCII
)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True)
class Symbol:
    """A name for `size` bytes at `address`; a size of 0 means that nobody recorded one."""

    name: str
    address: int
    size: int = 0
    module: str = ""
    """The section (relocatable file) or kernel module it lies in; empty where names are global."""


@dataclass
class SymbolTable:
    """Symbols of one target. `load` is called once, when the first name or address is asked for."""

    load: Callable[[], Iterable[Symbol]] = tuple
    spaces: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Named ranges [start, end) that a site may count from: `.text:0x10` in a relocatable file."""

    def __post_init__(self) -> None:
        self._by_name: dict[str, list[Symbol]] | None = None
        self._by_address: list[Symbol] | None = None

    def _names(self) -> dict[str, list[Symbol]]:
        if self._by_name is None:
            self._by_name = {}
            for symbol in self.load():
                self._by_name.setdefault(symbol.name, []).append(symbol)
        return self._by_name

    def _sorted(self) -> list[Symbol]:
        if self._by_address is None:
            every = [symbol for group in self._names().values() for symbol in group]
            self._by_address = sorted(every, key=lambda symbol: (symbol.address, symbol.size, symbol.name))
        return self._by_address

    def find(self, name: str, module: str = "") -> Symbol:
        """The one symbol of that name; SymbolError when there is none, or several at different addresses."""
        found = [s for s in self._names().get(name, []) if not module or s.module == module]
        where = f" in {module}" if module else ""
        if not found:
            raise SymbolError(f"there is no symbol {name!r}{where}; `show` with an address needs none")
        addresses = sorted({symbol.address for symbol in found})
        if len(addresses) > 1:
            places = ", ".join(f"{address:#x}" for address in addresses[:8])
            raise SymbolError(
                f"symbol {name!r}{where} stands for {len(addresses)} addresses ({places}); name the address"
            )
        return max(found, key=lambda symbol: symbol.size)

    def __getitem__(self, name: str) -> int:
        """The address (bytes) of the one symbol of that name; SymbolError as `find`."""
        return self.find(name).address

    def resolve(self, site: str) -> int:
        """The address that a SITE means: `symbol`, `symbol+0x18`, `module:symbol+8`, `section:offset` or an address.

        SymbolError says what is missing or ambiguous. A text that is a number is an address, even if a symbol
        should have that name.
        """
        if _NUMBER.fullmatch(site):
            return int(site, 0 if site[:2].lower() == "0x" else 10)
        match = _SITE.fullmatch(site)
        if match is None:
            raise SymbolError(f"{site[:80]!r} is not a site: write symbol, symbol+0x18, section:0x10 or an address")
        module, name = match["module"] or "", match["name"]
        offset = match["offset"]
        distance = 0 if offset is None else int(offset, 0 if offset[:2].lower() == "0x" else 10)
        if module in self.spaces and _NUMBER.fullmatch(name):
            start, end = self.spaces[module]
            address = start + int(name, 0 if name[:2].lower() == "0x" else 10) + distance
            if not start <= address < end:
                raise SymbolError(f"{site} lies outside {module}, which has {end - start:#x} bytes")
            return address
        if name in self.spaces and not module and name not in self._names():
            return self.spaces[name][0] + distance
        return self.find(name, module).address + distance

    def lookup(self, address: int) -> tuple[Symbol, int] | None:
        """The innermost symbol at or before the address and the distance to it (bytes); None outside all of them.

        A symbol of unknown size (0) reaches to the next symbol.
        """
        every = self._sorted()
        index = bisect_right(every, address, key=lambda symbol: symbol.address)
        nearest = every[index - 1].address if index else None
        for symbol in reversed(every[max(0, index - 64) : index]):
            distance = address - symbol.address
            if distance < symbol.size or (symbol.size == 0 and symbol.address == nearest):
                return symbol, distance
        return None

    def describe(self, address: int) -> str:
        """How people call this address: `symbol+0x18`, else `section:0x10`, else the bare address."""
        found = self.lookup(address)
        if found is not None:
            symbol, distance = found
            return symbol.name + (f"+{distance:#x}" if distance else "")
        for name, (start, end) in self.spaces.items():
            if start <= address < end:
                return f"{name}:{address - start:#x}"
        return f"{address:#x}"

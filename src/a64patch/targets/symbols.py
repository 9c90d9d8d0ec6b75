"""Names to addresses and back, whatever their source; and the SITE that a user types.

Read on: elf.py fills a table from .symtab and .dynsym.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from a64patch.a64.names import LONGEST_NAME, number_of, parse_site, quoted, site_text
from a64patch.errors import SymbolError
from a64patch.oneline import counted, shown

GIVE_NAMES = "give --symbols (kallsyms for a running Linux kernel, the ELF file for a program)"
"""What to do about a target that has no names and does not tell its build."""

ADDRESS_SPACE = 1 << 64
_MOST_LISTED = 8
_MOST_HINTS = 16
"""The number of unknown symbols for which a table looks for the nearest names."""


class Symbol(NamedTuple):
    """A name for `size` bytes at `address`; 0 means that the size is unknown."""

    name: str
    address: int
    size: int = 0
    module: str = ""
    """The symbol's section (relocatable file), kernel module or mapped file (process); empty for a global name."""
    is_function: bool = False
    """The symbol is known to name a function (ELF: STT_FUNC, STT_GNU_IFUNC)."""
    limit: int = ADDRESS_SPACE
    """The end of the symbol's section. From there on the symbol names nothing, whatever its size."""
    file: str = ""
    """The source file of a local symbol (ELF: STT_FILE); empty for a global one, and when no file is known."""

    @property
    def end(self) -> int:
        """The address behind the last byte that surely belongs to the symbol: its own address for an unknown size."""
        return max(self.address, min(self.address + self.size, self.limit))

    def __repr__(self) -> str:
        name = f"{self.module}:{self.name}" if self.module else self.name
        size = counted(self.size, "byte") if self.size else "size unknown"
        return shown(self, f"{name} at {self.address:#x},", size + (", function" if self.is_function else ""))

    def moved(self, distance: int) -> Symbol:
        """The symbol `distance` bytes further on."""
        limit = min(self.limit + distance, ADDRESS_SPACE) if self.limit < ADDRESS_SPACE else self.limit
        return self._replace(address=self.address + distance, limit=limit)


class Space(NamedTuple):
    """A named range [start, end) of addresses from whose start a site may count: a section of a relocatable file."""

    name: str
    start: int
    end: int

    def __repr__(self) -> str:
        return shown(self, f"{self.name} {self.start:#x}-{self.end:#x}")


class _NoSymbolError(SymbolError):
    """There is no such symbol. The hint is looked for when somebody wants to read the message."""

    def __init__(self, problem: str, hint: Callable[[], str]) -> None:
        super().__init__(problem)
        self._hint = hint

    def __str__(self) -> str:
        return f"{super().__str__()}{self._hint()}"


@dataclass
class SymbolTable:
    """Symbols of one target. `load` is called once, at the first use of a name or address."""

    load: Callable[[], Iterable[Symbol]] = tuple
    spaces: Sequence[Space] = ()
    """The ranges from which `.text:0x10` counts. Sections may share a name: a shared name is refused, never guessed."""
    first: str = ""
    """The module whose names need no owner, even if other modules have them too; empty without one."""

    def __post_init__(self) -> None:
        self._by_name: dict[str, list[Symbol]] | None = None
        self._by_address: list[Symbol] | None = None
        self._addresses: list[int] = []
        """The addresses of `_by_address`: bisecting this list needs no key function."""
        self._hints: dict[tuple[str, str], str] = {}
        """What `_hint` has found, by name and owner."""
        self._spaces: dict[str, list[Space]] = {}
        for space in self.spaces:
            self._spaces.setdefault(space.name, []).append(space)
        self._ascending = sorted(self.spaces, key=lambda space: (space.start, space.end))

    def __repr__(self) -> str:
        if self._by_name is None:
            return shown(self, "not loaded yet")
        return shown(self, "of", counted(sum(map(len, self._by_name.values())), "symbol"))

    def _names(self) -> dict[str, list[Symbol]]:
        if self._by_name is None:
            names: dict[str, list[Symbol]] = {}
            for symbol in self.load():
                names.setdefault(symbol.name, []).append(symbol)
            self._by_name = names
        return self._by_name

    def _sorted(self) -> list[Symbol]:
        if self._by_address is None:
            every = [symbol for group in self._names().values() for symbol in group]
            # A symbol at the end of its section comes before one that begins there, which has more right to the name.
            self._by_address = sorted(
                every, key=lambda symbol: (symbol.address, symbol.address < symbol.limit, symbol.size, symbol.name)
            )
            self._addresses = [symbol.address for symbol in self._by_address]
        return self._by_address

    @cached_property
    def _ends(self) -> list[int]:
        """`Symbol.end` of the symbols in `ascending`, without a call for each."""
        return [
            address + size if address + size <= limit else max(address, limit)
            for _, address, size, _, _, limit, _ in self._sorted()
        ]

    @cached_property
    def _outer(self) -> list[int]:
        """`_outer_of` the symbols in `ascending`."""
        return _outer_of(self._addresses, self._ends)

    @cached_property
    def _reach(self) -> list[int]:
        """For each symbol in `ascending`, the furthest end of this symbol and of all before it."""
        return list(accumulate(self._ends, max))

    def ascending(self) -> Sequence[Symbol]:
        """All symbols by address."""
        return self._sorted()

    def named(self, name: str, owner: str = "") -> Sequence[Symbol]:
        """All symbols of this name; with an owner, those of this module, section or source file.

        Without an owner, only those of the module `first`, if it has any.
        """
        found = self._names().get(name, [])
        if owner:
            return [symbol for symbol in found if owner in (symbol.module, symbol.file)]
        if self.first and len(found) > 1:
            return [symbol for symbol in found if symbol.module == self.first] or found
        return found

    def find(self, name: str, owner: str = "") -> Symbol:
        """The one symbol of this name; with an owner, the one of this module, section or source file.

        SymbolError when there is none, or several at different addresses. The error lists the sites that tell these
        apart.
        """
        found = self.named(name, owner)
        if len(found) == 1:
            return found[0]
        where = f" in {owner}" if owner else ""
        if not found:
            raise _NoSymbolError(f"there is no symbol {name!r}{where}", lambda: self._hint(name, owner))
        addresses = sorted({symbol.address for symbol in found})
        if len(addresses) > 1:
            raise SymbolError(
                f"symbol {name!r}{where} stands for {len(addresses)} addresses {_choice(found, addresses)}"
            )
        return max(found, key=lambda symbol: symbol.size)

    def _hint(self, name: str, owner: str) -> str:
        """What to do about an unknown symbol. Names the nearest sites, for the first _MOST_HINTS symbols only."""
        if not self._names():
            return f": the target has no names, {GIVE_NAMES}"
        if (name, owner) not in self._hints and len(self._hints) < _MOST_HINTS:
            self._hints[name, owner] = "".join(self._nearest(name, owner))
        return self._hints.get((name, owner), "") + "; an address needs none"

    def _nearest(self, name: str, owner: str) -> Iterator[str]:
        """The nearest sites to an unknown symbol, as the next clause of a sentence; nothing when there are none."""
        from a64patch.targets.nearest import MOST, listed, nearest

        names: Iterable[str] = (*self._names(), *self._spaces)
        if owner:
            if name in self._names():
                found = self._names()[name]
                if len({symbol.address for symbol in found}) == 1:
                    sites = [site_text(name)]
                else:
                    known = ((symbol, next(_owners(symbol), "")) for symbol in found)
                    sites = [site_text(name, one) if one else f"{symbol.address:#x}" for symbol, one in known]
                sites = list(dict.fromkeys(sites))[:MOST]
                yield f"; {listed(sites)} {'has' if len(sites) == 1 else 'have'} this name"
                return
            owners = {each for symbol in self._sorted() for each in _owners(symbol)} | set(self._spaces)
            if owner not in owners:
                near = nearest(owner, owners)
                if near:
                    kinds = "module, section or file is" if len(near) == 1 else "modules, sections or files are"
                    yield f"; the nearest {kinds} {listed([quoted(each) for each in near])}"
                return
            names = {symbol.name for symbol in self._sorted() if owner in _owners(symbol)}
        near = [site_text(each, owner) for each in nearest(name, names)]
        if near:
            yield f"; the nearest {'is' if len(near) == 1 else 'are'} {listed(near)}"

    def __getitem__(self, name: str) -> int:
        """The address (bytes) of the one symbol of this name; SymbolError as `find`."""
        return self.find(name).address

    def resolve(self, site: str) -> int:
        """The address of a SITE: `symbol`, `symbol+0x18`, `owner:symbol+8`, `section:offset` or an address.

        The owner is a module, a section of a relocatable file, or the source file of a local symbol. `a:b` stands for
        each symbol b that one of these three called `a` has: it is refused when that is more than one address. Two
        source files of one name may have a symbol of one name: then only addresses tell them apart.

        a64/names.py has the grammar. A number without quotes is always an address, even if a symbol has this name.
        SymbolError names the missing or ambiguous part.
        """
        parts = parse_site(site)
        if parts is None and site in self._names():
            raise SymbolError(f"the name {site!r} is a site in double quotes only: write {quoted(site)}")
        if parts is None:
            raise SymbolError(
                f"{site[:80]!r} is not a site: write symbol, symbol+0x18, section:0x10 or an address, and"
                ' other names in double quotes: "operator new"'
            )
        name, owner, distance, is_number = parts
        if is_number and not owner:
            address = number_of(name) + distance
        elif is_number and owner in self._spaces:
            return self._count(owner, number_of(name) + distance, site)
        elif not owner and name in self._spaces and name not in self._names():
            return self._count(name, distance, site)
        else:
            address = self.find(name, owner).address + distance
        if address >= ADDRESS_SPACE:
            raise SymbolError(f"{site[:80]} lies beyond the last address")
        return address

    def _count(self, name: str, offset: int, site: str) -> int:
        spaces = self._spaces[name]
        if len(spaces) > 1:
            places = ", ".join(f"{space.start:#x}" for space in spaces[:8])
            raise SymbolError(
                f"section name {name!r} stands for {len(spaces)} sections (at {places}); name the address"
            )
        start, end = spaces[0].start, spaces[0].end
        if not start <= start + offset < end:
            raise SymbolError(f"{site} lies outside {name}, which has {end - start:#x} bytes")
        return start + offset

    @cached_property
    def _outer_space(self) -> list[int]:
        return _outer_of([space.start for space in self._ascending], [space.end for space in self._ascending])

    def _space_at(self, address: int) -> Space | None:
        place = bisect_right(self._ascending, address, key=lambda space: space.start) - 1
        while place >= 0 and address >= self._ascending[place].end:
            place = self._outer_space[place]
        return self._ascending[place] if place >= 0 else None

    def lookup(self, address: int) -> tuple[Symbol, int] | None:
        """The innermost symbol that holds the address, and the distance from its start (bytes); None without one.

        Of several symbols with one start it is the largest. A symbol of unknown size (0) reaches to the next symbol.
        No symbol reaches out of its section; at the end of its section it still names this one address.
        """
        every = self._sorted()
        place = bisect_right(self._addresses, address) - 1
        nearest = self._addresses[place] if place >= 0 else None
        while place >= 0:
            symbol = every[place]
            if address < symbol.end or address == symbol.address:
                return symbol, address - symbol.address
            if symbol.size == 0 and symbol.address == nearest and address < symbol.limit:  # as `end_of` says
                return symbol, address - symbol.address
            place = self._outer[place]
        return None

    def end_of(self, symbol: Symbol) -> int:
        """The address behind the last one that has the symbol's name.

        Of a symbol of unknown size it is the start of the next symbol or the end of the section, whichever comes first.
        """
        if symbol.size:
            return symbol.end
        self._sorted()
        following = bisect_right(self._addresses, symbol.address)
        return max(symbol.address, min([symbol.limit, *self._addresses[following : following + 1]]))

    def holds(self, site: str) -> bool:
        """Whether the symbol in a SITE reaches to the site's address; true for a site without a symbol.

        `_init+0x68` is an address, but if `_init` ends before, its name says nothing about the code there. SymbolError
        as `resolve`.
        """
        address = self.resolve(site)
        parts = parse_site(site)
        if parts is None or (parts.is_number and not parts.owner) or not self.named(parts.name):
            return True
        symbol = self.find(parts.name, parts.owner)
        return address == symbol.address or address < self.end_of(symbol)

    def extent(self, address: int) -> tuple[int, int] | None:
        """The range [start, end) of the function that holds the address; None when no symbol with a size holds it.

        When nested or overlapping symbols hold the address, the range covers all of them.
        """
        reach = self._reach
        before = bisect_right(self._addresses, address)
        if not before or reach[before - 1] <= address:
            return None
        # The first symbol whose reach lies beyond the address ends at that reach itself, so it holds the address.
        return self._addresses[bisect_right(reach, address)], reach[before - 1]

    def describe(self, address: int) -> str:
        """The address for people: `symbol+0x18`, else `section:0x10`, else the bare address.

        `resolve` always takes the text back to this address: a name with several addresses is not used. Nor is a name
        that is too long for a patch.
        """
        found = self.lookup(address)
        if found is not None:
            symbol, distance = found
            for owner in ("", *_owners(symbol)) if symbol.name else ():
                text = site_text(symbol.name, owner, distance)
                is_only_one = all(one.address == symbol.address for one in self.named(symbol.name, owner))
                if is_only_one and len(text) <= LONGEST_NAME:
                    return text
        space = self._space_at(address)
        if space is not None and len(self._spaces[space.name]) == 1:
            return f"{quoted(space.name)}:{address - space.start:#x}"
        return f"{address:#x}"


def _owners(symbol: Symbol) -> Iterator[str]:
    return filter(None, (symbol.module, symbol.file))


def _choice(symbols: Sequence[Symbol], addresses: Sequence[int]) -> str:
    """The ascending addresses of symbols with one name, with the sites that stand for them alone; what to do."""
    places: dict[str, set[int]] = {}
    for symbol in symbols:
        for owner in _owners(symbol):
            places.setdefault(owner, set()).add(symbol.address)
    sites: dict[int, str] = {}
    for symbol in symbols:
        for owner in _owners(symbol):
            if len(places[owner]) == 1:
                sites.setdefault(symbol.address, f" is {site_text(symbol.name, owner)}")
    listed = ", ".join(f"{address:#x}{sites.get(address, '')}" for address in addresses[:_MOST_LISTED])
    more = ", …" if len(addresses) > _MOST_LISTED else ""
    return f"({listed}{more}); name {'one of them' if sites else 'the address'}"


def _outer_of(starts: Sequence[int], ends: Sequence[int]) -> list[int]:
    """For each range, ascending by start, the last earlier range that starts with it or ends behind it; -1 for none.

    From the start of the later range on, the ranges between the two hold no address that the later range does not hold.
    So a search outwards may skip them.
    """
    outer: list[int] = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        before = number - 1
        while before >= 0 and starts[before] < start and ends[before] <= end:
            before = outer[before]
        outer.append(before)
    return outer

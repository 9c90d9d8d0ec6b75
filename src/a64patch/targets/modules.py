"""The known builds in a target: one value for each, given when the target is opened or later.

Read on: base.py derives a target's names, code and identity from them; symbols.py for the names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from a64patch.oneline import shown, some
from a64patch.ranges import Ranges
from a64patch.targets.symbols import Symbol, SymbolTable


class Claim(NamedTuple):
    """A use of some words of a build that their instructions do not show: a patch of them has a hazard."""

    hazard: str
    """A name in patch/hazards.py, NAMES."""
    words: Ranges
    sentence: str
    """What is done with the words, for people: it goes on after the site of a word."""
    of_build: bool = False
    """The claim is one about the build: one hazard says so, however many of the words change."""
    table: str = ""
    """The name of the table that lists the words; empty for a claim that is not from a table."""
    tell: Callable[[Sequence[int]], Mapping[int, str]] | None = None
    """Looks at the target: the sentence for each of these addresses that is claimed now. The others are not claimed."""

    def __repr__(self) -> str:
        return shown(self, f"{self.hazard} on {self.words}:", self.sentence)

    def on(self, addresses: Iterable[int]) -> Mapping[int, str]:
        """The sentence for each of these addresses that is claimed, in their order. May read the target."""
        hit = [address for address in addresses if address in self.words]
        if self.tell is None or not hit:
            return dict.fromkeys(hit, self.sentence)
        return self.tell(hit)


def data_claims(data: Ranges) -> list[Claim]:
    """The claims for words of code that are data, as mapping symbols say."""
    return [Claim("data", data, "is data between the code, which other code reads")] if data else []


@dataclass(frozen=True, eq=False)
class Module:
    """One build in a target: a program, a kernel, a loaded kernel module. Addresses are the target's (bytes)."""

    name: str
    """The name for people. In every module of a target but the first, a site is written `name:symbol`."""
    symbols: SymbolTable = field(default_factory=SymbolTable)
    build_id: str = ""
    """The descriptor of the NT_GNU_BUILD_ID note in lower-case hex; empty without one, or when it is not known."""
    release: str = ""
    """The build's name for people, such as `Linux 6.1.0-56-arm64`; empty without one."""
    base: int = 0
    """The distance in bytes from a symbol's address in its file to its address here: load base, KASLR slide."""
    code: Ranges | None = None
    """All code of the build; None when it is not known. The limit for writing is `Target.writable`."""
    file: str = ""
    """The path of the file that these facts come from; empty when they come from memory."""
    incarnation: str = ""
    """Which run of the build this is, as `Identity.incarnation`."""
    shares_code: bool = False
    """Code of other modules may branch to any place in this one: parts of a kernel, which makes code at run time."""
    owns_names: bool = False
    """All its symbols are within its own memory, where no other module has symbols, and name this module."""
    claims: Callable[[], Iterable[Claim]] = tuple
    """The claims on words of the build. `Modules.claims` asks once, at its first use."""

    def __repr__(self) -> str:
        build = f"build {self.build_id}," if self.build_id else ""
        code = "code unknown" if self.code is None else f"code {self.code}"
        release = f"{self.release}," if self.release else ""
        return shown(self, repr(self.name), build, release, f"base {self.base:#x},", code)


class Modules(tuple[Module, ...]):
    """The known builds in a target; the first names the target. The target may have more builds."""

    def __repr__(self) -> str:
        return shown(self, some((repr(module.name) for module in self), len(self)) or "empty")

    @property
    def main(self) -> Module:
        """The first module; without modules, an empty one."""
        return self[0] if self else Module("")

    @cached_property
    def symbols(self) -> SymbolTable:
        """The names of all modules. `Symbol.module` names the module of each; in the first module it may be empty.

        A name of the first module needs no owner.
        """
        if len(self) <= 1:
            return self.main.symbols
        return _Joined(self)

    def _symbols(self) -> Iterator[Symbol]:
        for number, module in enumerate(self):
            for symbol in module.symbols.load():
                yield symbol._replace(module=module.name) if number and not symbol.module else symbol

    @cached_property
    def code(self) -> Ranges:
        """The known code of all modules. A module without known code adds none."""
        return Ranges.of(span for module in self for span in module.code or ())

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """The claims on words of all modules."""
        return tuple(claim for module in self for claim in module.claims())

    def holding(self, address: int) -> Module | None:
        """The module whose known code holds this address; None without one."""
        return next((module for module in self if module.code and address in module.code), None)

    def code_with(self, address: int) -> Ranges:
        """The code of the module that holds this address; empty when no module's known code does.

        For a module with `shares_code` also that of all others: one may branch into the other.
        """
        found = self.holding(address)
        if found is None or found.code is None:
            return Ranges()
        return self.code if found.shares_code else found.code

    def beside_main(self, address: int) -> Module | None:
        """The module whose known code holds this address, unless it is the first one; None without one."""
        return next((module for module in self[1:] if module.code and address in module.code), None)

    def knowing(self, modules: Iterable[Module]) -> Modules:
        """These modules and then `modules`; a module takes the place of one with the same name."""
        found = {module.name: module for module in self}
        return Modules((found | {module.name: module for module in modules}).values())


class _Joined(SymbolTable):
    """The names of several modules. Where one module answers, the names of the others need not be loaded.

    That saves the most of the time of a patch in a process with many libraries.
    """

    def __init__(self, modules: Modules) -> None:
        spaces = [space for module in modules for space in module.symbols.spaces]
        super().__init__(modules._symbols, spaces, first=modules.main.name)
        self._modules = modules

    def named(self, name: str, owner: str = "") -> Sequence[Symbol]:
        found = () if owner else self._modules.main.symbols.named(name)
        if found and all(symbol.module == self.first for symbol in found):
            return found
        return super().named(name, owner)

    def lookup(self, address: int) -> tuple[Symbol, int] | None:
        table = self._table(address)
        return table.lookup(address) if table else super().lookup(address)

    def end_of(self, symbol: Symbol) -> int:
        table = self._table(symbol.address)
        return table.end_of(symbol) if table else super().end_of(symbol)

    def extent(self, address: int) -> tuple[int, int] | None:
        table = self._table(address)
        return table.extent(address) if table else super().extent(address)

    def _table(self, address: int) -> SymbolTable | None:
        """The names of the module with this code, if all that they say about it is in its own table."""
        module = self._modules.holding(address)
        return module.symbols if module and module.owns_names else None

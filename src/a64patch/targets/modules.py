"""What a target knows about the builds in it: a value for each, given as it is opened or told to it later.

Read on: base.py derives a target's names, code and identity from them; symbols.py for the names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from a64patch.ranges import Ranges
from a64patch.targets.symbols import Symbol, SymbolTable


@dataclass(frozen=True, eq=False)
class Module:
    """One build in a target: a program, a kernel, a loaded kernel module. Addresses are the target's (bytes)."""

    name: str
    """What people call it. In a target with several, `name:symbol` is a site in any but the first."""
    symbols: SymbolTable = field(default_factory=SymbolTable)
    build_id: str = ""
    """The descriptor of the NT_GNU_BUILD_ID note in lower-case hex; empty when it has none or that is not known."""
    release: str = ""
    """What people call this build, such as `Linux 6.1.0-56-arm64`; empty when it has no such name."""
    base: int = 0
    """Bytes that its symbols' addresses are moved by against the file they come from: load base, KASLR slide."""
    code: Ranges | None = None
    """All of its code; None when that is not known. It does not say what may be written: see `Target.writable`."""
    file: str = ""
    """The path of the file that says all this; empty when memory does."""
    incarnation: str = ""
    """Which run of it this is, as `Identity.incarnation`."""


class Modules(tuple[Module, ...]):
    """The builds that a target knows of, the one that it is named after first. There may be others in it."""

    @property
    def main(self) -> Module:
        """The first; one that knows nothing when there is none."""
        return self[0] if self else Module("")

    @cached_property
    def symbols(self) -> SymbolTable:
        """The names of all. Those of any module but the first belong to the module of its name."""
        if len(self) <= 1:
            return self.main.symbols
        return SymbolTable(self._symbols, [space for module in self for space in module.symbols.spaces])

    def _symbols(self) -> Iterator[Symbol]:
        for number, module in enumerate(self):
            for symbol in module.symbols.load():
                yield symbol._replace(module=module.name) if number and not symbol.module else symbol

    @cached_property
    def code(self) -> Ranges:
        """All code that is known: not all code there is, where a module does not know its own."""
        return Ranges.of(span for module in self for span in module.code or ())

    def code_with(self, address: int) -> Ranges:
        """The code of the module that holds this address; empty when no module's known code does."""
        return next((module.code for module in self if module.code and address in module.code), Ranges())

    def knowing(self, modules: Iterable[Module]) -> Modules:
        """These, with others behind them; one of the same name stands where the earlier one stood."""
        found = {module.name: module for module in self}
        return Modules((found | {module.name: module for module in modules}).values())

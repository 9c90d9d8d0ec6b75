"""The names that an object file leaves open, looked up in a target: symbols, stubs of imports, slots of imports.

Knows the target only.
Read on: link.py asks; ../targets/symbols.py has the names.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import NamedTuple

from a64patch.a64.names import parse_site, site_text
from a64patch.a64.row import PAGE_SIZE
from a64patch.errors import LinkError, SymbolError
from a64patch.targets.base import Target
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import ET_EXEC
from a64patch.targets.symbols import ADDRESS_SPACE, Symbol


class Found(NamedTuple):
    """An address of the target, as the text of a patch names it."""

    text: str
    address: int | None
    """None for a symbol whose address is known only when the target itself is linked or loaded."""

    def at(self, offset: int, *, page: bool = False) -> str:
        """The text for the address `offset` bytes further on; with `page`, as the operand of ADRP."""
        if self.text.startswith("0x"):
            address = (int(self.text, 16) + offset) % ADDRESS_SPACE
            return f"{address - address % PAGE_SIZE if page else address:#x}"
        return f"{self.text}{offset:+#x}" if offset else self.text


class TargetNames:
    """The names of a target, for a linker. `files` are the source files of the object."""

    def __init__(self, target: Target, files: Collection[str]) -> None:
        self._target, self._modules, self._symbols = target, target.modules, target.symbols
        self._files = files
        self._image = target.image if isinstance(target, ElfFile) else None

    @property
    def are_constants(self) -> bool:
        """The addresses of the target's symbols are the same in every process (ET_EXEC)."""
        return self._image is not None and self._image.type == ET_EXEC

    def function(self, site: str) -> Symbol:
        """The symbol of a function to be replaced. SymbolError when there is none, or more than one."""
        parts = parse_site(site)
        if parts is None or parts.offset or parts.is_number:
            raise SymbolError(
                f"{site[:80]!r} is not the name of a function: write symbol, file.c:symbol or module:symbol"
            )
        if parts.owner:
            return self._symbols.find(parts.name, parts.owner)
        return self._chosen(parts.name) or self._symbols.find(parts.name)

    def has(self, name: str) -> bool:
        """Whether the target has a symbol of this name."""
        return bool(self._symbols.named(name))

    def find(self, name: str) -> Found | None:
        """The address that an undefined symbol of the object means; None when the target has none.

        1. The target's own symbol. Of several, the one of the object's source file, else the only global one.
        2. The stub by which the target calls the function of another file, `name@plt`. It comes first for a function
           that only chooses another one (STT_GNU_IFUNC), and in a process for a function of another file.
        3. In a relocatable file, the name alone, if the file has it: of another file, or in a section like .bss.

        LinkError when several symbols are left.
        """
        own = self._chosen(name)
        stub = self._chosen(f"{name}@plt")
        if own is not None and stub is not None and own.module and not stub.module:
            own = None
        if own is not None and self._only_chooses(own.address):
            own = None
            if stub is None:
                raise LinkError(
                    f"{name} of the target only chooses another function (IFUNC), and no stub calls that one: call that"
                    " one by its own name"
                )
        symbol = own or stub
        if symbol is not None:
            return Found(self.text(symbol), symbol.address)
        if self._symbols.named(name):
            try:
                self._symbols.find(name)
            except SymbolError as error:
                raise LinkError(f"{error}: rename it in the object (objcopy --redefine-sym)") from None
        return Found(site_text(name), None) if name in (self._target.unplaced or ()) else None

    def slot(self, name: str) -> Found | None:
        """The word that a loader fills with the address of this symbol of another file; None when there is none."""
        address = self._slots.get(name)
        return None if address is None else Found(f"{address:#x}", address)

    def text(self, symbol: Symbol) -> str:
        """The site that stands for this symbol alone; its address when there is none."""
        for owner in ("", symbol.module, symbol.file):
            text = site_text(symbol.name, owner)
            try:
                if self._symbols.resolve(text) == symbol.address:
                    return text
            except SymbolError:
                continue
        return f"{symbol.address:#x}"

    def _chosen(self, name: str) -> Symbol | None:
        """The symbol that a reference from the object means; None when none or several are left."""
        every = self._symbols.named(name)
        of_file = [symbol for symbol in every if symbol.file and symbol.file in self._files]
        return _only(every) or _only(of_file) or _only([symbol for symbol in every if not symbol.file])

    def _only_chooses(self, address: int) -> bool:
        if self._image is not None and address in self._image.resolvers:
            return True
        return any(claim.hazard == "resolver" and claim.on([address]) for claim in self._modules.claims)

    @cached_property
    def _slots(self) -> dict[str, int]:
        return self._image.imported_slots() if self._image is not None else {}


def _only(symbols: Sequence[Symbol]) -> Symbol | None:
    """The symbol, when all have one address: the largest."""
    if len({symbol.address for symbol in symbols}) != 1:
        return None
    return max(symbols, key=lambda symbol: symbol.size)

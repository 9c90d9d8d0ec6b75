"""One build in a running process, at the addresses of its file: so that it can be compared with a file.

Read on: compare.py, which compares two builds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from a64patch.errors import CapabilityError
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.modules import Module, Modules
from a64patch.targets.symbols import SymbolTable


class BuildInMemory(Target):
    """The module of `target` that has the build id of the file `old`; without one, its first module.

    Its addresses are those of the file. Its symbols have no owner, as in a file. Of the build of `old`, names, code
    and relocations are those of `old`, and only the bytes come from memory. This reads, and never writes.
    """

    def __init__(self, target: Target, old: Target) -> None:
        wanted = old.identity().build_id
        same = (module for module in target.modules if wanted and module.build_id == wanted)
        module = next(same, None)
        self.is_of_old = module is not None
        """The build is that of `old`: each word means what it would mean there."""
        self.capabilities = target.capabilities
        self._target, self._old = target, old
        self._base = (module or target.modules.main).base
        self._modules = old.modules if self.is_of_old else Modules([_as_in_file(target.modules.main)])

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of memory; `address` is one of the file. Errors as of `target`."""
        return self._target.read(address + self._base, size)

    def write(self, address: int, data: bytes) -> None:
        """CapabilityError."""
        raise _only_read()

    def publish(self, start: int, end: int) -> None:
        """CapabilityError."""
        raise _only_read()

    def kick(self) -> None:
        """CapabilityError."""
        raise _only_read()

    def stop(self) -> NoReturn:
        """CapabilityError."""
        raise _only_read()

    def close(self) -> None:
        """Nothing: `target` belongs to the caller."""

    def relocation_at(self, address: int) -> str | None:
        """That of `old`: memory tells none."""
        return self._old.relocation_at(address) if self.is_of_old else None


def _only_read() -> CapabilityError:
    return CapabilityError("a build in memory is only compared: patch its process")


def _as_in_file(module: Module) -> Module:
    base, code = module.base, module.code
    symbols = [
        symbol.moved(-base)._replace(module="") for symbol in module.symbols.ascending() if symbol.address >= base
    ]
    return replace(
        module,
        symbols=SymbolTable(lambda: symbols),
        code=None if code is None else Ranges.of((start - base, end - base) for start, end in code),
        base=0,
        claims=tuple,
    )

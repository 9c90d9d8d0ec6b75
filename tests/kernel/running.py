"""A running kernel made of bytes: an ELF file of the test as it lies in memory, whose words and data a test changes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from a64patch.errors import MappingError
from a64patch.ranges import Ranges
from a64patch.targets.base import Capabilities, CpuState, Rendezvous, Target
from a64patch.targets.elf import ElfFile
from a64patch.targets.modules import Module
from a64patch.targets.symbols import SymbolTable


class Parked:
    """StoppedCpus of this target: one CPU that stands nowhere in the kernel."""

    def __init__(self) -> None:
        self.rendezvous = Rendezvous([0])
        self.rendezvous.arrive(0)

    def states(self) -> list[CpuState]:
        return [CpuState(0, 0x1000)]


class RunningKernel(Target):
    """The loaded bytes of an ELF file, and .bss behind them; code and data may be written."""

    def __init__(self, path: Path, hidden: Iterable[str] = (), code: Ranges | None = None) -> None:
        self.capabilities = Capabilities("running kernel of a test", 1, True, True, True, True, writes_data=True)
        with ElfFile(path) as file:
            self.base = min(segment.address for segment in file.image.loads)
            end = max(segment.address + segment.memory_size for segment in file.image.loads)
            self.memory = bytearray(end - self.base)
            for segment in file.image.loads:
                at = segment.address - self.base
                self.memory[at : at + segment.file_size] = file.read(segment.address, segment.file_size)
            names = [symbol for symbol in file.symbols.ascending() if symbol.name not in {*hidden}]
            self._module = Module("kernel", SymbolTable(lambda: names), "12" * 20, code=code or file.modules.main.code)
        self.unmapped = Ranges()

    def own_modules(self) -> list[Module]:
        return [self._module]

    @property
    def location(self) -> str:
        return "test:running"

    def _place(self, address: int, size: int) -> slice:
        at = address - self.base
        if not 0 <= at <= len(self.memory) - size or Ranges(((address, address + size),)) & self.unmapped:
            raise MappingError(f"{address:#x} is not mapped")
        return slice(at, at + size)

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.memory[self._place(address, size)])

    def write(self, address: int, data: bytes) -> None:
        self.memory[self._place(address, len(data))] = data

    def write_data(self, address: int, data: bytes) -> None:
        self.write(address, data)

    def publish(self, start: int, end: int) -> None:
        pass

    def kick(self) -> None:
        pass

    @contextmanager
    def stop(self) -> Iterator[Parked]:
        yield Parked()

    def close(self) -> None:
        pass

    def put(self, name: str, data: bytes, offset: int = 0) -> None:
        """Write data behind a symbol."""
        self.write(self.symbols[name] + offset, data)

    def put_numbers(self, name: str, layout: str, *numbers: int, offset: int = 0) -> None:
        self.put(name, struct.pack(f"<{layout}", *numbers), offset)

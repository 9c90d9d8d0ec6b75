"""A target of plain bytes that fails wherever a test wants it to, and remembers what was asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from a64patch.a64.words import from_bytes, to_bytes
from a64patch.errors import MappingError, ReadError, WriteError
from a64patch.ranges import Ranges
from a64patch.targets.base import Capabilities, CpuState, Identity, Rendezvous, Target
from a64patch.targets.modules import Module
from a64patch.targets.symbols import Symbol, SymbolTable

BASE = 0x1000
DATA = 0x8000


class Parked:
    """StoppedCpus of this target."""

    def __init__(self, rendezvous: Rendezvous, states: Sequence[CpuState]) -> None:
        self.rendezvous = rendezvous
        self._states = states

    def states(self) -> Sequence[CpuState]:
        return self._states


class FakeTarget(Target):
    """`fail` names operations with the number of the call that fails: `{"write": 3}` is the third write."""

    def __init__(self, words: Sequence[int], *, cpus: int = 2, **capabilities: bool) -> None:
        default = {"can_stop": True, "can_kick": True, "sees_pcs": True, "broadcast": True, "writes_data": True}
        self.capabilities = Capabilities("fake", cpus, noun="CPU", **{**default, **capabilities})
        self.memory = bytearray(to_bytes(words))
        self.data_memory = bytearray()
        """Its bytes from DATA on."""
        self.name(Symbol("site", BASE, 4 * len(words)))
        self.calls: list[str] = []
        self.fail: dict[str, int] = {}
        self.fail_for_good = False
        """From the first failure on everything fails."""
        self.tear = False
        """A write that fails has been done all the same."""
        self.silent = False
        """A write that fails raises nothing and does nothing."""
        self.states: list[list[CpuState]] = []
        """What each stop sees, the last one again and again."""
        self.absent = 0
        """How many CPUs do not come to the rendezvous."""
        self.stopped = False
        self.broken = False

    def _count(self, name: str) -> bool:
        self.calls.append(name)
        failing = self.calls.count(name) == self.fail.get(name, 0)
        self.broken = self.broken or (failing and self.fail_for_good)
        return failing or self.broken

    @staticmethod
    def _place(memory: bytearray, base: int, address: int, size: int) -> slice:
        if not base <= address <= base + len(memory) - size:
            raise MappingError(f"{address:#x} is not mapped")
        return slice(address - base, address - base + size)

    def read(self, address: int, size: int) -> bytes:
        memory, base = (self.data_memory, DATA) if self.data_memory and address >= DATA else (self.memory, BASE)
        place = self._place(memory, base, address, size)
        if self._count("read"):
            raise ReadError("read failed")
        return bytes(memory[place])

    def write(self, address: int, data: bytes) -> None:
        self._write("write", self.memory, self._place(self.memory, BASE, address, len(data)), data)

    def write_data(self, address: int, data: bytes) -> None:
        self._write("write_data", self.data_memory, self._place(self.data_memory, DATA, address, len(data)), data)

    def _write(self, name: str, memory: bytearray, place: slice, data: bytes) -> None:
        failing = self._count(name)
        if not failing or self.tear:
            memory[place] = data
        if failing and not self.silent:
            raise WriteError(f"{name} failed")

    def publish(self, start: int, end: int) -> None:
        if self._count("publish"):
            raise WriteError("publish failed")

    def kick(self) -> None:
        if self._count("kick"):
            raise WriteError("kick failed")

    @contextmanager
    def stop(self) -> Iterator[Parked]:
        if self._count("stop"):
            raise WriteError("stop failed")
        assert not self.stopped, "stop may not be nested"
        self.stopped = True
        rendezvous = Rendezvous(range(self.capabilities.cpus))
        for cpu in range(self.capabilities.cpus - self.absent):
            rendezvous.arrive(cpu)
        number = min(self.calls.count("stop"), len(self.states)) - 1
        try:
            yield Parked(rendezvous, self.states[number] if self.states else [])
        finally:
            self.stopped = False
            self.calls.append("resume")
            if self.calls.count("resume") == self.fail.get("resume", 0):
                raise WriteError("resume failed")

    def identity(self) -> Identity:
        return Identity("fake", incarnation="start=1")

    def name(self, *symbols: Symbol) -> None:
        """Give it these names, and no others."""
        self.knowing(Module("fake", SymbolTable(lambda: symbols), code=Ranges(((BASE, BASE + len(self.memory)),))))

    def close(self) -> None:
        pass

    @property
    def words(self) -> list[int]:
        return from_bytes(bytes(self.memory))

    @property
    def data(self) -> list[int]:
        return from_bytes(bytes(self.data_memory))

"""What a target is: a place where A64 code lives, and what can be asked of the CPUs that execute it.

Read on: ../patch/text.py uses this protocol; simulator.py and elf.py implement it; modules.py for what it knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from a64patch import protocols
from a64patch.errors import CapabilityError
from a64patch.protocols import Doer, Machine, Step
from a64patch.ranges import Ranges
from a64patch.targets.modules import Module, Modules
from a64patch.targets.symbols import SymbolTable

if TYPE_CHECKING:
    from a64patch.targets.section import Outcome, Section


@dataclass(frozen=True)
class Capabilities:
    """What a target can do; a patch is refused by it before anything is touched, not failed half way."""

    kind: str
    """For people: `ELF file`, `simulator`."""
    cpus: int
    """How many CPUs may be executing the text; 0 when nothing does, as in a file."""
    can_stop: bool
    """`stop()` parks every CPU. True where there is no CPU to park."""
    can_kick: bool
    """`kick()` gives every CPU a context synchronisation event."""
    sees_pcs: bool
    """`StoppedCpus.states()` knows where each CPU stands."""
    broadcast: bool
    """Cache maintenance by one CPU reaches all. Where it does not, each CPU does its own as it leaves `stop()`."""


@dataclass(frozen=True)
class Build:
    """One module of a target, as far as it says which build it is."""

    name: str
    build_id: str = ""
    base: int = 0
    """As `modules.Module.base`, bytes."""


@dataclass(frozen=True)
class Identity:
    """Which target this is, so that a later run finds it again and knows whether it is still the same one."""

    location: str
    """What `open_target` takes to open it again from any working directory."""
    build_id: str = ""
    """The descriptor of the NT_GNU_BUILD_ID note in lower-case hex; empty when the target has none or does not tell."""
    release: str = ""
    """What a person calls this build, such as `Linux 6.1.0-56-arm64`; empty when the target does not tell."""
    base: int = 0
    """Bytes that symbols' addresses are moved by against the file they come from: load base, KASLR slide."""
    incarnation: str = ""
    """Which run of it: parts `NAME=VALUE` with spaces between, each another after a boot or a start; empty: not told.

    What was written in one run is gone in another. Files have none, since what is written to them stays.
    """
    modules: tuple[Build, ...] = field(default=(), compare=False)
    """Every build in it that is known, the one above first. Not compared: how many are known says nothing."""

    @property
    def place(self) -> str:
        """The location without what stands behind `?`, which says how to open a target and not which one it is."""
        return self.location if self.location.startswith("/") else self.location.partition("?")[0]

    def runs_on_from(self, earlier: Identity) -> bool:
        """Nothing says that this is another run than the earlier one: no part of the incarnation that both tell."""
        then = dict(part.split("=", 1) for part in earlier.incarnation.split() if "=" in part)
        now = dict(part.split("=", 1) for part in self.incarnation.split() if "=" in part)
        return all(now[name] == then[name] for name in now.keys() & then.keys())


@dataclass(frozen=True)
class Aftermath:
    """Bytes that a target changes besides the words it was given: a relocation that must not overwrite a new word."""

    offset: int
    """Where, in bytes, as the target counts: a file offset."""
    old: bytes
    new: bytes
    """As many as `old`."""


@dataclass(frozen=True)
class CpuState:
    """Where a parked CPU goes on: the address of its next instruction and those it will return to."""

    cpu: int
    pc: int
    return_addresses: tuple[int, ...] = ()
    """Addresses that the CPU is known to return to later: the link register, saved frames. May hold dead ones."""


class Rendezvous:
    """The agreement of all CPUs to wait while exactly one of them writes, as two separate events.

    *arrived* counts the CPUs that have come; the last one is the writer. *done* is set by the writer; the others
    leave after it. One counter for both was wrong twice in Linux: it lost the signal to a late increment
    (899d5933b2dd) and let the first CPU write before the others had come (31a099dbd91e).
    """

    def __init__(self, cpus: Iterable[int]) -> None:
        self._expected = frozenset(cpus)
        self._arrived: list[int] = []
        self._done = False

    def arrive(self, cpu: int) -> bool:
        """CPU number `cpu` has come; True when it is the last one and so the writer. ValueError if it may not come."""
        if cpu not in self._expected or cpu in self._arrived or self._done:
            raise ValueError(f"CPU {cpu} may not arrive at this rendezvous now")
        self._arrived.append(cpu)
        return self.everyone_arrived

    @property
    def arrived(self) -> tuple[int, ...]:
        """The CPUs that have come, in their order."""
        return tuple(self._arrived)

    @property
    def everyone_arrived(self) -> bool:
        """Nobody executes the program any more: the writer may start."""
        return len(self._arrived) == len(self._expected)

    @property
    def done(self) -> bool:
        """The writer has finished: the CPUs may leave, each after it has synchronised its context."""
        return self._done

    def finish(self) -> None:
        """The writer says that it is done. RuntimeError while a CPU is still missing."""
        if not self.everyone_arrived:
            raise RuntimeError("the writer may not finish before every CPU has arrived")
        self._done = True


class StoppedCpus(Protocol):
    """All CPUs of a target, parked. Valid inside the block of `Target.stop()` only."""

    rendezvous: Rendezvous

    def states(self) -> Sequence[CpuState]:
        """Where each parked CPU stands; empty when the target has no CPUs or `sees_pcs` is false."""


class Target(Protocol):
    """A place where A64 code lives. Addresses and sizes are bytes.

    `modules` holds what it knows about each build in it; names, code and identity follow from that.

    Reading and writing raise MappingError for what is not mapped, ReadError or WriteError when the target fails.
    A context manager: leaving the block closes it.
    """

    capabilities: Capabilities
    _modules: Modules | None = None
    _may_write: Ranges | None = None

    @property
    def modules(self) -> Modules:
        """What it knows about each build in it: `own_modules` at first, and what `knowing` was told."""
        if self._modules is None:
            self._modules = Modules(self.own_modules())
        return self._modules

    def own_modules(self) -> Iterable[Module]:
        """The builds that it knows of by itself, asked for once, when somebody first wants to know."""
        return ()

    @property
    def location(self) -> str:
        """What `open_target` takes to open it again from any working directory; empty when nothing does."""
        return ""

    @property
    def symbols(self) -> SymbolTable:
        """The names in all of its modules."""
        return self.modules.symbols

    def knowing(self, *modules: Module, may_write: Ranges | None = None) -> None:
        """Tell it about builds in it; one of the same name takes the place of what it knew. Reads and writes nothing.

        `may_write` is where words may be written at most from now on; None leaves that as it was.
        """
        self._modules = self.modules.knowing(modules)
        self._may_write = self._may_write if may_write is None else may_write

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes as a data read sees them: not necessarily what a CPU executes."""

    def write(self, address: int, data: bytes) -> None:
        """Put bytes on the data side only. No CPU, and no reader of a file, is promised to see them before `publish`.

        Only what the target maps as code may be written.
        """

    def publish(self, start: int, end: int) -> None:
        """Make [start, end) visible to instruction fetch: clean to the point of unification, invalidate, wait.

        CPUs may still execute what they fetched before, until their next context synchronisation event
        (Arm ARM, B2.2.5). Linux: caches_clean_inval_pou().
        """

    def kick(self) -> None:
        """A context synchronisation event on every CPU, completed when this returns. Linux: kick_all_cpus_sync()."""

    def stop(self) -> AbstractContextManager[StoppedCpus]:
        """All CPUs parked until the block ends; as it leaves, each synchronises its context. Linux: stop_machine().

        BusyError when a CPU does not come. On a target without broadcast each CPU also invalidates its own
        instruction cache as it leaves.
        """

    def identity(self) -> Identity:
        """Which target this is, by its first module."""
        main = self.modules.main
        builds = tuple(Build(module.name, module.build_id, module.base) for module in self.modules)
        return Identity(self.location, main.build_id, main.release, main.base, main.incarnation, builds)

    def code_ranges(self) -> Sequence[tuple[int, int]]:
        """The ranges [start, end) that are known to be code, ascending. Behind a stub there may be more code."""
        return list(self.modules.code)

    def code_with(self, address: int) -> Sequence[tuple[int, int]]:
        """The code of the build (kernel, program, library) that holds the address; nothing where that is not known.

        A branch into the middle of a function comes from its own build: linkers make branches to others' symbols only.
        """
        return list(self.modules.code_with(address))

    def writable(self) -> Ranges | None:
        """Where words may be written at most: what `knowing` was told, or else its code. None: nobody knows a limit."""
        return (self.modules.code or None) if self._may_write is None else self._may_write

    def facts(self) -> dict[str, str]:
        """What else people may want to know about this target, by name, beyond `capabilities` and `identity()`."""
        return {}

    def close(self) -> None:
        """Give everything back. What was written but never published may be lost."""

    def machine(self) -> Machine:
        """What is known of the caches of the CPUs that execute the text: it decides which steps are needed.

        Nothing is known of a target that does not tell: then all steps are needed.
        """
        return protocols.USUAL if self.capabilities.broadcast else frozenset()

    def doer(self, step: Step) -> Doer:
        """Who answers for a step of a protocol when this target carries it out. Here: each is done by us.

        Where it is done by the target, that is something which has the same effect: an emulator that translates code
        anew, a kernel that publishes what ptrace writes.
        """
        return Doer.US

    def relocation_at(self, address: int) -> str | None:
        """The relocation that will overwrite the word at this address, for people; None when nothing will."""
        return None

    def aftermath(self, changes: Sequence[tuple[int, int]]) -> Sequence[Aftermath]:
        """What writing these (address, word) will change besides, once it is published. Nothing, for most."""
        return ()

    def undo_aftermath(self, aftermath: Sequence[Aftermath]) -> None:
        """Let the next `publish` put these old bytes back too. MismatchError, and nothing done, where others stand."""
        if aftermath:
            raise CapabilityError(f"this {self.capabilities.kind} has no bytes besides its code that could be put back")

    def read_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes]:
        """`read` of each (address, size), in order; a target with round trips does better than one by one."""
        return [self.read(address, size) for address, size in requests]

    def write_many(self, requests: Sequence[tuple[int, bytes]]) -> None:
        """`write` of each (address, bytes), in order, stopping at the first that fails."""
        for address, data in requests:
            self.write(address, data)

    def carry_out(self, section: Section) -> Outcome:
        """A section, whole, by its protocol. A target that does it in one go does so here. Errors: see section.py."""
        from a64patch.targets.section import carry_out

        return carry_out(self, section)

    def publish_many(self, ranges: Sequence[tuple[int, int]]) -> None:
        """`publish` of each [start, end)."""
        for start, end in ranges:
            self.publish(start, end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as second:
            if error is None:
                raise
            error.add_note(str(second))

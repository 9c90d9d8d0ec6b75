"""What a target is: a place where A64 code lives, and the requests to the CPUs that execute the code.

Read on: ../patch/text.py uses this protocol; simulator.py and elf.py implement it; modules.py describes the builds
in a target.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from a64patch import protocols
from a64patch.errors import CapabilityError
from a64patch.oneline import counted, shown, some
from a64patch.protocols import Doer, Machine, Step
from a64patch.ranges import Ranges
from a64patch.targets.modules import Module, Modules
from a64patch.targets.symbols import SymbolTable

if TYPE_CHECKING:
    from a64patch.targets.section import Found, Outcome, Section


class Capabilities(NamedTuple):
    """What a target can do. A patch that needs more is refused before anything is touched."""

    kind: str
    """For people: `ELF file`, `simulator`."""
    cpus: int
    """How many CPUs may be executing the text; 0 for a file, which no CPU executes."""
    can_stop: bool
    """`stop()` parks every CPU. True for a target without CPUs."""
    can_kick: bool
    """`kick()` gives every CPU a context synchronisation event."""
    sees_pcs: bool
    """`StoppedCpus.states()` knows the PC of each CPU."""
    broadcast: bool
    """Cache maintenance by one CPU reaches all. When this is false, each CPU does its own as it leaves `stop()`."""
    writes_data: bool = False
    """`write_data` writes memory that is not code."""
    noun: str = "CPU"
    """What people call one that executes the text: a process has threads."""


@dataclass(frozen=True)
class Build:
    """The name and build of one module of a target, as far as the module tells them."""

    name: str
    build_id: str = ""
    base: int = 0
    """Bytes; the same as `modules.Module.base`."""

    def __repr__(self) -> str:
        build = f"build {self.build_id}," if self.build_id else ""
        return shown(self, repr(self.name), build, f"base {self.base:#x}")


@dataclass(frozen=True)
class Identity:
    """Which target this is. A later run finds the target by it, and sees whether the target is still the same."""

    location: str
    """The text with which `open_target` opens the target again from any working directory."""
    build_id: str = ""
    """The descriptor of the NT_GNU_BUILD_ID note in lower-case hex; empty when the target has none or does not tell."""
    release: str = ""
    """The build's name for people, such as `Linux 6.1.0-56-arm64`; empty when the target does not tell."""
    base: int = 0
    """The distance in bytes from a symbol's address in its file to its address here: load base, KASLR slide."""
    incarnation: str = ""
    """Which run of the target this is: parts `NAME=VALUE` with spaces between; empty when the target does not tell.

    Each part changes with a boot or a start, and words written in one run are gone in the next. Files have no
    incarnation, since words written to a file stay.
    """
    modules: tuple[Build, ...] = field(default=(), compare=False)
    """Every known build in the target, the one above first. Not compared: one run may know more builds than another."""

    def __repr__(self) -> str:
        build = f"build {self.build_id}," if self.build_id else ""
        release = f"{self.release}," if self.release else ""
        return shown(self, repr(self.location), build, release, f"base {self.base:#x}", self.incarnation)

    @property
    def place(self) -> str:
        """The location up to `?`: the settings behind it say how to open the target, not which target it is."""
        return self.location if self.location.startswith("/") else self.location.partition("?")[0]

    def runs_on_from(self, earlier: Identity) -> bool:
        """Whether this may be the same run as the earlier one: each incarnation part that both tell is equal."""
        then, now = _parts(earlier.incarnation), _parts(self.incarnation)
        return all(now[name] == then[name] for name in now.keys() & then.keys())

    def outlives(self, earlier: Identity) -> bool:
        """Whether the earlier run is surely over: `boot` tells that it was of this machine and of this boot.

        A kernel without `boot` may be another machine at the same location now, so nothing is sure.
        """
        then, now = _parts(earlier.incarnation), _parts(self.incarnation)
        return (
            self.place == earlier.place and then.get("boot", "") == now.get("boot") and not self.runs_on_from(earlier)
        )


def _parts(incarnation: str) -> dict[str, str]:
    """The parts `NAME=VALUE` of an incarnation."""
    return dict(part.split("=", 1) for part in incarnation.split() if "=" in part)


class Aftermath(NamedTuple):
    """Bytes that a target changes besides the given words: a relocation entry that would overwrite a new word."""

    offset: int
    """Where these bytes are, in the target's own count of bytes: a file offset."""
    old: bytes
    new: bytes
    """As many bytes as `old`."""

    def __repr__(self) -> str:
        return shown(self, f"at {self.offset:#x}: {self.old[:16].hex()} -> {self.new[:16].hex()},",
                     counted(len(self.new), "byte"))  # fmt: skip


class Room(NamedTuple):
    """Space for new code in a target, which nothing else uses: an annex is written there."""

    address: int
    size: int
    """Bytes, a multiple of 4."""
    how: str = ""
    """For people: where the space comes from, such as `a new segment`."""

    def __repr__(self) -> str:
        return shown(self, f"{self.size} bytes at {self.address:#x}", self.how)

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.address + self.size


class NewReference(NamedTuple):
    """A word of new code that refers to a place, for a target that is linked or loaded later: see `Target.refer`."""

    address: int
    """Of the word."""
    goal: int | str
    """An address of the target, or one of `Target.unplaced`."""
    addend: int = 0
    """Bytes to add to the goal."""

    def __repr__(self) -> str:
        goal = self.goal if isinstance(self.goal, str) else f"{self.goal:#x}"
        return shown(self, f"from {self.address:#x} to {goal}{self.addend:+#x}")


BRANCH_REACH = 1 << 27
"""Bytes that B and BL reach backwards; forwards it is one instruction less (Arm ARM, C6.2: B)."""


def within_reach(start: int, end: int, near: tuple[int, int]) -> bool:
    """Whether B and BL reach from each word of [start, end) to each address from near[0] to near[1], and back."""
    return max(near[1], end) - min(near[0], start) < BRANCH_REACH


class CpuState(NamedTuple):
    """Where a parked CPU goes on: the address of its next instruction, and its return addresses."""

    cpu: int
    pc: int
    return_addresses: tuple[int, ...] = ()
    """Return addresses from the link register and saved frames. The CPU need not return to every one of them."""

    def __repr__(self) -> str:
        returns = some((f"{address:#x}" for address in self.return_addresses), len(self.return_addresses))
        return shown(self, f"CPU {self.cpu} at {self.pc:#x}", f"will return to {returns}" if returns else "")


class Rendezvous:
    """The agreement of all CPUs to wait while exactly one of them writes, as two separate events.

    *arrived* counts the CPUs that have come; the last one is the writer. The writer sets *done*; then the others
    leave. Linux used one counter for both events and was wrong twice: a late increment hid the signal
    (899d5933b2dd), and the first CPU wrote before the others had come (31a099dbd91e).
    """

    def __init__(self, cpus: Iterable[int]) -> None:
        self._expected = frozenset(cpus)
        self._arrived: dict[int, None] = {}
        self._done = False

    def arrive(self, cpu: int) -> bool:
        """CPU number `cpu` has come; True when it is the last CPU, and so the writer.

        ValueError for a CPU that is not expected, has already come, or comes after `finish`.
        """
        if cpu not in self._expected or cpu in self._arrived or self._done:
            raise ValueError(f"CPU {cpu} may not arrive at this rendezvous now")
        self._arrived[cpu] = None
        return self.everyone_arrived

    @property
    def arrived(self) -> tuple[int, ...]:
        """The CPUs that have come, in their order."""
        return tuple(self._arrived)

    @property
    def everyone_arrived(self) -> bool:
        """No CPU executes the program any more: the writer may start."""
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
    """All CPUs of a target, parked. Valid only inside the block of `Target.stop()`."""

    rendezvous: Rendezvous

    def states(self) -> Sequence[CpuState]:
        """The state of each parked CPU; empty when the target has no CPUs or `sees_pcs` is false."""


class Others(Protocol):
    """All who may go on in the code of a target although no CPU executes them now, such as the tasks of a kernel."""

    note: str
    """A sentence for people about a plan that keeps them out."""

    def unseen(self) -> str:
        """Why they cannot be seen, as a sentence for people; empty when they can. May read the target."""

    def prepare(self, keep_out: Ranges) -> None:
        """Do all that can be done before the CPUs stop. Called while they run, once before each stop.

        FormatError when the target holds no sound description of them; the target's own errors.
        """

    def look(self, keep_out: Ranges, cpus: Sequence[CpuState]) -> Iterable[Found]:
        """All of them who stand in `keep_out` or may return there. Called inside a stop, after `prepare`.

        `cpus` are the states of the parked CPUs. Whoever a CPU executes is seen there, and left out here. Errors as
        `prepare`.
        """


class Target(Protocol):
    """A place where A64 code lives. Addresses and sizes are bytes.

    `modules` describes each known build in the target; names, code and identity follow from `modules`.

    Reading and writing raise MappingError for an unmapped address, ReadError or WriteError when the target fails.
    A target is a context manager: leaving the block closes the target.
    """

    capabilities: Capabilities
    _modules: Modules | None = None
    _may_write: Ranges | None = None
    _told: Mapping[str, str | Callable[[], str]] = {}
    _others: Others | None = None

    def __repr__(self) -> str:
        cpus = (
            counted(self.capabilities.cpus, self.capabilities.noun) if self.capabilities.cpus else "no CPU executes it"
        )
        return shown(self, self.location, f"({self.capabilities.kind}, {cpus})")

    @property
    def modules(self) -> Modules:
        """The known builds in the target: `own_modules` at first, then also those given to `knowing`."""
        if self._modules is None:
            self._modules = Modules(self.own_modules())
        return self._modules

    def own_modules(self) -> Iterable[Module]:
        """The builds that the target finds by itself. `modules` asks once, at its first use."""
        return ()

    @property
    def location(self) -> str:
        """The text with which `open_target` opens the target again from any working directory; empty without one."""
        return ""

    @property
    def symbols(self) -> SymbolTable:
        """The names in all modules of the target."""
        return self.modules.symbols

    @property
    def others(self) -> Others | None:
        """All who may go on in the target's code besides its CPUs, as given to `knowing`; None when nobody is known."""
        return self._others

    def knowing(
        self,
        *modules: Module,
        may_write: Ranges | None = None,
        others: Others | None = None,
        facts: Mapping[str, str | Callable[[], str]] | None = None,
    ) -> None:
        """Add modules to `modules`; a module replaces a known one of the same name. Reads and writes nothing.

        From now on words may be written inside `may_write` only, and `others` keep out of each site that changes. None
        leaves either as it was. `facts` are added to those of `facts()`, which asks for each that is a function; an
        empty text is no fact.
        """
        self._modules = self.modules.knowing(modules)
        self._told = {**self._told, **(facts or {})}
        self._may_write = self._may_write if may_write is None else may_write
        self._others = self._others if others is None else others

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes as a data read sees them. A CPU may be executing other words."""

    def write(self, address: int, data: bytes) -> None:
        """Put bytes on the data side only. No CPU, and no reader of a file, is promised to see them before `publish`.

        Only addresses that the target maps as code may be written.
        """

    def write_data(self, address: int, data: bytes) -> None:
        """Put bytes in memory that is not code. Every CPU's loads see them; nothing is to be published.

        For the words of data in a plan only: the rest of a program's data is the program's own. CapabilityError on a
        target without `Capabilities.writes_data`. MappingError, and nothing is changed, for known code.
        """
        raise CapabilityError(
            f"this {self.capabilities.kind} writes code only, not data: change the data in a running system"
        )

    def publish(self, start: int, end: int) -> None:
        """Make [start, end) visible to instruction fetch: clean to the point of unification, invalidate, wait.

        A CPU may still execute words that it fetched earlier, until its next context synchronisation event
        (Arm ARM, B2.2.5). Linux: caches_clean_inval_pou().
        """

    def kick(self) -> None:
        """Give every CPU a context synchronisation event. All are complete on return. Linux: kick_all_cpus_sync()."""

    def stop(self) -> AbstractContextManager[StoppedCpus]:
        """Park all CPUs until the block ends; each synchronises its context as it leaves. Linux: stop_machine().

        BusyError when a CPU does not come. On a target without broadcast each CPU also invalidates its own
        instruction cache as it leaves.
        """

    def identity(self) -> Identity:
        """Which target this is, by its first module. `Identity.modules` lists all modules."""
        main = self.modules.main
        builds = tuple(Build(module.name, module.build_id, module.base) for module in self.modules)
        return Identity(self.location, main.build_id, main.release, main.base, main.incarnation, builds)

    def code_ranges(self) -> Sequence[tuple[int, int]]:
        """The ranges [start, end) of known code, ascending. A target behind a stub may have more code."""
        return list(self.modules.code)

    def code_with(self, address: int) -> Sequence[tuple[int, int]]:
        """The code of the build (kernel, program, library) that holds the address; empty when no known build does.

        A branch into the middle of a function comes from the function's own build: from one build to another, linkers
        make branches to symbols only.
        """
        return list(self.modules.code_with(address))

    def writable(self) -> Ranges | None:
        """Where words may be written: the limit given to `knowing`, else the known code. None: no limit is known."""
        return (self.modules.code or None) if self._may_write is None else self._may_write

    def facts(self) -> dict[str, str]:
        """More facts about this target for people, by name, beside `capabilities` and `identity()`."""
        said = {name: fact if isinstance(fact, str) else fact() for name, fact in self._told.items()}
        return {name: text for name, text in said.items() if text}

    def close(self) -> None:
        """Give everything back. Words that were written but never published may be lost."""

    def find_room(self, size: int, near: tuple[int, int], alignment: int = 16) -> Room:
        """Room for `size` bytes of code, all within reach of a B at, or to, each address from near[0] to
        near[1]: less than 128 MiB (Arm ARM, C6.2: B).

        Reads only: the same question has the same answer until `allocate`. `alignment` is in bytes, a power of 2.

        CapabilityError when this kind of target has no room to give, and when none is left within reach.
        """
        raise CapabilityError(
            f"this {self.capabilities.kind} has no room for new code: as many instructions as before have to do"
        )

    def allocate(self, room: Room) -> None:
        """Take a room that `find_room` found. From now on it is code: `read`, `write` and `publish` take its addresses.

        Its contents are unspecified until they are written. A file keeps it from the next `publish` on. MappingError
        when the room is not free any more, and then nothing is changed.
        """
        raise CapabilityError(f"this {self.capabilities.kind} has no room for new code")

    @property
    def unplaced(self) -> Collection[str] | None:
        """The names that have no address before the target is linked or loaded. None: all its addresses are final."""
        return None

    def refer(self, references: Sequence[NewReference]) -> None:
        """Tell what words of an allocated room refer to, before they are written: their distances are not final.

        For a target that has `unplaced`, and for all that a word itself does not tell: the goals of ADRP and of
        `:lo12:`, and names without an address.
        """
        if references:
            raise CapabilityError(
                f"the addresses of this {self.capabilities.kind} are final: nothing fills words in it"
            )

    def rooms(self) -> Sequence[Room]:
        """The rooms that were allocated in this target and not released, ascending, as far as the target tells."""
        return ()

    def release(self, room: Room) -> str:
        """Give a room back. The caller knows that nothing refers to it, and that nobody executes it or returns there.

        The result is a sentence about what stays behind; empty when the target is as if the room had never been. A file
        changes at the next `publish`. MappingError for a room that is not among `rooms()`.
        """
        raise CapabilityError(f"this {self.capabilities.kind} has no room for new code")

    def unseen(self) -> str:
        """Why somebody may return to code of this target unseen, as a sentence for people; empty when nobody can.

        May read the target.
        """
        return self.others.unseen() if self.others is not None else ""

    def machine(self) -> Machine:
        """The known cache properties of the CPUs that execute the text. They decide which steps a protocol needs.

        When a target does not tell them, all steps are needed.
        """
        return protocols.USUAL if self.capabilities.broadcast else frozenset()

    def doer(self, step: Step) -> Doer:
        """Who does a step of a protocol when this target carries the protocol out. Here nobody answers for any step.

        The target may do a step by something with the same effect: an emulator translates changed code anew, a kernel
        publishes the words that ptrace writes.
        """
        return Doer.UNKNOWN

    def relocation_at(self, address: int) -> str | None:
        """The relocation that will overwrite the word at this address, as text for people; None without one."""
        return None

    def aftermath(self, changes: Sequence[tuple[int, int]]) -> Sequence[Aftermath]:
        """The other bytes that publishing these (address, word) pairs will change. Most targets change none."""
        return ()

    def undo_aftermath(self, aftermath: Sequence[Aftermath]) -> None:
        """Let the next `publish` put these old bytes back too.

        MismatchError, and nothing done, when the target holds neither the new nor the old bytes of one of them.
        """
        if aftermath:
            raise CapabilityError(f"this {self.capabilities.kind} has no bytes besides its code that could be put back")

    def read_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes]:
        """`read` of each (address, size), in order. A target with round trips joins the requests."""
        return [self.read(address, size) for address, size in requests]

    def reader(self, requests: Sequence[tuple[int, int]], expected: Sequence[bytes] = ()) -> Callable[[], list[bytes]]:
        """A function that does `read_many` of these requests each time. What can be done before is done here.

        `expected` are the probable bytes of each request, if they are known. Other bytes only cost more time.
        """
        return lambda: self.read_many(requests)

    def write_many(self, requests: Sequence[tuple[int, bytes]]) -> None:
        """`write` of each (address, bytes), in order, up to the first that fails."""
        for address, data in requests:
            self.write(address, data)

    def write_data_many(self, requests: Sequence[tuple[int, bytes]]) -> None:
        """`write_data` of each (address, bytes), in order, up to the first that fails."""
        for address, data in requests:
            self.write_data(address, data)

    def system_registers(self, names: Sequence[str]) -> list[dict[str, int]]:
        """The values of these registers in each CPU, by the Arm ARM's name (`TTBR1_EL1`), and always `pc`.

        A name that the target does not know is left out. Inside `stop()` all values are of one moment.
        CapabilityError when the target gives no registers at all.
        """
        raise CapabilityError(f"this {self.capabilities.kind} does not tell the registers of its CPUs")

    def read_physical_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (physical address, size), in order; no translation table has a part in it.

        Not guaranteed: an error where the machine has no memory. CapabilityError when the target cannot do it.
        """
        raise CapabilityError(f"this {self.capabilities.kind} does not read physical addresses")

    def carry_out(self, section: Section) -> Outcome:
        """Carry out a section by its protocol. Errors: see `section.carry_out`.

        A target that can do the whole section in one request overrides this.
        """
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
            # The first error says more, and decides what the caller does.
            note = str(second)
            error.add_note(f"{note[:1].upper()}{note[1:]}")

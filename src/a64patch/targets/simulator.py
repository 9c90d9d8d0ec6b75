"""A machine of several CPUs with incoherent instruction caches over one memory, repeatable from a seed.

Read on: cpu.py for one CPU; caches.py decides which words it has fetched; program.py loads programs; simulator_url.py
reads `sim:…`; ../patch/text.py patches programs as they run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from a64patch.a64.words import INSN_SIZE, require_aligned
from a64patch.errors import BusyError, CapabilityError, FormatError, MappingError, RequestError, TargetError
from a64patch.oneline import shown
from a64patch.protocols import (
    BROADCAST,
    DIC,
    IDC,
    OTHER,
    PATCHER,
    PROTOCOLS,
    Act,
    Doer,
    Machine,
    Operation,
    Step,
    publication,
)
from a64patch.ranges import Ranges
from a64patch.targets.base import Capabilities, CpuState, Rendezvous, Room, StoppedCpus, Target, within_reach
from a64patch.targets.caches import CacheModel
from a64patch.targets.cpu import Cpu
from a64patch.targets.frames import Piece, follow_frames
from a64patch.targets.modules import Module, Modules, data_claims
from a64patch.targets.program import PAGE, Program, load_elf, load_words

STACK_BYTES = 64 << 10
MAX_CPUS = 64
MAX_OUTPUT = 16 << 20
PATIENCE = 100_000
"""Scheduling steps that `kick` and `stop` wait for each CPU, before BusyError."""

# The probability that a CPU takes a waiting interrupt at its next turn, rather than later.
_PROMPTNESS = 0.25

_SYS_WRITE, _SYS_EXIT, _SYS_EXIT_GROUP = 64, 93, 94
_EFAULT, _ENOSPC, _ENOSYS = 14, 28, 38


class Executed(NamedTuple):
    """One instruction that a CPU executed in a watched range: the step, the CPU, the address, the executed word."""

    step: int
    cpu: int
    address: int
    word: int

    def __repr__(self) -> str:
        return shown(self, f"step {self.step}, CPU {self.cpu}: {self.word:08x} at {self.address:#x}")


class _Parked:
    """The StoppedCpus of a simulator."""

    def __init__(self, simulator: Simulator, rendezvous: Rendezvous) -> None:
        self.rendezvous = rendezvous
        self._simulator = simulator

    def states(self) -> list[CpuState]:
        """The state of each CPU that has not exited, with its link register and up to 64 saved return addresses."""
        return [self._simulator.state(cpu) for cpu in range(self._simulator.cpus) if self._simulator.is_running(cpu)]


class Simulator(Target):
    """Several CPUs (Unicorn) over one memory. Each executes the words that it has fetched by caches.CacheModel.

    **The machine.** There is no operating system. Every CPU starts at the entry with its number in x0, the number of
    CPUs in x1, and a stack of its own (64 KiB, SP a multiple of 16).
    - `SVC #0` takes Linux' numbers in x8. exit ends the CPU, exit_group ends all CPUs, write to file descriptors 1 and
      2 goes to `output` (at most 16 MiB). Every other call returns -ENOSYS. SVC is a context synchronisation event.
    - WFE, WFI and YIELD do nothing.
    - Exception vectors and translation tables are not simulated: a fault raises SimulationError.
    - A store to memory that the program maps read-only is a fault. The program may store to code that it maps writable.

    **Scheduling.** A step picks a CPU that can run, by seeded random numbers, and lets it execute 1 to `quantum`
    instructions. No other CPU runs meanwhile. The same program, arguments and calls give the same run on every host.
    Memory is sequentially consistent, so weaker behaviours of data that the architecture allows do not appear.

    **Instruction fetch.** See CacheModel for `idc`, `dic`, `broadcast`, `line_size`; the program reads them in CTR_EL0.
    - `line_size` is one for all CPUs, or a sequence with one for each, as on big.LITTLE parts. A CPU reads its own in
      CTR_EL0: Linux shows programs the least instead (commit 116c81f427ff). `publish` takes the least too.
    - `cache="kind"` makes every store visible to every fetch at once.
    - `early` is the probability that a step begins with `CacheModel.advance`.
    - DSB completes cache maintenance only if it waits for loads and stores (Arm ARM, B2.3.12). Its shareability domain
      is ignored.
    - DC CVAC, CVAP, CVADP and CIVAC clean like DC CVAU. Maintenance by set and way does nothing.

    **Patching.** The program runs on while it is patched: `interleave` steps before and after each micro-step. The
    patching agent shares the CPU `writer` with the program, without a context synchronisation event of its own. This is
    a worse case than a kernel. A test may override each micro-step, a method of its own.

    `caches` is the cache model. Callers may read it, but only the machine may change it.

    `on_step(simulator, step)`, when set, is called before each step. It may patch, and is not called for the steps that
    run during the patch. `steps` counts the steps made.
    """

    def __init__(
        self,
        program: Program,
        *,
        cpus: int = 2,
        seed: int = 1,
        quantum: int = 16,
        idc: bool = False,
        dic: bool = False,
        broadcast: bool = True,
        cache: str = "adversarial",
        early: float = 0.125,
        line_size: int | Sequence[int] = 64,
        interleave: int = 3,
        writer: int = 0,
        location: str = "",
    ) -> None:
        """CPUs over a program in memory; usually called by `from_elf` and `from_words`.

        `location` is for `identity()`. RequestError for an argument out of its range. CapabilityError when unicorn is
        not installed.
        """
        _require("cpus", cpus, 1, MAX_CPUS)
        _require("quantum", quantum, 1, 1_000_000)
        _require("early", early, 0, 1)
        _require("interleave", interleave, 0, 1_000_000)
        _require("writer", writer, 0, cpus - 1)
        line_sizes = [line_size] * cpus if isinstance(line_size, int) else list(line_size)
        for size in line_sizes:
            if size not in (16, 32, 64, 128, 256, 512, 1024, 2048):
                raise RequestError(f"line={size} is not a power of two from 16 to 2048 bytes")
        if len(line_sizes) != cpus:
            raise RequestError(
                f"line= gives {len(line_sizes)} sizes for {cpus} CPUs; give one for all, or one for each"
            )
        if cache not in ("adversarial", "kind"):
            raise RequestError(f"cache={cache!r} is neither 'adversarial' nor 'kind'")
        self.cpus = cpus
        self._location = location
        run = f"machine={os.urandom(16).hex()}"
        claims = data_claims(program.data)
        named = Module(
            "program", program.symbols, program.build_id, base=program.base, code=program.code, incarnation=run,
            claims=lambda: claims,
        )  # fmt: skip
        self._modules = Modules([named])
        self._rooms: dict[int, Room] = {}
        """The rooms for new code, by their first address."""
        self.capabilities = Capabilities("simulator", cpus, True, True, True, broadcast, writes_data=True)
        self.output = bytearray()
        self.executed: list[Executed] = []
        self.steps = 0
        self.on_step: Callable[[Simulator, int], None] | None = None
        self.interleave = interleave
        self.caches = CacheModel(
            cpus,
            lambda cpu, address, word: self._cpus[cpu].fetch(address, word),
            line_sizes=line_sizes,
            idc=idc,
            dic=dic,
            broadcast=broadcast,
            coherent=cache == "kind",
        )

        self._program = program
        self._memory = program.memory
        self._big_endian = program.big_endian
        self._random = Random(seed)
        self._quantum = quantum
        self._early = early
        properties = ((IDC, idc), (DIC, dic), (BROADCAST, broadcast))
        self._machine = frozenset(name for name, has in properties if has)
        self._coherent = cache == "kind"
        self._line_sizes = line_sizes
        # A store must change the very next instruction, which Unicorn may have translated already.
        self._one_by_one = cache == "kind" and bool(program.writable_code)
        self._writer = writer
        self._rendezvous: Rendezvous | None = None
        self._stopped = False
        self._in_on_step = False
        self._watched: list[tuple[int, int]] = []
        self._closed = False

        self._cpus = self._make_cpus()
        self._runnable = list(self._cpus)

    def _make_cpus(self) -> list[Cpu]:
        top = max(region.end for region in self._memory.regions)
        stacks = [top + PAGE + (STACK_BYTES + PAGE) * number for number in range(self.cpus)]
        self._parking = parking = stacks[-1] + STACK_BYTES + PAGE
        if parking + PAGE >= 1 << 64:
            raise FormatError("the program ends too close to the top of the address space to leave room for stacks")
        self._memory.add((stack, stack + STACK_BYTES, True) for stack in stacks)
        ctr_el0 = 1 << 31 | (DIC in self._machine) << 29 | (IDC in self._machine) << 28
        made = []
        for number, stack in enumerate(stacks):
            log_words = (self._line_sizes[number] // INSN_SIZE).bit_length() - 1
            cpu = Cpu(
                number,
                self._program,
                self.caches,
                ctr_el0=ctr_el0 | log_words << 16 | log_words,
                parking=parking,
                synchronise=self._synchronise,
                system_call=self._system_call,
            )
            for register, value in ((0, number), (1, self.cpus), (31, stack + STACK_BYTES)):
                cpu.set_register(register, value)
            made.append(cpu)
        return made

    @classmethod
    def from_elf(cls, path: str | Path, *, base: int = 0x10000000, settings: str = "", **options: Any) -> Simulator:
        """A static ELF64 AArch64 executable, little- or big-endian data. A position-independent one lies at `base`.

        `settings` is the part of its location behind `?`; `options` are the constructor's. FormatError for any other
        file, TargetError when the file cannot be read.
        """
        if base % PAGE:
            raise RequestError(f"base {base:#x} is not a multiple of the page size, {PAGE}")
        location = f"sim:{os.path.abspath(path)}" + (f"?{settings}" if settings else "")
        return cls(load_elf(path, base), location=location, **options)

    @classmethod
    def from_words(
        cls,
        words: Sequence[int],
        *,
        base: int = 0x10000,
        entry: int | None = None,
        symbols: Mapping[str, int] | None = None,
        data: Mapping[int, bytes] | None = None,
        writable: bool = False,
        big_endian: bool = False,
        **options: Any,
    ) -> Simulator:
        """A program made by `program.load_words`; `options` are the constructor's."""
        program = load_words(
            words, base=base, entry=entry, symbols=symbols, data=data, writable=writable, big_endian=big_endian
        )
        return cls(program, **options)

    # Running

    def run(self, steps: int) -> int:
        """Make `steps` scheduling steps, fewer when no CPU can run any more. Returns the number of steps made.

        SimulationError when a CPU cannot go on.
        """
        self._require_open()
        for done in range(steps):
            if not self._step():
                return done
        return steps

    def run_until(self, predicate: Callable[[Simulator], bool], limit: int) -> bool:
        """Step until the predicate holds, asked before each step. False if it does not hold after `limit` steps, or
        when no CPU can run any more.
        """
        self._require_open()
        for _ in range(limit):
            if predicate(self):
                return True
            if not self._step():
                break
        return predicate(self)

    def watch(self, start: int, end: int) -> None:
        """From now on record in `executed` each instruction that any CPU executes in [start, end).

        Each recorded instruction costs a call into Python. RequestError when the range overlaps a watched range.
        """
        self._require_code(start, end - start)
        if any(start < other_end and other_start < end for other_start, other_end in self._watched):
            raise RequestError(f"{start:#x}-{end:#x} overlaps a range that is watched already")
        self._watched.append((start, end))
        for cpu in self._cpus:
            cpu.watch(start, end, self._record)

    def _record(self, cpu: Cpu, address: int, word: int) -> None:
        self.executed.append(Executed(self.steps - 1, cpu.number, address, word))

    @property
    def instructions(self) -> tuple[int, ...]:
        """The number of instructions that each CPU has executed, without a turn that ended in a SimulationError."""
        return tuple(cpu.instructions for cpu in self._cpus)

    def is_running(self, cpu: int) -> bool:
        """Whether the CPU has not exited; true for a parked CPU."""
        return not self._cpus[cpu].halted

    def exit_code(self, cpu: int) -> int | None:
        """The CPU's argument to exit or exit_group, 0 to 255; None when it runs, or another CPU ended it."""
        return self._cpus[cpu].exit_code

    def register(self, cpu: int, number: int) -> int:
        """General register x0 to x30 of the CPU; number 31 is SP."""
        return self._get(self._cpus[cpu], number)

    def fetched(self, cpu: int, address: int) -> int:
        """The word that the CPU would now execute at the address."""
        self._require_code(require_aligned(address), INSN_SIZE)
        return self._cpus[cpu].word(address)

    def state(self, cpu: int) -> CpuState:
        """The PC of the CPU between two steps, and the return addresses in x30 and in its frame records."""
        each = self._cpus[cpu]
        (saved,) = follow_frames([self._get(each, 29)], self._read_stacks, big_endian=self._big_endian)
        returns = [self._get(each, 30), *saved]
        return CpuState(cpu, each.pc, tuple(dict.fromkeys(address for address in returns if address)))

    def _read_stacks(self, pieces: Sequence[Piece]) -> list[bytes]:
        """A `frames.Reader`. It reads nothing of a piece that is not wholly mapped."""
        found = []
        for piece in pieces:
            try:
                found.append(self._memory.read(piece.address, piece.size))
            except MappingError:
                found.append(b"")
        return found

    # Target

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of the memory that all CPUs share, as a data read sees them."""
        self._require_open()
        return self._memory.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Store to code, word by word. The program runs on before, between and after these stores.

        MappingError, and nothing is changed, unless all addresses are code.
        """
        self._require_open()
        self._require_code(address, len(data))
        self._run_on()
        while data:
            length = INSN_SIZE - address % INSN_SIZE
            self._store(address, data[:length])
            address, data = address + length, data[length:]
            self._run_on()

    def write_data(self, address: int, data: bytes) -> None:
        """Store to mapped memory that is not code. The program runs on before and after this store.

        MappingError, and nothing is changed, when an address is code or is not mapped.
        """
        self._require_open()
        if self._program.code & Ranges(((address, address + len(data)),)):
            raise MappingError(f"{address:#x} and the {len(data)} bytes from there on are not all data")
        self._memory.read(address, len(data))
        self._run_on()
        self._memory.write(address, data)
        self._run_on()

    def publish(self, start: int, end: int) -> None:
        """The steps of Linux' caches_clean_inval_pou(), on the CPU `writer`; in `stop()`, on the last CPU to arrive.

        DC CVAU of each line and DSB (left out with IDC), IC IVAU of each line and DSB (left out with DIC), ISB.
        Other CPUs still need a context synchronisation event, and without broadcast their own invalidation.
        """
        self.publish_many([(start, end)])

    def publish_many(self, ranges: Sequence[tuple[int, int]]) -> None:
        """`publish` of all ranges together: each line once, each barrier once."""
        self._require_open()
        line = min(self._line_sizes)
        lines: dict[int, None] = {}
        for start, end in ranges:
            self._require_code(start, end - start)
            if start < end:
                lines.update(dict.fromkeys(range(start & -line, end, line)))
        if not lines:
            return
        for step in publication(self.machine()):
            self._do(self._writer, step, list(lines))

    def kick(self) -> None:
        """Send an interrupt to every CPU, and run on until all have taken it. Each takes it at one of its next turns.

        Taking it is a context synchronisation event. A parked CPU takes it at once. BusyError when a CPU does not
        take it.
        """
        self._require_open()
        self._run_on()
        for step in PROTOCOLS["kick"].part(Operation.KICK, PATCHER, self.machine()):
            self._do(self._writer, step, ())
        for _ in range(PATIENCE * self.cpus):
            if not any(cpu.kicked for cpu in self._cpus):
                self._run_on()
                return
            self._step()
        raise BusyError("a CPU did not take the interrupt; `kick` gave up")

    def stop(self) -> AbstractContextManager[StoppedCpus]:
        """Ask every CPU to come to a rendezvous. Each runs on, and arrives at one of its next turns.

        Inside the block no CPU runs. A CPU that has exited counts as arrived. The last CPU to arrive is the writer.
        When the block ends, each CPU synchronises its context; without broadcast, after an IC IALLU and DSB of its own.
        BusyError when a CPU never comes, TargetError when the CPUs are already stopped.
        """
        return self._stop()

    def find_room(self, size: int, near: tuple[int, int], alignment: int = 16) -> Room:
        """Whole pages behind all others, or between two regions. CapabilityError when none is within reach."""
        self._require_open()
        pages = max(1, -(-size // PAGE)) * PAGE
        taken = sorted((region.start - PAGE, region.end + PAGE) for region in self._memory.regions)
        taken.append((self._parking - PAGE, self._parking + 2 * PAGE))
        for _, start in sorted(taken):
            is_free = all(start + pages <= low or start >= high for low, high in taken) and start + pages < 1 << 64
            if is_free and start % alignment == 0 and within_reach(start, start + pages, near):
                return Room(start, size, "new pages")
        raise CapabilityError(f"the simulated machine has no {size} bytes left near {near[0]:#x}")

    def allocate(self, room: Room) -> None:
        """Map new pages on all CPUs. MappingError when they are mapped already."""
        self._require_open()
        end = room.address + max(1, -(-room.size // PAGE)) * PAGE
        if any(region.start < end and room.address < region.end for region in self._memory.regions):
            raise MappingError(f"the {room.size} bytes at {room.address:#x} are mapped already; nothing was changed")
        self._memory.add([(room.address, end, False)])
        region = self._memory.find(room.address)
        assert region is not None
        for cpu in self._cpus:
            cpu.add_code(region)
        self._rooms[room.address] = room
        self._change_code(self._program.code | Ranges(((room.address, room.end),)))

    def rooms(self) -> Sequence[Room]:
        """The rooms of this machine."""
        return [room for _, room in sorted(self._rooms.items())]

    def release(self, room: Room) -> str:
        """Unmap the pages: whoever executes them from now on has a fault."""
        self._require_open()
        region = self._memory.find(room.address)
        if self._rooms.pop(room.address, None) is None or region is None:
            raise MappingError(f"there is no room for new code at {room.address:#x}; nothing was changed")
        self._change_code(self._program.code - Ranges(((room.address, room.end),)))
        self._memory.remove(region)
        for cpu in self._cpus:
            cpu.remove_code(region)
        return ""

    def _change_code(self, code: Ranges) -> None:
        self._program.code = code
        self._modules = Modules([replace(self.modules.main, code=code)])

    @property
    def location(self) -> str:
        """`sim:PATH?…` for a program from a file; else empty."""
        return self._location

    def machine(self) -> Machine:
        """CTR_EL0.IDC and .DIC, and whether an IC reaches all CPUs, from the constructor."""
        return self._machine

    def doer(self, step: Step) -> Doer:
        """We do each step, one by one. With `cache="kind"` no publishing is needed: the target does that part."""
        return Doer.TARGET if self._coherent and step.operation is Operation.PUBLISH else Doer.US

    def close(self) -> None:
        """Give the CPUs and the memory back. Only another `close` is allowed afterwards."""
        self._closed = True
        self._runnable = []
        for cpu in self._cpus:
            cpu.close()

    # Micro-steps of patching

    def _run_on(self) -> None:
        """Let the program run `interleave` steps. Nothing happens while all CPUs are parked."""
        for _ in range(self.interleave):
            if not self._step():
                return

    def _store(self, address: int, data: bytes) -> None:
        """Put bytes of one word in memory, on the data side."""
        word = address & -INSN_SIZE
        old = self._memory.word(word)
        self._memory.write(address, data)
        self.caches.store(word, old, self._memory.word(word))

    def _do(self, cpu: int, step: Step, lines: Sequence[int]) -> None:
        """Do a step of a protocol on the CPU. `lines` are the addresses of the cache lines for CLEAN and INVALIDATE."""
        act = step.act
        if act is Act.INTERRUPT:
            for other in self._cpus:
                if other.parked:
                    self._take_kick(other.number)
                else:
                    other.kicked = not other.halted
            return
        if act is Act.CLEAN:
            for line in lines:
                self.caches.clean(cpu, line)
        elif act is Act.INVALIDATE:
            for line in lines:
                self.caches.invalidate(cpu, line)
        elif act is Act.INVALIDATE_OWN:
            self.caches.invalidate_all(cpu, inner_shareable=False)
        elif act is Act.FINISH:
            self.caches.barrier(cpu)
        elif act is Act.FINISH_STORES:
            self.caches.store_barrier(cpu)
        elif act in (Act.SYNCHRONISE, Act.ENTER):
            self._synchronise(cpu)
        else:
            return  # the rendezvous does the others
        if step.cpu == PATCHER:
            self._run_on()

    def _synchronise(self, cpu: int) -> None:
        """A context synchronisation event on the CPU."""
        self.caches.synchronise(cpu)

    def _take_kick(self, cpu: int) -> None:
        """The CPU takes the interrupt that `kick` sent."""
        self._cpus[cpu].kicked = False
        for step in PROTOCOLS["kick"].part(Operation.KICK, OTHER, self.machine()):
            self._do(cpu, step, ())

    def _await_arrivals(self, rendezvous: Rendezvous) -> None:
        """Let the program run until every CPU has come to the rendezvous."""
        for _ in range(PATIENCE * self.cpus):
            for cpu in self._cpus:
                if cpu.halted and cpu.number not in rendezvous.arrived:
                    self._arrive(cpu.number, rendezvous)
            if rendezvous.everyone_arrived:
                return
            self._step()
        raise BusyError("a CPU did not come to the rendezvous; nothing was changed, try again")

    def _arrive(self, cpu: int, rendezvous: Rendezvous) -> None:
        """The CPU comes to the rendezvous, and executes nothing until the stop ends."""
        self._cpus[cpu].parked = self._stops_with(Act.AWAIT_SIGNAL)
        self._update_runnable()
        if self._stops_with(Act.ANSWER):
            rendezvous.arrive(cpu)

    def _stops_with(self, act: Act) -> bool:
        return any(step.act is act for step in PROTOCOLS["stop"].on(self.machine()))

    def _leave(self, cpu: int) -> None:
        """The CPU leaves the rendezvous. Without broadcast it first does its own cache maintenance."""
        for step in PROTOCOLS["stop"].part(Operation.LET_GO, OTHER, self.machine()):
            self._do(cpu, step, ())

    @contextmanager
    def _stop(self) -> Generator[StoppedCpus]:
        self._require_open()
        if self._stopped:
            raise TargetError("the CPUs are stopped already; end that block first")
        rendezvous = Rendezvous(range(self.cpus))
        writer = self._writer
        self._stopped = True
        try:
            self._run_on()
            self._rendezvous = rendezvous if self._stops_with(Act.INTERRUPT) else None
            if self._stops_with(Act.GATHER):
                self._await_arrivals(rendezvous)
            self._rendezvous = None
            self._writer = rendezvous.arrived[-1] if rendezvous.arrived else writer
            try:
                yield _Parked(self, rendezvous)
            finally:
                if not self._closed and self._stops_with(Act.SIGNAL):
                    rendezvous.finish()
                    for cpu in rendezvous.arrived:
                        self._leave(cpu)
        finally:
            self._rendezvous = None
            self._writer = writer
            self._stopped = False
            for each in self._cpus:
                each.parked = False
            self._update_runnable()
        self._run_on()

    # The scheduler

    def _step(self) -> bool:
        if not self._runnable:
            return False
        if self.on_step is not None and not self._in_on_step:
            self._in_on_step = True
            try:
                self.on_step(self, self.steps)
            finally:
                self._in_on_step = False
            if not self._runnable:
                return False
        self.steps += 1
        random = self._random.random
        runnable = self._runnable
        if self.caches.diverging and random() < self._early:
            self.caches.advance(runnable[int(random() * len(runnable))].number, self._random)
        cpu = runnable[int(random() * len(runnable))]
        if cpu.kicked and random() < _PROMPTNESS:
            self._take_kick(cpu.number)
        if self._rendezvous is not None and cpu.number not in self._rendezvous.arrived and random() < _PROMPTNESS:
            self._arrive(cpu.number, self._rendezvous)
            return True
        count = 1 if self._quantum == 1 else 1 + int(random() * self._quantum)
        if not self._one_by_one:
            cpu.turn(count)
        else:
            while count and not cpu.halted:
                cpu.turn(1)
                count -= 1
        return True

    def _update_runnable(self) -> None:
        self._runnable = [cpu for cpu in self._cpus if not cpu.halted and not cpu.parked]

    def _halt(self, cpu: Cpu) -> None:
        cpu.halted = True
        cpu.kicked = False
        self._update_runnable()

    # System calls

    def _system_call(self, cpu: Cpu) -> None:
        number, first = self._get(cpu, 8), self._get(cpu, 0)
        if number in (_SYS_EXIT, _SYS_EXIT_GROUP):
            cpu.exit_code = first & 0xFF
            cpu.end_turn()
            for each in self._cpus if number == _SYS_EXIT_GROUP else [cpu]:
                self._halt(each)
            return
        result = -_ENOSYS
        if number == _SYS_WRITE and first in (1, 2):
            room = MAX_OUTPUT - len(self.output)
            length = min(self._get(cpu, 2), room)
            try:
                self.output += self._memory.read(self._get(cpu, 1), length)
                result = length if length or room else -_ENOSPC
            except MappingError:
                result = -_EFAULT
        cpu.set_register(0, result)

    # Small things

    def _get(self, cpu: Cpu, number: int) -> int:
        return cpu.register(number)

    def _require_code(self, address: int, size: int) -> None:
        if size < 0 or not self._program.is_code(address, size):
            raise MappingError(
                f"{address:#x} and the {size} bytes from there on are not all code; "
                "only code of the simulated program can be patched"
            )

    def _require_open(self) -> None:
        if self._closed:
            raise TargetError("the simulator is closed; open it again")


def _require(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise RequestError(f"{name}={value} is out of range; give a number from {low} to {high}")

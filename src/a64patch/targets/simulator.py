"""A machine of several CPUs over one memory whose instruction caches nobody keeps coherent, repeatable from a seed.

unicorn and numpy load when a simulator is made.
Read on: caches.py decides what a CPU has fetched; program.py loads programs; ../patch/text.py patches them as they run.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from a64patch.a64.words import INSN_SIZE, as_array, require_aligned, to_bytes
from a64patch.errors import BusyError, CapabilityError, FormatError, MappingError, RequestError, TargetError
from a64patch.targets.base import Capabilities, CpuState, Identity, Rendezvous, StoppedCpus, Target
from a64patch.targets.caches import CacheModel
from a64patch.targets.frames import Piece, follow_frames
from a64patch.targets.program import PAGE, Memory, Program, join_ranges, load_elf
from a64patch.targets.symbols import Symbol, SymbolTable

STACK_BYTES = 64 << 10
MAX_CPUS = 64
MAX_OUTPUT = 16 << 20
PATIENCE = 100_000
"""Scheduling steps that `kick` and `stop` wait for each CPU, before BusyError."""

# How likely it is that an interrupt sent to a CPU is taken at its next turn, rather than at a later one.
_PROMPTNESS = 0.25

# Bytes: what Unicorn translates addresses by for AArch64, and what it keeps translated code of one CPU in.
_GRANULE = 1024
_TRANSLATION_BYTES = 64 << 20

_NOP = 0xD503201F
_SVC = 0xD4000001
# Stands in a CPU's image in place of the words whose effect the simulator carries out itself.
_TRAP = _SVC | 0xA64 << 5

_ISB = (0xFFFFF0FF, 0xD50330DF)
_DSB = (0xFFFFF0FF, 0xD503309F)
_DSB_NXS = (0xFFFFF3FF, 0xD503323F)
_READ_CTR_EL0 = (0xFFFFFFE0, 0xD53B0020)
_IC_IALLUIS = (0xFFFFFFFF, 0xD508711F)
_IC_IALLU = (0xFFFFFFFF, 0xD508751F)
_IC_IVAU = (0xFFFFFFE0, 0xD50B7520)
# What is cleaned to the point of coherency or persistence has passed the point of unification.
_DC_CLEANS = tuple((0xFFFFFFE0, 0xD50B7020 | crm << 8) for crm in (10, 11, 12, 13, 14))
_WAITS = (
    (0xFFFFFFDF, 0xD503205F),  # WFE, WFI
    (0xFFFFFFFF, 0xD503203F),  # YIELD
    (0xFFFFFFC0, 0xD5031000),  # WFET, WFIT
)
_TRAPPED = (_ISB, _DSB, _DSB_NXS, _READ_CTR_EL0, _IC_IALLUIS, _IC_IALLU, _IC_IVAU, *_DC_CLEANS, *_WAITS)

_SYS_WRITE, _SYS_EXIT, _SYS_EXIT_GROUP = 64, 93, 94
_EFAULT, _ENOSPC, _ENOSYS = 14, 28, 38

# QEMU's exception numbers, as Unicorn's interrupt hook reports them.
_EXCEPTIONS = {1: "an undefined instruction", 7: "a breakpoint (BRK)", 11: "HVC", 13: "SMC"}
_EXCEPTION_SVC = 2


class SimulationError(TargetError):
    """A simulated CPU cannot go on: a fault, an undefined instruction, an exception that nobody handles."""

    def __init__(self, cpu: int, pc: int, what: str) -> None:
        super().__init__(f"CPU {cpu} at {pc:#x} {what}")
        self.cpu = cpu
        self.pc = pc


class Executed(NamedTuple):
    """One instruction that a CPU executed in a watched range, and the word that it was for that CPU at that time."""

    step: int
    cpu: int
    address: int
    word: int


def _matches(word: int, pattern: tuple[int, int]) -> bool:
    return word & pattern[0] == pattern[1]


@dataclass(eq=False)
class _Cpu:
    number: int
    image: list[tuple[int, mmap.mmap]]
    """What this CPU has fetched: a private copy of the code pages at their addresses, the trapped words replaced."""
    traps: dict[int, int]
    """The word that was replaced, by address."""
    uc: Any = None
    pc: int = 0
    instructions: int = 0
    halted: bool = False
    exit_code: int | None = None
    parked: bool = False
    kicked: bool = False
    parking: int = -1
    """x0 while the rest of a turn is spent in the parking loop after exit, else negative."""
    denied: str = ""
    """The last access that memory refused."""
    failure: BaseException | None = None
    keep: list[Any] = field(default_factory=list)


class _Parked:
    """The StoppedCpus of a simulator."""

    def __init__(self, simulator: Simulator, rendezvous: Rendezvous) -> None:
        self.rendezvous = rendezvous
        self._simulator = simulator

    def states(self) -> list[CpuState]:
        """Where each CPU stands that has not exited, with its link register and up to 64 saved return addresses."""
        return [self._simulator.state(cpu) for cpu in range(self._simulator.cpus) if self._simulator.is_running(cpu)]


class Simulator(Target):
    """N CPUs (Unicorn) over one memory; each executes what caches.CacheModel says that it has fetched.

    **The machine.** Every CPU starts at the entry with x0 = its number, x1 = how many there are, and a stack of its
    own (64 KiB, SP a multiple of 16); there is no operating system. `SVC #0` with Linux' numbers in x8: exit ends
    the CPU, exit_group ends all, write to file descriptors 1 and 2 goes to `output` (at most 16 MiB); the rest
    answers -ENOSYS. SVC is a context synchronisation event. WFE, WFI and YIELD do nothing. Exception vectors and
    translation tables are not simulated: a fault raises SimulationError. Stores to what the program maps
    read-only are faults; code that the program maps writable may be stored to.

    **Scheduling.** A step picks a CPU that can run, by the seeded random numbers, and lets it execute 1 to `quantum`
    instructions; nobody else runs meanwhile. The same program, arguments and calls give the same run, whatever the
    machine underneath. Memory is sequentially consistent: what the architecture allows beyond that for data is not
    shown here.

    **Instruction fetch.** See CacheModel for `idc`, `dic`, `broadcast`, `line_size`; the guest reads them in CTR_EL0.
    `cache="kind"` makes every store visible to every fetch at once. `early` is the probability that a step begins
    with one word moving one layer on by chance. DSB completes cache maintenance only if it waits for loads and
    stores (Arm ARM, B2.3.12); its shareability domain is not looked at. DC CVAC, CVAP, CVADP and CIVAC clean as
    DC CVAU does; maintenance by set and way does nothing.

    **Patching.** The program runs on while it is patched: `interleave` steps before and after each micro-step. The
    patching agent shares the CPU `writer` with the program, without a context synchronisation event of its own, which
    is worse than a kernel would do it. Each micro-step is a method with a name of its own, to be overridden.

    `on_step(simulator, step)`, when set, is called before each step; it may patch (it is not called again for the
    steps that this lets happen). `steps` counts the steps made.
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
        line_size: int = 64,
        interleave: int = 3,
        writer: int = 0,
    ) -> None:
        """CPUs over a program in memory; `from_elf` and `from_words` are the usual ways to get here.

        RequestError for an argument out of its range; CapabilityError when unicorn is not installed.
        """
        _require("cpus", cpus, 1, MAX_CPUS)
        _require("quantum", quantum, 1, 1_000_000)
        _require("early", early, 0, 1)
        _require("interleave", interleave, 0, 1_000_000)
        _require("writer", writer, 0, cpus - 1)
        if line_size not in (16, 32, 64, 128, 256, 512, 1024, 2048):
            raise RequestError(f"line={line_size} is not a power of two from 16 to 2048 bytes")
        if cache not in ("adversarial", "kind"):
            raise RequestError(f"cache={cache!r} is neither 'adversarial' nor 'kind'")
        self._unicorn = _import_unicorn()
        self.cpus = cpus
        self.symbols = program.symbols
        self._identity = Identity("", program.build_id, base=program.base)
        self.capabilities = Capabilities("simulator", cpus, True, True, True, broadcast)
        self.output = bytearray()
        self.executed: list[Executed] = []
        self.steps = 0
        self.on_step: Callable[[Simulator, int], None] | None = None
        self.interleave = interleave

        self._memory = program.memory
        self._code = list(program.code)
        self._big_endian = program.big_endian
        self._random = Random(seed)
        self._quantum = quantum
        self._early = early
        self._idc, self._dic = idc, dic
        self._line_size = line_size
        log_words = (line_size // INSN_SIZE).bit_length() - 1
        self._ctr_el0 = 1 << 31 | dic << 29 | idc << 28 | log_words << 16 | log_words
        self._model = CacheModel(
            cpus,
            self._view_changed,
            line_size=line_size,
            idc=idc,
            dic=dic,
            broadcast=broadcast,
            coherent=cache == "kind",
        )
        writable = [code for code in self._code if any(r.writable for r in self._regions_of(*code))]
        # Coherent at once means before the very next instruction, which may have been translated already.
        self._one_by_one = cache == "kind" and bool(writable)
        self._writer = writer
        self._rendezvous: Rendezvous | None = None
        self._stopped = False
        self._in_on_step = False
        self._stored: dict[int, int] = {}
        self._watched: list[tuple[int, int]] = []
        self._closed = False

        top = max(region.end for region in self._memory.regions)
        stacks = [top + PAGE + (STACK_BYTES + PAGE) * number for number in range(cpus)]
        self._park_address = stacks[-1] + STACK_BYTES + PAGE
        if self._park_address + PAGE >= 1 << 64:
            raise FormatError("the program ends too close to the top of the address space to leave room for stacks")
        self._memory.add((stack, stack + STACK_BYTES, True) for stack in stacks)
        self._cpus = [self._make_cpu(number, program) for number in range(cpus)]
        for cpu in self._cpus:
            self._power_on(cpu, program, stacks[cpu.number] + STACK_BYTES, writable)
        self._runnable = list(self._cpus)

    @classmethod
    def from_elf(cls, path: str | Path, *, base: int = 0x10000000, **options: Any) -> Simulator:
        """A static ELF64 AArch64 executable, little- or big-endian data; position-independent ones lie at `base`.

        FormatError for anything else, TargetError when it cannot be read; `options` as the constructor's.
        """
        if base % PAGE:
            raise RequestError(f"base {base:#x} is not a multiple of the page size, {PAGE}")
        simulator = cls(load_elf(path, base), **options)
        simulator._identity = replace(simulator._identity, location=f"sim:{os.path.abspath(path)}")
        return simulator

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
        """Bare instruction words at `base`, entered at `entry` (default `base`), and `data` (bytes) at its addresses.

        `writable` lets the program store to its own code. `options` as the constructor's.
        """
        require_aligned(base)
        code = (base, base + len(words) * INSN_SIZE)
        start = base if entry is None else require_aligned(entry)
        if not code[0] <= start < code[1]:
            raise RequestError(f"the entry {start:#x} does not lie in the code at {code[0]:#x}-{code[1]:#x}")
        memory = Memory()
        pieces = dict(data or {})
        memory.add([(*code, writable), *((at, at + len(piece), True) for at, piece in pieces.items() if piece)])
        for at, piece in pieces.items():
            memory.write(at, piece)
        memory.write(base, to_bytes(words))
        table = [Symbol(name, address) for name, address in (symbols or {}).items()]
        return cls(Program(memory, [code], start, SymbolTable(lambda: table), big_endian), **options)

    # Running

    def run(self, steps: int) -> int:
        """Make so many scheduling steps; fewer when no CPU can run any more. How many were made.

        SimulationError when a CPU cannot go on.
        """
        self._require_open()
        for done in range(steps):
            if not self._step():
                return done
        return steps

    def run_until(self, predicate: Callable[[Simulator], bool], limit: int) -> bool:
        """Step until the predicate holds, asked before each step; False after `limit` steps or when none can run."""
        self._require_open()
        for _ in range(limit):
            if predicate(self):
                return True
            if not self._step():
                break
        return predicate(self)

    def watch(self, start: int, end: int) -> None:
        """Record in `executed` each instruction that any CPU executes in [start, end), exactly, from now on.

        It costs a call into Python for each. RequestError where it overlaps what is watched already.
        """
        self._require_code(start, end - start)
        if any(start < other_end and other_start < end for other_start, other_end in self._watched):
            raise RequestError(f"{start:#x}-{end:#x} overlaps a range that is watched already")
        self._watched.append((start, end))
        for cpu in self._cpus:

            def record(uc: Any, address: int, size: int, data: Any, cpu: _Cpu = cpu) -> None:
                word = cpu.traps.get(address)
                if word is None:
                    word = self._image_word(cpu, address)
                self.executed.append(Executed(self.steps - 1, cpu.number, address, word))

            cpu.uc.hook_add(self._unicorn.UC_HOOK_CODE, record, None, start, end - 1)
            cpu.uc.ctl_flush_tb()

    @property
    def instructions(self) -> tuple[int, ...]:
        """Instructions that each CPU has executed; the turn that ended in a SimulationError is not counted."""
        return tuple(cpu.instructions for cpu in self._cpus)

    def is_running(self, cpu: int) -> bool:
        """That CPU has not exited. A parked one has not."""
        return not self._cpus[cpu].halted

    def exit_code(self, cpu: int) -> int | None:
        """What that CPU passed to exit or exit_group, 0 to 255; None if it has not, or another ended it."""
        return self._cpus[cpu].exit_code

    def register(self, cpu: int, number: int) -> int:
        """General register x0 to x30 of that CPU; number 31 is SP."""
        return self._get(self._cpus[cpu], number)

    def fetched(self, cpu: int, address: int) -> int:
        """The word that this CPU would execute at that address now."""
        self._require_code(require_aligned(address), INSN_SIZE)
        each = self._cpus[cpu]
        return each.traps.get(address) or self._image_word(each, address)

    def state(self, cpu: int) -> CpuState:
        """Where that CPU stands between two steps, and the return addresses in x30 and along its frame records."""
        each = self._cpus[cpu]
        (saved,) = follow_frames([self._get(each, 29)], self._read_stacks, big_endian=self._big_endian)
        returns = [self._get(each, 30), *saved]
        return CpuState(cpu, each.pc, tuple(dict.fromkeys(address for address in returns if address)))

    def _read_stacks(self, pieces: Sequence[Piece]) -> list[bytes]:
        """All CPUs share the memory; nothing is read of a piece that is not mapped as a whole."""
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
        """Store to code, one word after the other, the program running on before, between and after.

        MappingError, and nothing is changed, unless all of it is code.
        """
        self._require_open()
        self._require_code(address, len(data))
        self._run_on()
        while data:
            length = INSN_SIZE - address % INSN_SIZE
            self._store(address, data[:length])
            address, data = address + length, data[length:]
            self._run_on()

    def publish(self, start: int, end: int) -> None:
        """What Linux' caches_clean_inval_pou() does, executed by the CPU `writer`; in `stop()`, by the last to arrive.

        DC CVAU of each line and DSB (left out with IDC), IC IVAU of each line and DSB (left out with DIC), ISB.
        Other CPUs still need a context synchronisation event, and without broadcast their own invalidation.
        """
        self.publish_many([(start, end)])

    def publish_many(self, ranges: Sequence[tuple[int, int]]) -> None:
        """`publish` of all ranges in one go: each line once, each barrier once."""
        self._require_open()
        lines: dict[int, None] = {}
        for start, end in ranges:
            self._require_code(start, end - start)
            if start < end:
                lines.update(dict.fromkeys(range(start & -self._line_size, end, self._line_size)))
        if not lines:
            return
        if not self._idc:
            self._clean_data_cache(list(lines))
        if not self._dic:
            self._invalidate_instruction_cache(list(lines))
        self._synchronise(self._writer)
        self._run_on()

    def kick(self) -> None:
        """An interrupt to every CPU: each takes it at one of its next turns, all running on; then this returns.

        Taking it is a context synchronisation event. A parked CPU takes it at once. BusyError if one never comes.
        """
        self._require_open()
        self._run_on()
        for cpu in self._cpus:
            if cpu.parked:
                self._synchronise(cpu.number)
            else:
                cpu.kicked = not cpu.halted
        for _ in range(PATIENCE * self.cpus):
            if not any(cpu.kicked for cpu in self._cpus):
                self._run_on()
                return
            self._step()
        raise BusyError("a CPU did not take the interrupt; `kick` gave up")

    def stop(self) -> AbstractContextManager[StoppedCpus]:
        """Ask every CPU to come to a rendezvous; each arrives at one of its next turns, running on until then.

        Inside the block no CPU runs; a CPU that has exited counts as arrived; the last to arrive is the writer. As
        the block ends each CPU synchronises its context, without broadcast after an IC IALLU and DSB of its own.
        BusyError if one never comes, TargetError if they are stopped already.
        """
        return self._stop()

    def identity(self) -> Identity:
        """The program's build id and base; a location when the program came from a file."""
        return self._identity

    def code_ranges(self) -> list[tuple[int, int]]:
        """The ranges [start, end) of instructions, ascending."""
        return list(self._code)

    def close(self) -> None:
        """Give the CPUs and the memory back; nothing can be done afterwards. Closing twice is allowed."""
        self._closed = True
        self._runnable = []
        for cpu in self._cpus:
            cpu.uc = None
            cpu.keep.clear()
            cpu.image.clear()

    # Micro-steps of patching

    def _run_on(self) -> None:
        """Let the program run `interleave` steps; nothing happens while all CPUs are parked."""
        for _ in range(self.interleave):
            if not self._step():
                return

    def _store(self, address: int, data: bytes) -> None:
        """Put bytes of one word in memory, the data side."""
        word = address & -INSN_SIZE
        old = self._memory.word(word)
        self._memory.write(address, data)
        self._model.store(word, old, self._memory.word(word))

    def _clean_data_cache(self, lines: Sequence[int]) -> None:
        """DC CVAU of each line, then DSB, by the writer."""
        for line in lines:
            self._model.clean(self._writer, line)
        self._run_on()
        self._model.barrier(self._writer)
        self._run_on()

    def _invalidate_instruction_cache(self, lines: Sequence[int]) -> None:
        """IC IVAU of each line, then DSB, by the writer."""
        for line in lines:
            self._model.invalidate(self._writer, line)
        self._run_on()
        self._model.barrier(self._writer)
        self._run_on()

    def _synchronise(self, cpu: int) -> None:
        """A context synchronisation event on that CPU."""
        self._model.synchronise(cpu)

    def _take_kick(self, cpu: int) -> None:
        """That CPU takes the interrupt that `kick` sent."""
        self._cpus[cpu].kicked = False
        self._synchronise(cpu)

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
        """That CPU comes to the rendezvous and executes nothing until it is over."""
        self._cpus[cpu].parked = True
        self._update_runnable()
        rendezvous.arrive(cpu)

    def _leave(self, cpu: int) -> None:
        """That CPU leaves the rendezvous; where maintenance is not broadcast it first does its own."""
        if not self.capabilities.broadcast:
            self._model.invalidate_all(cpu, inner_shareable=False)
            self._model.barrier(cpu)
        self._synchronise(cpu)

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
            self._rendezvous = rendezvous
            self._await_arrivals(rendezvous)
            self._rendezvous = None
            self._writer = rendezvous.arrived[-1]
            try:
                yield _Parked(self, rendezvous)
            finally:
                if not self._closed:
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
        if self._model.diverging and random() < self._early:
            self._model.advance(runnable[int(random() * len(runnable))].number, self._random)
        cpu = runnable[int(random() * len(runnable))]
        if cpu.kicked and random() < _PROMPTNESS:
            self._take_kick(cpu.number)
        if self._rendezvous is not None and cpu.number not in self._rendezvous.arrived and random() < _PROMPTNESS:
            self._arrive(cpu.number, self._rendezvous)
            return True
        count = 1 if self._quantum == 1 else 1 + int(random() * self._quantum)
        if not self._one_by_one:
            self._turn(cpu, count)
        else:
            while count and not cpu.halted:
                self._turn(cpu, 1)
                count -= 1
        return True

    def _turn(self, cpu: _Cpu, count: int) -> None:
        status = self._start(cpu.uc._uch, cpu.pc, 0, 0, count)
        self._get_register(cpu.uc._uch, self._pc_register, self._value_reference)
        pc = self._value.value
        if self._stored:
            self._flush_stores()
        if cpu.failure is not None:
            failure, cpu.failure = cpu.failure, None
            raise failure
        if status:
            cpu.pc = pc
            what = cpu.denied or f"failed: {self._unicorn.UcError(status)}"
            cpu.denied = ""
            raise SimulationError(cpu.number, pc, what)
        cpu.instructions += count
        if cpu.parking < 0:
            cpu.pc = pc
        else:
            # The parking loop, two instructions a round, has counted the rest of the turn.
            cpu.instructions -= 2 * self._get(cpu, 0) - (pc - self._park_address) // INSN_SIZE
            self._set(cpu, 0, cpu.parking)
            cpu.parking = -1

    def _update_runnable(self) -> None:
        self._runnable = [cpu for cpu in self._cpus if not cpu.halted and not cpu.parked]

    def _halt(self, cpu: _Cpu) -> None:
        cpu.halted = True
        cpu.kicked = False
        self._update_runnable()

    # What a CPU has fetched

    def _view_changed(self, cpu: int, address: int, word: int) -> None:
        each = self._cpus[cpu]
        shown = word
        each.traps.pop(address, None)
        if any(_matches(word, pattern) for pattern in _TRAPPED):
            each.traps[address] = word
            shown = _NOP if any(_matches(word, pattern) for pattern in _WAITS) else _TRAP
        start, pages = self._image_of(each, address)
        pages[address - start : address - start + INSN_SIZE] = to_bytes(shown)
        each.uc.ctl_remove_cache(address, address + INSN_SIZE)

    def _image_of(self, cpu: _Cpu, address: int) -> tuple[int, mmap.mmap]:
        return next(piece for piece in cpu.image if 0 <= address - piece[0] < len(piece[1]))

    def _image_word(self, cpu: _Cpu, address: int) -> int:
        start, pages = self._image_of(cpu, address)
        return int.from_bytes(pages[address - start : address - start + INSN_SIZE], "little")

    def _note_store(self, cpu: _Cpu, address: int, size: int) -> None:
        # Called before the store is done; what it did is read from memory when somebody could notice it.
        for word in range(address & -INSN_SIZE, address + size, INSN_SIZE):
            if word not in self._stored and self._is_code(word):
                self._stored[word] = self._memory.word(word)

    def _flush_stores(self) -> None:
        stored, self._stored = self._stored, {}
        for word, old in stored.items():
            self._model.store(word, old, self._memory.word(word))

    def _exception(self, cpu: _Cpu, number: int) -> None:
        pc = cpu.uc.reg_read(self._pc_register)
        if number != _EXCEPTION_SVC:
            what = _EXCEPTIONS.get(number, f"exception {number} of Unicorn")
            cpu.pc = pc
            raise SimulationError(cpu.number, pc, f"met {what}, and nothing handles it")
        if self._stored:
            self._flush_stores()
        address = pc - INSN_SIZE
        word = cpu.traps.get(address)
        if word is None:
            self._system_call(cpu, self._image_word(cpu, address), address)
            self._synchronise(cpu.number)
        elif _matches(word, _ISB):
            self._synchronise(cpu.number)
        elif _matches(word, _DSB):
            # CRm<1:0>: only both loads and stores, 0b11, complete cache maintenance; 0b00 are SSBB and PSSBB.
            if word >> 8 & 3 == 3:
                self._model.barrier(cpu.number)
        elif _matches(word, _DSB_NXS):
            self._model.barrier(cpu.number)
        elif _matches(word, _READ_CTR_EL0):
            if word & 31 != 31:
                self._set(cpu, word & 31, self._ctr_el0)
        elif _matches(word, _IC_IALLUIS):
            self._model.invalidate_all(cpu.number, inner_shareable=True)
        elif _matches(word, _IC_IALLU):
            self._model.invalidate_all(cpu.number, inner_shareable=False)
        else:
            target = self._get(cpu, word & 31) if word & 31 != 31 else 0
            if _matches(word, _IC_IVAU):
                self._model.invalidate(cpu.number, target)
            else:
                self._model.clean(cpu.number, target)

    def _system_call(self, cpu: _Cpu, word: int, address: int) -> None:
        if word != _SVC:
            raise SimulationError(
                cpu.number, address, f"executed SVC #{word >> 5 & 0xFFFF}; the simulator knows SVC #0"
            )
        number, first = self._get(cpu, 8), self._get(cpu, 0)
        if number in (_SYS_EXIT, _SYS_EXIT_GROUP):
            cpu.exit_code = first & 0xFF
            cpu.pc = address + INSN_SIZE
            for each in self._cpus if number == _SYS_EXIT_GROUP else [cpu]:
                self._halt(each)
            cpu.parking = first
            self._set(cpu, 0, 0)
            cpu.uc.reg_write(self._pc_register, self._park_address)
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
        self._set(cpu, 0, result)

    # Making CPUs

    def _make_cpu(self, number: int, program: Program) -> _Cpu:
        import numpy

        pages = [(start & -PAGE, -(-end // PAGE) * PAGE) for start, end in program.code]
        pieces = []
        traps: dict[int, int] = {}
        for start, end in join_ranges(pages):
            piece = mmap.mmap(-1, end - start)
            for code_start, code_end in program.code:
                if not start <= code_start < end:
                    continue
                original = program.memory.read(code_start, code_end - code_start)
                words = as_array(original).copy()
                for mask, value in _TRAPPED:
                    for index in numpy.flatnonzero(words & numpy.uint32(mask) == numpy.uint32(value)).tolist():
                        traps[code_start + index * INSN_SIZE] = int(words[index])
                        words[index] = _NOP if (mask, value) in _WAITS else _TRAP
                piece[code_start - start : code_end - start] = words.tobytes()
            pieces.append((start, piece))
        return _Cpu(number, pieces, traps)

    def _power_on(self, cpu: _Cpu, program: Program, stack: int, writable: Sequence[tuple[int, int]]) -> None:
        unicorn = self._unicorn
        from unicorn import arm64_const
        from unicorn.unicorn_py3.unicorn import uclib

        # Called once a turn: the binding's own wrappers around the two take three times as long.
        self._start = uclib.uc_emu_start
        self._get_register = uclib.uc_reg_read
        self._value = ctypes.c_uint64()
        self._value_reference = ctypes.byref(self._value)
        self._pc_register = arm64_const.UC_ARM64_REG_PC
        self._registers = [
            *(arm64_const.UC_ARM64_REG_X0 + index for index in range(29)),
            arm64_const.UC_ARM64_REG_X29,
            arm64_const.UC_ARM64_REG_X30,
            arm64_const.UC_ARM64_REG_SP,
        ]
        mode = unicorn.UC_MODE_BIG_ENDIAN if program.big_endian else unicorn.UC_MODE_ARM
        uc = cpu.uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, mode)
        uc.ctl_set_cpu_model(arm64_const.UC_CPU_ARM64_MAX)
        # Unicorn reserves 1 GiB of addresses for each CPU's translations otherwise.
        uc.ctl_set_tcg_buffer_size(_TRANSLATION_BYTES)
        # Only the count ends a turn; without this the address 0 would.
        uc.ctl_exits_enabled(True)
        uc.ctl_set_exits([])
        # The virtual TLB asks us for each page: data from the shared memory, instructions from this CPU's image.
        uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        parking = mmap.mmap(-1, PAGE)
        parking[:8] = to_bytes([0x91000400, 0x17FFFFFF])  # add x0, x0, #1; b .-4
        physical = PAGE
        data, fetch = [], []
        for region in self._memory.regions:
            data.append((region.start, region.end, physical - region.start, region.writable))
            physical = self._map(cpu, physical, region.buffer)
        for start, piece in [*cpu.image, (self._park_address, parking)]:
            fetch.append((start, start + len(piece), physical - start))
            physical = self._map(cpu, physical, piece)
        read, write, fetching = unicorn.UC_PROT_READ, unicorn.UC_PROT_WRITE, unicorn.UC_MEM_FETCH
        storing, executable = unicorn.UC_MEM_WRITE, unicorn.UC_PROT_EXEC

        def fill(uc: Any, address: int, access: int, entry: Any, _: Any) -> bool:
            if access == fetching:
                for start, end, offset in fetch:
                    if start <= address < end:
                        entry.paddr, entry.perms = address + offset, executable
                        return True
                cpu.denied = "has no code to execute there"
                return False
            for start, end, offset, may_write in data:
                if start <= address < end and (may_write or access != storing):
                    entry.paddr, entry.perms = address + offset, read | (write if may_write else 0)
                    return True
            verb, why = ("wrote", "may not be written") if access == storing else ("read", "is not mapped")
            # Only the granule of translation is known here.
            cpu.denied = f"{verb} {address:#x} or one of the {_GRANULE - 1} bytes behind it, which {why}"
            return False

        def interrupt(uc: Any, number: int, _: Any) -> None:
            try:
                self._exception(cpu, number)
            except BaseException as error:
                cpu.failure = error
                uc.emu_stop()

        uc.hook_add(unicorn.UC_HOOK_TLB_FILL, fill)
        uc.hook_add(unicorn.UC_HOOK_INTR, interrupt)
        # Unicorn means physical addresses here; a store that begins up to 15 bytes before may reach into the range.
        for start, end in writable:
            for low, high, offset, _ in data:
                if low < end and start < high:

                    def stored(
                        uc: Any, access: int, address: int, size: int, value: int, _: Any, offset: int = offset
                    ) -> None:
                        self._note_store(cpu, address - offset, size)

                    first, last = max(low, start - 15) + offset, min(high, end) + offset - 1
                    uc.hook_add(unicorn.UC_HOOK_MEM_WRITE, stored, None, first, last)
        uc.reg_write(arm64_const.UC_ARM64_REG_CPACR_EL1, 3 << 20)
        cpu.pc = program.entry
        self._set(cpu, 0, cpu.number)
        self._set(cpu, 1, self.cpus)
        self._set(cpu, 31, stack)

    def _map(self, cpu: _Cpu, physical: int, buffer: mmap.mmap) -> int:
        pointer = ctypes.c_char.from_buffer(buffer)
        cpu.keep.append(pointer)
        cpu.uc.mem_map_ptr(physical, len(buffer), self._unicorn.UC_PROT_ALL, ctypes.addressof(pointer))
        return physical + len(buffer)

    # Small things

    def _get(self, cpu: _Cpu, number: int) -> int:
        return int(cpu.uc.reg_read(self._registers[number]))

    def _set(self, cpu: _Cpu, number: int, value: int) -> None:
        cpu.uc.reg_write(self._registers[number], value & (1 << 64) - 1)

    def _regions_of(self, start: int, end: int) -> Iterable[Any]:
        return (region for region in self._memory.regions if region.start < end and start < region.end)

    def _is_code(self, address: int) -> bool:
        return any(start <= address < end for start, end in self._code)

    def _require_code(self, address: int, size: int) -> None:
        if size < 0 or not any(start <= address and address + size <= end for start, end in self._code):
            raise MappingError(
                f"{address:#x} and the {size} bytes from there on are not all code; "
                "only what the simulated program maps as code can be patched"
            )

    def _require_open(self) -> None:
        if self._closed:
            raise TargetError("the simulator is closed; open it again")


_BOOLEANS = {"0": False, "1": True}
_URL_KEYS: dict[str, Callable[[str], Any]] = {
    "cpus": int,
    "seed": int,
    "quantum": int,
    "idc": _BOOLEANS.__getitem__,
    "dic": _BOOLEANS.__getitem__,
    "broadcast": _BOOLEANS.__getitem__,
    "cache": str,
    "early": float,
    "line": int,
    "interleave": int,
    "writer": int,
}


def parse_url(text: str) -> Simulator:
    """The simulator that `sim:PATH?cpus=4&seed=1` means; the keys are the constructor's, `line` in bytes, flags 0 or 1.

    RequestError for an unknown key, a key given twice, or a value that is none; else as `Simulator.from_elf`.
    """
    scheme, colon, rest = text.partition(":")
    path, _, query = rest.partition("?")
    if scheme != "sim" or not colon or not path:
        raise RequestError(f"{text[:200]!r} is not sim:PATH?cpus=4&seed=1")
    options: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=100) if query else []
    except ValueError:
        raise RequestError(f"{query[:200]!r} is not a list of KEY=VALUE with & between") from None
    for key, value in pairs:
        convert = _URL_KEYS.get(key)
        if convert is None:
            raise RequestError(f"the simulator has no setting {key[:40]!r}; it knows {', '.join(_URL_KEYS)}")
        name = {"line": "line_size"}.get(key, key)
        if name in options:
            raise RequestError(f"the setting {key!r} is given twice; give it once")
        try:
            if not (value.isascii() and len(value) <= 40 and "_" not in value and value == value.strip()):
                raise ValueError
            options[name] = convert(value)
        except (ValueError, KeyError):
            kind = "0 or 1" if convert == _BOOLEANS.__getitem__ else "a number"
            raise RequestError(f"{key}={value[:40]!r} makes no sense to the simulator; give {kind}") from None
    simulator = Simulator.from_elf(path, **options)
    if query:
        identity = simulator._identity
        simulator._identity = replace(identity, location=f"{identity.location}?{query}")
    return simulator


def _require(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise RequestError(f"{name}={value} is out of range; give a number from {low} to {high}")


def _import_unicorn() -> Any:
    try:
        import unicorn
        import unicorn.unicorn_py3.unicorn
    except ImportError as error:
        raise CapabilityError("the simulator needs unicorn: pip install 'a64patch[sim]'") from error
    return unicorn

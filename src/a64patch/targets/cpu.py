"""One CPU of the simulator: Unicorn executes the words that this CPU has fetched, on the memory that all CPUs share.

unicorn loads when the first CPU is made.
Read on: fetched.py holds the fetched words; simulator.py gives the CPU turns.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Any

from a64patch.a64.words import INSN_SIZE, to_bytes
from a64patch.errors import CapabilityError, TargetError
from a64patch.targets.caches import CacheModel
from a64patch.targets.fetched import SVC, Fetched, Trap, trap_of
from a64patch.targets.program import PAGE, Program, Region

# Bytes: Unicorn's granule of address translation for AArch64, and its buffer for one CPU's translated code.
_GRANULE = 1024
_TRANSLATION_BYTES = 64 << 20

# Bytes of the longest store.
_LONGEST_STORE = 16

# add x0, x0, #1; b .-4
_PARKING_LOOP = (0x91000400, 0x17FFFFFF)

# QEMU's exception numbers, as Unicorn's interrupt hook reports them.
_EXCEPTIONS = {1: "an undefined instruction", 7: "a breakpoint (BRK)", 11: "HVC", 13: "SMC"}
_EXCEPTION_SVC = 2

_ZERO_REGISTER = 31


class SimulationError(TargetError):
    """A simulated CPU cannot go on: a fault, an undefined instruction, an exception without a handler."""

    def __init__(self, cpu: int, pc: int, what: str) -> None:
        super().__init__(f"CPU {cpu} at {pc:#x} {what}")
        self.cpu = cpu
        self.pc = pc


class Cpu:
    """One CPU, at the entry of its program, all registers 0.

    The CPU carries out barriers and cache maintenance on the cache model, and tells the model of its stores to code.
    It calls `synchronise(number)` for a context synchronisation event, and `system_call(cpu)` for SVC #0. Exception
    vectors and translation tables are not simulated.
    """

    def __init__(
        self,
        number: int,
        program: Program,
        caches: CacheModel,
        *,
        ctr_el0: int,
        parking: int,
        synchronise: Callable[[int], None],
        system_call: Callable[[Cpu], None],
    ) -> None:
        """`parking` is the address of an unused page. CapabilityError when unicorn is not installed."""
        self.number = number
        self.pc = program.entry
        """Between two turns, the address of the next instruction."""
        self.instructions = 0
        """The number of executed instructions, without those of a turn that ended in a SimulationError."""
        self.exit_code: int | None = None
        self.halted = False
        self.parked = False
        self.kicked = False
        """An interrupt was sent to this CPU, and not taken yet. The simulator sets these last four attributes."""

        self._program = program
        self._memory = program.memory
        self._caches = caches
        self._ctr_el0 = ctr_el0
        self._park_address = parking
        self._synchronise = synchronise
        self._system_call = system_call
        self._fetched = Fetched(program.memory, program.code)
        self._stored: dict[int, int] = {}
        """The old words of the code that this turn has stored to. `_flush_stores` reads the new words."""
        self._parking = -1
        """The program's x0, while the CPU spends the rest of a turn in the parking loop; else negative."""
        self._denied = ""
        """The last access that memory refused."""
        self._failure: BaseException | None = None
        self._uc: Any = None
        self._handle: Any = None
        self._kept: list[Any] = []
        self._physical = PAGE
        """The first physical address that no buffer has yet."""
        self._data: list[tuple[int, int, int, bool]] = []
        self._code: list[tuple[int, int, int]] = []
        self._power_on()

    def turn(self, count: int) -> None:
        """Execute `count` instructions, fewer after `end_turn`. SimulationError when the CPU cannot go on."""
        status = self._start(self._handle, self.pc, 0, 0, count)
        self._get_register(self._handle, self._pc_register, self._value_reference)
        pc = self._value.value
        if self._stored:
            self._flush_stores()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if status:
            self.pc = pc
            what = self._denied or f"failed: {self._unicorn.UcError(status)}"
            self._denied = ""
            raise SimulationError(self.number, pc, what)
        self.instructions += count
        if self._parking < 0:
            self.pc = pc
        else:
            # The parking loop, two instructions a round, has counted the rest of the turn.
            self.instructions -= 2 * self.register(0) - (pc - self._park_address) // INSN_SIZE
            self.set_register(0, self._parking)
            self._parking = -1

    def end_turn(self) -> None:
        """End the turn after the current system call, which is the last instruction that counts."""
        self.pc = self._uc.reg_read(self._pc_register)
        self._parking = self.register(0)
        self.set_register(0, 0)
        self._uc.reg_write(self._pc_register, self._park_address)

    def register(self, number: int) -> int:
        """General register x0 to x30; number 31 is SP."""
        return int(self._uc.reg_read(self._registers[number]))

    def set_register(self, number: int, value: int) -> None:
        """Put the low 64 bits of a value in x0 to x30, or in SP (number 31)."""
        self._uc.reg_write(self._registers[number], value & (1 << 64) - 1)

    def word(self, address: int) -> int:
        """The word that this CPU would now execute at this address of the code."""
        return self._fetched.word(address)

    def fetch(self, address: int, word: int) -> None:
        """From now on this CPU executes this word at the address."""
        self._fetched.put(address, word)
        self._uc.ctl_remove_cache(address, address + INSN_SIZE)

    def watch(self, start: int, end: int, record: Callable[[Cpu, int, int], None]) -> None:
        """Call `record(cpu, address, word)` before each instruction that this CPU executes in [start, end)."""
        word = self._fetched.word

        def executing(uc: Any, address: int, size: int, data: Any) -> None:
            record(self, address, word(address))

        self._uc.hook_add(self._unicorn.UC_HOOK_CODE, executing, None, start, end - 1)
        self._uc.ctl_flush_tb()

    def close(self) -> None:
        """Give everything back. The CPU is unusable afterwards."""
        self._uc = self._handle = None
        self._kept.clear()
        self._fetched.pieces.clear()

    # Called by Unicorn

    def _translate(self, uc: Any, address: int, access: int, entry: Any, _: Any) -> bool:
        """Fill one entry of the virtual TLB: data from the shared memory, instructions from the fetched words."""
        unicorn = self._unicorn
        if access == unicorn.UC_MEM_FETCH:
            for start, end, offset in self._code:
                if start <= address < end:
                    entry.paddr, entry.perms = address + offset, unicorn.UC_PROT_EXEC
                    return True
            self._denied = "has no code to execute there"
            return False
        storing = access == unicorn.UC_MEM_WRITE
        for start, end, offset, may_write in self._data:
            if start <= address < end and (may_write or not storing):
                entry.paddr = address + offset
                entry.perms = unicorn.UC_PROT_READ | (unicorn.UC_PROT_WRITE if may_write else 0)
                return True
        verb, why = ("wrote", "may not be written") if storing else ("read", "is not mapped")
        # Unicorn tells the granule, not the exact address.
        self._denied = f"{verb} {address:#x} or one of the {_GRANULE - 1} bytes behind it, which {why}"
        return False

    def _interrupt(self, uc: Any, exception: int, _: Any) -> None:
        # An exception may not pass through Unicorn, so `turn` raises it.
        try:
            self._take(exception)
        except BaseException as error:
            self._failure = error
            uc.emu_stop()

    def _take(self, exception: int) -> None:
        pc = self._uc.reg_read(self._pc_register)
        if exception != _EXCEPTION_SVC:
            what = _EXCEPTIONS.get(exception, f"exception {exception} of Unicorn")
            self.pc = pc
            raise SimulationError(self.number, pc, f"met {what}, and nothing handles it")
        if self._stored:
            self._flush_stores()
        address = pc - INSN_SIZE
        replaced = self._fetched.replaced(address)
        if replaced is not None:
            self._carry_out(replaced)
            return
        word = self._fetched.word(address)
        if word != SVC:
            number = word >> 5 & 0xFFFF
            raise SimulationError(self.number, address, f"executed SVC #{number}; the simulator knows SVC #0")
        self._system_call(self)
        # Taking an exception and returning from it are context synchronisation events.
        self._synchronise(self.number)

    def _carry_out(self, word: int) -> None:
        register = word & 31
        match trap_of(word):
            case Trap.SYNCHRONISE:
                self._synchronise(self.number)
            case Trap.BARRIER:
                self._caches.barrier(self.number)
            case Trap.STORE_BARRIER:
                self._caches.store_barrier(self.number)
            case Trap.READ_CTR_EL0:
                if register != _ZERO_REGISTER:
                    self.set_register(register, self._ctr_el0)
            case Trap.INVALIDATE_ALL:
                self._caches.invalidate_all(self.number, inner_shareable=True)
            case Trap.INVALIDATE_OWN:
                self._caches.invalidate_all(self.number, inner_shareable=False)
            case Trap.INVALIDATE:
                self._caches.invalidate(self.number, self._operand(register))
            case Trap.CLEAN:
                self._caches.clean(self.number, self._operand(register))

    def _operand(self, register: int) -> int:
        return 0 if register == _ZERO_REGISTER else self.register(register)

    def _note_store(self, address: int, size: int) -> None:
        # Called before the store is done. `_flush_stores` reads the new word, before it can have an effect.
        for word in range(address & -INSN_SIZE, address + size, INSN_SIZE):
            if word not in self._stored and self._program.is_code(word, INSN_SIZE):
                self._stored[word] = self._memory.word(word)

    def _flush_stores(self) -> None:
        stored, self._stored = self._stored, {}
        for word, old in stored.items():
            self._caches.store(word, old, self._memory.word(word))

    # Construction

    def _power_on(self) -> None:
        unicorn = self._unicorn = _import_unicorn()
        from unicorn import arm64_const
        from unicorn.unicorn_py3.unicorn import uclib

        self._pc_register = arm64_const.UC_ARM64_REG_PC
        self._registers = [
            *(arm64_const.UC_ARM64_REG_X0 + index for index in range(29)),
            arm64_const.UC_ARM64_REG_X29,
            arm64_const.UC_ARM64_REG_X30,
            arm64_const.UC_ARM64_REG_SP,
        ]
        mode = unicorn.UC_MODE_BIG_ENDIAN if self._program.big_endian else unicorn.UC_MODE_ARM
        uc: Any = unicorn.Uc(unicorn.UC_ARCH_ARM64, mode)
        self._uc = uc
        # These two are called once a turn: the binding's own wrappers take three times as long.
        self._handle = uc._uch
        self._start = uclib.uc_emu_start
        self._get_register = uclib.uc_reg_read
        self._value = ctypes.c_uint64()
        self._value_reference = ctypes.byref(self._value)

        uc.ctl_set_cpu_model(arm64_const.UC_CPU_ARM64_MAX)
        # Unicorn reserves 1 GiB of addresses for each CPU's translations otherwise.
        uc.ctl_set_tcg_buffer_size(_TRANSLATION_BYTES)
        # Only the count ends a turn. By default the address 0 would end it too.
        uc.ctl_exits_enabled(True)
        uc.ctl_set_exits([])
        uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self._map_all()
        uc.hook_add(unicorn.UC_HOOK_TLB_FILL, self._translate)
        uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self._hook_stores()
        uc.reg_write(arm64_const.UC_ARM64_REG_CPACR_EL1, 3 << 20)

    def _map_all(self) -> None:
        """Give each buffer physical addresses of its own, and note their distance from the program's addresses."""
        parking = mmap.mmap(-1, PAGE)
        parking[: len(_PARKING_LOOP) * INSN_SIZE] = to_bytes(_PARKING_LOOP)
        for region in self._memory.regions:
            self._data.append((region.start, region.end, self._map(region.buffer) - region.start, region.writable))
        for start, piece in [*self._fetched.pieces, (self._park_address, parking)]:
            self._code.append((start, start + len(piece), self._map(piece) - start))

    def _map(self, buffer: mmap.mmap) -> int:
        """Give a buffer a physical address."""
        physical, self._physical = self._physical, self._physical + len(buffer)
        pointer = ctypes.c_char.from_buffer(buffer)
        self._kept.append(pointer)
        self._uc.mem_map_ptr(physical, len(buffer), self._unicorn.UC_PROT_ALL, ctypes.addressof(pointer))
        return physical

    def add_code(self, region: Region) -> None:
        """From now on the region is code: its words are fetched as they are in memory now."""
        piece = self._fetched.add(region.start, region.end)
        self._data.append((region.start, region.end, self._map(region.buffer) - region.start, region.writable))
        self._code.append((region.start, region.end, self._map(piece) - region.start))

    def remove_code(self, region: Region) -> None:
        """From now on nothing is mapped there. Its buffers stay until `close`."""
        self._fetched.remove(region.start)
        self._data = [each for each in self._data if each[0] != region.start]
        self._code = [each for each in self._code if each[0] != region.start]
        self._uc.ctl_remove_cache(region.start, region.end)
        self._uc.ctl(self._unicorn.UC_CTL_TLB_FLUSH, self._unicorn.UC_CTL_IO_WRITE)

    def _hook_stores(self) -> None:
        # This hook takes physical addresses. A store that begins before the code may reach into it.
        for start, end in self._program.writable_code:
            for low, high, offset, _ in self._data:
                if low < end and start < high:

                    def stored(
                        uc: Any, access: int, address: int, size: int, value: int, _: Any, offset: int = offset
                    ) -> None:
                        self._note_store(address - offset, size)

                    first, last = max(low, start - (_LONGEST_STORE - 1)) + offset, min(high, end) + offset - 1
                    self._uc.hook_add(self._unicorn.UC_HOOK_MEM_WRITE, stored, None, first, last)


def _import_unicorn() -> Any:
    try:
        import unicorn
        import unicorn.unicorn_py3.unicorn
    except ImportError as error:
        raise CapabilityError("the simulator needs unicorn: pip install 'a64patch[sim]'") from error
    return unicorn

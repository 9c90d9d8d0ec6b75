"""Which addresses of a live kernel are code, by the translation tables that its CPUs use, and whose code each is.

Read on: page_tables.py, which reads the tables; symbols.py for the names.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from a64patch.errors import CapabilityError, FormatError, TargetError
from a64patch.kernel.kallsyms import KernelSymbol
from a64patch.kernel.page_tables import Mapping, Registers, executable_mappings
from a64patch.oneline import shown
from a64patch.targets.base import Target
from a64patch.targets.stub import KERNEL_HALF
from a64patch.targets.symbols import Symbol

_LEAST_CODE = 1 << 20
"""Bytes: fewer than any kernel has. While a CPU executes a user's program, KPTI shows it the few pages of a trampoline
(CONFIG_UNMAP_KERNEL_AT_EL0)."""
_TRIES = 50
_PAUSE = 0.01
"""Seconds."""
_REGISTERS = ("TTBR1", "TCR", "SCTLR", "TCR2", "PIR", "PIRE0")
"""The fields of page_tables.Registers. A kernel at EL2 (FEAT_VHE) has registers of the same form there."""
_OTHER_NAMES = {"SCTLR_EL1": "SCTLR"}
"""QEMU's, where it has another name than the Arm ARM."""


class Owner(Enum):
    """Whose code it is; the value is for people."""

    KERNEL = "kernel text"
    MODULE = "module"
    ALIAS = "a part of the kernel at a second address"
    """Such as the KPTI trampoline, a part of the text in Linux 5.10, of the read-only data in 6.1 and newer."""
    OTHER = "made at run time"
    """By BPF, kprobes or ftrace, or of a module whose name is not known."""


class Code(NamedTuple):
    """Executable addresses [start, end) of a kernel, in bytes, and whose they are."""

    start: int
    end: int
    writable: bool
    """The kernel may write there by these addresses."""
    owner: Owner
    modules: tuple[str, ...] = ()
    """The modules with a symbol there; more than one if their code adjoins."""

    def __repr__(self) -> str:
        whose = " ".join((self.owner.value, *self.modules))
        return shown(self, f"{self.start:#x}-{self.end:#x}", whose + (", writable" if self.writable else ""))


def executable(target: Target) -> tuple[Mapping, ...]:
    """All addresses from which the kernel of a live target may fetch instructions, ascending.

    Takes the tables of a CPU that now sees the whole kernel. When all CPUs execute users' programs, the machine runs on
    for 10 ms and is halted again, up to 50 times. Each look halts the machine for one packet exchange a level.

    The kernel may map more code, or less, as soon as the machine runs on. The lower half of what the tables translate
    is only read when a CPU executes there: since 5.4 Linux has its linear map there (14c127c957c1), before its code.

    CapabilityError when the target does not tell TTBR1_EL1 and TCR_EL1, or does not read physical addresses.
    TargetError when no CPU was seen with the tables of a kernel. Else as `executable_mappings`.
    """
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE)
        with target.stop():
            if mappings := _now(target):
                return mappings
    raise TargetError(
        f"none of the CPUs at {target.location or 'this target'} had the translation tables of a kernel:"
        " try again while the machine does something in its kernel"
    )


def _now(target: Target) -> tuple[Mapping, ...]:
    """The mappings of the first CPU that sees a whole kernel; empty when none does. The CPUs are halted."""
    names = [f"{name}_EL{level}" for level in (1, 2) for name in _REGISTERS]
    cpus = target.system_registers(["cpsr", *names, *_OTHER_NAMES.values()])
    seen = set()
    # Those in the kernel first. Without KPTI the others see all of it too.
    for cpu in sorted(cpus, key=lambda cpu: cpu["pc"] < KERNEL_HALF):
        registers = _registers(cpu, target.capabilities.kind)
        in_kernel = cpu["pc"] >= KERNEL_HALF
        if registers in seen:
            continue
        seen.add(registers)
        try:
            mappings = executable_mappings(registers, target.read_physical_many, above=_above(cpu["pc"], registers.tcr))
        except FormatError:
            if in_kernel:
                raise
            continue
        whole = sum(each.end - each.start for each in mappings) >= _LEAST_CODE
        if whole and (not in_kernel or any(each.start <= cpu["pc"] < each.end for each in mappings)):
            return mappings
    return ()


def _registers(cpu: dict[str, int], kind: str) -> Registers:
    """Those of the exception level at which the kernel of this CPU executes. TTBR1 is without ASID and CnP."""
    level = 2 if cpu.get("cpsr", 0) >> 2 & 3 == 2 else 1
    names = [f"{name}_EL{level}" for name in _REGISTERS]
    if missing := [name for name in names[:2] if name not in cpu]:
        raise CapabilityError(f"the {kind} does not tell {missing[0]}")
    ttbr1, *others = (cpu.get(name, cpu.get(_OTHER_NAMES.get(name, ""), 0)) for name in names)
    return Registers(ttbr1 & (1 << 48) - 2, *others)


def _above(pc: int, tcr: int) -> int:
    """The middle of the addresses that the tables translate; 0 when a kernel executes below it."""
    middle = (1 << 64) - (1 << (63 - (tcr >> 16 & 0x3F)))
    return 0 if KERNEL_HALF <= pc < middle else middle


def with_owners(mappings: Iterable[Mapping], symbols: Iterable[Symbol | KernelSymbol]) -> tuple[Code, ...]:
    """Whose code each mapping is, as far as symbols tell. A symbol without a module is the kernel's.

    The kernel's text is the mapping with `_stext`, and its image reaches to `__init_begin`; without these names no
    mapping is the kernel's, or an alias. Reads nothing.
    """
    mappings = tuple(mappings)
    placed = sorted((symbol.address, symbol.module, symbol.name) for symbol in symbols)
    named = {name: address for address, module, name in placed if not module and name in ("_stext", "__init_begin")}
    start, end = named.get("_stext", -1), named.get("__init_begin", -1)
    kernel = next((each for each in mappings if each.start <= start < each.end), None)
    found = []
    for each in mappings:
        inside = placed[bisect_left(placed, (each.start,)) : bisect_left(placed, (each.end,))]
        modules = tuple(dict.fromkeys(module for _, module, _ in inside if module))
        owner = Owner.OTHER
        if each is kernel:
            owner = Owner.KERNEL
        elif modules:
            owner = Owner.MODULE
        elif kernel and 0 <= each.physical - kernel.physical < end - kernel.start:
            owner = Owner.ALIAS
        found.append(Code(each.start, each.end, each.writable, owner, modules))
    return tuple(found)

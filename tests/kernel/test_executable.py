"""Whose tables are walked, and whose code each range is: CPUs in the kernel, in users' programs, at EL2, and none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from a64patch.errors import CapabilityError, FormatError, TargetError
from a64patch.kernel import executable as module
from a64patch.kernel.executable import Code, Owner, executable, with_owners
from a64patch.kernel.kallsyms import KernelSymbol
from a64patch.kernel.page_tables import Mapping
from a64patch.targets.base import Capabilities, Target
from a64patch.targets.symbols import Symbol
from tests.kernel.page_tables import CODE, FORMS, PXN, Tables
from tests.targets.clock import Clock

FORM = next(form for form in FORMS if form.name == "4K, 48 bits")
TEXT, TEXT_PAGE, TEXT_SIZE = 0xFFFFA00010000000, 0x4020_0000, 0x200000
TRAMPOLINE = 0xFFFFFFFFFF5F0000
USERS_PC = 0x40_0000
EL1, EL2 = 0x3C5, 0x3C9
"""PSTATE of a CPU in a kernel."""


def kernel_tables() -> Tables:
    """A text of 2 MiB, the trampoline, and a linear map of pages without PXNTable, as Linux had it until 5.12."""
    tables = Tables(FORM)
    tables.map(TEXT, TEXT_PAGE, above=1)
    tables.map(TRAMPOLINE, TEXT_PAGE + 0x3000)
    for number in range(4):
        tables.map(FORM.start + (number << 21), number << 21, CODE | PXN)
    return tables


def trampoline_tables() -> Tables:
    tables = Tables(FORM, place=0x5000_0000)
    tables.map(TRAMPOLINE, TEXT_PAGE + 0x3000)
    return tables


KERNEL = [
    Mapping(TEXT, TEXT + TEXT_SIZE, TEXT_PAGE, writable=False),
    Mapping(TRAMPOLINE, TRAMPOLINE + 0x1000, TEXT_PAGE + 0x3000, writable=False),
]


@dataclass
class Cpus(Target):
    """Halted CPUs with these registers; each stop takes the next state, and the last one stays."""

    states: list[list[dict[str, int]]]
    tables: Sequence[Tables]
    capabilities: Capabilities = field(
        default=Capabilities("machine", 1, can_stop=True, can_kick=True, sees_pcs=True, broadcast=True)
    )
    stops: int = 0
    halted: bool = False
    asked: set[str] = field(default_factory=set)

    @contextmanager
    def stop(self) -> Iterator[Any]:
        self.stops, self.halted = self.stops + 1, True
        yield None
        self.halted = False

    def system_registers(self, names: Sequence[str]) -> list[dict[str, int]]:
        assert self.halted
        self.asked |= set(names)
        return self.states[min(self.stops, len(self.states)) - 1]

    def read_physical_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes]:
        assert self.halted
        owner = next(tables for tables in self.tables if requests[0][0] in tables.memory)
        return owner.read(requests)


def machine(states: list[list[dict[str, int]]], tables: Sequence[Tables]) -> Cpus:
    return Cpus(states, tables)  # type: ignore[abstract]


def cpu(tables: Tables, pc: int = TEXT + 0x40, asid: int = 0, level: int = 1, **more: int) -> dict[str, int]:
    registers = {f"TTBR1_EL{level}": tables.ttbr | asid << 48 | 1, f"TCR_EL{level}": FORM.tcr}
    return {"pc": pc, "cpsr": EL2 if level == 2 else EL1, **registers, **more}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_code_that_a_cpu_in_the_kernel_sees() -> None:
    tables = kernel_tables()
    target = machine([[cpu(tables)]], [tables])
    assert list(executable(target)) == KERNEL
    assert [len(call) for call in tables.reads] == [1, 2, 2, 1]
    assert target.stops == 1
    assert not target.halted


def test_equal_tables_of_many_cpus_are_walked_once() -> None:
    tables = kernel_tables()
    target = machine([[cpu(tables, pc=USERS_PC + asid, asid=asid) for asid in range(8)]], [tables])
    assert list(executable(target)) == KERNEL, "without KPTI a CPU in a user's program sees the kernel"
    assert len(tables.reads) == 4


def test_the_linear_map_is_not_read_for_a_cpu_in_a_users_program() -> None:
    tables = kernel_tables()
    executable(machine([[cpu(tables, pc=USERS_PC)]], [tables]))
    assert [len(call) for call in tables.reads] == [1, 2, 2, 1]


def test_a_cpu_in_the_kernel_is_asked_first() -> None:
    """Its PC tells whether the tables are those of the kernel that it executes."""
    tables = kernel_tables()
    states = [cpu(tables, pc=USERS_PC), cpu(tables, pc=TEXT + TEXT_SIZE)]
    with pytest.raises(TargetError, match="none of the CPUs"):
        executable(machine([states], [tables]))


def test_a_cpu_that_sees_a_trampoline_only_is_passed_over() -> None:
    whole, part = kernel_tables(), trampoline_tables()
    for pc in (USERS_PC, TRAMPOLINE + 0x800):
        states = [[cpu(part, pc), cpu(part, USERS_PC)], [cpu(part, pc)], [cpu(part, pc), cpu(whole)]]
        target = machine(states, [whole, part])
        assert list(executable(target)) == KERNEL
        assert target.stops == 3
    part.reads.clear()
    users = machine([[cpu(part, USERS_PC, asid) for asid in range(8)]], [part])
    with pytest.raises(TargetError, match="none of the CPUs"):
        executable(users)
    assert len(part.reads) == 4 * users.stops, "the tables of all CPUs are the same"


def test_the_tries_are_bounded(clock: Clock) -> None:
    target = machine([[]], [])
    with pytest.raises(TargetError, match="none of the CPUs at this target had the translation tables of a kernel"):
        executable(target)
    assert target.stops == 50
    assert clock.monotonic() == pytest.approx(0.49)


def test_a_kernel_at_el2_has_its_own_registers() -> None:
    tables = kernel_tables()
    guest = {"TTBR1_EL1": 0xDEAD_0000, "TCR_EL1": FORM.tcr}
    assert list(executable(machine([[cpu(tables, level=2, **guest)]], [tables]))) == KERNEL


def test_tables_that_do_not_map_the_pc_are_of_another_kernel() -> None:
    tables = kernel_tables()
    target = machine([[cpu(tables, pc=TEXT + TEXT_SIZE)]], [tables])
    with pytest.raises(TargetError, match="none of the CPUs"):
        executable(target)


@pytest.mark.parametrize("missing", ["TTBR1_EL1", "TCR_EL1"])
def test_without_the_registers_nothing_is_known(missing: str) -> None:
    tables = kernel_tables()
    registers = cpu(tables)
    del registers[missing]
    with pytest.raises(CapabilityError, match=f"the machine does not tell {missing}"):
        executable(machine([[registers]], [tables]))


def test_garbage_in_a_register_is_an_error_only_in_the_kernel() -> None:
    tables = kernel_tables()
    bad = {"TTBR1_EL1": 0, "TCR_EL1": 0, "cpsr": EL1}
    with pytest.raises(FormatError, match="TCR_EL1 0x0"):
        executable(machine([[{**bad, "pc": TEXT}, cpu(tables)]], [tables]))
    assert list(executable(machine([[{**bad, "pc": USERS_PC}, cpu(tables, USERS_PC)]], [tables]))) == KERNEL


@pytest.mark.parametrize("name", ["SCTLR", "SCTLR_EL1"])
def test_more_registers_count_by_either_name(name: str) -> None:
    tables = kernel_tables()
    tables.big_endian = True
    target = machine([[cpu(tables, **{name: 1 << 25})]], [tables])
    assert list(executable(target)) == KERNEL
    assert name in target.asked
    with pytest.raises(CapabilityError, match="TCR2_EL1"):
        executable(machine([[cpu(tables, TCR2_EL1=1 << 5)]], [tables]))
    tables.big_endian = False
    rights = {"TCR2_EL1": 1 << 1, "PIR_EL1": 0xA << 32}
    assert list(executable(machine([[cpu(tables, **rights)]], [tables]))) == KERNEL
    with pytest.raises(TargetError, match="none of the CPUs"):
        executable(machine([[cpu(tables, **rights, PIRE0_EL1=0xC << 32)]], [tables]))


def test_all_tables_are_read_when_the_kernel_is_below_the_middle() -> None:
    """Linux before 5.4."""
    tables = Tables(FORM)
    tables.map(FORM.start + (1 << 30), TEXT_PAGE, above=1)
    tables.map(TEXT | 1 << 47, 0x1000)
    found = executable(machine([[cpu(tables, pc=FORM.start + (1 << 30))]], [tables]))
    assert [each.start for each in found] == [FORM.start + (1 << 30), TEXT | 1 << 47]


MODULE, PROGRAM = 0xFFFFA0000F000000, 0xFFFF800080100000
MAPPED = [
    Mapping(PROGRAM, PROGRAM + 0x1000, 0x4F00_0000, writable=True),
    Mapping(MODULE, MODULE + 0x3000, 0x4700_0000, writable=False),
    *KERNEL,
]
NAMES = [
    ("_text", TEXT, ""),
    ("_stext", TEXT + 0x10000, ""),
    ("_etext", TEXT + TEXT_SIZE, ""),
    ("__init_begin", TEXT + 2 * TEXT_SIZE, ""),
    ("brd_init", MODULE + 0x800, "brd"),
    ("brd_exit", MODULE + 0x900, "brd"),
    ("tun_init", MODULE + 0x2000, "tun"),
    ("brd_data", MODULE + 0x3000, "data"),
]


@pytest.mark.parametrize("kind", [Symbol, KernelSymbol])
def test_whose_code_it_is(kind: type[Symbol | KernelSymbol]) -> None:
    symbols: list[Symbol | KernelSymbol] = [
        Symbol(name, address, module=owner) if kind is Symbol else KernelSymbol(address, "t", name, owner)
        for name, address, owner in NAMES
    ]
    assert list(with_owners(MAPPED, symbols)) == [
        Code(PROGRAM, PROGRAM + 0x1000, True, Owner.OTHER),
        Code(MODULE, MODULE + 0x3000, False, Owner.MODULE, ("brd", "tun")),
        Code(TEXT, TEXT + TEXT_SIZE, False, Owner.KERNEL),
        Code(TRAMPOLINE, TRAMPOLINE + 0x1000, False, Owner.ALIAS),
    ]
    assert {code.owner for code in with_owners(MAPPED, [])} == {Owner.OTHER}


def test_a_part_of_the_image_behind_its_text_is_an_alias_too() -> None:
    names = [Symbol(name, address) for name, address, owner in NAMES if not owner]
    names.append(Symbol("__init_begin", TEXT + 8 * TEXT_SIZE, module="data"))
    behind = [KERNEL[0], KERNEL[1]._replace(physical=TEXT_PAGE + TEXT_SIZE + 0x1000)]
    assert [code.owner for code in with_owners(behind, names)] == [Owner.KERNEL, Owner.ALIAS]
    outside = [KERNEL[0], KERNEL[1]._replace(physical=TEXT_PAGE + 2 * TEXT_SIZE)]
    assert [code.owner for code in with_owners(outside, names)] == [Owner.KERNEL, Owner.OTHER]
    below = [KERNEL[0], KERNEL[1]._replace(physical=TEXT_PAGE - 0x1000)]
    assert [code.owner for code in with_owners(below, names)] == [Owner.KERNEL, Owner.OTHER]


def test_code_is_shown_for_people() -> None:
    code = with_owners(MAPPED, [Symbol("tun_init", MODULE, module="tun")])
    assert repr(code[0]) == "<Code 0xffff800080100000-0xffff800080101000 made at run time, writable>"
    assert repr(code[1]) == "<Code 0xffffa0000f000000-0xffffa0000f003000 module tun>"

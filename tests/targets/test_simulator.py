"""The simulator: programs assembled here, executed by its CPUs, patched while they run.

Read on: test_caches.py for the cache model alone.
"""

from __future__ import annotations

import itertools
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from a64patch.a64.words import from_bytes
from a64patch.errors import (
    A64PatchError,
    BusyError,
    CapabilityError,
    FormatError,
    MappingError,
    RequestError,
    SymbolError,
    TargetError,
)
from a64patch.protocols import Act, Step
from a64patch.targets.base import Rendezvous
from a64patch.targets.cpu import SimulationError
from a64patch.targets.program import load_elf
from a64patch.targets.section import Change, Section
from a64patch.targets.simulator import Simulator
from a64patch.targets.simulator_url import parse_url
from tests.support import assemble, link
from tests.targets.elf_files import section_headers

MOV_1, MOV_2 = 0x52800020, 0x52800040  # mov w0, #1; mov w0, #2
NOP = 0xD503201F

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """An executable from assembly; `big_endian` is aarch64_be."""

    def make(source: str, *options: str, big_endian: bool = False) -> Path:
        order = "-EB" if big_endian else "-EL"
        text = f".arch armv8.5-a+lse\n.globl _start\n{source}\n"
        return link(assemble(text, tmp_path / "program.o", order), tmp_path / "program", order, *options)

    return make


EXIT = "mov x8, #93\n svc #0\n"

# Executes `site` for ever; w19 keeps what it said last.
LOOP = """
_start: bl site
        mov w19, w0
        b _start
site:   mov w0, #1
        ret
"""


def spin(simulator: Simulator, steps: int = 400) -> None:
    simulator.run(steps)


def executed_at(simulator: Simulator, address: int, cpu: int | None = None) -> set[int]:
    return {e.word for e in simulator.executed if e.address == address and (cpu is None or e.cpu == cpu)}


# Programs and their machine


def test_every_cpu_starts_with_its_number_the_number_of_cpus_and_its_own_stack(build: Build) -> None:
    program = build(f"_start: add w0, w0, w1, lsl #4\n mov x2, sp\n str x2, [sp, #-16]!\n {EXIT}")
    simulator = Simulator.from_elf(program, cpus=3)
    assert simulator.run(10_000) < 10_000, "all exit"
    assert [simulator.exit_code(cpu) for cpu in range(3)] == [0x30, 0x31, 0x32]
    stacks = [simulator.register(cpu, 2) for cpu in range(3)]
    assert len(set(stacks)) == 3
    assert all(stack % 16 == 0 for stack in stacks)
    assert not any(simulator.is_running(cpu) for cpu in range(3))
    assert simulator.run(1) == 0


def test_write_is_captured_and_unknown_system_calls_answer_enosys(build: Build) -> None:
    program = build(
        """
_start: mov x0, #1
        adr x1, text
        mov x2, #6
        mov x8, #64
        svc #0
        mov x20, x0
        mov x0, #2
        mov x1, #8
        svc #0
        mov x21, x0
        mov x0, #7
        svc #0
        mov x22, x0
        mov x8, #172
        svc #0
        mov x23, x0
        mov x0, #300
        mov x8, #94
        svc #0
text:   .ascii "hello\\n"
"""
    )
    simulator = Simulator.from_elf(program, cpus=1)
    simulator.run(1000)
    assert bytes(simulator.output) == b"hello\n"
    answers = [simulator.register(0, number) for number in (20, 21, 22, 23)]
    assert answers == [6, -14 % 2**64, -38 % 2**64, -38 % 2**64]
    assert simulator.exit_code(0) == 300 & 0xFF


def test_exit_group_ends_all_cpus_and_exit_one(build: Build) -> None:
    source = "_start: cbnz x0, _start\n mov x8, #{}\n svc #0"
    one = Simulator.from_elf(build(source.format(93)), cpus=3, quantum=5)
    one.run(500)
    assert [one.is_running(cpu) for cpu in range(3)] == [False, True, True]
    every = Simulator.from_elf(build(source.format(94)), cpus=3, quantum=5)
    assert every.run(500) < 500
    assert not any(every.is_running(cpu) for cpu in range(3))


@pytest.mark.parametrize("hint", ["wfe", "wfi", "yield", "wfet x0", "wfit x0", "sev", "dsb #0"])
def test_no_hint_hangs_the_scheduler(build: Build, hint: str) -> None:
    program = build(f".arch armv8.7-a\n_start: {hint}\n add x19, x19, #1\n b _start")
    simulator = Simulator.from_elf(program, cpus=2, quantum=30)
    spin(simulator, 100)
    for cpu in range(2):
        assert simulator.register(cpu, 19) in (simulator.instructions[cpu] // 3, simulator.instructions[cpu] // 3 + 1)


def test_floating_point_and_atomics_work(build: Build) -> None:
    program = build(
        f"""
_start: fmov d0, #2.5
        fadd d0, d0, d0
        fcvtzs x0, d0
        adr x1, counter
        ldadd x0, x2, [x1]
        ldxr x3, [x1]
        stxr w4, x3, [x1]
        {EXIT}
.data
.balign 8
counter: .quad 0
"""
    )
    simulator = Simulator.from_elf(program, cpus=3)
    simulator.run(1000)
    assert simulator.read(simulator.symbols["counter"], 8) == struct.pack("<Q", 15)


@pytest.mark.parametrize("big_endian", [False, True], ids=["aarch64", "aarch64_be"])
@pytest.mark.parametrize("options", [(), ("-pie", "--no-dynamic-linker")], ids=["static", "static-pie"])
def test_elf_of_either_data_endianness_static_or_position_independent(
    build: Build, big_endian: bool, options: tuple[str, ...]
) -> None:
    program = build(
        f"""
_start: adrp x1, pointer
        ldr x1, [x1, :lo12:pointer]
        ldr w0, [x1]
        ldr x2, =0x1122334455667788
        {EXIT}
.data
pointer: .quad value
value:  .word 42
""",
        *options,
        big_endian=big_endian,
    )
    simulator = Simulator.from_elf(program, base=0x4000_0000, cpus=1)
    simulator.run(1000)
    assert simulator.exit_code(0) == 42
    assert simulator.register(0, 2) == 0x1122334455667788
    start, value = simulator.symbols["_start"], simulator.symbols["value"]
    assert (start >= 0x4000_0000) == bool(options)
    assert simulator.read(value, 4) == (b"\0\0\0\x2a" if big_endian else b"\x2a\0\0\0")
    assert from_bytes(simulator.read(start + 8, 4)) == [0xB9400020], "instructions are little-endian always"
    assert simulator.code_ranges()[0][0] <= start < simulator.code_ranges()[0][1]


def test_packed_relative_relocations_are_done_too(build: Build) -> None:
    # Made by hand: an old linker writes no DT_RELR. It covers two pointers, one by address and one by bitmap.
    program = build(
        f"""
_start: adr x1, pointers
        ldp x2, x3, [x1]
        ldr w0, [x2]
        ldr w4, [x3]
        add w0, w0, w4
        {EXIT}
.data
.balign 8
pointers: .quad 0x1234567812345678, 0x8765432187654321
value:  .word 40, 2
"""
    )
    data = program.read_bytes()
    assert load_elf(program, 0).entry
    header = list(struct.unpack_from("<HHIQQQIHHHHHH", data, 16))
    assert header[0] == 2
    # Turn it into ET_DYN with its addresses as they are, and append PT_DYNAMIC with a DT_RELR table.
    table = Simulator.from_elf(program).symbols["pointers"]
    at = len(data) + -len(data) % 8
    phoff, phnum = at, header[9]
    segments = data[header[4] : header[4] + phnum * 56]
    relr_at = phoff + (phnum + 2) * 56
    dynamic_at = relr_at + 16
    far = 0x0F00_0000
    load = struct.pack("<IIQQQQQQ", 1, 4, relr_at, far + relr_at, far + relr_at, 16 + 80, 16 + 80, 8)
    dynamic = struct.pack("<IIQQQQQQ", 2, 4, dynamic_at, far + dynamic_at, far + dynamic_at, 80, 80, 8)
    relr = struct.pack("<QQ", table, 0b11)
    entries = struct.pack("<10Q", 36, far + relr_at, 35, 16, 37, 8, 5, far + relr_at, 0, 0)
    header[0], header[4], header[9] = 3, phoff, phnum + 2
    header[10] = header[11] = header[12] = 0
    header[5] = 0
    new = bytearray(data + bytes(at - len(data)) + segments + load + dynamic + relr + entries)
    struct.pack_into("<HHIQQQIHHHHHH", new, 16, *header)
    # The addends stand in place and count from the load base.
    where = new.index(struct.pack("<QQ", 0x1234567812345678, 0x8765432187654321))
    struct.pack_into("<QQ", new, where, table + 16, table + 20)
    program.write_bytes(new)
    simulator = Simulator.from_elf(program, cpus=1)
    simulator.run(100)
    assert simulator.exit_code(0) == 42


def test_symbols_are_those_of_the_elf_file(build: Build) -> None:
    simulator = Simulator.from_elf(build(LOOP + "\n.set constant, 0x1234\n"))
    assert simulator.symbols["site"] == simulator.symbols["_start"] + 12
    assert simulator.symbols.describe(simulator.symbols["site"] + 4) == "site+0x4"
    for name in ("$x", "constant"):
        with pytest.raises(SymbolError):
            simulator.symbols[name]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("mov x1, #8\n ldr x0, [x1]", "read 0x0 or one of the 1023 bytes behind it, which is not mapped"),
        ("mov x1, #8\n str x0, [x1]", "wrote 0x0 or one of .* which may not be written"),
        ("adr x1, _start\n str x0, [x1]", "which may not be written"),
        ("mov x1, #64\n br x1", "CPU 0 at 0x40 has no code"),
        ("mov x1, sp\n sub x1, x1, #64\n br x1", "has no code to execute there"),
        ("nop\n udf #0", "an undefined instruction"),
        ("nop\n brk #1", "a breakpoint"),
        ("nop\n svc #7", "SVC #7"),
    ],
)
@pytest.mark.parametrize("quantum", [1, 50])
def test_a_fault_says_which_cpu_where_and_what(build: Build, source: str, what: str, quantum: int) -> None:
    simulator = Simulator.from_elf(build(f"_start: {source}\n b ."), cpus=1, quantum=quantum)
    with pytest.raises(SimulationError, match=what) as failure:
        simulator.run(100)
    assert failure.value.cpu == 0
    start = simulator.symbols["_start"]
    assert failure.value.pc in (start + 4, start + 8) or "no code" in what
    assert f"CPU 0 at {failure.value.pc:#x}" in str(failure.value)
    assert isinstance(failure.value, TargetError)


def test_data_beside_code_on_one_page_is_not_code() -> None:
    words = [0x10000041, 0xD61F0020]  # adr x1, .+8; br x1: jumps just behind the code
    simulator = Simulator.from_words(words, cpus=1)
    with pytest.raises(SimulationError, match="undefined instruction"):
        simulator.run(10)


def test_data_that_shares_a_page_with_code_can_be_written() -> None:
    # adr x1, .+0x800; str x1, [x1]; b .
    simulator = Simulator.from_words([0x10004001, 0xF9000021, 0x14000000], data={0x10800: bytes(8)}, cpus=1)
    simulator.run(50)
    assert simulator.read(0x10800, 8) == struct.pack("<Q", 0x10800)


def test_code_and_data_change_in_one_stop_and_every_cpu_sees_both() -> None:
    # adr x1, .+0x800; mov w0, #1; ldr w2, [x1]; b .-8
    words, site, counter, owner = [0x10004001, MOV_1, 0xB9400022, 0x17FFFFFE], 0x10004, 0x10800, 0x10804
    simulator = Simulator.from_words(words, data={counter: bytes(8)}, cpus=4)
    section = Section(
        (Change(site, MOV_1, MOV_2),),
        publish=((site, site + 4),),
        data=(Change(counter, 0, 5),),
        guards=((owner, 0),),
    )
    simulator.run(200)
    assert simulator.carry_out(section).done
    simulator.run(200)
    assert [(simulator.register(cpu, 0), simulator.register(cpu, 2)) for cpu in range(4)] == [(2, 5)] * 4


@pytest.mark.parametrize("address", [0x10000, 0x10004, 0xFFFC, 0x11000, 0x10FFC])
def test_only_mapped_memory_that_is_not_code_is_data(address: int) -> None:
    simulator = Simulator.from_words([MOV_2, 0x14000000], data={0x10800: bytes(8)}, cpus=1)
    simulator.write_data(0x10804, b"abcd")
    with pytest.raises(MappingError):
        simulator.write_data(address, b"abcdefgh")
    assert simulator.read(0x10000, 0x1000) == struct.pack("<II", MOV_2, 0x14000000).ljust(0x804, b"\0") + b"abcd".ljust(
        0x7FC, b"\0"
    )


@pytest.mark.parametrize("high", [0x10000, 0xFFFF_8000_0801_0000])
def test_words_run_at_low_and_at_kernel_addresses(high: int) -> None:
    simulator = Simulator.from_words([MOV_2, 0x14000000], base=high, symbols={"site": high}, data={high + 0x8000: b"x"})
    simulator.run(50)
    assert simulator.register(0, 0) == 2
    assert simulator.symbols["site"] == high
    assert simulator.read(high + 0x8000, 1) == b"x"


# Refusals


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("text", "is not an ELF file"),
        ("empty", "is empty, not an ELF file"),
        ("machine", "is for machine number 62, not for AArch64"),
        ("relocatable", "is not an executable"),
        ("headers cut off", "not a sound ELF file"),
        ("segment cut off", "not a sound ELF file: the segment .* reaches beyond its end"),
        ("segments overlap in the file", "not a sound ELF file: two segments map"),
        ("segments overlap in memory", "contradicts itself: the segment .* overlaps another or the top"),
        ("segment at the top", "contradicts itself: the segment .* overlaps another or the top"),
        ("interpreter", "needs an interpreter"),
        ("entry outside", "where it has no code"),
        ("entry unaligned", "where it has no code"),
        ("nothing to load", "nothing to load"),
    ],
)
def test_what_is_no_static_executable_is_refused(build: Build, tmp_path: Path, damage: str, says: str) -> None:
    program = build(LOOP + "\n.data\n.quad 1\n")
    if damage == "interpreter":
        shared = assemble(".globl f\nf: ret\n", tmp_path / "f.o")
        link(shared, tmp_path / "libf.so", "-shared")
        link([tmp_path / "program.o", tmp_path / "libf.so"], program, "-pie", "-I", "/lib/ld.so")
    data = bytearray(program.read_bytes())
    if damage == "text":
        data = bytearray(b"#!/bin/sh\n")
    elif damage == "empty":
        data = bytearray()
    elif damage == "machine":
        data[18] = 62
    elif damage == "relocatable":
        data[16] = 1
    elif damage == "headers cut off":
        del data[0x60:]
    elif damage.startswith("entry"):
        (entry,) = struct.unpack_from("<Q", data, 24)
        struct.pack_into("<Q", data, 24, entry + (2 if damage == "entry unaligned" else 0x100))
    else:
        # The segments are the code and the data, each with its program header of 56 bytes.
        (headers,) = struct.unpack_from("<Q", data, 32)
        offset, address, _, in_file, in_memory = struct.unpack_from("<5Q", data, headers + 8)
        (next_address,) = struct.unpack_from("<Q", data, headers + 56 + 16)
        if damage == "segment cut off":
            del data[offset + in_file - 4 :]
            struct.pack_into("<Q", data, 40, 0)  # no section headers, which stood behind it
        elif damage == "segments overlap in the file":
            struct.pack_into("<Q", data, headers + 56 + 16, address + in_memory - 8)
        elif damage == "segments overlap in memory":
            struct.pack_into("<Q", data, headers + 40, next_address - address + 8)
        elif damage == "segment at the top":
            struct.pack_into("<Q", data, headers + 56 + 16, (1 << 64) - 4096)
        elif damage == "nothing to load":
            struct.pack_into("<I", data, headers, 4)
            struct.pack_into("<I", data, headers + 56, 4)
    program.write_bytes(data)
    with pytest.raises(FormatError, match=says):
        Simulator.from_elf(program)


def test_a_segment_of_terabytes_is_refused_without_taking_them(build: Build) -> None:
    program = build(LOOP)
    data = bytearray(program.read_bytes())
    (phoff,) = struct.unpack_from("<Q", data, 32)
    struct.pack_into("<Q", data, phoff + 40, 1 << 42)
    program.write_bytes(data)
    with pytest.raises(FormatError, match="256 MiB"):
        Simulator.from_elf(program)


def test_a_relocation_of_what_is_not_mapped_is_refused(build: Build) -> None:
    program = build(LOOP + "\n.data\n.quad site\n", "-pie", "--no-dynamic-linker")
    data = bytearray(program.read_bytes())
    [table] = [fields[4] for _, fields in section_headers(bytes(data)) if fields[1] == 4]
    struct.pack_into("<Q", data, table, 0x7000_0000)
    program.write_bytes(data)
    with pytest.raises(FormatError, match="not a sound ELF file: the relocation at 0x70000000 lies outside"):
        Simulator.from_elf(program)


def test_a_missing_file_and_a_relocation_of_another_kind_are_refused(build: Build, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot read"):
        Simulator.from_elf(tmp_path / "nothing")
    program = build(
        "_start: b _start\n.data\n.globl there\n.weak there\n.quad there\n",
        "-shared",
        "--unresolved-symbols=ignore-all",
    )
    with pytest.raises(FormatError, match="relocation of type 257"):
        Simulator.from_elf(program)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 4000),
    pie=st.booleans(),
)
def test_a_damaged_elf_file_is_loaded_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], cut: int, pie: bool
) -> None:
    data = bytearray(_sound_elf(tmp_path_factory, pie))
    for offset, value in flips:
        data[offset % min(len(data), 0x400)] = value
    if cut < 400:
        del data[cut * len(data) // 400 :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data)
    try:
        image = load_elf(path, 0x10000000)
        list(image.symbols.load())
    except TargetError:
        pass


_SOUND: dict[bool, bytes] = {}


def _sound_elf(tmp_path_factory: pytest.TempPathFactory, pie: bool) -> bytes:
    if pie not in _SOUND:
        folder = tmp_path_factory.mktemp("sound")
        source = f".globl _start\n{LOOP}\n.data\n.quad site\n"
        options = ["-z", "max-page-size=4096", *(["-pie", "--no-dynamic-linker"] if pie else [])]
        _SOUND[pie] = link(assemble(source, folder / "o"), folder / "program", *options).read_bytes()
    return _SOUND[pie]


def test_url(build: Build) -> None:
    program = build("_start: b _start")
    simulator = parse_url(
        f"sim:{program}?cpus=3&seed=7&quantum=2&idc=1&dic=0&broadcast=0&cache=kind&early=0.5&line=32&interleave=0&writer=1"
    )
    assert simulator.cpus == 3
    assert simulator.capabilities.broadcast is False
    assert simulator.capabilities.cpus == 3
    assert simulator.interleave == 0
    assert parse_url(f"sim:{program}").capabilities.broadcast is True


def test_a_program_is_found_again_from_any_directory(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    program = build("_start: b _start")
    monkeypatch.chdir(program.parent)
    location = parse_url(f"sim:{program.name}?cpus=3&seed=7").identity().location
    assert location == f"sim:{program}?cpus=3&seed=7"
    monkeypatch.chdir("/")
    assert parse_url(location).cpus == 3


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("cpu=4", "cpus, seed, quantum, idc, dic, broadcast, cache, early, line, interleave"),
        ("cpus=four", "give a number"),
        ("cpus=1_0", "give a number"),
        ("cpus=0", "out of range"),
        ("cpus=65", "out of range"),
        ("cpus=", "give a number"),
        ("cpus=2&cpus=2", "twice"),
        ("idc=yes", "0 or 1"),
        ("cache=nice", "adversarial"),
        ("early=2", "out of range"),
        ("early=nan", "out of range"),
        ("line=48", "power of two"),
        ("line=64,48", "power of two"),
        ("line=64,", "give a number"),
        ("cpus=3&line=64,64", "2 sizes for 3 CPUs"),
        ("quantum=0", "out of range"),
        ("writer=2", "out of range"),
        ("cpus", "KEY=VALUE"),
    ],
)
def test_a_wrong_url_is_refused_with_what_is_known(build: Build, query: str, says: str) -> None:
    program = build("_start: b _start")
    with pytest.raises(RequestError, match=says) as refusal:
        parse_url(f"sim:{program}?{query}")
    assert isinstance(refusal.value, ValueError)
    assert isinstance(refusal.value, A64PatchError)


@pytest.mark.parametrize("text", ["", "sim", "sim:", "gdb://localhost", "sim:?cpus=2"])
def test_what_is_no_simulator_url_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="sim:PATH"):
        parse_url(text)


def test_without_unicorn_the_simulator_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unicorn", None)
    with pytest.raises(CapabilityError, match="the simulator needs unicorn: pip install"):
        Simulator.from_words([NOP])


# Scheduling


def trace(program: Path, **options: Any) -> tuple[list[tuple[int, int, int, int]], tuple[int, ...]]:
    simulator = Simulator.from_elf(program, cpus=3, **options)
    for start, end in simulator.code_ranges():
        simulator.watch(start, end)
    simulator.run(50)
    simulator.write(simulator.symbols["site"], struct.pack("<I", MOV_2))
    simulator.publish(simulator.symbols["site"], simulator.symbols["site"] + 4)
    simulator.run(200)
    return [tuple(each) for each in simulator.executed], simulator.instructions  # type: ignore[misc]


@pytest.mark.parametrize("quantum", [1, 20])
def test_the_seed_decides_everything(build: Build, quantum: int) -> None:
    program = build(LOOP)
    assert trace(program, seed=5, quantum=quantum) == trace(program, seed=5, quantum=quantum)
    assert trace(program, seed=5, quantum=quantum) != trace(program, seed=6, quantum=quantum)


MIXED = f"""
_start: mov x20, #0
1:      add x20, x20, #1
        str x20, [sp, #-8]
        isb
        dsb ish
        mrs x3, ctr_el0
        ldr x4, =0x123456789
        bl 2f
        mov x8, #172
        svc #0
        cmp x20, #12
        b.ne 1b
        {EXIT}
2:      dc cvau, x20
        ic ivau, x20
        wfe
        ret
"""


@pytest.mark.parametrize("quantum", [2, 7, 100, 5000])
@pytest.mark.parametrize("cache", ["adversarial", "kind"])
def test_what_is_executed_and_counted_does_not_depend_on_the_quantum(build: Build, quantum: int, cache: str) -> None:
    program = build(MIXED, "-N")
    runs = []
    for each in (1, quantum):
        simulator = Simulator.from_elf(program, cpus=1, quantum=each, cache=cache)
        for start, end in simulator.code_ranges():
            simulator.watch(start, end)
        simulator.run(2000)
        assert simulator.exit_code(0) is not None
        assert simulator.instructions == (len(simulator.executed),)
        assert simulator.state(0).pc == simulator.executed[-1].address + 4
        runs.append([(e.address, e.word) for e in simulator.executed])
    assert runs[0] == runs[1]
    words = dict(runs[0])
    for start, end in simulator.code_ranges():
        for index, word in enumerate(from_bytes(simulator.read(start, end - start))):
            assert words.get(start + index * 4, word) == word, "the real word, not the simulator's own"
    assert 0xD5033FDF in words.values(), "ISB was executed"


def test_a_quantum_of_one_is_exactly_one_instruction(build: Build) -> None:
    simulator = Simulator.from_elf(build(LOOP), cpus=2, quantum=1)
    start, end = simulator.code_ranges()[0]
    simulator.watch(start, end)
    simulator.run(500)
    assert [each.step for each in simulator.executed] == list(range(500))
    assert sum(simulator.instructions) == 500
    assert min(simulator.instructions) > 150


def test_a_step_is_at_most_the_quantum_and_one_cpu(build: Build) -> None:
    simulator = Simulator.from_elf(build(LOOP), cpus=3, quantum=5)
    start, end = simulator.code_ranges()[0]
    simulator.watch(start, end)
    simulator.run(300)
    steps: dict[int, list[int]] = {}
    for each in simulator.executed:
        steps.setdefault(each.step, []).append(each.cpu)
    assert {len(cpus) for cpus in steps.values()} == {1, 2, 3, 4, 5}
    assert all(len(set(cpus)) == 1 for cpus in steps.values())


def test_run_until_asks_before_each_step(build: Build) -> None:
    simulator = Simulator.from_elf(build(LOOP), cpus=1, quantum=1)
    assert simulator.run_until(lambda s: s.register(0, 19) == 1, 100)
    assert simulator.steps == 4
    assert not simulator.run_until(lambda s: False, 10)
    assert simulator.steps == 14


def test_on_step_may_patch_and_is_not_called_for_the_steps_of_its_own_patch(build: Build) -> None:
    simulator = Simulator.from_elf(build(LOOP), cpus=2, quantum=3)
    site = simulator.symbols["site"]
    calls: list[int] = []

    def patch(target: Simulator, step: int) -> None:
        calls.append(step)
        if len(calls) == 10:
            with target.stop():
                target.write(site, struct.pack("<I", MOV_2))
                target.publish(site, site + 4)

    simulator.on_step = patch
    simulator.run(40)
    assert len(calls) == 40
    assert calls[:10] == list(range(10))
    assert calls[10] > 10, "the program ran on while it was patched"
    assert [simulator.fetched(cpu, site) for cpu in range(2)] == [MOV_2, MOV_2]
    simulator.run(200)
    assert [simulator.register(cpu, 19) for cpu in range(2)] == [2, 2]


@pytest.mark.parametrize("quantum", [1, 9])
def test_a_range_can_be_watched_from_the_middle_of_a_run_on(build: Build, quantum: int) -> None:
    simulator = Simulator.from_elf(build(LOOP), cpus=1, quantum=quantum)
    simulator.run(100)
    ((start, end),) = simulator.code_ranges()
    before = simulator.instructions[0], simulator.steps
    simulator.watch(start, end)
    simulator.run(100)
    assert len(simulator.executed) == simulator.instructions[0] - before[0]
    assert {each.step for each in simulator.executed} == set(range(before[1], simulator.steps))


def test_watching_one_range_twice_is_refused(build: Build) -> None:
    simulator = Simulator.from_elf(build(LOOP))
    site = simulator.symbols["site"]
    simulator.watch(site, site + 4)
    simulator.watch(site + 4, site + 8)
    with pytest.raises(RequestError, match="already"):
        simulator.watch(site, site + 8)


# Instruction fetch: what the guest does itself

GUEST = f"""
_start: adr x1, site
        ldr w2, =0x52800040
        bl site
        mov w20, w0
        {{store}}
        {{sequence}}
        bl site
        {EXIT}
.balign 64
site:   mov w0, #1
        ret
"""
SEQUENCE = ("dc cvau, x1", "dsb ish", "ic ivau, x1", "dsb ish", "isb")


def self_modify(
    build: Build, sequence: Iterable[str], store: str = "str w2, [x1]", **options: Any
) -> tuple[int | None, int]:
    """What `site` says after the sequence, and what memory holds there."""
    program = build(GUEST.format(store=store, sequence="\n".join(sequence)), "-N")
    simulator = Simulator.from_elf(program, **{"cpus": 1, "early": 0.0, "quantum": 50} | options)
    site = simulator.symbols["site"]
    simulator.watch(site, site + 4)
    simulator.run(2000)
    result = simulator.exit_code(0)
    assert executed_at(simulator, site) == ({MOV_1} if result == 1 else {MOV_1, MOV_2})
    return result, from_bytes(simulator.read(site, 4))[0]


@pytest.mark.parametrize("quantum", [1, 50])
@pytest.mark.parametrize("left_out", [None, 0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    ("idc", "dic", "needed"), [(0, 0, {0, 1, 2, 3, 4}), (1, 0, {2, 3, 4}), (0, 1, {0, 4}), (1, 1, {4})]
)
def test_a_guest_sees_its_own_store_after_the_steps_that_are_needed(
    build: Build, idc: int, dic: int, needed: set[int], left_out: int | None, quantum: int
) -> None:
    kept = [step for index, step in enumerate(SEQUENCE) if index != left_out]
    result, memory = self_modify(build, kept, idc=bool(idc), dic=bool(dic), quantum=quantum)
    assert memory == MOV_2, "data is coherent"
    assert result == (1 if left_out in needed else 2)


@pytest.mark.parametrize(
    ("sequence", "result"),
    [
        ((), 1),
        (("dc civac, x1", "dsb sy", "ic ivau, x1", "dsb sy", "isb"), 2),
        (("dc cvac, x1", "dsb ish", "ic iallu", "dsb nsh", "isb"), 2),
        (("dc cvap, x1", "dsb osh", "ic ialluis", "dsb ish", "isb sy"), 2),
        ((".inst 0xd50b7d21 // dc cvadp, x1", "dsb ish", "ic ivau, x1", "dsb ish", "isb"), 2),
        (("dc cvau, x1", ".inst 0xd5033a3f // dsb ishnxs", "ic ivau, x1", "dsb ish", "isb"), 2),
        (("dc cvau, x1", "dsb ishst", "ic ivau, x1", "dsb ish", "isb"), 1),
        (("dc cvau, x1", "dsb ish", "ic ivau, x1", "dsb ishld", "isb"), 1),
        (("dc cvau, x1", "dmb ish", "ic ivau, x1", "dmb ish", "isb"), 1),
        (("dc cvau, x1", "ssbb", "ic ivau, x1", "dsb ish", "isb"), 1),
        (("dc cvau, x1", "dsb ish", "ic ivau, x1", "dsb ish", "mov x8, #172", "svc #0"), 2),
        (("add x3, x1, #64", "dc cvau, x3", "dsb ish", "ic ivau, x1", "dsb ish", "isb"), 1),
        (("dc cvau, x1", "dsb ish", "sub x3, x1, #4", "ic ivau, x3", "dsb ish", "isb"), 1),
        (("add x3, x1, #60", "dc cvau, x3", "dsb ish", "ic ivau, x3", "dsb ish", "isb"), 2),
    ],
)
def test_kinds_of_maintenance_and_barriers(build: Build, sequence: Sequence[str], result: int) -> None:
    assert self_modify(build, sequence)[0] == result


@pytest.mark.parametrize(
    "store",
    [
        "str w2, [x1], #0",
        "orr x3, x2, #0xd65f03c000000000 \n str x3, [x1]",
        "ldr w3, [x1, #4] \n stp w2, w3, [x1]",
        "sub x4, x1, #4 \n ldr w3, [x4] \n stp w3, w2, [x4]",
        "swp w2, w3, [x1]",
        "mov w3, w0 \n ldr w3, [x1] \n cas w3, w2, [x1]",
        "1: ldxr w3, [x1] \n stxr w4, w2, [x1] \n cbnz w4, 1b",
        "strb w2, [x1]",
        "ldr q0, [x1] \n mov v0.s[0], w2 \n str q0, [x1]",
    ],
)
@pytest.mark.parametrize("cache", ["adversarial", "kind"])
def test_every_kind_of_store_reaches_the_model(build: Build, store: str, cache: str) -> None:
    if "orr x3" in store:
        store = "ldr w3, [x1, #4] \n orr x3, x2, x3, lsl #32 \n str x3, [x1]"
    assert self_modify(build, SEQUENCE, store, cache=cache) == (2, MOV_2)
    stale, memory = self_modify(build, (), store, cache=cache)
    assert memory == MOV_2
    assert stale == (2 if cache == "kind" else 1)


@pytest.mark.parametrize("base", [0x10008, 0xFFFF_8000_0801_0008])
def test_a_store_that_begins_before_the_code_reaches_into_it(base: int) -> None:
    # adr x2, .; mov x3, #0; stur x3, [x2, #-4]; b .
    words = [0x10000002, 0xD2800003, 0xF81FC043, 0x14000000]
    simulator = Simulator.from_words(words, base=base, writable=True, cpus=1, quantum=1, early=0)
    simulator.run(3)
    assert simulator.read(base, 4) == bytes(4)
    assert simulator.caches.layers(base) == (0, words[0], (words[0],), (words[0],))


def test_kind_means_that_even_the_next_instruction_is_new(build: Build) -> None:
    program = build(f"_start: adr x1, next\n ldr w2, =0x52800040\n str w2, [x1]\nnext: mov w0, #1\n {EXIT}", "-N")
    for quantum in (1, 100):
        simulator = Simulator.from_elf(program, cpus=1, cache="kind", quantum=quantum)
        simulator.run(1000)
        assert simulator.exit_code(0) == 2


@pytest.mark.parametrize("line", [16, 64, 2048])
@pytest.mark.parametrize(("idc", "dic"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_ctr_el0_says_what_the_caches_are(build: Build, idc: int, dic: int, line: int) -> None:
    program = build("_start: mrs x20, ctr_el0\n mrs xzr, ctr_el0\n b .")
    simulator = Simulator.from_elf(program, cpus=1, idc=bool(idc), dic=bool(dic), line_size=line)
    simulator.run(10)
    value = simulator.register(0, 20)
    assert (value >> 28 & 1, value >> 29 & 1, value >> 31 & 1) == (idc, dic, 1)
    assert 4 << (value & 15) == 4 << (value >> 16 & 15) == line


STRIDES = f"""
_start: cbnz x0, reader
        adr x1, first
        ldr w2, =0x52800040
        str w2, [x1]
        str w2, [x1, #64]
        mrs x3, ctr_el0
        and x3, x3, #15
        mov x4, #4
        lsl x3, x4, x3
        add x5, x1, #128
        mov x4, x1
1:      dc cvau, x4
        add x4, x4, x3
        cmp x4, x5
        b.lo 1b
        dsb ish
        mov x4, x1
1:      ic ivau, x4
        add x4, x4, x3
        cmp x4, x5
        b.lo 1b
        dsb ish
        isb
        adr x3, flag
        mov w4, #1
        stlr w4, [x3]
        bl second
        {EXIT}
reader: adr x3, flag
1:      ldar w4, [x3]
        cbz w4, 1b
        isb
        bl second
        {EXIT}
.balign 128
first:  mov w0, #1
        ret
.balign 64
second: mov w0, #1
        ret
.data
.balign 8
flag:   .quad 0
"""


@pytest.mark.parametrize(
    ("lines", "exits"), [("64,64", [2, 2]), ("128,128", [2, 2]), ("64,128", [2, 2]), ("128,64", [1, 1])]
)
def test_a_stride_of_one_cpu_skips_lines_of_another(build: Build, lines: str, exits: list[int]) -> None:
    """What JIT compilers met on Exynos 8890: they took the big core's line for that of all (Mono pull request 3549)."""
    program = build(STRIDES, "-N")
    simulator = parse_url(f"sim:{program}?cpus=2&early=0&line={lines}")
    simulator.run(5000)
    assert [simulator.exit_code(cpu) for cpu in (0, 1)] == exits


@pytest.mark.parametrize("lines", [(128, 64), (64, 128), (2048, 16)])
def test_publishing_covers_the_shortest_line_of_all_cpus(lines: tuple[int, int]) -> None:
    own_branch = 0x14000000
    simulator = Simulator.from_words([own_branch, *[NOP] * 1023], line_size=lines, early=0)
    (base, end), start = simulator.code_ranges()[0], 4
    simulator.write(base + start, struct.pack("<I", MOV_2) * 1023)
    simulator.publish(base + start, end)
    simulator.kick()
    assert {simulator.fetched(cpu, address) for cpu in (0, 1) for address in range(base + start, base + 4096, 4)} == {
        MOV_2
    }


READER = f"""
_start: cbnz x0, reader
        adr x1, site
        ldr w2, =0x52800040
        str w2, [x1]
        dc cvau, x1
        dsb ish
        ic ivau, x1
        dsb ish
        isb
        adr x3, flag
        mov w4, #1
        stlr w4, [x3]
        bl site
        {EXIT}
reader: adr x3, flag
1:      ldar w4, [x3]
        cbz w4, 1b
        {{reader}}
        bl site
        {EXIT}
.balign 64
site:   mov w0, #1
        ret
.data
.balign 8
flag:   .quad 0
"""


@pytest.mark.parametrize("broadcast", [False, True])
@pytest.mark.parametrize("dic", [False, True])
@pytest.mark.parametrize("reader", ["nop", "isb", "ic iallu\n dsb nsh\n isb"])
def test_another_cpu_needs_its_isb_and_without_broadcast_its_own_invalidation(
    build: Build, reader: str, dic: bool, broadcast: bool
) -> None:
    program = build(READER.format(reader=reader), "-N")
    simulator = Simulator.from_elf(program, cpus=2, early=0, dic=dic, broadcast=broadcast)
    simulator.run(5000)
    reached = "isb" in reader and (dic or broadcast or "iallu" in reader)
    assert [simulator.exit_code(cpu) for cpu in (0, 1)] == [2, 2 if reached else 1]


# Patching from outside


def patched(build: Build, kind: type[Simulator] = Simulator, **options: Any) -> Simulator:
    """LOOP on some CPUs, well under way, its site watched."""
    simulator = kind.from_elf(build(LOOP), **{"cpus": 3, "early": 0.0, "quantum": 4} | options)
    site = simulator.symbols["site"]
    simulator.watch(site, site + 4)
    simulator.run(100)
    return simulator


CACHES = [(idc, dic) for idc in (False, True) for dic in (False, True)]


@pytest.mark.parametrize(("idc", "dic"), CACHES)
@pytest.mark.parametrize("inside_stop", [False, True])
def test_write_publish_kick_reaches_every_cpu_and_each_of_them_is_needed(
    build: Build, idc: bool, dic: bool, inside_stop: bool
) -> None:
    for left_out in (None, "publish", "kick"):
        simulator = patched(build, idc=idc, dic=dic)
        site = simulator.symbols["site"]
        simulator.write(site, struct.pack("<I", MOV_2))
        if left_out != "publish":
            simulator.publish(site, site + 4)
        if left_out != "kick":
            simulator.kick()
        simulator.executed.clear()
        spin(simulator)
        old, new = {MOV_1}, {MOV_2}
        if left_out is None or (left_out == "publish" and idc and dic):
            expected = [new, new, new]
        elif left_out == "publish":
            expected = [old, old, old]
        else:
            expected = [new, old, old]  # publish() ends with an ISB of the writer
        assert [executed_at(simulator, site, cpu) for cpu in range(3)] == expected


class WithoutDc(Simulator):
    def _do(self, cpu: int, step: Step, lines: Sequence[int]) -> None:
        if step.act is not Act.CLEAN:
            super()._do(cpu, step, lines)


class WithoutIc(Simulator):
    def _do(self, cpu: int, step: Step, lines: Sequence[int]) -> None:
        if step.act is not Act.INVALIDATE:
            super()._do(cpu, step, lines)


class WithoutSynchronisation(Simulator):
    def _synchronise(self, cpu: int) -> None:
        pass


@pytest.mark.parametrize(("idc", "dic"), CACHES)
@pytest.mark.parametrize("kind", [Simulator, WithoutDc, WithoutIc, WithoutSynchronisation])
def test_a_stop_shows_the_new_word_to_all_only_with_every_step(
    build: Build, kind: type[Simulator], idc: bool, dic: bool
) -> None:
    simulator = patched(build, kind, idc=idc, dic=dic)
    site = simulator.symbols["site"]
    with simulator.stop():
        simulator.write(site, struct.pack("<I", MOV_2))
        simulator.publish(site, site + 4)
    simulator.executed.clear()
    spin(simulator)
    stale = (kind is WithoutDc and not idc) or (kind is WithoutIc and not dic) or kind is WithoutSynchronisation
    assert executed_at(simulator, site) == ({MOV_1} if stale else {MOV_2})


def test_nothing_runs_inside_stop_and_the_others_run_on_until_the_last_has_come(build: Build) -> None:
    class Recording(Simulator):
        arrivals: list[tuple[int, int]]

        def _arrive(self, cpu: int, rendezvous: Rendezvous) -> None:
            self.arrivals.append((cpu, len(self.executed)))
            super()._arrive(cpu, rendezvous)

    orders: set[tuple[int, ...]] = set()
    ran_on = False
    for seed in range(12):
        simulator = Recording.from_elf(build(LOOP), cpus=4, quantum=2, seed=seed)
        simulator.arrivals = []  # type: ignore[attr-defined]
        start, end = simulator.code_ranges()[0]
        simulator.watch(start, end)
        simulator.run(20)
        with simulator.stop() as cpus:
            arrivals: list[tuple[int, int]] = simulator.arrivals  # type: ignore[attr-defined]
            assert cpus.rendezvous.everyone_arrived
            assert not cpus.rendezvous.done
            assert cpus.rendezvous.arrived == tuple(cpu for cpu, _ in arrivals)
            # Nobody executes after it has arrived; others do.
            for cpu, count in arrivals:
                assert cpu not in {e.cpu for e in simulator.executed[count:]}
            ran_on |= arrivals[0][1] < arrivals[-1][1]
            before = simulator.instructions, simulator.steps
            simulator.write(simulator.symbols["site"], struct.pack("<I", MOV_2))
            simulator.publish(start, end)
            simulator.kick()
            assert simulator.run(100) == 0
            assert (simulator.instructions, simulator.steps) == before
            with pytest.raises(TargetError, match="already"), simulator.stop():
                pass
            states = cpus.states()
            assert [state.cpu for state in states] == [0, 1, 2, 3]
            assert all(start <= state.pc < end for state in states)
        assert cpus.rendezvous.done
        orders.add(cpus.rendezvous.arrived)
        assert simulator.run(100) == 100
    assert ran_on
    assert len(orders) > 4


def test_the_writer_inside_stop_is_the_last_to_arrive(build: Build) -> None:
    writers = []

    class Recording(Simulator):
        def _do(self, cpu: int, step: Step, lines: Sequence[int]) -> None:
            if step.act is Act.CLEAN:
                writers.append(cpu)
            super()._do(cpu, step, lines)

    simulator = patched(build, Recording, writer=1)
    site = simulator.symbols["site"]
    last = []
    for _ in range(8):
        with simulator.stop() as cpus:
            simulator.publish(site, site + 4)
        last.append(cpus.rendezvous.arrived[-1])
    simulator.publish(site, site + 4)
    assert writers == [*last, 1]
    assert len(set(last)) > 1


@pytest.mark.parametrize("own", [False, True])
def test_without_broadcast_each_cpu_invalidates_its_own_cache_as_it_leaves(build: Build, own: bool) -> None:
    class Forgetful(Simulator):
        def _leave(self, cpu: int) -> None:
            self._synchronise(cpu)

    simulator = patched(build, Simulator if own else Forgetful, broadcast=False)
    assert not simulator.capabilities.broadcast
    site = simulator.symbols["site"]
    with simulator.stop() as cpus:
        simulator.write(site, struct.pack("<I", MOV_2))
        simulator.publish(site, site + 4)
    simulator.executed.clear()
    spin(simulator)
    writer = cpus.rendezvous.arrived[-1]
    for cpu in range(3):
        assert executed_at(simulator, site, cpu) == ({MOV_2} if own or cpu == writer else {MOV_1})


def test_each_cpu_takes_a_kick_at_its_own_turn_while_others_run_on(build: Build) -> None:
    taken: list[tuple[int, tuple[int, ...]]] = []

    class Recording(Simulator):
        def _take_kick(self, cpu: int) -> None:
            taken.append((cpu, self.instructions))
            super()._take_kick(cpu)

    simulator = patched(build, Recording)
    simulator.kick()
    assert sorted(cpu for cpu, _ in taken) == [0, 1, 2]
    assert sum(taken[0][1]) < sum(taken[-1][1])


def test_an_exited_cpu_counts_as_arrived_and_needs_no_kick(build: Build) -> None:
    program = build(f"_start: cbz x0, 1f\n b _start\n1: {EXIT}")
    simulator = Simulator.from_elf(program, cpus=3)
    simulator.run(200)
    assert not simulator.is_running(0)
    simulator.kick()
    with simulator.stop() as cpus:
        assert set(cpus.rendezvous.arrived) == {0, 1, 2}
        assert [state.cpu for state in cpus.states()] == [1, 2]
    # One that exits while the others wait for it has come, too.
    everybody = Simulator.from_elf(build(f"_start: {EXIT}"), cpus=3, quantum=1, interleave=0)
    with everybody.stop() as cpus:
        assert len(cpus.rendezvous.arrived) == 3
    everybody.run(100)
    with everybody.stop() as cpus:
        assert cpus.states() == []


def test_a_cpu_that_never_comes_is_reported_and_the_others_run_on(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("a64patch.targets.simulator.PATIENCE", 20)

    class Deaf(Simulator):
        def _arrive(self, cpu: int, rendezvous: Rendezvous) -> None:
            if cpu != 1:
                super()._arrive(cpu, rendezvous)

        def _take_kick(self, cpu: int) -> None:
            if cpu != 1:
                super()._take_kick(cpu)

    simulator = patched(build, Deaf)
    with pytest.raises(BusyError), simulator.stop():
        pytest.fail("not everyone had come")
    before = simulator.instructions
    simulator.run(100)
    assert all(now > then for now, then in zip(simulator.instructions, before, strict=True))
    with pytest.raises(BusyError):
        simulator.kick()


def test_an_error_inside_stop_lets_the_cpus_go(build: Build) -> None:
    simulator = patched(build)
    with pytest.raises(ZeroDivisionError), simulator.stop():
        raise ZeroDivisionError
    assert simulator.run(50) == 50


PAIR = """
_start: bl site
        b _start
.balign 64
site:   mov w1, #1
        mov w2, #1
        ret
"""
PAIR_NEW = (0x52800041, 0x52800042)  # mov w1, #2; mov w2, #2


@pytest.mark.parametrize("early", [0.0, 0.125])
def test_two_words_without_a_stop_are_torn_in_both_directions_by_chance(build: Build, early: float) -> None:
    program = build(PAIR)
    seen: set[tuple[bool, bool]] = set()
    for seed in range(30):
        simulator = Simulator.from_elf(program, cpus=2, seed=seed, quantum=1, early=early)
        site = simulator.symbols["site"]
        simulator.watch(site, site + 8)
        simulator.run(20)
        simulator.write(site, struct.pack("<II", *PAIR_NEW))
        simulator.run(400)
        for cpu in range(2):
            mine = [e for e in simulator.executed if e.cpu == cpu]
            for first, second in itertools.pairwise(mine):
                if first.address == site and second.address == site + 4:
                    seen.add((first.word == PAIR_NEW[0], second.word == PAIR_NEW[1]))
    if early:
        assert seen == {(False, False), (True, False), (False, True), (True, True)}
    else:
        assert seen == {(False, False)}, "stale until told"


def test_the_program_runs_on_in_the_middle_of_a_publication_and_not_with_interleave_0(build: Build) -> None:
    for interleave in (0, 5):
        simulator = patched(build, interleave=interleave, quantum=1)
        site = simulator.symbols["site"]
        before = simulator.steps
        simulator.write(site, struct.pack("<I", MOV_2))
        simulator.publish(site, site + 4)
        assert simulator.steps - before == interleave * (2 + 2 + 2 + 1)


def test_lines_of_several_ranges_are_published_once(build: Build) -> None:
    calls = []

    class Recording(Simulator):
        def _do(self, cpu: int, step: Step, lines: Sequence[int]) -> None:
            if step.act is Act.CLEAN:
                calls.append(list(lines))
            super()._do(cpu, step, lines)

    simulator = Recording.from_words([0x14000000] * 64, base=0x10000)
    simulator.publish_many([(0x10000, 0x10004), (0x1003C, 0x10044), (0x10008, 0x1000C)])
    simulator.publish(0x10020, 0x10020)
    assert calls == [[0x10000, 0x10040]]


def test_a_patch_that_turns_words_into_barriers_and_back_acts_as_them(build: Build) -> None:
    # An ISB that is patched in must synchronise, and one that is patched out must not.
    class Counting(Simulator):
        synchronised = 0

        def _synchronise(self, cpu: int) -> None:
            Counting.synchronised += 1
            super()._synchronise(cpu)

    simulator = patched(build, Counting, early=0.0, cpus=1)
    site = simulator.symbols["site"]

    def put(word: int) -> None:
        with simulator.stop():
            simulator.write(site, struct.pack("<I", word))
            simulator.publish(site, site + 4)

    put(0xD5033FDF)
    Counting.synchronised = 0
    simulator.run(100)
    assert Counting.synchronised > 10
    assert simulator.fetched(0, site) == 0xD5033FDF
    put(NOP)
    Counting.synchronised = 0
    simulator.run(100)
    assert Counting.synchronised == 0
    assert simulator.fetched(0, site) == NOP


# Memory and states


def test_only_code_may_be_written_and_only_what_is_mapped_read(build: Build) -> None:
    simulator = Simulator.from_elf(build(LOOP + "\n.data\nvalue: .quad 1\n"))
    ((start, end),) = simulator.code_ranges()
    before = simulator.read(start, end - start)
    for address, size in ((start - 4, 4), (end - 4, 8), (simulator.symbols["value"], 4), (8, 4)):
        with pytest.raises(MappingError):
            simulator.write(address, bytes(size))
        with pytest.raises(MappingError):
            simulator.publish(address, address + size)
    assert simulator.read(start, end - start) == before
    with pytest.raises(MappingError):
        simulator.read(8, 4)
    simulator.write(end - 1, b"\x55")
    assert simulator.read(start, end - start) == before[:-1] + b"\x55"


FRAMES = """
_start: mov x29, #0
        mov x30, #0
        bl one
after0: b .
one:    stp x29, x30, [sp, #-16]!
        mov x29, sp
        bl two
after1: b .
two:    stp x29, x30, [sp, #-32]!
        mov x29, sp
        bl three
after2: b .
three:  b three
"""


@pytest.mark.parametrize("big_endian", [False, True])
def test_states_know_the_pc_and_the_return_addresses(build: Build, big_endian: bool) -> None:
    simulator = Simulator.from_elf(build(FRAMES, big_endian=big_endian), cpus=1)
    simulator.run(50)
    with simulator.stop() as cpus:
        (state,) = cpus.states()
    symbols = simulator.symbols
    assert state.pc == symbols["three"]
    assert state.return_addresses == (symbols["after2"], symbols["after1"], symbols["after0"])


def test_a_frame_chain_that_leads_nowhere_or_in_a_circle_ends(build: Build) -> None:
    lost = Simulator.from_elf(build("_start: mov x29, #0x1000\n mov x30, #4\n b ."), cpus=1)
    lost.run(20)
    assert lost.state(0).return_addresses == (4,)
    circle = Simulator.from_elf(build("_start: sub x29, sp, #32\n stp x29, x29, [x29]\n b ."), cpus=1)
    circle.run(20)
    assert len(circle.state(0).return_addresses) == 1
    long = build("_start: mov x29, sp\n1: sub x1, x29, #16\n stp x29, x1, [x1]\n mov x29, x1\n b 1b")
    simulator = Simulator.from_elf(long, cpus=1, quantum=4)
    simulator.run(400)
    assert len(simulator.state(0).return_addresses) == 64


def test_a_closed_simulator_says_so(build: Build) -> None:
    with Simulator.from_elf(build(LOOP)) as simulator:
        simulator.run(5)
    simulator.close()
    operations: list[Callable[[], object]] = [
        lambda: simulator.run(1),
        lambda: simulator.read(0x400000, 4),
        simulator.kick,
        simulator.stop().__enter__,
    ]
    for operation in operations:
        with pytest.raises(TargetError, match="closed"):
            operation()

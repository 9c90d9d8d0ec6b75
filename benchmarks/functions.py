"""functions: a function of a program replaced by a longer one from C, from the source to the file on disk.

Each tool makes the same fix in its own way. The result is executed, stripped and executed again, and compared with the
program before. What a call costs afterwards is counted in instructions of the simulator.
Read on: functions_name.c and functions_main.c are the program; peers/ for what the others do.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import a64patch
from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.targets.elf import ElfFile
from a64patch.targets.simulator import Simulator
from benchmarks import inputs
from benchmarks.measure import (
    MILLISECONDS,
    BenchmarkError,
    Contender,
    Report,
    Row,
    Table,
    Unit,
    Verdict,
    compare,
    cpu_of_processes,
    process,
    process_environment,
)
from tests.real import packages
from tests.real.test_linked import BASE, USE_BASE, USED_BASE

AIM = "faster and with less memory than each peer (proposed: none was set)"
ROUNDS = 7

_HERE = Path(__file__).parent
_MAIN, _NAME = _HERE / "functions_main.c", _HERE / "functions_name.c"
_FUNCTION = "read_name"
_USED_NAME = "too long a name\nright\n"
"""What the program of functions_main.c prints with the fix."""
_GCC = "aarch64-linux-gnu-gcc"
_FIX = ("-O2", "-DFIXED", "-DSTORAGE=extern")
_CALLS = 1000
"""As in functions_main.c."""

_OURS, _OURS_PYTHON = "a64patch link, a64patch apply", "a64patch from Python"
_LIEF, _PATCHEREX = "LIEF, GNU ld", "Patcherex2"
_MIB, _BYTES, _INSTRUCTIONS = (Unit(name, float) for name in ("MiB", "bytes", "instructions a call"))

_PINNED = ("patcherex2==0.2.14", "angr==9.2.213", "bitstring==4.4.0", "pycparser==3.0")
"""angr does not start with the newest releases of the last two."""
_CLANGS = {"15": "clang", "19": "clang19"}
"""Releases of clang that Patcherex2 knows for AArch64, and its names for them."""

_PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
sys.stderr.buffer.write(done.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""
"""A process that is smaller than all that are measured: what it starts has at first as many pages as itself."""


@dataclass(frozen=True)
class _Program:
    title: str
    path: Path
    fix: Path
    """The C of the new function."""
    function: str
    is_fixed: Callable[[Path], bool]
    """Whether a program like this one, executed, works and has the fix."""
    large: bool = False


class _Tool(NamedTuple):
    """One way to make the fix."""

    copy: Path
    """The file that it changes."""
    words: list[str]
    """The command of the whole job."""
    undo: Callable[[], int] | None = None
    """The tool's own way back."""


def run(rounds: int | None) -> Report:
    """A length check in a program that is compiled here and in Debian's Python; then calls of the function, counted."""
    for tool, package in (
        (_GCC, "gcc-aarch64-linux-gnu"), ("aarch64-linux-gnu-strip", "binutils-aarch64-linux-gnu"),
        ("qemu-aarch64", "qemu-user"),
    ):  # fmt: skip
        if not inputs.tool(tool):
            raise inputs.MissingError(f"{tool} is missing: install the Debian package {package}")
    report = Report("functions")
    patcherex = _patcherex(report)
    if not inputs.has_module("lief"):
        report.notes.append("LIEF is not measured: run scripts/bench, which installs it.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for program in _programs(folder):
            _measure(program, folder, _tools(program, folder, patcherex), rounds or ROUNDS, report)
        report.tables.append(_cost_of_a_call(folder))
    report.notes += [
        "Each job compiles the fix as well: for a64patch and LIEF gcc does, for Patcherex2 its clang.",
        "LIEF neither links nor finds stubs of imported functions: peers/lief_function.py does that with GNU ld.",
    ]
    return report


def _programs(folder: Path) -> list[_Program]:
    """The program of functions_main.c, and Debian's Python."""
    try:
        root, userland = packages.fetch_sysroot(), packages.fetch_tree("userland-root")
    except packages.MissingPackageError as error:
        raise inputs.MissingError(str(error)) from error
    qemu = ("qemu-aarch64", "-L")
    program, base = folder / "program", folder / "base.c"
    process(_GCC, "-O2", "-o", program, _MAIN, _NAME)()
    base.write_text(BASE)
    python = ("-E", f"PYTHONHOME={userland}/usr")
    arguments = ("-S", "-c", USE_BASE)
    return [
        _Program("a small program", program, _NAME, _FUNCTION, lambda path: _printed(*qemu, root, path) == _USED_NAME),
        _Program(
            "Debian's Python", (userland / "usr/bin/python3").resolve(), base, "PyNumber_ToBase",
            lambda path: _printed(*qemu, userland, *python, path, *arguments) == USED_BASE, large=True,
        ),
    ]  # fmt: skip


def _printed(*command: object) -> str:
    """What a program that succeeds prints, else nothing."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return "" if done.returncode else done.stdout


def _tools(program: _Program, folder: Path, patcherex: list[object]) -> dict[str, _Tool]:
    """Ours, and the peers that are there."""
    ours, patch, unit, name = inputs.a64patch_command(), folder / "fix.patch", folder / "fix.o", program.function
    copies = [folder / f"copy-{number}" for number in range(4)]
    compiler = [_GCC, *_FIX, "-c", program.fix, "-o", unit]
    link, apply = [ours, "link", unit, copies[0], "--replace", name], [ours, "apply", patch]
    by_command = f"{_quoted(*compiler, '-fPIC')}; {_quoted(*link)} > {_quoted(patch)}; {_quoted(*apply, copies[0])}"
    python = [sys.executable, _HERE / "functions_link.py", unit, name, copies[1]]
    by_python = f"{_quoted(*compiler, '-fPIC')}; {_quoted(*python)}"
    tools = {
        name: _Tool(copy, _shell(script), process(*apply, "-R", copy))
        for name, copy, script in ((_OURS, copies[0], by_command), (_OURS_PYTHON, copies[1], by_python))
    }
    if inputs.has_module("lief"):
        python = [sys.executable, _HERE / "peers/lief_function.py", unit, name, copies[2]]
        script = f"{_quoted(*compiler, '-fno-pic', '-fno-asynchronous-unwind-tables')}; {_quoted(*python)}"
        tools[_LIEF] = _Tool(copies[2], _shell(script))
    if patcherex and not program.large:
        tools[_PATCHEREX] = _Tool(copies[3], [*map(str, patcherex), str(program.fix), name, str(copies[3])])
    return tools


def _quoted(*words: object) -> str:
    return shlex.join(str(word) for word in words)


def _shell(script: str) -> list[str]:
    return ["sh", "-ec", script]


def _patcherex(report: Report) -> list[object]:
    """The beginning of Patcherex2's command; nothing if it is not there, and then the report says why."""
    version = next((version for version in _CLANGS if all(map(inputs.tool, _clang(version)))), "")
    try:
        if not version:
            raise packages.MissingPackageError("install the Debian packages clang-19 and lld-19, or those of 15")
        path = _fetch_patcherex()
    except packages.MissingPackageError as error:
        report.notes.append(f"Patcherex2 is not measured: {error}")
        return []
    report.notes += [
        f"Patcherex2 is {_PINNED[0]} with clang-{version}.",
        "Patcherex2 is left out for Debian's Python: it first analyses all of a program, for minutes.",
    ]
    return ["env", f"PYTHONPATH={path}", sys.executable, _HERE / "peers/patcherex2_function.py", _CLANGS[version]]


def _clang(version: str) -> tuple[str, str]:
    return f"clang-{version}", f"ld.lld-{version}"


def _fetch_patcherex() -> Path:
    """Patcherex2 and all that it needs, from PyPI; MissingPackageError when it cannot be had."""
    with packages.building(f"patcherex2-{sys.version_info[0]}.{sys.version_info[1]}") as (root, place):
        if place:
            words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(place), *_PINNED]
            done = subprocess.run(
                [sys.executable, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            if done.returncode:
                complaint = done.stderr.strip()[-200:]
                raise packages.MissingPackageError(f"pip could not install {' '.join(_PINNED)}: {complaint}")
    return root


def _measure(program: _Program, folder: Path, tools: dict[str, _Tool], rounds: int, report: Report) -> None:
    if program.is_fixed(program.path):
        raise BenchmarkError(f"{program.title} has the fix before anything was done")
    for name, tool in list(tools.items()):
        try:
            _copying(program, tool)()
            process(*tool.words)()
        except BenchmarkError as error:
            if tool.undo:  # It is ours.
                raise
            report.notes.append(f"{program.title}: {name} failed: {error}")
            del tools[name]
    contenders = [
        Contender(name, process(*tool.words), _copying(program, tool), ours=name == _OURS)
        for name, tool in tools.items()
    ]
    alone = process(_GCC, *_FIX, "-fPIC", "-c", program.fix, "-o", folder / "alone.o")
    contenders.append(Contender(f"{_GCC} alone", alone))
    title = f"{program.title}, {program.path.stat().st_size:,} bytes"
    whole = compare(f"{title}: whole job", MILLISECONDS, contenders, rounds)
    cpu = compare(f"{title}: CPU time of the job", MILLISECONDS, contenders, rounds, clock=cpu_of_processes)
    peak = Table(f"{title}: the largest process", _MIB, [])
    differing = Table(f"{title}: bytes that differ, without the redirected word and without unused space", _BYTES, [])
    for index, (name, tool) in enumerate(tools.items()):
        row = whole.rows[index]
        differing.rows.append(_compare(program, tool.copy, row))
        whole.rows[index] = replace(row, remark=_judge(program, tool))
        peaks = tuple(_peak(program, tool) for _ in range(min(rounds, 3)))
        peak.rows.append(Row(name, row.ours, peaks))
    report.tables += [whole, cpu, peak, differing]
    for table in (whole, cpu, peak):
        ours = table.row(_OURS).median
        for row in table.rows:
            if row.name in (_LIEF, _PATCHEREX):
                found = f"{row.median / ours:.2f} times ours"
                report.verdicts.append(Verdict(f"{table.title}: less than {row.name}", row.median > ours, found))


def _compare(program: _Program, copy: Path, row: Row) -> Row:
    """How the copy differs, in bytes: where something was, where nothing was, behind the end."""
    old, new = program.path.read_bytes(), copy.read_bytes()
    with ElfFile(program.path) as elf:
        [(word, _)] = elf.image.chunks(elf.symbols[program.function], INSN_SIZE) or [(0, 0)]
    used = bytearray(len(old))
    for each in _used(program.path):
        used[each.start : each.stop] = bytes([1]) * len(each)
    used[word : word + INSN_SIZE] = bytes(INSN_SIZE)
    differing = [at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
    count = sum(used[at] for at in differing)
    remark = f"{len(differing) - count:,} in the word and in unused space, the file grows by {len(new) - len(old):,}"
    return Row(row.name, row.ours, (count,), remark)


def _judge(program: _Program, tool: _Tool) -> str:
    """What the changed copy does, and what becomes of it when the tool undoes its change."""
    stripped = tool.copy.with_suffix(".stripped")
    done = subprocess.run(["aarch64-linux-gnu-strip", tool.copy, "-o", stripped], capture_output=True, check=False)
    found = ["works" if program.is_fixed(tool.copy) else "DOES NOT WORK"]
    found.append("works stripped" if not done.returncode and program.is_fixed(stripped) else "BROKEN BY strip")
    if tool.undo:
        tool.undo()
        same = tool.copy.read_bytes() == program.path.read_bytes()
        found.append("undone byte for byte" if same else "NOT UNDONE byte for byte")
    else:
        found.append("cannot undo")
    return ", ".join(found)


def _used(program: Path) -> list[range]:
    """The offsets of headers and of sections in the file: what is between them nothing uses."""
    from elftools.elf.elffile import ELFFile

    with program.open("rb") as file:
        elf = ELFFile(file)
        header = elf.header
        found = [
            range(header["e_ehsize"]),
            range(header["e_phoff"], header["e_phoff"] + header["e_phnum"] * header["e_phentsize"]),
            range(header["e_shoff"], header["e_shoff"] + header["e_shnum"] * header["e_shentsize"]),
        ]
        found += (
            range(section["sh_offset"], section["sh_offset"] + section["sh_size"])
            for section in elf.iter_sections()
            if section["sh_type"] != "SHT_NOBITS"
        )
    return found


def _peak(program: _Program, tool: _Tool) -> float:
    _copying(program, tool)()
    words = [sys.executable, "-ISc", _PEAK, *tool.words]
    done = subprocess.run(words, env=process_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(tool.words)} exited with {done.returncode}: {done.stderr[-500:]}")
    return int(done.stdout) / 1024


def _copying(program: _Program, tool: _Tool) -> Callable[[], object]:
    return lambda: shutil.copy(program.path, tool.copy)


def _cost_of_a_call(folder: Path) -> Table:
    """The function as it is, with one more NOP by a detour, and with a redirect to a copy of itself."""
    plain, same = folder / "bare", folder / "same.o"
    options = ("-O2", "-ffreestanding")
    process(_GCC, *options, "-DBARE", "-static", "-nostdlib", "-o", plain, _MAIN, _NAME)()
    process(_GCC, *options, "-DSTORAGE=extern", "-fPIC", "-c", _NAME, "-o", same)()
    with ElfFile(plain) as elf:
        address = elf.symbols[_FUNCTION] + INSN_SIZE
        [word] = from_bytes(elf.read(address, INSN_SIZE))
        detour = f"@@ detour {address:#x} @@\n+d503201f\n {word:08x}\n"
        copied = a64patch.to_text(a64patch.link(same, elf, [_FUNCTION]).diff)
    before = _instructions(plain, "")
    rows = [Row("the function as it is", True, (before,))]
    for name, patch in (("one NOP by a detour", detour), ("redirected to an identical copy", copied)):
        after = _instructions(plain, patch)
        rows.append(Row(name, False, (after,), f"{after - before:+.0f}"))
    note = "Counted, not timed. With the loop that calls the function: six instructions each time."
    return Table("what a call costs", _INSTRUCTIONS, rows, [note])


def _instructions(program: Path, patch: str) -> float:
    copy = program.with_suffix(".copy")
    shutil.copy(program, copy)
    if patch:
        with ElfFile(copy) as elf, a64patch.Journal(copy.with_suffix(".journal")) as journal:
            a64patch.apply(a64patch.parse(patch), elf, journal)
    with Simulator.from_elf(copy, cpus=1, quantum=1000) as machine:
        machine.run(1_000_000)
        if machine.is_running(0) or machine.exit_code(0) != 0:
            raise BenchmarkError("the simulated program did not end well: see functions_main.c")
        return machine.instructions[0] / _CALLS

"""elf-patch: one word of an ELF file changed, from the command line to the file on disk.

Read on: src/a64patch/targets/elf.py, src/a64patch/cli/poke.py; peers/ for what it is compared with.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy

from a64patch.a64.generate import gen_nop
from a64patch.a64.predicates import is_nop
from a64patch.targets.elf import ElfFile
from benchmarks import inputs
from benchmarks.measure import MILLISECONDS, Contender, Report, Verdict, compare, process

AIM = "under 120 ms, whole process"
ROUNDS = 11

_OURS = "a64patch poke"
_NOP, _YIELD = gen_nop(), 0xD503203F
"""The new word may be executed in place of the old one: the file must still do what it did."""
_PEERS = Path(__file__).parent / "peers"

_Command = Callable[[Path, int], list[object]]
"""The command that patches this file at this address."""


@dataclass(frozen=True)
class _Input:
    title: str
    path: Path
    program: bool
    """Run it to see whether it loads; a library is loaded into another program."""


def run(rounds: int | None) -> Report:
    """A file of about 70 KB and one of about 700 KB."""
    report = Report("elf-patch")
    files = (
        _Input("echo of coreutils", inputs.file_of("coreutils", "bin/echo"), True),
        _Input("libssl.so.3 of libssl3", inputs.file_of("libssl3", "lib/aarch64-linux-gnu/libssl.so.3"), False),
    )
    with tempfile.TemporaryDirectory() as directory:
        for file in files:
            _measure(file, Path(directory), rounds or ROUNDS, report)
    return report


def _measure(file: _Input, directory: Path, rounds: int, report: Report) -> None:
    size = file.path.stat().st_size
    address = nop_of(file.path)
    contenders: list[Contender] = []
    copies: dict[str, Path] = {}
    for name, command in commands(report).items():
        copy = copies[name] = directory / f"{len(copies)}-{file.path.name}"
        run = process(*command(copy, address))
        contenders.append(Contender(name, run, copying(file.path, copy), ours=name == _OURS))
    contenders.append(Contender("python -c pass", process(sys.executable, "-c", "pass")))
    table = compare(f"one word of {file.title}, {size:,} bytes, whole process", MILLISECONDS, contenders, rounds)
    control = _loads(file, file.path)
    if control is not True:
        table.notes.append("whether files load was not checked: that needs qemu-aarch64 (Debian: qemu-user) and apt")
    for index, row in enumerate(table.rows):
        if row.name in copies:
            remark = _judge(file, copies[row.name], address, checked=control is True)
            table.rows[index] = replace(row, remark=remark)
    report.tables.append(table)
    median = table.row(_OURS).median
    report.verdicts.append(Verdict(f"{AIM}, {file.title}", median < 120, f"{median:.0f} ms"))


def commands(report: Report) -> dict[str, _Command]:
    """How we, and the peers that are installed, make a NOP of a file a YIELD."""
    ours = inputs.a64patch_command()
    commands: dict[str, _Command] = {
        _OURS: lambda path, address: [ours, "poke", path, f"{address:#x}", "yield", "--expect", "nop"]
    }
    for name, module in (("pwntools", "pwn"), ("LIEF", "lief")):
        if inputs.has_module(module):
            commands[f"{name} script"] = _script(f"{name.lower()}_poke.py")
        elif not report.tables:
            report.notes.append(f"{name} is not installed: run scripts/bench.")
    return commands


def _script(name: str) -> _Command:
    return lambda path, address: [
        sys.executable, _PEERS / name, path, f"{address:x}", f"{_NOP:08x}", f"{_YIELD:08x}",
    ]  # fmt: skip


def nop_of(path: Path) -> int:
    """The address of the NOP in the middle of all NOPs."""
    found: list[int] = []
    with ElfFile(path) as elf:
        for start, end in elf.code_ranges():
            words = numpy.frombuffer(elf.read(start, (end - start) & -4), "<u4")
            found += (start + 4 * numpy.flatnonzero(is_nop(words))).tolist()
    return found[len(found) // 2]


def copying(source: Path, copy: Path) -> Callable[[], object]:
    """What puts a fresh copy of the file there."""
    return lambda: shutil.copy(source, copy)


def _judge(file: _Input, copy: Path, address: int, *, checked: bool) -> str:
    old, new = file.path.read_bytes(), copy.read_bytes()
    changed = sum(a != b for a, b in zip(old, new, strict=False)) + abs(len(old) - len(new))
    with ElfFile(copy) as elf:
        done = elf.read(address, 4) == _YIELD.to_bytes(4, "little")
    loads = {True: "loads", False: "DOES NOT LOAD", None: "not checked"}[_loads(file, copy) if checked else None]
    return f"{changed:,} byte{'s' if changed != 1 else ''} differ{'s' if changed == 1 else ''}, {loads}" + (
        "" if done else ", NOT PATCHED"
    )


def _loads(file: _Input, path: Path) -> bool | None:
    """Whether the dynamic loader takes the file and a program still works; None when nothing can tell."""
    qemu, root = inputs.tool("qemu-aarch64"), inputs.sysroot()
    if not qemu or not root:
        return None
    command: list[object] = [qemu, "-L", root, "-E", "LD_BIND_NOW=1"]
    if file.program:
        command += [path, "works"]
    else:
        libraries = file.path.parent  # what the library needs lies beside it
        command += ["-E", f"LD_PRELOAD={path}", "-E", f"LD_LIBRARY_PATH={libraries}", root / "bin/echo", "works"]
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    # A library that cannot be preloaded is no failure to the loader, but it says so.
    return (done.returncode, done.stdout, done.stderr) == (0, b"works\n", b"")

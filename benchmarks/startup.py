"""start-up: what a64patch costs when it has nothing to do, or one word to work on.

Read on: src/a64patch/cli/main.py; elf_patch.py for what becomes of the file.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import inputs
from benchmarks.elf_patch import commands, copying, nop_of
from benchmarks.measure import (
    MILLISECONDS,
    Contender,
    Report,
    Verdict,
    compare,
    cpu_of_processes,
    process,
)

AIM = "a64patch --version in under 60 ms, poke of one word in under 120 ms, whole process"
ROUNDS = 25

_PYTHON = "python -c pass"
_VERSION, _POKE = "a64patch --version", "a64patch poke"
_SCRIPTS = {
    "keystone: a script that assembles": (
        "keystone",
        "from keystone import *; print(Ks(KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN).asm('nop'))",
    ),
    "capstone: a script that disassembles": (
        "capstone",
        "from capstone import *; print(*Cs(CS_ARCH_ARM64, CS_MODE_ARM).disasm_lite(bytes.fromhex('1f2003d5'), 0))",
    ),
}
"""What must be installed, and the program."""


def run(rounds: int | None) -> Report:
    """Whole processes: their time on the clock and the CPU time of the same commands, both beside bare Python."""
    report = Report("start-up")
    with tempfile.TemporaryDirectory() as name:
        contenders = _contenders(Path(name), report)
        table = compare("start-up, whole process", MILLISECONDS, contenders, rounds or ROUNDS)
        cpu = compare(
            "start-up, CPU time of the process", MILLISECONDS, contenders, rounds or ROUNDS, clock=cpu_of_processes
        )
    report.tables += [table, cpu]
    for command, most in ((_VERSION, 60), (_POKE, 120)):
        median, least = table.row(command).median, min(cpu.row(command).values)
        report.verdicts.append(
            Verdict(
                f"{command} in under {most} ms, whole process",
                median < most,
                f"{median:.0f} ms; {least:.0f} ms of CPU at least, {_PYTHON} {min(cpu.row(_PYTHON).values):.0f} ms",
            )
        )
    return report


def _contenders(directory: Path, report: Report) -> list[Contender]:
    ours, echo = inputs.a64patch_command(), inputs.file_of("coreutils", "bin/echo")
    address = nop_of(echo)
    contenders = [
        Contender(_VERSION, process(ours, "--version"), ours=True),
        Contender(_PYTHON, process(sys.executable, "-c", "pass")),
        Contender("python -c 'import argparse'", process(sys.executable, "-c", "import argparse")),
        Contender("a64patch --help", process(ours, "--help")),
        Contender("import a64patch.a64.words", process(sys.executable, "-c", "import a64patch.a64.words"), ours=True),
        Contender(
            "from a64patch.a64 import words", process(sys.executable, "-c", "from a64patch.a64 import words"), ours=True
        ),
        Contender("a64patch asm nop", process(ours, "asm", "nop"), ours=True),
        Contender("a64patch disasm d503201f", process(ours, "disasm", "d503201f"), ours=True),
        Contender("a64patch check nop 'b .+8'", process(ours, "check", "nop", "b .+8"), ours=True),
        Contender("a64patch show -n 1", process(ours, "show", echo, f"{address:#x}", "-n", "1"), ours=True),
    ]
    for number, (name, command) in enumerate(commands(report).items()):
        copy = directory / f"{number}-echo"
        poke = process(*command(copy, address))
        contenders.append(Contender(name, poke, copying(echo, copy), ours=name == _POKE))
    for name, (module, program) in _SCRIPTS.items():
        if inputs.has_module(module):
            contenders.append(Contender(name, process(sys.executable, "-c", program)))
        else:
            report.notes.append(f"{module} is not installed: run scripts/bench.")
    return contenders

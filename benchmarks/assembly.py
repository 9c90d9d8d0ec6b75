"""assembly: one word after the other from texts that objdump prints of libc.

Read on: src/a64patch/a64/assembler.py.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from a64patch.a64.assembler import assemble_one
from a64patch.a64.words import to_bytes
from a64patch.errors import AssemblyError
from benchmarks import inputs
from benchmarks.measure import US_PER_INSN, BenchmarkError, Contender, Report, Verdict, compare

AIM = "one instruction in under 30 us, no process started"
ROUNDS = 7

_OURS = "a64patch: assemble_one"
_COUNT = 20_000
_LINE = re.compile(r"\s*([0-9a-f]+):\s+([0-9a-f]{8})\s+([^/<]*[^/<\s])")
_WRONG_LINE = re.compile(r"^[^:\n]*:(\d+):(?:\d+:)? [Ee]rror", re.MULTILINE)

Instruction = tuple[int, int, str]
"""Its address, its word, its text."""


def run(rounds: int | None) -> Report:
    """Distinct texts, the same for all."""
    report = Report("assembly")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        instructions, source = _instructions(directory)
        contenders = [_ours(instructions, report)]
        contenders += [*_keystone(instructions, report), *_processes(instructions, directory, report)]
        table = compare(f"{len(instructions):,} distinct texts, {source}", US_PER_INSN, contenders, rounds or ROUNDS)
    report.tables.append(table)
    median = table.row(_OURS).median
    report.verdicts.append(Verdict(AIM, median < 30, f"{median:.1f} us"))
    report.notes.append(
        "GNU as and llvm-mc are whole processes that write an object file of all texts: their start is divided among "
        "them. Each leaves out what it refuses; both take the address in a TBZ of the text for a distance."
    )
    return report


def _instructions(directory: Path) -> tuple[list[Instruction], str]:
    """Evenly chosen among the distinct texts of libc; the text of a branch is for its address in the file."""
    objdump = inputs.tool("aarch64-linux-gnu-objdump")
    if not objdump:
        raise inputs.MissingError("objdump is not there: install the Debian package binutils-aarch64-linux-gnu")
    words, source = inputs.libc_words()
    path = directory / "words"
    path.write_bytes(to_bytes(dict.fromkeys(words.tolist())))
    command = [objdump, "-D", "-z", "-b", "binary", "-m", "aarch64", str(path)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Instruction] = {}
    for line in listing.splitlines():
        match = _LINE.match(line)
        if match and not match[3].startswith((".inst", "udf")):
            text = match[3].replace("\t", " ")
            found.setdefault(text, (int(match[1], 16), int(match[2], 16), text))
    distinct = list(found.values())
    return distinct[:: max(1, len(distinct) // _COUNT)][:_COUNT], f"objdump's of the {source}"


def _ours(instructions: list[Instruction], report: Report) -> Contender:
    known = []
    for address, word, text in instructions:
        try:
            mine = assemble_one(text, address)
        except AssemblyError:
            continue
        if mine != word:
            raise BenchmarkError(f"{text!r} at {address:#x} is {word:#010x}, not {mine:#010x}")
        known.append((text, address))
    _note_refused(report, "a64patch", len(instructions) - len(known))

    def work() -> int:
        for text, address in known:
            assemble_one(text, address)
        return len(known)

    return Contender(_OURS, work, ours=True)


def _keystone(instructions: list[Instruction], report: Report) -> list[Contender]:
    if not inputs.has_module("keystone"):
        report.notes.append("keystone-engine is not installed: run scripts/bench.")
        return []
    import keystone

    engine = keystone.Ks(keystone.KS_ARCH_ARM64, keystone.KS_MODE_LITTLE_ENDIAN)
    known, wrong = [], 0
    for address, word, text in instructions:
        try:
            encoded, _ = engine.asm(text, address)
        except keystone.KsError:
            continue
        known.append((text, address))
        wrong += bytes(encoded or ()) != to_bytes(word)
    _note_refused(report, "keystone", len(instructions) - len(known))
    report.notes.append(f"keystone makes other words than objdump read of {wrong:,} texts.")

    def work() -> int:
        for text, address in known:
            engine.asm(text, address)
        return len(known)

    return [Contender("keystone: asm", work)] if known else []


def _processes(instructions: list[Instruction], directory: Path, report: Report) -> list[Contender]:
    assemblers = {
        "GNU as": ("aarch64-linux-gnu-as", "binutils-aarch64-linux-gnu", ["-march=armv8.6-a+memtag+sve2"]),
        "llvm-mc": ("llvm-mc", "llvm", ["--triple=aarch64", "--filetype=obj", "--mattr=+v8.7a,+mte,+sve2"]),
    }
    contenders = []
    for name, (program, package, options) in assemblers.items():
        path = inputs.tool(program)
        if path is None:
            report.notes.append(f"{program} is not there: install the Debian package {package}.")
            continue
        source = directory / f"{program}.s"
        command = [path, *options, "-o", str(directory / f"{program}.o"), str(source)]
        texts = [text for _, _, text in instructions]
        source.write_text("\n".join(texts) + "\n")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        refused = {int(number) for number in _WRONG_LINE.findall(done.stderr)}
        texts = [text for number, text in enumerate(texts, 1) if number not in refused]
        source.write_text("\n".join(texts) + "\n")
        _note_refused(report, name, len(refused))
        contenders.append(Contender(f"{name}, whole process", _whole(command, len(texts))))
    return contenders


def _whole(command: list[str], count: int) -> Callable[[], int]:
    def run() -> int:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchmarkError(f"{Path(command[0]).name} failed: {done.stderr[:300]}")
        return count

    return run


def _note_refused(report: Report, name: str, count: int) -> None:
    if count:
        report.notes.append(f"{name} refuses {count:,} of the texts.")

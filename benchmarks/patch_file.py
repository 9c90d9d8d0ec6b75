"""patch-file: an assembly diff of 1, 1,000 and 50,000 hunks read, planned and applied, journal and all.

Read on: src/a64patch/patch/plan.py and transaction.py.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from a64patch.a64.disassembler import disassemble
from a64patch.a64.generate import gen_nop
from a64patch.a64.words import INSN_SIZE, as_array
from a64patch.patch.asmdiff import BUILD_ID, AsmDiff, Hunk, Line, parse, to_text
from a64patch.patch.journal import Journal
from a64patch.patch.plan import make_plan
from a64patch.patch.transaction import apply_plan
from a64patch.targets.elf import ElfFile
from benchmarks import inputs
from benchmarks.measure import MILLISECONDS, Contender, Report, Verdict, compare

AIM = "50,000 hunks in under 2 s, growing linearly"
ROUNDS = 5

_COUNTS = (1, 1_000, 50_000)
_FUNCTION = 1024
"""Bytes of each function that the file's symbols name: about as long as the kernel's are."""
_BREAK = 0xD4200000


def run(rounds: int | None) -> Report:
    """An ELF file with the text of Debian's kernel; each hunk makes one word a NOP."""
    report = Report("patch-file")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        kernel, title = _kernel(directory)
        contenders = []
        for count in _COUNTS:
            text, copy = _patch(kernel, count), directory / f"copy-{count}"
            work = _work(text, copy, directory / f"journal-{count}")
            contenders.append(Contender(f"{count:,} hunks", work, _copying(kernel, copy), ours=True))
        table = compare(f"parse, plan, journal, apply to {title}", MILLISECONDS, contenders, rounds or ROUNDS)
        report.tables.append(table)
    one, thousand, most = (row.median for row in table.rows)
    report.verdicts.append(Verdict("50,000 hunks in under 2 s", most < 2000, f"{most / 1000:.2f} s"))
    each = [(thousand - one) / _COUNTS[1], (most - one) / _COUNTS[2]]
    report.verdicts.append(
        Verdict(
            "no more for each of 50,000 hunks than for each of 1,000",
            each[1] <= 1.5 * each[0],
            f"{each[0] * 1000:.0f} and {each[1] * 1000:.0f} us a hunk",
        )
    )
    return report


def _kernel(directory: Path) -> tuple[Path, str]:
    words, title = inputs.kernel_words()
    image, source, built = directory / "text", directory / "kernel.s", directory / "kernel"
    image.write_bytes(words.tobytes())
    names = "".join(
        f".globl f{number}\n.set f{number}, _start + {number * _FUNCTION}\n.type f{number}, %function\n"
        f".size f{number}, {_FUNCTION}\n"
        for number in range(len(words) * INSN_SIZE // _FUNCTION)
    )
    source.write_text(f'.globl _start\n_start: .incbin "{image}"\n{names}')
    linked = [str(built), str(built.with_suffix(".o"))]
    subprocess.run(["aarch64-linux-gnu-as", "-o", linked[1], str(source)], check=True)
    subprocess.run(["aarch64-linux-gnu-ld", "--build-id", "-o", *linked], check=True)
    # GNU as marks included bytes as data, and these are code.
    subprocess.run(["aarch64-linux-gnu-objcopy", "--strip-symbol=$d", str(built)], check=True)
    return built, f"an ELF file of {built.stat().st_size >> 20} MiB, {title}"


def _patch(kernel: Path, count: int) -> str:
    with ElfFile(kernel) as target:
        start, end = target.code_ranges()[0]
        words = as_array(target.read(start, end - start))
        hunks = []
        for index in range(0, len(words) // count * count, len(words) // count):
            address, word = start + INSN_SIZE * index, int(words[index])
            new = gen_nop() if word != gen_nop() else _BREAK
            lines = (
                Line("-", word, disassemble(word, address, target.symbols)),
                Line("+", new, disassemble(new)),
            )
            hunks.append(Hunk(target.symbols.describe(address), lines))
        return to_text(AsmDiff(tuple(hunks), headers=((BUILD_ID, target.build_id),)))


def _work(text: str, copy: Path, journal: Path) -> Callable[[], int]:
    def work() -> int:
        with ElfFile(copy) as target, Journal(journal) as entries:
            # What stands in the kernel's tables looks like code here: its hazards are accepted unseen.
            apply_plan(make_plan(parse(text), target), target, entries, accept=["all"])
        return 1

    return work


def _copying(kernel: Path, copy: Path) -> Callable[[], object]:
    return lambda: shutil.copy(kernel, copy)

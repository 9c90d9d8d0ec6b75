"""classify: which row of the table each word of a text belongs to; a whole libc and a whole kernel at a time.

Read on: src/a64patch/a64/predicates.py.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from a64patch.a64.encodings import TABLE
from a64patch.a64.predicates import classify
from benchmarks import inputs
from benchmarks.measure import (
    MILLISECONDS,
    NS_PER_WORD,
    BenchmarkError,
    Contender,
    Report,
    Row,
    Table,
    Verdict,
    compare,
    process_environment,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

AIM = "within 2x of memory-bound numpy, about 5 ns a word; 3 million words in under 60 ms"
ROUNDS = 9

_OURS = "a64patch: classify"
_PASS = "numpy: (words & mask) == value, one pass"
_LOOKUPS = "numpy: three look-ups, indices made before"
_TIMES = 8
_AIM_WORDS = 3_000_000

_BUILD = """
from time import perf_counter
begun = perf_counter()
import numpy
numpy_done = perf_counter()
from a64patch.a64.predicates import classify
classify_done = perf_counter()
classify(numpy.zeros(1, numpy.uint32))
print(numpy_done - begun, classify_done - numpy_done, perf_counter() - classify_done)
"""


def run(rounds: int | None) -> Report:
    """All words of libc and of the kernel."""
    rounds = rounds or ROUNDS
    report = Report("classify")
    libc, libc_name = inputs.libc_words()
    with tempfile.TemporaryDirectory() as directory:
        report.tables.append(
            compare(
                f"{libc_name}, {len(libc):,} words",
                NS_PER_WORD,
                [*_numpy(libc), *_peers(libc, Path(directory), report)],
                rounds,
                ["capstone and objdump do more: they make the text of each instruction."],
            )
        )
    try:
        kernel, kernel_name = inputs.kernel_words()
    except inputs.MissingError as error:
        report.notes.append(f"libc 11 times over stands in for the kernel: {error}")
        kernel, kernel_name = numpy.tile(libc, 11), "libc 11 times over"
    report.tables.append(compare(f"{kernel_name}, {len(kernel):,} words", NS_PER_WORD, _numpy(kernel), rounds))
    huge = numpy.tile(kernel, _TIMES)
    memory = compare(
        f"{kernel_name} {_TIMES} times over, {len(huge):,} words, more than caches hold",
        NS_PER_WORD, _numpy(huge, lookups=False), max(3, rounds // 2),
    )  # fmt: skip
    report.tables += [memory, _build_times(rounds)]
    _judge(report, memory)
    return report


def _judge(report: Report, memory: Table) -> None:
    one_pass = memory.row(_PASS).median
    report.notes += [
        "Memory-bound numpy, as measured: one pass of (words & mask) == value into arrays made before, over more words "
        f"than caches hold. It touches 13 bytes a word (4 read, 4 written, 4 read, 1 written): "
        f"{13 / one_pass:.0f} GB/s.",
        f"The aim's 5 ns a word are {5 / one_pass:.0f} such passes here. A pass tells one encoding from the rest; "
        f"classify tells all {len(TABLE)} rows of the table apart. Both readings of the aim are judged.",
    ]
    kernel = report.tables[1]
    milliseconds = kernel.row(_OURS).median * _AIM_WORDS * 1e-6
    report.verdicts.append(Verdict("3 million words in under 60 ms", milliseconds < 60, f"{milliseconds:.1f} ms"))
    for table in report.tables[:3]:
        ours = table.row(_OURS).median
        report.verdicts.append(Verdict(f"at most 10 ns a word (2 x 5), {table.title}", ours <= 10, f"{ours:.2f} ns"))
    ours = memory.row(_OURS).median
    report.verdicts.append(
        Verdict(
            "at most twice one memory-bound pass, as measured here",
            ours <= 2 * one_pass,
            f"{ours / one_pass:.1f} times: {ours:.2f} against {one_pass:.2f} ns",
        )
    )


def _numpy(words: NDArray[numpy.uint32], *, lookups: bool = True) -> list[Contender]:
    contenders = [Contender(_OURS, _counted(lambda: classify(words), words), ours=True)]
    masked, answer = numpy.empty_like(words), numpy.empty(words.shape, numpy.bool_)
    mask, value = numpy.uint32(0xFC000000), numpy.uint32(0x14000000)

    def one_pass() -> None:
        numpy.bitwise_and(words, mask, out=masked)
        numpy.equal(masked, value, out=answer)

    contenders.append(Contender(_PASS, _counted(one_pass, words)))
    if lookups:
        table, rows = numpy.arange(1 << 16, dtype=numpy.uint32), numpy.zeros(1 << 16, numpy.int16)
        upper, lower = (words >> 16).astype(numpy.intp), (words & 0xFFFF).astype(numpy.intp)
        found, result = numpy.empty_like(words), numpy.empty(words.shape, numpy.int16)

        def look_up() -> None:
            table.take(upper, out=found, mode="clip")
            table.take(lower, out=found, mode="clip")
            rows.take(upper, out=result, mode="clip")

        contenders.append(Contender(_LOOKUPS, _counted(look_up, words)))
    return contenders


def _counted(work: Callable[[], object], words: NDArray[numpy.uint32]) -> Callable[[], int]:
    def run() -> int:
        work()
        return len(words)

    return run


def _peers(words: NDArray[numpy.uint32], directory: Path, report: Report) -> list[Contender]:
    data = words.tobytes()
    contenders = []
    if inputs.has_module("capstone"):
        import capstone

        engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
        engine.skipdata = True

        def disassemble() -> int:
            return sum(1 for _ in engine.disasm_lite(data, 0))

        if disassemble() != len(words):
            raise BenchmarkError("capstone did not go through all words")
        contenders.append(Contender("capstone: disasm_lite", disassemble))
    else:
        report.notes.append("capstone is not installed: run scripts/bench.")
    objdump = inputs.tool("aarch64-linux-gnu-objdump")
    if objdump:
        path = directory / "text"
        path.write_bytes(data)
        command = [objdump, "-D", "-b", "binary", "-m", "aarch64", str(path)]

        def dump() -> int:
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            return len(words)

        contenders.append(Contender("objdump of the same bytes, whole process", dump))
    else:
        report.notes.append("objdump is not there: install the Debian package binutils-aarch64-linux-gnu.")
    return contenders


def _build_times(rounds: int) -> Table:
    names = ("import numpy", "import a64patch.a64.predicates", "first call: builds the tables")
    seconds = []
    for _ in range(rounds + 1):
        done = subprocess.run(
            [sys.executable, "-c", _BUILD], env=process_environment(), capture_output=True, text=True, check=True
        )
        seconds.append([float(number) for number in done.stdout.split()])
    unit = MILLISECONDS
    rows = [
        Row(name, name.startswith("first"), tuple(unit.convert(value) for value in values))
        for name, values in zip(names, zip(*seconds[1:], strict=True), strict=True)
    ]
    return Table("once a process, before the first word", unit, rows)

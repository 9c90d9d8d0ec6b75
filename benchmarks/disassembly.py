"""disassembly: the text of each word of a whole libc and of a whole kernel, one call a word from Python.

Read on: src/a64patch/a64/disassembler.py.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from a64patch.a64 import disassembler
from a64patch.a64.disassembler import disassemble
from benchmarks import inputs
from benchmarks.measure import NS_PER_WORD, BenchmarkError, Contender, Report, Verdict, compare

AIM = "from Python faster than capstone's disasm_lite over a kernel's text"
ROUNDS = 7

_OURS = "a64patch: disassemble"
_CAPSTONE = "capstone: disasm_lite"


def run(rounds: int | None) -> Report:
    """All words of libc and of the kernel."""
    report = Report("disassembly")
    texts = [(*inputs.libc_words(), rounds or ROUNDS)]
    try:
        texts.append((*inputs.kernel_words(), rounds or max(3, ROUNDS // 2)))
    except inputs.MissingError as error:
        report.notes.append(f"without a kernel: {error}")
    with tempfile.TemporaryDirectory() as directory:
        for position, (array, name, count) in enumerate(texts):
            words = array.tolist()
            ours = _ours(words, all_ways=position == 0)
            peers = _peers(array.tobytes(), len(words), Path(directory), report)
            table = compare(f"{name}, {len(words):,} words", NS_PER_WORD, ours + peers, count)
            table.notes.append(f"{len(set(words)):,} of these words are distinct.")
            report.tables.append(table)
            mine, found = table.row(_OURS).median, [row.median for row in table.rows if row.name == _CAPSTONE]
            met = mine < found[0] if found else None
            against = f"against {found[0]:.0f} ns" if found else "capstone is not installed"
            report.verdicts.append(Verdict(f"faster than capstone, {name}", met, f"{mine:.0f} ns a word, {against}"))
    report.notes += [
        "a64patch formats equal words once while it remembers them; what it remembers is forgotten before each run, "
        "unless the row says otherwise. capstone formats every word anew.",
        "objdump and llvm-mc are whole processes that write their text to nowhere; llvm-mc reads hex digits.",
    ]
    return report


def _ours(words: list[int], *, all_ways: bool) -> list[Contender]:
    def work() -> int:
        address = 0
        for word in words:
            disassemble(word, address)
            address += 4
        return len(words)

    contenders = [Contender(_OURS, work, _forget, ours=True)]
    if all_ways:
        contenders.append(Contender("a64patch: the second time", work, ours=True))
        contenders.append(Contender("a64patch: every word anew", _unremembered(work), _forget, ours=True))
    return contenders


def _forget() -> None:
    disassembler._text.cache_clear()
    disassembler._around_label.cache_clear()


def _unremembered(work: Callable[[], int]) -> Callable[[], int]:
    remembering = {name: getattr(disassembler, name) for name in ("_text", "_around_label")}

    def run() -> int:
        for name, function in remembering.items():
            setattr(disassembler, name, function.__wrapped__)
        try:
            return work()
        finally:
            for name, function in remembering.items():
                setattr(disassembler, name, function)

    return run


def _peers(data: bytes, count: int, directory: Path, report: Report) -> list[Contender]:
    contenders = []
    if inputs.has_module("capstone"):
        import capstone

        engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
        engine.skipdata = True

        def disassemble_all() -> int:
            return sum(1 for _ in engine.disasm_lite(data, 0))

        if disassemble_all() != count:
            raise BenchmarkError("capstone did not go through all words")
        contenders.append(Contender(_CAPSTONE, disassemble_all))
    else:
        report.notes.append("capstone is not installed: run scripts/bench.")
    objdump, llvm_mc = inputs.tool("aarch64-linux-gnu-objdump"), inputs.tool("llvm-mc")
    if objdump:
        path = directory / "text"
        path.write_bytes(data)
        command = [objdump, "-D", "-z", "-b", "binary", "-m", "aarch64", str(path)]
        contenders.append(Contender("objdump, whole process", _whole(command, count)))
    else:
        report.notes.append("objdump is not there: install the Debian package binutils-aarch64-linux-gnu.")
    if llvm_mc:
        digits = directory / "digits"
        lines = ("".join(f"0x{byte:02x} " for byte in data[at : at + 4]) for at in range(0, len(data), 4))
        digits.write_text("\n".join(lines) + "\n")
        command = [llvm_mc, "--disassemble", "--triple=aarch64", "--mattr=+v8.7a", str(digits)]
        contenders.append(Contender("llvm-mc --disassemble, whole process", _whole(command, count)))
    else:
        report.notes.append("llvm-mc is not there: install the Debian package llvm.")
    return contenders


def _whole(command: list[str], count: int) -> Callable[[], int]:
    def run() -> int:
        # llvm-mc warns about each word that it does not know.
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        return count

    return run

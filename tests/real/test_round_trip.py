"""Text both ways on what others built and wrote: Debian's arm64 code, with GNU objdump and GNU as (Debian packages).

Every distinct word of the kernel's Image, of 100 of its modules, of libc and of libcrypto, none left out. The table of
what came back, by encoding class, is printed at the end and stands in the report as the property `round_trip`.
Read on: a64/test_differential.py asks the same of every row and of random words, and holds most of the explanations.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy
import pytest
from numpy.typing import NDArray

from a64patch.a64.assembler import assemble, assemble_one
from a64patch.a64.disassembler import disassemble
from a64patch.a64.encodings import Encoding
from a64patch.a64.predicates import InsnClass, decode, get_insn_class
from a64patch.a64.words import INSN_SIZE, as_array
from a64patch.errors import AssemblyError
from a64patch.targets.elf_image import ElfImage
from tests import support
from tests.a64.judges import explained, gnu_as_reads
from tests.a64.references import gnu_as, objdump
from tests.real import packages

MODULES = 100
ALL_OF = ("arch/arm64/crypto", "arch/arm64/lib", "lib/crypto", "lib/raid6", "crypto/async_tx")
"""Folders of the kernel's modules that are read whole; of the others every n-th module, to make 100."""

RET = 0xD65F03C0
BLOCK = 64 * 1024 // INSN_SIZE
"""Words to a block: SEGMENT_ALIGN of the kernel's linker script is 64 KiB, and where the text ends a block does."""
DENSE = BLOCK // 1024
"""`ret`s to a block of code."""

START = 1 << 40
"""Where the words of a piece stand: no label of theirs is below 0."""
PIECE = 16384

BASE = ("DP_IMM", "DP_REG", "BR_SYS", "LDST general")
VECTOR = ("DP_FPSIMD", "LDST vector")
COLUMNS = ("words", "same", "unnamed", "other", "refused", "wrong", "GNU as")
LEGEND = """\
words    distinct words
same     objdump's text assembles to the word
unnamed  objdump has no text for it: data, or newer than objdump
other    objdump's text leaves bits out, so it is that of another word: for this word we print .inst
refused  objdump's text does not assemble
wrong    it assembles to another word
GNU as   of our text GNU as makes the word; of every one we name but those newer than GNU as"""

REFUSED = {
    "SVE": "SVE is decoded as its class only: the kernel saves its registers, libc has a memcpy for A64FX, else data",
    "SME": "SME is decoded as its class only; all of it is data",
    "op0": "op0 of 0 or 1 is no register (C5.1.2), objdump prints s0_… for want of anything better; all of it is data",
}
"""Why objdump's text does not assemble. Data is in the text of libcrypto above all, which keeps its tables there."""

Words = NDArray[numpy.uint32]


def text_of_image(image: bytes) -> Words:
    """The text of a raw arm64 Image: all from _stext to _etext, then the small texts of idmap and of booting.

    Its headers do not say where data begins: what the PE header calls .text goes on to the initialised data. So it is
    found by its `ret`s, which stand in every block of code and, but for the vDSO's, in no data: two runs of blocks that
    are dense with them, up to the last `ret`. Data that shares these blocks is read too.
    """
    assert image[0x38:0x3C] == b"ARM\x64", "the magic number that Documentation/arm64/booting.rst gives"
    words = as_array(image[: len(image) & ~3])
    returns = numpy.flatnonzero(words == RET)
    blocks, counts = numpy.unique(returns // BLOCK, return_counts=True)
    dense = blocks[counts >= DENSE]
    runs = numpy.split(dense, numpy.flatnonzero(numpy.diff(dense) > 1) + 1)
    assert len(runs) == 2, "one run of blocks for the text, one for idmap and booting"
    ends = [returns[returns // BLOCK == run[-1]][-1] + 1 for run in runs]
    return numpy.concatenate([words[run[0] * BLOCK : end] for run, end in zip(runs, ends, strict=True)])


def text_of_elf(data: bytes, name: str) -> Words:
    """The words of all the executable sections of an ELF file."""
    image = ElfImage(data, name)
    chunks = [chunk for start, end in image.code for chunk in image.chunks(start, end - start) or ()]
    return numpy.concatenate([as_array(data[offset : offset + (size & ~3)]) for offset, size in chunks])


def modules() -> list[str]:
    """The names of 100 modules."""
    root = packages.unpacked(packages.KERNEL)
    paths = sorted(root.rglob("*.ko*"))
    chosen = [path for path in paths if any(f"/kernel/{folder}/" in path.as_posix() for folder in ALL_OF)]
    others = [path for path in paths if path not in set(chosen)]
    room = MODULES - len(chosen)
    chosen += others[:: len(others) // room][:room]
    return [path.name.partition(".ko")[0] for path in chosen]


def corpora() -> dict[str, Words]:
    """Everything that is read, distinct words only."""
    names = modules()
    assert len(names) == MODULES
    assert {"raid6_pq", "aes-neon-bs", "sha512-ce"} <= set(names)
    parts = {
        "Image": text_of_image(packages.file_of(packages.KERNEL, "boot/vmlinuz-*").read_bytes()),
        "modules": numpy.concatenate([text_of_elf(packages.read_kernel_module(name), name) for name in names]),
        "libc": text_of_elf(packages.file_of("libc6", "lib/*/libc.so.6").read_bytes(), "libc.so.6"),
        "libcrypto": text_of_elf(packages.file_of("libssl3", "lib/*/libcrypto.so.3").read_bytes(), "libcrypto.so.3"),
    }
    return {name: numpy.unique(words) for name, words in parts.items()}


@dataclass
class Outcome:
    """What came back of some words."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By (class, column)."""
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    """(class, key of REFUSED, objdump's text)."""
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.counts += other.counts
        self.refused += other.refused
        self.wrong += other.wrong


def class_of(word: int, row: Encoding | None) -> str:
    kind = get_insn_class(word)
    if kind == InsnClass.LDST:
        mops = row is not None and "mops" in row.families  # these have bit 26 too
        return "LDST vector" if word >> 26 & 1 and not mops else "LDST general"
    return kind.name


def relative(row: Encoding) -> bool:
    """Its text has a label."""
    return row.literal or bool({"branch_imm", "adr", "adrp"} & set(row.families))


def round_trip(words: list[int]) -> Outcome:
    """objdump's text to the word; our text to the word, with our assembler and with GNU's."""
    result = Outcome()
    for_gnu: list[tuple[int, str]] = []
    pages: list[tuple[int, str]] = []
    for number, (word, text) in enumerate(zip(words, objdump(words, START), strict=True)):
        address, row = START + INSN_SIZE * number, decode(word)
        kind = class_of(word, row)
        labelled = row is not None and relative(row)
        if labelled:  # objdump prints a label as hex digits alone, which could be a name or a number too
            text = re.sub(r"(?<![\w#])([0-9a-f]+)$", r"0x\1", text)
        result.counts[kind, "words"] += 1
        found = column(result, word, text, address)
        result.counts[kind, found] += 1
        mine = disassemble(word, address)
        if (found != "same" or mine != text) and assembled(mine, address) != word:
            result.wrong.append(f"{word:#010x}: our own {mine!r} is {assembled(mine, address)}")
        if row is None or mine.startswith(".inst") or not gnu_as_reads(word, row):
            continue
        result.counts[kind, "GNU as"] += 1
        if "adrp" in row.families:
            pages.append((word, f".org {address - START:#x}\n{mine.replace(' 0x', ' absolute + 0x')}"))
        elif labelled:
            before, label = mine.rsplit(" ", 1)
            for_gnu.append((word, f"{before} .{int(label, 16) - address:+d}"))
        else:
            for_gnu.append((word, mine.replace("clrbhb", "clearbhb")))
    for known, made in ((for_gnu, gnu_as([text for _, text in for_gnu])), (pages, gnu_linked(pages))):
        for (word, text), gnu in zip(known, made, strict=True):
            if word != gnu:
                result.wrong.append(f"{word:#010x}: GNU as makes {gnu:#010x} of our {text!r}")
    return result


def assembled(text: str, address: int) -> int | str:
    """The word, or why there is none."""
    try:
        (word,) = assemble(text, address)
    except AssemblyError as error:
        return f"refused: {error}"
    return word


def column(result: Outcome, word: int, text: str, address: int) -> str:
    """Where objdump's text of a word is counted."""
    row = decode(word)
    kind = class_of(word, row)
    if text.startswith((".inst", "undefined")):
        # Where no text of ours means the word either, both agree.
        ours = disassemble(word, address)
        if row is not None and not ours.startswith(".inst") and not explained("objdump", word, row, ""):
            result.wrong.append(f"{word:#010x}: {row.name}, which objdump does not know")
        return "unnamed"
    less = row is None and explained("objdump", word, row, text)
    try:
        made = assemble_one(text, address)
    except AssemblyError as error:
        reason = kind if kind in REFUSED else "op0" if less and re.match("msr |mrs ", text) else ""
        result.refused.append((kind, reason, text if reason else f"{word:#010x} {text}: {error}"))
        return "refused"
    if made == word:
        return "same"
    if less or (row and disassemble(word).startswith(".inst") and explained("objdump", word, row, text)):
        return "other"
    result.wrong.append(f"{word:#010x}: objdump's {text!r} is {made:#010x}")
    return "wrong"


def gnu_linked(pages: Sequence[tuple[int, str]]) -> list[int]:
    """GNU as's and ld's words of texts whose label is `absolute + ADDRESS`, each after an `.org` from START."""
    if not pages:
        return []
    with TemporaryDirectory() as folder:
        source = "\n".join(text for _, text in pages) + "\n"
        unit = support.assemble(source, Path(folder, "unit.o"))
        options = (f"--section-start=.text={START:#x}", "--entry=0", "--defsym=absolute=0")
        linked = support.link(unit, Path(folder, "unit"), *options)
        words = text_of_elf(linked.read_bytes(), "unit").tolist()
    return [words[int(text.split()[1], 16) // INSN_SIZE] for _, text in pages]


def table(result: Outcome) -> str:
    lines = [f"{'':<14}" + "".join(f"{column:>9}" for column in COLUMNS) + f"{'share':>10}"]
    kinds = sorted({kind for kind, _ in result.counts}, key=lambda kind: (kind not in BASE, kind not in VECTOR, kind))
    for kind in kinds:
        numbers = [result.counts[kind, column] for column in COLUMNS]
        tried = result.counts[kind, "same"] + result.counts[kind, "refused"] + result.counts[kind, "wrong"]
        share = f"{result.counts[kind, 'same'] / tried:10.3%}" if tried else ""
        lines.append(f"{kind:<14}" + "".join(f"{number:9}" for number in numbers) + share)
    for key, reason in REFUSED.items():
        mnemonics = Counter(text.split()[0] for _, why, text in result.refused if why == key)
        names = " ".join(f"{name}:{count}" for name, count in mnemonics.most_common())
        lines.append(f"\nrefused, {mnemonics.total()} words: {reason}\n  {names}")
    return "\n".join(lines)


def test_every_word_of_debian_there_and_back_with_gnu(
    record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for tool in ("as", "ld", "objcopy", "objdump"):
        support.need(f"aarch64-linux-gnu-{tool}", "binutils-aarch64-linux-gnu")
    parts = corpora()
    words = numpy.unique(numpy.concatenate(list(parts.values()))).tolist()
    result = Outcome()
    pieces = [words[start : start + PIECE] for start in range(0, len(words), PIECE)]
    # Not forked: pytest-xdist runs tests in a process with threads.
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as workers:
        for outcome in workers.map(round_trip, pieces):
            result.add(outcome)

    sizes = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
    report = f"Distinct words: {len(words)} ({sizes})\n{table(result)}"
    record_property("round_trip", report)
    record_property("refused", "\n".join(sorted(text for _, _, text in result.refused)))
    with capsys.disabled():
        print(f"\n{report}\n\n{LEGEND}")

    assert result.wrong == []
    assert [text for _, reason, text in result.refused if not reason] == [], "refused, and not explained"
    # The libcrypto of Debian 13 has no word of the last kind in its text.
    assert set(REFUSED) - {reason for _, reason, _ in result.refused} <= {"op0"}, "each explanation is needed"
    for kind in (*BASE, *VECTOR):
        assert result.counts[kind, "same"] > 4000, f"the words must try {kind}"
        assert result.counts[kind, "refused"] == sum(refused[:2] == (kind, "op0") for refused in result.refused)

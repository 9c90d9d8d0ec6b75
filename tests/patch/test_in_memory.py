"""A file against a process that executes it. Here the process is a file, too.

Read on: ../real/test_live_exe.py has real processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from a64patch.a64.words import to_bytes
from a64patch.errors import CapabilityError
from a64patch.patch.asmdiff import to_text
from a64patch.patch.compare import compare
from a64patch.patch.in_memory import BuildInMemory
from a64patch.patch.plan import State, make_plan
from a64patch.ranges import Ranges
from a64patch.targets.base import Capabilities
from a64patch.targets.elf import ElfFile
from a64patch.targets.modules import Module
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.support import assemble, link

BASE = 0x7F_0000_0000
PIE = ("-pie", "--no-dynamic-linker")
SOURCE = """
    .globl _start, other
    .type _start, %function
_start: nop
    adr x0, .Lunnamed
    bl other
    mov w0, #1
    ret
    .size _start, . - _start
    .type other, %function
other: ret
    .size other, . - other
    nop
    .word 0x12345678
    .data
    .quad 7
.Lunnamed:
    .quad 8
"""


class Process(ElfFile):
    """The file in memory at BASE, beside another module; with some words of code changed, and all data."""

    def __init__(self, path: Path, *, first: bool = True) -> None:
        super().__init__(path)
        self.changed: dict[int, int] = {}
        self._first = first
        self._code = [span for module in super().own_modules() for span in module.code or ()]
        self.capabilities = Capabilities("process", 1, True, True, True, True)

    def own_modules(self) -> Iterable[Module]:
        [file] = super().own_modules()
        names = [symbol.moved(BASE)._replace(module="file") for symbol in file.symbols.ascending()]
        own = Module(
            "file",
            SymbolTable(lambda: names),
            file.build_id,
            base=BASE,
            code=Ranges.of((start + BASE, end + BASE) for start, end in file.code or ()),
        )
        beside = Module("beside", SymbolTable(lambda: [Symbol("third", 0x1000, 8, "beside", True)]), "ff")
        return (own, beside) if self._first else (beside, own)

    def read(self, address: int, size: int) -> bytes:
        data = bytearray(super().read(address - BASE, size))
        for place, word in self.changed.items():
            if 0 <= place + BASE - address < size:
                at = place + BASE - address
                data[at : at + 4] = to_bytes([word])
        in_code = any(start <= address - BASE < end for start, end in self._code)
        return bytes(data) if in_code else bytes(byte ^ 0xFF for byte in data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return link(assemble(SOURCE, tmp_path / "o"), tmp_path / "file", "--build-id=0x0102", *PIE)


@pytest.mark.parametrize("first", [True, False])
def test_what_was_changed_in_memory_is_a_patch_of_the_file(path: Path, first: bool) -> None:
    with ElfFile(path) as file, Process(path, first=first) as process:
        assert compare(file, process) == (compare(file, file).diff, ())
        start = file.symbols["_start"]
        process.changed = {start: 0xD503203F, start + 12: 0x52800040}
        comparison = compare(file, process)
        assert comparison.not_expressed == ()
        text = to_text(comparison.diff)
        assert [line for line in text.splitlines() if line[:1] in ("-", "+")][1::2] == [
            "+d503203f  yield",
            "+52800040  mov   w0, #2",
        ]
        plan = make_plan(comparison.diff, file)
        assert (plan.state, plan.by_meaning, len(plan.changes)) == (State.TO_DO, False, 2)


def test_what_was_changed_outside_of_functions_is_told(path: Path) -> None:
    with ElfFile(path) as file, Process(path) as process:
        process.changed = {file.symbols["other"] + 8: 0x1F2003D5}
        comparison = compare(file, process)
        assert (comparison.diff.hunks, len(comparison.not_expressed)) == ((), 1)
        assert "differs in NEW" in comparison.not_expressed[0]


def test_another_build_is_compared_by_its_own_names(tmp_path: Path) -> None:
    source = SOURCE.replace("adr x0, .Lunnamed", "nop")
    old = link(assemble(source, tmp_path / "o"), tmp_path / "old", "--build-id=0x0102", *PIE)
    source = source.replace("mov w0, #1", "mov w0, #3")
    other = link(assemble(source, tmp_path / "o"), tmp_path / "other", "--build-id=0x0304", *PIE)
    with ElfFile(old) as file, Process(other) as process:
        comparison = compare(file, process)
        assert [hunk.site for hunk in comparison.diff.hunks] == ["_start"]
        assert not any("third" in sentence or "only" in sentence for sentence in comparison.not_expressed)


def test_a_build_in_memory_is_only_read(path: Path) -> None:
    with ElfFile(path) as file, Process(path) as process:
        build = BuildInMemory(process, file)
        attempts: list[Callable[[], object]] = [
            lambda: build.write(0, b""), lambda: build.publish(0, 4), build.kick, build.stop,
        ]  # fmt: skip
        for attempt in attempts:
            with pytest.raises(CapabilityError, match="only compared"):
                attempt()

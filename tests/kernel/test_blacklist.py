"""Code of Linux that nobody may probe: in files that are linked here, and in a list that the test writes to memory."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.errors import FormatError, PlanError, SymbolError
from a64patch.kernel import blacklist
from a64patch.kernel.structures import Structures
from a64patch.patch.asmdiff import parse
from a64patch.patch.plan import make_plan, require_acceptable
from a64patch.ranges import Ranges
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.kernel.test_loaded import HEAD, TEXT, Kernel
from tests.kernel.types import Writer
from tests.support import assemble, link

SOURCE = """
    .text
    .globl _start, handler, other
    .type handler, %function
    .type other, %function
_start: ret
handler: nop
    ret
    .size handler, . - handler
other: nop
    ret
    .size other, . - other
    .section .noinstr.text, "ax"
    .globl __noinstr_text_start, __noinstr_text_end, quiet
__noinstr_text_start:
    .type quiet, %function
quiet: nop
    nop
    .size quiet, . - quiet
__noinstr_text_end:
    .section _kprobe_blacklist, "aw"
    .globl __start_kprobe_blacklist, __stop_kprobe_blacklist
__start_kprobe_blacklist: .quad handler
__stop_kprobe_blacklist:
"""


def kernel(folder: Path) -> Path:
    return link(assemble(SOURCE, folder / "vmlinux.o"), folder / "vmlinux")


def kernel_with_relocations(folder: Path) -> Path:
    options = ("-pie", "--no-dynamic-linker", "--no-apply-dynamic-relocs")
    return link(assemble(SOURCE, folder / "vmlinux.o"), folder / "vmlinux", *options)


def module(folder: Path) -> Path:
    return assemble(SOURCE, folder / "module.ko")


@pytest.mark.parametrize("build", [kernel, kernel_with_relocations, module])
def test_a_patch_of_a_listed_function_needs_consent(build: object, tmp_path: Path) -> None:
    assert callable(build)
    with open_target(build(tmp_path)) as target:
        [claim] = [claim for claim in target.modules.claims if claim.hazard == "kprobe-blacklist"]
        found = {target.symbols.describe(at) for start, end in claim.words for at in range(start, end, 4)}
        assert found - {"quiet+0x4", "__noinstr_text_start+0x4"} == {"handler", "handler+0x4"} | (
            found & {"quiet", "__noinstr_text_start"}
        )
        assert claim.words.size == 16
        plan = make_plan(parse("@@ handler @@\n-d503201f\n+d503203f\n"), target)
        with pytest.raises(PlanError, match=r"handler is in code that nobody may probe: .* --accept kprobe-blacklist"):
            require_acceptable(plan)
        require_acceptable(plan, {"kprobe-blacklist"})
        assert not make_plan(parse("@@ other @@\n-d503201f\n+d503203f\n"), target).hazards


HEAP = 0xFFFF000001000FE0
"""32 bytes before the end of a page."""


def structures() -> Structures:
    types = Writer()
    u64 = types.integer("u64", 8)
    heads = types.structure("list_head", 16, [("next", u64, 0), ("prev", u64, 64)])
    fields = [("list", heads, 0), ("start_addr", u64, 128), ("end_addr", u64, 192)]
    types.structure("kprobe_blacklist_entry", 32, fields)
    return Structures(types.bytes)


def memory(*spans: tuple[int, int]) -> Kernel:
    """A kernel with this list; its entries are on two pages."""
    made = Kernel()
    places = [HEAP + 32 * number for number in range(len(spans))]
    ring = [HEAD, *places, HEAD]
    made.put(HEAD // 4096 * 4096, bytes(4096))
    made.put(HEAP // 4096 * 4096, bytes(8192))
    made.put(HEAD, struct.pack("<QQ", ring[1], ring[-2]))
    for number, (place, span) in enumerate(zip(places, spans, strict=True)):
        made.put(place, struct.pack("<QQQQ", ring[number + 2], ring[number], *span))
    return made


SPANS = ((TEXT, TEXT + 0x40), (TEXT + 0x100, TEXT + 0x104), (TEXT + 0x40, TEXT + 0x48))
NAMED = SymbolTable(lambda: [Symbol("kprobe_blacklist", HEAD)])


def test_the_list_of_a_running_kernel() -> None:
    machine = memory(*SPANS)
    assert blacklist.listed(machine, structures(), NAMED) == Ranges.of(SPANS)
    assert machine.reads == 3, "one a page"
    assert blacklist.listed(memory(), structures(), NAMED) == Ranges()


@pytest.mark.parametrize("at", [HEAP, HEAP + 8, HEAP + 16, HEAP + 32, HEAP + 40])
@pytest.mark.parametrize("number", [0, 4, HEAP, HEAP - 8, 1 << 63, (1 << 64) - 8])
def test_a_list_that_does_not_check_out_is_not_believed(at: int, number: int) -> None:
    machine = memory(*SPANS)
    if struct.pack("<Q", number) == machine.read(at, 8):
        return
    machine.put(at, struct.pack("<Q", number))
    with pytest.raises(FormatError, match="that nobody may probe"):
        blacklist.listed(machine, structures(), NAMED)


def test_without_the_list_the_symbols_tell() -> None:
    bounds = [Symbol("__noinstr_text_start", TEXT), Symbol("__noinstr_text_end", TEXT + 8)]
    table = SymbolTable(lambda: bounds)
    machine = memory(*SPANS)
    with pytest.raises(SymbolError, match="was not found"):
        blacklist.listed(machine, structures(), table)
    claim = blacklist.claim_on_running(machine, structures(), table, Ranges(((TEXT, TEXT + 0x1000),)))
    assert [*claim.on([TEXT, TEXT + 4, TEXT + 8])] == [TEXT, TEXT + 4]
    claim = blacklist.claim_on_running(machine, structures(), NAMED, Ranges(((TEXT, TEXT + 0x1000),)))
    assert [*claim.on([TEXT, TEXT + 0x4C, TEXT + 0x44])] == [TEXT, TEXT + 0x44]

"""Symbols are found to fit the code that they belong to, at the right place, and no other code."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy
import pytest

from a64patch.a64.assembler import assemble
from a64patch.a64.generate import gen_branch_imm, gen_nop
from a64patch.a64.words import to_bytes
from a64patch.errors import FormatError, MappingError
from a64patch.kernel import placement
from tests.kernel.kernels import FUNCTION, call_each_other, call_in_neighbourhood

COUNT = 4000
AT = 0xFFFF_9ABC_DE00_0000
STARTS = [0xFFFF_8000_0801_0000 + FUNCTION * number for number in range(COUNT)]
SHIFT = AT - STARTS[0]


def reader(code: bytes, at: int) -> Callable[[int, int], bytes]:
    def read(address: int, size: int) -> bytes:
        if not at <= address <= address + size <= at + len(code):
            raise MappingError(f"nothing at {address:#x}")
        return code[address - at : address - at + size]

    return read


def irregular(seed: int) -> tuple[list[int], bytes]:
    """Functions at places that no shift maps onto others: every one but some is there."""
    code = call_each_other(COUNT, seed)
    called = {int(target) for target in placement.calls(code, STARTS[0])}
    return [start for start in STARTS if start in called or start % 3], code


@pytest.mark.parametrize("shift", [SHIFT, 0, -0x1000, 1 << 21])
def test_shift_is_found(shift: int) -> None:
    starts, code = irregular(1)
    starts = [start for number, start in enumerate(starts) if number % 97]
    assert placement.find_shift(starts, placement.calls(code[:0x8000], STARTS[0] + shift), "it") == shift


@pytest.mark.parametrize("shift", [0, 3 << 20, -5 << 12])
@pytest.mark.parametrize("others", [1, 2])
def test_calls_inside_a_module_do_not_hide_where_the_kernel_is(shift: int, others: int) -> None:
    """Of the calls around the CPUs of a Linux 7.2, 89 of 185 agreed once: its own list of names was refused."""
    kernel = placement.calls(call_each_other(COUNT)[:0x8000], STARTS[0] + shift)
    module = numpy.unique(kernel)[:: 1 + (others == 1)] - numpy.uint64(0x30000000) + numpy.uint64(12)
    assert placement.find_shift(STARTS, numpy.concatenate([kernel, *[module] * others]), "it") == shift


def test_symbols_of_other_code_are_refused() -> None:
    with pytest.raises(FormatError, match=r"^System.map does not belong to this kernel"):
        placement.find_shift([start + 4 for start in STARTS], placement.calls(call_each_other(COUNT), AT), "System.map")


def test_too_few_calls_decide_nothing() -> None:
    for called in (numpy.zeros(0, numpy.uint64), placement.calls(call_each_other(COUNT)[:256], AT)):
        with pytest.raises(FormatError, match="cannot be checked"):
            placement.find_shift(STARTS, called, "it")


def test_text_that_fits() -> None:
    code = call_each_other(COUNT)
    read = reader(code, STARTS[0])
    placement.require_fit(read, STARTS, STARTS[0], STARTS[0] + len(code), "it")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.75, 0.95])
def test_text_that_fits_at_its_beginning_only_is_refused(share: float) -> None:
    """A kernel with one more function in the middle: all that comes after it lies elsewhere."""
    code = call_in_neighbourhood(COUNT)
    grown = [start if number < COUNT * share else start + 8 for number, start in enumerate(STARTS)]
    with pytest.raises(FormatError, match="does not belong"):
        placement.require_fit(reader(code, STARTS[0]), grown, STARTS[0], STARTS[0] + len(code), "it")


def test_text_that_is_not_there_is_refused() -> None:
    code = call_each_other(COUNT)
    with pytest.raises(FormatError, match="there is no text at"):
        placement.require_fit(reader(code, STARTS[0]), STARTS, STARTS[0], STARTS[0] + 2 * len(code), "it")
    with pytest.raises(FormatError, match="of 0 calls"):
        placement.require_fit(reader(bytes(len(code)), AT), STARTS, AT, AT + len(code), "it")


def test_module_fits_or_is_gone() -> None:
    code = call_each_other(100)
    starts = STARTS[:100]
    end = starts[0] + len(code)
    assert placement.fits_somewhat(reader(code, starts[0]), starts, starts[0], end)
    assert not placement.fits_somewhat(reader(code, starts[0]), [start + 8 for start in starts], starts[0], end)
    assert not placement.fits_somewhat(reader(code, AT), starts, starts[0], end)
    assert placement.fits_somewhat(reader(bytes(64), starts[0]), starts[:1], starts[0], starts[0] + 64)


ADRP_VENEER = "adrp x16, .+0x12345000; add x16, x16, #0x678; br x16"
MOV_VENEER = "movn x16, #0x4321; movk x16, #0x7654, lsl #16; movk x16, #0xba98, lsl #32; br x16"


@pytest.mark.parametrize("veneer", [ADRP_VENEER, MOV_VENEER])
@pytest.mark.parametrize("moved", [0, 8])
def test_calls_of_other_modules_do_not_count(veneer: str, moved: int) -> None:
    """Of three calls in each function, two go to veneers in the middle of the text, as in Debian's 7.2."""
    stubs, size = 60, 4 * len(assemble(veneer))
    plt = STARTS[0] + 50 * FUNCTION
    starts = [*STARTS[:50], *range(plt + stubs * size, plt + stubs * size + 50 * FUNCTION, FUNCTION)]
    chosen = Random(1)
    code = bytearray()
    for start in starts:
        if start == starts[50]:
            code += to_bytes(assemble(veneer) * stubs)
        goals = [chosen.choice(starts), *(plt + size * chosen.randrange(stubs) for _ in range(2))]
        words = [gen_branch_imm(start + 4 * number, goal, link=True) for number, goal in enumerate(goals)]
        code += to_bytes([*words, *[gen_nop()] * (FUNCTION // 4 - len(words))])
    read = reader(bytes(code), starts[0])
    listed = [start + moved for start in starts]
    assert placement.fits_somewhat(read, listed, starts[0], starts[0] + len(code)) == (not moved)


def test_what_looks_like_code() -> None:
    assert placement.looks_like_code(call_each_other(16))
    assert not placement.looks_like_code(bytes(1024))
    assert not placement.looks_like_code(b"uptime_proc_show" * 64)
    assert not placement.looks_like_code(b"")


def test_spots_are_spread_over_all() -> None:
    spots = placement.spots(0x1001, 0x101000)
    assert len(spots) == 32
    assert (spots[0], spots[1] - spots[0]) == (0x1004, 0x8000 - 4 & ~3)
    assert list(placement.spots(0, 100)) == [0]

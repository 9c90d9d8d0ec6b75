"""Fields by name from BTF that the test wrote, and from bytes that are none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.errors import A64PatchError, FormatError, SymbolError
from a64patch.kernel.btf import Btf, Field, find, size_of
from tests.kernel.types import CONST, TYPEDEF, UNION, VAR, Writer


def written() -> bytes:
    types = Writer()
    word, long = types.integer("int", 4), types.integer("long", 8)
    pointer = types.pointer(word)
    named = types.add("", CONST, types.add("long_t", TYPEDEF, long))
    inner = types.structure("", 16, [("next", pointer, 0), ("value", named, 64)], kind=UNION)
    each = types.structure("each", 24, [("base", pointer, 0), ("size", word, 64)])
    types.structure(
        "outer", 128,
        [("first", word, 0), ("", inner, 64), ("mem", types.array(each, 3), 192), ("tail", types.array(word, 0), 800)],
    )  # fmt: skip
    types.structure("bits", 8, [("low", word, 3 << 24 | 0), ("high", word, 5 << 24 | 35)], flag=True)
    types.enumeration("state", [("LIVE", 0), ("COMING", 1), ("GOING", -2)])
    variable = types.add("runqueues", VAR, word, struct.pack("<I", 1))
    types.section(".data..percpu", [(variable, 0x40, 4)])
    types.structure("loop", 8, [("again", types.add("", TYPEDEF, 99), 0)])
    return types.bytes()


def test_fields_by_name() -> None:
    types = Btf(written())
    assert types.field("outer.first") == Field(0, 4)
    assert types.field("outer.next") == Field(8, 8)
    assert types.field("outer.value") == Field(16, 8)
    assert types.field("outer.mem[2].size") == Field(24 + 2 * 24 + 8, 4)
    assert types.field("outer.mem") == Field(24, 72)
    assert types.field("outer.tail") == Field(100, 0)
    assert types.field("outer") == Field(0, 128)
    assert types.field("bits.low") == Field(0, 4, 0, 3)
    assert types.field("bits.high") == Field(4, 4, 3, 5)
    assert types.size("each") == 24
    assert (types.constant("COMING"), types.constant("GOING")) == (1, -2)
    assert types.variable_in(".data..percpu", "runqueues") == 0x40


@pytest.mark.parametrize("path", ["outer.nothing", "none.first", "outer.mem[3].size", "outer.first[0]", "outer.mem[x]",
                                  "outer.first.more"])  # fmt: skip
def test_no_such_field(path: str) -> None:
    with pytest.raises(SymbolError, match=r"this kernel|no path"):
        Btf(written()).field(path)


def test_no_such_constant() -> None:
    types = Btf(written())
    with pytest.raises(SymbolError):
        types.constant("NONE")
    with pytest.raises(SymbolError):
        types.variable_in(".data..percpu", "none")


def test_a_type_that_leads_nowhere_is_named() -> None:
    with pytest.raises(FormatError, match="type 99, which it does not have"):
        Btf(written()).field("loop.again")


def test_it_is_found_between_other_bytes() -> None:
    data = written()
    around = b"\x9f\xeb\x01\0" + bytes(64) + data + bytes(100)
    assert [*find(around)] == [(68, len(data))]
    assert size_of(data[:20]) == 0


def test_structures_that_hold_one_another_are_looked_at_once() -> None:
    types = Writer()
    word = types.integer("int", 4)
    for number in range(2, 60):
        types.structure(f"s{number}", 8, [("", number - 1 or word, 0)] * 8)
    with pytest.raises(SymbolError):
        Btf(types.bytes()).field("s59.nothing")


@given(st.data())
def test_damaged_bytes_end_in_a_sentence(draw: st.DataObject) -> None:
    data = bytearray(written())
    for _ in range(draw.draw(st.integers(1, 8))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    for path in ("outer.mem[1].size", "outer.value", "bits.high", "loop.again"):
        try:
            found = Btf(bytes(data)).field(path)
        except A64PatchError:
            continue
        assert found.size >= 0


@given(st.binary(max_size=200))
def test_garbage_behind_a_sound_header(garbage: bytes) -> None:
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(garbage) & -4, len(garbage) & -4, 8)
    try:
        Btf(header + garbage[: len(garbage) & -4] + b"\0outer\0\0").field("outer.first")
    except A64PatchError:
        return

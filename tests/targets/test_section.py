"""A section carried out: words of code and words of data as one set, whatever fails.

Read on: ../patch/test_text.py for the protocols and for sections of code alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from a64patch.a64.words import to_bytes
from a64patch.errors import (
    A64PatchError,
    CapabilityError,
    MismatchError,
    PartialPatchError,
    RequestError,
    WriteError,
)
from a64patch.protocols import Method
from a64patch.targets.section import Change, Guard, Section
from tests.patch.fake import BASE, DATA, FakeTarget

OLD, NEW = [0x11000000, 0x11000001], [0x22000000, 0x22000001]
COUNTER, OWNER = DATA + 4, DATA + 8
"""Data is a word that nobody names, a counter that changes, and the owner of a mutex, which must be 0."""
BEFORE, AFTER = [7, 0, 0], [7, 1, 0]
CODE = tuple(Change(BASE + 4 * number, *words) for number, words in enumerate(zip(OLD, NEW, strict=True)))


def section(
    data: Sequence[Change] = (Change(COUNTER, 0, 1),),
    guards: Sequence[Guard] = ((OWNER, 0),),
    protocol: Method = "stop",
) -> Section:
    return Section(CODE, publish=((BASE, BASE + 8),), protocol=protocol, data=tuple(data), guards=tuple(guards))


def machine(data: Sequence[int] = BEFORE, kind: type[FakeTarget] = FakeTarget) -> FakeTarget:
    target = kind(OLD)
    target.data_memory = bytearray(to_bytes(data))
    return target


def test_code_and_then_data_are_written_in_one_stop() -> None:
    target = machine()
    assert target.carry_out(section()).done
    assert (target.words, target.data) == (NEW, AFTER)
    order = [name for name, _ in itertools.groupby(target.calls)]
    assert order == ["stop", "read", "write", "write_data", "publish", "read", "resume"]
    assert target.calls.count("write_data") == 1, "a guard is not written"


@pytest.mark.parametrize("tear", [False, True])
@pytest.mark.parametrize("operation", ["stop", "read", "write", "write_data", "publish"])
def test_a_failure_at_every_position_is_undone(operation: str, tear: bool) -> None:
    seen = 0
    for position in itertools.count(1):
        target = machine()
        target.fail, target.tear = {operation: position}, tear
        try:
            target.carry_out(section())
        except PartialPatchError:
            pytest.fail("the old words could have been put back")
        except A64PatchError:
            assert (target.words, target.data) == (OLD, BEFORE)
            seen += 1
        else:
            assert (target.words, target.data) == (NEW, AFTER)
            break
    assert seen == {"stop": 1, "read": 8, "write": 2, "write_data": 1, "publish": 1}[operation]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([7, 2, 0], "data at 0x8004 holds 0x00000002, not 0x00000000 as expected; nothing was changed"),
        ([7, 0, 9], "data at 0x8008 holds 0x00000009, not 0x00000000 as expected; nothing was changed"),
    ],
)
def test_a_counter_or_a_guard_that_differs_is_refused(data: list[int], message: str) -> None:
    target = machine(data)
    with pytest.raises(MismatchError) as caught:
        target.carry_out(section())
    assert str(caught.value) == message
    assert (target.words, target.data) == (OLD, data)
    assert not {"write", "write_data"} & set(target.calls)


def test_a_code_word_that_is_refused_leaves_the_data_untouched() -> None:
    target = machine()
    target.fail = {"write": 2}
    with pytest.raises(WriteError, match="write failed"):
        target.carry_out(section())
    assert "write_data" not in target.calls


def test_a_guard_that_changes_inside_the_stop() -> None:
    class Disturbed(FakeTarget):
        def publish(self, start: int, end: int) -> None:
            super().publish(start, end)
            self.data_memory[OWNER - DATA] = 9

    target = machine(kind=Disturbed)
    with pytest.raises(MismatchError, match="data at 0x8008 changed from 0x00000000 to 0x00000009 while other words"):
        target.carry_out(section())
    assert (target.words, target.data) == (OLD, [7, 0, 9]), "a guard is not put back either"


def test_data_that_cannot_be_put_back_is_named() -> None:
    class Sticky(FakeTarget):
        def write_data(self, address: int, data: bytes) -> None:
            if self.data[1]:
                raise WriteError("this word cannot be written twice")
            super().write_data(address, data)

    target = machine(kind=Sticky)
    target.fail = {"publish": 1}
    with pytest.raises(PartialPatchError, match="1 of 3 words could not be put back: data at 0x8004") as caught:
        target.carry_out(section())
    assert caught.value.unrestored == (COUNTER,)
    assert (target.words, target.data) == (OLD, AFTER)


def test_code_that_cannot_be_published_again_does_not_make_the_data_doubtful() -> None:
    target = machine()
    target.fail = {"write_data": 1}
    target.publish = _failing  # type: ignore[method-assign]
    with pytest.raises(PartialPatchError, match="2 of 3 words") as caught:
        target.carry_out(section())
    assert caught.value.unrestored == (BASE, BASE + 4)


def _failing(start: int, end: int) -> None:
    raise WriteError("publish failed")


@pytest.mark.parametrize("protocol", ["nosync", "kick"])
@pytest.mark.parametrize("named", [{"guards": ()}, {"data": ()}])
def test_data_changes_while_all_cpus_wait_or_not_at_all(named: dict[str, tuple[()]], protocol: Method) -> None:
    with pytest.raises(RequestError, match=f"by stop, not by {protocol}"):
        section(**named, protocol=protocol)


@pytest.mark.parametrize(
    ("data", "guards", "message"),
    [
        ([Change(COUNTER + 2, 0, 1)], [], "is not at a multiple of 4"),
        ([], [(OWNER + 1, 0)], "is not at a multiple of 4"),
        ([Change(BASE, 0, 1)], [], "0x1000 is given twice"),
        ([Change(COUNTER, 0, 1), Change(COUNTER, 1, 2)], [], "0x8004 is given twice"),
        ([Change(COUNTER, 0, 1)], [(COUNTER, 0)], "0x8004 is given twice"),
        ([Change(COUNTER, 0, -1)], [], "from 0 to 0xffffffff"),
        ([Change(COUNTER, 1 << 32, 1)], [], "from 0 to 0xffffffff"),
        ([], [(OWNER, -1)], "from 0 to 0xffffffff"),
    ],
)
def test_sets_that_are_none(data: list[Change], guards: list[Guard], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        section(data, guards)


def test_a_target_writes_no_data_unless_it_says_so() -> None:
    class Plain(FakeTarget):
        write_data = FakeTarget.__base__.write_data  # type: ignore[union-attr]

    with pytest.raises(CapabilityError, match="this fake writes code only, not data"):
        Plain(OLD).write_data_many([(COUNTER, bytes(4))])

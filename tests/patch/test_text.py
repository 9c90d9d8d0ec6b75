"""The three functions: their rules one by one, and a failure at every position of every operation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from a64patch import patch_text, patch_text_nosync, patch_text_sync
from a64patch.a64.generate import gen_branch_imm, gen_nop
from a64patch.errors import (
    A64PatchError,
    AlignmentError,
    BusyError,
    CapabilityError,
    EncodingError,
    MismatchError,
    PartialPatchError,
    RequestError,
)
from a64patch.patch import text
from a64patch.patch.hazards import hazards_of
from a64patch.patch.sites import sites_of, spans_of
from a64patch.protocols import Method
from a64patch.ranges import Ranges
from a64patch.targets.base import CpuState
from a64patch.targets.section import Change, Found
from tests.patch.fake import BASE, DATA, FakeTarget

NOP = gen_nop()
BRANCH = gen_branch_imm(BASE, BASE + 8)
OLD = [0x11000000 + number for number in range(6)]
NEW = [0x22000000 + number for number in range(6)]
PLACES = [BASE + 4 * number for number in range(6)]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_FIRST_PAUSE", 0)


def test_nosync_writes_then_publishes_and_tells_nobody() -> None:
    target = FakeTarget([NOP])
    result = patch_text_nosync(target, BASE, BRANCH)
    assert target.words == [BRANCH]
    assert target.calls == ["read", "read", "write", "publish", "read"]
    assert (result.method, result.changes, result.cpus) == ("nosync", (Change(BASE, NOP, BRANCH),), ())
    assert result.stop_window_ns is None


def test_sync_does_everything_inside_one_stop() -> None:
    target = FakeTarget(OLD)
    result = patch_text_sync(target, PLACES, NEW)
    assert target.words == NEW
    stopped = target.calls[target.calls.index("stop") :]
    assert [name for name, _ in itertools.groupby(stopped)] == ["stop", "read", "write", "publish", "read", "resume"]
    assert stopped.count("publish") == 1, "neighbouring words are published together"
    assert result.method == "stop"
    assert result.cpus == (0, 1)
    assert result.stop_window_ns is not None
    assert result.stop_window_ns > 0


def test_scattered_sites_are_published_each() -> None:
    target = FakeTarget(OLD)
    patch_text_sync(target, [PLACES[5], PLACES[0], PLACES[1]], [1, 2, 3])
    assert target.words == [2, 3, *OLD[2:5], 1]
    assert target.calls.count("publish") == 2


@pytest.mark.parametrize(
    ("old", "new", "profile", "method"),
    [
        ([NOP], [BRANCH], "2018", "kick"),
        ([NOP], [0x91000400], "2018", "stop"),
        ([0x91000400], [NOP], "2018", "stop"),
        ([0x54000040], [NOP], "2018", "stop"),
        ([0x54000040], [NOP], "2023", "kick"),
        ([NOP, NOP], [BRANCH, NOP], "2026", "stop"),
        ([0x91000400], [0x91000400], "2018", "kick"),
    ],
)
def test_patch_text_chooses_the_lightest_safe_method(old: list[int], new: list[int], profile: str, method: str) -> None:
    target = FakeTarget(old)
    result = patch_text(target, PLACES[: len(old)], new, profile=profile)
    assert result.method == method
    assert result.reason
    assert target.words == new
    assert target.calls.count("kick") == (method == "kick")
    assert target.calls.count("stop") == (method == "stop")
    if method == "kick":
        assert target.calls[-1] == "kick", "the one kick comes after everything is visible"


def test_a_word_is_never_published_to_one_cpu_only() -> None:
    target = FakeTarget([NOP], broadcast=False)
    with pytest.raises(CapabilityError, match="one CPU only"):
        patch_text_nosync(target, BASE, BRANCH)
    assert target.words == [NOP]
    assert patch_text(target, [BASE], [BRANCH]).method == "stop"


def test_without_kick_the_cpus_are_stopped() -> None:
    assert patch_text(FakeTarget([NOP], can_kick=False), [BASE], [BRANCH]).method == "stop"


@pytest.mark.parametrize(
    ("capabilities", "words"),
    [({"can_stop": False}, [1]), ({"can_stop": False}, [1, 2]), ({"sees_pcs": False}, [1, 2])],
)
def test_nothing_is_downgraded(capabilities: dict[str, bool], words: list[int]) -> None:
    target = FakeTarget(OLD, **capabilities)
    with pytest.raises(CapabilityError):
        patch_text(target, PLACES[: len(words)], words)
    with pytest.raises(CapabilityError):
        patch_text_sync(target, PLACES[: len(words)], words)
    assert target.words == OLD
    assert "write" not in target.calls


def test_one_word_needs_no_pc() -> None:
    olds = [*OLD, *[gen_nop()] * 20]
    target = FakeTarget(olds, sees_pcs=False)
    patch_text_sync(target, [BASE, BASE + 4 * 9], [1, 2])
    assert target.words == [1, *olds[1:9], 2, *olds[10:]]
    with pytest.raises(CapabilityError, match="where its CPUs stand"):
        patch_text_sync(target, [BASE, BASE + 4 * 8], [3, 4])


REQUESTS: list[tuple[list[int], list[int], list[int] | None, type[Exception]]] = [
    ([], [], None, RequestError),
    ([BASE], [], None, RequestError),
    ([BASE], [1, 2], None, RequestError),
    ([BASE, BASE], [1, 1], None, RequestError),
    ([BASE, BASE + 4, BASE], [1, 2, 3], None, RequestError),
    ([BASE], [1], [], RequestError),
    ([BASE + 2], [1], None, AlignmentError),
    ([BASE, BASE + 5], [1, 2], None, AlignmentError),
    ([BASE], [1 << 32], None, EncodingError),
    ([BASE], [-1], None, EncodingError),
    ([BASE], [1], [2], MismatchError),
    ([BASE, BASE + 4], [1, 2], [OLD[0], 2], MismatchError),
    ([BASE, BASE + 0x1000], [1, 2], None, A64PatchError),
]


@pytest.mark.parametrize(("addresses", "words", "expected", "error"), REQUESTS)
@pytest.mark.parametrize("function", [patch_text, patch_text_sync])
def test_a_bad_request_touches_nothing(
    function: Callable[..., Any],
    addresses: list[int],
    words: list[int],
    expected: list[int] | None,
    error: type[Exception],
) -> None:
    target = FakeTarget(OLD)
    with pytest.raises(error) as caught:
        function(target, addresses, words, expected=expected)
    if error is not A64PatchError:
        assert isinstance(caught.value, ValueError)
    assert target.words == OLD
    assert not {"write", "publish", "stop", "kick"} & set(target.calls)


def test_nosync_checks_the_expected_word() -> None:
    target = FakeTarget([NOP])
    with pytest.raises(MismatchError, match="site holds 0xd503201f"):
        patch_text_nosync(target, BASE, BRANCH, expected=BRANCH)
    patch_text_nosync(target, BASE, BRANCH, expected=NOP)
    assert target.words == [BRANCH]


@pytest.mark.parametrize("method", ["nosync", "auto", "stop"])
@pytest.mark.parametrize("tear", [False, True])
@pytest.mark.parametrize("operation", ["read", "write", "publish", "kick", "stop"])
def test_a_failure_at_every_position_is_undone(operation: str, tear: bool, method: str) -> None:
    """Fault injection: call k of an operation fails, once; afterwards it is all old or, with no error, all new."""
    seen = 0
    for k in range(1, 40):
        target = FakeTarget(OLD if method == "stop" else [NOP])
        target.fail, target.tear = {operation: k}, tear
        old = target.words
        try:
            if method == "stop":
                patch_text_sync(target, PLACES, NEW)
            elif method == "auto":
                patch_text(target, [BASE], [BRANCH])
            else:
                patch_text_nosync(target, BASE, BRANCH)
        except PartialPatchError:
            pytest.fail("the old words could have been put back")
        except A64PatchError:
            assert target.words == old
            assert not target.stopped
            seen += 1
        else:
            assert target.words == (NEW if method == "stop" else [BRANCH])
            assert target.calls.count(operation) < k
            break
    asked = {"nosync": {"kick", "stop"}, "auto": {"stop"}, "stop": {"kick"}}[method]
    assert (seen > 0) == (operation not in asked)
    if operation == "write" and method == "stop":
        assert seen == 6


def test_putting_back_happens_inside_the_same_stop() -> None:
    target = FakeTarget(OLD)
    target.fail = {"write": 4}
    with pytest.raises(A64PatchError, match="write failed"):
        patch_text_sync(target, PLACES, NEW)
    assert target.calls.count("stop") == 1
    assert target.calls[-1] == "resume"
    assert target.calls.count("write") == 4 + 3, "the three words written before are put back, no other"


@pytest.mark.parametrize("k", range(1, 7))
def test_what_cannot_be_put_back_is_named_exactly(k: int) -> None:
    target = FakeTarget(OLD)
    target.fail, target.fail_for_good = {"write": k}, True
    with pytest.raises(PartialPatchError) as caught:
        patch_text_sync(target, PLACES, NEW)
    assert set(caught.value.unrestored) >= set(PLACES[: k - 1])
    assert isinstance(caught.value.__cause__, A64PatchError)
    assert target.words[k - 1 :] == OLD[k - 1 :]


def test_only_the_lost_word_is_named() -> None:
    class Sticky(FakeTarget):
        def write(self, address: int, data: bytes) -> None:
            if self.words[1] == NEW[1] and address == PLACES[1]:
                raise A64PatchError("this word cannot be written twice")
            super().write(address, data)

    target = Sticky(OLD)
    target.fail = {"write": 4}
    with pytest.raises(PartialPatchError, match=r"1 of 6 words could not be put back: site\+0x4") as caught:
        patch_text_sync(target, PLACES, NEW)
    assert caught.value.unrestored == (PLACES[1],)
    assert target.words == [OLD[0], NEW[1], *OLD[2:]]


def test_a_write_that_silently_fails_is_seen() -> None:
    """__text_poke drops the result of copy_to_kernel_nofault."""
    target = FakeTarget(OLD)
    target.fail, target.silent = {"write": 2}, True
    with pytest.raises(MismatchError, match="without an error"):
        patch_text_sync(target, PLACES, NEW)
    assert target.words == OLD


def test_an_interrupt_in_the_middle_is_undone_too() -> None:
    class Interrupted(FakeTarget):
        def publish(self, start: int, end: int) -> None:
            super().publish(start, end)
            if self.calls.count("publish") == 1:
                raise KeyboardInterrupt

    target = Interrupted(OLD)
    with pytest.raises(KeyboardInterrupt):
        patch_text_sync(target, PLACES, NEW)
    assert target.words == OLD


def test_a_word_that_changes_before_the_stop_is_refused() -> None:
    """Check and act are one: what another patcher wrote in between is not overwritten."""

    class Raced(FakeTarget):
        def stop(self) -> Any:
            self.memory[8:12] = b"\xaa\xaa\xaa\xaa"
            return super().stop()

    target = Raced(OLD)
    with pytest.raises(MismatchError, match=r"site\+0x8 holds 0xaaaaaaaa"):
        patch_text_sync(target, PLACES, NEW)
    assert target.words == [*OLD[:2], 0xAAAAAAAA, *OLD[3:]]


@pytest.mark.parametrize("where", [1, 2, 5])
@pytest.mark.parametrize("by", ["pc", "return"])
def test_a_cpu_inside_the_site_makes_it_busy(where: int, by: str) -> None:
    target = FakeTarget(OLD)
    outside = CpuState(0, BASE + 0x100)
    place = PLACES[where]
    inside = CpuState(1, place) if by == "pc" else CpuState(1, BASE + 0x100, (BASE + 0x200, place))
    target.states = [[outside, inside]]
    with pytest.raises(BusyError, match=rf"CPU 1 .*site\+{4 * where:#x}"):
        patch_text_sync(target, PLACES, NEW)
    assert target.words == OLD
    assert target.calls.count("stop") == text.RETRIES + 1
    target.states = [[outside, inside]] * 3 + [[outside, outside]]
    target.calls.clear()
    assert patch_text_sync(target, PLACES, NEW).retries == 3
    assert target.words == NEW


def test_the_first_word_and_the_one_behind_are_not_inside() -> None:
    target = FakeTarget(OLD)
    target.states = [[CpuState(0, PLACES[1]), CpuState(1, PLACES[4], (PLACES[1], PLACES[4]))]]
    assert patch_text_sync(target, PLACES[1:4], NEW[1:4]).retries == 0


def test_a_single_word_is_never_busy() -> None:
    target = FakeTarget(OLD)
    target.states = [[CpuState(0, PLACES[1])]]
    assert patch_text_sync(target, [PLACES[1]], [1]).retries == 0


def test_nobody_writes_before_all_have_arrived() -> None:
    target = FakeTarget(OLD)
    target.absent = 1
    with pytest.raises(BusyError, match="not every CPU"):
        patch_text_sync(target, PLACES, NEW)
    assert target.words == OLD


def test_data_is_written_with_the_code() -> None:
    target = FakeTarget([NOP])
    target.data_memory = bytearray(8)
    data = (Change(DATA, 0, 1),)
    changes = [Change(BASE, NOP, BRANCH)]
    result = text.write(target, changes, (), "stop", "a key", data=data, guards=((DATA + 4, 0),))
    assert (target.words, target.data, result.data) == ([BRANCH], [1, 0], data)
    with pytest.raises(MismatchError, match="data at 0x8004 holds 0x00000000, not 0x00000001"):
        text.write(target, [Change(BASE, BRANCH, NOP)], (), "stop", "a key", guards=((DATA + 4, 1),))
    assert target.words == [BRANCH]


@pytest.mark.parametrize("method", ["nosync", "kick"])
def test_data_is_not_written_while_cpus_run(method: Method) -> None:
    target = FakeTarget([NOP])
    target.data_memory = bytearray(4)
    for named in ({"data": (Change(DATA, 0, 1),)}, {"guards": ((DATA, 0),)}):
        with pytest.raises(RequestError, match=f"by stop, not by {method}"):
            text.write(target, [Change(BASE, NOP, BRANCH)], (), method, "a key", **named)
    assert (target.words, target.data) == ([NOP], [0])


def test_a_target_that_writes_no_data_is_refused_before_it_stops() -> None:
    target = FakeTarget([NOP], writes_data=False)
    target.data_memory = bytearray(4)
    with pytest.raises(CapabilityError, match="this fake does not write data, which this patch needs: a key"):
        text.write(target, [Change(BASE, NOP, BRANCH)], (), "stop", "a key", data=(Change(DATA, 0, 1),))
    assert target.calls == []
    text.write(target, [Change(BASE, NOP, BRANCH)], (), "stop", "a guard is only read", guards=((DATA, 0),))


def test_a_file_is_not_said_to_have_been_raced() -> None:
    target = FakeTarget(OLD, cpus=0, sees_pcs=False)
    result = patch_text(target, PLACES, NEW)
    assert (result.method, result.cpus) == ("stop", ())
    assert "nothing executes" in result.reason


class Sleepers:
    """Others of a target. Each look finds those of the next list, the last list again and again."""

    note = ""

    def __init__(self, target: FakeTarget, *found: list[Found], unseen: str = "") -> None:
        self.target, self.found, self.why = target, list(found), unseen
        self.cpus: list[int] = []
        target.knowing(others=self)

    def unseen(self) -> str:
        return self.why

    def prepare(self, keep_out: Ranges) -> None:
        assert keep_out
        assert not self.target.stopped
        self.target.calls.append("prepare")

    def look(self, keep_out: Ranges, cpus: Sequence[CpuState]) -> Iterable[Found]:
        assert keep_out
        assert self.target.stopped
        self.target.calls.append("look")
        self.cpus = [state.cpu for state in cpus]
        return self.found.pop(0) if len(self.found) > 1 else self.found[0]


ASLEEP = Found(-1, PLACES[2], False, "task 42 (sleep)")


def test_others_are_looked_at_inside_each_stop_and_prepared_before() -> None:
    target = FakeTarget(OLD)
    target.states = [[CpuState(1, 0x9000)]]
    others = Sleepers(target, [ASLEEP], [])
    result = patch_text_sync(target, PLACES, NEW)
    assert result.retries == 1
    assert target.words == NEW
    whose = [call for call in target.calls if call in ("prepare", "stop", "look", "write", "resume")]
    assert whose == ["prepare", "stop", "look", "resume", "prepare", "stop", "look", *["write"] * 6, "resume"]
    assert others.cpus == [1]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (ASLEEP, r"task 42 \(sleep\) will return to site\+0x8, inside the words to be changed, 11 times in 11"),
        (ASLEEP._replace(stands=True), r"task 42 \(sleep\) stands at site\+0x8"),
        (ASLEEP._replace(doubt="it is so"), r"task 42 \(sleep\) may return to site\+0x8, .*; it is so; nothing"),
    ],
)
def test_one_of_the_others_that_stays_is_named(found: Found, said: str) -> None:
    target = FakeTarget(OLD)
    Sleepers(target, [found])
    with pytest.raises(BusyError, match=said):
        patch_text_sync(target, PLACES, NEW)
    assert target.words == OLD


def test_others_cost_nothing_when_nobody_is_kept_out() -> None:
    target = FakeTarget(OLD)
    Sleepers(target, [ASLEEP])
    assert patch_text_sync(target, PLACES[:1], NEW[:1]).method == "stop"
    assert not {"prepare", "look"} & set(target.calls)


def test_others_that_cannot_be_seen_are_a_hazard_of_each_plan_that_keeps_them_out() -> None:
    target = FakeTarget(OLD)
    others = Sleepers(target, [ASLEEP], unseen="it has no BTF")

    def hazards(count: int) -> list[str]:
        changes = [Change(*each) for each in zip(PLACES[:count], OLD, NEW, strict=False)]
        found = hazards_of(target, changes, sites_of(target, changes, spans_of(changes)))
        return [hazard.sentence for hazard in found if hazard.name == "tasks-unseen"]

    assert hazards(2) == ["a task may sleep inside the words at site, unseen: it has no BTF"]
    assert hazards(1) == []
    assert patch_text_sync(target, PLACES, NEW).retries == 0
    assert not {"prepare", "look"} & set(target.calls)
    others.why = ""
    assert hazards(2) == []

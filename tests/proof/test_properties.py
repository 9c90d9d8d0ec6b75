"""Each property on paths that are written here, and questions whose answer hangs on one word of a site."""

from __future__ import annotations

import pytest

from a64patch.a64.assembler import assemble
from a64patch.a64.cmodx import PROFILES, hotpatch_safe
from a64patch.proof import traces
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.cases import BRK, Case, Site, build
from a64patch.proof.properties import may_race, query, stale, torn
from a64patch.proof.prove import Question, Verdict, prove
from a64patch.proof.traces import Event, Trace

NOP, B, ADD, SUB = assemble("nop; b .+4; add x0, x0, #1; sub x0, x0, #1")
SITE, ELSEWHERE = 0x4000, 0x2000
TWO = Site((NOP, NOP), (B, B))
OLD, NEW, GUARD = NOP, B, BRK


def trace(*steps: tuple[int, int], interrupts: tuple[int, ...] = ()) -> Trace:
    """A trace of these words at these indexes of the site; -1 is elsewhere. Interrupts come after so many words."""
    path = tuple((SITE + 4 * index if index >= 0 else ELSEWHERE, word) for index, word in steps)
    events = [Event("TE", SITE, NOP, order="irq", step=step) for step in interrupts]
    return Trace(tuple(events), path, {}, "done")


@pytest.mark.parametrize(
    ("steps", "is_torn"),
    [
        ([(0, OLD), (1, OLD)], False),
        ([(0, NEW), (1, NEW)], False),
        ([(0, OLD), (1, NEW)], True),
        ([(0, NEW), (1, OLD)], True),
        ([(0, OLD), (-1, NOP), (1, NEW)], True),
        # The first word begins a new pass.
        ([(0, OLD), (1, OLD), (0, NEW), (1, NEW)], False),
        ([(0, OLD), (1, OLD), (0, NEW), (1, OLD)], True),
        ([(1, OLD), (-1, NOP), (1, NEW)], False),
        ([(1, NEW), (0, OLD)], False),
        # The guard is neither old nor new.
        ([(0, GUARD), (1, OLD)], False),
        ([(0, GUARD), (1, NEW)], False),
    ],
)
def test_a_pass_is_torn_by_old_and_new_words_of_different_addresses(
    steps: list[tuple[int, int]], is_torn: bool
) -> None:
    assert torn(build("brk", [TWO]), trace(*steps)) is is_torn


def test_a_loop_inside_a_site_is_no_new_pass() -> None:
    three = build("kick", [Site((NOP, NOP, NOP), (B, B, B))])
    assert torn(three, trace((0, NEW), (1, NEW), (2, NEW), (1, OLD)))
    # One word that changes while a CPU goes round it is replaced whole.
    one = build("kick", [Site((NOP, NOP, NOP), (B, NOP, NOP))])
    assert not torn(one, trace((0, OLD), (1, NOP), (0, NEW)))
    assert not torn(three, trace((1, OLD), (1, NEW)))


@pytest.mark.parametrize(
    ("steps", "interrupts", "is_stale"),
    [
        ([(0, OLD)], (), False),
        ([(0, OLD)], (1,), False),
        # The very next word counts.
        ([(0, OLD)], (0,), True),
        ([(-1, NOP), (0, OLD)], (1,), True),
        ([(0, OLD), (0, NEW)], (1,), False),
        ([(0, NEW), (1, NEW), (1, OLD)], (0,), True),
        # Who executes the guard executes the old words elsewhere.
        ([(0, GUARD)], (0,), True),
    ],
)
def test_whoever_was_told_executes_new_words_only(
    steps: list[tuple[int, int]], interrupts: tuple[int, ...], is_stale: bool
) -> None:
    assert stale(build("kick", [TWO]), trace(*steps, interrupts=interrupts)) is is_stale


def test_the_last_interrupt_tells_that_a_guard_is_gone() -> None:
    case = build("brk", [TWO])
    last = case.told[1]
    assert last > 1
    assert not stale(case, trace((0, GUARD), interrupts=(0,) * (last - 1)))
    assert stale(case, trace((0, GUARD), interrupts=(0,) * last))


def test_the_patching_cpu_is_told_from_the_beginning() -> None:
    case = build("kick", [TWO], executors=0)
    assert stale(case, trace((0, OLD)))
    assert not stale(case, trace((0, NEW)))


def told_after(case: Case, value: int) -> int | None:
    """After how many instructions a CPU is told that reads this value from the flag first."""
    flag = Event("R", ELSEWHERE, NOP, address=0x8000, value=value, step=1)
    return case.done(Trace((flag,), ((ELSEWHERE, NOP),), {}, "done"))


@pytest.mark.parametrize("protocol", ["nosync", "stop"])
def test_a_flag_tells_when_it_is_raised(protocol: str) -> None:
    case = build(protocol, [TWO])
    assert (told_after(case, 0), told_after(case, 1)) == (None, 1)


def test_a_stop_interrupts_nobody_inside_the_site_or_behind_it() -> None:
    def possible(case: Case, address: int) -> bool:
        return case.possible(Trace((Event("TE", address, NOP, order="irq"),), (), {}, "done"))

    behind = SITE + 8
    cases = {
        (True, True): [True, False, False],
        (True, False): [True, False, True],
        (False, True): [True, False, True],
    }
    for (comes_back, kept_out), expected in cases.items():
        case = build("stop", [Site(TWO.old, TWO.new, comes_back=comes_back, kept_out=kept_out)])
        assert [possible(case, address) for address in (SITE, SITE + 4, behind)] == expected
    free = build("stop", [Site(TWO.old, TWO.new, kept_out=False)], falls_through=True)
    assert all(possible(free, address) for address in (SITE, SITE + 4, behind))
    assert all(possible(build("kick", [TWO]), address) for address in (SITE, SITE + 4, behind))


@pytest.mark.parametrize("profile", PROFILES)
def test_words_that_may_race_with_each_other_may_race_with_the_guard(profile: str) -> None:
    """BRK is in every issue of the list (Arm ARM B2.2.5), so that the protocol brk needs no rule of its own."""
    assert all(hotpatch_safe(one, BRK, profile) and hotpatch_safe(BRK, one, profile) for one in (NOP, B))
    assert may_race(build("brk", [TWO]), profile)
    assert not may_race(build("brk", [Site((NOP, ADD), (B, SUB))]), profile)


def test_only_the_watched_cpu_must_break_the_property() -> None:
    case = build("kick", [TWO], executors=2)
    ask = query(case, "P1", ArmNow(), "2018").trace
    assert ask is not None
    whole, half = trace((0, OLD), (1, OLD)), trace((0, OLD), (1, NEW))
    assert [ask(number, half) for number in (0, 1, 2)] == [True, True, True]
    assert [ask(number, whole) for number in (0, 1, 2)] == [True, False, True]


def test_behind_the_guard_of_each_site_a_cpu_goes_on_with_the_code_behind_that_site() -> None:
    sites = [Site((NOP,), (B,)), Site((NOP, NOP, NOP), (NOP, B, B), head=1)]
    case = build("brk", sites, executors=0, omit=frozenset({"head.dc"}))
    behind = {SITE: SITE + 4, SITE + 0x104: SITE + 0x10C}
    met = set()
    for one in traces.behaviours(case.program).traces[0]:
        for place, (address, word) in enumerate(one.path):
            if word == GUARD:
                met.add(address)
                assert next(each for each, _ in one.path[place + 1 :] if each >= SITE) == behind[address]
    assert met == set(behind)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("protocol", ["kick", "brk"])
def test_each_word_of_a_site_is_asked_about(protocol: str, place: int) -> None:
    old, new = [NOP] * 3, [B] * 3
    old[place], new[place] = ADD, SUB
    site = Site(tuple(old), tuple(new))
    assert list(prove(Question(protocol, (site,)), properties=["P3"]).broken) == ["P3"]
    assert not prove(Question(protocol, (TWO,)), properties=["P3"]).broken


def test_a_site_that_is_too_large_to_ask_about_is_not_called_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MOST_TRACES", 60)
    # Nobody gets from the first two changed words to another one. The others are a loop with a way out behind each,
    # so that whoever enters it has too many ways.
    turns = 8
    back = f"b .-{8 * turns}"
    old, new = (
        assemble(f"b {away}; b {away}; " + f"{word}; cbz x0, .+0x100; " * turns + back)
        for away, word in ((".+0x100", "nop"), (".+0x200", "b .+4"))
    )
    site = Site(tuple(old), tuple(new), comes_back=False)
    proof = prove(Question("nosync", (site,)), [ArmNow()], ["P1"])
    assert (proof.verdict, proof.broken) == (Verdict.UNKNOWN, {})
    assert "too many words" in proof.reason


def test_a_cpu_comes_back_to_changed_words_of_a_site_that_allows_it() -> None:
    site = Site((NOP, NOP, NOP), (NOP, B, B))
    assert build("kick", [site], returns=1).program.entries == (SITE + 4, SITE + 8)
    assert build("kick", [site], returns=1).program.outside == SITE + 12
    assert build("kick", [site], returns=0).program.outside == -1
    assert build("kick", [Site(site.old, site.new, comes_back=False)], returns=1).program.outside == -1

"""The cache model alone: every sequence of maintenance, every cache, and who executes what afterwards.

Read on: test_simulator.py for the same sequences executed by CPUs.
"""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.targets.caches import CacheModel

OLD, NEW, NEWER = 0x11111111, 0x22222222, 0x33333333
SITE = 0x1040


class Machine:
    """A cache model and the views that it told of."""

    def __init__(self, cpus: int = 2, **options: bool | list[int]) -> None:
        self.views: dict[tuple[int, int], int] = {}
        self.model = CacheModel(cpus, self._changed, **options)  # type: ignore[arg-type]

    def _changed(self, cpu: int, address: int, word: int) -> None:
        assert self.view(cpu, address) != word, "told of a change that is none"
        self.views[cpu, address] = word

    def view(self, cpu: int, address: int = SITE) -> int:
        return self.views.get((cpu, address), OLD)

    def do(self, cpu: int, *operations: str, address: int = SITE) -> None:
        model = self.model
        for operation in operations:
            match operation:
                case "DC":
                    model.clean(cpu, address)
                case "IC":
                    model.invalidate(cpu, address)
                case "IALLU":
                    model.invalidate_all(cpu, inner_shareable=False)
                case "IALLUIS":
                    model.invalidate_all(cpu, inner_shareable=True)
                case "DSB":
                    model.barrier(cpu)
                case "DSBST":
                    model.store_barrier(cpu)
                case "ISB":
                    model.synchronise(cpu)
                case _:
                    raise AssertionError(operation)


CACHES = list(itertools.product((False, True), repeat=3))
STEPS = ("DC", "DSB", "IC", "DSB", "ISB")


@pytest.mark.parametrize(("idc", "dic", "broadcast"), CACHES)
@pytest.mark.parametrize("kept", list(itertools.product((False, True), repeat=5)))
def test_a_store_is_executed_after_exactly_the_steps_that_the_caches_need(
    idc: bool, dic: bool, broadcast: bool, kept: tuple[bool, ...]
) -> None:
    clean, first_barrier, invalidate, second_barrier, synchronise = kept
    unified = idc or (clean and (first_barrier or second_barrier))
    unified_before_invalidation = idc or (clean and first_barrier)
    cached = unified if dic else unified_before_invalidation and invalidate and second_barrier
    for observer in (0, 1):
        machine = Machine(idc=idc, dic=dic, broadcast=broadcast)
        machine.model.store(SITE, OLD, NEW)
        machine.do(0, *(step for step, keep in zip(STEPS, kept, strict=True) if keep and step != "ISB"))
        assert machine.view(observer) == OLD, "only a context synchronisation event changes what a CPU executes"
        if synchronise:
            machine.do(observer, "ISB")
        reached = cached and (dic or broadcast or observer == 0)
        assert machine.view(observer) == (NEW if reached and synchronise else OLD)


@pytest.mark.parametrize(
    "sequence",
    [
        ("IC", "DSB", "DC", "DSB", "ISB"),
        ("DC", "IC", "DSB", "ISB"),
        ("IC", "DC", "DSB", "ISB"),
        ("DC", "DSB", "IC", "ISB", "DSB"),
        ("ISB", "DC", "DSB", "IC", "DSB"),
    ],
)
def test_the_right_steps_in_a_wrong_order_leave_the_old_word(sequence: tuple[str, ...]) -> None:
    machine = Machine()
    machine.model.store(SITE, OLD, NEW)
    machine.do(0, *sequence)
    assert machine.view(0) == OLD
    machine.do(0, "DC", "DSB", "IC", "DSB", "ISB")
    assert machine.view(0) == NEW


def test_maintenance_issued_before_the_store_does_nothing_for_it() -> None:
    cleaned_early = Machine()
    cleaned_early.do(0, "DC")
    cleaned_early.model.store(SITE, OLD, NEW)
    cleaned_early.do(0, "DSB", "IC", "DSB", "ISB")
    assert cleaned_early.view(0) == OLD

    invalidated_early = Machine(idc=True)
    invalidated_early.do(0, "IC")
    invalidated_early.model.store(SITE, OLD, NEW)
    invalidated_early.do(0, "DSB", "ISB")
    assert invalidated_early.view(0) == OLD


def test_a_clean_takes_what_memory_held_when_it_was_issued() -> None:
    machine = Machine()
    machine.model.store(SITE, OLD, NEW)
    machine.do(0, "DC")
    machine.model.store(SITE, NEW, NEWER)
    machine.do(0, "DSB", "IC", "DSB", "ISB")
    assert machine.view(0) == NEW
    machine.do(0, "DC", "DSB", "IC", "DSB", "ISB")
    assert machine.view(0) == NEWER


def test_a_late_barrier_takes_nothing_back_that_chance_has_brought_further() -> None:
    machine = Machine(1)
    machine.model.store(SITE, OLD, NEW)
    machine.do(0, "DC", "IC")
    machine.model.store(SITE, NEW, NEWER)
    machine.model.advance(0, Random(1))
    assert machine.model.layers(SITE) == (NEWER, NEWER, (OLD,), (OLD,))
    machine.do(0, "DSB")
    assert machine.model.layers(SITE) == (NEWER, NEWER, (OLD,), (OLD,))


def test_a_barrier_completes_only_what_its_own_cpu_issued() -> None:
    machine = Machine()
    machine.model.store(SITE, OLD, NEW)
    machine.do(0, "DC")
    machine.do(1, "DSB", "IC", "DSB", "ISB")
    assert machine.view(1) == OLD
    machine.do(0, "DSB")
    machine.do(1, "IC", "DSB", "ISB")
    assert machine.view(1) == NEW


@pytest.mark.parametrize("broadcast", [False, True])
@pytest.mark.parametrize(("operation", "shared"), [("IC", True), ("IALLUIS", True), ("IALLU", False)])
def test_who_is_reached_by_an_invalidation(operation: str, shared: bool, broadcast: bool) -> None:
    machine = Machine(cpus=3, broadcast=broadcast)
    machine.model.store(SITE, OLD, NEW)
    machine.do(1, "DC", "DSB", operation, "DSB")
    for cpu in range(3):
        machine.do(cpu, "ISB")
        assert machine.view(cpu) == (NEW if cpu == 1 or (shared and broadcast) else OLD)


@pytest.mark.parametrize("line_size", [16, 64, 256])
def test_maintenance_acts_on_whole_lines_and_on_no_more(line_size: int) -> None:
    start = 0x2000
    inside = [start, start + line_size - 4]
    outside = [start - 4, start + line_size]
    machine = Machine(line_sizes=[line_size] * 2)
    for address in inside + outside:
        machine.model.store(address, OLD, NEW)
    machine.do(0, "DC", "DSB", "IC", "DSB", "ISB", address=start + line_size // 2)
    assert [machine.view(0, address) for address in inside] == [NEW, NEW]
    assert [machine.view(0, address) for address in outside] == [OLD, OLD]


@pytest.mark.parametrize("broadcast", [False, True])
def test_an_invalidation_drops_the_line_of_each_cpu_that_it_reaches(broadcast: bool) -> None:
    machine = Machine(3, line_sizes=[128, 64, 256], idc=True, broadcast=broadcast)
    words = range(0x2000, 0x2100, 4)
    for address in words:
        machine.model.store(address, OLD, NEW)
    machine.do(0, "IC", "DSB", address=0x2000)
    for cpu, size in enumerate((128, 64, 256)):
        machine.do(cpu, "ISB")
        new = [address for address in words if machine.view(cpu, address) == NEW]
        assert new == (list(words[: size // 4]) if cpu == 0 or broadcast else [])


def test_a_clean_reaches_no_further_than_the_shortest_line() -> None:
    machine = Machine(2, line_sizes=[128, 32])
    for address in (0x2000, 0x201C, 0x2020):
        machine.model.store(address, OLD, NEW)
    machine.do(0, "DC", "DSB", "IALLUIS", "DSB", "ISB", address=0x2000)
    assert [machine.view(0, address) for address in (0x2000, 0x201C, 0x2020)] == [NEW, NEW, OLD]


def test_coherent_means_that_every_store_is_fetched_by_all_at_once() -> None:
    machine = Machine(coherent=True)
    machine.model.store(SITE, OLD, NEW)
    assert [machine.view(cpu) for cpu in (0, 1)] == [NEW, NEW]
    assert machine.model.diverging == 0
    machine.model.store(SITE, NEW, NEW)  # Machine would not be told of a change that is none


def test_nothing_is_held_once_all_layers_agree_and_nothing_for_a_store_of_the_same_value() -> None:
    machine = Machine()
    machine.model.store(SITE, OLD, OLD)
    assert machine.model.diverging == 0
    machine.model.store(SITE, OLD, NEW)
    assert machine.model.layers(SITE) == (NEW, OLD, (OLD, OLD), (OLD, OLD))
    machine.do(0, "DC", "DSB")
    assert machine.model.layers(SITE) == (NEW, NEW, (OLD, OLD), (OLD, OLD))
    machine.do(0, "IC", "DSB")
    assert machine.model.layers(SITE) == (NEW, NEW, (NEW, NEW), (OLD, OLD))
    machine.do(0, "ISB")
    assert machine.model.layers(SITE) == (NEW, NEW, (NEW, NEW), (NEW, OLD))
    machine.do(1, "ISB")
    assert machine.model.layers(SITE) is None
    assert machine.model.diverging == 0


def test_chance_moves_one_word_one_layer() -> None:
    machine = Machine()
    machine.model.store(SITE, OLD, NEW)
    chance = Random(1)
    seen = []
    for _ in range(3):
        machine.model.advance(0, chance)
        seen.append(machine.model.layers(SITE))
    assert seen == [
        (NEW, NEW, (OLD, OLD), (OLD, OLD)),
        (NEW, NEW, (NEW, OLD), (OLD, OLD)),
        (NEW, NEW, (NEW, OLD), (NEW, OLD)),
    ]
    machine.model.advance(0, chance)
    assert machine.model.layers(SITE) == seen[-1], "CPU 0 has nowhere to go on to"


def test_chance_can_make_either_of_two_words_new_first() -> None:
    first = set()
    for seed in range(40):
        machine = Machine(idc=True, dic=True)
        machine.model.store(SITE, OLD, NEW)
        machine.model.store(SITE + 4, OLD, NEW)
        machine.model.advance(0, Random(seed))
        first.add((machine.view(0), machine.view(0, SITE + 4)))
    assert first == {(OLD, NEW), (NEW, OLD)}


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["store", "chance", "DC", "IC", "IALLU", "IALLUIS", "DSB", "ISB"]),
        st.integers(0, 2),
        st.sampled_from([SITE, SITE + 4, SITE + 64]),
    ),
    max_size=60,
)


@given(OPERATIONS, st.sampled_from(CACHES), st.integers(0, 5))
def test_no_cpu_ever_goes_back_and_the_whole_sequence_always_helps(
    operations: list[tuple[str, int, int]], caches: tuple[bool, bool, bool], seed: int
) -> None:
    idc, dic, broadcast = caches
    # Values count up, so that "never back" is "never less".
    views: dict[tuple[int, int], int] = {}
    memory: dict[int, int] = {}
    values = itertools.count(1)

    def changed(cpu: int, address: int, word: int) -> None:
        assert views.get((cpu, address), 0) < word <= memory[address]
        views[cpu, address] = word

    model = CacheModel(3, changed, idc=idc, dic=dic, broadcast=broadcast)
    machine = Machine(1)
    machine.model = model
    chance = Random(seed)
    for operation, cpu, address in operations:
        if operation == "store":
            old, memory[address] = memory.get(address, 0), next(values)
            model.store(address, old, memory[address])
        elif operation == "chance":
            model.advance(cpu, chance)
        else:
            machine.do(cpu, operation, address=address)
    for address in memory:
        machine.do(0, "DC", address=address)
    machine.do(0, "DSB")
    for cpu in range(3):
        machine.do(cpu, "IALLU", "DSB", "ISB")
        assert all(views[cpu, address] == word for address, word in memory.items())
    assert model.diverging == 0


@pytest.mark.parametrize(("dic", "published"), [(False, ("IC", "DSB")), (True, ("DSB",)), (True, ("DSBST",))])
def test_who_fetches_anew_does_not_keep_what_was_published_before(dic: bool, published: tuple[str, ...]) -> None:
    # SITE is published completely, then SITE + 64 is stored to; a CPU that executes the new SITE + 64 by chance
    # cannot execute the old SITE afterwards.
    for seed in range(20):
        machine = Machine(idc=True, dic=dic)
        machine.model.store(SITE, OLD, NEW)
        machine.do(0, *published)
        machine.model.store(SITE + 64, OLD, NEW)
        chance = Random(seed)
        for _ in range(6):
            machine.model.advance(1, chance)
            assert (machine.view(1), machine.view(1, SITE + 64)) != (OLD, NEW)
        assert (machine.view(1), machine.view(1, SITE + 64)) == (NEW, NEW)

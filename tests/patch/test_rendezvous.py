"""Every interleaving of the rendezvous, ours and the two that Linux got wrong: never hangs, never writes early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from a64patch.targets.base import Rendezvous


@dataclass(frozen=True)
class State:
    """`at` is where each CPU is: 0 not come, 1 waiting, 2 writing, 3 gone on."""

    at: tuple[int, ...]
    count: int = 0
    early: bool = False
    """The write began while a CPU had not come."""


Step = Callable[[State, int], State | None]


def explore(cpus: int, step: Step) -> tuple[bool, bool]:
    """All interleavings: whether some state is stuck before all have gone on, and whether some write is early."""
    todo, seen = [State((0,) * cpus)], set[State]()
    hangs = early = False
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        following = [after for cpu in range(cpus) if (after := step(state, cpu)) is not None]
        early |= state.early
        hangs |= not following and set(state.at) != {3}
        todo += following
    return hangs, early


def move(state: State, cpu: int, where: int, **changes: int | bool) -> State:
    at = (*state.at[:cpu], where, *state.at[cpu + 1 :])
    return replace(state, at=at, **changes)  # type: ignore[arg-type]


def linux_3_14(state: State, cpu: int) -> State | None:
    """The first in writes and sets the count to -1; the others wait for exactly -1."""
    if state.at[cpu] == 0:
        first = state.count == 0
        return move(state, cpu, 2 if first else 1, count=state.count + 1)
    if state.at[cpu] == 2:
        return move(state, cpu, 3, count=-1, early=0 in state.at)
    if state.at[cpu] == 1 and state.count == -1:
        return move(state, cpu, 3)
    return None


def linux_3_18(state: State, cpu: int) -> State | None:
    """The first in writes and adds one; the others wait until the count is more than the CPUs."""
    if state.at[cpu] == 0:
        return move(state, cpu, 2 if state.count == 0 else 1, count=state.count + 1)
    if state.at[cpu] == 2:
        return move(state, cpu, 3, count=state.count + 1, early=0 in state.at)
    if state.at[cpu] == 1 and state.count > len(state.at):
        return move(state, cpu, 3)
    return None


def ours(state: State, cpu: int) -> State | None:
    """The class itself, brought into this state and asked."""
    rendezvous = Rendezvous(range(len(state.at)))
    arrived = [each for each, where in enumerate(state.at) if where]
    writers = [each for each in arrived if rendezvous.arrive(each)]
    assert len(writers) <= 1
    if state.count:
        rendezvous.finish()
    if state.at[cpu] == 0:
        return move(state, cpu, 2 if rendezvous.arrive(cpu) else 1)
    if state.at[cpu] == 2:
        rendezvous.finish()
        return move(state, cpu, 3, count=1, early=0 in state.at)
    if state.at[cpu] == 1 and rendezvous.done:
        return move(state, cpu, 3)
    return None


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 5])
def test_ours_never_hangs_and_never_writes_early(cpus: int) -> None:
    assert explore(cpus, ours) == (False, False)


@pytest.mark.parametrize("cpus", [2, 3, 4])
def test_the_one_of_linux_3_14_hangs(cpus: int) -> None:
    """899d5933b2dd: a CPU that comes after the signal adds one to it, and those who wait never see it."""
    hangs, early = explore(cpus, linux_3_14)
    assert hangs
    assert early


@pytest.mark.parametrize("cpus", [2, 3, 4])
def test_the_one_of_linux_3_18_writes_too_early(cpus: int) -> None:
    """31a099dbd91e: the first CPU writes while others have not come and may execute the text."""
    assert explore(cpus, linux_3_18) == (False, True)


def test_misuse_is_an_error() -> None:
    rendezvous = Rendezvous([3, 5])
    with pytest.raises(ValueError, match="CPU 4"):
        rendezvous.arrive(4)
    assert not rendezvous.arrive(5)
    with pytest.raises(ValueError, match="CPU 5"):
        rendezvous.arrive(5)
    with pytest.raises(RuntimeError):
        rendezvous.finish()
    assert rendezvous.arrive(3)
    rendezvous.finish()
    assert rendezvous.done
    assert rendezvous.arrived == (5, 3)

"""The steps of protocols.py are what is carried out and what is proved: without one, executions and proofs fail.

Read on: proof/test_cases.py for what each step is for, targets/test_simulator.py for the machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from a64patch.a64.assembler import assemble
from a64patch.errors import A64PatchError
from a64patch.patch.sites import Site as PatchedSite
from a64patch.patch.text import write
from a64patch.proof.cases import Site
from a64patch.proof.prove import Question, Verdict, prove
from a64patch.protocols import BROADCAST, OTHER, PATCHER, PROTOCOLS, USUAL, Act, Method, Operation
from a64patch.ranges import Ranges
from a64patch.targets.section import Change
from a64patch.targets.simulator import Simulator

BASE = 0x10000
RUNS = 25
OLD, NEW = assemble("mov x1, #1; mov x2, #1"), assemble("mov x1, #2; mov x2, #2")
RACE = (assemble("nop")[0], assemble("b .+4")[0])
WIDE = Site(tuple(OLD), tuple(NEW))
NARROW = Site(RACE[:1], RACE[1:])

METHODS: tuple[Method, ...] = ("nosync", "kick", "stop")
STEPS = [
    (method, name)
    for method in METHODS
    for name in dict.fromkeys(step.name for step in PROTOCOLS[method].steps if step.needed_on(USUAL))
]
OWN = [("stop", step.name) for step in PROTOCOLS["stop"].steps if step.unless == BROADCAST]
"""What a CPU does for itself where an IC reaches no other."""

UNSEEN_BY_EXECUTION = {
    ("kick", "dsb-sgi"): "memory is sequentially consistent on the simulator",
    ("stop", "dsb-go"): "the simulator executes in program order",
    ("stop", "read-go"): "the rendezvous reads and awaits in one",
    ("kick", "isb"): "the simulator's patching agent shares a CPU with the program, and all of these are interrupted",
    ("stop", "isb"): "the CPU that patches leaves the rendezvous as the others do",
    **{("nosync", step.name): "what the caller's own code does" for step in PROTOCOLS["nosync"].steps
       if step.operation is Operation.CALLER},
}  # fmt: skip
UNSEEN_BY_PROOF = {
    ("kick", "dsb-sgi"): "the DSB behind the IC stands before it (docs/proof.md)",
    ("kick", "enter"): "both models order everything behind an interrupt with it, whatever SCTLR_EL1.EIS says",
}


def runs(method: Method, *, broadcast: bool = True) -> Iterator[str]:
    """What is wrong in each of RUNS seeded runs, in which CPUs pass the site over and over while it changes."""
    wide = method == "stop"
    words = [*OLD, *assemble("cmp x1, x2; b.ne .+8; b .-16; b .")] if wide else [RACE[0], *assemble("b .-4")]
    new = NEW if wide else RACE[1:]
    changes = [Change(BASE + 4 * number, words[number], word) for number, word in enumerate(new)]
    end = BASE + 4 * len(new)
    sites = [PatchedSite(BASE, end, Ranges(((BASE + 4, end),)))]
    for seed in range(RUNS):
        target = Simulator.from_words(words, base=BASE, cpus=3, seed=seed, quantum=3, early=0, broadcast=broadcast)
        target.run(50)
        try:
            write(target, changes, sites if wide else (), method, "as asked")
        except A64PatchError as error:
            yield str(error)
            continue
        except RuntimeError as error:
            yield f"{error} (of the rendezvous)"
            continue
        before = target.instructions
        target.watch(BASE, end)
        if method == "nosync":
            # What its caller sees to: each other CPU synchronises itself.
            for cpu in range(1, target.cpus):
                target.caches.synchronise(cpu)
        target.executed.clear()
        target.run(300)
        if target.instructions == before:
            yield "nobody was let go"
        elif {each.word for each in target.executed} - set(new):
            yield "an old word was executed afterwards"
        elif wide and any(target.register(cpu, 1) != target.register(cpu, 2) for cpu in range(3)
                          if target.state(cpu).pc == BASE + 4 * (len(words) - 1)):  # fmt: skip
            yield "one pass met old and new words"
        else:
            yield ""


def without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No protocol has a step of this name."""
    for method, protocol in list(PROTOCOLS.items()):
        monkeypatch.setitem(PROTOCOLS, method, protocol.without(name))


@pytest.mark.parametrize("method", METHODS)
def test_with_every_step_nothing_is_wrong(method: Method) -> None:
    assert set(runs(method)) == {""}
    if method == "stop":
        assert set(runs(method, broadcast=False)) == {""}
    assert prove(Question(method, (WIDE if method == "stop" else NARROW,))).verdict is Verdict.SAFE


@pytest.mark.parametrize(("method", "name"), [*STEPS, *OWN])
def test_without_a_step_an_execution_goes_wrong(method: Method, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broadcast = (method, name) not in OWN
    without(name, monkeypatch)
    wrong = next((each for each in runs(method, broadcast=broadcast) if each), "")
    assert bool(wrong) is ((method, name) not in UNSEEN_BY_EXECUTION), wrong


@pytest.mark.parametrize(("method", "name"), [*STEPS, *OWN])
def test_without_a_step_there_is_no_proof(method: Method, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broadcast = (method, name) not in OWN
    without(name, monkeypatch)
    found = prove(Question(method, (WIDE if method == "stop" else NARROW,), broadcast=broadcast))
    assert (found.verdict is Verdict.SAFE) is ((method, name) in UNSEEN_BY_PROOF), found.reason


def test_a_protocol_is_asked_for_in_the_order_of_its_steps() -> None:
    assert [operation.value for operation in PROTOCOLS["nosync"].operations] == ["write", "publish"]
    assert [operation.value for operation in PROTOCOLS["kick"].operations] == ["write", "publish", "kick"]
    assert [operation.value for operation in PROTOCOLS["stop"].operations] == [
        "stop", "states", "write", "publish", "let go"
    ]  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_a_step_is_described_once_for_each_machine(protocol: object) -> None:
    for machine in (USUAL, frozenset({"idc"}), frozenset({"idc", "dic"}), frozenset[str]()):
        names = [step.name for step in PROTOCOLS[protocol.name].on(machine)]  # type: ignore[attr-defined]
        assert len(names) == len(set(names))
        assert {step.cpu for step in PROTOCOLS[protocol.name].on(machine)} <= {PATCHER, OTHER}  # type: ignore[attr-defined]
    assert Act.STORE in {step.act for step in PROTOCOLS[protocol.name].steps}  # type: ignore[attr-defined]

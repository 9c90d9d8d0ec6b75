"""Exceptions and inter-processor interrupts: what an SGI orders, where it is taken, what entry and return order."""

from __future__ import annotations

import pytest

from a64patch.a64.assembler import assemble
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.fetching import could_fetch
from a64patch.proof.model import Model
from a64patch.proof.program import Program, Thread
from a64patch.proof.search import Query, search
from a64patch.proof.traces import Trace

PATCHER, EXECUTOR, HANDLER, SITE, DATA = 0x1000, 0x2000, 0x3000, 0x2008, 0x8000
NEW = assemble("b .+4")[0]
MODELS = [ArmNow(), Esop2020()]
SYNC = "dc cvau, x1; dsb ish; ic ivau, x1"
SGI = "msr icc_sgi1r_el1, x2"


def program(*parts: tuple[int, str], eis: bool = True, eos: bool = True, memory: tuple[int, ...] = ()) -> Program:
    code = {start + 4 * place: word for start, text in parts for place, word in enumerate(assemble(text, start))}
    threads = (
        Thread(PATCHER, {0: NEW, 1: SITE, 3: DATA, 4: 1}, "patcher", sync_vector=HANDLER),
        Thread(EXECUTOR, {3: DATA}, "executor", irq_vector=HANDLER),
    )
    used = threads if any(start == EXECUTOR for start, _ in parts) else threads[:1]
    return Program(used, code, dict.fromkeys(memory, 0), eis=eis, eos=eos)


def kick(patcher: str, handler: str = "eret", memory: tuple[int, ...] = ()) -> Program:
    return program((PATCHER, patcher), (EXECUTOR, "nop; nop; nop; nop"), (HANDLER, handler), memory=memory)


def stale_after_interrupt(number: int, trace: Trace) -> bool:
    if number != 1:
        return True
    entered = [place for place, (address, _) in enumerate(trace.path) if address == HANDLER]
    return bool(entered) and any(address == SITE and word != NEW for address, word in trace.path[entered[0] :])


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize(
    ("maintenance", "stale"),
    [
        (f"{SYNC}; dsb ish", False),
        (f"{SYNC}; dmb ish", True),
        (SYNC, True),
        ("dsb ish; ic ivau, x1; dsb ish", True),
        ("dc cvau, x1; dsb ish", True),
    ],
)
def test_only_a_dsb_orders_an_sgi(model: Model, maintenance: str, stale: bool) -> None:
    result = search(kick(f"str w0, [x1]; {maintenance}; {SGI}"), model, Query(trace=stale_after_interrupt))
    assert result.allowed is stale
    assert (result.witness is None) is bool(result.cycle)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize(("barrier", "allowed"), [("dsb ishst", False), ("dsb ish", False), ("dmb ishst", True)])
def test_the_handler_sees_what_was_stored_before_a_dsb(model: Model, barrier: str, allowed: bool) -> None:
    text = f"str w4, [x3]; {barrier}; {SGI}"
    question = Query(trace=lambda number, trace: number == 0 or (trace.register(6), trace.register(5)) == (1, 0))
    found = search(kick(text, "mov x6, #1; ldr w5, [x3]; eret", memory=(DATA,)), model, question)
    assert found.allowed is allowed


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_an_interrupt_is_taken_at_every_boundary_and_once_for_each_sgi(model: Model) -> None:
    places = set()
    for boundary in range(5):
        after = EXECUTOR + 4 * boundary

        def taken(number: int, trace: Trace, after: int = after) -> bool:
            return number == 0 or any(event.kind == "TE" and event.pc == after for event in trace.events)

        if search(kick(SGI), model, Query(trace=taken)):
            places.add(boundary)
    assert places == {0, 1, 2, 3, 4}
    twice = Query(trace=lambda number, trace: number == 0 or sum(event.kind == "TE" for event in trace.events) == 2)
    assert not search(kick(SGI), model, twice)
    assert search(kick(f"{SGI}; {SGI}"), model, twice)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize(("eis", "eos"), [(True, True), (True, False), (False, True), (False, False)])
def test_exception_entry_and_return_synchronise_unless_told_otherwise(model: Model, eis: bool, eos: bool) -> None:
    # The handler's own first word, and the word after the SVC, are patched by the CPU that executes them.
    text = f"str w0, [x1]; {SYNC}; dsb ish; svc #0; b 0x2008"
    own = program((PATCHER, text), (SITE, "nop; nop"), (HANDLER, "eret"), eis=eis, eos=eos)
    old = Query(trace=lambda _, trace: any(address == SITE and word != NEW for address, word in trace.path))
    assert search(own, model, old).allowed is (not eis and not eos)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_could_fetch_sees_both_words_until_they_are_ordered(model: Model) -> None:
    def both_words(text: str, eis: bool = True) -> bool:
        own = program((PATCHER, text), (SITE, "nop; nop"), (HANDLER, "eret"), eis=eis)
        question = Query(execution=lambda x: any(len(could_fetch(model, x, one)) > 1 for one in x.fetches), orders=True)
        return search(own, model, question).allowed

    assert both_words("str w0, [x1]; b 0x2008")
    assert both_words(f"str w0, [x1]; {SYNC}; dsb ish; b 0x2008")
    assert not both_words(f"str w0, [x1]; {SYNC}; dsb ish; isb; b 0x2008")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_what_only_a_handler_stores_is_found_by_who_waits_for_it(model: Model) -> None:
    waiting = kick(f"{SGI}; ldr w5, [x3]", "mov x4, #1; str w4, [x3]; eret", memory=(DATA,))
    answered = Query(trace=lambda number, trace: number == 1 or trace.register(5) == 1)
    assert search(waiting, model, answered)


@pytest.mark.parametrize("model", [ArmNow, Esop2020])
@pytest.mark.parametrize("name", ["sgi", "irq-ob"])
def test_the_relations_of_interrupts_are_needed(model: type[Model], name: str) -> None:
    broken = model(without=frozenset({name}))
    question = Query(trace=lambda number, trace: number == 0 or (trace.register(6), trace.register(5)) == (1, 0))
    text = f"str w4, [x3]; dsb ish; {SGI}"
    # Entry is a context synchronisation event too, which orders as much in the older model.
    told = program((PATCHER, text), (EXECUTOR, "nop"), (HANDLER, "mov x6, #1; ldr w5, [x3]; eret"), eis=False,
                   memory=(DATA,))  # fmt: skip
    assert not search(told, model(), question)
    assert search(told, broken, question)


def test_eret_restores_the_flags() -> None:
    """A handler that compares changes no condition of the code that it interrupts: SPSR_EL1 has its flags."""
    code = program((PATCHER, SGI), (EXECUTOR, "cmp x3, x3; b.ne .+8; mov x9, #1; nop"), (HANDLER, "cmp x3, #0; eret"))
    for model in MODELS:
        wrong = Query(trace=lambda number, trace: number != 1 or trace.register(9) == 0)
        assert not search(code, model, wrong)
        assert search(code, model, Query(trace=lambda number, trace: number != 1 or trace.register(9) == 1))

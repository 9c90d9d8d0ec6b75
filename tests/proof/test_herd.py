"""Programs of proofs as litmus tests for herd7: our own reader must give each of them the answer of the proof."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from a64patch.a64.assembler import assemble
from a64patch.errors import ScopeError
from a64patch.proof.cases import APART, TOGETHER, Case, Site, build, omittable
from a64patch.proof.fetching import find_unpredictable
from a64patch.proof.herd import Recorder, text
from a64patch.proof.litmus import parse
from a64patch.proof.properties import PROPERTIES, UNPREDICTABLE, may_race, query
from a64patch.proof.prove import Question, models, prove
from a64patch.proof.search import search
from a64patch.proof.traces import behaviours

PROFILE = "2018"
RACE = Site(tuple(assemble("nop")), tuple(assemble("b .+8")))
FALLING = ["nop", "isb", "bl .+0x100", "add x9, x9, #1", "sub x9, x9, #1", "svc #0"]
JUMPING = ["b .+4", "b .+8", "b .+0x200"]

EXAMPLE = r"""AArch64 nosync-P2-other-1
Variant=ifetch
(*
  Protocol nosync; P1 is another CPU.
  P2: a CPU that was told executes an old word?
  Answer of a64patch prove: Forbidden (arm), Forbidden (esop). The model arm is herd's.
  L0 stands for d503201f `nop`, which becomes 14000002 `b .+8`; X29 is 1 after the old word, 2 after the new.
*)
{
 0:X10=P1:L0;
 0:X11=instr:"B .+8";
 0:X12=flag;
 0:X13=1;
 1:X10=flag;
}
 P0            | P1           ;
 STR W11,[X10] | LDR W4,[X10] ;
 DC CVAU,X10   | CBZ W4,A0    ;
 DSB ISH       | A0: ISB      ;
 IC IVAU,X10   | MOV W29,#2   ;
 DSB ISH       | L0: NOP      ;
 ISB           | MOV W29,#1   ;
 STR W13,[X12] |              ;

exists (1:X4=1 /\ (1:X29=1))
"""


def answers(case: Case, name: str) -> dict[str, bool]:
    known = behaviours(case.program)
    if name == UNPREDICTABLE and may_race(case, PROFILE):
        return {model.name: False for model in models()}
    return {
        model.name: search(case.program, model, query(case, name, model, PROFILE), known).allowed for model in models()
    }


def answers_of_the_reader(written: str, name: str) -> dict[str, bool]:
    test = parse(written)
    known = behaviours(test.program)
    if name == UNPREDICTABLE:
        return {model.name: find_unpredictable(test.program, model, known).allowed for model in models()}
    return {model.name: test.verdict(model, known).allowed for model in models()}


def test_an_example_word_for_word() -> None:
    recorder = Recorder()
    prove(Question("nosync", (RACE,)), observe=recorder)
    (tests,) = recorder.tests.values()
    assert tests[0].text() == EXAMPLE


@pytest.mark.parametrize("seed", range(6))
def test_our_reader_gives_the_answer_of_the_proof(seed: int) -> None:
    choose = random.Random(seed)
    seen: Counter[tuple[str, bool]] = Counter()
    while sum(seen.values()) < 60:
        count = choose.choice([1, 2, 2, 3])
        texts = FALLING if choose.random() < 0.6 else FALLING + JUMPING
        old, new = (tuple(assemble(choose.choice(texts))[0] for _ in range(count)) for _ in "on")
        if old == new:
            continue
        site = Site(old, new)
        protocol = choose.choice(["nosync", "nosync", "nosync", "kick", "stop"])
        omit = choose.choice([frozenset[str](), *({step} for step in omittable(protocol, (site,)))])
        idc = choose.random() < 0.4
        case = build(
            protocol, (site,), executors=int(protocol == "nosync" and choose.random() < 0.8), idc=idc,
            dic=idc and choose.random() < 0.5, written_for=(False, False), line=choose.choice([APART, APART, TOGETHER]),
            omit=frozenset(omit), falls_through=choose.random() < 0.5, enter=choose.randrange(count), simple=True,
        )  # fmt: skip
        for name in PROPERTIES:
            found = answers(case, name)
            try:
                written = text(case, name, "test", found, PROFILE)
            except ScopeError:
                continue
            assert answers_of_the_reader(written, name) == found, written
            seen[name, any(found.values())] += 1
    assert all(seen[name, allowed] for name in PROPERTIES for allowed in (False, True)), seen


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (build("kick", (RACE,)), "interrupts between CPUs"),
        (build("nosync", (RACE, RACE)), "several sites"),
        (build("nosync", (RACE,), executors=2), "several CPUs execute"),
        (build("brk", (RACE,), executors=0), "exception vector"),
        (build("nosync", (Site(RACE.old * 2, RACE.new * 2),), line=TOGETHER), "share a cache line"),
        (build("nosync", (Site(RACE.old, tuple(assemble("ret"))),)), "goes each way"),
        (build("nosync", (Site(RACE.old, tuple(assemble("b .")),),)), "loop"),
        (build("nosync", (Site(tuple(assemble("b .+12; nop")), tuple(assemble("b .+16; nop"))),)), "both words jump"),
        (build("nosync", (Site(RACE.old * 3, RACE.new * 3),), line=APART, free=2), "only two of its words"),
        (build("nosync", (Site(RACE.old * 2, RACE.new * 2),), returns=1), "comes back"),
    ],
)  # fmt: skip
def test_what_herd_has_no_form_for_is_refused_with_the_reason(case: Case, reason: str) -> None:
    with pytest.raises(ScopeError, match=reason):
        text(case, "P1", "test", {"arm": False}, PROFILE)


def with_executor(source: str) -> Case:
    """The race, with other instructions of the watched CPU in front of the site."""
    case = build("nosync", (RACE,))
    start = 0x2800
    words = assemble(f"movz x3, #0x8000; {source}; b 0x4000", start)
    code = {**case.program.code, **{start + 4 * number: word for number, word in enumerate(words)}}
    patcher, watched = case.program.threads
    return replace(case, program=replace(case.program, code=code, threads=(patcher, replace(watched, entry=start))))


def test_a_register_is_a_constant_from_its_last_move_on() -> None:
    written = text(with_executor("ldr w4, [x3]; str w4, [x3]; movz w4, #2; str w4, [x3]"), "P3", "test", {}, PROFILE)
    rows = [row.split("|")[1].strip(" ;") for row in written.splitlines() if "|" in row]
    assert rows[1:4] == ["LDR W4,[X10]", "STR W4,[X10]", "STR W11,[X10]"]
    assert " 1:X11=2;" in written


@pytest.mark.parametrize(
    "source", ["movz w4, #1; cbz w4, .+4", "ldr w4, [x3]; cbz w4, .+8; movz w5, #1", "ldr w4, [x3]; ldar w5, [x3]"]
)
def test_an_instruction_that_is_not_covered_is_refused(source: str) -> None:
    with pytest.raises(ScopeError, match="not written as a part of a test"):
        text(with_executor(source), "P3", "test", {}, PROFILE)


def test_names_are_unique_and_safe() -> None:
    recorder = Recorder()
    for protocol in ("nosync", "kick"):
        for site in (RACE, Site(RACE.old * 2, RACE.new * 2)):
            prove(Question(protocol, (site,), omit=frozenset({"dc", "isb"})), observe=recorder)
    names = [test.name for tests in recorder.tests.values() for test in tests]
    assert len(names) == len(set(names)) > 8
    assert all(name.replace("-", "").isalnum() for name in names)
    recorder(Question("../é" * 90, (RACE,)), build("kick", (RACE,)), "P1", models()[0], True)
    last = list(recorder.tests.values())[-1][0].name
    assert len(last) <= 100
    assert last.endswith(f"-{len(names) + 1}")
    assert "/" not in last

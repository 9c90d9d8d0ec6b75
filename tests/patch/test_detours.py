"""Detours and annexes on the simulator: found, built, executed, undone, and never torn.

The same on files and on real machines: ../real/test_random_detours.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import a64patch
from a64patch.a64.assembler import assemble
from a64patch.a64.disassembler import disassemble
from a64patch.a64.words import from_bytes
from a64patch.errors import (
    A64PatchError,
    CapabilityError,
    MismatchError,
    PatchFormatError,
    PlanError,
    SymbolError,
    TargetError,
)
from a64patch.patch import transaction
from a64patch.patch.annex import NewCode
from a64patch.patch.asmdiff import parse, reverse, to_text
from a64patch.patch.journal import EntryState, Journal
from a64patch.patch.plan import State, fill, make_plan
from a64patch.proof.prove import Verdict
from a64patch.targets.simulator import Simulator
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.patch.fake import FakeTarget
from tests.support import rounds

BASE = 0x10000
MAIN = "again: mov x1, #0; mov x2, #0; bl f; bl count; b again"
F = "f: nop; add x1, x1, #1; cbz x1, skip; add x2, x2, #1; skip: ret"
COUNT = "count: add x19, x19, #1; cmp x1, x2; b.eq same; add x20, x20, #1; same: ret"
"""x19 counts the calls, x20 those in which x1 and x2 differ."""
F_AT, COUNT_AT = BASE + 20, BASE + 40
DETOUR = """\
@@ annex more align 16 @@
+.Lonce:
+????????  add x1, x1, #2
+????????  ret

@@ detour f+0x4 @@
-91000421  add x1, x1, #1
+????????  mov x21, x30
+????????  bl annex:more
+????????  mov x30, x21
 b4000041  cbz x1, f+0x10
-91000442  add x2, x2, #1
+????????  add x2, x2, #1
+????????  add x2, x2, #1
"""


@pytest.fixture
def machine() -> Iterator[Callable[..., Simulator]]:
    made: list[Simulator] = []

    def make(source: str = f"{MAIN}; {F}; {COUNT}", **options: object) -> Simulator:
        words = assemble(source, BASE)
        simulator = Simulator.from_words(words, base=BASE, **{"cpus": 4, "seed": 1, **options})  # type: ignore[arg-type]
        symbols = [
            Symbol("main", BASE, 20, is_function=True),
            Symbol("f", F_AT, 20, is_function=True),
            Symbol("count", COUNT_AT, 20, is_function=True),
        ]
        simulator.knowing(replace(simulator.modules.main, symbols=SymbolTable(lambda: symbols)))
        made.append(simulator)
        return simulator

    yield make
    for simulator in made:
        simulator.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal") as journal:
        yield journal


def words_of(target: Simulator) -> list[int]:
    return from_bytes(target.read(BASE, 60))


def test_new_code_is_built_executed_and_given_back(machine: Callable[..., Simulator], journal: Journal) -> None:
    simulator = machine()
    before = words_of(simulator)
    patch = parse(DETOUR)
    plan = make_plan(patch, simulator)
    assert (plan.state, plan.hazards, len(plan.changes)) == (State.TO_DO, (), 1)
    assert plan.annex is not None
    assert plan.sites[0].keep_out.spans == (), "whoever is further on finishes the old code"
    simulator.run(500)
    outcome = a64patch.apply(plan, simulator, journal)
    assert outcome.result.method == "stop"
    assert journal.entry(outcome.entry).built is not None
    assert [place for place, word in enumerate(words_of(simulator)) if word != before[place]] == [
        (F_AT + 4 - BASE) // 4
    ]
    room = plan.annex.room
    assert simulator.rooms() == [room]
    simulator.watch(room.address, room.end)
    simulator.run(500)
    assert {each.cpu for each in simulator.executed} == {0, 1, 2, 3}
    applied = make_plan(patch, simulator)
    assert (applied.state, applied.changes) == (State.APPLIED, ())
    assert applied.annex is not None
    assert applied.annex.room == room
    undone = a64patch.revert(outcome.entry, simulator, journal)
    assert undone.stays == ""
    assert words_of(simulator) == before
    assert simulator.rooms() == []
    simulator.run(500)
    assert make_plan(patch, simulator).state is State.TO_DO
    assert all(simulator.register(cpu, 20) == 0 for cpu in range(4)), "no call had half of each"
    assert min(simulator.register(cpu, 19) for cpu in range(4)) > 10


def test_the_reversed_patch_finds_the_new_code_without_a_journal(machine: Callable[..., Simulator]) -> None:
    simulator = machine()
    before = words_of(simulator)
    backwards = parse(to_text(reverse(parse(DETOUR))))
    assert make_plan(backwards, simulator).state is State.APPLIED
    a64patch.apply(parse(DETOUR), simulator)
    plan = make_plan(backwards, simulator)
    assert (plan.state, len(plan.changes)) == (State.TO_DO, 1)
    assert a64patch.apply(plan, simulator).stays == ""
    assert (words_of(simulator), simulator.rooms()) == (before, [])


def test_filling_in_leaves_out_the_words_that_depend_on_their_place(machine: Callable[..., Simulator]) -> None:
    text = to_text(fill(parse(DETOUR), machine()))
    assert "+91000821  add   x1, x1, #2\n" in text
    assert "+????????  bl    annex:more\n" in text
    assert "@@ annex more align 16 -0 +2 @@\n+.Lonce:\n" in text
    assert to_text(fill(parse(text), machine())) == text


def test_words_of_the_new_code(machine: Callable[..., Simulator]) -> None:
    simulator = machine()
    a64patch.apply(parse(DETOUR), simulator)
    room = simulator.rooms()[0]
    words = from_bytes(simulator.read(room.address, room.size))
    texts = [disassemble(word, room.address + 4 * place) for place, word in enumerate(words)]
    assert texts == [
        "add x1, x1, #2", "ret", "mov x21, x30", f"bl {room.address:#x}", "mov x30, x21",
        f"cbz x1, {F_AT + 16:#x}", "add x2, x2, #1", "add x2, x2, #1", f"b {F_AT + 16:#x}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("@@ detour f+0x4 @@\n 91000421\n+d503201f  nop\n", PatchFormatError, "ends with a new instruction: show"),
        ("@@ detour f+0x4 @@\n+94000001  bl count\n 91000421\n", PatchFormatError, "line 2.*write \\?{8}"),
        ("@@ detour f+0x4 @@\n+????????  b .+8\n 91000421\n", PatchFormatError, "name the place by a label"),
        ("@@ detour f+0x4 @@\n+????????  b .Lno\n 91000421\n", SymbolError, "no symbol '.Lno'"),
        ("@@ detour f+0x4 @@\n+????????  bl annex:no\n 91000421\n", SymbolError, "no annex 'no'"),
        ("@@ detour f+0x4 @@\n+????????  bl annex:g+4\n 91000421\n@@ annex g @@\n+d65f03c0\n", PlanError, "a label"),
        ("@@ detour f+0x4 @@\n+????????  nop nop\n 91000421\n", PatchFormatError, "line 2"),
        ("@@ detour f+0x4 @@\n+????????\n 91000421\n", PatchFormatError, "neither word nor text"),
        ("@@ detour f+0x4 @@\n+d503201f  ret\n 91000421\n", PatchFormatError, "the word d503201f is 'nop'"),
        ("@@ annex d @@\n+00000001  .word 2\n@@ detour f+0x4 @@\n+d503201f\n 91000421\n", PatchFormatError, "not that"),
    ],
)  # fmt: skip
def test_new_code_that_cannot_be_made(
    machine: Callable[..., Simulator], text: str, error: type[A64PatchError], says: str
) -> None:
    simulator = machine()
    with pytest.raises(error, match=says):
        make_plan(parse(text), simulator)
    assert simulator.rooms() == []


def test_data_and_distances(machine: Callable[..., Simulator]) -> None:
    simulator = machine()
    text = (
        "@@ annex d align 64 @@\n+00000007  .word 7\n+????????  .word annex:d+4 - .\n+????????  .word .Lin - annex:d\n"
        "@@ detour f @@\n+????????  adrp x5, annex:d+8\n+????????  add x5, x5, :lo12:annex:d+8\n+.Lin:\n"
        "+????????  ldr w6, [x5, :lo12:annex:d]\n d503201f\n"
    )
    plan = make_plan(parse(text), simulator)
    assert plan.annex is not None
    base = plan.annex.room.address
    assert (base % 64, plan.annex.words[:3]) == (0, (7, 0, 20))
    texts = [disassemble(word, base + 12 + 4 * place) for place, word in enumerate(plan.annex.words[3:])]
    assert base % 4096 == 0
    assert texts == [f"adrp x5, {base:#x}", "add x5, x5, #8", "ldr w6, [x5]", "nop", f"b {F_AT + 4:#x}"]


@pytest.mark.parametrize(
    ("jump", "texts"),
    [
        ("ret", ["nop", "nop", "nop", "nop", "adrp x5, 0x20000", "ret"]),
        ("br x5", ["udf #0", "udf #0", "udf #0", "udf #0", "nop", "nop", "adrp x5, 0x20000", "br x5"]),
    ],
)
def test_code_with_an_indirect_jump_does_not_grow(jump: str, texts: list[str]) -> None:
    """Otherwise the distances in a compiler's table would be wrong. An ADRP at 0xff8 in its page is a risk."""
    symbols = SymbolTable(lambda: [Symbol("near", 0x20000, 4), Symbol("far", 1 << 32, 4)])
    text = f"@@ annex f align 16 @@\n+????????  nop\n+????????  nop\n+????????  {{}}\n+????????  {jump}\n"
    code = NewCode(parse(text.format("adrp x5, near")).hunks, (), symbols, exact=True)
    placed = code.at(0x10FF0)
    assert [disassemble(word, 0x10FF0 + 4 * place) for place, word in enumerate(placed.words)] == texts
    assert placed.names["annex:f"] == (0x11000 if jump == "br x5" else 0x10FF0)
    assert len(code.at(0x10000).words) == 4
    far = NewCode(parse(text.format("bl far")).hunks, (), symbols, exact=True)
    if jump == "ret":
        assert len(far.at(0x10000).words) == 6
    else:
        with pytest.raises(PlanError, match="of annex:f at 0x10008 does not reach, and nothing in annex:f may grow"):
            far.at(0x10000)
        fixed = text.replace("align 16", "align 4096").replace("+????????  nop\n", "+????????  nop\n" * 511)
        code = NewCode(parse(fixed.format("adrp x5, near")).hunks, (), symbols, exact=True)
        with pytest.raises(PlanError, match="at 0x10ff8 is subject to Cortex-A53 erratum 843419, and nothing in"):
            code.at(0x10000)


def test_other_code_behind_the_branch_is_foreign(machine: Callable[..., Simulator]) -> None:
    simulator = machine()
    a64patch.apply(parse(DETOUR), simulator)
    other = parse(DETOUR.replace("x1, x1, #2", "x1, x1, #3"))
    plan = make_plan(other, simulator)
    assert plan.state is State.FOREIGN
    assert "which is not the new code of this patch" in plan.hunks[1].difference
    with pytest.raises(A64PatchError, match=r"not the new code of this patch.*nothing was changed"):
        a64patch.apply(other, simulator)


def test_old_code_that_can_be_entered_in_the_middle_is_a_hazard(machine: Callable[..., Simulator]) -> None:
    simulator = machine(f"{MAIN}; {F}; {COUNT.replace('add x20, x20, #1', f'b {F_AT + 8:#x}')}")
    plan = make_plan(parse(DETOUR), simulator)
    assert [hazard.name for hazard in plan.hazards] == ["branch-into-site"]
    assert "count+0xc branches to f+0x8, which stays as it was" in plan.hazards[0].sentence


def test_a_landing_pad_stays_in_place(machine: Callable[..., Simulator]) -> None:
    simulator = machine(f"{MAIN}; {F.replace('nop', 'bti c')}; {COUNT}")
    with pytest.raises(PlanError, match="would begin at a landing pad"):
        make_plan(parse("@@ detour f @@\n-d503245f\n+d503201f\n+d503201f\n"), simulator)


@pytest.mark.parametrize(
    ("function", "place", "hazards"),
    [
        ("nop; paciasp; nop; autiasp; ret", 1, []),
        ("paciasp; nop; nop; autiasp; ret", 0, ["landing-pad"]),
        ("nop; bti j; nop; nop; ret", 1, ["landing-pad"]),
        ("nop; paciasp; nop; autiasp; ret", 3, ["pac-pair"]),
    ],
)
def test_a_function_that_signs_behind_its_start_may_be_left_there(
    function: str, place: int, hazards: list[str], machine: Callable[..., Simulator], journal: Journal
) -> None:
    words = assemble(f"f: {function}")
    simulator = machine(f"{MAIN}; f: {function}; {COUNT}")
    patch = parse(f"@@ annex g @@\n+????????  ret\n\n@@ f+{4 * place} @@\n-{words[place]:08x}\n+????????  b annex:g\n")
    plan = make_plan(patch, simulator)
    assert sorted({hazard.name for hazard in plan.hazards}) == hazards
    a64patch.apply(plan, simulator, journal, accept=hazards)
    back = make_plan(reverse(patch), simulator)
    assert sorted({hazard.name for hazard in back.hazards}) == [name for name in hazards if name == "pac-pair"]


def test_whoever_is_in_new_code_keeps_it_there(machine: Callable[..., Simulator], journal: Journal) -> None:
    """A CPU that loops in the new code until its register says otherwise."""
    text = "@@ detour f+0x4 @@\n+.Lwait:\n+????????  cbz x25, .Lwait\n 91000421  add x1, x1, #1\n"
    simulator = machine(cpus=1)
    outcome = a64patch.apply(parse(text), simulator, journal)
    simulator.run(300)
    undone = a64patch.revert(outcome.entry, simulator, journal)
    assert "is not given back: CPU 0 stands at" in undone.stays
    assert "nothing was changed" not in undone.stays, "the branch is not there any more"
    assert len(simulator.rooms()) == 1

    class Open:
        """The same machine again."""

        def __enter__(self) -> Simulator:
            return simulator

        def __exit__(self, *_: object) -> None:
            pass

    still = list(transaction.recover(journal, lambda _: Open()))  # type: ignore[arg-type,return-value]
    assert "is not given back" in still[0].note
    simulator._cpus[0].set_register(25, 1)
    simulator.run(300)
    freed = list(transaction.recover(journal, lambda _: Open()))  # type: ignore[arg-type,return-value]
    assert (freed[0].state, freed[0].note) == (EntryState.APPLIED, "the room of its new code is given back")
    assert simulator.rooms() == []
    assert list(transaction.recover(journal, lambda _: Open())) == []  # type: ignore[arg-type,return-value]


def test_a_target_without_room(machine: Callable[..., Simulator]) -> None:
    target = FakeTarget(assemble("nop; nop"))
    with pytest.raises(CapabilityError, match="this fake has no room for new code"):
        make_plan(parse("@@ detour site @@\n+d503201f\n d503201f\n"), target)


# Under load, with hostile caches

UNDER_LOAD = """\
@@ detour f @@
-d503201f  nop
-91000421  add x1, x1, #1
+????????  mov x21, x30
+????????  bl annex:two
+????????  mov x30, x21
 b4000041  cbz x1, f+0x10
-91000442  add x2, x2, #1
+????????  add x2, x2, #1
+????????  add x2, x2, #1

@@ annex two @@
+????????  add x1, x1, #1
+????????  add x1, x1, #1
+????????  ret
"""
MODELS = {
    f"idc{idc:d}-dic{dic:d}-{'broadcast' if broadcast else 'local'}": {"idc": idc, "dic": dic, "broadcast": broadcast}
    for idc in (False, True)
    for dic in (False, True)
    for broadcast in (True, False)
}


@pytest.mark.parametrize("model", MODELS)
def test_no_cpu_ever_has_half_of_each_or_is_in_freed_code(machine: Callable[..., Simulator], model: str) -> None:
    """x20 counts the calls in which x1 and x2 differ. A jump into code that was given back is a fault."""
    with machine(quantum=3, **MODELS[model]) as simulator:
        nop_first = parse(UNDER_LOAD)
        add_first = parse(UNDER_LOAD.replace("-d503201f", " d503201f"))
        executed, methods = set(), set()
        rounds_left = rounds(10_000 // len(MODELS), 12)
        for number in range(rounds_left):
            patch = (nop_first, add_first)[number % 2]
            simulator.run(number % 29)
            methods.add(a64patch.apply(patch, simulator).result.method)
            room = simulator.rooms()[0]
            if not number:
                simulator.watch(room.address, room.end)
            simulator.run(60 + number % 31)
            executed |= {each.cpu for each in simulator.executed}
            stays = a64patch.apply(reverse(patch), simulator, retry=5).stays
            assert stays == ""
            assert simulator.rooms() == []
        assert executed == {0, 1, 2, 3}
        assert methods == ({"kick", "stop"} if MODELS[model]["broadcast"] else {"stop"})
        assert all(simulator.register(cpu, 20) == 0 for cpu in range(4)), "half of each"
        assert min(simulator.register(cpu, 19) for cpu in range(4)) > rounds_left // 2


def test_the_trial_sees_a_jump_into_freed_code(machine: Callable[..., Simulator]) -> None:
    """When nobody looks who is inside before the room is given back."""
    simulator = machine(quantum=3)

    def give_back_at_once() -> None:
        for number in range(400):
            a64patch.apply(parse(UNDER_LOAD), simulator)
            simulator.run(40 + number % 31)
            simulator.release(simulator.rooms()[0])
            simulator.run(200)

    with pytest.raises(TargetError, match=r"CPU . at .* has no code to execute there"):
        give_back_at_once()


def test_the_trial_sees_half_of_each(machine: Callable[..., Simulator]) -> None:
    """When the same words are written in place, without a detour and without stopping anybody."""
    simulator = machine(quantum=3, idc=False, dic=False)
    twice = assemble("nop; add x1, x1, #2; cbz x1, .+8; add x2, x2, #2; ret", F_AT)
    once = assemble("nop; add x1, x1, #1; cbz x1, .+8; add x2, x2, #1; ret", F_AT)
    for number in range(60):
        simulator.run(number % 29)
        for place in (1, 3):
            a64patch.patch_text_nosync(simulator, F_AT + 4 * place, (once, twice)[number % 2][place])
    simulator.run(400)
    assert any(simulator.register(cpu, 20) for cpu in range(4))


def test_a_branch_in_place_to_an_annex(machine: Callable[..., Simulator]) -> None:
    simulator = machine()
    text = """\
@@ f -1 +1 @@
-d503201f  nop
+????????  b     annex:"f 2"

@@ annex "f 2" -0 +2 @@
+91000821  add   x1, x1, #2
+????????  b     f+0x8
"""
    patch = parse(text)
    assert fill(patch, simulator) == fill(patch) == patch
    plan = make_plan(patch, simulator)
    assert (plan.method, plan.hazards) == ("kick", ())
    a64patch.apply(plan, simulator)
    assert make_plan(patch, simulator).state is State.APPLIED
    assert a64patch.prove(patch)[0].verdict is Verdict.SAFE
    with pytest.raises(PatchFormatError, match=r"line 3.*depends on where new code will lie"):
        make_plan(parse(text.replace("????????  b     annex", "14000001  b     annex")), simulator)
    a64patch.apply(reverse(patch), simulator)
    assert make_plan(patch, simulator).state is State.TO_DO


def test_hazards_of_new_code(machine: Callable[..., Simulator]) -> None:
    """Data may look like anything."""
    text = """\
@@ annex g @@
+a8c00400  ldp x0, x1, [x0], #0
+f9400041  ldr x1, [x2]
+9b020c20  madd x0, x1, x2, x3
+f9400061  ldr x1, [x3]
+9b020ca0  madd x0, x5, x2, x3
+d65f03c0  ret

@@ annex d @@
+a8c00400  .word 0xa8c00400

@@ detour f @@
+????????  bl annex:g
 d503201f
"""
    plan = make_plan(parse(text), machine())
    assert plan.annex is not None
    start = plan.annex.room.address
    assert [(hazard.name, hazard.address - start) for hazard in plan.hazards] == [
        ("unpredictable", 0), ("erratum-835769", 16),
    ]  # fmt: skip


def test_two_detours_near_each_other_are_two_sites(machine: Callable[..., Simulator]) -> None:
    """Elsewhere they would be one site, and the branch between them a way into it."""
    text = "@@ detour f+0x4 @@\n+d503201f\n 91000421\n@@ detour f+0x10 @@\n+d503201f\n d65f03c0\n"
    plan = make_plan(parse(text), machine())
    assert plan.hazards == ()
    assert [(site.start - F_AT, site.keep_out.spans) for site in plan.sites] == [(4, ()), (16, ())]


def test_a_call_for_its_own_address_cannot_move(machine: Callable[..., Simulator]) -> None:
    simulator = machine(f"{MAIN}; {F.replace('nop', 'bl .+4')}; {COUNT}")
    with pytest.raises(PlanError, match="calls words close to it, to learn its address; nothing was changed"):
        make_plan(parse("@@ detour f @@\n+d503201f\n 94000001\n"), simulator)


LINES = st.sampled_from(
    [
        "+d503201f  nop",
        "+????????  b .Lx",
        "+.Lx:",
        "+????????  bl annex:g",
        "+????????  bl count",
        "+????????  cbz x0, .Lx",
        " d503201f",
        " 91000421  add x1, x1, #1",
        "-91000421",
        "-d503201f",
        "+00000001  .word 1",
        "+????????  .word .Lx-.",
        "+????????  adrp x0, annex:g",
        "+????????  add x0, x0, :lo12:annex:g+4",
        "+????????  ldr x0, .Lx",
        "# why",
        "",
        "+????????  b .+8",
        "+????????  b f+0x4",
        "+????????  tbz x0, #1, main",
        "+????????  .word annex:g-annex:nobody",
        "@@ annex g align 8 @@",
        "@@ detour f @@",
        "@@ f+0x4 @@",
        "@@ end-detour f @@",
        "@@ end-annex g @@",
    ]
)
"""What texts of patches with new code are made of: sound, senseless, or of no hunk at all."""


@given(st.lists(LINES, min_size=2, max_size=14))
@settings(max_examples=rounds(3000, 150), deadline=None)
@example(["@@ detour f @@", "+????????  b .Lx", " d503201f", "@@ annex g align 8 @@", "+.Lx:", "+d503201f  nop"])
def test_any_text_is_planned_or_refused(lines: list[str]) -> None:
    words = assemble(f"{MAIN}; {F}; {COUNT}", BASE)
    with Simulator.from_words(words, base=BASE, cpus=1) as simulator:
        symbols = [Symbol("main", BASE, 20), Symbol("f", F_AT, 20), Symbol("count", COUNT_AT, 20)]
        simulator.knowing(replace(simulator.modules.main, symbols=SymbolTable(lambda: symbols)))
        try:
            patch = parse("\n".join(lines) + "\n")
            assert parse(to_text(patch)) == patch
            fill(patch, simulator)
            plan = make_plan(patch, simulator)
            a64patch.apply(plan, simulator, accept=["all"])
        except A64PatchError:
            return
        if patch.needs_room and not any(hunk.kind.startswith("end-") for hunk in patch.hunks):
            assert make_plan(patch, simulator).state is State.APPLIED
            a64patch.apply(reverse(patch), simulator, accept=["all"])
            assert (from_bytes(simulator.read(BASE, 4 * len(words))), simulator.rooms()) == (words, [])


def test_two_redirects_near_each_other_and_one_of_half_a_pair(machine: Callable[..., Simulator]) -> None:
    """Both functions are short, and the first one begins with half of an address."""
    simulator = machine(f"{MAIN}; f: adrp x5, 0x10000; add x5, x5, #8; cbz x1, skip; nop; skip: ret; {COUNT}")
    word = from_bytes(simulator.read(F_AT, 4))[0]
    text = f"@@ f @@\n-{word:08x}\n+????????  b annex:g\n@@ count @@\n-91000673\n+????????  b annex:g\n"
    plan = make_plan(parse(f"{text}@@ annex g @@\n+d65f03c0\n"), simulator)
    assert plan.hazards == ()
    assert [(site.start, site.end - site.start) for site in plan.sites] == [(F_AT, 4), (COUNT_AT, 4)]


def test_new_code_needs_a_line_in_place_that_leads_there(machine: Callable[..., Simulator]) -> None:
    """Reversed, such a patch would give back equal code of another patch."""
    simulator = machine()
    a64patch.apply(parse("@@ f @@\n-d503201f nop\n+???????? b annex:new\n@@ annex new @@\n+d65f03c0 ret\n"), simulator)
    for alone in "@@ count @@\n-91000673\n+91000a73\n@@ annex one @@\n+d65f03c0 ret\n", "@@ annex one @@\n+d503201f\n":
        with pytest.raises(PatchFormatError, match="line 1: no line in place leads to the new code"):
            a64patch.apply(parse(alone), simulator)


def test_equal_new_code_in_two_rooms(machine: Callable[..., Simulator]) -> None:
    """The word in place has only the low bits of an address: it does not tell which room is whose."""
    simulator = machine()
    table = "+???????? add x3, x3, :lo12:annex:t\n@@ annex t @@\n+???????? .word 7\n"
    first = parse(f"@@ f @@\n-d503201f nop\n{table}")
    second = parse(f"@@ count @@\n-91000673 add x19, x19, #1\n{table}")
    a64patch.apply(first, simulator)
    assert make_plan(first, simulator).state is State.APPLIED
    a64patch.apply(second, simulator)
    for patch in first, second, reverse(first), reverse(second):
        with pytest.raises(PlanError, match=r"is at 0x\w+ and at 0x\w+, and no branch tells which"):
            make_plan(patch, simulator)
    assert len(simulator.rooms()) == 2


def test_the_place_of_new_code_to_which_an_adr_leads(machine: Callable[..., Simulator]) -> None:
    simulator = machine()
    patch = parse("@@ f @@\n-d503201f nop\n+???????? adr x3, annex:t\n@@ annex t @@\n+???????? .word 7\n")
    a64patch.apply(patch, simulator)
    assert make_plan(patch, simulator).state is State.APPLIED
    assert a64patch.apply(reverse(patch), simulator).stays == ""


def test_new_code_of_zeros(machine: Callable[..., Simulator]) -> None:
    """A file tells by zeros that a room is not used, so it would go with the next one."""
    patch = parse("@@ f @@\n-d503201f nop\n+???????? adr x3, annex:t\n@@ annex t @@\n+???????? .word 0\n")
    with pytest.raises(PlanError, match="all zeros"):
        make_plan(patch, machine())


def test_a_loop_back_to_the_first_instruction_executes_what_is_put_before_it(machine: Callable[..., Simulator]) -> None:
    """As does a branch from elsewhere, which finds the branch in place."""
    simulator = machine(f"{MAIN}; f: mov x1, #3; loop: sub x1, x1, #1; cbnz x1, loop; nop; ret; {COUNT}")
    lines = "+d503201f nop\n d1000421 sub x1, x1, #1\n+d503201f nop\n b5ffffe1 cbnz x1, f+0x4\n+d503201f nop\n"
    plan = make_plan(parse(f"@@ detour f+0x4 @@\n{lines}"), simulator)
    assert plan.annex is not None
    at = plan.annex.room.address
    assert disassemble(plan.annex.words[3], at + 12) == f"cbnz x1, {at:#x}"


def test_revert_takes_no_other_new_code_at_the_same_place_for_its_own(
    machine: Callable[..., Simulator], journal: Journal
) -> None:
    """The branches are equal, since the room is the same."""
    simulator = machine()
    first, second = (
        parse(f"@@ f @@\n-d503201f nop\n+???????? b annex:new\n@@ annex new @@\n+{word:08x}\n+d65f03c0 ret\n")
        for word in (0xD2800020, 0xD2800040)
    )
    applied = a64patch.apply(make_plan(first, simulator), simulator, journal)
    assert a64patch.apply(make_plan(reverse(first), simulator), simulator, journal).stays == ""
    a64patch.apply(make_plan(second, simulator), simulator, journal)
    error = "holds d2800040, not d2800020 as entry 1 wrote: entry 3 has changed it since, revert that first"
    with pytest.raises(MismatchError, match=error):
        a64patch.revert(applied.entry, simulator, journal)
    assert make_plan(second, simulator).state is State.APPLIED


@pytest.mark.parametrize("kept", [0, 1])
def test_half_of_a_patch_is_not_reversed(machine: Callable[..., Simulator], kept: int) -> None:
    """Its room is that of the other half, too."""
    simulator = machine()
    line = "+d503201f nop\n+d503201f nop\n"
    patch = parse(f"@@ detour f @@\n{line} d503201f nop\n@@ detour count @@\n{line} 91000673 add x19, x19, #1\n")
    a64patch.apply(patch, simulator)
    half = patch._replace(hunks=patch.hunks[kept : kept + 1])
    with pytest.raises(
        PlanError, match=r"is a part of 32 bytes at 0x\w+, which a larger patch made.*nothing was changed"
    ):
        a64patch.apply(reverse(half), simulator)
    assert make_plan(patch, simulator).state is State.APPLIED
    assert a64patch.apply(reverse(patch), simulator).stays == ""

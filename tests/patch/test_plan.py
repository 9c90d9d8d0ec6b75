"""A patch and a target make a plan: every state, every refusal, and what a hunk means on another build.

The programs are assembled and linked by GNU binutils.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch import questions
from a64patch.a64.assembler import assemble_one
from a64patch.a64.generate import gen_nop
from a64patch.a64.words import from_bytes
from a64patch.errors import (
    A64PatchError,
    AlignmentError,
    MappingError,
    PatchFormatError,
    PlanError,
    RequestError,
    SymbolError,
)
from a64patch.patch.asmdiff import BUILD_ID, AsmDiff, parse, reverse, to_text
from a64patch.patch.plan import Plan, State, Sync, fill, make_plan, require_acceptable
from a64patch.patch.text import patch_text
from a64patch.ranges import Ranges
from a64patch.targets.elf import ElfFile
from a64patch.targets.section import Change
from a64patch.targets.symbols import Symbol
from tests.patch.fake import BASE, DATA, FakeTarget
from tests.support import assemble, link

BUILD, OTHER = "00112233", "44556677"


def source(before: str = "", inside: str = "", data: str = "", call: str = "work") -> str:
    """A program whose function `main` can be moved, grow, call another function, and have its data moved."""
    return f"""
    .globl _start
    .macro function name
    .type \\name, %function
\\name:
    .endm
    .macro end name
    .size \\name, . - \\name
    .endm
    function _start
    bl main
    mov x8, #93
    svc #0
    end _start
    {before}
    function main
    paciasp
    stp x29, x30, [sp, #-16]!
    {inside}
    mov w0, #5
    bl {call}
    adrp x1, counter
    ldr w2, [x1, #:lo12:counter]
    cbz w2, 1f
    add w0, w0, w2
1:  ldp x29, x30, [sp], #16
    autiasp
    ret
    end main
    function work
    add w0, w0, #1
    ret
    end work
    function rest
    mov w0, #5
    ret
    end rest
    .data
    {data}
    .type counter, %object
counter: .word 7
    .size counter, 4
    """


Build = Callable[..., ElfFile]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    numbers = iter(range(99))

    def make(text: str = "", identity: str = BUILD) -> ElfFile:
        path = tmp_path / str(next(numbers))
        return ElfFile(link(assemble(text or source(), path.with_suffix(".o")), path, f"--build-id=0x{identity}"))

    return make


def patch(text: str, target: ElfFile, identity: str = BUILD) -> AsmDiff:
    """The patch with all its words, as `fmt` makes it on the build that it is for."""
    filled = fill(parse(text), target)
    assert filled.build_id == target.build_id
    return filled._replace(headers=((BUILD_ID, identity),) if identity else ())


CHANGE = """
@@ main+0x8 @@
 ????????  mov w0, #5
-????????  bl work
+????????  bl rest
 ????????  adrp x1, counter
 ????????  ldr w2, [x1, :lo12:counter]
"""


def apply(plan: Plan, target: ElfFile) -> None:
    changes = plan.changes
    patch_text(target, [c.address for c in changes], [c.new for c in changes], expected=[c.old for c in changes])


def word_at(target: ElfFile, site: str) -> int:
    return from_bytes(target.read(target.symbols.resolve(site), 4))[0]


# States


def test_a_hunk_to_be_done_then_applied_then_undone(build: Build) -> None:
    target = build()
    before = Path(target.path).read_bytes()
    diff = patch(CHANGE, target)
    plan = make_plan(diff, target)
    [hunk] = plan.hunks
    start = target.symbols["main"]
    assert (plan.state, hunk.state, hunk.address, hunk.offset) == (State.TO_DO, State.TO_DO, start + 8, 0)
    old, new = (assemble_one(text, start + 12, target.symbols) for text in ("bl work", "bl rest"))
    assert plan.changes == hunk.changes == (Change(start + 12, old, new),)
    assert (plan.method, plan.by_meaning, plan.identity.build_id) == ("stop", False, BUILD)
    assert "nothing executes" in plan.reason
    assert plan.verdict(plan.changes[0])
    assert Path(target.path).read_bytes() == before

    apply(plan, target)
    done = make_plan(diff, target)
    assert (done.state, done.changes, done.method, done.hazards) == (State.APPLIED, (), None, ())

    apply(make_plan(reverse(diff), target), target)
    assert Path(target.path).read_bytes() == before


def test_a_foreign_word_is_named(build: Build) -> None:
    target = build()
    diff = patch(CHANGE.replace("mov w0, #5", "mov w0, #6"), target)
    plan = make_plan(diff, target)
    assert (plan.state, plan.changes, plan.hunks[0].changes) == (State.FOREIGN, (), ())
    assert plan.hunks[0].difference == "main+0x8 holds 528000a0 (mov w0, #5), not 528000c0 (mov w0, #6)"


def test_hunks_in_different_states_make_a_foreign_patch(build: Build) -> None:
    target = build()
    both = "@@ work @@\n-????????  add w0, w0, #1\n+????????  add w0, w0, #2\n"
    diff = patch(CHANGE + both, target)
    apply(make_plan(patch(both, target), target), target)
    plan = make_plan(diff, target)
    assert [hunk.state for hunk in plan.hunks] == [State.TO_DO, State.APPLIED]
    assert (plan.state, plan.changes) == (State.FOREIGN, ())


def test_fewer_new_words_are_padded_with_nops_that_reversing_takes_away(build: Build) -> None:
    target = build()
    before = Path(target.path).read_bytes()
    diff = patch("@@ main+0xc @@\n-????????\n-????????\n-????????\n+????????  mov w2, #7\n", target)
    plan = make_plan(diff, target)
    start = target.symbols["main"]
    assert plan.hunks[0].padding == (start + 0x10, start + 0x14)
    assert [change.new for change in plan.changes] == [assemble_one("mov w2, #7"), gen_nop(), gen_nop()]
    apply(plan, target)
    assert make_plan(diff, target).state is State.APPLIED
    back = reverse(diff)
    assert make_plan(back, target).state is State.TO_DO
    apply(make_plan(back, target), target)
    assert Path(target.path).read_bytes() == before


IMPLIED = " 00000001\n-00000002\n-00000003\n+00000012\n 00000004\n-00000005\n"


@pytest.mark.parametrize(
    ("counts", "lines", "says"),
    [
        ("", IMPLIED, "site may have been cut off: it has no counts, and implies 2 NOPs from site+0x8 on"),
        ("", IMPLIED[:20], "site may have been cut off: it has no counts, and implies a NOP at site+0x4"),
        (" -5 +3", IMPLIED, ""),
        ("", "-00000001\n+00000011\n", ""),
    ],
)
def test_implied_nops_are_a_hazard_where_no_counts_say_that_they_are_meant(counts: str, lines: str, says: str) -> None:
    plan = make_plan(parse(f"@@ site{counts} @@\n{lines}"), FakeTarget([1, 2, 3, 4, 5], cpus=0))
    hazards = [hazard for hazard in plan.hazards if hazard.name == "implied-nop"]
    assert [hazard.sentence for hazard in hazards] == ([f"the hunk at {says}"] if says else [])
    assert [hazard.address for hazard in hazards] == [plan.hunks[0].padding[0] for _ in hazards]
    require_acceptable(plan, accept=["implied-nop"])
    if says:
        with pytest.raises(PlanError, match=r"implies .*; if that is right, --accept implied-nop; nothing was"):
            require_acceptable(plan)
    else:
        require_acceptable(plan)


def test_a_hunk_is_one_site_from_its_first_to_its_last_changed_word() -> None:
    target = FakeTarget([1, 2, 3, 4, 5, 6])
    lines = ["-00000001", "-00000002", "-00000003", "+00000001", "+00000012", "+00000003", " 00000004"]
    plan = make_plan(parse("\n".join(["@@ site @@", *lines])), target)
    assert plan.changes == (Change(BASE + 4, 2, 0x12),)
    assert [(site.start, site.end, site.keep_out) for site in plan.sites] == [(BASE + 4, BASE + 8, Ranges())]
    lines = ["-00000001", "-00000002", "-00000003", "+00000011", "+00000002", "+00000013", " 00000004"]
    lines += ["-00000005", "+00000005", "-00000006", "+00000016"]
    plan = make_plan(parse("\n".join(["@@ site @@", *lines])), target)
    assert plan.changes == (Change(BASE, 1, 0x11), Change(BASE + 8, 3, 0x13), Change(BASE + 20, 6, 0x16))
    [site] = plan.sites
    assert (site.start, site.end, site.keep_out) == (BASE, BASE + 24, Ranges(((BASE + 4, BASE + 24),)))


def hunk(at: int, old: int, new: int) -> str:
    return f"@@ site+{4 * at:#x} @@\n-{old:08x}\n+{new:08x}\n"


@pytest.mark.parametrize(("second", "sites"), [(8, 1), (9, 2)])
def test_hunks_so_close_that_they_can_be_one_are(second: int, sites: int) -> None:
    target = FakeTarget(list(range(1, 30)))
    plan = make_plan(parse(hunk(0, 1, 0x11) + hunk(second, second + 1, 0x12)), target)
    assert (len(plan.sites), plan.method) == (sites, "stop")


def test_words_that_each_may_race_are_as_many_writes_and_one_kick() -> None:
    nops = [gen_nop()] * 40
    target = FakeTarget(nops)
    plan = make_plan(parse("".join(hunk(at, gen_nop(), 0x14000001) for at in range(0, 40, 2))), target)
    assert (len(plan.sites), plan.method) == (20, "kick")
    assert all(not site.keep_out for site in plan.sites)


def test_together_keeps_out_of_every_function_touched() -> None:
    target = FakeTarget([gen_nop()] * 40)
    target.name(Symbol("f", BASE, 80), Symbol("g", BASE + 80, 80))
    text = "@@ f+8 @@\n-d503201f\n+d2800000\n\n@@ g+8 @@\n-d503201f\n+d2800000\n"
    apart = make_plan(parse(text), target)
    assert all(not site.keep_out for site in apart.sites)
    plan = make_plan(parse(text), target, together=True)
    assert (plan.method, plan.reason) == ("stop", "all hunks change together")
    assert [site.keep_out for site in plan.sites] == [
        Ranges(((BASE + 4, BASE + 80),)),
        Ranges(((BASE + 84, BASE + 160),)),
    ]
    target.name(Symbol("f", BASE, 80), Symbol("g", BASE + 80, 0))
    assert [hazard.name for hazard in make_plan(parse(text), target, together=True).hazards] == ["together"]


def test_a_patch_that_leaves_everything_as_it_is_is_applied() -> None:
    assert make_plan(parse("@@ site @@\n-00000001\n+00000001\n"), FakeTarget([1])).state is State.APPLIED


def test_the_method_and_the_hazards_are_those_of_all_changes() -> None:
    target = FakeTarget([assemble_one(text) for text in ("bl .+8", "nop", "ret")])
    one = make_plan(parse("@@ site+4 @@\n-d503201f  nop\n+14000001  b .+4\n"), target)
    assert (one.method, one.hazards) == ("kick", ())
    target.name(Symbol("site", BASE, 0))
    two = make_plan(parse("@@ site @@\n-94000002\n-d503201f\n+d503201f\n+d2800000\n"), target)
    assert (two.method, [hazard.name for hazard in two.hazards]) == ("stop", ["return-into-site"])
    assert make_plan(parse("@@ site+4 @@\n-d503201f\n+d2800000\n"), target, profile="2018").method == "stop"


KEY = "@@ site+4 @@\n-d503201f  nop\n+14000001  b .+4\n"


@pytest.mark.parametrize(
    ("data", "guards", "reason"),
    [
        ([Change(DATA, 0, 1)], [(DATA + 4, 0)], "data changes with the code, so all CPUs wait meanwhile"),
        ([], [(DATA, 0)], "data must hold its words while the code changes, so all CPUs wait meanwhile"),
    ],
)
def test_data_makes_all_cpus_wait(data: list[Change], guards: list[tuple[int, int]], reason: str) -> None:
    target = FakeTarget([assemble_one(text) for text in ("bl .+8", "nop", "ret")])
    assert make_plan(parse(KEY), target).method == "kick"
    plan = make_plan(parse(KEY), target, data=data, guards=guards)
    assert (plan.method, plan.reason, plan.data, plan.guards) == ("stop", reason, tuple(data), tuple(guards))
    require_acceptable(plan)
    require_acceptable(plan, sync="stop")
    weaker: tuple[Sync, ...] = ("nosync", "kick")
    for sync in weaker:
        with pytest.raises(PlanError, match=f"--sync {sync} is not safe here: data "):
            require_acceptable(plan, sync=sync)


def test_data_is_written_with_code_only() -> None:
    target = FakeTarget([assemble_one(text) for text in ("bl .+8", "b .+4", "ret")])
    plan = make_plan(parse(KEY), target, data=[Change(DATA, 0, 1)], guards=[(DATA + 4, 0)])
    assert (plan.state, plan.method, plan.data, plan.guards) == (State.APPLIED, None, (), ())


def test_a_plan_with_data_is_asked_about_as_its_code_is() -> None:
    target = FakeTarget([assemble_one(text) for text in ("bl .+8", "nop", "ret")])
    plan = make_plan(parse(KEY), target, data=[Change(DATA, 0, 1)])
    [question] = questions.of_plan(plan, target, questions.Setting())
    assert question.protocol == "stop"
    assert [(site.old, site.new) for site in question.sites] == [((0xD503201F,), (0x14000001,))]


# Refusals


@pytest.mark.parametrize(
    ("data", "guards", "message"),
    [
        ([Change(BASE + 4, 0, 1)], [], "0x1004 is given twice"),
        ([Change(DATA, 0, 1)], [(DATA, 0)], "0x8000 is given twice"),
        ([Change(DATA + 2, 0, 1)], [], "is not at a multiple of 4"),
        ([], [(DATA, -1)], "from 0 to 0xffffffff"),
    ],
)
def test_data_that_is_no_set_with_the_code(data: list[Change], guards: list[tuple[int, int]], message: str) -> None:
    target = FakeTarget([assemble_one(text) for text in ("bl .+8", "nop", "ret")])
    with pytest.raises(RequestError, match=message):
        make_plan(parse(KEY), target, data=data, guards=guards)


@pytest.mark.parametrize(
    ("hunks", "seen"),
    [
        # One half alone; then with other context, and with words between the halves.
        ("@@ 0x1008 @@\n-91004000\n+91008000\n", True),
        ("@@ 0x1008 @@\n-91004000\n+91008000\n d503201f\n", True),
        ("@@ 0x1004 @@\n-b0000000\n+d2800000\n", True),
        ("@@ 0x1000 @@\n d503201f\n-b0000000\n+d2800000\n", True),
        # The other half is context, of this hunk or of another one, or changes too.
        ("@@ 0x1004 @@\n b0000000\n-91004000\n+91008000\n", False),
        ("@@ 0x1000 @@\n-d503201f\n+d2800000\n b0000000\n@@ 0x1008 @@\n-91004000\n+91008000\n", False),
        ("@@ 0x1004 @@\n-b0000000\n+d2800000\n 91004000\n", False),
        ("@@ 0x1004 @@\n-b0000000\n+d2800000\n-91004000\n+91008000\n", False),
    ],
)
def test_half_of_an_address_is_a_hazard_where_the_patch_shows_no_other_half(hunks: str, seen: bool) -> None:
    """A person who sees both halves and changes one means it: another page with the same offset, or the reverse."""
    target = FakeTarget([gen_nop(), 0xB0000000, 0x91004000, gen_nop()])  # adrp x0, 0x2000; add x0, x0, #16
    plan = make_plan(parse(f"a title\n\n{hunks}"), target)
    assert [hazard.name for hazard in plan.hazards] == ["address-pair"] * seen


def refused(
    error: type[A64PatchError], match: str, diff: AsmDiff, target: ElfFile | FakeTarget, fuzz: bool = False
) -> None:
    with pytest.raises(error, match=match) as caught:
        make_plan(diff, target, fuzz=fuzz)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 500


def one(site: str, count: int = 1, old: str = "528000a0") -> AsmDiff:
    return parse(f"Build-Id: {BUILD}\n\n@@ {site} @@\n" + f"-{old}\n+d503201f\n" * count)


@pytest.mark.parametrize(
    ("error", "match", "diff"),
    [
        (SymbolError, "there is no symbol 'gone'", one("gone")),
        (SymbolError, "is not a site", one("a:b:c")),
        (AlignmentError, "not a multiple of 4", one("main+2")),
        (MappingError, r"counter.* does not lie in code; nothing was changed", one("counter")),
        (MappingError, r"0x10 .* does not lie in code", one("0x10")),
        (PlanError, "at work.0x4 reaches 4 bytes beyond work, which has 8; nothing was changed", one("work+0x4", 2)),
        (PlanError, "hunks at main and _start.* overlap at main.*: make them one; nothing was changed",
            parse("@@ main @@\n-d503233f\n+d503201f\n@@ _start+0xc @@\n-d503233f\n+d503201f\n")),
        (PatchFormatError, "line 4, column 2: the word 528000a0 is 'mov w0, #5', but the text 'mov w0, #6'",
            parse(f"Build-Id: {BUILD}\n\n@@ rest @@\n-528000a0  mov w0, #6\n")),
        (PatchFormatError, "line 5: the detour at rest ends with a new instruction: show the instruction",
            parse(f"Build-Id: {BUILD}\n\n@@ rest @@\n 528000a0\n+d503201f\n")),
        (PatchFormatError, "line 2, column 2: the word is still", parse("@@ rest @@\n-????????  mov w0, #5\n")),
        (PlanError, f"for build {OTHER}, but .* is build {BUILD}; --fuzz applies it by meaning; nothing was changed",
            parse(f"Build-Id: {OTHER}\n\n@@ rest @@\n-528000a0\n+d503201f\n")),
    ],
)  # fmt: skip
def test_refusals(build: Build, error: type[A64PatchError], match: str, diff: AsmDiff) -> None:
    target = build()
    before = Path(target.path).read_bytes()
    refused(error, match, diff, target)
    assert Path(target.path).read_bytes() == before


def test_the_words_of_another_patch_are_foreign(build: Build) -> None:
    assert make_plan(one("main"), build()).state is State.FOREIGN


def test_a_target_that_has_no_build_id(build: Build) -> None:
    refused(PlanError, "fake does not tell its build id; --fuzz", one("site"), FakeTarget([1], cpus=0))


def test_two_statics_of_one_name(tmp_path: Path) -> None:
    objects = [
        assemble(f".type same, %function\nsame: mov w0, #{number}\n ret\n.size same, 8\n", tmp_path / f"{number}.o")
        for number in (1, 2)
    ]
    start = assemble(".globl _start\n_start: nop\n", tmp_path / "start.o")
    with ElfFile(link([start, *objects], tmp_path / "program", f"--build-id=0x{BUILD}")) as target:
        refused(
            SymbolError, r"'same' stands for 2 addresses .* is \"2.o\":same\); name one of them", one("same"), target
        )
        twice = parse(f"Build-Id: {BUILD}\n\n@@ _start @@\n-d503201f\n+94000001  bl same\n")
        refused(SymbolError, "2 addresses", AsmDiff(twice.hunks), target)


# By meaning

MOVED = source(before=".rept 6\nnop\n.endr")
DATA_MOVED = source(data=".space 0x3210")


@pytest.mark.parametrize("other", [MOVED, DATA_MOVED])
@pytest.mark.parametrize("identity", [BUILD, ""])
def test_what_moved_is_found_by_name(build: Build, other: str, identity: str) -> None:
    """With --fuzz, and without it when the patch does not say which build it is for."""
    diff = patch(CHANGE, build(), identity)
    target = build(other, OTHER)
    plan = make_plan(diff, target, fuzz=bool(identity))
    assert (plan.state, plan.by_meaning, plan.hunks[0].offset) == (State.TO_DO, True, 0)
    [change] = plan.changes
    assert change == Change(
        target.symbols["main"] + 12, word_at(target, "main+12"), assemble_one("bl rest", change.address, target.symbols)
    )
    apply(plan, target)
    assert make_plan(diff, target, fuzz=True).state is State.APPLIED
    assert word_at(target, "main+12") == change.new


def test_stale_bits_are_not_what_is_compared(build: Build) -> None:
    """All PC-relative words of the hunk differ on the other build, and all are the same by meaning."""
    first, second = build(), build(source(before=".rept 6\nnop\n.endr", data=".space 0x3210"), OTHER)
    other = source(data=".space 0x3210").replace("function work", "function padding\nnop\nend padding\nfunction work")
    third = build(other, OTHER)
    diff = patch(CHANGE, first)
    assert word_at(first, "main+12") != word_at(third, "main+12")
    assert word_at(first, "main+20") != word_at(second, "main+20")
    for target in (second, third):
        assert make_plan(diff, target, fuzz=True).state is State.TO_DO


def test_the_same_bits_that_now_call_another_function_are_foreign(build: Build) -> None:
    first = build()
    swapped = source().replace("function work", "function temporary").replace("end work", "end temporary")
    swapped = swapped.replace("function rest", "function work").replace("end rest", "end work")
    swapped = swapped.replace("function temporary", "function rest").replace("end temporary", "end rest")
    second = build(swapped.replace("bl work", "bl rest"), OTHER)
    assert word_at(first, "main+12") == word_at(second, "main+12")
    diff = patch(CHANGE.replace("bl rest", "nop"), first)
    plan = make_plan(diff, second, fuzz=True)
    assert plan.state is State.FOREIGN
    assert plan.hunks[0].difference.startswith("main+0xc holds 9400")
    assert "(bl rest), not" in plan.hunks[0].difference


def test_code_before_the_hunk_moves_it_within_its_function(build: Build) -> None:
    diff = patch(CHANGE, build())
    target = build(source(inside="mov x19, x0\nmov x20, x1"), OTHER)
    assert make_plan(AsmDiff(diff.hunks), target).state is State.FOREIGN
    plan = make_plan(diff, target, fuzz=True)
    assert (plan.state, plan.hunks[0].offset, plan.hunks[0].address) == (State.TO_DO, 8, target.symbols["main"] + 16)
    assert plan.changes[0].new == assemble_one("bl rest", plan.changes[0].address, target.symbols)
    apply(plan, target)
    again = make_plan(diff, target, fuzz=True)
    assert (again.state, again.hunks[0].offset) == (State.APPLIED, 8)


def test_branches_of_a_moved_hunk_within_its_function(build: Build) -> None:
    diff = patch(
        "@@ main+0x18 @@\n ????????  cbz w2, main+0x20\n-????????  add w0, w0, w2\n+????????  b main+0x20\n"
        " ????????  ldp x29, x30, [sp], #16\n",
        build(),
    )
    target = build(source(inside="mov x19, x0\nmov x20, x1"), OTHER)
    plan = make_plan(diff, target, fuzz=True)
    assert (plan.state, plan.hunks[0].offset, plan.changes[0].new) == (State.TO_DO, 8, assemble_one("b .+4"))


def test_a_hunk_that_fits_twice_is_refused(build: Build) -> None:
    diff = patch("@@ main+0x8 @@\n-????????  mov w0, #5\n+????????  mov w0, #6\n", build())
    target = build(source(inside="mov x19, x0"), OTHER)
    refused(
        PlanError,
        r"the hunk at main\+0x8 fits 2 times \(main\+0xc, rest\): give it more context; nothing was changed",
        diff,
        target,
        fuzz=True,
    )


def test_a_hunk_that_fits_nowhere_is_foreign_where_it_should_be(build: Build) -> None:
    diff = patch(CHANGE, build())
    plan = make_plan(diff, build(source(inside="mov x19, x0", call="_start"), OTHER), fuzz=True)
    assert (plan.state, plan.hunks[0].offset) == (State.FOREIGN, 0)


def test_a_moved_hunk_may_not_reach_out_of_its_function(build: Build) -> None:
    diff = patch("@@ rest @@\n ????????  mov w0, #5\n-????????  ret\n+????????  nop\n", build())
    shorter = source().replace("ret\n    end rest", "end rest\n    ret")
    refused(PlanError, "reaches 4 bytes beyond rest, which has 4", diff, build(shorter, OTHER), fuzz=True)


def test_a_symbol_that_the_other_build_lacks(build: Build) -> None:
    diff = patch(CHANGE, build())
    other = build(source().replace(" rest", " remainder"), OTHER)
    refused(SymbolError, "there is no symbol 'rest'", diff, other, fuzz=True)


def test_a_new_word_whose_meaning_is_not_known(build: Build) -> None:
    first = build()
    diff = patch(CHANGE.replace("bl rest", hex(first.symbols["rest"]).join(["bl ", ""])), first)
    assert make_plan(diff, first).state is State.TO_DO
    refused(PlanError, "on another build is not known", diff, build(MOVED, OTHER), fuzz=True)


# fmt


def test_fill_needs_no_target_for_what_needs_none() -> None:
    made = fill(parse("@@ m:f+0x8 @@\n-????????  b f+0x10\n-d503201f\n+????????  NOP\n 97ffffff\n 97ffffff bl gone\n"))
    assert to_text(made) == (
        "@@ m:f+0x8 -4 +3 @@\n-14000002  b     f+0x10\n-d503201f  nop\n+d503201f  NOP\n"
        " 97ffffff\n 97ffffff  bl    gone\n"
    )
    assert fill(made) == made
    assert [hunk.counted for hunk in made.hunks] == [True]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("-????????", "line 2, column 2: neither word nor text"),
        ("-????????  bl gone", "line 2, column 12: 'bl gone' cannot become a word: there is no symbol"),
        ("-????????  adrp x0, f", "cannot become a word without a target"),
        ("-????????  add x0, x0, :lo12:f", "cannot become a word without a target"),
        ("-????????  bl 0x400000", "must be within"),
        ("-d503201f  yield", "but the text 'yield' is d503203f"),
        ("-94000000  b gone", "but the text 'b gone'"),
    ],
)
def test_what_cannot_be_filled_without_a_target(line: str, match: str) -> None:
    with pytest.raises(PatchFormatError, match=match):
        fill(parse(f"@@ f @@\n{line}\n+d503201f\n"))


def test_fill_with_a_target_finds_words_and_texts(build: Build) -> None:
    target = build()
    made = fill(parse("@@ main+0x8 @@\n ????????\n-????????\n+????????  bl rest\n"), target)
    start = target.symbols["main"]
    new = assemble_one("bl rest", start + 12, target.symbols)
    old = word_at(target, "main+12")
    assert to_text(made) == (
        f"Build-Id: {BUILD}\n\n@@ main+0x8 -2 +2 @@\n 528000a0  mov   w0, #5\n"
        f"-{old:08x}  bl    work\n+{new:08x}  bl    rest\n"
    )
    assert fill(made, target) == made == fill(made)
    with pytest.raises(PatchFormatError, match="neither word nor text"):
        fill(parse("@@ main @@\n-d503233f\n+????????\n"), target)
    with pytest.raises(PatchFormatError, match="cannot become a word: there is no symbol 'gone'"):
        fill(parse("@@ main @@\n-d503233f\n+????????  bl gone\n"), target)
    with pytest.raises(SymbolError, match="no symbol 'gone'"):
        fill(parse("@@ gone @@\n-d503233f\n"), target)
    with pytest.raises(PatchFormatError, match="but the text"):
        fill(parse("@@ main @@\n-d503233f  bl rest\n"), target)


def test_many_hunks_are_planned_in_one_reading(build: Build) -> None:
    class Counting(FakeTarget):
        def read_many(self, requests):  # type: ignore[no-untyped-def]
            self.calls.append("read_many")
            return super().read_many(requests)

    target = Counting(list(range(2000)))
    text = "".join(f"@@ site+{4 * index:#x} @@\n-{index:08x}\n+d503201f\n" for index in range(0, 2000, 2))
    plan = make_plan(parse(text), target)
    assert (plan.state, len(plan.changes)) == (State.TO_DO, 1000)
    assert target.calls.count("read_many") == 2  # the words, and the code around them


def test_a_running_target_that_does_not_tell_its_build_is_not_taken_by_fuzz() -> None:
    machine = FakeTarget([gen_nop()], cpus=2)
    diff = parse(f"Build-Id: 00ff\n\n@@ {BASE:#x} @@\n-d503201f\n+d503203f\n")
    with pytest.raises(PlanError, match=r"nothing tells the build of fake: give --symbols .kallsyms") as refused:
        make_plan(diff, machine)
    assert "--fuzz" not in str(refused.value)

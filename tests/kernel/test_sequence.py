"""The patching functions of Linux, assembled here as Linux has them and with one thing changed, and what is read.

Read on: patching_code.py has the functions; real/test_kernel_sequence.py reads those of Debian's kernel.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch.a64.assembler import assemble
from a64patch.kernel.sequence import MACHINES, read
from a64patch.kernel.walk import Kernel
from a64patch.proof.cases import Site
from a64patch.proof.prove import Proof, Question, Verdict, prove
from a64patch.protocols import KICK, NOSYNC, OTHER, PATCHER, Act, Protocol
from a64patch.targets.symbols import SymbolTable
from tests.kernel.patching_code import FIRST, TEXT, compiled, kernel

COVERED = MACHINES[:3]
RACE = Site(tuple(assemble("nop")), tuple(assemble("b .+8")))
PAIR = Site(tuple(assemble("nop; nop")), tuple(assemble("adr x0, .; b .+8")))
BEHIND_IC = "    dsb ish                 // behind IC\n"
BEHIND_DC = "    dsb ish                 // behind DC\n"


def protocol(found: Kernel, name: str, machine: tuple[bool, bool] = (False, False)) -> Protocol:
    made = read(found).protocols[machine][name]
    assert isinstance(made, Protocol), made
    return made


def proof(found: Kernel, name: str, machine: tuple[bool, bool] = (False, False), site: Site | None = None) -> Proof:
    site = site or (PAIR if name == "stop" else RACE)
    return prove(Question(name, (site,), *machine, custom=protocol(found, name, machine)))


def reason(found: Kernel, name: str, machine: tuple[bool, bool] = (False, False)) -> str:
    """Why the steps are not known; the proof is UNKNOWN then."""
    why = read(found).protocols[machine][name]
    assert isinstance(why, str), why
    answer = prove(Question(name, (RACE,), *machine, unread=why))
    assert (answer.verdict, answer.reason, answer.searches) == (Verdict.UNKNOWN, why, 0)
    return why


def renamed(whole: Kernel, keeps: Callable[[str], bool]) -> Kernel:
    """The kernel with the names that are kept."""
    named = [symbol for symbol in whole.symbols.ascending() if keeps(symbol.name)]
    return Kernel(whole.start, whole.data, SymbolTable(lambda: named))


def steps(made: Protocol, cpu: str) -> str:
    return " ".join(step.name for step in made.steps if step.cpu == cpu)


@pytest.mark.parametrize("machine", COVERED)
def test_linux_own_sequence_has_the_steps_of_our_protocols(tmp_path: Path, machine: tuple[bool, bool]) -> None:
    has = frozenset({"broadcast"} | {name for name, bit in zip(("idc", "dic"), machine, strict=True) if bit})
    found = kernel(tmp_path)
    assert [(step.act, step.cpu) for step in protocol(found, "nosync", machine).steps] == [
        (step.act, step.cpu) for step in NOSYNC.on(has)
    ]
    kick = [step.act for step in protocol(found, "kick", machine).steps]
    ours = [step.act for step in KICK.on(has)]
    assert kick == [Act.ORDER if act is Act.FINISH_STORES and at > 1 else act for at, act in enumerate(ours)]


@pytest.mark.parametrize("machine", COVERED)
@pytest.mark.parametrize("name", ["nosync", "kick", "stop"])
def test_linux_own_sequence_is_safe(tmp_path: Path, name: str, machine: tuple[bool, bool]) -> None:
    assert proof(kernel(tmp_path), name, machine).verdict is Verdict.SAFE


def test_each_word_of_a_stop_is_published_before_the_next_is_written(tmp_path: Path) -> None:
    made = protocol(kernel(tmp_path), "stop")
    one = "store dc dsb-dc ic dsb-ic isb"
    assert steps(made, PATCHER) == f"sgi wait pc-check {one} {one} go"
    assert steps(made, OTHER) == "arrive read-go wait-executor isb-executor"


def test_functions_are_told_with_the_instructions_that_matter(tmp_path: Path) -> None:
    functions = {each.name: each.lines for each in read(kernel(tmp_path)).functions}
    lines = functions["caches_clean_inval_pou"]
    assert [line.partition(" ")[2].partition(":")[0] for line in lines] == [
        "[IDC", "dc cvau, line by line", "dsb ish", "[DIC", "ic ivau, line by line", "dsb ish", "isb",
    ]  # fmt: skip
    assert lines[0].startswith("+0x4 [IDC: dsb ishst; b 0x")
    assert any(line.endswith("bl copy_to_kernel_nofault") for line in functions["__aarch64_insn_write"])
    assert any("ldaddal w0, w0, [x1]" in line for line in functions["aarch64_insn_patch_text_cb"])
    assert any("stlxr w1, w0, [x2]" in line for line in functions["aarch64_insn_patch_text_cb"])


# The CPU that writes


@pytest.mark.parametrize(
    "change",
    [
        FIRST,
        ("    cmp w0, w2              // who writes\n", "    subs w0, w0, #1\n"),
    ],
)  # fmt: skip
def test_a_first_cpu_that_writes_before_the_others_have_come_is_unsafe(tmp_path: Path, change: tuple[str, str]) -> None:
    found = kernel(tmp_path, change)
    assert "wait" not in steps(protocol(found, "stop"), PATCHER).split()
    answer = proof(found, "stop")
    assert answer.verdict is Verdict.UNSAFE
    assert "P1" in answer.broken
    assert answer.counterexample is not None


def test_the_number_of_cpus_needs_no_name(tmp_path: Path) -> None:
    """Without CONFIG_KALLSYMS_ALL, which variable it is must be assumed."""
    whole = kernel(tmp_path)
    variable = whole.symbols["__num_online_cpus"]
    found = read(renamed(whole, lambda name: name != "__num_online_cpus"))
    assert f"the word at {variable:#x}, which the file does not name, is __num_online_cpus" in found.assumed
    assert isinstance(found.protocols[False, False]["stop"], Protocol)


def test_a_table_of_alternatives_is_found_without_its_name(tmp_path: Path) -> None:
    whole = kernel(tmp_path)
    nameless = renamed(whole, lambda name: "alt_instr" not in name and "jump_table" not in name)
    assert read(nameless).protocols == read(whole).protocols


# Barriers


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ((BEHIND_DC, ""), {"P2"}),
        ((BEHIND_IC, ""), {"P2"}),
        ((BEHIND_IC, BEHIND_IC.replace("dsb", "dmb")), {"P2"}),
        ((BEHIND_DC, BEHIND_DC.replace("dsb", "dmb")), {"P2"}),
        ((BEHIND_IC, BEHIND_IC.replace("ish ", "nsh ")), {"P2"}),
        ((BEHIND_DC, BEHIND_DC.replace("ish ", "nsh ")), {"P2"}),
        (("    isb                     // of the patcher\n", ""), {"P2"}),
        (("1:  dc cvau, x2", "1:  nop"), {"P2"}),
        (("3:  ic ivau, x3", "3:  nop"), {"P2"}),
    ],
)
def test_a_barrier_or_maintenance_that_is_missing_or_another_is_unsafe(
    tmp_path: Path, change: tuple[str, str], broken: set[str]
) -> None:
    answer = proof(kernel(tmp_path, change), "nosync")
    assert answer.verdict is Verdict.UNSAFE
    assert set(answer.broken) == broken


def test_a_wider_barrier_is_safe(tmp_path: Path) -> None:
    found = kernel(tmp_path, (BEHIND_IC, "    dsb sy\n"))
    assert [step.text for step in protocol(found, "nosync").steps if step.text] == ["dsb sy"]
    assert proof(found, "nosync").verdict is Verdict.SAFE


def test_a_missing_isb_of_the_waiting_cpus_is_unsafe(tmp_path: Path) -> None:
    found = kernel(tmp_path, ("    isb                     // of the others\n", ""))
    answer = proof(found, "stop")
    assert answer.verdict is Verdict.UNSAFE
    assert "P2" in answer.broken


@pytest.mark.parametrize(
    ("change", "machine"),
    [
        ((".Lfor_idc: dsb ishst        // for IDC", ".Lfor_idc: nop"), (True, False)),
        ((".Lfor_idc: dsb ishst        // for IDC", ".Lfor_idc: dmb ishst"), (True, True)),
        ((".Lfor_dic: isb              // for DIC", ".Lfor_dic: nop"), (True, True)),
    ],
)
def test_an_alternative_without_its_barrier_is_unsafe_on_its_machine(
    tmp_path: Path, change: tuple[str, str], machine: tuple[bool, bool]
) -> None:
    found = kernel(tmp_path, change)
    assert proof(found, "nosync").verdict is Verdict.SAFE
    assert proof(found, "nosync", machine).verdict is Verdict.UNSAFE


# What is not recognised


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("    bti c\n", "    tlbi vmalle1is\n"), "`tlbi vmalle1is` at caches_clean_inval_pou"),
        (("    bti c\n", "    .inst 0x00000001\n"), "at caches_clean_inval_pou is not known here"),
        (("    bti c\n", "    str x2, [x0]\n"), "stores to memory that is not known here"),
        (("    bti c\n", "    br x3\n"), "`br x3` at caches_clean_inval_pou is not known here"),
        (("    bti c\n", "    blr x3\n"), "`blr x3` at caches_clean_inval_pou is not known here"),
        (("    bti c\n", "    dc civac, x0\n"), "is maintenance that the models do not cover"),
        (("    bti c\n", "    msr daifset, #2\n    b .\n"), "has no ways to do this, not one"),
        (("    b.lo 1b\n", "    b.ne 1b\n"), "does not end a loop over all lines of the word"),
        (("    cmp x2, x3\n", "    cmp x2, x4\n"), "does not end a loop over all lines of the word"),
        (("    bic x2, x2, x5\n", "    bic x2, x4, x5\n"), "does not end a loop over all lines of the word"),
        (("    add x1, x19, #4         // the end\n", "    mov x1, x19\n"), "does not end a loop over all lines"),
        (("    mov x0, x19\n    add x1", "    add x0, x19, #64\n    add x1"), "is not known to begin at the line"),
        (("    bl copy_to_kernel_nofault\n", "    nop\n"), "aarch64_insn_patch_text_nosync has no ways to do this"),
    ],
)  # fmt: skip
def test_an_unknown_instruction_is_unknown_and_never_safe(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    found = kernel(tmp_path, change)
    assert said in reason(found, "nosync")
    assert reason(found, "kick") == reason(found, "nosync")
    assert reason(found, "stop")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("    b.ls 2b                 // waits\n", ""), "does not let the other CPUs wait once"),
        (("    b.ls 2b                 // waits\n", "    b.lt 2b\n"), "waits for a number that is not known here"),
        (("    b.ls 2b                 // waits\n", "    b.hs 2b\n"), "waits for a number that is not known here"),
        (("    stadd w1, [x2]          // lets go\n", ""), "and then let the others go"),
        (("    stadd w1, [x2]          // lets go\n", "    str w1, [x2]\n"), "stores to memory that is not known"),
        (("    add x2, x19, #20\n    stadd", "    add x2, x19, #24\n    stadd"), "counts in another word than before"),
        (("    mov w0, #1\n    add x1, x19", "    mov w0, #2\n    add x1, x19"), "adds a number that is not known"),
        (("    cmp w0, w2              // who writes\n", "    cmp w0, w3\n"), "compares the counter with a number"),
        (("    cmp w0, w2              // who writes\n", "    cmp w3, w2\n"), "before it asks which one this is"),
        (("    stlxr w1, w0, [x2]\n", "    stlxr w1, w0, [x3]\n"), "is no part of an increment"),
        (("    add w0, w0, #1\n    stlxr", "    add w0, w0, #2\n    stlxr"), "is no part of an increment"),
        (("    bl stop_machine_cpuslocked\n", "    nop\n"), "does not hand aarch64_insn_patch_text_cb to stop_machine"),
        (("    adrp x0, aarch64_insn_patch_text_cb\n", ""), "does not hand aarch64_insn_patch_text_cb"),
    ],
)  # fmt: skip
def test_a_stop_of_another_kind_is_unknown_and_never_safe(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    found = kernel(tmp_path, change)
    assert said in reason(found, "stop")
    assert proof(found, "nosync").verdict is Verdict.SAFE


def test_a_shadow_call_stack_is_memory_of_the_task_alone(tmp_path: Path) -> None:
    """As Ubuntu's kernels are built: X18 points to it. A store by X18 of anything else is not known."""
    push, pop = "str x30, [x18], #8", "ldr x30, [x18, #-8]!"
    entry, end = "    stp x29, x30, [sp, #-32]!\n    str x19, [sp, #16]\n", "    ldp x29, x30, [sp], #32\n    ret\n"
    whole = kernel(
        tmp_path, (entry, f"    {push}\n{entry}"), (end, f"    ldp x29, x30, [sp], #32\n    {pop}\n    ret\n")
    )
    assert proof(whole, "nosync").verdict is Verdict.SAFE
    assert "X18 points to the task's own stack of return addresses" in read(whole).assumed
    assert "X18" not in " ".join(read(kernel(tmp_path)).assumed)
    other = kernel(tmp_path, (entry, f"    str x19, [x18], #8\n{entry}"))
    assert "`str x19, [x18], #8`" in reason(other, "nosync")


def test_another_variable_than_the_number_of_cpus_is_unknown(tmp_path: Path) -> None:
    text = TEXT.replace("__num_online_cpus", "nr_cpu_ids").replace("nr_cpu_ids:", "__num_online_cpus: nr_cpu_ids:")
    found = renamed(kernel(tmp_path, text=text), lambda name: name != "__num_online_cpus")
    assert "compares with nr_cpu_ids, not with __num_online_cpus" in reason(found, "stop")


def test_a_kick_of_another_kind_is_unknown(tmp_path: Path) -> None:
    found = kernel(tmp_path, ("    bl smp_call_function_many_cond\n", "    nop\n"))
    assert "kick_all_cpus_sync has no ways" in reason(found, "kick")


@pytest.mark.parametrize("machine", [(True, False), (True, True)])
def test_a_machine_whose_alternative_was_not_found_is_unknown(tmp_path: Path, machine: tuple[bool, bool]) -> None:
    found = kernel(tmp_path, ("    .word .Lidc - ., .Lfor_idc - .", "    .word .Ldic - ., .Lfor_dic - ."))
    assert "no alternative for IDC=1 was found" in reason(found, "nosync", machine)
    assert proof(found, "nosync").verdict is Verdict.SAFE


def test_an_alternative_for_something_else_is_left_out_and_told(tmp_path: Path) -> None:
    entry = "    .word .Lcvau - ., .Lcivac - .\n    .hword 3\n    .byte 4, 4\n"
    changes = [
        ("1:  dc cvau, x2", ".Lcvau:\n1:  dc cvau, x2"),
        ("alternatives:\n", "alternatives:\n.Lcivac: dc civac, x2\n"),
        ("    .word .Lidc", f"{entry}    .word .Lidc"),
    ]
    found = read(kernel(tmp_path, *changes))
    assert "the alternative of capability 3 at caches_clean_inval_pou+0x2c: dc civac, x2" in found.left_out
    assert isinstance(found.protocols[False, False]["nosync"], Protocol)


def test_a_kernel_without_the_functions_is_unknown(tmp_path: Path) -> None:
    found = renamed(kernel(tmp_path), lambda name: False)
    assert reason(found, "nosync") == "the kernel names no one function aarch64_insn_patch_text_nosync"


# Input that nobody made with care


def test_many_ways_are_given_up(tmp_path: Path) -> None:
    forks = "".join("    cbz x2, .+8\n    nop\n" for _ in range(60))
    found = kernel(tmp_path, ("    bti c\n", forks))
    assert "too many ways" in reason(found, "nosync")


def test_functions_that_call_each_other_without_end_are_given_up(tmp_path: Path) -> None:
    endless = "do_nothing:\n    bl do_nothing\n    ret\nleap:\n    b back\nback:\n    b leap\n"
    endless = "do_nothing:\n    bl do_nothing\n    ret\nleap:\n    b back\nback:\n    b leap\n"
    round_trip = ("do_nothing:\n    ret\n", endless)
    calls = kernel(tmp_path, round_trip, ("    bti c\n", "    bl do_nothing\n"))
    assert "calls a function that cannot be followed" in reason(calls, "nosync")
    leaps = kernel(tmp_path, round_trip, ("    bti c\n", "    b leap\n"))
    assert "too many ways" in reason(leaps, "nosync")


@pytest.mark.parametrize("address", [0, 0x3FFFF0, (1 << 64) - 8])
def test_a_function_outside_the_image_is_unknown(tmp_path: Path, address: int) -> None:
    whole = kernel(tmp_path)
    moved = [
        symbol._replace(address=address) if symbol.name == "aarch64_insn_patch_text_nosync" else symbol
        for symbol in whole.symbols.ascending()
    ]
    found = Kernel(whole.start, whole.data, SymbolTable(lambda: moved))
    assert "aarch64_insn_patch_text_nosync at" in reason(found, "nosync")
    assert "is not in the Image" in reason(found, "kick")


def test_random_changes_never_raise_nor_add_steps(tmp_path: Path) -> None:
    """Whatever is read, a word that the walk needs and does not know is a sentence."""
    whole = kernel(tmp_path)
    chosen = random.Random(4)
    for _ in range(50):
        data = bytearray(whole.data)
        for _ in range(chosen.randint(1, 4)):
            data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        for protocols in read(Kernel(whole.start, bytes(data), whole.symbols)).protocols.values():
            for made in protocols.values():
                assert made if isinstance(made, str) else len(made.steps) < 40


# Found by changing the walk


def test_maintenance_of_another_word_is_unknown(tmp_path: Path) -> None:
    own = "    mov x0, x19\n    add x1, x19, #4         // the end\n"
    found = kernel(tmp_path, (own, own.replace("x19", "x21")))
    assert "is not about the word that was written" in reason(found, "nosync")


def test_a_barrier_that_only_the_last_word_of_a_stop_has_is_unknown(tmp_path: Path) -> None:
    found = kernel(tmp_path, ("8:  mov w1, #1\n", "8:  dmb ish\n    mov w1, #1\n"))
    assert "does not do the same for each word" in reason(found, "stop")


def test_a_wait_for_another_unnamed_variable_is_unknown(tmp_path: Path) -> None:
    other = "    adrp x2, __num_online_cpus\n    ldr w0, [x2, :lo12:__num_online_cpus]\n"
    whole = kernel(
        tmp_path, (other, other.replace("w0, [x2, :lo12:__num_online_cpus]", "w0, [x2, :lo12:__num_online_cpus+4]"))
    )
    found = renamed(whole, lambda name: name != "__num_online_cpus")
    assert "compares with another variable than before" in reason(found, "stop")


def test_a_branch_of_a_static_key_goes_both_ways(tmp_path: Path) -> None:
    """Before 6.2 a static key chose the code for LSE atomics."""
    callback = "    .word .Llse - ., do_nothing - .\n    .hword 5\n    .byte 4, 0\n"
    found = kernel(
        tmp_path,
        (callback, ""),
        ("5:  add x2, x0, #20\n", ".Lother:\n5:  add x2, x0, #20\n"),
        ("__start___jump_table:\n", "__start___jump_table:\n    .word .Llse - ., .Lother - .\n    .quad 0\n"),
    )
    functions = {each.name: each.lines for each in read(found).functions}
    assert any("ldaddal w0, w0, [x1]" in line for line in functions["aarch64_insn_patch_text_cb"])
    assert any("stlxr w1, w0, [x2]" in line for line in functions["aarch64_insn_patch_text_cb"])
    broken = kernel(
        tmp_path,
        (callback, ""),
        ("5:  add x2, x0, #20\n", ".Lother:\n5:  add x2, x0, #20\n"),
        ("__start___jump_table:\n", "__start___jump_table:\n    .word .Llse - ., .Lother - .\n    .quad 0\n"),
        ("    ldaddal w0, w0, [x1]\n", "    nop\n"),
    )
    assert "does not count the CPUs" in reason(broken, "stop")


@pytest.mark.parametrize("atomics", ["-DLSE", "-ULSE"])
@pytest.mark.parametrize("optimised", ["-O1", "-O2", "-Os"])
@pytest.mark.parametrize(
    ("writer", "verdict"), [("-DWRITER=1", Verdict.UNSAFE), ("-DWRITER=__num_online_cpus", Verdict.SAFE)]
)
def test_a_callback_is_read_as_gcc_compiles_it(
    tmp_path: Path, atomics: str, optimised: str, writer: str, verdict: Verdict
) -> None:
    found = kernel(tmp_path, text=compiled(tmp_path, atomics, optimised, writer))
    assert proof(found, "stop").verdict is verdict

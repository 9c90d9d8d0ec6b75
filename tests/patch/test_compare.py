"""Two builds make a patch that turns the functions of one into those of the other.

The programs are built by GNU binutils, and by gcc for the tests of a real one; qemu-aarch64 says what they do.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from a64patch.a64.assembler import assemble_one
from a64patch.a64.disassembler import disassemble
from a64patch.a64.effects import effects_of
from a64patch.a64.names import parse_site
from a64patch.a64.references import reference
from a64patch.a64.row import Flow
from a64patch.a64.words import from_bytes, to_bytes
from a64patch.errors import PlanError
from a64patch.patch.asmdiff import AsmDiff, Hunk, Line, parse, reverse, to_text
from a64patch.patch.compare import Comparison, compare
from a64patch.patch.plan import State, fill, make_plan
from a64patch.patch.text import patch_text
from a64patch.targets.elf import ElfFile
from a64patch.targets.symbols import Symbol
from tests.a64.test_effects import ROWS, words_of
from tests.patch.fake import BASE, FakeTarget
from tests.support import assemble, link, need, run

Build = Callable[..., Path]


def compared(old: Path, new: Path) -> Comparison:
    with ElfFile(old) as one, ElfFile(new) as other:
        found = compare(one, other)
    if found.diff.hunks:
        assert parse(to_text(found.diff)) == found.diff
    return found


def apply(diff: AsmDiff, path: Path, *, fuzz: bool = False) -> list[int]:
    """Carry the patch out; the offsets that its hunks were found at."""
    with ElfFile(path) as target:
        plan = make_plan(diff, target, fuzz=fuzz)
        assert plan.state is State.TO_DO, [hunk.difference for hunk in plan.hunks]
        changes = plan.changes
        patch_text(target, [c.address for c in changes], [c.new for c in changes], expected=[c.old for c in changes])
        return [hunk.offset for hunk in plan.hunks]


def code(path: Path, name: str) -> bytes:
    with ElfFile(path) as target:
        site = parse_site(name)
        assert site is not None
        symbol = target.symbols.find(site.name, site.owner)
        return target.read(symbol.address, symbol.size)


# Assembled programs

SOURCE = """
    .macro function name
    .type \\name, %function
\\name:
    .endm
    .macro end name
    .size \\name, . - \\name
    .endm
    .globl _start
    function _start
    bl work
    adrp x1, counter
    ldr w2, [x1, :lo12:counter]
    ret
    end _start
    function work
    mov w0, #1
    add w0, w0, #1
    add w0, w0, #1
    add w0, w0, #1
    add w0, w0, #1
    add w0, w0, #1
    add w0, w0, #1
    add w0, w0, #1
    add w0, w0, #1
    mov w3, #2
    ret
    end work
    function other
    ret
    end other
    .section .rodata, "a"
    .skip 64
    .data
    .type counter, %object
counter: .word 7
    .size counter, 4
    .type second, %object
second: .word 8
    .size second, 4
"""


@pytest.fixture
def build(tmp_path: Path) -> Build:
    numbers = iter(range(99))

    def make(*replacements: tuple[str, str]) -> Path:
        text = SOURCE
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / f"{next(numbers)}"
        return link(assemble(text, path.with_suffix(".o")), path, "--build-id=0x0011")

    return make


MOVED = ("function work", ".skip 36\nfunction work")
DATA_MOVED = ("counter: .word 7", ".skip 0x1240\ncounter: .word 7")


def test_equal_builds_have_no_difference(build: Build) -> None:
    assert compared(build(), build()) == Comparison(AsmDiff((), (), (("Target", "0"), ("Build-Id", "0011"))), ())


def test_what_only_moved_is_no_difference(build: Build) -> None:
    found = compared(build(), build(MOVED, DATA_MOVED))
    assert (found.diff.hunks, found.not_expressed) == ((), ())


def test_changes_with_context_near_ones_together(build: Build) -> None:
    old, new = build(), build(("mov w0, #1", "mov w0, #9"), ("mov w3, #2", "mov w3, #3"), MOVED)
    found = compared(old, new)
    assert to_text(found.diff) == (
        "Target: 0\nBuild-Id: 0011\nHunks: 2\n\n"
        "@@ work -4 +4 @@\n-52800020  mov   w0, #1\n+52800120  mov   w0, #9\n"
        + " 11000400  add   w0, w0, #1\n" * 3
        + "\n@@ work+0x18 -5 +5 @@\n" + " 11000400  add   w0, w0, #1\n" * 3
        + "-52800043  mov   w3, #2\n+52800063  mov   w3, #3\n d65f03c0  ret\n"
    )  # fmt: skip
    near = compared(old, build(("mov w3, #2", "mov w3, #3"), ("    add w0, w0, #1\n    mov w3", "    nop\n    mov w3")))
    assert len(near.diff.hunks) == 1
    before = old.read_bytes()
    apply(found.diff, old)
    assert code(old, "work") == code(new, "work")
    assert compared(old, new).diff.hunks == ()
    apply(reverse(found.diff), old)
    assert old.read_bytes() == before


@pytest.mark.parametrize("elsewhere", [(), (MOVED, DATA_MOVED)])
def test_references_are_shown_and_translated_by_name(build: Build, elsewhere: tuple[tuple[str, str], ...]) -> None:
    old = build()
    changes = [("bl work", "bl other"), ("adrp x1, counter", "adrp x1, second"), (":lo12:counter", ":lo12:second")]
    found = compared(old, build(*changes, *elsewhere))
    lines = [(line.sign, line.text) for line in found.diff.hunks[0].lines if line.sign != "-"]
    assert found.not_expressed == ()
    assert ("+", "bl other") in lines
    assert ("+", "ldr w2, [x1, :lo12:second]") in lines
    apply(found.diff, old)
    assert code(old, "_start") == code(build(*changes), "_start")


def test_the_same_bits_for_another_function_are_a_difference(build: Build) -> None:
    names = [("function work", "function x"), ("end work", "end x"), ("function other", "function work")]
    names += [
        ("end other", "end work"),
        ("function x", "function other"),
        ("end x", "end other"),
        ("bl work", "bl other"),
    ]
    found = compared(build(), build(*names))
    assert [(line.sign, line.text) for line in found.diff.hunks[0].lines[:2]] == [("-", "bl work"), ("+", "bl other")]


@pytest.mark.parametrize(
    ("replacements", "sentence"),
    [
        ([("function other", "function renamed"), ("end other", "end renamed")], "other is in OLD only"),
        ([("function other", "function renamed"), ("end other", "end renamed")], "renamed is in NEW only"),
        ([("mov w3, #2", "mov w3, #2\nnop")], "work has 44 bytes in OLD and 48 in NEW"),
        ([("end other", "end other\nfunction other2\nret\nend other2"), ("bl work", "bl other2")],
            "_start: _start refers in NEW to other2, which OLD has not once"),
        ([("bl work", "bl 0x400028")], "_start: _start refers in NEW to 0x"),
        ([(":lo12:counter", "0")], "_start: _start+0x8 refers in NEW to 0x"),
    ],
)  # fmt: skip
def test_what_cannot_be_expressed_is_listed(build: Build, replacements: list[tuple[str, str]], sentence: str) -> None:
    found = compared(build(), build(*replacements, MOVED))
    assert any(each.startswith(sentence) for each in found.not_expressed), found.not_expressed
    assert found.diff.hunks == ()


APART = ("second: .word 8", ".skip 0x1240\nsecond: .word 8")
TWIN = "end other\n.type twin, %function\n"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            [APART],
            [("ret\n    end _start", "ldr w3, [x1, :lo12:second]\n    end _start")],
            "_start: _start+0xc and _start+0x4 need different pages in OLD",
        ),
        (
            [],
            [("bl work", "bl work+4"), ("mov w3, #2", "mov w3, #2\nnop")],
            "_start: _start refers in NEW to work+0x4, and in OLD work has another size",
        ),
        (
            [],
            [("bl work\n    adrp x1, counter\n", "adrp x1, counter\n    bl work\n")],
            "_start: _start refers in NEW to a page, and its address in the page is not known",
        ),
        (
            [("end other", TWIN + ".set twin, other\n.size twin, 4")],
            [("end other", TWIN + "twin: ret\n.size twin, 4")],
            "twin is one with another function in OLD, and not in NEW",
        ),
    ],
)
def test_what_would_be_expressed_wrongly_is_listed(
    build: Build, old: list[tuple[str, str]], new: list[tuple[str, str]], sentence: str
) -> None:
    found = compared(build(*old), build(*new, MOVED))
    assert sentence in found.not_expressed
    assert found.diff.hunks == ()


def test_a_function_inside_another_is_compared_once(build: Build) -> None:
    inner = ".type inner, %function\ninner: mov w3, #{}\n.size inner, 4"
    old, new = (build(("mov w3, #2", inner.format(number))) for number in (2, 3))
    found = compared(old, new)
    assert (len(found.diff.hunks), found.not_expressed) == (1, ())
    apply(found.diff, old)
    assert code(old, "work") == code(new, "work")


def program_of(folder: Path, name: str, *files: tuple[str, str]) -> Path:
    """A program of one object for each file: the name of its source file, or "" for none, and its code."""
    objects = [
        assemble((f'.file "{file}"\n' if file else "") + source, folder / f"{number}.o")
        for number, (file, source) in enumerate(files)
    ]
    return link(objects, folder / name)


def static(value: int, *, name: str = "same", data: int = 0, size: int = 2) -> str:
    """A static function, an equal static variable, and a global function that uses both."""
    return f"""
        .type {name}, %function
        {name}: mov w0, #{value}
        {"nop;" * (size - 2)} ret
        .size {name}, . - {name}
        .globl use{data}
        .type use{data}, %function
        use{data}: bl {name}
        adrp x1, counter
        ldr w0, [x1, :lo12:counter]
        ret
        .size use{data}, . - use{data}
        .data
        .type counter, %object
        counter: .word {data}
        .size counter, 4
        .text
        """


START = ("start.c", ".globl _start\n.type _start, %function\n_start: bl use1\n.size _start, 4\n")


@pytest.mark.parametrize(
    ("files", "site"),
    [
        (("a.c", "b.c"), "b.c:same"),
        (("b.c", "a.c"), "a.c:same"),  # the order in NEW is that of OLD, the names are not
        (("", ""), '"2.o":same'),  # GNU ld takes the object's name
        (("dir/a b.c", "a.c"), "a.c:same"),
        (("a.c", "dir/a b.c"), '"dir/a b.c":same'),
    ],
)
def test_static_functions_of_one_name(tmp_path: Path, files: tuple[str, str], site: str) -> None:
    def make(name: str, value: int) -> Path:
        return program_of(tmp_path, name, START, (files[0], static(1, data=1)), (files[1], static(value, data=2)))

    old, same, new = make("old", 2), make("same", 2), make("new", 3)
    assert compared(old, same) == compare_of_nothing(old)
    found = compared(old, new)
    assert ([hunk.site for hunk in found.diff.hunks], found.not_expressed) == ([site], ())
    apply(found.diff, old)
    assert code(old, site) == code(new, site)


def compare_of_nothing(old: Path) -> Comparison:
    """The comparison of a program with one that has no differences."""
    with ElfFile(old) as one, ElfFile(old) as other:
        return compare(one, other)._replace(not_expressed=())


def test_static_functions_are_paired_by_file_wherever_they_are(tmp_path: Path) -> None:
    """In NEW the files are linked in another order, and a further one is first: calls and variables follow."""
    one, other = ("a.c", static(1, data=1)), ("b.c", static(2, data=2))
    old = program_of(tmp_path, "old", START, one, other)
    new = program_of(tmp_path, "new", START, ("c.c", static(5, data=3)), ("b.c", static(4, data=2)), one)
    found = compared(old, new)
    assert [hunk.site for hunk in found.diff.hunks] == ["b.c:same"]
    assert found.not_expressed == ("c.c:same is in NEW only", "use3 is in NEW only")
    assert compared(new, old).not_expressed == ("c.c:same is in OLD only", "use3 is in OLD only")
    assert apply(found.diff, old) == [0]
    assert code(old, "b.c:same") == code(new, "b.c:same")


def test_static_functions_whose_file_is_renamed_are_paired_by_order(tmp_path: Path) -> None:
    """Variables are not: a wrong pair of functions is seen in the patch, and data is not compared."""
    old = program_of(tmp_path, "old", START, ("a.c", static(1, data=1)), ("b.c", static(2, data=2)))
    new = program_of(tmp_path, "new", START, ("a2.c", static(7, data=1)), ("b.c", static(2, data=2)))
    found = compared(old, new)
    assert [hunk.site for hunk in found.diff.hunks] == ["a.c:same"]
    assert found.not_expressed == ("use1: use1+0x8 refers in NEW to one of several counter",)


def test_static_functions_of_two_files_of_one_name_are_paired_by_order(tmp_path: Path) -> None:
    def make(name: str, *values: int) -> Path:
        files = [("a.c", static(value, data=number)) for number, value in enumerate(values, 1)]
        return program_of(tmp_path, name, START, *files)

    old, new, more = make("old", 1, 2), make("new", 1, 3), make("more", 1, 2, 3)
    with ElfFile(old) as target:
        places = sorted(symbol.address for symbol in target.symbols.named("same", "a.c"))
    found = compared(old, new)
    assert [hunk.site for hunk in found.diff.hunks] == [f"{places[1]:#x}"]
    apply(found.diff, old)
    assert "same stands for 2 functions in OLD and 3 in NEW" in compared(old, more).not_expressed


def test_a_static_function_of_another_size_is_named_with_its_file(tmp_path: Path) -> None:
    old = program_of(tmp_path, "old", START, ("a.c", static(1, data=1)), ("b.c", static(2, data=2)))
    new = program_of(tmp_path, "new", START, ("a.c", static(1, data=1)), ("b.c", static(2, data=2, size=3)))
    assert compared(old, new).not_expressed == ("b.c:same has 8 bytes in OLD and 12 in NEW",)


def test_a_patch_of_a_static_function_applies_by_meaning(tmp_path: Path) -> None:
    """The third build has the files at other addresses, and a change in front of the patched word."""
    one, other = ("a.c", static(1, data=1)), ("b.c", static(2, data=2))
    old = program_of(tmp_path, "old", START, one, other)
    lines = compared(old, program_of(tmp_path, "new", START, one, ("b.c", static(3, data=2)))).diff.hunks[0].lines
    call = Hunk("use1", (Line("-", None, "bl a.c:same"), Line("+", None, "bl b.c:same")))
    with ElfFile(old) as target:
        diff, calls = (fill(AsmDiff((hunk,)), target) for hunk in (Hunk("b.c:same", lines), call))
    third = program_of(tmp_path, "third", START, other, ("c.c", static(9, data=3)), one)
    assert apply(diff, third, fuzz=True) == apply(calls, third) == [0]
    with ElfFile(third) as target:
        call_at = target.symbols["use1"]
        assert target.symbols.describe(target.symbols.resolve("b.c:same")) == "b.c:same"
        [word] = from_bytes(target.read(call_at, 4))
        assert disassemble(word, call_at, target.symbols) == "bl b.c:same"
    assert code(third, "b.c:same")[:4] == to_bytes([assemble_one("mov w0, #3")])


def test_relocatable_files(tmp_path: Path) -> None:
    text = ".type f, %function\nf: mov w0, #1\n bl g\n adrp x0, h\n add x0, x0, :lo12:h\n ret\n.size f, . - f\n"
    old, new = assemble(text, tmp_path / "old.o"), assemble(text.replace("#1", "#2"), tmp_path / "new.o")
    found = compared(old, new)
    assert found.not_expressed == ()
    assert [line.sign for line in found.diff.hunks[0].lines] == ["-", "+", " ", " ", " "]
    apply(found.diff, old)
    assert old.read_bytes() == new.read_bytes()
    other = compared(new, assemble(text.replace("bl g", "bl k"), tmp_path / "other.o"))
    assert other.not_expressed == (
        ".text:f: f+0x4 belongs to R_AARCH64_CALL26 against g in OLD and R_AARCH64_CALL26 against k in NEW",
    )


# Registers that hold a page, and are written


class Program(FakeTarget):
    """The function `f`, and the object `counter` at any address."""

    def __init__(self, words: Sequence[int], counter: int) -> None:
        super().__init__(words)
        self.name(Symbol("f", BASE, 4 * len(words), is_function=True), Symbol("counter", counter, 64))


OLD_COUNTER, NEW_COUNTER = 0x10000, 0x25008


def program(counter: int, register: str, between: int, offset: int) -> Program:
    """`counter` is loaded, and after one more word something at an offset from the register that held its page."""
    texts = (f"adrp {register}, {counter & ~0xFFF}", f"ldr w29, [{register}, :lo12:{counter}]")
    words = [assemble_one(text, BASE) for text in texts]
    return Program([*words, between, assemble_one(f"ldr w29, [{register}, #{offset}]")], counter)


@pytest.mark.parametrize(
    ("register", "text"),
    [
        ("x3", "casp x2, x3, x4, x5, [x6]"),
        ("x3", "rcwcasp x2, x3, x4, x5, [x6]"),
        ("x3", "swpp x2, x3, [x6]"),
        ("x2", "ldclrp x2, x3, [x6]"),
        ("x3", "ldsetpal x2, x3, [x6]"),
        ("x9", "ld64b x2, [x6]"),
        ("x3", "mrrs x2, x3, ttbr0_el1"),
        ("x2", "mrrs x2, x3, ttbr0_el1"),
        ("x3", "ldxp x2, x3, [x6]"),
        ("x3", "ldp x2, x3, [x6]"),
        ("x3", "stxp w3, x4, x5, [x6]"),
        ("x3", "st64bv x3, x8, [x6]"),
        ("x3", "st1 {v0.16b}, [x3], #16"),
        ("x3", "stilp x4, x5, [x3, #-16]!"),
        ("x3", "cpyfp [x2]!, [x3]!, x4!"),
        ("x4", "setp [x2]!, x4!, x3"),
        ("x16", "chkfeat x16"),
        ("x3", "sysl x3, #0, c7, c0, #0"),
    ],
)
def test_a_register_that_another_instruction_writes_holds_no_page(register: str, text: str) -> None:
    word = assemble_one(text)
    old, new = (program(counter, register, word, 16) for counter in (OLD_COUNTER, NEW_COUNTER))
    assert (compare(old, new).diff.hunks, compare(old, new).not_expressed) == ((), ())
    # 16 bytes into `counter`, if it were one of its addresses: what differs is a number.
    changed = compare(old, program(NEW_COUNTER, register, word, 48))
    assert [(line.sign, line.text) for line in changed.diff.hunks[0].lines[-2:]] == [
        ("-", f"ldr w29, [{register}, #16]"), ("+", f"ldr w29, [{register}, #48]")
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["setp [x2]!, x4!, x3", "stxp w1, x3, x5, [x6]", "msrr ttbr0_el1, x2, x3", "ret x3"])
def test_a_register_that_is_only_read_still_holds_its_page(text: str) -> None:
    word = assemble_one(text)
    old, new = program(OLD_COUNTER, "x3", word, 16), program(NEW_COUNTER, "x3", word, 24)
    assert (compare(old, new).diff.hunks, compare(old, new).not_expressed) == ((), ())


def test_every_register_that_a_row_writes_holds_no_page() -> None:
    seen = 0
    for row in ROWS:
        if reference(row) is not None or row.flow is Flow.CALL:
            continue
        for word in words_of(row, 1):
            found = effects_of(word)
            assert found is not None
            for register in found.writes & {f"x{number}" for number in range(29)}:
                seen += 1
                old, new = (program(counter, register, word, 16) for counter in (OLD_COUNTER, NEW_COUNTER))
                comparison = compare(old, new)
                assert (comparison.diff.hunks, comparison.not_expressed) == ((), ()), (row.name, register)
    assert seen > 1000


# Code outside of functions

OUTSIDE = """
    .text
    .type _start, %function
_start:
    bl work
    bl label
    bl untyped
    ret
    .size _start, . - _start
    {pad}
    .type work, %function
work:
    mov w0, #1
    ret
    .size work, . - work
    .balign 16
    mov x9, #9
    bl work
    ret
    nop
label:
    mov x1, #1
    bl work
    adrp x2, value
    add x2, x2, :lo12:value
    ret
    .balign 32
    .type untyped, %function
untyped:
    mov x3, #3
    b untyped
    {more}
    .data
value: .word 1
    .type value, %object
    .size value, 4
"""


def outside(path: Path, *replacements: tuple[str, str], kind: str = "linked", **parts: str) -> Path:
    text = OUTSIDE.format(**({"pad": "", "more": ""} | parts))
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    made = assemble(text, path.with_suffix(".o"))
    return made if kind == "object" else link(made, path)


@pytest.mark.parametrize(
    ("replacements", "sentences"),
    [
        ([], []),
        ([("mov x9, #9", "mov x9, #8")], [r"at 0x\w+, 4 bytes, differs in NEW"]),
        ([("mov x1, #1", "mov x1, #2")], [r"at label \(0x.*\), 4 bytes, differs in NEW"]),
        ([("mov x3, #3", "mov x3, #4")], [r"at untyped \(0x.*\), 4 bytes, differs in NEW"]),
        ([("mov x3, #3", "mov x3, #4"), ("mov x1, #1", "mov x1, #2")], ["label", "untyped"]),
    ],
)
@pytest.mark.parametrize("pad", ["", ".skip 64"], ids=["in place", "moved"])
def test_what_differs_outside_of_functions_is_listed(
    tmp_path: Path, replacements: list[tuple[str, str]], sentences: list[str], pad: str
) -> None:
    found = compared(outside(tmp_path / "old"), outside(tmp_path / "new", *replacements, pad=pad))
    assert found.diff.hunks == ()
    assert len(found.not_expressed) == len(sentences)
    for sentence, says in zip(found.not_expressed, sentences, strict=True):
        assert re.search(says, sentence)
        assert sentence.startswith("the code outside of functions at ")


def test_a_call_of_another_function_outside_of_functions_is_a_difference(tmp_path: Path) -> None:
    swapped = (("bl work\n    adrp", "bl _start\n    adrp"),)
    for pad in ("", ".skip 64"):
        found = compared(outside(tmp_path / "old"), outside(tmp_path / "new", *swapped, pad=pad))
        assert [sentence.endswith("4 bytes, differs in NEW") for sentence in found.not_expressed] == [True]


@pytest.mark.parametrize("more", ["nop\nnop", ".word 0, 0, 0"])
def test_padding_is_no_difference(tmp_path: Path, more: str) -> None:
    found = compared(outside(tmp_path / "old"), outside(tmp_path / "new", more=more))
    assert (found.diff.hunks, found.not_expressed) == ((), ())


def test_code_that_one_build_has_outside_of_functions(tmp_path: Path) -> None:
    old, new = outside(tmp_path / "old"), outside(tmp_path / "new", more="added: mov x0, #1\nret")
    for one, other, says in ((old, new, "of NEW has no counterpart in OLD"), (new, old, "has no counterpart in NEW")):
        [sentence] = compared(one, other).not_expressed
        assert sentence.startswith("the code outside of functions at added (0x")
        assert sentence.endswith(says)


def test_objects_are_compared_outside_of_functions_too(tmp_path: Path) -> None:
    """Their sections have names, and may lie elsewhere in the file."""
    section = '.section .text.more, "ax"\nmov x0, #1\nret'
    changed = ("mov x1, #1", "mov x1, #2")
    old = outside(tmp_path / "old", kind="object", more=section)
    assert compared(old, outside(tmp_path / "same", kind="object", more=section)).not_expressed == ()
    new = outside(tmp_path / "new", changed, kind="object", more=section.replace("#1", "#5"), pad=".skip 64")
    label, more = compared(old, new).not_expressed
    assert "at label (0x" in label
    assert "at .text.more:0x0 (0x" in more


def test_a_stripped_program_is_compared_word_by_word(tmp_path: Path) -> None:
    paths = [outside(tmp_path / "old"), outside(tmp_path / "new", ("mov w0, #1", "mov w0, #2"))]
    for path in paths:
        run("aarch64-linux-gnu-strip", path)
    [sentence] = compared(*paths).not_expressed
    assert re.fullmatch(r"the code outside of functions at 0x\w+, 4 bytes, differs in NEW", sentence)
    assert compared(paths[0], paths[0]).not_expressed == ()


def test_functions_that_overlap_are_not_forgotten(tmp_path: Path) -> None:
    def make(name: str, value: int) -> Path:
        source = f"""
            .type first, %function
            .type second, %function
        _start:
        first:  mov x0, #1
        second: mov x1, #1
            .size first, 8
            mov x2, #{value}
            ret
            .size second, 12
        """
        return link(assemble(source, tmp_path / f"{name}.o"), tmp_path / name)

    assert compared(make("old", 1), make("same", 1)).not_expressed == ()
    found = compared(make("old", 1), make("new", 2))
    assert (found.diff.hunks, found.not_expressed) == ((), ("second differs, and overlaps the function before it",))


def test_functions_of_one_name_with_the_same_bytes_may_differ(tmp_path: Path) -> None:
    """The calls have the same bits, but the functions that they call have changed places."""

    def make(name: str, called: str, other: str) -> Path:
        functions = "".join(f".type {each}, %function\n{each}: ret\n.size {each}, 4\n" for each in (called, other))
        twin = f".type twin, %function\ntwin: b {called}\n.size twin, 4\n"
        parts = (f".globl one, two\n_start: {functions}", twin, twin)
        return link([assemble(part, tmp_path / f"{name}{n}.o") for n, part in enumerate(parts)], tmp_path / name)

    old, new = make("old", "one", "two"), make("new", "two", "one")
    found = compared(old, new)
    assert [hunk.site for hunk in found.diff.hunks] == ["old1.o:twin", "old2.o:twin"]
    assert [[line.text for line in hunk.lines] for hunk in found.diff.hunks] == [["b one", "b two"]] * 2


# Functions of other files

IMPORTING = r"""
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#ifdef MORE
__attribute__((noinline)) void more(const char *text) { if (getenv(text)) perror(text); }
#endif
__attribute__((noinline)) int work(char **words) {
    perror(words[0] + strlen(words[0]));
    return CALLED(words[0]) + 1;
}
int main(int count, char **words) {
    if (count > 5) abort();
    puts("");
#ifdef MORE
    more(words[0]);
#endif
    return work(words) + strlen("") & 127;
}
"""


def importing(path: Path, *options: str) -> Path:
    gcc = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    run(gcc, "-O1", "-w", "-fno-builtin", "-Wl,--no-warnings", *options, "-x", "c", "-", "-o", path, stdin=IMPORTING)
    return path


def exit_status(path: Path) -> int:
    command = [need("qemu-aarch64", "qemu-user"), "-L", "/usr/aarch64-linux-gnu", str(path)]
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode


@pytest.mark.fresh("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user")
@pytest.mark.parametrize("stubs", [(), ("-Wl,-z,force-bti,-z,pac-plt",), ("-no-pie",)])
def test_the_call_of_an_imported_function_by_gcc_is_made_on_another_build(
    tmp_path: Path, stubs: tuple[str, ...]
) -> None:
    """The stub lies elsewhere on the other build."""
    old = importing(tmp_path / "old", "-DCALLED=puts", *stubs)
    new = importing(tmp_path / "new", "-DCALLED=strlen", *stubs)
    other = importing(tmp_path / "other", "-DCALLED=puts", "-DMORE", *stubs)
    wanted = importing(tmp_path / "wanted", "-DCALLED=strlen", "-DMORE", *stubs)
    found = compared(old, new)
    assert not any(sentence.startswith("work") for sentence in found.not_expressed)
    [changed] = [line for hunk in found.diff.hunks for line in hunk.lines if line.sign == "+"]
    assert changed.text == "bl strlen@plt"
    with ElfFile(old) as one, ElfFile(other) as two:
        assert one.symbols["strlen@plt"] - one.symbols["work"] != two.symbols["strlen@plt"] - two.symbols["work"]
    apply(found.diff, other, fuzz=True)
    assert code(other, "work") == code(wanted, "work")
    if "pac" not in "".join(stubs):  # AUTIA1716 wants a signed address, and this loader signs none
        assert exit_status(other) == len(str(other)) + 1


def test_a_name_beyond_its_symbol_is_no_name_on_another_build(tmp_path: Path) -> None:
    """`_init` ends long before, and the stub there is one of another function."""
    old = importing(tmp_path / "old", "-DCALLED=puts")
    other = importing(tmp_path / "other", "-DCALLED=puts", "-DMORE")
    with ElfFile(old) as target:
        distance = target.symbols["strlen@plt"] - target.symbols["_init"]
        call = [at for at in range(target.symbols["work"], target.symbols["work"] + 0x40, 4)
                if target.read(at, 4) == to_bytes(assemble_one("bl puts@plt", at, target.symbols))]  # fmt: skip
        [at] = call
        offset = at - target.symbols["work"]
        was = assemble_one("bl puts@plt", at, target.symbols)
        text = f"bl _init+{distance:#x}"
        becomes = assemble_one(text, at, target.symbols)
    lines = (Line("-", was, "bl puts@plt"), Line("+", becomes, text))
    diff = AsmDiff((Hunk(f"work+{offset:#x}", lines),), (), (("Build-Id", "00"),))
    with ElfFile(other) as target, pytest.raises(PlanError, match="on another build is not known"):
        make_plan(diff, target, fuzz=True)


UNNAMED = """
    .type _start, %function
_start:
    bl one
    ret
    .size _start, . - _start
    .type one, %gnu_indirect_function
one: adr x0, _start
    ret
    .type two, %gnu_indirect_function
two: adr x0, _start
    ret
"""


def test_a_stub_without_a_name_is_none_by_its_address(tmp_path: Path) -> None:
    """Both stubs have the same address and words. The slot's relocation tells them apart."""
    paths = []
    for called in ("one", "two"):
        path = tmp_path / called
        source = UNNAMED.replace("bl one", f"bl {called}") + f".data\nonly_{called}: .word 0\n"
        link(assemble(source, path.with_suffix(".o")), path)
        run("aarch64-linux-gnu-strip", "--strip-symbol=one", "--strip-symbol=two", path)
        paths.append(path)
    assert code(paths[0], "_start") == code(paths[1], "_start")
    found = compared(*paths)
    assert (found.diff.hunks, len(found.not_expressed)) == ((), 1)
    assert "a stub at 0x" in found.not_expressed[0]


# A real program by gcc

PROGRAM = r"""
typedef unsigned long size;
static int counts[8];
static const int weights[8] = {3, 1, 4, 1, 5, 9, 2, 6};
static const char message[] = "what a patch is made for";
static int seen, limit = LIMIT;

#define APART __attribute__((noinline, noclone))

#ifdef GROWN
APART int added_before(int value) { seen += value; return value * 7 + seen; }
#endif

APART size length(const char *text) {
    size count = 0;
    while (text[count]) count++;
    return count;
}

APART unsigned mix(const char *text, size count) {
    unsigned hash = 2166136261u;
    for (size at = 0; at < count; at++) hash = (hash ^ (unsigned char)text[at]) * 16777619u;
    return hash;
}

APART int weigh(const int *values, int count) {
    int sum = 0;
    for (int at = 0; at < count; at++) sum += values[at] * weights[at & 7];
    return sum;
}

APART void count(unsigned hash) {
    for (int at = 0; at < 8; at++) counts[at] += hash >> (4 * at) & 15;
    seen++;
}

APART int allowed(int value) {
    if (value > limit) return 0;
    if (seen > BOUND) return -1;
    return weigh(counts, 8) % MODULUS;
}

APART int work(int start) {
    int result = start;
#ifdef GROWN
    if (start < -77) return added_before(start);
#endif
    for (int round = 0; round < ROUNDS; round++) {
        count(mix(message, length(message) - round));
        result += allowed(result);
        if (result < 0) return 1;
    }
    return result;
}

APART void leave(int status) {
    register long number asm("x8") = 93;
    register long argument asm("x0") = status;
    asm volatile("svc #0" : : "r"(number), "r"(argument));
}

void _start(void) {
    int status = work(START) & 127;
#ifdef GROWN
    status += added_before(0) & 0;
#endif
    leave(status);
    for (;;) ;
}
"""
OLD_VALUES = {"LIMIT": 9000, "BOUND": 100, "MODULUS": 97, "ROUNDS": 5, "START": 3}
NEW_VALUES = OLD_VALUES | {"BOUND": 90, "ROUNDS": 6, "START": 11}


@pytest.fixture
def real(tmp_path: Path) -> Build:
    gcc = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")

    def make(name: str, values: dict[str, int], *options: str) -> Path:
        path = tmp_path / name
        flags = [
            "-O2",
            "-static",
            "-nostdlib",
            "-ffreestanding",
            "-fno-tree-loop-distribute-patterns",
            "-Wl,--build-id",
            "-fno-section-anchors",
        ]
        defined = [f"-D{macro}={value}" for macro, value in values.items()]
        run(gcc, *flags, *options, *defined, "-x", "c", "-", "-o", path, stdin=PROGRAM)
        return path

    return make


def status(path: Path) -> int:
    """What the program exits with."""
    qemu = need("qemu-aarch64", "qemu-user")
    return subprocess.run([qemu, str(path)], check=False, timeout=60).returncode


FUNCTIONS = ("length", "mix", "weigh", "count", "allowed", "work", "leave", "_start")


@pytest.mark.fresh("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user")
def test_a_real_program_by_gcc_becomes_its_newer_build(real: Build) -> None:
    old, new = real("old", OLD_VALUES), real("new", NEW_VALUES)
    before, old_status, new_status = old.read_bytes(), status(old), status(new)
    assert old_status != new_status
    found = compared(old, new)
    sizes = {name for name in FUNCTIONS if len(code(old, name)) == len(code(new, name))}
    assert {sentence.split()[0] for sentence in found.not_expressed} == set(FUNCTIONS) - sizes
    assert {"work", "_start"} <= sizes
    apply(found.diff, old)
    assert [name for name in FUNCTIONS if name in sizes and code(old, name) != code(new, name)] == []
    if sizes == set(FUNCTIONS):
        assert status(old) == new_status
    apply(reverse(found.diff), old)
    assert old.read_bytes() == before


def test_a_patch_made_on_one_build_by_gcc_applies_on_another_by_meaning(real: Build) -> None:
    """Code was added before the functions that are patched, and inside one of them."""
    values = OLD_VALUES | {"ROUNDS": 6, "BOUND": 90}
    old, new = real("old", OLD_VALUES), real("new", values)
    grown, wanted = real("grown", OLD_VALUES, "-DGROWN"), real("wanted", values, "-DGROWN")
    found = compared(old, new)
    assert (found.not_expressed, len(found.diff.hunks)) == ((), 2)
    offsets = apply(found.diff, grown, fuzz=True)
    assert any(offsets)
    for name in FUNCTIONS:
        assert code(grown, name) == code(wanted, name), name
    assert status(grown) == status(wanted)


def test_position_independent_builds_by_gcc(real: Build) -> None:
    old, new = real("old", OLD_VALUES, "-fpie", "-static-pie"), real("new", NEW_VALUES, "-fpie", "-static-pie")
    found = compared(old, new)
    apply(found.diff, old)
    assert code(old, "_start") == code(new, "_start")


def test_the_layout_does_not_matter_to_what_is_expressed(real: Build) -> None:
    """The newer build lies elsewhere; its words are translated to where the old one has everything."""
    # Constants of vectors have no names, so where they are elsewhere cannot be said.
    plain = "-fno-tree-vectorize"
    old, near = real("old", OLD_VALUES, plain), real("near", NEW_VALUES, plain)
    far = real("far", NEW_VALUES, plain, "-Wl,-Ttext=0x7654000,-Tdata=0x8000120")
    here, there = compared(old, near), compared(old, far)
    assert here == there
    assert here.diff.hunks

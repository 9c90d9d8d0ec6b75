"""What `link` writes for each kind of relocation, and what it refuses. GNU as makes the objects."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest

from a64patch.errors import A64PatchError, FormatError, LinkError, RequestError, SymbolError
from a64patch.linking.link import Linked, link
from a64patch.openers import open_target
from a64patch.patch.asmdiff import Hunk, parse, to_text
from a64patch.ranges import Ranges
from a64patch.targets.elf import ElfFile
from a64patch.targets.modules import Claim, Module
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.support import assemble, rounds
from tests.support import link as gnu_ld

FUNCTION = ".text\n.globl {0}\n.type {0}, %function\n{0}: {1}\n.size {0}, . - {0}\n"


def function(name: str, *instructions: str) -> str:
    """A global function in assembly."""
    return FUNCTION.format(name, "\n".join(instructions))


old, new = partial(function, "old"), partial(function, "new")

TARGET = (
    ".file \"main.c\"\n"
    + function("_start", "bl old", "b _start")
    + old("sub sp, sp, #16", "add sp, sp, #16", "ret")
    + function("guarded", "bti c", "mov w0, #1", "ret")
    + function("signed", "paciasp", "autiasp", "ret")
    + function("pad", "bti c")
    + function("helper", "ret")
    + function("with-minus", "ret").replace("with-minus", '"with-minus"')
    + ".local hidden\n" + function("hidden", "ret").replace(".globl hidden\n", "")
    + ".data\n.globl counter\n.type counter, %object\ncounter: .quad 0\n.size counter, 8\n"
)  # fmt: skip
TWO_FILES = '.file "{0}"\n.text\n.type twin, %function\ntwin: ret\n.size twin, . - twin\n.globl {1}\n{1}: b twin\n'


class Linking:
    """Objects linked into a target."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.target = gnu_ld(
            assemble(TARGET, folder / "target.o"), folder / "target", "--build-id=0xabcd", "-Ttext=0x400000"
        )

    def __call__(self, source: str, *replace: str, target: Path | None = None) -> Linked:
        path = assemble(source, self._folder / "fix.o", "-march=armv8.5-a")
        with open_target(target or self.target) as opened:
            linked = link(path, opened, replace)
        assert parse(to_text(linked.diff)) == linked.diff
        return linked

    def build(self, *sources: str, options: str = "") -> Path:
        """Another target."""
        objects = [assemble(source, self._folder / f"part{number}.o") for number, source in enumerate(sources)]
        return gnu_ld(objects, self._folder / "other", *options.split())


@pytest.fixture(scope="module")
def linking(tmp_path_factory: pytest.TempPathFactory) -> Linking:
    return Linking(tmp_path_factory.mktemp("linking"))


def lines_of(hunk: Hunk) -> list[str]:
    """The lines of a hunk: texts, labels, `?` before a word that depends on its place, and data as its word."""
    return [
        f"{line.label}:" if line.label else f"#{line.text}" if line.sign == "#"
        else f"? {line.text}" if line.word is None else line.text
        for line in hunk.lines
    ]  # fmt: skip


def annexes(linked: Linked) -> dict[str, list[str]]:
    return {hunk.site: lines_of(hunk) for hunk in linked.diff.hunks if hunk.kind == "annex"}


def test_a_patch_as_a_whole(linking: Linking) -> None:
    source = '.file "fix.c"\n.ident "GCC: 12"\n' + old("mov w0, #3", "b 1f", "1: ret")
    linked = linking(source)
    assert to_text(linked.diff) == (
        "Replace old by code of fix.o\n\nThe code is from fix.o, made of fix.c by GCC: 12.\n\n"
        "Target: target\nBuild-Id: abcd\nHunks: 2\n\n"
        "@@ old -1 +1 @@\n-d10043ff  sub   sp, sp, #0x10\n+????????  b     annex:old\n\n"
        "@@ annex old -0 +3 @@\n+52800060  mov   w0, #3\n+????????  b     .L1\n+.L1:\n+d65f03c0  ret\n"
    )
    assert linked.replaced == {"old": "old"}
    assert linked.annexes == ("old",)
    assert linked.notes == ("old is replaced by old of fix.o",)
    assert repr(linked) == "<Linked old replaced, 1 annexes>"


RODATA = '\n.section .rodata, "a"\n.p2align 3\n.quad 1\nhere: .quad 2\n.byte 3\n'
STRINGS = '\n.section .rodata.str1.1, "aMS", %progbits, 1\n.string "unused"\nhere: .string "text"\n'
TWICE = "annex:.rodata+0x8"


@pytest.mark.parametrize(
    ("instructions", "rest", "texts"),
    [
        # Calls and branches.
        ("bl helper; b helper", "", ["? bl helper", "? b helper"]),
        ("bl hidden; b hidden", "", ["? bl hidden", "? b hidden"]),
        ("bl helper + 4; ret", "", ["? bl helper+0x4", "ret"]),
        ("b.ne helper; ret", "", ["? b.ne helper", "ret"]),
        ("cbz x3, helper; ret", "", ["? cbz x3, helper", "ret"]),
        ("tbnz w3, #5, helper; ret", "", ["? tbnz w3, #5, helper", "ret"]),
        ("1: cbz x0, 1b; tbz x0, #63, 2f; ret; 2: b.lt 1b; ret", "",
         ["? cbz x0, annex:old", "? tbz x0, #63, .L1", "ret", ".L1:", "? b.lt annex:old", "ret"]),
        ('bl "with-minus"; ret', "", ["? bl with-minus", "ret"]),
        ("bl old; ret", "", ["? bl annex:old", "ret"]),
        # Addresses of the target.
        ("adrp x0, counter; add x0, x0, :lo12:counter; ret", "",
         ["? adrp x0, counter", "? add x0, x0, :lo12:counter", "ret"]),
        ("adrp x0, counter + 8; add x0, x1, :lo12:counter + 8; ret", "",
         ["? adrp x0, counter+0x8", "? add x0, x1, :lo12:counter+0x8", "ret"]),
        ("adrp x0, counter - 8; ldr x0, [x0, :lo12:counter - 8]; ret", "",
         ["? adrp x0, counter-0x8", "? ldr x0, [x0, :lo12:counter-0x8]", "ret"]),
        ("adr x0, counter; ret", "", ["? adr x0, counter", "ret"]),
        ("ldr x0, counter; ldrsw x1, counter; prfm pldl1keep, counter; ret", "",
         ["? ldr x0, counter", "? ldrsw x1, counter", "? prfm pldl1keep, counter", "ret"]),
        ("adrp x0, :got:counter; ldr x0, [x0, :got_lo12:counter]; ret", "",
         ["? adrp x0, counter", "? add x0, x0, :lo12:counter", "ret"]),
        ("adrp x2, :got:helper; ldr x3, [x2, :got_lo12:helper]; ret", "",
         ["? adrp x2, helper", "? add x3, x2, :lo12:helper", "ret"]),
        # Loads and stores of each size.
        ("ldrb w0, [x1, :lo12:counter]; strh w0, [x1, :lo12:counter]; ldr w0, [x1, :lo12:counter]; ret", "",
         ["? ldrb w0, [x1, :lo12:counter]", "? strh w0, [x1, :lo12:counter]", "? ldr w0, [x1, :lo12:counter]", "ret"]),
        ("ldr x0, [x1, :lo12:counter]; ldr d0, [x1, :lo12:counter]; str q0, [x1, :lo12:counter]; ret", "",
         ["? ldr x0, [x1, :lo12:counter]", "? ldr d0, [x1, :lo12:counter]", "? str q0, [x1, :lo12:counter]", "ret"]),
        # Data of the object.
        ("adrp x0, here; add x0, x0, :lo12:here; ret", RODATA,
         [f"? adrp x0, {TWICE}", f"? add x0, x0, :lo12:{TWICE}", "ret"]),
        ("adrp x0, here - 16; ldrb w0, [x0, :lo12:here - 16]; ret", RODATA,
         ["? adrp x0, annex:.rodata-0x8", "? ldrb w0, [x0, :lo12:annex:.rodata-0x8]", "ret"]),
        ("ldr x0, here; adr x1, here; ret", RODATA, [f"? ldr x0, {TWICE}", f"? adr x1, {TWICE}", "ret"]),
        ("adrp x0, :got:here; ldr x0, [x0, :got_lo12:here]; ret", RODATA,
         [f"? adrp x0, {TWICE}", f"? add x0, x0, :lo12:{TWICE}", "ret"]),
        ("adr x0, here; adr x1, here + 2; ret", STRINGS,
         ["? adr x0, annex:.rodata.str1.1", "? adr x1, annex:.rodata.str1.1+0x2", "ret"]),
        # Literals in and beside the function.
        ("ldr x0, 1f; adr x1, 2f; ret; 1: .quad 0x1122334455667788; 2: .word 7", "",
         ["? ldr x0, .L1", "? adr x1, .L2", "ret", ".L1:", ".word 0x55667788", ".word 0x11223344", ".L2:",
          ".word 0x00000007"]),
        ("ldr w0, pool; ret", "\nnop\n.word 1\npool: .word 2\n", ["? ldr w0, annex:.text.0xc+0x4", "ret"]),
        ("ldr x0, 1f; ret; 1: .word helper - .", "", ["? ldr x0, .L1", "ret", ".L1:", "? .word helper-."]),
        # The address of a replaced function is the old one.
        ("adr x0, old; ret", "", ["? adr x0, old", "ret"]),
        ("adr x0, 1f; ret; 1: nop; ret", "", ["? adr x0, .L1", "ret", ".L1:", "nop", "ret"]),
        # Absolute addresses, which are constants in this target.
        ("movz x0, #:abs_g1:helper; movk x0, #:abs_g0_nc:helper; ret", "",
         ["mov x0, #0x400000", "movk x0, #0x30", "ret"]),
        ("ldr x0, 1f; ret; .p2align 3; 1: .quad helper + 4", "",
         ["? ldr x0, .L1", "ret", ".L1:", ".word 0x00400034", ".word 0x00000000"]),
        ("ldr x0, 1f; ret; 1: .quad old", "", ["? ldr x0, .L1", "ret", ".L1:", ".word 0x00400008", ".word 0x00000000"]),
        ("ldr w0, 1f; ret; 1: .word helper", "", ["? ldr w0, .L1", "ret", ".L1:", ".word 0x00400030"]),
        # Words that nobody knows stay.
        (".inst 0x04a03000; ret", "", [".inst 0x04a03000", "ret"]),
    ],
)  # fmt: skip
def test_each_kind_of_reference(instructions: str, rest: str, texts: list[str], linking: Linking) -> None:
    linked = linking(old(*instructions.split("; ")) + rest)
    assert annexes(linked)["old"] == texts


def test_data(linking: Linking) -> None:
    use = old("adr x0, here", "adr x1, other", "adr x2, sixteen", "adr x3, no", "ret")
    table = (
        '\n.section .rodata, "a"\n.p2align 4\nhere: .word helper - .\n.word "with-minus" - here\n'
        ".word other - here\n.byte 1\n"
        '.section .rodata.str1.8, "aMS", %progbits, 1\n.p2align 3\nno: .string "no"\n'
        '.p2align 3\n.string "unused"\n.p2align 3\nother: .string "it\'s \\n"\n'
        '.section .rodata.cst8, "aM", %progbits, 8\n.quad 1\nsixteen: .quad 16\n'
    )
    linked = linking(use + table)
    found = annexes(linked)
    assert found[".rodata"] == [
        "? .word helper-.",
        '? .word "with-minus"+0x4-.',
        "? .word annex:.rodata.str1.8+0x10-.",
        ".word 0x00000001",
    ]
    assert found[".rodata.str1.8"] == [
        "# 0x0: 'no'", ".word 0x00006f6e", ".word 0x00000000",
        '# 0x8: "it\'s \\n"', ".word 0x73277469", ".word 0x00000a20",
    ]  # fmt: skip
    assert found[".rodata.cst8"] == [".word 0x00000010", ".word 0x00000000"]
    assert [hunk.alignment for hunk in linked.diff.hunks] == [4, 4, 16, 8, 4]


def test_an_address_of_more_than_32_bits(linking: Linking) -> None:
    target = linking.build(TARGET, options="-Ttext=0x100000000")
    fix = old("ldr w0, 1f", "ret", "1: .{} helper")
    assert annexes(linking(fix.format("quad"), target=target))["old"][-2:] == [".word 0x00000030", ".word 0x00000001"]
    with pytest.raises(LinkError, match=r"old\+0x8: R_AARCH64_ABS32 cannot hold 0x100000030"):
        linking(fix.format("word"), target=target)


def test_functions_that_overlap_are_one(linking: Linking) -> None:
    inner = old("nop", ".globl inner", ".type inner, %function", "inner: ret").replace(
        ".size old", ".size inner, 4\n.size old"
    )
    linked = linking(inner + function("user", "b inner"), "guarded=user", "helper=inner")
    assert annexes(linked) == {"user": ["? b .L1"], "old": ["nop", ".L1:", "ret"]}
    assert [lines_of(hunk)[1] for hunk in linked.diff.hunks[:2]] == ["? b annex:user", "? b .L1"]


def test_alignment_order_and_names(linking: Linking) -> None:
    source = (
        ".p2align 4\nnop\n" + old("adr x0, here", "adr x1, there", "ret")
        + function("mine", "ret") + function("far", "ret").replace(".text", ".section .text.far, \"ax\"\n.p2align 12")
        + '.section .rodata, "a", %progbits, unique, 1\nhere: .word mine - .\n'
        + '.section .rodata, "a", %progbits, unique, 2\n.p2align 5\nthere: .word far - .\n'
    )  # fmt: skip
    linked = linking(source)
    assert [(hunk.site, hunk.alignment) for hunk in linked.diff.hunks[1:]] == [
        ("old", 4), ("mine", 16), ("far", 4096), (".rodata", 4), (".rodata.2", 32),
    ]  # fmt: skip


def test_a_pool_ends_where_a_function_begins(linking: Linking) -> None:
    source = old("ldr w0, pool", "ret") + "nop\n.word 1\npool: .word 2\n" + function("table", ".word 3", "ret")
    assert annexes(linking(source))[".text.0xc"] == [".word 0x00000001", ".word 0x00000002"]


def redirect(linked: Linked) -> tuple[str, list[str]]:
    """The site of the first hunk, and its lines."""
    return linked.diff.hunks[0].site, lines_of(linked.diff.hunks[0])


@pytest.mark.parametrize(
    ("instructions", "replace", "site", "texts"),
    [
        ("ret", "old", "old", ["sub sp, sp, #0x10", "? b annex:new"]),
        ("ret", "guarded", "guarded+0x4", ["mov w0, #1", "? b annex:new"]),
        ("bti c; ret", "guarded", "guarded+0x4", ["mov w0, #1", "? b annex:new"]),
        ("paciasp; nop; autiasp; ret", "signed", "signed+0x4", ["autiasp", "? b .Lentry_new"]),
        ("ret", "main.c:hidden", "hidden", ["ret", "? b annex:new"]),
        ("ret", '"with-minus"', "with-minus", ["ret", "? b annex:new"]),
    ],
)
def test_the_redirect_leaves_the_landing_pad(
    instructions: str, replace: str, site: str, texts: list[str], linking: Linking
) -> None:
    linked = linking(new(*instructions.split("; ")), f"{replace}=new")
    assert redirect(linked) == (site, texts)
    entry = [".Lentry_new:"] if replace == "signed" else []
    assert annexes(linked)["new"][1:2] == (entry or instructions.split("; ")[1:2])


def test_the_redirect_leaves_the_words_of_ftrace(linking: Linking, tmp_path: Path) -> None:
    source = (
        function("plain", "nop", "nop", "mov w0, #1", "ret")
        + function("padded", "bti c", "nop", "nop", "mov w0, #2", "ret")
        + function("untraced", "nop", "nop", "ret") + function("short", "nop", "nop")
        + '.section __patchable_function_entries, "awo", %progbits, .text\n.quad plain, padded, short\n'
    )  # fmt: skip
    target = assemble(source, tmp_path / "module.o", "-march=armv8.5-a")
    for name, site in (("plain", "plain+0x8"), ("padded", "padded+0xc"), ("untraced", "untraced")):
        linked = linking(new("ret"), f"{name}=new", target=target)
        assert redirect(linked)[0] == site
    with pytest.raises(LinkError, match="short is too short for a branch"):
        linking(new("ret"), "short=new", target=target)


def test_only_what_is_needed_comes_along(linking: Linking) -> None:
    source = (
        old("bl first", "b old.cold", "ret")
        + function("unused", "bl missing", "adr x0, variable", "ret")
        + '.section .text.cold, "ax"\n' + function("old.cold", "bl second", "b old + 4").replace(".text\n", "")
        + function("second", "bl third", "ret")
        + function("first", "ret") + function("third", "ret")
        + ".data\nvariable: .word 1\n"
    )  # fmt: skip
    assert annexes(linking(source)) == {
        "old": ["? bl annex:first", ".L1:", "? b annex:old.cold", "ret"],
        "first": ["ret"],
        "old.cold": ["? bl annex:second", "? b .L1"],
        "second": ["? bl annex:third", "ret"],
        "third": ["ret"],
    }


def test_functions_are_chosen_by_name_or_by_the_user(linking: Linking) -> None:
    source = old("bl helper", "ret") + function("helper", "ret") + function("mine", "ret")
    both = linking(source)
    assert both.replaced == {"old": "old", "helper": "helper"}
    assert both.notes == ("old is replaced by old of fix.o", "helper is replaced by helper of fix.o")
    one = linking(source, "old")
    assert one.replaced == {"old": "old"}
    assert list(annexes(one)) == ["old", "helper"]
    assert one.notes[1] == (
        "helper of fix.o is used, although the target has one too, which stays as it is (--replace helper)"
    )
    other = linking(source, "guarded=mine", "old=helper")
    assert other.replaced == {"guarded": "mine", "old": "helper"}
    assert list(annexes(other)) == ["mine", "helper"]


def test_several_symbols_of_one_name(linking: Linking) -> None:
    target = linking.build(TWO_FILES.format("a.c", "_start"), TWO_FILES.format("b.c", "old"))
    source = '.file "{0}"\n' + old("bl twin", "ret")
    assert annexes(linking(source.format("b.c"), target=target))["old"] == ["? bl b.c:twin", "ret"]
    with pytest.raises(
        LinkError, match=r"old: symbol 'twin' stands for 2 addresses .* is a.c:twin.*objcopy --redefine"
    ):
        linking(source.format("c.c"), target=target)
    static = '.file "fix.c"\n.text\n.type twin, %function\ntwin: nop\n ret\n.size twin, . - twin\n'
    linked = linking(static, "a.c:twin=twin", target=target)
    assert redirect(linked) == ("a.c:twin", ["ret", "? b annex:twin"])
    with pytest.raises(SymbolError, match="stands for 2 addresses"):
        linking(static, "twin", target=target)


def test_a_global_symbol_comes_before_static_ones_of_other_files(linking: Linking) -> None:
    target = linking.build(TWO_FILES.format("a.c", "_start"), '.file "b.c"\n' + function("twin", "ret") + old("ret"))
    linked = linking('.file "c.c"\n' + old("b twin"), target=target)
    with ElfFile(target) as opened:
        address = max(symbol.address for symbol in opened.symbols.named("twin"))
    assert annexes(linked)["old"] == [f"? b {address:#x}"]


def test_imports_of_a_shared_library(linking: Linking) -> None:
    source = old("bl other", "adrp x0, :got:data", "ldr x0, [x0, :got_lo12:data]", "ret") + function("own", "ret")
    target = linking.build(source, options="-shared -z now")
    fix = function(
        "old", "bl other", "bl own", "adrp x0, :got:data", "ldr x0, [x0, :got_lo12:data]", "adrp x1, :got:own",
        "ldr x1, [x1, :got_lo12:own]", "adrp x2, :got:other", "ldr x2, [x2, :got_lo12:other]", "ret",
    )  # fmt: skip
    with ElfFile(target) as opened:
        slot = opened.image.imported_slots()["data"]
    assert annexes(linking(fix, target=target))["old"] == [
        "? bl other@plt", "? bl own",
        f"? adrp x0, {slot & -4096:#x}", f"? ldr x0, [x0, :lo12:{slot:#x}]",
        "? adrp x1, own", "? add x1, x1, :lo12:own",
        "? adrp x2, other@plt", "? add x2, x2, :lo12:other@plt", "ret",
    ]  # fmt: skip
    with pytest.raises(
        LinkError, match=r"data is neither in fix.o nor in the target, which reaches it by way of .* -fPIC"
    ):
        linking(old("adrp x0, data", "ret"), target=target)
    with pytest.raises(LinkError, match=r"old: data is neither in fix.o nor in the target"):
        linking(old("adrp x0, :got:data + 8", "ret"), target=target)
    with pytest.raises(LinkError, match="needs the address of own, which is another in each process"):
        linking(old("ldr x0, 1f", "ret", "1: .quad own"), target=target)


def test_a_function_that_chooses_another_one_is_called_by_its_stub(linking: Linking) -> None:
    chooser = function("choose", "adr x0, old", "ret").replace("choose, %function", "choose, %gnu_indirect_function")
    called = linking.build(function("_start", "bl choose") + old("ret") + chooser)
    assert annexes(linking(old("b choose"), target=called))["old"] == ["? b choose@plt"]
    chooser = chooser.replace("adr x0, old", "ret")
    uncalled = linking.build(old("ret") + chooser, options="-shared")
    with pytest.raises(LinkError, match="choose of the target only chooses another function"):
        linking(old("b choose"), target=uncalled)


def test_names_in_a_process_of_several_files(linking: Linking) -> None:
    """Its own stubs lie near, and know which function an indirect one has chosen."""
    target = linking.build(
        function("_start", "ret") + old("ret") + function("puts@plt", "ret").replace("puts@plt", '"puts@plt"')
    )
    names = [Symbol("puts", 0x7F0000, 4), Symbol("strlen", 0x7F0010, 4), Symbol("memcpy", 0x7F0020, 4)]
    chooses = Claim("resolver", Ranges(((0x7F0020, 0x7F0024),)), "chooses")
    path = assemble(old("bl puts", "bl strlen", "ret"), target.with_name("fix.o"))
    with ElfFile(target) as opened:
        opened.knowing(Module("libc", SymbolTable(lambda: names), claims=lambda: [chooses]))
        assert annexes(link(path, opened))["old"] == ["? bl puts@plt", "? bl strlen", "ret"]
        with pytest.raises(LinkError, match="memcpy of the target only chooses another function"):
            link(assemble(old("b memcpy"), path), opened)


def test_names_without_an_address_in_a_relocatable_target(linking: Linking, tmp_path: Path) -> None:
    source = old("bl printk", "ret") + ".bss\nzeroed: .skip 8\n"
    target = assemble(source, tmp_path / "module.o")
    linked = linking(old("bl printk", "adrp x0, zeroed", "ret"), target=target)
    assert annexes(linked)["old"] == ["? bl printk", "? adrp x0, zeroed", "ret"]


@pytest.mark.parametrize(
    ("source", "replace", "why"),
    [
        (old("adr x0, here", "ret") + '.section .empty, "a"\nhere:', (), "old: .empty is empty, and so has no address"),
        (old(f"b {'x' * 2000}") + function("x" * 2000, "ret"), (), "old: xxxx.*x… is a name of 2000 characters"),
        (new("ret"), (), "no global function of fix.o has the name of one in the target: say which"),
        (old("bl missing", "ret"), (), "old: missing is neither in fix.o nor in the target: add"),
        (".weak missing\n" + old("bl missing", "ret"), (), "and is weak: take the reference out"),
        (old("adr x0, 1f", "ret") + ".data\n1: .word 1", (),
         r"old: .data\+0x0 is data that is written \(.data\): a patch has no room for it; if the target has it"),
        (old("adr x0, mine", "ret") + ".bss\n.globl mine\nmine: .word 0", (), "mine is data that is written"),
        (old("adr x0, mine", "ret") + ".comm mine, 8, 8", (), r"mine is data that is written \(common\)"),
        (old("mrs x0, tpidr_el0", "add x0, x0, :tprel_hi12:mine", "ret")
         + '.section .tdata, "awT"\n.globl mine\nmine: .word 0', (), "mine is thread-local data.*TLSLE_ADD_TPREL_HI12"),
        (old("adrp x0, :gottprel:errno", "ret"), (), "errno is thread-local data"),
        (old("adr x0, here", "ret") + '.section .data.rel.ro.x, "aw"\nhere: .quad helper + 4', (),
         r"old: .data.rel.ro.x is data for which a loader forms addresses .* use a switch in place of a table"),
        (old("adr x0, here", "ret") + '.section .rodata, "a"\nhere: .quad helper + 4, here', (),
         r".rodata\+0x8: R_AARCH64_ABS64 needs the address of a place of the object, which is known only when"),
        (old("ldr x0, 1f", "ret", "1: .quad 1b"), (), r"old\+0x8: R_AARCH64_ABS64 needs the address of a place"),
        (old("ldr x0, 1f", "ret", "1: .quad helper - ."), (), "R_AARCH64_PREL64 against helper has 64 bits"),
        (old("ldr x0, 1f", "ret", "1: .hword helper - .", ".hword 0"), (), "R_AARCH64_PREL16 .* -mcmodel"),
        (old("ldr x0, :got:helper", "ret"), (), "R_AARCH64_GOT_LD_PREL19 against helper needs a global"),
        (old("adrp x0, :got:helper", "ldr xzr, [x0, :got_lo12:helper]", "ret"), (), "ldr xzr, .* cannot become an add"),
        (old("movk x0, #0, lsl #16", "ret", ".reloc 0, R_AARCH64_MOVW_UABS_G0_NC, helper"), (), "is not for movk"),
        (old("adr x0, here", "ret") + '.section .rodata.cst8, "aM", %progbits, 8\nhere: .quad helper', (),
         ".rodata.cst8 has relocations, which strings and constants never have"),
        (old("adr x0, here", "ret") + '.section .gone, ""\nhere: .word 1', (), ".gone is in .gone, which is no part"),
        (old("ret", ".hword 0"), (), "old is no whole number of instructions inside its section"),
        (old("adr x0, here", "ret") + '.section .rodata, "a"\nhere: .skip 1 << 20', (), "with it more than 1 MiB"),
        (old("ldr x0, [x1, :gotpage_lo15:helper]", "ret"), (), "LO15 against helper needs a .* with -fPIC instead of"),
        (old("movz x0, #:prel_g0:helper", "ret"), (), "R_AARCH64_MOVW_PREL_G0 against helper cannot be"),
        (old("movz x0, #:abs_g0:helper", "ret"), (), "R_AARCH64_MOVW_UABS_G0 cannot hold the address helper"),
        (old("movz x0, #:abs_g1:mine", "ret") + function("mine", "ret"), (), "UABS_G1 needs the address of mine"),
        (old("ret", ".reloc 0, R_AARCH64_CALL26, helper"), (), "R_AARCH64_CALL26 is not for ret"),
        (old("ldrb w0, [x0]", "ret", ".reloc 0, R_AARCH64_LDST64_ABS_LO12_NC, helper"), (), "is not for ldrb"),
        (old("ldrb w0, [x0]", "ret", ".reloc 0, R_AARCH64_ADD_ABS_LO12_NC, helper"), (), "is not for ldrb"),
        (old("bl helper", "ret", ".reloc 0, R_AARCH64_CALL26, old"), (), "several relocations at one place"),
        (old("nop", "ret", ".reloc 2, R_AARCH64_ABS16, helper"), (), "R_AARCH64_ABS16 at no whole word"),
        (old(".inst 0x94000000", "ret", ".reloc 0, R_AARCH64_CALL26, 4"), (), "R_AARCH64_CALL26 without a"),
        (old("bl number", "ret") + ".globl number\n.set number, 4096", (), "number is a number, not an"),
        (old("adrp x0, .", "ret").replace("adrp x0, .", ".inst 0x90000000"), (), "adrp has no relocation"),
        (old(".inst 0x55ffffff", "ret"), (), "old: "),
        (old("nop"), (), "old does not end with a branch"),
        (old("b 1f", "ret") + "1: nop", (), r"\.text\+0x8 is in no function with a size"),
        (old("adr x0, 1f + 2", "1: ret"), (), r"old refers to old\+0x6, which is no instruction of it"),
        (old("b mine") + function("mine", "ret").replace("%function", "%gnu_indirect_function"), (),
         r"mine chooses another function when a program is loaded \(IFUNC\)"),
        (old("ret").replace(".globl", ".p2align 13\n.globl"), (), "old is aligned to 8192 bytes: an annex"),
        (new("ret"), ("pad=new",), "pad is too short for a branch: replace the functions that call it"),
        (new("ret"), ("signed=new",), "signed begins with paciasp, which stays, and new does not begin with"),
        (new("pacibsp", "ret"), ("signed=new",), "signed begins with paciasp"),
        (new("br x1"), ("guarded=new",), "new jumps by a register, and was compiled without the landing pads"),
        (new("bti c", "adr x0, 1f", "1: ret"), ("guarded=new",), r"new takes the address of new\+0x8, which"),
        *(
            (old("ret") + f'.section {section}, "a"\n.long old - .', (), f"old has an entry in {section}, and")
            for section in (
                ".altinstructions", "__jump_table", "__ex_table", "__bug_table", ".static_call_sites", ".init_array",
                ".init_array.00100", ".ctors", ".fini_array", ".dtors", ".preinit_array",
            )
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_linked_is_refused_by_name(
    source: str, replace: tuple[str, ...], why: str, linking: Linking
) -> None:
    with pytest.raises(LinkError, match=why) as error:
        linking(source, *replace)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("replace", "kind", "why"),
    [
        ("nothing=new", SymbolError, "there is no symbol 'nothing'"),
        ("old+4=new", SymbolError, "'old.4' is not the name of a function"),
        ("0x400000=new", SymbolError, "is not the name of a function"),
        ("old=nothing", RequestError, "fix.o has no function nothing: name one that it defines"),
        ("old", RequestError, "fix.o has no function old"),
    ],
)
def test_wrong_names(replace: str, kind: type[A64PatchError], why: str, linking: Linking) -> None:
    with pytest.raises(kind, match=why):
        linking(new("ret"), replace)
    with pytest.raises(RequestError, match="old is to be replaced twice"):
        linking(new("ret"), "old=new", "old=new")


def test_other_names_and_copies_of_a_function_are_told(linking: Linking) -> None:
    names = function("old", "ret", ".type same, %function", ".globl same", ".set same, old").replace(
        ".size old", ".size old"
    )
    copies = "".join(function(f"old.{rest}", "ret") for rest in ("constprop.0", "part.1", "cold", "c")) + function(
        "older", "ret"
    )
    target = linking.build(function("_start", "ret") + names + copies)
    assert linking(old("ret"), target=target).notes == (
        "old is replaced by old of fix.o; it is also called same",
        "old.constprop.0, old.part.1 of the target is another copy of old, and stays as it is",
    )


def test_all_reasons_are_told(linking: Linking) -> None:
    with pytest.raises(LinkError, match="old: missing is neither") as error:
        linking(old("bl missing", "bl other_missing", "ret"))
    assert error.value.__notes__ == [
        "old+0x4: other_missing is neither in fix.o nor in the target: add a function of it to the object (ld -r), or"
        " do without"
    ]


def test_functions_that_ftrace_does_not_see(linking: Linking) -> None:
    linked = linking(old("nop", "ret") + '.section __patchable_function_entries, "a"\n.quad old\n')
    assert linked.notes[1] == "old cannot be traced by ftrace: it has no entry in __patchable_function_entries"


def test_other_files_are_no_objects(linking: Linking, tmp_path: Path) -> None:
    big = assemble(old("ret"), tmp_path / "big.o", "-EB")
    with ElfFile(linking.target) as target:
        with pytest.raises(FormatError, match="is linked already: take the object file of a compiler"):
            link(linking.target, target)
        with pytest.raises(FormatError, match="has big-endian data, which cannot be linked"):
            link(big, target)


JUMP = ("adr x1, table", "ldrsw x2, [x1, x0, lsl #2]", "add x1, x1, x2", "br x1")
TABLE = '.section .rodata, "a"\n.p2align 2\n'


@pytest.mark.parametrize(
    ("source", "words"),
    [
        # Places in the function that uses the table, counted from the table or from the word.
        (old(*JUMP, "1: ret", "2: ret") + TABLE + ".word 0\ntable: .word 1b - table, 2b - table",
         [".word 0x00000000", "? .word .L1-.", "? .word .L2-annex:.rodata+0x4"]),
        (old(*JUMP, "1: ret", "2: ret") + TABLE + "table: .word 1b - .", ["? .word .L1-."]),
        # Functions, counted from the word or from the table.
        (old(*JUMP) + "nop\n.type mine, %function\nmine: ret\n.size mine, 4\n" + TABLE + "table: .word 0, mine - table",
         [".word 0x00000000", "? .word annex:mine-annex:.rodata"]),
        (old(*JUMP) + function("mine", "ret") + TABLE + "table: .word 0, mine - table",
         [".word 0x00000000", "? .word annex:mine-annex:.rodata"]),
        (old(*JUMP) + TABLE + "table: .word helper - table, helper - .",
         ["? .word helper-.", "? .word helper-."]),
        # Distances inside the section are constants.
        (old(*JUMP) + TABLE + "table: .word 0, 0, 0\n.reloc table, R_AARCH64_PREL32, table + 8\n"
         ".reloc table + 4, R_AARCH64_PREL64, table", [".word 0x00000008", ".word 0xfffffffc", ".word 0xffffffff"]),
        (old(*JUMP) + TABLE + "table: .word table - ., table - .\n.quad table - .",
         [".word 0x00000000", ".word 0xfffffffc", ".word 0xfffffff8", ".word 0xffffffff"]),
    ],
)  # fmt: skip
def test_tables_of_distances(source: str, words: list[str], linking: Linking) -> None:
    assert annexes(linking(source))[".rodata"] == words


def test_a_distance_that_may_mean_two_things_is_refused(linking: Linking) -> None:
    local = ".type mine, %function\nmine: ret\n.size mine, . - mine\n"
    with pytest.raises(
        LinkError, match=r".rodata\+0x4: the word may mean a place in one of two functions: .*-sections"
    ):
        linking(old(*JUMP, "ret") + local + TABLE + "table: .word 0, mine - .")
    with pytest.raises(LinkError, match=r".rodata\+0x8: the word may mean a place in one of two functions"):
        linking(old(*JUMP) + local.replace("ret", "nop\n1: ret") + TABLE + "table: .word 0, 0, 1b - .")
    with pytest.raises(LinkError, match=r".rodata\+0x4: R_AARCH64_PREL32 refers into a function, by a table without"):
        linking(
            old("adr x1, table + 4", "ret") + local.replace("ret", "nop\n1: ret") + TABLE + "table: .word 0, 1b - ."
        )


def test_a_damaged_object_is_linked_or_refused(linking: Linking, tmp_path: Path) -> None:
    """Whatever its bytes are, and soon."""
    source = old(*JUMP, "bl helper", "adr x0, here", "ldr x0, [x0, :lo12:counter]", "1: ret") + function("mine", "ret")
    path = assemble(f"{source}{TABLE}table: .word 1b - table, mine - .\n{STRINGS}", tmp_path / "whole.o")
    whole = path.read_bytes()
    chance = random.Random(1)
    damaged = tmp_path / "damaged.o"
    results = set[str]()
    with ElfFile(linking.target) as target:
        for _ in range(rounds(20000, 400)):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(64, len(data))] = chance.choice((0, 1, 4, 0x7F, 0xFF, chance.randrange(256)))
            damaged.write_bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data))))])
            try:
                linked = link(damaged, target, ["old"])
                assert parse(to_text(linked.diff)) == linked.diff
                results.add("linked")
            except A64PatchError as error:
                results.add(type(error).__name__)
    assert {"linked", "LinkError", "FormatError"} <= results

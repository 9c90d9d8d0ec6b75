"""Sites: one grammar, and any name prints as a site that reads back as this name."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from a64patch.a64.assembler import assemble, assemble_one
from a64patch.a64.disassembler import disassemble, disassemble_naming
from a64patch.a64.names import LONGEST_NAME, Site, parse_site, quoted, site_text
from a64patch.errors import A64PatchError, AssemblyError, SymbolError
from a64patch.patch.asmdiff import AsmDiff, Hunk, Line, parse, to_text
from a64patch.patch.meaning import Place, exact_word, fixed_bits, needs_pages
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.symbols import Space, Symbol, SymbolTable
from tests.support import assemble as gnu_assemble
from tests.support import need

ODD = [
    "main.(*T).Run", "type:.eq.struct { F string \"json:\\\"x\\\"\" }", "main.F[go.shape.int]", "a·b",
    "_ZN4core3ptr49drop_in_place$LT$$u7b$closure$u7d$$GT$17h0123456789abcdefE", "_RNvCs1234_7mycrate3foo",
    "operator new(unsigned long)", "std::vector<int, std::allocator<int> >::push_back(int const&)", "operator+",
    "operator,", "operator\"\"_km", "memcpy@@GLIBC_2.17", "memcpy@GLIBC_2.17", "abort@plt", "f.isra.0", "f.llvm.1234",
    "f-4", "f--4", "f-x", "a+4", "a + 0x8", "a:b", "a:0x10", "0x10", "12", "1b", "1f", ".", ".text", ".+8", "#5", "'",
    "';'", "\"", "\"\"", "\\", "\\\"", "\\101", "//", "a//b", "a/*b*/", "a;b", "#", "@@", "a @@", "@@ -1 +1 @@", "-1",
    "+1", " ", "  ", " a", "a ", "a  b", "\t", "\n", "\u2028", "\xa0", "é", "名前", "٣", "\u202e", ":lo12:a",
    "a:lo12:b", "x0", "sp", "=a", "a=b", "[x0]", "z0", "a b.c", "$x",
]  # fmt: skip
NAMES = st.text(min_size=1, max_size=12) | st.text("a1.$@-+:\"\\ \t/;#'*()[]{},0xé٣_\n", min_size=1, max_size=8)
NAMES |= st.sampled_from(ODD)
REFERENCES = ["b", "bl", "cbz x3,", "tbnz w1, #3,", "adr x0,", "ldr x0,", "prfm pldl1keep,"]
START = 0x40_0000


def each_odd_name(example_of: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A decorator that tries each of ODD in each run, and not only those that hypothesis takes."""

    def decorate(test: Any) -> Any:
        for name in ODD:
            test = example_of(name)(test)
        return test

    return decorate


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("main", Site("main")),
        ("main+0x18", Site("main", offset=0x18)),
        ("main+24", Site("main", offset=24)),
        ("ext4:sync+8", Site("sync", "ext4", 8)),
        ('"main"', Site("main")),
        ('"main.(*T).Run"+0x8', Site("main.(*T).Run", offset=8)),
        ("main.(*T).Run+0x8", Site("main.(*T).Run", offset=8)),
        ('"std::f(int, char)"', Site("std::f(int, char)")),
        ('"libstdc++.so.6":"operator new"+4', Site("operator new", "libstdc++.so.6", 4)),
        ("memcpy@@GLIBC_2.17+4", Site("memcpy@@GLIBC_2.17", offset=4)),
        (r'"a\"b\\c\303\251"', Site('a"b\\cé')),
        ("0x10", Site("0x10", is_number=True)),
        ('"0x10"', Site("0x10")),
        (".text:16", Site("16", ".text", is_number=True)),
        (".text:0x10+4", Site("0x10", ".text", 4, is_number=True)),
        ('.text:"0x10"', Site("0x10", ".text")),
        ("", None),
        ('""', None),
        ('"":a', None),
        ("a:", None),
        (":a", None),
        ("a::b", None),
        ("a:b:c", None),
        ("a b", None),
        ('"a', None),
        ('a"b"', None),
        ('"a"b', None),
        ('"a"+', None),
        ('"a"+x', None),
        (r'"\n"', None),
        (r'"\400"', None),
        (r'"\303"', None),
        (r'"\12"', None),
        ("a+0x11111111111111111", None),
        ("a\n", None),
    ],
)
def test_the_grammar_of_a_site(text: str, site: Site | None) -> None:
    assert parse_site(text) == site


@pytest.mark.parametrize(
    "name",
    [
        "main",
        "_start",
        "memcpy@@GLIBC_2.17",
        "abort@plt",
        ".text.unlikely",
        "f.isra.0",
        "$a",
        "naïve",
        "nf-core",
        "a.b-cgu.0",
    ],
)
def test_usual_names_need_no_quotes(name: str) -> None:
    assert quoted(name) == name


@given(NAMES, NAMES | st.just(""), st.integers(0, 1 << 40))
@each_odd_name(lambda name: example(name, name, 8))
def test_any_name_prints_as_a_site_that_reads_back(name: str, owner: str, offset: int) -> None:
    text = site_text(name, owner, offset)
    assert text.isprintable()
    assert parse_site(text) == Site(name, owner, offset)


def around(name: str, owner: str = "") -> SymbolTable:
    """Names that a wrong reading of `name` could hit, and `name` itself at START + 0x40."""
    others = {name[:end] for end in range(1, len(name))} | {name[start:] for start in range(1, len(name))}
    others |= {name.strip(), name.replace("\\", ""), " ".join(name.split()), f"{name}+0x4", f'"{name}"'} - {name, ""}
    decoys = [Symbol(other, START + 0x100, 0x20) for other in sorted(others)]
    return SymbolTable(
        lambda: [Symbol(name, START + 0x40, 0x20, owner), *decoys], [Space(".text", START, START + 0x200)]
    )


@given(NAMES, st.sampled_from(REFERENCES), st.integers(0, 7))
@each_odd_name(lambda name: example(name, "bl", 2))
def test_any_name_prints_as_an_operand_that_assembles_to_the_same_word(name: str, mnemonic: str, words: int) -> None:
    symbols, place, goal = around(name), START + 0x80, START + 0x40 + 4 * words
    word = assemble_one(f"{mnemonic} {goal:#x}", place)
    text = disassemble(word, place, symbols)
    assert quoted(name) in text
    assert assemble_one(text, place, symbols) == word
    assert assemble(f"nop; {text} // and a remark; nop", place - 4, symbols)[1:] == [word]


@given(NAMES, st.sampled_from(["add x0, x0, #0x44", "ldr w1, [x2, #0x44]", "adrp x0, 0x400000"]))
def test_any_name_gives_a_page_or_low_bits(name: str, source: str) -> None:
    symbols, word = around(name), assemble_one(source, START)
    text = disassemble_naming(word, START, symbols.describe(START + 0x44))
    assert text is not None
    assert quoted(name) in text
    assert assemble_one(text, START, symbols) == word


@given(NAMES, NAMES, st.integers(0, 7))
def test_any_name_is_described_by_a_site(name: str, owner: str, words: int) -> None:
    for symbols in (around(name), around(name, owner)):
        address = START + 0x40 + 4 * words
        assert symbols.describe(address) == site_text(name, "", 4 * words)
        assert symbols.resolve(symbols.describe(address)) == address
        assert symbols.holds(symbols.describe(address))
    both = SymbolTable(
        lambda: [Symbol(name, START + 0x40, 0x20, owner), Symbol(name, START + 0x100, 0x20, owner + "2")]
    )
    assert both.describe(address) == site_text(name, owner, 4 * words)
    assert both.resolve(both.describe(address)) == address


@pytest.mark.parametrize("name", ["std::f", "operator new(unsigned long)", 'a"b'])
def test_the_error_says_which_name_needs_quotes(name: str) -> None:
    with pytest.raises(SymbolError, match="is a site in double quotes only") as error:
        around(name).resolve(name)
    assert str(error.value).endswith(f": write {quoted(name)}")


@given(NAMES, NAMES, st.integers(0, 7), st.booleans())
@each_odd_name(lambda name: example(name=f"{name}1", called=name, words=2, counted=True))
def test_any_name_stands_in_a_patch_that_prints_the_same_again(
    name: str, called: str, words: int, counted: bool
) -> None:
    assume(name != called)
    symbols = SymbolTable(lambda: [Symbol(name, START, 0x40), Symbol(called, START + 0x40, 0x40)])
    address = START + 4 * words
    old, new = (disassemble(assemble_one(f"bl {START + at:#x}", address), address, symbols) for at in (0x44, 0x48))
    lines = (
        Line("-", assemble_one(old, address, symbols), old),
        Line("+", assemble_one(new, address, symbols), f"{new}  // was  {name!a}"),
    )
    diff = AsmDiff((Hunk(symbols.describe(address), lines, counted=counted),))
    text = to_text(diff)
    read = parse(text)
    assert symbols.resolve(read.hunks[0].site) == address
    assert read.hunks[0].lines[0] == lines[0]
    assert to_text(parse(to_text(read))) == to_text(read)
    assert [exact_word(line, Place(symbols, address)) for line in read.hunks[0].lines] == [line.word for line in lines]


@pytest.mark.parametrize("name", [":lo12:a", "x :LO12: y"])
def test_a_name_in_quotes_gives_no_low_bits(name: str) -> None:
    """The word of such a branch is the same on every build but for its distance."""
    line = Line("-", 0x94000000, f"bl {quoted(name)}")
    assert not needs_pages(line.text)
    assert fixed_bits(line) == 0xFC000000
    assert needs_pages(f"add x0, x0, :lo12:{quoted(name)}")


@pytest.mark.parametrize("length", [150, 1000, LONGEST_NAME - 2])
@pytest.mark.parametrize("character", ["a", "é", "<"])
def test_long_names_are_names_too(length: int, character: str) -> None:
    name = character * length
    symbols = SymbolTable(lambda: [Symbol(name, START, 0x40)])
    text = disassemble(assemble_one(f"tbz w0, #1, {START:#x}", START + 8), START + 8, symbols)
    assert assemble_one(text, START + 8, symbols) == assemble_one(f"tbz w0, #1, {START:#x}", START + 8)
    line = f"-00000000  {text}\n"
    assert parse(f"@@ {symbols.describe(START)} @@\n{line}").hunks[0].lines[0].text == text


@pytest.mark.parametrize("name", ["a" * (LONGEST_NAME + 1), '"' * (LONGEST_NAME // 2)])
def test_a_name_that_no_patch_can_have_is_not_printed(name: str) -> None:
    assert SymbolTable(lambda: [Symbol(name, START, 0x40)]).describe(START + 4) == f"{START + 4:#x}"


@pytest.mark.parametrize(
    "text", ["b " + "(" * 5000, "b " + "a" * 5000, 'b "' + "<" * 5000 + '"', "b " + " " * 5000 + "a"]
)
def test_longer_instructions_are_refused(text: str) -> None:
    with pytest.raises(AssemblyError, match=r"an instruction of 50\d\d characters"):
        assemble_one(text + ")", 0, SymbolTable())


def test_a_label_may_have_quotes() -> None:
    [first, second] = assemble('"a: b": nop; b "a: b"', 0)
    assert (first, second) == (0xD503201F, 0x17FFFFFF)
    assert assemble('loop: nop; b "loop"') == assemble("loop: nop; b loop")
    with pytest.raises(A64PatchError, match="there is no label"):
        assemble('1: nop; b "1b"')  # a name in quotes is no local label


def test_versions_and_stubs_of_one_function_are_names_of_their_own() -> None:
    names = ("memcpy", "memcpy@plt", "memcpy@GLIBC_2.17", "memcpy@@GLIBC_2.18")
    symbols = SymbolTable(lambda: [Symbol(name, START + 16 * n, 16) for n, name in enumerate(names)])
    assert [symbols.resolve(f"{name}+4") for name in names] == [START + 16 * n + 4 for n in range(4)]
    assert [symbols.describe(START + 16 * n) for n in range(4)] == list(names)


FOR_ASSEMBLERS = [name for name in ODD if name.isprintable() and name not in (".", ".text", "$x")]
"""Without names that mean something else to an assembler, and without those that we write as bytes."""


def test_gnu_as_reads_the_same_quoted_names(tmp_path: Path) -> None:
    """All of them: it reads `\\"` and `\\\\` in the same way."""
    names = FOR_ASSEMBLERS
    lines = [f".globl {_in_quotes(name)}\n{_in_quotes(name)}: nop\n bl {_in_quotes(name)}" for name in names]
    path = gnu_assemble("\n".join([*lines, ""]), tmp_path / "names.o")
    found = [symbol.name for symbol in ElfImage(path.read_bytes(), "names.o").symbols()]
    assert sorted(found) == sorted(names)


def test_llvm_mc_reads_the_same_quoted_names(tmp_path: Path) -> None:
    """Those without `\\"` and `\\\\`: llvm-mc 19 keeps these backslashes."""
    judge = need("llvm-mc", "llvm")
    names = [name for name in FOR_ASSEMBLERS if "\\" not in quoted(name)]
    lines = [f".globl {_in_quotes(name)}\n{_in_quotes(name)}: nop\n bl {_in_quotes(name)}" for name in names]
    path = tmp_path / "names.o"
    command = [judge, "-triple", "aarch64", "-filetype=obj", "-o", str(path)]
    subprocess.run(command, input="\n".join(lines), text=True, check=True, capture_output=True)
    found = [symbol.name for symbol in ElfImage(path.read_bytes(), "names.o").symbols()]
    assert sorted(found) == sorted(names)


def _in_quotes(name: str) -> str:
    """As `quoted`, but with quotes around every name: both assemblers take bare names of fewer characters."""
    text = quoted(name)
    return text if text[0] == '"' else f'"{text}"'

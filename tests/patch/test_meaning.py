"""What a line means: word and text agree or are refused, and on another build the text says what is referred to."""

from __future__ import annotations

import pytest

from a64patch.a64.assembler import assemble_one
from a64patch.errors import PatchFormatError, PlanError, SymbolError
from a64patch.patch.asmdiff import Line, Sign
from a64patch.patch.meaning import Place, comparable_word, exact_word, new_word, refers, words_by_meaning
from a64patch.targets.symbols import Symbol, SymbolTable

F, G, INIT, DATA = 0x1000, 0x1100, 0x1200, 0x5678
SYMBOLS = SymbolTable(
    lambda: [
        Symbol("f", F, 0x80),
        Symbol("g", G, 0x40),
        Symbol("_init", INIT, 0, limit=INIT + 0x18),
        Symbol("data", DATA, 8),
        Symbol("number", 0x10, 0, limit=0x10),
    ]
)
SYMBOL = Symbol("f", F, 0x80)


def place(distance: int = 0x10, offset: int = 0) -> Place:
    """In f; the hunk has four words."""
    address = F + distance + offset
    return Place(SYMBOLS, address, offset, SYMBOL, address & -16, (address & -16) + 16)


def line(text: str, word: int | None = None, sign: Sign = "-", at: int = F + 0x10) -> Line:
    """The word is what the text means at f+0x10 of this build, unless it is given."""
    return Line(sign, assemble_one(text, at, SYMBOLS) if word is None else word, text, 7)


def word(text: str, address: int = F + 0x10) -> int:
    return assemble_one(text, address, SYMBOLS)


# On the build that the patch was made for


@pytest.mark.parametrize(
    "text",
    ["nop", "NOP // spelled otherwise", "bl g", "bl 0x1100", "bl .+0xf0", "b.hs f+0x20", "add x0, x0, :lo12:data", ""],
)
def test_words_and_texts_that_agree(text: str) -> None:
    made = line(text.partition("//")[0], None) if text else line("nop")
    assert exact_word(Line("-", made.word, text), place()) == made.word


@pytest.mark.parametrize(
    ("text", "other"),
    [("nop", "yield"), ("bl g", "bl f"), ("bl g", "b g"), ("mov x0, #1", "mov w0, #1"), ("bl 0x1100", "bl 0x1104")],
)
def test_words_and_texts_that_disagree(text: str, other: str) -> None:
    with pytest.raises(PatchFormatError, match=r"line 7, column 2: the word .* but the text .* correct one"):
        exact_word(line(text, word(other)), place())


def test_a_text_that_is_no_instruction() -> None:
    for check in (exact_word, words_by_meaning, new_word):
        with pytest.raises(PatchFormatError, match=r"line 7, column 12: .*does not know 'frobnicate'"):
            check(line("frobnicate x0", 0), place())
        with pytest.raises(PatchFormatError, match="line 7, column 12"):
            check(line("bl g, g", word("bl g")), place())


def test_an_unknown_word() -> None:
    for check in (exact_word, words_by_meaning, new_word):
        with pytest.raises(PatchFormatError, match="a64patch fmt PATCH TARGET"):
            check(Line("+", None, "nop", 3), place())


@pytest.mark.parametrize("text", ["bl gone", "cbz x3, gone+8", "add x3, x4, :lo12:gone", "adrp x1, gone"])
def test_a_symbol_that_the_target_lacks_leaves_the_distance_unchecked(text: str) -> None:
    known = line(text.replace("gone", "g"))
    assert exact_word(line(text, known.word), place()) == known.word
    with pytest.raises(PatchFormatError, match="but the text"):
        exact_word(line(text, word("ret")), place())


@pytest.mark.parametrize(
    ("text", "same", "other"),
    [
        ("bl 0xffffffc008000000", "bl .+4", "b .+4"),
        ("cbz x1, elsewhere+4", "cbz x1, .", "cbz x2, ."),
        ("ldr x1, [x2, :lo12:elsewhere]", "ldr x1, [x2, #64]", "ldr x1, [x3, #64]"),
        ("adrp x1, 0x500000", "adrp x1, 0x1000", "adr x1, ."),
        ("mov x0, #1", "mov x0, #1", "mov x0, #2"),
    ],
)
def test_without_a_place_all_but_distances_is_compared(text: str, same: str, other: str) -> None:
    assert comparable_word(line(text, word(same))) == word(same)
    with pytest.raises(PatchFormatError, match="but the text"):
        comparable_word(line(text, word(other)))


# On another build


@pytest.mark.parametrize(
    ("made", "meant"),
    [
        (line("mov x0, #1"), [word("mov x0, #1")]),
        (Line("-", word("bl g")), [word("bl g")]),
        (line("bl g", word("bl .+4")), [word("bl g")]),
        (line("adrp x0, data", word("adrp x0, 0x0")), [word("adrp x0, data")]),
        (line("add x0, x0, :lo12:data", word("add x0, x0, #1")), [word("add x0, x0, #0x678")]),
        (line("ldr x0, [x1, :lo12:data]", word("ldr x0, [x1]")), [word("ldr x0, [x1, #0x678]")]),
        (line("b.eq 0x900000", word("b.eq .+8")), [word("b.eq .+8")]),
        (line("b.eq .+8"), [word("b.eq .+8")]),
        (line("b f+0x40"), [word("b f+0x40")]),
        (line("bl _init+0x14", word("bl .+4")), [word("bl _init+0x14")]),
        (line("bl _init+0x18", word("bl .+4")), [word("bl .+4")]),
        (line("bl _init+0x68", word("bl .+4")), [word("bl .+4")]),
        (line("bl g+0x40", word("bl .+4")), [word("bl .+4")]),
        (line("add x0, x0, :lo12:data+0x8", word("add x0, x0, #1")), [word("add x0, x0, #1")]),
    ],
)
def test_what_the_words_mean(made: Line, meant: list[int]) -> None:
    assert list(words_by_meaning(made, place())) == meant


def test_within_its_function_both_the_distance_and_the_offset_may_hold() -> None:
    made = line("b f+0x40")
    moved = word("b f+0x40", F + 0x18)
    assert words_by_meaning(made, place(offset=8)) == (moved, made.word)


def test_a_context_line_may_lead_anywhere_in_its_function() -> None:
    for found, sign, taken in (
        ("b f+0x60", " ", True),
        ("b f+0x60", "-", False),
        ("b f+0x90", " ", False),
        ("b g", " ", False),
    ):
        stands = word(found, F + 0x18)
        words = words_by_meaning(line("b f+0x40", sign=sign), place(offset=8), stands)  # type: ignore[arg-type]
        assert (stands in words) is taken
    elsewhere = word("b.eq f+0x60", F + 0x18)
    assert elsewhere not in words_by_meaning(line("b.ne f+0x40", sign=" "), place(offset=8), elsewhere)


def test_a_distance_into_this_function_does_not_make_a_call_of_another_one_local() -> None:
    assert words_by_meaning(line("bl g", word("bl .+16")), place(offset=8)) == (word("bl g", F + 0x18),)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("mov x0, #1", "mov x0, #2"),
        ("bl g", "b g"),
        ("cbz x0, g", "cbnz x0, g"),
        ("b f+0x40", "b f+0x44"),
        ("add x0, x0, :lo12:data", "add x1, x0, #1"),
        ("b.eq 0x900000", "b.ne .+8"),
    ],
)
def test_disagreements_that_no_build_explains(text: str, other: str) -> None:
    for offset in (0, 8):
        with pytest.raises(PatchFormatError, match=r"line 7, column 2: the word .* but the text"):
            words_by_meaning(line(text, word(other)), place(offset=offset))


def test_a_name_that_the_target_lacks() -> None:
    with pytest.raises(SymbolError, match="no symbol 'gone'"):
        words_by_meaning(line("bl gone", word("bl .+4")), place())


def test_a_name_that_is_too_far_away() -> None:
    table = SymbolTable(lambda: [SYMBOL, Symbol("far", 1 << 40)])
    with pytest.raises(PatchFormatError, match=r"line 7, column 12: .* must be within"):
        words_by_meaning(line("bl far", word("bl .+4")), Place(table, F + 0x10, 0, SYMBOL))


def test_a_name_whose_low_bits_do_not_fit() -> None:
    with pytest.raises(PatchFormatError, match=r"line 7, column 12: .* must be a multiple of 16"):
        words_by_meaning(line("ldr q0, [x1, :lo12:data]", word("ldr q0, [x1, #16]")), place())


# What is written


@pytest.mark.parametrize(
    ("made", "new"),
    [
        (line("mov x0, #1"), "mov x0, #1"),
        (line("bl g", word("bl .+4")), "bl g"),
        (line("adrp x0, data", word("adrp x0, 0x0")), "adrp x0, data"),
        (line("add x0, x0, :lo12:data", word("add x0, x0, #1")), "add x0, x0, #0x678"),
        (line("b f+0x1c"), "b f+0x1c"),
        (line("b f+0x60"), "b f+0x60"),
        (line("b .+8"), "b .+8"),
        (line("b .+0x40"), "b .+0x40"),
        (Line("+", word("cbz x0, .+0x20")), "cbz x0, .+0x20"),
    ],
)
def test_new_words(made: Line, new: str) -> None:
    assert new_word(made, place()) == word(new)


def test_a_call_into_the_hunk_by_a_stale_distance_is_still_a_call_of_the_function_it_names() -> None:
    assert new_word(line("bl g", word("bl .+4")), place()) == word("bl g")
    assert new_word(line("bl g", word("bl .+4")), place(offset=8)) == word("bl g", F + 0x18)


def test_a_branch_within_a_moved_hunk_keeps_its_distance() -> None:
    for text in ("b f+0x1c", "b .+12"):
        assert new_word(line(text), place(offset=0x20)) == word("b .+12")


@pytest.mark.parametrize(
    ("made", "offset", "why"),
    [
        (line("bl 0x4000"), 0, "on another build is not known: give its text with a symbol"),
        (Line("+", word("bl 0x4000"), "", 7), 0, "line 7: the meaning of '94000bfc'"),
        (line("b .+0x40"), 8, "is not known"),
        (line("bl _init+0x68"), 0, "the meaning of 'bl _init[+]0x68' on another build is not known"),
        (line("bl g+0x40"), 0, "that reaches to the address"),
        (line("adrp x0, data+0x8"), 0, "is not known"),
        (line("add x0, x0, :lo12:data+0x8"), 0, "is not known"),
        (line("ldr x0, [x1, :lo12:number+0x10]"), 0, "is not known"),
        (line("b f+0x60"), 8, "refers to its own function, which has changed around it"),
    ],
)
def test_new_words_whose_meaning_is_not_known(made: Line, offset: int, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        new_word(made, place(offset=offset))


def test_which_words_refer() -> None:
    assert [refers(word(text)) for text in ("b f", "adrp x0, f", "ldr x0, f", "nop", "add x0, x0, :lo12:data")] == [
        True, True, True, False, False,
    ]  # fmt: skip

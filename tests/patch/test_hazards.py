"""Each hazard is seen where it is, and not where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from a64patch.a64.assembler import assemble_one
from a64patch.a64.generate import gen_nop
from a64patch.a64.words import from_bytes
from a64patch.patch.hazards import NAMES, Hazard, hazards_of
from a64patch.patch.sites import sites_of, spans_of
from a64patch.targets.base import Target
from a64patch.targets.elf import ElfFile
from a64patch.targets.section import Change
from a64patch.targets.symbols import Symbol
from tests.patch.fake import BASE, FakeTarget
from tests.support import assemble, link


def words_of(code: str, base: int = BASE) -> list[int]:
    return [assemble_one(text, base + 4 * index) for index, text in enumerate(code.split("; "))]


def hazards(old: str, new: dict[int, str]) -> list[Hazard]:
    """Those of changing the words with these numbers to these instructions."""
    olds = words_of(old)
    changes = [
        Change(BASE + 4 * index, olds[index], assemble_one(text, BASE + 4 * index)) for index, text in new.items()
    ]
    found = all_hazards(unsized(olds), changes)
    assert all(hazard.name in NAMES and hazard.sentence for hazard in found)
    return found


def unsized(words: Sequence[int]) -> FakeTarget:
    """A target with one function whose end is not known, so that no CPU can be kept out of it."""
    target = FakeTarget(words)
    target.name(Symbol("site", BASE, 0))
    return target


def all_hazards(target: Target, changes: Sequence[Change]) -> list[Hazard]:
    return hazards_of(target, changes, sites_of(target, changes, spans_of(changes, join=0)))


def names(found: Sequence[Hazard]) -> list[tuple[str, int]]:
    return [(hazard.name, (hazard.address - BASE) // 4) for hazard in found]


def test_unpredictable_word() -> None:
    """A new word whose registers collide, but no word that is in the target already."""
    found = hazards("nop; nop; ldp x1, x1, [x2]; nop", {1: "ldr x0, [x0], #8", 2: "ldp x1, x1, [x2]", 3: "nop"})
    assert names([hazard for hazard in found if hazard.name == "unpredictable"]) == [("unpredictable", 1)]
    assert found[0].sentence == (
        "the new word at site+0x4, `ldr x0, [x0], #8`: x0 is loaded and is also the base that is written back:"
        " CONSTRAINED UNPREDICTABLE (Arm ARM K1, A64 instructions)"
    )


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        # Into the second word of a site of two: by a branch, a conditional one, a call; by the address that ADR forms.
        ("b 0x100c; nop; nop; nop; nop", {2: "mov x0, #1", 3: "mov x1, #1"}, [("branch-into-site", 3)]),
        ("cbz x0, 0x100c; nop; nop; nop", {2: "mov x0, #1", 3: "mov x1, #1"}, [("branch-into-site", 3)]),
        ("nop; nop; ret; bl 0x1004", {0: "mov x0, #1", 1: "mov x1, #1"}, [("branch-into-site", 1)]),
        ("adr x0, 0x100c; nop; nop; nop", {2: "mov x0, #1", 3: "mov x1, #1"}, [("branch-into-site", 3)]),
        # To its first word, to a site of one word, behind it.
        ("b 0x1008; nop; nop; nop", {2: "mov x0, #1", 3: "mov x1, #1"}, []),
        ("b 0x1008; nop; nop", {2: "mov x0, #1"}, []),
        ("b 0x1010; nop; nop; nop; nop", {2: "mov x0, #1", 3: "mov x1, #1"}, []),
        # By new code of the same site, and by old code that goes away.
        ("nop; nop; nop", {0: "b 0x1008", 1: "nop", 2: "mov x0, #1"}, []),
        ("b 0x1008; nop; nop", {0: "nop", 1: "mov x0, #1", 2: "mov x0, #2"}, []),
        # By new code of another site.
        ("nop; nop; nop; nop", {0: "b 0x100c", 2: "mov x0, #1", 3: "mov x0, #2"}, [("branch-into-site", 3)]),
        # A call in the old code returns into the site; at its end it does not.
        ("bl 0x1010; nop; nop; nop; ret", {0: "mov x0, #1", 1: "mov x0, #2"}, [("return-into-site", 0)]),
        ("blr x1; nop; nop", {0: "mov x0, #1", 1: "mov x0, #2"}, [("return-into-site", 0)]),
        ("nop; bl 0x1010; nop; nop; ret", {0: "mov x0, #1", 1: "mov x0, #2"}, []),
        ("br x1; nop", {0: "mov x0, #1", 1: "mov x0, #2"}, []),
        # Literals without a mapping symbol: of 4, 8 and 16 bytes, and words beside them. A prefetch reads none.
        ("ldr w0, 0x1008; ret; nop", {2: "nop"}, [("data", 2)]),
        ("ldr w0, 0x1008; ret; mov x0, #1; mov x0, #2", {3: "nop"}, []),
        ("ldr x0, 0x1008; ret; mov x0, #1; mov x0, #2", {3: "nop"}, [("data", 3)]),
        ("ldr q0, 0x1004; nop; nop; nop; mov x0, #2; mov x0, #3", {4: "nop", 5: "nop"}, [("data", 4)]),
        ("prfm pldl1keep, 0x1008; ret; mov x0, #1", {2: "nop"}, []),
        # Landing pads.
        ("bti c", {0: "nop"}, [("landing-pad", 0)]),
        ("paciasp", {0: "nop"}, [("landing-pad", 0), ("pac-pair", 0)]),
        ("bti jc", {0: "bti c"}, [("landing-pad", 0)]),
        ("paciasp; retaa", {0: "bti c", 1: "ret"}, []),
        ("bti c", {0: "brk #0"}, []),
        ("bti", {0: "nop"}, []),
        ("nop", {0: "bti c"}, []),
        ("brk #0", {0: "nop"}, []),
        ("paciasppc", {0: "nop"}, [("landing-pad", 0), ("pac-pair", 0)]),
        ("bti c", {0: "paciasppc"}, [("pac-pair", 0)]),
        # The function is not known: signing and authenticating become more together, or fewer.
        ("nop; paciasp; nop; autiasp; ret", {3: "nop"}, [("pac-pair", 3)]),
        ("nop; bti c; nop; retaa", {1: "paciasp"}, [("pac-pair", 1)]),
        ("bti c; nop; ret", {0: "paciasp", 2: "retaa"}, []),
        # Halves of an address.
        ("adrp x0, 0x2000; add x0, x0, #16", {0: "nop"}, [("address-pair", 0)]),
        ("adrp x0, 0x2000; nop; ldr x1, [x0, #16]", {2: "mov x1, #0"}, [("address-pair", 2)]),
        ("adrp x0, 0x2000; add x0, x0, #16", {0: "nop", 1: "mov x0, #0"}, []),
        ("adrp x0, 0x2000; add x1, x2, #16", {1: "nop"}, []),
        ("adrp x0, 0x2000; ldr x1, [x0, #16]", {1: "ldr x2, [x0, #16]"}, []),
        ("adrp x0, 0x2000; ldr x1, [x0, #16]", {1: "ldr x1, [x0, #24]"}, [("address-pair", 1)]),
        ("adrp x0, 0x2000; nop; add x0, x0, #16", {1: "mov x1, #0"}, []),
        ("adrp x0, 0x2000; ldr q1, [x0, #16]", {0: "nop"}, [("address-pair", 0)]),
        ("adrp x0, 0x2000; add x0, x0, #1, lsl #12", {1: "nop"}, []),
        ("adrp x0, 0x2000; cmp x0, #16", {1: "nop"}, []),
        # A memory access and then a 64-bit multiply-accumulate: new as a whole, or across the border of the change.
        ("nop; nop", {0: "ldr x1, [x0]", 1: "madd x2, x3, x4, x5"}, [("erratum-835769", 1)]),
        ("ldr x1, [x0]; nop", {1: "madd x2, x3, x4, x5"}, [("erratum-835769", 1)]),
        ("nop; msub x2, x3, x4, x5", {0: "str x1, [x0]"}, [("erratum-835769", 1)]),
        ("nop; nop; smaddl x2, w3, w4, x5", {1: "prfm pldl1keep, [x0]"}, [("erratum-835769", 2)]),
        ("ldp x6, x7, [x0]; nop", {1: "smsubl x2, w3, w4, x5"}, [("erratum-835769", 1)]),
        ("ldr x6, [x3], #8; nop", {1: "umaddl x2, w3, w4, x5"}, [("erratum-835769", 1)]),
        ("ldr q3, [x0]; nop", {1: "umsubl x2, w3, w4, x5"}, [("erratum-835769", 1)]),
        ("ldr x1, [x0]; madd x2, x1, x4, x5", {1: "madd x2, x3, x4, x5"}, [("erratum-835769", 1)]),
        # A load of what is multiplied or added; no accumulator; 32 bits; not next to it; as the old code had it.
        ("ldr x5, [x0]; nop", {1: "madd x2, x3, x4, x5"}, []),
        ("ldr x3, 0x1010; nop", {1: "madd x2, x3, x4, x5"}, []),
        ("ldr w3, [x3]; nop", {1: "smaddl x2, w3, w4, x5"}, []),
        ("ldp x6, x4, [x0]; nop", {1: "madd x2, x3, x4, x5"}, []),
        ("str x3, [x0]; nop", {1: "madd x2, x3, x4, x5"}, [("erratum-835769", 1)]),
        ("ldr x1, [x0]; nop", {1: "mul x2, x3, x4"}, []),
        ("ldr x1, [x0]; nop", {1: "smulh x2, x3, x4"}, []),
        ("ldr x1, [x0]; nop", {1: "madd w2, w3, w4, w5"}, []),
        ("ldr x1, [x0]; nop; nop", {2: "madd x2, x3, x4, x5"}, []),
        ("madd x2, x3, x4, x5; nop", {1: "ldr x1, [x0]"}, []),
        ("ldr x1, [x0]; madd x2, x3, x4, x5", {0: "ldr x6, [x0]"}, []),
        ("ldr x1, [x0]; madd x2, x3, x4, x5", {1: "nop"}, []),
        # Between a load-exclusive and its store-exclusive, both included.
        ("ldxr x0, [x1]; nop; stxr w2, x0, [x1]", {1: "ldr x3, [x4]"}, [("exclusive", 1)]),
        ("ldxr x0, [x1]; nop; stxr w2, x0, [x1]", {0: "ldr x0, [x1]"}, [("exclusive", 0)]),
        ("ldaxr x0, [x1]; nop; stlxr w2, x0, [x1]; cbnz w2, 0x1000", {2: "nop"}, [("exclusive", 2)]),
        ("ldxr x0, [x1]; nop; stxr w2, x0, [x1]", {0: "nop", 2: "nop"}, []),
        ("ldxr x0, [x1]; nop; stxr w2, x0, [x1]; nop", {3: "mov x0, #0"}, []),
        ("nop; ldxr x0, [x1]; stxr w2, x0, [x1]", {0: "mov x0, #0"}, []),
    ],
)  # fmt: skip
def test_hazards_of_code(old: str, new: dict[int, str], found: list[tuple[str, int]]) -> None:
    assert names(hazards(old, new)) == found


def test_a_sentence_names_who_and_where() -> None:
    [hazard] = hazards("b 0x100c; nop; nop; nop", {2: "mov x0, #1", 3: "mov x1, #1"})
    assert hazard.sentence == (
        "site branches to site+0xc, in the middle of the new code; the end of the function at site is not known, so no"
        " CPU can be kept out of it"
    )
    [hazard] = hazards("adr x0, 0x100c; nop; nop; nop", {2: "mov x0, #1", 3: "mov x1, #1"})
    assert hazard.sentence.startswith("site takes the address of site+0xc")


@pytest.mark.parametrize(("index", "changes"), [(0, "site"), (1, "site+0x4")])
def test_the_sentence_of_a_pair_names_the_half_that_changes(index: int, changes: str) -> None:
    [hazard] = hazards("adrp x0, 0x2000; add x0, x0, #16", {index: "nop"})
    assert hazard.sentence == (
        f"the ADRP at site and the instruction at site+0x4 form one address, and only {changes} changes"
    )


@pytest.mark.parametrize(("index", "seen"), [(1021, False), (1022, True), (1023, True), (1024, False)])
def test_an_adrp_at_the_end_of_a_page(index: int, seen: bool) -> None:
    found = hazards("; ".join(["nop"] * 1026), {index: "adrp x0, 0x0"})
    assert [name for name, _ in names(found)] == ["erratum-843419"] * seen


PAC_PAIRS = [
    # One side alone, by every instruction that signs or authenticates.
    ("paciasp; nop; autiasp; ret", {0: "bti c"}, [0]),
    ("paciasp; nop; autiasp; ret", {2: "nop"}, [2]),
    ("pacibsp; nop; retab", {0: "bti c"}, [0]),
    ("pacibsp; nop; retab", {2: "ret"}, [2]),
    ("paciaz; nop; autiaz; ret", {2: "nop"}, [2]),
    ("paciasppc; nop; retaasppc 0x1008", {2: "ret"}, [2]),
    ("pacnbibsppc; nop; retabsppcr x1", {2: "ret"}, [2]),
    ("paciasppc; nop; autiasppc 0x1008; ret", {2: "nop"}, [2]),
    ("bti c; nop; nop; ret", {0: "paciasp"}, [0]),
    ("bti c; nop; nop; ret", {2: "autibsp"}, [2]),
    # Another key or another modifier on one side.
    ("pacibsp; nop; retab", {0: "paciasp"}, [0]),
    ("paciasp; nop; autiasp; ret", {2: "autibsp"}, [2]),
    ("paciasp; nop; autiasp; ret", {2: "autiaz"}, [2]),
    ("paciasp; nop; autiasp; ret", {0: "pacibsp", 2: "autiaz"}, [0]),
    # One of two returns.
    ("paciasp; autiasp; ret; autiasp; ret", {1: "nop"}, [1]),
    ("paciasp; retaa; retaa", {0: "pacibsp", 1: "retab"}, [0]),
    ("paciasp; retaa; retaa", {0: "pacibsp", 1: "retab", 2: "retab"}, []),
    # Both sides: gone, new, with another key, elsewhere, spelled otherwise.
    ("paciasp; nop; autiasp; ret", {0: "bti c", 2: "nop"}, []),
    ("bti c; nop; nop; ret", {0: "paciasp", 3: "retaa"}, []),
    ("pacibsp; nop; retab", {0: "paciasp", 2: "retaa"}, []),
    ("bti c; paciasp; nop; autiasp; ret", {1: "nop", 2: "paciasp"}, []),
    ("paciasp; nop; autiasp; ret", {2: "retaa", 3: "nop"}, []),
    # Instructions that sign or authenticate no return address.
    ("paciasp; pacia1716; autiasp; ret", {1: "nop"}, []),
    ("paciasp; pacia x0, x1; autiasp; ret", {1: "autda x3, x4"}, []),
    ("paciasp; nop; autiasp; ret", {1: "xpaclri"}, []),
]


@pytest.mark.parametrize(("code", "new", "places"), PAC_PAIRS)
def test_halves_of_a_signed_return_address(code: str, new: dict[int, str], places: list[int]) -> None:
    """In a function between two others, which sign and authenticate too."""
    words = words_of(code, BASE + 8)
    target = FakeTarget([*words_of("paciasp; retaa"), *words, *words_of("pacibsp; retab")])
    start, end = BASE + 8, BASE + 8 + 4 * len(words)
    target.name(Symbol("before", BASE, 8), Symbol("site", start, end - start), Symbol("behind", end, 8))
    changes = [
        Change(start + 4 * place, words[place], assemble_one(text, start + 4 * place)) for place, text in new.items()
    ]
    found = [hazard for hazard in all_hazards(target, changes) if hazard.name == "pac-pair"]
    assert [(hazard.address - start) // 4 for hazard in found] == places


def test_a_sentence_says_which_half_of_a_signed_return_address_changes() -> None:
    words = words_of("paciasp; autiasp; ret; autiasp; ret")
    [hazard] = all_hazards(FakeTarget(words), [Change(BASE + 4, words[1], gen_nop())])
    assert hazard.sentence == (
        "site+0x4 changes one side only: with key A and SP, the new code of site would sign the return address in 1 and"
        " authenticate it in 1 words, not in 1 and 2 as before"
    )


LOADS_AND_STORES = """
    ldr x1, [x0]; ldr w3, [x0]; ldr x4, [x0]; ldr x5, [x0]; str x3, [x0]; ldrb w3, [x0]; strb w3, [x0]
    ldr x1, [x0], #8; ldr x3, [x0, #8]!; ldr x1, [x3], #8; str x1, [x5, #8]!; ldur x3, [x0, #1]; ldrsw x3, [x0]
    ldr x1, 0x1010; ldr x3, [x0, x1]; str x1, [x0, x3]; ldp x1, x2, [x0]; ldp x3, x2, [x0]
    ldp x2, x3, [x0]; stp x3, x4, [x0]; ldp x1, x2, [x3], #16; ldpsw x1, x5, [x0]; ldnp x1, x4, [x0]; ldr q3, [x0]
    str d3, [x0]; ldp q3, q4, [x0]; ld1 {v3.16b}, [x0]; st1 {v3.b}[1], [x0], #1; ldxr x3, [x0]; ldxr x1, [x0]
    stxr w3, x1, [x0]; stlxr w1, x3, [x0]; ldar x3, [x0]; stlr x3, [x0]; ldaxp x1, x3, [x0]; nop; add x1, x2, x3
    ldr q3, [x3], #16; ld1 {v3.16b}, [x3], #16; dmb ish; mov x3, x1; dc civac, x3; b 0x1010; ret
"""
ACCUMULATES = """
    madd x2, x3, x4, x5; msub x2, x3, x4, x5; smaddl x2, w3, w4, x5; umsubl x2, w3, w4, x5; mul x2, x3, x4
    smull x2, w3, w4; smulh x2, x3, x4; madd w2, w3, w4, w5; madd x2, x3, x4, x3; add x2, x3, x4; fmadd d2, d3, d4, d5
"""


def test_a_multiply_accumulate_behind_a_memory_access_as_gnu_ld_has_it(tmp_path: Path) -> None:
    """GNU ld puts a branch to a veneer in place of each word for which it knows the erratum.

    Left out is a literal load of a register that is read next: ld takes bits of the offset for those of a store.
    """
    first, second = (
        [text.strip() for line in block.strip().splitlines() for text in line.split(";")]
        for block in (LOADS_AND_STORES, ACCUMULATES)
    )
    pairs = [(one, other) for one in first for other in second]
    words = [word for pair in pairs for word in words_of("; ".join(pair))]
    source = "".join(f".inst {one}, {other}\nnop\n" for one, other in zip(words[::2], words[1::2], strict=True))
    veneers = link(
        assemble(f".globl _start\n_start:\n{source}", tmp_path / "e.o"), tmp_path / "e", "--fix-cortex-a53-835769"
    )
    with ElfFile(veneers) as linked:
        start = linked.symbols["_start"]
        fixed = from_bytes(linked.read(start, 12 * len(pairs)))
    sees = {pair for pair, old, word in zip(pairs, words[1::2], fixed[1::3], strict=True) if word != old}
    assert 100 < len(sees) < len(pairs)
    found = {pair for pair in pairs if ("erratum-835769", 1) in names(hazards("nop; nop", dict(enumerate(pair))))}
    assert found == sees


def test_many_changes_see_what_few_see() -> None:
    """Beyond some number of changes all the code is read at once."""
    block = "adrp x0, 0x2000; add x0, x0, #16; ldxr x0, [x1]; stxr w2, x0, [x1]; nop; madd x2, x3, x4, x5; str x1, [x0]"
    new = {1: "mov x5, #1", 3: "mov x5, #1", 4: "ldr x1, [x0]", 7: "msub x2, x3, x4, x5"}
    seen = {1: "address-pair", 3: "exclusive", 5: "erratum-835769", 7: "erratum-835769"}
    for count in (3, 300):
        found = hazards(
            "; ".join([f"{block}; nop"] * 300),
            {8 * index + place: text for index in range(count) for place, text in new.items()},
        )
        assert names(found) == [(name, 8 * index + place) for index in range(count) for place, name in seen.items()]


@pytest.mark.parametrize("count", [1, 600])
def test_code_that_is_no_whole_words(count: int) -> None:
    class Uneven(FakeTarget):
        def code_ranges(self) -> Sequence[tuple[int, int]]:
            return [(BASE + 1, BASE + 8 * count + 3), (BASE + 8 * count + 5, BASE + 8 * count + 7)]

        def read(self, address: int, size: int) -> bytes:
            assert size >= 0
            return super().read(address, size)

    olds = words_of("; ".join(["adrp x0, 0x2000; add x0, x0, #16"] * count + ["nop; nop"]))
    changes = [Change(BASE + 8 * index + 4, olds[1], gen_nop()) for index in range(count)]
    found = all_hazards(Uneven(olds), changes)
    # The first ADRP does not lie in code.
    assert [hazard.address for hazard in found] == [change.address for change in changes[1:]]


@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
@pytest.mark.parametrize(
    ("name", "first", "last", "reach"),
    [
        ("exclusive", "ldxr x0, [x1]", "stxr w2, x0, [x1]", 32),
        ("address-pair", "adrp x0, 0x2000", "add x0, x0, #16", 8),
    ],
)
def test_two_words_belong_together_up_to_a_distance(name: str, first: str, last: str, reach: int, many: bool) -> None:
    """From either end, so that as much is read behind a change as before it; and one word further they do not."""
    others = 600 if many else 0
    for distance in (reach, reach + 1):
        # The words before and behind them are more than anybody looks at.
        start = 50
        end = start + distance
        code = [*["nop"] * start, first, *["nop"] * (distance - 1), last, *["nop"] * (50 + others)]
        for place in (start, end):
            new = {place: "mov x5, #1"} | {end + 50 + number: "mov x6, #1" for number in range(others)}
            found = names(hazards("; ".join(code), new))
            assert found == [(name, place)] * (distance == reach), (distance, place)


@pytest.mark.parametrize(("place", "seen"), [(-1, False), (0, True), (1, True), (31, True), (32, True), (33, False)])
def test_a_change_counts_from_the_load_exclusive_to_the_store_exclusive(place: int, seen: bool) -> None:
    code = [*["nop"] * 50, "ldxr x0, [x1]", *["nop"] * 31, "stxr w2, x0, [x1]", *["nop"] * 50]
    found = names(hazards("; ".join(code), {50 + place: "mov x5, #1"}))
    assert found == [("exclusive", 50 + place)] * seen


def test_code_that_is_not_known_cannot_be_looked_at() -> None:
    class Blind(FakeTarget):
        def name(self, *_: Symbol) -> None:
            pass

    olds = words_of("nop; nop; nop")
    changes = [Change(BASE + 4 * index, olds[index], 0xD2800000) for index in range(2)]
    [hazard] = all_hazards(Blind(olds), changes)
    assert "cannot be ruled out" in hazard.sentence
    assert all_hazards(Blind(olds), changes[:1]) == []


RELOCATED = """
    .globl f
    .type f, %function
f:  bl other
    nop
    ret
    .size f, . - f
"""


def test_a_relocation_owns_a_word(tmp_path: Path) -> None:
    with ElfFile(assemble(RELOCATED, tmp_path / "f.o")) as target:
        start = target.symbols["f"]
        old = [int.from_bytes(target.read(start + 4 * index, 4), "little") for index in range(2)]
        [hazard] = all_hazards(target, [Change(start, old[0], gen_nop())])
        assert (hazard.name, hazard.address) == ("relocation", start)
        assert hazard.sentence == "f belongs to R_AARCH64_CALL26 against other, which will overwrite it"
        assert all_hazards(target, [Change(start + 4, old[1], 0xD2800000)]) == []

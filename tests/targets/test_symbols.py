"""Names to addresses and back: what is ambiguous is refused, and what is printed can be read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.errors import SymbolError
from a64patch.targets.symbols import Space, Symbol, SymbolTable

TABLE = SymbolTable(
    lambda: [
        Symbol("start", 0x40, 0x20, ".text"),
        Symbol("alias", 0x40, 0x20, ".text"),
        Symbol("label", 0x48, 0, ".text"),
        Symbol("twice", 0x60, 8, ".text"),
        Symbol("twice", 0x80, 8, ".init"),
        Symbol("twin", 0xA0, 4, ".same"),
        Symbol("twin", 0xB0, 4, ".same"),
        Symbol("end", 0x6C, 0, ".text", limit=0x70),
        Symbol("behind", 0x70, 0, ".text", limit=0x70),
        Symbol("too_long", 0x84, 0x40, ".init", limit=0x90),
        Symbol("open", 0xB4, 0, ".same", limit=0xB8),
        Symbol("behind_same", 0xB8, 0, ".same", limit=0xB8),
        Symbol("first", 0xBC, 0, ".late", limit=0xC0),
        Symbol("edge", 0xBC, 0, ".same", limit=0xBC),
        Symbol("0x99", 0x84, 4, ".init"),
        Symbol("static", 0xC0, 4, "", True, file="a.c"),
        Symbol("static", 0xC4, 4, "", True, file="b.c"),
        Symbol("static", 0xC8, 4, "", True, file="b.c"),
        Symbol("only", 0xD0, 4, ".text", True, file="a.c"),
    ],
    [
        Space(".text", 0x40, 0x70),
        Space(".empty", 0x80, 0x80),
        Space(".init", 0x80, 0x90),
        Space(".same", 0xA0, 0xA8),
        Space(".same", 0xB0, 0xB8),
        Space(".late", 0xB8, 0xC0),
    ],
)


@pytest.mark.parametrize(
    ("site", "address"),
    [
        ("start", 0x40),
        ("start+0x18", 0x58),
        ("start+24", 0x58),
        (".text:start+8", 0x48),
        (".init:twice", 0x80),
        (".text:0x10", 0x50),
        (".text:16", 0x50),
        (".text:0x10+4", 0x54),
        (".text+0x10", 0x50),
        (".text", 0x40),
        ("0x1234", 0x1234),
        ("0X1234", 0x1234),
        ("0x99", 0x99),
        ("010", 10),
        ("0x1234+4", 0x1238),
        ('"0x99"', 0x84),
        ('.text:"start"+8', 0x48),
        ("a.c:static", 0xC0),
        ("a.c:only", 0xD0),
        (".text:only", 0xD0),
        ("only", 0xD0),
    ],
)
def test_a_site_has_one_address(site: str, address: int) -> None:
    assert TABLE.resolve(site) == address


@pytest.mark.parametrize(
    ("site", "says"),
    [
        ("missing", "no symbol 'missing'"),
        (".init:start", "no symbol 'start' in .init"),
        ("twice", "2 addresses (0x60 is .text:twice, 0x80 is .init:twice); name one of them"),
        (".same:twin", "2 addresses (0xa0, 0xb0)"),
        (".same:0", "2 sections (at 0xa0, 0xb0)"),
        (".same", "2 sections"),
        (".same+4", "2 sections"),
        (".text:0x30", "outside .text, which has 0x30 bytes"),
        (".text+0x30", "outside .text"),
        (".empty:0", "outside .empty"),
        ("", "not a site"),
        ("start+", "not a site"),
        ("start-4", "no symbol"),
        ("a:b:c", "not a site"),
        ("static", "3 addresses (0xc0 is a.c:static, 0xc4, 0xc8); name one of them"),
        ("b.c:static", "'static' in b.c stands for 2 addresses (0xc4, 0xc8); name the address"),
        ("c.c:static", "no symbol 'static' in c.c"),
        ("start+0x11111111111111111", "not a site"),
        ("start\n", "not a site"),
        ("٣", "no symbol"),
    ],
)
def test_what_is_missing_or_ambiguous_is_refused(site: str, says: str) -> None:
    with pytest.raises(SymbolError) as caught:
        TABLE.resolve(site)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (0x44, "start+0x4"),
        (0x48, "label"),
        (0x60, ".text:twice"),
        (0x64, ".text:twice+0x4"),
        (0x68, ".text:0x28"),
        (0x6C, "end"),
        (0x70, "behind"),
        (0x74, "0x74"),
        (0x78, "0x78"),
        (0x84, "too_long"),
        (0x8C, "too_long+0x8"),
        (0x90, "0x90"),
        (0xA0, "0xa0"),
        (0xA4, "0xa4"),
        (0xB4, "open"),
        (0xB8, "behind_same"),
        (0xBC, "first"),
        (0x3C, "0x3c"),
        (0xC0, "a.c:static"),
        (0xC4, "0xc4"),
        (0xD0, "only"),
    ],
)
def test_descriptions(address: int, text: str) -> None:
    assert TABLE.describe(address) == text


@given(st.integers(0, 0x100))
def test_what_is_described_resolves_to_where_it_came_from(address: int) -> None:
    assert TABLE.resolve(TABLE.describe(address)) == address


@given(
    st.lists(
        st.builds(
            Symbol,
            st.sampled_from(["a", "b", "c", "0x4", "a+4", ".s"]),
            st.integers(0, 64),
            st.integers(0, 16),
            st.sampled_from(["", "m", ".s"]),
            file=st.sampled_from(["", "m", "a.c"]),
        )
    ),
    st.lists(
        st.builds(
            lambda name, start, size: Space(name, start, start + size),
            st.sampled_from([".s", ".t", "a"]),
            st.integers(0, 64),
            st.integers(0, 32),
        )
    ),
    st.integers(0, 100),
)
def test_descriptions_resolve_in_any_table(symbols: list[Symbol], spaces: list[Space], address: int) -> None:
    table = SymbolTable(lambda: symbols, spaces)
    assert table.resolve(table.describe(address)) == address


def test_a_size_of_0_reaches_to_the_next_symbol_and_the_end_of_its_section() -> None:
    table = SymbolTable(lambda: [Symbol("a", 0), Symbol("b", 0x10, 4), Symbol("c", 0x20, 0, limit=0x28)])
    assert table.describe(0xC) == "a+0xc"
    assert table.describe(0x14) == "0x14"
    assert table.describe(0x24) == "c+0x4"
    assert table.describe(0x28) == "0x28"


@pytest.mark.parametrize(
    ("site", "holds"),
    [
        ("start+0x1c", True),
        ("start+0x20", False),
        (".text:start+0x1c", True),
        ("label+4", True),
        ("label+0x18", False),
        ("end", True),
        ("end+4", False),
        ("behind", True),
        ("behind+4", False),
        ("too_long+8", True),
        ("too_long+0xc", False),
        (".text:0x10", True),
        (".text+0x10", True),
        ("0x1234", True),
    ],
)
def test_a_name_says_nothing_about_what_lies_behind_its_symbol(site: str, holds: bool) -> None:
    assert TABLE.holds(site) == holds


def test_a_symbol_that_moves_takes_the_end_of_its_section_along() -> None:
    assert Symbol("a", 8, 4, limit=16).moved(0x100) == Symbol("a", 0x108, 4, limit=0x110)
    assert Symbol("a", 8, 4).moved(0x100) == Symbol("a", 0x108, 4)


@pytest.mark.parametrize("size", [0, 4])
def test_a_function_with_many_symbols_in_it(size: int) -> None:
    """Labels, or functions of a word each, in the middle of a large function; behind the last one it goes on."""
    inside = [Symbol(f"in{number}", 0x1000 + 4 * number, size) for number in range(1, 20_000)]
    table = SymbolTable(lambda: [Symbol("outer", 0x1000, 0x20000), *inside, Symbol("next", 0x21000, 8)])
    behind = inside[-1].address + 8
    assert table.extent(behind) == (0x1000, 0x21000)
    if size:
        assert table.describe(behind) == f"outer+{behind - 0x1000:#x}"
    assert table.extent(0x21000) == (0x21000, 0x21008)
    assert table.extent(0x21008) is None


SYMBOLS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 64), st.integers(0, 16)).map(lambda it: Symbol(*it)), max_size=90
)


@given(SYMBOLS, st.integers(0, 90))
def test_what_holds_an_address(symbols: list[Symbol], address: int) -> None:
    """Against all symbols, looked at one by one."""
    table = SymbolTable(lambda: symbols)
    found = table.lookup(address)
    holding = [symbol for symbol in symbols if symbol.address <= address < symbol.address + symbol.size]
    if holding:
        ends = [symbol.address + symbol.size for symbol in holding]
        assert table.extent(address) == (min(symbol.address for symbol in holding), max(ends))
    else:
        assert table.extent(address) is None
    nearest = max((symbol.address for symbol in symbols if symbol.address <= address), default=None)
    holding += [symbol for symbol in symbols if symbol.address == nearest and not symbol.size]
    if not holding:
        assert found is None
    else:
        last = max(holding, key=lambda symbol: (symbol.address, symbol.size, symbol.name))
        assert found == (last, address - last.address)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=8, unique=True), st.integers(0, 64))
def test_the_section_of_an_address(spans: list[tuple[int, int]], address: int) -> None:
    """Sections that lie in others, as no linker makes them."""
    spaces = [Space(f".s{number}", start, start + size) for number, (start, size) in enumerate(spans)]
    holding = [space for space in spaces if space.start <= address < space.end]
    text = f"{address:#x}"
    if holding:
        last = max(holding, key=lambda space: (space.start, space.end))
        text = f"{last.name}:{address - last.start:#x}"
    assert SymbolTable(tuple, spaces).describe(address) == text


def test_symbols_are_loaded_once_and_only_when_asked_for() -> None:
    calls = []

    def load() -> list[Symbol]:
        calls.append(1)
        return [Symbol("a", 4)]

    table = SymbolTable(load)
    assert table.resolve("0x10") == 16
    assert calls == []
    assert table["a"] == table.find("a").address == 4
    assert table.describe(4) == "a"
    assert calls == [1]


NESTED = SymbolTable(
    lambda: [
        Symbol("short", 0x40, 8),
        Symbol("long", 0x40, 0x20),
        Symbol("label", 0x40),
        Symbol("inner", 0x4C, 4),
        Symbol("late", 0x58, 0x10),
        Symbol("unsized", 0x80),
    ]
)


@pytest.mark.parametrize(
    ("address", "extent"),
    [
        (0x3F, None),
        (0x40, (0x40, 0x60)),
        (0x47, (0x40, 0x60)),
        (0x48, (0x40, 0x60)),
        (0x4C, (0x40, 0x60)),
        (0x57, (0x40, 0x60)),
        (0x58, (0x40, 0x68)),
        (0x5F, (0x40, 0x68)),
        (0x60, (0x58, 0x68)),
        (0x67, (0x58, 0x68)),
        (0x68, None),
        (0x80, None),
    ],
)
def test_a_function_reaches_as_far_as_all_that_hold_the_address(address: int, extent: tuple[int, int] | None) -> None:
    assert NESTED.extent(address) == extent


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (0x40, "long"),
        (0x47, "long+0x7"),
        (0x48, "long+0x8"),
        (0x4B, "long+0xb"),
        (0x4C, "inner"),
        (0x4F, "inner+0x3"),
        (0x50, "long+0x10"),
        (0x58, "late"),
        (0x60, "late+0x8"),
        (0x67, "late+0xf"),
        (0x68, "0x68"),
    ],
)
def test_of_names_for_one_address_the_one_that_holds_most_is_used(address: int, text: str) -> None:
    assert NESTED.describe(address) == text


def test_a_name_that_one_address_has_several_times_has_its_largest_size() -> None:
    table = SymbolTable(
        lambda: [Symbol("f", 0x10, 8), Symbol("f", 0x10, 16), Symbol("f", 0x10, 0), Symbol("f", 0x10, 4)]
    )
    assert table.find("f").size == 16
    assert table["f"] == 0x10


@pytest.mark.parametrize("labels", [63, 64, 900])
def test_a_function_is_found_behind_any_number_of_labels(labels: int) -> None:
    table = SymbolTable(
        lambda: [Symbol("outer", 0, 0x1000), *(Symbol(f"inner{number}", 4 + 4 * number, 4) for number in range(labels))]
    )
    behind = 4 + 4 * labels
    found = table.lookup(behind)
    assert found is not None
    assert (found[0].name, found[1]) == ("outer", behind)
    assert table.extent(behind) == (0, 0x1000)


def test_a_target_without_names_says_how_to_give_it_some() -> None:
    with pytest.raises(SymbolError, match=r"'start': the target has no names, give --symbols .kallsyms for a running"):
        SymbolTable().resolve("start")

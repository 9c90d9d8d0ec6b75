"""The error about an unknown symbol names those that may have been meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.errors import SymbolError
from a64patch.targets import nearest as module
from a64patch.targets.nearest import MOST, listed, nearest
from a64patch.targets.symbols import Space, Symbol, SymbolTable

NAMES = [
    "main", "maintain", "work", "worker", "do_work", "uptime_proc_show", "uptime_proc_open", "vmstat_show",
    "dup.isra.0", "dup.cold", "duplicate", "_Z7computei", "operator new(unsigned long)", "memcpy@@GLIBC_2.17",
    "memcpy@plt", "Open",
    "a" * 200,
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ("mian", "main"),  # two characters swapped
        ("man", "main"),  # one missing
        ("maiin", "main"),  # one too many
        ("MAIN", "main"),
        ("open", "Open"),
        ("wrok", "work"),
        ("uptime_proc_shwo", "uptime_proc_show"),
        ("uptme_proc_shw", "uptime_proc_show"),
        ("dup", "dup.cold"),
        ("compute", "_Z7computei"),
        ("memcpy", "memcpy@plt"),
        ("operator new(unsigned int)", "operator new(unsigned long)"),
    ],
)
def test_the_nearest_name_comes_first(wanted: str, first: str) -> None:
    assert nearest(wanted, NAMES)[0] == first


@pytest.mark.parametrize("wanted", ["", "q", "zzzz", "a" * 199, "completely_different", "x" * 5000])
def test_what_is_far_from_all_names_gets_none(wanted: str) -> None:
    assert nearest(wanted, NAMES) == []


@given(st.permutations("abc_def0"), st.data())
def test_two_wrong_characters_do_not_hide_a_name(letters: list[str], data: st.DataObject) -> None:
    name, wrong = "".join(letters), list(letters)
    for place in data.draw(st.lists(st.integers(0, len(name) - 1), max_size=2)):
        wrong[place] = "é"
    assert nearest("".join(wrong), [name, "é" * 30, "other"]) == [name]


@given(st.lists(st.text(max_size=6)), st.text(max_size=6))
def test_the_order_of_the_names_does_not_matter(names: list[str], wanted: str) -> None:
    found = nearest(wanted, names)
    assert len(found) <= MOST
    assert set(found) <= set(names)
    assert found == nearest(wanted, names[::-1])


@pytest.mark.parametrize(("texts", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), ("abc", "a, b and c")])
def test_lists(texts: list[str], text: str) -> None:
    assert listed(texts) == text


TABLE = SymbolTable(
    lambda: [
        Symbol("main", 0x10, 8),
        Symbol("dup", 0x20, 8, file="list.c"),
        Symbol("dup", 0x30, 8, file="tree.c"),
        Symbol("only", 0x40, 8, file="tree.c"),
        Symbol("sync", 0x50, 8, "ext4"),
        Symbol("operator new(unsigned long)", 0x60, 8),
        Symbol("only_its_alias", 0x40, 16),
        Symbol("label", 0x70),
        Symbol("label", 0x74),
    ],
    [Space(".text", 0, 0x100)],
)


@pytest.mark.parametrize(
    ("site", "says"),
    [
        ("mian+8", "there is no symbol 'mian'; the nearest is main; an address needs none"),
        ("dupp", "there is no symbol 'dupp'; the nearest is dup; an address needs none"),
        ("list.c:duq", "there is no symbol 'duq' in list.c; the nearest is list.c:dup; an address needs none"),
        ("lits.c:dup", "'dup' in lits.c; list.c:dup and tree.c:dup have this name; an address needs none"),
        ("list.c:only", "'only' in list.c; only has this name; an address needs none"),
        (
            "ext3:snyc",
            "the nearest modules, sections or files are ext4 and .text; an address needs none",
        ),
        ("ext4:snyc", "'snyc' in ext4; the nearest is ext4:sync; an address needs none"),
        (".txt:0x10", "'0x10' in .txt; the nearest module, section or file is .text; an address needs none"),
        (".txt+0x10", "there is no symbol '.txt'; the nearest is .text; an address needs none"),
        ('"operator new"', 'the nearest is "operator new(unsigned long)"; an address needs none'),
        ("ext4:label", "'label' in ext4; 0x70 and 0x74 have this name; an address needs none"),
        ("far", "there is no symbol 'far'; an address needs none"),
        ("far:main", "there is no symbol 'main' in far; main has this name; an address needs none"),
        ("far:away", "there is no symbol 'away' in far; an address needs none"),
    ],
)
def test_the_error_names_the_nearest_sites(site: str, says: str) -> None:
    with pytest.raises(SymbolError) as error:
        TABLE.resolve(site)
    assert str(error.value).endswith(says)
    assert "\n" not in str(error.value)


def test_names_are_searched_when_the_message_is_read_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []

    def count(wanted: str, names: object) -> list[str]:
        searches.append(wanted)
        return ["near"]

    monkeypatch.setattr(module, "nearest", count)
    table = SymbolTable(lambda: [Symbol("main", 0x10, 8)])
    errors = []
    for number in range(40):
        with pytest.raises(SymbolError) as error:
            table.find(f"missing{number}")
        errors.append(error.value)
    assert searches == []
    texts = [str(error) for error in errors for _ in range(2)]
    assert searches == [f"missing{number}" for number in range(16)]
    assert texts[0] == texts[1] == "there is no symbol 'missing0'; the nearest is near; an address needs none"
    assert texts[-1] == "there is no symbol 'missing39'; an address needs none"


def test_a_target_without_names_says_so() -> None:
    with pytest.raises(SymbolError, match="there is no symbol 'main': the target has no names, give --symbols"):
        SymbolTable().resolve("main")

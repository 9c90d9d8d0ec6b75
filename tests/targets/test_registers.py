"""What a target description says about registers, and where it is too much: the borders, on either side."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from a64patch.errors import FormatError
from a64patch.targets.registers import Register, default_registers, read_description


def described(*registers: str) -> Callable[[str], bytes]:
    """Fetches one document with these registers, each given by its attributes."""
    document = "<target>" + "".join(f"<reg {each}/>" for each in registers) + "</target>"
    return lambda name: document.encode()


def test_each_register_stands_behind_those_before_it() -> None:
    found = read_description(
        described(
            "name='x0' bitsize='64'",
            "name='cpsr' bitsize='32'",
            "name='v0' bitsize='128' regnum='40'",
            "name='fpsr' bitsize='32'",
        )
    )
    assert list(found.by_name.values()) == [
        Register("x0", 0, 8, 0),
        Register("cpsr", 1, 4, 8),
        Register("v0", 40, 16, 12),
        Register("fpsr", 41, 4, 28),
    ]


def test_a_name_that_is_described_twice_is_the_first_register() -> None:
    found = read_description(described("name='pc' bitsize='64'", "name='pc' bitsize='32'", "name='sp' bitsize='64'"))
    assert found.by_name["pc"] == Register("pc", 0, 8, 0)
    assert found.by_name["sp"] == Register("sp", 2, 8, 12)


def test_the_frame_pointer_and_the_link_register_have_two_names_each() -> None:
    """As lldb-server 19 describes them."""
    fetch = described(
        *("name='fp' altname='x29' bitsize='64' regnum='29'", "name='lr' altname='x30' bitsize='64' regnum='30'")
    )
    assert [each[:2] for each in read_description(fetch, ("x29", "x30")).by_name.values()] == [("x29", 29), ("x30", 30)]


def test_without_a_description_they_are_those_of_gdb() -> None:
    found = default_registers().by_name
    assert list(found) == [*(f"x{number}" for number in range(31)), "sp", "pc", "cpsr"]
    assert found["x30"] == Register("x30", 30, 8, 240)
    assert found["cpsr"] == Register("cpsr", 33, 4, 264)


@pytest.mark.parametrize(
    ("attributes", "fits"),
    [
        ("bitsize='0'", False),
        ("bitsize='1'", True),
        ("bitsize='65536'", True),
        ("bitsize='65537'", False),
        ("bitsize='-8'", False),
        ("bitsize='64' regnum='999999999'", True),
    ],
)
def test_how_large_a_register_may_be(attributes: str, fits: bool) -> None:
    fetch = described(f"name='a' {attributes}")
    if fits:
        assert "a" in read_description(fetch).by_name
    else:
        with pytest.raises(FormatError, match="no sound size"):
            read_description(fetch)


def test_how_many_registers_there_may_be() -> None:
    most = ["name='a' bitsize='8'"] * 4096
    assert read_description(described(*most)).by_name["a"].number == 0
    with pytest.raises(FormatError, match="more than 4096 registers"):
        read_description(described(*most, most[0]))


@pytest.mark.parametrize(("documents", "fits"), [(64, True), (65, False)])
def test_how_many_documents_there_may_be(documents: int, fits: bool) -> None:
    includes = "".join(f"<xi:include href='{number}.xml'/>" for number in range(1, documents))
    fetched = []

    def fetch(name: str) -> bytes:
        fetched.append(name)
        return f"<target>{includes if name == 'target.xml' else ''}</target>".encode()

    if fits:
        read_description(fetch)
    else:
        with pytest.raises(FormatError, match="too many documents"):
            read_description(fetch)
    assert len(fetched) == 64


def test_nothing_is_fetched_once_all_is_known() -> None:
    document = b"<target><reg name='pc' bitsize='64'/><xi:include href='endless.xml'/></target>"

    def fetch(name: str) -> bytes:
        assert name == "target.xml"
        return document

    assert read_description(fetch, ["pc"]).by_name["pc"].size == 8

"""The page that scripts/reference makes says all of every row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from a64patch.a64.encodings import BY_NAME, TABLE, Encoding
from tests.support import ROOT, run

COLUMNS = ("pattern", "spellings", "PC", "feature", "predicates", "families")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("reference") / "instructions.md"
    assert Path(run(ROOT / "scripts/reference", path).strip()) == path
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows(page: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    heading = ""
    for line in page.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| `"):
            name, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            name = name.strip("`")
            assert name not in found, "a row is listed once"
            found[name] = dict(zip(COLUMNS, cells, strict=True)) | {"table": heading}
    return found


def test_every_row_but_no_hole_is_listed_with_all_that_it_says(rows: dict[str, dict[str, str]]) -> None:
    assert set(rows) == {row.name for row in TABLE if not row.is_hole}
    for name, listed in rows.items():
        row: Encoding = BY_NAME[name]
        assert listed["table"] == row.table
        assert listed["pattern"] == f"`{row.pattern}`"
        assert listed["spellings"] == "<br>".join(f"`{text}`" for text in row.texts)
        assert listed["feature"] == (row.feature or "Armv8.0")
        assert set(listed["families"].split()) == {f"`{family}`" for family in row.families}


def test_what_a_row_does_to_the_pc(rows: dict[str, dict[str, str]]) -> None:
    flows = {name: rows[name]["PC"] for name in ("nop", "b", "bcond", "blr", "ret", "svc")}
    assert flows == {
        "nop": "-", "b": "branch", "bcond": "branch, or next", "blr": "call", "ret": "return", "svc": "exception",
    }  # fmt: skip
    assert {name for name, listed in rows.items() if "literal" in listed["PC"]} == {
        row.name for row in TABLE if row.literal
    }


def test_predicates_of_a_row(rows: dict[str, dict[str, str]]) -> None:
    assert rows["nop"]["predicates"].split() == ["`is_hint`", "`is_nop`", "`is_steppable_hint`"]
    assert rows["adrp"]["predicates"].split() == ["`is_adrp`", "`is_adr_adrp`", "`uses_literal`"]


def test_contents_lead_to_the_headings(page: str) -> None:
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    contents = re.findall(r"^- \[(.*)\]\(#(.*)\): \d+$", page, re.MULTILINE)
    assert [name for name, _ in contents] == headings
    assert len({anchor for _, anchor in contents}) == len(headings)

"""The page on the patch format says what the code does."""

from __future__ import annotations

import re

import pytest

from a64patch.a64.assembler import assemble_one
from a64patch.a64.names import LONGEST_NAME
from a64patch.patch.asmdiff import _LONGEST_TEXT, MOST_BYTES, MOST_LINES, parse, to_text
from a64patch.patch.hazards import NAMES
from a64patch.patch.plan import NEARBY, State, fill
from tests.support import ROOT

PAGE = (ROOT / "docs/patch-format.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```asmdiff\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_there_is_an_example() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_canonical_and_true(example: str) -> None:
    diff = parse(example)
    assert to_text(diff) == example
    assert fill(diff) == diff
    for line in (line for hunk in diff.hunks for line in hunk.lines):
        if line.word is None:
            assert line.sign == "#" or line.label or re.search(r" (.*, )?(\.L|annex:)", line.text)
        elif not line.text.startswith("bl "):
            assert line.word == assemble_one(line.text)


def test_hazards_are_all_listed_with_their_names() -> None:
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE, re.MULTILINE) == list(NAMES)


def test_states_are_all_listed() -> None:
    assert all(f"| {state.value} |" in PAGE for state in State)


def test_limits_are_those_of_the_code() -> None:
    flat = " ".join(PAGE.split())
    limits = (
        f"{MOST_BYTES >> 20} MiB, {MOST_LINES:,} lines, {LONGEST_NAME:,} characters in a site or {_LONGEST_TEXT:,} in"
    )
    assert limits in flat
    assert f"{NEARBY} bytes around it" in flat

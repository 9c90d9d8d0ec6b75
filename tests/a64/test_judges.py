"""The tables of judges.py: each entry explains something on a release that it speaks of, and no more than it says.

Read on: test_differential.py and test_simd_differential.py use them.
"""

from __future__ import annotations

from functools import cache

import numpy
import pytest

from a64patch.a64.disassembler import disassemble
from a64patch.a64.encodings import TABLE, Encoding
from a64patch.a64.predicates import classify, decode
from tests.a64.judges import (
    KNOWN_SINCE,
    TRIED,
    WITH_A_ROW,
    WITHOUT_ROW,
    Case,
    difference,
    gnu_as_reads,
    newer,
)
from tests.a64.references import TOOLS, gnu_as, llvm_mc, objdump, version
from tests.a64.test_differential import near_misses, relative, samples

JUDGES = list(TOOLS)


@cache
def asked(judge: str) -> list[tuple[int, Encoding | None, str]]:
    """Samples of every row, all their near misses, every MSR and MRS of X1, with our rows and the judge's texts."""
    sampled = [word for row in TABLE for word in samples(row, 12)]
    moves = [0xD5100001 | reads << 21 | number << 5 for reads in (0, 1) for number in range(1 << 15)]
    words = sorted({*sampled, *near_misses([word for row in TABLE for word in samples(row, 3)]), *moves})
    texts = objdump(words) if judge == "objdump" else llvm_mc(words)
    rows = [TABLE[index] if index >= 0 else None for index in classify(numpy.array(words, numpy.uint32)).tolist()]
    return list(zip(words, rows, texts, strict=True))


@pytest.mark.parametrize("judge", JUDGES)
def test_a_release_knows_all_or_nothing_of_an_entry(judge: str) -> None:
    """Where it is too old for an entry it has our text for no word of it; else the other tests ask it for each."""
    if version(judge) not in TRIED[judge]:
        return
    seen, wrong = set(), []
    for word, row, text in asked(judge):
        key = newer(judge, word, row) if row is not None else ""
        if not key:
            continue
        seen.add(key)
        case = Case(judge, word, row, text)
        if case.same and case.theirs:
            wrong.append(f"{key}: {text}")
    assert wrong == []
    assert seen == {key for key, since in KNOWN_SINCE.items() if version(judge) < since[judge == "llvm-mc"]}


@pytest.mark.parametrize("judge", JUDGES)
def test_every_entry_is_needed(judge: str) -> None:
    """An entry that explains nothing is not true of this release."""
    if version(judge) not in TRIED[judge]:
        return
    cases = [Case(judge, *asking) for asking in asked(judge)]
    used = {
        id(difference(judge, case.word, case.row, case.text)) for case in cases if case.row is None or not case.same
    }
    stale = [entry.why for entry in (*WITH_A_ROW, *WITHOUT_ROW) if entry.active(judge) and id(entry) not in used]
    assert stale == []


def test_gnu_as_refuses_what_it_is_said_not_to_read() -> None:
    words = [0xD5480000, 0xD54A8EAC, *(row.value for row in TABLE if newer("objdump", row.value, row))]
    known = [(word, row) for word in words if (row := decode(word)) is not None and not relative(row)]
    assert known
    for word, row in known:
        assert not gnu_as_reads(word, row)
    with pytest.raises(AssertionError) as refusals:
        gnu_as([disassemble(word) for word, _ in known])
    assert str(refusals.value).count("Error:") == min(len(known), 40)

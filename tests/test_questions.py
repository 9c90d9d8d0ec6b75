"""The questions that a patch raises are about the sites that are carried out, with the code around them.

Read on: proof/test_cases.py for the answers.
"""

from __future__ import annotations

import pytest

import a64patch
from a64patch.a64.assembler import assemble
from a64patch.errors import A64PatchError
from a64patch.proof.prove import Verdict
from a64patch.protocols import Doer, Step
from a64patch.targets.simulator import Simulator
from a64patch.targets.symbols import Symbol
from tests.patch.fake import BASE as FAKE_BASE
from tests.patch.fake import FakeTarget

BASE = 0x10000
TWO = "@@ f{} @@\n-d503201f  nop\n+14000040  b .+0x100\n\n@@ f{} @@\n-d503201f  nop\n+91000400  add x0, x0, #1\n"


@pytest.mark.parametrize(("offsets", "sites"), [(("", "+4"), 1), (("", "+8"), 1), (("+8", ""), 1), (("", "+0x100"), 2)])
def test_hunks_near_each_other_are_one_site(offsets: tuple[str, str], sites: int) -> None:
    """Asked as two sites of one word, nothing was torn; the simulator ran half of each."""
    asked = a64patch.prove(a64patch.parse(TWO.format(*offsets)), protocol="kick")
    assert len(asked) == sites
    torn = ["P1" in each.proof.broken for each in asked if each.proof]
    assert torn == ([True] if sites == 1 else [False, False])


def test_hunks_that_overlap_by_other_names_are_no_question() -> None:
    text = TWO.replace("f{}", "{}").format("0x1000", "4096")
    with pytest.raises(A64PatchError, match=r"overlap|two hunks of the patch have the word at 0x1000: join them"):
        a64patch.prove(a64patch.parse(text), protocol="kick")


def test_hunks_at_addresses_are_near_each_other_too() -> None:
    asked = a64patch.prove(a64patch.parse(TWO.replace("f{}", "0x1000{}").format("", "+8")), protocol="kick")
    assert len(asked) == 1


class _Answering(FakeTarget):
    """A target that answers for each step."""

    def doer(self, step: Step) -> Doer:
        return Doer.US


WAYS_IN = {
    "closed": ("nop; nop; ret", 12, False, True, Verdict.SAFE),
    "a loop outside": ("nop; nop; cbnz x0, .-4; ret", 16, True, True, Verdict.SAFE),
    "no end": ("nop; nop; cbnz x0, .-4; ret", 0, True, False, Verdict.UNSAFE),
}


@pytest.mark.parametrize("name", WAYS_IN)
def test_a_proof_knows_the_ways_into_the_middle(name: str) -> None:
    text, size, comes_back, kept_out, verdict = WAYS_IN[name]
    patch = a64patch.parse("@@ f -2 +2 @@\n-d503201f\n-d503201f\n+91000400\n+91000400\n")
    target = _Answering(assemble(text), cpus=2)
    target.name(Symbol("f", FAKE_BASE, size))
    (asked,) = a64patch.prove(a64patch.plan(patch, target), target)
    (asked_site,) = asked.question.sites
    assert (asked_site.comes_back, asked_site.kept_out) == (comes_back, kept_out)
    assert asked.question.protocol == "stop"
    assert asked.verdict is verdict
    assert asked.proof is not None
    assert set(asked.proof.broken) == (set() if verdict is Verdict.SAFE else {"P1"})


def test_only_a_stop_takes_the_plans_word_that_nobody_comes_back() -> None:
    """An indirect jump of the old code is no way in for a stop, which sees where it leads; a kick does not look."""
    hunks = "@@ f -2 +2 @@\n-14000002\n-d503201f\n+14000003\n+14000001\n\n@@ f+0x30 -1 +1 @@\n-d61f0020\n+d65f03c0\n"
    patch = a64patch.parse(hunks)
    target = _Answering(assemble("b .+8; " + "nop; " * 11 + "br x1"), cpus=2)
    target.name(Symbol("f", FAKE_BASE, 52))
    plan = a64patch.plan(patch, target)
    asked = {protocol: a64patch.prove(plan, target, protocol=protocol)[0] for protocol in ("kick", "stop")}
    assert asked["kick"].question.sites[0].comes_back
    assert asked["kick"].verdict is Verdict.UNSAFE
    assert asked["stop"].verdict is Verdict.SAFE


def test_a_context_word_belongs_to_the_site() -> None:
    """A CPU that stood at a context word of a hunk had executed the old word, and went on to a new one."""
    lines = "@@ f -3 +3 @@\n-d503201f\n+91000400\n {}\n-d503201f\n+91000400\n"
    for word in ("91000421", "04a0e3e0"):
        patch = a64patch.parse(lines.format(word))
        words = [0xD503201F, int(word, 16), 0xD503201F, 0xD65F03C0]
        with Simulator.from_words(words, base=BASE, symbols={"f": BASE}, cpus=2) as target:
            plan = a64patch.plan(patch, target)
            assert [len(each.question.sites[0].old) for each in a64patch.prove(plan, target)] == [3]
            torn = a64patch.prove(plan, target, omit=["pc-check"])
        assert [set(each.proof.broken) for each in torn if each.proof] == [{"P1"}]
        (asked,) = a64patch.prove(patch, protocol="kick")
        assert asked.proof
        assert "P1" in asked.proof.broken

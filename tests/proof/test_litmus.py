"""The litmus format: what is read, and that wrong or hostile text gets an error with its place, never a traceback."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.errors import A64PatchError, FormatError, ScopeError
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.litmus import LARGEST, Literal, parse
from tests.proof.catalogue import PAPER

SIMPLE = """AArch64 name
"a description" (* a comment (* in a comment *) *)
{ int64_t x; [y]=2; 0:X1=x; uint32_t 0:W2=0x10; ins_t *0:X3=P0:here; 0:X4=instr:"NOP"; 0:X5=label:"P0:here"; 0:X6=NOP }
 P0          | P1  ;
 STR W2,[X1] | NOP ;
 here: NOP   |     ;
locations [x;]
exists (x=16 /\\ 0:X3=label:"P0:here")
"""
ARM = ArmNow()


def allowed(condition: str) -> bool:
    return parse(SIMPLE[: SIMPLE.index("exists")] + condition).verdict(ARM).allowed


def test_the_initial_state() -> None:
    test = parse(SIMPLE)
    here, x, y = (test.labels[name] for name in ("P0:here", "x", "y"))
    assert test.name == "name"
    assert test.program.threads[0].registers == {
        1: x, 2: 16, 3: here, 4: 0xD503201F, 5: here, 6: 0xD503201F,
    }  # fmt: skip
    assert test.program.memory == {x: 0, y: 2}
    assert test.clauses == ((Literal(-1, x, 16, True), Literal(0, 3, here, True)),)


@pytest.mark.parametrize(
    ("condition", "verdict"),
    [
        ("exists (x=16)", True),
        ("exists (x=0)", False),
        ("exists ([x]=16 /\\ y=2)", True),
        ("exists (x=0 \\/ y=2)", True),
        ("exists (x!=16)", False),
        ("exists ~(x=0)", True),
        ("exists (not (x=16 \\/ y=3))", False),
        ("~exists (x=16)", True),
        ("forall (x=16)", False),
        ("forall (x=0 \\/ y=2 /\\ x=16)", False),
        ("forall (x=0)", True),
        ("exists (true)", True),
        ("exists (false)", False),
        ("exists (0:X2=-0 \\/ 0:W2=16)", True),
    ],
)
def test_conditions(condition: str, verdict: bool) -> None:
    assert allowed(condition) is verdict


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("AArch64", "X86_64", "1:1: a test begins with"),
        ("NOP   |     ;", "NOP   |     ", "6:"),
        ("STR W2,[X1]", "STR W2,[Q1]", "5:2: "),
        ("0:X1=x", "7:X1=x", "3:21: there is no thread 7"),
        ("P0:here; 0:X4", "P0:there; 0:X4", "there is no label P0:there"),
        ("| NOP ;", "| NOP | NOP ;", "3 columns below 2 threads"),
        ("exists", "perhaps", "8:1: expected exists"),
        ("(* in", "(* (* in", "2:17: a comment is not closed"),
        ("[y]=2", "[y]=", "expected a value"),
        ("(x=16", "(x~16", "expected = or !="),
        ("here: NOP", "here: here: NOP", "the label P0:here occurs twice"),
    ],
)
def test_an_error_says_where(old: str, new: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(SIMPLE.replace(old, new, 1), "file")
    assert str(caught.value).startswith("file")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("| P1  ;", "| P0.F ;", "fault handler"),
        ("x=16 /", "fault(P0:here) /", "faults"),
        ("[y]=2", "pte_x=1", "page tables"),
        ("STR W2,[X1]", "IC IALLU", "ic.iallu"),
        ("STR W2,[X1]", "UDF #0", "udf"),
        ("STR W2,[X1]", "DC CIVAC,X1", "dc.civac"),
        ("STR W2,[X1]", "LDNP X2,X4,[X1]", "ldnp"),
        ("STR W2,[X1]", "LDXP X2,X4,[X1]", "ldxp"),
        ("STR W2,[X1]", "LDP X2,X2,[X1]", "ldp"),
        ("STR W2,[X1]", "STR X1,[X1,#8]!", "str_pre"),
        ("STR W2,[X1]", "LDTR W2,[X1]", "ldtr"),
        ("STR W2,[X1]", "LDP W4,W5,[X1]", "inside x: accesses of mixed size"),
        ("STR W2,[X1]", "LDR W5,[X1,#3]", "inside x: accesses of mixed size"),
        ("STR W2,[X1] | NOP ;", "STRB W2,[X1] | NOP ; LDR W3,[X1] | ;", "x is accessed with 1 and 4 bytes"),
        ("STR W2,[X1] | NOP ;", "STRH W2,[X1] | NOP ; LDRB W3,[X1] | ;", "x is accessed with 1 and 2 bytes"),
        ("STR W2,[X1]", "STR X2,[X3]", "8 bytes to code"),
        ("STR W2,[X1]", "ERET", "ERET"),
        ("exists", "filter (x=1)\nexists", "filter"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(old: str, new: str, what: str) -> None:
    with pytest.raises(ScopeError, match=what):
        parse(SIMPLE.replace(old, new, 1)).verdict(ARM)


def test_the_size_is_bounded() -> None:
    with pytest.raises(FormatError, match="at most"):
        parse(SIMPLE + " " * LARGEST)
    with pytest.raises(FormatError, match="alternatives"):
        parse(SIMPLE + "/\\ (x=1 \\/ x=2)" * 12)
    with pytest.raises(FormatError, match="too deeply"):
        parse(SIMPLE[: SIMPLE.index("exists")] + "exists " + "(" * 2000 + "x=1" + ")" * 2000)


@given(st.data())
def test_hostile_text_gets_an_error_of_ours(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([SIMPLE, PAPER[0].text, PAPER[-1].text]))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        piece = data.draw(
            st.one_of(st.text(max_size=6), st.sampled_from(["(*", "|", ";", "P9:", "0x", "{", "}", "[", '"']))
        )
        text = text[:start] + piece + text[end:]
    with contextlib.suppress(A64PatchError):
        parse(text)

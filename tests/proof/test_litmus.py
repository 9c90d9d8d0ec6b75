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
        ("x=16 /", "fault(P0:here,x,TagCheck) /", "faults other than"),
        ("x=16 /", "fault(P0,MMU:Translation) /", "faults other than"),
        ("AArch64 name", "AArch64 name\nVariant=vmsa", "the variant 'vmsa'"),
        ("int64_t x;", "int64_t x[9];", "the array x has more than 64 bytes"),
        ("int64_t x;", "uint16_t x;", "x has 2 bytes and an access of 4 bytes"),
        ("STR W2,[X1]", "SVC #0", "P0 takes an exception and has no handler"),
        ("[y]=2", "pte_x=1", "page tables"),
        ("STR W2,[X1]", "IC IALLU", "ic.iallu"),
        ("STR W2,[X1]", "UDF #0", "P0 takes an exception and has no handler"),
        ("STR W2,[X1]", "DC CVAP,X1", "dc.cvap"),
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


HANDLED = """AArch64 handled
{variants}
{{ 0:X1=x; 0:X0=instr:"NOP" }}
 P0          | {handler} ;
 {instruction} | MOV W2,#7 ;
 MOV W3,#1   | {back} ;
exists ({condition})
"""


@pytest.mark.parametrize(
    ("instruction", "back", "condition", "verdict"),
    [
        ("SVC #0", "ERET", "0:X2=7 /\\ 0:X3=1", True),
        ("SVC #0", "NOP", "0:X2=7 /\\ 0:X3=1", False),
        ("SVC #0", "NOP", "0:X2=7 /\\ 0:X3=0", True),
        # UDF is not behind the place to which ERET returns.
        ("UDF #0", "ADR X9,l; MSR ELR_EL1,X9; ERET; l:", "0:X2=7 /\\ 0:X3=1", False),
        ("NOP", "ERET", "0:X2=7", False),
    ],
)
def test_a_handler_gets_the_exceptions_of_its_thread(
    instruction: str, back: str, condition: str, verdict: bool
) -> None:
    back = " ;\n  | ".join(back.split("; "))
    text = HANDLED.format(variants="", handler="P0.F", instruction=instruction, back=back, condition=condition)
    assert parse(text).verdict(ARM).allowed is verdict


@pytest.mark.parametrize(
    ("instruction", "condition", "verdict"),
    [
        ("here: SVC #0", "fault(P0)", True),
        ("here: SVC #0", "Fault(P0:here)", True),
        ("here: SVC #0", "fault(P0:here,SupervisorCall)", True),
        ("here: SVC #0", "fault(P0,UndefinedInstruction)", False),
        ("NOP ; here: UDF #0", "fault(P0:here,UndefinedInstruction)", True),
        ("here: NOP ; UDF #0", "fault(P0:here)", False),
        ("here: NOP", "fault(P0)", False),
        ("here: NOP", "~fault(P0)", True),
        ("here: UDF #0", "0:X3=1", False),
    ],
)
def test_a_fatal_exception_ends_its_thread(instruction: str, condition: str, verdict: bool) -> None:
    rows = instruction.replace(" ; ", " ;\n ")
    text = f"AArch64 fatal\nVariant=fatal\n{{ }}\n P0 ;\n {rows} ;\n MOV W3,#1 ;\nexists ({condition})\n"
    assert parse(text).verdict(ARM).allowed is verdict


def test_a_fault_of_a_thread_with_a_handler_is_refused() -> None:
    text = HANDLED.format(variants="", handler="P0.F", instruction="SVC #0", back="ERET", condition="fault(P0)")
    with pytest.raises(ScopeError, match="P0, which has a handler"):
        parse(text)


@pytest.mark.parametrize("header", ["P1.F", "P0"])
def test_a_handler_belongs_to_a_thread_before_it(header: str) -> None:
    text = HANDLED.format(variants="", handler=header, instruction="SVC #0", back="ERET", condition="0:X2=7")
    with pytest.raises(FormatError, match="threads are named in order"):
        parse(text)


SVC_AND_RELOAD = """AArch64 MP+dmb+ctrl-svc
{variants}
{{ 0:X1=x; 0:X3=y; 1:X1=x; 1:X3=y; }}
 P0          | P1           | P1.F        ;
 MOV W2,#1   | LDR W4,[X3]  | LDR W5,[X1] ;
 STR W2,[X1] | CBNZ W4,seen |             ;
 DMB ISH     | seen: SVC #0 |             ;
 STR W2,[X3] |              |             ;
exists (1:X4=1 /\\ 1:X5=0)
"""


@pytest.mark.parametrize(
    ("variants", "verdict"), [("", False), ("variant=exs,eis", False), ("variant=exs", True), ("Variant=exs,eos", True)]
)
def test_an_exception_entry_synchronises_unless_the_variant_says_no(variants: str, verdict: bool) -> None:
    """CSE-ob: [R]; ctrl; [CSE]; po, where exception entry is a CSE without FEAT_ExS or with SCTLR_EL1.EIS."""
    test = parse(SVC_AND_RELOAD.format(variants=variants))
    assert test.verdict(ARM).allowed is verdict


CELLS = """AArch64 cells
{ int x[2]={1,-1}; uint64_t y[2]; z=-1; uint8_t b=-1; 0:X1=x; 0:X2=x[1]; 0:X3=y; 0:X5=z; 0:X6=b; 0:X7=0:end }
 P0             ;
 LDP W8,W9,[X1] ;
 MOV X10,#-1    ;
 STP X10,X9,[X3] ;
 LDR W11,[X2]   ;
 LDR W12,[X5]   ;
 LDRSB W13,[X6] ;
 end: NOP       ;
locations [x; y[1]; 0:X1;]
"""


@pytest.mark.parametrize(
    ("condition", "verdict"),
    [
        ("exists (0:X8=1 /\\ 0:X9=-1 /\\ 0:X11=-1)", True),
        ("exists (0:X9=1)", False),
        ("exists (x=1 /\\ x[0]=1 /\\ x[1]=-1);", True),
        ("forall (y[0]=-1 /\\ y[1]=0xffffffff)", False),
        ("exists (y[0]=0xffffffff)", False),
        ("exists (0:X12=0xffffffff /\\ z=-1 /\\ b=-1 /\\ b=255 /\\ 0:X13=-1)", True),
        ('exists (0:X7=label:"P0:end")', True),
        ("filter (0:X8=1) exists (0:X9=-1)", True),
        ("filter (0:X8=2) exists (0:X9=-1)", False),
        ("filter (0:X8=2) forall (0:X9=5)", False),
    ],
)
def test_arrays_and_cells_of_a_type(condition: str, verdict: bool) -> None:
    assert parse(CELLS + condition).verdict(ARM).allowed is verdict


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("x[2]={1,-1}", "x[0]", "the number of elements"),
        ("x[2]={1,-1}", "x[2]={1}", "expected ','"),
        ("int x[2]={1,-1}", "[x][2]", "expected `;`"),
        ("0:X2=x[1]", "0:X2=x[2]", "x has the elements 0 to 1"),
    ],
)
def test_a_wrong_array_is_an_error(old: str, new: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse(CELLS.replace(old, new) + "exists (x=1)")

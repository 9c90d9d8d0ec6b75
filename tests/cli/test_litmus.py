"""`a64patch litmus` as a user meets it: a line a file, and an exit status that says whether all were answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a64patch.cli.main import main
from tests.proof.catalogue import PAPER

TESTS = {case.name: case for case in PAPER}


def saved(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.litmus"
    path.write_text(text)
    return str(path)


def test_a_line_for_each_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [saved(tmp_path, name, TESTS[name].text) for name in ("SM", "SM+cachesync-isb")]
    assert main(["litmus", "--model", "both", *files]) == 0
    assert capsys.readouterr().out == "SM\tAllowed\tCMODX: none\nSM+cachesync-isb\tForbidden\tCMODX: none\n"


def test_what_is_not_modelled_is_said_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TESTS["SM"].text.replace("STR W0,[X1]", "IC IALLU")
    assert main(["litmus", saved(tmp_path, "all", text)]) == 1
    assert capsys.readouterr().out.startswith("all\tout of scope: the instruction 'ic.iallu'")


def test_a_wrong_file_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = saved(tmp_path, "wrong", TESTS["SM"].text.replace("STR W0,[X1]", "STR W0,[Q1]"))
    missing = str(tmp_path / "missing")
    assert main(["litmus", wrong, missing, saved(tmp_path, "SM", TESTS["SM"].text)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "SM\tAllowed\tCMODX: none\n"
    first, second = captured.err.splitlines()
    assert "wrong.litmus:4:1: " in first
    assert "missing cannot be read" in second


def test_json_has_the_witness_or_the_cycle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [saved(tmp_path, name, TESTS[name].text) for name in ("SM", "SM+cachesync-isb")]
    assert main(["litmus", "--json", *files]) == 0
    allowed, forbidden = (entry["models"]["arm"] for entry in json.loads(capsys.readouterr().out))
    assert any("P0: F P0:f=0xd503201f" in event for event in allowed["witness"])
    assert forbidden["witness"] == []
    assert {"IC-ca", "DSB-ob"} <= {relation for _, relation, _ in forbidden["cycle"]}


@pytest.mark.parametrize(
    ("name", "patch", "said"),
    [
        # The reader looks at the flag, but does not wait for it.
        ("MP.RF+cachesync+ctrl-isb", "ADD W7,W7,#2", "possible"),
        ("MP.RF+cachesync+ctrl-isb", "B .+8", "none"),
        # The patching CPU alone: its own maintenance decides.
        ("SM", "ADD W7,W7,#2", "possible"),
        ("SM+cachesync-isb", "ADD W7,W7,#2", "none"),
    ],
)
def test_a_fetch_that_is_constrained_unpredictable(
    name: str, patch: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TESTS[name].text.replace('instr:"B .+8"', f'instr:"{patch}"')
    file = saved(tmp_path, name, text)
    assert main(["litmus", "--model", "both", file]) == 0
    assert capsys.readouterr().out.endswith(f"\tCMODX: {said}\n")
    assert main(["litmus", "--json", file]) == 0
    assert json.loads(capsys.readouterr().out)[0]["models"]["arm"]["cmodx"] == said


# x0 is 1 at the end if a load sees the store. `W1` counts rounds; `f` loads `x` when it is called.
MESSAGE = """AArch64 {name}
{{ 0:X1=x; 1:X1=x; 1:X9={pointer}; }}
 P0 | P1 ;
{rows}
exists ({condition})
"""
LOOPS = {
    # The outcome needs a fourth and a fifth round, which are certain.
    "count": (["MOV W0,#1 | MOV W2,#0", "STR W0,[X1] | L:", " | ADD W2,W2,#1", " | CMP W2,#5", " | B.NE L"], "1:X2=5"),
    # Four calls of one function in a straight line.
    "calls": (
        ["MOV W0,#1 | MOV W2,#0", "STR W0,[X1] | BL f", *[" | BL f"] * 3, " | B e", " | f: LDR W0,[X1]",
         " | ADD W2,W2,W0", " | RET", " | e: NOP"],
        "1:X2=4",
    ),
}  # fmt: skip
SPIN = (
    ["MOV W0,#1 | MOV W2,#0", "STR W0,[X1] | L: LDR W0,[X1]", " | ADD W2,W2,#1", " | CBZ W0,L", " | CMP W2,#5"],
    "1:X2=5",
)


def message(name: str, rows: list[str], condition: str, pointer: str = "x") -> str:
    return MESSAGE.format(name=name, pointer=pointer, rows="\n".join(f" {row} ;" for row in rows), condition=condition)


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_guesses_nothing_runs_to_its_end(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """These were Forbidden: a path with more than three visits of an address was left out in silence."""
    assert main(["litmus", saved(tmp_path, name, message(name, *LOOPS[name]))]) == 0
    assert capsys.readouterr().out == f"{name}\tAllowed\tCMODX: none\n"


def test_a_loop_that_was_left_too_early_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path, "spin", message("spin", *SPIN))
    assert main(["litmus", file]) == 1
    assert capsys.readouterr().out == "spin\tUnknown: P1 was not followed further than P1:L\tCMODX: unknown\n"
    assert main(["litmus", "--visits", "5", file]) == 0
    assert capsys.readouterr().out == "spin\tAllowed\tCMODX: unknown\n"
    assert main(["litmus", "--json", file]) == 1
    answer = json.loads(capsys.readouterr().out)[0]["models"]["arm"]
    assert (answer["verdict"], answer["reason"]) == ("Unknown", "P1 was not followed further than P1:L")
    # What was seen stays Allowed, however long the loop is.
    assert main(["litmus", saved(tmp_path, "seen", message("seen", SPIN[0], "1:X2=3"))]) == 0
    assert capsys.readouterr().out == "seen\tAllowed\tCMODX: unknown\n"


def test_an_access_outside_memory_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["MOV W0,#1 | LDR X2,[X9]", "STR W0,[X1] | MOV W3,#1"]
    assert main(["litmus", saved(tmp_path, "out", message("out", rows, "1:X3=1", "0x1234"))]) == 1
    assert (
        capsys.readouterr().out
        == "out\tUnknown: P1 may end by an access to 0x1234, which is not modelled\tCMODX: unknown\n"
    )
    # A thread whose address is good in each execution leaves nothing.
    assert main(["litmus", saved(tmp_path, "in", message("in", rows, "1:X3=2"))]) == 0
    assert capsys.readouterr().out == "in\tForbidden\tCMODX: none\n"


@pytest.mark.parametrize("visits", ["0", "101", "-1"])
def test_visits_are_bounded(visits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["litmus", "--visits", visits, saved(tmp_path, "SM", TESTS["SM"].text)]) == 2
    assert "give 1 to 100" in capsys.readouterr().err

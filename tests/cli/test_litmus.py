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
    assert capsys.readouterr().out == "SM\tAllowed\nSM+cachesync-isb\tForbidden\n"


def test_what_is_not_modelled_is_said_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TESTS["SM"].text.replace("STR W0,[X1]", "IC IALLU")
    assert main(["litmus", saved(tmp_path, "all", text)]) == 1
    assert capsys.readouterr().out.startswith("all\tout of scope: the instruction 'ic.iallu'")


def test_a_wrong_file_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = saved(tmp_path, "wrong", TESTS["SM"].text.replace("STR W0,[X1]", "STR W0,[Q1]"))
    missing = str(tmp_path / "missing")
    assert main(["litmus", wrong, missing, saved(tmp_path, "SM", TESTS["SM"].text)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "SM\tAllowed\n"
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

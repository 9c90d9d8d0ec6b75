"""`a64patch diff`: the patch on stdout, what is not in it on stderr, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a64patch.cli.main import main
from a64patch.patch.asmdiff import parse
from tests.support import assemble, link

SOURCE = """
    .globl _start
    .type _start, %function
_start: mov w0, #5
    mov x8, #93
    svc #0
    .size _start, . - _start
"""


@pytest.fixture
def builds(tmp_path: Path) -> dict[str, str]:
    texts = {"old": SOURCE, "new": SOURCE.replace("#5", "#6"), "longer": SOURCE.replace("svc", "nop\nsvc")}
    return {
        name: str(link(assemble(text, tmp_path / f"{name}.o"), tmp_path / name, "--build-id=0x0102"))
        for name, text in texts.items()
    }


def test_a_difference(builds: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", builds["old"], builds["new"]]) == 0
    said = capsys.readouterr()
    assert said.out == (
        "Target: old\nBuild-Id: 0102\n\n@@ _start -3 +3 @@\n-528000a0  mov   w0, #5\n+528000c0  mov   w0, #6\n"
        " d2800ba8  mov   x8, #0x5d\n d4000001  svc   #0x0\n"
    )
    assert said.err == ""
    assert parse(said.out).build_id == "0102"


def test_no_difference(builds: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", builds["old"], builds["old"]]) == 0
    assert capsys.readouterr() == ("", "")


def test_what_is_not_in_the_patch(builds: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", builds["old"], builds["longer"]]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "a64patch: not in the patch: _start has 12 bytes in OLD and 16 in NEW\n")


def test_the_same_facts_as_json(builds: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "--json", builds["old"], builds["new"]]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["hunk_sites"], facts["not_expressed"]) == (["_start"], [])
    assert parse(facts["patch"]).hunks[0].site == "_start"
    assert main(["diff", "--json", builds["old"], builds["longer"]]) == 1
    assert json.loads(capsys.readouterr().out)["not_expressed"] == ["_start has 12 bytes in OLD and 16 in NEW"]


def test_an_input_that_is_no_elf_file(
    tmp_path: Path, builds: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text"
    path.write_text("hello")
    assert main(["diff", builds["old"], str(path)]) == 2
    assert "is not an ELF file" in capsys.readouterr().err

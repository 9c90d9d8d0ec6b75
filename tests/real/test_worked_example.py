"""docs/worked-example.md on Debian's kernel module: every command prints what stands there.

Archives keep only a release's newest build. So the page is read for the build that is there: its Build-Id and offsets.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.cli.main import main
from a64patch.targets.elf import ElfFile
from tests.real.places import page_for
from tests.support import ROOT

PAGE = (ROOT / "docs/worked-example.md").read_text("utf-8")


def indented(text: str) -> list[str]:
    """The blocks that are indented by four, without the indent."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE).strip("\n") + "\n" for block in blocks]


def test_the_worked_example_on_debians_module(
    kernel_module: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    shutil.copy(kernel_module("softdog"), "softdog.ko")
    with open_target("softdog.ko") as module:
        [claim] = [claim for claim in module.modules.claims if claim.hazard == "signature"]
    subprocess.run(claim.sentence.split("`")[1], shell=True, check=True)
    original = Path("softdog.ko").read_bytes()
    with ElfFile("softdog.ko") as module:
        page = page_for(PAGE, "softdog_fire", module)
    # Where a number has more digits than on the page, columns are wider.
    alike = (lambda text: text) if page == PAGE else (lambda text: re.sub(" +", " ", text))
    blocks = indented(page)
    patch = next(block for block in blocks if block.startswith("softdog: "))
    draft = re.sub(r"^([ +-])[0-9a-f]{8}", r"\1????????", patch, flags=re.MULTILINE)
    draft = re.sub(r"^Build-Id:.*\n\n", "", draft, flags=re.MULTILINE)
    draft = re.sub(r" -4 \+4 @@$", " @@", draft, flags=re.MULTILINE)
    assert draft.count("????????") == 7
    Path("draft").write_text(draft, "utf-8")
    assert main(["fmt", "draft", "softdog.ko"]) == 0
    assert alike(capsys.readouterr().out) == alike(patch)
    Path("grace.patch").write_text(patch, "utf-8")

    done = 0
    for block in blocks:
        for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            program, *arguments = command.split()
            if program == "a64patch":
                main(arguments)
                captured = capsys.readouterr()
                printed = "\n".join(line.rstrip() for line in (captured.out + captured.err).splitlines()) + "\n"
                assert alike(printed) == alike(expected), command
                done += 1
            elif program == "cmp":
                assert Path("softdog.ko").read_bytes() == original
    assert done == 7

"""Patches of a program or a library in the processes of a real arm64 Linux that execute it.

Read on: exe_trials.py is what happens in the guest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.real.userland import Userland
from tests.support import ROOT, need, run

FOLDER = ROOT / "tests/real"

Trial = Callable[..., Any]

OLD, NEW = "257 8", "514 8"
"""What the program says of the library's function and of its own."""


@pytest.fixture
def trial(userland: Userland, tmp_path: Path) -> Trial:
    """Runs a function of exe_trials.py in the guest."""
    if userland.run("test -e /opt/exe").status:
        compiler = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
        library, program = tmp_path / "library.so", tmp_path / "program"
        run(compiler, "-O1", "-fPIC", "-shared", "-Wl,-soname,library.so", "-o", library, FOLDER / "exe_library.c")
        run(compiler, "-O1", "-o", program, FOLDER / "exe_program.c", library, "-Wl,-rpath,/opt/exe")
        userland.output_of("mkdir -p /opt/exe")
        for file in (library, program):
            userland.put(f"/opt/exe/{file.name}", file.read_bytes())
    return lambda *arguments: userland.python(FOLDER / "exe_trials.py", *arguments, seconds=600)


def test_patch_of_a_library_in_one_process(trial: Trial) -> None:
    told = trial("library")
    place = f"pid:{told['pid']}?main=/opt/exe/library.so"
    assert [told["first"], told["second"], told["third"]] == [OLD, NEW, OLD]
    status, said = told["other"]
    assert status == 1
    assert "the patch was made for build" in said, said
    status, said = told["applied"]
    assert (status, said.partition(";")[0]) == (0, "applied: 1 hunk: 2 words written")
    assert told["status"] == [0, "pair  applied\n"]
    assert place in told["log"][1]
    assert told["reverted"][0] == 0

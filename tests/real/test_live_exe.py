"""Patches of a program or a library in the processes of a real arm64 Linux that execute it.

Read on: exe_trials.py is what happens in the guest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.real.userland import Userland
from tests.support import ROOT, need, run

FOLDER = ROOT / "tests/real"

SHARED = ("-O1", "-fPIC", "-shared", "-Wl,-soname,library.so")

Trial = Callable[..., Any]

OLD, NEW = "257 8", "514 8"
"""What the program says of the library's function and of its own."""
REPLACED = "258 8"
"""With the other build of the library."""


@pytest.fixture
def trial(userland: Userland, tmp_path: Path) -> Trial:
    """Runs a function of exe_trials.py in the guest."""
    if userland.run("test -e /opt/exe").status:
        compiler = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
        library, program = tmp_path / "library.so", tmp_path / "program"
        run(compiler, *SHARED, "-o", library, FOLDER / "exe_library.c")
        source = (FOLDER / "exe_library.c").read_text("utf-8").replace("return pair()", "return pair() + 1")
        other = tmp_path / "other.so"
        run(compiler, *SHARED, "-o", other, "-x", "c", "-", stdin=source)
        run(compiler, "-O1", "-o", program, FOLDER / "exe_program.c", library, "-Wl,-rpath,/opt/exe")
        userland.output_of("mkdir -p /opt/exe")
        for file in (library, program, other):
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
    assert ", 1 thread stopped for " in said
    assert told["status"] == [0, "pair  applied\n"]
    assert place in told["log"][1]
    assert told["reverted"][0] == 0


def test_patch_of_a_library_in_all_processes(trial: Trial) -> None:
    told = trial("many")
    old, first, second = told["pids"]
    facts = dict(re.split("  +", line, maxsplit=1) for line in told["info"][1].splitlines())
    assert (facts["target"], facts["threads"], facts["can stop all threads"]) == ("process", "1", "yes")
    assert facts["file of library.so"] == "it was removed or replaced since it was mapped"
    assert [name for name in facts if name.startswith("file of ")] == ["file of library.so"]
    status, said = told["applied"]
    found = {one["pid"]: one for one in json.loads(said)["processes"]}
    assert (status, list(found)) == (0, [old, first, second])
    assert [one["result"] for one in found.values()] == ["skipped", *["applied"] * 2]
    assert found[old]["sentence"].startswith("maps another build (")
    assert [found[pid]["stopped"] for pid in (first, second)] == [[first], [second]]
    assert told["now"] == [REPLACED, NEW, NEW]
    status, said = told["status"]
    assert (status, said.count("  applied\n"), said.count("skipped")) == (0, 2, 1)
    assert told["reversed"][0] == 0
    assert told["then"] == [REPLACED, OLD, OLD]
    status, said = told["nothing"]
    assert status == 2
    assert f"process {second} (program) is being traced by process " in said
    assert "reverted" in said
    assert told["last"] == [REPLACED, OLD, OLD]


def test_difference_between_a_file_and_what_runs(trial: Trial) -> None:
    told = trial("difference")
    assert told["none"] == told["program"] == [0, ""]
    status, text = told["patched"]
    assert status == 0
    assert text.partition("@@")[2].splitlines() == [
        " pair -4 +4 @@",
        "-d2800020  mov   x0, #1",
        "-d2800021  mov   x1, #1",
        "+d2800040  mov   x0, #2",
        "+d2800041  mov   x1, #2",
        " 8b012000  add   x0, x0, x1, lsl #8",
        " d65f03c0  ret",
    ]
    assert told["plan"] == ["not applied", False, 2]
    # Against the other build: `work` is longer there, and `pair` has other words.
    status, text = told["other"]
    assert status == 1
    assert "not in the patch: work has 24 bytes in OLD and 20 in NEW" in text
    assert "+d2800040  mov   x0, #2" in text
    assert " only\n" not in text, "other modules of the process are not compared"

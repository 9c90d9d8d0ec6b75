"""Patches killed at any moment, failing at any call, cut off from power: afterwards all old or all new, never mixed.

Two targets: an ELF file, which is replaced as a whole, and a memory in which every word is written on its own. A word
of data of this memory changes with the code. The ELF file also gets new code that lies elsewhere: `annex`.
Read on: crash.py for what is done and what is checked each time, faults.c for how.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patch.crash import SOURCE, Disk
from tests.support import IN_MEMORY, ROOT, assemble, link, need, rounds, run

KINDS = ("elf", "words", "annex")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY, prefix="a64patch-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    run(need("gcc", "gcc"), "-shared", "-fPIC", "-O1", "-o", library, ROOT / "tests/patch/faults.c", "-ldl")
    return library


def crash(what: str, kind: str, folder: Path, times: int = 0, library: Path | None = None) -> dict[str, int]:
    """What crash.py counted."""
    bench = folder / "bench"
    bench.mkdir()
    arguments = [what, kind, str(bench), str(times), "20261122"]
    if kind != "words":
        made = link(assemble(SOURCE + "\n", folder / "site.o"), folder / "site", "-e", "site", "--build-id=0x0011")
        arguments.append(str(made))
    environment = os.environ | ({"LD_PRELOAD": str(library)} if library else {})
    command = [sys.executable, "-m", "tests.patch.crash", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    counts: dict[str, int] = json.loads(done.stdout)
    print(json.dumps(counts, indent=1))
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments(kind: str, folder: Path) -> None:
    kills = rounds(1000, 150)
    counts = crash("kill", kind, folder, kills)
    assert counts["kills"] == kills
    assert counts["after: old"] + counts["after: new"] == kills
    # Otherwise nothing was tested.
    assert counts["apply cut off"] + counts["revert cut off"] > 0.4 * kills
    assert counts["recover cut off"] > 0.05 * kills
    assert counts["before: open"] > 0.05 * kills
    assert counts["before: old"] > 0.05 * kills
    assert counts["before: new"] > 0.05 * kills
    if kind == "words":
        assert counts["before: mixed"] > 0.05 * kills
    if kind == "annex":
        assert counts["before: new code alone"] > 0.01 * kills


@pytest.mark.parametrize("kind", KINDS)
def test_killed_torn_failing_or_full_at_every_call(kind: str, folder: Path, faults: Path) -> None:
    counts = crash("faults", kind, folder, library=faults)
    calls = {"elf": 20, "words": 70, "annex": 40}[kind]
    assert counts["apply, killed after"] > calls
    assert counts["revert, killed after"] > calls
    assert counts["recover, killed after"] > calls / 4
    assert counts["apply, disk full from"] > 20
    assert counts["recovered: undone"] > 20
    assert counts["recovered: applied"] > 20


@pytest.mark.fresh("gcc", "libc6-dev")
@pytest.mark.parametrize("kind", KINDS)
def test_power_cut_after_every_call(kind: str, folder: Path, faults: Path) -> None:
    counts = crash("power", kind, folder, library=faults)
    assert sum(number for name, number in counts.items() if name.startswith("power cuts: ")) > 100
    assert counts["before: open"] > 50
    assert counts["recovered: undone"] > 20
    assert counts["recovered: applied"] > 20


def test_the_disk_of_the_power_cuts_forgets() -> None:
    disk = Disk.holding({"target/file": b"old!"})

    def left(*survivors: str) -> dict[str, bytes]:
        return disk.after_power_cut(lambda path: path in survivors)[0]

    disk.apply("write", "target/file", "", 0, b"new")
    assert left() == {"target/file": b"old!"}
    assert left("target/file") == {"target/file": b"new!"}
    disk.apply("sync", "target/file", "", 0, b"")
    assert left() == {"target/file": b"new!"}
    disk.apply("mkdir", "state", "", 0, b"")
    disk.apply("create", "state/journal", "", 0, b"")
    disk.apply("write", "state/journal", "", 0, b"entry")
    disk.apply("sync", "state/journal", "", 0, b"")
    disk.apply("sync", "state", "", 0, b"")
    assert left() == {"target/file": b"new!"}, "the directory is not known above"
    disk.apply("sync", ".", "", 0, b"")
    assert left() == {"target/file": b"new!", "state/journal": b"entry"}
    disk.apply("create", "target/temporary", "", 0, b"")
    disk.apply("rename", "target/temporary", "target/file", 0, b"")
    assert left() == {"target/file": b"new!", "state/journal": b"entry"}
    assert left("target/temporary") == {"target/file": b"", "state/journal": b"entry"}
    disk.apply("unlink", "state/journal", "", 0, b"")
    assert "state/journal" in left()
    disk.apply("sync", "state", "", 0, b"")
    assert "state/journal" not in left()

"""What tests of several rooms share: tools that must be there, and inputs built with them.

Read on: real/packages.py for Debian's arm64 packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
"""Where a test puts files that it makes by the thousand: fsync costs nothing there. None where there is no such place.
"""


GUARD_SECONDS = 300.0
"""How long a test waits for another process or thread before it fails: so that nothing hangs, not a limit of anything.
"""


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether a condition holds at last: what another process or thread brings about."""
    deadline = time.monotonic() + GUARD_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def calls_made_by(run: Callable[[], object]) -> int:
    """How many functions a call of this calls, in Python and in C, in this thread: work that no other process slows."""
    number = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal number
        number += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(before)
    return number


def in_ci() -> bool:
    """Nothing may be skipped."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def rounds(whole: int, usual: int) -> int:
    """How often a long test does the same thing anew: `whole` with A64PATCH_THOROUGH=1, else `usual`."""
    return whole if os.environ.get("A64PATCH_THOROUGH") else usual


def unavailable(message: str) -> NoReturn:
    """Something real that this test needs is not there: a failure in CI, a skip on a laptop."""
    if in_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def need(tool: str, package: str) -> str:
    """The path of a tool that the Debian package holds."""
    return shutil.which(tool) or unavailable(f"{tool} is missing: install the Debian package {package}")


def run(*command: str | Path, stdin: str | None = None) -> str:
    """What a command wrote to stdout; a failure of the test with all that it said when it failed."""
    done = subprocess.run(command, input=stdin or "", capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def assemble(source: str, path: Path, *options: str) -> Path:
    """An object file at `path`, made by GNU as from `source`."""
    run(need("aarch64-linux-gnu-as", "binutils-aarch64-linux-gnu"), *options, "-o", path, "-", stdin=source)
    return path


def link(objects: Path | Sequence[Path], path: Path, *options: str) -> Path:
    """A linked file at `path`, made by GNU ld from the objects; without options a static executable."""
    objects = [objects] if isinstance(objects, Path) else objects
    run(need("aarch64-linux-gnu-ld", "binutils-aarch64-linux-gnu"), *options, "-o", path, *objects)
    return path

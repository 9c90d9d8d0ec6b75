"""Runs scripts in the guest, each in a process of its own that has numpy, elftools and a64patch imported already.

Read on: userland.py, which starts it there and sends it one line of JSON for each script.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy

import a64patch
import a64patch.cli.main
from a64patch.a64.references import branch_targets

FOLDER = Path("/run/worker")
"""Its fifos `in` and `out`, the last script and what this script wrote to `output`."""
LATE = "late"
"""The status of a script whose time was over."""
PRELOADED = ("elftools.elf.elffile", "rich.console")
"""Besides all modules of a64patch."""


def main() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    for found in pkgutil.walk_packages(a64patch.__path__, "a64patch."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    with contextlib.redirect_stdout(io.StringIO()):  # the first time it makes tables
        a64patch.cli.main.main(["asm", "nop"])
        a64patch.cli.main.main(["disasm", "d503201f"])
    branch_targets(numpy.zeros(1, numpy.uint32), 0)  # as well
    gc.freeze()  # what is not looked at is not copied either
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    # Open to write as well: so that there is no end, and whoever writes always has a reader.
    jobs = os.fdopen(os.open(FOLDER / "in", os.O_RDWR), "rb")
    while True:
        job = json.loads(jobs.readline())
        path = FOLDER / job["name"]
        path.write_text(job["source"], "utf-8")
        (FOLDER / "output").unlink(missing_ok=True)
        pid = os.fork()
        if not pid:
            _become(path, job["arguments"])
        status = _wait(pid, job["seconds"])
        (FOLDER / "out").write_text(f"{status}\n", "ascii")


def _wait(pid: int, seconds: float) -> int | str:
    """The exit status as a shell tells it, or LATE."""
    late = signal.sigtimedwait({signal.SIGCHLD}, seconds) is None
    if late:
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if late:
        signal.sigwait({signal.SIGCHLD})  # or it counts as that of the next script
    return LATE if late else 128 - code if code < 0 else code


def _become(path: Path, arguments: list[Any]) -> None:
    """Be the script, and exit as Python does."""
    os.setsid()
    output = os.open(FOLDER / "output", os.O_WRONLY | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    sys.argv = [str(path), *map(str, arguments)]
    status = 0
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1 if error.code else 0
        if status and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status & 255)


if __name__ == "__main__":
    main()

"""What test_live_exe.py does inside of the guest: patches of a library, in the processes that execute it.

Read on: exe_program.c and exe_library.c are what is patched, test_live_exe.py says what must come out.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import a64patch
from a64patch.cli.main import main as a64patch_main
from a64patch.targets import ptrace

PROGRAM, LIBRARY, OTHER = "/opt/exe/program", "/opt/exe/library.so", "/opt/exe/other.so"
PAIR = """\
Build-Id: {build}

@@ pair @@
-d2800020  mov x0, #1
-d2800021  mov x1, #1
+d2800040  mov x0, #2
+d2800041  mov x1, #2
"""


class Program:
    """A running process that executes the library."""

    def __init__(self, program: str = PROGRAM) -> None:
        self.child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.child.pid
        self.last = self._line()

    def _line(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline().strip()

    def says(self) -> str:
        """The results of both functions now."""
        assert self.child.stdin is not None
        self.child.stdin.write("?\n")
        self.child.stdin.flush()
        return self._line()

    def end(self) -> None:
        self.child.kill()
        self.child.wait()


@contextmanager
def programs(*paths: str) -> Iterator[list[Program]]:
    """A process of each program."""
    found: list[Program] = []
    try:
        found += [Program(path) for path in paths]
        yield found
    finally:
        for one in found:
            one.end()


@contextmanager
def folder() -> Iterator[Path]:
    """A folder with a patch of the library in it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, a64patch.open_target(LIBRARY) as file:
        path = Path(name)
        (path / "fix.patch").write_text(PAIR.format(build=file.identity().build_id))
        yield path


def command(path: Path, *words: str) -> tuple[int, str]:
    """Status and output of a command with a journal in this folder; both streams, one after the other."""
    out, err = io.StringIO(), io.StringIO()
    journal = () if words[0] in ("show", "diff", "status") else ("--journal", str(path / "journal"))
    with redirect_stdout(out), redirect_stderr(err):
        status = a64patch_main([*words, *journal])
    return status, (out.getvalue() + err.getvalue()).replace(str(path), "FOLDER")


def apart(do: Callable[[], object]) -> Any:
    """The result of a function that another process calls: one that is no parent of the programs."""
    ready, going = os.pipe()
    child = os.fork()
    if child == 0:
        with open(going, "w") as stream:
            stream.write(json.dumps(do()))
        os._exit(0)
    os.close(going)
    with open(ready) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return json.loads(said)


@contextmanager
def traced(pid: int) -> Iterator[None]:
    """A process that another one traces."""
    ready, going = os.pipe()
    child = os.fork()
    if child == 0:
        ptrace.seize(pid)
        os.write(going, b"r")
        time.sleep(600)
    os.read(ready, 1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(going)


# What must come out is in test_live_exe.py.


def library() -> dict[str, Any]:
    """A patch of the library, in one process."""
    with programs(PROGRAM) as [program], folder() as path:
        patch, place = str(path / "fix.patch"), f"pid:{program.pid}?main={LIBRARY}"
        said: dict[str, Any] = {"first": program.says(), "other": command(path, "apply", patch, f"pid:{program.pid}")}
        said |= {"applied": command(path, "apply", patch, place), "second": program.says()}
        said |= {"status": command(path, "status", patch, place), "log": command(path, "log", "1")}
        said |= {"reverted": command(path, "revert", "1"), "third": program.says(), "pid": program.pid}
        return said


def difference() -> dict[str, Any]:
    """A library's file and a process that executes it, before and after a patch."""
    with programs(PROGRAM) as [program], folder() as path:
        patch, place = path / "fix.patch", f"pid:{program.pid}"
        said: dict[str, Any] = {"none": command(path, "diff", LIBRARY, place)}
        said["program"] = command(path, "diff", PROGRAM, place)
        assert command(path, "apply", str(patch), f"{place}?main={LIBRARY}")[0] == 0
        said["patched"] = _, text = command(path, "diff", LIBRARY, place)
        with a64patch.open_target(LIBRARY) as file:
            plan = a64patch.plan(a64patch.parse(text), file)
            said["plan"] = [plan.state.value, plan.by_meaning, len(plan.changes)]
        said["other"] = command(path, "diff", OTHER, f"{place}?main={LIBRARY}")
        return said


def many() -> dict[str, Any]:
    """A patch of the library in several processes: one began before the file was replaced, one was traced by others."""
    file, other = Path(LIBRARY), Path(OTHER)
    content = file.read_bytes()
    file.rename(f"{LIBRARY}.kept")
    try:
        file.write_bytes(other.read_bytes())  # of another build
        old = Program()
        Path(f"{LIBRARY}.new").write_bytes(content)
        os.rename(f"{LIBRARY}.new", LIBRARY)
        with programs(PROGRAM, PROGRAM) as running, folder() as path:
            running.insert(0, old)
            patch, target = str(path / "fix.patch"), f"exe:{LIBRARY}"
            said: dict[str, Any] = {"pids": [one.pid for one in running]}
            said["info"] = command(path, "show", f"pid:{old.pid}", "--target-info")
            said["applied"] = command(path, "apply", patch, target, "--json")
            said["now"] = [one.says() for one in running]
            said["status"] = command(path, "status", patch, target)
            said["reversed"] = command(path, "apply", "-R", patch, target)
            said["then"] = [one.says() for one in running]
            with traced(running[2].pid):
                said["nothing"] = apart(lambda: command(path, "apply", patch, target, "--all-or-nothing"))
            said["last"] = [one.says() for one in running]
            return said
    finally:
        old.end()
        file.unlink()
        os.rename(f"{LIBRARY}.kept", LIBRARY)


def main() -> None:
    function, *arguments = sys.argv[1:]
    print(json.dumps(globals()[function](*arguments)))


if __name__ == "__main__":
    main()

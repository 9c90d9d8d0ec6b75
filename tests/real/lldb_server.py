"""Patches a program under Debian's lldb-server, in an arm64 guest, and patches it back.

`python -m tests.real.lldb_server` prints what the stub is and what was done. CI does not run it: lldb-server needs
libraries of 200 MB. They come from the suite SUITE of this machine's archive and stay in the cache of packages.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from a64patch import open_target, patch_text_sync
from a64patch.a64.assembler import assemble
from a64patch.targets.base import Target
from tests.real import packages
from tests.real.guest import Guest, compile_program
from tests.real.kernels import sources
from tests.real.live import Line
from tests.real.packages import Apt
from tests.support import GUARD_SECONDS, run

SUITE, PACKAGE = "trixie", "lldb-19"
SERVER = "usr/lib/llvm-19/bin/lldb-server"
ROUNDS = 20
OLD, NEW = "mov x0, #1; nop; nop", "mov x0, #40; add x0, x0, #2; nop"
"""What live_threads.c has in `answer`, and what makes 42 of the 1."""


def tree() -> Path:
    """The root of the unpacked package, together with all that it depends on."""
    with packages.building(PACKAGE) as (root, place):
        if place:
            apt = Apt([line for line in sources() if f" {SUITE} " in line])
            packages.unpack(apt.download(apt.with_dependencies([PACKAGE])), place)
    return root


def lldb_server_files() -> dict[str, bytes | Path]:
    """lldb-server and the libraries that it needs, for `Guest(files=...)`."""
    root = tree()
    found: dict[str, bytes | Path] = {"/bin/lldb-server": (root / SERVER).resolve()}
    waiting = [root / SERVER]
    while waiting:
        for name in re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", str(waiting.pop()))):
            if f"/lib/{name}" not in found:
                library = next(path for path in root.rglob(name) if path.is_file())
                found[f"/lib/{name}"] = library
                waiting.append(library)
    return found


def answers(guest: Guest) -> set[int]:
    """Which answers the program's threads got in a while: 1, 42, or both."""
    first: list[int] | None = None
    deadline = time.monotonic() + GUARD_SECONDS
    while time.monotonic() < deadline:
        data = guest.run_bytes("cat /tmp/answers 2>/dev/null", check=False)
        if len(data) == 16:
            now = [int.from_bytes(data[at : at + 8], "little") for at in (0, 8)]
            first = first or now
            more = [after - before for after, before in zip(now, first, strict=True)]
            if sum(more) > 50:
                return {answer for answer, number in zip((1, 42), more, strict=True) if number}
        time.sleep(0.02)
    raise AssertionError(f"no answers: {guest.run('cat /tmp/gdbserver.log', check=False)}")


def change(target: Target, old: str, new: str) -> None:
    """Three words at once, all threads stopped."""
    site = target.symbols["answer"]
    olds, news = (assemble(text.replace("; ", "\n")) for text in (old, new))
    patch_text_sync(target, [site + 4 * at for at in range(len(news))], news, expected=olds)


def serve(guest: Guest, program: Path, pid: str, old: str, new: str) -> None:
    """Attach lldb-server to the process, change the program back and forth, leave the new words."""
    server = f"lldb-server gdbserver --attach {pid} --reverse-connect file:///dev/vport0p2"
    with guest.stub(server) as where, Line(where) as line:
        line.connect()
        guest.run(f"until grep -q 'TracerPid:.*[1-9]' /proc/{pid}/status; do sleep 0.05; done")
        with open_target(f"{line.location}?assume=stops,caches", symbols=program) as target:
            print(f"{target.capabilities.kind}, {target.capabilities.cpus} threads; {target.facts()}")
            for _ in range(ROUNDS):
                change(target, old, new)
                change(target, new, old)
            change(target, old, new)


def command(*words: str, state: Path) -> str:
    """What a command of a64patch prints, with a journal of its own."""
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    done = subprocess.run([sys.executable, "-m", "a64patch", *words], env=environment, capture_output=True, text=True)
    assert not done.returncode, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def from_the_command_line(guest: Guest, program: Path, pid: str, folder: Path) -> None:
    """Apply a patch file, see the threads say 42, revert it by the journal, see them say 1."""
    patch = folder / "answer.patch"
    pairs = zip(OLD.split("; "), NEW.split("; "), strict=True)
    lines = [f"-{assemble(old)[0]:08x} {old}\n+{assemble(new)[0]:08x} {new}" for old, new in pairs if old != new]
    patch.write_text("@@ answer -2 +2 @@\n" + "\n".join(lines) + "\n")
    server = f"lldb-server gdbserver --attach {pid} --reverse-connect file:///dev/vport0p2"
    # The journal keeps the place, and each server has a socket of its own.
    socket = folder / "socket"
    place = f"gdb+unix:{socket}?assume=stops,caches"
    symbols = ["--symbols", str(program)]
    for words, answer in ((["apply", str(patch), place, *symbols], 42), (["revert", "1", *symbols], 1)):
        with guest.stub(server) as where, Line(where) as line:
            line.connect()
            guest.run(f"until grep -q 'TracerPid:.*[1-9]' /proc/{pid}/status; do sleep 0.05; done")
            socket.unlink(missing_ok=True)
            socket.symlink_to(line.location.removeprefix("gdb+unix:"))
            print(command(*words, state=folder), end="")
        answers(guest)
        found = answers(guest)
        assert found == {answer}, found
        print(f"after `a64patch {words[0]}`: the program says {answer}")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="a64patch-") as folder:
        source = Path(__file__).with_name("live_threads.c").read_text("utf-8")
        program = compile_program(source, Path(folder) / "live_threads")
        with Guest(files={**lldb_server_files(), "/opt/live_threads": program}, seconds=300) as guest:
            pid = guest.run("/opt/live_threads /tmp/answers </dev/null >/dev/null 2>&1 & echo $!").strip()
            for old, new, answer in ((OLD, NEW, 42), (NEW, OLD, 1)):
                serve(guest, program, pid, old, new)
                answers(guest)
                found = answers(guest)
                assert found == {answer}, found
                print(f"{old} -> {new}: the program says {answer}")
            from_the_command_line(guest, program, pid, Path(folder))
            guest.require_healthy()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A guest whose kernel is patched while all its CPUs execute what is patched, and a line to its stub that breaks.

Read on: live_load.c for what runs inside, guest.py for the guest, conftest.py for the fixture `live`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from a64patch.kernel.symbols import parse_listing
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.real.guest import Guest, compile_program, gdbserver_files
from tests.real.places import Rewrite
from tests.support import GUARD_SECONDS

KINDS = ("pid", "uptime", "ram", "zero", "busy")
_COUNTS = struct.Struct("<qqq104s")

PID = Rewrite(
    ("__arm64_sys_getpid",),
    r"^(?P<old>mrs x0, sp_el0\nbl __task_pid_nr_ns\nsxtw x0, w0\n)",
    lambda _: "mov x0, #0x2345\nmovk x0, #0x67, lsl #16\nadd x0, x0, #1\n",
)
_NO_BRANCH = r"(?!b|cbn?z|tbn?z|ret)"
_NO_STORE = r"(?!st|cm)"
_FRACTION = {"3": "mov x3, #1234\n", "5": "mov x5, #5678\n"}
UPTIME = Rewrite(
    ("uptime_proc_show",),
    # The fractions are the arguments x3 and x5. No instruction uses either between its last change and the call.
    rf"^(?P<old>{_NO_STORE}\w+ x(?P<one>[35]), .*\n(?P<between>(?:{_NO_BRANCH}(?!.*\b[xw](?P=one)\b).*\n)*)"
    rf"{_NO_STORE}\w+ x(?!(?P=one))(?P<other>[35]), .*\n(?P<behind>(?:{_NO_BRANCH}(?!.*\b[xw][35]\b).*\n)*))"
    r"bl seq_printf\n",
    lambda found: f"{_FRACTION[found['one']]}{found['between']}{_FRACTION[found['other']]}{found['behind']}",
)
RAM = Rewrite(
    ("brd:brd_do_bvec", "brd:brd_submit_bio"),
    # The arguments of memset(): three instructions in any order, or the second argument and what follows.
    # A module may call it through a veneer that has no name.
    r"^(?P<old>(?=(?:.*\n){0,2}\w+ x0, )(?=(?:.*\n){0,2}mov w1, #0\n)(?=(?:.*\n){0,2}\w+ x2, )"
    r"(?P<first>.*\n.*\n)(?P<last>.*\n)"
    rf"|(?P<clear>mov w1, #0\n)(?P<behind>(?:{_NO_BRANCH}(?!.*\b[xw]1\b).*\n)*\w+ x0, .*\n))bl ",
    lambda found: "".join(found[part] or "" for part in ("last", "first", "behind", "clear")).replace(
        "mov w1, #0\n", "mov w1, #0xa5\n"
    ),
)
ALL_AT_ONCE = (PID, UPTIME, RAM)
"""Three sites, one of them in a module, whose effects live_load checks.

No two words of a site can be mixed unnoticed: all set what only the three together set, each word another.
"""
NOT_CLEARED = Rewrite(
    ("read_zero",),
    # What was cleared is counted up before, or behind, the call that clears it.
    r"^add (?P<sum>x\d+), (?P=sum), (?P<part>x\d+)\n(?:.*\n)*?(?P<old>bl __arch_clear_user\ncbnz x0, .*\n)",
    lambda found: f"nop\nsub {found['sum']}, {found['sum']}, {found['part']}\n",
)
"""/dev/zero clears nothing, and says so.

The CPU spends its time in what the first word calls. Half of each word's effect is a page more or less than told.
"""


@dataclass(frozen=True)
class Counts:
    """How many results were entirely old, entirely new, and neither; and the first that was neither."""

    old: int
    new: int
    wrong: int
    sample: str


class LiveGuest(Guest):
    """A guest with the module brd, gdbserver, and the programs /opt/live_load and /opt/live_threads."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory(prefix="a64patch-") as directory:
            here = Path(__file__).parent
            files: dict[str, bytes | Path] = {
                f"/opt/{name}": compile_program((here / f"{name}.c").read_text("utf-8"), Path(directory) / name)
                for name in ("live_load", "live_threads")
            }
            files |= gdbserver_files()
            super().__init__(modules=["brd"], files=files)

    @cached_property
    def listing(self) -> str:
        """/proc/kallsyms."""
        return self.symbols()

    @cached_property
    def names(self) -> SymbolTable:
        """The names of the kernel and its modules, without a look at what is code."""
        found = [Symbol(s.name, s.address, 0, s.module) for s in parse_listing(self.listing.encode(), "kallsyms")]
        return SymbolTable(lambda: found)

    @contextlib.contextmanager
    def attached(self, pid: str) -> Iterator[str]:
        """Debian's gdbserver, attached to a process and waiting for a client; what to open."""
        with self.gdbserver(f"--attach {pid}") as where, Line(where) as line:
            line.connect()
            self.run("until grep -q 'Remote debugging using' /tmp/gdbserver.log; do sleep 0.05; done")
            yield line.location

    @contextlib.contextmanager
    def working(self, *kinds: str) -> Iterator[None]:
        """All four CPUs do these kinds of work of live_load until the block ends, which finds no wrong result."""
        pid = self.run(f"/opt/live_load /tmp/counts {' '.join(kinds)} </dev/null >/dev/null 2>&1 & echo $!").strip()
        try:
            self.progress()
            yield
            for kind, counts in self.counts().items():
                assert not counts.wrong, f"{kind}: {counts}"
        finally:
            if self.usable:
                self.run(f"kill -KILL {pid}", check=False)

    def counts(self) -> dict[str, Counts]:
        """What the work found so far, by kind."""
        data = self.run_bytes("cat /tmp/counts")
        return {
            kind: Counts(old, new, wrong, sample.rstrip(b"\0").decode("utf-8", "replace"))
            for kind, (old, new, wrong, sample) in zip(KINDS, _COUNTS.iter_unpack(data), strict=True)
        }

    def progress(self, *, new: bool = False) -> None:
        """Wait until each kind of work has had more results, old or new ones."""
        before: dict[str, int] | None = None
        deadline = time.monotonic() + GUARD_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(struct.error, ValueError):
                now = {kind: counts.new if new else counts.old for kind, counts in self.counts().items()}
                before = before or now
                started = {kind: number for kind, number in now.items() if number}
                if started and all(number > before[kind] + 8 for kind, number in started.items()):
                    return
            time.sleep(0.05)
        raise AssertionError(f"no progress: {self.counts()}")


class Line:
    """A line between a target and a stub, which can be cut at any packet; then it may be dead until `heal`.

    `location` is what to open; `stub` is a gdb+unix:PATH.
    """

    def __init__(self, stub: str) -> None:
        self._stub = stub.removeprefix("gdb+unix:")
        self._directory = tempfile.TemporaryDirectory(prefix="a64patch-line-")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._directory.name}/line")
        self._listener.listen()
        self.location = f"gdb+unix:{self._directory.name}/line"
        self._lock = threading.Lock()
        self._early: socket.socket | None = None
        self.heal()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def heal(self) -> None:
        """No cut from now on."""
        with self._lock:
            self._left, self._direction, self._kind, self._for_good, self._victim = -1, "", b"", False, 0
            self.was_cut = False
            self._sent = bytearray()

    def sent(self) -> list[bytes]:
        """The contents of the packets that came from the target and went through, since the line was made or healed."""
        with self._lock:
            return re.findall(rb"\$([^#]*)#", self._sent)

    def cut_at(
        self, direction: Literal["there", "back"], number: int, *, kind: bytes = b"", for_good: bool, victim: int = 0
    ) -> None:
        """Cut before packet `number` from now on in that direction, of those whose content begins with `kind`.

        `for_good` takes no new connection until `heal`. `victim` is a process to kill first.
        """
        self.heal()
        with self._lock:
            self._left, self._direction, self._kind = number, direction, kind
            self._for_good, self._victim = for_good, victim

    def connect(self) -> None:
        """Reach for the stub before the first connection comes, for one that begins with that."""
        self._early = socket.socket(socket.AF_UNIX)
        self._early.connect(self._stub)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                early, self._early = self._early, None
                with near, contextlib.suppress(OSError), early or socket.socket(socket.AF_UNIX) as far:
                    if self.was_cut and self._for_good:
                        continue
                    if not early:
                        far.connect(self._stub)
                    self._carry(near, far)

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        # A direction each: a stub that answers while it is sent to waits for somebody who reads.
        back = threading.Thread(target=self._copy, args=("back", far, near), daemon=True)
        back.start()
        self._copy("there", near, far)
        back.join()

    def _copy(self, direction: str, source: socket.socket, sink: socket.socket) -> None:
        """Until one end has closed or the line is cut; then both ends hear of it."""
        cut = False
        with contextlib.suppress(OSError):
            while not cut and (data := source.recv(65536)):
                through, cut = self._through(direction, data)
                sink.sendall(through)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _through(self, direction: str, data: bytes) -> tuple[bytes, bool]:
        """As much of the data as comes through, and whether the line is cut there."""
        through, cut = self._before_cut(direction, data)
        if direction == "there":
            with self._lock:
                self._sent += through
        return through, cut

    def _before_cut(self, direction: str, data: bytes) -> tuple[bytes, bool]:
        with self._lock:
            start = b"$" + self._kind
            at = data.find(start) if direction == self._direction else -1
            while at >= 0 and not self.was_cut:
                self._left -= 1
                if not self._left:
                    self.was_cut = True
                    if self._victim:
                        os.kill(self._victim, signal.SIGKILL)
                    return data[:at], True
                at = data.find(start, at + 1)
        return data, False

    def close(self) -> None:
        """Any number of times."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""A program with four threads, patched through Debian's gdbserver in the guest: the second real stub."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from a64patch import open_target, patch_text_sync
from a64patch.cli.main import main
from tests.real.guest import compile_program
from tests.real.live import LiveGuest
from tests.support import GUARD_SECONDS

THREADS = 4


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one in the guest, made once more."""
    source = Path(__file__).with_name("live_threads.c").read_text("utf-8")
    return compile_program(source, tmp_path_factory.mktemp("program") / "live_threads")


@pytest.fixture
def process(live: LiveGuest) -> Iterator[str]:
    """Its process id, running."""
    pid = live.run("/opt/live_threads /tmp/answers </dev/null >/dev/null 2>&1 & echo $!").strip()
    more(live)
    yield pid
    live.run(f"kill -KILL {pid}")


def more(live: LiveGuest) -> tuple[int, int]:
    """How many more answers were old and how many new, in a while in which there were some."""
    first = None
    deadline = time.monotonic() + GUARD_SECONDS
    while time.monotonic() < deadline:
        data = live.run_bytes("cat /tmp/answers 2>/dev/null", check=False)
        if len(data) == 16:
            now = struct.unpack("<qq", data)
            first = first or now
            if sum(now) > sum(first) + 50:
                return now[0] - first[0], now[1] - first[1]
        time.sleep(0.02)
    raise AssertionError(f"no answers: {live.run('cat /tmp/gdbserver.log', check=False)}")


def test_a_program_is_patched_and_patched_back(
    live: LiveGuest, program: Path, process: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert more(live)[1] == 0
    names = ["--symbols", str(program)]
    with live.attached(process) as where:
        arguments = [where, "answer", "mov x0, #40; add x0, x0, #2; nop", *names]
        assert main(["poke", *arguments, "--expect", "mov x0, #1; nop; nop"]) == 0, capsys.readouterr()
        said = capsys.readouterr().out
        assert f"{THREADS} CPUs stopped" in said, "each thread counts as one"
    # The second word is the third's neighbour, so nobody stood there; whoever did would have aborted the program.
    before = more(live)
    old, new = more(live)
    assert (old, new > 0) == (0, True), before
    with live.attached(process) as where:
        back = ["mov x0, #1; nop; nop", "--expect", "mov x0, #40; add x0, x0, #2; nop"]
        assert main(["poke", where, "answer", *back, *names]) == 0, capsys.readouterr()
    more(live)
    old, new = more(live)
    assert (old > 0, new) == (True, 0)
    assert live.run(f"ls /proc/{process}/task | wc -l") == f"{THREADS}\n"


def test_what_gdbserver_is(live: LiveGuest, program: Path, process: str) -> None:
    with live.attached(process) as where, open_target(where, symbols=program) as target:
        assert target.capabilities.kind == "GDB stub (gdbserver)"
        assert target.capabilities.cpus == THREADS
        assert target.capabilities.sees_pcs
        assert "not a kernel" in target.facts()["a stop halts"]
        assert re.fullmatch("AT_RANDOM=[0-9a-f]{32}", target.identity().incarnation)
        site = target.symbols["answer"]
        old = [int.from_bytes(target.read(site + at, 4), "little") for at in (0, 4)]
        for _ in range(20):
            # mov x0, #41; add x0, x0, #1
            patch_text_sync(target, [site, site + 4], [0xD2800520, 0x91000400], expected=old)
            patch_text_sync(target, [site, site + 4], old)
    more(live)
    assert more(live)[1] == 0

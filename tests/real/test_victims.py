"""Programs of every build run in the guest, and are what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.userland import Userland
from tests.real.victims import BUILDS, build
from tests.support import eventually, need, run

SOURCE = r"""
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((noinline)) int answer(void) { return 42; }
static void *wait_for_ever(void *unused) { pause(); return unused; }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, wait_for_ever, 0);
    printf("%d\n", answer());
    fflush(stdout);
    pause();
}
"""
SHARED = {
    "pie": {"ld-linux-aarch64.so.1", "libc.so.6"},
    "no-pie": {"ld-linux-aarch64.so.1", "libc.so.6"},
    "stripped": {"ld-linux-aarch64.so.1", "libc.so.6"},
    "musl": {"libc.so"},
}
"""What each maps besides itself."""


@pytest.mark.parametrize("kind", BUILDS)
def test_program_runs(userland: Userland, tmp_path: Path, kind: str) -> None:
    program = build(kind, SOURCE, tmp_path / "victim")
    headers = run(need("aarch64-linux-gnu-readelf", "binutils-aarch64-linux-gnu"), "-hlS", program)
    assert ("Type:                              EXEC" in headers) == (kind in ("static", "no-pie", "musl-static"))
    assert (".symtab" in headers) == (kind != "stripped")
    userland.put("/tmp/victim", program.read_bytes())
    victim = userland.start("/tmp/victim")
    try:
        assert eventually(lambda: userland.fetch(victim.log) != b"")
        assert userland.fetch(victim.log) == b"42\n"
        maps = userland.fetch(f"/proc/{victim.pid}/maps").decode().splitlines()
        files = {
            fields[5].rpartition("/")[2] for line in maps if len(fields := line.split()) > 5 and fields[5][0] == "/"
        }
        assert files == {"victim"} | SHARED.get(kind, set())
        assert len(userland.output_of(f"ls /proc/{victim.pid}/task").split()) == 2
    finally:
        userland.output_of(f"kill -KILL {victim.pid}; rm /tmp/victim")

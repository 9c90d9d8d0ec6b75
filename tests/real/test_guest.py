"""The virtual machine with a real arm64 Linux: it is what other tests take it for, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.real import packages
from tests.real.guest import CPUS, Guest, GuestError, build_initramfs, compile_program, gdbserver_files
from tests.support import GUARD_SECONDS, ROOT, eventually, need


def test_commands(guest: Guest) -> None:
    assert guest.run("nproc") == f"{CPUS}\n"
    assert guest.run("uname -m") == "aarch64\n"
    assert guest.run("echo to stderr >&2; printf '%s' \"a'b\"") == "to stderr\na'b"
    assert guest.run_bytes("head -c 100000 /dev/zero") == bytes(100000)
    with pytest.raises(GuestError, match="'false' ended with status 1"):
        guest.run("false")
    assert guest.run("echo no; false", check=False) == "no\n"


def test_machines_share_one_process(guest: Guest, request: pytest.FixtureRequest) -> None:
    """Or each process of pytest-xdist would boot its own."""
    if request.config.getoption("loadgroup", False):
        assert request.node.nodeid.endswith("@guest")


def test_load_runs_on_every_cpu_until_the_block_ends(guest: Guest) -> None:
    count = "grep -ls 'my[l]oad' /proc/[0-9]*/cmdline | wc -l"
    with guest.load("myload=; while :; do cat /proc/uptime; done"):
        assert eventually(lambda: guest.run(count) == f"{CPUS}\n")
    assert eventually(lambda: guest.run(count) == "0\n")


def test_whether_it_runs_is_seen_without_halting_it(guest: Guest) -> None:
    assert guest.runs()
    with socket.socket(socket.AF_UNIX) as stub:
        stub.settimeout(GUARD_SECONDS)
        stub.connect(guest.gdb.removeprefix("gdb+unix:"))
        assert eventually(lambda: not guest.runs()), "a client halts it"
        # QEMU remembers from the clients before whether it must be told of which process.
        stub.sendall(b"+$D;1#b0")
        assert eventually(guest.runs)
    assert guest.runs()


def test_symbols_are_real_addresses(guest: Guest) -> None:
    symbols = {name: int(address, 16) for address, _, name, *_ in map(str.split, guest.symbols().splitlines())}
    assert 0xFFFF << 48 < symbols["_stext"] < symbols["uptime_proc_show"] < symbols["_etext"]


def test_guest_of_its_own(boot: Callable[..., Guest], tmp_path: Path) -> None:
    program = compile_program('#include <stdio.h>\nint main(void) { puts("hello from C"); }', tmp_path / "hello")
    guest = boot(kaslr=False, gdb_tcp=True, files={"/opt/hello": program}, modules=["nfnetlink"])
    assert guest.run("/opt/hello") == "hello from C\n"
    assert "nfnetlink" in guest.run("cat /proc/modules")
    assert "nokaslr" in guest.run("cat /proc/cmdline")
    host, _, port = guest.gdb.removeprefix("gdb://").partition(":")
    with socket.create_connection((host, int(port)), GUARD_SECONDS) as stub:
        stub.sendall(b"+$qSupported#37")
        answer = b""
        while b"PacketSize" not in answer and (data := stub.recv(4096)):
            answer += data
        assert b"PacketSize" in answer
        stub.sendall(b"+$D#44")  # detach: it stopped the machine as we came
        assert stub.recv(4096)
    guest.require_healthy()
    guest.power_off()
    assert not guest.usable


THREADS = r"""
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((noinline)) int answer(void) { return 1; }
static void *call(void *unused) { for (;;) { volatile int got = answer(); (void)got; } return unused; }
int main(void) {
    pthread_t thread;
    for (int number = 0; number < 3; number++) pthread_create(&thread, 0, call, 0);
    pause();
}
"""


def test_gdbserver_serves_a_process_of_the_guest_and_lets_it_go(boot: Callable[..., Guest], tmp_path: Path) -> None:
    program = compile_program(THREADS, tmp_path / "threads")
    guest = boot(files={**gdbserver_files(), "/opt/threads": program})
    pid = guest.run("/opt/threads </dev/null >/dev/null 2>&1 & echo $!").strip()
    for _ in range(2):
        with guest.gdbserver(f"--attach {pid}") as where, socket.socket(socket.AF_UNIX) as stub:
            stub.settimeout(GUARD_SECONDS)
            stub.connect(where.removeprefix("gdb+unix:"))
            for request, reply in (
                (b"$qSupported#37", b"PacketSize"),
                (b"$?#3f", b"$T"),
                (b"$D#44", b"OK"),
            ):
                stub.sendall(b"+" + request)
                answer = b""
                while reply not in answer and (data := stub.recv(4096)):
                    answer += data
                assert reply in answer
        assert "Detaching from process" in guest.run("cat /tmp/gdbserver.log")
    assert guest.run(f"ls /proc/{pid}/task | wc -l") == "4\n"
    assert guest.run(f"grep State /proc/{pid}/task/*/status | grep -c R") == "3\n"


def test_command_that_takes_too_long_is_an_error(boot: Callable[..., Guest]) -> None:
    guest = boot()
    with pytest.raises(GuestError, match="did not answer in time"):
        guest.run("sleep 600", seconds=0.2)
    assert not guest.usable
    with pytest.raises(GuestError, match="before, so it cannot run"):
        guest.run("true")


def test_oops_is_noticed(boot: Callable[..., Guest]) -> None:
    guest = boot()
    guest.require_healthy()
    with pytest.raises(GuestError):
        guest.run("echo c >/proc/sysrq-trigger")
    with pytest.raises(GuestError, match="in trouble"):
        guest.require_healthy()


def test_virtual_machine_dies_with_the_process_that_started_it() -> None:
    need("qemu-system-aarch64", "qemu-system-arm")
    packages.unpacked(packages.KERNEL)
    program = "from tests.real.guest import Guest; import time; print(Guest().pid, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.send_signal(signal.SIGKILL)
    assert eventually(lambda: not _runs(pid))


def test_initramfs_is_the_same_for_the_same_files(tmp_path: Path) -> None:
    first, second = (build_initramfs({"/opt/x/y": b"1"}, tmp_path / name).read_bytes() for name in "ab")
    assert first == second
    assert b"opt/x/y\0" in first


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False

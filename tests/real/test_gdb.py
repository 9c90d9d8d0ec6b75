"""GdbTarget against QEMU's stubs: a real arm64 Linux with four CPUs under load, and qemu-user with one program."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from a64patch import open_target, patch_text, patch_text_sync
from a64patch.a64.assembler import assemble
from a64patch.a64.disassembler import disassemble
from a64patch.a64.generate import gen_nop
from a64patch.a64.words import from_bytes
from a64patch.cli.main import main
from a64patch.errors import A64PatchError, CapabilityError, MappingError, PartialPatchError, TargetError
from a64patch.targets.gdb import GdbTarget
from tests.real.guest import CPUS, Guest, qemu_version, tells_what_it_halted
from tests.real.live import Line
from tests.support import GUARD_SECONDS, eventually, link, need
from tests.support import assemble as assemble_file

Result = TypeVar("Result")

RETURN_0 = [int(word) for word in from_bytes(bytes.fromhex("00008052c0035fd6"))]
MANY = 1000
"""So often something is tried that fails only while the machine is busy."""
READ_UPTIME = "while :; do cat /proc/uptime; done"
STAY_IN_USER_MODE = "while :; do :; done"


def address_of(guest: Guest, name: str) -> int:
    guest.run("echo 0 >/proc/sys/kernel/kptr_restrict")
    return int(guest.run(f"grep -w {name} /proc/kallsyms").split()[0], 16)


@pytest.fixture
def site(guest: Guest) -> int:
    return address_of(guest, "uptime_proc_show")


def test_what_the_stub_is(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", guest.gdb, "--target-info"]) == 0
    shown = capsys.readouterr().out
    for line in (
        "GDB stub (QEMU)",
        "writes read-only text               yes",
        "it will be left                     running",
    ):
        assert line in shown
    assert guest.run("echo alive") == "alive\n"


def test_a_function_of_the_kernel_behaves_as_changed(
    guest: Guest, site: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line, KASLR on, while all CPUs execute that function."""
    before = guest.run("cat /proc/uptime")
    assert len(before.split()) == 2
    with open_target(guest.gdb) as target:
        old = from_bytes(target.read(site, 8))
    texts = "; ".join(f"{word:08x}" for word in old)
    # Without names nobody knows where the kernel's code is, so that branches into the middle cannot be ruled out.
    unseen = ["--accept", "branch-into-site"]
    with guest.load(READ_UPTIME):
        assert main(["poke", guest.gdb, f"{site:#x}", "mov w0, #0; ret", "--expect", texts, *unseen]) == 0
        assert f"{CPUS} CPUs stopped" in capsys.readouterr().out
        assert guest.run("cat /proc/uptime") == ""
        assert main(["poke", guest.gdb, f"{site:#x}", texts, "--expect", "mov w0, #0; ret", *unseen]) == 0
        assert len(guest.run("cat /proc/uptime").split()) == 2
    assert main(["show", guest.gdb, f"{site:#x}", "-n", "2"]) == 0
    for number, word in enumerate(old):
        assert disassemble(word, site + 4 * number) in capsys.readouterr().out or number


def test_one_word_that_may_race(guest: Guest, site: int) -> None:
    """NOP to a branch and back: no stop is needed beyond what each access to this stub costs."""
    with guest.load(READ_UPTIME), open_target(guest.gdb) as target:
        words = from_bytes(target.read(site, 64))
        place = site + 4 * words.index(gen_nop())
        branch = assemble("b .+4")[0]
        for _ in range(20):
            assert patch_text(target, [place], [branch], expected=[gen_nop()]).method == "kick"
            assert patch_text(target, [place], [gen_nop()], expected=[branch]).method == "kick"


def test_all_cpus_stand_while_stopped_and_run_afterwards(guest: Guest) -> None:
    """They move between the stops, and are in the kernel now and then: sooner or later, as busy as this machine is."""
    with guest.load(READ_UPTIME), open_target(guest.gdb) as target:
        seen: set[int] = set()
        deepest = 0
        for _ in range(MANY):
            with target.stop() as stopped:
                assert stopped.rendezvous.arrived == tuple(range(CPUS))
                first = stopped.states()
                time.sleep(0.01)
                assert stopped.states() == first
            seen |= {state.pc for state in first}
            deepest = max(deepest, *(len(state.return_addresses) for state in first))
            if len(seen) > CPUS and deepest > 4:
                return
            time.sleep(0.01)
    pytest.fail(f"the CPUs stood at {len(seen)} places only, or no frames of the kernel were seen: {deepest}")


def test_cpus_in_user_mode_do_not_hide_the_kernel(guest: Guest, site: int) -> None:
    """KASLR brings page table isolation: a CPU that executes a user's program does not map the kernel at all.

    On a busy machine none may have come into the kernel within the target's patience: it says so, and is asked again.
    """

    def insist(attempt: Callable[[], Result]) -> Result:
        for _ in range(MANY):
            with contextlib.suppress(MappingError):
                return attempt()
        raise AssertionError("no CPU has ever come into the kernel")

    with guest.load(STAY_IN_USER_MODE), open_target(guest.gdb) as target:
        for _ in range(5):
            old = from_bytes(insist(lambda: target.read(site, 8)))
            insist(lambda old=old: patch_text_sync(target, [site, site + 4], RETURN_0, expected=old))  # type: ignore[misc]
            insist(lambda old=old: patch_text_sync(target, [site, site + 4], old, expected=RETURN_0))  # type: ignore[misc]
    assert len(guest.run("cat /proc/uptime").split()) == 2


def test_running_stays_running(guest: Guest, site: int) -> None:
    """QEMU before 8.1 tells that it halted the machine for us; where it does not, the machine is taken for running."""
    for _ in range(2):
        assert eventually(guest.runs)
        with open_target(guest.gdb) as target:
            found = "running" if tells_what_it_halted() else "not told by the stub, so taken for running"
            assert target.facts()["the machine was found"] == found
            target.read(site, 8)
            assert eventually(guest.runs)
            with target.stop():
                assert not guest.runs()


def test_halted_stays_halted(guest: Guest, site: int) -> None:
    """Where QEMU tells that the machine was halted before; a newer one is left halted on request."""
    leave = "" if tells_what_it_halted() else "?leave=halted"
    with open_target(f"{guest.gdb}?leave=halted") as target:
        old = target.read(site, 8)
    for _ in range(2):
        assert not guest.runs()
        with open_target(f"{guest.gdb}{leave}") as target:
            assert leave or target.facts()["the machine was found"] == "halted"
            with target.stop() as stopped:
                first = stopped.states()
            patch_text_sync(target, [site], [from_bytes(old)[0]])
            assert not guest.runs()
            with target.stop() as stopped:
                assert stopped.states() == first
    assert not guest.runs()
    with open_target(f"{guest.gdb}?leave=running") as target:
        assert target.read(site, 8) == old
    assert guest.runs()
    assert guest.run("echo alive") == "alive\n"


def test_the_connection_cut_at_every_packet(guest: Guest, site: int) -> None:
    """All new or all old, and the machine runs on.

    Not at the first packet: QEMU halts the machine as we come, and says so at the same moment.
    """
    with open_target(guest.gdb) as target:
        old = from_bytes(target.read(site, 8))
    outcomes = set()
    with Line(guest.gdb) as line:
        with open_target(line.location) as target:
            patch_text_sync(target, [site, site + 4], old)
        whole = len(line.sent())
        assert whole > 20
        for number in range(2, whole + 1):
            line.cut_at("there", number, for_good=False)
            error: Exception | None = None
            try:
                with open_target(line.location) as target:
                    patch_text_sync(target, [site, site + 4], RETURN_0, expected=old)
            except A64PatchError as failed:
                error = failed
            # How many packets a patch takes depends on how deep in the kernel the CPUs are.
            assert line.was_cut or error is None, (number, error)
            assert eventually(guest.runs), (number, error)
            with open_target(guest.gdb) as target:
                now = from_bytes(target.read(site, 8))
                assert now == RETURN_0 if error is None else now in (old, RETURN_0), (number, error)
                if now != old:
                    patch_text_sync(target, [site, site + 4], old)
            outcomes.add(type(error))
    assert len(outcomes) > 1, "some failed, and some did not"
    assert len(guest.run("cat /proc/uptime").split()) == 2


@pytest.mark.usefixtures("short_pauses")
def test_the_stub_killed_in_the_middle(boot: Callable[..., Guest], monkeypatch: pytest.MonkeyPatch) -> None:
    guest = boot()
    site = address_of(guest, "uptime_proc_show")
    target = GdbTarget(guest.gdb)
    old = from_bytes(target.read(site, 8))

    def die(*_: object) -> None:
        os.kill(guest.pid, signal.SIGKILL)

    monkeypatch.setattr(target, "_require_text_taken", die)
    with pytest.raises(PartialPatchError, match=r"the connection to .* is lost") as caught:
        patch_text_sync(target, [site, site + 4], RETURN_0, expected=old)
    assert caught.value.unrestored == (site, site + 4)
    with pytest.raises(TargetError, match="may have been left halted"):
        target.close()


PROGRAM = """
    .globl _start, answer
_start:
    bl answer
    mov x8, #93
    svc #0
answer:
    mov w0, #1
    ret
    .size answer, .-answer
"""


@contextlib.contextmanager
def under_qemu_user(program: Path, directory: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The program at its first instruction, and how to reach its stub."""
    path = directory / "stub"
    process = subprocess.Popen([need("qemu-aarch64", "qemu-user"), "-g", str(path), str(program)])
    try:
        assert eventually(path.exists)
        yield f"gdb+unix:{path}", process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """The path of a Unix socket may have 107 bytes only."""
    with tempfile.TemporaryDirectory(prefix="a64patch-") as directory:
        yield Path(directory)


def test_qemu_user_refuses_read_only_text_and_we_say_so(short_directory: Path) -> None:
    """Since 9.0 it writes there, as gdbserver does ("linux-user: Allow gdbstub to ignore page protection")."""
    refuses = qemu_version("qemu-aarch64", "qemu-user") < (9, 0)
    program = link(assemble_file(PROGRAM, short_directory / "a.o"), short_directory / "a")
    with under_qemu_user(program, short_directory) as (location, process):
        with open_target(location, symbols=program) as target:
            assert target.capabilities.kind == "GDB stub (qemu-user)"
            place = target.symbols["answer"]
            old = from_bytes(target.read(place, 4))
            if refuses:
                with pytest.raises(CapabilityError, match=r"answer.*read-only text"):
                    patch_text_sync(target, [place], [0x52800540], expected=old)
            else:
                patch_text_sync(target, [place], [0x52800540], expected=old)
            assert from_bytes(target.read(place, 4)) == (old if refuses else [0x52800540])
        assert process.wait(GUARD_SECONDS) == (1 if refuses else 42), "it ran on"


def test_qemu_user_executes_what_was_written_to_writable_text(short_directory: Path) -> None:
    program = link(assemble_file(PROGRAM, short_directory / "a.o"), short_directory / "a", "-N")
    with under_qemu_user(program, short_directory) as (location, process):
        arguments = [location, "answer", "mov w0, #42", "--expect", "mov w0, #1", "--symbols", str(program)]
        assert main(["poke", *arguments]) == 0
        assert process.wait(GUARD_SECONDS) == 42

"""Every command leaves a machine behind QEMU's stub as it was found; the machine itself is asked, not the stub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.a64.generate import gen_nop
from a64patch.a64.words import from_bytes
from a64patch.cli.main import main
from a64patch.targets.gdb import GdbTarget
from tests import support
from tests.real.guest import Guest
from tests.real.test_gdb import READ_UPTIME, address_of

ROUNDS = pytest.mark.parametrize(
    "rounds", [pytest.param(2, marks=pytest.mark.fresh("qemu-system-arm")), *([20] if support.rounds(1, 0) else [])]
)
IMAGE = 0x40200000
"""Where QEMU's machine `virt` puts an arm64 Image: RAM begins at 1 GiB, the Image at its text_offset of 2 MiB."""
HEAD = 0x10000
"""Bytes of an Image before its first function of C, and some."""


class Commands:
    """Each kind of command that opens a target: they change a NOP, and swap it with the word before, and undo that."""

    def __init__(self, spec: str, start: int, directory: Path) -> None:
        """The first NOP behind `start` that follows another word."""
        with GdbTarget(spec) as target:
            words = [int(word) for word in from_bytes(target.read(start, 256))]
        at = next(at for at in range(1, len(words)) if words[at] == gen_nop() != words[at - 1])
        before, nop = start + 4 * (at - 1), start + 4 * at
        patch = str(directory / "pair.patch")
        olds, news = (words[at - 1], gen_nop()), (gen_nop(), words[at - 1])
        lines = [f"-{old:08x}" for old in olds] + [f"+{new:08x}" for new in news]
        Path(patch).write_text("\n".join(["Swap two words", "", f"@@ {before:#x} @@", *lines, ""]), "utf-8")
        # Without names nobody knows where the kernel's code is, so that branches into the middle cannot be ruled out.
        unseen = ["--accept", "branch-into-site"]
        self._kinds: list[tuple[int, list[str]]] = [
            (0, ["show", spec, "--target-info"]),
            (0, ["show", spec, f"{before:#x}", "-n", "4"]),
            (0, ["fmt", patch, spec]),
            (1, ["status", patch, spec]),
            (0, ["apply", patch, spec, "--dry-run", *unseen]),
            (0, ["poke", spec, f"{nop:#x}", "isb", "--expect", "nop"]),
            (0, ["poke", spec, f"{nop:#x}", "nop", "--expect", "isb"]),
            (0, ["apply", patch, spec, *unseen]),
            (0, ["status", patch, spec]),
            (0, ["apply", "-R", patch, spec, *unseen]),
            (1, ["poke", spec, f"{nop:#x}", "nop", "--expect", "hlt #1234"]),
            (2, ["show", spec, "no_such_symbol"]),
        ]

    def each(self, rounds: int, is_as_found: Callable[[], bool], capsys: pytest.CaptureFixture[str]) -> None:
        """Run so many of each kind. One with another exit status, or that leaves the machine otherwise, fails."""
        for _ in range(rounds):
            for status, command in self._kinds:
                assert main(command) == status, f"{command}: {capsys.readouterr().err}"
                assert is_as_found(), command


@ROUNDS
def test_one_that_runs_runs_on(rounds: int, guest: Guest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = address_of(guest, "uptime_proc_show")
    with guest.load(READ_UPTIME):
        commands = Commands(guest.gdb, start, tmp_path)
        commands.each(rounds, lambda: guest.run("echo alive") == "alive\n", capsys)


@ROUNDS
def test_one_that_was_started_halted_stands(
    rounds: int, boot: Callable[..., Guest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = boot(halted=True)
    commands = Commands(guest.gdb, IMAGE + HEAD, tmp_path)
    commands.each(rounds, lambda: guest.console == "", capsys)
    # It can run, and had not until now.
    open_target(f"{guest.gdb}?leave=running").close()
    guest.await_ready()
    assert guest.console != ""


def test_one_that_served_another_client_runs_on(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    """QEMU takes a client that waited in vain when the first has gone, and halts the machine for it."""
    with open_target(guest.gdb):
        assert main(["show", f"{guest.gdb}?timeout=2", "--target-info"]) == 2
        assert "it may be serving another client" in capsys.readouterr().err
        assert guest.run("echo alive") == "alive\n"
    assert guest.run("sleep 0.2; echo alive") == "alive\n"

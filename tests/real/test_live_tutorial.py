"""docs/live-kernel.md as a new user would do it: each command in a shell, and what it prints.

Archives keep only a release's newest build. So the page is read for the build that is there: its Build-Id and offsets.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from a64patch.kernel.image import KernelImage
from tests.real import packages
from tests.real.guest import tells_what_it_halted
from tests.real.places import page_for
from tests.support import GUARD_SECONDS, ROOT, need

PAGE = (ROOT / "docs/live-kernel.md").read_text("utf-8")
PROMPT = re.compile("\n[/~] # ")
"""Of the guest's shell. busybox 1.37 calls / its home."""
NOT_TOLD = "not told by the stub, so taken for running"

pytestmark = pytest.mark.xdist_group("guest")


def page_for_this_machine() -> str:
    """For the kernel and the QEMU that are there."""
    with KernelImage(packages.file_of(packages.KERNEL, "boot/vmlinuz-*")) as kernel:
        page = page_for(PAGE, "uptime_proc_show", kernel)
    if tells_what_it_halted():
        return page
    told, not_told = (f"the machine was found {' ' * 14}{how}\n" for how in ("running", NOT_TOLD))
    assert told in page
    assert NOT_TOLD in page.replace(told, ""), "the page says what else readers may see"
    return page.replace(told, not_told)


def commands(page: str) -> Iterator[tuple[str, str, str]]:
    """Prompt, command and what it prints, in the order of the page."""
    lines = iter([re.sub("^    ", "", line) for line in page.splitlines() if line[:4] in ("    ", "")])
    prompt = command = ""
    printed: list[str] = []
    for line in lines:
        if line[:2] not in ("$ ", "# "):
            printed.append(line)
            continue
        if prompt:
            yield prompt, command, "\n".join(printed).strip("\n")
        prompt, command, printed = line[0], line[2:], []
        while command.endswith("\\"):
            command += "\n" + next(lines)
        if "<<'END'" in command:
            while not command.endswith("\nEND"):
                command += "\n" + next(lines)
    yield prompt, command, "\n".join(printed).strip("\n")


class Console:
    """QEMU's, with the guest's shell behind it."""

    def __init__(self, command: str, directory: Path) -> None:
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec setpriv --pdeathsig KILL {command}"],
            cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.text = ""
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._reader.join()
        with self._process:
            pass

    def _collect(self) -> None:
        assert self._process.stdout is not None
        while data := os.read(self._process.stdout.fileno(), 4096):
            self.text += data.decode("utf-8", "replace")

    def run(self, command: str) -> str:
        """What the guest's shell prints between the command and its next prompt."""
        self._await_prompt("")
        before = len(self.text)
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        self._await_prompt(self.text[:before])
        printed = re.sub(r"\r|\x1b\[[0-9;]*[A-Za-z]", "", self.text[before:]).partition(f"{command}\n")[2]
        return PROMPT.split(printed)[0]

    def _await_prompt(self, behind: str) -> None:
        deadline = time.monotonic() + GUARD_SECONDS
        while not PROMPT.search(self.text.replace("\r", ""), len(behind.replace("\r", ""))):
            assert self._process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)


def alike(text: str) -> str:
    """Without what differs from boot to boot, and without how a line is broken."""
    text = re.sub(r"0xffff[0-9a-f]{12}", "ADDRESS", text)
    text = re.sub(r"stopped for \d+ us", "stopped for N us", text)
    text = re.sub(r"\d+ ranges", "N ranges", text)
    text = re.sub(r"gdb\+unix:/\S+", "LOCATION", text)
    return " ".join(text.split())


def is_whole(uptime: str) -> bool:
    assert re.fullmatch(r"\d+\.\d\d \d+\.\d\d", uptime), uptime
    return re.fullmatch(r"\d+\.00 \d+\.00", uptime) is not None


@pytest.mark.fresh("qemu-system-arm", "cpio")
def test_the_tutorial() -> None:
    need("qemu-system-aarch64", "qemu-system-arm")
    need("cpio", "cpio")
    kernel, busybox = packages.unpacked(packages.KERNEL), packages.file_of("busybox-static", "bin/busybox")
    done = []
    # A short path of its own: that of a unix socket may have 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="a64patch-") as name:
        directory = Path(name)
        (directory / "root/bin").mkdir(parents=True)
        (directory / "root/boot").symlink_to(kernel / "boot")
        (directory / "root/bin/busybox").symlink_to(busybox)
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "XDG_STATE_HOME": str(directory / "state"),
            "COLUMNS": "100",
        }
        console: Console | None = None
        with ExitStack() as stack:
            for prompt, command, expected in commands(page_for_this_machine()):
                program = command.split()[0]
                if prompt == "#":
                    assert console is not None
                    assert is_whole(console.run(command)) == is_whole(expected)
                elif program == "qemu-system-aarch64":
                    console = stack.enter_context(Console(command, directory))
                elif not re.search(r"apt-|dpkg|mkdir live", command):
                    ran = subprocess.run(
                        ["bash", "-c", command], cwd=directory, env=environment, capture_output=True, text=True,
                        timeout=GUARD_SECONDS, check=False,
                    )  # fmt: skip
                    assert alike(ran.stdout + ran.stderr) == alike(expected), command
                    done.append(program)
    assert done.count("a64patch") == 7

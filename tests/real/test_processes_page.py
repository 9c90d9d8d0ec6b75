"""docs/processes.md as a new user would do it, in the guest with a userland: what each command prints.

The guest has no compiler: the page's program is compiled here, by a compiler for arm64.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.real.test_live_tutorial import commands
from tests.real.userland import Userland
from tests.support import ROOT, need, run

PAGE = (ROOT / "docs/processes.md").read_text("utf-8")
_PID = "$(pidof till)"
_NO_JOURNAL = """
from a64patch.patch.journal import default_path
default_path().unlink(missing_ok=True)
print("null")
"""
"""The page begins with an empty journal: the guest is shared by tests."""


def alike(text: str) -> str:
    """Without what differs from process to process."""
    text = re.sub(r"0x[0-9a-f]{12}", "ADDRESS", text)
    text = re.sub(r"pid:\d+", "pid:N", text)
    text = re.sub(r"stopped for \d+ us", "stopped for N us", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "WHEN", text)
    return " ".join(text.split())


def test_the_page(userland: Userland, tmp_path: Path) -> None:
    userland.python(_NO_JOURNAL)
    pid, done = 0, []
    try:
        for prompt, command, expected in commands(PAGE):
            assert prompt == "$"
            program, *words = shlex.split(command.partition("<<")[0].replace(_PID, str(pid)))
            if program == "gcc":
                compiler = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
                (tmp_path / "till.c").write_bytes(userland.fetch("/till.c"))
                run(compiler, *words[:1], "-o", tmp_path / "till", tmp_path / "till.c")
                userland.put("/till", (tmp_path / "till").read_bytes())
                printed = ""
            elif program == "./till":
                pid = userland.start("/till >/till.log").pid
                userland.output_of("until test -s /till.log; do sleep 0.1; done")
                printed = ""
            elif program == "a64patch":
                arguments, _, file = " ".join(map(shlex.quote, words)).partition(" '>' ")
                ran = userland.a64patch(*shlex.split(arguments))
                printed = ran.output
                if file:
                    assert not ran.status, printed
                    userland.put(f"/{file}", printed.encode())
                    printed = ""
                done.append(words[0])
            else:
                printed = userland.run(f"cd /; {command}").output
            assert alike(printed) == alike(expected), command
        assert set(done) == {"show", "fmt", "apply", "status", "log", "revert", "recover"}
    finally:
        if pid:
            userland.run(f"kill {pid}; rm -f /till /till.* /draft /fee.patch")

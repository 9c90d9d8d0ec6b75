"""What a command on one word loads: no more than it needs. benchmarks/startup.py measures what that costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import assemble, link

SOURCE = """
    .globl _start
_start: ldr x0, [x1]
    mov w0, #5
    b.ne _start
    ldxr x2, [x3]
    nop
    ret
"""

PROGRAM = """
import contextlib, io, json, sys
from a64patch.cli.main import main
with contextlib.redirect_stdout(io.StringIO()):
    status = main(sys.argv[1:])
modules = set(sys.modules)
classifier = "a64patch.a64.predicates" in modules and sys.modules["a64patch.a64.predicates"]._classifier
print(json.dumps({
    "status": status,
    "heavy": [name for name in HEAVY if name in modules],
    "commands": [name for name in COMMANDS if "a64patch.cli." + name in modules],
    "tables": [name for name in TABLES if "a64patch.a64.tables." + name in modules],
    "classifiers": classifier.cache_info().currsize if classifier else 0,
}))
"""

HEAVY = (
    "numpy", "rich", "unicorn", "elftools", "sqlite3", "socket", "difflib", "asyncio",
    "a64patch.proof", "a64patch.targets.gdb", "a64patch.targets.simulator", "a64patch.kernel.kallsyms",
)  # fmt: skip
"""What none of these commands needs but for a reason: 3 ms and more for each."""

PATCH = "@@ _start+0x10 @@\n-d503201f\n+d503203f\n"
SITE = "_start+0x10"

COSTS: dict[str, tuple[list[str], list[str], list[str]]] = {
    # the command: what of HEAVY it loads, and which files of the table of instructions
    "--version": (["--version"], [], []),
    "asm": (["asm", "nop"], [], ["branches", "system"]),
    "disasm": (["disasm", "d503201f"], [], ["branches", "system"]),
    "check": (["check", "nop", "b .+8"], [], ["branches", "system"]),
    "show": (["show", "PROGRAM", SITE, "-n", "1"], [], ["branches", "system"]),
    "status": (["status", "PATCH", "PROGRAM"], [], ["branches", "system", "memory"]),
    "apply --dry-run": (["apply", "PATCH", "PROGRAM", "--dry-run"], [], ["branches", "system", "memory"]),
    "apply": (["apply", "PATCH", "PROGRAM"], ["sqlite3"], ["branches", "system", "memory"]),
    # The words before the change are looked at, whether one is a load-exclusive.
    "poke": (
        ["poke", "PROGRAM", SITE, "yield", "--expect", "nop"],
        ["sqlite3"], ["branches", "system", "memory"],
    ),
}  # fmt: skip
"""Two thirds of the rows are those of SIMD: no command on other words makes them."""


@pytest.mark.parametrize("name", COSTS)
def test_a_command_on_one_word_loads_what_it_needs(name: str, tmp_path: Path) -> None:
    arguments, heavy, tables = COSTS[name]
    answer = 1 if name == "status" else 0
    command = [] if name == "--version" else [name.partition(" ")[0]]
    assert _loaded(tmp_path, arguments) == {
        "status": answer, "heavy": heavy, "commands": command, "tables": tables, "classifiers": 0,
    }  # fmt: skip


def test_what_is_loaded_is_seen(tmp_path: Path) -> None:
    two = ["poke", "PROGRAM", SITE, "yield; yield", "--expect", "nop; ret"]
    loaded = _loaded(tmp_path, two)
    assert "numpy" in loaded["heavy"]
    assert "simd" in loaded["tables"]
    assert loaded["classifiers"] == 1


def _loaded(folder: Path, arguments: list[str]) -> dict[str, Any]:
    program = link(assemble(SOURCE, folder / "program.o"), folder / "program")
    patch = folder / "patch"
    patch.write_text(PATCH)
    names = {"PROGRAM": str(program), "PATCH": str(patch)}
    from a64patch.a64.encodings import GENERAL, VECTOR
    from a64patch.cli.main import COMMANDS

    given = f"HEAVY, COMMANDS, TABLES = {HEAVY!r}, {tuple(COMMANDS)!r}, {(*GENERAL, *VECTOR)!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", given + PROGRAM, *(names.get(argument, argument) for argument in arguments)],
        env={**os.environ, "XDG_STATE_HOME": str(folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found

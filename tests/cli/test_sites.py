"""Names of every kind as sites: on the command line, in patch files, in instructions, and back from what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a64patch.a64.names import quoted
from tests.cli.running import Run
from tests.support import assemble, link

NAMES = [
    "main.(*T).Run",
    "operator new(unsigned long)",
    "a+4",
    "0x10",
    "a::b",
    "x // y # z",
    "memcpy@@GLIBC_2.17",
    "é ;",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_any_language_is_a_site(run: Run, tmp_path: Path, name: str) -> None:
    source = f'.globl _start\n_start: bl "{name}"\n nop\n ret\n.type "{name}", %function\n"{name}": nop\n nop\n ret\n'
    program = link(assemble(source + f'.size "{name}", 12\n', tmp_path / "program.o"), tmp_path / "program")
    site, before = quoted(name), program.read_bytes()
    shown = run("show", program, site).out.splitlines()
    assert [line.split("  ")[1].strip() for line in shown[:2]] == [site, f"{site}+0x4"]
    assert run("show", program, "_start", "-n", "1").out.rstrip().endswith(f"bl {site}")
    patch = tmp_path / "fix.patch"
    patch.write_text(f"@@ {site}+0x4 @@\n-????????  nop\n+????????  bl {site}+8  // why\n")
    filled = run("fmt", patch, program)
    assert (filled.status, filled.err) == (0, "")
    assert f"@@ {site}+0x4 -1 +1 @@\n" in filled.out
    patch.write_text(filled.out)
    assert run("fmt", patch, program).out == filled.out
    assert run("apply", patch, program).status == 0
    assert run("show", program, f"{site}+4", "-n", "1").out.rstrip().endswith(f"bl {site}+0x8")
    assert run("apply", "-R", patch, program).status == 0
    assert program.read_bytes() == before
    poked = json.loads(run("poke", program, "_start+4", f"bl {site}", "--expect", "nop", "--json").out)
    assert run("revert", str(poked["entry"])).status == 0
    assert program.read_bytes() == before

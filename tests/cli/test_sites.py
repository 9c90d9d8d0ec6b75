"""Names of every kind as sites: on the command line, in patch files, in instructions, and back from what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a64patch.a64.names import quoted
from a64patch.a64.words import from_bytes
from a64patch.patch.surroundings import difference, surroundings
from a64patch.targets.elf import ElfFile
from a64patch.targets.section import Change
from tests.cli.running import Run, one_sentence
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


def test_a_static_function_by_its_file(run: Run, tmp_path: Path) -> None:
    """Shown, poked, patched, undone; and in the object file, which has no build id, known by its surroundings."""
    static = '.file "{0}.c"\n.type dup, %function\ndup: mov w0, #{1}\n bl dup\n ret\n.size dup, 12\n'
    start = ".globl _start\n_start: nop\n"
    objects = [
        assemble(start + static.format("a", 1), tmp_path / "a.o"),
        assemble(static.format("b", 2), tmp_path / "b.o"),
    ]
    for program in (link(objects, tmp_path / "program"), link(objects, tmp_path / "joined.o", "-r")):
        before = program.read_bytes()
        refused = run("show", program, "dup")
        assert (refused.status, one_sentence(refused.err)) == (2, True)
        assert "a.c:dup" in refused.err
        assert "b.c:dup" in refused.err
        assert run("show", program, "b.c:dup+4", "-n", "1").out.rstrip().endswith("bl b.c:dup")
        poked = json.loads(run("poke", program, "b.c:dup+4", "bl a.c:dup", "--expect", "bl b.c:dup", "--json").out)
        assert run("show", program, "b.c:dup+4", "-n", "1").out.rstrip().endswith("bl a.c:dup")
        assert "@@ b.c:dup+0x4 -1 +1 @@" in run("log", str(poked["entry"])).out
        assert run("revert", str(poked["entry"])).status == 0
        assert program.read_bytes() == before
        patch = tmp_path / "fix.patch"
        patch.write_text("@@ b.c:dup @@\n-????????  mov w0, #2\n+????????  b a.c:dup+8\n")
        patch.write_text(run("fmt", patch, program).out)
        assert run("fmt", patch, program).out == run("fmt", patch).out == patch.read_text()
        assert run("apply", patch, program).status == 0
        assert run("apply", "-R", patch, program).status == 0
        assert program.read_bytes() == before


@pytest.mark.parametrize(
    "site", ["main+0x10", '"main.(*T).Run"+16', "a.c:dup+0x10", '"a b.c":"f(int)"+0x10', ".text:0x10", "0x1000"]
)
def test_branches_inside_a_symbol_need_no_target(run: Run, tmp_path: Path, site: str) -> None:
    """`fmt` makes their words from the site of the hunk alone."""
    goal = site.replace("0x10", "0x18").replace("+16", "+24")
    patch = tmp_path / "fix.patch"
    patch.write_text(f"@@ {site} @@\n-d503201f  nop\n+????????  b {goal}\n")
    filled = run("fmt", patch)
    assert (filled.err, filled.status) == ("", 0)
    word = "14000002" if site != "0x1000" else "14000200"
    assert filled.out == f"@@ {site} -1 +1 @@\n-d503201f  nop\n+{word}  b     {goal}\n"


def test_an_earlier_journal_has_another_name_for_a_static_function(tmp_path: Path) -> None:
    """Before source files were known, the surroundings of such a function were called by section and offset."""
    static = '.file "{0}.c"\n.type dup, %function\ndup: mov w0, #{1}\n ret\n.size dup, 8\n'
    objects = [assemble(static.format(name, number), tmp_path / f"{name}.o") for number, name in enumerate("ab")]
    with ElfFile(link(objects, tmp_path / "joined.o", "-r")) as target:
        address = target.symbols.resolve("b.c:dup")
        [word] = from_bytes(target.read(address, 4))
        [now] = surroundings(target, [Change(address, word, word)])
        assert now.name == "b.c:dup"
        assert difference(target, [now._replace(name=".text:0x8")], {}) is None
        for name in (".text:0x4", "gone"):
            says = f"b.c:dup is there now, and {name} was there then"
            assert difference(target, [now._replace(name=name)], {}) == says


def test_a_mistyped_name_gets_the_nearest_in_one_line(run: Run, tmp_path: Path) -> None:
    source = '.file "list.c"\n.globl _start\n_start: nop\n.type walk, %function\nwalk: ret\n.size walk, 4\n'
    program = link(assemble(source, tmp_path / "program.o"), tmp_path / "program")
    for site, hint in {"wlak": "walk", "list.c:wakl": "list.c:walk", "lits.c:wakl": "list.c"}.items():
        refused = run("show", program, site)
        assert (refused.status, one_sentence(refused.err)) == (2, True)
        assert f" is {hint}; an address needs none\n" in refused.err
    refused = run("poke", program, "walk", "b wlak", "--expect", "ret")
    assert (refused.status, one_sentence(refused.err)) == (2, True)
    assert "there is no symbol 'wlak'; the nearest is walk" in refused.err

"""One table says what targets there are: what opens them, the help texts, `diff` and --symbols go by it."""

from __future__ import annotations

import filecmp
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.cli.main import main
from a64patch.errors import A64PatchError, FormatError, MismatchError, RequestError
from a64patch.openers import OPENERS, SOURCES, source_forms, target_forms
from a64patch.targets.modules import Module
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.kernel.kernels import FUNCTION, LINKED, build_kernel
from tests.support import ROOT, assemble, link

WORDS = '''"""A target of two words, for as long as it is open."""

from a64patch.ranges import Ranges
from a64patch.targets.base import Capabilities, Target
from a64patch.targets.modules import Module
from a64patch.targets.symbols import Symbol, SymbolTable


class Words(Target):
    """As its text says: `words:d503201f,d65f03c0`."""

    capabilities = Capabilities("two words", 0, True, True, True, True)

    def __init__(self, text):
        self.data = b"".join(int(word, 16).to_bytes(4, "little") for word in text.removeprefix("words:").split(","))

    def own_modules(self):
        symbols = SymbolTable(lambda: [Symbol("f", 0x1000, len(self.data), is_function=True)])
        return [Module("words", symbols, code=Ranges(((0x1000, 0x1000 + len(self.data)),)))]

    def read(self, address, size):
        return self.data[address - 0x1000 : address - 0x1000 + size]

    def close(self):
        pass
'''
LINE = '    Opener("words", "targets.words:Words", "words:WORD,WORD", schemes=("words:",)),\n'


def changed(one: filecmp.dircmp[str]) -> list[str]:
    """The files that differ, or are in one tree only, below these two."""
    found = [*one.left_only, *one.right_only, *one.diff_files]
    return found + [name for inner in one.subdirs.values() for name in changed(inner)]


def test_a_new_kind_of_target_is_one_file_and_one_line(tmp_path: Path) -> None:
    source = tmp_path / "src/a64patch"
    shutil.copytree(ROOT / "src/a64patch", source, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "targets/words.py").write_text(WORDS)
    table = source / "openers.py"
    before = table.read_text("utf-8")
    table.write_text(before.replace("    Opener(", f"{LINE}    Opener(", 1), "utf-8")
    assert sorted(changed(filecmp.dircmp(ROOT / "src/a64patch", source))) == ["openers.py", "words.py"]
    assert len(table.read_text("utf-8").splitlines()) == len(before.splitlines()) + 1

    def run(*arguments: str) -> str:
        environment = {"PYTHONPATH": str(tmp_path / "src"), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "1000"}
        command = [sys.executable, "-m", "a64patch", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.stdout

    old, new = "words:d503201f,d65f03c0", "words:d503203f,d65f03c0"
    shown = [line.split()[1:3] for line in run("show", old, "f").splitlines()]
    assert shown == [["f", "d503201f"], ["f+0x4", "d65f03c0"]]
    assert "-d503201f  nop\n+d503203f  yield\n" in run("diff", old, new)
    for arguments in (["--help"], ["show", "--help"], ["apply", "--help"], ["diff", "--help"]):
        assert "words:WORD,WORD" in run(*arguments)


def test_what_the_table_names_exists() -> None:
    places = [place for opener in OPENERS for place in (opener.opens, opener.sniffs) if place]
    places += [place for source in SOURCES for place in (source.knows, source.names)]
    assert {place.split(".")[0] for place in places} == {"targets", "kernel"}
    for place in places:
        module, _, name = place.partition(":")
        assert callable(getattr(importlib.import_module(f"a64patch.{module}"), name))
    for opener in OPENERS:
        assert bool(opener.opens) == bool(opener.form) != bool(opener.refusal), opener.name
        assert bool(opener.schemes) + bool(opener.magic) + bool(opener.sniffs) == 1, opener.name


def test_help_texts_name_all_kinds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    assert target_forms().startswith("path of an ELF file, path of a raw arm64 Image, gdb://HOST:PORT, ")
    assert target_forms().endswith(", or pid:N, pid:N?main=PATH (arm64 Linux)")
    for arguments in (["--help"], ["show", "--help"], ["diff", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert target_forms() in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["show", "--help"])
    assert source_forms() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "option", "error", "message"),
    [
        ("pid:one", {}, RequestError, "'pid:one' does not name a process: write pid: and the process's number"),
        ("sim:program", {"symbols": "kallsyms"}, RequestError, "simulator sim:program has no option symbols"),
        ("gdb://localhost:1", {"cpus": 2, "seed": 1}, RequestError, "GDB stub .* has no option cpus, seed"),
        ("FILE", {"remote": True}, RequestError, "ELF file .* has no option remote"),
        ("words:1", {}, A64PatchError, "cannot open words:1"),
    ],
)
def test_what_is_refused(
    text: str, option: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = str(link(assemble(".globl _start\n_start: nop", tmp_path / "o"), tmp_path / "program"))
    given = {name: path if value == "FILE" else value for name, value in option.items()}
    with pytest.raises(error, match=message):
        open_target(path if text == "FILE" else text, **given)  # type: ignore[arg-type]


def test_a_path_is_a_file_whatever_it_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(assemble("nop", tmp_path / "o"), "pid:1")
    for spec in (Path("pid:1"), "./pid:1"):
        with open_target(spec) as target:
            assert target.capabilities.kind == "ELF file"
    (tmp_path / "text").write_text("#!/bin/sh\n")
    with pytest.raises(FormatError, match="is not an ELF file"):
        open_target("text")


def test_a_table_of_names_is_told_to_the_build_that_a_target_is(tmp_path: Path) -> None:
    path = link(assemble(".globl _start\n_start: nop", tmp_path / "o"), tmp_path / "program", "--build-id=0x0102")
    with open_target(path, symbols=SymbolTable(lambda: [Symbol("mine", 4096)])) as target:
        assert target.symbols.resolve("mine") == 4096
        assert target.identity().build_id == "0102"
        assert [module.name for module in target.modules] == ["program"]
        assert isinstance(target.modules.main, Module)


def test_diff_of_two_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = build_kernel()
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(kernel.data)
    address, _, name = kernel.symbols[20]
    place = address - LINKED + FUNCTION - 4
    kernel.data[place : place + 4] = (0xD503203F).to_bytes(4, "little")
    new.write_bytes(kernel.data)
    status = main(["diff", str(old), str(new)])
    said = capsys.readouterr()
    assert (status, said.err) == (0, "")
    assert f"@@ {name}+" in said.out
    assert "\n+d503203f  yield\n" in said.out
    assert said.out.startswith("Target: Linux 6.6.6-test\nBuild-Id: 000102")


def test_names_of_a_file_that_is_not_there_halt_no_machine(tmp_path: Path) -> None:
    from tests.targets.stub import BASE, Stub, machine_of

    machine = machine_of([0xD503201F] * 64)
    with Stub(machine) as stub:
        with pytest.raises(A64PatchError, match="cannot open"):
            open_target(stub.location, symbols=tmp_path / "nothing")
        assert machine.stopped == 0
        path = link(assemble("ret\n" * 64, tmp_path / "o"), tmp_path / "a", f"-Ttext={BASE:#x}", "-e", "0")
        with pytest.raises(MismatchError, match="0 of 16 samples"):
            open_target(stub.location, symbols=path)
        assert machine.running

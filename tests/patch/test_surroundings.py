"""An entry is not undone in another build that has an equal word at the same place of the same file.

Read on: ../../src/a64patch/patch/surroundings.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from a64patch.errors import PlanError
from a64patch.patch.asmdiff import parse
from a64patch.patch.journal import EntryState, Journal
from a64patch.patch.plan import make_plan
from a64patch.patch.transaction import apply_plan, recover, revert
from a64patch.ranges import Ranges
from a64patch.targets.elf import ElfFile
from a64patch.targets.modules import Module, Modules
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.patch.fake import BASE, FakeTarget
from tests.support import assemble

CHECK = "mov w0, #1; ret"
OTHER = "mov w0, #0; ret"


def function(name: str, body: str) -> str:
    return f".type {name}, %function\n{name}: {body}\n.size {name}, . - {name}\n"


FIRST = function("check", CHECK) + function("other", OTHER)
ON_CHECK = "@@ check @@\n-52800020\n+52800000\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An object file, which has no build id."""
    return assemble(FIRST, tmp_path / "r.o")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def apply(file: Path, journal: Journal, patch: str = ON_CHECK) -> int:
    with ElfFile(file) as target:
        return apply_plan(make_plan(parse(patch), target), target, journal, accept=("all",)).entry


def undo(file: Path, journal: Journal, entry: int) -> None:
    with ElfFile(file) as target:
        revert(entry, target, journal)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        # The case that was found: the function at this place has the new word of its own.
        (function("grant", OTHER) + function("check", CHECK), "grant is there now, and check was there then"),
        # An equal name, and other code behind the word.
        (function("check", "mov w0, #0; nop; ret"), "other code is in check now"),
        (function("check", "mov w0, #0; br x1") + function("other", OTHER), "other code is in check now"),
        (function("check", "mov w0, #0; .size check, 4"), "check is not there any more"),
        (OTHER, "is there now, and check was there then"),
    ],
)
def test_a_file_that_was_built_again_is_left_alone(file: Path, journal: Journal, source: str, says: str) -> None:
    entry = apply(file, journal)
    assemble(source, file)
    before = file.read_bytes()
    with pytest.raises(PlanError, match=f"is not what entry 1 patched: .*{says}"):
        undo(file, journal, entry)
    assert file.read_bytes() == before
    assert journal.entry(entry).state is EntryState.APPLIED


def test_the_same_source_built_again_and_patched_again_may_be_undone(file: Path, journal: Journal) -> None:
    original = file.read_bytes()
    entry = apply(file, journal)
    assemble(FIRST, file)
    apply(file, Journal(journal.path.with_name("second")))
    undo(file, journal, entry)
    assert file.read_bytes() == original


def test_entries_of_one_function_are_undone_in_any_order(file: Path, journal: Journal) -> None:
    original = file.read_bytes()
    first, second = apply(file, journal), apply(file, journal, "@@ check+4 @@\n-d65f03c0\n+d503201f\n")
    undo(file, journal, first)
    third = apply(file, journal)
    undo(file, journal, second)
    undo(file, journal, third)
    assert file.read_bytes() == original
    assert [entry.state for entry in journal.entries()].count(EntryState.REVERTED) == 3


def test_code_without_a_function_is_compared_too(tmp_path: Path, journal: Journal) -> None:
    file = assemble("nop; nop; mov w0, #1; nop; ret", tmp_path / "r.o")
    entry = apply(file, journal, "@@ .text:0x8 @@\n-52800020\n+52800000\n")
    assemble("nop; nop; mov w0, #0; nop; br x1", file)
    with pytest.raises(PlanError, match="other code is in"):
        undo(file, journal, entry)


def test_recover_leaves_another_build_alone(file: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    monkeypatch.setattr(Journal, "finish", killed)
    with pytest.raises(SystemExit):
        apply(file, journal)
    monkeypatch.undo()
    assemble(function("grant", OTHER), file)
    before = file.read_bytes()
    [found] = recover(journal, lambda entry: ElfFile(file))
    assert (found.state, file.read_bytes()) == (EntryState.OPEN, before)
    assert "grant is there now" in found.note


def test_a_build_id_is_enough(tmp_path: Path, journal: Journal) -> None:
    from tests.support import link

    file = link(assemble(f".globl _start\n_start: {CHECK}", tmp_path / "r.o"), tmp_path / "r", "--build-id=0xaa")
    entry = apply(file, journal, "@@ _start @@\n-52800020\n+52800000\n")
    assert journal.entry(entry).surroundings == ()


def loaded(name: str, function: str, build: str) -> Module:
    """A module of a running kernel, at one place."""
    place = BASE + 0x40
    names = SymbolTable(lambda: [Symbol(function, place, 0x40, is_function=True)])
    return Module(name, names, build, code=Ranges(((place, place + 0x40),)), shares_code=True)


def running(*modules: Module) -> FakeTarget:
    target = FakeTarget([0xD65F03C0] * 32)
    names = SymbolTable(lambda: [Symbol("site", BASE, 0x40)])
    target._modules = Modules()
    target.knowing(Module("kernel", names, code=Ranges(((BASE, BASE + 0x40),))), *modules)
    return target


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ((loaded("crc16", "crc16", "bb"),), r"crc16\+0x10 is there now, and dummy:validate\+0x10 was there then"),
        ((loaded("crc16", "validate", "bb"),), r"validate\+0x10 is there now, and dummy:validate\+0x10 was there then"),
        ((loaded("dummy", "validate", "bb"),), r"other code is in dummy:validate\+0x10 now"),
        ((), r"is there now, and dummy:validate\+0x10 was there then"),
    ],
)
def test_a_module_that_took_the_place_of_another_is_left_alone(
    journal: Journal, now: tuple[Module, ...], says: str
) -> None:
    target = running(loaded("dummy", "validate", "aa"))
    patch = parse("@@ dummy:validate+0x10 @@\n-d65f03c0\n+d503201f\n")
    entry = apply_plan(make_plan(patch, target), target, journal, accept=("all",)).entry
    other = running(*now)
    other.memory[:] = target.memory  # the other module has an equal word there
    with pytest.raises(PlanError, match=says):
        revert(entry, other, journal)
    assert other.memory == target.memory
    target.memory[0x48:0x50] = bytes(8)  # Linux rewrites words of a function, such as those of ftrace
    assert revert(entry, target, journal).entry == 2
    assert revert(2, target, journal).entry == 3

"""What a target knows about its builds: a value for each, from which its names, code and identity follow."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.errors import SymbolError
from a64patch.ranges import Ranges
from a64patch.targets.base import Build, Target
from a64patch.targets.elf import ElfFile
from a64patch.targets.modules import Module, Modules
from a64patch.targets.simulator import Simulator
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.support import assemble, link

PROGRAM = Module(
    "program", SymbolTable(lambda: [Symbol("main", 0x1000, 8), Symbol("same", 0x1008, 8)]), "aa", "", 0x1000,
    Ranges(((0x1000, 0x1100), (0x2000, 0x2010))),
)  # fmt: skip
LIBRARY = Module("library", SymbolTable(lambda: [Symbol("same", 0x9000, 8), Symbol("work", 0x9008, 8)]), "bb")


def test_a_module_is_a_value() -> None:
    with pytest.raises(FrozenInstanceError):
        PROGRAM.build_id = "cc"  # type: ignore[misc]
    assert Modules().main.symbols.ascending() == []
    assert Modules([PROGRAM]).symbols is PROGRAM.symbols


def test_names_of_several_modules() -> None:
    symbols = Modules([PROGRAM, LIBRARY]).symbols
    assert [symbols.resolve(site) for site in ("main", "work+4", "library:same")] == [0x1000, 0x900C, 0x9000]
    assert symbols.describe(0x9000) == "library:same"
    with pytest.raises(SymbolError, match="stands for 2 addresses"):
        symbols.resolve("same")


def test_names_of_the_first_module_need_no_owner() -> None:
    """The names of a process carry their module, those of the first one too."""
    owned = [
        Module(one.name, SymbolTable(lambda one=one: [each._replace(module=one.name) for each in one.symbols.load()]))  # type: ignore[misc]
        for one in (LIBRARY, PROGRAM)
    ]
    symbols = Modules(owned).symbols
    assert [symbols.resolve(site) for site in ("same", "library:same", "program:same", "main")] == [
        0x9000, 0x9000, 0x1008, 0x1000,
    ]  # fmt: skip
    assert [symbols.describe(address) for address in (0x9004, 0x100C, 0x1000)] == [
        "same+0x4",
        "program:same+0x4",
        "main",
    ]
    assert Modules(reversed(owned)).symbols.resolve("same") == 0x1008


def owned(name: str, start: int, *symbols: Symbol, end: int = 0x1000) -> tuple[Module, list[str]]:
    """A module of a process; and a list that takes its name when its symbols are loaded."""
    loads: list[str] = []

    def load() -> list[Symbol]:
        loads.append(name)
        return [symbol._replace(address=start + symbol.address, module=name, limit=start + end) for symbol in symbols]

    return Module(name, SymbolTable(load), code=Ranges(((start, start + end),)), owns_names=True), loads


SYMBOLS = st.builds(
    Symbol, st.sampled_from(["same", "main", "f", "g"]), st.integers(0, 15).map(lambda number: 4 * number),
    st.sampled_from([0, 4, 8, 16]),
)  # fmt: skip


@given(st.lists(st.lists(SYMBOLS, max_size=4), min_size=2, max_size=3))
def test_names_of_several_modules_are_those_of_one_table(symbols: list[list[Symbol]]) -> None:
    """Each module of a process has names for its own memory only."""
    modules = Modules(owned(f"m{number}", 0x10000 * number, *each)[0] for number, each in enumerate(symbols))
    one = SymbolTable(lambda: [symbol for module in modules for symbol in module.symbols.load()], first="m0")
    joined = modules.symbols
    for address in range(0, 0x30000, 0x10000):
        for at in range(address, address + 0x60, 4):
            assert joined.lookup(at) == one.lookup(at)
            assert joined.extent(at) == one.extent(at)
            assert joined.describe(at) == one.describe(at)
    for symbol in one.ascending():
        assert joined.named(symbol.name) == one.named(symbol.name)
        assert joined.named(symbol.name, "m1") == one.named(symbol.name, "m1")
        assert joined.end_of(symbol) == one.end_of(symbol)


def test_a_patch_of_the_first_module_needs_no_names_of_others() -> None:
    first, own = owned("program", 0, Symbol("main", 0, 8), Symbol("same", 8))
    second, others = owned("library", 0x10000, Symbol("same", 0, 8), Symbol("work", 8, 8))
    symbols = Modules([first, second]).symbols
    assert (symbols.resolve("same+4"), symbols.describe(4), symbols.extent(0), symbols.holds("main+4")) == (
        12, "main+0x4", (0, 8), True,
    )  # fmt: skip
    found = symbols.lookup(8)
    assert found is not None
    assert (found[0].module, own, others) == ("program", ["program"], [])
    assert symbols.describe(0x1000C) == "work+0x4"
    assert symbols.lookup(0x20000) is None
    assert symbols.resolve("work") == 0x10008
    assert symbols.resolve("library:same") == 0x10000


def test_code_is_that_of_the_module_that_holds_an_address() -> None:
    modules = Modules([LIBRARY, PROGRAM])
    assert PROGRAM.code is not None
    assert modules.code == modules.code_with(0x2000) == PROGRAM.code
    assert not modules.code_with(0x9000), "its code is not known"
    assert not modules.code_with(0x1800)


def test_what_is_told_later_takes_the_place_of_what_was_known() -> None:
    known = Modules([PROGRAM, LIBRARY])
    found = known.knowing([Module("program", build_id="cc"), Module("other")])
    assert [(each.name, each.build_id) for each in found] == [("program", "cc"), ("library", "bb"), ("other", "")]
    assert [each.name for each in known] == ["program", "library"]


def test_modules_of_an_elf_file_and_of_a_simulator(tmp_path: Path) -> None:
    source = ".globl _start\n_start: nop\nret\n.size _start, 8"
    path = link(assemble(source, tmp_path / "o"), tmp_path / "program", "-static", "--build-id=0x0102")
    with ElfFile(path) as file, Simulator.from_elf(path, cpus=1) as machine:
        [module] = file.modules
        assert (module.name, module.build_id, module.base, module.file) == ("program", "0102", 0, str(path))
        assert module.code == Ranges.of(file.code_ranges()) == file.writable()
        assert module.symbols is file.symbols
        assert file.identity().modules == machine.identity().modules == (Build("program", "0102"),)
        assert machine.modules.main.code == module.code
        with Simulator.from_elf(path, cpus=1) as other:
            assert other.identity() != machine.identity(), "another machine, though all else is the same"
        assert machine.identity().incarnation == machine.identity().incarnation != ""
        assert file.identity().incarnation == "", "what is written to a file stays"


@pytest.mark.parametrize("name", ["symbols", "modules", "location"])
def test_nobody_sets_from_outside_what_a_target_knows(name: str) -> None:
    class Plain(Target):
        pass

    with pytest.raises(AttributeError):
        setattr(Plain(), name, "")  # type: ignore[abstract]

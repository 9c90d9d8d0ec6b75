"""What a kernel tells beside its names: code that its translation tables map, and whether it preempts."""

from __future__ import annotations

import pytest

from a64patch.errors import CapabilityError
from a64patch.kernel import running
from a64patch.kernel.page_tables import Mapping
from a64patch.ranges import Ranges
from a64patch.targets.modules import Module
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.kernel.test_loaded import Kernel

TEXT, END, MEMORY = 0xFFFF800008010000, 0xFFFF800008050000, 0x4000_0000
MODULE = 0xFFFF800001000000


def told(
    monkeypatch: pytest.MonkeyPatch, *mappings: Mapping, known: Ranges | None = None
) -> tuple[tuple[Module, ...], str, list[str]]:
    monkeypatch.setattr(running, "executable", lambda target: mappings)
    kernel = Module("kernel", code=Ranges(((TEXT, END),)))
    modules, said, claims = running._mapped(Kernel(), kernel, known or Ranges(((TEXT, END),)))
    return modules, said, [f"{claim.hazard} {claim.words}" for claim in claims]


def test_all_that_is_mapped_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, Mapping(TEXT, END, MEMORY, False)) == ((), "1 range, none of them writable", [])


def test_code_of_nobody_is_a_module_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Mapping(MODULE, MODULE + 0x1000, 0x9000_0000, True)
    [module], said, claims = told(monkeypatch, made, Mapping(TEXT, END, MEMORY, False))
    assert (module.name, module.code) == (running.MADE, Ranges(((MODULE, MODULE + 0x1000),)))
    [claim] = module.claims()
    assert claim.on([MODULE, TEXT]) == {
        MODULE: "is in code that the kernel made at run time, or has at a second address"
    }
    assert (said, claims) == ("2 ranges, 1 of them writable", [])


@pytest.mark.parametrize("before", [0, 0x10000])
def test_text_that_is_mapped_twice_says_so(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the trampoline of KPTI in 5.10, whose mapping begins 64 KiB before _stext."""
    text = Mapping(TEXT - before, END, MEMORY, False)
    second = Mapping(0xFFFFFBFFFDBF6000, 0xFFFFFBFFFDBF8000, MEMORY + before + 0x3000, False)
    _, _, claims = told(monkeypatch, text, second)
    assert claims == [f"second-address {TEXT + 0x3000:#x}-{TEXT + 0x5000:#x}"]


def test_code_by_names_that_is_not_executable_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Ranges(((TEXT, END), (MODULE, MODULE + 0x2000)))
    _, said, _ = told(monkeypatch, Mapping(TEXT, END, MEMORY, False), known=known)
    assert said == "1 range, none of them writable; 8192 bytes of code by names are not executable"


def test_a_target_without_registers_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(target: object) -> None:
        raise CapabilityError("this stub does not tell TTBR1_EL1")

    monkeypatch.setattr(running, "executable", refuse)
    kernel = Module("kernel", code=Ranges(((TEXT, END),)))
    said = "not known from the translation tables: this stub does not tell TTBR1_EL1"
    assert running._mapped(Kernel(), kernel, Ranges()) == ((), said, [])


def test_a_kernel_that_preempts_has_a_function_for_it() -> None:
    names = SymbolTable(lambda: [Symbol("preempt_schedule", TEXT, 64, is_function=True)])
    assert running.preemption(names).startswith("yes:")
    assert running.preemption(SymbolTable()).startswith("no:")

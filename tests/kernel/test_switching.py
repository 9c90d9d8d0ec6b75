"""Switching static keys of a running kernel that is made of bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from a64patch.a64.words import from_bytes
from a64patch.errors import (
    A64PatchError,
    BusyError,
    CapabilityError,
    FormatError,
    MismatchError,
    PlanError,
    SymbolError,
)
from a64patch.kernel.elf import KernelElf
from a64patch.kernel.rewrites import claims_on_kernel
from a64patch.kernel.static_keys import Key, chain_of, read_keys
from a64patch.kernel.structures import Structures
from a64patch.kernel.switching import mutex, plan_switch
from a64patch.patch.journal import EntryState, Journal
from a64patch.patch.plan import Plan
from a64patch.patch.transaction import apply_plan, recover, revert
from a64patch.targets.modules import Module
from tests.kernel import test_static_keys as tables
from tests.kernel.running import RunningKernel
from tests.kernel.types import Writer

LOCKS = """
    .text
jump_label_lock:
    adrp x0, decoy
    add x0, x0, :lo12:decoy
    adrp x0, jump_label_mutex
    add x0, x0, :lo12:jump_label_mutex
    b g
    .size jump_label_lock, . - jump_label_lock
jump_label_unlock:
    adrp x0, jump_label_mutex
    add x0, x0, :lo12:jump_label_mutex
    b g
    .size jump_label_unlock, . - jump_label_unlock
    .type jump_label_lock, %function
    .type jump_label_unlock, %function
    .data
    .p2align 3
    .type jump_label_mutex, %object
    .type node, %object
jump_label_mutex: .quad 0, 0
    .size jump_label_mutex, 16
node: .skip 48
    .size node, 48
"""


def types(*owner: str) -> Structures:
    """A mutex with its owner 8 bytes behind its start, in `rtmutex` with PREEMPT_RT."""
    writer = Writer()
    pointer = writer.pointer()
    inner = writer.structure("rt_mutex_base", 16, [("owner", pointer, 64)])
    if owner:
        writer.structure("mutex", 16, [(owner[0], inner, 0)])
    else:
        writer.structure("mutex", 16, [("owner", pointer, 64)])
    writer.structure("module", 24, [
        ("jump_entries", pointer, 64), ("num_jump_entries", writer.integer("unsigned int", 4), 128)
    ])  # fmt: skip
    return Structures(writer.bytes)


def running(folder: Path, hidden: tuple[str, ...] = (), more: str = "") -> RunningKernel:
    """A kernel after boot: each key points to its entries."""
    target = RunningKernel(tables.kernel(folder, text=tables.TEXT + LOCKS + more), hidden)
    for key in read_keys(target):
        assert key.address is not None
        first = min(site.entry for site in key.sites)
        target.write(key.address + 8, struct.pack("<Q", first | int(bool(key.initially))))
    return target


def key_of(target: RunningKernel, name: str, modules: dict[str, int] | None = None) -> Key:
    keys = read_keys(target, (modules or {}).items(), types())
    return tables.by_name(keys)[name]


def plan(target: RunningKernel, name: str, *, on: bool, modules: dict[str, int] | None = None) -> Plan:
    return plan_switch(target, types(), key_of(target, name, modules), on=on, modules=modules or {})


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal") as opened:
        yield opened


def words(target: RunningKernel) -> list[int]:
    return from_bytes(target.read(target.symbols["f"], 24))


@pytest.mark.parametrize(("name", "sites"), [("off", 2), ("on", 2), ("zero", 1)])
def test_all_words_and_the_counter_change_and_come_back(
    tmp_path: Path, journal: Journal, name: str, sites: int
) -> None:
    target = running(tmp_path)
    before, memory = words(target), bytes(target.memory)
    on = not key_of(target, name).on
    made = plan(target, name, on=on)
    assert (len(made.changes), made.method) == (sites, "stop")
    with pytest.raises(PlanError, match="kernel-rewrites"):
        apply_plan(made, target, journal)
    outcome = apply_plan(made, target, journal, accept={"kernel-rewrites"})
    key = key_of(target, name)
    assert (key.on, key.enabled, key.differing) == (on, int(on), ())
    assert sum(old != new for old, new in zip(before, words(target), strict=True)) == sites
    with pytest.raises(PlanError, match=f"already {'on' if on else 'off'}; nothing was changed"):
        plan(target, name, on=on)
    revert(outcome.entry, target, journal)
    assert bytes(target.memory) == memory
    assert key_of(target, name).initially == (not on)


@pytest.fixture(autouse=True)
def claims_of_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel of the test makes the claims that `attach` gives a running kernel."""
    plain = RunningKernel.own_modules

    def own_modules(self: RunningKernel) -> list[Module]:
        [module] = plain(self)
        code = module.code
        assert code is not None
        return [replace(module, claims=lambda: list(claims_on_kernel(self.read, module.symbols, code, running=True)))]

    monkeypatch.setattr(RunningKernel, "own_modules", own_modules)


@pytest.mark.parametrize(
    ("name", "on", "enabled", "error", "message"),
    [
        ("on", True, 1, PlanError, "already on"),
        ("off", False, 0, PlanError, "already off"),
        ("on", False, 2, PlanError, "has 2 users"),
        ("off", True, -1, BusyError, "switching static key off on at this moment"),
    ],
)
def test_states_that_are_not_switched(
    tmp_path: Path, name: str, on: bool, enabled: int, error: type[A64PatchError], message: str
) -> None:
    target = running(tmp_path)
    target.put_numbers(name, "i", enabled)
    before = bytes(target.memory)
    with pytest.raises(error, match=message):
        plan(target, name, on=on)
    assert bytes(target.memory) == before


def test_a_word_that_somebody_else_changed(tmp_path: Path) -> None:
    target = running(tmp_path)
    target.put("f", b"\xff\xff\xff\x17", 8)
    with pytest.raises(MismatchError, match=r"f\+0x8 is not as static key on asks for"):
        plan(target, "on", on=False)


def test_a_sealed_key(tmp_path: Path) -> None:
    target = running(tmp_path)
    target.put_numbers("on", "Q", 3, offset=8)
    with pytest.raises(PlanError, match="sealed"):
        plan(target, "on", on=False)


def test_a_file_is_refused(tmp_path: Path) -> None:
    with KernelElf(tables.kernel(tmp_path)) as file:
        [key] = [key for key in read_keys(file) if key.name == "on"]
        with pytest.raises(CapabilityError, match="a file has no counter"):
            plan_switch(file, types(), key, on=False, modules={})


@pytest.mark.parametrize("hidden", [(), ("jump_label_mutex",)])
def test_nothing_is_switched_while_somebody_holds_the_mutex(
    tmp_path: Path, journal: Journal, hidden: tuple[str, ...]
) -> None:
    target = running(tmp_path, hidden)
    owner = running(tmp_path).symbols["jump_label_mutex"] + 8
    assert mutex(target) == owner - 8
    made = plan(target, "off", on=True)
    target.write(owner + 4, b"\1")
    with pytest.raises(BusyError, match="switching a static key at this moment"):
        plan(target, "off", on=True)
    before = bytes(target.memory)
    with pytest.raises(MismatchError):
        apply_plan(made, target, journal, accept={"kernel-rewrites"})
    assert bytes(target.memory) == before
    assert [entry.state for entry in journal.entries()] == [EntryState.UNDONE]


def test_a_mutex_that_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(SymbolError, match="jump_label_mutex is not found"):
        mutex(running(tmp_path, ("jump_label_mutex", "jump_label_lock", "jump_label_unlock")))
    path = tables.kernel(tmp_path, text=tables.TEXT + LOCKS.replace(
        "jump_label_unlock:\n    adrp x0, jump_label_mutex\n    add x0, x0, :lo12:jump_label_mutex",
        "jump_label_unlock:\n    adrp x0, decoy\n    add x0, x0, :lo12:decoy",
    ))  # fmt: skip
    with pytest.raises(SymbolError, match="jump_label_mutex is not found"):
        mutex(RunningKernel(path, ("jump_label_mutex",)))


@pytest.mark.parametrize("name", ["rtmutex", "lock"])
def test_the_owner_of_a_mutex_with_preempt_rt(tmp_path: Path, name: str) -> None:
    target = running(tmp_path)
    made = plan_switch(target, types(name), key_of(target, "off"), on=True, modules={})
    assert made.guards[0] == (target.symbols["jump_label_mutex"] + 8, 0)


def linked(tmp_path: Path) -> tuple[RunningKernel, dict[str, int]]:
    """A kernel with a loaded module that has a site of the key `off`; the kernel links it to the key."""
    more = "    .text\nh: nop\n    ret\n.size h, . - h\n" + tables.MODULE.replace(".long 2", ".long 1")
    target = running(tmp_path, more=more + tables.entry("h", "off"))
    modules = {"loaded": target.symbols["module"]}
    node, table = target.symbols["node"], target.symbols["its_table"]
    first = min(site.entry for site in key_of(target, "off").sites)
    target.put_numbers("node", "QQQQQQ", node + 24, table, modules["loaded"], 0, first, 0)
    target.put_numbers("off", "Q", node | 2, offset=8)
    return target, modules


def test_sites_in_modules_are_switched_too(tmp_path: Path, journal: Journal) -> None:
    target, modules = linked(tmp_path)
    key = key_of(target, "off", modules)
    assert (key.linked, len(key.sites)) == (True, 3)
    assert [part.module for part in chain_of(target, key).parts] == [modules["loaded"], 0]
    made = plan(target, "off", on=True, modules=modules)
    apply_plan(made, target, journal, accept={"kernel-rewrites"})
    key = key_of(target, "off", modules)
    assert (key.on, len(key.sites), key.differing) == (True, 3, ())


def test_a_module_that_is_not_known_is_noticed(tmp_path: Path, journal: Journal) -> None:
    target, modules = linked(tmp_path)
    with pytest.raises(PlanError, match="other sites than those that were found"):
        plan(target, "off", on=True)
    made = plan(target, "off", on=True, modules=modules)
    target.put_numbers("node", "Q", 0)  # the module goes, between the plan and the stop
    with pytest.raises(MismatchError):
        apply_plan(made, target, journal, accept={"kernel-rewrites"})
    target.put_numbers("node", "Q", 16)
    with pytest.raises(FormatError, match="leads to 0x10"):
        plan(target, "off", on=True, modules=modules)


def test_the_kernels_own_switch_between_plan_and_stop_is_noticed(tmp_path: Path, journal: Journal) -> None:
    target = running(tmp_path)
    made = plan(target, "off", on=True)
    target.put_numbers("off", "i", 1)
    before = bytes(target.memory)
    with pytest.raises(MismatchError):
        apply_plan(made, target, journal, accept={"kernel-rewrites"})
    assert bytes(target.memory) == before


def test_a_switch_that_is_cut_off_is_brought_to_an_end(tmp_path: Path, journal: Journal) -> None:
    """A crash after each single write: recover leaves the key and its words in agreement."""

    class Crash(BaseException):
        pass

    plain = RunningKernel.write
    for after in range(4):
        target = running(tmp_path)
        made = plan(target, "off", on=True)
        left = [after]

        def write(self: RunningKernel, address: int, data: bytes, left: list[int] = left) -> None:
            if left[0] == 0:
                left[0] = -1
                raise Crash
            if left[0] > 0:
                left[0] -= 1
                plain(self, address, data)

        with pytest.MonkeyPatch.context() as patch, suppress(Crash, A64PatchError):
            patch.setattr(RunningKernel, "write", write)
            patch.setattr(Journal, "finish", lambda *_, **__: None)
            apply_plan(made, target, journal, accept={"kernel-rewrites"})
        [recovery] = recover(journal, lambda entry, target=target: target)  # type: ignore[misc]
        key = key_of(target, "off")
        assert not key.differing
        assert key.on == (after == 3)
        assert recovery.state is (EntryState.APPLIED if after == 3 else EntryState.UNDONE)

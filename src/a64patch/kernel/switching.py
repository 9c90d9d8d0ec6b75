"""Switch a static key from outside: all words that it decides and its counter, in one stop, and only while nobody else
switches a key.

Read on: static_keys.py finds the keys; ../patch/transaction.py carries the plan out.

The kernel changes keys under `jump_label_mutex` (kernel/jump_label.c). All CPUs are stopped when this plan writes: an
owner of the mutex would be in the middle of a switch then, so the plan's guards say that there is no owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from a64patch.a64.disassembler import disassemble
from a64patch.errors import BusyError, CapabilityError, FormatError, MismatchError, PlanError, SymbolError, TargetError
from a64patch.kernel.pointers import formed_by
from a64patch.kernel.static_keys import LOCKS, Chain, Key, chain_of, word_for
from a64patch.kernel.structures import Structures, View
from a64patch.patch.asmdiff import BUILD_ID, AsmDiff, Hunk, Line
from a64patch.patch.plan import Plan, make_plan
from a64patch.targets.base import Target
from a64patch.targets.file import FileTarget
from a64patch.targets.section import Change, Guard

_MUTEX = "jump_label_mutex"
_OWNERS = ("mutex.owner", "mutex.rtmutex.owner", "mutex.lock.owner")
"""Where a mutex has its owner: usually; with PREEMPT_RT; with PREEMPT_RT before 5.16."""


def plan_switch(target: Target, structures: Structures, key: Key, *, on: bool, modules: Mapping[str, int]) -> Plan:
    """The plan that switches a key of a running kernel. Reads only; `key` was read a moment ago.

    `modules` are the addresses of struct module by name. The plan has a hunk for each site, the counter as data, and
    guards that must hold inside the stop: the mutex has no owner, the key has the same sites as now.

    Errors:

    - BusyError while the kernel switches a key;
    - MismatchError when a word is not the one for the state of the key;
    - PlanError when the key is in this state already, has several users, is sealed, has no sites that are left, or has
      sites that are not known;
    - CapabilityError for a file; SymbolError and FormatError when the mutex or a structure is not found.
    """
    if isinstance(target, FileTarget):
        raise CapabilityError("a file has no counter that counts: switch keys in a running kernel")
    if key.address is None or key.enabled is None:
        raise PlanError(f"static key {key.name} cannot be read; nothing was changed")
    if key.enabled < 0:
        raise BusyError(f"the kernel is switching static key {key.name} on at this moment; nothing was changed")
    state = "on" if on else "off"
    if key.on == on:
        raise PlanError(f"static key {key.name} is already {state}; nothing was changed")
    if key.enabled > 1:
        raise PlanError(
            f"static key {key.name} has {key.enabled} users who have switched it on, and each will take one away again:"
            " make them do so instead; nothing was changed"
        )
    if key.sealed:
        raise PlanError(
            f"the kernel has sealed static key {key.name}: it is read-only since boot, and may not change; nothing was"
            " changed"
        )
    if key.differing:
        where = target.symbols.describe(key.differing[0].address)
        raise MismatchError(f"{where} is not as static key {key.name} asks for; nothing was changed")
    sites = [site for site in key.sites if not site.init]
    if not sites:
        raise PlanError(f"all sites of static key {key.name} are in code that was freed; nothing was changed")
    if unread := [site for site in sites if not site.known]:
        where = target.symbols.describe(unread[0].address)
        raise PlanError(f"the word at {where} cannot be read; nothing was changed")
    chain = chain_of(target, key)
    _require_all(key, chain, modules)
    owner = _owner(target, structures)
    [held] = View(target, structures).numbers([owner])
    if held is None:
        raise FormatError("the owner of jump_label_mutex cannot be read")
    if held:
        raise BusyError("the kernel is switching a static key at this moment; nothing was changed")
    hunks = []
    for site in sites:
        assert site.found is not None
        new = word_for(site.address, site.target, on != site.branch)
        lines = (
            Line("-", site.found, disassemble(site.found, site.address, target.symbols)),
            Line("+", new, disassemble(new, site.address, target.symbols)),
        )
        hunks.append(Hunk(target.symbols.describe(site.address), lines))
    build_id = target.identity().build_id
    headers = ((BUILD_ID, build_id),) if build_id else ()
    diff = AsmDiff(tuple(hunks), (f"Switch static key {key.name} {state}.",), headers)
    guards: list[Guard] = [(owner, 0), (owner + 4, 0)]
    for address, data in chain.memory:
        guards += [(address + at, int.from_bytes(data[at : at + 4], "little")) for at in range(0, len(data), 4)]
    change = Change(key.address, key.enabled, int(on))
    return make_plan(diff, target, same_build=True, data=[change], guards=guards)


def _owner(target: Target, structures: Structures) -> int:
    """The address of the owner of `jump_label_mutex`, a pointer: 0 while nobody holds it."""
    field = structures.field(structures.first(*_OWNERS))
    return mutex(target) + field.offset


def mutex(target: Target) -> int:
    """The address of `jump_label_mutex`: by its symbol, else from the functions that lock and unlock it.

    The address is the last one that each of them forms, for the call of mutex_lock() or mutex_unlock(). SymbolError
    when they do not agree.
    """
    with suppress(SymbolError):
        return target.modules.main.symbols.find(_MUTEX).address
    found: set[int] = set()
    for function in LOCKS:
        with suppress(SymbolError, TargetError):
            found.add((formed_by(target, function) or [0])[-1])
    if len(found) != 1 or 0 in found:
        raise SymbolError(f"{_MUTEX} is not found: neither a symbol nor {' and '.join(LOCKS)} say where it is")
    return found.pop()


def _require_all(key: Key, chain: Chain, modules: Mapping[str, int]) -> None:
    """PlanError unless the sites of the key are those that the kernel knows of it."""
    ours: dict[int, int] = {}
    for site in key.sites:
        owner = modules.get(site.module, 0)
        ours[owner] = min(ours.get(owner, 1 << 64), site.entry)
    theirs = {each.module: each.entries for each in chain.parts if each.entries}
    # A key in a module that nobody else uses has no list: its entries are those of the module.
    if 0 in theirs and 0 not in ours and len(theirs) == len(ours) == 1:
        theirs = {next(iter(ours)): theirs[0]}
    # The first part of a list is that of the module with the key, even if the kernel has no name for it.
    if theirs != ours:
        raise PlanError(
            f"static key {key.name} has other sites than those that were found: a module was loaded or removed; try"
            " again; nothing was changed"
        )

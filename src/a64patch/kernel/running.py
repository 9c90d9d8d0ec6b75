"""What a running kernel tells about itself to those who can read its memory: its modules, and how it may preempt.

Nothing here is needed to name the kernel's functions: what a kernel does not tell becomes a sentence for the user.
Read on: symbols.py asks here; loaded.py reads the list of modules, hooks.py and rewrites.py the words that change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from a64patch.errors import FormatError, SymbolError, TargetError
from a64patch.kernel.hooks import claims_on_hooks
from a64patch.kernel.loaded import Loaded, State, modules_of, symbols_of
from a64patch.kernel.rewrites import claims_on_loaded
from a64patch.kernel.structures import Structures, View, load_btf
from a64patch.oneline import counted
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.modules import Claim, Module
from a64patch.targets.symbols import Symbol, SymbolTable

UNSETTLED = "module-unsettled"
"""The hazard of code in a module that is being loaded or unloaded."""
_PREEMPTIBLE = "preempt_schedule"
"""A kernel has this function if and only if CONFIG_PREEMPTION is set (kernel/sched/core.c)."""
_MOST_KERNEL = 1 << 27


class Told(NamedTuple):
    """What a kernel tells."""

    modules: tuple[Module, ...]
    """Of the kernel itself, and of each loaded module."""
    facts: dict[str, str]
    """For people, by name."""
    is_whole: bool
    """All loaded modules are known."""


def tell(target: Target, kernel: Module, listed: Sequence[Module] = ()) -> Told:
    """Ask the running kernel in a target, whose names are known already. Only reads memory.

    `listed` are modules that a saved /proc/kallsyms names. The kernel's own list, where it can be read, has the last
    word: exact ranges of code, and modules that were loaded since.
    """
    structures = structures_of(target, kernel)
    facts = {"preemption": preemption(kernel)}
    knows_itself = False
    try:
        loaded = modules_of(target, structures)
        names = symbols_of(target, structures, loaded)
        knows_itself = is_whole = True
        modules = [_module(target, structures, each, names[each.name]) for each in loaded]
        facts["loaded modules"] = _summary(loaded)
    except (SymbolError, FormatError, TargetError) as error:
        modules, is_whole = [*listed], bool(listed)
        facts["loaded modules"] = f"not known from the kernel itself: {error}"
    structures.save()
    code = (kernel.code or Ranges()) | Ranges.of(span for module in modules for span in module.code or ())
    hooks = tuple(claims_on_hooks(target, code))
    own = kernel.claims
    whole = replace(kernel, claims=lambda: (*own(), *hooks), shares_code=knows_itself)
    return Told((whole, *modules), facts, is_whole)


def structures_of(target: Target, kernel: Module) -> Structures:
    """The structures of a running kernel with these names. Reads nothing before the first question."""
    names = kernel.symbols

    def load() -> bytes:
        at = None
        with suppress(SymbolError):
            at = names["__start_BTF"], names["__stop_BTF"]
        # Read-only data lies behind the text (arch/arm64/kernel/vmlinux.lds.S).
        start = names["_etext"]
        end = start + _MOST_KERNEL
        with suppress(SymbolError):
            end = min(end, names["__init_begin"])
        return load_btf(target, start, end, at)

    return Structures(load, kernel.build_id)


def preemption(kernel: Module) -> str:
    """Whether a task of the kernel may lose its CPU between any two instructions."""
    if kernel.symbols.named(_PREEMPTIBLE):
        return "yes: a task may lose its CPU between any two instructions of the kernel"
    return "no: a task of the kernel keeps its CPU until it sleeps"


def _summary(loaded: Sequence[Loaded]) -> str:
    unsettled = [f"{each.name} is {each.state.value}" for each in loaded if each.state is not State.LIVE]
    return ", ".join([counted(len(loaded), "module"), *unsettled])


def _module(target: Target, structures: Structures, loaded: Loaded, names: Sequence[Symbol]) -> Module:
    code = loaded.text | loaded.init

    def claims() -> Iterator[Claim]:
        if loaded.state is not State.LIVE:
            yield Claim(UNSETTLED, code, f"is in module {loaded.name}, which is {loaded.state.value}", of_build=True)
        yield from claims_on_loaded(View(target, structures), loaded, code)

    return Module(
        loaded.name, SymbolTable(lambda: names), loaded.build_id, code=code or None, claims=claims, shares_code=True
    )

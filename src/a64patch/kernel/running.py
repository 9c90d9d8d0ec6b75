"""What a running kernel tells about itself to those who can read its memory: its modules, and how it may preempt.

Nothing here is needed to name the kernel's functions: what a kernel does not tell becomes a sentence for the user.
Read on: symbols.py asks here; loaded.py reads the list of modules, hooks.py and rewrites.py the words that change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

from a64patch.errors import CapabilityError, FormatError, SymbolError, TargetError
from a64patch.kernel import alternatives, blacklist
from a64patch.kernel.executable import executable
from a64patch.kernel.hooks import claims_on_hooks
from a64patch.kernel.loaded import NEEDED, Loaded, State, modules_of, symbols_of, tainted_by
from a64patch.kernel.rewrites import HAZARD, Looked, claims_on_loaded, looked_at
from a64patch.kernel.structures import Structures, View, load_btf
from a64patch.kernel.tasks import tasks_of
from a64patch.oneline import counted
from a64patch.ranges import Ranges
from a64patch.targets.base import Others, Target
from a64patch.targets.modules import Claim, Module
from a64patch.targets.symbols import Symbol, SymbolTable

UNSETTLED = "module-unsettled"
"""The hazard of code in a module that is being loaded or unloaded."""
TWICE = "second-address"
"""The hazard of code that CPUs execute at another address as well."""
MADE = "made at run time"
"""The module of executable memory that belongs to no build: of BPF, kprobes and ftrace, and trampolines."""
_PREEMPTIBLE = "preempt_schedule"
"""A kernel has this function if and only if CONFIG_PREEMPTION is set (kernel/sched/core.c)."""
_NEEDED = NEEDED | {_PREEMPTIBLE, "_etext", "__init_begin", "__start_BTF", "__stop_BTF"}
"""The only names that are looked up here: a table of all names of a kernel takes a moment to build."""
_MOST_KERNEL = 1 << 27


class Told(NamedTuple):
    """What a kernel tells."""

    modules: tuple[Module, ...]
    """Of the kernel itself, of each loaded module, and of code that was made at run time."""
    facts: dict[str, str | Callable[[], str]]
    """As `Target.knowing` takes them."""
    tasks: Others
    """The tasks; they say themselves when they cannot be seen."""
    may_write: Ranges | None
    """The code of the kernel and its modules; None unless all modules are known."""


def tell(
    target: Target, kernel: Module, listed: Sequence[Module] = (), *, in_file: Callable[[], bool] = lambda: True
) -> Told:
    """Ask the running kernel in a target, whose names are known already. Only reads memory.

    `listed` are modules that a saved /proc/kallsyms names. The kernel's own list, where it can be read, has the last
    word: exact ranges of code, and modules that were loaded since. A claim of `kernel` on alternatives
    is from a file of it; `in_file` tells whether the file has their table.
    """
    few = [symbol for symbol in kernel.symbols.load() if symbol.name in _NEEDED]
    names = SymbolTable(lambda: few)
    structures = structures_of(target, names, kernel.build_id)
    facts: dict[str, str | Callable[[], str]] = {"preemption": preemption(names)}
    knows_itself = False
    try:
        loaded = modules_of(target, structures, names)
        own_names = symbols_of(target, structures, loaded)
        knows_itself = is_whole = True
        modules = [_module(target, structures, each, own_names[each.name]) for each in loaded]
        facts["loaded modules"] = _summary(loaded)
    except (SymbolError, FormatError, TargetError) as error:
        modules, is_whole = [_without_tables(each) for each in listed], bool(listed)
        facts["loaded modules"] = f"not known from the kernel itself: {error}"
    structures.save()
    known = (kernel.code or Ranges()) | Ranges.of(span for module in modules for span in module.code or ())
    others, facts["executable memory"], second = _mapped(target, kernel, known)
    unprobed = blacklist.claim_on_running(target, structures, kernel.symbols, known)
    claims = [*claims_on_hooks(target, known), unprobed, *second]
    own = kernel.claims
    whole = replace(kernel, claims=lambda: (*own(), *claims), shares_code=knows_itself)
    loads = knows_itself and bool(modules)

    @cache
    def rows() -> dict[str, str]:
        looked = _looked(target, structures, kernel, in_file, loads=loads)
        structures.save()
        return looked.rows()

    facts |= {name: partial(lambda row: rows()[row], name) for name in Looked([], []).rows()}
    note = f"every task of the kernel is kept out as CPUs are (preemption: {facts['preemption']})"
    tasks = tasks_of(target, structures, kernel.symbols, note)
    return Told((whole, *modules, *others), facts, tasks, known if is_whole else None)


def _looked(
    target: Target, structures: Structures, kernel: Module, in_file: Callable[[], bool], *, loads: bool
) -> Looked:
    """What is known of the words in the tables of the kernel, and of its modules if it `loads` some."""
    claims = [claim for claim in kernel.claims() if claim.table != alternatives.SECTION or in_file()]
    found, missing = looked_at(claims, running=True)
    if loads and not structures.has("module.sect_attrs"):
        missing.append("alternatives of modules: the kernel does not tell where their tables are")
    try:
        blacklist.listed(target, structures, kernel.symbols)
        found.append(blacklist.ABOUT)
    except (SymbolError, TargetError):
        missing.append(blacklist.WITHOUT)
    return Looked([*found, "ftrace and kprobes (seen in the code)"], missing)


def _mapped(target: Target, kernel: Module, known: Ranges) -> tuple[tuple[Module, ...], str, list[Claim]]:
    """What the kernel's translation tables say beside its names: more code, a sentence, and claims on known code."""
    try:
        mappings = executable(target)
    except (CapabilityError, TargetError) as error:
        return (), f"not known from the translation tables: {error}", []
    mapped = Ranges.of((each.start, each.end) for each in mappings)
    # With KPTI, 5.10 maps its text from _text on, 64 KiB before _stext.
    begin = kernel.code.spans[0][0] if kernel.code else -1
    text = next((each for each in mappings if each.start <= begin < each.end), None)
    more = mapped - known
    twice = Ranges.of(
        (start, min(start + each.end - each.start, text.end))
        for each in mappings
        if text is not None and each is not text and each.start not in known
        and text.start <= (start := text.start + each.physical - text.physical) < text.end
    )  # fmt: skip
    claims = [Claim(TWICE, twice, "is executed at a second address too, where nobody looks for CPUs")] if twice else []
    made = Claim(HAZARD, more, "is in code that the kernel made at run time, or has at a second address")
    modules = (Module(MADE, code=more, claims=lambda: (made,), shares_code=True),) if more else ()
    missing = (known - mapped).size
    differs = f"; {counted(missing, 'byte')} of code by names are not executable" if missing else ""
    writable = sum(each.writable for each in mappings)
    rights = f", {writable} of them writable" if writable else ", none of them writable"
    return modules, f"{counted(len(mappings), 'range')}{rights}{differs}", claims


def structures_of(target: Target, names: SymbolTable, build_id: str) -> Structures:
    """The structures of a running kernel with these names. Reads nothing before the first question."""

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

    return Structures(load, build_id)


def preemption(names: SymbolTable) -> str:
    """Whether a task of the kernel may lose its CPU between any two instructions."""
    if names.named(_PREEMPTIBLE):
        return "yes: a task may lose its CPU between any two instructions of the kernel"
    return "no: a task of the kernel keeps its CPU until it sleeps"


def _summary(loaded: Sequence[Loaded]) -> str:
    unsettled = [f"{each.name} is {each.state.value}" for each in loaded if each.state is not State.LIVE]
    taints = [f"{each.name} taints the kernel ({', '.join(tainted_by(each))})" for each in loaded if each.taints]
    return ", ".join([counted(len(loaded), "module"), *unsettled, *taints])


def _without_tables(listed: Module) -> Module:
    """A module of which only names are known: any of its words may be a site of a static key, or one that may fault."""
    said = f"may be listed in a table of module {listed.name}: the kernel does not tell where its tables are"
    claim = Claim(HAZARD, listed.code or Ranges(), said, of_build=True)
    return replace(listed, claims=lambda: (claim,))


def _module(target: Target, structures: Structures, loaded: Loaded, names: Sequence[Symbol]) -> Module:
    code = loaded.text | loaded.init

    def claims() -> Iterator[Claim]:
        if loaded.state is not State.LIVE:
            yield Claim(UNSETTLED, code, f"is in module {loaded.name}, which is {loaded.state.value}", of_build=True)
        yield from claims_on_loaded(View(target, structures), loaded, code)
        structures.save()

    return Module(
        loaded.name, SymbolTable(lambda: names), loaded.build_id, code=code or None, claims=claims, shares_code=True
    )

"""List the static keys of a Linux kernel or module, look at one, or switch it with all the words that it decides.

Read on: ../kernel/static_keys.py finds the keys, ../kernel/switching.py makes the plan of a switch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from a64patch.cli import patching
from a64patch.cli.output import say
from a64patch.cli.table import print_table
from a64patch.cli.targets import add_target_arguments, open_named_target
from a64patch.cli.text import print_json
from a64patch.errors import BusyError, MismatchError, RequestError

if TYPE_CHECKING:
    from a64patch.kernel.static_keys import Key, Site
    from a64patch.kernel.structures import Structures
    from a64patch.targets.base import Target

EPILOG = """\
KEY is a name from the list, such as __tracepoint_sched_switch+0x8, module:NAME, or an address.
A word is as predicted when it is a branch, or a NOP, as the state of its key asks for. In a file this is the state at
first. Exit status 1 when some word is not.
--on and --off switch a key of a running kernel: its counter and all its words change in one stop. `a64patch revert`
undoes this. They are refused while the kernel itself switches a key, or when several users have switched the key on.
examples:
  a64patch keys vmlinuz
  a64patch keys ext4.ko __tracepoint_ext4_sync_fs+0x8
  a64patch keys gdb://localhost:1234 --symbols kallsyms
  a64patch keys gdb://localhost:1234 sched_schedstats --symbols kallsyms --on"""

_TRIES = 5
_PAUSE = 0.1
"""Seconds between two tries to switch a key."""
_MANY = 8
"""At most this many words that differ are named on stderr."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """TARGET [KEY] [--on|--off]."""
    add_target_arguments(parser)
    parser.add_argument("key", metavar="KEY", nargs="?", help="the key: a name from the list, or an address")
    new = parser.add_mutually_exclusive_group()
    new.add_argument("--on", dest="new", action="store_true", default=None, help="switch the key on (running kernel)")
    new.add_argument("--off", dest="new", action="store_false", help="switch the key off (running kernel)")
    parser.add_argument("-n", "--dry-run", action="store_true", help="show the plan of the switch, and change nothing")
    parser.add_argument(
        "--accept", metavar="HAZARD", action="append", default=["kernel-rewrites", "kprobe-blacklist"],
        help="switch in spite of a hazard of this name; kernel-rewrites and kprobe-blacklist are accepted: the kernel"
        " itself switches these words",
    )  # fmt: skip
    patching.add_journal(parser)
    parser.set_defaults(sync="auto", retry=0.0, drop_relocations=False, prove=False)


def run(arguments: argparse.Namespace) -> int:
    """Print the keys, or switch one."""
    if arguments.new is None and arguments.dry_run:
        raise RequestError("--dry-run goes with --on or --off")
    if arguments.new is not None and arguments.key is None:
        raise RequestError("--on and --off need a KEY")
    with open_named_target(arguments) as target:
        if arguments.new is not None:
            return _switch(target, arguments)
        keys = _keys(target)
        if arguments.key is not None:
            from a64patch.kernel.static_keys import find_key

            keys = [find_key(keys, arguments.key, target.symbols)]
        differing = [(key, site) for key in keys for site in key.differing]
        if arguments.json:
            identity = target.identity()
            print_json({
                "location": identity.location,
                "release": identity.release,
                "build_id": identity.build_id,
                "keys": [_facts(target, key) for key in keys],
                "differing": len(differing),
            })  # fmt: skip
        elif arguments.key is not None:
            _print_key(target, keys[0])
        else:
            _print_keys(target, keys)
        for key, site in differing[:_MANY]:
            say(f"{target.symbols.describe(site.address)} is not as static key {key.name} asks for: {_both(site)}")
        if len(differing) > _MANY:
            say(f"{len(differing) - _MANY} more words are not as their keys ask for")
    return 1 if differing else 0


def _both(site: Site) -> str:
    return f"it holds {site.found:08x}, not {site.predicted:08x}"


def _loaded(target: Target) -> tuple[list[tuple[str, int]], Structures | None]:
    """The loaded modules of a running kernel, for `read_keys`; none for a file."""
    from a64patch.kernel.loaded import modules_of
    from a64patch.kernel.running import structures_of
    from a64patch.targets.file import FileTarget

    if isinstance(target, FileTarget):
        return [], None
    kernel = target.modules.main
    structures = structures_of(target, kernel.symbols, kernel.build_id)
    return [(module.name, module.at) for module in modules_of(target, structures)], structures


def _keys(target: Target) -> list[Key]:
    from a64patch.kernel.static_keys import read_keys

    modules, structures = _loaded(target)
    keys = read_keys(target, modules, structures)
    if structures is not None:
        structures.save()
    return keys


def _switch(target: Target, arguments: argparse.Namespace) -> int:
    """Switch a key. Try again for a moment while the kernel switches keys itself."""
    from a64patch.kernel.static_keys import find_key, read_keys
    from a64patch.kernel.switching import plan_switch

    only: int | None = None
    for tries in range(1, _TRIES + 1):
        modules, structures = _loaded(target)
        if structures is None:
            raise RequestError("--on and --off are for a running kernel: a file has no counters that count")
        keys = read_keys(target, modules, structures, only=only)
        key = find_key(keys, arguments.key if only is None else f"{only:#x}", target.symbols)
        only = key.address
        try:
            plan = plan_switch(target, structures, key, on=arguments.new, modules=dict(modules))
            structures.save()
            return patching.carry_out(plan, target, arguments, done=f"{key.name} is {'on' if arguments.new else 'off'}")
        except (BusyError, MismatchError) as error:
            if tries == _TRIES:
                raise BusyError(f"static key {key.name} was not switched in {_TRIES} tries: {error}") from error
        time.sleep(_PAUSE)
    raise AssertionError("unreachable")


def _print_keys(target: Target, keys: Sequence[Key]) -> None:
    """A line for each key, and one for all."""
    rows = []
    for key in keys:
        where = target.symbols.describe(key.sites[0].address)
        rows.append((key.name, *_states(key), str(len(key.sites)), _as_predicted(key.sites), where))
    sites = [site for key in keys for site in key.sites]
    print_table(rows, ("key", "state", "at first", "sites", "as predicted", "first site"))
    print(f"{len(keys)} keys, {len(sites)} sites: {_summary(sites)}")


def _states(key: Key) -> tuple[str, str]:
    count = f" ({key.enabled})" if key.enabled is not None and key.enabled > 1 else ""
    first = {True: "on", False: "off", None: "unknown"}[key.initially]
    return key.state + count, first


def _as_predicted(sites: Sequence[Site]) -> str:
    known = [site for site in sites if site.known]
    right = sum(not site.differs for site in known)
    return "all" if right == len(sites) else f"{right} of {len(known)}"


def _summary(sites: Sequence[Site]) -> str:
    differing = sum(site.differs for site in sites)
    freed = sum(site.init and site.found is None for site in sites)
    other = sum(not site.known for site in sites) - freed
    parts = [f"{sum(site.known for site in sites) - differing} as predicted", f"{differing} not"]
    if freed:
        parts.append(f"{freed} in freed code")
    if other:
        parts.append(f"{other} of keys or words that are not known")
    return ", ".join(parts)


def _print_key(target: Target, key: Key) -> None:
    """The key, and a line for each site."""
    state, first = _states(key)
    print(f"{key.name}: {state}, at first {first}")
    rows = []
    for site in key.sites:
        word, text = ("", "") if site.found is None else (f"{site.found:08x}", _text(target, site))
        rows.append((f"{site.address:#x}", target.symbols.describe(site.address), word, text, _verdict(site)))
    print_table(rows)
    print(f"{len(key.sites)} sites: {_summary(key.sites)}")


def _verdict(site: Site) -> str:
    if not site.known:
        return "in freed code" if site.init and site.found is None else "not known"
    return "not as predicted" if site.differs else "as predicted"


def _text(target: Target, site: Site) -> str:
    from a64patch.a64.disassembler import disassemble

    return "" if site.found is None else disassemble(site.found, site.address, target.symbols)


def _facts(target: Target, key: Key) -> dict[str, Any]:
    """A key for JSON."""
    return {
        "name": key.name,
        "key_address": None if key.address is None else f"{key.address:#x}",
        "key_state": key.state,
        "enabled": key.enabled,
        "initially": key.initially,
        "linked": key.linked,
        "key_sites": [
            {
                "address": f"{site.address:#x}",
                "site": target.symbols.describe(site.address),
                "module": site.module,
                "init": site.init,
                "found": None if site.found is None else f"{site.found:08x}",
                "text": _text(target, site),
                "predicted_word": None if site.predicted is None else f"{site.predicted:08x}",
                "predicted": not site.differs if site.known else None,
            }
            for site in key.sites
        ],
    }

"""TARGET on the command line: how it is written, which options it takes, and how it is opened.

Read on: show.py, poke.py; ../kernel/open.py picks what is opened.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from a64patch.errors import RequestError

if TYPE_CHECKING:
    from a64patch.targets.base import Target

HELP = (
    "path of an ELF file or a raw Image, gdb://HOST:PORT, gdb+unix:PATH, gdb+serial:DEVICE, or sim:PATH?cpus=4&seed=1"
)


def add_target_arguments(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """TARGET and its options."""
    parser.add_argument("target", metavar="TARGET", nargs="?" if optional else None, help=HELP)
    add_target_options(parser)


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """--remote and --symbols."""
    parser.add_argument(
        "--remote", action="store_true",
        help="the GDB stub may be on another machine: the network is trusted, since the protocol has no authentication",
    )  # fmt: skip
    parser.add_argument(
        "--symbols",
        metavar="FILE",
        help="names for a GDB stub's target: an ELF file, vmlinux, Image, System.map or saved /proc/kallsyms, or"
        " `kallsyms` for the tables in the memory of the Linux kernel that runs there",
    )


def open_named_target(arguments: argparse.Namespace, **options: Any) -> Target:
    """The target that the arguments name; RequestError when an option is for targets of another kind."""
    return open_location(arguments.target, arguments, **options)


def open_location(location: str, arguments: argparse.Namespace, **options: Any) -> Target:
    """The target at a location, opened with the arguments' options; else as `open_named_target`."""
    from a64patch.kernel.open import open_target

    given = {name: value for name in ("remote", "symbols") if (value := getattr(arguments, name))}
    if given:
        from a64patch.targets.wire import is_location

        if not is_location(location):
            raise RequestError(f"--{next(iter(given))} is for GDB stubs only, and {location} is none")
    return open_target(location, **given, **options)

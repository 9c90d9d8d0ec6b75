"""TARGET on the command line: its forms, its options, and how it is opened.

Read on: show.py, poke.py; ../openers.py for all kinds of targets.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from a64patch.openers import open_target, source_forms, target_forms

if TYPE_CHECKING:
    from a64patch.targets.base import Target


def add_target_arguments(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """TARGET and its options."""
    parser.add_argument("target", metavar="TARGET", nargs="?" if optional else None, help=target_forms())
    add_target_options(parser)


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """--remote, --symbols and --cave."""
    parser.add_argument(
        "--remote", action="store_true",
        help="the GDB stub may be on another machine: the network is trusted, since the protocol has no authentication",
    )  # fmt: skip
    parser.add_argument(
        "--symbols",
        metavar="FILE",
        help=f"source of names that the target does not have itself: {source_forms()}",
    )
    parser.add_argument(
        "--cave", dest="caves", action="append", metavar="SITE:SIZE",
        help="padding in the code behind a GDB stub, of so many bytes, where new code may lie; may be repeated",
    )  # fmt: skip


def open_named_target(arguments: argparse.Namespace, **options: Any) -> Target:
    """The target that the arguments name; RequestError when an option is for targets of another kind."""
    return open_location(arguments.target, arguments, **options)


def open_location(location: str, arguments: argparse.Namespace, **options: Any) -> Target:
    """The target at a location, opened with the arguments' options; else as `open_named_target`."""
    given = {name: value for name in ("remote", "symbols", "caves") if (value := getattr(arguments, name))}
    return open_target(location, **given, **options)

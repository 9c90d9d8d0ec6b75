"""List the words that ftrace has in a kernel's functions: a NOP, or a call while somebody traces the function.

Read on: ../kernel/hooks.py.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from a64patch.cli.table import print_table
from a64patch.cli.targets import add_target_arguments, open_named_target
from a64patch.cli.text import print_json
from a64patch.errors import SymbolError

if TYPE_CHECKING:
    from a64patch.kernel.hooks import Hook
    from a64patch.targets.base import Target

EPILOG = """\
A patch of such a word has the hazard kernel-rewrites. Nothing is written there without --accept kernel-rewrites.
examples:
  a64patch ftrace gdb+unix:stub --symbols kallsyms --traced
  a64patch ftrace gdb+unix:stub vfs_read --symbols kallsyms
  a64patch ftrace ext4.ko
Exit status 0; 1 when the function has no such words."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """TARGET [FUNC] [--traced]."""
    add_target_arguments(parser)
    parser.add_argument("function", metavar="FUNC", nargs="?", help="one function only: symbol or module:symbol")
    parser.add_argument("--traced", action="store_true", help="only functions that somebody traces now")


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each function that ftrace can trace."""
    from a64patch.kernel.hooks import hooks_of, listed_hooks, running_hooks

    with open_named_target(arguments) as target:
        runs = bool(target.capabilities.cpus)
        if not any(symbol.is_function for symbol in target.symbols.ascending()):
            raise SymbolError(f"{target.location} has no names of functions here: give --symbols")
        if arguments.function is None:
            hooks = [*(running_hooks(target) if runs else listed_hooks(target))]
        else:
            start = target.symbols.resolve(arguments.function)
            hooks = [*(hooks_of(target, [start]) if runs else listed_hooks(target))]
            hooks = [hook for hook in hooks if hook.start == start]
        if arguments.traced:
            hooks = [hook for hook in hooks if hook.called is not None]
        _print(target, hooks, as_json=arguments.json)
    return 0 if hooks or arguments.function is None else 1


def _print(target: Target, hooks: list[Hook], *, as_json: bool) -> None:
    from a64patch.a64.disassembler import disassemble

    describe = target.symbols.describe
    lines = [
        {
            "site": describe(hook.start),
            "address": f"{hook.at:#x}",
            "word": f"{hook.word:08x}",
            "text": disassemble(hook.word, hook.at, target.symbols),
            "traced": hook.called is not None,
        }
        for hook in hooks
    ]
    if as_json:
        print_json(lines)
        return
    print_table([(line["address"], line["site"], f"{line['word']}  {line['text']}") for line in lines])  # type: ignore[misc]
    traced = sum(hook.called is not None for hook in hooks)
    print(f"functions that ftrace can trace: {len(hooks)}, traced now: {traced}")

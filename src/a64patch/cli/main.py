"""`a64patch`: finds the command, runs it, and turns errors into one sentence and an exit status.

This room alone prints.
Read on: one file a command: show.py, apply.py, ….
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Iterable, Sequence

from a64patch import errors
from a64patch.version import VERSION

DONE, REFUSED, WRONG, HALF_WAY = 0, 1, 2, 3
"""Exit statuses: done; refused or `no`, and nothing was changed; wrong usage or unreadable input; cut off half way."""

COMMANDS = {
    "show": "disassemble code of a target, with symbols, marking what may be hot-patched",
    "poke": "change a few instructions of a target, typed by hand",
    "diff": "an assembly diff between two builds",
    "fmt": "print a patch with its words and texts filled in, operands aligned",
    "apply": "apply an assembly diff to a target: all of its hunks, or nothing",
    "status": "say of each hunk whether it is applied, not applied, or neither",
    "log": "list the patches in the journal",
    "revert": "undo a patch, by its number in the log",
    "recover": "clean up after patches that a crash cut off",
    "asm": "instructions to words",
    "disasm": "words to instructions",
    "check": "may this word change race with execution? and why",
    "prove": "what may a CPU execute while a patch is carried out? SAFE, or how it goes wrong",
    "litmus": "does Arm's memory model allow what a litmus test asks?",
    "demo": "what goes wrong when code is changed under executing CPUs, and what does not",
}

_COLLECTED_AFTER = 100_000
"""New objects before Python looks for cycles. Nearly all objects of a command stay until its end, without a cycle."""

_WRITERS = ("poke", "apply", "revert", "recover")

EPILOG = """\
TARGET: {targets}.
SITE is symbol, symbol+0x18, section:0x10 (in a relocatable file) or an address.
Exit status: 0 done; 1 refused, or the answer is no: nothing was changed; 2 wrong usage or unreadable input;
3 cut off half way and not undone. A64PATCH_DEBUG=1 shows where an error came from."""

_REFUSALS = (
    errors.BusyError,
    errors.CapabilityError,
    errors.JournalError,
    errors.MismatchError,
    errors.PlanError,
    errors.RelocationError,
    errors.ScopeError,
    errors.WriteError,
)


def _parser(names: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of these commands. Loads the file of each."""
    from a64patch.openers import target_forms

    parser = argparse.ArgumentParser(
        prog="a64patch",
        description="patch(1) for AArch64 machine code, wherever it is.",
        epilog=EPILOG.format(targets=target_forms()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"a64patch {VERSION}")
    commands = parser.add_subparsers(prog="a64patch", dest="command", metavar="COMMAND", required=True)
    for name in names:
        module = importlib.import_module(f"a64patch.cli.{name}")
        command = commands.add_parser(
            name,
            help=COMMANDS[name],
            description=(module.__doc__ or "").split("\n\n")[0],
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--json", action="store_true", help="print the facts as JSON instead of text")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def exit_status(error: Exception) -> int:
    """The exit status for an error."""
    if isinstance(error, errors.PartialPatchError) or (isinstance(error, errors.JournalError) and error.target_changed):
        return HALF_WAY
    return REFUSED if isinstance(error, _REFUSALS) else WRONG


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. An error is one sentence on stderr; no traceback reaches a user."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) == ["--version"]:
        print(f"a64patch {VERSION}")
        return DONE
    gc.set_threshold(_COLLECTED_AFTER)
    parsed = argparse.Namespace(command=None)
    try:
        # Load one command if the first argument names it. Otherwise the help or the error lists all commands.
        _parser(arguments[:1] if arguments[:1] and arguments[0] in COMMANDS else COMMANDS).parse_args(arguments, parsed)
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output has closed it: keep Python from an error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return _interrupted(parsed)
    except Exception as error:
        if os.environ.get("A64PATCH_DEBUG"):
            raise
        return _report(error)
    return status


def _interrupted(parsed: argparse.Namespace) -> int:
    """Say after Ctrl-C whether the target was changed: by the journal, or by the outcome if the command had ended."""
    if parsed.command not in _WRITERS:
        print("a64patch: interrupted", file=sys.stderr)
        return WRONG
    if getattr(parsed, "outcome", None) is not None:
        print("a64patch: interrupted, but everything was done: `a64patch log` shows it", file=sys.stderr)
        return DONE
    from a64patch.patch.journal import EntryState, Journal

    try:
        with Journal(parsed.journal) as journal:
            unfinished = journal.entries(EntryState.OPEN, EntryState.PARTIAL)
    except errors.A64PatchError as error:
        print(f"a64patch: interrupted, and the journal cannot say what was changed: {error}", file=sys.stderr)
        return HALF_WAY
    if unfinished:
        numbers = ", ".join(str(entry.id) for entry in unfinished)
        print(f"a64patch: interrupted; journal entry {numbers} is cut off: run `a64patch recover`", file=sys.stderr)
        return HALF_WAY
    if parsed.command == "recover":
        print("a64patch: interrupted, but nothing is cut off any more", file=sys.stderr)
        return DONE
    print("a64patch: interrupted; nothing was changed", file=sys.stderr)
    return REFUSED


def _report(error: Exception) -> int:
    if isinstance(error, errors.A64PatchError):
        print(f"a64patch: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(f"a64patch: {note}", file=sys.stderr)
        return exit_status(error)
    print(
        f"a64patch: a defect of a64patch itself, please report it: {type(error).__name__}: {error}"
        " (A64PATCH_DEBUG=1 shows where)",
        file=sys.stderr,
    )
    return WRONG

"""`a64patch`: finds the command, runs it, and turns errors into one sentence and an exit status.

This room alone prints.
Read on: one file a command: show.py, apply.py, ….
"""

from __future__ import annotations

import argparse
import gc
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from typing import Any, NoReturn

from a64patch import errors
from a64patch.cli.output import Output, ReaderGoneError, say
from a64patch.version import VERSION

DONE, REFUSED, WRONG, HALF_WAY, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit statuses. EPILOG says what they mean."""

COMMANDS = {
    "show": "disassemble code of a target, with symbols, marking what may be hot-patched",
    "poke": "change a few instructions of a target, typed by hand",
    "diff": "an assembly diff between two builds",
    "link": "a patch that replaces functions of a target by functions of an object file",
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
    "keys": "list the static keys of a kernel, look at one, or switch it with all the words that it decides",
    "ftrace": "list the words that ftrace has in a kernel's functions, and whether it calls there now",
    "demo": "what goes wrong when code is changed under executing CPUs, and what does not",
}

_COLLECTED_AFTER = 100_000
"""New objects before Python looks for cycles. Nearly all objects of a command stay until its end, without a cycle."""

_WRITERS = ("poke", "apply", "revert", "recover")
_STREAMS = ("show", "asm", "disasm", "demo")
"""Commands that print as they go, perhaps without end: they stop when nobody reads on."""
_PRODUCTS = (*_STREAMS, "diff", "link", "fmt", "log")
"""Commands that have done nothing if they could not print."""
_PATCHES = ("diff", "link", "fmt")
"""Commands that print a patch: it is UTF-8, whatever the terminal shows."""

EPILOG = """\
TARGET: {targets}.
SITE is symbol, symbol+0x18, file.c:symbol, section:0x10 (in a relocatable file) or an address. A name with other
characters is in double quotes: '"main.(*T).Run"+8' in a shell.
Exit status: 0 done; 1 refused, or the answer is no: nothing was changed; 2 wrong usage or unreadable input;
3 cut off half way and not undone; 130 interrupted, and nothing was changed.
A64PATCH_DEBUG=1 shows where an error came from."""

_REFUSALS = (
    errors.BusyError,
    errors.CapabilityError,
    errors.JournalError,
    errors.LinkError,
    errors.MismatchError,
    errors.PlanError,
    errors.RelocationError,
    errors.ScopeError,
    errors.WriteError,
)


class UsageError(Exception):
    """The arguments are wrong. Only JSON names this: the parser prints the usage and ends."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors show the usage and, where a word is nearly right, the right one."""

    as_json = False
    """Print the error as JSON too."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, and end with status 2."""
        from difflib import get_close_matches

        wrong = re.search("(?:unrecognized arguments:|invalid choice:) '?([^' ]+)", message)
        known = COMMANDS if wrong and not wrong[1].startswith("-") else self._option_string_actions
        meant = get_close_matches(wrong[1].partition("=")[0], known, 1, 0.75) if wrong else []
        message = f"{message}; did you mean {meant[0]}?" if meant else message
        if self.as_json:
            _print_document("", UsageError(message), WRONG, {})
        super().error(message)


def _parser() -> _Parser:
    """The parser of the first argument: a command, or an option that needs none."""
    from a64patch.openers import target_forms

    parser = _Parser(
        prog="a64patch",
        description="patch(1) for AArch64 machine code, wherever it is.",
        epilog=EPILOG.format(targets=target_forms()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"a64patch {VERSION}")
    commands = parser.add_subparsers(prog="a64patch", dest="command", metavar="COMMAND", required=True)
    for name, purpose in COMMANDS.items():
        commands.add_parser(name, help=purpose)
    return parser


def _command_parser(name: str) -> _Parser:
    """The parser of the arguments of a command. Loads the file of the command."""
    module = importlib.import_module(f"a64patch.cli.{name}")
    parser = _Parser(
        prog=f"a64patch {name}",
        description=(module.__doc__ or "").split("\n\n")[0],
        epilog=module.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the facts as JSON instead of text")
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
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
    command = arguments[0] if arguments else ""
    parsed = argparse.Namespace(command=None, outcome=None, book=None, facts={})
    given = sys.stdout
    if given is not None and not hasattr(given, "buffer"):
        # A Python program collects the text in memory: printing there does not fail.
        return _status(arguments, parsed)
    output = Output(given, encoding="utf-8" if command in _PATCHES else None, ends=command in _STREAMS)
    sys.stdout = output
    try:
        status = _status(arguments, parsed)
    finally:
        # Also for argparse, which ends with SystemExit.
        sys.stdout = given
        with suppress(ReaderGoneError):
            output.flush()
    failure = output.failure
    if failure is None or isinstance(failure, BrokenPipeError):
        return status
    say(f"cannot print: {failure.strerror}; {_done(parsed)}")
    return WRONG if status == DONE and command in _PRODUCTS else status


def _status(arguments: Sequence[str], parsed: argparse.Namespace) -> int:
    """Run the command. The outcome decides the exit status; printing does not."""
    # argparse takes the shorter forms too.
    document = io.StringIO()
    """The JSON, held back until nothing can fail any more: there is one document only."""
    as_json = any(len(word) > 3 and "--json".startswith(word) for word in arguments)
    try:
        if not arguments or arguments[0] not in COMMANDS:
            parser = _parser()
            parser.as_json = as_json
            parser.parse_args(arguments)
        parsed.command = arguments[0]
        parser = _command_parser(arguments[0])
        parser.as_json = as_json
        # Options may stand anywhere.
        parser.parse_intermixed_args(arguments[1:], parsed)
        with redirect_stdout(document) if as_json else nullcontext():
            status: int = parsed.run(parsed)
        sys.stdout.write(document.getvalue())
        sys.stdout.flush()
    except ReaderGoneError:
        return DONE
    except KeyboardInterrupt:
        # Whoever presses Ctrl-C again still learns what was changed.
        with suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        status, sentence = _interrupted(parsed)
        say(sentence)
        if as_json:
            _print_document(document.getvalue() if status == DONE else "", KeyboardInterrupt(sentence), status, {})
        return status
    except Exception as error:
        if os.environ.get("A64PATCH_DEBUG"):
            raise
        status = _report(error)
        if parsed.outcome is not None:
            say(_done(parsed))
            status = DONE
        if as_json:
            # After a patch that failed half way, or was done, the plan is not the state of the target.
            facts = parsed.facts if status in (REFUSED, WRONG) else {}
            _print_document(document.getvalue() if status == DONE else "", error, status, facts)
    return status


def _print_document(document: str, error: BaseException, status: int, facts: dict[str, Any]) -> None:
    """Print the JSON document of a command; an empty one becomes an error, behind the facts found out before."""
    from a64patch.cli.text import failure_of, print_json

    if document:
        sys.stdout.write(document)
    else:
        print_json({**facts, "error": failure_of(error, status)})


def _done(parsed: argparse.Namespace) -> str:
    """What a command has changed that ended in an error of its output."""
    if parsed.book is None or parsed.command not in _WRITERS:
        return "nothing was changed"
    if parsed.outcome is None:
        return f"`{parsed.book.command('log')}` shows what was done"
    entry = parsed.outcome.entry
    return f"everything was done before: `{parsed.book.command('log', str(entry))}` shows it"


def _interrupted(parsed: argparse.Namespace) -> tuple[int, str]:
    """The exit status after Ctrl-C, and a sentence about the target. The journal knows, whatever had been printed."""
    if parsed.command not in _WRITERS:
        return INTERRUPTED, "interrupted"
    if parsed.book is None:
        return INTERRUPTED, "interrupted; nothing was changed"
    from a64patch.patch.journal import EntryState, Journal

    unfinished = {EntryState.OPEN, EntryState.PARTIAL}
    try:
        with Journal(parsed.book.path) as journal:
            found = journal.entries(*unfinished) if parsed.command == "recover" else journal.begun_by(parsed.book)
    except errors.A64PatchError as error:
        return HALF_WAY, f"interrupted, and the journal cannot say what was changed: {error}"
    numbers = ", ".join(str(entry.id) for entry in found if entry.state in unfinished)
    if numbers:
        return HALF_WAY, f"interrupted; journal entry {numbers} is cut off: run `{parsed.book.command('recover')}`"
    if parsed.command == "recover":
        return DONE, "interrupted, but nothing is cut off any more"
    done = [entry for entry in found if entry.state is not EntryState.UNDONE]
    if done:
        log = parsed.book.command("log", str(done[-1].id))
        return DONE, f"interrupted, but everything was done: `{log}` shows it"
    return INTERRUPTED, "interrupted; nothing was changed"


def _report(error: Exception) -> int:
    if isinstance(error, errors.A64PatchError):
        for sentence in (str(error), *getattr(error, "__notes__", ())):
            say(sentence)
        return exit_status(error)
    say(
        f"a defect of a64patch itself, please report it: {type(error).__name__}: {error} (A64PATCH_DEBUG=1 shows where)"
    )
    return WRONG

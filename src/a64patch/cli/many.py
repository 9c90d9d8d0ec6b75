"""`exe:PATH` on the command line: one patch for every process that executes a program or a library.

Read on: ../applying.py does it, apply.py and status.py come here.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from a64patch.cli import patching
from a64patch.cli.output import say
from a64patch.cli.table import Cell, print_table
from a64patch.cli.text import failure_of, print_json
from a64patch.errors import PlanError, RequestError

if TYPE_CHECKING:
    from a64patch.applying import OneProcess
    from a64patch.patch.asmdiff import AsmDiff
    from a64patch.patch.plan import Plan
    from a64patch.targets.base import Target
    from a64patch.targets.executing import Executor

SCHEME = "exe:"
_INTERRUPTED, _HALF_WAY = 130, 3
_COLOURS = {"applied": "green", "already applied": "green", "reverted": "yellow", "failed": "red", "foreign": "red"}
_COLOURS |= {"not reverted": "red", "not applied": "yellow"}

_OTHERS = {
    "--remote": "remote", "--symbols": "symbols", "--cave": "caves", "--drop-relocations": "drop_relocations",
}  # fmt: skip
"""The options of other targets."""


def named(arguments: argparse.Namespace) -> bool:
    """Whether TARGET names processes by their file. RequestError for options of other targets."""
    if not arguments.target.startswith(SCHEME):
        return False
    for option, name in _OTHERS.items():
        if getattr(arguments, name, None):
            raise RequestError(f"{option} is not for processes: leave it out")
    if not _path(arguments):
        raise RequestError(f"{arguments.target!r} names no file: write {SCHEME}PATH")
    return True


def apply(arguments: argparse.Namespace, diff: AsmDiff) -> int:
    """Apply the patch to each process, or show the processes and the first plan. The exit status is the worst one."""
    accept = patching.accepted(arguments)
    if arguments.dry_run:
        return _dry_run(arguments, diff, accept)
    from a64patch.applying import apply_to_processes

    found: dict[int, OneProcess] = {}
    with patching.open_journal(arguments) as journal:
        each = apply_to_processes(
            diff, _path(arguments), journal, sync=arguments.sync, accept=accept, retry=arguments.retry,
            fuzz=arguments.fuzz, profile=arguments.profile, together=arguments.together,
            all_or_nothing=arguments.all_or_nothing,
        )  # fmt: skip
        try:
            _collect(found, each)
        except KeyboardInterrupt:
            from a64patch.patch.journal import EntryState

            if any(entry.state in (EntryState.OPEN, EntryState.PARTIAL) for entry in journal.begun_by(journal)):
                raise
            _tell(arguments, found)
            patched = sum(one.result in ("applied", "not reverted") for one in found.values())
            say(f"interrupted; {patched} of {len(found)} processes are patched" if patched else
                "interrupted; nothing was changed")  # fmt: skip
            return _HALF_WAY if patched else _INTERRUPTED
    _require_some(arguments, found)
    _tell(arguments, found)
    return _worst(found.values())


def _dry_run(arguments: argparse.Namespace, diff: AsmDiff, accept: set[str]) -> int:
    from a64patch.applying import for_each_process
    from a64patch.patch.plan import State, require_acceptable

    facts: list[dict[str, Any]] = []

    def do(one: Executor, target: Target) -> OneProcess:
        plan = patching.planned(arguments, target, diff)
        if not facts:
            facts.append(patching.show_plan(plan, target, arguments))
            sys.stdout.flush()
        if plan.state is not State.APPLIED:
            require_acceptable(plan, accept, arguments.sync, reverse=arguments.reverse)
        return _planned(one, plan)

    found: dict[int, OneProcess] = {}
    _collect(found, for_each_process(_path(arguments), do))
    _require_some(arguments, found)
    if facts and not arguments.json:
        print()
    _tell(arguments, found, {"plan": facts[0] if facts else None})
    return _worst(found.values())


def status(arguments: argparse.Namespace, diff: AsmDiff) -> int:
    """Print the state of the patch in each process. Exit status 0 when all that can be patched have it."""
    from a64patch.applying import for_each_process
    from a64patch.patch.plan import State

    def do(one: Executor, target: Target) -> OneProcess:
        plan = patching.planned(arguments, target, diff)
        found = _planned(one, plan)
        if plan.state is not State.FOREIGN:
            return found
        half = "some hunks are applied, and others are not"
        return found._replace(sentence=next((hunk.difference for hunk in plan.hunks if hunk.difference), half))

    found: dict[int, OneProcess] = {}
    _collect(found, for_each_process(_path(arguments), do))
    _require_some(arguments, found)
    _tell(arguments, found)
    lacking = any(one.result in ("not applied", "foreign") for one in found.values())
    return max(_worst(found.values()), int(lacking))


def _planned(one: Executor, plan: Plan) -> OneProcess:
    from a64patch.applying import OneProcess

    return OneProcess(one.pid, one.name, plan.state.value, plan=plan)


def _path(arguments: argparse.Namespace) -> str:
    return str(arguments.target).removeprefix(SCHEME)


def _collect(found: dict[int, OneProcess], each: Iterable[OneProcess]) -> None:
    """Keep the last that is told of each process. What failed goes to stderr at once."""
    for one in each:
        found[one.pid] = one
        if one.error is not None:
            who = f"process {one.pid}"
            for sentence in (one.sentence, *getattr(one.error, "__notes__", ())):
                say(sentence if who in sentence else f"{who} ({one.name}): {sentence}")


def _require_some(arguments: argparse.Namespace, found: dict[int, OneProcess]) -> None:
    if not found:
        hidden = " ".join(_notes(arguments)[1:])
        raise PlanError(f"no process executes {_path(arguments)}; nothing was changed{hidden and f'; {hidden}'}")


def _notes(arguments: argparse.Namespace) -> list[str]:
    """What is said behind the table: about new processes, and about those that cannot be seen."""
    from a64patch.targets.executing import executors_of

    path = _path(arguments)
    options = [f"--{name}" for name in ("reverse", "fuzz") if getattr(arguments, name)]
    command = shlex.join(["a64patch", "apply", *options, arguments.patch, path])
    notes = [f"New processes execute the file, which is not changed: `{command}` patches it."]
    if hidden := executors_of(path).hidden:
        notes.append(f"{hidden} processes do not let us see what they execute: as root a64patch sees all.")
    return notes


def _tell(arguments: argparse.Namespace, found: dict[int, OneProcess], more: dict[str, Any] | None = None) -> None:
    rows = sorted(found.values())
    notes = _notes(arguments)
    if arguments.json:
        print_json(
            {"file": _path(arguments), "processes": [_facts(one) for one in rows], "notes": notes, **(more or {})}
        )
        return
    lines: list[tuple[Cell, ...]] = []
    writes = arguments.command == "apply" and not arguments.dry_run
    for one in rows:
        window = one.done.stop_window_ns if one.done is not None else None
        done = (str(one.entry or ""), "" if window is None else f"{window / 1000:.0f} us") if writes else ()
        why = "" if one.error is not None else one.sentence
        lines.append((str(one.pid), one.name, (one.result, _COLOURS.get(one.result, "")), *done, why))
    print_table(lines, ("pid", "name", "result", *(("entry", "window") if writes else ())))
    for note in notes if arguments.command == "apply" else notes[1:]:
        print(note)


def _facts(one: OneProcess) -> dict[str, Any]:
    """What is known of a process, for JSON."""
    facts: dict[str, Any] = {"pid": one.pid, "name": one.name, "result": one.result, "sentence": one.sentence}
    if one.done is not None:
        facts |= patching.result_facts(one.entry, one.done)
    if one.plan is not None and one.result in ("not applied", "applied", "foreign") and one.done is None:
        facts["hunks"] = [patching.hunk_facts(hunk) for hunk in one.plan.hunks]
    if one.error is not None:
        from a64patch.cli.main import exit_status

        facts["error"] = failure_of(one.error, exit_status(one.error))
    return facts


def _worst(found: Iterable[OneProcess]) -> int:
    from a64patch.cli.main import exit_status

    return max(
        _HALF_WAY if one.result == "not reverted" else exit_status(one.error) if one.error is not None else 0
        for one in found
    )

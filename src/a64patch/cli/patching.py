"""Shared by the commands on patch files: reading a patch, opening its target, printing a plan as text or as JSON.

Read on: apply.py, status.py, fmt.py.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from a64patch.cli.table import Cell, print_styled, print_table
from a64patch.cli.targets import add_target_arguments, open_named_target
from a64patch.cli.text import print_json
from a64patch.errors import PatchFormatError, RequestError
from a64patch.openers import lasts

if TYPE_CHECKING:
    from a64patch.patch.asmdiff import AsmDiff
    from a64patch.patch.detours import Annex
    from a64patch.patch.journal import Journal
    from a64patch.patch.plan import Plan, PlannedHunk
    from a64patch.patch.sites import Site
    from a64patch.patch.text import PatchResult
    from a64patch.patch.transaction import Outcome
    from a64patch.targets.base import Room, Target
    from a64patch.targets.section import Change, Guard

_ENDED = "the simulated machine ends with this command, and the new words with it: the journal has no entry"
_MANY = 200
"""At most this many changes of a plan are shown at a terminal. A pipe gets all of them."""
_REJECTED = " rejected: "
"""The beginning of the comment of a hunk in a file of rejected hunks."""
_MOST_PLACES = 8
"""At most this many NOPs that a hunk implies are shown."""


def add_patch(parser: argparse.ArgumentParser, *, optional_target: bool = False) -> None:
    """PATCH TARGET and its options."""
    parser.add_argument("patch", metavar="PATCH", help="an assembly diff, or - for standard input")
    add_target_arguments(parser, optional=optional_target)


def add_matching(parser: argparse.ArgumentParser) -> None:
    """`-R`, `--fuzz`."""
    parser.add_argument("-R", "--reverse", action="store_true", help="swap old and new: undo the patch")
    parser.add_argument(
        "--fuzz", action="store_true",
        help="on another build: compare by meaning, and search a hunk in and around its symbol",
    )  # fmt: skip


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is out of range: give 0 to 86400 seconds")
    return value


def add_carrying_out(parser: argparse.ArgumentParser) -> None:
    """`--sync`, `--together`, `--retry`, `--accept`, `--drop-relocations`, `--dry-run`, `--journal`, `--profile`."""
    parser.add_argument(
        "--sync", choices=("auto", "nosync", "kick", "stop"), default="auto",
        help="auto: the lightest safe method (default); nosync: tell no CPU; kick: each synchronises; stop: all wait",
    )  # fmt: skip
    parser.add_argument(
        "--together", action="store_true",
        help="all hunks change as one: no CPU may be in any of their functions meanwhile",
    )  # fmt: skip
    parser.add_argument(
        "--retry", type=_seconds, metavar="SECONDS", default=0.0,
        help="how long to try again while a CPU is in the way (default: 0.1)",
    )  # fmt: skip
    parser.add_argument("--profile", default="2018", help="issue of the manual's list that auto uses (default: 2018)")
    parser.add_argument(
        "--accept", metavar="HAZARD", action="append", default=[],
        help="apply in spite of a hazard of this name (or all); --dry-run shows the hazards",
    )  # fmt: skip
    parser.add_argument(
        "--drop-relocations", action="store_true",
        help="where a relocation owns the word, turn it into R_AARCH64_NONE (ELF files)",
    )  # fmt: skip
    parser.add_argument("-n", "--dry-run", action="store_true", help="show the plan, and change nothing")
    parser.add_argument(
        "--prove", action="store_true", help="with --dry-run: prove each distinct site by the plan's method, as `prove`"
    )
    add_journal(parser)


def add_journal(parser: argparse.ArgumentParser) -> None:
    """`--journal`."""
    parser.add_argument(
        "--journal", metavar="FILE", help="the journal (default: a64patch/journal.sqlite in the XDG state directory)"
    )


def open_journal(arguments: argparse.Namespace, *, read_only: bool = False) -> Journal:
    """The journal of a command. `arguments.book` keeps it, for what is said after Ctrl-C."""
    from a64patch.patch.journal import Journal

    symbols, remote = getattr(arguments, "symbols", None), getattr(arguments, "remote", False)
    caves = [word for cave in getattr(arguments, "caves", None) or () for word in ("--cave", cave)]
    options = [*(("--symbols", symbols) if symbols else ()), *(("--remote",) if remote else ()), *caves]
    arguments.book = journal = Journal(arguments.journal, read_only=read_only, options=options)
    return journal


@contextmanager
def _journal_of_target(arguments: argparse.Namespace) -> Iterator[Journal]:
    """The journal of a command that writes to TARGET; one that nobody keeps for a target that does not last."""
    if lasts(arguments.target):
        with open_journal(arguments) as journal:
            yield journal
        return
    from a64patch.applying import passing_journal

    with passing_journal() as journal:
        yield journal


def read_patch(path: str, *, reverse: bool = False) -> AsmDiff:
    """The patch in a file. PatchFormatError, with the file's name, when the file cannot be read or is no patch.

    Reads asmdiff.MOST_BYTES + 1 bytes at most, even from a device.
    """
    from a64patch.patch import asmdiff
    from a64patch.patch.mail import unwrapped

    try:
        if path == "-":
            data = sys.stdin.buffer.read(asmdiff.MOST_BYTES + 1)
        else:
            with open(path, "rb") as file:
                if stat.S_ISDIR(os.fstat(file.fileno()).st_mode):
                    raise PatchFormatError(f"{path} is a directory: name a patch")
                data = file.read(asmdiff.MOST_BYTES + 1)
            if data.startswith(b"\x7fELF"):
                raise PatchFormatError(f"{path} is an ELF file and no patch: name the patch first, then the target")
    except OSError as error:
        raise PatchFormatError(f"cannot read {path}: {error.strerror}") from error
    try:
        diff = asmdiff.parse(unwrapped(data))
        return asmdiff.reverse(diff) if reverse else diff
    except PatchFormatError as error:
        raise PatchFormatError(f"{path}: {error}") from None


@contextmanager
def working(message: str) -> Iterator[None]:
    """Show on a terminal that something long is going on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(message):
        yield


def planned(arguments: argparse.Namespace, target: Target, diff: AsmDiff) -> Plan:
    """The plan for a command's PATCH and TARGET. A PatchFormatError names the file of the wrong line."""
    from a64patch.patch.plan import make_plan

    with working(f"planning {len(diff.hunks)} hunks") if len(diff.hunks) > _MANY else nullcontext():
        try:
            profile = getattr(arguments, "profile", "2018")
            together = getattr(arguments, "together", False)
            return make_plan(diff, target, fuzz=arguments.fuzz, profile=profile, together=together)
        except PatchFormatError as error:
            raise PatchFormatError(f"{arguments.patch}: {error}") from None


def opened(arguments: argparse.Namespace) -> Target:
    """Open the TARGET of a command, with the command's options."""
    options = {"drop_relocations": True} if getattr(arguments, "drop_relocations", False) else {}
    return open_named_target(arguments, **options)


def accepted(arguments: argparse.Namespace) -> set[str]:
    """The hazards that the user accepts. RequestError for an unknown one, and for options that do not go together."""
    from a64patch.patch.hazards import NAMES

    accept = {*arguments.accept, *(["relocation"] if arguments.drop_relocations else [])}
    unknown = sorted(accept - {*NAMES, "all"})
    if unknown:
        raise RequestError(f"there is no hazard {unknown[0]!r}; there are {', '.join(NAMES)}, and all")
    if arguments.prove and not arguments.dry_run:
        raise RequestError("--prove goes with --dry-run")
    return accept


def show_plan(plan: Plan, target: Target, arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the plan, with its proofs if they are asked for. With --json print nothing, and return the facts."""
    from a64patch.cli import proving

    proofs = proving.of_plan(plan, target) if arguments.prove else None
    if arguments.json:
        return _plan_facts(plan, target) | ({} if proofs is None else proving.plan_facts(proofs, target, plan.method))
    _print_plan(plan, target)
    proving.print_proofs(proofs, target, plan.method)
    return {}


def carry_out(
    plan: Plan, target: Target, arguments: argparse.Namespace, *, done: str = "applied", show: bool = False
) -> int:
    """Carry a plan out by the options of `add_carrying_out`. Print the result and, with `show`, each word."""
    from a64patch.patch.plan import require_acceptable

    accept = accepted(arguments)
    reverse = getattr(arguments, "reverse", False)
    if arguments.dry_run:
        arguments.facts = show_plan(plan, target, arguments)
        sys.stdout.flush()
        require_acceptable(plan, accept, arguments.sync, reverse=reverse)
        if arguments.json:
            print_json(arguments.facts)
        return 0
    arguments.facts = facts = _plan_facts(plan, target) if arguments.json else {}
    require_acceptable(plan, accept, arguments.sync, reverse=reverse)
    from a64patch.patch.plan import State
    from a64patch.patch.transaction import apply_plan

    nops = _nop_lines(plan.hunks, target)
    with _journal_of_target(arguments) as journal:
        outcome = arguments.outcome = apply_plan(
            plan, target, journal, sync=arguments.sync, accept=accept, retry=arguments.retry
        )
    if arguments.json:
        facts |= result_facts(outcome.entry if lasts(arguments.target) else None, outcome.result)
        facts["stays"] = outcome.stays
        facts["state"] = State.APPLIED.value
        for hunk in facts["hunks"]:
            hunk["state"] = State.APPLIED.value
        print_json(facts)
        return 0
    if show:
        from a64patch.patch.asmdiff import to_text

        print(to_text(plan.diff._replace(headers=())), end="")
    for line in [*_offset_lines(plan.hunks, done), *nops]:
        print(line)
    undo = undo_command(journal, outcome.entry) if lasts(arguments.target) else _ENDED
    built = plan.annex is not None and not plan.annex.ends
    more = f", {_count(len(plan.annex.words), 'word')} of new code" if plan.annex is not None and built else ""
    print_result(f"{done}: {_count(len(plan.hunks), 'hunk')}{more}", outcome.result, undo, target.capabilities.noun)
    print_stays(outcome, journal)
    return 0


def print_stays(outcome: Outcome, journal: Journal) -> None:
    """Print on stderr which new code could not be given back, and what to do about it."""
    if outcome.stays:
        again = f"; `{journal.command('recover')}` tries again" if outcome.entry else ""
        print(f"a64patch: {outcome.stays}{again}", file=sys.stderr)


def hunk_facts(hunk: PlannedHunk) -> dict[str, Any]:
    """A planned hunk for JSON."""
    return {
        "site": hunk.hunk.place,
        "address": f"{hunk.address:#x}",
        "state": hunk.state.value,
        "offset": hunk.offset,
        "implied_nops": [f"{address:#x}" for address in hunk.padding],
        "difference": hunk.difference,
    }


def _plan_facts(plan: Plan, target: Target) -> dict[str, Any]:
    """A plan for JSON."""
    from a64patch.a64.disassembler import disassemble

    changes = []
    for change in plan.changes:
        verdict = plan.verdict(change)
        changes.append({
            "address": f"{change.address:#x}",
            "site": target.symbols.describe(change.address),
            "old": f"{change.old:08x}",
            "old_text": disassemble(change.old, change.address, target.symbols),
            "new": f"{change.new:08x}",
            "new_text": disassemble(change.new, change.address, target.symbols),
            "may_race": verdict.safe,
            "reason": verdict.reason,
        })  # fmt: skip
    return {
        "kind": target.capabilities.kind,
        "location": plan.identity.location,
        "build_id": plan.identity.build_id,
        "state": plan.state.value,
        "cpus": plan.cpus,
        "compared": "by meaning" if plan.by_meaning else "by words",
        "method": plan.method,
        "reason": plan.reason,
        "hunks": [hunk_facts(hunk) for hunk in plan.hunks],
        "sites": [_site_facts(site) for site in plan.sites],
        "changes": changes,
        "hazards": [
            {"name": hazard.name, "address": f"{hazard.address:#x}", "sentence": hazard.sentence}
            for hazard in plan.hazards
        ],
        "data_changes": [
            change_facts(change) | {"site": target.symbols.describe(change.address)} for change in plan.data
        ],
        "guards": [guard_facts(guard) for guard in plan.guards],
        "annexes": [] if plan.annex is None else [_annex_facts(plan.annex)],
    }


def _annex_facts(annex: Annex) -> dict[str, Any]:
    """The new code of a plan for JSON."""
    return room_facts(annex.room, annex.ends) | {
        "new_words": [f"{word:08x}" for word in annex.words],
        "parts": [{"name": name, "address": f"{address:#x}"} for name, address in annex.entries],
    }


def room_facts(room: Room, ends: bool) -> dict[str, Any]:
    """The room of new code for JSON."""
    return {"address": f"{room.address:#x}", "bytes": room.size, "from": room.how, "ends": ends}


def change_facts(change: Change) -> dict[str, Any]:
    """A word that changes, for JSON."""
    return {"address": f"{change.address:#x}", "old": f"{change.old:08x}", "new": f"{change.new:08x}"}


def guard_facts(guard: Guard) -> dict[str, Any]:
    """A word of data that must hold, for JSON."""
    address, word = guard
    return {"address": f"{address:#x}", "word": f"{word:08x}"}


def _site_facts(site: Site) -> dict[str, Any]:
    """A site for JSON."""
    return range_facts(site) | {"kept_out": list(site.kept_out), "entered": list(site.entered)}


def range_facts(site: Site) -> dict[str, Any]:
    """The part of a site that a journal keeps, for JSON."""
    return {
        "start": f"{site.start:#x}",
        "end": f"{site.end:#x}",
        "keep_out": [[f"{start:#x}", f"{end:#x}"] for start, end in site.keep_out],
    }


def result_facts(entry: int | None, result: PatchResult) -> dict[str, Any]:
    """The result of a patch for JSON. `entry` is null when no journal keeps it."""
    return {
        "entry": entry,
        "method": result.method,
        "reason": result.reason,
        "words": len(result.changes) + len(result.data),
        "stopped": list(result.cpus),
        "stop_window_ns": result.stop_window_ns,
        "retries": result.retries,
    }


def undo_command(journal: Journal, entry: int) -> str:
    """How to undo the patch of an entry."""
    return f"journal entry {entry}: `{journal.command('revert', str(entry))}` undoes it"


def print_result(done: str, result: PatchResult, undo: str, noun: str) -> None:
    """Print the result of a patch, and how to undo it. `noun` is what was stopped: `Capabilities.noun`."""
    stopped = ""
    if result.cpus:
        stopped = f", {_count(len(result.cpus), noun)} stopped for {(result.stop_window_ns or 0) / 1000:.0f} us"
    words = f"{_count(len(result.changes) + len(result.data), 'word')} written"
    beside = f", {len(result.data)} of them data" if result.data else ""
    print(f"{done}: {words}{beside}; {result.method}: {result.reason}{stopped}")
    print(undo)


def _print_plan(plan: Plan, target: Target) -> None:
    """Print the plan as a table, the reasons why words may or may not race, and the hazards."""
    from a64patch.a64.disassembler import disassemble
    from a64patch.patch.sites import reasons_to_keep_out

    colours = {"not applied": "yellow", "applied": "green", "foreign": "red"}
    most = _most_shown()
    rows: list[tuple[Cell, ...]] = []
    shown = 0
    for hunk in plan.hunks:
        state = (f"{hunk.state.value}{_offset(hunk)}", colours[hunk.state.value])
        if not hunk.changes:
            rows.append((hunk.hunk.place, state, hunk.difference))
        for change in hunk.changes[: max(0, most - shown)]:
            texts = [disassemble(word, change.address, target.symbols) for word in (change.old, change.new)]
            verdict = "yes" if plan.verdict(change) else "no"
            rows.append((target.symbols.describe(change.address), state, *texts, verdict))
        shown += len(hunk.changes)
        if shown > most:
            break
    print_table(rows, ("site", "state", "stands there", "becomes", "may race?"))
    if shown > most:
        print(f"{_count(len(plan.changes), 'word')} in all; --json shows every one, and so does a pipe")
    print()
    for line in _nop_lines(plan.hunks, target):
        print(line)
    compared = "by meaning: the build is not known to be the patch's own" if plan.by_meaning else "by words: same build"
    print(f"Compared {compared}.")
    if plan.method is not None:
        print(f"Method {plan.method}: {plan.reason}.")
        reasons = dict.fromkeys(plan.verdict(change).reason for change in plan.changes[:_MANY])
        if plan.cpus:
            for reason in list(reasons)[:8]:
                print(f"  {reason}")
    for change in plan.data:
        where = target.symbols.describe(change.address)
        print(f"Data at {where}: {change.old:08x} becomes {change.new:08x}, in the same stop.")
    for address, word in plan.guards:
        print(f"Data at {target.symbols.describe(address)} must be {word:08x} in this stop, or nothing is changed.")
    for sentence in reasons_to_keep_out(plan.sites):
        print(f"{sentence[:1].upper()}{sentence[1:]}.")
    if target.others is not None and target.others.note and any(site.keep_out for site in plan.sites):
        print(f"{target.others.note[:1].upper()}{target.others.note[1:]}.")
    for line in _annex_lines(plan, target):
        print(line)
    for hazard in plan.hazards:
        print_styled([(f"hazard {hazard.name}", "bold red"), f": {hazard.sentence}."])
    print("Dry run: nothing was changed.")


def _annex_lines(plan: Plan, target: Target) -> Iterator[str]:
    """The new code of a plan, and what that means for whoever executes the old code now."""
    from a64patch.a64.disassembler import disassemble
    from a64patch.a64.words import INSN_SIZE
    from a64patch.cli.proving import NEW_CODE

    annex = plan.annex
    if annex is None or not plan.changes:
        return
    where = f"{_count(len(annex.words), 'word')} at {annex.room.address:#x}"
    noun = target.capabilities.noun
    if annex.ends:
        yield f"New code ends: {where}. It is given back when no {noun} is in it or returns to it."
        return
    how = f" ({annex.room.how})" if annex.room.how else ""
    yield f"New code: {where}{how}."
    names = {address: name for name, address in annex.entries}
    for number, word in enumerate(annex.words[: _most_shown()]):
        address = annex.room.address + INSN_SIZE * number
        if address in names:
            yield f"  {names[address]}:"
        text = disassemble(word, address, target.symbols) if annex.is_code[number] else f".word {word:#010x}"
        yield f"    {address:#x}  {word:08x}  {text}"
    if len(annex.words) > _most_shown():
        yield f"    and {len(annex.words) - _most_shown()} more words; --json shows every one, and so does a pipe"
    if plan.cpus:
        yield NEW_CODE
        yield f"A {noun} that is further on in old words finishes the old code: no {noun} has to be out of the way."


def _offset_lines(hunks: Sequence[PlannedHunk], done: str) -> list[str]:
    """A line for each hunk that was found at an offset from its site."""
    return [f"hunk {hunk.hunk.site}: {done} with offset {hunk.offset:+d}" for hunk in hunks if hunk.offset]


def _nop_lines(hunks: Sequence[PlannedHunk], target: Target) -> list[str]:
    """A line for each hunk that implies NOPs, with their places; at a terminal not for more than _MANY hunks."""
    lines: list[str] = []
    for hunk in hunks:
        if not hunk.padding:
            continue
        if len(lines) == _most_shown():
            return [*lines, f"more than {_MANY} hunks imply NOPs; --json shows every one, and so does a pipe"]
        places = [target.symbols.describe(address) for address in hunk.padding[:_MOST_PLACES]]
        if len(hunk.padding) > _MOST_PLACES:
            places.append(f"{len(hunk.padding) - _MOST_PLACES} more places")
        what = "NOP" if len(hunk.padding) == 1 else "NOPs"
        lines.append(f"hunk {hunk.hunk.site}: {what} at {', '.join(places)}: the patch has no new instruction there")
    return lines


def write_rejects(path: str, diff: AsmDiff, hunks: Sequence[PlannedHunk]) -> str | None:
    """Write the hunks that do not fit to PATCH.rej, each with the difference. Returns a sentence that says so.

    The file has the patch's mode. It replaces an earlier file of rejected hunks, and no other file: then the sentence
    says that the hunks were not written. Not guaranteed: a file that another process puts there at the same moment is
    replaced. None when the patch came through a pipe or a device.
    """
    from a64patch.patch.asmdiff import to_text

    rejected = [
        replace(hunk.hunk, comments=(*hunk.hunk.comments, f"{_REJECTED}{hunk.difference}"))
        for hunk in hunks
        if hunk.difference
    ]
    if path == "-" or not rejected or not os.path.isfile(path) or os.path.abspath(path).startswith(("/dev/", "/proc/")):
        return None
    import tempfile

    name = f"{path}.rej"
    text = to_text(diff._replace(hunks=tuple(rejected), comments=()))
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode) & 0o777
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".rej-")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(descriptor, mode)
            if not _may_be_replaced(name):
                return f"The hunks that do not fit were not written: {name} exists and holds no rejected hunks."
            os.replace(temporary, name)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        return f"The hunks that do not fit cannot be written to {name}: {error.strerror}."
    return f"The hunks that do not fit are in {name}."


def _may_be_replaced(name: str) -> bool:
    """Whether there is no such file yet, or it is a regular file of hunks that were all rejected."""
    from a64patch.patch import asmdiff

    try:
        if not stat.S_ISREG(os.lstat(name).st_mode):
            return False
    except FileNotFoundError:
        return True
    with open(name, "rb") as file:
        data = file.read(asmdiff.MOST_BYTES + 1)
    try:
        hunks = asmdiff.parse(asmdiff.decode(data)).hunks
    except PatchFormatError:
        return False
    return all(any(comment.startswith(_REJECTED) for comment in hunk.comments) for hunk in hunks)


def _most_shown() -> int:
    return _MANY if sys.stdout.isatty() else sys.maxsize


def _offset(hunk: PlannedHunk) -> str:
    return f" (offset {hunk.offset:+d})" if hunk.offset else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

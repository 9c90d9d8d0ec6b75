"""Apply, revert and recover from Python: the functions of patch/transaction.py, with the usual journal.

It may know patch/, the openers of targets, and how processes are found.
Read on: patch/transaction.py does the work, patch/journal.py keeps the entries.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from a64patch.errors import A64PatchError, GoneError, PlanError
from a64patch.oneline import shown
from a64patch.openers import lasts, open_target
from a64patch.patch import transaction
from a64patch.patch.journal import Journal
from a64patch.patch.plan import Plan, State, Sync, make_plan
from a64patch.patch.transaction import Outcome, Recovery
from a64patch.targets.executing import Executor, executors_of

if TYPE_CHECKING:
    from a64patch.patch.asmdiff import AsmDiff
    from a64patch.patch.text import PatchResult
    from a64patch.targets.base import Target

_ROUNDS = 4
"""How often the list of processes is read, at most: a process that is not patched yet may have made another one."""

Result = Literal[
    "applied", "already applied", "not applied", "foreign", "skipped", "ended", "failed", "reverted", "not reverted"
]


class OneProcess(NamedTuple):
    """What was found out about one process, or done to it."""

    pid: int
    name: str
    """The name that the process gave itself, for people."""
    result: Result
    """- `already applied`: it had the new words before;
    - `skipped`: it is a64patch itself, or executes another build of the file;
    - `ended`: it ended, or executes another program now, before anything could be done, or with the new words;
    - `reverted`, `not reverted`: another process failed, and this one was to be as before."""
    sentence: str = ""
    """Why, for people; empty where the result says it all."""
    entry: int = 0
    """The number of the journal's entry; 0 without one."""
    done: PatchResult | None = None
    """How its words were written."""
    plan: Plan | None = None
    error: A64PatchError | None = None
    """Of a process that failed."""

    def __repr__(self) -> str:
        return shown(self, f"{self.pid} ({self.name}): {self.result}", self.sentence)


def apply(
    patch: AsmDiff | Plan,
    target: Target,
    journal: Journal | None = None,
    *,
    sync: Sync = "auto",
    accept: Collection[str] = (),
    retry: float = 0.0,
    fuzz: bool = False,
    profile: str = "2018",
    together: bool = False,
) -> Outcome:
    """Apply a patch, or a plan of it for this target: all hunks, or nothing. As `a64patch apply`.

    - Without `journal` the entry goes to `journal.default_path()`. A target whose words end with it (a simulator, a
      target without location) gets no entry: `Outcome.entry` is 0.
    - `sync`, `accept` and `retry` (seconds) are for `apply_plan`; its errors and guarantees hold here.
    - `fuzz`, `profile` and `together` are for `make_plan`, and so for a patch only; a plan was made with its own.
    """
    plan = patch if isinstance(patch, Plan) else make_plan(
        patch, target, fuzz=fuzz, profile=profile, together=together
    )  # fmt: skip
    if journal is None and not (target.location and lasts(target.location)):
        with passing_journal() as passing:
            outcome = transaction.apply_plan(plan, target, passing, sync=sync, accept=accept, retry=retry)
        return outcome._replace(entry=0)
    with _given_or_usual(journal) as kept:
        return transaction.apply_plan(plan, target, kept, sync=sync, accept=accept, retry=retry)


def revert(number: int, target: Target | None = None, journal: Journal | None = None, **options: Any) -> Outcome:
    """Undo an applied entry of a journal, by its number. As `a64patch revert`; errors as `transaction.revert`.

    Without `target` the entry's own location is opened with these options of `open_target`, and closed again. Without
    `journal`, the one at `journal.default_path()`.
    """
    with _given_or_usual(journal) as kept:
        if target is not None:
            return transaction.revert(number, target, kept)
        with open_target(kept.entry(number).identity.location, **options) as opened:
            return transaction.revert(number, opened, kept)


def recover(journal: Journal | None = None, **options: Any) -> list[Recovery]:
    """Bring each entry that was cut off to an end. As `a64patch recover`; see `transaction.recover`.

    Each entry's location is opened with these options of `open_target`.
    """
    with _given_or_usual(journal) as kept:
        return list(transaction.recover(kept, lambda entry: open_target(entry.identity.location, **options)))


def for_each_process(
    path: str | os.PathLike[str], do: Callable[[Executor, Target], OneProcess]
) -> Iterator[OneProcess]:
    """Call `do` with each process that executes the file at `path`, in order of their numbers, and yield its result.

    The file is a program or a library, and is the first module of the target. An error of `do` makes the process
    `ended` (GoneError) or `failed`. `do` is not called for a process that is skipped: see `OneProcess.result`.

    Not covered: processes that begin to execute the file while this goes on, but for those that one of the others made
    early enough; and processes that do not let us see what they execute (`executors_of`).

    Errors: PlanError for a file without build id; those of `open_target` for the file.
    """
    with open_target(os.path.abspath(path)) as file:
        build_id = file.identity().build_id
    if not build_id:
        raise PlanError(f"{path} has no build id, so nothing tells which processes execute it: name each, pid:N")
    seen: set[int] = set()
    for _ in range(_ROUNDS):
        new = [one for one in executors_of(os.fspath(path)).found if one.pid not in seen]
        for one in new:
            yield _for_one(one, build_id, do)
        seen.update(one.pid for one in new)
        if not new:
            return


def _for_one(one: Executor, build_id: str, do: Callable[[Executor, Target], OneProcess]) -> OneProcess:
    found = OneProcess(one.pid, one.name, "skipped")
    if one.pid == os.getpid():
        return found._replace(sentence="is a64patch itself, which cannot stop itself")
    done: OneProcess | None = None
    try:
        with open_target(one.place) as target:
            other = target.identity().build_id
            if other != build_id:
                what = f"another build ({other})" if other else "a build without a build id"
                return found._replace(sentence=f"maps {what}, from before the file was replaced: start it again")
            done = do(one, target)
    except GoneError as error:
        return found._replace(result="ended", sentence=str(error))
    except A64PatchError as error:
        if done is not None:  # and giving the process back failed
            return done._replace(sentence=str(error))
        return found._replace(result="failed", sentence=str(error), error=error)
    return done


def apply_to_processes(
    patch: AsmDiff,
    path: str | os.PathLike[str],
    journal: Journal | None = None,
    *,
    sync: Sync = "auto",
    accept: Collection[str] = (),
    retry: float = 0.0,
    fuzz: bool = False,
    profile: str = "2018",
    together: bool = False,
    all_or_nothing: bool = False,
) -> Iterator[OneProcess]:
    """Apply a patch to every process that executes the file at `path`: as `a64patch apply PATCH exe:PATH`.

    Each process is one transaction and one entry of the journal, as `apply` makes it. A process that has the new words
    is left alone. What one process executes while another one is patched is not coordinated.

    With `all_or_nothing` the first process that fails, and any exception in here, ends it. Those that were patched
    before are reverted, the last one first, and each is yielded again: `reverted`, `not reverted` or `ended`.

    Which processes: see `for_each_process`, also for the errors. Close the generator, or read it to its end.
    """

    def do(one: Executor, target: Target) -> OneProcess:
        plan = make_plan(patch, target, fuzz=fuzz, profile=profile, together=together)
        found = OneProcess(one.pid, one.name, "applied", plan=plan)
        if plan.state is State.APPLIED:
            return found._replace(result="already applied")
        outcome = transaction.apply_plan(plan, target, kept, sync=sync, accept=accept, retry=retry)
        applied.append((one, outcome.entry))
        return found._replace(entry=outcome.entry, done=outcome.result, sentence=outcome.stays)

    applied: list[tuple[Executor, int]] = []
    with _given_or_usual(journal) as kept:
        try:
            for found in for_each_process(path, do):
                yield found
                if found.error is not None and all_or_nothing:
                    break
            else:
                return
        except (Exception, KeyboardInterrupt):
            if all_or_nothing:
                yield from _revert_all(applied, kept)
            raise
        yield from _revert_all(applied, kept)


def _revert_all(applied: list[tuple[Executor, int]], journal: Journal) -> Iterator[OneProcess]:
    while applied:
        one, entry = applied.pop()
        found, outcome = OneProcess(one.pid, one.name, "reverted"), None
        try:
            with open_target(one.place) as target:
                outcome = transaction.revert(entry, target, journal)
        except GoneError as error:
            found = found._replace(result="ended", sentence=str(error))
        except A64PatchError as error:
            found = found._replace(sentence=str(error))
            if outcome is None:  # else giving the process back failed
                found = found._replace(result="not reverted", entry=entry, error=error)
        yield found if outcome is None else found._replace(entry=outcome.entry, done=outcome.result)


@contextmanager
def passing_journal() -> Iterator[Journal]:
    """A journal that is deleted at the end of the block: for a target whose words do not last either."""
    with tempfile.TemporaryDirectory() as folder, Journal(os.path.join(folder, "journal")) as journal:
        yield journal


def _given_or_usual(journal: Journal | None) -> Journal | nullcontext[Journal]:
    """The usual journal, which is closed at the end of a block; or the caller's, which stays open."""
    return Journal() if journal is None else nullcontext(journal)

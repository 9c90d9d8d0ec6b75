"""Apply, revert and recover from Python: the functions of patch/transaction.py, with the usual journal.

It may know patch/ and the openers of targets.
Read on: patch/transaction.py does the work, patch/journal.py keeps the entries.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from a64patch.openers import lasts, open_target
from a64patch.patch import transaction
from a64patch.patch.journal import Journal
from a64patch.patch.plan import Plan, Sync, make_plan
from a64patch.patch.transaction import Outcome, Recovery

if TYPE_CHECKING:
    from a64patch.patch.asmdiff import AsmDiff
    from a64patch.targets.base import Target


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


@contextmanager
def passing_journal() -> Iterator[Journal]:
    """A journal that is deleted at the end of the block: for a target whose words do not last either."""
    with tempfile.TemporaryDirectory() as folder, Journal(os.path.join(folder, "journal")) as journal:
        yield journal


def _given_or_usual(journal: Journal | None) -> Journal | nullcontext[Journal]:
    """The usual journal, which is closed at the end of a block; or the caller's, which stays open."""
    return Journal() if journal is None else nullcontext(journal)

"""Carry out a plan, undo it, clean up after a crash: all hunks or none, and the journal is written before the target.

Read on: journal.py for the fields of an entry, text.py for how words are written.

Everything rests on this order:

1. The entry is put on disk.
2. The words are written, published and read back.
3. The result is put on disk.

After a crash at any point, each word of the target is the old or the new one that the entry names. An entry's words of
data are part of the same set as its words of code.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import A64PatchError, GoneError, JournalError, MismatchError, PartialPatchError, PlanError
from a64patch.oneline import shown
from a64patch.patch.asmdiff import collector_paused, to_text
from a64patch.patch.building import Built, build, give_back, to_build
from a64patch.patch.journal import Entry, EntryState, Journal
from a64patch.patch.plan import Plan, Sync, require_acceptable
from a64patch.patch.sites import Site, sites_of, spans_of
from a64patch.patch.surroundings import difference, in_modules, needed, surroundings
from a64patch.patch.text import PatchResult, method_for, write
from a64patch.protocols import Method
from a64patch.targets.base import Identity, Target
from a64patch.targets.section import Change, Guard, counted_words


class Outcome(NamedTuple):
    """The journal entry of a patch, and how its words were written."""

    entry: int
    """The number of the entry; 0 where no journal keeps one."""
    result: PatchResult
    stays: str = ""
    """A sentence about new code that is out of use and still there; empty when there is none."""

    def __repr__(self) -> str:
        words = counted_words(self.result.changes, self.result.data)
        return shown(self, f"entry {self.entry}: {words} by {self.result.method}:", self.result.reason)


class Recovery(NamedTuple):
    """The result of recovering one entry that was cut off."""

    entry: Entry
    """The entry before."""
    state: EntryState
    """Its state now; the same as before when nothing could be done."""
    note: str
    """A sentence: which words were found, and what was done about them."""

    def __repr__(self) -> str:
        return shown(self, f"entry {self.entry.id}: {self.state.value}:", self.note)


@collector_paused()
def apply_plan(
    plan: Plan,
    target: Target,
    journal: Journal,
    *,
    sync: Sync = "auto",
    accept: Collection[str] = (),
    retry: float = 0.0,
) -> Outcome:
    """Write every word of the plan, or none, by the plan's method and with its sites; `retry` as `patch_text_sync`.

    Errors before anything is written:

    - the errors of `require_acceptable`; MismatchError when the plan changes no word;
    - PlanError when an earlier patch of this target was cut off;
    - JournalError when the journal cannot be written.

    A JournalError with `target_changed` comes later: the patch is applied, and only its result is not in the journal.

    Other errors as `patch_text`, after the old words were put back: the entry is UNDONE then. If some words are not
    known to be the old ones, PartialPatchError: the entry is PARTIAL and notes these words, and `recover` tries again.
    GoneError when the run of the target is surely over, and the new words with it: the entry is UNDONE.
    """
    require_acceptable(plan, accept, sync)
    if not plan.changes:
        raise MismatchError("the patch changes no word here; nothing was changed")
    with journal.held():
        _require_nothing_open(journal, plan.identity)
        assert plan.method is not None
        built = None
        if plan.annex is not None:
            annex = plan.annex
            built = to_build(target, annex.room, annex.words, annex.references)._replace(ends=annex.ends)
        decided = _Decided(plan.changes, plan.sites, plan.method, plan.reason, plan.data, plan.guards, built)
        return _carry_out(target, journal, plan.identity, decided, to_text(plan.diff), sync=sync, retry=retry)


def revert(number: int, target: Target, journal: Journal) -> Outcome:
    """Undo an applied entry: put back the old word at every address that it wrote. This makes an entry of its own.

    Words of data are put back in the same stop, if the entry's guards hold there.

    - MismatchError when the target holds another word than the entry wrote, in place or in new code. It names the first
      such word, and the later entry that changed it if there is one. MismatchError also for a guard that does not hold.
    - PlanError when the entry is not applied, or when the target has another place, build or base than the patched
      one, or was started again.
    - Other errors as `apply_plan`.
    """
    with journal.held():
        entry = journal.entry(number)
        if entry.state is not EntryState.APPLIED:
            hint = f"; `{journal.command('recover')}` looks at it" if entry.state in _UNFINISHED else ""
            raise PlanError(f"entry {number} is {entry.state.value}, so there is nothing to revert{hint}")
        _require_same(entry, target, journal)
        _require_nothing_open(journal, entry.identity)
        # Equal branches of two patches may lead to other new code at one place.
        held = [*entry.written, *_new_code(entry)]
        for change, word in zip(held, _read(target, held), strict=True):
            if word != change.new:
                raise MismatchError(_why_not(journal, entry, change, word, target))
        target.undo_aftermath(entry.aftermath)
        back = _undoing(entry.changes)
        sites = _sites_back(entry, back, target)
        method, reason = method_for(target.capabilities, back, [(site.start, site.end) for site in sites])
        if entry.method == "stop" and method != "stop":
            method, reason = "stop", f"entry {number} was written so"
        built = entry.built._replace(ends=not entry.built.ends) if entry.built is not None else None
        decided = _Decided(back, sites, method, reason, _undoing(entry.data), entry.guards, built)
        return _carry_out(target, journal, entry.identity, decided, "", reverts=number)


def recover(journal: Journal, open_target: Callable[[Entry], Target]) -> Iterator[Recovery]:
    """Bring each entry that was cut off to an end, and yield its result.

    The words of the target decide, code and data alike:

    - All are new: they are published again, and the entry is APPLIED.
    - All are old: they are published again, and the entry is UNDONE.
    - Some are old and some new: the old words are put back, and the entry is UNDONE. If that fails, it is PARTIAL.
    - Some are neither old nor new: these stay, all others become old, and the entry is PARTIAL.

    New code that lies elsewhere is given back when no branch of the entry leads there any more. Then come the entries
    whose new code could not be given back before.

    An entry is UNDONE, too, when the run of the target that it patched is surely over: the words ended with it.

    An entry does not change, and the note says why, when

    - its target cannot be opened or read, or is not the one that was patched;
    - words would have to be put back, and a guard of the entry does not hold.
    """
    with journal.held():
        for entry in journal.entries(*_UNFINISHED):
            try:
                left = ""
                with open_target(entry) as target:
                    if target.identity().outlives(entry.identity):
                        state, note = EntryState.UNDONE, f"{entry.identity.location} {_OVER}"
                    else:
                        _require_same(entry, target, journal)
                        state, note = _recovered(entry, target)
                        left = _given_back(entry, state, target)
                        note += f"; {left}" if left else ""
            except GoneError as error:
                if not replace(entry.identity, incarnation=error.incarnation).outlives(entry.identity):
                    forget = journal.command("recover", "--forget", str(entry.id))
                    yield Recovery(entry, entry.state, f"{error}; `{forget}` closes the entry")
                    continue
                state, note = EntryState.UNDONE, str(error)
            except A64PatchError as error:
                yield Recovery(entry, entry.state, str(error))
                continue
            journal.finish(entry.id, state, note, left=bool(left))
            yield Recovery(entry, state, note)
        for entry in journal.with_left_code():
            try:
                with open_target(entry) as target:
                    if target.identity().outlives(entry.identity):
                        left, note = "", f"{entry.identity.location} {_OVER}"
                    else:
                        _require_same(entry, target, journal)
                        assert entry.built is not None
                        known = any(room.address == entry.built.room.address for room in target.rooms())
                        left = give_back(target, entry.built)
                        done = "the room of its new code is given back"
                        note = left or (done if known else "nobody has the room of its new code any more")
            except GoneError as error:
                gone = replace(entry.identity, incarnation=error.incarnation).outlives(entry.identity)
                left, note = "" if gone else str(error), str(error)
            except A64PatchError as error:
                left = note = str(error)
            if not left:
                journal.finish(entry.id, entry.state, f"{entry.note}; {note}")
            yield Recovery(entry, entry.state, note)


def forget(number: int, journal: Journal) -> Recovery:
    """Close an entry that was cut off, without looking at its target. The user must know that the target is gone.

    PlanError when the entry was not cut off.
    """
    with journal.held():
        entry = journal.entry(number)
        if entry.state not in _UNFINISHED:
            raise PlanError(f"entry {number} is {entry.state.value}: only one that was cut off can be forgotten")
        note = "forgotten by its user: the target was not looked at"
        journal.finish(number, EntryState.UNDONE, note)
        return Recovery(entry, EntryState.UNDONE, note)


_OVER = "is another run now than the patched one: that one is over, and its words ended with it"
_UNFINISHED = (EntryState.OPEN, EntryState.PARTIAL)


class _Decided(NamedTuple):
    """The words to write, and the method. A plan decides this once."""

    changes: Sequence[Change]
    sites: Sequence[Site]
    method: Method
    reason: str
    data: Sequence[Change]
    guards: Sequence[Guard]
    built: Built | None = None
    """New code that is built before the words are written, or given back afterwards."""

    @property
    def written(self) -> Sequence[Change]:
        """Every word to write: code, then data."""
        return [*self.changes, *self.data] if self.data else self.changes


def _carry_out(
    target: Target,
    journal: Journal,
    identity: Identity,
    decided: _Decided,
    patch: str,
    *,
    sync: Sync = "auto",
    retry: float = 0.0,
    reverts: int = 0,
) -> Outcome:
    changes = decided.changes
    words = [(change.address, change.new) for change in changes]
    method = _method(target, decided, sync)
    aftermath = () if reverts else target.aftermath(words)
    around = surroundings(target, changes) if needed(identity) else in_modules(target, changes)
    number = journal.begin(
        identity, changes, patch, method=method, reason=_reason(decided, method), sites=decided.sites,
        surroundings=around, aftermath=aftermath, reverts=reverts, data=decided.data, guards=decided.guards,
        built=decided.built,
    )  # fmt: skip
    built = decided.built
    try:
        if built is not None and not built.ends:
            build(target, built)
        result = _patch(target, decided, method, retry)
    except BaseException as error:
        if over := _over(error, identity):
            with _noting(over):
                journal.finish(number, EntryState.UNDONE, str(over))
            raise over from error
        # Other errors leave new words too: a stop may fail at its end, a second Ctrl-C may interrupt putting back.
        lost = _lost(target, decided.written, error)
        note = str(error) or type(error).__name__
        stays = "" if lost or built is None or built.ends else give_back(target, built)
        if stays:
            error.add_note(f"{stays[:1].upper()}{stays[1:]}; `{journal.command('recover')}` tries again.")
            note = f"{note}; {stays}"
        if lost:
            error.add_note(
                f"The journal's entry {number} lists these words; `{journal.command('recover')}` tries again."
            )
            note = "\n".join([note, *_what_stands(target, decided.written, set(lost))])
        with _noting(error):
            state = EntryState.PARTIAL if lost else EntryState.UNDONE
            journal.finish(number, state, note, left=bool(stays) or bool(lost))
        if not lost or isinstance(error, PartialPatchError) or not isinstance(error, Exception):
            raise
        failure = PartialPatchError(
            f"{error}; {len(lost)} of {len(decided.written)} words are not known to be the old ones", lost
        )
        failure.__notes__ = error.__notes__
        raise failure from error
    stays = give_back(target, built, retry) if built is not None and built.ends else ""
    more = f"; {stays}" if stays else ""
    try:
        journal.finish(number, EntryState.APPLIED, f"{result.method}: {result.reason}{more}", left=bool(stays))
    except JournalError as error:
        unsaid = JournalError(
            f"the patch is applied, but the journal does not say so: {error}; run `{journal.command('recover')}`"
        )
        unsaid.target_changed = True
        raise unsaid from error
    return Outcome(number, result, stays)


def _over(error: BaseException, identity: Identity) -> GoneError | None:
    """A GoneError if this error, or a cause of it, tells that the target's run is surely over, and its words too."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, GoneError) and replace(identity, incarnation=cause.incarnation).outlives(identity):
            over = GoneError(str(cause))
            over.incarnation = cause.incarnation
            return over
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def _noting(error: BaseException) -> Iterator[None]:
    """Make a JournalError a note of `error`, so that it does not hide `error`. The entry stays open."""
    try:
        yield
    except JournalError as failure:
        error.add_note(f"The journal does not know it: {failure}")


def _method(target: Target, decided: _Decided, sync: Sync) -> Method:
    """The plan's method, unless the user's `sync` is stop or nosync. `require_acceptable` has allowed that."""
    if sync == "stop":
        return "stop"
    return "nosync" if sync == "nosync" and target.capabilities.cpus else decided.method


def _patch(target: Target, decided: _Decided, method: Method, retry: float) -> PatchResult:
    sites = decided.sites if method == "stop" else ()
    return write(
        target, decided.changes, sites, method, _reason(decided, method), retry,
        data=decided.data, guards=decided.guards,
    )  # fmt: skip


def _reason(decided: _Decided, method: Method) -> str:
    return decided.reason if decided.method == method else "as asked"


def _undoing(changes: Iterable[Change]) -> list[Change]:
    return [Change(change.address, change.new, change.old) for change in changes]


def _sites_back(entry: Entry, back: Sequence[Change], target: Target) -> tuple[Site, ...]:
    """The sites of an entry that hold one of these changes; the changes undo the entry.

    `keep_out` is that of the entry, and what sites.py finds in the target now. An entry of the journal's version 1 has
    no sites: changes that are neighbours are one site then.
    """
    addresses = sorted(change.address for change in back)
    decided = {
        site.start: site
        for site in entry.sites
        if bisect_left(addresses, site.start) < bisect_left(addresses, site.end)
    }
    spans = [(site.start, site.end) for site in decided.values()] or spans_of(back)
    return tuple(
        site._replace(keep_out=site.keep_out | decided[site.start].keep_out) if site.start in decided else site
        for site in sites_of(target, back, spans)
    )


def _read(target: Target, changes: Sequence[Change]) -> list[int]:
    return from_bytes(b"".join(target.read_many([(change.address, INSN_SIZE) for change in changes])))


def _require_nothing_open(journal: Journal, identity: Identity) -> None:
    for entry in journal.entries(*_UNFINISHED):
        if entry.identity.place == identity.place:
            raise PlanError(
                f"entry {entry.id} of the journal, on the same target, was cut off: run `{journal.command('recover')}`"
                " first;"
                " nothing was changed"
            )


def _require_same(entry: Entry, target: Target, journal: Journal) -> None:
    """PlanError unless this is the target that the entry patched, as far as its identity tells."""
    now, then = target.identity(), entry.identity
    if now.place != then.place:
        raise PlanError(f"entry {entry.id} patched {then.location}, not {now.location}; nothing was changed")
    if (then.build_id or then.release) and not (now.build_id or now.release):
        raise PlanError(
            f"{then.location} does not tell its build, and entry {entry.id} patched {_name(then)}: give --symbols"
            " as when that was done; nothing was changed"
        )
    if (now.build_id, now.release) != (then.build_id, then.release):
        raise PlanError(
            f"{then.location} is not what entry {entry.id} patched: it was {_name(then)}, and is {_name(now)}; nothing"
            " was changed"
        )
    if not now.runs_on_from(then):
        forget = journal.command("recover", "--forget", str(entry.id))
        raise PlanError(
            f"{then.location} was started again since entry {entry.id} patched it, and the new words are gone:"
            f" `{forget}` closes an entry that was cut off; nothing was changed"
        )
    if now.base != then.base:
        raise PlanError(
            f"{then.location} lies at {now.base:#x} now, not at {then.base:#x} as when entry {entry.id} patched it: it"
            " was started again; nothing was changed"
        )
    _require_surroundings(entry, target, journal)


def _require_surroundings(entry: Entry, target: Target, journal: Journal) -> None:
    """PlanError when the code around the entry's words is not the code that the entry patched."""
    if not entry.surroundings:
        return
    olds: dict[int, int] = {}
    # Take back in thought what later entries have changed, whether they were undone since or not.
    for later in reversed(journal.entries(EntryState.APPLIED, EntryState.REVERTED)):
        if later.id > entry.id and later.identity.place == entry.identity.place:
            olds.update((change.address, change.old) for change in later.changes)
    olds.update((change.address, change.old) for change in entry.changes)
    found = difference(target, entry.surroundings, olds)
    if found is not None:
        raise PlanError(
            f"{entry.identity.location} is not what entry {entry.id} patched: {found}; it was built or loaded"
            " again, or changed by somebody else; nothing was changed"
        )


def _name(identity: Identity) -> str:
    build = f"build {identity.build_id}" if identity.build_id else "without build id"
    return f"{identity.release}, {build}" if identity.release else build


def _why_not(journal: Journal, entry: Entry, change: Change, word: int, target: Target) -> str:
    where = target.symbols.describe(change.address)
    holds = f"{where} holds {word:08x}, not {change.new:08x} as entry {entry.id} wrote"
    for later in reversed(journal.entries(EntryState.APPLIED)):
        same_target = later.id > entry.id and later.identity.place == entry.identity.place
        if same_target and any(other.address == change.address for other in [*later.written, *_new_code(later)]):
            return f"{holds}: entry {later.id} has changed it since, revert that first; nothing was changed"
    return f"{holds}; nothing was changed"


def _new_code(entry: Entry) -> Sequence[Change]:
    """The words of new code that an entry has built."""
    return entry.built.changes if entry.built is not None and not entry.built.ends else ()


def _lost(target: Target, changes: Sequence[Change], error: BaseException) -> Sequence[int]:
    """The addresses whose word may be one that the failed patch wrote."""
    if isinstance(error, PartialPatchError):
        return error.unrestored
    # The words were compared before the first write, or they were put back: another word is somebody else's.
    return [] if isinstance(error, MismatchError) else _not_old(target, changes)


def _not_old(target: Target, changes: Sequence[Change]) -> list[int]:
    """The addresses whose word is not known to be the old one."""
    try:
        words = _read(target, changes)
    except Exception:
        return [change.address for change in changes]
    return [change.address for change, word in zip(changes, words, strict=True) if word != change.old]


def _what_stands(target: Target, changes: Sequence[Change], addresses: Collection[int]) -> Iterator[str]:
    """A line for each of these addresses: its word now, the old and the new one."""
    for change in changes:
        if change.address in addresses:
            try:
                word = f"{_read(target, [change])[0]:08x}"
            except Exception as failure:
                word = f"unknown ({failure})"
            where = target.symbols.describe(change.address)
            yield f"{where}: {word}; old {change.old:08x}, new {change.new:08x}"


def _recovered(entry: Entry, target: Target) -> tuple[EntryState, str]:
    """Make the target all old or all new. Returns the state of the entry then, and why."""
    words = list(zip(entry.written, _read(target, entry.written), strict=True))
    written = [change for change, word in words if word == change.new]
    foreign = [change for change, word in words if word not in (change.old, change.new)]
    total = len(words)
    if len(written) == total:
        _publish(target, entry.changes)
        return EntryState.APPLIED, f"all {total} words are the new ones: the patch is complete"
    if written:
        target.undo_aftermath(entry.aftermath)
        new = {change.address for change in written}
        back = _undoing(change for change in entry.changes if change.address in new)
        data = _undoing(change for change in entry.data if change.address in new)
        sites = _sites_back(entry, back, target)
        try:
            # Hazards of the sites do not stop this: half a patch is worse. A guard that does not hold stops it:
            # somebody may be changing the same words now, and `recover` can be tried again.
            write(target, back, sites, "stop", "as asked", data=data, guards=entry.guards)
        except PartialPatchError as error:
            lost = set(error.unrestored)
            return EntryState.PARTIAL, "\n".join([str(error), *_what_stands(target, written, lost)])
    # Publish old words too: they may have been put back, but not published, before the crash.
    _publish(target, entry.changes)
    if foreign:
        places = ", ".join(target.symbols.describe(change.address) for change in foreign[:8])
        return (
            EntryState.PARTIAL,
            f"{len(foreign)} of {total} words are neither old nor new and were left alone: {places}",
        )
    if written:
        return EntryState.UNDONE, f"{len(written)} of {total} words were new: the old ones were put back"
    return EntryState.UNDONE, f"all {total} words are the old ones: nothing had been changed"


def _given_back(entry: Entry, state: EntryState, target: Target) -> str:
    """Give the new code of an entry back if it is out of use in this state. A sentence about what stays, or ""."""
    if entry.built is None or state is not (EntryState.APPLIED if entry.built.ends else EntryState.UNDONE):
        return ""
    return give_back(target, entry.built)


def _publish(target: Target, changes: Sequence[Change]) -> None:
    """Make sure that no CPU executes other words than these: nothing says whether the crash came before that."""
    if target.capabilities.can_stop:
        with target.stop():
            target.publish_many(spans_of(changes, join=0))
    else:
        target.publish_many(spans_of(changes, join=0))
        target.kick()

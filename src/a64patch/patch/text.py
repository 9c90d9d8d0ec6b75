"""The heart: patch_text, patch_text_nosync and patch_text_sync, with the names and rules of the Linux kernel of 2013.

Read on: ../a64/cmodx.py for the words that may race, sites.py for the addresses where no CPU may be,
../targets/section.py for the steps of a stop.

Words are ints; addresses are bytes. The whole request is checked before anything is written. Every word is read and
compared before it is written, and read back after it was published. When anything fails, the old words are put back
before the error is raised. PartialPatchError names the words for which this failed too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from a64patch.a64.cmodx import hotpatch_safe
from a64patch.a64.words import INSN_SIZE, from_bytes, require_aligned, to_bytes
from a64patch.errors import BusyError, CapabilityError, PlanError, RequestError
from a64patch.oneline import shown
from a64patch.patch.sites import Site, reasons_to_keep_out, sites_of, spans_of, unchanged_words
from a64patch.protocols import Method
from a64patch.ranges import Ranges
from a64patch.targets.base import Capabilities, Target
from a64patch.targets.section import Change, Found, Guard, Outcome, Section, counted_words, require

RETRIES = 10
"""How often a stop is tried again when a CPU was in the way. Each pause is longer than the last (0.1 s in all)."""
_FIRST_PAUSE = 0.0001
_LONGEST_PAUSE = 0.05


class PatchResult(NamedTuple):
    """Which words were written, and how."""

    method: Method
    reason: str
    """Why this method."""
    changes: tuple[Change, ...]
    cpus: tuple[int, ...] = ()
    """The CPUs that were stopped; empty unless the method is `stop`."""
    stop_window_ns: int | None = None
    """From the arrival of the last CPU until all were let go (ns); None unless the method is `stop`."""
    retries: int = 0
    """How often somebody was in `keep_out`, so that all CPUs were let go and stopped again."""
    data: tuple[Change, ...] = ()
    """The words of data that were written with the code."""

    def __repr__(self) -> str:
        return shown(self, f"{counted_words(self.changes, self.data)} by {self.method}:", self.reason)


def patch_text_nosync(target: Target, address: int, word: int, *, expected: int | None = None) -> PatchResult:
    """Write one word and make it visible to instruction fetch. No CPU is told.

    Another CPU may execute the old or the new word until it next synchronises its context; there is no bound in time.
    The caller must know that the two words may race: see `hotpatch_safe`. Never patch a sequence with several of these
    calls: without synchronisation that is always racy.

    AlignmentError for the address, EncodingError for the word; MismatchError when the target holds another word than
    `expected`; CapabilityError on a target whose cache maintenance does not reach all CPUs; the target's own errors.
    """
    changes = _checked(target, [address], [word], None if expected is None else [expected])
    return write(target, changes, (), "nosync", "one word, as asked; no CPU was told")


def patch_text_sync(
    target: Target,
    addresses: Sequence[int],
    words: Sequence[int],
    *,
    expected: Sequence[int] | None = None,
    keep_out: Ranges | None = None,
    together: bool = False,
    retry: float = 0.0,
) -> PatchResult:
    """Write any words while every CPU waits.

    The order is that of stop_machine (Linux 31a099dbd91e): every CPU arrives and waits; exactly one CPU writes all
    words and then does the cache maintenance once; every CPU synchronises its context before it executes on.
    Afterwards no CPU executes an old word.

    Words with at most seven others between them are one site. No CPU executes some old and some new words of one site.

    - Nobody may stand in or return to `keep_out` meanwhile: no CPU, and none of the target's `others`, such as the
      tasks of a kernel. Its default is what sites.py finds out for the words.
    - With `together` all words change as one: no CPU may be in any of the functions that hold them. Without it, a CPU
      between two sites may have executed old words of the first and go on to new words of the second.
    - When somebody is in `keep_out`, all CPUs are let go and stopped again: RETRIES times, and on until `retry` seconds
      are over. Then BusyError names the CPU or task, its address and how often it was found there.

    Not seen:

    - return addresses that the target does not know;
    - tasks that no CPU executes, if the target has no `others` or cannot show them (`Others.unseen`);
    - branches into the middle of a site, if the target does not know its code ranges.

    Errors:

    - RequestError for no words, for lists of different length, and for an address that is given twice;
    - AlignmentError for an address, EncodingError for a word;
    - MismatchError when the target holds another word than `expected`, or a word changes meanwhile;
    - PlanError when no CPU may be in some function, and the end of the function is not known;
    - CapabilityError when the target cannot stop its CPUs, or does not tell where they stand;
    - BusyError as above, and the target's own errors.
    """
    changes = _checked(target, addresses, words, expected)
    return write(target, changes, _own_sites(target, changes, keep_out, together), "stop", "as asked", retry)


def patch_text(
    target: Target,
    addresses: Sequence[int],
    words: Sequence[int],
    *,
    expected: Sequence[int] | None = None,
    profile: str = "2018",
) -> PatchResult:
    """Write these words by the lightest method that is safe; the result says which.

    - `kick`, when the target can do it, each word is a site of its own, and each may race with execution
      (`hotpatch_safe`). The words are written while the CPUs run. Then every CPU has a context synchronisation event,
      so that no CPU executes an old word after this returns (Linux cfb00a357864).
    - `stop` otherwise: as `patch_text_sync`.

    Nothing is downgraded: a target that cannot use a safe method raises CapabilityError. Other errors as
    `patch_text_sync`.
    """
    changes = _checked(target, addresses, words, expected)
    method, reason = method_for(target.capabilities, changes, spans_of(changes), profile)
    sites = _own_sites(target, changes, None, False) if method == "stop" else ()
    return write(target, changes, sites, method, reason)


def method_for(
    capabilities: Capabilities, changes: Sequence[Change], spans: Sequence[tuple[int, int]], profile: str = "2018"
) -> tuple[Method, str]:
    """The lightest safe method for these changes in these sites, and why. `patch_text` and plans use it.

    Never `nosync`: CPUs may go on executing an old word after it. RequestError for an unknown profile.
    """
    if capabilities.cpus == 0:
        return "stop", "nothing executes this target: all words are replaced together"
    wide = sum(end - start > INSN_SIZE for start, end in spans)
    if wide:
        return "stop", f"{len(changes)} words are not replaced at once: a CPU can execute some of each (B2.2.5)"
    verdicts = [hotpatch_safe(change.old, change.new, profile) for change in changes]
    for verdict in verdicts:
        if not verdict:
            return "stop", verdict.reason
    if not capabilities.broadcast:
        return "stop", "each CPU must invalidate its own instruction cache: there is no broadcast"
    if not capabilities.can_kick:
        return "stop", "the target cannot make its CPUs synchronise without stopping them"
    if len(changes) == 1:
        return "kick", verdicts[0].reason
    return "kick", f"each of {len(changes)} words is a site of its own and may race: {verdicts[0].reason}"


def write(
    target: Target,
    changes: Sequence[Change],
    sites: Sequence[Site],
    method: Method,
    reason: str,
    retry: float = 0.0,
    *,
    data: Sequence[Change] = (),
    guards: Sequence[Guard] = (),
) -> PatchResult:
    """Write the words of these sites by the protocol that the caller chose. `retry` as in `patch_text_sync`.

    With `stop`, also write words of data, if all `guards` hold: see `targets/section.py`.

    - CapabilityError when the target lacks an operation of the protocol, or writes no data.
    - RequestError for data and guards that `Section` refuses.
    - Other errors as the three functions above.
    """
    section = _section(target, changes, sites, method, reason, data, guards)
    outcome: Outcome | None = None
    met: Counter[Found] = Counter()
    deadline = time.monotonic() + retry
    attempt = 0
    while outcome is None or (not outcome.done and (attempt <= RETRIES or time.monotonic() < deadline)):
        if outcome is not None:
            time.sleep(min(_FIRST_PAUSE * 2 ** min(attempt - 1, RETRIES), max(_LONGEST_PAUSE, _FIRST_PAUSE)))
        outcome = target.carry_out(section)
        met.update(outcome.found)
        attempt += 1
    if not outcome.done:
        raise BusyError(_busy(target, met, sites, attempt))
    return PatchResult(method, reason, tuple(changes), outcome.cpus, outcome.window_ns, attempt - 1, tuple(data))


def _section(
    target: Target,
    changes: Sequence[Change],
    sites: Sequence[Site],
    method: Method,
    reason: str,
    data: Sequence[Change],
    guards: Sequence[Guard],
) -> Section:
    """The stop as one value, made before any CPU stops. CapabilityError when the target cannot carry it out."""
    capabilities = target.capabilities
    publish = tuple(spans_of(changes, join=0))
    if data and not capabilities.writes_data:
        raise CapabilityError(f"this {capabilities.kind} does not write data, which this patch needs: {reason}")
    if method != "stop":
        if not capabilities.broadcast:
            raise CapabilityError(
                f"cache maintenance on this {capabilities.kind} reaches one CPU only, so a word cannot be"
                " published without stopping the others: use patch_text_sync"
            )
        return Section(tuple(changes), publish=publish, protocol=method, data=tuple(data), guards=tuple(guards))
    if not capabilities.can_stop:
        raise CapabilityError(f"this {capabilities.kind} cannot stop its CPUs, which this patch needs: {reason}")
    keep_out = Ranges()
    if capabilities.cpus:
        keep_out = Ranges(tuple(span for site in sites for span in site.keep_out))
        if keep_out and not capabilities.sees_pcs:
            raise CapabilityError(
                f"this {capabilities.kind} does not tell where its CPUs stand, so neighbouring words cannot be changed"
            )
    kept = unchanged_words(target, changes, sites) if keep_out else ()
    return Section(tuple(changes), kept, publish, keep_out, data=tuple(data), guards=tuple(guards))


def _busy(target: Target, met: Counter[Found], sites: Sequence[Site], attempts: int) -> str:
    """The message of BusyError: the CPU or task, its address, how often, why it must not be there, and ways out."""
    (found, often), *others = met.most_common()
    where = target.symbols.describe(found.address)
    inside = any(site.start < found.address < site.end for site in sites)
    place = ", inside the words to be changed" if inside else ""
    also = f" ({len(others)} other CPUs, tasks or places as well)" if others else ""
    doubt = f"; {found.doubt}" if found.doubt else ""
    why = "" if inside else "".join(f"; {reason}" for reason in reasons_to_keep_out(sites)[:2])
    return (
        f"{found.name} {found.does} {where}{place}, {often} times in {attempts} attempts{also}{doubt}{why}; nothing"
        " was changed: try for longer (retry, --retry SECONDS), or change one word that may race, or another place"
    )


def _own_sites(target: Target, changes: Sequence[Change], keep_out: Ranges | None, together: bool) -> tuple[Site, ...]:
    """The sites of changes, where the caller did not group the changes into sites."""
    spans = spans_of(changes)
    if keep_out is not None:
        return tuple(Site(start, end, keep_out) for start, end in spans)
    sites = sites_of(target, changes, spans, together=together)
    # Without code ranges every wide site has a hazard: the docstring says so. With them, a hazard is a real danger.
    for site in sites if target.capabilities.cpus else ():
        for unknown in site.unknown if target.code_with(site.start) else ():
            raise PlanError(f"{unknown.sentence}; give keep_out=; nothing was changed")
    return sites


def _checked(
    target: Target, addresses: Sequence[int], words: Sequence[int], expected: Sequence[int] | None
) -> tuple[Change, ...]:
    """The request as changes, each with the target's word now; raises before anything is written."""
    if not addresses or len(addresses) != len(words):
        raise RequestError(f"{len(addresses)} addresses and {len(words)} words: as many of both, and at least one")
    if expected is not None and len(expected) != len(words):
        raise RequestError(f"{len(expected)} expected words for {len(words)} new ones: as many of both")
    for address in addresses:
        require_aligned(address)
    twice = [address for address, count in Counter(addresses).items() if count > 1]
    if twice:
        raise RequestError(f"address {twice[0]:#x} is given twice")
    to_bytes(words)
    olds = _read(target, addresses)
    if expected is not None:
        require(target, addresses, olds, expected)
    return tuple(Change(*change) for change in zip(addresses, olds, words, strict=True))


def _read(target: Target, addresses: Iterable[int]) -> list[int]:
    return from_bytes(b"".join(target.read_many([(address, INSN_SIZE) for address in addresses])))

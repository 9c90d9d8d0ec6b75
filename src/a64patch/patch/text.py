"""The heart: patch_text, patch_text_nosync and patch_text_sync, named and ruled as in the kernel of 2013.

Read on: ../a64/cmodx.py for what may race, sites.py for who must keep out, ../targets/section.py for what a stop does.

Words are ints; addresses are bytes. Nothing is touched before the whole request has been checked. Every word is read
and compared before it is written, and read back after it was published. When anything fails, the old words are put
back before the error goes on; PartialPatchError names those for which that failed too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from a64patch.a64.cmodx import hotpatch_safe
from a64patch.a64.words import INSN_SIZE, from_bytes, require_aligned, to_bytes
from a64patch.errors import BusyError, CapabilityError, PlanError, RequestError
from a64patch.patch.sites import Site, reasons_to_keep_out, sites_of, spans_of, unchanged_words
from a64patch.protocols import Method
from a64patch.ranges import Ranges
from a64patch.targets.base import Capabilities, Target
from a64patch.targets.section import Change, Found, Outcome, Section, require

RETRIES = 10
"""How often a stop that found somebody in the way is tried again, each time after a longer pause (0.1 s in all)."""
_FIRST_PAUSE = 0.0001
_LONGEST_PAUSE = 0.05


@dataclass(frozen=True)
class PatchResult:
    """What was done, and how."""

    method: Method
    reason: str
    """Why this method."""
    changes: tuple[Change, ...]
    cpus: tuple[int, ...] = ()
    """The CPUs that were stopped; empty unless the method is `stop`."""
    stop_window_ns: int | None = None
    """From the moment that the last CPU had arrived until all were let go; None unless the method is `stop`."""
    retries: int = 0
    """How often somebody was where nobody may be, so that all were let go and stopped again."""


def patch_text_nosync(target: Target, address: int, word: int, *, expected: int | None = None) -> PatchResult:
    """Write one word and make it visible to instruction fetch. No CPU is told.

    Other CPUs may execute the old or the new word until they next synchronise their context; there is no bound in
    time. It is up to the caller that both may race: see `hotpatch_safe`. Never for more than one word: patching a
    sequence without synchronising is always racy.

    AlignmentError, EncodingError; MismatchError when `expected` is given and is not the word that stands there;
    CapabilityError on a target whose cache maintenance does not reach all CPUs; what the target raises.
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

    Every CPU arrives and waits; then exactly one writes, does the cache maintenance once, and is done; every CPU
    synchronises its context before it executes on (stop_machine; Linux 31a099dbd91e). Afterwards no CPU executes
    an old word.

    Words with at most seven others between them are one site. No CPU executes some old and some new words of one
    site: sites.py says where nobody may stand or return to meanwhile, and `keep_out` says it instead. `together` makes
    all words change as one: nobody may be in any of the functions that hold them. Without it a CPU that is between two
    sites executes the old words of the one and the new words of the other.

    When somebody is where nobody may be, all are let go and stopped again: RETRIES times, then until `retry` seconds
    are over. At last BusyError says who was found where, and how often. Not seen: return addresses that the target does
    not know, tasks that no CPU executes, and ways into the middle of a site where the target does not know its code.

    RequestError for no words, lists of different length or an address given twice; AlignmentError, EncodingError;
    MismatchError when a word is not the `expected` one or changes meanwhile; PlanError when a function would have to be
    kept out of whose extent is not known; CapabilityError when the target cannot stop its CPUs or cannot see where they
    stand; what the target raises.
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
    """Write these words by the lightest method that is safe, and say which it was.

    Words that are each a site of its own, and whose old and new forms the architecture lets race with execution
    (`hotpatch_safe`): written without stopping anybody, then one context synchronisation event on every CPU, so that
    none executes an old word after this returns (Linux cfb00a357864). All else: as `patch_text_sync`. Nothing is
    downgraded: a target that can do neither raises CapabilityError. Other errors as `patch_text_sync`.
    """
    changes = _checked(target, addresses, words, expected)
    method, reason = method_for(target.capabilities, changes, spans_of(changes), profile)
    sites = _own_sites(target, changes, None, False) if method == "stop" else ()
    return write(target, changes, sites, method, reason)


def method_for(
    capabilities: Capabilities, changes: Sequence[Change], spans: Sequence[tuple[int, int]], profile: str = "2018"
) -> tuple[Method, str]:
    """The lightest safe method for these changes in these sites, and why: what `patch_text` and plans go by.

    Never `nosync`, after which CPUs may go on executing an old word. RequestError for an unknown profile.
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
) -> PatchResult:
    """Write the words of these sites by a protocol that somebody has chosen. `retry` as in `patch_text_sync`.

    CapabilityError when the target cannot do what the protocol needs; else the errors of the three functions.
    """
    section = _section(target, changes, sites, method, reason)
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
    return PatchResult(method, reason, tuple(changes), outcome.cpus, outcome.window_ns, attempt - 1)


def _section(target: Target, changes: Sequence[Change], sites: Sequence[Site], method: Method, reason: str) -> Section:
    """All that is known before anybody stops; CapabilityError."""
    capabilities = target.capabilities
    publish = tuple(spans_of(changes, join=0))
    if method != "stop":
        if not capabilities.broadcast:
            raise CapabilityError(
                f"cache maintenance on this {capabilities.kind} reaches one CPU only, so a word cannot be"
                " published without stopping the others: use patch_text_sync"
            )
        return Section(tuple(changes), publish=publish, protocol=method)
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
    return Section(tuple(changes), kept, publish, keep_out)


def _busy(target: Target, met: Counter[Found], sites: Sequence[Site], attempts: int) -> str:
    """Who was found where, how often, why nobody may be there, and what else can be done."""
    (found, often), *others = met.most_common()
    stands = "stands at" if found.stands else "will return to"
    where = target.symbols.describe(found.address)
    inside = any(site.start < found.address < site.end for site in sites)
    place = ", inside the words to be changed" if inside else ""
    also = f" ({len(others)} other CPUs or places as well)" if others else ""
    why = "" if inside else "".join(f"; {reason}" for reason in reasons_to_keep_out(sites)[:2])
    return (
        f"CPU {found.cpu} {stands} {where}{place}, found so {often} times in {attempts} attempts{also}{why}; nothing"
        " was changed: try for longer (retry, --retry SECONDS), or change one word that may race, or another place"
    )


def _own_sites(target: Target, changes: Sequence[Change], keep_out: Ranges | None, together: bool) -> tuple[Site, ...]:
    """The sites of changes of which nobody has said which belong together."""
    spans = spans_of(changes)
    if keep_out is not None:
        return tuple(Site(start, end, keep_out) for start, end in spans)
    sites = sites_of(target, changes, spans, together=together)
    # What is not known because the code is not known is in the docstring; the rest would be a torn site.
    for site in sites if target.capabilities.cpus else ():
        for unknown in site.unknown if target.code_with(site.start) else ():
            raise PlanError(f"{unknown.sentence}; give keep_out=; nothing was changed")
    return sites


def _checked(
    target: Target, addresses: Sequence[int], words: Sequence[int], expected: Sequence[int] | None
) -> tuple[Change, ...]:
    """The request as changes with the words that stand there now; raises before anything is touched."""
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

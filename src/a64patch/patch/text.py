"""The heart: patch_text, patch_text_nosync and patch_text_sync, named and ruled as in the kernel of 2013.

May know: a64/, target/base.py and the errors; no concrete target.
Read on: ../a64/cmodx.py for what may race, ../target/base.py for what a target is asked.

Words are ints; addresses are bytes. Nothing is touched before the whole request has been checked. Every word is read
and compared before it is written, and read back after it was published. When anything fails, the old words are put
back before the error goes on; PartialPatchError names those for which that failed too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from a64patch.a64.cmodx import hotpatch_safe
from a64patch.a64.words import INSN_SIZE, from_bytes, require_aligned, to_bytes
from a64patch.errors import BusyError, CapabilityError, MismatchError, PartialPatchError, RequestError
from a64patch.target.base import Capabilities, CpuState, Target

Method = Literal["nosync", "nosync+kick", "sync"]

RETRIES = 10
"""How often a site that a CPU stands in is tried again, each time after a longer pause (0.1 s in all)."""
_FIRST_PAUSE = 0.0001


@dataclass(frozen=True, slots=True)
class Change:
    """One word: at `address` (bytes), `old` becomes `new`."""

    address: int
    old: int
    new: int


@dataclass(frozen=True)
class PatchResult:
    """What was done, and how."""

    method: Method
    reason: str
    """Why this method."""
    changes: tuple[Change, ...]
    cpus: tuple[int, ...] = ()
    """The CPUs that were stopped; empty unless the method is `sync`."""
    stop_window_ns: int | None = None
    """From the moment that the last CPU had arrived until all were let go; None unless the method is `sync`."""
    retries: int = 0
    """How often a CPU stood inside the site, so that all were let go and stopped again."""


def patch_text_nosync(target: Target, address: int, word: int, *, expected: int | None = None) -> PatchResult:
    """Write one word and make it visible to instruction fetch. No CPU is told.

    Other CPUs may execute the old or the new word until they next synchronise their context; there is no bound in
    time. It is up to the caller that both may race: see `hotpatch_safe`. Never for more than one word: patching a
    sequence without synchronising is always racy.

    AlignmentError, EncodingError; MismatchError when `expected` is given and is not the word that stands there;
    CapabilityError on a target whose cache maintenance does not reach all CPUs; what the target raises.
    """
    changes = _checked(target, [address], [word], None if expected is None else [expected])
    if not target.capabilities.broadcast:
        raise CapabilityError(
            f"cache maintenance on this {target.capabilities.kind} reaches one CPU only, so a word cannot be"
            " published without stopping the others: use patch_text_sync"
        )
    _write(target, _Work(changes))
    return PatchResult("nosync", "one word, as asked; no CPU was told", changes)


def patch_text_sync(
    target: Target, addresses: Sequence[int], words: Sequence[int], *, expected: Sequence[int] | None = None
) -> PatchResult:
    """Write any words while every CPU waits.

    Every CPU arrives and waits; then exactly one writes, does the cache maintenance once, and is done; every CPU
    synchronises its context before it executes on (stop_machine; Linux 31a099dbd91e). Afterwards no CPU executes
    an old word, and none has executed some of each, with one limit: only neighbouring words are one site. A CPU
    between two sites of one patch executes the first one's old and the second one's new words.

    A CPU that stands strictly inside a site of several words, or is known to return into it, would execute half of
    each: then all are let go and stopped again, RETRIES times, and at last BusyError names CPU and address.
    Return addresses that the target does not know are not checked.

    RequestError for no words, lists of different length or an address given twice; AlignmentError, EncodingError;
    MismatchError when a word is not the `expected` one or changes meanwhile; CapabilityError when the target cannot
    stop its CPUs or cannot see where they stand; what the target raises.
    """
    return _sync(target, _checked(target, addresses, words, expected), "as asked")


def patch_text(
    target: Target,
    addresses: Sequence[int],
    words: Sequence[int],
    *,
    expected: Sequence[int] | None = None,
    profile: str = "2018",
) -> PatchResult:
    """Write these words by the lightest method that is safe, and say which it was.

    One word whose old and new forms the architecture lets race with execution (`hotpatch_safe`): written without
    stopping anybody, then one context synchronisation event on every CPU, so that none executes the old word after
    this returns (Linux cfb00a357864). All else: as `patch_text_sync`. Nothing is downgraded: a target that can do
    neither raises CapabilityError. Other errors as `patch_text_sync`.
    """
    changes = _checked(target, addresses, words, expected)
    method, reason = method_for(target.capabilities, changes, profile)
    if method == "sync":
        return _sync(target, changes, reason)
    _write(target, _Work(changes))
    try:
        target.kick()
    except BaseException as error:
        error.add_note("Until it next synchronises its context, a CPU may still execute the new word.")
        _put_back(target, changes, error)
        raise
    return PatchResult(method, reason, changes)


def method_for(capabilities: Capabilities, changes: Sequence[Change], profile: str = "2018") -> tuple[Method, str]:
    """The lightest safe method for these changes on such a target, and why: what `patch_text` goes by.

    Never `nosync`, after which CPUs may go on executing the old word. RequestError for an unknown profile.
    """
    if capabilities.cpus == 0:
        return "sync", "nothing executes this target: all words are replaced together"
    if len(changes) > 1:
        return "sync", f"{len(changes)} words are not replaced at once: a CPU can execute some of each (B2.2.5)"
    verdict = hotpatch_safe([change.old for change in changes], [change.new for change in changes], profile)
    if not verdict:
        return "sync", verdict.reason
    if not capabilities.broadcast:
        return "sync", "each CPU must invalidate its own instruction cache: there is no broadcast"
    if not capabilities.can_kick:
        return "sync", "the target cannot make its CPUs synchronise without stopping them"
    return "nosync+kick", verdict.reason


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
        _require(target, addresses, olds, expected)
    return tuple(Change(*change) for change in zip(addresses, olds, words, strict=True))


def _read(target: Target, addresses: Iterable[int]) -> list[int]:
    return from_bytes(b"".join(target.read_many([(address, INSN_SIZE) for address in addresses])))


def _require(target: Target, addresses: Sequence[int], found: Sequence[int], wanted: Sequence[int]) -> None:
    if found == wanted:
        return
    for address, word, want in zip(addresses, found, wanted, strict=True):
        if word != want:
            where = target.symbols.describe(address)
            raise MismatchError(f"{where} holds {word:#010x}, not {want:#010x} as expected; nothing was changed")


def sites_of(changes: Sequence[Change]) -> list[tuple[int, int]]:
    """The ranges [start, end) of neighbouring words, ascending."""
    sites: list[tuple[int, int]] = []
    for address in sorted(change.address for change in changes):
        if sites and sites[-1][1] == address:
            sites[-1] = (sites[-1][0], address + INSN_SIZE)
        else:
            sites.append((address, address + INSN_SIZE))
    return sites


class _Work:
    """What the requests for some changes are made of, computed before any CPU has to wait for it."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        self.addresses = [change.address for change in changes]
        self.olds = [change.old for change in changes]
        self.news = [change.new for change in changes]
        data = to_bytes(self.news)
        self.writes = [
            (address, data[place : place + INSN_SIZE])
            for address, place in zip(self.addresses, range(0, len(data), INSN_SIZE), strict=True)
        ]
        self.sites = sites_of(changes)


def _write(target: Target, work: _Work) -> None:
    """Write, publish, read back; when anything of it fails, put the old words back."""
    try:
        target.write_many(work.writes)
        target.publish_many(work.sites)
        found = _read(target, work.addresses)
        if found != work.news:
            address, word, new = next(
                each for each in zip(work.addresses, found, work.news, strict=True) if each[1] != each[2]
            )
            raise MismatchError(
                f"{target.symbols.describe(address)} holds {word:#010x} after {new:#010x} was written there without an"
                " error"
            )
    except BaseException as error:
        _put_back(target, work.changes, error)
        raise


def _put_back(target: Target, changes: Sequence[Change], cause: BaseException) -> None:
    """Restore the old word wherever another one stands; PartialPatchError when that cannot be done or seen."""
    for change in changes:
        try:
            if _read(target, [change.address]) != [change.old]:
                target.write(change.address, to_bytes(change.old))
        except Exception:
            continue  # seen below, where it counts
    try:
        target.publish_many(sites_of(changes))
        published = True
    except Exception:
        published = False
    lost = [change.address for change in changes if not published or not _holds(target, change)]
    if lost:
        places = ", ".join(target.symbols.describe(address) for address in lost[:8])
        raise PartialPatchError(
            f"the patch failed ({cause}), and {len(lost)} of {len(changes)} words could not be put back: {places}", lost
        ) from cause


def _holds(target: Target, change: Change) -> bool:
    try:
        return _read(target, [change.address]) == [change.old]
    except Exception:
        return False


def _sync(target: Target, changes: tuple[Change, ...], reason: str) -> PatchResult:
    capabilities = target.capabilities
    if not capabilities.can_stop:
        raise CapabilityError(f"this {capabilities.kind} cannot stop its CPUs, which this patch needs: {reason}")
    inside = _inside(changes)
    if inside and capabilities.cpus and not capabilities.sees_pcs:
        raise CapabilityError(
            f"this {capabilities.kind} does not tell where its CPUs stand, so neighbouring words cannot be changed"
        )
    work = _Work(changes)
    target.prepare(work.writes)
    busy: tuple[CpuState, int] | None = None
    for attempt in range(RETRIES + 1):
        if busy is not None:
            time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
        with target.stop() as stopped:
            start = time.perf_counter_ns()
            if not stopped.rendezvous.everyone_arrived:
                raise BusyError("not every CPU came to the rendezvous; nothing was changed")
            cpus = stopped.rendezvous.arrived
            busy = _standing_inside(stopped.states(), inside) if inside else None
            if busy is None:
                _require(target, work.addresses, _read(target, work.addresses), work.olds)
                _write(target, work)
        if busy is None:
            window = time.perf_counter_ns() - start
            return PatchResult("sync", reason, changes, cpus, window, attempt)
    assert busy is not None
    state, address = busy
    stands = "stands at" if state.pc == address else "will return to"
    raise BusyError(
        f"CPU {state.cpu} {stands} {target.symbols.describe(address)}, inside the words to be changed, after"
        f" {RETRIES} retries; nothing was changed"
    )


def _inside(changes: Sequence[Change]) -> frozenset[int]:
    """The addresses strictly inside a site: who goes on there has executed an old word before it."""
    addresses = {change.address for change in changes}
    return frozenset(address for address in addresses if address - INSN_SIZE in addresses)


def _standing_inside(states: Iterable[CpuState], inside: frozenset[int]) -> tuple[CpuState, int] | None:
    for state in states:
        for address in (state.pc, *state.return_addresses):
            if address in inside:
                return state, address
    return None

"""Finds the place of a table of symbols by the code in the target, and refuses symbols that do not fit the code.

Needs numpy when it is used.
Read on: symbols.py asks here before it uses a table; ../a64/references.py reads the branches.

A call goes to the address of a symbol. With the symbols in the right place nearly all calls do so, in a wrong place
nearly none. So the name of a file proves nothing, and changes of the booting kernel to its own text do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from a64patch.a64.effects import effects_of
from a64patch.a64.generate import gen_branch_reg
from a64patch.a64.predicates import classify
from a64patch.a64.references import call_targets
from a64patch.a64.words import as_array, from_bytes
from a64patch.errors import FormatError, TargetError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Calls = NDArray[numpy.uint64]

GRANULE = 4096
"""Bytes: a kernel is moved by a multiple of a page at least (Documentation/arch/arm64/booting.rst)."""

ADDRESSES = 1 << 64
"""Addresses, and sums with addresses, are modulo this number."""

SPOT = 4096
"""Bytes of text that are read at one place."""

_SPOTS = 32
_FEWEST_CALLS = 32
_ENOUGH_CALLS = 128
_SHARE_OF_VOTES = 0.25
_SHARE = 0.9
_SHARE_OF_SPOT = 0.6
_VENEER_BYTES = 16

Reader = Callable[[int, int], bytes]
"""(address, size) -> bytes; TargetError when they cannot be read."""


def calls(code: bytes, address: int) -> Calls:
    """The addresses that the BL instructions in `code` call. `code` lies at `address`."""
    return call_targets(as_array(code[: len(code) // 4 * 4]), address)


def looks_like_code(data: bytes) -> bool:
    """Whether nine in ten words are instructions. Text has more than that; tables and names hardly do."""
    words = as_array(data[: len(data) // 4 * 4])
    return len(words) > 0 and bool(
        ((classify(words) >= 0) & (words != 0)).mean() > _SHARE
    )  # 0 is UDF, but rarely meant


def find_shift(starts: Iterable[int], called: Calls, what: str) -> int:
    """The number of bytes to add to `starts`, the functions' addresses, so that most of these calls go to functions.

    The shift is a multiple of 4096, and may be negative; sums are modulo 2**64. Not guaranteed: that it is right.
    `require_fit` decides. Here a quarter of the calls is enough: of the calls around a CPU that executes a module, only
    those of the kernel go to functions of the kernel. At a wrong place nearly none do.

    FormatError when fewer agree on one shift, or when there are fewer than 32 calls. `what` is the name of the symbols
    in the message.
    """
    import numpy

    ours = numpy.unique(numpy.fromiter(starts, numpy.uint64))
    targets = numpy.unique(called)
    targets = targets[:: max(1, len(targets) // _ENOUGH_CALLS)]
    if len(targets) < _FEWEST_CALLS or not len(ours):
        raise FormatError(f"{what} cannot be checked: the text at hand has only {len(targets)} calls of functions")
    votes = []
    for target in targets:
        shifts = target - ours
        votes.append(shifts[shifts & numpy.uint64(GRANULE - 1) == 0])
    shifts, counts = numpy.unique(numpy.concatenate(votes), return_counts=True)
    if not len(counts) or counts.max() < _SHARE_OF_VOTES * len(targets):
        most = int(counts.max()) if len(counts) else 0
        raise FormatError(
            f"{what} does not belong to this kernel: at no place do more than {most} of {len(targets)} calls "
            f"go to its functions"
        )
    shift = int(shifts[counts.argmax()])
    return shift - ADDRESSES if shift >> 63 else shift


def require_fit(read: Reader, starts: Iterable[int], start: int, end: int, what: str) -> None:
    """FormatError unless the calls in 32 spots all over the text [start, end) go to `starts`.

    Only calls that stay in the text count. Nine in ten of all calls must go to `starts`, and six in ten in each spot
    with more than seven calls: another build may fit at the beginning of its text, but not further on.
    """
    import numpy

    ours = numpy.unique(numpy.fromiter(starts, numpy.uint64))
    hits = total = 0
    for address in spots(start, end):
        try:
            called = calls(read(address, min(SPOT, end - address)), address)
        except TargetError as error:
            raise FormatError(f"{what} does not belong to this kernel: there is no text at {address:#x}") from error
        called = called[(called >= numpy.uint64(start)) & (called < numpy.uint64(end))]
        # numpy.isin would sort all of `ours` for each spot.
        found = int((numpy.searchsorted(ours, called, "right") > numpy.searchsorted(ours, called)).sum())
        if len(called) > 7 and found < _SHARE_OF_SPOT * len(called):
            raise FormatError(
                f"{what} does not belong to this kernel: of {len(called)} calls around {address:#x} "
                f"only {found} go to its functions"
            )
        hits, total = hits + found, total + len(called)
    if total < _FEWEST_CALLS or hits < _SHARE * total:
        raise FormatError(
            f"{what} does not belong to this kernel: of {total} calls in its text only {hits} go to its functions"
        )


def fits_somewhat(read: Reader, starts: Iterable[int], start: int, end: int) -> bool:
    """Whether the text [start, end) of a module can be read, and half of the calls inside it go to `starts`.

    Weaker than `require_fit`: a module may have few such calls, or none. Calls of veneers do not count: they leave the
    module by a stub without a name, and newer linkers put these stubs (.plt) among the functions.
    """
    import numpy

    ours = numpy.fromiter(starts, numpy.uint64)
    try:
        called = numpy.concatenate([calls(read(at, min(SPOT, end - at)), at) for at in spots(start, end)])
        called = called[(called >= ours.min()) & (called <= ours.max())]
        others = called[~numpy.isin(called, ours)]
        if 2 * len(others) > len(called):
            others = others[~numpy.isin(others, list(_veneers(read, numpy.unique(others).tolist(), end)))]
    except TargetError:
        return False
    hits = int(numpy.isin(called, ours).sum())
    return hits >= len(others)


def _veneers(read: Reader, addresses: Sequence[int], end: int) -> Iterator[int]:
    """Those of these ascending addresses before `end` where a veneer of a module begins."""
    first = 0
    for behind in range(1, len(addresses) + 1):
        if behind < len(addresses) and addresses[behind] - addresses[behind - 1] < SPOT:
            continue
        place = addresses[first]
        data = read(place, min(addresses[behind - 1] + _VENEER_BYTES, end) - place)
        for address in addresses[first:behind]:
            if _is_veneer(from_bytes(data[address - place :][:_VENEER_BYTES])):
                yield address
        first = behind


def _is_veneer(words: Sequence[int]) -> bool:
    """Whether code begins with a veneer: two or three words that form an address in X16, then BR X16.

    struct plt_entry of arch/arm64/include/asm/module.h: ADRP and ADD since 5.0 (bdb85cd1d206), MOVN and two MOVKs
    before.
    """
    jump = gen_branch_reg(16)
    before = words[: words.index(jump)] if jump in words else []
    forms = [effects_of(word) for word in before]
    return len(forms) > 1 and all(does is not None and set(does.writes) == {"x16"} for does in forms)


def spots(start: int, end: int, count: int = _SPOTS) -> Sequence[int]:
    """Up to `count` addresses, multiples of 4, spread over [start, end)."""
    step = max(SPOT, (end - start) // count) // 4 * 4
    return range(-(-start // 4) * 4, end, step)[:count]

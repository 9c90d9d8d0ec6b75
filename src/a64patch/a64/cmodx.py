"""The architecture's rule on concurrent modification and execution: may this word change while CPUs execute it?

Read on: ../patch/text.py chooses the synchronisation by this answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from a64patch.a64.fields import OFFSET_FIELDS, get_branch_offset
from a64patch.a64.predicates import decode
from a64patch.a64.row import Encoding
from a64patch.errors import RequestError

_LIST_2018 = frozenset({"b", "bl", "brk", "hvc", "isb", "nop", "smc", "svc"})
_LIST_2023 = _LIST_2018 | {"bcond", "cbz", "cbnz", "tbz", "tbnz"}


class Profile(NamedTuple):
    """One issue of the manual's list: instructions of these families may replace each other under execution."""

    families: frozenset[str]
    source: str


PROFILES: dict[str, Profile] = {
    "2013": Profile(_LIST_2018 - {"isb"}, "Arm ARM DDI 0487A.a, B2.6.5"),
    "2018": Profile(_LIST_2018, "Arm ARM DDI 0487, B2.2.5 as of 2018"),
    "2023": Profile(_LIST_2023, "Arm ARM DDI 0487, B2.2.5 as of 2023"),
    "2026": Profile(_LIST_2023 | {"cbcc", "trcit", "udf"}, "Arm ARM DDI 0487M.b, B2.2.5"),
}
"""The issues of the list, by year. The issue of 2013 has no ISB, and says BKPT, which is read as BRK."""


class Verdict(NamedTuple):
    """Whether a change may race with execution, and why. Its truth value is `safe`."""

    safe: bool
    reason: str
    """One sentence for people, with the source of the rule."""

    def __bool__(self) -> bool:
        return self.safe

    def __repr__(self) -> str:
        return f"<Verdict {'safe' if self.safe else 'not safe'}: {self.reason}>"


def hotpatch_safe(old: int | Sequence[int], new: int | Sequence[int], profile: str = "2018") -> Verdict:
    """May the words `new` replace the words `old` while other CPUs execute them, without stopping any CPU?

    True means: each CPU executes the old or the new instruction, consistently, whatever it had fetched (Arm ARM
    B2.2.5). It does not mean that a CPU will ever execute the new instruction. This needs cache maintenance and a
    context synchronisation event on that CPU (Linux cfb00a357864).

    Words are ints; a sequence is a patch of several words, which no list covers. `profile` is one of PROFILES.
    RequestError for an unknown profile, no words, or different numbers of words. EncodingError for a number that is no
    word.

    Linux in 2013 took every hint but five for a NOP; here only the exact NOP is a NOP. Every profile refuses a
    conditional branch whose condition and target both change: the manual's text for A32 and T32 lets a CPU execute a
    mix of old and new, and no text promises better for A64.
    """
    if profile not in PROFILES:
        raise RequestError(f"there is no profile {profile!r}: choose one of {', '.join(PROFILES)}")
    olds = [old] if isinstance(old, int) else list(old)
    news = [new] if isinstance(new, int) else list(new)
    if not olds or len(olds) != len(news):
        raise RequestError(f"{len(olds)} old and {len(news)} new words: a patch in place needs as many, at least one")
    rows = [(decode(before), decode(after)) for before, after in zip(olds, news, strict=True)]
    if olds == news:
        return Verdict(True, "writing the old word again is not a modification (Arm ARM known issue D25021)")
    if len(olds) > 1:
        return Verdict(False, f"{len(olds)} words are not replaced at once: a CPU can execute some of each (B2.2.5)")
    return _one_word(olds[0], news[0], *rows[0], PROFILES[profile])


def _one_word(old: int, new: int, before: Encoding | None, after: Encoding | None, profile: Profile) -> Verdict:
    outside = [
        f"the {age} instruction ({row.name if row else f'.inst {word:#010x}'})"
        for age, word, row in (("old", old, before), ("new", new, after))
        if row is None or profile.families.isdisjoint(row.families)
    ]
    if outside:
        verb = "is" if len(outside) == 1 else "are"
        return Verdict(False, f"{' and '.join(outside)} {verb} not in the list of {profile.source}")
    assert before is not None
    assert after is not None
    retargeted = before.conditional and after.conditional and get_branch_offset(old) != get_branch_offset(new)
    if retargeted and _condition(before, old) != _condition(after, new):
        return Verdict(
            False, "a conditional branch changes condition and target at once: a CPU may mix the two (B2.2.5)"
        )
    return Verdict(True, f"{before.name} and {after.name} are both in the list of {profile.source}")


def _condition(row: Encoding, word: int) -> tuple[str, tuple[int, ...]]:
    """The parts of a conditional branch that decide whether it is taken: the row, and all fields but the distance."""
    return row.name, tuple(field.get(word) for name, field in row.fields.items() if name not in OFFSET_FIELDS)


def is_hotpatchable(word: int, profile: str = "2018") -> bool:
    """Whether the word is in the list of this profile. `hotpatch_safe` needs this of the old and of the new word."""
    if profile not in PROFILES:
        raise RequestError(f"there is no profile {profile!r}: choose one of {', '.join(PROFILES)}")
    row = decode(word)
    return row is not None and not PROFILES[profile].families.isdisjoint(row.families)

"""The names that somebody may have meant who wrote one that does not exist.

Read on: symbols.py puts them into the error about an unknown symbol.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nlargest

MOST = 3
"""The number of names that are offered."""
_LONGEST = 100
"""Characters. A longer name is not offered: the error is one line for people."""
_COMPARED = 64
"""The number of names that are compared exactly; all others only by the number of each character."""
_ALIKE = 0.6
"""Of a name that is offered: twice the characters in common, by both lengths (difflib, SequenceMatcher.ratio)."""


def nearest(wanted: str, names: Iterable[str]) -> list[str]:
    """Up to MOST of the names that look like `wanted`, the nearest first. Upper and lower case are alike.

    A name with a suffix that a compiler adds (`f.isra.0`) comes first. A name that contains `wanted` counts as near, as
    the mangled name of a C++ function does.

    Most names are ruled out quickly: they differ much in length, or have none of the three parts of `wanted` in them.
    Two wrong characters leave one of these parts as it is.
    """
    from difflib import SequenceMatcher

    wanted = wanted[:_LONGEST].lower()
    length, room = len(wanted), max(2, len(wanted) // 3)
    parts = [wanted[length * third // 3 : length * (third + 1) // 3] for third in range(3)]
    matcher = SequenceMatcher(None, "", wanted, autojunk=False)

    def rough(name: str) -> float:
        """No less than the score of the name, but for names that contain `wanted`; 0 for a name that is not near."""
        if len(name) > _LONGEST:
            return 0
        lower = name.lower()
        if length > 2 and wanted in lower:
            return 1 if lower.startswith(f"{wanted}.") else _ALIKE + length / len(name) / 4
        if abs(len(name) - length) > room or not any(part in lower for part in parts if part):
            return 0
        matcher.set_seq1(lower)
        return matcher.quick_ratio()

    def exact(name: str) -> float:
        matcher.set_seq1(name.lower())
        score = matcher.ratio()
        return max(score, rough(name)) if length > 2 and wanted in name.lower() else score

    candidates = nlargest(_COMPARED, ((rough(name), name) for name in names))
    scores = [(exact(name), name) for score, name in candidates if score >= _ALIKE]
    return [name for score, name in sorted(scores, key=lambda it: (-it[0], it[1])) if score >= _ALIKE][:MOST]


def listed(texts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))

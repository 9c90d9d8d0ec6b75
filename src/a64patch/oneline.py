"""How values look in Python's prompt and in a debugger: one line for people, addresses in hex, words as 8 hex digits.

Open to all rooms but a64/, and knows nobody.
Read on: the `__repr__` of each class.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own, without loading typing
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

LONGEST = 200
"""Characters. What is longer ends in `…`."""


def shown(value: object, *parts: str) -> str:
    """`<KIND PART PART>` on one line of at most LONGEST characters; empty parts are left out."""
    text = " ".join([type(value).__name__, *filter(None, parts)])
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:LONGEST])
    return f"<{text}>" if len(text) + 2 <= LONGEST else f"<{text[: LONGEST - 3]}…>"


def printable(text: str) -> str:
    """A text that others chose, on one line: `?` for each character that does not print."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def counted(number: int, noun: str) -> str:
    """`1 word`, `2 words`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def some(texts: Iterable[str], total: int, most: int = 3) -> str:
    """The first few of `total` texts, and how many more there are. No more texts than these are asked for."""
    first = [text for _, text in zip(range(min(most, total)), texts, strict=False)]
    return ", ".join(first) + (f" and {total - len(first)} more" if total > len(first) else "")


def words(numbers: Collection[int]) -> str:
    """A few words of 8 hex digits each, and how many more there are."""
    return some((f"{word:08x}" for word in numbers), len(numbers))

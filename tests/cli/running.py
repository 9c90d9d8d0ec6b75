"""What one run of a command leaves behind."""

from __future__ import annotations

from collections.abc import Callable


class Ran:
    """What one run of the command left behind."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


Run = Callable[..., Ran]


def one_sentence(text: str) -> bool:
    return text.startswith("a64patch: ") and text.count("\n") == 1 and "Traceback" not in text and len(text) < 500

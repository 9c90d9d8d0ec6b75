"""What is remembered of a machine's memory, so that another machine in its place is noticed before it is written to.

Read on: lifeline.py asks after each new connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from a64patch.a64.words import INSN_SIZE

MAX_WITNESSES = 1 << 16
"""Words that are remembered."""


class Witnesses:
    """The words that were written, each with all that may be there now: what was read before, and all that was written.

    A write whose connection was lost has been done or has not. So the word before it counts as well as the new one.
    A word that nobody read before the first write to it is no witness.
    """

    def __init__(self) -> None:
        self._read: dict[int, bytes] = {}
        self._written: dict[int, set[bytes]] = {}

    def note_reads(self, words: Sequence[tuple[int, bytes]]) -> None:
        """These (address, bytes) have been read; those that are no single word do not count."""
        if len(self._read) + len(words) > MAX_WITNESSES:
            self._read.clear()
        self._read.update((address, data) for address, data in words if len(data) == INSN_SIZE)

    def note_writes(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        """These (address, bytes) are about to be written."""
        for start, data in pieces:
            for offset in range(0, len(data), INSN_SIZE):
                address, after = start + offset, data[offset : offset + INSN_SIZE]
                before = self._read.get(address)
                if address in self._written:
                    self._written[address].add(after)
                elif before is not None and len(self._written) < MAX_WITNESSES:
                    self._written[address] = {before, after}

    @property
    def requests(self) -> list[tuple[int, int]]:
        """(address, bytes) of each word that is a witness, ascending."""
        return [(address, INSN_SIZE) for address in sorted(self._written)]

    def foreign(self, found: Sequence[bytes]) -> tuple[int, bytes] | None:
        """Of the words found at `requests`, the first (address, word) that nobody here wrote or saw there."""
        for (address, _), word in zip(self.requests, found, strict=True):
            if word not in self._written[address]:
                return address, word
        return None

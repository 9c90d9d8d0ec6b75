"""Remembered words of a machine's memory, to notice another machine in its place before writing to it.

Read on: lifeline.py checks them after each new connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from a64patch.a64.words import INSN_SIZE

MAX_WITNESSES = 1 << 16
"""The most words that are remembered."""


class Witnesses:
    """The addresses that were written to, each with the words that may be there now: the word read before the first
    write, and every word written since.

    When the connection is lost during a write, the write may have been done or not, so both words count. An address
    that was not read before the first write to it is no witness.
    """

    def __init__(self) -> None:
        self._read: dict[int, bytes] = {}
        self._written: dict[int, set[bytes]] = {}

    def note_reads(self, words: Sequence[tuple[int, bytes]]) -> None:
        """Note (address, bytes) that were read. Only reads of a single word count."""
        found = {address: data for address, data in words if len(data) == INSN_SIZE}
        if len(self._read) + len(found) > MAX_WITNESSES:
            self._read.clear()
        self._read |= found

    def note_writes(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        """Note (address, bytes) that are about to be written."""
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
        """(address, size in bytes) of each witness, ascending."""
        return [(address, INSN_SIZE) for address in sorted(self._written)]

    def foreign(self, found: Sequence[bytes]) -> tuple[int, bytes] | None:
        """Of the words found at `requests`, the first (address, word) that was neither read nor written here."""
        for (address, _), word in zip(self.requests, found, strict=True):
            if word not in self._written[address]:
                return address, word
        return None

"""Reads and writes of memory as packets: made while the machine runs, sent while it is halted.

Read on: gdb.py makes and sends them; rsp.py carries packets.
"""

from __future__ import annotations

import binascii
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from a64patch.errors import CapabilityError, MappingError
from a64patch.targets.frames import Piece
from a64patch.targets.rsp import AS_EXPECTED, Connection, frame

_PAGE = 4096
_GAP = 64
"""The most bytes between two requests on one page for which one packet reads both requests and the gap."""
_ADDRESSES = 1 << 64
_READ_OVERHEAD = 16
"""At least the bytes of a reply to a read beside the data."""
_WRITE_OVERHEAD = 40
"""At least the bytes of a write beside the data: two numbers of 16 digits, a letter, two marks."""
_SMALLEST_PIECE = 16
_LARGEST_PIECE = 4096
"""The most bytes of memory in one packet. gdbserver takes 64 KiB since GDB 14; over a slow line such a reply takes
longer than a stub may be silent."""

_PHYSICAL, _VIRTUAL = frame(b"Qqemu.PhyMemMode:1"), frame(b"Qqemu.PhyMemMode:0")

Span = tuple[int, int]
"""Addresses [start, end)."""


class Reading:
    """Requests for memory as packets. Neighbouring requests share packets; see _GAP."""

    def __init__(
        self,
        requests: Sequence[tuple[int, int]],
        packet_size: int,
        *,
        binary: bool = False,
        expected: Sequence[bytes] = (),
    ) -> None:
        """`requests` are (address, size in bytes). MappingError for a request outside an address space of 64 bits.

        The stub takes packets of `packet_size` bytes. `binary` asks for raw bytes (`x`); only some stubs offer this.
        `expected` are the probable bytes of each request: others cost more time.
        """
        for address, size in requests:
            _require_addresses(address, size)
        self.requests = list(requests)
        """(address, size in bytes) of each request, in order."""
        self._most = _most(packet_size, _READ_OVERHEAD)
        self._binary = binary
        self._pieces = [piece for start, end in _merge(requests) for piece in _cut(start, end, self._most)]
        self._frames = self._build(self._pieces)
        self._places = self._find(requests)
        whole = [parts[0][0] for parts in self._places if len(parts) == 1]
        exact = len(whole) == len(self.requests) and all(
            self._pieces[index] == (address, address + size)
            for index, (address, size) in zip(whole, self.requests, strict=True)
        )
        self._whole = whole if exact else None
        """The piece of each request, if each request is one whole piece: nothing need be cut while CPUs stand."""
        self._expected: list[bytes] = []
        """The expected bytes of each piece, and their packets; empty unless each request is one piece."""
        self._packets: list[bytes] = []
        if [len(data) for data in expected] == [size for _, size in self.requests] and exact and not binary:
            known = dict(zip(whole, expected, strict=True))
            self._expected = [known[index] for index in range(len(self._pieces))]
            self._packets = [frame(binascii.hexlify(data)) for data in self._expected]

    def results(self, connection: Connection) -> list[bytes]:
        """The bytes of each request. All packets are sent together.

        MappingError when the stub gives no bytes for a request. ConnectionLostError as `Connection`, and when a reply
        makes no sense.
        """
        got = self._ask(connection, self._pieces, self._frames)
        if None in got:
            return self._ask_alone(connection)
        if self._whole is not None:
            return [got[index] or b"" for index in self._whole]
        return [b"".join((got[index] or b"")[low:high] for index, low, high in parts) for parts in self._places]

    def _ask_alone(self, connection: Connection) -> list[bytes]:
        """The bytes of each request, read by itself: perhaps only the gaps between requests cannot be read."""
        cuts = [_cut(address, address + size, self._most) for address, size in self.requests]
        pieces = [piece for cut in cuts for piece in cut]
        got = iter(self._ask(connection, pieces, self._build(pieces)))
        results = []
        for (address, size), cut in zip(self.requests, cuts, strict=True):
            parts = [next(got) for _ in cut]
            if None in parts:
                raise MappingError(f"the stub reads no {size} bytes at {address:#x}: name a mapped address")
            results.append(b"".join(part for part in parts if part))
        return results

    def _find(self, requests: Sequence[tuple[int, int]]) -> list[list[tuple[int, int, int]]]:
        """For each request, the parts of pieces that hold it: (index of the piece, first byte, end)."""
        starts = [start for start, _ in self._pieces]
        found = []
        for address, size in requests:
            parts: list[tuple[int, int, int]] = []
            at, index = address, bisect_right(starts, address) - 1
            while at < address + size:
                start, end = self._pieces[index]
                stop = min(end, address + size)
                parts.append((index, at - start, stop - start))
                at, index = stop, index + 1
            found.append(parts)
        return found

    def _build(self, pieces: Sequence[Span]) -> list[bytes]:
        form = b"x%x,%x" if self._binary else b"m%x,%x"
        return [frame(form % (start, end - start)) for start, end in pieces]

    def _ask(self, connection: Connection, pieces: Sequence[Span], frames: Sequence[bytes]) -> list[bytes | None]:
        """The bytes of each piece; None when the stub gives none, or fewer, as the protocol allows."""
        found: list[bytes | None] = []
        known = self._packets if frames is self._frames else []
        replies = connection.ask_expecting(frames, known) if known else self._replies(connection, frames)
        for number, ((start, end), reply) in enumerate(zip(pieces, replies, strict=True)):
            if known and reply is AS_EXPECTED:
                found.append(self._expected[number])
                continue
            if not reply or (reply[:1] == b"E" and len(reply) % 2):
                found.append(None)
                continue
            data = self._decode(reply)
            if data is None or len(data) > end - start:
                raise connection.break_off(f"it answered {reply[:40]!r} to a read of {end - start} bytes")
            found.append(data if len(data) == end - start else None)
        return found

    def _replies(self, connection: Connection, frames: Sequence[bytes]) -> list[bytes]:
        return connection.ask_built(frames)

    def _decode(self, reply: bytes) -> bytes | None:
        if self._binary:
            return reply[1:] if reply[:1] == b"b" else None
        return _unhexlify(reply)


class PhysicalReading(Reading):
    """As Reading, with physical addresses, for QEMU only: "Examining physical memory" in its manual ("GDB usage").

    QEMU keeps the mode when a client leaves. So the request that ends the mode travels in the same burst as the reads.
    """

    def _replies(self, connection: Connection, frames: Sequence[bytes]) -> list[bytes]:
        connection.physical = True
        begun, *replies, ended = connection.ask_built([_PHYSICAL, *frames, _VIRTUAL])
        if ended != b"OK":
            raise connection.break_off(f"it answered {ended[:40]!r} when it was to read virtual addresses again")
        connection.physical = False
        if begun != b"OK":
            raise CapabilityError(f"the stub does not read physical addresses: {_reason(begun)}")
        return replies


def read_virtual_again(connection: Connection) -> None:
    """Let QEMU's stub read and write virtual addresses, whatever an earlier client left behind."""
    if (reply := connection.ask_built([_VIRTUAL])[0]) != b"OK":
        raise connection.break_off(f"it answered {reply[:40]!r} when it was to read virtual addresses")


class Refusal(NamedTuple):
    """A piece of a Writing that the stub did not write."""

    address: int
    size: int
    """Bytes."""
    reason: str
    """The stub's reason, for people."""


class Writing:
    """Bytes for memory as packets. Requests that continue the request before share packets."""

    def __init__(self, requests: Sequence[tuple[int, bytes]], packet_size: int, *, binary: bool = False) -> None:
        """`requests` are (address, bytes). `binary` sends raw bytes (`X`). The rest as `Reading`."""
        most = _most(packet_size, _WRITE_OVERHEAD)
        self.pieces: list[tuple[int, bytes]] = []
        """(address, bytes) of each packet."""
        for address, data in requests:
            _require_addresses(address, len(data))
            if self.pieces and data:
                start, before = self.pieces[-1]
                if start + len(before) == address and len(before) + len(data) <= most:
                    self.pieces[-1] = (start, before + data)
                    continue
            self.pieces += [(address + at, data[at : at + most]) for at in range(0, len(data), most)]
        form, encode = (b"X%x,%x:%b", bytes) if binary else (b"M%x,%x:%b", binascii.hexlify)
        self._frames = [frame(form % (at, len(data), encode(data))) for at, data in self.pieces]

    def refusals(self, connection: Connection) -> list[Refusal]:
        """Send all packets, also after a refused one; returns the pieces that the stub refused.

        ConnectionLostError as `Connection`, and for a reply that is neither `OK` nor an error. After an error or a
        refusal, any of the words may have been written: read them.
        """
        refused = []
        for (address, data), reply in zip(self.pieces, connection.ask_built(self._frames), strict=True):
            if reply[:1] not in (b"", b"E") and reply != b"OK":
                raise connection.break_off(f"it answered {reply[:40]!r} to a write")
            if reply != b"OK":
                refused.append(Refusal(address, len(data), _reason(reply)))
        return refused


def read_stacks(connection: Connection, threads: Sequence[bytes], pieces: Sequence[Piece]) -> list[bytes]:
    """A `frames.Reader`: the stub reads each piece as the thread of its CPU. All packets are sent together.

    Afterwards any of the threads may be selected.
    """
    most = _most(connection.packet_size, _READ_OVERHEAD)
    cuts = [_cut(address, address + size, most) for _, address, size in pieces]
    requests: list[bytes] = []
    for (cpu, _, _), cut in zip(pieces, cuts, strict=True):
        requests.append(b"Hg" + threads[cpu] if threads[cpu] else b"vMustReplyEmpty")
        requests += [b"m%x,%x" % (start, end - start) for start, end in cut]
    replies = iter(connection.ask_all(requests))
    stacks = []
    for (_, address, _), cut in zip(pieces, cuts, strict=True):
        next(replies)
        stack = b""
        for start, end in cut:
            part = _unhexlify(next(replies)) or b""
            if len(stack) == start - address:  # no earlier byte is missing
                stack += part[: end - start]
        stacks.append(stack)
    return stacks


def _merge(requests: Sequence[tuple[int, int]]) -> list[Span]:
    """Spans that hold all requests, ascending."""
    spans: list[Span] = []
    for address, size in sorted(requests):
        if not size:
            continue
        if spans:
            start, last = spans[-1]
            near = address - last <= _GAP and address // _PAGE == (last - 1) // _PAGE
            if address <= last or near:
                spans[-1] = (start, max(last, address + size))
                continue
        spans.append((address, address + size))
    return spans


def _cut(start: int, end: int, most: int) -> list[Span]:
    """Pieces of at most so many bytes."""
    return [(at, min(at + most, end)) for at in range(start, end, most)]


def _most(packet_size: int, overhead: int) -> int:
    """The most bytes of memory in one packet, at two digits for each byte."""
    return min(_LARGEST_PIECE, max(_SMALLEST_PIECE, (packet_size - overhead) // 2 & -_SMALLEST_PIECE))


def _unhexlify(digits: bytes) -> bytes | None:
    try:
        return binascii.unhexlify(digits)
    except binascii.Error:
        return None


_ERRNO = {"E01": "not permitted, or any reason", "E0d": "permission denied", "E0e": "bad address", "E14": "bad address"}
"""The stubs' error codes. The numbers are hexadecimal in kgdb and gdbserver, decimal in QEMU."""


def _reason(reply: bytes) -> str:
    if not reply:
        return "it does not know how"
    code = reply.decode("ascii", "replace")[:40]
    return f"{code} ({_ERRNO[code]})" if code in _ERRNO else code


def _require_addresses(address: int, size: int) -> None:
    if address < 0 or size < 0 or address + size > _ADDRESSES:
        raise MappingError(f"{size} bytes at {address:#x} do not lie in an address space of 64 bits")

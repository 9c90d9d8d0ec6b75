"""The GDB remote serial protocol: packets on a wire, requests and replies. It checks every reply of a stub.

This file knows no target and no memory. The protocol is the appendix "GDB Remote Serial Protocol" of the GDB manual.
Read on: packets.py and stub.py make requests; lifeline.py makes connections.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from typing import Literal, NamedTuple
from zlib import adler32

from a64patch.errors import TargetError
from a64patch.targets.wire import Wire

MOST_BYTES = 1 << 20
"""The most bytes of a packet, as sent and with its runs expanded. A longer packet is not read to its end."""

DEFAULT_PACKET_SIZE = 400
"""Bytes that a stub takes in one packet when it does not tell. GDB assumes no fewer for AArch64."""

_Reply = Literal["reply", "stop", "any"]
"""The answer that a request waits for: a reply that is no stop reply; a stop reply; or either. With "any", a stop reply
goes into `stops` and is not returned."""
_RETRIES = 3
_MOST_CONSOLE = 1 << 16
_SERIES = 4
_SECONDS_A_REQUEST = 0.02
"""Seconds that each request of a burst adds to the time limit of the burst."""

_ESCAPED = re.compile(rb"[#$}*]")
_SPECIAL = re.compile(rb"[}*]")
_STOP = re.compile(rb"[ST][0-9a-fA-F]{2}(?:;|[^:;]+:.*)?|[WX][0-9a-fA-F]{2}(?:;process:[0-9a-fA-F]+)?|N", re.DOTALL)
_CONSOLE = re.compile(rb"O(?:[0-9a-fA-F]{2})+")
_START = re.compile(rb"[$%+-]")
_PLAIN = re.compile(rb"\+?\$([^#$}*]*)#([0-9a-f]{2})")
"""The form of nearly all packets."""
_UNUSUAL = frozenset(b"STWXNO")
"""The first bytes of stop replies and console output. Other replies rarely begin so."""


class ConnectionLostError(TargetError):
    """The connection to a stub cannot be used any more: closed, timed out, or the stub broke the protocol."""


class SilentStubError(ConnectionLostError):
    """A stub has not sent a single byte in time."""


class Found(Enum):
    """The state of a machine before we connected; the value is for people."""

    RUNNING = "running"
    HALTED = "halted"
    NEVER_RAN = "halted before its first instruction"
    NOT_TOLD = "not told by the stub, so taken for running"

    @property
    def stands(self) -> bool:
        """The machine is known to have been halted before we connected. False also for NOT_TOLD."""
        return self in (Found.HALTED, Found.NEVER_RAN)


class Event(NamedTuple):
    """One thing that came over the wire."""

    kind: Literal["ack", "nack", "packet", "notification", "damaged"]
    payload: bytes = b""
    """The contents of the packet, with escapes undone and runs expanded."""


AS_EXPECTED = b"as expected"
"""In place of a reply: this very object (`is`)."""
_EXACT = 256
"""Bytes whose sum is below 65521."""
_ACK, _NACK, _DAMAGED = Event("ack"), Event("nack"), Event("damaged")


def sum_of(body: bytes | bytearray) -> int:
    """The checksum of a packet's body: the sum of its bytes, modulo 256.

    The low half of an Adler-32 is one more than the sum of the bytes, modulo 65521 (RFC 1950): of 256 bytes it is
    exact. zlib takes a sixth of the time of sum(), and a kernel's text comes in thousands of packets.
    """
    if len(body) <= _EXACT:
        return (adler32(body) - 1) & 0xFF
    return sum((adler32(body[at : at + _EXACT]) & 0xFFFF) - 1 for at in range(0, len(body), _EXACT)) & 0xFF


def frame(payload: bytes) -> bytes:
    """A payload as a packet: escaped, with its checksum."""
    body = _ESCAPED.sub(lambda match: bytes((0x7D, match[0][0] ^ 0x20)), payload)
    return b"$%b#%02x" % (body, sum_of(body))


def unpack(body: bytes, limit: int = MOST_BYTES) -> bytes | None:
    """The payload of the bytes between `$` and `#`: escapes undone, runs expanded. None when they break the rules.

    ConnectionLostError when the payload has more than `limit` bytes.
    """
    out = bytearray()
    at = 0
    for match in _SPECIAL.finditer(body):
        here = match.start()
        if here < at:  # the byte before gives this byte another meaning
            continue
        out += body[at:here]
        if here + 1 >= len(body):
            return None
        following = body[here + 1]
        if body[here] == 0x7D:
            out.append(following ^ 0x20)
        else:
            repeat = following - 29
            if not 3 <= repeat <= 97 or not out:
                return None
            out += out[-1:] * repeat
        at = here + 2
        if len(out) > limit:
            raise ConnectionLostError(f"the stub sent a packet of more than {limit} bytes")
    out += body[at:]
    return bytes(out)


class Decoder:
    """Bytes in, events out, however the bytes are cut into pieces. Bytes outside packets are ignored."""

    def __init__(self, limit: int = MOST_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0
        """The number of bytes of an unfinished packet that are known to hold no `#`."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. ConnectionLostError when a packet grows beyond the limit."""
        buffer = self._buffer
        buffer += data
        events: list[Event] = []
        at = 0
        while not self._searched and (plain := _PLAIN.match(buffer, at)):
            body = plain[1]
            if len(body) > self._limit or int(plain[2], 16) != sum_of(body):
                break
            if buffer[at] == 0x2B:
                events.append(_ACK)
            events.append(Event("packet", bytes(body)))
            at = plain.end()
        while start := _START.search(buffer, at):
            at = start.start()
            lead = buffer[at]
            if lead == 0x2B:
                events.append(_ACK)
                at += 1
                continue
            if lead == 0x2D:
                events.append(_NACK)
                at += 1
                continue
            end = buffer.find(b"#", max(at + 1, self._searched))
            if end < 0 or end + 2 >= len(buffer):
                if len(buffer) - at > self._limit:
                    raise ConnectionLostError(f"the stub sent a packet of more than {self._limit} bytes")
                self._searched = (len(buffer) if end < 0 else end) - at
                del buffer[:at]
                return events
            self._searched = 0
            again = buffer.rfind(b"$", at + 1, end)
            if again > 0:  # the end of the first packet was lost
                if lead == 0x24:
                    events.append(_DAMAGED)
                at = again
                continue
            body = bytes(buffer[at + 1 : end])
            good = _checksum(bytes(buffer[end + 1 : end + 3])) == sum_of(body)
            payload = (unpack(body, self._limit) if _SPECIAL.search(body) else body) if good else None
            at = end + 3
            if lead == 0x25:
                if payload is not None:
                    events.append(Event("notification", payload))
            else:
                events.append(_DAMAGED if payload is None else Event("packet", payload))
        self._searched = 0
        buffer.clear()
        return events


def _checksum(digits: bytes) -> int:
    try:
        return int(digits.decode("ascii"), 16) if digits.isalnum() else -1
    except ValueError:
        return -1


def is_stop_reply(payload: bytes) -> bool:
    """Whether the payload says that the machine has stopped (`S`, `T`) or is gone (`W`, `X`, `N`)."""
    return _STOP.fullmatch(payload) is not None


class Connection:
    """Requests to one stub over one wire, and the stub's replies.

    - With `together`, requests are sent in a burst. The acknowledgement of each reply comes before the next request, as
      if the requests were sent one by one.
    - A stop reply may come at any time. When no request waits for it, it goes into `stops`.
    - Notifications are ignored.
    - A damaged packet is asked for again, up to three times, if only one request is under way.

    Every method raises ConnectionLostError when the other end closes, is silent for `timeout` seconds (and 20 ms more
    for each request), or breaks the protocol. After this, and after any exception inside an exchange, replies
    can no longer be told apart. So the wire is closed, and every later call raises ConnectionLostError.
    """

    def __init__(self, wire: Wire, name: str, timeout: float) -> None:
        self.acknowledge = True
        """Packets are acknowledged with `+`, until the stub agrees to QStartNoAckMode."""
        self.together = False
        """Several requests may be under way. Some stubs lose a request that comes while they wait for a `+`."""
        self.packet_size = DEFAULT_PACKET_SIZE
        """Bytes of payload that the stub takes in one packet."""
        self.stops: deque[bytes] = deque(maxlen=16)
        """Stop replies since the last resume that no request waited for."""
        self.was_running = False
        """The machine is known to have run when we connected: a stop reply came unasked, or answered our interrupt.
        When false, it may have run too: QEMU 8.1 and newer send no such stop reply."""
        self.found: Found | None = None
        """The state of the machine before we connected; None until the stub has answered. `stub.meet` refines it."""
        self.unheard = False
        """The last resume has not been acknowledged: it may not have arrived."""
        self.physical = False
        """The stub was asked to read physical addresses (QEMU), and has not said that it reads virtual ones again."""
        self.timeout = timeout
        """Seconds."""
        self.last_words = b""
        """Sent before the wire is closed, when the stub has never said a byte: it may take the connection later."""
        self._wire = wire
        self._name = name
        self._decoder = Decoder()
        self._held = b""
        """The beginning of a packet that may be an expected one."""
        self._owed = b""
        self._console = b""
        self._lost = ""

    @property
    def usable(self) -> bool:
        """The connection is not lost or closed."""
        return not self._lost

    @property
    def lossless(self) -> bool:
        """All sent bytes arrive (Wire.lossless)."""
        return self._wire.lossless

    def close(self, why: str = "it was closed") -> None:
        """Close the wire; any number of times."""
        if not self._lost:
            self._lost = why
            self._wire.close()

    def ask(self, request: bytes) -> bytes:
        """The reply to one request."""
        return self._run(frame(request), 1)[0]

    def ask_all(self, requests: Sequence[bytes]) -> list[bytes]:
        """The reply to each request, in order. With `together`, the requests are sent in one burst."""
        return self.ask_built([frame(request) for request in requests])

    def ask_built(self, frames: Sequence[bytes]) -> list[bytes]:
        """As `ask_all`, for requests that are already packets."""
        if not self.together:
            return [self._run(each, 1)[0] for each in frames]
        return self._run((b"+" if self.acknowledge else b"").join(frames), len(frames)) if frames else []

    def ask_expecting(self, frames: Sequence[bytes], expected: Sequence[bytes]) -> list[bytes]:
        """As `ask_built`, for replies that are mostly known: `expected` is the packet of each.

        A reply whose packet is the expected one, byte for byte, is not decoded: it is AS_EXPECTED in the result.
        """
        if not self.together or not frames:
            return self.ask_built(frames)
        plus = b"+" if self.acknowledge else b""
        return self._run(plus.join(frames), len(frames), expected=[plus + packet for packet in expected])

    def ask_status(self) -> bytes:
        """The stop reply that answers `?`."""
        return self._run(frame(b"?"), 1, kind="stop")[0]

    def greet(self, request: bytes, patience: float) -> bytes:
        """The reply to the first request of a connection. Sets `was_running` and `found`.

        While the machine runs, some stubs react to nothing but an interrupt. So an interrupt is sent when not a byte
        has come for `patience` seconds. A stub that is only slow ignores the interrupt and answers the request.
        """
        try:
            reply = self._run(frame(request), 1, patience=patience)[0]
        except SilentStubError:
            if late := self._run(b"\x03", 1, kind="any"):
                reply = late[0]
            else:
                reply = self._run(frame(request), 1)[0]
                # The stub may still answer the first request too. Then its replies come one request late.
                self._require_in_step()
        finally:
            # A QEMU before 8.1 halts a running machine when we connect, and first sends a stop reply.
            self.was_running = self.was_running or bool(self.stops)
        self.found = Found.RUNNING if self.was_running else Found.NOT_TOLD
        return reply

    def _require_in_step(self) -> None:
        """Skip replies to earlier requests: ask `?` and read until its stop reply, since no other request has one."""
        request = frame(b"?")
        for _ in range(_RETRIES):
            if not self._run(request, 1, kind="any"):
                return
            request = b""
        raise self.break_off("it does not say that its machine has stopped")

    def ask_console(self, command: bytes) -> bytes:
        """The output of the stub's own console for a command (`qRcmd`), at most 64 KiB; empty without a console."""
        self._console = b""
        return self._console if self.ask(b"qRcmd," + command.hex().encode()) == b"OK" else b""

    def interrupt(self) -> bytes:
        """Stop the machine; returns the stop reply. Sends nothing when a stop reply has already come."""
        self.look()
        if self.stops:
            return self.stops[-1]
        return self._run(b"\x03", 1, kind="stop")[0]

    def look(self) -> None:
        """Receive all waiting bytes. Stop replies go into `stops`."""
        self._run(b"", 0)

    def resume(self, request: bytes) -> None:
        """Send a request whose only answer is the next stop reply.

        When the wire may lose bytes, this waits for the acknowledgement. On a lossless wire it does not wait, since
        waiting would compete with the machine that begins to run; `unheard` is true until the acknowledgement comes.
        """
        self.look()
        self.stops.clear()
        self.unheard = True
        self._run(frame(request), 0, ack=self.acknowledge and not self._wire.lossless)

    def series(self, what: str) -> Callable[[], None]:
        """What to call after each exchange of a series, whose length the stub decides.

        It breaks off once the series has taken _SERIES times `timeout`, however quick each answer was.
        """
        limit = _SERIES * self.timeout
        end = time.monotonic() + limit

        def check() -> None:
            if time.monotonic() > end:
                raise self.break_off(f"{what} did not end within {limit:g} seconds")

        return check

    def break_off(self, why: str) -> ConnectionLostError:
        """Close the wire because a reply makes no sense; returns the error to raise."""
        self.close(why)
        return self._error()

    def _error(self) -> ConnectionLostError:
        return ConnectionLostError(f"the connection to {self._name} is lost: {self._lost}")

    def _run(
        self,
        data: bytes,
        count: int,
        *,
        kind: _Reply = "reply",
        ack: bool = False,
        patience: float = 0.0,
        expected: Sequence[bytes] = (),
    ) -> list[bytes]:
        """As `_exchange`; closes the wire on every exception, except a SilentStubError with `patience`."""
        if self._lost:
            raise self._error()
        try:
            return self._exchange(data, count, kind, ack, patience, expected)
        except SilentStubError as error:
            if patience:
                raise
            if self.found is None and self.last_words and self.lossless:
                with suppress(OSError):
                    self._wire.send(memoryview(self.last_words))
            self.close(str(error))
            raise self._error() from None
        except ConnectionLostError as error:
            self.close(str(error))
            raise self._error() from None
        except OSError as error:
            self.close(error.strerror or str(error))
            raise self._error() from error
        except BaseException:
            self.close("it was interrupted in the middle of an exchange")
            raise

    def _exchange(
        self, data: bytes, count: int, kind: _Reply, ack: bool, patience: float, expected: Sequence[bytes]
    ) -> list[bytes]:
        """Send `data`, and return `count` replies of this kind (fewer for `any`). With `ack`, wait for a `+` too.

        `expected` is as in `ask_expecting`.

        SilentStubError when not a byte comes within `patience` seconds, or within the whole time if `patience` is 0.
        """
        wire, decode = self._wire, self._decoder.feed
        if data:
            # Packets that have come until now do not answer these requests.
            if kind != "any":
                self._take_stray()
            data, self._owed = self._owed + data, b""
        seconds = self.timeout + count * _SECONDS_A_REQUEST
        began = time.monotonic()
        to_send = memoryview(data)
        replies: list[bytes] = []
        retries, stops = 0, len(self.stops)
        heard = False
        while True:
            if to_send:
                to_send = to_send[wire.send(to_send) :]
            if not to_send and (len(replies) >= count or (kind == "any" and len(self.stops) > stops)) and not ack:
                if not data and (came := wire.receive()) is not None:
                    self._stray(came)
                return replies
            limit = seconds if heard else patience or seconds
            if not wire.wait(began + limit, to_send=bool(to_send)) or time.monotonic() > began + limit:
                if heard:
                    raise ConnectionLostError(f"the stub did not answer within {limit:g} seconds")
                raise SilentStubError(
                    f"the stub did not answer within {limit:g} seconds; it may be serving another client: most serve"
                    " one at a time"
                )
            came = wire.receive()
            if came is None:
                continue
            if not came:
                raise ConnectionLostError("the stub closed it")
            heard = True
            for event in self._unexpected(came, expected, replies) if expected else decode(came):
                if event.kind == "packet":
                    payload = event.payload
                    if self._is_reply(payload, kind):
                        if len(replies) == count:
                            raise ConnectionLostError("the stub sent a reply that nobody had asked for")
                        replies.append(payload)
                        # The replies before the last are acknowledged in `data`, before the next request.
                        if len(replies) == count and self.acknowledge:
                            self._owed = b"+"
                    elif self.acknowledge:
                        to_send = memoryview(bytes(to_send) + b"+")
                elif event.kind == "ack":
                    ack = self.unheard = False
                elif event.kind != "notification":
                    # With several requests under way, nothing tells which of them is meant.
                    retries += 1
                    if count > 1 or not self.acknowledge or retries > _RETRIES:
                        raise ConnectionLostError("packets arrive damaged")
                    again = b"-" if event.kind == "damaged" else data
                    to_send = memoryview(bytes(to_send) + again)

    def _unexpected(self, came: bytes, expected: Sequence[bytes], replies: list[bytes]) -> Iterator[Event]:
        """The events in these bytes, without the expected packets that come next in order: see `ask_expecting`."""
        came, self._held = self._held + came, b""
        at = 0
        while len(replies) < len(expected):
            packet = expected[len(replies)]
            if came.startswith(packet, at):
                replies.append(AS_EXPECTED)
                at += len(packet)
                self.unheard = False
                if self.acknowledge and len(replies) == len(expected):
                    self._owed = b"+"
                continue
            end = came.find(b"#", at) + 3
            if not 3 <= end <= len(came):
                if len(came) - at > MOST_BYTES:
                    raise ConnectionLostError(f"the stub sent a packet of more than {MOST_BYTES} bytes")
                self._held = came[at:]
                return
            yield from self._decoder.feed(came[at:end])
            at = end
        yield from self._decoder.feed(came[at:])

    def _is_reply(self, payload: bytes, kind: _Reply) -> bool:
        """Whether a packet answers a request. Stop replies go into `stops`, console output into `_console`."""
        if kind != "stop" and (not payload or payload[0] not in _UNUSUAL):
            return True
        if is_stop_reply(payload):
            if kind != "stop":
                self.stops.append(payload)
            return kind == "stop"
        if _CONSOLE.fullmatch(payload):
            self._console = (self._console + bytes.fromhex(payload[1:].decode()))[:_MOST_CONSOLE]
            return False
        if kind == "stop":
            raise ConnectionLostError(f"the stub answered {payload[:40]!r} in place of a stop reply")
        return True

    def _take_stray(self) -> None:
        came = self._wire.receive()
        if came is not None:
            self._stray(came)

    def _stray(self, came: bytes) -> None:
        if not came:
            raise ConnectionLostError("the stub closed it")
        for event in self._decoder.feed(came):
            if event.kind == "ack":
                self.unheard = False
            if event.kind == "packet":
                if self._is_reply(event.payload, "reply"):
                    raise ConnectionLostError("the stub sent a reply that nobody had asked for")
                if self.acknowledge:
                    self._owed += b"+"

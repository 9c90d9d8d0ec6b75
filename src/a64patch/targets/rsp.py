"""The GDB remote serial protocol: packets on a wire, requests and replies. Believes nothing that a stub says.

Knows no target and no memory. The protocol is the appendix "GDB Remote Serial Protocol" of the GDB manual.
Read on: packets.py and stub.py make requests; lifeline.py makes connections.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Literal, NamedTuple

from a64patch.errors import TargetError
from a64patch.targets.wire import Wire

MOST_BYTES = 1 << 20
"""A packet that is longer, as sent or with its runs expanded, is not read to its end."""

DEFAULT_PACKET_SIZE = 400
"""Bytes that a stub takes in one packet when it does not say: what GDB assumes for AArch64 is not less."""

_Reply = Literal["reply", "stop", "any"]
"""What a request waits for: a reply that is no stop reply; a stop reply; either of them, where a stop reply goes into
`stops` and is no reply."""
_RETRIES = 3
_MOST_CONSOLE = 1 << 16
_SECONDS_A_REQUEST = 0.02
"""What each request of a burst adds to the time that all of it may take."""

_ESCAPED = re.compile(rb"[#$}*]")
_SPECIAL = re.compile(rb"[}*]")
_STOP = re.compile(rb"[ST][0-9a-fA-F]{2}(?:;|[^:;]+:.*)?|[WX][0-9a-fA-F]{2}(?:;process:[0-9a-fA-F]+)?|N", re.DOTALL)
_CONSOLE = re.compile(rb"O(?:[0-9a-fA-F]{2})+")
_START = re.compile(rb"[$%+-]")
_PLAIN = re.compile(rb"\+?\$([^#$}*]*)#([0-9a-f]{2})")
"""What nearly all packets are."""
_UNUSUAL = frozenset(b"STWXNO")
"""What stop replies and console output begin with, and replies rarely do."""


class ConnectionLostError(TargetError):
    """The connection to a stub cannot be used any more: closed, timed out, or the stub broke the protocol."""


class SilentStubError(ConnectionLostError):
    """A stub has not sent a single byte in time."""


class Found(Enum):
    """What a machine did before we came; the value is for people."""

    RUNNING = "running"
    HALTED = "halted"
    NEVER_RAN = "halted before its first instruction"
    NOT_TOLD = "not told by the stub, so taken for running"

    @property
    def stands(self) -> bool:
        """The machine is known to have been halted before we came. False also where nobody tells."""
        return self in (Found.HALTED, Found.NEVER_RAN)


class Event(NamedTuple):
    """One thing that came over the wire."""

    kind: Literal["ack", "nack", "packet", "notification", "damaged"]
    payload: bytes = b""
    """What the packet says, unescaped, its runs expanded."""


_ACK, _NACK, _DAMAGED = Event("ack"), Event("nack"), Event("damaged")


def frame(payload: bytes) -> bytes:
    """A payload as a packet: escaped, with its checksum."""
    body = _ESCAPED.sub(lambda match: bytes((0x7D, match[0][0] ^ 0x20)), payload)
    return b"$%b#%02x" % (body, sum(body) & 0xFF)


def unpack(body: bytes, limit: int = MOST_BYTES) -> bytes | None:
    """What stands between `$` and `#`: escapes undone, runs expanded; None when it is against the rules.

    ConnectionLostError when it has more than `limit` bytes.
    """
    out = bytearray()
    at = 0
    for match in _SPECIAL.finditer(body):
        here = match.start()
        if here < at:  # a byte that the one before gives another meaning
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
    """Bytes in, events out, however the bytes are cut into pieces. Bytes outside of packets mean nothing."""

    def __init__(self, limit: int = MOST_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0
        """So many bytes of an unfinished packet are known to hold no `#`."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. ConnectionLostError when a packet grows beyond the limit."""
        buffer = self._buffer
        buffer += data
        events: list[Event] = []
        at = 0
        while not self._searched and (plain := _PLAIN.match(buffer, at)):
            body = plain[1]
            if len(body) > self._limit or int(plain[2], 16) != sum(body) & 0xFF:
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
            if again > 0:  # the end of the first one was lost
                if lead == 0x24:
                    events.append(_DAMAGED)
                at = again
                continue
            body = bytes(buffer[at + 1 : end])
            good = _checksum(bytes(buffer[end + 1 : end + 3])) == sum(body) & 0xFF
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
    """The stub says that the machine has stopped (`S`, `T`) or is gone (`W`, `X`, `N`)."""
    return _STOP.fullmatch(payload) is not None


class Connection:
    """Requests to one stub over one wire, and its replies.

    Requests travel together where `together` says that the stub takes that: each but the first follows the
    acknowledgement of the reply before, as it would if they were sent one by one. A stop reply that nobody waits for
    may come anywhere; it is put into `stops`. Notifications are ignored. A packet that came damaged is asked for
    again, three times, if it was the only one under way.

    Everything raises ConnectionLostError when the other end closes, is silent for `timeout` seconds (and 20 ms more
    for each request beyond the first), or breaks the protocol. After that, and after any exception inside an
    exchange, replies can no longer be told apart, so the wire is closed and everything raises it again.
    """

    def __init__(self, wire: Wire, name: str, timeout: float) -> None:
        self.acknowledge = True
        """Packets are acknowledged with `+`, until the stub agreed to QStartNoAckMode."""
        self.together = False
        """Several requests may be under way. Some stubs look for an acknowledgement where they look for no request."""
        self.packet_size = DEFAULT_PACKET_SIZE
        """Bytes of payload that the stub takes in one packet."""
        self.stops: deque[bytes] = deque(maxlen=16)
        """Stop replies that came without being waited for, since the last resume."""
        self.was_running = False
        """The machine showed that it ran when we came: by a stop reply that nobody had asked for, or that answered our
        interrupt. False says nothing: QEMU 8.1 and newer send neither."""
        self.found: Found | None = None
        """What the stub is known to have found; None until it has answered. Whoever knows the stub writes it."""
        self.unheard = False
        """The last resume has not been acknowledged: it may not have arrived."""
        self.timeout = timeout
        """Seconds."""
        self._wire = wire
        self._name = name
        self._decoder = Decoder()
        self._owed = b""
        self._console = b""
        self._lost = ""

    @property
    def usable(self) -> bool:
        """Nothing has gone wrong yet."""
        return not self._lost

    @property
    def lossless(self) -> bool:
        """What is sent arrives."""
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
        """The reply to each request, in order, sent together where that is allowed."""
        return self.ask_built([frame(request) for request in requests])

    def ask_built(self, frames: Sequence[bytes]) -> list[bytes]:
        """As `ask_all`, for requests that are packets already."""
        if not self.together:
            return [self._run(each, 1)[0] for each in frames]
        return self._run((b"+" if self.acknowledge else b"").join(frames), len(frames)) if frames else []

    def ask_status(self) -> bytes:
        """The stop reply that answers `?`."""
        return self._run(frame(b"?"), 1, kind="stop")[0]

    def greet(self, request: bytes, patience: float) -> bytes:
        """The reply to the first request of all; `was_running` has its value after it.

        Some stubs hear nothing but an interrupt while the machine runs: that is sent when not a byte has come for
        `patience` seconds. A stub that was only slow ignores it, and answers the request.
        """
        try:
            reply = self._run(frame(request), 1, patience=patience)[0]
        except SilentStubError:
            if late := self._run(b"\x03", 1, kind="any"):
                reply = late[0]
            else:
                reply = self._run(frame(request), 1)[0]
                # It may have kept the first request and answer that too: then its replies come one too late.
                self._require_in_step()
        finally:
            # A QEMU before 8.1 halts a running machine as we come, and says so before anything else.
            self.was_running = self.was_running or bool(self.stops)
        self.found = Found.RUNNING if self.was_running else Found.NOT_TOLD
        return reply

    def _require_in_step(self) -> None:
        """Read past replies to what was asked before: `?` alone is answered by a stop reply."""
        request = frame(b"?")
        for _ in range(_RETRIES):
            if not self._run(request, 1, kind="any"):
                return
            request = b""
        raise self.break_off("it does not say that its machine has stopped")

    def ask_console(self, command: bytes) -> bytes:
        """What the stub's own console says to a command (`qRcmd`), at most 64 KiB; empty when it has no console."""
        self._console = b""
        return self._console if self.ask(b"qRcmd," + command.hex().encode()) == b"OK" else b""

    def interrupt(self) -> bytes:
        """Stop the machine; the stop reply. Nothing is sent when it has said already that it stopped."""
        self.look()
        if self.stops:
            return self.stops[-1]
        return self._run(b"\x03", 1, kind="stop")[0]

    def look(self) -> None:
        """Take what has come meanwhile: stop replies, into `stops`."""
        self._run(b"", 0)

    def resume(self, request: bytes) -> None:
        """Send a request that is answered by the next stop only.

        Where it may be lost on the way this waits for its acknowledgement; elsewhere `unheard` is true until then,
        since waiting would compete with the machine that begins to run.
        """
        self.look()
        self.stops.clear()
        self.unheard = True
        self._run(frame(request), 0, ack=self.acknowledge and not self._wire.lossless)

    def break_off(self, why: str) -> ConnectionLostError:
        """Close the wire because a reply makes no sense; the error to raise."""
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
    ) -> list[bytes]:
        """See `_exchange`. With `patience`, SilentStubError leaves the connection usable."""
        if self._lost:
            raise self._error()
        try:
            return self._exchange(data, count, kind, ack, patience)
        except SilentStubError as error:
            if patience:
                raise
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

    def _exchange(self, data: bytes, count: int, kind: _Reply, ack: bool, patience: float) -> list[bytes]:
        """Send, and gather `count` replies of this kind (fewer for `any`), or the acknowledgement of what was sent.

        SilentStubError when not a byte comes for `patience` seconds, if that is not 0, or for the whole time.
        """
        wire, decode = self._wire, self._decoder.feed
        if data:
            # What has come until now answers nothing of this.
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
                error = ConnectionLostError if heard else SilentStubError
                raise error(f"the stub did not answer within {limit:g} seconds")
            came = wire.receive()
            if came is None:
                continue
            if not came:
                raise ConnectionLostError("the stub closed it")
            heard = True
            for event in decode(came):
                if event.kind == "packet":
                    payload = event.payload
                    if self._is_reply(payload, kind):
                        if len(replies) == count:
                            raise ConnectionLostError("the stub answered what nobody had asked")
                        replies.append(payload)
                        # Each but the last is acknowledged in front of the next request.
                        if len(replies) == count and self.acknowledge:
                            self._owed = b"+"
                    elif self.acknowledge:
                        to_send = memoryview(bytes(to_send) + b"+")
                elif event.kind == "ack":
                    ack = self.unheard = False
                elif event.kind != "notification":
                    # Only one request may be under way, or nobody knows which of them this means.
                    retries += 1
                    if count > 1 or not self.acknowledge or retries > _RETRIES:
                        raise ConnectionLostError("packets arrive damaged")
                    again = b"-" if event.kind == "damaged" else data
                    to_send = memoryview(bytes(to_send) + again)

    def _is_reply(self, payload: bytes, kind: _Reply) -> bool:
        """Whether a packet answers; what does not is kept where it belongs."""
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
            raise ConnectionLostError(f"the stub answered {payload[:40]!r} where it should say that it stopped")
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
                    raise ConnectionLostError("the stub answered what nobody had asked")
                if self.acknowledge:
                    self._owed += b"+"

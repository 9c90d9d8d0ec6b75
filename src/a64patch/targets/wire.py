"""The bytes under a GDB stub's protocol: a TCP connection, a Unix socket or a serial line, and their names.

Read on: rsp.py speaks over a wire; lifeline.py opens one.
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from a64patch.errors import CapabilityError, RequestError, TargetError

_PIECE = 1 << 18
_MOST_OPTIONS = 20


class Wire(Protocol):
    """Bytes in both directions. Only `wait` blocks."""

    lossless: bool
    """All sent bytes arrive, even when many of them wait on the way: several requests may be under way at a time."""

    def send(self, data: memoryview) -> int:
        """Send as many bytes as fit now; returns their number. OSError when the other end is gone."""

    def receive(self) -> bytes | None:
        """The bytes that have come, at most 256 KiB. None when none have come, empty when the other end has closed.

        OSError when the other end is gone.
        """

    def wait(self, deadline: float, *, to_send: bool) -> bool:
        """Wait until bytes have come or, with `to_send`, bytes can be sent. False at `deadline` (time.monotonic())."""

    def close(self) -> None:
        """Close the wire; any number of times."""


@dataclass(frozen=True)
class Location:
    """The address of a stub. `parse_location` finds the stub again by `text` from any working directory."""

    text: str
    host: str = ""
    port: int = 0
    """The TCP port, when `host` is not empty."""
    socket_path: str = ""
    device: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    """The settings behind `?`; a key given twice is refused."""


def parse_location(text: str) -> Location:
    """`gdb://HOST:PORT` (IPv6 in brackets), `gdb+unix:PATH` or `gdb+serial:DEVICE`, each with `?KEY=VALUE&…`.

    RequestError for anything else.
    """
    plain, mark, query = text.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=_MOST_OPTIONS)
    except ValueError:
        pairs = []
        if mark:
            raise RequestError(f"{query[:200]!r} is not a list of KEY=VALUE with & between") from None
    options = dict(pairs)
    if len(options) != len(pairs):
        raise RequestError(f"a setting of {text[:200]!r} is given twice; give each once")
    for prefix in ("gdb+unix:", "gdb+serial:"):
        if plain.startswith(prefix):
            path = plain.removeprefix(prefix)
            if not path:
                raise RequestError(f"{text!r} names no path: write {prefix}PATH")
            path = os.path.abspath(path)
            name = prefix + path + mark + query
            unix = prefix == "gdb+unix:"
            return Location(name, socket_path=path if unix else "", device="" if unix else path, options=options)
    try:
        parts = urlsplit(plain)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or plain != f"gdb://{parts.netloc}" or "@" in plain:
        raise RequestError(f"{text[:200]!r} is not gdb://HOST:PORT: write gdb://localhost:1234 or gdb://[::1]:1234")
    return Location(text, host=host, port=port, options=options)


def open_wire(location: Location, deadline: float, *, remote: bool, baud: int) -> Wire:
    """Connect. TargetError when no stub answers before `deadline` (time.monotonic seconds).

    CapabilityError when the host is not this machine and `remote` is false: the protocol has no authentication, so
    every machine on the way can read and change the packets.
    """
    try:
        if location.device:
            return SerialWire(location.device, baud)
        if location.socket_path:
            return SocketWire(_connect(socket.AF_UNIX, location.socket_path, deadline))
        return _open_tcp(location, deadline, remote=remote)
    except OSError as error:
        if isinstance(error, TargetError):
            raise
        why = error.strerror or str(error)
        raise TargetError(f"cannot connect to {location.text}: {why}; is the stub there, and free?") from error


def _open_tcp(location: Location, deadline: float, *, remote: bool) -> Wire:
    found = socket.getaddrinfo(location.host, location.port, type=socket.SOCK_STREAM)
    places = [(family, address) for family, _, _, _, address in found]
    if not remote and not all(_is_loopback(str(address[0])) for _, address in places):
        raise CapabilityError(
            f"{location.host} is another machine, and the GDB protocol has no authentication: every machine on the way"
            " may read and change packets; add --remote (remote=True) if the network is trusted, or use an SSH tunnel"
        )
    error: OSError = TargetError(f"{location.host} has no address")
    for family, address in places:
        try:
            return SocketWire(_connect(family, address, deadline))
        except OSError as failed:
            error = failed
    raise error


def _is_loopback(address: str) -> bool:
    number = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(number, "ipv4_mapped", None)
    return bool((mapped or number).is_loopback)


def _connect(family: int, address: object, deadline: float) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.settimeout(max(0.001, deadline - time.monotonic()))
        made.connect(address)  # type: ignore[arg-type]
        made.setblocking(False)
        if family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if made.getsockname() == made.getpeername():
                # When a free port is in the range for clients, Linux may connect a socket to itself.
                raise ConnectionRefusedError(111, "Connection refused")
    except BaseException:
        made.close()
        raise
    return made


def _wait(handle: int, deadline: float, *, to_send: bool) -> bool:
    seconds = max(0.0, deadline - time.monotonic())
    poll = select.poll()
    poll.register(handle, select.POLLIN | (select.POLLOUT if to_send else 0))
    return bool(poll.poll(seconds * 1000))


class SocketWire:
    """A connected stream socket."""

    lossless = True

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._tcp = connected.family != socket.AF_UNIX

    def send(self, data: memoryview) -> int:
        """As Wire."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def receive(self) -> bytes | None:
        """As Wire."""
        try:
            return self._socket.recv(_PIECE)
        except BlockingIOError:
            return None

    def wait(self, deadline: float, *, to_send: bool) -> bool:
        """As Wire."""
        if self._tcp:
            # A stub without TCP_NODELAY that sends acknowledgement and reply apart waits up to 40 ms in between, for
            # our TCP acknowledgement. Linux resets this option by itself, so it is set before each wait.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return _wait(self._socket.fileno(), deadline, to_send=to_send)

    def close(self) -> None:
        """As Wire."""
        self._socket.close()


class SerialWire:
    """A serial device in raw mode, 8 data bits, no parity, no flow control. No other program may open it meanwhile."""

    lossless = False

    def __init__(self, device: str, baud: int) -> None:
        import fcntl
        import termios
        import tty

        speed = getattr(termios, f"B{baud}", None)
        if speed is None:
            raise RequestError(f"{baud} is not a speed of serial lines: write baud=115200, for one")
        self._handle = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._before = termios.tcgetattr(self._handle)
            fcntl.ioctl(self._handle, termios.TIOCEXCL)
            tty.setraw(self._handle, termios.TCSANOW)
            settings = termios.tcgetattr(self._handle)
            settings[2] |= termios.CLOCAL | termios.CREAD
            settings[4] = settings[5] = speed
            termios.tcsetattr(self._handle, termios.TCSANOW, settings)
            termios.tcflush(self._handle, termios.TCIOFLUSH)
        except termios.error as error:
            os.close(self._handle)
            raise TargetError(f"{device} is not a serial device: {error.args[-1]}") from error

    def send(self, data: memoryview) -> int:
        """As Wire."""
        try:
            return os.write(self._handle, data[:256])
        except BlockingIOError:
            return 0

    def receive(self) -> bytes | None:
        """As Wire."""
        try:
            return os.read(self._handle, _PIECE)
        except BlockingIOError:
            return None

    def wait(self, deadline: float, *, to_send: bool) -> bool:
        """As Wire."""
        return _wait(self._handle, deadline, to_send=to_send)

    def close(self) -> None:
        """As Wire; the device gets its former settings back."""
        import fcntl
        import termios
        from contextlib import suppress

        if self._handle >= 0:
            with suppress(termios.error, OSError):
                fcntl.ioctl(self._handle, termios.TIOCNXCL)
                termios.tcsetattr(self._handle, termios.TCSANOW, self._before)
            os.close(self._handle)
            self._handle = -1

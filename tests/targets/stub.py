"""A GDB stub of our own: serves memory honestly, or breaks the rule that a test wants broken, at the packet it wants.

It parses packets by itself, so that it does not share the mistakes of src/a64patch/targets/rsp.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import pytest

from a64patch.errors import TargetError
from a64patch.targets.wire import Location
from tests.support import GUARD_SECONDS
from tests.targets.clock import Clock

BASE = 0xFFFF800008000000
STACK = 0xFFFF800009000000
PACKET_SIZE = 0x200
_SECONDS_A_FLOOD = 0.5
"""What each piece of a flood takes, by the stub's clock."""

Kind = Literal["qemu", "qemu-10", "qemu-user", "gdbserver", "kgdb", "openocd", "plain"]
"""`qemu` is QEMU 7.2: it halts a running machine as a client comes, and says so unasked. `qemu-10` does not say so."""
QEMUS: tuple[Kind, ...] = ("qemu", "qemu-10")
HALT_ON_CONNECTION: tuple[Kind, ...] = (*QEMUS, "openocd", "plain")
Over = Literal["nothing", "unix", "tcp"]
Cut = Literal["before", "after", "half"]
"""The connection ends instead of carrying a packet out; after that, without a reply; in the middle of the reply."""

TARGET_XML = (
    '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target><architecture>aarch64</architecture>'
    '<xi:include href="core.xml"/><xi:include href="more.xml"/></target>'
)
CORE_XML = (
    '<?xml version="1.0"?><!DOCTYPE feature SYSTEM "gdb-target.dtd"><feature name="org.gnu.gdb.aarch64.core">'
    + "".join(f'<reg name="x{number}" bitsize="64"/>' for number in range(31))
    + '<reg name="sp" bitsize="64" type="data_ptr"/><reg name="pc" bitsize="64"/><reg name="cpsr" bitsize="32"/>'
    "</feature>"
)
MORE_XML = (
    '<?xml version="1.0"?><feature name="org.qemu.gdb.arm.sys.regs"><reg name="VBAR" bitsize="64" regnum="90"/>'
    '<reg name="ELR_EL1" bitsize="64" regnum="91"/><reg name="TTBR1_EL1" bitsize="64" regnum="93"/></feature>'
)


def packet(payload: bytes) -> bytes:
    return b"$" + payload + b"#" + b"%02x" % (sum(payload) % 256)


@dataclass
class Machine:
    """Memory, and CPUs of which only a few registers matter."""

    text: bytearray
    cpus: int = 2
    running: bool = True
    state: str = ""
    """What QEMU's `info status` adds to `paused`, until the machine is let go: `prelaunch` for one that never ran."""
    read_only: bool = False
    stack: bytearray = field(default_factory=lambda: bytearray(256))
    blind: set[int] = field(default_factory=set)
    """CPUs, from 0, that do not see the memory, as one that executes a user's program does not see the kernel."""
    physical: dict[int, bytes] = field(default_factory=dict)
    """Physical memory by address. QEMU reads zeros elsewhere."""
    physical_mode: bool = False
    """As QEMU, the machine's stub keeps it from one client to the next."""
    registers: dict[tuple[int, int], int] = field(default_factory=dict)
    """By CPU and number; 32 is the PC. Others are 0."""
    resumed: int = 0
    stopped: int = 0

    def resume(self) -> None:
        self.running, self.state = True, ""
        self.resumed += 1

    def place(self, address: int, size: int) -> tuple[bytearray, int] | None:
        for memory, base in ((self.text, BASE), (self.stack, STACK)):
            if base <= address and address + size <= base + len(memory):
                return memory, address - base
        return None

    @property
    def words(self) -> list[int]:
        return [int.from_bytes(self.text[at : at + 4], "little") for at in range(0, len(self.text), 4)]


class Stub:
    """Serves a machine, one connection after the other, within a `with` block.

    `over` is the wire: "nothing" calls the stub from the target's own `send`, and the target's clock is `clock`, so
    that nothing depends on threads or on time. "unix" and "tcp" are sockets, served in a thread; there waiting for
    what never comes takes its time.

    `mangle(number, request, reply)` may return other bytes to send in place of an honest reply, or None to send that;
    `number` counts packets over all connections, from 0. `cut_at` is the number of the packet at which the connection
    ends, as `cut` says; `again` is how many more connections are accepted after that.
    """

    def __init__(
        self,
        machine: Machine,
        kind: Kind = "qemu",
        *,
        mangle: Callable[[int, bytes, bytes], bytes | None] | None = None,
        cut_at: int | None = None,
        cut: Cut = "before",
        again: int = 1000,
        over: Over = "nothing",
    ) -> None:
        self.machine, self.kind = machine, kind
        self.clock = Clock()
        self.timeout = 5.0 if over == "nothing" else GUARD_SECONDS
        """For a target: with sockets nothing but a guard."""
        self.requests: list[bytes] = []
        self.connections = 0
        self.die_at: bytes | None = None
        """The connection ends at each packet that begins so."""
        self.flood = b""
        """Sent without end in place of every reply, over no socket."""
        self.loses_writes = False
        """It says that it has written, and has not."""
        self.mute = False
        """It has no console."""
        self.unacknowledged = 0
        """How often a packet came although the reply before it had not been acknowledged."""
        self._mangle, self._cut_at, self._cut, self._again = mangle, cut_at, cut, again
        self._over = over
        self._session: Session | None = None
        self._hang_up: Callable[[], None] = lambda: None
        self._undo = contextlib.ExitStack()
        self.location = "gdb+unix:/nowhere/stub"

    def __enter__(self) -> Self:
        if self._over == "nothing":
            patches = self._undo.enter_context(pytest.MonkeyPatch.context())
            patches.setattr("a64patch.targets.lifeline.time", self.clock)
            patches.setattr("a64patch.targets.rsp.time", self.clock)
            patches.setattr("a64patch.targets.lifeline.open_wire", self._connect)
        else:
            self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def stop_by_itself(self) -> None:
        """The machine halts, and says so, though nobody asked."""
        assert self._session is not None
        self.machine.running = False
        self._session.say(b"T05thread:p01.01;")

    def replace(self, machine: Machine) -> None:
        """Another machine is served from the next connection on, and that comes soon."""
        self.machine = machine
        self._hang_up()

    def begin(self, send: Callable[[bytes], object], hang_up: Callable[[], None]) -> Session:
        """A client has connected; ConnectionRefusedError when none may any more."""
        if self._gone():
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        if self._cut_at is not None and len(self.requests) > self._cut_at:
            self._again -= 1
        self.connections += 1
        self._hang_up = hang_up
        self._session = Session(self, send)
        return self._session

    def _gone(self) -> bool:
        return self._again == 0 and self._cut_at is not None and len(self.requests) > self._cut_at

    def _connect(self, location: Location, deadline: float, *, remote: bool, baud: int) -> InProcessWire:
        try:
            return InProcessWire(self)
        except OSError as error:
            raise TargetError(f"cannot connect to {location.text}: {error.strerror}") from error

    def _listen(self) -> None:
        """Serve a socket in a thread, until the block ends."""
        directory = self._undo.enter_context(tempfile.TemporaryDirectory(prefix="a64patch-stub-"))
        if self._over == "tcp":
            listener = socket.create_server(("127.0.0.1", 0))
            self.location = f"gdb://127.0.0.1:{listener.getsockname()[1]}"
        else:
            listener = socket.socket(socket.AF_UNIX)
            path = os.path.join(directory, "stub")
            listener.bind(path)
            listener.listen()
            self.location = f"gdb+unix:{path}"
        thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        thread.start()

        def end() -> None:
            for closed in (listener.shutdown, self._hang_up, listener.close):
                with contextlib.suppress(OSError):
                    closed(*([socket.SHUT_RDWR] if closed == listener.shutdown else []))
            thread.join(GUARD_SECONDS)
            assert not thread.is_alive()

        self._undo.callback(end)

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not self._gone():
                connected, _ = listener.accept()

                def hang_up(connected: socket.socket = connected) -> None:
                    with contextlib.suppress(OSError):
                        connected.shutdown(socket.SHUT_RDWR)

                with contextlib.suppress(OSError), connected:
                    self.begin(connected.sendall, hang_up).serve(lambda connected=connected: connected.recv(65536))  # type: ignore[misc]
        listener.close()

    def cut_now(self) -> Cut | None:
        return self._cut if len(self.requests) - 1 == self._cut_at else None

    def altered(self, request: bytes, reply: bytes) -> bytes:
        honest = packet(reply)
        changed = self._mangle(len(self.requests) - 1, request, reply) if self._mangle else None
        return honest if changed is None else changed


class InProcessWire:
    """A wire whose other end is a stub, without a thread: a request is answered as it is sent."""

    lossless = True

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._came: list[bytes] = []
        self._ended = False
        self._session = stub.begin(self._came.append, self._end)
        self._session.welcome()

    def _end(self) -> None:
        self._ended = True

    def send(self, data: memoryview) -> int:
        if self._ended:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        if not self._session.feed(bytes(data)):
            self._end()
        return len(data)

    def receive(self) -> bytes | None:
        if self._session.flooding:
            # So that it ends at some time.
            self._stub.clock.sleep(_SECONDS_A_FLOOD)
            return self._stub.flood
        came = b"".join(self._came)
        self._came.clear()
        return came or (b"" if self._ended else None)

    def wait(self, deadline: float, *, to_send: bool) -> bool:
        if any(self._came) or self._ended or self._session.flooding or to_send:
            return True
        self._stub.clock.wait_until(deadline)
        return False

    def close(self) -> None:
        self._end()


class Session:
    """One connection: what it says goes to `send`."""

    def __init__(self, stub: Stub, send: Callable[[bytes], object]) -> None:
        self._stub, self._machine, self._kind = stub, stub.machine, stub.kind
        self._send = send
        self.flooding = False
        """It sends the stub's flood, and will not stop."""
        self._buffer = b""
        self._acknowledge = True
        self._owed = 0
        self._selected = 0
        self._threads_given = 0
        self._described = False

    def serve(self, receive: Callable[[], bytes]) -> None:
        """Until either end has had enough."""
        self.welcome()
        while (data := receive()) and self.feed(data):
            pass

    def welcome(self) -> None:
        """What happens as a client comes."""
        if self._kind in HALT_ON_CONNECTION and self._machine.running:
            self._machine.running = False
            self._machine.stopped += 1
            if self._kind == "qemu":
                self.say(b"T02thread:01;")

    def feed(self, data: bytes) -> bool:
        """Carry out what has come; False when the connection ends."""
        self._buffer += data
        # Some look for an acknowledgement on the wire while the next request lies in their buffer already.
        if self._kind in ("qemu-user", "kgdb") and self._buffer.count(b"$") > 1:
            raise AssertionError("the client sent a request before the reply to the one before")
        while self._buffer:
            if self._buffer[:1] == b"\x03":
                self._buffer = self._buffer[1:]
                self._interrupt()
            elif self._buffer[:1] == b"+":
                self._buffer = self._buffer[1:]
                self._owed -= 1
            elif match := re.match(rb"\$([^#$]*)#([0-9a-f]{2})", self._buffer):
                self._buffer = self._buffer[match.end() :]
                assert int(match[2], 16) == sum(match[1]) % 256, "the client sent a wrong checksum"
                if not self._packet(match[1]):
                    return False
            elif self._buffer[:1] == b"$":
                break
            else:
                self._buffer = self._buffer[1:]
        return True

    def say(self, payload: bytes) -> None:
        self._owed += 1
        self._send(packet(payload))

    def _interrupt(self) -> None:
        if self._machine.running and self._kind != "qemu-user":
            self._machine.running = False
            self._machine.stopped += 1
            self.say(b"T02thread:p01.01;" if self._kind in QEMUS else b"T02thread:1;")

    def _packet(self, request: bytes) -> bool:
        if self._machine.running:
            if self._kind == "kgdb":
                return True  # nobody listens
            # QEMU stops at any byte, and throws it away.
            self._interrupt()
        if self._acknowledge:
            self._stub.unacknowledged += self._owed > 0
            self._send(b"+")
        self._owed = 0
        self._stub.requests.append(request)
        if self._stub.die_at is not None and request.startswith(self._stub.die_at):
            return False
        if self._stub.flood:
            self.flooding = True
            return True
        cut = self._stub.cut_now()
        if cut == "before":
            return False
        reply = self._answer(request)
        if cut == "after":
            return False
        if reply is not None:
            self._owed += 1
            sent = self._stub.altered(request, reply)
            if cut == "half":
                sent = sent[: len(sent) // 2]
            self._send(sent)
        return cut is None

    def _answer(self, request: bytes) -> bytes | None:
        """The reply; None when there is none."""
        text = request.decode("latin-1")
        machine = self._machine
        if text.startswith("qSupported"):
            return self._features()
        if text in ("c", "vCont;c"):
            machine.resume()
            return None
        if text == "D" or text.startswith("D;"):
            machine.resume()
            return b"OK"
        if text == "QStartNoAckMode":
            self._acknowledge = False
            return b"OK"
        if text == "?":
            return b"T05thread:1;"
        if text == "vCont?":
            return b"vCont;c;C;s;S" if self._kind not in ("kgdb", "plain") else b""
        if text == "qqemu.Supported":
            known = dict.fromkeys(QEMUS, b"sstepbits;sstep;PhyMemMode") | {"qemu-user": b"sstepbits;sstep"}
            return known.get(self._kind, b"")
        if text.startswith("qRcmd,"):
            return self._console(bytes.fromhex(text[6:]))
        if text in ("qfThreadInfo", "qsThreadInfo"):
            return self._threads(first=text[1] == "f")
        if text.startswith("qThreadExtraInfo,"):
            return b"shadowCPU0".hex().encode() if self._kind == "kgdb" else b""
        if text.startswith("qXfer:features:read:"):
            return self._document(*text.split(":")[3:])
        if self._kind in QEMUS and text in ("Qqemu.PhyMemMode:0", "Qqemu.PhyMemMode:1"):
            machine.physical_mode = text.endswith("1")
            return b"OK"
        if text.startswith("Hg"):
            self._selected = self._cpu(text[2:])
            return b"OK"
        if match := re.fullmatch("p([0-9a-f]+)", text):
            return self._register(int(match[1], 16)) if self._described else b""
        if text == "g":
            return b"".join(self._register(number) for number in range(34))
        if match := re.fullmatch("m([0-9a-f]+),([0-9a-f]+)", text):
            return self._read(int(match[1], 16), int(match[2], 16))
        if match := re.fullmatch("x([0-9a-f]+),([0-9a-f]+)", text):
            digits = self._read(int(match[1], 16), int(match[2], 16))
            if digits == b"E14":
                return digits
            data = bytes.fromhex(digits.decode())
            return b"b" + b"".join(b"}%c" % (byte ^ 0x20) if byte in b"#$}*" else b"%c" % byte for byte in data)
        if match := re.fullmatch("M([0-9a-f]+),([0-9a-f]+):([0-9a-f]*)", text):
            return self._write(int(match[1], 16), int(match[2], 16), bytes.fromhex(match[3]))
        match = re.fullmatch("X([0-9a-f]+),([0-9a-f]+):(.*)", text, re.DOTALL)
        if match and self._kind in ("gdbserver", "openocd"):
            plain = re.sub("}(.)", lambda escaped: chr(ord(escaped[1]) ^ 0x20), match[3], flags=re.DOTALL)
            size = int(match[2], 16)
            return self._write(int(match[1], 16), size, plain.encode("latin-1")) if size else b"OK"
        return b""

    def _features(self) -> bytes:
        size = b"PacketSize=%x" % PACKET_SIZE
        known = dict.fromkeys(QEMUS, size + b";qXfer:features:read+;vContSupported+;multiprocess+") | {
            "qemu-user": size + b";qXfer:features:read+;vContSupported+;qXfer:auxv:read+;multiprocess+",
            "gdbserver": size + b";QStartNoAckMode+;qXfer:features:read+;qXfer:osdata:read+;QNonStop+;binary-upload+",
            "openocd": size + b";qXfer:memory-map:read+;qXfer:features:read+;QStartNoAckMode+;vContSupported+",
        }
        return known.get(self._kind, b"")

    def _console(self, command: bytes) -> bytes:
        state = f"paused ({self._machine.state})" if self._machine.state else "paused"
        version = "7.2.22Debian 1:7.2+dfsg-7" if self._kind == "qemu" else "10.0.13Debian 1:10.0.13+ds-0"
        known = {
            b"info kvm": b"kvm support: disabled\r\n",
            b"info status": b"VM status: %b\r\n" % state.encode(),
            b"info version": b"%b\r\n" % version.encode(),
        }
        if self._kind == "openocd":
            known = {b"version": b"Open On-Chip Debugger 0.12.0\n"}
        said = known.get(command) if self._kind in (*QEMUS, "openocd") and not self._stub.mute else None
        if said is None:
            return b""
        self.say(b"O" + said.hex().encode())
        return b"OK"

    def _threads(self, *, first: bool) -> bytes:
        names = [self._name(cpu) for cpu in range(self._machine.cpus)]
        if self._kind in QEMUS:  # one at a time
            self._threads_given = 1 if first else self._threads_given + 1
            more = names[self._threads_given - 1 : self._threads_given]
            return b"m" + more[0] if more else b"l"
        if self._kind == "plain":
            return b""
        tasks = [b"1", b"2a"] if self._kind == "kgdb" else []
        return b"m" + b",".join(names + tasks) if first else b"l"

    def _name(self, cpu: int) -> bytes:
        if self._kind == "kgdb":
            return b"%08x" % (0xFFFFFFFE - cpu)
        return b"%x" % (cpu + 1) if self._kind == "openocd" else b"p01.%02x" % (cpu + 1)

    def _cpu(self, name: str) -> int:
        if self._kind == "kgdb":
            return 0xFFFFFFFE - int(name, 16)
        return int(name.split(".")[-1], 16) - 1

    def _document(self, name: str, span: str) -> bytes:
        self._described = True
        texts = {"target.xml": TARGET_XML, "core.xml": CORE_XML, "more.xml": MORE_XML}
        if name not in texts:
            return b"E00"
        start, size = (int(number, 16) for number in span.split(","))
        rest = texts[name].encode()[start:]
        return (b"m" if len(rest) > size else b"l") + rest[:size]

    def _register(self, number: int) -> bytes:
        value = self._machine.registers.get((self._selected, number), 0)
        return value.to_bytes(4 if number == 33 else 8, "little").hex().encode()

    def _read(self, address: int, size: int) -> bytes:
        if self._machine.physical_mode:
            found = [(at, data) for at, data in self._machine.physical.items() if at <= address < at + len(data)]
            data = found[0][1][address - found[0][0] :][:size] if found else b""
            return data.ljust(size, b"\0").hex().encode()
        place = self._machine.place(address, size)
        if place is None or self._selected in self._machine.blind or size * 2 > PACKET_SIZE:
            return b"E14"
        memory, offset = place
        return memory[offset : offset + size].hex().encode()

    def _write(self, address: int, size: int, data: bytes) -> bytes:
        assert not self._machine.physical_mode, "the client wrote to a physical address"
        place = self._machine.place(address, size)
        if place is None or len(data) != size or self._machine.read_only or self._selected in self._machine.blind:
            return b"E14"
        memory, offset = place
        if not self._stub.loses_writes:
            memory[offset : offset + size] = data
        return b"OK"


def machine_of(words: Sequence[int], **options: object) -> Machine:
    """A machine whose text are these words, each CPU at the word of its number."""
    made = Machine(bytearray(b"".join(word.to_bytes(4, "little") for word in words)))
    for name, value in options.items():
        setattr(made, name, value)
    for cpu in range(made.cpus):
        made.registers.setdefault((cpu, 32), BASE + 0x10000 + 4 * cpu)
    return made

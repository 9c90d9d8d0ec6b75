"""The kinds of GDB stubs: a table of their properties, and the questions that find out the kind.

Read on: gdb.py and lifeline.py act on the properties.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from a64patch.errors import CapabilityError, FormatError, TargetError
from a64patch.protocols import Act
from a64patch.targets.packets import read_virtual_again
from a64patch.targets.registers import Registers, default_registers, read_description
from a64patch.targets.rsp import MOST_BYTES, Connection, Found, frame, is_stop_reply

MOST_THREADS = 1 << 16
_THREAD = re.compile(rb"p?-?[0-9a-fA-F]{1,16}(?:\.-?[0-9a-fA-F]{1,16})?")
_WANTED = ("x29", "x30", "sp", "pc")
EXCEPTION_LINK = "ELR_EL1"
"""QEMU's name of the register with the return address of an exception to EL1 (Arm ARM, C5.2.7)."""
KERNEL_HALF = 1 << 63
"""Addresses from here on are the kernel's: a user's program does not see them."""
_VM_STATUS = re.compile(rb"VM status: paused(?: \(([\w-]+)\))?\r?\n")
_VERSION = re.compile(rb"([0-9]{1,4})\.([0-9]{1,4})")
_FIRST_WITHOUT_STOP_REPLY = (8, 1)
_SMALLEST_PACKET, _LARGEST_PACKET = 64, 1 << 16
_GREETING = b"qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+;xmlRegisters=aarch64"


@dataclass(frozen=True)
class Kind:
    """The known properties of one kind of stub. None: it depends, and the protocol has no question for it."""

    name: str
    stops_all: bool | None
    """When the stub reports a stop, no CPU executes the text any more."""
    stop: str
    """The meaning of a stop, for people."""
    maintains_caches: bool | None
    """Words that the stub writes become visible to instruction fetch."""
    caches: str
    """Who makes written words visible to instruction fetch, for people."""
    fixed_cpus: bool
    """No CPU comes or goes. Threads of a process come and go."""
    writes_read_only: bool | None
    """The stub writes to text that the program itself may not write. None: tried at the first need."""
    answers_only_halted: bool = False
    """The stub of a running machine reacts only to an interrupt: an answer without one shows a halted machine."""
    unverified: tuple[Act, ...] = ()
    """Steps of publishing that the stub should do, but that nobody has verified."""


_ALL_CPUS = "all CPUs of the machine"
_TRANSLATES = "the emulator: changed code is translated anew"

QEMU = Kind(
    "QEMU",
    stops_all=True,
    stop=_ALL_CPUS,
    maintains_caches=True,
    caches=_TRANSLATES,
    fixed_cpus=True,
    writes_read_only=True,
)
QEMU_KVM = Kind(
    "QEMU with KVM",
    stops_all=True,
    stop=_ALL_CPUS,
    maintains_caches=True,
    caches="the host, through its mapping of the guest's memory; not verified here where CTR_EL0.DIC is 0",
    fixed_cpus=True,
    writes_read_only=True,
    unverified=(Act.INVALIDATE,),
)
QEMU_USER = Kind(
    "qemu-user",
    stops_all=None,
    stop="one thread of an emulated process, not a kernel",
    maintains_caches=True,
    caches=_TRANSLATES,
    fixed_cpus=False,
    writes_read_only=None,
    answers_only_halted=True,
)
GDBSERVER = Kind(
    "gdbserver",
    stops_all=True,
    stop="the threads of one process, not a kernel; other processes that execute the same file run on",
    maintains_caches=True,
    caches="the kernel under it: ptrace flushes the words that it writes",
    fixed_cpus=False,
    writes_read_only=True,
    answers_only_halted=True,
)
KGDB = Kind(
    "kgdb",
    stops_all=True,
    stop="all CPUs that come when the kernel calls them",
    maintains_caches=True,
    caches="kgdb: flush_icache_range() after each write",
    fixed_cpus=True,
    writes_read_only=None,
    answers_only_halted=True,
)
OPENOCD = Kind(
    "OpenOCD",
    stops_all=None,
    stop="the core that the stub serves, and others only if the board's script made them one SMP target",
    maintains_caches=None,
    caches="not known: it depends on OpenOCD's target driver",
    fixed_cpus=True,
    writes_read_only=None,
)
UNKNOWN = Kind(
    "unknown",
    stops_all=None,
    stop="not known",
    maintains_caches=None,
    caches="not known",
    fixed_cpus=False,
    writes_read_only=None,
)
_AT_RANDOM, _MOST_AUXV_BYTES = 25, 1024
_ASKED_FOR_BINARY = (GDBSERVER, OPENOCD, UNKNOWN)
"""The kinds that may take `X`; all others are known not to take it."""


@dataclass
class Stub:
    """One stub's answers about itself."""

    kind: Kind
    threads: list[bytes]
    """The stub's CPUs, in the protocol's own notation."""
    registers: Registers
    """Those that every target needs, or all: see `describe_all`."""
    resume: bytes
    """The request that lets all CPUs run on."""
    detach: bytes
    reads_registers: bool
    """The stub takes `p`, one register a request; otherwise `g`, all registers."""
    features: dict[str, str] = field(default_factory=dict)
    writes_binary: bool = False
    """The stub takes `X`, raw bytes; otherwise `M`, two digits a byte."""
    described: bool = False
    """`registers` has all registers that the stub describes."""
    incarnation: str = ""
    """`base.Identity.incarnation` of the served process; empty when the stub serves no process or does not tell."""

    def fingerprint(self) -> tuple[object, ...]:
        """The properties that stay equal while this is the same machine."""
        process = self.kind in (GDBSERVER, QEMU_USER)
        return self.kind.name, self.registers.architecture, () if process else tuple(self.threads)


def meet(connection: Connection, patience: float) -> Stub:
    """Find out the kind of a stub, and whether its machine ran (`connection.found`). The machine is halted afterwards.

    ConnectionLostError as `Connection`. TargetError when the stub serves no program. FormatError when the machine is
    not AArch64, or an answer makes no sense.
    """
    reply = connection.greet(_GREETING, patience)
    features = _features(reply)
    size = features.get("PacketSize", "")
    if re.fullmatch("[0-9a-fA-F]{1,8}", size):
        connection.packet_size = max(_SMALLEST_PACKET, min(int(size, 16), _LARGEST_PACKET))
    if connection.lossless and features.get("QStartNoAckMode") == "+" and connection.ask(b"QStartNoAckMode") == b"OK":
        connection.acknowledge, connection.together = False, True
    emulator, actions = connection.ask_all([b"qqemu.Supported", b"vCont?"])
    if b"PhyMemMode" in emulator:
        connection.together = connection.together or connection.lossless
        read_virtual_again(connection)
    if not emulator:
        _require_stopped(connection.ask_status())
    threads = list_threads(connection)
    kind = _kind(connection, features, emulator, threads)
    connection.found = _found(connection, kind)
    if kind is KGDB:  # kgdb lists the kernel's tasks too; the threads with negative numbers are CPUs
        threads = [thread for thread in threads if len(thread) == 8 and thread.startswith(b"fff")] or threads
    registers = _registers(connection, features, kind)
    if registers.architecture not in ("", "aarch64"):
        raise FormatError(f"the stub serves a machine of architecture {registers.architecture[:40]!r}, not aarch64")
    pc = registers.by_name.get("pc")
    reads_registers = bool(pc and connection.ask(b"p%x" % pc.number) not in (b"", b"E01", b"E00"))
    return Stub(
        kind,
        threads,
        registers,
        b"vCont;c" if b"c" in actions.split(b";")[1:] else b"c",
        b"D;%b" % threads[0].partition(b".")[0][1:] if threads[0].startswith(b"p") else b"D",
        reads_registers,
        features,
        kind in _ASKED_FOR_BINARY and connection.ask(b"X0,0:") == b"OK",
        incarnation=_start_of_process(connection, features) if kind in (GDBSERVER, QEMU_USER) else "",
    )


def _start_of_process(connection: Connection, features: dict[str, str]) -> str:
    """The 16 random bytes that a process gets when it starts: AT_RANDOM of its auxiliary vector (getauxval(3)).

    Empty when the stub does not give them. The vector holds pairs of numbers, in the process's byte order.
    """
    if features.get("qXfer:auxv:read") != "+":
        return ""
    reply = connection.ask(b"qXfer:auxv:read::0,%x" % min(_MOST_AUXV_BYTES, connection.packet_size - 8))
    vector = reply[1 : len(reply) - (len(reply) - 1) % 16] if reply[:1] in (b"m", b"l") else b""
    for order in "<>":
        place = dict(struct.iter_unpack(f"{order}QQ", vector)).get(_AT_RANDOM)
        if place is not None:
            digits = connection.ask(b"m%x,10" % place)
            return f"AT_RANDOM={digits.decode().lower()}" if re.fullmatch(rb"[0-9a-fA-F]{32}", digits) else ""
    return ""


def list_threads(connection: Connection, expected: int = 0) -> list[bytes]:
    """The stub's threads, which are CPUs for most stubs. For `expected` threads one burst of requests is enough.

    A stub that answers nothing has one thread, without a name.
    """
    threads: dict[bytes, None] = {}
    check = connection.series("the stub's list of threads")
    replies = connection.ask_all([b"qfThreadInfo", *[b"qsThreadInfo"] * expected])
    while True:
        for reply in replies:
            if reply in (b"", b"l") or reply.startswith(b"E"):
                return list(threads) or [b""]
            found, before = reply[1:].split(b","), len(threads)
            if reply[:1] != b"m" or not all(map(_THREAD.fullmatch, found)):
                raise connection.break_off(f"the stub's list of threads makes no sense: {reply[:40]!r}")
            threads.update(dict.fromkeys(found))
            if len(threads) == before:
                raise connection.break_off(f"the stub's list of threads repeats itself: {reply[:40]!r}")
            if len(threads) > MOST_THREADS:
                raise connection.break_off(f"the stub lists more than {MOST_THREADS} threads")
        check()
        replies = [connection.ask(b"qsThreadInfo")]


def _features(reply: bytes) -> dict[str, str]:
    features = {}
    for item in reply.decode("ascii", "replace").split(";")[:1000]:
        name, equals, value = item.partition("=")
        if equals:
            features[name] = value
        elif item:
            features[item[:-1]] = item[-1]
    return features


def _require_stopped(status: bytes) -> None:
    if not is_stop_reply(status) or status[:1] in b"WXN":
        raise TargetError(f"the stub serves no program now (it says {status[:40]!r}): start one, or attach to one")


def _kind(connection: Connection, features: dict[str, str], emulator: bytes, threads: Sequence[bytes]) -> Kind:
    if b"PhyMemMode" in emulator:
        kvm = b"kvm support: enabled" in connection.ask_console(b"info kvm")
        return QEMU_KVM if kvm else QEMU
    if emulator:
        return QEMU_USER
    if features.get("QNonStop") == "+" and features.get("qXfer:osdata:read") == "+":
        return GDBSERVER
    if features.get("qXfer:memory-map:read") == "+":
        said = connection.ask_console(b"version")
        return OPENOCD if b"Open On-Chip Debugger" in said else UNKNOWN
    extra = connection.ask(b"qThreadExtraInfo," + threads[0])
    if extra.startswith(b"shadowCPU".hex().encode()):
        return KGDB
    return UNKNOWN


def _found(connection: Connection, kind: Kind) -> Found:
    """The state of the machine before we connected; HALTED only when this is known.

    Every QEMU halts a running machine when we connect. Before 8.1 it sends a stop reply then, unasked. From 8.1 on it
    sends none (QEMU 758370052fb) and calls the machine `paused`, like a machine that somebody paused. Any other state
    is older than our connection, since a halted machine keeps its state: `paused (prelaunch)` for a machine that was
    started with -S and never ran, or `paused (io-error)`.
    """
    if connection.was_running:
        return Found.RUNNING
    if kind not in (QEMU, QEMU_KVM):
        return Found.HALTED if kind.answers_only_halted else Found.NOT_TOLD
    status = _VM_STATUS.search(connection.ask_console(b"info status"))
    if status and status[1]:
        return Found.NEVER_RAN if status[1] == b"prelaunch" else Found.HALTED
    version = _VERSION.match(connection.ask_console(b"info version"))
    tells = version is not None and (int(version[1]), int(version[2])) < _FIRST_WITHOUT_STOP_REPLY
    return Found.HALTED if status and tells else Found.NOT_TOLD


def _registers(connection: Connection, features: dict[str, str], kind: Kind) -> Registers:
    if features.get("qXfer:features:read") != "+":
        return default_registers()
    if kind in (QEMU, QEMU_KVM):
        # System registers come last: a description that breaks off before them still has the other registers.
        with suppress(FormatError):
            return read_description(lambda name: _fetch(connection, name), (*_WANTED, EXCEPTION_LINK))
    return read_description(lambda name: _fetch(connection, name), _WANTED)


def describe_all(connection: Connection, stub: Stub) -> None:
    """Let `stub.registers` have all registers. Meeting a stub reads no further than every target needs, for speed.

    FormatError as `read_description`.
    """
    if not stub.described and stub.features.get("qXfer:features:read") == "+":
        stub.registers = read_description(lambda name: _fetch(connection, name))
    stub.described = True


def _fetch(connection: Connection, name: str) -> bytes:
    """One whole document of the target description."""
    if not re.fullmatch(r"[\w.+-]{1,100}", name, re.ASCII):
        raise FormatError(f"the stub's target description includes {name[:80]!r}, which is no plain name")
    size = connection.packet_size - 8
    document = b""
    check = connection.series(f"{name} of the target description")
    while True:
        check()
        reply = connection.ask(b"qXfer:features:read:%b:%x,%x" % (name.encode(), len(document), size))
        if reply[:1] not in (b"m", b"l"):
            raise FormatError(f"the stub does not give {name!r} of its target description: {reply[:40]!r}")
        document += reply[1:]
        if reply[:1] == b"l":
            return document
        if len(reply) == 1 or len(document) > MOST_BYTES:
            raise connection.break_off(f"{name} of the target description never ends")


def read_registers(
    connection: Connection, stub: Stub, threads: Sequence[bytes], names: Sequence[str]
) -> list[list[int]]:
    """The values of these registers in each thread. CapabilityError when the stub does not describe or give one."""
    try:
        places = [stub.registers.by_name[name] for name in names]
    except KeyError as error:
        raise CapabilityError(f"the stub does not describe the register {error.args[0]}") from None
    each = [b"p%x" % place.number for place in places] if stub.reads_registers else [b"g"]
    requests: list[bytes] = []
    for thread in threads:
        requests += [b"Hg" + thread, *each] if thread else each
    replies = iter(connection.ask_built([frame(request) for request in requests]))
    values = []
    for thread in threads:
        if thread and next(replies) != b"OK":
            raise CapabilityError(f"the stub does not let us look at its thread {thread.decode()}")
        if stub.reads_registers:
            pieces = [next(replies) for _ in places]
        else:
            every = next(replies)
            pieces = [every[place.offset * 2 : (place.offset + place.size) * 2] for place in places]
        values.append([_value(connection, piece, place.size) for piece, place in zip(pieces, places, strict=True)])
    return values


def _value(connection: Connection, digits: bytes, size: int) -> int:
    if re.fullmatch(rb"x+|E[0-9a-fA-F]{2}", digits):
        raise CapabilityError("the stub cannot tell the state of one of its CPUs: a register is not available")
    if len(digits) != size * 2 or not re.fullmatch(rb"[0-9a-fA-F]+", digits):
        raise connection.break_off(f"a register of {size} bytes came as {digits[:40]!r}")
    return int.from_bytes(bytes.fromhex(digits.decode()), "little")

"""GdbTarget against a stub of our own: honest ones of every kind, lost connections at every packet, and liars."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from a64patch import open_target, patch_text, patch_text_sync
from a64patch.a64.words import from_bytes
from a64patch.errors import (
    A64PatchError,
    BusyError,
    CapabilityError,
    FormatError,
    MappingError,
    MismatchError,
    PartialPatchError,
    ReadError,
    RequestError,
    TargetError,
    WriteError,
)
from a64patch.protocols import PROTOCOLS, USUAL, Doer, Operation
from a64patch.ranges import Ranges
from a64patch.targets.base import Build, Identity
from a64patch.targets.gdb import GdbTarget, open_gdb
from a64patch.targets.lifeline import MAX_RECONNECTS
from a64patch.targets.modules import Module
from a64patch.targets.rsp import frame
from a64patch.targets.section import Change, Section
from a64patch.targets.stub import QEMU_KVM
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.support import GUARD_SECONDS, eventually
from tests.targets.stub import BASE, QEMUS, STACK, Cut, Kind, Machine, Over, Session, Stub, machine_of, packet

KINDS: tuple[Kind, ...] = ("qemu", "qemu-10", "qemu-user", "gdbserver", "kgdb", "openocd", "plain")
TELLS_NOTHING = ("openocd", "plain")
"""Nobody knows whether their machine ran before we came."""
CUTS: tuple[Cut, ...] = ("before", "after", "half")
OLD = [0x11000000 + number for number in range(64)]
PLACES = [BASE + 4, BASE + 8, BASE + 128]
NEW = [0x22000000, 0x22000001, 0x22000002]
PATCHED = [*OLD[:1], *NEW[:2], *OLD[3:32], NEW[2], *OLD[33:]]
COUNTER = STACK + 4
"""A word of data, in memory that is zero."""
WITH_DATA = Section(
    tuple(Change(place, OLD[(place - BASE) // 4], new) for place, new in zip(PLACES, NEW, strict=True)),
    data=(Change(COUNTER, 0, 1),),
    guards=((STACK + 8, 0),),
)


def open_stub(stub: Stub, **options: Any) -> GdbTarget:
    return GdbTarget(stub.location, **{"timeout": stub.timeout, "assume": ("stops", "caches"), **options})


@pytest.mark.parametrize("over", ["nothing", "unix", "tcp"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_patched_and_left_as_it_was(kind: Kind, over: Over, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind != "kgdb":
        # Only that one may be silent at first, and is interrupted then.
        monkeypatch.setattr("a64patch.targets.lifeline._PATIENCE", GUARD_SECONDS)
    machine = machine_of(OLD, running=kind in ("qemu", "qemu-10", "kgdb"))
    left_running = machine.running or kind in TELLS_NOTHING
    with Stub(machine, kind, over=over) as stub:
        with open_stub(stub) as target:
            result = patch_text_sync(target, PLACES, NEW, expected=[OLD[1], OLD[2], OLD[32]])
            assert machine.words == PATCHED
            assert result.cpus == tuple(range(target.capabilities.cpus))
            assert target.capabilities.cpus == (1 if kind == "plain" else 2)
            assert target.read_many([(BASE + 4, 8), (BASE, 4)]) == [bytes(machine.text[4:12]), bytes(machine.text[:4])]
        assert eventually(lambda: machine.running == left_running)
        assert stub.unacknowledged <= 1, "only the stop reply to our coming may still be on its way"


def test_a_machine_runs_whenever_nobody_looks() -> None:
    machine = machine_of(OLD)
    with Stub(machine) as stub, open_stub(stub) as target:
        assert eventually(lambda: machine.running)
        target.read(BASE, 4)
        assert eventually(lambda: machine.running)
        with target.stop():
            assert not machine.running
            target.write(BASE, b"abcd")
            assert not machine.running
        assert eventually(lambda: machine.running)
        resumed = machine.resumed
        target.kick()
        assert eventually(lambda: machine.running and machine.resumed == resumed + 1)


def left_as(machine: Machine, kind: Kind, **options: Any) -> tuple[str, str]:
    """How a look found the machine, and how the look said that it would leave it; checked when it has left."""
    with Stub(machine, kind) as stub:
        with open_stub(stub, **options) as target:
            target.read(BASE, 4)
            facts = target.facts()
        assert eventually(lambda: machine.running == (facts["it will be left"] == "running"))
        assert machine.resumed == 0 or machine.running
    return facts["the machine was found"], facts["it will be left"]


@pytest.mark.parametrize(
    ("leave", "before", "after"), [("", False, False), ("running", False, True), ("halted", True, False)]
)
@pytest.mark.parametrize("kind", QEMUS)
def test_how_a_machine_is_left_can_be_said(kind: Kind, leave: str, before: bool, after: bool) -> None:
    machine = machine_of(OLD, running=before, state="" if before else "prelaunch")
    assert left_as(machine, kind, leave=leave)[1] == ("running" if after else "halted")


NOT_TOLD = "not told by the stub, so taken for running"


@pytest.mark.parametrize(
    ("kind", "before", "found"),
    [
        ("qemu", "running", "running"),
        ("qemu", "paused", "halted"),
        ("qemu", "never ran", "halted before its first instruction"),
        ("qemu-10", "running", NOT_TOLD),
        ("qemu-10", "paused", NOT_TOLD),
        ("qemu-10", "never ran", "halted before its first instruction"),
        ("gdbserver", "paused", "halted"),
        ("kgdb", "paused", "halted"),
        ("openocd", "running", NOT_TOLD),
        ("openocd", "paused", NOT_TOLD),
        ("plain", "running", NOT_TOLD),
        ("plain", "paused", NOT_TOLD),
    ],
)
def test_a_machine_is_left_halted_only_where_it_is_known_to_have_stood(kind: Kind, before: str, found: str) -> None:
    """A stub that halts as we come, and does not say what it halted, may have halted a machine that ran."""
    machine = machine_of(OLD, running=before == "running", state="prelaunch" if before == "never ran" else "")
    assert left_as(machine, kind) == (found, "halted" if found.startswith("halted") else "running")


@pytest.mark.parametrize("state", ["io-error", "guest-panicked", "debug", "prelaunch"])
def test_a_state_of_its_own_was_there_before_we_came(state: str) -> None:
    machine = machine_of(OLD, running=False, state=state)
    assert left_as(machine, "qemu-10")[1] == "halted"


def test_a_machine_runs_on_where_the_stub_has_no_console() -> None:
    machine = machine_of(OLD)
    with Stub(machine, "qemu-10") as stub:
        stub.mute = True
        with open_stub(stub) as target:
            target.read(BASE, 4)
        assert eventually(lambda: machine.running)


def test_a_machine_of_another_architecture_is_let_go() -> None:
    machine = machine_of(OLD)

    def tell(_: int, request: bytes, reply: bytes) -> bytes | None:
        other = reply.replace(b"aarch64", b"riscv64")
        return packet(other) if other != reply and request.startswith(b"qXfer") else None

    with Stub(machine, "qemu-10", mangle=tell) as stub:
        with pytest.raises(FormatError, match="riscv64"):
            open_stub(stub)
        assert eventually(lambda: machine.running)


def test_settings_are_not_dropped_in_silence() -> None:
    with Stub(machine_of(OLD)) as stub, pytest.raises(RequestError, match="open_target reads them"):
        GdbTarget(f"{stub.location}?leave=halted")


def test_a_machine_that_somebody_else_halts_stays_halted() -> None:
    machine = machine_of(OLD)
    with Stub(machine) as stub:
        with open_stub(stub) as target:
            assert eventually(lambda: machine.running)
            stub.stop_by_itself()
            assert target.read(BASE, 4) == bytes(machine.text[:4])
        assert not machine.running


def test_cpus_that_do_not_see_the_kernel_are_not_asked() -> None:
    machine = machine_of(OLD, cpus=3, blind={0, 2})
    with Stub(machine) as stub, open_stub(stub) as target:
        assert target.read(BASE, 4) == bytes(machine.text[:4])
        patch_text_sync(target, PLACES, NEW)
        assert machine.words == PATCHED


def test_a_moment_is_awaited_when_no_cpu_sees_the_kernel() -> None:
    machine = machine_of(OLD, blind={0, 1})
    with Stub(machine) as stub, open_stub(stub) as target:
        with pytest.raises(MappingError):
            target.read(BASE, 4)
        stub.clock.call_in(0.02, machine.blind.clear)
        assert target.read(BASE, 4) == bytes(machine.text[:4])


def test_a_stop_is_a_stop_also_when_no_cpu_sees_the_kernel() -> None:
    """A search for a CPU that does may let the machine run on elsewhere: never here."""
    machine = machine_of(OLD, blind={0, 1})
    with Stub(machine) as stub, open_stub(stub) as target:
        with target.stop():
            resumed = machine.resumed
            with pytest.raises(MappingError, match="no CPU"):
                target.read(BASE, 4)
            assert machine.resumed == resumed
        assert eventually(lambda: machine.running)


def test_a_machine_that_was_halted_is_not_let_go_to_look() -> None:
    machine = machine_of(OLD, running=False, state="prelaunch", blind={0, 1})
    with Stub(machine) as stub, open_stub(stub) as target, pytest.raises(MappingError, match="no CPU"):
        target.read(BASE, 4)
    assert machine.resumed == 0


def test_no_moment_is_awaited_for_an_address_of_a_user() -> None:
    machine = machine_of(OLD)
    with Stub(machine) as stub, open_stub(stub) as target:
        assert eventually(lambda: machine.running)
        resumed = machine.resumed
        with pytest.raises(MappingError):
            target.read(0x400000, 4)
        assert machine.resumed == resumed + 1


def test_who_sees_the_kernel_is_asked_anew_once_the_machine_has_run() -> None:
    machine = machine_of(OLD, blind={1})
    with Stub(machine) as stub, open_stub(stub) as target:
        assert target.read(BASE, 4) == bytes(machine.text[:4])
        machine.blind = {0}
        assert target.read(BASE, 4) == bytes(machine.text[:4])


def test_who_sees_the_kernel_is_asked_once_a_stop() -> None:
    """Each question is a round trip during which nobody runs."""
    with Stub(machine_of(OLD)) as stub, open_stub(stub) as target, target.stop():
        target.read(BASE, 4)
        asked = len(stub.requests)
        target.read(BASE + 8, 4)
        assert stub.requests[asked:] == [b"m%x,4" % (BASE + 8)]


def test_whether_text_is_written_is_tried_by_a_cpu_that_sees_it() -> None:
    machine = machine_of(OLD, blind={1})
    machine.registers |= {(0, 32): BASE + 8, (1, 32): BASE + 12}
    with Stub(machine, "openocd") as stub, open_stub(stub) as target:
        assert target.facts()["writes read-only text"] == "yes"
        assert machine.words == OLD


def test_pcs_links_and_frames_are_seen() -> None:
    machine = machine_of(OLD)
    machine.registers |= {(1, 32): BASE + 8, (1, 30): BASE + 40, (1, 29): STACK}
    signed = (BASE + 44) & ~(0x7F << 48) | 0x2A << 48 | 1 << 55
    for at, (following, link) in {0: (STACK + 32, BASE + 48), 32: (0, signed)}.items():
        machine.stack[at : at + 16] = following.to_bytes(8, "little") + link.to_bytes(8, "little")
    with Stub(machine) as stub, open_stub(stub) as target:
        with target.stop() as stopped:
            states = stopped.states()
        assert [state.pc for state in states] == [BASE + 0x10000, BASE + 8]
        assert {BASE + 40, BASE + 48, BASE + 44} <= set(states[1].return_addresses)
        with pytest.raises(BusyError, match="CPU 1 stands at"):
            patch_text_sync(target, PLACES, NEW)
        machine.registers[1, 32] = BASE + 0x10000
        with pytest.raises(BusyError, match="CPU 1 will return to"):
            patch_text_sync(target, [BASE + 40, BASE + 44], NEW[:2])
        assert machine.words == OLD


@pytest.mark.parametrize(("kind", "form"), [("gdbserver", b"X"), ("openocd", b"X"), ("plain", b"M"), ("qemu", b"M")])
def test_bytes_are_written_as_the_stub_takes_them(kind: Kind, form: bytes) -> None:
    """Those that packets are made of are escaped."""
    machine = machine_of(OLD)
    data = b"#$}*\x03+-\n" + bytes(range(56))
    with Stub(machine, kind) as stub, open_stub(stub, assume=["stops", "caches"]) as target:
        target.write(BASE, data)
        assert target.read(BASE, len(data)) == data
        assert [request[:1] for request in stub.requests if b",40:" in request[:24]] == [form]
    assert bytes(machine.text[: len(data)]) == data


def test_an_exception_that_was_just_taken_returns_into_the_site() -> None:
    """Nothing but ELR_EL1 knows the address then. In user mode what stands there is of an exception long over."""
    machine = machine_of(OLD)
    vectors = 0xFFFF << 48 | 0x10880
    machine.registers |= {(1, 32): vectors, (1, 91): PLACES[1]}
    with Stub(machine) as stub, open_stub(stub) as target:
        with pytest.raises(BusyError, match="CPU 1 will return to"):
            patch_text_sync(target, PLACES, NEW)
        machine.registers[1, 32] = 0x400000
        patch_text_sync(target, PLACES, NEW)
        assert [from_bytes(target.read(place, 4))[0] for place in PLACES] == NEW


def test_an_interrupted_function_is_seen_over_small_packets() -> None:
    """Nothing but the saved registers knows where it returns to, and they do not fit into one packet with the rest."""
    machine = machine_of(OLD, stack=bytearray(4096))
    machine.registers[1, 29] = STACK + 512
    for at, value in {512 - 64: STACK + 1024, 512 - 56: BASE + 40, 512 - 40: BASE + 80, 512 + 16: 2}.items():
        machine.stack[at : at + 8] = value.to_bytes(8, "little")
    with Stub(machine) as stub, open_stub(stub) as target:
        with target.stop() as stopped:
            assert {BASE + 40, BASE + 80} <= set(stopped.states()[1].return_addresses)
        with pytest.raises(BusyError, match="CPU 1 will return to"):
            patch_text_sync(target, [BASE + 36, BASE + 40], NEW[:2])


def test_the_frames_of_all_cpus_take_eight_round_trips_at_most() -> None:
    """Each is so far from the next that no packet brings two."""
    machine = machine_of(OLD, stack=bytearray(16384))
    for cpu in range(2):
        machine.registers[cpu, 29] = STACK + 512
    for number in range(1, 30):
        at, link = number * 512, BASE + 4 * number
        machine.stack[at : at + 16] = (STACK + at + 512).to_bytes(8, "little") + link.to_bytes(8, "little")
    with Stub(machine) as stub, open_stub(stub) as target, target.stop() as stopped:
        for state in stopped.states():
            assert state.return_addresses == (0, *(BASE + 4 * number for number in range(1, 9)))


def test_threads_that_came_or_went_are_noticed_at_each_stop() -> None:
    machine = machine_of(OLD, running=False)
    with Stub(machine, "gdbserver") as stub, open_stub(stub) as target:
        machine.cpus = 3
        machine.registers[2, 32] = PLACES[1]
        with pytest.raises(BusyError, match="CPU 2 stands at"):
            patch_text_sync(target, PLACES, NEW)
        assert machine.words == OLD
        machine.cpus = 1
        assert patch_text_sync(target, PLACES, NEW).cpus == (0,)


def test_packets_are_built_before_the_machine_is_halted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of data too."""
    machine = machine_of(OLD)
    built: list[bool] = []

    def build(payload: bytes) -> bytes:
        built.append(machine.running)
        return frame(payload)

    with Stub(machine) as stub, open_stub(stub) as target:
        assert eventually(lambda: machine.running)
        monkeypatch.setattr("a64patch.targets.packets.frame", build)
        assert target.carry_out(WITH_DATA).done
        assert (machine.words, bytes(machine.stack[:8])) == (PATCHED, bytes([0, 0, 0, 0, 1, 0, 0, 0]))
        assert len(built) == 6, "two pieces of code and one of data are read, then written"
        assert all(built)


@pytest.mark.parametrize("kind", KINDS)
def test_data_is_written_with_code_by_every_kind_and_put_back(kind: Kind) -> None:
    """In one stop; the second time the stub refuses the data, so that the code is put back."""
    machine = machine_of(OLD, running=False)
    refused = 0

    def refuse(_: int, request: bytes, __: bytes) -> bytes | None:
        nonlocal refused
        writing = request[:1] in (b"M", b"X") and b"%x,4:" % COUNTER in request
        refused += writing and machine.words == PATCHED
        return packet(b"E0d") if writing and refused == 1 else None

    with Stub(machine, kind, mangle=refuse) as stub, open_stub(stub) as target:
        # The stub is honest, but for its answer: the word is written, and has to be put back.
        with pytest.raises(WriteError, match=rf"refuses to write 4 bytes at {COUNTER:#x}"):
            target.carry_out(WITH_DATA)
        assert (machine.words, bytes(machine.stack)) == (OLD, bytes(256))
        assert target.carry_out(WITH_DATA).done
        assert (machine.words, machine.stack[4]) == (PATCHED, 1)


def test_a_stub_that_refuses_the_code_is_asked_for_no_data() -> None:
    machine = machine_of(OLD)

    def refuse(_: int, request: bytes, __: bytes) -> bytes | None:
        return packet(b"E0d") if request.startswith(b"M%x,4:%b" % (PLACES[2], b"02000022")) else None

    with Stub(machine, mangle=refuse) as stub, open_stub(stub) as target:
        with pytest.raises(WriteError, match=r"E0d .permission denied"):
            target.carry_out(WITH_DATA)
        assert machine.words == OLD
        assert not any(request.startswith(b"M%x," % COUNTER) for request in stub.requests)


def test_data_is_not_code_and_has_no_limit() -> None:
    machine = machine_of(OLD)
    with Stub(machine) as stub, open_stub(stub) as target:
        target.knowing(Module("code", code=Ranges(((BASE, BASE + 64),))), may_write=Ranges(((BASE, BASE + 64),)))
        target.write_data(COUNTER, b"abcd")
        target.write_data(BASE + 64, b"abcd")
        for address in (BASE, BASE + 60, BASE - 4):
            with pytest.raises(MappingError, match="is code, so it may not be written as data"):
                target.write_data(address, b"abcdefgh")
        assert (bytes(machine.stack[4:8]), machine.words) == (b"abcd", [*OLD[:16], 0x64636261, *OLD[17:]])


def test_a_stop_waits_for_a_cpu_that_sees_the_words() -> None:
    """Inside the stop it would be too late: the machine runs no more."""
    machine = machine_of(OLD, blind={0, 1})
    with Stub(machine) as stub, open_stub(stub) as target:
        stub.clock.call_in(0.02, machine.blind.clear)
        assert target.carry_out(Section((Change(PLACES[0], OLD[1], NEW[0]),))).done


def test_a_chain_of_frames_that_goes_round_ends() -> None:
    machine = machine_of(OLD)
    machine.registers[0, 29] = STACK
    for at, following in ((0, STACK + 64), (64, STACK)):
        machine.stack[at : at + 8] = following.to_bytes(8, "little")
    with Stub(machine) as stub, open_stub(stub) as target, target.stop() as stopped:
        assert stopped.states()[0].return_addresses == (0,)


def test_read_only_text_is_refused_clearly_and_nothing_is_changed() -> None:
    machine = machine_of(OLD, running=False, cpus=1, read_only=True)
    with Stub(machine, "qemu-user") as stub, open_stub(stub, assume=()) as target:
        with pytest.raises(CapabilityError, match="read-only text"):
            patch_text_sync(target, PLACES, NEW)
        assert machine.words == OLD
        assert target.facts()["writes read-only text"] == "not known"


def test_one_refused_word_is_reported_and_the_others_put_back() -> None:
    machine = machine_of(OLD)

    def refuse(_: int, request: bytes, __: bytes) -> bytes | None:
        return packet(b"E0d") if request.startswith(b"M%x,4:%b" % (PLACES[2], b"02000022")) else None

    with Stub(machine, mangle=refuse) as stub, open_stub(stub) as target:
        with pytest.raises(WriteError, match=r"E0d .permission denied"):
            patch_text_sync(target, PLACES, NEW)
        assert machine.words == OLD


@pytest.mark.parametrize("kind", ["qemu", "gdbserver", "qemu-user"])
@pytest.mark.parametrize("answer", [b"O", b"ok", b"OKOK", b"garbage", b"", b"E.what"])
def test_only_ok_says_that_a_word_was_written(kind: Kind, answer: bytes) -> None:
    """`qemu-user` is asked twice: whether it writes to text, and to write."""
    for writes in range(2 if kind == "qemu-user" else 1):
        machine = machine_of(OLD, running=False, cpus=1)
        skipped = iter(range(writes))

        def tell(_: int, request: bytes, __: bytes, skipped: Iterator[int] = skipped) -> bytes | None:
            writing = request[:1] in (b"M", b"X") and b",4:" in request
            return packet(answer) if writing and next(skipped, None) is None else None

        with (
            Stub(machine, kind, mangle=tell) as stub,
            open_stub(stub) as target,
            pytest.raises((WriteError, CapabilityError), match=r"to a write|refuses to write"),
        ):
            target.write(BASE, b"abcd")


@pytest.mark.parametrize("kind", ["openocd", "plain"])
def test_what_is_not_known_is_refused_until_somebody_vouches(kind: Kind) -> None:
    machine = machine_of(OLD, running=False)
    with Stub(machine, kind) as stub:
        with open_stub(stub, assume=()) as target:
            assert not target.capabilities.can_stop
            with pytest.raises(CapabilityError, match="assume=caches"):
                target.write(BASE, b"abcd")
            with pytest.raises(CapabilityError, match="assume=caches"):
                target.write_data(COUNTER, b"abcd")
            with pytest.raises(CapabilityError, match="assume=stops"), target.stop():
                pass
        with open_stub(stub, assume=("caches",)) as target:
            target.write(BASE, b"abcd")
            with pytest.raises(CapabilityError, match="cannot stop"):
                patch_text_sync(target, PLACES, NEW)
        assert machine.words[1:] == OLD[1:]


def test_a_limit_to_what_may_be_written() -> None:
    machine = machine_of(OLD)
    with Stub(machine) as stub, open_stub(stub) as target:
        assert target.writable() is None
        target.knowing(may_write=Ranges(((BASE, BASE + 64),)))
        with pytest.raises(MappingError, match="is not code"):
            patch_text_sync(target, PLACES, NEW)
        assert machine.words == OLD
        patch_text_sync(target, PLACES[:2], NEW[:2])


def test_names_and_identity_come_from_who_knows() -> None:
    machine = machine_of(OLD)
    table = SymbolTable(lambda: [Symbol("work", BASE, 64)])
    with Stub(machine) as stub, open_target(stub.location, symbols=table) as target:
        assert isinstance(target, GdbTarget)
        assert target.symbols.resolve("work+4") == BASE + 4
        target.knowing(Module("program", table, "ab", "Linux 6", 4096), Module("library", build_id="cd"))
        identity = target.identity()
        assert identity == Identity(stub.location, "ab", "Linux 6", 4096)
        assert identity.modules == (Build("program", "ab", 4096), Build("library", "cd"))


def test_a_serial_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request at a time, each reply acknowledged first: more would be lost in a UART."""
    machine = machine_of(OLD)
    ours, theirs = os.openpty()
    with Stub(machine, "kgdb", over="unix") as stub:

        def send(data: bytes) -> None:
            os.write(ours, data)

        def serve() -> None:
            try:
                Session(stub, send).serve(lambda: os.read(ours, 65536))
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with open_gdb(f"gdb+serial:{os.ttyname(theirs)}?timeout={GUARD_SECONDS}&baud=9600") as target:
            patch_text_sync(target, PLACES, NEW)
            assert machine.words == PATCHED
        assert eventually(lambda: machine.running)
        assert stub.unacknowledged <= 1
        os.close(theirs)
        os.close(ours)
        thread.join(GUARD_SECONDS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gdb://localhost", "not gdb://HOST:PORT"),
        ("gdb://localhost:99999", "not gdb://HOST:PORT"),
        ("gdb://[::1", "not gdb://HOST:PORT"),
        ("gdb://user@localhost:1", "not gdb://HOST:PORT"),
        ("gdb://localhost:1/path", "not gdb://HOST:PORT"),
        ("gdb+unix:", "names no path"),
        ("gdb://localhost:1?timeout", "KEY=VALUE"),
        ("gdb://localhost:1?timeout=1&timeout=2", "twice"),
        ("gdb://localhost:1?timeout=soon", "give a number"),
        ("gdb://localhost:1?timeout=0", "out of range"),
        ("gdb://localhost:1?speed=1", "no setting"),
        ("gdb://localhost:1?leave=alone", "neither"),
        ("gdb://localhost:1?assume=luck", "none of"),
        ("gdb+serial:/dev/null?baud=1", "not a speed"),
    ],
)
def test_names_of_stubs_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_target(text)


def test_another_machine_is_not_spoken_to_unless_asked() -> None:
    with pytest.raises(CapabilityError, match="--remote"):
        open_target("gdb://192.0.2.1:1234")
    with pytest.raises(CapabilityError, match="--remote"):
        open_target("gdb://[2001:db8::1]:1234")
    with pytest.raises(TargetError, match="cannot connect"):
        open_target("gdb://192.0.2.1:1234?timeout=0.01", remote=True)


@pytest.mark.parametrize("text", ["gdb+unix:/nowhere/stub", "gdb+serial:/nowhere/tty", "gdb+serial:/dev/null"])
def test_stubs_that_are_not_there(text: str) -> None:
    with pytest.raises(TargetError):
        open_target(text)


def test_options_of_other_targets_are_refused() -> None:
    with pytest.raises(RequestError, match="drop_relocations"):
        open_target("gdb+unix:/nowhere", drop_relocations=True)


def test_a_closed_target_says_so() -> None:
    with Stub(machine_of(OLD)) as stub:
        target = open_stub(stub)
        target.close()
        target.close()
        with pytest.raises(TargetError, match="was closed"):
            target.read(BASE, 4)


# Lost connections


def packets_of_a_patch(kind: Kind, running: bool) -> int:
    machine = machine_of(OLD, running=running, state="" if running else "prelaunch")
    with Stub(machine, kind) as stub:
        with open_stub(stub) as target:
            patch_text_sync(target, PLACES, NEW)
        return len(stub.requests)


def attempt(stub: Stub) -> Exception | None:
    """Patch, close, and give back what the patch raised."""
    try:
        target = open_stub(stub)
    except TargetError as error:
        return error
    try:
        patch_text_sync(target, PLACES, NEW)
        return None
    except A64PatchError as error:
        return error
    finally:
        with suppress(TargetError):
            target.close()


def require_told(machine: Machine, error: Exception | None) -> None:
    """All new, or all old, or else every word that is not old is named."""
    if error is None:
        assert machine.words == PATCHED
    elif isinstance(error, PartialPatchError):
        named = set(error.unrestored)
        assert named <= set(PLACES)
        assert {PLACES[0], PLACES[1], PLACES[2]} - named <= {
            place for place in PLACES if machine.words[(place - BASE) // 4] == OLD[(place - BASE) // 4]
        }
    else:
        left_running = "let go" in str(error) or "halted" in str(error)
        assert machine.words == OLD or (left_running and machine.words == PATCHED), repr(error)
    untouched = [number for number in range(64) if BASE + 4 * number not in PLACES]
    assert [machine.words[number] for number in untouched] == [OLD[number] for number in untouched]


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("kind", QEMUS)
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("over", ["nothing", "unix"])
def test_cut_at_every_packet_and_connected_again(over: Over, cut: Cut, kind: Kind, running: bool) -> None:
    """Nothing is left half done, and the machine is left as it was found."""
    for number in range(packets_of_a_patch(kind, running)):
        machine = machine_of(OLD, running=running, state="" if running else "prelaunch")
        with Stub(machine, kind, cut_at=number, cut=cut, over=over) as stub:
            error = attempt(stub)
            assert not isinstance(error, PartialPatchError), (number, error)
            require_told(machine, error)
            assert eventually(lambda machine=machine: machine.running == running), number  # type: ignore[misc]


@pytest.mark.parametrize("cut", CUTS)
def test_cut_at_every_packet_for_good(cut: Cut) -> None:
    """The error names exactly the words that may be new; nothing hangs."""
    partial = 0
    for number in range(packets_of_a_patch("qemu", running=True)):
        machine = machine_of(OLD)
        with Stub(machine, cut_at=number, cut=cut, again=0) as stub:
            error = attempt(stub)
            require_told(machine, error)
            partial += isinstance(error, PartialPatchError)
    assert partial > 0


def fail_twice(stub: Stub) -> None:
    with open_stub(stub) as target:
        with suppress(ReadError), target.stop():
            stub.die_at = b""
            target.read(BASE, 4)
        raise ZeroDivisionError


def test_what_went_wrong_first_is_what_is_raised() -> None:
    with Stub(machine_of(OLD)) as stub:
        with pytest.raises(ZeroDivisionError) as caught:
            fail_twice(stub)
        assert "may have been left halted" in caught.value.__notes__[0]


@pytest.mark.parametrize("kind", ["gdbserver", "openocd"])
def test_bytes_of_every_value_are_read(kind: Kind) -> None:
    """With `x`, if it is offered, as with `m`."""
    machine = machine_of([int.from_bytes(bytes(range(at, at + 4)), "little") for at in range(0, 256, 4)], running=False)
    with Stub(machine, kind) as stub, open_stub(stub) as target:
        assert target.read(BASE, 256) == bytes(range(256))
        assert any(request.startswith(b"x") for request in stub.requests) == (kind == "gdbserver")


def test_a_stub_that_dies_again_and_again_is_given_up() -> None:
    machine = machine_of(OLD)
    with Stub(machine) as stub:
        target = open_stub(stub)
        assert eventually(lambda: machine.running)
        stub.die_at = b"m"
        with pytest.raises(ReadError):
            target.read(BASE, 4)
        for _ in range(100):
            with pytest.raises(ReadError):
                target.read(BASE, 4)
        assert stub.connections == 1 + MAX_RECONNECTS
        with pytest.raises(TargetError):
            target.close()


def test_another_machine_at_the_same_place_is_not_written_to() -> None:
    machine = machine_of(OLD)
    with Stub(machine) as stub:
        target = open_stub(stub)
        patch_text_sync(target, PLACES, NEW)
        other = machine_of([0x33000000] * 64)
        stub.replace(other)
        with pytest.raises(TargetError):
            target.read(BASE, 4)
        with pytest.raises(WriteError, match="another machine"):
            target.write(PLACES[0], b"abcd")
        assert other.words == [0x33000000] * 64
        with suppress(TargetError):
            target.close()
        assert eventually(lambda: other.running), "it is none of our business"


@pytest.mark.parametrize("holds", [OLD[1], 0x22000000, 0x22000001, 0x22000002])
def test_all_that_was_written_to_a_word_may_stand_there_after_a_lost_connection(holds: int) -> None:
    """Each write may have been lost with its connection, and each may have been done."""
    machine = machine_of(OLD)
    with Stub(machine) as stub:
        target = open_stub(stub)
        target.read(PLACES[0], 4)
        for word in (0x22000000, 0x22000001):
            target.write(PLACES[0], word.to_bytes(4, "little"))
        stub.die_at = b"M"
        with pytest.raises(WriteError):
            target.write(PLACES[0], (0x22000002).to_bytes(4, "little"))
        stub.die_at = None
        machine.text[4:8] = holds.to_bytes(4, "little")
        stub.replace(machine)
        assert from_bytes(target.read(PLACES[0], 4)) == [holds]
        target.close()


def test_a_machine_with_other_cpus_is_another_machine() -> None:
    """Also where nothing was written, so that no word of its memory tells."""
    machine = machine_of(OLD)
    with Stub(machine) as stub:
        target = open_stub(stub)
        stub.replace(machine_of(OLD, cpus=3))
        with pytest.raises(ReadError, match="another machine answers"):
            target.read(BASE, 4)
        with suppress(TargetError):
            target.close()


def test_a_word_that_nobody_wrote_is_another_machine() -> None:
    machine = machine_of(OLD)
    with Stub(machine) as stub:
        target = open_stub(stub)
        target.read(PLACES[0], 4)
        for word in (0x22000000, 0x22000001):
            target.write(PLACES[0], word.to_bytes(4, "little"))
        other = machine_of([OLD[0], 0x22000003, *OLD[2:]])
        stub.replace(other)
        with pytest.raises(WriteError, match="may be another machine"):
            target.write(PLACES[0], b"abcd")
        with suppress(TargetError):
            target.close()
        assert other.words[1] == 0x22000003


def test_data_that_the_machine_itself_changes_does_not_make_it_another_machine() -> None:
    machine = machine_of(OLD)
    with Stub(machine) as stub:
        target = open_stub(stub)
        target.read_many([(COUNTER, 4), (PLACES[0], 4)])
        target.carry_out(WITH_DATA)
        connections = stub.connections
        machine.stack[4] = 2
        stub.replace(machine)
        assert target.read(COUNTER, 4) == bytes([2, 0, 0, 0])
        target.write(BASE, b"abcd")
        assert stub.connections == connections + 1
        target.close()


# Liars


LIES: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda reply: b"\x00\xff%# $$#" + bytes(range(256)),
    "noise before": lambda reply: b"kernel: hello\r\n+-" + packet(reply),
    "half a packet": lambda reply: packet(reply)[: len(reply) // 2 + 1],
    "a wrong checksum": lambda reply: b"$" + reply + b"#zz",
    "nothing": lambda reply: b"",
    "an empty reply": lambda reply: packet(b""),
    "an error": lambda reply: packet(b"E01"),
    "too long": lambda reply: packet(reply + b"00"),
    "too short": lambda reply: packet(reply[:-2]),
    "twice": lambda reply: packet(reply) * 2,
    "a stop reply before": lambda reply: packet(b"T05thread:p01.01;") + packet(reply),
    "a stop reply instead": lambda reply: packet(b"T05thread:p01.01;"),
    "a notification before": lambda reply: b"%Stop:T05thread:1;#" + b"00" + packet(reply),
    "an exit": lambda reply: packet(b"W00"),
    "other digits": lambda reply: packet(reply.translate(bytes.maketrans(b"0123456789", b"1234567890"))),
    "runs": lambda reply: b"$0*~#" + b"%02x" % ((0x30 + 0x2A + 0x7E) % 256),
    "a run of nothing": lambda reply: b"$*~#" + b"%02x" % ((0x2A + 0x7E) % 256),
    "console output": lambda reply: packet(b"O6869") + packet(reply),
    "OK": lambda reply: packet(b"OK"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["qemu", "gdbserver"])
@pytest.mark.parametrize("lie", LIES)
def test_one_lie_at_every_packet(kind: Kind, lie: str) -> None:
    """Memory is honest, one reply is not: all new, or all old, or said."""
    running = kind == "qemu"
    for number in range(packets_of_a_patch(kind, running)):
        machine = machine_of(OLD, running=running)

        def tell(at: int, _: bytes, reply: bytes, number: int = number) -> bytes | None:
            return LIES[lie](reply) if at == number else None

        with Stub(machine, kind, mangle=tell) as stub:
            require_told(machine, attempt(stub))


ENDLESS = {
    "a run": b"$" + b"0*~" * 4096,
    "a packet": b"$" + b"x" * 8192,
    "acknowledgements": b"+" * 8192,
    "noise": b"noise" * 1024,
    "console output": packet(b"O68") * 512,
    "stop replies": packet(b"T05") * 512,
    "notifications": b"%Stop:T05#" * 512,
}


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_is_not_read_to_its_end(endless: bytes) -> None:
    machine = machine_of(OLD)
    with Stub(machine) as stub:
        target = open_stub(stub)
        assert eventually(lambda: machine.running)
        stub.flood = endless
        with pytest.raises(ReadError):
            target.read(BASE, 4)
        with pytest.raises(TargetError):
            target.close()


def _each_its_own(number: int) -> bytes:
    return b"m%x" % (number + 1)


THREADS: dict[str, tuple[Callable[[int], bytes], str]] = {
    "the same for ever": (lambda _: b"m1", "repeats itself"),
    "two in turn for ever": (lambda number: b"m%d" % (number % 2 + 1), "repeats itself"),
    "a new one for ever": (_each_its_own, "did not end within"),
    "149,999 in one reply": (lambda _: b"m" + b",".join(b"%x" % number for number in range(1, 150_000)), "65536"),
}


@pytest.mark.parametrize(("threads", "says"), THREADS.values(), ids=THREADS)
def test_a_list_of_threads_that_never_ends(threads: Callable[[int], bytes], says: str) -> None:
    """Each answer comes in time, and the list as a whole does not end."""
    asked = 0

    def endless(_: int, request: bytes, __: bytes) -> bytes | None:
        nonlocal asked
        if b"ThreadInfo" not in request or b"Extra" in request:
            return None
        asked += 1
        stub.clock.sleep(stub.timeout / 100)
        return packet(threads(asked - 1))

    with Stub(machine_of(OLD), mangle=endless) as stub, pytest.raises(TargetError, match=says):
        open_stub(stub)
    assert asked < 1000


def test_a_description_that_comes_byte_by_byte() -> None:
    def slow(_: int, request: bytes, reply: bytes) -> bytes | None:
        if not request.startswith(b"qXfer:features:read:"):
            return None
        stub.clock.sleep(stub.timeout / 100)
        return packet(b"m ")

    with (
        Stub(machine_of(OLD), mangle=slow) as stub,
        pytest.raises(TargetError, match=r"target.xml of the target description did not end within"),
    ):
        open_stub(stub)
    assert len(stub.requests) < 1000


def test_a_stub_that_never_answers() -> None:
    with Stub(machine_of(OLD), mangle=lambda *_: b"") as stub:
        with pytest.raises(TargetError, match="did not answer"):
            open_stub(stub)
        assert stub.clock.monotonic() <= 2 * stub.timeout


def test_a_stub_that_says_it_wrote_and_did_not() -> None:
    machine = machine_of(OLD)
    with Stub(machine) as stub, open_stub(stub) as target:
        stub.loses_writes = True
        with pytest.raises(MismatchError, match="after"):
            patch_text_sync(target, PLACES, NEW)
        assert machine.words == OLD


@pytest.mark.parametrize(
    "document",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaa">]><target>&a;</target>',
        '<target><xi:include href="target.xml"/></target>',
        '<target><xi:include href="../secret"/></target>',
        "<target><reg name='pc' bitsize='0'/></target>",
        "<target><architecture>riscv:rv64</architecture></target>",
        "<target>",
        "",
        "<target>" + "<reg name='a' bitsize='8'/>" * 5000 + "</target>",
    ],
    ids=range(8),
)
def test_descriptions_that_make_no_sense(document: str) -> None:
    machine = machine_of(OLD)

    def tell(_: int, request: bytes, __: bytes) -> bytes | None:
        if not request.startswith(b"qXfer:features:read:target.xml:"):
            return None
        start, size = (int(number, 16) for number in request.rpartition(b":")[2].split(b","))
        rest = document.encode()[start:]
        return packet((b"m" if len(rest) > size else b"l") + rest[:size])

    with Stub(machine, mangle=tell) as stub, pytest.raises(TargetError):
        open_stub(stub)
    assert machine.words == OLD
    assert eventually(lambda: machine.running), "nothing that was found out keeps it halted"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    from tests.support import assemble, link

    words = "\n".join(f".inst {word:#x}" for word in OLD)
    source = assemble(f".globl _start, work\n_start:\nwork:\n{words}\n.size work, .-work\n", tmp_path / "a.o")
    return link(source, tmp_path / "a", f"-Ttext={BASE:#x}")


def test_names_of_an_elf_file_are_taken_if_its_code_stands_there(program: Path) -> None:
    machine = machine_of(OLD)
    with Stub(machine) as stub:
        with open_target(stub.location, symbols=program) as target:
            assert target.symbols["work"] == BASE
            patch_text(target, [target.symbols["work"]], [1])
        stub.replace(machine_of([0x33000000] * 64))
        with pytest.raises(MismatchError, match="samples"):
            open_target(stub.location, symbols=program)


@pytest.mark.parametrize("different", [7, 8])
def test_an_elf_file_is_taken_if_more_than_half_of_its_samples_stand_there(program: Path, different: int) -> None:
    """Every fourth word of these 64 is a sample."""
    words = [word if number % 4 == 0 else 0x33000000 for number, word in enumerate(OLD)]
    words[: 4 * different : 4] = [0x33000000] * different
    with Stub(machine_of(words)) as stub:
        if different == 7:
            with open_target(stub.location, symbols=program) as target:
                assert target.symbols["work"] == BASE
        else:
            with pytest.raises(MismatchError, match="8 of 16 samples"):
                open_target(stub.location, symbols=program)


INTO_THE_MIDDLE = """
    .globl _start, work
    .type work, %function
    .type _start, %function
work:   cbz x0, 1f
        mov x1, #1
1:      mov x2, #2
        ret
    .size work, .-work
_start: b 1b
        ret
    .size _start, .-_start
"""


def test_code_of_an_elf_file_behind_a_stub_is_searched_for_ways_into_a_site(tmp_path: Path) -> None:
    """The program's code, and no other, is what branches to its middle come from."""
    from a64patch.patch.sites import sites_of, spans_of
    from a64patch.targets.elf import ElfFile
    from a64patch.targets.section import Change
    from tests.support import assemble, link

    path = link(assemble(INTO_THE_MIDDLE, tmp_path / "a.o"), tmp_path / "a", f"-Ttext={BASE:#x}", "--no-relax")
    with ElfFile(path) as file:
        [(start, end)] = file.code_ranges()
        words = from_bytes(file.read(start, end - start))
    machine = machine_of([*words, *OLD])
    with Stub(machine, "gdbserver") as stub, open_target(stub.location, symbols=path) as target:
        assert target.code_with(BASE + 4) == [(start, end)]
        changes = [Change(BASE + 4 * number, words[number], OLD[number]) for number in (1, 2)]
        [site] = sites_of(target, changes, spans_of(changes))
        assert site.unknown == ()
        assert site.kept_out == ("work", "_start")
        assert any(sentence.startswith("_start branches to work+0x8") for sentence in site.entered)
        # Its own code may be patched, and so may code that nobody has told of.
        assert target.writable() is None
        assert target.code_with(end) == []
        patch_text(target, [BASE + 4], [OLD[1]])
        patch_text_sync(target, [end, end + 4], NEW[:2], expected=OLD[:2])
        assert machine.words == [words[0], OLD[1], *words[2:], *NEW[:2], *OLD[2:]]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("answer", ["whole", "cut", "E01", ""])
def test_each_start_of_a_process_is_told_apart(order: str, answer: str) -> None:
    """By the random bytes that its auxiliary vector points to."""
    vector = struct.pack(f"{order}8Q", 6, 4096, 25, STACK + 64, 9, BASE, 0, 0)
    replies = {"whole": b"l" + vector, "cut": b"m" + vector[:39]}

    def tell(_: int, request: bytes, __: bytes) -> bytes | None:
        return packet(replies.get(answer, answer.encode())) if request.startswith(b"qXfer:auxv:") else None

    machine = machine_of(OLD)
    machine.stack[64:80] = bytes(range(16))
    with Stub(machine, "qemu-user", mangle=tell) as stub, open_target(stub.location) as target:
        told = f"AT_RANDOM={bytes(range(16)).hex()}" if answer in replies else ""
        assert target.identity().incarnation == told


@pytest.mark.parametrize(
    ("kind", "assume", "publish", "stop"),
    [
        ("qemu", [], Doer.TARGET, Doer.TARGET),
        ("gdbserver", [], Doer.TARGET, Doer.TARGET),
        ("kgdb", [], Doer.TARGET, Doer.TARGET),
        ("openocd", [], Doer.UNKNOWN, Doer.UNKNOWN),
        ("plain", [], Doer.UNKNOWN, Doer.UNKNOWN),
        ("openocd", ["caches"], Doer.TARGET, Doer.UNKNOWN),
        ("openocd", ["stops"], Doer.UNKNOWN, Doer.TARGET),
    ],
)
def test_who_does_each_step_is_what_is_known_of_the_stub(
    kind: Kind, assume: list[str], publish: Doer, stop: Doer
) -> None:
    steps = PROTOCOLS["stop"].on(USUAL)
    with Stub(machine_of(OLD), kind) as stub, open_stub(stub, assume=assume) as target:
        found = {step.name: target.doer(step) for step in steps}
    for step in steps:
        if step.operation is Operation.PUBLISH:
            assert found[step.name] is publish, step.name
        elif step.operation in (Operation.STOP, Operation.LET_GO):
            assert found[step.name] is stop, step.name
    assert found["store"] is Doer.US
    assert found["pc-check"] is Doer.US


def test_nobody_has_seen_kvm_invalidate_an_instruction_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stub(machine_of(OLD), "qemu") as stub, open_stub(stub, assume=[]) as target:
        monkeypatch.setattr(target._line.stub, "kind", QEMU_KVM)
        unknown = [step.name for step in PROTOCOLS["kick"].on(USUAL) if target.doer(step) is Doer.UNKNOWN]
    assert unknown == ["ic"]

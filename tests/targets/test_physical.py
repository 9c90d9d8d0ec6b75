"""System registers and physical memory behind a stub of our own: the mode for physical addresses is never left on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from a64patch.errors import CapabilityError, FormatError, ReadError, TargetError
from a64patch.targets.base import Capabilities, Target
from a64patch.targets.gdb import GdbTarget
from tests.targets.stub import BASE, QEMUS, Cut, Kind, Machine, Stub, machine_of, packet

WORDS = [0x11000000 + number for number in range(64)]
PHYSICAL = {0x40000000: bytes(range(256)) * 16, 0x80000000: b"far away"}
REQUESTS = [(0x80000000, 8), (0x40000010, 4), (0x40000000, 4096), (0, 8)]
FOUND = [b"far away", bytes(range(16, 20)), PHYSICAL[0x40000000], bytes(8)]
OTHERS: tuple[Kind, ...] = ("qemu-user", "gdbserver", "kgdb", "openocd", "plain")


def machine(**options: Any) -> Machine:
    return machine_of(WORDS, physical=dict(PHYSICAL), **options)


def open_stub(stub: Stub) -> GdbTarget:
    return GdbTarget(stub.location, timeout=stub.timeout)


def require_virtual(machine: Machine, target: GdbTarget) -> None:
    """The stub reads virtual addresses, and so does the target."""
    assert not machine.physical_mode
    assert target.read(BASE, 8) == bytes(machine.text[:8])


@pytest.mark.parametrize("kind", QEMUS)
@pytest.mark.parametrize("running", [True, False])
def test_physical_memory_is_read_and_the_mode_put_back(kind: Kind, running: bool) -> None:
    served = machine(running=running, state="" if running else "prelaunch")
    with Stub(served, kind) as stub:
        with open_stub(stub) as target:
            assert target.read_physical_many(REQUESTS) == FOUND
            require_virtual(served, target)
            with target.stop():
                assert target.read_physical_many(REQUESTS[:1]) == FOUND[:1]
                assert target.read_many([(BASE, 4)]) == [bytes(served.text[:4])]
                assert not served.running
            assert target.read_physical_many([]) == []
        assert served.running == running


def test_the_mode_is_on_only_within_one_burst() -> None:
    with Stub(machine()) as stub, open_stub(stub) as target:
        begun = len(stub.requests)
        target.read_physical_many(REQUESTS)
        modes = [request for request in stub.requests[begun:] if request.startswith(b"Qqemu")]
        assert modes == [b"Qqemu.PhyMemMode:1", b"Qqemu.PhyMemMode:0"]


@pytest.mark.parametrize("kind", QEMUS)
def test_a_mode_that_another_client_left_on_is_put_back(kind: Kind) -> None:
    served = machine(physical_mode=True)
    with Stub(served, kind) as stub, open_stub(stub) as target:
        require_virtual(served, target)


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("cut", ["before", "after", "half"])
@pytest.mark.parametrize("inside_a_stop", [True, False])
def test_a_connection_lost_at_any_packet_leaves_no_mode_on(cut: Cut, running: bool, inside_a_stop: bool) -> None:
    def read(target: GdbTarget) -> None:
        if inside_a_stop:
            with target.stop():
                target.read_physical_many(REQUESTS)
        else:
            target.read_physical_many(REQUESTS)

    def state() -> dict[str, Any]:
        return {"running": running, "state": "" if running else "prelaunch"}

    with Stub(machine(**state())) as stub, open_stub(stub) as target:
        opened = len(stub.requests)
        read(target)
        last = len(stub.requests)
    lost = was_on = 0
    for number in range(opened, last):
        served = machine(**state())
        with Stub(served, cut_at=number, cut=cut) as stub:
            with open_stub(stub) as target:
                try:
                    read(target)
                except TargetError:
                    lost += 1
                    was_on += b"Qqemu.PhyMemMode:1" in stub.requests[opened : number + 1]
                require_virtual(served, target)
            assert served.running == running
    assert lost >= 4
    assert was_on >= 4


@pytest.mark.parametrize("answer", [b"", b"E22"])
def test_a_stub_that_refuses_the_mode_reads_nothing(answer: bytes) -> None:
    served = machine()

    def refuse(_: int, request: bytes, __: bytes) -> bytes | None:
        return packet(answer) if request == b"Qqemu.PhyMemMode:1" else None

    with Stub(served, mangle=refuse) as stub, open_stub(stub) as target:
        with pytest.raises(CapabilityError, match="does not read physical addresses"):
            target.read_physical_many(REQUESTS)
        require_virtual(served, target)
        assert stub.connections == 1


def test_a_stub_that_does_not_leave_the_mode_is_met_again() -> None:
    served = machine()
    refused: list[bytes] = []

    def refuse(_: int, request: bytes, __: bytes) -> bytes | None:
        if request == b"Qqemu.PhyMemMode:0" and served.resumed and not refused:
            refused.append(request)
            served.physical_mode = True
            return packet(b"E22")
        return None

    with Stub(served, mangle=refuse) as stub, open_stub(stub) as target:
        with pytest.raises(ReadError, match="virtual addresses again"):
            target.read_physical_many(REQUESTS)
        require_virtual(served, target)
        assert stub.connections == 2


def test_a_stub_that_never_leaves_the_mode_is_not_used() -> None:
    def refuse(_: int, request: bytes, __: bytes) -> bytes | None:
        return packet(b"E22") if request == b"Qqemu.PhyMemMode:0" else None

    with Stub(machine(physical_mode=True), mangle=refuse) as stub, pytest.raises(TargetError, match="virtual"):
        open_stub(stub)


@pytest.mark.parametrize("kind", OTHERS)
def test_no_other_stub_is_asked_for_physical_memory(kind: Kind) -> None:
    with Stub(machine(), kind) as stub, open_stub(stub) as target:
        with pytest.raises(CapabilityError, match="does not read physical addresses"):
            target.read_physical_many(REQUESTS)
        assert not [request for request in stub.requests if b"PhyMemMode" in request]


def test_registers_of_each_cpu() -> None:
    served = machine()
    served.registers |= {(0, 93): 0x1234, (1, 93): 0x41000000}
    with Stub(served) as stub, open_stub(stub) as target:
        assert target.system_registers(["TTBR1_EL1", "pc", "NO_SUCH_EL1"]) == [
            {"pc": BASE + 0x10000 + 4 * cpu, "TTBR1_EL1": value} for cpu, value in ((0, 0x1234), (1, 0x41000000))
        ]
        assert served.running
        assert target.system_registers([]) == [{"pc": BASE + 0x10000}, {"pc": BASE + 0x10004}]
        assert target.read(BASE, 4) == bytes(served.text[:4])


def fetched(stub: Stub, since: int = 0) -> int:
    return sum(request.startswith(b"qXfer:features") for request in stub.requests[since:])


def test_the_whole_description_is_read_once_and_only_on_demand() -> None:
    def documents(run: Callable[[GdbTarget], object]) -> int:
        with Stub(machine()) as stub, open_stub(stub) as target:
            target.read(BASE, 4)
            run(target)
            return fetched(stub)

    usual = documents(lambda target: target.read(BASE, 4))
    once = documents(lambda target: target.system_registers(["TTBR1_EL1"]))
    twice = documents(lambda target: [target.system_registers(["NO_SUCH_EL1"]) for _ in range(2)])
    assert usual < once == twice


def test_a_description_that_breaks_off_is_an_error_only_for_who_needs_it() -> None:
    def lose(_: int, request: bytes, __: bytes) -> bytes | None:
        return packet(b"E00") if request.startswith(b"qXfer:features:read:more.xml") else None

    with Stub(machine(), mangle=lose) as stub, open_stub(stub) as target:
        assert target.read(BASE, 4)
        with pytest.raises(FormatError, match=r"more\.xml"):
            target.system_registers(["TTBR1_EL1"])
        assert target.read(BASE, 4)


def test_a_stub_without_a_description_has_the_usual_registers() -> None:
    with Stub(machine(), "plain") as stub, open_stub(stub) as target:
        assert [set(each) for each in target.system_registers(["x30", "TTBR1_EL1"])] == [{"pc", "x30"}]


class Plain(Target):
    """A target with nothing of its own."""

    capabilities = Capabilities("plain target", 0, can_stop=True, can_kick=True, sees_pcs=False, broadcast=True)


def test_other_targets_have_neither() -> None:
    with Plain() as target:  # type: ignore[abstract]
        with pytest.raises(CapabilityError, match="this plain target does not tell the registers"):
            target.system_registers(["TTBR1_EL1"])
        with pytest.raises(CapabilityError, match="this plain target does not read physical"):
            target.read_physical_many([(0, 8)])

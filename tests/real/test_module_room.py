"""Room for new code in a kernel module of Debian: insmod loads the module, and the kernel executes the room."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch.a64.assembler import assemble_one
from a64patch.a64.predicates import is_nop
from a64patch.a64.words import from_bytes, to_bytes
from a64patch.errors import CapabilityError
from a64patch.kernel.elf import KernelElf
from a64patch.targets.elf_object_room import NewRelocation
from tests.real.guest import Guest

JUMP26, CALL26 = 282, 283
CARRIER = "ip link add d0 type dummy; ip link set d0 up; echo 0 > /sys/class/net/d0/carrier; echo status $?"


def put(guest: Guest, path: Path) -> None:
    guest.run(f"base64 -d > /{path.name} << EOF\n{base64.encodebytes(path.read_bytes()).decode()}EOF")


def test_new_code_in_a_module_calls_the_kernel(guest: Guest, kernel_module: Callable[[str], Path]) -> None:
    """`dummy_change_carrier` counts the call in the device's carrier, by a function of the kernel, and then fails."""
    path = kernel_module("dummy")
    with KernelElf(path) as module, pytest.raises(CapabilityError, match="is a signed module") as refused:
        module.find_room(24, (0, 0))
    subprocess.run(str(refused.value).split("`")[1], shell=True, check=True)
    before = path.read_bytes()
    with KernelElf(path) as module:
        place = module.symbols["dummy_change_carrier"]
        while is_nop(from_bytes(module.read(place, 4))[0]) or module.relocation_at(place):  # for ftrace
            place += 4
        room = module.find_room(24, (place, place))
        module.allocate(room)
        texts = ("stp x29, x30, [sp, #-16]!", "bl 0", "ldp x29, x30, [sp], #16", "mov w0, #-1", "b 4", "ret")
        module.write(room.address, to_bytes([assemble_one(text, 0) for text in texts]))
        old = module.read(place, 4)
        module.write(place, to_bytes(assemble_one("b 0", 0)))
        module.relocate(
            [
                NewRelocation(place, JUMP26, room.address),
                NewRelocation(room.address + 4, CALL26, "netif_carrier_off"),
                NewRelocation(room.address + 16, JUMP26, room.address + 20),
            ]
        )
        module.publish(0, 0)
    put(guest, path)
    guest.run(f"insmod /{path.name}")
    try:
        assert "Operation not permitted" in guest.run(CARRIER, check=False)
        assert guest.run("cat /sys/class/net/d0/carrier") == "0\n"
        assert "a64patch.1" in guest.run("cat /proc/kallsyms")
    finally:
        guest.run(f"rmmod dummy; rm /{path.name}")
    with KernelElf(path) as module:
        module.write(place, old)
        assert module.release(room) == ""
        module.publish(0, 0)
    assert path.read_bytes() == before

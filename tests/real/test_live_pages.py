"""The code of a running kernel by its translation tables: what it says itself of its text, modules, BPF and kprobes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from a64patch import open_target
from a64patch.errors import TargetError
from a64patch.kernel.executable import Code, Owner, executable
from a64patch.ranges import Ranges
from a64patch.targets.gdb import GdbTarget
from tests.real import packages
from tests.real.guest import Guest
from tests.real.live import Line, LiveGuest
from tests.real.pages import code_of, page_size, require_equal_bytes, require_own_view

PROBES = "/sys/kernel/debug/tracing/kprobe_events"
ENABLE = "/sys/kernel/debug/tracing/events/kprobes/enable"
STEPPED = "uptime_proc_show+12"
"""A kprobe executes a copy of the instruction there: behind a BTI or PACIASP, and behind what ftrace patches."""


@contextmanager
def opened(location: str) -> Iterator[GdbTarget]:
    with open_target(location) as target:
        assert isinstance(target, GdbTarget)
        yield target


@pytest.mark.other_kernel
def test_its_own_view_of_debians_kernel(live: LiveGuest) -> None:
    with opened(live.gdb) as target:
        require_own_view(live, packages.newest_kernel(), target)
        require_equal_bytes(target)
        assert live.runs(), "nothing keeps it halted"


def test_a_kernel_at_el2_with_the_widest_addresses(boot: Callable[..., Guest]) -> None:
    """Debian's kernels have 52 bits since 6.12, so 4 KiB pages have five levels (FEAT_LPA2)."""
    guest = boot(processor="max,pauth-impdef=on", machine="virt,virtualization=on")
    with opened(guest.gdb) as target:
        require_own_view(guest, packages.newest_kernel(), target)
        require_equal_bytes(target)
        with target.stop():
            [*_, cpu] = target.system_registers(["TCR_EL2", "cpsr"])
    assert cpu["cpsr"] >> 2 & 3 in (0, 2)
    release = tuple(map(int, re.findall(r"\d+", guest.run("uname -r"))[:2]))
    assert 64 - (cpu["TCR_EL2"] >> 16 & 0x3F) == (52 if release >= (6, 12) else 48)


def test_cpus_that_go_to_and_fro_between_kernel_and_users(live: LiveGuest) -> None:
    with opened(live.gdb) as target:
        quiet = executable(target)
        with live.load("while :; do cat /proc/uptime; done"):
            assert all(executable(target) == quiet for _ in range(10))


def test_the_page_of_a_kprobe_is_code_of_nobody(live: LiveGuest) -> None:
    with opened(live.gdb) as target:
        before = code_of(target, live.symbols())
        live.run(f"echo 'p:a64patch {STEPPED}' >{PROBES}; echo 1 >{ENABLE}")
        try:
            listing = live.symbols()
            [slot] = re.findall(r"^(\w+) . kprobe_insn_page\t\[__builtin__kprobes\]$", listing, re.MULTILINE)
            found = set(code_of(target, listing))
        finally:
            live.run(f"echo 0 >{ENABLE}; echo >{PROBES}")
        page = Code(int(slot, 16), int(slot, 16) + page_size(live), False, Owner.OTHER)
        # The kernel keeps the page of a probe that was there before.
        assert page in found
        assert found - set(before) <= {page}


def test_a_stub_that_was_left_reading_physical_addresses_is_met_well(live: LiveGuest) -> None:
    """QEMU itself keeps the mode for its next client."""
    place = live.names["uptime_proc_show"]
    with opened(live.gdb) as target:
        expected = target.read(place, 16)
        with target.stop():
            connection = target._line.connection
            assert connection.ask(b"Qqemu.PhyMemMode:1") == b"OK"
            assert connection.ask(b"m%x,10" % place) != expected.hex().encode()
    with opened(live.gdb) as target:
        assert target.read(place, 16) == expected


@pytest.mark.usefixtures("short_pauses")
def test_a_line_that_is_cut_anywhere_in_a_walk_leaves_virtual_addresses(live: LiveGuest) -> None:
    place = live.names["uptime_proc_show"]
    with opened(live.gdb) as target:
        expected, code = target.read(place, 16), Ranges.of(each[:2] for each in executable(target))
    cuts = 0
    for number in range(1, 1000, 7):
        with Line(live.gdb) as line, opened(line.location) as target:
            line.cut_at("there", number, for_good=False)
            try:
                assert Ranges.of(each[:2] for each in executable(target)) == code
                if not line.was_cut:
                    break
            except TargetError:
                cuts += 1
            line.heal()
            assert target.read(place, 16) == expected
        assert live.runs()
    assert cuts > 10

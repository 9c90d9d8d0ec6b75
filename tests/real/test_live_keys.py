"""Static keys of a running Linux: read beside the kernel's own switching, and switched while four CPUs execute them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.a64.predicates import is_b
from a64patch.cli.main import main
from a64patch.errors import A64PatchError, BusyError, MismatchError, PlanError
from a64patch.kernel.loaded import modules_of
from a64patch.kernel.running import structures_of
from a64patch.kernel.static_keys import Key, chain_of, read_keys
from a64patch.kernel.structures import Structures, View
from a64patch.kernel.switching import plan_switch
from a64patch.patch.journal import EntryState, Journal
from a64patch.patch.plan import Plan
from a64patch.patch.transaction import apply_plan, recover
from a64patch.targets.base import Target
from tests.real.guest import Guest
from tests.real.live import Line
from tests.real.test_live_tutorial import commands
from tests.support import ROOT, eventually, rounds

ROUNDS = rounds(1000, 2)
CUTS = rounds(25, 4)
ACCEPT = {"kernel-rewrites"}
SCHEDSTATS = "/proc/sys/kernel/sched_schedstats"
"""A file that says whether the key `sched_schedstats` is on, and switches it."""
EVENT = "/tracing/events/sched/sched_process_wait/enable"
"""A file that switches the key of a tracepoint."""


@pytest.fixture
def journal() -> Iterator[Journal]:
    with tempfile.TemporaryDirectory(prefix="a64patch-") as directory, Journal(Path(directory) / "journal") as opened:
        yield opened


@pytest.fixture
def traced(guest: Guest) -> Iterator[Guest]:
    """A guest with the files of the tracepoints."""
    guest.run("mkdir -p /tracing; mount -t tracefs tracefs /tracing")
    yield guest
    guest.run(f"echo 0 >{EVENT}; echo 0 >{SCHEDSTATS}; umount /tracing; rmdir /tracing")


def opened(guest: Guest) -> Target:
    return open_target(guest.gdb, symbols="kallsyms")


def types_of(target: Target) -> Structures:
    kernel = target.modules.main
    return structures_of(target, kernel.symbols, kernel.build_id)


def keys_of(target: Target) -> list[Key]:
    structures = types_of(target)
    return read_keys(target, [(module.name, module.at) for module in modules_of(target, structures)], structures)


def schedstats(target: Target, keys: list[Key]) -> Key:
    """The key that the kernel's own handler of the file tests: not every kernel names it."""
    start, end = target.symbols.extent(target.symbols["sysctl_schedstats"]) or (0, 0)
    [key] = [key for key in keys if any(start <= site.address < end for site in key.sites)]
    return key


def one_key(target: Target, address: int) -> tuple[Key, dict[str, int]]:
    """The key at an address, and the loaded modules."""
    structures = types_of(target)
    modules = {module.name: module.at for module in modules_of(target, structures)}
    [key] = read_keys(target, modules.items(), structures, only=address)
    return key, modules


def plan_of(target: Target, address: int, *, on: bool) -> Plan:
    key, modules = one_key(target, address)
    return plan_switch(target, types_of(target), key, on=on, modules=modules)


@pytest.mark.other_kernel
def test_every_word_is_as_its_key_says(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(guest) as target:
        keys = keys_of(target)
        sites = [site for key in keys for site in key.sites]
        assert not [key for key in keys if key.differing]
        assert all(site.known != site.init for site in sites)
        assert len(keys) > 2000
        assert sum(site.known for site in sites) > 7000
        assert sum(site.known and is_b(site.found or 0) for site in sites) > 100
        assert 50 < sum(site.init for site in sites) < 1000
        kernel = target.modules.main
        view = View(target, structures_of(target, kernel.symbols, kernel.build_id))
        loaded = modules_of(target, view.structures)
        counts = view.fields([module.at for module in loaded], "module.num_jump_entries")
        listing = {module.name for module, count in zip(loaded, counts, strict=True) if count and count[0]}
        assert {site.module for site in sites if site.module} == listing
        # What the kernel keeps of each key itself leads to the same entries.
        for key in keys:
            if not key.sealed:
                theirs = {part.entries for part in chain_of(target, key).parts if part.entries}
                ours: dict[str, int] = {}
                for site in key.sites:
                    ours[site.module] = min(ours.get(site.module, site.entry), site.entry)
                assert theirs == set(ours.values()), key
    assert main(["keys", guest.gdb, "--symbols", "kallsyms"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    print(last)
    assert f"{len(keys)} keys, {len(sites)} sites: " in last
    assert ", 0 not, " in last


def test_the_kernel_sees_what_was_switched(
    guest: Guest, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And we see what the kernel switches."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with opened(guest) as target:
        key = schedstats(target, keys_of(target))
        place = target.symbols.describe(key.sites[0].address)
    assert key.state == "off"
    names = ("--symbols", "kallsyms")

    def a64patch(*words: str, status: int = 0) -> str:
        assert main([*words, *names]) == status, capsys.readouterr()
        said = capsys.readouterr()
        return said.out + said.err

    name = f"{key.address:#x}"
    assert "would be" in a64patch("show", guest.gdb, place, "-n", "1")
    a64patch("keys", guest.gdb, name, "--on", "--dry-run")
    assert guest.run(f"cat {SCHEDSTATS}").strip() == "0"
    said = a64patch("keys", guest.gdb, name, "--on")
    assert f"{len(key.sites)} hunks: {len(key.sites) + 1} words written, 1 of them data; stop" in said
    assert guest.run(f"cat {SCHEDSTATS}").strip() == "1"
    assert "already on; nothing was changed" in a64patch("keys", guest.gdb, name, "--on", status=1)
    assert ": on, at first off" in a64patch("keys", guest.gdb, name)
    a64patch("revert", "1")
    assert guest.run(f"cat {SCHEDSTATS}").strip() == "0"
    guest.run(f"echo 1 >{SCHEDSTATS}")
    assert ": on, at first off" in a64patch("keys", guest.gdb, name)
    assert ": off, at first off\n" not in a64patch("keys", guest.gdb, name)
    a64patch("keys", guest.gdb, name, "--off")
    assert guest.run(f"cat {SCHEDSTATS}").strip() == "0"
    guest.run(f"echo 1 >{SCHEDSTATS}; echo 0 >{SCHEDSTATS}")
    assert "0 not" in a64patch("keys", guest.gdb)


def test_the_page(guest: Guest, tmp_path: Path) -> None:
    """docs/static-keys.md, command by command: all but numbers, addresses and the name of the key is as it says."""
    with opened(guest) as target:
        key = schedstats(target, keys_of(target))
        place = target.symbols.describe(key.sites[0].address)
    page = (ROOT / "docs/static-keys.md").read_text("utf-8")
    [site] = set(re.findall(r"show gdb\+unix:stub (\S+)", page))
    [name] = set(re.findall(r"keys gdb\+unix:stub (0x\S+)", page))
    page = page.replace(site, place).replace(name, key.name).replace("gdb+unix:stub", guest.gdb)

    def without_numbers(text: str) -> list[str]:
        shorter = re.sub(r" {2,}", "  ", re.sub(r"\bb \S*\+0x\w+|\bnop\b", "INSTRUCTION", text))
        return [re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{8}\b|[0-9]{2,}", "N", line) for line in shorter.splitlines()]

    done = 0
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    for prompt, command, printed in commands(page):
        if prompt == "#":
            said = guest.run(command)
        else:
            command = re.sub("^a64patch ", f"{sys.executable} -m a64patch ", command)
            ran = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
            said = ran.stdout + ran.stderr
        assert without_numbers(said.strip()) == without_numbers(printed.partition("\n\n")[0].strip()), command
        done += 1
    assert done == 7


def test_many_switches_beside_the_kernels_own(traced: Guest, journal: Journal) -> None:
    """The kernel switches another key all the time, and then the same one too."""
    outcomes: Counter[str] = Counter()
    toggle = f"while :; do echo 1 >{EVENT}; echo 0 >{EVENT}; done"
    fork = "while :; do /bin/true; cat /proc/self/stat; done"
    with opened(traced) as target, traced.load(toggle, cpus=[0]), traced.load(fork, cpus=[1]):
        address = schedstats(target, keys_of(target)).address or 0
        for number in range(ROUNDS):
            on = number % 2 == 0
            for _ in range(200):
                try:
                    apply_plan(plan_of(target, address, on=on), target, journal, accept=ACCEPT)
                except (BusyError, MismatchError) as error:
                    outcomes[type(error).__name__] += 1
                    continue
                break
            else:
                raise AssertionError(f"always busy: {outcomes}")
            outcomes["switched"] += 1
            assert traced.run(f"cat {SCHEDSTATS}").strip() == str(int(on))
        assert not [key for key in keys_of(target) if key.differing]
        both = f"while :; do echo 1 >{SCHEDSTATS}; echo 0 >{SCHEDSTATS}; done"
        with traced.load(both, cpus=[2]):
            for number in range(ROUNDS):
                try:
                    apply_plan(plan_of(target, address, on=number % 2 == 0), target, journal, accept=ACCEPT)
                    outcomes["switched the same"] += 1
                except (BusyError, MismatchError, PlanError) as error:
                    outcomes[f"{type(error).__name__} for the same"] += 1
                assert not one_key(target, address)[0].differing
    print(dict(outcomes))
    assert outcomes["switched"] == ROUNDS
    assert {entry.state for entry in journal.entries()} <= {EntryState.APPLIED, EntryState.UNDONE}
    with opened(traced) as target:
        keys = keys_of(target)
        assert not [key for key in keys if key.differing]
        on = schedstats(target, keys).on is True
    assert traced.run(f"cat {SCHEDSTATS}").strip() == str(int(on))


@pytest.mark.usefixtures("short_pauses")
def test_a_switch_that_is_cut_off_is_brought_to_an_end(guest: Guest, journal: Journal) -> None:
    """The line to the stub is cut at some packet of the switch; afterwards the kernel and its words agree."""
    states: Counter[str] = Counter()
    with opened(guest) as target:
        address = schedstats(target, keys_of(target)).address or 0
    with Line(guest.gdb) as line:

        def through_the_line() -> Target:
            return open_target(f"{line.location}?timeout=60&leave=running", symbols="kallsyms")

        for number in range(1, CUTS + 1):
            with suppress(A64PatchError), through_the_line() as target:
                plan = plan_of(target, address, on=True)
                line.cut_at("there", number * 3, kind=b"M", for_good=True)
                apply_plan(plan, target, journal, accept=ACCEPT)
            assert line.was_cut
            line.heal()
            for recovery in recover(journal, lambda entry: through_the_line()):
                states[recovery.state.value] += 1
                assert recovery.state in (EntryState.APPLIED, EntryState.UNDONE), recovery
            assert eventually(guest.runs)
            with opened(guest) as target:
                key, _ = one_key(target, address)
            assert not key.differing
            assert guest.run(f"cat {SCHEDSTATS}").strip() == str(int(key.on is True))
            guest.run(f"echo 0 >{SCHEDSTATS}")
    print(dict(states))
    assert states

"""What a running kernel tells about itself, compared with what it tells inside: modules, their names, hooks."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest

from a64patch import open_target
from a64patch.cli.main import main
from a64patch.kernel.running import MADE
from a64patch.kernel.symbols import parse_listing
from a64patch.targets.base import Target
from tests.real.guest import Guest
from tests.real.live import LiveGuest

_TRACING = "/sys/kernel/debug/tracing"


@pytest.fixture
def kernel(live: LiveGuest) -> Iterator[Target]:
    with open_target(live.gdb, symbols="kallsyms") as target:
        yield target


@pytest.mark.other_kernel
def test_modules_and_their_names_are_those_of_proc(live: LiveGuest, kernel: Target) -> None:
    named = {line.split()[0] for line in live.run("cat /proc/modules").splitlines()}
    loaded = [module for module in kernel.modules[1:] if module.name != MADE]
    assert {module.name for module in loaded} == named
    inside: dict[str, set[tuple[int, str]]] = {}
    for symbol in parse_listing(live.listing.encode(), "kallsyms"):
        inside.setdefault(symbol.module, set()).add((symbol.address, symbol.name))
    for module in loaded:
        ours = {(symbol.address, symbol.name) for symbol in module.symbols.ascending()}
        assert ours == inside[module.name], module.name
        assert module.code is not None
        text = int(live.run(f"cat /sys/module/{module.name}/sections/.text"), 16)
        assert text in module.code
        note = live.run_bytes(f"cat /sys/module/{module.name}/notes/.note.gnu.build-id")
        assert bytes.fromhex(module.build_id) in note
    functions = {symbol.address for symbol in kernel.symbols.ascending() if symbol.is_function and symbol.module}
    assert all(address in kernel.modules.code for address in functions)


def test_a_site_in_a_module_needs_no_file(live: LiveGuest, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", live.gdb, "brd:brd_submit_bio", "-n", "2", "--symbols", "kallsyms"]) == 0
    assert capsys.readouterr().out.count("belongs to ftrace: the kernel makes it a call") == 2


@contextlib.contextmanager
def traced(guest: Guest, function: str) -> Iterator[None]:
    """ftrace traces this function, and a kprobe has the third word of vfs_write, until the block ends."""
    guest.run(
        f"cd {_TRACING} && echo {function} >set_ftrace_filter && echo function >current_tracer"
        " && echo 'p:probe vfs_write+8' >kprobe_events && echo 1 >events/kprobes/enable"
    )
    try:
        yield
    finally:
        guest.run(
            f"cd {_TRACING} && echo nop >current_tracer && echo 0 >events/kprobes/enable"
            " && echo >kprobe_events && echo >set_ftrace_filter"
        )


def test_a_traced_function_and_one_with_a_probe_are_said_to_be(
    live: LiveGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["--symbols", "kallsyms"]
    with traced(live, "vfs_read"):
        assert main(["ftrace", live.gdb, "--traced", *names]) == 0
        listed = capsys.readouterr().out.splitlines()
        assert re.search(r" vfs_read  .*  bl ftrace_caller$", listed[0])
        assert listed[1] == "functions that ftrace can trace: 1, traced now: 1"
        for site, new, old in (("vfs_read", "nop", "mov x9, x30"), ("vfs_read+4", "nop", "bl ftrace_caller")):
            assert main(["poke", live.gdb, site, new, "--expect", old, *names]) == 1
            assert "ftrace, which is tracing this function now: it calls ftrace_caller" in capsys.readouterr().err
        probed = live.run("cat /sys/kernel/debug/kprobes/list")
        assert f"{live.names['vfs_write'] + 8:x}" in probed
        assert main(["poke", live.gdb, "vfs_write+8", "nop", "--expect", "paciasp", *names]) == 1
        assert "it holds the BRK of a kprobe now; nothing was changed" in capsys.readouterr().err
    live.run("true")
    assert main(["ftrace", live.gdb, "vfs_read", *names]) == 0
    assert "traced now: 0" in capsys.readouterr().out
    live.require_healthy()


def test_the_functions_that_ftrace_can_trace_are_those_that_the_kernel_lists(live: LiveGuest, kernel: Target) -> None:
    from a64patch.kernel.hooks import running_hooks

    traced = [kernel.symbols.describe(hook.start) for hook in running_hooks(kernel)]
    ours = {site.rpartition(":")[2] for site in traced}
    theirs = {line.split()[0] for line in live.run(f"cat {_TRACING}/available_filter_functions").splitlines()}
    # Linux 6.1 also lists functions that no symbol names: weak ones that others replaced.
    # It names each by the symbol before, which may be no function that can be traced.
    plain = {name for name in theirs - ours if len(kernel.symbols.named(name)) == 1}
    assert len(plain) < 100, plain
    assert len(ours & theirs) > 30_000

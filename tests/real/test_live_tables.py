"""What a running kernel tells about itself, compared with what it tells inside: modules, their names, hooks."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator

import pytest
from elftools.elf.elffile import ELFFile

from a64patch import open_target
from a64patch.cli.main import main
from a64patch.kernel import blacklist
from a64patch.kernel.alternatives import SECTION, loaded_alternatives
from a64patch.kernel.image import KernelImage
from a64patch.kernel.loaded import modules_of, sections_of
from a64patch.kernel.running import MADE, structures_of
from a64patch.kernel.structures import View
from a64patch.kernel.symbols import parse_listing
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from tests.real import packages, pages
from tests.real.guest import Guest
from tests.real.live import LiveGuest
from tests.support import rounds

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


@pytest.mark.other_kernel
def test_alternatives_are_as_the_kernel_chose(live: LiveGuest) -> None:
    """By feature: all words with the feature are the replacement, all without it the original; none is neither.

    A kernel that names its variables keeps the features for which it took the replacement.
    """
    path = packages.newest_kernel().image
    with KernelImage(path) as image, open_target(live.gdb, symbols=str(path)) as target:
        assert not [each for each in image.modules.claims if each.of_build], "all tables of the file are sound"
        shift = target.identity().base
        code = target.modules.main.code or Ranges()
        found = [each for each in image.alternatives() if each.code + shift in code]
        entries = {each.code + shift: each for each in found[:: rounds(1, 8)]}
        names = {each.new: image.symbols.describe(each.new) for each in entries.values()}
        [claim] = [each for each in target.modules.claims if each.table == SECTION and code.spans[0][0] in each.words]
        said = claim.on(entries)
    assert len(found) > 20_000
    assert len(said) == len(entries)
    chosen: dict[int, set[bool]] = {}
    for place, each in entries.items():
        what = re.search(r"; now (?:it is|its \d+ words are) (.*)$", said[place])
        assert what is not None, said[place]
        if names[each.new] == "alt_cb_patch_nops" or each.new_size:
            assert what[1] in ("the original", "the replacement" if each.new_size else "not the original")
            chosen.setdefault(each.feature, set()).add(what[1] != "the original")
    assert all(len(each) == 1 for each in chosen.values()), chosen
    taken = {feature for feature, each in chosen.items() if True in each}
    assert 1 < len(taken) < len(chosen) - 10
    if live.names.named("applied_alternatives"):
        with open_target(live.gdb) as target:
            bits = int.from_bytes(target.read(live.names["applied_alternatives"], 16), "little")
        assert taken == {feature for feature in chosen if bits >> feature & 1}


def test_alternatives_of_modules_are_those_of_their_files(live: LiveGuest, kernel: Target) -> None:
    main_module, places = kernel.modules.main, pages.sections(live)
    view = View(kernel, structures_of(kernel, main_module.symbols, main_module.build_id))
    counts = 0
    for module in modules_of(kernel, view.structures):
        assert sections_of(view, module) == places[module.name]
        section = ELFFile(io.BytesIO(packages.read_kernel_module(module.name))).get_section_by_name(SECTION)
        found = loaded_alternatives(view, module)
        assert len(found) == (section["sh_size"] // 12 if section else 0), module
        [claim] = [
            each for each in kernel.modules.claims if each.table == SECTION and module.text.spans[0][0] in each.words
        ]
        said = claim.on(each.code for each in found)
        assert all(each.code in said for each in found if each.code in module.text)
        counts += len(found)
    assert counts > 10


@pytest.mark.other_kernel
def test_code_that_nobody_may_probe_is_in_the_kernels_own_list(
    live: LiveGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is in debugfs. What a file tells by symbols is a part of it."""
    lines = live.run("cat /sys/kernel/debug/kprobes/blacklist")
    spans = re.findall(r"^(0x\w+)-(0x\w+)\t", lines, re.MULTILINE)
    theirs = Ranges.of((int(start, 16), int(end, 16)) for start, end in spans)
    with open_target(live.gdb, symbols="kallsyms") as target:
        main_module = target.modules.main
        types = structures_of(target, main_module.symbols, main_module.build_id)
        assert blacklist.listed(target, types, main_module.symbols) == theirs
        areas = blacklist.areas(main_module.symbols)
    assert areas.size > theirs.size / 2
    assert not areas - theirs
    assert len(spans) > 400
    assert main(["show", live.gdb, spans[0][0], "-n", "1", "--symbols", "kallsyms"]) == 0
    assert "nobody may probe" in capsys.readouterr().out

"""What a guest itself says about its code: the ends of its text, the sections of its modules, code made at run time.

Read on: test_live_pages.py and kernels.py compare its translation tables with this.
"""

from __future__ import annotations

import io
import re

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from a64patch.kernel.executable import Code, Owner, executable, with_owners
from a64patch.kernel.symbols import parse_listing
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from tests.real.guest import Guest
from tests.real.packages import KernelTree

_RUN_TIME = re.compile(r"([0-9a-f]{16}) . \S+\t\[(?:bpf|__builtin__\w+)\]")
_LARGEST_PLT = 1 << 18
"""Bytes: in the same allocation the next section comes earlier."""


def page_size(guest: Guest) -> int:
    """Bytes."""
    return 1024 * int(guest.run("grep -m1 KernelPageSize /proc/self/smaps").split()[1])


def sections(guest: Guest) -> dict[str, dict[str, int]]:
    """By module the addresses of its sections, as /sys/module says. Those of its initialisation are stale."""
    found: dict[str, dict[str, int]] = {name: {} for name in guest.run("cut -d' ' -f1 /proc/modules").split()}
    for line in guest.run("grep -r . /sys/module/*/sections").splitlines():
        if match := re.fullmatch(r"/sys/module/(\w+)/sections/(\S+):(0x[0-9a-f]+)", line):
            found.setdefault(match[1], {})[match[2]] = int(match[3], 16)
    return found


def module_code(guest: Guest, tree: KernelTree, page: int) -> dict[str, tuple[Ranges, Ranges]]:
    """By module the pages of its code, and those of all else that it keeps in memory.

    A section has its size in the .ko file. The loader makes .plt (module-plts.c): it may reach to the next section.
    """
    found = {}
    for name, places in sections(guest).items():
        starts = sorted(places.values())
        code: list[tuple[int, int]] = []
        data: list[tuple[int, int]] = []
        for section in ELFFile(io.BytesIO(tree.module(name))).iter_sections():
            flags, start = section["sh_flags"], places.get(section.name)
            if start is None or not flags & SH_FLAGS.SHF_ALLOC or section.name.startswith(".init"):
                continue
            end = start + max(1, section["sh_size"])
            if section.name == ".plt":
                end = next((each for each in starts if start < each < start + _LARGEST_PLT), end)
            span = (start // page * page, -(-end // page) * page)
            (code if flags & SH_FLAGS.SHF_EXECINSTR else data).append(span)
        found[name] = Ranges.of(code), Ranges.of(data)
    return found


def code_of(target: Target, listing: str) -> tuple[Code, ...]:
    """The code by the tables, and by the names in a listing whose it is."""
    return with_owners(executable(target), parse_listing(listing.encode(), "kallsyms"))


def require_own_view(guest: Guest, tree: KernelTree, target: Target) -> None:
    """The kernel's text, each module's code and all code made at run time are executable; nothing is writable too.

    No page with data of a module only is executable. A page that no name tells may be: BPF filters have none.
    """
    listing, page = guest.symbols(), page_size(guest)
    ends = {name: int(address, 16) for address, _, name in re.findall(r"^(\w+) (.) (_\w+)$", listing, re.MULTILINE)}
    found = code_of(target, listing)
    [text] = [code for code in found if code.owner is Owner.KERNEL]
    assert ends["_stext"] - text.start in (0, 0x10000), "5.10 also maps the head of the image, 64 KiB, as code"
    assert text.end == ends["_etext"]
    modules = module_code(guest, tree, page)
    ours = {name: Ranges.of(each[:2] for each in found if name in each.modules) for name in modules}
    expected = {name: code for name, (code, _) in modules.items()}
    assert ours == expected
    all_code = Ranges.of(each[:2] for each in found)
    for name, (_, data) in modules.items():
        assert not all_code & (data - expected[name]), name
    others = Ranges.of(each[:2] for each in found if each.owner is Owner.OTHER)
    made = [int(match[1], 16) for match in _RUN_TIME.finditer(listing)]
    assert all(address in others for address in made), [hex(address) for address in made]
    assert [each for each in found if each.writable] == []
    aliases = [each for each in found if each.owner is Owner.ALIAS]
    isolated = "detected: Kernel page table isolation" in guest.console
    assert len(aliases) in ((1,) if isolated else (0, 1)), "6.1 maps its trampoline without KPTI too"


def require_equal_bytes(target: Target) -> None:
    """The stub reads the same by virtual address, which it translates itself, as by the physical one of the tables."""
    with target.stop():
        mappings = executable(target)
        virtual = target.read_many([(each.start, 64) for each in mappings])
        assert virtual == target.read_physical_many([(each.physical, 64) for each in mappings])

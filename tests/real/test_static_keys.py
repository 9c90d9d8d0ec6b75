"""The static keys of Debian's kernel and of its modules, as files: against readelf, and against their own words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch.a64.predicates import is_b
from a64patch.kernel.elf import KernelElf
from a64patch.kernel.image import KernelImage
from a64patch.kernel.static_keys import SECTION, read_keys
from tests.real import packages
from tests.support import need, run


@pytest.mark.parametrize("name", ["ext4", "nf_conntrack"])
def test_the_jump_entries_of_a_module_are_those_of_readelf(kernel_module: Callable[[str], Path], name: str) -> None:
    path = kernel_module(name)
    relocations = run(need("aarch64-linux-gnu-readelf", "binutils-aarch64-linux-gnu"), "-rW", path)
    part = relocations.partition(f"'.rela{SECTION}'")[2].partition("Relocation section")[0]
    fields = {
        int(at, 16): (symbol, int(more or "0", 16))
        for at, symbol, more in re.findall(r"^([0-9a-f]{16}) .* (\S+)(?: \+ ([0-9a-f]+))$", part, re.MULTILINE)
    }
    with KernelElf(path) as file:
        starts = {space.name: space.start for space in file.symbols.spaces}
        theirs = set()
        for at in range(0, max(fields) + 8, 16):
            (code, code_at), (to, to_at), (key, key_at) = fields[at], fields[at + 4], fields[at + 8]
            named: set[int | None] = {symbol.address for symbol in file.symbols.named(key)}
            [start] = {starts[key]} if key in starts else named or {None}
            place = None if start is None else start + (key_at & ~3)
            theirs.add((starts[code] + code_at, starts[to] + to_at, place, key_at & 1))
        keys = read_keys(file)
    sites = [(key, site) for key in keys for site in key.sites]
    assert {(site.address, site.target, key.address, int(site.branch)) for key, site in sites} == theirs
    assert len(theirs) == len(sites) > 30
    assert not [key for key in keys if key.differing]
    assert {"off"} < {key.state for key in keys}
    assert all((key.state == "unknown") == (key.address is None and not key.name.startswith(".")) for key in keys)


def test_every_word_of_the_image_is_as_its_key_says() -> None:
    with KernelImage(packages.newest_kernel().image) as image:
        keys = read_keys(image)
    sites = [site for key in keys for site in key.sites]
    assert not [key for key in keys if key.differing]
    assert all(site.known for site in sites)
    assert len(keys) > 2000
    assert len(sites) > 7000
    jumping = [site for site in sites if is_b(site.found or 0)]
    assert 100 < len(jumping) < len(sites) / 4
    assert any(site.branch for site in jumping)
    assert any(not site.branch for site in jumping)
    assert sum(key.initially is True for key in keys) > 30

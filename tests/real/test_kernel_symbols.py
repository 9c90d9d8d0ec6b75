"""Debian's arm64 kernel, as a file and booted: the names found in it are those that it lists itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.a64.generate import gen_nop
from a64patch.cli.main import main
from a64patch.errors import FormatError
from a64patch.kernel.image import KernelImage
from a64patch.kernel.kallsyms import KernelSymbol
from a64patch.kernel.symbols import attach, live_symbols, parse_listing
from a64patch.patch.text import patch_text
from a64patch.targets.base import Target
from tests.real import packages
from tests.real.guest import Guest

IMAGE = (packages.KERNEL, "boot/vmlinuz-*")

Names = set[tuple[int, str, str]]


@pytest.fixture(scope="module")
def image(arm64_file: Callable[[str, str], Path]) -> Path:
    return arm64_file(*IMAGE)


def names(symbols: list[KernelSymbol], shift: int = 0) -> Names:
    """Of the kernel proper."""
    return {(symbol.address + shift, symbol.type, symbol.name) for symbol in symbols if not symbol.module}


def listed_by(guest: Guest) -> list[KernelSymbol]:
    return parse_listing(guest.symbols().encode(), "kallsyms")


@contextmanager
def stub_of(guest: Guest) -> Iterator[Target]:
    with open_target(guest.gdb) as target:
        yield target


def test_names_in_debians_image_are_those_that_the_booted_kernel_lists(image: Path, guest: Guest) -> None:
    listed = listed_by(guest)
    with KernelImage(image) as file:
        found = file.kernel_symbols()
        identity = file.identity()
    slide = next(s.address for s in listed if s.name == "_stext") - next(s.address for s in found if s.name == "_stext")
    assert slide
    assert slide % 0x10000 == 0
    assert len(found) > 40_000
    assert names(found, slide) == names(listed)
    assert identity.release == f"Linux {guest.run('uname -r').strip()}"
    assert bytes.fromhex(identity.build_id) in guest.run_bytes("cat /sys/kernel/notes")


def test_saved_kallsyms_names_debians_image(image: Path, guest: Guest, tmp_path: Path) -> None:
    saved = tmp_path / "kallsyms"
    kernel = [line for line in guest.symbols().splitlines() if "[" not in line]
    saved.write_text("\n".join(kernel))
    with KernelImage(image) as file:
        before = file.symbols["uptime_proc_show"]
        assert attach(file, saved)["uptime_proc_show"] == before
    # The text was built anew, with one more function before most of it.
    stext = int(next(line for line in kernel if line.endswith(" _stext")).split()[0], 16)
    saved.write_text("\n".join(_grow(line, stext + 0x40_0000) for line in kernel))
    with KernelImage(image) as file, pytest.raises(FormatError, match="does not belong to this kernel"):
        attach(file, saved)


def _grow(line: str, place: int) -> str:
    address = int(line[:16], 16)
    grown = 64 if address > place and not line.endswith(" _etext") else 0
    return f"{address + grown:016x}{line[16:]}"


def test_hidden_addresses_of_a_real_kernel_are_refused(image: Path, guest: Guest, tmp_path: Path) -> None:
    saved = tmp_path / "kallsyms"
    guest.run("echo 2 >/proc/sys/kernel/kptr_restrict")
    saved.write_text(guest.run("cat /proc/kallsyms"))
    with KernelImage(image) as file, pytest.raises(FormatError, match=r"every address in .* is zero"):
        attach(file, saved)


def test_stub_of_a_system_map_that_debian_ships_is_refused(image: Path, arm64_file: Callable[[str, str], Path]) -> None:
    stub = arm64_file(packages.KERNEL, "boot/System.map-*")
    with KernelImage(image) as file, pytest.raises(FormatError):
        attach(file, stub)


def test_show_prints_a_function_of_debians_image(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(image), "uptime_proc_show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 20
    assert lines[0].split()[:2] == [lines[0].split()[0], "uptime_proc_show"]
    assert any("bl" in line.split() and "get_idle_time" in line for line in lines)


def test_patched_image_of_debian_boots_and_behaves_differently(
    arm64_file: Callable[[str, str], Path], boot: Callable[..., Guest]
) -> None:
    changed = arm64_file(*IMAGE)
    original = changed.read_bytes()
    with open_target(changed) as file:
        start = file.symbols["uptime_proc_show"]
        # bti/paciasp and what ftrace patches come first: the third word is the frame's.
        calls = [start + 4 * number for number in range(100) if _calls(file, start + 4 * number, "seq_printf")]
        patch_text(file, [calls[0]], [gen_nop()])
    assert sum(a != b for a, b in zip(original, changed.read_bytes(), strict=True)) <= 4
    assert boot(kernel=changed).run("cat /proc/uptime") == ""


def _calls(target: Target, address: int, name: str) -> bool:
    from a64patch.a64.disassembler import disassemble
    from a64patch.a64.words import from_bytes

    return disassemble(from_bytes(target.read(address, 4))[0], address, target.symbols).split() == ["bl", name]


def test_truncated_image_of_debian_is_refused(arm64_file: Callable[[str, str], Path]) -> None:
    cut = arm64_file(*IMAGE)
    with cut.open("r+b") as file:
        file.truncate(20 << 20)
    with pytest.raises(FormatError, match="is truncated"):
        KernelImage(cut)


def test_live_memory_of_a_real_kernel_with_kaslr_names_all_its_symbols(guest: Guest) -> None:
    listed = listed_by(guest)
    with stub_of(guest) as target:
        assert names(live_symbols(target)) == names(listed)
        table = attach(target, "kallsyms")
        assert table["uptime_proc_show"] == next(s.address for s in listed if s.name == "uptime_proc_show")
        assert target.identity().release == f"Linux {guest.run('uname -r').strip()}"
        stext = next(s.address for s in listed if s.name == "_stext")
        told = dict(part.split("=") for part in target.identity().incarnation.split())
        assert told.pop("_stext") == f"{stext:#x}"
        # Debian 12's kernel names no data in kallsyms, Debian 13's does. Random bytes are told once there are any.
        named = {symbol.name for symbol in listed} & {"sysctl_bootid", "ptr_key"}
        assert told.keys() <= named
        assert all(set(value) - {"0"} for value in told.values())


def test_saved_kallsyms_names_a_live_kernel_and_its_modules(guest: Guest, tmp_path: Path) -> None:
    saved = tmp_path / "kallsyms"
    listed = listed_by(guest)
    saved.write_text(guest.symbols())
    with stub_of(guest) as target:
        table = attach(target, saved)
        loaded = {symbol.module for symbol in listed} - {""}
        assert "virtio_mmio" in loaded
        for module in loaded:
            symbol = next(s for s in listed if s.module == module and s.is_text)
            assert table.resolve(f"{module}:{symbol.name}") == symbol.address
        # A list of names tells no build id. A patch that was made from this machine must still fit it.
        assert bytes.fromhex(target.identity().build_id) in guest.run_bytes("cat /sys/kernel/notes")
        assert target.identity().build_id


def test_image_names_a_live_kernel_that_kaslr_moved(image: Path, guest: Guest) -> None:
    listed = listed_by(guest)
    with stub_of(guest) as target:
        assert attach(target, image)["uptime_proc_show"] == next(
            s.address for s in listed if s.name == "uptime_proc_show"
        )
        assert target.identity().base % 0x10000 == 0
        assert target.identity().base

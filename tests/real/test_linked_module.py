"""A length check that gcc compiled, linked into a kernel module of Debian, which insmod loads.

Read on: test_module_room.py for a room alone; test_linked.py for programs and libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch.cli.main import main
from a64patch.errors import LinkError
from a64patch.kernel.elf import KernelElf, signature_size
from a64patch.linking.link import link
from tests.real.guest import Guest
from tests.real.test_module_room import put
from tests.support import need, run

KERNEL_FLAGS = (
    "-O2", "-mcmodel=small", "-fno-pic", "-ffreestanding", "-mgeneral-regs-only", "-mbranch-protection=pac-ret+leaf",
    "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-fpatchable-function-entry=2", "-fno-common",
    "-fno-asynchronous-unwind-tables",
)  # fmt: skip
"""As Debian's kernel is compiled, as far as it changes what a linker sees. It has no shadow call stack."""
CHECK = """
extern int max_part;
extern void brd_alloc(int) __asm__("{alloc}");
extern int _printk(const char *, ...);
/* Opening a device node makes its disk, by any number: here by small ones only. */
void brd_probe(unsigned int dev)
{{
    unsigned int disk = (dev & 0xfffff) / max_part;
    if (disk >= 8) {{
        _printk("brd: disk %u of %u is refused\\n", disk, 8);
        return;
    }}
    brd_alloc(disk);
}}
"""
TABLES = ("__bug_table", "__ex_table", "__jump_table", ".altinstructions")
"""What WARN(), get_user(), a static key and an alternative leave entries in."""
ENTRY = 'asm volatile("1: nop\\n .pushsection {0}, \\"a\\"\\n .long 1b - .\\n .popsection");'


def compiled(source: str, folder: Path) -> Path:
    (folder / "fix.c").write_text(source)
    compiler = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    run(compiler, *KERNEL_FLAGS, "-c", folder / "fix.c", "-o", folder / "fix.o")
    return folder / "fix.o"


def check_for(module: KernelElf) -> str:
    """The source, with the name that gcc gave to its copy of brd_alloc()."""
    [alloc] = {each.name for each in module.symbols.ascending() if each.name.partition(".")[0] == "brd_alloc"}
    return CHECK.format(alloc=alloc)


def opened(guest: Guest, disk: int) -> str:
    """What the guest says when it reads a sector of a disk that does not exist yet."""
    guest.run(f"mknod /disk{disk} b 1 {disk}")
    try:
        return guest.run(f"head -c 512 /disk{disk} | wc -c", check=False)
    finally:
        guest.run(f"rm /disk{disk}")


def test_a_length_check_in_a_module(
    guest: Guest, kernel_module: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = kernel_module("brd")
    data = path.read_bytes()
    before = data[: len(data) - signature_size(data)]
    path.write_bytes(before)
    with KernelElf(path) as module:
        fix = compiled(check_for(module), tmp_path)
    assert main(["link", str(fix), str(path)]) == 0
    patch = tmp_path / "fix.patch"
    patch.write_text(capsys.readouterr().out)
    journal = ["--journal", str(tmp_path / "journal")]
    assert main(["apply", str(patch), str(path), *journal]) == 0, capsys.readouterr()
    assert main(["status", str(patch), str(path)]) == 0
    assert capsys.readouterr().out.count("not applied") == 0
    put(guest, path)
    guest.run(f"insmod /{path.name} rd_nr=1")
    try:
        assert opened(guest, 7).startswith("512")
        assert not opened(guest, 99).startswith("512")
        assert "brd: disk 99 of 8 is refused" in guest.run("dmesg")
    finally:
        guest.run(f"rmmod brd; rm /{path.name}")
    assert main(["apply", "-R", str(patch), str(path), *journal]) == 0, capsys.readouterr()
    assert path.read_bytes() == before
    put(guest, path)
    guest.run(f"insmod /{path.name} rd_nr=1")
    try:
        assert opened(guest, 99).startswith("512")
    finally:
        guest.run(f"rmmod brd; rm /{path.name}")


def test_code_that_needs_tables_of_the_kernel_is_refused(kernel_module: Callable[[str], Path], tmp_path: Path) -> None:
    entries = "".join(map(ENTRY.format, TABLES))
    with KernelElf(kernel_module("brd")) as module:
        source = check_for(module).replace("brd_alloc(disk);\n}", f"brd_alloc(disk);\n{entries}}}")
        with pytest.raises(LinkError) as refused:
            link(compiled(source, tmp_path), module, ["brd_probe"])
    reasons = [str(refused.value), *refused.value.__notes__]
    for table in TABLES:
        assert any(f"brd_probe has an entry in {table}, and the kernel would look for it" in each for each in reasons)

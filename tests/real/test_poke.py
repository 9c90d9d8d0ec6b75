"""poke on what Debian ships: an arm64 executable that behaves as changed, and a module of Debian's arm64 kernel."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.a64.disassembler import disassemble
from a64patch.a64.predicates import is_bl, is_nop
from a64patch.a64.words import as_array, from_bytes
from a64patch.cli.main import main
from a64patch.targets.elf import ElfFile
from tests.support import need, run


def differing(old: bytes, new: bytes) -> list[int]:
    assert len(old) == len(new)
    return [offset for offset, (before, after) in enumerate(zip(old, new, strict=True)) if before != after]


def behaviour(program: Path, sysroot: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of an arm64 program under qemu-user."""
    command = [need("qemu-aarch64", "qemu-user"), "-L", str(sysroot), str(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout


@pytest.mark.fresh("qemu-user")
def test_debian_executable_behaves_as_changed(
    arm64_file: Callable[[str, str], Path], arm64_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`false` exits with 1: the constant is found by running, one `mov w0, #1` after the other being changed."""
    program = arm64_file("coreutils", "bin/false")
    assert behaviour(program, arm64_root)[0] == 1
    original = program.read_bytes()
    changed = []
    with open_target(program) as target:
        for start, end in target.code_ranges():
            words = as_array(target.read(start, (end - start) & ~3))
            changed += [start + 4 * number for number in (words == 0x52800020).nonzero()[0].tolist()]
    assert changed, "there must be a `mov w0, #1`"
    for address in changed:
        assert main(["poke", str(program), f"{address:#x}", "mov w0, #42", "--expect", "mov w0, #1"]) == 0
        status, _ = behaviour(program, arm64_root)
        offsets = differing(original, program.read_bytes())
        assert 1 <= len(offsets) <= 4
        assert max(offsets) - min(offsets) < 4
        if status == 42:
            break
        assert main(["poke", str(program), f"{address:#x}", "mov w0, #1", "--expect", "mov w0, #42"]) == 0
        assert program.read_bytes() == original
    else:
        pytest.fail("no changed constant was the exit status")
    assert "1 word written" in capsys.readouterr().out


@pytest.mark.fresh("binutils-aarch64-linux-gnu")
def test_debian_kernel_module(kernel_module: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    module = kernel_module("crc32c_generic")
    original = module.read_bytes()
    with ElfFile(module) as target:
        places = [start + offset for start, end in target.code_ranges() for offset in range(0, end - start - 3, 4)]
        words = {place: from_bytes(target.read(place, 4))[0] for place in places}
        nop = next(place for place, word in words.items() if is_nop(word) and not target.relocation_at(place))
        call = next(place for place, word in words.items() if is_bl(word) and target.relocation_at(place))
        site, text = target.symbols.describe(nop), disassemble(words[nop])
        call_site = target.symbols.describe(call)
    # Linux rewrites this NOP at load, and refuses the signed module then: a test of bytes alone may have that.
    accept = ("--accept", "kernel-rewrites", "--accept", "signature")
    assert main(["poke", str(module), site, "b .+4", "--expect", text]) == 1
    assert "the kernel rewrites it" in capsys.readouterr().err
    assert main(["poke", str(module), site, "b .+4", "--expect", text, *accept]) == 0
    patched = module.read_bytes()
    assert set(differing(original, patched)) <= set(range(nop, nop + 4))
    assert run(need("aarch64-linux-gnu-objdump", "binutils-aarch64-linux-gnu"), "-d", module).count("b\t") > 0
    assert main(["poke", str(module), site, "nop", "--expect", "b .+4", *accept]) == 0
    assert module.read_bytes() == original

    capsys.readouterr()
    word = f"{words[call]:08x}"
    assert main(["poke", str(module), call_site, "nop", "--expect", word]) == 1
    refusal = capsys.readouterr().err
    assert "R_AARCH64_CALL26" in refusal
    assert module.read_bytes() == original

    assert main(["poke", str(module), call_site, "nop", "--expect", word, "--drop-relocations", *accept]) == 0
    offsets = differing(original, module.read_bytes())
    assert set(range(call, call + 4)) & set(offsets)
    assert len([offset for offset in offsets if not call <= offset < call + 4]) in range(1, 9), "one r_info"
    readelf = need("aarch64-linux-gnu-readelf", "binutils-aarch64-linux-gnu")
    assert "R_AARCH64_NONE" in run(readelf, "-rW", module)

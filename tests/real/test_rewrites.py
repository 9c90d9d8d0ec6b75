"""The claims that Linux makes on words of Debian's modules, and its answer to a patched module that was signed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.a64.disassembler import disassemble
from a64patch.a64.effects import effects_of
from a64patch.a64.fields import ImmediateKind, decode_immediate, encode_immediate
from a64patch.a64.predicates import is_b, is_brk, is_movz, is_nop
from a64patch.a64.words import from_bytes
from a64patch.cli.main import main
from tests.real.guest import Guest
from tests.support import need, run


def test_claims_on_debians_ext4_are_those_of_readelf(kernel_module: Callable[[str], Path]) -> None:
    path = kernel_module("ext4")
    relocations = run(need("aarch64-linux-gnu-readelf", "binutils-aarch64-linux-gnu"), "-rW", path)
    strides = {"__jump_table": 16, "__patchable_function_entries": 8, "__bug_table": 12, "__ex_table": 12}
    with open_target(path) as target:
        spaces = {space.name: space.start for space in target.symbols.spaces}
        claims = {claim.sentence.split()[3].rstrip(":"): claim for claim in target.modules.claims if not claim.of_build}
        for name, stride in strides.items():
            part = relocations.partition(f"'.rela{name}'")[2].partition("Relocation section")[0]
            listed = re.findall(r"^([0-9a-f]{16}) .* (\.\S+) \+ ([0-9a-f]+)$", part, re.MULTILINE)
            theirs = {spaces[home] + int(more, 16) for at, home, more in listed if int(at, 16) % stride == 0}
            step = 8 if stride == 8 else 4
            ours = {at for start, end in claims[name].words for at in range(start, end, step)}
            if stride == 8 and len(ours) == 2 * len(theirs):
                # Kernels with CALL_OPS have two NOPs more, in front of the function, since Linux 6.3.
                theirs |= {at + 8 for at in theirs}
            assert ours == theirs
            assert len(ours) > 10

        def words(name: str) -> list[int]:
            return [word for start, end in claims[name].words for word in from_bytes(target.read(start, end - start))]

        assert all(is_nop(word) or is_b(word) for word in words("__jump_table"))
        assert all(is_nop(word) for word in words("__patchable_function_entries"))
        assert all(is_brk(word) for word in words("__bug_table"))
        assert all((does := effects_of(word)) is not None and does.memory for word in words("__ex_table"))


def test_the_kernel_refuses_a_patched_module_until_its_signature_is_gone(
    kernel_module: Callable[[str], Path], tmp_path: Path, boot: Callable[..., Guest],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = kernel_module("dummy")
    with open_target(path) as target:
        places = [at for start, end in target.code_ranges() for at in range(start, end - 3, 4)]
        words = {at: from_bytes(target.read(at, 4))[0] for at in places}
        claimed = [claim.words for claim in target.modules.claims if not claim.of_build]
        # It says that the carrier may change, and nobody asks while the module is loaded.
        start, end = target.symbols.extent(target.symbols["dummy_change_carrier"]) or (0, 0)
        place = next(
            at for at in places
            if start <= at < end and is_movz(words[at]) and not target.relocation_at(at)
            and not any(at in each for each in claimed)
        )  # fmt: skip
        site, old = target.symbols.describe(place), words[place]
    new = encode_immediate(ImmediateKind.IMM16, old, decode_immediate(ImmediateKind.IMM16, old) ^ 1)
    poke = ["poke", str(path), site, disassemble(new), "--expect", disassemble(old)]
    assert main(poke) == 1
    command = capsys.readouterr().err.split("`")[1]
    assert main([*poke, "--accept", "signature"]) == 0
    signed = path.read_bytes()
    subprocess.run(command, shell=True, check=True)
    guest = boot(files={"/signed.ko": signed, "/unsigned.ko": path})
    assert "Key was rejected" in guest.run("insmod /signed.ko", check=False)
    assert "dummy" not in guest.run("lsmod")
    guest.run("insmod /unsigned.ko")
    assert "dummy" in guest.run("lsmod")
    assert re.search(r"^dummy .* \(E\)$", guest.run("cat /proc/modules"), re.MULTILINE)
    with open_target(guest.gdb, symbols="kallsyms") as target:
        assert "dummy taints the kernel (unsigned)" in target.facts()["loaded modules"]

"""The instructions with which Debian's kernel patches its own text, read from its Image and proved.

Read on: kernel/test_sequence.py has the same functions with one thing changed.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from a64patch.a64.generate import gen_nop
from a64patch.a64.words import to_bytes
from a64patch.cli.main import main
from a64patch.kernel.image import KernelImage
from a64patch.kernel.sequence import MACHINES, read
from a64patch.kernel.walk import Kernel
from tests.cli.running import Ran, Run, document
from tests.real import packages
from tests.support import ROOT, need
from tests.support import run as run_program

KERNELS = r"^\| (\S+) \| the (\w+) CPU \| (\w+) \| (\w+) \| (\w+) \|$"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process, with paths as arguments."""

    def command(*arguments: str | Path) -> Ran:
        status = main([str(argument) for argument in arguments])
        return Ran(status, *capsys.readouterr())

    return command


@pytest.fixture
def image() -> Path:
    return packages.newest_kernel().image


def test_debians_kernel_patches_its_text_as_the_page_says(image: Path, run: Run) -> None:
    ran = run("prove", "--kernel", image, "--json")
    found = document("prove", ran)
    verdicts = {
        name: {
            proof["verdict"]
            for proof in found["proofs"]
            if proof["protocol"] == name and (proof["idc"], proof["dic"]) != MACHINES[3]
        }
        for name in ("nosync", "kick", "stop")
    }
    assert ran.status == 0
    assert verdicts == {"nosync": {"SAFE"}, "kick": {"SAFE"}, "stop": {"SAFE"}}
    assert {proof["verdict"] for proof in found["proofs"] if proof["dic"] and not proof["idc"]} == {"UNKNOWN"}
    callback = next(each for each in found["functions"] if each["name"] == "aarch64_insn_patch_text_cb")
    assert any("equal if this CPU is the last to come" in line for line in callback["instructions"])
    rows = re.findall(KERNELS, (ROOT / "docs/proof.md").read_text("utf-8"), re.MULTILINE)
    assert len(rows) >= 6
    for release, who, *said in rows:
        if f"Linux {release}" in found["release"].replace("-arm64", ""):
            assert (who, said) == ("last", [*(next(iter(each)) for each in verdicts.values())])


def test_the_instructions_are_those_of_objdump(image: Path) -> None:
    """Each line that is told is what objdump prints for the word at its address."""
    objdump = need("aarch64-linux-gnu-objdump", "binutils-aarch64-linux-gnu")
    with KernelImage(image) as target:
        start, data = target.whole()
        found = read(Kernel(start, data, target.symbols))
    for function in found.functions:
        listed = run_program(
            objdump, "-D", "-b", "binary", "-m", "aarch64", f"--adjust-vma={start:#x}",
            f"--start-address={function.address:#x}", f"--stop-address={function.address + 0x200:#x}", image,
        )  # fmt: skip
        words = dict(re.findall(r"^\s*([0-9a-f]+):\t[0-9a-f]{8} \t(\S+)", listed, re.MULTILINE))
        for line in function.lines:
            offset, mnemonic = line.split()[:2]
            if mnemonic.startswith("["):
                continue
            assert words[f"{function.address + int(offset, 16):x}"] == mnemonic, line
    assert len(found.functions) == 6


@pytest.mark.parametrize(
    ("text", "protocol"), [("dsb ish", "nosync"), ("isb", "nosync"), ("ic ivau", "kick"), ("isb", "stop")]
)
def test_debians_image_without_one_of_its_instructions_is_unsafe(
    image: Path, run: Run, tmp_path: Path, text: str, protocol: str
) -> None:
    """A NOP in place of the last such instruction of the cache maintenance or, for a stop, of the callback."""
    copy = Path(shutil.copy(image, tmp_path / "Image"))
    name = "aarch64_insn_patch_text_cb" if protocol == "stop" else "caches_clean_inval_pou"
    with KernelImage(copy) as target:
        start, data = target.whole()
        function = next(each for each in read(Kernel(start, data, target.symbols)).functions if each.name == name)
        line = next(line for line in reversed(function.lines) if line.split(" ", 1)[1].startswith(text))
        address = function.address + int(line.split()[0], 16)
        target.write(address, to_bytes([gen_nop()]))
        target.publish(address, address + 4)
    ran = run("prove", "--kernel", copy, "--protocol", protocol)
    assert ran.status == 1
    unsafe = [line for line in ran.out.splitlines() if line.startswith("UNSAFE: ")]
    assert f" by {protocol}, any number of CPUs, IDC=0 DIC=0" in unsafe[0]
    assert "Counterexample to P" in ran.out

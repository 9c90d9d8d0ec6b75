"""What others make of instruction words: GNU objdump, GNU as and llvm-mc, each asked once for many words.

Each is asked with all that its release knows, so that a test sees as much as the release can show.
Read on: judges.py says what each release knows, and where it differs from the Arm ARM.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from a64patch.a64.words import to_bytes
from tests.support import need

Version = tuple[int, int]
"""The release of a judge: major, minor."""

TOOLS = {
    "objdump": ("aarch64-linux-gnu-objdump", "binutils-aarch64-linux-gnu"),
    "llvm-mc": ("llvm-mc", "llvm"),
}
"""The judges by the names that the tests give them: the program, and the Debian package that holds it."""

_LINE = re.compile(r"^\s*([0-9a-f]+):\t([0-9a-f]{8}) \t(.*)$")


def _run(command: Sequence[str], data: bytes = b"") -> str:
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=300).stdout.decode()


@cache
def version(judge: str) -> Version:
    """The release of a judge of TOOLS, as it tells itself."""
    said = _run([need(*TOOLS[judge]), "--version"])
    match = re.search(r"^(?:GNU objdump .* |.*LLVM version )(\d+)\.(\d+)", said, re.M)
    assert match is not None, f"{judge} must tell its version: {said}"
    return int(match[1]), int(match[2])


def for_release(judge: str, by_version: Mapping[Version, str]) -> str:
    """The entry of the newest release that is not newer than the judge; for an older judge that of the oldest."""
    return by_version[max((known for known in by_version if known <= version(judge)), default=min(by_version))]


def objdump(words: Iterable[int], start: int = 0) -> list[str]:
    """GNU objdump's text of each word, the first standing at `start`; tabs become one space, comments are cut."""
    values = list(words)
    tool = need(*TOOLS["objdump"])
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(to_bytes(values))
        file.flush()
        output = _run([tool, "-D", "-z", "-b", "binary", "-m", "aarch64", f"--adjust-vma={start:#x}", file.name])
    found = [match.groups() for match in map(_LINE.match, output.splitlines()) if match]
    assert [int(word, 16) for _, word, _ in found] == values, "objdump must print every word once"
    return [re.split(r"\s*//|\s*<", text)[0].replace("\t", " ").strip() for _, _, text in found]


def gnu_as(texts: Sequence[str]) -> list[int]:
    """GNU as's word of each text; the test fails when it refuses one."""
    words = gnu_as_program("\n".join(texts) + "\n")
    assert len(words) == len(texts)
    return words


def gnu_as_program(source: str) -> list[int]:
    """GNU as's words of a whole text."""
    tool = need("aarch64-linux-gnu-as", "binutils-aarch64-linux-gnu")
    copy = need("aarch64-linux-gnu-objcopy", "binutils-aarch64-linux-gnu")
    with tempfile.TemporaryDirectory() as folder:
        unit, binary = Path(folder, "unit.o"), Path(folder, "unit.bin")
        done = subprocess.run(
            [tool, f"-march={for_release('objdump', GNU_AS_ARCHITECTURES)}", "-o", str(unit), "-"],
            input=source.encode(), capture_output=True, check=False,
        )  # fmt: skip
        errors = [line for line in done.stderr.decode().splitlines() if "Error" in line]
        assert done.returncode == 0, "\n".join(errors[:40])
        subprocess.run([copy, "-O", "binary", "-j", ".text", str(unit), str(binary)], check=True)
        data = binary.read_bytes()
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]


def llvm_mc(words: Iterable[int]) -> list[str]:
    """llvm-mc's text of each word, "" where it knows none; tabs become one space."""
    values = list(words)
    tool = need(*TOOLS["llvm-mc"])
    lines = "\n".join(" ".join(f"0x{byte:02x}" for byte in to_bytes(word)) for word in values)
    attributes = ",".join(f"+{name}" for name in for_release("llvm-mc", LLVM_FEATURES).split())
    done = subprocess.run(
        [tool, "--disassemble", "--triple=aarch64", f"--mattr={attributes}"],
        input=lines.encode(), capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    refused = {int(line) for line in re.findall(r"^<stdin>:(\d+):\d+: warning: invalid", done.stderr.decode(), re.M)}
    known = iter(
        line for line in done.stdout.decode().splitlines() if line.startswith("\t") and line.strip() != ".text"
    )
    result = ["" if line in refused else next(known).replace("\t", " ").strip() for line in range(1, len(values) + 1)]
    assert next(known, None) is None, "llvm-mc must answer for every word"
    return result


GNU_AS_ARCHITECTURES: dict[Version, str] = {
    (2, 40): "armv9.3-a+sme+pauth+memtag+tme+cssc+ls64+mops+rcpc+flagm+hbc+rng+profile+crypto+sha3+sm4+fp16fml",
    (2, 44): "armv9.5-a+sme+pauth+memtag+tme+cssc+ls64+mops+rcpc3+flagm+hbc+rng+profile+crypto+sha3+sm4+fp16fml"
    "+brbe+chk+cpa+d128+faminmax+fp8+fp8fma+fp8dot4+fp8dot2+gcs+ite+lse128+lut+predres2+the+xs",
}
"""-march of GNU as by the release of binutils: everything that has a name there. objdump always takes everything."""
LLVM_FEATURES: dict[Version, str] = {
    (14, 0): "v8.7a v9.2a pauth mte tme sme sve2 rand spe brbe rme tlb-rmi xs wfxt hbc bti sb predres ccdp ras trace "
    "tracev8.4 specrestrict ssbs dit lse ls64 fgt ecv mops spe-eef aes sha2 sha3 sm4 fp16fml",
    # `all` decodes everything, but aliases (BFC, …) and the nXS forms are printed for an architecture only.
    (19, 0): "all v9.5a",
}
"""-mattr of llvm-mc by the release of LLVM."""


def assembled(judge: str, texts: Sequence[str], size: int = 4) -> list[int | None]:
    """The judge's number of `size` bytes for each line of a text, None where it refuses the line or warns of it."""
    tool = need("aarch64-linux-gnu-as", "binutils-aarch64-linux-gnu") if judge == "gnu-as" else need(*TOOLS[judge])
    copy = need("aarch64-linux-gnu-objcopy", "binutils-aarch64-linux-gnu")
    if judge == "gnu-as":
        options = [f"-march={for_release('objdump', GNU_AS_ARCHITECTURES)}"]
    else:
        attributes = ",".join(f"+{name}" for name in for_release("llvm-mc", LLVM_FEATURES).split())
        options = ["--triple=aarch64", "--filetype=obj", f"--mattr={attributes}"]
    refused = set[int]()
    with tempfile.TemporaryDirectory() as folder:
        unit, binary = Path(folder, "unit.o"), Path(folder, "unit.bin")
        while True:
            lines = [f".zero {size}" if number in refused else text for number, text in enumerate(texts, start=1)]
            done = subprocess.run(
                [tool, *options, "-o", str(unit), "-"],
                input="\n".join([*lines, ""]).encode(), capture_output=True, check=False, timeout=300,
            )  # fmt: skip
            said = re.findall(r"^[^:]*:(\d+):.*(?:[Ee]rror|[Ww]arning):", done.stderr.decode(), re.M)
            if not {int(line) for line in said} - refused:
                break
            refused |= {int(line) for line in said}
        assert done.returncode == 0, done.stderr.decode()[:1000]
        subprocess.run([copy, "-O", "binary", "-j", ".text", str(unit), str(binary)], check=True)
        data = binary.read_bytes()
    assert len(data) == size * len(texts), "each line must give one number"
    values = [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]
    return [None if number in refused else value for number, value in enumerate(values, start=1)]

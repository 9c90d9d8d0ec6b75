"""Random programs with detours at random places run as before, on pages where indirect branches need landing pads.

Read on: random_programs.py writes them; ../patch/test_detours_everywhere.py tries each instruction of some functions.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random

from a64patch.a64.words import from_bytes
from a64patch.applying import apply
from a64patch.errors import A64PatchError
from a64patch.patch.asmdiff import AsmDiff, Hunk, Line, reverse
from a64patch.patch.journal import Journal
from a64patch.patch.plan import State, make_plan
from a64patch.targets.elf import ElfFile
from tests.real.random_programs import program
from tests.support import need, rounds, run

NOP = Line("+", 0xD503201F, "nop")
OPTIONS = ("-O0", "-O1", "-O2", "-O3", "-Os")
LINKED = (("-static", "-nostdlib", "-no-pie"), ("-pie", "-fPIE", "-nostartfiles"))
"""The second one is relocated by the loader of glibc."""
MOST_HUNKS = 12
PROGRAMS = rounds(1000, 10)


def compiled(seed: int, path: Path) -> Path:
    compiler = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    run(
        compiler, OPTIONS[seed % len(OPTIONS)], *LINKED[seed // 5 % 2], "-w", "-ffreestanding",
        "-mbranch-protection=standard", "-Wl,-z,force-bti", "-o", path, "-x", "c", "-", stdin=program(seed),
    )  # fmt: skip
    return path


def output(path: Path) -> str:
    qemu = need("qemu-aarch64", "qemu-user")
    command: list[str | Path] = [qemu, "-L", "/usr/aarch64-linux-gnu", "-cpu", "max", path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def detours(target: ElfFile, random: Random) -> AsmDiff | None:
    """NOPs between instructions at some places that are no hazard."""
    code = [(start, end) for start, end in target.code_ranges() if end - start > 64]
    hunks: list[Hunk] = []
    taken: set[int] = set()
    for _ in range(4 * MOST_HUNKS):
        start, end = random.choice(code)
        count = random.choice([1, 1, 2, 3, 4])
        address = random.randrange(start, end - 4 * count, 4)
        places = set(range(address, address + 4 * count, 4))
        if places & taken or len(hunks) == MOST_HUNKS:
            continue
        words = from_bytes(target.read(address, 4 * count))
        lines = [line for word in words for line in (NOP, Line(" ", word))]
        hunk = Hunk(f"{address:#x}", tuple(lines), kind="detour")
        try:
            if make_plan(AsmDiff((hunk,)), target, same_build=True).hazards:
                continue
        except A64PatchError:
            continue
        taken |= places
        hunks.append(hunk)
    return AsmDiff(tuple(hunks)) if hunks else None


def test_programs_with_detours_run_as_before(tmp_path: Path) -> None:
    hunks = 0
    for seed in range(PROGRAMS):
        path = compiled(seed, tmp_path / "program")
        before, expected = path.read_bytes(), output(path)
        assert len(expected) == 17
        assert "BTI" in run(need("aarch64-linux-gnu-readelf", "binutils-aarch64-linux-gnu"), "-n", path)
        journal = tmp_path / "journal"
        journal.unlink(missing_ok=True)
        with ElfFile(path) as target, Journal(journal) as entries:
            patch = detours(target, Random(seed))
            assert patch is not None
            plan = make_plan(patch, target, same_build=True)
            assert plan.annex is not None
            hunks += len(patch.hunks)
            apply(plan, target, entries)
            assert output(path) == expected, f"seed {seed}"
        with ElfFile(path) as target, Journal(journal) as entries:
            back = make_plan(reverse(patch), target, same_build=True)
            assert back.state is State.TO_DO
            apply(back, target, entries)
        assert path.read_bytes() == before, f"seed {seed}"
    assert hunks > 6 * PROGRAMS

"""The words that Linux rewrites, in modules and kernels that are assembled here with the tables that Linux has."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.cli.main import main
from a64patch.errors import A64PatchError, MappingError, PlanError
from a64patch.kernel.elf import signature_size
from a64patch.kernel.rewrites import claims_on_kernel, looked_at
from a64patch.patch.asmdiff import parse
from a64patch.patch.plan import make_plan, require_acceptable
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.elf import ElfFile
from a64patch.targets.modules import Claim
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.support import assemble, link

CODE = """
    .text
    .globl _start, f, g, h, m
    .type f, %function
    .type g, %function
    .type h, %function
    .type m, %function
_start: ret
f:  nop                     // ftrace
    nop
    nop                     // a static key
    nop                     // an alternative
    nop
    ldr w0, [x1]            // may fault
1:  mov w0, #0
    brk #0x800              // BUG()
    ret
    .size f, . - f
g:  bti c                   // ftrace behind a landing pad
    nop
    nop
    nop
    ret
    .size g, . - g
ops: nop                    // ftrace with CALL_OPS
    nop
h:  bti c
    nop
    nop
    nop
    ret
    .size h, . - h
m:  mov x9, x30             // mcount
    bl _start
    ret
    .size m, . - m
replacement: yield
    wfe
"""
FTRACE = ".quad f, g, h - 8, m + 4"
JUMP = ".long f + 8 - ., g - .\n.quad key - ."
BUG = ".long f + 28 - ., file - .\n.short 7, 0"
FAULT = ".long f + 20 - ., 1b - .\n.short 4, 0"
ALTERNATIVE = ".long f + 12 - ., replacement - .\n.short 3\n.byte 8, 8\n.long g + 12 - ., 0\n.short 0x8003\n.byte 4, 0"
TABLES = {
    "__jump_table": ("__start___jump_table", "__stop___jump_table", JUMP),
    ".altinstructions": ("__alt_instructions", "__alt_instructions_end", ALTERNATIVE),
    "__mcount_loc": ("__start_mcount_loc", "__stop_mcount_loc", FTRACE),
    "__bug_table": ("__start___bug_table", "__stop___bug_table", BUG),
    "__ex_table": ("__start___ex_table", "__stop___ex_table", FAULT),
}
EXPECTED = {
    "f": "__mcount_loc", "f+0x4": "__mcount_loc", "f+0x8": "__jump_table", "f+0xc": ".altinstructions",
    "f+0x10": ".altinstructions", "f+0x14": "__ex_table", "f+0x1c": "__bug_table", "g+0x4": "__mcount_loc",
    "g+0x8": "__mcount_loc", "g+0xc": ".altinstructions", "ops": "__mcount_loc", "ops+0x4": "__mcount_loc",
    "h+0x4": "__mcount_loc", "h+0x8": "__mcount_loc", "m+0x4": "__mcount_loc", "replacement": ".altinstructions",
    "replacement+0x4": ".altinstructions",
}  # fmt: skip


def source(**tables: str) -> str:
    """The code with its tables; `tables` are other contents for some of them, with _ for each . of their names."""
    parts = [CODE]
    for name, (start, end, content) in TABLES.items():
        content = tables.get(name.strip("._"), content)
        parts.append(f'.section {name}, "aw"\n.globl {start}, {end}\n.p2align 3\n{start}: {content}\n{end}:\n')
    return "\n".join([*parts, '.data\n.p2align 3\nkey: .quad 1\nfile: .asciz "f.c"\n'])


def module(folder: Path, text: str) -> Path:
    return assemble(text, folder / "module.ko")


def kernel(folder: Path, text: str) -> Path:
    return link(assemble(text, folder / "vmlinux.o"), folder / "vmlinux")


def kernel_with_relocations(folder: Path, text: str) -> Path:
    """As Linux is linked: the places of __mcount_loc are zero, and the boot fills them in."""
    options = ("-pie", "--no-dynamic-linker", "--no-apply-dynamic-relocs")
    return link(assemble(text, folder / "vmlinux.o"), folder / "vmlinux", *options)


def with_patchable_entries(folder: Path, text: str) -> Path:
    return module(folder, text.replace("__mcount_loc", "__patchable_function_entries"))


Build = Callable[[Path, str], Path]
BUILDS = pytest.mark.parametrize("build", [module, with_patchable_entries, kernel, kernel_with_relocations])


def rewrites(target: Target) -> list[Claim]:
    return [claim for claim in target.modules.claims if claim.hazard == "kernel-rewrites"]


def listed(claims: list[Claim], target: Target) -> dict[str, str]:
    """The name of the table, by the site of a word."""
    return {
        target.symbols.describe(at): claim.sentence.removeprefix("is listed in ").partition(":")[0]
        for claim in claims
        for low, high in claim.words
        for at in range(low, high, 4)
    }


@BUILDS
def test_every_word_that_linux_rewrites(build: Build, tmp_path: Path) -> None:
    with open_target(build(tmp_path, source())) as target:
        expected = EXPECTED
        if build is with_patchable_entries:
            expected = {
                site: name.replace("__mcount_loc", "__patchable_function_entries") for site, name in EXPECTED.items()
            }
        found = listed(rewrites(target), target)
        assert found == expected
        assert not any(claim.of_build for claim in rewrites(target))


@BUILDS
@pytest.mark.parametrize(
    ("tables", "site"),
    [
        ({"ex_table": ".long f + 20 - ., 1b - .\n.long f + 24 - ., 1b - ."}, "f+0x14"),  # before 5.16
        ({"bug_table": ".long f + 28 - .\n.short 7, 0\n.long f + 28 - .\n.short 7, 0"}, "f+0x1c"),  # without lines
        ({"bug_table": ".long f + 28 - ., file - ., file - .\n.short 7, 0"}, "f+0x1c"),  # with a format
    ],
)
def test_entries_of_other_sizes(build: Build, tmp_path: Path, tables: dict[str, str], site: str) -> None:
    with open_target(build(tmp_path, source(**tables))) as target:
        assert not any(claim.of_build for claim in rewrites(target))
        assert site in listed(rewrites(target), target)


def test_jump_labels_of_a_module_before_4_20(tmp_path: Path) -> None:
    with open_target(module(tmp_path, source(jump_table=".quad f + 8, g, key, f + 32, g, key"))) as target:
        found = listed(rewrites(target), target)
        assert {site for site, table in found.items() if table == "__jump_table"} == {"f+0x8", "f+0x20"}


@BUILDS
@pytest.mark.parametrize(
    ("name", "content"),
    [("jump_table", f"{JUMP}\n.byte 1"), ("jump_table", JUMP.replace("f + 8", "key")), ("bug_table", ".skip 20")],
)
def test_a_table_that_cannot_be_read_says_so_once(build: Build, tmp_path: Path, name: str, content: str) -> None:
    with open_target(build(tmp_path, source(**{name: content}))) as target:
        [claim] = [claim for claim in rewrites(target) if claim.of_build]
        assert claim.sentence == f"may be listed in __{name}, which cannot be read"
        plan = make_plan(parse("@@ g+0xc @@\n-d503201f\n+d503203f\n@@ f+0x20 @@\n-d65f03c0\n+d503203f\n"), target)
        assert len([hazard for hazard in plan.hazards if hazard.sentence.endswith("cannot be read")]) == 1


def test_a_patch_of_a_listed_word_needs_consent(tmp_path: Path) -> None:
    with open_target(module(tmp_path, source())) as target:
        plan = make_plan(parse("@@ f+0x8 @@\n-d503201f\n+d503203f\n"), target)
        assert [hazard.name for hazard in plan.hazards] == ["kernel-rewrites"]
        with pytest.raises(PlanError, match=r"f\+0x8 is listed in __jump_table: .* static key .* --accept kernel-rew"):
            require_acceptable(plan)
        require_acceptable(plan, {"kernel-rewrites"})
        plan = make_plan(parse("@@ f+0x18 @@\n-52800000\n+52800020\n"), target)
        assert not plan.hazards


def test_a_running_kernel_has_freed_some_tables(tmp_path: Path) -> None:
    with ElfFile(kernel(tmp_path, source())) as file:
        code = file.modules.main.code
        assert code is not None
        found = listed(list(claims_on_kernel(file.read, file.symbols, code, running=True)), file)
        assert set(found.values()) == {"__jump_table", "__bug_table", "__ex_table"}


@pytest.mark.parametrize("names", [("__init_begin", "__init_end"), ("_sinittext", "_einittext"), ()])
def test_tables_of_a_running_kernel_still_refer_to_freed_code(tmp_path: Path, names: tuple[str, ...]) -> None:
    """As in Debian's 6.12: BUG() and static keys in init functions."""
    tables = {
        "bug_table": f"{BUG}\n{BUG.replace('f + 28', 'm')}",
        "jump_table": f"{JUMP}\n{JUMP.replace('f + 8', 'm')}",
    }
    with ElfFile(kernel(tmp_path, source(**tables))) as file:
        assert file.modules.main.code is not None
        freed = [file.symbols["m"], file.symbols["replacement"]]
        code = file.modules.main.code - Ranges.of([(freed[0], freed[1])])
        symbols = [Symbol(name, address) for name, address in zip(names, freed, strict=False)]
        table = SymbolTable(lambda: [*file.symbols.ascending(), *symbols])
        claims = list(claims_on_kernel(file.read, table, code, running=True))
        assert any(claim.of_build for claim in claims) == (not names)
        if names:
            found = listed(claims, file)
            assert {site: found.get(site) for site in ("f+0x8", "f+0x1c", "m")} == {
                "f+0x8": "__jump_table", "f+0x1c": "__bug_table", "m": None,
            }  # fmt: skip


def test_the_functions_of_a_kernel_are_listed_once(tmp_path: Path) -> None:
    """Not for each of the 40,000 sites of ftrace: an Image of Debian 13 has 150,000 names."""
    listings = []

    class Counting(SymbolTable):
        def ascending(self) -> Sequence[Symbol]:
            listings.append(1)
            return super().ascending()

    with ElfFile(kernel(tmp_path, source(mcount_loc=f"{FTRACE}\n{FTRACE}"))) as file:
        assert file.modules.main.code is not None
        table = Counting(file.symbols.load)
        assert list(claims_on_kernel(file.read, table, file.modules.main.code))
    assert len(listings) == 1


def test_a_table_that_is_not_mapped(tmp_path: Path) -> None:
    def read(address: int, size: int) -> bytes:
        raise MappingError("not mapped")

    with ElfFile(kernel(tmp_path, source())) as file:
        code = file.modules.main.code
        assert code is not None
        claims = list(claims_on_kernel(read, file.symbols, code))
        assert len(claims) == len(TABLES)
        assert all(claim.of_build for claim in claims)


def test_what_is_not_looked_at_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is passed over without a word: in each case a table is in one of the two rows."""
    text = source(bug_table=".skip 20").replace("__start___ex_table", "other")
    path = kernel(tmp_path, text)
    assert main(["show", str(path), "--target-info"]) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert rows["tables found"].strip() == "static keys, alternatives, words of ftrace"
    assert rows["not looked at"].strip() == (
        "BUG and WARN: their table cannot be read; exceptions: their table was not found;"
        " code that nobody may probe, where no symbols bound it: its list was not found"
    )
    with ElfFile(kernel(tmp_path, source())) as file:
        code = file.modules.main.code
        assert code is not None
        looked = looked_at(claims_on_kernel(file.read, file.symbols, code, running=True), running=True)
        assert looked.found == ["static keys", "BUG and WARN", "exceptions"]
        [missing] = looked.missing
        assert missing.startswith("alternatives of the kernel itself: it has freed their table")


def test_a_program_makes_no_claims(tmp_path: Path) -> None:
    with open_target(link(assemble(".globl _start\n_start: ret\n", tmp_path / "p.o"), tmp_path / "p")) as target:
        assert target.modules.claims == ()
        assert "tables found" not in target.facts()


@BUILDS
def test_a_damaged_file_is_read_or_refused(build: Build, tmp_path: Path) -> None:
    sound = build(tmp_path, source()).read_bytes()
    chosen = random.Random(1)
    path = tmp_path / "damaged"
    for _ in range(300):
        damaged = bytearray(sound)
        for _ in range(chosen.randint(1, 4)):
            damaged[chosen.randrange(64, len(damaged))] = chosen.choice((0, 1, 2, 8, 0x7F, 0x80, 0xFF))
        path.write_bytes(damaged)
        with suppress(A64PatchError), open_target(path) as target:
            assert all(claim.sentence for claim in target.modules.claims)


MARK = b"~Module signature appended~\n"
SIGNED = b"\x30\x82" * 50 + bytes([0, 0, 2, 0, 0, 0, 0, 0]) + (100).to_bytes(4, "big") + MARK


def test_a_signed_module_says_how_to_remove_its_signature(tmp_path: Path) -> None:
    path = module(tmp_path, source())
    unsigned = path.read_bytes()
    path.write_bytes(unsigned + SIGNED)
    patch = parse("@@ f+0x18 @@\n-52800000\n+52800020\n@@ f+0x20 @@\n-d65f03c0\n+d503201f\n")
    with open_target(path) as target:
        [hazard] = make_plan(patch, target).hazards
    assert hazard.name == "signature"
    assert hazard.sentence.startswith(
        "f+0x18 lies in a signed module, which the kernel refuses once a byte has changed"
    )
    command = hazard.sentence.split("`")[1]
    subprocess.run(command, shell=True, check=True)
    assert path.read_bytes() == unsigned
    with open_target(path) as target:
        assert not make_plan(patch, target).hazards


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"x" * 1000 + SIGNED, 140),
        (SIGNED, 140),
        (SIGNED[1:], 0),  # the signature is longer than the file
        (SIGNED + b"\n", 0),
        (MARK, 0),
        (b"", 0),
    ],
)
def test_the_size_of_a_signature(data: bytes, size: int) -> None:
    assert signature_size(data) == size

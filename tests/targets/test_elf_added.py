"""Code that somebody added to a linked file without a section header, as LIEF, patchelf or a hex editor would."""

from __future__ import annotations

from pathlib import Path

import pytest

from a64patch.a64.assembler import assemble_one
from a64patch.a64.words import to_bytes
from a64patch.cli.main import main
from a64patch.errors import MappingError
from a64patch.openers import open_target
from a64patch.patch.sites import sites_of, spans_of
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.section import Change
from tests.support import assemble, link
from tests.targets.elf_files import NOP, RET, program_headers, set_bytes, with_added_segment
from tests.targets.test_elf_stubs import compiled, stubs

SOURCE = """
    .globl _start
    .type _start, %function
_start:
    mov x0, #1
    mov x1, #2
    mov x2, #3
    ret
    .size _start, . - _start
    .data
    .xword 1
"""
ADDED = 0x5000000


def program(folder: Path) -> Path:
    made = folder / "program"
    layout = ("-z", "separate-code", "-z", "max-page-size=4096", "-z", "noexecstack")
    return link(assemble(SOURCE, folder / "p.o"), made, *layout)


def words(*texts: str, at: int = ADDED) -> bytes:
    return to_bytes([assemble_one(text, at + 4 * number) for number, text in enumerate(texts)])


def test_an_added_segment_is_shown_and_patched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = program(tmp_path)
    with_added_segment(path, words("mov x5, #1", "ret"), ADDED)
    assert main(["show", str(path), f"{ADDED:#x}"]) == 0
    shown = capsys.readouterr().out
    assert [line.split("  ")[0] for line in shown.splitlines()] == ["0x5000000", "0x5000004"]
    journal = ["--journal", str(tmp_path / "journal")]
    assert main(["poke", str(path), f"{ADDED:#x}", "mov x5, #2", "--expect", "mov x5, #1", *journal]) == 0
    with ElfFile(path) as file:
        assert file.read(ADDED, 8) == words("mov x5, #2", "ret")


@pytest.mark.parametrize("flags", [4, 6], ids=["read", "read and write"])
def test_an_added_segment_of_data_is_no_code(tmp_path: Path, flags: int) -> None:
    path = program(tmp_path)
    with_added_segment(path, words("mov x5, #1", "ret"), ADDED, flags)
    with ElfFile(path) as file, pytest.raises(MappingError, match="is not code"):
        file.write(ADDED, NOP)


def test_a_branch_in_an_added_segment_enters_a_function(tmp_path: Path) -> None:
    path = program(tmp_path)
    with ElfFile(path) as file:
        start = file.symbols["_start"]
    changes = [Change(start + 4 * number, 0xD2800020 + 0x21 * number, 0xD503201F) for number in (0, 1)]

    def entered() -> bool:
        with ElfFile(path) as file:
            [site] = sites_of(file, changes, spans_of(changes, join=0))
            return any(f"{ADDED:#x}" in hazard.sentence for hazard in site.unknown)

    assert not entered()
    with_added_segment(path, words(f"b {start + 4:#x}"), ADDED)
    assert entered()


def test_diff_compares_an_added_segment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = program(tmp_path), tmp_path / "new"
    with_added_segment(old, words("mov x5, #1", "ret"), ADDED)
    new.write_bytes(old.read_bytes())
    with ElfFile(new) as file:
        file.write(ADDED, words("mov x5, #2"))
        file.publish(ADDED, ADDED + 4)
    assert main(["diff", str(old), str(old)]) == 0
    assert capsys.readouterr().err == ""
    assert main(["diff", str(old), str(new)]) == 1
    assert "the code outside of functions at 0x5000000, 4 bytes, differs in NEW" in capsys.readouterr().err


def test_code_in_the_room_behind_the_last_section(tmp_path: Path) -> None:
    """The end of the segment was moved into the rest of its page."""
    path = program(tmp_path)
    image = ElfImage(path.read_bytes(), "")
    [(_, end)] = image.code
    [at] = [at for at, fields in program_headers(image.data) if fields[0] == 1 and fields[1] & 1]
    data = set_bytes(set_bytes(image.data, at + 32, "Q", 0x40), at + 40, "Q", 0x40)
    path.write_bytes(data)
    with ElfFile(path) as file:
        [(start, new_end)] = file.code_ranges()
        assert (file.symbols["_start"], new_end - start) == (start, 0x40)
        file.write(end + 8, RET)
        with pytest.raises(MappingError, match="do not all stand in"):
            file.write(start + 0x40, RET)


def test_headers_and_padding_are_no_code(tmp_path: Path) -> None:
    """One executable segment with headers, constants and two sections of code that are 64 bytes apart."""
    source = SOURCE + '\n.section .rodata\n.xword 7\n.section .more, "ax"\n.balign 128\nmore: ret'
    path = link(assemble(source, tmp_path / "p.o"), tmp_path / "program", "-z", "noseparate-code")
    image = ElfImage(path.read_bytes(), "")
    sections = [(s.address, s.address + s.size) for s in image.sections if s.executable]
    assert list(image.code) == sorted(sections)
    assert len(sections) == 2
    assert any(load.flags & 1 and load.address < sections[0][0] for load in image.loads)


def test_zeros_behind_the_headers_are_no_code_and_added_words_are(tmp_path: Path) -> None:
    """GNU ld puts code at the begin of a page, and the headers into the page before it."""
    path = link(assemble(SOURCE, tmp_path / "p.o"), tmp_path / "program", "--section-start=.text=0x10000000000")
    image = ElfImage(path.read_bytes(), "")
    [text] = [(section.address, section.address + section.size) for section in image.sections if section.executable]
    load = next(load for load in image.loads if load.flags & 1)
    assert (load.address, load.offset) == (text[0] - 0x10000, 0)
    assert list(image.code) == [text]
    added = bytearray(image.data)
    added[0x8000:0x8004] = RET
    assert ElfImage(bytes(added), "").code.covers(load.address + 0x8000, text[1])


def test_stubs_in_an_added_segment_have_names(tmp_path: Path) -> None:
    path = compiled(tmp_path / "program", "-no-pie")
    [(name, address)] = [each for each in stubs(path).items() if each[0] == "puts@plt"]
    with ElfFile(path) as file:
        slot = next(line for line in file._image._slots(file._image._listed(True)).items() if line[1] == ["puts"])[0]
    texts = (f"adrp x16, {slot & -4096:#x}", f"ldr x17, [x16, #{slot & 4095}]", "br x17")
    with_added_segment(path, words(*texts), ADDED)
    with ElfFile(path) as file:
        assert [each.address for each in file.symbols.ascending() if each.name == name] == [address, ADDED]


def test_the_simulator_executes_an_added_segment(tmp_path: Path) -> None:
    path = program(tmp_path)
    with_added_segment(path, words("mov x5, #1", "ret"), ADDED)
    with open_target(f"sim:{path}") as target:
        assert any(start <= ADDED < end for start, end in target.code_ranges())

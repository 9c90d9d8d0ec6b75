"""A function of a linked program replaced with LIEF and GNU ld: OBJECT NAME FILE.

LIEF adds a section, with a segment for it, and writes the branch. It links nothing: GNU ld does, once the section has
an address.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import lief

TOOLS = "aarch64-linux-gnu-"
ROOM = 4096
PLT_HEAD, PLT_STUB = 32, 16
"""Bytes of the first entry of the PLT and of each other one, without landing pads."""

unit, name, path = sys.argv[1:]
elf = lief.ELF.parse(path)
if elf is None:
    sys.exit("not an ELF file")
section = lief.ELF.Section(".fix")
section.flags = lief.ELF.Section.FLAGS.ALLOC.value | lief.ELF.Section.FLAGS.EXECINSTR.value
section.alignment = 0x10000
section.content = memoryview(bytes(ROOM))
section = elf.add(section)

# Only now: LIEF moves all of a position-independent program to have room for another program header.
symbols = {symbol.name: symbol.value for symbol in elf.symbols if symbol.value}
plt = elf.get_section(".plt").virtual_address + PLT_HEAD
for index, relocation in enumerate(elf.pltgot_relocations):
    symbols[relocation.symbol.name] = plt + PLT_STUB * index

fix = lief.ELF.parse(unit)
needed = [symbol.name for symbol in fix.symbols if symbol.name and not symbol.shndx]
with tempfile.TemporaryDirectory() as folder:
    linked, code = Path(folder) / "linked", Path(folder) / "code"
    subprocess.run(
        [
            *(
                TOOLS + "ld",
                "--omagic",
                "--no-warn-rwx-segments",
                f"--entry={name}",
                f"-Ttext={section.virtual_address:#x}",
            ),
            *(f"--defsym={each}={symbols[each]:#x}" for each in needed),
            *("-o", linked, unit),
        ],
        check=True,
    )
    subprocess.run([TOOLS + "objcopy", "-O", "binary", linked, code], check=True)
    fixed = lief.ELF.parse(linked)
    entry = fixed.get_symbol(name).value
    content = code.read_bytes()
if len(content) > ROOM:
    sys.exit("the new code is longer than its room")
section.content = memoryview(content.ljust(ROOM, b"\0"))
old = symbols[name]
elf.patch_address(old, list((0x14000000 | (entry - old) // 4 & 0x3FFFFFF).to_bytes(4, "little")))
elf.write(path)

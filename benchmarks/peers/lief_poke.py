"""One word of an ELF file changed with LIEF: FILE ADDRESS OLD NEW, both words as hex digits."""

import sys

import lief

path, address = sys.argv[1], int(sys.argv[2], 16)
old, new = (int(word, 16).to_bytes(4, "little") for word in sys.argv[3:])
elf = lief.ELF.parse(path)
if elf is None or bytes(elf.get_content_from_virtual_address(address, 4)) != old:
    sys.exit("another word stands there")
elf.patch_address(address, list(new))
elf.write(path)

"""One word of an ELF file changed with pwntools: FILE ADDRESS OLD NEW, both words as hex digits."""

import sys

from pwn import ELF, context

context.log_level = "error"
path, address = sys.argv[1], int(sys.argv[2], 16)
old, new = (int(word, 16).to_bytes(4, "little") for word in sys.argv[3:])
elf = ELF(path, checksec=False)
if elf.read(address, 4) != old:
    sys.exit("another word stands there")
elf.write(address, new)
elf.save(path)

"""Words of a process changed with Python in gdb, which has attached to it: PROCESS holds LIST OLD NEW."""

import os
from pathlib import Path

import gdb

places, old, new = os.environ["PROCESS"].split()
addresses = [int(line, 16) for line in Path(places).read_text().split()]
before, after = (bytes.fromhex(word)[::-1] for word in (old, new))
inferior = gdb.selected_inferior()
for address in addresses:
    assert bytes(inferior.read_memory(address, 4)) == before
for address in addresses:
    inferior.write_memory(address, after)
for address in addresses:
    assert bytes(inferior.read_memory(address, 4)) == after

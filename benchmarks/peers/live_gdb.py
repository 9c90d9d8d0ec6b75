"""Words of a running kernel changed with Python in gdb, all inside one stop: LIVE holds STUB LIST OLD NEW."""

import os
import time
from pathlib import Path

import gdb

stub, places, old, new = os.environ["LIVE"].split()
addresses = [int(line, 16) for line in Path(places).read_text().split()]
before, after = (bytes.fromhex(word)[::-1] for word in (old, new))
gdb.execute("set architecture aarch64", to_string=True)
gdb.execute(f"target remote {stub}", to_string=True)
inferior = gdb.selected_inferior()
begun = time.perf_counter()
for address in addresses:
    assert bytes(inferior.read_memory(address, 4)) == before
for address in addresses:
    inferior.write_memory(address, after)
for address in addresses:
    assert bytes(inferior.read_memory(address, 4)) == after
window = time.perf_counter() - begun
gdb.execute("detach", to_string=True)
print("window", window)

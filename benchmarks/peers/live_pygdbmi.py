"""Words of a running kernel changed with pygdbmi, all inside one stop: STUB LIST OLD NEW."""

import sys
import time
from pathlib import Path
from typing import Any

from pygdbmi.gdbcontroller import GdbController

stub, places, old, new = sys.argv[1:]
addresses = [int(line, 16) for line in Path(places).read_text().split()]
before, after = (bytes.fromhex(word)[::-1].hex() for word in (old, new))
controller = GdbController(["gdb-multiarch", "-nx", "--interpreter=mi3"])


def ask(command: str) -> dict[str, Any]:
    return next(answer["payload"] or {} for answer in controller.write(command, 10) if answer["type"] == "result")


def read(address: int) -> str:
    return str(ask(f"-data-read-memory-bytes {address:#x} 4")["memory"][0]["contents"])


ask("-gdb-set architecture aarch64")
ask(f"-target-select remote {stub}")
begun = time.perf_counter()
for address in addresses:
    assert read(address) == before
for address in addresses:
    ask(f"-data-write-memory-bytes {address:#x} {after}")
for address in addresses:
    assert read(address) == after
window = time.perf_counter() - begun
ask("-target-detach")
controller.exit()
print("window", window)

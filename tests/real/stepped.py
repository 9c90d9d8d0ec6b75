"""A program that qemu-aarch64 executes one instruction at a time, by its GDB stub: registers and memory at each step.

Read on: test_stacks.py asks at each step where the program will return to.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from a64patch.errors import ReadError
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.maps import Mapping, Maps
from a64patch.targets.stacks import ThreadRegisters
from tests.support import GUARD_SECONDS, eventually, need

SIGNATURE_BITS = 0x7F << 48
"""A user's address has 48 bits here, and the top byte is ignored."""
_PAGE = 4096
_SIGTRAP = "05"
_BLOCK = 0x400
"""Bytes that are read in one packet."""


def text_of(program: Path) -> tuple[int, int]:
    """The pages that hold a static program's code."""
    [code] = [each for each in ElfImage(program.read_bytes(), str(program)).loads if each.flags & 1]
    return code.address & -_PAGE, (code.address + code.memory_size + _PAGE - 1) & -_PAGE


class Stepped:
    """A program at one of its instructions."""

    def __init__(self, connection: socket.socket, program: Path) -> None:
        self._connection = connection
        self._buffer = b""
        self._text = text_of(program)
        self._kept: dict[int, bytes] = {}
        self._kept_for_this_step: dict[int, bytes] = {}
        self.program = program
        self.registers = self._registers(1)
        self._initial_sp = self.registers.sp

    def _ask(self, request: str) -> str:
        data = request.encode()
        self._connection.sendall(b"$" + data + b"#" + b"%02x" % (sum(data) % 256))
        while (end := self._buffer.find(b"#")) < 0 or len(self._buffer) < end + 3:
            more = self._connection.recv(1 << 16)
            assert more, f"the stub has gone after {request}"
            self._buffer += more
        answer, self._buffer = self._buffer[:end], self._buffer[end + 3 :]
        self._connection.sendall(b"+")
        return answer.partition(b"$")[2].decode()

    def threads(self) -> list[ThreadRegisters]:
        """All threads, with the numbers that the stub gives them."""
        found: list[int] = []
        answer = self._ask("qfThreadInfo")
        while answer.startswith("m"):
            found += [int(each, 16) for each in answer[1:].split(",")]
            answer = self._ask("qsThreadInfo")
        threads = []
        for tid in found:
            assert self._ask(f"Hg{tid:x}") == "OK"
            threads.append(self._registers(tid))
        return threads

    def _registers(self, tid: int) -> ThreadRegisters:
        data = bytes.fromhex(self._ask("g")[: 33 * 16])
        *x, sp, pc = struct.unpack("<33Q", data)
        return ThreadRegisters(tid, "stepped", tuple(x), sp, pc)

    def step(self) -> bool:
        """Execute one instruction; false when the program has ended."""
        return self._went_on("s")

    def run(self) -> bool:
        """Execute until a BRK or the end; false at the end. The program gets its signals."""
        return self._went_on("c")

    def _went_on(self, request: str) -> bool:
        answer = self._ask(request)
        while answer[:1] == "T" and answer[1:3] != _SIGTRAP:
            answer = self._ask(f"C{answer[1:3]}")
        if answer[:1] not in ("T", "S"):
            return False
        self._kept_for_this_step.clear()
        self.registers = self._registers(1)
        return True

    def word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little")

    def read(self, address: int, size: int) -> bytes:
        """Memory of the program: less than `size` bytes where it ends, ReadError where it has none."""
        first = address & -_BLOCK
        data = b""
        for block in range(first, address + size, _BLOCK):
            piece = self._block(block)
            data += piece
            if len(piece) < _BLOCK:
                break
        data = data[address - first :][:size]
        if not data:
            raise ReadError(f"{address:#x} cannot be read")
        return data

    def _block(self, address: int) -> bytes:
        """One block; none where the program has no memory. It is asked for once, as long as it cannot change."""
        kept = self._kept if self._text[0] <= address < self._text[1] else self._kept_for_this_step
        if address not in kept:
            answer = self._ask(f"m{address:x},{_BLOCK:x}")
            kept[address] = b"" if answer.startswith("E") and len(answer) == 3 else bytes.fromhex(answer)
        return kept[address]

    def maps(self) -> Maps:
        """The mappings of a static program: its text, and a stack that ends somewhere above the first frame."""
        end = (self._initial_sp + _PAGE) & -_PAGE
        return Maps(
            [
                Mapping(*self._text, "r-xp", 0, "fe:01", 1, str(self.program)),
                Mapping(end - (1 << 23), end, "rw-p", path="[stack]"),
            ]
        )


@contextlib.contextmanager
def stepped(program: Path, *options: str) -> Iterator[Stepped]:
    """The program before its first instruction."""
    with tempfile.TemporaryDirectory(prefix="a64patch-") as directory, socket.socket(socket.AF_UNIX) as connection:
        path = Path(directory) / "stub"
        process = subprocess.Popen(
            [need("qemu-aarch64", "qemu-user"), "-cpu", "max", "-g", str(path), *options, str(program)],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            connection.settimeout(GUARD_SECONDS)
            # The path is there a moment before the stub listens.
            assert eventually(lambda: connection.connect_ex(str(path)) == 0)
            yield Stepped(connection, program)
        finally:
            process.kill()
            process.wait()

"""Where CPUs will return to, read from stacks as Linux makes them: across an exception, too."""

from __future__ import annotations

import struct

from a64patch.targets.gdb import follow_frames

STACK = 0xFFFF800008003000
SITE = 0xFFFF800008100000


class Memory:
    """Answers `m` as a stub does whose stack begins at STACK; refuses what lies below."""

    def __init__(self, size: int = 1024) -> None:
        self.stack = bytearray(size)

    def put(self, at: int, *values: int) -> None:
        struct.pack_into(f"<{len(values)}Q", self.stack, at, *values)

    def ask_all(self, requests: list[bytes]) -> list[bytes]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: bytes) -> bytes:
        if request[:1] != b"m":
            return b"OK"
        address, size = (int(number, 16) for number in request[1:].split(b","))
        at = address - STACK
        if not 0 <= at < len(self.stack):
            return b"E14"
        return bytes(self.stack[at : at + size]).hex().encode()


def returns(memory: Memory, head: int) -> list[int]:
    return follow_frames(memory, [b"1"], [STACK + head])[0]  # type: ignore[arg-type]


def test_records_are_followed_from_the_first_byte_of_a_stack() -> None:
    memory = Memory()
    memory.put(0, STACK + 64, SITE)
    memory.put(64, 0, SITE + 8)
    assert returns(memory, 0) == [SITE, SITE + 8]


def test_the_link_register_of_an_interrupted_function_counts() -> None:
    """It had no frame record yet, or never has one: only the saved registers know where it returns to."""
    memory = Memory()
    memory.put(0, STACK + 16 + 304, SITE)
    before, pc, link = STACK + 512, SITE + 0x100, SITE + 0x204
    memory.put(16 + 29 * 8, before, link, 0, pc)
    memory.put(16 + 304, before, pc)
    memory.put(512, 0, SITE + 0x300)
    assert returns(memory, 0) == [SITE, pc, link, SITE + 0x300]


def test_linux_since_6_13_ends_the_chain_at_an_exception() -> None:
    memory = Memory()
    memory.put(0, STACK + 16 + 296, SITE)
    before, pc, link = STACK + 512, SITE + 0x100, SITE + 0x204
    memory.put(16 + 29 * 8, before, link, 0, pc)
    memory.put(16 + 296, 0, 0, 2)
    memory.put(512, 0, SITE + 0x300)
    assert returns(memory, 0) == [SITE, pc, link, SITE + 0x300]


def test_what_lies_below_an_ordinary_record_does_not_count() -> None:
    memory = Memory()
    memory.put(0, *[SITE + 0x100] * 16)
    memory.put(128, 0, SITE)
    assert returns(memory, 128) == [SITE]

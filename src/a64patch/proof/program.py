"""What a proof is about: words at addresses, threads that execute them, memory that they share.

Read on: semantics.py says what the words do, traces.py runs one thread, search.py puts the threads together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from a64patch.errors import RequestError

ELR = 32
"""Number under which a trace keeps ELR_EL1 among the registers; 0 to 30 are X0 to X30, 31 is SP."""
CTR = 33
"""Number of CTR_EL0, likewise."""


@dataclass(frozen=True)
class Thread:
    """One CPU: where it starts and with which registers.

    It stops when its PC reaches an address at which the program has no word. `sync_vector` is where SVC and BRK
    continue, `irq_vector` where an interrupt does (addresses in bytes). Without the first, such an instruction ends
    the thread; without the second no interrupt reaches this CPU. Interrupts are open at the start, closed by
    every exception entry and put back by ERET; MSR DAIFSet and DAIFClr (bit 1) close and open them.
    """

    entry: int
    registers: Mapping[int, int] = field(default_factory=dict)
    """X0 to X30 by number, SP as 31; the others are 0."""
    name: str = ""
    sync_vector: int | None = None
    irq_vector: int | None = None


@dataclass(frozen=True)
class Program:
    """Threads over one memory. Nothing is executed: the search asks what could be.

    `code` holds the words by address, whoever executes them, and `memory` the data by address, with their initial
    values; both in bytes, code at multiples of 4, data at multiples of 8. No other address may be accessed. Code is
    accessed with 4 bytes, data with 4 or 8. Which words are modified is found out from the stores.

    `idc` and `dic` are CTR_EL0.IDC and .DIC: no DC, or no IC, is needed. `eis` and `eos` are SCTLR_EL1.EIS and .EOS:
    exception entry and return are context synchronisation events (they always are without FEAT_ExS).
    `line` is the size of a cache line in bytes: a DC or IC acts on all of it.
    """

    threads: tuple[Thread, ...]
    code: Mapping[int, int]
    memory: Mapping[int, int] = field(default_factory=dict)
    idc: bool = False
    dic: bool = False
    eis: bool = True
    eos: bool = True
    line: int = 4
    visits: int = 3
    """How often a thread may execute the same address before the search gives that path up (it is counted as cut)."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Names of addresses, for people."""
    windows: tuple[range, ...] = ()
    """Addresses of words of which only the flow of control is looked at: any word may stand there.

    What they read, write and order is left out, so there are at least the executions that there would be with it,
    as long as they touch nothing that the rest of the program uses. Calls and system calls return, a conditional
    branch goes either way whatever the flags are, and what leaves the window otherwise ends the thread.
    """
    falls_through: bool = False
    """In a window every word but a BRK goes on with the next one, whatever it is: more than any real word does."""

    pinned: frozenset[int] = frozenset()
    """Where only the executions are looked at in which a fetch gets the initial word: fewer than there are."""

    def __post_init__(self) -> None:
        if any(address % 4 for address in self.code):
            raise RequestError("code must stand at multiples of 4 bytes")
        if any(address % 8 for address in self.memory):
            raise RequestError("data must stand at multiples of 8 bytes")
        if not self.threads:
            raise RequestError("a program needs at least one thread")
        if self.line < 4 or self.line & (self.line - 1):
            raise RequestError(f"a cache line of {self.line} bytes: choose a power of two, at least 4")

    def initial(self, address: int) -> int:
        """The value of a location before anything runs; KeyError when the program has no such location."""
        return self.code[address] if address in self.code else self.memory[address]

    def line_of(self, address: int) -> int:
        """The number of the cache line that holds the address."""
        return address // self.line

    def name_of(self, address: int) -> str:
        """What people call the address: its name, or hexadecimal."""
        return self.names.get(address, f"{address:#x}")

"""The subject of a proof: words at addresses, the threads that execute them, the memory that the threads share.

Read on: semantics.py has the meaning of each word, traces.py runs one thread, search.py puts the threads together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from a64patch.errors import RequestError

ELR = 32
"""The number of ELR_EL1 among the registers of a trace; 0 to 30 are X0 to X30."""
CTR = 33
"""The number of CTR_EL0, likewise."""


@dataclass(frozen=True)
class Thread:
    """One CPU: its first address and its first registers.

    The thread ends when its PC reaches an address without a word.

    - SVC, BRK and UDF continue at `sync_vector`, an address in bytes. Without `sync_vector` they end the thread.
    - An interrupt continues at `irq_vector`, an address in bytes. Without `irq_vector` no interrupt reaches this CPU.
    - Interrupts are unmasked at the start. Each exception entry masks them. MSR DAIFSet and DAIFClr with bit 1 mask and
      unmask them.
    - ERET restores the mask and the flags of the exception entry (SPSR_EL1).
    """

    entry: int
    registers: Mapping[int, int] = field(default_factory=dict)
    """X0 to X30 by number, SP as 31; all other registers are 0."""
    name: str = ""
    sync_vector: int | None = None
    irq_vector: int | None = None


@dataclass(frozen=True)
class Program:
    """Threads over one memory. Nothing is executed: the search asks which executions are possible.

    - `code` maps addresses (bytes, multiples of 4) to initial words, shared by all threads. Accesses have 4 bytes. The
      stores in the traces tell which words are modified.
    - `memory` maps addresses (bytes) to initial data. Each is one location. It ends where the next one begins. Accesses
      have 1, 2, 4, 8 or 16 bytes, and all accesses of a location have one size (traces.py says when 4 and 8 will do).
    - No other address may be accessed.
    - `idc` and `dic` are CTR_EL0.IDC and .DIC. With IDC no DC is needed, with DIC no IC.
    - `eis` and `eos` are SCTLR_EL1.EIS and .EOS: exception entry and exception return are context synchronisation
      events. Without FEAT_ExS they always are.
    - `line` is the size of a cache line in bytes. A DC or IC acts on the whole line.
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
    """How often a thread may execute an address with one return address (X30) and a new guess before each visit
    (traces.py). A path with more is given up and counted as cut. So calls in a straight line run to their end, as do
    loops that guess nothing."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Names of addresses, for people."""
    windows: tuple[range, ...] = ()
    """Address ranges in which each word has only its flow of control. Any word is allowed there.

    - A call or system call goes on with the next word. A conditional branch goes either way, whatever the flags.
    - A word that may go anywhere (semantics.flow) goes on with the next word, goes to each of `entries`, and leaves.
    - The words' own reads, writes and orderings are left out. This only adds executions, as long as the words touch
      nothing that the rest of the program uses.
    """
    entries: tuple[int, ...] = ()
    """The addresses in windows to which a thread comes from anywhere. Words between them only pass on control, so it is
    enough to name those that are modified."""
    outside: int = -1
    """The address where a thread is that has left a window: it ends there, or comes back to one of `entries`. With -1,
    leaving a window ends the thread."""
    returns: int = 0
    """How often a thread comes back from `outside`."""
    simple: bool = False
    """A thread executes each word of a window once before it leaves, and once after it came back. Longer paths are left
    out, and do not count as cut."""
    guards: Mapping[int, int] = field(default_factory=dict)
    """In windows: the word at an address whose exception continues at `sync_vector`. Any other BRK may go anywhere."""
    falls_through: bool = False
    """In a window every word but a guard goes on with the next word. Real words reach the next word less often."""

    ends: frozenset[int] | None = None
    """The addresses without a word where a thread may end; None for all. To go to another one is not modelled."""
    pinned: frozenset[int] = frozenset()
    """Addresses at which every fetch gets the initial word. This leaves out executions."""

    def __post_init__(self) -> None:
        if any(address % 4 for address in self.code):
            raise RequestError("addresses of code must be multiples of 4 bytes")
        if not self.threads:
            raise RequestError("a program needs at least one thread")
        if self.line < 4 or self.line & (self.line - 1):
            raise RequestError(f"a cache line of {self.line} bytes: choose a power of two, at least 4")

    def initial(self, address: int) -> int:
        """The value of a location before anything runs; KeyError when the program has no such location."""
        return self.code[address] if address in self.code else self.memory[address]

    def line_of(self, address: int) -> int:
        """The number of the cache line with this address."""
        return address // self.line

    def name_of(self, address: int) -> str:
        """The address for people: its name, or the number in hexadecimal."""
        return self.names.get(address, f"{address:#x}")

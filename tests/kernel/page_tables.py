"""Translation tables made in memory, by rules written down here a second time: nothing of the package is used.

Read on: test_page_tables.py walks them; test_executable.py puts them behind CPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

VALID, TABLE, USER, READ_ONLY, ACCESSED = 1, 2, 1 << 6, 1 << 7, 1 << 10
DIRTY_MANAGED, CONTIGUOUS, PXN, UXN = 1 << 51, 1 << 52, 1 << 53, 1 << 54
TABLE_PXN, TABLE_UXN, TABLE_NO_USER, TABLE_READ_ONLY = 1 << 59, 1 << 60, 1 << 61, 1 << 62
CODE = VALID | ACCESSED | READ_ONLY | UXN
"""Linux's PAGE_KERNEL_ROX, as far as it matters here."""
TCR_HA, TCR_HD, TCR_HPD1, TCR_EPD1 = 1 << 39, 1 << 40, 1 << 42, 1 << 23


@dataclass(frozen=True)
class Form:
    """One form of tables: TCR_EL1, and how many bits of an address each level takes, from the first level on."""

    name: str
    granule: int
    """TCR_EL1.TG1."""
    size: int
    """TCR_EL1.T1SZ."""
    page: int
    """Bits of an address inside a page."""
    levels: tuple[int, ...]
    blocks: int
    """How many levels above the last have blocks."""
    physical: str = "48"
    """How physical addresses are written: `48`, or `LPA` and `LPA2` with 52 bits."""

    @property
    def tcr(self) -> int:
        """TCR_EL1, with values of Linux in the fields that do not matter."""
        wide = {"48": 5 << 32, "LPA": 6 << 32, "LPA2": 6 << 32 | 1 << 59}[self.physical]
        return self.granule << 30 | 0x3500 << 16 | self.size << 16 | wide | 1 << 36 | 1 << 38 | 0x3510

    @property
    def start(self) -> int:
        """The first address that the tables translate."""
        return (1 << 64) - (1 << (64 - self.size))

    def bytes_at(self, above: int) -> int:
        """The size of a page (0) or of a block so many levels above the last."""
        return 1 << self.page + sum(self.levels[len(self.levels) - above :] if above else ())

    def written(self, physical: int) -> int:
        """A physical address as a descriptor holds it."""
        if self.physical == "LPA":
            return physical & (1 << 48) - 1 | physical >> 48 << 12
        if self.physical == "LPA2":
            return physical & (1 << 50) - 1 | physical >> 50 << 8
        return physical

    def __str__(self) -> str:
        return self.name


FORMS = (
    Form("4K, 39 bits", 2, 25, 12, (9, 9, 9), 2),
    Form("4K, 42 bits", 2, 22, 12, (3, 9, 9, 9), 2),
    Form("4K, 48 bits", 2, 16, 12, (9, 9, 9, 9), 2),
    Form("4K, 48 bits, LPA2", 2, 16, 12, (9, 9, 9, 9), 3, "LPA2"),
    Form("4K, 52 bits, LPA2", 2, 12, 12, (4, 9, 9, 9, 9), 3, "LPA2"),
    Form("16K, 36 bits", 1, 28, 14, (11, 11), 1),
    Form("16K, 47 bits", 1, 17, 14, (11, 11, 11), 1),
    Form("16K, 48 bits", 1, 16, 14, (1, 11, 11, 11), 1),
    Form("16K, 48 bits, LPA2", 1, 16, 14, (1, 11, 11, 11), 2, "LPA2"),
    Form("16K, 52 bits, LPA2", 1, 12, 14, (5, 11, 11, 11), 2, "LPA2"),
    Form("64K, 42 bits", 3, 22, 16, (13, 13), 1),
    Form("64K, 48 bits", 3, 16, 16, (6, 13, 13), 1),
    Form("64K, 48 bits, LPA", 3, 16, 16, (6, 13, 13), 2, "LPA"),
    Form("64K, 52 bits, LPA", 3, 12, 16, (10, 13, 13), 2, "LPA"),
)


@dataclass
class Tables:
    """Physical memory with the tables of one form. What was read is in `reads`, one list for each call."""

    form: Form
    memory: dict[int, list[int]] = field(default_factory=dict)
    """Descriptors by the address of their table."""
    reads: list[list[tuple[int, int]]] = field(default_factory=list)
    big_endian: bool = False
    place: int = 0x4000_0000
    """The address of the first table."""

    def __post_init__(self) -> None:
        # A table further up than 48 bits reach, if there can be one.
        self._next = self.place if self.form.physical == "48" else 0xB_0000_0000_0000 + self.place
        self.root = self.new(1 << self.form.levels[0])

    def new(self, entries: int) -> int:
        """The address of another empty table."""
        place, self._next = self._next, self._next + (1 << self.form.page)
        self.memory[place] = [0] * entries
        return place

    @property
    def ttbr(self) -> int:
        """TTBR1_EL1, without an ASID."""
        return self.root & (1 << 48) - 1 | self.root >> 48 << 2

    def slot(self, address: int, above: int = 0, table_bits: int = 0) -> tuple[list[int], int]:
        """The table, and the index in it, of the descriptor for an address; tables on the way there are made."""
        table, offset = self.memory[self.root], address - self.form.start
        for level in range(len(self.form.levels)):
            rest = len(self.form.levels) - 1 - level
            index = offset >> self.form.page + sum(self.form.levels[level + 1 :])
            offset &= self.form.bytes_at(rest) - 1
            if rest == above:
                return table, index
            if not table[index]:
                table[index] = VALID | TABLE | self.form.written(self.new(1 << self.form.levels[level + 1]))
            table[index] |= table_bits
            table = self.memory[self._place(table[index])]
        raise AssertionError

    def _place(self, descriptor: int) -> int:
        return next(place for place in self.memory if self.form.written(place) == descriptor & self._address_bits)

    @property
    def _address_bits(self) -> int:
        high = {"48": (1 << 48) - (1 << self.form.page), "LPA": (1 << 48) - (1 << 12), "LPA2": (1 << 50) - (1 << 8)}
        return high[self.form.physical]

    def map(self, address: int, physical: int, bits: int = CODE, above: int = 0, table_bits: int = 0) -> None:
        """Map a page, or a block so many levels above the last; `table_bits` go into each table on the way."""
        table, index = self.slot(address, above, table_bits)
        assert not table[index]
        table[index] = bits | self.form.written(physical) | (0 if above else TABLE)

    def read(self, requests: Sequence[tuple[int, int]]) -> list[bytes]:
        """Whole tables only: another size, or a place without a table, is a mistake of who reads."""
        self.reads.append(list(requests))
        found = [self.memory[place] for place, _ in requests]
        assert [8 * len(table) for table in found] == [size for _, size in requests]
        order = "big" if self.big_endian else "little"
        return [b"".join(each.to_bytes(8, order) for each in table) for table in found]  # type: ignore[arg-type]

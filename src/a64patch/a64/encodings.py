"""THE table: one row an encoding, and everything that this package knows about instructions is derived from it.

May know: row.py, tables/.
Read on: classify.py asks which row a word belongs to; assembler.py and disassembler.py read the templates.

Source of every row: Arm Architecture Reference Manual (DDI 0487), the encoding tables of C4.1 under the heading that
`Encoding.table` names, and the instruction's own page in C6.2 or C7.2. Bits that the manual prints as (0) or (1) are
fixed here: a word that breaks them is CONSTRAINED UNPREDICTABLE, so no row claims it.
"""

from __future__ import annotations

from a64patch.a64.row import Encoding, Field, Flow
from a64patch.a64.tables import branches, integer, memory, system

__all__ = ["BY_NAME", "TABLE", "Encoding", "Field", "Flow"]

TABLE: tuple[Encoding, ...] = (*branches.table(), *system.table(), *integer.table(), *memory.table())
"""All rows. Two rows are disjoint, or one is nested in the other; the inner one is the more exact name."""

BY_NAME: dict[str, Encoding] = {row.name: row for row in TABLE}
"""The rows by their names."""

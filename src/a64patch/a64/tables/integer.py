"""Data processing on general registers: Arm ARM C4.1, Data Processing -- Immediate and -- Register.

May know: ../row.py. Read on: memory.py for loads and stores.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding, rows


def _addresses() -> Iterator[Encoding]:
    yield from rows(
        "PC-rel. addressing",
        ("adr", "0 immlo:2 10000 immhi:19 rd:5", "adr <X:rd>, <adr:immhi:immlo>"),
        ("adrp", "1 immlo:2 10000 immhi:19 rd:5", "adrp <X:rd>, <adrp:immhi:immlo>"),
    )


def _movewide() -> Iterator[Encoding]:
    table = "Move wide (immediate)"
    for name, opc, constant in (
        ("movz", "10", "wide"),
        ("movn", "00", "wide_not"),
        ("movk", "11", ""),
    ):
        for size, sf, hw, register in (("w", "0", "0 hw:1", "W"), ("x", "1", "hw:2", "X")):
            alias = f"mov <{register}:rd>, <{constant}_{size}:hw:imm16>" if constant else ""
            yield from rows(
                table,
                (f"{name}.{size}", f"{sf}{opc}100101 {hw} imm16:16 rd:5",
                 tuple(filter(None, (alias, f"{name} <{register}:rd>, <hex:imm16>{{, <lsl16:hw>}}")))),
                families="movewide",
            )  # fmt: skip


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    yield from _addresses()
    yield from _movewide()

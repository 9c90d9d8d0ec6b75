"""Branches and exceptions: Arm ARM C4.1, Branches, Exception Generating and System instructions.

Read on: system.py for the rest of that group.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding, Flow, rows


def _compared(size: str, cc: str, register: str) -> tuple[str, ...]:
    """The texts of a comparison of two registers: as it is, and with the operands swapped where that has a name."""
    one, other = f"<{register}:rt>", f"<{register}:rm>"
    swapped = {"gt": "lt", "ge": "le", "hi": "lo", "hs": "ls"}.get(cc)
    text = f"cb{size}{cc} {one}, {other}, <label:imm9>"
    return (text, f"cb{size}{swapped} {other}, {one}, <label:imm9>") if swapped else (text,)


def _branches() -> Iterator[Encoding]:
    table = "Conditional branch (immediate)"
    yield from rows(
        table,
        ("bcond", "01010100 imm19:19 0 cond:4", ("b.<cond:cond> <label:imm19>", "b<cond:cond> <label:imm19>")),
        families="branch branch_imm", flow=Flow.BRANCH, conditional=True, reads="nzcv",
    )  # fmt: skip
    yield from rows(
        table,
        ("bccond", "01010100 imm19:19 1 cond:4", "bc.<cond:cond> <label:imm19>"),
        families="branch branch_imm", flow=Flow.BRANCH, conditional=True, feature="FEAT_HBC", reads="nzcv",
    )  # fmt: skip
    yield from rows(
        "Unconditional branch (immediate)",
        ("b", "000101 imm26:26", "b <label:imm26>"),
        families="branch branch_imm", flow=Flow.BRANCH,
    )  # fmt: skip
    yield from rows(
        "Unconditional branch (immediate)",
        ("bl", "100101 imm26:26", "bl <label:imm26>"),
        families="branch branch_imm", flow=Flow.CALL, writes="x30",
    )  # fmt: skip
    yield from rows(
        "Compare and branch (immediate)",
        ("cbz", "sf:1 0110100 imm19:19 rt:5", "cbz <R:sf:rt>, <label:imm19>"),
        ("cbnz", "sf:1 0110101 imm19:19 rt:5", "cbnz <R:sf:rt>, <label:imm19>"),
        families="branch branch_imm", flow=Flow.BRANCH, conditional=True,
    )  # fmt: skip
    yield from rows(
        "Test and branch (immediate)",
        ("tbz", "b5:1 0110110 b40:5 imm14:14 rt:5", "tbz <Rbit:b5:rt>, <imm:b5:b40>, <label:imm14>"),
        ("tbnz", "b5:1 0110111 b40:5 imm14:14 rt:5", "tbnz <Rbit:b5:rt>, <imm:b5:b40>, <label:imm14>"),
        families="branch branch_imm", flow=Flow.BRANCH, conditional=True,
    )  # fmt: skip
    registers = {"gt": "000", "ge": "001", "hi": "010", "hs": "011", "eq": "110", "ne": "111"}
    for cc, bits in registers.items():
        yield from rows(
            "Compare registers and branch",
            (f"cb.{cc}.register", f"sf:1 1110100 {bits} rm:5 00 imm9:9 rt:5",
             _compared("", cc, "R:sf")),
            (f"cbb.{cc}", f"01110100 {bits} rm:5 10 imm9:9 rt:5", _compared("b", cc, "W")),
            (f"cbh.{cc}", f"01110100 {bits} rm:5 11 imm9:9 rt:5", _compared("h", cc, "W")),
            families="branch branch_imm cbcc", flow=Flow.BRANCH, conditional=True, feature="FEAT_CMPBR",
        )  # fmt: skip
    immediates = {"gt": "000", "lt": "001", "hi": "010", "lo": "011", "eq": "110", "ne": "111"}
    moved = {"gt": ("ge", "+1"), "hi": ("hs", "+1"), "lt": ("le", "-1"), "lo": ("ls", "-1")}
    for cc, bits in immediates.items():
        text = f"cb{cc} <R:sf:rt>, <imm:imm6>, <label:imm9>"
        other, more = moved.get(cc, ("", ""))
        yield from rows(
            "Compare register with immediate and branch",
            (f"cb.{cc}.immediate", f"sf:1 1110101 {bits} imm6:6 0 imm9:9 rt:5",
             (text, f"cb{other} <R:sf:rt>, <imm{more}:imm6>, <label:imm9>") if other else text),
            families="branch branch_imm cbcc", flow=Flow.BRANCH, conditional=True, feature="FEAT_CMPBR",
        )  # fmt: skip


def _register_branches() -> Iterator[Encoding]:
    table = "Unconditional branch (register)"
    for name, opc, flow in (("br", "00", Flow.BRANCH), ("blr", "01", Flow.CALL)):
        family = f"branch {name}_auth"
        link = "x30" if flow is Flow.CALL else ""
        yield from rows(
            table,
            (name, f"110101100 {opc} 11111 000000 rn:5 00000", f"{name} <X:rn>"),
            families="branch", flow=flow, writes=link,
        )  # fmt: skip
        for key, bit in (("a", "0"), ("b", "1")):
            yield from rows(
                table,
                (f"{name}a{key}z", f"110101100 {opc} 11111 00001{bit} rn:5 11111", f"{name}a{key}z <X:rn>"),
                (f"{name}a{key}", f"110101110 {opc} 11111 00001{bit} rn:5 rm:5", f"{name}a{key} <X:rn>, <XSP:rm>"),
                families=family, flow=flow, feature="FEAT_PAuth", writes=link,
            )  # fmt: skip
    yield from rows(
        table,
        ("ret", "1101011001011111000000 rn:5 00000", "ret{ <X30:rn>}"),
        families="branch", flow=Flow.RETURN,
    )  # fmt: skip
    yield from rows(
        table,
        ("retaa", "11010110010111110000101111111111", "retaa"),
        ("retab", "11010110010111110000111111111111", "retab"),
        families="branch ret_auth", flow=Flow.RETURN, feature="FEAT_PAuth", reads="x30 sp",
    )  # fmt: skip
    yield from rows(
        table,
        ("retaasppcr", "1101011001011111000010 11111 rm:5", "retaasppcr <X!:rm>"),
        ("retabsppcr", "1101011001011111000011 11111 rm:5", "retabsppcr <X!:rm>"),
        families="branch ret_auth", flow=Flow.RETURN, feature="FEAT_PAuth_LR", reads="x30 sp",
    )  # fmt: skip
    yield from rows(
        "Miscellaneous branch (immediate)",
        ("retaasppc", "01010101000 imm16:16 11111", "retaasppc <backlabel:imm16>"),
        ("retabsppc", "01010101001 imm16:16 11111", "retabsppc <backlabel:imm16>"),
        families="branch ret_auth", flow=Flow.RETURN, feature="FEAT_PAuth_LR", reads="x30 sp",
    )  # fmt: skip
    yield from rows(
        table,
        ("eret", "11010110100111110000001111100000", "eret"),
        ("drps", "11010110101111110000001111100000", "drps"),
        families="branch", flow=Flow.EXCEPTION, writes="nzcv",
    )  # fmt: skip
    yield from rows(
        table,
        ("eretaa", "11010110100111110000101111111111", "eretaa"),
        ("eretab", "11010110100111110000111111111111", "eretab"),
        families="branch eret_auth", flow=Flow.EXCEPTION, feature="FEAT_PAuth", reads="sp", writes="nzcv",
    )  # fmt: skip


def _exceptions() -> Iterator[Encoding]:
    table = "Exception generation"
    for name, opc, ll in (
        ("svc", "000", "01"), ("hvc", "000", "10"), ("smc", "000", "11"), ("brk", "001", "00"), ("hlt", "010", "00"),
    ):  # fmt: skip
        yield from rows(
            table,
            (name, f"11010100 {opc} imm16:16 000 {ll}", f"{name} <hex:imm16>"),
            families="exception", flow=Flow.EXCEPTION, lands="cj" if name in ("brk", "hlt") else "",
        )  # fmt: skip
    yield from rows(
        table,
        ("tcancel", "11010100 011 imm16:16 00000", "tcancel <hex:imm16>"),
        families="exception", flow=Flow.EXCEPTION, feature="FEAT_TME",
    )  # fmt: skip
    for level, ll in ((1, "01"), (2, "10"), (3, "11")):
        yield from rows(
            table,
            (f"dcps{level}", f"11010100 101 imm16:16 000 {ll}", f"dcps{level}{{ <hexopt:imm16>}}"),
            families="exception dcps", flow=Flow.EXCEPTION,
        )  # fmt: skip
    yield from rows(
        "Reserved", ("udf", "0000000000000000 imm16:16", "udf <imm:imm16>"), families="exception", flow=Flow.EXCEPTION
    )


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    yield from _branches()
    yield from _register_branches()
    yield from _exceptions()

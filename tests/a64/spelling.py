"""Texts of words in one form, whoever printed them: what two disassemblers may spell differently and mean alike.

Read on: judges.py says where they mean something else.
"""

from __future__ import annotations

import re

from a64patch.a64.references import reference
from a64patch.a64.row import Encoding


def expanded(text: str) -> str:
    """Lists of vectors with every register and no space at the braces, FP constants as Python prints them."""
    text = re.sub(r"(?<![\w.])-?\d+\.\d+(e[+-]\d+)?(?![\w.])", lambda match: repr(float(match[0])), text)
    text = re.sub(r"\{ (.*?) \}", r"{\1}", text)

    def members(match: re.Match[str]) -> str:
        first, form, last = int(match[1]), match[2], int(match[3])
        return ", ".join(f"v{(first + step) % 32}.{form}" for step in range((last - first) % 32 + 1))

    return re.sub(r"v(\d+)\.(\w+)\s*-\s*v(\d+)\.\w+", members, text)


def plain(text: str, judge: str, row: Encoding | None, address: int) -> str:
    """The text in one form whoever printed it: numbers in decimal, labels as addresses, aliases as we spell them.

    A word that has no text has "", whatever stands for it.
    """
    if text.startswith((".inst", "undefined")):
        return ""
    text = text.lower().replace("#", "").replace(" csync", "_csync")
    text = re.split(r"\s*//", text)[0].strip()
    name = row.name if row else ""
    relative = row is not None and reference(row) is not None
    if relative and judge == "objdump":
        text = re.sub(r"([0-9a-f]+)$", r"0x\1", re.sub(r"0x([0-9a-f]+)$", r"\1", text))
    elif relative and judge == "llvm-mc":
        base = address & ~4095 if name == "adrp" else address
        text = re.sub(r"(-?(?:0x)?[0-9a-f]+)$", lambda m: f"{(base + int(m[1], 0)) % (1 << 64):#x}", text)
    text = expanded(text)
    text = re.sub(r"(?<![\w.])-?0x[0-9a-f]+|(?<![\w.])-?\d+(?![\w])", lambda m: str(int(m[0], 0) % (1 << 64)), text)
    if name.startswith(("movz.w", "movn.w")):
        text = re.sub(r"\b(\d+)$", lambda m: str(int(m[1]) % (1 << 32)), text)
    return re.sub(r"\s*,\s*", ",", re.sub(r"\s+", " ", text))


def respelled(text: str) -> str:
    """The text as we spell it, where a reference prints another name for the same."""
    text = re.sub(r"^clearbhb$", "clrbhb", text)
    text = re.sub(r"^subps xzr,", "cmpp ", text)
    text = re.sub(r"\bhs\b", "cs", text)
    text = re.sub(r"^(ldra[ab] .*),0\]!$", r"\1]!", text)
    return re.sub(r"\blo\b", "cc", text)

"""How objdump and llvm-mc write what rows of SIMD and floating point write in another way, and why."""

from __future__ import annotations

import re

from a64patch.a64.row import Encoding


def expanded(text: str) -> str:
    """Lists of vectors with every register and no space at the braces, FP constants as Python prints them."""
    text = re.sub(r"(?<![\w.])-?\d+\.\d+(e[+-]\d+)?(?![\w.])", lambda match: repr(float(match[0])), text)
    text = re.sub(r"\{ (.*?) \}", r"{\1}", text)

    def members(match: re.Match[str]) -> str:
        first, form, last = int(match[1]), match[2], int(match[3])
        return ", ".join(f"v{(first + step) % 32}.{form}" for step in range((last - first) % 32 + 1))

    return re.sub(r"v(\d+)\.(\w+)\s*-\s*v(\d+)\.\w+", members, text)


def otherwise(reference: str, row: Encoding, text: str) -> str:
    """Why the reference's text for a word of these rows is another one; "" when there is no reason."""
    if reference == "llvm-mc" and re.match(r"[su]shll2? .*#0$", text) and row.name[1:4] == "xtl":
        return "LLVM does not print SXTL and UXTL, the preferred form of a shift by 0"
    return ""


def unclaimed(reference: str, word: int, text: str) -> str:
    """Why the reference has a name for a word that no row of ours claims; "" when there is no reason."""
    mnemonic = text.split()[0]
    if mnemonic in ("fcmp", "fcmpe") and word & 8:
        return "Rm is not 0, as the manual's (0) says it should be (C7.2, FCMP)"
    if (mnemonic == "dup" and word & 0xBFE0FC00 == 0x0E000C00) or word & 0xFFE08400 == 0x6E000400:
        return "bits of imm5 or imm4 that the manual ignores are not 0: no text gives this word (C7.2, DUP and INS)"
    if reference == "objdump" and mnemonic.startswith(("fmlal", "fmlsl")) and word >> 22 & 1:
        return "binutils ignores sz, which the manual fixes to 0 (C7.2, FMLAL)"
    return ""

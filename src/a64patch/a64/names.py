"""Names of addresses as text: `symbol+0x18`, `file.c:symbol`, `"main.(*T).Run"+8`. The one grammar of a SITE.

Read on: ../targets/symbols.py finds the address of a site; operands.py reads the sites in instructions.

    site = [ owner, ":" ], name, [ "+", number ]      owner: a module, a section or a source file
    name = bare | quoted                              owner: the same
    bare = any characters but blanks, `:`, `+` and `"`
    quoted = `"`, characters, `"`                     `\\"` is `"`, `\\\\` is `\\`, `\\303\\251` is é (bytes of UTF-8)

A number in decimal digits, or hexadecimal with 0x, is an address where it is bare, and a name where it is quoted.

GNU as reads quoted names in this way, without the bytes; llvm-mc 19 reads those without a backslash in this way.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

QUOTED = r'"(?:[^"\\\n]|\\[^\n])*"'
"""A pattern for a name in quotes."""
LONGEST_NAME = 4096
"""The most characters of a site. The names of C++ templates and of generic Rust functions are long."""

_NUMBER = r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}"
_PART = rf'{QUOTED}|[^:+\s"]+'
_SITE = re.compile(rf"(?:(?P<owner>{_PART}):)?(?P<name>{_PART})(?:\+(?P<offset>{_NUMBER}))?", re.ASCII)
_IS_NUMBER = re.compile(_NUMBER, re.ASCII)
_PLAIN = re.compile(r"(?!\.$)[A-Za-z_.$@\x80-\U0010ffff](?:[\w.$@\x80-\U0010ffff]|-(?=[A-Za-z_.$@]))*", re.ASCII)
"""Names that need no quotes: in an instruction, `-` before a digit would be a distance, and `.` is its own address."""
_QUOTED = re.compile(QUOTED)
_ESCAPE = re.compile(r'\\(?:(["\\])|([0-7]{3}(?:\\[0-7]{3})*)|)', re.ASCII)
_BLANKS = re.compile(rf"({QUOTED})|\s+")


class Site(NamedTuple):
    """The parts of a SITE."""

    name: str
    """The symbol, or the text of a number."""
    owner: str = ""
    """The module, section or source file before the colon; empty when the site has none."""
    offset: int = 0
    """Bytes behind the symbol."""
    is_number: bool = False
    """The name is a number without quotes: an address, or with an owner the offset in a section."""


def number_of(text: str) -> int:
    """The value of a number in a site: decimal, or hexadecimal with 0x."""
    return int(text, 16 if text[:2].lower() == "0x" else 10)


def parse_site(text: str) -> Site | None:
    """The parts of a SITE; None when the text is none."""
    match = _SITE.fullmatch(text)
    if match is None:
        return None
    owner, name, offset = match.groups()
    is_number = name[0].isdigit() and _IS_NUMBER.fullmatch(name) is not None
    if '"' in text:
        try:
            owner, name = (_unquoted(part) if part and part[0] == '"' else part for part in (owner, name))
        except ValueError:
            return None
        if not name or owner == "":
            return None
    return Site(name, owner or "", number_of(offset) if offset else 0, is_number)


def site_text(name: str, owner: str = "", offset: int = 0) -> str:
    """The text of a site, in quotes where it needs them. `parse_site` reads the same parts from it.

    The parts are not empty, but for an owner that the site does not have.
    """
    text = f"{quoted(owner)}:{quoted(name)}" if owner else quoted(name)
    return f"{text}+{offset:#x}" if offset else text


@lru_cache(maxsize=1 << 12)
def quoted(name: str) -> str:
    """The name as a part of a site: bare if it is a plain name, else in quotes."""
    if _PLAIN.fullmatch(name) and name.isprintable():
        return name
    name = name.replace("\\", r"\\").replace('"', r"\"")
    if not name.isprintable():
        name = "".join(one if one.isprintable() else _bytes_of(one) for one in name)
    return f'"{name}"'


def _bytes_of(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogatepass"))


def _unquoted(text: str) -> str:
    """The name in a quoted part; ValueError for a backslash before any other character."""
    return _ESCAPE.sub(_meaning, text[1:-1]) if "\\" in text else text[1:-1]


def _meaning(match: re.Match[str]) -> str:
    if match[1]:
        return match[1]
    if not match[2]:
        raise ValueError(match[0])
    numbers = [int(number, 8) for number in match[2].split("\\")]
    return bytes(numbers).decode("utf-8", "surrogatepass")


def outside_quotes(text: str) -> str:
    """The text with each quoted name made empty: no sign inside quotes means anything."""
    return _QUOTED.sub('""', text) if '"' in text else text


def single_blanks(text: str) -> str:
    """The text with one blank for each run of blanks outside of quotes, and none at its ends."""
    return _BLANKS.sub(lambda match: match[1] or " ", text).strip() if '"' in text else " ".join(text.split())

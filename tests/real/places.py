"""Where instructions stand in code that others built, found by their text: a test about them holds for every build.

Read on: live.py for patches that are made so, test_worked_example.py for a page that is read so.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from a64patch.a64.disassembler import disassemble
from a64patch.a64.words import from_bytes
from a64patch.errors import SymbolError
from a64patch.targets.base import Target


def code_of(target: Target, function: str) -> str:
    """The instructions of a function, one a line, from its symbol to the next one or to its end."""
    start = target.symbols.resolve(function)
    symbols = target.symbols.ascending()
    size = max((symbol.size for symbol in symbols if symbol.address == start), default=0)
    if not size:
        following = bisect_right(symbols, start, key=lambda symbol: symbol.address)
        size = symbols[following].address - start
    words = from_bytes(target.read(start, size & ~3))
    return "".join(f"{disassemble(word, start + 4 * at, target.symbols)}\n" for at, word in enumerate(words))


def offset_of(code: str, at: int) -> int:
    """Bytes from the function to the instruction whose line in `code_of` begins at this character."""
    return 4 * code.count("\n", 0, at)


def page_for(page: str, function: str, target: Target) -> str:
    """A page about a patch of a function in one build, as it reads for the build in the target.

    What differs is the Build-Id, the kernel's release, the offsets in the function, the words of branches, and what
    `a64patch show` lists; everything else stays. LookupError when this build does not have the old instructions of the
    page's first hunk in a row: then the page tells those who have it too little.
    """
    hunk = re.search(
        rf"^    @@ {function}\+(0x[0-9a-f]+)(?: -\d+ \+\d+)? @@\n((?:    [-+ #].*\n)+)", page, re.MULTILINE
    )
    assert hunk is not None
    lines = re.findall(r"^    [- ]\S{8} +(.*)", hunk[2], re.MULTILINE)
    old = "".join(f"{' '.join(line.split())}\n" for line in lines)
    code = code_of(target, function)
    at = f"\n{code}".find(f"\n{old}")
    if at < 0:
        raise LookupError(f"this build of {function} does not have what the page changes:\n{old}\nbut\n{code}")
    moved = offset_of(code, at) - int(hunk[1], 16)
    texts = code.splitlines()
    identity = target.identity()
    changes = dict.fromkeys(re.findall(r"\b[0-9a-f]{40}\b", page), identity.build_id)
    if identity.release:
        changes |= dict.fromkeys(re.findall(r"\bLinux \d\S+", page), identity.release)

    def shown(line: re.Match[str]) -> str:
        offset = int(line["offset"], 16) + moved
        place, text = target.symbols[function] + offset, texts[offset // 4]
        word = f"{from_bytes(target.read(place, 4))[0]:08x}"
        if text == line["text"]:
            changes[line["word"]] = word  # a branch to the same name
        return f"    {place:#x}  {function}+{line['offset']}  {word}{line['mark']}{text}"

    listed = r"(?P<offset>0x[0-9a-f]+)  (?P<word>[0-9a-f]{8})(?P<mark> [ *]  )(?P<text>.*)"
    page = re.sub(rf"^    0x[0-9a-f]+  {function}\+{listed}", shown, page, flags=re.MULTILINE)
    page = re.sub("|".join(map(re.escape, changes)), lambda match: changes[match[0]], page)
    return re.sub(rf"\b{function}\+(0x[0-9a-f]+)", lambda match: f"{function}+{int(match[1], 16) + moved:#x}", page)


@dataclass(frozen=True)
class Rewrite:
    """What a test changes in a function, wherever a compiler has put it."""

    functions: tuple[str, ...]
    """Names of the function; the first one that the target has is taken, SymbolError when it has none."""
    old: str
    """A regular expression for `code_of`, ^ and $ at each line; its group `old` are the instructions that go."""
    new: Callable[[re.Match[str]], str]
    """The instructions that come, one a line; as many."""

    def hunk(self, target: Target) -> str:
        """A hunk of an assembly diff with unknown words, for the first place that `old` describes.

        LookupError when this build has no such instructions, with those that it has.
        """
        function = next((name for name in self.functions if _has(target, name)), self.functions[0])
        code = code_of(target, function)
        match = re.search(self.old, code, re.MULTILINE)
        if match is None:
            raise LookupError(f"{function} of this kernel does not have the instructions {self.old!r}:\n{code}")
        lines = [
            f"{sign}????????  {text}"
            for sign, texts in (("-", match["old"]), ("+", self.new(match)))
            for text in texts.splitlines()
        ]
        return "\n".join([f"@@ {function}+{offset_of(code, match.start('old')):#x} @@", *lines, ""])


def draft(target: Target, title: str, *rewrites: Rewrite) -> str:
    """A patch with unknown words of all these hunks, for this very target."""
    return "\n".join([title, "", *(rewrite.hunk(target) for rewrite in rewrites)])


def _has(target: Target, name: str) -> bool:
    try:
        target.symbols.resolve(name)
    except SymbolError:
        return False
    return True

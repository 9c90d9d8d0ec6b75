"""Hooks in the code of a running kernel: the words of ftrace at the start of functions, and the BRKs of kprobes.

A running kernel frees the table of ftrace's words, and has none of kprobes. Both are seen in the code itself.

Sources: Linux arch/arm64/kernel/ftrace.c (ftrace_init_nop, ftrace_make_call, ftrace_call_adjust);
arch/arm64/include/asm/brk-imm.h.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from a64patch.a64.fields import get_branch_offset
from a64patch.a64.generate import gen_nop
from a64patch.a64.predicates import is_bl, is_bti
from a64patch.a64.words import INSN_SIZE, as_array, from_bytes
from a64patch.kernel.rewrites import HAZARD, OF_FTRACE
from a64patch.kernel.structures import read_each
from a64patch.oneline import shown
from a64patch.ranges import Ranges
from a64patch.targets.base import Target
from a64patch.targets.modules import Claim

_SAVE_LINK = 0xAA1E03E9
"""MOV X9, X30: ftrace's first word (aarch64_insn_gen_move_reg(A64_INSN_REG_9, A64_INSN_REG_LR))."""
_BEFORE, _BEHIND = 8, 12
"""Bytes of a hook before a function (CALL_OPS, since 6.3), and from its start on: BTI and two words."""
_KPROBE = 0xD4200080
_BRKS = {
    _KPROBE: "holds the BRK of a kprobe now",
    0xD42000A0: "holds the BRK of a uprobe now",
    0xD42000C0: "holds the BRK behind a kprobe's single step now",
}
"""BRK #4, #5 and #6."""
_PIECE = 1 << 18
"""Bytes of code that are searched at a time."""


class Hook(NamedTuple):
    """ftrace's words in one function."""

    start: int
    """The address of the function."""
    at: int
    """The address of the word that is a NOP, or a BL while somebody traces the function."""
    word: int
    operations: int = 0
    """The pointer before the function (CALL_OPS); 0 without one."""

    def __repr__(self) -> str:
        return shown(self, f"{self.word:08x} at {self.at:#x}")

    @property
    def called(self) -> int | None:
        """The address that the function calls first, since it is traced; None for a NOP."""
        return self.at + get_branch_offset(self.word) if is_bl(self.word) else None

    @property
    def words(self) -> Ranges:
        """The addresses of all its words, and of the pointer."""
        spans = [(self.at - INSN_SIZE, self.at + INSN_SIZE)]
        if self.operations:
            spans.append((self.start - _BEFORE, self.start))
        return Ranges.of(spans)


def hook_in(start: int, words: Sequence[int]) -> Hook | None:
    """ftrace's words in the function at `start`; None when it has none. `words` begin 8 bytes before the function.

    A kprobe may have replaced the BTI or MOV X9, X30. A probed word before a NOP or BL counts as that MOV.
    """
    before, words = words[:2], words[2:]
    place = 1 if len(words) > 1 and (is_bti(words[0]) or (words[1] == _SAVE_LINK and words[0] == _KPROBE)) else 0
    if len(words) < place + 2 or words[place] not in (_SAVE_LINK, _KPROBE):
        return None
    word = words[place + 1]
    if word != gen_nop() and not is_bl(word):
        return None
    pointer = before[1] << 32 | before[0]
    return Hook(start, start + INSN_SIZE * (place + 1), word, pointer if pointer >> 48 == 0xFFFF else 0)


def hooks_of(target: Target, starts: Iterable[int]) -> Iterator[Hook]:
    """The hooks in the functions that begin at these addresses."""
    places = [start for start in starts if start % INSN_SIZE == 0]
    # The first function of a module may lie at the start of a page, with nothing before it.
    data = read_each(target, [part for start in places for part in ((start - _BEFORE, _BEFORE), (start, _BEHIND))])
    for start, before, words in zip(places, data[::2], data[1::2], strict=True):
        hook = hook_in(start, from_bytes((before or bytes(_BEFORE)) + (words or b"")))
        if hook is not None:
            yield hook


def listed_hooks(target: Target) -> Iterator[Hook]:
    """The hooks in a file, from the tables in it: both words are NOPs there. Not those of kernels that call _mcount."""
    tables = [claim for claim in target.modules.claims if claim.table in OF_FTRACE and not claim.of_build]
    spans = Ranges.of(span for claim in tables for span in claim.words)
    for start in starts_of(target):
        # A BTI comes first; with CALL_OPS the two words before the function are listed as well.
        first = next((at for at in (start, start + INSN_SIZE) if spans.covers(at, at + 2 * INSN_SIZE)), None)
        if first is not None:
            [word] = from_bytes(target.read(first + INSN_SIZE, INSN_SIZE))
            yield Hook(start, first + INSN_SIZE, word)


def starts_of(target: Target) -> Sequence[int]:
    """The addresses where functions begin, ascending."""
    return sorted({symbol.address for symbol in target.symbols.ascending() if symbol.is_function})


def running_hooks(target: Target) -> Iterator[Hook]:
    """The hooks in all code of a running kernel and its modules, ascending. Reads all of it."""
    import numpy

    starts = set(starts_of(target))
    for start, end in target.modules.code.whole(INSN_SIZE).pieces(_PIECE):
        words = as_array(target.read(start, end - start))
        places = numpy.flatnonzero(numpy.isin(words, (_SAVE_LINK, _KPROBE))).tolist()
        found = [at - step for at in (start + INSN_SIZE * place for place in places) for step in (0, INSN_SIZE)]
        yield from hooks_of(target, [at for at in found if at in starts])


def claims_on_hooks(target: Target, code: Ranges) -> Iterator[Claim]:
    """The claims of ftrace and of kprobes on words of a running kernel; what they say is read when somebody asks."""

    def ftrace(addresses: Sequence[int]) -> Mapping[int, str]:
        starts: dict[int, None] = {}
        for address in addresses:
            for place in (address, address + _BEFORE):
                extent = target.symbols.extent(place)
                if extent is not None and extent[0] - _BEFORE <= address < extent[0] + _BEHIND:
                    starts[extent[0]] = None
        found = {}
        hooks = [(hook, hook.words) for hook in hooks_of(target, starts)]
        for address in addresses:
            for hook, words in hooks:
                if address in words:
                    found[address] = _sentence(target, hook)
        return found

    def probes(addresses: Sequence[int]) -> Mapping[int, str]:
        words = from_bytes(b"".join(target.read_many([(address, INSN_SIZE) for address in addresses])))
        return {at: _BRKS[word] for at, word in zip(addresses, words, strict=True) if word in _BRKS}

    yield Claim(HAZARD, code, "belongs to ftrace", tell=ftrace)
    yield Claim(HAZARD, code, "holds the BRK of a probe", tell=probes)


def _sentence(target: Target, hook: Hook) -> str:
    if hook.called is None:
        return "belongs to ftrace: the kernel makes it a call when somebody traces the function; off now"
    return f"belongs to ftrace, which is tracing this function now: it calls {target.symbols.describe(hook.called)}"

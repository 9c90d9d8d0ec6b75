"""The addresses that a function's instructions form: the places of variables that no symbol names.

A kernel without CONFIG_KALLSYMS_ALL names its functions only. A function that uses a variable forms its address by
ADRP and ADD, by ADR, or by a load or store with a distance (Arm ARM, C6.2). With section anchors (gcc), the first
address is that of another variable nearby. Whoever uses such an address checks what is there.
Read on: loaded.py and tasks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import SymbolError, TargetError
from a64patch.targets.base import Target
from a64patch.targets.symbols import SymbolTable

if TYPE_CHECKING:
    from a64patch.a64.row import Encoding

_LARGEST_FUNCTION = 1 << 16
"""Bytes. Of a larger function only the beginning is read."""
_LARGEST_TABLE = 1 << 21
"""Bytes. That of jump labels, the largest, has 190 KiB in Linux 6.12."""
_MOST_PAIRS = 256
_PROBE = 4 * 48
"""Bytes: entries of 8, 12, 16 or 24 bytes fill them."""
_XZR = 31
_CALLERS = {f"x{number}" for number in range(19)} | {"x30"}
"""The registers that a called function may change (AAPCS64, 6.1.1)."""


def formed_by(target: Target, function: str, symbols: SymbolTable | None = None) -> list[int]:
    """The addresses that the words of this function form, each once, in their order.

    `symbols` are the target's own unless given. SymbolError when they do not name the function once, or do not tell its
    end; the errors of reading.
    The words are followed in their order, not along branches: so an address may be one that no way through forms.
    """
    symbols = target.symbols if symbols is None else symbols
    symbol = symbols.find(function)
    extent = symbols.extent(symbol.address)
    if extent is None:
        raise SymbolError(f"the end of {function} is not known, so its instructions cannot be read")
    start, end = symbol.address, min(extent[1], symbol.address + _LARGEST_FUNCTION)
    return formed(from_bytes(target.read(start, (end - start) & -INSN_SIZE)), start)


def bounds(
    read: Callable[[int, int], bytes],
    symbols: SymbolTable,
    names: tuple[str, str],
    function: str,
    fits: Callable[[bytes, int], bool],
    pointer_at: Callable[[int], int | None] | None = None,
) -> tuple[int, int]:
    """Where a linked kernel has a table: [start, end). Symbols with these names say it, or the code of `function`.

    The function forms both addresses, or the address of two pointers to them; `pointer_at` gives the pointer at an
    address. Of all such pairs of addresses, the widest counts with bytes that fit.
    `fits` takes the bytes and their address; it is also asked about some whole entries at either end. SymbolError when
    neither symbols nor code say it.
    """
    with suppress(SymbolError):
        start, end = (symbols.find(name).address for name in names)
        return start, end
    symbol = symbols.find(function)
    if not 0 < symbol.size <= _LARGEST_FUNCTION:
        raise SymbolError(f"the end of {function} is not known, so the table that it uses is not found")
    places = sorted(formed(from_bytes(read(symbol.address, symbol.size & -INSN_SIZE)), symbol.address))
    pairs = [(start, end) for start in places for end in places]
    if pointer_at is not None:
        pairs += [(pointer_at(place) or 0, pointer_at(place + 8) or 0) for place in places]
    pairs = [(start, end) for start, end in pairs if 0 < end - start <= _LARGEST_TABLE]
    for start, end in sorted(pairs, key=lambda pair: pair[0] - pair[1])[:_MOST_PAIRS]:
        with suppress(TargetError):
            # Both ends first: most pairs are of unlike places, with megabytes between.
            size = min(_PROBE, end - start)
            ends = ((start, size), (end - size, size), (start, end - start))
            if all(fits(read(place, length), place) for place, length in ends):
                return start, end
    raise SymbolError(f"neither {names[0]} nor the code of {function} says where the table is")


def formed(words: Sequence[int], start: int) -> list[int]:
    """The addresses that these words form; the first word is at `start` (bytes)."""
    # Commands on files come here too, and most files are no kernel: these tables load for code that is read.
    from a64patch.a64.effects import effects_of
    from a64patch.a64.predicates import decode
    from a64patch.a64.references import ADDRESS_SPACE
    from a64patch.a64.row import Flow

    known: dict[str, int] = {}
    found: dict[int, None] = {}
    for place, word in enumerate(words):
        row, does = decode(word), effects_of(word)
        if row is None or does is None:
            known.clear()
            continue
        results = _results(row, word, start + INSN_SIZE * place, known)
        if results.formed is not None:
            found[results.formed % ADDRESS_SPACE] = None
        for register in does.writes | (_CALLERS if row.flow is Flow.CALL else set()):
            known.pop(register, None)
        if results.register and results.value is not None:
            known[results.register] = results.value % ADDRESS_SPACE
    return list(found)


class _Results(NamedTuple):
    """What one word makes of known registers."""

    formed: int | None = None
    """An address that it completes or accesses."""
    register: str = ""
    value: int | None = None
    """The new value of `register`, when it is known."""


def _results(row: Encoding, word: int, address: int, known: Mapping[str, int]) -> _Results:
    from a64patch.a64.effects import effects_of
    from a64patch.a64.references import ReferenceKind, reference

    f = {name: part.get(word) for name, part in row.fields.items()}
    name, _, mode = row.name.partition(".")[0].partition("_")
    refers = reference(row)
    if refers is not None and refers.kind is ReferenceKind.ADDRESS:
        target = refers.target(word, address)
        return _Results(target if name == "adr" else None, f"x{f['rd']}", target)
    if row.name.startswith("orr.") and f.get("rn") == _XZR and not f.get("imm6"):
        return _Results(None, f"x{f['rd']}", known.get(f"x{f['rm']}"))
    base = known.get(f"x{f['rn']}") if "rn" in f else None
    if base is None:
        return _Results()
    if row.name in ("add_imm", "sub_imm"):
        distance = f["imm12"] << 12 * f["sh"]
        value = base + distance if name == "add" else base - distance
        return _Results(value, f"x{f['rd']}", value)
    does = effects_of(word)
    if does is None or does.memory is None or not does.memory.size:
        return _Results()
    if "imm12" in f:
        return _Results(base + f["imm12"] * does.memory.size)
    if "simm9" in f:
        distance = (f["simm9"] ^ 0x100) - 0x100
    elif "imm7" in f:
        distance = ((f["imm7"] ^ 0x40) - 0x40) * (does.memory.size // 2)
    else:
        return _Results(base)
    moves = mode in ("pre", "post")
    accessed = base if mode == "post" else base + distance
    return _Results(accessed, f"x{f['rn']}" if moves else "", base + distance if moves else None)

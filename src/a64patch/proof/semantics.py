"""The meaning of one instruction word, as far as the proofs need it: a word in, an `Operation` out.

Read on: traces.py executes operations. A word that this file does not know is refused by name, never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from a64patch.a64.fields import get_branch_offset
from a64patch.a64.integer_operands import decode_bitmask
from a64patch.a64.predicates import decode
from a64patch.a64.row import Encoding, Flow
from a64patch.errors import ScopeError

MASK32 = 0xFFFFFFFF
MASK64 = 0xFFFFFFFFFFFFFFFF

SP = 34
"""The number of the stack pointer in operations, where 31 is the zero register."""

_CTR_EL0 = (3, 3, 0, 0, 1)
_ELR_EL1 = (3, 0, 4, 0, 1)
_ICC_SGI1R_EL1 = (3, 0, 12, 11, 5)
_HINTS = frozenset({"nop", "yield", "wfe", "wfi", "sev", "sevl", "csdb", "bti", "hint"})
_LOAD_STORE = {"str": (False, ""), "ldr": (True, ""), "ldur": (True, ""), "stur": (False, ""), "ldar": (True, "A"),
               "ldapr": (True, "Q"), "stlr": (False, "L"), "ldxr": (True, ""), "ldaxr": (True, "A"),
               "stxr": (False, ""), "stlxr": (False, "L"), "ldapur": (True, "Q"), "stlur": (False, "L")}  # fmt: skip
_PAIRS = {"ldp": (True, ""), "stp": (False, ""), "ldpsw": (True, ""), "ldiapp": (True, "Q"), "stilp": (False, "L")}
_NARROW = {"b": 1, "h": 2, "sb": 1, "sh": 2, "sw": 4}
"""Bytes of an access by the end of its name; those with an `s` extend the sign."""
_ATOMICS: dict[str, Callable[[int, int, int], int]] = {
    "ldadd": lambda old, operand, bits: old + operand,
    "ldset": lambda old, operand, bits: old | operand,
    "ldclr": lambda old, operand, bits: old & ~operand,
    "ldeor": lambda old, operand, bits: old ^ operand,
    "ldumax": lambda old, operand, bits: max(old, operand),
    "ldumin": lambda old, operand, bits: min(old, operand),
    "ldsmax": lambda old, operand, bits: max(signed(old, bits), signed(operand, bits)),
    "ldsmin": lambda old, operand, bits: min(signed(old, bits), signed(operand, bits)),
    "swp": lambda old, operand, bits: operand,
    "cas": lambda old, operand, bits: operand,
    "casp": lambda old, operand, bits: operand,
}


@dataclass(frozen=True, slots=True)
class Operation:
    """The effect of an instruction. `kind` tells which of the other fields are used.

    alu     `target` := `compute(values of sources)`; with `flags`, NZCV too
    select  `target` := `sources[0]` if `condition`, else `compute` of `sources[1]`
    load, store, atomic    `size` bytes of `data` at `base` + `offset` (or extended `index`), ordered `A`, `Q` or `L`;
            without `base` at PC + `offset`;
            with `second`, one more access of `size` bytes of this register behind the first
    cas     as atomic, but only if the memory holds `target`; with `pair`, of registers `target` and `target` + 1
    jump    to PC + `offset`; `condition`, `test` or nothing decides; `link` writes X30
    indirect  to the value of `base`
    barrier   `name` is dmb or dsb, `order` is sy, ld or st
    dc, ic  on the line at `base`; an ic without `base` is on every line
    isb, eret, sgi, nop, exception (`name`), clrex, mrs, msr, mask
    """

    kind: str
    name: str = ""
    target: int = 31
    sources: tuple[int, ...] = ()
    compute: Callable[..., int] | None = None
    flags: Callable[..., tuple[int, int]] | None = None
    """Returns the result, and NZCV as four bits."""
    condition: int = -1
    data: int = 31
    base: int = -1
    index: int = -1
    offset: int = 0
    extend: Callable[[int], int] | None = None
    writeback: int = 0
    """Bytes added to the base register after the access."""
    size: int = 8
    """The bytes of one single-copy atomic access."""
    second: int = -1
    pair: bool = False
    extends: int = 0
    """The bits to which a load extends the sign; 0 for a load that extends with zeros."""
    order: str = ""
    write_order: str = ""
    exclusive: bool = False
    status: int = 31
    link: bool = False
    test: Callable[[int], bool] | None = None


def signed(value: int, bits: int) -> int:
    """The low bits as a two's complement number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def holds(condition: int, nzcv: int) -> bool:
    """Whether a condition code holds for four flag bits (Arm ARM C1.2.4)."""
    n, z, c, v = nzcv >> 3 & 1, nzcv >> 2 & 1, nzcv >> 1 & 1, nzcv & 1
    result = (z, c, n, v, c & ~z & 1, n == v, n == v and not z, True)[condition >> 1]
    return bool(result) != bool(condition & 1 and condition != 15)


@lru_cache(maxsize=4096)
def operation(word: int) -> Operation:
    """The operation of a word. ScopeError names an instruction that is not modelled."""
    row = decode(word)
    if row is None:
        raise ScopeError(f"the word {word:08x} is no instruction of the table: faults are not in this model")
    f = {name: part.get(word) for name, part in row.fields.items()}
    stem, _, form = row.name.partition(".")
    found = _branches(stem, f, word) or _system(row, stem, form, f) or _memory(row, stem, form, f, word)
    found = found or _arithmetic(row, stem, form, f)
    if found is None:
        raise ScopeError(f"the instruction {row.name!r} ({word:08x}) is not in this model")
    return found


@lru_cache(maxsize=4096)
def flow(word: int) -> Operation:
    """The word's effect on the PC, and no other: nop, jump, either (falls through or jumps), or anywhere.

    Calls, SVC, HVC and SMC go on with the next word. What is not known may go anywhere: indirect branches, words
    outside the table, and exceptions whose handler decides where to go on (BRK, HLT, UDF). Never raises.
    """
    row = decode(word)
    if row is None:
        return Operation("anywhere")
    if row.flow is Flow.BRANCH and (row.conditional or row.name == "b"):
        return Operation("either" if row.conditional else "jump", offset=get_branch_offset(word))
    if row.flow in (Flow.NEXT, Flow.CALL) or row.name in ("svc", "hvc", "smc"):
        return Operation("nop")
    return Operation("anywhere")


def _branches(stem: str, f: dict[str, int], word: int) -> Operation | None:
    if stem in ("b", "bl"):
        return Operation("jump", offset=signed(f["imm26"], 26) * 4, link=stem == "bl")
    if stem in ("bcond", "bccond"):
        return Operation("jump", offset=signed(f["imm19"], 19) * 4, condition=f["cond"])
    if stem in ("cbz", "cbnz"):
        mask = MASK64 if f["sf"] else MASK32
        wants_zero = stem == "cbz"
        return Operation(
            "jump", offset=signed(f["imm19"], 19) * 4, data=f["rt"], test=lambda v: (v & mask == 0) == wants_zero
        )
    if stem in ("tbz", "tbnz"):
        bit = f["b5"] << 5 | f["b40"]
        wants = int(stem == "tbnz")
        return Operation("jump", offset=signed(f["imm14"], 14) * 4, data=f["rt"], test=lambda v: v >> bit & 1 == wants)
    if stem in ("br", "blr", "ret"):
        return Operation("indirect", base=f["rn"], link=stem == "blr")
    if stem in ("svc", "brk", "udf"):
        return Operation("exception", name=stem)
    if stem == "eret":
        return Operation("eret")
    return None


def _system(row: Encoding, stem: str, form: str, f: dict[str, int]) -> Operation | None:
    if stem in ("dmb", "dsb") and not form:
        # Shareability is not modelled: NSH orders nothing for other CPUs, and all other domains count as one.
        kind = f["crm"] & 3
        shareable = f["crm"] >> 2 != 1
        if not shareable:
            return Operation("nop")
        if kind == 0:
            return None
        return Operation("barrier", name=stem, order=("", "ld", "st", "sy")[kind])
    if stem == "isb":
        return Operation("isb")
    if stem == "clrex":
        return Operation("clrex")
    if row.name == "dc.cvau":
        return Operation("dc", base=f["rt"])
    if row.name in ("dc.cvac", "dc.civac"):
        # They clean at least as far as CVAU (Arm ARM, data cache maintenance by address). The models order nothing by
        # them, so that more is allowed.
        return Operation("nop")
    if row.name == "ic.ivau":
        return Operation("ic", base=f["rt"])
    if row.name == "ic.ialluis":
        return Operation("ic")
    if stem.partition("_")[0] in _HINTS:
        return Operation("nop")
    if stem in ("mrs", "msr_reg"):
        register = (f["o0"] + 2, f["op1"], f["crn"], f["crm"], f["op2"])
        if stem == "mrs" and register == _CTR_EL0:
            return Operation("mrs", name="ctr", target=f["rt"])
        if stem == "mrs" and register == _ELR_EL1:
            return Operation("mrs", name="elr", target=f["rt"])
        if stem == "msr_reg" and register == _ELR_EL1:
            return Operation("msr", name="elr", data=f["rt"])
        if stem == "msr_reg" and register == _ICC_SGI1R_EL1:
            return Operation("sgi", data=f["rt"])
        return None
    if row.name.lower() in ("msr_imm.daifset", "msr_imm.daifclr"):
        return Operation("mask", name=form.lower(), offset=f["crm"])
    return None


def _memory(row: Encoding, stem: str, form: str, f: dict[str, int], word: int) -> Operation | None:
    plain, _, mode = stem.partition("_")
    if mode == "lit" and (form or plain == "ldrsw"):
        size, extends = (4, 64) if plain == "ldrsw" else (8 if form == "x" else 4, 0)
        return Operation("load", data=f["rt"], offset=signed(f["imm19"], 19) * 4, size=size, extends=extends)
    if mode not in ("", "imm", "reg", "post", "pre"):
        return None
    register = {"w": 4, "x": 8}.get(form, 0)
    found = _pair(plain, mode, register, f) or _single(plain, mode, register, f) or _atomic(plain, register, f)
    if found and found.writeback and found.base in (found.data, found.second):
        return None  # CONSTRAINED UNPREDICTABLE.
    return found


def _single(plain: str, mode: str, register: int, f: dict[str, int]) -> Operation | None:
    """A load or store of one register, exclusive or not."""
    name = next((name for name in _LOAD_STORE if plain.startswith(name) and plain[len(name) :] in ("", *_NARROW)), "")
    narrow = plain[len(name) :]
    size = _NARROW.get(narrow, register)
    if not name or not size:
        return None
    loads, order = _LOAD_STORE[name]
    here = Operation("load" if loads else "store", size=size, order=order, data=f["rt"], base=_stack(f["rn"]),
                     extends=8 * register if narrow.startswith("s") else 0)  # fmt: skip
    if mode == "reg":
        signs, wide, shift = bool(f["sign"]), bool(f["wide"]), f["s"] * (size.bit_length() - 1)
        return replace(here, index=f["rm"], extend=lambda v: _extend(v, wide, signs) << shift)
    offset = f.get("imm12", 0) * size + signed(f.get("simm9", 0), 9)
    return replace(
        here,
        offset=0 if mode == "post" else offset,
        writeback=offset if mode in ("post", "pre") else 0,
        exclusive=name.endswith("xr"),
        status=f.get("rs", 31),
    )


def _pair(plain: str, mode: str, register: int, f: dict[str, int]) -> Operation | None:
    """Two registers: two accesses, each single-copy atomic for itself (Arm ARM B2.2.1, without FEAT_LSE2)."""
    if plain not in _PAIRS or not register or (f["rt"] == f["rt2"] and _PAIRS[plain][0]):
        return None
    loads, order = _PAIRS[plain]
    size = 4 if plain == "ldpsw" else register
    offset = signed(f["imm7"], 7) * size if "imm7" in f else {"post": 2, "pre": -2}.get(mode, 0) * size
    return Operation("load" if loads else "store", size=size, order=order, data=f["rt"], second=f["rt2"],
                     base=_stack(f["rn"]), offset=0 if mode == "post" else offset,
                     writeback=offset if mode in ("post", "pre") else 0,
                     extends=64 if plain == "ldpsw" else 0)  # fmt: skip


def _atomic(plain: str, register: int, f: dict[str, int]) -> Operation | None:
    """A load and a store in one. An acquire counts only if the loaded value goes to a register (Arm ARM C3.2)."""
    size = register or _NARROW.get(plain[-1], 0)
    if not size:
        return None
    stem, suffix = _atomic_name(plain if register else plain[:-1])
    if not stem:
        return None
    swaps = stem in ("cas", "casp")
    source, target = (f["rt"], f["rs"]) if swaps else (f["rs"], f["rt"])
    if stem == "casp":
        size, source, target = 2 * size, 2 * source, 2 * target  # The fields count pairs of registers.
    rule, bits = _ATOMICS[stem], 8 * size
    mask = (1 << bits) - 1
    return Operation("cas" if swaps else "atomic", name=stem, size=size, data=source, base=_stack(f["rn"]),
                     target=target, pair=stem == "casp",
                     compute=lambda old, operand: rule(old, operand & mask, bits) & mask,
                     order="A" if "a" in suffix and target != 31 else "",
                     write_order="L" if "l" in suffix else "")  # fmt: skip


def _atomic_name(name: str) -> tuple[str, str]:
    for stem in _ATOMICS:
        if name.startswith(stem) and name[len(stem) :] in ("", "a", "l", "al"):
            return stem, name[len(stem) :]
    return "", ""


def _extend(value: int, wide: bool, signs: bool) -> int:
    if wide:
        return value
    return signed(value, 32) if signs else value & MASK32


def _shifted(value: int, kind: int, amount: int, bits: int) -> int:
    value &= (1 << bits) - 1
    if kind == 0:
        return value << amount & ((1 << bits) - 1)
    if kind == 1:
        return value >> amount
    if kind == 2:
        return (signed(value, bits) >> amount) & ((1 << bits) - 1)
    return (value >> amount | value << (bits - amount)) & ((1 << bits) - 1)


_LOGIC: dict[str, Callable[[int, int], int]] = {
    "and": lambda a, b: a & b,
    "ands": lambda a, b: a & b,
    "bic": lambda a, b: a & ~b,
    "bics": lambda a, b: a & ~b,
    "orr": lambda a, b: a | b,
    "orn": lambda a, b: a | ~b,
    "eor": lambda a, b: a ^ b,
    "eon": lambda a, b: a ^ ~b,
}


_BITFIELDS = {"ubfm": (False, -1), "lsr_imm": (False, -1), "lsl_imm": (False, -1), "uxtb": (False, 7),
              "uxth": (False, 15), "sbfm": (True, -1), "asr_imm": (True, -1), "sxtb": (True, 7), "sxth": (True, 15),
              "sxtw": (True, 31)}  # fmt: skip
"""Whether the sign is extended, and the field's last bit if the name says it."""
_SHIFTS = ("lslv", "lsrv", "asrv", "rorv")


def _add(a: int, b: int, carry: int, bits: int) -> tuple[int, int]:
    mask = (1 << bits) - 1
    a, b = a & mask, b & mask
    total = a + b + carry
    result = total & mask
    overflow = signed(a, bits) + signed(b, bits) + carry != signed(result, bits)
    return result, _nz(result, bits) | (total >> bits) << 1 | int(overflow)


def _nz(result: int, bits: int) -> int:
    return (result >> (bits - 1) & 1) << 3 | int(result == 0) << 2


def _arithmetic(row: Encoding, stem: str, form: str, f: dict[str, int]) -> Operation | None:
    plain, _, mode = stem.partition("_")
    bits = 64 if form == "x" or f.get("sf") else 32
    mask = (1 << bits) - 1
    if plain in ("movz", "movn", "movk"):
        shift = f.get("hw", 0) * 16
        immediate = f["imm16"] << shift
        if plain == "movk":
            hole = mask ^ 0xFFFF << shift
            return Operation("alu", target=f["rd"], sources=(f["rd"],), compute=lambda a: a & hole | immediate)
        constant = immediate if plain == "movz" else ~immediate & mask
        return Operation("alu", target=f["rd"], compute=lambda: constant)
    if plain in ("adr", "adrp"):
        distance = signed(f["immhi"] << 2 | f["immlo"], 21)
        return Operation("adr", name=plain, target=f["rd"], offset=distance)
    if plain in ("add", "adds", "sub", "subs") and mode in ("", "imm", "ext"):
        subtract, sets = plain.startswith("sub"), plain.endswith("s")
        flip = mask if subtract else 0
        if mode == "imm":
            constant = f["imm12"] << (12 * f["sh"])
            flags = lambda a: _add(a, constant ^ flip, int(subtract), bits)  # noqa: E731
            # Register 31 is SP here. As the target of an instruction that sets flags, it is the zero register.
            return Operation(
                "alu",
                target=f["rd"] if sets else _stack(f["rd"]),
                sources=(_stack(f["rn"]),),
                flags=flags,
                name="s" if sets else "",
            )
        if mode == "ext":
            width, signs, left = 8 << (f["option"] & 3), f["option"] & 4, f["imm3"]
            flags5 = lambda a, b: _add(  # noqa: E731
                a, (signed(b, width) if signs else b & ((1 << width) - 1)) << left & mask ^ flip, int(subtract), bits
            )
            return Operation("alu", target=f["rd"] if sets else _stack(f["rd"]), sources=(_stack(f["rn"]), f["rm"]),
                             flags=flags5, name="s" if sets else "")  # fmt: skip
        kind, amount = f["shift"], f["imm6"]
        flags2 = lambda a, b: _add(a, _shifted(b, kind, amount, bits) ^ flip, int(subtract), bits)  # noqa: E731
        return Operation("alu", target=f["rd"], sources=(f["rn"], f["rm"]), flags=flags2, name="s" if sets else "")
    if plain in _LOGIC and mode in ("", "imm"):
        logic, sets = _LOGIC[plain], plain in ("ands", "bics")
        if mode == "imm":
            value = decode_bitmask(f.get("n", 0), f["immr"], f["imms"], bits)
            if value is None:
                return None
            wanted = value
            flags3 = lambda a: _logical(logic(a, wanted), bits)  # noqa: E731
            target = f["rd"] if sets else _stack(f["rd"])
            return Operation("alu", target=target, sources=(f["rn"],), flags=flags3, name="s" if sets else "")
        kind, amount = f["shift"], f["imm6"]
        flags4 = lambda a, b: _logical(logic(a, _shifted(b, kind, amount, bits)), bits)  # noqa: E731
        return Operation("alu", target=f["rd"], sources=(f["rn"], f["rm"]), flags=flags4, name="s" if sets else "")
    if stem in ("csel", "csinc", "csinv", "csneg") and "cond" in f:
        others: dict[str, Callable[[int], int]] = {
            "csel": lambda b: b, "csinc": lambda b: b + 1, "csinv": lambda b: ~b, "csneg": lambda b: -b,
        }  # fmt: skip
        other = others[stem]
        return Operation("select", target=f["rd"], sources=(f["rn"], f["rm"]), condition=f["cond"], offset=bits,
                         compute=lambda b: other(b) & mask)  # fmt: skip
    if stem in _BITFIELDS:
        signs, top = _BITFIELDS[stem]
        right = f.get("immr", 0)
        top = f.get("imms", bits - 1) if top < 0 else top
        return Operation("alu", target=f["rd"], sources=(f["rn"],),
                         compute=lambda a: _bitfield(a & mask, right, top, bits, signs))  # fmt: skip
    if stem in ("madd", "msub"):
        sign = -1 if stem == "msub" else 1
        return Operation("alu", target=f["rd"], sources=(f["rn"], f["rm"], f["ra"]),
                         compute=lambda a, b, c: (c + sign * a * b) & mask)  # fmt: skip
    if stem in _SHIFTS:
        kind = _SHIFTS.index(stem)
        return Operation("alu", target=f["rd"], sources=(f["rn"], f["rm"]),
                         compute=lambda a, b: _shifted(a, kind, b % bits, bits) & mask)  # fmt: skip
    if stem == "rbit":
        return Operation("alu", target=f["rd"], sources=(f["rn"],),
                         compute=lambda a: int(f"{a & mask:0{bits}b}"[::-1], 2))  # fmt: skip
    return None


def _bitfield(value: int, right: int, top: int, bits: int, signs: bool) -> int:
    """UBFM and SBFM: bits `right` to `top` moved down; or, with `top` below `right`, bits 0 to `top` moved up."""
    width = top - right + 1 if top >= right else top + 1
    field = value >> (right if top >= right else 0) & ((1 << width) - 1)
    field = signed(field, width) if signs else field
    return (field if top >= right else field << (bits - right)) & ((1 << bits) - 1)


def _logical(value: int, bits: int) -> tuple[int, int]:
    value &= (1 << bits) - 1
    return value, _nz(value, bits)


def _stack(register: int) -> int:
    return SP if register == 31 else register

"""Functions that make the words needed for patching: gen_branch_imm, gen_nop and others.

Read on: assembler.py makes any word of the table from text.

Every generator returns a word or raises EncodingError. The kernel's generators return BRK #0x100 for a failure.
Addresses are bytes. Registers are numbers: 0 to 30, and 31 for the zero register.
"""

from __future__ import annotations

from typing import Literal

from a64patch.a64.encodings import row_named
from a64patch.a64.fields import ImmediateKind, adrp_set_offset, encode_immediate, encode_offset
from a64patch.a64.operands import BARRIER_OPTIONS, CONDITIONS
from a64patch.a64.row import PAGE_SIZE
from a64patch.errors import AlignmentError, EncodingError

_ADDRESS_SPACE = 1 << 64


def _word(name: str, **fields: int) -> int:
    """The word of this row with these fields. Each value is checked against its field's width; other fields are 0."""
    row = row_named(name)
    word = row.value
    for field, value in fields.items():
        place = row.fields[field]
        if not 0 <= value < 1 << place.width:
            raise EncodingError(f"{name}: {field} is {value}, must be from 0 to {(1 << place.width) - 1}")
        word |= value << place.lsb
    return word


def _register(number: int, what: str = "register") -> int:
    if not 0 <= number <= 31:
        raise EncodingError(f"{what} is {number}, must be from 0 to 31")
    return number


def _distance(pc: int, target: int, alignment: int = 4) -> int:
    """Bytes from an instruction at `pc` to `target`. AlignmentError or EncodingError for an impossible address."""
    for what, address, multiple in (("pc", pc, 4), ("target", target, alignment)):
        if not 0 <= address < _ADDRESS_SPACE:
            raise EncodingError(f"{what} {address:#x} is not an address of 64 bits")
        if address % multiple:
            raise UnalignedError(f"{what} {address:#x} is not a multiple of {multiple}")
    return target - pc


class UnalignedError(AlignmentError, EncodingError):
    """An address that an instruction cannot name because it is not a multiple of 4 bytes."""


def gen_branch_imm(pc: int, target: int, link: bool = False) -> int:
    """B, or BL with `link`, at `pc` to `target`: -128 MiB to +128 MiB - 4 (C6.2, B and BL; 3eefdf9d1e40)."""
    row = row_named("bl" if link else "b")
    return encode_offset(row, row.value, _distance(pc, target))


def gen_cond_branch_imm(pc: int, target: int, condition: str | int) -> int:
    """B.cond at `pc` to `target`: -1 MiB to +1 MiB - 4 (C6.2, B.cond; 48d83d94930e).

    The condition is a name (`eq`, `hs`, …) or its number, 0 to 14. NV (15), which executes as AL, is refused.
    """
    row = row_named("bcond")
    number = CONDITIONS.get(condition.lower(), -1) if isinstance(condition, str) else condition
    if not 0 <= number <= 14:
        raise EncodingError(f"condition is {condition!r}, must be eq to al or a number from 0 to 14")
    return encode_offset(row, _word("bcond", cond=number), _distance(pc, target))


def gen_comp_branch_imm(pc: int, target: int, register: int, nonzero: bool = False, is_64bit: bool = True) -> int:
    """CBZ, or CBNZ with `nonzero`, of Xt or Wt: -1 MiB to +1 MiB - 4 (C6.2, CBZ and CBNZ)."""
    row = row_named("cbnz" if nonzero else "cbz")
    word = _word(row.name, sf=int(is_64bit), rt=_register(register))
    return encode_offset(row, word, _distance(pc, target))


def gen_test_branch_imm(pc: int, target: int, register: int, bit: int, nonzero: bool = False) -> int:
    """TBZ, or TBNZ with `nonzero`, of bit 0 to 63 of Xt: -32 KiB to +32 KiB - 4 (C6.2, TBZ and TBNZ)."""
    if not 0 <= bit <= 63:
        raise EncodingError(f"bit is {bit}, must be from 0 to 63")
    row = row_named("tbnz" if nonzero else "tbz")
    word = _word(row.name, b5=bit >> 5, b40=bit & 31, rt=_register(register))
    return encode_offset(row, word, _distance(pc, target))


def gen_branch_reg(register: int, kind: Literal["br", "blr", "ret"] = "br") -> int:
    """BR, BLR or RET by Xn (C6.2). Register 31 is the zero register here, as in the encoding."""
    if kind not in ("br", "blr", "ret"):
        raise EncodingError(f"kind of branch is {kind!r}, must be br, blr or ret")
    return _word(kind, rn=_register(register))


def gen_hint(number: int) -> int:
    """HINT #number, 0 to 127 (C6.2, HINT; names are in encodings.HINTS). 0 is NOP."""
    if not 0 <= number <= 127:
        raise EncodingError(f"hint is {number}, must be from 0 to 127")
    return _word("hint", crm=number >> 3, op2=number & 7)


def gen_nop() -> int:
    """NOP: 0xd503201f (C6.2, NOP)."""
    return row_named("nop").value


def gen_exception(kind: Literal["svc", "hvc", "smc", "brk", "hlt", "udf"], immediate: int = 0) -> int:
    """SVC, HVC, SMC, BRK, HLT or UDF with an immediate from 0 to 0xffff (C4.1, Exception generation; Reserved)."""
    if kind not in ("svc", "hvc", "smc", "brk", "hlt", "udf"):
        raise EncodingError(f"kind of exception is {kind!r}, must be svc, hvc, smc, brk, hlt or udf")
    return _word(kind, imm16=immediate)


def gen_adr(pc: int, target: int, register: int, page: bool = False) -> int:
    """ADR at `pc` for the address `target` (-1 MiB to +1 MiB - 1), or with `page` ADRP for its page.

    ADRP reaches the pages from -4 GiB to +4 GiB - 4096 around its own page (C6.2, ADR and ADRP). It forms the address
    of the page only, so the low 12 bits of `target` have no effect. An ADRP at page offset 0xff8 or 0xffc is subject to
    Cortex-A53 erratum 843419; this is not checked here.
    """
    _distance(pc, target, alignment=1)
    if page:
        return adrp_set_offset(
            _word("adrp", rd=_register(register)), target // PAGE_SIZE * PAGE_SIZE - pc // PAGE_SIZE * PAGE_SIZE
        )
    try:
        return encode_immediate(ImmediateKind.ADR, _word("adr", rd=_register(register)), target - pc)
    except EncodingError:
        raise EncodingError(f"an adr cannot reach {target - pc:+d} bytes: it reaches -1 MiB to +1 MiB - 1") from None


def gen_load_literal(pc: int, address: int, register: int, kind: Literal["w", "x", "sw", "s", "d", "q"] = "x") -> int:
    """A load at `pc` of the literal at `address`: -1 MiB to +1 MiB - 4 (C6.2, LDR (literal), LDRSW; C7.2 for S, D, Q).

    `kind` is the kind of register: `w` and `x` general, `sw` a sign-extended word, `s`, `d` and `q` SIMD and FP.
    The address must be a multiple of 4 bytes, since the encoding has no other addresses.
    """
    names = {"w": "ldr_lit.w", "x": "ldr_lit.x", "sw": "ldrsw_lit"}
    names |= {letter: f"ldr_fp_lit.{letter}" for letter in "sdq"}
    if kind not in names:
        raise EncodingError(f"kind of register is {kind!r}, must be w, x, sw, s, d or q")
    row = row_named(names[kind])
    return encode_offset(row, _word(row.name, rt=_register(register)), _distance(pc, address))


def gen_movewide(
    register: int,
    immediate: int,
    shift: int = 0,
    variant: Literal["movz", "movn", "movk"] = "movz",
    is_64bit: bool = True,
) -> int:
    """MOVZ, MOVN or MOVK of 16 bits shifted left by 0, 16, and with 64 bits also 32 or 48 (C6.2)."""
    if variant not in ("movz", "movn", "movk"):
        raise EncodingError(f"variant is {variant!r}, must be movz, movn or movk")
    if shift not in ((0, 16, 32, 48) if is_64bit else (0, 16)):
        raise EncodingError(f"shift is {shift}, must be 0 or 16, or with 64 bits also 32 or 48")
    name = f"{variant}.{'x' if is_64bit else 'w'}"
    return _word(name, hw=shift // 16, imm16=immediate, rd=_register(register))


def gen_add_sub_imm(
    destination: int,
    source: int,
    immediate: int,
    variant: Literal["add", "sub", "adds", "subs"] = "add",
    is_64bit: bool = True,
) -> int:
    """ADD, SUB, ADDS or SUBS of an immediate: 0 to 4095, or a multiple of 4096 up to 4095 * 4096 (C6.2).

    Register 31 is the stack pointer here, but as the destination of ADDS and SUBS it is the zero register.
    """
    if variant not in ("add", "sub", "adds", "subs"):
        raise EncodingError(f"variant is {variant!r}, must be add, sub, adds or subs")
    shifted = immediate > 0xFFF and immediate % 0x1000 == 0
    imm12 = immediate // 0x1000 if shifted else immediate
    if not 0 <= imm12 <= 0xFFF:
        raise EncodingError(f"immediate is {immediate}, must be from 0 to 4095, or a multiple of 4096 up to {0xFFF000}")
    return _word(
        f"{variant}_imm",
        sf=int(is_64bit),
        sh=int(shifted),
        imm12=imm12,
        rn=_register(source),
        rd=_register(destination),
    )


def gen_barrier(kind: Literal["dmb", "dsb", "isb", "sb", "clrex"], option: str = "sy") -> int:
    """DMB or DSB with a named option (`sy`, `ish`, `ishst`, …), ISB, SB, CLREX (C6.2).

    ISB, SB and CLREX have no option but `sy`. `ssbb` and `pssbb` are refused: they are other instructions than DSB.
    """
    if kind in ("dmb", "dsb"):
        if option.lower() not in BARRIER_OPTIONS:
            raise EncodingError(f"option is {option!r}, must be one of {', '.join(BARRIER_OPTIONS)}")
        return _word(kind, crm=BARRIER_OPTIONS[option.lower()])
    if kind not in ("isb", "sb", "clrex"):
        raise EncodingError(f"kind of barrier is {kind!r}, must be dmb, dsb, isb, sb or clrex")
    if option.lower() != "sy":
        raise EncodingError(f"{kind} has no option {option!r}, only sy")
    return _word(kind) if kind == "sb" else _word(kind, crm=15)

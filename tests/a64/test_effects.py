"""What instructions read, write and access: by example, by capstone's tables, and by execution in Unicorn.

Words for these judges have a register of its own in each field, far from the others: a difference names a field.
"""

from __future__ import annotations

import random
import re
import struct
from collections import defaultdict
from collections.abc import Iterator

import capstone
import pytest
import unicorn
from unicorn import arm64_const

from a64patch.a64.assembler import assemble_one
from a64patch.a64.disassembler import disassemble
from a64patch.a64.effects import Effects, LowHalf, Memory, completes_addresses, effects_of
from a64patch.a64.encodings import TABLE, Encoding, Flow
from a64patch.a64.operands import Registers
from a64patch.a64.predicates import decode
from a64patch.a64.templates import templates
from a64patch.errors import EncodingError

ROWS = [row for row in TABLE if not row.is_hole]


def of(text: str) -> Effects:
    found = effects_of(assemble_one(text, 0x1000))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "reads", "writes"),
    [
        ("nop", "", ""),
        ("mov x0, #1", "", "x0"),
        ("movk x0, #1", "x0", "x0"),
        ("add x0, x1, w2, sxtw", "x1 x2", "x0"),
        ("add x0, sp, #8", "sp", "x0"),
        ("subs xzr, x1, #1", "x1", "nzcv"),
        ("adc x0, x1, x2", "nzcv x1 x2", "x0"),
        ("cset x0, eq", "nzcv", "x0"),
        ("ccmp x1, #2, #3, ne", "nzcv x1", "nzcv"),
        ("bfi x1, x2, #3, #4", "x1 x2", "x1"),
        ("madd x1, x2, x3, x4", "x2 x3 x4", "x1"),
        ("ror x1, x2, #3", "x2", "x1"),
        ("cinc x1, x2, eq", "nzcv x2", "x1"),
        ("bl .+8", "", "x30"),
        ("blraa x1, sp", "sp x1", "x30"),
        ("ret", "x30", ""),
        ("retaa", "sp x30", ""),
        ("paciasp", "sp x30", "x30"),
        ("pacia1716", "x16 x17", "x17"),
        ("pacia x1, sp", "sp x1", "x1"),
        ("cbz x1, .+8", "x1", ""),
        ("b.eq .+8", "nzcv", ""),
        ("mrs x1, tpidr_el0", "", "x1"),
        ("mrs x1, nzcv", "nzcv", "x1"),
        ("msr nzcv, x1", "x1", "nzcv"),
        ("mrs x1, rndr", "", "nzcv x1"),
        ("msr spsel, #1", "", "sp"),
        ("msr spsel, x1", "x1", "sp"),
        ("wfet x1", "x1", ""),
        ("dc civac, x1", "x1", ""),
        ("sysl x1, #0, c7, c0, #0", "", "x1"),
        # pairs, and eight registers
        ("casp x2, x3, x4, x5, [x6]", "x2 x3 x4 x5 x6", "x2 x3"),
        ("casp x30, xzr, x4, x5, [x6]", "x30 x4 x5 x6", "x30"),
        ("swpp x1, x2, [x3]", "x1 x2 x3", "x1 x2"),
        ("rcwsetp x1, x2, [x3]", "x1 x2 x3", "nzcv x1 x2"),
        ("ldxp x1, x2, [x3]", "x3", "x1 x2"),
        ("stxp w4, x1, x2, [x3]", "x1 x2 x3", "x4"),
        ("ld64b x8, [x3]", "x3", "x10 x11 x12 x13 x14 x15 x8 x9"),
        ("st64bv x1, x8, [x3]", "x10 x11 x12 x13 x14 x15 x3 x8 x9", "x1"),
        ("mrrs x2, x3, ttbr0_el1", "", "x2 x3"),
        ("msrr ttbr0_el1, x2, x3", "x2 x3", ""),
        ("tlbip vae1, x2, x3", "x2 x3", ""),
        ("sysp #0, c8, c7, #1, xzr, xzr", "", ""),
        ("ldp x1, x2, [x3]", "x3", "x1 x2"),
        # write-back
        ("ldp x1, x2, [x3], #16", "x3", "x1 x2 x3"),
        ("stp x1, x2, [sp, #-16]!", "sp x1 x2", "sp"),
        ("ldraa x1, [x2]!", "x2", "x1 x2"),
        ("stilp x1, x2, [x3, #-16]!", "x1 x2 x3", "x3"),
        ("ldiapp x1, x2, [x3], #16", "x3", "x1 x2 x3"),
        ("ld1 {v1.b}[3], [x2], x3", "v1 x2 x3", "v1 x2"),
        ("cpyp [x1]!, [x2]!, x3!", "x1 x2 x3", "nzcv x1 x2 x3"),
        ("setm [x1]!, x2!, x3", "nzcv x1 x2 x3", "x1 x2"),
        ("sete [x1]!, x2!, xzr", "nzcv x1 x2", "x1 x2"),
        # atomics
        ("cas x1, x2, [x3]", "x1 x2 x3", "x1"),
        ("ldadd x1, x2, [x3]", "x1 x3", "x2"),
        ("stadd x1, [x3]", "x1 x3", ""),
        # vectors
        ("add v0.4s, v1.4s, v2.4s", "v1 v2", "v0"),
        ("mla v0.4s, v1.4s, v2.4s", "v0 v1 v2", "v0"),
        ("mov v0.16b, v1.16b", "v1", "v0"),
        ("tbl v0.16b, {v30.16b, v31.16b, v0.16b}, v3.16b", "v0 v3 v30 v31", "v0"),
        ("ld3 {v30.4s-v0.4s}, [x3]", "x3", "v0 v30 v31"),
        ("fmov v1.d[1], x3", "v1 x3", "v1"),
        ("fcmp d0, d1", "v0 v1", "nzcv"),
    ],
)  # fmt: skip
def test_registers(text: str, reads: str, writes: str) -> None:
    found = of(text)
    assert (" ".join(sorted(found.reads)), " ".join(sorted(found.writes))) == (reads, writes)


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("add x0, x1, x2", None),
        ("prfm pldl1keep, [x0]", None),
        ("dc civac, x0", None),
        ("ldr w0, .+8", Memory(True, False, 4)),
        ("ldrsw x0, .+8", Memory(True, False, 4)),
        ("ldrsb x0, [x1]", Memory(True, False, 1)),
        ("strh w0, [x1], #2", Memory(False, True, 2)),
        ("stp q0, q1, [x1]", Memory(False, True, 32)),
        ("ldpsw x0, x1, [x2]", Memory(True, False, 8)),
        ("stlxrb w0, w1, [x2]", Memory(False, True, 1)),
        ("caspal w0, w1, w2, w3, [x4]", Memory(True, True, 8)),
        ("swpp x0, x1, [x2]", Memory(True, True, 16)),
        ("st64b x0, [x8]", Memory(False, True, 64)),
        ("ld1 {v0.8b-v2.8b}, [x0]", Memory(True, False, 24)),
        ("ld2 {v0.h, v1.h}[3], [x0]", Memory(True, False, 4)),
        ("ld2r {v0.4s, v1.4s}, [x0]", Memory(True, False, 8)),
        ("cpym [x1]!, [x2]!, x3!", Memory(True, True, None)),
        ("setgm [x1]!, x2!, x3", Memory(False, True, None)),
        ("dc zva, x0", Memory(False, True, None)),
        ("stg x0, [x1]", Memory(False, True, None)),
    ],
)
def test_memory(text: str, memory: Memory | None) -> None:
    assert of(text).memory == memory


@pytest.mark.parametrize(
    ("text", "low"),
    [
        ("add x0, x1, #5", LowHalf("x1", 1, 5)),
        ("add w0, w1, #5", LowHalf("x1", 1, 5)),
        ("mov x0, sp", LowHalf("sp", 1, 0)),
        ("ldr x0, [x1, #16]", LowHalf("x1", 8, 16)),
        ("strb w0, [x1, #16]", LowHalf("x1", 1, 16)),
        ("ldr q0, [sp, #32]", LowHalf("sp", 16, 32)),
        ("prfm pldl1keep, [x1, #8]", LowHalf("x1", 8, 8)),
        ("add x0, x1, #5, lsl #12", None),
        ("sub x0, x1, #5", None),
        ("adds x0, x1, #5", None),
        ("ldur x0, [x1, #16]", None),
        ("ldr x0, [x1], #16", None),
        ("ldp x0, x1, [x2, #16]", None),
    ],
)
def test_low_half_of_an_address(text: str, low: LowHalf | None) -> None:
    assert of(text).low_half == low


def test_low_half_is_encoded_where_it_is_read() -> None:
    rows = [row for row in ROWS if completes_addresses(row)]
    assert len(rows) == 25
    for row in rows:
        word = row.value | 0x61
        found = effects_of(word)
        assert found is not None
        assert found.low_half is not None
        unit = found.low_half.unit
        changed = effects_of(found.low_half.encode(word, 0x12345000 + 37 * unit))
        assert changed is not None
        assert changed.low_half == LowHalf("x3", unit, 37 * unit), row.name
    with pytest.raises(EncodingError, match="0x1004 is not a multiple of 8 bytes"):
        LowHalf("x1", 8, 0).encode(assemble_one("ldr x0, [x1]"), 0x1004)


def test_landing_pads() -> None:
    found = {row.name: row.lands for row in ROWS if row.lands}
    assert found == {
        "bti_c": "c", "bti_j": "j", "bti_jc": "cj", "paciasp": "c", "pacibsp": "c", "paciasppc": "c", "pacibsppc": "c",
        "brk": "cj", "hlt": "cj",
    }  # fmt: skip
    assert of("bti jc").lands == {"c", "j"}
    assert of("bti").lands == frozenset()


def test_a_word_without_a_row_has_no_effects() -> None:
    assert effects_of(0xFFFFFFFF) is None
    with pytest.raises(EncodingError):
        effects_of(1 << 32)


def test_what_rows_say_themselves_are_their_fields_and_names_of_registers() -> None:
    for row in ROWS:
        for name in f"{row.reads} {row.writes}".split():
            field = name in row.fields and name.startswith("r")
            assert field or re.fullmatch(r"x(1[567]|30)|sp|nzcv", name), row.name
        assert row.memory in ("", "load", "store", "load store"), row.name
        assert row.memory or row.size == 0, row.name


# Judges


def operands(row: Encoding) -> dict[str, Registers]:
    """The operands that are registers, by their fields."""
    found: dict[str, Registers] = {}
    for template in templates(row):
        for piece in template.pieces:
            if isinstance(piece.operand, Registers):
                found.setdefault(piece.fields[piece.operand.position], piece.operand)
    return found


def words_of(row: Encoding, count: int) -> Iterator[int]:
    """Words whose registers are all different, at least four apart, and none is number 28 or more."""
    source = random.Random(row.name)
    fields = [row.fields[name] for name in operands(row)]
    for _ in range(50 * count):
        word = row.value | source.getrandbits(32) & ~row.mask & 0xFFFFFFFF
        for field, number in zip(fields, source.sample(range(0, 28, 4), len(fields)), strict=True):
            word = word & ~((1 << field.width) - 1 << field.lsb)
            word |= (number if field.width == 5 else number // 2) << field.lsb
        if decode(word) is row and not disassemble(word).startswith(".inst"):
            yield word
            count -= 1
            if not count:
                return


def fields_by_register(row: Encoding, word: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, operand in operands(row).items():
        for register in operand.registers[row.fields[name].get(word)]:
            found.setdefault(register, name)
    return found


CAPSTONE_ERRS = (
    # who says it alone, what, the rows, why capstone is wrong
    ("we", "writes rs", r"cpy.*", "CPYP &c. end with X[s, 64] = fromaddress (C6.2, CPYP)"),
    ("we", "writes nzcv", r"(cpyf?|setg?)p.*", "the prologue sets PSTATE.<N,Z,C,V> (C6.2, CPYP, SETP)"),
    ("we", "reads nzcv", r"(cpyf?|setg?)[me].*", "main part and epilogue look at PSTATE.C (C6.2, CPYM, SETM)"),
    ("we", "reads nzcv", r"cfinv|axflag|xaflag|rmif|setf(8|16)", "what they do not change of PSTATE.<N,Z,C,V> stays"),
    ("we", "writes nzcv", r"cfinv|axflag|xaflag|rmif|setf(8|16)", "they set PSTATE.<N,Z,C,V> (C6.2)"),
    ("we", "reads nzcv", r"bccond|fcsel_fp\.h|fccmpe?_fp\.h", "ConditionHolds(cond), as the older forms of them"),
    ("we", "writes nzcv", r"fc?cmpe?(_zero)?_fp\.h", "PSTATE.<N,Z,C,V> = flags, as for S and D (C7.2, FCMP)"),
    ("we", "writes nzcv", r"fjcvtzs|subps", "PSTATE.<N,Z,C,V> is assigned (C7.2, FJCVTZS; C6.2, SUBPS)"),
    ("we", "writes nzcv", r"eret(a[ab])?|drps", "SetPSTATEFromPSR(spsr) (C6.2, ERET, DRPS)"),
    ("capstone", "writes nzcv", r"msr_imm\..*", "one other field of PSTATE is written (C6.2, MSR (immediate))"),
    ("we", "writes sp", r"msr_imm\.spsel", "PSTATE.SP says which SP_ELx is SP (C5.2, SPSel)"),
    ("capstone", "reads nzcv", r"cbn?z", "the register is compared with zero, no flag is looked at (C6.2, CBZ)"),
    ("capstone", "reads x30", r"eretaa|eretab", "ELR_ELx is authenticated with SP (C6.2, ERETAA)"),
    ("capstone", "writes x30", r"svc", "only ELR_ELx gets the return address (C6.2, SVC)"),
    ("we", "reads x16", r"paci[ab]1716", "X[17] = AddPACIA(X[17], X[16]) (C6.2, PACIA1716)"),
    ("capstone", "writes x16", r"paci[ab]1716", "X[17] = AddPACIA(X[17], X[16]) (C6.2, PACIA1716)"),
    ("we", "reads x16", r"chkfeat_x16", "X[16] = AArch64.ChkFeat(X[16]); a HINT to capstone (C6.2, CHKFEAT)"),
    ("we", "writes x16", r"chkfeat_x16", "X[16] = AArch64.ChkFeat(X[16]); a HINT to capstone (C6.2, CHKFEAT)"),
    ("capstone", "reads rt", r"sysl|gcspopm|gcsss2", "X[t] gets the result (C6.2, SYSL)"),
    ("we", "reads rt", r"st64b(v0?)?", "X[t] to X[t+7] are stored (C6.2, ST64B); capstone shows one, as written"),
    ("we", "writes rt", r"ld64b", "X[t] to X[t+7] are loaded (C6.2, LD64B); capstone shows one"),
    ("we", "writes rt", r"ld[1-4]r?(_.*)?", "all of the list is loaded (C7.2, LD4); capstone has the first ones"),
    ("capstone", "reads rt", r"ld[1-4]r?(_.*)?", "whole registers are loaded, and not read (C7.2, LD1)"),
    ("capstone", "writes rt", r"st[1-4]_.*", "stores write no V[t] (C7.2, ST1)"),
    ("capstone", "writes rm", r"st1_single\..*_post", "X[m] is added to the base, X[n] written (C7.2, ST1)"),
    ("we", "writes rd", r"adds_imm", "X[d] = result (C6.2, ADDS (immediate)); capstone has the operands of CMN"),
    ("capstone", "reads rd", r"adds_imm", "X[d] = result (C6.2, ADDS (immediate)); capstone has the operands of CMN"),
    ("capstone", "reads rd", r"(asr|lsr)_imm\..|[su]bfm\..|[su]xt[bhw]\..", "SBFM and UBFM begin with zeros (C6.2)"),
    ("capstone", "reads rd", r"pacga", "X[d] = AddPACGA(X[n], X[m]) (C6.2, PACGA)"),
    ("capstone", "reads rd", r"fmov_imm_fp|(fmov|mvni)_simd\..*", "V[d] = the constant (C7.2, FMOV, MVNI)"),
    ("capstone", "reads rd", r"aesi?mc|[us]abdl?2?_simd|[us]addlp_simd|tbl_simd\..|[us]r?shr_simd_imm\..*",
     "V[d] = result, and V[d] is no operand (C7.2); AESE, SABA, SADALP, TBX, SSRA are those that read it"),
    ("we", "reads rd", r"(bic|orr)_simd_imm\..", "operand = V[d] (C7.2, ORR (vector, immediate))"),
    ("we", "reads rd", r"\w+n2_simd(\..)?", "Vpart[d, 1] = result leaves the lower half (C7.2, XTN2)"),
    ("we", "reads rd", r"srsra_simd_imm\..*", "operand2 = V[d] (C7.2, SRSRA)"),
    ("we", "reads rd", r"fmov_fp\.vx", "Vpart[d, 1] = value leaves the lower half (C7.2, FMOV (general))"),
)  # fmt: skip
"""Where capstone 5 is not right, and what Arm's pseudocode has there."""


def capstone_name(judge: capstone.Cs, number: int) -> str:
    """The register as Effects calls it; empty for the zero register."""
    name = str(judge.reg_name(number))
    name = {"xzr": "", "wzr": "", "wsp": "sp", "lr": "x30", "fp": "x29"}.get(name, name)
    return re.sub(r"^w(?=\d)", "x", re.sub(r"^[bhsdq](?=\d)", "v", name))


def differences_from_capstone() -> tuple[set[tuple[str, str, str]], set[str]]:
    """Who says alone what of which row, and the rows that capstone knows.

    capstone 5 has no data on some operands: it says that they are neither read nor written. Those are left out.
    """
    judge = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    judge.detail = True
    found, judged = set[tuple[str, str, str]](), set[str]()
    for row in ROWS:
        for word in words_of(row, 8):
            instruction = next(judge.disasm(struct.pack("<I", word), 0x1000), None)
            ours = effects_of(word)
            assert ours is not None
            if instruction is None:
                continue
            judged.add(row.name)
            unknown = {""} | {
                capstone_name(judge, operand.reg)
                for operand in instruction.operands
                if operand.type == capstone.CS_OP_REG and not operand.access
            }
            fields = fields_by_register(row, word)
            for verb, we, numbers in zip(
                ("reads", "writes"), (ours.reads, ours.writes), instruction.regs_access(), strict=True
            ):
                they = {capstone_name(judge, number) for number in numbers}
                for who, names in (("we", we - they), ("capstone", they - we)):
                    found |= {(who, f"{verb} {fields.get(name, name)}", row.name) for name in names - unknown}
    return found, judged


def test_registers_as_capstone_knows_them() -> None:
    found, judged = differences_from_capstone()
    assert len(judged) > 2100
    explained = {
        (who, what, row)
        for who, what, row in found
        for alone, said, rows, _ in CAPSTONE_ERRS
        if (who, what) == (alone, said) and re.fullmatch(rows, row)
    }
    assert sorted(found - explained) == []
    unused = [
        (alone, said, rows)
        for alone, said, rows, _ in CAPSTONE_ERRS
        if not any((who, what) == (alone, said) and re.fullmatch(rows, row) for who, what, row in found)
    ]
    assert unused == []


REGISTERS = {
    "sp": arm64_const.UC_ARM64_REG_SP,
    "nzcv": arm64_const.UC_ARM64_REG_NZCV,
    **{f"x{number}": getattr(arm64_const, f"UC_ARM64_REG_X{number}") for number in range(31)},
    **{f"v{number}": getattr(arm64_const, f"UC_ARM64_REG_V{number}") for number in range(32)},
}
CODE, DATA, DATA_SIZE = 0x10000, 0x1000000, 0x400000
MIDDLE = DATA_SIZE // 2


class Cpu:
    """Executes one instruction at a time, on memory that is the same each time."""

    def __init__(self) -> None:
        self._uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self._uc.ctl_set_cpu_model(arm64_const.UC_CPU_ARM64_MAX)
        self._uc.mem_map(CODE, 0x100000)
        # Not to be executed: Unicorn 2.1 aborts the process at some words, and branches go anywhere.
        self._uc.mem_map(DATA, DATA_SIZE, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        self._content = random.Random(0).randbytes(DATA_SIZE)
        self._uc.mem_write(DATA, self._content)
        self._uc.reg_write(arm64_const.UC_ARM64_REG_CPACR_EL1, 3 << 20)
        self._places: dict[int, int] = {}
        self._accesses: list[tuple[bool, int, int, int]] = []
        self._uc.hook_add(unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE, self._seen)

    def _seen(self, _: object, kind: int, address: int, size: int, value: int, __: object) -> None:
        store = kind == unicorn.UC_MEM_WRITE
        self._accesses.append((store, address, size, value if store else 0))

    def run(self, word: int, before: dict[str, int]) -> tuple[dict[str, int], list[tuple[bool, int, int, int]], int]:
        """Registers afterwards, accesses (whether a store, address, bytes, value), PC; UcError."""
        if word not in self._places:
            self._places[word] = CODE + 16 * len(self._places)
            self._uc.mem_write(self._places[word], struct.pack("<I", word))
        for name, value in before.items():
            self._uc.reg_write(REGISTERS[name], value)
        self._accesses = []
        try:
            self._uc.emu_start(self._places[word], self._places[word] + 4, count=1)
        except unicorn.UcError as error:
            if error.errno not in (unicorn.UC_ERR_FETCH_UNMAPPED, unicorn.UC_ERR_FETCH_PROT):
                raise  # else the word has branched to where there is no code
        for store, address, size, _ in self._accesses:
            if store:
                self._uc.mem_write(address, self._content[address - DATA : address - DATA + size])
        after = {name: self._uc.reg_read(number) for name, number in REGISTERS.items()}
        return after, self._accesses, self._uc.reg_read(arm64_const.UC_ARM64_REG_PC)


def some_value(source: random.Random, name: str, index: str) -> int:
    """An address in the middle of the data, a small distance for the register that is an index, or a vector."""
    if name == "nzcv":
        return source.getrandbits(4) << 28
    if name[0] == "v":
        # Ordinary floating-point numbers of one of the sizes, or any bits.
        one, width = source.choice([(0, 128), (0x3C00, 16), (0x3F800000, 32), (0x3FF << 52, 64)])
        lanes = (one + source.getrandbits(width // 2 if one else width) for _ in range(128 // width))
        return sum(lane << width * place for place, lane in enumerate(lanes))
    return 16 * (source.randrange(1, 16) if name == index else source.randrange(4096)) + (
        0 if name == index else DATA + MIDDLE
    )


ABORTS_UNICORN = ("FEAT_FAMINMAX", "FEAT_FP8")
"""Unicorn 2.1 takes some of their words for half-precision arithmetic that it lacks, and aborts the process."""
UNICORN_DIFFERS = (
    ("never changes rd", r"(pac|aut)[id]z?[ab]|xpac[id]", "nothing is signed where SCTLR_ELx.EnIA &c. are 0"),
    ("never changes x17", r"(pac|aut)i[ab]1716", "likewise"),
    ("never changes x30", r"(pac|aut)i[ab](z|sp)|xpaclri", "likewise"),
    ("never changes x16", r"chkfeat_x16", "Unicorn has no FEAT_CHK: a NOP"),
    ("depends on more", r"msr_imm\.spsel", "SP is then SP_EL0 or SP_EL1, which hold what was in them before"),
    ("accesses memory", r"stl?x[rp](b|h)?(\.[wx])?", "no load-exclusive before it: the store fails"),
)  # fmt: skip
"""What Unicorn's execution does not show, and why."""


def test_what_execution_by_unicorn_shows() -> None:
    """No register changes and none matters that is not said; what is said to be written changes; accesses are exact."""
    cpu, source = Cpu(), random.Random(1)
    found: dict[str, set[str]] = defaultdict(set)
    executed = 0
    for row in ROWS:
        if row.flow is Flow.EXCEPTION or row.feature in ABORTS_UNICORN:
            continue
        changed, said = set[str](), set[str]()
        try:
            for word in (word for word in words_of(row, 2) for _ in range(2)):
                ours, fields = effects_of(word), fields_by_register(row, word)
                assert ours is not None
                index = f"x{row.fields['rm'].get(word)}" if row.memory and "rm" in row.fields else ""
                before = {name: some_value(source, name, index) for name in REGISTERS}
                after, accesses, pc = cpu.run(word, before)
                for name in REGISTERS:
                    if after[name] != before[name]:
                        changed.add(fields.get(name, name))
                        if name not in ours.writes:
                            found[f"changes {name}"].add(row.name)
                said |= {fields.get(name, name) for name in ours.writes}
                sizes = [sum(size for store, _, size, _ in accesses if store is kind) for kind in (False, True)]
                if (sizes[0] > 0, sizes[1] > 0) != (
                    (ours.memory.loads, ours.memory.stores) if ours.memory else (False, False)
                ) or (ours.memory and ours.memory.size not in (None, max(sizes))):
                    found["accesses memory"].add(row.name)
                others = {
                    name: value if name in ours.reads else some_value(source, name, index)
                    for name, value in before.items()
                }
                again, accesses_again, pc_again = cpu.run(word, others)
                if (accesses, pc) != (accesses_again, pc_again) or any(
                    after[name] != again[name] for name in ours.writes
                ):
                    found["depends on more"].add(row.name)
        except unicorn.UcError:
            continue  # not of this CPU, or not of EL1
        executed += 1
        for name in said - changed:
            found[f"never changes {name}"].add(row.name)
    assert executed > 1700
    differences = {(what, row) for what, rows in found.items() for row in rows}
    explained = {
        (what, row)
        for what, row in differences
        for said, rows, _ in UNICORN_DIFFERS
        if what == said and re.fullmatch(rows, row)
    }
    assert sorted(differences - explained) == []

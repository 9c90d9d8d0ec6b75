"""The row of a word in the table: `decode`, `classify`, classes and predicates, on ints and numpy arrays.

Read on: fields.py for the values inside a word.

A predicate is exact: `is_x(word)` is true when the most exact row that the word fits has the family `x`. So `is_dsb`
is false for SSBB, and `is_hint` is true for every hint. For an int (0 to 0xffffffff) a predicate returns a bool. For a
numpy array of uint32 of any shape, it returns an array of bool of the same shape.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache, cached_property
from typing import TYPE_CHECKING, overload

from a64patch.a64.encodings import rows_for
from a64patch.a64.row import Encoding
from a64patch.errors import EncodingError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

_HINT_STEPPABLE = ("nop", "xpaclri", "pacia1716", "pacib1716", "paciaz", "paciasp", "pacibz", "pacibsp", "bti")

_TOP = 11
"""The number of top bits by which the candidates of a word are kept."""


@cache
def _candidates(top: int) -> tuple[tuple[int, int, Encoding], ...]:
    """(mask, value, row) of each row that a word with these top bits can fit, the most exact first."""
    rows = sorted(rows_for(top, _TOP), key=lambda row: -row.mask.bit_count())
    return tuple((row.mask, row.value, row) for row in rows)


def decode(word: int) -> Encoding | None:
    """The most exact row that the word fits. None for a word that is unallocated or not in the table.

    EncodingError for a number that is no word. `get_insn_class` gives the class of a word without a row.
    """
    if not 0 <= word <= 0xFFFFFFFF:
        raise EncodingError(f"{word:#x} is not an instruction word: it must be from 0 to 0xffffffff")
    for mask, value, row in _candidates(word >> 32 - _TOP):
        if word & mask == value:
            return None if row.is_hole else row
    return None


class _Classifier:
    """Finds the rows of whole arrays, with three look-ups for each word and no branch.

    A row's pattern fits a word when it fits both 16-bit halves. Two halves belong to one class when the same patterns
    fit both. A table with a row for each upper class and a column for each lower class holds the answers.
    """

    def __init__(self) -> None:
        import numpy

        from a64patch.a64.encodings import TABLE

        rows = sorted(TABLE, key=lambda row: row.mask.bit_count())
        upper_patterns = sorted({(row.mask >> 16, row.value >> 16) for row in rows})
        lower_patterns = sorted({(row.mask & 0xFFFF, row.value & 0xFFFF) for row in rows})
        self.upper, upper_fits = self._classes(upper_patterns)
        self.lower, lower_fits = self._classes(lower_patterns)
        table = numpy.full(
            (len(next(iter(upper_fits.values()))), len(next(iter(lower_fits.values())))), -1, numpy.int16
        )
        position = {id(row): -1 if row.is_hole else index for index, row in enumerate(TABLE)}
        for row in rows:
            inside = numpy.ix_(
                upper_fits[row.mask >> 16, row.value >> 16], lower_fits[row.mask & 0xFFFF, row.value & 0xFFFF]
            )
            table[inside] = position[id(row)]
        self.upper = (self.upper * table.shape[1]).astype(numpy.uint32)
        self.table = table.ravel()

    @staticmethod
    def _classes(
        patterns: list[tuple[int, int]],
    ) -> tuple[NDArray[numpy.uint32], dict[tuple[int, int], NDArray[numpy.bool_]]]:
        """The class number of each 16-bit half; for each pattern, the classes that it fits."""
        from random import Random

        import numpy

        halves = numpy.arange(1 << 16, dtype=numpy.uint32)
        # Each pattern has a random number. The signature of a half is the sum of its patterns' numbers.
        random = Random(0)
        numbers = numpy.array([random.getrandbits(62) for _ in patterns], numpy.uint64)
        signature = numpy.zeros(1 << 16, numpy.uint64)
        for (mask, value), number in zip(patterns, numbers, strict=True):
            signature[_fitting_halves(mask, value)] += number
        _, first, classes = numpy.unique(signature, return_index=True, return_inverse=True)
        representatives = halves[first]
        fits = {(mask, value): representatives & mask == value for mask, value in patterns}
        return classes.astype(numpy.uint32), fits

    def __call__(self, words: NDArray[numpy.uint32]) -> NDArray[numpy.int16]:
        import numpy

        flat = numpy.ascontiguousarray(words, dtype="<u4").reshape(-1)
        result = numpy.empty(flat.shape, numpy.int16)
        # Pieces that stay in the cache: the look-ups need 8 bytes of temporary memory for each word.
        for start in range(0, len(flat), _PIECE):
            halves = flat[start : start + _PIECE].view("<u2").reshape(-1, 2)
            # No index can be out of range, and the mode "clip" does not check.
            index = self.upper.take(halves[:, 1], mode="clip")
            index += self.lower.take(halves[:, 0], mode="clip")
            self.table.take(index, out=result[start : start + _PIECE], mode="clip")
        return result.reshape(words.shape)


_PIECE = 1 << 14


def _fitting_halves(mask: int, value: int) -> NDArray[numpy.uint32]:
    """All 16-bit numbers that the pattern fits."""
    import numpy

    found = numpy.array([value], numpy.uint32)
    for bit in range(16):
        if not mask >> bit & 1:
            found = numpy.concatenate([found, found | (1 << bit)])
    return found


@cache
def _classifier() -> _Classifier:
    return _Classifier()


def classify(words: NDArray[numpy.uint32]) -> NDArray[numpy.int16]:
    """`decode` of a uint32 array: for each word the index of its row in TABLE, or -1 for no row."""
    return _classifier()(words)


class InsnClass(IntEnum):
    """The encoding classes of the architecture (Arm ARM C4.1, A64 instruction set encoding)."""

    UNALLOCATED = 0
    RESERVED = 1
    """Bit 31 and op0 are 0: UDF, and words that have no meaning in any revision."""
    SME = 2
    SVE = 3
    DP_IMM = 4
    BR_SYS = 5
    LDST = 6
    DP_REG = 7
    DP_FPSIMD = 8


def _class_table() -> tuple[InsnClass, ...]:
    """Index: bit 31 and bits 28:25, as one number of five bits."""
    kind = InsnClass
    low = [kind.RESERVED, kind.UNALLOCATED, kind.SVE, kind.UNALLOCATED, kind.LDST, kind.DP_REG, kind.LDST,
           kind.DP_FPSIMD, kind.DP_IMM, kind.DP_IMM, kind.BR_SYS, kind.BR_SYS, kind.LDST, kind.DP_REG, kind.LDST,
           kind.DP_FPSIMD]  # fmt: skip
    return (*low, kind.SME, *low[1:])


_CLASSES = _class_table()


@overload
def get_insn_class(word: int) -> InsnClass: ...
@overload
def get_insn_class(word: NDArray[numpy.uint32]) -> NDArray[numpy.uint8]: ...
def get_insn_class(word: int | NDArray[numpy.uint32]) -> InsnClass | NDArray[numpy.uint8]:
    """The encoding class of a word, from bits 28:25 (Arm ARM C4.1). Bit 31 separates SME from the reserved words.

    An array of uint32 gives an array of uint8 with InsnClass values. A word of a class need not be allocated.
    """
    if isinstance(word, int):
        return _CLASSES[(word >> 27 & 0x10) | (word >> 25 & 0xF)]
    import numpy

    classes: NDArray[numpy.uint8] = numpy.array(_CLASSES, numpy.uint8)
    found: NDArray[numpy.uint8] = classes[(word >> 27 & 0x10) | (word >> 25 & 0xF)]
    return found


class Predicate:
    """`is_<family>`: whether a word's most exact row belongs to one of these families."""

    def __init__(self, *families: str, fixed: tuple[int, int] = (0, 0)) -> None:
        """`fixed` is (mask, value): bits that every row of the families fixes in the same way.

        The predicate is false for an int without these bits, and loads no row to say so.
        """
        self.families = frozenset(families)
        self.fixed = fixed

    @cached_property
    def rows(self) -> tuple[Encoding, ...]:
        """The rows for which the predicate is true."""
        from a64patch.a64.encodings import TABLE

        return tuple(row for row in TABLE if not self.families.isdisjoint(row.families))

    @cached_property
    def _answers(self) -> NDArray[numpy.bool_]:
        """One answer for each row of TABLE. The last answer is for words without a row: `classify` gives them -1."""
        import numpy

        from a64patch.a64.encodings import TABLE

        return numpy.array([not self.families.isdisjoint(row.families) for row in TABLE] + [False])

    @overload
    def __call__(self, word: int) -> bool: ...
    @overload
    def __call__(self, word: NDArray[numpy.uint32]) -> NDArray[numpy.bool_]: ...
    def __call__(self, word: int | NDArray[numpy.uint32]) -> bool | NDArray[numpy.bool_]:
        """Whether the word is one of these instructions; for an array, an answer for each word."""
        if isinstance(word, int):
            mask, value = self.fixed
            if 0 <= word <= 0xFFFFFFFF and word & mask != value:
                return False
            row = decode(word)
            return row is not None and not self.families.isdisjoint(row.families)
        answers: NDArray[numpy.bool_] = self._answers[classify(word)]
        return answers


# Branches
is_b = Predicate("b")
is_bl = Predicate("bl")
is_bcond = Predicate("bcond")
is_bccond = Predicate("bccond")
is_cbz = Predicate("cbz")
is_cbnz = Predicate("cbnz")
is_tbz = Predicate("tbz")
is_tbnz = Predicate("tbnz")
is_cbcc = Predicate("cbcc")
is_br = Predicate("br")
is_blr = Predicate("blr")
is_ret = Predicate("ret")
is_br_auth = Predicate("br_auth")
is_blr_auth = Predicate("blr_auth")
is_ret_auth = Predicate("ret_auth")
is_eret = Predicate("eret")
is_eret_auth = Predicate("eret_auth")
is_drps = Predicate("drps")
is_branch_imm = Predicate("branch_imm")
is_branch = Predicate("branch")

# Exceptions
is_svc = Predicate("svc")
is_hvc = Predicate("hvc")
is_smc = Predicate("smc")
is_brk = Predicate("brk")
is_hlt = Predicate("hlt")
is_udf = Predicate("udf")
is_dcps1 = Predicate("dcps1")
is_dcps2 = Predicate("dcps2")
is_dcps3 = Predicate("dcps3")
is_dcps = Predicate("dcps")
is_exception = Predicate("exception")

# Hints
is_hint = Predicate("hint")
is_nop = Predicate("nop")
is_yield = Predicate("yield")
is_wfe = Predicate("wfe")
is_wfi = Predicate("wfi")
is_sev = Predicate("sev")
is_sevl = Predicate("sevl")
is_dgh = Predicate("dgh")
is_xpaclri = Predicate("xpaclri")
is_pacia1716 = Predicate("pacia1716")
is_pacib1716 = Predicate("pacib1716")
is_autia1716 = Predicate("autia1716")
is_autib1716 = Predicate("autib1716")
is_esb = Predicate("esb")
is_psb_csync = Predicate("psb_csync")
is_tsb_csync = Predicate("tsb_csync")
is_gcsb_dsync = Predicate("gcsb_dsync")
is_csdb = Predicate("csdb")
is_clrbhb = Predicate("clrbhb")
is_paciaz = Predicate("paciaz")
is_paciasp = Predicate("paciasp")
is_pacibz = Predicate("pacibz")
is_pacibsp = Predicate("pacibsp")
is_autiaz = Predicate("autiaz")
is_autiasp = Predicate("autiasp")
is_autibz = Predicate("autibz")
is_autibsp = Predicate("autibsp")
is_bti = Predicate("bti")
is_pacm = Predicate("pacm")
is_chkfeat = Predicate("chkfeat_x16")
is_stshh = Predicate("stshh_keep", "stshh_strm")
is_steppable_hint = Predicate(*_HINT_STEPPABLE)

# Barriers and other system instructions
is_isb = Predicate("isb")
is_dsb = Predicate("dsb")
is_dmb = Predicate("dmb")
is_sb = Predicate("sb")
is_ssbb = Predicate("ssbb")
is_pssbb = Predicate("pssbb")
is_clrex = Predicate("clrex")
is_barrier = Predicate("barrier")
is_sys = Predicate("sys")
is_sysl = Predicate("sysl")
is_dc = Predicate("dc")
is_ic = Predicate("ic")
is_at = Predicate("at")
is_tlbi = Predicate("tlbi")
is_trcit = Predicate("trcit")
is_msr_imm = Predicate("msr_imm")
is_msr_reg = Predicate("msr_reg")
is_mrs = Predicate("mrs")

# Addresses, literals, constants
is_adr = Predicate("adr")
is_adrp = Predicate("adrp", fixed=(0x9F000000, 0x90000000))
is_adr_adrp = Predicate("adr", "adrp")
is_ldr_lit = Predicate("ldr_lit")
is_ldrsw_lit = Predicate("ldrsw_lit")
is_prfm_lit = Predicate("prfm_lit")
is_ldr_fp_lit = Predicate("ldr_fp_lit")
uses_literal = Predicate("adr", "adrp", "literal_load")
is_movz = Predicate("movz")
is_movn = Predicate("movn")
is_movk = Predicate("movk")

# Exclusives
_EXCLUSIVE = (0x3E000000, 0x08000000)
"""Arm ARM C4.1, "Loads and Stores": op0 is 00 in bits 29:28, and 100 in bits 27:25, for all exclusives."""
is_load_ex = Predicate("load_ex", fixed=_EXCLUSIVE)
is_store_ex = Predicate("store_ex", fixed=_EXCLUSIVE)
is_exclusive = Predicate("exclusive", fixed=_EXCLUSIVE)

"""Move instructions to another address with the same effect; or say why they cannot move.

Read on: references.py finds the address that a word refers to.

Apart from its reference, an instruction must not depend on its address. The manual has few encoding groups in which an
instruction may depend on it (`_GROUPS`). A word of such a group without a row in the table is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from a64patch.a64.encodings import row_named
from a64patch.a64.fields import set_branch_offset
from a64patch.a64.generate import gen_add_sub_imm, gen_branch_imm, gen_branch_reg, gen_movewide, gen_nop
from a64patch.a64.predicates import InsnClass, decode, get_insn_class
from a64patch.a64.references import ADDRESS_SPACE, Reference, ReferenceKind, reference
from a64patch.a64.row import ERRATUM_843419_OFFSETS, PAGE_SIZE, Encoding, Flow
from a64patch.a64.words import INSN_SIZE, require_aligned
from a64patch.errors import EncodingError, UnmovableError

# Mask, value and heading (Arm ARM, C4.1) of the encoding groups in which an instruction may depend on the PC. No other
# group has such an instruction: not the rest of Data Processing -- Immediate, of Data Processing -- Register and of
# Loads and Stores, not Data Processing -- Scalar Floating-Point and Advanced SIMD, SVE or SME.
_GROUPS = (
    (0x1F000000, 0x10000000, "PC-rel. addressing"),
    (0x7F800000, 0x73800000, "Data-processing (1 source immediate)"),
    (0x1C000000, 0x14000000, "Branches, Exception Generating and System instructions"),
    (0x3B000000, 0x18000000, "Load register (literal)"),
    (0x7FFF0000, 0x5AC10000, "Data-processing (1 source)"),
)

_SIGNS_WITH_PC = frozenset({"paciasppc", "pacibsppc", "pacnbiasppc", "pacnbibsppc", "pacm"})

# For each load of a literal: the row of the same load with an unsigned offset from a register, and the bytes in one
# unit of the offset. So many bytes are read, but PRFM reads none.
_LOADS: dict[str, tuple[str, int]] = {
    "ldr_lit.w": ("ldr_imm.w", 4),
    "ldr_lit.x": ("ldr_imm.x", 8),
    "ldrsw_lit": ("ldrsw_imm.x", 4),
    "prfm_lit": ("prfm_imm", 8),
    "ldr_fp_lit.s": ("ldr_simd_imm.s", 4),
    "ldr_fp_lit.d": ("ldr_simd_imm.d", 8),
    "ldr_fp_lit.q": ("ldr_simd_imm.q", 16),
}
_TO_GENERAL_REGISTER = frozenset({"ldr_lit.w", "ldr_lit.x", "ldrsw_lit"})

_OPPOSITES = {"cbz": "cbnz", "cbnz": "cbz", "tbz": "tbnz", "tbnz": "tbz"}


def relocate(word: int, from_address: int, to_address: int, *, allow_erratum_843419: bool = False) -> int:
    """The word with the same effect at `to_address` (bytes) as `word` has at `from_address`.

    - A branch goes to the same target. ADR and ADRP form the same address.
    - A load or prefetch of a literal uses the same address: the literal does not move.
    - RETAASPPC and AUTIASPPC name the same signing instruction.
    - A word that does not depend on the PC stays as it is. So does a word without a row, if no instruction of its
      encoding group depends on the PC (Arm ARM, C4.1).

    The kind of instruction never changes: ADR does not become ADRP.

    Not the same: the address that BL and BLR leave in X30, and the address that an exception handler sees (SVC, BRK;
    the kernel finds its breakpoints by address). Not checked: whether other code branches to the word, and whether it
    is between a load-exclusive and its store-exclusive, or in one sequence with other words (MOPS, PACM).

    UnmovableError, with the reason, for:
    - a reference that does not reach; the message says by how much;
    - ADRP at a page offset of 0xff8 or 0xffc, because of Cortex-A53 erratum 843419, unless `allow_erratum_843419`;
    - PACIASPPC and the like and PACM, which sign with their own address;
    - a word without a row that is reserved or may depend on the PC.

    AlignmentError for an address that is no multiple of 4. EncodingError for an address beyond 64 bits, and for a
    number that is no word.

    Source of the rule: C6.2 of each instruction; Linux, alternative.c (get_alt_insn) for the kinds that may move.
    """
    _require_addresses(from_address, to_address)
    row, refers = _decode(word, from_address)
    if row is None or refers is None:
        return word
    return _encode(row, refers, word, to_address, refers.target(word, from_address), allow_erratum_843419)


def relocate_block(
    words: Sequence[int],
    from_address: int,
    to_address: int,
    *,
    scratch: int | None = None,
    allow_erratum_843419: bool = False,
) -> list[int]:
    """The words with the same effect at `to_address` (bytes) as these have at `from_address`; there may be more words.

    **References into the block move along:**

    - A branch into the block goes to the same instruction of the moved block.
    - A branch to exactly the end of the block goes to the end of the moved block, as falling through does, and as in
      the kernel's alternatives (5679b2814219). The caller puts the next instruction there, for example a branch back.
    - ADR of an address in the block, its end excluded, forms the moved address.
    - A literal in the block moves: its words are copied as they are. It may lose an alignment beyond 4 bytes.

    All other references keep their address. ADRP always keeps its page, since the page alone does not tell the final
    address: the caller checks that the ADD or load that completes the address names one outside the block.

    **A word that no longer reaches is expanded.** An expansion changes only registers that the instruction writes
    anyway, and the `scratch` register: 16 or 17, which procedure calls may corrupt. The caller knows that the scratch
    register is free in the whole block and at all targets of its branches.

    - B: ADRP, ADD, BR with scratch. BL: the same with BLR; without scratch, in X30.
    - A conditional branch: the opposite branch over a B, without scratch; over ADRP, ADD, BR when B does not reach.
      AL, NV and CB<cc>, which may have no opposite: the same branch to that B, and a B past it.
    - ADR: ADRP, ADD in its register.
    - LDR and LDRSW (literal) of a general register: the address is formed in that register, so the register's old
      value is lost when the load faults. Of a SIMD and FP or the zero register, and PRFM: in scratch.
    - ADRP, alone or in one of these, beyond 4 GiB: MOVZ or MOVN, and MOVK.

    BR and BLR need a landing pad (BTI) at their target if its page is guarded. An expansion has no other visible
    effect: it changes no flags and no memory. It puts no data between the instructions, so the block's end can still be
    reached by falling through.

    **Not checked:**

    - whether words that no load of the block reads are instructions: they are treated as instructions;
    - whether code outside branches into the block, by a computed branch, a table of offsets or an exception handler
      too;
    - whether the block starts or ends between a load-exclusive and its store-exclusive (`is_load_ex`, `is_store_ex`):
      there a copy that traps would never succeed.

    UnmovableError as `relocate`, and for:

    - an expansion that needs a scratch register, when there is none;
    - a literal that is only partly in the block;
    - a word that is read as a literal and also executed, if it depends on its address.

    EncodingError for another scratch register. AlignmentError and other EncodingErrors as `relocate`.
    """
    _require_addresses(from_address, to_address)
    if scratch not in (None, 16, 17):
        raise EncodingError(f"scratch is {scratch}, must be 16 or 17 (X16 or X17), or None")
    return _Block(words, from_address, to_address, scratch, allow_erratum_843419).moved()


def _require_addresses(*addresses: int) -> None:
    for address in addresses:
        if not 0 <= address < ADDRESS_SPACE:
            raise EncodingError(f"{address:#x} is not an address of 64 bits")
        require_aligned(address)


def _decode(word: int, address: int) -> tuple[Encoding | None, Reference | None]:
    """The row and the reference of a word; UnmovableError when the word may depend on the PC in another way."""
    row = decode(word)
    if row is None:
        group = _pc_group(word)
        if group:
            raise UnmovableError(f"{word:#010x} at {address:#x} is an unknown instruction that may use the PC: {group}")
        return None, None
    if row.name in _SIGNS_WITH_PC:
        raise UnmovableError(f"the {row.name} at {address:#x} signs with its own address, so it cannot be moved")
    return row, reference(row)


def _pc_group(word: int) -> str:
    """The heading in C4.1 of this word's encoding group, if instructions of the group may use the PC; else empty."""
    if get_insn_class(word) in (InsnClass.RESERVED, InsnClass.UNALLOCATED):
        return "Reserved or unallocated (Arm ARM, C4.1)"
    return next((f"{heading} (Arm ARM, C4.1)" for mask, value, heading in _GROUPS if word & mask == value), "")


def _encode(row: Encoding, refers: Reference, word: int, address: int, target: int, allow_erratum: bool) -> int:
    """The word that refers to the target from `address`; UnmovableError when it does not reach the target."""
    if not refers.reaches(address, target):
        distance, (low, high) = refers.distance(address, target), refers.reach
        end = high if distance > high else low
        # Both addresses are multiples of 4, so no distance ever becomes unaligned.
        raise UnmovableError(
            f"the {row.name} at {address:#x} cannot reach {target:#x}: {distance:+d} is {abs(distance - end)} bytes "
            f"beyond {end:+d}"
        )
    if refers.unit == PAGE_SIZE and not allow_erratum and address % PAGE_SIZE in ERRATUM_843419_OFFSETS:
        raise UnmovableError(
            f"an adrp at {address:#x}, page offset {address % PAGE_SIZE:#x}, is subject to Cortex-A53 erratum 843419: "
            "move it elsewhere, or allow it"
        )
    return refers.encode(word, address, target)


class _Block:
    """One move of a block: the new address and the new words of each word."""

    def __init__(
        self, words: Sequence[int], start: int, to: int, scratch: int | None, allow_erratum_843419: bool
    ) -> None:
        self.words, self.start, self.to = list(words), start, to
        self.scratch, self.allow_erratum = scratch, allow_erratum_843419
        self.size = INSN_SIZE * len(self.words)
        self.addresses = [(start + INSN_SIZE * index) % ADDRESS_SPACE for index in range(len(self.words))]
        self.data = self._data()

    # The contents of the block

    def _offset(self, address: int) -> int:
        """Bytes from the start of the block to the address; a huge number for an address before the block."""
        return (address - self.start) % ADDRESS_SPACE

    def _data(self) -> frozenset[int]:
        """Positions of the words that loads in the block read as literals. These words are copied as they are."""
        read: dict[int, int] = {}
        readers: set[int] = set()
        for index, (word, address) in enumerate(zip(self.words, self.addresses, strict=True)):
            row = decode(word)
            if row is None or not row.literal or row.name == "prfm_lit":
                continue
            refers = reference(row)
            assert refers is not None
            literal, size = refers.target(word, address), _LOADS[row.name][1]
            inside = [offset < self.size for offset in map(self._offset, range(literal, literal + size, INSN_SIZE))]
            if any(inside) and not all(inside):
                raise UnmovableError(
                    f"the {size} bytes at {literal:#x}, which the {row.name} at {address:#x} reads, lie only in part "
                    "in the block"
                )
            if all(inside):
                first = self._offset(literal) // INSN_SIZE
                read |= dict.fromkeys(range(first, first + size // INSN_SIZE), address)
                readers.add(index)
        for index in self._executed(frozenset(read)) & read.keys() | readers & read.keys():
            if index in readers or not self._is_independent(index):
                raise UnmovableError(
                    f"{self.words[index]:#010x} at {self.addresses[index]:#x} depends on its address, and the load at "
                    f"{read[index]:#x} reads it as a literal: it cannot be both"
                )
        return frozenset(read)

    def _is_independent(self, index: int) -> bool:
        try:
            return _decode(self.words[index], self.addresses[index])[1] is None
        except UnmovableError:
            return False

    def _executed(self, data: frozenset[int]) -> set[int]:
        """Positions that a word of the block branches to or falls through to. Words that are only data do neither."""
        executed, falls = set[int](), True
        for index, (word, address) in enumerate(zip(self.words, self.addresses, strict=True)):
            if falls:
                executed.add(index)
            if index in data and not falls:
                continue
            row = decode(word)
            falls = row is None or row.conditional or row.flow not in (Flow.BRANCH, Flow.RETURN)
            refers = reference(row) if row else None
            if refers and refers.kind is ReferenceKind.BRANCH:
                executed.add(self._offset(refers.target(word, address)) // INSN_SIZE)
        return executed

    # Placing the words

    def moved(self) -> list[int]:
        """The words at the new address.

        Each word starts with room for one word, and gets more room when its expansion needs it. More room moves other
        words, so all words are tried again until none needs more. Room never shrinks, so this ends. Only an error of
        the last try is final.
        """
        room = [1] * len(self.words)
        while True:
            new, at = list[int](), self.to
            for each in room:
                new.append(at % ADDRESS_SPACE)
                at += INSN_SIZE * each
            new.append(at % ADDRESS_SPACE)
            result, refusal, grown = list[int](), None, False
            for index, each in enumerate(room):
                try:
                    code = self._word(index, new)
                except UnmovableError as error:
                    refusal = refusal or error
                    continue
                if len(code) > each:
                    room[index], grown = len(code), True
                result += code + [gen_nop()] * (each - len(code))
            if not grown:
                if refusal:
                    raise refusal
                return result

    def _word(self, index: int, new: Sequence[int]) -> list[int]:
        """The words in place of the word at `index`, when each word goes to its address in `new`."""
        word, at = self.words[index], new[index]
        if index in self.data:
            return [word]
        row, refers = _decode(word, self.addresses[index])
        if row is None or refers is None:
            return [word]
        target = self._target(refers, word, index, new)
        if refers.reaches(at, target):
            return [_encode(row, refers, word, at, target, self.allow_erratum)]
        if refers.kind is ReferenceKind.BRANCH:
            return self._branch(row, word, at, target)
        if refers.kind is ReferenceKind.ADDRESS:
            register = row.fields["rd"].get(word)
            if register == 31:
                return [gen_nop()]
            return self._form_page(at, target, register) if row.name == "adrp" else self._form(at, target, register)
        if refers.kind is ReferenceKind.LITERAL:
            return self._load(row, word, at, target)
        return [_encode(row, refers, word, at, target, self.allow_erratum)]

    def _target(self, refers: Reference, word: int, index: int, new: Sequence[int]) -> int:
        """The address that the moved word must refer to."""
        target = refers.target(word, self.addresses[index])
        offset = self._offset(target)
        is_inside = offset < self.size or (refers.kind is ReferenceKind.BRANCH and offset == self.size)
        if not is_inside or refers.unit == PAGE_SIZE:
            return target
        return (new[offset // INSN_SIZE] + offset % INSN_SIZE) % ADDRESS_SPACE

    # Expansions

    def _require_scratch(self, row: Encoding, nearest: Encoding, at: int, target: int) -> int:
        """The scratch register; UnmovableError without one. The message says how far `nearest` at `at` reaches."""
        if self.scratch is None:
            refers = reference(nearest)
            assert refers is not None
            distance, (low, high) = refers.distance(at, target), refers.reach
            raise UnmovableError(
                f"the {row.name} cannot reach {target:#x}: a {nearest.name} at {at:#x} would have to reach "
                f"{distance:+d} bytes, and it reaches {low:+d} to {high:+d}; more needs a scratch register"
            )
        return self.scratch

    def _branch(self, row: Encoding, word: int, at: int, target: int) -> list[int]:
        if not row.conditional:
            return self._jump(at, target, row)
        opposite = _opposite(row, word)
        if opposite is not None:
            jump = self._jump(at + INSN_SIZE, target, row)
            return [set_branch_offset(opposite, INSN_SIZE * (1 + len(jump))), *jump]
        # Without an opposite: this branch goes to the jump, and the next word is a branch over the jump.
        jump = self._jump(at + 2 * INSN_SIZE, target, row)
        return [set_branch_offset(word, 2 * INSN_SIZE), gen_branch_imm(0, INSN_SIZE * (1 + len(jump))), *jump]

    def _jump(self, at: int, target: int, row: Encoding) -> list[int]:
        """The words of an unconditional branch or, for BL, of a call."""
        link = row.flow is Flow.CALL
        branch = row_named("bl" if link else "b")
        refers = reference(branch)
        assert refers is not None
        if refers.reaches(at, target):
            return [refers.encode(branch.value, at, target)]
        register = 30 if link and self.scratch is None else self._require_scratch(row, branch, at, target)
        return [*self._form(at, target, register), gen_branch_reg(register, "blr" if link else "br")]

    def _form(self, at: int, target: int, register: int) -> list[int]:
        """The words that form the address in a register."""
        if not _is_near(at, target):
            return _move_wide(register, target)
        return [*self._form_page(at, target, register), gen_add_sub_imm(register, register, target % PAGE_SIZE)]

    def _form_page(self, at: int, target: int, register: int) -> list[int]:
        """The words that form the address of the target's page in a register."""
        if not _is_near(at, target):
            return _move_wide(register, target - target % PAGE_SIZE)
        row, refers = _adrp()
        return [_encode(row, refers, row.value | register, at, target, self.allow_erratum)]

    def _load(self, row: Encoding, word: int, at: int, target: int) -> list[int]:
        name, size = _LOADS[row.name]
        register = row.fields["rt"].get(word)
        is_own = row.name in _TO_GENERAL_REGISTER and register != 31
        base = register if is_own else self._require_scratch(row, row, at, target)
        offset, odd = divmod(target % PAGE_SIZE, size)
        if odd or not _is_near(at, target):
            address, offset = self._form(at, target, base), 0
        else:
            address = self._form_page(at, target, base)
        load = row_named(name)
        fields = load.fields
        return [
            *address,
            load.value | offset << fields["imm12"].lsb | base << fields["rn"].lsb | register << fields["rt"].lsb,
        ]


@cache
def _adrp() -> tuple[Encoding, Reference]:
    refers = reference(row_named("adrp"))
    assert refers is not None
    return row_named("adrp"), refers


def _is_near(at: int, target: int) -> bool:
    """Whether ADRP reaches the page of the target."""
    return _adrp()[1].reaches(at, target)


def _opposite(row: Encoding, word: int) -> int | None:
    """The conditional branch that is taken when this branch is not. None for AL, NV and CB<cc>."""
    if row.name in _OPPOSITES:
        return word ^ row.value ^ row_named(_OPPOSITES[row.name]).value
    if "cond" in row.fields and row.fields["cond"].get(word) < 14:
        return word ^ 1 << row.fields["cond"].lsb
    return None


def _move_wide(register: int, value: int) -> list[int]:
    """MOVZ or MOVN, then MOVK: the fewest of these words that put a 64-bit value in a register."""
    halves = [value >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
    inverted = halves.count(0xFFFF) > halves.count(0)
    usual = 0xFFFF if inverted else 0
    (shift, first), *rest = [(16 * i, half) for i, half in enumerate(halves) if half != usual] or [(0, usual)]
    start = gen_movewide(register, first ^ usual, shift, "movn" if inverted else "movz")
    return [start, *(gen_movewide(register, half, shift, "movk") for shift, half in rest)]

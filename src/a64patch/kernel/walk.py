"""Every way through a few functions of a Linux kernel, walked with symbolic values: stores, barriers, waits, in order.

Nothing is executed, and nothing is taken from the version: an instruction or a call that this file does not know ends
in UnreadError, with its address. It may know the rooms below kernel/. Read on: sequence.py makes protocols of the ways.

Sources: Linux arch/arm64/include/asm/alternative-macros.h and jump_label.h for the tables; arch/arm64/mm/cache.S.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from a64patch.a64.disassembler import disassemble
from a64patch.a64.effects import effects_of
from a64patch.a64.fields import adrp_get_offset, get_branch_offset
from a64patch.a64.generate import gen_nop
from a64patch.a64.predicates import decode
from a64patch.a64.row import PAGE_SIZE, Encoding, Flow
from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import A64PatchError, SymbolError
from a64patch.targets.symbols import Symbol, SymbolTable

_COPIES = ("copy_to_kernel_nofault", "probe_kernel_write")
"""What stores the word through the fixmap: since 5.8, and before."""
_INTERRUPTS = ("smp_call_function_many_cond", "smp_call_function_many", "smp_call_function")
_STOPS = ("stop_machine_cpuslocked", "stop_machine")
_PASSED = ("preempt_schedule", "preempt_schedule_notrace", "dynamic_preempt_schedule")
"""Calls that change nothing here."""
_DEAD_ENDS = ("__stack_chk_fail",)
_ONLINE = "__num_online_cpus"

MOST_STEPS = 60_000
"""Instructions of all ways through all functions together. Debian's kernels need a tenth of this."""
MOST_WAYS = 1000
"""Ways through one function."""
_MOST_FUNCTIONS = 24
_MOST_ALTERNATIVES = 16
"""In one function."""
_MOST_CALLS = 4
_MOST_ROUNDS = 2
"""How often one way takes the same branch back: two words are enough to see the order of their steps."""
_CHUNK = 1 << 20

_MRS_SP_EL0 = 0xD5384100
_SHADOW_PUSH, _SHADOW_POP = 0xF800865E, 0xF85F8E5E
"""`str x30, [x18], #8` and `ldr x30, [x18, #-8]!`: with CONFIG_SHADOW_CALL_STACK, X18 points to the task's own stack of
return addresses (arch/arm64/include/asm/scs.h)."""
_NOP = gen_nop()


class UnreadError(A64PatchError, ValueError):
    """The instructions of a function are not those that this file knows; one sentence says which and where."""


class Value(NamedTuple):
    """What a register holds: a number when `base` is empty, else something with a name, and bytes from it."""

    base: str
    offset: int = 0


_NOTHING = Value("nothing")


class Event(NamedTuple):
    """One thing that a way through a function does, in its order."""

    kind: str
    """write, dc, ic, barrier, add (the counter), first, last, other (who this CPU is), await, interrupt, stop."""
    address: int
    text: str
    about: Value = _NOTHING
    """The address that is written or maintained, or the function that is handed over."""

    @property
    def key(self) -> tuple[str, str, Value]:
        """What two ways are compared by: two spellings of an atomic increment are the same."""
        return self.kind, self.text if self.kind in ("barrier", "dc", "ic") else "", self.about


class Alternative(NamedTuple):
    """An entry of .altinstructions: words that replace others at boot. `words` is None when a function makes them."""

    address: int
    size: int
    source: int
    words: tuple[int, ...] | None
    capability: int


class Function(NamedTuple):
    """A function that was read: its instructions that matter, in the order of their addresses."""

    name: str
    address: int
    lines: tuple[str, ...]


@dataclass
class Kernel:
    """The text of a kernel: `data` lies at `start`. The names of functions are needed, those of variables are not."""

    start: int
    data: bytes
    symbols: SymbolTable

    def word(self, address: int) -> int:
        """The instruction at an address. UnreadError outside the data."""
        at = address - self.start
        if at < 0 or at % INSN_SIZE or at + INSN_SIZE > len(self.data):
            raise UnreadError(f"{address:#x} holds no instruction of the Image")
        return from_bytes(self.data[at : at + INSN_SIZE])[0]

    def function(self, name: str) -> Symbol:
        """The function with this name. UnreadError without one."""
        try:
            return self.symbols.find(name)
        except SymbolError as error:
            raise UnreadError(f"the kernel names no one function {name}") from error

    @cached_property
    def _starts(self) -> dict[int, list[Symbol]]:
        starts: dict[int, list[Symbol]] = {}
        for symbol in self.symbols.ascending():
            starts.setdefault(symbol.address, []).append(symbol)
        return starts

    def names_at(self, address: int) -> list[str]:
        """All names that begin at an address, the shortest first."""
        return sorted((symbol.name for symbol in self._starts.get(address, [])), key=len)

    def function_at(self, address: int) -> Symbol:
        """The function that begins at an address, under its shortest name. UnreadError without one."""
        names = self.names_at(address)
        if not names:
            raise UnreadError(f"no function begins at {address:#x}")
        return next(symbol for symbol in self._starts[address] if symbol.name == names[0])

    def _bounds(self, first: str, last: str) -> tuple[int, int]:
        """The offsets of a table that symbols name; of all data without these names (CONFIG_KALLSYMS_ALL=n)."""
        try:
            low, high = (self.symbols.find(name).address - self.start for name in (first, last))
        except SymbolError:
            return 0, len(self.data)
        return (low, high) if 0 <= low < high <= len(self.data) else (0, len(self.data))

    def _pointing(self, bounds: tuple[int, int], function: Symbol) -> Iterator[int]:
        """The offsets of fields within `bounds` that hold the distance from themselves into the function."""
        import numpy

        first, last = bounds[0] + (-bounds[0] % 4), bounds[1]
        for low in range(first, last - 3, 4 * _CHUNK):
            count = min(_CHUNK, (last - low) // 4)
            fields = numpy.frombuffer(self.data, "<i4", count, low).astype(numpy.int64)
            # From the function's start, since addresses do not fit into int64.
            places = fields + 4 * numpy.arange(count) + (self.start + low - function.address)
            for index in numpy.flatnonzero((places >= 0) & (places < function.size)):
                yield low + 4 * int(index)

    def alternatives(self, function: Symbol) -> list[Alternative]:
        """The entries of .altinstructions for a function. Without the table's name, neighbours must be entries too."""
        bounds = self._bounds("__alt_instructions", "__alt_instructions_end")
        named = bounds != (0, len(self.data))
        found = []
        for at in self._pointing(bounds, function):
            if self._is_entry(at) and (named or self._is_entry(at - 12) or self._is_entry(at + 12)):
                place, source, capability, size, length = self._entry(at)
                words = tuple(self.word(source + n) for n in range(0, length, 4)) if length else None
                if place + size <= function.end:
                    found.append(Alternative(place, size, source, words, capability))
        return sorted(found, key=lambda each: each.address)

    def _entry(self, at: int) -> tuple[int, int, int, int, int]:
        old, new, capability, size, length = struct.unpack_from("<iiHBB", self.data, at)
        return self.start + at + old, self.start + at + 4 + new, capability, size, length

    def _is_entry(self, at: int) -> bool:
        if at < 0 or at + 12 > len(self.data):
            return False
        place, source, _, size, length = self._entry(at)
        whole = 4 <= size <= 128 and size % 4 == 0 and length in (0, size) and place % 4 == 0
        inside = all(each - self.start >= 0 and each - self.start + size <= len(self.data) for each in (place, source))
        return whole and inside and (length == 0 or source % 4 == 0)

    def switches(self, function: Symbol) -> dict[int, int]:
        """The words of a function that a static key makes a B or a NOP, and the address to which each B goes."""
        found = {}
        for at in self._pointing(self._bounds("__start___jump_table", "__stop___jump_table"), function):
            if at + 16 > len(self.data):
                continue
            code, target = struct.unpack_from("<ii", self.data, at)
            place, to = self.start + at + code, self.start + at + 4 + target
            if place % 4 or not function.address <= to < function.end:
                continue
            word = self.word(place)
            if word == _NOP or (_name(word) == "b" and place + get_branch_offset(word) == to):
                found[place] = to
        return found


class _State(NamedTuple):
    """One way through a function, as far as it has come."""

    pc: int
    registers: Mapping[int, Value]
    flags: tuple[Value, Value] | None = None
    events: tuple[Event, ...] = ()
    calls: tuple[tuple[int, Mapping[int, Value]], ...] = ()
    """For each call that was followed: where it returns to, and the registers that it leaves alone (AAPCS64 6.1.1)."""
    rounds: Mapping[int, int] = {}
    counter: Value | None = None
    exclusive: Value | None = None


class Reader:
    """Walks functions of one kernel, and remembers which it met."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._met: dict[int, Symbol] = {}
        self._alternatives: dict[int, list[Alternative]] = {}
        self._switches: dict[int, dict[int, int]] = {}
        self._ways: dict[tuple[str, bool, bool], list[tuple[Event, ...]] | UnreadError] = {}
        self._roles: dict[Alternative, str] = {}
        self._writers: dict[int, bool] = {}
        self._lines: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._alone = False
        """A function of cache maintenance is walked without its caller: its second argument is the end."""
        self.steps = 0
        """Instructions that were walked so far."""
        self.online: set[int] = set()
        self.shadow = False

    # What was met, for people

    def functions(self) -> list[Function]:
        """The functions that were walked, by address."""
        found = []
        for address, symbol in sorted(self._met.items()):
            lines = {at: line for at, line in self._lines.items() if symbol.address <= at < symbol.end}
            for each in self._alternatives.get(address, []):
                if each in self._roles:
                    text = "; ".join(self._text_of(each))
                    lines[each.address] = f"{lines.get(each.address, '')} [{self._roles[each]}: {text}]".strip()
            listed = (f"+{at - address:#x} {line}" for at, line in sorted(lines.items()))
            found.append(Function(self._names[address], address, tuple(listed)))
        return found

    def notes_assumed(self) -> list[str]:
        """Which variable is the number of CPUs, if the file does not name it; and what X18 is, if it is used."""
        unnamed = [at for at in sorted(self.online) if not self.kernel.names_at(at)]
        return [
            *(f"the word at {at:#x}, which the file does not name, is {_ONLINE}" for at in unnamed),
            *(["X18 points to the task's own stack of return addresses"] if self.shadow else []),
        ]

    def notes_left_out(self) -> list[str]:
        """The alternatives that were not applied."""
        return [
            f"the alternative of capability {each.capability} at {self._place(each.address)}:"
            f" {'; '.join(self._text_of(each))}"
            for alternatives in self._alternatives.values()
            for each in alternatives
            if self._roles.get(each) == "not applied"
        ]

    def _text_of(self, each: Alternative) -> list[str]:
        if each.words is None:
            return ["made by a function"]
        return [disassemble(word, each.source + 4 * n) for n, word in enumerate(each.words)]

    def _place(self, address: int) -> str:
        return self.kernel.symbols.describe(address)

    # Walking

    def ways(self, name: str, idc: bool, dic: bool) -> list[tuple[Event, ...]]:
        """The distinct ways through a function, on a machine with these bits. UnreadError when it cannot be read."""
        key = (name, idc, dic)
        if key not in self._ways:
            try:
                self._ways[key] = self._walk(self.kernel.function(name), (idc, dic))
            except UnreadError as error:
                self._ways[key] = error
        found = self._ways[key]
        if isinstance(found, UnreadError):
            raise found
        return found

    def published(self, name: str, idc: bool, dic: bool) -> list[tuple[Event, ...]]:
        """As `ways`, of a function that publishes words. UnreadError also when IDC or DIC has no alternative.

        Such a machine would execute the same code. But nothing shows that the alternative was not only missed.
        """
        found = self.ways(name, idc, dic)
        for bit, role in ((idc, "IDC"), (dic, "DIC")):
            if bit and role not in self._roles.values():
                raise UnreadError(f"no alternative for {role}=1 was found in the cache maintenance of {name}")
        return found

    def _walk(
        self, function: Symbol, machine: tuple[bool, bool], applied: frozenset[Alternative] | None = None
    ) -> list[tuple[Event, ...]]:
        """All ways; with `applied`, these alternatives of this function and no role of any."""
        done: dict[tuple[tuple[str, str, Value], ...], tuple[Event, ...]] = {}
        registers = {number: Value(f"argument {number}") for number in range(31)} | {31: Value("stack")}
        todo = [_State(function.address, registers)]
        self._enter(function)
        while todo:
            state: _State | None = todo.pop()
            while state is not None:
                self.steps += 1
                if self.steps > MOST_STEPS or len(todo) + len(done) > MOST_WAYS:
                    raise UnreadError(f"{function.name} has too many ways to read all")
                nexts = self._step(state, machine, applied)
                state = None
                for each in nexts:
                    if each.pc < 0:
                        done.setdefault(tuple(event.key for event in each.events), each.events)
                    elif state is None:
                        state = each
                    else:
                        todo.append(each)
        return list(done.values())

    def _enter(self, function: Symbol) -> None:
        if function.address in self._met:
            return
        if function.size <= 0 or function.size > 1 << 14:
            raise UnreadError(f"{function.name} has {function.size} bytes, which is no function of this kind")
        if not 0 <= function.address - self.kernel.start <= len(self.kernel.data) - function.size:
            raise UnreadError(f"{function.name} at {function.address:#x} is not in the Image")
        if len(self._met) == _MOST_FUNCTIONS:
            raise UnreadError(f"{function.name} is one function too many: {_MOST_FUNCTIONS} are followed")
        alternatives = self.kernel.alternatives(function)
        if len(alternatives) > _MOST_ALTERNATIVES:
            raise UnreadError(f"{function.name} has {len(alternatives)} alternatives, too many to try all")
        self._met[function.address] = function
        self._names[function.address] = function.name
        self._alternatives[function.address] = alternatives
        self._switches[function.address] = self.kernel.switches(function)
        self._find_roles(function)

    def _find_roles(self, function: Symbol) -> None:
        """Tell by what it removes whether an alternative is for IDC (the DC) or for DIC (the IC).

        Another one that can be read, and that changes nothing here, has no role. The rest is not applied.
        """
        alternatives = [each for each in self._alternatives[function.address] if each.words is not None]
        if not alternatives:
            return
        before, self._alone = self._alone, True
        try:
            self._compare(function, alternatives)
        finally:
            self._alone = before

    def _compare(self, function: Symbol, alternatives: Sequence[Alternative]) -> None:
        try:
            usual = self._kinds(function, frozenset())
        except UnreadError:
            return
        for each in alternatives:
            try:
                kinds = self._kinds(function, frozenset({each}))
            except UnreadError:
                self._roles[each] = "not applied"
                continue
            if kinds == usual:
                continue
            gone = {kind for kind in ("dc", "ic") if _in_all(usual, kind) and not _in_any(kinds, kind)}
            self._roles[each] = "IDC" if gone == {"dc"} else "DIC" if gone == {"ic"} else "not applied"

    def _kinds(self, function: Symbol, applied: frozenset[Alternative]) -> _Kinds:
        ways = self._walk(function, (False, False), applied)
        return {tuple((event.kind, event.key[1]) for event in way) for way in ways}

    def _word(
        self, state: _State, machine: tuple[bool, bool], applied: frozenset[Alternative] | None
    ) -> Iterator[tuple[int, int]]:
        """(word, address that it counts from) of the instruction, in each form that it may have on this machine."""
        function = self._owner(state.pc)
        for each in self._alternatives.get(function.address, []) if function else []:
            if not each.address <= state.pc < each.address + each.size:
                continue
            at = state.pc - each.address
            role = self._roles.get(each, "")
            if each.words is None:
                # alt_cb_patch_nops makes a NOP of the branch to code for CPUs without LSE atomics.
                word = self.kernel.word(state.pc)
                yield word, state.pc
                if _name(word) == "b":
                    yield _NOP, state.pc
                elif word != _NOP:
                    raise UnreadError(f"a function makes the word at {self._place(state.pc)} at boot")
                return
            if (applied is not None and each in applied) or (role == "IDC" and machine[0]) or (
                role == "DIC" and machine[1]
            ):  # fmt: skip
                yield each.words[at // 4], each.source + at
                return
        word = self.kernel.word(state.pc)
        yield word, state.pc
        switch = self._switches.get(function.address, {}).get(state.pc) if function else None
        if switch is not None:
            yield (_NOP, state.pc) if word != _NOP else (0x14000000 | (switch - state.pc) // 4 & 0x3FFFFFF, state.pc)

    def _owner(self, address: int) -> Symbol | None:
        return next((each for each in self._met.values() if each.address <= address < each.end), None)

    def _step(self, state: _State, machine: tuple[bool, bool], applied: frozenset[Alternative] | None) -> list[_State]:
        found: list[_State] = []
        for word, base in self._word(state, machine, applied):
            found += self._execute(state, word, base)
        return found

    def _unread(self, state: _State, word: int, why: str = "is not known here") -> UnreadError:
        return UnreadError(f"`{disassemble(word, state.pc)}` at {self._place(state.pc)} {why}")

    def _note(self, state: _State, kind: str, word: int, about: Value | None = None, text: str = "") -> _State:
        text = text or disassemble(word, state.pc)
        if word == self.kernel.word(state.pc):  # not in an alternative
            self._lines[state.pc] = text
        return state._replace(events=(*state.events, Event(kind, state.pc, text, about or _NOTHING)))

    def _execute(self, state: _State, word: int, base: int) -> list[_State]:
        row = decode(word)
        if row is None:
            raise self._unread(state, word)
        onward = state._replace(pc=state.pc + 4)
        if row.flow is not Flow.NEXT:
            return self._branch(state, word, base, row)
        if "barrier" in row.families:
            return [self._note(onward._replace(pc=state.pc), "barrier", word)._replace(pc=onward.pc)]
        if "sys" in row.families:
            return [self._maintain(state, word, row)._replace(pc=onward.pc)]
        if "hint" in row.families or row.name.startswith("prfm") or row.name in ("msr_imm.daifset", "msr_imm.daifclr"):
            return [onward]
        effects = effects_of(word)
        assert effects is not None
        if row.name.startswith("msr"):
            if word & ~0x1F == 0xD51B4220:  # DAIF
                return [onward]
            raise self._unread(state, word)
        if effects.memory:
            return [self._access(state, word, row)._replace(pc=onward.pc)]
        return [self._compute(state, word, base, row)._replace(pc=onward.pc)]

    # Values

    def _fresh(self, state: _State, number: int = 0) -> Value:
        return Value(f"{state.pc:x}.{number}.{len(state.events)}")

    def _set(self, state: _State, values: Mapping[int, Value]) -> _State:
        return state._replace(registers={**state.registers, **values})

    def _clobber(self, state: _State, word: int) -> _State:
        effects = effects_of(word)
        assert effects is not None
        numbers = [31 if name == "sp" else int(name[1:]) for name in effects.writes if name[0] in "xs"]
        state = self._set(state, {number: self._fresh(state, number) for number in numbers})
        return state._replace(flags=None) if "nzcv" in effects.writes else state

    def _get(self, state: _State, number: int, *, stack: bool = False) -> Value:
        return Value("", 0) if number == 31 and not stack else state.registers[number]

    def _compute(self, state: _State, word: int, base: int, row: Encoding) -> _State:
        f = {name: part.get(word) for name, part in row.fields.items()}
        name = row.name.partition(".")[0]
        result: Value | None = None
        if name in ("add_imm", "sub_imm", "subs_imm"):
            number = f["imm12"] << 12 * f["sh"]
            here = self._get(state, f["rn"], stack=True)
            result = here._replace(offset=here.offset + (number if name == "add_imm" else -number))
            if name == "subs_imm":
                flags = (here, Value("", number))
                return self._clobber_result(state, word, f["rd"], result)._replace(flags=flags)
            return self._set(state, {f["rd"]: result})
        if name in ("add", "subs", "bic", "orr") and "imm6" in f and not f["imm6"] and not f["shift"]:
            left, right = self._get(state, f["rn"]), self._get(state, f["rm"])
            if name == "subs":
                return self._clobber(state, word)._replace(flags=(left, right))
            if name == "orr" and f["rn"] == 31:
                result = right
            elif name == "bic" and left.base and not left.offset:
                result = Value(f"line of {left.base}")
            elif name == "add" and "" in (left.base, right.base):
                result = Value(left.base or right.base, left.offset + right.offset)
            elif name == "add" and left.base.startswith("line of "):
                result = Value(f"next {left.base}")
        elif name == "movz":
            result = Value("", f["imm16"] << 16 * f["hw"])
        elif name == "adrp":
            result = Value("", base // PAGE_SIZE * PAGE_SIZE + adrp_get_offset(word))
        elif name == "mrs" and word & ~0x1F == _MRS_SP_EL0:
            result = Value("current")
        elif name == "sxtw" and not state.registers[f["rn"]].base:
            result = state.registers[f["rn"]]
        if result is None or f["rd" if "rd" in f else "rt"] == 31:
            return self._clobber(state, word)
        return self._set(state, {f["rd" if "rd" in f else "rt"]: result})

    def _clobber_result(self, state: _State, word: int, target: int, result: Value) -> _State:
        state = self._clobber(state, word)
        return state if target == 31 else self._set(state, {target: result})

    def _access(self, state: _State, word: int, row: Encoding) -> _State:
        f = {name: part.get(word) for name, part in row.fields.items()}
        effects = effects_of(word)
        assert effects is not None
        assert effects.memory is not None
        if word in (_SHADOW_PUSH, _SHADOW_POP):
            self.shadow = True
            return self._set(state, {30: self._fresh(state)}) if word == _SHADOW_POP else state
        name, _, form = row.name.partition(".")
        plain, _, mode = name.partition("_")
        place = self._get(state, f["rn"], stack=True) if "rn" in f else Value("literal")
        if mode == "imm" and "imm12" in f and effects.memory.size:
            place = place._replace(offset=place.offset + f["imm12"] * effects.memory.size)
        elif mode == "" and "simm9" in f:
            place = place._replace(offset=place.offset + (f["simm9"] ^ 0x100) - 0x100)
        elif mode == "reg":
            place = Value(f"{place.base} at an index")
        if "atomic" in row.families:
            return self._atomic(state, word, row, f, place)
        if plain in ("ldxr", "ldaxr") and form == "w":
            value = Value("count", -1)
            return self._set(state, {f["rt"]: value})._replace(exclusive=place)
        if plain in ("stxr", "stlxr") and form == "w":
            stored = self._get(state, f["rt"])
            if state.exclusive != place or stored != Value("count", 0):
                raise self._unread(state, word, "is no part of an increment")
            state = self._added(state._replace(exclusive=None), word, place)
            return self._set(state, {f["rs"]: Value("status")})
        if effects.memory.stores:
            if place.base not in ("stack", "current"):
                raise self._unread(state, word, "stores to memory that is not known here")
            return self._moved(state, word, f, mode)
        if plain in ("ldr", "ldur", "ldar", "ldapr") and mode in ("imm", "") and form == "w":
            loaded = self._fresh(state)
            if place == state.counter:
                loaded = Value("later")
                self._lines[state.pc] = disassemble(word, state.pc)
            elif not place.base:
                loaded = Value(f"variable {place.offset:#x}")
            return self._set(state, {f["rt"]: loaded}) if f["rt"] != 31 else state
        return self._moved(state, word, f, mode)

    def _moved(self, state: _State, word: int, f: Mapping[str, int], mode: str) -> _State:
        """The state after an access of whose data nothing is known; a stack pointer that moves is still one."""
        stack = state.registers[31]
        state = self._clobber(state, word)
        return self._set(state, {31: stack}) if mode in ("pre", "post") and f["rn"] == 31 else state

    def _atomic(self, state: _State, word: int, row: Encoding, f: Mapping[str, int], place: Value) -> _State:
        if not row.name.startswith("ldadd") or not row.name.endswith(".w"):
            raise self._unread(state, word)
        if self._get(state, f["rs"]) != Value("", 1):
            raise self._unread(state, word, "adds a number that is not known to be 1")
        state = self._added(state, word, place)
        return state if f["rt"] == 31 else self._set(state, {f["rt"]: Value("count", -1)})

    def _added(self, state: _State, word: int, place: Value) -> _State:
        if state.counter is not None and place != state.counter:
            raise self._unread(state, word, "counts in another word than before")
        return self._note(state, "add", word, place)._replace(counter=place)

    def _maintain(self, state: _State, word: int, row: Encoding) -> _State:
        if row.name not in ("dc.cvau", "ic.ivau"):
            raise self._unread(state, word, "is maintenance that the models do not cover")
        line = self._get(state, row.fields["rt"].get(word))
        if not line.base.startswith("line of "):
            raise self._unread(state, word, "is not known to begin at the line of the word")
        kind = row.name[:2]
        about = Value(line.base.removeprefix("line of "))
        return self._note(state, kind, word, about, f"{kind} {row.name[3:]}, line by line")

    # Branches

    def _branch(self, state: _State, word: int, base: int, row: Encoding) -> list[_State]:
        name = row.name
        onward = state._replace(pc=state.pc + 4)
        if name == "ret":
            if row.fields["rn"].get(word) != 30:
                raise self._unread(state, word)
            return [self._return(state)]
        if name == "brk":
            return []  # BUG(): the kernel stops here
        if name not in ("b", "bl", "bcond", "cbz", "cbnz", "tbz", "tbnz"):
            raise self._unread(state, word)
        target = base + get_branch_offset(word)
        if base != state.pc and (owner := self._alternative_at(state.pc)) and owner.words is not None:
            inside = target - owner.source
            target = owner.address + inside if 0 <= inside < owner.size else target
        if name == "bl":
            return self._call(state, word, target, state.pc + 4)
        if name == "b":
            if self.kernel.names_at(target) and not self._same_function(state.pc, target):
                return self._call(state, word, target, None)
            return self._jump(state, target)
        taken = self._jump(state, target)
        if name in ("tbz", "tbnz"):
            return [*taken, onward]
        if name == "bcond":
            condition, flags = row.fields["cond"].get(word), state.flags
        else:
            register = self._get(state, row.fields["rt"].get(word))
            condition, flags = int(name == "cbnz"), (register, Value("", 0))
        return self._decide(state, word, condition, flags, taken, onward)

    def _alternative_at(self, address: int) -> Alternative | None:
        function = self._owner(address)
        listed = self._alternatives.get(function.address, []) if function else []
        return next((each for each in listed if each.address <= address < each.address + each.size), None)

    def _same_function(self, one: int, other: int) -> bool:
        owner = self._owner(one)
        return owner is not None and owner.address <= other < owner.end

    def _jump(self, state: _State, target: int) -> list[_State]:
        """The state at the target; nothing when this way has gone back there often enough."""
        if target > state.pc:
            return [state._replace(pc=target)]
        rounds = state.rounds.get(state.pc, 0)
        if rounds == _MOST_ROUNDS:
            return []
        return [state._replace(pc=target, rounds={**state.rounds, state.pc: rounds + 1})]

    def _decide(
        self, state: _State, word: int, condition: int, flags: tuple[Value, Value] | None, taken: list[_State],
        onward: _State,
    ) -> list[_State]:  # fmt: skip
        both = [*taken, onward]
        if flags is None:
            return both
        left, right = flags
        equal, other = (taken, [onward]) if condition == 0 else ([onward], taken)
        if left.base == "status" and right == Value("", 0) and condition in (0, 1):
            return equal
        if condition in (0, 1) and left.base == right.base != "later":
            return equal if left.offset == right.offset else other
        if condition in (0, 1) and "count" in (left.base, right.base):
            count, rest = (left, right) if left.base == "count" else (right, left)
            if not rest.base:
                role = f"this CPU is number {rest.offset - count.offset} to come"
                kind = "first" if rest.offset - count.offset == 1 else "number"
            elif rest.base.startswith("variable ") and count.offset == 0:
                role, kind = "this CPU is the last to come", "last"
                self._require_online(state, word, rest)
            else:
                raise self._unread(state, word, "compares the counter with a number that is not known here")
            text = f"{disassemble(word, state.pc)}: equal if {role}"
            return [
                *(self._note(each._replace(pc=state.pc), kind, word, text=text)._replace(pc=each.pc) for each in equal),
                *(
                    self._note(each._replace(pc=state.pc), "other", word, text=text)._replace(pc=each.pc)
                    for each in other
                ),
            ]
        if {left.base, right.base} & {"later"}:
            over = {("later", 8): True, ("later", 9): False, ("variable", 3): True, ("variable", 2): False}
            kind = left.base.partition(" ")[0]
            jumps = over.get((kind, condition))
            rest = right if left.base == "later" else left
            if jumps is None or not rest.base.startswith("variable ") or left.offset or right.offset:
                raise self._unread(state, word, "waits for a number that is not known here")
            self._require_online(state, word, rest)
            text = f"{disassemble(word, state.pc)}: waits until the counter is over the number of CPUs"
            leaves, stays = (taken, [onward]) if jumps else ([onward], taken)
            left_it = (self._note(each._replace(pc=state.pc), "await", word, text=text)._replace(pc=each.pc)
                       for each in leaves)  # fmt: skip
            return [*left_it, *stays]
        if left.base.startswith("next line of "):
            start = left.base.removeprefix("next line of ")
            is_end = right == Value(start, INSN_SIZE) or (self._alone and right == Value("argument 1"))
            if condition == 3 and is_end:
                return [onward]
            raise self._unread(state, word, "does not end a loop over all lines of the word")
        return both

    def _require_online(self, state: _State, word: int, variable: Value) -> None:
        address = int(variable.base.partition(" ")[2], 16)
        names = self.kernel.names_at(address)
        if names and _ONLINE not in names:
            raise self._unread(state, word, f"compares with {names[0]}, not with {_ONLINE}")
        if self.online - {address}:
            raise self._unread(state, word, "compares with another variable than before")
        self.online.add(address)

    def _return(self, state: _State) -> _State:
        if not state.calls:
            return state._replace(pc=-1)
        back, kept = state.calls[-1]
        return self._set(state, kept)._replace(pc=back, calls=state.calls[:-1])

    def _call(self, state: _State, word: int, target: int, back: int | None) -> list[_State]:
        """A call that goes on at `back`, or returns to the caller (None). Functions without a meaning are followed."""
        names = self.kernel.names_at(target)
        if any(name in _DEAD_ENDS for name in names):
            return []
        said = f"{disassemble(word, state.pc).split()[0]} {names[0] if names else hex(target)}"
        passed = state
        kind = ""
        if self._writes(target):
            kind, about = "write", state.registers[0]
        elif any(name in _INTERRUPTS for name in names):
            kind, about = "interrupt", state.registers[1]
        elif any(name in _STOPS for name in names):
            kind, about = "stop", state.registers[0]
        if kind:
            passed = self._note(state, kind, word, about, said)
        elif not any(name in _PASSED for name in names):
            return [self._inline(state, word, target, back, names)]
        fresh = {number: self._fresh(passed, number) for number in (*range(19), 30)}
        if kind == "write":
            fresh[0] = Value("", 0)
        passed = self._set(passed, fresh)._replace(flags=None)
        return [self._return(passed) if back is None else passed._replace(pc=back)]

    def _inline(self, state: _State, word: int, target: int, back: int | None, names: Sequence[str]) -> _State:
        if not names or len(state.calls) == _MOST_CALLS:
            raise self._unread(state, word, "calls a function that cannot be followed")
        self._lines[state.pc] = f"bl {names[0]}"
        self._enter(self.kernel.function_at(target))
        kept = {number: state.registers[number] for number in (*range(19, 30), 31)}
        calls = state.calls if back is None else (*state.calls, (back, kept))
        return state._replace(pc=target, calls=calls)

    def _writes(self, address: int, depth: int = 2) -> bool:
        """Whether the function calls what stores a word through the fixmap, itself or through another one."""
        if address in self._writers:
            return self._writers[address]
        self._writers[address] = False
        names = self.kernel.names_at(address)
        if not names or not any("insn_write" in name for name in names):
            return False
        function = self.kernel.function_at(address)
        for at in range(address, min(function.end, address + (1 << 12)), INSN_SIZE):
            word = self.kernel.word(at)
            if _name(word) not in ("bl", "b"):
                continue
            target = at + get_branch_offset(word)
            copies = any(name in _COPIES for name in self.kernel.names_at(target))
            if copies or (depth and target != address and self._writes(target, depth - 1)):
                self._writers[address] = True
                self._met[address], self._names[address] = function, names[0]
                self._lines[at] = f"bl {self.kernel.names_at(target)[0]}"
                return True
        return False


def _name(word: int) -> str:
    row = decode(word)
    return row.name if row else ""


_Kinds = set[tuple[tuple[str, str], ...]]
"""Ways without the words that they are about."""


def _in_all(ways: _Kinds, kind: str) -> bool:
    return bool(ways) and all(any(event[0] == kind for event in way) for way in ways)


def _in_any(ways: _Kinds, kind: str) -> bool:
    return any(event[0] == kind for way in ways for event in way)

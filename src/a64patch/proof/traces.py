"""The traces of one thread: each is one way to run the thread, whatever the other threads do.

Read on: search.py chooses one trace for each thread and checks whether they fit together.

A trace guesses:
- the value of each load and the word of each fetch from a modified location. The location's domain lists the guesses:
  its initial value, and the values that some trace stores there;
- whether a store-exclusive succeeds;
- where an interrupt is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from a64patch.errors import ScopeError
from a64patch.proof.program import ELR, Program
from a64patch.proof.semantics import MASK64, SP, Operation, flow, holds, operation, signed

MOST_TRACES = 20_000
"""The most traces of one thread; a program with more is refused."""
MOST_EVENTS = 400
"""The most events of one trace; a longer path is given up."""
MOST_STEPS = 5_000
"""The most instructions of one trace, likewise."""

EVERYWHERE = -1
"""The address of an IC on every line."""

ACCESS = "access to "
"""How the end of a trace begins whose last access is outside the program's memory."""
BRANCH = "branch to "
"""How it begins where the trace goes to an address that is none of Program.ends."""

CTR_IDC, CTR_DIC = 1 << 28, 1 << 29
_CTR_LINES = 0x8444C004
"""The other fields of CTR_EL0 as most cores have them: lines of 64 bytes."""


@dataclass(slots=True, eq=False)
class Event:
    """One effect of an instruction.

    `kind`: R, W (explicit), F (fetch of a modified word), DC, IC, DMB, DSB, ISB, TE (exception entry), ERET, SGI.
    `addr`, `data` and `ctrl` are sets of loads, with bit n for event n of the same trace. The event's address, data or
    execution depends on these loads. `pick_…` hold the dependencies through the condition of a conditional select.
    """

    kind: str
    pc: int
    """Address of the instruction in bytes; for an interrupt, the address of the interrupted instruction."""
    word: int
    """The executed word."""
    address: int = EVERYWHERE
    value: int = 0
    order: str = ""
    """A (acquire), Q (acquirePC), L (release); of a barrier: sy, ld, st; of TE: svc, brk, udf or irq."""
    addr: int = 0
    data: int = 0
    ctrl: int = 0
    pick_addr: int = 0
    pick_data: int = 0
    pick_ctrl: int = 0
    rmw: int = -1
    """For the store of an atomic or exclusive pair, the index of its load; -1 for any other event."""
    returns: bool = True
    """False for the load of an atomic whose result goes to WZR or XZR: it is no read for DMB LD and DSB LD."""
    step: int = 0
    """The number of instructions executed up to and including this one."""


@dataclass(slots=True, eq=False)
class Trace:
    """One run of one thread: events in program order, the path, the registers at the end."""

    events: tuple[Event, ...]
    path: tuple[tuple[int, int], ...]
    """Address and word of every executed instruction."""
    registers: Mapping[int, int]
    end: str
    """`done`, or why the thread ended: `svc`, `brk`, `udf`, `left` (a window), `access to …`, `branch to …`."""
    by_model: dict[object, list[int]] = field(default_factory=dict)
    """The thread's order in each model, kept by `search`."""

    def register(self, number: int) -> int:
        """The value of X0 to X30 at the end."""
        return self.registers.get(number, 0)


class _State:
    """The state of a thread between two instructions."""

    __slots__ = (
        "ctrl", "end", "events", "flags", "guesses", "interrupts", "masked", "monitor", "path", "pc",
        "pick_ctrl", "registers", "saved", "skip_interrupt", "visits",
    )  # fmt: skip

    def __init__(self) -> None:
        self.pc = 0
        self.registers: dict[int, tuple[int, int, int]] = {}
        self.flags = (0, 0, 0)
        self.events: list[Event] = []
        self.path: list[tuple[int, int]] = []
        self.guesses = 0
        self.visits: dict[tuple[int, int], tuple[int, int]] = {}
        """By address and X30: the number of visits that a guess came before, and `guesses` at the last one."""
        self.ctrl = 0
        self.pick_ctrl = 0
        self.monitor = -1
        self.masked = False
        self.saved: list[tuple[bool, tuple[int, int, int]]] = []
        """SPSR_EL1 of each exception that is handled: the mask, and the flags with their dependencies."""
        self.interrupts = 0
        self.skip_interrupt = False
        self.end = ""

    def copy(self) -> _State:
        other = _State.__new__(_State)
        other.pc = self.pc
        other.registers = self.registers.copy()
        other.flags = self.flags
        other.events = self.events.copy()
        other.path = self.path.copy()
        other.guesses = self.guesses
        other.visits = self.visits.copy()
        other.ctrl = self.ctrl
        other.pick_ctrl = self.pick_ctrl
        other.monitor = self.monitor
        other.masked = self.masked
        other.saved = self.saved.copy()
        other.interrupts = self.interrupts
        other.skip_interrupt = self.skip_interrupt
        other.end = self.end
        return other

    def get(self, register: int) -> tuple[int, int, int]:
        """The register's value, the loads that it depends on, and the loads that picked it (`Event.pick_data`)."""
        return (0, 0, 0) if register == 31 else self.registers.get(register, (0, 0, 0))

    def put(self, register: int, value: int, data: int = 0, pick: int = 0) -> None:
        if register != 31:
            self.registers[register] = (value & MASK64, data, pick)


class _Runner:
    """Runs one thread with the guesses of the domains, and notes in `used` whose domains it asked for."""

    def __init__(self, program: Program, number: int, domains: Domains, most_interrupts: int) -> None:
        self.program = program
        self.code = program.code
        self.number = number
        self.thread = program.threads[number]
        self.domains = domains
        self.most_interrupts = most_interrupts if self.thread.irq_vector is not None else 0
        self.windows = {address: window for window in program.windows for address in window}
        self.used = set[int]()
        self.accesses = set[tuple[int, int]]()
        """Address and size in bytes of each access to data."""
        self.cut = 0
        self.left_out = ""
        self.pending: list[_State] = []

    def run(self) -> list[Trace]:
        start = _State()
        start.pc = self.thread.entry
        for register, value in self.thread.registers.items():
            start.put(SP if register == 31 else register, value)
        self.pending = [start]
        traces: list[Trace] = []
        while self.pending:
            state = self.pending.pop()
            if self._advance(state):
                traces.append(_finished(state))
                if len(traces) > MOST_TRACES:
                    name = self.thread.name or f"thread {self.number}"
                    raise ScopeError(f"{name} has more than {MOST_TRACES} paths: give it fewer loads or interrupts")
        return traces

    def _advance(self, state: _State) -> bool:
        """Execute the thread. True when it ends; False when it is given up or forks into `pending`."""
        while not state.end:
            if state.interrupts < self.most_interrupts and not state.masked and not state.skip_interrupt:
                other = state.copy()
                other.interrupts += 1
                other.guesses += 1
                self._enter(other, "irq", other.pc, other.pc, 0, self.thread.irq_vector)
                state.skip_interrupt = True
                self.pending += (state, other)
                return False
            state.skip_interrupt = False
            pc = state.pc
            if pc == self.program.outside:
                self._come_back(state)
                continue
            if pc not in self.code:
                known = self.program.ends is None or pc in self.program.ends
                state.end = "done" if known else f"{BRANCH}{pc:#x}"
                break
            # A function that is called from several places is no loop: its return address differs.
            place = (pc, state.get(30)[0])
            count, guesses = state.visits.get(place, (0, -1))
            if count and self.program.simple and pc in self.windows:
                return False
            count += guesses != state.guesses
            if count > self.program.visits or len(state.events) > MOST_EVENTS or len(state.path) > MOST_STEPS:
                self._give_up(pc)
                return False
            state.visits[place] = (count, state.guesses)
            words = self.domains.words(pc)
            if words is None:
                state.path.append((pc, self.code[pc]))
                if not self._execute(state, pc, self.code[pc]):
                    return False
                continue
            self.used.add(pc)
            state.guesses += len(words) > 1
            for word in words[1:] if pc not in self.program.pinned else ():
                self._fetched(other := state.copy(), pc, word)
                if self._execute(other, pc, word):
                    self.pending.append(other)
            self._fetched(state, pc, words[0])
            if not self._execute(state, pc, words[0]):
                return False
        return True

    def _give_up(self, pc: int) -> None:
        self.cut += 1
        name = self.thread.name or f"thread {self.number}"
        self.left_out = self.left_out or f"{name} was not followed further than {self.program.name_of(pc)}"

    def _fetched(self, state: _State, pc: int, word: int) -> None:
        state.path.append((pc, word))
        state.events.append(Event("F", pc, word, pc, word, step=len(state.path)))

    def _enter(self, state: _State, why: str, pc: int, back: int, word: int, vector: int | None) -> None:
        if vector is None:
            state.end = why
            return
        entry = Event("TE", pc, word, order=why, step=len(state.path))
        if why != "irq":  # An instruction's exception depends on the branches before; an interrupt comes at any time.
            entry.ctrl, entry.pick_ctrl = state.ctrl, state.pick_ctrl
        state.events.append(entry)
        state.saved.append((state.masked, state.flags))
        state.put(ELR, back)
        state.masked = True
        state.pc = vector

    def _event(
        self, state: _State, kind: str, pc: int, word: int, address: int = -1, value: int = 0, order: str = ""
    ) -> Event:
        event = Event(
            kind,
            pc,
            word,
            address,
            value,
            order,
            ctrl=state.ctrl,
            pick_ctrl=state.pick_ctrl,
            step=len(state.path),
        )
        state.events.append(event)
        return event

    def _execute(self, state: _State, pc: int, word: int) -> bool:
        """Execute one instruction. False when this state goes no further; its forks are in `pending`."""
        window = self.windows.get(pc)
        if window is not None:
            return self._pass(state, window, pc, word)
        op = operation(word)
        kind = op.kind
        state.pc = pc + 4
        if kind == "alu":
            self._compute(state, op)
        elif kind in ("load", "store", "atomic", "cas"):
            return self._access(state, op, pc, word)
        elif kind == "jump":
            self._jump(state, op, pc)
        elif kind == "barrier":
            self._event(state, "DSB" if op.name == "dsb" else "DMB", pc, word, order=op.order)
        elif kind in ("dc", "ic"):
            value, data, pick = state.get(op.base) if op.base >= 0 else (EVERYWHERE, 0, 0)
            event = self._event(state, kind.upper(), pc, word, value)
            event.addr, event.pick_addr = data, pick
        elif kind == "isb":
            self._event(state, "ISB", pc, word)
        elif kind == "select":
            self._select(state, op)
        elif kind == "adr":
            state.put(op.target, pc + op.offset if op.name == "adr" else (pc & ~0xFFF) + (op.offset << 12))
        elif kind == "indirect":
            value, data, pick = state.get(op.base)
            state.ctrl |= data
            state.pick_ctrl |= pick
            if op.link:
                state.put(30, pc + 4)
            state.pc = value
        elif kind == "exception":
            back = pc + 4 if op.name == "svc" else pc
            self._enter(state, op.name, pc, back, word, self.thread.sync_vector)
        elif kind == "eret":
            if not state.saved:
                raise ScopeError(f"an ERET at {self.program.name_of(pc)} outside an exception is not in this model")
            self._event(state, "ERET", pc, word)
            state.masked, state.flags = state.saved.pop()
            value, data, pick = state.get(ELR)
            state.ctrl |= data
            state.pick_ctrl |= pick
            state.pc = value
        elif kind == "sgi":
            event = self._event(state, "SGI", pc, word)
            event.data, event.pick_data = state.get(op.data)[1:]
        else:
            self._rare(state, op)
        return True

    def _pass(self, state: _State, window: range, pc: int, word: int) -> bool:
        """Follow the flow of control of one word in a window, and nothing else of it (Program.windows)."""
        op = flow(word)
        state.pc = pc + 4
        state.guesses += op.kind in ("either", "anywhere")
        if self.program.guards.get(pc) == word:
            self._enter(state, "brk", pc, pc, word, self.thread.sync_vector)
        elif op.kind == "nop" or self.program.falls_through:
            return True
        elif op.kind == "anywhere":
            self._go(state.copy(), self.program.entries)
            self.pending.append(self._leave(state.copy()))
        else:
            other = state if op.kind == "jump" else state.copy()
            if pc + op.offset in window:
                other.pc = pc + op.offset
            else:
                self._leave(other)
            if other is not state:
                self.pending.append(other)
        return True

    def _leave(self, state: _State) -> _State:
        if self.program.outside < 0:
            state.end = "left"
        else:
            state.pc = self.program.outside
        return state

    def _come_back(self, state: _State) -> None:
        """End the thread outside; let forks come back from there, if it may once more."""
        outside = self.program.outside
        count, _ = state.visits.get((outside, 0), (0, 0))
        if count < self.program.returns:
            other = state.copy()
            other.guesses += 1
            other.visits = {place: seen for place, seen in other.visits.items() if place[0] not in self.windows}
            other.visits[outside, 0] = (count + 1, 0)
            other.path.append((outside, self.code.get(outside, 0)))
            self._go(other, self.program.entries)
        state.end = "left"

    def _go(self, state: _State, places: Sequence[int]) -> None:
        """Let forks of the state go to each of these addresses."""
        for place in places:
            other = state.copy()
            other.pc = place
            self.pending.append(other)

    def _rare(self, state: _State, op: Operation) -> None:
        if op.kind == "mrs":
            if op.name == "ctr":
                value = _CTR_LINES | self.program.idc * CTR_IDC | self.program.dic * CTR_DIC
                state.put(op.target, value)
            else:
                state.put(op.target, *state.get(ELR))
        elif op.kind == "msr":
            state.put(ELR, *state.get(op.data))
        elif op.kind == "mask" and op.offset & 2:
            state.masked = op.name == "daifset"
        elif op.kind == "clrex":
            state.monitor = -1

    def _compute(self, state: _State, op: Operation) -> None:
        data = pick = 0
        values = []
        for source in op.sources:
            value, more, picked = state.get(source)
            values.append(value)
            data |= more
            pick |= picked
        if op.flags:
            result, nzcv = op.flags(*values)
            if op.name == "s":
                state.flags = (nzcv, data, pick)
        else:
            assert op.compute
            result = op.compute(*values)
        state.put(op.target, result, data, pick)

    def _select(self, state: _State, op: Operation) -> None:
        nzcv, data, pick = state.flags
        if holds(op.condition, nzcv):
            value, chosen, picked = state.get(op.sources[0])
            value &= (1 << op.offset) - 1
        else:
            value, chosen, picked = state.get(op.sources[1])
            assert op.compute
            value = op.compute(value)
        state.put(op.target, value, chosen, picked | pick | data)

    def _jump(self, state: _State, op: Operation, pc: int) -> None:
        if op.link:
            state.put(30, pc + 4)
        taken = True
        if op.test is not None:
            value, data, pick = state.get(op.data)
            taken = op.test(value)
            state.ctrl |= data
            state.pick_ctrl |= pick
        elif op.condition >= 0:
            nzcv, data, pick = state.flags
            taken = holds(op.condition, nzcv)
            state.ctrl |= data
            state.pick_ctrl |= pick
        if taken:
            state.pc = pc + op.offset

    def _access(self, state: _State, op: Operation, pc: int, word: int) -> bool:
        base, addr, pick_addr = state.get(op.base) if op.base >= 0 else (pc, 0, 0)
        address = base + op.offset
        if op.index >= 0:
            assert op.extend
            value, data, pick = state.get(op.index)
            address += op.extend(value)
            addr |= data
            pick_addr |= pick
        address &= MASK64
        places = (address,) if op.second < 0 else (address, (address + op.size) & MASK64)
        for place in places:
            if place not in self.program.memory and place not in self.code:
                inside = next((cell for cell in range(place - 7, place) if cell in self.program.memory), None)
                if inside is not None:
                    raise ScopeError(
                        f"an access inside {self.program.name_of(inside)}: accesses of mixed size are not modelled"
                    )
                state.end = f"{ACCESS}{place:#x}"
                return True
            if place in self.program.memory:
                self.accesses.add((place, op.size))
            elif op.size != 4:
                raise ScopeError(
                    f"an access of {op.size} bytes to code at {self.program.name_of(pc)}: mixed sizes are not modelled"
                )
        return self._access_at(state, op, pc, word, places, addr, pick_addr)

    def _access_at(
        self, state: _State, op: Operation, pc: int, word: int, places: tuple[int, ...], addr: int, pick_addr: int
    ) -> bool:
        """Do the accesses of one instruction at these addresses. A pair of registers has two accesses."""
        if op.writeback:
            state.put(op.base, state.get(op.base)[0] + op.writeback, addr, pick_addr)
        if op.kind == "store":
            return self._store(state, op, pc, word, places, addr, pick_addr)
        self.used.update(places)
        mask = (1 << 8 * op.size) - 1
        guesses = list(
            product(*(dict.fromkeys(value & mask for value in self.domains.values(place)) for place in places))
        )
        state.guesses += len(guesses) > 1
        for values in guesses[1:]:
            other = state.copy()
            for number, (place, value) in enumerate(zip(places, values, strict=True)):
                self._load(other, op, pc, word, place, value, number, addr, pick_addr)
            self.pending.append(other)
        for number, (place, value) in enumerate(zip(places, guesses[0], strict=True)):
            self._load(state, op, pc, word, place, value, number, addr, pick_addr)
        return True

    def _load(
        self,
        state: _State,
        op: Operation,
        pc: int,
        word: int,
        address: int,
        value: int,
        number: int,
        addr: int,
        pick_addr: int,
    ) -> None:
        """Do one load, and the store of an atomic. `number` is 1 for the second register of a pair."""
        index = len(state.events)
        # A load after a store of the same thread to the location inherits the loads that picked the value (lmrs).
        # It needs no data dependencies of the store: the models order the load itself after those.
        data, pick = 1 << index, 0
        for earlier in reversed(state.events):
            if earlier.kind == "W" and earlier.address == address:
                pick = earlier.pick_data
                break
        event = self._event(state, "R", pc, word, address, value, op.order)
        event.addr, event.pick_addr = addr, pick_addr
        if op.kind == "cas":
            event.returns = op.target != 31
            self._compare(state, op, event, index, data, pick)
            return
        if op.kind == "atomic":
            event.returns = op.target != 31
            operand, stored, stored_pick = state.get(op.data)
            assert op.compute
            written = self._event(state, "W", pc, word, address, op.compute(value, operand), op.write_order)
            written.addr, written.pick_addr = addr, pick_addr
            # SWP stores its operand. The other atomics store the loaded value combined with the operand.
            written.data = stored if op.name == "swp" else stored | 1 << index
            written.pick_data = stored_pick
            written.rmw = index
            state.put(op.target, value, data, pick)
            return
        if op.extends:
            value = signed(value, 8 * op.size) & ((1 << op.extends) - 1)
        state.put(op.second if number else op.data, value, data, pick)
        if op.exclusive:
            state.monitor = index

    def _compare(self, state: _State, op: Operation, loaded: Event, index: int, data: int, pick: int) -> None:
        """The rest of CAS and CASP after the load, with the dependencies of herd's catalogue `aarch64-cas`.

        - When the comparison fails, nothing is stored. The compared register gets the loaded value.
        - When it succeeds, the store's data is the new value; the load and the compared register pick the store.
        - Then a CPU may write the loaded value to the compared register, or leave the equal old value there. In the
          second case the load only picks it. Both are forks, unless the old value depends on nothing: then the second
          case allows all that the first does.
        """
        half = 4 * op.size if op.pair else 8 * op.size
        expected, compared, compared_pick = self._joined(state, op.target, op)
        fork = None
        if loaded.value == expected:
            operand, stored, stored_pick = self._joined(state, op.data, op)
            assert op.compute
            value = op.compute(loaded.value, operand)
            written = self._event(state, "W", loaded.pc, loaded.word, loaded.address, value, op.write_order)
            written.addr, written.pick_addr = loaded.addr, loaded.pick_addr
            written.data = stored
            written.pick_data = stored_pick | compared | compared_pick | data | pick
            written.rmw = index
            if compared | compared_pick:
                fork = state.copy()
            else:
                data, pick = 0, data | pick
        for other, deps, picks in ((state, data, pick), (fork, compared, compared_pick | compared | data | pick)):
            if other is not None:
                other.put(op.target, loaded.value & ((1 << half) - 1), deps, picks)
                if op.pair:
                    other.put(op.target + 1, loaded.value >> half, deps, picks)
        if fork is not None:
            state.guesses += 1
            fork.guesses += 1
            self.pending.append(fork)

    @staticmethod
    def _joined(state: _State, register: int, op: Operation) -> tuple[int, int, int]:
        """The register as `_State.get` gives it, cut to the access; of CASP, both registers as one value."""
        value, data, pick = state.get(register)
        if not op.pair:
            return value & ((1 << 8 * op.size) - 1), data, pick
        high, more, picked = state.get(register + 1)
        mask = (1 << 4 * op.size) - 1
        return value & mask | (high & mask) << 4 * op.size, data | more, pick | picked

    def _store(
        self, state: _State, op: Operation, pc: int, word: int, places: tuple[int, ...], addr: int, pick_addr: int
    ) -> bool:
        monitor = state.monitor
        if op.exclusive:
            state.monitor = -1
            state.guesses += 1
            failed = state.copy()
            failed.put(op.status, 1)
            self.pending.append(failed)
            if monitor < 0 or state.events[monitor].address != places[0]:
                return False
        for register, address in zip((op.data, op.second), places, strict=False):
            value, data, pick = state.get(register)
            event = self._event(state, "W", pc, word, address, value & ((1 << 8 * op.size) - 1), op.order)
            event.addr, event.pick_addr, event.data, event.pick_data = addr, pick_addr, data, pick
        if op.exclusive:
            event.rmw = monitor
            state.put(op.status, 0)
        return True


def _finished(state: _State) -> Trace:
    return Trace(
        tuple(state.events),
        tuple(state.path),
        {number: value[0] for number, value in state.registers.items()},
        state.end,
    )


class Domains:
    """The values that each location may hold, in the order in which they were found."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._stored: dict[int, list[int]] = {}

    def add(self, address: int, value: int) -> bool:
        """Add a value to a location's domain; whether the traces that use this domain must run again."""
        known = self._stored.get(address)
        if known is None:
            known = self._stored[address] = [self._program.initial(address)]
        elif value in known:
            return False
        if value in known:
            return address in self._program.code  # From its first store on, a code word is fetched as a guess.
        known.append(value)
        return True

    def words(self, address: int) -> Sequence[int] | None:
        """The words that a fetch from this address may get; None when no trace stores to it."""
        return self._stored.get(address)

    def values(self, address: int) -> Sequence[int]:
        """The values that a load from this address may get."""
        return self._stored.get(address) or (self._program.initial(address),)


@dataclass
class Behaviours:
    """The traces of every thread, and the number of paths that were given up because they looped or grew too long."""

    traces: list[list[Trace]]
    cut: int
    left_out: str
    """A clause about the first path that was given up; empty when there is none."""
    accesses: frozenset[tuple[int, int]] = frozenset()
    """Address and size in bytes of each access to data."""


def behaviours(program: Program) -> Behaviours:
    """All traces of all threads.

    Each stored value joins the domain of its location. A thread runs again when a domain that it uses grows, until
    no run finds a value that an execution could contain and a domain does not.

    ScopeError for an instruction that is not modelled, and for a program with too many paths.
    """
    domains = Domains(program)
    count = len(program.threads)
    runs: list[list[Trace]] = [[] for _ in range(count)]
    used: list[set[int]] = [set() for _ in range(count)]
    accesses: list[set[tuple[int, int]]] = [set() for _ in range(count)]
    cuts = [0] * count
    left_out = [""] * count
    stale = set(range(count))
    interrupts = 0
    rounds = most_stored = 0
    while stale:
        rounds += 1
        changed = set[int]()
        for number in sorted(stale):
            runner = _Runner(program, number, domains, interrupts)
            runs[number] = runner.run()
            used[number] = runner.used | {address for trace in runs[number] for address, _ in trace.path}
            accesses[number] = runner.accesses
            cuts[number], left_out[number] = runner.cut, runner.left_out
            for event in _stores(runs[number]):
                if domains.add(event.address, event.value):
                    changed.add(event.address)
        # A value first found in round n takes a chain of n stores, in which each store uses the value of the store
        # before. No chain is longer than the number of stores in an execution, so later values cannot occur. When a
        # value leads to more stores, the rounds are counted anew.
        stored = sum(max((_stored(trace) for trace in run), default=0) for run in runs)
        if stored > most_stored:
            most_stored, rounds = stored, 0
        if rounds > most_stored:
            changed.clear()
        stale = {number for number in range(count) if used[number] & changed}
        most = sum(max((_sent(trace) for trace in run), default=0) for run in runs)
        if most > interrupts:
            interrupts = most
            stale |= {number for number in range(count) if program.threads[number].irq_vector is not None}
    accessed = frozenset[tuple[int, int]]().union(*accesses)
    _refuse_mixed_sizes(program, domains, accessed)
    return Behaviours(runs, sum(cuts), next(filter(None, left_out), ""), accessed)


def _stored(trace: Trace) -> int:
    return sum(event.kind == "W" for event in trace.events)


def _sent(trace: Trace) -> int:
    return sum(event.kind == "SGI" for event in trace.events)


def _stores(traces: list[Trace]) -> Iterator[Event]:
    return (event for trace in traces for event in trace.events if event.kind == "W")


def _refuse_mixed_sizes(program: Program, domains: Domains, accesses: frozenset[tuple[int, int]]) -> None:
    """ScopeError for accesses of a location with different sizes: in the model a location is one value.

    Accesses with 4 and with 8 bytes are fine while all values have 4 bytes: then the other half is always 0.
    """
    sizes: dict[int, set[int]] = {}
    for address, size in accesses:
        sizes.setdefault(address, set()).add(size)
    for address, used in sorted(sizes.items()):
        smallest, largest = min(used), max(used)
        wide = any(value >> 8 * smallest for value in domains.values(address))
        if smallest != largest and (wide or used != {4, 8}):
            reason = f"is accessed with {' and '.join(map(str, sorted(used)))} bytes"
        elif wide:
            reason = f"has a value of more than {smallest} bytes, and accesses of {smallest} bytes"
        elif address % largest or any(other in program.memory for other in range(address + 1, address + largest)):
            reason = f"has an access of {largest} bytes that is not aligned or goes on to the next location"
        else:
            continue
        raise ScopeError(f"{program.name_of(address)} {reason}: mixed sizes are not modelled")

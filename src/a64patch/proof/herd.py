"""The programs of a proof as litmus tests for herd7 (`-variant ifetch`), so that anybody can check our answers.

Read on: cases.py builds the programs; litmus.py reads the tests again, and must give the same answers.

A test has the same stores, maintenance and barriers as the program. Three things are said otherwise:
- Numbers that an instruction only moves to a register are initial values: `instr:"…"` for words, `P1:L0` for addresses.
- A proof knows only the flow of a patched word, and whether it may race (CMODX). So other words of the same flow and
  the same class take its place. They leave 1 in a register after the old word, and 2 after the new one.
- Unchanged words that fall through are NOP.

herd7 has no interrupts between CPUs, no exception vectors, and no cache line of several words. `text` refuses a program
that needs them, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations

from a64patch.a64.cmodx import hotpatch_safe
from a64patch.a64.disassembler import disassemble
from a64patch.errors import ScopeError
from a64patch.proof.cases import Case
from a64patch.proof.model import Model
from a64patch.proof.program import Thread
from a64patch.proof.properties import BROKEN, STALE, TORN
from a64patch.proof.prove import Question
from a64patch.proof.semantics import MASK64, Operation, flow, operation
from a64patch.proof.timeline import instruction

_FIRST_CONSTANT, _LAST_MARK = 10, 29
"""X10 and upwards hold initial values, X29 and downwards the marks. The protocols use X0 to X9."""
_MOST_PAIRS = 256


@dataclass
class Exported:
    """A program that was searched for executions that break a property, and the answers."""

    name: str
    """Safe as the name of a file, and unique within a `Recorder`."""
    case: Case
    property: str
    profile: str
    allowed: dict[str, bool] = field(default_factory=dict)
    """By model: whether an execution breaks the property."""

    def text(self) -> str:
        """The test in herd's format. ScopeError, with the reason, when herd has no form for it."""
        return text(self.case, self.property, self.name, self.allowed, self.profile)


class Recorder:
    """Notes each search of `prove(observe=…)` as a test."""

    def __init__(self) -> None:
        self.tests: dict[Question, list[Exported]] = {}
        self._count = 0

    def __call__(self, question: Question, case: Case, name: str, model: Model, allowed: bool) -> None:
        """Note one answer."""
        tests = self.tests.setdefault(question, [])
        test = next((each for each in tests if each.case is case and each.property == name), None)
        if test is None:
            self._count += 1
            parts = [question.protocol, *(f"without-{step}" for step in sorted(question.omit)), name]
            parts += ["other" if case.subject else "self", str(self._count)]
            test = Exported(_safe("-".join(parts)), case, name, question.profile)
            tests.append(test)
        test.allowed[model.name] = allowed


def _safe(name: str) -> str:
    """The name with letters, digits, `-`, `.` and `+` only. A long name loses its middle, not its number."""
    clean = "".join(each if each.isascii() and (each.isalnum() or each in "-.+") else "_" for each in name)
    return clean if len(clean) <= 100 else f"{clean[:60]}_{clean[-39:]}"


def text(case: Case, name: str, title: str, allowed: Mapping[str, bool], profile: str) -> str:
    """The case with the question about one property, in herd's format. `allowed` is the answer of each model.

    ScopeError, with the reason, when herd has no form for it.
    """
    program = case.program
    if program.pinned:
        if not any(allowed.values()):
            raise ScopeError("only two of its words may be new, which herd cannot be told; the complete site follows")
        # A counterexample in which the other words stay old is one of the complete site, too.
        case = replace(case, program=replace(program, pinned=frozenset()))
    return _Writer(case, name, title, allowed, profile).text()


@dataclass
class _Word:
    """What takes the place of one word of the site: rows in front of and behind it, and the new word's text."""

    before: list[str]
    old: str
    new: str
    after: list[str]


class _Writer:
    def __init__(self, case: Case, name: str, title: str, allowed: Mapping[str, bool], profile: str) -> None:
        self.case = case
        self.program = case.program
        self.name = name
        self.title = title
        self.allowed = allowed
        self.profile = profile
        self.places = case.program.windows[0][::4]
        self.changed = sorted(case.words)
        self.marks = {address: _LAST_MARK - index for index, address in enumerate(self.changed)}
        self.site: list[str] = []
        self.labels: dict[int, str] = {}
        self.news: dict[int, str] = {}
        self.seen_flag = -1
        """The register of the watched CPU that holds the flag."""
        self.initial: dict[tuple[int, str], int] = {}

    def text(self) -> str:
        self._refuse()
        self._lay_out()
        columns = [self._column(number, thread) for number, thread in enumerate(self.program.threads)]
        height = max(map(len, columns))
        rows = [[f"P{number}" for number in range(len(columns))]]
        rows += [[column[row] if row < len(column) else "" for column in columns] for row in range(height)]
        widths = [max(len(row[number]) for row in rows) for number in range(len(columns))]
        lines = [f"AArch64 {self.title}", "Variant=ifetch"]
        if self.program.idc:
            lines.append("CacheType=IDC DIC" if self.program.dic else "CacheType=IDC")
        lines += ["(*", *(f"  {line}" for line in self._comment()), "*)", "{"]
        for (thread, value), register in self.initial.items():
            lines.append(f" {thread}:X{register}={value};")
        lines.append("}")
        for row in rows:
            lines.append(" " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) + " ;")
        return "\n".join([*lines, "", f"exists ({self._condition()})", ""])

    def _refuse(self) -> None:
        program = self.program
        if len(program.windows) != 1:
            raise ScopeError("it has several sites")
        if any(thread.irq_vector is not None for thread in program.threads):
            raise ScopeError("it needs interrupts between CPUs, which herd does not have")
        if program.guards:
            raise ScopeError("it needs an exception vector for BRK, which herd does not have in this form")
        if len(program.threads) > 2:
            raise ScopeError("several CPUs execute the same words, and herd has code of one CPU only")
        if program.returns and program.outside >= 0:
            raise ScopeError("a CPU comes back into the site from code that is not known")
        if self.name == TORN and len(self.changed) * (len(self.changed) - 1) > _MOST_PAIRS:
            raise ScopeError(f"its {len(self.changed)} words are too many pairs for one condition")
        maintained = any(
            step.act.name in ("CLEAN", "INVALIDATE", "INVALIDATE_OWN") for step in self.case.steps.values()
        )
        if maintained and len({program.line_of(each) for each in self.changed}) < len(self.changed):
            raise ScopeError("its words share a cache line, and herd has a line for each word")

    def _lay_out(self) -> None:
        """Write the site: `self.site`, and the new words by address."""
        window = self.program.windows[0]
        ends = {address: self._next(address, self.program.code[address]) for address in self.places}
        words: dict[int, _Word] = {}
        for address in self.places:
            if address in self.case.words:
                words[address] = self._replacement(address, *self.case.words[address])
            else:
                goes = ends[address]
                words[address] = _Word([], "NOP" if goes == address + 4 else f"B {self._place(goes)}", "", [])
        starts: dict[int, int] = {}
        row = 0
        for address, word in words.items():
            starts[address] = row
            row += len(word.before) + 1 + len(word.after)
        starts[window.stop] = row
        for number, (address, word) in enumerate(words.items()):
            label = f"{self.labels[address]}: " if address in self.labels else ""
            mine = [*word.before, f"L{number}: {word.old}" if address in self.case.words else word.old, *word.after]
            mine[0] = label + mine[0]
            self.site += mine
            if word.new.startswith("to "):
                distance = 4 * (starts[int(word.new[3:])] - starts[address] - len(word.before))
                word.new = f"B .+{distance}"
            self.news[address] = word.new
        if window.stop in self.labels:
            self.site.append(f"{self.labels[window.stop]}:")

    def _place(self, address: int) -> str:
        """The label of a word of the site, or of its end."""
        return self.labels.setdefault(address, "out" if address == self.program.windows[0].stop else f"S{address:x}")

    def _next(self, address: int, word: int) -> int:
        """The address that follows a word of the site; the end of the site stands for all code outside."""
        window = self.program.windows[0]
        op = Operation("nop") if self.program.falls_through else flow(word)
        if op.kind in ("either", "anywhere"):
            raise ScopeError(f"in a proof {instruction(word)} goes each way, whatever the registers hold")
        target = address + op.offset if op.kind == "jump" else address + 4
        if target not in window:
            return window.stop
        if target <= address:
            raise ScopeError("the site has a loop")
        return target

    def _replacement(self, address: int, old: int, new: int) -> _Word:
        """Words of the same flow and class, with marks: 1 after the old word, 2 after the new one."""
        mark, behind = f"MOV W{self.marks[address]},#", address + 4
        goes, will = self._next(address, old), self._next(address, new)
        races = bool(hotpatch_safe(old, new, self.profile))
        if goes != behind and will != behind:
            raise ScopeError("both words jump, and no register can tell which one did")
        if will != behind:
            return _Word([f"{mark}2"], "NOP" if races else f"{mark}1", f"to {will}", [f"{mark}1"] if races else [])
        if goes != behind:
            jump = f"B {self._place(goes)}"
            return _Word([f"{mark}1"], jump, "NOP" if races else f"{mark}2", [f"{mark}2"] if races else [])
        if races:
            return _Word([f"{mark}2"], "NOP", "B .+8", [f"{mark}1"])
        return _Word([], f"{mark}1", f"{mark}2", [])

    def _column(self, number: int, thread: Thread) -> list[str]:
        """One thread's rows, the site among them where the thread comes to it."""
        return _Column(self, number, thread).rows()

    def constant(self, thread: int, value: str) -> int:
        """The number of the register of a thread that holds a value from the beginning."""
        key = (thread, value)
        if key not in self.initial:
            used = sum(other == thread for other, _ in self.initial)
            self.initial[key] = _FIRST_CONSTANT + used
            if _FIRST_CONSTANT + used > _LAST_MARK - len(self.changed):
                raise ScopeError("it has more values than a CPU has registers")
        return self.initial[key]

    def address(self, thread: int, value: int) -> int:
        """The register that holds an address."""
        if value in self.case.words:
            number = (value - self.program.windows[0].start) // 4
            return self.constant(thread, f"P{self.case.subject}:L{number}")
        # A line of one word, or of the head of a line that has one changed word.
        line = [each for each in self.changed if self.program.line_of(each) == self.program.line_of(value)]
        if value in self.program.memory:
            return self.constant(thread, self.program.name_of(value))
        if len(line) == 1:
            return self.address(thread, line[0])
        raise ScopeError(f"the address {value:#x} has no name")

    def stored(self, thread: int, address: int, value: int) -> int:
        """The register that holds a value to store."""
        if address not in self.case.words:
            return self.constant(thread, str(value))
        if value != self.case.words[address][1]:
            raise ScopeError(f"the word {value:08x} is neither old nor new")
        return self.constant(thread, f'instr:"{self.news[address]}"')

    def _condition(self) -> str:
        old, new = ({each: f"{self.case.subject}:X{mark}={age}" for each, mark in self.marks.items()} for age in (1, 2))
        if self.name == TORN:
            pairs = permutations(self.changed, 2)
            return " \\/ ".join(f"({old[one]} /\\ {new[other]})" for one, other in pairs) or "false"
        if self.name == STALE:
            stale = " \\/ ".join(old.values())
            if self.case.told[0] == "start":
                return stale
            if self.seen_flag < 0:
                raise ScopeError("the watched CPU does not read the flag")
            return f"{self.case.subject}:X{self.seen_flag}=1 /\\ ({stale})"
        return "true"

    def _comment(self) -> list[str]:
        case = self.case
        lines = [f"Protocol {case.protocol}; P{case.subject} is {case.title}.", f"{self.name}: {BROKEN[self.name]}?"]
        answers = ", ".join(f"{'Allowed' if is_ else 'Forbidden'} ({name})" for name, is_ in self.allowed.items())
        if self.name in (TORN, STALE):
            lines.append(f"Answer of a64patch prove: {answers}. The model arm is herd's.")
        else:
            answers = ", ".join(f"{'possible' if is_ else 'none'} ({name})" for name, is_ in self.allowed.items())
            lines += [
                f"Answer of a64patch prove: CMODX {answers}; `a64patch litmus` prints it. No final state shows it.",
                "herd has a flag of its own for CMODX, which asks less: it knows only the order of fetch and store.",
            ]
        for number, address in enumerate(self.places):
            if address in case.words:
                old, new = case.words[address]
                lines.append(
                    f"L{number} stands for {instruction(old)}, which becomes {instruction(new)};"
                    f" X{self.marks[address]} is 1 after the old word, 2 after the new."
                )
        if any(operation(word).kind == "sgi" for pc, word in self.program.code.items() if pc in case.steps):
            lines.append("The interrupt that the protocol sends has no receiver here, and is left out.")
        return lines


class _Column:
    """The rows of one thread: constants become initial values, all else is written as it is."""

    def __init__(self, writer: _Writer, number: int, thread: Thread) -> None:
        self.writer = writer
        self.number = number
        self.known = dict(thread.registers)
        self.entry = thread.entry
        self.labels: dict[int, str] = {}
        self.loaded = set[int]()

    def rows(self) -> list[str]:
        program = self.writer.program
        written: list[tuple[int, list[str]]] = []
        pc = self.entry
        last: list[str] = []
        while pc in program.code:
            op = operation(program.code[pc])
            if op.kind == "jump" and op.test is None and op.condition < 0:
                target = pc + op.offset
                if target in program.windows[0]:
                    last = self._site(target)
                break
            written.append((pc, self._row(pc, program.code[pc], op)))
            pc += 4
        rows: list[str] = []
        pending = ""
        for place, texts in written:
            if place in self.labels:
                pending += f"{self.labels[place]}: "
            for each in texts:
                rows.append(pending + each)
                pending = ""
        if pc in self.labels:
            pending += f"{self.labels[pc]}: "
        rows += [*([pending.strip()] if pending else []), *last]
        behind = [label for place, label in self.labels.items() if place not in {each for each, _ in written} | {pc}]
        return [*rows, *(f"{label}:" for label in behind)]

    def _site(self, entry: int) -> list[str]:
        window = self.writer.program.windows[0]
        if entry == window.start:
            return self.writer.site
        skipped = self.writer.site
        wanted = f"L{(entry - window.start) // 4}: "
        # The marks in front of a word belong to it.
        at = next((index for index, row in enumerate(skipped) if wanted in row), None)
        if at is None:
            raise ScopeError("a CPU enters at a word that does not change")
        mark = f"MOV W{self.writer.marks[entry]},"
        while at and mark in skipped[at - 1]:
            at -= 1
        return ["B enter", *skipped[:at], f"enter: {skipped[at]}", *skipped[at + 1 :]]

    def _row(self, pc: int, word: int, op: Operation) -> list[str]:
        """The rows of one instruction; none for one that only makes a constant."""
        writer = self.writer
        known = self.known
        if op.kind == "alu" and op.compute and not op.flags and all(self._is_known(each) for each in op.sources):
            self.loaded.discard(op.target)
            known[op.target] = op.compute(*(known.get(each, 0) for each in op.sources)) & MASK64
            return []
        if op.kind == "sgi":
            return []
        if op.kind in ("dc", "ic"):
            name = "DC CVAU" if op.kind == "dc" else "IC IVAU"
            return [f"{name},X{writer.address(self.number, self._value(op.base))}"]
        if op.kind in ("load", "store") and op.index < 0 and not op.writeback and not op.order and not op.exclusive:
            address = self._value(op.base) + op.offset
            base = writer.address(self.number, address)
            size = "W" if op.size == 4 else "X"
            if op.kind == "store":
                register = op.data
                if self._is_known(register):
                    register = writer.stored(self.number, address, known.get(register, 0))
                return [f"STR {size}{register},[X{base}]"]
            self._loaded(op.data, address)
            return [f"LDR {size}{op.data},[X{base}]"]
        if op.kind == "jump" and op.test is not None and not self._is_known(op.data):
            name, tested, *more = _spelled(word).upper().replace(",", "").split()
            target = pc + op.offset
            # A constant that only one way sets would be wrong as an initial value.
            if len(more) == 1 and (target == pc + 4 or target not in writer.program.code):
                return [f"{name} {tested},{self._label(target)}"]
        if op.kind in ("barrier", "isb", "nop"):
            return [_spelled(word).upper()]
        raise ScopeError(f"{instruction(word)} is not written as a part of a test")

    def _loaded(self, register: int, address: int) -> None:
        self.loaded.add(register)
        if self.number == self.writer.case.subject and address in self.writer.program.memory:
            self.writer.seen_flag = register

    def _is_known(self, register: int) -> bool:
        return register not in self.loaded

    def _value(self, register: int) -> int:
        if not self._is_known(register):
            raise ScopeError("an address depends on a load")
        return self.known.get(register, 0)

    def _label(self, address: int) -> str:
        return self.labels.setdefault(address, f"A{len(self.labels)}")


def _spelled(word: int) -> str:
    """The text of a word at address 0, as herd knows it too once it is in upper case."""
    return disassemble(word)

"""Litmus tests in herd's format for AArch64: the text in, a `Program` and a question about its final state out.

Read on: search.py answers; ../cli/litmus.py prints.

A test is untrusted text: its size is bounded, nothing in it is evaluated, and an error names line and column.
ScopeError names a feature that the models do not cover, such as page tables and tags.
Source of the format: herdtools7's manual, part "Writing litmus tests".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from a64patch.a64.assembler import assemble_one
from a64patch.errors import AssemblyError, FormatError, ScopeError
from a64patch.proof.execution import Execution
from a64patch.proof.model import Model
from a64patch.proof.program import Program, Thread
from a64patch.proof.search import Query, Result, Statistics, search
from a64patch.proof.semantics import MASK32, MASK64
from a64patch.proof.traces import Behaviours, Trace, behaviours

LARGEST = 1 << 16
"""The most characters of one test."""
MOST_VISITS = 100
_MOST_THREADS = 16
_MOST_INSTRUCTIONS = 256
_MOST_CLAUSES = 256
_CODE, _CODE_STEP = 0x10000, 0x1000
_DATA, _DATA_STEP = 0x8000000, 64

_TOKEN = re.compile(
    r"""\s*(?: (?P<string>"[^"\n]{0,200}") | (?P<number>-?(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})\b)
        | (?P<name>[A-Za-z_][\w.]*) | (?P<op>/\\|\\/|!=|==|[~()=;:\[\]*{},+&<>|-]) )""",
    re.VERBOSE | re.ASCII,
)
_REGISTER = re.compile(r"[xXwW]([0-9]|[12][0-9]|30)", re.ASCII)
_LABEL = re.compile(r"\s*([A-Za-z_]\w*)\s*:", re.ASCII)
_TARGET = re.compile(r"([\s\S]*[\s,])([A-Za-z_]\w*)", re.ASCII)
_COLUMN = re.compile(r"P([0-9]{1,3})(\.F)?", re.ASCII)
_INSTRUCTIONS = frozenset({"NOP", "ISB"})
_VARIANTS = frozenset({"ifetch", "self", "fatal", "exs", "eis", "eos", "mixed"})
"""Variants of herd that this file knows. `self` is the old name of ifetch; `mixed` changes nothing that is modelled."""
_SIZES = {
    f"{sign}int{bits}_t": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64, 128)
} | {"char": 1, "int": 4, "ins_t": 4}  # fmt: skip
"""Bytes of the types in the initial state; a pointer has 8."""
_FAULTS = {"SupervisorCall": "svc", "UndefinedInstruction": "udf"}
_EXCEPTIONS = frozenset({"svc", "brk", "udf"})


@dataclass(frozen=True)
class Literal:
    """One equation of a final condition. `place` is a register of `thread`, or an address when `thread` is -1."""

    thread: int
    place: int
    value: int
    equal: bool


@dataclass(frozen=True)
class Fault:
    """An exception of a final condition: whether it ended `thread`, at an address (or -1), of a kind (or ``)."""

    thread: int
    place: int
    kind: str
    equal: bool

    def agrees(self, trace: Trace) -> bool:
        """Whether the trace ends as demanded."""
        kinds = {self.kind} if self.kind else _EXCEPTIONS
        return (trace.end in kinds and self.place in (-1, trace.path[-1][0])) == self.equal


@dataclass(frozen=True)
class Litmus:
    """A test: the program, and a question about its final state.

    `clauses` is the proposition that the search tries to satisfy: a list of alternatives, each a list of equations that
    must all hold. For `forall` it is the negation of the test's proposition.
    """

    name: str
    program: Program
    quantifier: str
    """exists, ~exists or forall."""
    clauses: tuple[tuple[Literal | Fault, ...], ...]
    labels: dict[str, int] = field(default_factory=dict)
    """Addresses of `P0:label` and of the names of data."""
    sizes: dict[int, int] = field(default_factory=dict)
    """The bytes of the locations whose type the test names."""
    fatal: bool = False
    """Whether an exception ends a thread that has no handler."""

    def queries(self) -> list[Query]:
        """One query for each alternative."""
        return [_query(clause) for clause in self.clauses]

    def verdict(self, model: Model, known: Behaviours | None = None) -> Result:
        """Whether some execution satisfies the proposition (for `forall`: breaks the test's proposition).

        If none was found and `Result.left_out` is not empty, there is no answer: an execution may have been missed.
        `known` is `behaviours(self.program)`, for callers that ask several models. ScopeError for an exception without
        a handler, unless it is fatal, and for an access that is larger than the location's type.
        """
        known = known or behaviours(self.program)
        self._require_scope(known)
        last = Result(False, None, Statistics(tuple(map(len, known.traces)), cut=known.cut))
        for query in self.queries():
            result = search(self.program, model, query, known)
            if result:
                return result
            if result.statistics.choices >= last.statistics.choices:
                last = result
        return last

    def _require_scope(self, known: Behaviours) -> None:
        for address, size in sorted(known.accesses):
            if size > self.sizes.get(address, size):
                raise ScopeError(
                    f"{self.program.name_of(address)} has {self.sizes[address]} bytes and an access of {size} bytes: "
                    "mixed sizes are not modelled"
                )
        for thread, traces in zip(self.program.threads, known.traces, strict=True):
            if not self.fatal and any(trace.end in _EXCEPTIONS for trace in traces):
                raise ScopeError(
                    f"{thread.name} takes an exception and has no handler {thread.name}.F: only Variant=fatal says "
                    "what happens then"
                )


def _query(clause: tuple[Literal | Fault, ...]) -> Query:
    registers: dict[int, list[Literal]] = {}
    faults: dict[int, list[Fault]] = {}
    memory: dict[int, int] = {}
    others: list[Literal] = []
    for literal in clause:
        if isinstance(literal, Fault):
            faults.setdefault(literal.thread, []).append(literal)
        elif literal.thread >= 0:
            registers.setdefault(literal.thread, []).append(literal)
        elif literal.equal and memory.setdefault(literal.place, literal.value) == literal.value:
            continue
        else:
            others.append(literal)

    def trace(number: int, candidate: Trace) -> bool:
        return all(
            (candidate.register(literal.place) in (literal.value & MASK64, literal.value & MASK32)) == literal.equal
            for literal in registers.get(number, ())
        ) and all(fault.agrees(candidate) for fault in faults.get(number, ()))

    def memory_agrees(x: Execution) -> bool:
        return all((x.value_at_end(one.place) == one.value) == one.equal for one in others)

    return Query(
        trace=trace if registers or faults else None, memory=memory, execution=memory_agrees if others else None
    )


_Clause = tuple[Literal | Fault, ...]
_Column = list[tuple[int, str]]


def parse(text: str, origin: str = "litmus test", visits: int = Program.visits) -> Litmus:
    """The test in this text. `origin` names the text in errors; `visits` is that of Program.

    FormatError, with line and column, when the text is no litmus test. ScopeError when the models do not cover it.
    """
    return _Parser(text, origin, visits).parse()


@lru_cache(maxsize=4096)
def _word(text: str) -> int:
    return assemble_one(text)


class _Parser:
    def __init__(self, text: str, origin: str, visits: int) -> None:
        self.origin = origin
        self.visits = visits
        if len(text) > LARGEST:
            raise FormatError(f"{origin}: {len(text)} characters, a litmus test has at most {LARGEST}")
        self.text = text
        self.plain = self._without_comments(text)
        self.labels: dict[str, int] = {}
        self.data: dict[str, int] = {}
        self.sizes: dict[int, int] = {}
        self.arrays: dict[str, int] = {}
        """The number of elements, by name."""
        self.handled: frozenset[int] = frozenset()
        self.at = 0

    def fail(self, position: int, message: str) -> FormatError:
        line = self.text.count("\n", 0, position) + 1
        column = position - (self.text.rfind("\n", 0, position) + 1) + 1
        return FormatError(f"{self.origin}:{line}:{column}: {message}")

    def _without_comments(self, text: str) -> str:
        """The text with spaces in place of every comment, so that positions stay. Comments nest."""
        if "(*" not in text:
            return text
        parts = list(text)
        depth = start = 0
        for found in re.finditer(r'\(\*|\*\)|"[^"\n]*"', text):
            if found[0] == "(*":
                if not depth:
                    start = found.start()
                depth += 1
            elif found[0] == "*)" and depth:
                depth -= 1
                if not depth:
                    for index in range(start, found.end()):
                        if parts[index] != "\n":
                            parts[index] = " "
        if depth:
            raise self.fail(start, "a comment is not closed")
        return "".join(parts)

    def parse(self) -> Litmus:
        opening = self.plain.find("{")
        head = self.plain[: max(opening, 0)]
        words = head.split()
        if len(words) < 2 or words[0] != "AArch64":
            raise self.fail(0, "a test begins with `AArch64 NAME` and an initial state in braces")
        closing = self._closing(opening)
        if closing < 0:
            raise self.fail(opening, "the initial state is not closed")
        condition = re.compile(r"^[ \t]*(locations|filter|forall|exists|~[ \t]*exists|not[ \t]+exists)\b", re.MULTILINE)
        found = condition.search(self.plain, closing)
        if not found:
            raise self.fail(len(self.plain), "there is no final condition")
        idc, dic = self._caches(head)
        variants = self._variants(head)
        columns, handlers = self._columns(closing + 1, found.start())
        self.handled = frozenset(handlers)
        code, entries, vectors = self._assemble(columns, handlers)
        registers, memory = self._initial(opening + 1, closing, len(columns))
        quantifier, clauses = self._condition(found.start(), len(columns), memory)
        names = {address: name for name, address in {**self.data, **self.labels}.items()}
        threads = tuple(
            Thread(entry, registers.get(number, {}), f"P{number}", sync_vector=vectors.get(number))
            for number, entry in enumerate(entries)
        )
        # Without FEAT_ExS exception entry and return always synchronise the context.
        relaxed = "exs" in variants
        program = Program(
            threads, code, memory, idc=idc, dic=dic, eis=not relaxed or "eis" in variants,
            eos=not relaxed or "eos" in variants, names=names, visits=self.visits,
        )  # fmt: skip
        return Litmus(
            words[1], program, quantifier, tuple(clauses), {**self.data, **self.labels}, self.sizes, "fatal" in variants
        )

    def _closing(self, opening: int) -> int:
        """The position of the brace that closes the initial state; -1 when there is none."""
        depth = 0
        for found in re.finditer(r'[{}]|"[^"\n]*"', self.plain[opening:]):
            depth += {"{": 1, "}": -1}.get(found[0], 0)
            if not depth:
                return opening + found.start()
        return -1

    def _variants(self, head: str) -> set[str]:
        found = re.findall(r"^\s*variant\s*=(.*)$", head, re.MULTILINE | re.IGNORECASE)
        variants = {name.lower() for text in found for name in text.replace(",", " ").split()}
        for name in sorted(variants - _VARIANTS):
            raise ScopeError(f"{self.origin}: the variant {name!r} is not modelled")
        return variants

    def _caches(self, head: str) -> tuple[bool, bool]:
        found = re.search(r"^\s*CacheType\s*=(.*)$", head, re.MULTILINE)
        kinds = found[1].replace(",", " ").split() if found else []
        for kind in kinds:
            if kind not in ("IDC", "DIC"):
                raise ScopeError(f"{self.origin}: the cache type {kind!r} is not modelled")
        # A machine with DIC and without IDC does not exist; herd takes DIC to mean both.
        return bool(kinds), "DIC" in kinds

    def _columns(self, start: int, end: int) -> tuple[list[_Column], dict[int, _Column]]:
        """The cells below each thread's name, with their positions; and those of handlers, by thread."""
        rows: list[list[tuple[int, str]]] = []
        position = start
        for line in self.plain[start:end].split(";"):
            cells: list[tuple[int, str]] = []
            for cell in line.split("|"):
                cells.append((position, cell))
                position += len(cell) + 1
            rows.append(cells)
        if rows and all(not cell.strip() for _, cell in rows[-1]):
            rows.pop()
        elif rows:
            raise self.fail(rows[-1][-1][0], "a row of instructions ends with `;`")
        if not rows:
            raise self.fail(start, "there are no threads")
        columns: list[_Column] = []
        handlers: dict[int, _Column] = {}
        below: list[_Column] = []
        for position, cell in rows[0]:
            found = _COLUMN.fullmatch(cell.strip())
            if not found:
                raise self.fail(position, f"expected the name of a thread, P{len(columns)}")
            number = int(found[1])
            below.append([])
            if not found[2]:
                columns.append(below[-1])
            if number in handlers or (number >= len(columns) if found[2] else number != len(columns) - 1):
                raise self.fail(position, f"threads are named in order, each before its handler: not {cell.strip()}")
            if found[2]:
                handlers[number] = below[-1]
        count = len(rows[0])
        if count > _MOST_THREADS or len(rows) > _MOST_INSTRUCTIONS:
            raise self.fail(start, f"more than {_MOST_THREADS} threads or {_MOST_INSTRUCTIONS} rows")
        for row in rows[1:]:
            if len(row) != count:
                raise self.fail(row[0][0], f"{len(row)} columns below {count} threads")
            for column, cell_at in zip(below, row, strict=True):
                if cell_at[1].strip():
                    column.append(cell_at)
        return columns, handlers

    def _assemble(
        self, columns: list[_Column], handlers: dict[int, _Column]
    ) -> tuple[dict[int, int], list[int], dict[int, int]]:
        """The words by address; the first address of each thread, and of each handler by thread."""
        texts: list[tuple[int, int, int, str]] = []
        entries = [_CODE + number * _CODE_STEP for number in range(len(columns))]
        vectors = {number: entries[number] + _CODE_STEP // 2 for number in handlers}
        parts = [*zip(range(len(columns)), entries, columns, strict=True)]
        parts += [(number, vectors[number], column) for number, column in handlers.items()]
        for number, address, column in parts:
            for start, cell in column:
                position = start
                rest = cell
                while found := _LABEL.match(rest):
                    name = f"P{number}:{found[1]}"
                    if name in self.labels:
                        raise self.fail(position, f"the label {name} occurs twice")
                    self.labels[name] = address
                    position += found.end()
                    rest = rest[found.end() :]
                if rest.strip():
                    position += len(rest) - len(rest.lstrip())
                    texts.append((number, address, position, rest.strip()))
                    address += 4
        code = {address: self._instruction(text, address, number, at) for number, address, at, text in texts}
        return code, entries, vectors

    def _instruction(self, text: str, address: int, thread: int, position: int) -> int:
        # Labels become distances, so that `_word` assembles equal texts only once.
        found = _TARGET.fullmatch(text)
        if found:
            target = self.labels.get(f"P{thread}:{found[2]}")
            if target is not None:
                text = f"{found[1]}.{target - address:+d}"
        try:
            return _word(text)
        except AssemblyError as error:
            raise self.fail(position, str(error)) from error

    # Tokens of the initial state and of the condition.

    def _peek(self, end: int) -> tuple[str, str, int]:
        """Kind, text and position of the next token; kind is empty at the end."""
        found = _TOKEN.match(self.plain, self.at, end)
        if found and found.lastgroup:
            return found.lastgroup, found[found.lastgroup], found.start(found.lastgroup)
        rest = self.plain[self.at : end]
        if rest.strip():
            position = self.at + len(rest) - len(rest.lstrip())
            raise self.fail(position, f"unexpected {self.plain[position : position + 10]!r}")
        return "", "", end

    def _next(self, end: int) -> tuple[str, str, int]:
        token = self._peek(end)
        self.at = token[2] + len(token[1])
        return token

    def _take(self, end: int, text: str) -> bool:
        if self._peek(end)[1] == text:
            self._next(end)
            return True
        return False

    def _expect(self, end: int, text: str) -> None:
        _, found, position = self._next(end)
        if found != text:
            raise self.fail(position, f"expected {text!r}, found {found or 'the end'!r}")

    def _address_of(self, name: str, position: int) -> int:
        if name.startswith(("pte_", "tag_", "phy_", "PTE")):
            raise ScopeError(f"{self.origin}: {name}: page tables and tags are not modelled")
        if name not in self.data:
            if len(self.data) >= 256:
                raise self.fail(position, "more than 256 names of data")
            self.data[name] = _DATA + _DATA_STEP * len(self.data)
        return self.data[name]

    def _element_of(self, end: int, name: str, position: int) -> int:
        """The address of a name, or of its element when `[number]` follows the name of an array."""
        address = self._address_of(name, position)
        if name not in self.arrays or not self._take(end, "["):
            return address
        _, index, at = self._next(end)
        self._expect(end, "]")
        if f"{name}[{index}]" not in self.data:
            raise self.fail(at, f"{name} has the elements 0 to {self.arrays[name] - 1}")
        return self.data[f"{name}[{index}]"]

    def _fitting(self, address: int, value: int) -> int:
        """The value as this location holds it. A negative number makes a location without a type an `int`."""
        if value >> 63 and address in self.data.values():
            return value & ((1 << 8 * self.sizes.setdefault(address, 4)) - 1)
        return value

    def _value(self, end: int) -> int:
        kind, text, position = self._next(end)
        if kind == "number" and self._take(end, ":"):
            return self._label(f"P{text}:{self._next(end)[1]}", position)
        if kind == "number":
            return int(text, 16 if "x" in text.lower() else 10) & MASK64
        if kind == "name" and text in ("instr", "label") and self._take(end, ":"):
            kind, quoted, position = self._next(end)
            if kind != "string":
                raise self.fail(position, f"expected a text in quotes after {text}:")
            inside = quoted[1:-1]
            if text == "label":
                return self._label(inside, position)
            try:
                return _word(inside.strip())
            except AssemblyError as error:
                raise self.fail(position, str(error)) from error
        if kind == "name":
            if _COLUMN.fullmatch(text) and self._take(end, ":"):
                _, label, _ = self._next(end)
                return self._label(f"{text}:{label}", position)
            if text in _INSTRUCTIONS:
                return _word(text)
            return self._element_of(end, text, position)
        if text == "(":
            raise ScopeError(f"{self.origin}: the value at {self._place(position)} describes a page table entry")
        raise self.fail(position, f"expected a value, found {text or 'the end'!r}")

    def _place(self, position: int) -> str:
        return str(self.fail(position, "")).removesuffix(": ")

    def _label(self, name: str, position: int) -> int:
        if name not in self.labels:
            raise self.fail(position, f"there is no label {name}")
        return self.labels[name]

    def _register(self, end: int, threads: int) -> tuple[int, int]:
        """Take `0:X1`; returns (thread, register)."""
        _, number, position = self._next(end)
        self._expect(end, ":")
        _, name, at = self._next(end)
        thread = int(number) if number.isdigit() else -1
        if not 0 <= thread < threads:
            raise self.fail(position, f"there is no thread {number}")
        found = _REGISTER.fullmatch(name)
        if found:
            return thread, int(found[1])
        if name.lower() == "sp":
            return thread, 31
        raise self.fail(at, f"expected a register X0 to X30, found {name!r}")

    def _initial(self, start: int, end: int, threads: int) -> tuple[dict[int, dict[int, int]], dict[int, int]]:
        registers: dict[int, dict[int, int]] = {}
        values: dict[int, int] = {}
        self.at = start
        while True:
            while self._take(end, ";"):
                pass
            kind, text, _ = self._peek(end)
            if not kind:
                break
            # A type may stand before the location: names and stars.
            size = 0
            while kind == "name" and self._type_follows(end):
                size = _SIZES.get(self._next(end)[1], 0)
                while self._take(end, "*"):
                    size = 8
                kind, text, _ = self._peek(end)
            if kind == "number":
                thread, register = self._register(end, threads)
                value = self._value(end) if self._take(end, "=") else 0
                registers.setdefault(thread, {})[register] = value
            else:
                address = self._location(end)
                if size:
                    self.sizes[address] = size
                if text in self.data and self._take(end, "["):
                    self._array(end, text, size or 4, values)
                elif self._take(end, "="):
                    values[address] = self._fitting(address, self._value(end))
            if not self._take(end, ";") and self._peek(end)[0]:
                raise self.fail(self._peek(end)[2], "expected `;` between the parts of the initial state")
        memory = {address: values.get(address, 0) for address in self.data.values()}
        return registers, memory

    def _array(self, end: int, name: str, size: int, values: dict[int, int]) -> None:
        """Take `2]` or `2] = {1, 2}` behind the name of an array and its opening bracket."""
        _, text, position = self._next(end)
        count = int(text) if text.isdigit() else 0
        self._expect(end, "]")
        if name in self.arrays or not count:
            raise self.fail(position, "expected the number of elements of a new array")
        if count * size > _DATA_STEP:
            raise ScopeError(f"{self.origin}: the array {name} has more than {_DATA_STEP} bytes, which is not modelled")
        self.arrays[name] = count
        base = self.data[name]
        places = [base + size * index for index in range(count)]
        self.data |= {f"{name}[{index}]": place for index, place in enumerate(places)}
        self.sizes |= dict.fromkeys(places, size)
        if self._take(end, "="):
            self._expect(end, "{")
            for index, place in enumerate(places):
                if index:
                    self._expect(end, ",")
                values[place] = self._fitting(place, self._value(end))
            self._expect(end, "}")

    def _type_follows(self, end: int) -> bool:
        """Whether the next name is a type: a name, a number or `*` follows it."""
        saved = self.at
        self._next(end)
        kind, text, _ = self._peek(end)
        self.at = saved
        return kind in ("name", "number") or text == "*"

    def _location(self, end: int) -> int:
        bracket = self._take(end, "[")
        kind, text, position = self._next(end)
        if kind != "name":
            raise self.fail(position, f"expected a location, found {text or 'the end'!r}")
        if _COLUMN.fullmatch(text) and self._take(end, ":"):
            address = self._label(f"{text}:{self._next(end)[1]}", position)
        else:
            address = self._element_of(end, text, position)
        if bracket:
            self._expect(end, "]")
        return address

    def _condition(self, start: int, threads: int, memory: dict[int, int]) -> tuple[str, list[_Clause]]:
        end = len(self.plain)
        self.at = start
        if self._take(end, "locations"):
            self._expect(end, "[")
            depth = 1
            while depth and (text := self._next(end)[1]):
                depth += {"[": 1, "]": -1}.get(text, 0)
        kept: list[_Clause] = [()]
        if self._take(end, "filter"):
            kept = self._either(end, threads, True, 0)
        negated = self._take(end, "~") or self._take(end, "not")
        _, quantifier, position = self._next(end)
        if quantifier not in ("exists", "forall") or (negated and quantifier == "forall"):
            raise self.fail(position, "expected exists, ~exists or forall")
        clauses = self._product(kept, self._either(end, threads, quantifier == "exists", 0))
        while self._take(end, ";"):
            pass
        kind, text, position = self._peek(end)
        if kind:
            raise self.fail(position, f"unexpected {text!r} after the condition")
        for address in self.data.values():
            memory.setdefault(address, 0)
        return ("~" if negated else "") + quantifier, clauses

    def _either(self, end: int, threads: int, wanted: bool, depth: int) -> list[_Clause]:
        """A disjunction, or its negation when `wanted` is false, as alternatives of literals."""
        found = self._both(end, threads, wanted, depth)
        while self._take(end, "\\/"):
            more = self._both(end, threads, wanted, depth)
            found = found + more if wanted else self._product(found, more)
        return found

    def _both(self, end: int, threads: int, wanted: bool, depth: int) -> list[_Clause]:
        found = self._atom(end, threads, wanted, depth)
        while self._take(end, "/\\"):
            more = self._atom(end, threads, wanted, depth)
            found = self._product(found, more) if wanted else found + more
        return found

    def _product(self, first: list[_Clause], second: list[_Clause]) -> list[_Clause]:
        if len(first) * len(second) > _MOST_CLAUSES:
            raise self.fail(self.at, f"the condition has more than {_MOST_CLAUSES} alternatives")
        return [one + other for one in first for other in second]

    def _atom(self, end: int, threads: int, wanted: bool, depth: int) -> list[_Clause]:
        if depth > 50:
            raise self.fail(self.at, "the condition is nested too deeply")
        if self._take(end, "~") or self._take(end, "not"):
            return self._atom(end, threads, not wanted, depth + 1)
        if self._take(end, "("):
            inner = self._either(end, threads, wanted, depth + 1)
            self._expect(end, ")")
            return inner
        kind, text, position = self._peek(end)
        if text in ("true", "false"):
            self._next(end)
            return [()] if (text == "true") == wanted else []
        if kind == "name" and text.lower() == "fault":
            return [(self._fault(end, threads, wanted),)]
        thread, place = self._register(end, threads) if kind == "number" else (-1, self._location(end))
        _, sign, position = self._next(end)
        if sign not in ("=", "==", "!="):
            raise self.fail(position, f"expected = or !=, found {sign or 'the end'!r}")
        value = self._value(end)
        if thread < 0:
            value = self._fitting(place, value)
        return [(Literal(thread, place, value, (sign != "!=") == wanted),)]

    def _fault(self, end: int, threads: int, wanted: bool) -> Fault:
        """Take `fault(P0)`, `fault(P0:label)` or either with a kind."""
        self._next(end)
        self._expect(end, "(")
        _, name, position = self._next(end)
        found = _COLUMN.fullmatch(name)
        if not found or found[2] or int(found[1]) >= threads:
            raise self.fail(position, f"expected a thread, found {name or 'the end'!r}")
        place = self._label(f"{name}:{self._next(end)[1]}", position) if self._take(end, ":") else -1
        kind = ""
        if self._take(end, ","):
            _, what, _ = self._next(end)
            if what not in _FAULTS or self._peek(end)[1] != ")":
                raise ScopeError(f"{self.origin}: faults other than {' and '.join(_FAULTS)} are not modelled")
            kind = _FAULTS[what]
        self._expect(end, ")")
        if int(found[1]) in self.handled:
            raise ScopeError(f"{self.origin}: a condition about faults of {name}, which has a handler, is not modelled")
        return Fault(int(found[1]), place, kind, wanted)

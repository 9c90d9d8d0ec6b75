"""A protocol that somebody else wrote, as text: threads of A64 assembly, the words they patch, and what is asked.

Read on: asking.py answers; docs/proof.md shows the form; the shipped protocols are in `protocols/`.

A file is untrusted text: its size is bounded, nothing in it is evaluated, and an error names the line. Each line is a
directive, a step, or instructions separated by `;` with labels in front. `#` begins a comment line, `//` a comment.

Directives, of which the second and third are needed:

    title: TEXT                 source: TEXT                machine: idc dic
    data NAME [= VALUE]         a cell of 8 bytes; VALUE is a number or a label
    thread NAME[, any number]   the program of a CPU; with `, 3`, three CPUs have it
    interrupt NAME              the interrupt handler of that thread; without one it is `answer; eret`, and a thread
                                that kicks is not interrupted
    trap NAME                   where SVC and BRK of that thread go; without one they end the thread
    code NAME                   code that threads branch to, with the label NAME
    site NAME: ASM; … -> ASM; … words of the code at this place, as they are, and as they become
    keep out NAME               no CPU takes an interrupt strictly inside the site
    ask …                       see Ask

Steps, each in place of its instructions (`FORMS`), which need X16, X17, X26, X27, X28 and the flags. In an
interrupt handler X24 and X25 take the place of X16 and X17.

    write SITE, write SITE[2], write SITE[0] = ASM      publish SITE    dc SITE    ic SITE
    store CELL = VALUE          release CELL = VALUE        load REGISTER, CELL         acquire REGISTER, CELL
    await CELL = VALUE          lock CELL                   unlock CELL
    kick, answer                interrupt all other CPUs; answer
    gather                      wait until each CPU of the other threads above has answered as often as this CPU has
                                kicked, and at least once; without those that kick and have no `interrupt`
    membarrier                  membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE): kick and gather
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from a64patch.a64.assembler import assemble_one
from a64patch.a64.predicates import decode
from a64patch.a64.row import Flow
from a64patch.errors import AssemblyError, FormatError
from a64patch.proof.program import Program, Thread
from a64patch.proof.semantics import MASK64
from a64patch.protocols import BROADCAST, DIC, IDC, Act, publication

LARGEST = 1 << 16
"""The most characters of a file."""
MOST_THREADS, MOST_SITES, MOST_WORDS, MOST_ASKS, MOST_CELLS = 8, 16, 16, 64, 64
"""The most CPUs, sites, words of one site, questions, and cells."""
_MOST_INSTRUCTIONS = 512
_CODE, _BLOCK, _DATA, _CELL, END = 0x10000, 0x1000, 0x8000, 64, 0xF000
"""END has no code: a thread that goes there ends. Its label is `end`."""
_STACK = 48
"""Each CPU has memory of its own: 8 bytes for its answer, and 40 bytes of stack behind them. SP points to their end."""
_ALIGN = 64
"""Each site begins a line of its own, so that the size of a line decides which of its words share one."""

ANY = 0
"""The number of CPUs with a thread's program, where any number of CPUs have it."""
OLD, NEW, EITHER = "old", "new", "any"

_NAME = r"[A-Za-z_]\w{0,63}"
_LABEL = re.compile(rf"\s*({_NAME})\s*:(?!:)", re.ASCII)
_THREAD = re.compile(rf"({_NAME})(?:\s*,\s*(any number|[1-9]))?", re.ASCII)
_SITE = re.compile(rf"({_NAME})\s*:(.*?)->(.*)", re.ASCII)
_PART = re.compile(rf"({_NAME})(?:\[([0-9]{{1,2}})\])?", re.ASCII)
_ASK = re.compile(
    rf"(?:(P1)\s+({_NAME})(?:\s+of\s+({_NAME}))?(?:\s+allow\s+(.+))?"
    rf"|(P2)\s+({_NAME})(?:\s+of\s+({_NAME}))?\s+after\s+({_NAME})(?:\s+([1-9])\s+times)?"
    rf"|(P3)(?:\s+of\s+({_NAME}))?|(never|possible)\s+(.+))",
    re.ASCII,
)
_EQUATION = re.compile(
    rf"(?:({_NAME})\s*:\s*(?:[xX]([0-9]|[12][0-9]|30)\s*(!?=)\s*(\S+)|reached\s+({_NAME}))|({_NAME})\s*(!?=)\s*(\S+))",
    re.ASCII,
)
_VERDICTS = ("SAFE", "UNSAFE", "UNKNOWN")


@dataclass(frozen=True)
class Equation:
    """One condition on the end of an execution, a clause of `never` or `possible`.

    `thread` is -1 for a cell at the address `place`. Else `place` is a register, or with `reached` the address that the
    thread executes.
    """

    thread: int
    place: int
    value: int = 0
    equal: bool = True
    reached: bool = False


@dataclass(frozen=True)
class Ask:
    """One question.

        ask P1 SITE [of THREAD] [allow old new, any old]    as properties.py says; these mixtures are no harm
        ask P2 SITE [of THREAD] after LABEL [2 times]       from LABEL on, the thread executes new words only
        ask P3 [of THREAD]
        ask never EQUATION and …                            no execution ends so
        ask possible EQUATION and …                         some execution does: a check of the file itself

    An EQUATION is `THREAD: x4 = VALUE`, `THREAD: reached LABEL` or `CELL = VALUE`, also with `!=`. Without `of`, each
    thread is watched in turn. Behind `->` may be the verdict that the author expects.
    """

    text: str
    kind: str
    """P1, P2, P3, never or possible."""
    site: str = ""
    threads: tuple[int, ...] = ()
    """The watched threads, one after the other."""
    mixtures: tuple[tuple[str, ...], ...] = ()
    """For each allowed mixture: `old`, `new` or `any` for each word of the site."""
    label: int = -1
    times: int = 1
    equations: tuple[Equation, ...] = ()
    expected: str = ""


@dataclass(frozen=True)
class Site:
    """Words at one place of the code. `address` is in bytes."""

    name: str
    address: int
    old: tuple[int, ...]
    new: tuple[int, ...]


@dataclass(frozen=True)
class ProtocolFile:
    """A parsed file."""

    name: str
    title: str
    source: str
    program: Program
    sites: dict[str, Site]
    asks: tuple[Ask, ...]
    own: frozenset[int]
    """The addresses of each CPU's own memory: its answer, and its stack."""
    many: tuple[int, ...]
    """Numbers of the threads that stand for any number of CPUs."""
    keep_out: frozenset[int]
    gathers: frozenset[int]
    """The addresses of the instructions of `gather`."""
    writes: dict[int, str]
    """The name of the site by the address of each store of a `write`."""
    lines: dict[int, int] = field(repr=False)
    """For each instruction's address, the line of the file."""

    def own_of(self, thread: int) -> frozenset[int]:
        """The part of `own` that belongs to this thread."""
        start = self.program.threads[thread].registers[26]
        return frozenset(range(start, start + _STACK, 8))


FORMS: dict[str, tuple[str, ...]] = {
    "store": ("adr x17, {cell}", "mov x16, #{value}", "str x16, [x17]"),
    "release": ("adr x17, {cell}", "mov x16, #{value}", "stlr x16, [x17]"),
    "load": ("adr x17, {cell}", "ldr {register}, [x17]"),
    "acquire": ("adr x17, {cell}", "ldar {register}, [x17]"),
    "await": ("adr x17, {cell}", "ldr x16, [x17]", "cmp x16, #{value}", "b.ne {end}"),
    "lock": ("adr x17, {cell}", "mov x16, #1", "swpa x16, x16, [x17]", "cbnz x16, {end}"),
    "unlock": ("adr x17, {cell}", "stlr xzr, [x17]"),
    "kick": ("add x28, x28, #1", "dsb ishst", "msr icc_sgi1r_el1, xzr"),
    "gather": ("adr x16, {cell}", "ldr x16, [x16]", "cbz x16, {end}", "cmp x16, x28", "b.lo {end}"),
    "gathered": ("subs x16, xzr, xzr",),
    "answer": ("add x27, x27, #1", "str x27, [x26]"),
}
"""By name. A wait is one look: a CPU that does not see what it waits for ends, as each longer wait only adds looks.

X28 counts the kicks of a CPU while it runs: a kick may be in a loop, or behind a branch. Others may kick too, so more
answers than X28 are enough.
`gathered` ends a `gather`: with any number of CPUs, no later step may depend on an answer.
"""


def parse(text: str, name: str, line: int = _ALIGN) -> ProtocolFile:
    """The file as a program, on a machine with cache lines of `line` bytes. FormatError names the line of an error."""
    return _Parser(name, line).parse(text)


class _Names:
    """Labels, sites and cells, for the assembler."""

    def __init__(self, places: dict[str, int]) -> None:
        self.places = places

    def resolve(self, site: str) -> int:
        """The address of `NAME` or `NAME+8`; LookupError for an unknown name."""
        name, _, offset = (part.strip() for part in site.partition("+"))
        if name not in self.places:
            raise LookupError(f"there is no label, site or cell {name[:40]!r}")
        try:
            return self.places[name] + int(offset or "0", 0)
        except ValueError as error:
            raise LookupError(f"{offset[:40]!r} is no number of bytes") from error

    def describe(self, address: int) -> str:
        return f"{address:#x}"


@dataclass(frozen=True)
class _RawSite:
    """A site before its labels are known. `address` is in bytes, `number` is the line."""

    address: int
    old: list[str]
    new: list[str]
    number: int


class _Gather(str):
    """An instruction of `gather`."""


class _Store(str):
    """The store of a `write`; `site` is the name of the site."""

    def __new__(cls, text: str, site: str) -> _Store:
        made = super().__new__(cls, text)
        made.site = site
        return made

    site: str


@dataclass(frozen=True)
class _NewWord:
    """An instruction with half of a site's new word, or of the word of `text`, as an immediate."""

    form: str
    site: str
    index: int
    text: str


@dataclass
class _Block:
    """Code that lies together: a thread, a handler, or a function."""

    kind: str
    name: str
    count: int
    address: int
    parts: list[tuple[int, int, str | _NewWord]] = field(default_factory=list)
    """Address, line, and text of each instruction."""
    at: int = 0
    kicks: bool = False
    gathers: int = 0
    """The line of its first `gather` or `membarrier`."""
    number: int = 0
    """The line where it begins."""


class _Parser:
    def __init__(self, name: str, line: int) -> None:
        self.name = name
        self.line = line
        self.number = 0
        self.heads = {"title": "", "source": "", "machine": ""}
        self.blocks: list[_Block] = []
        self.places: dict[str, int] = {"end": END}
        self.cells: dict[str, tuple[str, int]] = {}
        self.raw_sites: dict[str, _RawSite] = {}
        self.raw_asks: list[tuple[str, int]] = []
        self.keep_out: list[tuple[str, int]] = []
        self.words = 0

    def fail(self, message: str, number: int = 0) -> FormatError:
        return FormatError(f"{self.name}:{number or self.number}: {message}")

    def parse(self, text: str) -> ProtocolFile:
        if len(text) > LARGEST:
            raise FormatError(f"{self.name}: {len(text)} characters; a protocol has at most {LARGEST}")
        for self.number, raw in enumerate(text.splitlines(), 1):
            line = "" if raw.lstrip().startswith("#") else raw.partition("//")[0].strip()
            if line:
                self._line(line)
        threads = [block for block in self.blocks if block.kind == "thread"]
        if not threads:
            raise self.fail("there is no thread", 1)
        if not self.raw_asks:
            raise self.fail("nothing is asked: add a line such as `ask P3`", 1)
        return self._finish(threads)

    def _line(self, line: str) -> None:
        head, colon, rest = line.partition(":")
        word, _, operand = line.partition(" ")
        operand = operand.strip()
        if colon and head in self.heads:
            if self.heads[head]:
                raise self.fail(f"{head} occurs twice")
            if head == "machine" and self.blocks:
                raise self.fail("the machine decides what `publish` is: put this line above the first thread")
            self.heads[head] = rest.strip()
        elif word == "data":
            self._cell(operand)
        elif word in ("thread", "interrupt", "trap", "code"):
            self._block(word, operand)
        elif word == "ask":
            self.raw_asks.append((operand, self.number))
            if len(self.raw_asks) > MOST_ASKS:
                raise self.fail(f"more than {MOST_ASKS} questions")
        elif line.startswith("keep out "):
            self.keep_out.append((line[9:].strip(), self.number))
        elif not self.blocks:
            raise self.fail(f"{line[:40]!r} stands before the first thread")
        elif found := re.fullmatch(rf"((?:{_NAME}\s*:\s*)*)site\s+(.*)", line, re.ASCII):
            self._code(found[1])
            self._site(found[2])
        else:
            self._code(line)

    def _define(self, name: str, address: int) -> None:
        if not re.fullmatch(_NAME, name, re.ASCII):
            raise self.fail(f"{name[:40]!r} is no name: letters, digits and _")
        if name in self.places:
            raise self.fail(f"the name {name} occurs twice")
        self.places[name] = address

    def _cell(self, operand: str) -> None:
        name, _, value = operand.partition("=")
        name = name.strip()
        if len(self.cells) >= MOST_CELLS:
            raise self.fail(f"more than {MOST_CELLS} cells")
        self._define(name, _DATA + _CELL * len(self.cells))
        self.cells[name] = (value.strip() or "0", self.number)

    def _block(self, kind: str, operand: str) -> None:
        found = _THREAD.fullmatch(operand)
        if not found or (found[2] and kind != "thread"):
            raise self.fail(f"expected `{kind} NAME`" + (" or `thread NAME, any number`" if kind == "thread" else ""))
        count = 1 if not found[2] else ANY if found[2] == "any number" else int(found[2])
        known = [block for block in self.blocks if block.kind == kind and block.name == found[1]]
        if known:
            raise self.fail(f"{kind} {found[1]} occurs twice")
        if kind in ("interrupt", "trap") and not any(
            block.kind == "thread" and block.name == found[1] for block in self.blocks
        ):
            raise self.fail(f"there is no thread {found[1]} above its {kind}")
        if len(self.blocks) >= 4 * MOST_THREADS:
            raise self.fail(f"more than {4 * MOST_THREADS} blocks of code")
        address = _CODE + _BLOCK * len(self.blocks)
        if kind == "code":
            self._define(found[1], address)
        self.blocks.append(_Block(kind, found[1], count, address, at=address, number=self.number))

    def _put(self, text: str | _NewWord) -> None:
        self.words += 1
        block = self.blocks[-1]
        if self.words > _MOST_INSTRUCTIONS:
            raise self.fail(f"more than {_MOST_INSTRUCTIONS} instructions")
        block.parts.append((block.at, self.number, text))
        block.at += 4

    def _site(self, operand: str) -> None:
        found = _SITE.fullmatch(operand)
        if not found:
            raise self.fail("expected `site NAME: ASM; ASM -> ASM; ASM`")
        old, new = ([part.strip() for part in side.split(";")] for side in found.groups()[1:])
        if len(old) != len(new) or not all(old) or not all(new):
            raise self.fail(f"{len(old)} old and {len(new)} new instructions: as many of both, at least one")
        if len(old) > MOST_WORDS or len(self.raw_sites) >= MOST_SITES:
            raise self.fail(f"more than {MOST_WORDS} words in a site, or more than {MOST_SITES} sites")
        block = self.blocks[-1]
        aligned = -(-block.at // _ALIGN) * _ALIGN
        if aligned != block.at:
            self._put(f"b {aligned:#x}")
            block.at = aligned
        self._define(found[1], block.at)
        self.raw_sites[found[1]] = _RawSite(block.at, old, new, self.number)
        for part in old:
            self._put(part)

    def _code(self, line: str) -> None:
        for part in line.split(";"):
            rest = part.strip()
            while found := _LABEL.match(rest):
                self._define(found[1], self.blocks[-1].at)
                rest = rest[found.end() :].strip()
            if rest:
                word, _, operand = rest.partition(" ")
                for text in self._step(word, operand.strip()) or [rest]:
                    self._put(text)

    def _step(self, word: str, operand: str) -> Sequence[str | _NewWord]:
        """The instructions of a step; empty when the word is no step."""
        block = self.blocks[-1]
        if operand and word in ("kick", "gather", "membarrier", "answer"):
            raise self.fail(f"`{word}` stands alone, without {operand[:40]!r}")
        if word == "write":
            target, equals, text = (part.strip() for part in operand.partition("="))
            if equals and not text:
                raise self.fail("expected `write SITE`, `write SITE[2]` or `write SITE[2] = ASM`")
            return [part for site, index in self._words(target) for part in self._write(site, index, text)]
        if word in ("publish", "dc", "ic") and _PART.fullmatch(operand):
            return self._maintain(word, operand)
        if word in ("kick", "membarrier"):
            block.kicks = True
            return [*FORMS["kick"], *(self._gather() if word == "membarrier" else ())]
        if word == "gather":
            return self._gather()
        if word in ("store", "release", "await"):
            cell, _, value = (part.strip() for part in operand.partition("="))
            if not re.fullmatch(r"-?\w+", value, re.ASCII):
                raise self.fail(f"expected `{word} CELL = VALUE`")
            return self._fill(word, cell, value=value)
        if word in ("load", "acquire"):
            register, comma, cell = (part.strip() for part in operand.partition(","))
            if not comma:
                raise self.fail(f"expected `{word} REGISTER, CELL`")
            return self._fill(word, cell, register=register)
        return self._fill(word, operand) if word in ("lock", "unlock", "answer") else []

    def _fill(self, word: str, cell: str, value: str = "0", register: str = "x16") -> list[str]:
        """The instructions of a step with its operands."""
        if word != "answer" and cell not in self.cells:
            if not re.fullmatch(_NAME, cell, re.ASCII):
                raise self.fail(f"`{word}` needs the name of a cell, not {cell[:40]!r}")
            raise self.fail(f"there is no cell {cell[:40]!r} above: say `data {cell[:40]}` before it is used")
        is_name = re.fullmatch(_NAME, value, re.ASCII)
        return [
            self._mine("adr x16, {value}" if is_name and "mov x16" in form else form).format(
                cell=cell, value=value, register=register, end=f"{END:#x}"
            )
            for form in FORMS[word]
        ]  # fmt: skip

    def _mine(self, form: str) -> str:
        """The form with this block's scratch registers. A handler must leave those of the interrupted code alone."""
        if self.blocks[-1].kind != "interrupt":
            return form
        return form.replace("x16", "x24").replace("w16", "w24").replace("x17", "x25")

    def _write(self, site: str, index: int, text: str) -> list[str | _NewWord]:
        """The store of the new word, or of the instruction `text`."""
        halves = (self._mine("movz w16, #{low:#x}"), self._mine("movk w16, #{high:#x}, lsl #16"))
        return [
            self._mine("adr x17, ") + f"{site}+{4 * index}",
            *(_NewWord(form, site, index, text) for form in halves),
            _Store(self._mine("str w16, [x17]"), site),
        ]

    def _words(self, target: str) -> list[tuple[str, int]]:
        """Site and index of each word of `SITE` or `SITE[2]`."""
        found = _PART.fullmatch(target)
        site = self.raw_sites.get(found[1]) if found else None
        if not found or not site:
            raise self.fail(f"there is no site {target[:40]!r} above: the code with the site comes before its writer")
        count = len(site.old)
        if found[2] is None:
            return [(found[1], index) for index in range(count)]
        if int(found[2]) >= count:
            raise self.fail(f"{target} lies behind the site's {count} words")
        return [(found[1], int(found[2]))]

    def _maintain(self, word: str, target: str) -> list[str]:
        """One DC or IC for each line of the words, or with `publish` Linux's sequence on this machine."""
        lines = {4 * index // self.line: f"{site}+{4 * index}" for site, index in reversed(self._words(target))}
        operations = {Act.CLEAN: "dc cvau", Act.INVALIDATE: "ic ivau"}
        fixed = {Act.FINISH: "dsb ish", Act.FINISH_STORES: "dsb ishst", Act.SYNCHRONISE: "isb"}
        acts = {"dc": [Act.CLEAN], "ic": [Act.INVALIDATE]}.get(word)
        found: list[str] = []
        for act in acts or [step.act for step in publication(self._machine())]:
            if act in fixed:
                found.append(fixed[act])
                continue
            for place in lines.values():
                found += [self._mine("adr x17, ") + place, self._mine(f"{operations[act]}, x17")]
        return found

    def _machine(self) -> frozenset[str]:
        words = self.heads["machine"].replace(",", " ").split()
        for word in words:
            if word not in (IDC, DIC):
                raise self.fail(f"machine: {word[:20]!r} is neither {IDC} nor {DIC}")
        if DIC in words and IDC not in words:
            raise self.fail("machine: dic without idc is not covered by the current axioms")
        return frozenset({BROADCAST, *words})

    def _gather(self) -> list[str]:
        """Wait until each other CPU has answered as often as this CPU has kicked, and at least once."""
        block = self.blocks[-1]
        if block.kind == "code":
            raise self.fail(f"code {block.name} is of no thread: only a thread and its handlers can gather answers")
        block.gathers = block.gathers or self.number
        others = [
            other for other in self.blocks
            if other.kind == "thread" and other.name != block.name
            and (not other.kicks or self._handler("interrupt", other))
        ]  # fmt: skip
        if not others:
            raise self.fail("no thread above can answer: put the thread that gathers last")
        looks = [
            _Gather(self._mine(form).format(cell=f"{self._answer(other.name, copy):#x}", end=f"{END:#x}"))
            for other in others
            for copy in range(max(1, other.count))
            for form in FORMS["gather"]
        ]
        return [*looks, *map(self._mine, FORMS["gathered"])]

    def _answer(self, thread: str, copy: int) -> int:
        """The address of the cell in which a CPU answers."""
        place = 0
        for block in self.blocks:
            if block.kind == "thread":
                if block.name == thread:
                    break
                place += max(1, block.count)
        return _DATA + _CELL * (MOST_CELLS + place + copy)

    def _value(self, text: str, number: int) -> int:
        if text in self.places:
            return self.places[text]
        try:
            value = int(text, 0)
        except ValueError as error:
            raise self.fail(f"{text[:40]!r} is neither a number nor a name of this file", number) from error
        if not -1 << 63 <= value < 1 << 64:
            raise self.fail(f"{text[:40]} is out of range: a value has 64 bits", number)
        return value & MASK64

    def _word(self, text: str | _NewWord, address: int, number: int) -> int:
        if isinstance(text, _NewWord):
            site = self.raw_sites[text.site]
            word = self._word(text.text or site.new[text.index], site.address + 4 * text.index, number)
            text = text.form.format(low=word & 0xFFFF, high=word >> 16)
        if re.fullmatch(r"[0-9a-fA-F]{8}", text, re.ASCII):
            return int(text, 16)
        try:
            return assemble_one(text, address, _Names(self.places))
        except AssemblyError as error:
            raise self.fail(str(error), number) from error
        except LookupError as error:
            raise self.fail(f"{text[:60]!r}: there is no name {error}", number) from error

    # All labels are known from here on.

    def _finish(self, threads: list[_Block]) -> ProtocolFile:
        machine = self._machine()
        for place, block in enumerate(self.blocks):
            missed = [other.name for other in self.blocks[place:] if other.kind == "thread" and not other.kicks
                      and other.name != block.name]  # fmt: skip
            if block.gathers and missed:
                raise self.fail(f"nothing waits here for {missed[0]}: put the thread that gathers last", block.gathers)
        kicked = any(block.kicks for block in self.blocks)
        for block in threads:
            if kicked and not block.kicks and not self._handler("interrupt", block):
                self.blocks.append(_Block("interrupt", block.name, 1, _CODE + _BLOCK * len(self.blocks)))
                self.blocks[-1].at = self.blocks[-1].address
                for text in (*FORMS["answer"], "eret"):
                    self._put(text)
        code: dict[int, int] = {}
        lines: dict[int, int] = {}
        gathers: set[int] = set()
        writes: dict[int, str] = {}
        for block in self.blocks:
            if len(block.parts) and block.at > block.address + _BLOCK:
                raise self.fail(f"{block.kind} {block.name} has more than {_BLOCK} bytes of code")
            for address, number, instruction in block.parts:
                code[address] = self._word(instruction, address, number)
                lines[address] = number
                if isinstance(instruction, _Gather):
                    gathers.add(address)
                elif isinstance(instruction, _Store):
                    writes[address] = instruction.site
            last = decode(code[block.parts[-1][0]]) if block.parts else None
            if block.kind == "interrupt" and (last is None or last.flow in (Flow.NEXT, Flow.CALL)):
                number = block.parts[-1][1] if block.parts else block.number
                raise self.fail(f"behind the interrupt {block.name} is no code: end it with `eret`", number)
        sites = {
            name: Site(
                name, raw.address,
                *(tuple(self._word(text, raw.address + 4 * index, raw.number) for index, text in enumerate(texts))
                  for texts in (raw.old, raw.new)),
            )
            for name, raw in self.raw_sites.items()
        }  # fmt: skip
        for site in sites.values():
            if site.old == site.new:
                raise self.fail(
                    f"the old and the new words of the site {site.name} are equal", self.raw_sites[site.name].number
                )
        memory = {self.places[name]: self._value(value, number) for name, (value, number) in self.cells.items()}
        names = {address: name for name, address in self.places.items()}
        for site in sites.values():
            names |= {site.address + 4 * index: f"{site.name}+{4 * index}" for index in range(1, len(site.old))}
        names[END] = "the end"
        made: list[Thread] = []
        own: dict[int, str] = {}
        self.copies: dict[str, list[int]] = {}
        many = []
        for block in threads:
            interrupt, trap = self._handler("interrupt", block), self._handler("trap", block)
            for copy in range(max(1, block.count)):
                answer = self._answer(block.name, copy)
                cpu = f"{block.name}{copy + 1 if block.count > 1 else ''}"
                own |= dict.fromkeys(range(answer + 8, answer + _STACK, 8), f"the stack of {cpu}")
                own[answer] = f"the answer of {cpu}"
                self.copies.setdefault(block.name, []).append(len(made))
                if block.count == ANY:
                    many.append(len(made))
                name = f"{block.name}{copy + 1}" if block.count > 1 else block.name
                made.append(
                    Thread(
                        block.address, {26: answer, 31: answer + _STACK}, name, trap.address if trap else None,
                        interrupt.address if interrupt else None,
                    )
                )  # fmt: skip
        if len(made) > MOST_THREADS:
            raise self.fail(f"more than {MOST_THREADS} CPUs", 1)
        called = [thread.name for thread in made]
        if twice := [name for name in called if called.count(name) > 1]:
            raise self.fail(f"two CPUs have the name {twice[0]}: a thread has it, and a copy of another thread", 1)
        private = dict.fromkeys(own, 0)
        program = Program(
            tuple(made), code, memory | private, IDC in machine, DIC in machine, line=self.line,
            names=names | own, ends=frozenset({END, *(block.at for block in self.blocks)}),
        )  # fmt: skip
        kept = set[int]()
        for name, number in self.keep_out:
            if name not in sites:
                raise self.fail(f"there is no site {name[:40]!r}", number)
            start = sites[name].address
            kept |= set(range(start + 4, start + 4 * len(sites[name].old), 4))
        asks = tuple(self._ask(text, number, sites) for text, number in self.raw_asks)
        return ProtocolFile(
            self.name, self.heads["title"], self.heads["source"], program, sites, asks, frozenset(private), tuple(many),
            frozenset(kept), frozenset(gathers), writes, lines,
        )  # fmt: skip

    def _handler(self, kind: str, thread: _Block) -> _Block | None:
        return next((block for block in self.blocks if block.kind == kind and block.name == thread.name), None)

    def _thread(self, name: str, number: int) -> int:
        """The number of a thread: of its first copy, or with a number behind the name of that copy."""
        if name in self.copies:
            return self.copies[name][0]
        found = re.fullmatch(r"(\w*\D)([1-9])", name, re.ASCII)
        if found and found[1] in self.copies and int(found[2]) <= len(self.copies[found[1]]):
            return self.copies[found[1]][int(found[2]) - 1]
        raise self.fail(f"there is no thread {name[:40]!r}", number)

    def _ask(self, raw: str, number: int, sites: dict[str, Site]) -> Ask:
        text, arrow, expected = (part.strip() for part in raw.partition("->"))
        if arrow and expected not in _VERDICTS:
            raise self.fail(f"{expected[:20]!r} is no verdict: SAFE, UNSAFE or UNKNOWN", number)
        found = _ASK.fullmatch(text)
        if not found:
            raise self.fail(
                f"{text[:60]!r} is no question; there are `P1 SITE`, `P2 SITE after LABEL`, `P3`, `never …` and"
                " `possible …`", number,
            )  # fmt: skip
        kind = found[1] or found[5] or found[10] or found[12]
        site = found[2] or found[6] or ""
        if site and site not in sites:
            raise self.fail(f"there is no site {site}", number)
        of = found[3] or found[7] or found[11]
        threads = (self._thread(of, number),) if of else tuple(copies[0] for copies in self.copies.values())
        mixtures = tuple(
            self._mixture(part, sites[site], number) for part in (found[4] or "").split(",") if part.strip()
        )
        label = self._label(found[8], number) if found[8] else -1
        equations: list[Equation] = []
        if found[13]:
            equations = [self._equation(part.strip(), number) for part in re.split(r"\s+and\s+", found[13])]
        return Ask(text, kind, site, threads, mixtures, label, int(found[9] or 1), tuple(equations), expected)

    def _mixture(self, text: str, site: Site, number: int) -> tuple[str, ...]:
        words = tuple(text.split())
        if len(words) != len(site.old) or not set(words) <= {OLD, NEW, EITHER}:
            raise self.fail(f"{text.strip()!r}: expected old, new or any for each of {len(site.old)} words", number)
        return words

    def _label(self, name: str, number: int) -> int:
        if name not in self.places or name in self.cells:
            raise self.fail(f"there is no label {name}", number)
        return self.places[name]

    def _equation(self, text: str, number: int) -> Equation:
        found = _EQUATION.fullmatch(text)
        if not found:
            raise self.fail(
                f"{text[:60]!r}: expected `THREAD: x4 = VALUE`, `THREAD: reached LABEL` or `CELL = VALUE`", number
            )
        if found[6]:
            if found[6] not in self.cells:
                raise self.fail(f"there is no cell {found[6]}", number)
            return Equation(-1, self.places[found[6]], self._value(found[8], number), found[7] == "=")
        thread = self._thread(found[1], number)
        if found[5]:
            return Equation(thread, self._label(found[5], number), reached=True)
        return Equation(thread, int(found[2]), self._value(found[4], number), found[3] == "=")

"""An execution told for people who know kernels and not axioms: as a timeline, and as a graph.

Read on: ../cli/prove.py prints it.
"""

from __future__ import annotations

from itertools import pairwise

from a64patch.a64.disassembler import disassemble
from a64patch.proof.cases import Case
from a64patch.proof.execution import Execution
from a64patch.proof.fetching import could_fetch, word_of
from a64patch.proof.properties import PROPERTIES, STALE, TORN
from a64patch.proof.prove import Counterexample
from a64patch.proof.relations import bits
from a64patch.proof.traces import Event


class _Relative:
    """Prints branch targets as distances, since a proof's program has addresses of its own."""

    def describe(self, address: int) -> str:
        """`.+8` for 8 bytes ahead."""
        distance = (address + (1 << 63)) % (1 << 64) - (1 << 63)
        return f".{distance:+d}"

    def resolve(self, name: str) -> int:
        """KeyError: there are no names here."""
        raise KeyError(name)


def instruction(word: int) -> str:
    """The word and its text, such as d503201f `nop`; branch targets as distances."""
    return f"{word:08x} `{disassemble(word, 0, _Relative())}`"


def tell(found: Counterexample) -> list[str]:
    """One line for each event, in a possible order; then the lines that say which property is broken, and how."""
    x, case = found.execution, found.case
    order = _order(x)
    number = {index: place for place, index in enumerate(order, 1)}
    width = max(len(_cpu(x, index)) for index in order)
    lines = []
    for index in order:
        step = case.steps.get(x.events[index].pc)
        name = f"[{step.name}]" if step and step.name and x.events[index].kind not in ("F", "TE") else ""
        lines.append(
            f"{number[index]:3}  {_cpu(x, index):{width}}  {_sentence(x, case, index, number)}  {name}".rstrip()
        )
    return [*lines, "", *_wrong(found, number)]


def _order(x: Execution) -> list[int]:
    """All events in an order that agrees with ob. Each CPU is in program order as far as ob allows."""
    left = set(range(len(x.events)))
    order: list[int] = []
    thread = 0
    while left:
        ready = [index for index in left if not any(_waits(x, index, other) for other in left)]
        index = min(
            ready,
            key=lambda one: (
                any(x.thread[other] == x.thread[one] and other < one for other in left), x.thread[one] != thread, one
            ),
        )  # fmt: skip
        thread = x.thread[index]
        order.append(index)
        left.remove(index)
    return order


def _waits(x: Execution, index: int, other: int) -> bool:
    """Whether event `other` comes before event `index`: by ob, or because `index` is a DSB that waits for `other`."""
    event = x.events[index]
    dsb = event.kind == "DSB" and event.order == "sy" and x.events[other].kind != "F"
    return x.before(other, index) or (dsb and x.thread[other] == x.thread[index] and other < index)


def _cpu(x: Execution, index: int) -> str:
    return x.program.threads[x.thread[index]].name


def _wrong(found: Counterexample, number: dict[int, int]) -> list[str]:
    x, case = found.execution, found.case
    if found.property not in PROPERTIES:
        return ["The CPUs end as the question says."]
    subject = case.subject
    name = x.program.threads[subject].name
    fetches = [index for index in x.fetches if x.thread[index] == subject]
    if found.property == TORN:
        pass_ = ", ".join(_fetched(x, case, index, number) for index in fetches)
        return [f"{name} runs through the site once and executes old and new words: {pass_}."]
    if found.property == STALE:
        done = case.done(x.traces[subject])
        late = [index for index in fetches if done is not None and x.events[index].step > done
                and x.events[index].value != case.words.get(x.events[index].address, (0, -1))[1]]  # fmt: skip
        if late:
            executed = _fetched(x, case, late[0], number)
        else:
            path = x.traces[subject].path[done or 0 :]
            place, word = next(one for one in path if one[0] in case.words and one[1] != case.words[one[0]][1])
            executed = f"the old {instruction(word)} at {x.program.name_of(place)}, which no CPU writes"
        return [f"{name} had been told that the patch is done before it executed {executed}."]
    words = {}
    for fetch in fetches:
        words[fetch] = sorted({word_of(x, fetch, write) for write in could_fetch(found.model, x, fetch)})
    fetch = max(words, key=lambda one: len(words[one]))
    either = " or ".join(instruction(word) for word in words[fetch])
    return [
        f"The fetch of {name} in line {number[fetch]} could get {either}. These may not replace each other under",
        "execution (Arm ARM B2.2.5), so the behaviour of the CPU is CONSTRAINED UNPREDICTABLE.",
    ]


def _fetched(x: Execution, case: Case, index: int, number: dict[int, int]) -> str:
    event = x.events[index]
    return (
        f"{_age(case, event)} {instruction(event.value)} at {x.program.name_of(event.address)} (line {number[index]})"
    )


def _age(case: Case, event: Event) -> str:
    old, new = case.words.get(event.address, (-1, -1))
    if old == new:
        return "the" if event.value == old else "another"
    return "the old" if event.value == old else "the new" if event.value == new else "the guarding"


def _source(x: Execution, index: int, number: dict[int, int]) -> str:
    source = x.rf[index]
    return f"which line {number[source]} wrote" if source >= 0 else "its initial value"


def _value(x: Execution, value: int) -> str:
    """A value of data for people: the name of the code at this address, or the number."""
    return x.program.name_of(value) if value in x.program.code else str(value)


def _sentence(x: Execution, case: Case, index: int, number: dict[int, int]) -> str:
    event = x.events[index]
    place = x.program.name_of(event.address)
    if event.kind == "F":
        missed = sorted(number[write] for write in bits(x.missed[index]) if number[write] < number[index])
        newer = f", although line {missed[-1]} wrote another" if missed else ""
        fetched = f"fetches {_age(case, event)} word of {place}, {instruction(event.value)}"
        return f"{fetched}, {_source(x, index, number)}{newer}"
    if event.kind == "R":
        return f"reads {place} = {_value(x, event.value)}, {_source(x, index, number)}"
    if event.kind == "W" and event.address in case.words:
        return f"writes {instruction(event.value)} to {place}"
    if event.kind == "TE":
        here = x.program.name_of(event.pc)
        if event.order == "irq":
            return f"takes the interrupt of line {number[x.sent_by[index]]} before it executes {here}"
        return f"meets the BRK at {here}"
    barrier = f"{event.kind} {'ish' if event.order == 'sy' else 'ish' + event.order}"
    if event.kind == "IC" and not any(
        later.kind == "DSB" and later.order == "sy" for later in x.traces[x.thread[index]].events[x.local(index) :]
    ):
        return f"IC IVAU: begins to invalidate the line of {place}, and no DSB waits until that is done"
    said = {
        "W": f"writes {_value(x, event.value)} to {place}",
        "DC": f"DC CVAU: cleans the line of {place}",
        "IC": f"IC IVAU: invalidates the line of {place} for all CPUs",
        "SGI": "sends an interrupt to every other CPU",
        "ISB": "ISB: from here on it executes nothing that it fetched before",
        "ERET": "returns from the exception",
    }
    return said.get(event.kind, barrier)


def dot(found: Counterexample) -> str:
    """The execution as a graph in the language of Graphviz: a cluster for each CPU, arrows between events.

    Grey: program order. Green: from a store to its reader. Red: from a read to a newer store that it misses. Blue: from
    an SGI to the interrupt.
    """
    x, case = found.execution, found.case
    number = {index: place for place, index in enumerate(_order(x), 1)}
    lines = ["digraph execution {", '  node [shape=box, fontname="monospace", fontsize=10];', "  rankdir=TB;"]
    for thread in range(len(x.traces)):
        members = [index for index in range(len(x.events)) if x.thread[index] == thread]
        lines += [f"  subgraph cluster_{thread} {{", f'    label="{x.program.threads[thread].name}";']
        for index in members:
            text = _sentence(x, case, index, number).replace('"', "'").replace(", ", "\\n")
            lines.append(f'    e{index} [label="{number[index]}: {text}"];')
        lines += [f"    e{one} -> e{other} [color=gray];" for one, other in pairwise(members)]
        lines.append("  }")
    arrows = [(source, read, "green", "rf") for read, source in x.rf.items() if source >= 0]
    arrows += [(read, write, "red", "misses") for read, missed in x.missed.items() for write in bits(missed)]
    arrows += [(sent, entry, "blue", "interrupt") for entry, sent in x.sent_by.items()]
    lines += [f'  e{one} -> e{other} [color={colour}, label="{name}", constraint=false];'
              for one, other, colour, name in sorted(arrows)]  # fmt: skip
    return "\n".join([*lines, "}", ""])

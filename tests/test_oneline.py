"""Values as people see them in a prompt, a debugger, a failed assertion: one line, whatever their size."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import a64patch
from a64patch import oneline, questions
from a64patch.a64 import cmodx
from a64patch.patch.asmdiff import AsmDiff, Hunk, Line, parse
from a64patch.patch.compare import Comparison
from a64patch.patch.hazards import Hazard
from a64patch.patch.journal import Entry, EntryState
from a64patch.patch.meaning import Place
from a64patch.patch.plan import make_plan
from a64patch.patch.sites import Site
from a64patch.patch.surroundings import Surrounding
from a64patch.patch.text import PatchResult
from a64patch.patch.transaction import Outcome, Recovery
from a64patch.proof import cases
from a64patch.proof.prove import Proof, Question, Verdict
from a64patch.ranges import Ranges
from a64patch.targets.base import Aftermath, Build, CpuState, Identity
from a64patch.targets.modules import Claim, Module, Modules
from a64patch.targets.section import Change, Found, Section
from a64patch.targets.section import Outcome as SectionOutcome
from a64patch.targets.simulator import Executed, Simulator
from a64patch.targets.symbols import Space, Symbol, SymbolTable

PATCH = parse("Skip it.\n\n@@ f+0x4 @@\n 52800020  mov w0, #1\n-d503201f  nop\n+14000002  b .+8\n")
[HUNK] = PATCH.hunks
CHANGE = Change(0x1000, 0xD503201F, 0x14000002)
RESULT = PatchResult("kick", "both may race", (CHANGE,))
ENTRY = Entry(3, "2026-01-02", "", EntryState.OPEN, Identity("/tmp/a"), "kick", (CHANGE,), (), "")
QUESTION = Question("kick", (cases.Site((CHANGE.old,), (CHANGE.new,)),))
LOADED = SymbolTable(lambda: [Symbol("f", 0x1000)])
LOADED.ascending()
KERNEL = Module("vmlinux", build_id="aabb", release="Linux 6.1", base=0x1000, code=Ranges(((0x1000, 0x2000),)))

SHOWN: list[tuple[object, str]] = [
    (Ranges(), "<Ranges empty>"),
    (Ranges(((0x1000, 0x1010), (0x2000, 0x2004))), "<Ranges 0x1000-0x1010, 0x2000-0x2004>"),
    (Ranges.of((at, at + 4) for at in range(0, 80, 8)), "<Ranges 0x0-0x4, 0x8-0xc, 0x10-0x14 and 7 more>"),
    (cmodx.Verdict(True, "both are nop"), "<Verdict safe: both are nop>"),
    (Symbol("f", 0x1000, 32, "ext4", True), "<Symbol ext4:f at 0x1000, 32 bytes, function>"),
    (Symbol("f", 0x1000), "<Symbol f at 0x1000, size unknown>"),
    (Space(".text", 0, 0x40), "<Space .text 0x0-0x40>"),
    (SymbolTable(lambda: 1 // 0), "<SymbolTable not loaded yet>"),  # type: ignore[arg-type, return-value]
    (LOADED, "<SymbolTable of 1 symbol>"),
    (Claim("data", Ranges(((0, 4),)), "is a literal"), "<Claim data on 0x0-0x4: is a literal>"),
    (KERNEL, "<Module 'vmlinux' build aabb, Linux 6.1, base 0x1000, code 0x1000-0x2000>"),
    (Modules([KERNEL, Module("ext4")]), "<Modules 'vmlinux', 'ext4'>"),
    (Build("vmlinux", "aabb", 0x1000), "<Build 'vmlinux' build aabb, base 0x1000>"),
    (Identity("/tmp/a", "aabb", base=16), "<Identity '/tmp/a' build aabb, base 0x10>"),
    (Aftermath(0x20, b"\1\2", b"\0\0"), "<Aftermath at 0x20: 0102 -> 0000, 2 bytes>"),
    (CpuState(1, 0x1000, (0x2000,)), "<CpuState CPU 1 at 0x1000 will return to 0x2000>"),
    (CHANGE, "<Change 0x1000: d503201f -> 14000002>"),
    (Section((CHANGE,), protocol="kick"), "<Section kick: 1 word at 0x1000; keep_out empty>"),
    (
        Section((CHANGE,), data=(Change(0x2000, 0, 1),)),
        "<Section stop: 1 word at 0x1000 and 1 word of data; keep_out empty>",
    ),
    (Found(1, 0x1004, False), "<Found CPU 1 will return to 0x1004>"),
    (Found(-1, 0x1004, False, "task 42 (sleep)", "why"), "<Found task 42 (sleep) may return to 0x1004>"),
    (SectionOutcome((0, 1), 900), "<Outcome done; 2 CPUs stopped for 900 ns>"),
    (
        SectionOutcome((0,), 9, (Found(0, 0x1004, True),)),
        "<Outcome not done: <Found CPU 0 stands at 0x1004>; 1 CPU stopped for 9 ns>",
    ),
    (HUNK.lines[1], "<Line '-d503201f  nop'>"),
    (Line("-"), "<Line '-????????'>"),
    (HUNK, "<Hunk f+0x4: 1 `-` line, 1 `+` line, 1 of context>"),
    (PATCH, "<AsmDiff 'Skip it.' 1 hunk at f+0x4>"),
    (AsmDiff(()), "<AsmDiff 0 hunks>"),
    (Hazard("data", 0x1000, "it is a literal"), "<Hazard data at 0x1000: it is a literal>"),
    (Site(0x1000, 0x1008, Ranges(((0x1004, 0x1008),))), "<Site 0x1000-0x1008; keep_out 0x1004-0x1008>"),
    (Place(LOADED, 0x1004, 0, None, 0x1000, 0x1008), "<Place 0x1004 in 0x1000-0x1008>"),
    (Executed(7, 1, 0x1000, 1), "<Executed step 7, CPU 1: 00000001 at 0x1000>"),
    (Surrounding(0x1000, 0x1010, "f", b""), "<Surrounding f 0x1000-0x1010>"),
    (Comparison(PATCH, ("one",)), "<Comparison 1 hunk, 1 not expressed>"),
    (RESULT, "<PatchResult 1 word by kick: both may race>"),
    (Outcome(3, RESULT), "<Outcome entry 3: 1 word by kick: both may race>"),
    (ENTRY, "<Entry 3 open, 2026-01-02: 1 word by kick in /tmp/a>"),
    (Recovery(ENTRY, EntryState.UNDONE, "all words are old"), "<Recovery entry 3: undone: all words are old>"),
    (QUESTION.sites[0], "<Site d503201f -> 14000002>"),
    (QUESTION, "<Question d503201f -> 14000002 by kick, any number of CPUs>"),
    (
        Proof(dataclasses.replace(QUESTION, omit=frozenset({"isb"})), Verdict.UNSAFE, broken={"P2": {"arm"}}),
        "<Proof UNSAFE: d503201f -> 14000002 by kick without isb, any number of CPUs (P2 broken)>",
    ),
    (
        questions.Asked(QUESTION, ("f", "g"), None),
        "<Asked UNKNOWN: d503201f -> 14000002 by kick, any number of CPUs at f, g>",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), SHOWN, ids=[text[1:30] for _, text in SHOWN])
def test_a_value_is_one_readable_line(value: object, text: str) -> None:
    assert repr(value) == text


def test_a_plan_its_hunks_and_its_target() -> None:
    with Simulator.from_words([0xD503201F, 0x17FFFFFF], base=0x1000, cpus=2) as target:
        patch = parse("@@ 0x1000 @@\n-d503201f\n+14000001\n")
        plan = make_plan(patch, target)
        assert repr(target) == "<Simulator (simulator, 2 CPUs)>"
        assert repr(plan.hunks[0]) == "<PlannedHunk 0x1000 at 0x1000: not applied, 1 word to write>"
        assert repr(plan) == (
            "<Plan : not applied, 1 hunk, 1 word to write; kick: nop and b are both in the list of Arm ARM DDI 0487,"
            " B2.2.5 as of 2018>"
        )


def test_a_counterexample() -> None:
    [asked] = a64patch.prove(PATCH, omit=["isb"])
    assert asked.proof is not None
    assert repr(asked.proof.counterexample).startswith("<Counterexample to P2 under arm: ")


LARGE: tuple[object, ...] = (
    AsmDiff((Hunk("f\n" * 2000, (Line("+", 1, "x" * 300),) * 9),) * 5000, ("a" * 5000,)),
    Hunk("g" * 4096, ()),
    Line("#", None, "y" * 1000),
    Ranges.of((at, at + 4) for at in range(0, 80_000, 8)),
    Modules(Module("m" * 90 + str(number)) for number in range(2000)),
    Section(tuple(Change(4 * number, 0, 1) for number in range(5000))),
    ENTRY._replace(identity=Identity("/tmp/line\nfeed" * 900)),
    Recovery(ENTRY, EntryState.PARTIAL, "word\n" * 5000),
    Question("stop", (cases.Site((1,) * 32, (2,) * 32),) * 30),
)


@pytest.mark.parametrize("value", LARGE, ids=[type(value).__name__ for value in LARGE])
def test_a_large_value_is_one_line_too(value: object) -> None:
    text = repr(value)
    assert text.isprintable()
    assert len(text) <= oneline.LONGEST
    assert text[-2:] == "…>" or "more" in text


def _values() -> Iterator[type[Any]]:
    """The named tuples and data classes that a whole patch goes through."""
    package = importlib.import_module("a64patch.patch")
    rooms = [f"patch.{found.name}" for found in pkgutil.iter_modules(package.__path__)]
    for file in (*rooms, "targets.base", "targets.modules", "targets.section", "targets.symbols"):
        module = importlib.import_module(f"a64patch.{file}")
        for name, value in vars(module).items():
            own = isinstance(value, type) and value.__module__ == module.__name__ and name[0] != "_"
            if own and (dataclasses.is_dataclass(value) or hasattr(value, "_fields")):
                yield value


def test_every_value_with_addresses_or_words_has_a_form_of_its_own() -> None:
    plain = [value.__name__ for value in _values() if "shown" not in value.__repr__.__code__.co_names]
    # Its fields are a name, a number of CPUs, yes and no.
    assert plain == ["Capabilities"]


def test_a_text_that_others_chose_stays_on_one_line() -> None:
    assert oneline.printable("a b ä") == "a b ä"
    assert oneline.printable("a\nb\x1b[2Jc\u202e\udcff") == "a?b?[2Jc??"

"""Every protocol, with and without each of its steps: what can go wrong, and that nothing else can."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from a64patch.a64.assembler import assemble
from a64patch.errors import RequestError
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.cases import APART, BRK, TOGETHER, Site, build, machine_of, omittable
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.model import Model
from a64patch.proof.properties import PROPERTIES, query
from a64patch.proof.prove import Counterexample, Question, Verdict, models, prove, remedies
from a64patch.proof.search import search
from a64patch.proof.timeline import dot, tell
from a64patch.protocols import KICK, NOSYNC, PROTOCOLS, Act
from docs.omissions import NOTHING, SAMPLES, rows, table
from tests.support import ROOT

RACE, NO_RACE, TWO = SAMPLES.values()
TWO_ADDS = Site(
    tuple(assemble("add x9, x9, #1; add x10, x10, #1")), tuple(assemble("sub x9, x9, #1; sub x10, x10, #1"))
)

# Without this step: nop to b, which may race; add to sub, which may not; two words that each may race.
PUBLISHING = dict.fromkeys(("dc", "dsb-dc", "ic", "dsb-ic", "isb"), ("P2", "P2 P3", "P1 P2"))
EXPECTED: dict[str, dict[str, tuple[str | None, ...]]] = {
    "nosync": {
        NOTHING: ("SAFE", "P3", "P1"),
        **PUBLISHING,
        "test-flag": ("P2", "P2 P3", "P1 P2"),
        "isb-executor": ("P2", "P2 P3", "P1 P2"),
    },
    "kick": {NOTHING: ("SAFE", "P3", "P1"), **PUBLISHING, "dsb-sgi": ("SAFE", "P3", "P1")},
    "stop": {
        NOTHING: ("SAFE", "SAFE", "SAFE"),
        **PUBLISHING,
        "wait": ("SAFE", "P3", "P1"),
        "wait-executor": ("P2", "P2 P3", "P1 P2"),
        "isb-executor": ("P2", "P2 P3", "P1 P2"),
        "pc-check": ("SAFE", "SAFE", "P1"),
    },
    "brk": {
        NOTHING: ("SAFE", "P3", "P1"),
        **{f"guard.{name}": ("SAFE", "P3", "P1") for name in (*PUBLISHING, "wait")},
        **{f"tail.{name}": (None, None, "P1 P2") for name in ("dc", "dsb-dc", "ic")},
        **{f"tail.{name}": (None, None, "P1") for name in ("dsb-ic", "isb", "wait")},
        **{f"head.{name}": verdicts for name, verdicts in PUBLISHING.items()},
        "head.wait": ("SAFE", "P3", "P1"),
    },
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_each_step_is_for(protocol: str) -> None:
    found = rows(protocol)
    assert {name: tuple(row.get(sample) for sample in SAMPLES) for name, row in found.items()} == EXPECTED[protocol]
    # The page shows what `python -m docs.omissions` prints.
    assert table(protocol, found) in (ROOT / "docs/proof.md").read_text("utf-8")


CASES = [
    (protocol, site, omitted)
    for protocol, expected in EXPECTED.items()
    for omitted, verdicts in expected.items()
    for site, verdict in zip((RACE, NO_RACE, TWO), verdicts, strict=True)
    if verdict not in ("SAFE", None) and (protocol != "brk" or omitted == NOTHING)
]


@pytest.mark.parametrize(("protocol", "site", "omitted"), CASES)
def test_a_counterexample_is_an_execution_that_breaks_the_property(protocol: str, site: Site, omitted: str) -> None:
    omit = frozenset() if omitted == NOTHING else frozenset({omitted})
    proof = prove(Question(protocol, (site,), omit=omit))
    found = proof.counterexample
    assert found is not None
    x, case = found.execution, found.case
    # Every fetch and load has its value from the store that it is said to read, and time does not run backwards.
    for read, source in x.rf.items():
        written = x.events[source].value if source >= 0 else x.program.initial(x.events[read].address)
        assert x.events[read].value == written
    assert not any(x.before(one, other) and x.before(other, one) for one in range(len(x.events)) for other in x.fetches)
    question = query(case, found.property, found.model, "2018")
    assert question.trace is None or all(question.trace(number, trace) for number, trace in enumerate(x.traces))
    assert question.execution is None or question.execution(x)
    assert sum(f"{number:3}  " == line[:5] for number, line in enumerate(tell(found), 1)) == len(x.events)
    assert dot(found).count(" -> ") >= len(x.events) - len(x.traces)


def test_what_would_have_forbidden_it() -> None:
    assert remedies(prove(Question("kick", (RACE,), omit=frozenset({"dsb-ic"})))) == ["dsb-ic"]
    assert remedies(prove(Question("stop", (TWO,), omit=frozenset({"pc-check"})))) == ["pc-check"]
    assert remedies(prove(Question("nosync", (TWO,)))) == ["protocol stop"]
    assert remedies(prove(Question("kick", (RACE,), omit=frozenset({"ic", "isb"})))) == ["ic and isb"]
    assert remedies(prove(Question("kick", (RACE,)))) == []


def test_a_timeline_names_the_steps_and_both_words() -> None:
    found = prove(Question("kick", (RACE,), omit=frozenset({"dsb-ic"}))).counterexample
    assert isinstance(found, Counterexample)
    text = "\n".join(tell(found))
    for part in (
        "[dc]",
        "[sgi]",
        "takes the interrupt of line",
        "old word of site",
        "`nop`",
        "`b .+4`",
        "had been told",
    ):
        assert part in text


# Linux' sequences. None: the axioms do not cover DIC without IDC.
CTR = {"IDC=0 DIC=0": (False, False), "IDC=1": (True, False), "IDC=1 DIC=1": (True, True)}


@pytest.mark.parametrize("machine", CTR)
@pytest.mark.parametrize("written_for", CTR)
@pytest.mark.parametrize("protocol", ["nosync", "kick", "stop"])
def test_each_sequence_of_linux_is_safe_where_ctr_says_so_and_only_there(
    protocol: str, written_for: str, machine: str
) -> None:
    idc, dic = CTR[machine]
    question = Question(protocol, (NO_RACE if protocol == "stop" else RACE,), idc, dic, written_for=CTR[written_for])
    needs_more = CTR[written_for] > CTR[machine]
    assert (prove(question).verdict is Verdict.UNSAFE) is needs_more
    assert (prove(question).verdict is Verdict.SAFE) is not needs_more


@pytest.mark.parametrize(("idc", "dic"), CTR.values())
def test_no_step_of_linux_sequences_is_superfluous_but_the_one_that_waits_for_other_stores(
    idc: bool, dic: bool
) -> None:
    for protocol in ("nosync", "kick", "stop"):
        site = TWO_ADDS if protocol == "stop" else RACE
        for name in omittable(protocol, [site], machine_of(idc, dic)):
            question = Question(protocol, (site,), idc, dic, omit=frozenset({name}))
            # With DIC=1 the DSB before the SGI does for other CPUs what the one behind the store does too.
            spare = name == "dsb-sgi"
            assert prove(question).verdict is (Verdict.SAFE if spare else Verdict.UNSAFE), name


def test_dic_without_idc_is_not_answered() -> None:
    proof = prove(Question("kick", (RACE,), idc=False, dic=True))
    assert proof.verdict is Verdict.UNKNOWN
    assert "DIC=1 with IDC=0" in proof.reason


MEASURED = [
    ("nosync", RACE, (), ""),
    ("nosync", RACE, ("isb-executor",), "P2"),
    ("nosync", RACE, ("dsb-ic",), "P2"),
    ("nosync", RACE, ("dc",), "P2"),
    ("nosync", NO_RACE, (), "P3"),
    ("nosync", TWO, (), "P1"),
    ("kick", RACE, (), ""),
    ("kick", RACE, ("dsb-ic",), "P2"),
    ("stop", NO_RACE, (), ""),
    ("stop", TWO_ADDS, ("isb-executor",), "P1 P2 P3"),
    ("stop", NO_RACE, ("wait",), "P3"),
    ("stop", TWO, ("pc-check",), "P1"),
]


@pytest.mark.parametrize("executors", [1, 2, 3])
@pytest.mark.parametrize(("protocol", "site", "omit", "broken"), MEASURED)
def test_the_cutoff_says_what_the_search_of_all_cpus_says(
    protocol: str, site: Site, omit: tuple[str, ...], broken: str, executors: int
) -> None:
    any_number = prove(Question(protocol, (site,), omit=frozenset(omit)))
    so_many = prove(Question(protocol, (site,), omit=frozenset(omit), executors=executors))
    assert " ".join(sorted(any_number.broken)) == " ".join(sorted(so_many.broken)) == broken
    assert any_number.verdict is so_many.verdict
    assert not so_many.reason


def test_the_cutoff_for_two_words_in_a_stopped_machine_and_for_brk() -> None:
    assert prove(Question("stop", (TWO_ADDS,), executors=2)).verdict is Verdict.SAFE
    assert prove(Question("stop", (TWO_ADDS,))).verdict is Verdict.SAFE
    [arm] = models("arm")
    for executors in (1, 2, None):
        proof = prove(Question("brk", (TWO_ADDS,), executors=executors), [arm], ["P1"])
        assert (proof.verdict, list(proof.broken)) == (Verdict.UNSAFE, ["P1"])


def test_the_cutoff_for_several_sites() -> None:
    pair = (RACE, TWO)
    for executors in (None, 1, 2):
        assert prove(Question("stop", pair, executors=executors), properties=["P1", "P2"]).verdict is Verdict.SAFE
        assert prove(Question("kick", (RACE, RACE), executors=executors)).verdict is Verdict.SAFE
        assert set(prove(Question("kick", pair, executors=executors)).broken) == {"P1"}


@cache
def reader_may_be_stale(patcher: str, reader: str, model: Model, idc: bool, dic: bool) -> bool:
    """Whether a CPU that has seen the flag may execute the old word."""
    case = build("nosync", [RACE], idc=idc, dic=dic)
    code = {address: word for address, word in case.program.code.items() if not 0x1000 <= address < 0x3000}
    publish = "movz x1, #0x4000; movz w0, #0x1; movk w0, #0x1400, lsl #16; str w0, [x1]; movz x3, #0x8000; movz w2, #1"
    texts = {0x1000: f"{publish}; {patcher}", 0x2000: f"movz x3, #0x8000; {reader}; b 0x4000"}
    for start, text in texts.items():
        code |= {start + 4 * index: word for index, word in enumerate(assemble(text, start))}
    program = type(case.program)(
        case.program.threads, code, case.program.memory, idc, dic, windows=case.program.windows
    )
    return search(program, model, query(case, "P2", model, "2018")).allowed


MAINTAINED = {
    (False, False): "dc cvau, x1; dsb ish; ic ivau, x1; dsb ish",
    (True, False): "dsb ishst; ic ivau, x1; dsb ish",
    (True, True): "dsb ishst",
}


@pytest.mark.parametrize("model", [ArmNow(), Esop2020()], ids=lambda model: model.name)
@pytest.mark.parametrize(("idc", "dic"), MAINTAINED)
@pytest.mark.parametrize(
    ("reader", "stale"),
    [
        ("ldr w4, [x3]; cbz w4, .+4; isb", False),
        ("ldr w4, [x3]; dsb ish; isb", False),
        ("ldar w4, [x3]; cbz w4, .+4; isb", False),
        ("ldar w4, [x3]; isb", True),
        ("ldapr w4, [x3]; isb", True),
        ("ldr w4, [x3]; isb", True),
        ("ldr w4, [x3]; dmb ish; isb", True),
        ("ldr w4, [x3]; cbz w4, .+4", True),
        ("ldr w4, [x3]; dsb ish", True),
    ],
)
def test_an_acquire_and_an_isb_are_not_enough_for_a_reader(
    model: Model, reader: str, stale: bool, idc: bool, dic: bool
) -> None:
    assert reader_may_be_stale(f"{MAINTAINED[idc, dic]}; str w2, [x3]", reader, model, idc, dic) is stale


@pytest.mark.parametrize("model", [ArmNow(), Esop2020()], ids=lambda model: model.name)
@pytest.mark.parametrize(
    ("patcher", "idc", "dic", "stale"),
    [
        ("dc cvau, x1; dsb ish; ic ivau, x1; stlr w2, [x3]", False, False, True),
        ("dc cvau, x1; dsb ish; ic ivau, x1; dmb ish; str w2, [x3]", False, False, True),
        ("dc cvau, x1; dsb ish; ic ivau, x1; dsb ishst; str w2, [x3]", False, False, True),
        ("dmb ishst; ic ivau, x1; dsb ish; str w2, [x3]", True, False, True),
        ("dsb ishst; ic ivau, x1; dsb ish; str w2, [x3]", True, False, False),
        ("dsb ishst; str w2, [x3]", True, True, False),
    ],
)
def test_only_dsb_completes_what_the_patcher_does(
    model: Model, patcher: str, idc: bool, dic: bool, stale: bool
) -> None:
    assert reader_may_be_stale(patcher, "ldr w4, [x3]; cbz w4, .+4; isb", model, idc, dic) is stale


def test_every_protocol_can_finish() -> None:
    # Otherwise SAFE would mean nothing: each CPU that is watched can be told that patching is done.
    for protocol in PROTOCOLS:
        for executors in (0, 1, 2):
            for line in (TOGETHER, APART):
                case = build(protocol, [RACE], executors=executors, line=line)
                assert search(case.program, ArmNow(), query(case, "told", ArmNow(), "2018"))


def test_a_protocol_that_cannot_finish_is_not_called_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PROTOCOLS["stop"]
    # Nobody says that it has come.
    monkeypatch.setitem(PROTOCOLS, "stop", whole.without("arrive"))
    proof = prove(Question("stop", (RACE,)))
    assert proof.verdict is Verdict.UNKNOWN
    assert "another CPU can never be told" in proof.reason


@pytest.mark.parametrize(
    ("old", "new", "protocol", "broken"),
    [
        # Whatever the words are: SIMD, loads, words that no table knows.
        ("fmla v0.4s, v1.4s, v2.4s", "ldr x0, [x1, #8]!", "stop", ""),
        ("fmla v0.4s, v1.4s, v2.4s", "ldr x0, [x1, #8]!", "kick", "P3"),
        # The old RET never goes on, but the new NOP may go on to the old word behind it.
        ("ret; nop", "nop; b .+4", "kick", "P1 P3"),
        ("bl .+0x100; nop", "bl .+0x200; b .+4", "kick", "P1"),
        ("brk #4", "nop", "kick", ""),
    ],
)
def test_real_words(old: str, new: str, protocol: str, broken: str) -> None:
    proof = prove(Question(protocol, (Site(tuple(assemble(old)), tuple(assemble(new))),)))
    assert " ".join(sorted(proof.broken)) == broken
    assert proof.verdict is (Verdict.UNSAFE if broken else Verdict.SAFE)


def test_a_site_that_loops_is_asked_in_both_directions() -> None:
    # Entered at the second word, left by the first: only the jump back brings a CPU from one to the other.
    loop = Site(tuple(assemble("ret; nop; b .-8")), tuple(assemble("b .+8; b .+4; ret")))
    assert prove(Question("stop", (loop,))).verdict is Verdict.SAFE
    assert prove(Question("kick", (loop,))).verdict is not Verdict.SAFE


def test_a_site_of_many_words_is_answered_too() -> None:
    many = Site((assemble("nop")[0],) * 12, tuple(assemble("; ".join(f"mov x0, #{n}" for n in range(12)))))
    assert prove(Question("stop", (many,))).verdict is Verdict.SAFE
    assert set(prove(Question("kick", (many,))).broken) == {"P1", "P3"}
    assert set(prove(Question("nosync", (many,))).broken) == {"P1", "P3"}


def test_a_site_may_be_entered_at_any_word() -> None:
    # Nobody who enters at the first word gets to the second one, but somebody may come from elsewhere.
    site = Site(tuple(assemble("ret; nop; nop")), tuple(assemble("b .+0x100; b .+4; b .+4")))
    assert "P1" in prove(Question("kick", (site,))).broken
    short = Site(tuple(assemble("b .+0x80; nop")), site.new[:2], comes_back=False)
    assert "P1" not in prove(Question("kick", (short,))).broken
    assert prove(Question("stop", (site,))).verdict is Verdict.SAFE


@pytest.mark.parametrize(
    "middle",
    [
        "add x0, x0, #1", "br x3", "ret", "blr x3", "retaa", "hlt #0", "eret", "brk #0x800", "brk #4", "udf #0",
        "svc #0", ".inst 0x04a0e3e0", ".inst 0xd503477f", ".inst 0x00ff00ff", ".inst 0xffffffff",
    ],
)  # fmt: skip
@pytest.mark.parametrize("comes_back", [False, True])
@pytest.mark.parametrize("protocol", ["nosync", "kick"])
def test_no_word_between_two_words_makes_them_safe(middle: str, protocol: str, comes_back: bool) -> None:
    """`cntw x0`, of SVE, in the middle made UNSAFE into SAFE, since a word outside the table was taken to leave."""
    old, new = (tuple(assemble(text.format(middle))) for text in ("nop; {}; nop", "b .+0x100; {}; b .+0x200"))
    assert "P1" in prove(Question(protocol, (Site(old, new, comes_back=comes_back),))).broken
    assert prove(Question("stop", (Site(old, new, comes_back=comes_back),))).verdict is Verdict.SAFE


def test_code_outside_may_come_back_into_the_middle() -> None:
    # In the site nobody gets from one changed word to the other, in either form.
    old, new = (tuple(assemble(text)) for text in ("b .+8; nop; nop", "b .+12; b .+4; nop"))
    assert prove(Question("kick", (Site(old, new, comes_back=False),))).verdict is Verdict.SAFE
    for executors in (None, 1):
        proof = prove(Question("kick", (Site(old, new),), executors=executors))
        assert set(proof.broken) == {"P1"}


@pytest.mark.parametrize("text", ["nop; nop", "b .+0x100; nop", "ret; nop; nop"])
def test_a_stop_keeps_cpus_out_of_the_code_that_comes_back(text: str) -> None:
    """The second word was the head of a loop outside: every run of the simulator was torn, and `prove` said SAFE."""
    old = tuple(assemble(text))
    new = (*assemble("b .+4; b .+8"), *old[2:])
    assert prove(Question("stop", (Site(old, new),))).verdict is Verdict.SAFE
    assert prove(Question("stop", (Site(old, new, comes_back=False, kept_out=False),))).verdict is Verdict.SAFE
    assert set(prove(Question("stop", (Site(old, new, kept_out=False),))).broken) == {"P1"}


def test_a_guard_that_is_in_the_site_already_is_no_guard() -> None:
    for pair in ((BRK, RACE.old[0]), (RACE.old[0], BRK)):
        proof = prove(Question("brk", (Site(pair[:1], pair[1:]),)))
        assert proof.verdict is Verdict.UNKNOWN
        assert "is in the site already" in proof.reason


def test_a_jump_to_the_first_word_begins_a_new_pass() -> None:
    # Old words for some rounds, then stopped in front of the first word, then new ones: nothing is torn.
    loop = Site(tuple(assemble("nop; b .-4")), tuple(assemble("b .+4; b .+0x100")))
    proof = prove(Question("stop", (loop,), executors=1))
    assert not proof.broken
    assert "loop" in proof.reason
    assert prove(Question("stop", (loop,))).verdict is Verdict.SAFE
    assert "P1" in prove(Question("kick", (loop,), executors=1)).broken


def test_sites_whose_first_words_are_the_same_are_each_asked_with_all_their_words() -> None:
    # Both have the same reduced programs. In the first site, nobody gets from one changed word to the other.
    apart, torn = (
        Site(tuple(assemble(old)), tuple(assemble(new)), comes_back=False)
        for old, new in (
            ("nop; b .+400; nop", "b .+400; b .+400; b .+8"),
            ("nop; nop; nop", "b .+400; nop; b .+8"),
        )
    )
    assert prove(Question("kick", (apart,))).verdict is Verdict.SAFE
    assert set(prove(Question("kick", (torn,))).broken) == {"P1"}
    assert set(prove(Question("kick", (apart, torn))).broken) == {"P1"}


@pytest.mark.parametrize("protocol", ["kick", "brk"])
def test_a_word_that_may_race_does_not_stand_for_one_that_may_not(protocol: str) -> None:
    for last, broken in ((("nop", "b .+4"), False), (("add x9, x9, #1", "sub x9, x9, #1"), True)):
        old, new = (
            tuple(assemble(f"{text}; {text}; {word}")) for text, word in zip(("nop", "b .+8"), last, strict=True)
        )
        proof = prove(Question(protocol, (Site(old, new, comes_back=False),)), properties=["P3"])
        assert bool(proof.broken) is broken


@pytest.mark.parametrize("words", [4, 16])
def test_few_new_words_are_enough_for_a_counterexample(words: int) -> None:
    old, new = ((assemble(f"{name} x9, x9, #1")[0],) * words for name in ("add", "sub"))
    for protocol, broken in (("kick", {"P1", "P3"}), ("brk", {"P1", "P3"}), ("stop", set())):
        if (protocol, words) != ("brk", 16):
            proof = prove(Question(protocol, (Site(old, new),)))
            assert (set(proof.broken), proof.reason) == (broken, "")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_hasty_proof_has_the_same_verdict(protocol: str) -> None:
    pairs = [("nop", "b .+8"), ("add x9, x9, #1", "sub x9, x9, #1"), ("nop; nop", "b .+4; b .+8")]
    for site in (Site(tuple(assemble(old)), tuple(assemble(new))) for old, new in pairs):
        for omit in ("", *omittable(protocol, (site,))):
            question = Question(protocol, (site,), omit=frozenset(filter(None, [omit])))
            assert prove(question, hasty=True).verdict is prove(question).verdict, (site, omit)


@pytest.mark.parametrize(
    "question",
    [
        lambda: prove(Question("telepathy", (RACE,))),
        lambda: prove(Question("kick", (RACE,), omit=frozenset({"sgi"}))),
        lambda: prove(Question("kick", (RACE,), executors=99)),
        lambda: prove(Question("kick", (RACE,) * 17, executors=1)),
        lambda: Site((BRK,), (BRK,)),
        lambda: Site((BRK,), ()),
        lambda: Site((BRK,) * 33, (0,) * 33),
    ],
)
def test_what_is_no_question(question: Callable[[], object]) -> None:
    with pytest.raises(RequestError):
        question()


def test_properties_have_names() -> None:
    assert list(PROPERTIES) == ["P1", "P2", "P3"]


# Steps of another origin


def test_steps_of_another_origin_take_the_place_of_the_known_ones() -> None:
    barred = NOSYNC._replace(
        steps=tuple(step._replace(text="dmb ish") if step.act is Act.FINISH else step for step in NOSYNC.steps)
    )
    proof = prove(Question("nosync", (RACE,), custom=barred))
    assert proof.verdict is Verdict.UNSAFE
    assert remedies(proof) == ["protocol nosync", "protocol kick", "protocol stop", "protocol brk"]
    assert prove(Question("nosync", (RACE,), custom=NOSYNC)).verdict is Verdict.SAFE
    assert prove(Question("kick", (RACE,), custom=KICK.without("isb"))).verdict is Verdict.UNSAFE


def test_steps_that_are_not_known_are_unknown_even_if_others_would_be_safe() -> None:
    proof = prove(Question("nosync", (RACE,), unread="nobody could read them"))
    assert (proof.verdict, proof.reason, proof.searches) == (Verdict.UNKNOWN, "nobody could read them", 0)

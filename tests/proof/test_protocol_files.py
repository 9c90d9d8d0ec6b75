"""Other people's protocols: the shipped ones, the form of a file, and what refuses to be a proof."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from a64patch.a64.assembler import assemble
from a64patch.cli.asking import SHIPPED, shipped
from a64patch.errors import A64PatchError, FormatError
from a64patch.proof import asking
from a64patch.proof.asking import Answer, answers, read
from a64patch.proof.cases import Site
from a64patch.proof.prove import Question, Verdict, prove
from a64patch.proof.timeline import tell
from docs.protocols import row
from tests.support import ROOT, rounds

WRITE_ONCE = """
thread cpu, any number
    site key: nop -> b on
    mov x0, #1
on: nop
{interrupt}
thread patcher
    write key
    {publish}
    kick
ask P2 key of cpu after back
"""
BACK = "interrupt cpu\n answer\nback: eret\n"


def ask(text: str) -> list[Answer]:
    return list(answers(read(text, "test.protocol")))


def verdicts(text: str) -> list[str]:
    return [answer.verdict.value for answer in ask(text)]


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_protocol_has_the_verdicts_that_it_expects(name: str) -> None:
    found = ask((SHIPPED / name).read_text(encoding="utf-8"))
    assert [(answer.ask.text, answer.verdict.value) for answer in found] == [
        (answer.ask.text, answer.ask.expected) for answer in found
    ]
    assert all(answer.counterexample for answer in found if answer.verdict is Verdict.UNSAFE)
    assert all(answer.broken == ["arm", "esop"] for answer in found if answer.verdict is Verdict.UNSAFE)


def test_the_page_lists_each_shipped_protocol() -> None:
    page = re.sub(r"\| [0-9]+ \|$", "| - |", (ROOT / "docs/proof.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [name for name in shipped() if f"{row(name, '-')}\n" not in page] == []
    assert len(shipped()) >= 10


# Each step of a shipped protocol that is SAFE is needed: without it, something is broken.
NEEDED = [
    ("static-keys", "publish key", "dc key\ndsb ish\nic key"),
    ("static-keys", "publish key", "dsb ish\nic key\ndsb ish"),
    ("kprobes", "isb\nback", "back"),
    ("kprobes", "    gather\n", ""),
    ("ftrace-call-ops", "    unlock patch_lock\n    lock patch_lock\n", ""),
    ("static-call", "    gather\n", ""),
    ("jit-page-reuse", "    membarrier\n", "    dsb ish\n"),
    ("jit-page-reuse", "publish body\n", ""),
    ("fex-dmb", "    publish ordered[1]\n", ""),
    ("openjdk-entry-barrier", "    isb\nenter_after", "enter_after"),
]


@pytest.mark.parametrize(("name", "step", "instead"), NEEDED)
def test_a_protocol_without_one_step_is_unsafe(name: str, step: str, instead: str) -> None:
    text = (SHIPPED / f"{name}.protocol").read_text(encoding="utf-8")
    assert text.count(step) == 1
    changed = [
        answer.ask.text
        for answer in ask(text.replace(step, instead))
        if answer.ask.expected == "SAFE" and answer.verdict is Verdict.UNSAFE
    ]
    assert changed


def test_the_machine_decides_what_publish_is() -> None:
    """IDC needs no DC, and DIC no IC: Linux's sequences for them are right there, and there only."""
    text = WRITE_ONCE.format(interrupt=BACK, publish="publish key")
    assert verdicts(text) == verdicts("machine: idc\n" + text) == verdicts("machine: idc dic\n" + text) == ["SAFE"]
    by_hand = WRITE_ONCE.format(interrupt=BACK, publish="dsb ishst; ic key; dsb ish; isb")
    assert (verdicts(by_hand), verdicts("machine: idc\n" + by_hand)) == (["UNSAFE"], ["SAFE"])


def test_both_sizes_of_a_cache_line_are_asked() -> None:
    """Maintenance of the first word's line is that of the second word only where they share a line."""
    text = (
        "thread cpu, any number\n site pair: nop; nop -> isb; b on\non: nop\n" + BACK + "thread patcher\n write pair\n"
        " publish pair{one}\n kick\nask P2 pair of cpu after back\n"
    )
    assert (verdicts(text.format(one="")), verdicts(text.format(one="[0]"))) == (["SAFE"], ["UNSAFE"])


def test_a_thread_that_is_never_told_proves_nothing() -> None:
    """Nobody reaches the label, so nobody executes an old word behind it: that is no SAFE."""
    text = WRITE_ONCE.format(interrupt=BACK, publish="publish key").replace("    kick\n", "")
    [answer] = ask(text)
    assert (answer.verdict, answer.reason) == (Verdict.UNKNOWN, "cpu never reaches back, under arm")


def test_a_site_that_no_watched_thread_executes_proves_nothing() -> None:
    text = "thread cpu\n site key: nop -> isb\nthread patcher\n write key\nask P1 key of patcher\nask P3 of patcher\n"
    reasons = [answer.reason for answer in ask(text)]
    assert reasons == [
        "no thread that is watched executes the site key, so nothing was asked",
        "no thread that is watched executes code that is patched, so nothing was asked",
    ]


UNREACHED = (
    "no execution reaches the store to pair in line {}, under arm: a CPU waits for ever, or the line is never executed"
)
NOTHING_ASKED = [
    (  # Nobody answers, so nothing is ever patched.
        "thread cpu\n site pair: nop; nop -> isb; isb\nthread p\n gather\n write pair\nask P1 pair\n",
        UNREACHED.format(5),
    ),
    (  # The first word is patched. The second waits for a value that nobody stores.
        "data go\nthread cpu\n site pair: nop; nop -> isb; isb\nthread p\n write pair[0]\n await go = 1\n"
        " write pair[1]\nask never p: x16 = 1\n",
        UNREACHED.format(7),
    ),
    (  # No CPU may be interrupted where it would have to be, so the patcher waits for ever.
        "thread cpu\n site pair: nop; nop -> isb; isb\ninterrupt cpu\n cbz x0, end\n answer\n eret\n"
        "thread p\n kick\n gather\n write pair\nask P1 pair\n",
        UNREACHED.format(10),
    ),
    (  # The only CPU with the words ends before they are new.
        "thread cpu\n site pair: nop; nop -> isb; isb\n answer\nthread p\n gather\n write pair\nask P1 pair\nask P3\n",
        "cpu never executes a new word of pair, under arm, so nothing was asked",
    ),
    (  # The CPU was told, and then does not execute the words again.
        "data done\nthread cpu\n site key: nop -> isb\n acquire x1, done\n cbz x1, end\ntold: nop\n"
        "thread p\n write key\n store done = 1\nask P2 key of cpu after told\n",
        "cpu never executes key after told, under arm",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), NOTHING_ASKED, ids=["gather", "await", "interrupt", "before", "told"])
def test_a_question_that_no_execution_comes_to_is_unknown(text: str, reason: str) -> None:
    answer = ask(text)[0]
    assert (answer.verdict, answer.reason) == (Verdict.UNKNOWN, reason)


def test_a_word_that_was_not_followed_to_is_no_answer_about_racing() -> None:
    """Both known words of the first site may race. The loop in front of the other store was not followed to its end."""
    text = (
        "data c\nthread q\n store c = 1\nthread cpu\n site key: nop -> b on\non: nop\n"
        " site other: add x0, x0, #1 -> add x0, x0, #2\nthread p\n write key\n load x1, c\n cbz x1, end\n"
        "again: load x1, c\n add x2, x2, #1\n cmp x2, #6\n b.ne again\n write other\nask P3 of cpu\n"
    )
    [answer] = ask(text)
    assert (answer.verdict, answer.reason) == (Verdict.UNKNOWN, "p was not followed further than again")


def test_one_cpu_stands_for_any_number_only_if_it_changes_nothing_for_others() -> None:
    """A CPU that tells another one: with one CPU nobody can be told, so that one does not stand for two."""
    text = "data seen\nthread cpu{many}\n mov x1, #0\n site key: nop -> b on\n mov x0, #1\non: {tell}\n{more}" \
           "thread patcher\n write key\nask never cpu: x0 = 1 and cpu: x1 = 1\n"  # fmt: skip
    tell, more = "store seen = 1", ""
    [answer] = ask(text.format(many=", any number", tell=tell, more=more))
    assert answer.reason == "cpu writes to seen, so one does not stand for any number: write `thread cpu, 2`"
    assert verdicts(text.format(many=", 2", tell=tell, more=more)) == ["SAFE"]
    assert verdicts(text.format(many=", any number", tell="nop", more="")) == ["SAFE"]


@pytest.mark.parametrize("many", ["any number", "2"])
def test_no_cpu_tells_copies_apart_by_their_own_memory(many: str) -> None:
    """The first CPU reads in its own memory that it must not go on. The others would."""
    text = (
        f"data seen\nthread cpu, {many}\n acquire x5, seen\n cbz x5, end\n ldr x1, [x26]\n cbnz x1, 0xf000\n"
        " site key: add x0, x0, #1 -> mov x0, #7\nthread p\n mov x2, #1\n adr x1, 0x9000\n str x2, [x1]\n"
        " release seen = 1\n write key\nask P3\n"
    )
    assert re.match("p writes the answer of cpu1? without `gather`: use a `data` cell", ask(text)[0].reason)
    assert verdicts(text.replace(" str x2, [x1]\n", "")) == ["UNSAFE"]


def test_a_copy_writes_to_no_memory_of_others() -> None:
    """Two CPUs add to the patcher's memory, so that it counts them. One CPU never lets it count two."""
    text = (
        "thread cpu, any number\n adr x1, 0x9040\n mov x2, #1\n stadd x2, [x1]\n site key: nop -> isb\n"
        "thread p\n ldr x2, [x26]\n write key\nask never p: x2 = 2\n"
    )
    assert ask(text)[0].verdict is Verdict.UNKNOWN


def test_a_word_that_stays_may_be_stored_to() -> None:
    """The second word is the same before and after, but the patcher stores another one there."""
    text = (
        "data done\ncode f\n site key: nop; nop -> b .+4; nop\n ret\nthread cpu\n bl key\n acquire x1, done\n"
        " cbz x1, end\n isb\ntold: bl key\nthread p\n write key[0]\n write key[1]{other}\n publish key\n"
        " store done = 1\nask P2 key of cpu after told\n"
    )
    assert verdicts(text.format(other="")) == ["SAFE"]
    assert verdicts(text.format(other=" = mov x3, #3")) == ["UNSAFE"]


def test_a_condition_on_what_nobody_writes_is_unknown() -> None:
    text = "data flag\nthread cpu\n site key: mov x1, #1 -> mov x1, #2\nthread p\n write key\n"
    asked = "ask never cpu: x11 = 2\nask never flag = 1\nask never cpu: x1 = 3\nask never flag = 0\n"
    found = [(answer.verdict.value, answer.reason) for answer in ask(text + asked)]
    assert found == [
        ("UNKNOWN", "cpu never writes x11, so nothing was asked"),
        ("UNKNOWN", "no thread stores to flag, so nothing was asked"),
        ("SAFE", ""),
        ("UNSAFE", ""),
    ]


@pytest.mark.parametrize(("way", "where"), [("b 0xf00", "0xf00"), ("br x9", "0x0"), ("load x1, x\n br x1", "0x18")])
def test_a_branch_to_no_code_is_unknown(way: str, where: str) -> None:
    """A CPU that leaves the file may do anything. Only `end`, and the end of a block, are ends."""
    text = "data x = 0x18\nthread cpu\n site key: nop -> isb\n{way}\nthread patcher\n write key\nask P1 key\n"
    [answer] = ask(text.format(way=way))
    assert answer.reason == f"cpu may end by a branch to {where}, which is not modelled"
    assert verdicts(text.format(way="b end")) == verdicts(text.format(way="nop")) == ["SAFE"]


def test_an_answer_is_read_by_gather_only() -> None:
    """Who adds up answers by their addresses is told something else by each number of CPUs."""
    text = (
        "thread cpu, any number\n site key: nop -> isb\n answer\nthread patcher\n{read} write key\n"
        "ask never patcher: x1 = 2\n"
    )
    [answer] = ask(text.format(read=" adr x1, 0x9000\n ldr x1, [x1]\n"))
    assert answer.reason == "patcher reads the answer of cpu without `gather`: use a `data` cell"
    assert verdicts(text.format(read=" gather\n mov x1, #1\n")) == ["SAFE"]


def test_a_pass_goes_on_after_a_call_that_executed_the_site_anew() -> None:
    """The call between the words waits until both are new, and passes them all. Its caller had executed an old one."""
    text = """
        data go
        code traced
            site pair: nop; bl hook; nop -> isb; bl hook; isb
            cbnz x7, end
            mov x7, #1
            b back
        code hook
            cbnz x6, again
            mov x6, #1
            mov x9, x30
            await go = 1
            isb
            b pair
        back: mov x30, x9
        again: ret
        thread cpu
            b traced
        thread patcher
            write pair[0]
            write pair[2]
            publish pair
            store go = 1
        ask P1 pair
        ask possible cpu: x7 = 1
    """
    assert verdicts(text) == ["UNSAFE", "SAFE"]


def test_an_interrupt_may_execute_the_site_anew() -> None:
    """A stop waits inside the words; the handler passes them all, new. The interrupted pass is torn all the same."""
    text = (
        "data done\ncode both\n site pair: nop; nop -> isb; isb\n ret\nthread cpu\n bl both\n"
        "interrupt cpu\n mov x9, x30\n answer\n await done = 1\n isb\n{again} mov x30, x9\n eret\n"
        "thread patcher\n kick\n gather\n write pair\n publish pair\n store done = 1\nask P1 pair\n"
    )
    assert verdicts(text.format(again="")) == verdicts(text.format(again=" bl both\n")) == ["UNSAFE"]
    assert verdicts(text.format(again=" bl both\n") + "keep out pair\n") == ["SAFE"]


def test_gather_waits_for_the_kicks_that_were_sent() -> None:
    """A kick behind a branch: a CPU that did not send it waits for one answer only, and goes on."""
    text = (
        "data c\nthread cpu, any number\n site pair: nop; nop -> isb; isb\nthread q\n store c = 1\n"
        "thread p\n load x1, c\n cbz x1, skip\n kick\nskip: kick\n gather\n cbnz x1, end\n mov x9, #1\n"
        " write pair\nask never p: x9 = 1\nask P1 pair\n"
    )
    assert verdicts(text) == ["UNSAFE", "UNSAFE"]


def test_gather_goes_on_when_a_cpu_has_answered_others_too() -> None:
    """The second patcher kicks once, after the CPU has answered two kicks of the first one."""
    text = (
        "data first\nthread cpu, any number\n site key: nop -> b on\non: nop\n"
        "thread p1\n kick\n kick\n gather\n release first = 1\n"
        "thread p2\n acquire x1, first\n cbz x1, end\n kick\n gather\n mov x9, #1\n write key\n"
        "ask possible p2: x9 = 1\n"
    )
    assert verdicts(text) == ["SAFE"]


def test_gather_leaves_nothing_of_an_answer() -> None:
    """With any number of CPUs, nothing may depend on how often one of them has answered."""
    text = "thread cpu, any number\n answer\n answer\nthread p\n gather\n mov x8, x16\nask never p: x8 != 0\n"
    assert verdicts(text) == ["SAFE"]


def test_gather_is_of_a_thread() -> None:
    with pytest.raises(FormatError, match=r":3: code f is of no thread"):
        read("thread cpu\ncode f\n gather\nask P3\n", "test.protocol")


def test_a_handler_changes_nothing_of_the_step_that_it_interrupts() -> None:
    """A CPU that is interrupted inside `load` or `write` goes on with its own address and its own word."""
    text = (
        "data a = 1\ndata b = 2\nthread cpu\n load x1, a\n mov x2, x1\n site key: nop -> b on\non: nop\n"
        "interrupt cpu\n load x3, b\n store b = 2\n answer\n eret\nthread q\n kick\n"
        "ask never cpu: x2 = 2\nask possible cpu: x3 = 2\n"
    )
    assert verdicts(text) == ["SAFE", "SAFE"]
    text = (
        "data b\nthread cpu\n site key: nop -> b on\non: nop\nthread p\n write key\n"
        "interrupt p\n store b = 2\n write key[0]\n publish key\n eret\nthread q\n kick\nask P3\n"
    )
    assert verdicts(text) == ["SAFE"]


def test_a_slot_of_a_literal_pool_and_a_landing_pad() -> None:
    """The timeline has names for addresses, and calls a word that stays neither old nor new."""
    text = (
        "data slot = f1\ncode f1\n mov x0, #1\n ret\ncode f2\n bti c\n site body: nop; ret -> mov x0, #2; ret\n"
        "thread cpu, any number\n ldr x1, slot\n cbz x1, end\ncall: blr x1\n"
        "thread jit\n write body\n publish body\n store slot = f2\n"
        "ask never cpu: reached f2 and cpu: x0 = 0\nask possible cpu: x0 = 2\nask P2 body of cpu after call\n"
    )
    assert verdicts(text) == ["UNSAFE", "SAFE", "UNSAFE"]
    found = ask(text)[2].counterexample
    assert found
    told = "\n".join(tell(found))
    assert "reads slot = f2, which line" in told
    assert "the word of body+4, d65f03c0 `ret`" in told
    isb = text.replace("call: blr", "isb\ncall: blr")
    assert verdicts(isb)[0] == "SAFE"


def test_a_word_that_nobody_patches_is_told() -> None:
    """The patcher forgot to write the word, so that no fetch of it is in the execution."""
    text = WRITE_ONCE.format(interrupt=BACK, publish="publish key").replace("    write key\n", "")
    [answer] = ask(text)
    assert answer.verdict is Verdict.UNSAFE
    assert answer.counterexample
    assert tell(answer.counterexample)[-1].endswith("the old d503201f `nop` at key, which no CPU writes.")


def test_two_patchers_need_the_lock() -> None:
    """Each patcher counts what it has done. Without the lock, one count can be lost."""
    patcher = (
        "thread p{n}\n {lock}\n load x1, count\n add x1, x1, #1\n adr x17, count\n str x1, [x17]\n write key\n"
        " publish key\n {unlock}\ndone{n}: nop\n"
    )
    cpu = "data count\ndata mutex\nthread cpu, any number\n site key: nop -> b on\non: nop\n"
    end = "ask never p1: reached done1 and p2: reached done2 and count = 1\nask possible count = 2\n"

    def text(lock: str, unlock: str) -> str:
        return cpu + "".join(patcher.format(n=n, lock=lock, unlock=unlock) for n in (1, 2)) + end

    assert verdicts(text("lock mutex", "unlock mutex")) == ["SAFE", "SAFE"]
    assert verdicts(text("nop", "nop")) == ["UNSAFE", "SAFE"]


def test_mixtures_may_be_allowed() -> None:
    """Tail first, head last: an old head before a new tail is no harm, the other way round it is."""
    text = (
        "thread cpu\n site pair: nop; nop -> isb; isb\n nop\nthread patcher\n write pair[1]\n publish pair[1]\n"
        " write pair[0]\n publish pair[0]\n"
    )
    asked = "ask P1 pair\nask P1 pair allow old new\nask P1 pair allow new old\nask P1 pair allow any any\n"
    assert verdicts(text + asked) == ["UNSAFE", "SAFE", "UNSAFE", "SAFE"]


def test_an_interrupt_inside_the_words() -> None:
    """Two words by a stop: they are whole only if no CPU is interrupted between them."""
    text = (
        "data done\nthread cpu, any number\n site pair: nop; nop -> isb; b on\non: nop\n"
        "interrupt cpu\n answer\n await done = 1\n isb\n eret\n"
        "thread patcher\n kick\n gather\n write pair\n publish pair\n store done = 1\nask P1 pair\n"
    )
    assert (verdicts(text), verdicts(text + "keep out pair\n")) == (["UNSAFE"], ["SAFE"])


def test_a_loop_that_was_not_followed_to_its_end_is_unknown() -> None:
    text = "data x\nthread cpu\nagain: load x1, x\n cbz x1, again\n site key: nop -> isb\nthread p\n write key\n"
    [answer] = ask(text + " store x = 1\nask never cpu: x1 = 0\n")
    assert answer.verdict is Verdict.UNKNOWN
    assert "not followed further" in answer.reason


def test_a_search_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    text = WRITE_ONCE.format(interrupt=BACK, publish="publish key")
    assert verdicts(text) == ["SAFE"]
    monkeypatch.setattr(asking, "MOST_STEPS", 50)
    [answer] = ask(text)
    assert answer.verdict is Verdict.UNKNOWN
    assert answer.reason.startswith("the search was given up, since it takes too long")


def test_a_thread_with_too_many_paths_is_named() -> None:
    text = f"thread cpu\n site s: {'; '.join(['nop'] * 16)} -> {'; '.join(['isb'] * 16)}\nthread p\n write s\nask P3\n"
    assert ask(text)[0].reason.startswith("cpu has more than 20000 paths")


def test_a_word_that_is_not_modelled_is_unknown() -> None:
    [answer] = ask("thread cpu\n site key: nop -> 04a0e3e0\nthread p\n write key\nask P3\n")
    assert answer.verdict is Verdict.UNKNOWN
    assert "04a0e3e0" in answer.reason


FORMS = {
    "nosync": """
        thread cpu
            load x4, done
            cbz x4, early
            isb
        told: b go
        early: isb
        go: {site}
        thread patcher
            {write}
            {publish}
            store done = 1
        ask P1 text
        ask P2 text after told
        ask P3
        """,
    "kick": """
        thread cpu
            {site}
        interrupt cpu
        told: eret
        thread patcher
            {write}
            {publish}
            kick
        ask P1 text
        ask P2 text after told
        ask P3
        """,
    "stop": """
        thread cpu
            {site}
        interrupt cpu
            answer
            await done = 1
            isb
        told: eret
        thread patcher
            kick
            gather
            {write}
            {publish}
            store done = 1
        keep out text
        ask P1 text
        ask P2 text after told
        ask P3
        """,
}
PUBLISH = {"dc": "dc text", "dsb-dc": "dsb ish", "ic": "ic text", "dsb-ic": "dsb ish", "isb": "isb"}
WORDS = ("nop", "isb", "b .+4", "add x9, x9, #1", "sub x9, x9, #1", "movz w8, #1", "yield")


@pytest.mark.parametrize("protocol", FORMS)
def test_our_own_protocols_written_as_files_have_the_same_answers(protocol: str) -> None:
    """Random words, with and without a step of the maintenance: as `prove` answers for one other CPU."""
    chance = random.Random(protocol)
    told_apart = set()
    for _ in range(rounds(60, 6)):
        count = chance.randint(1, 2)
        old, new = (chance.choices(WORDS, k=count) for _ in range(2))
        if all(one == other for one, other in zip(old, new, strict=True)):
            continue
        omit = frozenset({chance.choice(["", "", "dc", "dsb-dc", "ic", "dsb-ic"])} - {""})
        publish = "\n".join(text for step, text in PUBLISH.items() if step not in omit)
        # As there, the first changed word is written first, and a word that stays is not written.
        write = "\n".join(f"write text[{n}]" for n in range(count) if old[n] != new[n])
        lines = [n for n in range(count) if old[n] != new[n]]
        if len(lines) < count:
            publish = publish.replace("text", f"text[{lines[0]}]")
        text = "data done\n" + FORMS[protocol].format(
            site=f"site text: {'; '.join(old)} -> {'; '.join(new)}", write=write, publish=publish
        )
        found = {answer.ask.kind: answer.broken for answer in ask(text) if answer.broken}
        site = Site(tuple(assemble("; ".join(old))), tuple(assemble("; ".join(new))), comes_back=False)
        proof = prove(Question(protocol, (site,), omit=omit, executors=1))
        mine = {name: sorted(models) for name, models in proof.broken.items()}
        assert found == mine, text
        told_apart.add(tuple(sorted(found)))
    assert len(told_apart) > 1


WRONG = [
    ("", "there is no thread"),
    ("thread cpu\n nop\n", "nothing is asked"),
    ("thread cpu\n nop\nask P4\n", "'P4' is no question"),
    ("nop\n", "stands before the first thread"),
    ("thread cpu\nthread cpu\n", "thread cpu occurs twice"),
    ("thread cpu\na: nop\na: nop\nask P3\n", "the name a occurs twice"),
    ("thread cpu\n site a: nop -> nop; nop\nask P3\n", "1 old and 2 new instructions"),
    ("thread cpu\n site a: nop; isb -> nop; isb\nask P3\n", "the old and the new words of the site a are equal"),
    ("thread cpu\n nop\ninterrupt cpu\n answer\nask P3\n", "behind the interrupt cpu is no code: end it with `eret`"),
    ("thread cpu\n nop\ninterrupt cpu\nask P3\n", "behind the interrupt cpu is no code: end it with `eret`"),
    ("thread cpu\n site a: nop\nask P3\n", "expected `site NAME"),
    ("thread cpu\n write a\nask P3\n", "there is no site 'a' above"),
    ("thread cpu\n site a: nop -> isb\n write a[1]\nask P3\n", "lies behind the site's 1 words"),
    ("thread cpu\n store a = 1\nask P3\n", "there is no cell 'a' above"),
    ("thread cpu\n frobnicate x0\nask P3\n", "does not know"),
    ("thread cpu\n b nowhere\nask P3\n", "there is no label, site or cell 'nowhere'"),
    ("thread cpu\na: b a+zz\nask P3\n", "'zz' is no number of bytes"),
    ("thread a1\n nop\nthread a, 2\n nop\nask P3\n", "two CPUs have the name a1"),
    ("data a\nthread cpu\n store a\nask P3\n", "expected `store CELL = VALUE`"),
    ("data a\nthread cpu\n await a == 1\nask P3\n", "expected `await CELL = VALUE`"),
    ("data a\nthread cpu\n load x1 a\nask P3\n", "expected `load REGISTER, CELL`"),
    ("thread cpu\n lock\nask P3\n", "`lock` needs the name of a cell, not ''"),
    ("thread cpu\n kick now\nask P3\n", "`kick` stands alone, without 'now'"),
    ("thread cpu\n site a: nop -> isb\n write a =\nask P3\n", "expected `write SITE`, `write SITE[2]` or"),
    ("thread a\n nop\nthread b\n gather\nthread c\n nop\nask P3\n", "nothing waits here for c: put the thread that"),
    ("thread cpu\n nop\nmachine: idc\nask P3\n", "put this line above the first thread"),
    ("thread cpu\n nop\nask never cpu: x1 = 0x10000000000000000\n", "is out of range: a value has 64 bits"),
    ("thread cpu\n kick\n gather\nask P3\n", "no thread above can answer"),
    ("thread cpu, many\nask P3\n", "expected `thread NAME`"),
    ("machine: dic\nthread cpu\n nop\nask P3\n", "dic without idc"),
    ("machine: mmu\nthread cpu\n nop\nask P3\n", "neither idc nor dic"),
    ("title: a\ntitle: b\nthread cpu\n nop\nask P3\n", "title occurs twice"),
    ("data a = b\nthread cpu\n nop\nask P3\n", "neither a number nor a name"),
    ("data a = 1 << 70\nthread cpu\n nop\nask P3\n", "neither a number nor a name"),
    ("trap cpu\n", "there is no thread cpu above its trap"),
    ("thread cpu\n nop\nask P1 a\n", "there is no site a"),
    ("thread cpu\n nop\nask P3 of gpu\n", "there is no thread 'gpu'"),
    ("thread cpu\n nop\nask P3 -> MAYBE\n", "is no verdict"),
    ("thread cpu\n nop\nask never cpu: x31 = 1\n", "expected `THREAD: x4 = VALUE`"),
    ("thread cpu\n nop\nask never a = 1\n", "there is no cell a"),
    ("thread cpu\n nop\nask never cpu: reached a\n", "there is no label a"),
    ("thread cpu\n site a: nop; nop -> isb; isb\nask P1 a allow old\n", "for each of 2 words"),
    ("thread cpu\n nop\nkeep out a\nask P3\n", "there is no site 'a'"),
    ("thread cpu\n" + " nop\n" * 600 + "ask P3\n", "more than 512 instructions"),
    ("data a{}\n" * 70, "is no name"),
    ("".join(f"data a{n}\n" for n in range(70)), "more than 64 cells"),
    ("thread cpu\n nop\n" + "ask P3\n" * 70, "more than 64 questions"),
    ("".join(f"thread a{n}\n nop\n" for n in range(9)) + "ask P3\n", "more than 8 CPUs"),
    (" " * 70_000, "70000 characters"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), WRONG, ids=[reason for _, reason in WRONG])
def test_a_wrong_file_is_refused_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(text, "test.protocol")
    assert reason in str(caught.value)
    assert re.match(r"test\.protocol:( |[0-9]+: )", str(caught.value))


def damaged() -> Iterator[str]:
    """Shipped protocols with random lines and characters changed."""
    chance = random.Random(20)
    texts = [(SHIPPED / name).read_text(encoding="utf-8") for name in shipped()]
    for _ in range(400):
        lines = chance.choice(texts).splitlines()
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(lines))
            line = lines[at]
            place = chance.randrange(len(line) + 1)
            lines[at] = chance.choice([
                line[:place], line[:place] + chance.choice("[]:=,;->#x0 \x00é") + line[place + 1 :],
                chance.choice(chance.choice(texts).splitlines()), "",
            ])  # fmt: skip
        yield "\n".join(lines)


def test_no_text_makes_anything_but_a_file_or_an_error() -> None:
    read_well = 0
    for text in damaged():
        try:
            read(text, "test.protocol")
        except A64PatchError:
            continue
        read_well += 1
    assert 20 < read_well < 380

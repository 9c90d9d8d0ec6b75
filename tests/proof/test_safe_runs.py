"""What is SAFE is run: random patches of random code, carried out on the adversarial simulator, go never wrong.

One-sided: a run that goes well proves nothing. `A64PATCH_RUNS` is the number of runs of each patch, by default 6.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest

import a64patch
from a64patch.errors import BusyError, RequestError
from a64patch.patch.plan import Plan
from a64patch.patch.text import write
from a64patch.proof.prove import Verdict
from a64patch.protocols import Method
from a64patch.targets.simulator import Simulator
from tests.support import assemble, link

RUNS = int(os.environ.get("A64PATCH_RUNS", "6"))
PATCHES = 12
METHODS: tuple[Method, ...] = ("nosync", "kick", "stop")
PLAIN = ("nop", "add x1, x1, #1", "mov x2, #7", "eor x1, x1, x2", "isb", "ldr x4, [x20]")
FLOW = ("b .+4", "b .+8", "cbz x1, .+8", "tbnz x1, #0, .+8", "bl g", "b out", "blr x20", "cbnz x1, out")

RACING = ("nop", "b .+4", "b .+8", "bl g", "b out")
"""Words that may replace each other while CPUs execute them."""

CODE = """
.globl _start
.type f, %function
.type g, %function
.type h, %function
_start: adr x20, g
1:      bl f
        b 1b
f:      mov x21, x30
site:   {site}
out:    {out}
        ret x21
.size f, . - f
h:      {elsewhere}
        b site
.size h, . - h
g:      add x1, x1, #3
        ret
.size g, . - g
"""
BACK = ("nop", "add x9, x9, #1\n tbnz x9, #0, site+{}", "add x9, x9, #1\n tbnz x9, #1, h")
ELSEWHERE = ("nop", "tbz x9, #2, site+{}")


def sample(random: Random, folder: Path) -> tuple[Path, list[str], list[str]]:
    """A program whose CPUs run through a site for ever, and the old and the new instructions of the site."""
    count = random.choice((1, 1, 2, 2, 3, 4))
    old = [random.choice(random.choice((PLAIN, FLOW))) for _ in range(count)]
    new = [random.choice((PLAIN, FLOW)[random.random() < 0.6]) for _ in range(count)]
    if random.random() < 0.4:
        count, old, new = 1, [random.choice(RACING)], [random.choice(RACING)]
    middle = 4 * random.randrange(count)
    text = CODE.format(
        site="\n ".join([*old, "nop", "nop"]),
        out=random.choice(BACK).format(middle),
        elsewhere=random.choice(ELSEWHERE).format(middle),
    )
    program = link(assemble(text, folder / "program.o"), folder / "program")
    return program, old, new


def torn_or_stale(program: Path, plan: Plan, method: Method, seed: int) -> str:
    """What goes wrong in one run; empty when nothing does, and `busy` when the patch is refused."""
    random = Random(seed)
    start, end = plan.sites[0].start, plan.sites[-1].end
    words = {change.address: (change.old, change.new) for change in plan.changes}
    with Simulator.from_elf(
        program, cpus=3, seed=seed, quantum=random.choice((1, 3, 7)), early=random.choice((0, 0.05, 0.4)),
        interleave=random.choice((1, 5)), idc=(idc := random.random() < 0.4), dic=idc and random.random() < 0.5,
    ) as target:  # fmt: skip
        target.run(40 + seed)
        target.watch(start, end)
        try:
            write(target, plan.changes, plan.sites if method == "stop" else (), method, "as proved")
        except BusyError:
            return "busy"
        told = len(target.executed)
        if method == "nosync":
            # What its caller sees to: each CPU synchronises itself.
            for cpu in range(target.cpus):
                target.caches.synchronise(cpu)
        target.run(400)
        passes: dict[int, set[tuple[int, bool]]] = {cpu: set() for cpu in range(target.cpus)}
        for number, one in enumerate(target.executed):
            if one.address == start:
                passes[one.cpu] = set()
            if one.address not in words:
                continue
            is_new = one.word == words[one.address][1]
            if number >= told and not is_new:
                return f"CPU {one.cpu} executed an old word after it was told"
            passes[one.cpu].add((one.address, is_new))
            if len({new for _, new in passes[one.cpu]}) > 1 and len({at for at, _ in passes[one.cpu]}) > 1:
                return f"CPU {one.cpu} executed old and new words in one pass"
        return ""


@pytest.mark.parametrize("method", METHODS)
def test_what_is_safe_never_goes_wrong(method: Method, tmp_path: Path) -> None:
    random = Random(f"safe {method}")
    seen: Counter[str] = Counter()
    while seen["SAFE"] + seen["UNSAFE"] < PATCHES * (1 if method == "stop" else 2):
        try:
            program, old, new = sample(random, tmp_path)
            with Simulator.from_elf(program, cpus=3) as target:
                patch = a64patch.one_hunk(target, "site", "; ".join(new), "; ".join(old))
                plan = a64patch.plan(patch, target, same_build=True)
                asked = a64patch.prove(plan, target, protocol=method)
        except RequestError:
            continue  # a nosync or kick that the target refuses
        if not asked:
            continue
        verdicts = {each.verdict for each in asked}
        # A caller's own steps of nosync are done below, though nobody answers for them.
        broken = any(each.proof and each.proof.broken for each in asked)
        safe = not broken if method == "nosync" else verdicts == {Verdict.SAFE}
        seen["SAFE" if safe else "UNSAFE"] += 1
        wrong = Counter(torn_or_stale(program, plan, method, seed) for seed in range(RUNS))
        seen.update({what: number for what, number in wrong.items() if what != "busy"} if not safe else {})
        if safe:
            assert not set(wrong) - {"", "busy"}, (old, new, dict(wrong))
    # Both answers occur, and among the runs of what is not safe some do go wrong.
    assert seen["SAFE"] >= 4, seen
    if method != "stop":
        assert seen["UNSAFE"] >= 4, seen
        assert any("pass" in what for what in seen), seen

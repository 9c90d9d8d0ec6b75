"""Change code under executing CPUs in four ways, and count on four CPUs which ways go wrong.

Read on: ../patch/text.py, ../targets/simulator.py.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from a64patch.cli.output import styled
from a64patch.cli.text import print_json

if TYPE_CHECKING:
    from a64patch.targets.simulator import Simulator

EPILOG = """\
Four simulated CPUs call one small function over and over while it is changed. No hardware keeps their caches
coherent, as the Arm manual allows. The table counts the words that each call executed. A seed always gives the same."""

CPUS = 4
BASE = 0x10000
SITE = BASE + 0x10
"""The function is called from BASE on; its first two words are the site."""


@dataclass(frozen=True)
class Scenario:
    """One way to change the code, and its lesson."""

    title: str
    old: str
    new: str
    change: Callable[[Simulator, list[int]], object]
    lesson: str


def _write_only(simulator: Simulator, words: list[int]) -> None:
    from a64patch.a64.words import to_bytes

    simulator.write(SITE, to_bytes(words))


def _nosync(simulator: Simulator, words: list[int]) -> None:
    from a64patch.patch.text import patch_text_nosync

    patch_text_nosync(simulator, SITE, words[0])


def _two_words_nosync(simulator: Simulator, words: list[int]) -> None:
    from a64patch.patch.text import patch_text_nosync

    patch_text_nosync(simulator, SITE, words[0])
    patch_text_nosync(simulator, SITE + 4, words[1])


def _patch_text(simulator: Simulator, words: list[int]) -> None:
    from a64patch.patch.text import patch_text

    patch_text(simulator, [SITE, SITE + 4], words)


_TWO_WORDS = ("mov x1, #1; mov x2, #1", "mov x1, #2; mov x2, #2")

SCENARIOS = (
    Scenario(
        "a  two words, just written", *_TWO_WORDS, _write_only,
        "Nobody told the caches: each CPU sees each new word when chance brings it.",
    ),
    Scenario(
        "b  one word, patch_text_nosync", "nop; nop", f"b {SITE + 8:#x}; nop", _nosync,
        "Never a mixture, but no CPU was told: old until it next synchronises.",
    ),
    Scenario(
        "c  two words, patch_text_nosync", *_TWO_WORDS, _two_words_nosync,
        "One word after the other: whoever came between them ran one of each.",
    ),
    Scenario(
        "d  two words, patch_text", *_TWO_WORDS, _patch_text,
        "All CPUs wait while one writes: only old before, only new after.",
    ),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only a seed."""
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another run of the same story (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Run the four scenarios and print the counts."""
    results = []
    for scenario in SCENARIOS:
        counts, changing = measure(scenario, arguments.seed)
        results.append((scenario, counts, changing))
    if arguments.json:
        print_json(
            [
                {
                    "scenario": " ".join(scenario.title.split()),
                    "old_text": scenario.old,
                    "new_text": scenario.new,
                    "while_changing": {f"{kind}_calls": count for kind, count in changing.items()},
                    "afterwards": {f"{kind}_calls": count for kind, count in counts.items()},
                    "lesson": scenario.lesson,
                }
                for scenario, counts, changing in results
            ]
        )
    else:
        _print(results)
    return 0


def measure(scenario: Scenario, seed: int) -> tuple[dict[str, int], dict[str, int]]:
    """How many calls executed old, torn and new words: after the change, and while it was made."""
    from a64patch.a64.assembler import assemble
    from a64patch.targets.simulator import Simulator

    old, new = assemble(scenario.old, SITE), assemble(scenario.new, SITE)
    caller = assemble(f"bl {SITE:#x}; b {BASE:#x}; nop; nop", BASE)
    with Simulator.from_words(
        [*caller, *old, *assemble("ret")], base=BASE, cpus=CPUS, seed=seed, quantum=3, interleave=40, early=1 / 400
    ) as simulator:
        simulator.watch(SITE, SITE + 12)
        simulator.run(2_000)
        begun = len(simulator.executed)
        scenario.change(simulator, new)
        done = len(simulator.executed)
        simulator.run(20_000)
        calls = _calls(simulator.executed)
    kinds = {tuple(_path(old)): "old", tuple(_path(new)): "new"}
    during, after = Counter[str](), Counter[str]()
    for first, last, words in calls:
        kind = kinds.get(words, "torn")
        if first >= done:
            after[kind] += 1
        elif last >= begun:
            during[kind] += 1
    order = ("old", "torn", "new")
    return {kind: after[kind] for kind in order}, {kind: during[kind] for kind in order}


def _path(words: list[int]) -> list[int]:
    """The words of the site that a call executes."""
    from a64patch.a64.predicates import is_b

    return words[:1] if is_b(words[0]) else words


def _calls(executed: list[Any]) -> list[tuple[int, int, tuple[int, ...]]]:
    """For each call: the numbers of its first and last record, and the words of the site that it executed."""
    begun: dict[int, tuple[int, list[int]]] = {}
    calls = []
    for number, (_, cpu, address, word) in enumerate(executed):
        if address == SITE:
            begun[cpu] = (number, [word])
        elif cpu in begun and address == SITE + 4:
            begun[cpu][1].append(word)
        elif cpu in begun:
            first, words = begun.pop(cpu)
            calls.append((first, number, tuple(words)))
    return calls


def _print(results: list[tuple[Scenario, dict[str, int], dict[str, int]]]) -> None:
    from rich.console import Console
    from rich.text import Text

    # No line is longer than 80 columns or broken by a narrower terminal: the same seed prints the same everywhere.
    console = Console(highlight=False, soft_wrap=True, file=styled())
    console.print(f"{CPUS} CPUs call a function over and over while its code is changed, in four ways.")
    console.print("How many calls executed the old code, the new code, or half of each?\n")
    console.print(f"{'':33}{'while it is changed':>21}{'afterwards':>23}")
    console.print(f" {'how it is changed':32}{'old':>7}{'torn':>7}{'new':>7}{'stale':>9}{'torn':>7}{'new':>7}")
    console.print("─" * 78)
    for scenario, after, during in results:
        row = Text(f" {scenario.title:32}")
        for kind, count in during.items():
            row.append(f"{count:>7}", "bold red" if kind == "torn" and count else "")
        row.append("  ")
        for kind, count in after.items():
            row.append(f"{count:>7}", "" if not count else "green" if kind == "new" else "bold red")
        console.print(row)
    console.print()
    for scenario, _, _ in results:
        console.print(f" {scenario.title[0]}  {scenario.lesson}")
    console.print("\nstale: the old code, although the change was done.")
    console.print("torn: one word of the old code and one of the new. Both are wrong.")

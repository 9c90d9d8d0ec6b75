"""simulator: instructions a second of the simulated CPUs, by how long a turn is, and what watching them costs.

Read on: src/a64patch/targets/simulator.py.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from a64patch.targets.simulator import Simulator
from benchmarks import inputs
from benchmarks.measure import MILLIONS_A_SECOND, BenchmarkError, Contender, Report, Verdict, compare

AIM = "at least half the speed of unicorn, one CPU, turns of the same lengths (proposed: none was set)"
ROUNDS = 7

_BASE, _DATA = 0x10000, 0x20000
_LOOP = (
    0xD2A00045,  # movz x5, #2, lsl #16
    0x91000442,  # add x2, x2, #1
    0xCA020063,  # eor x3, x3, x2
    0x8B030084,  # add x4, x4, x3
    0xF90000A4,  # str x4, [x5]
    0xF94000A6,  # ldr x6, [x5]
    0xCB0200C7,  # sub x7, x6, x2
    0xD343FCE8,  # lsr x8, x7, #3
    0x17FFFFF9,  # b .-28
)
_WATCHED = (_BASE + 8, _BASE + 12)
_TURNS = {1: 20_000, 10: 20_000, 100: 10_000, 1000: 2_000}
"""How many turns a round makes, by quantum."""

_OURS = "a64patch, 1 CPU"
_PEER = "plain unicorn"
_TUNED = "unicorn, data not executable"


def run(rounds: int | None) -> Report:
    """Quantum 1, 10, 100 and 1000 (instructions)."""
    if not inputs.has_module("unicorn"):
        raise inputs.MissingError("unicorn is not installed: run scripts/bench")
    report = Report("simulator")
    for quantum, turns in _TURNS.items():
        table = compare(
            f"quantum {quantum}",
            MILLIONS_A_SECOND,
            [
                _simulator(_OURS, 1, quantum, turns, watch=False),
                _simulator("a64patch, 4 CPUs", 4, quantum, turns, watch=False),
                _unicorn(_PEER, quantum, turns),
                _unicorn(_TUNED, quantum, turns, separate=True),
                _unicorn(f"{_PEER}, turns of exactly {quantum}", quantum, turns, vary=False),
                _simulator("a64patch, 1 CPU, watched", 1, quantum, turns, watch=True),
                _simulator("a64patch, 4 CPUs, watched", 4, quantum, turns, watch=True),
            ],
            rounds or ROUNDS,
        )
        report.tables.append(table)
        ratio = table.row(_OURS).median / max(table.row(peer).median for peer in (_PEER, _TUNED))
        report.verdicts.append(Verdict(f"quantum {quantum}: {AIM}", ratio >= 0.5, f"{ratio:.2f} of it"))
    report.notes += [
        "The loop has 8 instructions, one of them a load and one a store; watched: one of the 8.",
        "4 CPUs: the sum of theirs; the simulator runs one at a time.",
        "A turn of the simulator executes 1 to `quantum` instructions, by chance; so do the peers if nothing else is "
        "said. unicorn stores slowly to pages that may be executed, and without its virtual TLB all may be.",
    ]
    return report


def _simulator(name: str, cpus: int, quantum: int, turns: int, *, watch: bool) -> Contender:
    simulator = Simulator.from_words(_LOOP, base=_BASE, data={_DATA: bytes(64)}, cpus=cpus, quantum=quantum)
    if watch:
        simulator.watch(*_WATCHED)

    def work() -> int:
        before = sum(simulator.instructions)
        if simulator.run(turns) != turns:
            raise BenchmarkError("the simulated program ended")
        return sum(simulator.instructions) - before

    return Contender(name, work, simulator.executed.clear, ours=True)


def _unicorn(name: str, quantum: int, turns: int, *, vary: bool = True, separate: bool = False) -> Contender:
    import unicorn
    from unicorn.arm64_const import UC_ARM64_REG_PC

    uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    if separate:

        def fill(uc: Any, address: int, access: int, entry: Any, _: Any) -> bool:
            fetching = access == unicorn.UC_MEM_FETCH
            entry.paddr = address
            entry.perms = unicorn.UC_PROT_EXEC if fetching else unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE
            return True

        uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        uc.hook_add(unicorn.UC_HOOK_TLB_FILL, fill)
    uc.mem_map(_BASE, 0x1000)
    uc.mem_map(_DATA, 0x1000)
    uc.mem_write(_BASE, b"".join(word.to_bytes(4, "little") for word in _LOOP))
    uc.reg_write(UC_ARM64_REG_PC, _BASE)
    chance = Random(1)
    length: Callable[[], int] = (lambda: 1 + int(chance.random() * quantum)) if vary else (lambda: quantum)

    def work() -> int:
        executed = 0
        for _ in range(turns):
            count = length()
            uc.emu_start(uc.reg_read(UC_ARM64_REG_PC), 0, count=count)
            executed += count
        return executed

    return Contender(name, work, lambda: None)

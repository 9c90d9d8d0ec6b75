"""Running processes of a real arm64 Linux, patched by a64patch beside them.

Read on: process_trials.py is what happens in the guest, ../targets/test_threads.py tries the stop on any machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from tests.real import victims
from tests.real.userland import PROCESSOR_MAX, Userland
from tests.support import ROOT, rounds

SOURCE = ROOT / "tests/targets/threads_victim.c"
TRIALS = ROOT / "tests/real/process_trials.py"
VICTIM = "/opt/victim"

KINDS = victims.BUILDS if rounds(1, 0) else ("pie", "stripped", "musl")
"""For time, a few ways to build a program."""

Trial = Callable[..., Any]


def address_of(name: str, file: Path) -> int:
    """The address of a function in a file."""
    with file.open("rb") as stream:
        [symbol] = ELFFile(stream).get_section_by_name(".symtab").get_symbol_by_name(name)
        return int(symbol["st_value"])


@pytest.fixture
def trial(userland: Userland, tmp_path: Path) -> Trial:
    """Runs a function of process_trials.py in the guest."""
    if userland.run(f"test -e {VICTIM}").status:
        userland.put(VICTIM, victims.build("musl-static", SOURCE.read_text("utf-8"), tmp_path / "victim").read_bytes())
    return lambda *arguments: userland.python(TRIALS, *arguments, seconds=3000)


def unharmed(told: dict[str, Any]) -> None:
    """The process has noticed nothing."""
    assert told["status"] == 0
    assert told["wrong"] == 0
    assert told["taken"] == told["sent"]
    assert told["sent"][0] > 10
    assert told["ended_sleeps"] == 0


@pytest.mark.parametrize("letters", ["sci", "bvf"])
def test_words_change_under_load_and_nobody_sees_half_of_each(trial: Trial, letters: str) -> None:
    number = rounds(1000, 4)
    told = trial("rounds", number, letters)
    unharmed(told)
    assert told["found"]
    assert 0 < told["old"] < told["turns"]
    # A thread that is on its way into the call, such as right after the stop before: see targets/threads.py.
    assert told["ended_polls"] <= told["retries"]
    assert min(told["births"], told["vforks"], told["forks"]) > 0 or letters == "sci"


def test_each_way_to_build_a_program_on_a_processor_with_all_features(
    boot_userland: Callable[..., Userland], tmp_path: Path
) -> None:
    source = SOURCE.read_text("utf-8")
    files = {
        f"/opt/{kind}": victims.build(kind, source, tmp_path / kind, "-mbranch-protection=standard") for kind in KINDS
    }
    programs = dict.fromkeys(files, "")
    # Without names: at the same place as in the build that has them.
    programs["/opt/stripped"] = f" +{address_of('pair', files['/opt/pie']):#x}"
    with_all = boot_userland(processor=PROCESSOR_MAX, files=files)
    words = [f"{path}{site}" for path, site in programs.items()]
    told = with_all.python(TRIALS, "builds", rounds(50, 1), "sc", *words, seconds=3000)
    assert told.keys() == files.keys()
    for found in told.values():
        unharmed(found)
        assert found["found"]
        assert 0 < found["old"] < found["turns"]
    with_all.guest.require_healthy()


def test_thread_that_sleeps_inside_of_the_words_is_named(trial: Trial) -> None:
    told = trial("in_the_way", "n")
    assert told["first"].startswith("BusyError: thread ")
    assert "(napper) will return to held+0x14, inside the words to be changed" in told["first"]
    assert told["one word"] == "kick", "BL and NOP may race: nobody needs to be out of the way"
    assert told["second"] == "done"
    unharmed(told)


def test_thread_in_a_signal_handler_on_another_stack_is_seen_where_it_was_interrupted(trial: Trial) -> None:
    told = trial("in_the_way", "w")
    assert "(handler) will return to held+0x14, inside the words" in told["first"]
    assert told["second"] == "done", "with the look left out, the patch goes through under the thread"


def test_killed_a64patch_leaves_what_recover_makes_whole(trial: Trial) -> None:
    number = rounds(300, 6)
    told = trial("killed", number, "s")
    unharmed(told)
    assert sum(told["states"].values()) == number
    assert told["states"].keys() <= {"old", "new"}
    assert told["recovered"].keys() <= {"undone", "applied"}
    assert sum(told["recovered"].values()) > 0


def test_process_that_goes_away_under_a_patch_is_said_and_leaves_nothing_open(trial: Trial) -> None:
    for said, *recovered in trial("dying", rounds(60, 3))["told"]:
        assert re.search(
            "process PID has ended|there is no process PID|process PID executes another program|PartialPatchError", said
        ), said
        for entry in recovered:
            assert re.fullmatch(
                r"undone: .*(has ended, and its memory with it|that one is over.*|it has ended.*)", entry
            )


def test_process_that_is_killed_at_any_step_of_a_patch_is_said_and_leaves_nothing_open(trial: Trial) -> None:
    whole, *told = trial("dying_at_each_step", rounds(150, 4))
    assert whole == ["done"]
    for said, *recovered in told:
        assert re.search("process PID has ended|PartialPatchError", said) or said == "done", said
        for entry in recovered:
            assert re.fullmatch(r"undone: .*has ended, and its memory with it|undone: .*it has ended.*", entry), entry
    assert told[0][0] != "done", "it is killed before anybody looks"


def test_threads_and_children_come_without_pause(trial: Trial) -> None:
    told = trial("rounds", rounds(100, 1), "t")
    unharmed(told)
    assert told["found"]
    assert min(told["births"], told["forks"]) > 0


def test_what_is_no_target_is_refused_by_name(trial: Trial) -> None:
    told = trial("refused")
    assert "it belongs to another user, or has changed its user; run a64patch as root" in told["another user"]
    assert "is a thread of the kernel, not a process" in told["kernel thread"]
    assert "there is no process 4000000" in told["no process"]
    assert "is a64patch itself, which cannot stop itself" in told["a64patch"]
    assert "not mapped executable, so it is not code" in told["data"]
    assert "executable, so it is no data" in told["code as data"]
    assert "does not map 0x10" in told["not mapped"]


def test_who_may_trace_whom(trial: Trial) -> None:
    told = trial("rights")
    assert "it does not let itself be dumped" in told["not dumpable"]
    assert "a64patch has not the capability SYS_PTRACE here" in told["without the capability"]
    assert "a64patch itself runs under a system call filter" in told["under a filter"]
    assert "kernel.yama.ptrace_scope is 1; run a64patch as root, or set it to 0" in told["scope 1"]
    assert "kernel.yama.ptrace_scope is 2; run a64patch as root, or set it to 0" in told["scope 2"]
    assert {said for who, said in told.items() if who.endswith("by root")} == {"done"}


def test_process_that_is_not_dumpable_and_may_make_few_system_calls(trial: Trial) -> None:
    told = trial("rounds", 1, "sdl")
    unharmed(told)
    assert told["found"]
    assert told["seccomp"] == ["2"]


def test_process_in_a_container(trial: Trial) -> None:
    told = trial("contained")
    assert told["said"] == ["done", "done"], "by root, and by its user"
    assert told["numbers"], "it has two numbers, and is the first in its container"
    unharmed(told)


def test_kernel_that_forbids_forced_writes_and_then_tracing(
    boot_userland: Callable[..., Userland], tmp_path: Path
) -> None:
    program = victims.build("musl-static", SOURCE.read_text("utf-8"), tmp_path / "victim")
    strict = boot_userland(command_line="proc_mem.force_override=never", files={VICTIM: program})
    told = strict.python(TRIALS, "unforced", 1)
    assert "this kernel lets nobody write to read-only memory" in told["while they run"]
    assert "use --sync stop" in told["while they run"]
    unharmed(told)
    assert told["found"], "by PTRACE_POKEDATA"
    said = strict.python(TRIALS, "scope_3")
    assert "kernel.yama.ptrace_scope is 3, which forbids tracing until the next boot" in said
    strict.guest.require_healthy()

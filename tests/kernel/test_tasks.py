"""Tasks in a memory that these tests write; tests/real/test_live_tasks.py looks at those of a real kernel."""

from __future__ import annotations

import random
import struct

import pytest

from a64patch import patch_text_sync
from a64patch.errors import A64PatchError, BusyError, FormatError, SymbolError
from a64patch.kernel import tasks as module
from a64patch.kernel.structures import Structures
from a64patch.kernel.tasks import Tasks, tasks_of
from a64patch.ranges import Ranges
from a64patch.targets.base import CpuState
from a64patch.targets.section import Found
from tests.kernel.machine import BITS, CFS_RQ, HEAD, LINKS, NAMESPACE, SLOTS, SYMBOLS, TEXT, Machine, btf
from tests.support import rounds

SLEEPER, CALLER, SCHEDULE = (SYMBOLS[name] + 0x20 for name in ("sleeper", "caller", "__schedule"))
STANDS = SYMBOLS["__switch_to"] + 0x40
SITE = Ranges(((SLEEPER - 4, SLEEPER + 4),))
USER = [CpuState(0, 0x400000), CpuState(1, 0x400000)]
"""No CPU is in the kernel."""
BETWEEN = [CpuState(0, 0x400000), CpuState(1, SYMBOLS["cpu_switch_to"] + 8, (STANDS, SCHEDULE))]
"""A CPU goes from one task to another."""
SIGNED = 0x00FF0000_00000000


@pytest.fixture
def machine() -> Machine:
    """With PIDs on three levels of the tree, and an idle task for a queue."""
    machine = Machine()
    queue = machine.allot(0x80)
    machine.idle("swapper/0", queue, SYMBOLS["do_idle"] + 0x10, SYMBOLS["cpu_startup_entry"] + 0x10)
    for pid in (1, 2, 63, 64, 4095, 4096, 70000):
        machine.on_queue(machine.add(pid, f"task{pid}", SCHEDULE, CALLER), queue)
    machine.known(65, None)
    return machine


def found_in(looker: Tasks, *, cpus: list[CpuState] = USER, keep_out: Ranges = SITE) -> list[str]:
    """What a stop finds when nothing happens before it."""
    looker.prepare(keep_out)
    return said(looker.look(keep_out, cpus))


def said(found: object) -> list[str]:
    assert isinstance(found, list)
    assert all(isinstance(each, Found) and each.cpu == -1 for each in found)
    return [f"{each.name} {each.does} {each.address - SLEEPER:+#x}" for each in found]


def test_every_task_is_found_once_with_what_the_kernel_says_of_it(machine: Machine) -> None:
    machine.number(machine.tasks[63] + BITS["task_struct"]["__state"][0], 2, 4)
    machine.set(machine.tasks[64], "on_cpu", 1)
    machine.set(machine.tasks[4095], "stack", 0)
    found = {task.pid: task for task in machine.looker().tasks()}
    assert sorted(found) == [0, 1, 2, 63, 64, 4095, 4096, 70000]
    assert found[70000] == module.Task(70000, "task70000", 0, False, (STANDS, SCHEDULE, CALLER))
    assert found[0].comm == "swapper/0"
    assert found[63].state == 2
    assert (found[64].on_cpu, found[64].addresses) == (True, ())
    assert found[4095].addresses == (), "it has ended, and its stack is gone"
    assert repr(found[1]) == f"<Task 1 (task1) at {STANDS:#x}>"


def test_an_older_kernel_calls_the_state_otherwise(machine: Machine) -> None:
    assert len(machine.looker(state="state").tasks()) == 8


def test_init_pid_ns_is_found_in_code_where_no_symbol_names_it(machine: Machine) -> None:
    looker = machine.looker(named=False)
    assert "neither its symbols nor its code" in looker.unseen()
    machine.code("reboot_pid_ns", HEAD + NAMESPACE)
    assert machine.looker(named=False).unseen(), "something else than init_pid_ns"
    machine.code("reboot_pid_ns", NAMESPACE)
    assert machine.looker(named=False).unseen() == ""
    assert machine.looker("reboot_pid_ns", named=False).unseen()


@pytest.mark.parametrize(
    ("field", "value"),
    [(0x48, 1), (0x58, NAMESPACE), (0x50, 0), (0x50, NAMESPACE), (HEAD, 0), (HEAD, 2), (HEAD, NAMESPACE | 2)],
)
def test_a_namespace_that_does_not_check_out_is_not_believed(machine: Machine, field: int, value: int) -> None:
    looker = machine.looker()
    machine.number(NAMESPACE + field, value)
    assert "init_pid_ns" in looker.unseen()
    with pytest.raises(FormatError, match="init_pid_ns"):
        looker.prepare(SITE)


def test_a_kernel_that_tells_too_little_is_not_looked_at(machine: Machine) -> None:
    assert "on_cpu" in machine.looker(without="task_struct.on_cpu").unseen()
    assert "stack_vm_area" in machine.looker(without="task_struct.stack_vm_area").unseen()

    def without_types() -> bytes:
        raise FormatError("no BTF")

    assert tasks_of(machine, Structures(without_types), machine.names()).unseen() == "no BTF"


def test_nothing_is_read_before_the_first_question(machine: Machine) -> None:
    looker = machine.looker()
    before = machine.reads
    tasks_of(machine, Structures(bytes), machine.names())
    assert machine.reads == before
    looker.unseen()
    assert machine.reads > before


@pytest.mark.parametrize(("pages", "page"), [(4, 4096), (1, 65536), (16, 4096), (1, 16384)])
def test_the_size_of_stacks_is_read_from_the_kernel(pages: int, page: int) -> None:
    machine = Machine(stack_pages=pages, page=page)
    machine.add(1, "init", SCHEDULE, SLEEPER)
    assert found_in(machine.looker()) == ["task 1 (init) will return to +0x0"]


def test_stacks_of_unknown_size_are_not_guessed(machine: Machine) -> None:
    area = int.from_bytes(machine.read(machine.tasks[1] + BITS["task_struct"]["stack_vm_area"][0], 8), "little")
    machine.number(area + 16, 5 * 4096 + 4)
    assert "size of this kernel's stacks" in machine.looker().unseen()


# Where a task goes on


def test_a_sleeping_task_is_where_its_frame_records_say(machine: Machine) -> None:
    machine.sleep(machine.tasks[64], SCHEDULE, SLEEPER, CALLER)
    looker = machine.looker()
    assert found_in(looker) == ["task 64 (task64) will return to +0x0"]
    assert found_in(looker, keep_out=Ranges(((STANDS, STANDS + 4),)))[0].startswith("task 1 (task1) stands at")
    assert found_in(looker, keep_out=Ranges(((SLEEPER + 4, SLEEPER + 8),))) == []
    machine.sleep(machine.tasks[64], SCHEDULE, CALLER)
    assert found_in(looker) == []


def test_a_signed_return_address_counts_without_its_signature(machine: Machine) -> None:
    machine.sleep(machine.tasks[64], SCHEDULE, SLEEPER ^ SIGNED & ~(1 << 55))
    assert found_in(machine.looker()) == ["task 64 (task64) will return to +0x0"]


def interrupted(pc: int, link: int, *, new: bool) -> bytes:
    """struct pt_regs from x28 on, of a kernel interrupted at `pc`, with its frame record."""
    saved = struct.pack("<QQQQQ", 0, 1, link, 0, pc)
    if new:
        return saved + struct.pack("<QQQQQQQQ", 0, 0, 0, 0, 0, 0, 2, 0)
    return saved + bytes(40) + struct.pack("<QQ", 1, pc)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("by", ["pc", "link"])
def test_a_preempted_task_stands_where_it_was_interrupted(machine: Machine, new: bool, by: str) -> None:
    """Since 6.13 the frame record of an exception is empty, and says what it is."""
    pc, link = (SLEEPER, CALLER) if by == "pc" else (CALLER, SLEEPER)
    regs = interrupted(pc, link, new=new)
    offset = 72 if new else 80
    task = machine.tasks[64]
    top = machine.stack(task) + machine.stack_size
    base = top - 0x200
    caller, record = base + 0x180, base + 0x80
    regs = regs.replace(struct.pack("<Q", 1), struct.pack("<Q", caller))
    machine.put(record - offset, regs)
    machine.put(caller, struct.pack("<QQ", 0, SYMBOLS["ret_from_fork"]))
    machine.put(base, struct.pack("<QQ", record, SCHEDULE))
    for number, value in enumerate((base, base, STANDS)):
        machine.number(task + 0x100 + 8 * number, value)
    machine.count(task)
    assert found_in(machine.looker()) == ["task 64 (task64) will return to +0x0"]


def test_a_chain_that_breaks_off_makes_every_word_of_the_stack_count(machine: Machine) -> None:
    task = machine.tasks[64]
    looker = machine.looker()
    machine.sleep(task, SCHEDULE, CALLER, chain=False)
    assert found_in(looker) == []
    machine.sleep(task, SCHEDULE, SLEEPER, chain=False)
    looker.prepare(SITE)
    [found] = looker.look(SITE, USER)
    assert said([found]) == ["task 64 (task64) may return to +0x0"]
    assert "do not lead to the top of its stack" in found.doubt
    # A chain that goes downwards does not go on for ever.
    sp = int.from_bytes(machine.read(task + 0x108, 8), "little")
    machine.number(sp, sp)
    machine.number(task + 0x100, sp)
    machine.count(task)
    assert found_in(looker) == ["task 64 (task64) may return to +0x0"]


def test_a_task_whose_stack_makes_no_sense_may_be_anywhere(machine: Machine) -> None:
    looker = machine.looker()
    machine.number(machine.tasks[64] + 0x108, 0x1234560)
    machine.count(machine.tasks[64])
    looker.prepare(SITE)
    [found] = looker.look(SITE, USER)
    assert said([found]) == ["task 64 (task64) may return to -0x4"]
    assert "stack pointer" in found.doubt


def test_return_addresses_that_the_tracer_keeps_count(machine: Machine) -> None:
    task = machine.tasks[64]
    looker = machine.looker()
    machine.sleep(task, SCHEDULE, SYMBOLS["return_to_handler"])
    looker.prepare(SITE)
    [found] = looker.look(SITE, USER)
    assert "a probe has replaced" in found.doubt, "and it is not known what with"
    kept = machine.allot(0x1000)
    machine.set(task, "ret_stack", kept)
    assert found_in(looker) == []
    machine.number(kept + 32, SLEEPER)
    assert found_in(looker) == [], "an entry that is not used"
    machine.set(task, "curr_ret_stack", 1)
    assert found_in(looker) == ["task 64 (task64) may return to +0x0"]


def test_a_cpu_that_returns_through_the_tracer_is_followed_too(machine: Machine) -> None:
    """The frames of a CPU lead to return_to_handler; its task keeps the address of the caller."""
    task = machine.tasks[64]
    looker = machine.looker()
    looker.prepare(SITE)
    machine.set(task, "on_cpu", 1)
    machine.count(task)
    traced = [CpuState(0, TEXT + 0x800, (SYMBOLS["return_to_handler"],))]
    [found] = looker.look(SITE, traced)
    assert "a probe has replaced" in found.doubt, "nobody knows what with"
    kept = machine.allot(0x1000)
    machine.set(task, "ret_stack", kept)
    machine.number(kept, SYMBOLS["caller"])
    assert list(looker.look(SITE, traced)) == []
    machine.number(kept, SLEEPER)
    [found] = looker.look(SITE, traced)
    assert (found.who, found.stands) == ("task 64 (task64)", False)
    assert list(looker.look(SITE, [CpuState(0, TEXT + 0x800)])) == [], "no CPU returns through the tracer"


def test_return_addresses_that_probes_keep_count(machine: Machine) -> None:
    task = machine.tasks[64]
    looker = machine.looker()
    machine.sleep(task, SCHEDULE, SYMBOLS["__kretprobe_trampoline"])
    looker.prepare(SITE)
    [found] = looker.look(SITE, USER)
    assert "a probe has replaced" in found.doubt
    first, second = machine.allot(0x80), machine.allot(0x80)
    machine.set(task, "kretprobe_instances", first + 8)
    machine.number(first + 24, CALLER)
    assert found_in(looker) == []
    machine.number(first + 8, second + 8)
    machine.number(second + 24, SLEEPER)
    assert found_in(looker) == ["task 64 (task64) will return to +0x0"]
    machine.number(second + 8, first + 8)
    looker.prepare(SITE)
    [found] = looker.look(SITE, USER)
    assert "a probe has replaced" in found.doubt, "a list without an end"


# What happens between the preparation and the stop


def test_a_task_that_ran_meanwhile_is_looked_at_in_the_stop(machine: Machine) -> None:
    looker = machine.looker()
    looker.prepare(SITE)
    machine.sleep(machine.tasks[4096], SCHEDULE, SLEEPER)
    assert said(looker.look(SITE, USER)) == ["task 4096 (task4096) will return to +0x0"]
    looker.prepare(SITE)
    machine.sleep(machine.tasks[4096], SCHEDULE, CALLER)
    assert said(looker.look(SITE, USER)) == []


def test_a_task_is_not_read_again_while_it_sleeps(machine: Machine) -> None:
    looker = machine.looker()
    looker.prepare(SITE)
    first = machine.reads
    looker.prepare(SITE)
    assert machine.reads - first < first / 3
    machine.sleep(machine.tasks[2], SCHEDULE, SLEEPER)
    looker.prepare(SITE)
    before = machine.reads
    assert said(looker.look(SITE, USER)) == ["task 2 (task2) will return to +0x0"]
    assert machine.reads - before < 30


@pytest.mark.parametrize("pid", [3, 65, 200, 70001, 300000])
def test_a_task_that_is_new_in_the_stop_is_seen(machine: Machine, pid: int) -> None:
    """In a node that is there, for a PID that a group used, in a new node, and in a tree with a new head."""
    looker = machine.looker()
    looker.prepare(SITE)
    if pid == 65:
        machine.tasks[pid] = machine.task(pid, "new", SCHEDULE, SLEEPER)
        machine.number(machine.places[pid] + 0x10, machine.tasks[pid] + LINKS)
    else:
        machine.add(pid, "new", SCHEDULE, SLEEPER)
        machine.grow()
    assert said(looker.look(SITE, USER)) == [f"task {pid} (new) will return to +0x0"]


def test_a_task_in_the_place_of_one_that_ended_is_another(machine: Machine) -> None:
    """The allocator gives its structure away again; the new one has slept as often."""
    looker = machine.looker()
    looker.prepare(SITE)
    task = machine.tasks[64]
    machine.sleep(task, SCHEDULE, SLEEPER)
    machine.set(task, "nvcsw", 1)
    assert said(looker.look(SITE, USER)) == [], "this is what the start time is for"
    machine.set(task, "start_time", 77)
    assert said(looker.look(SITE, USER)) == ["task 64 (task64) will return to +0x0"]


def test_what_left_the_tree_is_not_followed(machine: Machine) -> None:
    """Memory that was given back may hold anything."""
    looker = machine.looker()
    looker.prepare(SITE)
    gone = machine._nodes[0, 69952]
    del machine.places[70000]
    del machine._nodes[0, 69952]
    machine.grow()
    machine.put(gone + SLOTS, b"\x81" * 512)
    unused = machine.places.pop(65)
    machine.grow()
    machine.put(unused, b"\x81" * 0x70)
    assert said(looker.look(SITE, USER)) == []


def test_a_task_on_a_cpu_is_left_to_the_cpu(machine: Machine) -> None:
    """What its stack holds is old. Only while a CPU goes from one task to another, nothing tells whom it executes."""
    looker = machine.looker()
    task = machine.tasks[64]
    machine.sleep(task, SCHEDULE, SLEEPER)
    machine.set(task, "on_cpu", 1)
    assert found_in(looker) == []
    assert found_in(looker, cpus=BETWEEN) == ["task 64 (task64) will return to +0x0"]
    machine.set(task, "on_cpu", 0)
    assert found_in(looker) == ["task 64 (task64) will return to +0x0"]
    looker.prepare(SITE)
    machine.set(task, "on_cpu", 1)
    assert said(looker.look(SITE, USER)) == [], "it woke up"
    assert said(looker.look(SITE, BETWEEN)) == ["task 64 (task64) will return to +0x0"]
    looker.prepare(SITE)
    machine.count(task)
    assert said(looker.look(SITE, BETWEEN)) == ["task 64 (task64) will return to +0x0"]
    unnamed = machine.looker("__schedule", "__switch_to", "cpu_switch_to", "ret_from_fork")
    assert found_in(unnamed) == ["task 64 (task64) will return to +0x0"], "nothing tells when a CPU switches"


def test_idle_tasks_are_looked_at_like_others(machine: Machine) -> None:
    idle = Ranges(((SYMBOLS["do_idle"], SYMBOLS["do_idle"] + 0x100),))
    [found] = found_in(machine.looker(), keep_out=idle)
    assert found.startswith("task 0 (swapper/0) will return to")


def test_idle_tasks_that_are_not_found_count_with_all_their_functions(machine: Machine) -> None:
    idle = Ranges(((SYMBOLS["do_idle"] + 0x20, SYMBOLS["do_idle"] + 0x24),))
    assert found_in(machine.looker(), keep_out=idle) == []
    looker = machine.looker(without="rq.idle")
    looker.prepare(idle)
    [found] = looker.look(idle, USER)
    assert (found.name, found.address) == ("an idle task", idle.spans[0][0])
    assert found_in(looker) == []
    for task in machine.tasks.values():
        machine.number(task + CFS_RQ + 8, 0)
    assert len(found_in(machine.looker(), keep_out=idle)) == 1


class Racing(Machine):
    """Its tree of PIDs changes while it is read, so many times."""

    times = 0

    def read(self, address: int, size: int) -> bytes:
        if size == 512 and self.times:
            self.times -= 1
            return b"\x81" * 512
        return super().read(address, size)


def test_a_tree_that_changes_while_it_is_read_is_read_again() -> None:
    machine = Racing()
    machine.add(1, "init", SCHEDULE, SLEEPER)
    looker = machine.looker()
    machine.times = 2
    assert looker.unseen() == "", "a bad moment is no answer for good"
    machine.times = 2
    assert found_in(looker) == ["task 1 (init) will return to +0x0"]
    machine.times = 100
    with pytest.raises(FormatError, match="tree of PIDs"):
        looker.prepare(SITE)


def test_memory_that_is_gone_in_the_stop_is_no_end(machine: Machine) -> None:
    looker = machine.looker()
    looker.prepare(SITE)
    machine.pages = {at: page for at, page in machine.pages.items() if at != machine.stack(machine.tasks[64]) // 4096}
    assert said(looker.look(SITE, USER)) == []


def test_others_of_a_target(machine: Machine) -> None:
    """A patch is refused while a task sleeps inside its site, and done when it has gone on."""
    looker = machine.looker()
    machine.sleep(machine.tasks[64], SCHEDULE, SLEEPER)
    machine.knowing(others=looker)
    places = [SLEEPER - 8, SLEEPER - 4, SLEEPER]
    with pytest.raises(BusyError, match=r"task 64 \(task64\) will return to .*, 11 times in 11 attempts"):
        patch_text_sync(machine, places, [1, 2, 3], keep_out=SITE)
    assert machine.read(SLEEPER - 8, 12) == bytes(12)
    machine.sleep(machine.tasks[64], SCHEDULE, CALLER)
    patch_text_sync(machine, places, [1, 2, 3], keep_out=SITE)
    assert machine.read(SLEEPER - 8, 12) == struct.pack("<III", 1, 2, 3)


# Memory that nobody meant


def test_a_hundred_thousand_tasks() -> None:
    machine = Machine()
    count = rounds(100_000, 5_000)
    machine.add(1, "init", SCHEDULE)
    task = machine.add(2, "thread", SCHEDULE, SLEEPER)
    for pid in range(3, count):
        machine.known(pid, task)
    looker = machine.looker()
    assert found_in(looker) == ["task 2 (thread) will return to +0x0"]


def test_more_pids_than_a_kernel_can_have(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    looker = machine.looker()
    assert looker.unseen() == ""
    monkeypatch.setattr(module, "MOST_TASKS", 5)
    with pytest.raises(FormatError, match="does not end"):
        looker.prepare(SITE)


def test_a_tree_that_leads_to_itself_is_refused(machine: Machine) -> None:
    looker = machine.looker()
    assert looker.unseen() == ""
    root = machine._nodes[12, 0]
    machine.number(root + SLOTS + 8 * 9, root | 2)
    with pytest.raises(FormatError, match="tree of PIDs"):
        looker.prepare(SITE)


@pytest.mark.parametrize("spoiled", ["a node with two parents", "a node that is larger than its parent"])
def test_a_tree_that_no_kernel_makes_is_refused(machine: Machine, spoiled: str) -> None:
    looker = machine.looker()
    assert looker.unseen() == ""
    leaf, root = machine._nodes[0, 0], machine._nodes[6, 0]
    if spoiled == "a node with two parents":
        machine.number(root + SLOTS + 8 * 9, leaf | 2)
    else:
        machine.number(machine._nodes[0, 4096], 18, 1)
    with pytest.raises(FormatError, match="tree of PIDs"):
        looker.prepare(SITE)


def test_any_memory_ends_in_an_answer_or_a_clear_error() -> None:
    seed = random.Random(1)
    for _ in range(rounds(3000, 150)):
        machine = Machine()
        for pid in (1, 2, 64, 5000):
            machine.add(pid, "task", SCHEDULE, CALLER)
        looker = machine.looker()
        if seed.random() < 0.7:
            assert looker.unseen() == ""
        pointers = [
            0,
            2,
            1 << 63,
            NAMESPACE | 2,
            *(node | 2 for node in machine._nodes.values()),
            *machine.tasks.values(),
        ]
        places = [*machine._nodes.values(), *machine.tasks.values(), *machine.places.values(), NAMESPACE]

        def spoil(count: int, places: list[int] = places, pointers: list[int] = pointers) -> None:
            for _ in range(seed.randrange(1, count)):
                at = seed.choice(places) + 8 * seed.randrange(0x40)
                machine.number(at, seed.choice([seed.choice(pointers), seed.getrandbits(64)]))  # noqa: B023

        try:
            spoil(8)
            looker.prepare(SITE)
            spoil(8)
            for each in looker.look(SITE, USER):
                assert each.address
            looker.tasks()
        except (FormatError, SymbolError):
            pass
        assert machine.reads < 20_000


def test_any_types_end_in_an_answer_or_a_clear_error(machine: Machine) -> None:
    machine.grow()
    seed = random.Random(2)
    sound = btf()
    for _ in range(rounds(2000, 100)):
        data = bytearray(sound)
        for _ in range(seed.randrange(1, 6)):
            data[seed.randrange(24, len(data))] = seed.choice([0, 1, 8, 0x7F, 0xFF, seed.randrange(256)])
        looker = Tasks(machine, Structures(lambda data=data: bytes(data)), machine.names())  # type: ignore[misc]
        try:
            looker.prepare(SITE)
            list(looker.look(SITE, USER))
        except A64PatchError:
            continue

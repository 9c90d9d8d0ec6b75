"""The tasks of a running Linux kernel, and the addresses where those go on that no CPU executes now.

A task that sleeps, or was preempted, inside a site that changes would go on in half old and half new code. `tasks_of`
gives a target's `others` (../targets/base.py), which keep such tasks out of sites.
Read on: structures.py reads fields by name; ../targets/frames.py follows stacks; ../targets/section.py asks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from a64patch.a64.row import PAGE_SIZE
from a64patch.a64.words import INSN_SIZE, from_bytes
from a64patch.errors import FormatError, SymbolError, TargetError
from a64patch.kernel.pointers import formed
from a64patch.kernel.structures import Structures, View, is_kernel_address
from a64patch.oneline import shown
from a64patch.ranges import Ranges
from a64patch.targets.base import CpuState, Others, Target
from a64patch.targets.frames import frames_in, without_signatures
from a64patch.targets.section import Found
from a64patch.targets.symbols import SymbolTable

MOST_TASKS = 1 << 17
"""More are taken for nonsense."""
_MOST_NODES = 1 << 17
_MOST_PIDS = 1 << 22
"""PID_MAX_LIMIT (include/linux/threads.h)."""
_MOST_STACK = 1 << 18
_AT_ONCE = 64
"""Tasks whose stacks are read in one halt."""
_MOST_REQUESTS = 256
"""Requests that are sent in one halt: QEMU's stub answers about a hundred in a millisecond."""
_TRIES = 5
_NAMERS = ("reboot_pid_ns", "put_pid_ns")
"""Functions that compare an argument with &init_pid_ns (kernel/pid_namespace.c)."""
_MOST_CODE = 1 << 12
_NEAR = 4
"""Words from an ADRP to the ADD that completes its address."""
_SWITCHING = {"__schedule", "__switch_to", "cpu_switch_to", "finish_task_switch", "schedule_tail", "ret_from_fork"}
"""A CPU that goes from one task to another is in one of these: kernel/sched/core.c, arch/arm64/kernel/entry.S."""
_IDLE = {
    "do_idle", "cpu_startup_entry", "schedule_idle", "__schedule", "schedule", "__switch_to", "secondary_start_kernel",
    "__secondary_switched", "rest_init", "arch_call_rest_init", "start_kernel", "__primary_switched",
}  # fmt: skip
"""The functions where an idle task may stand while its CPU executes another task."""
_TRACED = {"return_to_handler"}
_PROBED = {"arch_rethook_trampoline", "kretprobe_trampoline", "__kretprobe_trampoline"}
"""The code that replaces a return address: arch/arm64/kernel/entry-ftrace.S, probes/kprobes_trampoline.S."""
_NAMED = (set(_NAMERS), _SWITCHING, _IDLE, _TRACED, _PROBED)
_MOST_RET_STACK = 4096
"""SHADOW_STACK_SIZE (kernel/trace/fgraph.c) with pages of 4 KiB. Before 6.11 the array was smaller."""
_MOST_PROBES = 256
_PROBES = (
    ("task_struct.rethooks", "rethook_node.llist", "rethook_node.ret_addr"),
    ("task_struct.kretprobe_instances", "kretprobe_instance.llist", "kretprobe_instance.ret_addr"),
)
"""The head of a list of probes, its link, and the return address. Up to 5.10 they are in a table, without a name."""

_HEAD = "pid_namespace.idr.idr_rt.xa_head"
_NODE, _LAST_SPECIAL = 2, 4096
"""The low bits of a slot that holds a node, and the largest such slot that does not (include/linux/xarray.h)."""
_MOST_SLOTS, _MOST_COUNTS = 64, 4096
_FIELDS = (
    "task_struct.stack", "task_struct.on_cpu", "task_struct.thread.cpu_context.fp",
    "task_struct.thread.cpu_context.sp", "task_struct.thread.cpu_context.pc",
)  # fmt: skip
"""Those of a _Moment."""
_COUNTS = ("task_struct.nvcsw", "task_struct.nivcsw", "task_struct.start_time")
"""Each switch away from a task counts in one of the first two, before it happens (__schedule)."""
_TO_IDLE = ("task_struct.se.cfs_rq", "cfs_rq.rq", "rq.idle")

_TORN = "its frame records do not lead to the top of its stack, so each word there counts"
_GRAPH = "the function graph tracer keeps its return addresses, and each word there counts"
_UNFOLLOWED = "a probe has replaced one of its return addresses, and the kernel does not tell the true one"
_NO_STACK = "its saved stack pointer is not in its stack"
_NO_IDLE = "the kernel does not tell where its idle tasks are, so each of their functions counts"


class Task(NamedTuple):
    """A task, and where it goes on, at one moment."""

    pid: int
    """The number in the machine's first PID namespace; 0 for an idle task."""
    comm: str
    state: int
    """task_struct.__state (task_struct.state before 5.14)."""
    on_cpu: bool
    """A CPU executes it, and knows where it is."""
    addresses: tuple[int, ...]
    """The address where it stands, then its return addresses; empty for a task on a CPU, or without a stack."""
    doubt: str = ""
    """Why the addresses are not exactly its return addresses, for people; empty when they are."""

    def __repr__(self) -> str:
        where = "on a CPU" if self.on_cpu else f"at {self.addresses[0]:#x}" if self.addresses else "without a stack"
        return shown(self, f"{self.pid} ({self.comm})", where)


def tasks_of(target: Target, structures: Structures, symbols: SymbolTable, note: str = "") -> Others:
    """The tasks of the Linux kernel in a target, as its `others`. Nothing is read before the first question."""
    return Tasks(target, structures, symbols, note)


class _Node(NamedTuple):
    """A node of the tree of PIDs."""

    pid: int
    """The PID of its first slot."""
    shift: int
    slots: tuple[int, ...]


class _Entry(NamedTuple):
    """A slot of the tree that is to be followed."""

    entry: int
    pid: int
    """Its first PID."""
    below: int
    """A node here has a smaller shift."""


class _Tree(NamedTuple):
    """A part of the tree of PIDs."""

    nodes: dict[int, _Node]
    """By address."""
    pids: dict[int, int]
    """The address of each struct pid, by PID."""


class _Moment(NamedTuple):
    """Numbers of a task, read at one moment."""

    stack: int
    on_cpu: int
    fp: int
    sp: int
    pc: int


class _Stack(NamedTuple):
    """Where a task goes on, read at one moment."""

    counts: bytes
    """Its switch counts and start time. As long as they are the same, it has not run since, or runs without a break."""
    on_cpu: bool
    addresses: tuple[int, ...] = ()
    """As `Task.addresses`."""
    doubt: str = ""


class _Place(NamedTuple):
    """An address in keep_out where a task goes on."""

    address: int
    stands: bool
    doubt: str


class _Known(NamedTuple):
    """A task as it was before the stop."""

    counts: bytes
    is_seen: bool
    """It was on no CPU, and its stack was followed."""
    place: _Place | None = None


class Tasks(Others):
    """The tasks of a kernel: those in the tree of PIDs of init_pid_ns, and the idle tasks.

    Before a stop, all tasks are found, and the stack of each task that no CPU executes is read and followed. In the
    stop, the tree and the switch counts of all tasks are read again. A task with the same counts has not run, or runs
    without a break; then a CPU shows it. All other tasks are looked at there and then.

    A stack is followed by its frame records. They must lead to the end of the chain; if not, each word of the stack
    counts. Each word also counts in the table where the function graph tracer keeps the return addresses that it
    replaced.

    The kernel tells where all fields are (BTF). init_pid_ns is found by its name, or in code that refers to it. It is
    believed only if its tree has the task with PID 1 that it names as `child_reaper`.

    Not seen:

    - a task that has left the tree (release_task) and goes on to its last switch in do_exit;
    - a return address that a function keeps elsewhere than in a frame record, or in a register when it is preempted.

    The target must answer each `read_many` at one moment, as GDB targets do.
    """

    def __init__(self, target: Target, structures: Structures, symbols: SymbolTable, note: str = "") -> None:
        """See `tasks_of`."""
        self.note = note
        self._view = View(target, structures)
        self._structures, self._symbols = structures, symbols
        self._why: str | None = None
        """The answer of `unseen`, once it is known."""
        self._namespace = self._stack_size = 0
        self._switching = self._idling = self._probed = self._replacing = Ranges()
        """The code of the functions of _SWITCHING, _IDLE, _PROBED, and of _PROBED and _TRACED."""
        self._idle: dict[int, int] = {}
        """The idle tasks, by the address of their run queue."""
        self._keep_out = Ranges()
        self._known: dict[int, _Known] = {}
        """By address of the task."""
        self._head = 0
        self._tree = _Tree({}, {})
        self._unused: list[int] = []
        """The struct pids to which no task belonged."""
        self._requests: list[tuple[int, int]] = []
        self._read: Callable[[], Sequence[bytes]] = list

    def __repr__(self) -> str:
        return shown(self, f"{len(self._known)} known")

    # The protocol

    def unseen(self) -> str:
        """Why tasks cannot be seen. Finds the kernel's structures at the first call; errors of the target pass."""
        if self._why is None:
            try:
                self._find()
                self._why = ""
            except (FormatError, SymbolError) as error:
                self._why = str(error)
            self._structures.save()
        return self._why

    def prepare(self, keep_out: Ranges) -> None:
        """Find all tasks, follow their stacks, and make the requests of the next look. Errors as `tasks`."""
        tasks, counts = self._all_tasks()
        before = self._known if keep_out == self._keep_out else {}
        self._keep_out = keep_out
        self._known = {task: known for task in tasks if (known := before.get(task)) and known.counts == counts[task]}
        for task, stack in self._stacks([task for task in tasks if not self._is_seen(task)], running=True):
            seen = stack is not None and not stack.on_cpu
            place = self._place(stack) if stack is not None and seen else None
            self._known[task] = _Known(stack.counts if stack is not None else counts[task], seen, place)
        slots, first = self._structures.field("xa_node.slots"), self._first()
        self._requests = [
            (self._namespace + self._structures.field(_HEAD).offset, 8),
            *((node + slots.offset, slots.size) for node in self._tree.nodes),
            *((pid + first, 8) for pid in self._unused),
            *(self._counts(task) for task in self._known),
        ]
        # Most tasks sleep on.
        expected = [
            _numbers((self._head,)),
            *(_numbers(node.slots) for node in self._tree.nodes.values()),
            *(bytes(8) for _ in self._unused),
            *(known.counts for known in self._known.values()),
        ]
        self._read = self._view.target.reader(self._requests, expected)
        self._structures.save()

    def look(self, keep_out: Ranges, cpus: Sequence[CpuState]) -> Iterable[Found]:
        """The tasks in `keep_out` that no CPU executes. FormatError as `tasks`."""
        data: Sequence[bytes | None]
        try:
            data = self._read()
        except TargetError:  # A task has gone, and its memory too.
            data = self._view.read(self._requests)
        pieces = iter(data)
        new = self._new_tasks([*islice(pieces, 1 + len(self._tree.nodes) + len(self._unused))])
        again = dict.fromkeys(new)
        for (task, known), counts in zip(self._known.items(), pieces, strict=True):
            if not known.is_seen or counts != known.counts:
                again[task] = None
        is_switching = not self._switching or any(
            address in self._switching for cpu in cpus for address in (cpu.pc, *cpu.return_addresses)
        )
        places = self._places_before(again, is_switching)
        executed = []
        for task, stack in self._stacks([*again], running=False, executed=is_switching):
            if stack is not None and stack.on_cpu:
                executed.append(task)
            # Between two tasks, both count as executed: what a CPU shows may be neither.
            if stack is None or is_switching or not stack.on_cpu:
                places.append((task, self._place(stack or _Stack(b"", False, (), _NO_STACK))))
        replaced = [at for cpu in cpus for at in (cpu.pc, *cpu.return_addresses) if at in self._replacing]
        places += self._places_kept(executed, replaced) if replaced else []
        found = [self._named(task, place) for task, place in places if place is not None]
        if not self._idle:
            found += [Found(-1, start, False, "an idle task", _NO_IDLE) for start, _ in self._idling & keep_out]
        return found

    # For people and tests

    def tasks(self) -> list[Task]:
        """All tasks, and where each goes on. If the machine runs, they are not all of the same moment.

        A task that ends meanwhile is left out. Errors:

        - FormatError when the kernel's memory has no sound tree of PIDs, or describes no types;
        - SymbolError when the kernel lacks a field;
        - the target's own errors.
        """
        tasks, _ = self._all_tasks()
        state = self._structures.first("task_struct.__state", "task_struct.state")
        comm = self._structures.field("task_struct.comm")
        numbers = self._view.fields(tasks, "task_struct.pid", state)
        names = self._view.texts([task + comm.offset for task in tasks], comm.size)
        stacks = dict(self._stacks(tasks, running=False))
        self._structures.save()
        return [
            Task(pid_and_state[0], name, pid_and_state[1], stack.on_cpu, stack.addresses, stack.doubt)
            for task, pid_and_state, name in zip(tasks, numbers, names, strict=True)
            if pid_and_state is not None and (stack := stacks[task]) is not None
        ]

    # Finding the kernel's structures

    def _find(self) -> None:
        """FormatError or SymbolError when this kernel's tasks cannot be seen."""
        sizes = {path: self._structures.field(path).size for path in (*_FIELDS, *_COUNTS, _HEAD, "xa_node.shift")}
        sizes["slots"] = self._structures.field("xa_node.slots").size // _MOST_SLOTS
        if not all(0 < size <= 8 for size in sizes.values()) or self._counts(0)[1] > _MOST_COUNTS:
            raise FormatError("the kernel's description of its types (BTF) has a task or a tree of PIDs without sense")
        named = frozenset().union(*_NAMED)
        spans: dict[str, list[tuple[int, int]]] = {}
        for symbol in self._symbols.ascending():
            name = symbol.name.partition(".")[0]
            if name in named and not symbol.module:
                spans.setdefault(name, []).append((symbol.address, self._symbols.end_of(symbol)))
        namers, self._switching, self._idling, traced, self._probed = (
            Ranges.of(span for name in names for span in spans.get(name, ())) for names in _NAMED
        )
        self._replacing = traced | self._probed
        for address in self._candidates(namers):
            init = self._first_task(address)
            if init:
                self._namespace, self._stack_size = address, self._size_of_stack(init)
                return
        raise FormatError(
            "the kernel's tasks were not found: neither its symbols nor its code tell where init_pid_ns is"
        )

    def _candidates(self, namers: Ranges) -> Iterator[int]:
        """Where init_pid_ns may be."""
        yield from dict.fromkeys(symbol.address for symbol in self._symbols.named("init_pid_ns") if not symbol.module)
        for start, end in namers:
            with suppress(TargetError):
                words = from_bytes(self._view.target.read(start, min(end - start, _MOST_CODE) & -INSN_SIZE))
                yield from dict.fromkeys(formed(words, start))

    def _first_task(self, namespace: int) -> int:
        """The task with PID 1, if this is the address of init_pid_ns; else 0."""
        paths = "pid_namespace.parent", "pid_namespace.level", "pid_namespace.child_reaper"
        [numbers] = self._view.fields([namespace], *paths) if is_kernel_address(namespace) else [None]
        if numbers is None or numbers[0] or numbers[1] or not is_kernel_address(numbers[2]):
            return 0
        [pid] = self._view.fields([numbers[2]], "task_struct.pid")
        for _ in range(_TRIES if pid == (1,) else 0):
            with suppress(FormatError):  # The tree may have changed while it was read.
                tree = self._walk_from(namespace)[1]
                tasks, _ = self._of_pids([tree.pids[1]] if 1 in tree.pids else [])
                return numbers[2] if tasks == [numbers[2]] else 0
        return 0

    def _size_of_stack(self, task: int) -> int:
        """THREAD_SIZE, from the pages of a task's stack, behind which one page is left unmapped (kernel/fork.c)."""
        [found] = self._view.fields([task], "task_struct.stack", "task_struct.stack_vm_area")
        stack, area = found or (0, 0)
        [area_fields] = self._view.fields([area], "vm_struct.addr", "vm_struct.size", "vm_struct.nr_pages")
        address, size, pages = area_fields or (0, 0, 0)
        page = size // (pages + 1)
        if address != stack or not 0 < pages * page <= _MOST_STACK or page * (pages + 1) != size or page % PAGE_SIZE:
            raise FormatError("the size of this kernel's stacks is not known: they are not mapped (CONFIG_VMAP_STACK)")
        return pages * page

    # The tree of PIDs

    def _first(self) -> int:
        """The offset of the first task in struct pid."""
        return self._structures.field(f"pid.tasks[{self._structures.constant('PIDTYPE_PID')}]").offset

    def _all_tasks(self) -> tuple[list[int], dict[int, bytes]]:
        """All tasks, and their counts. The machine may run: the tree is walked again when it changed meanwhile."""
        if why := self.unseen():
            raise FormatError(why)
        for attempt in range(_TRIES):
            try:
                self._head, self._tree = self._walk_from(self._namespace)
                tasks, self._unused = self._of_pids(self._tree.pids.values())
                self._find_idle([task for task in tasks if task not in self._known])
                tasks = [*dict.fromkeys((*tasks, *self._idle.values()))]
                counts = self._in_parts([self._counts(task) for task in tasks])
                if None in counts:
                    raise FormatError(f"the task at {tasks[counts.index(None)]:#x} cannot be read")
                return tasks, {task: each for task, each in zip(tasks, counts, strict=True) if each is not None}
            except FormatError:
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError

    def _in_parts(self, requests: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """As `View.read`, in halts that are short. While the machine runs, the parts are of different moments."""
        parts = range(0, len(requests), _MOST_REQUESTS)
        return [each for start in parts for each in self._view.read(requests[start : start + _MOST_REQUESTS])]

    def _walk_from(self, namespace: int) -> tuple[int, _Tree]:
        [head] = self._view.fields([namespace], _HEAD)
        if head is None:
            raise FormatError("the kernel's tree of PIDs cannot be read")
        return head[0], self._walk([_Entry(head[0], 0, 64)])

    def _walk(self, entries: Sequence[_Entry]) -> _Tree:
        """The part of the tree below these entries (include/linux/xarray.h). FormatError when it is no sound tree."""
        tree = _Tree({}, {})
        while entries:
            nodes: dict[int, _Entry] = {}
            for each in entries:
                if each.pid >= _MOST_PIDS:
                    raise FormatError(f"the kernel's tree of PIDs has a PID {each.pid}")
                if not each.entry or (each.entry & 3 == _NODE and each.entry <= _LAST_SPECIAL):
                    continue
                address = each.entry - _NODE if each.entry & 3 == _NODE else each.entry
                if not is_kernel_address(address) or address in tree.nodes or address in nodes:
                    raise FormatError(
                        f"the kernel's tree of PIDs refers to {each.entry:#x}, where no part of it can be"
                    )
                if each.entry & 3 == _NODE:
                    nodes[address] = each
                else:
                    tree.pids[each.pid] = address
            if len(tree.pids) > MOST_TASKS or len(tree.nodes) + len(nodes) > _MOST_NODES:
                raise FormatError("the kernel's tree of PIDs does not end")
            entries = self._expand(nodes, tree)
        return tree

    def _expand(self, nodes: dict[int, _Entry], tree: _Tree) -> list[_Entry]:
        """Read these nodes, add them to the tree; returns their slots."""
        slots, shift = self._structures.field("xa_node.slots"), self._structures.field("xa_node.shift")
        requests = [(node + part.offset, part.size) for node in nodes for part in (shift, slots)]
        pieces = iter(self._view.read(requests))
        entries: list[_Entry] = []
        for (address, at), shift_data, slot_data in zip(nodes.items(), pieces, pieces, strict=True):
            if shift_data is None or slot_data is None or shift_data[0] >= at.below:
                raise FormatError(f"the kernel's tree of PIDs has no sound node at {address:#x}")
            node = _Node(at.pid, shift_data[0], struct.unpack(f"<{len(slot_data) // 8}Q", slot_data))
            tree.nodes[address] = node
            entries += _slots(node, ())
        return entries

    def _of_pids(self, pids: Iterable[int]) -> tuple[list[int], list[int]]:
        """The tasks of these struct pids, and the struct pids without a task."""
        places = [*pids]
        first = self._first()
        link = self._structures.field(f"task_struct.pid_links[{self._structures.constant('PIDTYPE_PID')}]").offset
        tasks, unused = [], []
        for pid, data in zip(places, self._in_parts([(pid + first, 8) for pid in places]), strict=True):
            task = int.from_bytes(data, "little") - link if data and any(data) else 0
            if data is None or (task and not is_kernel_address(task)):
                raise FormatError(f"the kernel's tree of PIDs has no sound struct pid at {pid:#x}")
            if task:
                tasks.append(task)
            else:
                unused.append(pid)
        return [*dict.fromkeys(tasks)], unused

    def _find_idle(self, tasks: Sequence[int]) -> None:
        """The idle tasks of the CPUs that these tasks belong to. None where this kernel keeps them otherwise."""
        if not tasks or not all(map(self._structures.has, _TO_IDLE)):
            return
        places = [*tasks]
        for path in _TO_IDLE[:-1]:
            found = self._view.fields(places, path)
            places = [*dict.fromkeys(each[0] for each in found if each and is_kernel_address(each[0]))]
        queues = [place for place in places if place not in self._idle]
        idle = self._view.fields(queues, _TO_IDLE[-1])
        known = {
            queue: each[0] for queue, each in zip(queues, idle, strict=True) if each and is_kernel_address(each[0])
        }
        pids = self._view.fields(known.values(), "task_struct.pid")
        self._idle |= {queue: task for (queue, task), pid in zip(known.items(), pids, strict=True) if pid == (0,)}

    def _new_tasks(self, data: Sequence[bytes | None]) -> list[int]:
        """In a stop: the tasks that were not known before, by the tree's head, its nodes and its unused struct pids."""
        head = int.from_bytes(data[0] or b"", "little")
        entries = [] if head == self._head else [_Entry(head, 0, 64)]
        # A node that is no longer in the tree may hold anything: parents come before their children.
        linked = {self._head} if head == self._head else set()
        for (address, node), slots in zip(self._tree.nodes.items(), data[1:], strict=False):
            if address + _NODE in linked and slots is not None:
                now = node._replace(slots=struct.unpack(f"<{len(slots) // 8}Q", slots))
                entries += _slots(now, node.slots)
                linked |= {each for each, before in zip(now.slots, node.slots, strict=True) if each == before}
        firsts = zip(self._unused, data[1 + len(self._tree.nodes) :], strict=True)
        used = [pid for pid, first in firsts if pid in linked and first is not None and any(first)]
        tasks, _ = self._of_pids([*self._walk(entries).pids.values(), *used])
        return [task for task in tasks if task not in self._known]

    # Stacks

    def _counts(self, task: int) -> tuple[int, int]:
        """The request for `_Stack.counts` of a task."""
        parts = [self._structures.field(path) for path in _COUNTS]
        start = min(part.offset for part in parts)
        return task + start, max(part.offset + part.size for part in parts) - start

    def _is_seen(self, task: int) -> bool:
        known = self._known.get(task)
        return known is not None and known.is_seen

    def _stacks(
        self, tasks: Sequence[int], *, running: bool, executed: bool = False
    ) -> Iterator[tuple[int, _Stack | None]]:
        """Each task with its stack; None for a task that cannot be read.

        While the machine is `running`, None also for a stack that cannot be followed at one moment. Stacks of tasks
        that a CPU executes are followed only if `executed` is true.
        """
        for start in range(0, len(tasks), _AT_ONCE):
            part = tasks[start : start + _AT_ONCE]
            spans: dict[int, tuple[int, int]] = {}
            for task, fields in zip(part, self._view.fields(part, *_FIELDS), strict=True):
                moment = _Moment(*fields) if fields is not None else None
                if moment is None or (moment.on_cpu and not executed):
                    yield task, _Stack(b"", True) if moment is not None else None
                else:
                    spans[task] = (moment.sp, self._used(moment))
            requests = [
                each for task, span in spans.items() for each in (self._counts(task), *self._fields_of(task), span)
            ]
            pieces = iter(self._view.read(requests))
            for task, (at, _) in spans.items():
                counts, *numbers, data = islice(pieces, 2 + len(_FIELDS))
                if counts is None or None in numbers:
                    yield task, None
                    continue
                moment = _Moment(*(int.from_bytes(each or b"", "little") for each in numbers))
                if moment.on_cpu and not executed:
                    yield task, _Stack(counts, True)
                else:
                    yield task, self._stack(task, counts, moment, at, data or b"", running=running)

    def _fields_of(self, task: int) -> Iterator[tuple[int, int]]:
        """The requests for the numbers of a _Moment."""
        for path in _FIELDS:
            field = self._structures.field(path)
            yield task + field.offset, field.size

    def _used(self, moment: _Moment) -> int:
        """The bytes of the used part of a stack; 0 when the stack pointer is not in it."""
        size = moment.stack + self._stack_size - moment.sp
        return size if moment.sp % 8 == 0 and 0 < size <= self._stack_size else 0

    def _stack(
        self, task: int, counts: bytes, moment: _Moment, at: int, data: bytes, *, running: bool
    ) -> _Stack | None:
        """Where a task goes on. `data` are the bytes of its stack from `at` on."""
        on_cpu = bool(moment.on_cpu)
        if not moment.stack:
            return _Stack(counts, on_cpu)
        used = self._used(moment)
        stack = data[-used:] if used else b""
        if not used or len(stack) < used or at + len(data) != moment.sp + used:
            return None if running else _Stack(counts, on_cpu, (), _NO_STACK)
        returns, is_whole = frames_in(stack, moment.sp, moment.fp)
        addresses, doubt = [moment.pc, *returns], ""
        if not is_whole:
            addresses += _words(stack)
            doubt = _TORN
        if any(address in self._replacing for address in addresses):
            if running:
                return None
            kept, doubt = self._kept_elsewhere(task, addresses)
            addresses += kept
        return _Stack(counts, on_cpu, tuple(addresses), doubt)

    def _kept_elsewhere(self, task: int, addresses: Sequence[int]) -> tuple[list[int], str]:
        """The return addresses that a tracer or probe has replaced, and why they are in doubt."""
        kept: list[int] = []
        if any(address in self._probed for address in addresses):
            found = self._kept_by_probes(task)
            if not found:
                return [], _UNFOLLOWED
            kept += found
        [fields] = self._view.fields([task], "task_struct.ret_stack", "task_struct.curr_ret_stack")
        if fields is not None and fields[0]:
            size = min((fields[1] + 1) * self._structures.size("ftrace_ret_stack"), _MOST_RET_STACK)
            [data] = self._view.read([(fields[0], size)])
            if data is not None:
                return [*kept, *_words(data)], _GRAPH
        is_traced = any(address in self._replacing and address not in self._probed for address in addresses)
        return kept, _UNFOLLOWED if is_traced else ""

    def _places_kept(self, executed: Sequence[int], replaced: Sequence[int]) -> list[tuple[int, _Place | None]]:
        """Where the tasks that CPUs execute will return, when `replaced` addresses hide it from the CPUs' frames.

        When no task keeps an address, it is not known what was replaced: then each of them may be in the way.
        """
        kept = [(task, *self._kept_elsewhere(task, replaced)) for task in executed]
        if not any(addresses for _, addresses, _ in kept):
            return [(task, self._place(_Stack(b"", True, (), _UNFOLLOWED))) for task in executed[:1]]
        # The address of what a task executes comes first in a stack; 0 is nowhere.
        return [(task, self._place(_Stack(b"", True, (0, *at), doubt or _GRAPH))) for task, at, doubt in kept if at]

    def _kept_by_probes(self, task: int) -> list[int]:
        """The return addresses that probes have replaced; empty when the kernel does not tell all of them."""
        for head, link, kept in _PROBES:
            if not all(map(self._structures.has, (head, link, kept))):
                continue
            found: list[int] = []
            link_at, kept_at = self._structures.field(link).offset, self._structures.field(kept).offset
            place = task + self._structures.field(head).offset
            while len(found) < _MOST_PROBES:
                [node] = self._view.numbers([place])
                if not node:
                    return found if node is not None else []
                [address] = self._view.numbers([node - link_at + kept_at])
                if address is None:
                    return []
                found.append(address)
                place = node
        return []

    # What was found

    def _place(self, stack: _Stack) -> _Place | None:
        """The first address of a task in keep_out; an address of keep_out for a task that cannot be followed."""
        if stack.doubt in (_NO_STACK, _UNFOLLOWED):
            return _Place(self._keep_out.spans[0][0], False, stack.doubt)
        for number, signed in enumerate(stack.addresses):
            for address in without_signatures((signed,)):
                if address in self._keep_out:
                    return _Place(address, not number, stack.doubt if number else "")
        return None

    def _places_before(self, again: Collection[int], is_switching: bool) -> list[tuple[int, _Place | None]]:
        """The tasks that were in keep_out before the stop, and still are. `again` are looked at anew elsewhere."""
        places = [(task, known.place) for task, known in self._known.items() if known.place and task not in again]
        running = self._view.fields([task for task, _ in places], "task_struct.on_cpu")
        return [place for place, on_cpu in zip(places, running, strict=True) if is_switching or on_cpu != (1,)]

    def _named(self, task: int, place: _Place) -> Found:
        comm = self._structures.field("task_struct.comm")
        [fields] = self._view.fields([task], "task_struct.pid")
        [name] = self._view.texts([task + comm.offset], comm.size)
        who = f"task {fields[0] if fields else '?'} ({name})"
        return Found(-1, place.address, place.stands, who, place.doubt)


def _slots(node: _Node, before: Sequence[int]) -> list[_Entry]:
    """The used slots of a node that are not as `before`."""
    return [
        _Entry(entry, node.pid + (number << node.shift), node.shift)
        for number, entry in enumerate(node.slots)
        if entry and (not before or entry != before[number])
    ]


def _numbers(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def _words(data: bytes) -> list[int]:
    """The words of eight bytes that are addresses in the kernel's half, signed or not."""
    return [word for (word,) in struct.iter_unpack("<Q", data[: len(data) & -8]) if word >> 55 & 1]

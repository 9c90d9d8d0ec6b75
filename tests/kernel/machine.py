"""A Linux kernel as far as its tasks go: types, a tree of PIDs, tasks and stacks in a memory that tests write."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from a64patch.a64.assembler import assemble
from a64patch.a64.words import to_bytes
from a64patch.errors import MappingError
from a64patch.kernel.structures import Structures
from a64patch.kernel.tasks import Tasks
from a64patch.targets.base import Capabilities, CpuState, Rendezvous, Target
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.kernel.types import Writer

PAGE = 4096
TEXT = 0xFFFF800008000000
NAMESPACE = 0xFFFF800009000358
HEAP = 0xFFFF000001000000
STACKS = 0xFFFF80000A000000
SYMBOLS = {
    name: TEXT + 0x100 * number
    for number, name in enumerate((
        "cpu_switch_to", "__switch_to", "__schedule", "schedule", "sleeper", "caller", "ret_from_fork", "do_idle",
        "cpu_startup_entry", "return_to_handler", "__kretprobe_trampoline", "reboot_pid_ns", "_etext",
    ))
}  # fmt: skip
BITS = {
    "task_struct": {
        "stack": (0x20, 8), "on_cpu": (0x34, 4), "pid": (0x40, 4), "comm": (0x48, 16), "nvcsw": (0x60, 8),
        "nivcsw": (0x68, 8), "start_time": (0x70, 8), "stack_vm_area": (0x78, 8), "ret_stack": (0x80, 8),
        "curr_ret_stack": (0x88, 4), "kretprobe_instances": (0x90, 8), "__state": (0x18, 4),
    },
    "vm_struct": {"addr": (8, 8), "size": (16, 8), "nr_pages": (32, 4)},
    "cfs_rq": {"rq": (0x30, 8)},
    "rq": {"idle": (0x28, 8)},
    "ftrace_ret_stack": {"ret": (0, 8), "func": (8, 8)},
    "kretprobe_instance": {"llist": (8, 8), "ret_addr": (24, 8)},
}  # fmt: skip
"""The offset and size in bytes of each field."""
CONTEXT, CFS_RQ, LINKS = 0x100, 0x140, 0x180
FIRST = 0x10
HEAD, LEVEL, REAPER, PARENT = 0x10, 0x48, 0x50, 0x58
SLOTS, SLOT_COUNT = 0x28, 64


def btf(*, without: str = "", state: str = "__state") -> bytes:
    """The types, but for a field `structure.field`."""
    writer = Writer()
    numbers = {size: writer.integer(f"u{8 * size}", size) for size in (1, 2, 4, 8)}
    numbers[16] = writer.array(numbers[1], 16)
    node = writer.structure("hlist_node", 16, [("next", numbers[8], 0), ("pprev", numbers[8], 64)])
    context = writer.structure(
        "cpu_context", 0x30, [(name, numbers[8], 64 * at) for at, name in enumerate(("fp", "sp", "pc"))]
    )
    thread = writer.structure("thread_struct", 0x30, [("cpu_context", context, 0)])
    entity = writer.structure("sched_entity", 0x20, [("cfs_rq", numbers[8], 0x40)])
    more = {
        "task_struct": [
            ("thread", thread, 8 * CONTEXT), ("se", entity, 8 * CFS_RQ), ("pid_links", writer.array(node, 4), 8 * LINKS)
        ]
    }  # fmt: skip
    for name, fields in BITS.items():
        members = [
            (state if field == "__state" else field, numbers[size], 8 * at) for field, (at, size) in fields.items()
        ]
        size = {"task_struct": 0x200, "ftrace_ret_stack": 32}.get(name, 0x80)
        writer.structure(name, size, [each for each in members + more.get(name, []) if f"{name}.{each[0]}" != without])
    tree = writer.structure("xarray", 16, [("xa_head", numbers[8], 64)])
    idr = writer.structure("idr", 24, [("idr_rt", tree, 0)])
    writer.structure(
        "pid_namespace",
        0x90,
        [
            ("idr", idr, 64), ("level", numbers[4], 8 * LEVEL), ("child_reaper", numbers[8], 8 * REAPER),
            ("parent", numbers[8], 8 * PARENT),
        ],
    )  # fmt: skip
    writer.structure(
        "xa_node", 0x240, [("shift", numbers[1], 0), ("slots", writer.array(numbers[8], SLOT_COUNT), 8 * SLOTS)]
    )
    head = writer.structure("hlist_head", 8, [("first", numbers[8], 0)])
    writer.structure("pid", 0x70, [("tasks", writer.array(head, 4), 8 * FIRST)])
    writer.enumeration("pid_type", [("PIDTYPE_PID", 0), ("PIDTYPE_TGID", 1)])
    return writer.bytes()


class _Parked:
    def __init__(self, states: Sequence[CpuState]) -> None:
        self.rendezvous, self._states = Rendezvous([]), states

    def states(self) -> Sequence[CpuState]:
        return self._states


class Machine(Target):
    """A memory of pages, and a kernel in it. Its methods change the kernel as time does."""

    capabilities = Capabilities("machine", 2, can_stop=True, can_kick=True, sees_pcs=True, broadcast=True)

    def __init__(self, *, stack_pages: int = 4, page: int = PAGE) -> None:
        self.pages: dict[int, bytearray] = {}
        self.stack_size, self._page = stack_pages * page, page
        self._heap, self._stacks = HEAP, STACKS
        self.tasks: dict[int, int] = {}
        """The address of each task, by PID."""
        self.places: dict[int, int] = {}
        """The address of each struct pid, by PID."""
        self._nodes: dict[tuple[int, int], int] = {}
        """By shift and first PID."""
        self.reads = 0
        self.put(TEXT, bytes(0x1000))
        self.code("reboot_pid_ns", 0)
        self.put(NAMESPACE, bytes(0x90))

    # Memory

    def put(self, address: int, data: bytes) -> None:
        """Write, and map."""
        for at, value in enumerate(data, address):
            self.pages.setdefault(at // PAGE, bytearray(PAGE))[at % PAGE] = value

    def number(self, address: int, value: int, size: int = 8) -> None:
        self.put(address, value.to_bytes(size, "little"))

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        found = bytearray()
        while len(found) < size:
            at = address + len(found)
            page = self.pages.get(at // PAGE)
            if page is None:
                raise MappingError(f"{at:#x} is not mapped")
            found += page[at % PAGE : at % PAGE + size - len(found)]
        return bytes(found)

    def write(self, address: int, data: bytes) -> None:
        self.put(address, data)

    def publish(self, start: int, end: int) -> None:
        pass

    def kick(self) -> None:
        pass

    def close(self) -> None:
        pass

    @contextmanager
    def stop(self) -> Iterator[_Parked]:
        yield _Parked([])

    def allot(self, size: int) -> int:
        place, self._heap = self._heap, self._heap + (size + 0xFF & ~0xFF)
        self.put(place, bytes(size))
        return place

    def code(self, name: str, goal: int) -> None:
        """Code that refers to an address, as reboot_pid_ns to init_pid_ns."""
        at = SYMBOLS[name] + 4
        lines = f"adrp x0, {goal & ~0xFFF:#x}; add x0, x0, #{goal & 0xFFF:#x}" if goal else "nop; nop"
        self.put(at, to_bytes(assemble(lines, at)))

    # The kernel

    def set(self, task: int, name: str, value: int) -> None:
        """A field of a task."""
        at, size = BITS["task_struct"][name]
        self.number(task + at, value, size)

    def task(self, pid: int, comm: str, *returns: int) -> int:
        """A task that sleeps with these return addresses, outermost last; returns its address."""
        task = self.allot(0x200)
        stack, self._stacks = self._stacks, self._stacks + 2 * self.stack_size
        area = self.allot(0x80)
        self.number(area + 8, stack)
        self.number(area + 16, self.stack_size + self._page)
        self.number(area + 32, self.stack_size // self._page, 4)
        for name, value in (("stack", stack), ("stack_vm_area", area), ("pid", pid), ("start_time", 1000 + pid)):
            self.set(task, name, value)
        self.put(task + BITS["task_struct"]["comm"][0], comm.encode())
        self.sleep(task, *returns)
        return task

    def stack(self, task: int) -> int:
        return int.from_bytes(self.read(task + BITS["task_struct"]["stack"][0], 8), "little")

    def sleep(self, task: int, *returns: int, chain: bool = True, frames: Sequence[bytes] | None = None) -> None:
        """Switch away from the task: its chain of frame records has these return addresses.

        `frames` are the bytes from each record on instead. Without `chain` the first record is nowhere.
        """
        top = self.stack(task) + self.stack_size
        final = top - 0x40
        used = bytearray()
        records = [struct.pack("<QQ", 1, each) + bytes(16) for each in returns] if frames is None else frames
        sp = final - sum(map(len, records))
        at = sp
        for record in records:
            at += len(record)
            # A 1 stands for the address of the next record.
            used += record.replace(struct.pack("<Q", 1), struct.pack("<Q", at), 1)
        self.put(sp, bytes(used) + bytes(0x40))
        for number, value in enumerate((sp if chain else 0x10, sp, SYMBOLS["__switch_to"] + 0x40)):
            self.number(task + CONTEXT + 8 * number, value)
        self.count(task)

    def count(self, task: int) -> None:
        """The task has been switched away from once more."""
        at = BITS["task_struct"]["nvcsw"][0]
        self.number(task + at, int.from_bytes(self.read(task + at, 8), "little") + 1)

    def known(self, pid: int, task: int | None) -> int:
        """Give a task a PID; without a task the PID is one of a group only. Returns the struct pid."""
        place = self.allot(0x70)
        self.places[pid] = place
        if task is not None:
            self.tasks[pid] = task
            self.number(place + FIRST, task + LINKS)
        return place

    def add(self, pid: int, comm: str, *returns: int) -> int:
        """A task with a PID."""
        task = self.task(pid, comm, *returns)
        self.known(pid, task)
        if pid == 1:
            self.number(NAMESPACE + REAPER, task)
        return task

    def idle(self, comm: str, queue: int, *returns: int) -> int:
        """The idle task of a run queue."""
        task = self.task(0, comm, *returns)
        self.number(queue + BITS["rq"]["idle"][0], task)
        return task

    def on_queue(self, task: int, queue: int) -> None:
        cfs = self.allot(0x80)
        self.number(cfs + BITS["cfs_rq"]["rq"][0], queue)
        self.number(task + CFS_RQ + 8, cfs)

    def grow(self) -> None:
        """Write the tree of PIDs anew, with the nodes that it needs; nodes keep their place."""
        shift = 0
        while max(self.places) >> shift + 6:
            shift += 6
        self.number(NAMESPACE + 8 + 8, self._node(shift, 0, self.places))

    def _node(self, shift: int, first: int, places: dict[int, int]) -> int:
        node = self._nodes.get((shift, first)) or self.allot(0x240)
        self._nodes[shift, first] = node
        self.number(node, shift, 1)
        parts: dict[int, dict[int, int]] = {}
        for pid, place in places.items():
            parts.setdefault(pid - first >> shift, {})[pid] = place
        for slot in range(SLOT_COUNT):
            part = parts.get(slot)
            entry = 0
            if part and shift:
                entry = self._node(shift - 6, first + (slot << shift), part)
            elif part:
                [entry] = part.values()
            self.number(node + SLOTS + 8 * slot, entry)
        return node | 2

    # What looks at it

    def names(self, *left_out: str, named: bool = True) -> SymbolTable:
        symbols = [Symbol(name, at, 0x100) for name, at in SYMBOLS.items() if name not in left_out]
        if named:
            symbols.append(Symbol("init_pid_ns", NAMESPACE, 0x90))
        return SymbolTable(lambda: symbols)

    def looker(self, *left_out: str, named: bool = True, without: str = "", state: str = "__state") -> Tasks:
        """What a test looks with."""
        self.grow()
        types_of = btf(without=without, state=state)
        return Tasks(self, Structures(lambda: types_of), self.names(*left_out, named=named))

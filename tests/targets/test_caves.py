"""Caves behind a stub of our own: what is padding, the rooms in it, and detours that come and go.

../real/test_live_caves.py does it with a running kernel.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import a64patch
from a64patch.a64.assembler import assemble
from a64patch.cli.main import main
from a64patch.errors import CapabilityError, MappingError, RequestError, SymbolError
from a64patch.patch import transaction
from a64patch.patch.journal import Journal
from a64patch.ranges import Ranges
from a64patch.targets.base import CpuState, Room
from a64patch.targets.gdb import GdbTarget
from a64patch.targets.modules import Module
from a64patch.targets.section import Found
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.targets.stub import BASE, Machine, Stub, machine_of

NOP = 0xD503201F
F = assemble("f: nop; add x0, x0, #1; ret", BASE)
CODE = [*F, *[NOP] * 29, *assemble("g: mov x0, #0; ret", BASE + 128), *[0] * 30]
"""f with padding of NOPs up to 0x80, g with zeros up to 0x100."""
NAMES = [Symbol("f", BASE, 12, is_function=True), Symbol("g", BASE + 128, 8, is_function=True)]
CAVE = f"{BASE + 16:#x}:112"
ALL = Ranges(((BASE, BASE + 256),))
NEAR = (BASE, BASE)
DETOUR = "@@ detour f+0x4 @@\n-91000400  add x0, x0, #1\n+91000800  add x0, x0, #2\n+91000800  add x0, x0, #2\n"


class Nobody:
    """A kernel whose tasks are all on CPUs."""

    note = ""

    def unseen(self) -> str:
        return ""

    def prepare(self, keep_out: Ranges) -> None:
        pass

    def look(self, keep_out: Ranges, cpus: Sequence[CpuState]) -> Iterable[Found]:
        return ()


@contextmanager
def machine_with(
    *caves: str,
    words: Sequence[int] = CODE,
    names: Sequence[Symbol] = NAMES,
    code: Ranges | None = ALL,
    tasks: bool = True,
) -> Iterator[tuple[Machine, GdbTarget]]:
    machine = machine_of(words)
    with Stub(machine) as stub, GdbTarget(stub.location, caves=caves) as target:
        target.knowing(Module("kernel", SymbolTable(lambda: names), code=code), others=Nobody() if tasks else None)
        yield machine, target


@pytest.mark.parametrize("text", ["f", "f:", ":16", "f:0", "f:-4", "f:6", "f:x", "f:0x200000", "f+4"])
def test_a_cave_is_written_site_and_size(text: str) -> None:
    with pytest.raises(RequestError, match="is no cave: write SITE:SIZE"):
        GdbTarget("gdb+unix:/nowhere", caves=[text])


def test_rooms_share_a_cave_and_leave_no_trace() -> None:
    with machine_with(CAVE, "g+8:0x78") as (machine, target):
        first = target.find_room(20, NEAR)
        assert (first.address, first.size, target.rooms()) == (BASE + 16, 20, [])
        assert target.find_room(20, NEAR) == first, "it only reads"
        target.allocate(first)
        assert machine.words[4:11] == [NOP] * 5 + [0x8005] + [NOP]
        second = target.find_room(16, NEAR)
        assert second.address == BASE + 48
        target.allocate(second)
        third = target.find_room(92, NEAR, 32)
        assert third.address == BASE + 160, "in the second cave"
        target.allocate(third)
        rooms = [(room.address, room.size) for room in target.rooms()]
        assert rooms == [(BASE + 16, 20), (BASE + 48, 16), (BASE + 160, 92)]
        with pytest.raises(CapabilityError, match=r"no cave has 76 bytes of padding left within reach of f"):
            target.find_room(72, NEAR)
        with pytest.raises(MappingError, match="not padding of a cave any more"):
            target.allocate(second)
        target.release(target.rooms()[0])
        assert target.find_room(20, NEAR) == first
        for room in target.rooms():
            target.release(room)
        with pytest.raises(MappingError, match="there is no room for new code at"):
            target.release(second)
        assert machine.words == CODE


def test_rooms_are_found_by_what_the_cave_holds() -> None:
    """Words of the new code may be those of the padding."""
    with machine_with(CAVE) as (machine, target):
        room = target.find_room(12, NEAR)
        target.allocate(room)
        target.write(room.address, b"".join(word.to_bytes(4, "little") for word in (NOP, 0xD65F03C0, NOP)))
        assert [(each.address, each.size) for each in target.rooms()] == [(room.address, 12)]
        with pytest.raises(MappingError, match="still holds code, so it is not given back"):
            target.release(room)
        assert machine.words[7] == 0x8003


@pytest.mark.parametrize(
    ("caves", "changed", "says"),
    [
        (["h:16"], {}, r"cave h:16: there is no symbol 'h'"),
        ([f"{BASE + 18:#x}:8"], {}, "which is not a multiple of 4"),
        (["f+8:16"], {}, r"cave f\+8:16 is no padding: it is part of f at .*, which ends at "),
        ([f"{BASE + 16:#x}:116"], {}, "is no padding: g is at .*, inside of it"),
        ([f"{BASE + 16:#x}:116"], {"names": ()}, r"holds d2800000, and padding is the same word everywhere"),
        ([CAVE], {"words": [*CODE[:20], 0xD4200020, *CODE[21:]]}, "is no padding: .* holds d4200020, and"),
        ([f"{BASE + 240:#x}:16"], {"code": Ranges(((BASE, BASE + 248),))}, "is not in code of the target that may be"),
        ([CAVE, f"{BASE + 64:#x}:16"], {}, f"the caves {CAVE} and .* overlap"),
        ([CAVE], {"words": [*F[:2], *[NOP] * 30, *CODE[32:]]}, r"nothing shows that the instruction at f\+0x4"),
        ([CAVE], {"words": [F[0], 0x1400000F, *CODE[2:]]}, r"no padding: the instruction at f\+0x4 refers to it"),
        ([CAVE], {"words": [F[0], 0x10000200, *CODE[2:]]}, r"no padding: the instruction at f\+0x4 refers to it"),
    ],
)  # fmt: skip
def test_what_is_no_cave(caves: list[str], changed: dict[str, object], says: str) -> None:
    with machine_with(*caves, **changed) as (machine, target):  # type: ignore[arg-type]
        before = list(machine.words)
        with pytest.raises((CapabilityError, SymbolError), match=says):
            target.find_room(8, NEAR)
        assert machine.words == before


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (CODE, [name._replace(size=128) for name in NAMES]),
        ([NOP] * 64, ()),
        ([*F[:2], *[0] * 30, *CODE[32:]], NAMES),
        ([*F, *[0xD4200020] * 29, *CODE[32:]], NAMES),
        ([*F, *[0xFFFFFFFF] * 29, *CODE[32:]], NAMES),
    ],
    ids=["names that reach to the next one", "nothing before it", "zeros", "traps", "erased"],
)
def test_what_is_padding(words: Sequence[int], names: Sequence[Symbol]) -> None:
    with machine_with(CAVE, words=words, names=names) as (_, target):
        assert target.find_room(8, NEAR).address == BASE + 16


def test_a_cave_out_of_reach_and_no_cave() -> None:
    with machine_with(CAVE) as (_, target), pytest.raises(CapabilityError, match="no cave has"):
        target.find_room(8, (BASE + 256 + (1 << 27),) * 2)
    with machine_with() as (_, target):
        assert target.rooms() == []
        with pytest.raises(CapabilityError, match=r"has room for new code: name padding in its code, --cave SITE:SIZE"):
            target.find_room(8, NEAR)
    with machine_with(CAVE) as (machine, target):
        room = target.find_room(8, NEAR)
        machine.text[20:24] = b"\0\0\0\1"
        with pytest.raises(CapabilityError, match="is no padding"):
            target.allocate(room)
        target.knowing(may_write=Ranges(((BASE, BASE + 12),)))
        with pytest.raises(CapabilityError, match="not in code of the target that may be written"):
            target.allocate(room)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal") as journal:
        yield journal


def test_detours_come_and_go(journal: Journal) -> None:
    with machine_with(CAVE) as (machine, target):
        first = a64patch.apply(a64patch.parse(DETOUR), target, journal)
        room = target.rooms()[0]
        assert machine.words[1] >> 26 == 5
        assert machine.words[4:8] == [0x91000800, 0x91000800, 0x17FFFFFC, 0x8003]
        second = a64patch.apply(a64patch.parse("@@ detour g @@\n+91000c00\n d2800000\n"), target, journal)
        assert len(target.rooms()) == 2
        assert a64patch.revert(first.entry, target, journal).stays == ""
        assert a64patch.revert(second.entry, target, journal).stays == ""
        assert (machine.words, target.rooms()) == (CODE, [])
        again = a64patch.plan(a64patch.parse(DETOUR), target)
        assert again.annex is not None
        assert again.annex.room == room


def test_new_code_stays_while_a_cpu_is_in_it(journal: Journal) -> None:
    with machine_with(CAVE) as (machine, target):
        entry = a64patch.apply(a64patch.parse(DETOUR), target, journal).entry
        machine.registers[1, 32] = target.rooms()[0].address + 4
        assert "is not given back: CPU 1 stands at " in a64patch.revert(entry, target, journal).stays
        assert machine.words[1:6] == [*CODE[1:4], 0x91000800, 0x91000800]


def test_new_code_of_a_kernel_stays_while_its_tasks_are_not_known(journal: Journal) -> None:
    with machine_with(CAVE, tasks=False) as (machine, target):
        entry = a64patch.apply(a64patch.parse(DETOUR), target, journal).entry
        stays = a64patch.revert(entry, target, journal).stays
        assert "a task may return to it, unseen: nothing tells which tasks its kernel has (--symbols kallsyms)" in stays
        assert (machine.words[1], len(target.rooms())) == (CODE[1], 1)


class Open:
    """A target that is open already."""

    def __init__(self, target: GdbTarget) -> None:
        self._target = target

    def __enter__(self) -> GdbTarget:
        return self._target

    def __exit__(self, *_: object) -> None:
        pass


def test_without_its_cave_new_code_stays_until_the_cave_is_named(journal: Journal) -> None:
    with machine_with(CAVE) as (machine, target):
        entry = a64patch.apply(a64patch.parse(DETOUR), target, journal).entry
        caves, target._caves = target._caves, type(target._caves)(target, ())
        assert "nothing tells that it is a room: give the options" in a64patch.revert(entry, target, journal).stays
        assert machine.words[1:5] == [*CODE[1:4], 0x91000800]
        target._caves = caves
        [recovery] = transaction.recover(journal, lambda _: Open(target))  # type: ignore[arg-type,return-value]
        assert recovery.note == "the room of its new code is given back"
        assert machine.words == CODE


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed commands work as they stand."""
    machine = machine_of(CODE)
    (tmp_path / "detour.patch").write_text(DETOUR.replace("f+0x4", f"{BASE + 4:#x}"))
    journal = ("--journal", str(tmp_path / "journal"))
    with Stub(machine) as stub:

        def a64patch(*words: str) -> str:
            status = main([*words])
            said = capsys.readouterr()
            assert status == 0, said
            return said.out

        accept = ("--accept", "branch-into-site")
        said = a64patch("apply", str(tmp_path / "detour.patch"), stub.location, *journal, "--cave", CAVE, *accept)
        command = said.partition("`a64patch ")[2].partition("`")[0]
        assert command == shlex.join(["revert", "1", *journal, "--cave", CAVE])
        assert machine.words[1:4] != CODE[1:4]
        assert a64patch(*shlex.split(command)).startswith("reverted entry 1: 1 word")
        assert machine.words[1] == CODE[1]
        for more, says in (((), "give the options"), (("--cave", CAVE), "which tasks its kernel has")):
            main(["recover", *journal, *more])
            assert says in capsys.readouterr().out
        assert main(["apply", "x", "exe:/bin/true", "--cave", CAVE]) == 2


def test_room_is_a_value() -> None:
    with machine_with(CAVE) as (_, target):
        assert repr(target._caves.found()[0]) == f"<Cave {BASE + 16:#x}-{BASE + 128:#x} of d503201f, 0 rooms>"
        assert isinstance(target.find_room(8, NEAR), Room)

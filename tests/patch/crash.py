"""What the crash tests run, in a process of its own: patches killed, failing, and cut off from power, then recovered.

Read on: test_crash.py, which starts it; faults.c for how a call is made to fail.

A process of its own because it forks for each kill, which a process with threads had better not do, and because
faults.c must be loaded before Python. Prints what it did as JSON; the first thing that is wrong is a failed assertion.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from a64patch.a64.words import from_bytes, to_bytes
from a64patch.errors import A64PatchError, MappingError, ReadError, WriteError
from a64patch.patch.asmdiff import parse
from a64patch.patch.building import build, to_build
from a64patch.patch.journal import Entry, EntryState, Journal
from a64patch.patch.plan import Plan, make_plan
from a64patch.patch.transaction import apply_plan, recover, revert
from a64patch.ranges import Ranges
from a64patch.targets.base import Capabilities, Identity, Rendezvous, Target
from a64patch.targets.elf import ElfFile
from a64patch.targets.modules import Module
from a64patch.targets.section import Change
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.patch.fake import Parked

HUNKS = 200
BASE = 0x10000
OLD = [0xD2800001 | number << 5 for number in range(HUNKS)]
"""mov x1, #number"""
NEW = [0xD2800002 | number << 5 for number in range(HUNKS)]
"""mov x2, #number"""
BETWEEN = 0x91000400
"""add x0, x0, #1"""
COUNTER = [0, 1]
"""A word of data behind the code of a WordFile, before and after: it changes with the hunks."""
OWNER = 7
"""The word behind this one, a guard."""
PATCH = "".join(
    f"@@ site+{8 * number:#x} @@\n-{old:08x}\n+{new:08x}\n"
    for number, (old, new) in enumerate(zip(OLD, NEW, strict=True))
)
DETOUR = f"""\
@@ detour site+0x8 @@
-{OLD[1]:08x}
+{NEW[1]:08x}
+????????  bl annex:more
 {BETWEEN:08x}

@@ annex more align 64 @@
+????????  add x0, x0, #2
+????????  ret
"""
"""A patch whose new code lies elsewhere: it is built first, and given back last."""
SOURCE = "\n".join([
    ".text", ".globl site", ".type site, %function", "site:",
    *(f".inst {word:#x}, {BETWEEN:#x}" for word in OLD), ".size site, . - site",
])  # fmt: skip
"""Assembled and linked, the ELF file that is patched."""


class WordFile(Target):
    """Memory that survives the process: every word is written on its own, and stands there from then on.

    A file, so that it can be looked at afterwards; `publish` is fsync.
    """

    capabilities = Capabilities("memory", 0, True, True, True, True, writes_data=True)

    pause = 0.0
    """Seconds before every fourth write: what a wire takes, so that a kill finds words half written."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._size = os.fstat(self._file).st_size
        names, code = SymbolTable(lambda: [Symbol("site", BASE, 8 * HUNKS)]), Ranges(((BASE, BASE + 8 * HUNKS),))
        self.knowing(Module("memory", names, code=code))

    def _offset(self, address: int, size: int) -> int:
        if not BASE <= address <= BASE + self._size - size:
            raise MappingError(f"{address:#x} is not mapped")
        return address - BASE

    def read(self, address: int, size: int) -> bytes:
        try:
            return os.pread(self._file, size, self._offset(address, size))
        except OSError as error:
            raise ReadError(str(error)) from error

    def write(self, address: int, data: bytes) -> None:
        if self.pause and not address % 32:
            time.sleep(self.pause)
        try:
            os.pwrite(self._file, data, self._offset(address, len(data)))
        except OSError as error:
            raise WriteError(str(error)) from error

    def write_data(self, address: int, data: bytes) -> None:
        self.write(address, data)

    def publish(self, start: int, end: int) -> None:
        self.publish_many([])

    def publish_many(self, ranges: Sequence[tuple[int, int]]) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            raise WriteError(str(error)) from error

    def kick(self) -> None:
        pass

    @contextmanager
    def stop(self) -> Iterator[Parked]:
        yield Parked(Rendezvous(()), [])

    def identity(self) -> Identity:
        return Identity(self._path)

    def close(self) -> None:
        os.close(self._file)


@dataclass
class Bench:
    """A target with 200 hunks to patch, and a journal, in a directory that is made and wiped here."""

    kind: str
    folder: Path
    old: bytes
    """The target's whole content."""
    new: bytes = b""
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.target = self.folder / "target/file"
        self.journal = self.folder / "state/a64patch/journal.sqlite"
        self.olds, self.news, data, guards = list(OLD), list(NEW), [], []
        if self.kind == "words":
            place = BASE + 8 * HUNKS
            data, guards = [Change(place, *COUNTER)], [(place + 4, OWNER)]
            self.olds, self.news = [*OLD, COUNTER[0]], [*NEW, COUNTER[1]]
        patch = DETOUR if self.kind == "annex" else PATCH
        self.size = 8 * HUNKS + 4 * len(data)
        self.put({"target/file": self.old})
        with self.open() as target:
            self.plan: Plan = make_plan(parse(patch), target, data=data, guards=guards)
        if self.kind == "annex":
            self.news = [self.plan.changes[0].new if number == 1 else word for number, word in enumerate(OLD)]
        self.apply()
        self.new = self.target.read_bytes()
        with self.open() as target:
            self.place = self.new.index(target.read(target.symbols.resolve("site"), 8 * HUNKS))
        assert self.words(self.old) == self.olds
        assert self.words(self.new) == self.news

    def open(self, entry: Entry | None = None) -> Target:
        path = entry.identity.location if entry is not None else str(self.target)
        return WordFile(path) if self.kind == "words" else ElfFile(path)

    def words(self, content: bytes) -> list[int]:
        return from_bytes(content[self.place : self.place + self.size])[::2]

    def put(self, files: dict[str, bytes], folders: Iterable[str] = ("target",)) -> None:
        """Exactly these files, below `folder`."""
        for name in os.listdir(self.folder):
            shutil.rmtree(self.folder / name)
        for name in folders:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o600)

    def take(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()
        }

    def standing(self) -> str:
        """old, new, or mixed: of the hunks' words and the data, and never another byte."""
        content = self.target.read_bytes()
        if content in (self.old, self.new):
            return "old" if content == self.old else "new"
        words = self.words(content)
        assert all(word in pair for word, pair in zip(words, zip(self.olds, self.news, strict=True), strict=True))
        patched, place = bytearray(content), slice(self.place, self.place + self.size)
        patched[place] = self.old[place]
        if self.kind == "annex":
            assert content[place] == self.old[place], "the new code is there alone, and no branch leads to it"
            self.counts["before: new code alone"] += 1
        else:
            assert bytes(patched) == self.old
        return "mixed"

    # What is done to it.

    def apply(self) -> None:
        with Journal(self.journal) as journal, self.open() as target:
            apply_plan(self.plan, target, journal)

    def revert(self) -> None:
        with Journal(self.journal) as journal, self.open() as target:
            [entry] = (entry for entry in journal.entries(EntryState.APPLIED) if not entry.reverts)
            revert(entry.id, target, journal)

    def recover(self) -> list[str]:
        """What was said about each entry."""
        notes = []
        with Journal(self.journal) as journal:
            for each in recover(journal, self.open):
                self.counts[f"recovered: {each.state.value}"] += 1
                notes.append(each.note)
        return notes

    # What must hold.

    def check_named(self) -> list[Entry]:
        """New words in the target have an entry that names them. Returns the entries."""
        standing = self.standing()
        with Journal(self.journal) as journal:
            entries = journal.entries()
            left = journal.with_left_code()
        if left and standing == "mixed":
            self.counts["before: unused new code"] += 1
            return entries
        unfinished = [entry for entry in entries if entry.state in (EntryState.OPEN, EntryState.PARTIAL)]
        applied = [entry for entry in entries if entry.state is EntryState.APPLIED and not entry.reverts]
        assert len(unfinished) <= 1
        assert len(applied) <= 1
        if standing != "old":
            assert unfinished or applied, f"{standing} words and no entry names them"
        if standing == "mixed":
            assert unfinished, "mixed words and no entry is open"
        self.counts[f"before: {standing}"] += 1
        self.counts["before: open"] += bool(unfinished)
        return entries

    def check_recovered(self) -> str:
        """All old or all new, and the journal says which. Returns which."""
        notes = self.recover()
        standing = self.standing()
        assert standing != "mixed", f"mixed after recover: {notes}"
        with Journal(self.journal) as journal:
            entries = journal.entries()
            assert list(recover(journal, self.open)) == []
        states = {entry.state for entry in entries}
        assert not states & {EntryState.OPEN, EntryState.PARTIAL}
        applied = [entry for entry in entries if entry.state is EntryState.APPLIED and not entry.reverts]
        assert [standing] == (["new"] if applied else ["old"]), (standing, entries)
        for entry in entries:
            olds, news = [change.old for change in entry.written], [change.new for change in entry.written]
            changes = [*self.plan.changes, *self.plan.data]
            before, after = ([getattr(change, word) for change in changes] for word in ("old", "new"))
            assert (olds, news) == ((after, before) if entry.reverts else (before, after))
            assert (entry.built is None) == (self.plan.annex is None)
            assert entry.built is None or not entry.built.left
            assert entry.guards == self.plan.guards
        self.counts[f"after: {standing}"] += 1
        return standing


def fork(run: Callable[[], None], ready: Callable[[], object] = lambda: None) -> int:
    """The process that does this and nothing else: exit status 0 when it was done, 1 refused, 2 a defect."""
    child = os.fork()
    if child:
        return child
    status = 2
    try:
        ready()
        run()
        status = 0
    except A64PatchError:
        status = 1
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def killed_after(run: Callable[[], None], seconds: float) -> bool:
    """Kill it that long after it began; False when it had ended by itself, well."""
    read, write = os.pipe()
    child = fork(run, lambda: os.write(write, b"x"))
    os.close(write)
    assert os.read(read, 1) == b"x"
    os.close(read)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def duration(run: Callable[[], None]) -> float:
    """Seconds."""
    start = time.perf_counter()
    os.waitpid(fork(run), 0)
    return time.perf_counter() - start


def kill_at_random(bench: Bench, times: int, seed: int) -> None:
    """`times` patches or reverts, each killed at a random moment; every third time `recover` is killed as well."""
    choose = random.Random(seed)
    WordFile.pause = 10e-6
    seconds: dict[str, float] = {}
    for name, files in snapshots(bench).items():
        measured = []
        for _ in range(7):
            bench.put(files)
            measured.append(duration(getattr(bench, name)))
        seconds[name] = median(measured)

    def cut_off(name: str) -> bool:
        cut = killed_after(getattr(bench, name), choose.uniform(0, 1.2 * seconds[name]))
        # Machines become slower and faster: two thirds are to be cut off, the others are to have ended.
        seconds[name] *= 1.03 if cut else 0.94
        return cut

    standing = "new"
    for number in range(times):
        if number % 4 == 0:
            bench.put({"target/file": bench.old})
            standing = "old"
        name = "apply" if standing == "old" else "revert"
        bench.counts["kills"] += 1
        bench.counts[f"{name} cut off"] += cut_off(name)
        bench.check_named()
        if number % 3 == 0:
            bench.counts["recover cut off"] += cut_off("recover")
        standing = bench.check_recovered()


FAULTS = {"killed after": 1, "torn": 2, "failing once": 3, "disk full from": 4}


def snapshots(bench: Bench) -> dict[str, dict[str, bytes]]:
    """The files that each operation begins with."""
    bench.put({"target/file": bench.old})
    starts = {"apply": bench.take()}
    bench.apply()
    starts["revert"] = bench.take()
    bench.put({"target/file": bench.old})
    with Journal(bench.journal) as journal:
        plan, built = bench.plan, None
        if plan.annex is not None:
            with bench.open() as target:
                built = to_build(target, plan.annex.room, plan.annex.words)
                build(target, built)
        journal.begin(
            plan.identity, plan.changes, PATCH, method="stop", data=plan.data, guards=plan.guards, built=built
        )
    starts["recover"] = bench.take()
    if plan.annex is not None:
        return starts
    mixed = bytearray(bench.old)
    if bench.kind == "words":
        for number in range(0, HUNKS, 3):
            mixed[8 * number : 8 * number + 4] = to_bytes(NEW[number])
    starts["recover"]["target/file"] = bytes(mixed)
    return starts


def fault_everywhere(bench: Bench) -> None:
    """Each operation, with each fault at each of its writes, fsyncs, …, until it runs through."""
    library = ctypes.CDLL(None)
    for name, files in snapshots(bench).items():
        for fault, code in FAULTS.items():
            # Words are written alike, a file is replaced twice, and the journal's own calls are those of "elf".
            steps = {"elf": 1, "annex": 3, "words": 9}
            step = steps[bench.kind] if fault != "killed after" else 3 if bench.kind == "words" else 1
            position = 1 - step
            met = True
            while met:
                position += step
                bench.put(files)
                run = getattr(bench, name)
                start = _starter(library, bench, position, code)

                def until_done(run: Callable[[], None] = run) -> None:
                    try:
                        run()
                    finally:
                        if not library.faults_met():
                            os._exit(3)

                status = os.waitpid(fork(until_done, start), 0)[1]
                met = not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 3)
                assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) in (0, 1, 3), f"{name} {fault} {position}"
                try:
                    bench.check_named()
                    bench.check_recovered()
                except BaseException as error:
                    error.add_note(f"{name}, {fault} operation {position}")
                    raise
            bench.counts[f"{name}, {fault}"] = position // step


def _starter(library: ctypes.CDLL, bench: Bench, position: int, code: int) -> Callable[[], None]:
    return lambda: library.faults_start(os.fsencode(bench.folder), -1, ctypes.c_long(position), code)


# A disk as POSIX promises it, and no more: bytes survive an fsync of their file, names one of their directory.


@dataclass
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[str, int, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class _Name:
    what: str
    path: str
    other: str = ""
    file: _File | None = None


@dataclass
class Disk:
    """What is on disk and what only seems to be."""

    names: dict[str, _File]
    """As processes see them."""
    durable: dict[str, _File]
    folders: set[str]
    pending: list[_Name] = field(default_factory=list)

    @classmethod
    def holding(cls, files: dict[str, bytes]) -> Disk:
        names = {path: _File(bytearray(content)) for path, content in files.items()}
        folders = {str(parent) for path in files for parent in Path(path).parents}
        return cls(names, dict(names), folders)

    def apply(self, what: str, path: str, other: str, offset: int, data: bytes) -> None:
        if what == "create":
            self.names[path] = _File()
            self.pending.append(_Name(what, path, file=self.names[path]))
        elif what == "mkdir":
            self.pending.append(_Name(what, path))
        elif what == "unlink":
            del self.names[path]
            self.pending.append(_Name(what, path))
        elif what == "rename":
            self.names[other] = self.names.pop(path)
            self.pending.append(_Name(what, path, other))
        elif what == "sync" and path in self.names:
            file = self.names[path]
            for change in file.pending:
                _change(file.durable, *change)
            file.pending.clear()
        elif what == "sync":
            for name in [name for name in self.pending if (os.path.dirname(name.path) or ".") == path]:
                self._change_name(self.durable, self.folders, name)
                self.pending.remove(name)
        else:
            self.names[path].pending.append((what, offset, data))

    @staticmethod
    def _change_name(names: dict[str, _File], folders: set[str], name: _Name) -> None:
        if name.what == "create":
            assert name.file is not None
            names[name.path] = name.file
        elif name.what == "mkdir":
            folders.add(name.path)
        elif name.what == "unlink":
            names.pop(name.path, None)
        elif name.path in names:
            names[name.other] = names.pop(name.path)

    def after_power_cut(self, survives: Callable[[str], bool]) -> tuple[dict[str, bytes], frozenset[str]]:
        """The files and directories, when of what was not synchronised that survives of which this says so, by path."""
        names, folders = dict(self.durable), set(self.folders)
        for name in self.pending:
            if survives(name.path):
                self._change_name(names, folders, name)
        files = {}
        for path, file in names.items():
            if all(str(parent) in folders for parent in Path(path).parents):
                content = bytearray(file.durable)
                for change in file.pending:
                    if survives(path):
                        _change(content, *change)
                files[path] = bytes(content)
        return files, frozenset(folders)


def _change(content: bytearray, what: str, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if what == "write":
        content[offset : offset + len(data)] = data
    else:
        del content[offset:]


def recorded(bench: Bench, run: Callable[[], None]) -> list[tuple[str, str, str, int, bytes]]:
    """What it did below the folder, with paths relative to it."""
    library = ctypes.CDLL(None)
    log = os.memfd_create("log")
    child = fork(run, lambda: library.faults_start(os.fsencode(bench.folder), log, ctypes.c_long(0), 0))
    assert os.waitpid(child, 0)[1] == 0
    os.lseek(log, 0, os.SEEK_SET)
    found = []
    with os.fdopen(log, "rb") as file:
        for line in file:
            what, path, other, offset, size = line.decode().rstrip("\n").split("\t")
            relative = [os.path.relpath(each, bench.folder) if each else "" for each in (path, other)]
            found.append((what, *relative, int(offset), file.read(int(size))))
    return found  # type: ignore[return-value]


def power_cut_everywhere(bench: Bench, seed: int) -> None:
    """Each operation, cut off after each of its writes, fsyncs, …; several sets of what had not been synchronised."""
    choose = random.Random(seed)
    variants: dict[str, Callable[[str], bool]] = {
        "all unsynchronised lost": lambda path: False,
        "journal's lost": lambda path: path.startswith("target"),
        "target's lost": lambda path: not path.startswith("target"),
        "some lost": lambda path: choose.random() < 0.5,
    }
    for name, files in snapshots(bench).items():
        bench.put(files)
        operations = recorded(bench, getattr(bench, name))
        seen = set()
        disk = Disk.holding(files)
        for position in range(len(operations) + 1):
            for variant, survives in variants.items():
                state = disk.after_power_cut(survives)
                key = hash((tuple(sorted(state[0].items())), state[1]))
                if key in seen:
                    continue
                seen.add(key)
                bench.put(*state)
                try:
                    bench.check_named()
                    bench.check_recovered()
                except BaseException as error:
                    error.add_note(f"{name}, power cut after operation {position}, {variant}")
                    raise
                bench.counts[f"power cuts: {variant}"] += 1
            if position < len(operations):
                disk.apply(*operations[position])
        bench.counts[f"{name}, operations"] = len(operations)
        # The disk as processes see it is the one that the operation really left: the record is complete.
        bench.put(files)
        getattr(bench, name)()
        seen_files = disk.after_power_cut(lambda path: True)[0]
        assert seen_files.keys() == bench.take().keys()
        assert seen_files["target/file"] == bench.target.read_bytes()


def content_of_words() -> bytes:
    """What a WordFile begins with."""
    return b"".join(struct.pack("<II", word, BETWEEN) for word in OLD) + struct.pack("<II", COUNTER[0], OWNER)


def main(arguments: Sequence[str]) -> None:
    """`kill|faults|power elf|words FOLDER TIMES SEED [ELF]`."""
    what, kind, folder, times, seed = arguments[:5]
    content = content_of_words() if kind == "words" else Path(arguments[5]).read_bytes()
    bench = Bench(kind, Path(folder).resolve(), content)
    if what == "kill":
        kill_at_random(bench, int(times), int(seed))
    elif what == "faults":
        fault_everywhere(bench)
    else:
        power_cut_everywhere(bench, int(seed))
    print(json.dumps(bench.counts))


if __name__ == "__main__":
    main(sys.argv[1:])

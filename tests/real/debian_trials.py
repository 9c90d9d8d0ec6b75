"""What test_live_debian.py does inside of the guest: Debian's own redis-server and python3 are patched while they work.

Their own tests of themselves say whether they still do what they should. Functions answer with JSON.
Read on: test_live_debian.py says what must come out.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from elftools.elf.elffile import ELFFile

import a64patch
from a64patch.targets.base import Target

REDIS, PORT = "/usr/bin/redis-server", 7001
PYTHON = "/usr/bin/python3"
Told = dict[str, Any]
Look = Callable[[], list[Any]]
Load = AbstractContextManager[Look]

FOLDER = Path(f"/dev/shm/debian-{os.getpid()}")
MOV_X1_0 = 0xD2800001
REDIS_OFTEN = ("addReply", "addReplyBulk", "dbAdd", "dictFind", "incrDecrCommand", "processCommand", "setKey")
PYTHON_OFTEN = ("PyDict_SetItem", "PyNumber_Add", "PyObject_GetAttr", "PyObject_Vectorcall", "PyType_GenericAlloc")
"""Functions that these programs execute all the time."""
ACCEPT = ["branch-into-site"]
"""Each new word does what its old word did. So it is no matter that static functions may jump between the two."""
EXAMPLES = 400
"""Of SELF_TEST; it has some more."""
NEVER_LEFT = ("_PyEval_EvalFrameDefault",)
"""A function that may be entered in the middle is kept out of as a whole: no patch goes into one that never ends."""

SELF_TEST = r"""
import doctest, hashlib, importlib, io, json, operator, sys, threading

counts = dict.fromkeys(("examples", "failed", "sums", "swapped", "digests", "wrong"), 0)
over = threading.Event()
names = "difflib statistics heapq fractions collections enum decimal pickletools json http.cookies hashlib".split()
modules = [importlib.import_module(name) for name in names]
sys.setswitchinterval(0.0005)

def examples():
    while not over.is_set():
        for module in modules:
            found = doctest.testmod(module, report=False)
            counts["examples"] += found.attempted
            counts["failed"] += found.failed
            if over.is_set():
                return

def sums():
    while not over.wait(0.01):
        for _ in range(100):
            found = operator.add([1], [2])
            counts["sums"] += found == [1, 2]
            counts["swapped"] += found == [2, 1]
            counts["wrong"] += sorted(found) != [1, 2]

def digest():
    words = [f"{number:x}" * (number % 7) for number in range(300)]
    table = {word: index ** 9 % 10007 for index, word in enumerate(sorted(words, key=lambda word: word[::-1]))}
    text = json.dumps(table, sort_keys=True) + "".join(words).replace("a", "bc").upper()
    return hashlib.sha256(text.encode() * 3).hexdigest()

def digests():
    first = digest()
    while not over.wait(0.01):
        counts["digests"] += 1
        counts["wrong"] += digest() != first

said, sys.stdout = sys.stdout, io.StringIO()
threads = [threading.Thread(target=each) for each in (examples, sums, digests)]
print("ready", file=said, flush=True)
for line in sys.stdin:
    print(json.dumps(counts), file=said, flush=True)
    if threading.active_count() == 1:
        for thread in threads:
            thread.start()
over.set()
"""
"""The examples in the documentation of Python's own modules, which are tests of Python too, and two threads beside."""


SYMBOL = [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("address", "<u8"), ("size", "<u8")]
STT_FUNC = 2


class Pair(NamedTuple):
    """Two register moves behind each other: `mov Xd, Xn`, which are ORR."""

    address: int
    words: tuple[int, int]
    function: str


def pairs_of(path: str, target: Target) -> list[Pair]:
    """All pairs in the exported functions of the program at `path`, as they are in the memory of its process."""
    with open(path, "rb") as stream:
        file = ELFFile(stream)
        symbols = numpy.frombuffer(file.get_section_by_name(".dynsym").data(), SYMBOL)
        names: bytes = file.get_section_by_name(".dynstr").data()
    functions = numpy.sort(symbols[(symbols["info"] & 15 == STT_FUNC) & (symbols["section"] != 0)], order="address")
    base, found = target.modules.main.base, []
    start, end = int(functions["address"][0]), int(functions["address"][-1])
    words = numpy.frombuffer(target.read(base + start, end - start), "<u4")
    moves = ((words & 0xFFE0FFE0) == 0xAA0003E0) & (words >> 16 & 31 != 31) & (words & 31 != 31)
    places = start + 4 * numpy.flatnonzero(moves[:-1] & moves[1:])
    holders = functions[numpy.searchsorted(functions["address"], places, "right") - 1]
    after = 0
    for place, holder in zip(places.tolist(), holders, strict=True):
        name = names[holder["name"] : names.index(b"\0", holder["name"])].decode()
        if after <= place <= int(holder["address"] + holder["size"]) - 8 and name not in NEVER_LEFT:
            first = (place - start) // 4
            found.append(Pair(base + place, (int(words[first]), int(words[first + 1])), name))
            after = place + 8
    return found


Effect = Callable[[list[Pair]], tuple[Pair, tuple[int, int]]]


def add_zero(word: int) -> int:
    """`add Xd, Xn, #0`, which does the same as the `mov Xd, Xn` (ORR) given."""
    return 0x91000000 | (word >> 16 & 31) << 5 | word & 31


def plan_of(target: Target, changes: Sequence[tuple[Pair, tuple[int, int]]]) -> a64patch.Plan:
    """The plan of a patch that replaces both words of each pair."""
    hunks = [
        f"@@ {pair.address:#x} @@\n" + "".join(f"-{word:08x}\n" for word in pair.words)
        + "".join(f"+{word:08x}\n" for word in new)
        for pair, new in changes
    ]  # fmt: skip
    return a64patch.plan(a64patch.parse("\n".join(("Replace pairs.\n", *hunks))), target)


def trial(
    path: str, pid: int, often: Sequence[str], number: str, sites: str, effect: Effect, load: Load, look: Look
) -> Told:
    """Apply and revert pairs all over the program `number` times under a load, which tells how it went.

    Then one pair with an effect, which `look` sees.
    """
    with a64patch.open_target(f"pid:{pid}") as target, a64patch.Journal(FOLDER / "journal") as journal:
        pairs = pairs_of(path, target)
        chosen = [pair for pair in pairs if pair.function in often]
        rest = [pair for pair in pairs if pair.function not in often]
        told: Told = {"pairs": len(pairs), "not found": sorted(set(often) - {pair.function for pair in chosen})}
        visible = plan_of(target, [effect(chosen)])
        chosen += rest[:: max(1, len(rest) // int(sites))]
        plan = plan_of(target, [(pair, (add_zero(pair.words[0]), add_zero(pair.words[1]))) for pair in chosen])
        results = []
        with load as end:
            for _ in range(int(number)):
                applied = a64patch.apply(plan, target, journal, retry=60, accept=ACCEPT)
                time.sleep(0.1)
                undone = a64patch.revert(applied.entry, target, journal, retry=60)
                results += [applied.result, undone.result]
            told["load"] = end()
        looks = [look()]
        applied = a64patch.apply(visible, target, journal, retry=60)
        looks.append(look())
        a64patch.revert(applied.entry, target, journal, retry=60)
        looks.append(look())
        windows = sorted(result.stop_window_ns or 0 for result in results)
        return told | {
            "sites": len(chosen),
            "looks": looks,
            "threads": max(len(result.cpus) for result in results),
            "retries": sum(result.retries for result in results),
            "window_ms": windows[len(windows) // 2] / 1e6,
        }


# What must come out is in test_live_debian.py.


def python(number: str, sites: str) -> Told:
    """Python runs tests of its own modules."""
    with subprocess.Popen([PYTHON, "-c", SELF_TEST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:

        def counts() -> dict[str, int]:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("?\n")
            child.stdin.flush()
            found: dict[str, int] = json.loads(child.stdout.readline())
            return found

        def look() -> list[bool]:
            """Whether operands come as they are given, and swapped."""
            time.sleep(0.1)  # One sum may have begun before.
            first = counts()
            time.sleep(0.5)
            second = counts()
            return [second[name] > first[name] for name in ("sums", "swapped")]

        @contextmanager
        def work() -> Iterator[Look]:
            counts()
            yield whole_test

        def whole_test() -> list[Any]:
            """What was counted; at least all examples once."""
            found = counts()
            while found["examples"] < EXAMPLES:
                time.sleep(0.1)
                found = counts()
            return [found]

        def effect(pairs: list[Pair]) -> tuple[Pair, tuple[int, int]]:
            """PyNumber_Add keeps its operands: the other way round."""
            for pair in pairs:
                first, second = (word >> 16 & 31 for word in pair.words)
                if pair.function == "PyNumber_Add" and {first, second} == {0, 1}:
                    return pair, (pair.words[0] ^ 1 << 16, pair.words[1] ^ 1 << 16)
            raise LookupError("PyNumber_Add keeps its operands elsewhere")

        try:
            assert child.stdout is not None
            child.stdout.readline()
            told = trial(PYTHON, child.pid, PYTHON_OFTEN, number, sites, effect, work(), look)
            child.communicate(timeout=120)
            return told | {"status": child.returncode}
        finally:
            child.kill()


class Client:
    """A connection to redis."""

    def __init__(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", PORT), timeout=60)
        self._stream = self._socket.makefile("rb")

    def __call__(self, *commands: tuple[object, ...]) -> list[Any]:
        """The answers to commands that are sent together."""
        message = []
        for words in commands:
            texts = [str(word).encode() for word in words]
            message += [b"*%d\r\n" % len(texts), *(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts)]
        self._socket.sendall(b"".join(message))
        return [self._answer() for _ in commands]

    def _answer(self) -> Any:
        line = self._stream.readline()
        kind, text = line[:1], line[1:-2].decode()
        if kind == b"*":
            return [self._answer() for _ in range(int(text))]
        if kind == b"$":
            return self._stream.read(int(text) + 2)[:-2].decode() if text != "-1" else None
        return int(text) if kind == b":" else text

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


def talk(number: int) -> tuple[int, int]:
    """Change values of one's own until SIGTERM comes: how many answers came, and how many were wrong."""
    over: list[int] = []
    signal.signal(signal.SIGTERM, lambda signal, _: over.append(signal))
    chance = random.Random(number)
    client = Client()
    texts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    lists: dict[str, list[str]] = {}
    answers = wrong = 0
    while not over:
        commands: list[tuple[object, ...]] = []
        wanted: list[Any] = []
        for _ in range(chance.randrange(1, 30)):
            key, value = f"{chance.randrange(50)}", f"{chance.random()}" * chance.randrange(1, 5)
            text, count, items = f"{number} text {key}", f"{number} number {key}", f"{number} list {key}"
            match chance.randrange(8):
                case 0:
                    commands.append(("PING",))
                    wanted.append("PONG")
                case 1:
                    commands.append(("SET", text, value))
                    wanted.append("OK")
                    texts[text] = value
                case 2:
                    commands.append(("GET", text))
                    wanted.append(texts.get(text))
                case 3:
                    commands.append(("INCR", count))
                    numbers[count] = numbers.get(count, 0) + 1
                    wanted.append(numbers[count])
                case 4:
                    commands.append(("APPEND", text, "x"))
                    texts[text] = texts.get(text, "") + "x"
                    wanted.append(len(texts[text]))
                case 5:
                    commands.append(("DEL", text))
                    wanted.append(int(texts.pop(text, None) is not None))
                case 6:
                    commands.append(("LPUSH", items, value))
                    lists.setdefault(items, []).insert(0, value)
                    wanted.append(len(lists[items]))
                case _:
                    commands.append(("LRANGE", items, 0, 4))
                    wanted.append(lists.get(items, [])[:5])
        found = client(*commands)
        answers += len(found)
        wrong += sum(one != other for one, other in zip(found, wanted, strict=True))
    return answers, wrong


@contextmanager
def clients(count: int) -> Iterator[Look]:
    """Processes that talk to redis. Calling the value ends them, and gives the sums of what they count."""
    reading, writing = os.pipe()
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            try:
                os.write(writing, b"%d %d\n" % talk(number))
            finally:
                os._exit(0)
        children.append(child)
    os.close(writing)

    def end() -> list[int]:
        while children:
            os.kill(children[-1], signal.SIGTERM)
            os.waitpid(children.pop(), 0)
        with open(reading, closefd=False) as stream:
            lines = [list(map(int, line.split())) for line in stream]
        return [len(lines), *map(sum, zip(*lines, strict=True))]

    try:
        yield end
    finally:
        end()
        os.close(reading)


def redis(number: str, sites: str) -> Told:
    """redis-server answers several clients, with threads that read and write beside."""
    settings = ["--io-threads", "3", "--io-threads-do-reads", "yes", "--enable-debug-command", "local"]
    settings += ["--save", "", "--dir", str(FOLDER), "--port", str(PORT)]
    with subprocess.Popen([REDIS, *settings], stdout=subprocess.DEVNULL) as server:
        client = None
        while client is None:
            with suppress(ConnectionRefusedError):
                client = Client()
            time.sleep(0.05)
        ask = client

        def look() -> list[Any]:
            return ask(("DEL", "looked at"), ("INCR", "looked at"), ("INCR", "looked at"))[1:]

        def effect(pairs: list[Pair]) -> tuple[Pair, tuple[int, int]]:
            """INCR reads its key: as one without a value. The last pair that loads x1 and x0 is before that call."""
            for pair in reversed(pairs):
                if pair.function == "incrDecrCommand" and [word & 31 for word in pair.words] == [1, 0]:
                    return pair, (MOV_X1_0, add_zero(pair.words[1]))
            raise LookupError("incrDecrCommand has no such pair")

        try:
            told = trial(REDIS, server.pid, REDIS_OFTEN, number, sites, effect, clients(3), look)
            [before] = ask(("DEBUG", "DIGEST"))
            told["reload"], after = ask(("DEBUG", "RELOAD"), ("DEBUG", "DIGEST"))
            told["digests"] = [len(before), before == after, before.count("0") < 40]
            ask._socket.sendall(b"SHUTDOWN NOSAVE\r\n")
            return told | {"status": server.wait(60)}
        finally:
            server.kill()


def main() -> None:
    function, *arguments = sys.argv[1:]
    FOLDER.mkdir()
    print(json.dumps(globals()[function](*arguments)))


if __name__ == "__main__":
    main()

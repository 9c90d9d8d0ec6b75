"""A guest with a userland: Debian's arm64 Python, redis and busybox, numpy, and a64patch as it is in the checkout.

    with Userland(files={"/opt/victim": compile_program(SOURCE, path)}) as userland:
        victim = userland.start("/opt/victim")
        userland.run("a64patch asm nop")        # (0, "d503201f\n")
        userland.a64patch("asm", "nop")         # the same, without the seconds that Python needs to start
        userland.python("print('{\"answer\": 42}')")   # {"answer": 42}

For trials by hand `python -m tests.real.userland 600` boots one that lives for so many seconds. Commands come from its
stdin, or from other shells, one at a time:

    python -m tests.real.userland run 'uname -a; python3 -m a64patch --version'
    python -m tests.real.userland put FILE PATH       # into the guest
    python -m tests.real.userland fetch PATH FILE
    python -m tests.real.userland refresh             # a64patch anew, as it is in the checkout by now
    python -m tests.real.userland 600 --cpu max,pauth-impdef=on --with gdb --append proc_mem.force_override=never
    python -m tests.real.userland --name other 600    # beside the first: each of its commands needs --name, too

Read on: guest.py for the guest, userland_image.py for its files, userland_agent.c for what runs the commands in it,
userland_worker.py for what runs the scripts, victims.py for programs to run, conftest.py for the fixture `userland`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shlex
import socket
import stat
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.real import packages, userland_worker
from tests.real.guest import AGENT, LATE, Archive, Guest, GuestError, compile_program
from tests.real.userland_image import ADDONS, image, place_of_project, project_files
from tests.support import GUARD_SECONDS

PROCESSOR_MAX = "max,pauth-impdef=on"
"""All that QEMU has, pointer authentication by its own algorithm: that of the architecture takes ten times as long."""
MEMORY = 2048
"""MiB: the files in it take their space from there, too."""
_MARGIN_SECONDS = 60.0

_ENTRY = "import sys\nfrom a64patch.cli.main import main\n\nsys.exit(main())\n"


@functools.cache
def _agent() -> bytes:
    with TemporaryDirectory(prefix="a64patch-") as folder:
        source = Path(__file__).with_name("userland_agent.c").read_text("utf-8")
        return compile_program(source, Path(folder) / "agent", "-Wall", "-Werror").read_bytes()


class Done(NamedTuple):
    """How a command ended: a signal N is the status 128 + N, as a shell tells it."""

    status: int
    output: str
    """What it wrote to either stream; bytes that are no UTF-8 are replaced."""


class Started(NamedTuple):
    """A command in the background."""

    pid: int
    log: str
    """The file of the guest that takes what it writes."""


class Userland:
    """A booted guest with four CPUs and no network but its own 127.0.0.1; it ends when its block is left.

    `files` are by their absolute path in the guest, and may be executed. `addons` names some of ADDONS. The other
    arguments are those of `Guest`; with `command_line` the kernel can forbid writing to /proc/N/mem, for example.
    `guest` is the machine below: its console, its GDB stub.

    Commands run one at a time, in /, as root, of at most 128 KiB. One that takes longer than `seconds` is killed with
    all that it started in its session: GuestError then shows the end of its output, and the guest stays usable.
    """

    def __init__(
        self,
        *,
        files: Mapping[str, bytes | Path] | None = None,
        addons: Iterable[str] = (),
        processor: str = "",
        command_line: str = "",
        modules: Iterable[str] = (),
        tree: packages.KernelTree | None = None,
        seconds: float = GUARD_SECONDS,
    ) -> None:
        self._started = 0
        self._has_worker = False
        own: dict[str, bytes | Path] = {
            AGENT: _agent(),
            "/opt/worker.py": Path(userland_worker.__file__),
            "/usr/bin/a64patch": b"#!/usr/bin/python3\n" + _ENTRY.encode(),
            **project_files(),
        }
        self.guest = Guest(
            files=own | dict(files or {}),
            bases=[image(), *(image(addon) for addon in addons)],
            memory=MEMORY,
            processor=processor,
            command_line=command_line,
            modules=modules,
            tree=tree,
            seconds=seconds,
        )
        self.guest.run("mkdir -p /dev/shm /root /run /var/tmp; mount -t tmpfs shm /dev/shm; ifconfig lo 127.0.0.1 up")

    def run(self, command: str, stdin: bytes = b"", *, seconds: float = GUARD_SECONDS) -> Done:
        """A shell command, whose stdin is empty unless given."""
        status, output = self.run_bytes(command, stdin, seconds=seconds)
        return Done(status, output.decode("utf-8", "replace"))

    def run_bytes(self, command: str, stdin: bytes = b"", *, seconds: float = GUARD_SECONDS) -> tuple[int, bytes]:
        """As `run`, for output that is no text."""
        status, output = self.guest.execute(command, stdin, seconds=seconds + _MARGIN_SECONDS, limit=seconds)
        if status == LATE:
            raise _late(command, seconds, output)
        return status, output

    def output_of(self, command: str, stdin: bytes = b"", *, seconds: float = GUARD_SECONDS) -> str:
        """The output of a shell command whose status is 0; else GuestError with both."""
        return _require(command, self.run(command, stdin, seconds=seconds))

    def start(self, command: str) -> Started:
        """A simple command in the background, in a session of its own: a program with its arguments and redirections.

        The pid is that of the program, which is being executed when this returns. It lives until it ends or the guest
        does; /proc forgets it as soon as it ended.
        """
        self._started += 1
        log = f"/tmp/started.{self._started}"
        script = f"setsid sh -c {shlex.quote(f': {log}; exec {command}')} </dev/null >{log} 2>&1 & echo $!"
        started = Started(int(self.guest.run(script)), log)
        # The shells on the way have the log's name in their arguments; Linux gives none in the middle of an exec.
        while True:
            status, arguments = self.run_bytes(f"cat /proc/{started.pid}/cmdline")
            if status or (arguments and log.encode() not in arguments):
                return started

    def put(self, path: str, data: bytes) -> None:
        """A file, which may be executed; its folder must be there."""
        self.output_of(f"cat >{shlex.quote(path)} && chmod 755 {shlex.quote(path)}", data)

    def fetch(self, path: str) -> bytes:
        """The bytes of a file."""
        status, data = self.run_bytes(f"cat {shlex.quote(path)}")
        if status:
            raise GuestError(data.decode("utf-8", "replace"))
        return data

    def python(self, script: str | Path, *arguments: object, seconds: float = GUARD_SECONDS) -> Any:
        """What a Python script, a file of the host or a text, printed last: a line of JSON. GuestError when it failed.

        The script runs in a process that has imported numpy, elftools and a64patch before.
        """
        done = self._work(script, arguments, seconds)
        output = _require(f"the script {script}", done)
        try:
            return json.loads(output.strip().rpartition("\n")[2])
        except ValueError:
            raise GuestError(f"the last line of this output is no JSON:\n{output}") from None

    def a64patch(self, *arguments: str, seconds: float = GUARD_SECONDS) -> Done:
        """The command line tool, in a process that has imported it before."""
        return self._work(_ENTRY, arguments, seconds, name="a64patch")

    def _work(self, script: str | Path, arguments: Sequence[object], seconds: float, name: str = "script.py") -> Done:
        if not self._has_worker:
            self._has_worker = True
            self.guest.run(f"mkdir -p {userland_worker.FOLDER} && cd {userland_worker.FOLDER} && mkfifo in out")
            self._worker = self.start("python3 /opt/worker.py")
        if isinstance(script, Path):
            name, script = script.name, script.read_text("utf-8")
        job = {"source": script, "name": name, "arguments": list(map(str, arguments)), "seconds": seconds}
        exchange = "cat >in && read -r status <out && echo $status && cat output"
        try:
            output = self.output_of(
                f"cd {userland_worker.FOLDER} && {exchange}",
                json.dumps(job).encode() + b"\n",
                seconds=seconds + _MARGIN_SECONDS,
            )
        except GuestError as error:
            raise GuestError(f"{error}\nof the worker:\n{self.fetch(self._worker.log).decode()}") from None
        status, _, output = output.partition("\n")
        if status == userland_worker.LATE:
            raise _late(name, seconds, output.encode())
        return Done(int(status), output)

    def refresh(self) -> None:
        """Put in a64patch anew, as it is in the checkout by now."""
        stream = BytesIO()
        archive = Archive(stream)
        files = project_files()
        for folder in sorted({str(folder) for name in files for folder in Path(name).parents[:-1]}):
            archive.add(folder, stat.S_IFDIR | 0o755, b"")
        for name, content in files.items():
            archive.add(name, stat.S_IFREG | 0o755, content)
        archive.end()
        self.output_of(f"rm -rf {place_of_project()} && cd / && cpio -idu", stream.getvalue())
        if self._has_worker:
            self.run(f"kill -KILL {self._worker.pid}; rm -r {userland_worker.FOLDER}")
            self._has_worker = False

    def close(self) -> None:
        """End the virtual machine."""
        self.guest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require(what: str, done: Done) -> str:
    if done.status:
        raise GuestError(f"{what} ended with status {done.status} in the guest:\n{done.output}")
    return done.output


def _late(what: str, seconds: float, output: bytes) -> GuestError:
    end = output[-4000:].decode("utf-8", "replace")
    return GuestError(f"{what} did not end within {seconds} s; the end of what it wrote:\n{end}")


def _serve(name: str, seconds: float, **options: Any) -> None:
    """Boot one, and carry out what stdin and the clients ask for, until its time is over."""
    address = _address(name)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as other:
        other.connect(str(address))
        sys.exit(f"A guest of this name runs already; --name gives this one another name than {name!r}.")
    address.unlink(missing_ok=True)
    with Userland(**options) as userland, listening(name) as listener:
        print("ready", flush=True)
        over = threading.Timer(seconds, lambda: listener.shutdown(socket.SHUT_RDWR))
        over.daemon = True
        over.start()
        threading.Thread(target=_pass_on, args=(name,), daemon=True).start()
        carry_out(userland, listener)


@contextlib.contextmanager
def listening(name: str) -> Iterator[socket.socket]:
    """Where the clients of this name find somebody."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(_address(name)))
        try:
            listener.listen()
            yield listener
        finally:
            _address(name).unlink(missing_ok=True)


def carry_out(userland: Userland, listener: socket.socket) -> None:
    """Do what clients ask for, until the listener is shut down."""
    while True:
        try:
            client = listener.accept()[0]
        except OSError:
            return
        with contextlib.suppress(OSError), client, client.makefile("rwb") as stream:
            line = stream.readline()
            if line:  # else it only wanted to know whether somebody is here
                head = json.loads(line)
                status, output = _answer(userland, head["words"], stream.read(head["size"]))
                stream.write(b"%d\n%s" % (status, output))


def _answer(userland: Userland, words: Sequence[str], data: bytes) -> tuple[int, bytes]:
    try:
        match words:
            case ["run", command]:
                return userland.run_bytes(command)
            case ["put", path]:
                userland.put(path, data)
            case ["fetch", path]:
                return 0, userland.fetch(path)
            case ["refresh"]:
                userland.refresh()
    except GuestError as error:
        return 1, f"{error}\n".encode()
    return 0, b""


def _address(name: str) -> Path:
    return packages.cache_directory() / f"{name}.socket"


def _pass_on(name: str) -> None:
    for line in sys.stdin:
        status = _ask(name, ["run", line])
        if status:
            print(f"status {status}", flush=True)


def _ask(name: str, words: Sequence[str], data: bytes = b"", sink: Path | None = None) -> int:
    """Have the one that runs do something; the status, its output to stdout or into a file."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(str(_address(name)))
        with server.makefile("rwb") as stream:
            stream.write(json.dumps({"words": words, "size": len(data)}).encode() + b"\n" + data)
            stream.flush()
            status, output = int(stream.readline()), stream.read()
    if sink and not status:
        sink.write_bytes(output)
    else:
        sys.stdout.buffer.write(output)
        sys.stdout.flush()
    return status


def main(words: Sequence[str]) -> int:
    name = "userland"
    if words[:1] == ["--name"]:
        name, words = words[1], words[2:]
    match words:
        case ["run", command]:
            return _ask(name, ["run", command])
        case ["put", file, path]:
            return _ask(name, ["put", path], Path(file).read_bytes())
        case ["fetch", path, file]:
            return _ask(name, ["fetch", path], sink=Path(file))
        case ["refresh"]:
            return _ask(name, ["refresh"])
    parser = argparse.ArgumentParser(prog="python -m tests.real.userland")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--cpu", default="")
    parser.add_argument("--append", default="")
    parser.add_argument("--with", dest="addons", action="append", choices=sorted(ADDONS), default=[])
    options = parser.parse_args(words)
    _serve(name, options.seconds, processor=options.cpu, command_line=options.append, addons=options.addons)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

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
    python -m tests.real.userland 600 --cpu max --with gdb

Read on: guest.py for the guest, userland_worker.py for what runs the scripts, conftest.py for the fixture `userland`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import marshal
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import threading
import tomllib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from io import BytesIO
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, NamedTuple, Self

from tests.real import packages, userland_worker
from tests.real.guest import Archive, Guest, GuestError
from tests.support import GUARD_SECONDS, ROOT, unavailable

PROCESSOR_MAX = "max,pauth-impdef=on"
"""All that QEMU has, pointer authentication by its own algorithm: that of the architecture takes ten times as long."""
MEMORY = 2048
"""MiB: the files in it take their space from there, too."""
ADDONS = {"gdb": "gdb-root"}
"""What can be put in beside, each with its tree of packages.py."""

_LEFT_OUT = re.compile(
    r"usr/share/(applications|bash-completion|bug|doc|doc-base|info|lintian|locale|man|menu|metainfo|pixmaps)/"
    r"|(usr/)?lib/[^/]+/gconv/|(usr/)?lib/(systemd|valgrind|tmpfiles\.d|sysusers\.d)/|etc/(init\.d|systemd)/"
    r"|.*/(__pycache__|tests?|idlelib|lib2to3|ensurepip|pydoc_data|turtledemo|f2py)/"
    r"|.*/numpy/.*\.(a|h|pyi)$|.*/pygments/lexers/(?!__init__|_mapping|python)"
)
_TO_USR = re.compile(r"^(bin|lib|sbin)/")
_MOST_IMAGES = 4
_MARGIN_SECONDS = 60.0

_RUN = """\
# SECONDS COMMAND: in a session of its own, which is killed when its time is over.
[ ! -e /tmp/late ] || rm /tmp/late
setsid sh -c "$2" </tmp/input &
job=$!
setsid sh -c 'sleep "$0"; : >/tmp/late; kill -KILL -"$1"' "$1" "$job" </dev/null >/dev/null 2>&1 &
watch=$!
wait "$job" 2>/dev/null
status=$?
kill -KILL "$watch" -"$watch" 2>/dev/null
exit "$status"
"""
_ENTRY = "import sys\nfrom a64patch.cli.main import main\n\nsys.exit(main())\n"


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

    `files` are by their absolute path in the guest, and may be executed. `processor` is QEMU's, `tree` a kernel other
    than the newest one. `addons` names some of ADDONS. `guest` is the machine below: its console, its GDB stub.

    Commands run one at a time, in /, as root. One that takes longer than `seconds` is killed with all that it started
    in its session: GuestError then shows the end of its output, and the guest stays usable.
    """

    def __init__(
        self,
        *,
        files: Mapping[str, bytes | Path] | None = None,
        addons: Iterable[str] = (),
        processor: str = "",
        tree: packages.KernelTree | None = None,
        seconds: float = GUARD_SECONDS,
    ) -> None:
        self._started = 0
        self._has_worker = False
        own: dict[str, bytes | Path] = {
            "/opt/run": _RUN.encode(),
            "/opt/worker.py": Path(userland_worker.__file__),
            "/usr/bin/a64patch": b"#!/usr/bin/python3\n" + _ENTRY.encode(),
            **project_files(),
        }
        self.guest = Guest(
            files=own | dict(files or {}),
            bases=[image(), *(image(addon) for addon in addons)],
            memory=MEMORY,
            processor=processor,
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
        script = f"exec sh /opt/run {seconds} {shlex.quote(command)}"
        status, output = self.guest.execute(script, stdin, seconds=seconds + _MARGIN_SECONDS)
        if status == 128 + 9 and self.guest.execute("rm /tmp/late 2>&1")[0] == 0:
            raise _late(command, seconds, output)
        return status, output

    def output_of(self, command: str, stdin: bytes = b"", *, seconds: float = GUARD_SECONDS) -> str:
        """The output of a shell command whose status is 0; else GuestError with both."""
        return _require(command, self.run(command, stdin, seconds=seconds))

    def start(self, command: str) -> Started:
        """A simple command in the background, in a session of its own: a program with its arguments and redirections.

        The pid is that of the program. It lives until it ends or the guest does.
        """
        self._started += 1
        log = f"/tmp/started.{self._started}"
        script = f"setsid sh -c {shlex.quote(f'exec {command}')} </dev/null >{log} 2>&1 & echo $!"
        return Started(int(self.guest.run(script)), log)

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
            self._worker = self.start("env OPENBLAS_NUM_THREADS=1 python3 /opt/worker.py")
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
        self.output_of(f"rm -rf {_place_of_project()} && cd / && cpio -idu", stream.getvalue())
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


def python_version() -> str:
    """Of the Python in the guest: 3.11."""
    found = [path.name for path in packages.tree("userland-root").glob("usr/bin/python3.*")]
    if len(found) != 1:
        raise LookupError(f"the tree userland-root holds {len(found)} versions of Python, not one")
    return found[0].removeprefix("python")


def _place_of_project() -> str:
    return f"/usr/local/lib/python{python_version()}/dist-packages/a64patch"


def project_files() -> dict[str, bytes]:
    """The files of the package a64patch for the guest, as they are in the checkout now."""
    source, place = ROOT / "src/a64patch", _place_of_project()
    found = {}
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.parent.name != "__pycache__":
            name = f"{place}/{path.relative_to(source)}"
            found[name] = path.read_bytes()
            # What Python compiled when somebody imported it here serves again.
            found |= _compiled(name, path, lambda path: SourceFileLoader(path.stem, str(path)).get_code(path.stem))
    return found


def _compiled(name: str, path: Path, code_of: Callable[[Path], CodeType | None]) -> dict[str, bytes]:
    """The .pyc that the guest takes without a look at the source; none when its Python is another than ours."""
    if path.suffix != ".py" or python_version() != f"{sys.version_info.major}.{sys.version_info.minor}":
        return {}
    code = None
    with warnings.catch_warnings(), contextlib.suppress(SyntaxError, ValueError):
        warnings.simplefilter("ignore")
        code = code_of(path)
    if not code:  # what is no module, a template for example
        return {}
    # As PEP 552 says: a hash that nobody checks.
    header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(path.read_bytes())
    folder, _, file = name.rpartition("/")
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    return {f"{folder}/__pycache__/{file[:-3]}.{tag}.pyc": header + marshal.dumps(code)}


def image(addon: str = "") -> Path:
    """The archive with all that stays the same from boot to boot, or with an addon only; built when it is not there.

    Without what can not be had the test is skipped, and fails in CI.
    """
    try:
        return fetch_image(addon)
    except packages.MissingPackageError as error:
        unavailable(str(error))


def fetch_image(addon: str = "") -> Path:
    """As `image`, but MissingPackageError is for the caller."""
    main = packages.fetch_tree("userland-root")
    content = _files_in(main, "")
    if addon:
        held = content
        content = {n: p for n, p in _files_in(packages.fetch_tree(ADDONS[addon]), "").items() if n not in held}
    else:
        content |= _files_in(_fetch_wheels(), "usr/lib/python3/dist-packages/")
    key = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode())
    for name, path in content.items():
        status = path.lstat()
        key.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    with packages.building(f"userland-image-{key.hexdigest()[:16]}") as (folder, place):
        if place:
            with (place / "cpio").open("wb") as stream:
                _write(content, Archive(stream))
    images = packages.cache_directory().glob("arm64/userland-image-*")
    for old in sorted(images, key=lambda path: path.stat().st_mtime_ns)[:-_MOST_IMAGES]:
        shutil.rmtree(old, ignore_errors=True)
    return folder / "cpio"


def _files_in(root: Path, place: str) -> dict[str, Path]:
    """By their paths in the guest, where /bin, /lib and /sbin lead into /usr."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = _TO_USR.sub(r"usr/\1/", f"{place}{path.relative_to(root)}")
        if not _LEFT_OUT.match(name) and (path.is_symlink() or path.is_file()):
            found[name] = path
    return found


def _write(content: Mapping[str, Path], archive: Archive) -> None:
    folders = {"usr/bin", "usr/lib", "usr/sbin", *(str(folder) for name in content for folder in Path(name).parents)}
    parents = {str(parent) for folder in folders for parent in Path(folder).parents}
    for folder in sorted((folders | parents) - {"."}):
        archive.add(folder, stat.S_IFDIR | 0o755, b"")
    for link in ("bin", "lib", "sbin"):
        archive.add(link, stat.S_IFLNK | 0o777, f"usr/{link}".encode())
    for name, path in content.items():
        if path.is_symlink():
            archive.add(name, stat.S_IFLNK | 0o777, os.readlink(path).encode())
            continue
        data = path.read_bytes()
        archive.add(name, stat.S_IFREG | path.stat().st_mode & 0o777, data)
        compiled = _compiled(name, path, lambda path: compile(path.read_bytes(), path.name, "exec"))
        for place, code in compiled.items():
            folder = str(Path(place).parent)
            if folder not in folders:
                folders.add(folder)
                archive.add(folder, stat.S_IFDIR | 0o755, b"")
            archive.add(place, stat.S_IFREG | 0o644, code)
    archive.end()


def _fetch_wheels() -> Path:
    """What a64patch needs at run time, and pyelftools, for the guest's Python: from PyPI, all of it binary or pure."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for name in project["optional-dependencies"]["test"] if name.startswith("pyelftools")),
    ]
    version = python_version()
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
    with packages.building(f"wheels-{version}-{key}") as (root, place):
        if place:
            platforms = [f"--platform=manylinux{name}_aarch64" for name in ("_2_28", "_2_27", "_2_17", "2014")]
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
                    *("--target", str(place), "--only-binary=:all:", "--implementation=cp", *platforms),
                    *(f"--python-version={version}", *wanted),
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
                why = said[-1] if said else done.stderr.strip()[-200:]
                raise packages.MissingPackageError(f"pip got no wheels for arm64 of {' and '.join(wanted)}: {why}")
    return root


_SOCKET = "userland.socket"


def _serve(seconds: float, processor: str, addons: Sequence[str]) -> None:
    """Boot one, and carry out what stdin and the clients ask for, until its time is over."""
    address = packages.cache_directory() / _SOCKET
    address.unlink(missing_ok=True)
    with Userland(processor=processor, addons=addons) as userland, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        print("ready", flush=True)
        over = threading.Timer(seconds, lambda: listener.shutdown(socket.SHUT_RDWR))
        over.daemon = True
        over.start()
        threading.Thread(target=_pass_on, daemon=True).start()
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                with client, client.makefile("rwb") as stream, contextlib.suppress(OSError):
                    head = json.loads(stream.readline())
                    data = stream.read(head["size"])
                    status, output = _answer(userland, head["words"], data)
                    stream.write(b"%d\n%s" % (status, output))
        address.unlink(missing_ok=True)


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


def _pass_on() -> None:
    for line in sys.stdin:
        status = _ask(["run", line])
        if status:
            print(f"status {status}", flush=True)


def _ask(words: Sequence[str], data: bytes = b"", sink: Path | None = None) -> int:
    """Have the one that runs do something; the status, its output to stdout or into a file."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(str(packages.cache_directory() / _SOCKET))
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
    match words:
        case ["run", command]:
            return _ask(["run", command])
        case ["put", file, path]:
            return _ask(["put", path], Path(file).read_bytes())
        case ["fetch", path, file]:
            return _ask(["fetch", path], sink=Path(file))
        case ["refresh"]:
            return _ask(["refresh"])
    parser = argparse.ArgumentParser(prog="python -m tests.real.userland")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--cpu", default="")
    parser.add_argument("--with", dest="addons", action="append", choices=sorted(ADDONS), default=[])
    options = parser.parse_args(words)
    _serve(options.seconds, options.cpu, options.addons)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

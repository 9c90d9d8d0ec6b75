"""A real arm64 Linux in a virtual machine: Debian's kernel, its modules and busybox under qemu-system-aarch64.

Kernel messages, commands and gdbserver have a channel each, so that none garbles another.
Read on: packages.py for where the files come from; conftest.py for the fixtures that boot as few guests as possible.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.real import packages
from tests.support import GUARD_SECONDS, need, run

CPUS = 4
MEMORY = 1024
"""MiB."""
PROCESSOR = "cortex-a72"
PROCESSOR_16K = "neoverse-n1"
"""One whose pages may have 16 KiB. Those of a Cortex-A72 have 4 or 64 KiB."""


AGENT = "/opt/agent"
"""A program of the guest: where it is, it carries out the commands in place of a shell. See userland_agent.c."""
LATE = 256
"""What it says in place of the exit status of a command that took too long."""

_MOST_CONSOLE = 1 << 22
_MOST_OUTPUT = 1 << 27
_ALWAYS = ("virtio_mmio", "virtio_console")

_TROUBLE = re.compile(
    r"Internal error|Kernel panic|BUG:|WARNING:|Oops|Unable to handle kernel|soft lockup|rcu_\w+ (self-)?detected stall"
)

_INIT = """\
#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t debugfs debugfs /sys/kernel/debug
exec </dev/null >/dev/console 2>&1
set -x
for module in {modules}; do insmod /modules/$module.ko; done
until grep -qs 'host_connected: 1' /sys/kernel/debug/virtio-ports/vport0p1; do sleep 0.01; done
exec 3<>/dev/vport0p1
echo ready >&3
set +x
[ ! -x {agent} ] || exec {agent}
while read -r command input unused <&3; do
    head -c "$((command + input))" <&3 >/tmp/request
    head -c "$command" /tmp/request >/tmp/command
    tail -c "$input" /tmp/request >/tmp/input
    rm -f /tmp/output
    sh /tmp/command </tmp/input >/tmp/output 2>&1 3>&-
    status=$?
    size=$(stat -c %s /tmp/output)
    echo "$status $size" >&3
    head -c "$size" /tmp/output >&3
done
poweroff -f
"""


def qemu_version(tool: str, package: str) -> tuple[int, int]:
    """Of one of QEMU's programs, which the Debian package holds: (7, 2)."""
    match = re.search(r" version (\d+)\.(\d+)", run(need(tool, package), "--version"))
    assert match is not None
    return int(match[1]), int(match[2])


def tells_what_it_halted() -> bool:
    """A client of QEMU's stub hears whether the machine ran before it came: until 8.1 (QEMU commit 758370052fb)."""
    return qemu_version("qemu-system-aarch64", "qemu-system-arm") < (8, 1)


class GuestError(Exception):
    """The guest did not boot, a command failed in it, or it did not answer in time; with what it said last."""


def build_initramfs(
    files: Mapping[str, bytes | Path],
    path: Path,
    *,
    modules: Iterable[str] = (),
    tree: packages.KernelTree | None = None,
    bases: Sequence[Path] = (),
) -> Path:
    """A cpio archive (newc, not compressed) at `path`: /init, busybox, modules in the order to load, and `files`.

    `bases` are other such archives, which the kernel unpacks first: with the folder /usr, and links to it in /.

    `files` are by their absolute path in the guest. Everything in it may be executed and has the time 0, so equal
    files make equal archives. Names of modules are the kernel's: `ext4`; what they depend on is added, and one that is
    built in is left out. They are those of the kernel in `tree`, else of the newest kernel.
    """
    tree = tree or packages.newest_kernel()
    ordered = _with_dependencies([*_ALWAYS, *modules], tree)
    contents: dict[str, bytes | Path] = {
        "/init": _INIT.format(modules=" ".join(ordered), agent=AGENT).encode(),
        "/bin/busybox": packages.file_of("busybox-static", "bin/busybox"),
        "/bin/sh": b"",
    }
    contents |= {f"/modules/{name}.ko": tree.module(name) for name in ordered}
    contents |= files
    with path.open("wb") as archive:
        writer = Archive(archive)
        made: set[str] = set()
        for base in bases:
            with base.open("rb") as first:
                shutil.copyfileobj(first, archive, 1 << 20)
            made |= {"/bin", "/lib", "/sbin"}  # links: a folder would take their place
        for name, content in contents.items():
            for folder in reversed(Path(name).parents[:-1]):
                if str(folder) not in made:
                    made.add(str(folder))
                    writer.add(str(folder), stat.S_IFDIR | 0o755, b"")
            if name == "/bin/sh":
                writer.add(name, stat.S_IFLNK | 0o777, b"busybox")
            else:
                data = content.read_bytes() if isinstance(content, Path) else content
                writer.add(name, stat.S_IFREG | 0o755, data)
        writer.add("/dev", stat.S_IFDIR | 0o755, b"")
        writer.add("/dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1))
        writer.end()
    return path


class Archive:
    """Writes the newc format: see Documentation/driver-api/early-userspace/buffer-format.rst of the kernel."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._number = stream, 0

    def add(self, name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        """A file, folder, link or device by its path; `mode` as in stat(2), `data` of a link is where it leads."""
        self._number += 1
        encoded = name.lstrip("/").encode() + b"\0"
        numbers = (self._number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        self._put(b"070701" + b"".join(b"%08x" % number for number in numbers) + encoded)
        self._put(data)

    def end(self) -> None:
        """Nothing may be added afterwards."""
        self.add("TRAILER!!!", 0, b"")

    def _put(self, data: bytes) -> None:
        self._stream.write(data + bytes(-len(data) % 4))


def _with_dependencies(names: Iterable[str], tree: packages.KernelTree) -> list[str]:
    """Modules in an order in which they can be loaded, by the `depends=` of their .modinfo sections."""
    ordered: list[str] = []

    def visit(name: str) -> None:
        name = name.replace("-", "_")
        if name in ordered or tree.is_built_in(name):
            return
        match = re.search(rb"\0depends=([\w,-]*)\0", tree.module(name))
        for needed in match[1].decode().split(",") if match else []:
            if needed:
                visit(needed)
        ordered.append(name)

    for name in names:
        visit(name)
    return ordered


class Guest:
    """A running guest with four CPUs: boots as it is made, ends when its block is left or this process dies.

        with Guest(modules=["dummy"], files={"/bin/load": path}) as guest:
            guest.run("cat /proc/uptime")               # what it wrote, both streams, as text
            with guest.load("while :; do cat /proc/uptime; done"):   # one on each CPU until the block ends
                open_target(guest.gdb)                  # QEMU's stub: the whole machine
            guest.require_healthy()                     # no oops, no warning, no stall on the console

    `files` are put into the guest by their absolute path there: programs (see `compile_program`), .ko files.
    `modules` are loaded at boot, with what they depend on; `insmod` works in the guest as well. `kaslr` places the
    kernel at random, as machines do. `symbols()` is the guest's /proc/kallsyms with real addresses. `gdb_tcp` makes
    `gdb` a gdb://127.0.0.1:PORT instead of gdb+unix:PATH. `halted` starts it with -S: it executes
    nothing until somebody lets it go; see `await_ready`. `kernel` is another Image than Debian's, `tree` another kernel
    than the newest one with its modules. `processor` and `machine` are QEMU's, with their properties. `bases` are
    those of `build_initramfs`, `memory` counts MiB.
    `gdbserver` serves one process of the guest. `runs` asks QEMU whether the CPUs run, without halting them.

    While a debugger holds the machine stopped no command is answered: `run` then fails after its time. Each wait is
    bounded by `seconds`; after a wait that was too long the guest cannot be used any more. Commands run one at a time;
    the methods may not be called from two threads at once.
    """

    def __init__(
        self,
        *,
        files: Mapping[str, bytes | Path] | None = None,
        modules: Iterable[str] = (),
        kaslr: bool = True,
        gdb_tcp: bool = False,
        command_line: str = "",
        kernel: Path | None = None,
        tree: packages.KernelTree | None = None,
        halted: bool = False,
        processor: str = "",
        machine: str = "virt",
        bases: Sequence[Path] = (),
        memory: int = MEMORY,
        seconds: float = GUARD_SECONDS,
    ) -> None:
        qemu = need("qemu-system-aarch64", "qemu-system-arm")
        tree = tree or packages.newest_kernel()
        kernel = kernel or tree.image
        if not processor:
            is_16k = kernel.name.endswith("-16k") or tree.root.name.endswith("-16k")
            processor = PROCESSOR_16K if is_16k else PROCESSOR
        # A temporary directory of its own: the path of a unix socket may have 107 bytes only.
        self.directory = Path(tempfile.mkdtemp(prefix="a64patch-guest-"))
        self._console = bytearray()
        self._lost = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._control, far = socket.socketpair()
        self._monitor, monitored = socket.socketpair()
        try:
            archive = build_initramfs(
                files or {}, self.directory / "initramfs", modules=modules, tree=tree, bases=bases
            )
            listener, self.gdb = self._listen("stub", tcp=gdb_tcp)
            append = f"console=ttyAMA0 panic=-1 {'' if kaslr else 'nokaslr '}{command_line}".strip()
            server, self._gdbserver = self._listen("gdbserver", tcp=False)
            with far, monitored, listener, server:
                self._process = subprocess.Popen(
                    [
                        # The kernel ends it when this process dies, however that happens.
                        *("setpriv", "--pdeathsig", "KILL", qemu),
                        *("-M", machine, "-cpu", processor, "-smp", str(CPUS), "-m", str(memory)),
                        *("-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"),
                        *("-kernel", str(kernel), "-initrd", str(archive), "-append", append),
                        *("-chardev", f"socket,id=gdb,fd={listener.fileno()},server=on,wait=off"),
                        *("-gdb", "chardev:gdb"),
                        *(["-S"] if halted else []),
                        *("-chardev", f"socket,id=monitor,fd={monitored.fileno()}"),
                        *("-mon", "chardev=monitor,mode=control"),
                        *("-device", "virtio-serial-device"),
                        *("-chardev", f"socket,id=control,fd={far.fileno()}"),
                        *("-device", "virtserialport,nr=1,chardev=control"),
                        *("-chardev", f"socket,id=gdbserver,fd={server.fileno()},server=on,wait=off"),
                        *("-device", "virtserialport,nr=2,chardev=gdbserver"),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(listener.fileno(), far.fileno(), monitored.fileno(), server.fileno()),
                )
            self._reader = threading.Thread(target=self._collect, daemon=True)
            self._reader.start()
            self._monitor.settimeout(GUARD_SECONDS)
            self._answers = self._monitor.makefile("r", encoding="utf-8")
            self._answers.readline()
            self._ask_monitor("qmp_capabilities")
            if not halted:
                self.await_ready(seconds=seconds)
                archive.unlink()  # 10 MB that a killed process would leave behind
        except BaseException:
            self.close()
            raise

    def await_ready(self, *, seconds: float = GUARD_SECONDS) -> None:
        """Wait until it has booted; GuestError when it does not in time."""
        self._deadline = time.monotonic() + seconds
        if self._line() != "ready":
            raise self._lose("said something else than that it is ready")

    def _listen(self, name: str, *, tcp: bool) -> tuple[socket.socket, str]:
        """A listening socket, which QEMU inherits, and the target's name for it."""
        if tcp:
            listener = socket.create_server(("127.0.0.1", 0))
            return listener, f"gdb://127.0.0.1:{listener.getsockname()[1]}"
        path = str(self.directory / name)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        return listener, f"gdb+unix:{path}"

    def _collect(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while data := os.read(self._process.stdout.fileno(), 65536):
            self._console += data[: max(0, _MOST_CONSOLE - len(self._console))]

    @property
    def console(self) -> str:
        """What the kernel wrote to its console so far, at most 4 MiB."""
        return bytes(self._console).decode("utf-8", "replace").replace("\r\n", "\n")

    @property
    def usable(self) -> bool:
        """The virtual machine runs, and answered every command in time so far."""
        return not self._lost and self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process of the virtual machine."""
        assert self._process is not None
        return self._process.pid

    def runs(self) -> bool:
        """The CPUs are not halted, as QEMU's own monitor (QMP) says; a gdb client that connects halts them."""
        answer = self._ask_monitor("query-status")
        assert isinstance(answer, dict)
        return bool(answer["running"])

    def _ask_monitor(self, command: str) -> object:
        self._monitor.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while "return" not in (answer := json.loads(self._answers.readline())):
            assert "event" in answer, answer
        return answer["return"]

    def require_healthy(self) -> None:
        """GuestError when the console tells of an oops, a warning, a lockup or a stall."""
        for line in self.console.splitlines():
            if _TROUBLE.search(line):
                raise GuestError(f"the guest's kernel is in trouble: {line}\n{self.console[-4000:]}")

    def run(self, command: str, *, seconds: float = GUARD_SECONDS, check: bool = True) -> str:
        """What a shell command in the guest wrote, to either stream; GuestError when its status is not 0."""
        return self.run_bytes(command, seconds=seconds, check=check).decode("utf-8", "replace")

    def run_bytes(self, command: str, *, seconds: float = GUARD_SECONDS, check: bool = True) -> bytes:
        """As `run`, for output that is no text."""
        status, output = self.execute(command, seconds=seconds)
        if check and status:
            raise GuestError(
                f"{command!r} ended with status {status} in the guest:\n{output.decode('utf-8', 'replace')}"
            )
        return output

    def execute(
        self, command: str, stdin: bytes = b"", *, seconds: float = GUARD_SECONDS, limit: float = 0
    ) -> tuple[int, bytes]:
        """The status of a shell command in the guest, and what it wrote to either stream until it ended.

        AGENT kills it, with all of its session, after `limit` seconds: then its status is LATE.
        """
        if self._lost:
            raise GuestError(f"the guest {self._lost} before, so it cannot run {command!r}")
        self._deadline = time.monotonic() + seconds
        text = command.encode()
        self._send(b"%d %d %d\n" % (len(text), len(stdin), 1000 * (limit or seconds)) + text + stdin)
        answer = self._line()
        match = re.fullmatch(r"([0-9]{1,3}) ([0-9]{1,9})", answer)
        if not match or int(match[2]) > _MOST_OUTPUT:
            raise self._lose(f"answered {answer[:80]!r} to {command!r}")
        return int(match[1]), self._receive(int(match[2]))

    def symbols(self) -> str:
        """The guest's /proc/kallsyms, as root sees it with kptr_restrict 0."""
        self.run("echo 0 >/proc/sys/kernel/kptr_restrict")
        return self.run("cat /proc/kallsyms")

    @contextlib.contextmanager
    def load(self, script: str, *, cpus: Iterable[int] = range(CPUS)) -> Iterator[None]:
        """Run a shell script in the background on each of these CPUs, its output thrown away, until the block ends."""
        groups = []
        for cpu in cpus:
            pinned = f"taskset -c {cpu} sh -c {shlex.quote(script)}"
            groups.append(self.run(f"setsid {pinned} </dev/null >/dev/null 2>&1 & echo $!").strip())
        try:
            yield
        finally:
            for group in groups:
                self.run(f"kill -KILL -{group}", check=False)

    @contextlib.contextmanager
    def gdbserver(self, program: str, *, options: str = "") -> Iterator[str]:
        """Debian's gdbserver in the guest, for a program with its arguments or `--attach PID`; yields a gdb+unix: spec.

        It starts with the first client that connects, and ends when that one detaches; a client that only disconnects
        leaves it waiting for the next one, the process stopped. The block ends it in any case. What it and a program
        of its own say is in /tmp/gdbserver.log of the guest. The guest must have been made with
        `files=gdbserver_files()` and the program, static ones best.
        """
        with self.stub(f"gdbserver {options} /dev/vport0p2 {program}") as where:
            yield where

    @contextlib.contextmanager
    def stub(self, server: str) -> Iterator[str]:
        """As `gdbserver`, for a command that serves a GDB client on /dev/vport0p2, which may be opened once."""
        connected = "grep -qs 'host_connected: 1' /sys/kernel/debug/virtio-ports/vport0p2"
        script = f"until {connected}; do sleep 0.02; done; exec {server}"
        command = f"setsid sh -c {shlex.quote(script)} </dev/null >/tmp/gdbserver.log 2>&1 & echo $!"
        group = self.run(command).strip()
        try:
            yield self._gdbserver
        finally:
            self.run(f"kill -KILL -{group}", check=False)

    def _send(self, data: bytes) -> None:
        try:
            self._control.settimeout(max(0.001, self._deadline - time.monotonic()))
            self._control.sendall(data)
        except OSError as error:
            raise self._lose("took no command") from error

    def _receive(self, size: int, until: Callable[[bytearray], bool] | None = None) -> bytes:
        received = bytearray()
        while len(received) < size and not (until and until(received)):
            left = self._deadline - time.monotonic()
            try:
                self._control.settimeout(max(0.001, left))
                data = self._control.recv(1 if until else min(size - len(received), 1 << 20))
            except OSError as error:
                raise self._lose("did not answer in time") from error
            if not data:
                raise self._lose("ended")
            received += data
        return bytes(received)

    def _line(self) -> str:
        return (
            self._receive(80, until=lambda received: received.endswith(b"\n")).decode("ascii", "replace").rstrip("\n")
        )

    def _lose(self, how: str) -> GuestError:
        self._lost = how
        return GuestError(f"the guest {how}; the end of its console:\n{self.console[-4000:]}")

    def power_off(self, *, seconds: float = GUARD_SECONDS) -> None:
        """Let the guest power itself off; GuestError when it does not."""
        assert self._process is not None
        self._deadline = time.monotonic() + seconds
        self._send(b"11 0 1000\npoweroff -f")
        try:
            self._process.wait(seconds)
            self._lost = "powered off"
        except subprocess.TimeoutExpired:
            raise self._lose("did not power off") from None

    def close(self) -> None:
        """End the virtual machine, whatever it does at the moment."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._reader.join()
                self._process.stdout.close()
        self._control.close()
        self._monitor.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def gdbserver_files() -> dict[str, bytes | Path]:
    """Debian's arm64 gdbserver and the libraries that it needs, for `Guest(files=...)`."""
    root = packages.tree("gdbserver-root")
    found: dict[str, bytes | Path] = {"/bin/gdbserver": root / "usr/bin/gdbserver"}
    for name in ("ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6"):
        found[f"/lib/{name}"] = next(root.rglob(f"aarch64-linux-gnu/{name}"))
    return found


def compile_program(source: str, path: Path, *options: str) -> Path:
    """A static arm64 program made from C; threads and symbols included."""
    compiler = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    run(compiler, "-static", "-O1", "-g", "-pthread", *options, "-x", "c", "-o", path, "-", stdin=source)
    return path

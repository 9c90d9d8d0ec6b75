"""The guest with a userland is what other tests take it for: Debian's Python, a64patch and programs run in it."""

from __future__ import annotations

import json
import os
import shlex
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from a64patch.version import VERSION
from tests.real import packages, userland_image
from tests.real.guest import GuestError, compile_program
from tests.real.userland import PROCESSOR_MAX, Userland, carry_out, listening, main
from tests.support import eventually

EVERY_BYTE = bytes(range(256)) * 4096
"""1 MiB."""


def test_kernel_is_the_newest_one(userland: Userland) -> None:
    release = next(packages.newest_kernel().root.rglob("modules.builtin")).parent.name
    assert userland.run("uname -r") == (0, f"{release}\n")


@pytest.mark.parametrize("status", [0, 1, 3, 124, 137, 255])
def test_status_is_exact(userland: Userland, status: int) -> None:
    assert userland.run(f"echo no end of line | tr -d '\\n'; exit {status}") == (status, "no end of line")


def test_status_of_a_killed_program_is_that_of_a_shell(userland: Userland) -> None:
    assert userland.run("sh -c 'kill -SEGV $$'").status == 128 + 11


def test_output_is_exact(userland: Userland) -> None:
    assert userland.run_bytes("cat", EVERY_BYTE) == (0, EVERY_BYTE)
    assert userland.run("echo to stderr >&2; echo ready; printf '0 5\\n'") == (0, "to stderr\nready\n0 5\n")
    assert userland.run("cat; true") == (0, "")


def test_what_a_command_leaves_running_does_not_garble_the_next_output(userland: Userland) -> None:
    pid = userland.output_of("while :; do echo garbage; sleep 0.01; done & echo $!").splitlines()
    pids = [line for line in pid if line != "garbage"]
    try:
        for number in range(3):
            assert userland.run(f"echo {number}") == (0, f"{number}\n")
    finally:
        userland.run(f"kill -KILL {pids[0]}")


def test_files(userland: Userland) -> None:
    userland.put("/tmp/a file", EVERY_BYTE)
    assert userland.fetch("/tmp/a file") == EVERY_BYTE
    userland.output_of("rm '/tmp/a file'")
    with pytest.raises(GuestError, match="No such file"):
        userland.fetch("/tmp/a file")
    with pytest.raises(GuestError, match="status 1 in the guest"):
        userland.put("/no/such/folder", b"")


def test_command_that_takes_too_long_is_killed_with_what_it_started(userland: Userland) -> None:
    with pytest.raises(GuestError, match=r"(?s)did not end within 2 s; the end of what it wrote:\nthe last words\n$"):
        userland.run("echo the last words; sh -c 'exec sleep 987' & sleep 987", seconds=2)
    assert eventually(lambda: userland.run("pidof sleep").status == 1)
    assert userland.run("echo usable") == (0, "usable\n")


def test_background_command_has_the_pid_of_the_program(userland: Userland) -> None:
    started = userland.start("sleep 986")
    assert userland.fetch(f"/proc/{started.pid}/cmdline") == b"sleep\x00986\x00"
    userland.output_of(f"kill -KILL {started.pid}")
    assert eventually(lambda: userland.run(f"ls /proc/{started.pid}").status == 1), "nobody waited for it"
    started = userland.start("echo kept")
    assert eventually(lambda: userland.fetch(started.log) == b"kept\n")


def test_a64patch_runs_as_in_the_checkout(userland: Userland) -> None:
    words = "d503201f\nd65f03c0\n"
    assert userland.run("python3 -m a64patch --version") == (0, f"a64patch {VERSION}\n")
    assert userland.run("a64patch asm 'nop; ret'") == (0, words)
    assert userland.a64patch("asm", "nop; ret") == (0, words)
    status, output = userland.a64patch("asm", "no such instruction")
    assert status == 2
    assert output.startswith("a64patch: ")


def test_scripts_of_python(userland: Userland, tmp_path: Path) -> None:
    script = tmp_path / "sum.py"
    script.write_text(
        "import json, sys\nprint('on the way')\nprint(json.dumps([__file__, sum(map(int, sys.argv[1:]))]))\n"
    )
    assert userland.python(script, 40, 2)[1] == 42
    assert userland.python("import platform, json; print(json.dumps(platform.machine()))") == "aarch64"
    assert userland.python("import os; print(os.getpid())") != userland.python("import os; print(os.getpid())")
    with pytest.raises(GuestError, match=r"(?s)status 1 in the guest.*ZeroDivisionError"):
        userland.python("1 / 0")
    with pytest.raises(GuestError, match=r"(?s)status 7 in the guest"):
        userland.python("raise SystemExit(7)")
    with pytest.raises(GuestError, match=r"(?s)status 1 in the guest.*a sentence"):
        userland.python("raise SystemExit('a sentence')")
    with pytest.raises(GuestError, match="status 139"):
        userland.python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(GuestError, match="no JSON"):
        userland.python("print('words')")
    with pytest.raises(GuestError, match=r"(?s)within 5 s.*last words"):
        userland.python("import time; print('last words', flush=True); time.sleep(600)", seconds=5)
    with pytest.raises(GuestError, match="within 1 s"):
        userland.python("import time; time.sleep(600)", seconds=1)
    assert userland.python("print(1)") == 1


def test_a64patch_can_be_put_in_anew(userland: Userland) -> None:
    place = userland_image.place_of_project()
    userland.output_of(f"echo 'raise SystemExit(9)' >{place}/__init__.py; rm -rf {place}/__pycache__")
    assert userland.run("a64patch --version").status == 9
    userland.refresh()
    assert userland.run("a64patch --version") == (0, f"a64patch {VERSION}\n")
    assert userland.a64patch("--version") == (0, f"a64patch {VERSION}\n")


def test_commands_by_hand(
    userland: Userland, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("A64PATCH_CACHE", str(tmp_path))

    def command(*words: str) -> tuple[int, bytes]:
        return main(["--name", "hand", *words]), capfdbinary.readouterr().out

    with listening("hand") as listener:
        server = threading.Thread(target=carry_out, args=(userland, listener))
        server.start()
        try:
            with socket.socket(socket.AF_UNIX) as nobody:
                nobody.connect(str(tmp_path / "hand.socket"))
            assert command("run", "echo said; exit 7") == (7, b"said\n")
            (tmp_path / "there").write_bytes(EVERY_BYTE)
            assert command("put", str(tmp_path / "there"), "/tmp/by hand") == (0, b"")
            assert command("fetch", "/tmp/by hand", str(tmp_path / "back")) == (0, b"")
            assert (tmp_path / "back").read_bytes() == EVERY_BYTE
            status, said = command("fetch", "/tmp/no such file", str(tmp_path / "not"))
            assert status == 1
            assert b"No such file" in said
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()


def test_scripts_of_python_run_in_the_same_environment_as_commands(userland: Userland) -> None:
    modules = ("numpy", "rich", "elftools", "a64patch")
    script = f"import json; print(json.dumps([__import__(name).__file__ for name in {modules}]))"
    assert json.loads(userland.output_of(f"python3 -c {shlex.quote(script)}")) == userland.python(script)


def test_compiled_programs_run(boot_userland: Callable[..., Userland], tmp_path: Path) -> None:
    program = compile_program('#include <stdio.h>\nint main(void) { puts("hello from C"); }', tmp_path / "hello")
    with_authentication = boot_userland(processor=PROCESSOR_MAX, files={"/opt/hello": program})
    assert with_authentication.run("/opt/hello") == (0, "hello from C\n")
    assert {"paca", "pacg", "bti"} <= set(with_authentication.output_of("cat /proc/cpuinfo").split())
    with_authentication.put("/opt/later", program.read_bytes())
    assert with_authentication.run("/opt/later") == (0, "hello from C\n")
    assert with_authentication.run("a64patch asm nop") == (0, "d503201f\n")
    with_authentication.guest.require_healthy()


def test_wheels_that_cannot_be_had_are_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    version = userland_image.python_version()
    monkeypatch.setattr(userland_image, "python_version", lambda: version)
    monkeypatch.setenv("A64PATCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(packages.MissingPackageError, match=r"^pip got no wheels for arm64 of numpy.*: ERROR: .*$"):
        userland_image._fetch_wheels()
    assert not list(tmp_path.glob("arm64/wheels-*"))


def test_kernel_takes_what_its_command_line_says(boot_userland: Callable[..., Userland]) -> None:
    with_module = boot_userland(command_line="proc_mem.force_override=never", modules=["dummy"])
    assert "proc_mem.force_override=never" in with_module.fetch("/proc/cmdline").decode().split()
    assert "dummy" in with_module.output_of("lsmod")


def test_debians_programs_run(userland: Userland) -> None:
    redis = userland.start("redis-server --save ''")
    try:
        assert eventually(lambda: userland.run("redis-cli ping") == (0, "PONG\n"))
    finally:
        userland.output_of(f"kill -KILL {redis.pid}")
    assert userland.run("python3 -c 'import sys; print(sys.version_info >= (3, 11))'") == (0, "True\n")

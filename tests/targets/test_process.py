"""Which processes are targets, as far as any machine can say it. ../real/test_live_process.py has the rest."""

from __future__ import annotations

import os

import pytest

from a64patch import open_target
from a64patch.errors import A64PatchError, CapabilityError, RequestError


@pytest.mark.parametrize("text", ["pid:", "pid:0", "pid:-1", "pid:one", "pid:1 2", "pid:99999999999", "pid:\u0661"])
def test_a_process_is_named_by_its_number(text: str) -> None:
    with pytest.raises(RequestError, match="does not name a process: write pid: and the process's number"):
        open_target(text)


@pytest.mark.parametrize(("system", "machine"), [("Linux", "x86_64"), ("Darwin", "arm64"), ("Linux", "armv8l")])
def test_only_arm64_linux_has_processes(system: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((system, *here[1:4], machine)))
    with pytest.raises(
        CapabilityError, match=f"on arm64 Linux only; this is {system} on {machine}: run a64patch on the"
    ):
        open_target("pid:1")


def test_a64patch_does_not_stop_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", *here[1:4], "aarch64")))
    with pytest.raises(CapabilityError, match="is a64patch itself"):
        open_target(f"pid:{os.getpid()}")


def test_a_process_without_executable_code_of_arm64_is_refused_or_has_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulator runs on this machine: its own code is not A64."""
    here = os.uname()
    if here.machine == "aarch64":
        pytest.skip("every process here has A64 code")
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", *here[1:4], "aarch64")))
    parent = os.getppid()
    try:
        with open_target(f"pid:{parent}") as target:
            assert [module.name for module in target.modules if module.symbols.load()] == []
    except A64PatchError as error:
        assert str(parent) in str(error)  # noqa: PT017

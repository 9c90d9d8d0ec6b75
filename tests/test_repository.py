"""What must not be in the repository: binaries, names of package registry hosts, paths of somebody's home."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.support import ROOT, need, unavailable

REGISTRY_HOST = re.compile(
    r"\b(?:pypi|pythonhosted|(?:registry|index|proxy)\.\w+|crates|rubygems"
    r"|(?:deb|ftp|security|snapshot)\.debian|(?:archive|ports|security)\.ubuntu)\.(?:org|com|io)\b"
)
HOME_PATH = re.compile(r"(?<![\w.})$])/(?:(?:home|Users)/\w|root/)")


def problems(content: bytes) -> list[str]:
    """What is wrong with a file of this content."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return ["is binary"]
    if "\0" in text:
        return ["is binary"]
    found = [f"names a package registry: {match[0]}" for match in REGISTRY_HOST.finditer(text)]
    return found + [f"names a home directory: {match[0]}" for match in HOME_PATH.finditer(text)]


@pytest.mark.fresh("git")
def test_files_are_clean() -> None:
    git = need("git", "git")
    if not (ROOT / ".git").exists():
        unavailable("this is not a git checkout: clone the repository")
    # Also what is not committed yet, and whoever owns the checkout.
    command = [git, "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().rstrip("\0").split("\0")
    files = {name: ROOT / name for name in listed if (ROOT / name).is_file()}
    assert "pyproject.toml" in files
    assert {name: found for name, path in files.items() if (found := problems(path.read_bytes()))} == {}


def test_each_package_that_is_installed_is_needed_in_a_fresh_root() -> None:
    """Otherwise .ci/run would not notice that one is no longer installed."""
    table = re.search(r"<<EOF\n(.*?)^EOF", (ROOT / "scripts/test").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert table
    installed = {line.split()[1] for line in table[1].splitlines()}
    needed = {
        package
        for path in (ROOT / "tests").rglob("test_*.py")
        for marked in re.findall(r"mark\.fresh\(([^)]*)\)", path.read_text("utf-8"))
        for package in re.findall(r'"([^"]+)"', marked)
    }
    assert len(installed) > 8
    assert installed <= needed


@pytest.mark.parametrize(
    "content",
    [
        b"\x7fELF\2\1\1\0",
        b"\xff\xfe",
        b"pip install --index-url https://py" + b"pi.org/simple",
        b"https://files.python" + b"hosted.org/x.whl",
        b"URIs: http://deb." + b"debian.org/debian",
        b"cd /ro" + b"ot/a64patch",
        b"PATH=/ho" + b"me/me/bin",
    ],
)
def test_each_rule_can_fail(content: bytes) -> None:
    assert len(problems(content)) == 1


@pytest.mark.parametrize("content", [b"", "ångström\n".encode(), b"https://example.org/", b"sysroot/root/lib"])
def test_what_is_allowed(content: bytes) -> None:
    assert problems(content) == []

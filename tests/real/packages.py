"""Debian packages of architecture arm64, unpacked in a cache outside the repository: real code to test against.

apt downloads and verifies them from the sources that this machine has configured, but with a state of its own: neither
the machine's architectures nor its lists change. `python -m tests.real.packages` gets all that the tests need.
"""

from __future__ import annotations

import fcntl
import functools
import lzma
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support import unavailable

KERNEL = "linux-image-arm64"
"""The newest kernel: its Image under the name boot/vmlinuz-*, and its modules."""

NEEDED = ("libc6", "coreutils", "hello", "busybox-static", "libssl3", "musl", "musl-dev", KERNEL)

TREES = {
    "sysroot": ("libc6", "coreutils"),
    "gdbserver-root": ("gdbserver",),
    "userland-root": ("python3", "redis-server"),
    "gdb-root": ("gdb",),
}
"""Packages that are unpacked into one tree, together with what they depend on for work."""

ON_DEMAND = ("gdb-root",)
"""Trees that no test needs."""

_TO_INSTALL = re.compile(
    r"adduser|base-passwd|debconf|dpkg|init-system-helpers|libaudit.*|libcap-ng0|libdb5.*|libdebconf.*|libgdbm.*|lib.*perl.*"
    r"|libpam.*|libsem.*|libsepol.*|login.*|lsb-base|netbase|passwd|perl.*|sysvinit-utils|tar|tzdata|ucf|usrmerge"
)
"""Packages that others depend on only while they are installed or for their services: no tree holds them."""

_OTHER_NAMES = {"libssl3": "libssl3t64"}
"""Packages that newer releases renamed."""


class MissingPackageError(Exception):
    """A package could not be had; one sentence why."""


def unpacked(package: str) -> Path:
    """The root of the unpacked package, without its dependencies. Shared by all tests: copy what you change."""
    try:
        return fetch(package)
    except MissingPackageError as error:
        unavailable(str(error))


def tree(name: str) -> Path:
    """The root of one of TREES, which `qemu-aarch64 -L` takes. Shared by all tests."""
    try:
        return fetch_tree(name)
    except MissingPackageError as error:
        unavailable(str(error))


def sysroot() -> Path:
    """The tree with libc6 and coreutils."""
    return tree("sysroot")


def file_of(package: str, pattern: str) -> Path:
    """The one file of a package that the glob pattern means, wherever the release stands with merging /usr."""
    root = unpacked(package)
    pattern = pattern.removeprefix("/").removeprefix("usr/")
    found = [*root.glob(pattern), *root.glob(f"usr/{pattern}")]
    if len(found) != 1:
        raise LookupError(f"{package} holds {len(found)} files {pattern}, not one")
    return found[0]


class KernelTree:
    """The Image and the modules of a kernel whose packages are unpacked in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def image(self) -> Path:
        """The Image: in boot, or since Debian's 7.2 beside the modules."""
        found = [path for path in self.root.rglob("vmlinuz*") if path.is_file() and not path.is_symlink()]
        if len(found) != 1:
            raise LookupError(f"{self.root} holds {len(found)} files vmlinuz*, not one")
        return found[0]

    @cached_property
    def modules(self) -> dict[str, Path]:
        """The files of the modules, by name with `_` for each `-`."""
        return {path.name.partition(".ko")[0].replace("-", "_"): path for path in self.root.rglob("*.ko*")}

    def module(self, name: str) -> bytes:
        """The ELF file of a module, decompressed; `-` and `_` in its name are the same. LookupError without one."""
        path = self.modules.get(name.replace("-", "_"))
        if path is None:
            raise LookupError(f"{self.root} has no module {name}")
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data

    def is_built_in(self, module: str) -> bool:
        """The kernel holds this module itself, as its modules.builtin says: there is no file to load."""
        listed = next(self.root.rglob("modules.builtin")).read_text("ascii")
        return f"/{module}.ko\n".replace("_", "-") in listed.replace("_", "-")


def newest_kernel() -> KernelTree:
    """The newest kernel of this machine's release."""
    return KernelTree(unpacked(KERNEL))


def read_kernel_module(name: str) -> bytes:
    """As `KernelTree.module`, of the newest kernel."""
    return newest_kernel().module(name)


def cache_directory() -> Path:
    chosen = os.environ.get("A64PATCH_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "a64patch"


def fetch(package: str) -> Path:
    """As `unpacked`, but MissingPackageError is for the caller."""
    with building(package) as (root, place):
        if place:
            unpack(_apt().download([_apt().resolve(package)]), place)
    return root


def fetch_sysroot() -> Path:
    """As `sysroot`, but MissingPackageError is for the caller."""
    return fetch_tree("sysroot")


def fetch_tree(name: str) -> Path:
    """As `tree`, but MissingPackageError is for the caller."""
    with building(name) as (root, place):
        if place:
            unpack(_apt().download(_apt().with_dependencies(TREES[name])), place)
            for folder in ("bin", "lib", "sbin"):  # the links of a release with merged /usr, where libc6 has none
                if not (place / folder).exists():
                    (place / folder).symlink_to(f"usr/{folder}")
    return root


@contextmanager
def building(name: str) -> Iterator[tuple[Path, Path | None]]:
    """Where a tree is, and where to build it when it is not there; it takes its name only when it is whole."""
    trees = cache_directory() / "arm64"
    root = trees / name
    if root.is_dir():
        yield root, None
        return
    trees.mkdir(parents=True, exist_ok=True)
    with (trees / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.is_dir():  # another process built it meanwhile
            yield root, None
            return
        for left in trees.glob(".unpacking-*"):  # by a process that was killed
            shutil.rmtree(left)
        with TemporaryDirectory(prefix=".unpacking-", dir=trees) as directory:
            place = Path(directory) / name
            place.mkdir()
            yield root, place
            place.rename(root)


def unpack(archives: Sequence[Path], directory: Path) -> None:
    for archive in archives:
        done = _run("dpkg-deb", "-x", str(archive), str(directory))
        if done.returncode:
            raise MissingPackageError(f"could not unpack {archive.name}: {_complaint(done)}")
        archive.unlink()


class Apt:
    """apt-get for arm64 only, its state in a temporary directory.

    `sources` are the lines of a sources.list; without them, those of this machine.
    """

    def __init__(self, sources: Sequence[str] = ()) -> None:
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise MissingPackageError("tests against real arm64 packages need a Debian machine: there is no apt-get")
        self._directory = TemporaryDirectory(prefix="a64patch-apt-")
        base = Path(self._directory.name)
        self._archives = base / "archives"
        for directory in (base / "lists/partial", base / "cache/archives/partial", self._archives):
            directory.mkdir(parents=True)
        (base / "status").touch()
        # As root apt downloads as the user _apt, who must get at these directories.
        base.chmod(0o755)
        if os.geteuid() == 0:
            with suppress(LookupError):
                shutil.chown(self._archives, "_apt")
        settings = {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dir::Cache": base / "cache",
            "Dir::State": base,
            "Dir::State::lists": base / "lists",
            "Dir::State::status": base / "status",
        }
        if sources:
            (base / "sources.list").write_text("\n".join(sources) + "\n", "utf-8")
            settings |= {"Dir::Etc::sourcelist": base / "sources.list", "Dir::Etc::sourceparts": base / "none"}
        self._options = [f"-o{name}={value}" for name, value in settings.items()]
        # It may fail for one source of many: whether a package can be had is what counts.
        self._update = self._run("apt-get", "update")

    def resolve(self, package: str) -> str:
        """The real package behind a name."""
        if package == KERNEL:
            for line in self._run("apt-cache", "depends", KERNEL).stdout.splitlines():
                if line.strip().startswith("Depends: linux-image-"):
                    return line.split()[1]
        else:
            for name in (package, _OTHER_NAMES.get(package)):
                if name and self._run("apt-cache", "--no-all-versions", "show", name).stdout:
                    return name
        raise self._missing(package)

    def names(self, pattern: str) -> list[str]:
        """The packages whose names a regular expression matches."""
        listed = self._run("apt-cache", "search", "--names-only", pattern).stdout.splitlines()
        return [line.split()[0] for line in listed]

    def depends(self, package: str) -> list[str]:
        """The packages that a package names in its field Depends."""
        listed = self._run("apt-cache", "depends", package).stdout.splitlines()
        return [line.split()[-1] for line in listed if line.strip(" |").startswith("Depends: ")]

    def with_dependencies(self, packages: Sequence[str]) -> list[str]:
        done = self._run("apt-get", "install", "--simulate", "--no-install-recommends", *packages)
        names = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("Inst ")]
        if done.returncode or not names:
            raise self._missing(" and ".join(packages))
        return [name for name in names if name in packages or not _TO_INSTALL.fullmatch(name)]

    def download(self, packages: Sequence[str]) -> list[Path]:
        done = self._run("apt-get", "download", *packages, directory=self._archives)
        if done.returncode:
            raise MissingPackageError(f"could not download the arm64 package {' '.join(packages)}: {_complaint(done)}")
        return sorted(self._archives.glob("*.deb"))

    def _run(self, *command: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
        return _run(command[0], *self._options, *command[1:], directory=directory)

    def _missing(self, package: str) -> MissingPackageError:
        why = _complaint(self._update) or "the configured sources carry none for this architecture"
        return MissingPackageError(f"apt has no arm64 package {package} here: {why}")


@functools.cache
def _apt() -> Apt:
    return Apt()


def _run(*command: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The first thing that a command found wrong; empty when it found nothing."""
    return next((line for line in done.stderr.splitlines() if line and not line.startswith("N: ")), "")


def main() -> int:
    """Get all that the tests need; 1 and one sentence when something could not be had."""
    missing = {}
    for name in (*TREES, *NEEDED):
        if name in ON_DEMAND:
            continue
        try:
            fetch_tree(name) if name in TREES else fetch(name)
        except MissingPackageError as error:
            missing[name] = str(error)
    if missing:
        why = next(iter(missing.values()))
        print(f"a64patch: tests that need {', '.join(missing)} cannot run: {why}.", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

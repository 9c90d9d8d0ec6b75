"""The files of the guest with a userland: an archive that stays the same from boot to boot, and a64patch.

Read on: userland.py for the guest, packages.py for where Debian's packages come from.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import marshal
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

from tests.real import packages
from tests.real.guest import Archive
from tests.support import ROOT, unavailable

ADDONS = {"gdb": "gdb-root"}
"""What can be put in beside, each with its tree of packages.py."""

_LEFT_OUT = re.compile(
    r"usr/share/(applications|bash-completion|bug|doc|doc-base|info|lintian|locale|man|menu|metainfo|pixmaps)/"
    r"|(usr/)?lib/[^/]+/gconv/|(usr/)?lib/(systemd|valgrind|tmpfiles\.d|sysusers\.d)/|etc/(init\.d|systemd)/"
    r"|.*/(__pycache__|distutils|tests?|idlelib|lib2to3|ensurepip|pydoc_data|turtledemo|f2py)/"
    r"|usr/bin/redis-(benchmark|check-aof)$|usr/share/gcc/"
    r"|.*/numpy/.*\.(a|h|pyi)$|.*/pygments/lexers/(?!__init__|_mapping|python)"
)
_TO_USR = re.compile(r"^(bin|lib|sbin)/")
_MOST_IMAGES = 4


def python_version() -> str:
    """Of the Python in the guest: 3.11."""
    found = [path.name for path in packages.tree("userland-root").glob("usr/bin/python3.*")]
    if len(found) != 1:
        raise LookupError(f"the tree userland-root holds {len(found)} versions of Python, not one")
    return found[0].removeprefix("python")


def place_of_project() -> str:
    """The folder of the package a64patch in the guest."""
    return f"/usr/local/lib/python{python_version()}/dist-packages/a64patch"


def project_files() -> dict[str, bytes]:
    """The files of the package a64patch for the guest, as they are in the checkout now."""
    source, place = ROOT / "src/a64patch", place_of_project()
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
        content |= _files_in(packages.fetch("musl"), "")
    key = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode())
    for name, path in content.items():
        status = path.lstat()
        key.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    with packages.building(f"userland-image-{key.hexdigest()[:16]}") as (folder, place):
        if place:
            with (place / "cpio").open("wb") as stream:
                _write(content, Archive(stream))
    os.utime(folder)
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

"""The processes of this machine that execute a file: a program, or a library.

Read on: procfs.py reads one process, process.py makes a target of it.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from a64patch.errors import FormatError
from a64patch.targets.maps import parse_maps
from a64patch.targets.procfs import MOST_BYTES, file_at, mapping_of, name_of, processes, status_of


class Executor(NamedTuple):
    """A process that has the file mapped executable."""

    pid: int
    name: str
    """The name that the process gave itself, for people."""
    place: str
    """The text with which `open_target` opens the process, with the file as its first module."""


class Executors(NamedTuple):
    """All processes that execute a file, as they were at one moment."""

    found: tuple[Executor, ...]
    """In order of their numbers."""
    hidden: int
    """How many processes do not let us see what they execute."""


def executors_of(path: str) -> Executors:
    """The processes that have the file at this path mapped executable. Never an error: processes come and go.

    - The file is the one that is at the path now, whatever the process calls it.
    - A file counts, too, that had this path when it was mapped, and was replaced since. That is so only for a process
      in our own root directory: in a container the same path is another file.
    """
    path = os.path.realpath(path)
    found, hidden = [], 0
    for pid in sorted(processes()):
        try:
            with open(f"/proc/{pid}/maps", "rb") as file:
                maps = parse_maps(file.read(MOST_BYTES))
        except PermissionError:
            hidden += "VmSize" in status_of(pid, pid)  # else it is a thread of the kernel, or has ended
            continue
        except (OSError, FormatError):
            continue
        mapping = mapping_of(maps, path)
        if mapping is None or (mapping.file != _file_at(path) and not _is_our_root(pid)):
            continue
        is_program = mapping.file == _file_at(f"/proc/{pid}/exe")
        place = f"pid:{pid}" if is_program else f"pid:{pid}?main={escaped(mapping.path)}"
        found.append(Executor(pid, name_of(pid), place))
    return Executors(tuple(found), hidden)


def escaped(path: str) -> str:
    """A path as the value of a setting behind `?`."""
    return path.replace("%", "%25").replace("&", "%26")


def _file_at(path: str) -> tuple[str, int] | None:
    try:
        return file_at(path)
    except OSError:
        return None


def _is_our_root(pid: int) -> bool:
    root = _file_at(f"/proc/{pid}/root")
    return root is not None and root == _file_at("/")

"""Where A64 text lives and who may be executing it. Read on: base.py for the protocol."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from a64patch.errors import CapabilityError, RequestError

if TYPE_CHECKING:
    from a64patch.targets.base import Target

_NOT_BUILT = ("pid:",)


def open_target(spec: str | os.PathLike[str], **options: Any) -> Target:
    """The target that a person names: a path of an ELF file, `sim:PATH?cpus=4&seed=1`, or a GDB stub.

    A GDB stub is `gdb://HOST:PORT`, `gdb+unix:PATH` or `gdb+serial:DEVICE`. `options` are those of `elf.ElfFile` or
    `gdb.GdbTarget`; a simulator has its own in the text, and RequestError refuses others. Errors are those of
    `ElfFile`, `GdbTarget` and `simulator_url.parse_url`, and CapabilityError for `pid:…`. A file whose name looks like
    another target is opened as `./NAME`.
    """
    text = os.fspath(spec)
    if isinstance(spec, str):
        for prefix in _NOT_BUILT:
            if text.startswith(prefix):
                raise CapabilityError(f"cannot open {text}: a target of the kind {prefix}… is not built yet")
        if text.startswith("sim:"):
            from a64patch.targets.simulator_url import parse_url

            if options:
                raise RequestError(f"{text} takes its options after `?`, not apart from it: {', '.join(options)}")
            return parse_url(text)
        if text.startswith("gdb"):
            from a64patch.targets.wire import is_location

            if is_location(text):
                from a64patch.targets.gdb import open_gdb

                return open_gdb(text, **options)
    from a64patch.targets.elf import ElfFile

    return ElfFile(text, **options)

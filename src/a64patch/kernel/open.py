"""open_target for all kinds of targets, Linux kernels and their names included.

Read on: ../targets/__init__.py opens what needs no knowledge of Linux; symbols.py for where names come from.
"""

from __future__ import annotations

import os
import re
from typing import Any

from a64patch import targets as targets
from a64patch.errors import FormatError, RequestError
from a64patch.targets.base import Target
from a64patch.targets.symbols import SymbolTable

_NOT_A_PATH = re.compile(r"(?:sim|pid|gdb)(?:\+\w+)?:")
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\xfd7zXZ\0": "unxz",
    b"\x04\x22\x4d\x18": "unlz4",
    b"\x02\x21\x4c\x18": "unlz4",
    b"BZh": "bunzip2",
}


def open_target(
    spec: str | os.PathLike[str], *, symbols: str | os.PathLike[str] | SymbolTable | None = None, **options: Any
) -> Target:
    """The target that a person names: as `target.open_target`, and the path of a raw arm64 Image.

    `symbols` is where a kernel's names come from: a path, or "kallsyms" for its own memory (see symbols.attach, also
    for the errors). A SymbolTable, or an ELF file that is no kernel, is an option of the target, as `options` are. An
    Image has no options but takes those of ELF files.
    """
    if symbols is None:
        return _open(spec, options)
    from a64patch.kernel.symbols import attach, names_a_kernel

    if isinstance(symbols, SymbolTable) or not names_a_kernel(symbols):
        return _open(spec, {**options, "symbols": symbols})
    target = _open(spec, options)
    try:
        attach(target, symbols)
    except BaseException:
        target.close()
        raise
    return target


def _open(spec: str | os.PathLike[str], options: dict[str, Any]) -> Target:
    text = os.fspath(spec)
    if not (isinstance(spec, str) and _NOT_A_PATH.match(text)) and os.path.isfile(text):
        from a64patch.kernel.notes import is_image
        from a64patch.targets.replace import FileOnDisk

        if "symbols" in options:
            raise RequestError(f"{text} has names of its own and takes those of a kernel only: leave symbols out")
        head = FileOnDisk(text).head(64)
        if is_image(head):
            if unknown := options.keys() - {"drop_relocations"}:
                raise RequestError(f"an Image file has no option {', '.join(sorted(unknown))}")
            from a64patch.kernel.image import KernelImage

            return KernelImage(text)
        for magic, program in _COMPRESSED.items():
            if head.startswith(magic):
                raise FormatError(f"{text} is compressed: decompress it first ({program})")
        if head[:2] == b"MZ" and head[4:8] == b"zimg":
            raise FormatError(f"{text} is an EFI program that holds a compressed kernel: take the Image it was made of")
    return targets.open_target(spec, **options)

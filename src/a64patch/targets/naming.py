"""Names for a live target that runs a program: those of the program's ELF file, once it is seen to be the same build.

Read on: modules.py has the values that the target is given; ../kernel/symbols.py does the same for a Linux kernel.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

from a64patch.a64.words import INSN_SIZE
from a64patch.errors import MappingError, MismatchError, RequestError
from a64patch.targets.base import Target
from a64patch.targets.elf import ElfFile
from a64patch.targets.file import FileTarget
from a64patch.targets.replace import FileOnDisk
from a64patch.targets.symbols import SymbolTable

_SAMPLES = 16


def is_elf(source: str | os.PathLike[str]) -> bool:
    """Whether a file is an ELF file; TargetError when it cannot be read."""
    return FileOnDisk(os.fspath(source)).head(4) == b"\x7fELF"


def name_program(target: Target, source: str | os.PathLike[str]) -> None:
    """Tell a target the names, build id and code of the program in an ELF file, at the file's own addresses.

    MismatchError unless the target holds most of 16 samples of the file's code at the same addresses. RequestError for
    a target that is a file, which has names of its own. Other errors as `ElfFile`.
    """
    path = os.fspath(source)
    if isinstance(target, FileTarget):
        raise RequestError(f"{target.path} has names of its own and takes those of a kernel only: leave symbols out")
    with ElfFile(path) as file:
        if file.is_relocatable:
            raise MismatchError(
                f"{path} is not linked, so its addresses mean nothing in the target: give the linked file"
            )
        code = [(start, end) for start, end in file.code_ranges() if end - start >= INSN_SIZE]
        places = [
            start + (end - start) // _SAMPLES * number & -INSN_SIZE
            for start, end in code[:_SAMPLES]
            for number in range(_SAMPLES // min(len(code), _SAMPLES))
        ]
        same = 0
        for place in places:
            with suppress(MappingError):
                same += target.read(place, INSN_SIZE) == file.read(place, INSN_SIZE)
        if not places or same * 2 <= len(places):
            raise MismatchError(
                f"{path} is not the program at {target.location}: {same} of {len(places)} samples of its code"
                " are in its memory; give the file of this very build"
            )
        names = tuple(file.symbols.load())
        target.knowing(replace(file.modules.main, symbols=SymbolTable(lambda: names)))

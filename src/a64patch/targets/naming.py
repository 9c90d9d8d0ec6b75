"""Names for a live target that runs a program: those of the program's ELF file, once it is seen to be the same build.

Read on: modules.py has the values that the target is given; ../kernel/symbols.py does the same for a Linux kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from a64patch.a64.words import INSN_SIZE
from a64patch.errors import MappingError, MismatchError, RequestError
from a64patch.targets.base import Target
from a64patch.targets.debug_link import names_of
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import ElfImage, require_aarch64
from a64patch.targets.file import FileTarget
from a64patch.targets.replace import FileOnDisk
from a64patch.targets.symbols import SymbolTable

_SAMPLES = 16


def is_elf(source: str | os.PathLike[str]) -> bool:
    """Whether a file is an ELF file; TargetError when it cannot be read."""
    return FileOnDisk(os.fspath(source)).head(4) == b"\x7fELF"


def name_program(target: Target, source: str | os.PathLike[str]) -> None:
    """Tell a target the names, build id and code of the program in an ELF file, at the file's own addresses.

    A debug file has names and no code. It will do, if the target holds the file's build id at the same address.

    A target that is an ELF file gets the names only, from a file with the same build id or the same code, such as the
    program before `strip` or its debug file.

    Errors:

    - MismatchError unless a live target holds most of 16 samples of the file's code at the same addresses, or the build
      id of a debug file; and for an ELF file as target when the other is of another build;
    - RequestError for another file as target, which has names of its own;
    - others as `ElfFile`.
    """
    path = os.fspath(source)
    if isinstance(target, ElfFile):
        _name_file(target, path)
        return
    if isinstance(target, FileTarget):
        raise RequestError(f"{target.path} has names of its own and takes those of a kernel only: leave symbols out")
    with ElfFile(path, names_only=True) as file:
        if file.is_relocatable:
            raise MismatchError(
                f"{path} is not linked, so its addresses mean nothing in the target: give the linked file"
            )
        samples = [file.build_id_note] if file.is_debug_file else list(_samples(file))
        same = 0
        for place, data in samples:
            with suppress(MappingError):
                same += bool(data) and target.read(place, len(data)) == data
        if same * 2 <= len(samples):
            found = "its build id is not" if file.is_debug_file else f"{same} of {len(samples)} samples of its code are"
            raise MismatchError(
                f"{path} is not the program at {target.location}: {found} in its memory; give the file of this very"
                " build"
            )
        names = tuple(file.symbols.load())
        target.knowing(replace(file.modules.main, symbols=SymbolTable(lambda: names)))


def _name_file(target: ElfFile, path: str) -> None:
    """Give an ELF file the names in another file of the same build."""
    file = FileOnDisk(path)
    require_aarch64(file.head(64), path)
    image = ElfImage(file.content, path)
    if image.relocatable != target.is_relocatable:
        raise MismatchError(f"{path} is not linked in the way that {target.path} is: give a file of this very build")
    if not (image.build_id and image.build_id == target.build_id) and not _same_code(target, image):
        ids = [
            f"build {build_id}" if build_id else "without build id" for build_id in (image.build_id, target.build_id)
        ]
        raise MismatchError(
            f"{path} ({ids[0]}) is not of the same build as {target.path} ({ids[1]}), and has other code: give the"
            " file before strip, or its debug file"
        )
    # A stripped program still has names of its own: those for the loader, and of stubs.
    names = tuple(dict.fromkeys([*names_of(image, path).symbols, *target.symbols.load()]))
    target.knowing(replace(target.modules.main, symbols=SymbolTable(lambda: names, image.spaces())))


def _same_code(target: ElfFile, image: ElfImage) -> bool:
    """Whether both files have the same code at the same addresses. A debug file has none."""
    code = list(target.code_ranges())
    if not code or list(image.code) != code:
        return False
    for start, end in code:
        chunks = image.chunks(start, end - start) or ()
        if b"".join(image.data[offset : offset + size] for offset, size in chunks) != target.read(start, end - start):
            return False
    return True


def _samples(file: ElfFile) -> Iterator[tuple[int, bytes]]:
    """The addresses and bytes of words of the file's code."""
    code = [(start, end) for start, end in file.code_ranges() if end - start >= INSN_SIZE]
    for start, end in code[:_SAMPLES]:
        for number in range(_SAMPLES // min(len(code), _SAMPLES)):
            place = start + (end - start) // _SAMPLES * number & -INSN_SIZE
            yield place, file.read(place, INSN_SIZE)

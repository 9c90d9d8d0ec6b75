"""Every kind of target, and every source of names: how people write it, which options it takes, what opens it.

A new kind is one new file and one line here. What opens it is named by its text and loaded when it is wanted, so that
this file knows the protocol of targets only, and whoever reads a help text loads none of them.
Read on: targets/base.py for what a target is asked.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from a64patch.errors import CapabilityError, FormatError, RequestError

if TYPE_CHECKING:
    from a64patch.targets.base import Target
    from a64patch.targets.symbols import SymbolTable


class Opener(NamedTuple):
    """One kind of target: known by how its text begins, or, for a file, by bytes of its head."""

    name: str
    """For people: `ELF file`."""
    opens: str = ""
    """`module:function`, which takes the text and the options; empty when nothing opens it, and `refusal` says why."""
    form: str = ""
    """How people write it, for help texts; empty when nothing opens it."""
    schemes: tuple[str, ...] = ()
    magic: tuple[tuple[int, bytes], ...] = ()
    """Bytes that all stand at these offsets of the first 64 bytes of a file."""
    sniffs: str = ""
    """In place of `magic`: `module:function`, which takes those 64 bytes and says whether it is such a file."""
    options: tuple[str, ...] = ()
    """What `open_target` may be given besides. `symbols` are no business of the function."""
    refusal: str = ""
    """What is said behind its text when it is to be opened."""

    def knows(self, text: str, head: bytes | None) -> bool:
        """This is what it opens or refuses; `head` is None for what is no file."""
        if head is None:
            return text.startswith(self.schemes) if self.schemes else False
        if self.sniffs:
            return bool(_resolve(self.sniffs)(head))
        return bool(self.magic) and all(head.startswith(data, offset) for offset, data in self.magic)


class Source(NamedTuple):
    """One kind of source for names, which --symbols gives."""

    form: str
    """How people write it, for help texts."""
    knows: str
    """`module:function`, which takes the source and says whether it is of this kind."""
    names: str
    """`module:function`, which takes the target and the source."""


def _compressed(magic: bytes, program: str) -> Opener:
    return Opener("compressed file", magic=((0, magic),), refusal=f"is compressed: decompress it first ({program})")


OPENERS: tuple[Opener, ...] = (
    Opener("ELF file", "targets.elf:ElfFile", "path of an ELF file",
           magic=((0, b"\x7fELF"),), options=("symbols", "drop_relocations")),
    Opener("Image file", "kernel.image:open_image", "path of a raw arm64 Image",
           sniffs="kernel.notes:is_image", options=("symbols", "drop_relocations")),
    Opener("GDB stub", "targets.gdb:open_gdb", "gdb://HOST:PORT, gdb+unix:PATH, gdb+serial:DEVICE",
           schemes=("gdb://", "gdb+unix:", "gdb+serial:"),
           options=("symbols", "remote", "timeout", "baud", "leave", "assume")),
    Opener("simulator", "targets.simulator_url:parse_url", "sim:PATH?cpus=4&seed=1", schemes=("sim:",)),
    Opener("process", schemes=("pid:",), refusal="names a process, and opening one is not built yet"),
    _compressed(b"\x1f\x8b", "gunzip"),
    _compressed(b"\x28\xb5\x2f\xfd", "unzstd"),
    _compressed(b"\xfd7zXZ\0", "unxz"),
    _compressed(b"\x04\x22\x4d\x18", "unlz4"),
    _compressed(b"\x02\x21\x4c\x18", "unlz4"),
    _compressed(b"BZh", "bunzip2"),
    Opener("EFI zboot image", magic=((0, b"MZ"), (4, b"zimg")),
           refusal="is an EFI program that holds a compressed kernel: take the Image it was made of"),
)  # fmt: skip
"""The first that knows a text or a file is it. A file that none knows is taken for the first kind, which says no."""

SOURCES: tuple[Source, ...] = (
    Source(
        "vmlinux, Image, System.map or saved /proc/kallsyms, or `kallsyms` for the tables in the memory of the Linux"
        " kernel that runs there",
        "kernel.symbols:names_a_kernel",
        "kernel.symbols:attach",
    ),
    Source("the ELF file of a program", "targets.naming:is_elf", "targets.naming:name_program"),
)
"""The first that knows a source is it. One that none knows is taken for the first kind, which says no."""


def open_target(
    spec: str | os.PathLike[str], *, symbols: str | os.PathLike[str] | SymbolTable | None = None, **options: Any
) -> Target:
    """The target that a person names, as `target_forms` says; a path object is always a file.

    `symbols` is where its names come from: a table, or what `source_forms` says (see kernel/symbols.py `attach` and
    targets/naming.py `name_program`, also for the errors). `options` are those of its kind in OPENERS, and go to what
    opens it.

    RequestError for an option that is for other kinds; CapabilityError for a kind that is not built yet; FormatError
    for a file that is of no kind; TargetError for one that cannot be read; else the errors of what opens it. A file
    whose name looks like another target is opened as `./NAME`.
    """
    text = os.fspath(spec)
    opener = _opener_of(text, is_path=not isinstance(spec, str))
    if opener.refusal:
        raise (CapabilityError if opener.schemes else FormatError)(f"{text} {opener.refusal}")
    given = options.keys() | ({"symbols"} if symbols is not None else set())
    if unknown := sorted(given - set(opener.options)):
        raise RequestError(f"{opener.name} {text} has no option {', '.join(unknown)}")
    name = _naming(symbols)  # before a machine is halted for a file that is not there
    target: Target = _resolve(opener.opens)(text, **options)
    try:
        name(target)
    except BaseException:
        target.close()
        raise
    return target


def target_forms() -> str:
    """How people write a target, for help texts."""
    *forms, last = (opener.form for opener in OPENERS if opener.form)
    return f"{', '.join(forms)}, or {last}"


def source_forms() -> str:
    """How people write a source of names, for help texts."""
    return "; or ".join(source.form for source in SOURCES)


def _opener_of(text: str, *, is_path: bool) -> Opener:
    for opener in OPENERS if not is_path else ():
        if opener.knows(text, None):
            return opener
    from a64patch.targets.replace import FileOnDisk

    head = FileOnDisk(text).head(64)
    return next((opener for opener in OPENERS if opener.knows(text, head)), OPENERS[0])


def _naming(symbols: str | os.PathLike[str] | SymbolTable | None) -> Callable[[Target], None]:
    """What tells a target of these names."""
    from a64patch.targets.symbols import SymbolTable

    if symbols is None:
        return lambda target: None
    if isinstance(symbols, SymbolTable):
        return lambda target: _name_by_table(target, symbols)
    source = next((source for source in SOURCES if _resolve(source.knows)(symbols)), SOURCES[0])
    names = _resolve(source.names)
    return lambda target: names(target, symbols)


def _name_by_table(target: Target, symbols: SymbolTable) -> None:
    from dataclasses import replace

    main = target.modules.main
    target.knowing(replace(main, name=main.name or "program", symbols=symbols))


def _resolve(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"a64patch.{module}"), name)

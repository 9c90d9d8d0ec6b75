"""Every kind of target and every source of names: how people write it, its options, and the function that opens it.

A new kind is one new file and one line here. The line names the function that opens it as text, and the function is
loaded when it is needed. So this file knows only the protocol of targets, and a help text loads no target.
Read on: targets/base.py for the operations of a target.
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
    """One kind of target: recognised by the beginning of its text or, for a file, by the first bytes of the file."""

    name: str
    """For people: `ELF file`."""
    opens: str = ""
    """`module:function`, which takes the text and the options; empty for a kind that is refused, see `refusal`."""
    form: str = ""
    """How people write it, for help texts; empty for a kind that is refused."""
    schemes: tuple[str, ...] = ()
    lasts: bool = True
    """The words that a command has written are still there when the command has ended."""
    magic: tuple[tuple[int, bytes], ...] = ()
    """(offset, bytes) within the first 64 bytes of a file; the file must have all of them."""
    sniffs: str = ""
    """In place of `magic`: `module:function`, which takes the first 64 bytes and says whether a file is such a one."""
    options: tuple[str, ...] = ()
    """The options of `open_target` for this kind. The function gets all of them but `symbols`."""
    refusal: str = ""
    """Why a target of this kind is not opened; the error message is the target's text and this."""

    def knows(self, text: str, head: bytes | None) -> bool:
        """Whether a target is of this kind. `head` is the first 64 bytes of a file, None for another target."""
        if head is None:
            return text.startswith(self.schemes) if self.schemes else False
        if self.sniffs:
            return bool(_resolve(self.sniffs)(head))
        return bool(self.magic) and all(head.startswith(data, offset) for offset, data in self.magic)


class Source(NamedTuple):
    """One kind of source for names, given by --symbols."""

    form: str
    """How people write it, for help texts."""
    knows: str
    """`module:function`, which takes the source and says whether it is of this kind."""
    names: str
    """`module:function`, which takes the target and the source."""


def _compressed(magic: bytes, program: str) -> Opener:
    return Opener("compressed file", magic=((0, magic),), refusal=f"is compressed: decompress it first ({program})")


OPENERS: tuple[Opener, ...] = (
    Opener("ELF file", "kernel.elf:KernelElf", "path of an ELF file",
           magic=((0, b"\x7fELF"),), options=("symbols", "drop_relocations")),
    Opener("Image file", "kernel.image:open_image", "path of a raw arm64 Image",
           sniffs="kernel.notes:is_image", options=("symbols", "drop_relocations")),
    Opener("GDB stub", "targets.gdb:open_gdb", "gdb://HOST:PORT, gdb+unix:PATH, gdb+serial:DEVICE",
           schemes=("gdb://", "gdb+unix:", "gdb+serial:"),
           options=("symbols", "remote", "timeout", "baud", "leave", "assume", "caves")),
    Opener("simulator", "targets.simulator_url:parse_url", "sim:PATH?cpus=4&seed=1", schemes=("sim:",), lasts=False),
    Opener("process", "targets.process:open_process", "pid:N, pid:N?main=PATH (arm64 Linux)",
           schemes=("pid:",), options=("main",)),
    Opener("processes", schemes=("exe:",),
           refusal="stands for every process that executes a file: `apply` and `status` take it; name one, pid:N"),
    _compressed(b"\x1f\x8b", "gunzip"),
    _compressed(b"\x28\xb5\x2f\xfd", "unzstd"),
    _compressed(b"\xfd7zXZ\0", "unxz"),
    _compressed(b"\x04\x22\x4d\x18", "unlz4"),
    _compressed(b"\x02\x21\x4c\x18", "unlz4"),
    _compressed(b"BZh", "bunzip2"),
    Opener("EFI zboot image", magic=((0, b"MZ"), (4, b"zimg")),
           refusal="is an EFI program that holds a compressed kernel: take the Image it was made of"),
    # as Ubuntu packs its kernels: a loader in front, the kernel in a section
    Opener("EFI program", magic=((0, b"MZ"),),
           refusal="is an EFI program: its section .linux is the kernel (objcopy --dump-section .linux=NEW FILE)"),
)  # fmt: skip
"""The first kind that knows a text or a file opens it. A file that none knows goes to the first kind, which refuses."""

SOURCES: tuple[Source, ...] = (
    Source(
        "vmlinux, Image, System.map or saved /proc/kallsyms, or `kallsyms` for the tables in the memory of the"
        " running Linux kernel",
        "kernel.symbols:names_a_kernel",
        "kernel.symbols:attach",
    ),
    Source("the ELF file of a program", "targets.naming:is_elf", "targets.naming:name_program"),
)
"""The first kind that knows a source takes it. A source that none knows goes to the first kind, which refuses."""


def lasts(text: str) -> bool:
    """Whether the target with this name keeps its words when the command ends that wrote them."""
    return _opener_of(text, is_path=False).lasts


def open_target(
    spec: str | os.PathLike[str], *, symbols: str | os.PathLike[str] | SymbolTable | None = None, **options: Any
) -> Target:
    """Open a target.

    - `spec` names it in one of the forms of `target_forms`. A path object is always a file. Write `./NAME` for a file
      whose name looks like another kind of target.
    - `symbols` is the source of its names: a table, or one of the forms of `source_forms`.
    - `options` are those of its kind in OPENERS. They go to the function that opens the target.

    Errors:

    - RequestError for an option of another kind;
    - CapabilityError for a kind that cannot be opened here;
    - FormatError for a file that is of no kind;
    - TargetError for a file that cannot be read;
    - the errors of the function that opens the target;
    - for `symbols`, the errors of `attach` in kernel/symbols.py and of `name_program` in targets/naming.py.
    """
    text = os.fspath(spec)
    opener = _opener_of(text, is_path=not isinstance(spec, str))
    if opener.refusal:
        raise (CapabilityError if opener.schemes else FormatError)(f"{text} {opener.refusal}")
    given = options.keys() | ({"symbols"} if symbols is not None else set())
    if unknown := sorted(given - set(opener.options)):
        raise RequestError(f"{opener.name} {text} has no option {', '.join(unknown)}")
    name = _naming(symbols)  # first: no machine is halted when the file of symbols does not exist
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
    """A function that gives a target its names from this source."""
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

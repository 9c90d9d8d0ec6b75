"""ELF files that may be Linux' own, a module or a vmlinux: what the kernel does with their words and their signature.

Read on: rewrites.py reads the tables; ../targets/elf.py does everything else.
"""

from __future__ import annotations

import shlex
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from a64patch.errors import CapabilityError
from a64patch.kernel import blacklist, rewrites, static_keys
from a64patch.kernel.alternatives import Alternative
from a64patch.ranges import Ranges
from a64patch.targets.base import Room
from a64patch.targets.elf import ElfFile
from a64patch.targets.elf_image import R_AARCH64_RELATIVE
from a64patch.targets.modules import Claim, Module

_MARK = b"~Module signature appended~\n"
_SIGNATURE = struct.Struct(">5B3xI")
"""struct module_signature: the algorithm, the hash, the kind, two lengths that are 0, and the signature's bytes."""


class KernelElf(ElfFile):
    """An ELF file as `ElfFile` has it, with claims on the words that Linux rewrites or looks up; see rewrites.py."""

    def own_modules(self) -> Iterable[Module]:
        """As `ElfFile.own_modules`."""
        return [replace(module, claims=partial(self._claims_with_linux, module)) for module in super().own_modules()]

    def _claims_with_linux(self, module: Module) -> Iterator[Claim]:
        yield from module.claims()
        image, code = self._image, module.code or Ranges()
        if not image.relocatable:
            if image.order == "<":
                yield from rewrites.claims_on_kernel(self.read, module.symbols, code, relocated=self._relocated)
                yield from blacklist.claims_on_file(self.read, module.symbols, code, self._relocated)
            return
        tell_keys = static_keys.teller_of_module(self)
        yield from rewrites.claims_on_module(image, partial(_function_starts, module), tell_keys)
        yield from blacklist.claims_on_module(image, module.symbols, code)
        size = signature_size(image.data)
        if size:
            yield Claim(
                "signature",
                code,
                "lies in a signed module, which the kernel refuses once a byte has changed (EKEYREJECTED);"
                f" `truncate -s -{size} {shlex.quote(self.path)}` removes the signature",
                of_build=True,
            )

    def find_room(self, size: int, near: tuple[int, int], alignment: int = 16) -> Room:
        """As `ElfFile.find_room`. CapabilityError for a signed module: a section would come behind its signature."""
        signed = signature_size(self._image.data) if self.is_relocatable else 0
        if signed:
            raise CapabilityError(
                f"{self.path} is a signed module, which the kernel refuses once a byte has changed (EKEYREJECTED): "
                f"remove the signature with `truncate -s -{signed} {shlex.quote(self.path)}`"
            )
        return super().find_room(size, near, alignment)

    def facts(self) -> dict[str, str]:
        """As `ElfFile.facts`. Of a vmlinux also the tables that were found, and what is not looked at without one."""
        looked = rewrites.looked_at(self.modules.claims) if not self.is_relocatable else rewrites.Looked([], [])
        return {**super().facts(), **(looked.rows() if looked.found else {})}

    def alternatives(self) -> list[Alternative]:
        """As `rewrites.alternatives_in`, of a vmlinux."""
        main = self.modules.main
        return rewrites.alternatives_in(self.read, main.symbols, main.code or Ranges(), self._relocated)

    def _relocated(self, start: int, end: int) -> Mapping[int, int]:
        return {
            place: relocation.addend
            for table in self._image.tables
            for place, relocation in self._image.relocations(table)
            if start <= place < end and relocation.type == R_AARCH64_RELATIVE and relocation.addend is not None
        }


def _function_starts(module: Module) -> Collection[int]:
    return {symbol.address for symbol in module.symbols.ascending() if symbol.is_function}


def signature_size(data: bytes) -> int:
    """How many bytes scripts/sign-file appended to a module: signature, struct module_signature and mark; 0 for none.

    A module whose signature does not fit is refused even if the kernel demands none (module_sig_check() in
    kernel/module/signing.c): only a missing signature or key is forgiven.
    """
    at = len(data) - len(_MARK) - _SIGNATURE.size
    if at < 0 or not data.endswith(_MARK):
        return 0
    size = _SIGNATURE.unpack_from(data, at)[-1]
    return len(data) - at + size if size <= at else 0

"""The A64 instruction set: words in, facts out. Imports no other room.

All public names of the files below are here too: `a64.is_b`, `a64.gen_nop()`, `a64.assemble(…)`. Each loads at its
first use.
Read on: encodings.py, the table.
"""

from __future__ import annotations

import importlib
from importlib.machinery import PathFinder

TYPE_CHECKING = False  # typing's own, without loading typing
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from a64patch.a64.assembler import assemble as assemble
    from a64patch.a64.assembler import assemble_one as assemble_one
    from a64patch.a64.cmodx import hotpatch_safe as hotpatch_safe
    from a64patch.a64.cmodx import is_hotpatchable as is_hotpatchable
    from a64patch.a64.collisions import unpredictable as unpredictable
    from a64patch.a64.disassembler import disassemble as disassemble
    from a64patch.a64.effects import effects_of as effects_of
    from a64patch.a64.fields import *  # noqa: F403
    from a64patch.a64.generate import *  # noqa: F403
    from a64patch.a64.predicates import *  # noqa: F403
    from a64patch.a64.references import adr_targets as adr_targets
    from a64patch.a64.references import branch_targets as branch_targets
    from a64patch.a64.references import branches_into as branches_into
    from a64patch.a64.references import literal_addresses as literal_addresses
    from a64patch.a64.relocation import relocate as relocate
    from a64patch.a64.relocation import relocate_block as relocate_block

_HOMES = {
    "assemble": "assembler",
    "assemble_one": "assembler",
    "hotpatch_safe": "cmodx",
    "is_hotpatchable": "cmodx",
    "disassemble": "disassembler",
    "adr_targets": "references",
    "branch_targets": "references",
    "branches_into": "references",
    "literal_addresses": "references",
    "relocate": "relocation",
    "relocate_block": "relocation",
    "effects_of": "effects",
    "unpredictable": "collisions",
}
"""The file of each name, for files of which only some names are here."""
_WHOLE = ("predicates", "generate", "fields")
"""The files of which all public names are here."""


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted({*_HOMES, *(own for file in _WHOLE for own in vars(_load(file)) if _is_public(_load(file), own))})
    if name in _HOMES:
        return getattr(_load(_HOMES[name]), name)
    # `from a64patch.a64 import words` comes here before Python imports words.py. No other file needs to load for it.
    folder = __path__  # noqa: F405
    if not name.startswith("_") and PathFinder.find_spec(f"{__name__}.{name}", folder) is None:
        for file in _WHOLE:
            if _is_public(_load(file), name):
                return getattr(_load(file), name)
    raise AttributeError(f"module 'a64patch.a64' has no attribute {name!r}")


def _load(file: str) -> ModuleType:
    return importlib.import_module(f"a64patch.a64.{file}")


def _is_public(module: ModuleType, name: str) -> bool:
    """Whether the name is public and made by this module, not imported from another module."""
    return not name.startswith("_") and getattr(getattr(module, name, None), "__module__", "") == module.__name__


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})

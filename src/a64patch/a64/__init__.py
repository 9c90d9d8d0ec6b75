"""The A64 instruction set: words in, facts out. Knows nobody.

All public names of the files below are here too: `a64.is_b`, `a64.gen_nop()`, `a64.assemble(…)`. They load when they
are first asked for.
Read on: encodings.py, the table.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a64patch.a64.assembler import assemble as assemble
    from a64patch.a64.assembler import assemble_one as assemble_one
    from a64patch.a64.cmodx import hotpatch_safe as hotpatch_safe
    from a64patch.a64.cmodx import is_hotpatchable as is_hotpatchable
    from a64patch.a64.disassembler import disassemble as disassemble
    from a64patch.a64.fields import *  # noqa: F403
    from a64patch.a64.generate import *  # noqa: F403
    from a64patch.a64.predicates import *  # noqa: F403
    from a64patch.a64.references import adr_targets as adr_targets
    from a64patch.a64.references import branch_targets as branch_targets
    from a64patch.a64.references import branches_into as branches_into
    from a64patch.a64.references import literal_addresses as literal_addresses
    from a64patch.a64.relocation import relocate as relocate
    from a64patch.a64.relocation import relocate_block as relocate_block

_HOMES = ("predicates", "generate", "fields", "assembler", "disassembler", "cmodx", "references", "relocation")


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        for home in _HOMES:
            module = importlib.import_module(f"a64patch.a64.{home}")
            if getattr(getattr(module, name, None), "__module__", "") == module.__name__:
                return getattr(module, name)
    raise AttributeError(f"module 'a64patch.a64' has no attribute {name!r}")

"""patch(1) for AArch64 machine code, wherever it is: what users import.

Everything here loads when it is first asked for, so that importing a64patch costs nothing.
Read on: patch/text.py for the three functions, targets/base.py for where they work; applying.py and questions.py for
whole patches.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # typing's own, without loading typing
if TYPE_CHECKING:
    from typing import Any

    from a64patch import a64 as a64
    from a64patch.a64.cmodx import hotpatch_safe as hotpatch_safe
    from a64patch.applying import apply as apply
    from a64patch.applying import apply_to_processes as apply_to_processes
    from a64patch.applying import recover as recover
    from a64patch.applying import revert as revert
    from a64patch.errors import A64PatchError as A64PatchError
    from a64patch.linking.link import link as link
    from a64patch.openers import open_target as open_target
    from a64patch.patch.asmdiff import parse as parse
    from a64patch.patch.asmdiff import reverse as reverse
    from a64patch.patch.asmdiff import to_text as to_text
    from a64patch.patch.journal import Journal as Journal
    from a64patch.patch.plan import make_plan as plan
    from a64patch.patch.text import patch_text as patch_text
    from a64patch.patch.text import patch_text_nosync as patch_text_nosync
    from a64patch.patch.text import patch_text_sync as patch_text_sync
    from a64patch.patch.typed import one_hunk as one_hunk
    from a64patch.questions import prove as prove

    __version__: str

_HOMES = {
    "A64PatchError": "errors",
    "Journal": "patch.journal",
    "apply": "applying",
    "apply_to_processes": "applying",
    "hotpatch_safe": "a64.cmodx",
    "link": "linking.link",
    "one_hunk": "patch.typed",
    "open_target": "openers",
    "parse": "patch.asmdiff",
    "patch_text": "patch.text",
    "patch_text_nosync": "patch.text",
    "patch_text_sync": "patch.text",
    "plan": "patch.plan:make_plan",
    "prove": "questions",
    "recover": "applying",
    "reverse": "patch.asmdiff",
    "revert": "applying",
    "to_text": "patch.asmdiff",
}
"""The file of each name; behind a colon its name there, if that is another."""

__all__ = [
    "A64PatchError", "Journal", "__version__", "a64", "apply", "apply_to_processes", "hotpatch_safe", "link",
    "one_hunk", "open_target", "parse", "patch_text", "patch_text_nosync", "patch_text_sync", "plan", "prove",
    "recover", "reverse", "revert", "to_text",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("a64patch.version").VERSION
    if name == "a64":
        return importlib.import_module("a64patch.a64")
    if name in _HOMES:
        file, _, other = _HOMES[name].partition(":")
        return getattr(importlib.import_module(f"a64patch.{file}"), other or name)
    raise AttributeError(f"module 'a64patch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

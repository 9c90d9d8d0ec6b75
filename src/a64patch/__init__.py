"""patch(1) for AArch64 machine code, wherever it is: what users import.

Everything here loads when it is first asked for, so that importing a64patch costs nothing.
Read on: patch/text.py for the three functions, targets/base.py for where they work.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # typing's own, without loading typing
if TYPE_CHECKING:
    from typing import Any

    from a64patch import a64 as a64
    from a64patch.a64.cmodx import hotpatch_safe as hotpatch_safe
    from a64patch.errors import A64PatchError as A64PatchError
    from a64patch.openers import open_target as open_target
    from a64patch.patch.text import patch_text as patch_text
    from a64patch.patch.text import patch_text_nosync as patch_text_nosync
    from a64patch.patch.text import patch_text_sync as patch_text_sync

    __version__: str

_HOMES = {
    "A64PatchError": "a64patch.errors",
    "hotpatch_safe": "a64patch.a64.cmodx",
    "open_target": "a64patch.openers",
    "patch_text": "a64patch.patch.text",
    "patch_text_nosync": "a64patch.patch.text",
    "patch_text_sync": "a64patch.patch.text",
}

__all__ = [
    "A64PatchError", "__version__", "a64", "hotpatch_safe", "open_target", "patch_text", "patch_text_nosync",
    "patch_text_sync",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("a64patch.version").VERSION
    if name == "a64":
        return importlib.import_module("a64patch.a64")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'a64patch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

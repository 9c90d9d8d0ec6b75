"""`sim:PATH?cpus=4&seed=1`: the text by which a person names a simulator.

Read on: simulator.py describes each setting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from a64patch.errors import RequestError
from a64patch.targets.simulator import Simulator

_BOOLEANS = {"0": False, "1": True}


def _sizes(text: str) -> int | list[int]:
    sizes = [int(each) for each in text.split(",")]
    return sizes if len(sizes) > 1 else sizes[0]


_URL_KEYS: dict[str, Callable[[str], Any]] = {
    "cpus": int,
    "seed": int,
    "quantum": int,
    "idc": _BOOLEANS.__getitem__,
    "dic": _BOOLEANS.__getitem__,
    "broadcast": _BOOLEANS.__getitem__,
    "cache": str,
    "early": float,
    "line": _sizes,
    "interleave": int,
    "writer": int,
}


def parse_url(text: str) -> Simulator:
    """The simulator for a text like `sim:PATH?cpus=4&seed=1`.

    The keys are the constructor's, with `line` for `line_size` (bytes; `128,64` is one for each CPU); flags are 0 or 1.
    RequestError for an unknown key, a key given twice, or a senseless value. Other errors as `Simulator.from_elf`.
    """
    scheme, colon, rest = text.partition(":")
    path, _, query = rest.partition("?")
    if scheme != "sim" or not colon or not path:
        raise RequestError(f"{text[:200]!r} is not sim:PATH?cpus=4&seed=1")
    options: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=100) if query else []
    except ValueError:
        raise RequestError(f"{query[:200]!r} is not a list of KEY=VALUE with & between") from None
    for key, value in pairs:
        convert = _URL_KEYS.get(key)
        if convert is None:
            raise RequestError(f"the simulator has no setting {key[:40]!r}; it knows {', '.join(_URL_KEYS)}")
        name = {"line": "line_size"}.get(key, key)
        if name in options:
            raise RequestError(f"the setting {key!r} is given twice; give it once")
        try:
            if not (value.isascii() and len(value) <= 400 and "_" not in value and value == value.strip()):
                raise ValueError
            options[name] = convert(value)
        except (ValueError, KeyError):
            kind = "0 or 1" if convert == _BOOLEANS.__getitem__ else "a number"
            raise RequestError(f"{key}={value[:40]!r} makes no sense to the simulator; give {kind}") from None
    return Simulator.from_elf(path, settings=query, **options)

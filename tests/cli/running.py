"""What one run of a command leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema

from a64patch.cli import schema
from a64patch.cli.main import COMMANDS


class Ran:
    """What one run of the command left behind."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


Run = Callable[..., Ran]


def document(command: str, ran: Ran) -> Any:
    """The one document that a command has printed, in the form that the schema promises of this command."""
    found = json.loads(ran.out)
    form = schema.schema(command if command in COMMANDS else "")
    jsonschema.Draft202012Validator(form).validate(found)
    return found


def one_sentence(text: str) -> bool:
    return text.startswith("a64patch: ") and text.count("\n") == 1 and "Traceback" not in text and len(text) < 500

"""The commands, run in this process. What they print with --json is held to the schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from a64patch.cli.main import main
from tests.cli.running import Ran, Run, document


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> Ran:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        captured = capsys.readouterr()
        ran = Ran(status, captured.out, captured.err)
        if "--json" in arguments:
            document(str(arguments[0]), ran)
        return ran

    return call

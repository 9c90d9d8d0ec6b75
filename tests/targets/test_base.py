"""What every target promises, whatever its kind."""

from __future__ import annotations

import pytest

from a64patch.errors import PartialPatchError, TargetError
from a64patch.targets.base import Target


class Unclosable(Target):
    """A target whose closing fails."""

    def close(self) -> None:
        raise TargetError("the machine may have been left halted")


def test_an_error_while_closing_does_not_hide_the_one_that_matters() -> None:
    with pytest.raises(PartialPatchError) as caught, Unclosable():  # type: ignore[abstract]
        raise PartialPatchError("half of it stands there", [4])
    assert caught.value.__notes__ == ["The machine may have been left halted"]
    with pytest.raises(TargetError, match="left halted"), Unclosable():  # type: ignore[abstract]
        pass

"""Do what must not be cut off in a child process, which goes on when this process is killed.

It knows nobody. Read on: process.py changes the mappings of a process in this way.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from a64patch.errors import TargetError

Result = TypeVar("Result")


def outliving(action: Callable[[], Result]) -> Result:
    """The result, or the exception, of an action that a child of this process carries out: both can be pickled.

    The child has a session of its own and blocks all signals, so it ends the action also when this process is killed,
    alone or with its terminal. Not guaranteed: that nobody kills the child (kill(2), a control group that is killed as
    a whole). What the action changes in this program's own memory is lost with the child.

    The result comes when the child has ended, also when this is interrupted. TargetError when the child was killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _carry_out(action, writing)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            said = pipe.read()
    finally:
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
    if not said:
        raise TargetError("the part of a64patch that changes the mappings of the process was killed")
    is_error, result = pickle.loads(said)
    if is_error:
        raise result
    return result  # type: ignore[no-any-return]


def _carry_out(action: Callable[[], object], writing: int) -> None:
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            said = pickle.dumps((False, action()))
        except BaseException as error:
            said = pickle.dumps((True, error))
        with open(writing, "wb") as pipe:
            pipe.write(said)
    finally:
        os._exit(0)

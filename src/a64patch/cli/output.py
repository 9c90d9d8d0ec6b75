"""Standard output whose failures do not decide the exit status: they are kept, and told at the end.

Read on: main.py, which gives every command this output.
"""

from __future__ import annotations

import errno
import io
import os
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class ReaderGoneError(Exception):
    """Nobody reads the output any more, and the command does nothing but print."""


class _Bytes(io.RawIOBase):
    """Passes bytes on to `stream`, until that fails for the first time. From then on all bytes are thrown away."""

    def __init__(self, stream: TextIO | None, *, ends: bool) -> None:
        self._stream, self._ends = stream, ends
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._stream.fileno()

    def write(self, data: ReadableBuffer, /) -> int:
        whole = bytes(data)
        if self.failure is None and whole:
            try:
                if self._stream is None:
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                self._stream.buffer.write(whole)
                self._stream.buffer.flush()
            except OSError as failure:
                self.failure = failure
                self._silence()
        if self._ends and isinstance(self.failure, BrokenPipeError):
            raise ReaderGoneError
        return len(whole)

    def _silence(self) -> None:
        """Keep Python from trying again, and failing again, when it ends."""
        with suppress(OSError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.dup2(null, self.fileno())
            finally:
                os.close(null)


class Output(io.TextIOWrapper):
    """Text for `stream`, which is None where standard output is closed. Printing raises no error.

    - A letter that the encoding lacks is spelled out: `\\xe5`.
    - Once the stream has failed, all later text is thrown away, and `failure` tells why.
    - With `ends`, and only for a pipe that nobody reads: ReaderGoneError.
    """

    def __init__(self, stream: TextIO | None, *, encoding: str | None = None, ends: bool = False) -> None:
        self._bytes = _Bytes(stream, ends=ends)
        super().__init__(
            io.BufferedWriter(self._bytes),
            encoding=encoding or getattr(stream, "encoding", None) or "utf-8",
            errors="backslashreplace",
            line_buffering=self._bytes.isatty(),
        )

    @property
    def failure(self) -> OSError | None:
        """The first error of the stream. Call `flush` before."""
        return self._bytes.failure

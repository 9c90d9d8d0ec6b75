"""Standard output whose failures do not decide the exit status: they are kept, and told at the end.

Names, paths and messages may come from a file or a stub that somebody else made. So no control character leaves here.
Read on: main.py, which gives every command this output.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0 and C1 controls but tab and newline; line and paragraph separators; the marks of bidirectional text (UAX #9)."""


def visible(text: str) -> str:
    """The text with its control characters spelled out: `\\x1b`. Tabs and newlines stay."""
    if text.isprintable() or text == "\n":  # nearly always, and faster than the expression
        return text
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """As `visible`, with newlines and tabs spelled out too."""
    return visible(text.replace("\n", "\\n").replace("\t", "\\t"))


def say(sentence: str) -> None:
    """Print one line on stderr, if it can be written."""
    with suppress(OSError):
        print(f"a64patch: {one_line(sentence)}", file=sys.stderr, flush=True)


def styled() -> IO[str]:
    """Standard output for rich, whose colours are control characters. Untrusted text must go through `one_line`."""
    return cast(IO[str], _Styled(sys.stdout)) if isinstance(sys.stdout, Output) else sys.stdout


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
    - A control character is spelled out, see `visible`.
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

    def write(self, text: str, /) -> int:
        """Print the text with its control characters spelled out."""
        super().write(visible(text))
        return len(text)

    def write_as_it_is(self, text: str) -> int:
        """Print the text with its control characters."""
        return super().write(text)

    @property
    def failure(self) -> OSError | None:
        """The first error of the stream. Call `flush` before."""
        return self._bytes.failure


class _Styled:
    """An Output that lets control characters through."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, text: str) -> int:
        return self._output.write_as_it_is(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)

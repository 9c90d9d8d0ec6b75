"""Every error that a64patch raises: one tree, each class also the builtin that a caller would expect.

Read on: cli/main.py turns these into exit statuses.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own, without loading typing
if TYPE_CHECKING:
    from collections.abc import Sequence


class A64PatchError(Exception):
    """Root of all errors of this package; the message is one sentence: what, where, what to do."""


class EncodingError(A64PatchError, ValueError):
    """No instruction word can say this: a value out of range or unaligned, a word of another kind."""


class UnmovableError(A64PatchError, ValueError):
    """No instruction does at the other address what this one does at its own."""


class AssemblyError(A64PatchError, ValueError):
    """A text is not an instruction that the table of encodings knows."""

    position = -1
    """Where in the text the wrong operand begins, in characters; -1 when it is the whole instruction."""


class AlignmentError(A64PatchError, ValueError):
    """An instruction address is not a multiple of 4 bytes."""


class RequestError(A64PatchError, ValueError):
    """A patch request contradicts itself: no words, lists of different length, one address twice."""


class PatchFormatError(A64PatchError, ValueError):
    """A text is not an assembly diff, or says two different things; `line` and `column` count from 1, 0 is unknown."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        place = f"line {line}, column {column}: " if column else f"line {line}: " if line else ""
        super().__init__(place + message)
        self.line, self.column = line, column


class PlanError(A64PatchError, ValueError):
    """The patch does not fit this target, or has a danger that nobody accepted; nothing was changed."""


class JournalError(A64PatchError, OSError):
    """The journal cannot be read or written, is not one, or is held by another process.

    `target_changed`: it happened after the target had been changed, so that the entry stays open.
    """

    target_changed = False


class MismatchError(A64PatchError, ValueError):
    """The words that stand in the target are not the ones that were expected there."""


class CapabilityError(A64PatchError, NotImplementedError):
    """The target cannot do what this patch needs, and a weaker way would not be safe."""


class ScopeError(A64PatchError, NotImplementedError):
    """The memory models of this package say nothing about what is asked: the message names what it is."""


class BusyError(A64PatchError, TimeoutError):
    """A CPU kept standing inside the site, or did not come to the rendezvous, until the retries were used up."""


class SymbolError(A64PatchError, LookupError):
    """A site names a symbol, section or module that the target does not have, or has more than once."""


class TargetError(A64PatchError, OSError):
    """A target could not be opened, read or written."""


class FormatError(TargetError):
    """The input is not what it says it is: not ELF, not AArch64, truncated, contradictory."""


class MappingError(TargetError):
    """An address does not lie in what the target maps, or may not be written as code."""


class ReadError(TargetError):
    """The target failed to deliver bytes that it maps."""


class WriteError(TargetError):
    """The target failed to take bytes at an address that it maps."""


class RelocationError(A64PatchError, PermissionError):
    """A relocation owns the word: the loader would overwrite what is written there."""


class PartialPatchError(A64PatchError, RuntimeError):
    """A patch failed half way and could not be undone completely.

    `unrestored` are the addresses (bytes) whose word is not known to be the old one; the cause is chained.
    """

    def __init__(self, message: str, unrestored: Sequence[int]) -> None:
        super().__init__(message)
        self.unrestored = tuple(unrestored)

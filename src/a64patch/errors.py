"""Every error that a64patch raises: one tree. Each class is also the builtin that a caller would expect.

Read on: cli/main.py turns these into exit statuses.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own, without loading typing
if TYPE_CHECKING:
    from collections.abc import Sequence


class A64PatchError(Exception):
    """Root of all errors of this package. The message is one sentence: the problem, the place, the remedy."""


class EncodingError(A64PatchError, ValueError):
    """No instruction word exists for this: a value is out of range or unaligned, or a word is of another kind."""


class UnmovableError(A64PatchError, ValueError):
    """An instruction cannot be moved: none would do the same at the other address."""


class AssemblyError(A64PatchError, ValueError):
    """A text is not an instruction that the table of encodings knows."""

    position = -1
    """The offset of the wrong operand in the text (characters); -1 when the whole instruction is wrong."""


class AlignmentError(A64PatchError, ValueError):
    """An instruction address is not a multiple of 4 bytes."""


class RequestError(A64PatchError, ValueError):
    """A patch request contradicts itself: no words, lists of different length, one address twice."""


class PatchFormatError(A64PatchError, ValueError):
    """A text is not an assembly diff, or contradicts itself. `line` and `column` count from 1; 0 is unknown."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        place = f"line {line}, column {column}: " if column else f"line {line}: " if line else ""
        super().__init__(place + message)
        self.line, self.column = line, column


class PlanError(A64PatchError, ValueError):
    """The patch does not fit this target, or has a hazard that the user did not accept; nothing was changed."""


class LinkError(A64PatchError, ValueError):
    """Code of an object file cannot be made a patch for this target; the message names the cause and the remedy."""


class JournalError(A64PatchError, OSError):
    """The journal cannot be read or written, is no journal, or is held by another process.

    `target_changed` is true if the target had been changed before; then the journal's entry stays open.
    """

    target_changed = False


class MismatchError(A64PatchError, ValueError):
    """The target holds other words than the expected ones."""


class CapabilityError(A64PatchError, NotImplementedError):
    """The target cannot do what this patch needs, and a weaker way would not be safe."""


class ScopeError(A64PatchError, NotImplementedError):
    """The memory models of this package do not cover a question; the message names the reason."""


class BusyError(A64PatchError, TimeoutError):
    """A CPU was in the way at every try, or did not come to the rendezvous."""


class SymbolError(A64PatchError, LookupError):
    """A site names a symbol, section or module that the target does not have, or has more than once."""


class TargetError(A64PatchError, OSError):
    """A target could not be opened, read or written."""


class GoneError(TargetError):
    """A running target does not exist any more, and neither do the words that were written to it.

    `incarnation` is that of this moment: `targets.base.Identity.incarnation`, as far as it is known.
    """

    incarnation = ""


class FormatError(TargetError):
    """A file or its content is wrong: not ELF, not AArch64, truncated, contradictory."""


class MappingError(TargetError):
    """The target does not map an address, or the address may not be written as code."""


class ReadError(TargetError):
    """The target failed to deliver bytes that it maps."""


class WriteError(TargetError):
    """The target failed to take bytes at an address that it maps."""


class RelocationError(A64PatchError, PermissionError):
    """A relocation owns the word: the loader would overwrite the new word."""


class PartialPatchError(A64PatchError, RuntimeError):
    """A patch failed half way and could not be undone completely. The cause is chained.

    `unrestored` has the addresses (bytes) of the words that are not known to be the old ones.
    """

    def __init__(self, message: str, unrestored: Sequence[int]) -> None:
        super().__init__(message)
        self.unrestored = tuple(unrestored)

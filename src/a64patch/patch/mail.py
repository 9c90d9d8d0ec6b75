"""The text of a patch file as it arrives: in a mail, quoted, indented, with a signature below it.

Knows the text of a patch only, and no target.
Read on: docs/patch-format.md, "As it arrives"; asmdiff.py reads the text.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import TYPE_CHECKING, Any

from a64patch.a64.disassembler import disassemble
from a64patch.errors import PatchFormatError
from a64patch.patch.asmdiff import BUILD_ID, HUNKS, TARGET, decode, require_small, subject
from a64patch.patch.meaning import refers

if TYPE_CHECKING:
    from email.message import Message

MOST_PARTS = 20
"""MIME parts of a mail. Parts inside of parts count too, so this is also the greatest depth."""
MOST_HEADER = 16 << 10
"""The size of one header of a mail (bytes)."""
_MOST_HEAD_LINES = 2000
_MOST_MAILS = 2
"""A mail, and a mail that is attached to it."""
_LONGEST_SUBJECT = 2000

_MAIL_HEADERS = frozenset({b"from", b"subject"})
_PATCH_HEADERS = frozenset(name.lower().encode() for name in (TARGET, BUILD_ID, HUNKS))
_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
_NEXT_MAIL = re.compile(rb"\n\r?\nFrom \S+ [^\n]{0,200}\d{4}\r?\n[!-9;-~]+:")
_HUNK = re.compile(r"^([ \t>]*)@@[ \t]", re.MULTILINE)
_HUNK_BYTES = re.compile(rb"^[ \t>]*@@[ \t]", re.MULTILINE)
_INSTRUCTION = re.compile(r"[ +-]([0-9a-fA-F]{8})(?:[ \t]+(\S.*))?")
_OF_A_PATCH = re.compile(r"[ \t>]*(?:@@[ \t]|[+-]?(?:[0-9a-fA-F]{8}|\?{8})(?!\S))")
_NO_QUOTED_PRINTABLE = re.compile(rb"=(?![0-9A-Fa-f]{2}|\r?\n|\Z)")
_TAGS = re.compile(r"(?:\s*(?:re:|\[[^]]*\bpatch\b[^]]*\]))*\s*", re.IGNORECASE)
_CHARSETS = re.compile(
    r"utf-?8|(?:us-)?ascii|iso-?8859-\d+|windows-\d+|koi8-[ru]|gbk?\d*|big5|euc-\w+|shift_jis|iso-2022-\w+"
)
"""Character sets of mails. Python has others, some of which take quadratic time."""
_PLAIN_ENCODINGS = ("7bit", "8bit", "binary")


def unwrapped(data: bytes) -> str:
    """The text of a patch file, ready for `parse`. The lines of hunks are neither changed nor joined.

    - A mail: its one part with hunks, decoded. The mail's subject becomes the first line of the description.
    - A text whose hunks are all quoted or indented: without this beginning of its lines.
    - A signature behind the last hunk, from a line `-- ` on: taken away.
    - A last line without an end gets one, if no end of it can be missing: see `_ended`.

    Line numbers stay those of the file, except in a mail that is encoded or has several parts.

    PatchFormatError for

    - more than MOST_BYTES, MOST_LINES, MOST_PARTS or MOST_HEADER;
    - a damaged mail, and text in an encoding that is not known;
    - several mails, and several parts with hunks;
    - a text where only some lines are quoted or indented.
    """
    return _unwrapped(data, _MOST_MAILS)


def _unwrapped(data: bytes, mails: int) -> str:
    require_small(len(data), data.count(b"\n"))
    data = data.removeprefix(b"\xef\xbb\xbf")
    head = _head_lines(data)
    if not head:
        return _ended(_bare(decode(data)))
    if not mails:
        raise PatchFormatError("the patch is in a mail inside of other mails: save the innermost mail")
    further = len(_NEXT_MAIL.findall(data)) if data.startswith(b"From ") else 0
    if further:
        raise PatchFormatError(
            f"the file has {further + 1} mails, and each patch is a transaction of its own: split the file, as"
            " `git mailsplit` does, and apply one patch after the other"
        )
    return _of_mail(data, head, mails)


def _head_lines(data: bytes) -> int:
    """The number of lines before the body of a mail; 0 when the data are no mail.

    A mail begins with a paragraph of headers, with From or Subject among them, and with none of a patch's own headers.
    """
    names: set[bytes] = set()
    for number, line in enumerate(BytesIO(data)):
        name = _NAME.match(line)
        if not line.strip():
            mail = names & _MAIL_HEADERS and not names & _PATCH_HEADERS
            return number + 1 if mail else 0
        if number > _MOST_HEAD_LINES:
            break
        if number == 0 and line.startswith(b"From "):
            continue
        if name is not None:
            names.add(name[1].lower())
        elif not names or line[:1] not in b" \t":
            break
    return 0


def _of_mail(data: bytes, head: int, mails: int) -> str:
    mail = _parsed(data)
    found = []
    for part in mail.walk():
        _require_sound(part)
        if part.get_content_maintype() == "message":
            raise PatchFormatError("the mail has another mail in it: save the one that has the patch")
        if part.is_multipart() or part.get_content_maintype() not in ("text", "application"):
            continue
        if part.get_content_subtype() != "html":
            text = _part_text(part)
            if text:
                found.append((part, text))
    if not found:
        raise PatchFormatError("no part of the mail that is plain text has a hunk: a patch needs a line `@@ SITE @@`")
    if len(found) > 1:
        raise PatchFormatError(f"{len(found)} parts of the mail have hunks: save one of them")
    [(part, text)] = found
    title = _title(mail)
    if part is not mail:
        # The boundary behind the part shows that the part is whole.
        text = text if text.endswith("\n") else f"{text}\n"
        if part.get_content_disposition() == "attachment":
            text = _unwrapped(text.encode(), mails - 1)
            return text if subject(text) or not title else f"{title}\n\n{text}"
    same_lines = part is mail and _encoding(part) in _PLAIN_ENCODINGS and not _is_flowed(part)
    body = _ended(_bare(text, head if same_lines else 0))
    if title in ("", subject(body)):
        return "\n" * head + body if same_lines else body
    return ("\n" * (head - 2) if same_lines else "") + f"{title}\n\n{body}"


def _parsed(data: bytes) -> Message:
    """The parts of a mail; PatchFormatError as soon as there are too many, or for a long header."""
    from email import message_from_bytes
    from email.message import Message
    from email.policy import Compat32

    class Policy(Compat32):
        def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
            if sum(map(len, sourcelines)) > MOST_HEADER:
                raise PatchFormatError(f"a header of the mail has more than {MOST_HEADER} bytes: save the patch alone")
            return super().header_source_parse(sourcelines)

    made = 0

    def part(*arguments: Any, **options: Any) -> Message:
        nonlocal made
        made += 1
        # The parser makes one more, as a test.
        if made > MOST_PARTS + 1:
            raise PatchFormatError(f"the mail has more than {MOST_PARTS} parts: save the patch alone")
        return Message(*arguments, **options)

    try:
        return message_from_bytes(data, part, policy=Policy())
    except UnicodeError as error:
        # The parser decodes names of boundaries by a character set that the mail names.
        raise PatchFormatError(f"the mail is damaged ({type(error).__name__}): save the patch alone") from None


def _require_sound(part: Message) -> None:
    if part.defects:
        raise PatchFormatError(f"the mail is damaged ({type(part.defects[0]).__name__}): ask for it again")
    for name in ("Subject", "Content-Type", "Content-Transfer-Encoding"):
        if len(part.get_all(name, [])) > 1:
            raise PatchFormatError(f"the mail has the header {name} twice: save the patch alone")


def _encoding(part: Message) -> str:
    return str(part.get("Content-Transfer-Encoding", "7bit")).strip().lower()


def _is_flowed(part: Message) -> bool:
    return part.get_content_type() == "text/plain" and str(part.get_param("format", "")).lower() == "flowed"


def _part_text(part: Message) -> str:
    """The decoded text of a part with hunks; empty for a part without hunks."""
    encoding, charset = _encoding(part), part.get_content_charset("utf-8")
    if encoding not in (*_PLAIN_ENCODINGS, "quoted-printable", "base64"):
        raise PatchFormatError(f"the mail has the encoding {encoding[:40]!r}: save the patch alone")
    if not _CHARSETS.fullmatch(charset):
        raise PatchFormatError(f"the mail has the character set {charset[:40]!r}: save the patch as UTF-8")
    raw = part.get_payload(decode=True)
    assert isinstance(raw, bytes)
    if not _HUNK_BYTES.search(raw):
        return ""
    _require_sound(part)
    if encoding == "quoted-printable":
        written = str(part.get_payload()).encode("ascii", "replace")
        if _NO_QUOTED_PRINTABLE.search(written):
            raise PatchFormatError("the mail is not quoted-printable, although it says so: save the patch alone")
    try:
        text = raw.decode(charset)
    except LookupError:
        raise PatchFormatError(f"there is no character set {charset[:40]!r}: save the patch as UTF-8") from None
    except UnicodeDecodeError as error:
        raise PatchFormatError(f"byte {raw[error.start]:#04x} of the mail is not {charset} text") from None
    text = text.removeprefix("\ufeff")
    return _unflowed(text, str(part.get_param("delsp", "")).lower() == "yes") if _is_flowed(part) else text


def _unflowed(text: str, delete_blank: bool) -> str:
    """The lines of a text of format=flowed (RFC 3676, section 4), each after its own quotation marks."""
    lines: list[str] = []
    pieces: list[str] = []
    """The line so far."""
    depth = -1
    """Of quotation of the line before, if that goes on; else -1."""
    for line in text.replace("\r\n", "\n").split("\n"):
        content = line.lstrip(">")
        quoted = len(line) - len(content)
        content = content.removeprefix(" ")
        flows = content.endswith(" ") and content != "-- "
        if quoted != depth or content == "-- ":
            lines.append("".join(pieces))
            pieces = [">" * quoted + " " * (quoted > 0)]
        pieces.append(content[:-1] if flows and delete_blank else content)
        depth = quoted if flows else -1
    return "\n".join([*lines[1:], "".join(pieces)])


def _title(mail: Message) -> str:
    """The subject of a mail, without `Re:` and `[PATCH]`; empty when it has none or looks like a hunk."""
    from email.errors import HeaderParseError
    from email.header import decode_header

    header = mail.get("Subject", "")
    try:
        pieces = decode_header(header[:_LONGEST_SUBJECT] if isinstance(header, str) else header)
    except HeaderParseError:
        return ""
    text = ""
    for piece, charset in pieces:
        if isinstance(piece, bytes):
            known = charset is not None and _CHARSETS.fullmatch(charset.lower())
            try:
                piece = piece.decode(charset if charset and known else "utf-8", "replace")
            except LookupError:
                return ""
        text += piece
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    text = " ".join(text[_tags_end(text) :].split())
    return "" if text.startswith("@@") else text


def _tags_end(text: str) -> int:
    tags = _TAGS.match(text)
    return tags.end() if tags is not None else 0


def _bare(text: str, before: int = 0) -> str:
    """The text without quotation or indentation, and without a signature. `before` lines of the file precede it."""
    text = _unsigned(text, before)
    first = _HUNK.search(text)
    if first is None or not first[1] or text.startswith("@@") or "\n@@" in text:
        return text
    prefix = first[1]
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if line.startswith(prefix):
            lines[index] = line[len(prefix) :]
        elif line.strip() in ("", prefix.strip()):
            lines[index] = ""
        else:
            at = text.count("\n", 0, first.start()) + 1 + before
            raise PatchFormatError(
                f"the line does not begin with {prefix[:40]!r}, as the hunk in line {at} does: keep the lines of the"
                " patch alone",
                index + 1 + before,
            )
    return _unsigned("\n".join(lines), before)


def _unsigned(text: str, before: int) -> str:
    """The text up to a line `-- ` behind the last hunk header. PatchFormatError where more of it follows."""
    at = max(text.rfind("\n@@"), 0)
    while (at := text.find("\n--", at) + 1) > 0:
        end = text.find("\n", at)
        if text[at : end if end >= 0 else None].rstrip() != "--":
            continue
        number = text.count("\n", 0, at) + 1 + before
        for further, each in enumerate(text[at:].split("\n")):
            if _OF_A_PATCH.match(each):
                raise PatchFormatError(
                    f"the patch goes on behind the signature in line {number}: take the line of the signature away",
                    number + further,
                )
        return text[:at]
    return text


def _ended(text: str) -> str:
    """The text with an end of its last line, if this line is a whole instruction for certain.

    It is when its word refers to no address, and its text is the whole text of the word. Elsewhere a missing end stays
    missing, and `parse` refuses it as far as there are counts.
    """
    last = _INSTRUCTION.fullmatch(text[text.rfind("\n") + 1 :].rstrip())
    if last is None:
        return text
    word = int(last[1], 16)
    if not refers(word) and " ".join((last[2] or "").split()) == disassemble(word):
        return f"{text}\n"
    return text

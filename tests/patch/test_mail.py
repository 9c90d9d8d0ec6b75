"""Patch files as they arrive: in mails, quoted, indented, signed, cut off; and hostile mails within bounds."""

from __future__ import annotations

import email.policy
import random
import re
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.errors import PatchFormatError
from a64patch.patch.asmdiff import MOST_LINES, AsmDiff, parse, subject, to_text
from a64patch.patch.mail import MOST_HEADER, MOST_PARTS, unwrapped

HUNKS = """\
@@ uptime_proc_show+0x74 -3 +3 @@
 2a1303e1  mov   w1, w19
-97ffffc3  bl    get_idle_time
+d2800000  mov   x0, #0
 11000662  add   w2, w19, #1
"""
BODY = f"It costs größer 5 %.\n\nBuild-Id: aabbccdd\n\n{HUNKS}"
PATCH = f"Answer 0 for the idle time\n\n{BODY}"
WHOLE = parse(PATCH)
SIGNATURE = "-- \n2.39.5\n\n"
HEAD = "From: A U Thor <author@example.com>\nSubject: [PATCH v2 1/1] Answer 0 for the\n idle time\nDate: today\n"
TEXT = "MIME-Version: 1.0\nContent-Type: text/plain; charset={}\nContent-Transfer-Encoding: {}\n"


def read(text: str | bytes) -> AsmDiff:
    return parse(unwrapped(text.encode() if isinstance(text, str) else text))


def quoted(text: str, mark: str) -> str:
    return "".join(f"{mark}{line}".rstrip(" ") + "\n" for line in text.splitlines())


def mail(encoding: str, charset: str = "utf-8", body: str = BODY, end: str = "\n") -> bytes:
    message = EmailMessage(policy=email.policy.SMTP if end == "\r\n" else email.policy.default)
    message["From"] = "A U Thor <author@example.com>"
    message["Subject"] = "[PATCH] Answer 0 for the idle time"
    message.set_content(body, charset=charset, cte=encoding)
    return message.as_bytes()


def attached(
    *files: str | bytes, text: str = "Hello,\n\nthe patch is attached.\n", cte: str = "base64"
) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "A U Thor <author@example.com>"
    message["Subject"] = "[PATCH] Answer 0 for the idle time"
    message.set_content(text)
    for number, file in enumerate(files):
        data = file.encode() if isinstance(file, str) else file
        message.add_attachment(data, "text", "x-patch", filename=f"{number}.patch", cte=cte)
    return message


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PATCH + SIGNATURE, id="signature"),
        pytest.param(PATCH + SIGNATURE.replace("-- ", "--"), id="signature-without-its-blank"),
        pytest.param((PATCH + SIGNATURE).replace("\n", "\r\n"), id="crlf"),
        pytest.param(PATCH.rstrip("\n"), id="no-final-newline"),
        pytest.param(quoted(PATCH, "> "), id="quoted"),
        pytest.param(quoted(PATCH, ">"), id="quoted-without-blank"),
        pytest.param(quoted(quoted(PATCH, "> "), "> "), id="quoted-twice"),
        pytest.param(quoted(PATCH + SIGNATURE, "> "), id="quoted-signature"),
        pytest.param(quoted(PATCH, "> ") + SIGNATURE, id="quoted-then-signed"),
        pytest.param(quoted(PATCH, "> ").replace("\n", "\r\n"), id="quoted-crlf"),
        pytest.param(quoted(PATCH, "    "), id="indented"),
        pytest.param(quoted(PATCH, " "), id="indented-by-a-blank"),
        pytest.param(quoted(PATCH, "\t"), id="indented-by-a-tab"),
        pytest.param(quoted(PATCH, "    ").rstrip("\n"), id="indented-no-final-newline"),
        pytest.param(f"{HEAD}\n{BODY}", id="mail"),
        pytest.param(f"\ufeff{HEAD}\n{BODY}{SIGNATURE}", id="mail-with-signature-and-mark"),
        pytest.param(f"{HEAD}\n{BODY}{SIGNATURE}".replace("\n", "\r\n"), id="mail-crlf"),
        pytest.param(f"From 0123abcd Mon Sep 17 00:00:00 2001\n{HEAD}\n{BODY}{SIGNATURE}", id="mailbox"),
        pytest.param(f"{HEAD}\n{quoted(BODY, '> ')}{SIGNATURE}", id="mail-quoted"),
        pytest.param(f"{HEAD}\n{BODY}".rstrip("\n"), id="mail-no-final-newline"),
        pytest.param(mail("8bit"), id="mail-8bit"),
        pytest.param(mail("quoted-printable"), id="quoted-printable"),
        pytest.param(mail("quoted-printable", "iso-8859-1"), id="quoted-printable-latin-1"),
        pytest.param(mail("quoted-printable", end="\r\n"), id="quoted-printable-crlf"),
        pytest.param(mail("base64"), id="base64"),
        pytest.param(mail("base64", body=BODY.replace("\n", "\r\n")), id="base64-crlf"),
        pytest.param(attached(PATCH).as_bytes(), id="attached"),
        pytest.param(attached(PATCH.removesuffix("\n")).as_bytes(), id="attached-no-final-newline"),
        pytest.param(attached(f"{HEAD}\n{BODY}{SIGNATURE}").as_bytes(), id="attached-mail"),
        pytest.param(attached(text=BODY).as_bytes(), id="beside-nothing"),
        pytest.param(attached("notes\n", text=BODY).as_bytes(), id="beside-an-attachment"),
    ],
)
def test_a_patch_is_the_same_however_it_arrives(text: str | bytes) -> None:
    assert read(text) == WHOLE
    assert to_text(read(text)) == to_text(WHOLE)


def test_plain_patches_are_handed_on_as_they_are() -> None:
    prose = f"Undo this:\n\n    @@ pair -1 +1 @@\n    -11000400\n\n> @@ other @@\nFrom here on.\n\n-- \n\n{PATCH}"
    for text in (PATCH, prose, f"From now on, answer 0.\n\n{PATCH}", f"Subject: x\nBuild-Id: aa\n\n{HUNKS}"):
        assert unwrapped(text.encode()) == text


@pytest.mark.parametrize(
    ("header", "description"),
    [
        ("Subject: Re: [PATCH v3 1/2] [arm64] Answer 0", "[arm64] Answer 0"),
        ("Subject: [RFC PATCH] Answer 0", "Answer 0"),
        ("Subject: =?utf-8?q?Answer_gr=C3=B6=C3=9Fer?=", "Answer größer"),
        ("Subject: =?iso-8859-1?q?Answer_gr=F6=DFer?=", "Answer größer"),
        ("Subject: =?utf-8?q?Answer_0=0A@@_x_@@?=", "Answer 0 @@ x @@"),
        ("Subject: =?idna?q?Answer?= 0", "Answer 0"),
        ("Subject: Answer größer", "Answer größer"),
        ("Subject: @@ f -1 +1 @@", ""),
        ("Subject:", ""),
        ("From: somebody", ""),
    ],
)
def test_the_subject_is_the_first_line_of_the_description(header: str, description: str) -> None:
    text = unwrapped(f"{header}\n\n{HUNKS}".encode())
    assert subject(text) == description
    assert parse(text).hunks == WHOLE.hunks


def test_a_subject_that_the_body_repeats_is_there_once() -> None:
    assert read(f"{HEAD}\n{PATCH}") == WHOLE


def test_the_subject_of_a_mail_names_a_file_that_has_no_name() -> None:
    assert read(attached(HUNKS).as_bytes()).description == ("Answer 0 for the idle time",)
    assert read(attached(f"Mine\n\n{HUNKS}").as_bytes()).description == ("Mine",)


def flowed(text: str, quotation: str, delete: bool) -> str:
    """The text with a soft line break behind `It costs` and `w1,`, written as RFC 3676 has it."""
    lines = []
    for line in text.splitlines():
        for piece in re.split(r"(?<=It costs )|(?<=w1, )", line):
            soft = delete and piece.endswith((" costs ", "w1, "))
            stuffed = quotation or piece.startswith((" ", ">", "From "))
            lines.append(quotation + " " * bool(stuffed) + piece + " " * soft)
    return "".join(f"{line}\n" for line in lines)


def test_the_boundary_behind_a_part_shows_that_it_is_whole() -> None:
    text = "Call\n\n@@ f -1 +1 @@\n-d503201f  nop\n+97ffffc3  bl    get_idle_time"
    assert read(attached(text).as_bytes()) == parse(f"{text}\n")
    with pytest.raises(PatchFormatError, match="last line has no end"):
        read(text)


@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("quotation", ["", ">"])
def test_lines_that_flow_are_joined(quotation: str, delete: bool) -> None:
    kind = "text/plain; charset=utf-8; format=flowed" + ("; delsp=yes" if delete else "")
    text = flowed(BODY, quotation, delete)
    assert text.count("\n") == BODY.count("\n") + 2
    # A signature is never joined to the line before.
    text = text if quotation else text.removesuffix("\n") + " \n"
    assert read(f"{HEAD}MIME-Version: 1.0\nContent-Type: {kind}\n\n{text}{SIGNATURE}") == WHOLE


def test_line_numbers_are_those_of_the_file() -> None:
    text = f"{HEAD}\n{BODY.replace('+d2800000', '+d280000')}"
    with pytest.raises(PatchFormatError) as failed:
        read(text)
    assert text.split("\n")[failed.value.line - 1].startswith("+d280000 ")
    text = f"{HEAD}\n{quoted(BODY, '> ').replace('> +d28', 'No.')}"
    with pytest.raises(PatchFormatError) as failed:
        read(text)
    assert text.split("\n")[failed.value.line - 1].startswith("No.")
    [hunk] = read(f"{HEAD}\n{quoted(BODY, '> ')}").hunks
    assert hunk.number == f"{HEAD}\n{BODY}".split("\n").index("@@ uptime_proc_show+0x74 -3 +3 @@") + 1


def nested(depth: int) -> bytes:
    message = MIMEText(PATCH)
    for _ in range(depth):
        message, inner = MIMEMultipart(), message  # type: ignore[assignment]
        message.attach(inner)
    message["Subject"] = "x"
    return message.as_bytes()


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "lost sign": (PATCH.replace("\n 2a13", "\n2a13"), "begins with a blank, `-` or `\\+`"),
    "lost line": (PATCH.replace("-97ffffc3  bl    get_idle_time\n", ""), "counts -3 \\+3"),
    "cut in a text": (PATCH[:-2], "last line has no end"),
    "cut behind a name": (PATCH[: PATCH.index("idle_time\n+") + 4].replace("-3 +3", "-2 +1"), "last line has no end"),
    "cut in an address": ("@@ f -1 +1 @@\n-d503201f  nop\n+14000002  b 0x8", "last line has no end"),
    "wrapped line": (PATCH.replace("get_idle", "\nget_idle"), "begins with a blank"),
    "no-break space": (PATCH.replace("bl  ", "bl \xa0"), "is not text"),
    "signature in a hunk": (PATCH.replace("+d28", "-- \n+d28"), "goes on behind the signature in line 10"),
    "signature between hunks": (f"{PATCH}-- \n@@ g @@\n-00000000\n+00000001\n", "eight hex digits"),
    "signature between quoted hunks": (
        quoted(PATCH, "> ") + "-- \n> @@ g @@\n> -00000000\n> +00000001\n",
        "goes on behind the signature",
    ),
    "comment in quotes": (quoted(PATCH, "> ").replace("> +d28", "No.\n> +d28"), "line 10: .* begin with '> '"),
    "attribution": (f"Somebody wrote:\n{quoted(PATCH, '> ')}", "line 1: the line does not begin with '> '"),
    "other indentation": (quoted(PATCH, "  ").replace("   2a13", " 2a13"), "begin with '  '"),
    "two mails": (
        f"From 01 Mon Sep 17 00:00:00 2001\n{HEAD}\n{BODY}\nFrom 02 Mon Sep 17 00:00:00 2001\n{HEAD}\n{BODY}",
        "has 2 mails, .*git mailsplit",
    ),
    "two attachments": (attached(PATCH, PATCH).as_bytes(), "2 parts of the mail have hunks"),
    "text and attachment": (attached(PATCH, text=PATCH).as_bytes(), "2 parts of the mail have hunks"),
    "no hunk": (f"{HEAD}\nHello\n", "has a hunk"),
    "only as HTML": (f"{HEAD}Content-Type: text/html\n\n{PATCH}", "plain text has a hunk"),
    "encoding": (f"{HEAD}{TEXT.format('utf-8', 'x-uuencode')}\n{PATCH}", "encoding 'x-uuencode'"),
    "character set": (f"{HEAD}{TEXT.format('idna', '8bit')}\n{PATCH}", "character set 'idna'"),
    "unknown character set": (f"{HEAD}{TEXT.format('windows-99', '8bit')}\n{PATCH}", "no character set 'windows-99'"),
    "other character set": (f"{HEAD}{TEXT.format('us-ascii', '8bit')}\n{PATCH}", "byte 0xc3 .* not us-ascii"),
    "not quoted-printable": (f"{HEAD}{TEXT.format('utf-8', 'quoted-printable')}\nx == y\n{PATCH}", "not quoted-print"),
    "not base64": (f"{HEAD}{TEXT.format('utf-8', 'base64')}\n{'QEAg' * 20}Q\n", "damaged|has a hunk"),
    "cut base64": (mail("base64").rstrip()[:-2], "damaged|no end"),
    "cut before the last boundary": (re.sub(rb"--.*--\s*\Z", b"", attached(PATCH).as_bytes()), "CloseBoundaryNotFound"),
    "long mail": (f"{HEAD}\n" + "\n" * MOST_LINES, f"or {MOST_LINES} lines"),
    "two encodings": (f"{HEAD}{TEXT.format('utf-8', '8bit')}{TEXT.format('utf-8', 'base64')}\n{PATCH}", "twice"),
    "mail in a mail": (f"{HEAD}Content-Type: message/rfc822\n\n{HEAD}\n{PATCH}", "another mail in it"),
    "mail in mails": (
        attached(attached(attached(f"{HEAD}\n{PATCH}", cte="8bit").as_bytes(), cte="8bit").as_bytes()).as_bytes(),
        "inside of other mails",
    ),
    "many parts": (attached(PATCH, *[b"x"] * MOST_PARTS).as_bytes(), f"more than {MOST_PARTS} parts"),
    "deep parts": (nested(MOST_PARTS), f"more than {MOST_PARTS} parts"),
    "boundary in no text": (
        f"{HEAD}Content-Type: multipart/mixed; boundary*=idna'x'%FF\n\n{PATCH}",
        r"damaged \(UnicodeError\)",
    ),
    "long header": (f"{HEAD}X: {'x' * MOST_HEADER}\n\n{PATCH}", f"more than {MOST_HEADER} bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_be_read_in_two_ways_is_refused(name: str) -> None:
    text, says = REFUSED[name]
    with pytest.raises(PatchFormatError) as refused:
        read(text)
    assert re.search(says, str(refused.value)), str(refused.value)
    assert str(refused.value).count("\n") == 0


def test_parts_that_are_deep_but_few_are_read() -> None:
    assert read(nested(MOST_PARTS - 1)).hunks == WHOLE.hunks


def test_a_cut_never_changes_an_instruction() -> None:
    """A mail that was cut off anywhere is refused, or has all hunks as they were."""
    for text in (f"{HEAD}\n{BODY}".encode(), mail("quoted-printable"), mail("base64"), quoted(PATCH, "> ").encode()):
        read_again = 0
        for cut in range(len(text)):
            try:
                diff = read(text[:cut])
            except PatchFormatError:
                continue
            read_again += 1
            assert [(line.sign, line.word, line.text) for line in diff.hunks[0].lines] == [
                (line.sign, line.word, line.text) for line in WHOLE.hunks[0].lines
            ]
        assert read_again <= 3


PIECES = st.sampled_from(
    [
        "From a 2026\n", "From: a\n", "Subject: =?utf-8?q?x?=\n", "Subject: =?idna?b?eA?=\n", "\n", " x\n", "> ", ">",
        "-- \n", "--b\n", "--b--\n", "MIME-Version: 1.0\n", "Content-Type: multipart/mixed; boundary=b\n",
        "Content-Type: multipart/mixed; boundary*=idna'x'%FF\n", "Content-Type: message/rfc822\n", "=3D", "=\n", "=",
        "Content-Type: text/plain; charset*=punycode''%FF; format*0=flowed\n", "Content-Type: text/plain; charset=\xff",
        "Content-Type: ;;=\"\\\n", "Content-Disposition: attachment; filename*=idna'x'%FF\n", "QEAgZg==\n", "\t",
        "Content-Transfer-Encoding: base64\n", "Content-Transfer-Encoding: quoted-printable\n", "@@ f -1 +1 @@\n",
        "-d503201f\n", "+d503203f\n", " d503201f  nop", "Content-Type: text/plain; format=flowed; delsp=yes\n", "\r\n",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30), st.sampled_from(["utf-8", "latin-1"]))
def test_any_mail_of_pieces_is_a_text_or_a_format_error(pieces: list[str], charset: str) -> None:
    try:
        text = unwrapped("".join(pieces).encode(charset))
    except PatchFormatError:
        return
    assert isinstance(text, str)


def test_damaged_mails_are_a_text_or_a_format_error() -> None:
    generator = random.Random(1)
    mails = [mail("base64"), mail("quoted-printable"), attached(PATCH).as_bytes(), nested(5)]
    for _ in range(600):
        data = bytearray(generator.choice(mails))
        for _ in range(generator.randrange(1, 6)):
            at = generator.randrange(len(data))
            data[at : at + generator.randrange(3)] = generator.randbytes(generator.randrange(3))
        try:
            unwrapped(bytes(data))
        except PatchFormatError:
            continue

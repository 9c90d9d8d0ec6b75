"""Constant expressions: by example, and at random against GNU as and llvm-mc (Debian packages)."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from a64patch.a64.assembler import assemble, assemble_anywhere, assemble_one
from a64patch.a64.expressions import distance, evaluate
from a64patch.errors import AssemblyError
from tests.a64.references import assembled

JUDGES = ("gnu-as", "llvm-mc")
_ALL = (1 << 64) - 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 << 4 + 1", 17),
        ("2 + 3 & 4", 2),
        ("5 ^ 3 + 1", 7),
        ("8 >> 1 + 1", 5),
        ("010", 8),
        ("0b101", 5),
        ("0X1f", 31),
        ("'a' + 1", 98),
        ("','", 44),
        ("-7/2", -3),
        ("-7 % 3", -1),
        ("7 % -3", 1),
        ("-1 >> 1", (1 << 63) - 1),
        ("1 << 63", -1 << 63),
        ("0xffffffffffffffff", -1),
        ("0x7fffffffffffffff + 1", -1 << 63),
        ("3 ! 1", -1),
        ("!0 + !5", 1),
        ("- -1", 1),
        ("-~0", 1),
        ("2 - 1 - 1", 0),
        ("1 < 2", -1),
        ("1 == 2", 0),
        ("-1 < 0xfffffffffffffffe", 0),
        ("2 && 1 || 0", 1),
        ("0 || 0 && 1", 0),
        ("(" * 500 + "1" + ")" * 500, 1),
    ],
)
def test_value(text: str, value: int) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a number is missing at the end"),
        ("1 +", "a number is missing at the end"),
        ("1 2", "'2' is no operator"),
        ("(1", r"'\(' has no '\)'"),
        ("1)", r"'\)' has no '\('"),
        ("2**9", r"'\*' is no number"),
        ("1 = 1", "'=' is no operator"),
        ("1.5", "'1.5' is no number"),
        ("1e3", "'1e3' is no number"),
        ("0b12", "'0b12' is no number"),
        ("sym", "'sym' is no number"),
        ("'ab'", '"\'ab" is no number'),
        ("08", "0 in front of an octal number"),
        ("1/0", "division by zero"),
        ("0 && 1%0", "division by zero"),
        ("0x8000000000000000 / -1", "the quotient is more than 64 bits"),
        ("1 << 64", "a shift by 64, must be from 0 to 63"),
        ("1 >> -1", "a shift by -1, must be from 0 to 63"),
        ("0x10000000000000000", "0x10000000000000000 is more than 64 bits"),
        ("18446744073709551616", "more than 64 bits"),
        ("5 ! !9", "GNU as and llvm-mc differ about `!` before `!`: write parentheses"),
    ],
)
def test_error_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(AssemblyError, match=reason):
        evaluate(text)
    with pytest.raises(AssemblyError):
        assemble(f"mov x0, #{text}")


def test_distance_follows_an_address() -> None:
    assert [distance(text) for text in ("+4*2", "-4+8", "+4|1", "- (1 == 1)")] == [8, 4, 5, 1]
    with pytest.raises(AssemblyError, match="'==' cannot follow an address"):
        distance("+4 == 4")


class Names:
    """Two symbols, one with a name like a subtraction."""

    def resolve(self, site: str) -> int:
        name, _, offset = site.partition("+")
        addresses = {"target": 0x2000, "target-4": 0x3000}
        if name not in addresses:
            raise LookupError(f"there is no {site}")
        return addresses[name] + int(offset or "0", 16)

    def describe(self, address: int) -> str:
        return hex(address)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("b target + 4*2", "b 0x2008"),
        ("b target - 16 + 4 | 4", "b 0x1ff4"),
        ("b target-4", "b 0x3000"),
        ("b target-4+4", "b 0x2000"),
        ("b .+1 << 3", "b 0x1008"),
        ("b . - (1 << 3)", "b 0xff8"),
        ("b (1 << 12) + 010", "b 0x1008"),
        ("cbz x0, #0x1000 | 4", "cbz x0, 0x1004"),
        ("b target + 010", "b 0x2008"),
        ("b 0x1008", "b .+8"),
        ("adrp x0, target + 4096*2", "adrp x0, 0x4000"),
        ("adrp x0, 0x1000 * 3", "adrp x0, 0x3000"),
        ("add x0, x1, :lo12:target + 4*3", "add x0, x1, #12"),
        ("add x0, x1, #:lo12:target - 8", "add x0, x1, #0xff8"),
        ("ldr x0, [x1, :lo12:target + 8 * 3]", "ldr x0, [x1, #24]"),
        ("sub x0, x1, #4 - 9", "add x0, x1, #5"),
        ("adds x0, x1, 4 - 9, lsl#12", "subs x0, x1, #5, lsl #12"),
        ("add x0, x1, x2, lsl#3 - 1", "add x0, x1, x2, lsl #2"),
        (".inst 010", "udf #8"),
        (".inst 1 << 31 | 0x56000001", ".inst 0xd6000001"),
    ],
)
def test_expressions_in_labels_and_operands(text: str, same: str) -> None:
    assert assemble_one(text, 0x1000, Names()) == assemble_one(same, 0x1000, Names())


@pytest.mark.parametrize(
    ("text", "word"), [("sub x0, x1, #-0", 0xD1000020), ("subs x0, x1, 1 - 1", 0xF1000020), ("cmp x0, #-0", 0xF100001F)]
)
def test_zero_is_not_negative(text: str, word: int) -> None:
    """SUBS of 0 sets the carry, and ADDS of 0 does not."""
    assert assemble_one(text) == word
    assert [assembled(judge, [text]) for judge in JUDGES] == [[word], [word]]


@pytest.mark.parametrize("text", ["b target + 4*2", "b 1f-8", "adrp x0, target - 1", "ldr x0, [x1, :lo12:target - 8]"])
def test_every_address_counts_as_0_where_no_address_is_known(text: str) -> None:
    plain = {"b": "b .", "ad": "adrp x0, .", "ld": "ldr x0, [x1]"}[text.split()[0][:2].strip()]
    assert assemble_anywhere(text) == assemble_one(plain)


_OPERATORS = [
    "*",
    "/",
    "%",
    "<<",
    ">>",
    "|",
    "&",
    "^",
    "!",
    "+",
    "-",
    "==",
    "!=",
    "<>",
    "<",
    ">",
    "<=",
    ">=",
    "&&",
    "||",
]


def _number(source: random.Random) -> str:
    small, wide = source.randrange(10), source.getrandbits(source.choice([4, 8, 16, 32, 63, 64]))
    kinds = [
        str(small),
        str(small),
        str(wide),
        hex(wide),
        bin(wide % 256),
        f"0{wide % 256:o}",
        f"'{source.choice('aZ09+')}'",
    ]
    return source.choice(kinds)


def _expression(source: random.Random, depth: int) -> str:
    kind, space = source.random(), source.choice(["", " "])
    if depth == 0 or kind < 0.15:
        return _number(source)
    inner = _expression(source, depth - 1)
    if kind < 0.3:
        return source.choice("-~+!") + space + inner
    if kind < 0.45:
        return f"({inner})"
    return f"{inner}{space}{source.choice(_OPERATORS)}{space}{_expression(source, depth - 1)}"


def _expressions(seed: int) -> Iterator[str]:
    """Random expressions without the beginning of a comment."""
    source = random.Random(seed)
    while True:
        text = _expression(source, source.randrange(1, 5))
        if not re.search(r"/\s*/|/\s*\*", text):
            yield text


def _value(text: str) -> int | str:
    """The value; the sentence where there is none."""
    try:
        return evaluate(text)
    except AssemblyError as error:
        return str(error)


def test_random_expressions_as_gnu_as_and_llvm_mc() -> None:
    texts = [text for text, _ in zip(_expressions(1), range(6000), strict=False)]
    answers = zip(*(assembled(judge, [f".quad {text}" for text in texts], 8) for judge in JUDGES), strict=True)
    reasons: Counter[str] = Counter()
    for text, (gnu, llvm) in zip(texts, answers, strict=True):
        value = _value(text)
        if isinstance(value, int):
            assert gnu == llvm == value & _ALL, text
            reasons["value"] += 1
        elif "GNU as and llvm-mc differ" in value:
            reasons["differ"] += gnu != llvm
        else:
            assert gnu is None, f"GNU as refuses or warns: {text}: {value}"
            reasons[re.sub(r".*: |by .*", "", value)] += 1
    assert reasons.pop("value") > 5000
    assert reasons.keys() == {"differ", "a shift ", "division "}


@pytest.mark.parametrize(("text", "gnu", "llvm"), [("5 ! !9", 5 ^ 9, -1), ("8 !! 8 + 4", 4, 3)])
def test_the_judges_differ_about_what_we_refuse(text: str, gnu: int, llvm: int) -> None:
    said = [assembled(judge, [f".quad {text}"], 8)[0] for judge in JUDGES]
    assert said == [gnu, llvm & _ALL]
    with pytest.raises(AssemblyError, match="write parentheses"):
        evaluate(text)


def test_parentheses_make_the_judges_agree() -> None:
    for text in ("5 ! (!9)", "8 ! (!(8 + 4))"):
        assert [assembled(judge, [f".quad {text}"], 8)[0] for judge in JUDGES] == [evaluate(text) & _ALL] * 2


_OPERANDS = {
    # A spelling, and the values that fit
    "movz x0, %": range(65536),
    "mov x0, %": range(-65536, 65536),
    "mov w0, %": range(-65536, 65536),
    "add x0, x1, %": range(-4095, 4096),
    "subs x0, x1, %": range(-4095, 4096),
    "cmp w1, %": range(-4095, 4096),
    "and x0, x1, %": range(-(1 << 63), 1 << 63),
    "and w0, w1, %": range(-(1 << 31), 1 << 32),
    "ldr x0, [x1, %]": range(0, 32761, 8),
    "ldur x0, [x1, %]": range(-256, 256),
    "ldr x0, [x1], %": range(-256, 256),
    "ldr x0, [x1, %]!": range(-256, 256),
    "ldp x0, x2, [x1, %]!": range(-512, 505, 8),
    "lsl x0, x1, %": range(64),
    "ubfx x0, x1, %, 1": range(64),
    "movz x0, 1, lsl %": range(0, 49, 16),
    "add x0, x1, x2, lsl %": range(64),
    "add x0, x1, w2, uxtw %": range(5),
    "ldr x0, [x1, x2, lsl %]": range(0, 4, 3),
    "tbz x0, %, .": range(64),
    "ccmp x0, %, 1, eq": range(32),
    "ccmp x0, 1, %, eq": range(16),
    "svc %": range(65536),
    "hint %": range(128),
    "dmb %": range(16),
    "isb %": range(16),
    "prfm %, [x0]": range(32),
    "sys %, c7, c1, 0": range(8),
    "mov x0, v1.d[%]": range(2),
    "shl v0.2d, v1.2d, %": range(64),
    "movi v0.4s, %, lsl 8": range(256),
    "cbz x0, .+(%)": range(0, 4096, 4),
    ".inst %": range(1 << 32),
}


def _refused(judge: str, text: str) -> bool:
    """Whether llvm-mc refuses a spelling that GNU as and we read.

    An amount without `#` before a digit; as first operand of some instructions, an expression that begins with neither
    `#` nor a digit.
    """
    amount = re.search(r"(?:lsl|uxtw) ?(?!#\d)", text)
    return judge == "llvm-mc" and bool(amount or re.match(r"(?:prfm|isb|dmb) [^#\d]", text))


def test_random_expressions_in_operands_as_gnu_as_and_llvm_mc() -> None:
    source, texts = random.Random(3), list[tuple[str, str]]()
    for text, _ in zip(_expressions(2), range(6000), strict=False):
        value = _value(text)
        fits = [operand for operand, values in _OPERANDS.items() if isinstance(value, int) and value in values]
        if fits:
            operand = source.choice(fits)
            bare = operand in ("mov x0, v1.d[%]", "cbz x0, .+(%)", ".inst %")
            texts.append((operand, operand.replace("%", ("" if bare else source.choice(["", "#"])) + text)))
    answers = zip(*(assembled(judge, [text for _, text in texts]) for judge in JUDGES), strict=True)
    agreed: Counter[str] = Counter()
    for (operand, text), both in zip(texts, answers, strict=True):
        try:
            word = assemble_one(text)
        except AssemblyError:
            assert operand.startswith(("and", "mov ")), text
            assert both == (None, None), text
            continue
        for judge, answer in zip(JUDGES, both, strict=True):
            assert answer == word or (answer is None and _refused(judge, text)), (judge, text)
        agreed[operand] += both == (word, word)
    assert not [operand for operand in _OPERANDS if agreed[operand] < 10], agreed

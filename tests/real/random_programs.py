"""Programs that nobody wrote: C of a seed, without a library, whose `_start` prints a number for all that they compute.

Read on: test_random_detours.py compiles and patches them.
"""

from __future__ import annotations

from random import Random

_HEAD = """\
typedef unsigned long word;
static word memory[64];
static unsigned char bytes[64];
static int fuel; /* how many calls and rounds are left */
"""
_TAIL = """\
void _start(void) {
    word sum = 0;
    char text[17];
    for (word n = 0; n < 12; n++)
        for (unsigned which = 0; which < sizeof all / sizeof *all; which++, fuel = 500)
            sum = sum * 1000003 + all[which](n * 7, sum);
    for (int place = 0; place < 64; place++)
        sum = sum * 31 + memory[place] + bytes[place];
    for (int digit = 0; digit < 16; digit++, sum <<= 4)
        text[digit] = "0123456789abcdef"[sum >> 60];
    text[16] = '\\n';
    register long x8 __asm__("x8") = 64, x0 __asm__("x0") = 1, x1 __asm__("x1") = (long)text, x2 __asm__("x2") = 17;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    x8 = 93;
    x0 = 0;
    __asm__ volatile("svc #0" : : "r"(x8), "r"(x0));
    __builtin_unreachable();
}
"""
_OPERATORS = ("+", "-", "*", "^", "&", "|")
_COMPARISONS = ("<", ">", "==", "!=", "<=", ">=")


class _Writer:
    """One program."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.functions = self.random.randint(4, 9)

    def text(self) -> str:
        parts = [_HEAD]
        parts += [self.function(number) for number in range(self.functions)]
        names = ", ".join(f"f{number}" for number in range(self.functions))
        return "".join([*parts, f"static word (*const all[])(word, word) = {{{names}}};\n", _TAIL])

    def function(self, number: int) -> str:
        linkage = self.random.choice(["", "static ", "__attribute__((noinline)) static "])
        body = "".join(self.statement(number, 3) for _ in range(self.random.randint(2, 6)))
        return (
            f"{linkage}word f{number}(word a, word b) {{\n    word c = {self.constant()}, d = b;\n"
            f"    if (--fuel < 0)\n        return a;\n{body}    return a ^ c + d;\n}}\n"
        )

    def constant(self) -> str:
        return f"{self.random.choice([3, 8, 255, 1 << 20, 0x123456789ABCDEF])}ul"

    def value(self, number: int, depth: int = 2) -> str:
        choice = self.random.randrange(9 if depth else 4)
        if choice < 3:
            return self.random.choice("abcd")
        if choice == 3:
            return self.constant()
        left, right = self.value(number, depth - 1), self.value(number, depth - 1)
        if choice == 4:
            return f"memory[({left}) & 63]"
        if choice == 5:
            return f"(({left}) >> ({right} & 31))"
        if choice == 6:
            return f"(({left}) / (({right}) | 1))"
        if choice == 7 and number:
            return f"f{self.random.randrange(number)}({left}, {right})"
        return f"(({left}) {self.random.choice(_OPERATORS)} ({right}))"

    def statement(self, number: int, depth: int) -> str:
        choice = self.random.randrange(8 if depth else 3)
        value = self.value(number)
        if choice == 0:
            return f"    memory[({self.value(number)}) & 63] = {value};\n"
        if choice == 1:
            return f"    bytes[({self.value(number)}) & 63] += {value};\n"
        if choice < 4:
            return f"    {self.random.choice('abcd')} = {value};\n"
        inner = "".join(self.statement(number, depth - 1) for _ in range(self.random.randint(1, 3)))
        condition = f"({value}) {self.random.choice(_COMPARISONS)} ({self.value(number)})"
        if choice == 4:
            return f"    if ({condition}) {{\n{inner}    }} else {{\n{self.statement(number, depth - 1)}    }}\n"
        if choice == 5:
            return f"    for (int i{depth} = 0; i{depth} < {self.random.randint(2, 5)}; i{depth}++) {{\n{inner}    }}\n"
        if choice == 6:
            count = self.random.randint(4, 9)
            cases = "".join(f"    case {case}: {self.statement(number, 0).strip()} break;\n" for case in range(count))
            return f"    switch (({value}) & 15) {{\n{cases}    default: c++;\n    }}\n"
        return f"    while (--fuel > 0 && {condition}) {{\n{inner}    }}\n"


def program(seed: int) -> str:
    """The source of a program; it always ends."""
    return _Writer(seed).text()

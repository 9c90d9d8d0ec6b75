"""Programs with functions of an object linked in: they do what they do when a linker built them with these functions.

gcc makes objects and programs, GNU ld links, and qemu-aarch64 executes.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest

from a64patch.applying import apply, revert
from a64patch.errors import LinkError
from a64patch.linking.link import link
from a64patch.patch.asmdiff import parse, to_text
from a64patch.patch.journal import Journal
from a64patch.patch.plan import make_plan
from a64patch.targets.elf import ElfFile
from tests.support import need, run

MAIN = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int limit = 7;
int calls;
char text[64];
static __attribute__((noinline)) int secret(int n) { return n * limit + 1; }
const char *name(int n) { return n & 1 ? "odd" : "even"; }
int check(const char *s, int n);
int other(int n);
double weigh(int n, double x);
int (*pick(int n))(int);
static int compare(const void *a, const void *b) { return *(const char *)a - *(const char *)b; }
/* What is not called here is not imported. */
void imports(char *a, const char *b, int n) {
    fprintf(stdout, "%d", n);
    memcpy(a, b, n);
    strcpy(a, b);
    qsort(a, strlen(b), 1, compare);
    snprintf(a, n, b, n);
    fwrite(a, 1, n, stdout);
    fputs(a, stdout);
}
int main(int many, char **words) {
    if (many > 100) imports(words[0], words[1], many);
    for (int n = -3; n < 20; n++) {
        printf("%d: %d", n, check("abcdefghijklmnopqrs", n));
        printf(" %d %.3f %d %s %d\n", other(n), weigh(n, n * 1.5), pick(n)(n), text, secret(n));
    }
    printf("%d calls, %d\n", calls, pick(1) == other);
    return calls & 63;
}
"""
OLD = r"""
__attribute__((noipa)) int check(const char *s, int n) { (void)s; return n > 100 ? 0 : name(n)[0]; }
__attribute__((noipa)) int other(int n) { return n ^ limit; }
__attribute__((noipa)) double weigh(int n, double x) { return n > 1000 ? 0 : x; }
static int plain(int n) { return -n; }
__attribute__((noipa)) int (*pick(int n))(int) { return n & 1 ? other : plain; }
"""
NEW = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
extern int limit, calls;
extern char text[64];
extern int secret(int);
extern const char *name(int);
static const int squares[] = {0, 1, 4, 9, 16, 25, 36, 49};
static const struct { char tag; double weight; } weights[] = {{'a', 1.25}, {'b', 2.5}, {'c', 1e100}};
static const char *const none = "none";
int other(int n);
static __attribute__((noinline)) int twice(int n) { return 2 * n + squares[n & 7]; }
static __attribute__((noinline)) int kind(int n) {
    switch (n) {
    case 0: calls += 2; return 100;
    case 1: return secret(3) + 7;
    case 2: return twice(n) * 3;
    case 3: fprintf(stdout, "<three>"); return 5;
    case 4: return limit;
    case 5: return (int)strlen(name(n)) * 11;
    case 6: return squares[limit & 7] - 1000;
    case 7: return n * 123457;
    case 9: return 0x12345678;
    case 10: return -7;
    }
    return -1;
}
static int backwards(const void *a, const void *b) { return *(const char *)b - *(const char *)a; }
int check(const char *s, int n) {
    calls++;
    if (n < 0) {
        strcpy(text, none);
        return -1;
    }
    if (n >= (int)sizeof text || n > 2 * limit) {
        snprintf(text, sizeof text, "too long: %d of %d", n, 2 * limit);
        return -2;
    }
    memcpy(text, s, n);
    text[n] = 0;
    if (n == 9) qsort(text, n, 1, backwards);
    return kind(n) + squares[n & 7];
}
int other(int n) {
    static const void *const places[] = {&&a, &&b, &&c};
    (void)places;
    if (n > 12) goto *(n & 1 ? &&a : &&b);
    goto c;
a:  return n * 3;
b:  return n * 5;
c:  return n > 0 ? other(n - 1) + n : 0;
}
double weigh(int n, double x) {
    return n < 0 ? -1.7e308 : weights[n % 3].weight * x + 0.1 + (n == 4 ? 0x1.23456789abcdep-3 : 0);
}
int (*pick(int n))(int) { return n & 1 ? other : n & 2 ? twice : secret; }
"""
OPTIONS = [
    "-O0",
    "-O2",
    "-Os",
    "-O2 -ffunction-sections -fdata-sections",
    "-O2 -mbranch-protection=standard",
    "-O1 -mbranch-protection=pac-ret+leaf",
    "-O2 -mpc-relative-literal-loads",
    "-O2 -fno-pie -no-pie",
    "-O3 -fno-section-anchors",
    "-O2 -fno-jump-tables -fno-plt",
]


def gcc(source: str, path: Path, *options: str) -> Path:
    """What gcc makes of a C source."""
    source_file = path.with_name(f"{path.name}.c")
    source_file.write_text(source)
    run(need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"), "-w", *options, source_file, "-o", path)
    return path


def printed(path: Path) -> str:
    """What a program prints under qemu."""
    return run("sh", "-c", f"{need('qemu-aarch64', 'qemu-user')} -cpu max -L /usr/aarch64-linux-gnu {path} || echo $?")


def replaced_in(program: Path, unit: Path) -> set[str]:
    """The functions of a program that were replaced: all that it shares with an object."""
    with ElfFile(program) as target:
        linked = link(unit, target)
    with ElfFile(program) as target, Journal(program.with_suffix(".journal")) as journal:
        plan = make_plan(parse(to_text(linked.diff)), target)
        apply(plan, target, journal, accept={"erratum-835769"})  # compiled without -mfix-cortex-a53-835769
    return set(linked.replaced)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_program_does_what_its_new_functions_do(options: str, tmp_path: Path) -> None:
    split = options.split()
    program = gcc(MAIN + OLD, tmp_path / "program", *split)
    whole = gcc(MAIN + NEW.replace("extern int secret(int);", ""), tmp_path / "whole", *split)
    unit = gcc(NEW, tmp_path / "new.o", *split, "-c")
    before = printed(program)
    assert replaced_in(program, unit) == {"check", "other", "weigh", "pick"}
    after = printed(program)
    assert after == printed(whole)
    assert after != before


SWITCH = r"""
target triple = "aarch64-linux-gnu"
@text = private unnamed_addr constant [6 x i8] c"seven\00", align 1
@names = private unnamed_addr constant [4 x i32] [i32 7, i32 77, i32 777, i32 7777], align 4
@limit = external global i32
declare i32 @puts(BYTES)
define i32 @choose(i32 %n) {
entry:
  switch i32 %n, label %d [
    i32 0, label %a  i32 1, label %b  i32 2, label %c  i32 3, label %e  i32 4, label %f  i32 5, label %g
  ]
a: ret i32 17
b: %r = call i32 @puts(BYTES STRING)
  ret i32 %r
c: %l = load i32, NUMBER @limit
  ret i32 %l
e: %m = mul i32 %n, 99
  ret i32 %m
f: %q = udiv i32 %n, 3
  ret i32 %q
g: %x = xor i32 %n, 5555
  ret i32 %x
d: ret i32 -1
}
define i32 @unused(i32 %n) {
  %r = call i32 @nowhere(i32 %n)
  ret i32 %r
}
declare i32 @nowhere(i32)
"""
CHOOSING = """
#include <stdio.h>
int limit = 7, choose(int);
#ifdef OLD
__attribute__((noipa)) int choose(int n) { return n - limit; }
#else
int nowhere(int n) { return n; }
#endif
int main(void) { puts("from"); for (int n = -1; n < 8; n++) printf("%d\\n", choose(n)); }
"""


@pytest.mark.parametrize("options", ["-O0", "-O2", "-O2 -function-sections"])
def test_functions_that_llvm_compiled(options: str, tmp_path: Path) -> None:
    """As clang's, with jump tables."""
    llc = need("llc", "llvm")
    typed = int(re.findall(r"version (\d+)", run(llc, "--version"))[0]) < 15
    string = "getelementptr ([6 x i8], [6 x i8]* @text, i64 0, i64 0)" if typed else "@text"
    source = SWITCH.replace("BYTES", "i8*" if typed else "ptr").replace("NUMBER", "i32*" if typed else "ptr")
    unit = tmp_path / "new.o"
    flags = [*options.split(), "-relocation-model=pic", "-filetype=obj"]
    run(llc, *flags, "-o", unit, "-", stdin=source.replace("STRING", string))
    program = gcc(CHOOSING, tmp_path / "program", "-O2", "-DOLD")
    whole = gcc(CHOOSING, tmp_path / "whole", "-O2", str(unit))
    before = printed(program)
    assert replaced_in(program, unit) == {"choose"}
    assert before != printed(program) == printed(whole)


STATIC = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
int main(void)
{
    char text[200], words[] = "a,b;c";
    snprintf(text, sizeof text, "%d %s %.17g %x %-10s|%5.2f", 7, "x", 1.0 / 3, 255, "ab", 2.5);
    puts(text);
    printf("%g %.40g %ld %lu\n", strtod("1.25e10", 0), strtod("1e-300", 0), strtol("-77", 0, 0), strtoul("ff", 0, 16));
    time_t when = 1e9;
    strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", gmtime(&when));
    for (char *word = strtok_r(words, ",;", &(char *){0}); word; word = 0)
        printf("%s %s %d\n", word, strrchr(text, '-'), strcmp(text, word) > 0);
    return 0;
}
"""
OF_GLIBC = (
    "add_n", "addmul_1", "cmp", "dbl2mpn", "divrem", "gmtime", "lshift", "memcpy_generic", "memset_generic",
    "mpn2dbl", "mul_1", "printf-parsemb", "strcmp", "strrchr", "strtok_r", "submul_1",
)  # fmt: skip
"""Objects in C and in assembly, which the program uses."""


def test_glibc_is_replaced_by_its_own_objects(tmp_path: Path) -> None:
    """One after the other, in one program; then all is taken out again."""
    program = gcc(STATIC, tmp_path / "program", "-O1", "-static")
    library = run(need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"), "-print-file-name=libc.a").strip()
    run("sh", "-c", f"cd {tmp_path} && aarch64-linux-gnu-ar x {library} {' '.join(f'{name}.o' for name in OF_GLIBC)}")
    expected, whole, done = printed(program), program.read_bytes(), 0
    for name in OF_GLIBC:
        with suppress(LinkError):  # what is in an object differs between releases
            replaced_in(program, tmp_path / f"{name}.o")
            done += 1
    assert done > 4
    assert printed(program) == expected
    with ElfFile(program) as target, Journal(program.with_suffix(".journal")) as journal:
        for entry in sorted(journal.entries(), reverse=True, key=lambda entry: entry.id):
            revert(entry.id, target, journal)
    assert program.read_bytes() == whole

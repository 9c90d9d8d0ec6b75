"""Where programs will return to, asked at each of their instructions and compared with what they do.

gcc compiles the programs, and qemu-aarch64 executes them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from a64patch.a64 import is_bl, is_blr, is_ret
from a64patch.ranges import Ranges
from a64patch.targets.elf_image import ElfImage
from a64patch.targets.maps import parse_maps
from a64patch.targets.section import Found
from a64patch.targets.stacks import KeepOut, ThreadRegisters, found_in
from a64patch.targets.unwinding import UnwindTables
from tests.real.stepped import SIGNATURE_BITS, Stepped, stepped
from tests.support import need, run

PROGRAM = r"""
typedef unsigned long u64;
#define APART __attribute__((noinline, noclone)) static
volatile u64 sink;
APART u64 leaf(u64 a) { return a * 3 + sink; }
APART u64 tail(u64 a) { sink += a; return leaf(a + 1); }
APART u64 many(u64 a, u64 (*f)(u64)) {
    u64 b = f(a), c = f(b), d = f(c), e = f(d);
    return f(a + b) + f(c + d) + e + b * c;
}
APART u64 room(u64 n) {
    volatile u64 *at = __builtin_alloca(n * 8);
    for (u64 i = 0; i < n; i++) at[i] = leaf(i);
    return many(at[n / 2], tail);
}
APART u64 large(u64 a) {
    volatile u64 space[1200];
    space[a & 1023] = a;
    return leaf(space[a & 1023]) + room(3);
}
APART u64 deep(u64 n) { return n ? deep(n - 1) * 3 + leaf(n) : large(7); }
APART u64 early(u64 a) { return __builtin_expect(a < 3, 1) ? a : many(a, leaf) + deep(a & 1); }
/* Returns by x19, as a compiler does that keeps x30 in another register. */
u64 beside(u64 a);
asm("beside: .cfi_startproc; stp x19, x20, [sp, #-16]!; .cfi_def_cfa_offset 16; .cfi_offset 19, -16;"
    ".cfi_offset 20, -8; mov x19, x30; .cfi_register 30, 19; bl leaf; mov x30, x19; .cfi_same_value 30;"
    "ldp x19, x20, [sp], #16; .cfi_def_cfa_offset 0; .cfi_same_value 19; .cfi_same_value 20; ret; .cfi_endproc");
__attribute__((used)) void start(void) {
    sink = early(1) + early(4) + deep(1) + beside(2);
    register u64 x8 asm("x8") = 93, x0 asm("x0") = 0;
    asm volatile("svc #0" : : "r"(x8), "r"(x0));
    __builtin_unreachable();
}
asm(".globl _start; .type _start, %function; _start: .cfi_startproc; .cfi_undefined x30;"
    "mov x29, #0; mov x30, #0; bl start; brk #1; .cfi_endproc; .size _start, . - _start");
"""


def compiled(source: str, path: Path, *options: str) -> Path:
    """A static program without libc."""
    run(
        need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"), "-static", "-nostdlib", "-fasynchronous-unwind-tables",
        "-Wl,--eh-frame-hdr", *options, "-x", "c", "-o", path, "-", stdin=source,
    )  # fmt: skip
    return path


def steps(process: Stepped) -> Iterator[tuple[list[int], bool]]:
    """At each instruction: the return addresses that the program has yet to use, innermost first; is x30 signed?"""
    shadow: list[int] = []
    words: dict[int, int] = {}
    while True:
        registers = process.registers
        yield shadow[::-1], bool(registers.x[30] & SIGNATURE_BITS)
        pc = registers.pc
        if pc not in words:
            words[pc] = process.word(pc)
        if not process.step():
            return
        if is_bl(words[pc]) or is_blr(words[pc]):
            shadow.append(pc + 4)
        elif is_ret(words[pc]):
            assert shadow.pop() == process.registers.pc


@pytest.mark.fresh("gcc-aarch64-linux-gnu", "qemu-user")
@pytest.mark.parametrize(
    "options",
    [
        "-O0", "-O1", "-O2", "-O3 -fno-omit-frame-pointer", "-Os -fomit-frame-pointer",
        "-O1 -mbranch-protection=pac-ret+leaf", "-O2 -mbranch-protection=standard", "-O2 -fstack-clash-protection",
    ],
)  # fmt: skip
def test_at_each_instruction_of_a_real_program_its_return_addresses_are_found_and_no_others(
    options: str, tmp_path: Path
) -> None:
    """An old return address is in a register or on the stack at most instructions. It must not count."""
    program = compiled(PROGRAM, tmp_path / "program", *options.split())
    with stepped(program) as process:
        maps = process.maps()
        tables = UnwindTables(maps, process.read)
        known: set[int] = set()
        number, was_signed = 0, False
        for expected, is_signed in steps(process):
            number += 1
            was_signed |= is_signed
            known |= {*expected}

            def found(*addresses: int) -> Found | None:
                keep_out = KeepOut(Ranges.of((address, address + 4) for address in addresses))
                return found_in(
                    process.registers, keep_out, maps, process.read, signature_bits=SIGNATURE_BITS, cfi=tables
                )

            here = process.registers.pc
            wanted = [address for address in expected if address != here]
            for address in {*wanted}:
                assert found(address) == Found(-1, address, False, "thread 1 (stepped)"), hex(here)
            assert found(*(known - {*wanted, here})) is None, hex(here)
        assert number > 400
        assert len(known) > 20
        assert was_signed == ("branch-protection" in options)


ONLY_BEHIND_CALLS = r"""
asm(".globl called; called: .cfi_startproc; sub sp, sp, #48; stp x29, x30, [sp, #32]; add x29, sp, #32;"
    ".cfi_def_cfa x29, 16; .cfi_offset 29, -16; .cfi_offset 30, -8; stp x0, x30, [sp]; bl last;"
    "ldp x29, x30, [sp, #32]; add sp, sp, #48; ret; .cfi_endproc;"
    "caller: .cfi_startproc; sub sp, sp, #32; str x30, [sp]; .cfi_def_cfa_offset 32; .cfi_offset 30, -32;"
    "bl called; bl last; ldr x30, [sp]; add sp, sp, #32; ret; .cfi_endproc;"
    "last: .cfi_startproc; ret; .cfi_endproc;"
    ".globl _start; .type _start, %function; _start: .cfi_startproc; .cfi_undefined x30; mov x29, #0; mov x30, #0;"
    "bl caller; mov x8, #93; mov x0, #0; svc #0; brk #1; .cfi_endproc");
"""
"""Without frame changes in the tables before and behind the calls: as clang wrote them before LLVM 15."""


def never_hidden(program: Path) -> tuple[int, int]:
    """Each return address is found at each instruction. How often this is certain, and how often doubtful."""
    with stepped(program) as process:
        maps = process.maps()
        tables = UnwindTables(maps, process.read)
        certain = doubtful = 0
        for expected, _ in steps(process):
            for address in expected:
                keep_out = KeepOut(Ranges(((address, address + 4),)))
                found = found_in(
                    process.registers, keep_out, maps, process.read, signature_bits=SIGNATURE_BITS, cfi=tables
                )
                assert found is not None, hex(process.registers.pc)
                assert found.address == address
                doubtful += bool(found.doubt)
                certain += not found.doubt and not found.stands
    return certain, doubtful


@pytest.mark.fresh("gcc-aarch64-linux-gnu", "qemu-user")
def test_tables_that_are_right_behind_calls_only_hide_no_return_address(tmp_path: Path) -> None:
    certain, doubtful = never_hidden(compiled(ONLY_BEHIND_CALLS, tmp_path / "program"))
    assert certain > 5
    assert doubtful > 5


BY_LLVM = """
target triple = "aarch64-unknown-linux-gnu"
define i64 @last(i64 %a) noinline TABLES {
  %b = mul i64 %a, 3
  ret i64 %b
}
define i64 @called(i64 %a, i64 %b) noinline TABLES {
  %space = alloca i64, i64 40
  store volatile i64 %a, ptr %space
  %c = call i64 @last(i64 %a)
  %d = call i64 @last(i64 %b)
  %e = add i64 %c, %d
  ret i64 %e
}
define i64 @caller(i64 %a, i64 %b) TABLES {
  %c = call i64 @called(i64 %a, i64 %b)
  %d = call i64 @called(i64 %b, i64 %c)
  ret i64 %d
}
"""
START = r"""
asm(".globl _start; .type _start, %function; _start: .cfi_startproc; .cfi_undefined x30; mov x29, #0; mov x30, #0;"
    "bl caller; mov x8, #93; mov x0, #0; svc #0; brk #1; .cfi_endproc");
"""


@pytest.mark.fresh("gcc-aarch64-linux-gnu", "llvm", "qemu-user")
@pytest.mark.parametrize("tables", ["uwtable", "uwtable(sync)"])
def test_llvms_tables_hide_no_return_address(tables: str, tmp_path: Path) -> None:
    """Since LLVM 15 a table suits each instruction, unless the compiler is told that it need not."""
    llc = need("llc", "llvm")
    match = re.search(r"version (\d+)", run(llc, "--version"))
    assert match is not None
    suits = int(match[1]) >= 15 and tables == "uwtable"
    source = BY_LLVM.replace("TABLES", tables if int(match[1]) >= 15 else "uwtable")
    if int(match[1]) < 15:
        source = source.replace("ptr %space", "i64* %space")
    run(llc, "-O2", "-filetype=obj", "-o", tmp_path / "a.o", "-", stdin=source)
    _, doubtful = never_hidden(compiled(START, tmp_path / "program", "-x", "none", str(tmp_path / "a.o")))
    assert (doubtful == 0) == suits


THREADS = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define APART __attribute__((noinline, noclone))
#define HERE(list) (list)[count_##list++] = __builtin_extract_return_addr(__builtin_return_address(0))
void *in_main[16], *in_thread[16], *old[16];
int count_in_main, count_in_thread, count_old;
char maps[65536];
volatile int sink;
static sem_t ready;
static jmp_buf back;
APART static void read_maps(void) {
    int file = open("/proc/self/maps", O_RDONLY);
    for (long at = 0, got; (got = read(file, maps + at, sizeof maps - 1 - at)) > 0;) at += got;
    close(file);
}
APART static void sleeping(void) { HERE(in_thread); sem_post(&ready); for (;;) pause(); }
APART static int second(int n) {
    HERE(in_thread);
    volatile char *room = alloca(n);
    room[0] = 1;
    sleeping();
    return room[0];
}
static void *first(void *unused) { HERE(in_thread); sink += second(100); return unused; }
APART static void gone(int n) { HERE(old); if (n) { gone(n - 1); sink++; } else longjmp(back, 1); }
APART static void stop(void) { HERE(in_main); asm volatile("brk #0"); sink++; }
static void on_signal(int number) { stop(); sink += number; }
APART static int interrupted(int n) { HERE(in_main); sink += raise(SIGUSR1); return n; }
/* Its room is where gone() left its return addresses. */
APART static int over_old(int n) {
    HERE(in_main);
    volatile char room[4096];
    room[n] = 1;
    return interrupted(n) + room[n];
}
APART static int jump_first(int n) {
    HERE(in_main);
    if (!setjmp(back)) { gone(5); sink++; }
    return over_old(n) + 1;
}
int main(void) {
    stack_t other = {.ss_sp = malloc(65536), .ss_size = 65536};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    pthread_t thread;
    sem_init(&ready, 0, 0);
    pthread_create(&thread, 0, first, 0);
    sem_wait(&ready);
    read_maps();
    sigaltstack(&other, 0);
    sigaction(SIGUSR1, &action, 0);
    sink += jump_first(3);
    return 0;
}
"""


@pytest.mark.fresh("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user")
@pytest.mark.parametrize(
    "options",
    ["-static -O0", "-static -O2 -fomit-frame-pointer", "-static -O1 -mbranch-protection=standard", "-no-pie -O2"],
)
def test_threads_of_a_real_program_and_a_handler_on_its_own_stack_are_followed(options: str, tmp_path: Path) -> None:
    """Each function of the program has written down its return address. Some were left by longjmp()."""
    # Without this option gcc gives a static program no search table, and then each word on a stack counts.
    compiler = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    program = tmp_path / "program"
    run(compiler, "-pthread", "-Wl,--eh-frame-hdr", *options.split(), "-x", "c", "-o", program, "-", stdin=THREADS)
    symbols = {each.name: each.address for each in ElfImage(program.read_bytes(), str(program)).symbols()}
    with stepped(program, "-L", "/usr/aarch64-linux-gnu") as process:
        assert process.run()

        def addresses(name: str) -> list[int]:
            data = process.read(symbols[name], 128)
            return [each for (each,) in struct.iter_unpack("<Q", data) if each]

        maps = parse_maps(process.read(symbols["maps"], 65536).partition(b"\0")[0])
        tables = UnwindTables(maps, process.read)
        main, thread = sorted(process.threads(), key=lambda each: each.pc != process.registers.pc)

        def found(who: ThreadRegisters, address: int) -> Found | None:
            keep_out = KeepOut(Ranges(((address, address + 4),)))
            return found_in(who, keep_out, maps, process.read, signature_bits=SIGNATURE_BITS, cfi=tables)

        assert [len(addresses(name)) for name in ("in_main", "in_thread", "old")] == [4, 3, 6]
        for name, who, other in (("in_main", main, thread), ("in_thread", thread, main)):
            for address in addresses(name):
                assert found(who, address) == Found(-1, address, False, who.who), (name, hex(address))
                assert found(other, address) is None, (name, hex(address))
        for address in {*addresses("old")} - {*addresses("in_main")}:
            assert found(main, address) is None
            keep_out = KeepOut(Ranges(((address, address + 4),)))
            doubtful = found_in(main, keep_out, maps, process.read, signature_bits=SIGNATURE_BITS, cfi=lambda pc: None)
            assert doubtful is not None, "the word is still there"
            assert doubtful.doubt

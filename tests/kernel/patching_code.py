"""The functions with which Linux patches its text, in assembly: as Linux has them, or with an instruction changed."""

from __future__ import annotations

import re
from pathlib import Path

from a64patch.kernel.image import sized
from a64patch.kernel.kallsyms import KernelSymbol
from a64patch.kernel.walk import Kernel
from a64patch.targets.elf import ElfFile
from a64patch.targets.symbols import Symbol, SymbolTable
from tests.kernel.kernels import FUNCTION, LINKED, TEXT_AT, build_kernel
from tests.support import assemble, link, need, run

MAINTENANCE = """
caches_clean_inval_pou:
    bti c
.Lidc: nop
    nop
    mov x2, x0
    mov x3, x1
    mrs x5, ctr_el0
    ubfx x5, x5, #16, #4
    mov x4, #4
    lsl x4, x4, x5
    sub x5, x4, #1
    bic x2, x2, x5
1:  dc cvau, x2
    add x2, x2, x4
    cmp x2, x3
    b.lo 1b
    dsb ish                 // behind DC
.Ldc_end:
.Ldic: nop
    nop
    mrs x3, ctr_el0
    and x3, x3, #15
    mov x2, #4
    lsl x2, x2, x3
    sub x3, x2, #1
    bic x3, x0, x3
3:  ic ivau, x3
    add x3, x3, x2
    cmp x3, x1
    b.lo 3b
    dsb ish                 // behind IC
    isb                     // of the patcher
.Lic_end: ret
alternatives:
.Lfor_idc: dsb ishst        // for IDC
    b .Ldc_end
.Lfor_dic: isb              // for DIC
    b .Lic_end
"""
WRITE = """
copy_to_kernel_nofault:
    str w1, [x0]
    ret
__aarch64_insn_write:
    stp x29, x30, [sp, #-16]!
    bl copy_to_kernel_nofault
    ldp x29, x30, [sp], #16
    ret
aarch64_insn_patch_text_nosync:
    tst x0, #3
    b.ne 2f
    stp x29, x30, [sp, #-32]!
    str x19, [sp, #16]
    mov x19, x0
    bl __aarch64_insn_write
    cbnz w0, 1f
    mov x0, x19
    add x1, x19, #4         // the end
    bl caches_clean_inval_pou
    mov w0, #0
1:  ldr x19, [sp, #16]
    ldp x29, x30, [sp], #32
    ret
2:  mov w0, #-22
    ret
"""
CALLBACK = """
aarch64_insn_patch_text_cb:
    stp x29, x30, [sp, #-48]!
    stp x19, x20, [sp, #16]
    mov x19, x0
.Llse: b 5f                 // to the code without LSE atomics
    mov w0, #1
    add x1, x19, #20
    ldaddal w0, w0, [x1]
    add w0, w0, #1
1:  adrp x1, __num_online_cpus
    ldr w2, [x1, :lo12:__num_online_cpus]
    cmp w0, w2              // who writes
    b.eq 3f
2:  yield
    ldr w1, [x19, #20]
    adrp x2, __num_online_cpus
    ldr w0, [x2, :lo12:__num_online_cpus]
    cmp w1, w0
    b.ls 2b                 // waits
    isb                     // of the others
    mov w0, #0
    b 4f
3:  mov w20, #0
6:  ldr w0, [x19, #16]
    cmp w0, w20
    b.le 8f
    ldp x1, x0, [x19]
    ldr w1, [x0, w20, sxtw #2]
    ldr x0, [x1, w20, sxtw #3]
    bl aarch64_insn_patch_text_nosync
    add w20, w20, #1
    cbz w0, 6b
8:  mov w1, #1
    add x2, x19, #20
    stadd w1, [x2]          // lets go
4:  ldp x19, x20, [sp, #16]
    ldp x29, x30, [sp], #48
    ret
5:  add x2, x0, #20
9:  ldxr w0, [x2]
    add w0, w0, #1
    stlxr w1, w0, [x2]
    cbnz w1, 9b
    dmb ish
    b 1b
"""
REST = """
stop_machine_cpuslocked:
    ret
aarch64_insn_patch_text:
    stp x29, x30, [sp, #-48]!
    stp x0, x1, [sp, #16]
    cmp w2, #0
    b.le 1f
    add x1, sp, #16
    adrp x0, aarch64_insn_patch_text_cb
    add x0, x0, :lo12:aarch64_insn_patch_text_cb
    bl stop_machine_cpuslocked
1:  ldp x29, x30, [sp], #48
    ret
do_nothing:
    ret
smp_call_function_many_cond:
    ret
kick_all_cpus_sync:
    stp x29, x30, [sp, #-16]!
    dmb ish                 // in front of the interrupt
    mov w3, #1
    adrp x1, do_nothing
    add x1, x1, :lo12:do_nothing
    bl smp_call_function_many_cond
    ldp x29, x30, [sp], #16
    ret
"""
TABLES = """
    .balign 8
__start___jump_table:
__stop___jump_table:
__alt_instructions:
    .word .Lidc - ., .Lfor_idc - .
    .hword 7
    .byte 8, 8
    .word .Ldic - ., .Lfor_dic - .
    .hword 9
    .byte 8, 8
    .word .Llse - ., do_nothing - .
    .hword 5
    .byte 4, 0
__alt_instructions_end:
    .word 0
__num_online_cpus:
    .word 0, 0
"""
"""A function makes a NOP of the branch at .Llse."""
FIRST = ("cmp w0, w2              // who writes", "cmp w0, #1")
"""The first CPU to come writes, as before commit 31a099dbd91e."""


TEXT = MAINTENANCE + CALLBACK + WRITE + REST + TABLES


def linked(directory: Path, *changes: tuple[str, str], address: int, text: str = TEXT) -> tuple[bytes, list[Symbol]]:
    """The functions, linked to an address, and their symbols, after each of the changes (old text, new text)."""
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        text = text.replace(old, new)
    made = assemble(f".globl _start\n_start: ret\n{text}", directory / "patching.o", "-march=armv8.1-a")
    path = link(made, directory / "patching", f"-Ttext={address:#x}")
    with ElfFile(path) as file:
        symbols = [symbol for symbol in file.symbols.ascending() if symbol.address >= address]
        end = file.symbols["__num_online_cpus"] + 8
        return file.read(address, end - address), [symbol for symbol in symbols if symbol.address < end]


def kernel(directory: Path, *changes: tuple[str, str], address: int = 0x400000, text: str = TEXT) -> Kernel:
    """The functions at an address, with their names and without an Image around them."""
    data, symbols = linked(directory, *changes, address=address, text=text)
    named = [KernelSymbol(symbol.address, "T", symbol.name) for symbol in symbols]
    return Kernel(address, data, SymbolTable(lambda: sized(named)))


def image(path: Path, *changes: tuple[str, str]) -> Path:
    """An Image with these functions, behind others."""
    address = LINKED + TEXT_AT + 600 * FUNCTION
    data, symbols = linked(path.parent, *changes, address=address)
    built = build_kernel(also=(data, [(symbol.address, "T", symbol.name) for symbol in symbols]))
    path.write_bytes(built.data)
    return path


C_CALLBACK = r"""
struct work { unsigned long *places; unsigned *words; int count; int came; };
extern volatile unsigned __num_online_cpus;
int aarch64_insn_patch_text_nosync(unsigned long place, unsigned word);

static inline unsigned come(int *counter)
{
    unsigned result, failed;
#ifdef LSE
    asm volatile("ldaddal %w2, %w0, %1; add %w0, %w0, %w2" : "=&r"(result), "+Q"(*counter) : "r"(1) : "memory");
    (void)failed;
#else
    asm volatile("1: ldxr %w0, %2; add %w0, %w0, #1; stlxr %w1, %w0, %2; cbnz %w1, 1b; dmb ish"
                 : "=&r"(result), "=&r"(failed), "+Q"(*counter) : : "memory");
#endif
    return result;
}

int aarch64_insn_patch_text_cb(struct work *work)
{
    int result = 0;
    if (come(&work->came) != WRITER) {
        while (*(volatile unsigned *)&work->came <= __num_online_cpus)
            asm volatile("yield" : : : "memory");
        asm volatile("isb" : : : "memory");
        return 0;
    }
    for (int n = 0; n < work->count && result == 0; n++)
        result = aarch64_insn_patch_text_nosync(work->places[n], work->words[n]);
    come(&work->came);
    return result;
}
"""


def compiled(directory: Path, *options: str) -> str:
    """All functions, with C_CALLBACK as GCC compiles it in place of CALLBACK."""
    gcc = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    (directory / "callback.c").write_text(C_CALLBACK, "utf-8")
    fixed = ("-S", "-march=armv8.1-a", "-fno-pic", "-fno-asynchronous-unwind-tables", "-o", "-")
    code = run(gcc, *fixed, *options, directory / "callback.c")
    kept = [line for line in code.splitlines() if not re.match(r"\s*(\.(arch|file|cfi_|ident|section)|#)", line)]
    tables = TABLES.replace("    .word .Llse - ., do_nothing - .\n    .hword 5\n    .byte 4, 0\n", "")
    return "\n".join([MAINTENANCE, *kept, WRITE, REST, tables])

// A library whose `pair` a patch changes: 0x101 becomes 0x202. Anything else is half of each.
__asm__(".text\n.globl pair\n.hidden pair\n.type pair, %function\npair:\n mov x0, #1\n mov x1, #1\n"
        " add x0, x0, x1, lsl #8\n ret\n.size pair, .-pair\n");
long pair(void);

long work(void) { return pair(); }

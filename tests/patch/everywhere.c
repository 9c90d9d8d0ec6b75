/* Functions of every shape that a detour has to get right. `_start` prints a number for what they compute.
   For test_detours_everywhere.py: no library, since each instruction of this program gets a detour. */

typedef unsigned long word;

#define KEEP __attribute__((noinline, noclone, used))

KEEP word loops(word n) {
    word sum = 0;
    for (word outer = 0; outer < n; outer++)
        for (word inner = outer; inner < n; inner += 2)
            sum = sum * 31 + (inner ^ outer);
    return sum;
}

KEEP word chooses(word n) {
    switch (n & 7) {
    case 0: return n * 3;
    case 1: return n ^ 0x55;
    case 2: return n + 7;
    case 3: return n << 3;
    case 4: return ~n;
    case 5: return n - 100;
    case 6: return n / 3;
    default: return n % 5;
    }
}

KEEP word literals(word n) {
    word first;
    double second;
    unsigned third;
    __asm__ volatile("ldr %0, 1f\n ldr %d1, 2f\n ldr %w2, 1f+4\n b 3f\n"
                     "1: .quad 0x123456789abcdef0\n2: .double 2.5\n3:" : "=r"(first), "=w"(second), "=r"(third));
    return first + (word)(second * (double)n) + third;
}

KEEP word addresses(word n) {
    word *place;
    __asm__ volatile("adr %0, 1f\n b 2f\n 1: .quad 77\n2:" : "=r"(place));
    return *place + n;
}

static word counter;

KEEP word exclusives(word n) {
    __atomic_fetch_add(&counter, n, __ATOMIC_SEQ_CST);
    word old = n;
    __atomic_compare_exchange_n(&counter, &old, n + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    return counter;
}

KEEP word recursive(word n) { return n < 2 ? n : recursive(n - 1) + recursive(n - 2); }

KEEP word tail(word n) { return n & 1 ? loops(n & 15) : chooses(n); }

KEEP word bits(word n) {
    word count = 0;
    while (n) {
        if (n & 4)
            count += 2;
        if ((long)n < 0)
            count += 5;
        n = n >> 1 ^ (n & 1 ? 9 : 0);
        if (count > 40)
            break;
    }
    return count;
}

KEEP word indirect(word n) {
    static word (*const choice[])(word) = {loops, bits, chooses};
    return choice[n % 3](n & 15);
}

static long call(long number, long first, long second, long third) {
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = first, x1 __asm__("x1") = second, x2 __asm__("x2") = third;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}

void _start(void) {
    static word (*const all[])(word) = {
        loops, chooses, literals, addresses, exclusives, recursive, tail, bits, indirect,
    };
    word results[9];
    for (unsigned which = 0; which < 9; which++) {
        word sum = which;
        for (word n = 0; n < 10; n++)
            sum = sum * 1000003 + all[which](n * (which == 5 ? 1 : 7));
        results[which] = sum;
    }
    call(64, 1, (long)results, sizeof results);
    call(93, 0, 0, 0);
    __builtin_unreachable();
}

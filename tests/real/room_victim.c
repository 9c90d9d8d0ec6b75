// One thread that waits, in a way that the argument names, until stdin has a line. It prints what a patcher did to it.
//   e: epoll_wait    r: read    f: read, where mapping memory means death    h: waits inside of held(), again and again
// Or until SIGUSR1:
//   s: nanosleep    p: sigsuspend    u: counts in registers, and never enters the kernel
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// 0x101. Once both words of it were replaced 0x202; anything else is half of each.
__asm__(".text\n.globl pair\n.type pair, %function\npair:\n mov x0, #1\n mov x1, #1\n add x0, x0, x1, lsl #8\n ret\n"
        ".size pair, .-pair\n");
long pair(void);

// The same with a call between both words.
__asm__(".globl held\n.type held, %function\nheld:\n stp x29, x30, [sp, #-32]!\n mov x29, sp\n str x19, [sp, #16]\n"
        " mov x19, #1\n bl line\n mov x1, #1\n add x0, x19, x1, lsl #8\n ldr x19, [sp, #16]\n"
        " ldp x29, x30, [sp], #32\n ret\n.size held, .-held\n");
long held(void);

static volatile int over;

static void take(int number) {
    (void)number;
    over = 1;
}

void line(void) {
    char letter = 0;
    while (read(0, &letter, 1) == 1 && letter != '\n') {}
    over = !letter;
}

// Each register has its own number. The sum of all, with the flags, is the same in each round.
static long spins(void) {
    long wrong = 0;
    register volatile int *end __asm__("x20") = &over;
    __asm__ volatile(
        " mov x1, #1\n mov x2, #2\n mov x3, #3\n mov x4, #4\n mov x5, #5\n mov x6, #6\n mov x7, #7\n mov x8, #8\n"
        " fmov d0, #1.0\n fmov d31, #2.0\n"
        "1: cmp x1, #2\n add x9, x1, x2\n add x9, x9, x3\n add x9, x9, x4\n add x9, x9, x5\n add x9, x9, x6\n"
        " add x9, x9, x7\n add x9, x9, x8\n fadd d1, d0, d31\n fcvtzu x10, d1\n add x9, x9, x10\n"
        " cset x10, mi\n add x9, x9, x10\n sub x9, x9, #40\n orr %0, %0, x9\n ldr w9, [x20]\n cbz w9, 1b\n"
        : "+r"(wrong)
        : "r"(end)
        : "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "v0", "v1", "v31", "cc", "memory");
    return wrong;
}

static void dies_when_it_maps(void) {
    struct sock_filter rows[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof rows / sizeof *rows, rows};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(int count, char **words) {
    struct timespec pause = {600, 0};
    struct epoll_event event = {.events = EPOLLIN};
    sigset_t usual, blocked;
    long result = -1;
    char letter[8];
    int queue = epoll_create1(0);
    if (count != 2) return 2;
    epoll_ctl(queue, EPOLL_CTL_ADD, 0, &event);
    signal(SIGUSR1, take);
    sigprocmask(SIG_SETMASK, 0, &usual);
    blocked = usual;
    sigaddset(&blocked, SIGUSR1);
    if (*words[1] == 'p') sigprocmask(SIG_SETMASK, &blocked, 0);
    if (*words[1] == 'f') dies_when_it_maps();
    write(1, "ready\n", 6);
    errno = 0;
    switch (*words[1]) {
    case 's': result = nanosleep(&pause, 0); break;
    case 'e': result = epoll_wait(queue, &event, 1, 100000); break;
    case 'f':
    case 'r': result = read(0, letter, 1); break;
    case 'p': result = sigsuspend(&usual); break;
    case 'h':
        for (; !over; fflush(stdout)) printf("%lx\n", held());
        break;
    case 'u': result = spins(); break;
    }
    printf("%ld %s %lx\n", result, errno == EINTR ? "EINTR" : errno ? "error" : "well", pair());
    return 0;
}

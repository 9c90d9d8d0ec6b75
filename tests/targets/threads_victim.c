// A program that notices what a patcher may do wrong: lost or doubled signals, system calls that end with EINTR, and on
// arm64 also code that is half old and half new. Argument: letters for what it does besides.
//   b: makes threads    v: makes vfork children    f: makes fork children    s: handles signals on another stack
//   t: four threads make threads and children, without a pause
//   c: makes another process with the same memory     i: has a thread of io_uring, which never executes the program
//   d: does not let itself be dumped   l: may make only those system calls that it needs from then on
//   n: sleeps inside of held(), until `g` on stdin    w: sleeps inside of a signal handler that interrupted held()
// At each line on stdin it prints a line of counts. `x` ends it, `e` makes it execute cat instead.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static atomic_long turns, old_turns, wrong, ended_sleeps, ended_polls, sent, sent_sum, taken, taken_sum, births, vforks,
    forks, naps;
static atomic_int quit, go;

#ifdef __aarch64__
// Old: 0x101. New: 0x202, once the two words of `pair` were replaced. Anything else is half of each.
__asm__(".text\n.globl pair\n.type pair, %function\npair:\n mov x0, #1\n mov x1, #1\n add x0, x0, x1, lsl #8\n ret\n"
        ".size pair, .-pair\n"
        // The same across a call that may sleep.
        ".globl held\n.type held, %function\nheld:\n stp x29, x30, [sp, #-32]!\n mov x29, sp\n str x19, [sp, #16]\n"
        " mov x19, #1\n bl nap\n mov x1, #1\n add x0, x19, x1, lsl #8\n ldr x19, [sp, #16]\n"
        " ldp x29, x30, [sp], #32\n ret\n.size held, .-held\n");
long pair(void), held(void);
#else
static long pair(void) { return 0x101; }
static long held(void) { return 0x101; }
#endif

static void check(long result) {
    if (result == 0x101) old_turns++;
    else if (result != 0x202) wrong++;
    turns++;
}

void nap(void) {
    struct timespec pause = {0, 200000000};
    naps++;
    do {
        if (nanosleep(&pause, 0)) ended_sleeps++;
    } while (!go && !quit);
}

static void take(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    check(pair());
    taken++;
    taken_sum += info->si_value.sival_int;
}

static void only_main_takes_signals(void) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, 0);
}

static void pause_for(long nanoseconds) {
    struct timespec pause = {0, nanoseconds};
    nanosleep(&pause, 0);
}

static void *spin(void *none) {
    only_main_takes_signals();
    for (; !quit; pause_for(1000000))
        for (int each = 0; each < 2000; each++) check(pair());
    return none;
}

static void *sleeps(void *none) {
    struct timespec pause = {0, 5000000};
    only_main_takes_signals();
    while (!quit)
        if (nanosleep(&pause, 0)) ended_sleeps++;
    return none;
}

static void *polls(void *none) {
    struct epoll_event event;
    int queue = epoll_create1(0);
    only_main_takes_signals();
    while (!quit)
        if (epoll_wait(queue, &event, 1, -1) < 0) ended_polls++;
    return none;
}

static void *send(void *none) {
    only_main_takes_signals();
    for (; !quit; pause_for(1000000)) {
        union sigval value = {.sival_int = (int)(sent % 7)};
        if (!sigqueue(getpid(), SIGRTMIN, value)) {
            sent_sum += value.sival_int;
            sent++;
        }
    }
    return none;
}

static void *nothing(void *none) {
    check(pair());
    return none;
}

static void *bear(void *none) {
    pthread_t child;
    only_main_takes_signals();
    for (; !quit; pause_for(1000000))
        if (!pthread_create(&child, 0, nothing, 0)) pthread_join(child, 0), births++;
    return none;
}

static void *run_programs(void *none) {
    only_main_takes_signals();
    for (; !quit; pause_for(10000000)) {
        pid_t child = vfork();
        if (!child) {
            execl("/bin/true", "true", (char *)0);
            _exit(1);
        }
        waitpid(child, 0, 0);
        vforks++;
    }
    return none;
}

static void *fork_children(void *none) {
    only_main_takes_signals();
    for (; !quit; pause_for(10000000)) {
        pid_t child = fork();
        if (!child) {
            long result = pair();
            _exit(result != 0x101 && result != 0x202);
        }
        int status = 1;
        waitpid(child, &status, 0);
        if (status) wrong++;
        forks++;
    }
    return none;
}

static void *storm(void *none) {
    pthread_t threads[8];
    only_main_takes_signals();
    while (!quit) {
        int status = 1;
        for (int each = 0; each < 8; each++)
            if (pthread_create(&threads[each], 0, nothing, 0)) perror("pthread_create"), exit(1);
        pid_t child = fork();
        if (!child) {
            long result = pair();
            _exit(result != 0x101 && result != 0x202);
        }
        for (int each = 0; each < 8; each++) pthread_join(threads[each], 0);
        waitpid(child, &status, 0);
        if (status) wrong++;
        births += 8;
        forks++;
    }
    return none;
}

static int share(void *none) {
    (void)none;
    for (; !quit; pause_for(1000000)) check(pair());
    _exit(0);
}

static void begin_io_thread(void) {
    // struct io_uring_params: flags = IORING_SETUP_SQPOLL, sq_thread_idle.
    unsigned settings[30] = {[2] = 2, [4] = 600000};
    if (syscall(425 /* io_uring_setup */, 8, settings) < 0) perror("io_uring_setup"), exit(1);
}

static void *naps_inside(void *none) {
    pthread_setname_np(pthread_self(), "napper");
    only_main_takes_signals();
    while (!quit) {
        check(held());
        nap();
    }
    return none;
}

// A thread that sleeps in a handler, which interrupted held(): the way back is on the interrupted stack only.
static void sleep_in_handler(int number) {
    struct timespec pause = {600, 0};
    (void)number;
    nanosleep(&pause, 0);
}

static void *wait_in_handler(void *none) {
    static char other[65536];
    stack_t stack = {.ss_sp = other, .ss_size = sizeof other};
    struct sigaction action = {.sa_handler = sleep_in_handler, .sa_flags = SA_ONSTACK};
    sigset_t one;
    pthread_setname_np(pthread_self(), "handler");
    sigaltstack(&stack, 0);
    sigaction(SIGUSR2, &action, 0);
    sigfillset(&one);
    sigdelset(&one, SIGUSR2);
    pthread_sigmask(SIG_SETMASK, &one, 0);
    while (!quit) held();
    return none;
}

// A filter of system calls for all threads. A thread that sleeps comes back to its sleep by restart_syscall.
static void lock_in(void) {
    static const int allowed[] = {SYS_read, SYS_write, SYS_writev, SYS_nanosleep, SYS_clock_nanosleep, SYS_epoll_pwait,
                                  SYS_futex, SYS_getpid, SYS_getuid, SYS_rt_sigprocmask, SYS_rt_sigqueueinfo, SYS_rt_sigreturn,
                                  SYS_restart_syscall, SYS_ioctl, SYS_exit, SYS_exit_group};
    enum { COUNT = sizeof allowed / sizeof *allowed };
    struct step { unsigned short code; unsigned char then, otherwise; unsigned value; } steps[COUNT + 3] = {{0x20}};
    struct { unsigned short length; struct step *steps; } filter = {COUNT + 3, steps};
    for (int each = 0; each < COUNT; each++) steps[1 + each] = (struct step){0x15, COUNT - each, 0, allowed[each]};
    steps[1 + COUNT] = (struct step){6, 0, 0, 0x80000000}; // SECCOMP_RET_KILL_PROCESS
    steps[2 + COUNT] = (struct step){6, 0, 0, 0x7fff0000}; // SECCOMP_RET_ALLOW
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (syscall(SYS_seccomp, 1 /* SECCOMP_SET_MODE_FILTER */, 1 /* SECCOMP_FILTER_FLAG_TSYNC */, &filter))
        perror("seccomp"), exit(1);
}

static void tell(void) {
    printf("{\"turns\": %ld, \"old\": %ld, \"wrong\": %ld, \"ended_sleeps\": %ld, \"ended_polls\": %ld,"
           " \"sent\": [%ld, %ld], \"taken\": [%ld, %ld], \"births\": %ld, \"vforks\": %ld, \"forks\": %ld, \"naps\": %ld}\n",
           turns, old_turns, wrong, ended_sleeps, ended_polls, sent, sent_sum, taken, taken_sum, births, vforks, forks,
           naps);
    fflush(stdout);
}

int main(int count, char **words) {
    struct sigaction action = {.sa_sigaction = take, .sa_flags = SA_SIGINFO | SA_RESTART};
    const char *more = count > 1 ? words[1] : "";
    void *(*all[])(void *) = {spin, sleeps, sleeps, sleeps, polls, send};
    pthread_t thread;
    char letter, rest;
    // Where Yama lets only parents trace (ptrace_scope 1): PR_SET_PTRACER, PR_SET_PTRACER_ANY.
    prctl(0x59616d61, -1L, 0, 0, 0);
    sigaction(SIGRTMIN, &action, 0);
    if (strchr(more, 's')) {
        stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
        sigaltstack(&stack, 0);
        action.sa_flags |= SA_ONSTACK;
        sigaction(SIGRTMIN, &action, 0);
    }
    for (unsigned each = 0; each < sizeof all / sizeof *all; each++) pthread_create(&thread, 0, all[each], 0);
    for (int each = 0; count > 2 && each < atoi(words[2]); each++) pthread_create(&thread, 0, sleeps, 0);
    if (strchr(more, 'b')) pthread_create(&thread, 0, bear, 0);
    if (strchr(more, 'v')) pthread_create(&thread, 0, run_programs, 0);
    if (strchr(more, 'f')) pthread_create(&thread, 0, fork_children, 0);
    for (int each = 0; strchr(more, 't') && each < 4; each++) pthread_create(&thread, 0, storm, 0);
    if (strchr(more, 'n')) pthread_create(&thread, 0, naps_inside, 0);
    if (strchr(more, 'c')) clone(share, (char *)malloc(65536) + 65536, CLONE_VM | SIGCHLD, 0);
    if (strchr(more, 'i')) begin_io_thread();
    if (strchr(more, 'w')) {
        pthread_create(&thread, 0, wait_in_handler, 0);
        while (!naps) pause_for(1000000);
        pthread_kill(thread, SIGUSR2);
    }
    if (strchr(more, 'd')) prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (strchr(more, 'l')) lock_in();
    puts("ready");
    fflush(stdout);
    for (;;) {
        ssize_t got = read(0, &letter, 1);
        if (got < 0 && errno == EINTR) continue;
        while (got == 1 && letter != '\n' && (got = read(0, &rest, 1)) != 0 && rest != '\n') {}
        if (got <= 0 || letter == 'x') break;
        if (letter == 'g') go = 1;
        if (letter == 'e') execl("/bin/cat", "cat", (char *)0);
        tell();
    }
    quit = 1;
    usleep(300000);
    tell();
    return 0;
}

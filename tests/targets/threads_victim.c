// A program that notices what a tracer may do wrong: lost or doubled signals, system calls that end with EINTR.
// Argument: letters for what it does besides: b makes threads, v makes vfork children. Ends after a line on stdin.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static atomic_long turns, ended_sleeps, ended_polls, sent, sent_sum, taken, taken_sum, births, vforks;
static atomic_int quit;

static void take(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    taken++;
    taken_sum += info->si_value.sival_int;
}

static void only_main_takes_signals(void) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, 0);
}

static void *spin(void *none) {
    while (!quit) turns++;
    return none;
}

static void *sleeps(void *none) {
    struct timespec pause = {0, 2000000};
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
        if (epoll_wait(queue, &event, 1, 50) < 0) ended_polls++;
    return none;
}

static void *send(void *none) {
    struct timespec pause = {0, 100000};
    only_main_takes_signals();
    while (!quit) {
        union sigval value = {.sival_int = (int)(sent % 7)};
        if (!sigqueue(getpid(), SIGRTMIN, value)) sent++, sent_sum += value.sival_int;
        nanosleep(&pause, 0);
    }
    return none;
}

static void *nothing(void *none) { return none; }

static void *bear(void *none) {
    pthread_t child;
    only_main_takes_signals();
    while (!quit)
        if (!pthread_create(&child, 0, nothing, 0)) pthread_join(child, 0), births++;
    return none;
}

static void *run_programs(void *none) {
    only_main_takes_signals();
    while (!quit) {
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

int main(int count, char **words) {
    struct sigaction action = {.sa_sigaction = take, .sa_flags = SA_SIGINFO | SA_RESTART};
    const char *more = count > 1 ? words[1] : "";
    pthread_t thread;
    char line[16];
    sigaction(SIGRTMIN, &action, 0);
    void *(*all[])(void *) = {spin, sleeps, sleeps, sleeps, polls, send};
    for (unsigned each = 0; each < sizeof all / sizeof *all; each++) pthread_create(&thread, 0, all[each], 0);
    if (strchr(more, 'b')) pthread_create(&thread, 0, bear, 0);
    if (strchr(more, 'v')) pthread_create(&thread, 0, run_programs, 0);
    puts("ready");
    fflush(stdout);
    while (read(0, line, sizeof line) < 0 && errno == EINTR) {}
    quit = 1;
    usleep(300000);
    printf("{\"turns\": %ld, \"ended_sleeps\": %ld, \"ended_polls\": %ld, \"sent\": [%ld, %ld], \"taken\": [%ld, %ld],"
           " \"births\": %ld, \"vforks\": %ld}\n",
           turns, ended_sleeps, ended_polls, sent, sent_sum, taken, taken_sum, births, vforks);
    return 0;
}

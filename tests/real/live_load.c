/* Runs inside what a test patches, on every CPU, and checks that each result is entirely old or entirely new.

   live_load COUNTS KIND...: one thread a CPU, each doing all kinds in turn, until it is killed. COUNTS is a file of
   struct counts, one for each kind in the order of `kinds`, that may be read at any time.

   pid     getpid(): the process id; new: 0x672346
   uptime  /proc/uptime: two fractions of two digits; new: .1234 and .5678
   ram     a block of /dev/ram0 that was never written: all 0; new: all 0xa5
   zero    8 pages of /dev/zero: as many bytes become 0 as read() says, the rest stays; all of them, or with new
           code none. Old and new of one call may be mixed page by page, so only the two extremes are counted.
   busy    as zero with 256 pages and without a look at the result: the CPU is hardly ever anywhere else  */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, MOST = 256 * PAGE, CPUS = 4, KINDS = 5 };

struct counts {
    _Atomic long old, new, wrong;
    char sample[104];
};

enum verdict { OLD, NEW, WRONG, NEITHER };

struct thread {
    unsigned char *buffer;
    int uptime, ram, zero;
    double last;
    char sample[104];
};

static struct counts *counts;
static long pid;

static enum verdict check_pid(struct thread *thread)
{
    long found = syscall(SYS_getpid);
    snprintf(thread->sample, sizeof thread->sample, "%lx", found);
    return found == pid ? OLD : found == 0x672346 ? NEW : WRONG;
}

static enum verdict check_uptime(struct thread *thread)
{
    long up, idle;
    int fraction[2], end[6] = {0};
    char text[100] = "";
    ssize_t size = pread(thread->uptime, text, sizeof text - 1, 0);
    snprintf(thread->sample, sizeof thread->sample, "%s", text);
    if (sscanf(text, "%ld.%n%d%n %ld.%n%d%n%n", &up, &end[0], &fraction[0], &end[1], &idle, &end[2], &fraction[1],
               &end[3], &end[4]) != 4 || end[4] + 1 != size || text[end[4]] != '\n' || up < thread->last)
        return WRONG;
    thread->last = up;
    int first = end[1] - end[0], second = end[3] - end[2];
    if (first == 2 && second == 2)
        return OLD;
    return first == 4 && second == 4 && fraction[0] == 1234 && fraction[1] == 5678 ? NEW : WRONG;
}

static enum verdict check_ram(struct thread *thread)
{
    unsigned char *block = thread->buffer;
    memset(block, 0x11, PAGE);
    if (pread(thread->ram, block, PAGE, 0) != PAGE || (block[0] != 0 && block[0] != 0xa5))
        return WRONG;
    snprintf(thread->sample, sizeof thread->sample, "%02x", block[0]);
    return memcmp(block, block + 1, PAGE - 1) ? WRONG : block[0] ? NEW : OLD;
}

static enum verdict check_zero(struct thread *thread)
{
    ssize_t size = 8 * PAGE, at = 0;
    memset(thread->buffer, 0xff, size);
    ssize_t got = read(thread->zero, thread->buffer, size);
    while (at < size && thread->buffer[at] == 0)
        at++;
    ssize_t zeros = at;
    while (at < size && thread->buffer[at] == 0xff)
        at++;
    snprintf(thread->sample, sizeof thread->sample, "%zd, %zd, %zd", got, zeros, at);
    if (got != zeros || at != size)
        return WRONG;
    return got == size ? OLD : got == 0 ? NEW : NEITHER;
}

static enum verdict be_busy(struct thread *thread)
{
    return read(thread->zero, thread->buffer, MOST) == MOST ? OLD : NEW;
}

static const struct {
    const char *name;
    enum verdict (*check)(struct thread *);
    int times;
} kinds[KINDS] = {{"pid", check_pid, 32}, {"uptime", check_uptime, 1}, {"ram", check_ram, 1}, {"zero", check_zero, 1},
                  {"busy", be_busy, 1}};

static int wanted[KINDS];

static void *work(void *argument)
{
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET((long)argument, &cpus);
    struct thread thread = {.uptime = open("/proc/uptime", O_RDONLY), .zero = open("/dev/zero", O_RDONLY),
                            .ram = open("/dev/ram0", O_RDONLY | O_DIRECT)};
    thread.buffer = mmap(0, MOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus) || thread.buffer == MAP_FAILED
        || thread.uptime < 0 || thread.zero < 0)
        exit(2);
    for (;;)
        for (int kind = 0; kind < KINDS; kind++)
            for (int time = 0; wanted[kind] && time < kinds[kind].times; time++) {
                enum verdict verdict = kinds[kind].check(&thread);
                if (verdict == OLD)
                    counts[kind].old++;
                else if (verdict == NEW)
                    counts[kind].new++;
                else if (verdict == WRONG && !counts[kind].wrong++)
                    memcpy(counts[kind].sample, thread.sample, sizeof thread.sample);
            }
}

int main(int count, char **words)
{
    pid = syscall(SYS_getpid);
    int file = open(words[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || ftruncate(file, KINDS * sizeof *counts))
        return 2;
    counts = mmap(0, KINDS * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (counts == MAP_FAILED)
        return 2;
    for (int word = 2; word < count; word++)
        for (int kind = 0; kind < KINDS; kind++)
            wanted[kind] |= !strcmp(words[word], kinds[kind].name);
    for (long cpu = 1; cpu < CPUS; cpu++) {
        pthread_t thread;
        if (pthread_create(&thread, 0, work, (void *)cpu))
            return 2;
    }
    work(0);
}

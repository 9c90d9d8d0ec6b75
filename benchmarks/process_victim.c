// A program whose threads measure how long somebody keeps them from running. Arguments: threads, and us of a pause.
// Each thread executes field() and then sleeps for the pause, over and over. It notes by how much two turns were
// further apart than the pause, at most. At `r` on stdin all notes begin anew; at `?` a line of numbers comes: the
// longest delay of all threads, the median of each thread's longest (ns), and how many words of field() are no NOPs.
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { WORDS = 2000, NOP = 0xd503201f, MOST = 1000 };
// It has its pages for itself, and main() takes no address there: else nobody could change it while main() runs.
__asm__(".text\n.balign 65536\n.globl field\n.type field, %function\nfield:\n.rept 2000\n nop\n.endr\n ret\n.size field, .-field\n.balign 65536\n");
void field(void);

static struct {
    _Alignas(64) atomic_long longest;
} notes[MOST];
static long pause_ns;
static const unsigned *volatile code = (const unsigned *)field;

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void *turn(void *number) {
    struct timespec pause = {0, pause_ns};
    for (long last = now();;) {
        field();
        nanosleep(&pause, 0);
        long here = now(), delay = here - last - pause_ns;
        last = here;
        if (delay > notes[(long)number].longest) notes[(long)number].longest = delay;
    }
    return 0;
}

static int ascending(const void *one, const void *other) {
    long first = *(const long *)one, second = *(const long *)other;
    return (first > second) - (first < second);
}

int main(int count, char **words) {
    long threads = count > 1 ? atol(words[1]) : 1, sorted[MOST];
    pthread_t thread;
    char letter;
    if (threads < 1 || threads > MOST) return 2;
    pause_ns = (count > 2 ? atol(words[2]) : 1000) * 1000;
    for (long each = 0; each < threads; each++)
        if (pthread_create(&thread, 0, turn, (void *)each)) return 1;
    puts("ready");
    fflush(stdout);
    for (;;) {
        ssize_t got = read(0, &letter, 1);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        if (letter == 'r') {
            for (long each = 0; each < threads; each++) notes[each].longest = 0;
        } else if (letter == '?') {
            int changed = 0;
            for (int each = 0; each < WORDS; each++) changed += code[each] != NOP;
            for (long each = 0; each < threads; each++) sorted[each] = notes[each].longest;
            qsort(sorted, threads, sizeof *sorted, ascending);
            printf("%ld %ld %d\n", sorted[threads - 1], sorted[threads / 2], changed);
            fflush(stdout);
        }
    }
}

/* Four threads that add up what `answer` says, until the program is killed. It is what gdbserver's tests patch.

   live_threads COUNTS: a file of two longs that may be read at any time: how often it said 1, and how often 42.  */

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static _Atomic long *counts;

__attribute__((noinline)) long answer(void)
{
    long said;
    __asm__ volatile("mov %0, #1\n\tnop\n\tnop" : "=r"(said));
    return said;
}

static void *work(void *argument)
{
    for (;;) {
        long said = answer();
        if (said != 1 && said != 42)
            abort();
        counts[said == 42]++;
        usleep(100);
    }
    return argument;
}

int main(int count, char **words)
{
    int file = open(words[count - 1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || ftruncate(file, 2 * sizeof *counts))
        return 2;
    counts = mmap(0, 2 * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    for (int number = 1; number < 4; number++) {
        pthread_t thread;
        if (pthread_create(&thread, 0, work, 0))
            return 2;
    }
    work(0);
}

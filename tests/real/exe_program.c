// A program that answers each line on stdin with the results of its library's `pair` and of its own.
#include <stdio.h>

long work(void);

__attribute__((noinline)) static long pair(long number) { return number + 7; }

int main(int count, char **words) {
    char line[64];
    (void)words;
    do {
        printf("%ld %ld\n", work(), pair(count));
        fflush(stdout);
    } while (fgets(line, sizeof line, stdin));
    return 0;
}

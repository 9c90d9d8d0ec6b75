/* What uses the function of functions_name.c, in two forms.
   With the C library: a program that tests itself, and says `right` only with the fix.
   With -DBARE: a program without a library, which calls the function as often as functions.py knows. */
typedef unsigned long size_t;
extern size_t read_name(const unsigned char *packet, size_t size, char *name);
extern unsigned long malformed_packets(void);

static struct {
    char name[64], behind[64];
} record;

#ifdef BARE
#define CALLS 1000

void _start(void)
{
    for (int call = 0; call < CALLS; call++)
        read_name((const unsigned char *)"\3www\7EXAMPLE\3org", 17, record.name);
    register long code __asm__("x0") = record.name[4] != 'e';
    register long number __asm__("x8") = 93; /* exit */
    __asm__ volatile("svc #0" ::"r"(code), "r"(number));
    __builtin_unreachable();
}
#else
#include <stdio.h>
#include <string.h>

int main(void)
{
    static unsigned char longest[102];
    int wrong = 0;
    for (size_t at = 0; at < 100; at += 50) {
        longest[at] = 49;
        memset(longest + at + 1, 'x', 49);
    }
    wrong += read_name((const unsigned char *)"\3www\7EXAMPLE\3org", 17, record.name) != 17;
    wrong += strcmp(record.name, "www.example.org.") != 0;
    wrong += read_name((const unsigned char *)"\3ww", 3, record.name) != 0;
    wrong += malformed_packets() != 1;
    wrong += read_name(longest, 101, record.name) != 0;
    wrong += malformed_packets() != 2;
    wrong += record.behind[0] != 0;
    puts(wrong ? "wrong" : "right");
    return wrong;
}
#endif

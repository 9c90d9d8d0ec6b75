/* The function that functions.py replaces: it reads a domain name, as RFC 1035 has them, into 64 bytes.
   As it stands it does not ask whether the name is longer. With -DFIXED it does. STORAGE is that of the counter. */
#define ROOM 64

typedef unsigned long size_t;
extern int puts(const char *);

#ifndef STORAGE
#define STORAGE static
#endif
STORAGE unsigned long malformed;

/* The number of bytes read; 0 if the packet is malformed. */
size_t read_name(const unsigned char *packet, size_t size, char *name)
{
    size_t at = 0, used = 0;
    while (at < size && packet[at]) {
        size_t length = packet[at++];
        if (length > 63 || length > size - at) {
            malformed++;
            return 0;
        }
#ifdef FIXED
        if (length + 1 >= ROOM - used) {
            malformed++;
            puts("too long a name");
            return 0;
        }
#endif
        for (size_t end = at + length; at < end; at++) {
            unsigned char letter = packet[at];
            name[used++] = letter - 'A' < 26u ? letter | 32 : letter;
        }
        name[used++] = '.';
    }
    name[used] = 0;
    return at + 1;
}

#ifndef FIXED
unsigned long malformed_packets(void)
{
    return malformed;
}
#endif

/* Process 1 of the guest with a userland: carries out the commands that come on descriptor 3, as guest.py sends them.
 *
 * A request is a line with the sizes of the command and of its stdin, and how many milliseconds it may take; then both.
 * The answer is a line with the exit status, or 256 for a command that was killed since its time was over, and the size
 * of the output; then the output. A process that nobody waits for is reaped at once, so that it is seen to be gone.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 3, LATE = 256 };

static int children; /* a signalfd */

static void give_up(const char *why) {
    perror(why);
    sync();
    reboot(RB_POWER_OFF);
    _exit(1);
}

static void put(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t done = write(fd, data, size);
        if (done < 0) give_up("write");
        data += done;
        size -= done;
    }
}

/* Reap whoever ended; whether `job` was among them, and how it ended. */
static int reap(pid_t job, int *how) {
    struct signalfd_siginfo unused;
    int status, ended = 0;
    pid_t pid;
    while (read(children, &unused, sizeof unused) > 0) {}
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == job) {
            *how = status;
            ended = 1;
        }
    return ended;
}

static void get(char *data, size_t size) {
    while (size) {
        struct pollfd both[] = {{PORT, POLLIN, 0}, {children, POLLIN, 0}};
        if (poll(both, 2, -1) < 0) give_up("poll");
        if (both[1].revents) reap(0, 0);
        if (!both[0].revents) continue;
        ssize_t done = read(PORT, data, size);
        if (done <= 0) give_up("read");
        data += done;
        size -= done;
    }
}

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

static pid_t start(const char *command, int input, int output) {
    pid_t pid = fork();
    if (pid < 0) give_up("fork");
    if (pid) return pid;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, 0);
    setsid();
    dup2(input, 0);
    dup2(output, 1);
    dup2(output, 2);
    execl("/bin/sh", "sh", "-c", command, (char *)0);
    perror("/bin/sh");
    _exit(127);
}

/* The exit status as a shell tells it, or LATE. */
static int wait_for(pid_t job, long long milliseconds) {
    long long end = now() + milliseconds;
    int how = 0, late = 0;
    while (!reap(job, &how)) {
        struct pollfd any = {children, POLLIN, 0};
        long long left = end - now();
        if (!late && left <= 0) {
            late = 1;
            kill(-job, SIGKILL);
            kill(job, SIGKILL);
        }
        if (poll(&any, 1, late ? -1 : (int)left) < 0) give_up("poll");
    }
    return late ? LATE : WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
}

static void serve(void) {
    char line[80];
    size_t length = 0, command_size, input_size;
    long long milliseconds;
    do get(line + length, 1);
    while (line[length++] != '\n' && length < sizeof line - 1);
    line[length] = 0;
    if (sscanf(line, "%zu %zu %lld", &command_size, &input_size, &milliseconds) != 3) give_up("request");
    char *command = calloc(1, command_size + 1), *data = malloc(input_size + 1);
    get(command, command_size);
    get(data, input_size);
    int input = input_size ? memfd_create("input", MFD_CLOEXEC) : open("/dev/null", O_RDONLY | O_CLOEXEC);
    int output = memfd_create("output", MFD_CLOEXEC);
    if (input_size) {
        put(input, data, input_size);
        lseek(input, 0, SEEK_SET);
    }
    int status = wait_for(start(command, input, output), milliseconds);
    struct stat file;
    fstat(output, &file);
    put(PORT, line, sprintf(line, "%d %lld\n", status, (long long)file.st_size));
    if (file.st_size) {
        char *written = mmap(0, file.st_size, PROT_READ, MAP_SHARED, output, 0);
        if (written == MAP_FAILED) give_up("mmap");
        put(PORT, written, file.st_size);
        munmap(written, file.st_size);
    }
    close(input);
    close(output);
    free(command);
    free(data);
}

int main(void) {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, 0);
    children = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
    fcntl(PORT, F_SETFD, FD_CLOEXEC);
    setenv("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/root", 1);
    setenv("OPENBLAS_NUM_THREADS", "1", 1); /* `import numpy` takes half the time without its threads */
    for (;;) serve();
}

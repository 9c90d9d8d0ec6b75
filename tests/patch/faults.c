/*
 * Counts, records and breaks what a process changes below one directory: every creation, write, truncation, removal,
 * renaming and fsync. Read on: crash.py builds it, preloads it and calls faults_start().
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum fault { NONE, KILL_AFTER, TEAR, FAIL_ONCE, FULL };

static char root[PATH_MAX];
static int record = -1;
static long count, position;
static enum fault fault;
static int failing;

/* From now on: the operation number `at`, counted from 1, has this fault; each one is written to the descriptor `to`. */
void faults_start(const char *directory, int to, long at, int what)
{
	snprintf(root, sizeof root, "%s", directory);
	record = to;
	position = at;
	fault = what;
	count = failing = 0;
}

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static void below(int folder, const char *name, char *path)
{
	char link[64];
	ssize_t size = 0;

	if (name && (name[0] == '/' || folder == AT_FDCWD)) {
		snprintf(path, PATH_MAX, "%s", name);
		return;
	}
	snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
	size = readlink(link, path, PATH_MAX - 1);
	path[size < 0 ? 0 : size] = 0;
	if (name && size >= 0)
		snprintf(path + size, PATH_MAX - size, "/%s", name);
}

/* Whether the operation counts; then *fails is the errno that it is to fail with instead of being done, or 0. */
static int counts(const char *path, int grows, int *fails)
{
	*fails = 0;
	if (!root[0] || strncmp(path, root, strlen(root)))
		return 0;
	count++;
	if (fault == FAIL_ONCE && count == position)
		*fails = EIO;
	if (fault == FULL && count >= position && grows)
		*fails = ENOSPC;
	if (*fails)
		failing = 1;
	return 1;
}

static void done(const char *name, const char *path, const char *other, long offset, const void *data, size_t size)
{
	ssize_t (*real)(int, const void *, size_t) = next("write");

	if (record >= 0) {
		char line[2 * PATH_MAX + 128];
		int length = snprintf(line, sizeof line, "%s\t%s\t%s\t%ld\t%zu\n", name, path, other, offset, size);
		real(record, line, length);
		if (size)
			real(record, data, size);
	}
	if ((fault == KILL_AFTER || fault == TEAR) && count == position)
		kill(getpid(), SIGKILL);
}

/* How many bytes to write: of a write that is torn, half. A word of code is never torn: it is aligned. */
static size_t torn(size_t size)
{
	return fault == TEAR && count == position && size > 4 ? size / 2 : size;
}

#define SIMPLE(name, label, grows, parameters, arguments, folder, file) \
	int name parameters \
	{ \
		int (*real) parameters = next(#name); \
		char path[PATH_MAX]; \
		int fails, counted, result, saved; \
		below(folder, file, path); \
		counted = counts(path, grows, &fails); \
		if (fails) { \
			errno = fails; \
			return -1; \
		} \
		result = real arguments; \
		saved = errno; \
		if (counted && result == 0) \
			done(label, path, "", 0, NULL, 0); \
		errno = saved; \
		return result; \
	}

SIMPLE(fsync, "sync", 0, (int fd), (fd), fd, NULL)
SIMPLE(fdatasync, "sync", 0, (int fd), (fd), fd, NULL)
SIMPLE(unlink, "unlink", 0, (const char *name), (name), AT_FDCWD, name)
SIMPLE(unlinkat, "unlink", 0, (int folder, const char *name, int flags), (folder, name, flags), folder, name)
SIMPLE(mkdir, "mkdir", 1, (const char *name, mode_t mode), (name, mode), AT_FDCWD, name)
SIMPLE(mkdirat, "mkdir", 1, (int folder, const char *name, mode_t mode), (folder, name, mode), folder, name)

#define TRUNCATE(name, type) \
	int name(int fd, type size) \
	{ \
		int (*real)(int, type) = next(#name); \
		char path[PATH_MAX]; \
		int fails, counted, result; \
		below(fd, NULL, path); \
		counted = counts(path, 0, &fails); \
		if (fails) { \
			errno = fails; \
			return -1; \
		} \
		result = real(fd, size); \
		if (counted && result == 0) \
			done("truncate", path, "", size, NULL, 0); \
		return result; \
	}

TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

static int renamed(int from, const char *old, int to, const char *new)
{
	int (*real)(int, const char *, int, const char *) = next("renameat");
	char path[PATH_MAX], other[PATH_MAX];
	int fails, counted, result;

	below(from, old, path);
	below(to, new, other);
	counted = counts(path, 1, &fails);
	if (fails) {
		errno = fails;
		return -1;
	}
	result = real(from, old, to, new);
	if (counted && result == 0)
		done("rename", path, other, 0, NULL, 0);
	return result;
}

int rename(const char *old, const char *new)
{
	return renamed(AT_FDCWD, old, AT_FDCWD, new);
}

int renameat(int from, const char *old, int to, const char *new)
{
	return renamed(from, old, to, new);
}

ssize_t write(int fd, const void *data, size_t size)
{
	ssize_t (*real)(int, const void *, size_t) = next("write");
	char path[PATH_MAX];
	int fails, counted;
	ssize_t result;

	below(fd, NULL, path);
	counted = counts(path, 1, &fails);
	if (fails) {
		errno = fails;
		return -1;
	}
	off_t offset = counted ? lseek(fd, 0, SEEK_CUR) : 0;
	result = real(fd, data, counted ? torn(size) : size);
	if (counted && result >= 0)
		done("write", path, "", offset, data, result);
	return result;
}

#define PWRITE(name, type) \
	ssize_t name(int fd, const void *data, size_t size, type offset) \
	{ \
		ssize_t (*real)(int, const void *, size_t, type) = next(#name); \
		char path[PATH_MAX]; \
		int fails, counted; \
		ssize_t result; \
		below(fd, NULL, path); \
		counted = counts(path, 1, &fails); \
		if (fails) { \
			errno = fails; \
			return -1; \
		} \
		result = real(fd, data, counted ? torn(size) : size, offset); \
		if (counted && result >= 0) \
			done("write", path, "", offset, data, result); \
		return result; \
	}

PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

static int opened(int folder, const char *name, int flags, mode_t mode)
{
	int (*real)(int, const char *, int, ...) = next("openat64");
	char path[PATH_MAX];
	struct stat status;
	int fails, counted = 0, result;

	below(folder, name, path);
	if ((flags & O_CREAT) && fstatat(AT_FDCWD, path, &status, AT_SYMLINK_NOFOLLOW)) {
		counted = counts(path, 1, &fails);
		if (fails) {
			errno = fails;
			return -1;
		}
	}
	result = real(folder, name, flags, mode);
	if (counted && result >= 0)
		done("create", path, "", 0, NULL, 0);
	return result;
}

#define OPEN(name, parameters, folder) \
	int name parameters \
	{ \
		va_list rest; \
		mode_t mode; \
		va_start(rest, flags); \
		mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
		va_end(rest); \
		return opened(folder, file, flags, mode); \
	}

OPEN(open, (const char *file, int flags, ...), AT_FDCWD)
OPEN(open64, (const char *file, int flags, ...), AT_FDCWD)
OPEN(openat, (int folder, const char *file, int flags, ...), folder)
OPEN(openat64, (int folder, const char *file, int flags, ...), folder)

/* Whether a fault was met: an operation failed, or was the last one. */
int faults_met(void)
{
	return failing || (position && count >= position);
}

long faults_count(void)
{
	return count;
}

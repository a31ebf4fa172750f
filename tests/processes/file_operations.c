/* A library for LD_PRELOAD that ends the process before its N-th file operation, or lets
   operations fail. It sees what C code does too: DuckDB, SQLite, Arrow.

   An operation is one that changes something below a given folder. Each is appended to a log as
   "name path\n"; the last line of a killed process is the operation it didn't make any more. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static size_t folder_length;
static int log_fd = -1;
static long fatal, failing_from;
static int failing_errno;
static long count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define EXPORTED __attribute__((visibility("default")))
#define NEXT(name)                                                                              \
    static __typeof__(name) *next;                                                              \
    if (!next)                                                                                  \
    next = (__typeof__(next))dlsym(RTLD_NEXT, #name)

/* Counting starts now. kill_before, fail_from: from 1; 0: never. From operation `fail_from` on,
   all but the removing ones fail with `fail_errno`. */
EXPORTED int file_operations_watch(const char *below, const char *log, long kill_before,
                                   long fail_from, int fail_errno) {
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) return -1;
    fatal = kill_before;
    failing_from = fail_from;
    failing_errno = fail_errno;
    snprintf(folder, sizeof folder, "%s", below);
    folder_length = strlen(folder);
    return 0;
}

static char without_locks[PATH_MAX];

/* Files below `below` can't be locked, as on some network mounts. */
EXPORTED void file_operations_no_locks(const char *below) {
    snprintf(without_locks, sizeof without_locks, "%s", below);
}

static char fatal_name[PATH_MAX];

/* The process ends before the first operation with `part` in its line of the log. */
EXPORTED void file_operations_kill_at(const char *part) {
    snprintf(fatal_name, sizeof fatal_name, "%s", part);
}

static void resolve(int at, const char *path, char *found) {
    if (path && path[0] == '/') {
        snprintf(found, PATH_MAX, "%s", path);
        return;
    }
    char link[64];
    if (at == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t length = readlink(link, found, PATH_MAX - 1);
    if (length < 0) length = 0;
    found[length] = 0;
    if (path && path[0]) snprintf(found + length, PATH_MAX - (size_t)length, "/%s", path);
}

/* 0, or the errno that the operation is to fail with. */
static int count_resolved(const char *name, const char *path, int removes) {
    if (strncmp(path, folder, folder_length) ||
        (path[folder_length] && path[folder_length] != '/'))
        return 0;
    char line[PATH_MAX + 32];
    int length = snprintf(line, sizeof line, "%s %s\n", name, path + folder_length + (path[folder_length] == '/'));
    pthread_mutex_lock(&lock);
    long number = ++count;
    syscall(SYS_write, log_fd, line, (size_t)length);
    if (number == fatal || (fatal_name[0] && strstr(line, fatal_name))) {
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;) pause();
    }
    pthread_mutex_unlock(&lock);
    return failing_from && number >= failing_from && !removes ? failing_errno : 0;
}

static int counted(const char *name, int at, const char *path, int removes) {
    if (log_fd < 0 || !path) return 0;
    int before = errno;
    char found[PATH_MAX];
    resolve(at, path, found);
    int failure = count_resolved(name, found, removes);
    errno = failure ? failure : before;
    return failure;
}

static int counted_fd(const char *name, int fd) {
    if (fd <= 2 || fd == log_fd) return 0;
    return counted(name, fd, "", 0);
}

#define CHANGES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))

#define OPEN(name)                                                                              \
    EXPORTED int name(const char *path, int flags, ...) {                                       \
        NEXT(name);                                                                             \
        va_list more;                                                                           \
        va_start(more, flags);                                                                  \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;               \
        va_end(more);                                                                           \
        if (CHANGES(flags) && counted("open", AT_FDCWD, path, 0)) return -1;                    \
        return next(path, flags, mode);                                                         \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                            \
    EXPORTED int name(int at, const char *path, int flags, ...) {                               \
        NEXT(name);                                                                             \
        va_list more;                                                                           \
        va_start(more, flags);                                                                  \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;               \
        va_end(more);                                                                           \
        if (CHANGES(flags) && counted("open", at, path, 0)) return -1;                          \
        return next(at, path, flags, mode);                                                     \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                             \
    EXPORTED FILE *name(const char *path, const char *mode) {                                   \
        NEXT(name);                                                                             \
        if (strpbrk(mode, "wa+") && counted("open", AT_FDCWD, path, 0)) return NULL;            \
        return next(path, mode);                                                                \
    }
FOPEN(fopen)
FOPEN(fopen64)

/* kind, type of the result, name, parameters, arguments; the first argument is the descriptor */
#define ON_FD(kind, type, name, parameters, ...)                                                \
    EXPORTED type name parameters {                                                             \
        NEXT(name);                                                                             \
        if (counted_fd(kind, fd)) return -1;                                                    \
        return next(__VA_ARGS__);                                                               \
    }
ON_FD("write", ssize_t, write, (int fd, const void *bytes, size_t size), fd, bytes, size)
ON_FD("write", ssize_t, pwrite, (int fd, const void *bytes, size_t size, off_t at), fd, bytes, size, at)
ON_FD("write", ssize_t, pwrite64, (int fd, const void *bytes, size_t size, off64_t at), fd, bytes, size, at)
ON_FD("write", ssize_t, writev, (int fd, const struct iovec *parts, int many), fd, parts, many)
ON_FD("write", ssize_t, pwritev, (int fd, const struct iovec *parts, int many, off_t at), fd, parts, many, at)
ON_FD("write", ssize_t, pwritev64, (int fd, const struct iovec *parts, int many, off64_t at), fd, parts, many, at)
ON_FD("fsync", int, fsync, (int fd), fd)
ON_FD("fsync", int, fdatasync, (int fd), fd)
ON_FD("truncate", int, ftruncate, (int fd, off_t size), fd, size)
ON_FD("truncate", int, ftruncate64, (int fd, off64_t size), fd, size)
ON_FD("chmod", int, fchmod, (int fd, mode_t mode), fd, mode)
ON_FD("write", ssize_t, copy_file_range, (int in, off64_t *from, int fd, off64_t *to, size_t size, unsigned flags), in, from, fd, to, size, flags)
ON_FD("write", ssize_t, sendfile, (int fd, int in, off_t *from, size_t size), fd, in, from, size)
ON_FD("write", ssize_t, sendfile64, (int fd, int in, off64_t *from, size_t size), fd, in, from, size)

EXPORTED int posix_fallocate(int fd, off_t at, off_t size) {
    NEXT(posix_fallocate);
    int failure = counted_fd("allocate", fd);
    return failure ? failure : next(fd, at, size);
}

#define ON_PATH(kind, name, folder_fd, removes, parameters, ...)                                \
    EXPORTED int name parameters {                                                              \
        NEXT(name);                                                                             \
        if (counted(kind, folder_fd, path, removes)) return -1;                                 \
        return next(__VA_ARGS__);                                                               \
    }
ON_PATH("truncate", truncate, AT_FDCWD, 0, (const char *path, off_t size), path, size)
ON_PATH("chmod", chmod, AT_FDCWD, 0, (const char *path, mode_t mode), path, mode)
ON_PATH("mkdir", mkdir, AT_FDCWD, 0, (const char *path, mode_t mode), path, mode)
ON_PATH("mkdir", mkdirat, at, 0, (int at, const char *path, mode_t mode), at, path, mode)
ON_PATH("remove", unlink, AT_FDCWD, 1, (const char *path), path)
ON_PATH("remove", unlinkat, at, 1, (int at, const char *path, int flags), at, path, flags)
ON_PATH("remove", remove, AT_FDCWD, 1, (const char *path), path)
ON_PATH("remove", rmdir, AT_FDCWD, 1, (const char *path), path)
ON_PATH("rename", rename, AT_FDCWD, 0, (const char *from, const char *path), from, path)
ON_PATH("rename", renameat, at, 0, (int in, const char *from, int at, const char *path), in, from, at, path)
ON_PATH("rename", renameat2, at, 0, (int in, const char *from, int at, const char *path, unsigned flags), in, from, at, path, flags)
ON_PATH("link", link, AT_FDCWD, 0, (const char *from, const char *path), from, path)
ON_PATH("link", linkat, at, 0, (int in, const char *from, int at, const char *path, int flags), in, from, at, path, flags)
ON_PATH("link", symlink, AT_FDCWD, 0, (const char *from, const char *path), from, path)
ON_PATH("link", symlinkat, at, 0, (const char *from, int at, const char *path), from, at, path)

#define FCNTL(name)                                                                             \
    EXPORTED int name(int fd, int command, ...) {                                               \
        NEXT(name);                                                                             \
        va_list more;                                                                           \
        va_start(more, command);                                                                \
        void *argument = va_arg(more, void *);                                                  \
        va_end(more);                                                                           \
        if (without_locks[0] && (command == F_SETLK || command == F_SETLKW || command == F_GETLK)) { \
            char found[PATH_MAX];                                                               \
            resolve(fd, "", found);                                                             \
            if (!strncmp(found, without_locks, strlen(without_locks))) {                        \
                errno = ENOTSUP;                                                                \
                return -1;                                                                      \
            }                                                                                   \
        }                                                                                       \
        return next(fd, command, argument);                                                     \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

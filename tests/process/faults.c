/* Faults of disks, for a process that is started with this library in LD_PRELOAD.
 *
 * The file that FAULTS names says which are in force; it is read at every call. A fault is a line:
 *
 *     sync_errno NUMBER PREFIX    syncs of files below PREFIX fail with that errno, and do nothing
 *     pwrite_errno NUMBER PREFIX  writes past the page cache fail with it, halfway through
 *     sync_ms NUMBER PREFIX       they take so long
 *     free_bytes NUMBER PREFIX    so much is free there, and a file of more finds no space
 *     quota_bytes NUMBER PREFIX   a file of more exceeds a quota, of which nothing else tells
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define FAULTS_BYTES_MAX 4096
#define PATH_BYTES_MAX 4096
#define BLOCK_BYTES 4096

/* The number of the fault of that kind that is in force for the path; -1: there is none. */
static long long find_fault(const char *kind, const char *path)
{
    char text[FAULTS_BYTES_MAX + 1];
    const char *name = getenv("FAULTS");
    int fd = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    ssize_t size = read(fd, text, FAULTS_BYTES_MAX);
    close(fd);
    text[size > 0 ? size : 0] = '\0';
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char found[32];
        char prefix[PATH_BYTES_MAX];
        long long number;
        if (sscanf(line, "%31s %lld %4095s", found, &number, prefix) == 3 &&
            strcmp(found, kind) == 0 && strncmp(path, prefix, strlen(prefix)) == 0) {
            return number;
        }
    }
    return -1;
}

static long long find_fault_of_file(const char *kind, int fd)
{
    char link[64];
    char path[PATH_BYTES_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) {
        return -1;
    }
    path[size] = '\0';
    return find_fault(kind, path);
}

static int sync_with_faults(const char *function, int fd)
{
    long long milliseconds = find_fault_of_file("sync_ms", fd);
    if (milliseconds > 0) {
        struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
        while (nanosleep(&left, &left) != 0) {
        }
    }
    long long error = find_fault_of_file("sync_errno", fd);
    if (error > 0) {
        errno = (int)error;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, function);
    return real(fd);
}

int fdatasync(int fd)
{
    return sync_with_faults("fdatasync", fd);
}

int fsync(int fd)
{
    return sync_with_faults("fsync", fd);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    long long error = find_fault_of_file("pwrite_errno", fd);
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    if (error > 0) {
        real(fd, data, size / 2 & -(size_t)BLOCK_BYTES, offset);
        errno = (int)error;
        return -1;
    }
    return real(fd, data, size, offset);
}

int posix_fallocate(int fd, off_t offset, off_t size)
{
    long long free_bytes = find_fault_of_file("free_bytes", fd);
    if (free_bytes >= 0 && size > free_bytes) {
        return ENOSPC;
    }
    long long quota_bytes = find_fault_of_file("quota_bytes", fd);
    if (quota_bytes >= 0 && size > quota_bytes) {
        return EDQUOT;
    }
    int (*real)(int, off_t, off_t) =
        (int (*)(int, off_t, off_t))dlsym(RTLD_NEXT, "posix_fallocate");
    return real(fd, offset, size);
}

int statvfs(const char *path, struct statvfs *found)
{
    int (*real)(const char *, struct statvfs *) =
        (int (*)(const char *, struct statvfs *))dlsym(RTLD_NEXT, "statvfs");
    int result = real(path, found);
    long long free_bytes = find_fault("free_bytes", path);
    if (result == 0 && free_bytes >= 0) {
        found->f_bavail = (fsblkcnt_t)free_bytes / found->f_frsize;
    }
    return result;
}

/* What Python, built for large files, calls; the types are the same on the machines that tests run
 * on. */
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
    __attribute__((alias("pwrite")));
int posix_fallocate64(int fd, off64_t offset, off64_t size) __attribute__((alias("posix_fallocate")));
int statvfs64(const char *path, struct statvfs64 *found) __attribute__((alias("statvfs")));

/* Syncing several files at once.
 *
 * A sync waits for the disk; several at once wait together. The disk is given all files' data before
 * any of them is waited for, so a thread mostly finds that done, and few threads are enough: those
 * that wait at the same time share the flush of the disk's cache.
 *
 * Threads are made for each call and joined before it returns: that takes about 20 us of processor
 * time each, as much as waking a sleeping thread would, beside a sync's 100 us and more. So no
 * thread is ever alive when a process forks, and there is no pool to look after.
 */
#define _GNU_SOURCE /* sync_file_range */
#include "walle.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

/* Small, so that the C library keeps the stacks of all threads for the next call. With stacks of
 * the usual 8 MiB making eight threads takes twice as long. */
#define STACK_SIZE (256 * 1024)

struct job {
    int *files;
    size_t count;
    atomic_size_t next;
};

/* Lets the system begin to write what a sync of that file will wait for. It promises nothing: a
 * write that fails is reported by the sync. */
static void start_writing(int fd)
{
#if defined(__linux__)
    sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
#else
    (void)fd;
#endif
}

static int sync_file(int fd)
{
    int result;
    do {
#if defined(__linux__)
        result = fdatasync(fd);
#else
        result = fsync(fd);
#endif
        /* An interrupted sync has reported nothing yet, so it is repeated; any other error is
         * reported once by the system and must not be. */
    } while (result && errno == EINTR);
    return result ? errno : 0;
}

/* Takes files until none is left. The counter orders nothing but itself: what the threads write is
 * handed over by pthread_join. */
static void *work(void *argument)
{
    struct job *job = argument;
    for (;;) {
        size_t index = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (index >= job->count)
            return NULL;
        job->files[index] = sync_file(job->files[index]);
    }
}

/* Syncs with up to `threads_max` threads, the caller's among them. Where the system refuses a
 * thread, the others do its work. */
void walle_sync_files(int *files, size_t count, size_t threads_max)
{
    struct job job = {.files = files, .count = count};
    pthread_t threads[WALLE_SYNC_THREADS_MAX];
    size_t wanted = count < threads_max ? count : threads_max;
    size_t made = 0;
    if (wanted > WALLE_SYNC_THREADS_MAX)
        wanted = WALLE_SYNC_THREADS_MAX;
    if (wanted > 1) {
        for (size_t index = 0; index < count; ++index)
            start_writing(files[index]);
        /* Threads inherit the mask: the process's signals stay with the threads it knows of. */
        sigset_t all, before;
        pthread_attr_t small;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, STACK_SIZE);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        while (made < wanted - 1 && !pthread_create(&threads[made], &small, work, &job))
            ++made;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&small);
    }
    work(&job);
    while (made)
        pthread_join(threads[--made], NULL);
}

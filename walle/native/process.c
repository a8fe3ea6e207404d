/* What a child process asks of the system and Python does not offer. */
#include "walle.h"

#include <errno.h>
#include <stdlib.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__linux__)
#include <sys/prctl.h>
#endif

/* The calling process gets `signal` when its parent ends; 0: none. */
int walle_process_set_parent_death_signal(int signal)
{
#if defined(__linux__)
    return prctl(PR_SET_PDEATHSIG, (unsigned long)signal) ? errno : 0;
#else
    (void)signal;
    return ENOSYS;
#endif
}

/* Blocks of this size and larger go back to the system when they are freed. By itself glibc keeps
 * whatever is smaller than the largest that was freed so far, and between what is kept lie holes. */
void walle_process_return_large_blocks(void)
{
#if defined(__GLIBC__)
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
#endif
}

/* What a child process asks of the system and Python does not offer. */
#include "walle.h"

#include <errno.h>
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

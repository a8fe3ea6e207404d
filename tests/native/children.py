"""Forked children for tests: started, waited for, killed."""

from __future__ import annotations

import os
import select
import signal
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 120
"""How long a test waits for what must happen: far above what it takes, so a timeout is a bug."""


@contextmanager
def forked(function: Callable[[], None], *, status: int = 0) -> Iterator[int]:
    """Runs `function` in a child while the block runs, then waits for the child. Gives its pid.

    Args:
        status: what the child must end with: its exit status, or minus the signal that ended it.
    """
    pid = os.fork()
    if not pid:
        _run_and_exit(function)
    try:
        yield pid
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status


def _run_and_exit(function: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        function()
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the child's stack ends here
        traceback.print_exc()
    finally:
        os._exit(status)


def wait_readable(fd: int) -> None:
    """Sleeps until `fd` is readable.

    Raises:
        TimeoutError: it never became so.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(PATIENCE_S * 1_000):
        raise TimeoutError(f"nobody rang within {PATIENCE_S} s")

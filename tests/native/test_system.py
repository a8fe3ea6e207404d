"""What the C core asks of the system: syncing files, and the signal at a parent's death."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.native import twins
from tests.native.children import forked, wait_readable
from walle.native import set_parent_death_signal, sync_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def fds(tmp_path: Path) -> Iterator[list[int]]:
    """Files with something to sync."""
    fds = [os.open(tmp_path / str(index), os.O_RDWR | os.O_CREAT) for index in range(20)]
    for fd in fds:
        os.write(fd, b"something")
    yield fds
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("threads_max", [0, 1, 2, 8, 64, 1_000])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_sync_of_good_files_is_fine(fds: list[int], count: int, threads_max: int) -> None:
    assert sync_files(fds[:count], threads_max) == [0] * count


def test_sync_gives_each_file_its_own_error(fds: list[int]) -> None:
    read_end, write_end = os.pipe()
    mixed = [fds[0], 1 << 29, fds[1], read_end, 1 << 30, fds[2]]
    expected = [0, errno.EBADF, 0, errno.EINVAL, errno.EBADF, 0]
    for threads_max in (1, 2, 8):
        assert sync_files(mixed, threads_max) == expected
    assert twins.sync_files(mixed) == expected
    os.close(read_end)
    os.close(write_end)


def test_sync_of_many_more_files_than_threads_leaves_none_out() -> None:
    assert sync_files([-1] * 5_000) == [errno.EBADF] * 5_000


@pytest.mark.slow
def test_sync_leaves_no_thread_and_the_signal_mask_as_it_was(fds: list[int]) -> None:
    def child() -> None:
        """Has one thread, whatever the tests' own process has."""
        before = signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR2])
        sync_files(fds)
        assert signal.pthread_sigmask(signal.SIG_SETMASK, before) == {signal.SIGUSR2}
        assert len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208

    with forked(child):
        pass


@pytest.mark.slow
def test_sync_works_on_both_sides_of_a_fork(fds: list[int]) -> None:
    sync_files(fds)

    def child() -> None:
        assert sync_files(fds) == [0] * len(fds)

    with forked(child):
        assert sync_files(fds) == [0] * len(fds)


@pytest.mark.slow
def test_parent_death_signal_ends_the_child_of_a_parent_that_died() -> None:
    # The write end is open in the grandchild only, once the child is gone: it is closed by death.
    read_end, write_end = os.pipe()

    def child() -> None:
        os.close(read_end)
        is_ready = os.pipe()

        def grandchild() -> None:
            set_parent_death_signal(signal.SIGKILL)
            os.write(is_ready[1], b"1")
            signal.pause()

        with forked(grandchild):
            os.read(is_ready[0], 1)
            os.kill(os.getpid(), signal.SIGKILL)

    with forked(child, status=-signal.SIGKILL):
        os.close(write_end)
        wait_readable(read_end)
        assert os.read(read_end, 1) == b""
    os.close(read_end)


def test_parent_death_signal_refuses_what_is_no_signal() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        set_parent_death_signal(1_000)

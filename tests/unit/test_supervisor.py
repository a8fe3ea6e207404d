"""How ends are described, and where a node listens."""

from __future__ import annotations

import signal
import socket

import pytest

from walle.errors import ConfigError
from walle.supervisor import Ended, describe_status, listen

# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "ended with status 0"),
        (70, "ended with status 70"),
        (-signal.SIGKILL, "was killed by SIGKILL (by hand, or for want of memory)"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
    ],
)
def test_end_of_a_process_is_described(status: int, text: str) -> None:
    assert describe_status(status) == text
    assert str(Ended("storage", status)) == f"storage {text}"


# --- listening ------------------------------------------------------------------------------------


def test_address_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"listen: cannot listen on {address}: Address alre"):
            listen(address)


def test_listener_does_not_block() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with listen(f"127.0.0.1:{port}") as listener:
        assert not listener.getblocking()
        assert listener.getsockname() == ("127.0.0.1", port)

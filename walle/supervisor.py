"""The supervisor: a node's first process, which forks the three others and watches them.

It holds the lock on the data directory and the node's identity. When any of its children dies, it
ends the others and starts the node afresh from disk, after a pause that grows while the node keeps
dying: there is no half-alive node. It runs no threads and handles signals where it waits for them.

The storage process inherits the lock, so that no other node can open the directory while that
process may still write, even when the supervisor was killed.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import setproctitle

from walle.config import parse_address
from walle.data_directory import DataDirectory
from walle.errors import ConfigError
from walle.process.child import (
    EX_CONFIG,
    HOPELESS,
    fork_child,
    run_consensus,
    run_network,
    run_storage,
)
from walle.ring.region import Region

if TYPE_CHECKING:
    from walle.config import NodeConfig

log = logging.getLogger("walle.supervisor")

PAUSE_S_MIN = 0.1
PAUSE_S_MAX = 5.0
STABLE_S = 30.0
STOP_S = 5.0
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
STOP_ORDER = ("consensus", "storage", "network")
"""Consensus first, while it can still reach the others; storage once it has all orders."""


class Ended(NamedTuple):
    """A child that has ended, by exit status or by signal."""

    role: str
    status: int

    def __str__(self) -> str:
        return f"{self.role} {describe_status(self.status)}"


def describe_status(status: int) -> str:
    """How a process ended; `status` is as `os.waitstatus_to_exitcode` gives it."""
    if status >= 0:
        return f"ended with status {status}"
    hint = " (by hand, or for want of memory)" if status == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-status).name}{hint}"


def listen(address: str) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    host, port = parse_address("listen", address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError("listen", f"cannot listen on {address}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches a listening address; a name's meaning is not known."""
    host, _ = parse_address("listen", address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Supervisor:
    """Runs one node until it is asked to stop, or cannot go on."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._directory = DataDirectory(config)
        self._children: dict[int, str] = {}

    def run(self) -> int:
        """Returns the node's exit status: 0 after a stop in good order."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        setproctitle.setproctitle(f"walle {self._config.node} supervisor")
        pause_s = PAUSE_S_MIN
        while True:
            started_s = time.monotonic()
            self._start()
            ended = self._wait()
            if ended is None:
                return self._stop()
            self._kill()
            if ended.status in HOPELESS:
                log.error("%s: the node cannot run; see the message above", ended)
                return ended.status
            if time.monotonic() - started_s > STABLE_S:
                pause_s = PAUSE_S_MIN
            log.error("%s; the node starts again in %.1f s", ended, pause_s)
            if self._pause(pause_s):
                return 0
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _start(self) -> None:
        """Forks the three processes around fresh shared memory."""
        config, node = self._config, self._config.node
        listener = listen(config.listen)
        region = Region()
        keep = self._directory.lock_fd

        def network() -> None:
            os.close(keep)
            run_network(region, listener, config.tls)

        def consensus() -> None:
            os.close(keep)
            listener.close()
            run_consensus(region, config, self._directory.identity)

        def storage() -> None:
            listener.close()
            run_storage(region, config)

        for role, work in (("storage", storage), ("consensus", consensus), ("network", network)):
            self._children[fork_child(node, role, work)] = role
        listener.close()
        region.close()
        log.info("node %s runs at %s: %s", node, config.listen, self._describe())
        if config.tls is None and not is_loopback(config.listen):
            log.warning("without the setting tls, whoever reaches %s is let in", config.listen)

    def _describe(self) -> str:
        return ", ".join(f"{role} {pid}" for pid, role in self._children.items())

    def _wait(self) -> Ended | None:
        """Waits until a child ends; None when a stop was asked for."""
        while True:
            info = signal.sigwaitinfo(SIGNALS)
            if info.si_signo != signal.SIGCHLD:
                return None
            ended = self._reap()
            if ended:
                return ended[0]

    def _reap(self) -> list[Ended]:
        ended = []
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            role = self._children.pop(pid, None)
            if role is not None:
                ended.append(Ended(role, os.waitstatus_to_exitcode(status)))
        return ended

    def _pause(self, seconds: float) -> bool:
        """Waits; returns whether a stop was asked for meanwhile."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            info = signal.sigtimedwait(SIGNALS, left_s)
            if info is not None and info.si_signo != signal.SIGCHLD:
                return True
        return False

    def _stop(self) -> int:
        """Stops the children in good order; returns the exit status."""
        log.info("node %s stops", self._config.node)
        status = 0
        for role in STOP_ORDER:
            for pid in [pid for pid, each in self._children.items() if each == role]:
                os.kill(pid, signal.SIGTERM)
                for ended in self._wait_for(pid):
                    log.log(logging.ERROR if ended.status else logging.DEBUG, "%s", ended)
                    status = status or abs(ended.status)
        self._kill()
        return status

    def _wait_for(self, pid: int) -> list[Ended]:
        """Waits a while for one child; returns all that have ended."""
        ended: list[Ended] = []
        until_s = time.monotonic() + STOP_S
        while pid in self._children and (left_s := until_s - time.monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, min(left_s, 0.1))
            ended += self._reap()
        return ended

    def _kill(self) -> None:
        """Ends what is left of the node at once, and waits until it is gone."""
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        while self._children:
            pid, _ = os.waitpid(-1, 0)
            self._children.pop(pid, None)


def run_node(config: NodeConfig) -> int:
    """Runs a node until it is asked to stop, or cannot go on; returns its exit status."""
    try:
        return Supervisor(config).run()
    except ConfigError as error:
        log.critical("%s", error)
        return EX_CONFIG


def configure_logging(node: str, *, is_verbose: bool = False) -> None:
    """Logs to standard error, a line an event."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if is_verbose else logging.INFO,
        format=f"%(asctime)s {node} %(name)s %(levelname)s %(message)s",
        force=True,
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)

"""What each of a node's three processes does after the fork, and how it ends.

A process ends with an exit status that says what its supervisor can do about it (sysexits.h):

    0   it was asked to stop, and has stopped in good order
    65  EX_DATAERR   the journal cannot be trusted: starting again does not help
    70  EX_SOFTWARE  a broken invariant or another bug: start the node afresh from disk
    74  EX_IOERR     a write or a sync failed, or entries are damaged that may not be committed:
                     start afresh; what is on the disk is read again, and recovery deals with it
    78  EX_CONFIG    a setting is wrong: starting again does not help
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING

import setproctitle

from walle.errors import ConfigError, CorruptionError
from walle.native import return_large_blocks, set_parent_death_signal
from walle.process.consensus import Consensus
from walle.process.loop import Loop
from walle.process.network import Network
from walle.process.storage import Storage
from walle.process.turns import TurnSelector
from walle.ring.region import PID_CONSENSUS, PID_NETWORK, PID_STORAGE
from walle.storage.reserve import Reserve
from walle.storage.store import Store
from walle.storage.vfs import RealFiles

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from walle.config import NodeConfig
    from walle.ring.region import Region
    from walle.tls import Tls

EX_DATAERR = 65
EX_SOFTWARE = 70
EX_IOERR = 74
EX_CONFIG = 78

HOPELESS = frozenset({EX_DATAERR, EX_CONFIG})
"""The statuses after which starting again does not help."""

log = logging.getLogger("walle")


class UntrustedError(Exception):
    """The data directory cannot be opened, and starting again does not help."""


def fork_child(node: str, role: str, work: Callable[[], None]) -> int:
    """Forks a process that does `work` and ends; returns its id.

    It dies with its parent. Signals are as after a start of the interpreter, but for SIGINT, which
    is the supervisor's to handle.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    # The garbage collector writes into all that it looks at, so that parent and child would share
    # none of it any more: 10 MB a process.
    gc.freeze()
    pid = os.fork()
    if pid:
        return pid
    status = EX_SOFTWARE
    try:
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        setproctitle.setproctitle(f"walle {node} {role}")
        _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
        status = _run(work)
    finally:
        logging.shutdown()
        os._exit(status)


def _run(work: Callable[[], None]) -> int:
    try:
        work()
    except ConfigError as error:
        log.critical("%s", error)
        return EX_CONFIG
    except UntrustedError as error:
        log.critical("%s", error)
        return EX_DATAERR
    except CorruptionError as error:
        log.critical("damage was found while the node ran, which stops: %s", error)
        return EX_IOERR
    except OSError:
        log.critical("an operation of the system failed: the node stops", exc_info=True)
        return EX_IOERR
    except BaseException:
        log.critical("the node stops", exc_info=True)
        return EX_SOFTWARE
    return 0


def _settle() -> None:
    """The work begins. What is there by now stays: the garbage collector need not go through it
    again, which would hold up the puts of that moment by milliseconds where there are many streams.
    """
    gc.collect()
    gc.freeze()


def run_network(region: Region, listener: socket.socket, tls: Tls | None) -> None:
    """The network process. What clients have not read takes as much memory as it has bytes, however
    it comes and goes."""
    return_large_blocks()
    region.counters[PID_NETWORK] = os.getpid()
    selector = TurnSelector()
    network = Network(region, selector, tls)

    async def serve() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        _settle()
        await network.run(listener, stop)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(serve())


def run_consensus(region: Region, config: NodeConfig, identity: bytes) -> None:
    """The consensus process."""
    region.counters[PID_CONSENSUS] = os.getpid()
    loop = Loop(region.consensus_bell)
    consensus = Consensus(loop, region, config, identity)
    consensus.start()
    _settle()
    loop.run(consensus)
    consensus.stop()


def run_storage(region: Region, config: NodeConfig) -> None:
    """The storage process."""
    region.counters[PID_STORAGE] = os.getpid()
    loop = Loop(region.storage_bell)
    try:
        reserve = Reserve(config.data, RealFiles(), config.disk_reserve_bytes)
        store = Store(config.data, reserve)
    except CorruptionError as error:
        # Of streams' entries nothing is that bad: recovery gives up what is damaged of them.
        raise UntrustedError(str(error)) from error
    for finding in store.findings:
        log.warning("%s", finding)
    storage = Storage(
        loop, region, store, reserve, scrub_bytes_per_second=config.scrub_bytes_per_second
    )
    _settle()
    loop.run(storage)
    while storage.do_work():
        pass
    store.finish()

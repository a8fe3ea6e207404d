"""A node's data directory: whose it is, and the lock that says that it is in use.

A node holds the lock alone. Tools that look at the directory share it among themselves.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from typing import TYPE_CHECKING, NamedTuple

from walle.errors import ConfigError
from walle.ids import IDENTITY_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from walle.config import NodeConfig

LOCK = "lock"
OWNER = "node.json"


class Owner(NamedTuple):
    """The node that a directory belongs to.

    identity: random, made with the directory; a wiped node is another node.
    """

    node: str
    identity: bytes


class DataDirectory:
    """The node's directory: locked, and belonging to this node.

    Raises:
        ConfigError: another process holds the lock, the directory is another node's, or it can
            be none.
    """

    def __init__(self, config: NodeConfig) -> None:
        path = config.data
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.lock_fd = lock_alone(path)
        except BlockingIOError:
            raise ConfigError(
                "data",
                f"{path} is in use by another process; stop that node, or end that tool, first",
            ) from None
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise ConfigError("data", f"{path} cannot be used: {error.strerror}") from error
        try:
            self.identity = _own(path, config.node)
        except BaseException:
            os.close(self.lock_fd)
            raise

    def close(self) -> None:
        """Gives up the lock, as far as this process holds it."""
        os.close(self.lock_fd)


def lock_alone(path: Path) -> int:
    """Takes the lock on the directory for one process; returns its descriptor.

    Raises:
        BlockingIOError: others hold it.
    """
    return _lock(os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), fcntl.LOCK_EX)


def lock_shared(path: Path) -> int | None:
    """Takes the lock together with others who only look; None: there is none, as in a copy.

    Raises:
        BlockingIOError: one process holds it alone.
    """
    try:
        fd = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    return _lock(fd, fcntl.LOCK_SH)


def _lock(fd: int, kind: int) -> int:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_owner(path: Path) -> Owner | None:
    """Whose directory it is, by the file in it; None: there is no such file.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        found = json.loads((path / OWNER).read_text())
        owner = Owner(found["node"], bytes.fromhex(found["identity"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "data", f"{path / OWNER} is no node's identity file: {error!r}"
        ) from error
    if len(owner.identity) != IDENTITY_SIZE:
        size = len(owner.identity)
        raise ConfigError("data", f"{path / OWNER} is no node's identity file: {size} bytes")
    return owner


def _own(path: Path, node: str) -> bytes:
    """The identity that the node has in this directory; a new one, made durable, in a new one."""
    owner = read_owner(path)
    if owner is None:
        owner = Owner(node, secrets.token_bytes(IDENTITY_SIZE))
        text = json.dumps({"node": node, "identity": owner.identity.hex()}) + "\n"
        _write_durably(path / OWNER, text)
    if owner.node != node:
        raise ConfigError(
            "data", f"{path} belongs to node {owner.node}, not to {node}; check `node` and `data`"
        )
    return owner.identity


def _write_durably(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

"""WALLE: a replicated write-ahead log with built-in leader election.

async with walle.connect("127.0.0.1:7411") as client:
    async with client.claim("/orders", address="app-1:9000") as writer:
        await writer.put(b"order 1 created")
"""

from walle import sync
from walle.client.client import Client, connect
from walle.client.writer import Writer
from walle.embedding import embedded
from walle.errors import (
    Busy,
    ConfigError,
    CorruptionError,
    DiskFull,
    LeaseExpired,
    LocalProtocolError,
    NotAMember,
    NotHeld,
    Outcome,
    ProtocolError,
    Refused,
    RemoteProtocolError,
    StreamExists,
    Trimmed,
    Unavailable,
    UnknownStream,
    UnreadableEntry,
    WalleError,
    WriterLost,
    WrongCluster,
)
from walle.ids import Position, WriterId
from walle.record import Entry
from walle.tls import Tls

__all__ = [
    "Busy",
    "Client",
    "ConfigError",
    "CorruptionError",
    "DiskFull",
    "Entry",
    "LeaseExpired",
    "LocalProtocolError",
    "NotAMember",
    "NotHeld",
    "Outcome",
    "Position",
    "ProtocolError",
    "Refused",
    "RemoteProtocolError",
    "StreamExists",
    "Tls",
    "Trimmed",
    "Unavailable",
    "UnknownStream",
    "UnreadableEntry",
    "WalleError",
    "Writer",
    "WriterId",
    "WriterLost",
    "WrongCluster",
    "connect",
    "embedded",
    "sync",
]

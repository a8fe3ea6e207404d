"""PostgreSQL: inserts of one row each, by prepared statements, with two standbys.

A connection has one transaction at a time, so that the load needs many of them.
"""

from __future__ import annotations

import signal
import struct
from pathlib import Path

from tools.peers.driver import Connection
from tools.peers.servers import HOST, Servers, free_ports, install, run, wait_for

PROGRAMS = Path("/usr/lib/postgresql")
USER = "postgres"
SETTINGS = f"""
listen_addresses = '{HOST}'
unix_socket_directories = ''
fsync = on
synchronous_commit = on
full_page_writes = on
wal_sync_method = fdatasync
max_connections = 300
wal_keep_size = '1GB'
"""
INSERT = b"insert into log (value) values ($1)"
STREAMING = "select count(*) from pg_stat_replication where state = 'streaming'"
QUORUM = "select count(*) from pg_stat_replication where sync_state = 'quorum'"


class PostgresConnection(Connection):
    """One put at a time: its id is how many there were."""

    capacity = 1

    def __init__(self, port: int) -> None:
        super().__init__(HOST, port)
        hello = struct.pack(">i", 196_608) + b"user\0postgres\0database\0postgres\0\0"
        self.socket.sendall(struct.pack(">i", len(hello) + 4) + hello)
        self._wait_ready()
        parse = _message(b"P", b"put\0" + INSERT + b"\0" + struct.pack(">hi", 1, BYTEA))
        self.socket.sendall(parse + _message(b"S", b""))
        self._wait_ready()
        self._id = 0
        self._has_failed = False

    def _wait_ready(self) -> None:
        kind = b""
        while kind != b"Z":
            kind, size = struct.unpack(">ci", self.read_exactly(5))
            text = self.read_exactly(size - 4)
            if kind == b"E":
                raise OSError(f"PostgreSQL: {text!r}")

    def put(self, data: bytes) -> int:
        self._id += 1
        value = struct.pack(">hhhi", 1, 1, 1, len(data)) + data
        bind = _message(b"B", b"\0put\0" + value + struct.pack(">h", 0))
        execute = _message(b"E", b"\0" + struct.pack(">i", 0))
        self.write(bind + execute + _message(b"S", b""))
        return self._id

    def take(self, received: bytearray) -> tuple[list[tuple[int, bool]], int]:
        ended = []
        used = 0
        while len(received) - used >= 5:
            kind, size = struct.unpack_from(">ci", received, used)
            if used + 1 + size > len(received):
                break
            used += 1 + size
            self._has_failed |= kind == b"E"
            if kind == b"Z":  # ready for the next one
                ended.append((self._id, not self._has_failed))
                self._has_failed = False
        return ended, used


BYTEA = 17


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">i", len(body) + 4) + body


class Postgres(Servers):
    name = "PostgreSQL"
    durability = (
        "synchronous_commit = on, fsync = on: synced on the primary and on one of two standbys "
        "before a commit returns; no failover by itself"
    )
    connections_max = 32
    stop_signal = signal.SIGINT  # SIGKILL would leave shared memory behind

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._ports: list[int] = []
        self._programs = PROGRAMS

    def start(self) -> None:
        if not any(PROGRAMS.glob("*/bin/initdb")):
            install("postgresql")
        self._programs = max(PROGRAMS.glob("*/bin/initdb")).parent
        self._ports = free_ports(3)
        run("chown", USER, str(self.directory))
        self._run("initdb", "-D", "p", "-A", "trust", "-U", USER)
        self._append("p/postgresql.conf", SETTINGS)
        self._launch("p", 0)
        wait_for("PostgreSQL", lambda: self._ask("select 1") == "1")
        for index in (1, 2):
            name = f"s{index}"
            self._run("pg_basebackup", *self._where, "-D", name, "-X", "stream", "-c", "fast", "-R")
            primary = f"host={HOST} port={self._ports[0]} user={USER} application_name={name}"
            self._append(f"{name}/postgresql.auto.conf", f"primary_conninfo = '{primary}'\n")
            self._launch(name, index)
        wait_for("PostgreSQL's standbys", lambda: self._ask(STREAMING) == "2")
        self._ask("alter system set synchronous_standby_names = 'ANY 1 (s1, s2)'")
        self._ask("select pg_reload_conf()")
        wait_for("PostgreSQL's standbys", lambda: self._ask(QUORUM) == "2")
        self._ask("create table log (id bigserial primary key, value bytea not null)")

    @property
    def _where(self) -> tuple[str, ...]:
        return ("-h", HOST, "-p", str(self._ports[0]), "-U", USER)

    def _run(self, name: str, *arguments: str) -> str:
        return run(str(self._programs / name), *arguments, user=USER, cwd=self.directory)

    def _ask(self, statement: str) -> str:
        return self._run("psql", *self._where, "-Atqc", statement)

    def _append(self, name: str, text: str) -> None:
        with (self.directory / name).open("a") as file:
            file.write(text)

    def _launch(self, name: str, index: int) -> None:
        postgres = str(self._programs / "postgres")
        self.launch(name, [postgres, "-D", name, "-p", str(self._ports[index])], user=USER)

    def connect(self) -> PostgresConnection:
        return PostgresConnection(self._ports[0])

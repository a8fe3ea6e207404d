"""A node's settings, validated from parsed YAML. This module reads no file.

Every setting is described in configs/node.yaml, and nowhere else.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from walle.errors import ConfigError
from walle.limits import (
    ADDRESS_BYTES_MAX,
    BACKFILL_BYTES_PER_SECOND_DEFAULT,
    CAPACITY_MAX,
    DISK_RESERVE_BYTES_DEFAULT,
    DISK_RESERVE_BYTES_MIN,
    MEMBERS_COUNT_MAX,
    NODE_ID_BYTES_MAX,
    NODES_COUNT_MAX,
    SCRUB_BYTES_PER_SECOND_DEFAULT,
    ZONE_BYTES_MAX,
)
from walle.tls import Tls

PORT_DEFAULT = 7411

REQUIRED = ("data", "listen", "node")
OPTIONAL = (
    "address",
    "backfill_bytes_per_second",
    "capacity",
    "disk_reserve_bytes",
    "initial_cluster",
    "join",
    "scrub_bytes_per_second",
    "tls",
    "zone",
)

_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node's settings.

    node: this node's id.
    listen: where it accepts connections, `host:port`.
    data: its data directory.
    initial_cluster: the addresses of the nodes that form the cluster, this one included, by id.
    disk_reserve_bytes: with less than this free, the node takes no more entries.
    backfill_bytes_per_second: how much is fetched to close gaps; 0: as much as goes.
    scrub_bytes_per_second: how much is read in search of damage; 0: nothing.
    tls: what clients and nodes prove with who they are; None: whoever can connect is let in.
    zone: what fails together with this node; empty: nothing else does.
    capacity: how much is placed on this node, relative to the others.
    join: the addresses of nodes of the cluster that it joins, instead of forming one.
    advertised: where the others find a node that joins; empty: where it listens.
    """

    node: str
    listen: str
    data: Path
    initial_cluster: dict[str, str]
    disk_reserve_bytes: int = DISK_RESERVE_BYTES_DEFAULT
    backfill_bytes_per_second: int = BACKFILL_BYTES_PER_SECOND_DEFAULT
    scrub_bytes_per_second: int = SCRUB_BYTES_PER_SECOND_DEFAULT
    tls: Tls | None = None
    zone: str = ""
    capacity: int = 1
    join: tuple[str, ...] = ()
    advertised: str = ""

    @property
    def address(self) -> str:
        """Where the others find this node."""
        return self.initial_cluster.get(self.node) or self.advertised or self.listen


def parse_address(key: str, value: object) -> tuple[str, int]:
    """The host and the port of `host:port`, or of `[ipv6]:port`.

    Raises:
        ConfigError: it is no address.
    """
    text = value if isinstance(value, str) else ""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65_535:
        example = f"127.0.0.1:{PORT_DEFAULT}"
        raise ConfigError(key, f"must be host:port, such as {example}, not {value!r}")
    if len(text.encode()) > ADDRESS_BYTES_MAX:
        raise ConfigError(key, f"an address has at most {ADDRESS_BYTES_MAX} bytes")
    return host, int(port)


def parse_node_id(key: str, value: object) -> str:
    """A node's id.

    Raises:
        ConfigError: it is none.
    """
    if (
        not isinstance(value, str)
        or not _NODE_ID.fullmatch(value)
        or len(value) > NODE_ID_BYTES_MAX
    ):
        rule = f"letters, digits, '.', '_' and '-', {NODE_ID_BYTES_MAX} at most"
        raise ConfigError(key, f"must be a node id ({rule}), not {value!r}")
    return value


def parse_node_config(settings: object, *, directory: Path) -> NodeConfig:
    """The settings of a node.

    Args:
        settings: parsed YAML: a mapping.
        directory: what a relative data directory is relative to: that of the file.

    Raises:
        ConfigError: names the key and the rule.
    """
    if not isinstance(settings, dict):
        raise ConfigError("the file", "must hold a mapping of settings; see configs/node.yaml")
    for key in settings:
        if key not in (*REQUIRED, *OPTIONAL):
            names = ", ".join(sorted(REQUIRED + OPTIONAL))
            raise ConfigError(str(key), f"is no setting; the settings are {names}")
    for key in REQUIRED:
        if key not in settings:
            raise ConfigError(key, "is missing; see configs/node.yaml")
    node = parse_node_id("node", settings["node"])
    parse_address("listen", settings["listen"])
    initial_cluster, join = _parse_cluster(settings, node)
    return NodeConfig(
        node=node,
        listen=settings["listen"],
        data=_parse_data(settings["data"], directory),
        initial_cluster=initial_cluster,
        disk_reserve_bytes=_parse_disk_reserve_bytes(
            settings.get("disk_reserve_bytes", DISK_RESERVE_BYTES_DEFAULT)
        ),
        backfill_bytes_per_second=_parse_bytes_per_second(
            settings, "backfill_bytes_per_second", BACKFILL_BYTES_PER_SECOND_DEFAULT, "for no bound"
        ),
        scrub_bytes_per_second=_parse_bytes_per_second(
            settings,
            "scrub_bytes_per_second",
            SCRUB_BYTES_PER_SECOND_DEFAULT,
            "to search for no damage",
        ),
        tls=parse_tls("tls", settings["tls"], directory=directory) if "tls" in settings else None,
        zone=_parse_zone(settings.get("zone", "")),
        capacity=_parse_capacity(settings.get("capacity", 1)),
        join=join,
        advertised=settings.get("address", ""),
    )


def parse_tls(key: str, value: object, *, directory: Path) -> Tls:
    """Where the files of TLS are: a mapping of `authority`, `certificate` and `key`.

    Args:
        directory: what relative paths are relative to.

    Raises:
        ConfigError: it is no such mapping.
    """
    keys = [field.name for field in fields(Tls)]
    if not isinstance(value, dict) or set(value) != set(keys):
        raise ConfigError(key, f"must map {', '.join(keys)} to files; see configs/node.yaml")
    return Tls(**{each: _parse_path(f"{key}.{each}", value[each], directory) for each in keys})


def _parse_path(key: str, value: Any, directory: Path) -> Path:
    if not isinstance(value, str) or not value:
        raise ConfigError(key, f"must be a file's path, not {value!r}")
    return directory / Path(value).expanduser()


def _parse_data(value: Any, directory: Path) -> Path:
    if not isinstance(value, str) or not value:
        raise ConfigError("data", f"must be a directory's path, not {value!r}")
    return directory / Path(value).expanduser()


def _parse_disk_reserve_bytes(value: Any) -> int:
    if type(value) is not int or value < DISK_RESERVE_BYTES_MIN:
        rule = f"must be a number of bytes, {DISK_RESERVE_BYTES_MIN} at least"
        raise ConfigError("disk_reserve_bytes", f"{rule}, not {value!r}")
    return value


def _parse_bytes_per_second(settings: dict[Any, Any], key: str, default: int, zero: str) -> int:
    value = settings.get(key, default)
    if type(value) is not int or value < 0:
        raise ConfigError(key, f"must be a number of bytes, or 0 {zero}, not {value!r}")
    return value


def _parse_zone(value: Any) -> str:
    if (
        not isinstance(value, str)
        or not value.isprintable()
        or len(value.encode()) > ZONE_BYTES_MAX
    ):
        rule = f"must be a text of {ZONE_BYTES_MAX} bytes at most, without control characters"
        raise ConfigError("zone", f"{rule}, not {value!r}")
    return value


def _parse_capacity(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= CAPACITY_MAX:
        raise ConfigError("capacity", f"must be a number from 1 to {CAPACITY_MAX}, not {value!r}")
    return value


def _parse_cluster(settings: dict[str, Any], node: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The nodes that form the cluster, or the addresses of the cluster to join."""
    if ("initial_cluster" in settings) == ("join" in settings):
        rule = "give either this, to form a cluster, or `join`, to join one; see configs/node.yaml"
        raise ConfigError("initial_cluster", rule)
    if "join" in settings:
        address = settings.get("address", settings["listen"])
        _parse_reachable("address", address)
        return {}, _parse_join(settings["join"], address)
    if "address" in settings:
        raise ConfigError("address", f"is told by `initial_cluster.{node}`; leave it out")
    return _parse_initial_cluster(settings["initial_cluster"], node), ()


def _parse_reachable(key: str, value: object) -> None:
    """An address at which the others find a node."""
    host, _ = parse_address(key, value)
    try:
        is_any = ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name
        return
    if is_any:
        raise ConfigError(key, f"must say where the others find the node, which {value} does not")


def _parse_join(value: Any, own: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= NODES_COUNT_MAX:
        rule = f"must be a list of 1 to {NODES_COUNT_MAX} addresses, host:port"
        raise ConfigError("join", f"{rule}, not {value!r}")
    for address in value:
        parse_address("join", address)
    if own in value:
        raise ConfigError("join", f"names this node itself, {own}; name others")
    return tuple(dict.fromkeys(value))


def _parse_initial_cluster(value: Any, node: str) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        raise ConfigError("initial_cluster", "must map each node's id to its host:port")
    if len(value) > MEMBERS_COUNT_MAX:
        raise ConfigError("initial_cluster", f"may name {MEMBERS_COUNT_MAX} nodes at most")
    for node_id, address in value.items():
        parse_node_id("initial_cluster", node_id)
        _parse_reachable(f"initial_cluster.{node_id}", address)
    if node not in value:
        raise ConfigError("initial_cluster", f"must name this node, {node}, with its address")
    if len(set(value.values())) != len(value):
        raise ConfigError("initial_cluster", "names one address twice")
    return dict(value)

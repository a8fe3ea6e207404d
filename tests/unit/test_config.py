"""A node's settings: what is right is taken, what is wrong is refused by key and rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from walle.config import parse_address, parse_node_config, parse_node_id
from walle.errors import ConfigError
from walle.limits import (
    ADDRESS_BYTES_MAX,
    BACKFILL_BYTES_PER_SECOND_DEFAULT,
    DISK_RESERVE_BYTES_DEFAULT,
    DISK_RESERVE_BYTES_MIN,
    MEMBERS_COUNT_MAX,
    NODE_ID_BYTES_MAX,
    SCRUB_BYTES_PER_SECOND_DEFAULT,
)
from walle.tls import Tls

DIRECTORY = Path("/etc/walle")
EXAMPLE = Path(__file__).parents[2] / "configs" / "node.yaml"
GOOD: dict[str, Any] = {
    "node": "n1",
    "listen": "127.0.0.1:7411",
    "data": "data/n1",
    "initial_cluster": {"n1": "host1:7411", "n2": "host2:7411"},
}
MISSING = object()


def changed(key: str, value: object) -> dict[str, Any]:
    settings = {**GOOD, key: value}
    return {each: found for each, found in settings.items() if found is not MISSING}


def test_good_settings_are_taken() -> None:
    config = parse_node_config(GOOD, directory=DIRECTORY)
    assert (config.node, config.listen) == ("n1", "127.0.0.1:7411")
    assert config.data == DIRECTORY / "data" / "n1"
    assert config.initial_cluster == GOOD["initial_cluster"]
    assert config.address == "host1:7411"
    assert config.disk_reserve_bytes == DISK_RESERVE_BYTES_DEFAULT
    settings = changed("disk_reserve_bytes", DISK_RESERVE_BYTES_MIN)
    config = parse_node_config(settings, directory=DIRECTORY)
    assert config.disk_reserve_bytes == DISK_RESERVE_BYTES_MIN
    assert config.scrub_bytes_per_second == SCRUB_BYTES_PER_SECOND_DEFAULT
    assert config.backfill_bytes_per_second == BACKFILL_BYTES_PER_SECOND_DEFAULT
    config = parse_node_config(changed("backfill_bytes_per_second", 9), directory=DIRECTORY)
    assert config.backfill_bytes_per_second == 9
    config = parse_node_config(changed("scrub_bytes_per_second", 0), directory=DIRECTORY)
    assert config.scrub_bytes_per_second == 0
    assert config.tls is None
    files = {"authority": "a.pem", "certificate": "/tls/n1.pem", "key": "~/n1.key"}
    assert parse_node_config(changed("tls", files), directory=DIRECTORY).tls == Tls(
        DIRECTORY / "a.pem", Path("/tls/n1.pem"), Path.home() / "n1.key"
    )
    assert (config.zone, config.capacity) == ("", 1)
    config = parse_node_config({**GOOD, "zone": "rack 7", "capacity": 4_000}, directory=DIRECTORY)
    assert (config.zone, config.capacity) == ("rack 7", 4_000)


JOINING = {key: value for key, value in GOOD.items() if key != "initial_cluster"}


def test_node_that_joins_is_found_where_it_listens_or_where_it_says() -> None:
    settings = {**JOINING, "join": ["host2:1", "host3:1", "host2:1"]}
    config = parse_node_config(settings, directory=DIRECTORY)
    assert (config.initial_cluster, config.join) == ({}, ("host2:1", "host3:1"))
    assert config.address == "127.0.0.1:7411"
    config = parse_node_config({**settings, "address": "host1:7411"}, directory=DIRECTORY)
    assert config.address == "host1:7411"
    everywhere = {**settings, "listen": "[::]:7411"}
    with pytest.raises(ConfigError, match=r"address: must say where .* which \[::\]:7411 does not"):
        parse_node_config(everywhere, directory=DIRECTORY)
    config = parse_node_config({**everywhere, "address": "host1:7411"}, directory=DIRECTORY)
    assert (config.listen, config.address) == ("[::]:7411", "host1:7411")


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("join", "host2:1", "must be a list of 1 to 128 addresses, host:port, not 'host2:1'"),
        ("join", [], "must be a list of 1 to 128 addresses"),
        ("join", ["host2"], "must be host:port"),
        ("join", [7], "must be host:port"),
        ("join", ["127.0.0.1:7411"], "names this node itself, 127.0.0.1:7411; name others"),
        ("address", "host1", "must be host:port"),
        ("address", "0.0.0.0:1", "where the others find the node, which 0.0.0.0:1 does not"),
        ("address", None, "must be host:port"),
    ],
)
def test_wrong_settings_of_a_node_that_joins_are_refused(
    key: str, value: object, rule: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_node_config({**JOINING, "join": ["host2:1"], key: value}, directory=DIRECTORY)
    assert caught.value.key == key
    assert rule in caught.value.rule


def test_example_file_is_good() -> None:
    config = parse_node_config(yaml.safe_load(EXAMPLE.read_text()), directory=DIRECTORY)
    assert config.node in config.initial_cluster


@pytest.mark.parametrize(
    ("data", "path"),
    [("/var/walle", Path("/var/walle")), ("~/walle", Path.home() / "walle"), (".", DIRECTORY)],
)
def test_data_directory_is_relative_to_the_file(data: str, path: Path) -> None:
    assert parse_node_config(changed("data", data), directory=DIRECTORY).data == path


@pytest.mark.parametrize(
    ("key", "value", "named", "rule"),
    [
        (
            "nodes",
            3,
            "nodes",
            "is no setting; the settings are address, backfill_bytes_per_second, capacity",
        ),
        (7, "x", "7", "is no setting"),
        ("tls", "n1.pem", "tls", "must map authority, certificate, key to files"),
        ("tls", {"authority": "a.pem"}, "tls", "must map authority, certificate, key to files"),
        (
            "tls",
            {"authority": "a.pem", "certificate": "n1.pem", "key": 7},
            "tls.key",
            "must be a file's path, not 7",
        ),
        ("node", MISSING, "node", "is missing; see configs/node.yaml"),
        ("listen", MISSING, "listen", "is missing"),
        ("data", MISSING, "data", "is missing"),
        ("initial_cluster", MISSING, "initial_cluster", "give either this, to form a cluster"),
        ("join", ["h:1"], "initial_cluster", "or `join`, to join one"),
        ("address", "h:1", "address", "is told by `initial_cluster.n1`"),
        ("node", "", "node", "must be a node id"),
        ("node", 1, "node", "letters, digits, '.', '_' and '-', 63 at most"),
        ("node", "-n1", "node", "not '-n1'"),
        ("listen", 7411, "listen", "must be host:port, such as 127.0.0.1:7411, not 7411"),
        ("disk_reserve_bytes", 0, "disk_reserve_bytes", "must be a number of bytes, 134217728 at"),
        ("disk_reserve_bytes", "1G", "disk_reserve_bytes", "at least, not '1G'"),
        ("disk_reserve_bytes", True, "disk_reserve_bytes", "at least, not True"),
        ("zone", 7, "zone", "must be a text of 63 bytes at most"),
        ("zone", "z" * 64, "zone", "not 'zzzz"),
        ("zone", "a\nb", "zone", "without control characters"),
        ("capacity", 0, "capacity", "must be a number from 1 to 1000000, not 0"),
        ("capacity", 1_000_001, "capacity", "not 1000001"),
        ("capacity", 1.5, "capacity", "not 1.5"),
        ("capacity", True, "capacity", "not True"),
        ("backfill_bytes_per_second", -1, "backfill_bytes_per_second", "or 0 for no bound, not -1"),
        ("scrub_bytes_per_second", -1, "scrub_bytes_per_second", "must be a number of bytes, or 0"),
        ("scrub_bytes_per_second", "1M", "scrub_bytes_per_second", "for no damage, not '1M'"),
        ("scrub_bytes_per_second", False, "scrub_bytes_per_second", "for no damage, not False"),
        ("data", "", "data", "must be a directory's path"),
        ("data", 3, "data", "must be a directory's path, not 3"),
        ("initial_cluster", {}, "initial_cluster", "must map each node's id to its host:port"),
        ("initial_cluster", ["n1"], "initial_cluster", "must map each node's id"),
        ("initial_cluster", {"n2": "h:1"}, "initial_cluster", "must name this node, n1"),
        ("initial_cluster", {"n1": "h"}, "initial_cluster.n1", "must be host:port"),
        ("initial_cluster", {"n1": "h:1", 2: "h:2"}, "initial_cluster", "must be a node id"),
        ("initial_cluster", {"n1": "h:1", "n2": "h:1"}, "initial_cluster", "one address twice"),
        ("initial_cluster", {"n1": "0.0.0.0:1"}, "initial_cluster.n1", "where the others find"),
        (
            "initial_cluster",
            {f"n{index}": f"h:{index}" for index in range(1, MEMBERS_COUNT_MAX + 2)},
            "initial_cluster",
            f"may name {MEMBERS_COUNT_MAX} nodes at most",
        ),
    ],
)
def test_wrong_setting_is_refused_by_key_and_rule(
    key: str, value: object, named: str, rule: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_node_config(changed(key, value), directory=DIRECTORY)
    assert caught.value.key == named
    assert rule in caught.value.rule
    assert str(caught.value) == f"{named}: {caught.value.rule}"


@pytest.mark.parametrize("settings", [None, [], "node: n1", 3])
def test_file_that_holds_no_mapping_is_refused(settings: object) -> None:
    with pytest.raises(ConfigError, match=r"the file: must hold a mapping.*configs/node.yaml"):
        parse_node_config(settings, directory=DIRECTORY)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:1", ("localhost", 1)),
        ("10.0.0.1:65535", ("10.0.0.1", 65_535)),
        ("[::1]:7411", ("::1", 7_411)),
        ("h" * (ADDRESS_BYTES_MAX - 2) + ":1", ("h" * (ADDRESS_BYTES_MAX - 2), 1)),
    ],
)
def test_address_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address("listen", text) == address


@pytest.mark.parametrize(
    "value",
    ["", "host", ":1", "[]:1", "host:", "host:0", "host:65536", "host:-1", "host:x", "host: 1"],
)
def test_what_is_no_address_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"--port: must be host:port, such as"):
        parse_address("--port", value)


def test_address_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"at most {ADDRESS_BYTES_MAX} bytes"):
        parse_address("listen", "h" * (ADDRESS_BYTES_MAX - 1) + ":1")


@given(st.text(max_size=10))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        host, port = parse_address("listen", text)
    except ConfigError:
        return
    assert host
    assert 1 <= port <= 65_535


@pytest.mark.parametrize("good", ["a", "0", "node-1.dc_2", "x" * NODE_ID_BYTES_MAX])
def test_node_id(good: str) -> None:
    assert parse_node_id("node", good) == good


@pytest.mark.parametrize(
    "bad", ["", ".", "_a", "a b", "a/b", "ä", "a\n", "x" * (NODE_ID_BYTES_MAX + 1), None, b"a"]
)
def test_what_is_no_node_id_is_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match="must be a node id"):
        parse_node_id("node", bad)

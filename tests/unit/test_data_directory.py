"""The data directory: one process, one node, one identity."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import pytest

from walle import data_directory
from walle.config import NodeConfig
from walle.data_directory import DataDirectory, lock_alone, lock_shared, read_owner
from walle.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def config(path: Path, node: str = "n1") -> NodeConfig:
    return NodeConfig(node, "127.0.0.1:1", path, {node: "127.0.0.1:1"})


def identity_of(path: Path) -> bytes:
    directory = DataDirectory(config(path))
    directory.close()
    return directory.identity


def test_identity_is_made_with_the_directory_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "some" / "data"
    identity = identity_of(path)
    assert len(identity) == 16
    assert identity_of(path) == identity
    assert json.loads((path / "node.json").read_text()) == {
        "node": "n1",
        "identity": identity.hex(),
    }
    assert not list(path.glob("*.new"))


def test_wiped_directory_is_another_node(tmp_path: Path) -> None:
    before = identity_of(tmp_path)
    (tmp_path / "node.json").unlink()
    assert identity_of(tmp_path) != before


def test_identity_that_was_half_written_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "node.new").write_text('{"no')
    assert len(identity_of(tmp_path)) == 16


def test_directory_in_use_is_refused_until_its_lock_is_given_up(tmp_path: Path) -> None:
    held = DataDirectory(config(tmp_path))
    with pytest.raises(ConfigError, match=r"data: .* is in use by another process; stop that"):
        DataDirectory(config(tmp_path))
    held.close()
    assert identity_of(tmp_path) == held.identity


def test_what_can_be_no_directory_is_refused(tmp_path: Path) -> None:
    """By the setting, and so that the node is not started again and again."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(ConfigError, match=f"^data: {path} cannot be used: "):
            DataDirectory(config(path))


def test_directory_of_another_node_is_refused(tmp_path: Path) -> None:
    identity_of(tmp_path)
    with pytest.raises(ConfigError, match=r"belongs to node n1, not to n2; check `node` and"):
        DataDirectory(config(tmp_path, "n2"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"n1"',
        '{"node": "n1"}',
        '{"node": "n1", "identity": "xy"}',
        '{"node": "n1", "identity": 3}',
        "7",
    ],
)
def test_damaged_identity_is_refused_not_replaced(tmp_path: Path, text: str) -> None:
    """With a new one the node could vote again without its promises."""
    path = tmp_path / "node.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"node.json is no node's identity file"):
        DataDirectory(config(tmp_path))
    assert path.read_text() == text


@pytest.mark.parametrize("value", ["", "00", "00" * 17])
def test_identity_of_another_size_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "node.json").write_text(json.dumps({"node": "n1", "identity": value}))
    with pytest.raises(ConfigError, match=r"node.json is no node's identity file"):
        DataDirectory(config(tmp_path))


@pytest.mark.parametrize("node", [None, "n2"])
def test_lock_is_given_up_where_the_directory_is_refused(tmp_path: Path, node: str | None) -> None:
    good = tmp_path / "node.json"
    good.write_text(json.dumps({"node": node, "identity": "00" * 16}))
    with pytest.raises(ConfigError):
        DataDirectory(config(tmp_path))
    good.write_text(json.dumps({"node": "n1", "identity": "00" * 16}))
    DataDirectory(config(tmp_path)).close()


def test_an_error_that_may_pass_is_no_wrong_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(data_directory, "lock_alone", fail)
    with pytest.raises(OSError, match="Input/output error"):
        DataDirectory(config(tmp_path))


# --- tools that look ------------------------------------------------------------------------------


def test_several_may_look_but_not_while_the_node_runs(tmp_path: Path) -> None:
    directory = DataDirectory(config(tmp_path))
    with pytest.raises(BlockingIOError):
        lock_shared(tmp_path)
    directory.close()
    held = [lock_shared(tmp_path), lock_shared(tmp_path)]
    with pytest.raises(BlockingIOError):
        lock_alone(tmp_path)
    with pytest.raises(ConfigError, match=r"is in use by another process"):
        DataDirectory(config(tmp_path))
    for fd in held:
        assert fd is not None
        os.close(fd)
    os.close(lock_alone(tmp_path))


def test_looking_makes_no_lock(tmp_path: Path) -> None:
    assert lock_shared(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_owner_is_told_without_making_one(tmp_path: Path) -> None:
    assert read_owner(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    identity = identity_of(tmp_path)
    assert read_owner(tmp_path) == ("n1", identity)

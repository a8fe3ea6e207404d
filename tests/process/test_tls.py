"""Nodes and clients that show certificates: who has none, or not the right one, stays outside."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import trustme
import yaml

import walle
from tests.clusters import free_ports, release_ports, wait_until
from walle.config import parse_tls
from walle.errors import NotHeld
from walle.supervisor import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("n1", "n2", "n3")
DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"


class Authority:
    """Signs certificates and writes them to files."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(directory / "authority.pem"))

    def files(self, name: str, *dns_names: str) -> dict[str, str]:
        """The settings of TLS with a certificate for these names."""
        certificate = self._authority.issue_cert(*dns_names)
        path, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        path.unlink(missing_ok=True)
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(path), append=True)
        certificate.private_key_pem.write_to_path(str(key))
        return {
            "authority": str(self._directory / "authority.pem"),
            "certificate": str(path),
            "key": str(key),
        }

    def tls(self, name: str, *dns_names: str) -> walle.Tls:
        files = self.files(name, *dns_names)
        return walle.Tls(**{key: self._directory / value for key, value in files.items()})


class Nodes:
    """Three nodes, each a `walle node` with a certificate for its own name, if not told else."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.directory = directory
        port = free_ports(len(NAMES) + 1)
        self.spare_address = f"127.0.0.1:{port + len(NAMES)}"
        self.addresses = {name: f"127.0.0.1:{port + at}" for at, name in enumerate(NAMES)}
        self.tls = {name: authority.files(name, name) for name in NAMES}
        self._running = ExitStack()
        self._running.callback(release_ports, port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def start(self, name: str) -> subprocess.Popen[bytes]:
        return self._start(name, listen=self.addresses[name], initial_cluster=self.addresses)

    def join(self, name: str) -> subprocess.Popen[bytes]:
        return self._start(name, listen=self.spare_address, join=[*self.addresses.values()])

    def _start(self, name: str, **settings: Any) -> subprocess.Popen[bytes]:
        settings |= {"node": name, "data": name, "tls": self.tls[name]}
        path = self.directory / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "walle", "node", "--config", str(path)]
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [*command, "--parent", str(os.getpid())], stdout=log, stderr=log
            )
        self._running.enter_context(process)
        self._running.callback(process.terminate)
        return process

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def says(self, name: str, text: str) -> None:
        wait_until(lambda: text in self.log(name).read_text(), f"{name} says {text!r}")


def test_a_node_joins_with_a_certificate(nodes: Nodes, authority: Authority) -> None:
    for name in NAMES:
        nodes.start(name)
    nodes.tls["n4"] = authority.files("n4", "n4")
    nodes.join("n4")
    mine = authority.tls("client", "app")

    async def work() -> None:
        async with walle.connect(list(nodes.addresses.values()), tls=mine) as client:
            async with asyncio.timeout(30):
                while True:
                    if len(await client.nodes()) == 4:
                        break
                    await asyncio.sleep(0.05)
            await client.create_stream("/s", members=["n1", "n4"])
            async with client.claim("/s", address="me") as writer:
                await writer.put(b"one")
            assert [each.data async for each in client.read("/s", node="n4")] == [b"one"]

    asyncio.run(work())


@pytest.fixture(name="authority")
def make_authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture(name="nodes")
def make_nodes(tmp_path: Path, authority: Authority) -> Iterator[Nodes]:
    with Nodes(tmp_path, authority) as nodes:
        yield nodes


async def fails(nodes: Nodes, tls: walle.Tls | None) -> str:
    """What a client hears that cannot connect."""
    with pytest.raises((walle.Unavailable, walle.RemoteProtocolError)) as error:
        async with walle.connect(nodes.addresses["n1"], tls=tls, timeout_s=0.5):
            pass
    return str(error.value)


async def sizes_at(client: walle.Client, node: str) -> list[int]:
    """Of the first 31 entries, from that member alone, once it holds them: it may be behind."""
    async with asyncio.timeout(30):
        while True:
            try:
                entries = client.read("/s", end=32, follow=True, node=node)
                return [len(each.data) async for each in entries]
            except NotHeld:
                await asyncio.sleep(0.05)


def test_only_those_with_a_certificate_come_in(
    nodes: Nodes, authority: Authority, tmp_path: Path
) -> None:
    for name in NAMES:
        nodes.start(name)
    mine = authority.tls("client", "app")

    async def work() -> None:
        async with walle.connect(list(nodes.addresses.values()), tls=mine) as client:
            await client.create_stream("/s")
            async with client.claim("/s", address="me") as writer:
                puts = [writer.put(bytes(100_000)) for _ in range(30)]
                for put in puts:
                    await put
            async with client.claim("/s", address="again") as writer:
                await writer.put(b"last")
            for name in NAMES:
                assert await sizes_at(client, name) == [*[100_000] * 30, 4]
        assert "closed the connection" in await fails(nodes, None)
        stranger = Authority(tmp_path / "other").tls("client", "n1")
        assert "does not speak TLS with this client" in await fails(nodes, stranger)

    asyncio.run(work())

    def read(*options: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "walle", "read", "/s", "--start", "31", "--raw"]
        command += ["--connect", nodes.addresses["n1"], *options]
        return subprocess.run(command, capture_output=True, check=False)

    mine_path = tmp_path / "client.yaml"
    mine_path.write_text(yaml.safe_dump(authority.files("client", "app")))
    assert read("--tls", str(mine_path)).stdout == b"last\n"
    assert read().returncode != 0
    mine_path.write_text("certificate: here\n")
    done = read("--tls", str(mine_path))
    assert done.returncode == 78
    assert b"must map authority, certificate, key to files" in done.stderr


def test_a_load_shows_its_certificate(nodes: Nodes, authority: Authority, tmp_path: Path) -> None:
    for name in NAMES:
        nodes.start(name)
    files = authority.files("client", "app")

    async def wait() -> None:
        async with walle.connect(list(nodes.addresses.values()), tls=walle.Tls(**files)):
            pass

    asyncio.run(wait())
    settings = tmp_path / "client.yaml"
    settings.write_text(yaml.safe_dump(files))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "walle", "bench", "--seconds", "3", "--readers", "1"),
            *("--json", "--connect", ",".join(nodes.addresses.values()), "--tls", str(settings)),
        ],
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["puts"]["durable"] > 0
    assert found["delivered_per_s"] > 0


def test_certificate_of_another_node_is_not_enough(nodes: Nodes, authority: Authority) -> None:
    nodes.tls["n3"] = authority.files("n3", "app")
    for name in NAMES:
        nodes.start(name)
    nodes.says("n1", "the certificate shown is not that of node n3")
    nodes.says("n1", "node n3: this is not node n3")

    async def ask() -> str:
        nodes.addresses["n1"] = nodes.addresses["n3"]
        return await fails(nodes, authority.tls("client", "n1"))

    assert "shows a certificate that is not that of node n3" in asyncio.run(ask())


def test_node_with_unusable_files_says_which(nodes: Nodes, tmp_path: Path) -> None:
    nodes.tls["n1"]["key"] = str(tmp_path / "none.key")
    assert nodes.start("n1").wait(30) == 78
    nodes.says("n1", f"tls.key: cannot read {tmp_path}/none.key: No such file")
    nodes.tls["n2"]["authority"] = nodes.tls["n2"]["key"]
    assert nodes.start("n2").wait(30) == 78
    nodes.says("n2", "holds no certificate in PEM form")
    nodes.tls["n3"]["key"] = str(tmp_path / "tls" / "n2.key")
    assert nodes.start("n3").wait(30) == 78
    nodes.says("n3", "are no pair of certificate and key")


def test_client_with_tls_at_a_node_without(tmp_path: Path, authority: Authority) -> None:
    async def work() -> None:
        async with walle.embedded(tmp_path / "node") as client:
            address = (await client.describe("/cluster")).members[0].address
            tls = authority.tls("client", "app")
            with pytest.raises(walle.Unavailable, match="does not speak TLS"):
                async with walle.connect(address, tls=tls, timeout_s=0.5):
                    pass

    asyncio.run(work())


def test_embedded_node_with_tls(tmp_path: Path, authority: Authority) -> None:
    async def make() -> None:
        async with walle.embedded(tmp_path / "node"):
            pass

    async def look() -> None:
        async with walle.embedded(tmp_path / "node") as client:
            address = (await client.describe("/cluster")).members[0].address
            with pytest.raises((walle.Unavailable, walle.RemoteProtocolError)):
                async with walle.connect(address, timeout_s=0.5):
                    pass

    asyncio.run(make())
    path = tmp_path / "node" / "node.yaml"
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**settings, "tls": authority.files("n1", "n1")}))
    asyncio.run(look())


def test_commands_of_the_document_make_usable_files(tmp_path: Path) -> None:
    script = re.search(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert script is not None
    subprocess.run(["sh", "-ec", script[1]], cwd=tmp_path, check=True, capture_output=True)
    for name in ("n1", "client"):
        settings = {
            "authority": "authority.pem",
            "certificate": f"{name}.pem",
            "key": f"{name}.key",
        }
        tls = parse_tls("tls", settings, directory=tmp_path)
        tls.server_context()
        tls.client_context()
    (tmp_path / "node").mkdir()
    asyncio.run(_embed(tmp_path))


async def _embed(directory: Path) -> None:
    """A node with the document's files, and its own certificate to ask it with."""
    async with walle.embedded(directory / "node"):
        pass
    path = directory / "node" / "node.yaml"
    files = {"authority": "../authority.pem", "certificate": "../n1.pem", "key": "../n1.key"}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "tls": files}))
    async with walle.embedded(directory / "node") as client:
        await client.create_stream("/s")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:7411", True),
        ("[::1]:7411", True),
        ("localhost:7411", True),
        ("0.0.0.0:7411", False),
        ("10.0.0.1:7411", False),
        ("node-1.example:7411", False),
    ],
)
def test_what_only_this_machine_reaches(address: str, *, expected: bool) -> None:
    """Elsewhere a node without TLS warns that it lets everybody in."""
    assert is_loopback(address) == expected

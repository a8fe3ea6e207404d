"""The client: knows the cluster's nodes, asks whichever answers, and makes writers and readers."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from walle.client.links import Links
from walle.client.members import HELD_S, REQUEST_S, TIMEOUT_S, ask_member
from walle.client.reader import read_batches
from walle.client.reads import Reads
from walle.client.sessions import Sessions, unreachable
from walle.client.writer import Writer
from walle.compression import make_compressor
from walle.config import parse_address
from walle.errors import (
    Busy,
    ConfigError,
    CorruptionError,
    LocalProtocolError,
    NotAMember,
    NotHeld,
    RemoteProtocolError,
    Unavailable,
    UnknownStream,
    WalleError,
    WriterLost,
)
from walle.ids import NO_WRITER, ORIGIN, Position, WriterId
from walle.limits import LEASE_MS_MAX, LEASE_MS_MIN
from walle.messages import (
    COMPRESSIONS,
    UNCHANGED,
    ChangeInfo,
    Claim,
    ClaimReply,
    ClusterInfo,
    CreateStream,
    DeleteStream,
    Describe,
    DescribeChange,
    ListNodes,
    ListStreams,
    Read,
    ReadReply,
    RemoveNode,
    SetMembers,
    SetStream,
    Status,
    StatusReply,
    StreamInfo,
    StreamList,
    StreamSettings,
    TrimStream,
    WriterStatus,
    WriterStatusReply,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
    from datetime import datetime
    from typing import Unpack

    from walle.client.settings import ReadOptions, Settings
    from walle.messages import Message, NodeAddress, NodeRecord
    from walle.record import Batch, Entry
    from walle.tls import Tls

RETRY_S = 0.05
CLAIM_WAIT_S = 10.0
CLAIM_ANSWER_S = 2.0
"""How long after its own deadline a claim's answer may arrive."""
LEASE_MS_DEFAULT = 5_000
CHANGE_PAUSE_S = 0.2

R = TypeVar("R")
Change: TypeAlias = CreateStream | SetStream | TrimStream | SetMembers | DeleteStream


class Client:
    """A cluster's client. Make it by `walle.connect`.

    Every method that asks something repeats the question, at other nodes too, until its deadline.
    """

    def __init__(self, addresses: Sequence[str], tls: Tls | None = None) -> None:
        self._seeds = list(addresses)
        self.sessions = Sessions(tls.client_context() if tls is not None else None)
        self.links = Links(self.sessions.open, self._find_addresses)
        self._streams: dict[str, StreamInfo] = {}
        self.reads = Reads(self)

    @property
    def addresses(self) -> Sequence[str]:
        """Of the nodes that it knows."""
        return self._seeds

    @property
    def cluster_id(self) -> bytes:
        """The cluster's identity; NO_IDENTITY before a node has told it."""
        return self.sessions.cluster_id

    async def close(self) -> None:
        """Ends all connections, and what needs them: reads, claims and puts that are under way end
        by an error."""
        self.reads.close()
        await asyncio.gather(self.links.close(), self.sessions.close())

    # --- asking -----------------------------------------------------------------------------------

    async def find_cluster(self, timeout_s: float) -> None:
        """Finds a node that answers, and learns of the others.

        Raises:
            Unavailable: none does, or they have not formed their cluster.
            RemoteProtocolError: all answer, and none of them is a WALLE node.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not self.sessions.are_any:
            errors: dict[str, WalleError] = {}
            for address in self._seeds:
                try:
                    await self.sessions.get(address)
                    self.sessions.prefer(address)
                    break
                except (Unavailable, RemoteProtocolError) as error:
                    errors[address] = error
            else:
                if loop.time() >= deadline:
                    raise unreachable(errors)
                await asyncio.sleep(RETRY_S)
        await self.nodes(timeout_s=max(deadline - loop.time(), RETRY_S))

    def _learn(self, nodes: Iterable[NodeAddress | NodeRecord]) -> None:
        """Those can be asked, too."""
        self._seeds = list(dict.fromkeys([*self._seeds, *(node.address for node in nodes)]))

    async def nodes(self, *, timeout_s: float = TIMEOUT_S) -> tuple[NodeRecord, ...]:
        """The cluster's nodes, by their ids."""
        info, _ = await self.ask(ListNodes(), ClusterInfo, timeout_s=timeout_s)
        self._learn(info.nodes)
        return info.nodes

    async def _find_addresses(self) -> dict[str, str]:
        """Where the nodes listen, by their ids; none, if nobody answers."""
        try:
            return {node.node_id: node.address for node in await self.nodes()}
        except WalleError:
            return {}

    async def remove_node(self, name: str) -> tuple[NodeRecord, ...]:
        """Removes a node from the cluster, for good; tells which are left. Idempotent.

        Its data directory is of no further use. With an empty one, it may join as a new node.

        Raises:
            Refused: it is a member of streams, or there never was such a node.
        """
        info, _ = await self.ask(RemoveNode(name), ClusterInfo)
        return info.nodes

    async def ask(
        self,
        message: Message,
        reply_type: type[R],
        *,
        addresses: Sequence[str] = (),
        timeout_s: float = TIMEOUT_S,
        request_s: float = REQUEST_S,
    ) -> tuple[R, Batch | None]:
        """Asks the first of the nodes that answers; that one is asked first again, and not one that
        has not answered, as long as it belongs to those who may be asked.

        Args:
            addresses: which nodes may be asked; any, if empty.
            timeout_s: for how long attempts begin.
            request_s: for one attempt.

        Raises:
            Unavailable: none answered in time; it tells what the last one said.
            NotAMember: nor did one answer for whom the stream's members are others by now.
            NotHeld: nor did one answer, and one at least lacks what it was to have itself.
            RemoteProtocolError, CorruptionError: the last one's answer was of no use.
            Refused: a node refused.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        among = addresses or self._seeds
        nodes = self.sessions.in_turn(among)
        first = nodes[0]
        error: WalleError = Unavailable("no node was asked")
        while True:
            lacking: NotHeld | None = None
            for address in nodes:
                if loop.time() >= deadline:
                    raise lacking or error
                try:
                    session = await self.sessions.get(address)
                    reply, batch = await session.request(message, request_s)
                except Busy as busy:
                    error = busy
                    break  # the next attempt, after a pause; another node knows no better
                except NotHeld as refusal:  # it is committed: who holds it need not wait for it
                    lacking, request_s = refusal, min(request_s, HELD_S)
                    continue
                except (Unavailable, NotAMember, RemoteProtocolError, CorruptionError) as useless:
                    error = useless
                    self.sessions.pass_over(address, among)
                    continue
                if not isinstance(reply, reply_type):
                    raise RemoteProtocolError(
                        f"{address} answered {type(message).__name__} with {type(reply).__name__}"
                    )
                if address != first:  # else it was preferred; perhaps another one is by now
                    self.sessions.prefer(address)
                return reply, batch
            if lacking is not None:
                raise lacking
            if isinstance(error, NotAMember):
                raise error
            nodes = nodes[1:] + nodes[:1]
            await asyncio.sleep(min(RETRY_S, max(deadline - loop.time(), 0)))

    # --- streams ----------------------------------------------------------------------------------

    async def create_stream(
        self,
        name: str,
        *,
        members: Sequence[str] = (),
        origin: Position = ORIGIN,
        timeout_s: float = TIMEOUT_S,
        **settings: Unpack[Settings],
    ) -> StreamInfo:
        """Creates a stream; the one that exists is returned if it is the same.

        Args:
            name: a path, such as "/orders".
            members: the ids of the nodes that hold it; empty: placed by the cluster.
            origin: the position before its first entry, when it goes on from another stream.
            settings: see `walle.client.settings`.

        Raises:
            StreamExists: a stream of that name has other members, settings or another origin.
            Refused: the name, the members or the settings are not possible.
        """
        request = CreateStream(name, tuple(members), StreamSettings(**settings), origin)
        return await self._change(request, timeout_s)

    async def _change(self, request: Change, timeout_s: float = TIMEOUT_S) -> StreamInfo:
        info, _ = await self.ask(request, StreamInfo, timeout_s=timeout_s)
        return self._remember(info)

    def _remember(self, info: StreamInfo) -> StreamInfo:
        self._learn(info.members)
        self._streams[info.name] = info
        return info

    async def set_stream(self, name: str, **settings: Unpack[Settings]) -> StreamInfo:
        """Changes a stream's settings, see `walle.client.settings`; what is not named stays.

        Raises:
            UnknownStream: there is no such stream.
            Refused: the settings are not possible.
        """
        return await self._change(SetStream(name, UNCHANGED._replace(**settings)))

    async def trim_stream(
        self, name: str, *, to: int | None = None, before: datetime | None = None
    ) -> StreamInfo:
        """Removes a stream's oldest entries, for good; tells where it begins now.

        The last committed entry always remains. Where nothing is to be removed, nothing happens.

        Args:
            to: the first entry that stays.
            before: or a time: entries go up to the first that was not written before it.

        Raises:
            UnknownStream: there is no such stream.
            Busy: the stream's members are being changed.
            LocalProtocolError: not one of `to` and `before` is given, or it makes no sense.
        """
        if (to is None) == (before is None):
            raise LocalProtocolError("trim_stream takes either `to` or `before`")
        before_us = 0 if before is None else int(before.timestamp() * 1e6)
        request = TrimStream(name, to or 0, before_us)
        if max(request.entry_id, request.before_us) <= 0:
            raise LocalProtocolError("trim_stream: entries begin at 1, and times in 1970")
        info = await self._change(request)
        begins = 0
        while before is not None and begins < info.first_entry_id:
            begins = info.first_entry_id
            info = await self._change(request)  # a bounded part goes each time
        return info

    async def set_members(
        self, name: str, members: Sequence[str], *, force: bool = False
    ) -> StreamInfo:
        """Begins to change a stream's members; it goes on by itself, see `follow_change`.

        Writers and readers go on meanwhile. Repeating it does no harm.

        Args:
            members: the ids of the nodes that are to hold it.
            force: end the change though too few of them hold some of the entries, which
                `describe_change` tells. What nobody else holds is lost.

        Raises:
            UnknownStream: there is no such stream.
            Busy: other members are on their way in already.
            Refused: these cannot be its members.
        """
        return await self._change(SetMembers(name, tuple(members), "", int(force)))

    async def replace_member(self, name: str, node: str) -> StreamInfo:
        """As `set_members`, with another node in the place of that one, placed by the cluster.

        Nothing happens if it is no member.

        Raises:
            Refused: there is no such node, or no other one.
        """
        return await self._change(SetMembers(name, (), node, force=0))

    async def describe_change(self, name: str) -> ChangeInfo:
        """How far the change of the stream's members is; without old members none is under way.

        Raises:
            UnknownStream: there is no such stream.
        """
        change, _ = await self.ask(DescribeChange(name), ChangeInfo)
        return change

    async def follow_change(
        self, name: str, *, pause_s: float = CHANGE_PAUSE_S
    ) -> AsyncGenerator[ChangeInfo, None]:
        """What the change of the stream's members waits for, from time to time; at last that it
        has ended."""
        while True:
            change = await self.describe_change(name)
            yield change
            if not change.stream.old_members:
                return
            await asyncio.sleep(pause_s)

    async def delete_stream(self, name: str) -> None:
        """Deletes a stream, for good. The name is free then.

        Raises:
            UnknownStream: there is no such stream.
        """
        info = await self.describe(name, refresh=True)
        await self._change(DeleteStream(name, info.stream_id))
        self._streams.pop(name, None)

    async def list_streams(self) -> tuple[StreamInfo, ...]:
        """All streams, `/cluster` included."""
        streams: list[StreamInfo] = []
        more = 1
        while more:
            after = streams[-1].stream_id if streams else 0
            (more, page), _ = await self.ask(ListStreams(after), StreamList)
            streams += page
        return tuple(streams)

    async def describe(self, name: str, *, refresh: bool = False) -> StreamInfo:
        """The stream's topology, from memory unless `refresh`.

        Raises:
            UnknownStream: there is no such stream.
            LocalProtocolError: the name is no text.
        """
        if refresh or name not in self._streams:
            try:
                self._remember((await self.ask(Describe(name), StreamInfo))[0])
            except UnknownStream:
                self._streams.pop(name, None)
                raise
        return self._streams[name]

    async def node_status(self, address: str, *, only: int | None = None) -> dict[str, Any]:
        """What the node at `address` tells of itself; docs/wire.md describes it.

        Args:
            only: of its streams, the one with that id, if it has it; None: all.

        Raises:
            Unavailable: it does not answer.
        """
        status: dict[str, Any] = {}
        streams: list[dict[str, Any]] = []
        more = 1
        while more:
            after = streams[-1]["id"] if streams else (only or 1) - 1
            (more, body), _ = await self.ask(
                Status(after), StatusReply, addresses=[address], timeout_s=2.0, request_s=2.0
            )
            status = json.loads(body)
            streams += status["streams"]
            if only is not None:
                more, streams = 0, [each for each in streams if each["id"] == only]
        return status | {"streams": streams}

    # --- writing ----------------------------------------------------------------------------------

    async def writer_status(
        self,
        name: str,
        *,
        known: WriterId = NO_WRITER,
        wait_ms: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> WriterStatusReply:
        """Who the stream's writer is, by a majority of its members.

        Args:
            known, wait_ms: to watch: answers when the writer is not `known`, or after wait_ms.
            timeout_s: for how long attempts begin, beside wait_ms.
        """
        reply, _ = await ask_member(
            self,
            name,
            lambda stream_id: WriterStatus(stream_id, 0, known, wait_ms),
            WriterStatusReply,
            timeout_s=timeout_s + wait_ms / 1000,
            request_s=REQUEST_S + wait_ms / 1000,
        )
        return reply

    @asynccontextmanager
    async def claim(
        self,
        name: str,
        *,
        address: str,
        lease_ms: int = LEASE_MS_DEFAULT,
        force: bool = False,
        compression: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Writer]:
        """Becomes the stream's exclusive writer for the length of the block.

        At the end of the block what was put is awaited, then the stream is released.

        Args:
            address: told to whoever asks for the writer.
            lease_ms: how long the others wait for this writer when it is silent.
            force: takes over at once instead of waiting until the present lease has lapsed.
            compression: of what is put: "none" or "zstd"; None: the stream's own.
            timeout_s: how long to wait for the claim; None: as long as it takes.

        Raises:
            Unavailable: not claimed in time.
            WriterLost: another writer took over, and a put is not durable, or may not be.
            Refused: the stream's settings do not allow such a lease.
            ConfigError: lease_ms is out of bounds, or there is no such compression.
        """
        if not LEASE_MS_MIN <= lease_ms <= LEASE_MS_MAX:
            raise ConfigError(
                "lease_ms", f"must lie between {LEASE_MS_MIN} and {LEASE_MS_MAX}, not {lease_ms}"
            )
        if compression not in (None, *COMPRESSIONS):
            choices = " or ".join(COMPRESSIONS)
            raise ConfigError("compression", f"must be {choices}, not {compression!r}")
        writer = await self._claim(name, address, lease_ms, timeout_s, force=force)
        if compression is not None:
            writer.compressor = make_compressor(compression)
        try:
            yield writer
            await writer.finish()
        except WriterLost:
            await writer.resolve()
            raise
        finally:
            await writer.close()

    async def _claim(
        self, name: str, address: str, lease_ms: int, timeout_s: float | None, *, force: bool
    ) -> Writer:
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        info = await self.describe(name, refresh=True)
        while True:
            left_s = CLAIM_WAIT_S if deadline is None else deadline - loop.time()
            wait_s = max(min(left_s, CLAIM_WAIT_S), 0.1)
            request = Claim(info.stream_id, address, lease_ms, int(wait_s * 1000) + 1, int(force))
            try:
                claimed, _ = await self.ask(
                    request, ClaimReply, timeout_s=wait_s, request_s=wait_s + CLAIM_ANSWER_S
                )
                if claimed.version != info.version:
                    info = await self.describe(name, refresh=True)
                return await self._start_writer(info, claimed, lease_ms)
            except (Unavailable, WriterLost):  # lost: somebody else claimed before it began
                if deadline is not None and loop.time() >= deadline:
                    raise

    async def _start_writer(self, info: StreamInfo, claimed: ClaimReply, lease_ms: int) -> Writer:
        """A writer whose lease runs.

        Raises:
            Unavailable: no majority granted the lease in time.
            WriterLost: another writer has claimed the stream already.
        """
        writer = Writer(self, info, claimed, lease_ms)
        try:
            async with asyncio.timeout(CLAIM_WAIT_S):
                await writer.start()
        except BaseException as error:
            await writer.close()
            if isinstance(error, TimeoutError):
                text = f"{info.name} was claimed, but no majority granted the lease in time"
                raise Unavailable(text) from None
            raise
        return writer

    # --- reading ----------------------------------------------------------------------------------

    async def read(self, name: str, **options: Unpack[ReadOptions]) -> AsyncGenerator[Entry, None]:
        """Committed entries, in order, from `start` on.

        Without `follow` the read is linearizable: it ends behind the last entry that was
        acknowledged before it began, or before `end`. With `follow` it goes on for ever.

        Args:
            options: which entries, and of whom; see `walle.client.settings`.

        Raises:
            UnknownStream: there is no such stream, or it was deleted.
            UnreadableEntry: an entry's data cannot be decoded.
            Trimmed: the next entry was trimmed; it tells from where on reading is possible.
            NotHeld: the one node that may be asked lacks the next entry: it may be behind.
        """
        async for entries in self.read_batches(name, **options):
            for entry in entries:
                yield entry

    def read_batches(
        self, name: str, **options: Unpack[ReadOptions]
    ) -> AsyncGenerator[list[Entry], None]:
        """As `read`, but as many entries at once as there are, which costs less for each.

        A list has an entry at least. Followers of a stream that belong to one client share what
        comes, so many of them cost little more than one.
        """
        return read_batches(self, name, **options)

    async def committed(self, name: str) -> Position:
        """The stream's commit point: all that was acknowledged before this call is below it."""
        reply, _ = await ask_member(
            self,
            name,
            lambda stream_id: Read(stream_id, 0, 0, 0, linearizable=1, local=0),
            ReadReply,
        )
        return reply.committed


@asynccontextmanager
async def connect(
    addresses: str | Sequence[str], *, tls: Tls | None = None, timeout_s: float = TIMEOUT_S
) -> AsyncIterator[Client]:
    """A client of the cluster that has nodes at `addresses`: "host:port,host:port" or a list.

    Not all of them need to be up, nor named: the client learns the others from the first.

    Args:
        tls: this client's certificate, and whom it trusts, where the nodes ask for that.
        timeout_s: for how long they are tried, again and again, until one answers.

    Raises:
        Unavailable: no node answers.
        RemoteProtocolError: all answer, and none of them is a WALLE node.
        ConfigError: no addresses, or not such; or the files of `tls` are not what they should be.
    """
    names = addresses.split(",") if isinstance(addresses, str) else list(addresses)
    seeds = [name.strip() for name in names if name.strip()]
    for name in seeds:
        parse_address("connect", name)
    if not seeds:
        raise ConfigError("connect", "must name a node at least, such as 127.0.0.1:7411")
    client = Client(seeds, tls)
    try:
        await client.find_cluster(timeout_s)
        yield client
    finally:
        await client.close()

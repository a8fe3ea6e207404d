"""The network process: sockets, framing, sessions.

It receives into the arena, checks every record, and passes frames on to consensus; it sends what
consensus and storage hand it. It knows the protocol's frames and handshakes and nothing of what
the messages mean. It never waits for a ring: when one is full, or the arena is short, it stops
reading from sockets until there is room, and goes on sending.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from walle import frame, record, sockets
from walle.core.connection import HELLO, Connection
from walle.errors import Code, CorruptionError, RemoteProtocolError
from walle.ids import new_tuple
from walle.limits import (
    CONNECT_MS_MAX,
    FRAME_MS_MAX,
    FRAME_RECORDS_COUNT_MAX,
    HANDSHAKE_MS_MAX,
    HANDSHAKES_COUNT_MAX,
    NODE_SESSIONS_COUNT_MAX,
    SESSION_BEHIND_BYTES,
    SESSION_UNSENT_BYTES_MAX,
    SESSIONS_COUNT_MAX,
    UNFINISHED_BYTES_MAX,
    UNSENT_BYTES_MAX,
)
from walle.messages import ROLE_NODE, Failure, Hello
from walle.process import mail
from walle.process.arena import Arena, Inbox
from walle.process.mail import NOWHERE, ArenaPayload, Destination
from walle.tls import names as tls_names

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

    from walle.core.connection import Frame
    from walle.native import Buffer
    from walle.process.turns import TurnSelector
    from walle.ring.bell import Bell
    from walle.ring.region import Region
    from walle.ring.spsc import Ring
    from walle.tls import Tls

log = logging.getLogger("walle.network")

RECONNECT_S_MIN = 0.05
RECONNECT_S_MAX = 1.0
SWEEP_S = 0.5
BACKLOG = 128
UNPUBLISHED_COUNT_MAX = 16
"""So many frames wait for the end of a turn: with many sessions the first must not wait for all of
them."""


class Session(asyncio.BufferedProtocol):
    """One connection, accepted or made; receives into the arena."""

    def __init__(self, network: Network, source: Destination, connection: Connection) -> None:
        self.source = source
        self.transport: asyncio.Transport | None = None
        self.unfinished_since_s = time.monotonic()
        self.closed = asyncio.Event()
        self._network = network
        self._arena = network.arena
        self._connection = connection
        self._inbox = Inbox(network.arena)
        self._wanted = frame.HEADER_BYTES
        self._unsent: list[Buffer] = []

    @property
    def is_open(self) -> bool:
        """Whether the other side's handshake has come."""
        return self._connection.is_open

    @property
    def is_late(self) -> bool:
        """Whether a handshake or a frame takes longer than it may."""
        waited_ms = (time.monotonic() - self.unfinished_since_s) * 1000
        if not self.is_open:
            return waited_ms > HANDSHAKE_MS_MAX
        return self._inbox.size > 0 and waited_ms > FRAME_MS_MAX

    @property
    def saved_bytes(self) -> int:
        """Memory that its unfinished frame takes outside of the arena."""
        return self._inbox.saved_bytes

    @property
    def unsent_bytes(self) -> int:
        """Memory that what it has not read yet takes."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    # --- receiving --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=SESSION_BEHIND_BYTES)
        sockets.set_up(transport.get_extra_info("socket"))
        self._network.session_made(self)

    def pause(self, *, is_paused: bool) -> None:
        """Stops or resumes reading from the socket."""
        if self.transport is None or self.transport.is_closing():
            return
        if is_paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        room = self._inbox.room(self._wanted)
        if self._arena.saved_bytes:
            self._network.bound_unfinished()
        return room

    def buffer_updated(self, nbytes: int) -> None:
        data = self._inbox.received(nbytes)
        handled = 0
        try:
            for each in self._connection.frames(data):
                if each.type == HELLO and (refusal := self._network.admit(self, each)):
                    self._inbox.handled(len(data))
                    self.fail(*refusal)
                    return
                self._frame_arrived(each, handled)
                handled = each.end
            self._wanted = frame.HEADER_BYTES
            if handled < len(data):
                self._unfinished(data[handled:], is_new=handled > 0 or len(data) == nbytes)
        except (RemoteProtocolError, CorruptionError) as error:
            self._inbox.handled(len(data))
            self.fail(Code.BAD_REQUEST, str(error))
            return
        self._inbox.handled(handled)
        self._network.pause_or_resume()

    def _unfinished(self, data: memoryview, *, is_new: bool) -> None:
        """The frame at the front of the data has not come as a whole."""
        self._wanted = self._connection.wanted(data)
        if is_new:
            self.unfinished_since_s = time.monotonic()

    def _frame_arrived(self, arrived: Frame, start: int) -> None:
        batch = None
        if arrived.records:
            offset = self._inbox.offset_of(start + len(arrived.head))
            place = (self._arena.memory, offset, len(arrived.records))
            batch = record.check(new_tuple(ArenaPayload, place), where="the frame's records")
            count = len(batch.chains)
            if count > FRAME_RECORDS_COUNT_MAX:
                raise RemoteProtocolError(
                    f"a frame of {count} records; at most {FRAME_RECORDS_COUNT_MAX} are allowed"
                )
            self._arena.hold(offset)
        self._network.pass_on(mail.pack_arrived(self.source, arrived.head, batch))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._inbox.drop()
        self.closed.set()
        self._network.session_lost(self, exc)

    # --- sending ----------------------------------------------------------------------------------

    def send(self, *parts: Buffer) -> None:
        """Queues a frame. Its bytes must stay valid until `flush`, which sends all at once."""
        self._unsent += parts

    def flush(self) -> None:
        """Sends what is queued, unless the other side reads too slowly: a node's frames are then
        lost, which the protocol allows for; a client's session ends."""
        unsent, self._unsent = self._unsent, []
        transport = self.transport
        if not unsent or transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > SESSION_UNSENT_BYTES_MAX:
            if self.source.kind == mail.SESSION:
                self.give_up()
            return
        if sockets.send(transport, unsent):
            return
        if self.unsent_bytes > SESSION_BEHIND_BYTES and self.source.kind == mail.SESSION:
            self._network.session_behind(self)

    def give_up(self) -> None:
        """Ends the session of a client that does not read."""
        log.warning("%s ends: it does not read its answers", self._network.describe(self))
        if self.transport is not None:
            self.transport.abort()

    def resume_writing(self) -> None:
        self._network.session_caught_up(self)

    def fail(self, code: Code, text: str) -> None:
        """Tells the other side what is wrong, and ends the session."""
        self._inbox.drop()
        if self.transport is None or self.transport.is_closing():
            return
        log.info("%s: %s", self._network.describe(self), text)
        self.transport.write(frame.encode_head(Failure(code, text[:1000]), 0))
        self.transport.close()


class Link:
    """The connection to one other node, made again whenever it is lost."""

    def __init__(self, network: Network, peer: mail.Peer, hello: bytes) -> None:
        self.peer = peer
        self.hello = hello
        self.session: Session | None = None
        self._network = network
        self._task = run_task(self._run())

    def stop(self) -> None:
        self._task.cancel()
        if self.session is not None and self.session.transport is not None:
            self.session.transport.abort()

    def _make_session(self) -> Session:
        return Session(
            self._network, Destination(mail.PEER, self.peer.number), Connection(is_node=False)
        )

    async def _run(self) -> None:
        host, _, port = self.peer.address.rpartition(":")
        pause_s = RECONNECT_S_MIN
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(CONNECT_MS_MAX / 1000):
                    _, session = await loop.create_connection(
                        self._make_session,
                        host.strip("[]"),
                        int(port),
                        ssl=self._network.client_tls,
                    )
            except (OSError, UnicodeError) as error:  # a timeout, too; what is no host's name
                log.debug("%s at %s: %s", self.peer.node_id, self.peer.address, error)
            else:
                made_s = time.monotonic()
                # Who answers at an address where this node joins, it does not know yet.
                is_known = self.peer.node_id != self.peer.address
                if is_known and not self._network.is_named(session, self.peer.node_id):
                    session.fail(Code.BAD_REQUEST, f"this is not node {self.peer.node_id}")
                self.session = session
                session.send(self.hello)
                session.flush()
                await session.closed.wait()
                self.session = None
                if time.monotonic() - made_s > RECONNECT_S_MAX:  # else it may have been refused
                    pause_s = RECONNECT_S_MIN
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RECONNECT_S_MAX)


class Network:
    """All sessions of a node, and its ends of the rings.

    Args:
        selector: of the event loop in which it runs.

    Raises:
        ConfigError: the files of TLS are not what they should be.
    """

    def __init__(self, region: Region, selector: TurnSelector, tls: Tls | None = None) -> None:
        self.arena = Arena(region.arena)
        self.client_tls = tls.client_context() if tls is not None else None
        self._server_tls = tls.server_context() if tls is not None else None
        self._region = region
        self._selector = selector
        self._sessions: dict[int, Session] = {}
        # Each of them is in one of these, the oldest first.
        self._greeting: dict[Session, None] = {}
        self._clients: dict[Session, None] = {}
        self._nodes: dict[Session, None] = {}
        self._links: dict[int, Link] = {}
        self._next_session = 1
        self._backlog: deque[list[Buffer]] = deque()
        self._behind: set[Session] = set()
        self._is_paused = False
        self._unpublished_count = 0
        self._error: BaseException | None = None

    async def run(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Serves until `stop` is set.

        Raises:
            Exception: whatever a callback or a task has raised. asyncio would only log that, and
                what is left of the process would go on.
        """
        loop = asyncio.get_running_loop()

        def on_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if error is None or isinstance(error, OSError):  # such as too many open files
                loop.default_exception_handler(context)
                return
            self._error = self._error or error
            stop.set()

        loop.set_exception_handler(on_exception)
        loop.add_reader(self._region.network_bell.fd, self._look)
        self._selector.wait_for_edges(self._region.network_bell.fd)
        self._selector.at_end = self.publish
        server = await loop.create_server(
            self._accept,
            sock=listener,
            backlog=BACKLOG,
            ssl=self._server_tls,
            ssl_handshake_timeout=HANDSHAKE_MS_MAX / 1000 if self._server_tls else None,
        )
        self._look()
        sweeper = run_task(self._sweep())
        await stop.wait()
        server.close()
        sweeper.cancel()
        for link in self._links.values():
            link.stop()
        for session in list(self._sessions.values()):
            if session.transport is not None:
                session.transport.close()
        loop.remove_reader(self._region.network_bell.fd)
        if self._error is not None:
            raise self._error

    def describe(self, session: Session) -> str:
        """Whom the session is with, for the log."""
        if session.source.kind == mail.PEER:
            link = self._links.get(session.source.number)
            return f"node {link.peer.node_id}" if link is not None else "a node of the past"
        peer = session.transport.get_extra_info("peername") if session.transport else None
        return f"session {session.source.number} from {peer}"

    # --- sessions ---------------------------------------------------------------------------------

    def _accept(self) -> Session:
        number = self._next_session
        self._next_session += 1
        return Session(self, Destination(mail.SESSION, number), Connection(is_node=True))

    def session_made(self, session: Session) -> None:
        if self._is_paused:
            session.pause(is_paused=True)
        if session.source.kind != mail.SESSION:
            return
        _make_room(self._greeting, HANDSHAKES_COUNT_MAX, "too many connect at once")
        self._sessions[session.source.number] = session
        self._greeting[session] = None

    def admit(self, session: Session, arrived: Frame) -> tuple[Code, str] | None:
        """Why whoever said that Hello may not come in, by the certificate or for want of a place.

        Clients cannot take the places of nodes, nor can those who connect and say nothing.
        """
        self._greeting.pop(session, None)
        hello: Hello = arrived.message()[1]
        if hello.role == ROLE_NODE and not self.is_named(session, hello.node_id):
            return Code.BAD_REQUEST, f"the certificate shown is not that of node {hello.node_id}"
        if hello.role == ROLE_NODE:
            # A node connects again when a connection is lost, so the oldest is the likeliest to
            # be left over.
            _make_room(self._nodes, NODE_SESSIONS_COUNT_MAX, "too many nodes are connected")
            self._nodes[session] = None
            return None
        if len(self._clients) >= SESSIONS_COUNT_MAX:
            return Code.BUSY, f"this node has {SESSIONS_COUNT_MAX} clients already"
        self._clients[session] = None
        return None

    def is_named(self, session: Session, node_id: str) -> bool:
        """Whether the other side's certificate is that of the node; true without TLS."""
        if self.client_tls is None or session.transport is None:
            return self.client_tls is None
        return node_id in tls_names(session.transport)

    def session_behind(self, session: Session) -> None:
        """A client reads more slowly than it is answered; with too much unsent in all, those who
        have read least of theirs must go."""
        self._behind.add(session)
        while sum(each.unsent_bytes for each in self._behind) > UNSENT_BYTES_MAX:
            most = max(self._behind, key=lambda each: each.unsent_bytes)
            self._behind.discard(most)
            most.give_up()

    def session_caught_up(self, session: Session) -> None:
        """It has read nearly all."""
        self._behind.discard(session)

    def bound_unfinished(self) -> None:
        """Ends the sessions whose frames have been arriving for longest, if all that arrive take
        too much memory."""
        while self.arena.saved_bytes > UNFINISHED_BYTES_MAX:
            saved = [each for each in self._all_sessions() if each.saved_bytes]
            oldest = min(saved, key=lambda each: each.unfinished_since_s)
            oldest.fail(Code.BUSY, "too many frames are arriving at once")

    def session_lost(self, session: Session, error: Exception | None) -> None:
        self._behind.discard(session)
        for each in (self._greeting, self._clients, self._nodes):
            each.pop(session, None)
        number = session.source.number
        if self._sessions.get(number) is session:  # links to nodes have numbers of their own
            del self._sessions[number]
            if session.is_open:
                self.pass_on(mail.pack_closed(number))
        if error is not None:
            log.debug("%s ended: %s", session.source, error)
        self.pause_or_resume()

    async def _sweep(self) -> None:
        """Ends the sessions whose handshake or frame does not come to its end."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for session in self._all_sessions():
                if session.is_late:
                    session.fail(Code.BAD_REQUEST, "a handshake or a frame took too long to arrive")

    def _all_sessions(self) -> list[Session]:
        links = [link.session for link in self._links.values() if link.session is not None]
        return [*self._sessions.values(), *links]

    # --- to consensus -----------------------------------------------------------------------------

    def pass_on(self, parts: list[Buffer]) -> None:
        """Puts a message into the ring to consensus, or keeps it until there is room.

        What is kept is no more than what one socket gave at once, and the ends of sessions: while
        anything is kept, no socket is read.
        """
        if self._backlog or not self._region.requests.try_write(*parts):
            if not self._backlog:  # asks for the bell once there is room
                asyncio.get_running_loop().call_soon(self._look)
            self._backlog.append([bytes(part) for part in parts])
        self._unpublished_count += 1
        if self._unpublished_count >= UNPUBLISHED_COUNT_MAX:
            self.publish()

    def publish(self) -> None:
        """Makes visible what was passed on. At the end of a turn, so that consensus is woken once
        for all that came in it."""
        self._unpublished_count = 0
        if self._region.requests.publish():
            self._region.consensus_bell.ring()

    def _drain_backlog(self) -> None:
        requests = self._region.requests
        while self._backlog and requests.try_write(*self._backlog[0]):
            self._backlog.popleft()

    def pause_or_resume(self) -> None:
        """Reads from sockets or does not, as there is room for what comes."""
        must_pause = bool(self._backlog) or self.arena.is_short
        if must_pause == self._is_paused:
            return
        self._is_paused = must_pause
        for session in self._all_sessions():
            session.pause(is_paused=must_pause)

    # --- from consensus and storage ---------------------------------------------------------------

    def _look(self) -> None:
        """Handles what the two rings hold, and looks again unless both are empty then."""
        region = self._region
        self._take(region.outgoing, region.consensus_bell)
        self._take(region.durable, region.storage_bell)
        if self._backlog:
            self._drain_backlog()
            self.publish()  # only then it may wait for more room
        self.pause_or_resume()
        may_sleep = (
            (not self._backlog or region.requests.arm_producer(_size(self._backlog[0])))
            and region.outgoing.arm_consumer()
            and region.durable.arm_consumer()
        )
        if not may_sleep:  # sockets get their turn first
            asyncio.get_running_loop().call_soon(self._look)

    def _take(self, ring: Ring, producer_bell: Bell) -> None:
        views = ring.consume()
        if not views:
            return
        places: list[int] = []
        to_flush: set[Session] = set()
        for view in views:
            match view[0]:
                case mail.MAIL:
                    self._deliver(mail.unpack_mail(view), to_flush, places)
                case mail.MAIL_TO_MANY:
                    self._deliver_to_many(mail.unpack_mail_to_many(view), to_flush)
                case mail.RELEASE:
                    places += mail.unpack_release(view)
                case mail.CLOSE:
                    self._close(mail.unpack_close(view))
                case mail.PEERS:
                    self._connect(mail.unpack_peers(view))
        for session in to_flush:
            session.flush()
        for offset in places:
            self.arena.release(offset)
        if ring.release():
            producer_bell.ring()

    def _deliver(self, each: mail.Mail, to_flush: set[Session], places: list[int]) -> None:
        if each.place is not NOWHERE:
            places.append(each.place.offset)
        session = self._session_of(each.to)
        if session is None or not session.is_open:
            return
        session.send(each.head)
        if each.place is not NOWHERE:
            session.send(ArenaPayload(self.arena.memory, *each.place).view())
        elif each.records:
            session.send(each.records)
        to_flush.add(session)

    def _deliver_to_many(self, each: mail.MailToMany, to_flush: set[Session]) -> None:
        for number, request_id in each.recipients:
            session = self._sessions.get(number)
            if session is not None and session.is_open:
                session.send(frame.with_request_id(each.head, request_id), each.records)
                to_flush.add(session)

    def _session_of(self, to: Destination) -> Session | None:
        if to.kind == mail.SESSION:
            return self._sessions.get(to.number)
        link = self._links.get(to.number)
        return link.session if link is not None else None

    def _close(self, to: Destination) -> None:
        session = self._session_of(to)
        if session is not None and session.transport is not None:
            session.flush()
            session.transport.close()

    def _connect(self, peers: mail.Peers) -> None:
        """Connects with these nodes. The connections that are as they are to be are kept."""
        links = {}
        for peer in peers.peers:
            link = self._links.get(peer.number)
            if link is None or (link.peer, link.hello) != (peer, peers.hello):
                link = Link(self, peer, peers.hello)
            links[peer.number] = link
        for link in self._links.values():
            if link not in links.values():
                link.stop()
        self._links = links


def run_task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task whose error is the loop's to handle at once; else it waits for somebody to ask."""

    def on_done(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.result()

    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(on_done)
    return task


def _make_room(sessions: dict[Session, None], count_max: int, text: str) -> None:
    """For one more; the oldest must go if there are too many."""
    while len(sessions) >= count_max:
        oldest = next(iter(sessions))
        del sessions[oldest]
        oldest.fail(Code.BUSY, text)


def _size(parts: list[Buffer]) -> int:
    return sum(len(part) for part in parts)

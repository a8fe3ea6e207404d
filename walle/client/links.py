"""The ways of a client's writers to the nodes: one connection with each node, shared by them all.

What the writers have to send in one turn of the event loop goes out at its end, by one system call
for each node, however many streams it is of; their heartbeats, too. Each writer has a number, which
its frames carry as their request id, and by which the answers find it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Protocol

from walle.client.turns import Turns
from walle.errors import Unavailable, WalleError
from walle.limits import BATCH_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from walle.client.session import Session
    from walle.messages import Message
    from walle.native import Buffer

RECONNECT_S_MIN = 0.05
RECONNECT_S_MAX = 1.0


class User(Protocol):
    """A writer, as its links see it.

    number: the request id of all it sends, no other's.
    """

    number: int

    def flush(self) -> None:
        """The turn ends: gives its links what is to be sent."""

    def on_open(self, node: str) -> None:
        """The node can be reached, perhaps again; what was sent before may be lost."""

    def on_lost(self, node: str) -> None:
        """The node cannot be reached."""

    def on_pause(self, node: str, *, is_paused: bool) -> None:
        """The way to the node is full, or is free again: for little, such as heartbeats."""

    def on_free(self) -> None:
        """It is free for all that there is to send."""

    def on_reply(self, node: str, reply: Message) -> None:
        """The node has answered."""

    def on_moved(self, node: str, address: str) -> None:
        """The node listens at another address by now."""

    async def close(self) -> None:
        """Detaches itself from its links, for good."""


class Link:
    """The connection with the node at `address`, made again whenever it is lost.

    An address may have become another node's: it serves those users who mean the node that answers.
    """

    def __init__(self, links: Links, address: str) -> None:
        self.address = address
        self.session: Session | None = None
        self._links = links
        self._users: dict[tuple[User, str], None] = {}
        self._is_paused = False
        self._unsent: list[Buffer] = []
        self._unsent_bytes = 0
        self._task = asyncio.get_running_loop().create_task(self._keep_connected())

    @property
    def users(self) -> list[User]:
        return [user for user, _ in self._users]

    def attach(self, user: User, node: str) -> None:
        """The user sends here from now on. node: by which name it knows the node."""
        self._users[user, node] = None
        if self.session is not None and node == self.session.node_id:
            self._open_for(user, self.session)

    def detach(self, user: User, node: str) -> None:
        """It does not any more, and hears of no answer. A link that nobody uses is closed."""
        self._users.pop((user, node), None)
        if self.session is not None and node == self.session.node_id:
            self.session.channels.pop(user.number, None)
        if not self._users:
            self._links.drop(self)

    def send(self, *parts: Buffer) -> None:
        """Sends a frame, at the end of the turn; nothing happens if there is no connection. Its
        bytes must stay as they are until then."""
        if self.session is None:
            return
        self._unsent += parts
        self._unsent_bytes += sum(map(len, parts))
        if self._unsent_bytes >= BATCH_BYTES_MAX:
            self.flush()
        else:
            self._links.has_unsent(self)

    def flush(self) -> None:
        """Hands to the system what was sent."""
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if unsent and self.session is not None:
            self.session.send_frames(unsent)

    async def request(self, node: str, message: Message, timeout_s: float) -> Message:
        """Sends behind all else, and waits for the node's answer.

        Raises:
            WalleError: as of `Session.request`.
        """
        if self.session is None or node != self.session.node_id:
            raise Unavailable(f"there is no connection with {node} at {self.address}")
        self.flush()
        reply, _ = await self.session.request(message, timeout_s)
        return reply

    def stop(self) -> asyncio.Task[None]:
        """Ends the connection; what it returns has ended once that is done."""
        self.flush()
        self._task.cancel()
        return self._task

    async def _keep_connected(self) -> None:
        pause_s = RECONNECT_S_MIN
        while True:
            try:
                session = await self._links.open_session(self.address)
            except WalleError:
                pass
            else:
                pause_s = RECONNECT_S_MIN
                await self._serve(session)
            await asyncio.sleep(pause_s)
            if pause_s == RECONNECT_S_MAX:
                await self._find_moved()
            pause_s = min(2 * pause_s, RECONNECT_S_MAX)

    async def _find_moved(self) -> None:
        """Nobody has answered for a while: looks whether the nodes are elsewhere by now."""
        addresses = await self._links.find_addresses()
        for user, node in list(self._users):
            address = addresses.get(node, self.address)
            if address != self.address:
                user.on_moved(node, address)

    async def _serve(self, session: Session) -> None:
        """Until the connection is lost."""
        self.session, self._is_paused = session, False
        session.on_pause = self._on_pause
        for user in self._served_by(session):
            self._open_for(user, session)
        try:
            await session.closed.wait()
        finally:
            self.flush()
            self.session = None
            for user in self._served_by(session):
                user.on_lost(session.node_id)
            await session.close()

    def _served_by(self, session: Session) -> list[User]:
        return [user for user, node in self._users if node == session.node_id]

    def _open_for(self, user: User, session: Session) -> None:
        session.channels[user.number] = partial(user.on_reply, session.node_id)
        user.on_open(session.node_id)
        if self._is_paused:
            user.on_pause(session.node_id, is_paused=True)

    def _on_pause(self, is_paused: bool) -> None:
        self._is_paused = is_paused
        if self.session is None:
            return
        node = self.session.node_id
        users = self._served_by(self.session)
        for user in users:
            user.on_pause(node, is_paused=self._is_paused)
        for user in users:
            # What one of them sends may fill the way again before the next one's turn: those who
            # had theirs come last the next time.
            if self._is_paused:
                break
            self._users[user, node] = self._users.pop((user, node))
            user.on_free()


class Links:
    """The links of one client, and when they send.

    open_session: connects with the node at an address.
    find_addresses: tells where the nodes listen, by their ids; none, if nobody answers.
    turns: whose turn it is to send a batch.
    """

    def __init__(
        self,
        open_session: Callable[[str], Awaitable[Session]],
        find_addresses: Callable[[], Awaitable[dict[str, str]]],
    ) -> None:
        self.open_session = open_session
        self.find_addresses = find_addresses
        self.turns = Turns(self._set_end)
        self._links: dict[str, Link] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._due: dict[User, None] = {}
        self._unsent: dict[Link, None] = {}
        self._is_turn_ending = False

    def link(self, address: str) -> Link:
        """The link with the node at `address`, for the caller to attach itself to."""
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(self, address)
        return link

    def drop(self, link: Link) -> None:
        """Nobody uses the link any more."""
        if self._links.get(link.address) is link:
            del self._links[link.address]
            self._stop(link)

    async def close(self) -> None:
        """Closes the users, then all connections; what was sent is still handed to the system, if
        that is quick."""
        users = {user for link in self._links.values() for user in link.users}
        await asyncio.gather(*(user.close() for user in users))
        for link in self._links.values():
            self._stop(link)
        self._links.clear()
        await asyncio.gather(*self._stopping, return_exceptions=True)

    def _stop(self, link: Link) -> None:
        stopping = link.stop()
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)

    def wake(self, user: User) -> None:
        """The user is to be flushed when this turn of the event loop ends."""
        self._due[user] = None
        self._set_end()

    def has_unsent(self, link: Link) -> None:
        """The link is to be flushed when this turn ends."""
        self._unsent[link] = None
        self._set_end()

    def _set_end(self) -> None:
        if not self._is_turn_ending:
            self._is_turn_ending = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        due, self._due = self._due, {}
        try:
            for user in list(due):
                del due[user]
                user.flush()
            self.turns.serve()
        finally:
            self._is_turn_ending = False
            for user in due:  # one has failed: those behind it are not to suffer from that
                self.wake(user)
            if self.turns.is_free:
                self._set_end()
            unsent, self._unsent = self._unsent, {}
            for link in unsent:
                link.flush()

"""The sessions by which a client asks: one with each node, opened when it is needed first; and whom
it asks first."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from walle.client.session import Session, open_session
from walle.errors import LocalProtocolError, RemoteProtocolError, Unavailable
from walle.ids import NO_IDENTITY

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from walle.errors import WalleError


class Sessions:
    """All of one client.

    tls: what the client shows, and whom it trusts; None: no TLS.
    cluster_id: of the cluster that a node has told first; the others must belong to it.
    preferred: the address of the node that is asked first.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.cluster_id = NO_IDENTITY
        self._tls = tls
        self._open: dict[str, Session] = {}
        self._opening: dict[str, asyncio.Task[Session]] = {}
        self._is_closed = False
        self.preferred = ""

    @property
    def are_any(self) -> bool:
        """Whether one was opened."""
        return bool(self._open)

    async def get(self, address: str) -> Session:
        """The open session with the node at `address`; opened if there is none.

        Whoever wants it meanwhile waits for the same attempt, and hears of its failure: with
        attempts of their own they would wait for one another's failures, too.

        Raises:
            Unavailable: nobody answers there.
            RemoteProtocolError: whoever answers is no WALLE node.
            LocalProtocolError: the client is closed.
        """
        session = self._open.get(address)
        if session is not None and session.is_open:
            return session
        opening = self._opening.get(address)
        if opening is None:
            opening = asyncio.get_running_loop().create_task(self._begin(address))
            self._opening[address] = opening
            opening.add_done_callback(lambda opened: self._opened(address, opened))
        await asyncio.wait([opening])  # whoever is cancelled does not take it along
        if opening.cancelled():
            raise _is_closed()
        return opening.result()

    def paused_s(self, address: str) -> float:
        """For how long an answer of the node at `address`, a part of which has come, has not gone
        on; inf: there is none."""
        session = self._open.get(address)
        return session.paused_s if session is not None and session.is_open else inf

    def in_turn(self, addresses: Sequence[str]) -> list[str]:
        """The addresses in the order in which they are to be asked."""
        return sorted(addresses, key=lambda address: address != self.preferred)

    def prefer(self, address: str) -> None:
        """The node at `address` has answered: it is asked first from now on."""
        self.preferred = address

    def pass_over(self, address: str, addresses: Sequence[str]) -> None:
        """It has not: if it was to be asked first, the one behind it is that from now on."""
        if address == self.preferred:
            self.preferred = addresses[(addresses.index(address) + 1) % len(addresses)]

    async def _begin(self, address: str) -> Session:
        session = self._open[address] = await self.open(address)
        if session.welcome is not None and session.welcome.cluster_id != NO_IDENTITY:
            self.cluster_id = session.welcome.cluster_id
        return session

    def _opened(self, address: str, opened: asyncio.Task[Session]) -> None:
        del self._opening[address]
        if not opened.cancelled():
            opened.exception()  # it may be that nobody waits for it any more

    async def open(self, address: str) -> Session:
        """A session of the caller's own. Raises as `get` does."""
        if self._is_closed:
            raise _is_closed()
        return await open_session(address, self.cluster_id, self._tls)

    async def close(self) -> None:
        """Ends all of them; none is opened any more."""
        self._is_closed = True
        for opening in self._opening.values():
            opening.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        sessions = list(self._open.values())
        self._open.clear()
        await asyncio.gather(*(session.close() for session in sessions))


def unreachable(errors: Mapping[str, WalleError]) -> Unavailable | RemoteProtocolError:
    """One error of those with which no session could be opened; whose are alike is named together.

    errors: by address.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for address, error in errors.items():
        before, found, after = str(error).partition(address)
        text = (before, after) if found else ("", f": {error}")
        alike.setdefault(text, []).append(address)
    told = "; ".join(
        f"{before}{', '.join(addresses)}{after}" for (before, after), addresses in alike.items()
    )
    is_no_node = all(isinstance(error, RemoteProtocolError) for error in errors.values())
    return RemoteProtocolError(told) if is_no_node else Unavailable(told)


def _is_closed() -> LocalProtocolError:
    return LocalProtocolError("the client is closed")

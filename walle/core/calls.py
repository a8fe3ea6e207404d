"""Questions to other nodes, repeated until they are answered.

The network loses, delays and repeats messages; every request is idempotent, so a question is
simply asked again. An answer finds its question by the request id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from walle.core import quorum
from walle.errors import Code
from walle.messages import ANSWERS, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from walle.core.context import Context
    from walle.core.topology import StreamTopology
    from walle.messages import Message
    from walle.record import Batch

REPEAT_MS_MIN = 100
REPEAT_MS_MAX = 1_000


class Call:
    """One question to some nodes.

    waiting: the nodes that have not answered. `busy` is not an answer: the node is asked again.
    why_busy: what the last one said that was busy; empty: none has said why.
    """

    def __init__(
        self,
        calls: Calls,
        request_id: int,
        message: Message,
        nodes: Iterable[str],
        on_reply: Callable[[str, Message, Batch | None], None],
        on_end: Callable[[], None] | None,
    ) -> None:
        self._calls = calls
        self.request_id = request_id
        self.message = message
        self.waiting = dict.fromkeys(nodes)  # a set with a fixed order
        self.on_reply = on_reply
        self.on_end = on_end
        self.repeat_ms: float = REPEAT_MS_MIN
        self.why_busy = ""

    def finish(self) -> None:
        """No more answers are wanted; `on_end` is not called."""
        self._calls.forget(self.request_id)


class Calls:
    """The questions of one node that are under way, and the listeners for lasting exchanges."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._calls: dict[int, Call] = {}
        self._listeners: dict[int, Callable[[str, Message], None]] = {}
        # Not from 1: an answer to a question from before a restart must not answer another one.
        self._next_id = context.random.getrandbits(62)

    def ask(
        self,
        nodes: Iterable[str],
        message: Message,
        on_reply: Callable[[str, Message, Batch | None], None],
        *,
        until_ns: int,
        on_end: Callable[[], None] | None = None,
    ) -> Call:
        """Asks each node until it has answered, or `until_ns`.

        on_reply(node, answer, records): once for each node that answers.
        on_end(): called when the time is over, or all have answered, and nobody called `finish`.
        """
        call = Call(self, self._new_id(), message, nodes, on_reply, on_end)
        self._calls[call.request_id] = call
        self._context.timers.set(("call ends", call.request_id), until_ns, lambda: self._end(call))
        self._send(call)
        return call

    def ask_majority(
        self,
        topology: StreamTopology,
        message: Message,
        on_majority: Callable[[dict[str, Any]], None],
        *,
        until_ns: int,
        on_end: Callable[[], None],
        counts: Callable[[Any], bool] = lambda _reply: True,
    ) -> Call:
        """Asks every member until a majority has answered with code OK.

        counts(answer): whether such an answer counts.
        on_majority(answers): once, with the answers by node.
        on_end(): instead, when the time is over or too many refused.
        """
        answers: dict[str, Any] = {}

        def on_reply(node: str, reply: Message, _batch: Batch | None) -> None:
            if not isinstance(reply, Failure) and reply.code == Code.OK and counts(reply):
                answers[node] = reply
                if quorum.is_majority(topology, answers):
                    call.finish()
                    on_majority(answers)

        call = self.ask(topology.everyone, message, on_reply, until_ns=until_ns, on_end=on_end)
        return call

    def listen(self, on_reply: Callable[[str, Message], None]) -> int:
        """A request id whose answers all go to `on_reply`, until it is forgotten."""
        request_id = self._new_id()
        self._listeners[request_id] = on_reply
        return request_id

    def forget(self, request_id: int) -> None:
        """Drops the question or the listener with that id."""
        self._listeners.pop(request_id, None)
        if self._calls.pop(request_id, None) is not None:
            self._context.timers.cancel(("call ends", request_id))
            self._context.timers.cancel(("call repeats", request_id))

    def receive(self, node: str, request_id: int, reply: Message, batch: Batch | None) -> None:
        """An answer has come from `node`; one that nobody waits for is dropped."""
        listener = self._listeners.get(request_id)
        if listener is not None:
            listener(node, reply)
            return
        call = self._calls.get(request_id)
        if call is None or node not in call.waiting:
            return
        if _is_busy(reply):
            call.why_busy = reply.text if isinstance(reply, Failure) else call.why_busy
            return
        if not isinstance(reply, ANSWERS[type(call.message)] | Failure):
            return  # no answer to that
        del call.waiting[node]
        call.on_reply(node, reply, batch)
        if not call.waiting and request_id in self._calls:
            self._end(call)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _send(self, call: Call) -> None:
        for node in call.waiting:
            self._context.send(node, call.message, call.request_id)
        self._context.timers.set(
            ("call repeats", call.request_id),
            self._context.after_ms(call.repeat_ms),
            lambda: self._send(call),
        )
        call.repeat_ms = min(call.repeat_ms * 1.5, REPEAT_MS_MAX)

    def _end(self, call: Call) -> None:
        self.forget(call.request_id)
        if call.on_end is not None:
            call.on_end()


def _is_busy(reply: Message) -> bool:
    code = reply.code if isinstance(reply, Failure) else getattr(reply, "code", Code.OK)
    return bool(code == Code.BUSY)

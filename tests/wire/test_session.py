"""The session that docs/wire.md shows, played against a real node: it answers as shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.clusters import DevNodes, wait_until
from tests.golden.test_golden_frames import EXAMPLES, Example
from tests.wire.peer import Answer, Peer, make_batch
from walle.errors import Code
from walle.ids import Position, WriterId
from walle.messages import ClaimReply, Failure, NodeAddress
from walle.record import Bytes, check, decode_all

if TYPE_CHECKING:
    from pathlib import Path

    from walle.messages import Message

pytestmark = pytest.mark.slow


def shape(value: Any, writer: WriterId | None) -> Any:
    """What of a message does not depend on chance, on the clock, or on ports.

    writer: the one that this session claimed; it may be of another session in `value`.
    """
    match value:
        case WriterId():
            return "the writer" if value == writer else value
        case Position():
            return value.entry_id
        case NodeAddress():
            return value.node_id
        case bytes():
            return len(value)
        case tuple() if hasattr(value, "_fields"):
            fields = dict(zip(value._fields, value, strict=True))
            fields.pop("remaining_lease_ms", None)
            if isinstance(value, Failure):
                fields["text"] = value.text.split(":")[0]
            return type(value), {name: shape(each, writer) for name, each in fields.items()}
        case tuple():
            return [shape(each, writer) for each in value]
    return value


def test_a_node_answers_as_the_document_shows(tmp_path: Path) -> None:
    """Requests and answers take turns. The writer's id is the node's to choose, so what depends on
    it (the records, the chains) is made anew; all else is as the document has it."""
    frames = sorted((each for each in EXAMPLES if each.session), key=lambda each: each.session)
    shown: WriterId | None = None
    writer: WriterId | None = None
    last = Position(0, 0)

    def adapted(value: Any) -> Any:
        if value == shown:
            return writer
        return last if isinstance(value, Position) and value.entry_id else value

    with DevNodes(tmp_path, 1) as nodes, Peer(nodes.addresses[0], is_greeting=False) as peer:
        for request, expected in zip(frames[::2], frames[1::2], strict=True):
            records = b""
            if request.records:
                assert writer is not None
                contents = [
                    entry.data
                    for entry in decode_all(check(Bytes(request.records), where="the page"))
                ]
                batch = make_batch(writer, last, *contents)
                records, last = bytes(batch.payload.view()), batch.last
            message: Message = type(request.message)(*map(adapted, request.message))

            def answer_of(
                message: Message = message, records: bytes = records, request: Example = request
            ) -> Answer | None:
                """None while the node is busy: it has only just started."""
                peer.send(message, records, request.request_id)
                answer = peer.receive()
                is_busy = answer is not None and getattr(answer.message, "code", 0) == Code.BUSY
                return None if is_busy else answer

            answer = wait_until(answer_of, "an answer")
            assert answer.request_id == expected.request_id
            if isinstance(answer.message, ClaimReply):
                shown, writer = expected.message.writer, answer.message.writer
            assert shape(answer.message, writer) == shape(expected.message, shown)
            assert len(answer.records) == len(expected.records)
